/* All sequences of options up to a depth, and random ones (nbdspec server --explore). */
#include "cases/explore/facts.h"
#include "cases/explore/product.h"
#include "cases/explore/search.h"
#include "cases/explore/told.h"
#include "harness/clock.h"
#include "harness/random.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 64, LONGEST_WALK = 16, STUCK_ENOUGH = 16 };

struct explorer {
	struct search s;
	struct facts facts, tls;
	const struct exploration *plan;
	struct exploration_pace *pace;
	unsigned shard;
	const struct symbol *middle[MOST_SYMBOLS], *end[MOST_SYMBOLS];
	unsigned n_middle, n_end;
	bool gone; /* the server, and it is not ours to start, or it hangs and dies all the time */
	unsigned n_stuck;
	uint64_t turn; /* of the sequences, those of the other shards as well */
	/* Of --unchecked: */
	struct buf log;
	struct path batch[BATCH];
	uint64_t logged, took_us;
};

/* ---- findings ---- */

static const struct breach *
breach_again(const struct walker *w, const struct breach *b)
{
	for (unsigned i = 0; i < w->n_breaches; i++)
		if (same_breach(&w->breach[i], b))
			return &w->breach[i];
	return NULL;
}

/* Walks it once more, for the trace. */
static void
show(struct explorer *x, const struct finding *f)
{
	const struct breach *b;
	char *text;

	x->s.w.traced = true;
	search_breaks(&x->s, &f->shortest, &f->breach, true);
	x->s.w.traced = false;
	if (x->s.w.stuck && x->s.w.link[0].end != LINK_SILENT)
		await_server_end(x->s.t);
	b = breach_again(&x->s.w, &f->breach);
	if (b == NULL) {
		b = &f->breach;
		note(x->s.t, "it was broken %s, and not again", f->again ? "before" : "once");
	}
	text = finding_text(&x->s, f, b);
	broken_finding(x->s.t, b->broken, b->expected, b->got, text);
}

static void
report(struct explorer *x, const struct finding *f)
{
	char *names = scenario_text(&f->shortest);

	if (f->once) {
		POINT(x->s.t, "%s", names)
			observe(x->s.t, f->breach.broken[0], "seen once, and not again: expected %s; got %s",
			        f->breach.expected, f->breach.got);
	} else if (is_to_be_told(x->s.t, &x->plan->counts->told, names, f->breach.broken[0])) {
		POINT(x->s.t, "%s", names)
			show(x, f);
	}
	free(names);
}

/* ---- one sequence ---- */

static void
take_breaches(struct explorer *x, const struct path *p)
{
	struct breach breach[MOST_BREACHES];
	unsigned n = x->s.w.n_breaches;
	bool stuck = x->s.w.stuck;

	memcpy(breach, x->s.w.breach, sizeof(breach));
	for (unsigned i = 0; i < n; i++, x->s.w.stuck = stuck) {
		if (search_explains(&x->s, p, &breach[i]))
			continue;
		if (is_enough_told(&x->plan->counts->told))
			x->plan->counts->told.untold++;
		else
			report(x, search_found(&x->s, p, &breach[i]));
	}
}

/* The last walk, of p, has broken something. */
static void
take_walk(struct explorer *x, const struct path *p)
{
	bool stuck = x->s.w.stuck;

	x->plan->counts->broken++;
	take_breaches(x, p);
	search_walked(&x->s, p);
	x->n_stuck += stuck;
	x->gone = stuck && (!search_renews(&x->s) || x->n_stuck >= STUCK_ENOUGH);
}

/* What the server has met a second time is what a later death may be due to; where it has ended in it we look at once. */
static void
repeat_batch(struct explorer *x)
{
	const struct path plain = { .at = { symbols }, .n = 1 };
	struct exploration_counts *c = x->plan->counts;
	uint64_t from = now_us();
	bool same = link_replay(x->s.t, (struct bytes){ x->log.at, x->log.len });

	if (same) {
		c->repeated_us += now_us() - from;
		c->checked_us += x->took_us;
		c->repeated += x->logged;
	}
	for (uint64_t i = 0; i < x->logged; i++)
		search_walked(&x->s, &x->batch[i]);
	buf_clear(&x->log);
	x->logged = x->took_us = 0;
	if (same)
		return;
	c->unlike++;
	if (!walk(&x->s.w, &plain, NULL))
		take_walk(x, &plain);
}

static void
explore_path(struct explorer *x, const struct path *p)
{
	struct exploration_counts *c = x->plan->counts;
	size_t log_from = x->log.len;
	uint64_t from;

	x->pace->done++;
	if (x->gone || search_skips(&x->s, p)) {
		*(x->gone ? &c->unwalked : &c->skipped) += 1;
		return;
	}
	from = x->plan->unchecked ? now_us() : 0;
	c->walked++;
	if (walk(&x->s.w, p, x->plan->unchecked ? &x->log : NULL)) {
		search_walked(&x->s, p);
		if (!x->plan->unchecked)
			return;
		x->batch[x->logged++] = *p;
		x->took_us += now_us() - from;
		if (x->logged == BATCH)
			repeat_batch(x);
		return;
	}
	x->log.len = log_from;
	take_walk(x, p);
}

static bool
is_ours(struct explorer *x)
{
	return x->turn++ % x->plan->shards == x->shard;
}

/* ---- all of them ---- */

static void
choose_symbols(struct explorer *x)
{
	for (unsigned i = 0; i < symbol_count(); i++) {
		const struct symbol *s = &symbols[i];
		bool ends = s->ends ||
		            (s->option == NBD_OPT_GO && s->of == OF_UNKNOWN && x->facts.export[OF_UNKNOWN].there);

		if (!symbol_applies(s, &x->facts))
			continue;
		if (ends)
			x->end[x->n_end++] = s;
		else
			x->middle[x->n_middle++] = s;
	}
}

/* What each way into an export tells by itself. */
static void
learn_entries(struct explorer *x, struct facts *f, const struct symbol *before)
{
	for (unsigned i = 0; i < x->n_end; i++) {
		const struct symbol *s = x->end[i];
		struct export_fact *e = &f->export[s->of];
		struct path p = { .at = { s }, .n = 1 };

		if (s->kind != SYMBOL_OPTION || s->flaw != FLAW_NONE || s->bare || s->padded || !e->there)
			continue;
		if (before != NULL)
			p = (struct path){ .at = { before, s }, .n = 2 };
		walk(&x->s.w, &p, NULL);
		if (s->option == NBD_OPT_GO)
			e->by_go = x->s.w.model.export;
		if (s->option == NBD_OPT_EXPORT_NAME)
			e->by_name = x->s.w.model.export;
	}
}

/* The i-th sequence of n symbols: the last one may be any, and the plainest ending stands behind it where it is none. */
static struct path
path_at(const struct explorer *x, unsigned n, uint64_t i)
{
	unsigned last = x->n_middle + x->n_end - 1, k = (unsigned)(i % last);
	struct path p = { .n = n };

	if (n > 0)
		p.at[n - 1] = k < x->n_middle ? x->middle[k] : x->end[k - x->n_middle + 1];
	i /= last;
	for (unsigned at = n; at-- > 1; i /= x->n_middle)
		p.at[at - 1] = x->middle[i % x->n_middle];
	if (n == 0 || k < x->n_middle)
		p.at[p.n++] = x->end[0];
	return p;
}

static uint64_t
count_of_length(const struct explorer *x, unsigned n)
{
	uint64_t all = n > 0 ? x->n_middle + x->n_end - 1 : 1;

	for (unsigned i = 1; i < n; i++)
		all *= x->n_middle;
	return all;
}

static void
tell_plan(struct explorer *x)
{
	uint64_t planned = x->plan->walks;

	for (int n = 0; n <= x->plan->depth; n++)
		planned += count_of_length(x, (unsigned)n);
	x->pace = exploration_pace(x->s.t, "sequences", planned);
}

static void
explore_depth(struct explorer *x, unsigned n)
{
	uint64_t all = count_of_length(x, n);
	struct path p;

	for (uint64_t i = 0; i < all; i++)
		if (is_ours(x)) {
			p = path_at(x, n, i);
			explore_path(x, &p);
		}
}

/* Each walk has a seed of its own, so that it is the same among any others. */
static void
walk_at_random(struct explorer *x, uint64_t seed)
{
	struct path p = { .n = 0 };
	unsigned n = (unsigned)(random_next(&seed) % LONGEST_WALK);

	while (p.n < n)
		p.at[p.n++] = x->middle[random_next(&seed) % x->n_middle];
	p.at[p.n++] = x->end[random_next(&seed) % x->n_end];
	explore_path(x, &p);
}

static void
explore_sequence(struct explorer *x, const char *text)
{
	struct breach breach[MOST_BREACHES];
	struct finding f = { .again = true };
	char error[256];
	unsigned n;

	if (!scenario_parse(text, &f.shortest, error))
		harness_error(x->s.t, "--explore-sequence %s", error);
	for (size_t i = 0; i < f.shortest.n; i++)
		for (unsigned k = 0; k < f.shortest.path[i].n; k++)
			if (!symbol_applies(f.shortest.path[i].at[k], &x->facts))
				skip(x->s.t, f.shortest.path[i].at[k]->name,
				     "this server does not have what it speaks of");
	search_breaks(&x->s, &f.shortest, NULL, true);
	x->plan->counts->walked += f.shortest.n;
	memcpy(breach, x->s.w.breach, sizeof(breach));
	n = x->s.w.n_breaches;
	x->plan->counts->broken += n > 0;
	for (unsigned i = 0; i < n; i++) {
		f.breach = breach[i];
		report(x, &f);
	}
}

/* ---- what it came to ---- */

static void
put_rate(FILE *f, const struct exploration_counts *c)
{
	double checked = (double)c->checked_us, repeated = (double)c->repeated_us, n = (double)c->repeated;

	if (n > 0 && checked > 0 && repeated > 0)
		fprintf(f, "; %.0f also unchecked: %.0f a second checked, %.0f unchecked, %.0f %%", n,
		        n * 1e6 / checked, n * 1e6 / repeated, 100.0 * repeated / checked);
	if (c->unlike > 0)
		fprintf(f, "; batches that were not answered as before: %" PRIu64, c->unlike);
}

/* What was not seen may be anything. */
static void
tell_counts(const struct explorer *x, uint64_t took_us)
{
	const struct exploration_counts *c = x->plan->counts;
	bool whole = c->told.untold == 0 && c->unwalked == 0;
	size_t size;
	char *text;
	FILE *f = open_memstream(&text, &size);

	if (f == NULL)
		abort();
	fprintf(f, "%" PRIu64 " sequences of %u symbols in %.1f s, %.0f a second; %" PRIu64 " of them deviate",
	        c->walked, x->n_middle + x->n_end, (double)took_us / 1e6, (double)c->walked * 1e6 / (double)took_us,
	        c->broken);
	if (c->skipped > 0)
		fprintf(f, ", %" PRIu64 " not walked, for the server hangs or dies in what they contain", c->skipped);
	put_rate(f, c);
	put_untold(f, &c->told);
	if (c->unwalked > 0)
		fprintf(f,
		        "; not all is done: %" PRIu64 " not walked, for the server is gone, or hangs or dies each time",
		        c->unwalked);
	fclose(f);
	sum_up(x->s.t, whole, text);
	free(text);
}

CASE_EXPLORE(explore, haggling,
             "All sequences of options up to a depth, each with its ending, are answered as the text allows, and what "
             "they agree on holds in transmission",
             R(option_gets_reply), R(handshake_no_hard_disconnect), R(option_data_consumed), R(set_meta_replaces),
             R(set_meta_failure_clears), R(status_without_context_einval), R(read_reply_structured),
             R(simple_reply_required), R(go_enters_transmission), R(transmission_after_export_name),
             R(info_stays_in_haggling), R(info_then_go_same))
{
	static struct explorer x;
	uint64_t from = now_us();

	x.s.t = t;
	x.plan = exploration_of(t, &x.shard);
	if (x.plan->sequence != NULL && (is_combinations(x.plan->sequence) || is_script(x.plan->sequence)))
		return;
	learn_facts(t, &x.facts, &x.tls);
	/* What goes over TLS is not the same bytes a second time. */
	if (x.plan->unchecked)
		x.facts.tls = NULL;
	walker_start(&x.s.w, t, &x.facts);
	choose_symbols(&x);
	learn_entries(&x, &x.facts, NULL);
	if (x.facts.tls == &x.tls)
		learn_entries(&x, &x.tls, symbol_named("STARTTLS", 8));
	/* What was learnt has left nothing behind. */
	search_renews(&x.s);
	tell_plan(&x);
	if (x.plan->sequence != NULL && x.shard == 0)
		explore_sequence(&x, x.plan->sequence);
	for (int n = 0; n <= x.plan->depth; n++)
		explore_depth(&x, (unsigned)n);
	for (uint64_t i = 0; i < x.plan->walks; i++)
		if (is_ours(&x))
			walk_at_random(&x, case_seed(t) + i);
	if (x.logged > 0)
		repeat_batch(&x);
	if (++x.plan->counts->finished == x.plan->shards)
		tell_counts(&x, now_us() - from);
	walker_free(&x.s.w);
}
