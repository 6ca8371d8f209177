#include "harness/target.h"

#include "harness/cli.h"
#include "harness/file.h"
#include "harness/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SERVER_MARK "NBDSPEC_SERVER"

enum { START_MS = 20000, STOP_MS = 3000 };

static bool
program_has(char *const *program, const char *what)
{
	for (size_t i = 0; program != NULL && program[i] != NULL; i++)
		if (strstr(program[i], what) != NULL)
			return true;
	return false;
}

bool
target_may_write(const struct target *t)
{
	return t->destructive || t->via == VIA_FORK || program_has(t->program, "{file}") ||
	       (t->prepare != NULL && strstr(t->prepare, "{file}") != NULL);
}

const char *
target_check_program(struct target *t, const char *via, bool bracket)
{
	static const struct { const char *name; enum via via; } ways[] = {
		{ "unix", VIA_UNIX }, { "tcp", VIA_TCP }, { "stdio", VIA_STDIO }, { "activation", VIA_ACTIVATION },
	};

	if (via == NULL) {
		t->via = VIA_ACTIVATION;
		if (bracket)
			return NULL;
		t->via = program_has(t->program, "{socket}") ? VIA_UNIX : VIA_TCP;
		if (t->via == VIA_TCP && !program_has(t->program, "{port}"))
			return "the command names neither {socket} nor {port}: put one where the server takes its address, or say "
			       "--via stdio or --via activation";
		return NULL;
	}
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		if (strcmp(ways[i].name, via) == 0) {
			t->via = ways[i].via;
			return NULL;
		}
	return "--via wants one of unix, tcp, stdio, activation";
}

char *
target_describe(const struct target *t)
{
	if (t->via == VIA_URI)
		return uri_format(&t->uri);
	if (t->via == VIA_FORK)
		return strdup("fake server");
	return shell_quote(t->program);
}

/* ---- starting ---- */

static void
put_text(struct buf *b, const char *s)
{
	put_bytes(b, bytes_of(s));
}

static char *
fill(const struct server *s, const char *text)
{
	struct buf b = { 0 };
	char number[32];

	while (*text != '\0') {
		const char *value = NULL;
		size_t len = 0;

#define PLACE(name, v) (strncmp(text, name, sizeof(name) - 1) == 0 && (len = sizeof(name) - 1, value = (v)))
		snprintf(number, sizeof(number), "%u", s->port);
		if (PLACE("{socket}", s->socket) || PLACE("{file}", s->file) || PLACE("{dir}", s->dir) ||
		    PLACE("{export}", s->target->export_name) || PLACE("{port}", number) ||
		    PLACE("{size}", (snprintf(number, sizeof(number), "%llu", s->target->size), number))) {
			put_text(&b, value);
			text += len;
			continue;
		}
#undef PLACE
		buf_put(&b, text++, 1);
	}
	buf_put(&b, "", 1);
	return (char *)b.at;
}

static bool
make_file(struct server *s, char error[512])
{
	int fd = open(s->file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	bool ok = fd >= 0 && ftruncate(fd, (off_t)s->target->size) == 0;

	if (!ok)
		snprintf(error, 512, "%s: %s", s->file, strerror(errno));
	if (fd >= 0)
		close(fd);
	return ok;
}

static bool
run_prepare(struct server *s, char error[512])
{
	char *command, *log;
	bool ok;

	if (s->target->prepare == NULL)
		return true;
	command = fill(s, s->target->prepare);
	log = join_path(s->dir, "output");
	ok = run_shell(command, log) == 0;
	if (!ok) {
		char *tail = server_stderr(s, 3);

		snprintf(error, 512, "--prepare failed: %s: %s", command, tail);
		free(tail);
	}
	free(command);
	free(log);
	return ok;
}

/* A listener for socket activation or for the fake server; autobind gives it a name that no file stands for. */
static int
listen_unix(struct server *s, const char *path)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&s->address;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	s->address_len = sizeof(sa_family_t);
	un->sun_family = AF_UNIX;
	if (path != NULL) {
		snprintf(un->sun_path, sizeof(un->sun_path), "%s", path);
		s->address_len = sizeof(*un);
	}
	if (fd < 0 || bind(fd, (struct sockaddr *)un, s->address_len) != 0 || listen(fd, 64) != 0) {
		if (fd >= 0)
			close(fd);
		return -1;
	}
	s->address_len = sizeof(s->address);
	getsockname(fd, (struct sockaddr *)&s->address, &s->address_len);
	return fd;
}

static bool
choose_port(struct server *s)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&s->address;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool ok;

	*in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	s->address_len = sizeof(*in);
	ok = fd >= 0 && bind(fd, (struct sockaddr *)in, sizeof(*in)) == 0 &&
	     getsockname(fd, (struct sockaddr *)in, &s->address_len) == 0;
	s->port = ntohs(in->sin_port);
	if (fd >= 0)
		close(fd);
	return ok;
}

/* What the server's end of the connection is: for activation the listener, for stdio its half of a socket pair. */
static bool
make_address(struct server *s, int *passed, char error[512])
{
	struct sockaddr_un *un = (struct sockaddr_un *)&s->address;
	int pair[2];

	*passed = -1;
	s->stdio = -1;
	if (s->target->via == VIA_UNIX) {
		if (strlen(s->socket) >= sizeof(un->sun_path)) {
			snprintf(error, 512, "%s: too long for a Unix socket; set TMPDIR to a shorter path", s->socket);
			return false;
		}
		un->sun_family = AF_UNIX;
		snprintf(un->sun_path, sizeof(un->sun_path), "%s", s->socket);
		s->address_len = sizeof(*un);
		return true;
	}
	if (s->target->via == VIA_TCP && choose_port(s))
		return true;
	if (s->target->via == VIA_STDIO && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0) {
		s->stdio = pair[0];
		*passed = pair[1];
		s->address_len = 0;
		return true;
	}
	if (s->target->via == VIA_ACTIVATION || s->target->via == VIA_FORK)
		*passed = listen_unix(s, s->target->via == VIA_ACTIVATION ? s->socket : NULL);
	if (*passed < 0)
		snprintf(error, 512, "cannot make a socket: %s", strerror(errno));
	return *passed >= 0;
}

static void
in_child_activation(int passed)
{
	char pid[32];

	snprintf(pid, sizeof(pid), "%ld", (long)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	if (passed != 3) {
		dup2(passed, 3);
		close(passed);
	}
	fcntl(3, F_SETFD, 0);
}

_Noreturn static void
in_child(struct server *s, char **argv, int passed, int output, int report)
{
	int null = open("/dev/null", O_RDWR);
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpgid(0, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (s->target->via == VIA_FORK) {
		s->target->serve(s->target->arg, passed, s->quiet);
		_exit(0);
	}
	if (s->target->via == VIA_STDIO) {
		dup2(passed, 0);
		dup2(passed, 1);
	} else {
		dup2(null, 0);
		dup2(output, 1);
	}
	dup2(output, 2);
	report = fcntl(report, F_DUPFD_CLOEXEC, 10);	/* out of the way of descriptor 3 */
	setenv(SERVER_MARK, s->dir, 1);
	if (s->target->via == VIA_ACTIVATION)
		in_child_activation(passed);
	execvp(argv[0], argv);
	int failed = errno;
	(void)!write(report, &failed, sizeof(failed));
	_exit(127);
}

static char **
fill_program(const struct server *s)
{
	size_t n = 0;
	char **argv;

	while (s->target->program != NULL && s->target->program[n] != NULL)
		n++;
	argv = calloc(n + 1, sizeof(*argv));
	for (size_t i = 0; i < n; i++)
		argv[i] = fill(s, s->target->program[i]);
	return argv;
}

static void
free_program(char **argv)
{
	for (size_t i = 0; argv[i] != NULL; i++)
		free(argv[i]);
	free(argv);
}

/* The pipe `report` closes by itself at exec; it carries errno where exec fails. */
static bool
spawn(struct server *s, int passed, char error[512])
{
	char *log = s->dir ? join_path(s->dir, "output") : NULL;
	int output = log ? open(log, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
	char **argv = fill_program(s);
	int report[2] = { -1, -1 }, failed = 0;

	if (s->target->via != VIA_FORK && pipe2(report, O_CLOEXEC) != 0)
		report[0] = report[1] = -1;
	s->pid = fork();
	if (s->pid == 0)
		in_child(s, argv, passed, output, report[1]);
	if (s->pid < 0) {
		failed = errno;
		s->pid = 0;
	}
	if (report[1] >= 0)
		close(report[1]);
	if (s->pid > 0 && report[0] >= 0 && read(report[0], &failed, sizeof(failed)) != sizeof(failed))
		failed = 0;
	if (failed != 0)
		snprintf(error, 512, "cannot start %s: %s", argv[0] ? argv[0] : "the fake server", strerror(failed));
	if (report[0] >= 0)
		close(report[0]);
	if (output >= 0)
		close(output);
	free_program(argv);
	free(log);
	return failed == 0;
}

static char *
end_in_words(int status)
{
	char *text;

	if (WIFSIGNALED(status)) {
		if (asprintf(&text, "the server was killed by signal %d (%s)", WTERMSIG(status),
			     strsignal(WTERMSIG(status))) < 0)
			abort();
	} else if (asprintf(&text, "the server ended with exit status %d", WEXITSTATUS(status)) < 0) {
		abort();
	}
	return text;
}

/* Does the process carry our mark in its environment? The server that put itself into the background inherits it. */
static bool
has_mark(pid_t pid, const char *mark)
{
	char path[64], *text = NULL;
	size_t size = 0;
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%ld/environ", (long)pid);
	f = fopen(path, "re");
	while (f != NULL && !found && getdelim(&text, &size, '\0', f) > 0)
		found = strncmp(text, SERVER_MARK "=", sizeof(SERVER_MARK)) == 0 &&
			strcmp(text + sizeof(SERVER_MARK), mark) == 0;
	free(text);
	if (f != NULL)
		fclose(f);
	return found;
}

/* Waits until the command has ended and finds the server that it left behind; we are its reaper (runner.c). */
static bool
adopt_daemon(struct server *s, char error[512])
{
	struct pollfd p = { .fd = s->pidfd, .events = POLLIN };
	pid_t children[256];
	size_t n;
	int status;

	if (poll(&p, 1, (int)(START_MS * s->target->factor)) != 1 || waitpid(s->pid, &status, WNOHANG) != s->pid) {
		snprintf(error, 512, "--daemon: the command does not end; is it one that goes into the background?");
		return false;
	}
	close(s->pidfd);
	s->pidfd = -1;
	s->pid = 0;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		char *words = end_in_words(status), *tail = server_stderr(s, 6);

		snprintf(error, 512, "%s; it said:\n%s", words, tail);
		free(words);
		free(tail);
		return false;
	}
	n = list_children(children, 256);
	for (size_t i = 0; i < n && s->pid == 0; i++)
		if (has_mark(children[i], s->dir))
			s->pid = children[i];
	if (s->pid == 0)
		snprintf(error, 512, "--daemon: the command ended with status 0 but left no server behind");
	return s->pid != 0;
}

bool
server_start(struct server *s, const struct target *t, char error[512])
{
	struct quiet *quiet = s->quiet;
	int passed = -1;
	bool ok;

	*s = (struct server){ .target = t, .quiet = quiet, .stdio = -1, .pidfd = -1, .starting = true };
	if (t->via == VIA_URI)
		return true;
	if (t->via == VIA_FORK) {
		if (s->quiet != NULL)
			quiet_reset(s->quiet);
	} else if ((s->dir = make_private_dir(error)) == NULL) {
		return false;
	} else {
		s->socket = join_path(s->dir, "socket");
		s->file = join_path(s->dir, "disk");
	}
	ok = (s->file == NULL || !target_may_write(t) || make_file(s, error)) &&
	     make_address(s, &passed, error) && (s->dir == NULL || run_prepare(s, error)) && spawn(s, passed, error);
	if (passed >= 0)
		close(passed);
	if (ok)
		s->pidfd = (int)syscall(SYS_pidfd_open, s->pid, 0);
	if (ok && t->daemon) {
		ok = adopt_daemon(s, error);
		if (ok)
			s->pidfd = (int)syscall(SYS_pidfd_open, s->pid, 0);
	}
	if (!ok)
		server_stop(s);
	return ok;
}

/* ---- watching and ending ---- */

bool
server_running(const struct server *s)
{
	struct pollfd p = { .fd = s->pidfd, .events = POLLIN };

	if (s->target == NULL || (s->pid == 0 && s->target->via != VIA_URI))
		return false;
	return s->target->via == VIA_URI || poll(&p, 1, 0) == 0;
}

char *
server_ended(struct server *s, bool *by_fault)
{
	int status;

	if (s->pid <= 0 || waitpid(s->pid, &status, WNOHANG) != s->pid)
		return NULL;
	s->pid = 0;
	*by_fault = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
	return end_in_words(status);
}

char *
server_stderr(const struct server *s, unsigned lines)
{
	char *log, *text;

	if (s->dir == NULL)
		return strdup("");
	log = join_path(s->dir, "output");
	text = file_tail(log, lines);
	free(log);
	return text;
}

void
server_stop(struct server *s)
{
	struct pollfd p = { .fd = s->pidfd, .events = POLLIN };

	if (s->stdio >= 0)
		close(s->stdio);
	if (s->pid > 0) {
		kill(-s->pid, s->target->via == VIA_FORK ? SIGKILL : SIGTERM);
		kill(s->pid, s->target->via == VIA_FORK ? SIGKILL : SIGTERM);
		if (s->pidfd < 0 || poll(&p, 1, STOP_MS) == 0)
			kill(s->pid, SIGKILL);
		kill(-s->pid, SIGKILL);
		waitpid(s->pid, NULL, 0);
	}
	if (s->pidfd >= 0)
		close(s->pidfd);
	if (s->dir != NULL)
		remove_dir(s->dir);
	free(s->dir);
	free(s->socket);
	free(s->file);
	*s = (struct server){ .quiet = s->quiet, .stdio = -1, .pidfd = -1 };
}

/* ---- connecting ---- */

static int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int
try_connect(const struct sockaddr *address, socklen_t len)
{
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int failed;

	if (fd >= 0 && connect(fd, address, len) == 0) {
		if (address->sa_family != AF_UNIX)
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
		fcntl(fd, F_SETFL, O_NONBLOCK);
		return fd;
	}
	failed = errno;
	if (fd >= 0)
		close(fd);
	errno = failed;
	return -1;
}

static int
connect_uri(const struct nbd_uri *u, char error[512])
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = -1, e;

	if (u->transport == URI_UNIX) {
		if (strlen(u->socket) >= sizeof(un.sun_path)) {
			snprintf(error, 512, "%s: too long for a Unix socket", u->socket);
			return -1;
		}
		strcpy(un.sun_path, u->socket);
		fd = try_connect((struct sockaddr *)&un, sizeof(un));
		if (fd < 0)
			snprintf(error, 512, "cannot connect to %s: %s", u->socket, strerror(errno));
		return fd;
	}
	e = getaddrinfo(u->host, u->port, &hints, &list);
	if (e != 0) {
		snprintf(error, 512, "%s: %s", u->host, gai_strerror(e));
		return -1;
	}
	for (struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next)
		fd = try_connect(a->ai_addr, a->ai_addrlen);
	if (fd < 0)
		snprintf(error, 512, "cannot connect to %s port %s: %s", u->host, u->port, strerror(errno));
	freeaddrinfo(list);
	return fd;
}

int
server_connect(const struct server *s, bool *gone, char error[512])
{
	int64_t until = now_ms() + (int64_t)(START_MS * s->target->factor);
	struct pollfd dead = { .fd = s->pidfd, .events = POLLIN };
	int fd;

	*gone = false;
	if (s->target->via == VIA_URI)
		return connect_uri(&s->target->uri, error);
	if (s->target->via == VIA_STDIO) {
		fcntl(s->stdio, F_SETFL, O_NONBLOCK);
		return dup(s->stdio);
	}
	for (int pause = 1;; pause = pause < 16 ? pause * 2 : 16) {
		fd = try_connect((const struct sockaddr *)&s->address, s->address_len);
		if (fd >= 0)
			return fd;
		int why = errno;

		/* Not there yet, or not listening yet: wait until it dies or a moment has passed, and ask again. */
		*gone = poll(&dead, 1, s->starting ? pause : 0) != 0;
		if (*gone || !s->starting || (why != ENOENT && why != ECONNREFUSED))
			break;
		if (now_ms() >= until) {
			snprintf(error, 512, "it accepts no connection after %d s", (int)(START_MS * s->target->factor / 1000));
			return -1;
		}
	}
	snprintf(error, 512, *gone ? "the server has ended" : "the server refuses connections");
	*gone = true;
	return -1;
}
