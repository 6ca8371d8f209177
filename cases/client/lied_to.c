/*
 * Every lie of the fake server, told to the client in two sessions with all that its driver can do. Whatever it hears, it
 * does not crash, it comes to an end when the server is gone, and it calls nothing good that came to it as an error, or that
 * came to it otherwise. What it may wait for, and what it cannot know, is not held against it: a lie about what is on the
 * disk is as good as the truth.
 */
#include "cases/client/answers.h"

#include "cases/client/judge.h"
#include "harness/client.h"
#include "harness/clock.h"
#include "harness/nbd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

enum { TICK_MS = 10, QUIET_TICKS = 4, SLOW_TICKS = 20, LIES_FOR_EACH_DRIVER = 64, FEW = 8, HUNG_ENOUGH = 3 };
/* So long it is quiet where the client waits; more for clients that take long to connect to an honest server. */
static unsigned quiet_ticks = QUIET_TICKS;

static const char *const haggling[] = { "list", "info", "contexts", "contexts base%3aallocation" };
/* The reads are short enough for the trace to hold them whole. */
static const char *const operations[] = {
	"read 4096 4096",
	"read 16384 32768",
	"read 8192 4096 df",
	"write 4096 8192 7",
	"read 0 16384",
	"zero 65536 8192",
	"read 65536 16384",
	"trim 131072 65536",
	"cache 0 4096",
	"block_status 0 262144",
	"block_status 4096 4096 req-one",
	"write 32768 4096 8 fua",
	"read 262144 4096",
	"flush",
};

/* ---- what the server has sent in answer to one request ---- */

struct heard {
	bool in_step; /* every message has the length that it tells */
	unsigned requests, replies, errors;
	struct request request;
	uint8_t *data, *covered; /* of a READ, for each byte */
	uint64_t n_covered;
	bool whole; /* nothing came twice, or lies beyond */
};

static bool
is_exact(const struct trace_record *r, const struct heard *h)
{
	struct chunk chunk;

	if (r->message == MSG_CHUNK) {
		wire_get_chunk(wire_over(r->data), &chunk);
		return chunk.magic == NBD_STRUCTURED_REPLY_MAGIC &&
		       r->length == CHUNK_HEADER_SIZE + (uint64_t)chunk.length;
	}
	if (r->message != MSG_SIMPLE_REPLY)
		return r->direction == TO_SERVER || (r->message != MSG_RAW);
	return r->length == SIMPLE_REPLY_SIZE ||
	       (h->request.type == NBD_CMD_READ && r->length == SIMPLE_REPLY_SIZE + (uint64_t)h->request.length);
}

static void
hear_data(struct heard *h, uint64_t offset, struct bytes data)
{
	uint64_t at = offset - h->request.offset;

	if (h->data == NULL || h->covered == NULL || at > h->request.length || data.len > h->request.length - at) {
		h->whole = false;
		return;
	}
	for (size_t i = at; i < at + data.len; i++)
		h->whole &= h->covered[i]++ == 0;
	memcpy(h->data + at, data.at, data.len);
	h->n_covered += data.len;
}

/* What comes behind the end of a reply is none of it. */
static void
hear_chunk(struct heard *h, const struct chunk *chunk)
{
	static const uint8_t zeroes[1 << 16];
	struct chunk_offset_data data;
	struct chunk_offset_hole hole;

	h->in_step &= h->replies == 0;
	h->errors += (chunk->type & 0x8000) != 0;
	h->replies += (chunk->flags & NBD_REPLY_FLAG_DONE) != 0;
	if (chunk->type == NBD_REPLY_TYPE_OFFSET_DATA) {
		h->whole &= wire_get_chunk_offset_data(wire_over(chunk->data), &data) == WIRE_EXACT;
		hear_data(h, data.offset, data.data);
	} else if (chunk->type == NBD_REPLY_TYPE_OFFSET_HOLE) {
		h->whole &= wire_get_chunk_offset_hole(wire_over(chunk->data), &hole) == WIRE_EXACT &&
		            hole.size <= sizeof(zeroes);
		hear_data(h, hole.offset, (struct bytes){ zeroes, h->whole ? hole.size : 0 });
	}
}

static void
hear(struct heard *h, const struct trace_record *r)
{
	struct simple_reply simple;
	struct chunk chunk;

	if (r->data.len != r->length) {
		h->whole = false;
	} else if (r->message == MSG_CHUNK) {
		wire_get_chunk(wire_over(r->data), &chunk);
		if (chunk.cookie == h->request.cookie)
			hear_chunk(h, &chunk);
		else
			h->in_step = false;
	} else {
		wire_get_simple_reply(wire_over(r->data), &simple);
		h->in_step &= simple.cookie == h->request.cookie && simple.magic == NBD_SIMPLE_REPLY_MAGIC;
		h->replies++;
		h->errors += simple.error != NBD_SUCCESS;
		hear_data(h, h->request.offset,
		          (struct bytes){ r->data.at + SIMPLE_REPLY_SIZE, r->data.len - SIMPLE_REPLY_SIZE });
	}
}

/* `from`: the records since the request; those before it only tell whether the client can be in step. */
static struct heard
heard_since(struct drive *d, off_t from)
{
	struct wire w = drive_records(d);
	struct heard h = { .in_step = true, .whole = true };
	const uint8_t *begin = w.at;
	struct trace_record r;

	while (trace_next(&w, &r)) {
		bool now = w.at - begin > from - d->from;

		if (r.kind != TRACE_MESSAGE)
			continue;
		if (now && r.message == MSG_REQUEST) {
			wire_get_request(wire_over(r.data), &h.request);
			h.requests++;
			free(h.data);
			free(h.covered);
			h.data = calloc(1, (size_t)h.request.length + 1);
			h.covered = calloc(1, (size_t)h.request.length + 1);
		}
		h.in_step &= is_exact(&r, &h);
		if (now && h.requests > 0 && (r.message == MSG_CHUNK || r.message == MSG_SIMPLE_REPLY))
			hear(&h, &r);
	}
	return h;
}

/* ---- what the client makes of it ---- */

/* Of a hint an error says that nothing was done, which is a success of it; DISC has no reply. */
static bool
may_be_undone(uint16_t type)
{
	return type == NBD_CMD_TRIM || type == NBD_CMD_CACHE || type == NBD_CMD_DISC;
}

static void
judge_ok(struct drive *d, const char *words, const struct driver_answer *a, off_t from)
{
	struct heard h = heard_since(d, from);
	/* Who leaves asks for nothing, whatever the client sends for it. */
	bool certain = h.in_step && h.requests == 1 && h.replies == 1 && strcmp(words, "disconnect") != 0;

	if (certain && h.errors > 0 && !may_be_undone(h.request.type))
		broken(d->t, R(client_error_chunk_fails_reply),
		       "'%s' is answered 'ok', and the server's reply is an error", words);
	if (certain && h.request.type == NBD_CMD_READ && h.whole && h.n_covered == h.request.length &&
	    strncmp(words, "read ", 5) == 0 && strtoul(a->text, NULL, 16) != driver_digest(h.data, h.request.length))
		broken(d->t, R(read_chunks_reassembled),
		       "'%s' is answered 'ok', with other data than those that the server has sent", words);
	free(h.data);
	free(h.covered);
}

/* Where the session began that the client is in. */
static off_t session_from;

/*
 * The connection that was taken for this session has ended, and the client has made no other: one that goes on to look for
 * its server may wait for it.
 */
static bool
server_is_gone(struct drive *d)
{
	struct wire w = drive_records(d);
	const uint8_t *begin = w.at;
	struct trace_record r;
	unsigned taken = 0;
	siginfo_t info = { 0 };
	int open = 0;

	while (trace_next(&w, &r)) {
		if (w.at - begin <= session_from - d->from)
			continue;
		taken += r.kind == TRACE_CONNECT;
		open += r.kind == TRACE_CONNECT;
		open -= r.kind == TRACE_DISCONNECT;
	}
	if (taken != 1)
		return false;
	if (waitid(P_PID, (id_t)d->apart, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0)
		return true;
	return open <= 0;
}

static bool
waits(struct drive *d, int64_t waited)
{
	(void)waited;
	return !server_is_gone(d) || drive_is_sought(d);
}

/* The client has done something since, as far as anybody can see. */
static bool
has_acted(struct drive *d, off_t from)
{
	struct wire w = drive_records(d);
	const uint8_t *begin = w.at;
	struct trace_record r;

	while (trace_next(&w, &r))
		if (r.kind != TRACE_NOTE && w.at - begin > from - d->from)
			return true;
	return false;
}

/* False: it waits for what is kept back from it. */
static bool
patiently(struct drive *d, struct driver_answer *a, off_t from)
{
	off_t seen = 0;

	for (unsigned quiet = 0; quiet < (has_acted(d, from) ? quiet_ticks : SLOW_TICKS + quiet_ticks); quiet++) {
		if (drive_take_soon(d, a, TICK_MS))
			return true;
		if (trace_end(d->config.trace) != seen)
			quiet = 0;
		seen = trace_end(d->config.trace);
	}
	return !waits(d, 0) && drive_take_unless(d, a, waits);
}

/* False: the point is over. */
static bool
try(struct drive *d, const char *words, bool *ok)
{
	off_t from = trace_end(d->config.trace);
	struct driver_answer a;

	if (strstr(words, "nbd+unix") != NULL)
		session_from = from;
	drive_send(d, 1, "%s", words);
	if (!patiently(d, &a, from))
		return false;
	*ok = a.result == DRIVER_OK;
	if (*ok)
		judge_ok(d, words, &a, from);
	return true;
}

static bool
work(struct drive *d)
{
	bool ok;

	for (unsigned i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
		if (!try(d, operations[i], &ok))
			return false;
	return try(d, "disconnect", &ok);
}

static bool
two_sessions(struct drive *d)
{
	char *connect, *haggle;
	bool ok, goes_on;

	if (asprintf(&connect, "connect %s", d->uri) < 0 || asprintf(&haggle, "haggle %s", d->uri) < 0)
		abort();
	goes_on = try(d, connect, &ok) && (!ok || work(d));
	if (goes_on && driver_has(d->driver, "haggle", NULL) && try(d, haggle, &ok) && ok) {
		for (unsigned i = 0; goes_on && i < sizeof(haggling) / sizeof(haggling[0]); i++)
			goes_on = try(d, haggling[i], &ok);
		goes_on = goes_on && try(d, "go", &ok) && try(d, "read 4096 4096", &ok) && try(d, "disconnect", &ok);
	}
	free(connect);
	free(haggle);
	return goes_on;
}

/* How the client leaves is its own affair, and what the server takes for a message its. */
static const struct referee_setup liar = { .server_lies = true, .excused = R(client_within_export) };

static void
learn_speed(struct drive *d)
{
	int64_t began;

	drive_serve(d, "", NULL);
	began = now_ms();
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	quiet_ticks = QUIET_TICKS + (unsigned)(now_ms() - began) / 2;
	ask(d, 1, "disconnect");
	drive_finish(d);
}

static void
hear_lie(struct drive *d, const struct lie *lie)
{
	struct lie_use use = { .lie = lie, .nth = 1 };

	drive_serve_liar(d, &use, "size=256k");
	d->excused = liar.excused;
	if (driver_has(d->driver, "set", "context")) {
		ask(d, 1, "set context=");
		ask(d, 1, "set context=base%%3aallocation");
		ask(d, 1, "set context=x-nbdspec%%3adirty");
	}
	if (!two_sessions(d))
		drive_desert(d);
	drive_finish_as(d, &liar);
}

/* Some of them, of all sorts, where pairs are enough. */
static unsigned
stride(struct drive *d, enum lie_place place)
{
	const struct lie *lie;
	unsigned n = 0;

	for (size_t i = 0; (lie = lie_at(i)) != NULL; i++)
		n += lie->place == place;
	return client_pairwise(d->client) ? n / FEW + 1 : 1;
}

/* One that still owes an answer has been judged, or may go on to look for its server. */
static void
end_driver(struct drive *d)
{
	if (driver_in_flight(d->driver) > 0)
		skip(d->t, "end of input", "the driver still owes an answer");
	drive_end_driver(d, d->owed);
}

static void
hear_all(struct test *t, enum lie_place place)
{
	struct drive *d = drive_new(t);
	unsigned step = stride(d, place);
	const struct lie *volatile lie;
	volatile unsigned n = 0, untold = 0;

	learn_speed(d);
	for (volatile size_t i = 0; (lie = lie_at(i)) != NULL; i++) {
		if (lie->place != place || n++ % step != 0)
			continue;
		untold += d->n_hung >= HUNG_ENOUGH;
		if (untold > 0)
			continue;
		POINT(t, "%s", lie->name)
			hear_lie(d, lie);
		if (n % LIES_FOR_EACH_DRIVER == 0)
			POINT(t, "the driver's end, behind %u lies", n)
				end_driver(d);
	}
	POINT(t, "the driver's end")
		end_driver(d);
	if (untold > 0)
		POINT(t, "the other lies")
			skip(t, "an end", "the client hangs over %d lies; %u others are not told", HUNG_ENOUGH, untold);
}

#define CITES R(client_transmission_no_disconnect), R(client_error_chunk_fails_reply), R(read_chunks_reassembled)

CASE_DRIVER(lied_to, in_messages,
            "Whatever wrong messages the server sends, the client neither crashes nor calls good what is not", CITES)
{
	hear_all(t, ON_OUTGOING);
}

CASE_DRIVER(lied_to, in_state,
            "Whatever the server forgets or mixes up, the client neither crashes nor calls good what is not", CITES)
{
	hear_all(t, ON_STATE);
}

CASE_DRIVER(lied_to, in_understanding,
            "However the server misunderstands requests, the client neither crashes nor calls good what is not", CITES)
{
	hear_all(t, ON_INCOMING);
}

CASE_DRIVER(lied_to, on_disk,
            "However wrongly the server carries out commands, the client neither crashes nor calls good what is not",
            CITES)
{
	hear_all(t, ON_DISK);
}

CASE_DRIVER(lied_to, by_dying, "Whenever the server dies or closes, the client neither crashes nor waits for it", CITES)
{
	hear_all(t, ON_PROCESS);
}

/* ---- a server that goes ---- */

/* It closes in place of taking the nth message, once. */
struct closing {
	unsigned left;
	bool closed, in_handshake;
};

static bool
close_at(void *arg, struct conn *c, const struct incoming *m)
{
	struct closing *closing = arg;

	if (closing->closed || --closing->left > 0)
		return false;
	closing->closed = true;
	closing->in_handshake = m->kind != MSG_REQUEST;
	return say_close(c);
}

static const char *const short_session[] = { "read 4096 4096", "write 4096 8192 7", "block_status 0 262144", "flush",
	                                     "disconnect" };

/* Every request is answered, since the server is gone; a client that connects again may go on. */
static void
serve_until(struct drive *d, struct closing *closing, bool by_export_name)
{
	bool ok;

	drive_serve(d, "", NULL);
	d->config.knob[KNOB_no_fixed_newstyle] = by_export_name;
	d->owed = R(client_transmission_no_disconnect);
	drive_follow(d, &(struct script){ .take = close_at, .arg = closing });
	if (driver_has(d->driver, "set", "context"))
		ask(d, 1, "set context=base%%3aallocation");
	ok = ask(d, 1, "connect %s", d->uri).result == DRIVER_OK;
	EXPECT(d->t, by_export_name ? R(interop_export_name_used) : R(baseline_client_info_go),
	       !ok || !closing->in_handshake || drive_connections(d) > 1,
	       "'connect' is answered 'ok', and the server has closed the connection in the handshake");
	for (unsigned i = 0; ok && i < sizeof(short_session) / sizeof(short_session[0]); i++)
		ask(d, 1, "%s", short_session[i]);
	/* Not every client does without a fixed newstyle handshake. */
	if (!ok && closing->in_handshake && !by_export_name && drive_connections(d) == 1)
		must(d, R(client_transmission_no_disconnect), 1, "connect %s", d->uri);
	drive_finish_as(d, &liar);
}

CASE_DRIVER(lied_to, by_closing,
            "Whichever message the server closes at, in the handshake or behind it, the client says so, and can "
            "connect again",
            R(client_transmission_no_disconnect), R(baseline_client_info_go), R(interop_export_name_used))
{
	enum { MESSAGES = 11 };
	static struct closing closing;
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 2 * MESSAGES; i++)
		POINT(t, "message %u, %s", i / 2 + 1, i % 2 == 0 ? "fixed newstyle" : "newstyle that is not fixed") {
			closing = (struct closing){ .left = i / 2 + 1 };
			serve_until(d, &closing, i % 2 != 0);
		}
}
