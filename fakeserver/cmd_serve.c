/* nbdspec serve: the fake server by hand. */
#include "fakeserver/control.h"
#include "fakeserver/disk.h"
#include "fakeserver/lie.h"
#include "fakeserver/listen.h"
#include "fakeserver/serve_tls.h"
#include "fakeserver/server.h"
#include "harness/cli.h"
#include "harness/file.h"
#include "harness/nbd.h"
#include "harness/process.h"
#include "harness/uri.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum option_id {
	OPT_UNIX = 1,
	OPT_TCP,
	OPT_STDIO,
	OPT_EXPORT,
	OPT_SIZE,
	OPT_KNOB,
	OPT_LIE,
	OPT_OLDSTYLE,
	OPT_SEED,
	OPT_ONCE,
	OPT_TRACE,
	OPT_TRACE_MEMORY,
	OPT_LOG,
	OPT_CONTROL,
	OPT_GRACE,
	OPT_MEMORY_LIMIT,
	OPT_BUFFER_LIMIT,
	OPT_CACHE,
	OPT_CACHE_LIMIT,
	OPT_TEAR_UNIT,
	OPT_CUT,
	OPT_CUT_AT,
	OPT_TLS,
	OPT_TLS_CERTIFICATES,
	OPT_TLS_PSK,
	OPT_TLS_VERIFY_PEER,
	OPT_TLS_PRIORITY,
	OPT_RUN,
	OPT_VERBOSE,
	OPT_LIST_LIES,
	OPT_LIST_KNOBS,
};

static const struct cli_option options[] = {
	{ "unix", 'U', "PATH", "listen on a Unix socket", OPT_UNIX, false },
	{ "tcp", 'p', "[ADDR:]PORT", "listen on TCP; ADDR * is everywhere, none is localhost; port 0 is any free one",
	  OPT_TCP, false },
	{ "stdio", 's', NULL, "serve one session on standard input and output", OPT_STDIO, false },
	{ "export", 'e', "SPEC", "name=,size=,flags=,description=,contexts=,min=,pref=,max=,read-only,tls-only",
	  OPT_EXPORT, true },
	{ "size", 0, "SIZE", "size of exports that do not say theirs (default: 64M)", OPT_SIZE, false },
	{ "knob", 'k', "NAME", "use a legal freedom, or with no-NAME do not", OPT_KNOB, true },
	{ "lie", 'l', "SPEC", "misbehave: NAME[:nth=,times=,option=,command=,connection=,export=,arg=]", OPT_LIE,
	  true },
	{ "oldstyle", 'o', NULL, "oldstyle negotiation", OPT_OLDSTYLE, false },
	{ "seed", 0, "N", "for all that is chosen at random (default: 1)", OPT_SEED, false },
	{ "once", '1', NULL, "stop when a connection has ended", OPT_ONCE, false },
	{ "trace", 0, "FILE", "record every message", OPT_TRACE, false },
	{ "trace-memory", 0, "SIZE", "memory that is made ready for what comes faster than FILE takes it",
	  OPT_TRACE_MEMORY, false },
	{ "log", 0, "FILE", "write every message as a line of JSON", OPT_LOG, false },
	{ "control", 'c', "SOCKET", "take requests on a Unix socket: status, flags, disconnect, shutdown …",
	  OPT_CONTROL, false },
	{ "grace", 0, "MS", "how long a shutdown waits for the clients (default: 1000)", OPT_GRACE, false },
	{ "memory-limit", 0, "SIZE", "how much the disks may take (default: 8G); then writes get ENOSPC",
	  OPT_MEMORY_LIMIT, false },
	{ "buffer-limit", 0, "SIZE", "how much all connections may take (default: 2G); then the largest is cut off",
	  OPT_BUFFER_LIMIT, false },
	{ "cache", 0, NULL, "a volatile write cache: a power cut takes what was not made durable", OPT_CACHE, false },
	{ "cache-limit", 0, "SIZE", "how much it remembers (default: 64M); beyond, the oldest is made durable",
	  OPT_CACHE_LIMIT, false },
	{ "tear-unit", 0, "BYTES", "what a power cut leaves in one piece (default: 512)", OPT_TEAR_UNIT, false },
	{ "cut", 0, "POLICY", "what a power cut takes: drop (all it may, default), keep (nothing), random", OPT_CUT,
	  false },
	{ "cut-at", 0, "N", "cut the power when the Nth request has arrived", OPT_CUT_AT, false },
	{ "tls", 0, "MODE", "off, on (for who wants it), or require; with certificates or keys it is require", OPT_TLS,
	  false },
	{ "tls-certificates", 0, "DIR", "ca-cert.pem, server-cert.pem and server-key.pem (nbdspec certificates)",
	  OPT_TLS_CERTIFICATES, false },
	{ "tls-psk", 0, "FILE", "keys that are shared before, in lines USER:HEXADECIMAL", OPT_TLS_PSK, false },
	{ "tls-verify-peer", 0, NULL, "turn clients away that have no certificate of the authority",
	  OPT_TLS_VERIFY_PEER, false },
	{ "tls-priority", 0, "TEXT", "versions and algorithms, as GnuTLS reads them (NORMAL:-VERS-TLS1.3)",
	  OPT_TLS_PRIORITY, false },
	{ "run", 'r', "COMMAND", "run a shell command with $uri, $unixsocket, $port and $exportname, then stop",
	  OPT_RUN, false },
	{ "verbose", 'v', NULL, "print every message in words on standard error", OPT_VERBOSE, false },
	{ "list-lies", 0, NULL, "print the lies", OPT_LIST_LIES, false },
	{ "list-knobs", 0, NULL, "print the knobs", OPT_LIST_KNOBS, false },
	{ 0 },
};

struct serve {
	struct cli *cli;
	struct fake_config config;
	struct serve_tls tls;
	struct fake_server *server;
	const char *unix_path, *tcp, *size, *run, *trace_path, *log_path, *control_path;
	bool stdio, list_lies, list_knobs, cached;
	struct cache_config cache;
	int activated;      /* descriptors that systemd, or who plays it, hands over */
	struct trace trace; /* .fd is -1 once it has ended */
	int trace_fd;
	unsigned long long trace_memory; /* bytes */
	unsigned long grace_ms;
	struct control *control;
	bool made_control;
	char *private_dir; /* removed at the end, by the guard where we are killed */
	pid_t guard;
	char *unixsocket; /* likewise, if we made it */
	bool made_socket;
	char *uri, port[8];
	int signals; /* signalfd */
	pid_t child; /* of --run; 0: none, or it has ended */
	int child_status;
};

/* ---- the command line ---- */

static int
add_export(struct serve *q, const char *spec)
{
	struct fake_config *config = &q->config;
	char error[256], *text;
	bool ok;

	config->exports = reallocarray(config->exports, config->n_exports + 1, sizeof(*config->exports));
	if (config->exports == NULL || asprintf(&text, "size=%s,%s", q->size != NULL ? q->size : "64M", spec) < 0)
		abort();
	ok = export_parse(text, &config->exports[config->n_exports], error);
	free(text);
	if (!ok)
		return cli_usage_error(q->cli, "--export '%s': %s", spec, error);
	for (size_t i = 0; i < config->n_exports; i++)
		if (strcmp(config->exports[i].name, config->exports[config->n_exports].name) == 0) {
			export_free(&config->exports[config->n_exports]);
			return cli_usage_error(q->cli, "--export '%s': an earlier one has the same name", spec);
		}
	config->n_exports++;
	return 0;
}

static int
add_lie(struct serve *q, const char *spec)
{
	struct fake_config *config = &q->config;
	char error[256];

	config->lies = reallocarray(config->lies, config->n_lies + 1, sizeof(*config->lies));
	if (config->lies == NULL)
		abort();
	if (!lie_parse(spec, &config->lies[config->n_lies], error))
		return cli_usage_error(q->cli, "--lie '%s': %s", spec, error);
	config->n_lies++;
	return 0;
}

static void
read_flag(struct serve *q, int id)
{
	switch (id) {
	case OPT_STDIO:
		q->stdio = true;
		break;
	case OPT_OLDSTYLE:
		q->config.oldstyle = true;
		break;
	case OPT_ONCE:
		q->config.once = true;
		break;
	case OPT_VERBOSE:
		q->config.log = stderr;
		break;
	case OPT_TLS_VERIFY_PEER:
		q->tls.verify = true;
		break;
	case OPT_LIST_LIES:
		q->list_lies = true;
		break;
	case OPT_LIST_KNOBS:
		q->list_knobs = true;
		break;
	case OPT_CACHE:
		q->cached = true;
		break;
	}
}

/* What goes with --cache, and does nothing without it. */
static int
read_cache_option(struct serve *q, int id, const char *value)
{
	unsigned long long bytes;
	unsigned long n;

	q->cached = true;
	switch (id) {
	case OPT_CACHE_LIMIT:
		if (!size_parse(value, &bytes))
			return cli_usage_error(q->cli, "--cache-limit %s: want bytes, or with k, M, G, T, P", value);
		q->cache.most = bytes;
		break;
	case OPT_TEAR_UNIT:
		if (!cli_number(q->cli, "--tear-unit", value, 1, 65536, &n))
			return STATUS_USAGE;
		if ((n & (n - 1)) != 0)
			return cli_usage_error(q->cli, "--tear-unit %s: want a power of two", value);
		q->cache.tear_unit = (uint32_t)n;
		break;
	case OPT_CUT:
		if (!cut_parse(value, &q->config.cut))
			return cli_usage_error(q->cli, "--cut '%s': want drop, keep or random", value);
		break;
	case OPT_CUT_AT:
		if (!cli_number(q->cli, "--cut-at", value, 1, ULONG_MAX, &n))
			return STATUS_USAGE;
		q->config.cut_at = n;
		break;
	}
	return 0;
}

static int
read_option(struct serve *q, int id, const char *value)
{
	unsigned long long bytes;
	unsigned long seed;
	char error[256];

	switch (id) {
	case OPT_UNIX:
		if (*value == '\0')
			return cli_usage_error(q->cli, "--unix: want the path of a socket");
		q->unix_path = value;
		break;
	case OPT_TCP:
		q->tcp = value;
		break;
	case OPT_TRACE:
		q->trace_path = value;
		break;
	case OPT_TRACE_MEMORY:
		if (!memory_parse(value, &q->trace_memory, error))
			return cli_usage_error(q->cli, "--trace-memory %s: %s", value, error);
		break;
	case OPT_LOG:
		q->log_path = value;
		break;
	case OPT_CONTROL:
		if (*value == '\0')
			return cli_usage_error(q->cli, "--control: want the path of a socket");
		q->control_path = value;
		break;
	case OPT_GRACE:
		return cli_number(q->cli, "--grace", value, 0, INT32_MAX, &q->grace_ms) ? 0 : STATUS_USAGE;
	case OPT_MEMORY_LIMIT:
		if (!size_parse(value, &bytes))
			return cli_usage_error(q->cli, "--memory-limit %s: want bytes, or with k, M, G, T, P", value);
		disk_limit_memory(bytes);
		break;
	case OPT_BUFFER_LIMIT:
		if (!size_parse(value, &bytes) || bytes == 0)
			return cli_usage_error(q->cli, "--buffer-limit %s: want bytes, or with k, M, G, T, P", value);
		q->config.buffers_most = bytes;
		break;
	case OPT_CACHE_LIMIT:
	case OPT_TEAR_UNIT:
	case OPT_CUT:
	case OPT_CUT_AT:
		return read_cache_option(q, id, value);
	case OPT_TLS:
		q->tls.mode = value;
		break;
	case OPT_TLS_CERTIFICATES:
		q->tls.certificates = value;
		break;
	case OPT_TLS_PSK:
		q->tls.psk = value;
		break;
	case OPT_TLS_PRIORITY:
		q->tls.priority = value;
		break;
	case OPT_RUN:
		q->run = value;
		break;
	case OPT_LIE:
		return add_lie(q, value);
	case OPT_SIZE:
		if (!size_parse(value, &bytes) || bytes > INT64_MAX)
			return cli_usage_error(q->cli, "--size %s: want bytes, up to 2^63-1, or with k, M, G, T, P",
			                       value);
		q->size = value;
		break;
	case OPT_KNOB:
		if (!knob_parse(value, &q->config, error))
			return cli_usage_error(q->cli, "--knob '%s': %s", value, error);
		break;
	case OPT_SEED:
		if (!cli_number(q->cli, "--seed", value, 0, ULONG_MAX, &seed))
			return STATUS_USAGE;
		q->config.seed = seed;
		break;
	}
	return 0;
}

/* Exports come when all else is read, as --size holds for those before it, too. */
static int
read_options(struct serve *q)
{
	struct cli *cli = q->cli;
	int status = 0;

	for (size_t i = 0; i < cli->n_given && status == 0; i++) {
		if (cli->given[i].value == NULL)
			read_flag(q, cli->given[i].id);
		else
			status = read_option(q, cli->given[i].id, cli->given[i].value);
	}
	for (size_t i = 0; i < cli->n_given && status == 0; i++)
		if (cli->given[i].id == OPT_EXPORT)
			status = add_export(q, cli->given[i].value);
	if (status == 0 && q->config.n_exports == 0)
		status = add_export(q, "");
	return status;
}

static void
add_caches(struct serve *q)
{
	for (size_t i = 0; i < q->config.n_exports; i++) {
		struct fake_export *e = &q->config.exports[i];

		q->cache.flush_covers_all = (e->flags & NBD_FLAG_CAN_MULTI_CONN) != 0;
		e->cache = cache_new(e->disk, &q->cache);
	}
}

static int
read_command_line(struct serve *q)
{
	struct cli *cli = q->cli;
	int status = read_options(q);

	if (status != 0)
		return status;
	if (cli->n_args > 0)
		return cli_usage_error(cli, "'%s': takes no arguments; a name is given by --export name=…",
		                       cli->args[0]);
	if (cli->program != NULL)
		return cli_usage_error(cli, "takes no program behind '--' or in '[ ]'; see --run");
	if ((q->unix_path != NULL) + (q->tcp != NULL) + q->stdio > 1)
		return cli_usage_error(cli, "want one of --unix, --tcp and --stdio");
	if (q->run != NULL && q->stdio)
		return cli_usage_error(cli, "--run goes with --unix or --tcp, not with --stdio");
	if (q->cached)
		add_caches(q);
	return serve_tls_load(cli, &q->tls, &q->config);
}

/* ---- tables ---- */

static int
list_lies(void)
{
	static const char *const places[] = { "incoming", "state", "outgoing", "disk", "process" };
	const struct lie *l;

	for (size_t i = 0; (l = lie_at(i)) != NULL; i++) {
		printf("%-36s %-8s  %s\n%47sbreaks", l->name, places[l->place], l->text, "");
		for (const enum requirement_id *r = l->breaks; *r != REQUIREMENT_NONE; r++)
			printf(" %s", requirement(*r)->id);
		putchar('\n');
	}
	return STATUS_OK;
}

static int
list_knobs(void)
{
	for (int k = 0; k < N_KNOBS; k++)
		printf("%-28s %s\n%29s%s, %s\n", knob_name(k), knob_text(k), "", requirement(knob_requirement(k))->id,
		       requirement(knob_requirement(k))->where);
	return STATUS_OK;
}

/* ---- where clients come from ---- */

static char *
make_uri(const struct serve *q, struct nbd_uri u)
{
	serve_tls_uri(&q->tls, &q->config, &u);
	u.export = q->config.oldstyle ? (char *)"" : q->config.exports[0].name;
	return uri_format(&u);
}

static int
listen_unix(struct serve *q)
{
	char error[LISTEN_MAX_ERROR];
	char *path;
	int fd;

	if (q->unix_path != NULL) {
		path = absolute_path(q->unix_path);
	} else {
		q->private_dir = make_guarded_dir(&q->guard, error);
		if (q->private_dir == NULL)
			return cli_broken(q->cli, "%s", error);
		path = join_path(q->private_dir, "nbd.sock");
	}
	q->unixsocket = path;
	if (strlen(path) > LISTEN_MAX_PATH)
		return cli_usage_error(q->cli, "%s: the path of a socket has at most %d bytes", path, LISTEN_MAX_PATH);
	fd = listen_on_unix(path, error);
	if (fd < 0)
		return cli_broken(q->cli, "%s", error);
	q->made_socket = true;
	q->uri = make_uri(q, (struct nbd_uri){ .transport = URI_UNIX, .socket = path });
	if (fake_add_listener(q->server, fd) < 0)
		return cli_broken(q->cli, "%s: %s", path, strerror(errno));
	return 0;
}

static int
listen_tcp(struct serve *q)
{
	struct tcp_listeners l;
	char error[LISTEN_MAX_ERROR];

	switch (listen_on_tcp(q->tcp != NULL ? q->tcp : URI_DEFAULT_PORT, &l, error)) {
	case LISTEN_BAD_ADDRESS:
		return cli_usage_error(q->cli, "--tcp %s: %s", q->tcp, error);
	case LISTEN_FAILED:
		return cli_broken(q->cli, "%s", error);
	case LISTEN_OK:
		break;
	}
	snprintf(q->port, sizeof(q->port), "%u", l.port);
	q->uri = make_uri(q, (struct nbd_uri){ .transport = URI_TCP, .host = l.host, .port = q->port });
	for (size_t i = 0; i < l.n; i++)
		if (fake_add_listener(q->server, l.fds[i]) < 0)
			return cli_broken(q->cli, "%s", strerror(errno));
	return 0;
}

static int
take_activated(struct serve *q)
{
	for (int fd = LISTEN_FIRST_ACTIVATED; fd < LISTEN_FIRST_ACTIVATED + q->activated; fd++) {
		int added;

		if (!is_listening(fd) && !is_connected(fd))
			return cli_broken(q->cli,
			                  "descriptor %d of LISTEN_FDS: want a stream socket, listening or connected",
			                  fd);
		added = is_listening(fd) ? fake_add_listener(q->server, fd) : fake_add_connection(q->server, fd, fd);
		if (added < 0)
			return cli_broken(q->cli, "descriptor %d of LISTEN_FDS: %s", fd, strerror(errno));
	}
	return 0;
}

static int
start_listening(struct serve *q)
{
	if (q->activated > 0)
		return take_activated(q);
	if (q->stdio) {
		if (fake_add_connection(q->server, STDIN_FILENO, STDOUT_FILENO) < 0)
			return cli_broken(q->cli, "--stdio: standard input and output: %s",
			                  errno == EPERM ? "want a socket or two pipes" : strerror(errno));
		return 0;
	}
	if (q->unix_path != NULL || (q->tcp == NULL && q->run != NULL))
		return listen_unix(q);
	return listen_tcp(q);
}

/* ---- signals and --run ---- */

static bool
block_signals(struct serve *q)
{
	struct sigaction on_child = { .sa_handler = SIG_DFL, .sa_flags = SA_NOCLDSTOP };
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigaction(SIGCHLD, &on_child, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	if (q->run != NULL)
		sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	q->signals = signalfd(-1, &set, SFD_CLOEXEC);
	return q->signals >= 0;
}

static _Noreturn void
be_child(const struct serve *q)
{
	sigset_t none;

	signal(SIGPIPE, SIG_DFL);
	signal(SIGXFSZ, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (q->private_dir != NULL)
		carry_mark(q->private_dir);
	setenv("uri", q->uri, 1);
	setenv("unixsocket", q->unixsocket != NULL ? q->unixsocket : "", 1);
	setenv("port", q->port, 1);
	setenv("exportname", q->config.exports[0].name, 1);
	execl("/bin/sh", "sh", "-c", q->run, (char *)NULL);
	fprintf(stderr, "nbdspec serve: --run: /bin/sh: %s\n", strerror(errno));
	_exit(127);
}

static int
start_child(struct serve *q)
{
	fflush(NULL);
	q->child = fork();
	if (q->child < 0)
		return cli_broken(q->cli, "--run: %s", strerror(errno));
	if (q->child == 0)
		be_child(q);
	return 0;
}

/* Waits for one signal and returns it, or 0; one that is meant for us goes to the command, too. */
static int
take_signal(struct serve *q)
{
	struct signalfd_siginfo info;

	if (read(q->signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return 0;
	if (info.ssi_signo != SIGCHLD)
		trace_hurry(&q->trace);
	if (q->child > 0 && info.ssi_signo == SIGCHLD && waitpid(q->child, &q->child_status, WNOHANG) == q->child)
		q->child = 0;
	else if (q->child > 0 && info.ssi_signo != SIGCHLD)
		kill(q->child, (int)info.ssi_signo);
	return (int)info.ssi_signo;
}

/* The first SIGTERM lets the clients come to an end; another one, a SIGINT, or the command's own end does not. */
static void
on_signal(void *arg)
{
	struct serve *q = arg;
	int sig = take_signal(q);

	if (sig == SIGTERM && !fake_count(q->server).shutting_down)
		fake_shutdown(q->server, (unsigned)q->grace_ms);
	else if (sig == SIGINT || sig == SIGTERM || (q->run != NULL && q->child == 0))
		fake_stop(q->server);
}

static int
exit_status(int wait_status)
{
	return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

/* The server stops after a signal, or by itself; the command is waited for in either case. */
static int
serve_until_done(struct serve *q)
{
	int status = 0;

	if (q->run != NULL)
		status = start_child(q);
	else if (q->uri != NULL)
		printf("%s\n", q->uri);
	fflush(stdout);
	if (status == 0 && (fake_watch(q->server, q->signals, on_signal, q) < 0 || fake_run(q->server, -1) < 0))
		status = cli_broken(q->cli, "%s", strerror(errno));
	control_free(q->control);
	q->control = NULL;
	fake_free(q->server);
	q->server = NULL;
	while (q->child > 0)
		take_signal(q);
	return status != 0 || q->run == NULL ? status : exit_status(q->child_status);
}

/* ---- the command ---- */

/* Who reads the trace must not take them for the client's doing. */
static void
note_lies(struct serve *q)
{
	char text[128];

	for (size_t i = 0; i < q->config.n_lies; i++) {
		snprintf(text, sizeof(text), "lie %s", q->config.lies[i].lie->name);
		trace_text(&q->trace, TRACE_NOTE, 0, text);
	}
}

/* What a reader must know to say what a power cut may leave; where there is one disk. */
static void
note_export(struct serve *q)
{
	const struct fake_export *e = q->config.exports;
	char text[128];

	if (q->config.n_exports != 1)
		return;
	snprintf(text, sizeof(text), "export size %" PRIu64 " minimum %u multi-conn %d", e->size,
	         export_block(e).minimum, (e->flags & NBD_FLAG_CAN_MULTI_CONN) != 0);
	trace_text(&q->trace, TRACE_NOTE, 0, text);
}

static int
open_trace(struct serve *q)
{
	int fd;

	if (q->trace_path == NULL)
		return 0;
	fd = open(q->trace_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
	if (fd < 0 || trace_start(&q->trace, fd, UINT32_MAX) < 0)
		return cli_broken(q->cli, "--trace %s: %s", q->trace_path, strerror(errno));
	q->trace_fd = fd;
	trace_hold(&q->trace, (size_t)q->trace_memory);
	q->config.trace = &q->trace;
	note_lies(q);
	note_export(q);
	return 0;
}

static int
open_log(struct serve *q)
{
	if (q->log_path == NULL)
		return 0;
	q->config.events = fopen(q->log_path, "we");
	return q->config.events != NULL ? 0 : cli_broken(q->cli, "--log %s: %s", q->log_path, strerror(errno));
}

static int
open_control(struct serve *q)
{
	char error[LISTEN_MAX_ERROR];
	int fd;

	if (q->control_path == NULL)
		return 0;
	if (strlen(q->control_path) > LISTEN_MAX_PATH)
		return cli_usage_error(q->cli, "--control %s: the path of a socket has at most %d bytes",
		                       q->control_path, LISTEN_MAX_PATH);
	fd = listen_on_unix(q->control_path, error);
	if (fd < 0)
		return cli_broken(q->cli, "--control: %s", error);
	q->made_control = true;
	q->control = control_new(q->server, fd, (unsigned)q->grace_ms);
	return q->control != NULL ? 0 : cli_broken(q->cli, "--control: %s", strerror(errno));
}

static int
serve(struct serve *q)
{
	int status;

	q->activated = activated_descriptors();
	if (q->activated < 0)
		return cli_broken(q->cli, "LISTEN_FDS: want how many descriptors are open from 3 on");
	if (q->activated > 0 && (q->unix_path != NULL || q->tcp != NULL || q->stdio))
		return cli_usage_error(q->cli, "--unix, --tcp and --stdio do not go with LISTEN_FDS");
	if (q->activated > 0 && q->run != NULL)
		return cli_usage_error(q->cli, "--run does not go with LISTEN_FDS");
	signal(SIGXFSZ, SIG_IGN); /* a trace beyond ulimit -f is an error like a full disk */
	status = open_trace(q);
	if (status == 0)
		status = open_log(q);
	if (status != 0)
		return status;
	if (!block_signals(q))
		return cli_broken(q->cli, "signals: %s", strerror(errno));
	q->server = fake_new(&q->config);
	if (q->server == NULL)
		return cli_broken(q->cli, "%s", strerror(errno));
	status = open_control(q);
	if (status == 0)
		status = start_listening(q);
	return status != 0 ? status : serve_until_done(q);
}

/* Whoever reads them later must know that they are not all; the clients were served nevertheless. */
static int
end_records(struct serve *q, int status)
{
	bool log_failed = q->config.events != NULL && ferror(q->config.events) != 0;
	int now;

	if (q->config.events != NULL && fclose(q->config.events) != 0)
		log_failed = true;
	trace_close(&q->trace);
	if (log_failed)
		cli_broken(q->cli, "--log %s: the disk is full, or fails; the log holds what came before", q->log_path);
	if (q->trace.failed != 0)
		cli_broken(q->cli, "--trace %s: %s; the trace holds what came before", q->trace_path,
		           q->trace.failed == ETIMEDOUT ? "nobody reads it" : strerror(q->trace.failed));
	now = log_failed || q->trace.failed != 0 ? STATUS_BROKEN : STATUS_OK;
	return status != 0 ? status : now;
}

static void
clean_up(struct serve *q)
{
	if (q->made_control)
		unlink(q->control_path);
	if (q->made_socket)
		unlink(q->unixsocket);
	if (q->private_dir != NULL) {
		remove_dir(q->private_dir);
		dismiss_guard(q->guard, q->private_dir);
	}
	if (q->trace_fd >= 0)
		close(q->trace_fd);
	if (q->signals >= 0)
		close(q->signals);
	for (size_t i = 0; i < q->config.n_exports; i++)
		export_free(&q->config.exports[i]);
	for (size_t i = 0; i < q->config.n_lies; i++)
		lie_use_free(&q->config.lies[i]);
	tls_credentials_free(q->config.tls.credentials);
	free(q->config.exports);
	free(q->config.lies);
	free(q->private_dir);
	free(q->unixsocket);
	free(q->uri);
}

static int
run_serve(struct cli *cli)
{
	struct serve q = { .cli = cli,
		           .config.seed = 1,
		           .cache = { .most = CACHE_MOST_DEFAULT, .tear_unit = TEAR_UNIT_DEFAULT },
		           .trace.fd = -1,
		           .trace_fd = -1,
		           .signals = -1,
		           .grace_ms = 1000 };
	int status = read_command_line(&q);

	if (status == 0)
		status = q.list_lies ? list_lies() : q.list_knobs ? list_knobs() : serve(&q);
	control_free(q.control);
	fake_free(q.server);
	status = end_records(&q, status);
	clean_up(&q);
	return status;
}

COMMAND(serve) = {
	.name = "serve",
	.usage = "[--unix PATH | --tcp [ADDR:]PORT | --stdio] [OPTION]...",
	.summary = "run the fake server by hand: an honest NBD server, with its knobs and lies",
	.help = "When it is ready it prints its URI, one line. Without --unix, --tcp and --stdio it takes\n"
		"the sockets that LISTEN_FDS names, else with --run it listens on a private Unix socket,\n"
		"else on port 10809 of localhost.\n",
	.options = options,
	.run = run_serve,
};
