/*
 * Expectation files: the known deviations of a released implementation (design, section 12). A line is
 *
 *	PATTERN  VERDICT  REQUIREMENT  REASON …
 *
 * PATTERN is a glob over "group/name" or "group/name[point]"; VERDICT is fail, warn, flaky-fail or flaky-warn;
 * REQUIREMENT is what must be broken, or crash:TEXT, which is a server that died with TEXT, a word, in what it last
 * printed, or in what a finding of an exploration tells of its death, whatever requirement that broke; REASON goes on over lines that begin with white space and must not be empty.
 * '#' begins a comment.
 */
#ifndef NBDSPEC_EXPECT_H
#define NBDSPEC_EXPECT_H

#include "harness/result.h"

struct expectations;

/* NULL and one line in error, which names file and line. */
struct expectations *expect_load(const char *path, char error[512]);
void expect_free(struct expectations *e);

/* Sets .expectation, .reason (owned by e) and .red of a result; `strict` makes warns red. */
void expect_judge(struct expectations *e, struct result *r, bool strict);

/*
 * Calls `found` for every line that no result matched, although a case that ran could have: `ran(arg, id)` tells
 * whether a case was selected. Returns how many.
 */
unsigned expect_stale(struct expectations *e, bool (*selected)(void *arg, const char *pattern), void *arg,
		      void (*found)(void *arg, const struct stale *s));

/*
 * One line for a result that is not yet known, with a reason to be filled in, and before it the transcript as comments:
 * --write-expect.
 */
void expect_write(FILE *f, const struct result *r, bool with_transcript);

#endif
