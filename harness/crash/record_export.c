/* nbdspec crash export, crash import: recordings in the formats of others. */
#include "harness/cli.h"
#include "harness/crash/dmlog.h"
#include "harness/crash/record_file.h"
#include "harness/crash/recording.h"
#include "harness/pcapng.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPT_FORMAT = 1, OPT_SIZE };

static const struct cli_option export_options[] = {
	{ "format", 'f', "NAME", "dm-log-writes (default) or pcapng", OPT_FORMAT, false },
	{ 0 },
};

static const struct cli_option import_options[] = {
	{ "size", 0, "SIZE", "of the disk, where the log does not tell it (default: up to the last write)", OPT_SIZE,
	  false },
	{ 0 },
};

/* The whole file, or .at NULL and errno. */
static struct bytes
map_file(const char *path)
{
	struct bytes b = { NULL, 0 };
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC), failed = 0;
	void *at = MAP_FAILED;

	if (fd < 0)
		return b;
	if (fstat(fd, &st) == 0 && st.st_size == 0)
		errno = ENODATA;
	else
		at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (at != MAP_FAILED)
		b = (struct bytes){ at, (size_t)st.st_size };
	failed = errno;
	close(fd);
	errno = failed;
	return b;
}

static void
unmap(struct bytes b)
{
	if (b.at != NULL)
		munmap((void *)b.at, b.len);
}

/* ---- export ---- */

static bool
export_dmlog(const char *path, FILE *f, char error[512])
{
	struct recording r;
	char why[512] = "";
	bool ok;

	if (!recording_load(&r, path, error))
		return false;
	ok = dmlog_write(&r, f, why);
	if (!ok)
		snprintf(error, 512, "%.100s: cannot be a log of log-writes: %.350s", path, why);
	recording_free(&r);
	return ok;
}

static bool
export_pcapng(const char *path, FILE *f, char error[512])
{
	struct bytes all = map_file(path);
	struct wire w = wire_over(all);
	bool ok = all.at != NULL && trace_check(&w);
	struct pcapng *p;

	if (ok) {
		p = pcapng_new(f, 0);
		pcapng_add(p, w);
		pcapng_free(p);
	} else {
		snprintf(error, 512, "%.400s: %s", path,
		         all.at == NULL && errno != ENODATA ? strerror(errno) : "is not a trace of nbdspec");
	}
	unmap(all);
	return ok;
}

static int
write_export(struct cli *cli, bool (*run)(const char *, FILE *, char *))
{
	struct new_file file;
	char error[512] = "";
	FILE *f = NULL;
	int status = 0, copy;

	if (!new_file_open(&file, cli->args[1]) || (copy = dup(file.fd)) < 0 || (f = fdopen(copy, "w")) == NULL)
		status = cli_broken(cli, "%s: %s", cli->args[1], strerror(errno));
	else if (!run(cli->args[0], f, error))
		status = cli_usage_error(cli, "%s", error);
	if (status == 0 && (ferror(f) || fflush(f) != 0 || !new_file_publish(&file)))
		status = cli_broken(cli, "%s: %s", cli->args[1], strerror(errno));
	if (f != NULL)
		fclose(f);
	new_file_close(&file);
	return status;
}

static int
run_export(struct cli *cli)
{
	const char *format = cli->n_given > 0 ? cli->given[0].value : "dm-log-writes";

	if (cli->n_args != 2)
		return cli_usage_error(cli, "want a trace and the file to write");
	signal(SIGXFSZ, SIG_IGN);
	if (strcmp(format, "dm-log-writes") == 0)
		return write_export(cli, export_dmlog);
	if (strcmp(format, "pcapng") == 0)
		return write_export(cli, export_pcapng);
	return cli_usage_error(cli, "--format '%s': want dm-log-writes or pcapng", format);
}

COMMAND(crash_export) = {
	.name = "crash export",
	.usage = "[--format NAME] TRACE FILE",
	.summary = "write a trace in another format: for dm-log-writes' replay-log, or for Wireshark",
	.help = "A log of log-writes has sectors of 512 bytes and one order of all commands; a recording that\n"
		"it cannot express is refused.\n",
	.options = export_options,
	.run = run_export,
};

/* ---- import ---- */

static int
import(struct cli *cli, uint64_t size)
{
	struct bytes log = map_file(cli->args[0]);
	struct trace t = { .fd = -1 };
	struct new_file file = { .fd = -1 };
	char error[512] = "";
	int status = 0;

	if (log.at == NULL)
		return cli_usage_error(cli, "%s: %s", cli->args[0],
		                       errno == ENODATA ? "is no log of log-writes" : strerror(errno));
	if (!new_file_open(&file, cli->args[1]) || trace_start(&t, file.fd, UINT32_MAX) < 0)
		status = cli_broken(cli, "%s: %s", cli->args[1], strerror(errno));
	else {
		trace_hold(&t, 0);
		if (!dmlog_read(log, size, &t, error))
			status = cli_usage_error(cli, "%s: %s", cli->args[0], error);
	}
	trace_close(&t);
	if (status == 0 && t.failed != 0)
		status = cli_broken(cli, "%s: %s", cli->args[1], strerror(t.failed));
	if (status == 0 && !new_file_publish(&file))
		status = cli_broken(cli, "%s: %s", cli->args[1], strerror(errno));
	unmap(log);
	new_file_close(&file);
	return status;
}

static int
run_import(struct cli *cli)
{
	unsigned long long size = 0;

	if (cli->n_args != 2)
		return cli_usage_error(cli, "want a log of log-writes and the trace to write");
	if (cli->n_given > 0 && (!size_parse(cli->given[0].value, &size) || size == 0 || size > INT64_MAX))
		return cli_usage_error(cli, "--size %s: want bytes, or with k, M, G, T, P", cli->given[0].value);
	signal(SIGXFSZ, SIG_IGN);
	return import(cli, size);
}

COMMAND(crash_import) = {
	.name = "crash import",
	.usage = "[--size SIZE] LOG TRACE",
	.summary = "make a trace of a log that dm-log-writes has written",
	.options = import_options,
	.run = run_import,
};
