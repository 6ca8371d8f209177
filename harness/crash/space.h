/*
 * All that the cuts of a recording may leave, by the model of harness/history.h: the written part of the disk in cells,
 * each with the versions that it ever had, and for each of these the moments at which a cut may leave it. A cut at
 * moment t comes when t events have happened. Pure; nothing here changes once it is made.
 *
 * It errs to the side of what is certainly legal: a trimmed cell holds zeroes, or what it would hold without any TRIM.
 */
#ifndef NBDSPEC_CRASH_SPACE_H
#define NBDSPEC_CRASH_SPACE_H

#include "harness/crash/recording.h"

/* How writes tear: at multiples of .unit bytes, or not at all. */
struct tear {
	bool whole;
	uint32_t unit;		/* a power of two; of no meaning where .whole */
};

/* "sector=512", "sector", "4096", "write"; false where it is none of these. A sector is never below `minimum` bytes. */
bool tear_parse(const char *text, uint64_t minimum, struct tear *tear);

struct version {
	uint32_t command;	/* which put it there; 0: it was there before all */
	uint32_t last;		/* the last moment of a cut that may leave it; NEVER: to the end */
	uint32_t latest;	/* of .last, of this and all earlier versions of the cell */
	uint32_t content;	/* the cell's first version with the same bytes */
};

struct crash_point {
	uint32_t at;		/* the moment */
	uint32_t must;		/* marks that were set before */
};

struct space {
	const struct recording *recording;
	struct tear tear;
	uint32_t n_cells, n_points;
	uint64_t *offset;		/* of each cell, ascending */
	uint32_t *length;
	uint32_t *versions_of;		/* each cell's first version; n_cells + 1 of them */
	struct version *versions;	/* of a cell: in order of arrival, the blank one first */
	uint32_t *guaranteed;		/* of each command: the event that made it so, or NEVER */
	struct crash_point *points;	/* ascending */
	/* What differs between point i - 1 and i: cells changed[changes_before[i]] up to those of i + 1. */
	uint32_t *changes_before, *changed;
};

/*
 * The points are the moments before each answer that makes something illegal, and the end: in between the set of legal
 * states only grows. `marks`: and before each mark. `extra`: and this moment, unless NEVER. None is before the
 * recording's beginning.
 */
struct space *space_new(const struct recording *r, struct tear tear, bool marks, uint32_t extra);
void space_free(struct space *s);

uint32_t space_point_at(const struct space *s, uint32_t at);	/* the first point not before the moment */
uint32_t space_cell_at(const struct space *s, uint64_t offset);	/* the first cell that does not begin before it */

/* The bytes of a version, the cell's length of them; NULL: all zero. */
const uint8_t *version_bytes(const struct space *s, uint32_t cell, uint32_t version);

/* What a cut at the moment may leave in the cell, latest first; how many, at most n_commands + 1. */
uint32_t legal_versions(const struct space *s, uint32_t cell, uint32_t at, uint32_t *versions);

#endif
