/*
 * The ways from one session to the next: whatever way it was, the next uses the terms of its own server alone. What may
 * be kept, one by one, is in stale.c; here all of it differs at once.
 */
#include "cases/client/judge.h"
#include "cases/client/twice.h"
#include "fakeserver/disk.h"
#include "harness/client.h"
#include "harness/nbd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
	A = 1 << META_ALLOCATION,
	D = 1 << META_DIRTY,
	B = 1 << META_BLOCKS,
	EVERYTHING = NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_ROTATIONAL | NBD_FLAG_SEND_TRIM |
	             NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_DF | NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE |
	             NBD_FLAG_SEND_FAST_ZERO,
};

static const struct terms rows[] = {
	{ .name = "everything",
	  .flags = EVERYTHING,
	  .size = 1 << 20,
	  .contexts = A | D | B,
	  .description = "the first" },
	{ .name = "nothing", .block = { 512, 4096, 65536 } },
	{ .name = "a read-only export",
	  .flags = NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_DF,
	  .size = 512 << 10,
	  .block = { 1, 65536, 1 << 20 },
	  .contexts = D | B,
	  .description = "only to be read" },
	{ .name = "simple replies", .flags = EVERYTHING, .knobs = { KNOB_no_structured_replies }, .n_knobs = 1 },
};
/* On one server, on which knobs hold for all: those without any. */
enum { ROWS = sizeof(rows) / sizeof(rows[0]), FEW = 2, OF_ONE_SERVER = 3 };

static const char *const words[] = { "set full-info=on",
	                             "set context=base%3aallocation",
	                             "set context=x-nbdspec%3adirty",
	                             "set context=x-nbdspec%3ablocks",
	                             "read 131072 4096",
	                             "read 65536 65536",
	                             "write 4096 4096 7",
	                             "write 8192 4096 7 fua",
	                             "flush",
	                             "trim 16384 4096",
	                             "zero 20480 4096",
	                             "zero 20480 4096 fast",
	                             "cache 0 65536",
	                             "block_status 131072 65536",
	                             "read 131072 4096 df",
	                             NULL };

static struct twice *
begin(struct test *t, twice_way *way)
{
	struct twice *w = twice_new(t, words);

	w->way = way;
	return w;
}

/* Connects a handle whose connection is gone; one that has not noticed, or has a new one by itself, gives that up. */
static char *
connect_again(struct twice *w, unsigned handle)
{
	struct driver_answer a;

	twice_begin(w);
	a = ask(w->d, handle, "connect %s", w->d->uri);
	if (a.result == DRIVER_ERROR && strncmp(a.text, "EISCONN", 7) == 0) {
		ask(w->d, handle, "disconnect");
		twice_begin(w);
		a = ask(w->d, handle, "connect %s", w->d->uri);
	}
	drive_records(w->d);
	w->answered = trace_end(w->d->config.trace);
	return twice_tell(w, handle, &a);
}

static void
session_one(struct twice *w, const struct terms *one)
{
	twice_apply(w, 0, one);
	twice_settings(w, w->handle);
	free(twice_session(w, w->handle, 0));
}

/* ---- after a drop ---- */

static char *
after_drop(struct twice *w, const struct terms *one, const struct terms *two)
{
	char *told;

	session_one(w, one);
	drive_restart_server(w->d);
	twice_apply(w, 0, two);
	told = connect_again(w, w->handle);
	twice_leave(w, w->handle);
	return told;
}

CASE_DRIVER(reconnect, after_drop, "After the server has ended, a session with the next one has nothing of the first",
            R(client_forgets_prior_session), R(flush_only_where_advertised), R(client_within_export),
            R(set_meta_id_opaque))
{
	twice_among(begin(t, after_drop), rows, ROWS, FEW);
}

enum { IN_FLIGHT = 4 };

/* What a client carries out anew in the next session is as good as any. */
static void
judge_cut_off(struct twice *w)
{
	struct driver_answer a = drive_take(w->d);
	char want[60];

	if (a.result != DRIVER_OK)
		return;
	snprintf(want, sizeof(want), "an error, or the data: %08x", disk_digest(&w->d->exports[0], 65536, 65536));
	if (strcmp(want + strlen(want) - 8, a.text) != 0)
		broken_values(w->d->t, R(baseline_client_read), want, a.text);
}

static char *
after_cut_off(struct twice *w, const struct terms *one, const struct terms *two)
{
	char *told;

	session_one(w, one);
	w->d->hold = true;
	for (unsigned i = 0; i < IN_FLIGHT && i < driver_depth(w->d->driver); i++)
		drive_send(w->d, w->handle, "read 65536 65536");
	fake_disconnect(w->d->fake, 0);
	twice_apply(w, 0, two);
	w->d->hold = false;
	for (unsigned i = 0; i < IN_FLIGHT && i < driver_depth(w->d->driver); i++)
		judge_cut_off(w);
	told = connect_again(w, w->handle);
	twice_leave(w, w->handle);
	return told;
}

CASE_DRIVER(reconnect, after_cut_off,
            "After a session that was cut off with requests in flight, the next has nothing of it",
            R(client_forgets_prior_session), R(baseline_client_read))
{
	twice_among(begin(t, after_cut_off), rows, ROWS, FEW);
}

/* Servers that broke off in these messages; every fifth where few are enough. */
static const char *const broken_off[] = {
	"go_ack_cut",      "greeting_reset",  "option_reply_resets", "info_export_cut_in_header",
	"info_export_cut", "chunk_cut",       "chunk_header_cut",    "chunk_reset",
	"block_size_cut",  "set_context_cut", "read_payload_cut",    "read_payload_reset",
	"status_cut",      "reply_reset",
};
enum { N_BROKEN_OFF = sizeof(broken_off) / sizeof(broken_off[0]) };
static struct lie_use breaking;

static char *
after_broken_off(struct twice *w, const struct terms *one, const struct terms *two)
{
	char *told;

	w->d->config.lies = &breaking;
	w->d->config.n_lies = 1;
	breaking.turns = 0;
	session_one(w, one);
	w->d->config.lies = NULL;
	w->d->config.n_lies = 0;
	/* The server has broken a rule there, after which the client may leave as it likes. */
	drive_mark(w->d);
	drive_restart_server(w->d);
	twice_apply(w, 0, two);
	told = connect_again(w, w->handle);
	twice_leave(w, w->handle);
	return told;
}

CASE_DRIVER(reconnect, after_broken_off,
            "After a session that ended within a message, the next has nothing of it, nor of that message",
            R(client_forgets_prior_session))
{
	struct twice *w = begin(t, after_broken_off);
	char error[256];

	for (volatile size_t i = 0; i < N_BROKEN_OFF; i += client_pairwise(w->d->client) ? 5 : 1)
		POINT(t, "%s", broken_off[i]) {
			if (!lie_parse(broken_off[i], &breaking, error))
				harness_error(t, "%s", error);
			twice_pair(w, &rows[0], &rows[1]);
			if (!client_pairwise(w->d->client))
				twice_pair(w, &rows[3], &rows[0]);
		}
}

/* ---- after a connection that did not come about ---- */

static char *
after_nobody(struct twice *w, const struct terms *one, const struct terms *two)
{
	char *told;

	session_one(w, one);
	ask(w->d, w->handle, "disconnect");
	drive_stop_server(w->d);
	must_fail(w->d, R(baseline_client_info_go), w->handle, "connect %s", w->d->uri);
	drive_restart_server(w->d);
	twice_apply(w, 0, two);
	told = twice_session(w, w->handle, 0);
	twice_leave(w, w->handle);
	return told;
}

CASE_DRIVER(reconnect, after_nobody,
            "After a connect to where nobody listened, a session has nothing of the one before",
            R(client_forgets_prior_session), R(baseline_client_info_go))
{
	twice_among(begin(t, after_nobody), rows, ROWS, FEW);
}

static char *
after_unknown(struct twice *w, const struct terms *one, const struct terms *two)
{
	char *told, *uri = drive_uri(w->d, "nowhere");

	session_one(w, one);
	ask(w->d, w->handle, "disconnect");
	must_fail(w->d, R(baseline_client_info_go), w->handle, "connect %s", uri);
	free(uri);
	twice_apply(w, 0, two);
	told = twice_session(w, w->handle, 0);
	twice_leave(w, w->handle);
	return told;
}

CASE_DRIVER(reconnect, after_unknown,
            "After a connect to an export that there is not, a session has nothing of it, nor of the one before",
            R(client_forgets_prior_session), R(baseline_client_info_go))
{
	twice_among(begin(t, after_unknown), rows, ROWS, FEW);
}

/* ---- two exports ---- */

static char *
alone_with_b(struct twice *w, const struct terms *one, const struct terms *two)
{
	char *told;

	twice_apply(w, 0, one != NULL ? one : &rows[0]);
	twice_apply(w, 1, two);
	twice_settings(w, w->handle);
	told = twice_session(w, w->handle, 1);
	twice_leave(w, w->handle);
	return told;
}

static char *
other_export(struct twice *w, const struct terms *one, const struct terms *two)
{
	char *told;

	session_one(w, one);
	ask(w->d, w->handle, "disconnect");
	twice_apply(w, 1, two);
	told = twice_session(w, w->handle, 1);
	twice_leave(w, w->handle);
	return told;
}

CASE_DRIVER(reconnect, other_export,
            "After a session with one export of a server, a session with another has nothing of the first",
            R(client_forgets_prior_session), R(flush_only_where_advertised), R(client_within_export))
{
	struct twice *w = begin(t, other_export);

	w->alone = alone_with_b;
	twice_among(w, rows, OF_ONE_SERVER, FEW);
}

/* ---- two handles ---- */

static char *
second_handle(struct twice *w, const struct terms *one, const struct terms *two)
{
	unsigned first = w->handle, second = ++w->handle;
	char *told, *before, *after;
	struct driver_answer a;

	twice_apply(w, 0, one);
	twice_settings(w, first);
	a = ask(w->d, first, "connect %s", w->d->uri);
	twice_begin(w);
	before = twice_tell(w, first, &a);
	twice_apply(w, 1, two);
	twice_settings(w, second);
	told = twice_session(w, second, 1);
	twice_apply(w, 0, one);
	twice_begin(w);
	after = twice_tell(w, first, &a);
	twice_leave(w, first);
	twice_leave(w, second);
	if (strcmp(before, after) != 0)
		twice_differ(w, before, after, "before another handle had a session", "after it");
	free(before);
	free(after);
	return told;
}

CASE_DRIVER(reconnect, second_handle,
            "Two handles that are connected at once, to exports that differ, know nothing of each other",
            R(client_forgets_prior_session), R(flush_only_where_advertised), R(client_within_export))
{
	struct twice *w = begin(t, second_handle);

	if (driver_handles(w->d->driver) < 2)
		skip(t, "handles", "the driver has one handle");
	w->alone = alone_with_b;
	twice_among(w, rows, OF_ONE_SERVER, FEW);
}

/* Offsets below 1 MiB, each another. */
static void
judge_interleaved(struct drive *d, const unsigned *tags, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct driver_answer a = drive_take(d);
		char want[9];
		size_t k = 0;

		while (k < n && tags[k] != a.tag)
			k++;
		snprintf(want, sizeof(want), "%08x", disk_digest(&d->exports[k % 2], 4096 * k, 4096));
		if (a.result != DRIVER_OK || strcmp(a.text, want) != 0)
			broken_values(d->t, R(client_takes_replies_unordered), want, a.text);
	}
}

CASE_DRIVER(reconnect, interleaved,
            "Requests that two handles have in flight at once each get the data of their own export",
            R(client_takes_replies_unordered), R(baseline_client_read))
{
	enum { MOST = 32, ROUNDS = 4 };
	static uint8_t other[1 << 18];
	struct drive *d = drive_new(t);
	enum disk_state failed;
	unsigned tags[MOST];
	char *b;

	if (driver_handles(d->driver) < 2)
		skip(t, "handles", "the driver has one handle");
	drive_serve(d, "", "name=b", NULL);
	b = drive_uri(d, "b");
	driver_pattern(2, 0, sizeof(other), other);
	if (!disk_write(d->exports[1].disk, 0, sizeof(other), other, &failed))
		abort();
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	must(d, R(baseline_client_info_go), 2, "connect %s", b);
	for (int round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < MOST; i++)
			tags[i] = drive_send(d, 1 + i % 2, "read %u 4096", 4096 * i);
		judge_interleaved(d, tags, MOST);
	}
	must(d, R(baseline_client_disc), 1, "disconnect");
	must_read_disk(d, R(baseline_client_read), 2, &d->exports[1], 0, 4096);
	must(d, R(baseline_client_disc), 2, "disconnect");
	free(b);
	drive_finish(d);
}

/* ---- within a connection: from one option to the next ---- */

static char *
go(struct twice *w)
{
	struct driver_answer a;
	char *told;

	twice_begin(w);
	a = ask(w->d, w->handle, "go export=b");
	told = twice_tell(w, w->handle, &a);
	twice_leave(w, w->handle);
	return told;
}

static void
haggle(struct twice *w, const struct terms *one, const struct terms *two)
{
	twice_apply(w, 0, one != NULL ? one : &rows[0]);
	twice_apply(w, 1, two);
	twice_settings(w, w->handle);
	must(w->d, R(baseline_client_info_go), w->handle, "haggle %s", w->d->uri);
}

static char *
alone_by_go(struct twice *w, const struct terms *one, const struct terms *two)
{
	haggle(w, one, two);
	return go(w);
}

static char *
info_then_go(struct twice *w, const struct terms *one, const struct terms *two)
{
	haggle(w, one, two);
	/* Who does not ask for block sizes may be refused: that, too, is nothing to the GO. */
	ask(w->d, w->handle, "info export=");
	return go(w);
}

static struct twice *
begin_by_go(struct test *t, twice_way *way)
{
	struct twice *w = begin(t, way);

	drive_needs(w->d, "haggle", NULL);
	drive_needs(w->d, "go", NULL);
	w->alone = alone_by_go;
	w->r = R(baseline_client_info_go);
	return w;
}

CASE_DRIVER(reconnect, info_then_go,
            "After an INFO of one export and a GO of another, a session has nothing of the first",
            R(baseline_client_info_go), R(flush_only_where_advertised), R(client_within_export),
            R(client_status_needs_context))
{
	struct twice *w = begin_by_go(t, info_then_go);

	drive_needs(w->d, "info", NULL);
	twice_among(w, rows, OF_ONE_SERVER, FEW);
}

static char *
failed_go(struct twice *w, const struct terms *one, const struct terms *two)
{
	haggle(w, one, two);
	must_fail(w->d, R(baseline_client_info_go), w->handle, "go export=nowhere");
	return go(w);
}

CASE_DRIVER(reconnect, failed_go,
            "After a GO that failed the next GO of the same connection leads to a session like any",
            R(baseline_client_info_go))
{
	twice_among(begin_by_go(t, failed_go), rows, OF_ONE_SERVER, FEW);
}

/* ---- by itself ---- */

static void
on_broken(void *arg, uint16_t connection, enum requirement_id r, const char *text)
{
	char **kept = arg;

	if (r == R(client_forgets_prior_session) && *kept == NULL &&
	    asprintf(kept, "connection %u: %s", connection, text) < 0)
		abort();
}

/* What the client keeps is to be said before which rule it breaks by it. */
static void
judge_kept(struct drive *d)
{
	struct wire w = drive_records(d);
	struct trace_record r;
	char *kept = NULL;
	struct referee *referee = referee_new(&(struct referee_setup){ 0 }, on_broken, &kept);

	while (trace_next(&w, &r))
		referee_see(referee, &r);
	referee_end(referee);
	if (kept != NULL)
		broken(d->t, R(client_forgets_prior_session), "%s", kept);
}

/* Once with the wish for it, where the driver has one. */
static void
wish_for_reconnect(struct drive *d)
{
	static const char *const keys[] = { "reconnect-delay", "retry" };

	for (size_t i = 0; i < 2; i++)
		if (driver_has(d->driver, "set", keys[i]))
			must(d, R(baseline_client_info_go), 1, "set %s=1", keys[i]);
}

/* Session one, cut off, and whether a command is carried out by a session that nobody asked for. */
static bool
goes_on(struct twice *w, const struct terms *one, const struct terms *two)
{
	struct drive *d = w->d;

	twice_serve(w);
	w->handle = 1;
	wish_for_reconnect(d);
	session_one(w, one);
	fake_disconnect(d->fake, 0);
	twice_apply(w, 0, two);
	/* It may be with the first that the client notices, and by the second that it is connected. */
	return ask(d, 1, "read 0 512").result == DRIVER_OK || ask(d, 1, "read 0 512").result == DRIVER_OK;
}

static void
carried_out_anew(struct twice *w, const struct terms *one, const struct terms *two)
{
	if (!goes_on(w, one, two))
		observe(w->d->t, R(client_disc_any_time), "the client does not go on with %s after %s", two->name,
		        one->name);
	for (size_t i = 0; i < w->n_words; i++)
		if (strncmp(w->words[i], "set ", 4) != 0)
			ask(w->d, 1, "%s", w->words[i]);
	twice_leave(w, 1);
	judge_kept(w->d);
	drive_finish(w->d);
}

CASE_DRIVER(reconnect, by_itself,
            "A client that connects again by itself keeps to the new session's terms, whatever those of the first were",
            R(client_forgets_prior_session), R(flush_only_where_advertised), R(trim_only_where_advertised),
            R(zeroes_only_where_advertised), R(client_uses_exposed_features), R(client_within_export),
            R(client_status_needs_context))
{
	struct twice *w = begin(t, after_drop);
	int most = client_pairwise(w->d->client) ? OF_ONE_SERVER : ROWS;

	if (!goes_on(w, &rows[0], &rows[0]))
		skip(t, "automatic reconnect", "the client does not connect again by itself");
	twice_leave(w, 1);
	drive_finish(w->d);
	for (volatile int one = 0; one < most; one++)
		for (volatile int two = 0; two < most; two++)
			POINT(t, "%s, then %s", rows[one].name, rows[two].name)
				carried_out_anew(w, &rows[one], &rows[two]);
}
