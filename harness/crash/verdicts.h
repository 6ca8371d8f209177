/*
 * Verdicts in a file, a line each, so that an exploration that was interrupted goes on where it was; behind each what it
 * has added to the trie, where it did. A line that was cut short by a kill is taken off again. A line is written when it is
 * VERDICT_HELD_MS old: who stops us may have stopped our checkers just before, and that is nothing that they have found.
 */
#ifndef NBDSPEC_CRASH_VERDICTS_H
#define NBDSPEC_CRASH_VERDICTS_H

#include "harness/crash/trie.h"

#include <stdio.h>
#include <sys/queue.h>

struct known_verdict {
	struct hash key;
	struct checked result;
};

enum { VERDICT_HELD_MS = 500 };
#define VERDICT_HELD_NS (VERDICT_HELD_MS * UINT64_C(1000000))

struct held_line {
	TAILQ_ENTRY(held_line) next;
	uint64_t ns;			/* when it came */
	char *text;
};

struct verdicts {
	FILE *f;			/* NULL: there is no file */
	struct known_verdict *known;	/* by key */
	size_t n;
	struct trie *trie;		/* that is filled from it, or NULL */
	TAILQ_HEAD(held_lines, held_line) held;
};

/* `what` is a line that says of which exploration they are. False, and one line in error, also when it is another's. */
bool verdicts_open(struct verdicts *v, struct trie *t, const char *path, const char *what, char error[512]);
/* False when not all could be written. What came after `by` is not written. */
bool verdicts_close(struct verdicts *v, uint64_t by);

void verdicts_write(struct verdicts *v); /* those that are old enough; verdicts_add does it, too */
const struct checked *verdicts_find(const struct verdicts *v, struct hash key);
void verdicts_add(struct verdicts *v, struct hash key, const struct checked *result);
/* Behind its verdict. */
void verdicts_add_path(struct verdicts *v, const struct trie_path *added);

#endif
