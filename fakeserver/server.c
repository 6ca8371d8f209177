/* The event loop: one thread, epoll, no descriptor that ever blocks. */
#include "fakeserver/core.h"

#include "fakeserver/disk.h"
#include "fakeserver/event_log.h"
#include "harness/clock.h"
#include "harness/nbd.h"
#include "harness/random.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	EVENTS_AT_ONCE = 64,
	ACCEPTS_AT_ONCE = 64,
	ACCEPT_RETRY_MS = 100, /* without descriptors; sooner when a connection ends */
	DRAIN_MOST = 1 << 20,  /* bytes thrown away at a disconnect */
	TRACE_WAITS_MS = 20,   /* without anything to do, before what waits is written … */
	TRACE_MUCH = 32 << 10, /* … unless it is so much: then it is written as soon as nobody waits for us */
};

uint64_t
random_bits(struct fake_server *s)
{
	return random_next(&s->random);
}

/* ---- what is told of it ---- */

static void
record(struct fake_server *s, struct trace_record r)
{
	r.ns = now_ns();
	if (s->config->trace != NULL)
		trace_add(s->config->trace, &r);
	if (s->config->events != NULL)
		event_log(s->config->events, &r, s->started_ns);
	if (s->config->log != NULL)
		describe_record(s->config->log, &r, s->started_ns, 32);
}

/* Who has seen something end may look into the trace for it, unless it is to wait in memory. */
void
fake_flush_trace(struct fake_server *s)
{
	if (s->config->trace != NULL && !s->config->trace->is_ready)
		trace_flush(s->config->trace);
}

void
conn_record(struct conn *c, struct trace_record r)
{
	r.connection = (uint16_t)c->number;
	r.over_tls = r.kind == TRACE_MESSAGE && c->private->tls != NULL;
	record(c->server, r);
}

void
fake_mark(struct fake_server *s, const char *text)
{
	struct bytes data = bytes_of(text);

	s->counters.marks++;
	record(s, (struct trace_record){
			  .kind = TRACE_MARK, .direction = NO_DIRECTION, .data = data, .length = (uint32_t)data.len });
}

static void
record_event(struct conn *c, enum trace_kind kind, enum trace_direction direction, const char *text)
{
	struct bytes data = bytes_of(text);

	if (c->server->traced)
		conn_record(c,
		            (struct trace_record){
				    .kind = kind, .direction = direction, .data = data, .length = (uint32_t)data.len });
}

void
conn_note(struct conn *c, const char *text)
{
	record_event(c, TRACE_NOTE, NO_DIRECTION, text);
}

/* What the client sent that was taken as no message: a part of one, or what came behind the last. */
static void
record_rest(struct conn *c, const uint8_t *at, size_t n)
{
	if (c->server->traced && n > 0)
		conn_record(c, (struct trace_record){ .kind = TRACE_MESSAGE,
		                                      .message = MSG_RAW,
		                                      .direction = TO_SERVER,
		                                      .data = { at, n },
		                                      .length = n < UINT32_MAX ? (uint32_t)n : UINT32_MAX });
}

static void
record_connect(struct conn *c)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);
	char host[64], port[16], text[96] = "a local client";

	if (!c->server->traced)
		return;
	if (c->private->is_socket && getpeername(c->in, (struct sockaddr *)&a, &len) == 0 && a.ss_family != AF_UNIX &&
	    getnameinfo((struct sockaddr *)&a, len, host, sizeof(host), port, sizeof(port),
	                NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		snprintf(text, sizeof(text), "%s port %s", host, port);
	record_event(c, TRACE_CONNECT, NO_DIRECTION, text);
}

/* Only bytes that the clients sent count: the order of accept is the order in which they connected. */
static void
count_consumed(struct conn *c, size_t n)
{
	struct quiet *q = c->server->config->quiet;

	c->server->counters.bytes_received += n;
	if (q != NULL && c->number <= QUIET_CONNECTIONS)
		atomic_fetch_add(&q->consumed[c->number - 1], n);
}

/* ---- epoll ---- */

static int
watch(struct fake_server *s, struct source *source, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = source };
	int op = source->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

	if (source->watched && source->events == events)
		return 0;
	source->watched = true;
	source->events = events;
	return epoll_ctl(s->epoll, op, source->fd, &e);
}

static void
unwatch(struct fake_server *s, struct source *source)
{
	if (source->watched)
		epoll_ctl(s->epoll, EPOLL_CTL_DEL, source->fd, NULL);
	source->watched = false;
}

/* ---- the end of a connection ---- */

/* What came too late is read, since unread bytes would turn our orderly end into a reset for the peer. */
static void
drain(struct conn *c)
{
	uint8_t junk[16 << 10];
	ssize_t n = 0;

	for (size_t got = 0; c->private->is_socket && got < DRAIN_MOST; got += (size_t)n) {
		n = recv(c->in, junk, sizeof(junk), MSG_DONTWAIT);
		if (n <= 0)
			return;
		record_rest(c, junk, (size_t)n);
		count_consumed(c, (size_t)n);
	}
}

static void
close_descriptors(struct conn *c)
{
	struct conn_private *p = c->private;

	/* Closing takes a descriptor out of epoll only when nobody else has it. */
	if (p->inherited) {
		unwatch(c->server, &p->in_source);
		unwatch(c->server, &p->out_source);
	}
	close(c->in);
	if (c->out != c->in)
		close(c->out);
}

static void
unlink_conn(struct conn *c)
{
	struct conn_private *p = c->private;

	if (p->previous != NULL)
		p->previous->private->next = p->next;
	else
		c->server->conns = p->next;
	if (p->next != NULL)
		p->next->private->previous = p->previous;
	p->next = c->server->dead;
	c->server->dead = c;
}

static void
tell_full(const struct fake_server *s, bool full)
{
	if (s->config->quiet != NULL)
		quiet_be_full(s->config->quiet, full);
}

/* `who` has reset the connection; for the other kinds it is NO_DIRECTION. */
static void
conn_close_by(struct conn *c, enum trace_kind why, enum trace_direction who)
{
	struct process_event e = { .moment = PROCESS_DISCONNECT };
	struct conn_private *p = c->private;
	struct fake_server *s = c->server;

	if (p->gone)
		return;
	p->gone = true;
	/* A lie may end it in the midst of a message, which is recorded already. */
	if (c->input.len > p->taken && c->request == NULL && c->option == 0)
		record_rest(c, c->input.at + p->taken, c->input.len - p->taken);
	if (why == TRACE_DISCONNECT && !p->input_ended && p->tls == NULL)
		drain(c);
	record_event(c, why, who, "");
	fake_flush_trace(s);
	conn_process_event(c, &e);
	if (c->over_tls && p->tls != NULL && why == TRACE_DISCONNECT && !e.no_close_notify)
		tls_shut(p->tls);
	if (p->wake_ns != 0)
		s->n_delayed--;
	s->buffers -= p->counted;
	s->counters.open--;
	unlink_conn(c);
	if (e.leak)
		unwatch(s, &p->in_source);
	else
		close_descriptors(c);
	tell_full(s, false);
	if (s->config->quiet != NULL)
		quiet_end(s->config->quiet, c->number - 1);
	s->accept_again_ns = s->accept_again_ns != 0 ? 1 : 0;
	if (s->config->once)
		s->stop = true;
}

static void
conn_close(struct conn *c, enum trace_kind why)
{
	conn_close_by(c, why, NO_DIRECTION);
}

static void
conn_reset(struct conn *c)
{
	struct linger now = { .l_onoff = 1 };

	if (c->private->is_socket)
		setsockopt(c->in, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	/* Unread bytes stay unread: on a Unix socket they make the reset. */
	conn_close_by(c, TRACE_RESET, TO_CLIENT);
}

static void
free_dead(struct fake_server *s)
{
	while (s->dead != NULL) {
		struct conn *c = s->dead;
		struct conn_private *p = c->private;

		s->dead = p->next;
		buf_free(&c->input);
		buf_free(&c->output);
		buf_free(&p->held);
		buf_free(&p->info);
		free(p->marks.at);
		free(p->held_marks.at);
		free(p->units);
		free(p->queue);
		tls_free(p->tls);
		free(c);
	}
}

void
conn_end(struct conn *c)
{
	c->phase = PHASE_CLOSING;
}

/* ---- lies about the process ---- */

static void
stop_listening(struct fake_server *s)
{
	while (s->listeners != NULL) {
		struct listener *l = s->listeners;

		s->listeners = l->next;
		unwatch(s, &l->source);
		close(l->source.fd);
		l->next = s->dead_listeners;
		s->dead_listeners = l;
	}
}

void
conn_process_event(struct conn *c, struct process_event *e)
{
	struct fake_server *s = c->server;

	if (!lies(c, ON_PROCESS))
		return;
	lie_process(s, c, e);
	if (e->die) {
		fake_flush_trace(s);
		abort();
	}
	if (e->stop_listening)
		stop_listening(s);
	while (e->close_all && s->conns != NULL)
		conn_close(s->conns, TRACE_DISCONNECT);
}

/* ---- output ---- */

static void
fall_silent(struct conn *c)
{
	struct quiet *q = c->server->config->quiet;

	c->private->silent = true;
	if (q != NULL && c->number <= QUIET_CONNECTIONS)
		atomic_store(&q->silent[c->number - 1], true);
}

static void
start_delay(struct conn *c, unsigned ms)
{
	c->private->wake_ns = now_ns() + (uint64_t)ms * 1000000;
	c->server->n_delayed++;
}

/* Everything up to the mark is sent: what it stands for happens now. False: nothing more is sent for the moment. */
static bool
pass_mark(struct conn *c, const struct mark *m)
{
	switch (m->kind) {
	case MARK_MESSAGE:
		conn_record(c, (struct trace_record){ .kind = TRACE_MESSAGE,
		                                      .message = m->message,
		                                      .direction = TO_CLIENT,
		                                      .cookie = m->cookie,
		                                      .length = (uint32_t)(m->at - m->start),
		                                      .data = { c->output.at + m->start, m->at - m->start } });
		return true;
	case MARK_SPLIT:
		return true;
	case MARK_DELAY:
		start_delay(c, m->ms);
		return false;
	case MARK_CLOSE:
		conn_close(c, TRACE_DISCONNECT);
		return false;
	case MARK_RESET:
		conn_reset(c);
		return false;
	case MARK_SILENCE:
		fall_silent(c);
		return false;
	}
	return true;
}

static bool
pass_marks(struct conn *c)
{
	struct conn_private *p = c->private;

	while (p->marks_passed < p->marks.n && p->marks.at[p->marks_passed].at <= p->sent) {
		struct mark m = p->marks.at[p->marks_passed++];

		if (!pass_mark(c, &m))
			return false;
	}
	return true;
}

/* How far one write may go. */
static size_t
next_stop(const struct conn *c)
{
	const struct conn_private *p = c->private;

	for (size_t i = p->marks_passed; i < p->marks.n; i++)
		if (p->marks.at[i].kind != MARK_MESSAGE)
			return p->marks.at[i].at;
	return c->output.len;
}

/* Forgets what is sent: at once when that is all, else when it is the larger part, as its bytes have to be moved. */
static void
forget_sent(struct conn *c)
{
	struct conn_private *p = c->private;
	size_t keep = p->sent;

	if (p->sent == c->output.len && p->marks_passed == p->marks.n) {
		buf_clear(&c->output);
		if (c->output.cap > BUFFER_KEPT)
			buf_free(&c->output);
		p->sent = p->marks.n = p->marks_passed = 0;
		p->full = false;
		return;
	}
	if (p->marks_passed < p->marks.n && p->marks.at[p->marks_passed].kind == MARK_MESSAGE)
		keep = p->marks.at[p->marks_passed].start;
	if (keep < INPUT_MOST || keep < c->output.len / 2)
		return;
	buf_consume(&c->output, keep);
	p->sent -= keep;
	p->marks.n -= p->marks_passed;
	if (p->marks.n > 0)
		memmove(p->marks.at, p->marks.at + p->marks_passed, p->marks.n * sizeof(*p->marks.at));
	p->marks_passed = 0;
	for (size_t i = 0; i < p->marks.n; i++) {
		p->marks.at[i].at -= keep;
		p->marks.at[i].start -= keep;
	}
}

void
conn_flush(struct conn *c)
{
	struct conn_private *p = c->private;

	while (!p->gone && !p->silent && p->wake_ns == 0 && pass_marks(c) && unsent(c) > 0 && !p->blocked) {
		const uint8_t *from = c->output.at + p->sent;
		size_t n = next_stop(c) - p->sent;
		ssize_t sent = p->tls != NULL ? tls_send(p->tls, from, n)
		               : p->is_socket ? send(c->out, from, n, MSG_DONTWAIT | MSG_NOSIGNAL)
		                              : write(c->out, from, n);

		if (sent >= 0) {
			p->sent += (size_t)sent;
			c->server->counters.bytes_sent += (size_t)sent;
		} else if (errno == EAGAIN)
			p->blocked = true;
		else if (errno != EINTR)
			conn_close(c, errno == ECONNRESET || errno == EPIPE ? TRACE_CLOSED : TRACE_RESET);
	}
	if (!p->gone)
		forget_sent(c);
}

/* ---- input ---- */

static void
input_ends(struct conn *c)
{
	struct conn_private *p = c->private;

	p->input_ended = true;
	conn_see_tls_end(c, true, false);
	record_event(c, TRACE_CLOSED, NO_DIRECTION, "");
	/* A pipe without a writer would be reported for ever. */
	if (c->out != c->in)
		unwatch(c->server, &p->in_source);
}

static void
count_tls(struct conn *c)
{
	struct conn_private *p = c->private;
	uint64_t now = p->tls != NULL ? tls_bytes_read(p->tls) : 0;

	if (now > p->tls_counted) {
		count_consumed(c, now - p->tls_counted);
		p->tls_counted = now;
	}
}

/* The rest of a long message is read to its end and no further, so that nothing behind it has to be moved. */
static void
read_input(struct conn *c)
{
	struct conn_private *p = c->private;
	size_t rest = p->need > c->input.len ? p->need - c->input.len : 0;
	size_t want = rest > p->room ? rest : p->room;
	ssize_t n;

	if (c->input.len == 0 && c->input.cap > BUFFER_KEPT && want < BUFFER_KEPT)
		buf_free(&c->input);
	buf_reserve(&c->input, want);
	n = p->tls != NULL ? tls_recv(p->tls, c->input.at + c->input.len, want)
	    : p->is_socket ? recv(c->in, c->input.at + c->input.len, want, MSG_DONTWAIT)
	                   : read(c->in, c->input.at + c->input.len, want);
	count_tls(c);
	if (n > 0) {
		c->input.len += (size_t)n;
		if (p->tls == NULL)
			count_consumed(c, (size_t)n);
		if ((size_t)n == p->room && p->room < INPUT_MOST)
			p->room *= 2;
	} else if (n == 0) {
		input_ends(c);
	} else if (errno != EAGAIN && errno != EINTR) {
		conn_see_tls_end(c, errno != EPROTO, errno == EPROTO);
		conn_close_by(c, TRACE_RESET, TO_SERVER);
	}
}

/* What was told to the hook before a request was sent is seen before the request is. */
static void
read_input_after_marks(struct conn *c)
{
	struct fake_server *s = c->server;

	read_input(c);
	if (s->before_requests != NULL)
		s->before_requests(s->before_requests_arg);
}

/* ---- a connection's turn ---- */

static bool
wants_input(const struct conn *c)
{
	const struct conn_private *p = c->private;

	return !p->input_ended && !p->silent && c->phase != PHASE_CLOSING &&
	       (c->input.len < INPUT_MAX || c->input.len < p->need);
}

static int
watch_conn(struct conn *c)
{
	struct conn_private *p = c->private;
	uint32_t in = wants_input(c) ? EPOLLIN : 0;
	uint32_t out = p->blocked && p->wake_ns == 0 && !p->silent ? EPOLLOUT : 0;

	if (c->in == c->out)
		return watch(c->server, &p->in_source, in | out);
	if (!p->input_ended && watch(c->server, &p->in_source, in) < 0)
		return -1;
	return watch(c->server, &p->out_source, out);
}

static bool
is_drained(const struct conn *c)
{
	const struct conn_private *p = c->private;

	return unsent(c) == 0 && p->wake_ns == 0 && p->marks_passed == p->marks.n && !p->silent;
}

/* ---- memory that clients make us take ---- */

static void
count_buffers(struct conn *c)
{
	struct conn_private *p = c->private;
	struct fake_server *s = c->server;

	s->buffers -= p->counted;
	p->counted = c->input.cap + c->output.cap + p->held.cap + p->units_cap * sizeof(*p->units) +
	             p->queue_cap * sizeof(*p->queue) + (p->marks.cap + p->held_marks.cap) * sizeof(*p->marks.at);
	s->buffers += p->counted;
}

/* Buffers are kept for their next use while there is room for them. */
static void
give_back_empty(struct conn *c)
{
	struct conn_private *p = c->private;

	if (c->input.len == 0)
		buf_free(&c->input);
	if (c->output.len == 0 && p->marks.n == 0) {
		buf_free(&c->output);
		free(p->marks.at);
		p->marks = (struct marks){ 0 };
	}
	/* Between two turns nothing is queued, and nothing waits for its order. */
	free(p->units);
	free(p->queue);
	p->units = NULL;
	p->queue = NULL;
	p->units_cap = p->queue_cap = 0;
	count_buffers(c);
}

/* Many clients that never read could make us grow as much as they are; whoever has most then loses its connection. */
static void
limit_buffers(struct fake_server *s)
{
	uint64_t most = s->config->buffers_most != 0 ? s->config->buffers_most : BUFFERS_DEFAULT;

	if (s->buffers <= most)
		return;
	for (struct conn *c = s->conns; c != NULL; c = c->private->next)
		give_back_empty(c);
	while (s->buffers > most && s->conns != NULL) {
		struct conn *largest = s->conns;

		for (struct conn *c = s->conns; c != NULL; c = c->private->next)
			if (c->private->counted > largest->private->counted)
				largest = c;
		conn_close_by(largest, TRACE_RESET, TO_CLIENT);
	}
}

static bool
is_in_handshake(const struct conn *c)
{
	return c->phase == PHASE_TLS && c->private->tls != NULL;
}

static void
advance_tls(struct conn *c)
{
	if (!conn_advance_tls(c))
		conn_close(c, TRACE_DISCONNECT);
	count_tls(c);
}

static void
conn_take_turn(struct conn *c)
{
	struct conn_private *p = c->private;
	bool more;

	if (is_in_handshake(c))
		advance_tls(c);
	if (p->gone)
		return;
	do {
		more = session_take(c);
		if ((p->input_ended && !more) || c->phase == PHASE_CLOSING)
			outgoing_release(c);
		conn_flush(c);
	} while (!p->gone && more && !p->full);
	if (p->gone)
		return;
	if (c->phase == PHASE_TLS && p->tls == NULL && is_drained(c)) {
		conn_begin_tls(c);
		advance_tls(c);
	}
	if (p->gone)
		return;
	if ((c->phase == PHASE_CLOSING || p->input_ended) && is_drained(c))
		conn_close(c, TRACE_DISCONNECT);
	else if (watch_conn(c) < 0)
		conn_close(c, TRACE_RESET);
	if (p->gone)
		return;
	count_buffers(c);
	limit_buffers(c->server);
}

/* What TLS has read already no descriptor tells of. */
static void
conn_turn(struct conn *c)
{
	struct conn_private *p = c->private;

	conn_take_turn(c);
	while (!p->gone && c->over_tls && p->tls != NULL && tls_waiting(p->tls) > 0 && wants_input(c) && !p->full) {
		read_input_after_marks(c);
		conn_take_turn(c);
	}
}

static void
conn_ready(struct conn *c, struct source *source, uint32_t events)
{
	struct conn_private *p = c->private;
	bool broken = (events & (EPOLLHUP | EPOLLERR)) != 0;

	if (p->gone)
		return;
	if ((events & EPOLLOUT) != 0)
		p->blocked = false;
	if (source->kind == SOURCE_IN && wants_input(c) && !is_in_handshake(c) && (events & ~(uint32_t)EPOLLOUT) != 0)
		read_input_after_marks(c);
	else if (broken) {
		/* Nobody is there any more to send to, and epoll would say so again and again. */
		conn_close(c, TRACE_CLOSED);
	}
	if (!p->gone)
		conn_turn(c);
}

/* ---- new connections ---- */

static struct conn *
conn_new(struct fake_server *s, int in, int out, bool is_socket)
{
	struct both {
		struct conn conn;
		struct conn_private private;
	} *both = calloc(1, sizeof(*both));
	struct conn *c = &both->conn;
	struct conn_private *p = &both->private;

	if (both == NULL)
		abort();
	c->private = p;
	c->server = s;
	c->number = ++s->n_accepted;
	s->counters.open++;
	c->in = in;
	c->out = out;
	p->is_socket = is_socket;
	p->room = INPUT_FIRST;
	p->in_source = (struct source){ .kind = SOURCE_IN, .fd = in, .owner = c };
	p->out_source = (struct source){ .kind = SOURCE_OUT, .fd = out, .owner = c };
	p->next = s->conns;
	if (s->conns != NULL)
		s->conns->private->previous = c;
	s->conns = c;
	return c;
}

static void
conn_start(struct conn *c)
{
	struct process_event e = { .moment = PROCESS_ACCEPT };

	record_connect(c);
	conn_process_event(c, &e);
	if (e.refuse || (c->server->counters.open > CLIENTS_MOST && knob(c, KNOB_crowd_turned_away)))
		conn_close(c, TRACE_DISCONNECT);
	if (c->private->gone)
		return;
	session_start(c);
	conn_turn(c);
}

/* Without descriptors the listeners rest: they would be ready all the time. */
static void
rest_listeners(struct fake_server *s, bool rest)
{
	s->accept_again_ns = rest ? now_ns() + (uint64_t)ACCEPT_RETRY_MS * 1000000 : 0;
	for (struct listener *l = s->listeners; l != NULL; l = l->next)
		watch(s, &l->source, rest ? 0 : EPOLLIN);
	if (rest)
		tell_full(s, true);
}

static void
accept_some(struct fake_server *s, struct listener *l)
{
	int fd;

	for (int i = 0; i < ACCEPTS_AT_ONCE && s->listeners != NULL && !s->stop; i++) {
		if (s->counters.open >= CLIENTS_MOST && server_knob(s, KNOB_crowd_waits)) {
			rest_listeners(s, true);
			return;
		}
		fd = accept4(l->source.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
			rest_listeners(s, true);
		if (fd < 0)
			return;
		if (s->config->quiet != NULL)
			atomic_fetch_add(&s->config->quiet->accepts, 1);
		tell_full(s, false);
		/* proto.md:73-77 */
		if (l->tcp)
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
		conn_start(conn_new(s, fd, fd, true));
	}
}

int
fake_add_listener(struct fake_server *s, int fd)
{
	struct listener *l = calloc(1, sizeof(*l));
	int domain = AF_UNIX, flags = fcntl(fd, F_GETFL);

	if (l == NULL)
		return -1;
	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &(socklen_t){ sizeof(domain) });
	l->tcp = domain == AF_INET || domain == AF_INET6;
	l->source = (struct source){ .kind = SOURCE_LISTENER, .fd = fd, .owner = l };
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || watch(s, &l->source, EPOLLIN) < 0) {
		free(l);
		return -1;
	}
	l->next = s->listeners;
	s->listeners = l;
	return 0;
}

static bool
set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

int
fake_add_connection(struct fake_server *s, int in, int out)
{
	int type, domain = AF_UNIX;
	bool is_socket = getsockopt(in, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){ sizeof(type) }) == 0 &&
	                 getsockopt(out, SOL_SOCKET, SO_DOMAIN, &domain, &(socklen_t){ sizeof(domain) }) == 0;
	struct conn *c;

	/* A socket is used without waiting call by call, since others may share its flags. */
	if (!is_socket && (!set_nonblocking(in) || !set_nonblocking(out)))
		return -1;
	if (is_socket && domain != AF_UNIX)
		setsockopt(out, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
	c = conn_new(s, in, out, is_socket);
	c->private->inherited = true;
	if (watch_conn(c) < 0) {
		int saved = errno;

		c->private->gone = true;
		s->counters.open--;
		unlink_conn(c);
		free_dead(s);
		errno = saved;
		return -1;
	}
	conn_start(c);
	return 0;
}

/* ---- the loop ---- */

static int
milliseconds_until(uint64_t ns, uint64_t now)
{
	return ns <= now ? 0 : (int)((ns - now + 999999) / 1000000);
}

/* How long epoll may wait: -1 for ever. */
static int
next_timer(const struct fake_server *s)
{
	uint64_t now, first = s->accept_again_ns;

	if (s->shutting_down && (first == 0 || s->shutdown_ns < first))
		first = s->shutdown_ns;
	if (s->n_delayed == 0 && first == 0)
		return -1;
	now = now_ns();
	for (const struct conn *c = s->conns; c != NULL && s->n_delayed > 0; c = c->private->next)
		if (c->private->wake_ns != 0 && (first == 0 || c->private->wake_ns < first))
			first = c->private->wake_ns;
	return milliseconds_until(first, now);
}

static void
run_timers(struct fake_server *s)
{
	uint64_t now;

	if (s->n_delayed == 0 && s->accept_again_ns == 0 && !s->shutting_down)
		return;
	now = now_ns();
	if (s->shutting_down && s->shutdown_ns <= now)
		s->stop = true;
	if (s->accept_again_ns != 0 && s->accept_again_ns <= now)
		rest_listeners(s, false);
	for (struct conn *next, *c = s->conns; c != NULL && s->n_delayed > 0; c = next) {
		/* The turn of a connection may end others under a lie; those still lead here. */
		next = c->private->next;
		if (c->private->gone)
			break;
		if (c->private->wake_ns == 0 || c->private->wake_ns > now)
			continue;
		c->private->wake_ns = 0;
		s->n_delayed--;
		conn_turn(c);
	}
}

/* Nothing will come from us before something comes to us. */
static bool
is_idle(const struct fake_server *s)
{
	if (s->n_delayed > 0 || s->accept_again_ns != 0)
		return false;
	for (const struct conn *c = s->conns; c != NULL; c = c->private->next)
		if (!c->private->silent && unsent(c) > 0)
			return false;
	return true;
}

static int
wait_for_events(struct fake_server *s, struct epoll_event *events)
{
	struct quiet *q = s->config->quiet;
	int n, ms = next_timer(s);
	size_t waiting = s->config->trace != NULL ? trace_waiting(s->config->trace) : 0;

	if (waiting >= TRACE_MUCH && !s->config->trace->is_ready)
		ms = 0;
	if (waiting > 0 && trace_is_due(s->config->trace)) {
		trace_rest(s->config->trace);
	} else if (waiting > 0) {
		n = epoll_wait(s->epoll, events, EVENTS_AT_ONCE, ms >= 0 && ms < TRACE_WAITS_MS ? ms : TRACE_WAITS_MS);
		if (n != 0)
			return n;
		trace_rest(s->config->trace);
	}
	if (q == NULL || !is_idle(s))
		return epoll_wait(s->epoll, events, EVENTS_AT_ONCE, next_timer(s));
	n = epoll_wait(s->epoll, events, EVENTS_AT_ONCE, 0);
	if (n != 0)
		return n;
	quiet_fall_idle(q);
	n = epoll_wait(s->epoll, events, EVENTS_AT_ONCE, -1);
	quiet_wake(q);
	return n;
}

static void
dispatch(struct fake_server *s, struct source *source, uint32_t events)
{
	switch (source->kind) {
	case SOURCE_LISTENER:
		if (source->watched)
			accept_some(s, source->owner);
		break;
	case SOURCE_IN:
	case SOURCE_OUT:
		conn_ready(source->owner, source, events);
		break;
	case SOURCE_WATCHED:
		if (source->watched)
			((struct watched *)source->owner)->ready(((struct watched *)source->owner)->arg);
		break;
	case SOURCE_WAKE:
	case SOURCE_STOP:
		s->stop = true;
	}
}

/* ---- what the owner of the server asks for ---- */

int
fake_watch(struct fake_server *s, int fd, void (*ready)(void *arg), void *arg)
{
	struct watched *w = calloc(1, sizeof(*w));

	if (w == NULL)
		return -1;
	*w = (struct watched){ { .kind = SOURCE_WATCHED, .fd = fd, .owner = w }, ready, arg, s->watched };
	if (watch(s, &w->source, EPOLLIN) < 0) {
		free(w);
		return -1;
	}
	s->watched = w;
	return 0;
}

/* Events may still lead to it: it is freed with the dead. */
void
fake_unwatch(struct fake_server *s, int fd)
{
	for (struct watched *w = s->watched; w != NULL; w = w->next)
		if (w->source.fd == fd && w->source.watched) {
			unwatch(s, &w->source);
			return;
		}
}

void
fake_before_requests(struct fake_server *s, void (*call)(void *arg), void *arg)
{
	s->before_requests = call;
	s->before_requests_arg = arg;
}

int
fake_end_trace(struct fake_server *s)
{
	struct trace *t = s->config->trace;

	if (t == NULL)
		return ENOENT;
	trace_flush(t);
	t->fd = -1;
	return t->failed;
}

static void
free_unwatched(struct fake_server *s, bool all)
{
	for (struct watched **at = &s->watched; *at != NULL;) {
		struct watched *w = *at;

		if (w->source.watched && !all) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		free(w);
	}
}

static void
say(struct conn *c, struct bytes text)
{
	if (text.len == 0 || c->private->gone)
		return;
	put_bytes(&c->output, text);
	conn_turn(c);
}

static void
conn_shutdown(struct conn *c)
{
	struct process_event e = { .moment = PROCESS_SHUTDOWN };
	int waiting = 0;

	ioctl(c->in, FIONREAD, &waiting);
	c->private->shutdown_at = c->input.len + (size_t)waiting;
	conn_process_event(c, &e);
	c->server->serves_on |= e.serve_on;
	say(c, e.say);
}

void
fake_reload(struct fake_server *s)
{
	struct conn *next;

	/* What one of them brings about may end others; those still lead here, and nowhere. */
	for (struct conn *c = s->conns; c != NULL && !c->private->gone; c = next) {
		struct process_event e = { .moment = PROCESS_RELOAD };

		next = c->private->next;
		conn_process_event(c, &e);
		say(c, e.say);
	}
	if (s->config->quiet != NULL)
		quiet_reloaded(s->config->quiet);
}

void
fake_shutdown(struct fake_server *s, unsigned grace_ms)
{
	struct conn *next;

	s->shutting_down = true;
	s->shutdown_ns = now_ns() + (uint64_t)grace_ms * 1000000;
	stop_listening(s);
	/* What one of them brings about may end others; those still lead here, and nowhere. */
	for (struct conn *c = s->conns; c != NULL && !c->private->gone; c = next) {
		next = c->private->next;
		conn_shutdown(c);
	}
	if (s->config->quiet != NULL)
		quiet_begin_end(s->config->quiet);
}

unsigned
fake_disconnect(struct fake_server *s, unsigned number)
{
	struct conn *next;
	unsigned n = 0;

	for (struct conn *c = s->conns; c != NULL; c = next) {
		next = c->private->next;
		if (number != 0 && c->number != number)
			continue;
		conn_close(c, TRACE_DISCONNECT);
		n++;
	}
	return n;
}

static uint64_t
more_random(void *arg)
{
	return random_bits(arg);
}

unsigned
fake_cut_power(struct fake_server *s, enum cut how)
{
	char text[40];

	while (s->conns != NULL)
		conn_reset(s->conns);
	for (size_t i = 0; i < s->config->n_exports; i++)
		if (s->config->exports[i].cache != NULL)
			cache_cut(s->config->exports[i].cache, how, more_random, s);
	s->counters.generation++;
	snprintf(text, sizeof(text), "power cut, generation %u", s->counters.generation);
	fake_mark(s, text);
	return s->counters.generation;
}

void
fake_fail(struct fake_server *s, uint16_t command, unsigned times, uint32_t error, bool forget)
{
	s->failing[command] = (struct failing){ times, error, forget };
}

void
fake_seed(struct fake_server *s, uint64_t seed)
{
	s->random = seed;
}

struct fake_counters
fake_count(const struct fake_server *s)
{
	struct fake_counters n = s->counters;

	n.shutting_down = s->shutting_down;
	n.accepted = s->n_accepted;
	return n;
}

static void
take_events(struct fake_server *s, const struct epoll_event *events, int n)
{
	for (int i = 0; i < n; i++)
		dispatch(s, events[i].data.ptr, events[i].events);
	run_timers(s);
	free_dead(s);
	free_unwatched(s, false);
}

int
fake_run(struct fake_server *s, int stop_fd)
{
	struct epoll_event events[EVENTS_AT_ONCE];
	int n;

	s->stop_source = (struct source){ .kind = SOURCE_STOP, .fd = stop_fd };
	if (stop_fd >= 0 && watch(s, &s->stop_source, EPOLLIN) < 0)
		return -1;
	while (!s->stop && (s->listeners != NULL || s->conns != NULL)) {
		n = wait_for_events(s, events);
		if (n < 0 && errno != EINTR)
			return -1;
		take_events(s, events, n);
	}
	unwatch(s, &s->stop_source);
	return 0;
}

int
fake_turn(struct fake_server *s)
{
	struct epoll_event events[EVENTS_AT_ONCE];
	int n = epoll_wait(s->epoll, events, EVENTS_AT_ONCE, 0);

	take_events(s, events, n);
	return n < 0 && errno == EINTR ? 0 : n;
}

int
fake_fd(const struct fake_server *s)
{
	return s->epoll;
}

int
fake_timeout(const struct fake_server *s)
{
	return next_timer(s);
}

void
fake_stop(struct fake_server *s)
{
	(void)!write(s->wake, &(uint64_t){ 1 }, sizeof(uint64_t));
}

struct fake_server *
fake_new(struct fake_config *config)
{
	struct fake_server *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->config = config;
	s->traced = config->trace != NULL || config->log != NULL || config->events != NULL;
	s->started_ns = now_ns();
	s->random = config->seed;
	for (size_t i = 0; i < config->n_exports && config->trace != NULL; i++)
		disk_reads_from(config->exports[i].disk, trace_read, config->trace);
	for (size_t i = 0; i < config->n_lies; i++)
		s->lies[config->lies[i].lie->place] = true;
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->wake_source = (struct source){ .kind = SOURCE_WAKE, .fd = s->wake };
	if (s->epoll < 0 || s->wake < 0 || watch(s, &s->wake_source, EPOLLIN) < 0) {
		int saved = errno;

		fake_free(s);
		errno = saved;
		return NULL;
	}
	return s;
}

void
fake_free(struct fake_server *s)
{
	if (s == NULL)
		return;
	while (s->conns != NULL)
		conn_close(s->conns, TRACE_DISCONNECT);
	free_dead(s);
	stop_listening(s);
	while (s->dead_listeners != NULL) {
		struct listener *l = s->dead_listeners;

		s->dead_listeners = l->next;
		free(l);
	}
	free_unwatched(s, true);
	stragglers_free(s);
	free(s->extents);
	if (s->epoll >= 0)
		close(s->epoll);
	if (s->wake >= 0)
		close(s->wake);
	free(s);
}

struct fake_config *
fake_config_of(struct fake_server *s)
{
	return s->config;
}
