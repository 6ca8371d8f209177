/*
 * The model of a power cut (harness/history.h) against its definition, written down once more with nothing but loops:
 * every history of up to five commands over a few bytes, and thousands of long ones by seed. After each event the
 * contents that every byte may hold must be the same, with what is guaranteed and by which promise.
 */
#include "harness/history.h"
#include "harness/random.h"

#include <inttypes.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { DISK_MOST = 64, COMMANDS_MOST = 600 };

/* ---- the definition ---- */

struct command {
	enum history_kind kind;
	bool fua, success, forgotten, destaged;
	unsigned connection, low, high; /* bytes low … high - 1 */
	unsigned received, answered;    /* moments; 0: not yet */
	unsigned promise;               /* found by is_guaranteed */
};

struct oracle {
	bool flush_covers_all;
	unsigned size, now, n, first;        /* commands before .first are from before a cut */
	struct command c[COMMANDS_MOST + 1]; /* from 1, as they are numbered */
};

static bool
before(const struct command *a, const struct command *b)
{
	return a->answered != 0 && a->answered < b->received;
}

static bool
is_guaranteed(struct oracle *o, struct command *w)
{
	unsigned self = (unsigned)(w - o->c);

	if (w->answered == 0 || !w->success)
		return false;
	if (w->fua || w->destaged) {
		w->promise = w->fua ? self : 0;
		return true;
	}
	for (unsigned i = o->first; i <= o->n && !w->forgotten; i++) {
		const struct command *f = &o->c[i];

		if (f->kind == HISTORY_FLUSH && f->answered != 0 && f->success && before(w, f) &&
		    (o->flush_covers_all || f->connection == w->connection) &&
		    (w->promise == 0 || o->c[w->promise].kind != HISTORY_FLUSH ||
		     o->c[w->promise].answered > f->answered))
			w->promise = i;
	}
	return w->promise != 0;
}

static bool
covers(const struct command *w, unsigned byte)
{
	return w->kind != HISTORY_FLUSH && w->low <= byte && byte < w->high;
}

/* Into legal[], ascending: the numbers of what the byte may hold, 0 for what was there first. */
static unsigned
legal_contents(struct oracle *o, unsigned byte, unsigned legal[])
{
	bool initial = true, out;
	unsigned n = 1;

	legal[0] = 0;
	for (unsigned v = o->first; v <= o->n; v++) {
		if (!covers(&o->c[v], byte))
			continue;
		out = false;
		for (unsigned g = o->first; g <= o->n && !out; g++)
			out = g != v && covers(&o->c[g], byte) && is_guaranteed(o, &o->c[g]) &&
			      before(&o->c[v], &o->c[g]);
		initial &= !is_guaranteed(o, &o->c[v]);
		if (!out)
			legal[n++] = v;
	}
	if (initial)
		return n;
	memmove(legal, legal + 1, (n - 1) * sizeof(*legal));
	return n - 1;
}

/* ---- both, side by side ---- */

struct pair {
	struct oracle oracle;
	struct history *history;
	unsigned base[DISK_MOST]; /* which command's bytes are settled there; 0: what was there first */
	unsigned given, released; /* contents */
	bool is_released[COMMANDS_MOST * 40];
	uint64_t events;
};

static void *
give_content(struct pair *p)
{
	return &p->is_released[++p->given];
}

static void *
give_initial(void *arg, uint64_t offset, uint64_t length)
{
	(void)offset;
	(void)length;
	return give_content(arg);
}

static void
take_content(void *arg, enum history_kind kind, void *content)
{
	struct pair *p = arg;
	bool *is = content;

	(void)kind;
	if (is == NULL || *is)
		fail_msg("a content is released twice, or never was one");
	*is = true;
	p->released++;
}

static void
note_settled(void *arg, uint64_t offset, uint64_t length, const struct history_candidate *c)
{
	struct pair *p = arg;

	for (uint64_t i = offset; i < offset + length; i++)
		p->base[i] = (unsigned)c->number;
}

static void
pair_start(struct pair *p, unsigned size, bool flush_covers_all)
{
	memset(&p->oracle, 0, offsetof(struct oracle, c));
	p->oracle.size = size;
	p->oracle.first = 1;
	p->oracle.flush_covers_all = flush_covers_all;
	memset(p->base, 0, sizeof(p->base));
	memset(p->is_released, 0, p->given + 1);
	p->given = p->released = 0;
	p->history = history_new(
		flush_covers_all, false,
		&(struct history_owner){
			.arg = p, .initial = give_initial, .release = take_content, .settled = note_settled });
}

static void
pair_end(struct pair *p)
{
	history_free(p->history);
	if (p->given != p->released)
		fail_msg("of %u contents %u were released", p->given, p->released);
}

static void
receive(struct pair *p, struct command c)
{
	struct oracle *o = &p->oracle;
	struct history_command h = {
		.kind = c.kind, .fua = c.fua, .connection = c.connection, .offset = c.low, .length = c.high - c.low
	};

	c.received = ++o->now;
	o->c[++o->n] = c;
	if (c.kind != HISTORY_FLUSH)
		h.content = give_content(p);
	if (history_receive(p->history, &h) != o->n)
		fail_msg("the numbers differ");
	p->events++;
}

static void
answer(struct pair *p, unsigned number, bool success)
{
	struct command *c = &p->oracle.c[number];

	c->answered = ++p->oracle.now;
	c->success = success;
	history_answer(p->history, number, success);
	p->events++;
}

static void
print_history(const struct oracle *o)
{
	static const char *const kinds[] = { "initial", "WRITE", "ZEROES", "TRIM", "FLUSH" };

	for (unsigned i = 1; i <= o->n; i++)
		print_error("  %2u %-6s [%u, %u)%s connection %u, arrives at %u, %s at %u%s\n", i, kinds[o->c[i].kind],
		            o->c[i].low, o->c[i].high, o->c[i].fua ? " FUA" : "", o->c[i].connection, o->c[i].received,
		            o->c[i].success ? "done" : "failed", o->c[i].answered,
		            o->c[i].forgotten ? ", forgotten" : "");
}

static void
check_byte(struct pair *p, unsigned byte, unsigned n, const struct history_candidate *const *found)
{
	unsigned legal[COMMANDS_MOST + 1], want = legal_contents(&p->oracle, byte, legal);
	bool same = n == want;

	for (unsigned i = 0; same && i < n; i++) {
		unsigned number = found[i]->number != 0 ? (unsigned)found[i]->number : p->base[byte];
		struct command *c = &p->oracle.c[number];

		same = number == legal[i];
		if (same && found[i]->number != 0)
			same = found[i]->guaranteed == is_guaranteed(&p->oracle, c) &&
			       (!found[i]->guaranteed || found[i]->promise == c->promise);
	}
	if (same)
		return;
	print_history(&p->oracle);
	print_error("byte %u may hold, by the definition:", byte);
	for (unsigned i = 0; i < want; i++)
		print_error(" %u", legal[i]);
	print_error("; by the model:");
	for (unsigned i = 0; i < n; i++)
		print_error(" %u%s(%u)", found[i]->number != 0 ? (unsigned)found[i]->number : p->base[byte],
		            found[i]->guaranteed ? "!" : "", (unsigned)found[i]->promise);
	print_error("\n");
	fail_msg("the model and the definition differ");
}

static void
check(struct pair *p)
{
	struct history_candidate settled = { .kind = HISTORY_INITIAL };
	const struct history_candidate *only = &settled;
	struct history_cell cell;
	uint64_t from = 0;

	for (unsigned byte = 0; byte < p->oracle.size; byte++) {
		if (byte >= from && history_next(p->history, byte, &cell))
			from = cell.offset + cell.length;
		else if (byte >= from)
			from = UINT64_MAX, cell.offset = UINT64_MAX;
		if (byte < cell.offset)
			check_byte(p, byte, 1, &only);
		else
			check_byte(p, byte, cell.n, cell.candidates);
	}
}

/* ---- all small histories ---- */

struct event {
	unsigned command; /* its answer, from 1; 0: an arrival … */
	const struct command *arrives;
	bool success;
};

struct enumeration {
	const struct command *alphabet;
	unsigned letters, commands, size;
	bool failures, flush_covers_all;
	uint64_t histories;
	unsigned depth, n, n_in_flight;
	struct event events[16];
	unsigned in_flight[8];
	struct pair pair;
};

static void
replay_and_check(struct enumeration *e)
{
	pair_start(&e->pair, e->size, e->flush_covers_all);
	for (unsigned i = 0; i < e->depth; i++)
		if (e->events[i].command == 0)
			receive(&e->pair, *e->events[i].arrives);
		else
			answer(&e->pair, e->events[i].command, e->events[i].success);
	check(&e->pair);
	pair_end(&e->pair);
	e->histories++;
}

static void
enumerate(struct enumeration *e)
{
	unsigned was[8], n = e->n_in_flight;

	replay_and_check(e);
	for (unsigned i = 0; e->n < e->commands && i < e->letters; i++) {
		e->events[e->depth++] = (struct event){ .arrives = &e->alphabet[i] };
		e->in_flight[e->n_in_flight++] = ++e->n;
		enumerate(e);
		e->depth--;
		e->n_in_flight--;
		e->n--;
	}
	memcpy(was, e->in_flight, sizeof(was));
	for (unsigned i = 0; i < n; i++)
		for (unsigned ok = e->failures ? 0 : 1; ok < 2; ok++) {
			memcpy(e->in_flight, was, sizeof(was));
			e->in_flight[i] = was[--e->n_in_flight];
			e->events[e->depth++] = (struct event){ .command = was[i], .success = ok };
			enumerate(e);
			e->depth--;
			e->n_in_flight = n;
		}
	memcpy(e->in_flight, was, sizeof(was));
}

#define W(low_, high_, connection_)                                                                                    \
	{                                                                                                              \
		.kind = HISTORY_WRITE, .low = low_, .high = high_, .connection = connection_                           \
	}
#define F(low_, high_, connection_)                                                                                    \
	{                                                                                                              \
		.kind = HISTORY_WRITE, .fua = true, .low = low_, .high = high_, .connection = connection_              \
	}
#define T(low_, high_, connection_)                                                                                    \
	{                                                                                                              \
		.kind = HISTORY_TRIM, .low = low_, .high = high_, .connection = connection_                            \
	}
#define FLUSH(connection_)                                                                                             \
	{                                                                                                              \
		.kind = HISTORY_FLUSH, .connection = connection_                                                       \
	}

static uint64_t
enumerate_all(const char *what, const struct command *alphabet, unsigned letters, unsigned commands, bool failures)
{
	static struct enumeration e;
	uint64_t sum = 0;

	for (unsigned all = 0; all < 2; all++) {
		e.alphabet = alphabet;
		e.letters = letters;
		e.commands = commands;
		e.size = 4;
		e.failures = failures;
		e.flush_covers_all = all;
		e.histories = 0;
		enumerate(&e);
		sum += e.histories;
	}
	print_message("%10" PRIu64 " histories: up to %u commands, %s\n", sum, commands, what);
	return sum;
}

#define COUNT(a) ((unsigned)(sizeof(a) / sizeof((a)[0])))

static void
small_histories(void **state)
{
	static const struct command ranges[] = { W(0, 2, 0), W(1, 3, 0), W(2, 4, 1), W(0, 4, 1), F(0, 2, 0), F(1, 3, 1),
		                                 F(2, 4, 0), F(0, 4, 1), T(1, 3, 0), T(0, 4, 1), FLUSH(0),   FLUSH(1) };
	static const struct command two[] = { W(0, 2, 0), W(1, 3, 0), W(1, 3, 1), F(1, 3, 1), FLUSH(0), FLUSH(1) };
	static const struct command one[] = { W(0, 2, 0), W(1, 3, 0), F(1, 3, 0), FLUSH(0) };
	uint64_t sum = 0;

	(void)state;
	sum += enumerate_all("four ranges that overlap, WRITE, TRIM, FUA and FLUSH, two connections, failures", ranges,
	                     COUNT(ranges), 3, true);
	sum += enumerate_all("two ranges that overlap, two connections, FUA, FLUSH", two, COUNT(two), 4, false);
	sum += enumerate_all("two ranges that overlap, one connection, FUA, FLUSH, failures", one, COUNT(one), 4, true);
	sum += enumerate_all("two ranges that overlap, one connection, FUA, FLUSH", one, COUNT(one), 5, false);
	print_message("%10" PRIu64
	              " histories in all, each with every order of arrivals and answers and the command unanswered; "
	              "checked after each event\n",
	              sum);
	assert_true(sum > 100000);
}

/* ---- long ones ---- */

static uint64_t seed_state;

static unsigned
below(unsigned n)
{
	return (unsigned)(random_next(&seed_state) % n);
}

/* What the definition calls the oldest: answered first. */
static void
destage(struct pair *p)
{
	struct oracle *o = &p->oracle;
	struct command *oldest = NULL;

	for (unsigned i = o->first; i <= o->n; i++) {
		struct command *c = &o->c[i];

		if (c->kind != HISTORY_FLUSH && c->answered != 0 && c->success && !c->forgotten && c->high > c->low &&
		    !is_guaranteed(o, c) && (oldest == NULL || c->answered < oldest->answered))
			oldest = c;
	}
	if (oldest != NULL)
		oldest->destaged = true;
	assert_int_equal(history_destage(p->history), oldest != NULL);
}

static void
forget(struct pair *p)
{
	for (unsigned i = p->oracle.first; i <= p->oracle.n; i++)
		if (p->oracle.c[i].answered != 0 && !is_guaranteed(&p->oracle, &p->oracle.c[i]))
			p->oracle.c[i].forgotten = true;
	history_forget(p->history);
}

static void
cut(struct pair *p)
{
	p->oracle.first = p->oracle.n + 1;
	memset(p->base, 0, sizeof(p->base));
	history_cut(p->history);
}

static void
arrive(struct pair *p)
{
	static const enum history_kind kinds[] = { HISTORY_WRITE,  HISTORY_WRITE, HISTORY_WRITE,
		                                   HISTORY_ZEROES, HISTORY_TRIM,  HISTORY_FLUSH };
	struct command c = { .kind = kinds[below(COUNT(kinds))], .connection = below(3) };

	if (c.kind != HISTORY_FLUSH) {
		c.fua = below(4) == 0;
		c.low = below(DISK_MOST);
		c.high = c.low + below(below(4) == 0 ? DISK_MOST : 8);
		c.high = c.high < DISK_MOST ? c.high : DISK_MOST;
	}
	receive(p, c);
}

static void
answer_any(struct pair *p)
{
	unsigned waiting[COMMANDS_MOST], n = 0;

	for (unsigned i = p->oracle.first; i <= p->oracle.n; i++)
		if (p->oracle.c[i].answered == 0)
			waiting[n++] = i;
	if (n > 0)
		answer(p, waiting[below(n < 8 ? n : 8)], below(8) != 0);
}

static void
long_histories(void **state)
{
	enum { HISTORIES = 10000 };
	static struct pair p;
	uint64_t events = 0, checks = 0;

	(void)state;
	for (unsigned seed = 1; seed <= HISTORIES; seed++) {
		seed_state = seed;
		p.events = 0;
		pair_start(&p, DISK_MOST, seed % 2);
		for (unsigned i = 0, n = 20 + below(80); i < n; i++) {
			unsigned what = below(100);

			if (what < 50)
				arrive(&p);
			else if (what < 95)
				answer_any(&p);
			else if (what < 97 && seed % 3 == 0)
				destage(&p);
			else if (what < 98 && seed % 5 == 0)
				forget(&p);
			else if (what == 99)
				cut(&p);
			if (below(16) == 0 || i + 1 == n) {
				check(&p);
				checks++;
			}
		}
		pair_end(&p);
		events += p.events;
	}
	print_message("%10d long histories by seed, %" PRIu64 " events, compared at %" PRIu64 " moments\n", HISTORIES,
	              events, checks);
}

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(small_histories), cmocka_unit_test(long_histories) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
