/*
 * Processes that check states side by side, each with an image of its own. One process tells them what to check, and is
 * told the results, in whatever order they come.
 */
#ifndef NBDSPEC_CRASH_POOL_H
#define NBDSPEC_CRASH_POOL_H

#include "harness/crash/checker.h"

struct pool;

enum pool_wait { POOL_DONE, POOL_INTERRUPTED, POOL_LOST };

struct pool_job {
	uint64_t number;	/* the giver's */
	struct hash key;
	uint32_t must;
	uint32_t *words;	/* view_save; the pool's, unless it is taken and this NULL */
	struct touched *touched; /* with {uri}: what was read */
	uint32_t n_touched;
};

typedef void pool_result(void *arg, struct pool_job *job, const struct checked *result);

/* NULL, and one line. Stop signals must be blocked. */
struct pool *pool_new(const struct space *s, const struct checker_setup *setup, unsigned workers, pool_result *result,
                      void *arg, char error[512]);
void pool_free(struct pool *p);	/* ends them, and what they run */

void pool_tell(struct pool *p, pool_result *result, void *arg);	/* from now on; none is awaited */

/* Once it has waited for `ms` milliseconds, again and again. */
void pool_while_waiting(struct pool *p, int ms, void (*act)(void *arg), void *arg);

/* Waits until a process is free. POOL_LOST: one has died; POOL_INTERRUPTED: a stop signal is pending. */
enum pool_wait pool_give(struct pool *p, const struct view *v, uint64_t number, struct hash key, uint32_t must);
enum pool_wait pool_poll(struct pool *p);	/* takes the results that are there */
enum pool_wait pool_drain(struct pool *p);	/* until all results are told */

#endif
