/*
 * Reports that 'nbdspec crash explore --json' has written (docs/crash.md). Whoever wrote them, what is returned is sound:
 * whatever a page shows of it is there, of its type and within its range, and every text is printable() but the commands
 * of "replay".
 */
#ifndef NBDSPEC_CRASH_SAVED_H
#define NBDSPEC_CRASH_SAVED_H

#include <jansson.h>
#include <stdbool.h>

/* Of this form or an older one. */
bool saved_is_exploration(const json_t *json);

/* The exploration in JSON, which is taken. NULL and one line in error, "PATH: …". The caller releases it. */
json_t *saved_exploration(json_t *json, const char *path, char error[512]);

#endif
