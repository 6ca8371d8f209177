/* nbdspec crash explore: every state that a power cut may leave, shown to a checker. */
#include "harness/cli.h"
#include "harness/crash/report.h"
#include "harness/file.h"
#include "harness/filesystem.h"
#include "harness/process.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	OPT_BUDGET = 1,
	OPT_SEED,
	OPT_TEAR,
	OPT_JOBS,
	OPT_SHARD,
	OPT_MARKS,
	OPT_FIRST,
	OPT_RESUME,
	OPT_JSON,
	OPT_HTML,
	OPT_NO_TRIE,
	OPT_VERIFY,
	OPT_NESTED,
	OPT_VERBOSE
};

static const struct cli_option explore_options[] = {
	CHECKER_OPTIONS("what judges a state: exit status 0 is good; has {file}, {uri} or {mount} in it"),
	{ "budget", 'n', "N", "check at most N states (default: 20000)", OPT_BUDGET, false },
	{ "seed", 0, "N", "of the choice among more states than that (default: 1)", OPT_SEED, false },
	{ "tear", 0, "HOW", "writes tear at 'sector' (512 bytes; the default), '4096', or not: 'write'", OPT_TEAR,
	  false },
	{ "jobs", 'j', "N", "checks side by side (default: 1)", OPT_JOBS, false },
	{ "shard", 0, "I/N", "only the I-th of N parts of the states", OPT_SHARD, false },
	{ "marks", 0, NULL, "check a state once for each number of marks that must be visible", OPT_MARKS, false },
	{ "stop-at-first", 0, NULL, "stop at the first failing state", OPT_FIRST, false },
	{ "no-trie", 0, NULL, "with {uri}: check also what follows from what the checker reads", OPT_NO_TRIE, false },
	{ "verify-trie", 0, "N", "check N of the states that were decided so after all", OPT_VERIFY, false },
	{ "nested", 0, "N", "with {uri}: cut again, in N ways, while the checker writes", OPT_NESTED, false },
	{ "resume", 0, "FILE", "keep the verdicts there, and go on from those that it has", OPT_RESUME, false },
	{ "json", 0, "FILE", "write the results there; 'nbdspec crash merge' joins those of all shards", OPT_JSON,
	  false },
	{ "html", 0, "FILE", "write them there as a page, with a timeline", OPT_HTML, false },
	{ "verbose", 'v', NULL, "say why it is not told what lies where a finding is", OPT_VERBOSE, false },
	{ 0 },
};

struct asked {
	struct explore_options o;
	const char *tear, *trace;
	struct report_files files;
};

static int
take_shard(const struct cli *cli, const char *value, struct explore_options *o)
{
	unsigned i, n;

	if (!cli_shard(cli, value, 1000000, &i, &n))
		return STATUS_USAGE;
	o->shard = i - 1;
	o->shards = n;
	return 0;
}

static int
take_number(const struct cli *cli, const struct cli_given *g, struct explore_options *o)
{
	unsigned long n = 0;
	bool ok = false;

	switch (g->id) {
	case OPT_BUDGET:
		ok = cli_number(cli, "--budget", g->value, 1, 1ul << 32, &n);
		o->budget = n;
		break;
	case OPT_SEED:
		ok = cli_number(cli, "--seed", g->value, 0, UINT64_MAX, &n);
		o->seed = n;
		break;
	case OPT_JOBS:
		ok = cli_number(cli, "--jobs", g->value, 1, 64, &n);
		o->jobs = (unsigned)n;
		break;
	case OPT_VERIFY:
		ok = cli_number(cli, "--verify-trie", g->value, 1, 1000000, &n);
		o->verify = (uint32_t)n;
		break;
	case OPT_NESTED:
		ok = cli_number(cli, "--nested", g->value, 1, 1000000, &n);
		o->setup.nested = n;
		break;
	}
	return ok ? 0 : STATUS_USAGE;
}

static int
take_option(const struct cli *cli, const struct cli_given *g, struct asked *a)
{
	switch (g->id) {
	case OPT_CHECK:
	case OPT_FS:
	case OPT_TIMEOUT:
		return checker_take_option(cli, g, &a->o.setup);
	case OPT_TEAR:
		a->tear = g->value;
		return tear_parse(g->value, 1, &a->o.tear)
		               ? 0
		               : cli_usage_error(cli, "--tear '%s': want sector, 4096 or write", g->value);
	case OPT_SHARD:
		return take_shard(cli, g->value, &a->o);
	case OPT_RESUME:
		a->o.resume = g->value;
		return 0;
	case OPT_JSON:
		a->files.json = g->value;
		return 0;
	case OPT_HTML:
		a->files.html = g->value;
		return 0;
	case OPT_NO_TRIE:
		a->o.trie = false;
		return 0;
	case OPT_VERBOSE:
		a->o.verbose = true;
		return 0;
	case OPT_MARKS:
		a->o.marks = true;
		return 0;
	case OPT_FIRST:
		a->o.stop_at_first = true;
		return 0;
	default:
		return take_number(cli, g, &a->o);
	}
}

static int
read_command_line(const struct cli *cli, struct asked *a)
{
	int status = 0;

	for (size_t i = 0; i < cli->n_given && status == 0; i++)
		status = take_option(cli, &cli->given[i], a);
	if (status != 0)
		return status;
	if (cli->n_args != 1)
		return cli_usage_error(cli, "want one TRACE, as 'nbdspec crash record' makes it");
	a->trace = cli->args[0];
	if (a->o.setup.command == NULL)
		return cli_usage_error(cli, "want --check with the command that judges a state");
	status = checker_take_all(cli, &a->o.setup);
	if (status == 0 && strstr(a->o.setup.command, "{uri}") == NULL && (a->o.verify > 0 || a->o.setup.nested > 0))
		return cli_usage_error(
			cli, "--verify-trie and --nested want {uri} in --check: there it is known what is read"
			     " and written");
	return status;
}

/* ---- running ---- */

static int
write_reports(const struct cli *cli, const struct asked *a, const struct exploration *e)
{
	json_t *report;
	char error[512];
	int status;

	if (a->files.json == NULL && a->files.html == NULL)
		return STATUS_OK;
	report = exploration_object(e, a->trace);
	status = report_write_all(&a->files, report, error) ? STATUS_OK : cli_broken(cli, "%s", error);
	json_decref(report);
	return status;
}

static int
explore_space(const struct cli *cli, struct asked *a, const struct space *s)
{
	struct exploration e;
	char error[512];
	int status;

	if (!explore(&e, &a->o, s, error)) {
		status = cli_broken(cli, "%s", error);
	} else {
		print_exploration(stdout, &e, a->trace);
		status = e.interrupted ? STATUS_INTERRUPTED : e.n_failing > 0 ? STATUS_FAILED : STATUS_OK;
		if (write_reports(cli, a, &e) != STATUS_OK)
			status = STATUS_BROKEN;
		if (e.contradicted > 0)
			status = cli_broken(cli,
			                    "the checker is not deterministic: it did otherwise %" PRIu64
			                    " times where it had read the same; run with --no-trie",
			                    e.contradicted);
	}
	exploration_free(&e);
	return status;
}

static int
explore_recording(const struct cli *cli, struct asked *a, const struct recording *r)
{
	char error[512], *marks;
	struct space *s;
	sigset_t stop = stop_signals();
	pid_t guard;
	char *dir;
	int status;

	sigprocmask(SIG_BLOCK, &stop, NULL);
	dir = make_guarded_dir(&guard, error);
	if (dir == NULL)
		return cli_broken(cli, "%s", error);
	marks = join_path(dir, "marks");
	a->o.setup.dir = dir;
	a->o.setup.marks = marks;
	if (!recording_write_marks(r, marks, error)) {
		status = cli_broken(cli, "%s", error);
	} else {
		s = space_new(r, a->o.tear, a->o.marks, NEVER);
		status = explore_space(cli, a, s);
		space_free(s);
	}
	remove_dir(dir);
	dismiss_guard(guard, dir);
	free(marks);
	free(dir);
	return status;
}

static int
run_explore(struct cli *cli)
{
	struct asked a = {
		.tear = "sector",
		.o = { .budget = 20000, .seed = 1, .jobs = 1, .shards = 1, .trie = true, .setup = { .ms = 30000 } }
	};
	struct recording r;
	char error[512];
	int status = read_command_line(cli, &a);

	if (status != 0)
		return status;
	if (!recording_load(&r, a.trace, error))
		return cli_usage_error(cli, "%s", error);
	if (r.left_over > 0)
		fprintf(stderr,
		        "nbdspec crash explore: %s ends within a record: its last %" PRIu64 " bytes are left out\n",
		        a.trace, r.left_over);
	tear_parse(a.tear, r.minimum, &a.o.tear);
	a.o.setup.tear = a.o.tear;
	a.o.progress = isatty(STDERR_FILENO);
	status = explore_recording(cli, &a, &r);
	recording_free(&r);
	return status;
}

COMMAND(crash_explore) = {
	.name = "crash explore",
	.usage = "[OPTION]... --check COMMAND TRACE",
	.summary = "check every state that a power cut may have left of a recording",
	.help = "In COMMAND, {file} becomes the path of a disk image, {uri} its NBD URI, and {mount} the path of its "
		"filesystem. Its\n"
		"environment has NBDSPEC_MARKS_MUST, how many marks were set before the cut; NBDSPEC_MARKS, a file "
		"with all marks,\n"
		"one on a line; and NBDSPEC_MARK_MAY, the next mark, which may be visible. It may write to the "
		"image.\n\n"
		"Exit status: 0 no state fails; 1 some do; 2 usage; 3 the checker cannot be run.\n",
	.options = explore_options,
	.run = run_explore,
};
