/* NBD_CMD_TRIM (proto.md:2097-2113): what is trimmed holds anything, what is around it holds what it held. */
#include "cases/server/effects.h"

#include <inttypes.h>
#include <string.h>

static void
enter_to_trim(struct test *t)
{
	enter_transmission(t);
	need_flag(t, NBD_FLAG_SEND_TRIM);
	need_writable(t);
}

CASE(trim, keeps_outside, "A TRIM of any offset and length alters nothing outside of them", R(trim_keeps_outside),
     R(trim_supported), R(trim_may_discard), R(trim_may_round), R(request_payload_consumed))
{
	for (unsigned i = 0; i < N_PLACES; i++)
		POINT(t, "offset=%" PRId64 ",length=%" PRIu32, places[i].offset, places[i].length) {
			struct range range;
			struct scene s;

			enter_to_trim(t);
			range = range_at(t, places[i]);
			s = paint_scene(t, range, 1 + i);
			trim_judged(t, range);
			in_step(t, R(request_payload_consumed));
			expect_scene(t, &s, ANYTHING, R(trim_keeps_outside), R(read_returns_data));
		}
}

/* The contents are anybody's guess only until they are overwritten (proto.md:2108-2110). */
static void
overwrite(struct test *t, bool with_zeroes)
{
	uint32_t each = blocks(t, 4096);
	uint8_t *data = room(4 * each);

	need_range(t, 0, 4 * each);
	if (with_zeroes)
		need_flag(t, NBD_FLAG_SEND_WRITE_ZEROES);
	fill_pattern(data, 4 * each, 0, 20);
	store(t, 0, data, 4 * each, R(write_stored));
	for (unsigned i = 0; i < 3; i++) {
		trim_served(t, (struct range){ 0, 4 * each });
		fill_pattern(data, 4 * each, 0, 21 + i);
		if (with_zeroes) {
			memset(data + each, 0, each);
			zeroes_served(t, 0, (struct range){ each, each });
			expect_stored(t, each, data + each, each, R(zeroes_stored));
		} else {
			write_served(t, each, each, data + each, R(write_stored));
			expect_stored(t, each, data + each, each, R(write_stored));
		}
		write_served(t, 2 * each, each, data + 2 * each, R(write_stored));
		if ((t->s->flags & NBD_FLAG_SEND_FLUSH) != 0)
			do_command(t, 0, NBD_CMD_FLUSH, 0, 0, R(each_request_one_reply));
		expect_stored(t, each, data + each, 2 * each, R(write_stored));
	}
}

CASE(trim, then_overwritten, "What was written, or zeroed, over a trimmed range is there, and stays", R(write_stored),
     R(zeroes_stored), R(trim_keeps_outside))
{
	POINT(t, "WRITE") {
		enter_to_trim(t);
		overwrite(t, false);
	}
	POINT(t, "WRITE_ZEROES") {
		enter_to_trim(t);
		overwrite(t, true);
	}
}

/* nbd 4b78826's like: many small ones, where each is rounded. */
CASE(trim, every_other_block, "TRIMs of every other block leave those between as they were", R(trim_keeps_outside),
     R(trim_may_round))
{
	enum { BLOCKS = 32 };
	uint32_t each;
	uint8_t *data;

	enter_to_trim(t);
	each = blocks(t, 512);
	need_range(t, 0, each);
	need_size(t, (uint64_t)BLOCKS * each);
	data = room((size_t)BLOCKS * each);
	fill_pattern(data, (size_t)BLOCKS * each, 0, 25);
	store(t, 0, data, (size_t)BLOCKS * each, R(write_stored));
	for (unsigned i = 0; i < BLOCKS; i += 2)
		trim_served(t, (struct range){ i * each, each });
	for (unsigned i = 1; i < BLOCKS; i += 2)
		expect_stored(t, i * each, data + i * each, each, R(trim_keeps_outside));
}

/* What another client does there is not undone by it. */
CASE(trim, seen_beside, "While one connection trims, what another one has written beside the range is kept",
     R(trim_keeps_outside))
{
	struct session *first;
	uint32_t each;
	uint8_t *data;

	enter_to_trim(t);
	need_flag(t, NBD_FLAG_CAN_MULTI_CONN);
	each = blocks(t, 4096);
	need_range(t, 0, 3 * each);
	data = room(3 * each);
	fill_pattern(data, 3 * each, 0, 26);
	store(t, 0, data, 3 * each, R(write_stored));
	first = t->s;
	if (!enter_beside(t))
		return;
	fill_pattern(data, each, 0, 27);
	write_served(t, 0, each, data, R(write_stored));
	use(t, first);
	trim_served(t, (struct range){ each, each });
	expect_stored(t, 0, data, each, R(trim_keeps_outside));
	expect_stored(t, 2 * each, data + 2 * each, each, R(trim_keeps_outside));
}

/* ---- what is refused ---- */

static void
trim_beyond(struct test *t, enum beyond where, bool structured)
{
	struct range range;
	struct scene s;
	uint32_t error;

	if (structured)
		enter_structured(t);
	else
		enter_transmission(t);
	need_flag(t, NBD_FLAG_SEND_TRIM);
	need_writable(t);
	need_size(t, 4 * (uint64_t)blocks(t, 512));
	range = range_beyond(t, where);
	s = paint_scene(t, range, 30 + where);
	error = venture(t, 0, NBD_CMD_TRIM, range.offset, range.length);
	if (error == GONE) {
		deviates(t, R(trim_past_end_einval), "a reply with NBD_EINVAL", "the connection was closed");
		return;
	}
	expect_scene(t, &s, ANYTHING, R(trim_keeps_outside), R(read_returns_data));
	EXPECT_ERROR(t, R(trim_past_end_einval), error, NBD_EINVAL);
}

CASE(trim, past_the_end, "A TRIM past the end gets NBD_EINVAL, and nothing outside of its range is altered",
     R(trim_past_end_einval), R(trim_keeps_outside), R(each_request_one_reply), R(request_payload_consumed))
{
	for (enum beyond b = 0; b < BEYOND_KINDS; b++)
		POINT(t, "%s", beyond_name(b))
			trim_beyond(t, b, false);
	POINT(t, "%s,structured", beyond_name(BEYOND_CROSSING))
		trim_beyond(t, BEYOND_CROSSING, true);
}

/* Whatever the server makes of it, it may only round inwards (proto.md:2101-2103). */
CASE(trim, unaligned,
     "A TRIM off the advertised minimum block size gets NBD_EINVAL, and nothing outside of it is altered",
     R(unaligned_or_past_end_einval), R(trim_keeps_outside))
{
	for (unsigned kind = 0; kind < UNALIGNED_KINDS; kind++)
		POINT(t, "%s", unaligned_name(kind)) {
			struct range range;
			struct scene s;
			uint32_t error;

			enter_to_trim(t);
			range = range_unaligned(t, kind);
			s = paint_scene(t, range, 40 + kind);
			error = venture(t, 0, NBD_CMD_TRIM, range.offset, range.length);
			if (error == GONE)
				continue;
			expect_scene(t, &s, ANYTHING, R(trim_keeps_outside), R(read_returns_data));
			EXPECT_ERROR(t, R(unaligned_or_past_end_einval), error, NBD_EINVAL);
		}
}

/* proto.md:1109, 2333. Where TRIM is not advertised the request is wrong in two ways, and may be refused for either. */
CASE(trim, read_only, "A TRIM of a read-only export gets NBD_EPERM, and alters nothing", R(read_only_errors_writes),
     R(read_only_eperm), R(each_request_one_reply), R(request_payload_consumed))
{
	venture_read_only(t, NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, R(read_only_eperm));
}

CASE(trim, structured, "With structured replies a TRIM is answered once, without data, and alters nothing outside",
     R(trim_keeps_outside), R(trim_supported), R(content_chunks_only_for_read))
{
	static const struct place some[] = { { 4096, 4096 }, { 65536, 131072 }, { -4096, 4096 } };

	for (unsigned i = 0; i < 3; i++)
		POINT(t, "offset=%" PRId64 ",length=%" PRIu32, some[i].offset, some[i].length) {
			struct range range;
			struct scene s;

			enter_structured(t);
			need_flag(t, NBD_FLAG_SEND_TRIM);
			need_writable(t);
			range = range_at(t, some[i]);
			s = paint_scene(t, range, 45 + i);
			trim_served(t, range);
			goes_on(t, R(trim_supported));
			expect_scene(t, &s, ANYTHING, R(trim_keeps_outside), R(read_returns_data));
		}
}
