/* What `nbdspec server --explore` asks of its cases, and what they count together. */
#ifndef NBDSPEC_EXPLORATION_H
#define NBDSPEC_EXPLORATION_H

#include "harness/test.h"

enum { EXPLORE_DEPTH_MOST = 8, EXPLORE_FINDINGS_MOST = 32, EXPLORE_REASONS_MOST = 8 };

/* In memory that all shards share. */
struct exploration_counts {
	_Atomic uint64_t walked, skipped, broken;	/* sequences */
	_Atomic uint64_t checked_us, repeated, repeated_us;	/* of --unchecked: those that were also done without a look */
	_Atomic uint64_t longest_us;			/* of one shard */
	_Atomic unsigned finished;			/* shards */
	_Atomic uint64_t found[EXPLORE_FINDINGS_MOST];	/* hashes of what one shard has reported, so that no other does */
	/* Of the transmission product, whose combinations are done or left out for a reason: */
	struct {
		_Atomic uint64_t done, by_leaving, broken, left_out[EXPLORE_REASONS_MOST];
		_Atomic unsigned finished;
		_Atomic uint64_t found[EXPLORE_FINDINGS_MOST];
	} product;
};

struct exploration {
	int depth;			/* -1: none */
	unsigned long walks;		/* at random, by the seed */
	const char *sequence;		/* only this one; or NULL */
	bool unchecked;
	unsigned shards;
	struct exploration_counts *counts;
};

/* What is asked of the case, which does every shards-th sequence from this one on. */
const struct exploration *exploration_of(const struct test *t, unsigned *shard);
bool may_write(const struct test *t);		/* the export is ours, or --destructive was given */
/* The command line up to the exploration's own options, malloc'd. */
char *exploration_again(const struct test *t, const char *options);
/* A verdict of several requirements, as broken_values(), with lines that tell how to see it again. */
_Noreturn void broken_finding(struct test *t, const enum requirement_id *r, const char *expected, const char *got,
			      const char *again);

#endif
