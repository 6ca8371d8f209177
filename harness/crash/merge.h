/* The reports of all shards of one exploration as the report that it would have made in one piece. */
#ifndef NBDSPEC_CRASH_MERGE_H
#define NBDSPEC_CRASH_MERGE_H

#include "harness/crash/report.h"

/* One for each shard, in order; all of them of one exploration (docs/crash.md). */
json_t *merged_report(json_t *const *reports, size_t n);

#endif
