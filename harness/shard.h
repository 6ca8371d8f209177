/* Which cases are a shard's (--shard I/N). */
#ifndef NBDSPEC_SHARD_H
#define NBDSPEC_SHARD_H

#include "harness/test.h"

/*
 * The cases that are of shard `number`, from 1, in their order; malloc'd, NULL-terminated. All shards have the same
 * number of cases, or one less; where a case is added, each of them gives its neighbour one at most.
 */
const struct case_def **shard_cases(const struct case_def *const *cases, size_t n, unsigned number, unsigned of,
				    size_t *n_mine);

#endif
