#include "cases/client/relay.h"

#include "fakeserver/listen.h"
#include "harness/client.h"
#include "harness/clock.h"
#include "harness/uri.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { RELAY_MOST = 1024, ROOM = 256 << 10, READ_AT_ONCE = 64 << 10, EVENTS = 64, GATHER_MS = 1000 };

/* One direction. */
struct half {
	struct buf buf;
	bool ended, shut, held;
	uint64_t carried; /* bytes */
};

struct link {
	int fd[2]; /* by direction: the one that is written to; -1 when it is over */
	struct half half[2];
	struct relay_plan plan;
	bool piece_out; /* the client has not read the last piece */
};

struct relay {
	struct drive *d;
	struct relay_plan plan;
	char *socket;
	int listener, epoll;
	struct link link[RELAY_MOST];
	unsigned n_links;
};

static void
end_link(struct link *l)
{
	for (int i = 0; i < 2; i++) {
		if (l->fd[i] >= 0)
			close(l->fd[i]);
		l->fd[i] = -1;
		buf_free(&l->half[i].buf);
	}
}

/* ---- one direction ---- */

/* True: something came. */
static bool
take(struct link *l, enum trace_direction to)
{
	static uint8_t data[READ_AT_ONCE];
	struct half *h = &l->half[to];
	ssize_t n;

	if (h->ended || (h->buf.len >= ROOM && !h->held))
		return false;
	if (l->plan.serial && to == TO_SERVER && l->half[TO_CLIENT].buf.len > 0)
		return false;
	n = recv(l->fd[!to], data, sizeof(data), MSG_DONTWAIT);
	if (n > 0)
		buf_put(&h->buf, data, (size_t)n);
	else if (n == 0 || errno != EAGAIN)
		h->ended = true;
	return n != -1 || h->ended;
}

/* While the kernel frees the last of it one byte of it is counted still. */
static bool
is_read(int fd)
{
	int left = 0;

	return ioctl(fd, SIOCOUTQ, &left) != 0 || left <= 1;
}

static size_t
next_piece(struct link *l, enum trace_direction to)
{
	const struct relay_plan *p = &l->plan;
	struct half *h = &l->half[to];
	size_t n = h->buf.len;

	if (h->held)
		return 0;
	if (to == TO_SERVER)
		return n;
	if (l->piece_out && !is_read(l->fd[TO_CLIENT]))
		return 0;
	l->piece_out = false;
	if (p->piece > 0 && n > p->piece)
		n = p->piece;
	if (p->cuts && h->carried < p->cut && n > p->cut - h->carried)
		n = (size_t)(p->cut - h->carried);
	return n;
}

static bool
give(struct link *l, enum trace_direction to)
{
	struct half *h = &l->half[to];
	size_t piece = next_piece(l, to);
	ssize_t n = piece > 0 ? send(l->fd[to], h->buf.at, piece, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

	if (n > 0) {
		buf_consume(&h->buf, (size_t)n);
		h->carried += (uint64_t)n;
		l->piece_out |= to == TO_CLIENT && (l->plan.piece > 0 || (l->plan.cuts && h->carried == l->plan.cut));
	} else if (n < 0 && errno != EAGAIN) {
		/* Nobody reads it any more. */
		buf_clear(&h->buf);
	}
	if (h->ended && h->buf.len == 0 && !h->shut) {
		shutdown(l->fd[to], SHUT_WR);
		h->shut = true;
	}
	return n > 0;
}

static bool
is_cut_off(const struct link *l)
{
	return l->plan.ends && l->half[TO_CLIENT].carried >= l->plan.cut;
}

static void
pump(struct link *l)
{
	bool more;

	do {
		if (is_cut_off(l)) {
			while (take(l, TO_SERVER))
				give(l, TO_SERVER);
			end_link(l);
			return;
		}
		more = take(l, TO_SERVER) | take(l, TO_CLIENT);
		more |= give(l, TO_SERVER) | give(l, TO_CLIENT);
	} while (more);
	if (l->half[TO_SERVER].shut && l->half[TO_CLIENT].shut)
		end_link(l);
}

/* ---- connections ---- */

static void
watch_end(struct relay *r, int fd, uint32_t number)
{
	/* Edge-triggered: the client's reading is an event, too. */
	struct epoll_event e = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u32 = number };

	if (epoll_ctl(r->epoll, EPOLL_CTL_ADD, fd, &e) != 0)
		harness_error(r->d->t, "epoll: %s", strerror(errno));
}

static void
accept_one(struct relay *r)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int client = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC), server;
	struct link *l = &r->link[r->n_links];

	if (client < 0)
		return;
	if (r->n_links == RELAY_MOST)
		harness_error(r->d->t, "more than %d connections through a relay", RELAY_MOST);
	server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(to.sun_path, sizeof(to.sun_path), "%s", r->d->socket);
	if (server < 0 || connect(server, (struct sockaddr *)&to, sizeof(to)) != 0)
		harness_error(r->d->t, "the relay cannot connect to the fake server: %s", strerror(errno));
	*l = (struct link){ .fd = { [TO_SERVER] = server, [TO_CLIENT] = client }, .plan = r->plan };
	watch_end(r, client, ++r->n_links);
	watch_end(r, server, r->n_links);
	pump(l);
}

static void
turn(void *arg)
{
	struct relay *r = arg;
	struct epoll_event e[EVENTS];
	int n = epoll_wait(r->epoll, e, EVENTS, 0);

	for (int i = 0; i < n; i++) {
		if (e[i].data.u32 == 0)
			accept_one(r);
		else if (r->link[e[i].data.u32 - 1].fd[0] >= 0)
			pump(&r->link[e[i].data.u32 - 1]);
	}
}

static void
listen_for_clients(struct relay *r)
{
	struct epoll_event e = { .events = EPOLLIN };
	char error[LISTEN_MAX_ERROR];

	r->listener = listen_on_unix(r->socket, error);
	if (r->listener < 0)
		harness_error(r->d->t, "%s", error);
	if (epoll_ctl(r->epoll, EPOLL_CTL_ADD, r->listener, &e) != 0)
		harness_error(r->d->t, "epoll: %s", strerror(errno));
}

void
relay_forget(struct relay *r)
{
	for (unsigned i = 0; i < r->n_links; i++) {
		/* What the client had sent before it left is the server's. */
		if (r->link[i].fd[0] >= 0)
			pump(&r->link[i]);
		end_link(&r->link[i]);
	}
	r->n_links = 0;
}

struct relay *
relay_new(struct drive *d)
{
	static struct relay *r;

	if (client_is_over_tls(d->client))
		skip(d->t, "clear text", "a relay sees where messages end in clear text only");
	if (r == NULL) {
		r = calloc(1, sizeof(*r));
		if (r == NULL || asprintf(&r->socket, "%s/relay", client_dir(d->client)) < 0)
			abort();
		r->d = d;
		r->epoll = epoll_create1(EPOLL_CLOEXEC);
		listen_for_clients(r);
	}
	relay_forget(r);
	r->plan = (struct relay_plan){ 0 };
	if (fake_watch(d->fake, r->epoll, turn, r) != 0)
		harness_error(d->t, "the relay: %s", strerror(errno));
	free(d->uri);
	d->uri = drive_write_uri(
		d, &(struct nbd_uri){ .transport = URI_UNIX, .socket = r->socket, .export = d->exports[0].name });
	return r;
}

void
relay_plan(struct relay *r, const struct relay_plan *plan)
{
	r->plan = *plan;
}

/* ---- what a case does with them ---- */

static struct link *
link_of(const struct relay *r, unsigned connection)
{
	if (connection == 0 || connection > r->n_links)
		harness_error(r->d->t, "the relay has no connection %u, but %u", connection, r->n_links);
	return (struct link *)&r->link[connection - 1];
}

unsigned
relay_connections(const struct relay *r)
{
	return r->n_links;
}

uint64_t
relay_carried(const struct relay *r, unsigned connection)
{
	return link_of(r, connection)->half[TO_CLIENT].carried;
}

void
relay_end(struct relay *r, unsigned connection)
{
	end_link(link_of(r, connection));
}

void
relay_hold(struct relay *r, unsigned connection, enum trace_direction to)
{
	link_of(r, connection)->half[to].held = true;
}

size_t
relay_held(const struct relay *r, unsigned connection, enum trace_direction to)
{
	return link_of(r, connection)->half[to].buf.len;
}

void
relay_release(struct relay *r, unsigned connection, enum trace_direction to)
{
	struct link *l = link_of(r, connection);

	l->half[to].held = false;
	if (l->fd[0] >= 0)
		pump(l);
}

bool
relay_gather(struct relay *r, unsigned connection, enum trace_direction to, size_t bytes)
{
	int64_t until = now_ms() + (int64_t)(GATHER_MS * client_factor(r->d->client));

	while (relay_held(r, connection, to) < bytes && now_ms() < until)
		drive_pause(r->d, 1);
	return relay_held(r, connection, to) >= bytes;
}

void
relay_await_end(struct relay *r, unsigned connection)
{
	const struct link *l = link_of(r, connection);
	int64_t until = now_ms() + (int64_t)(GATHER_MS * client_factor(r->d->client));

	while (l->fd[0] >= 0 && !l->half[TO_SERVER].ended && now_ms() < until)
		drive_pause(r->d, 1);
}
