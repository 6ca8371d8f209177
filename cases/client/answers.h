/*
 * How a script answers requests of transmission, chunk by chunk, and many of them at once. Offsets are those within the
 * request; what is said of the disk is true unless the case says otherwise.
 */
#ifndef NBDSPEC_CASES_ANSWERS_H
#define NBDSPEC_CASES_ANSWERS_H

#include "cases/client/script.h"

enum { NOT_DONE = 0 };		/* flags of a chunk that is not the last */

/* In .take, and in .speak below. Each returns true. */
bool say_data(struct conn *c, uint16_t flags, uint32_t at, uint32_t length);
bool say_hole(struct conn *c, uint16_t flags, uint32_t at, uint32_t size);
bool say_none(struct conn *c);
/* An error chunk of this type, with a text and, where the type is NBD_REPLY_TYPE_ERROR_OFFSET, an offset. */
bool say_failure(struct conn *c, uint16_t flags, uint16_t type, uint32_t error, const char *text, uint32_t at);
/* As wide as the session has agreed. */
bool say_extents(struct conn *c, uint16_t flags, uint32_t context_id, const struct extent *extents, size_t n);
/* A reply to the request as it should be: a READ gets its data, all others success. BLOCK_STATUS: for each context, `status`. */
bool say_success(struct conn *c, uint32_t status);

/* Reads that are answered together, once all of them are there: the nth is at offset n × SLOT, and .length[n] long. */
enum { GATHERED_MOST = 4, SLOT = 16384 };
struct gather {
	unsigned n;
	uint32_t length[GATHERED_MOST];
	void (*speak)(const struct gather *g, struct conn *c);
	unsigned order[16];		/* for .speak */
	/* ---- */
	struct request request[GATHERED_MOST];
	unsigned come;			/* bits */
};
/* From now on chunks and replies are said to the nth request of them, in .speak only. */
void turn_to(const struct gather *g, struct conn *c, unsigned n);
/*
 * Has the client read all of them at once, on handle 1; the answers in the order of the requests. Skips the point where
 * it waits for one before it sends the next, or sends others. The gather is static, or lives as long as the server.
 */
void gather_reads(struct drive *d, struct gather *g, struct driver_answer *answers);
void expect_gathered(struct drive *d, enum requirement_id r, const struct gather *g, unsigned n,
		     const struct driver_answer *answer);	/* it is ok, and has the disk's data */

/* Success to a request that a script took and did not answer, if its connection is still there. */
void answer_late(struct drive *d, struct conn *c, const struct request *r);

/* Connects handle 1, with this context, escaped, or none; skips where the client does not agree to structured replies. */
void enter_for_chunks(struct drive *d, const char *context);
/* Once for each case: skips it as a whole where the client does not ask for extended headers. */
void need_extended_client(struct drive *d);
/* As enter_for_chunks, with extended headers; skips where the client does not ask for them. */
void enter_with_extended(struct drive *d, const char *context);
void want_extended(struct drive *d);		/* before connect: the user does, where the driver has a setting for it */
void skip_unless_extended(struct drive *d);	/* behind it */
/* The nth permutation of 0 … count - 1. */
void permutation(unsigned *order, unsigned count, unsigned n);
/* A read of what nobody has disturbed must succeed with the disk's data: the client is in step; and it must leave by DISC. */
void must_go_on(struct drive *d, enum requirement_id r);
/* Likewise, but the client may have left, or leave now: that is recorded for `freedom`. */
void may_go_on(struct drive *d, enum requirement_id r, enum requirement_id freedom);

#endif
