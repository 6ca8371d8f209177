/* What an exploration is asked for, and who answers for it. */
#include "harness/exploration.h"

#include "harness/test_private.h"

#include <stdio.h>
#include <stdlib.h>

const struct exploration *
exploration_of(const struct test *t, unsigned *shard)
{
	*shard = t->private->server->target->shard;
	return t->private->server->target->explore;
}

void
exploration_begins(struct test *t)
{
	report_untimed(t);
}

bool
may_write(const struct test *t)
{
	return target_may_write(t->private->server->target);
}

bool
is_expected(const struct test *t, const char *point, enum requirement_id r)
{
	const struct exploration *e = t->private->server->target->explore;

	return e->is_known(e->arg, &(struct result){ .case_id = t->def->id,
	                                             .point = point,
	                                             .verdict = verdict_of(r),
	                                             .requirement = r,
	                                             .server = "" });
}

char *
exploration_again(const struct test *t, const char *options)
{
	const struct target *target = t->private->server->target;
	char *text;

	if (asprintf(&text, "nbdspec server %s%s %s", target->destructive ? "--destructive " : "", options,
	             target->again != NULL ? target->again : "") < 0)
		abort();
	return text;
}
