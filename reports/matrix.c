/* nbdspec matrix: one page over many runs, and over explorations of power cuts, from their JSON reports. */
#include "harness/cli.h"
#include "harness/crash/saved.h"
#include "reports/crash_page.h"
#include "reports/html.h"
#include "reports/json.h"

#include <stdlib.h>
#include <string.h>

static const struct cli_option options[] = {
	{ "output", 'o', "FILE", "write the page there (default: standard output)", 1, false },
	{ 0 },
};

struct matrix {
	json_t *runs, *crashes;
};

/* ---- reading ---- */

static void
make_brief(json_t *run)
{
	json_t *result;
	size_t i;

	json_array_foreach(json_object_get(run, "results"), i, result)
	{
		json_make_brief(result);
	}
}

/* What it is, its content says. */
static int
take_report(struct matrix *m, const struct cli *cli, const char *path)
{
	char error[512];
	json_t *json = saved_load(path, error);
	bool is_crash = json != NULL && saved_is_exploration(json);

	if (is_crash)
		json = saved_exploration(json, path, error);
	else if (json != NULL)
		json = saved_run(json, path, NULL, error);
	if (json == NULL)
		return cli_broken(cli, "%s", error);
	if (!is_crash)
		make_brief(json);
	json_array_append_new(is_crash ? m->crashes : m->runs, json);
	return STATUS_OK;
}

/* ---- writing ---- */

static void
write_page(FILE *f, const struct matrix *m)
{
	struct runs_page page;
	json_t *report;
	size_t i;

	runs_page_begin(&page, f, "NBD conformance");
	json_array_foreach(m->runs, i, report)
	{
		if (i > 0)
			fputs(",\n", page.json);
		json_put(page.json, json_incref(report), JSON_COMPACT);
	}
	runs_page_crashes(&page);
	json_array_foreach(m->crashes, i, report)
	{
		if (i > 0)
			fputs(",\n", page.json);
		crash_page_put(page.json, report);
	}
	runs_page_end(&page);
}

static int
run_matrix(struct cli *cli)
{
	const char *path = cli->n_given > 0 ? cli->given[0].value : "-";
	struct matrix m = { json_array(), json_array() };
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
		status = take_report(&m, cli, cli->args[i]);
	if (status == STATUS_OK) {
		f = strcmp(path, "-") == 0 ? stdout : cli_create(cli, path);
		if (f != NULL)
			write_page(f, &m);
		status = f != NULL && cli_close(cli, f, path, "page") ? STATUS_OK : STATUS_BROKEN;
	}
	json_decref(m.runs);
	json_decref(m.crashes);
	return status;
}

COMMAND(matrix) = {
	.name = "matrix",
	.usage = "[-o FILE] JSON...",
	.summary = "one page over many runs and power cuts, from their JSON reports",
	.help = "Each row is a run, with the implementation and its version as --target has them; each column a "
		"chapter "
		"of the\n"
		"protocol text. A cell opens the cases, with what was expected and seen, and the messages. What "
		"'nbdspec crash\n"
		"explore --json' has written may stand among them: of each such report the page has a row of another "
		"table, which\n"
		"opens the timeline of the recording.\n\n"
		"  nbdspec server --target 'qemu-nbd, 7.2' --json a.json -- qemu-nbd -t -f raw -k {socket} {file}\n"
		"  nbdspec server --target 'nbdkit, 1.32' --json b.json -- nbdkit -f -U {socket} memory 64M\n"
		"  nbdspec crash explore trace --check 'e2fsck -fn {file}' --json c.json\n"
		"  nbdspec matrix -o matrix.html a.json b.json c.json\n",
	.options = options,
	.run = run_matrix,
};
