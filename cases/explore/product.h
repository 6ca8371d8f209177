/*
 * The transmission product: every command × every combination of the command flags' low six bits × classes of offset and
 * length × kinds of replies. combination.c enumerates it, law.c says what the protocol text allows for each, answers.c takes
 * the replies to what is in flight, shadow.c knows what the export may hold, and product.c puts them together.
 */
#ifndef NBDSPEC_EXPLORE_PRODUCT_H
#define NBDSPEC_EXPLORE_PRODUCT_H

#include "harness/link.h"
#include "harness/nbd.h"
#include "harness/requirement.h"
#include "harness/wire.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- combinations ---- */

enum mode { MODE_SIMPLE, MODE_STRUCTURED, MODE_CONTEXTS, MODES };	/* kinds of replies; with base:allocation selected */
enum place {
	PLACE_START,		/* the first block */
	PLACE_SECOND,		/* three blocks behind it */
	PLACE_ODD_OFFSET,	/* not at a block's beginning */
	PLACE_ODD_LENGTH,	/* not whole blocks */
	PLACE_MIDDLE,
	PLACE_LAST,		/* the last block */
	PLACE_LAST_FOUR,
	PLACE_ACROSS_END,	/* the last block and one more */
	PLACE_AT_END,		/* one block behind the end */
	PLACE_FAR,		/* a terabyte behind the end */
	PLACE_OVERFLOW,		/* offset and length add up to more than 64 bits hold */
	PLACE_EMPTY,		/* no bytes */
	PLACE_EMPTY_MIDDLE,
	PLACE_64K,
	PLACE_1M,
	PLACE_3M,
	PLACES
};
enum { COMMANDS = 8, FLAG_SETS = 64, UNKNOWN_COMMAND = 0x3f };
enum { PRODUCT = MODES * COMMANDS * FLAG_SETS * PLACES };

struct combination {
	uint8_t mode, command, flags, place;	/* .command: an index */
	bool waits;				/* it is sent when all before it are answered */
};

/* What was agreed on a connection, and what the export is. */
enum { MOST_SELECTED = 8 };
struct entered {
	bool there;
	enum mode mode;
	uint64_t size;
	uint16_t flags;			/* transmission flags */
	bool sized;			/* the server told its block sizes */
	uint32_t minimum, maximum;	/* those, or the defaults */
	uint32_t contexts[MOST_SELECTED];	/* their IDs */
	unsigned n_contexts;
};

/* False where the server is not there; e->there is false where it has no such mode. */
bool enter_link(struct link *l, struct test *t, enum mode mode, struct entered *e);
void hang_up_link(struct link *l);	/* by NBD_CMD_DISC */

uint16_t command_of(const struct combination *c);
bool is_write(uint16_t command);
struct combination combination_at(unsigned i);
struct request request_of(const struct combination *c, const struct entered *e);	/* without cookie and data */
/* The range that may be written to, and what the places are within: at most three, in order; apart. */
struct span { uint64_t offset, length; };
unsigned spans_of(const struct entered *e, struct span spans[3]);
uint32_t block_of(const struct entered *e);	/* bytes of a request: the minimum block size, or 512 */

enum left_out { LEFT_NOT, LEFT_STRUCTURED, LEFT_CONTEXTS, LEFT_NOT_OURS, LEFT_SMALL, LEFT_LONG, LEFT_DANGER, LEFT_GONE, LEFT_REASONS };
enum left_out left_out(const struct combination *c, const struct entered *e, bool may_write);
const char *left_out_text(enum left_out l);

/* "simple:READ@start,WRITE+FUA@middle;READ@middle"; malloc'd. */
char *combinations_text(const struct combination *c, unsigned n);
bool is_combinations(const char *text);
bool is_script(const char *text);	/* of several connections (connections.c) */
/* The number of them; 0 and one line in error. */
enum { MOST_COMBINATIONS = 300 };
unsigned combinations_parse(const char *text, struct combination c[MOST_COMBINATIONS], char error[256]);

/* ---- what the text allows ---- */

struct law {
	bool may_succeed, may_fail;
	bool may_leave;			/* we break a MUST: the server is free to disconnect (proto.md:447) */
	bool may_leave_behind;		/* likewise, once it has answered */
	uint32_t errors[6];		/* those that it may fail with; none: any */
	unsigned n_errors;
	enum requirement_id success_breaks, error_breaks, leaving_breaks;
};

struct law law_of(const struct request *q, const struct entered *e);
/* REQUIREMENT_NONE where the result is lawful; else what was expected. */
enum requirement_id law_judges(const struct law *l, const struct request *q, uint32_t error, char expected[160]);

/* ---- requests in flight ---- */

enum { MOST_IN_FLIGHT = 16, MOST_ITEMS = MOST_IN_FLIGHT + 4 };
struct item {
	struct combination c;
	struct request q;
	struct law law;
	uint8_t *payload;		/* of a WRITE: q.length bytes, malloc'd */
	bool answered, structured, started;
	uint32_t error;			/* 0: success */
	uint8_t *data, *covered;	/* of a READ, malloc'd */
	unsigned n_content, n_status;
	uint32_t contexts_seen;		/* a bit for each */
	struct extent extents[64];	/* of the first context */
	unsigned n_extents;
};
void item_free(struct item *i);
enum { BAIT_COOKIE = 0x62616974 };	/* high half: of requests that stand in a payload, for who does not take it */

enum breach_kind { BREACH_RESULT, BREACH_STREAM, BREACH_CONTENTS };
struct product_breach {
	enum breach_kind kind;
	enum requirement_id broken[4];
	char expected[160], got[160];
	int item;			/* whose, of those in flight; -1: of all of them */
	bool succeeded;			/* of a result */
	bool behind;			/* in a READ behind them, once all were answered */
	enum requirement_id seen;	/* likewise: what the READ has broken */
};
enum { MOST_PRODUCT_BREACHES = 24 };
struct breaches {
	struct product_breach b[MOST_PRODUCT_BREACHES];
	unsigned n;
};
/*
 * The command that does a finding again, and unless it has too many requests a case in C that can be pasted into cases/server/;
 * malloc'd. `paints`: we write what stands there beforehand.
 */
char *product_finding_text(const struct test *t, const struct entered *e, const struct combination *c, unsigned n,
			   const struct product_breach *b, bool paints);
void add_product_breach(struct breaches *b, int item, enum breach_kind kind, enum requirement_id r, const char *expected,
			const char *fmt, ...) __attribute__((format(printf, 6, 7)));

enum answers_end { ANSWERS_ALL, ANSWERS_CLOSED, ANSWERS_SILENT, ANSWERS_BROKEN };
/* Sends them all; takes what comes until all are answered. */
void send_flight(struct link *l, struct item *items, unsigned n);
enum answers_end await_flight(struct link *l, const struct entered *e, struct item *items, unsigned n, struct breaches *b);
/* Both. */
enum answers_end exchange_items(struct link *l, const struct entered *e, struct item *items, unsigned n, struct breaches *b);

/* ---- contents ---- */

enum { MOST_STRAYS = 128 };
struct shadow {
	struct shadow_part { struct span span; uint8_t *bytes, *known; } part[3];
	unsigned n;
	struct item stray[MOST_STRAYS];
	unsigned n_strays;
	uint64_t stray_bytes;		/* of their payloads */
	bool stray_anywhere;		/* there are more than these */
};
void shadow_start(struct shadow *s, const struct entered *e);
void shadow_start_over(struct shadow *s, const struct span *spans, unsigned n);	/* three at most; all unknown */
void shadow_free(struct shadow *s);
void shadow_forget(struct shadow *s, struct span span);
void shadow_forget_all(struct shadow *s);
/* A write that the connection has ended without an answer to may be carried out from now on, at any time, until … */
void shadow_strays(struct shadow *s, const struct item *i);
/* … the server is another one. */
void shadow_forget_strays(struct shadow *s);
/* The next stretch that is not known, from .offset on and no longer than .length; false: there is none. */
bool shadow_unknown(const struct shadow *s, struct span *span);
/* What a READ among those in flight may return; *at is the first offset where it is something else. */
bool shadow_allows(const struct shadow *s, const struct item *read, const struct item *items, unsigned n, uint64_t *at);
/* What may stand there once they are all answered; takes it as known. */
bool shadow_settles(struct shadow *s, const struct item *read, const struct item *items, unsigned n, uint64_t *at);
/* Says a status that bytes read as zeroes which do not? */
bool shadow_contradicts(const struct shadow *s, const struct item *status, const struct item *items, unsigned n, uint64_t *at);

#endif
