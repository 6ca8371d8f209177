/* What an exploration is asked for, and who answers for it. */
#include "harness/exploration.h"

#include "harness/clock.h"
#include "harness/test_private.h"

#include <stdatomic.h>
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

struct exploration_pace *
exploration_pace(const struct test *t, const char *units, uint64_t planned)
{
	struct exploration_pace *p = t->private->server->target->explore->counts->pace;
	const struct case_def *of = NULL;
	uint64_t nobody = 0;

	while (!atomic_compare_exchange_strong(&p->of, &of, t->def) && of != t->def) {
		of = NULL;
		p++;
	}
	atomic_compare_exchange_strong(&p->since_us, &nobody, now_us());
	p->units = units;
	if (planned > 0)
		p->planned = planned;
	return p;
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

bool
exploration_claim(_Atomic uint64_t *table, size_t room, uint64_t sum, bool *full)
{
	uint64_t mine = sum | 1; /* a place that is free holds zero */

	*full = false;
	for (size_t i = 0; i < room; i++) {
		uint64_t is = 0;

		if (atomic_compare_exchange_strong(&table[i], &is, mine))
			return true;
		if (is == mine)
			return false;
	}
	*full = true;
	return false;
}

unsigned
exploration_found(const struct exploration_told *told)
{
	unsigned n = 0;

	while (n < EXPLORE_TOLD_MOST && told->found[n] != 0)
		n++;
	return n;
}

char *
exploration_again(const struct test *t, const char *options)
{
	const struct target *target = t->private->server->target;
	char *text;

	if (asprintf(&text, "nbdspec %s %s%s %s", target->via == VIA_CLIENT ? "client" : "server",
	             target->destructive ? "--destructive " : "", options,
	             target->again != NULL ? target->again : "") < 0)
		abort();
	return text;
}
