/* The JSON report, for what else is made of it. */
#ifndef NBDSPEC_REPORTS_JSON_H
#define NBDSPEC_REPORTS_JSON_H

#include "harness/saved.h"
#include "reports/report.h"

/* As of a report writer, but for `brief`: each result has only what it alone says. */
void *json_begin(FILE *f, const struct run_info *info, bool brief);
void json_result(void *state, const struct result *r);
void json_stale(void *state, const struct stale *s);
void json_open_line(void *state, const struct stale *s);
void json_finish(void *state, const struct run_summary *s);

/* Takes out of a result what its case and the catalogue of requirements say as well, and what is null, false or empty. */
void json_make_brief(json_t *result);

/* Writes the value and lets it go. All texts in it are UTF-8, so NULL says that memory was wanting: status 3. */
void json_put(FILE *f, json_t *value, size_t flags);

#endif
