/* The oldstyle handshake: what the greeting (greeting.c) promises of the transmission phase. */
#include "harness/test.h"

#include <inttypes.h>

enum { MOST_DATA = 65536 };

static void
open_oldstyle(struct test *t)
{
	open_connection(t);
	recv_greeting(t);
	if (!t->s->oldstyle)
		skip(t, "oldstyle", "the server speaks the newstyle handshake");
}

CASE(oldstyle, has_flags,
     "The flags of an oldstyle greeting include HAS_FLAGS, and not SEND_DF, as there are no structured replies",
     R(has_flags_set), R(df_flag_without_structured))
{
	open_oldstyle(t);
	EXPECT(t, R(has_flags_set), (t->s->flags & NBD_FLAG_HAS_FLAGS) != 0, "the transmission flags are 0x%04x",
	       t->s->flags);
	EXPECT(t, R(df_flag_without_structured), (t->s->flags & NBD_FLAG_SEND_DF) == 0,
	       "the transmission flags are 0x%04x", t->s->flags);
}

CASE(oldstyle, stores_data, "What a client of the oldstyle handshake writes is read back",
     R(oldstyle_enters_transmission))
{
	static uint8_t want[MOST_DATA], got[MOST_DATA];
	uint64_t last;

	open_oldstyle(t);
	need_writable(t);
	need_size(t, 2 * sizeof(want));
	last = t->s->size / sizeof(want) * sizeof(want) - sizeof(want);
	fill_pattern(want, sizeof(want), last, 7);
	must_write(t, last, sizeof(want), want, R(oldstyle_enters_transmission));
	must_read(t, last, sizeof(got), got, R(oldstyle_enters_transmission));
	expect_data(t, R(oldstyle_enters_transmission), got, want, sizeof(want), last);
}

/* An error is due, if not a disconnect, as we break a MUST NOT (proto.md:882). */
CASE(oldstyle, size_is_not_too_small, "Behind the end that an oldstyle greeting tells there is nothing to read",
     R(read_past_end_einval))
{
	uint64_t cookie;
	uint32_t error;

	open_oldstyle(t);
	if (t->s->size > INT64_MAX - MOST_DATA)
		skip(t, "size", "the export reaches to the end of what can be addressed");
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_READ, cookie, t->s->size, 512, NULL);
	if (!peer_goes_on(t, R(each_request_one_reply)))
		return;
	error = recv_simple_reply(t, cookie, 512, R(each_request_one_reply)).error;
	EXPECT_ERROR(t, R(read_past_end_einval), error, NBD_EINVAL);
}

/* proto.md:788: down to a byte; who has constraints gives the size in whole blocks (proto.md:820). */
CASE(oldstyle, odd_end, "The bytes behind the last whole sector of an export can be read", R(default_min_block))
{
	uint8_t data[512];
	uint32_t tail, error;

	open_oldstyle(t);
	tail = (uint32_t)(t->s->size % sizeof(data));
	if (tail == 0)
		skip(t, "an odd size", "the size is a multiple of 512");
	error = do_read(t, t->s->size - tail, tail, data, R(default_min_block));
	EXPECT_ERROR(t, R(default_min_block), error, NBD_SUCCESS);
}

/* As large and as aligned as any constraint on sizes may ask for, as none was agreed on (proto.md:817). */
static void
read_once(struct test *t)
{
	uint32_t length = t->s->size < MOST_DATA ? (uint32_t)t->s->size : MOST_DATA;
	uint64_t cookie = new_cookie(t);

	send_request(t, 0, NBD_CMD_READ, cookie, 0, length, NULL);
	recv_simple_reply(t, cookie, length, R(oldstyle_enters_transmission));
}

/* proto.md:105: whoever is unhappy goes without a word. */
CASE(oldstyle, client_leaves,
     "A client that leaves at once, or within its first request, does no harm to the next, which is greeted alike",
     R(oldstyle_greeting_layout), R(greeting_magic))
{
	static const uint8_t half[14] = { 0x25, 0x60, 0x95, 0x13 };
	struct session first;

	open_oldstyle(t);
	first = *t->s;
	disconnect(t);
	open_connection(t);
	disconnect(t);
	open_oldstyle(t);
	send_raw(t, half, sizeof(half));
	disconnect(t);
	open_oldstyle(t);
	EXPECT(t, R(oldstyle_greeting_layout), t->s->size == first.size && t->s->flags == first.flags,
	       "size %" PRIu64 " and flags 0x%04x were told, and now %" PRIu64 " and 0x%04x", first.size, first.flags,
	       t->s->size, t->s->flags);
	read_once(t);
	expect_next_client_served(t, R(oldstyle_enters_transmission));
}
