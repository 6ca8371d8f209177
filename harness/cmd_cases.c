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

static int
run_list(struct cli *cli)
{
	const struct case_def *c;
	unsigned n = 0;

	for (size_t i = 0; (c = case_at(i)) != NULL; i++)
		if (matches_any(cli, c->id)) {
			printf("%-44s %s\n", c->id, c->title);
			n++;
		}
	if (n == 0)
		return cli_usage_error(cli, "no case matches '%s'; 'nbdspec list' prints them all", cli->args[0]);
	return STATUS_OK;
}

COMMAND(list) = {
	.name = "list", .usage = "[GLOB]...", .summary = "list the cases, one line each", .options = no_options,
	.run = run_list,
};

static void
print_requirement(const struct requirement *r)
{
	printf("  %s\n    %s (%s, binds the %s): %s\n", r->id, level_name(r->level), r->where, binds_name(r->binds), r->text);
}

static void
print_case(const struct case_def *c)
{
	printf("%s\n  %s.\n  %s:%d\n\nholds the server to:\n", c->id, c->title, c->file, c->line);
	for (const enum requirement_id *r = c->cites; *r != REQUIREMENT_NONE; r++)
		print_requirement(requirement(*r));
}

static int
run_explain(struct cli *cli)
{
	const struct case_def *c;
	unsigned n = 0;

	if (cli->n_args == 0)
		return cli_usage_error(cli, "want a case, such as option/unknown_is_refused, or a glob");
	for (size_t i = 0; (c = case_at(i)) != NULL; i++)
		if (matches_any(cli, c->id)) {
			if (n++ > 0)
				putchar('\n');
			print_case(c);
		}
	for (size_t i = 0; i < cli->n_args && n == 0; i++) {
		enum requirement_id r = requirement_named(cli->args[i]);

		if (r == REQUIREMENT_NONE)
			return cli_usage_error(cli, "no case or requirement '%s'; 'nbdspec list' and 'nbdspec requirements' print them",
					       cli->args[i]);
		print_requirement(requirement(r));
	}
	return STATUS_OK;
}

COMMAND(explain) = {
	.name = "explain", .usage = "CASE|REQUIREMENT...", .summary = "say what a case holds a peer to, and where it is written",
	.options = no_options, .run = run_explain,
};
