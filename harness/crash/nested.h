/*
 * A second cut: what a checker wrote to repair a state is a recording in turn, on the disk that it was given. It must be
 * able to begin anew from what a cut has left of that.
 */
#ifndef NBDSPEC_CRASH_NESTED_H
#define NBDSPEC_CRASH_NESTED_H

#include "harness/crash/checker.h"
#include "harness/crash/difference.h"

/* A state of it, as text: "7:-2@0123456789abcdef", the difference and recording_identity() of what the checker wrote. */
struct second {
	struct difference difference;
	uint64_t writes;
};

#define SECOND_WORD " then "	/* between the two cuts of a state */

bool second_parse(const char *text, struct second *s);

/* The disk after the first cut, with what the checker wrote to it; `first` and `writes` outlive it. */
struct second_disk {
	struct recording recording;
	struct space *space;
	struct image *image;
};
bool second_open(struct second_disk *d, const struct image *first, const struct recording *writes, struct tear tear,
                 uint32_t extra, char error[512]);
void second_close(struct second_disk *d);

/* Some states after each cut, as many as .nested says. The first that fails takes the place of the result. */
void nested_check(const struct checker_setup *setup, const struct image *first, const struct recording *writes,
                  uint32_t must, const struct bytes *may, struct checked *result);

#endif
