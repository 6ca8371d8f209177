/*
 * A server's terms hold for a session: what the client was told in one is nothing to the next, in the same object of the
 * client. Linux took NBD_FLAG_SEND_FLUSH over to the next server, and each FLUSH to it failed.
 */
#include "cases/client/twice.h"
#include "fakeserver/disk.h"
#include "harness/client.h"
#include "harness/names.h"
#include "harness/nbd.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where no word before it has written, so that each session begins with the same contents. */
#define READS "read 131072 4096", "read 65536 65536"
#define WRITES                                                                                                         \
	"write 4096 4096 7", "write 8192 4096 7 fua", "flush", "trim 16384 4096", "trim 16384 4096 fua",               \
		"zero 20480 4096", "zero 20480 4096 no-hole", "zero 20480 4096 fast", "zero 20480 4096 fua",           \
		"cache 0 65536", "read 0 16384"

static const char *const all_words[] = { READS, WRITES, "read 131072 4096 df", NULL };

/* ---- flags ---- */

static const struct flag {
	uint16_t flag, with, without; /* what it needs, and what needs it */
	unsigned mask;
} flags[] = {
	{ NBD_FLAG_READ_ONLY, 0, 0, 1 },   { NBD_FLAG_SEND_FLUSH, 0, 0, 2 },
	{ NBD_FLAG_SEND_FUA, 0, 0, 4 },    { NBD_FLAG_ROTATIONAL, 0, 0, 8 },
	{ NBD_FLAG_SEND_TRIM, 0, 0, 7 },   { NBD_FLAG_SEND_WRITE_ZEROES, 0, NBD_FLAG_SEND_FAST_ZERO, 11 },
	{ NBD_FLAG_SEND_DF, 0, 0, 9 },     { NBD_FLAG_CAN_MULTI_CONN, 0, 0, 13 },
	{ NBD_FLAG_SEND_CACHE, 0, 0, 14 }, { NBD_FLAG_SEND_FAST_ZERO, NBD_FLAG_SEND_WRITE_ZEROES, 0, 3 },
};
enum {
	N_FLAGS = sizeof(flags) / sizeof(flags[0]),
	ROWS = 16,
	SETS_MOST = 2 + 2 * N_FLAGS + ROWS,
	EVERYTHING = NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_ROTATIONAL | NBD_FLAG_SEND_TRIM |
	             NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_DF | NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE |
	             NBD_FLAG_SEND_FAST_ZERO,
	SOME = NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_WRITE_ZEROES,
};

/* A pairwise covering array, less what the text does not allow together. */
static uint16_t
row_of(unsigned row)
{
	uint16_t set = 0;

	for (size_t i = 0; i < N_FLAGS; i++)
		if (__builtin_parity(row & flags[i].mask))
			set |= flags[i].flag;
	if ((set & NBD_FLAG_READ_ONLY) != 0)
		set &= (uint16_t) ~(NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES);
	if ((set & NBD_FLAG_SEND_WRITE_ZEROES) == 0)
		set &= (uint16_t)~NBD_FLAG_SEND_FAST_ZERO;
	return set;
}

static void
add_set(struct terms *sets, size_t *n, uint16_t set)
{
	char text[NAME_MAX_TEXT], *name;

	for (size_t i = 0; i < *n; i++)
		if (sets[i].flags == set)
			return;
	if (set == (EVERYTHING | NBD_FLAG_READ_ONLY))
		name = strdup("every flag");
	else if (__builtin_popcount(set & EVERYTHING) < N_FLAGS - 3)
		name = strdup(set == 0 ? "no flag" : name_flags(NAME_TRANSMISSION_FLAG, set, text));
	else if (asprintf(&name, "every flag but %s",
	                  name_flags(NAME_TRANSMISSION_FLAG, set ^ (EVERYTHING | NBD_FLAG_READ_ONLY), text)) < 0)
		abort();
	sets[(*n)++] = (struct terms){ .flags = set, .name = name };
}

CASE_DRIVER(stale, flags,
            "Whatever transmission flags the session before had, a session is as the first one with its own flags",
            R(client_forgets_prior_session), R(flush_only_where_advertised), R(trim_only_where_advertised),
            R(zeroes_only_where_advertised), R(fast_zero_only_where_advertised), R(df_only_where_advertised),
            R(client_uses_exposed_features))
{
	enum { FEW = 4 };
	struct twice *w = twice_new(t, all_words);
	static struct terms sets[SETS_MOST];
	size_t n = 0;

	add_set(sets, &n, 0);
	add_set(sets, &n, EVERYTHING);
	add_set(sets, &n, row_of(5));
	add_set(sets, &n, row_of(12));
	for (size_t i = 0; i < N_FLAGS; i++) {
		add_set(sets, &n, flags[i].flag | flags[i].with);
		add_set(sets, &n, (EVERYTHING ^ flags[i].flag) & (uint16_t)~flags[i].without);
	}
	for (unsigned i = 0; i < ROWS; i++)
		add_set(sets, &n, row_of(i));
	twice_among(w, sets, n, FEW);
}

CASE_DRIVER(stale, read_only,
            "After a session with a read-only export one that may be written to is written to, and the other way round",
            R(client_forgets_prior_session))
{
	static const struct terms rows[] = {
		{ .name = "a read-only export", .flags = SOME | NBD_FLAG_READ_ONLY },
		{ .name = "one that may be written to", .flags = SOME },
		{ .name = "a read-only export without any flag", .flags = NBD_FLAG_READ_ONLY },
		{ .name = "one that may be written to, without any flag" },
	};
	struct twice *w = twice_new(t, all_words);

	twice_among(w, rows, 4, 2);
}

/* ---- size, and block sizes ---- */

CASE_DRIVER(stale, size, "After a session with a larger or smaller export a session uses the size of its own",
            R(client_forgets_prior_session), R(client_within_export))
{
	static const struct terms rows[] = {
		{ .name = "256 KiB", .flags = SOME, .size = 256 << 10 },
		{ .name = "512 KiB", .flags = SOME, .size = 512 << 10 },
		{ .name = "1 MiB", .flags = SOME, .size = 1 << 20 },
		{ .name = "768 KiB", .flags = SOME, .size = 768 << 10 },
		{ .name = "4 GiB and 1 MiB", .flags = SOME, .size = (UINT64_C(4) << 30) + (1 << 20) },
		{ .name = "2^62 bytes", .flags = SOME, .size = UINT64_C(1) << 62 },
	};
	static const char *const words[] = { READS, "write 253952 8192 7", "read 253952 8192", NULL };
	/* Within some of the sizes; at an end, across it, and behind it. */
	static const char *const tried[] = { "read 258048 8192",     "read 262144 4096",    "read 520192 4096",
		                             "read 524288 4096",     "read 1044480 4096",   "read 1048576 4096",
		                             "read 4295958528 4096", "write 520192 4096 7", "zero 782336 4096" };
	struct twice *w = twice_new(t, words);

	POINT(t, "alone")
		for (size_t i = 0; i < sizeof(tried) / sizeof(tried[0]); i++)
			twice_try(w, &rows[0], tried[i]);
	twice_among(w, rows, 6, 3);
}

CASE_DRIVER(stale, block_sizes,
            "After a session with other block sizes, or with none, a session uses those of its own, or none",
            R(client_forgets_prior_session), R(client_minimum_aligned), R(client_abides_by_block_size))
{
	static const struct terms rows[] = {
		{ .name = "no block sizes", .flags = SOME, .knobs = { KNOB_few_infos }, .n_knobs = 1 },
		{ .name = "min=4096,pref=65536,max=65536", .flags = SOME, .block = { 4096, 65536, 65536 } },
		{ .name = "min=1,pref=4096,max=32M", .flags = SOME, .block = { 1, 4096, 32 << 20 } },
		{ .name = "min=512,pref=512,max=1M", .flags = SOME, .block = { 512, 512, 1 << 20 } },
		{ .name = "min=4096,pref=4096,max=64M", .flags = SOME, .block = { 4096, 4096, 64 << 20 } },
		{ .name = "min=1,pref=65536,max=0xffffffff", .flags = SOME, .block = { 1, 65536, UINT32_MAX } },
	};
	static const char *const words[] = { READS, WRITES, NULL };
	static const char *const tried[] = { "read 131073 511", "read 131072 512", "read 131072 131072",
		                             "read 66048 512", "write 32768 131072 7" };
	struct twice *w = twice_new(t, words);

	POINT(t, "alone")
		for (size_t i = 0; i < sizeof(tried) / sizeof(tried[0]); i++)
			twice_try(w, &rows[1], tried[i]);
	twice_among(w, rows, 6, 3);
}

/* ---- contexts ---- */

#define ASKED  "set context=base%3aallocation", "set context=x-nbdspec%3adirty", "set context=x-nbdspec%3ablocks"
#define STATUS "block_status 131072 65536", "block_status 196608 65536"
enum { A = 1 << META_ALLOCATION, D = 1 << META_DIRTY, B = 1 << META_BLOCKS };

CASE_DRIVER(stale, contexts,
            "After a session in which contexts had other ids, or others were selected, or none, a session uses its own",
            R(client_forgets_prior_session), R(set_meta_id_opaque), R(block_status_after_set_meta),
            R(client_status_needs_context))
{
	/* IDs count up in the order in which they are told. */
	static const struct terms rows[] = {
		{ .name = "all contexts", .flags = SOME, .contexts = A | D | B },
		{ .name = "no context", .flags = SOME },
		{ .name = "all contexts with other ids",
		  .flags = SOME,
		  .contexts = A | D | B,
		  .knobs = { KNOB_set_meta_reversed },
		  .n_knobs = 1 },
		{ .name = "base:allocation", .flags = SOME, .contexts = A },
		{ .name = "x-nbdspec:dirty", .flags = SOME, .contexts = D },
		{ .name = "x-nbdspec:dirty and x-nbdspec:blocks", .flags = SOME, .contexts = D | B },
		{ .name = "no NBD_OPT_SET_META_CONTEXT",
		  .flags = SOME,
		  .knobs = { KNOB_no_meta_contexts },
		  .n_knobs = 1 },
	};
	static const char *const words[] = { ASKED, STATUS, READS, NULL };
	struct twice *w = twice_new(t, words);

	drive_needs(w->d, "set", "context");
	drive_needs(w->d, "block_status", NULL);
	twice_among(w, rows, 7, 3);
}

/* Session one asks for contexts, session two for none. */
static char *
without_contexts(struct twice *w, const struct terms *one, const struct terms *two)
{
	char *told;

	twice_apply(w, 0, one != NULL ? one : two);
	if (one != NULL) {
		twice_settings(w, w->handle);
		free(twice_session(w, w->handle, 0));
		ask(w->d, w->handle, "disconnect");
	}
	ask(w->d, w->handle, "set context=");
	twice_apply(w, 0, two);
	told = twice_session(w, w->handle, 0);
	twice_leave(w, w->handle);
	return told;
}

CASE_DRIVER(stale, contexts_unasked, "After a session that asked for contexts a session that asks for none has none",
            R(client_forgets_prior_session), R(block_status_after_set_meta), R(client_status_needs_context))
{
	static const struct terms all = { .name = "all contexts", .flags = SOME, .contexts = A | D | B };
	static const struct terms unasked = { .name = "contexts that nobody asks for",
		                              .flags = SOME,
		                              .contexts = A | D | B };
	static const char *const words[] = { ASKED, STATUS, NULL };
	struct twice *w = twice_new(t, words);

	drive_needs(w->d, "set", "context");
	drive_needs(w->d, "block_status", NULL);
	w->way = w->alone = without_contexts;
	twice_pair(w, &all, &unasked);
}

/* ---- what was agreed in the handshake ---- */

CASE_DRIVER(stale, structured_replies,
            "After a session with structured replies one without them works, and the other way round",
            R(client_forgets_prior_session), R(df_only_where_advertised), R(set_meta_after_structured))
{
	static const struct terms rows[] = {
		{ .name = "structured replies", .flags = EVERYTHING, .contexts = A },
		{ .name = "no structured replies",
		  .flags = EVERYTHING,
		  .contexts = A,
		  .knobs = { KNOB_no_structured_replies },
		  .n_knobs = 1 },
	};
	static const char *const words[] = { "set context=base%3aallocation", STATUS, READS, WRITES,
		                             "read 131072 4096 df",           NULL };
	struct twice *w = twice_new(t, words);

	twice_among(w, rows, 2, 2);
}

CASE_DRIVER(stale, handshake,
            "After a session with another kind of greeting, or other handshake flags, a session keeps to its own",
            R(client_forgets_prior_session), R(client_no_zeroes_unoffered), R(nonfixed_only_export_name),
            R(oldstyle_client_silent))
{
	static const struct terms rows[] = {
		{ .name = "FIXED_NEWSTYLE and NO_ZEROES", .flags = SOME },
		{ .name = "no NO_ZEROES", .flags = SOME, .knobs = { KNOB_no_no_zeroes }, .n_knobs = 1 },
		{ .name = "no FIXED_NEWSTYLE", .flags = SOME, .knobs = { KNOB_no_fixed_newstyle }, .n_knobs = 1 },
		{ .name = "oldstyle", .flags = SOME, .oldstyle = true },
		{ .name = "no handshake flag",
		  .flags = SOME,
		  .knobs = { KNOB_no_fixed_newstyle, KNOB_no_no_zeroes },
		  .n_knobs = 2 },
	};
	struct twice *w = twice_new(t, all_words);

	twice_among(w, rows, 5, 4);
}

CASE_DRIVER(stale, description,
            "After a session with another description, or with one, a session tells its own, or none",
            R(client_forgets_prior_session))
{
	static const struct terms rows[] = {
		{ .name = "no description", .flags = SOME },
		{ .name = "a description", .flags = SOME, .description = "the first of two" },
		{ .name = "another description", .flags = SOME, .description = "2nd" },
		{ .name = "a description unasked",
		  .flags = SOME,
		  .description = "told to all",
		  .knobs = { KNOB_unasked_infos },
		  .n_knobs = 1 },
	};
	static const char *const words[] = { "set full-info=on", READS, NULL };
	struct twice *w = twice_new(t, words);

	twice_among(w, rows, 4, 3);
}

/* ---- errors ---- */

static const struct failing {
	uint16_t type;
	struct terms terms;
} failing[] = {
	{ NBD_CMD_READ, { .name = "a READ that failed", .flags = EVERYTHING, .contexts = A } },
	{ NBD_CMD_WRITE, { .name = "a WRITE that failed", .flags = EVERYTHING, .contexts = A } },
	{ NBD_CMD_FLUSH, { .name = "a FLUSH that failed", .flags = EVERYTHING, .contexts = A } },
	{ NBD_CMD_TRIM, { .name = "a TRIM that failed", .flags = EVERYTHING, .contexts = A } },
	{ NBD_CMD_WRITE_ZEROES, { .name = "a WRITE_ZEROES that failed", .flags = EVERYTHING, .contexts = A } },
	{ NBD_CMD_CACHE, { .name = "a CACHE that failed", .flags = EVERYTHING, .contexts = A } },
	{ NBD_CMD_BLOCK_STATUS, { .name = "a BLOCK_STATUS that failed", .flags = EVERYTHING, .contexts = A } },
};
enum { N_FAILING = sizeof(failing) / sizeof(failing[0]) };

static char *
after_failure(struct twice *w, const struct terms *one, const struct terms *two)
{
	const struct failing *f = (const struct failing *)((const char *)one - offsetof(struct failing, terms));
	char *told;

	twice_apply(w, 0, one);
	twice_settings(w, w->handle);
	fake_fail(w->d->fake, f->type, 1, NBD_EIO, true);
	free(twice_session(w, w->handle, 0));
	ask(w->d, w->handle, "disconnect");
	fake_fail(w->d->fake, f->type, 0, 0, false);
	twice_apply(w, 0, two);
	told = twice_session(w, w->handle, 0);
	twice_leave(w, w->handle);
	return told;
}

CASE_DRIVER(stale, error, "After a session in which a command has failed, a session knows of no error",
            R(client_forgets_prior_session))
{
	static const struct terms two = { .name = "no error", .flags = EVERYTHING, .contexts = A };
	static const char *const words[] = { "set context=base%3aallocation", "read 131072 4096", WRITES, STATUS,
		                             NULL };
	struct twice *w = twice_new(t, words);

	w->way = after_failure;
	for (volatile size_t i = 0; i < (client_pairwise(w->d->client) ? 3 : N_FAILING); i++)
		POINT(t, "after %s", failing[i].terms.name)
			twice_pair(w, &failing[i].terms, &two);
}

/*
 * A client may have kept the data, and say ok before they are sent. Then whoever flushes is told, in whatever session;
 * and nobody is told twice.
 */
static void
judge_lost(struct drive *d, bool told)
{
	struct fake_export *e = &d->exports[0];
	struct driver_answer flush;
	uint8_t wanted[4096], found[4096];

	must(d, R(client_forgets_prior_session), 1, "connect %s", d->uri);
	flush = ask(d, 1, "flush");
	driver_pattern(7, 4096, sizeof(wanted), wanted);
	disk_read(e->disk, 4096, sizeof(found), found);
	if (told && flush.result != DRIVER_OK)
		broken_values(d->t, R(client_forgets_prior_session), "'flush' is ok: the write's error was told",
		              "an error in the session after it");
	if (!told && flush.result == DRIVER_OK && memcmp(wanted, found, sizeof(found)) != 0)
		broken_values(d->t, R(baseline_client_write), "the data are written, or an error is told",
		              "the write is ok, the flush in the next session is ok, and the data are nowhere");
	must(d, R(client_forgets_prior_session), 1, "write 8192 4096 7");
	must(d, R(client_forgets_prior_session), 1, "flush");
	must(d, R(baseline_client_disc), 1, "disconnect");
}

CASE_DRIVER(stale, lost_write,
            "Where a write is lost with its session its error is told once, and the next session's flush is none of it",
            R(client_forgets_prior_session), R(baseline_client_write))
{
	static const char *const how[] = { "fails", "is cut off unanswered" };
	struct drive *d = drive_new(t);

	drive_needs(d, "write", NULL);
	drive_needs(d, "flush", NULL);
	for (volatile int i = 0; i < 2; i++)
		POINT(t, "the write %s", how[i]) {
			struct driver_answer a;
			bool told;

			drive_serve(d, "flags=SEND_FLUSH", NULL);
			must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
			if (i == 0)
				fake_fail(d->fake, NBD_CMD_WRITE, UINT32_MAX, NBD_EIO, false);
			d->hold = i == 1;
			drive_send(d, 1, "write 4096 4096 7");
			if (i == 1)
				fake_disconnect(d->fake, 0);
			d->hold = false;
			told = drive_take(d).result != DRIVER_OK;
			/* Who would connect again in order to leave finds nobody: how far it comes would be chance. */
			if (i == 1)
				drive_stop_server(d);
			a = ask(d, 1, "disconnect");
			/* Where there is no connection any more, it says no more than that. */
			told |= i == 0 && a.result != DRIVER_OK;
			if (i == 1)
				drive_restart_server(d);
			fake_fail(d->fake, NBD_CMD_WRITE, 0, 0, false);
			judge_lost(d, told);
			drive_finish(d);
		}
}
