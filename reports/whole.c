#include "reports/whole.h"

#include "harness/printable.h"
#include "harness/saved.h"
#include "reports/json.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>

void *
whole_open(FILE *f, const struct run_info *info)
{
	struct whole *w = report_state(sizeof(*w));

	w->f = f;
	w->baseline = info->baseline;
	w->baseline_path = printable_string(info->baseline_path);
	w->json = open_memstream(&w->text, &w->size);
	if (w->json == NULL)
		err(3, "the state of a report");
	w->state = json_begin(w->json, info, false);
	return w;
}

void
whole_result(void *state, const struct result *r)
{
	struct whole *w = state;

	json_result(w->state, r);
}

void
whole_stale(void *state, const struct stale *s)
{
	struct whole *w = state;

	json_stale(w->state, s);
}

struct place {
	json_t *result;
	size_t turn;
};

static int
by_case(const void *a, const void *b)
{
	const struct place *x = a, *y = b;
	int by = strcmp(saved_text(x->result, "case"), saved_text(y->result, "case"));

	return by != 0 ? by : x->turn < y->turn ? -1 : 1;
}

void
whole_sort(json_t *results)
{
	size_t n = json_array_size(results);
	struct place *places = report_state((n + 1) * sizeof(*places));

	for (size_t i = 0; i < n; i++)
		places[i] = (struct place){ json_incref(json_array_get(results, i)), i };
	qsort(places, n, sizeof(*places), by_case);
	for (size_t i = 0; i < n; i++)
		json_array_set_new(results, i, places[i].result);
	free(places);
}

bool
whole_alike(const json_t *a, const json_t *b)
{
	static const char *const same[] = { "case", "verdict", "requirement", "expectation" };
	bool alike = json_is_true(json_object_get(a, "red")) == json_is_true(json_object_get(b, "red"));

	for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++)
		alike &= strcmp(saved_text(a, same[i]), saved_text(b, same[i])) == 0;
	return alike;
}

json_t *
whole_end(struct whole *w, const struct run_summary *s)
{
	json_t *run;

	json_finish(w->state, s);
	fclose(w->json);
	run = json_loadb(w->text, w->size, 0, NULL);
	if (run == NULL)
		errx(3, "no memory for a report");
	whole_sort(json_object_get(run, "results"));
	return run;
}

void
whole_free(struct whole *w)
{
	free(w->text);
	free(w->baseline_path);
	free(w);
}

/* ---- words ---- */

const char *
whole_outcome(const json_t *result)
{
	bool gone = expectation_named(saved_text(result, "expectation")) == EXPECT_UNEXPECTED_PASS;

	return gone ? "unexpected pass" : saved_text(result, "verdict");
}

char *
whole_why(const json_t *result)
{
	autofree char *why = deviation_text(saved_text(result, "message"), saved_text(result, "expected"),
	                                    saved_text(result, "got"));

	return expectation_text(expectation_named(saved_text(result, "expectation")), why,
	                        saved_text(result, "reason"));
}

const char *
whole_excuse(const json_t *result)
{
	const char *expectation = saved_text(result, "expectation");

	if (saved_verdict(result) < VERDICT_WARN || json_is_true(json_object_get(result, "red")))
		return NULL;
	if (json_is_true(json_object_get(result, "experimental")))
		return "experimental";
	return strcmp(expectation, "known") == 0 || strcmp(expectation, "flaky") == 0 ? expectation : NULL;
}

char *
whole_place(const json_t *result)
{
	const char *level = saved_text(result, "level"), *where = saved_text(result, "where");
	char *text;

	if (asprintf(&text, "%s%s%s", level, *level && *where ? ", " : "", where) < 0)
		err(3, "a line of a report");
	return text;
}

char *
whole_again(const json_t *run, const json_t *result)
{
	const char *own = saved_text(result, "again"), *how = saved_text(run, "again");
	char *text;

	if (*own ? (text = strdup(own)) == NULL
	         : asprintf(&text, "nbdspec %s -c %s%s%s", saved_text(run, "suite"), saved_text(result, "case"),
	                    *how ? " " : "", how) < 0)
		err(3, "a line of a report");
	return text;
}

char *
whole_counts(const json_t *run)
{
	static const enum verdict order[] = { VERDICT_PASS, VERDICT_INFO,  VERDICT_WARN,
		                              VERDICT_FAIL, VERDICT_ERROR, VERDICT_SKIP };
	const json_t *summary = json_object_get(run, "summary");
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (f == NULL)
		err(3, "a line of a report");
	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		const char *name = verdict_name(order[i]);

		if (saved_number(summary, name) > 0 || i == 0)
			fprintf(f, "%s%lld %s", i ? ", " : "", (long long)saved_number(summary, name), name);
	}
	if (saved_number(summary, "stale") > 0)
		fprintf(f, ", %lld stale", (long long)saved_number(summary, "stale"));
	if (saved_number(summary, "known") > 0)
		fprintf(f, "; %lld known", (long long)saved_number(summary, "known"));
	fclose(f);
	return text;
}

const char *
whole_broken(const json_t *run)
{
	const json_t *summary = json_object_get(run, "summary");
	const char *broken = saved_text(summary, "broken");

	if (*broken)
		return broken;
	if (json_is_true(json_object_get(summary, "interrupted")))
		return "interrupted";
	return json_array_size(json_object_get(run, "results")) == 0 ? "no case ran" : NULL;
}
