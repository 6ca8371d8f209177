/* NBD_CMD_DISC, and clients that leave without it (proto.md:433-464, 2072-2082). */
#include "cases/server/transmission.h"

#include <inttypes.h>

static void
send_disc(struct test *t, uint16_t flags, uint64_t offset, uint32_t length)
{
	send_request(t, flags, NBD_CMD_DISC, new_cookie(t), offset, length, NULL);
}

/* No reply, and the end: orderly or by a reset. */
static void
expect_end(struct test *t, enum requirement_id closes)
{
	if (peer_goes_on(t, closes))
		broken(t, R(disc_no_reply), "NBD_CMD_DISC was answered");
}

CASE(disc, closes, "NBD_CMD_DISC is not answered, and the server closes the connection", R(disc_closes),
     R(disc_no_reply))
{
	enter_transmission(t);
	in_step(t, R(read_returns_data));
	send_disc(t, 0, 0, 0);
	expect_end(t, R(disc_closes));
}

CASE(disc, at_once, "A client that sends NBD_CMD_DISC as its first request is let go, and the next one is served",
     R(disc_closes_session), R(disc_no_reply), R(greeting_magic))
{
	enter_transmission(t);
	send_disc(t, 0, 0, 0);
	expect_end(t, R(disc_closes_session));
	expect_next_served(t);
}

/* Only what every implementation has (proto.md:2428-2433). */
CASE(disc, session_of_baseline, "A client may connect, READ and send NBD_CMD_DISC, time after time", R(baseline_disc),
     R(baseline_simple_replies))
{
	for (unsigned i = 0; i < 4; i++) {
		if (i > 0)
			need_connections(t);
		enter_transmission(t);
		in_step(t, R(baseline_simple_replies));
		send_disc(t, 0, 0, 0);
		EXPECT(t, R(baseline_disc), !peer_goes_on(t, R(baseline_disc)), "NBD_CMD_DISC was answered");
		disconnect(t);
	}
}

/* The client breaks a MUST (proto.md:2079); what the server would be free to do then is what it has to do anyway. */
CASE(disc, reserved_fields, "NBD_CMD_DISC with an offset or a length, which are reserved, closes the connection too",
     R(disc_closes_session), R(disc_no_reply))
{
	static const struct {
		const char *name;
		uint64_t offset;
		uint32_t length;
	} fields[] = { { "offset", 4096, 0 }, { "length", 0, 512 }, { "both", UINT64_MAX, UINT32_MAX } };

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		POINT(t, "%s", fields[i].name) {
			enter_transmission(t);
			in_step(t, R(read_returns_data));
			send_disc(t, 0, fields[i].offset, fields[i].length);
			expect_end(t, R(disc_closes_session));
			expect_next_served(t);
		}
}

/* proto.md:1722: all commands accept it. */
CASE(disc, with_fua, "NBD_CMD_DISC with NBD_CMD_FLAG_FUA, where that is advertised, closes the connection",
     R(fua_accepted))
{
	enter_transmission(t);
	need_flag(t, NBD_FLAG_SEND_FUA);
	in_step(t, R(read_returns_data));
	send_disc(t, NBD_CMD_FLAG_FUA, 0, 0);
	EXPECT(t, R(fua_accepted), !peer_goes_on(t, R(fua_accepted)),
	       "NBD_CMD_DISC with NBD_CMD_FLAG_FUA was answered");
}

/* ---- outstanding requests ---- */

enum { WRITES = 8 };

struct fates {
	unsigned answered, failed; /* bit i: write i */
};

/* Takes what replies come until the connection ends. */
static struct fates
take_replies(struct test *t, uint64_t first)
{
	struct fates f = { 0, 0 };
	struct simple_reply r;
	unsigned bit;

	while (peer_goes_on(t, R(disc_closes))) {
		r = recv_simple_header(t, R(disc_handles_outstanding));
		EXPECT(t, R(disc_no_reply), r.cookie != first + WRITES, "NBD_CMD_DISC was answered");
		EXPECT(t, R(cookie_echoed), r.cookie >= first && r.cookie < first + WRITES,
		       "a reply has cookie 0x%" PRIx64 ", which no request had", r.cookie);
		bit = 1u << (r.cookie - first);
		EXPECT(t, R(each_request_one_reply), (f.answered & bit) == 0, "cookie 0x%" PRIx64 " was answered twice",
		       r.cookie);
		f.answered |= bit;
		f.failed |= r.error != NBD_SUCCESS ? bit : 0;
	}
	/* "Handle" may be read as "carry out, or report as failed": what happened is told, and lost data is a fault. */
	observe(t, R(disc_handles_outstanding), "of %d writes before NBD_CMD_DISC %d were answered, %d with an error",
	        WRITES, __builtin_popcount(f.answered), __builtin_popcount(f.failed));
	return f;
}

/* An area that the export keeps from one client to the next. */
static uint8_t *
prepare_area(struct test *t, uint32_t length)
{
	uint8_t *data = room(length);

	need_writable(t);
	need_connections(t);
	need_range(t, 0, length);
	fill_pattern(data, length, 0, 20);
	store(t, 0, data, length, R(write_stored));
	need_kept(t, 0, data, length);
	return data;
}

/* In one piece, so that the server has NBD_CMD_DISC at hand while it works on the writes. Returns the first cookie. */
static uint64_t
send_writes_and_disc(struct test *t, const uint8_t *data, uint32_t length)
{
	struct request r = { .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_WRITE, .length = length };
	uint64_t first = 0;
	struct buf b = { 0 };

	for (unsigned i = 0; i < WRITES; i++) {
		r.cookie = new_cookie(t);
		first = i == 0 ? r.cookie : first;
		r.offset = i * length;
		r.data = (struct bytes){ data + i * length, length };
		wire_put_request(&b, &r);
	}
	r = (struct request){ .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_DISC, .cookie = new_cookie(t) };
	wire_put_request(&b, &r);
	note(t, "%d times NBD_CMD_WRITE, of %" PRIu32 " bytes each, and NBD_CMD_DISC, in one piece:", WRITES, length);
	send_raw(t, b.at, b.len);
	return first;
}

CASE(disc, outstanding_writes,
     "Writes that were sent before NBD_CMD_DISC are carried out, although their replies were not waited for",
     R(disc_handles_outstanding), R(disc_no_reply), R(disc_closes))
{
	struct fates fates;
	uint32_t length;
	uint8_t *data;

	enter_transmission(t);
	length = blocks(t, 512);
	data = prepare_area(t, WRITES * length);
	fill_pattern(data, WRITES * length, 0, 21);
	fates = take_replies(t, send_writes_and_disc(t, data, length));
	disconnect(t);
	enter_transmission(t);
	for (unsigned i = 0; i < WRITES; i++)
		if ((fates.failed & 1u << i) == 0)
			expect_stored(t, i * length, data + i * length, length, R(disc_handles_outstanding));
}

/* ---- other clients ---- */

CASE(disc, other_connection_stays,
     "NBD_CMD_DISC on one of several connections, where that is advertised, leaves the others alone",
     R(transmission_no_disconnect), R(disc_closes))
{
	struct session *first;

	enter_transmission(t);
	need_flag(t, NBD_FLAG_CAN_MULTI_CONN);
	first = t->s;
	if (!enter_beside(t))
		return;
	in_step(t, R(transmission_no_disconnect));
	send_disc(t, 0, 0, 0);
	expect_end(t, R(disc_closes));
	use(t, first);
	in_step(t, R(transmission_no_disconnect));
}

/* The client breaks a MUST (proto.md:463), to its own loss alone. */
enum goodbye { IDLE, REQUEST_SENT, REPLIES_UNREAD, HALF_CLOSED, HALF_CLOSED_UNREAD, GOODBYES };

static void
leave_rudely(struct test *t, enum goodbye how)
{
	uint32_t length;

	enter_transmission(t);
	in_step(t, R(read_returns_data));
	length = usable_size(t) < longest_payload(t) ? (uint32_t)usable_size(t) : longest_payload(t);
	length = length < 1 << 20 ? length : 1 << 20;
	if (how == REQUEST_SENT || how == HALF_CLOSED_UNREAD)
		send_request(t, 0, NBD_CMD_READ, new_cookie(t), 0, length, NULL);
	/* More than a socket holds, so that the server is in the middle of a reply. */
	for (unsigned i = 0; i < 8 && how == REPLIES_UNREAD; i++)
		send_request(t, 0, NBD_CMD_READ, new_cookie(t), 0, length, NULL);
	if (how == HALF_CLOSED || how == HALF_CLOSED_UNREAD)
		shut_write(t);
	expect_next_served(t);
}

CASE(disc, missing, "After a client that leaves without NBD_CMD_DISC, in whatever way, the next one is served",
     R(greeting_magic))
{
	static const char *const names[GOODBYES] = { "idle", "request-sent", "replies-unread", "half-closed",
		                                     "half-closed-replies-unread" };

	for (enum goodbye how = 0; how < GOODBYES; how++)
		POINT(t, "%s", names[how])
			leave_rudely(t, how);
}
