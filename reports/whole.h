/* For a report that is written at the end, from all that the run has said: as its JSON report has it. */
#ifndef NBDSPEC_REPORTS_WHOLE_H
#define NBDSPEC_REPORTS_WHOLE_H

#include "reports/report.h"

#include <jansson.h>

struct whole {
	FILE *f, *json;
	char *text;
	size_t size;
	void *state;			/* of the JSON report */
	const json_t *baseline;
	char *baseline_path;
};

/* As of a report writer; the state is a struct whole. */
void *whole_open(FILE *f, const struct run_info *info);
void whole_result(void *state, const struct result *r);
void whole_stale(void *state, const struct stale *s);
/* The run, its results in the order of their cases; released by the caller, before the state. */
json_t *whole_end(struct whole *w, const struct run_summary *s);
void whole_free(struct whole *w);

/* In the order of their cases, and of each as they came. */
void whole_sort(json_t *results);
/* Results of one case that break the same requirement: reports tell of them at once. */
bool whole_alike(const json_t *a, const json_t *b);

/* "fail", or "unexpected pass". */
const char *whole_outcome(const json_t *result);
/* What is wrong, in one line as result_why() has it; malloc'd. */
char *whole_why(const json_t *result);
/* A deviation that makes the run not fail: "known", "flaky" or "experimental"; else NULL. */
const char *whole_excuse(const json_t *result);
/* The words for a requirement: "MUST, proto.md:2420-2421". malloc'd; "" for none. */
char *whole_place(const json_t *result);
/* What runs the case again, in lines; malloc'd. */
char *whole_again(const json_t *run, const json_t *result);
/* "870 pass, 3 fail (1 known)"; malloc'd. */
char *whole_counts(const json_t *run);
/* Why the run ended early, or NULL. */
const char *whole_broken(const json_t *run);

#endif
