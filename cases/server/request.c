/* Requests in general, with simple replies: cookies, many at once, what is not known, what is cut short. */
#include "cases/server/transmission.h"

#include <inttypes.h>
#include <sys/socket.h>

/* ---- one reply to each ---- */

CASE(request, one_reply_each,
     "Each of many requests, one after another, gets one simple reply, and the connection stays",
     R(each_request_one_reply))
{
	enter_transmission(t);
	for (unsigned i = 0; i < 20; i++)
		in_step(t, R(each_request_one_reply));
}

CASE(request, connection_stays, "The server ends no connection of a client that breaks nothing",
     R(transmission_no_disconnect))
{
	enter_transmission(t);
	for (unsigned i = 0; i < 40; i++)
		EXPECT(t, R(transmission_no_disconnect), probe(t, R(transmission_no_disconnect)),
		       "the connection was closed after %u READs", i);
}

/* proto.md:391: nothing but simple replies before NBD_OPT_STRUCTURED_REPLY. */
static void
expect_no_chunk(struct test *t, uint64_t offset, uint32_t length)
{
	uint64_t cookie = new_cookie(t);
	uint8_t magic[4] = { 0 };
	struct wire w = wire(magic, sizeof(magic));

	send_request(t, 0, NBD_CMD_READ, cookie, offset, length, NULL);
	if (!peer_goes_on(t, R(read_reply_simple)))
		return;
	peek_bytes(t, magic, sizeof(magic));
	EXPECT(t, R(structured_reply_needs_negotiation), wire_be32(&w) != NBD_STRUCTURED_REPLY_MAGIC,
	       "a structured reply, although the client did not ask for NBD_OPT_STRUCTURED_REPLY");
	recv_simple_reply(t, cookie, length, R(read_reply_simple));
}

CASE(request, no_structured_replies,
     "A client that did not negotiate structured replies gets none, neither for data nor for an error",
     R(structured_reply_needs_negotiation), R(read_reply_simple), R(simple_reply_error_zero))
{
	struct range r;

	enter_transmission(t);
	need_size(t, blocks(t, 512));
	expect_no_chunk(t, 0, blocks(t, 512));
	r = range_beyond(t, BEYOND_AT_END);
	expect_no_chunk(t, r.offset, r.length);
}

struct command {
	const char *name;
	uint16_t type, flag;
	bool writes;
};

static void
go_on_after(struct test *t, const struct command *command)
{
	enum requirement_id no_data =
		command->type == NBD_CMD_CACHE ? R(cache_no_payload) : R(simple_reply_payload_only_read);
	uint32_t length;
	uint64_t cookie;

	enter_transmission(t);
	if (command->flag != 0)
		need_flag(t, command->flag);
	if (command->writes)
		need_writable(t);
	length = blocks(t, 4096);
	need_range(t, 0, length);
	cookie = new_cookie(t);
	send_request(t, 0, command->type, cookie, 0, length, command->type == NBD_CMD_WRITE ? room(length) : NULL);
	recv_simple_reply(t, cookie, 0, R(each_request_one_reply));
	in_step_without(t, no_data, R(request_payload_consumed));
}

/* xapi-nbd 5368f66: after a WRITE nothing was answered any more. */
CASE(request, after_each_command,
     "The reply to a command other than READ has no data behind it, and the next request is answered",
     R(simple_reply_payload_only_read), R(cache_no_payload), R(each_request_one_reply), R(request_payload_consumed))
{
	static const struct command commands[] = {
		{ "WRITE", NBD_CMD_WRITE, 0, true },
		{ "TRIM", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, true },
		{ "CACHE", NBD_CMD_CACHE, NBD_FLAG_SEND_CACHE, false },
		{ "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, true },
	};

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		POINT(t, "%s", commands[i].name)
			go_on_after(t, &commands[i]);
}

/* ---- cookies ---- */

static void
read_by_cookie(struct test *t, uint64_t cookie)
{
	uint32_t length;
	uint32_t error;

	enter_transmission(t);
	length = blocks(t, 512);
	need_size(t, length);
	read_served(t, 0, length, room(length), R(cookie_echoed));
	send_request(t, 0, NBD_CMD_READ, cookie, 0, length, NULL);
	if (!peer_goes_on(t, R(cookie_opaque)))
		broken(t, R(cookie_opaque), "the connection was closed after a READ with this cookie");
	error = recv_simple_reply(t, cookie, length, R(cookie_opaque)).error;
	EXPECT_ERROR(t, R(cookie_opaque), error, NBD_SUCCESS);
	in_step(t, R(cookie_opaque));
}

CASE(request, cookies, "Any cookie is echoed bit for bit and means nothing: zero, all ones, the magic numbers",
     R(cookie_echoed), R(cookie_opaque))
{
	static const uint64_t cookies[] = {
		0,
		1,
		UINT64_MAX,
		UINT64_C(1) << 63,
		INT64_MAX,
		UINT32_MAX,
		UINT64_C(1) << 32,
		UINT64_C(0x0102030405060708),
		NBD_MAGIC,
		NBD_OPTION_MAGIC,
		NBD_OPTION_REPLY_MAGIC,
		NBD_CLISERV_MAGIC,
		(uint64_t)NBD_REQUEST_MAGIC << 32,
		(uint64_t)NBD_SIMPLE_REPLY_MAGIC << 32 | NBD_STRUCTURED_REPLY_MAGIC,
	};

	for (size_t i = 0; i < sizeof(cookies) / sizeof(cookies[0]); i++)
		POINT(t, "cookie=0x%016" PRIx64, cookies[i])
			read_by_cookie(t, cookies[i]);
}

/* proto.md:304: distinct cookies are what a client SHOULD choose, and old ones it may use again. */
CASE(request, cookie_used_again,
     "A cookie that is used again, even while its request is in flight, gets a reply for each request",
     R(cookie_opaque), R(cookie_echoed))
{
	uint32_t length;
	uint64_t cookie;

	enter_transmission(t);
	length = blocks(t, 512);
	need_size(t, length);
	read_served(t, 0, length, room(length), R(cookie_echoed));
	cookie = new_cookie(t);
	for (unsigned together = 1; together <= 3; together++) {
		for (unsigned i = 0; i < together; i++)
			send_request(t, 0, NBD_CMD_READ, cookie, 0, length, NULL);
		for (unsigned i = 0; i < together; i++) {
			uint32_t error = recv_simple_reply(t, cookie, length, R(cookie_opaque)).error;

			EXPECT_ERROR(t, R(cookie_opaque), error, NBD_SUCCESS);
		}
	}
	in_step(t, R(cookie_opaque));
}

/* ---- many at once ---- */

enum { IN_FLIGHT = 64, READ_SHARE = 4, READS_MOST = 65536 };

/* What was asked, by cookie from .first on. */
struct flight {
	uint64_t first;
	uint32_t length; /* of each READ and WRITE */
	unsigned reads;  /* so many areas at the front are read, the others are written */
	uint16_t type[IN_FLIGHT];
	bool answered[IN_FLIGHT];
	uint8_t *data; /* of all areas, as it must be in the end */
};

/* Few enough bytes of READ that their replies fit into the socket: nobody reads them before all is sent. */
static void
plan(struct test *t, struct flight *f)
{
	f->length = blocks(t, 4096);
	f->reads = READS_MOST / f->length < IN_FLIGHT / READ_SHARE ? READS_MOST / f->length : IN_FLIGHT / READ_SHARE;
	need_range(t, 0, f->length);
	need_size(t, (uint64_t)IN_FLIGHT * f->length);
	f->data = room((size_t)IN_FLIGHT * f->length);
	fill_pattern(f->data, (size_t)IN_FLIGHT * f->length, 0, 40);
	store(t, 0, f->data, (size_t)IN_FLIGHT * f->length, R(write_stored));
	for (unsigned i = 0; i < IN_FLIGHT; i++) {
		f->type[i] = NBD_CMD_WRITE;
		if (i % READ_SHARE == 0 && i / READ_SHARE < f->reads)
			f->type[i] = NBD_CMD_READ;
		if ((t->s->flags & NBD_FLAG_SEND_FLUSH) != 0 && i % 16 == 15)
			f->type[i] = NBD_CMD_FLUSH;
		if (f->type[i] == NBD_CMD_WRITE)
			fill_pattern(f->data + i * f->length, f->length, i * f->length, 41);
	}
}

static void
send_all_requests(struct test *t, struct flight *f)
{
	for (unsigned i = 0; i < IN_FLIGHT; i++) {
		uint64_t cookie = new_cookie(t);
		bool is_flush = f->type[i] == NBD_CMD_FLUSH;

		f->first = i == 0 ? cookie : f->first;
		send_request(t, 0, f->type[i], cookie, is_flush ? 0 : i * f->length, is_flush ? 0 : f->length,
		             f->type[i] == NBD_CMD_WRITE ? f->data + i * f->length : NULL);
	}
}

static void
take_reply(struct test *t, struct flight *f)
{
	static const enum requirement_id succeeds[] = { [NBD_CMD_READ] = R(read_returns_data),
		                                        [NBD_CMD_WRITE] = R(write_stored),
		                                        [NBD_CMD_FLUSH] = R(flush_supported) };
	struct simple_reply r = recv_simple_header(t, R(each_request_one_reply));
	uint64_t i = r.cookie - f->first;

	if (i >= IN_FLIGHT)
		broken(t, R(cookie_echoed), "a reply has cookie 0x%" PRIx64 ", which no request had", r.cookie);
	/* cppcheck-suppress arrayIndexOutOfBoundsCond; broken() does not return */
	if (f->answered[i])
		broken(t, R(each_request_one_reply), "cookie 0x%" PRIx64 " is answered twice", r.cookie);
	f->answered[i] = true;
	EXPECT_ERROR(t, succeeds[f->type[i]], r.error, NBD_SUCCESS);
	if (f->type[i] == NBD_CMD_READ)
		expect_data(t, R(read_returns_data), recv_payload(t, f->length, R(simple_reply_read_payload)).at,
		            f->data + i * f->length, f->length, i * f->length);
}

CASE(request, many_in_flight,
     "Each of 64 requests in flight, READ, WRITE and FLUSH, is answered once, in any order, with its own data",
     R(each_request_one_reply), R(cookie_echoed), R(read_returns_data), R(write_stored), R(simple_reply_read_payload),
     R(flush_supported), R(commands_any_order), R(replies_any_order))
{
	struct flight f = { 0 };

	enter_transmission(t);
	need_writable(t);
	plan(t, &f);
	send_all_requests(t, &f);
	for (unsigned i = 0; i < IN_FLIGHT; i++)
		take_reply(t, &f);
	in_step(t, R(each_request_one_reply));
	expect_stored(t, 0, f.data, (size_t)IN_FLIGHT * f.length, R(write_stored));
}

/* ---- in pieces ---- */

static void
encode_read(struct test *t, struct buf *b, uint32_t length, uint64_t *cookie)
{
	*cookie = new_cookie(t);
	wire_put_request(
		b, &(struct request){
			   .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_READ, .cookie = *cookie, .length = length });
}

CASE(request, dribbled,
     "A request that comes byte by byte, and several that come in one piece, are answered like any others",
     R(each_request_one_reply), R(cookie_echoed))
{
	struct buf b = { 0 };
	uint64_t cookies[5];
	uint32_t length;

	enter_transmission(t);
	length = blocks(t, 512);
	need_size(t, length);
	read_served(t, 0, length, room(length), R(each_request_one_reply));
	encode_read(t, &b, length, &cookies[0]);
	for (size_t i = 0; i < b.len; i++)
		send_raw(t, b.at + i, 1);
	EXPECT_EQ(t, R(cookie_echoed), recv_simple_header(t, R(each_request_one_reply)).cookie, cookies[0]);
	recv_payload(t, length, R(each_request_one_reply));
	buf_clear(&b);
	for (unsigned i = 0; i < 5; i++)
		encode_read(t, &b, length, &cookies[i]);
	send_raw(t, b.at, b.len);
	for (unsigned i = 0; i < 5; i++) {
		uint64_t cookie = recv_simple_header(t, R(each_request_one_reply)).cookie;

		EXPECT(t, R(cookie_echoed), cookie >= cookies[0] && cookie <= cookies[4],
		       "a reply has cookie 0x%" PRIx64 ", which no request had", cookie);
		recv_payload(t, length, R(each_request_one_reply));
	}
	in_step(t, R(each_request_one_reply));
}

CASE(request, header_cut_off, "After a client that leaves within the header of a request, the next one is served",
     R(greeting_magic))
{
	static const size_t cuts[] = { 1, 4, 6, 8, 16, 24, 27 };
	struct request r = { .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_READ, .cookie = 1, .length = 512 };
	struct buf b = { 0 };

	wire_put_request(&b, &r);
	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++)
		POINT(t, "bytes=%zu", cuts[i]) {
			enter_transmission(t);
			in_step(t, R(read_returns_data));
			send_raw(t, b.at, cuts[i]);
			expect_next_served(t);
		}
}

/* ---- what a server does not know ---- */

/* As READ the type would be served; as WRITE it would have a payload; what is stored there could not be harmed. */
static void
send_unknown(struct test *t, uint16_t flags, uint16_t type, uint32_t length, enum requirement_id should)
{
	uint64_t cookie = new_cookie(t);

	send_request(t, flags, type, cookie, 0, length, NULL);
	if (expect_refusal(t, cookie, 0, should, NBD_EINVAL, 0) != GONE)
		in_step_or_gone(t, R(request_payload_consumed));
}

/* None of these is a command that writes when a server looks at half of its bits, or at its bytes the other way round. */
CASE(request, unknown_command,
     "A command that nobody knows gets NBD_EINVAL, no data is taken for it, and the next one is served",
     R(unknown_command_einval), R(request_payload_consumed), R(each_request_one_reply))
{
	static const uint16_t types[] = { 9, 10, 0x3f, 0xff, 0x0900, 0x7fff, 0x8000, 0xffff };

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		POINT(t, "type=0x%04x", types[i]) {
			enter_transmission(t);
			in_step(t, R(read_returns_data));
			send_unknown(t, 0, types[i], blocks(t, 4096), R(unknown_command_einval));
		}
}

struct flagged {
	const char *name;
	uint16_t type, flags;
};

static void
send_flagged(struct test *t, const struct flagged *f, enum requirement_id should)
{
	uint32_t length;
	uint8_t *bait;
	uint64_t cookie;

	enter_transmission(t);
	in_step(t, R(read_returns_data));
	if (f->type == NBD_CMD_FLUSH)
		need_flag(t, NBD_FLAG_SEND_FLUSH);
	if (f->type == NBD_CMD_WRITE)
		need_writable(t);
	length = f->type == NBD_CMD_FLUSH ? 0 : blocks(t, 4096);
	need_range(t, 0, length);
	bait = room(length);
	fill_bait(t, bait, length);
	cookie = new_cookie(t);
	send_request(t, f->flags, f->type, cookie, 0, length, f->type == NBD_CMD_WRITE ? bait : NULL);
	if (expect_refusal(t, cookie, f->type == NBD_CMD_READ ? length : 0, should, NBD_EINVAL, 0) != GONE)
		in_step_or_gone(t, R(request_payload_consumed));
}

CASE(request, unknown_flag,
     "A command flag that nobody knows gets NBD_EINVAL, a WRITE's payload is taken, and the next request is served",
     R(unknown_command_flag_einval), R(request_payload_consumed), R(each_request_one_reply))
{
	static const struct flagged points[] = {
		{ "READ,flags=0x40", NBD_CMD_READ, 0x40 },     { "READ,flags=0x8000", NBD_CMD_READ, 0x8000 },
		{ "READ,flags=0xffc0", NBD_CMD_READ, 0xffc0 }, { "WRITE,flags=0x40", NBD_CMD_WRITE, 0x40 },
		{ "WRITE,flags=0x100", NBD_CMD_WRITE, 0x100 }, { "WRITE,flags=0x8000", NBD_CMD_WRITE, 0x8000 },
		{ "FLUSH,flags=0x40", NBD_CMD_FLUSH, 0x40 },   { "FLUSH,flags=0x8000", NBD_CMD_FLUSH, 0x8000 },
	};

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		POINT(t, "%s", points[i].name)
			send_flagged(t, &points[i], R(unknown_command_flag_einval));
}

CASE(request, inapplicable_flag,
     "A command flag of another command gets NBD_EINVAL, a WRITE's payload is taken, and the next request is served",
     R(inapplicable_flag_einval), R(request_payload_consumed), R(each_request_one_reply))
{
	static const struct flagged points[] = {
		{ "READ,REQ_ONE", NBD_CMD_READ, NBD_CMD_FLAG_REQ_ONE },
		{ "READ,FAST_ZERO", NBD_CMD_READ, NBD_CMD_FLAG_FAST_ZERO },
		{ "READ,PAYLOAD_LEN", NBD_CMD_READ, NBD_CMD_FLAG_PAYLOAD_LEN },
		{ "WRITE,NO_HOLE", NBD_CMD_WRITE, NBD_CMD_FLAG_NO_HOLE },
		{ "WRITE,DF", NBD_CMD_WRITE, NBD_CMD_FLAG_DF },
		{ "WRITE,REQ_ONE", NBD_CMD_WRITE, NBD_CMD_FLAG_REQ_ONE },
		{ "WRITE,FAST_ZERO", NBD_CMD_WRITE, NBD_CMD_FLAG_FAST_ZERO },
		{ "FLUSH,NO_HOLE", NBD_CMD_FLUSH, NBD_CMD_FLAG_NO_HOLE },
		{ "FLUSH,DF", NBD_CMD_FLUSH, NBD_CMD_FLAG_DF },
	};

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		POINT(t, "%s", points[i].name)
			send_flagged(t, &points[i], R(inapplicable_flag_einval));
}

/* Implementations differ here, and are not blamed (bugs.md): NO_HOLE on READ; DF where it was not negotiated. */
CASE(request, flag_that_may_be_ignored,
     "A READ with NBD_CMD_FLAG_NO_HOLE or DF is answered once, with its data or with an error alone",
     R(each_request_one_reply), R(simple_reply_no_payload_on_error))
{
	static const struct flagged points[] = {
		{ "NO_HOLE", NBD_CMD_READ, NBD_CMD_FLAG_NO_HOLE },
		{ "DF", NBD_CMD_READ, NBD_CMD_FLAG_DF },
	};

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		POINT(t, "%s", points[i].name) {
			uint32_t length, error;
			uint64_t cookie;

			enter_transmission(t);
			length = blocks(t, 512);
			need_size(t, length);
			cookie = new_cookie(t);
			send_request(t, points[i].flags, NBD_CMD_READ, cookie, 0, length, NULL);
			error = expect_refusal(t, cookie, length, REQUIREMENT_NONE, 0, 0);
			if (error == GONE)
				continue;
			in_step_or_gone(t, error == NBD_SUCCESS ? R(each_request_one_reply)
			                                        : R(simple_reply_no_payload_on_error));
			if (error == NBD_SUCCESS)
				observe(t, R(violation_may_close), "the flag is ignored");
		}
}

static void
send_unadvertised(struct test *t, const struct command *command)
{
	bool is_status = command->type == NBD_CMD_BLOCK_STATUS;
	uint32_t length, error;
	uint64_t cookie;

	enter_transmission(t);
	if ((t->s->flags & command->flag) != 0)
		skip(t, "an unadvertised command", "the export advertises %s", command->name);
	if (command->writes)
		need_writable(t);
	length = command->type == NBD_CMD_FLUSH ? 0 : blocks(t, 4096);
	need_range(t, 0, length);
	in_step(t, R(read_returns_data));
	cookie = new_cookie(t);
	send_request(t, 0, command->type, cookie, 0, length, NULL);
	error = expect_refusal(t, cookie, 0, is_status ? R(status_without_context_einval) : REQUIREMENT_NONE,
	                       is_status ? NBD_EINVAL : 0, 0);
	if (error == GONE || !in_step_or_gone(t, R(request_payload_consumed)))
		return;
	if (error == NBD_SUCCESS)
		observe(t, R(supported_flags_set), "%s is served although it is not advertised", command->name);
}

/*
 * A command that was not advertised may be known all the same; CACHE is even used so (proto.md:2142). What is told is
 * what becomes of it; what must hold is that it is one request of 28 bytes with one reply of 16.
 */
CASE(request, unadvertised_command,
     "A command that was not advertised is answered once, no data is taken for it, and the next one is served",
     R(each_request_one_reply), R(request_payload_consumed), R(status_without_context_einval))
{
	static const struct command commands[] = {
		{ "FLUSH", NBD_CMD_FLUSH, NBD_FLAG_SEND_FLUSH, false },
		{ "TRIM", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, true },
		{ "CACHE", NBD_CMD_CACHE, NBD_FLAG_SEND_CACHE, false },
		{ "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, true },
		{ "BLOCK_STATUS", NBD_CMD_BLOCK_STATUS, 0, false },
	};

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		POINT(t, "%s", commands[i].name)
			send_unadvertised(t, &commands[i]);
}

/* ---- errors ---- */

/* proto.md:2337-2356; the right error for each is judged elsewhere. */
static void
expect_ordinary_error(struct test *t, uint64_t cookie, uint32_t payload)
{
	uint32_t error = expect_refusal(t, cookie, payload, REQUIREMENT_NONE, 0, 0);

	EXPECT(t, R(no_eoverflow), error != NBD_EOVERFLOW,
	       "NBD_EOVERFLOW, although neither DF nor a long effect is at stake");
	EXPECT(t, R(no_enotsup), error != NBD_ENOTSUP,
	       "NBD_ENOTSUP in reply to a request without NBD_CMD_FLAG_FAST_ZERO");
	EXPECT(t, R(no_enomem), error != NBD_ENOMEM, "NBD_ENOMEM for a request that takes no memory");
	if (error != GONE)
		in_step_or_gone(t, R(each_request_one_reply));
}

CASE(request, errors_are_of_the_list,
     "Errors are of the protocol's list, and EOVERFLOW, ENOTSUP and ENOMEM are kept for what they mean",
     R(error_values_listed), R(no_eoverflow), R(no_enotsup), R(no_enomem), R(each_request_one_reply))
{
	static const struct flagged points[] = {
		{ "unknown-command", 0x00ff, 0 },
		{ "unknown-flag", NBD_CMD_READ, 0x8000 },
		{ "past-the-end", NBD_CMD_READ, 0 },
		{ "BLOCK_STATUS-without-a-context", NBD_CMD_BLOCK_STATUS, 0 },
	};

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		POINT(t, "%s", points[i].name) {
			struct range r;
			uint64_t cookie;

			enter_transmission(t);
			in_step(t, R(read_returns_data));
			r = range_beyond(t, BEYOND_AT_END);
			cookie = new_cookie(t);
			send_request(t, points[i].flags, points[i].type, cookie, i == 2 ? r.offset : 0, r.length, NULL);
			expect_ordinary_error(t, cookie, points[i].type == NBD_CMD_READ ? r.length : 0);
		}
}

/* ---- what is no request ---- */

/*
 * We break the protocol, and where the next request begins is anybody's guess: an error, the end of the connection,
 * and even the answer to the next request alone are all free (bugs.md). Silence is not, nor is harm to others.
 */
CASE(request, bad_magic,
     "A request with a wrong magic is refused or ends the connection; it stalls nothing and harms no other client",
     R(each_request_one_reply), R(greeting_magic))
{
	static const uint32_t magics[] = { 0, UINT32_MAX, NBD_REQUEST_MAGIC + 1, NBD_SIMPLE_REPLY_MAGIC, 0x13956025 };

	for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
		POINT(t, "magic=0x%08" PRIx32, magics[i]) {
			struct buf b = { 0 };

			enter_transmission(t);
			in_step(t, R(read_returns_data));
			wire_put_request(&b, &(struct request){ .magic = magics[i],
			                                        .type = NBD_CMD_READ,
			                                        .cookie = new_cookie(t),
			                                        .length = blocks(t, 512) });
			send_raw(t, b.at, b.len);
			send_request(t, 0, NBD_CMD_READ, new_cookie(t), 0, blocks(t, 512), NULL);
			if (peer_goes_on(t, R(each_request_one_reply)))
				recv_simple_header(t, R(each_request_one_reply));
			expect_next_served(t);
		}
}
