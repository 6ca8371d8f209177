#include "cases/client/host.h"

#include "cases/client/judge.h"
#include "fakeserver/disk.h"
#include "fakeserver/listen.h"
#include "harness/nbd.h"
#include "harness/uri.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TICK_MS = 50, QUIET_TICKS = 4, STEP_MS = 2000, PIECE = 65536 };

/* A tenth in the middle is a hole, so that holes are met as well. */
static bool
is_hole(uint64_t size, uint64_t offset)
{
	return offset / PIECE * PIECE >= size / 10 * 4 && offset / PIECE * PIECE < size / 10 * 5;
}

static void
fill_disk(struct disk *d, uint64_t size)
{
	static uint8_t piece[PIECE];
	enum disk_state failed;

	for (uint64_t at = 0; at < size; at += PIECE) {
		size_t n = size - at < PIECE ? (size_t)(size - at) : PIECE;

		if (is_hole(size, at))
			continue;
		fill_pattern(piece, n, at, 1);
		if (!disk_write(d, at, n, piece, &failed))
			abort();
	}
}

static void
fill_file(struct test *t, const char *path, uint64_t size)
{
	static uint8_t piece[PIECE];
	FILE *f = fopen(path, "we");

	for (uint64_t at = 0; f != NULL && at < size; at += PIECE) {
		size_t n = size - at < PIECE ? (size_t)(size - at) : PIECE;

		memset(piece, 0, n);
		if (!is_hole(size, at))
			fill_pattern(piece, n, at, 2);
		(void)!fwrite(piece, 1, n, f);
	}
	if (f == NULL || fclose(f) != 0)
		harness_error(t, "cannot make %s: %s", path, strerror(errno));
}

struct host *
host_new(struct test *t, const char *settings)
{
	static struct client *client;
	struct host *h = calloc(1, sizeof(*h));
	char text[512], error[256];

	if (h == NULL)
		abort();
	if (client == NULL)
		client = client_new(t);
	*h = (struct host){ .t = t, .client = client };
	snprintf(text, sizeof(text), "name=,size=%llu,description=a disk of the fake server%s%s",
	         (unsigned long long)client_size(client), settings != NULL ? "," : "",
	         settings != NULL ? settings : "");
	if (!export_parse(text, &h->export, error))
		harness_error(t, "the export '%s': %s", text, error);
	free(h->export.name);
	h->export.name = strdup(client_export(client));
	fill_disk(h->export.disk, h->export.size);
	h->config = (struct fake_config){ .exports = &h->export, .n_exports = 1, .seed = 1 };
	h->config.trace = client_trace(client);
	if (client_is_over_tls(client))
		h->config.tls = (struct fake_tls){ .credentials = client_server_credentials(client, TLS_NO_FLAW),
			                           .forced = true };
	return h;
}

struct watch {
	struct host *host;
	int fd;
	pid_t server; /* where it is a process of its own; else 0 */
	unsigned ticks, quiet;
	uint64_t activity;
};

/*
 * Time is up; or, for a client that a lie keeps waiting, nothing has come and gone for a while, and it does nothing. Whoever
 * is quiet when time is up is given that while. Who would go on if it had a processor is not quiet, nor is who waits for a
 * server that would.
 */
static bool
is_over(struct watch *w)
{
	struct host *h = w->host;
	struct work client = client_work(h->client);
	uint64_t activity = (uint64_t)trace_end(h->config.trace) + client.cpu;
	bool runs = client.runs || (w->server > 0 && work_of(w->server).runs), lies = h->lying || h->unlawful;

	w->ticks++;
	w->quiet = activity == w->activity && !runs ? w->quiet + 1 : 0;
	w->activity = activity;
	h->waited = lies && w->quiet >= QUIET_TICKS;
	return h->waited || (w->ticks * TICK_MS >= (unsigned)client_limit_ms(h->client) && (!lies || w->quiet == 0));
}

static void
on_tick(void *arg)
{
	struct watch *w = arg;
	uint64_t ticks;

	(void)!read(w->fd, &ticks, sizeof(ticks));
	if (is_over(w))
		fake_stop(w->host->fake);
}

static void
watch_from_beside(struct host *h, pid_t server)
{
	struct watch w = { .host = h, .server = server };
	struct pollfd ended = { .fd = client_pidfd(h->client), .events = POLLIN };

	while (poll(&ended, 1, TICK_MS) == 0)
		if (is_over(&w))
			return;
}

static void
serve_until_it_ends(struct host *h)
{
	struct watch w = { .host = h, .fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK) };
	struct itimerspec tick = { { 0, TICK_MS * 1000000 }, { 0, TICK_MS * 1000000 } };

	if (w.fd < 0 || timerfd_settime(w.fd, 0, &tick, NULL) != 0 || fake_watch(h->fake, w.fd, on_tick, &w) != 0 ||
	    fake_run(h->fake, client_pidfd(h->client)) != 0)
		harness_error(h->t, "the fake server: %s", strerror(errno));
	fake_unwatch(h->fake, w.fd);
	close(w.fd);
}

static pid_t
serve_apart(struct host *h)
{
	pid_t us = getpid(), pid = fork();

	if (pid < 0)
		harness_error(h->t, "cannot start a process: %s", strerror(errno));
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Where a lie ends the server by abort(), that is no accident to be recorded. */
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	if (getppid() == us)
		fake_run(h->fake, -1);
	_exit(0);
}

static void
end_server(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void
start_server(struct host *h)
{
	char error[LISTEN_MAX_ERROR];
	int fd = listen_on_unix(client_socket(h->client), error);

	if (fd < 0)
		harness_error(h->t, "%s", error);
	h->fake = fake_new(&h->config);
	if (h->fake == NULL || fake_add_listener(h->fake, fd) != 0)
		harness_error(h->t, "the fake server: %s", strerror(errno));
	if (h->failures > 0)
		fake_fail(h->fake, h->failing, h->failures, NBD_EIO, false);
}

static void
listen_by_tcp(struct host *h)
{
	struct nbd_uri u = { .transport = URI_TCP, .export = h->export.name };
	char error[LISTEN_MAX_ERROR], port[16];
	struct tcp_listeners l;

	if (listen_on_tcp("0", &l, error) != LISTEN_OK)
		skip(h->t, "tcp", "%s", error);
	for (size_t i = 0; i < l.n; i++)
		if (fake_add_listener(h->fake, l.fds[i]) != 0)
			harness_error(h->t, "the fake server: %s", strerror(errno));
	snprintf(port, sizeof(port), "%u", l.port);
	u.host = (char *)h->tcp;
	u.port = port;
	u.tls = h->config.tls.credentials != NULL;
	if (u.tls)
		client_put_credentials(h->client, &u);
	client_go_to(h->client, &u);
}

void
host_run(struct host *h)
{
	const char *in = client_in(h->client);
	pid_t server = 0;

	if (client_is_over_tls(h->client) && h->config.tls.credentials != NULL &&
	    (h->config.oldstyle || h->config.knob[KNOB_no_fixed_newstyle]))
		skip(h->t, "TLS", "there is none without fixed newstyle");
	h->seen_from = trace_end(h->config.trace);
	if (in != NULL)
		fill_file(h->t, in, h->export.size);
	start_server(h);
	if (h->tcp != NULL)
		listen_by_tcp(h);
	if (h->lying)
		server = serve_apart(h);
	client_start(h->client);
	if (h->lying)
		watch_from_beside(h, server);
	else
		serve_until_it_ends(h);
	h->end = client_finish(h->client);
	if (h->lying)
		end_server(server);
	/* What it sent last is still to be taken. */
	for (int i = 0; i < 1000 && fake_turn(h->fake) > 0; i++)
		;
	h->seen = fake_count(h->fake);
	fake_free(h->fake);
	h->fake = NULL;
	unlink(client_socket(h->client));
}

struct wire
host_records(struct host *h)
{
	return trace_records(h->t, h->config.trace, h->seen_from);
}

/* ---- the judgement ---- */

bool
succeeded(const struct host *h)
{
	return h->end.status == 0;
}

bool
hung(const struct host *h)
{
	uint64_t step = (uint64_t)(STEP_MS * client_factor(h->client));

	return h->end.killed && !h->waited &&
	       (!(h->lying || h->unlawful) || !goes_forward(h->t, h->config.trace, h->seen_from, h->end.ns, step));
}

void
judge_end(struct host *h, enum requirement_id r)
{
	if (hung(h) || (h->end.signal != 0 && h->end.signal != SIGPIPE))
		broken_values(h->t, r, "the client ends by itself", h->end.text);
	if (h->end.killed)
		/* No verdict: whether it still asks for something when it hears the lie is chance. */
		tell(h->t, "the client %s, until it is ended",
		     h->waited ? "waits for the server" : "goes on in small steps");
}

bool
copies(const struct host *h)
{
	return client_in(h->client) != NULL || client_out(h->client) != NULL;
}

static void
compare(struct host *h, const char *path, enum requirement_id r)
{
	static uint8_t want[PIECE], is[PIECE];
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	for (uint64_t at = 0; at < h->export.size; at += PIECE) {
		size_t n = h->export.size - at < PIECE ? (size_t)(h->export.size - at) : PIECE, i = 0;

		disk_read(h->export.disk, at, n, want);
		if (fd < 0 || pread(fd, is, n, (off_t)at) != (ssize_t)n)
			broken(h->t, r, "the client ends with exit status 0, and its copy is not whole: %s",
			       fd < 0 ? strerror(errno) : "it is short");
		while (i < n && want[i] == is[i])
			i++;
		if (i < n)
			broken(h->t, r,
			       "the client ends with exit status 0, and at offset %llu the export holds 0x%02x, the "
			       "file "
			       "0x%02x",
			       (unsigned long long)(at + i), want[i], is[i]);
	}
	close(fd);
}

void
judge_copy(struct host *h, enum requirement_id r)
{
	if (!succeeded(h))
		return;
	if (client_in(h->client) != NULL)
		compare(h, client_in(h->client), r);
	if (client_out(h->client) != NULL)
		compare(h, client_out(h->client), r);
}

void
judge_rules(struct host *h)
{
	if (!h->end.killed)
		judge_trace(h->t, h->config.trace, h->seen_from, &(struct referee_setup){ .server_lies = h->lying });
}
