/* nbdspec server: the cases of the server suite against a URI or a server that it starts. */
#include "harness/clock.h"
#include "harness/cli.h"
#include "harness/expect.h"
#include "harness/exploration.h"
#include "harness/filesystem.h"
#include "harness/process.h"
#include "harness/progress.h"
#include "harness/runner.h"
#include "harness/pcapng.h"
#include "harness/saved.h"
#include "harness/shard.h"
#include "harness/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MOST_REPORTS = 15, MOST_REQUIRED = 32, DIR_SIZE = 512 << 20, CROWD_MOST = 100000 };

#define SOCKET_PATH_SIZE ((int)sizeof(((struct sockaddr_un *)0)->sun_path))

enum option_id {
	OPT_CASE = 1,
	OPT_JOBS,
	OPT_STRICT,
	OPT_EXPERIMENTAL,
	OPT_REQUIRE,
	OPT_DESTRUCTIVE,
	OPT_EXPORT,
	OPT_SIZE,
	OPT_VIA,
	OPT_PREPARE,
	OPT_TARGET,
	OPT_FACTOR,
	OPT_EXPECT,
	OPT_BASELINE,
	OPT_SHARD,
	OPT_WRITE_EXPECT,
	OPT_TRACE,
	OPT_PCAPNG,
	OPT_LIST,
	OPT_QUIET,
	OPT_FRESH,
	OPT_TLS,
	OPT_TLS_PSK,
	OPT_DAEMON,
	OPT_CHECK,
	OPT_SEED,
	OPT_RUNS,
	OPT_WAIVED,
	OPT_DIRECT,
	OPT_LOWER_FLAGS,
	OPT_FILESYSTEM,
	OPT_DRIVER,
	OPT_PAIRWISE,
	OPT_EXPLORE,
	OPT_WALKS,
	OPT_SEQUENCE,
	OPT_UNCHECKED,
	OPT_CROWD,
	OPT_RELOAD,
	OPT_MUTATE,
	OPT_MUTATE_RUN,
	OPT_MUTATE_BYTES,
	OPT_CORPUS,
	OPT_CORPUS_NEW,
	OPT_REPORT, /* and one more for each report writer */
};

/* clang-format off */
#define OPTIONS_OF_ALL_1 \
	{ "case", 'c', "GLOB", "only the cases that match, such as 'option/*'; repeatable", OPT_CASE, true }, \
	{ "list", 0, NULL, "print the selected cases and run nothing", OPT_LIST, false }, \
	{ "shard", 0, "I/N", "only the I-th of N parts of the cases; 'nbdspec merge' joins their --json", OPT_SHARD, \
	  false }, \
	{ "jobs", 'j', "N", "N side by side (default: 1; not for a URI)", OPT_JOBS, false }, \
	{ "strict", 0, NULL, "a broken SHOULD fails the run too", OPT_STRICT, false }, \
	{ "experimental", 0, NULL, "what deviates from an experimental extension (extended headers) fails the run too", \
	  OPT_EXPERIMENTAL, false }, \
	{ "require", 0, "FEATURE", "a case skipped for want of FEATURE fails; 'any' for all; repeatable", OPT_REQUIRE, \
	  true },

#define OPTIONS_OF_BOTH_1 OPTIONS_OF_ALL_1 \
	{ "destructive", 0, NULL, "allow writing to an export that nbdspec did not make", OPT_DESTRUCTIVE, false }, \
	{ "export", 0, "NAME", "the export to test (default: the URI's, else the default export)", OPT_EXPORT, false }, \
	{ "size", 0, "SIZE", "size of {file}, with suffix k, M, G, T (default: 64M)", OPT_SIZE, false }, \
	{ "via", 0, "WAY", "unix, tcp, stdio or activation (default: by the placeholder in the command)", OPT_VIA, \
	  false }, \
	{ "prepare", 0, "SHELL", "run before every start of the server, with the same placeholders", OPT_PREPARE, \
	  false }, \
	{ "fresh", 0, NULL, "a new server for every case", OPT_FRESH, false }, \
	{ "tls", 0, NULL, "every session is over TLS (for nbds:// it is), save where a case is about clear text", OPT_TLS, false }, \
	{ "daemon", 0, NULL, "the command ends once its server runs in the background", OPT_DAEMON, false },

#define OPTIONS_OF_ALL_2 \
	{ "target", 0, "NAME", "what the reports call it (default: its command or URI)", OPT_TARGET, false }, \
	{ "time-factor", 0, "X", "multiply every time limit (10 s for one answer) by X", OPT_FACTOR, false }, \
	{ "expect", 0, "FILE", "known deviations; one that is gone or new fails the run", OPT_EXPECT, false }, \
	{ "write-expect", 0, "FILE", "write what is not yet known as such a new file, reasons to be filled in", \
	  OPT_WRITE_EXPECT, false }, \
	{ "baseline", 0, "JSON", "an earlier run's report: --markdown and --github tell first what changed since", \
	  OPT_BASELINE, false }, \
	{ "trace", 0, "FILE", "keep every message of every case", OPT_TRACE, false }, \
	{ "pcapng", 0, "FILE", "the same as a capture for Wireshark, with the keys of TLS", OPT_PCAPNG, false }, \
	{ "quiet", 'q', NULL, "nothing on standard output", OPT_QUIET, false }, \
	{ "tap", 0, "FILE", "report: Test Anything Protocol (FILE - is standard output)", OPT_REPORT, true }, \
	{ "junit", 0, "FILE", "report: JUnit XML", OPT_REPORT + 1, true }, \
	{ "json", 0, "FILE", "report: JSON, docs/json-schema.json", OPT_REPORT + 2, true }, \
	{ "text", 0, "FILE", "report: as on a terminal", OPT_REPORT + 3, true }, \
	{ "html", 0, "FILE", "report: a page for a browser, in one file", OPT_REPORT + 4, true }, \
	{ "markdown", 0, "FILE", "report: a summary for a pull request", OPT_REPORT + 5, true }, \
	{ "github", 0, "FILE", "report: GitHub's workflow commands, for its annotations", OPT_REPORT + 6, true }, \
	{ "gitlab", 0, "FILE", "report: JSON for GitLab's code quality", OPT_REPORT + 7, true },
/* clang-format on */

static const struct cli_option server_options[] = {
	OPTIONS_OF_BOTH_1{ "explore", 0, "DEPTH",
	                   "in place of the cases: all sequences of up to DEPTH options, right and wrong", OPT_EXPLORE,
	                   false },
	{ "explore-walks", 0, "N", "likewise: N sequences at random, by the seed", OPT_WALKS, false },
	{ "explore-sequence", 0, "NAMES", "likewise: this one, as a finding names it", OPT_SEQUENCE, false },
	{ "mutate", 0, "N|TIME",
	  "in place of the cases: N sessions whose bytes are damaged at random, or for 30s, 10m, 2h", OPT_MUTATE,
	  false },
	{ "mutate-run", 0, "N", "likewise: the Nth of them alone, by the seed", OPT_MUTATE_RUN, false },
	{ "mutate-bytes", 0, "HEX", "likewise: these bytes, as a finding tells them", OPT_MUTATE_BYTES, false },
	{ "corpus", 0, "DIR", "begin from the files in it as well: what a client sends, one session each", OPT_CORPUS,
	  false },
	{ "corpus-new", 0, "DIR", "put what is answered in a new way there", OPT_CORPUS_NEW, false },
	{ "seed", 0, "N", "of --explore-walks, --mutate, and of the order of --explore in transmission (default: 1)",
	  OPT_SEED, false },
	{ "unchecked", 0, NULL, "do it once more without a look at the answers, and tell both rates", OPT_UNCHECKED,
	  false },
	{ "crowd", 0, "N", "clients that crowd the server in some cases; 0 for none (default: 100; for a URI none)",
	  OPT_CROWD, false },
	{ "reload", 0, "SIGNAL|SHELL", "how it reloads: HUP, USR1, USR2, or a command with placeholders, such as {pid}",
	  OPT_RELOAD, false },
	OPTIONS_OF_ALL_2{ 0 },
};

/* With these a superset. */
static const struct cli_option durability_options[] = {
	OPTIONS_OF_BOTH_1{ "check", 0, "SHELL",
	                   "run after every power cut, with the same placeholders: it fails for a broken image",
	                   OPT_CHECK, false },
	{ "seed", 0, "N", "for all that the cases do at random (default: 1)", OPT_SEED, false },
	{ "runs", 0, "N", "every case with N seeds, from that of --seed on (default: 1)", OPT_RUNS, false },
	{ "direct-io", 0, NULL, "the server opens {file} with O_DIRECT: no page cache forgets what it failed to write",
	  OPT_DIRECT, false },
	{ "filesystem", 0, "NAME", "what {dir} is on: " FILESYSTEM_NAMES " (default: ext4)", OPT_FILESYSTEM, false },
	{ "lower-flags", 0, "FLAG+FLAG",
	  "what the disk below offers, such as SEND_FLUSH+SEND_FUA, or none (default: all)", OPT_LOWER_FLAGS, false },
	{ "durability-waived", 0, NULL, "the server is told to lose data: say so, and fail for nothing of it",
	  OPT_WAIVED, false },
	OPTIONS_OF_ALL_2{ 0 },
};

static const struct cli_option client_options[] = {
	OPTIONS_OF_ALL_1{ "driver", 0, "PROGRAM", "a driver of the client, in place of a command", OPT_DRIVER, false },
	{ "pairwise", 0, NULL, "combinations pair by pair, and a sample of the lies: for a slow client", OPT_PAIRWISE,
	  false },
	{ "tls", 0, NULL, "every session is over TLS, save where a case is about clear text; {uri} is nbds://", OPT_TLS,
	  false },
	{ "tls-psk", 0, NULL, "likewise, with a key that is shared before in place of certificates", OPT_TLS_PSK,
	  false },
	{ "export", 0, "NAME", "the name of the export (default: none)", OPT_EXPORT, false },
	{ "size", 0, "SIZE", "size of the export, with suffix k, M, G, T (default: 1M)", OPT_SIZE, false },
	{ "explore", 0, "DEPTH", "in place of the cases: all sequences of up to DEPTH replies, all ways to cut reads",
	  OPT_EXPLORE, false },
	{ "explore-sequence", 0, "NAMES", "likewise: this one, as a finding names it", OPT_SEQUENCE, false },
	OPTIONS_OF_ALL_2{ 0 },
};

struct output {
	const struct report_writer *writer;
	const char *path;
	FILE *f;
	void *state;
	int failed; /* errno of the first write that went wrong */
};

struct server_run {
	struct cli *cli;
	struct target target;
	struct runner runner;
	enum suite suite;
	unsigned runs; /* with seeds of their own; of an exploration, its shards */
	struct exploration explore;
	bool strict, experimental, list, quiet, sized, tls, tls_psk;
	const char *filesystem, *driver; /* as given */
	const char *baseline_path;
	json_t *baseline;
	const char *expect_path, *write_expect_path, *trace_path, *pcapng_path, *via, *export_name, *target_name;
	struct expectations *expect;
	FILE *write_expect;
	enum requirement_id written; /* there, last */
	const char *required[MOST_REQUIRED];
	unsigned n_required;
	char **globs;
	size_t n_globs;
	struct output outputs[MOST_REPORTS + 1]; /* and standard output */
	unsigned n_outputs;
	const struct case_def **cases;
	size_t n_cases;
	unsigned shard, shards;        /* from 1; 0: no parts */
	const struct case_def **whole; /* what all shards have */
	size_t n_whole;
	unsigned open; /* lines that no result has matched, though one of another shard may */
	struct run_summary summary;
	unsigned ran;     /* results that are neither skip nor error */
	int trace_failed; /* errno */
	FILE *pcapng_file;
	struct pcapng *pcapng;
	int pcapng_failed; /* errno */
};

static const char *
suite_name(const struct server_run *run)
{
	return run->suite == SUITE_DURABILITY ? "durability" : run->target.via == VIA_CLIENT ? "client" : "server";
}

/* ---- reading the command line ---- */

static const struct cli_option *
option_with(int id)
{
	const struct cli_option *o = id == OPT_DRIVER || id == OPT_PAIRWISE || id == OPT_TLS_PSK ? client_options
	                             : id >= OPT_EXPLORE && id <= OPT_CORPUS_NEW                 ? server_options
	                                                                                         : durability_options;

	while (o->name != NULL && o->id != id)
		o++;
	return o;
}

static int
add_report(struct server_run *run, int id, const char *path)
{
	if (run->n_outputs == MOST_REPORTS)
		return cli_usage_error(run->cli, "at most %d reports", MOST_REPORTS);
	run->outputs[run->n_outputs++] = (struct output){ .writer = report_named(option_with(id)->name), .path = path };
	return 0;
}

static bool
take_plain(struct server_run *run, const struct cli_given *g)
{
	const struct {
		int id;
		bool *flag;
		const char **text;
	} plain[] = {
		{ OPT_STRICT, &run->strict, NULL },
		{ OPT_EXPERIMENTAL, &run->experimental, NULL },
		{ OPT_DESTRUCTIVE, &run->target.destructive, NULL },
		{ OPT_FRESH, &run->target.fresh, NULL },
		{ OPT_TLS, &run->tls, NULL },
		{ OPT_TLS_PSK, &run->tls_psk, NULL },
		{ OPT_DAEMON, &run->target.daemon, NULL },
		{ OPT_WAIVED, &run->target.waived, NULL },
		{ OPT_DIRECT, &run->target.direct, NULL },
		{ OPT_LOWER_FLAGS, NULL, &run->target.lower_flags },
		{ OPT_CHECK, NULL, &run->target.check },
		{ OPT_FILESYSTEM, NULL, &run->filesystem },
		{ OPT_DRIVER, NULL, &run->driver },
		{ OPT_PAIRWISE, &run->target.pairwise, NULL },
		{ OPT_LIST, &run->list, NULL },
		{ OPT_QUIET, &run->quiet, NULL },
		{ OPT_EXPORT, NULL, &run->export_name },
		{ OPT_VIA, NULL, &run->via },
		{ OPT_PREPARE, NULL, &run->target.prepare },
		{ OPT_TARGET, NULL, &run->target_name },
		{ OPT_EXPECT, NULL, &run->expect_path },
		{ OPT_BASELINE, NULL, &run->baseline_path },
		{ OPT_WRITE_EXPECT, NULL, &run->write_expect_path },
		{ OPT_TRACE, NULL, &run->trace_path },
		{ OPT_PCAPNG, NULL, &run->pcapng_path },
		{ OPT_SEQUENCE, NULL, &run->explore.sequence },
		{ OPT_RELOAD, NULL, &run->target.reload },
		{ OPT_UNCHECKED, &run->explore.unchecked, NULL },
		{ OPT_MUTATE_BYTES, NULL, &run->explore.mutation.bytes },
		{ OPT_CORPUS, NULL, &run->explore.mutation.corpus_dir },
		{ OPT_CORPUS_NEW, NULL, &run->explore.mutation.new_dir },
	};

	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
		if (plain[i].id != g->id)
			continue;
		if (plain[i].flag != NULL)
			*plain[i].flag = true;
		else
			*plain[i].text = g->value;
		return true;
	}
	return false;
}

static int
mutate_usage(const struct server_run *run, const char *text)
{
	return cli_usage_error(run->cli, "--mutate '%s': want a number of runs, or a time such as 30s, 10m or 2h",
	                       text);
}

/* So many, or so long: 30s, 10m, 2h. */
static int
take_mutate(struct server_run *run, const char *text)
{
	static const char units[] = "smh";
	static const double seconds[] = { 1, 60, 3600 };
	struct mutation *m = &run->explore.mutation;
	size_t len = strlen(text);
	const char *unit = strchr(units, text[len - 1]);
	char number[32], *end;

	m->asked = true;
	m->runs = 0;
	m->seconds = 0;
	if (unit == NULL) {
		m->runs = strtoul(text, &end, 10);
		if (*end == '\0' && m->runs > 0 && m->runs < ULONG_MAX && text[0] >= '0' && text[0] <= '9')
			return 0;
		return mutate_usage(run, text);
	}
	snprintf(number, sizeof(number), "%.*s", (int)len - 1, text);
	m->seconds = strtod(number, &end) * seconds[unit - units];
	if (*end == '\0' && m->seconds > 0 && m->seconds < 1e9 && strspn(number, "0123456789.") == len - 1)
		return 0;
	return mutate_usage(run, text);
}

static int
take_option(struct server_run *run, const struct cli_given *g)
{
	const struct cli_option *o = option_with(g->id);
	unsigned long number;

	if (g->value != NULL && g->value[0] == '\0' && g->id != OPT_EXPORT)
		return cli_usage_error(run->cli, "--%s '': want %s, not an empty text", o->name, o->arg);
	if (take_plain(run, g))
		return 0;
	switch (g->id) {
	case OPT_CASE:
		run->globs[run->n_globs++] = (char *)g->value;
		return 0;
	case OPT_JOBS:
		if (!cli_number(run->cli, "--jobs", g->value, 1, 64, &number))
			return STATUS_USAGE;
		run->runner.slots = (unsigned)number;
		return 0;
	case OPT_SHARD:
		return cli_shard(run->cli, g->value, SHARDS_MOST, &run->shard, &run->shards) ? 0 : STATUS_USAGE;
	case OPT_RUNS:
		if (!cli_number(run->cli, "--runs", g->value, 1, 1000000, &number))
			return STATUS_USAGE;
		run->runs = (unsigned)number;
		return 0;
	case OPT_SEED:
		if (!cli_number(run->cli, "--seed", g->value, 0, ULONG_MAX, &number))
			return STATUS_USAGE;
		run->target.seed = number;
		return 0;
	case OPT_EXPLORE:
		if (!cli_number(run->cli, "--explore", g->value, 0, EXPLORE_DEPTH_MOST, &number))
			return STATUS_USAGE;
		run->explore.depth = (int)number;
		return 0;
	case OPT_WALKS:
		return cli_number(run->cli, "--explore-walks", g->value, 1, ULONG_MAX, &run->explore.walks)
		               ? 0
		               : STATUS_USAGE;
	case OPT_CROWD:
		if (!cli_number(run->cli, "--crowd", g->value, 0, CROWD_MOST, &number))
			return STATUS_USAGE;
		run->target.crowd = (unsigned)number;
		run->target.crowd_given = true;
		return 0;
	case OPT_MUTATE:
		return take_mutate(run, g->value);
	case OPT_MUTATE_RUN:
		return cli_number(run->cli, "--mutate-run", g->value, 1, ULONG_MAX, &run->explore.mutation.only)
		               ? 0
		               : STATUS_USAGE;
	case OPT_REQUIRE:
		if (run->n_required == MOST_REQUIRED)
			return cli_usage_error(run->cli, "at most %d --require", MOST_REQUIRED);
		run->required[run->n_required++] = g->value;
		return 0;
	case OPT_SIZE:
		run->sized = true;
		if (size_parse(g->value, &run->target.size) && run->target.size <= INT64_MAX)
			return 0;
		return cli_usage_error(
			run->cli, "--size '%s': want a size such as 65536, 64M or 1G, up to 2^63-1 bytes", g->value);
	case OPT_FACTOR:
		return cli_factor(run->cli, "--time-factor", g->value, &run->target.factor) ? 0 : STATUS_USAGE;
	default:
		return add_report(run, g->id, g->value);
	}
}

/* What makes sense only for a server that we start. */
static int
refuse_for_uri(const struct server_run *run)
{
	static const enum option_id ids[] = { OPT_JOBS,  OPT_SIZE,   OPT_VIA,   OPT_PREPARE,
		                              OPT_FRESH, OPT_DAEMON, OPT_RELOAD };

	for (size_t i = 0; i < run->cli->n_given; i++)
		for (size_t k = 0; k < sizeof(ids) / sizeof(ids[0]); k++)
			if (run->cli->given[i].id == (int)ids[k])
				return cli_usage_error(run->cli, "--%s goes with a command to start, not with a URI",
				                       option_with(ids[k])->name);
	return 0;
}

/* As libnbd does it: only a name that was given can be verified. */
static int
take_tls_of_uri(struct server_run *run)
{
	const struct nbd_uri *u = &run->target.uri;
	const char *host = u->tls_hostname != NULL ? u->tls_hostname : u->host;
	char error[TLS_ERROR];
	struct target_tls *tls = target_tls_read(u->tls_certificates, u->tls_psk_file, u->user, error);

	if (tls == NULL)
		return cli_broken(run->cli, "%s", error);
	tls->always = true;
	tls->hostname = host != NULL ? strdup(host) : NULL;
	tls->verify = host != NULL && (u->tls_verify_peer == NULL || strcmp(u->tls_verify_peer, "false") != 0);
	run->target.tls = tls;
	return refuse_for_uri(run);
}

static int
take_uri(struct server_run *run)
{
	struct nbd_uri *uri = &run->target.uri;
	const char *text = run->cli->args[0];
	char error[URI_MAX_ERROR];

	run->target.via = VIA_URI;
	if (!uri_parse(text, uri, error))
		return cli_usage_error(run->cli, "%s", error);
	if (uri->transport == URI_VSOCK)
		return cli_usage_error(run->cli, "%s: only nbd://, nbd+unix://, nbds:// and nbds+unix:// so far", text);
	if (uri->transport == URI_UNIX && strlen(uri->socket) >= SOCKET_PATH_SIZE)
		return cli_usage_error(run->cli, "%s: the path of a Unix socket has at most %d bytes", uri->socket,
		                       SOCKET_PATH_SIZE - 1);
	run->target.export_name = run->export_name ? run->export_name : uri->export;
	run->target.again = shell_quote((char *const[]){ run->cli->args[0], NULL });
	if (run->tls && !uri->tls)
		return cli_usage_error(run->cli,
		                       "--tls: say nbds:// or nbds+unix://, with tls-certificates= or tls-psk-file=");
	return uri->tls ? take_tls_of_uri(run) : refuse_for_uri(run);
}

/* {dir} is on the disk below where nothing else of the command is. */
static int
take_filesystem(struct server_run *run)
{
	struct target *t = &run->target;
	const char *name = run->filesystem != NULL ? run->filesystem : "ext4";
	const struct filesystem *fs = filesystem_named(name);

	if (fs == NULL)
		return cli_usage_error(run->cli, "--filesystem '%s': want " FILESYSTEM_NAMES, name);
	if (target_names(t, "{dir}") && !target_names(t, "{file}") && !target_names(t, "{uri}"))
		t->fs = fs;
	else if (run->filesystem != NULL)
		return cli_usage_error(run->cli,
		                       "--filesystem is for {dir}, and that in a command without {file} and {uri}");
	if (t->fs == NULL)
		return 0;
	if (!run->sized)
		t->size = DIR_SIZE;
	if (t->size < fs->least)
		return cli_usage_error(run->cli, "--size: %s wants %lluM or more", name,
		                       (unsigned long long)(fs->least >> 20));
	return 0;
}

/* What the server keeps its data in must be ours, so that its power can be cut. */
static int
check_lower(struct server_run *run)
{
	const struct target *t = &run->target;
	int status = take_filesystem(run);
	const char *lacks;

	if (status != 0)
		return status;
	lacks = lower_lacks(t->fs);
	if (t->via == VIA_STDIO)
		return cli_usage_error(run->cli, "--via stdio does not go with durability: the server is started anew");
	if (t->fs == NULL && !target_names(t, "{file}") && !target_names(t, "{uri}"))
		return cli_usage_error(
			run->cli, "the command names none of {file}, {dir} and {uri}, so its disk has no power to cut");
	if ((t->fs != NULL || target_names(t, "{file}")) && lacks != NULL)
		return cli_broken(run->cli, "skipped: %s", lacks);
	return 0;
}

/* What a failure's own command line has of ours; the case, the seed and where results go it has anew. */
static const enum option_id kept[] = { OPT_TLS,        OPT_EXPORT, OPT_SIZE,    OPT_VIA,    OPT_PREPARE,
	                               OPT_DAEMON,     OPT_FACTOR, OPT_CHECK,   OPT_DIRECT, OPT_LOWER_FLAGS,
	                               OPT_FILESYSTEM, OPT_DRIVER, OPT_TLS_PSK, 0 };

static bool
is_among(int id, const enum option_id *list)
{
	while (*list != 0 && (int)*list != id)
		list++;
	return *list != 0;
}

static char *
option_word(const struct cli_given *g)
{
	char *word;

	if (asprintf(&word, "--%s", option_with(g->id)->name) < 0)
		abort();
	return word;
}

static char *
again_text(const struct server_run *run)
{
	const struct cli *cli = run->cli;
	/* What --driver names is given there. */
	char *const *program = run->target.program + (run->driver != NULL);
	size_t n = 0, n_program = 0;
	char **words, **owned, *text;
	size_t n_owned = 0;

	while (program[n_program] != NULL)
		n_program++;
	words = calloc(2 * cli->n_given + n_program + 3, sizeof(*words));
	owned = calloc(cli->n_given + 1, sizeof(*owned));
	if (words == NULL || owned == NULL)
		abort();
	for (size_t i = 0; i < cli->n_given; i++)
		if (is_among(cli->given[i].id, kept)) {
			owned[n_owned++] = words[n++] = option_word(&cli->given[i]);
			if (cli->given[i].value != NULL)
				words[n++] = (char *)cli->given[i].value;
		}
	if (n_program > 0)
		words[n++] = (char *)(cli->bracket ? "[" : "--");
	for (size_t i = 0; i < n_program; i++)
		words[n++] = program[i];
	if (cli->bracket)
		words[n++] = (char *)"]";
	text = shell_quote(words);
	while (n_owned > 0)
		free(owned[--n_owned]);
	free(owned);
	free(words);
	return text;
}

static int
take_tls(struct server_run *run)
{
	struct target *t = &run->target;
	bool psk = target_names(t, "{psk}");
	char error[TLS_ERROR];

	if (!psk && !target_names(t, "{certs}"))
		return run->tls ? cli_usage_error(run->cli,
		                                  "--tls: the command names neither {certs} nor {psk}: put one where "
		                                  "the server takes its certificates, or keys")
		                : 0;
	t->tls = target_tls_make(psk, error);
	if (t->tls == NULL)
		return cli_broken(run->cli, "%s", error);
	t->tls->always = run->tls;
	return 0;
}

static int
take_program(struct server_run *run)
{
	struct target *t = &run->target;
	const char *wrong;
	int status;

	t->program = run->cli->program;
	t->export_name = run->export_name ? run->export_name : "";
	wrong = target_check_program(t, run->via, run->cli->bracket);
	if (wrong == NULL && run->sized && !target_has_size(t) &&
	    !(run->suite == SUITE_DURABILITY && target_names(t, "{dir}")))
		wrong = "--size is the size of {file}, and the command names neither {file} nor {size}";
	if (wrong != NULL)
		return cli_usage_error(run->cli, "%s", wrong);
	status = take_tls(run);
	if (status != 0)
		return status;
	t->fresh |= t->via == VIA_STDIO;
	t->again = again_text(run);
	return run->suite == SUITE_DURABILITY ? check_lower(run) : 0;
}

/* The driver's command: what --driver says, the arguments, and those behind "--". */
static char **
driver_command(const struct server_run *run)
{
	const struct cli *cli = run->cli;
	size_t n = 0, n_program = 0;
	char **words;

	while (cli->program != NULL && cli->program[n_program] != NULL)
		n_program++;
	words = calloc(cli->n_args + n_program + 2, sizeof(*words));
	if (words == NULL)
		abort();
	words[n++] = (char *)run->driver;
	for (size_t i = 0; i < cli->n_args; i++)
		words[n++] = cli->args[i];
	for (size_t i = 0; i < n_program; i++)
		words[n++] = cli->program[i];
	return words;
}

/* A driver, and {uri}, are told where certificates or keys are; else the command names them. */
static int
take_tls_of_client(struct server_run *run)
{
	struct target *t = &run->target;
	bool names_certs = target_names(t, "{certs}"), names_psk = target_names(t, "{psk}");
	bool psk = run->tls_psk || names_psk, told = t->driver || target_names(t, "{uri}") || names_certs || names_psk;
	char error[TLS_ERROR];

	if (!run->tls && !run->tls_psk && !names_certs && !names_psk)
		return 0;
	if (names_certs && psk)
		return cli_usage_error(run->cli, "want one of {certs} and {psk} (--tls-psk): the server has only one");
	if (!told)
		return cli_usage_error(run->cli, "--tls: the command names none of {uri}, {certs} and {psk}: put one "
		                                 "where the client learns what it needs for TLS");
	t->tls = target_tls_make(psk, error);
	if (t->tls == NULL)
		return cli_broken(run->cli, "%s", error);
	t->tls->always = run->tls || run->tls_psk;
	return 0;
}

static int
take_client(struct server_run *run)
{
	struct target *t = &run->target;

	t->export_name = run->export_name ? run->export_name : "";
	t->via = VIA_CLIENT;
	if (run->driver != NULL) {
		t->driver = true;
		t->program = driver_command(run);
		t->again = again_text(run);
		return take_tls_of_client(run);
	}
	if (run->cli->program == NULL || run->cli->n_args > 0)
		return cli_usage_error(run->cli, "want -- and the client's command, or --driver");
	t->program = run->cli->program;
	if (t->program[0][0] == '\0')
		return cli_usage_error(run->cli, "the client's command is empty");
	if (!target_names(t, "{uri}") && !target_names(t, "{socket}"))
		return cli_usage_error(run->cli,
		                       "the command names neither {uri} nor {socket}: put one where the client "
		                       "takes the server's address");
	t->again = again_text(run);
	return take_tls_of_client(run);
}

static int
take_target(struct server_run *run)
{
	struct cli *cli = run->cli;

	if (run->export_name != NULL && strlen(run->export_name) > NBD_MAX_STRING)
		return cli_usage_error(cli, "--export: the name has %zu bytes; allowed are %u",
		                       strlen(run->export_name), NBD_MAX_STRING);
	if (run->suite == SUITE_CLIENT || run->suite == SUITE_DRIVER || run->suite == SUITE_EXPLORE_CLIENT)
		return take_client(run);
	if (cli->program != NULL && cli->n_args > 0)
		return cli_usage_error(cli, "'%s': give a URI or a command to start, not both", cli->args[0]);
	if (cli->program != NULL)
		return take_program(run);
	if (run->suite == SUITE_DURABILITY)
		return cli_usage_error(cli,
		                       "want -- and the command that starts the server: it dies at every power cut");
	if (cli->n_args > 1)
		return cli_usage_error(cli, "'%s': one URI only; a command to start stands behind --", cli->args[1]);
	if (cli->n_args == 0)
		return cli_usage_error(
			cli, "want a URI, such as nbd+unix:///?socket=/run/nbd.sock, or -- and a server's command");
	return take_uri(run);
}

static int
check_paths(const struct server_run *run)
{
	const char *paths[MOST_REPORTS + 5];
	size_t n = 0;
	struct stat st;

	for (; n < run->n_outputs; n++)
		paths[n] = run->outputs[n].path;
	paths[n++] = run->trace_path;
	paths[n++] = run->pcapng_path;
	paths[n++] = run->expect_path;
	paths[n++] = run->baseline_path;
	paths[n++] = run->write_expect_path;
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < i && paths[i] != NULL; k++)
			if (paths[k] != NULL && cli_same_file(paths[i], paths[k]))
				return cli_usage_error(run->cli, "%s is named twice: each file has one use", paths[i]);
	if (run->write_expect_path != NULL && stat(run->write_expect_path, &st) == 0 && S_ISREG(st.st_mode))
		return cli_usage_error(run->cli,
		                       "--write-expect %s: it exists, and its reasons would be lost; name a new file",
		                       run->write_expect_path);
	return 0;
}

static int
take_cases(struct server_run *run)
{
	size_t n;

	for (size_t i = 0; i < run->n_globs; i++) {
		free(select_cases(run->suite, &run->globs[i], 1, &n));
		if (n == 0)
			return cli_usage_error(run->cli, "--case '%s': no case matches; 'nbdspec list' prints them all",
			                       run->globs[i]);
	}
	run->whole = select_cases(run->suite, run->globs, run->n_globs, &run->n_whole);
	if (run->n_whole == 0)
		return cli_broken(run->cli, "there are no cases");
	if (run->shards > run->n_whole)
		return cli_usage_error(run->cli, "--shard %u/%u: there are no more than %zu cases to share", run->shard,
		                       run->shards, run->n_whole);
	run->cases = run->shards > 0 ? shard_cases(run->whole, run->n_whole, run->shard, run->shards, &run->n_cases)
	                             : shard_cases(run->whole, run->n_whole, 1, 1, &run->n_cases);
	return 0;
}

static bool
is_given(const struct server_run *run, enum option_id id)
{
	for (size_t i = 0; i < run->cli->n_given; i++)
		if (run->cli->given[i].id == (int)id)
			return true;
	return false;
}

/* Of the case's process, so that no line is taken for matched by this. */
static bool
is_known(void *arg, const struct result *r)
{
	const struct server_run *run = arg;
	struct result judged = *r;

	expect_judge(run->expect, &judged, run->strict);
	return !judged.red && judged.expectation != EXPECT_NONE;
}

/* Alone, and one of its three. */
static int
take_mutation(struct server_run *run)
{
	struct exploration *e = &run->explore;
	struct mutation *m = &e->mutation;
	char error[512];

	if (m->asked + (m->only > 0) + (m->bytes != NULL) > 1)
		return cli_usage_error(run->cli, "one of --mutate, --mutate-run and --mutate-bytes, not several");
	if (e->depth >= 0 || e->walks > 0 || e->sequence != NULL || e->unchecked)
		return cli_usage_error(run->cli, "--mutate does not go with --explore: one after the other");
	if (m->bytes != NULL && (m->corpus_dir != NULL || m->new_dir != NULL))
		return cli_usage_error(run->cli, "--mutate-bytes takes nothing from a corpus, and adds nothing to one");
	if (m->new_dir != NULL && access(m->new_dir, W_OK | X_OK) != 0)
		return cli_usage_error(run->cli, "--corpus-new %s: %s", m->new_dir, strerror(errno));
	if (m->corpus_dir != NULL && !corpus_load(&m->corpus, m->corpus_dir, error))
		return cli_usage_error(run->cli, "--corpus %s", error);
	return 0;
}

static bool
is_exploration(const struct server_run *run)
{
	return run->suite == SUITE_EXPLORE || run->suite == SUITE_EXPLORE_CLIENT || run->suite == SUITE_MUTATE;
}

/* Explorations are cases of their own, and each shard is one. */
static int
take_exploration(struct server_run *run)
{
	struct exploration *e = &run->explore;
	struct mutation *m = &e->mutation;
	int status;

	if (run->suite == SUITE_DURABILITY)
		return 0;
	if (e->walks == 0 && e->depth < 0 && !m->asked && m->only == 0 && is_given(run, OPT_SEED))
		return cli_usage_error(run->cli, "--seed goes with --explore-walks or --mutate");
	if (m->asked || m->only > 0 || m->bytes != NULL) {
		status = take_mutation(run);
		if (status != 0)
			return status;
		run->suite = SUITE_MUTATE;
	} else if (m->corpus_dir != NULL || m->new_dir != NULL)
		return cli_usage_error(run->cli, "--%s goes with --mutate",
		                       m->corpus_dir != NULL ? "corpus" : "corpus-new");
	else if (e->depth >= 0 || e->walks > 0 || e->sequence != NULL)
		run->suite = run->suite == SUITE_SERVER ? SUITE_EXPLORE : SUITE_EXPLORE_CLIENT;
	else if (e->unchecked)
		return cli_usage_error(run->cli, "--unchecked goes with --explore or --explore-walks");
	else
		return 0;
	if (run->shards > 0)
		return cli_usage_error(run->cli, "--shard is for cases; an exploration is shared by -j, or by seeds of "
		                                 "its own: --explore-walks or --mutate with another --seed for each");
	e->counts = mmap(NULL, sizeof(*e->counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (e->counts == MAP_FAILED)
		return cli_broken(run->cli, "no memory to count in: %s", strerror(errno));
	run->runs = e->shards = run->runner.slots;
	run->runner.progress_ms = PROGRESS_MS;
	e->is_known = is_known;
	e->arg = run;
	run->target.explore = e;
	return 0;
}

/* Of this suite, and for somebody to tell of. */
static int
take_baseline(struct server_run *run)
{
	bool told = false;
	char error[512];

	for (unsigned i = 0; i < run->n_outputs; i++)
		told |= run->outputs[i].writer->compares;
	if (!told)
		return cli_usage_error(run->cli,
		                       "--baseline goes with --markdown or --github, which tell what changed");
	run->baseline = saved_read(run->baseline_path, NULL, error);
	if (run->baseline == NULL)
		return cli_broken(run->cli, "--baseline %s", error);
	if (strcmp(saved_text(run->baseline, "suite"), suite_name(run)) != 0)
		return cli_usage_error(run->cli, "--baseline %s: is a run of 'nbdspec %s'", run->baseline_path,
		                       saved_text(run->baseline, "suite"));
	return 0;
}

static int
read_command_line(struct server_run *run)
{
	char error[512];
	int status = 0;

	for (size_t i = 0; i < run->cli->n_given && status == 0; i++)
		status = take_option(run, &run->cli->given[i]);
	if (run->driver != NULL)
		run->suite = SUITE_DRIVER;
	if (status == 0)
		status = take_exploration(run);
	if (status == 0)
		status = take_cases(run);
	if (status != 0 || run->list)
		return status;
	status = take_target(run);
	if (status == 0 && (run->explore.mutation.asked || run->explore.unchecked) && run->target.tls != NULL &&
	    run->target.tls->always)
		status = cli_usage_error(run->cli, "%s goes in clear: leave out --tls, or say nbd://",
		                         run->explore.unchecked ? "--unchecked" : "--mutate");
	if (status == 0)
		status = check_paths(run);
	if (status == 0 && run->expect_path != NULL && (run->expect = expect_load(run->expect_path, error)) == NULL)
		return cli_usage_error(run->cli, "--expect %s", error);
	return status == 0 && run->baseline_path != NULL ? take_baseline(run) : status;
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

/* --require: the skip is a fail, for a reason of the user and none of the protocol text. */
static struct result
required(struct result r, char message[512])
{
	snprintf(message, 512, "--require %s, but it was skipped: %s", r.feature, r.message);
	r.message = message;
	r.verdict = VERDICT_FAIL;
	r.red = true;
	return r;
}

static void
write_expectation(struct server_run *run, const struct result *r)
{
	bool known = r->expectation == EXPECT_KNOWN || r->expectation == EXPECT_FLAKY;

	if (run->write_expect == NULL || (r->verdict != VERDICT_FAIL && r->verdict != VERDICT_WARN) || known ||
	    r->requirement == REQUIREMENT_NONE)
		return;
	/* What follows in the same way need not be shown again. */
	expect_write(run->write_expect, r, r->requirement != run->written);
	run->written = r->requirement;
}

/* One of them speaks for all: the first one of what cannot be explored, the last one of what was. */
static bool
is_of_a_shard(const struct target *t, const struct result *r)
{
	if (r->point != NULL)
		return false;
	return r->verdict == VERDICT_PASS ? r->message[0] == '\0' : r->verdict == VERDICT_SKIP && t->shard > 0;
}

/*
 * What a case about an extension finds is of the extension, though the standard may say the same. A server that dies is
 * wrong by any text.
 */
static bool
is_of_extension(const struct result *r)
{
	return (r->verdict == VERDICT_FAIL || r->verdict == VERDICT_WARN) && r->expectation == EXPECT_NONE &&
	       !r->server_died &&
	       (requirement_experimental(r->requirement) || strncmp(r->case_id, "extended", strlen("extended")) == 0);
}

static void
on_result(void *arg, const struct job *job, const struct result *came)
{
	struct server_run *run = arg;
	struct result r = *came;
	char message[512], point[512];

	if (is_exploration(run) && is_of_a_shard(job->target, came))
		return;
	/* What is known of a case is so for every seed. */
	expect_judge(run->expect, &r, run->strict);
	r.experimental = is_of_extension(&r);
	if (r.experimental && !run->experimental)
		r.red = false;
	if (run->runs > 1 && !is_exploration(run)) {
		snprintf(point, sizeof(point), "%.480s%sseed %" PRIu64, r.point != NULL ? r.point : "",
		         r.point != NULL ? ", " : "", job->target->seed);
		r.point = point;
	}
	if (r.verdict == VERDICT_SKIP && is_required(run, r.feature))
		r = required(r, message);
	run->summary.count[r.verdict]++;
	run->summary.red += r.red;
	run->summary.known +=
		(r.verdict == VERDICT_FAIL || r.verdict == VERDICT_WARN) && !r.red && r.expectation != EXPECT_NONE;
	run->summary.experimental += r.experimental && !r.red;
	run->ran += r.verdict != VERDICT_SKIP && r.verdict != VERDICT_ERROR;
	write_expectation(run, &r);
	for (unsigned i = 0; i < run->n_outputs; i++) {
		struct output *o = &run->outputs[i];

		o->writer->result(o->state, &r);
		if (o->failed == 0 && ferror(o->f))
			o->failed = errno;
	}
}

static const char *
what_is_mutated(const struct server_run *run, char text[256])
{
	const struct exploration_counts *c = run->explore.counts;
	double seconds = (double)(now_us() - c->bytes.since_us) / 1e6, left = run->explore.mutation.seconds - seconds;
	uint64_t n = c->bytes.done + c->bytes.undone;
	char pace[PROGRESS_MAX_TEXT], most[32] = "";

	if (c->bytes.planned > 0)
		snprintf(most, sizeof(most), " of %" PRIu64, c->bytes.planned);
	else
		snprintf(pace, sizeof(pace), "%.0f/s, %.0f s left", (double)n / seconds, left > 0 ? left : 0);
	snprintf(text, 256, "%" PRIu64 "%s runs, %u shapes of replies, %u findings, %s", n, most, c->bytes.shapes,
	         exploration_found(&c->bytes.told),
	         c->bytes.planned > 0 ? progress_pace(pace, n, c->bytes.planned, seconds, "") : pace);
	return text;
}

/* An exploration is one case, and may last. */
static const char *
what_is_done(const struct server_run *run, const struct case_def *running, char text[256])
{
	const struct exploration_pace *p = run->explore.counts != NULL ? run->explore.counts->pace : NULL;
	char pace[PROGRESS_MAX_TEXT];

	if (run->explore.counts != NULL && run->explore.counts->bytes.since_us > 0)
		return what_is_mutated(run, text);
	for (int i = 0; p != NULL && i < EXPLORATIONS_MOST; i++, p++)
		if (p->of == running && p->planned > 0) {
			snprintf(text, 256, "%" PRIu64 " of %" PRIu64 " %s, %s", p->done, p->planned, p->units,
			         progress_pace(pace, p->done, p->planned, (double)(now_us() - p->since_us) / 1e6, ""));
			return text;
		}
	return running->id;
}

static void
on_progress(void *arg, unsigned done, const struct case_def *running)
{
	struct server_run *run = arg;
	char text[256];
	const char *doing = what_is_done(run, running, text);

	for (unsigned i = 0; i < run->n_outputs; i++)
		if (run->outputs[i].writer->progress != NULL)
			run->outputs[i].writer->progress(run->outputs[i].state, done,
			                                 (unsigned)run->n_cases * run->runs, doing);
}

/* Of cases, those that a line of the expectation file speaks of. */
static size_t
count_meant(const char *pattern, const struct case_def *const *cases, size_t n)
{
	char id[256];
	size_t meant = 0;

	snprintf(id, sizeof(id), "%.*s", (int)strcspn(pattern, "["), pattern);
	for (size_t i = 0; i < n; i++)
		meant += fnmatch(id, cases[i]->id, 0) == 0;
	return meant;
}

/* A line is stale only where a case that it speaks of was in the run, with all its shards. */
static bool
pattern_selected(void *arg, const char *pattern)
{
	struct server_run *run = arg;

	return run->n_globs == 0 || count_meant(pattern, run->whole, run->n_whole) > 0;
}

/* Whether a line is stale is for the shard to say that has all cases which it speaks of; of those without a case, for the first. */
static bool
is_ours_to_tell(const struct server_run *run, const char *pattern)
{
	size_t meant = count_meant(pattern, run->whole, run->n_whole);

	return meant == 0 ? run->shard <= 1 : count_meant(pattern, run->cases, run->n_cases) == meant;
}

static void
on_stale(void *arg, const struct stale *s)
{
	struct server_run *run = arg;
	bool ours = is_ours_to_tell(run, s->pattern);

	run->open += !ours;
	for (unsigned i = 0; i < run->n_outputs; i++) {
		const struct output *o = &run->outputs[i];

		if (ours && o->writer->stale != NULL)
			o->writer->stale(o->state, s);
		else if (!ours && o->writer->open_line != NULL)
			o->writer->open_line(o->state, s);
	}
}

/* ---- files ---- */

static bool
is_stdout(const struct output *o)
{
	return strcmp(o->path, "-") == 0;
}

static bool
open_trace(struct server_run *run)
{
	struct trace trace;

	if (run->trace_path == NULL)
		return true;
	/* Not O_APPEND: sendfile refuses it, and nobody else writes here. */
	run->runner.trace_fd = open(run->trace_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (run->runner.trace_fd >= 0 && trace_start(&trace, run->runner.trace_fd, 1u << 16) == 0)
		return true;
	cli_broken(run->cli, "%s: %s", run->trace_path, strerror(errno));
	return false;
}

static uint64_t
real_time_at_zero(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec - now_ns();
}

static void
on_traced(void *arg, struct wire records)
{
	struct server_run *run = arg;

	errno = 0;
	pcapng_add(run->pcapng, records);
	if (ferror(run->pcapng_file) && run->pcapng_failed == 0)
		run->pcapng_failed = errno;
}

static bool
open_pcapng(struct server_run *run)
{
	if (run->pcapng_path == NULL)
		return true;
	run->pcapng_file = cli_create(run->cli, run->pcapng_path);
	if (run->pcapng_file == NULL)
		return false;
	run->pcapng = pcapng_new(run->pcapng_file, real_time_at_zero());
	run->runner.traced = on_traced;
	return true;
}

/* False where it could not be written whole, which is said. */
static bool
close_pcapng(struct server_run *run)
{
	int failed = run->pcapng_failed;

	if (run->pcapng_file == NULL)
		return true;
	pcapng_free(run->pcapng);
	if (failed == 0 && fflush(run->pcapng_file) != 0)
		failed = errno;
	fclose(run->pcapng_file);
	if (failed != 0)
		cli_broken(run->cli, "%s: the capture could not be written whole: %s", run->pcapng_path,
		           strerror(failed));
	return failed == 0;
}

/* Without another report of ours on standard output it gets what a person reads there, or a program. */
static void
add_stdout(struct server_run *run)
{
	const char *name = isatty(STDOUT_FILENO) ? "text" : "tap";

	for (unsigned i = 0; i < run->n_outputs; i++)
		if (is_stdout(&run->outputs[i]))
			return;
	if (!run->quiet)
		run->outputs[run->n_outputs++] = (struct output){ .writer = report_named(name), .path = "-" };
}

static bool
open_files(struct server_run *run, const struct run_info *info)
{
	bool ok = open_trace(run) && open_pcapng(run);
	unsigned n = 0;

	if (ok && run->write_expect_path != NULL)
		ok = (run->write_expect = cli_create(run->cli, run->write_expect_path)) != NULL;
	for (; ok && n < run->n_outputs; n++) {
		struct output *o = &run->outputs[n];

		o->f = is_stdout(o) ? stdout : cli_create(run->cli, o->path);
		ok = o->f != NULL;
	}
	for (unsigned i = 0; i < n; i++)
		if (ok)
			run->outputs[i].state = run->outputs[i].writer->open(run->outputs[i].f, info);
		else if (run->outputs[i].f != NULL)
			cli_discard(run->outputs[i].f, run->outputs[i].path);
	if (!ok && run->pcapng != NULL) {
		pcapng_free(run->pcapng);
		cli_discard(run->pcapng_file, run->pcapng_path);
	}
	if (!ok && run->write_expect != NULL)
		cli_discard(run->write_expect, run->write_expect_path);
	if (ok && run->write_expect != NULL)
		fprintf(run->write_expect,
		        "# Deviations of %s, as nbdspec " NBDSPEC_VERSION " saw them: write the reason of each.\n",
		        info->target);
	return ok;
}

static bool
close_output(struct server_run *run, struct output *o)
{
	int failed = o->failed;

	o->writer->finish(o->state, &run->summary);
	if ((fflush(o->f) != 0 || ferror(o->f)) && failed == 0)
		failed = errno;
	if (failed == 0 && o->f != stdout && fclose(o->f) != 0)
		failed = errno;
	else if (failed != 0)
		cli_discard(o->f, o->path);
	if (failed != 0)
		cli_broken(run->cli, "%s: the report could not be written whole: %s",
		           is_stdout(o) ? "standard output" : o->path, strerror(failed));
	return failed == 0;
}

static bool
close_write_expect(struct server_run *run)
{
	FILE *f = run->write_expect;

	if (f == NULL)
		return true;
	if (run->summary.interrupted || run->summary.broken != NULL)
		fputs("# The run ended early: there may be more.\n", f);
	if (fflush(f) == 0 && !ferror(f) && fclose(f) == 0)
		return true;
	cli_broken(run->cli, "%s: %s", run->write_expect_path, strerror(errno));
	return false;
}

static bool
close_files(struct server_run *run)
{
	bool ok = close_write_expect(run);

	for (unsigned i = 0; i < run->n_outputs; i++)
		ok &= close_output(run, &run->outputs[i]);
	return ok;
}

/* ---- the run ---- */

/* The options that weigh, but for those that the target's own text has, and that are not `but`. */
static void
put_weighing(FILE *f, const struct server_run *run, int but)
{
	static const enum option_id mine[] = { OPT_STRICT, OPT_EXPERIMENTAL, OPT_REQUIRE, OPT_DESTRUCTIVE, OPT_FRESH,
		                               OPT_WAIVED, OPT_PAIRWISE,     OPT_CROWD,   OPT_RELOAD,      OPT_SEED,
		                               0 };

	for (size_t i = 0; i < run->cli->n_given; i++) {
		const struct cli_given *g = &run->cli->given[i];
		char *words[] = { NULL, (char *)g->value, NULL }, *quoted;

		if (g->id == but || (!is_among(g->id, mine) && !(run->target.via == VIA_URI && is_among(g->id, kept))))
			continue;
		words[0] = option_word(g);
		quoted = shell_quote(words);
		fprintf(f, "%s ", quoted);
		free(quoted);
		free(words[0]);
	}
}

/* What is equal for all shards of a run: how its cases are selected, its options, and the peer's command, not its address. */
static void
put_how(FILE *f, const struct server_run *run)
{
	for (size_t i = 0; i < run->n_globs; i++) {
		char *quoted = shell_quote((char *const[]){ run->globs[i], NULL });

		fprintf(f, "-c %s ", quoted);
		free(quoted);
	}
	if (run->suite == SUITE_DURABILITY)
		fprintf(f, "--seed %" PRIu64 " --runs %u ", run->target.seed, run->runs);
	put_weighing(f, run, OPT_SEED);
	fputs(run->target.via == VIA_URI ? "URI" : run->target.again, f);
}

/* What runs one of the cases again, as this run does. */
static void
put_rerun(FILE *f, const struct server_run *run)
{
	put_weighing(f, run, 0);
	fputs(run->target.again, f);
}

static char *
text_of(const struct server_run *run, void (*put)(FILE *f, const struct server_run *run))
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (f == NULL)
		abort();
	put(f, run);
	if (fclose(f) != 0)
		abort();
	return text;
}

static void
run_all(struct server_run *run)
{
	size_t n = run->n_cases * run->runs;
	struct job *jobs = calloc(n, sizeof(*jobs));
	struct target *targets = calloc(run->runs, sizeof(*targets));
	uint64_t from;
	struct run_end end;

	if (jobs == NULL || targets == NULL)
		abort();
	for (unsigned k = 0; k < run->runs; k++) {
		targets[k] = run->target;
		if (is_exploration(run))
			targets[k].shard = k;
		else
			targets[k].seed += k;
	}
	for (size_t i = 0; i < n; i++)
		jobs[i] = (struct job){ .def = run->cases[i % run->n_cases], .target = &targets[i / run->n_cases] };
	from = now_us();
	end = run_jobs(&run->runner, jobs, n);
	run->summary.duration_us = now_us() - from;
	run->summary.interrupted = end.interrupted;
	run->summary.broken = end.broken;
	run->trace_failed = end.trace_failed;
	/* Of a shard, the others may have run some. */
	if (!end.interrupted && end.broken == NULL && run->shards == 0 && run->ran == 0 && run->summary.red == 0 &&
	    run->summary.count[VERDICT_ERROR] == 0 &&
	    asprintf((char **)&run->summary.broken, "no case ran: all %u were skipped",
	             run->summary.count[VERDICT_SKIP]) < 0)
		abort();
	if (!end.interrupted && end.broken == NULL) {
		run->summary.stale = expect_stale(run->expect, pattern_selected, run, on_stale) - run->open;
		run->summary.red += run->summary.stale;
	}
	free(jobs);
	free(targets);
}

/* Who sees our standard error has just read a report that says the same. */
static bool
told_on_terminal(const struct server_run *run)
{
	bool told = false;

	for (unsigned i = 0; i < run->n_outputs; i++)
		told |= is_stdout(&run->outputs[i]) && strcmp(run->outputs[i].writer->name, "text") == 0;
	return told && isatty(STDOUT_FILENO) && isatty(STDERR_FILENO);
}

static int
status_of(struct server_run *run, bool written)
{
	const struct run_summary *s = &run->summary;
	char text[256];

	if (run->trace_failed != 0) {
		cli_broken(run->cli, "%s: the trace could not be written whole: %s", run->trace_path,
		           strerror(run->trace_failed));
		written = false;
	}
	if (s->interrupted && run->suite == SUITE_MUTATE)
		fprintf(stderr, "nbdspec server: interrupted: %s\n", what_is_done(run, run->cases[0], text));
	if (s->interrupted)
		return STATUS_INTERRUPTED;
	if (s->broken != NULL && told_on_terminal(run) && strchr(s->broken, '\n') == NULL)
		return STATUS_BROKEN;
	if (s->broken != NULL)
		return cli_broken(run->cli, "%s", s->broken);
	if (!written || s->count[VERDICT_ERROR] > 0)
		return STATUS_BROKEN;
	return s->red > 0 ? STATUS_FAILED : STATUS_OK;
}

static int
conduct(struct server_run *run)
{
	char *name = target_describe(&run->target), *again = text_of(run, put_rerun), *how = text_of(run, put_how);
	struct run_shard shard = {
		.number = run->shard, .of = run->shards, .cases = (unsigned)run->n_whole * run->runs, .how = how
	};
	struct run_info info = { .command = run->cli->line,
		                 .target = run->target_name ? run->target_name : name,
		                 .suite = suite_name(run),
		                 .version = NBDSPEC_VERSION,
		                 .again = again,
		                 .started = (uint64_t)time(NULL),
		                 .n_cases = (unsigned)run->n_cases * run->runs,
		                 .strict = run->strict,
		                 .expect = run->expect_path,
		                 .shard = run->shards > 0 ? &shard : NULL,
		                 .baseline = run->baseline,
		                 .baseline_path = run->baseline_path };
	sigset_t stop = stop_signals();
	int status = STATUS_BROKEN;

	/* From here on they end the run, not us: the reports are finished first. */
	sigprocmask(SIG_BLOCK, &stop, NULL);
	signal(SIGXFSZ, SIG_IGN); /* of the trace as well */
	add_stdout(run);
	if (open_files(run, &info)) {
		run_all(run);
		status = status_of(run, close_pcapng(run) & close_files(run));
		free((char *)run->summary.broken);
	}
	if (run->runner.trace_fd >= 0)
		close(run->runner.trace_fd);
	free(how);
	free(again);
	free(name);
	return status;
}

static int
run_suite(struct cli *cli, enum suite suite)
{
	struct server_run run = { .cli = cli,
		                  .runs = 1,
		                  .suite = suite,
		                  .explore = { .depth = -1 },
		                  .target = { .size = suite == SUITE_CLIENT ? 1u << 20 : 64u << 20,
		                              .factor = 1,
		                              .export_name = "",
		                              .seed = 1,
		                              .cuts = suite == SUITE_DURABILITY,
		                              .fresh = suite == SUITE_DURABILITY },
		                  .runner = { .slots = 1,
		                              .trace_fd = -1,
		                              .in_turn = suite != SUITE_CLIENT,
		                              .transcripts = true,
		                              .result = on_result,
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
	if (run.target.driver)
		free(run.target.program);
	target_tls_free(run.target.tls);
	uri_free(&run.target.uri);
	free((char *)run.target.again);
	free(run.globs);
	free(run.cases);
	free(run.whole);
	json_decref(run.baseline);
	return status;
}

static int
run_server(struct cli *cli)
{
	return run_suite(cli, SUITE_SERVER);
}

static int
run_durability(struct cli *cli)
{
	return run_suite(cli, SUITE_DURABILITY);
}

COMMAND(server) = {
	.name = "server",
	.usage = "[OPTION]... URI | [OPTION]... -- COMMAND... | [OPTION]... [ COMMAND... ]",
	.summary = "test a server",
	.help = "The server runs already (URI), or nbdspec starts it, as often as it needs: COMMAND may have the "
		"placeholders\n" TARGET_PLACEHOLDERS "; {file} is a new empty image.\n"
		"In '[ COMMAND ]' the server takes its listening socket from systemd socket activation.\n\n"
		"  nbdspec server nbd://localhost/\n"
		"  nbdspec server -- qemu-nbd -t -f raw -k {socket} {file}\n"
		"  nbdkit memory 64M --run 'nbdspec server --destructive $uri'\n",
	.options = server_options,
	.takes_program = true,
	.run = run_server,
};

COMMAND(durability) = {
	.name = "durability",
	.usage = "[OPTION]... -- COMMAND...",
	.summary = "cut the power below a server, and see what it had promised",
	.help = "nbdspec starts the server over a fake disk that loses at a power cut whatever was not made durable. "
		"COMMAND\n"
		"has {file}, which is on that disk, or {uri}, which is the disk itself, for a server that is a client "
		"of\n"
		"another; and as for 'nbdspec server' {socket} {port} {size} {export} {dir}. Without {file} and {uri} "
		"{dir}\n"
		"is an empty directory of a filesystem on that disk (512M, or --size), for a server with several "
		"files.\n"
		"--prepare runs once for each case, and what it makes is durable; --check runs after each cut.\n\n"
		"  nbdspec durability -- qemu-nbd -t -f raw -k {socket} {file}\n"
		"  nbdspec durability -- nbdkit -f -U {socket} nbd uri={uri}\n"
		"  nbdspec durability --prepare 'truncate -s 32M {dir}/a {dir}/b' -- nbdkit -f -U {socket} split "
		"{dir}/a {dir}/b\n",
	.options = durability_options,
	.takes_program = true,
	.run = run_durability,
};

static int
run_client(struct cli *cli)
{
	return run_suite(cli, SUITE_CLIENT);
}

COMMAND(client) = {
	.name = "client",
	.usage = "[OPTION]... -- COMMAND... | [OPTION]... --driver PROGRAM [--] [ARG]...",
	.summary = "test a client",
	.help = "Each case serves an export in a way of its own, runs COMMAND, and judges it by what it sends, its "
		"exit "
		"status,\n"
		"and the copy that it makes. COMMAND may have the placeholders " TARGET_CLIENT_PLACEHOLDERS ";\n"
		"{in} is a file of the export's size to be copied to it, {out} a file that is not there and gets the "
		"export's data.\n"
		"{certs} is a directory with the client's certificate and the authority's, {psk} a file with the key "
		"of the "
		"user nbdspec.\n"
		"A driver (docs/driver-protocol.md) does with a client library what the cases ask, one by one: there "
		"are more cases,\n"
		"and what the client tells its user is judged, too.\n\n"
		"  nbdspec client -- nbdinfo {uri}\n"
		"  nbdspec client -- nbdcopy {uri} {out}\n"
		"  nbdspec client -- nbdcopy --flush {in} {uri}\n"
		"  nbdspec client --driver build/drivers/libnbd\n"
		"  nbdspec client --tls -- nbdinfo {uri}\n",
	.options = client_options,
	.takes_program = true,
	.run = run_client,
};
