/* nbdspec mark: a workload that is being recorded says what it has promised. */
#include "harness/cli.h"
#include "harness/crash/record.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { TEXT_MOST = 4096, ANSWER_MS = 30000, AGAIN_MS = 5, TRIES = ANSWER_MS / AGAIN_MS };

static const struct cli_option options[] = { { 0 } };

/* It takes a limited number of clients at once, and closes the others. */
static bool
set_mark(const char *path, const char *text)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct timeval limit = { ANSWER_MS / 1000, 0 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char answer[3];
	bool ok;

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	ok = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0 &&
	     connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0 && dprintf(fd, "mark %s\n", text) > 0;
	if (ok) {
		errno = ECONNRESET;
		ok = recv(fd, answer, sizeof(answer), MSG_WAITALL) == sizeof(answer) && memcmp(answer, "ok\n", 3) == 0;
	}
	if (fd >= 0)
		close(fd);
	return ok;
}

static int
run_mark(struct cli *cli)
{
	const char *path = getenv(MARK_SOCKET_ENV);

	if (cli->n_args != 1)
		return cli_usage_error(cli, "want one text; quote it when it has blanks");
	if (cli->args[0][0] == '\0' || strchr(cli->args[0], '\n') != NULL || strlen(cli->args[0]) > TEXT_MOST)
		return cli_usage_error(cli, "want one line, of 1 to %d bytes", TEXT_MOST);
	if (strncmp(cli->args[0], "nbdspec: ", 9) == 0)
		return cli_usage_error(cli, "'nbdspec: ' begins the marks that nbdspec itself sets");
	if (path == NULL || *path == '\0')
		return cli_broken(cli, "%s is not set: no 'nbdspec crash record' has started this", MARK_SOCKET_ENV);
	/* It may close before we have written. */
	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < TRIES; i++) {
		if (set_mark(path, cli->args[0]))
			return STATUS_OK;
		if (errno != ECONNRESET && errno != EPIPE)
			break;
		poll(NULL, 0, AGAIN_MS);
	}
	return cli_broken(cli, "%s: %s: the recording that has started this is over", path, strerror(errno));
}

COMMAND(mark) = {
	.name = "mark",
	.usage = "TEXT",
	.summary = "set a mark in the recording of the workload that runs this",
	.help = "When it returns, the mark stands behind every reply that the workload had got, and before\n"
		"every request that it has not sent yet.\n",
	.options = options,
	.run = run_mark,
};
