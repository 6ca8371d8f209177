/* What the cases about structured replies share; defined in structured.c. */
#ifndef NBDSPEC_CASES_STRUCTURED_H
#define NBDSPEC_CASES_STRUCTURED_H

#include "cases/server/transmission.h"

/* Byte for byte as it should be, where the reply has content. What is wrong in a hole is the hole's fault. */
void expect_content(struct test *t, const struct reply *r, const uint8_t *want, uint32_t length, uint64_t offset);
/* A READ that must succeed, as read_served() has it; `flags` are command flags. */
struct reply read_chunks(struct test *t, uint16_t flags, uint64_t offset, uint32_t length);
/*
 * The reply to a request that breaks a MUST of the client: false where the server left instead, and the next client was
 * served (proto.md:447).
 */
bool recv_reply_or_end(struct test *t, const struct sent *q, struct reply *r);
void free_reply(struct reply *r);

/*
 * Six stripes: data, zeroes by WRITE_ZEROES, data, a TRIM, data, zeroes by WRITE. What a trimmed stripe holds is not
 * known; .known tells. Zeroes are written where there is no WRITE_ZEROES, and data where there is no TRIM.
 */
struct stripes {
	uint32_t each, length; /* bytes */
	uint8_t *data, *known;
};
struct stripes paint_stripes(struct test *t, uint32_t each);
/* The content of a reply to a READ within the stripes. */
void expect_stripes(struct test *t, const struct stripes *s, const struct reply *r, uint64_t offset, uint32_t length);

#endif
