/* What explorations find: the shortest sequence that breaks the same, and how it is told. */
#ifndef NBDSPEC_EXPLORE_SEARCH_H
#define NBDSPEC_EXPLORE_SEARCH_H

#include "cases/explore/walk.h"

/* Sequences on connections one after the other: what the last of them meets may be due to those before. */
struct scenario {
	struct path *path;
	size_t n;
};

struct finding {
	struct scenario shortest;
	struct breach breach;
	bool stuck;			/* what contains it is not walked */
	bool again;			/* it was seen a second time */
	bool once;			/* a silence that did not come again on a new server: it accuses nobody, and explains nothing */
};

struct search {
	struct test *t;
	struct walker w;
	struct finding *findings;
	size_t n_findings;
	struct path *history;		/* since the server was started */
	size_t n_history, history_room;
};

/* "STRUCTURED_REPLY,GO; GO"; malloc'd. */
char *scenario_text(const struct scenario *s);
/* False and one line in error. */
bool scenario_parse(const char *text, struct scenario *s, char error[256]);

void search_walked(struct search *s, const struct path *p);
/* After a walk in which the server hung or was gone. False where there is none any more. */
bool search_renews(struct search *s);
/* Is it better not walked? */
bool search_skips(const struct search *s, const struct path *p);
/* The last walk, of p, has broken b: is that one of the findings? */
bool search_explains(const struct search *s, const struct path *p, const struct breach *b);
/* It is not: it is brought down to its shortest, and is one from here on. */
const struct finding *search_found(struct search *s, const struct path *p, const struct breach *b);
/* Walks the scenario, on a new server where that is asked for and can be had; has its last path broken the same? */
bool search_breaks(struct search *s, const struct scenario *c, const struct breach *b, bool anew);
bool same_breach(const struct breach *a, const struct breach *b);

/* How to see it again, by the last walk, which was the finding's: the command, and a case in C; malloc'd. */
char *finding_text(struct search *s, const struct finding *f, const struct breach *b);

#endif
