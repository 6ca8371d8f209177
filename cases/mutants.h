/*
 * The proof that the suite can fail (design, section 12): every case of servers against the honest fake server under
 * every knob and profile, and against every lie; every case of clients against the honest fake client, and against every
 * lie of one that declares to break what the case cites.
 */
#ifndef NBDSPEC_MUTANTS_H
#define NBDSPEC_MUTANTS_H

#include "fakeserver/lie.h"
#include "harness/runner.h"

/* One way to set the fake server, or the fake client, up. */
struct mutant {
	const char *name;		/* "honest", "knob list_denied", "profile read-only", "client honest", "client habit always_fua", or the lie's name */
	const enum requirement_id *breaks;	/* what the lie declares; NULL: honest */
	const char *file;		/* of the lie */
	const struct lie *lie;		/* of the server, or NULL */
	const struct client_lie *client_lie;	/* of the client, or its habit; or NULL */
	int knob;			/* or -1 */
	const struct profile *profile;	/* NULL: the plain one */
	struct target target;
	struct target plain;		/* of a client: as a plain command, where .target is its driver */
};

/* What one case said of one mutant. */
struct cell {
	enum verdict verdict;		/* the worst */
	enum requirement_id *red;	/* requirements whose fail or warn was seen, each once */
	size_t n_red;
	char *message;			/* of an honest server's first red result, or the first erroneous one; NULL */
	bool of_lie;
	bool left_out;			/* not run: a bulk case or one of clients, and a lie that declares nothing that it cites */
	bool decided;			/* not run: the lie or knob has no occasion in this case, so it is the honest server's */
};

/* The mutant that plays by the rules where the case is run for what it finds: "honest", or the one whose power is cut. */
const char *matrix_honest_name(const struct case_def *c);

struct matrix {
	struct mutant *mutants;
	size_t n_mutants;
	const struct case_def **cases;
	size_t n_cases;
	struct cell *cells;		/* [mutant * n_cases + case] */
	struct cell *watched;		/* [case]: the honest server with every lie looking on; as without them; then what looks on over TLS; or NULL */
};

/* Runs everything that matches the globs (NULL: all). False: interrupted, or broken with *why (malloc'd) set. */
bool matrix_run(struct matrix *m, const char *case_glob, const char *mutant_glob, unsigned slots, char **why);
bool matrix_run_clients(struct matrix *m, const char *case_glob, const char *mutant_glob, unsigned slots, char **why);
void matrix_free(struct matrix *m);

static inline struct cell *
matrix_cell(const struct matrix *m, size_t mutant, size_t c)
{
	return &m->cells[mutant * m->n_cases + c];
}

/* For what runs a matrix: appends a mutant, whose name it takes over, where the glob wants it; NULL where not. */
struct mutant *matrix_add(struct matrix *m, const char *glob, struct mutant mutant);
/* The cases of two suites that match. */
void matrix_select(struct matrix *m, enum suite a, enum suite b, const char *glob);
void matrix_result(void *arg, const struct job *job, const struct result *r);	/* job->tag is the cell */
void *shared_memory(size_t size);		/* zeroed; a fork need not copy its page tables */
bool any_listed(const enum requirement_id *some, const enum requirement_id *list);

bool cell_has(const struct cell *c, enum requirement_id r);
bool lists(const enum requirement_id *list, enum requirement_id r);	/* ends with REQUIREMENT_NONE */

/* A lie that declares to break r reddens a case that cites r with a verdict for r. Returns that mutant, or NULL. */
const struct mutant *matrix_proof(const struct matrix *m, enum requirement_id r);

/*
 * A knob or a profile that uses the freedom r, while the plain honest server does not, or likewise a habit of the fake
 * client: its name, malloc'd, or NULL.
 */
char *freedom_proof(enum requirement_id r);

/*
 * A duty is proven by a lie that declares to break it and turns a case that cites it red; a freedom by both choices:
 * the default and a knob or a profile, under which the whole suite is green (the run fails otherwise). *by: whose proof it
 * is, malloc'd, or NULL. (cmd_requirements.c)
 */
bool is_proven(const struct matrix *servers, const struct matrix *clients, enum requirement_id r, char **by);

#endif
