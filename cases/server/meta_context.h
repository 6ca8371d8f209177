/* What the cases about metadata contexts share (meta_context.c, meta_context_state.c, block_status.c). */
#ifndef NBDSPEC_CASES_META_CONTEXT_H
#define NBDSPEC_CASES_META_CONTEXT_H

#include "cases/server/go.h"
#include "cases/server/transmission.h"

/* A list of queries that lives as long as the block. */
struct queries {
	const char *const *at;
	size_t n;
};
#define NO_QUERIES ((struct queries){ NULL, 0 })
#define QUERIES(...)                                                                                                   \
	((struct queries){ (const char *const[]){ __VA_ARGS__ },                                                       \
	                   sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(const char *) })
#define BASE_ALLOCATION "base:allocation"

enum { CONTEXTS_TRIED = 8 }; /* of a server that has many, so many are looked at */

/* A new connection in option haggling with structured replies. */
void haggle_structured(struct test *t);

/* Skips where the server does not serve the option for the export under test. The connection stays in haggling. */
void need_contexts(struct test *t, uint32_t option);

/* The server is free to refuse any option so. */
bool is_free_refusal(uint32_t type);

/* Asks about an export, and judges each name and ID that comes; whatever the final reply is. */
struct contexts ask_contexts(struct test *t, uint32_t option, struct bytes name, struct queries q);

/* The same for the export under test; the answer ends in NBD_REP_ACK, or `r` is broken. */
struct contexts list_contexts(struct test *t, struct queries q, enum requirement_id r);
struct contexts select_contexts(struct test *t, struct queries q, enum requirement_id r);

bool is_context(const struct contexts *c, unsigned i, const char *name);
bool has_context(const struct contexts *c, const char *name);

/* On a new connection: selects base:allocation, or skips where it is not offered. */
struct contexts select_base(struct test *t);

/* From haggling into transmission. */
void go_on(struct test *t, struct bytes name);

/* ---- NBD_CMD_BLOCK_STATUS ---- */

/* One request and its reply, whose every extent is judged by the text's rules about shapes; .error may be set. */
struct reply ask_status(struct test *t, const struct contexts *contexts, uint16_t flags, uint64_t offset,
                        uint32_t length);
/* The same; an error skips where it may be (NBD_EIO …), and otherwise breaks status_error_code. */
struct reply know_status(struct test *t, const struct contexts *contexts, uint16_t flags, uint64_t offset,
                         uint32_t length);
const struct status_chunk *status_of(const struct reply *r, uint32_t context_id); /* NULL for none */
uint32_t *id_of(const struct contexts *c, const char *name);                      /* NULL for none */

/* The contexts are in force: a BLOCK_STATUS of the first block is answered as they want, or `r` is broken. */
void expect_in_force(struct test *t, const struct contexts *contexts, enum requirement_id r);
/* None is: a BLOCK_STATUS is refused, or the session ends; its success breaks `r`. */
void expect_none_in_force(struct test *t, enum requirement_id r);

#endif
