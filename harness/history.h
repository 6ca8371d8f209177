/*
 * What a power cut may leave: the model of DESIGN section 7, pure. The history of write-class commands is told as it
 * happens; which contents each range may hold after a cut now is asked at any time. The fake disk, the judge of real
 * servers and the explorer all use it.
 *
 * A command's arrival and its answer are moments, in the order in which they are told. a → b: a was answered, be it
 * with an error, before b arrived. A successful FUA command is guaranteed from its answer on; so is every successful
 * write-class command w once a FLUSH F was answered with success and w → F, on the same connection or, where
 * `flush_covers_all`, on any. Each byte may hold what was there first, or what any received command put there, unless a
 * guaranteed command that covers it came after that candidate (v → g). Nothing else prunes.
 *
 * Where but one candidate is left, and it is guaranteed, the range is settled and costs no memory. All offsets and
 * lengths are bytes. Running out of memory aborts the process.
 */
#ifndef NBDSPEC_HISTORY_H
#define NBDSPEC_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct history;
struct history_candidate;

enum history_kind {
	HISTORY_INITIAL,	/* what was there before everything; no command */
	HISTORY_WRITE,
	HISTORY_ZEROES,
	HISTORY_TRIM,		/* leaves any bytes whatever */
	HISTORY_FLUSH,
};

/* What the owner wants to know; each function may be NULL. `content` is the owner's, and never looked at. */
struct history_owner {
	void *arg;
	/* A settled range is about to get a further candidate: what there is in it now, as the content of HISTORY_INITIAL. */
	void *(*initial)(void *arg, uint64_t offset, uint64_t length);
	/* No range has this content for a candidate any more, also by history_free and history_cut. Once for each content. */
	void (*release)(void *arg, enum history_kind kind, void *content);
	/* The range holds this for good: told before the candidate is forgotten. */
	void (*settled)(void *arg, uint64_t offset, uint64_t length, const struct history_candidate *c);
	/* The command became guaranteed; then what that prunes is told. */
	void (*guaranteed)(void *arg, const struct history_candidate *c);
	/* The range, one cell or a part of it, can no longer hold this: something guaranteed came after it. */
	void (*pruned)(void *arg, uint64_t offset, uint64_t length, const struct history_candidate *c);
};

/*
 * trims_stay: a range whose only, guaranteed candidate is a TRIM is still told by history_next, since it may hold
 * anything; else it settles like any other.
 */
struct history *history_new(bool flush_covers_all, bool trims_stay, const struct history_owner *owner);
void history_free(struct history *h);

struct history_command {
	enum history_kind kind;		/* not HISTORY_INITIAL */
	bool fua;
	uint32_t connection;
	uint64_t offset, length;	/* of FLUSH: 0 */
	void *content;			/* of WRITE; the history's until released */
};

/* The command has arrived. Its number, from 1, in order of arrival; never given again, not even after a cut. */
uint64_t history_receive(struct history *h, const struct history_command *c);
/* Its answer is known. Once for each command. Numbers from before a cut are ignored. */
void history_answer(struct history *h, uint64_t number, bool success);

/*
 * The disk destages by itself: of the commands that were answered with success and are owed by a FLUSH still, the one
 * that was answered first is guaranteed. False where there is none.
 */
bool history_destage(struct history *h);
/* As Linux files do after a failed fsync: what is answered and not guaranteed by now no flush will cover any more. */
void history_forget(struct history *h);

/* One thing that a range may hold. */
struct history_candidate {
	uint64_t number;		/* of the command; 0: initial */
	enum history_kind kind;
	bool fua, answered, success;	/* success: answered with it */
	bool guaranteed;
	uint64_t promise;		/* guaranteed by: the FLUSH's number, its own where by FUA, 0 where by destaging */
	uint64_t offset, length;	/* of the whole command, or of the range that `initial` was asked for */
	uint32_t connection;
	void *content;
};

/* A range all whose bytes have the same candidates, and its neighbours not all of them, nor those of the same kind. */
struct history_cell {
	uint64_t offset, length;
	unsigned n;			/* 1 or more */
	const struct history_candidate *const *candidates;	/* in order of arrival; until the history is told something */
};

/* The first cell that ends behind `from`: false where all is settled from there. */
bool history_next(const struct history *h, uint64_t from, struct history_cell *cell);

/* Bytes of the write-class commands that are still candidates somewhere and not guaranteed; and how many such commands. */
uint64_t history_pending_bytes(const struct history *h);
uint64_t history_pending(const struct history *h);

/* The power is cut: nothing is pending any more, and every range settled with what the owner knows to be there now. */
void history_cut(struct history *h);

#endif
