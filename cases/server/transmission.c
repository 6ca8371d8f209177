#include "cases/server/transmission.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

uint8_t *
room(size_t n)
{
	struct buf b = { 0 };

	/* A buf takes huge pages where it is long, and it is never freed: the process ends with the case. */
	buf_zero(&b, n > 0 ? n : 1);
	return b.at;
}

/* ---- the export ---- */

uint32_t
unit_of(const struct test *t)
{
	return blocks(t, 1);
}

uint64_t
usable_size(const struct test *t)
{
	return t->s->size / unit_of(t) * unit_of(t);
}

uint32_t
longest_payload(const struct test *t)
{
	uint32_t most = t->s->block.maximum < NBD_DEFAULT_MAX_PAYLOAD ? t->s->block.maximum : NBD_DEFAULT_MAX_PAYLOAD;

	return most < unit_of(t) ? unit_of(t) : most / unit_of(t) * unit_of(t);
}

void
need_range(struct test *t, uint64_t offset, uint32_t length)
{
	if (offset % unit_of(t) != 0 || length % unit_of(t) != 0)
		skip(t, "small blocks", "the export's minimum block size is %" PRIu32, unit_of(t));
	if (length > t->s->block.maximum)
		skip(t, "large payloads", "the export's maximum payload size is %" PRIu32, t->s->block.maximum);
	need_size(t, offset + length);
}

const char *
beyond_name(enum beyond b)
{
	static const char *const names[] = {
		[BEYOND_CROSSING] = "one-past-the-end",
		[BEYOND_AT_END] = "behind-the-end",
		[BEYOND_FAR] = "far-behind-the-end",
		[BEYOND_HALF] = "at-2^63",
		[BEYOND_TOP] = "to-2^64",
		[BEYOND_WRAPPING] = "over-2^64",
	};

	return names[b];
}

struct range
range_beyond(struct test *t, enum beyond b)
{
	uint32_t unit = unit_of(t), length = blocks(t, 512);
	uint64_t end = (t->s->size + unit - 1) / unit * unit;

	if (t->s->size > INT64_MAX)
		skip(t, "size", "the export has %" PRIu64 " bytes", t->s->size);
	switch (b) {
	case BEYOND_CROSSING:
		length = end >= length ? length : (uint32_t)end;
		return (struct range){ end - length, length + unit };
	case BEYOND_AT_END:
		return (struct range){ end, length };
	case BEYOND_FAR:
		return (struct range){ end + (UINT64_C(1) << 40), length };
	case BEYOND_HALF:
		return (struct range){ UINT64_C(1) << 63, length };
	case BEYOND_TOP:
		return (struct range){ -(uint64_t)length, length };
	default:
		return (struct range){ -(uint64_t)length, 2 * length };
	}
}

const char *
unaligned_name(unsigned kind)
{
	static const char *const names[UNALIGNED_KINDS] = { "offset", "length", "both" };

	return names[kind];
}

struct range
range_unaligned(struct test *t, unsigned kind)
{
	uint32_t unit = unit_of(t);

	if (unit < 2)
		skip(t, "minimum block size", "the server advertises none, or 1");
	need_size(t, 4 * (uint64_t)unit);
	if (kind == 0)
		return (struct range){ unit + 1, unit };
	if (kind == 1)
		return (struct range){ unit, unit - 1 };
	return (struct range){ unit + unit / 2, unit / 2 };
}

/* ---- contents ---- */

/* What an error breaks. Sizes that nobody advertised are only expected to be served (proto.md:788). */
static enum requirement_id
served(const struct test *t, uint64_t offset, uint32_t length, enum requirement_id r)
{
	if (!t->s->block_advertised && ((offset | length) & 4095) != 0)
		return R(default_min_block);
	if (!t->s->block_advertised && length > 65536)
		return R(default_max_payload);
	return r;
}

void
expect_served(struct test *t, uint64_t offset, uint32_t length, uint32_t error, enum requirement_id r)
{
	EXPECT_ERROR(t, served(t, offset, length, r), error, NBD_SUCCESS);
	if (error != NBD_SUCCESS)
		skip(t, "default block sizes", "a request of %" PRIu32 " bytes is refused", length);
}

void
read_served(struct test *t, uint64_t offset, uint32_t length, void *data, enum requirement_id r)
{
	expect_served(t, offset, length, do_read(t, offset, length, data, r), r);
}

void
write_served(struct test *t, uint64_t offset, uint32_t length, const void *data, enum requirement_id r)
{
	expect_served(t, offset, length, do_write(t, 0, offset, length, data, r), r);
}

enum { PIECE = 1 << 20, SHIFT = 64 };

/* Piece k begins SHIFT × k bytes into it, so that no two pieces are alike. */
static uint8_t *
long_pattern(uint32_t length)
{
	size_t size = PIECE + (size_t)length / PIECE * SHIFT;
	uint8_t *pattern = room(size);

	fill_pattern(pattern, size, 0, 99);
	return pattern;
}

uint32_t
write_long(struct test *t, uint32_t length, enum requirement_id owed)
{
	uint8_t *pattern = long_pattern(length);
	uint64_t cookie = new_cookie(t);

	send_request(t, 0, NBD_CMD_WRITE, cookie, 0, length, NULL);
	for (uint32_t at = 0; at < length; at += PIECE)
		send_raw(t, pattern + at / PIECE * SHIFT, length - at < PIECE ? length - at : PIECE);
	return recv_simple_reply(t, cookie, 0, owed).error;
}

uint32_t
read_long(struct test *t, uint32_t length, bool compare, enum requirement_id r)
{
	uint8_t *pattern = compare ? long_pattern(length) : NULL;
	uint64_t cookie = new_cookie(t);
	struct simple_reply reply;

	send_request(t, 0, NBD_CMD_READ, cookie, 0, length, NULL);
	reply = recv_simple_header(t, r);
	EXPECT_EQ(t, R(cookie_echoed), reply.cookie, cookie);
	for (uint32_t at = 0, n; at < length && reply.error == NBD_SUCCESS; at += n) {
		const uint8_t *want = compare ? pattern + at / PIECE * SHIFT : NULL;
		struct bytes got;

		n = length - at < PIECE ? length - at : PIECE;
		buf_clear(&t->s->in);
		got = recv_payload(t, n, r);
		if (compare && memcmp(got.at, want, n) != 0)
			expect_data(t, r, got.at, want, n, at);
	}
	return reply.error;
}

static size_t
piece(struct test *t, size_t left)
{
	size_t most = t->s->block_advertised ? longest_payload(t) : 65536;

	/* Byte by byte it would take too long. No lawful maximum is below the preferred size, nor that below 512. */
	if (left > 512 && t->s->block.maximum < 512)
		skip(t, "large payloads", "the export's maximum payload size is %" PRIu32, t->s->block.maximum);
	return left < most ? left : most;
}

void
store(struct test *t, uint64_t offset, const uint8_t *data, size_t len, enum requirement_id r)
{
	for (size_t at = 0, n; at < len; at += n) {
		n = piece(t, len - at);
		write_served(t, offset + at, (uint32_t)n, data + at, r);
	}
}

void
expect_stored(struct test *t, uint64_t offset, const uint8_t *want, size_t len, enum requirement_id r)
{
	uint8_t *data = room(len);

	for (size_t at = 0, n; at < len; at += n) {
		n = piece(t, len - at);
		read_served(t, offset + at, (uint32_t)n, data + at, r);
	}
	expect_data(t, r, data, want, len, offset);
}

void
expect_altered_within(struct test *t, uint64_t offset, const uint8_t *old, const uint8_t *written, size_t len,
                      struct range range, enum requirement_id r)
{
	uint8_t *data = room(len), *want = room(len);
	bool altered = false;

	for (size_t at = 0, n; at < len; at += n) {
		n = piece(t, len - at);
		read_served(t, offset + at, (uint32_t)n, data + at, r);
	}
	for (size_t i = 0; i < len; i++) {
		bool within = offset + i >= range.offset && offset + i - range.offset < range.length;

		want[i] = within ? data[i] : old[i];
		altered |= within && data[i] != old[i];
	}
	expect_data(t, r, data, want, len, offset);
	if (altered && memcmp(data, written, len) != 0)
		observe(t, r, "the range of a WRITE that was not carried out has neither its old nor the new contents");
	else if (altered)
		observe(t, r, "a WRITE that was not carried out as a whole has altered its range");
}

void
need_kept(struct test *t, uint64_t offset, const uint8_t *want, size_t len)
{
	uint8_t *data = room(len);

	leave(t);
	enter_transmission(t);
	read_served(t, offset, (uint32_t)len, data, R(read_returns_data));
	if (memcmp(data, want, len) != 0)
		skip(t, "a disk that lasts", "each connection has a disk of its own: what another wrote is not there");
}

/* ---- in step ---- */

/*
 * Looks at the head of the reply before it is taken, as far as it is there, so that whatever is wrong with it is laid
 * to `r`: the magic, and the cookie.
 */
static void
expect_head(struct test *t, uint64_t cookie, enum requirement_id r)
{
	uint8_t bytes[SIMPLE_REPLY_SIZE] = { 0 };
	size_t n = peek_bytes(t, bytes, sizeof(bytes));
	struct buf want = { 0 };
	struct simple_reply reply;

	wire_get_simple_reply(wire(bytes, sizeof(bytes)), &reply);
	wire_put_simple_reply(&want,
	                      &(struct simple_reply){ NBD_SIMPLE_REPLY_MAGIC, reply.error, cookie, { NULL, 0 } });
	if (memcmp(bytes, want.at, n) == 0)
		return;
	note(t, "instead came magic 0x%08" PRIx32 ", error 0x%08" PRIx32 ", cookie 0x%016" PRIx64, reply.magic,
	     reply.error, reply.cookie);
	if (reply.magic != NBD_SIMPLE_REPLY_MAGIC)
		broken(t, r, "before the next READ's reply comes what begins with 0x%08" PRIx32 ": out of step",
		       reply.magic);
	broken(t, r, "before the next READ's reply comes one with cookie 0x%" PRIx64 ", not 0x%" PRIx64, reply.cookie,
	       cookie);
}

static bool
probe_as(struct test *t, enum requirement_id stray, enum requirement_id r)
{
	uint32_t length = usable_size(t) < blocks(t, 512) ? (uint32_t)usable_size(t) : blocks(t, 512);
	uint64_t cookie = new_cookie(t);
	struct simple_reply reply;

	send_request(t, 0, NBD_CMD_READ, cookie, 0, length, NULL);
	if (!peer_goes_on(t, r))
		return false;
	expect_head(t, cookie, stray);
	reply = recv_simple_reply(t, cookie, length, r);
	/* A server that told no sizes may have some (proto.md:803); it is in step all the same. */
	if (reply.error != NBD_SUCCESS && length > 0 && t->s->block_advertised)
		broken(t, r, "the READ that follows is refused with error %" PRIu32, reply.error);
	return true;
}

bool
probe(struct test *t, enum requirement_id r)
{
	return probe_as(t, r, r);
}

void
in_step_without(struct test *t, enum requirement_id stray, enum requirement_id silence)
{
	if (!probe_as(t, stray, silence))
		broken_values(t, silence, "the READ that follows is answered", "the connection was closed");
}

void
in_step(struct test *t, enum requirement_id r)
{
	in_step_without(t, r, r);
}

bool
in_step_or_gone(struct test *t, enum requirement_id r)
{
	if (probe(t, r))
		return true;
	expect_next_served(t);
	return false;
}

uint32_t
expect_refusal(struct test *t, uint64_t cookie, uint32_t payload, enum requirement_id should, uint32_t error,
               uint32_t or_error)
{
	uint32_t got;

	if (peer_goes_on(t, R(each_request_one_reply))) {
		got = recv_simple_reply(t, cookie, payload, R(each_request_one_reply)).error;
		if (error != 0)
			expect_one_of(t, should, NAME_ERROR, got, (const uint64_t[]){ error, or_error },
			              or_error != 0 ? 2 : 1);
		return got;
	}
	if (should != REQUIREMENT_NONE)
		deviates(t, should, "a reply with an error", "the connection was closed");
	expect_next_served(t);
	return GONE;
}

void
fill_bait(struct test *t, uint8_t *data, size_t len)
{
	struct request r = {
		.magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_READ, .cookie = 0x62616974, .length = blocks(t, 512)
	};
	struct buf b = { 0 };

	do
		wire_put_request(&b, &r);
	while (b.len < len && b.len < 65536);
	memcpy(data, b.at, b.len < len ? b.len : len);
	buf_free(&b);
}

/* ---- connections ---- */

void
leave(struct test *t)
{
	send_request(t, 0, NBD_CMD_DISC, new_cookie(t), 0, 0, NULL);
	peer_goes_on(t, R(disc_closes));
	disconnect(t);
}

/*
 * A connection only looks whether anybody is there: what fails in the one behind it has other reasons. It is tried
 * twice: a server for one client may be just about to end, or may not have let go of the client before.
 */
void
enter_next(struct test *t)
{
	bool greeted = false;

	disconnect(t);
	need_connections(t);
	for (unsigned i = 0; i < 2 && !greeted; i++) {
		open_connection(t);
		greeted = peer_goes_on(t, R(greeting_magic));
		disconnect(t);
	}
	if (!greeted)
		broken_values(t, R(greeting_magic), "the next client is greeted", "the connection was closed");
	enter_transmission(t);
}

void
expect_next_served(struct test *t)
{
	enter_next(t);
	in_step(t, R(each_request_one_reply));
	leave(t);
}

bool
enter_beside(struct test *t)
{
	struct session *first = t->s;

	if (!open_beside(t)) {
		observe(t, R(supported_flags_set), "a second connection at the same time is not served");
		use(t, first);
		return false;
	}
	disconnect(t);
	enter_transmission(t);
	return true;
}
