/*
 * An exploration: the states of a recording's crash points, from the last point to the first, are offered by the ladder,
 * each image once, and checked by a pool of processes.
 *
 * The last point at which an image is met has the most marks before it, and these are what it is held to.
 */
#ifndef NBDSPEC_CRASH_EXPLORE_H
#define NBDSPEC_CRASH_EXPLORE_H

#include "harness/crash/difference.h"
#include "harness/crash/ladder.h"
#include "harness/crash/pool.h"

#include <stdio.h>

struct explore_options {
	struct tear tear;
	uint64_t budget, seed;
	unsigned jobs;
	uint32_t shard, shards;		/* shard from 0 */
	bool marks;			/* each image once for each number of marks that must be visible */
	bool stop_at_first, progress, verbose;
	bool trie;			/* with {uri}: what is known of the checker's reads decides */
	uint32_t verify;		/* of these decisions, how many are checked after all */
	const char *resume;		/* a file of verdicts, or NULL */
	struct checker_setup setup;
};

struct failing {
	uint64_t number;		/* in order of the ladder */
	uint32_t must;
	struct checked result;
	uint64_t ns;			/* when its verdict came */
	bool known, decided;		/* from --resume; by what is read */
	uint32_t *words;		/* view_save */
	struct difference difference;
};

struct point_result {
	uint32_t pending;
	uint64_t states, failing;
	uint64_t judged;		/* of these states: those with a verdict, and those of other shards */
	bool complete;			/* there are no other states, and all are judged */
};

struct finding {
	struct difference difference;	/* the least that makes it fail */
	uint32_t must;
	struct checked result;
	uint64_t ns;			/* when the last verdict came that it stands on */
	uint64_t states;		/* failing ones that lack all this, and no earlier finding */
	char **which;			/* of each lack: what lies there, printable, or NULL; NULL: nobody knows */
};

struct exploration {
	const struct explore_options *options;
	const struct space *space;
	uint64_t states;		/* distinct ones that were met */
	uint64_t elsewhere;		/* of these, in other shards */
	uint64_t known;			/* of these, with a verdict from --resume */
	uint64_t decided;		/* of these, without a check, by what is read */
	uint64_t verified, contradicted; /* of the decided; reads that differed, too, contradict */
	uint64_t verdicts[VERDICTS];
	uint64_t wrote;			/* checks that wrote to the image */
	struct point_result *points;	/* of each point of the space */
	uint32_t reached;		/* of these, which come from the last on, the one that was done last */
	size_t n_failing, n_findings;
	struct failing *failing;
	struct finding *findings;
	uint64_t unexplained;		/* failing states that were not minimised */
	uint64_t minimising;		/* checks that were run for it */
	double seconds, first_failure;	/* < 0: none */
	bool interrupted;
};

/* Fills all of it; false, and one line, when it cannot go on. Interrupted it returns true, with what is known. */
bool explore(struct exploration *e, const struct explore_options *o, const struct space *s, char error[512]);
void exploration_free(struct exploration *e);

/* The findings of what fails; check_again() is false without a verdict. For explore(). */
struct asker;
bool check_again(struct asker *a, const struct difference *d, uint32_t must, struct checked *result);
bool answers_ended(const struct asker *a); /* a stop */
void minimise(struct exploration *e, struct asker *a);
void count_states(struct exploration *e); /* then, of each finding */

/* For people; `trace` as it was given, for the commands that replay states. */
char *replay_line(const struct exploration *e, size_t i, const char *trace);	/* a finding's; malloc'd */
void print_finding(FILE *f, const struct exploration *e, size_t i, struct view *v, const char *trace);
void print_exploration(FILE *f, const struct exploration *e, const char *trace);

#endif
