/*
 * What lies where a finding has lost something: the file, or the part of the filesystem or image format, as its own tools
 * tell it of the disk with all that was written by the cut. A hint for people: what nobody knows is not told.
 */
#ifndef NBDSPEC_CRASH_PLACES_H
#define NBDSPEC_CRASH_PLACES_H

#include "harness/crash/explore.h"

struct place {
	struct image *image;		/* may be changed: its owner restores it */
	const char *dir;		/* private; the mark of what runs */
	uint64_t offset, length;	/* within the image */
	struct buf names;		/* what is there, each thing once, separated by ", "; none: it is not known */
	unsigned n_names;
	char why[256];			/* it could not be asked; "" else */
};

void place_add(struct place *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What a shell command prints, malloc'd; NULL, and .why, where it cannot be run. `tool` is in `package`. */
char *place_ask(struct place *p, const char *tool, const char *package, const char *command);

/* Each is for images that begin like its format. */
void place_in_ext4(struct place *p);
void place_in_xfs(struct place *p);
void place_in_qcow2(struct place *p);

/* Sets .which of the findings; the view is changed. */
void name_places(struct exploration *e, struct view *v);

#endif
