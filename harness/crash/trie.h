/*
 * What is known of a checker whose reads are known: it is given the same image but for what it does not read, and so it
 * does the same. Each node is the cell that it reads next, each branch what that holds, and each end a verdict. Sound
 * for deterministic checkers alone.
 */
#ifndef NBDSPEC_CRASH_TRIE_H
#define NBDSPEC_CRASH_TRIE_H

#include "harness/crash/checker.h"

struct trie;

struct trie *trie_new(const struct space *s);
void trie_free(struct trie *t);

/* What a check has added: a branch, and what was read behind it. */
struct trie_path {
	uint32_t from, content;		/* .from NEVER: nothing */
	const struct touched *touched;
	uint32_t n;
};

/*
 * A check under `must` marks read these, in this order. False: another one that was given the same read otherwise.
 * `added` points into `touched`.
 */
bool trie_add(struct trie *t, uint32_t must, const struct touched *touched, uint32_t n, const struct checked *result,
              struct trie_path *added);
/* The same paths in the same order make the same trie again. False: it cannot have been added to this one. */
bool trie_restore(struct trie *t, const struct trie_path *path, const struct checked *result);

/* The verdict on the state that the view shows, or NULL. */
const struct checked *trie_find(struct trie *t, uint32_t must, const struct view *v);

#endif
