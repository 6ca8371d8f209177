/*
 * nbdspec crash record: a workload over a disk of ours, with all that it writes from the first byte on, in a trace that
 * `nbdspec crash explore` reads (docs/recording.md).
 */
#include "harness/crash/record.h"

#include "harness/cli.h"
#include "harness/clock.h"
#include "harness/crash/record_file.h"
#include "harness/file.h"
#include "harness/filesystem.h"
#include "harness/lower.h"
#include "harness/process.h"
#include "harness/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OPT_OUTPUT = 1, OPT_SIZE, OPT_FS, OPT_MKFS, OPT_MOUNT, OPT_PREPARE, OPT_SYNC, OPT_MEMORY, OPT_QUIET };

static const struct cli_option options[] = {
	{ "output", 'o', "TRACE", "where the recording goes (default: crash.trace)", OPT_OUTPUT, false },
	{ "size", 0, "SIZE", "of the disk (default: 64M, or what the filesystem needs)", OPT_SIZE, false },
	{ "fs", 0, "NAME", "the filesystem of {mount}: ext4 (default), xfs or btrfs", OPT_FS, false },
	{ "mkfs-options", 0, "WORDS", "more words for mkfs", OPT_MKFS, false },
	{ "mount-options", 0, "LIST", "more mount options, with commas between them", OPT_MOUNT, false },
	{ "prepare", 0, "SHELL", "run this first; what it leaves is durable before any power cut", OPT_PREPARE, false },
	{ "sync", 0, NULL, "write back at the end what the workload left in the page cache, as the kernel does in time",
	  OPT_SYNC, false },
	{ "memory", 0, "SIZE", "memory that is made ready for what is written faster than TRACE takes it", OPT_MEMORY,
	  false },
	{ "quiet", 'q', NULL, "do not print what was recorded", OPT_QUIET, false },
	{ 0 },
};

enum kind { KIND_NONE, KIND_URI, KIND_FILE, KIND_MOUNT };
static const char *const places[] = { NULL, "{uri}", "{file}", "{mount}" };

enum {
	SETUP_MS = 60000,
	END_MS = 5000,
	STORE_MS = 10000,
	STORED_A_MS = 10 << 10 /* bytes */,
	MARK_FD = 9,
	MOST_CHILDREN = 1024
};

struct record {
	struct cli *cli;
	const char *output, *prepare, *mkfs, *mount_options, *memory;
	struct filesystem fs;           /* .name is NULL without one; its .mkfs and .options are ours */
	unsigned long long size, waits; /* bytes; so many may still be in memory at the end */
	bool sync, quiet;
	enum kind kind;
	char *dir; /* removed at the end, by the guard where we are killed */
	pid_t guard;
	struct lower *lower;
	struct new_file trace;
	char before[512]; /* the server's counters when the workload began */
	uint64_t began_ns;
	int workload; /* wait status */
};

/* ---- the command line ---- */

static int
read_option(struct record *r, int id, const char *value)
{
	char error[256];

	switch (id) {
	case OPT_OUTPUT:
		r->output = value;
		break;
	case OPT_SIZE:
		if (!size_parse(value, &r->size) || r->size < 4096 || r->size > INT64_MAX)
			return cli_usage_error(r->cli, "--size %s: want bytes from 4096 on, or with k, M, G, T, P",
			                       value);
		break;
	case OPT_FS:
		if (filesystem_named(value) == NULL)
			return cli_usage_error(r->cli, "--fs '%s': want " FILESYSTEM_NAMES, value);
		r->fs = *filesystem_named(value);
		break;
	case OPT_MKFS:
		r->mkfs = value;
		break;
	case OPT_MOUNT:
		r->mount_options = value;
		break;
	case OPT_PREPARE:
		r->prepare = value;
		break;
	case OPT_SYNC:
		r->sync = true;
		break;
	case OPT_MEMORY:
		if (!memory_parse(value, &r->waits, error))
			return cli_usage_error(r->cli, "--memory %s: %s", value, error);
		r->memory = value;
		break;
	case OPT_QUIET:
		r->quiet = true;
		break;
	}
	return 0;
}

/* Which places a text names: bits. */
static unsigned
places_in(const char *text)
{
	unsigned found = 0;

	for (enum kind k = KIND_URI; k <= KIND_MOUNT; k++)
		if (text != NULL && strstr(text, places[k]) != NULL)
			found |= 1u << k;
	return found;
}

static int
read_kind(struct record *r)
{
	unsigned found = 0;

	for (char **word = r->cli->program; *word != NULL; word++)
		found |= places_in(*word);
	if (found == 0)
		return cli_usage_error(r->cli, "the workload must name its disk: {uri}, {file} or {mount}");
	found |= places_in(r->prepare);
	if ((found & (found - 1)) != 0)
		return cli_usage_error(r->cli, "want one of {uri}, {file} and {mount}, throughout");
	while (found != 1u << r->kind)
		r->kind++;
	if (r->kind != KIND_MOUNT && (r->fs.name != NULL || r->mkfs != NULL || r->mount_options != NULL))
		return cli_usage_error(r->cli, "--fs, --mkfs-options and --mount-options go with {mount}");
	return 0;
}

static char *
joined(const char *a, const char *between, const char *b)
{
	char *text;

	if (asprintf(&text, "%s%s%s", a, b != NULL ? between : "", b != NULL ? b : "") < 0)
		abort();
	return text;
}

static int
read_command_line(struct record *r)
{
	struct cli *cli = r->cli;
	int status = 0;

	for (size_t i = 0; i < cli->n_given && status == 0; i++)
		status = read_option(r, cli->given[i].id, cli->given[i].value);
	if (status != 0)
		return status;
	if (cli->n_args > 0)
		return cli_usage_error(cli, "'%s': the workload stands behind '--'", cli->args[0]);
	if (cli->program == NULL || cli->bracket)
		return cli_usage_error(cli, "want a workload behind '--'");
	if ((status = read_kind(r)) != 0)
		return status;
	if (r->kind == KIND_MOUNT && r->fs.name == NULL)
		r->fs = *filesystem_named("ext4");
	if (r->size == 0)
		r->size = r->fs.least > 64 << 20 ? r->fs.least : 64 << 20;
	if (r->size < r->fs.least)
		return cli_usage_error(cli, "--size: %s wants %" PRIu64 " bytes at least", r->fs.name, r->fs.least);
	if (r->kind == KIND_MOUNT) {
		r->fs.mkfs = joined(r->fs.mkfs, " ", r->mkfs);
		r->fs.options = joined(r->fs.options, ",", r->mount_options);
	}
	return 0;
}

/* ---- the set-up ---- */

static const char *
place(const struct record *r)
{
	return r->kind == KIND_URI    ? lower_uri(r->lower)
	       : r->kind == KIND_FILE ? lower_file(r->lower)
	                              : lower_root(r->lower);
}

static char *
filled_in(const struct record *r, const char *text)
{
	const char *name = places[r->kind], *at;
	struct buf b = { 0 };

	for (; (at = strstr(text, name)) != NULL; text = at + strlen(name)) {
		buf_put(&b, text, (size_t)(at - text));
		put_bytes(&b, bytes_of(place(r)));
	}
	buf_put(&b, text, strlen(text) + 1);
	return (char *)b.at;
}

/* What waits in memory comes into it now. */
static bool
end_trace(struct record *r, char error[512])
{
	char reply[512];

	return lower_ask_within(r->lower, "trace end", reply, (int)(STORE_MS + r->waits / STORED_A_MS), error);
}

static int
interrupted(struct record *r)
{
	char error[512];

	if (r->trace.published)
		end_trace(r, error);
	if (r->trace.published)
		fprintf(stderr, "nbdspec crash record: interrupted; %s holds what was recorded until then\n",
		        r->output);
	else
		fprintf(stderr, "nbdspec crash record: interrupted before the workload began; nothing was recorded\n");
	return STATUS_INTERRUPTED;
}

static bool
stop_pending(void)
{
	sigset_t pending, stop = stop_signals(), both;

	sigpending(&pending);
	sigandset(&both, &pending, &stop);
	return !sigisemptyset(&both);
}

/* One line, unless it is the user who ended it. */
static int
broken(struct record *r, const char *error)
{
	return stop_pending() ? interrupted(r) : cli_broken(r->cli, "%s", error);
}

static int
prepare(struct record *r)
{
	char error[512], *command, *log, *tail;
	int status;

	if (r->prepare != NULL) {
		command = filled_in(r, r->prepare);
		log = join_path(r->dir, "prepared");
		status = run_shell(command, log, r->dir, SETUP_MS);
		tail = file_tail(log, 1);
		snprintf(error, sizeof(error), "--prepare failed: %.400s", status < 0 ? strerror(errno) : tail);
		free(command);
		free(log);
		free(tail);
		if (status != 0)
			return broken(r, error);
	}
	return lower_sync(r->lower, SETUP_MS, error) ? 0 : broken(r, error);
}

static int
set_up(struct record *r)
{
	const struct filesystem *fs = r->kind == KIND_MOUNT ? &r->fs : NULL;
	const char *lacks = r->kind == KIND_URI ? NULL : lower_lacks(fs);
	char error[512], trace[64];

	if (lacks != NULL)
		return cli_broken(r->cli, "%s: %s", places[r->kind], lacks);
	if (!new_file_open(&r->trace, r->output)) {
		snprintf(error, sizeof(error), "%.400s: %s", r->output, strerror(errno));
		return broken(r, error);
	}
	r->dir = make_guarded_dir(&r->guard, error);
	if (r->dir == NULL)
		return cli_broken(r->cli, "%s", error);
	snprintf(trace, sizeof(trace), "/proc/%ld/fd/%d", (long)getpid(), r->trace.fd);
	r->lower = lower_start(r->dir, r->kind != KIND_URI, fs, r->size, NULL, trace, r->memory, SETUP_MS, error);
	return r->lower == NULL ? broken(r, error) : prepare(r);
}

/* ---- the workload ---- */

_Noreturn static void
be_workload(const struct record *r, char **words, int marks, pid_t parent)
{
	int null = open("/dev/null", O_RDONLY);
	char number[16];

	become_child(parent);
	carry_mark(r->dir);
	dup2(null, STDIN_FILENO);
	if (null > STDERR_FILENO)
		close(null);
	if (marks == MARK_FD)
		fcntl(MARK_FD, F_SETFD, 0);
	else
		dup2(marks, MARK_FD);
	snprintf(number, sizeof(number), "%d", MARK_FD);
	setenv(MARK_SOCKET_ENV, lower_control(r->lower), 1);
	setenv(MARK_FD_ENV, number, 1);
	execvp(words[0], words);
	fprintf(stderr, "nbdspec crash record: %s: %s\n", words[0], strerror(errno));
	_exit(127);
}

/* A connection on which each line is a mark; -1 and one line. */
static int
open_marks(const struct record *r, char error[512])
{
	int fd = lower_connect(r->lower);
	char reply[3] = "";

	if (fd >= 0 && write(fd, "marks\n", 6) == 6 && read(fd, reply, 3) == 3 && memcmp(reply, "ok\n", 3) == 0)
		return fd;
	snprintf(error, 512, "the recorder takes no marks");
	if (fd >= 0)
		close(fd);
	return -1;
}

static int
run_workload(struct record *r)
{
	size_t n = 0;
	char **words, error[512] = "";
	pid_t us = getpid(), pid = -1;
	enum process_wait how = PROCESS_ENDED;
	int marks = open_marks(r, error), pidfd;

	for (; r->cli->program[n] != NULL; n++)
		;
	words = calloc(n + 1, sizeof(*words));
	if (words == NULL)
		abort();
	for (size_t i = 0; i < n; i++)
		words[i] = filled_in(r, r->cli->program[i]);
	fflush(NULL);
	if (marks >= 0 && (pid = fork()) == 0)
		be_workload(r, words, marks, us);
	if (marks >= 0 && pid < 0)
		snprintf(error, sizeof(error), "cannot start a process: %s", strerror(errno));
	for (size_t i = 0; i < n; i++)
		free(words[i]);
	free(words);
	if (marks >= 0)
		close(marks);
	if (pid < 0)
		return cli_broken(r->cli, "%s", error);
	pidfd = process_open(pid);
	how = process_wait(pidfd, -1);
	close(pidfd);
	if (how == PROCESS_INTERRUPTED)
		return interrupted(r);
	waitpid(pid, &r->workload, 0);
	return 0;
}

static int
in_words(char text[64], int wait_status)
{
	if (WIFEXITED(wait_status))
		return snprintf(text, 64, "status %d", WEXITSTATUS(wait_status));
	return snprintf(text, 64, "signal %d (%s)", WTERMSIG(wait_status), strsignal(WTERMSIG(wait_status)));
}

static int
begin(struct record *r)
{
	char error[512], reply[512];

	if (!lower_ask(r->lower, "mark " MARK_BEGIN, reply, error) ||
	    !lower_ask(r->lower, "counters", r->before, error))
		return broken(r, error);
	r->began_ns = now_ns();
	return new_file_publish(&r->trace) ? 0 : cli_broken(r->cli, "%s: %s", r->output, strerror(errno));
}

/* Behind it nothing comes into the trace: neither what the filesystem writes in its own time, nor the unmount. */
static int
finish(struct record *r, char counters[512])
{
	char error[512], reply[512], how[64], request[128];

	if (!lower_runs(r->lower))
		return cli_broken(r->cli, "the disk below the workload has died; %s holds what came before", r->output);
	if (r->sync && !lower_sync(r->lower, SETUP_MS, error))
		return broken(r, error);
	in_words(how, r->workload);
	snprintf(request, sizeof(request), "mark " MARK_END " %s", how);
	if (lower_ask(r->lower, "counters", counters, error) && lower_ask(r->lower, request, reply, error) &&
	    end_trace(r, error))
		return 0;
	return cli_broken(r->cli, "%s: the recording ended too early, and holds what came before: %s", r->output,
	                  strrchr(error, ':') != NULL ? strrchr(error, ':') + 2 : error);
}

/* ---- what is told ---- */

static uint64_t
counted(const char *counters, const char *name)
{
	const char *at = strstr(counters, name);

	return at != NULL ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static void
tell(struct record *r, const char *after)
{
	static const char *const names[] = { " requests=", " bytes-received=", " writes=", " flushes=",
		                             " fua=",      " marks=" };
	uint64_t n[sizeof(names) / sizeof(names[0])];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		n[i] = counted(after, names[i]) - counted(r->before, names[i]);
	if (!r->quiet)
		printf("%s: %" PRIu64 " commands, %" PRIu64 " bytes, %" PRIu64 " writes, %" PRIu64 " flushes, %" PRIu64
		       " with FUA, %" PRIu64 " marks, in %.3f s\n",
		       r->output, n[0], n[1], n[2], n[3], n[4], n[5], (double)(now_ns() - r->began_ns) / 1e9);
	if (n[2] == 0)
		fprintf(stderr, "nbdspec crash record: the workload has written nothing that reached the disk%s\n",
		        r->sync ? "" : "; --sync writes back what it left in the page cache");
}

static int
record(struct record *r)
{
	char after[512], how[64];
	int status = set_up(r);

	if (status == 0)
		status = begin(r);
	if (status != 0 || (status = run_workload(r)) != 0)
		return status;
	status = finish(r, after);
	if (status != 0)
		return status;
	tell(r, after);
	in_words(how, r->workload);
	if (r->workload != 0)
		return cli_broken(r->cli, "the workload ended with %s; what it did until then is in %s", how,
		                  r->output);
	return 0;
}

/*
 * All that the workload has started is a child of ours once its parent is dead. By the mark one could be missed: what is
 * just being executed has no environment.
 */
static void
end_workload(struct record *r)
{
	pid_t pids[MOST_CHILDREN];
	int64_t until = now_ms() + END_MS;
	size_t n, others = 1;

	while (others > 0 && now_ms() < until) {
		n = list_children(pids, MOST_CHILDREN);
		others = 0;
		for (size_t i = 0; i < n; i++) {
			if (pids[i] == r->guard || lower_has(r->lower, pids[i]))
				continue;
			others++;
			kill(pids[i], SIGKILL);
			waitpid(pids[i], NULL, WNOHANG);
		}
		if (others > 0)
			poll(NULL, 0, 1);
	}
}

static void
clean_up(struct record *r)
{
	if (r->dir != NULL) {
		end_workload(r);
		lower_stop(r->lower);
		end_marked_children(r->dir);
		remove_dir(r->dir);
		dismiss_guard(r->guard, r->dir);
	}
	new_file_close(&r->trace);
	if (r->kind == KIND_MOUNT && r->fs.name != NULL) {
		free((char *)r->fs.mkfs);
		free((char *)r->fs.options);
	}
	free(r->dir);
}

static int
run_record(struct cli *cli)
{
	struct record r = { .cli = cli, .output = "crash.trace", .trace.fd = -1 };
	sigset_t stop = stop_signals(), old;
	int status = read_command_line(&r);

	if (status != 0)
		return status;
	signal(SIGPIPE, SIG_IGN);
	sigprocmask(SIG_BLOCK, &stop, &old);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	status = record(&r);
	clean_up(&r);
	return status;
}

COMMAND(crash_record) = {
	.name = "crash record",
	.usage = "[OPTION]... -- WORKLOAD...",
	.summary = "record what a workload writes, for every power cut that it may meet",
	.help = "{uri} in the workload is an NBD server of ours, {file} a file on it (nbdfuse), {mount} a new\n"
		"filesystem on that (a loop device; takes root). A workload sets marks, which say what it has\n"
		"promised to whom, by 'nbdspec mark TEXT', or by a line on descriptor $NBDSPEC_MARK_FD.\n",
	.options = options,
	.run = run_record,
	.takes_program = true,
};
