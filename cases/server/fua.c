/*
 * NBD_CMD_FLAG_FUA and NBD_CMD_FLUSH as far as a client can see them without a power cut (proto.md:319-337, 1722-1737):
 * with the flag a command acts as without it, and what was made durable outlives the connection that asked for it.
 */
#include "cases/server/effects.h"

#include <inttypes.h>
#include <string.h>

static void
enter_with_fua(struct test *t, uint16_t exposed_by)
{
	enter_transmission(t);
	need_flag(t, NBD_FLAG_SEND_FUA);
	if (exposed_by != 0)
		need_flag(t, exposed_by);
	need_writable(t);
}

/* ---- the same effects ---- */

static const struct place some[] = { { 0, 512 }, { 4095, 4098 }, { 65536, 131072 }, { -4096, 4096 }, { -1, 1 } };
enum { N_SOME = sizeof(some) / sizeof(some[0]) };

static void
expect_accepted(struct test *t, struct range range, uint32_t error)
{
	if (error == NBD_EINVAL || error == NBD_ENOTSUP)
		expect_served(t, range.offset, range.length, error, R(fua_accepted));
	if (error != NBD_SUCCESS)
		skip(t, "FUA", "the storage fails the request: error %" PRIu32, error);
}

static void
affect_with_fua(struct test *t, uint16_t type, struct place p, unsigned seed)
{
	bool is_trim = type == NBD_CMD_TRIM;
	enum requirement_id outside = is_trim ? R(trim_keeps_outside) : R(zeroes_stored);
	struct range range = range_at(t, p);
	struct scene s = paint_scene(t, range, seed);

	/* What is refused even without the flag is not refused for it. */
	if (is_trim)
		trim_served(t, range);
	else
		zeroes_served(t, 0, range);
	s = paint_scene(t, range, seed);
	expect_accepted(t, range, do_command(t, NBD_CMD_FLAG_FUA, type, range.offset, range.length, R(fua_accepted)));
	goes_on(t, R(request_payload_consumed));
	expect_scene(t, &s, is_trim ? ANYTHING : ZEROES, outside, is_trim ? R(trim_keeps_outside) : R(fua_supported));
}

CASE(fua, same_effects, "TRIM and WRITE_ZEROES with NBD_CMD_FLAG_FUA act as without it", R(fua_accepted),
     R(fua_supported), R(trim_keeps_outside), R(zeroes_stored), R(fua_may_be_ignored_unwritten),
     R(request_payload_consumed))
{
	for (unsigned i = 0; i < N_SOME; i++) {
		POINT(t, "TRIM,offset=%" PRId64 ",length=%" PRIu32, some[i].offset, some[i].length) {
			enter_with_fua(t, NBD_FLAG_SEND_TRIM);
			affect_with_fua(t, NBD_CMD_TRIM, some[i], 1 + i);
		}
		POINT(t, "WRITE_ZEROES,offset=%" PRId64 ",length=%" PRIu32, some[i].offset, some[i].length) {
			enter_with_fua(t, NBD_FLAG_SEND_WRITE_ZEROES);
			affect_with_fua(t, NBD_CMD_WRITE_ZEROES, some[i], 11 + i);
		}
	}
}

/* A TRIM of what is trimmed already need do nothing, and may then ignore the flag; but not refuse it. */
CASE(fua, nothing_to_do, "A TRIM with NBD_CMD_FLAG_FUA that has nothing to do is accepted too", R(fua_accepted),
     R(fua_may_be_ignored_unwritten))
{
	struct range range;

	enter_with_fua(t, NBD_FLAG_SEND_TRIM);
	range = (struct range){ 0, blocks(t, 4096) };
	need_range(t, 0, range.length);
	for (unsigned i = 0; i < 3; i++) {
		trim_served(t, range);
		expect_accepted(t, range,
		                do_command(t, NBD_CMD_FLAG_FUA, NBD_CMD_TRIM, 0, range.length, R(fua_accepted)));
		in_step(t, R(request_payload_consumed));
	}
}

CASE(fua, with_other_flags, "WRITE_ZEROES with FUA together with NO_HOLE, with FAST_ZERO, and with both, is accepted",
     R(fua_accepted), R(zeroes_stored), R(no_hole_supported), R(fast_zero_enotsup_unaltered))
{
	static const struct {
		const char *name;
		uint16_t flags, exposed_by;
	} points[] = {
		{ "NO_HOLE", NBD_CMD_FLAG_NO_HOLE, 0 },
		{ "FAST_ZERO", NBD_CMD_FLAG_FAST_ZERO, NBD_FLAG_SEND_FAST_ZERO },
		{ "NO_HOLE+FAST_ZERO", NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, NBD_FLAG_SEND_FAST_ZERO },
	};

	for (unsigned i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		POINT(t, "%s", points[i].name) {
			struct range range;
			struct scene s;
			uint32_t error;

			enter_with_fua(t, NBD_FLAG_SEND_WRITE_ZEROES);
			if (points[i].exposed_by != 0)
				need_flag(t, points[i].exposed_by);
			range = range_at(t, (struct place){ 65536, 65536 });
			zeroes_served(t, points[i].flags & NBD_CMD_FLAG_NO_HOLE, range);
			s = paint_scene(t, range, 21 + i);
			error = do_command(t, points[i].flags | NBD_CMD_FLAG_FUA, NBD_CMD_WRITE_ZEROES, range.offset,
			                   range.length, R(fua_accepted));
			goes_on(t, R(request_payload_consumed));
			if ((points[i].flags & NBD_CMD_FLAG_FAST_ZERO) != 0 && error == NBD_ENOTSUP) {
				expect_scene(t, &s, AS_BEFORE, R(fast_zero_enotsup_unaltered),
				             R(fast_zero_enotsup_unaltered));
				continue;
			}
			expect_accepted(t, range, error);
			expect_scene(t, &s, ZEROES, R(zeroes_stored), R(zeroes_stored));
		}
}

/* proto.md:2349 with 1719; READ, WRITE and FLUSH stand in flush.c. We break a MUST (proto.md:1719). */
static void
refuse_fua_on(struct test *t, uint16_t type, uint16_t exposed_by)
{
	struct range range;
	struct scene s;
	uint32_t error;

	enter_transmission(t);
	if ((t->s->flags & NBD_FLAG_SEND_FUA) != 0)
		skip(t, "no FUA", "the export advertises NBD_FLAG_SEND_FUA");
	need_flag(t, exposed_by);
	need_writable(t);
	range = (struct range){ 0, blocks(t, 4096) };
	need_range(t, 0, range.length);
	s = paint_scene(t, range, 31);
	error = venture(t, NBD_CMD_FLAG_FUA, type, 0, range.length);
	if (error == GONE) {
		deviates(t, R(inapplicable_flag_einval), "a reply with NBD_EINVAL", "the connection was closed");
		return;
	}
	expect_scene(t, &s, ANYTHING, R(trim_keeps_outside), R(read_returns_data));
	EXPECT_ERROR(t, R(inapplicable_flag_einval), error, NBD_EINVAL);
}

CASE(fua, unadvertised,
     "Where NBD_FLAG_SEND_FUA is not advertised, TRIM, WRITE_ZEROES and CACHE with it get NBD_EINVAL",
     R(inapplicable_flag_einval), R(each_request_one_reply), R(request_payload_consumed))
{
	POINT(t, "TRIM")
		refuse_fua_on(t, NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM);
	POINT(t, "WRITE_ZEROES")
		refuse_fua_on(t, NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES);
	POINT(t, "CACHE")
		refuse_fua_on(t, NBD_CMD_CACHE, NBD_FLAG_SEND_CACHE);
}

/* ---- other connections ---- */

/* Whether it must be, other cases say. */
static void
need_done(struct test *t, uint32_t error)
{
	if (error != NBD_SUCCESS)
		skip(t, "a write that succeeds", "it gets error %" PRIu32, error);
}

static void
zero_visibly(struct test *t, bool flush)
{
	enum requirement_id r = flush ? R(multi_conn_flush_visible) : R(multi_conn_fua_visible);
	struct session *writer, *reader;
	uint32_t length;
	uint8_t *data;

	enter_transmission(t);
	need_flag(t, NBD_FLAG_CAN_MULTI_CONN);
	need_flag(t, NBD_FLAG_SEND_WRITE_ZEROES);
	need_flag(t, flush ? NBD_FLAG_SEND_FLUSH : NBD_FLAG_SEND_FUA);
	need_writable(t);
	length = blocks(t, 4096);
	need_range(t, 0, length);
	data = room(length);
	fill_pattern(data, length, 0, 41);
	store(t, 0, data, length, R(write_stored));
	writer = t->s;
	if (!enter_beside(t))
		return;
	reader = t->s;
	expect_stored(t, 0, data, length, R(multi_conn_shared_cache));
	use(t, writer);
	need_done(t, do_command(t, flush ? 0 : NBD_CMD_FLAG_FUA, NBD_CMD_WRITE_ZEROES, 0, length, r));
	if (flush)
		flush_served(t);
	use(t, reader);
	expect_stored(t, 0, room(length), length, r);
}

CASE(fua, zeroes_seen_beside,
     "Where NBD_FLAG_CAN_MULTI_CONN is set, a WRITE_ZEROES that was flushed, or had FUA, is seen by other connections",
     R(multi_conn_flush_visible), R(multi_conn_fua_visible), R(multi_conn_shared_cache))
{
	POINT(t, "flushed")
		zero_visibly(t, true);
	POINT(t, "fua")
		zero_visibly(t, false);
}

/* ---- what is left when the client vanishes ---- */

/*
 * Without a power cut, and without NBD_CMD_DISC: what a server keeps for the connection alone is lost with it, and what
 * is lost so easily was on no storage that lasts. First it is seen that a client which takes its leave finds its data
 * again; a server that gives each one a disk of its own promises nothing that could be seen here.
 */
struct vanishing {
	const char *name;
	uint16_t type, flags, exposed_by;
	bool flush;
};

static void
vanish(struct test *t, const struct vanishing *v, enum requirement_id r)
{
	uint32_t length;
	uint8_t *data;

	enter_transmission(t);
	need_connections(t);
	need_writable(t);
	need_flag(t, v->flush ? NBD_FLAG_SEND_FLUSH : NBD_FLAG_SEND_FUA);
	if (v->exposed_by != 0)
		need_flag(t, v->exposed_by);
	length = blocks(t, 4096);
	need_range(t, 0, length);
	data = room(length);
	fill_pattern(data, length, 0, 51);
	store(t, 0, data, length, R(write_stored));
	need_kept(t, 0, data, length);
	fill_pattern(data, length, 0, 52);
	if (v->type == NBD_CMD_WRITE_ZEROES) {
		memset(data, 0, length);
		need_done(t, do_command(t, v->flags, v->type, 0, length, r));
	} else {
		need_done(t, do_write(t, v->flags, 0, length, data, r));
	}
	if (v->flush)
		flush_served(t);
	enter_next(t);
	expect_stored(t, 0, data, length, r);
}

CASE(fua, outlives_the_client, "What was written with NBD_CMD_FLAG_FUA is still there after the client has vanished",
     R(fua_persists), R(fua_before_reply))
{
	static const struct vanishing points[] = {
		{ "WRITE", NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 0, false },
		{ "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FUA, NBD_FLAG_SEND_WRITE_ZEROES, false },
	};

	for (unsigned i = 0; i < 2; i++)
		POINT(t, "%s", points[i].name)
			vanish(t, &points[i], i == 0 ? R(fua_persists) : R(fua_before_reply));
}

CASE(fua, flushed_outlives_the_client, "What was flushed is still there after the client has vanished",
     R(flush_persists), R(flush_before_reply))
{
	static const struct vanishing points[] = {
		{ "WRITE", NBD_CMD_WRITE, 0, 0, true },
		{ "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES, 0, NBD_FLAG_SEND_WRITE_ZEROES, true },
	};

	for (unsigned i = 0; i < 2; i++)
		POINT(t, "%s", points[i].name)
			vanish(t, &points[i], i == 0 ? R(flush_persists) : R(flush_before_reply));
}

/* nbdkit a68c1014: the flush of one connection left what another had written to the other's cache. */
CASE(fua, flush_covers_other_connections,
     "A FLUSH covers what another connection had written before, where NBD_FLAG_CAN_MULTI_CONN is set: it outlives it",
     R(flush_before_reply), R(multi_conn_flush_visible))
{
	struct session *writer, *flusher;
	uint32_t length;
	uint8_t *data;

	enter_transmission(t);
	need_connections(t);
	need_flag(t, NBD_FLAG_CAN_MULTI_CONN);
	need_flag(t, NBD_FLAG_SEND_FLUSH);
	need_writable(t);
	length = blocks(t, 4096);
	need_range(t, 0, length);
	data = room(length);
	fill_pattern(data, length, 0, 55);
	store(t, 0, data, length, R(write_stored));
	need_kept(t, 0, data, length);
	writer = t->s;
	if (!enter_beside(t))
		return;
	flusher = t->s;
	use(t, writer);
	fill_pattern(data, length, 0, 56);
	write_served(t, 0, length, data, R(write_stored));
	use(t, flusher);
	flush_served(t);
	expect_stored(t, 0, data, length, R(multi_conn_flush_visible));
	use(t, writer);
	disconnect(t);
	use(t, flusher);
	expect_stored(t, 0, data, length, R(flush_before_reply));
	enter_next(t);
	expect_stored(t, 0, data, length, R(flush_before_reply));
}
