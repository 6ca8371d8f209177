/*
 * A volatile write cache: what a power cut takes away from a disk again. The disk itself (disk.h) always holds what
 * clients read; the cache remembers what else every range may legally hold after a cut (harness/history.h), with the
 * bytes for it. Without commands that are not yet durable it takes no memory.
 */
#ifndef NBDSPEC_CACHE_H
#define NBDSPEC_CACHE_H

#include "fakeserver/disk.h"

enum cut {
	CUT_DROP,	/* all is lost that is not guaranteed */
	CUT_KEEP,	/* nothing is lost */
	CUT_RANDOM,	/* each tear unit holds one of its legal contents, by the seed */
};

bool cut_parse(const char *text, enum cut *cut);	/* "drop", "keep", "random" */

struct cache;

struct cache_config {
	uint64_t most;			/* bytes of contents remembered; beyond, the oldest are destaged, as a disk may */
	uint32_t tear_unit;		/* bytes, a power of two: what a cut leaves in one piece */
	bool flush_covers_all;		/* of whatever connection: CAN_MULTI_CONN */
};
#define CACHE_MOST_DEFAULT (UINT64_C(64) << 20)
enum { TEAR_UNIT_DEFAULT = 512 };

struct cache *cache_new(struct disk *d, const struct cache_config *config);	/* the disk must outlive it */
void cache_free(struct cache *c);

struct cache_command {
	enum { CACHED_WRITE, CACHED_ZEROES, CACHED_TRIM, CACHED_FLUSH } kind;
	bool fua, no_hole;
	uint32_t connection;
	uint64_t offset, length;
	const uint8_t *data;		/* of CACHED_WRITE: `length` bytes, copied */
};

/* Before the command is carried out on the disk; returns what cache_answer wants. */
uint64_t cache_receive(struct cache *c, const struct cache_command *m);
/*
 * It was carried out, or failed, and its answer is about to be sent. `volatile_only`: a lie; whatever promises follow,
 * a power cut may take it.
 */
void cache_answer(struct cache *c, uint64_t number, bool success, bool volatile_only);
/* As Linux does after a failed fsync: what is dirty now no FLUSH will make durable any more. */
void cache_forget(struct cache *c);

/* The disk holds what the cut leaves; nothing is pending. `random` gives bits by the seed. */
void cache_cut(struct cache *c, enum cut how, uint64_t (*random)(void *arg), void *arg);

uint64_t cache_bytes(const struct cache *c);	/* of contents remembered now */
uint64_t cache_pending(const struct cache *c);	/* commands that a cut may undo */

#endif
