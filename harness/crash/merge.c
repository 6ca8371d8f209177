#include "harness/crash/merge.h"

#include "harness/crash/points.h"
#include "harness/crash/timeline.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct merged_finding {
	struct difference difference;
	const json_t *object;
	uint64_t states;
};

struct merge {
	json_t *const *reports;
	size_t n, n_findings;
	struct merged_finding *findings;
	uint64_t unexplained;
};

static json_int_t
number(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

static bool
parse_state(const json_t *object, struct difference *d)
{
	const char *state = json_string_value(json_object_get(object, "state"));

	return state != NULL && difference_parse(state, d);
}

/* ---- findings ---- */

static int
compare_findings(const void *a, const void *b)
{
	const struct merged_finding *x = a, *y = b;

	return difference_compare(&x->difference, &y->difference);
}

static struct merged_finding *
finding_for(struct merge *m, const struct difference *d)
{
	for (size_t i = 0; i < m->n_findings; i++)
		if (difference_has(d, &m->findings[i].difference))
			return &m->findings[i];
	return NULL;
}

static void
read_findings(struct merge *m)
{
	size_t n = 0, k;
	const json_t *object;

	for (size_t i = 0; i < m->n; i++)
		n += json_array_size(json_object_get(m->reports[i], "findings"));
	m->findings = calloc(n + 1, sizeof(*m->findings));
	if (m->findings == NULL)
		abort();
	for (size_t i = 0; i < m->n; i++)
		json_array_foreach(json_object_get(m->reports[i], "findings"), k, object)
		{
			m->findings[m->n_findings].object = object;
			m->n_findings += parse_state(object, &m->findings[m->n_findings].difference);
		}
	qsort(m->findings, m->n_findings, sizeof(*m->findings), compare_findings);
}

/* Another shard may have found less that fails; and that nothing is lost is told once. */
static void
join_findings(struct merge *m)
{
	size_t n = m->n_findings, kept = 0;

	for (size_t i = 0; i < n; i++) {
		m->n_findings = kept;
		if ((i > 0 && m->findings[i].difference.n == 0) || finding_for(m, &m->findings[i].difference) != NULL)
			difference_free(&m->findings[i].difference);
		else
			m->findings[kept++] = m->findings[i];
	}
	m->n_findings = kept;
}

static void
count_state(struct merge *m, const json_t *failing)
{
	struct merged_finding *f;
	struct difference d;

	if (!parse_state(failing, &d))
		return;
	f = finding_for(m, &d);
	if (f == NULL && m->n_findings > 0 && m->findings[0].difference.n == 0)
		f = m->findings;
	*(f != NULL ? &f->states : &m->unexplained) += 1;
	difference_free(&d);
}

/* The number and the count of states are ours; the rest stays as it was told. */
static json_t *
finding_object(const struct merged_finding *f, size_t i)
{
	json_t *object = json_deep_copy(f->object), *told = json_object_get(object, "told");
	const char *first = json_string_value(json_array_get(told, 0)),
		   *colon = first != NULL ? strchr(first, ':') : NULL;
	char *line;

	if (asprintf(&line, "finding %zu, %" PRIu64 " state%s%s", i + 1, f->states, f->states == 1 ? "" : "s",
	             colon != NULL ? colon : "") < 0)
		abort();
	if (first != NULL)
		json_array_set_new(told, 0, json_string(line));
	json_object_set_new(object, "states", json_integer((json_int_t)f->states));
	free(line);
	return object;
}

/* ---- the rest ---- */

static int
compare_failing(const void *a, const void *b)
{
	const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
	struct difference d[2] = { { 0 }, { 0 } };
	int sign;

	parse_state(x, &d[0]);
	parse_state(y, &d[1]);
	sign = difference_compare(&d[0], &d[1]);
	difference_free(&d[0]);
	difference_free(&d[1]);
	return sign;
}

static json_t *
all_failing(struct merge *m)
{
	json_t *all = json_array(), **sorted, *object;
	size_t n = 0, k;

	for (size_t i = 0; i < m->n; i++)
		n += json_array_size(json_object_get(m->reports[i], "failing"));
	sorted = calloc(n + 1, sizeof(json_t *));
	if (sorted == NULL)
		abort();
	n = 0;
	for (size_t i = 0; i < m->n; i++)
		json_array_foreach(json_object_get(m->reports[i], "failing"), k, object)
		{
			sorted[n++] = object;
		}
	if (n > 0)
		qsort(sorted, n, sizeof(json_t *), compare_failing);
	for (size_t i = 0; i < n; i++) {
		json_array_append(all, sorted[i]);
		count_state(m, sorted[i]);
	}
	free(sorted);
	return all;
}

/*
 * Each shard has checked its own states, and has met all: in the same order, so that one that stopped at its first failure
 * has met the first of them.
 */
static json_t *
all_states(const struct merge *m)
{
	json_t *all = json_deep_copy(json_object_get(m->reports[0], "states")), *value;
	const char *name;
	void *next;

	json_object_foreach_safe(all, next, name, value)
	{
		json_int_t sum = 0, most = 0;

		for (size_t i = 0; i < m->n; i++) {
			json_int_t one = number(json_object_get(m->reports[i], "states"), name);

			sum += one;
			most = one > most ? one : most;
		}
		if (strcmp(name, "elsewhere") == 0)
			sum = 0;
		json_object_set_new(all, name, json_integer(strcmp(name, "met") == 0 ? most : sum));
	}
	return all;
}

static json_t *
joined_timeline(const struct merge *m)
{
	json_t *timeline = json_copy(json_object_get(m->reports[0], "timeline"));

	for (size_t i = 1; i < m->n && timeline != NULL; i++)
		timeline_join(timeline, json_object_get(m->reports[i], "timeline"));
	return timeline;
}

/* They ran side by side: the longest time, and the first failure. */
static void
set_times(const struct merge *m, json_t *merged)
{
	double seconds = 0, first = -1;

	for (size_t i = 0; i < m->n; i++) {
		double took = json_number_value(json_object_get(m->reports[i], "seconds"));
		double failure = json_number_value(json_object_get(m->reports[i], "first_failure"));

		seconds = took > seconds ? took : seconds;
		first = failure >= 0 && (first < 0 || failure < first) ? failure : first;
	}
	json_object_set_new(merged, "seconds", json_real(seconds));
	json_object_set_new(merged, "first_failure", json_real(first));
}

json_t *
merged_report(json_t *const *reports, size_t n)
{
	struct merge m = { .reports = reports, .n = n };
	json_t *merged = json_copy(reports[0]), *findings = json_array(), *timeline = joined_timeline(&m);

	read_findings(&m);
	join_findings(&m);
	json_object_set_new(merged, "shard", json_pack("[ii]", 1, 1));
	json_object_set_new(merged, "states", all_states(&m));
	points_join(merged, reports, n);
	json_object_set_new(merged, "failing", all_failing(&m));
	if (timeline != NULL)
		json_object_set_new(merged, "timeline", timeline);
	for (size_t i = 0; i < m.n_findings; i++) {
		json_array_append_new(findings, finding_object(&m.findings[i], i));
		difference_free(&m.findings[i].difference);
	}
	json_object_set_new(merged, "findings", findings);
	json_object_set_new(merged, "unexplained", json_integer((json_int_t)m.unexplained));
	set_times(&m, merged);
	free(m.findings);
	return merged;
}
