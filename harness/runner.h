/*
 * Runs jobs: each is one case against one target, in a process of its own under a deadline. A slot owns a server and
 * gives it to one case after another; slots work side by side. One event loop, no threads.
 */
#ifndef NBDSPEC_RUNNER_H
#define NBDSPEC_RUNNER_H

#include "harness/target.h"
#include "harness/test.h"

struct job {
	const struct case_def *def;
	const struct target *target;
	void *tag;			/* the caller's */
};

struct runner {
	unsigned slots;			/* from 1 */
	int trace_fd;			/* all records of all cases are appended here; -1 for none */
	/* Slot i of N runs the jobs i, i + N …, so that what earlier cases left on a disk is the same in every run. */
	bool in_turn;
	bool transcripts;		/* decode them for what is not a pass */
	void *arg;
	/* A result as it comes; its strings live during the call. */
	void (*result)(void *arg, const struct job *job, const struct result *r);
	/* The records of a case, once it has ended, behind its results; may be NULL. */
	void (*traced)(void *arg, struct wire records);
	void (*progress)(void *arg, unsigned done, const struct case_def *running);	/* may be NULL */
	int64_t progress_ms;		/* how often, where one case takes long; 0: as each begins */
};

struct run_end {
	bool interrupted;		/* SIGINT or SIGTERM: what is known was reported */
	char *broken;			/* malloc'd: why the run could not go on (the server does not start …), or NULL */
	int trace_failed;		/* errno: .trace_fd could not be written; 0 */
};

/* Every server is stopped and every process ended when it returns. */
struct run_end run_jobs(const struct runner *r, const struct job *jobs, size_t n);

/* The selected cases: those that match one of the globs ("option/…"), all without globs. malloc'd, NULL-terminated. */
const struct case_def **select_cases(enum suite suite, char *const *globs, size_t n_globs, size_t *n);

#endif
