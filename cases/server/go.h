/* What the cases about NBD_OPT_INFO and NBD_OPT_GO share (info.c, go.c, block_size.c, flags.c); defined in go.c. */
#ifndef NBDSPEC_CASES_GO_H
#define NBDSPEC_CASES_GO_H

#include "harness/test.h"

/* A variable that lives across POINT is volatile in these files: a broken point jumps back to it. */
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A list of information requests; both macros give one that lives as long as the block. */
struct requests {
	const uint16_t *at;
	size_t n;
};
#define NO_REQUESTS ((struct requests){ NULL, 0 })
#define REQUESTS(...)                                                                                                  \
	((struct requests){ (const uint16_t[]){ __VA_ARGS__ },                                                         \
	                    sizeof((const uint16_t[]){ __VA_ARGS__ }) / sizeof(uint16_t) })
#define ALL_REQUESTS REQUESTS(NBD_INFO_EXPORT, NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE)

const char *option_name(uint32_t option); /* "INFO" or "GO" */

/* Closes the current connection, if there is one, and goes to option haggling on a new one. */
void haggle_again(struct test *t);

/* Asks, and takes the whole answer. Skips where the server does not know the option; nothing at all breaks `owed`. */
struct infos ask_info(struct test *t, uint32_t option, struct bytes name, struct requests list,
                      enum requirement_id owed);

/*
 * Likewise, of an export that the server has: the answer ends in NBD_REP_ACK and tells of the export. Skips where the
 * server is free to refuse (TLS, policy, block sizes that were not asked for); another refusal breaks `owed`.
 */
struct infos ask_known(struct test *t, uint32_t option, struct bytes name, struct requests list,
                       enum requirement_id owed);

bool is_minimum(uint32_t n); /* a block size that a server may have for its minimum */

/* Takes over what the answer to NBD_OPT_GO told: t->s is in transmission. */
void take_go(struct test *t, const struct infos *infos);

/*
 * A name that nobody has is refused by this server, as a control on a connection of its own; skips where it serves
 * whatever name it is given. Goes to option haggling on a new connection.
 */
void need_unknown_names(struct test *t);

/* The answer refuses an export that does not exist, without information about it, in one of the ways that are free. */
void expect_unknown(struct test *t, const struct infos *infos, struct bytes name);

/* What NBD_OPT_EXPORT_NAME tells on a new connection; skips where the server does not serve that. */
struct export_name_reply by_export_name(struct test *t, struct bytes name);

#endif
