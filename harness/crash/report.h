/* The results of an exploration as one JSON object (docs/crash.md). */
#ifndef NBDSPEC_CRASH_REPORT_H
#define NBDSPEC_CRASH_REPORT_H

#include "harness/crash/explore.h"

#include <jansson.h>

#define REPORT_FORMAT "nbdspec crash 1"

json_t *exploration_object(const struct exploration *e, const char *trace);

/* False, and one line; then there is no file. */
bool report_write(const char *path, const struct exploration *e, const char *trace, char error[512]);

#endif
