/* Connections of the fake client: how bytes come and go, and what time limits there are. */
#include "fakeserver/client/lying.h"
#include "harness/clock.h"
#include "harness/uri.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { RECEIVE = 1 << 16, EVENTS = 64, RETRY_MS = 2 };

static void
name_of_errno(int error, char text[40])
{
	const char *name = strerrorname_np(error);

	snprintf(text, 40, "%s", name != NULL ? name : "EIO");
}

static void
over_with_errno(struct fc_session *s, int error)
{
	char text[40];

	name_of_errno(error, text);
	fc_over(s, text);
}

static void
watch(struct fc_session *s)
{
	bool want = s->stage == FC_CONNECTING || (s->stage == FC_SECURING ? s->tls_writes : s->out.len > s->out_at);
	struct epoll_event e = { .events = (want ? EPOLLOUT : 0u) | (want && s->blind ? 0u : EPOLLIN),
		                 .data.ptr = s->handle };

	if (s->fd < 0 || s->wants_room == want)
		return;
	epoll_ctl(fc_client.epoll, EPOLL_CTL_MOD, s->fd, &e);
	s->wants_room = want;
}

/* ---- connecting ---- */

static void
connected(struct fc_session *s)
{
	s->stage = FC_GREETING;
	s->retry = false;
	setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
	fc_lie_state(s, FC_STATE_CONNECTED);
	watch(s);
}

static bool
try_connect(struct fc_session *s)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLOUT, .data.ptr = s->handle };

	if (s->fd < 0) {
		s->fd = socket(s->target.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (s->fd < 0)
			return false;
	}
	if (connect(s->fd, (struct sockaddr *)&s->target, s->target_len) == 0) {
		e.events = EPOLLIN;
		epoll_ctl(fc_client.epoll, EPOLL_CTL_ADD, s->fd, &e);
		connected(s);
		return true;
	}
	/* A Unix socket whose queue is full does not tell when there is room. */
	s->retry = errno == EAGAIN;
	if (errno != EINPROGRESS)
		return s->retry;
	s->wants_room = true;
	return epoll_ctl(fc_client.epoll, EPOLL_CTL_ADD, s->fd, &e) == 0;
}

static void
next_address(struct fc_session *s, int error)
{
	while (s->address != NULL) {
		const struct addrinfo *a = s->address;

		s->address = a->ai_next;
		if (s->fd >= 0)
			close(s->fd);
		s->fd = -1;
		memcpy(&s->target, a->ai_addr, a->ai_addrlen);
		s->target_len = a->ai_addrlen;
		if (try_connect(s))
			return;
		error = errno;
	}
	over_with_errno(s, error);
}

static void
connect_unix(struct fc_session *s, const char *path)
{
	struct sockaddr_un *a = (struct sockaddr_un *)&s->target;

	if (strlen(path) >= sizeof(a->sun_path)) {
		fc_over(s, "ENAMETOOLONG");
		return;
	}
	a->sun_family = AF_UNIX;
	strcpy(a->sun_path, path);
	s->target_len = sizeof(*a);
	if (!try_connect(s))
		over_with_errno(s, errno);
}

static void
connect_tcp(struct fc_session *s, const struct nbd_uri *u)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	char port[16];

	snprintf(port, sizeof(port), "%s", u->port);
	s->port = port;
	fc_lie_state(s, FC_STATE_PORT);
	s->port = NULL;
	if (getaddrinfo(u->host, port, &hints, &s->addresses) != 0) {
		fc_over(s, "EHOSTUNREACH");
		return;
	}
	s->address = s->addresses;
	next_address(s, EHOSTUNREACH);
}

void
fc_connect(struct fc_session *s, const char *uri)
{
	char why[URI_MAX_ERROR], error[40];
	struct nbd_uri u;

	if (!uri_parse(uri, &u, why)) {
		fc_over(s, "EINVAL");
		return;
	}
	s->uri = strdup(uri);
	s->export = strdup(u.export);
	if (!fc_load_credentials(s, &u, error))
		fc_over(s, error);
	else if (u.transport == URI_UNIX)
		connect_unix(s, u.socket);
	else if (u.transport == URI_TCP)
		connect_tcp(s, &u);
	else
		fc_over(s, "EAFNOSUPPORT");
	uri_free(&u);
}

static void
finish_connecting(struct fc_session *s)
{
	int error = 0;

	getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){ sizeof(error) });
	if (error == 0)
		connected(s);
	else
		next_address(s, error);
}

/* ---- sending ---- */

static void
sent_all(struct fc_session *s)
{
	buf_clear(&s->out);
	s->out_at = 0;
}

void
fc_flush(struct fc_session *s)
{
	while (s->fd >= 0 && s->stage > FC_CONNECTING && s->out.len > s->out_at) {
		ssize_t n = fc_send_bytes(s, s->out.at + s->out_at, s->out.len - s->out_at);

		if (n < 0 && errno == EAGAIN)
			break;
		/* What the server has said before it went is still to be read. */
		if (n < 0) {
			buf_clear(&s->out);
			s->out_at = 0;
			break;
		}
		s->out_at += (size_t)n;
		if (s->out.len == s->out_at) {
			sent_all(s);
			fc_send_requests(s);
		}
	}
	/* Behind NBD_CMD_DISC comes nothing: a server that reads on sees so. */
	if (s->stage == FC_LEAVING && !s->aborting && s->out.len == s->out_at && s->fd >= 0) {
		fc_shut_tls(s);
		shutdown(s->fd, SHUT_WR);
	}
	if (s->close_behind && s->stage > FC_CONNECTING && s->out.len == s->out_at)
		fc_over(s, "ECANCELED");
	watch(s);
}

/* ---- receiving ---- */

/* Takes one message; false when there is none. */
static bool
take(struct fc_session *s)
{
	switch (s->stage) {
	case FC_GREETING:
		return fc_take_greeting(s);
	case FC_OPTIONS:
		return fc_take_option_reply(s);
	case FC_EXPORT_NAME:
		return fc_take_export_name_reply(s);
	case FC_TRANSMISSION:
	case FC_DISCONNECTING:
		return fc_take_reply(s);
	case FC_LEAVING:
		return s->aborting && fc_take_option_reply(s);
	default:
		return false;
	}
}

static void
skip(struct fc_session *s)
{
	size_t has = s->in.len - s->in_at, n = s->skip < has ? (size_t)s->skip : has;

	s->in_at += n;
	s->skip -= n;
}

static void
take_all(struct fc_session *s)
{
	skip(s);
	while (take(s))
		skip(s);
	/* Nobody is interested in what comes behind the end. */
	if (s->stage >= FC_LEAVING && !s->aborting)
		s->in_at = s->in.len;
	buf_consume(&s->in, s->in_at);
	s->in_at = 0;
	fc_flush(s);
}

static void
receive_once(struct fc_session *s)
{
	size_t want = s->want > s->in.len ? s->want - s->in.len : 0;
	/* More than any READ has need not come. */
	size_t room = want < RECEIVE ? RECEIVE : want > FC_READ_MOST ? FC_READ_MOST : want;
	ssize_t n = fc_recv(s, buf_grow(&s->in, room), room);
	int error = errno;

	s->in.len -= room - (n > 0 ? (size_t)n : 0);
	if (n > 0) {
		if (s->hasty && s->want > s->in.len)
			buf_zero(&s->in, s->want - s->in.len);
		take_all(s);
	} else if (n == 0) {
		fc_lie_state(s, FC_STATE_EOF);
		if (s->deaf)
			epoll_ctl(fc_client.epoll, EPOLL_CTL_DEL, s->fd, NULL);
		else
			fc_over(s, "ENOTCONN");
	} else if (error != EAGAIN) {
		over_with_errno(s, error);
	}
}

/* What TLS has read already no descriptor tells of. */
static void
receive(struct fc_session *s)
{
	do
		receive_once(s);
	while (s->fd >= 0 && s->secured && tls_waiting(s->tls) > 0);
}

static void
secure(struct fc_session *s)
{
	fc_go_on_securing(s);
	if (s->stage != FC_SECURING && s->fd >= 0) {
		take_all(s);
		receive(s);
	}
	fc_flush(s);
}

static void
notify(struct fc_session *s, uint32_t events)
{
	struct fc_handle *h = s->handle;

	if (s->stage == FC_CONNECTING && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0)
		finish_connecting(s);
	else if (s->stage > FC_CONNECTING && (events & EPOLLOUT) != 0)
		fc_flush(s);
	if (s->stage == FC_SECURING)
		secure(s);
	else if (s->stage > FC_CONNECTING && s->fd >= 0 && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0)
		receive(s);
	fc_reap(h);
}

/* ---- time ---- */

void
fc_set_limit(struct fc_session *s)
{
	s->until = now_ms() + FC_PATIENCE_MS;
}

/* The moment at which it ends in any case, ms; 0: none. The first that was sent is the one that waits longest. */
static int64_t
end_of(const struct fc_session *s)
{
	const struct fc_op *op;

	if (s->settings.timeout_s == 0 || s->stage != FC_TRANSMISSION)
		return s->until;
	TAILQ_FOREACH(op, &s->ops, entry)
	if (op->ask == FC_COMMAND && op->sent)
		return op->sent_at + (int64_t)s->settings.timeout_s * 1000;
	return 0;
}

/* When something is to be done for it without an event, in ms; -1: never. */
static int64_t
left_of(const struct fc_session *s)
{
	int64_t end = end_of(s), left = s->retry ? RETRY_MS : end != 0 ? end - now_ms() : -1;

	return end != 0 && left < 0 ? 0 : left;
}

static int
timeout(void)
{
	int64_t first = -1;

	for (const struct fc_handle *h = LIST_FIRST(&fc_client.handles); h != NULL; h = LIST_NEXT(h, entry)) {
		int64_t left = h->session != NULL ? left_of(h->session) : -1;

		if (left >= 0 && (first < 0 || left < first))
			first = left;
	}
	return (int)first;
}

static void
expire(struct fc_session *s)
{
	struct fc_handle *h = s->handle;
	int64_t end = end_of(s);

	if (s->retry && !try_connect(s))
		over_with_errno(s, errno);
	if (end != 0 && now_ms() >= end) {
		/* It waits in vain for replies, or for the end. */
		if (s->stage == FC_DISCONNECTING)
			fc_disconnect(s);
		else
			fc_over(s, "ETIMEDOUT");
	}
	fc_reap(h);
}

bool
fc_turn(void)
{
	struct epoll_event events[EVENTS];
	int n = epoll_wait(fc_client.epoll, events, EVENTS, fc_client.input_always ? 0 : timeout());
	bool readable = fc_client.input_always;
	struct fc_handle *h;

	for (int i = 0; i < n; i++) {
		h = events[i].data.ptr;
		if (h == NULL)
			readable = true;
		else if (h->session != NULL)
			notify(h->session, events[i].events);
	}
	LIST_FOREACH(h, &fc_client.handles, entry)
	if (h->session != NULL && (h->session->retry || end_of(h->session) != 0))
		expire(h->session);
	return readable;
}

void
fc_watch_input(int fd)
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = NULL };

	if (fc_client.epoll < 0)
		fc_client.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (fc_client.epoll < 0)
		abort();
	fc_client.input_always = fd >= 0 && epoll_ctl(fc_client.epoll, EPOLL_CTL_ADD, fd, &e) < 0;
}
