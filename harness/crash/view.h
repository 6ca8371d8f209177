/*
 * The states of one crash point. Where a cut leaves no choice the view is at rest; the other cells are open, and stand
 * in groups that the same commands may fill. A state says of each pending command whether it is present: a cell holds
 * the latest of those that are, or else what is guaranteed; and single cells may differ from that (`changes`).
 *
 * A state's hash is the exclusive or of one 128-bit number for each cell and its bytes: equal images of equal hash.
 */
#ifndef NBDSPEC_CRASH_VIEW_H
#define NBDSPEC_CRASH_VIEW_H

#include "harness/crash/space.h"

struct hash {
	uint64_t low, high;
};

struct open_group {
	uint32_t first, end;		/* its cells, as places in .open */
	uint32_t n;			/* candidates, in order of arrival */
	uint32_t floor, chosen;		/* of these: held when no command is present; held now */
	uint32_t *slot;			/* of each candidate: its command's place in .pending, or NEVER */
	struct hash *hash;		/* of each candidate, over all cells */
};

struct pending {
	uint32_t command;
	bool present;
	uint32_t n_groups, *groups;
	struct open_group *only;	/* its one group, where that holds it or one other thing; else NULL */
	struct hash delta;		/* between these */
};

struct change {
	uint32_t place, candidate;	/* of the cell in .open, and which it holds */
};

struct view {
	const struct space *space;
	uint32_t point;			/* NEVER: none yet */
	uint32_t n_open, n_groups, n_pending, n_changes;
	uint32_t *open;			/* cells, ascending */
	uint32_t *group_of;		/* of each open cell */
	uint32_t **versions;		/* of each open cell: those of its group's candidates */
	struct open_group *groups;
	struct pending *pending;	/* in order of arrival */
	struct change *changes;		/* at most n_open, each cell once */
	struct hash hash;		/* of the state that is shown */
	uint32_t *at_rest;		/* of each cell: its version, or NEVER for an open one */
	struct hash rest;		/* of the cells at rest */
	struct view_memory *memory;
};

struct view *view_new(const struct space *s);
void view_free(struct view *v);

/* Goes to a point, where all commands are present. Cheap when it is next to the last one. */
void view_go(struct view *v, uint32_t point);

/* Without changes: they must have been taken back. */
void view_flip(struct view *v, uint32_t pending);

static inline void
view_set(struct view *v, uint32_t pending, bool present)
{
	if (v->pending[pending].present != present)
		view_flip(v, pending);
}

void view_set_all(struct view *v, bool present);

/* One open cell, which has no change yet, holds this candidate of its group; view_unchange takes all changes back. */
void view_change(struct view *v, uint32_t place, uint32_t candidate);
void view_unchange(struct view *v);

/* Candidates of an open cell that differ in their bytes, the latest first, into an array for all of its group's. */
uint32_t distinct_candidates(const struct view *v, uint32_t place, uint32_t *candidates);
/* What a cell of the group holds when this candidate is lost, and all later ones. */
uint32_t candidate_below(const struct view *v, const struct open_group *g, uint32_t candidate);

/* How many states the point has, at most `most`: by cells, or by whole commands where writes do not tear. */
uint64_t view_count(const struct view *v, uint64_t most);

/* A state as words, for another view of an equal space: n of them, malloc'd. */
uint32_t *view_save(const struct view *v, uint32_t *n);
void view_load(struct view *v, const uint32_t *words);

#endif
