#include "harness/crash/served.h"

#include "harness/clock.h"
#include "harness/nbd.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { SESSIONS_MOST = 16, OPTION_MOST = 65536, SEND_SECONDS = 10 };

enum phase { CLIENT_FLAGS, OPTIONS, TRANSMISSION };

struct session {
	struct session *next;
	int fd;
	enum phase phase;
	bool no_zeroes;
	struct buf in, out;
};

static void *
need(void *memory)
{
	if (memory == NULL)
		abort();
	return memory;
}

/* ---- what is read and written ---- */

static void
touch(struct served *s, uint64_t offset, uint64_t length)
{
	const struct space *space = s->image->space;
	uint32_t cell = space_cell_at(space, offset);

	if (cell > 0 && space->offset[cell - 1] + space->length[cell - 1] > offset)
		cell--;
	for (; cell < space->n_cells && space->offset[cell] < offset + length; cell++) {
		if (s->is_touched[cell / 64] >> cell % 64 & 1)
			continue;
		s->is_touched[cell / 64] |= UINT64_C(1) << cell % 64;
		s->touched[s->n_touched++] = (struct touched){ cell, space->versions[s->image->shown[cell]].content };
	}
}

static void
keep_event(struct recording *r, int what, uint32_t which)
{
	r->events = need(reallocarray(r->events, r->n_events + 1u, sizeof(*r->events)));
	r->events[r->n_events].what = what;
	r->events[r->n_events++].which = which;
}

static void
keep(struct served *s, enum history_kind kind, const struct request *q)
{
	struct recording *r = &s->writes;
	struct recorded_command c = {
		.kind = kind, .fua = (q->flags & NBD_CMD_FLAG_FUA) != 0, .success = true, .received = r->n_events
	};

	if (kind != HISTORY_FLUSH) {
		c.offset = q->offset;
		c.length = q->length;
	}
	if (kind == HISTORY_WRITE) {
		uint8_t *data = need(malloc(q->length + 1u));

		memcpy(data, q->data.at, q->length);
		c.data = data;
	}
	c.answered = r->n_events + 1;
	r->commands = need(reallocarray(r->commands, r->n_commands + 2u, sizeof(*r->commands)));
	r->commands[++r->n_commands] = c;
	keep_event(r, EVENT_RECEIVED, r->n_commands);
	keep_event(r, EVENT_ANSWERED, r->n_commands);
}

static void
forget_writes(struct served *s)
{
	for (uint32_t i = 1; i <= s->writes.n_commands; i++)
		free((void *)(uintptr_t)s->writes.commands[i].data);
	free(s->writes.commands);
	free(s->writes.events);
	s->writes = (struct recording){ .size = s->image->size, .minimum = s->image->space->recording->minimum };
}

void
served_reset(struct served *s)
{
	for (uint32_t i = 0; i < s->n_touched; i++)
		s->is_touched[s->touched[i].cell / 64] = 0;
	s->n_touched = 0;
	forget_writes(s);
}

/* ---- transmission ---- */

static uint32_t
carry_out(struct served *s, const struct request *q, uint8_t **read)
{
	bool inside = q->offset <= s->image->size && q->length <= s->image->size - q->offset;
	enum history_kind kind = HISTORY_INITIAL;

	if (q->type != NBD_CMD_FLUSH && !inside)
		return q->type == NBD_CMD_WRITE ? NBD_ENOSPC : NBD_EINVAL;
	switch (q->type) {
	case NBD_CMD_READ:
		touch(s, q->offset, q->length);
		*read = s->image->at + q->offset;
		return NBD_SUCCESS;
	case NBD_CMD_WRITE:
		memcpy(s->image->at + q->offset, q->data.at, q->length);
		kind = HISTORY_WRITE;
		break;
	case NBD_CMD_TRIM:
	case NBD_CMD_WRITE_ZEROES:
		memset(s->image->at + q->offset, 0, q->length);
		kind = q->type == NBD_CMD_TRIM ? HISTORY_TRIM : HISTORY_ZEROES;
		break;
	case NBD_CMD_FLUSH:
		kind = HISTORY_FLUSH;
		break;
	default:
		return NBD_EINVAL;
	}
	s->image->dirty |= kind != HISTORY_FLUSH;
	if (s->keep && (kind == HISTORY_FLUSH || q->length > 0))
		keep(s, kind, q);
	return NBD_SUCCESS;
}

/* How many bytes it took; 0: it is not whole yet; SIZE_MAX: the session ends. */
static size_t
take_request(struct served *s, struct session *c)
{
	struct wire w = wire(c->in.at, c->in.len);
	struct request q;
	uint8_t *read = NULL;
	size_t payload;
	struct simple_reply r = { .magic = NBD_SIMPLE_REPLY_MAGIC };

	if (c->in.len < REQUEST_SIZE)
		return 0;
	wire_get_request(w, &q);
	if (q.magic != NBD_REQUEST_MAGIC || q.type == NBD_CMD_DISC ||
	    ((q.type == NBD_CMD_WRITE || q.type == NBD_CMD_READ) && q.length > NBD_DEFAULT_MAX_PAYLOAD))
		return SIZE_MAX;
	payload = q.type == NBD_CMD_WRITE ? q.length : 0;
	if (c->in.len < REQUEST_SIZE + payload)
		return 0;
	q.data = (struct bytes){ c->in.at + REQUEST_SIZE, payload };
	r.cookie = q.cookie;
	r.error = carry_out(s, &q, &read);
	if (read != NULL)
		r.data = (struct bytes){ read, q.length };
	wire_put_simple_reply(&c->out, &r);
	return REQUEST_SIZE + payload;
}

/* ---- the handshake ---- */

static void
greet(struct session *c)
{
	put_be64(&c->out, NBD_MAGIC);
	put_be64(&c->out, NBD_OPTION_MAGIC);
	put_be16(&c->out, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

static void
answer_option(struct session *c, uint32_t option, uint32_t type, struct bytes data)
{
	wire_put_option_reply(&c->out, &(struct option_reply){ .magic = NBD_OPTION_REPLY_MAGIC,
	                                                       .option = option,
	                                                       .type = type,
	                                                       .length = (uint32_t)data.len,
	                                                       .data = data });
}

enum {
	TRANSMISSION_FLAGS = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM |
	                     NBD_FLAG_SEND_WRITE_ZEROES
};

static void
describe_export(const struct served *s, struct session *c, uint32_t option)
{
	uint32_t minimum = (uint32_t)s->image->space->recording->minimum;
	struct buf b = { 0 };

	put_be16(&b, NBD_INFO_EXPORT);
	put_be64(&b, s->image->size);
	put_be16(&b, TRANSMISSION_FLAGS);
	answer_option(c, option, NBD_REP_INFO, (struct bytes){ b.at, b.len });
	buf_clear(&b);
	put_be16(&b, NBD_INFO_BLOCK_SIZE);
	put_be32(&b, minimum);
	put_be32(&b, minimum > 4096 ? minimum : 4096);
	put_be32(&b, NBD_DEFAULT_MAX_PAYLOAD);
	answer_option(c, option, NBD_REP_INFO, (struct bytes){ b.at, b.len });
	answer_option(c, option, NBD_REP_ACK, (struct bytes){ 0 });
	buf_free(&b);
}

static void
export_by_name(const struct served *s, struct session *c)
{
	put_be64(&c->out, s->image->size);
	put_be16(&c->out, TRANSMISSION_FLAGS);
	if (!c->no_zeroes)
		buf_zero(&c->out, NBD_EXPORT_NAME_PADDING);
	c->phase = TRANSMISSION;
}

static size_t
take_option(const struct served *s, struct session *c)
{
	static const uint8_t no_name[4];
	struct wire w = wire(c->in.at, c->in.len);
	uint64_t magic = wire_be64(&w);
	uint32_t option = wire_be32(&w), length = wire_be32(&w);

	if (w.ran_out)
		return 0;
	if (magic != NBD_OPTION_MAGIC || length > OPTION_MOST)
		return SIZE_MAX;
	if (c->in.len < OPTION_HEADER_SIZE + length)
		return 0;
	if (option == NBD_OPT_EXPORT_NAME) {
		export_by_name(s, c);
	} else if (option == NBD_OPT_GO || option == NBD_OPT_INFO) {
		describe_export(s, c, option);
		c->phase = option == NBD_OPT_GO ? TRANSMISSION : OPTIONS;
	} else if (option == NBD_OPT_LIST) {
		answer_option(c, option, NBD_REP_SERVER, (struct bytes){ no_name, sizeof(no_name) });
		answer_option(c, option, NBD_REP_ACK, (struct bytes){ 0 });
	} else if (option == NBD_OPT_ABORT) {
		return SIZE_MAX;
	} else {
		answer_option(c, option, NBD_REP_ERR_UNSUP, (struct bytes){ 0 });
	}
	return OPTION_HEADER_SIZE + length;
}

static size_t
take_client_flags(struct session *c)
{
	struct wire w = wire(c->in.at, c->in.len);
	uint32_t flags = wire_be32(&w);

	if (w.ran_out)
		return 0;
	c->no_zeroes = (flags & NBD_FLAG_C_NO_ZEROES) != 0;
	c->phase = OPTIONS;
	return CLIENT_FLAGS_SIZE;
}

/* ---- connections ---- */

static bool
send_out(struct session *c)
{
	size_t sent = 0;

	while (sent < c->out.len) {
		ssize_t n = send(c->fd, c->out.at + sent, c->out.len - sent, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		sent += (size_t)n;
	}
	buf_clear(&c->out);
	return true;
}

/* False: it is over. */
static bool
go_on(struct served *s, struct session *c)
{
	ssize_t n = recv(c->fd, buf_grow(&c->in, 65536), 65536, MSG_DONTWAIT);
	size_t taken;

	c->in.len -= 65536 - (size_t)(n > 0 ? n : 0);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		return false;
	do {
		taken = c->phase == CLIENT_FLAGS ? take_client_flags(c)
		        : c->phase == OPTIONS    ? take_option(s, c)
		                                 : take_request(s, c);
		if (taken == SIZE_MAX)
			return false;
		buf_consume(&c->in, taken);
	} while (taken > 0);
	return send_out(c);
}

static void
begin_session(struct served *s)
{
	struct session *c = need(calloc(1, sizeof(*c)));
	struct timeval limit = { SEND_SECONDS, 0 };

	c->fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
	if (c->fd < 0) {
		free(c);
		return;
	}
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	c->next = s->sessions;
	s->sessions = c;
	greet(c);
	send_out(c);
}

static void
end_session(struct served *s, struct session *c)
{
	struct session **at = &s->sessions;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	close(c->fd);
	buf_free(&c->in);
	buf_free(&c->out);
	free(c);
}

static unsigned
list_descriptors(const struct served *s, int pidfd, struct pollfd polled[])
{
	unsigned n = 0;

	polled[n++] = (struct pollfd){ .fd = pidfd, .events = POLLIN };
	polled[n++] = (struct pollfd){ .fd = s->listener, .events = POLLIN };
	for (struct session *c = s->sessions; c != NULL && n < SESSIONS_MOST + 2; c = c->next)
		polled[n++] = (struct pollfd){ .fd = c->fd, .events = POLLIN };
	if (n == SESSIONS_MOST + 2)
		polled[1].events = 0;
	return n;
}

enum process_wait
served_wait(struct served *s, int pidfd, int ms)
{
	struct pollfd polled[SESSIONS_MOST + 2] = { { 0 } };
	int64_t end = now_ms() + ms;
	struct session *c, *next;

	for (;;) {
		int64_t left = end - now_ms();
		unsigned n = list_descriptors(s, pidfd, polled), i = 2;

		if (left <= 0 || poll(polled, n, (int)left) == 0)
			break;
		for (c = s->sessions; c != NULL && i < n; c = next, i++) {
			next = c->next;
			if (polled[i].revents != 0 && !go_on(s, c))
				end_session(s, c);
		}
		if (polled[0].revents != 0)
			break;
		if (polled[1].revents != 0)
			begin_session(s);
	}
	while (s->sessions != NULL)
		end_session(s, s->sessions);
	return now_ms() < end || polled[0].revents != 0 ? PROCESS_ENDED : PROCESS_RUNS;
}

/* ---- making ---- */

static bool
listen_at(struct served *s)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };

	if (strlen(s->path) >= sizeof(un.sun_path)) {
		errno = ENAMETOOLONG;
		return false;
	}
	strcpy(un.sun_path, s->path);
	s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return s->listener >= 0 && bind(s->listener, (struct sockaddr *)&un, sizeof(un)) == 0 &&
	       listen(s->listener, SESSIONS_MOST) == 0;
}

struct served *
served_new(struct image *i, const char *dir, bool keep_writes, char error[512])
{
	struct served *s = need(calloc(1, sizeof(*s)));

	*s = (struct served){ .image = i, .listener = -1, .keep = keep_writes };
	if (asprintf(&s->path, "%s/image-%ld%s", dir, (long)getpid(), i->space->recording->base != NULL ? "-2" : "") <
	            0 ||
	    asprintf(&s->uri, "nbd+unix:///?socket=%s", s->path) < 0)
		abort();
	s->touched = need(calloc(i->space->n_cells + 1u, sizeof(*s->touched)));
	s->is_touched = need(calloc(i->space->n_cells / 64 + 1, sizeof(*s->is_touched)));
	forget_writes(s);
	if (listen_at(s))
		return s;
	snprintf(error, 512, "%.300s: %s", s->path, strerror(errno));
	served_free(s);
	return NULL;
}

void
served_free(struct served *s)
{
	if (s == NULL)
		return;
	while (s->sessions != NULL)
		end_session(s, s->sessions);
	forget_writes(s);
	if (s->listener >= 0) {
		close(s->listener);
		unlink(s->path);
	}
	free(s->writes.commands);
	free(s->path);
	free(s->uri);
	free(s->touched);
	free(s->is_touched);
	free(s);
}
