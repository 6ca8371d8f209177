/* The states that were met, by their hashes: a set of fixed room. */
#ifndef NBDSPEC_CRASH_SEEN_H
#define NBDSPEC_CRASH_SEEN_H

#include "harness/crash/view.h"

struct seen {
	struct hash *at;	/* open addressing; all zero: free */
	size_t room, n;
};

/* 24 bytes for each of `most` states. False without memory. */
bool seen_start(struct seen *s, uint64_t most);
void seen_free(struct seen *s);

/* False: it was in it already. No more than `most` are put. */
bool seen_put(struct seen *s, struct hash h);

#endif
