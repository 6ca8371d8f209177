#include "harness/target.h"

#include "harness/clock.h"
#include "harness/cli.h"
#include "harness/file.h"
#include "harness/process.h"
#include "harness/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { START_MS = 20000, STOP_MS = 3000, GREETING_MS = 10000, TERMINATE_MS = 100 };

static bool
program_has(char *const *program, const char *what)
{
	for (size_t i = 0; program != NULL && program[i] != NULL; i++)
		if (strstr(program[i], what) != NULL)
			return true;
	return false;
}

/* The command, or what is run before it, names the place. */
bool
target_names(const struct target *t, const char *place)
{
	return program_has(t->program, place) || (t->prepare != NULL && strstr(t->prepare, place) != NULL);
}

bool
target_may_write(const struct target *t)
{
	return t->destructive || t->cuts || t->via == VIA_FORK || target_names(t, "{file}");
}

bool
target_has_size(const struct target *t)
{
	return target_names(t, "{file}") || target_names(t, "{size}") || t->fs != NULL ||
	       (t->cuts && target_names(t, "{uri}"));
}

static const struct way {
	const char *name;
	enum via via;
} ways[] = {
	{ "unix", VIA_UNIX },
	{ "tcp", VIA_TCP },
	{ "stdio", VIA_STDIO },
	{ "activation", VIA_ACTIVATION },
};

static const char *
choose_via(struct target *t, const char *via, bool bracket)
{
	for (size_t i = 0; via != NULL && i < sizeof(ways) / sizeof(ways[0]); i++)
		if (strcmp(ways[i].name, via) == 0) {
			t->via = ways[i].via;
			return bracket && t->via != VIA_ACTIVATION
			               ? "'[ COMMAND ]' is --via activation; other ways take -- COMMAND"
			               : NULL;
		}
	if (via != NULL)
		return "--via wants one of unix, tcp, stdio, activation";
	t->via = bracket                       ? VIA_ACTIVATION
	         : target_names(t, "{socket}") ? VIA_UNIX
	         : target_names(t, "{port}")   ? VIA_TCP
	                                       : VIA_FORK;
	return t->via != VIA_FORK ? NULL
	                          : "the command names neither {socket} nor {port}: put one where the server takes its "
	                            "address, or say --via stdio or --via activation";
}

const char *
target_check_program(struct target *t, const char *via, bool bracket)
{
	const char *wrong;

	if (t->program[0][0] == '\0')
		return "the server's command is empty";
	wrong = choose_via(t, via, bracket);
	if (wrong != NULL)
		return wrong;
	if (t->via == VIA_UNIX && !target_names(t, "{socket}") && !target_names(t, "{dir}"))
		return "--via unix wants {socket} in the command or in --prepare, where the server takes its address";
	if (t->via == VIA_TCP && !target_names(t, "{port}"))
		return "--via tcp wants {port} in the command or in --prepare, where the server takes its address";
	if (t->via == VIA_STDIO && t->daemon)
		return "--daemon does not go with --via stdio: a server in the background has no standard input";
	return NULL;
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

static const char *
work_dir(const struct server *s)
{
	return s->target->fs != NULL && s->lower != NULL ? lower_root(s->lower) : s->dir;
}

static char *
fill(const struct server *s, const char *text)
{
	struct buf b = { 0 };
	char number[32], pid[32];

	while (*text != '\0') {
		const char *value = NULL;
		size_t len = 0;

#define PLACE(name, v) (strncmp(text, name, sizeof(name) - 1) == 0 && (len = sizeof(name) - 1, value = (v)))
		snprintf(number, sizeof(number), "%u", s->port);
		if (PLACE("{socket}", s->socket) || PLACE("{file}", s->file) || PLACE("{dir}", work_dir(s)) ||
		    (s->lower != NULL && PLACE("{uri}", lower_uri(s->lower))) ||
		    (s->uri != NULL && (PLACE("{uri}", s->uri) || PLACE("{in}", s->file) || PLACE("{out}", s->out))) ||
		    PLACE("{pid}", (snprintf(pid, sizeof(pid), "%ld", (long)s->pid), pid)) ||
		    (s->certs != NULL && (PLACE("{certs}", s->certs) || PLACE("{psk}", s->psk))) ||
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

static char *
end_in_words(const char *who, int status)
{
	char *text;

	if (WIFSIGNALED(status)) {
		if (asprintf(&text, "%s was killed by signal %d (%s)", who, WTERMSIG(status),
		             strsignal(WTERMSIG(status))) < 0)
			abort();
	} else if (asprintf(&text, "%s ended with exit status %d", who, WEXITSTATUS(status)) < 0) {
		abort();
	}
	return text;
}

static bool
make_file(struct server *s, char error[512])
{
	int fd = open(s->file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	bool ok = fd >= 0 && ftruncate(fd, (off_t)s->target->size) == 0;

	if (!ok)
		snprintf(error, 512, "cannot make an image of %llu bytes (--size) in %.200s (TMPDIR): %s",
		         s->target->size, s->dir, strerror(errno));
	if (fd >= 0)
		close(fd);
	return ok;
}

static bool
make_certificates(struct server *s, char error[512])
{
	if (s->dir == NULL || s->target->tls == NULL || s->target->tls->keys == NULL)
		return true;
	s->certs = join_path(s->dir, "certs");
	s->psk = join_path(s->dir, "keys.psk");
	if (target_tls_write(s->target->tls, s->certs, s->psk))
		return true;
	snprintf(error, 512, "cannot make certificates in %.200s (TMPDIR): %s", s->dir, strerror(errno));
	return false;
}

static int
start_ms(const struct target *t)
{
	return (int)(START_MS * t->factor);
}

/* `name` is the option that it comes from. */
static bool
run_command(const struct server *s, const char *name, const char *text, char error[512])
{
	char *command, *log, *end = NULL;
	int status, failed;

	if (text == NULL)
		return true;
	command = fill(s, text);
	log = join_path(s->dir, "output");
	status = run_shell(command, log, s->dir, start_ms(s->target));
	failed = errno;
	if (status > 0)
		end = end_in_words("it", status);
	if (status < 0 && failed == ETIMEDOUT)
		snprintf(error, 512, "%s does not end within %g s (--time-factor): %.300s", name,
		         start_ms(s->target) / 1000.0, text);
	else if (status != 0)
		snprintf(error, 512, "%s failed, %s: %.300s", name, end ? end : strerror(failed), text);
	free(end);
	free(command);
	free(log);
	return status == 0;
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

/* A listener for the fake server at the protocol's own port; so many addresses lead to this machine that one is free. */
static int
listen_tcp(struct server *s)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&s->address;
	uint32_t start = (uint32_t)getpid() * 64;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool bound = false;

	s->address_len = sizeof(*in);
	for (uint32_t i = 0; i < 64 && !bound; i++) {
		*in = (struct sockaddr_in){ .sin_family = AF_INET,
			                    .sin_port = htons((uint16_t)strtoul(URI_DEFAULT_PORT, NULL, 10)),
			                    .sin_addr.s_addr = htonl(0x7f000002 + (start + i) % 0xfffff0) };
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
		bound = fd >= 0 && bind(fd, (struct sockaddr *)in, sizeof(*in)) == 0 && listen(fd, 64) == 0;
	}
	if (bound || fd < 0)
		return fd;
	close(fd);
	return -1;
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
	if (s->target->via == VIA_FORK && s->target->tcp)
		*passed = listen_tcp(s);
	else if (s->target->via == VIA_ACTIVATION || s->target->via == VIA_FORK)
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
in_child(struct server *s, char **argv, int passed, int output, int report, pid_t us)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	become_child(us);
	if (s->target->via == VIA_FORK) {
		s->target->serve(s->target->arg, passed, s->quiet);
		_exit(0);
	}
	/* Servers that lie to a client make it crash, and nobody wants its core. */
	if (s->target->via == VIA_CLIENT)
		setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	if (s->target->via == VIA_STDIO) {
		dup2(passed, 0);
		dup2(passed, 1);
	} else {
		dup2(null, 0);
		dup2(output, 1);
	}
	dup2(output, 2);
	report = fcntl(report, F_DUPFD_CLOEXEC, 10); /* out of the way of descriptor 3 */
	carry_mark(s->dir);
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
	pid_t us = getpid();

	if (s->target->via != VIA_FORK && pipe2(report, O_CLOEXEC) != 0)
		report[0] = report[1] = -1;
	s->spawned = true;
	s->pid = fork();
	if (s->pid == 0)
		in_child(s, argv, passed, output, report[1], us);
	if (s->pid < 0) {
		failed = errno;
		s->pid = 0;
	}
	if (report[1] >= 0)
		close(report[1]);
	if (s->pid > 0 && report[0] >= 0 && read(report[0], &failed, sizeof(failed)) != sizeof(failed))
		failed = 0;
	if (failed != 0)
		snprintf(error, 512, "%.300s: %s", argv[0] ? argv[0] : "the fake server", strerror(failed));
	if (report[0] >= 0)
		close(report[0]);
	if (output >= 0)
		close(output);
	free_program(argv);
	free(log);
	return failed == 0;
}

/* The server is now a process that its command left in the background; as their reaper (runner.c) we are its parent. */
static bool
adopt(struct server *s)
{
	pid_t pid = s->dir != NULL ? marked_child(s->dir) : 0;

	if (pid == 0)
		return false;
	s->pid = pid;
	s->pidfd = process_open(pid);
	return true;
}

/*
 * A process that is just being executed has no environment to be found by, so ask for a moment. The guard is a child
 * of ours, too, and does not count.
 */
static bool
adopt_patiently(struct server *s)
{
	pid_t others[2];

	for (int pause = 1; pause < 256; pause *= 2) {
		if (adopt(s))
			return true;
		if (list_children(others, 2) < 2)
			return false;
		process_wait(-1, pause);
	}
	return false;
}

/* Waits until the command has ended and finds the server that it left behind. */
static bool
adopt_daemon(struct server *s, char error[512])
{
	enum process_wait how = process_wait(s->pidfd, start_ms(s->target));
	char *end;
	int status;

	if (how != PROCESS_ENDED) {
		snprintf(error, 512,
		         how == PROCESS_INTERRUPTED ? "interrupted"
		                                    : "--daemon: the command does not end within %g s; is it one that "
		                                      "goes into the background?",
		         start_ms(s->target) / 1000.0);
		return false;
	}
	waitpid(s->pid, &status, 0);
	close(s->pidfd);
	s->pidfd = -1;
	s->pid = 0;
	if (status == 0 && adopt_patiently(s))
		return true;
	end = end_in_words("the command", status);
	snprintf(error, 512, "--daemon: %s%s", end, status == 0 ? " and left no server in the background" : "");
	free(end);
	return false;
}

static bool
make_lower(struct server *s, char error[512])
{
	const struct target *t = s->target;

	s->lower = lower_start(s->dir, t->fs != NULL || target_names(t, "{file}"), t->fs, t->size, t->lower_flags, NULL,
	                       NULL, start_ms(t), error);
	if (s->lower == NULL || lower_file(s->lower) == NULL)
		return s->lower != NULL;
	free(s->file);
	s->file = strdup(lower_file(s->lower));
	return true;
}

bool
server_start(struct server *s, const struct target *t, char error[512])
{
	struct server kept = *s;
	int passed = -1;
	bool ok;

	*s = (struct server){ .target = t,
		              .quiet = kept.quiet,
		              .one_at_a_time = kept.one_at_a_time,
		              .stdio = -1,
		              .pidfd = -1,
		              .starting = true };
	if (t->via == VIA_URI)
		return true;
	if (t->via == VIA_FORK) {
		if (s->quiet != NULL)
			quiet_reset(s->quiet);
	} else if ((s->dir = make_guarded_dir(&s->guard, error)) == NULL) {
		return false;
	} else {
		s->socket = join_path(s->dir, "socket");
		s->file = join_path(s->dir, t->via == VIA_CLIENT ? "in" : "disk");
	}
	if (t->via == VIA_CLIENT) {
		s->out = join_path(s->dir, "out");
		return make_certificates(s, error);
	}
	ok = (t->cuts && t->via != VIA_FORK ? make_lower(s, error)
	                                    : s->file == NULL || !target_names(t, "{file}") || make_file(s, error)) &&
	     make_certificates(s, error) && make_address(s, &passed, error) &&
	     (s->dir == NULL || run_command(s, "--prepare", t->prepare, error)) &&
	     /* No power cut takes what was there from the start. */
	     (s->lower == NULL || lower_sync(s->lower, start_ms(t), error)) && spawn(s, passed, error);
	if (passed >= 0)
		close(passed);
	if (!ok)
		return false;
	s->pidfd = process_open(s->pid);
	if (t->cuts && t->via == VIA_FORK)
		s->lower = lower_attach(s->pid);
	return !t->daemon || adopt_daemon(s, error);
}

bool
client_spawn(struct server *s, char error[512])
{
	if (!spawn(s, -1, error))
		return false;
	s->pidfd = process_open(s->pid);
	return true;
}

/* A listener whose backlog is full, and a network that says nothing, hold a connect as long as we let them. */
static int
try_connect(const struct sockaddr *address, socklen_t len, int ms)
{
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval limit = { ms / 1000, ms % 1000 * 1000 + 1 };
	int failed;

	if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) == 0 &&
	    connect(fd, address, len) == 0) {
		if (address->sa_family != AF_UNIX)
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
		fcntl(fd, F_SETFL, O_NONBLOCK);
		return fd;
	}
	failed = errno == EINPROGRESS || errno == EAGAIN ? ETIMEDOUT : errno;
	if (fd >= 0)
		close(fd);
	errno = failed;
	return -1;
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
	if (s->pidfd >= 0)
		close(s->pidfd);
	s->pidfd = -1;
	s->pid = 0;
	*by_fault = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
	if (s->terminated)
		*by_fault = WIFSIGNALED(status) && WTERMSIG(status) != SIGTERM && WTERMSIG(status) != SIGKILL;
	if (!*by_fault && (s->starting ? adopt_patiently(s) : adopt(s)))
		return NULL;
	return end_in_words("the server", status);
}

char *
server_fault(const struct server *s)
{
	siginfo_t end = { .si_pid = 0 };
	int status;

	if (s->pid <= 0 || waitid(P_PID, (id_t)s->pid, &end, WEXITED | WNOHANG | WNOWAIT) != 0 || end.si_pid != s->pid)
		return NULL;
	status = end.si_code == CLD_EXITED ? W_EXITCODE(end.si_status, 0) : W_EXITCODE(0, end.si_status);
	return status != 0 ? end_in_words("the server", status) : NULL;
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

/* Only the process itself: who runs a server knows its process number, and a second SIGTERM may mean haste. */
bool
server_terminate(const struct server *s, int fd)
{
	struct pollfd p[2] = { { .fd = s->pidfd, .events = POLLIN }, { .fd = fd, .events = POLLRDHUP } };

	if (s->pid <= 0 || kill(s->pid, SIGTERM) != 0)
		return false;
	if (s->quiet != NULL)
		quiet_await_ending(s->quiet, s->pidfd);
	else
		poll(p, 2, (int)(TERMINATE_MS * s->target->factor));
	return true;
}

/* 0: it is no signal's name. */
static int
reload_signal(const char *text)
{
	if (strncasecmp(text, "SIG", 3) == 0)
		text += 3;
	return strcasecmp(text, "HUP") == 0    ? SIGHUP
	       : strcasecmp(text, "USR1") == 0 ? SIGUSR1
	       : strcasecmp(text, "USR2") == 0 ? SIGUSR2
	                                       : 0;
}

bool
server_reload(const struct server *s, int fd, char error[512])
{
	uint32_t before = s->quiet != NULL ? atomic_load(&s->quiet->reloads) : 0;
	struct pollfd p = { .fd = fd, .events = POLLRDHUP };
	int signal = reload_signal(s->target->reload);

	if (signal == 0 && !run_command(s, "--reload", s->target->reload, error))
		return false;
	if (signal != 0 && kill(s->pid, signal) != 0) {
		snprintf(error, 512, "the server has ended");
		return false;
	}
	if (s->quiet != NULL)
		quiet_await_reload(s->quiet, before, s->pidfd);
	else
		poll(&p, 1, (int)(TERMINATE_MS * s->target->factor));
	return true;
}

bool
server_ends(const struct server *s, int ms)
{
	struct pollfd p = { .fd = s->pidfd, .events = POLLIN };
	int64_t until = now_ms() + ms;

	if (poll(&p, 1, ms) <= 0)
		return false;
	while (s->dir != NULL && signal_marked(s->dir, NULL, 0) > 0) {
		if (now_ms() >= until)
			return false;
		poll(NULL, 0, 5);
	}
	return true;
}

bool
server_listens(const struct server *s)
{
	int fd = s->address_len > 0 ? try_connect((const struct sockaddr *)&s->address, s->address_len, TERMINATE_MS)
	                            : -1;

	if (fd >= 0)
		close(fd);
	return fd >= 0 || s->target->via == VIA_STDIO;
}

void
server_ask(struct server *s)
{
	if (s->pid <= 0 || s->end_by != 0 || s->target->via == VIA_FORK)
		return;
	kill(-s->pid, SIGTERM);
	kill(s->pid, SIGTERM);
	s->end_by = now_ms() + STOP_MS;
}

void
server_stop(struct server *s)
{
	int64_t left;

	if (s->stdio >= 0)
		close(s->stdio);
	server_ask(s);
	if (s->pid > 0) {
		left = s->end_by - now_ms();
		if (s->pidfd < 0 || left <= 0 || process_wait(s->pidfd, (int)left) != PROCESS_ENDED) {
			lower_kill(s->lower);
			kill(s->pid, SIGKILL);
		}
		kill(-s->pid, SIGKILL);
		waitpid(s->pid, NULL, 0);
	}
	if (s->pidfd >= 0)
		close(s->pidfd);
	if (s->dir != NULL) {
		lower_kill(s->lower);
		end_marked_children(s->dir);
		lower_stop(s->lower);
		s->lower = NULL;
		remove_dir(s->dir);
		dismiss_guard(s->guard, s->dir);
	}
	lower_stop(s->lower);
	free(s->dir);
	free(s->socket);
	free(s->file);
	free(s->out);
	free(s->certs);
	free(s->psk);
	free(s->uri);
	*s = (struct server){ .quiet = s->quiet, .one_at_a_time = s->one_at_a_time, .stdio = -1, .pidfd = -1 };
}

/* ---- power cuts ---- */

/* With all that it has started, and at once: it is the machine that loses its power. */
static void
end_abruptly(struct server *s)
{
	bool ours;

	if (s->pid > 0) {
		kill(-s->pid, SIGKILL);
		kill(s->pid, SIGKILL);
		ours = waitpid(s->pid, NULL, 0) == s->pid;
		if (!ours && s->pidfd >= 0)
			process_wait(s->pidfd, STOP_MS);
	}
	if (s->pidfd >= 0)
		close(s->pidfd);
	s->pid = 0;
	s->pidfd = -1;
	for (int round = 0; round < 200 && signal_marked(s->dir, NULL, SIGKILL) > 0; round++) {
		end_marked_children(s->dir);
		process_wait(-1, 2);
	}
}

/* The command, where the one before has ended; a daemon is still to be adopted. */
static bool
start_again(struct server *s, char error[512])
{
	int passed = -1;
	bool ok;

	if (s->target->via == VIA_UNIX || s->target->via == VIA_ACTIVATION)
		unlink(s->socket);
	s->starting = true;
	ok = make_address(s, &passed, error) && spawn(s, passed, error);
	if (passed >= 0)
		close(passed);
	if (ok)
		s->pidfd = process_open(s->pid);
	return ok;
}

bool
server_restart(struct server *s, char error[512])
{
	end_abruptly(s);
	return start_again(s, error) && (!s->target->daemon || adopt_daemon(s, error));
}

bool
server_cut_power(struct server *s, const char *policy, bool *failed_check, char error[512])
{
	char request[100], reply[512], why[512] = "";

	*failed_check = false;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	snprintf(request, sizeof(request), "power cut %s", policy);
	if (!lower_ask(s->lower, request, reply, error))
		return false;
	if (s->target->via == VIA_FORK)
		return true;
	lower_unplug(s->lower);
	end_abruptly(s);
	if (!lower_remount(s->lower, start_ms(s->target), error))
		return false;
	*failed_check = !run_command(s, "--check", s->target->check, why);
	if (!start_again(s, error)) {
		*failed_check = false;
		return false;
	}
	if (s->target->daemon && !adopt_daemon(s, error))
		*failed_check = false;
	else if (*failed_check)
		memcpy(error, why, sizeof(why));
	else
		return true;
	return false;
}

/* ---- connecting ---- */

static int
connect_unix(const char *path, int ms, char error[512])
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = -1;

	errno = ENAMETOOLONG;
	if (strlen(path) < sizeof(un.sun_path)) {
		strcpy(un.sun_path, path);
		fd = try_connect((struct sockaddr *)&un, sizeof(un), ms);
	}
	if (fd < 0)
		snprintf(error, 512, "cannot connect to %.300s: %s", path, strerror(errno));
	return fd;
}

static int
connect_uri(const struct nbd_uri *u, int ms, char error[512])
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
	int fd = -1, e;

	if (u->transport == URI_UNIX)
		return connect_unix(u->socket, ms, error);
	e = getaddrinfo(u->host, u->port, &hints, &list);
	if (e != 0) {
		snprintf(error, 512, "cannot look up the host %.300s: %s", u->host, gai_strerror(e));
		return -1;
	}
	for (struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next)
		fd = try_connect(a->ai_addr, a->ai_addrlen, ms);
	if (fd < 0)
		snprintf(error, 512, "cannot connect to %.300s port %s: %s", u->host, u->port, strerror(errno));
	freeaddrinfo(list);
	return fd;
}

/* One that went into the background is another process by now than the one that was started. */
static bool
has_ended(const struct server *s, int ms)
{
	struct pollfd dead = { .fd = s->pidfd, .events = POLLIN };

	if (poll(&dead, 1, ms) <= 0)
		return false;
	/* A process that is just being executed has no environment to be found by, so ask more than once. */
	for (int pause = 1; s->dir != NULL && pause < 32; pause *= 2)
		if (signal_marked(s->dir, NULL, 0) > 0 || poll(NULL, 0, pause) != 0)
			return false;
	return true;
}

static void
say_why(const struct server *s, int ms, char error[512])
{
	const char *why = strerror(errno);
	char where[160], within[64] = "";

	snprintf(where, sizeof(where), "%.150s", s->socket != NULL ? s->socket : "its socket");
	if (s->target->via == VIA_TCP)
		snprintf(where, sizeof(where), "127.0.0.1 port %u", s->port);
	if (s->starting)
		snprintf(within, sizeof(within), " within %g s (--time-factor)", ms / 1000.0);
	snprintf(error, 512, "the server accepts no connection at %s%s: %s", where, within, why);
}

int
server_connect(const struct server *s, bool *gone, char error[512])
{
	int ms = start_ms(s->target), fd, why;
	int64_t until = now_ms() + ms;

	*gone = false;
	if (s->target->via == VIA_STDIO) {
		fcntl(s->stdio, F_SETFL, O_NONBLOCK);
		return dup(s->stdio);
	}
	if (s->target->via == VIA_URI) {
		fd = connect_uri(&s->target->uri, ms, error);
		*gone = fd < 0;
		return fd;
	}
	for (int pause = 1;; pause = pause < 16 ? pause * 2 : 16) {
		fd = try_connect((const struct sockaddr *)&s->address, s->address_len, ms);
		if (fd >= 0)
			return fd;
		why = errno;
		/* Not there yet, or not listening yet: wait until it dies or a moment has passed, and ask again. */
		*gone = has_ended(s, s->starting ? pause : 0);
		if (*gone || !s->starting || (why != ENOENT && why != ECONNREFUSED) || now_ms() >= until)
			break;
	}
	errno = why;
	if (*gone)
		snprintf(error, 512, "the server has ended");
	else
		say_why(s, ms, error);
	*gone = true;
	return -1;
}

int
server_try_connect(const struct server *s, int ms)
{
	char error[512];

	if (s->target->via == VIA_URI)
		return connect_uri(&s->target->uri, ms, error);
	return try_connect((const struct sockaddr *)&s->address, s->address_len, ms);
}

bool
server_greets(const struct server *s, char error[512])
{
	struct pollfd p = { .events = POLLIN };
	bool gone;
	char byte;
	ssize_t n;

	p.fd = server_connect(s, &gone, error);
	if (p.fd < 0)
		return false;
	n = poll(&p, 1, (int)(GREETING_MS * s->target->factor));
	if (n > 0)
		n = recv(p.fd, &byte, 1, 0);
	else
		errno = ETIMEDOUT;
	if (n != 1)
		snprintf(error, 512, "the server does not greet a new client: %s",
		         n < 0 || p.revents == 0 ? strerror(errno) : "it closes the connection");
	close(p.fd);
	return n == 1;
}
