/* The results of an exploration as one JSON object (docs/crash.md). */
#ifndef NBDSPEC_CRASH_REPORT_H
#define NBDSPEC_CRASH_REPORT_H

#include "harness/crash/explore.h"

#include <jansson.h>

#define REPORT_FORMAT "nbdspec crash 2"

json_t *exploration_object(const struct exploration *e, const char *trace);

/* Each writes a report of this form; false, and errno. The page is reports/crash_page.c: it stands alone, and needs no network. */
bool report_json(FILE *f, const json_t *report);
bool report_page(FILE *f, const json_t *report);

/* False, and one line; then there is no file. */
bool report_write(const char *path, const json_t *report, bool (*write)(FILE *f, const json_t *report), char error[512]);

struct report_files {
	const char *json, *html;	/* paths, or NULL */
};
bool report_write_all(const struct report_files *files, const json_t *report, char error[512]);

#endif
