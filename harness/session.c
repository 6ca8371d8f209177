/* Connections of a case: bytes in and out, with deadlines; every message goes into the trace. */
#include "harness/clock.h"
#include "harness/test_private.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BESIDE_MS = 2000, UNDER_WAY_MS = 200 };

const char *
wait_text(enum outcome_of_wait w)
{
	static const char *const texts[] = { "an answer", "the connection was closed", "the connection was reset",
		                             "nothing within the time limit" };

	return texts[w];
}

/* Waits for the descriptor or for the fake server's word that nothing will come; false: the time is up. */
static bool
wait_for(struct session *s, short events, int64_t until)
{
	const struct server *server = s->test->private->server;
	const struct quiet *q = server->quiet;
	/* What was sent over TCP may be on its way still. */
	int grace = server->target->tcp ? UNDER_WAY_MS : 0;
	struct pollfd p[2] = { { .fd = s->fd, .events = events }, { .fd = q ? q->event : -1, .events = POLLIN } };
	int64_t left;
	uint64_t n;

	/* A server under Nagle's algorithm waits for our ACK, and the kernel would delay that; not our time to lose. */
	setsockopt(s->fd, IPPROTO_TCP, TCP_QUICKACK, &(int){ 1 }, sizeof(int));
	for (;;) {
		/* The order counts: first the server's word, then the socket (harness/quiet.h). */
		bool over = q != NULL && quiet_is_over(q, s->slot, s->sent);

		left = until - now_ms();
		p[0].revents = p[1].revents = 0;
		if (poll(p, over ? 1 : 2, over ? grace : left < 0 ? 0 : (int)left) < 0 && errno != EINTR)
			return false;
		if (p[0].revents != 0)
			return true;
		if (over || left <= 0)
			return false;
		if (p[1].revents != 0)
			(void)!read(q->event, &n, sizeof(n));
	}
}

/* As recv(), and as send(). */
static ssize_t
take_bytes(struct session *s, void *data, size_t len)
{
	return s->tls != NULL ? tls_recv(s->tls, data, len) : recv(s->fd, data, len, MSG_DONTWAIT);
}

static ssize_t
give_bytes(struct session *s, struct bytes b)
{
	uint64_t before = s->tls != NULL ? tls_bytes_written(s->tls) : 0;
	ssize_t n =
		s->tls != NULL ? tls_send(s->tls, b.at, b.len) : send(s->fd, b.at, b.len, MSG_NOSIGNAL | MSG_DONTWAIT);

	s->sent += s->tls != NULL ? tls_bytes_written(s->tls) - before : n > 0 ? (uint64_t)n : 0;
	return n;
}

static ssize_t
peek(struct session *s, void *data, size_t len)
{
	return s->tls != NULL ? tls_peek(s->tls, data, len) : recv(s->fd, data, len, MSG_PEEK | MSG_DONTWAIT);
}

enum tls_progress
session_handshake(struct test *t, const struct tls_setup *setup)
{
	int64_t until = now_ms() + (int64_t)(WAIT_MS * t->private->factor);
	struct session *s = t->s;
	struct tls_setup watched = *setup;
	enum tls_progress p;

	watched.trace = &t->private->trace;
	watched.connection = s->number;
	s->tls = tls_new(s->fd, &watched, (struct bytes){ 0 });
	for (;;) {
		uint64_t before = tls_bytes_written(s->tls);

		p = tls_handshake(s->tls);
		s->sent += tls_bytes_written(s->tls) - before;
		if (p == TLS_UP || p == TLS_FAILED || !wait_for(s, p == TLS_WANTS_READ ? POLLIN : POLLOUT, until))
			return p;
	}
}

enum outcome_of_wait
session_recv(struct test *t, void *data, size_t len, size_t *got)
{
	int64_t until = now_ms() + (int64_t)(WAIT_MS * t->private->factor);
	ssize_t n;

	for (*got = 0; *got < len;) {
		n = take_bytes(t->s, (uint8_t *)data + *got, len - *got);
		if (n > 0) {
			*got += (size_t)n;
			until = now_ms() + (int64_t)(WAIT_MS * t->private->factor);
		} else if (n == 0) {
			return WAIT_CLOSED;
		} else if (errno == EAGAIN || errno == EINTR) {
			if (!wait_for(t->s, POLLIN, until))
				return WAIT_TIMED_OUT;
		} else {
			return WAIT_RESET;
		}
	}
	return WAIT_OK;
}

static void
send_all(struct test *t, struct bytes b)
{
	int64_t until = now_ms() + (int64_t)(WAIT_MS * t->private->factor);
	struct session *s = t->s;
	ssize_t n;

	while (b.len > 0 && !s->write_failed) {
		n = give_bytes(s, b);
		if (n >= 0) {
			b.at += n;
			b.len -= (size_t)n;
			until = now_ms() + (int64_t)(WAIT_MS * t->private->factor);
		} else if (errno != EINTR && (errno != EAGAIN || !wait_for(s, POLLOUT, until))) {
			/* It reads no more; what it has sent is still looked at, and the silence is found there. */
			s->write_failed = true;
			note(t, "sending stopped: %s", errno == EAGAIN ? "it reads no more" : strerror(errno));
		}
	}
}

void
session_send(struct test *t, enum message_kind kind, uint64_t cookie, struct bytes head, struct bytes data)
{
	struct buf b = { 0 };
	size_t snap = t->private->trace.snap;

	put_bytes(&b, head);
	buf_put(&b, data.at, data.len < snap ? data.len : snap);
	trace_add(&t->private->trace, &(struct trace_record){ .kind = TRACE_MESSAGE,
	                                                      .message = kind,
	                                                      .direction = TO_SERVER,
	                                                      .over_tls = t->s->tls != NULL,
	                                                      .connection = t->s->number,
	                                                      .cookie = cookie,
	                                                      .length = (uint32_t)(head.len + data.len),
	                                                      .data = { b.at, b.len } });
	buf_free(&b);
	send_all(t, head);
	send_all(t, data);
}

void
trace_received(struct test *t, enum message_kind kind, uint64_t cookie, struct bytes data)
{
	trace_add(&t->private->trace, &(struct trace_record){ .kind = TRACE_MESSAGE,
	                                                      .message = kind,
	                                                      .direction = TO_CLIENT,
	                                                      .over_tls = t->s->tls != NULL,
	                                                      .connection = t->s->number,
	                                                      .cookie = cookie,
	                                                      .length = (uint32_t)data.len,
	                                                      .data = data });
}

void
trace_wait(struct test *t, enum outcome_of_wait w)
{
	static const enum trace_kind kinds[] = {
		[WAIT_CLOSED] = TRACE_CLOSED, [WAIT_RESET] = TRACE_RESET, [WAIT_TIMED_OUT] = TRACE_TIMEOUT
	};

	if (w != WAIT_OK)
		trace_text(&t->private->trace, kinds[w], t->s->number, w == WAIT_TIMED_OUT ? "nothing came" : "");
}

uint8_t *
recv_or_broken_by(struct test *t, size_t len, enum requirement_id closed, enum requirement_id silent, const char *what)
{
	struct buf *in = &t->s->in;
	enum outcome_of_wait w;
	char got_text[200];
	size_t got;

	buf_grow(in, len);
	w = session_recv(t, in->at + in->len - len, len, &got);
	if (w == WAIT_OK)
		return in->at + in->len - len;
	in->len -= len - got;
	if (in->len > 0)
		trace_received(t, MSG_RAW, 0, (struct bytes){ in->at, in->len });
	trace_wait(t, w);
	if (got > 0)
		snprintf(got_text, sizeof(got_text), "%s after %zu of %zu bytes", wait_text(w), got, len);
	else
		snprintf(got_text, sizeof(got_text), "%s", wait_text(w));
	broken_values(t, w == WAIT_TIMED_OUT ? silent : closed, what, got_text);
}

uint8_t *
recv_or_broken(struct test *t, size_t len, enum requirement_id owed, const char *what)
{
	return recv_or_broken_by(t, len, owed, owed, what);
}

/* ---- opening and closing ---- */

void
open_connection(struct test *t)
{
	struct test_private *p = t->private;
	const struct server *server = p->server;
	struct session *s;
	char error[512];
	bool gone;
	int fd;

	if (p->n_connections > 0)
		need_connections(t);
	fd = server_connect(server, &gone, error);
	p->outcome.gone = fd < 0 && gone;
	if (fd < 0 && p->n_connections == 0)
		harness_error(t, "%s", error);
	if (fd < 0 && server == &p->cut)
		broken_values(t, R(flush_persists), "the server serves again after the power cut", error);
	if (fd < 0)
		broken_values(t, R(greeting_magic), "the server accepts another connection", error);
	s = calloc(1, sizeof(*s));
	if (s == NULL)
		abort();
	*s = (struct session){ .next = p->sessions,
		               .test = t,
		               .fd = fd,
		               .number = (uint16_t)++p->n_connections,
		               .next_cookie = FIRST_COOKIE,
		               .block = { 1, 4096, NBD_DEFAULT_MAX_PAYLOAD } };
	if (server->quiet != NULL)
		s->slot = atomic_fetch_add(&server->quiet->connects, 1);
	p->sessions = t->s = s;
	trace_text(&p->trace, TRACE_CONNECT, s->number, "the server");
}

void
need_connections(struct test *t)
{
	if (t->private->server->target->via == VIA_STDIO)
		skip(t, "connections", "a server on standard input and output serves one connection");
}

void
use(struct test *t, struct session *s)
{
	t->s = s;
}

static void
close_session(struct test *t, struct session *s)
{
	if (s == NULL || s->fd < 0)
		return;
	trace_text(&t->private->trace, TRACE_DISCONNECT, s->number, "");
	if (s->tls != NULL && !s->write_failed)
		tls_shut(s->tls);
	tls_free(s->tls);
	s->tls = NULL;
	close(s->fd);
	s->fd = -1;
	if (t->private->server->quiet != NULL)
		quiet_await_end(t->private->server->quiet, s->slot, t->private->server->pid, t->private->server->pidfd);
	if (t->private->server->stdio >= 0)
		shutdown(t->private->server->stdio, SHUT_RDWR);
}

void
disconnect(struct test *t)
{
	close_session(t, t->s);
}

void
close_sessions(struct test *t)
{
	struct session *next;

	for (struct session *s = t->private->sessions; s != NULL; s = next) {
		next = s->next;
		close_session(t, s);
		buf_free(&s->in);
		free(s);
	}
	t->private->sessions = t->s = NULL;
}

void
shut_write(struct test *t)
{
	if (t->s->tls != NULL)
		tls_shut(t->s->tls);
	shutdown(t->s->fd, SHUT_WR);
	note(t, "we shut down our sending side");
}

/* ---- how it ends ---- */

size_t
peek_bytes(struct test *t, void *data, size_t len)
{
	ssize_t n = peek(t->s, data, len);

	return n > 0 ? (size_t)n : 0;
}

uint32_t
peek_magic(struct test *t)
{
	uint8_t bytes[4] = { 0 };
	struct wire w = wire(bytes, sizeof(bytes));

	peek_bytes(t, bytes, sizeof(bytes));
	return wire_be32(&w);
}

bool
peer_goes_on(struct test *t, enum requirement_id owed)
{
	int64_t until = now_ms() + (int64_t)(WAIT_MS * t->private->factor);
	uint8_t byte;
	ssize_t n;

	while ((n = peek(t->s, &byte, 1)) < 0 && (errno == EAGAIN || errno == EINTR)) {
		if (wait_for(t->s, POLLIN, until))
			continue;
		trace_wait(t, WAIT_TIMED_OUT);
		broken_values(t, owed, "an answer, or the end of the connection", wait_text(WAIT_TIMED_OUT));
	}
	if (n <= 0)
		trace_wait(t, n == 0 ? WAIT_CLOSED : WAIT_RESET);
	return n > 0;
}

bool
open_beside(struct test *t)
{
	_Atomic bool *one_at_a_time = t->private->server->one_at_a_time;

	need_connections(t);
	if (one_at_a_time != NULL && *one_at_a_time)
		return false;
	open_connection(t);
	if (wait_for(t->s, POLLIN, now_ms() + (int64_t)(BESIDE_MS * t->private->factor)))
		return peer_goes_on(t, R(greeting_magic));
	trace_wait(t, WAIT_TIMED_OUT);
	if (one_at_a_time != NULL)
		*one_at_a_time = true;
	return false;
}

void
expect_disconnect(struct test *t, enum requirement_id r)
{
	enum outcome_of_wait w;
	char text[80];
	uint8_t bytes[256];
	size_t got;

	w = session_recv(t, bytes, sizeof(bytes), &got);
	if (got > 0)
		trace_received(t, MSG_RAW, 0, (struct bytes){ bytes, got });
	trace_wait(t, w);
	if (got > 0) {
		snprintf(text, sizeof(text), "%zu%s bytes of data", got, w == WAIT_OK ? " or more" : "");
		broken_values(t, r, "the server ends the connection, without more data", text);
	}
	if (w == WAIT_TIMED_OUT)
		broken_values(t, r, "the server ends the connection", wait_text(w));
}
