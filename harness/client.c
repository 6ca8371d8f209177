#include "harness/client.h"

#include "harness/clock.h"
#include "harness/file.h"
#include "harness/process.h"
#include "harness/test_private.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RUN_MS = 10000 };

struct client {
	struct test *t;
	struct server *at; /* what the runner has made ready; the process is ours */
	char *log;         /* what it prints */
};

struct client *
client_new(struct test *t)
{
	struct client *c = calloc(1, sizeof(*c));

	if (c == NULL)
		abort();
	c->t = t;
	c->at = &t->private->cut;
	*c->at = *t->private->server;
	c->at->pid = 0;
	c->log = join_path(c->at->dir, "output");
	if (asprintf(&c->at->uri, "nbd+unix:///%s?socket=%s", c->at->target->export_name, c->at->socket) < 0)
		abort();
	return c;
}

int
client_listen(struct client *c)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (strlen(c->at->socket) >= sizeof(un.sun_path))
		harness_error(c->t, "%s: too long for a Unix socket; set TMPDIR to a shorter path", c->at->socket);
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", c->at->socket);
	unlink(c->at->socket);
	if (fd < 0 || bind(fd, (struct sockaddr *)&un, sizeof(un)) != 0 || listen(fd, 64) != 0)
		harness_error(c->t, "cannot make a socket: %s", strerror(errno));
	return fd;
}

void
client_start(struct client *c)
{
	char error[512];

	unlink(c->at->out);
	unlink(c->log);
	if (!client_spawn(c->at, error))
		harness_error(c->t, "the client could not be started: %s", error);
	note(c->t, "the client is started");
}

int
client_pidfd(const struct client *c)
{
	return c->at->pidfd;
}

/* Of the process itself, "(name) S"; what it has started is not looked at. */
bool
client_is_waiting(const struct client *c)
{
	char path[64], text[512] = "", *end;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%ld/stat", (long)c->at->pid);
	f = fopen(path, "re");
	if (f == NULL)
		return false;
	(void)!fgets(text, sizeof(text), f);
	fclose(f);
	end = strrchr(text, ')');
	return end != NULL && strncmp(end, ") S", 3) == 0;
}

static char *
in_words(const struct client_end *e, int signal_number, char *tail)
{
	char how[128], *text;

	if (e->killed)
		snprintf(how, sizeof(how), "the client did not end");
	else if (signal_number != 0)
		snprintf(how, sizeof(how), "the client was killed by signal %d (%s)", signal_number,
		         strsignal(signal_number));
	else
		snprintf(how, sizeof(how), "the client ended with exit status %d", e->status);
	if (asprintf(&text, "%s%s%s", how, *tail != '\0' ? "; it printed: " : "", tail) < 0)
		abort();
	return text;
}

struct client_end
client_finish(struct client *c)
{
	struct pollfd ended = { .fd = c->at->pidfd, .events = POLLIN };
	struct client_end e = { .status = -1 };
	char *tail;
	int status = 0;

	e.killed = poll(&ended, 1, 0) == 0;
	if (e.killed)
		kill(-c->at->pid, SIGKILL);
	kill(c->at->pid, e.killed ? SIGKILL : 0);
	waitpid(c->at->pid, &status, 0);
	end_marked_children(c->at->dir);
	close(c->at->pidfd);
	c->at->pid = 0;
	c->at->pidfd = -1;
	e.signal = !e.killed && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	e.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	tail = server_stderr(c->at, 2);
	e.text = in_words(&e, e.signal, tail);
	free(tail);
	note(c->t, "%s", e.text);
	return e;
}

const char *
client_in(const struct client *c)
{
	return target_names(c->at->target, "{in}") ? c->at->file : NULL;
}

const char *
client_out(const struct client *c)
{
	return target_names(c->at->target, "{out}") ? c->at->out : NULL;
}

uint64_t
client_size(const struct client *c)
{
	return c->at->target->size;
}

const char *
client_export(const struct client *c)
{
	return c->at->target->export_name;
}

int
client_limit_ms(const struct client *c)
{
	return (int)(RUN_MS * c->at->target->factor);
}

struct trace *
client_trace(struct client *c)
{
	return &c->t->private->trace;
}
