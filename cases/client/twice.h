/*
 * Two sessions of one client, and what the first left behind: session two must be as it is on its own, in what the client
 * says of itself and in what it sends. It is held against the same session in a fresh process, so that whatever a client
 * makes of a server's terms is right, as long as it makes the same of them each time.
 *
 *	struct twice *w = twice_new(t, words);
 *
 *	twice_among(w, rows, n, few);
 *
 * A difference is accused only when it comes again with two more fresh processes.
 */
#ifndef NBDSPEC_CASES_TWICE_H
#define NBDSPEC_CASES_TWICE_H

#include "cases/client/drive.h"

enum { TWICE_DISK = 1 << 20, TWICE_SIZE = 256 << 10, TWICE_WORDS = 64, TWICE_KNOBS = 3 };

/* How the server is in a session. */
struct terms {
	const char *name;		/* for the report */
	uint16_t flags;			/* HAS_FLAGS stands by itself */
	uint64_t size;			/* bytes; 0: TWICE_SIZE. The disk has TWICE_DISK */
	struct info_block_size block;
	unsigned contexts;		/* 1 << META_… */
	const char *description;
	bool oldstyle;
	enum knob knobs[TWICE_KNOBS];
	size_t n_knobs;
};

struct twice;
/* Session two behind session one, told as twice_session does, its handle left. */
typedef char *twice_way(struct twice *w, const struct terms *one, const struct terms *two);

struct twice {
	struct drive *d;
	enum requirement_id r;		/* what a difference breaks: client_forgets_prior_session */
	twice_way *way;			/* twice_reconnect, until changed */
	twice_way *alone;		/* the measure, with .one NULL; twice_alone, until changed */
	const char *words[TWICE_WORDS];	/* the operations of a session: "set …" before it, all else in it */
	size_t n_words;
	unsigned handle;		/* of the current pair: each has a new one */
	char *measure;			/* what a first session tells */
	unsigned pairs;
	off_t from;			/* where the current session begins in the trace */
	off_t answered;			/* behind a lost session: where connect was answered; else not behind .from */
};

/* `words` up to a NULL. Those that the driver lacks are "unsupported" each time. */
struct twice *twice_new(struct test *t, const char *const *words);
/*
 * Adds an operation that only some clients keep within the terms by themselves, and others leave to their user: nothing
 * for those that send it as it is.
 */
void twice_try(struct twice *w, const struct terms *terms, const char *word);
/* A point for each row, with every other before it; the first `few` rows with each other where pairs are enough. */
void twice_among(struct twice *w, const struct terms *rows, size_t n, size_t few);
/* The same for two rows only, one way. */
void twice_pair(struct twice *w, const struct terms *one, const struct terms *two);

/* ---- for ways ---- */
void twice_serve(struct twice *w);		/* the exports "" and "b", in a fresh process of the driver */
void twice_apply(struct twice *w, unsigned export, const struct terms *terms);	/* to the sessions to come */
void twice_settings(struct twice *w, unsigned handle);
void twice_begin(struct twice *w);		/* what is sent from now on is told */
/* Connects, does all the words, and tells in lines, malloc'd, what the client said and sent. */
char *twice_session(struct twice *w, unsigned handle, unsigned export);
/* The same behind the connecting, whose answer this is. */
char *twice_tell(struct twice *w, unsigned handle, const struct driver_answer *connected);
void twice_leave(struct twice *w, unsigned handle);	/* disconnects, and gives the handle up */
/* The case's verdict on two that are told differently: `of_a` and `of_b` say of what session each is. */
_Noreturn void twice_differ(struct twice *w, const char *a, const char *b, const char *of_a, const char *of_b);
twice_way twice_alone, twice_reconnect;

#endif
