/*
 * Crowds: many clients that stop at some point, dribble, or never take their replies, beside one that is served.
 * No text obliges a server to let so many in; how many it does is recorded. But whom it serves already it goes on serving,
 * and once the crowd has left, the next client is served. What the server takes of descriptors and memory is told.
 */
#include "harness/clock.h"
#include "harness/crowd.h"
#include "cases/server/transmission.h"

#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { UNREAD_BYTES = 320 << 10, UNREAD_MOST = 64, DROP = 5 };

/* ---- the one that is served ---- */

static void
serve_beside(struct test *t, struct session *honest, const struct crowd *c)
{
	use(t, honest);
	if (!probe(t, R(each_request_one_reply)))
		broken(t, R(transmission_no_disconnect), "a client that is served is cut off beside %u others",
		       c->connected);
}

/* As many READs as no socket holds the replies to. */
static void
put_reads(struct test *t, struct buf *b)
{
	struct request r = { .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_READ, .length = blocks(t, 64 << 10) };
	unsigned n;

	r.length = r.length < longest_payload(t) ? r.length : longest_payload(t);
	r.length = r.length < usable_size(t) ? r.length : (uint32_t)usable_size(t);
	n = r.length > 0 ? UNREAD_BYTES / r.length + 1 : UNREAD_MOST;
	for (unsigned i = 0; i < n && i < UNREAD_MOST; i++) {
		r.cookie = i;
		wire_put_request(b, &r);
	}
}

/* ---- what the crowd does ---- */

static void
stop_in_flags(struct crowd *c, struct session *honest)
{
	(void)honest;
	crowd_send(c, "\0\0", 2);
}

static void
stop_in_option(struct crowd *c, struct session *honest)
{
	struct buf b = { 0 };

	(void)honest;
	crowd_put_entry(&b, c);
	crowd_send(c, b.at, CLIENT_FLAGS_SIZE + OPTION_HEADER_SIZE - 2);
	buf_free(&b);
}

static void
stop_in_request(struct crowd *c, struct session *honest)
{
	struct buf b = { 0 };

	(void)honest;
	crowd_enter(c);
	wire_put_request(&b, &(struct request){ .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_READ, .length = 512 });
	crowd_send(c, b.at, REQUEST_SIZE / 2);
	buf_free(&b);
}

static void
leave_replies_unread(struct crowd *c, struct session *honest)
{
	struct buf b = { 0 };

	crowd_enter(c);
	use(c->t, honest);
	put_reads(c->t, &b);
	crowd_send(c, b.at, b.len);
	buf_free(&b);
}

static void
send_in_drops(struct crowd *c, struct session *honest, const struct buf *b)
{
	for (size_t i = 0; i < b->len; i += DROP) {
		crowd_send(c, b->at + i, b->len - i < DROP ? b->len - i : DROP);
		serve_beside(c->t, honest, c);
	}
}

static bool
take_reply(struct crowd *c, struct member *m)
{
	struct simple_reply r;
	uint32_t length = blocks(c->t, 512);

	if (!m->transmission)
		return true;
	if (m->in.len < SIMPLE_REPLY_SIZE)
		return false;
	wire_get_simple_reply(wire(m->in.at, SIMPLE_REPLY_SIZE), &r);
	return r.error != NBD_SUCCESS || m->in.len >= SIMPLE_REPLY_SIZE + length;
}

static void
dribble(struct crowd *c, struct session *honest)
{
	struct buf b = { 0 };

	if (!honest->oldstyle) {
		crowd_put_entry(&b, c);
		send_in_drops(c, honest, &b);
		/* Who is greeted and not answered may wait until others have left; but not longer. */
		while (!crowd_await_entry(c))
			if (!crowd_let_go(c))
				broken(c->t, R(option_gets_reply), "an option that came in drops is not answered");
	}
	use(c->t, honest);
	buf_clear(&b);
	need_range(c->t, 0, blocks(c->t, 512));
	wire_put_request(
		&b, &(struct request){ .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_READ, .length = blocks(c->t, 512) });
	send_in_drops(c, honest, &b);
	if (!crowd_await(c, true, take_reply))
		broken(c->t, R(each_request_one_reply), "a READ that came in drops is not answered");
	buf_free(&b);
}

/* ---- the whole of it ---- */

struct figures {
	struct usage before, most, after;
	bool known;
	unsigned n, connected, let_in;
	bool newcomer; /* was greeted, too */
};

static void
tell_figures(struct test *t, const struct figures *f)
{
	char usage[256] = "its processes are not ours to look at", newcomer[40] = "";

	if (f->known)
		usage_text(usage, f->before, f->most, f->after);
	if (f->newcomer)
		snprintf(newcomer, sizeof(newcomer), ", and the next one too");
	if (f->let_in == f->n)
		observe(t, REQUIREMENT_NONE, "all of %u clients were let in%s; %s", f->n, newcomer, usage);
	else
		observe(t, REQUIREMENT_NONE, "of %u clients %u were let in at once, %u left to wait or turned away; %s",
		        f->n, f->let_in, f->n - f->let_in, usage);
}

/* Behind the crowd comes one more; it may be left to wait. */
static bool
greets_newcomer(const struct crowd *crowd)
{
	struct crowd *c;
	bool greeted;

	if (!crowd_is_let_in(crowd))
		return false;
	c = crowd_gather(&crowd->like, 1);
	greeted = crowd_is_let_in(c);
	crowd_leave(c);
	return greeted;
}

static void
crowd_beside(struct test *t, void (*act)(struct crowd *c, struct session *honest), bool enters)
{
	struct figures f = { .n = crowd_size(t) };
	struct session *honest;
	struct crowd *c;

	enter_transmission(t);
	in_step(t, R(each_request_one_reply));
	honest = t->s;
	if (honest->oldstyle && (act == stop_in_flags || act == stop_in_option))
		skip(t, "newstyle", "the server speaks the oldstyle handshake");
	f.known = server_usage(t, &f.before);
	c = crowd_gather(honest, f.n);
	if (act != NULL)
		act(c, honest);
	for (unsigned i = 0; i < 4; i++)
		serve_beside(t, honest, c);
	f.connected = c->connected;
	f.let_in = enters ? c->entered : c->greeted;
	f.n = c->n;
	f.newcomer = greets_newcomer(c);
	server_usage(t, &f.most);
	note(t, "%u other clients connected, %u were greeted; now they leave", c->connected, c->greeted);
	crowd_leave(c);
	serve_beside(t, honest, &(struct crowd){ .connected = f.connected });
	if (f.known)
		f.after = await_usage(t, &f.before, f.connected);
	expect_next_served(t);
	f.most = usage_most(f.most, f.before);
	tell_figures(t, &f);
}

#define CROWD_CASE(ident, do_what, act, enters)                                                                        \
	CASE_BULK(crowd, ident,                                                                                        \
	          "Many clients that " do_what " keep neither who is served from that, nor later clients",             \
	          R(each_request_one_reply), R(transmission_no_disconnect), R(greeting_magic))                         \
	{                                                                                                              \
		crowd_beside(t, act, enters);                                                                          \
	}
CROWD_CASE(idle, "say nothing", NULL, false)
CROWD_CASE(half_greeting, "stop within the client flags", stop_in_flags, false)
CROWD_CASE(half_option, "stop within an option", stop_in_option, false)
CROWD_CASE(half_request, "stop within a request", stop_in_request, true)
CROWD_CASE(unread_replies, "READ and take no reply", leave_replies_unread, true)

CASE_BULK(crowd, dribbling,
          "Many clients that send an option and a READ some bytes at a time are answered, and so is who is served "
          "beside them",
          R(each_request_one_reply), R(transmission_no_disconnect), R(greeting_magic), R(option_gets_reply))
{
	crowd_beside(t, dribble, true);
}

/* ---- no more descriptors ---- */

enum { RUSHES = 2, CLIENTS_TO_SPARE = 4, PRICED = 4, SETTLED_MS = 50, SETTLED_MOST_MS = 1000 };

/* A request may fail for want of descriptors; that it is answered is all that is looked at. */
static void
answered_beside(struct test *t, struct session *honest)
{
	uint32_t length = blocks(t, 512);
	uint64_t cookie;

	use(t, honest);
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_READ, cookie, 0, length, NULL);
	if (!peer_goes_on(t, R(each_request_one_reply)))
		broken(t, R(transmission_no_disconnect),
		       "a client that is served is cut off when the server has no descriptors left for others");
	recv_simple_reply(t, cookie, length, R(each_request_one_reply));
}

/* What they are when those who have left before are gone, or do not go. */
static struct usage
settled_usage(const struct test *t)
{
	struct usage now = { 0 }, then;
	int64_t end = now_ms() + SETTLED_MOST_MS;

	server_usage(t, &now);
	do {
		then = now;
		usleep(SETTLED_MS * 1000);
		server_usage(t, &now);
	} while (now.descriptors != then.descriptors && now_ms() < end);
	return now;
}

/* In descriptors, to the nearest; at least one. */
static unsigned
price_of_a_client(const struct session *like)
{
	struct usage before = settled_usage(like->test), with;
	struct crowd *c = crowd_gather(like, PRICED);
	unsigned price = 0;

	crowd_enter(c);
	if (server_usage(like->test, &with) && with.descriptors > before.descriptors)
		price = (with.descriptors - before.descriptors + PRICED / 2) / PRICED;
	crowd_leave(c);
	await_usage(like->test, &before, PRICED);
	return price > 0 ? price : 1;
}

/* The descriptors that are there are enough for several clients, and all are there again once the rush is over. */
CASE_BULK(crowd, descriptors_run_out,
          "A server that runs out of descriptors for new clients goes on with those that it has, and serves new ones "
          "again when "
          "the others have left",
          R(each_request_one_reply), R(transmission_no_disconnect), R(greeting_magic))
{
	struct session *honest;
	struct usage before;
	struct crowd *c;
	unsigned spare, n, greeted = 0;

	n = crowd_size(t);
	enter_transmission(t);
	need_range(t, 0, blocks(t, 512));
	in_step(t, R(each_request_one_reply));
	honest = t->s;
	if (!server_usage(t, &before))
		skip(t, "server process",
		     "the server is no process of ours, or the system does not let us look into it");
	spare = CLIENTS_TO_SPARE * price_of_a_client(honest) + 2;
	if (n < 2 * spare)
		skip(t, "crowd", "it takes %u clients to use up %u descriptors (--crowd)", 2 * spare, spare);
	limit_descriptors(t, spare);
	note(t, "the server may have %u descriptors more; %u clients come, and go, %d times", spare, 2 * spare, RUSHES);
	for (unsigned i = 0; i < RUSHES; i++) {
		c = crowd_gather(honest, 2 * spare);
		answered_beside(t, honest);
		greeted += c->greeted;
		crowd_leave(c);
		await_usage(t, &before, 2 * spare);
	}
	answered_beside(t, honest);
	expect_next_served(t);
	tell(t, "with %u descriptors to spare, %u of %u clients were greeted", spare, greeted, RUSHES * 2 * spare);
}

/* ---- what stays behind ---- */

enum leaving {
	BEFORE_FLAGS,
	IN_FLAGS,
	HAGGLING,
	IN_OPTION,
	AFTER_ABORT,
	TRANSMISSION,
	BY_RESET,
	AFTER_DISC,
	IN_REQUEST,
	IN_PAYLOAD,
	UNREAD,
	LEAVINGS
};

static const char *const leaving_names[LEAVINGS] = {
	[BEFORE_FLAGS] = "before the client flags",
	[IN_FLAGS] = "within the client flags",
	[HAGGLING] = "in option haggling",
	[IN_OPTION] = "within an option",
	[AFTER_ABORT] = "with ABORT",
	[TRANSMISSION] = "in transmission",
	[BY_RESET] = "by a reset",
	[AFTER_DISC] = "with DISC",
	[IN_REQUEST] = "within a request",
	[IN_PAYLOAD] = "before a payload",
	[UNREAD] = "with replies unread",
};

static void
put_command(struct buf *b, uint16_t type, uint32_t length)
{
	wire_put_request(b, &(struct request){ .magic = NBD_REQUEST_MAGIC, .type = type, .length = length });
}

/* What each of them sends before it goes. */
static void
put_last_words(struct test *t, struct buf *b, const struct crowd *c, enum leaving how)
{
	switch (how) {
	case IN_FLAGS:
		buf_zero(b, 2);
		break;
	case HAGGLING:
	case AFTER_ABORT:
		wire_put_client_flags(b, &(struct client_flags){ c->like.client_flags });
		if (how == AFTER_ABORT)
			wire_put_option(b, &(struct option){ NBD_OPTION_MAGIC, NBD_OPT_ABORT, 0, { NULL, 0 } });
		break;
	case IN_OPTION:
		crowd_put_entry(b, c);
		b->len = CLIENT_FLAGS_SIZE + OPTION_HEADER_SIZE;
		break;
	case AFTER_DISC:
		put_command(b, NBD_CMD_DISC, 0);
		break;
	case IN_REQUEST:
		put_command(b, NBD_CMD_READ, 512);
		b->len = REQUEST_SIZE / 2;
		break;
	case IN_PAYLOAD:
		put_command(b, NBD_CMD_WRITE, blocks(t, 4096));
		break;
	case UNREAD:
		put_reads(t, b);
		break;
	default:
		break;
	}
}

/* False: nobody was let in. */
static bool
come_and_go(struct session *like, unsigned n, enum leaving how)
{
	struct crowd *c = crowd_gather(like, n);
	bool some = c->greeted > 0;
	struct buf b = { 0 };

	if (how >= TRANSMISSION)
		crowd_enter(c);
	use(c->t, like);
	put_last_words(c->t, &b, c, how);
	crowd_send(c, b.at, b.len);
	buf_free(&b);
	(how == BY_RESET ? crowd_reset : crowd_leave)(c);
	return some;
}

enum { TOGETHER = 4, IN_A_ROUND = 8, ROUNDS = 3, MORE_ROUNDS = 16, PATIENCE = 2000, LEAST_LEAK = 2048 };

struct measurement {
	struct test *t;
	struct session *like;
	enum leaving how;
	unsigned together;
	struct usage usage; /* after the last round */
};

/* Where no more is taken than before, there is no need to wait any longer for those that have left to be noticed. */
static void
do_round(struct measurement *m)
{
	struct usage before = m->usage;

	for (unsigned i = 0; i < IN_A_ROUND; i += m->together)
		come_and_go(m->like, m->together, m->how);
	m->usage = await_usage(m->t, &before, 0);
}

/* Each of several rounds leaves some behind, and those stay. */
static void
look_for_descriptors(struct measurement *m)
{
	struct usage before = m->usage;
	unsigned first = before.descriptors, last = first;

	for (unsigned i = 0; i < ROUNDS; i++) {
		do_round(m);
		if (m->usage.descriptors <= last)
			return;
		last = m->usage.descriptors;
	}
	m->usage = await_usage(m->t, &before, PATIENCE);
	last = m->usage.descriptors;
	if (last < first + ROUNDS)
		return;
	warns(m->t, R(greeting_magic),
	      "%u clients that left %s have cost the server %u descriptors: when it has no more it can greet nobody",
	      ROUNDS * IN_A_ROUND, leaving_names[m->how], last - first);
}

/*
 * Allocators and thread pools grow for a while, by leaps, and stop. So memory is called lost only where each of many rounds
 * takes more, none of them much less than the others, for each client a piece that no rounding explains.
 */
static void
look_for_memory(struct measurement *m)
{
	uint64_t least = UINT64_MAX, first = m->usage.memory, last = first, grown;

	for (unsigned i = 0; i < MORE_ROUNDS; i++) {
		do_round(m);
		grown = m->usage.memory > last ? m->usage.memory - last : 0;
		least = grown < least ? grown : least;
		last = m->usage.memory;
		if (least < (uint64_t)LEAST_LEAK * IN_A_ROUND)
			return;
	}
	if (least * MORE_ROUNDS < (last - first) / 2)
		return;
	warns(m->t, R(greeting_magic),
	      "%u clients that left %s have cost the server %.1f MiB of memory, as much in each round: when it has no "
	      "more it "
	      "can greet nobody",
	      MORE_ROUNDS * IN_A_ROUND, leaving_names[m->how], (double)(last - first) / (1 << 20));
}

static bool
can_leave(const struct session *like, enum leaving how)
{
	bool fixed = (like->client_flags & NBD_FLAG_C_FIXED_NEWSTYLE) != 0;

	if (how == AFTER_ABORT)
		return fixed;
	if (how == IN_PAYLOAD)
		return (like->flags & NBD_FLAG_READ_ONLY) == 0;
	return how >= TRANSMISSION || how == BEFORE_FLAGS || !like->oldstyle;
}

/* How many clients at once get in; 0: none. */
static unsigned
try_together(const struct session *like)
{
	struct crowd *c = crowd_gather(like, TOGETHER);
	bool all = crowd_is_let_in(c);

	crowd_leave(c);
	return all ? TOGETHER : 1;
}

CASE_BULK(
	crowd, left_behind,
	"Clients that come and go, in whatever state they leave, cost the server no descriptors and no memory for ever",
	R(greeting_magic))
{
	static struct session like; /* outlives the points */
	static struct measurement m;

	crowd_size(t);
	enter_transmission(t);
	like = *t->s;
	m = (struct measurement){ .t = t, .like = &like };
	in_step(t, R(each_request_one_reply));
	if (!server_usage(t, &m.usage))
		skip(t, "server process",
		     "the server is no process of ours, or the system does not let us look into it");
	leave(t);
	m.together = try_together(&like);
	for (m.how = 0; m.how < LEAVINGS; m.how++)
		POINT(t, "%s", leaving_names[m.how]) {
			if (!can_leave(&like, m.how))
				skip(t, "states", "clients of this server are never there");
			struct usage before;

			do_round(&m);
			before = m.usage;
			look_for_descriptors(&m);
			if (!m.usage.sanitized)
				look_for_memory(&m);
			tell(t, "descriptors %u, memory %+.1f MiB", m.usage.descriptors,
			     ((double)m.usage.memory - (double)before.memory) / (1 << 20));
		}
}
