/* nbdspec server: the cases of the server suite against a URI or a server that it starts. */
#include "harness/cli.h"
#include "harness/expect.h"
#include "harness/runner.h"
#include "harness/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST_REPORTS = 16, MOST_REQUIRED = 32 };

enum option_id {
	OPT_CASE = 1, OPT_JOBS, OPT_STRICT, OPT_REQUIRE, OPT_DESTRUCTIVE, OPT_EXPORT, OPT_SIZE, OPT_VIA, OPT_PREPARE,
	OPT_TARGET, OPT_FACTOR, OPT_EXPECT, OPT_WRITE_EXPECT, OPT_TRACE, OPT_LIST, OPT_QUIET, OPT_FRESH, OPT_DAEMON,
	OPT_REPORT,		/* and one more for each report writer */
};

static const struct cli_option options[] = {
	{ "case", 'c', "GLOB", "only the cases that match, such as 'option/*'; repeatable", OPT_CASE, true },
	{ "list", 0, NULL, "print the selected cases and run nothing", OPT_LIST, false },
	{ "jobs", 'j', "N", "N servers side by side (default 1; not for a URI)", OPT_JOBS, false },
	{ "strict", 0, NULL, "a broken SHOULD fails the run too", OPT_STRICT, false },
	{ "require", 0, "FEATURE", "a case skipped for want of FEATURE fails; 'any' for all; repeatable", OPT_REQUIRE, true },
	{ "destructive", 0, NULL, "allow writing to an export that nbdspec did not make", OPT_DESTRUCTIVE, false },
	{ "export", 0, "NAME", "the export to test (default: the URI's, else the default export)", OPT_EXPORT, false },
	{ "size", 0, "SIZE", "size of {file}, with suffix k, M, G, T (default 64M)", OPT_SIZE, false },
	{ "via", 0, "WAY", "unix, tcp, stdio or activation (default: by the placeholder in the command)", OPT_VIA, false },
	{ "prepare", 0, "SHELL", "run before every start of the server, with the same placeholders", OPT_PREPARE, false },
	{ "fresh", 0, NULL, "a new server for every case", OPT_FRESH, false },
	{ "daemon", 0, NULL, "the command ends once its server runs in the background", OPT_DAEMON, false },
	{ "target", 0, "NAME", "what the reports call it (default: its command or URI)", OPT_TARGET, false },
	{ "time-factor", 0, "X", "multiply every time limit (10 s for one answer) by X", OPT_FACTOR, false },
	{ "expect", 0, "FILE", "known deviations; one that is gone or new fails the run", OPT_EXPECT, false },
	{ "write-expect", 0, "FILE", "write what deviates as such a file, reasons to be filled in", OPT_WRITE_EXPECT, false },
	{ "trace", 0, "FILE", "keep every message of every case", OPT_TRACE, false },
	{ "quiet", 'q', NULL, "nothing on standard output", OPT_QUIET, false },
	{ "tap", 0, "FILE", "report: Test Anything Protocol (FILE - is standard output)", OPT_REPORT, true },
	{ "junit", 0, "FILE", "report: JUnit XML", OPT_REPORT + 1, true },
	{ "json", 0, "FILE", "report: JSON, docs/json-schema.json", OPT_REPORT + 2, true },
	{ "text", 0, "FILE", "report: as on a terminal", OPT_REPORT + 3, true },
	{ 0 },
};

struct output {
	const struct report_writer *writer;
	const char *path;
	FILE *f;
	void *state;
};

struct server_run {
	struct cli *cli;
	struct target target;
	struct runner runner;
	bool strict, list, quiet;
	const char *expect_path, *write_expect_path, *trace_path, *via, *export_name, *target_name;
	struct expectations *expect;
	FILE *write_expect;
	const char *required[MOST_REQUIRED];
	unsigned n_required;
	char **globs;
	size_t n_globs;
	struct output outputs[MOST_REPORTS];
	unsigned n_outputs;
	const struct case_def **cases;
	size_t n_cases;
	struct run_summary summary;
	unsigned ran;			/* results that are neither skip nor error */
};

/* ---- reading the command line ---- */

static int
add_report(struct server_run *run, int id, const char *path)
{
	const char *name = NULL;

	for (const struct cli_option *o = options; o->name != NULL; o++)
		if (o->id == id)
			name = o->name;
	if (run->n_outputs == MOST_REPORTS)
		return cli_usage_error(run->cli, "at most %d reports", MOST_REPORTS);
	run->outputs[run->n_outputs++] = (struct output){ .writer = report_named(name), .path = path };
	return 0;
}

static int
take_option(struct server_run *run, const struct cli_given *g)
{
	unsigned long number;

	switch (g->id) {
	case OPT_CASE:
		run->globs[run->n_globs++] = (char *)g->value;
		break;
	case OPT_JOBS:
		if (!cli_number(run->cli, "--jobs", g->value, 1, 64, &number))
			return STATUS_USAGE;
		run->runner.slots = (unsigned)number;
		break;
	case OPT_REQUIRE:
		if (run->n_required == MOST_REQUIRED)
			return cli_usage_error(run->cli, "at most %d --require", MOST_REQUIRED);
		run->required[run->n_required++] = g->value;
		break;
	case OPT_SIZE:
		if (!size_parse(g->value, &run->target.size) || run->target.size > INT64_MAX)
			return cli_usage_error(run->cli, "--size %s: want a size such as 65536, 64M or 1G", g->value);
		break;
	case OPT_FACTOR:
		if (!cli_factor(run->cli, "--time-factor", g->value, &run->target.factor))
			return STATUS_USAGE;
		break;
	case OPT_STRICT:
		run->strict = true;
		break;
	case OPT_DESTRUCTIVE:
		run->target.destructive = true;
		break;
	case OPT_EXPORT:
		run->export_name = g->value;
		break;
	case OPT_VIA:
		run->via = g->value;
		break;
	case OPT_PREPARE:
		run->target.prepare = g->value;
		break;
	case OPT_FRESH:
		run->target.fresh = true;
		break;
	case OPT_DAEMON:
		run->target.daemon = true;
		break;
	case OPT_TARGET:
		run->target_name = g->value;
		break;
	case OPT_EXPECT:
		run->expect_path = g->value;
		break;
	case OPT_WRITE_EXPECT:
		run->write_expect_path = g->value;
		break;
	case OPT_TRACE:
		run->trace_path = g->value;
		break;
	case OPT_LIST:
		run->list = true;
		break;
	case OPT_QUIET:
		run->quiet = true;
		break;
	default:
		return add_report(run, g->id, g->value);
	}
	return 0;
}

static int
take_target(struct server_run *run)
{
	struct cli *cli = run->cli;
	char error[URI_MAX_ERROR];
	const char *wrong;

	if (cli->program != NULL && cli->n_args > 0)
		return cli_usage_error(cli, "'%s': give a URI or a command to start, not both", cli->args[0]);
	if (cli->program == NULL && cli->n_args != 1)
		return cli_usage_error(cli, "want one URI, such as nbd+unix:///?socket=/run/nbd.sock, or -- and a server's command");
	if (cli->program == NULL) {
		run->target.via = VIA_URI;
		if (!uri_parse(cli->args[0], &run->target.uri, error))
			return cli_usage_error(cli, "%s", error);
		if (run->target.uri.tls || run->target.uri.transport == URI_VSOCK)
			return cli_usage_error(cli, "%s: only nbd:// and nbd+unix:// so far", cli->args[0]);
		run->target.export_name = run->export_name ? run->export_name : run->target.uri.export;
		if (run->runner.slots > 1)
			return cli_usage_error(cli, "--jobs wants a server that nbdspec starts: one export cannot serve cases side by side");
		return 0;
	}
	run->target.program = cli->program;
	run->target.export_name = run->export_name ? run->export_name : "";
	wrong = target_check_program(&run->target, run->via, cli->bracket);
	if (run->target.via == VIA_STDIO)
		run->target.fresh = true;
	return wrong != NULL ? cli_usage_error(cli, "%s", wrong) : 0;
}

static int
read_command_line(struct server_run *run)
{
	char error[512];
	int status;

	for (size_t i = 0; i < run->cli->n_given; i++)
		if ((status = take_option(run, &run->cli->given[i])) != 0)
			return status;
	run->cases = select_cases(SUITE_SERVER, run->globs, run->n_globs, &run->n_cases);
	if (run->n_cases == 0)
		return cli_usage_error(run->cli, "no case matches; 'nbdspec list' prints them all");
	if (run->list)
		return 0;
	if ((status = take_target(run)) != 0)
		return status;
	if (run->expect_path != NULL && (run->expect = expect_load(run->expect_path, error)) == NULL)
		return cli_usage_error(run->cli, "%s", error);
	return 0;
}

/* ---- results ---- */

static bool
is_required(const struct server_run *run, const char *feature)
{
	for (unsigned i = 0; i < run->n_required; i++)
		if (strcmp(run->required[i], "any") == 0 || strcasecmp(run->required[i], feature) == 0)
			return true;
	return false;
}

static void
on_result(void *arg, const struct job *job, const struct result *came)
{
	struct server_run *run = arg;
	struct result r = *came;

	(void)job;
	expect_judge(run->expect, &r, run->strict);
	if (r.verdict == VERDICT_SKIP && is_required(run, r.feature)) {
		r.verdict = VERDICT_FAIL;
		r.red = true;
	}
	run->summary.count[r.verdict]++;
	run->summary.red += r.red;
	run->summary.known += (r.verdict == VERDICT_FAIL || r.verdict == VERDICT_WARN) && !r.red &&
			      r.expectation != EXPECT_NONE;
	run->ran += r.verdict != VERDICT_SKIP && r.verdict != VERDICT_ERROR;
	if (run->write_expect != NULL && (r.verdict == VERDICT_FAIL || r.verdict == VERDICT_WARN))
		expect_write(run->write_expect, &r);
	for (unsigned i = 0; i < run->n_outputs; i++)
		run->outputs[i].writer->result(run->outputs[i].state, &r);
}

static void
on_progress(void *arg, unsigned done, const struct case_def *running)
{
	struct server_run *run = arg;

	for (unsigned i = 0; i < run->n_outputs; i++)
		if (run->outputs[i].writer->progress != NULL)
			run->outputs[i].writer->progress(run->outputs[i].state, done, (unsigned)run->n_cases, running->id);
}

static bool
pattern_selected(void *arg, const char *pattern)
{
	struct server_run *run = arg;
	char group[256];

	/* A line is stale only where a case that it speaks of was in the run. */
	snprintf(group, sizeof(group), "%.*s", (int)strcspn(pattern, "["), pattern);
	if (run->n_globs == 0)
		return true;
	for (size_t i = 0; i < run->n_cases; i++)
		if (fnmatch(group, run->cases[i]->id, 0) == 0)
			return true;
	return false;
}

static void
on_stale(void *arg, const struct stale *s)
{
	struct server_run *run = arg;

	for (unsigned i = 0; i < run->n_outputs; i++)
		if (run->outputs[i].writer->stale != NULL)
			run->outputs[i].writer->stale(run->outputs[i].state, s);
}

/* ---- files ---- */

static bool
open_outputs(struct server_run *run, const struct run_info *info)
{
	for (unsigned i = 0; i < run->n_outputs; i++) {
		struct output *o = &run->outputs[i];

		o->f = strcmp(o->path, "-") == 0 ? stdout : fopen(o->path, "we");
		if (o->f == NULL) {
			cli_broken(run->cli, "%s: %s", o->path, strerror(errno));
			return false;
		}
		o->state = o->writer->open(o->f, info);
	}
	return true;
}

static bool
close_outputs(struct server_run *run)
{
	bool ok = true;

	for (unsigned i = 0; i < run->n_outputs; i++) {
		struct output *o = &run->outputs[i];
		bool failed;

		if (o->f == NULL || o->state == NULL)
			continue;
		o->writer->finish(o->state, &run->summary);
		failed = fflush(o->f) != 0 || ferror(o->f);
		if (o->f != stdout)
			failed |= fclose(o->f) != 0;
		if (failed)
			cli_broken(run->cli, "%s: the report could not be written whole: %s", o->path, strerror(errno));
		ok &= !failed;
	}
	return ok;
}

static int
open_trace(struct server_run *run)
{
	struct trace trace;

	run->runner.trace_fd = -1;
	if (run->trace_path == NULL)
		return 0;
	/* Not O_APPEND: sendfile refuses it, and nobody else writes here. */
	run->runner.trace_fd = open(run->trace_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (run->runner.trace_fd < 0 || trace_start(&trace, run->runner.trace_fd, 1u << 16) != 0)
		return cli_broken(run->cli, "%s: %s", run->trace_path, strerror(errno));
	return 0;
}

static int
open_files(struct server_run *run)
{
	bool to_stdout = run->quiet;
	int status = open_trace(run);

	if (status != 0)
		return status;
	if (run->write_expect_path != NULL && (run->write_expect = fopen(run->write_expect_path, "we")) == NULL)
		return cli_broken(run->cli, "%s: %s", run->write_expect_path, strerror(errno));
	for (unsigned i = 0; i < run->n_outputs; i++)
		to_stdout |= strcmp(run->outputs[i].path, "-") == 0;
	if (!to_stdout) {
		if (run->n_outputs == MOST_REPORTS)
			return cli_usage_error(run->cli, "at most %d reports", MOST_REPORTS - 1);
		run->outputs[run->n_outputs++] =
			(struct output){ .writer = report_named(isatty(STDOUT_FILENO) ? "text" : "tap"), .path = "-" };
	}
	return 0;
}

/* ---- the run ---- */

static void
run_all(struct server_run *run)
{
	struct job *jobs = calloc(run->n_cases, sizeof(*jobs));
	struct timespec from, to;
	struct run_end end;

	if (jobs == NULL)
		abort();
	for (size_t i = 0; i < run->n_cases; i++)
		jobs[i] = (struct job){ .def = run->cases[i], .target = &run->target };
	clock_gettime(CLOCK_MONOTONIC, &from);
	end = run_jobs(&run->runner, jobs, run->n_cases);
	clock_gettime(CLOCK_MONOTONIC, &to);
	run->summary.duration_us = (uint64_t)((to.tv_sec - from.tv_sec) * 1000000 + (to.tv_nsec - from.tv_nsec) / 1000);
	run->summary.interrupted = end.interrupted;
	run->summary.broken = end.broken;
	if (!end.interrupted && end.broken == NULL) {
		run->summary.stale = expect_stale(run->expect, pattern_selected, run, on_stale);
		run->summary.red += run->summary.stale;
	}
	free(jobs);
}

static int
status_of(struct server_run *run, bool written)
{
	const struct run_summary *s = &run->summary;

	if (s->interrupted)
		return STATUS_INTERRUPTED;
	if (s->broken != NULL)
		return cli_broken(run->cli, "%s", s->broken);
	if (!written || s->count[VERDICT_ERROR] > 0)
		return STATUS_BROKEN;
	if (run->ran == 0 && s->red == 0)
		return cli_broken(run->cli, "no case ran: all %u were skipped", s->count[VERDICT_SKIP]);
	return s->red > 0 ? STATUS_FAILED : STATUS_OK;
}

static int
conduct(struct server_run *run)
{
	char *name = target_describe(&run->target);
	struct run_info info = { .command = run->cli->line, .target = run->target_name ? run->target_name : name,
				 .suite = "server", .version = NBDSPEC_VERSION, .started = (uint64_t)time(NULL),
				 .n_cases = (unsigned)run->n_cases, .strict = run->strict };
	int status = open_files(run);
	bool written;

	if (status == 0 && !open_outputs(run, &info))
		status = STATUS_BROKEN;
	if (status == 0) {
		run_all(run);
		written = close_outputs(run);
		if (run->write_expect != NULL && fclose(run->write_expect) != 0) {
			cli_broken(run->cli, "%s: %s", run->write_expect_path, strerror(errno));
			written = false;
		}
		status = status_of(run, written);
		free((char *)run->summary.broken);
	}
	if (run->runner.trace_fd >= 0)
		close(run->runner.trace_fd);
	free(name);
	return status;
}

static int
run_server(struct cli *cli)
{
	struct server_run run = { .cli = cli,
				  .target = { .size = 64u << 20, .factor = 1, .export_name = "" },
				  .runner = { .slots = 1, .trace_fd = -1, .transcripts = true, .result = on_result,
					      .progress = on_progress } };
	int status;

	run.runner.arg = &run;
	run.globs = calloc(cli->n_given + 1, sizeof(*run.globs));
	status = read_command_line(&run);
	if (status == 0 && run.list)
		for (size_t i = 0; i < run.n_cases; i++)
			printf("%s\n", run.cases[i]->id);
	else if (status == 0)
		status = conduct(&run);
	expect_free(run.expect);
	uri_free(&run.target.uri);
	free(run.globs);
	free(run.cases);
	return status;
}

COMMAND(server) = {
	.name = "server",
	.usage = "[OPTION]... URI | [OPTION]... -- COMMAND... | [OPTION]... [ COMMAND... ]",
	.summary = "test a server",
	.help = "The server runs already (URI), or nbdspec starts it, as often as it needs: COMMAND may have the placeholders\n"
		TARGET_PLACEHOLDERS "; {file} is a new empty image.\n"
		"In '[ COMMAND ]' the server takes its listening socket from systemd socket activation.\n\n"
		"  nbdspec server nbd://localhost/\n"
		"  nbdspec server -- qemu-nbd -t -f raw -k {socket} {file}\n"
		"  nbdkit memory 64M --run 'nbdspec server --destructive $uri'\n",
	.options = options,
	.run = run_server,
};
