/* nbdspec driver: the fake client by hand, and under tests. */
#include "fakeserver/client/driver.h"
#include "fakeserver/client/lying.h"
#include "harness/cli.h"
#include "harness/requirement.h"

#include <stdio.h>
#include <stdlib.h>

enum { OPT_LIE = 1, OPT_HABIT, OPT_LIST_LIES, OPT_LIST_HABITS, OPT_COPY };

static const struct cli_option options[] = {
	{ "lie", 'l', "NAME", "misbehave: NAME[:nth=,times=]", OPT_LIE, true },
	{ "habit", 0, "NAME", "use a freedom that the protocol leaves to clients", OPT_HABIT, true },
	{ "list-lies", 0, NULL, "print the lies", OPT_LIST_LIES, false },
	{ "list-habits", 0, NULL, "print the habits", OPT_LIST_HABITS, false },
	{ "copy", 0, NULL, "copy FROM, a URI or a file, to TO, the other of both; no driver", OPT_COPY, false },
	{ 0 },
};

static int
list_lies(bool habits)
{
	const struct client_lie *lie;

	for (size_t i = 0; (lie = client_lie_at(i)) != NULL; i++) {
		bool habit = lie->uses != NULL;

		if (habit != habits)
			continue;
		printf("%s  %s; %s", lie->name, lie->text, habit ? "uses" : "breaks");
		for (const enum requirement_id *r = habit ? lie->uses : lie->breaks; *r != REQUIREMENT_NONE; r++)
			printf(" %s", requirement(*r)->id);
		printf("\n");
	}
	return STATUS_OK;
}

/* Each by its own option, so that nobody lies who does not mean to. */
static bool
parse_use(const struct cli_given *g, struct client_lie_use *use, char error[256])
{
	if (!client_lie_parse(g->value, use, error))
		return false;
	if ((use->lie->uses != NULL) == (g->id == OPT_HABIT))
		return true;
	snprintf(error, 256, "'%s' is a %s: give it as --%s", use->lie->name, g->id == OPT_HABIT ? "lie" : "habit",
	         g->id == OPT_HABIT ? "lie" : "habit");
	return false;
}

static int
run(struct cli *cli, bool copy)
{
	if (copy && cli->n_args != 2)
		return cli_usage_error(cli, "--copy: want FROM and TO, one a URI and one a file");
	if (!copy && cli->n_args > 0)
		return cli_usage_error(cli, "'%s': takes no arguments without --copy", cli->args[0]);
	return copy ? fc_copy_run(cli->args[0], cli->args[1]) : fc_driver_run();
}

static int
run_driver(struct cli *cli)
{
	struct fc_lies lies = { calloc(cli->n_given + 1, sizeof(*lies.uses)), 0 };
	bool copy = false, list = false, habits = false;
	char error[256];
	int status = STATUS_OK;

	if (lies.uses == NULL)
		abort();
	for (size_t i = 0; i < cli->n_given && status == STATUS_OK; i++) {
		copy |= cli->given[i].id == OPT_COPY;
		habits |= cli->given[i].id == OPT_LIST_HABITS;
		list |= cli->given[i].id == OPT_LIST_LIES || cli->given[i].id == OPT_LIST_HABITS;
		if ((cli->given[i].id == OPT_LIE || cli->given[i].id == OPT_HABIT) &&
		    !parse_use(&cli->given[i], &lies.uses[lies.n++], error))
			status = cli_usage_error(cli, "--%s: %s", cli->given[i].id == OPT_LIE ? "lie" : "habit", error);
	}
	fc_client.lies = lies.n > 0 ? &lies : NULL;
	if (status == STATUS_OK)
		status = list ? list_lies(habits) : run(cli, copy);
	fc_client.lies = NULL;
	free(lies.uses);
	return status;
}

COMMAND(driver) = {
	.name = "driver",
	.usage = "[OPTION]... [--copy FROM TO]",
	.summary = "an honest client with lies at its edge, as a driver (docs/driver-protocol.md) or to copy",
	.help = "It speaks the driver protocol on standard input and output. With --copy it copies an export into a "
		"file,\n"
		"or a file into an export: exit status 0 when the copy is good, else 1.\n",
	.options = options,
	.run = run_driver,
};
