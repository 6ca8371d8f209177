/*
 * A session that nbd-client sets up, from the handshake to the kernel, by netlink. It is looked at from outside: how it ends,
 * what it says, and which connections are there when it has ended.
 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM "/usr/sbin/nbd-client"
enum { WORDS_MOST = 12, PORTS_MOST = 256, TRIES = 2000, TRY_US = 500, ESTABLISHED = 1, TIME_WAIT = 6 };

/* ---- connections ---- */

/* The local ports of our connections to the server, with the states of TCP. */
struct ports {
	unsigned n;
	struct {
		unsigned number, state;
	} port[PORTS_MOST];
};

static void
find_ports(struct ports *p)
{
	unsigned from, to, state;
	FILE *f = fopen("/proc/net/tcp", "re");
	char line[256];

	p->n = 0;
	while (f != NULL && p->n < PORTS_MOST && fgets(line, sizeof(line), f) != NULL)
		if (sscanf(line, " %*u: %*x:%x %*x:%x %x", &from, &to, &state) == 3 && to == SERVER_PORT) {
			p->port[p->n].number = from;
			p->port[p->n++].state = state;
		}
	if (f != NULL)
		fclose(f);
}

/* 0: it is gone. */
static unsigned
state_of(const struct ports *p, unsigned number)
{
	for (unsigned i = 0; i < p->n; i++)
		if (p->port[i].number == number)
			return p->port[i].state;
	return 0;
}

/* Those that were not there before are the session's: nobody else connects meanwhile. */
static void
note_ports(struct device *d, const struct ports *before)
{
	struct ports now;

	find_ports(&now);
	d->n_ports = 0;
	for (unsigned i = 0; i < now.n && d->n_ports < CONNECTIONS_MOST; i++)
		if (state_of(before, now.port[i].number) == 0)
			d->ports[d->n_ports++] = now.port[i].number;
}

bool
nbd_client_is_lost(const struct device *d)
{
	struct ports now;

	find_ports(&now);
	for (unsigned i = 0; i < d->n_ports; i++)
		if (state_of(&now, d->ports[i]) == ESTABLISHED)
			return false;
	return true;
}

static bool
is_through(const struct device *d)
{
	struct ports now;

	find_ports(&now);
	for (unsigned i = 0; i < d->n_ports; i++) {
		unsigned state = state_of(&now, d->ports[i]);

		if (state != 0 && state != TIME_WAIT)
			return false;
	}
	return true;
}

/* What was sent has arrived when the server has closed, too. One that does not is not waited for for ever. */
static void
await_end(const struct device *d)
{
	for (unsigned i = 0; i < TRIES * time_factor && !is_through(d); i++)
		usleep(TRY_US);
}

/* ---- the program ---- */

_Noreturn static void
be_program(const char *const *words, int out)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(out, 1);
	dup2(out, 2);
	execv(PROGRAM, (char *const *)words);
	_exit(127);
}

/* What it says of an error; else its last line. */
static void
take_words(int from, char *text, size_t size)
{
	char line[256];
	bool told = false;
	FILE *f = fdopen(from, "r");

	*text = '\0';
	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		if (told || *line == '\0')
			continue;
		told = strstr(line, "Error") != NULL || strstr(line, "E: ") != NULL;
		snprintf(text, size, "%.*s", (int)size - 1, line);
	}
	if (f != NULL)
		fclose(f);
}

static void
run(const char *const *words, struct failure *why)
{
	int out[2], status = 0;
	pid_t pid;

	if (pipe2(out, O_CLOEXEC) != 0 || (pid = fork()) < 0) {
		*why = (struct failure){ "EAGAIN", "nbd-client cannot be started" };
		return;
	}
	if (pid == 0)
		be_program(words, out[1]);
	close(out[1]);
	take_words(out[0], why->text, sizeof(why->text));
	waitpid(pid, &status, 0);
	if (status == 0)
		return;
	/* Whoever has nobody left to talk to may well end by that. */
	snprintf(why->name, sizeof(why->name), "%s",
	         !WIFSIGNALED(status)          ? "EIO"
	         : WTERMSIG(status) == SIGPIPE ? "EPIPE"
	                                       : CLIENT_DIED);
	if (WIFSIGNALED(status))
		snprintf(why->text, sizeof(why->text), "nbd-client was killed by signal %d", WTERMSIG(status));
}

bool
nbd_client_connect(struct device *d, const char *export, unsigned connections, struct failure *why)
{
	char number[16], timeout[16], path[32];
	const char *words[WORDS_MOST] = { "nbd-client", "-N", export, SERVER, path, "-C", number };
	struct ports before;

	why->name[0] = '\0';
	snprintf(path, sizeof(path), "/dev/%s", d->name);
	snprintf(number, sizeof(number), "%u", connections);
	snprintf(timeout, sizeof(timeout), "%u", d->timeout);
	if (d->timeout != 0) {
		words[7] = "-t";
		words[8] = timeout;
	}
	find_ports(&before);
	run(words, why);
	note_ports(d, &before);
	if (why->name[0] != '\0')
		await_end(d);
	return why->name[0] == '\0';
}

int
nbd_client_disconnect(const struct device *d)
{
	char path[32];
	struct failure why = { "", "" };

	snprintf(path, sizeof(path), "/dev/%s", d->name);
	run((const char *const[]){ "nbd-client", "-d", path, NULL }, &why);
	await_end(d);
	return why.name[0] == '\0' ? 0 : EIO;
}
