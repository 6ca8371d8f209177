/*
 * What explorations of clients share. A play is what the server does in one session, step by step; a scene is a few plays
 * one after the other, to one process of the client. The player performs plays, brings those that break something down to
 * the shortest scene that breaks the same, and tells each of these once.
 */
#ifndef NBDSPEC_EXPLORE_PLAYER_H
#define NBDSPEC_EXPLORE_PLAYER_H

#include "cases/client/drive.h"
#include "cases/client/host.h"
#include "cases/client/script.h"
#include "harness/exploration.h"

#include <stdio.h>

enum { PLAY_STEPS = 16, PLAY_BREACHES = 4 };

struct play {
	uint8_t way, n;			/* .way is an index of struct stage .ways */
	uint16_t step[PLAY_STEPS];	/* as the stage has them; 0 behind the last */
};

/* Plays of one kind. All are for one exploration in this process. */
struct stage {
	const char *case_id;
	const char *const *ways;	/* the first word of each play's name; up to a NULL */
	const char *example;		/* a name, for who gives a wrong one */
	void (*renewed)(void);		/* the client is new: what it needs before it plays */
	/* On the server as it is. What it breaks goes to player_breach, who hangs or dies to player_stuck. */
	void (*perform)(const struct play *p);
	void (*put_step)(FILE *f, uint16_t step);
	bool (*parse_step)(const char *word, size_t len, uint16_t *step);
	/* What a client breaks that hangs or dies in the play as far as it has come. */
	enum requirement_id (*owed)(void);
	/* All of the part is in the whole; `roughly`: or what is like it, so that one of them is enough to be told. */
	bool (*contains)(const struct play *whole, const struct play *part, bool roughly);
	/* The play without this step; NULL: any step may go. False where that is none. */
	bool (*without)(const struct play *p, unsigned step, struct play *less);
	/* The nth play, from 0, that is plainer than this one, so that a finding has one name. False: there are no more. */
	bool (*plainer)(const struct play *p, unsigned nth, struct play *plainer);
};

/* The client under exploration: either .d, or .h where it is a plain command. */
struct player {
	struct test *t;
	struct drive *d;
	struct host *h;
	bool unlawful;		/* in this play the server has said what it must not, so that who waits for more is not blamed */
	bool stuck;		/* the client hung or died in it */
	unsigned n_breaches;
};
extern struct player player;

/* The script is the server's. */
void player_begin(struct test *t, const struct stage *stage, struct exploration_tally *tally, const struct script *script);
void player_take(const struct play *p);		/* performs it, and all that follows from what it breaks */
/* The same for one that all shards play, and the first of them tells of. False where it breaks something. */
bool player_takes_first(const struct play *p);
/* The scene of --explore-sequence, if there is one: then nothing else is played. */
bool player_takes_sequence(void);
/* Where another shard plays it: the nth in an order that is the same for all shards. */
bool player_is_ours(uint64_t n);
void player_renew(void);
void player_plans(uint64_t more);		/* so many more are to come, of this shard */
/* The summary, by the shard that is the last to end. `what` is what was played, in words: "sequences of …". */
void player_ends(const char *what);

/* ---- for .perform ---- */

/* The first requirement is the verdict's. */
void player_breach(const enum requirement_id *broken, const char *expected, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
#define BROKEN(...) ((const enum requirement_id[]){ __VA_ARGS__, REQUIREMENT_NONE })
/*
 * Of the driver: a request, and its answer, whose text is valid until the play ends. False: the client hangs or has died,
 * and the play is over.
 */
bool player_ask(struct driver_answer *a, unsigned handle, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
unsigned player_send(unsigned handle, const char *fmt, ...) __attribute__((format(printf, 2, 3)));	/* 0: likewise */
bool player_answer(struct driver_answer *a);
/* Of the command: runs it. False: it hangs or has died. */
bool player_run(void);
/* The requirement of a shorter finding that explains it, if there is one, else this one. */
enum requirement_id player_known(const struct play *p, enum requirement_id otherwise);
/* The connections are ended, by the client if it does so soon, and the referee says what he thinks of all of the play. */
void player_judge(void);
struct fake_export *player_export(void);
struct fake_server *player_server(void);	/* NULL for a command that has ended */
/* What the copy of a command that ended with exit status 0 should hold: the first so many bytes of the disk. */
void player_judge_copy(enum requirement_id r, uint64_t size);

#endif
