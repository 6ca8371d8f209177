/*
 * What changed between two runs, from their JSON reports (harness/saved.h), which live longer than what is said here; of the
 * results, those that changed are kept.
 */
#ifndef NBDSPEC_REPORTS_CHANGES_H
#define NBDSPEC_REPORTS_CHANGES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum change_kind {
	CHANGE_WORSE,		/* a deviation that was not there, or breaks another requirement */
	CHANGE_EXCUSED,		/* likewise, but one that is known, flaky, or of an experimental extension */
	CHANGE_MENDED,		/* a deviation is gone, and its case ran */
	CHANGE_OTHER,		/* for neither: what is skipped now, or no longer */
	CHANGE_ONLY_BEFORE,	/* did not run after */
	CHANGE_ONLY_AFTER,	/* did not run before, and deviates in nothing */
	N_CHANGES
};

struct change {
	enum change_kind kind;
	const json_t *before, *after;	/* results; one of them may be NULL */
	size_t turn;			/* in which it was found */
};

struct changes {
	const json_t *before, *after;	/* the runs */
	struct change *list;		/* in the order of their kinds; what breaks a MUST is before what breaks a SHOULD */
	size_t n, count[N_CHANGES], same;
	const char *broken[2];		/* why the run before, and that after, ended early; NULL: it did not */
	bool ended_early;		/* the run after, but not the one before */
};

/* Results are the same that have the same case and point. Where one has several they are compared in their order. */
struct changes changes_between(const json_t *before, const json_t *after);
void changes_free(struct changes *c);
bool changes_worse(const struct changes *c);

/* How many, from the i-th on, are points of one case that changed in the same way: they are told at once. */
size_t changes_alike(const struct changes *c, size_t i);

const char *change_name(enum change_kind kind);		/* "worse", for programs */
const char *change_heading(enum change_kind kind);	/* "Got worse" */
const json_t *change_result(const struct change *c);	/* the one after, or the one before */
/* "was pass", "was not there", "is not there": how it compares; malloc'd. */
char *change_words(const struct change *c);

#endif
