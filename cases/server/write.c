/* NBD_CMD_WRITE with simple replies (proto.md:2056-2070). */
#include "cases/server/transmission.h"

#include <inttypes.h>
#include <string.h>

/* ---- what is stored, and where ---- */

/*
 * Writes into an area of known contents and reads all of it. The area is in 4096-byte blocks where it can be, which
 * every server takes.
 */
static void
write_within(struct test *t, uint64_t offset, uint32_t length, enum requirement_id r)
{
	uint64_t block = unit_of(t) > 4096 ? unit_of(t) : 4096;
	uint64_t from = offset / block * block, to = (offset + length + block - 1) / block * block;
	uint8_t *data;

	from = from >= block ? from - block : 0;
	to = to + block <= usable_size(t) ? to + block : usable_size(t);
	data = room(to - from);
	fill_pattern(data, to - from, from, 1);
	store(t, from, data, to - from, r);
	fill_pattern(data + (offset - from), length, offset, 2);
	write_served(t, offset, length, data + (offset - from), r);
	in_step(t, R(request_payload_consumed));
	expect_stored(t, from, data, to - from, r);
}

static void
write_at(struct test *t, int64_t place, uint32_t length)
{
	uint64_t offset;

	enter_transmission(t);
	need_writable(t);
	need_size(t, place < 0 ? (uint64_t)-place : length);
	offset = place < 0 ? usable_size(t) - (uint64_t)-place : (uint64_t)place;
	need_range(t, offset, length);
	write_within(t, offset, length, R(write_stored));
}

CASE(write, stored, "A WRITE stores its data at just its offset and length: the bytes around it stay as they were",
     R(write_stored), R(request_payload_consumed), R(default_min_block))
{
	static const struct {
		int64_t offset; /* from the end where it is negative */
		uint32_t length;
	} writes[] = {
		{ 0, 1 },
		{ 0, 512 },
		{ 1, 511 },
		{ 511, 2 },
		{ 512, 512 },
		{ 4095, 4098 },
		{ 4096, 4096 },
		{ 8191, 1 },
		{ 4096, 65536 },
		{ 65537, 131072 },
		{ 65536, 1 << 20 },
		{ 3 << 20, 4096 },
		{ (5 << 20) + 1, 3000 },
		{ -1, 1 },
		{ -512, 512 },
		{ -4096, 4096 },
		{ -65536, 65536 },
		{ -70000, 70000 },
	};

	for (size_t i = 0; i < sizeof(writes) / sizeof(writes[0]); i++)
		POINT(t, "offset=%" PRId64 ",length=%" PRIu32, writes[i].offset, writes[i].length)
			write_at(t, writes[i].offset, writes[i].length);
}

CASE(write, far_offsets, "A WRITE far into the export is stored there, whatever bits of its offset are set",
     R(write_stored))
{
	static const uint64_t offsets[] = {
		(1 << 20) - 4096,
		(8 << 20) + 4096,
		(16 << 20) - 4096,
		(17 << 20) + 4096,
		(32 << 20) - 4096,
		(48 << 20) + 65536,
		(UINT64_C(1) << 31) - 4096,
		(UINT64_C(1) << 32) - 4096,
		(UINT64_C(1) << 32) + 65536,
		(UINT64_C(1) << 41) + 65536,
	};

	for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++)
		POINT(t, "offset=%" PRIu64, offsets[i])
			write_at(t, (int64_t)offsets[i], 8192);
}

/* Each marks its place, so that one that lands elsewhere is missed in one place and found in another. */
CASE(write, many_places, "Writes all over the export each stay where they were written", R(write_stored))
{
	enum { PLACES = 48 };
	uint32_t length;
	uint64_t step;
	uint8_t *data;

	enter_transmission(t);
	need_writable(t);
	length = blocks(t, 4096);
	need_size(t, (uint64_t)PLACES * length);
	step = t->s->size / PLACES / length * length;
	data = room(length);
	for (unsigned i = 0; i < PLACES; i++) {
		fill_pattern(data, length, i * step, 3);
		write_served(t, i * step, length, data, R(write_stored));
	}
	for (unsigned i = 0; i < PLACES; i++) {
		fill_pattern(data, length, i * step, 3);
		expect_stored(t, i * step, data, length, R(write_stored));
	}
}

CASE_BULK(write, thirty_two_mebibytes,
          "A WRITE of 32 MiB, or of the advertised maximum below that, is stored from end to end", R(write_stored),
          R(default_max_payload))
{
	enum requirement_id r;
	uint32_t length;

	enter_transmission(t);
	need_writable(t);
	length = longest_payload(t);
	need_size(t, length);
	r = t->s->block_advertised ? R(write_stored) : R(default_max_payload);
	EXPECT_ERROR(t, r, write_long(t, length, R(write_stored)), NBD_SUCCESS);
	EXPECT_ERROR(t, r, read_long(t, length, true, R(write_stored)), NBD_SUCCESS);
}

CASE(write, overlapping, "Of writes that overlap, each sent once the one before was answered, the last one counts",
     R(write_stored))
{
	static const uint8_t from_to[][2] = { { 0, 8 }, { 2, 6 }, { 3, 8 }, { 0, 1 },
		                              { 5, 7 }, { 6, 7 }, { 1, 3 }, { 4, 5 } };
	uint32_t unit;
	uint8_t *data;

	enter_transmission(t);
	need_writable(t);
	unit = blocks(t, 512);
	need_range(t, 0, 8 * unit);
	data = room(8 * unit);
	for (unsigned i = 0; i < sizeof(from_to) / sizeof(from_to[0]); i++) {
		uint32_t at = from_to[i][0] * unit, length = (uint32_t)(from_to[i][1] - from_to[i][0]) * unit;

		fill_pattern(data + at, length, at, 10 + i);
		write_served(t, at, length, data + at, R(write_stored));
	}
	expect_stored(t, 0, data, 8 * unit, R(write_stored));
}

CASE(write, dribbled, "A WRITE whose payload comes in many small pieces is stored like any other", R(write_stored),
     R(request_payload_consumed))
{
	uint32_t length, at = 0;
	uint64_t cookie;
	uint8_t *data;

	enter_transmission(t);
	need_writable(t);
	length = blocks(t, 4096);
	need_range(t, 0, length);
	data = room(length);
	fill_pattern(data, length, 0, 5);
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_WRITE, cookie, 0, length, NULL);
	for (uint32_t n = 1; at < length; at += n, n = n < 32 ? 1 + at / 16 : 511) {
		n = n < length - at ? n : length - at;
		send_raw(t, data + at, n);
	}
	EXPECT_ERROR(t, R(write_stored), recv_simple_reply(t, cookie, 0, R(write_stored)).error, NBD_SUCCESS);
	in_step(t, R(request_payload_consumed));
	expect_stored(t, 0, data, length, R(write_stored));
}

/* ---- other clients ---- */

enum visible { ONCE_ANSWERED, ONCE_FLUSHED, ONCE_PERSISTED };

static void
write_visibly(struct test *t, enum visible how, const uint8_t *data, uint32_t length, enum requirement_id r)
{
	uint16_t flags = how == ONCE_PERSISTED ? NBD_CMD_FLAG_FUA : 0;

	EXPECT_ERROR(t, r, do_write(t, flags, 0, length, data, r), NBD_SUCCESS);
	if (how == ONCE_FLUSHED)
		EXPECT_ERROR(t, r, do_command(t, 0, NBD_CMD_FLUSH, 0, 0, r), NBD_SUCCESS);
}

static void
seen_beside(struct test *t, enum visible how, enum requirement_id r)
{
	struct session *writer, *reader;
	uint32_t length;
	uint8_t *data;

	enter_transmission(t);
	need_flag(t, NBD_FLAG_CAN_MULTI_CONN);
	if (how != ONCE_ANSWERED)
		need_flag(t, how == ONCE_FLUSHED ? NBD_FLAG_SEND_FLUSH : NBD_FLAG_SEND_FUA);
	need_writable(t);
	length = blocks(t, 4096);
	need_range(t, 0, length);
	data = room(length);
	fill_pattern(data, length, 0, 6);
	write_visibly(t, how, data, length, r);
	writer = t->s;
	if (!enter_beside(t))
		return;
	/* What the reader has cached by now is the older contents. */
	expect_stored(t, 0, data, length, r);
	reader = t->s;
	use(t, writer);
	fill_pattern(data, length, 0, 7);
	write_visibly(t, how, data, length, r);
	use(t, reader);
	expect_stored(t, 0, data, length, r);
}

/* proto.md:1126-1131 */
CASE(write, seen_by_other_connections,
     "Where NBD_FLAG_CAN_MULTI_CONN is advertised, a WRITE is seen by other connections that had read there before",
     R(multi_conn_shared_cache), R(multi_conn_flush_visible), R(multi_conn_fua_visible))
{
	POINT(t, "answered")
		seen_beside(t, ONCE_ANSWERED, R(multi_conn_shared_cache));
	POINT(t, "flushed")
		seen_beside(t, ONCE_FLUSHED, R(multi_conn_flush_visible));
	POINT(t, "fua")
		seen_beside(t, ONCE_PERSISTED, R(multi_conn_fua_visible));
}

/* A server may give each client a disk of its own, which starts anew; but not if it says that they share one. */
static void
expect_kept(struct test *t, const uint8_t *data, uint32_t length)
{
	uint8_t *after = room(length);
	uint32_t kept = 0;

	read_served(t, 0, length, after, R(read_returns_data));
	for (uint32_t at = 0; at < length; at += 512)
		kept += memcmp(after + at, data + at, 512) == 0;
	if (kept == 0 && (t->s->flags & NBD_FLAG_CAN_MULTI_CONN) == 0)
		observe(t, R(write_stored), "nothing of it is there: each connection has a disk of its own");
	else
		expect_data(t, R(write_stored), after, data, length, 0);
}

CASE(write, kept_for_the_next_client,
     "What one client has written, the next one reads, unless each has a disk of its own", R(write_stored))
{
	uint32_t length;
	uint8_t *data;

	enter_transmission(t);
	need_connections(t);
	need_writable(t);
	length = blocks(t, 4096);
	need_range(t, 0, length);
	data = room(length);
	fill_pattern(data, length, 0, 8);
	write_served(t, 0, length, data, R(write_stored));
	if ((t->s->flags & NBD_FLAG_SEND_FLUSH) != 0)
		do_command(t, 0, NBD_CMD_FLUSH, 0, 0, R(each_request_one_reply));
	leave(t);
	enter_transmission(t);
	expect_kept(t, data, length);
}

/* The bytes that did come may be there or not; what was never addressed stays as it was. */
static void
vanish_in_write(struct test *t, uint32_t sent_units)
{
	uint32_t unit, length;
	uint8_t *old, *data;
	struct range range;

	enter_transmission(t);
	need_writable(t);
	need_connections(t);
	unit = blocks(t, 4096);
	length = 10 * unit;
	need_range(t, 0, length);
	old = room(length);
	data = room(length);
	fill_pattern(old, length, 0, 9);
	store(t, 0, old, length, R(write_stored));
	need_kept(t, 0, old, length);
	range = (struct range){ unit, 8 * unit };
	memcpy(data, old, length);
	fill_pattern(data + unit, sent_units * unit, unit, 10);
	send_request(t, 0, NBD_CMD_WRITE, new_cookie(t), range.offset, range.length, NULL);
	send_raw(t, data + unit, sent_units * unit);
	enter_next(t);
	expect_altered_within(t, 0, old, data, length, range, R(write_stored));
	in_step(t, R(each_request_one_reply));
}

CASE(write, client_vanishes,
     "When a client has vanished within the payload of a WRITE, other data is as it was, and the next one is served",
     R(write_stored), R(greeting_magic))
{
	POINT(t, "before-the-payload")
		vanish_in_write(t, 0);
	POINT(t, "in-the-payload")
		vanish_in_write(t, 3);
}

/* ---- what is refused ---- */

CASE(write, length_zero, "A WRITE of length 0 is answered in one way or another, and the connection stays",
     R(write_zero_no_disconnect), R(simple_reply_required), R(request_payload_consumed))
{
	struct simple_reply r;
	uint64_t cookie;

	enter_transmission(t);
	need_writable(t);
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_WRITE, cookie, 0, 0, NULL);
	if (peer_goes_on(t, R(simple_reply_required))) {
		r = recv_simple_reply(t, cookie, 0, R(simple_reply_required));
		if (r.error != NBD_SUCCESS)
			observe(t, R(write_zero_no_disconnect), "a WRITE of length 0 is refused with error %" PRIu32,
			        r.error);
		if (probe(t, R(request_payload_consumed)))
			return;
	}
	deviates(t, R(write_zero_no_disconnect), "a reply, and the connection stays", "the connection was closed");
	expect_next_served(t);
}

/*
 * A client may not mean it: the server may wait for the rest, or leave at once (proto.md:846). What counts is that
 * nobody else notices.
 */
CASE(write, header_of_4_gigabytes, "After a client that announced a WRITE of 4 GiB, and left, the next one is served",
     R(greeting_magic), R(payload_denial_of_service_close))
{
	enter_transmission(t);
	need_writable(t);
	in_step(t, R(read_returns_data));
	send_request(t, 0, NBD_CMD_WRITE, new_cookie(t), 0, UINT32_MAX / unit_of(t) * unit_of(t), NULL);
	send_raw(t, room(65536), 65536);
	expect_next_served(t);
}

/* An area whose contents are known, and a WRITE of bait, which in part or wholly does not belong there. */
struct attempt {
	uint64_t area;      /* offset, bytes */
	uint32_t length;    /* of the area */
	struct range range; /* of the WRITE */
	uint8_t *old, *written, *bait;
};

static void
prepare(struct test *t, struct attempt *a)
{
	uint64_t end = a->area + a->length;

	a->old = room(a->length);
	a->written = room(a->length);
	a->bait = room(a->range.length);
	fill_pattern(a->old, a->length, a->area, 11);
	store(t, a->area, a->old, a->length, R(write_stored));
	fill_bait(t, a->bait, a->range.length);
	memcpy(a->written, a->old, a->length);
	if (a->range.offset < end)
		memcpy(a->written + (a->range.offset - a->area), a->bait,
		       a->range.length < end - a->range.offset ? a->range.length : (size_t)(end - a->range.offset));
}

static uint32_t
attempt_write(struct test *t, const struct attempt *a, enum requirement_id should, uint32_t error, uint32_t or_error)
{
	uint64_t cookie = new_cookie(t);
	uint32_t got;

	send_request(t, 0, NBD_CMD_WRITE, cookie, a->range.offset, a->range.length, a->bait);
	got = expect_refusal(t, cookie, 0, should, error, or_error);
	if (got == GONE || !in_step_or_gone(t, R(request_payload_consumed)))
		return GONE;
	expect_altered_within(t, a->area, a->old, a->written, a->length, a->range, R(write_stored));
	return got;
}

static void
write_beyond(struct test *t, enum beyond where)
{
	struct attempt a;
	uint8_t *start;
	uint32_t error;

	enter_transmission(t);
	need_writable(t);
	a.length = 2 * blocks(t, 512);
	need_size(t, 2 * a.length);
	a.area = usable_size(t) - a.length;
	a.range = range_beyond(t, where);
	/* Where an offset that wraps around would land. */
	start = room(a.length);
	fill_pattern(start, a.length, 0, 12);
	store(t, 0, start, a.length, R(write_stored));
	prepare(t, &a);
	/* The text names one error in one place and another in the other (proto.md:882, 2328). */
	error = attempt_write(t, &a, R(write_past_end_enospc), NBD_ENOSPC, NBD_EINVAL);
	if (error == GONE)
		return;
	expect_stored(t, 0, start, a.length, R(write_stored));
	EXPECT(t, R(write_error_code), error != NBD_SUCCESS || a.range.offset + a.range.length > a.range.offset,
	       "a WRITE to offsets that do not exist is reported as done");
}

CASE(write, past_the_end,
     "A WRITE past the end gets NBD_ENOSPC or NBD_EINVAL, its payload is taken, and nothing else is altered",
     R(write_past_end_enospc), R(write_error_code), R(request_payload_consumed), R(write_stored),
     R(each_request_one_reply))
{
	for (enum beyond b = 0; b < BEYOND_KINDS; b++)
		POINT(t, "%s", beyond_name(b))
			write_beyond(t, b);
}

static void
write_unaligned(struct test *t, unsigned kind)
{
	struct attempt a = { 0 };

	enter_transmission(t);
	need_writable(t);
	a.range = range_unaligned(t, kind);
	a.length = 4 * unit_of(t);
	prepare(t, &a);
	attempt_write(t, &a, R(unaligned_einval), NBD_EINVAL, 0);
}

CASE(write, unaligned, "A WRITE off the advertised minimum block size gets NBD_EINVAL, and nothing else is altered",
     R(unaligned_einval), R(request_payload_consumed), R(write_stored))
{
	for (unsigned kind = 0; kind < UNALIGNED_KINDS; kind++)
		POINT(t, "%s", unaligned_name(kind))
			write_unaligned(t, kind);
}

/* proto.md:849: up to 32 MiB nobody should call it an attack, though it may be refused. */
CASE_BULK(write, above_maximum_payload,
          "A WRITE above the advertised maximum payload size is answered, and its payload taken",
          R(server_takes_32_mebibytes), R(request_payload_consumed))
{
	enum { PIECE = 1 << 18 };
	enum requirement_id should;
	uint32_t length;
	uint64_t cookie;
	uint8_t *bait;

	enter_transmission(t);
	need_writable(t);
	if (!t->s->block_advertised || t->s->block.maximum > 64 << 20)
		skip(t, "maximum payload size", "the server advertises none, or one above 64 MiB");
	length = t->s->block.maximum / unit_of(t) * unit_of(t) + unit_of(t);
	need_size(t, length);
	bait = room(PIECE);
	fill_bait(t, bait, PIECE);
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_WRITE, cookie, 0, length, NULL);
	for (uint32_t at = 0; at < length; at += PIECE)
		send_raw(t, bait, length - at < PIECE ? length - at : PIECE);
	should = length <= NBD_DEFAULT_MAX_PAYLOAD ? R(server_takes_32_mebibytes) : REQUIREMENT_NONE;
	if (expect_refusal(t, cookie, 0, should, 0, 0) != GONE)
		in_step_or_gone(t, R(request_payload_consumed));
}

/* proto.md:1109. The bytes that are there already are written, so that even a server that obeys does no harm. */
CASE(write, read_only, "A WRITE to a read-only export gets NBD_EPERM, its payload is taken, and the connection stays",
     R(read_only_errors_writes), R(read_only_eperm), R(request_payload_consumed))
{
	uint32_t length, error;
	uint8_t *data;

	enter_transmission(t);
	if ((t->s->flags & NBD_FLAG_READ_ONLY) == 0)
		skip(t, "read-only", "the export is writable");
	length = blocks(t, 512);
	need_range(t, 0, length);
	data = room(length);
	read_served(t, 0, length, data, R(read_returns_data));
	error = do_write(t, 0, 0, length, data, R(read_only_errors_writes));
	EXPECT(t, R(read_only_errors_writes), error != NBD_SUCCESS, "a WRITE to a read-only export succeeded");
	EXPECT_ERROR(t, R(read_only_eperm), error, NBD_EPERM);
	in_step(t, R(request_payload_consumed));
}
