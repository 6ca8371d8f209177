/* Which findings are told: each once, by whichever shard has it first, and not without end. */
#ifndef NBDSPEC_EXPLORE_TOLD_H
#define NBDSPEC_EXPLORE_TOLD_H

#include "harness/exploration.h"

#include <stdio.h>

/* False where another shard has told the same. `names`: of its point. */
bool is_first_told(struct exploration_told *told, const char *names, enum requirement_id r);
/* Nor where enough was: that is counted. */
bool is_to_be_told(const struct test *t, struct exploration_told *told, const char *names, enum requirement_id r);
/* From then on what deviates need not be brought down. What is expected is told however much it is: behind it may stand what is not. */
bool is_enough_told(const struct exploration_told *told);
/* Words for the summary, where there is something to say. */
void put_untold(FILE *f, const struct exploration_told *told);

#endif
