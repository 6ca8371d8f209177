/* Walks a sequence of symbols on a connection of its own, and has the model judge every answer. */
#ifndef NBDSPEC_EXPLORE_WALK_H
#define NBDSPEC_EXPLORE_WALK_H

#include "cases/explore/model.h"
#include "harness/link.h"

enum { MOST_LENGTH = 24, MOST_BREACHES = MOST_WARNINGS + 1 };

/* The last symbol ends it. */
struct path {
	const struct symbol *at[MOST_LENGTH];
	unsigned n;
};

struct walker {
	struct test *t;
	const struct facts *facts;
	struct buf options[MOST_SYMBOLS];	/* each symbol as it is sent */
	struct link link[2];			/* ours and a visitor's */
	struct buf out;				/* client flags that wait for the first option */
	bool traced;
	/* Of the last walk: */
	struct model model;
	struct breach breach[MOST_BREACHES];
	unsigned n_breaches;
	unsigned at, asked;			/* where it is, as in struct breach */
	bool stuck;				/* the server said nothing, or did not greet: it is better left alone */
};

void walker_start(struct walker *w, struct test *t, const struct facts *f);
void walker_free(struct walker *w);
/* True where nothing is broken. */
bool walk(struct walker *w, const struct path *p, struct buf *log);

#endif
