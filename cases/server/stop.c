/*
 * A server that is stopped (proto.md:273-279, 451-458) or told to reload, while clients are there in every state. What is on
 * the wire stays a sequence of whole, fitting messages up to the end of the connection; what was flushed is kept; and no
 * client outside is harmed by a reload. How long a server waits for its clients is its own choice, and recorded.
 */
#include "harness/crowd.h"
#include "harness/exploration.h"
#include "cases/server/transmission.h"

#include <inttypes.h>
#include <poll.h>
#include <string.h>

enum state { SILENT, HAGGLING, IN_OPTION, IDLE, IN_REQUEST, IN_FLIGHT, NOT_READING, STATES };
enum { EACH = 6, INSIDE = IDLE, REQUESTS_MOST = 64 };

static const char *const state_names[STATES] = {
	[SILENT] = "greeted",
	[HAGGLING] = "in option haggling",
	[IN_OPTION] = "within an option",
	[IDLE] = "idle in transmission",
	[IN_REQUEST] = "within a request",
	[IN_FLIGHT] = "with requests in flight",
	[NOT_READING] = "not reading",
};

/* Those who have not got through the handshake, and those who have. */
struct clients {
	struct test *t;
	struct session *first; /* one more, idle in transmission */
	struct session like;   /* the first, as the others are */
	struct crowd *outside, *inside;
	uint32_t length; /* of each READ, bytes */
	unsigned n_short, n_long;
	bool reloaded; /* in place of stopped: nobody has a reason to fail, and those within a request have finished it */
};

static enum state
outside_state(unsigned i)
{
	return (enum state)(i % INSIDE);
}

static enum state
inside_state(unsigned i)
{
	return (enum state)(INSIDE + i % (STATES - INSIDE));
}

static unsigned
requests_of(const struct clients *k, enum state s)
{
	return s == IN_FLIGHT ? k->n_short : s == NOT_READING ? k->n_long : s == IN_REQUEST && k->reloaded ? 1 : 0;
}

static void
put_reads(const struct clients *k, struct buf *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		wire_put_request(b, &(struct request){ .magic = NBD_REQUEST_MAGIC,
		                                       .type = NBD_CMD_READ,
		                                       .cookie = i,
		                                       .length = k->length });
}

static void
bring_outside(const struct clients *k)
{
	struct buf b = { 0 };

	if (k->like.oldstyle)
		return;
	crowd_put_entry(&b, k->outside);
	for (unsigned i = 0; i < k->outside->n; i++) {
		struct member *m = &k->outside->members[i];

		if (m->greeted && outside_state(i) != SILENT)
			member_send(m, b.at,
			            CLIENT_FLAGS_SIZE + (outside_state(i) == IN_OPTION ? OPTION_HEADER_SIZE - 4 : 0));
	}
	buf_free(&b);
}

static void
bring_inside(const struct clients *k)
{
	struct buf b = { 0 };

	crowd_enter(k->inside);
	for (unsigned i = 0; i < k->inside->n; i++) {
		struct member *m = &k->inside->members[i];
		enum state s = inside_state(i);

		if (!m->transmission || m->ended)
			continue;
		buf_clear(&b);
		put_reads(k, &b, s == IN_REQUEST ? 1 : requests_of(k, s));
		member_send(m, b.at, s == IN_REQUEST ? REQUEST_SIZE / 2 : b.len);
	}
	buf_free(&b);
}

/* In order of the states, and of as many clients as the server lets in. */
static struct clients *
bring_clients(struct test *t)
{
	static struct clients k;

	crowd_size(t);
	enter_transmission(t);
	k = (struct clients){ .t = t, .first = t->s };
	k.like = *t->s;
	k.length = blocks(t, 64 << 10);
	k.length = k.length < longest_payload(t) ? k.length : longest_payload(t);
	k.length = k.length < usable_size(t) ? k.length : (uint32_t)usable_size(t);
	need_size(t, 1);
	need_range(t, 0, k.length);
	in_step(t, R(each_request_one_reply));
	k.n_short = 2;
	k.n_long = (512u << 10) / k.length < REQUESTS_MOST ? (512u << 10) / k.length : REQUESTS_MOST;
	k.outside = crowd_gather(&k.like, INSIDE * EACH);
	bring_outside(&k);
	k.inside = crowd_gather(&k.like, (STATES - INSIDE) * EACH);
	bring_inside(&k);
	note(t, "%u other clients are in the handshake, %u in transmission: %s, %s, %s; %s, %s, %s, %s",
	     k.outside->greeted, k.inside->entered, state_names[SILENT], state_names[HAGGLING], state_names[IN_OPTION],
	     state_names[IDLE], state_names[IN_REQUEST], state_names[IN_FLIGHT], state_names[NOT_READING]);
	use(t, k.first);
	return &k;
}

/* ---- what they are sent ---- */

/* The case's own; crowd_await has no room for more. */
static struct clients *taking;

static void
check_reply(const struct clients *k, const struct simple_reply *r, unsigned n, uint64_t *answered)
{
	struct test *t = k->t;

	EXPECT(t, R(simple_reply_magic), r->magic == NBD_SIMPLE_REPLY_MAGIC, "a reply begins with 0x%" PRIx32,
	       r->magic);
	EXPECT(t, R(cookie_echoed), r->cookie < n, "a reply has cookie 0x%" PRIx64 ", which no request had", r->cookie);
	EXPECT(t, R(each_request_one_reply), (*answered & UINT64_C(1) << r->cookie) == 0,
	       "cookie 0x%" PRIx64 " was answered twice", r->cookie);
	*answered |= UINT64_C(1) << r->cookie;
	if (k->reloaded)
		EXPECT_ERROR(t, R(read_returns_data), r->error, NBD_SUCCESS);
	else
		EXPECT_ERROR(t, R(shutdown_inflight_eshutdown), r->error, NBD_SUCCESS, NBD_ESHUTDOWN);
}

/* Looks at all the whole replies that have come; their number. What is behind the last one may be a part of the next. */
static unsigned
check_replies(const struct clients *k, const struct member *m, unsigned n)
{
	struct simple_reply r;
	uint64_t answered = 0;
	size_t at = 0, size;
	unsigned count = 0;

	while (m->in.len - at >= SIMPLE_REPLY_SIZE) {
		wire_get_simple_reply(wire(m->in.at + at, SIMPLE_REPLY_SIZE), &r);
		check_reply(k, &r, n, &answered);
		size = SIMPLE_REPLY_SIZE + (r.error == NBD_SUCCESS ? k->length : 0);
		if (m->in.len - at < size)
			break;
		at += size;
		count++;
	}
	return count;
}

static bool
take_nothing(struct crowd *c, struct member *m)
{
	(void)m;
	if (m->in.len > 0)
		broken(c->t, R(handshake_flags_sent), "a client that has sent no whole option is sent %zu bytes",
		       m->in.len);
	return false;
}

static bool
take_replies(struct crowd *c, struct member *m)
{
	enum state s = inside_state((unsigned)(m - c->members));

	if (m->in.len > 0 && requests_of(taking, s) == 0 && m->transmission)
		broken(c->t, R(each_request_one_reply), "a client %s, with no request in flight, is sent %zu bytes",
		       state_names[s], m->in.len);
	return !m->transmission || check_replies(taking, m, requests_of(taking, s)) == requests_of(taking, s);
}

/* All that they are owed comes, or the connection ends, be it within a reply: who does not read cannot be waited for. */
static void
take_what_is_owed(struct clients *k)
{
	taking = k;
	crowd_await(k->outside, false, take_nothing);
	if (!crowd_await(k->inside, true, take_replies))
		expect_failed(k->t, k->reloaded ? R(each_request_one_reply) : R(shutdown_waits_for_inflight),
		              "of requests in flight some are neither answered nor ended with the connection");
}

static bool
has_ended(const struct member *m)
{
	struct pollfd p = { .fd = m->fd, .events = POLLRDHUP };

	return m->greeted && (m->ended || poll(&p, 1, 0) > 0);
}

static unsigned
count_ended(const struct crowd *c)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->n; i++)
		n += has_ended(&c->members[i]);
	return n;
}

/* ---- stop ---- */

static void
expect_end_of_server(struct test *t, const char *who_left)
{
	if (server_has_ended(t))
		return;
	if (server_refuses_clients(t))
		warns(t, R(shutdown_waits_for_inflight),
		      "after SIGTERM the server takes no new clients, and does not end, although %s", who_left);
	else
		observe(t, R(shutdown_errors_later_options), "SIGTERM does not stop the server");
}

CASE_BULK(stop, every_state,
          "When the server is asked to end among clients in every state, each is sent what it is owed, whole or up to "
          "the end "
          "of its connection, and nothing else; once they have left the server ends",
          R(shutdown_waits_for_inflight), R(shutdown_inflight_eshutdown), R(each_request_one_reply), R(cookie_echoed),
          R(simple_reply_magic), R(handshake_flags_sent))
{
	struct clients *k = bring_clients(t);
	unsigned ended, all;

	terminate_server(t);
	take_what_is_owed(k);
	ended = count_ended(k->outside) + count_ended(k->inside);
	all = k->outside->greeted + k->inside->entered;
	crowd_leave(k->outside);
	crowd_leave(k->inside);
	use(t, k->first);
	disconnect(t);
	expect_end_of_server(t, "all clients have left");
	tell(t, "of %u clients %u were disconnected by the server, the others left", all, ended);
}

enum { WRITERS = 4 };

/* Each its own block; what was flushed before SIGTERM is asked for afterwards. */
CASE(stop, flushed_writes,
     "What several clients have written and flushed before the server is asked to end is there when it is started "
     "again",
     R(flush_persists), R(shutdown_inflight_eshutdown), R(each_request_one_reply))
{
	struct session *last = NULL;
	uint32_t length;
	uint64_t cookie;
	uint8_t *data;
	unsigned n = 0;

	enter_transmission(t);
	need_writable(t);
	need_flag(t, NBD_FLAG_SEND_FLUSH);
	length = blocks(t, 4096);
	need_range(t, 0, (WRITERS + 1) * length);
	data = room((size_t)WRITERS * length);
	fill_pattern(data, (size_t)WRITERS * length, 0, 71);
	store(t, 0, data, (size_t)WRITERS * length, R(write_stored));
	need_kept(t, 0, data, (size_t)WRITERS * length);
	fill_pattern(data, (size_t)WRITERS * length, 0, 72);
	do {
		write_served(t, n * length, length, data + n * length, R(write_stored));
		/* Other cases are about that. */
		if (do_command(t, 0, NBD_CMD_FLUSH, 0, 0, R(each_request_one_reply)) != NBD_SUCCESS)
			skip(t, "FLUSH", "NBD_CMD_FLUSH fails, so that nothing is promised");
		last = t->s;
	} while (++n < WRITERS && enter_beside(t));
	use(t, last);
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_WRITE, cookie, (uint64_t)WRITERS * length, length, data);
	terminate_server(t);
	if (peer_goes_on(t, R(each_request_one_reply)))
		EXPECT_ERROR(t, R(shutdown_inflight_eshutdown),
		             recv_simple_reply(t, cookie, 0, R(each_request_one_reply)).error, NBD_SUCCESS,
		             NBD_ESHUTDOWN);
	if (!start_over_image(t))
		return;
	enter_transmission(t);
	expect_stored(t, 0, data, (size_t)n * length, R(flush_persists));
}

/* ---- reload ---- */

/* Those within a request send the rest of it. */
static void
finish_requests(const struct clients *k)
{
	struct buf b = { 0 };

	put_reads(k, &b, 1);
	for (unsigned i = 0; i < k->inside->n; i++) {
		struct member *m = &k->inside->members[i];

		if (m->transmission && !m->ended && inside_state(i) == IN_REQUEST)
			member_send(m, b.at + REQUEST_SIZE / 2, REQUEST_SIZE / 2);
	}
	buf_free(&b);
}

/* Who goes on as if nothing had happened is served. */
static void
expect_no_harm(struct clients *k)
{
	struct test *t = k->t;

	for (unsigned i = 0; i < 4; i++) {
		use(t, k->first);
		if (!probe(t, R(each_request_one_reply)))
			broken(t, R(transmission_no_disconnect),
			       "a reload ends the connection of a client in transmission");
	}
	k->reloaded = true;
	finish_requests(k);
	take_what_is_owed(k);
	EXPECT(t, R(transmission_no_disconnect), count_ended(k->inside) == 0,
	       "a reload ends the connections of %u of %u clients in transmission", count_ended(k->inside),
	       k->inside->entered);
	EXPECT(t, R(handshake_no_hard_disconnect), count_ended(k->outside) == 0,
	       "a reload ends the connections of %u of %u clients in the handshake", count_ended(k->outside),
	       k->outside->greeted);
}

/* Of what is there already. */
static void
expect_writes_served(struct test *t, uint32_t length)
{
	uint8_t *data = room(length);

	enter_transmission(t);
	if (!may_write(t) || (t->s->flags & NBD_FLAG_READ_ONLY) != 0)
		return;
	read_served(t, 0, length, data, R(read_returns_data));
	for (unsigned i = 0; i < 4; i++)
		write_served(t, 0, length, data, R(write_stored));
	leave(t);
}

CASE_BULK(reload, every_state,
          "When the server reloads its configuration, clients in every state go on as if nothing had happened, and new "
          "ones are "
          "served",
          R(transmission_no_disconnect), R(handshake_no_hard_disconnect), R(each_request_one_reply), R(greeting_magic),
          R(handshake_flags_sent), R(read_returns_data), R(write_stored))
{
	struct clients *k;

	need_reload(t);
	k = bring_clients(t);
	reload_server(t);
	expect_no_harm(k);
	crowd_leave(k->outside);
	crowd_leave(k->inside);
	use(t, k->first);
	leave(t);
	expect_next_served(t);
	expect_writes_served(t, k->length);
}

static bool
lists_export(const struct listed *l, const char *name)
{
	for (unsigned i = 0; i < l->count; i++)
		if (strcmp(l->exports[i].name, name) == 0)
			return true;
	return false;
}

/* Those of `a` that are not in `b`. */
static void
append_others(char text[256], const struct listed *a, const struct listed *b)
{
	size_t len = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < a->count && len < 200; i++)
		if (!lists_export(b, a->exports[i].name))
			len += (size_t)snprintf(text + len, 256 - len, " \"%.40s\"", a->exports[i].name);
}

CASE(reload, changed_exports,
     "When the server reloads its configuration, who haggles goes on, and LIST tells what is there by then",
     R(handshake_no_hard_disconnect), R(greeting_magic))
{
	struct listed before, after;
	char gone[256], added[256];

	need_reload(t);
	open_fixed_newstyle(t);
	before = list_exports(t);
	reload_server(t);
	expect_in_step(t, R(handshake_no_hard_disconnect));
	disconnect(t);
	open_fixed_newstyle(t);
	after = list_exports(t);
	append_others(gone, &before, &after);
	append_others(added, &after, &before);
	expect_next_client_served(t, R(greeting_magic));
	observe(t, REQUIREMENT_NONE, "exports listed: %u before the reload, %u after it; gone:%s; new:%s", before.count,
	        after.count, gone[0] != '\0' ? gone : " none", added[0] != '\0' ? added : " none");
}
