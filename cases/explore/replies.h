/* The replies to options that clients are explored with, and what the text allows of them. */
#ifndef NBDSPEC_EXPLORE_REPLIES_H
#define NBDSPEC_EXPLORE_REPLIES_H

#include "fakeserver/core.h"
#include "fakeserver/lie.h"

/* The options whose replies are chosen. */
extern const struct replied {
	const char *name;		/* without NBD_OPT_ */
	uint32_t option;
	bool closes_only;		/* it has no option reply, or the client awaits none */
} replied[];
enum { N_REPLIED = 8 };

struct reply_symbol {
	const char *name;
	bool ends;			/* behind it the client waits for nothing: no other reply follows */
	bool alone;			/* only in sequences of one step */
	uint32_t type;			/* the rest is for replies.c and reply_symbols.c */
	int form;
};
extern const struct reply_symbol reply_symbols[];
extern const unsigned n_reply_symbols;
int reply_symbol_named(const char *name, size_t len);	/* -1: there is none */

/* What was answered to an option. */
enum { LISTED_BY_US = 1, CONTEXT_ID = 0x8000002a };
struct answered {
	uint32_t option;
	unsigned nth;			/* of this option in the play, from 1 */
	bool chosen;			/* a step of the play has answered, or begun to; else the honest server */
	bool unlawful;			/* no server may answer so, or the text does not say what it would mean */
	bool closed;
	uint32_t final;			/* of chosen replies: NBD_REP_ACK or an error, or 0 where the honest server ends them */
	bool has_export;
	struct info_export export;	/* as told by us */
	unsigned infos, asked;		/* bits of NBD_INFO_… below 8: told by us, and asked for */
	bool has_unknown_info;
	unsigned n_contexts, n_listed;	/* told by us */
};

/* Reads what the client asks for. */
void answered_begin(struct answered *a, const struct option *o, unsigned nth);
/* Says it, and takes account of it in *a and in the session. */
void say_reply_symbol(struct conn *c, const struct reply_symbol *s, struct answered *a, const struct option *o,
		      struct fake_export *e);
/* The honest server will answer the rest: is that still lawful? */
void answered_honestly(struct answered *a);

#endif
