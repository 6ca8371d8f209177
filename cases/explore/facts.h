#ifndef NBDSPEC_EXPLORE_FACTS_H
#define NBDSPEC_EXPLORE_FACTS_H

#include "cases/explore/model.h"
#include "harness/test.h"

/*
 * What the server does with each option by itself, on new connections: the controls of all that follows. Skips where it
 * cannot be explored.
 * Where STARTTLS is served, and we can speak TLS, f->tls is `tls`, what it does then; where all is over TLS, f.
 */
void learn_facts(struct test *t, struct facts *f, struct facts *tls);

#endif
