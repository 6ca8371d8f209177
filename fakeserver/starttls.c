/* NBD_OPT_STARTTLS: which mode the server is in (proto.md:528-634), and the way from clear text to TLS. */
#include "fakeserver/core.h"

#include "harness/nbd.h"

#include <stdio.h>

bool
tls_is_required(const struct conn *c, const struct fake_export *e)
{
	const struct fake_tls *tls = &c->server->config->tls;

	return tls->credentials != NULL && !c->over_tls && (tls->forced || (e != NULL && e->tls_only));
}

/* Its entry, or NULL. */
static struct tls_seen_connection *
seen_of(const struct conn *c)
{
	struct tls_seen *seen = c->server->config->tls.seen;

	for (size_t i = 0; seen != NULL && i < seen->n && i < TLS_SEEN_MOST; i++)
		if (seen->of[i].connection == c->number)
			return &seen->of[i];
	return NULL;
}

static void
see_begin(const struct conn *c)
{
	struct tls_seen *seen = c->server->config->tls.seen;

	if (seen != NULL && seen->n++ < TLS_SEEN_MOST)
		seen->of[seen->n - 1] = (struct tls_seen_connection){ .connection = c->number };
}

static void
see_handshake(const struct conn *c, bool up)
{
	struct tls_seen_connection *s = seen_of(c);
	const struct tls *tls = c->private->tls;

	if (s == NULL)
		return;
	s->up = up;
	s->failed = !up;
	s->version = up ? tls_version(tls) : 0;
	s->clear_text = !up && tls_saw_clear_text(tls);
	snprintf(s->why, sizeof(s->why), "%s", tls_why(tls));
}

void
conn_see_tls_end(const struct conn *c, bool by_client, bool garbled)
{
	struct tls_seen_connection *s = seen_of(c);

	if (s == NULL)
		return;
	s->clear_text |= garbled;
	s->left |= by_client;
	s->shut |= c->private->tls != NULL && tls_was_shut(c->private->tls);
}

/* Nothing that was agreed in clear holds from here on (proto.md:1259-1264). */
static void
forget_negotiation(struct conn *c)
{
	struct state_change change = { .moment = STATE_STARTTLS, .option = c->option };

	if (lies(c, ON_STATE))
		lie_state(c, &change);
	if (!change.keep_structured)
		c->structured = false;
	if (!change.keep_extended)
		c->extended = false;
	c->structured |= change.sets_structured;
	if (!change.keep_contexts) {
		c->context_export = NULL;
		c->n_contexts = 0;
	}
	c->private->has_info = c->private->go_differs = false;
	c->private->at_starttls = change;
}

void
handle_starttls(struct conn *c, const struct option *o)
{
	const struct fake_tls *tls = &c->server->config->tls;

	if (tls->credentials == NULL)
		option_error(c, knob(c, KNOB_starttls_denied) ? NBD_REP_ERR_POLICY : NBD_REP_ERR_UNSUP,
		             "this server has no TLS");
	else if (o->length > 0)
		option_refuse_invalid(c, "NBD_OPT_STARTTLS takes no data");
	else if (c->over_tls)
		option_error(c, NBD_REP_ERR_INVALID, "this is TLS already");
	else {
		option_ack(c);
		forget_negotiation(c);
		c->phase = PHASE_TLS;
	}
}

/* Once the ACK is sent. What has come behind the option belongs to TLS. */
void
conn_begin_tls(struct conn *c)
{
	const struct fake_tls *tls = &c->server->config->tls;
	struct conn_private *p = c->private;
	const struct state_change *change = &p->at_starttls;
	struct tls_setup setup = { .credentials = tls->credentials,
		                   .priority = change->priority != NULL ? change->priority : tls->priority,
		                   .verify = tls->verify,
		                   .trace = c->server->config->trace,
		                   .connection = (uint16_t)c->number,
		                   .careless = change->careless };
	/* What came in clear behind the option is TLS's, but for a lie that acts on it, or drops it. */
	size_t behind = change->keep_input || change->sets_structured ? 0 : c->input.len;

	p->tls = tls_new(c->in, &setup, (struct bytes){ c->input.at, behind });
	p->tls_counted = behind;
	see_begin(c);
	if (!change->keep_input)
		buf_clear(&c->input);
}

/* False where the connection has to end. */
bool
conn_advance_tls(struct conn *c)
{
	struct state_change change = { .moment = STATE_TLS_FAILED };
	struct conn_private *p = c->private;
	enum tls_progress progress = tls_handshake(p->tls);
	char text[TLS_ERROR + 40];

	p->blocked = progress == TLS_WANTS_WRITE;
	if (progress == TLS_WANTS_READ || progress == TLS_WANTS_WRITE)
		return true;
	snprintf(text, sizeof(text), progress == TLS_UP ? "TLS is up%s" : "the TLS handshake has failed: %s",
	         tls_why(p->tls));
	conn_note(c, text);
	see_handshake(c, progress == TLS_UP);
	c->over_tls = progress == TLS_UP;
	c->phase = PHASE_HAGGLING;
	if (progress == TLS_UP)
		return true;
	if (lies(c, ON_STATE))
		lie_state(c, &change);
	if (!change.go_on)
		return false;
	tls_free(p->tls);
	p->tls = NULL;
	return true;
}
