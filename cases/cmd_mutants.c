/* nbdspec mutants: runs the proof and says what is not proven. */
#include "cases/mutants.h"
#include "harness/cli.h"
#include "harness/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum option_id { OPT_CASE = 1, OPT_MUTANT, OPT_JOBS, OPT_MATRIX };

static const struct cli_option options[] = {
	{ "case", 'c', "GLOB", "only these cases; what a whole run must prove is then not asked", OPT_CASE, false },
	{ "mutant", 'm', "GLOB", "only these mutants: a lie's name, 'honest', 'knob NAME', 'profile NAME'", OPT_MUTANT,
	  false },
	{ "jobs", 'j', "N", "N side by side (default: the number of processors)", OPT_JOBS, false },
	{ "matrix", 0, "FILE", "write the lie × case matrix", OPT_MATRIX, false },
	{ 0 },
};

struct request_line {
	const char *case_glob, *mutant_glob, *matrix_path;
	unsigned long jobs;
};

static int
read_command_line(struct cli *cli, struct request_line *q)
{
	*q = (struct request_line){ .jobs = (unsigned long)sysconf(_SC_NPROCESSORS_ONLN) };
	for (size_t i = 0; i < cli->n_given; i++) {
		const char *value = cli->given[i].value;

		switch (cli->given[i].id) {
		case OPT_CASE:
			q->case_glob = value;
			break;
		case OPT_MUTANT:
			q->mutant_glob = value;
			break;
		case OPT_MATRIX:
			q->matrix_path = value;
			break;
		default:
			if (!cli_number(cli, "--jobs", value, 1, 64, &q->jobs))
				return STATUS_USAGE;
		}
	}
	if (cli->n_args > 0)
		return cli_usage_error(cli, "'%s': takes no arguments", cli->args[0]);
	return 0;
}

/* ---- what must hold ---- */

static unsigned
check_honest(const struct matrix *m)
{
	unsigned wrong = 0;

	for (size_t i = 0; i < m->n_mutants; i++)
		for (size_t c = 0; c < m->n_cases && m->mutants[i].breaks == NULL; c++) {
			struct cell *cell = matrix_cell(m, i, c);

			if (cell->verdict < VERDICT_WARN)
				continue;
			printf("false accusation: %s, %s: %s: %s\n", m->mutants[i].name, m->cases[c]->id,
			       cell->n_red > 0 ? requirement(cell->red[0])->id : verdict_name(cell->verdict),
			       cell->message);
			wrong++;
		}
	return wrong;
}

/* What the onlookers noted counts only where they changed nothing. */
static unsigned
check_watched(const struct matrix *m)
{
	unsigned wrong = 0;

	for (size_t i = 0; i < m->n_mutants && m->watched != NULL; i++)
		for (size_t c = 0; c < m->n_cases; c++) {
			if (strcmp(m->mutants[i].name, matrix_honest_name(m->cases[c])) != 0)
				continue;
			if (matrix_cell(m, i, c)->verdict == m->watched[c].verdict)
				continue;
			printf("a lie changes %s although LIE_NOW refused it: %s, not %s: %s\n", m->cases[c]->id,
			       verdict_name(m->watched[c].verdict), verdict_name(matrix_cell(m, i, c)->verdict),
			       m->watched[c].message ? m->watched[c].message : "");
			wrong++;
		}
	return wrong;
}

/* Names select: two of the same would both be meant. */
static unsigned
check_names(void)
{
	const struct lie *l, *last = NULL;
	unsigned wrong = 0;

	for (size_t i = 0; (l = lie_at(i)) != NULL; last = l, i++)
		if (last != NULL && strcmp(last->name, l->name) == 0) {
			printf("two lies have one name: %s (%s, %s)\n", l->name, last->file, l->file);
			wrong++;
		}
	return wrong;
}

static unsigned
check_lies(const struct matrix *m)
{
	unsigned wrong = 0;

	for (size_t i = 0; i < m->n_mutants; i++) {
		bool seen = false;

		if (m->mutants[i].breaks == NULL)
			continue;
		for (size_t c = 0; c < m->n_cases; c++) {
			struct cell *cell = matrix_cell(m, i, c);

			for (size_t r = 0; r < cell->n_red; r++)
				seen |= lists(m->mutants[i].breaks, cell->red[r]);
			if (cell->verdict == VERDICT_ERROR) {
				printf("harness error: lie %s, %s: %s\n", m->mutants[i].name, m->cases[c]->id,
				       cell->message);
				wrong++;
			}
		}
		if (!seen) {
			printf("lie never seen for a requirement that it declares: %s (%s)\n", m->mutants[i].name,
			       m->mutants[i].file);
			wrong++;
		}
	}
	return wrong;
}

/* A case must be reddened, for a requirement that it cites, by a lie that declares to break it. */
static bool
case_is_proven(const struct matrix *m, size_t c)
{
	for (size_t i = 0; i < m->n_mutants; i++) {
		struct cell *cell = matrix_cell(m, i, c);

		for (size_t r = 0; r < cell->n_red && m->mutants[i].breaks != NULL; r++)
			if (lists(m->cases[c]->cites, cell->red[r]) && lists(m->mutants[i].breaks, cell->red[r]))
				return true;
	}
	return false;
}

static unsigned
check_cases(const struct matrix *m)
{
	unsigned wrong = 0;

	for (size_t c = 0; c < m->n_cases; c++)
		if (!case_is_proven(m, c)) {
			printf("case never reddened for a requirement that it cites: %s (%s:%d)\n", m->cases[c]->id,
			       m->cases[c]->file, m->cases[c]->line);
			wrong++;
		}
	return wrong;
}

/* What the suite is held to: of all testable statements, those about TLS too, so many per cent are proven. */
enum { PROVEN_LEAST = 95 };

static unsigned
check_share(const struct matrix *servers, const struct matrix *clients, bool experimental)
{
	unsigned testable = 0, proven = 0;
	bool enough;

	for (int r = 1; r < N_REQUIREMENTS; r++) {
		char *by = NULL;

		if (requirement((enum requirement_id)r)->untestable != NULL ||
		    requirement_experimental((enum requirement_id)r) != experimental)
			continue;
		testable++;
		proven += is_proven(servers, clients, (enum requirement_id)r, &by);
		free(by);
	}
	enough = proven * 100 >= testable * PROVEN_LEAST;
	printf("%u of %u testable statements%s are proven (%.1f %%)%s\n", proven, testable,
	       experimental ? " of extended headers" : "", 100.0 * proven / testable,
	       enough ? "" : ": that is less than 95 %");
	return !enough;
}

/* ---- the matrix ---- */

static void
write_rows(FILE *f, const struct matrix *m)
{
	for (size_t i = 0; i < m->n_mutants; i++) {
		if (m->mutants[i].breaks == NULL)
			continue;
		fprintf(f, "%s\n", m->mutants[i].name);
		for (size_t c = 0; c < m->n_cases; c++) {
			struct cell *cell = matrix_cell(m, i, c);

			if (cell->verdict < VERDICT_WARN)
				continue;
			fprintf(f, "\t%s %s", verdict_name(cell->verdict), m->cases[c]->id);
			for (size_t r = 0; r < cell->n_red; r++)
				fprintf(f, " %s", requirement(cell->red[r])->id);
			fputc('\n', f);
		}
	}
}

/* Not of clients: which of their cases are met by a lie that hangs is a matter of time. */
static bool
write_matrix(const struct matrix *servers, const char *path)
{
	FILE *f = fopen(path, "we");
	bool ok;

	if (f == NULL)
		return false;
	fprintf(f, "# lie × case: for each lie the cases that it turns red, and the requirements that they name\n");
	write_rows(f, servers);
	ok = !ferror(f);
	return fclose(f) == 0 && ok;
}

static void
print_counts(const struct matrix *m, const char *party, double seconds)
{
	unsigned lies = 0, red = 0, decided = 0, left_out = 0;

	for (size_t i = 0; i < m->n_mutants; i++) {
		lies += m->mutants[i].breaks != NULL;
		for (size_t c = 0; c < m->n_cases && m->mutants[i].breaks != NULL; c++)
			red += matrix_cell(m, i, c)->verdict >= VERDICT_WARN;
		for (size_t c = 0; c < m->n_cases; c++) {
			decided += matrix_cell(m, i, c)->decided;
			left_out += matrix_cell(m, i, c)->left_out;
		}
	}
	printf("%zu cases of %ss × %u lies and %zu honest %ss: %zu pairs, %u red, in %.1f s\n", m->n_cases, party, lies,
	       m->n_mutants - lies, party, m->n_cases * m->n_mutants, red, seconds);
	printf("(%u pairs decided without a run: the lie or knob has no occasion in the case; %u left out: the lie "
	       "breaks nothing that the case cites, and the case is one of bulk or of clients)\n",
	       decided, left_out);
}

static bool
is_empty(const struct matrix *m)
{
	return m->n_cases == 0 || m->n_mutants == 0;
}

typedef bool run_matrix(struct matrix *m, const char *case_glob, const char *mutant_glob, unsigned slots, char **why);

static int
prove(struct cli *cli, const struct request_line *q, struct matrix *m, run_matrix *run, const char *party,
      unsigned *wrong)
{
	uint64_t from = now_us();
	char *why;
	int status;

	if (!run(m, q->case_glob, q->mutant_glob, (unsigned)q->jobs, &why)) {
		status = why == NULL ? STATUS_INTERRUPTED : cli_broken(cli, "%s", why);
		free(why);
		return status;
	}
	if (is_empty(m))
		return 0;
	*wrong += check_honest(m) + check_watched(m) + check_lies(m);
	if (q->mutant_glob == NULL)
		*wrong += check_cases(m);
	print_counts(m, party, (double)(now_us() - from) / 1e6);
	return 0;
}

static int
run_mutants(struct cli *cli)
{
	struct request_line q;
	struct matrix servers = { 0 }, clients = { 0 };
	unsigned wrong;
	int status = read_command_line(cli, &q);

	if (status != 0)
		return status;
	wrong = check_names();
	status = prove(cli, &q, &servers, matrix_run, "server", &wrong);
	if (status == 0)
		status = prove(cli, &q, &clients, matrix_run_clients, "client", &wrong);
	if (status == 0 && q.case_glob == NULL && q.mutant_glob == NULL)
		wrong += check_share(&servers, &clients, false) + check_share(&servers, &clients, true);
	if (status == 0 && is_empty(&servers) && is_empty(&clients))
		status = cli_usage_error(cli, "nothing matches");
	if (status == 0 && q.matrix_path != NULL && !write_matrix(&servers, q.matrix_path))
		status = cli_broken(cli, "%s: %s", q.matrix_path, strerror(errno));
	matrix_free(&servers);
	matrix_free(&clients);
	return status != 0 ? status : wrong > 0 ? STATUS_FAILED : STATUS_OK;
}

COMMAND(mutants) = {
	.name = "mutants",
	.usage = "[OPTION]...",
	.summary = "prove that the suite can fail: every case against the honest fake server and every lie",
	.options = options,
	.run = run_mutants,
};
