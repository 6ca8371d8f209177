/* What a server says before anybody asked it anything, and clients that leave before they have said anything. */
#include "harness/test.h"

#include <inttypes.h>
#include <sys/socket.h>

enum { UNKNOWN_OPTION = 0x6e627367 };

static uint32_t
offered_flags(const struct test *t)
{
	return t->s->handshake_flags & (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
}

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
	n = size == 8 ? wire_be64(&w) : size == 4 ? wire_be32(&w) : wire_be16(&w);
	note(t, "received %s: 0x%0*" PRIx64, what, (int)(2 * size), n);
	return n;
}

static void
need_oldstyle(struct test *t)
{
	open_connection(t);
	recv_greeting(t);
	if (!t->s->oldstyle)
		skip(t, "oldstyle", "the server speaks the newstyle handshake");
}

/* ---- newstyle ---- */

/* proto.md:127-131 */
CASE(greeting, newstyle_layout, "A newstyle server opens with NBDMAGIC, IHAVEOPT and 16 bits of handshake flags",
     R(greeting_magic), R(newstyle_magic), R(handshake_flags_sent))
{
	uint64_t magic;

	open_connection(t);
	magic = recv_number(t, 8, "the first magic number", R(greeting_magic));
	EXPECT_EQ(t, R(greeting_magic), magic, NBD_MAGIC);
	magic = recv_number(t, 8, "the second magic number", R(newstyle_magic));
	if (magic == NBD_CLISERV_MAGIC)
		skip(t, "newstyle", "the server speaks the oldstyle handshake");
	EXPECT_EQ(t, R(newstyle_magic), magic, NBD_OPTION_MAGIC);
	t->s->handshake_flags = (uint16_t)recv_number(t, 2, "the handshake flags", R(handshake_flags_sent));
}

static uint64_t
swapped(uint64_t n, unsigned size)
{
	return __builtin_bswap64(n) >> (64 - 8 * size);
}

/* proto.md:23-25 */
CASE(greeting, network_byte_order, "The magic numbers and the flags of the greeting come in network byte order",
     R(numbers_big_endian))
{
	static const uint64_t known = NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES;
	uint64_t first, second, flags;

	open_connection(t);
	first = recv_number(t, 8, "the first magic number", R(numbers_big_endian));
	EXPECT(t, R(numbers_big_endian), first != swapped(NBD_MAGIC, 8), "NBDMAGIC came byte-swapped");
	second = recv_number(t, 8, "the second magic number", R(numbers_big_endian));
	EXPECT(t, R(numbers_big_endian), second != swapped(NBD_OPTION_MAGIC, 8), "IHAVEOPT came byte-swapped");
	EXPECT(t, R(numbers_big_endian), second != swapped(NBD_CLISERV_MAGIC, 8),
	       "the oldstyle magic came byte-swapped");
	if (second == NBD_CLISERV_MAGIC)
		return;
	flags = recv_number(t, 2, "the handshake flags", R(numbers_big_endian));
	EXPECT(t, R(numbers_big_endian), flags == 0 || (flags & known) != 0 || (swapped(flags, 2) & ~known) != 0,
	       "the handshake flags 0x%04" PRIx64 " have a meaning only when they are swapped", flags);
}

/* proto.md:1064 */
CASE(greeting, no_unknown_flags, "The server sets no handshake flag but those that the text defines",
     R(no_other_handshake_flags))
{
	char text[NAME_MAX_TEXT];

	open_newstyle(t);
	EXPECT(t, R(no_other_handshake_flags), (t->s->handshake_flags & ~offered_flags(t)) == 0,
	       "the handshake flags are %s", name_flags(NAME_HANDSHAKE_FLAG, t->s->handshake_flags, text));
}

/* What stands before the answer came unasked. */
static void
expect_first(struct test *t, enum requirement_id r, uint32_t size, uint64_t want)
{
	uint64_t got = recv_number(t, size, "the beginning of the answer", r);

	EXPECT(t, r, got == want, "the answer begins with 0x%" PRIx64 ", not with 0x%" PRIx64, got, want);
}

static void
expect_read_answered_first(struct test *t, enum requirement_id r)
{
	send_request(t, 0, NBD_CMD_READ, new_cookie(t), 0, t->s->size >= 512 ? 512 : 0, NULL);
	expect_first(t, r, 4, NBD_SIMPLE_REPLY_MAGIC);
}

/* proto.md:131-132: the client speaks next. */
CASE(greeting, then_silence,
     "Behind the handshake flags the server sends nothing before its answer to the first option",
     R(handshake_flags_sent))
{
	open_newstyle(t);
	send_client_flags(t, offered_flags(t));
	if ((offered_flags(t) & NBD_FLAG_C_FIXED_NEWSTYLE) != 0) {
		send_option(t, UNKNOWN_OPTION, NULL, 0);
		expect_first(t, R(handshake_flags_sent), 8, NBD_OPTION_REPLY_MAGIC);
		expect_first(t, R(handshake_flags_sent), 4, UNKNOWN_OPTION);
		return;
	}
	send_option(t, NBD_OPT_EXPORT_NAME, export_name(t).at, export_name(t).len);
	if (!peer_goes_on(t, R(handshake_flags_sent)))
		skip(t, "EXPORT_NAME", "the server refuses the export");
	recv_export_name_reply(t, R(handshake_flags_sent));
	expect_read_answered_first(t, R(handshake_flags_sent));
}

/*
 * proto.md:1057: the flag stands for the replies to options. An error in that form may be the last word before the end,
 * so only a server that carries LIST out is taken at its word. EXPORT_NAME follows, for one that only skips what it
 * does not understand (proto.md:152).
 */
CASE(greeting, fixed_newstyle_is_announced, "A server that answers LIST has set NBD_FLAG_FIXED_NEWSTYLE",
     R(fixed_newstyle_flag_set))
{
	open_newstyle(t);
	send_client_flags(t, offered_flags(t));
	if ((offered_flags(t) & NBD_FLAG_C_FIXED_NEWSTYLE) != 0) {
		expect_in_step(t, R(option_gets_reply));
		return;
	}
	send_option(t, NBD_OPT_LIST, NULL, 0);
	send_option(t, NBD_OPT_EXPORT_NAME, export_name(t).at, export_name(t).len);
	if (!peer_goes_on(t, R(server_terminates_hard)) ||
	    recv_number(t, 8, "a magic or a size", R(server_terminates_hard)) != NBD_OPTION_REPLY_MAGIC)
		return;
	recv_number(t, 4, "the reply's option", R(option_reply_magic));
	EXPECT(t, R(fixed_newstyle_flag_set),
	       is_error_reply((uint32_t)recv_number(t, 4, "its type", R(option_reply_magic))),
	       "the server answers NBD_OPT_LIST although it did not set NBD_FLAG_FIXED_NEWSTYLE");
}

/* ---- oldstyle ---- */

/* proto.md:97-102 */
CASE(greeting, oldstyle_layout, "An oldstyle greeting has 152 bytes, and the reserved ones are zero",
     R(oldstyle_greeting_layout))
{
	struct oldstyle_greeting g;

	need_oldstyle(t);
	wire_get_oldstyle_greeting(wire(t->s->in.at, t->s->in.len), &g);
	for (size_t i = 0; i < g.reserved.len; i++)
		EXPECT(t, R(oldstyle_greeting_layout), g.reserved.at[i] == 0, "byte %zu of the 124 zeroes is 0x%02x", i,
		       g.reserved.at[i]);
}

/* proto.md:100 */
CASE(greeting, oldstyle_size, "The size in an oldstyle greeting is the export's: its last block can be read",
     R(oldstyle_greeting_layout))
{
	uint8_t data[512];

	need_oldstyle(t);
	need_size(t, sizeof(data));
	must_read(t, t->s->size / 512 * 512 - 512, sizeof(data), data, R(oldstyle_greeting_layout));
}

/* proto.md:1065 */
CASE(greeting, oldstyle_flags, "An oldstyle greeting has no handshake flags", R(oldstyle_no_handshake_flags))
{
	struct oldstyle_greeting g;

	need_oldstyle(t);
	wire_get_oldstyle_greeting(wire(t->s->in.at, t->s->in.len), &g);
	EXPECT(t, R(oldstyle_no_handshake_flags), g.flags >> 16 == 0, "the flags are 0x%08" PRIx32, g.flags);
}

/* proto.md:104, 1093 */
CASE(greeting, oldstyle_serves, "Behind an oldstyle greeting a READ is answered, without flags or options before it",
     R(oldstyle_enters_transmission))
{
	need_oldstyle(t);
	expect_read_answered_first(t, R(oldstyle_enters_transmission));
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

/* bugs.md: CVE-2017-9524 (connect and close), CVE-2013-7441 (the listener dies) */
CASE(greeting, client_leaves, "A client leaves before it has sent its flags, and the next one is served",
     R(handshake_no_hard_disconnect), R(greeting_magic))
{
	static const char *const points[] = { "unread greeting", "read greeting", "half of the client flags",
		                              "all client flags" };

	need_connections(t);
	enter_transmission(t);
	expect_in_step(t, R(handshake_no_hard_disconnect));
	for (unsigned i = 0; i < 8; i++)
		POINT(t, "%s,%s", points[i / 2], i % 2 != 0 ? "reset" : "close") {
			open_connection(t);
			if (i / 2 > 0)
				recv_greeting(t);
			if (i / 2 > 1 && t->s->oldstyle)
				skip(t, "newstyle", "the server speaks the oldstyle handshake");
			if (i / 2 == 2)
				send_raw(t, "\0", 2);
			if (i / 2 == 3)
				send_client_flags(t, offered_flags(t));
			leave(t, i % 2 != 0);
			expect_next_client_served(t, R(handshake_no_hard_disconnect));
		}
}

/* bugs.md: CVE-2015-0847 (a storm of connections ends in a deadlock) */
CASE(greeting, storm, "Fifty clients connect, read the greeting and leave, and the next one is served",
     R(handshake_no_hard_disconnect), R(greeting_magic))
{
	need_connections(t);
	enter_transmission(t);
	expect_in_step(t, R(handshake_no_hard_disconnect));
	disconnect(t);
	for (unsigned i = 0; i < 50; i++) {
		open_connection(t);
		recv_greeting(t);
		leave(t, i % 2 != 0);
	}
	expect_next_client_served(t, R(handshake_no_hard_disconnect));
}
