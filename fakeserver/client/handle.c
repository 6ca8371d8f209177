/* Handles, what they are asked for, and what a session believes of its server. */
#include "fakeserver/client/lying.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fc_client fc_client = { .epoll = -1 };

/* ---- facts ---- */

static void
copy_buf(struct buf *to, const struct buf *from)
{
	buf_free(to);
	if (from->at != NULL)
		buf_put(to, from->at, from->len);
}

void
fc_export_reset(struct fc_export *e)
{
	buf_free(&e->name);
	buf_free(&e->description);
	*e = (struct fc_export){ 0 };
}

void
fc_export_copy(struct fc_export *to, const struct fc_export *from)
{
	fc_export_reset(to);
	*to = *from;
	to->name = to->description = (struct buf){ 0 };
	copy_buf(&to->name, &from->name);
	copy_buf(&to->description, &from->description);
}

void
fc_contexts_reset(struct fc_facts *f)
{
	while (f->n_contexts > 0)
		buf_free(&f->contexts[--f->n_contexts].name);
}

void
fc_contexts_copy(struct fc_facts *to, const struct fc_facts *from)
{
	fc_contexts_reset(to);
	for (; to->n_contexts < from->n_contexts; to->n_contexts++) {
		struct fc_context *c = &to->contexts[to->n_contexts];

		*c = (struct fc_context){ .id = from->contexts[to->n_contexts].id };
		copy_buf(&c->name, &from->contexts[to->n_contexts].name);
	}
}

void
fc_facts_reset(struct fc_facts *f)
{
	fc_contexts_reset(f);
	fc_export_reset(&f->export);
	buf_free(&f->asked);
	*f = (struct fc_facts){ 0 };
}

void
fc_facts_copy(struct fc_facts *to, const struct fc_facts *from)
{
	fc_facts_reset(to);
	to->oldstyle = from->oldstyle;
	to->server_fixed = from->server_fixed;
	to->server_no_zeroes = from->server_no_zeroes;
	to->fixed = from->fixed;
	to->no_zeroes = from->no_zeroes;
	to->structured = from->structured;
	to->tls = from->tls;
	to->extended = from->extended;
	copy_buf(&to->asked, &from->asked);
	memcpy(to->error, from->error, sizeof(to->error));
	fc_export_copy(&to->export, &from->export);
	fc_contexts_copy(to, from);
}

/* Without HAS_FLAGS they say nothing (proto.md:1094), without structured replies there is no DF. */
uint16_t
fc_flags(const struct fc_facts *f)
{
	uint16_t flags = f->export.flags;

	if ((flags & NBD_FLAG_HAS_FLAGS) == 0)
		return 0;
	if (!f->structured)
		flags &= (uint16_t)~NBD_FLAG_SEND_DF;
	if ((flags & NBD_FLAG_SEND_WRITE_ZEROES) == 0)
		flags &= (uint16_t)~NBD_FLAG_SEND_FAST_ZERO;
	return flags;
}

/* ---- operations ---- */

struct fc_op *
fc_op_new(struct fc_handle *h, enum fc_ask ask, const char *tag, void (*done)(struct fc_op *))
{
	struct fc_op *op = calloc(1, sizeof(*op));

	if (op == NULL)
		abort();
	op->ask = ask;
	op->tag = strdup(tag);
	op->done = done;
	op->handle = h;
	return op;
}

static void
op_free(struct fc_op *op)
{
	free(op->tag);
	free(op->data);
	free(op->covered);
	buf_free(&op->export);
	buf_free(&op->queries);
	buf_free(&op->only);
	buf_free(&op->payload);
	buf_free(&op->said);
	free(op);
}

void
fc_fail(struct fc_op *op, const char *error)
{
	if (op->error[0] == '\0')
		snprintf(op->error, sizeof(op->error), "%s", error);
}

static bool
is_queued(const struct fc_session *s, const struct fc_op *op)
{
	const struct fc_op *o;

	TAILQ_FOREACH(o, &s->ops, entry)
	if (o == op)
		return true;
	return false;
}

void
fc_finish(struct fc_op *op)
{
	struct fc_session *s = op->handle->session;

	if (s != NULL && is_queued(s, op))
		TAILQ_REMOVE(&s->ops, op, entry);
	if (s != NULL) {
		if (op->ask == FC_COMMAND && op->error[0] != '\0')
			memcpy(s->facts.error, op->error, sizeof(op->error));
		fc_lie_answer(s, op);
	}
	if (!op->early || !op->sent)
		op->done(op);
	op_free(op);
}

bool
fc_is_connected(const struct fc_handle *h)
{
	return h->session != NULL && h->session->stage == FC_TRANSMISSION;
}

/* ---- handles ---- */

struct fc_handle *
fc_handle_find(unsigned long number)
{
	struct fc_handle *h;

	LIST_FOREACH(h, &fc_client.handles, entry)
	if (h->number == number && h->beside_of == NULL)
		return h;
	return NULL;
}

struct fc_handle *
fc_handle_new(unsigned long number)
{
	struct fc_handle *h = calloc(1, sizeof(*h));

	if (h == NULL)
		abort();
	h->number = number;
	TAILQ_INIT(&h->waiting);
	h->settings = (struct fc_settings){
		.strict = true,
		.structured = true,
		.block_size = true,
		.fixed_newstyle = true,
		.no_zeroes = true,
	};
	LIST_INSERT_HEAD(&fc_client.handles, h, entry);
	return h;
}

void
fc_handle_free(struct fc_handle *h)
{
	if (h->session != NULL)
		fc_over(h->session, "ECANCELED");
	fc_reap(h);
	while (h->n_beside > 0)
		fc_handle_free(h->beside[--h->n_beside]);
	LIST_REMOVE(h, entry);
	fc_facts_reset(&h->before);
	buf_free(&h->settings.queries);
	free(h->again);
	free(h);
}

/* ---- sessions ---- */

static struct fc_session *
session_new(struct fc_handle *h)
{
	struct fc_session *s = calloc(1, sizeof(*s));

	if (s == NULL)
		abort();
	s->handle = h;
	s->fd = -1;
	s->number = ++fc_client.n_sessions;
	TAILQ_INIT(&s->ops);
	s->settings = fc_first(h)->settings;
	s->settings.queries = (struct buf){ 0 };
	copy_buf(&s->settings.queries, &fc_first(h)->settings.queries);
	h->session = s;
	fc_lie_state(s, FC_STATE_NEW);
	return s;
}

static void
session_free(struct fc_session *s)
{
	if (s->addresses != NULL)
		freeaddrinfo(s->addresses);
	buf_free(&s->in);
	buf_free(&s->out);
	buf_free(&s->selected_for);
	buf_free(&s->settings.queries);
	fc_export_reset(&s->informed);
	fc_facts_reset(&s->facts);
	tls_free(s->tls);
	target_tls_free(s->credentials);
	free(s->export);
	free(s->uri);
	free(s);
}

void
fc_over(struct fc_session *s, const char *error)
{
	if (s->stage == FC_OVER)
		return;
	/* What was asked for is there once the last message is sent. */
	if (s->stage == FC_LEAVING)
		for (struct fc_op *op = TAILQ_FIRST(&s->ops); op != NULL; op = TAILQ_NEXT(op, entry))
			op->pretend |= op->ask == FC_DISCONNECT;
	s->stage = FC_OVER;
	snprintf(s->end, sizeof(s->end), "%s", error);
	fc_shut_tls(s);
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

void
fc_reap(struct fc_handle *h)
{
	struct fc_session *s = h->session;
	struct fc_op *op;

	if (s == NULL || s->stage != FC_OVER)
		return;
	fc_stop_joining(h);
	while ((op = TAILQ_FIRST(&s->ops)) != NULL) {
		if (fc_send_again(op))
			continue;
		if (!op->pretend)
			fc_fail(op, s->end);
		fc_finish(op);
	}
	fc_lie_state(s, FC_STATE_END);
	if (s->settings.reconnects && s->facts.export.known && strcmp(s->end, "ENOTCONN") == 0)
		h->again = strdup(s->uri);
	fc_facts_copy(&h->before, &s->facts);
	fc_facts_copy(&fc_client.elsewhere, &s->facts);
	h->had_session = true;
	h->session = NULL;
	session_free(s);
}

bool
fc_sound(struct fc_session *s, bool sound, const char *rule)
{
	struct fc_violation v = { .what = rule };

	if (sound)
		return true;
	fc_lie_violation(s, &v);
	if (!v.forgive)
		fc_over(s, "EPROTO");
	return v.forgive;
}

/* ---- asking ---- */

void
fc_start(struct fc_op *op, const char *uri)
{
	struct fc_handle *h = op->handle;
	struct fc_session *s = h->session;

	if (s != NULL && s->stage == FC_DISCONNECTING)
		fc_disconnect(s);
	if (s != NULL && s->stage == FC_LEAVING)
		fc_over(s, "ECANCELED");
	fc_reap(h);
	free(h->again);
	h->again = NULL;
	if (h->session != NULL || fc_is_beside(h)) {
		fc_fail(op, "EISCONN");
		fc_finish(op);
		return;
	}
	s = session_new(h);
	TAILQ_INSERT_TAIL(&s->ops, op, entry);
	fc_connect(s, uri);
	fc_reap(h);
}

static void
ask_disconnect(struct fc_session *s, struct fc_op *op)
{
	TAILQ_INSERT_TAIL(&s->ops, op, entry);
	if (s->stage == FC_TRANSMISSION)
		fc_lie_command(s, op);
	if (s->stage == FC_OPTIONS)
		fc_next_option(s);
	else if (s->stage < FC_OPTIONS)
		fc_over(s, "ECANCELED");
	else if (s->stage == FC_TRANSMISSION) {
		s->stage = FC_DISCONNECTING;
		fc_send_requests(s);
	}
}

static void
on_reconnected(struct fc_op *connect)
{
	struct fc_handle *h = connect->handle;
	struct fc_op *op;

	while ((op = TAILQ_FIRST(&h->waiting)) != NULL) {
		TAILQ_REMOVE(&h->waiting, op, entry);
		if (connect->error[0] == '\0') {
			fc_command(op);
		} else {
			fc_fail(op, "ENOTCONN");
			fc_finish(op);
		}
	}
}

static void
ask_anew(struct fc_handle *h, struct fc_op *op)
{
	char *uri = h->again;

	TAILQ_INSERT_TAIL(&h->waiting, op, entry);
	h->again = NULL;
	if (uri != NULL)
		fc_start(fc_op_new(h, FC_CONNECT, "", on_reconnected), uri);
	free(uri);
}

void
fc_ask(struct fc_op *op)
{
	struct fc_handle *h = op->ask == FC_COMMAND ? fc_pick(op->handle) : op->handle;
	struct fc_session *s = h->session;
	bool haggles = s != NULL && s->stage == FC_OPTIONS;

	op->handle = h;
	if (op->ask == FC_DISCONNECT && h->parting == NULL && fc_is_beside(h)) {
		fc_part(op);
		return;
	}
	if (op->ask == FC_COMMAND && (h->again != NULL || !TAILQ_EMPTY(&h->waiting))) {
		ask_anew(h, op);
	} else if (op->ask == FC_DISCONNECT && s != NULL) {
		ask_disconnect(s, op);
	} else if (op->ask == FC_COMMAND && fc_is_connected(h)) {
		fc_command(op);
	} else if (op->ask != FC_DISCONNECT && op->ask != FC_COMMAND && haggles) {
		if (op->ask == FC_STARTTLS && s->secured)
			fc_fail(op, "EINVAL");
		TAILQ_INSERT_TAIL(&s->ops, op, entry);
		fc_next_option(s);
	} else {
		fc_fail(op, op->ask != FC_COMMAND && fc_is_connected(h) ? "EINVAL"
		            : s != NULL && s->facts.error[0] != '\0'    ? s->facts.error
		                                                        : "ENOTCONN");
		fc_finish(op);
	}
	if (h->session != NULL)
		fc_flush(h->session);
	fc_reap(h);
}
