/* NBD_CMD_WRITE_ZEROES (proto.md:2150-2223), with NBD_CMD_FLAG_NO_HOLE and NBD_CMD_FLAG_FAST_ZERO. */
#include "cases/server/effects.h"

#include "harness/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void
enter_to_zero(struct test *t)
{
	enter_transmission(t);
	need_flag(t, NBD_FLAG_SEND_WRITE_ZEROES);
	need_writable(t);
}

/* ---- what is zeroed ---- */

static void
zero_at(struct test *t, uint16_t flags, struct place p, unsigned seed)
{
	enum requirement_id zeroed = (flags & NBD_CMD_FLAG_NO_HOLE) != 0 ? R(no_hole_supported) : R(zeroes_stored);
	struct range range = range_at(t, p);
	struct scene s = paint_scene(t, range, seed);

	if (flags == 0)
		zeroes_judged(t, range);
	else
		zeroes_served(t, flags, range);
	goes_on(t, R(zeroes_takes_no_payload));
	expect_scene(t, &s, ZEROES, R(zeroes_stored), zeroed);
}

CASE(zeroes, stored, "A WRITE_ZEROES zeroes just its offset and length, and takes no data", R(zeroes_stored),
     R(zeroes_takes_no_payload), R(zeroes_may_trim), R(zeroes_may_reply_before_stable))
{
	for (unsigned i = 0; i < N_PLACES; i++)
		POINT(t, "offset=%" PRId64 ",length=%" PRIu32, places[i].offset, places[i].length) {
			enter_to_zero(t);
			zero_at(t, 0, places[i], 1 + i);
		}
}

CASE(zeroes, no_hole, "A WRITE_ZEROES with NBD_CMD_FLAG_NO_HOLE is carried out like one without", R(no_hole_supported),
     R(zeroes_stored), R(zeroes_takes_no_payload))
{
	static const struct place some[] = { { 0, 1 },          { 511, 2 },      { 4096, 4096 },
		                             { 65536, 131072 }, { -4096, 4096 }, { 1 << 20, 3 << 20 } };

	for (unsigned i = 0; i < sizeof(some) / sizeof(some[0]); i++)
		POINT(t, "offset=%" PRId64 ",length=%" PRIu32, some[i].offset, some[i].length) {
			enter_to_zero(t);
			zero_at(t, NBD_CMD_FLAG_NO_HOLE, some[i], 21 + i);
		}
}

CASE(zeroes, structured, "With structured replies a WRITE_ZEROES is answered once, without data, and zeroes its range",
     R(zeroes_stored), R(no_hole_supported), R(content_chunks_only_for_read))
{
	static const struct place some[] = { { 4096, 4096 }, { 65536, 131072 }, { -4096, 4096 } };

	for (unsigned i = 0; i < 6; i++)
		POINT(t, "offset=%" PRId64 ",length=%" PRIu32 "%s", some[i / 2].offset, some[i / 2].length,
		      i % 2 == 0 ? "" : ",NO_HOLE") {
			enter_structured(t);
			need_flag(t, NBD_FLAG_SEND_WRITE_ZEROES);
			need_writable(t);
			zero_at(t, i % 2 == 0 ? 0 : NBD_CMD_FLAG_NO_HOLE, some[i / 2], 31 + i);
		}
}

/* In one segment: what follows at once is taken for payload more easily. */
CASE(zeroes, followed_at_once, "Requests in one piece with a WRITE_ZEROES, right behind it, are served each",
     R(zeroes_takes_no_payload), R(each_request_one_reply))
{
	enum { READS = 8 };
	struct sent q[1 + READS];
	struct reply r[1 + READS];
	struct buf b = { 0 };

	enter_to_zero(t);
	need_range(t, 0, blocks(t, 512));
	for (unsigned i = 0; i < 1 + READS; i++) {
		q[i] = (struct sent){ i == 0 ? NBD_CMD_WRITE_ZEROES : NBD_CMD_READ, 0, new_cookie(t), 0,
			              blocks(t, 512) };
		wire_put_request(&b, &(struct request){ .magic = NBD_REQUEST_MAGIC,
		                                        .type = q[i].type,
		                                        .cookie = q[i].cookie,
		                                        .length = q[i].length });
	}
	zeroes_served(t, 0, (struct range){ 0, blocks(t, 512) });
	goes_on(t, R(read_returns_data));
	send_raw(t, b.at, b.len);
	recv_replies(t, q, r, 1 + READS, R(zeroes_takes_no_payload));
	goes_on(t, R(zeroes_takes_no_payload));
	for (unsigned i = 0; i < 1 + READS; i++)
		expect_served(t, 0, q[i].length, r[i].error, i == 0 ? R(zeroes_stored) : R(read_returns_data));
}

/* Of the contents, the range, and what is around it nothing may matter. */
CASE(zeroes, again_and_again, "What is zeroed, written, trimmed and zeroed again reads as zeroes each time",
     R(zeroes_stored), R(zeroes_trimmed_read_zero))
{
	uint32_t each;
	uint8_t *data, *zero;

	enter_to_zero(t);
	each = blocks(t, 65536);
	need_range(t, 0, 2 * each);
	data = room(2 * each);
	zero = room(2 * each);
	for (unsigned i = 0; i < 4; i++) {
		fill_pattern(data, 2 * each, 0, 41 + i);
		store(t, 0, data, 2 * each, R(write_stored));
		if ((t->s->flags & NBD_FLAG_SEND_TRIM) != 0 && i >= 2)
			trim_served(t, (struct range){ 0, each });
		zeroes_served(t, i % 2 == 0 ? 0 : NBD_CMD_FLAG_NO_HOLE, (struct range){ 0, 2 * each });
		zeroes_served(t, 0, (struct range){ each, each });
		expect_stored(t, 0, zero, 2 * each, R(zeroes_stored));
	}
}

/* On the connection of somebody who has read the old contents. */
CASE(zeroes, seen_beside, "Where NBD_FLAG_CAN_MULTI_CONN is advertised, a WRITE_ZEROES is seen by other connections",
     R(multi_conn_shared_cache), R(zeroes_stored))
{
	struct session *first, *second;
	uint32_t each;
	uint8_t *data;

	enter_to_zero(t);
	need_flag(t, NBD_FLAG_CAN_MULTI_CONN);
	each = blocks(t, 4096);
	need_range(t, 0, 2 * each);
	data = room(2 * each);
	fill_pattern(data, 2 * each, 0, 46);
	store(t, 0, data, 2 * each, R(write_stored));
	first = t->s;
	if (!enter_beside(t))
		return;
	second = t->s;
	expect_stored(t, 0, data, 2 * each, R(multi_conn_shared_cache));
	use(t, first);
	zeroes_served(t, 0, (struct range){ each, each });
	memset(data + each, 0, each);
	expect_stored(t, 0, data, 2 * each, R(zeroes_stored));
	use(t, second);
	expect_stored(t, 0, data, 2 * each, R(multi_conn_shared_cache));
}

/* ---- holes (base:allocation) ---- */

static uint32_t
enter_with_allocation(struct test *t)
{
	static const char *const query = "base:allocation";
	struct contexts c = enter_with_contexts(t, &query, 1);

	need_flag(t, NBD_FLAG_SEND_WRITE_ZEROES);
	need_writable(t);
	return c.context[0].id;
}

/* The flags of the extents that lie within the range: those that all of them have, or (any) one of them has. */
static uint32_t
allocation(struct test *t, struct range range, bool any)
{
	uint64_t at = range.offset, end = range.offset + range.length;
	uint32_t flags = any ? 0 : UINT32_MAX;

	while (at < end) {
		struct sent q = send_command(t, 0, NBD_CMD_BLOCK_STATUS, at, (uint32_t)(end - at), NULL);
		struct reply r = recv_reply(t, &q, R(each_request_one_reply));

		if (r.error != NBD_SUCCESS || r.n_status == 0 || r.status[0].count == 0)
			skip(t, "BLOCK_STATUS", "BLOCK_STATUS gets error %" PRIu32, r.error);
		for (unsigned i = 0; i < r.status[0].count && at < end; i++) {
			const struct extent *e = &r.status[0].extents[i];

			if (e->length == 0)
				skip(t, "BLOCK_STATUS", "an extent has length 0");
			flags = any ? flags | e->flags : flags & e->flags;
			at += e->length;
		}
	}
	return flags;
}

/*
 * A file's space that was reserved and never written is a hole by lseek(), and so in many a base:allocation: only a WRITE
 * that finds no room shows what was not provisioned (proto.md:2169-2173).
 */
static void
provision(struct test *t, bool from_hole)
{
	struct range whole = { 0, 3 * blocks(t, 65536) }, range = { blocks(t, 65536), blocks(t, 65536) };
	uint8_t *data = room(whole.length);
	uint32_t error;

	need_size(t, whole.length);
	fill_pattern(data, whole.length, 0, 50);
	store(t, 0, data, whole.length, R(write_stored));
	if (from_hole)
		zeroes_served(t, 0, whole);
	error = do_command(t, NBD_CMD_FLAG_NO_HOLE, NBD_CMD_WRITE_ZEROES, range.offset, range.length,
	                   R(no_hole_supported));
	if (error == NBD_ENOSPC || error == NBD_EIO || error == NBD_ENOMEM)
		skip(t, "space", "WRITE_ZEROES with NO_HOLE gets error %" PRIu32, error);
	expect_served(t, range.offset, range.length, error, R(no_hole_supported));
	if ((allocation(t, range, true) & NBD_STATE_HOLE) != 0)
		observe(t, R(hole_without_trim), "base:allocation reports a hole within what was zeroed with NO_HOLE");
	for (uint32_t at = 0, each = blocks(t, 4096); at < range.length; at += each) {
		error = do_write(t, 0, range.offset + at, each, data + at, R(write_stored));
		EXPECT(t, R(no_hole_provisions), error != NBD_ENOSPC,
		       "a WRITE at %" PRIu64 ", which was zeroed with NBD_CMD_FLAG_NO_HOLE, gets NBD_ENOSPC",
		       range.offset + at);
	}
	expect_in_step(t, R(each_request_one_reply));
}

CASE(zeroes, no_hole_is_provisioned, "Every WRITE to what was zeroed with NBD_CMD_FLAG_NO_HOLE finds room",
     R(no_hole_provisions), R(no_hole_supported), R(hole_without_trim))
{
	POINT(t, "over-data") {
		enter_with_allocation(t);
		provision(t, false);
	}
	POINT(t, "over-a-hole") {
		enter_with_allocation(t);
		provision(t, true);
	}
}

CASE(zeroes, trimmed_read_zero, "What a WRITE_ZEROES has made a hole, by base:allocation, reads as zeroes",
     R(zeroes_trimmed_read_zero), R(zeroes_stored), R(zeroes_may_trim))
{
	struct range range;
	uint8_t *data;
	bool is_hole;

	enter_with_allocation(t);
	range = (struct range){ 0, blocks(t, 65536) };
	need_size(t, range.length);
	data = room(range.length);
	fill_pattern(data, range.length, 0, 52);
	store(t, 0, data, range.length, R(write_stored));
	zeroes_served(t, 0, range);
	is_hole = (allocation(t, range, true) & NBD_STATE_HOLE) != 0;
	expect_stored(t, 0, room(range.length), range.length, is_hole ? R(zeroes_trimmed_read_zero) : R(zeroes_stored));
	if (!is_hole)
		observe(t, R(zeroes_may_trim), "WRITE_ZEROES makes no hole");
}

/* ---- fast zeroes ---- */

enum { FAST = NBD_CMD_FLAG_FAST_ZERO };

static void
zero_fast(struct test *t, uint16_t more, struct place p, unsigned seed)
{
	struct range range = range_at(t, p);
	struct scene s = paint_scene(t, range, seed);
	uint32_t error =
		do_command(t, FAST | more, NBD_CMD_WRITE_ZEROES, range.offset, range.length, R(fast_zero_slow_enotsup));

	goes_on(t, R(zeroes_takes_no_payload));
	EXPECT(t, R(fast_zero_not_overflow), error != NBD_EOVERFLOW,
	       "a fast zero request of %" PRIu32 " bytes gets NBD_EOVERFLOW", range.length);
	if (error == NBD_EOVERFLOW)
		return;
	if (error == NBD_ENOTSUP) {
		observe(t, R(fast_zero_always_enotsup), "a fast zero request gets NBD_ENOTSUP");
		expect_scene(t, &s, AS_BEFORE, R(fast_zero_enotsup_unaltered), R(fast_zero_enotsup_unaltered));
		return;
	}
	/* Too long, and refused for that, where the text allows it (proto.md:869). */
	if (range.length > t->s->block.maximum && error == NBD_EINVAL)
		return;
	expect_served(t, range.offset, range.length, error, R(fast_zero_slow_enotsup));
	expect_scene(t, &s, ZEROES, R(zeroes_stored), R(zeroes_stored));
}

CASE(zeroes, fast, "A fast zero request is carried out as a whole, or gets NBD_ENOTSUP and alters nothing",
     R(fast_zero_enotsup_unaltered), R(fast_zero_slow_enotsup), R(fast_zero_not_overflow), R(zeroes_stored),
     R(fast_zero_may_depend), R(fast_zero_always_enotsup), R(fast_zero_may_never_succeed), R(zeroes_takes_no_payload))
{
	for (unsigned i = 0; i < N_PLACES; i++)
		POINT(t, "offset=%" PRId64 ",length=%" PRIu32 "%s", places[i].offset, places[i].length,
		      i % 3 == 2 ? ",NO_HOLE" : "") {
			enter_to_zero(t);
			need_flag(t, NBD_FLAG_SEND_FAST_ZERO);
			zero_fast(t, i % 3 == 2 ? NBD_CMD_FLAG_NO_HOLE : 0, places[i], 61 + i);
		}
}

CASE(zeroes, fast_and_long, "A fast zero request of any length does not get NBD_EOVERFLOW", R(fast_zero_not_overflow),
     R(fast_zero_enotsup_unaltered), R(zeroes_stored))
{
	static const uint32_t lengths[] = { (32u << 20) + 65536, 1u << 31, UINT32_MAX - 65535 };

	for (unsigned i = 0; i < 3; i++)
		POINT(t, "length=%" PRIu32, lengths[i]) {
			enter_to_zero(t);
			need_flag(t, NBD_FLAG_SEND_FAST_ZERO);
			zero_fast(t, 0, (struct place){ 131072, lengths[i] }, 75 + i);
		}
}

CASE(zeroes, not_asked_to_be_fast, "Without NBD_CMD_FLAG_FAST_ZERO no WRITE_ZEROES gets NBD_ENOTSUP",
     R(unset_fast_zero_not_enotsup), R(unadvertised_fast_zero_not_enotsup))
{
	enter_to_zero(t);
	for (unsigned i = 0; i < 4; i++) {
		uint32_t unit = blocks(t, i % 2 == 0 ? 1 : 4096);

		need_size(t, 4 * (uint64_t)unit);
		zeroes_served(t, i < 2 ? 0 : NBD_CMD_FLAG_NO_HOLE, (struct range){ unit, 3 * unit });
		in_step(t, R(zeroes_takes_no_payload));
	}
}

/* We set a flag that was not offered, and break a MUST (proto.md:2163). */
CASE(zeroes, unadvertised_fast, "Where fast zeroes are not advertised, NBD_CMD_FLAG_FAST_ZERO gets NBD_EINVAL",
     R(unadvertised_fast_zero_einval), R(unadvertised_fast_zero_not_enotsup), R(each_request_one_reply))
{
	struct range range;
	struct scene s;
	uint32_t error;

	enter_to_zero(t);
	if ((t->s->flags & NBD_FLAG_SEND_FAST_ZERO) != 0)
		skip(t, "no FAST_ZERO", "the export advertises NBD_FLAG_SEND_FAST_ZERO");
	range = (struct range){ 0, blocks(t, 4096) };
	need_range(t, 0, range.length);
	s = paint_scene(t, range, 80);
	error = venture(t, FAST, NBD_CMD_WRITE_ZEROES, range.offset, range.length);
	if (error == GONE) {
		deviates(t, R(unadvertised_fast_zero_einval), "a reply with NBD_EINVAL", "the connection was closed");
		return;
	}
	EXPECT(t, R(unadvertised_fast_zero_not_enotsup), error != NBD_ENOTSUP,
	       "NBD_ENOTSUP, although NBD_FLAG_SEND_FAST_ZERO is not advertised");
	EXPECT_ERROR(t, R(unadvertised_fast_zero_einval), error, NBD_EINVAL);
	expect_scene(t, &s, error == NBD_SUCCESS ? ZEROES : ANYTHING, R(zeroes_stored), R(zeroes_stored));
}

/* How long the answer to a WRITE, or else to a fast zero request, takes; the error of the latter. */
static int64_t
duration_ms(struct test *t, const uint8_t *data, uint32_t length, uint32_t *error)
{
	int64_t from = now_ms();

	if (data != NULL)
		write_served(t, 0, length, data, R(write_stored));
	else
		*error = do_command(t, FAST, NBD_CMD_WRITE_ZEROES, 0, length, R(fast_zero_slow_enotsup));
	return now_ms() - from;
}

/*
 * Only what nobody can call fast is blamed: many times as long as writing the same bytes, by most of a second, each time
 * that it is tried.
 */
CASE(zeroes, fast_is_fast, "A fast zero request is answered faster than an equivalent WRITE, be it with NBD_ENOTSUP",
     R(fast_zero_slow_enotsup), R(fast_zero_undecided_enotsup))
{
	enum { TRIES = 3, SLOWER_MS = 500, TIMES_SLOWER = 10 };
	uint32_t length, error = NBD_SUCCESS;
	int64_t slowest = 0, fastest = INT64_MAX;
	uint8_t *data;

	enter_to_zero(t);
	need_flag(t, NBD_FLAG_SEND_FAST_ZERO);
	length = blocks(t, 65536);
	need_range(t, 0, length);
	data = room(length);
	fill_pattern(data, length, 0, 81);
	for (unsigned i = 0; i < TRIES; i++) {
		int64_t write = duration_ms(t, data, length, &error), zero = duration_ms(t, NULL, length, &error);

		slowest = write > slowest ? write : slowest;
		fastest = zero < fastest ? zero : fastest;
		if (fastest < SLOWER_MS + TIMES_SLOWER * slowest)
			return;
	}
	EXPECT(t, R(fast_zero_undecided_enotsup), error != NBD_ENOTSUP,
	       "NBD_ENOTSUP takes %d ms or more, while a WRITE of the same range took %d ms at the most", (int)fastest,
	       (int)slowest);
	EXPECT(t, R(fast_zero_slow_enotsup), error == NBD_ENOTSUP,
	       "a fast zero request takes %d ms or more, while a WRITE of the same range took %d ms at the most",
	       (int)fastest, (int)slowest);
}

/* ---- what is refused ---- */

static void
zero_beyond(struct test *t, enum beyond where, uint16_t flags, bool structured)
{
	struct range range;
	struct scene s;
	uint32_t error;

	if (structured)
		enter_structured(t);
	else
		enter_transmission(t);
	need_flag(t, NBD_FLAG_SEND_WRITE_ZEROES);
	need_writable(t);
	need_size(t, 4 * (uint64_t)blocks(t, 512));
	if ((flags & FAST) != 0)
		need_flag(t, NBD_FLAG_SEND_FAST_ZERO);
	range = range_beyond(t, where);
	s = paint_scene(t, range, 90 + where);
	error = venture(t, flags, NBD_CMD_WRITE_ZEROES, range.offset, range.length);
	if (error == GONE) {
		deviates(t, R(zeroes_past_end_enospc), "a reply with NBD_ENOSPC", "the connection was closed");
		return;
	}
	expect_scene(t, &s, ANYTHING, R(zeroes_stored), R(read_returns_data));
	EXPECT(t, R(zeroes_error_code), error != NBD_SUCCESS || where == BEYOND_CROSSING || where == BEYOND_AT_END,
	       "a WRITE_ZEROES of offsets that do not exist is reported as done");
	/* It may not be fast either. */
	if ((flags & FAST) != 0 && error == NBD_ENOTSUP)
		return;
	/* The text names one error in one place, and another for all requests (proto.md:881). */
	EXPECT_ERROR(t, R(zeroes_past_end_enospc), error, NBD_ENOSPC, NBD_EINVAL);
}

CASE(zeroes, past_the_end,
     "A WRITE_ZEROES past the end gets NBD_ENOSPC or NBD_EINVAL, and zeroes nothing outside of it",
     R(zeroes_past_end_enospc), R(zeroes_error_code), R(zeroes_stored), R(each_request_one_reply),
     R(request_payload_consumed), R(fast_zero_may_never_succeed))
{
	for (enum beyond b = 0; b < BEYOND_KINDS; b++)
		POINT(t, "%s", beyond_name(b))
			zero_beyond(t, b, 0, false);
	POINT(t, "%s,NO_HOLE", beyond_name(BEYOND_CROSSING))
		zero_beyond(t, BEYOND_CROSSING, NBD_CMD_FLAG_NO_HOLE, false);
	POINT(t, "%s,FAST_ZERO", beyond_name(BEYOND_CROSSING))
		zero_beyond(t, BEYOND_CROSSING, FAST, false);
	POINT(t, "%s,structured", beyond_name(BEYOND_CROSSING))
		zero_beyond(t, BEYOND_CROSSING, 0, true);
}

CASE(zeroes, unaligned,
     "A WRITE_ZEROES off the advertised minimum block size gets NBD_EINVAL, and zeroes nothing outside of it",
     R(unaligned_or_past_end_einval), R(zeroes_stored))
{
	for (unsigned kind = 0; kind < UNALIGNED_KINDS; kind++)
		POINT(t, "%s", unaligned_name(kind)) {
			struct range range;
			struct scene s;
			uint32_t error;

			enter_to_zero(t);
			range = range_unaligned(t, kind);
			s = paint_scene(t, range, 100 + kind);
			error = venture(t, 0, NBD_CMD_WRITE_ZEROES, range.offset, range.length);
			if (error == GONE)
				continue;
			expect_scene(t, &s, error == NBD_SUCCESS ? ZEROES : ANYTHING, R(zeroes_stored),
			             R(zeroes_stored));
			EXPECT_ERROR(t, R(unaligned_or_past_end_einval), error, NBD_EINVAL);
		}
}

/* Where WRITE_ZEROES is not advertised the request is wrong in two ways, and may be refused for either. */
CASE(zeroes, read_only, "A WRITE_ZEROES on a read-only export gets NBD_EPERM, and alters nothing",
     R(zeroes_read_only_eperm), R(read_only_errors_writes), R(zeroes_error_code), R(each_request_one_reply))
{
	venture_read_only(t, NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, R(zeroes_read_only_eperm));
}

/* ---- the storage's own errors ---- */

/* The values of EFBIG and EDQUOT on the systems that servers run on; no other meaning has them in the protocol. */
static void
expect_no_quota_errno(struct test *t, uint32_t error)
{
	EXPECT(t, R(quota_errors_enospc), error != EFBIG && error != EDQUOT && error != 69,
	       "error %" PRIu32 ", which is the storage's %s, is to be NBD_ENOSPC on the wire", error,
	       error == EFBIG ? "EFBIG" : "EDQUOT");
}

static uint32_t
error_of(struct test *t, uint16_t type, uint64_t offset, uint32_t length)
{
	uint8_t *data = room(length);
	uint64_t cookie = new_cookie(t);
	struct simple_reply r;

	send_request(t, 0, type, cookie, offset, length, type == NBD_CMD_WRITE ? data : NULL);
	if (!peer_goes_on(t, R(each_request_one_reply)))
		skip(t, "an answer", "the server ends the connection of who goes past the end");
	r = recv_simple_header(t, R(each_request_one_reply));
	expect_no_quota_errno(t, r.error);
	return r.error;
}

/* A file that must not grow further fails a write past its limit with EFBIG, or EDQUOT. */
CASE(zeroes, quota_errors, "Where the storage is full, a WRITE or WRITE_ZEROES gets NBD_ENOSPC, not EFBIG or EDQUOT",
     R(quota_errors_enospc))
{
	for (unsigned i = 0; i < 6; i++)
		POINT(t, "%s,%s", i % 2 == 0 ? "WRITE" : "WRITE_ZEROES",
		      i / 2 == 0   ? "in-the-middle"
		      : i / 2 == 1 ? "at-the-end"
		                   : "past-the-end") {
			uint32_t length;
			uint64_t last;

			enter_transmission(t);
			need_writable(t);
			if (i % 2 != 0)
				need_flag(t, NBD_FLAG_SEND_WRITE_ZEROES);
			length = blocks(t, 4096);
			need_size(t, 2 * (uint64_t)length);
			last = usable_size(t) / length * length - length;
			if (i / 2 == 2)
				last = range_beyond(t, BEYOND_FAR).offset;
			error_of(t, i % 2 == 0 ? NBD_CMD_WRITE : NBD_CMD_WRITE_ZEROES,
			         i / 2 == 0 ? last / 2 / length * length : last, length);
		}
}
