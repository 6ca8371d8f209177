/*
 * The image over NBD, for a checker that takes a URI: what it reads is known, cell by cell, and what it writes is kept
 * in order for a second cut. The plainest of servers, in the process that waits for the checker: newstyle, simple
 * replies, any number of connections, one request at a time.
 */
#ifndef NBDSPEC_CRASH_SERVED_H
#define NBDSPEC_CRASH_SERVED_H

#include "harness/crash/image.h"
#include "harness/process.h"

/* The cell held this content (struct version) when it was read first. */
struct touched {
	uint32_t cell, content;
};

struct served {
	struct image *image;
	char *path, *uri;
	int listener;
	bool keep;			/* the writes, in .writes */
	uint32_t n_touched;
	struct touched *touched;	/* in order; each cell once */
	uint64_t *is_touched;		/* a bit for each cell */
	struct recording writes;	/* if .keep: write-class commands and flushes, answered at once, with their data */
	struct session *sessions;
};

/* Listens in `dir`. NULL, and one line. */
struct served *served_new(struct image *i, const char *dir, bool keep, char error[512]);
void served_free(struct served *s);

void served_reset(struct served *s);	/* nothing was read or written yet */

/* Serves until the process has ended, and at most `ms`. */
enum process_wait served_wait(struct served *s, int pidfd, int ms);

#endif
