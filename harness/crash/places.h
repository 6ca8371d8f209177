/*
 * What lies where a finding has lost something: the file, or the part of the filesystem or image format, as its own tools
 * tell it of the disk with all that was written by the cut. A hint for people: what nobody knows is not told.
 */
#ifndef NBDSPEC_CRASH_PLACES_H
#define NBDSPEC_CRASH_PLACES_H

#include "harness/crash/explore.h"

struct place {
	uint64_t offset, length;	/* within the image */
	struct buf names;		/* what is there, each thing once, separated by ", "; none: it is not known */
	unsigned n_names;
};

/* Some places of one image, which are asked for together. */
struct place_disk {
	struct image *image;		/* may be changed: its owner restores it */
	const char *dir;		/* private; the mark of what runs */
	struct place **places;
	size_t n;
	char why[256];			/* it could not be asked; "" else */
};
enum { PLACES_MOST = 32 };		/* at once: all their blocks go into one command line */

void place_add(struct place *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What a shell command prints, malloc'd, in whole lines; NULL, and .why, where it cannot be run. `tool` is in `package`. */
char *place_ask(struct place_disk *d, const char *tool, const char *package, const char *command);
bool place_overlaps(const struct place *p, uint64_t offset, uint64_t length);

/* Each is for images that begin like its format. */
void place_in_ext4(struct place_disk *d);
void place_in_xfs(struct place_disk *d);
void place_in_btrfs(struct place_disk *d);
void place_in_qcow2(struct place_disk *d);

/* Sets .which of the findings, and .interrupted; the view is changed. */
void name_places(struct exploration *e, struct view *v);

#endif
