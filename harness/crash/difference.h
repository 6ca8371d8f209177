/*
 * A state as what it lacks of all that was written, and its text, which means the same in every exploration of a
 * recording: "1234:-5..7,-9,4096+512=3" is a cut when 1234 events have happened, the commands 5 to 7 and 9 lost, and
 * the 512 bytes at 4096 as command 3 wrote them ("=0": as they were before all). "=3/8" says, too, that command 8 is torn by
 * that.
 */
#ifndef NBDSPEC_CRASH_DIFFERENCE_H
#define NBDSPEC_CRASH_DIFFERENCE_H

#include "harness/crash/view.h"

struct lack {
	uint32_t low, high;		/* lost: the pending commands from .low to .high; .low 0 where it is a range of bytes */
	uint64_t offset, length;	/* or these bytes … */
	uint32_t command;		/* … are what this one wrote … */
	uint32_t torn;			/* … and not what this one did; 0: not known */
};

struct difference {
	uint32_t at;			/* the moment of the cut */
	size_t n;
	struct lack *lacks;
};

struct difference difference_of(const struct view *v);
void difference_free(struct difference *d);
struct difference difference_copy(const struct difference *d);

/* All that `less` lacks, `d` lacks too, or has torn; where that is nothing, the moment is the same. */
bool difference_has(const struct difference *d, const struct difference *less);
uint32_t difference_first(const struct difference *d);	/* the first command that is lost or torn; NEVER: none */
int difference_compare(const struct difference *a, const struct difference *b);	/* the smaller first, then the later */

/* The view shows it, at its point. False where the recording has no such state, and one line in error, or NULL. */
bool difference_show(const struct difference *d, struct view *v, char error[512]);

char *difference_text(const struct difference *d);			/* malloc'd */
bool difference_parse(const char *text, struct difference *d);		/* the form alone is judged */

#endif
