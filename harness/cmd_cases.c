/* nbdspec list, explain, requirements: what the suite knows, without running anything. */
#include "harness/cli.h"
#include "harness/test.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

static const struct cli_option no_options[] = { { 0 } };

static bool
matches_any(const struct cli *cli, const char *id)
{
	if (cli->n_args == 0)
		return true;
	for (size_t i = 0; i < cli->n_args; i++)
		if (fnmatch(cli->args[i], id, 0) == 0)
			return true;
	return false;
}

static bool
is_case(const char *glob)
{
	const struct case_def *c;

	for (size_t i = 0; (c = case_at(i)) != NULL; i++)
		if (fnmatch(glob, c->id, 0) == 0)
			return true;
	return false;
}

static int
run_list(struct cli *cli)
{
	const struct case_def *c;

	for (size_t i = 0; i < cli->n_args; i++)
		if (!is_case(cli->args[i]))
			return cli_usage_error(cli, "no case matches '%s'; 'nbdspec list' prints them all",
			                       cli->args[i]);
	for (size_t i = 0; (c = case_at(i)) != NULL; i++)
		if (matches_any(cli, c->id))
			printf("%-44s %s\n", c->id, c->title);
	return STATUS_OK;
}

COMMAND(list) = {
	.name = "list",
	.usage = "[GLOB]...",
	.summary = "list the cases, one line each",
	.options = no_options,
	.run = run_list,
};

static void
print_requirement(const struct requirement *r)
{
	printf("  %s\n    %s (%s, binds the %s): %s\n", r->id, level_name(r->level), r->where, binds_name(r->binds),
	       r->text);
}

static void
print_case(const struct case_def *c)
{
	printf("%s\n  %s.\n  %s:%d\n\nholds the %s to:\n", c->id, c->title, c->file, c->line,
	       c->suite == SUITE_CLIENT || c->suite == SUITE_DRIVER || c->suite == SUITE_EXPLORE_CLIENT ? "client"
	                                                                                                : "server");
	for (const enum requirement_id *r = c->cites; *r != REQUIREMENT_NONE; r++)
		print_requirement(requirement(*r));
}

/* A name that is no case's is a requirement's. Returns how many. */
static unsigned
explain_requirements(const char *glob)
{
	unsigned n = 0;

	for (int i = 1; i < N_REQUIREMENTS; i++) {
		const struct requirement *r = requirement((enum requirement_id)i);

		if (fnmatch(glob, r->id, 0) == 0 && ++n)
			print_requirement(r);
	}
	return n;
}

static int
run_explain(struct cli *cli)
{
	const struct case_def *c;
	unsigned n = 0;

	if (cli->n_args == 0)
		return cli_usage_error(cli,
		                       "want a case or a requirement, such as option/unknown_is_refused, or a glob");
	for (size_t i = 0; (c = case_at(i)) != NULL; i++)
		if (matches_any(cli, c->id)) {
			if (n++ > 0)
				putchar('\n');
			print_case(c);
		}
	for (size_t i = 0; i < cli->n_args; i++)
		if (!is_case(cli->args[i]) && explain_requirements(cli->args[i]) == 0)
			return cli_usage_error(
				cli,
				"no case or requirement '%s'; 'nbdspec list' and 'nbdspec requirements' print them",
				cli->args[i]);
	return STATUS_OK;
}

COMMAND(explain) = {
	.name = "explain",
	.usage = "CASE|REQUIREMENT|GLOB...",
	.summary = "say what a case holds a peer to, and where it is written",
	.options = no_options,
	.run = run_explain,
};
