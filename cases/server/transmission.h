/*
 * What the cases about the transmission phase with simple replies share (read.c, write.c, disc.c, request.c, flush.c);
 * defined in transmission.c.
 */
#ifndef NBDSPEC_CASES_TRANSMISSION_H
#define NBDSPEC_CASES_TRANSMISSION_H

#include "harness/test.h"

uint8_t *room(size_t n);			/* zeroed; given back when the process ends */

/* ---- the export ---- */

uint32_t unit_of(const struct test *t);		/* the smallest request: the minimum block size, else 1 */
uint64_t usable_size(const struct test *t);	/* what requests of whole units can reach, bytes */
uint32_t longest_payload(const struct test *t);	/* that must be served, in whole units; 32 MiB at most */
/* Skips where the export has no such range, or where it is against its block sizes. */
void need_range(struct test *t, uint64_t offset, uint32_t length);

/* Ranges that are not within the export; the client breaks a MUST with each (proto.md:881). */
enum beyond { BEYOND_CROSSING, BEYOND_AT_END, BEYOND_FAR, BEYOND_HALF, BEYOND_TOP, BEYOND_WRAPPING, BEYOND_KINDS };
const char *beyond_name(enum beyond b);
struct range {
	uint64_t offset;
	uint32_t length;
};
struct range range_beyond(struct test *t, enum beyond b);	/* skips where the export exceeds 2^63 bytes */

/* Ranges within the first four units that are not in whole minimum blocks; skips where that is 1 or not advertised. */
enum { UNALIGNED_KINDS = 3 };
const char *unaligned_name(unsigned kind);
struct range range_unaligned(struct test *t, unsigned kind);

/* ---- contents ---- */

/*
 * A READ or WRITE that must succeed, else the case or its point ends. An error breaks `r`; where block sizes were not
 * advertised and the request is not in 4096-byte blocks, or longer than 64 KiB, only the SHOULD about default sizes.
 */
/*
 * The same of an error that came. Of a SHOULD the verdict is a warning, which the skip that follows leaves as it is:
 * without the data nothing more can be said.
 */
void expect_served(struct test *t, uint64_t offset, uint32_t length, uint32_t error, enum requirement_id r);
void read_served(struct test *t, uint64_t offset, uint32_t length, void *data, enum requirement_id r);
void write_served(struct test *t, uint64_t offset, uint32_t length, const void *data, enum requirement_id r);
/*
 * One READ or WRITE of so many megabytes that they are not worth keeping, from offset 0; the error is returned. Data is
 * made up and compared piece by piece; a READ compares where it is told to.
 */
uint32_t write_long(struct test *t, uint32_t length, enum requirement_id owed);
uint32_t read_long(struct test *t, uint32_t length, bool compare, enum requirement_id r);
/* Any length, in as many requests as it takes. */
void store(struct test *t, uint64_t offset, const uint8_t *data, size_t len, enum requirement_id r);
void expect_stored(struct test *t, uint64_t offset, const uint8_t *want, size_t len, enum requirement_id r);
/*
 * Every byte outside the range is as `old` has it, or `r` is broken; those within are as in `old`, or what they are is
 * recorded: the text does not tell what a failed write leaves. Both arrays hold the area of `len` bytes at `offset`.
 */
void expect_altered_within(struct test *t, uint64_t offset, const uint8_t *old, const uint8_t *written, size_t len,
			   struct range range, enum requirement_id r);
/* On a new connection, after NBD_CMD_DISC, the export still has this; skips where it forgot it with the connection. */
void need_kept(struct test *t, uint64_t offset, const uint8_t *want, size_t len);

/* ---- in step ---- */

/* One more READ: true where its reply is the next message; false where the connection has ended instead. */
bool probe(struct test *t, enum requirement_id r);
/* The same for a client that broke nothing: the end of the connection breaks `r` too. */
void in_step(struct test *t, enum requirement_id r);
/* The same, where what comes instead of the reply breaks another requirement than that nothing comes. */
void in_step_without(struct test *t, enum requirement_id stray, enum requirement_id silence);
/*
 * The same after our violation, which allows the server to leave (proto.md:447): then it must serve the next client,
 * and false.
 */
bool in_step_or_gone(struct test *t, enum requirement_id r);

/*
 * The answer to a request that broke a MUST of the client: one of up to two errors, else `should` is broken; 0 twice
 * for any answer. Returns the error. GONE: the server left instead, which breaks `should` unless that is
 * REQUIREMENT_NONE, and the next client was served. `payload` bytes follow where a READ was carried out.
 */
#define GONE UINT32_MAX
uint32_t expect_refusal(struct test *t, uint64_t cookie, uint32_t payload, enum requirement_id should, uint32_t error,
			uint32_t or_error);

/* Payload that is itself valid requests: a server that takes it for requests answers them. */
void fill_bait(struct test *t, uint8_t *data, size_t len);

/* ---- connections ---- */

void leave(struct test *t);			/* NBD_CMD_DISC; returns when the connection has ended */
/* Closes the current connection; the next client, too, is greeted and gets into transmission. */
void enter_next(struct test *t);
void expect_next_served(struct test *t);	/* and may READ; it then leaves */
/*
 * A further connection, in transmission, beside the current one. Where the server serves one at a time that is
 * recorded, and false (or the case ends).
 */
bool enter_beside(struct test *t);

#endif
