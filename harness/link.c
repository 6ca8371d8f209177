#include "harness/link.h"

#include "harness/clock.h"
#include "harness/test_private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOM = 16384, SLOTS = 2, ENDING_MS = 500 };
enum step { STEP_OPEN, STEP_SEND, STEP_RECV, STEP_END, STEP_CLOSE };

const char *
link_end_text(enum link_end e)
{
	static const enum outcome_of_wait waits[] = { WAIT_OK, WAIT_CLOSED, WAIT_RESET, WAIT_TIMED_OUT };

	return e == LINK_SILENT ? "no whole answer within the time limit" : wait_text(waits[e]);
}

/* ---- the log ---- */

static void
log_step(struct link *l, enum step step, struct bytes data)
{
	uint32_t n[2] = { (uint32_t)step << 8 | l->slot, (uint32_t)data.len };
	uint32_t came[2] = { STEP_RECV << 8 | l->slot, l->unlogged };

	if (l->log == NULL)
		return;
	if (l->unlogged > 0)
		buf_put(l->log, came, sizeof(came));
	l->unlogged = 0;
	buf_put(l->log, n, sizeof(n));
	put_bytes(l->log, data);
}

/* ---- one connection ---- */

int
link_patience_ms(const struct test *t)
{
	return (int)(WAIT_MS * t->private->factor);
}

char *
server_fault_text(const struct test *t)
{
	return t->private->server == &t->private->cut ? server_fault(&t->private->cut) : NULL;
}

/* Blocking, so that a wait is one system call. */
static int
connect_blocking(struct test *t, char error[512])
{
	int ms = link_patience_ms(t);
	struct timeval limit = { ms / 1000, ms % 1000 * 1000 + 1 };
	bool gone;
	char *fault = server_fault_text(t);
	int fd = fault == NULL ? server_connect(t->private->server, &gone, error) : -1;

	if (fault != NULL)
		snprintf(error, 512, "%s", fault);
	free(fault);
	if (fd >= 0) {
		fcntl(fd, F_SETFL, 0);
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	}
	return fd;
}

void
link_begin_wait(struct link *l)
{
	l->until = now_ms() + link_patience_ms(l->t);
	l->late = false;
}

bool
link_open(struct link *l, struct test *t, char error[512])
{
	l->t = t;
	l->end = LINK_OPEN;
	l->at = 0;
	l->unlogged = 0;
	buf_clear(&l->in);
	l->tls = NULL;
	l->fd = connect_blocking(t, error);
	if (l->fd < 0)
		return false;
	link_begin_wait(l);
	log_step(l, STEP_OPEN, (struct bytes){ 0 });
	l->number = (uint16_t)++t->private->n_connections;
	if (l->traced)
		trace_text(&t->private->trace, TRACE_CONNECT, l->number, "the server");
	return true;
}

void
link_close(struct link *l)
{
	if (l->fd < 0)
		return;
	if (l->traced)
		trace_text(&l->t->private->trace, TRACE_DISCONNECT, l->number, "");
	log_step(l, STEP_CLOSE, (struct bytes){ 0 });
	if (l->tls != NULL && (l->end == LINK_OPEN || l->end == LINK_CLOSED))
		tls_shut(l->tls);
	tls_free(l->tls);
	l->tls = NULL;
	close(l->fd);
	l->fd = -1;
}

void
link_free(struct link *l)
{
	link_close(l);
	buf_free(&l->in);
}

void
link_record(struct link *l, enum message_kind kind, bool to_server, uint64_t cookie, struct bytes b)
{
	if (!l->traced)
		return;
	trace_add(&l->t->private->trace, &(struct trace_record){ .kind = TRACE_MESSAGE,
	                                                         .message = kind,
	                                                         .direction = to_server ? TO_SERVER : TO_CLIENT,
	                                                         .over_tls = l->tls != NULL,
	                                                         .connection = l->number,
	                                                         .cookie = cookie,
	                                                         .length = (uint32_t)b.len,
	                                                         .data = b });
}

/* The server takes no more before it has got rid of its replies. False where there is nothing to wait for any more. */
static bool
take_in(struct link *l)
{
	struct pollfd p = { .fd = l->fd, .events = POLLIN | POLLOUT };
	int64_t left = l->until - now_ms();
	ssize_t got;

	if (left <= 0 || poll(&p, 1, (int)left) <= 0)
		return false;
	if ((p.revents & POLLIN) == 0)
		return (p.revents & POLLOUT) != 0;
	got = l->tls != NULL ? tls_recv(l->tls, buf_grow(&l->in, ROOM), ROOM)
	                     : recv(l->fd, buf_grow(&l->in, ROOM), ROOM, MSG_DONTWAIT);
	l->in.len -= ROOM - (size_t)(got > 0 ? got : 0);
	l->unlogged += (uint32_t)(got > 0 ? got : 0);
	/* A part of a TLS record is no byte yet. */
	return got > 0 || (l->tls != NULL && got < 0 && errno == EAGAIN);
}

void
link_send(struct link *l, enum message_kind kind, uint64_t cookie, struct bytes message)
{
	ssize_t n;

	link_record(l, kind, true, cookie, message);
	log_step(l, STEP_SEND, message);
	link_begin_wait(l);
	for (; message.len > 0; message.at += n, message.len -= (size_t)n) {
		n = l->tls != NULL ? tls_send(l->tls, message.at, message.len)
		                   : send(l->fd, message.at, message.len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0)
			continue;
		if ((errno != EAGAIN && errno != EINTR) || !take_in(l))
			return;
		n = 0;
	}
}

void
link_set_end(struct link *l, enum link_end end)
{
	static const enum trace_kind kinds[] = {
		[LINK_CLOSED] = TRACE_CLOSED, [LINK_RESET] = TRACE_RESET, [LINK_SILENT] = TRACE_TIMEOUT
	};

	l->end = end;
	if (!l->traced)
		return;
	if (l->in.len > l->at)
		link_record(l, MSG_RAW, false, 0, (struct bytes){ l->in.at + l->at, l->in.len - l->at });
	trace_text(&l->t->private->trace, kinds[l->end], l->number, l->end == LINK_SILENT ? "no whole answer" : "");
}

static bool
wait_until(const struct link *l, short events)
{
	struct pollfd p = { .fd = l->fd, .events = events };
	int64_t left = l->until - now_ms();

	return left > 0 && poll(&p, 1, (int)left) > 0;
}

/* As recv() that waits. */
static ssize_t
recv_tls(struct link *l, uint8_t *at, size_t room)
{
	ssize_t got;

	for (;;) {
		got = tls_recv(l->tls, at, room);
		if (got >= 0 || errno != EAGAIN)
			return got;
		if (!wait_until(l, POLLIN)) {
			errno = EAGAIN;
			return -1;
		}
	}
}

bool
link_start_tls(struct link *l, char error[512])
{
	struct tls_setup setup = target_tls_setup(l->t->private->server->target->tls);
	enum tls_progress progress;

	setup.trace = l->traced ? &l->t->private->trace : NULL;
	setup.connection = l->number;
	link_begin_wait(l);
	l->tls = tls_new(l->fd, &setup, (struct bytes){ l->in.at + l->at, l->in.len - l->at });
	buf_clear(&l->in);
	l->at = 0;
	for (;;) {
		progress = tls_handshake(l->tls);
		if (progress == TLS_UP || progress == TLS_FAILED)
			break;
		if (!wait_until(l, progress == TLS_WANTS_READ ? POLLIN : POLLOUT)) {
			link_set_end(l, LINK_SILENT);
			break;
		}
	}
	snprintf(error, 512, "%s", l->end == LINK_SILENT ? link_end_text(l->end) : tls_why(l->tls));
	return progress == TLS_UP;
}

/* The first part that is late may have been there in time: it is us who may have been stopped. */
static ssize_t
recv_in_time(struct link *l, uint8_t *at, size_t room)
{
	ssize_t got;

	do
		got = l->tls != NULL ? recv_tls(l, at, room) : recv(l->fd, at, room, 0);
	while (got < 0 && errno == EINTR);
	if (got <= 0 || now_ms() < l->until)
		return got;
	errno = EAGAIN;
	got = l->late ? -1 : got;
	l->late = true;
	return got;
}

const uint8_t *
link_need(struct link *l, size_t n)
{
	size_t room = n > ROOM ? n : ROOM;
	ssize_t got;

	while (l->in.len - l->at < n && l->end == LINK_OPEN) {
		buf_consume(&l->in, l->at);
		l->at = 0;
		got = recv_in_time(l, buf_grow(&l->in, room), room);
		l->in.len -= room - (size_t)(got > 0 ? got : 0);
		l->unlogged += (uint32_t)(got > 0 ? got : 0);
		if (got <= 0)
			link_set_end(l, got == 0 ? LINK_CLOSED : errno == EAGAIN ? LINK_SILENT : LINK_RESET);
	}
	return l->in.len - l->at >= n ? l->in.at + l->at : NULL;
}

struct bytes
link_take(struct link *l, enum message_kind kind, uint64_t cookie, size_t n)
{
	struct bytes b = { l->in.at + l->at, n };

	link_record(l, kind, false, cookie, b);
	l->at += n;
	return b;
}

bool
link_ends(struct link *l)
{
	bool more = link_need(l, 1) != NULL;

	if (!more && l->end != LINK_SILENT)
		log_step(l, STEP_END, (struct bytes){ 0 });
	return !more && l->end != LINK_SILENT;
}

/* ---- without a look ---- */

static bool
recv_so_many(const struct test *t, int fd, size_t n)
{
	static uint8_t room[1 << 17];
	int64_t until = now_ms() + link_patience_ms(t);
	ssize_t got;

	for (; n > 0; n -= (size_t)got) {
		got = recv(fd, room, n < sizeof(room) ? n : sizeof(room), 0);
		if (got <= 0 || ((size_t)got < n && now_ms() >= until))
			return false;
	}
	return true;
}

static bool
do_step(struct test *t, int *fd, enum step step, struct bytes data)
{
	char error[512];
	uint8_t byte;

	switch (step) {
	case STEP_OPEN:
		*fd = connect_blocking(t, error);
		return *fd >= 0;
	case STEP_SEND:
		return send(*fd, data.at, data.len, MSG_NOSIGNAL) == (ssize_t)data.len;
	case STEP_RECV:
		return recv_so_many(t, *fd, data.len);
	case STEP_END:
		return recv(*fd, &byte, 1, 0) <= 0;
	default:
		close(*fd);
		*fd = -1;
		return true;
	}
}

bool
link_replay(struct test *t, struct bytes log)
{
	struct bytes data;
	int fd[SLOTS] = { -1, -1 };
	uint32_t n[2];
	bool ok = true;

	while (log.len > 0 && ok) {
		memcpy(n, log.at, sizeof(n));
		data = (struct bytes){ log.at + sizeof(n), n[1] };
		ok = do_step(t, &fd[n[0] & 0xff], n[0] >> 8, data);
		n[1] = n[0] >> 8 == STEP_SEND ? n[1] : 0;
		log.at += sizeof(n) + n[1];
		log.len -= sizeof(n) + n[1];
	}
	for (int i = 0; i < SLOTS; i++)
		if (fd[i] >= 0)
			close(fd[i]);
	return ok;
}

/* ---- the server anew ---- */

void
await_server_end(const struct test *t)
{
	struct pollfd p = { .fd = t->private->server->pidfd, .events = POLLIN };

	poll(&p, 1, ENDING_MS);
}

static FILE *
open_output(const struct test *t)
{
	const char *dir = t->private->server->dir;
	char *path;
	FILE *f;

	if (dir == NULL || asprintf(&path, "%s/output", dir) < 0)
		return NULL;
	f = fopen(path, "re");
	free(path);
	return f;
}

size_t
server_output_size(const struct test *t)
{
	FILE *f = open_output(t);
	long size = f != NULL && fseek(f, 0, SEEK_END) == 0 ? ftell(f) : 0;

	if (f != NULL)
		fclose(f);
	return size > 0 ? (size_t)size : 0;
}

char *
server_output(const struct test *t, size_t from)
{
	size_t size = server_output_size(t), n = size > from ? size - from : 0;
	char *text = calloc(1, n + 1);
	FILE *f = open_output(t);

	if (text == NULL)
		abort();
	if (f != NULL && fseek(f, (long)from, SEEK_SET) == 0)
		n = fread(text, 1, n, f);
	if (f != NULL)
		fclose(f);
	return text;
}

void
server_is_up(struct test *t)
{
	if (t->private->server == &t->private->cut)
		t->private->cut.starting = false;
}

bool
can_restart_server(const struct test *t)
{
	enum via via = t->private->server->target->via;

	return via == VIA_UNIX || via == VIA_TCP || via == VIA_ACTIVATION;
}

bool
restart_server(struct test *t, char error[512])
{
	struct test_private *p = t->private;

	if (p->server != &p->cut) {
		/* From here on its end is no news to the runner. */
		report_cut(t);
		p->cut = *p->server;
	}
	p->server = &p->cut;
	close_sessions(t);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	return server_restart(&p->cut, error);
}
