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

/* A check under `must` marks read these, in this order. False: another one that was given the same read otherwise. */
bool trie_add(struct trie *t, uint32_t must, const struct touched *touched, uint32_t n, const struct checked *result);

/* The verdict on the state that the view shows, or NULL. */
const struct checked *trie_find(struct trie *t, uint32_t must, const struct view *v);

#endif
