/* nbdspec merge: the reports of all shards of a run, as if it had been in one piece. */
#include "harness/cli.h"
#include "harness/printable.h"
#include "harness/saved.h"
#include "reports/whole.h"

#include <stdlib.h>
#include <string.h>

enum { OPT_QUIET = 1, OPT_REPORT, OUTPUTS_MOST = 16 };

static const struct cli_option options[] = {
	{ "json", 'o', "FILE", "write the whole run there, as --json of it would (FILE - is standard output)",
	  OPT_REPORT, true },
	{ "quiet", 'q', NULL, "nothing on standard output", OPT_QUIET, false },
	{ "tap", 0, "FILE", "write it as another report: Test Anything Protocol", OPT_REPORT + 1, true },
	{ "junit", 0, "FILE", "likewise: JUnit XML", OPT_REPORT + 2, true },
	{ "text", 0, "FILE", "likewise: as on a terminal", OPT_REPORT + 3, true },
	{ "html", 0, "FILE", "likewise: a page for a browser, in one file", OPT_REPORT + 4, true },
	{ "markdown", 0, "FILE", "likewise: a summary for a pull request", OPT_REPORT + 5, true },
	{ "github", 0, "FILE", "likewise: GitHub's workflow commands, for its annotations", OPT_REPORT + 6, true },
	{ "gitlab", 0, "FILE", "likewise: JSON for GitLab's code quality", OPT_REPORT + 7, true },
	{ 0 },
};

struct output {
	const struct report_writer *writer;
	const char *path;
};

struct merge {
	struct cli *cli;
	bool quiet;
	struct output outputs[OUTPUTS_MOST + 1];
	unsigned n_outputs;
	json_t **runs; /* by shard; NULL: it is not there */
	const char **paths;
	size_t n; /* shards */
	json_t *results, *stale;
	struct run_summary summary;
	char *texts[8]; /* of the head, as they were before they were made printable */
	unsigned n_texts;
};

/* ---- the command line ---- */

static int
take_option(struct merge *m, const struct cli_given *g)
{
	const struct cli_option *o = options;

	if (g->id == OPT_QUIET) {
		m->quiet = true;
		return 0;
	}
	while (o->id != g->id)
		o++;
	if (g->value[0] == '\0')
		return cli_usage_error(m->cli, "--%s '': want FILE, not an empty text", o->name);
	if (m->n_outputs == OUTPUTS_MOST)
		return cli_usage_error(m->cli, "at most %d reports", OUTPUTS_MOST);
	for (unsigned i = 0; i < m->n_outputs; i++)
		if (cli_same_file(m->outputs[i].path, g->value))
			return cli_usage_error(m->cli, "%s is named twice: each file has one use", g->value);
	for (size_t i = 0; i < m->cli->n_args; i++)
		if (cli_same_file(m->cli->args[i], g->value))
			return cli_usage_error(m->cli, "%s is one of the shards: it would be lost", g->value);
	m->outputs[m->n_outputs++] = (struct output){ report_named(o->name), g->value };
	return 0;
}

/* What a person reads, unless something else goes there. */
static void
add_stdout(struct merge *m)
{
	for (unsigned i = 0; i < m->n_outputs; i++)
		if (strcmp(m->outputs[i].path, "-") == 0)
			return;
	if (!m->quiet)
		m->outputs[m->n_outputs++] = (struct output){ report_named("text"), "-" };
}

/* ---- reading ---- */

static const json_t *
shard_of(const json_t *run)
{
	return json_object_get(run, "shard");
}

/* What differs though it must not; NULL for nothing. */
static const char *
differs(const json_t *a, const json_t *b)
{
	static const char *const keys[] = { "nbdspec", "suite", "target", "strict", "expect" };
	static const char *const names[] = { "version of nbdspec", "suite",
		                             "target (--target gives all of them one name)", "--strict", "--expect" };

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (!json_equal(json_object_get(a, keys[i]), json_object_get(b, keys[i])))
			return names[i];
	if (saved_number(shard_of(a), "of") != saved_number(shard_of(b), "of"))
		return "number of shards";
	if (!json_equal(json_object_get(shard_of(a), "how"), json_object_get(shard_of(b), "how")))
		return "command line (selection, seed, options, or the peer's command)";
	return saved_number(shard_of(a), "cases") == saved_number(shard_of(b), "cases") ? NULL : "number of cases";
}

static int
take_run(struct merge *m, json_t *run, const char *path)
{
	json_int_t i = saved_number(shard_of(run), "number"), of = saved_number(shard_of(run), "of");
	const char *other;

	if (!json_is_object(shard_of(run)))
		return cli_usage_error(m->cli, "%s: is of a whole run, and of no shard (--shard)", path);
	if (m->runs == NULL) {
		m->n = (size_t)of;
		m->runs = report_state(m->n * sizeof(*m->runs));
		m->paths = report_state(m->n * sizeof(*m->paths));
	}
	for (size_t k = 0; k < m->n; k++)
		if (m->runs[k] != NULL && (other = differs(m->runs[k], run)) != NULL)
			return cli_usage_error(m->cli, "%s and %s are no shards of one run: they differ in the %s",
			                       m->paths[k], path, other);
	if (m->runs[i - 1] != NULL)
		return cli_usage_error(m->cli, "%s: shard %lld of %lld is given twice, also as %s", path, (long long)i,
		                       (long long)of, m->paths[i - 1]);
	m->runs[i - 1] = json_incref(run);
	m->paths[i - 1] = path;
	return 0;
}

static int
complain_of_missing(const struct merge *m)
{
	char text[512] = "";
	size_t n = 0;

	for (size_t i = 0; i < m->n; i++)
		if (m->runs[i] == NULL && n++ < 40)
			snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%zu", n > 1 ? ", " : "", i + 1);
	if (n == 0)
		return 0;
	return cli_usage_error(m->cli, "shard%s %s%s of %zu %s missing", n > 1 ? "s" : "", text, n > 40 ? " …" : "",
	                       m->n, n > 1 ? "are" : "is");
}

/* No case is in two of them, and no case is lost. */
static int
check_cases(const struct merge *m)
{
	json_t *owners = json_object();
	json_int_t cases = 0, all = saved_number(shard_of(m->runs[0]), "cases");
	int status = 0;

	for (size_t i = 0; i < m->n; i++) {
		const char *id;
		json_t *value;

		cases += saved_number(m->runs[i], "cases");
		json_object_foreach(json_object_get(m->runs[i], "catalogue"), id, value)
		{
			if (json_object_get(owners, id) != NULL && status == 0)
				status = cli_usage_error(m->cli, "%s and %s overlap: both ran %s",
				                         m->paths[saved_number(owners, id)], m->paths[i], id);
			json_object_set_new(owners, id, json_integer((json_int_t)i));
		}
	}
	json_decref(owners);
	if (status == 0 && cases != all)
		status = cli_usage_error(m->cli, "the shards have %lld cases, and the whole has %lld", (long long)cases,
		                         (long long)all);
	return status;
}

static int
read_runs(struct merge *m)
{
	int status = 0;
	char error[512];

	for (size_t i = 0; i < m->cli->n_args && status == 0; i++) {
		json_t *run = saved_read(m->cli->args[i], NULL, error);

		status = run != NULL ? take_run(m, run, m->cli->args[i]) : cli_broken(m->cli, "%s", error);
		json_decref(run);
	}
	if (status == 0)
		status = complain_of_missing(m);
	return status == 0 ? check_cases(m) : status;
}

/* ---- joining ---- */

/* A line that no shard has matched, of those that might have. */
static bool
is_open_in_all(const struct merge *m, const json_t *line)
{
	for (size_t i = 0; i < m->n; i++) {
		json_t *other;
		bool found = false;
		size_t k;

		json_array_foreach(json_object_get(m->runs[i], "open"), k, other)
		{
			found |= json_equal(other, line);
		}
		if (!found)
			return false;
	}
	return true;
}

static int
by_line(const void *a, const void *b)
{
	json_int_t x = saved_number(*(json_t *const *)a, "line"), y = saved_number(*(json_t *const *)b, "line");

	return x < y ? -1 : x > y;
}

static void
join_stale(struct merge *m)
{
	json_t *all = json_array(), *line, **lines;
	size_t k, n;

	for (size_t i = 0; i < m->n; i++)
		json_array_extend(all, json_object_get(m->runs[i], "stale"));
	json_array_foreach(json_object_get(m->runs[0], "open"), k, line)
	{
		if (is_open_in_all(m, line)) {
			json_array_append(all, line);
			m->summary.stale++;
			m->summary.red++;
		}
	}
	n = json_array_size(all);
	lines = report_state((n + 1) * sizeof(json_t *));
	for (k = 0; k < n; k++)
		lines[k] = json_incref(json_array_get(all, k));
	qsort(lines, n, sizeof(json_t *), by_line);
	for (k = 0; k < n; k++)
		json_array_set_new(all, k, lines[k]);
	free(lines);
	m->stale = all;
}

static void
join_summary(struct merge *m, size_t i)
{
	const json_t *s = json_object_get(m->runs[i], "summary");
	struct run_summary *all = &m->summary;

	for (int v = 0; v < N_VERDICTS; v++)
		all->count[v] += (unsigned)saved_number(s, verdict_name((enum verdict)v));
	all->known += (unsigned)saved_number(s, "known");
	all->experimental += (unsigned)saved_number(s, "experimental");
	all->red += (unsigned)saved_number(s, "red");
	all->stale += (unsigned)saved_number(s, "stale");
	all->duration_us += (uint64_t)saved_number(s, "duration_us");
	all->interrupted |= json_is_true(json_object_get(s, "interrupted"));
	if (all->broken == NULL && whole_broken(m->runs[i]) != NULL) {
		autofree char *broken = printable_undo(whole_broken(m->runs[i]));

		if (asprintf((char **)&all->broken, "shard %zu of %zu: %s", i + 1, m->n, broken) < 0)
			abort();
	}
}

static void
join(struct merge *m)
{
	struct run_summary *s = &m->summary;

	m->results = json_array();
	for (size_t i = 0; i < m->n; i++) {
		json_array_extend(m->results, json_object_get(m->runs[i], "results"));
		join_summary(m, i);
	}
	whole_sort(m->results);
	join_stale(m);
	if (s->broken == NULL && s->count[VERDICT_SKIP] == json_array_size(m->results) && s->red == 0 &&
	    asprintf((char **)&s->broken, "no case ran: all %u were skipped", s->count[VERDICT_SKIP]) < 0)
		abort();
}

/* ---- writing ---- */

static json_t *
run_of(const struct merge *m, const json_t *result)
{
	for (size_t i = 0; i < m->n; i++)
		if (saved_case(m->runs[i], result) != NULL)
			return m->runs[i];
	abort();
}

/* Before anything is written. */
static bool
are_requirements_known(const struct merge *m)
{
	struct saved_result s;
	bool known = true;
	json_t *one;
	size_t i;

	json_array_foreach(m->results, i, one)
	{
		known &= saved_result(run_of(m, one), one, &s);
		saved_forget(&s);
	}
	return known;
}

static void
give(const struct merge *m, const struct report_writer *w, void *state)
{
	struct saved_result s;
	json_t *one;
	size_t i;

	json_array_foreach(m->results, i, one)
	{
		if (saved_result(run_of(m, one), one, &s))
			w->result(state, &s.result);
		saved_forget(&s);
	}
	json_array_foreach(m->stale, i, one)
	{
		autofree char *file = printable_undo(saved_text(one, "file"));
		autofree char *pattern = printable_undo(saved_text(one, "pattern"));

		if (w->stale != NULL)
			w->stale(state, &(struct stale){ file, (unsigned)saved_number(one, "line"), pattern });
	}
	w->finish(state, &m->summary);
}

static const char *
as_it_was(struct merge *m, const char *text)
{
	return m->texts[m->n_texts++] = printable_undo(text);
}

static struct run_info
head(struct merge *m)
{
	const json_t *first = m->runs[0];
	const char *expect = saved_text(first, "expect");
	struct run_info info = { .command = as_it_was(m, saved_text(first, "command")),
		                 .target = as_it_was(m, saved_text(first, "target")),
		                 .suite = as_it_was(m, saved_text(first, "suite")),
		                 .version = as_it_was(m, saved_text(first, "nbdspec")),
		                 .started = (uint64_t)saved_number(first, "started"),
		                 .again = saved_text(first, "again"),
		                 .n_cases = (unsigned)saved_number(shard_of(first), "cases"),
		                 .strict = json_is_true(json_object_get(first, "strict")),
		                 .expect = *expect ? as_it_was(m, expect) : NULL };

	for (size_t i = 1; i < m->n; i++)
		if ((uint64_t)saved_number(m->runs[i], "started") < info.started)
			info.started = (uint64_t)saved_number(m->runs[i], "started");
	return info;
}

static int
write_output(const struct merge *m, const struct run_info *info, const struct output *o)
{
	FILE *f = strcmp(o->path, "-") == 0 ? stdout : cli_create(m->cli, o->path);

	if (f == NULL)
		return STATUS_BROKEN;
	give(m, o->writer, o->writer->open(f, info));
	return cli_close(m->cli, f, o->path, "report") ? STATUS_OK : STATUS_BROKEN;
}

static int
status_of(const struct merge *m)
{
	const struct run_summary *s = &m->summary;

	if (s->broken != NULL || s->interrupted || s->count[VERDICT_ERROR] > 0)
		return STATUS_BROKEN;
	return s->red > 0 ? STATUS_FAILED : STATUS_OK;
}

static int
write_all(struct merge *m)
{
	struct run_info info = head(m);
	bool known;
	int status;

	join(m);
	add_stdout(m);
	known = are_requirements_known(m);
	status = known ? status_of(m)
	               : cli_broken(m->cli,
	                            "the shards name requirements that nbdspec " NBDSPEC_VERSION
	                            " does not know: merge them with the %s that ran them",
	                            info.version);
	for (unsigned i = 0; i < m->n_outputs && known; i++)
		if (write_output(m, &info, &m->outputs[i]) != STATUS_OK)
			status = STATUS_BROKEN;
	json_decref(m->results);
	json_decref(m->stale);
	while (m->n_texts > 0)
		free(m->texts[--m->n_texts]);
	free((char *)m->summary.broken);
	return status;
}

static int
run_merge(struct cli *cli)
{
	struct merge m = { .cli = cli };
	int status = 0;

	if (cli->n_args == 0)
		return cli_usage_error(
			cli, "want the reports of all shards of a run, which --shard and --json have written");
	for (size_t i = 0; i < cli->n_given && status == 0; i++)
		status = take_option(&m, &cli->given[i]);
	if (status == 0)
		status = read_runs(&m);
	if (status == 0)
		status = write_all(&m);
	for (size_t i = 0; i < m.n; i++)
		json_decref(m.runs[i]);
	free(m.runs);
	free(m.paths);
	return status;
}

COMMAND(merge) = {
	.name = "merge",
	.usage = "[OPTION]... JSON...",
	.summary = "join the reports of a run's shards",
	.help = "The shards of one run (--shard I/N of server, client and durability), which may have run on N "
		"machines, "
		"become one\n"
		"report. Lines of the expectation file that speak of cases in several shards are judged here.\n\n"
		"  nbdspec server --shard 1/2 --json 1.json -- qemu-nbd -t -f raw -k {socket} {file}\n"
		"  nbdspec server --shard 2/2 --json 2.json -- qemu-nbd -t -f raw -k {socket} {file}\n"
		"  nbdspec merge -o all.json --junit all.xml 1.json 2.json\n\n"
		"Exit status, as of the whole run: 0 all as expected; 1 a case failed; 2 usage, and when a shard is "
		"missing or of\n"
		"another run; 3 one of them was interrupted or its set-up broke, or a report cannot be read or "
		"written.\n",
	.options = options,
	.run = run_merge,
};
