#include "harness/crowd.h"

#include "harness/clock.h"
#include "harness/link.h"
#include "harness/test_private.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	CROWD_DEFAULT = 100,
	OWN_DESCRIPTORS = 64, /* of ours, beside those of the crowd */
	STALL_MS = 200,       /* without another member let in: the rest is not waited for */
	STARVED_MS = 5000,    /* likewise, where that can only mean that the server has no processor */
	LEAVE_MS = 5,         /* the time that a server has to take notice of one client that has left */
	PAUSE_MS = 5,
	READ_AT_ONCE = 64 << 10,
};

static int
stall_ms(const struct test *t)
{
	return (int)(STALL_MS * t->private->factor);
}

/* The fake server says when it lets in nobody more. */
static int
let_in_ms(const struct test *t)
{
	return t->private->server->quiet != NULL ? (int)(STARVED_MS * t->private->factor) : stall_ms(t);
}

unsigned
crowd_size(struct test *t)
{
	const struct target *target = t->private->server->target;
	unsigned n = target->crowd_given ? target->crowd : CROWD_DEFAULT;
	struct rlimit limit;

	need_connections(t);
	if (n == 0)
		skip(t, "crowd", "no crowd is wanted (--crowd 0)");
	if (target->via == VIA_URI && !target->crowd_given)
		skip(t, "crowd",
		     "the server runs already, and may have other clients: --crowd says how many it can bear");
	getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < n + OWN_DESCRIPTORS && limit.rlim_max > limit.rlim_cur) {
		limit.rlim_cur = n + OWN_DESCRIPTORS < limit.rlim_max ? n + OWN_DESCRIPTORS : limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	if (limit.rlim_cur < n + OWN_DESCRIPTORS)
		skip(t, "crowd", "%u clients (--crowd) take %u descriptors, and nbdspec may have %lu (ulimit -Hn)", n,
		     n + OWN_DESCRIPTORS, (unsigned long)limit.rlim_cur);
	return n;
}

/* ---- connecting ---- */

static bool
member_connect(struct crowd *c, struct member *m, int ms)
{
	const struct server *server = c->t->private->server;

	m->fd = server_try_connect(server, ms);
	if (m->fd < 0)
		return false;
	if (server->quiet != NULL)
		m->slot = atomic_fetch_add(&server->quiet->connects, 1);
	c->connected++;
	return true;
}

static bool
take_greeting(struct crowd *c, struct member *m)
{
	size_t size = c->like.oldstyle ? OLDSTYLE_GREETING_SIZE : GREETING_SIZE;

	if (m->in.len < size)
		return false;
	buf_consume(&m->in, size);
	m->greeted = true;
	m->transmission = c->like.oldstyle;
	c->greeted++;
	c->entered += m->transmission;
	return true;
}

struct crowd *
crowd_gather(const struct session *like, unsigned n)
{
	const struct server *server = like->test->private->server;
	bool alone = server->one_at_a_time != NULL && *server->one_at_a_time;
	struct crowd *c = calloc(1, sizeof(*c));

	/* So many find room in the queue of a server that takes nobody else. */
	n = alone && n > 2 ? 2 : n;
	*c = (struct crowd){ .t = like->test, .like = *like, .n = n, .members = calloc(n, sizeof(*c->members)) };
	if (c->members == NULL)
		abort();
	for (unsigned i = 0; i < n; i++)
		c->members[i].fd = -1;
	for (unsigned i = 0; i < n; i++)
		if (!member_connect(c, &c->members[i], let_in_ms(c->t)))
			break;
	if (!alone)
		crowd_await(c, false, take_greeting);
	return c;
}

bool
crowd_is_let_in(const struct crowd *c)
{
	return c->greeted == c->n;
}

/* ---- the handshake ---- */

static bool
take_export_name_reply(struct crowd *c, struct member *m)
{
	size_t size = EXPORT_NAME_REPLY_SIZE + ((c->like.client_flags & NBD_FLAG_C_NO_ZEROES) != 0 ? 0 : 124);

	if (m->in.len < size)
		return false;
	buf_consume(&m->in, size);
	return true;
}

/* True: the final reply has come, and was an ACK where .transmission is set. */
static bool
take_go_replies(struct member *m)
{
	while (m->in.len >= OPTION_REPLY_HEADER_SIZE) {
		struct wire w = wire(m->in.at + 12, 8); /* behind the magic and the option */
		uint32_t type = wire_be32(&w), length = wire_be32(&w);

		if (m->in.len - OPTION_REPLY_HEADER_SIZE < length)
			return false;
		buf_consume(&m->in, OPTION_REPLY_HEADER_SIZE + length);
		m->transmission = type == NBD_REP_ACK;
		if (m->transmission || is_error_reply(type))
			return true;
	}
	return false;
}

static bool
is_fixed(const struct crowd *c)
{
	return (c->like.client_flags & NBD_FLAG_C_FIXED_NEWSTYLE) != 0;
}

static bool
take_entry(struct crowd *c, struct member *m)
{
	if (!m->transmission && !is_fixed(c))
		m->transmission = take_export_name_reply(c, m);
	return m->transmission || (is_fixed(c) && take_go_replies(m));
}

void
crowd_put_entry(struct buf *b, const struct crowd *c)
{
	struct buf data = { 0 };

	wire_put_client_flags(b, &(struct client_flags){ c->like.client_flags });
	if (is_fixed(c))
		put_go(&data, export_name(c->t), (const uint16_t[]){ NBD_INFO_BLOCK_SIZE }, 1);
	else
		put_bytes(&data, export_name(c->t));
	wire_put_option(b, &(struct option){ NBD_OPTION_MAGIC,
	                                     is_fixed(c) ? NBD_OPT_GO : NBD_OPT_EXPORT_NAME,
	                                     (uint32_t)data.len,
	                                     { data.at, data.len } });
	buf_free(&data);
}

bool
crowd_await_entry(struct crowd *c)
{
	bool all = crowd_await(c, true, take_entry);
	unsigned n = 0;

	for (unsigned i = 0; i < c->n; i++)
		n += c->members[i].transmission && !c->members[i].ended;
	c->entered = n > c->entered ? n : c->entered;
	return all;
}

void
crowd_enter(struct crowd *c)
{
	struct buf b = { 0 };

	if (!c->like.oldstyle) {
		crowd_put_entry(&b, c);
		crowd_send(c, b.at, b.len);
		crowd_await_entry(c);
	}
	buf_free(&b);
}

/* ---- bytes ---- */

static bool
is_there(const struct member *m)
{
	return m->fd >= 0 && m->greeted && !m->ended;
}

void
member_send(struct member *m, const void *data, size_t len)
{
	ssize_t n = send(m->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n > 0)
		m->sent += (uint64_t)n;
}

void
crowd_send(struct crowd *c, const void *data, size_t len)
{
	for (unsigned i = 0; i < c->n; i++)
		if (is_there(&c->members[i]))
			member_send(&c->members[i], data, len);
}

/* True where something came, be it the end. */
static bool
member_read(struct member *m)
{
	ssize_t n;

	buf_grow(&m->in, READ_AT_ONCE);
	m->in.len -= READ_AT_ONCE;
	n = recv(m->fd, m->in.at + m->in.len, READ_AT_ONCE, MSG_DONTWAIT);
	if (n > 0)
		m->in.len += (size_t)n;
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		m->ended = true;
	return n > 0 || m->ended;
}

/* Those who still wait. */
static unsigned
list_pending(const struct crowd *c, struct pollfd *p, struct member **who)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->n; i++) {
		struct member *m = &c->members[i];

		if (m->fd < 0 || m->ended || m->done)
			continue;
		who[n] = m;
		p[n++] = (struct pollfd){ .fd = m->fd, .events = POLLIN };
	}
	return n;
}

/* Reads what there is. False: nothing came within `ms`. */
static bool
read_some(struct crowd *c, struct pollfd *p, struct member **who, unsigned n, int ms,
          bool (*take)(struct crowd *c, struct member *m))
{
	bool any = false;

	if (poll(p, n, ms) <= 0)
		return false;
	for (unsigned i = 0; i < n; i++)
		while (p[i].revents != 0 && !who[i]->done && !who[i]->ended && member_read(who[i])) {
			who[i]->done = take(c, who[i]);
			any = true;
		}
	return any;
}

/* The fake server says that nothing more will come to any of them. */
static bool
is_quiet(const struct crowd *c, struct member *const *who, unsigned n)
{
	const struct quiet *q = c->t->private->server->quiet;

	if (q == NULL)
		return false;
	for (unsigned i = 0; i < n; i++)
		if (!quiet_is_over(q, who[i]->slot, who[i]->sent) && !quiet_waits_for_room(q, who[i]->slot))
			return false;
	return true;
}

static int
patience_ms(const struct crowd *c, bool owed, bool (*take)(struct crowd *c, struct member *m))
{
	if (owed)
		return (int)(WAIT_MS * c->t->private->factor);
	return take == take_greeting ? let_in_ms(c->t) : stall_ms(c->t);
}

bool
crowd_await(struct crowd *c, bool owed, bool (*take)(struct crowd *c, struct member *m))
{
	struct pollfd *p = calloc(c->n + 1, sizeof(*p));
	struct member **who = calloc(c->n + 1, sizeof(struct member *));
	int patience = patience_ms(c, owed, take);
	int64_t until = now_ms() + patience;
	bool quiet;
	unsigned n;

	if (p == NULL || who == NULL)
		abort();
	for (unsigned i = 0; i < c->n; i++)
		c->members[i].done = !c->members[i].greeted && take != take_greeting;
	for (unsigned i = 0; i < c->n; i++)
		c->members[i].done = c->members[i].done || take(c, &c->members[i]);
	while ((n = list_pending(c, p, who)) > 0) {
		/* The order counts: first the server's word, then the sockets (harness/quiet.h). */
		quiet = is_quiet(c, who, n);
		if (read_some(c, p, who, n, quiet ? 0 : PAUSE_MS, take))
			until = now_ms() + patience;
		else if (quiet || now_ms() >= until)
			break;
	}
	free(p);
	free(who);
	return n == 0;
}

/* ---- leaving ---- */

bool
crowd_let_go(struct crowd *c)
{
	bool any = false;

	for (unsigned i = 0; i < c->n; i++) {
		struct member *m = &c->members[i];

		if (m->fd < 0 || !m->transmission)
			continue;
		close(m->fd);
		m->fd = -1;
		any = true;
	}
	return any;
}

void
crowd_leave(struct crowd *c)
{
	const struct server *server = c->t->private->server;

	for (unsigned i = 0; i < c->n; i++)
		if (c->members[i].fd >= 0)
			close(c->members[i].fd);
	for (unsigned i = 0; i < c->n; i++) {
		if (c->members[i].greeted && server->quiet != NULL)
			quiet_await_end(server->quiet, c->members[i].slot, server->pid, server->pidfd);
		buf_free(&c->members[i].in);
	}
	free(c->members);
	free(c);
}

void
crowd_reset(struct crowd *c)
{
	for (unsigned i = 0; i < c->n; i++)
		setsockopt(c->members[i].fd, SOL_SOCKET, SO_LINGER, &(struct linger){ .l_onoff = 1 },
		           sizeof(struct linger));
	crowd_leave(c);
}

/* ---- of the server's process ---- */

bool
server_usage(const struct test *t, struct usage *u)
{
	*u = (struct usage){ 0 };
	return t->private->server->pid > 0 && usage_of(t->private->server->pid, u) && u->processes > 0;
}

struct usage
await_usage(const struct test *t, const struct usage *back, unsigned clients)
{
	const struct server *server = t->private->server;
	int64_t until = now_ms() + (int64_t)((STALL_MS + LEAVE_MS * clients) * t->private->factor);
	struct usage u;

	for (int pause = 1; server_usage(t, &u) && now_ms() < until; pause = pause < 32 ? 2 * pause : 32) {
		if (u.descriptors <= back->descriptors && u.processes <= back->processes)
			break;
		poll(NULL, 0, pause);
		/* What the fake server has not done by then it never does. */
		if (server->quiet != NULL && pause > 8)
			break;
	}
	return u;
}

void
need_reload(struct test *t)
{
	const struct server *server = t->private->server;

	if (server->target->reload == NULL)
		skip(t, "reload", "nothing says how this server is told to reload (--reload)");
	if (server->pid <= 0)
		skip(t, "reload", "the server was not started by nbdspec, which therefore does not make it reload");
}

void
reload_server(struct test *t)
{
	char error[512];

	report_changed(t);
	note(t, "the server is made to reload: %s", t->private->server->target->reload);
	if (!server_reload(t->private->server, t->s->fd, error) && server_running(t->private->server))
		harness_error(t, "%s", error);
}

bool
server_has_ended(const struct test *t)
{
	return server_ends(t->private->server, (int)(WAIT_MS * t->private->factor));
}

bool
start_over_image(struct test *t)
{
	char error[512];

	if (!can_restart_server(t) || !target_names(t->private->server->target, "{file}"))
		return false;
	close_sessions(t);
	(void)server_has_ended(t);
	if (!restart_server(t, error))
		harness_error(t, "the server could not be started again: %s", error);
	return true;
}

void
limit_descriptors(struct test *t, unsigned more)
{
	const struct server *server = t->private->server;
	struct rlimit limit;
	struct usage u;

	if (server->pid <= 0)
		skip(t, "server process", "the server is no process of ours");
	if (!server_usage(t, &u) || prlimit(server->pid, RLIMIT_NOFILE, NULL, &limit) != 0)
		skip(t, "server process", "the system does not let us look into the server's process");
	report_changed(t);
	limit.rlim_cur = u.descriptors + more;
	if (prlimit(server->pid, RLIMIT_NOFILE, &limit, NULL) != 0)
		skip(t, "server process", "the system does not let us limit the server's descriptors");
}
