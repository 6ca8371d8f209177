/* Bytes on their way to the server, what comes of them, and the honest client that looks what is left of it. */
#include "cases/explore/bytes.h"

#include "harness/clock.h"
#include "harness/test.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	MOST_RECEIVED = 1 << 20, /* of one connection; whoever sends more is left */
	OWED_MS = 30,            /* for replies to what was sent before we end it; who takes longer is judged by less */
	LINGER_MS = 1000,        /* for the end of the connection behind ours; nobody owes it in a given time */
	LINGER_SHORT_MS = 10,
	LINGERS = 3, /* so often it is waited for at length */
};

static struct bytes
bytes_in(const struct buf *b)
{
	return (struct bytes){ b->at, b->len };
}

/* ---- damage ---- */

bool
same_damage(const struct damage *a, const struct damage *b)
{
	if (a->harm != b->harm)
		return false;
	return a->harm == HARM_HANGS || (a->harm == HARM_ENDED && strcmp(a->how, b->how) == 0) ||
	       (a->harm < HARM_ENDED && a->breach.broken[0] == b->breach.broken[0]);
}

/* The line by which a crash is known again, without what differs each time; "" where there is none. */
static void
last_words(const char *output, char words[120])
{
	static const char *const marks[] = { "SUMMARY: ", "Assertion", "assertion", "panic" };

	words[0] = '\0';
	for (const char *line = output; *line != '\0'; line += strcspn(line, "\n") + (strchr(line, '\n') != NULL)) {
		size_t len = strcspn(line, "\n");

		for (size_t i = 0; i < COUNT(marks); i++) {
			const char *mark = memmem(line, len, marks[i], strlen(marks[i]));
			/* From the name of the source on, where it stands before: processes have names and numbers. */
			const char *from = memmem(line, len, ".c:", 3);

			if (mark == NULL)
				continue;
			from = from != NULL && from < mark ? from : mark;
			while (from > line && from != mark && from[-1] != ' ' && from[-1] != '/')
				from--;
			snprintf(words, 120, "%.*s", (int)(line + len - from), from);
			break;
		}
	}
}

static void
tell_end(struct runner_state *r, struct damage *d, const char *what)
{
	char *fault, *output, words[120] = "";

	await_server_end(r->t);
	fault = server_fault_text(r->t);
	if (fault != NULL) {
		output = server_output(r->t, r->output_from);
		last_words(output, words);
		free(output);
	}
	snprintf(d->how, sizeof(d->how), "%.70s%s%s", fault != NULL ? fault : what, *words ? ": " : "", words);
	free(fault);
}

/* An honest client, or the next connection, meets this. */
static bool
damaged(struct runner_state *r, struct damage *d, const struct link *l, enum requirement_id silent, const char *error)
{
	bool hangs = l->fd >= 0 && l->end == LINK_SILENT;
	struct breaches b = { .n = 0 };

	*d = (struct damage){ .harm = hangs ? HARM_HANGS : HARM_ENDED };
	if (!hangs)
		tell_end(r, d, l->fd < 0 ? error : link_end_text(l->end));
	add_product_breach(&b, -1, BREACH_STREAM, hangs ? silent : R(handshake_no_hard_disconnect),
	                   "a server that serves others", "%s", hangs ? link_end_text(LINK_SILENT) : d->how);
	d->breach = b.b[0];
	return false;
}

/* ---- the honest client ---- */

static const uint8_t *
need(struct runner_state *r, struct link *l, size_t n)
{
	struct pollfd p = { .fd = l->fd, .events = POLLIN };

	while (r->patience_ms > 0 && l->in.len - l->at < n && l->end == LINK_OPEN) {
		size_t had = l->in.len - l->at;

		if (poll(&p, 1, r->patience_ms) <= 0) {
			link_set_end(l, LINK_SILENT);
			return NULL;
		}
		link_need(l, had + 1);
	}
	return link_need(l, n);
}

static void
send_messages(struct link *l, enum message_kind kind, struct buf *b)
{
	link_send(l, kind, 0, bytes_in(b));
	buf_free(b);
}

static bool
stream_damage(struct damage *d, enum harm harm, enum breach_kind kind, enum requirement_id broken, const char *expected,
              const char *got)
{
	struct breaches b = { .n = 0 };

	add_product_breach(&b, -1, kind, broken, expected, "%s", got);
	*d = (struct damage){ .harm = harm, .breach = b.b[0] };
	return false;
}

static void
put_entry(struct runner_state *r, struct buf *b)
{
	static const uint16_t sizes = NBD_INFO_BLOCK_SIZE;
	struct buf data = { 0 };

	if (r->facts.by_go)
		put_go(&data, r->facts.name, &sizes, 1);
	else
		put_bytes(&data, r->facts.name);
	wire_put_option(b, &(struct option){ NBD_OPTION_MAGIC, r->facts.by_go ? NBD_OPT_GO : NBD_OPT_EXPORT_NAME,
	                                     (uint32_t)data.len, bytes_in(&data) });
	buf_free(&data);
}

static bool
take_entry(struct runner_state *r, struct link *l, struct damage *d)
{
	size_t padding = r->facts.handshake_flags & NBD_FLAG_NO_ZEROES ? 0 : NBD_EXPORT_NAME_PADDING;
	struct option_reply o = { .type = NBD_REP_INFO };
	const uint8_t *at;

	if (!r->facts.by_go) {
		if (need(r, l, EXPORT_NAME_REPLY_SIZE + padding) == NULL)
			return damaged(r, d, l, R(option_gets_reply), "");
		link_take(l, MSG_EXPORT_NAME_REPLY, 0, EXPORT_NAME_REPLY_SIZE + padding);
		return true;
	}
	while (o.type == NBD_REP_INFO) {
		if ((at = need(r, l, OPTION_REPLY_HEADER_SIZE)) == NULL)
			return damaged(r, d, l, R(option_gets_reply), "");
		wire_get_option_reply(wire(at, OPTION_REPLY_HEADER_SIZE), &o);
		if (o.magic != NBD_OPTION_REPLY_MAGIC || o.length > MOST_RECEIVED)
			return stream_damage(d, HARM_REPLY, BREACH_STREAM, R(option_reply_magic),
			                     "a reply to an honest option", "something else");
		if (need(r, l, OPTION_REPLY_HEADER_SIZE + o.length) == NULL)
			return damaged(r, d, l, R(option_reply_length), "");
		link_take(l, MSG_OPTION_REPLY, 0, OPTION_REPLY_HEADER_SIZE + o.length);
	}
	return o.type == NBD_REP_ACK || stream_damage(d, HARM_REPLY, BREACH_RESULT, R(go_enters_transmission),
	                                              "that an honest client is let in, as others were", "an error");
}

static bool
enter(struct runner_state *r, struct link *l, struct damage *d)
{
	char error[512] = "";
	struct buf b = { 0 };

	l->traced = r->traced;
	if (!link_open(l, r->t, error) || need(r, l, GREETING_SIZE) == NULL)
		return damaged(r, d, l, R(handshake_no_hard_disconnect), error);
	link_take(l, MSG_GREETING, 0, GREETING_SIZE);
	wire_put_client_flags(&b, &(struct client_flags){ r->facts.handshake_flags & KNOWN_FLAGS });
	if (r->traced)
		send_messages(l, MSG_CLIENT_FLAGS, &b);
	put_entry(r, &b);
	send_messages(l, MSG_OPTION, &b);
	return take_entry(r, l, d);
}

/* Of thousands of connections that have come to their end none shall keep its port. */
static void
hang_up(struct link *l, bool at_its_end)
{
	if (l->fd >= 0 && at_its_end)
		setsockopt(l->fd, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
	link_close(l);
}

static void
leave(struct link *l)
{
	struct buf b = { 0 };
	bool open = l->fd >= 0 && l->end == LINK_OPEN;

	wire_put_request(&b, &(struct request){ .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_DISC });
	if (open)
		send_messages(l, MSG_REQUEST, &b);
	buf_free(&b);
	/* Behind NBD_CMD_DISC the server ends it, and keeps the port. */
	hang_up(l, !open || shutdown(l->fd, SHUT_WR) != 0);
}

static void
put_window_request(struct runner_state *r, struct buf *b, unsigned i, uint16_t type)
{
	const struct shadow_part *p = &r->shadow.part[i];
	struct request q = { .magic = NBD_REQUEST_MAGIC,
		             .type = type,
		             .cookie = i + 1,
		             .offset = p->span.offset,
		             .length = (uint32_t)p->span.length };

	if (type == NBD_CMD_WRITE)
		q.data = (struct bytes){ p->bytes, p->span.length };
	wire_put_request(b, &q);
}

static bool
take_window(struct runner_state *r, unsigned i, const uint8_t *data, bool learn, struct damage *d)
{
	struct shadow_part *p = &r->shadow.part[i];
	struct item read = { .q = { .offset = p->span.offset, .length = (uint32_t)p->span.length },
		             .data = (uint8_t *)data };
	char got[80];
	uint64_t at;

	if (learn) {
		memcpy(p->bytes, data, p->span.length);
		memset(p->known, 1, p->span.length);
	} else if (!shadow_allows(&r->shadow, &read, NULL, 0, &at)) {
		snprintf(got, sizeof(got), "byte %" PRIu64 " of the export is 0x%02x, and was 0x%02x", at,
		         data[at - p->span.offset], p->bytes[at - p->span.offset]);
		return stream_damage(d, HARM_CONTENTS, BREACH_CONTENTS, R(read_returns_data),
		                     "what no request has changed", got);
	}
	return true;
}

/* One request for each window; they may be answered in any order. */
static bool
do_windows(struct runner_state *r, struct link *l, uint16_t type, bool learn, struct damage *d)
{
	size_t payload;
	struct simple_reply reply;
	struct buf b = { 0 };
	const uint8_t *at;

	for (unsigned i = 0; i < r->shadow.n; i++)
		put_window_request(r, &b, i, type);
	if (r->shadow.n > 0)
		send_messages(l, MSG_REQUEST, &b);
	for (unsigned n = 0; n < r->shadow.n; n++) {
		if ((at = need(r, l, SIMPLE_REPLY_SIZE)) == NULL)
			return damaged(r, d, l, R(each_request_one_reply), "");
		wire_get_simple_reply(wire(at, SIMPLE_REPLY_SIZE), &reply);
		if (reply.magic != NBD_SIMPLE_REPLY_MAGIC)
			return stream_damage(d, HARM_REPLY, BREACH_STREAM, R(simple_reply_magic),
			                     "the magic of a reply", "another one, behind an honest request");
		if (reply.cookie - 1 >= r->shadow.n)
			return stream_damage(d, HARM_REPLY, BREACH_STREAM, R(cookie_echoed),
			                     "the cookie of a request that was sent",
			                     "another one, behind an honest request");
		if (reply.error != NBD_SUCCESS)
			return stream_damage(d, HARM_REPLY, BREACH_RESULT,
			                     type == NBD_CMD_READ ? R(read_returns_data) : R(write_stored),
			                     "success for an honest client", "an error");
		payload = type == NBD_CMD_READ ? r->shadow.part[reply.cookie - 1].span.length : 0;
		if ((at = need(r, l, SIMPLE_REPLY_SIZE + payload)) == NULL)
			return damaged(r, d, l, R(each_request_one_reply), "");
		if (type == NBD_CMD_READ &&
		    !take_window(r, (unsigned)reply.cookie - 1, at + SIMPLE_REPLY_SIZE, learn, d))
			return false;
		link_take(l, MSG_SIMPLE_REPLY, reply.cookie, SIMPLE_REPLY_SIZE + payload);
	}
	return true;
}

bool
check_honest(struct runner_state *r, struct link *l, struct damage *d)
{
	bool ok;

	*d = (struct damage){ .harm = HARM_NONE };
	r->counts->bytes.checks++;
	ok = enter(r, l, d) && do_windows(r, l, NBD_CMD_READ, false, d);
	leave(l);
	return ok;
}

bool
is_blind(const struct runner_state *r)
{
	for (unsigned i = 0; i < r->shadow.n; i++)
		if (memchr(r->shadow.part[i].known, 1, r->shadow.part[i].span.length) != NULL)
			return false;
	return r->shadow.n > 0;
}

/* Nobody who was before still writes: this is the first client of a new server. */
static bool
paint(struct runner_state *r, struct link *l, struct damage *d)
{
	for (unsigned i = 0; i < r->shadow.n && r->facts.writes; i++) {
		struct shadow_part *p = &r->shadow.part[i];

		fill_pattern(p->bytes, p->span.length, p->span.offset, ++r->paint);
		memset(p->known, 1, p->span.length);
	}
	return (!r->facts.writes || do_windows(r, l, NBD_CMD_WRITE, false, d)) &&
	       do_windows(r, l, NBD_CMD_READ, !r->facts.writes, d);
}

bool
start_anew(struct runner_state *r)
{
	char error[512];
	struct damage d;
	bool ok;

	link_close(&r->link);
	link_close(&r->beside);
	if (can_restart_server(r->t) && !restart_server(r->t, error))
		harness_error(r->t, "the server could not be started again: %s", error);
	r->counts->bytes.starts += can_restart_server(r->t);
	r->output_from = server_output_size(r->t);
	r->since_start = 0;
	shadow_forget_all(&r->shadow);
	ok = enter(r, &r->beside, &d) && paint(r, &r->beside, &d);
	leave(&r->beside);
	if (ok)
		server_is_up(r->t);
	r->gone = !ok;
	r->dirty = false;
	return ok;
}

/* ---- a connection of damaged bytes ---- */

static void
forget_written(struct runner_state *r, struct bytes s)
{
	struct request q;

	for (size_t at = 0; r->shadow.n > 0 && next_write_header(s, &at, &q); at++)
		shadow_forget(&r->shadow, (struct span){ q.offset, q.type == NBD_CMD_RESIZE ? UINT64_MAX : q.length });
}

static void
record_sent(struct link *l, struct bytes s)
{
	static const enum message_kind kinds[] = { MSG_CLIENT_FLAGS, MSG_OPTION, MSG_REQUEST, MSG_RAW };
	static struct token tokens[MOST_TOKENS];
	unsigned n = l->traced ? tokenize(s, tokens) : 0;

	for (unsigned i = 0; i < n; i++)
		link_record(l, tokens[i].headed ? kinds[tokens[i].kind] : MSG_RAW, true, tokens[i].request.cookie,
		            (struct bytes){ s.at + tokens[i].at, tokens[i].len });
}

/* False where no more can come. */
static bool
take_some(struct link *l, struct buf *came, int flags)
{
	size_t room = 65536;
	ssize_t n;

	do
		n = recv(l->fd, buf_grow(came, room), room, flags);
	while (n < 0 && errno == EINTR && (came->len -= room, true));
	came->len -= room - (size_t)(n > 0 ? n : 0);
	if (n == 0 || (n < 0 && errno != EAGAIN))
		l->end = n == 0 ? LINK_CLOSED : LINK_RESET;
	return n > 0 && came->len < MOST_RECEIVED;
}

/* False where the server takes no more: it has left, or will not before it gets rid of more than we take. */
static bool
send_some(struct link *l, struct bytes b, struct buf *came, int64_t until)
{
	ssize_t n;

	for (; b.len > 0; b.at += n, b.len -= (size_t)n) {
		struct pollfd p = { .fd = l->fd, .events = POLLIN | POLLOUT };

		n = send(l->fd, b.at, b.len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0)
			continue;
		n = 0;
		if (errno != EAGAIN && errno != EINTR)
			return false;
		if (now_ms() >= until || poll(&p, 1, (int)(until - now_ms())) <= 0 ||
		    ((p.revents & POLLIN) != 0 && !take_some(l, came, MSG_DONTWAIT)))
			return false;
	}
	return true;
}

static bool
send_input(struct link *l, const struct input *i, struct buf *came, int64_t until)
{
	size_t from = 0;

	for (unsigned k = 0; k <= i->n_cuts; k++) {
		size_t to = k < i->n_cuts && i->cut[k] < i->bytes.len ? i->cut[k] : i->bytes.len;

		if (to > from && !send_some(l, (struct bytes){ i->bytes.at + from, to - from }, came, until))
			return false;
		from = to > from ? to : from;
	}
	return true;
}

static bool
wait_for_some(struct link *l, struct buf *came, int ms)
{
	struct pollfd p = { .fd = l->fd, .events = POLLIN };

	return poll(&p, 1, ms) > 0 && take_some(l, came, MSG_DONTWAIT);
}

/* What is due to come to what was sent, for a moment; a server that sees our end first may drop it. */
static void
await_owed(struct runner_state *r, struct bytes sent, struct buf *came)
{
	do
		judge(&r->last, &r->facts, sent, bytes_in(came), NULL, NULL);
	while (r->last.owed > 0 && r->last.breaches.n == 0 && wait_for_some(&r->link, came, OWED_MS));
}

/* True where it was closed, or sends more than we take. */
static bool
await_end(struct runner_state *r, struct buf *came)
{
	int ms = r->lingering < LINGERS ? LINGER_MS : LINGER_SHORT_MS;

	shutdown(r->link.fd, SHUT_WR);
	while (wait_for_some(&r->link, came, ms))
		;
	if (r->link.end != LINK_OPEN || came->len >= MOST_RECEIVED)
		return true;
	r->lingering++;
	r->counts->bytes.lingered++;
	return false;
}

static bool
judge_all(struct runner_state *r, struct bytes sent, struct buf *came, struct damage *d)
{
	struct link *l = &r->link;

	judge(&r->last, &r->facts, sent, bytes_in(came), &r->shadow, l->traced ? l : NULL);
	if (l->traced && l->end != LINK_OPEN)
		link_set_end(l, l->end);
	if (r->last.breaches.n == 0)
		return true;
	*d = (struct damage){ .harm = r->last.breaches.b[0].broken[0] == R(read_returns_data) ||
		                                      r->last.breaches.b[0].broken[0] == R(data_chunk_contents)
		                              ? HARM_CONTENTS
		                              : HARM_REPLY,
		              .breach = r->last.breaches.b[0] };
	return false;
}

static bool
converse(struct runner_state *r, const struct input *i, struct damage *d)
{
	static struct buf came;
	struct link *l = &r->link;
	struct bytes sent = bytes_in(&i->bytes);
	bool ended = true, ok;

	buf_clear(&came);
	record_sent(l, sent);
	if (!send_input(l, i, &came, now_ms() + link_patience_ms(r->t)) || i->manner == MANNER_LEAVE)
		while (l->end == LINK_OPEN && i->manner != MANNER_LEAVE && wait_for_some(l, &came, 0))
			;
	else {
		await_owed(r, sent, &came);
		if (i->manner == MANNER_STAY && l->end == LINK_OPEN && !r->alone && r->last.breaches.n == 0 &&
		    !check_honest(r, &r->beside, d))
			return false;
		ended = l->end != LINK_OPEN || await_end(r, &came);
	}
	ok = judge_all(r, sent, &came, d);
	if (r->alone)
		hang_up(l, false);
	return ok && (ended || check_honest(r, &r->beside, d));
}

bool
run_input(struct runner_state *r, const struct input *i, bool *accepted, struct damage *d)
{
	char error[512];
	bool ok;

	*d = (struct damage){ .harm = HARM_NONE };
	r->since_start++;
	forget_written(r, bytes_in(&i->bytes));
	r->link.traced = r->traced;
	*accepted = link_open(&r->link, r->t, error);
	if (!*accepted)
		return damaged(r, d, &r->link, R(handshake_no_hard_disconnect), error);
	ok = converse(r, i, d);
	hang_up(&r->link, r->link.end != LINK_OPEN);
	return ok;
}

bool
inputs_harm(struct runner_state *r, const struct inputs *s, const struct damage *like, bool anew, struct damage *d)
{
	bool ok = r->dirty || anew ? start_anew(r) : true, accepted;

	*d = (struct damage){ .harm = HARM_NONE };
	for (size_t i = 0; i < s->n && ok; i++) {
		ok = run_input(r, &s->at[i], &accepted, d);
		/* A reply that is wrong to one before the last is another matter. */
		ok |= i + 1 < s->n && d->harm < HARM_ENDED;
	}
	if (ok && s->n > 0 && (like == NULL || like->harm != HARM_REPLY))
		check_honest(r, &r->beside, d);
	r->dirty = d->harm > HARM_REPLY || r->gone;
	return like == NULL ? d->harm != HARM_NONE : same_damage(d, like);
}
