#include "cases/explore/told.h"

#include "harness/sum.h"

#include <inttypes.h>
#include <string.h>

bool
is_first_told(struct exploration_told *told, const char *names, enum requirement_id r)
{
	bool full, first = exploration_claim(told->found, EXPLORE_TOLD_MOST,
	                                     sum_bytes(r, (const uint8_t *)names, strlen(names)), &full);

	told->untold += full;
	return first;
}

bool
is_to_be_told(const struct test *t, struct exploration_told *told, const char *names, enum requirement_id r)
{
	if (!is_first_told(told, names, r))
		return false;
	if (is_expected(t, names, r) || told->unexpected++ < EXPLORE_FINDINGS_MOST)
		return true;
	told->untold++;
	return false;
}

bool
is_enough_told(const struct exploration_told *told)
{
	return told->unexpected >= EXPLORE_FINDINGS_MOST || told->found[EXPLORE_TOLD_MOST - 1] != 0;
}

void
put_untold(FILE *f, const struct exploration_told *told)
{
	if (told->untold > 0)
		fprintf(f, "; not all is told: enough was, and %" PRIu64 " times more something else deviated",
		        told->untold);
}
