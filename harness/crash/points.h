/*
 * The crash points of a report: all of them where they are few, else those with failing states, and one of every so many
 * others (docs/crash.md).
 */
#ifndef NBDSPEC_CRASH_POINTS_H
#define NBDSPEC_CRASH_POINTS_H

#include "harness/crash/explore.h"

#include <jansson.h>

enum { POINTS_MOST = 3000 };	/* of each of the two */

/* Sets "points" of a report, and what is said of all of them. */
void points_add(json_t *report, const struct exploration *e);

/* Whether a report that was read says of its points what can be; points_join() wants that. */
bool points_are_sound(const json_t *report);

/* The same of what all shards of one exploration say. */
void points_join(json_t *merged, json_t *const *reports, size_t n);

#endif
