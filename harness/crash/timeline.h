/*
 * What a person wants to see of the recording beside the results: its commands and marks, all of them where they are
 * few, else those about the findings and the crash points (docs/crash.md).
 */
#ifndef NBDSPEC_CRASH_TIMELINE_H
#define NBDSPEC_CRASH_TIMELINE_H

#include "harness/crash/explore.h"

#include <jansson.h>

enum { TIMELINE_COMMANDS = 3000, TIMELINE_MARKS = 1000 };

/* The view is changed. */
json_t *timeline_object(const struct exploration *e, struct view *v);

/* Adds to a finding's object which commands it lacks, and which of the later ones are there. The view is changed. */
void timeline_add_finding(json_t *finding, const struct exploration *e, size_t i, struct view *v);

/* What shards show of one recording, as one. */
void timeline_join(json_t *timeline, const json_t *other);

#endif
