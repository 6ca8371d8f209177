/*
 * The order in which the states of a crash point are offered: all of them where they are few; else those that most often
 * tell something first, and then a seeded choice. The same view, quota and seed offer the same states in the same order.
 */
#ifndef NBDSPEC_CRASH_LADDER_H
#define NBDSPEC_CRASH_LADDER_H

#include "harness/crash/view.h"

enum offered {
	STATE_NEW,	/* counts */
	STATE_SEEN,
	STATE_STOP,	/* no more are wanted */
};

/* The states up to `quota` new ones; .complete: there are no others. */
struct climb {
	uint64_t offered, found;	/* in all; new ones */
	bool complete, stopped;
};

struct climb ladder_climb(struct view *v, uint64_t quota, uint64_t seed,
                          enum offered (*offer)(void *arg, const struct view *v), void *arg);

/* How many states each point may have of a budget: those that have few get them all. `counts` becomes quotas. */
void ladder_share(uint64_t *counts, uint32_t n, uint64_t budget);

#endif
