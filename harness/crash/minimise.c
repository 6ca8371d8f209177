/*
 * A failing state is reduced to the least that it must lack for its check to fail: delta debugging over what it lacks of
 * all that was written. Cells are independent, so that each step is a state that a cut may leave, too.
 */
#include "harness/clock.h"
#include "harness/crash/explore.h"
#include "harness/crash/reduce.h"

#include <stdlib.h>
#include <string.h>

enum { FINDINGS_MOST = 20, CHECKS_MOST = 400 };

struct reduction {
	struct exploration *e;
	struct asker *asker;
	uint32_t must;
	unsigned checks;
	bool lost;             /* no more answers */
	struct checked result; /* of the last that failed … */
	uint64_t ns;           /* … and when it came */
};

static bool
fails(void *arg, const struct difference *d)
{
	struct reduction *r = arg;
	struct checked result;

	if (r->lost || r->checks >= CHECKS_MOST)
		return false;
	r->checks++;
	r->e->minimising++;
	r->lost = !check_again(r->asker, d, r->must, &result);
	if (r->lost || result.verdict == VERDICT_GOOD)
		return false;
	r->result = result;
	r->ns = now_ns();
	return true;
}

/* A torn write whose loss as a whole fails just so is told as lost. */
static void
tell_as_lost(struct reduction *r, struct difference *d)
{
	for (size_t i = 0; i < d->n && !r->lost; i++) {
		struct difference whole = difference_copy(d);
		uint32_t torn = d->lacks[i].low == 0 ? d->lacks[i].torn : 0;

		whole.lacks[i] = (struct lack){ .low = torn, .high = torn };
		if (torn != 0 && fails(r, &whole)) {
			difference_free(d);
			*d = difference_copy(&whole);
		}
		difference_free(&whole);
	}
}

/* ---- which ---- */

static struct finding *
finding_for(struct exploration *e, const struct difference *d)
{
	for (size_t i = 0; i < e->n_findings; i++)
		if (difference_has(d, &e->findings[i].difference))
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

/* How many findings that lack something are added. */
static unsigned
explain_one(struct exploration *e, struct asker *a, const struct failing *failing)
{
	struct reduction r = { .e = e,
		               .asker = a,
		               .must = failing->must,
		               .result = failing->result,
		               .ns = failing->known ? 0 : failing->ns };
	struct finding f = { .must = failing->must, .difference = difference_copy(&failing->difference) };

	difference_reduce(&f.difference, fails, &r);
	tell_as_lost(&r, &f.difference);
	f.result = r.result;
	f.ns = r.ns;
	/* Where the answers ended too early it may not be the least. */
	if (answers_ended(a) || finding_for(e, &f.difference) != NULL) {
		difference_free(&f.difference);
		return 0;
	}
	add_finding(e, &f);
	return f.difference.n > 0;
}

static int
compare_findings(const void *a, const void *b)
{
	const struct finding *x = a, *y = b;

	return difference_compare(&x->difference, &y->difference);
}

/* That all is there and the check fails is told once, for the last point; so it stands first. */
static void
join_empty(struct exploration *e)
{
	size_t n = 0;

	while (n < e->n_findings && e->findings[n].difference.n == 0)
		n++;
	for (size_t i = 1; i < n; i++)
		difference_free(&e->findings[i].difference);
	if (n > 1) {
		memmove(e->findings + 1, e->findings + n, (e->n_findings - n) * sizeof(*e->findings));
		e->n_findings -= n - 1;
	}
}

/* Which states belong to which finding does not depend on the order in which they were found. */
void
count_states(struct exploration *e)
{
	bool empty;

	if (e->n_findings > 0)
		qsort(e->findings, e->n_findings, sizeof(*e->findings), compare_findings);
	join_empty(e);
	empty = e->n_findings > 0 && e->findings[0].difference.n == 0;
	for (size_t i = 0; i < e->n_failing; i++) {
		struct finding *f = finding_for(e, &e->failing[i].difference);

		if (f == NULL && empty)
			f = e->findings;
		if (f != NULL)
			f->states++;
		else
			e->unexplained++;
	}
}

void
minimise(struct exploration *e, struct asker *a)
{
	struct failing **sorted = calloc(e->n_failing + 1, sizeof(*sorted));
	unsigned n = 0;

	if (sorted == NULL)
		abort();
	for (size_t i = 0; i < e->n_failing; i++)
		sorted[i] = &e->failing[i];
	qsort(sorted, e->n_failing, sizeof(struct failing *), compare_size);
	for (size_t i = 0; i < e->n_failing && n < FINDINGS_MOST; i++)
		if (finding_for(e, &sorted[i]->difference) == NULL)
			n += explain_one(e, a, sorted[i]);
	free(sorted);
}
