/* What --explore asks of its cases, and what they count together. */
#ifndef NBDSPEC_EXPLORATION_H
#define NBDSPEC_EXPLORATION_H

#include "harness/corpus.h"
#include "harness/result.h"
#include "harness/test.h"

enum {
	EXPLORE_DEPTH_MOST = 8,
	EXPLORE_FINDINGS_MOST = 32,	/* that nobody expects; after so many no more are brought down */
	EXPLORE_TOLD_MOST = 512,	/* of all */
	EXPLORE_REASONS_MOST = 8,
	EXPLORATIONS_MOST = 4,		/* cases */
	EXPLORE_SHAPES_MOST = 8192,
};

/* The findings of one exploration. */
struct exploration_told {
	_Atomic unsigned unexpected;			/* that were told */
	_Atomic uint64_t untold;			/* deviations that were not brought down, for enough is told */
	_Atomic uint64_t found[EXPLORE_TOLD_MOST];	/* hashes of what one shard has reported, so that no other does */
};

/* How far an exploration is, for the line of progress. */
struct exploration_pace {
	_Atomic(const struct case_def *) of;
	_Atomic(const char *) units;			/* "sequences" */
	_Atomic uint64_t planned, done;			/* so many there are; 0 until that is known */
	_Atomic uint64_t since_us;			/* when the first of them was begun */
};

/* In memory that all shards share. */
struct exploration_counts {
	struct exploration_pace pace[EXPLORATIONS_MOST];
	_Atomic uint64_t walked, skipped, broken;	/* sequences */
	_Atomic uint64_t checked_us, repeated, repeated_us;	/* of --unchecked: those that were also done without a look */
	_Atomic uint64_t unlike;			/* batches of these that were not answered as before */
	_Atomic unsigned finished;			/* shards */
	_Atomic uint64_t unwalked;			/* sequences, for the server is gone, or hangs or dies all the time */
	struct exploration_told told;
	/* Of the transmission product, whose combinations are done or left out for a reason: */
	struct {
		_Atomic uint64_t done, by_leaving, broken, left_out[EXPLORE_REASONS_MOST];
		_Atomic unsigned finished;
		struct exploration_told told;
	} product;
	/* Of scripts over several connections: */
	struct {
		_Atomic uint64_t done, requests, broken, left;
		_Atomic unsigned finished;
		struct exploration_told told;
	} connections;
	/* Of clients: what each of their two cases has played. */
	struct exploration_tally {
		_Atomic uint64_t walked, skipped, broken, unwalked;
		_Atomic unsigned finished;
		struct exploration_told told;
	} replies, chunks;
	/* Of mutated bytes (--mutate): */
	struct {
		_Atomic uint64_t planned;		/* runs; 0: as many as there is time for */
		_Atomic uint64_t since_us, done, broken, checks, starts, lingered, unseen;
		_Atomic uint64_t undone;		/* runs, for the server is gone, or hangs all the time */
		_Atomic unsigned finished, shapes;
		_Atomic uint64_t shape[EXPLORE_SHAPES_MOST];	/* hashes, of all shards */
		struct exploration_told told;
	} bytes;
};

/* What is asked of `nbdspec server --mutate`. */
struct mutation {
	bool asked;
	unsigned long runs;		/* 0: until the time is over */
	double seconds;			/* 0: no limit */
	unsigned long only;		/* this run alone, from 1; or 0 */
	const char *bytes;		/* these alone, as a finding tells them; or NULL */
	const char *corpus_dir;		/* as given, or NULL */
	struct corpus corpus;		/* what is in it */
	const char *new_dir;		/* streams whose replies have a new shape are put here; or NULL */
};

struct exploration {
	int depth;			/* -1: none */
	unsigned long walks;		/* at random, by the seed */
	const char *sequence;		/* only this one; or NULL */
	bool unchecked;
	struct mutation mutation;
	unsigned shards;
	struct exploration_counts *counts;
	bool (*is_known)(void *arg, const struct result *r);	/* by an expectation */
	void *arg;
};

/* What is asked of the case, which does every shards-th sequence from this one on. */
const struct exploration *exploration_of(const struct test *t, unsigned *shard);
/* What it is based on is learnt, in the time that any case has; from here on it may take hours. */
void exploration_begins(struct test *t);
/* Its place there, with so many of them to be done; each shard adds what it has done. `units` is a literal. */
struct exploration_pace *exploration_pace(const struct test *t, const char *units, uint64_t planned);
bool may_write(const struct test *t);		/* the export is ours, or --destructive was given */
/* Does an expectation say that this point breaks just this? */
bool is_expected(const struct test *t, const char *point, enum requirement_id r);
/* The summary, as tell(). Where not all was seen it is none, and the run is not green. */
void sum_up(struct test *t, bool whole, const char *text);
/* False where it was in the table before, of any shard, or there is no room: then *full is set. */
bool exploration_claim(_Atomic uint64_t *table, size_t room, uint64_t sum, bool *full);
/* So many findings were told. */
unsigned exploration_found(const struct exploration_told *told);
/* The command line up to the exploration's own options, malloc'd. */
char *exploration_again(const struct test *t, const char *options);
/* A verdict of several requirements, as broken_values(), with lines that tell how to see it again. */
_Noreturn void broken_finding(struct test *t, const enum requirement_id *r, const char *expected, const char *got,
			      const char *again);

#endif
