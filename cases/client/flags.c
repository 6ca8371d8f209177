/*
 * Transmission flags: every legal set of them, by each way into the transmission phase. What was not advertised may not be
 * sent, and what the client calls done must have been asked of the server.
 */
#include "cases/client/drive.h"
#include "cases/client/refuse.h"
#include "harness/client.h"
#include "harness/names.h"
#include "harness/nbd.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEP = 8192, LENGTH = 4096, PAIRED = 16, HANDLE = 1 };

/* ---- the sets ---- */

/*
 * All of proto.md:1103-1152 but HAS_FLAGS, which is always 1. The masks make a covering array of 16 rows: in any two
 * columns all four combinations stand, since the masks differ; no third is the sum of those of the last two, which
 * do not stand in all four.
 */
static const struct column {
	uint16_t flag;
	unsigned mask;
} columns[] = {
	{ NBD_FLAG_READ_ONLY, 3 },       { NBD_FLAG_SEND_FLUSH, 2 },  { NBD_FLAG_SEND_FUA, 4 },
	{ NBD_FLAG_ROTATIONAL, 8 },      { NBD_FLAG_SEND_TRIM, 7 },   { NBD_FLAG_SEND_DF, 5 },
	{ NBD_FLAG_CAN_MULTI_CONN, 13 }, { NBD_FLAG_SEND_CACHE, 14 }, { NBD_FLAG_SEND_WRITE_ZEROES, 11 },
	{ NBD_FLAG_SEND_FAST_ZERO, 1 },
};
enum { N_COLUMNS = sizeof(columns) / sizeof(columns[0]), UNKNOWN_MASK = 6 };
static const uint16_t unknown_bits[] = { 1 << 13, 1 << 14, 1 << 15, 7 << 13 };

static unsigned
n_sets(bool pairwise)
{
	return pairwise ? PAIRED : 2u << N_COLUMNS;
}

/* False: the text does not allow this one (proto.md:1145). */
static bool
flag_set(unsigned i, bool pairwise, uint16_t *flags)
{
	uint16_t all = NBD_FLAG_HAS_FLAGS;
	bool unknown = pairwise ? __builtin_parity(i & UNKNOWN_MASK) : i & 1;

	for (unsigned k = 0; k < N_COLUMNS; k++)
		if (pairwise ? __builtin_parity(i & columns[k].mask) : i >> (k + 1) & 1)
			all |= columns[k].flag;
	if ((all & NBD_FLAG_SEND_WRITE_ZEROES) == 0 && (all & NBD_FLAG_SEND_FAST_ZERO) != 0) {
		if (!pairwise)
			return false;
		all &= (uint16_t)~NBD_FLAG_SEND_FAST_ZERO;
	}
	*flags = unknown ? all | unknown_bits[i / 2 % 4] : all;
	return true;
}

/* ---- what is asked for in each session ---- */

enum kind { READS, WRITES, HINTS, FLUSHES };
static const struct operation {
	const char *name, *flag;
	enum kind kind;
	uint16_t type, flags;            /* the request that it is */
	uint16_t needs;                  /* transmission flags */
	enum requirement_id flag_wanted; /* what a request without the flag breaks */
} operations[] = {
	{ "read", NULL, READS, NBD_CMD_READ, 0, 0, 0 },
	{ "read", "df", READS, NBD_CMD_READ, NBD_CMD_FLAG_DF, NBD_FLAG_SEND_DF, R(df_set_when_needed) },
	{ "block_status", NULL, READS, NBD_CMD_BLOCK_STATUS, 0, 0, 0 },
	{ "cache", NULL, HINTS, NBD_CMD_CACHE, 0, NBD_FLAG_SEND_CACHE, 0 },
	{ "write", NULL, WRITES, NBD_CMD_WRITE, 0, 0, 0 },
	{ "write", "fua", WRITES, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, NBD_FLAG_SEND_FUA, 0 },
	{ "flush", NULL, FLUSHES, NBD_CMD_FLUSH, 0, NBD_FLAG_SEND_FLUSH, 0 },
	{ "trim", NULL, HINTS, NBD_CMD_TRIM, 0, NBD_FLAG_SEND_TRIM, 0 },
	{ "trim", "fua", HINTS, NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_FUA, 0 },
	{ "zero", NULL, WRITES, NBD_CMD_WRITE_ZEROES, 0, NBD_FLAG_SEND_WRITE_ZEROES, 0 },
	{ "zero", "no-hole", WRITES, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, NBD_FLAG_SEND_WRITE_ZEROES,
	  R(no_hole_set_when_wanted) },
	{ "zero", "fast", WRITES, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, NBD_FLAG_SEND_FAST_ZERO, 0 },
	{ "zero", "fua", WRITES, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FUA, NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FUA,
	  0 },
};
enum { N_OPERATIONS = sizeof(operations) / sizeof(operations[0]) };

enum entry { ENTRY_OLDSTYLE, ENTRY_EXPORT_NAME, ENTRY_GO };

/* What the text of a session comes to, while it runs. */
struct round {
	struct drive *d;
	enum entry entry;
	bool info_first;
	unsigned number;               /* of the session */
	uint16_t set;                  /* advertised, if structured replies are agreed */
	bool unknown_refused, told[2]; /* said once is enough */
	char *unstable;                /* likewise; it ends the case behind the last set, so that it hides no other */
	/* of this session: */
	uint16_t flags; /* that were told */
	bool structured, contexts;
	bool dirty; /* something was written, and not flushed */
	struct driver_answer answer[N_OPERATIONS];
	off_t end[N_OPERATIONS]; /* where its records end */
	bool asked[N_OPERATIONS];
};

static bool
is_writing(uint16_t type)
{
	return type == NBD_CMD_WRITE || type == NBD_CMD_WRITE_ZEROES || type == NBD_CMD_TRIM;
}

/* "zero 98304 4096 fast" */
static const char *
words_of(const struct round *n, unsigned i, char text[80])
{
	const struct operation *o = &operations[i];
	char pattern[16] = "";

	if (o->type == NBD_CMD_WRITE)
		snprintf(pattern, sizeof(pattern), " %u", 2 + n->number % 65000);
	if (o->kind == FLUSHES)
		snprintf(text, 80, "%s", o->name);
	else
		snprintf(text, 80, "%s %u %d%s%s%s", o->name, i * STEP, LENGTH, pattern, o->flag != NULL ? " " : "",
		         o->flag != NULL ? o->flag : "");
	return text;
}

/* ---- what came over the wire for one of them ---- */

struct seen {
	unsigned requests, exact, writing;
	unsigned volatile_writes; /* without FUA, and no FLUSH after them */
	bool flushed;
	uint32_t error; /* of the last reply */
	bool unflagged; /* the command came without the flag that it was asked with */
};

static void
see_request(struct seen *s, const struct operation *o, const struct request *q)
{
	s->requests++;
	s->exact += q->type == o->type && (q->flags & o->flags) == o->flags;
	s->unflagged |= q->type == o->type && (q->flags & o->flags) != o->flags;
	s->writing += is_writing(q->type);
	if (is_writing(q->type) && (q->flags & NBD_CMD_FLAG_FUA) == 0)
		s->volatile_writes++;
	if (q->type == NBD_CMD_FLUSH) {
		s->volatile_writes = 0;
		s->flushed = true;
	}
}

static void
see_chunk(struct seen *s, const struct trace_record *r)
{
	struct chunk_error error = { 0 };
	struct chunk m;

	wire_get_chunk(wire_over(r->data), &m);
	if ((m.type & 0x8000) != 0)
		wire_get_chunk_error(wire_over(m.data), &error);
	s->error = error.error;
}

/* Takes the records up to this offset. */
static struct seen
see(struct wire *w, const uint8_t *end, const struct operation *o)
{
	struct seen s = { 0 };
	struct simple_reply simple;
	struct trace_record r;
	struct request q;

	while (w->at < end && trace_next(w, &r)) {
		if (r.kind != TRACE_MESSAGE)
			continue;
		if (r.message == MSG_REQUEST) {
			wire_get_request(wire_over(r.data), &q);
			see_request(&s, o, &q);
		} else if (r.message == MSG_SIMPLE_REPLY) {
			wire_get_simple_reply(wire_over(r.data), &simple);
			s.error = simple.error;
		} else if (r.message == MSG_CHUNK) {
			see_chunk(&s, &r);
		}
	}
	return s;
}

/* What the handshake came to. */
static void
see_handshake(struct round *n, struct wire *w, const uint8_t *end)
{
	struct trace_record r;
	struct option_reply m;

	n->structured = n->contexts = false;
	while (w->at < end && trace_next(w, &r)) {
		if (r.kind != TRACE_MESSAGE || r.message != MSG_OPTION_REPLY)
			continue;
		wire_get_option_reply(wire_over(r.data), &m);
		n->structured |= m.option == NBD_OPT_STRUCTURED_REPLY && m.type == NBD_REP_ACK;
		n->contexts |= m.option == NBD_OPT_SET_META_CONTEXT && m.type == NBD_REP_META_CONTEXT;
	}
	n->flags = n->structured ? n->set : n->set & (uint16_t)~NBD_FLAG_SEND_DF;
}

/* ---- judgement ---- */

/* What a client breaks that takes the flags for others than they are. */
static enum requirement_id
misread(const struct round *n)
{
	return n->entry == ENTRY_GO ? R(baseline_client_info_go) : R(client_uses_exposed_features);
}

_Noreturn static void
wrong(const struct round *n, enum requirement_id r, const char *what, const char *instead)
{
	char flags[NAME_MAX_TEXT], got[NAME_MAX_TEXT + 200];

	snprintf(got, sizeof(got), "%s, with the transmission flags %s", instead,
	         name_flags(NAME_TRANSMISSION_FLAG, n->flags, flags));
	broken_values(n->d->t, r, what, got);
}

/* Success: a FLUSH came, if there was anything for it, and what was to be stable is. Where the server offers neither, nothing can be done for it. */
static void
judge_stable(struct round *n, const struct operation *o, const struct seen *s)
{
	bool can = (n->flags & (NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA)) != 0;
	char flags[NAME_MAX_TEXT];

	if (o->kind == FLUSHES && (n->flags & NBD_FLAG_SEND_FLUSH) != 0 && s->exact == 0 && n->dirty)
		wrong(n, R(baseline_client_write), "NBD_CMD_FLUSH before 'flush' is answered 'ok'",
		      "'ok', and no FLUSH");
	if ((o->flags & NBD_CMD_FLAG_FUA) == 0 || o->type == NBD_CMD_READ)
		return;
	if (o->kind == WRITES && s->writing == 0)
		wrong(n, R(baseline_client_write), "a request that writes, before fua is answered 'ok'",
		      "'ok', and no request");
	if (can && s->volatile_writes > 0 && n->unstable == NULL &&
	    asprintf(&n->unstable, "'ok', and neither, with the transmission flags %s",
	             name_flags(NAME_TRANSMISSION_FLAG, n->flags, flags)) < 0)
		abort();
	if (!can && s->volatile_writes > 0 && !n->told[0]) {
		n->told[0] = true;
		observe(n->d->t, R(fua_may_be_set), "fua is answered 'ok' where neither FUA nor FLUSH is advertised");
	}
}

static void
judge_success(struct round *n, const struct operation *o, const struct seen *s)
{
	char error[NAME_MAX_TEXT], text[NAME_MAX_TEXT + 80];

	if (s->error != NBD_SUCCESS && o->kind != HINTS) {
		snprintf(text, sizeof(text), "'%s' is answered 'ok' after %s", o->name,
		         name_text(NAME_ERROR, s->error, error));
		wrong(n, n->structured ? R(client_error_chunk_fails_reply) : R(baseline_client_simple_replies),
		      "an error to the user", text);
	}
	if (o->kind == WRITES && (n->flags & NBD_FLAG_READ_ONLY) != 0 && s->requests == 0)
		wrong(n, R(baseline_client_write), "an error to the user", "a write is 'ok', and was never sent");
	judge_stable(n, o, s);
	if (o->flag_wanted == REQUIREMENT_NONE || !s->unflagged || (n->flags & o->needs) != o->needs || n->told[1])
		return;
	n->told[1] = true;
	snprintf(text, sizeof(text), "%s is sent without %s", o->name, o->flag);
	deviates(n->d->t, o->flag_wanted, "the command flag that the user asked for", text);
}

/* The server fails nothing that it offers. */
static void
judge_failure(struct round *n, unsigned i, const struct seen *s)
{
	const struct operation *o = &operations[i];
	bool writes = is_writing(o->type), offered = (n->flags & o->needs) == o->needs;
	char text[200];

	if (o->type == NBD_CMD_BLOCK_STATUS)
		offered = n->contexts;
	if (!offered || (writes && (n->flags & NBD_FLAG_READ_ONLY) != 0) || s->error != NBD_SUCCESS)
		return;
	snprintf(text, sizeof(text), "'%s%s%s' is answered 'error %.100s', and %s", o->name, o->flag != NULL ? " " : "",
	         o->flag != NULL ? o->flag : "", n->answer[i].text,
	         s->requests > 0 ? "the server's reply was success" : "nothing was sent");
	if (s->requests > 0)
		wrong(n, n->structured ? R(none_chunk_taken_as_success) : R(baseline_client_simple_replies),
		      "success to the user", text);
	wrong(n, misread(n), "what is advertised can be used", text);
}

static void
judge_operations(struct round *n, struct wire *w, const uint8_t *base)
{
	n->dirty = false;
	for (unsigned i = 0; i < N_OPERATIONS; i++) {
		struct seen s;

		if (!n->asked[i])
			continue;
		s = see(w, base + n->end[i], &operations[i]);
		if (n->answer[i].result == DRIVER_OK)
			judge_success(n, &operations[i], &s);
		else if (n->answer[i].result == DRIVER_ERROR)
			judge_failure(n, i, &s);
		n->dirty = s.volatile_writes > 0 || (n->dirty && !s.flushed);
	}
}

/* What was written and not failed is on the disk once the session is over; reads are compared as they come. */
static void
judge_written(const struct round *n)
{
	uint8_t data[LENGTH];
	char text[80];

	for (unsigned i = 0; i < N_OPERATIONS; i++) {
		if (!n->asked[i] || operations[i].type != NBD_CMD_WRITE || n->answer[i].result != DRIVER_OK)
			continue;
		driver_pattern(2 + n->number % 65000, i * STEP, LENGTH, data);
		if (disk_digest(&n->d->exports[0], i * STEP, LENGTH) != driver_digest(data, LENGTH))
			wrong(n, R(baseline_client_write), words_of(n, i, text),
			      "'ok', and the disk holds something else");
	}
}

/* A block device has a write cache where FLUSH is offered, and nowhere else. */
static void
judge_write_cache(struct round *n, const struct driver_answer *a)
{
	const char *want = (n->flags & NBD_FLAG_SEND_FLUSH) != 0 ? "write back" : "write through";
	char *said = known(a, "queue.write_cache"), wanted[40], got[60];

	snprintf(wanted, sizeof(wanted), "queue.write_cache=%s", want);
	snprintf(got, sizeof(got), "queue.write_cache=%.30s", said != NULL ? said : want);
	if (strcmp(wanted, got) != 0)
		wrong(n, misread(n), wanted, got);
	free(said);
}

/*
 * What the client's API says of the flags. A client may say that it can do what it does by other commands, and that it
 * cannot write at all to what is read-only.
 */
static void
judge_known(struct round *n, const struct driver_answer *a)
{
	static const struct {
		const char *key;
		uint16_t flag;
		bool by_others, writes;
	} keys[] = {
		{ "read-only", NBD_FLAG_READ_ONLY, false, false },
		{ "flush", NBD_FLAG_SEND_FLUSH, true, true },
		{ "fua", NBD_FLAG_SEND_FUA, true, true },
		{ "rotational", NBD_FLAG_ROTATIONAL, false, false },
		{ "trim", NBD_FLAG_SEND_TRIM, false, true },
		{ "zero", NBD_FLAG_SEND_WRITE_ZEROES, true, true },
		{ "df", NBD_FLAG_SEND_DF, false, false },
		{ "multi-conn", NBD_FLAG_CAN_MULTI_CONN, true, false },
		{ "cache", NBD_FLAG_SEND_CACHE, true, false },
		{ "fast-zero", NBD_FLAG_SEND_FAST_ZERO, false, true },
	};
	char want[40], got[40];

	for (unsigned i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		bool set = (n->flags & keys[i].flag) != 0, read_only = (n->flags & NBD_FLAG_READ_ONLY) != 0;
		char *said = known(a, keys[i].key);
		bool yes = said != NULL && strcmp(said, "yes") == 0;

		if (said != NULL && yes != set && !(yes && keys[i].by_others) &&
		    !(!yes && read_only && keys[i].writes)) {
			snprintf(want, sizeof(want), "%s=%s", keys[i].key, set ? "yes" : "no");
			snprintf(got, sizeof(got), "%s=%.10s", keys[i].key, said);
			wrong(n, misread(n), want, got);
		}
		free(said);
	}
	judge_write_cache(n, a);
}

/* ---- a session ---- */

static struct driver_answer
enter(const struct round *n)
{
	struct driver_answer a;

	if (!n->info_first)
		return ask(n->d, HANDLE, "connect %s", n->d->uri);
	must(n->d, R(baseline_client_fixed_newstyle), HANDLE, "haggle %s", n->d->uri);
	a = ask(n->d, HANDLE, "info");
	return a.result == DRIVER_OK ? ask(n->d, HANDLE, "go") : a;
}

/* It is the unknown flags that it left over. */
static bool
refused_unknown(struct round *n)
{
	struct driver_answer a;

	if ((n->set & unknown_bits[3]) == 0)
		return false;
	n->d->exports[0].flags = n->set & (uint16_t)~unknown_bits[3];
	a = enter(n);
	n->unknown_refused = a.result == DRIVER_OK;
	if (n->unknown_refused)
		ask(n->d, HANDLE, "disconnect");
	return n->unknown_refused;
}

/* False: not with these flags, which is said. A client need not know the older ways. */
static bool
entered(struct round *n, const struct driver_answer *a)
{
	struct test *t = n->d->t;
	char text[200];

	if (a->result == DRIVER_OK)
		return true;
	if (n->number > 1 && refused_unknown(n)) {
		snprintf(text, sizeof(text), "'error %.100s', and without the unknown flags it does", a->text);
		deviates(t, R(client_ignores_transmission_flags), "the client connects", text);
		drive_mark(n->d);
		return false;
	}
	if (n->number == 1 && n->entry == ENTRY_OLDSTYLE)
		skip(t, "oldstyle", "the client does not take an oldstyle server: %s", a->text);
	snprintf(text, sizeof(text), "'error %.100s'", a->text);
	if (n->number == 1 && n->entry == ENTRY_EXPORT_NAME) {
		deviates(t, R(interop_export_name_used), "the client connects by NBD_OPT_EXPORT_NAME", text);
		skip(t, "EXPORT_NAME", "the client does without it");
	}
	drive_skip_refused_sizes(n->d);
	n->flags = n->set;
	wrong(n, misread(n), "the client connects", text);
}

static void
ask_all(struct round *n)
{
	static uint32_t unwritten;
	char text[80];

	if (unwritten == 0)
		unwritten = disk_digest(&n->d->exports[0], 0, LENGTH);
	for (unsigned i = 0; i < N_OPERATIONS; i++) {
		if (n->asked[i])
			n->answer[i] = ask(n->d, HANDLE, "%s", words_of(n, i, text));
		/* Who answers early has sent it all the same. */
		while (fake_turn(n->d->fake) > 0)
			;
		n->end[i] = trace_end(n->d->config.trace) - n->d->from;
	}
	if (n->answer[0].result == DRIVER_OK && strtoul(n->answer[0].text, NULL, 16) != unwritten)
		wrong(n, R(baseline_client_read), "the data of the disk", n->answer[0].text);
}

static void
one_session(struct round *n)
{
	struct driver_answer a;
	struct wire w;
	const uint8_t *base;
	char *context;
	off_t begun;

	n->number++;
	n->d->exports[0].flags = n->set;
	a = enter(n);
	if (!entered(n, &a))
		return;
	begun = trace_end(n->d->config.trace) - n->d->from;
	ask_all(n);
	must(n->d, R(baseline_client_disc), HANDLE, "disconnect");
	w = drive_records(n->d);
	base = w.at;
	see_handshake(n, &w, base + begun);
	/* A proxy may select for itself what its user did not ask for. */
	context = known(&a, "context");
	n->contexts &= context != NULL;
	free(context);
	judge_known(n, &a);
	judge_operations(n, &w, base);
	judge_written(n);
	drive_finish(n->d);
	drive_mark(n->d);
}

static void
all_sets(struct round *n)
{
	bool pairwise = client_pairwise(n->d->client);

	for (unsigned i = 0; i < N_OPERATIONS; i++)
		n->asked[i] = driver_has(n->d->driver, operations[i].name, operations[i].flag);
	for (unsigned i = 0; i < n_sets(pairwise); i++) {
		if (!flag_set(i, pairwise, &n->set))
			continue;
		/* Without structured replies the server leaves DF out (proto.md:1123): that session has been. */
		if (!pairwise && n->number > 0 && !n->structured && (n->set & NBD_FLAG_SEND_DF) != 0)
			continue;
		if (!n->unknown_refused || (n->set & unknown_bits[3]) == 0)
			one_session(n);
	}
	observe(n->d->t, R(client_uses_exposed_features), "%u sessions, %s", n->number,
	        pairwise ? "the flags pair by pair" : "every legal combination of flags");
	if (n->unstable != NULL)
		broken_values(n->d->t, R(baseline_client_write),
		              "NBD_CMD_FLAG_FUA, or a FLUSH behind, before fua is answered 'ok'", n->unstable);
}

/* ---- the ways into transmission ---- */

#define JUDGED                                                                                                         \
	R(client_uses_exposed_features), R(client_ignores_transmission_flags), R(client_df_unadvertised),              \
		R(client_fast_zero_unadvertised), R(df_only_where_advertised), R(fast_zero_only_where_advertised),     \
		R(flush_only_where_advertised), R(trim_only_where_advertised), R(zeroes_only_where_advertised),        \
		R(command_flags_documented_only), R(client_negotiates_extras), R(no_hole_set_when_wanted),             \
		R(baseline_client_write), R(baseline_client_simple_replies), R(baseline_client_read)

static struct round *
round_new(struct test *t, enum entry entry)
{
	static struct round n;

	n = (struct round){ .d = drive_new(t), .entry = entry };
	return &n;
}

CASE_DRIVER(flags, oldstyle,
            "Whatever flags an oldstyle server sets, nothing is sent that they do not offer, and what they offer works",
            JUDGED)
{
	struct round *n = round_new(t, ENTRY_OLDSTYLE);

	drive_serve(n->d, "", NULL);
	n->d->config.oldstyle = true;
	all_sets(n);
}

static void
by_export_name(struct test *t, bool zeroes)
{
	struct round *n = round_new(t, ENTRY_EXPORT_NAME);

	drive_serve(n->d, "", NULL);
	n->d->config.knob[KNOB_no_fixed_newstyle] = true;
	n->d->config.knob[KNOB_no_no_zeroes] = zeroes;
	all_sets(n);
}

CASE_DRIVER(
	flags, export_name,
	"Whatever flags come by NBD_OPT_EXPORT_NAME, nothing is sent that they do not offer, and what they offer works",
	JUDGED, R(interop_export_name_used))
{
	by_export_name(t, false);
}

CASE_DRIVER(flags, export_name_structured,
            "Likewise where the server knows structured replies and no NBD_OPT_GO, so that NBD_OPT_EXPORT_NAME follows",
            JUDGED, R(go_falls_back), R(interop_export_name_used), R(client_error_chunk_fails_reply),
            R(none_chunk_taken_as_success), R(df_set_when_needed))
{
	static const uint32_t unknown[] = { NBD_OPT_INFO, NBD_OPT_GO, 0 };
	struct round *n = round_new(t, ENTRY_EXPORT_NAME);

	drive_serve(n->d, "", NULL);
	refuse_options(n->d, NBD_REP_ERR_UNSUP, unknown);
	all_sets(n);
}

CASE_DRIVER(flags, export_name_padded, "Likewise where 124 zeroes follow the answer to NBD_OPT_EXPORT_NAME", JUDGED,
            R(interop_export_name_used))
{
	by_export_name(t, true);
}

static void
by_go(struct round *n, const char *export)
{
	drive_serve(n->d, export, NULL);
	all_sets(n);
}

#define BY_GO                                                                                                          \
	R(baseline_client_info_go), R(client_error_chunk_fails_reply), R(none_chunk_taken_as_success),                 \
		R(df_set_when_needed)

CASE_DRIVER(flags, go_simple, "Likewise by NBD_OPT_GO, where the server has simple replies only", JUDGED,
            R(baseline_client_info_go), R(structured_reply_unsup_handled))
{
	struct round *n = round_new(t, ENTRY_GO);

	drive_serve(n->d, "", NULL);
	n->d->config.knob[KNOB_no_structured_replies] = true;
	all_sets(n);
}

CASE_DRIVER(flags, go_structured, "Likewise by NBD_OPT_GO, with structured replies and no metadata contexts", JUDGED,
            BY_GO)
{
	struct round *n = round_new(t, ENTRY_GO);

	drive_serve(n->d, "", NULL);
	n->d->config.knob[KNOB_no_meta_contexts] = true;
	all_sets(n);
}

CASE_DRIVER(flags, go_contexts, "Likewise by NBD_OPT_GO, with base:allocation selected where the client can", JUDGED,
            BY_GO)
{
	struct round *n = round_new(t, ENTRY_GO);

	if (driver_has(n->d->driver, "set", "context"))
		must(n->d, R(baseline_client_info_go), HANDLE, "set context=base%%3aallocation");
	by_go(n, "");
}

CASE_DRIVER(flags, go_block_sizes, "Likewise by NBD_OPT_GO, with block sizes and all other information told", JUDGED,
            BY_GO)
{
	struct round *n = round_new(t, ENTRY_GO);

	if (driver_has(n->d->driver, "set", "full-info"))
		must(n->d, R(baseline_client_info_go), HANDLE, "set full-info=on");
	by_go(n, "min=512,pref=4096,max=65536,description=flags");
}

CASE_DRIVER(flags, go_after_info, "Likewise by NBD_OPT_GO behind an NBD_OPT_INFO", JUDGED, BY_GO)
{
	struct round *n = round_new(t, ENTRY_GO);

	drive_needs(n->d, "haggle", NULL);
	drive_needs(n->d, "info", NULL);
	drive_needs(n->d, "go", NULL);
	n->info_first = true;
	by_go(n, "");
}
