/* Option haggling in general: options that nobody knows, payloads, replies, staying in step, STARTTLS without TLS. */
#include "harness/test.h"

#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>

enum { UNKNOWN_OPTION = 0x6e62736f, NEXT_OPTION = 0x6e627378 };

/* A number as it comes, for requirements that the ordinary steps would not name. */
static uint64_t
recv_number(struct test *t, uint32_t size, const char *what, enum requirement_id owed)
{
	struct wire w;
	uint64_t n;

	if (!peer_goes_on(t, owed))
		broken(t, owed, "the connection ended where %s was due", what);
	buf_clear(&t->s->in);
	w = wire_over(recv_payload(t, size, owed));
	n = size == 8 ? wire_be64(&w) : wire_be32(&w);
	note(t, "received %s: 0x%0*" PRIx64, what, (int)(2 * size), n);
	return n;
}

/* A reply to whatever option: all that is wrong with its form is blamed on r. */
static struct option_reply
recv_any_reply(struct test *t, enum requirement_id r)
{
	struct option_reply reply = { .magic = recv_number(t, 8, "a reply's magic", r) };

	EXPECT(t, r, reply.magic == NBD_OPTION_REPLY_MAGIC, "a reply begins with 0x%016" PRIx64 ", which is no magic",
	       reply.magic);
	reply.option = (uint32_t)recv_number(t, 4, "its option", r);
	reply.type = (uint32_t)recv_number(t, 4, "its type", r);
	reply.length = (uint32_t)recv_number(t, 4, "its length", r);
	EXPECT(t, r, reply.length <= NBD_MAX_STRING, "a reply claims %" PRIu32 " bytes", reply.length);
	recv_payload(t, reply.length, r);
	return reply;
}

/* The reply to the next option stands where it is due. */
static void
expect_next_answered(struct test *t, enum requirement_id r)
{
	uint32_t option;

	send_option(t, NEXT_OPTION, NULL, 0);
	option = recv_any_reply(t, r).option;
	EXPECT(t, r, option == NEXT_OPTION, "the next reply is one to option 0x%08" PRIx32, option);
}

/* The same after we broke a MUST: the session may have ended, with or without an error before (proto.md:243). */
static void
expect_next_answered_or_end(struct test *t, enum requirement_id r)
{
	uint32_t option;

	send_option(t, NEXT_OPTION, NULL, 0);
	if (peer_goes_on(t, r)) {
		option = recv_any_reply(t, r).option;
		EXPECT(t, r, option == NEXT_OPTION, "the next reply is one to option 0x%08" PRIx32, option);
		return;
	}
	observe(t, R(bad_option_may_close), "the session ends after an option that breaks a MUST");
	expect_next_client_served(t, R(handshake_no_hard_disconnect));
}

/* An option with data that looks like another option: who does not skip it answers it. */
static void
send_with_bait(struct test *t, uint32_t option)
{
	struct buf b = { 0 };

	wire_put_option(&b, &(struct option){ .magic = NBD_OPTION_MAGIC, .option = UNKNOWN_OPTION });
	send_option(t, option, b.at, b.len);
	buf_free(&b);
}

/* A server that insists on TLS says so to every option, known or not (proto.md:589). */
static struct option_reply
recv_reply_without_tls(struct test *t, enum requirement_id owed)
{
	struct option_reply r = recv_option_reply(t, owed);

	if (r.type == NBD_REP_ERR_TLS_REQD)
		skip(t, "no TLS", "the server answers options over TLS only");
	return r;
}

static void
send_name(struct test *t, uint32_t option, struct bytes name)
{
	send_go(t, option, name, NULL, 0);
}

/* To transmission on a connection that has haggled before. */
static void
enter_here(struct test *t, enum requirement_id r)
{
	static const uint16_t block_size = NBD_INFO_BLOCK_SIZE;
	struct infos infos;

	send_go(t, NBD_OPT_GO, export_name(t), &block_size, 1);
	infos = recv_infos(t, r);
	if (infos.final == NBD_REP_ERR_UNSUP) {
		send_option(t, NBD_OPT_EXPORT_NAME, export_name(t).at, export_name(t).len);
		recv_export_name_reply(t, r);
		return;
	}
	EXPECT_REPLY(t, r, infos.final, NBD_REP_ACK);
	t->s->transmission = true;
	t->s->size = infos.export.size;
	t->s->flags = infos.export.flags;
	if (infos.n_block_size > 0)
		t->s->block = infos.block;
}

/* ---- options that nobody knows ---- */

/* proto.md:194-205, 2420 */
CASE(option, unknown_is_refused, "An option that nobody knows is refused by name, and the next one is still understood",
     R(unknown_option_unsup), R(next_message_parsed), R(option_gets_reply), R(option_reply_magic),
     R(option_reply_echoes_option))
{
	/* Among them are GO, LIST and ABORT to a server that looks at too few bits, or at the wrong end. */
	static const uint32_t list[] = { 0,          99,         0xff,       0x100,      0x107,      0x203,
		                         0x10003,    0x20002,    0x01000000, 0x03000000, 0x07000000, 0x7fffffff,
		                         0x80000000, 0x80000003, 0xfffffffe, 0xffffffff };
	struct option_reply r;

	for (unsigned i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		POINT(t, "option=0x%" PRIx32, list[i]) {
			open_fixed_newstyle(t);
			send_option(t, list[i], "payload", 7);
			r = recv_reply_without_tls(t, R(option_gets_reply));
			EXPECT_REPLY(t, R(unknown_option_unsup), r.type, NBD_REP_ERR_UNSUP);
			expect_in_step(t, R(next_message_parsed));
		}
}

/* proto.md:1221 */
CASE(option, peek_export_is_unknown, "PEEK_EXPORT, which was withdrawn, is refused as unknown", R(unknown_option_unsup),
     R(next_message_parsed))
{
	struct option_reply r;

	open_fixed_newstyle(t);
	send_option(t, NBD_OPT_PEEK_EXPORT, NULL, 0);
	r = recv_reply_without_tls(t, R(option_gets_reply));
	EXPECT_REPLY(t, R(unknown_option_unsup), r.type, NBD_REP_ERR_UNSUP);
	expect_in_step(t, R(next_message_parsed));
}

/* proto.md:1519: experimental, so a server may know it; then it may want structured replies first. */
CASE(option, extended_headers_are_optional,
     "EXTENDED_HEADERS is refused as unknown, or answered by a server that has them", R(unknown_option_unsup),
     R(option_gets_reply), R(optional_features_may_lack))
{
	struct option_reply r;

	open_fixed_newstyle(t);
	send_option(t, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	r = recv_reply_without_tls(t, R(option_gets_reply));
	EXPECT_REPLY(t, R(unknown_option_unsup), r.type, NBD_REP_ERR_UNSUP, NBD_REP_ACK, NBD_REP_ERR_POLICY,
	             NBD_REP_ERR_PLATFORM, NBD_REP_ERR_INVALID);
	if (r.type != NBD_REP_ERR_UNSUP)
		observe(t, R(optional_features_may_lack), "the server knows the experimental EXTENDED_HEADERS");
	expect_in_step(t, R(next_message_parsed));
}

/* proto.md:1645 */
CASE(option, refusal_has_bit_31, "The reply that refuses an option is of a type with bit 31 set", R(rep_err_bit_31),
     R(next_message_parsed))
{
	struct option_reply r;

	open_fixed_newstyle(t);
	send_option(t, UNKNOWN_OPTION, NULL, 0);
	r = recv_option_reply(t, R(option_gets_reply));
	EXPECT(t, R(rep_err_bit_31), is_error_reply(r.type),
	       "an option that nobody knows gets a reply of type 0x%08" PRIx32, r.type);
	expect_in_step(t, R(next_message_parsed));
}

/* ---- payloads ---- */

enum { MODEST = 4096 }; /* no server that speaks of a denial of service for less is in its right (proto.md:272) */

static bool
refused_with_payload(struct test *t, const void *data, size_t size)
{
	struct option_reply r;

	send_option(t, UNKNOWN_OPTION, data, size);
	if (size > MODEST && !peer_goes_on(t, R(option_gets_reply))) {
		observe(t, R(haggling_denial_of_service_close), "an option with %zu bytes is answered by a disconnect",
		        size);
		return false;
	}
	r = recv_reply_without_tls(t, R(option_gets_reply));
	if (size <= MODEST || r.type != NBD_REP_ERR_TOO_BIG)
		EXPECT_REPLY(t, R(unknown_option_unsup), r.type, NBD_REP_ERR_UNSUP);
	return true;
}

/* proto.md:152. bugs.md: nbd-server 381eca1 */
CASE(option, payload_is_skipped, "The payload of an option that nobody knows is skipped, whatever its length",
     R(option_data_consumed), R(unknown_option_unsup))
{
	static const size_t sizes[] = { 0, 1, 7, 15, 16, 17, 1000, MODEST, 65536 };
	static uint8_t data[65536];

	fill_pattern(data, sizeof(data), 0, 1);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		POINT(t, "length=%zu", sizes[i]) {
			open_fixed_newstyle(t);
			if (refused_with_payload(t, data, sizes[i]))
				expect_next_answered(t, R(option_data_consumed));
			else
				expect_next_client_served(t, R(option_data_consumed));
		}
}

CASE(option, payload_is_no_option, "A payload that looks like options is skipped like any other",
     R(option_data_consumed))
{
	struct buf b = { 0 };

	for (unsigned i = 0; i < 20; i++)
		wire_put_option(&b, &(struct option){ .magic = NBD_OPTION_MAGIC, .option = NBD_OPT_ABORT });
	open_fixed_newstyle(t);
	refused_with_payload(t, b.at, b.len);
	expect_next_answered(t, R(option_data_consumed));
}

/* ---- headers ---- */

static void
put_header(struct buf *b, uint64_t magic, uint32_t option, uint32_t length)
{
	wire_put_option(b, &(struct option){ .magic = magic, .option = option, .length = length });
}

/*
 * The magic is all that tells a server that it is in step, so the end is as good an answer as an error.
 * bugs.md: CVE-2017-7539
 */
CASE(option, wrong_magic, "An option with a wrong magic is answered or ends the session, and the next client is served",
     R(option_gets_reply), R(bad_option_may_close), R(handshake_no_hard_disconnect))
{
	static const uint64_t magics[] = { 0,
		                           UINT64_MAX,
		                           NBD_OPTION_REPLY_MAGIC,
		                           NBD_MAGIC,
		                           NBD_CLISERV_MAGIC,
		                           NBD_OPTION_MAGIC + 1,
		                           NBD_OPTION_MAGIC ^ UINT64_C(1) << 63 };
	struct buf b = { 0 };

	need_connections(t);
	for (unsigned i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
		POINT(t, "magic=0x%016" PRIx64, magics[i]) {
			open_fixed_newstyle(t);
			expect_in_step(t, R(option_gets_reply));
			buf_clear(&b);
			put_header(&b, magics[i], UNKNOWN_OPTION, 0);
			send_raw(t, b.at, b.len);
			t->s->option = UNKNOWN_OPTION;
			if (peer_goes_on(t, R(option_gets_reply)))
				recv_option_reply(t, R(option_gets_reply));
			else
				observe(t, R(bad_option_may_close), "a wrong option magic is answered by a disconnect");
			expect_next_client_served(t, R(handshake_no_hard_disconnect));
		}
}

/* The stream has no borders: a message may come in as many pieces as it has bytes. */
CASE(option, pieces, "An option that comes in two pieces, or byte by byte, is understood", R(option_gets_reply),
     R(unknown_option_unsup))
{
	struct option_reply r;
	struct buf b = { 0 };

	open_fixed_newstyle(t);
	put_header(&b, NBD_OPTION_MAGIC, UNKNOWN_OPTION, 7);
	buf_put(&b, "payload", 7);
	t->s->option = UNKNOWN_OPTION;
	for (size_t first = 1; first <= b.len; first++) {
		if (first < b.len) {
			send_raw(t, b.at, first);
			send_raw(t, b.at + first, b.len - first);
		}
		for (size_t i = 0; i < b.len && first == b.len; i++)
			send_raw(t, b.at + i, 1);
		r = recv_reply_without_tls(t, R(option_gets_reply));
		EXPECT_REPLY(t, R(unknown_option_unsup), r.type, NBD_REP_ERR_UNSUP);
	}
	expect_in_step(t, R(next_message_parsed));
}

/* bugs.md: CVE-2017-15119, CVE-2022-26495 */
CASE(option, huge_length, "An option claims gigabytes of data and its client leaves; the next one is served",
     R(handshake_no_hard_disconnect), R(greeting_magic))
{
	static const uint32_t options[] = { UNKNOWN_OPTION,          NBD_OPT_EXPORT_NAME, NBD_OPT_LIST,
		                            NBD_OPT_STARTTLS,        NBD_OPT_GO,          NBD_OPT_STRUCTURED_REPLY,
		                            NBD_OPT_SET_META_CONTEXT };
	static const uint32_t lengths[] = { INT32_MAX, UINT32_C(0x80000000), UINT32_MAX - 1, UINT32_MAX };
	static const uint8_t data[100];
	char text[NAME_MAX_TEXT];

	need_connections(t);
	for (unsigned i = 0; i < 28; i++)
		POINT(t, "%s,length=0x%" PRIx32, name_text(NAME_OPTION, options[i / 4], text), lengths[i % 4]) {
			open_fixed_newstyle(t);
			expect_in_step(t, R(option_gets_reply));
			send_option_header(t, options[i / 4], lengths[i % 4]);
			send_raw(t, data, sizeof(data));
			expect_next_client_served(t, R(handshake_no_hard_disconnect));
		}
}

/* ---- more than one ---- */

enum { FEW = 10, MANY = 300 }; /* options in a row that nobody, and that somebody may, call an attack (proto.md:272) */

/* proto.md:265-273 */
CASE(option, refused_again_and_again, "A client that sends nothing but unknown options gets errors and no disconnect",
     R(server_errors_unwelcome_client), R(unknown_option_unsup), R(haggling_denial_of_service_close))
{
	struct option_reply r;

	open_fixed_newstyle(t);
	for (unsigned i = 0; i < MANY; i++) {
		send_option(t, UNKNOWN_OPTION, "payload", i % 8);
		if (!peer_goes_on(t, R(server_errors_unwelcome_client))) {
			EXPECT(t, R(server_errors_unwelcome_client), i >= FEW,
			       "the server disconnects after %u refused options", i);
			observe(t, R(haggling_denial_of_service_close), "the server disconnects after %u options", i);
			expect_next_client_served(t, R(server_errors_unwelcome_client));
			return;
		}
		r = recv_reply_without_tls(t, R(server_errors_unwelcome_client));
		EXPECT_REPLY(t, R(unknown_option_unsup), r.type, NBD_REP_ERR_UNSUP);
	}
	expect_in_step(t, R(server_errors_unwelcome_client));
}

/* proto.md:207: which we must not do, and TCP would not show it to a server that is slow enough. */
CASE(option, pipelined, "Options sent without waiting are each answered, unless the server disconnects",
     R(option_gets_reply), R(bad_option_may_close), R(option_data_consumed))
{
	enum { N = 5 };
	struct buf b = { 0 };
	unsigned seen = 0;
	uint32_t option;

	open_fixed_newstyle(t);
	expect_in_step(t, R(option_gets_reply));
	for (uint32_t i = 0; i < N; i++) {
		put_header(&b, NBD_OPTION_MAGIC, UNKNOWN_OPTION + i, i + 1);
		buf_put(&b, "payload", i + 1);
	}
	send_raw(t, b.at, b.len);
	for (unsigned n = 0; n < N; n++) {
		if (!peer_goes_on(t, R(option_gets_reply))) {
			observe(t, R(bad_option_may_close),
			        "options sent without waiting are answered by a disconnect");
			expect_next_client_served(t, R(handshake_no_hard_disconnect));
			return;
		}
		option = recv_any_reply(t, R(option_data_consumed)).option - UNKNOWN_OPTION;
		EXPECT(t, R(option_gets_reply), option < N && (seen & 1u << option) == 0,
		       "a reply to an option that was not sent, or that was answered before");
		seen |= 1u << option;
	}
	expect_next_answered_or_end(t, R(option_data_consumed));
}

/* proto.md:258, 2420: an error ends nothing. */
CASE(option, served_after_refusals,
     "After refused options the session goes on: the export can still be entered and read",
     R(handshake_no_hard_disconnect), R(next_message_parsed))
{
	struct option_reply r;
	unsigned count;

	open_fixed_newstyle(t);
	send_option(t, UNKNOWN_OPTION, "payload", 7);
	recv_reply_without_tls(t, R(handshake_no_hard_disconnect));
	send_name(t, NBD_OPT_INFO, unknown_export_name());
	recv_final_reply(t, R(handshake_no_hard_disconnect), NBD_REP_INFO, &count);
	send_option(t, UNKNOWN_OPTION + 1, NULL, 0);
	r = recv_option_reply(t, R(next_message_parsed));
	EXPECT_REPLY(t, R(unknown_option_unsup), r.type, NBD_REP_ERR_UNSUP);
	enter_here(t, R(next_message_parsed));
	expect_in_step(t, R(next_message_parsed));
}

/* ---- replies ---- */

/* proto.md:202-205 */
CASE(option, reply_has_its_length, "Behind each reply stand as many bytes as its length says, and then the next one",
     R(option_reply_length), R(option_reply_length_zero))
{
	static const uint32_t list[] = { UNKNOWN_OPTION, NBD_OPT_LIST, NBD_OPT_INFO, NBD_OPT_STRUCTURED_REPLY };
	char text[NAME_MAX_TEXT];
	struct option_reply r;

	for (unsigned i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		POINT(t, "%s", name_text(NAME_OPTION, list[i], text)) {
			open_fixed_newstyle(t);
			if (list[i] == NBD_OPT_INFO)
				send_name(t, NBD_OPT_INFO, export_name(t));
			else
				send_option(t, list[i], NULL, 0);
			do
				r = recv_option_reply(t, R(option_gets_reply));
			while (r.type != NBD_REP_ACK && !is_error_reply(r.type));
			if (r.length == 0)
				observe(t, R(option_reply_length_zero), "the final reply has no data");
			expect_next_answered(t, R(option_reply_length));
		}
}

static bool
looks_swapped(uint32_t got, uint32_t want)
{
	return got != want && __builtin_bswap32(got) == want;
}

/* proto.md:23-25. bugs.md: nbd-server d1b135e */
CASE(option, reply_in_network_byte_order, "The numbers of an option reply come in network byte order",
     R(numbers_big_endian))
{
	uint64_t magic;
	uint32_t n;

	open_fixed_newstyle(t);
	send_option(t, UNKNOWN_OPTION, NULL, 0);
	magic = recv_number(t, 8, "the reply's magic", R(numbers_big_endian));
	EXPECT(t, R(numbers_big_endian), __builtin_bswap64(magic) != NBD_OPTION_REPLY_MAGIC,
	       "the reply's magic is swapped");
	n = (uint32_t)recv_number(t, 4, "its option", R(numbers_big_endian));
	EXPECT(t, R(numbers_big_endian), !looks_swapped(n, UNKNOWN_OPTION), "the reply's option is swapped");
	n = (uint32_t)recv_number(t, 4, "its type", R(numbers_big_endian));
	EXPECT(t, R(numbers_big_endian), !looks_swapped(n, NBD_REP_ERR_UNSUP), "the reply's type is swapped");
	n = (uint32_t)recv_number(t, 4, "its length", R(numbers_big_endian));
	EXPECT(t, R(numbers_big_endian), n <= NBD_MAX_STRING || __builtin_bswap32(n) > NBD_MAX_STRING,
	       "the reply's length, 0x%08" PRIx32 ", makes sense only when it is swapped", n);
}

static bool
is_utf8(struct bytes s)
{
	size_t more;

	for (size_t i = 0; i < s.len; i += more + 1) {
		uint32_t c = s.at[i];

		more = c < 0x80 ? 0 : c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
		if ((c >= 0x80 && c < 0xc2) || c > 0xf4 || s.len - i <= more)
			return false;
		c &= more > 0 ? 0x3fu >> more : 0x7fu;
		for (size_t k = 1; k <= more; k++) {
			if ((s.at[i + k] & 0xc0) != 0x80)
				return false;
			c = c << 6 | (s.at[i + k] & 0x3f);
		}
		if ((more == 2 && c < 0x800) || (more == 3 && c < 0x10000) || c > 0x10ffff ||
		    (c >= 0xd800 && c < 0xe000))
			return false;
	}
	return true;
}

/* A user's terminal or log takes it: no control characters but those that make lines and columns. */
static bool
is_displayable(struct bytes s)
{
	for (size_t i = 0; i < s.len; i++)
		if ((s.at[i] < 0x20 && s.at[i] != '\n' && s.at[i] != '\t' && s.at[i] != '\r') || s.at[i] == 0x7f)
			return false;
	return true;
}

static void
judge_error_text(struct test *t, struct bytes text)
{
	EXPECT(t, R(server_strings_utf8), is_utf8(text), "the error's text is no UTF-8");
	EXPECT(t, R(rep_err_data_text), is_displayable(text), "the error's text has control characters");
	EXPECT(t, R(server_strings_short), text.len <= 256, "the error's text has %zu bytes", text.len);
	if (text.len > 0)
		observe(t, R(rep_err_may_have_data), "errors come with a text");
	else
		observe(t, R(rep_err_may_have_data), "errors come without a text");
}

/* An option that is refused, with a payload of zeroes; where it is none, a name of so many bytes that nobody has. */
struct refused {
	const char *point;
	uint32_t option;
	size_t payload, name;
};

static void
send_refused(struct test *t, const struct refused *r)
{
	static uint8_t zeroes[4096], name[NBD_MAX_STRING];

	memset(name, 'x', sizeof(name));
	if (r->name > 0)
		send_name(t, r->option, (struct bytes){ name, r->name });
	else
		send_option(t, r->option, zeroes, r->payload);
}

/* proto.md:35-39, 1645-1647. bugs.md: CVE-2020-10761 (a long name in the text) */
CASE(option, error_text, "The text of an error is UTF-8, fit for display, short, and free of NULs",
     R(option_reply_string_limits), R(server_strings_utf8), R(rep_err_data_text), R(server_strings_short),
     R(rep_err_may_have_data))
{
	static const struct refused list[] = {
		{ "unknown option", UNKNOWN_OPTION, 0, 0 },
		{ "unknown option with data", UNKNOWN_OPTION, 4096, 0 },
		{ "LIST with data", NBD_OPT_LIST, 8, 0 },
		{ "STARTTLS", NBD_OPT_STARTTLS, 0, 0 },
		{ "STARTTLS with data", NBD_OPT_STARTTLS, 8, 0 },
		{ "STRUCTURED_REPLY with data", NBD_OPT_STRUCTURED_REPLY, 8, 0 },
		{ "INFO for an unknown name", NBD_OPT_INFO, 0, 40 },
		{ "INFO for a long unknown name", NBD_OPT_INFO, 0, NBD_MAX_STRING },
		{ "GO for a long unknown name", NBD_OPT_GO, 0, NBD_MAX_STRING },
		{ "SET_META_CONTEXT without data", NBD_OPT_SET_META_CONTEXT, 0, 0 },
	};
	struct option_reply r;

	for (unsigned i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		POINT(t, "%s", list[i].point) {
			open_fixed_newstyle(t);
			send_refused(t, &list[i]);
			if (peer_goes_on(t, R(option_gets_reply))) {
				r = recv_option_reply(t, R(option_gets_reply));
				if (is_error_reply(r.type))
					judge_error_text(t, r.data);
			}
		}
}

/* ---- without TLS ---- */

/* Servers that have TLS acknowledge it whenever it is asked for (proto.md:569, 608). */
static void
expect_starttls_refused(struct test *t)
{
	struct option_reply r = recv_option_reply(t, R(starttls_ack_or_error));

	if (r.type == NBD_REP_ACK)
		skip(t, "NOTLS", "the server offers TLS");
	EXPECT(t, R(starttls_ack_or_error), is_error_reply(r.type), "STARTTLS gets a reply of type 0x%08" PRIx32,
	       r.type);
	EXPECT_REPLY(t, R(notls_starttls_errors), r.type, NBD_REP_ERR_UNSUP, NBD_REP_ERR_POLICY, NBD_REP_ERR_INVALID,
	             NBD_REP_ERR_PLATFORM, NBD_REP_ERR_SHUTDOWN);
}

/* proto.md:560-564, 1230-1234 */
CASE(option, starttls_is_refused,
     "Without TLS, STARTTLS gets an error that the text permits, and the next option is answered",
     R(notls_starttls_errors), R(starttls_ack_or_error), R(next_message_parsed))
{
	open_fixed_newstyle(t);
	send_option(t, NBD_OPT_STARTTLS, NULL, 0);
	expect_starttls_refused(t);
	expect_next_answered(t, R(next_message_parsed));
}

/* bugs.md: nbd-server 9ca2974 */
CASE(option, starttls_payload_is_skipped, "Without TLS, STARTTLS with data gets an error, and the data is skipped",
     R(notls_starttls_errors), R(starttls_ack_or_error), R(option_data_consumed), R(bad_option_may_close))
{
	open_fixed_newstyle(t);
	expect_in_step(t, R(option_gets_reply));
	send_with_bait(t, NBD_OPT_STARTTLS);
	if (!peer_goes_on(t, R(starttls_ack_or_error))) {
		observe(t, R(bad_option_may_close), "STARTTLS with data is answered by a disconnect");
		expect_next_client_served(t, R(handshake_no_hard_disconnect));
		return;
	}
	expect_starttls_refused(t);
	expect_next_answered_or_end(t, R(option_data_consumed));
}

/* proto.md:564. A server that refuses STARTTLS is in NOTLS mode as long as the connection lasts (proto.md:541-547). */
CASE(option, notls_requires_no_tls, "Having refused STARTTLS, the server answers no option with TLS_REQD",
     R(notls_no_tls_reqd))
{
	static const uint32_t list[] = { UNKNOWN_OPTION,           NBD_OPT_LIST,     NBD_OPT_INFO,
		                         NBD_OPT_STRUCTURED_REPLY, NBD_OPT_STARTTLS, NBD_OPT_GO };
	char text[NAME_MAX_TEXT];
	struct option_reply r;

	for (unsigned i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		POINT(t, "%s", name_text(NAME_OPTION, list[i], text)) {
			open_fixed_newstyle(t);
			send_option(t, NBD_OPT_STARTTLS, NULL, 0);
			expect_starttls_refused(t);
			if (list[i] == NBD_OPT_INFO || list[i] == NBD_OPT_GO)
				send_name(t, list[i], export_name(t));
			else
				send_option(t, list[i], NULL, 0);
			do {
				r = recv_option_reply(t, R(option_gets_reply));
				EXPECT(t, R(notls_no_tls_reqd), r.type != NBD_REP_ERR_TLS_REQD,
				       "the server refused STARTTLS, and requires it now");
			} while (r.type != NBD_REP_ACK && !is_error_reply(r.type));
		}
}

/* proto.md:2414 */
CASE(option, notls_serves, "Having refused STARTTLS, the server lets the client in without it", R(baseline_notls))
{
	open_fixed_newstyle(t);
	send_option(t, NBD_OPT_STARTTLS, NULL, 0);
	expect_starttls_refused(t);
	enter_here(t, R(baseline_notls));
	expect_in_step(t, R(baseline_notls));
}

/* ---- STRUCTURED_REPLY ---- */

static uint32_t
ask_structured(struct test *t)
{
	struct option_reply r;

	send_option(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	r = recv_reply_without_tls(t, R(structured_reply_acked));
	EXPECT_REPLY(t, R(structured_reply_acked), r.type, NBD_REP_ACK, NBD_REP_ERR_UNSUP, NBD_REP_ERR_POLICY,
	             NBD_REP_ERR_PLATFORM, NBD_REP_ERR_SHUTDOWN);
	return r.type;
}

/* proto.md:1369-1378 */
CASE(option, structured_reply_is_answered, "STRUCTURED_REPLY is acknowledged without data, or refused as unknown",
     R(structured_reply_acked), R(rep_ack_empty), R(optional_features_may_lack))
{
	open_fixed_newstyle(t);
	if (ask_structured(t) != NBD_REP_ACK)
		observe(t, R(optional_features_may_lack), "the server has no structured replies");
	expect_next_answered(t, R(structured_reply_acked));
}

/* proto.md:1366 */
CASE(option, structured_reply_payload_is_invalid,
     "STRUCTURED_REPLY with data gets NBD_REP_ERR_INVALID, and the data is skipped", R(structured_reply_rejects_data),
     R(option_data_consumed), R(bad_option_may_close))
{
	struct option_reply r;
	bool known;

	open_fixed_newstyle(t);
	known = ask_structured(t) == NBD_REP_ACK;
	send_with_bait(t, NBD_OPT_STRUCTURED_REPLY);
	if (!peer_goes_on(t, R(option_gets_reply))) {
		observe(t, R(bad_option_may_close), "STRUCTURED_REPLY with data is answered by a disconnect");
		expect_next_client_served(t, R(handshake_no_hard_disconnect));
		return;
	}
	r = recv_option_reply(t, R(option_gets_reply));
	if (known)
		EXPECT_REPLY(t, R(structured_reply_rejects_data), r.type, NBD_REP_ERR_INVALID);
	expect_next_answered_or_end(t, R(option_data_consumed));
}

/* proto.md:212-215 */
CASE(option, structured_reply_twice, "A second STRUCTURED_REPLY is acknowledged or invalid, and the session goes on",
     R(repeated_option_invalid), R(structured_reply_acked))
{
	struct option_reply r;

	open_fixed_newstyle(t);
	if (ask_structured(t) != NBD_REP_ACK)
		skip(t, "structured replies", "the server does not know NBD_OPT_STRUCTURED_REPLY");
	send_option(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	r = recv_option_reply(t, R(structured_reply_acked));
	EXPECT_REPLY(t, R(structured_reply_acked), r.type, NBD_REP_ACK, NBD_REP_ERR_INVALID);
	observe(t, R(repeated_option_invalid), "a second STRUCTURED_REPLY is %s",
	        r.type == NBD_REP_ACK ? "acknowledged" : "invalid");
	expect_next_answered(t, R(structured_reply_acked));
}

/* The rest of a reply, and a polite end: what follows a hard disconnect is another case's subject. */
static void
take_rest_and_leave(struct test *t, uint32_t magic, uint32_t length, enum requirement_id r)
{
	if (magic == NBD_SIMPLE_REPLY_MAGIC) {
		bool ok = recv_number(t, 4, "its error", r) == NBD_SUCCESS;

		recv_payload(t, 8 + (ok ? length : 0), r);
	}
	for (uint32_t head = 0, n; magic == NBD_STRUCTURED_REPLY_MAGIC && (head >> 16 & NBD_REPLY_FLAG_DONE) == 0;) {
		head = (uint32_t)recv_number(t, 4, "its flags and type", r);
		recv_number(t, 8, "its cookie", r);
		n = (uint32_t)recv_number(t, 4, "its length", r);
		EXPECT(t, r, n <= length + NBD_MAX_STRING, "a chunk of the reply claims %" PRIu32 " bytes", n);
		recv_payload(t, n, r);
		if ((head >> 16 & NBD_REPLY_FLAG_DONE) == 0)
			recv_number(t, 4, "the next chunk's magic", r);
	}
	send_request(t, 0, NBD_CMD_DISC, new_cookie(t), 0, 0, NULL);
}

static void
expect_read_magic(struct test *t, uint32_t want, enum requirement_id r)
{
	uint32_t length = t->s->size >= blocks(t, 512) ? blocks(t, 512) : 0, magic;

	send_request(t, 0, NBD_CMD_READ, new_cookie(t), 0, length, NULL);
	magic = (uint32_t)recv_number(t, 4, "the magic of the reply to a READ", r);
	EXPECT_EQ(t, r, magic, want);
	take_rest_and_leave(t, magic, length, r);
}

/* proto.md:1376-1378 */
CASE(option, structured_reply_refused_is_unused,
     "A server that refused STRUCTURED_REPLY answers a READ by a simple reply", R(structured_reply_refused_unused))
{
	open_fixed_newstyle(t);
	if (ask_structured(t) == NBD_REP_ACK)
		skip(t, "a refusal", "the server acknowledges NBD_OPT_STRUCTURED_REPLY");
	enter_here(t, R(structured_reply_refused_unused));
	expect_read_magic(t, NBD_SIMPLE_REPLY_MAGIC, R(structured_reply_refused_unused));
}

/* proto.md:1372 */
CASE(option, structured_reply_agreed_is_used,
     "A server that acknowledged STRUCTURED_REPLY answers a READ by a structured one", R(read_reply_structured))
{
	open_fixed_newstyle(t);
	if (ask_structured(t) != NBD_REP_ACK)
		skip(t, "structured replies", "the server does not know NBD_OPT_STRUCTURED_REPLY");
	enter_here(t, R(read_reply_structured));
	expect_read_magic(t, NBD_STRUCTURED_REPLY_MAGIC, R(read_reply_structured));
}

/* ---- how a session goes on, and how it ends ---- */

/* proto.md:177-205, 2415 */
CASE(option, fixed_newstyle_is_served,
     "Where both sides set the flag of fixed newstyle, options get replies in its format", R(baseline_fixed_newstyle))
{
	static const uint32_t list[] = { UNKNOWN_OPTION, NBD_OPT_LIST, NBD_OPT_INFO, NBD_OPT_STRUCTURED_REPLY };
	char text[NAME_MAX_TEXT];

	for (unsigned i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		POINT(t, "%s", name_text(NAME_OPTION, list[i], text)) {
			open_fixed_newstyle(t);
			if (list[i] == NBD_OPT_INFO)
				send_name(t, NBD_OPT_INFO, export_name(t));
			else
				send_option(t, list[i], NULL, 0);
			EXPECT_EQ(t, R(baseline_fixed_newstyle),
			          recv_number(t, 8, "the magic of a reply", R(baseline_fixed_newstyle)),
			          NBD_OPTION_REPLY_MAGIC);
		}
}

/* proto.md:250-254. bugs.md: nbd-server 2933710 (an option reply), CVE-2013-7441 (the listener dies) */
CASE(option, refused_export_name_ends_hard,
     "EXPORT_NAME that cannot be satisfied ends the session, and the next client is served", R(server_terminates_hard))
{
	need_connections(t);
	open_fixed_newstyle(t);
	expect_in_step(t, R(option_gets_reply));
	send_option(t, NBD_OPT_EXPORT_NAME, unknown_export_name().at, unknown_export_name().len);
	if (peer_goes_on(t, R(server_terminates_hard))) {
		EXPECT(t, R(server_terminates_hard),
		       recv_number(t, 8, "a size or a magic", R(server_terminates_hard)) != NBD_OPTION_REPLY_MAGIC,
		       "EXPORT_NAME is answered by an option reply");
		skip(t, "a name that is refused", "the server serves an export of any name");
	}
	expect_next_client_served(t, R(server_terminates_hard));
}

/* ---- clients that leave ---- */

static void
leave(struct test *t, bool reset)
{
	struct linger now = { .l_onoff = 1 };

	/* TCP resets then; on a Unix socket it is what we have not read that makes the difference. */
	if (reset)
		setsockopt(t->s->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	disconnect(t);
}

/* The first `len` bytes of an option with `data` bytes of data. */
static void
send_part(struct test *t, uint32_t option, uint32_t data, size_t len)
{
	static const uint8_t zeroes[256];
	struct buf b = { 0 };

	put_header(&b, NBD_OPTION_MAGIC, option, data);
	buf_put(&b, zeroes, sizeof(zeroes));
	send_raw(t, b.at, len);
	buf_free(&b);
}

/* proto.md:233; bugs.md: xapi-nbd ea82add, CVE-2013-7441 */
CASE(option, client_leaves, "A client leaves in the middle of option haggling, and the next one is served",
     R(handshake_no_hard_disconnect), R(greeting_magic))
{
	static const struct {
		const char *point;
		uint32_t option, data;
		size_t len;
	} list[] = {
		{ "before an option", 0, 0, 0 },
		{ "in the magic", UNKNOWN_OPTION, 0, 7 },
		{ "in the option", UNKNOWN_OPTION, 0, 10 },
		{ "in the length", UNKNOWN_OPTION, 0, 15 },
		{ "before the data", UNKNOWN_OPTION, 100, 16 },
		{ "in the data", UNKNOWN_OPTION, 100, 60 },
		{ "before the reply", UNKNOWN_OPTION, 100, 116 },
		{ "before the name of EXPORT_NAME", NBD_OPT_EXPORT_NAME, 100, 16 },
		{ "in the name of EXPORT_NAME", NBD_OPT_EXPORT_NAME, 100, 60 },
		{ "in the data of GO", NBD_OPT_GO, 100, 20 },
		{ "before the replies to LIST", NBD_OPT_LIST, 0, 16 },
		{ "before the reply to ABORT", NBD_OPT_ABORT, 0, 16 },
		{ "before the reply to STARTTLS", NBD_OPT_STARTTLS, 0, 16 },
	};

	need_connections(t);
	for (unsigned i = 0; i < 2 * sizeof(list) / sizeof(list[0]); i++)
		POINT(t, "%s,%s", list[i / 2].point, i % 2 != 0 ? "reset" : "close") {
			open_fixed_newstyle(t);
			expect_in_step(t, R(option_gets_reply));
			send_part(t, list[i / 2].option, list[i / 2].data, list[i / 2].len);
			leave(t, i % 2 != 0);
			expect_next_client_served(t, R(handshake_no_hard_disconnect));
		}
}
