/*
 * A failing state is reduced to the least that it must lack for its check to fail: delta debugging over what it lacks of
 * all that was written. Cells are independent, so that each step is a state that a cut may leave, too.
 */
#include "harness/crash/explore.h"

#include <stdlib.h>
#include <string.h>

enum { FINDINGS_MOST = 20, CHECKS_MOST = 400 };

struct reduction {
	struct exploration *e;
	struct asker *asker;
	uint32_t must;
	unsigned checks;
	bool lost;             /* no more answers */
	struct checked result; /* of the last that failed */
};

static bool
fails(struct reduction *r, const struct difference *d)
{
	struct checked result;

	if (r->lost || r->checks >= CHECKS_MOST)
		return false;
	r->checks++;
	r->e->minimising++;
	r->lost = !check_again(r->asker, d, r->must, &result);
	if (r->lost || result.verdict == VERDICT_GOOD)
		return false;
	r->result = result;
	return true;
}

/* Of n parts, only the i-th, or all but that. */
static struct difference
part_of(const struct difference *d, size_t i, size_t n, bool only)
{
	struct difference part = difference_copy(d);
	size_t low = d->n * i / n, high = d->n * (i + 1) / n;

	part.n = 0;
	for (size_t k = 0; k < d->n; k++)
		if ((k >= low && k < high) == only)
			part.lacks[part.n++] = d->lacks[k];
	return part;
}

/* The first of the parts that fails, if any, takes the place of the whole. */
static bool
take_part(struct reduction *r, struct difference *d, size_t n, bool only)
{
	for (size_t i = 0; i < n; i++) {
		struct difference part = part_of(d, i, n, only);

		if (part.n < d->n && fails(r, &part)) {
			difference_free(d);
			*d = part;
			return true;
		}
		difference_free(&part);
	}
	return false;
}

static void
reduce(struct reduction *r, struct difference *d)
{
	struct difference none = { .at = d->at };
	size_t parts = 2;

	if (d->n > 0 && fails(r, &none)) {
		d->n = 0;
		return;
	}
	while (d->n > 1 && !r->lost) {
		parts = parts < d->n ? parts : d->n;
		if (take_part(r, d, parts, true))
			parts = 2;
		else if (parts > 2 && take_part(r, d, parts, false))
			parts--;
		else if (parts == d->n)
			break;
		else
			parts *= 2;
	}
}

/* A torn write whose loss as a whole fails just so is told as lost. */
static void
tell_as_lost(struct reduction *r, struct difference *d, struct view *v)
{
	for (size_t i = 0; i < d->n && !r->lost; i++) {
		struct difference whole = difference_copy(d), none = { .at = d->at };
		struct lack *l = &whole.lacks[i];
		uint32_t cell = space_cell_at(v->space, l->offset), place = 0;
		const struct open_group *g;

		if (l->low == 0 && difference_show(&none, v, NULL)) {
			while (place < v->n_open && v->open[place] != cell)
				place++;
			g = place < v->n_open ? &v->groups[v->group_of[place]] : NULL;
			if (g != NULL && g->slot[g->chosen] != NEVER) {
				uint32_t command = v->pending[g->slot[g->chosen]].command;

				*l = (struct lack){ .low = command, .high = command };
				if (fails(r, &whole)) {
					difference_free(d);
					*d = difference_copy(&whole);
				}
			}
		}
		difference_free(&whole);
	}
}

/* ---- which ---- */

static bool
same_lack(const struct lack *a, const struct lack *b)
{
	return a->low == b->low && a->high == b->high && a->offset == b->offset && a->length == b->length &&
	       a->command == b->command;
}

static bool
lacks_all(const struct difference *d, const struct difference *less)
{
	for (size_t i = 0; i < less->n; i++) {
		bool has = false;

		for (size_t k = 0; k < d->n && !has; k++)
			has = same_lack(&d->lacks[k], &less->lacks[i]);
		if (!has)
			return false;
	}
	/* With nothing lost at all, it is the moment that matters. */
	return less->n > 0 || d->at == less->at;
}

static struct finding *
finding_for(struct exploration *e, const struct difference *d)
{
	for (size_t i = 0; i < e->n_findings; i++)
		if (lacks_all(d, &e->findings[i].difference))
			return &e->findings[i];
	return NULL;
}

/* Those that lack least explain the others. */
static int
compare_size(const void *a, const void *b)
{
	const struct failing *x = *(struct failing *const *)a, *y = *(struct failing *const *)b;

	if (x->difference.n != y->difference.n)
		return x->difference.n < y->difference.n ? -1 : 1;
	return x->number < y->number ? -1 : x->number > y->number;
}

static void
add_finding(struct exploration *e, const struct finding *f)
{
	e->findings = reallocarray(e->findings, e->n_findings + 1, sizeof(*e->findings));
	if (e->findings == NULL)
		abort();
	e->findings[e->n_findings++] = *f;
}

static void
explain_one(struct exploration *e, struct asker *a, struct view *v, const struct failing *failing)
{
	struct reduction r = { .e = e, .asker = a, .must = failing->must, .result = failing->result };
	struct finding f = { .must = failing->must, .states = 1, .difference = difference_copy(&failing->difference) };
	struct finding *old;

	reduce(&r, &f.difference);
	tell_as_lost(&r, &f.difference, v);
	f.result = r.result;
	old = finding_for(e, &f.difference);
	if (old != NULL) {
		old->states++;
		difference_free(&f.difference);
		return;
	}
	add_finding(e, &f);
}

void
minimise(struct exploration *e, struct asker *a, struct view *v)
{
	struct failing **sorted = calloc(e->n_failing + 1, sizeof(*sorted));

	if (sorted == NULL)
		abort();
	for (size_t i = 0; i < e->n_failing; i++)
		sorted[i] = &e->failing[i];
	qsort(sorted, e->n_failing, sizeof(struct failing *), compare_size);
	for (size_t i = 0; i < e->n_failing; i++) {
		struct finding *known = finding_for(e, &sorted[i]->difference);

		if (known != NULL)
			known->states++;
		else if (e->n_findings < FINDINGS_MOST)
			explain_one(e, a, v, sorted[i]);
		else
			e->unexplained++;
	}
	free(sorted);
}
