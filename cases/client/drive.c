#include "cases/client/drive.h"

#include "cases/client/judge.h"
#include "fakeserver/disk.h"
#include "fakeserver/listen.h"
#include "harness/client.h"
#include "harness/clock.h"
#include "harness/process.h"
#include "harness/uri.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LOOK_MS = 50, LOOKS_ON_MS = 500, LEAVES_MS = 1000 };

/* ---- the server, while an answer is waited for ---- */

static bool
serve_meanwhile(void *arg, int fd, int ms)
{
	struct drive *d = arg;
	bool serves = d->fake != NULL && !d->hold;
	int64_t until = now_ms() + ms, left;

	while ((left = until - now_ms()) > 0) {
		int timer = serves ? fake_timeout(d->fake) : -1;
		struct pollfd p[2] = { { .fd = fd, .events = POLLIN },
			               { .fd = serves ? fake_fd(d->fake) : -1, .events = POLLIN } };

		poll(p, 2, timer >= 0 && timer < left ? timer : (int)left);
		/* The driver's word is taken first: what it says may not depend on what is still to be served. */
		if (p[0].revents != 0)
			return true;
		if (serves && fake_turn(d->fake) < 0)
			harness_error(d->t, "the fake server: %s", strerror(errno));
	}
	return true;
}

static void
settle(struct drive *d)
{
	for (int i = 0; d->fake != NULL && i < 1000 && fake_turn(d->fake) > 0; i++)
		;
}

void
drive_pause(struct drive *d, int ms)
{
	serve_meanwhile(d, -1, ms);
}

/* ---- the driver ---- */

static void
start_driver(struct drive *d)
{
	struct driver_options options = {
		.factor = client_factor(d->client),
		.wait = serve_meanwhile,
		.arg = d,
		.dir = client_dir(d->client),
		.run = client_run_driver(d->client),
	};
	char error[512];

	d->driver = driver_start(client_driver(d->client), &options, error);
	if (d->driver == NULL)
		harness_error(d->t, "%s", error);
	if (!driver_greet(d->driver))
		harness_error(d->t, "%s", driver_error(d->driver));
}

static void
restart_driver(struct drive *d)
{
	driver_stop(d->driver);
	start_driver(d);
}

struct drive *
drive_new(struct test *t)
{
	struct drive *d = calloc(1, sizeof(*d));
	char error[LISTEN_MAX_ERROR];

	if (d == NULL)
		abort();
	*d = (struct drive){ .t = t, .client = client_new(t), .owed = R(client_transmission_no_disconnect) };
	d->socket = strdup(client_socket(d->client));
	d->listener = listen_on_unix(d->socket, error);
	if (d->listener < 0)
		harness_error(t, "%s", error);
	start_driver(d);
	note(t, "the driver of %s %s", driver_name(d->driver), driver_version(d->driver));
	return d;
}

void
drive_needs(struct drive *d, const char *operation, const char *flag)
{
	char feature[64];

	if (driver_has(d->driver, operation, flag))
		return;
	snprintf(feature, sizeof(feature), "%s%s%s", operation, flag != NULL ? "+" : "", flag != NULL ? flag : "");
	skip(d->t, feature, "the driver has no %s", feature);
}

/* ---- the server's coming and going ---- */

/* Made once: it costs more than all that a case does with it. */
static const uint8_t *
pattern_of(size_t length)
{
	static uint8_t *data;
	static size_t made;

	if (length > made) {
		free(data);
		data = malloc(length);
		if (data == NULL)
			abort();
		driver_pattern(DRIVE_PATTERN, 0, length, data);
		made = length;
	}
	return data;
}

static void
add_export(struct drive *d, const char *settings)
{
	struct fake_export *e = &d->exports[d->config.n_exports];
	char *text, error[256];
	enum disk_state failed;
	size_t filled;

	if (d->config.n_exports == DRIVE_EXPORTS)
		harness_error(d->t, "more than %d exports", DRIVE_EXPORTS);
	if (asprintf(&text, "%s%s%s", d->config.n_exports == 0 ? "name=,size=256k" : "size=256k",
	             *settings != '\0' ? "," : "", settings) < 0)
		abort();
	if (!export_parse(text, e, error))
		harness_error(d->t, "the export '%s': %s", text, error);
	free(text);
	d->config.n_exports++;
	filled = e->size < DRIVE_FILLED ? (size_t)e->size : DRIVE_FILLED;
	if (filled > 0 && !disk_write(e->disk, 0, filled, pattern_of(filled), &failed))
		abort();
}

void
drive_stop_server(struct drive *d)
{
	if (d->apart > 0) {
		kill(d->apart, SIGKILL);
		waitpid(d->apart, NULL, 0);
		d->apart = 0;
	}
	settle(d);
	fake_free(d->fake);
	d->fake = NULL;
	if (d->listener >= 0) {
		close(d->listener);
		unlink(d->socket);
	}
	d->listener = -1;
}

/* What connects meanwhile waits in the backlog. */
static void
end_server(struct drive *d)
{
	int kept = d->listener;

	d->listener = -1;
	drive_stop_server(d);
	d->listener = kept;
}

void
drive_end_driver(struct drive *d, enum requirement_id r)
{
	char *error;

	/*
	 * A server apart has inherited the driver's input, which then does not end; and a client that connects once more on its
	 * way out is not to wait for a server that never comes.
	 */
	if (d->apart > 0)
		drive_stop_server(d);
	error = driver_end(d->driver) ? NULL : strdup(driver_error(d->driver));

	restart_driver(d);
	if (error != NULL)
		broken_values(d->t, r, "the driver ends with exit status 0", error);
}

static void
forget_exports(struct drive *d)
{
	for (size_t i = 0; i < d->config.n_exports; i++)
		export_free(&d->exports[i]);
	d->config = (struct fake_config){ .exports = d->exports, .seed = 1, .trace = client_trace(d->client) };
	if (client_is_over_tls(d->client))
		d->config.tls = (struct fake_tls){ .credentials = client_server_credentials(d->client, TLS_NO_FLAW),
			                           .forced = true };
	free(d->uri);
	d->uri = NULL;
}

static void
listen_again(struct drive *d)
{
	char error[LISTEN_MAX_ERROR];

	if (d->listener < 0)
		d->listener = listen_on_unix(d->socket, error);
	if (d->listener < 0)
		harness_error(d->t, "%s", error);
}

static void
start_server(struct drive *d)
{
	listen_again(d);
	d->fake = fake_new(&d->config);
	if (d->fake == NULL || fake_add_listener(d->fake, fcntl(d->listener, F_DUPFD_CLOEXEC, 0)) != 0)
		harness_error(d->t, "the fake server: %s", strerror(errno));
}

static void
begin(struct drive *d)
{
	d->lied = false;
	if (d->apart > 0)
		end_server(d);
	/* What still comes of a point that was broken off is for nobody: what it would be served from is set anew. */
	if (d->open) {
		fake_free(d->fake);
		d->fake = NULL;
	}
	if (d->open || *driver_error(d->driver) != '\0' || driver_in_flight(d->driver) > 0)
		restart_driver(d);
	d->hold = d->interoperable = false;
	d->excused = REQUIREMENT_NONE;
	d->chunked = false;
	end_server(d);
	forget_exports(d);
}

/* A server apart is started by its own process: what epoll knows belongs to all who have its descriptor. */
static void
begun(struct drive *d, bool apart)
{
	listen_again(d);
	if (!apart)
		start_server(d);
	d->uri = drive_uri(d, d->exports[0].name);
	d->open = true;
	drive_mark(d);
}

void
drive_serve(struct drive *d, const char *settings, ...)
{
	va_list ap;

	begin(d);
	va_start(ap, settings);
	for (; settings != NULL; settings = va_arg(ap, const char *))
		add_export(d, settings);
	va_end(ap);
	begun(d, false);
}

void
drive_serve_liar(struct drive *d, const struct lie_use *use, const char *settings)
{
	pid_t us = getpid();
	static struct lie_use kept;

	begin(d);
	add_export(d, settings);
	kept = *use;
	d->config.lies = &kept;
	d->config.n_lies = 1;
	d->lied = true;
	begun(d, true);
	d->apart = fork();
	if (d->apart < 0)
		harness_error(d->t, "cannot start a process: %s", strerror(errno));
	if (d->apart > 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Where a lie ends the server by abort(), that is no accident to be recorded. */
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	start_server(d);
	if (getppid() == us)
		fake_run(d->fake, -1);
	_exit(0);
}

void
drive_restart_server(struct drive *d)
{
	end_server(d);
	start_server(d);
}

char *
drive_uri(struct drive *d, const char *export)
{
	struct nbd_uri u = { .transport = URI_UNIX, .socket = d->socket, .export = (char *)export };

	return drive_write_uri(d, &u);
}

char *
drive_write_uri(struct drive *d, struct nbd_uri *u)
{
	u->tls = client_is_over_tls(d->client);
	if (u->tls)
		client_put_credentials(d->client, u);
	return uri_format(u);
}

/* ---- asking ---- */

static void
judge(struct drive *d, bool left_unjudged)
{
	struct referee_setup setup = { .server_lies = d->lied,
		                       .left_unjudged = left_unjudged,
		                       .most_interoperable = d->interoperable,
		                       .excused = d->excused };

	settle(d);
	judge_trace(d->t, d->config.trace, d->from, &setup);
}

void
drive_skip_df(struct drive *d)
{
	if (d->chunked && drive_sent(d, NBD_CMD_READ, NBD_CMD_FLAG_DF) > 0)
		skip(d->t, "chunks", "the client asks for one chunk alone, by NBD_CMD_FLAG_DF");
}

void
drive_ask_sizes(struct drive *d, unsigned handle)
{
	if (driver_has(d->driver, "set", "block-size"))
		ask(d, handle, "set block-size=on");
}

void
drive_skip_refused_sizes(struct drive *d)
{
	struct wire all = drive_records(d);
	uint32_t last = NBD_REP_ACK;
	struct option_reply m;
	struct trace_record r;

	while (trace_next(&all, &r)) {
		if (r.kind != TRACE_MESSAGE || r.message != MSG_OPTION_REPLY)
			continue;
		wire_get_option_reply(wire_over(r.data), &m);
		last = m.option == NBD_OPT_GO ? m.type : last;
	}
	if (last == NBD_REP_ERR_BLOCK_SIZE_REQD)
		skip(d->t, "block sizes", "the client does not ask for the block sizes, which this server demands");
}

/* What the client says, or that it says nothing, may come of what it sent: then that is its fault. */
_Noreturn static void
client_broke(struct drive *d, enum requirement_id r, const char *want, const char *got)
{
	judge(d, true);
	drive_skip_df(d);
	broken_values(d->t, r, want, got);
}

_Noreturn static void
driver_broke(struct drive *d, const char *instead)
{
	client_broke(d, d->owed, instead, driver_error(d->driver));
}

static const char *const result_words[] = { "ok", "error", "unsupported" };

/* For the transcript, too. Small, and freed with the process. */
static struct driver_answer
keep(struct drive *d, struct driver_answer a)
{
	a.text = strdup(a.text);
	if (a.text == NULL)
		abort();
	note(d->t, "< %u %s %s", a.tag, result_words[a.result], a.text);
	return a;
}

/* TLS needs fixed newstyle (proto.md:506): who insists on it does not get far. */
static void
skip_without_tls(struct drive *d, const char *request)
{
	bool begins = strncmp(request, "connect ", 8) == 0 || strncmp(request, "haggle ", 7) == 0;

	if (begins && d->config.tls.credentials != NULL && client_is_over_tls(d->client) &&
	    (d->config.oldstyle || d->config.knob[KNOB_no_fixed_newstyle]))
		skip(d->t, "TLS", "there is none without fixed newstyle");
}

static struct driver_answer
ask_text(struct drive *d, unsigned handle, const char *request)
{
	struct driver_answer a;

	skip_without_tls(d, request);
	note(d->t, "> %u %s", handle, request);
	if (!driver_ask(d->driver, &a, handle, "%s", request))
		driver_broke(d, "an answer");
	return keep(d, a);
}

static char *
text_of(const char *fmt, va_list ap)
{
	char *text;

	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	return text;
}

struct driver_answer
ask(struct drive *d, unsigned handle, const char *fmt, ...)
{
	struct driver_answer a;
	char *request;
	va_list ap;

	va_start(ap, fmt);
	request = text_of(fmt, ap);
	va_end(ap);
	a = ask_text(d, handle, request);
	free(request);
	return a;
}

static const char *
ask_for(struct drive *d, enum requirement_id r, unsigned handle, char *request, enum driver_result wanted)
{
	struct driver_answer a = ask_text(d, handle, request);
	char want[160], got[400];

	if (a.result == DRIVER_UNSUPPORTED)
		skip(d->t, request, "the client cannot do this: %s", request);
	snprintf(want, sizeof(want), "'%.100s' is answered '%s'", request, result_words[wanted]);
	snprintf(got, sizeof(got), "'%s%s%.300s'", result_words[a.result], *a.text != '\0' ? " " : "", a.text);
	free(request);
	/* Only who says so: a client that hangs or dies over it is to blame. */
	if (a.result == DRIVER_ERROR && wanted == DRIVER_OK)
		drive_skip_refused_sizes(d);
	if (a.result != wanted)
		client_broke(d, r, want, got);
	return a.text;
}

const char *
must(struct drive *d, enum requirement_id r, unsigned handle, const char *fmt, ...)
{
	char *request;
	va_list ap;

	va_start(ap, fmt);
	request = text_of(fmt, ap);
	va_end(ap);
	return ask_for(d, r, handle, request, DRIVER_OK);
}

const char *
must_fail(struct drive *d, enum requirement_id r, unsigned handle, const char *fmt, ...)
{
	char *request;
	va_list ap;

	va_start(ap, fmt);
	request = text_of(fmt, ap);
	va_end(ap);
	return ask_for(d, r, handle, request, DRIVER_ERROR);
}

unsigned
drive_send(struct drive *d, unsigned handle, const char *fmt, ...)
{
	char *request;
	unsigned tag;
	va_list ap;

	va_start(ap, fmt);
	request = text_of(fmt, ap);
	va_end(ap);
	tag = driver_send(d->driver, handle, "%s", request);
	note(d->t, "> %u %u %s", tag, handle, request);
	free(request);
	if (tag == 0)
		driver_broke(d, "a request is taken");
	return tag;
}

/* For an answer. */
static int64_t
limit_ms(const struct drive *d)
{
	return (int64_t)(DRIVER_LIMIT_MS * client_factor(d->client));
}

struct driver_answer
drive_take(struct drive *d)
{
	int64_t until = now_ms() + limit_ms(d);
	struct driver_answer a;

	if (driver_take(d->driver, &a, -1) != DRIVER_TOOK) {
		d->n_hung += now_ms() >= until;
		driver_broke(d, "an answer");
	}
	return keep(d, a);
}

bool
drive_take_soon(struct drive *d, struct driver_answer *a, int ms)
{
	enum driver_took how = driver_take(d->driver, a, (int)(ms * client_factor(d->client)));

	if (how == DRIVER_BROKEN)
		driver_broke(d, "an answer, or none yet");
	if (how == DRIVER_TOOK)
		*a = keep(d, *a);
	return how == DRIVER_TOOK;
}

bool
drive_take_unless(struct drive *d, struct driver_answer *a, bool (*excused)(struct drive *d, int64_t waited))
{
	int64_t began = now_ms(), waited;

	while ((waited = now_ms() - began) < limit_ms(d)) {
		if (drive_take_soon(d, a, LOOK_MS))
			return true;
		if (excused(d, waited))
			return false;
	}
	d->n_hung++;
	client_broke(d, d->owed, "an answer: the connection has ended, and the client makes no other",
	             "none within the time limit");
}

bool
drive_is_sought(const struct drive *d)
{
	struct pollfd p = { .fd = d->listener, .events = POLLIN };

	return poll(&p, 1, 0) > 0;
}

static bool
looks_for_server(struct drive *d, int64_t waited)
{
	int fd = drive_is_sought(d) ? accept(d->listener, NULL, NULL) : -1;

	if (fd >= 0) {
		d->sought = true;
		close(fd);
	}
	return d->sought && waited >= LOOKS_ON_MS * client_factor(d->client);
}

void
drive_desert(struct drive *d)
{
	struct driver_answer a;

	drive_stop_server(d);
	listen_again(d);
	d->sought = false;
	while (driver_in_flight(d->driver) > 0 && drive_take_unless(d, &a, looks_for_server))
		;
}

char *
known(const struct driver_answer *a, const char *key)
{
	return driver_value(a->text, key);
}

uint32_t
disk_digest(const struct fake_export *e, uint64_t offset, uint32_t length)
{
	uint8_t *data = malloc(length + 1u);
	uint32_t digest;

	if (data == NULL)
		abort();
	disk_read(e->disk, offset, length, data);
	digest = driver_digest(data, length);
	free(data);
	return digest;
}

void
must_read_disk(struct drive *d, enum requirement_id r, unsigned handle, const struct fake_export *e, uint64_t offset,
               uint32_t length)
{
	uint32_t want = disk_digest(e, offset, length);
	const char *got = must(d, r, handle, "read %llu %u", (unsigned long long)offset, length);
	char text[100];

	if (strtoul(got, NULL, 16) == want)
		return;
	snprintf(text, sizeof(text), "the data of the disk at offset %llu, length %u: digest %08x",
	         (unsigned long long)offset, length, want);
	client_broke(d, r, text, got);
}

/* ---- what came over the wire ---- */

void
drive_mark(struct drive *d)
{
	settle(d);
	d->from = trace_end(d->config.trace);
}

struct wire
drive_records(struct drive *d)
{
	settle(d);
	return trace_records(d->t, d->config.trace, d->from);
}

unsigned
drive_sent(struct drive *d, uint16_t type, uint16_t flags)
{
	struct wire w = drive_records(d);
	struct trace_record r;
	struct request q;
	unsigned n = 0;

	while (trace_next(&w, &r))
		n += request_in(&r, &q) && q.type == type && (q.flags & flags) == flags;
	return n;
}

unsigned
drive_sent_disc(struct drive *d)
{
	int64_t until = now_ms() + (int64_t)(LEAVES_MS * client_factor(d->client));
	unsigned n;

	while ((n = drive_sent(d, NBD_CMD_DISC, 0)) == 0 && now_ms() < until)
		drive_pause(d, 1);
	return n;
}

unsigned
drive_options(struct drive *d, uint32_t option)
{
	return options_in(drive_records(d), option);
}

unsigned
drive_connections(struct drive *d)
{
	struct wire w = drive_records(d);
	struct trace_record r;
	unsigned n = 0;

	while (trace_next(&w, &r))
		n += r.kind == TRACE_CONNECT;
	return n;
}

void
drive_finish(struct drive *d)
{
	judge(d, false);
	d->open = false;
}

void
drive_finish_as(struct drive *d, const struct referee_setup *setup)
{
	settle(d);
	judge_trace(d->t, d->config.trace, d->from, setup);
	d->open = false;
}
