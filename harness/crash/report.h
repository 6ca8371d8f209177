/* The results of an exploration as one JSON object (docs/crash.md). */
#ifndef NBDSPEC_CRASH_REPORT_H
#define NBDSPEC_CRASH_REPORT_H

#include "harness/crash/explore.h"

#include <jansson.h>

#define REPORT_FORMAT "nbdspec crash 2"

json_t *exploration_object(const struct exploration *e, const char *trace);

/* What writes a report of this form: an entry in the table by CRASH_REPORT(), so that those in reports/ are found here. */
struct crash_writer {
	const char *name;	/* "html": the option --html FILE */
	bool (*write)(FILE *f, const json_t *report);	/* false, and errno */
};

#define CRASH_REPORT(ident)                                                                                            \
	static const struct crash_writer crash_report_##ident;                                                         \
	static const struct crash_writer *const crash_report_entry_##ident                                             \
		__attribute__((used, section("nbdspec_crash_reports"))) = &crash_report_##ident;                       \
	static const struct crash_writer crash_report_##ident

struct report_files {
	const char *json, *html;	/* paths, or NULL */
};
/* False, and one line; what could not be written whole is not there. */
bool report_write_all(const struct report_files *files, const json_t *report, char error[512]);

#endif
