/* The proof for the cases of clients: the fake client, as a driver and as a plain command, honest and with each lie. */
#include "cases/mutants.h"

#include "fakeserver/client/driver.h"
#include "fakeserver/client/lying.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/*
 * A client must start anew for each pair, and most lies have their occasion in every case; so a lie is told only to cases
 * that cite what it declares to break.
 */
static bool
is_left_out(const struct mutant *x, const struct case_def *c)
{
	return x->breaks != NULL && !any_listed(x->breaks, c->cites);
}

/*
 * As for servers (mutants.c): each case is run once with every lie looking on, and one that never got its turn there is the
 * honest client. The driver is forked, so that this is its memory as well.
 */
static struct {
	const struct matrix *m;
	bool *occasions; /* shared memory: [case * n_mutants + mutant] */
} watch;

static int
run_onlookers(size_t c)
{
	struct fc_lies lies = { calloc(watch.m->n_mutants + 1, sizeof(*lies.uses)), 0 };

	if (lies.uses == NULL)
		abort();
	for (size_t i = 0; i < watch.m->n_mutants; i++)
		if (watch.m->mutants[i].breaks != NULL)
			lies.uses[lies.n++] = (struct client_lie_use){
				.lie = watch.m->mutants[i].client_lie,
				.nth = 1,
				.occasion = &watch.occasions[c * watch.m->n_mutants + i],
			};
	fc_client.lies = &lies;
	return fc_driver_run();
}

/* The driver without the time that a program takes to be loaded, a thousand times for each client. */
static int
run_fake_client(char *const *argv)
{
	struct client_lie_use use;
	struct fc_lies lies = { &use, 1 };
	char error[256];

	if (argv[2] != NULL && strcmp(argv[2], "--watch") == 0)
		return run_onlookers(strtoul(argv[3], NULL, 10));
	if (argv[2] != NULL && argv[3] != NULL && !client_lie_parse(argv[3], &use, error))
		return 2;
	fc_client.lies = argv[2] != NULL ? &lies : NULL;
	return fc_driver_run();
}

/* Made once; their cases say themselves which session is over TLS. */
static struct target_tls *
tls_of_all(void)
{
	static struct target_tls *tls;
	char error[TLS_ERROR];

	if (tls == NULL)
		tls = target_tls_make(false, error);
	if (tls == NULL) {
		fprintf(stderr, "nbdspec: TLS: %s\n", error);
		exit(1);
	}
	return tls;
}

static struct target
client_target(char **program, bool driver)
{
	return (struct target){ .via = VIA_CLIENT,
		                .driver = driver,
		                .run_driver = driver ? run_fake_client : NULL,
		                .pairwise = true,
		                .program = program,
		                .export_name = "",
		                .size = 1u << 20,
		                .factor = 1,
		                .tls = tls_of_all() };
}

/* Room for {uri} and {out}. Lives as long as the process. */
static char **
command_of(const struct client_lie *lie, bool driver)
{
	static const char *const copy[] = { "--copy", "{uri}", "{out}" };
	char **words = calloc(8, sizeof(*words));
	size_t n = 0;

	if (words == NULL)
		abort();
	words[n++] = (char *)"/proc/self/exe";
	words[n++] = (char *)"driver";
	if (lie != NULL) {
		words[n++] = (char *)(lie->uses != NULL ? "--habit" : "--lie");
		words[n++] = (char *)lie->name;
	}
	for (size_t i = 0; i < 3 && !driver; i++)
		words[n++] = (char *)copy[i];
	return words;
}

/* Liars hang, and each would be waited for; a TLS handshake needs the processor, and few of its liars hang. */
#define LIAR_FACTOR     0.1
#define LIAR_FACTOR_TLS 0.5

static void
add_client(struct matrix *m, const char *glob, const struct client_lie *l)
{
	struct mutant *x, mutant = { .knob = -1, .client_lie = l };

	if (asprintf((char **)&mutant.name, "client %s%s", l != NULL && l->uses != NULL ? "habit " : "",
	             l != NULL ? l->name : "honest") < 0)
		abort();
	if (l != NULL && l->uses == NULL) {
		mutant.breaks = l->breaks;
		mutant.file = l->file;
	}
	x = matrix_add(m, glob, mutant);
	if (x == NULL)
		return;
	x->target = client_target(command_of(l, true), true);
	x->plain = client_target(command_of(l, false), false);
	if (mutant.breaks != NULL) {
		x->target.breaks = x->plain.breaks = mutant.breaks;
		x->target.factor = x->plain.factor =
			strstr(l->file, "lies/tls.c") != NULL ? LIAR_FACTOR_TLS : LIAR_FACTOR;
	}
}

static struct run_end
find_occasions(struct matrix *m, const struct runner *r)
{
	struct target *targets = calloc(m->n_cases + 1, sizeof(*targets));
	struct job *jobs = calloc(m->n_cases + 1, sizeof(*jobs));
	char *(*words)[5] = calloc(m->n_cases + 1, sizeof(*words));
	struct run_end end;
	size_t n = 0;

	m->watched = calloc(m->n_cases + 1, sizeof(*m->watched));
	if (targets == NULL || jobs == NULL || words == NULL || m->watched == NULL)
		abort();
	for (size_t c = 0; c < m->n_cases; c++) {
		words[c][0] = (char *)"/proc/self/exe";
		words[c][1] = (char *)"driver";
		words[c][2] = (char *)"--watch";
		if (asprintf(&words[c][3], "%zu", c) < 0)
			abort();
		targets[c] = client_target(words[c], true);
		if (m->cases[c]->suite == SUITE_DRIVER)
			jobs[n++] = (struct job){ m->cases[c], &targets[c], &m->watched[c] };
	}
	watch.m = m;
	end = run_jobs(r, jobs, n);
	for (size_t c = 0; c < m->n_cases; c++)
		free(words[c][3]);
	free(words);
	free(jobs);
	free(targets);
	return end;
}

/* Nobody looks on in a plain command, which is executed. */
static bool
has_occasion(const struct matrix *m, size_t mutant, size_t c)
{
	return m->mutants[mutant].breaks == NULL || m->cases[c]->suite == SUITE_CLIENT ||
	       watch.occasions[c * m->n_mutants + mutant];
}

static size_t
list_jobs(const struct matrix *m, struct job *jobs)
{
	size_t n = 0;

	for (size_t i = 0; i < m->n_mutants; i++)
		for (size_t c = 0; c < m->n_cases; c++) {
			struct cell *cell = matrix_cell(m, i, c);
			struct mutant *x = &m->mutants[i];

			cell->of_lie = x->breaks != NULL;
			cell->left_out = is_left_out(x, m->cases[c]);
			cell->decided = !cell->left_out && !has_occasion(m, i, c);
			if (!cell->left_out && !cell->decided)
				jobs[n++] = (struct job){ m->cases[c],
					                  m->cases[c]->suite == SUITE_DRIVER ? &x->target : &x->plain,
					                  cell };
		}
	return n;
}

/* What nobody looked on at is as it is. */
static void
fill_watched(struct matrix *m)
{
	for (size_t i = 0; i < m->n_mutants; i++)
		for (size_t c = 0; c < m->n_cases; c++)
			if (m->mutants[i].client_lie == NULL && m->cases[c]->suite == SUITE_CLIENT)
				m->watched[c].verdict = matrix_cell(m, i, c)->verdict;
}

bool
matrix_run_clients(struct matrix *m, const char *case_glob, const char *mutant_glob, unsigned slots, char **why)
{
	/* Most of the time goes by while somebody is waited for who hangs. */
	struct runner runner = { .slots = 3 * slots, .trace_fd = -1, .result = matrix_result };
	const struct client_lie *l;
	struct job *jobs;
	struct run_end end;
	size_t size;

	matrix_select(m, SUITE_CLIENT, SUITE_DRIVER, case_glob);
	add_client(m, mutant_glob, NULL);
	for (size_t i = 0; (l = client_lie_at(i)) != NULL; i++)
		add_client(m, mutant_glob, l);
	size = m->n_mutants * m->n_cases + 1;
	m->cells = shared_memory(size * sizeof(*m->cells));
	jobs = shared_memory(size * sizeof(*jobs));
	watch.occasions = shared_memory(size);
	end = find_occasions(m, &runner);
	if (!end.interrupted && end.broken == NULL)
		end = run_jobs(&runner, jobs, list_jobs(m, jobs));
	fill_watched(m);
	munmap(watch.occasions, size);
	munmap(jobs, size * sizeof(*jobs));
	*why = end.broken;
	return !end.interrupted && end.broken == NULL;
}
