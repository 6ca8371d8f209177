/* nbdspec matrix: one page over many runs, from their JSON reports. */
#include "harness/cli.h"
#include "reports/html.h"
#include "reports/json.h"

#include <stdlib.h>
#include <string.h>

static const struct cli_option options[] = {
	{ "output", 'o', "FILE", "write the page there (default: standard output)", 1, false },
	{ 0 },
};

static json_t *
read_run(const struct cli *cli, const char *path, int *status)
{
	char error[512];
	json_t *run = saved_read(path, NULL, error), *result;
	size_t i;

	if (run == NULL)
		*status = cli_broken(cli, "%s", error);
	json_array_foreach(json_object_get(run, "results"), i, result)
	{
		json_make_brief(result);
	}
	return run;
}

/* ---- writing ---- */

static void
write_page(FILE *f, json_t *runs)
{
	struct runs_page page;
	json_t *run;
	size_t i;

	runs_page_begin(&page, f, "NBD conformance");
	json_array_foreach(runs, i, run)
	{
		if (i > 0)
			fputs(",\n", page.json);
		json_put(page.json, json_incref(run), JSON_COMPACT);
	}
	runs_page_end(&page);
}

static int
run_matrix(struct cli *cli)
{
	const char *path = cli->n_given > 0 ? cli->given[0].value : "-";
	json_t *runs = json_array();
	int status = STATUS_OK;
	FILE *f;

	if (cli->n_args == 0)
		status = cli_usage_error(cli, "want the reports of one run or more, which --json has written");
	else if (path[0] == '\0')
		status = cli_usage_error(cli, "--output '': want FILE, not an empty text");
	for (size_t i = 0; i < cli->n_args && status == STATUS_OK; i++)
		if (cli_same_file(path, cli->args[i]))
			status = cli_usage_error(cli, "%s is one of the reports: it would be lost", cli->args[i]);
	for (size_t i = 0; i < cli->n_args && status == STATUS_OK; i++)
		json_array_append_new(runs, read_run(cli, cli->args[i], &status));
	if (status == STATUS_OK) {
		f = strcmp(path, "-") == 0 ? stdout : cli_create(cli, path);
		if (f != NULL)
			write_page(f, runs);
		status = f != NULL && cli_close(cli, f, path, "page") ? STATUS_OK : STATUS_BROKEN;
	}
	json_decref(runs);
	return status;
}

COMMAND(matrix) = {
	.name = "matrix",
	.usage = "[-o FILE] JSON...",
	.summary = "one page over many runs, from their JSON reports",
	.help = "Each row is a run, with the implementation and its version as --target has them; each column a "
		"chapter "
		"of the\n"
		"protocol text. A cell opens the cases, with what was expected and seen, and the messages.\n\n"
		"  nbdspec server --target 'qemu-nbd, 7.2' --json a.json -- qemu-nbd -t -f raw -k {socket} {file}\n"
		"  nbdspec server --target 'nbdkit, 1.32' --json b.json -- nbdkit -f -U {socket} memory 64M\n"
		"  nbdspec matrix -o matrix.html a.json b.json\n",
	.options = options,
	.run = run_matrix,
};
