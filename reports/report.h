/* What several report writers say alike. Strings are malloc'd, printable and never NULL. */
#ifndef NBDSPEC_REPORTS_REPORT_H
#define NBDSPEC_REPORTS_REPORT_H

#include "harness/result.h"

char *result_id(const struct result *r);          /* "group/name[point]" */
char *result_why(const struct result *r);         /* one line that says what is wrong, "" for a plain pass */

/* The same of what is printable already: "message: expected …, got …", and how it stands to the expectation file. */
char *deviation_text(const char *message, const char *expected, const char *got);
char *expectation_text(enum expectation e, const char *why, const char *reason);

/* A deviation that the expectation file speaks of, and that therefore does not count. */
bool result_is_known(const struct result *r);

/* A deviation from an experimental extension, which does not count without --experimental. */
bool result_is_apart(const struct result *r);

/* A pass that has something to tell. */
bool result_tells(const struct result *r);

/* "2.003": microseconds as seconds, rounded. Returns text. */
enum { SECONDS_MAX_TEXT = 24 };
const char *seconds_text(uint64_t us, char text[SECONDS_MAX_TEXT]);

/* calloc() that ends the program with status 3, and a string that goes with its scope. */
void *report_state(size_t size);
void text_free(char **text);
#define autofree __attribute__((cleanup(text_free)))

#endif
