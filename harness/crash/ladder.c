#include "harness/crash/ladder.h"

#include "harness/random.h"

#include <stdlib.h>
#include <string.h>

struct ladder {
	struct view *view;
	struct climb climb;
	uint64_t quota, random;
	enum offered (*offer)(void *arg, const struct view *v);
	void *arg;
};

/* False: it is enough. */
static bool
offer(struct ladder *l)
{
	enum offered was = l->offer(l->arg, l->view);

	l->climb.offered++;
	l->climb.found += was == STATE_NEW;
	l->climb.stopped |= was == STATE_STOP;
	return !l->climb.stopped && l->climb.found < l->quota;
}

static uint64_t
below(struct ladder *l, uint64_t n)
{
	return (uint64_t)((__uint128_t)random_next(&l->random) * n >> 64);
}

/* ---- whole commands ---- */

/* Every choice of them, which are no more than the quota: one command's difference from each to the next. */
static bool
choose_all(struct ladder *l)
{
	uint64_t n = UINT64_C(1) << l->view->n_pending;

	offer(l);
	for (uint64_t i = 1; i < n && !l->climb.stopped; i++) {
		uint32_t flip = (uint32_t)__builtin_ctzll(i);

		view_set(l->view, flip, !l->view->pending[flip].present);
		offer(l);
	}
	return !l->climb.stopped;
}

/* The i-th of `n` things, when but `most` are taken of them, evenly. */
static uint64_t
spread(uint64_t i, uint64_t n, uint64_t most)
{
	return most >= n ? i : (uint64_t)((__uint128_t)i * n / most);
}

/* Those that arrived first are there, the others not. */
static bool
prefixes(struct ladder *l, uint64_t most)
{
	struct view *v = l->view;
	uint64_t n = v->n_pending + UINT64_C(1), taken = most < n ? most : n;
	uint32_t length = 0;

	view_set_all(v, false);
	for (uint64_t i = 0; i < taken; i++) {
		uint64_t wanted = spread(i, n, most);

		while (length < wanted)
			view_set(v, length++, true);
		if (!offer(l))
			return false;
	}
	return true;
}

/* One is unlike all others, which are `present`; then two are. */
static bool
singles(struct ladder *l, bool present, uint64_t most)
{
	struct view *v = l->view;
	uint64_t taken = most < v->n_pending ? most : v->n_pending;

	view_set_all(v, present);
	for (uint64_t i = 0; i < taken; i++) {
		uint32_t odd = v->n_pending - 1 - (uint32_t)spread(i, v->n_pending, most);
		bool go_on;

		view_set(v, odd, !present);
		go_on = offer(l);
		view_set(v, odd, present);
		if (!go_on)
			return false;
	}
	return true;
}

static bool
pairs(struct ladder *l, bool present, uint64_t most)
{
	struct view *v = l->view;
	uint64_t n = (uint64_t)v->n_pending * (v->n_pending - (v->n_pending > 0)) / 2, taken = most < n ? most : n;
	uint64_t row = 0; /* of the pairs, the first whose later command is `a` */
	uint32_t a = v->n_pending - 1, b;

	view_set_all(v, present);
	for (uint64_t i = 0; i < taken; i++) {
		uint64_t at = spread(i, n, most);
		bool go_on;

		for (; at - row >= a; a--)
			row += a;
		b = a - 1 - (uint32_t)(at - row);
		view_set(v, a, !present);
		view_set(v, b, !present);
		go_on = offer(l);
		view_set(v, a, present);
		view_set(v, b, present);
		if (!go_on)
			return false;
	}
	return true;
}

/* ---- torn ones ---- */

/* The cells that hold the command now: how many; those from `low` to `high` of them lose it. */
static uint32_t
tear(struct view *v, uint32_t pending, uint32_t low, uint32_t high)
{
	const struct pending *p = &v->pending[pending];
	uint32_t n = 0;

	for (uint32_t i = 0; i < p->n_groups; i++) {
		const struct open_group *g = &v->groups[p->groups[i]];

		if (g->slot[g->chosen] != pending)
			continue;
		for (uint32_t place = g->first; place < g->end; place++, n++)
			if (n >= low && n < high)
				view_change(v, place, candidate_below(v, g, g->chosen));
	}
	return n;
}

/* The ways in which one write, where the others are as they are, is torn first. */
static bool
tear_one(struct ladder *l, uint32_t pending, uint64_t *most)
{
	struct view *v = l->view;
	uint32_t n = tear(v, pending, 0, 0);
	uint32_t ways[6][2] = { { n / 2, n }, { 0, n / 2 }, { 1, n }, { 0, n - 1 }, { n - 1, n }, { 0, 1 } };

	for (unsigned i = 0; i < (n == 2 ? 2 : 6) && n > 1 && *most > 0; i++) {
		bool go_on;

		tear(v, pending, ways[i][0], ways[i][1]);
		go_on = offer(l);
		view_unchange(v);
		if (!go_on)
			return false;
		--*most;
	}
	return true;
}

/* Each as the last that arrived, then each among all others. */
static bool
torn(struct ladder *l, uint64_t most)
{
	struct view *v = l->view;
	uint64_t half = most / 2;

	view_set_all(v, false);
	for (uint32_t i = 0; i < v->n_pending && half > 0; i++) {
		view_set(v, i, true);
		if (!tear_one(l, i, &half))
			return false;
	}
	most = most / 2 + half;
	view_set_all(v, true);
	for (uint32_t i = v->n_pending; i-- > 0 && most > 0;)
		if (!tear_one(l, i, &most))
			return false;
	return true;
}

/* ---- all, by cells ---- */

struct odometer {
	uint32_t n, *ways, *digit; /* of each cell */
	uint32_t **which;          /* its candidates */
};

static void *
array(size_t n, size_t size)
{
	void *a = calloc(n + 1, size);

	if (a == NULL)
		abort();
	return a;
}

static struct odometer
odometer_new(const struct view *v)
{
	struct odometer o = { .n = v->n_open,
		              .ways = array(v->n_open, sizeof(*o.ways)),
		              .digit = array(v->n_open, sizeof(*o.digit)),
		              .which = array(v->n_open, sizeof(*o.which)) };

	for (uint32_t i = 0; i < o.n; i++) {
		o.which[i] = array(v->groups[v->group_of[i]].n, sizeof(**o.which));
		o.ways[i] = distinct_candidates(v, i, o.which[i]);
	}
	return o;
}

static void
odometer_free(struct odometer *o)
{
	for (uint32_t i = 0; i < o->n; i++)
		free(o->which[i]);
	free(o->ways);
	free(o->digit);
	free(o->which);
}

static bool
odometer_step(struct odometer *o)
{
	uint32_t at = 0;

	while (at < o->n && ++o->digit[at] == o->ways[at])
		o->digit[at++] = 0;
	return at < o->n;
}

/* Every choice of what differs in each cell. They are no more than the quota. */
static bool
product(struct ladder *l)
{
	struct view *v = l->view;
	struct odometer o = odometer_new(v);

	view_set_all(v, true);
	do {
		for (uint32_t i = 0; i < v->n_open; i++)
			if (o.digit[i] > 0)
				view_change(v, i, o.which[i][o.digit[i]]);
		offer(l);
		view_unchange(v);
	} while (!l->climb.stopped && odometer_step(&o));
	odometer_free(&o);
	return !l->climb.stopped;
}

/* ---- by seed ---- */

/* The cells that hold a command lose it, each by chance. */
static void
riddle(struct ladder *l, uint32_t pending)
{
	struct view *v = l->view;
	const struct pending *p = &v->pending[pending];

	for (uint32_t i = 0; i < p->n_groups; i++) {
		const struct open_group *g = &v->groups[p->groups[i]];

		for (uint32_t place = g->first; place < g->end && g->slot[g->chosen] == pending; place++)
			if (below(l, 2) == 0)
				view_change(v, place, candidate_below(v, g, g->chosen));
	}
}

/* Up to three writes are torn; a cell holds but one of them, so that none is changed twice. */
static void
tear_by_seed(struct ladder *l)
{
	struct view *v = l->view;
	uint32_t first = (uint32_t)below(l, v->n_pending), writes = 1 + (uint32_t)below(l, 3), n, low;

	for (uint32_t i = first; i < first + writes && i < v->n_pending; i++) {
		n = tear(v, i, 0, 0);
		if (n < 2)
			continue;
		low = (uint32_t)below(l, n);
		if (below(l, 2) == 0)
			riddle(l, i);
		else
			tear(v, i, low, low + 1 + (uint32_t)below(l, n - low));
	}
}

/* A run of cells holds anything that is legal there, also what arrived before something guaranteed and was not done yet. */
static void
mix_by_seed(struct ladder *l)
{
	struct view *v = l->view;
	uint32_t low = (uint32_t)below(l, v->n_open), n = 1 + (uint32_t)below(l, 16);

	for (uint32_t place = low; place < low + n && place < v->n_open; place++) {
		const struct open_group *g = &v->groups[v->group_of[place]];

		view_change(v, place, (uint32_t)below(l, g->n));
	}
}

/* Each command is present by `parts` chances of 16. */
static void
choose_by_seed(struct ladder *l, unsigned parts)
{
	struct view *v = l->view;
	uint64_t bits = 0;

	for (uint32_t i = 0; i < v->n_pending; i++, bits >>= 4) {
		if (i % 16 == 0)
			bits = random_next(&l->random);
		view_set(v, i, (bits & 15) < parts);
	}
}

static bool
samples(struct ladder *l)
{
	struct view *v = l->view;
	bool torn = !v->space->tear.whole;
	unsigned seen = 0;

	while (seen < 1000 && (v->n_pending > 0 || (torn && v->n_open > 0))) {
		uint64_t found = l->climb.found, how = below(l, 8);
		bool go_on;

		choose_by_seed(l, 1 + (unsigned)below(l, 15));
		if (torn && how >= 4 && how < 7 && v->n_pending > 0)
			tear_by_seed(l);
		else if (torn && how >= 4)
			mix_by_seed(l);
		go_on = offer(l);
		view_unchange(v);
		if (!go_on)
			return false;
		seen = l->climb.found == found ? seen + 1 : 0;
	}
	return true;
}

/* Shares of a quota that no rung takes whole, in 1/20. */
static bool
climb_rungs(struct ladder *l)
{
	uint64_t part = l->quota / 20 + 1;

	return offer(l) && prefixes(l, 4 * part) && singles(l, true, 3 * part) && pairs(l, true, 2 * part) &&
	       singles(l, false, 2 * part) && pairs(l, false, 2 * part);
}

struct climb
ladder_climb(struct view *v, uint64_t quota, uint64_t seed, enum offered (*offered)(void *arg, const struct view *v),
             void *arg)
{
	struct ladder l = { .view = v, .quota = quota, .offer = offered, .arg = arg };
	bool whole = v->space->tear.whole, few = v->n_pending < 40 && UINT64_C(1) << v->n_pending <= quota;

	l.random = seed ^ (uint64_t)v->space->points[v->point].at * UINT64_C(0xd1342543de82ef95);
	if (quota == 0)
		return l.climb;
	view_set_all(v, true);
	if (!whole && view_count(v, quota + 1) <= quota) {
		l.climb.complete = (!few || choose_all(&l)) && product(&l);
		return l.climb;
	}
	if (few ? !choose_all(&l) : !climb_rungs(&l))
		return l.climb;
	l.climb.complete = whole && few;
	if (!l.climb.complete && l.climb.found < quota && (whole || torn(&l, quota / 4 + 1)))
		samples(&l);
	return l.climb;
}

static int
compare_counts(const void *a, const void *b)
{
	const uint64_t *const *x = a, *const *y = b;

	return **x < **y ? -1 : **x > **y ? 1 : *x < *y ? -1 : *x > *y;
}

void
ladder_share(uint64_t *counts, uint32_t n, uint64_t budget)
{
	uint64_t **sorted = calloc(n + 1u, sizeof(*sorted));

	if (sorted == NULL)
		abort();
	for (uint32_t i = 0; i < n; i++)
		sorted[i] = &counts[i];
	qsort(sorted, n, sizeof(*sorted), compare_counts);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t share = budget / (n - i);

		if (*sorted[i] > share)
			*sorted[i] = share;
		budget -= *sorted[i];
	}
	free(sorted);
}
