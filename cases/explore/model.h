/*
 * The model of option haggling: which replies the protocol text allows to each option in each state, which state follows,
 * and what that state means in transmission. Pure: it sees messages, and does nothing. Every rule names the requirement
 * that it comes from; where the text leaves a choice, all that it allows is taken.
 *
 * The alphabet is symbols.c; walk.c sends its symbols to a server and shows the answers to the model.
 */
#ifndef NBDSPEC_EXPLORE_MODEL_H
#define NBDSPEC_EXPLORE_MODEL_H

#include "harness/nbd.h"
#include "harness/requirement.h"
#include "harness/wire.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- the alphabet ---- */

enum of_export { OF_OWN, OF_OTHER, OF_DEFAULT, OF_UNKNOWN, OF_EXPORTS };
enum symbol_kind {
	SYMBOL_OPTION,
	SYMBOL_VISITOR,		/* another client comes, is served, and goes */
	SYMBOL_CLOSE,		/* we close without a word */
	SYMBOL_HALF,		/* we close in the middle of an option */
};
enum symbol_data { DATA_NONE, DATA_NAME, DATA_GO, DATA_META };
enum flaw {
	FLAW_NONE,
	FLAW_DATA,		/* data where none may be */
	FLAW_EMPTY,		/* no data where some must be */
	FLAW_CUT,		/* the last byte is missing */
	FLAW_NAME_LENGTH,	/* the name's length is 0xffffffff */
	FLAW_EXTRA,		/* bytes stand behind the last query, which a server may overlook */
};
enum asked { ASKED_NOTHING, ASKED_BASE, ASKED_NO_SUCH, ASKED_ALL };	/* queries for metadata contexts */

struct symbol {
	const char *name;
	enum symbol_kind kind;
	uint32_t option;
	enum symbol_data data;
	enum of_export of;
	enum asked asked;
	enum flaw flaw;
	bool bare;		/* of GO and INFO: NBD_INFO_BLOCK_SIZE is not asked for */
	bool padded;		/* of EXPORT_NAME: NBD_FLAG_C_NO_ZEROES is not set */
	bool ends;		/* nothing comes behind it */
	bool contexts;		/* of a visitor: it selects contexts */
};

enum { MOST_SYMBOLS = 64, MOST_CONTEXTS = 16 };
enum { BAIT_OPTION = 0x6e627371 };	/* in data that looks like an option: who does not skip it answers it */
extern const struct symbol symbols[];
unsigned symbol_count(void);
const struct symbol *symbol_named(const char *name, size_t len);	/* NULL for none */

/* ---- what is known of the server beforehand, each found out on a connection of its own ---- */

struct export_fact {
	bool there;			/* INFO tells of it */
	struct bytes name;
	uint64_t size;
	uint16_t flags;			/* by INFO */
	struct info_export by_go, by_name;	/* what GO and EXPORT_NAME tell by themselves; all 0 where they were not asked */
	uint32_t minimum;		/* block size; 1 where nothing was told */
	bool by_export_name;		/* EXPORT_NAME enters it */
	bool bare_go;			/* INFO tells of it although NBD_INFO_BLOCK_SIZE is not asked for */
	unsigned base;			/* contexts that base:allocation selects */
};
struct facts {
	struct export_fact export[OF_EXPORTS];
	bool served[NBD_OPT_EXTENDED_HEADERS + 1];	/* options that are not refused */
	unsigned n_exports;		/* of LIST */
	uint64_t exports;		/* their names, hashed, in any order */
	struct bytes all[MOST_CONTEXTS];	/* that LIST_META_CONTEXT tells of the export under test */
	unsigned n_all, n_selected;	/* so many of them SET_META_CONTEXT selects by name */
	bool past_end_fails;		/* a READ behind the end */
	bool may_write;			/* we, if the server lets us */
	const struct facts *tls;	/* what holds once STARTTLS was served, where we can speak it; may be these; or NULL */
	bool tls_required;		/* in clear the server refuses LIST: FORCEDTLS */
	bool visitors;			/* more than one client is served at a time */
	uint16_t handshake_flags;
};

/* Is the symbol of use with this server? */
bool symbol_applies(const struct symbol *s, const struct facts *f);
/* The option's data. Appends to b. */
void put_symbol(struct buf *b, const struct symbol *s, const struct facts *f);

/* Of names in any order: the total of these is that of a set, in which the empty name counts, too. */
uint64_t sum_of(struct bytes b);

/* ---- a session ---- */

/* What was broken: the first is what the verdict is for, the others the same act breaks, too. */
struct breach {
	enum requirement_id broken[4];
	char expected[160], got[160];
	unsigned at;			/* which symbol was answered so; behind the last: transmission */
	unsigned asked;			/* enum asks: in transmission, to what */
	bool silent;			/* nothing came, for which a machine that is busy may be to blame */
	char holds[80];			/* in C, of the option's final reply r, n others before it: what is not so; or "" */
	bool holds_inside;		/* .holds is of t->s, once it was entered, or of what INFO tells */
};
enum { MOST_WARNINGS = 4 };

enum model_step {
	MODEL_MORE,		/* another reply to the same option is due */
	MODEL_NEXT,		/* the next option may be sent */
	MODEL_TLS,		/* it begins; model_over_tls() is for the handshake's end */
	MODEL_TRANSMISSION,
	MODEL_OVER,		/* we go, or the server was free to */
	MODEL_BREACH,
};

enum selection { SELECTED_NEVER, SELECTED, SELECTED_NOTHING, SELECTION_FAILED };

struct model {
	const struct facts *facts;
	uint32_t client_flags;
	/* Agreed: */
	bool structured, structured_refused;
	enum selection selection;	/* what the last SET_META_CONTEXT came to */
	bool selected_before;		/* one before it had selected something */
	bool unjudged;			/* SET_META_CONTEXT was served where it should not: what is in force is not known */
	enum of_export selected_of;
	uint32_t contexts[MOST_CONTEXTS];	/* their IDs */
	unsigned n_contexts;
	bool between;			/* other options came behind it */
	bool tls_refused, over_tls;
	bool structured_in_clear, selected_in_clear;	/* which STARTTLS has put an end to */
	bool listed;			/* LIST was answered; whether it is again is the server's choice (proto.md:212, 1211) */
	bool violated_before;		/* as it was before the last option */
	bool violated;			/* we broke a MUST: the server may leave us, now or later (proto.md:243, 447) */
	/* Told: */
	const struct symbol *info;	/* a successful INFO directly before */
	uint64_t info_told;		/* what it told, hashed, in any order */
	bool had_info;			/* any before */
	/* The answer that is coming: */
	const struct symbol *now;
	unsigned replies, n_export;
	uint64_t told;
	struct info_export export;
	/* In transmission: */
	enum of_export entered;
	bool by_go;
	uint64_t size;
	uint16_t flags;
	/* What was broken on the way, and the session goes on */
	struct breach warning[MOST_WARNINGS];
	unsigned n_warnings;
	struct breach breach;
};

void model_start(struct model *m, const struct facts *f, uint32_t client_flags);
void model_sent(struct model *m, const struct symbol *s);
void model_over_tls(struct model *m);
enum model_step model_reply(struct model *m, const struct option_reply *r);
/* To EXPORT_NAME; .padding is all that came in one piece with it. */
enum model_step model_export_name(struct model *m, const struct export_name_reply *r);
/* In place of a reply the connection ended, or nothing came. */
enum model_step model_ended(struct model *m, const char *how);
enum model_step model_silent(struct model *m, const char *how);
enum model_step model_endless(struct model *m);	/* more replies than anybody waits for, and none is the last */
/* A MUST is broken, as the caller has seen. */
enum model_step model_breach(struct model *m, enum requirement_id r, const char *expected, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* ---- transmission: what was agreed is tried ---- */

enum asks {
	ASK_FIRST,		/* READ of the first block */
	ASK_LAST,		/* and of the last */
	ASK_STATUS,		/* BLOCK_STATUS with contexts in force */
	ASK_NO_STATUS,		/* and with none */
	ASK_PAST_END,		/* READ of what is not there */
	ASK_READ_ONLY,		/* WRITE to a read-only export */
	ASKS
};
struct ask {
	enum asks what;
	struct request request;
	bool answered, structured;
	uint32_t error;
	unsigned n_status;
	uint32_t seen;			/* contexts that a status chunk came of: a bit for each */
};
struct trial {
	struct ask ask[ASKS];
	unsigned n, n_answered;
};

uint32_t trial_unit(const struct model *m);	/* bytes of each request: a block of the export that was entered */
/* The requests that break nothing, or those that do, which the server may answer by leaving. */
void trial_plan(struct trial *t, const struct model *m, bool lawful);
/* The one that a reply is to, or NULL with a breach. */
struct ask *trial_find(struct trial *t, struct model *m, uint64_t cookie);
enum model_step trial_simple(struct trial *t, struct model *m, struct ask *a, const struct simple_reply *r);
enum model_step trial_chunk(struct trial *t, struct model *m, struct ask *a, const struct chunk *c);
enum model_step trial_ended(struct trial *t, struct model *m, bool lawful, const char *how);
enum model_step trial_silent(struct trial *t, struct model *m, const char *how);
enum model_step trial_endless(struct model *m);	/* chunks, likewise */

#endif
