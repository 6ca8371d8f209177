/*
 * A disk image in memory that shows one state after the other: only what differs is written. What a checker writes to
 * it is noticed and undone.
 */
#ifndef NBDSPEC_CRASH_IMAGE_H
#define NBDSPEC_CRASH_IMAGE_H

#include "harness/crash/view.h"

struct image {
	const struct space *space;
	int fd, watch;
	bool dirty;			/* it was written to by other means than its file */
	char path[64];			/* for other processes, as long as this one lives */
	uint8_t *at;
	uint64_t size;
	uint32_t *shown;		/* of each cell: the version */
	uint32_t point;			/* that is shown; NEVER: none yet */
	uint32_t *chosen;		/* of each group of that point; NEVER where cells differ from it */
	uint32_t room;			/* of .chosen */
};

struct image *image_new(const struct space *s, char error[512]);	/* NULL, and one line */
void image_free(struct image *i);
void image_show(struct image *i, const struct view *v);

/* The state that was shown is there again: true where something else was. Call it when no checker runs any more. */
bool image_restore(struct image *i);

#endif
