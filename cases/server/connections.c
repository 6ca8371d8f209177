/*
 * Several connections: each has its own state, what one client does or leaves undone is nothing to the others. A server
 * may serve one client at a time: then there is nothing to be told here.
 */
#include "cases/server/go.h"
#include "cases/server/transmission.h"

#include <inttypes.h>
#include <sys/socket.h>

/* Control: beside a client that is idle, which becomes the current one, another one is served. */
static bool
serves_two(struct test *t)
{
	struct session *first;
	bool two;

	enter_transmission(t);
	first = t->s;
	in_step(t, R(each_request_one_reply));
	two = enter_beside(t);
	if (two) {
		in_step(t, R(each_request_one_reply));
		leave(t);
		use(t, first);
	}
	return two;
}

/* Writing what is there already, byte for byte: a stalled WRITE of a client that leaves changes nothing. */
static void
begin_write(struct test *t, uint32_t length, uint32_t sent)
{
	uint8_t *data = room(length);

	need_range(t, 0, length);
	read_served(t, 0, length, data, R(read_returns_data));
	send_request(t, 0, NBD_CMD_WRITE, new_cookie(t), 0, length, NULL);
	send_raw(t, data, sent);
}

/* More than the sockets hold, and nobody takes it. */
static void
read_and_never_take(struct test *t)
{
	uint32_t length, most;
	int domain = AF_UNIX;

	getsockopt(t->s->fd, SOL_SOCKET, SO_DOMAIN, &domain, &(socklen_t){ sizeof(domain) });
	most = domain == AF_UNIX ? 128 << 10 : 1 << 20;
	length = longest_payload(t) < most ? longest_payload(t) : most;
	length = length < usable_size(t) ? length : (uint32_t)usable_size(t);
	for (unsigned i = 0; i < 8; i++)
		send_request(t, 0, NBD_CMD_READ, new_cookie(t), 0, length, NULL);
	peer_goes_on(t, R(each_request_one_reply));
}

enum stall {
	BEFORE_FLAGS,
	IN_FLAGS,
	IN_OPTION,
	IN_OPTION_DATA,
	IN_REQUEST,
	BEFORE_PAYLOAD,
	IN_PAYLOAD,
	NOT_READING,
	STALLS
};

static void
stall(struct test *t, enum stall how)
{
	static const uint8_t header[] = { 0x25, 0x60, 0x95, 0x13, 0, 0, 0, 0, 'h', 'a', 'l', 'f' };

	if (how >= IN_REQUEST) {
		enter_transmission(t);
		if (how == BEFORE_PAYLOAD || how == IN_PAYLOAD)
			need_writable(t);
	}
	switch (how) {
	case BEFORE_FLAGS:
		open_newstyle(t);
		break;
	case IN_FLAGS:
		open_newstyle(t);
		send_raw(t, "\0\0", 2);
		break;
	case IN_OPTION:
		open_fixed_newstyle(t);
		send_raw(t, "IHAVEOPT\0\0", 10);
		break;
	case IN_OPTION_DATA:
		open_fixed_newstyle(t);
		send_option_header(t, NBD_OPT_GO, 100);
		send_raw(t, "\0\0\0\4", 4);
		break;
	case IN_REQUEST:
		send_raw(t, header, sizeof(header));
		break;
	case BEFORE_PAYLOAD:
		begin_write(t, blocks(t, 4096), 0);
		break;
	case IN_PAYLOAD:
		begin_write(t, blocks(t, 4096), blocks(t, 4096) / 2);
		break;
	default:
		read_and_never_take(t);
	}
}

/* xapi-nbd ea82add */
CASE(connections, stalled_client,
     "A client that stops at any point, or never takes its replies, keeps no other client from being served",
     R(greeting_magic), R(each_request_one_reply), R(option_gets_reply))
{
	static const char *const names[STALLS] = { "before the client flags", "within the client flags",
		                                   "within an option",        "within an option's data",
		                                   "within a request",        "before a payload",
		                                   "within a payload",        "not reading" };

	if (!serves_two(t))
		return;
	for (volatile enum stall how = 0; how < STALLS; how++)
		POINT(t, "%s", names[how]) {
			stall(t, how);
			open_connection(t);
			recv_greeting(t);
			disconnect(t);
			enter_transmission(t);
			in_step(t, R(each_request_one_reply));
			leave(t);
		}
}

/* Two sessions in lockstep, each message cut into single bytes, which go to the one and to the other in turn. */
static void
dribble(struct test *t, struct session *a, struct session *b, const struct buf *m)
{
	for (size_t i = 0; i < m->len; i++) {
		use(t, a);
		send_raw(t, m->at + i, 1);
		use(t, b);
		send_raw(t, m->at + i, 1);
	}
}

CASE(connections, byte_by_byte,
     "Options and requests that come byte by byte, those of two clients in turn, are understood like any others",
     R(option_gets_reply), R(each_request_one_reply), R(read_returns_data))
{
	struct session *pair[2];
	struct infos infos;
	struct buf b = { 0 }, data = { 0 };
	uint32_t length;

	if (!serves_two(t))
		return;
	for (unsigned i = 0; i < 2; i++) {
		open_fixed_newstyle(t);
		pair[i] = t->s;
	}
	put_go(&data, export_name(t), (const uint16_t[]){ NBD_INFO_BLOCK_SIZE }, 1);
	wire_put_option(&b,
	                &(struct option){ NBD_OPTION_MAGIC, NBD_OPT_GO, (uint32_t)data.len, { data.at, data.len } });
	for (unsigned i = 0; i < 2; i++)
		pair[i]->option = NBD_OPT_GO;
	dribble(t, pair[0], pair[1], &b);
	for (unsigned i = 0; i < 2; i++) {
		use(t, pair[i]);
		infos = recv_infos(t, R(option_gets_reply));
		if (infos.final != NBD_REP_ACK)
			skip(t, "GO", "NBD_OPT_GO is refused");
		take_go(t, &infos);
	}
	length = blocks(t, 512);
	need_range(t, 0, length);
	buf_clear(&b);
	wire_put_request(
		&b,
		&(struct request){ .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_READ, .cookie = 77, .length = length });
	dribble(t, pair[0], pair[1], &b);
	for (unsigned i = 0; i < 2; i++) {
		use(t, pair[i]);
		EXPECT_ERROR(t, R(read_returns_data), recv_simple_reply(t, 77, length, R(each_request_one_reply)).error,
		             NBD_SUCCESS);
		in_step(t, R(each_request_one_reply));
	}
	buf_free(&b);
	buf_free(&data);
}

enum { CLIENTS = 4, EACH = 16 };

/* Every client uses the same cookies, each for other places. */
static uint64_t
place(unsigned client, unsigned i, uint32_t length)
{
	return (uint64_t)((i * 5 + client * 3) % (CLIENTS * EACH)) * length;
}

CASE(connections, same_cookies,
     "Requests in flight on four connections, with the same cookies on each, are each answered once and with their own "
     "data",
     R(each_request_one_reply), R(cookie_echoed), R(read_returns_data))
{
	struct session *clients[CLIENTS];
	uint32_t length;
	uint8_t *data;

	enter_transmission(t);
	need_writable(t);
	length = blocks(t, 512);
	need_range(t, 0, CLIENTS * EACH * length);
	data = room((size_t)CLIENTS * EACH * length);
	fill_pattern(data, (size_t)CLIENTS * EACH * length, 0, 61);
	store(t, 0, data, (size_t)CLIENTS * EACH * length, R(write_stored));
	need_kept(t, 0, data, (size_t)CLIENTS * EACH * length);
	leave(t);
	if (!serves_two(t))
		return;
	clients[0] = t->s;
	for (unsigned k = 1; k < CLIENTS; k++) {
		if (!enter_beside(t))
			return;
		clients[k] = t->s;
	}
	for (unsigned i = 0; i < EACH; i++)
		for (unsigned k = 0; k < CLIENTS; k++) {
			use(t, clients[k]);
			send_request(t, 0, NBD_CMD_READ, 1000 + i, place(k, i, length), length, NULL);
		}
	for (unsigned k = CLIENTS; k-- > 0;) {
		bool answered[EACH] = { false };

		use(t, clients[k]);
		for (unsigned n = 0; n < EACH; n++) {
			struct simple_reply r = recv_simple_header(t, R(each_request_one_reply));
			uint64_t i = r.cookie - 1000;

			EXPECT(t, R(cookie_echoed), i < EACH, "a reply has cookie %" PRIu64 ", which no request had",
			       r.cookie);
			/* cppcheck-suppress arrayIndexOutOfBoundsCond; what broke a MUST does not return */
			EXPECT(t, R(each_request_one_reply), !answered[i], "cookie %" PRIu64 " was answered twice",
			       r.cookie);
			answered[i] = true;
			EXPECT_ERROR(t, R(read_returns_data), r.error, NBD_SUCCESS);
			expect_data(t, R(read_returns_data), recv_payload(t, length, R(simple_reply_read_payload)).at,
			            data + place(k, (unsigned)i, length), length, place(k, (unsigned)i, length));
		}
		in_step(t, R(each_request_one_reply));
	}
}

/* What one connection has negotiated is nothing to another, before it or behind it. */
CASE(connections, own_negotiation, "Structured replies that one client has negotiated are for that client alone",
     R(simple_reply_required), R(read_reply_structured), R(structured_reply_for_payload))
{
	struct session *simple, *structured;
	uint32_t length;

	if (!serves_two(t))
		return;
	simple = t->s;
	length = blocks(t, 512);
	need_range(t, 0, length);
	enter_structured(t);
	structured = t->s;
	for (unsigned i = 0; i < 2; i++) {
		struct reply r;
		uint64_t cookie;

		use(t, simple);
		cookie = new_cookie(t);
		send_request(t, 0, NBD_CMD_READ, cookie, 0, length, NULL);
		recv_simple_reply(t, cookie, length, R(simple_reply_required));
		use(t, structured);
		r = exchange(t, 0, NBD_CMD_READ, 0, length, NULL, R(read_reply_structured));
		EXPECT(t, R(read_reply_structured), r.structured, "a READ gets a simple reply");
	}
	enter_transmission(t);
	in_step(t, R(simple_reply_required));
	use(t, structured);
	EXPECT(t, R(read_reply_structured),
	       exchange(t, 0, NBD_CMD_READ, 0, length, NULL, R(read_reply_structured)).structured,
	       "a READ gets a simple reply");
}

/* nbdkit a68c1014: a flush on one connection is one for all. */
CASE(connections, flush_of_another,
     "Where NBD_FLAG_CAN_MULTI_CONN is set, a WRITE of one client that another client flushes is seen by a third",
     R(multi_conn_flush_visible), R(multi_conn_shared_cache))
{
	struct session *writer, *reader;
	uint8_t *data, *got;
	uint32_t length;

	enter_transmission(t);
	need_flag(t, NBD_FLAG_CAN_MULTI_CONN);
	need_flag(t, NBD_FLAG_SEND_FLUSH);
	need_writable(t);
	length = blocks(t, 4096);
	need_range(t, 0, length);
	data = room(length);
	got = room(length);
	writer = t->s;
	if (!enter_beside(t))
		return;
	reader = t->s;
	read_served(t, 0, length, got, R(read_returns_data));
	for (uint32_t i = 0; i < length; i++)
		data[i] = (uint8_t)~got[i];
	use(t, writer);
	write_served(t, 0, length, data, R(write_stored));
	if (!enter_beside(t))
		return;
	EXPECT_ERROR(t, R(multi_conn_flush_visible), do_command(t, 0, NBD_CMD_FLUSH, 0, 0, R(multi_conn_flush_visible)),
	             NBD_SUCCESS);
	use(t, reader);
	read_served(t, 0, length, got, R(multi_conn_flush_visible));
	expect_data(t, R(multi_conn_flush_visible), got, data, length, 0);
}

/* A whole session in bytes, of which each client sends some more than the one before it. */
CASE(connections, left_at_every_byte,
     "Clients that leave after each byte of a session, from the client flags to a request, do no harm to the next",
     R(greeting_magic), R(handshake_no_hard_disconnect))
{
	struct buf b = { 0 }, data = { 0 };

	enter_transmission(t);
	if (t->s->oldstyle)
		skip(t, "newstyle", "the server speaks the oldstyle handshake");
	need_connections(t);
	wire_put_client_flags(&b, &(struct client_flags){ t->s->client_flags });
	put_go(&data, export_name(t), NULL, 0);
	if ((t->s->client_flags & NBD_FLAG_C_FIXED_NEWSTYLE) != 0) {
		wire_put_option(&b, &(struct option){ NBD_OPTION_MAGIC, NBD_OPT_LIST, 0, { NULL, 0 } });
		wire_put_option(&b, &(struct option){
					    NBD_OPTION_MAGIC, NBD_OPT_GO, (uint32_t)data.len, { data.at, data.len } });
	}
	wire_put_request(
		&b, &(struct request){
			    .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_READ, .cookie = 1, .length = blocks(t, 512) });
	leave(t);
	/* Whether a reply to a whole request is on its way by then is chance; disc/missing leaves amid replies. */
	for (size_t n = 0; n < b.len; n++) {
		open_connection(t);
		recv_greeting(t);
		send_raw(t, b.at, n);
		disconnect(t);
	}
	expect_next_client_served(t, R(handshake_no_hard_disconnect));
	buf_free(&b);
	buf_free(&data);
}
