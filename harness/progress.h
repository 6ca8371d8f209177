/* What lines of progress have in common. */
#ifndef NBDSPEC_PROGRESS_H
#define NBDSPEC_PROGRESS_H

#include <stdint.h>
#include <stdio.h>

enum { PROGRESS_MS = 200, PROGRESS_MAX_TEXT = 100 };	/* between one line and the next */

/* "120/s, BETWEEN at most 7 s left": so many of at most so many are done, in this time. Returns text. */
static inline const char *
progress_pace(char text[PROGRESS_MAX_TEXT], uint64_t done, uint64_t most, double seconds, const char *between)
{
	double rate = seconds > 0 ? (double)done / seconds : 0;
	uint64_t left = most > done ? most - done : 0;

	snprintf(text, PROGRESS_MAX_TEXT, "%.0f/s, %sat most %.0f s left", rate, between,
	         rate > 0 ? (double)left / rate : 0);
	return text;
}

#endif
