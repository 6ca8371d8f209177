/* nbdspec requirements: the catalogue, with the cases that cite each entry and the lies that prove it. */
#include "cases/mutants.h"
#include "harness/cli.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum option_id { OPT_PROVE = 1, OPT_OPEN, OPT_BINDS };

static const struct cli_option options[] = {
	{ "prove", 0, NULL, "run the mutants and say what is proven (takes about a minute)", OPT_PROVE, false },
	{ "open", 0, NULL, "only what is not yet cited (with --prove: not yet proven)", OPT_OPEN, false },
	{ "binds", 0, "PARTY", "only what binds the server or the client", OPT_BINDS, false },
	{ 0 },
};

struct query {
	bool prove, open;
	int binds; /* enum binds, or -1 */
	char **globs;
	size_t n_globs;
	struct matrix servers, clients;
};

/* What we know of one requirement. */
enum standing { STANDING_UNTESTABLE, STANDING_OPEN, STANDING_CITED, STANDING_PROVEN };
static const char *const standing_names[] = { "untestable", "open", "cited", "proven" };

bool
is_proven(const struct matrix *servers, const struct matrix *clients, enum requirement_id r, char **by)
{
	const struct mutant *m = matrix_proof(servers, r);

	*by = requirement(r)->level == LEVEL_MAY ? freedom_proof(r) : NULL;
	if (*by == NULL && (m != NULL || (m = matrix_proof(clients, r)) != NULL))
		*by = strdup(m->name);
	return *by != NULL;
}

static bool
is_cited(enum requirement_id r)
{
	const struct case_def *c;

	for (size_t i = 0; (c = case_at(i)) != NULL; i++)
		if (lists(c->cites, r))
			return true;
	return false;
}

static enum standing
standing_of(const struct query *q, enum requirement_id id, char **by)
{
	const struct requirement *r = requirement(id);

	*by = NULL;
	if (r->untestable != NULL)
		return STANDING_UNTESTABLE;
	/* Without a run the matrices are empty. */
	if (is_proven(&q->servers, &q->clients, id, by))
		return STANDING_PROVEN;
	return is_cited(id) ? STANDING_CITED : STANDING_OPEN;
}

static bool
wanted(const struct query *q, enum requirement_id id)
{
	const struct requirement *r = requirement(id);

	if (q->binds >= 0 && (int)r->binds != q->binds && r->binds != BINDS_BOTH)
		return false;
	for (size_t i = 0; i < q->n_globs; i++)
		if (fnmatch(q->globs[i], r->id, 0) == 0)
			return true;
	return q->n_globs == 0;
}

static void
print_one(const struct query *q, enum requirement_id id, enum standing standing, const char *by)
{
	const struct requirement *r = requirement(id);
	const struct case_def *c;

	printf("%-10s %s  %s, %s, %s%s%s\n           %s\n", standing_names[standing], r->id, level_name(r->level),
	       r->where, binds_name(r->binds), by ? "; proven by " : "", by ? by : "", r->text);
	if (r->untestable != NULL)
		printf("           untestable: %s\n", r->untestable);
	for (size_t i = 0; q->n_globs > 0 && (c = case_at(i)) != NULL; i++)
		if (lists(c->cites, id))
			printf("           cited by %s\n", c->id);
}

static void
print_count(const struct query *q, const unsigned count[4], const char *what)
{
	unsigned testable = count[STANDING_OPEN] + count[STANDING_CITED] + count[STANDING_PROVEN];
	unsigned good = count[STANDING_PROVEN] + (q->prove ? 0 : count[STANDING_CITED]);

	printf("%u %s%s: %u testable, %u of them %s", testable + count[STANDING_UNTESTABLE], what,
	       q->binds == BINDS_SERVER   ? " that bind servers"
	       : q->binds == BINDS_CLIENT ? " that bind clients"
	                                  : "",
	       testable, good, q->prove ? "proven" : "cited by a case");
	if (testable > 0)
		printf(" (%.1f %%)", 100.0 * good / testable);
	putchar('\n');
}

static void
print_all(const struct query *q)
{
	unsigned count[2][4] = { 0 };
	char *by;

	for (int id = 1; id < N_REQUIREMENTS; id++) {
		enum standing standing;

		if (!wanted(q, (enum requirement_id)id))
			continue;
		standing = standing_of(q, (enum requirement_id)id, &by);
		count[requirement_experimental((enum requirement_id)id)][standing]++;
		if (!q->open || standing == STANDING_OPEN || (q->prove && standing == STANDING_CITED))
			print_one(q, (enum requirement_id)id, standing, by);
		free(by);
	}
	putchar('\n');
	print_count(q, count[0], "requirements");
	if (count[1][STANDING_UNTESTABLE] + count[1][STANDING_OPEN] + count[1][STANDING_CITED] +
	    count[1][STANDING_PROVEN])
		print_count(q, count[1], "of extended headers (experimental)");
}

static int
take_options(struct cli *cli, struct query *q)
{
	for (size_t i = 0; i < cli->n_given; i++)
		switch (cli->given[i].id) {
		case OPT_PROVE:
			q->prove = true;
			break;
		case OPT_OPEN:
			q->open = true;
			break;
		default:
			q->binds = strcmp(cli->given[i].value, "server") == 0   ? BINDS_SERVER
			           : strcmp(cli->given[i].value, "client") == 0 ? BINDS_CLIENT
			                                                        : -2;
			if (q->binds == -2)
				return cli_usage_error(cli, "--binds %s: want server or client", cli->given[i].value);
		}
	return 0;
}

/* The first glob that no requirement matches, or NULL. */
static const char *
names_nothing(const struct query *q)
{
	for (size_t i = 0; i < q->n_globs; i++) {
		int id = 1;

		while (id < N_REQUIREMENTS && fnmatch(q->globs[i], requirement((enum requirement_id)id)->id, 0) != 0)
			id++;
		if (id == N_REQUIREMENTS)
			return q->globs[i];
	}
	return NULL;
}

/* Only those whose word is asked for. */
static bool
prove(struct query *q, char **why)
{
	unsigned slots = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);

	return (q->binds == BINDS_CLIENT || matrix_run(&q->servers, NULL, NULL, slots, why)) &&
	       (q->binds == BINDS_SERVER || matrix_run_clients(&q->clients, NULL, NULL, slots, why));
}

static int
run_requirements(struct cli *cli)
{
	struct query q = { .binds = -1, .globs = cli->args, .n_globs = cli->n_args };
	int status = take_options(cli, &q);
	const char *nothing = names_nothing(&q);
	char *why = NULL;

	if (status != 0)
		return status;
	if (nothing != NULL)
		return cli_usage_error(cli, "no requirement '%s'; 'nbdspec requirements' prints them", nothing);
	if (q.prove && !prove(&q, &why))
		status = why == NULL ? STATUS_INTERRUPTED : cli_broken(cli, "%s", why);
	else
		print_all(&q);
	free(why);
	if (q.prove) {
		matrix_free(&q.servers);
		matrix_free(&q.clients);
	}
	return status;
}

COMMAND(requirements) = {
	.name = "requirements",
	.usage = "[OPTION]... [GLOB]...",
	.summary = "the catalogue: what the protocol text demands, and what is cited and proven",
	.options = options,
	.run = run_requirements,
};
