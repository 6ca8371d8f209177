#include "cases/explore/walk.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
	MOST_DATA = 1 << 20,    /* of a reply; more is taken as a length that is no length */
	MOST_REPLIES = 1 << 14, /* to an option, or chunks of what a trial asks for; more are taken as no end of them */
};

void
walker_start(struct walker *w, struct test *t, const struct facts *f)
{
	*w = (struct walker){ .t = t, .facts = f, .link = { { .fd = -1 }, { .fd = -1, .slot = 1 } } };
	for (unsigned i = 0; i < symbol_count(); i++) {
		struct buf data = { 0 };

		put_symbol(&data, &symbols[i], f);
		wire_put_option(&w->options[i], &(struct option){ NBD_OPTION_MAGIC,
		                                                  symbols[i].option,
		                                                  (uint32_t)data.len,
		                                                  { data.at, data.len } });
		buf_free(&data);
	}
}

void
walker_free(struct walker *w)
{
	for (unsigned i = 0; i < symbol_count(); i++)
		buf_free(&w->options[i]);
	for (unsigned i = 0; i < COUNT(w->link); i++)
		link_free(&w->link[i]);
	buf_free(&w->out);
}

static struct bytes
bytes_in(const struct buf *b)
{
	return (struct bytes){ b->at, b->len };
}

static void
add_breach(struct walker *w, const struct breach *b)
{
	if (w->n_breaches == MOST_BREACHES)
		return;
	w->breach[w->n_breaches] = *b;
	w->breach[w->n_breaches].at = w->at;
	w->breach[w->n_breaches++].asked = w->asked;
}

/* It has ended the session on this link. */
static void
add_last_breach(struct walker *w, const struct link *l, struct model *m)
{
	m->breach.silent = l->end == LINK_SILENT;
	add_breach(w, &m->breach);
}

/* A step is done: what it has broken of SHOULDs, and where that was. There is a place left for what ends the walk. */
static void
take_warnings(struct walker *w, struct model *m)
{
	for (unsigned i = 0; i < m->n_warnings && w->n_breaches < MOST_WARNINGS; i++)
		add_breach(w, &m->warning[i]);
	m->n_warnings = 0;
}

/* ---- haggling ---- */

static enum model_step
silent_or_ended(struct walker *w, struct link *l, struct model *m)
{
	w->stuck |= l->end == LINK_SILENT;
	return l->end == LINK_SILENT ? model_silent(m, link_end_text(l->end)) : model_ended(m, link_end_text(l->end));
}

static enum model_step
recv_reply_part(struct walker *w, struct link *l, struct model *m)
{
	struct option_reply r;
	const uint8_t *at = link_need(l, OPTION_REPLY_HEADER_SIZE);

	if (at == NULL)
		return silent_or_ended(w, l, m);
	wire_get_option_reply(wire(at, OPTION_REPLY_HEADER_SIZE), &r);
	if (r.magic != NBD_OPTION_REPLY_MAGIC) {
		link_take(l, MSG_RAW, 0, OPTION_REPLY_HEADER_SIZE);
		return model_reply(m, &r);
	}
	if (r.length > MOST_DATA || link_need(l, OPTION_REPLY_HEADER_SIZE + r.length) == NULL) {
		w->stuck |= l->end == LINK_SILENT;
		return model_breach(m, R(option_reply_length), "as many bytes of data as the reply's length says",
		                    "%s, of %u", l->end == LINK_OPEN ? "too many" : link_end_text(l->end), r.length);
	}
	wire_get_option_reply(wire_over(link_take(l, MSG_OPTION_REPLY, 0, OPTION_REPLY_HEADER_SIZE + r.length)), &r);
	return model_reply(m, &r);
}

static enum model_step
recv_export_name(struct walker *w, struct link *l, struct model *m)
{
	bool padded = (m->client_flags & NBD_FLAG_C_NO_ZEROES) == 0;
	size_t size = EXPORT_NAME_REPLY_SIZE + (padded ? NBD_EXPORT_NAME_PADDING : 0);
	struct export_name_reply r;

	if (link_need(l, EXPORT_NAME_REPLY_SIZE) == NULL)
		return silent_or_ended(w, l, m);
	if (link_need(l, size) == NULL) {
		w->stuck |= l->end == LINK_SILENT;
		return model_breach(m, R(export_name_zeroes_padding), "124 zeroes", "%s", link_end_text(l->end));
	}
	wire_get_export_name_reply(wire_over(link_take(l, MSG_EXPORT_NAME_REPLY, 0, size)), &r);
	return model_export_name(m, &r);
}

/* The client flags go with the first option, which need not wait for anything. */
static void
send_out(struct walker *w, struct link *l, const struct symbol *s, struct bytes option)
{
	if (w->traced || s == NULL) {
		if (w->out.len > 0)
			link_send(l, MSG_CLIENT_FLAGS, 0, bytes_in(&w->out));
		buf_clear(&w->out);
	}
	if (option.len == 0)
		return;
	put_bytes(&w->out, option);
	link_send(l, MSG_OPTION, 0, bytes_in(&w->out));
	buf_clear(&w->out);
}

static enum model_step
say(struct walker *w, struct link *l, struct model *m, const struct symbol *s)
{
	enum model_step step = MODEL_MORE;

	model_sent(m, s);
	send_out(w, l, s, bytes_in(&w->options[s - symbols]));
	while (step == MODEL_MORE && m->replies <= MOST_REPLIES + w->facts->n_exports)
		step = s->option == NBD_OPT_EXPORT_NAME ? recv_export_name(w, l, m) : recv_reply_part(w, l, m);
	if (step != MODEL_MORE)
		return step;
	w->stuck = true;
	return model_endless(m);
}

static enum model_step
say_option(struct walker *w, struct link *l, struct model *m, const struct symbol *s)
{
	enum model_step step = say(w, l, m, s);
	char error[512];

	if (step != MODEL_TLS)
		return step;
	if (link_start_tls(l, error)) {
		model_over_tls(m);
		return MODEL_NEXT;
	}
	w->stuck |= l->end == LINK_SILENT;
	return model_breach(m, R(tls_handshake_after_ack), "a TLS handshake behind NBD_REP_ACK", "%s", error);
}

static void
leave_in_the_middle(struct walker *w, struct link *l, const struct symbol *s)
{
	struct buf b = { 0 };

	wire_put_option(&b, &(struct option){ NBD_OPTION_MAGIC, s->option, 100, { NULL, 0 } });
	buf_zero(&b, 10);
	send_out(w, l, s, bytes_in(&b));
	buf_free(&b);
}

/* ---- transmission ---- */

static void
send_trial(struct link *l, const struct trial *t)
{
	struct buf b = { 0 };

	for (unsigned i = 0; i < t->n; i++) {
		wire_put_request(&b, &t->ask[i].request);
		if (l->traced) {
			link_send(l, MSG_REQUEST, t->ask[i].request.cookie, bytes_in(&b));
			buf_clear(&b);
		}
	}
	if (b.len > 0)
		link_send(l, MSG_REQUEST, 0, bytes_in(&b));
	buf_free(&b);
}

static void
send_disc(struct link *l)
{
	struct buf b = { 0 };

	wire_put_request(&b, &(struct request){ .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_DISC });
	link_send(l, MSG_REQUEST, 0, bytes_in(&b));
	buf_free(&b);
}

static enum model_step
no_reply(struct walker *w, struct link *l, struct model *m, struct trial *t, bool lawful)
{
	w->stuck |= l->end == LINK_SILENT;
	return l->end == LINK_SILENT ? trial_silent(t, m, link_end_text(l->end))
	                             : trial_ended(t, m, lawful, link_end_text(l->end));
}

/* From here on all that breaks is about the request that this replies to. */
static struct ask *
find_ask(struct walker *w, struct model *m, struct trial *t, uint64_t cookie)
{
	struct ask *a = trial_find(t, m, cookie);

	w->asked = a != NULL ? a->what : w->asked;
	return a;
}

static enum model_step
recv_simple(struct walker *w, struct link *l, struct model *m, struct trial *t, bool lawful)
{
	const uint8_t *at = link_need(l, SIMPLE_REPLY_SIZE);
	struct simple_reply r;
	struct ask *a;
	size_t size;

	if (at == NULL)
		return no_reply(w, l, m, t, lawful);
	wire_get_simple_reply(wire(at, SIMPLE_REPLY_SIZE), &r);
	a = find_ask(w, m, t, r.cookie);
	if (a == NULL)
		return MODEL_BREACH;
	size = SIMPLE_REPLY_SIZE;
	if (a->request.type == NBD_CMD_READ && r.error == NBD_SUCCESS && !m->structured)
		size += a->request.length;
	if (link_need(l, size) == NULL)
		return no_reply(w, l, m, t, lawful);
	link_take(l, MSG_SIMPLE_REPLY, r.cookie, size);
	return trial_simple(t, m, a, &r);
}

static enum model_step
recv_chunk_part(struct walker *w, struct link *l, struct model *m, struct trial *t, bool lawful)
{
	const uint8_t *at = link_need(l, CHUNK_HEADER_SIZE);
	struct chunk c;
	struct ask *a;

	if (at == NULL)
		return no_reply(w, l, m, t, lawful);
	wire_get_chunk(wire(at, CHUNK_HEADER_SIZE), &c);
	a = find_ask(w, m, t, c.cookie);
	if (a == NULL)
		return MODEL_BREACH;
	if (c.length > MOST_DATA)
		return model_breach(m, R(structured_chunk_length), "the payload of a chunk", "%" PRIu64 " bytes",
		                    c.length);
	if (link_need(l, CHUNK_HEADER_SIZE + c.length) == NULL)
		return no_reply(w, l, m, t, lawful);
	wire_get_chunk(wire_over(link_take(l, MSG_CHUNK, c.cookie, CHUNK_HEADER_SIZE + c.length)), &c);
	return trial_chunk(t, m, a, &c);
}

static enum model_step
no_magic(struct link *l, struct model *m, const struct trial *t, uint32_t magic)
{
	link_take(l, MSG_RAW, 0, 4);
	if (t->n_answered == 0 && magic == 0)
		return model_breach(m, m->by_go ? R(go_no_padding) : R(export_name_no_zeroes), "a reply", "zeroes");
	if (t->n_answered == 0 && magic == NBD_OPTION_REPLY_MAGIC >> 32)
		return model_breach(m, m->by_go ? R(go_enters_transmission) : R(transmission_after_export_name),
		                    "a reply to a request", "the magic of an option reply");
	return model_breach(m, m->structured ? R(structured_reply_magic) : R(simple_reply_magic),
	                    "the magic of a reply", "0x%08x", magic);
}

static enum model_step
recv_answers(struct walker *w, struct link *l, struct model *m, struct trial *t, bool lawful)
{
	enum model_step step = MODEL_NEXT;
	unsigned came = 0;
	const uint8_t *at;
	struct wire peek;
	uint32_t magic;

	for (; t->n_answered < t->n && step == MODEL_NEXT; came++) {
		if (came > MOST_REPLIES) {
			w->stuck = true;
			return trial_endless(m);
		}
		w->asked = t->n_answered == 0 ? t->ask[0].what : w->asked;
		at = link_need(l, 4);
		if (at == NULL)
			return no_reply(w, l, m, t, lawful);
		peek = wire(at, 4);
		magic = wire_be32(&peek);
		step = magic == NBD_SIMPLE_REPLY_MAGIC       ? recv_simple(w, l, m, t, lawful)
		       : magic == NBD_STRUCTURED_REPLY_MAGIC ? recv_chunk_part(w, l, m, t, lawful)
		                                             : no_magic(l, m, t, magic);
		take_warnings(w, m);
	}
	return step;
}

static enum model_step
transmission(struct walker *w, struct link *l, struct model *m)
{
	struct trial t;
	enum model_step step;

	for (int lawful = 1; lawful >= 0; lawful--) {
		trial_plan(&t, m, lawful);
		send_trial(l, &t);
		step = recv_answers(w, l, m, &t, lawful);
		if (step != MODEL_NEXT)
			return step;
	}
	w->asked = ASKS;
	/* Only now: a server that is still busy with what we should not have sent would be free to leave without a word. */
	send_disc(l);
	if (link_ends(l))
		return MODEL_OVER;
	w->stuck |= l->end == LINK_SILENT;
	if (l->end == LINK_SILENT)
		return model_breach(m, R(disc_closes), "the end of the connection", "%s", link_end_text(l->end));
	return model_breach(m, R(disc_no_reply), "the end of the connection, and no reply to NBD_CMD_DISC", "data");
}

/* ---- a session ---- */

static enum model_step
greet(struct walker *w, struct link *l, struct model *m)
{
	char error[512] = "";
	const uint8_t *at = NULL;
	struct greeting g;

	if (link_open(l, w->t, error))
		at = link_need(l, GREETING_SIZE);
	if (at == NULL) {
		w->stuck = true;
		return model_breach(m, R(handshake_no_hard_disconnect), "the greeting of a server that serves on", "%s",
		                    l->fd < 0 ? error : link_end_text(l->end));
	}
	wire_get_greeting(wire_over(link_take(l, MSG_GREETING, 0, GREETING_SIZE)), &g);
	if (g.magic != NBD_MAGIC || g.option_magic != NBD_OPTION_MAGIC)
		return model_breach(m, R(greeting_magic), "the magics of newstyle", "something else");
	if (g.flags != w->facts->handshake_flags)
		return model_breach(m, R(handshake_flags_sent), "the handshake flags of other times", "0x%04x",
		                    g.flags);
	return MODEL_NEXT;
}

static enum model_step session(struct walker *w, struct link *l, struct model *m, const struct path *p);

static enum model_step
visit(struct walker *w, const struct symbol *s)
{
	struct path p = { .at = { symbol_named("STRUCTURED_REPLY", 16), symbol_named("SET_META_CONTEXT", 16), symbols },
		          .n = 3 };
	struct buf waits = w->out;
	struct model m;
	enum model_step step;

	if (!s->contexts)
		p = (struct path){ .at = { symbols }, .n = 1 };
	w->out = (struct buf){ 0 };
	model_start(&m, w->facts, w->model.client_flags);
	step = session(w, &w->link[1], &m, &p);
	link_close(&w->link[1]);
	buf_free(&w->out);
	w->out = waits;
	if (step != MODEL_BREACH)
		return MODEL_NEXT;
	add_last_breach(w, &w->link[1], &m);
	return MODEL_OVER;
}

static enum model_step
take_symbol(struct walker *w, struct link *l, struct model *m, const struct symbol *s)
{
	switch (s->kind) {
	case SYMBOL_VISITOR:
		send_out(w, l, NULL, (struct bytes){ 0 });
		return visit(w, s);
	case SYMBOL_HALF:
		leave_in_the_middle(w, l, s);
		return MODEL_OVER;
	case SYMBOL_CLOSE:
		send_out(w, l, NULL, (struct bytes){ 0 });
		return MODEL_OVER;
	default:
		return say_option(w, l, m, s);
	}
}

/* A GO that the server was free to refuse is tried once more; where that does not help we go, too. */
static enum model_step
end_otherwise(struct walker *w, struct link *l, struct model *m, const struct symbol *last)
{
	enum model_step step = say(w, l, m, last);

	return step == MODEL_NEXT ? say(w, l, m, symbol_named("ABORT", 5)) : step;
}

static enum model_step
session(struct walker *w, struct link *l, struct model *m, const struct path *p)
{
	enum model_step step = greet(w, l, m);
	bool ours = l == &w->link[0];
	struct buf flags = { 0 };

	if (step != MODEL_NEXT)
		return step;
	wire_put_client_flags(&flags, &(struct client_flags){ m->client_flags });
	put_bytes(&w->out, bytes_in(&flags));
	buf_free(&flags);
	if (is_over_tls(w->t))
		step = say_option(w, l, m, symbol_named("STARTTLS", 8));
	for (unsigned i = 0; i < p->n && step == MODEL_NEXT; i++) {
		w->at = ours ? i : w->at;
		step = take_symbol(w, l, m, p->at[i]);
		take_warnings(w, m);
	}
	if (step == MODEL_NEXT)
		step = end_otherwise(w, l, m, p->at[p->n - 1]);
	if (step != MODEL_TRANSMISSION)
		return step;
	w->at = ours ? p->n : w->at;
	return transmission(w, l, m);
}

bool
walk(struct walker *w, const struct path *p, struct buf *log)
{
	uint32_t flags = w->facts->handshake_flags & (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
	enum model_step step;

	w->n_breaches = w->at = 0;
	w->stuck = false;
	for (unsigned i = 0; i < COUNT(w->link); i++) {
		w->link[i].traced = w->traced;
		w->link[i].log = log;
	}
	model_start(&w->model, w->facts, p->at[p->n - 1]->padded ? flags & ~(uint32_t)NBD_FLAG_NO_ZEROES : flags);
	buf_clear(&w->out);
	step = session(w, &w->link[0], &w->model, p);
	link_close(&w->link[0]);
	if (step == MODEL_BREACH)
		add_last_breach(w, &w->link[0], &w->model);
	return w->n_breaches == 0;
}
