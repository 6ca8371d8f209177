/* nbdspec matrix: one page over many runs, from their JSON reports. */
#include "harness/cli.h"
#include "harness/printable.h"
#include "reports/html.h"
#include "reports/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct cli_option options[] = {
	{ "output", 'o', "FILE", "write the page there (default: standard output)", 1, false },
	{ 0 },
};

/* ---- reading ---- */

static bool
is_text(const json_t *value)
{
	return json_is_string(value) || json_is_null(value);
}

static bool
is_list_of_names(const json_t *list)
{
	json_t *name;
	size_t i;

	json_array_foreach(list, i, name)
	{
		if (!json_is_string(name))
			return false;
	}
	return json_is_array(list);
}

static bool
is_result(const json_t *r, const json_t *catalogue)
{
	static const char *const texts[] = { "point",      "requirement", "message", "expected",    "got",   "feature",
		                             "transcript", "again",       "server",  "expectation", "reason" };
	const char *verdict = json_string_value(json_object_get(r, "verdict"));
	enum verdict v;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (!is_text(json_object_get(r, texts[i])))
			return false;
	return json_is_string(json_object_get(r, "case")) && verdict != NULL && verdict_named(verdict, &v) &&
	       json_is_integer(json_object_get(r, "duration_us")) && is_list_of_names(json_object_get(r, "also")) &&
	       json_object_get(catalogue, json_string_value(json_object_get(r, "case"))) != NULL;
}

static bool
are_results(const json_t *results, const json_t *catalogue)
{
	const char *name;
	json_t *value;
	size_t i;

	json_object_foreach((json_t *)(uintptr_t)catalogue, name, value)
	{
		if (!is_text(json_object_get(value, "title")) || !is_list_of_names(json_object_get(value, "cites")))
			return false;
	}
	json_array_foreach(results, i, value)
	{
		if (!is_result(value, catalogue))
			return false;
	}
	return json_is_array(results);
}

static bool
is_head(const json_t *run)
{
	static const char *const texts[] = { "nbdspec", "command", "target", "again" };

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (!is_text(json_object_get(run, texts[i])))
			return false;
	return json_is_string(json_object_get(run, "suite")) && json_is_integer(json_object_get(run, "started")) &&
	       json_is_array(json_object_get(run, "stale")) &&
	       json_is_integer(json_object_get(json_object_get(run, "summary"), "red")) &&
	       json_is_integer(json_object_get(json_object_get(run, "summary"), "duration_us")) &&
	       is_text(json_object_get(json_object_get(run, "summary"), "broken"));
}

/* One line says what is wrong with it; NULL for nothing. */
static const char *
wrong_with(const json_t *run)
{
	if (json_integer_value(json_object_get(run, "format")) != JSON_FORMAT ||
	    json_object_get(run, "results") == NULL)
		return "is no report of 'nbdspec … --json'";
	if (json_object_get(run, "catalogue") == NULL)
		return "is of an older nbdspec, which did not say what its cases ask; run it anew";
	if (!is_head(run) || !are_results(json_object_get(run, "results"), json_object_get(run, "catalogue")))
		return "is a damaged report";
	return NULL;
}

static json_t *
read_run(const struct cli *cli, const char *path, int *status)
{
	json_error_t error;
	json_t *run = json_load_file(path, 0, &error), *result;
	const char *wrong;
	size_t i;

	if (run == NULL && error.line < 0)
		*status = cli_broken(cli, "%s: %s", path, strerror(errno));
	else if (run == NULL)
		*status = cli_broken(cli, "%s: line %d: %s", path, error.line, error.text);
	else if ((wrong = wrong_with(run)) != NULL)
		*status = cli_broken(cli, "%s: %s", path, wrong);
	if (*status != 0) {
		json_decref(run);
		return NULL;
	}
	json_array_foreach(json_object_get(run, "results"), i, result)
	{
		json_make_brief(result);
	}
	return run;
}

/* ---- writing ---- */

/* What was written by hand may have other texts than ours do. Returns a new value. */
static json_t *
made_printable(const json_t *value)
{
	json_t *made = json_is_object(value) ? json_object() : json_is_array(value) ? json_array() : NULL, *part;
	autofree char *clean = printable_text(json_is_string(value) ? json_string_value(value) : "",
	                                      PRINTABLE_LINES | PRINTABLE_AGAIN);
	const char *name;
	size_t i;

	json_object_foreach((json_t *)(uintptr_t)value, name, part)
	{
		autofree char *key = printable_text(name, PRINTABLE_LINES | PRINTABLE_AGAIN);

		json_object_set_new(made, key, made_printable(part));
	}
	json_array_foreach(value, i, part)
	{
		json_array_append_new(made, made_printable(part));
	}
	return made != NULL ? made : json_is_string(value) ? json_string(clean) : json_copy((json_t *)(uintptr_t)value);
}

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
		json_put(page.json, made_printable(run), JSON_COMPACT);
	}
	runs_page_end(&page);
}

/* No half of a page is left behind; what is no file stays. */
static int
write_to(const struct cli *cli, const char *path, json_t *runs)
{
	FILE *f = fopen(path, "we");
	struct stat st;
	bool ok;

	if (f == NULL)
		return cli_broken(cli, "%s: %s", path, strerror(errno));
	write_page(f, runs);
	ok = fflush(f) == 0 && !ferror(f);
	if (!ok)
		cli_broken(cli, "%s: the page could not be written whole: %s", path, strerror(errno));
	if (!ok && fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode))
		unlink(path);
	fclose(f);
	return ok ? STATUS_OK : STATUS_BROKEN;
}

static int
run_matrix(struct cli *cli)
{
	const char *path = cli->n_given > 0 ? cli->given[0].value : "-";
	json_t *runs = json_array();
	int status = STATUS_OK;

	if (cli->n_args == 0)
		status = cli_usage_error(cli, "want the reports of one run or more, which --json has written");
	else if (path[0] == '\0')
		status = cli_usage_error(cli, "--output '': want FILE, not an empty text");
	for (size_t i = 0; i < cli->n_args && status == STATUS_OK; i++)
		json_array_append_new(runs, read_run(cli, cli->args[i], &status));
	if (status == STATUS_OK && strcmp(path, "-") == 0)
		write_page(stdout, runs);
	else if (status == STATUS_OK)
		status = write_to(cli, path, runs);
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
