/*
 * A server that is asked to end while a client is there (proto.md:273-279, 451-458). A server that ends at once, between
 * two messages, has received nothing that it owes an answer to: that is recorded, and no fault.
 */
#include "cases/server/transmission.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- options ---- */

struct asked {
	bool ended; /* the connection, without an answer */
	uint32_t final;
};

/* One option and all of its answer. */
static struct asked
ask(struct test *t, uint32_t option, enum requirement_id owed)
{
	struct option_reply r = { 0 };

	if (option == NBD_OPT_INFO)
		send_go(t, option, export_name(t), NULL, 0);
	else
		send_option(t, option, NULL, 0);
	do {
		if (r.type == 0 && !peer_goes_on(t, owed))
			return (struct asked){ .ended = true };
		r = recv_option_reply(t, owed);
	} while (r.type != NBD_REP_ACK && !is_error_reply(r.type));
	return (struct asked){ .final = r.type };
}

/*
 * An answer like before says nothing as long as the server may not have noticed yet: where it still takes new clients, it
 * is left at that.
 */
static bool
must_have_noticed(struct test *t, enum requirement_id r)
{
	if (server_refuses_clients(t))
		return true;
	observe(t, r, "after SIGTERM the server serves its clients as before, and takes new ones");
	return false;
}

CASE(shutdown, later_options,
     "Options that come when the server is being shut down are refused with NBD_REP_ERR_SHUTDOWN, or the session ends",
     R(shutdown_errors_later_options), R(server_errors_unwelcome_client))
{
	static const uint32_t options[] = { NBD_OPT_LIST, NBD_OPT_INFO, NBD_OPT_LIST };
	struct asked a;

	open_fixed_newstyle(t);
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		ask(t, options[i], R(option_gets_reply));
	terminate_server(t);
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		a = ask(t, options[i], R(shutdown_errors_later_options));
		if (!a.ended && a.final != NBD_REP_ERR_SHUTDOWN) {
			if (!must_have_noticed(t, R(shutdown_errors_later_options)))
				return;
			a = ask(t, options[i], R(shutdown_errors_later_options));
		}
		if (a.ended) {
			observe(t, R(server_errors_unwelcome_client), "the server ends at once, with the connection");
			return;
		}
		EXPECT_REPLY(t, R(shutdown_errors_later_options), a.final, NBD_REP_ERR_SHUTDOWN);
	}
}

CASE(shutdown, abort, "NBD_OPT_ABORT is acknowledged while the server is being shut down, or the session has ended",
     R(shutdown_errors_later_options), R(abort_acked))
{
	struct asked a;

	open_fixed_newstyle(t);
	expect_in_step(t, R(option_gets_reply));
	terminate_server(t);
	a = ask(t, NBD_OPT_ABORT, R(abort_acked));
	if (a.ended)
		observe(t, R(shutdown_errors_later_options), "the server ends at once, with the connection");
	else
		EXPECT_REPLY(t, R(abort_acked), a.final, NBD_REP_ACK);
}

/* The client's own message is whole only after the signal. What the server makes of it is its own choice. */
CASE(shutdown, option_in_flight,
     "An option that had begun to come when the server was asked to end is served, or refused, or the session ends",
     R(shutdown_errors_inflight_option), R(option_gets_reply))
{
	uint32_t usual;
	struct option_reply r;
	struct buf b = { 0 };
	struct asked a;

	open_fixed_newstyle(t);
	a = ask(t, NBD_OPT_INFO, R(option_gets_reply));
	usual = a.final;
	put_go(&b, export_name(t), NULL, 0);
	send_option_header(t, NBD_OPT_INFO, (uint32_t)b.len);
	send_raw(t, b.at, 3);
	terminate_server(t);
	send_raw(t, b.at + 3, b.len - 3);
	buf_free(&b);
	for (unsigned n = 0;; n++) {
		if (n == 0 && !peer_goes_on(t, R(option_gets_reply))) {
			observe(t, R(shutdown_errors_inflight_option), "the server ends at once, with the connection");
			return;
		}
		r = recv_option_reply(t, R(option_gets_reply));
		if (r.type == NBD_REP_ACK || is_error_reply(r.type))
			break;
	}
	EXPECT_REPLY(t, R(option_gets_reply), r.type, usual, NBD_REP_ERR_SHUTDOWN);
}

/* ---- requests ---- */

/* So much that no socket holds it, nor one of 2 MiB, as qemu makes them: the server is still at it when it is asked to end. */
static uint32_t
more_than_fits(const struct test *t)
{
	int domain = AF_UNIX;
	uint32_t bytes;

	getsockopt(t->s->fd, SOL_SOCKET, SO_DOMAIN, &domain, &(socklen_t){ sizeof(domain) });
	bytes = domain == AF_UNIX ? 8 << 20 : 16 << 20;
	return bytes < longest_payload(t) ? bytes : longest_payload(t);
}

static void
expect_reply_in_shutdown(struct test *t, uint32_t error, enum requirement_id r)
{
	EXPECT_ERROR(t, r, error, NBD_SUCCESS, NBD_ESHUTDOWN);
}

/* A long READ whose reply has begun, so that it is in flight for certain. */
static void
await_reply_through_shutdown(struct test *t)
{
	uint32_t length = more_than_fits(t);
	struct simple_reply r;
	uint64_t cookie;

	need_range(t, 0, length);
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_READ, cookie, 0, length, NULL);
	if (!peer_goes_on(t, R(each_request_one_reply)))
		broken(t, R(transmission_no_disconnect), "a READ ends the connection");
	terminate_server(t);
	r = recv_simple_reply(t, cookie, length, R(shutdown_waits_for_inflight));
	expect_reply_in_shutdown(t, r.error, R(shutdown_inflight_eshutdown));
}

CASE(shutdown, reply_under_way, "A READ whose reply has begun when the server is asked to end is answered to its end",
     R(shutdown_waits_for_inflight), R(shutdown_inflight_eshutdown), R(shutdown_errors_inflight_request))
{
	enter_transmission(t);
	in_step(t, R(read_returns_data));
	await_reply_through_shutdown(t);
}

/* CVE-2024-7409 (qemu): clients that never negotiate, while the server stops. */
CASE(shutdown, among_idle_clients,
     "Clients that have come no further than the handshake do not keep a server that is being shut down from answering",
     R(shutdown_waits_for_inflight))
{
	struct session *busy, *idle;

	enter_transmission(t);
	busy = t->s;
	if (!enter_beside(t))
		return;
	idle = t->s;
	in_step(t, R(each_request_one_reply));
	for (unsigned stage = 0; stage < 3; stage++) {
		if (!open_beside(t))
			break;
		recv_greeting(t);
		if (stage > 0 && !t->s->oldstyle)
			send_client_flags(t, t->s->handshake_flags & NBD_FLAG_C_FIXED_NEWSTYLE);
		if (stage > 1 && !t->s->oldstyle)
			send_option_header(t, NBD_OPT_EXPORT_NAME, 100);
	}
	use(t, idle);
	in_step(t, R(each_request_one_reply));
	use(t, busy);
	await_reply_through_shutdown(t);
}

enum { BATCH = 24 };

/*
 * False: the connection ended before the whole reply came. How many get through is a race that no server can win for
 * certain; whether one that has begun is finished is what reply_under_way is about.
 */
static bool
take_whole(struct test *t, uint32_t length, struct simple_reply *r)
{
	bool silent;
	struct bytes b = recv_what_comes(t, SIMPLE_REPLY_SIZE, &silent);

	if (!silent && b.len == SIMPLE_REPLY_SIZE) {
		wire_get_simple_reply(wire(b.at, b.len), r);
		EXPECT(t, R(simple_reply_magic), r->magic == NBD_SIMPLE_REPLY_MAGIC, "the reply begins with 0x%" PRIx32,
		       r->magic);
		length = r->error == NBD_SUCCESS ? length : 0;
		if (length > 0)
			b = recv_what_comes(t, length, &silent);
		if (!silent && (length == 0 || b.len == length))
			return true;
	}
	if (silent)
		broken_values(t, R(shutdown_waits_for_inflight), "replies, or the end of the connection", "silence");
	return false;
}

/* The replies to requests that were sent without waiting; false where the connection ends before the last one. */
static bool
take_batch(struct test *t, uint64_t first, uint32_t length, unsigned *failed)
{
	bool answered[BATCH] = { false };
	struct simple_reply r;
	uint64_t i;

	for (unsigned n = 0; n < BATCH; n++) {
		if (!take_whole(t, length, &r)) {
			observe(t, R(shutdown_errors_inflight_request),
			        "of %d requests some were answered, with NBD_ESHUTDOWN or without, before the server "
			        "left",
			        BATCH);
			note(t, "%u of them were answered, %u with NBD_ESHUTDOWN", n, *failed);
			return false;
		}
		i = r.cookie - first;
		EXPECT(t, R(cookie_echoed), i < BATCH, "a reply has cookie 0x%" PRIx64 ", which no request had",
		       r.cookie);
		/* cppcheck-suppress arrayIndexOutOfBoundsCond; what broke a MUST does not return */
		EXPECT(t, R(each_request_one_reply), !answered[i], "cookie 0x%" PRIx64 " was answered twice", r.cookie);
		answered[i] = true;
		expect_reply_in_shutdown(t, r.error, R(shutdown_inflight_eshutdown));
		*failed += r.error != NBD_SUCCESS;
	}
	return true;
}

CASE(shutdown, requests_in_flight,
     "Of requests in flight when the server is asked to end each is answered once, with success or NBD_ESHUTDOWN; then "
     "the connection may end",
     R(shutdown_inflight_eshutdown), R(shutdown_errors_inflight_request), R(shutdown_waits_for_inflight),
     R(each_request_one_reply))
{
	struct request r = { .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_READ };
	unsigned failed = 0;
	uint64_t first = 0;
	struct buf b = { 0 };

	enter_transmission(t);
	/* Together more than fits, so that some are in flight for certain. */
	r.length = blocks(t, more_than_fits(t) / BATCH * 2);
	r.length = r.length < usable_size(t) ? r.length : (uint32_t)usable_size(t);
	need_range(t, 0, r.length);
	read_served(t, 0, r.length, room(r.length), R(read_returns_data));
	for (unsigned i = 0; i < BATCH; i++) {
		r.cookie = new_cookie(t);
		first = i == 0 ? r.cookie : first;
		wire_put_request(&b, &r);
	}
	note(t, "%d times NBD_CMD_READ, of %" PRIu64 " bytes each, in one piece:", BATCH, r.length);
	send_raw(t, b.at, b.len);
	buf_free(&b);
	if (!peer_goes_on(t, R(each_request_one_reply)))
		broken(t, R(transmission_no_disconnect), "a READ ends the connection");
	terminate_server(t);
	if (take_batch(t, first, r.length, &failed))
		observe(t, R(shutdown_errors_inflight_request),
		        "all of %d requests were answered, %u of them with "
		        "NBD_ESHUTDOWN",
		        BATCH, failed);
}

/* One that is served may have come before the server took notice; for a client it is as good as any. */
static void
ask_later(struct test *t, const uint16_t *types, size_t n)
{
	uint32_t length = blocks(t, 4096);
	unsigned served = 0;
	uint8_t *data;

	need_range(t, 0, length);
	data = room(length);
	read_served(t, 0, length, data, R(read_returns_data));
	terminate_server(t);
	for (size_t i = 0; i < n; i++) {
		uint64_t cookie = new_cookie(t);
		struct simple_reply r;

		/* A WRITE is of what stands there already. */
		send_request(t, 0, types[i], cookie, 0, types[i] == NBD_CMD_FLUSH ? 0 : length,
		             types[i] == NBD_CMD_WRITE ? data : NULL);
		if (!peer_goes_on(t, R(shutdown_later_eshutdown))) {
			observe(t, R(shutdown_later_eshutdown), "the server ends, with the connection");
			return;
		}
		r = recv_simple_reply(t, cookie, types[i] == NBD_CMD_READ ? length : 0, R(each_request_one_reply));
		expect_reply_in_shutdown(t, r.error, R(shutdown_later_eshutdown));
		served += r.error == NBD_SUCCESS;
	}
	if (served > 0)
		observe(t, R(shutdown_later_eshutdown), "after SIGTERM the server goes on to serve its client");
}

CASE(shutdown, later_reads,
     "READs that come when the server is being shut down get NBD_ESHUTDOWN if they get an error, or the connection "
     "ends",
     R(shutdown_later_eshutdown), R(each_request_one_reply))
{
	enter_transmission(t);
	ask_later(t, (const uint16_t[]){ NBD_CMD_READ, NBD_CMD_READ }, 2);
}

CASE(shutdown, later_writes,
     "A WRITE and a FLUSH that come when the server is being shut down get NBD_ESHUTDOWN if they get an error, or the "
     "connection ends",
     R(shutdown_later_eshutdown), R(each_request_one_reply), R(request_payload_consumed))
{
	enter_transmission(t);
	need_writable(t);
	need_flag(t, NBD_FLAG_SEND_FLUSH);
	ask_later(t, (const uint16_t[]){ NBD_CMD_WRITE, NBD_CMD_FLUSH, NBD_CMD_WRITE }, 3);
}

/* Its header was there, so the server may count it among those in flight; the error is the same. */
CASE(shutdown, write_under_way,
     "A WRITE whose payload is under way when the server is asked to end is taken whole, and answered with success or "
     "NBD_ESHUTDOWN, or the connection ends",
     R(shutdown_inflight_eshutdown), R(shutdown_errors_inflight_request), R(request_payload_consumed))
{
	struct simple_reply r;
	uint32_t length;
	uint64_t cookie;
	uint8_t *data;

	enter_transmission(t);
	need_writable(t);
	length = blocks(t, 8192);
	need_range(t, 0, length);
	data = room(length);
	fill_bait(t, data, length);
	write_served(t, 0, length, data, R(write_stored));
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_WRITE, cookie, 0, length, NULL);
	send_raw(t, data, length / 2);
	terminate_server(t);
	send_raw(t, data + length / 2, length - length / 2);
	if (!peer_goes_on(t, R(each_request_one_reply))) {
		observe(t, R(shutdown_errors_inflight_request), "the server ends at once, with the connection");
		return;
	}
	r = recv_simple_reply(t, cookie, 0, R(each_request_one_reply));
	expect_reply_in_shutdown(t, r.error, R(shutdown_inflight_eshutdown));
	/* What comes next is a request again, and no more of the payload. */
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_READ, cookie, 0, length, NULL);
	if (peer_goes_on(t, R(request_payload_consumed)))
		EXPECT_EQ(t, R(request_payload_consumed), recv_simple_header(t, R(request_payload_consumed)).cookie,
		          cookie);
}
