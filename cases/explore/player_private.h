/* What the player and its subject share. */
#ifndef NBDSPEC_EXPLORE_PLAYER_PRIVATE_H
#define NBDSPEC_EXPLORE_PLAYER_PRIVATE_H

#include "cases/explore/player.h"
#include "harness/client.h"

struct play_breach {
	enum requirement_id broken[ALSO_MOST + 1];	/* up to a REQUIREMENT_NONE */
	char expected[256], got[512];
	bool silent;			/* nothing came in time */
};

/* Of the play that was performed last; player.n_breaches of them. */
extern struct play_breach subject_breaches[PLAY_BREACHES];

/* Of player.t. What is `owed` is asked when the client hangs or has died. */
void subject_start(const struct script *script, enum requirement_id (*owed)(void));
void subject_renew(void);		/* a client, and a server, that know of nothing */
off_t subject_mark(void);		/* what follows is another play; where it begins in the trace */

#endif
