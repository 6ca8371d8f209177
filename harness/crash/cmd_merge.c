/* nbdspec crash merge: the reports of all shards of one exploration, as if it had been in one piece. */
#include "harness/cli.h"
#include "harness/crash/merge.h"
#include "harness/crash/points.h"

#include <stdlib.h>
#include <string.h>

enum { OPT_JSON = 1, OPT_HTML };

static const struct cli_option merge_options[] = {
	{ "json", 0, "FILE", "write the results there, as 'nbdspec crash explore' does", OPT_JSON, false },
	{ "html", 0, "FILE", "write them there as a page, with a timeline", OPT_HTML, false },
	{ 0 },
};

struct merge {
	const struct cli *cli;
	json_t **reports; /* by shard; NULL: it is not there */
	size_t n;         /* shards */
	const json_t *exploration;
	struct report_files files;
};

static json_int_t
number(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

static const char *
string(const json_t *object, const char *name)
{
	const char *s = json_string_value(json_object_get(object, name));

	return s != NULL ? s : "";
}

/* ---- reading ---- */

/* The trace may lie elsewhere for each. */
static bool
same_exploration(const json_t *a, const json_t *b)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)a, name, value)
	{
		if (strcmp(name, "trace") != 0 && !json_equal(value, json_object_get(b, name)))
			return false;
	}
	return true;
}

static int
take_shard(struct merge *m, json_t *report, const char *path)
{
	const json_t *shard = json_object_get(report, "shard"), *what = json_object_get(report, "exploration");
	json_int_t i = json_integer_value(json_array_get(shard, 0)), n = json_integer_value(json_array_get(shard, 1));

	if (strcmp(string(report, "format"), REPORT_FORMAT) != 0 || i < 1 || i > n || n > 1000000 ||
	    !points_are_sound(report))
		return cli_usage_error(m->cli, "%s: is no report of 'nbdspec crash explore --json'", path);
	if (json_is_true(json_object_get(report, "interrupted")))
		return cli_usage_error(m->cli, "%s: was interrupted; finish it first, with --resume", path);
	if (m->reports == NULL) {
		m->n = (size_t)n;
		m->reports = calloc(m->n, sizeof(json_t *));
		m->exploration = what;
		if (m->reports == NULL)
			abort();
	}
	if ((size_t)n != m->n || !same_exploration(m->exploration, what))
		return cli_usage_error(m->cli, "%s: is of another exploration than %s", path, m->cli->args[0]);
	if (m->reports[i - 1] != NULL)
		return cli_usage_error(m->cli, "%s: shard %d of %d is given twice", path, (int)i, (int)n);
	m->reports[i - 1] = json_incref(report);
	return 0;
}

static int
read_reports(struct merge *m)
{
	int status = 0;

	for (size_t i = 0; i < m->cli->n_args && status == 0; i++) {
		json_error_t error;
		json_t *report = json_load_file(m->cli->args[i], 0, &error);

		if (report == NULL)
			status = cli_usage_error(m->cli, "%s: %s", m->cli->args[i], error.text);
		else
			status = take_shard(m, report, m->cli->args[i]);
		json_decref(report);
	}
	for (size_t i = 0; i < m->n && status == 0; i++)
		if (m->reports[i] == NULL)
			status = cli_usage_error(m->cli, "shard %zu of %zu is missing", i + 1, m->n);
	return status;
}

/* ---- telling ---- */

static void
print_finding_again(const json_t *finding)
{
	const json_t *line;
	size_t k;

	printf("\n");
	json_array_foreach(json_object_get(finding, "told"), k, line)
	{
		printf("%s\n", json_is_string(line) ? json_string_value(line) : "");
	}
}

static void
print_merged(const struct merge *m, const json_t *merged)
{
	const json_t *states = json_object_get(merged, "states"), *finding;
	json_int_t hang = number(states, "hang"), crash = number(states, "crash");
	size_t k;

	printf("shards: %zu, of %lld crash points\n", m->n, (long long)number(m->exploration, "crash_points"));
	printf("states: %lld checked, %zu failing",
	       (long long)(number(states, "good") + number(states, "bad") + crash + hang),
	       json_array_size(json_object_get(merged, "failing")));
	if (hang + crash > 0)
		printf(" (%lld hung, %lld crashed)", (long long)hang, (long long)crash);
	printf("; all there are at %lld of %lld points\n", (long long)number(merged, "points_complete"),
	       (long long)number(m->exploration, "crash_points"));
	json_array_foreach(json_object_get(merged, "findings"), k, finding)
	{
		print_finding_again(finding);
	}
	if (number(merged, "unexplained") > 0)
		printf("\n%lld more failing states were not minimised\n", (long long)number(merged, "unexplained"));
}

static int
tell(const struct merge *m)
{
	json_t *merged = merged_report(m->reports, m->n);
	int status = json_array_size(json_object_get(merged, "failing")) > 0 ? STATUS_FAILED : STATUS_OK;
	char error[512];

	print_merged(m, merged);
	if (!report_write_all(&m->files, merged, error))
		status = cli_broken(m->cli, "%s", error);
	json_decref(merged);
	return status;
}

static int
run_merge(struct cli *cli)
{
	struct merge m = { .cli = cli };
	int status;

	if (cli->n_args == 0)
		return cli_usage_error(cli,
		                       "want the reports of all shards, as 'nbdspec crash explore --json' writes them");
	for (size_t i = 0; i < cli->n_given; i++)
		*(cli->given[i].id == OPT_JSON ? &m.files.json : &m.files.html) = cli->given[i].value;
	status = read_reports(&m);
	if (status == 0)
		status = tell(&m);
	for (size_t i = 0; i < m.n; i++)
		json_decref(m.reports[i]);
	free(m.reports);
	return status;
}

COMMAND(crash_merge) = {
	.name = "crash merge",
	.usage = "[OPTION]... REPORT...",
	.summary = "join the reports of an exploration's shards",
	.help = "Exit status: 0 no state fails; 1 some do; 2 usage, and when a shard is missing.\n",
	.options = merge_options,
	.run = run_merge,
};
