/* What --explore asks of its cases, and what they count together. */
#ifndef NBDSPEC_EXPLORATION_H
#define NBDSPEC_EXPLORATION_H

#include "harness/result.h"
#include "harness/test.h"

enum {
	EXPLORE_DEPTH_MOST = 8,
	EXPLORE_FINDINGS_MOST = 32,	/* that nobody expects; after so many no more are brought down */
	EXPLORE_TOLD_MOST = 512,	/* of all */
	EXPLORE_REASONS_MOST = 8,
};

/* In memory that all shards share. */
struct exploration_counts {
	_Atomic uint64_t walked, skipped, broken;	/* sequences */
	_Atomic uint64_t planned;			/* so many there are; 0 until that is known */
	_Atomic uint64_t since_us;			/* when the first of them was walked */
	_Atomic uint64_t checked_us, repeated, repeated_us;	/* of --unchecked: those that were also done without a look */
	_Atomic uint64_t unlike;			/* batches of these that were not answered as before */
	_Atomic unsigned finished;			/* shards */
	_Atomic unsigned unexpected;			/* findings that were told */
	_Atomic uint64_t untold;			/* deviations that were not brought down, for enough is told */
	_Atomic uint64_t unwalked;			/* sequences, for the server is gone, or hangs or dies all the time */
	_Atomic uint64_t found[EXPLORE_TOLD_MOST];	/* hashes of what one shard has reported, so that no other does */
	/* Of the transmission product, whose combinations are done or left out for a reason: */
	struct {
		_Atomic uint64_t done, by_leaving, broken, left_out[EXPLORE_REASONS_MOST];
		_Atomic unsigned finished, unexpected;
		_Atomic uint64_t untold;
		_Atomic uint64_t found[EXPLORE_TOLD_MOST];
	} product;
	/* Of clients: what each of their two cases has played. */
	struct exploration_tally {
		_Atomic uint64_t walked, skipped, broken, untold, unwalked;
		_Atomic unsigned finished, unexpected;
		_Atomic uint64_t found[EXPLORE_TOLD_MOST];
	} replies, chunks;
};

struct exploration {
	int depth;			/* -1: none */
	unsigned long walks;		/* at random, by the seed */
	const char *sequence;		/* only this one; or NULL */
	bool unchecked;
	unsigned shards;
	struct exploration_counts *counts;
	bool (*is_known)(void *arg, const struct result *r);	/* by an expectation */
	void *arg;
};

/* What is asked of the case, which does every shards-th sequence from this one on. */
const struct exploration *exploration_of(const struct test *t, unsigned *shard);
/* What it is based on is learnt, in the time that any case has; from here on it may take hours. */
void exploration_begins(struct test *t);
bool may_write(const struct test *t);		/* the export is ours, or --destructive was given */
/* Does an expectation say that this point breaks just this? */
bool is_expected(const struct test *t, const char *point, enum requirement_id r);
/* A summary that is none, for not all was seen: as tell(), but the run is not green. */
void incomplete(struct test *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The command line up to the exploration's own options, malloc'd. */
char *exploration_again(const struct test *t, const char *options);
/* A verdict of several requirements, as broken_values(), with lines that tell how to see it again. */
_Noreturn void broken_finding(struct test *t, const enum requirement_id *r, const char *expected, const char *got,
			      const char *again);

#endif
