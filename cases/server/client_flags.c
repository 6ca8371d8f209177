/* The 32 bits that the client sends first. */
#include "harness/test.h"

#include <inttypes.h>

enum { UNKNOWN_OPTION = 0x6e627366, KNOWN_FLAGS = NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES };

static uint32_t
offered_flags(const struct test *t)
{
	return t->s->handshake_flags & KNOWN_FLAGS;
}

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

static void
send_export_name(struct test *t)
{
	send_option(t, NBD_OPT_EXPORT_NAME, export_name(t).at, export_name(t).len);
}

/* A server that goes on after flags that it must refuse answers this at once: nobody waits for an end in vain. */
static void
send_what_gets_an_answer(struct test *t)
{
	if ((t->s->client_flags & offered_flags(t) & NBD_FLAG_C_FIXED_NEWSTYLE) != 0)
		send_option(t, UNKNOWN_OPTION, NULL, 0);
	else
		send_export_name(t);
}

/*
 * The positive control: with the flags that the server offers, the same message is answered. Returns those flags, and
 * leaves no connection behind, for servers that serve one at a time.
 */
static uint32_t
need_answer(struct test *t)
{
	uint32_t offered;

	need_connections(t);
	open_newstyle(t);
	offered = offered_flags(t);
	send_client_flags(t, offered);
	send_what_gets_an_answer(t);
	if ((offered & NBD_FLAG_C_FIXED_NEWSTYLE) != 0)
		recv_option_reply(t, R(option_gets_reply));
	else if (!peer_goes_on(t, R(export_name_reply_layout)))
		skip(t, "EXPORT_NAME", "the server refuses the export, so nothing tells whether it goes on");
	disconnect(t);
	return offered;
}

static void
expect_flags_refused(struct test *t, uint32_t flags, bool only, enum requirement_id r)
{
	open_newstyle(t);
	send_client_flags_alone(t, flags | (only ? 0 : offered_flags(t)));
	send_what_gets_an_answer(t);
	if (peer_goes_on(t, r)) {
		recv_number(t, 8, "what should not have come", r);
		broken(t, r, "the server goes on, and answers what follows the client flags");
	}
	expect_next_client_served(t, r);
}

/* proto.md:137, 1087 */
CASE(client_flags, unknown_is_refused,
     "A client flag that nobody knows makes the server close, and the next client is served",
     R(unknown_client_flags_close))
{
	need_answer(t);
	for (unsigned bit = 2; bit < 32; bit++)
		POINT(t, "bit=%u", bit)
			expect_flags_refused(t, UINT32_C(1) << bit, false, R(unknown_client_flags_close));
}

CASE(client_flags, several_unknown_are_refused,
     "Several unknown client flags at once make the server close, and the next client is served",
     R(unknown_client_flags_close))
{
	static const uint32_t list[] = { 0xfffffffc, 0xffffffff, 0x80000004, 0x03000000, 0x00030000 };

	need_answer(t);
	/* A server that requires TLS closes at NBD_OPT_EXPORT_NAME in clear, whatever the flags were. */
	for (unsigned i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		POINT(t, "flags=0x%08" PRIx32, list[i])
			expect_flags_refused(t, list[i], !is_over_tls(t), R(unknown_client_flags_close));
}

/* proto.md:1082, 1087 */
CASE(client_flags, unoffered_are_refused,
     "A client flag that the server did not offer makes it close, and the next client is served",
     R(unoffered_client_flag_close))
{
	uint32_t offered = need_answer(t);

	if (offered == KNOWN_FLAGS)
		skip(t, "a flag not offered", "the server offers both handshake flags");
	for (uint32_t flag = 1; flag <= NBD_FLAG_C_NO_ZEROES; flag <<= 1) {
		if ((offered & flag) != 0)
			continue;
		POINT(t, "%s", flag == NBD_FLAG_C_FIXED_NEWSTYLE ? "C_FIXED_NEWSTYLE" : "C_NO_ZEROES")
			expect_flags_refused(t, flag, false, R(unoffered_client_flag_close));
	}
}

/*
 * What stands before the reply to a READ is padding that must not be there, or the rest of it. A server may refuse the
 * export without a reason, fixed newstyle or not (proto.md:165, 265).
 */
static void
expect_padding(struct test *t, enum requirement_id padding)
{
	uint32_t length, magic, error;

	if (!peer_goes_on(t, R(export_name_reply_layout))) {
		observe(t, R(server_abandons_negotiation), "the server refuses the export by EXPORT_NAME");
		return;
	}
	recv_export_name_reply(t, R(export_name_reply_layout));
	length = t->s->size >= 512 ? 512 : 0;
	send_request(t, 0, NBD_CMD_READ, new_cookie(t), 0, length, NULL);
	magic = (uint32_t)recv_number(t, 4, "the magic of the reply to a READ", padding);
	EXPECT_EQ(t, padding, magic, NBD_SIMPLE_REPLY_MAGIC);
	error = (uint32_t)recv_number(t, 4, "its error", padding);
	recv_payload(t, 8 + (error == NBD_SUCCESS ? length : 0), padding);
	send_request(t, 0, NBD_CMD_DISC, new_cookie(t), 0, 0, NULL);
}

/* proto.md:1074-1085: no flag has to be set, and what each one changes is the padding and nothing else. */
CASE(client_flags, any_offered_set_is_served,
     "With every subset of the offered flags options are answered, and EXPORT_NAME as they say", R(option_gets_reply),
     R(handshake_no_hard_disconnect), R(export_name_zeroes_padding), R(export_name_no_zeroes),
     R(server_abandons_negotiation))
{
	uint32_t offered = need_answer(t);

	for (uint32_t flags = 0; flags <= KNOWN_FLAGS; flags++) {
		if ((flags & ~offered) != 0)
			continue;
		POINT(t, "flags=%" PRIu32, flags) {
			open_haggling(t, flags);
			if ((flags & NBD_FLAG_C_FIXED_NEWSTYLE) != 0)
				expect_in_step(t, R(option_gets_reply));
			send_export_name(t);
			expect_padding(t, (flags & NBD_FLAG_C_NO_ZEROES) != 0 ? R(export_name_no_zeroes)
			                                                      : R(export_name_zeroes_padding));
		}
	}
}

/* proto.md:1064 */
CASE(client_flags, unanswered_offer_changes_nothing,
     "NBD_FLAG_NO_ZEROES is offered and not answered: the 124 bytes come", R(handshake_flags_no_unasked_change))
{
	uint32_t offered = need_answer(t);

	if ((offered & NBD_FLAG_NO_ZEROES) == 0)
		skip(t, "NO_ZEROES", "the server does not offer NBD_FLAG_NO_ZEROES");
	open_haggling(t, offered & ~(uint32_t)NBD_FLAG_C_NO_ZEROES);
	send_export_name(t);
	if (!peer_goes_on(t, R(export_name_reply_layout)))
		skip(t, "EXPORT_NAME", "the server refuses the export");
	recv_payload(t, EXPORT_NAME_REPLY_SIZE, R(export_name_reply_layout));
	recv_payload(t, NBD_EXPORT_NAME_PADDING, R(handshake_flags_no_unasked_change));
}

/* ---- NBD_FLAG_C_FIXED_NEWSTYLE is not set ---- */

/*
 * An option other than EXPORT_NAME may then be skipped (proto.md:152), answered by the end (proto.md:179) or, by a
 * server that offers fixed newstyle, replied to (proto.md:1079); but TLS is out of the question (proto.md:551).
 */
static void
expect_no_tls(struct test *t, uint32_t option)
{
	uint32_t type;

	if (!peer_goes_on(t, R(server_terminates_hard)))
		return;
	if (recv_number(t, 8, "a magic or a size", R(server_terminates_hard)) != NBD_OPTION_REPLY_MAGIC)
		return;
	EXPECT_EQ(t, R(option_reply_echoes_option), recv_number(t, 4, "the reply's option", R(option_reply_magic)),
	          option);
	type = (uint32_t)recv_number(t, 4, "the reply's type", R(option_reply_magic));
	EXPECT(t, R(notls_without_fixed_newstyle), type != NBD_REP_ERR_TLS_REQD,
	       "TLS is required of a client that cannot ask for it");
	EXPECT(t, R(notls_without_fixed_newstyle), option != NBD_OPT_STARTTLS || is_error_reply(type),
	       "NBD_OPT_STARTTLS is not refused");
	observe(t, R(fixed_newstyle_unasked),
	        "the server replies to options although NBD_FLAG_C_FIXED_NEWSTYLE is not set");
}

/* proto.md:551-554, 1078-1081 */
CASE(client_flags, no_tls_without_fixed_newstyle,
     "Without NBD_FLAG_C_FIXED_NEWSTYLE no option leads to TLS, and the next client is served",
     R(notls_without_fixed_newstyle), R(fixed_newstyle_unasked))
{
	static const uint32_t list[] = { NBD_OPT_LIST, NBD_OPT_STARTTLS, NBD_OPT_STRUCTURED_REPLY, UNKNOWN_OPTION };
	char text[NAME_MAX_TEXT];

	need_answer(t);
	for (unsigned i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		POINT(t, "%s", name_text(NAME_OPTION, list[i], text)) {
			open_newstyle(t);
			send_client_flags_alone(t, offered_flags(t) & ~(uint32_t)NBD_FLAG_C_FIXED_NEWSTYLE);
			send_option(t, list[i], NULL, 0);
			/* A server that skipped the option has this to answer. */
			send_export_name(t);
			expect_no_tls(t, list[i]);
			expect_next_client_served(t, R(notls_without_fixed_newstyle));
		}
}

/* ---- in pieces ---- */

CASE(client_flags, pieces, "Client flags that come byte by byte, or together with the first option, are understood",
     R(option_gets_reply))
{
	struct buf b = { 0 };

	if ((need_answer(t) & NBD_FLAG_C_FIXED_NEWSTYLE) == 0)
		skip(t, "fixed newstyle", "the server speaks newstyle, but does not set NBD_FLAG_FIXED_NEWSTYLE");
	POINT(t, "bytes") {
		open_newstyle(t);
		wire_put_client_flags(&b, &(struct client_flags){ offered_flags(t) });
		for (unsigned i = 0; i < CLIENT_FLAGS_SIZE; i++)
			send_raw(t, b.at + i, 1);
		expect_in_step(t, R(option_gets_reply));
	}
	buf_clear(&b);
	POINT(t, "with the first option") {
		open_newstyle(t);
		wire_put_client_flags(&b, &(struct client_flags){ offered_flags(t) });
		wire_put_option(&b, &(struct option){ .magic = NBD_OPTION_MAGIC, .option = UNKNOWN_OPTION });
		send_raw(t, b.at, b.len);
		t->s->option = UNKNOWN_OPTION;
		recv_option_reply(t, R(option_gets_reply));
		expect_in_step(t, R(option_gets_reply));
	}
}
