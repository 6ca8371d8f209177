/* NBD_CMD_CACHE (proto.md:2115-2148): it may do anything or nothing, but nobody may notice save by the time it takes. */
#include "cases/server/effects.h"

#include <inttypes.h>
#include <string.h>

static void
enter_to_cache(struct test *t)
{
	enter_transmission(t);
	need_flag(t, NBD_FLAG_SEND_CACHE);
}

static uint32_t
cache(struct test *t, uint64_t offset, uint32_t length)
{
	return do_command(t, 0, NBD_CMD_CACHE, offset, length, R(each_request_one_reply));
}

/* It may fail always, but not by an error that means something else (proto.md:2337-2344). */
static void
observe_failure(struct test *t, uint32_t error)
{
	EXPECT(t, R(no_enotsup), error != NBD_ENOTSUP, "a CACHE gets NBD_ENOTSUP");
	EXPECT(t, R(no_eoverflow), error != NBD_EOVERFLOW || t->s->block.maximum < 1 << 20,
	       "a CACHE of no more than 1 MiB gets NBD_EOVERFLOW");
	if (error != NBD_SUCCESS)
		observe(t, R(cache_may_be_void), "CACHE gets error %" PRIu32, error);
}

/* ---- what stays as it is ---- */

CASE(cache, alters_nothing,
     "A CACHE of any offset and length, whether it succeeds or fails, leaves all data as they were",
     R(cache_changes_no_semantics), R(cache_may_be_void), R(cache_may_speed_up), R(cache_may_reply_early),
     R(cache_no_payload), R(request_payload_consumed), R(no_enotsup), R(no_eoverflow))
{
	for (unsigned i = 0; i < N_PLACES; i++)
		POINT(t, "offset=%" PRId64 ",length=%" PRIu32, places[i].offset, places[i].length) {
			struct range range;
			struct scene s;

			enter_to_cache(t);
			need_writable(t);
			range = range_at(t, places[i]);
			s = paint_scene(t, range, 1 + i);
			observe_failure(t, cache(t, range.offset, range.length));
			in_step_without(t, R(cache_no_payload), R(request_payload_consumed));
			expect_scene(t, &s, AS_BEFORE, R(cache_changes_no_semantics), R(cache_changes_no_semantics));
		}
}

/* As it is found: the export may be read-only. */
CASE(cache, reads_agree, "READs before and after a CACHE, and of a range cached twice, return the same",
     R(cache_changes_no_semantics), R(cache_no_payload))
{
	uint32_t length;
	uint8_t *before;

	enter_to_cache(t);
	length = blocks(t, 8192);
	need_range(t, 0, length);
	before = room(length);
	read_served(t, 0, length, before, R(read_returns_data));
	for (unsigned i = 0; i < 3; i++) {
		observe_failure(t, cache(t, 0, length));
		expect_stored(t, 0, before, length, R(cache_changes_no_semantics));
	}
	observe_failure(t, cache(t, 0, unit_of(t)));
	expect_stored(t, 0, before, length, R(cache_changes_no_semantics));
}

/* The cache's copy must not outlive what it is a copy of. */
static void
change_cached(struct test *t, uint16_t type, bool beside)
{
	uint32_t each = blocks(t, 4096);
	struct session *first = t->s, *writer = t->s;
	uint8_t *data = room(4 * each);

	need_writable(t);
	need_range(t, 0, 4 * each);
	if (beside) {
		need_flag(t, NBD_FLAG_CAN_MULTI_CONN);
		if (!enter_beside(t))
			return;
		writer = t->s;
		use(t, first);
	}
	fill_pattern(data, 4 * each, 0, 20);
	store(t, 0, data, 4 * each, R(write_stored));
	observe_failure(t, cache(t, 0, 4 * each));
	expect_stored(t, 0, data, 4 * each, R(cache_changes_no_semantics));
	use(t, writer);
	if (type == NBD_CMD_WRITE) {
		fill_pattern(data + each, 2 * each, each, 21);
		write_served(t, each, 2 * each, data + each, R(cache_changes_no_semantics));
	} else {
		need_flag(t, NBD_FLAG_SEND_WRITE_ZEROES);
		zeroes_served(t, 0, (struct range){ each, 2 * each });
		memset(data + each, 0, 2 * each);
	}
	use(t, first);
	expect_stored(t, 0, data, 4 * each, R(cache_changes_no_semantics));
}

CASE(cache, then_written, "What is written, or zeroed, in a range that was cached is what is read there",
     R(cache_changes_no_semantics), R(cache_may_speed_up), R(cache_may_reply_early))
{
	POINT(t, "WRITE") {
		enter_to_cache(t);
		change_cached(t, NBD_CMD_WRITE, false);
	}
	POINT(t, "WRITE_ZEROES") {
		enter_to_cache(t);
		change_cached(t, NBD_CMD_WRITE_ZEROES, false);
	}
	POINT(t, "WRITE,another-connection") {
		enter_to_cache(t);
		change_cached(t, NBD_CMD_WRITE, true);
	}
}

CASE(cache, structured, "With structured replies a CACHE is answered once, without data, and alters nothing",
     R(cache_changes_no_semantics), R(content_chunks_only_for_read), R(cache_may_be_void))
{
	static const struct place some[] = { { 0, 4096 }, { 65536, 131072 }, { -4096, 4096 } };

	for (unsigned i = 0; i < 3; i++)
		POINT(t, "offset=%" PRId64 ",length=%" PRIu32, some[i].offset, some[i].length) {
			uint8_t *before;
			struct range r;

			enter_structured(t);
			need_flag(t, NBD_FLAG_SEND_CACHE);
			r = range_at(t, some[i]);
			before = room(r.length);
			for (uint32_t at = 0; at < r.length; at += blocks(t, 4096))
				read_served(t, r.offset + at, blocks(t, 4096), before + at, R(read_returns_data));
			observe_failure(t, cache(t, r.offset, r.length));
			expect_stored(t, r.offset, before, r.length, R(cache_changes_no_semantics));
			expect_in_step(t, R(cache_changes_no_semantics));
		}
}

/* ---- what is refused ---- */

/* "Appropriate" is hardly more than what the protocol knows as an error at all; which one is EINVAL, by a SHOULD. */
static void
cache_beyond(struct test *t, enum beyond where)
{
	struct sent q;
	struct range range;
	struct simple_reply r;
	uint32_t length;
	uint8_t *before;

	enter_to_cache(t);
	length = blocks(t, 4096);
	need_range(t, 0, length);
	before = room(length);
	read_served(t, 0, length, before, R(read_returns_data));
	range = range_beyond(t, where);
	q = send_command(t, 0, NBD_CMD_CACHE, range.offset, range.length, NULL);
	if (!peer_goes_on(t, R(each_request_one_reply))) {
		deviates(t, R(unaligned_or_past_end_einval), "a reply with NBD_EINVAL", "the connection was closed");
		expect_next_served(t);
		return;
	}
	r = recv_simple_header(t, R(each_request_one_reply));
	EXPECT_EQ(t, R(cookie_echoed), r.cookie, q.cookie);
	EXPECT(t, R(cache_error_code), r.error == NBD_SUCCESS || name_of(NAME_ERROR, r.error) != NULL,
	       "a CACHE past the end gets error %" PRIu32 ", which is none of the protocol's", r.error);
	if (!in_step_or_gone(t, r.error == NBD_SUCCESS ? R(cache_no_payload) : R(cache_changes_no_semantics)))
		return;
	expect_stored(t, 0, before, length, R(cache_changes_no_semantics));
	/* A command that has no effect has none there either (proto.md:2145). */
	if (r.error == NBD_SUCCESS)
		observe(t, R(cache_may_be_void), "a CACHE past the end succeeds");
	else
		EXPECT_ERROR(t, R(unaligned_or_past_end_einval), r.error, NBD_EINVAL);
}

CASE(cache, past_the_end, "A CACHE past the end gets an error of the protocol's, and READs go on as if it had not been",
     R(cache_error_code), R(cache_changes_no_semantics), R(unaligned_or_past_end_einval), R(each_request_one_reply),
     R(cache_no_payload))
{
	for (enum beyond b = 0; b < BEYOND_KINDS; b++)
		POINT(t, "%s", beyond_name(b))
			cache_beyond(t, b);
}

/* Of our flags those that the text knows nowhere: it speaks of flags that the server "does not recognize". */
CASE(cache, unknown_flags, "A CACHE with a command flag that nobody knows is refused, and the next request is served",
     R(cache_rejects_unknown_flags), R(unknown_command_flag_einval), R(each_request_one_reply))
{
	static const uint16_t flags[] = { 0x40, 0x100, 0x2000, 0x8000, 0xffc0 };

	for (unsigned i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		POINT(t, "flags=0x%04x", flags[i]) {
			uint32_t length, error;
			uint8_t *before;

			enter_to_cache(t);
			length = blocks(t, 4096);
			need_range(t, 0, length);
			before = room(length);
			read_served(t, 0, length, before, R(read_returns_data));
			error = venture(t, flags[i], NBD_CMD_CACHE, 0, length);
			if (error == GONE) {
				deviates(t, R(unknown_command_flag_einval), "a reply with NBD_EINVAL",
				         "the connection was closed");
				continue;
			}
			EXPECT(t, R(cache_rejects_unknown_flags), error != NBD_SUCCESS,
			       "a CACHE with command flags 0x%04x succeeds", flags[i]);
			EXPECT_ERROR(t, R(unknown_command_flag_einval), error, NBD_EINVAL);
			expect_stored(t, 0, before, length, R(cache_changes_no_semantics));
		}
}

CASE(cache, inapplicable_flags, "A CACHE with a command flag of another command gets NBD_EINVAL",
     R(inapplicable_flag_einval), R(each_request_one_reply))
{
	static const struct {
		const char *name;
		uint16_t flags;
	} points[] = {
		{ "NO_HOLE", NBD_CMD_FLAG_NO_HOLE },
		{ "DF", NBD_CMD_FLAG_DF },
		{ "REQ_ONE", NBD_CMD_FLAG_REQ_ONE },
		{ "FAST_ZERO", NBD_CMD_FLAG_FAST_ZERO },
	};

	for (unsigned i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		POINT(t, "%s", points[i].name) {
			uint32_t error;

			enter_to_cache(t);
			need_range(t, 0, blocks(t, 4096));
			in_step(t, R(read_returns_data));
			error = venture(t, points[i].flags, NBD_CMD_CACHE, 0, blocks(t, 4096));
			if (error == GONE)
				deviates(t, R(inapplicable_flag_einval), "a reply with NBD_EINVAL",
				         "the connection was closed");
			else
				EXPECT_ERROR(t, R(inapplicable_flag_einval), error, NBD_EINVAL);
		}
}
