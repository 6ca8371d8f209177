/* TRIM, WRITE_ZEROES and CACHE together: far and long ranges, many at once, and what they have to do with one another. */
#include "cases/server/effects.h"

#include "harness/clock.h"

#include <inttypes.h>
#include <string.h>

/* ---- shared ---- */

const struct place places[N_PLACES] = {
	{ 0, 512 },       { 1, 511 },         { 4095, 4098 }, { 4096, 4096 },
	{ 65537, 70000 }, { 65536, 1 << 20 }, { -1, 1 },      { -70000, 70000 },
};
const struct place far_places[N_FAR] = {
	{ (17 << 20) + 4096, 8192 },         { (48 << 20) + 65536, 8192 },         { (INT64_C(1) << 31) - 4096, 8192 },
	{ (INT64_C(1) << 32) - 4096, 8192 }, { (INT64_C(1) << 32) + 65536, 8192 }, { (INT64_C(1) << 41) + 65536, 8192 },
};

struct range
range_at(struct test *t, struct place p)
{
	uint64_t least = p.offset < 0 ? (uint64_t)-p.offset : (uint64_t)p.offset + p.length;
	uint64_t offset;

	need_size(t, least);
	offset = p.offset < 0 ? usable_size(t) - (uint64_t)-p.offset : (uint64_t)p.offset;
	if (offset % unit_of(t) != 0 || p.length % unit_of(t) != 0)
		skip(t, "small blocks", "the export's minimum block size is %" PRIu32, unit_of(t));
	return (struct range){ offset, p.length };
}

static uint64_t
block_of(const struct test *t)
{
	return unit_of(t) > 4096 ? unit_of(t) : 4096;
}

/* In whole blocks; none where the export ends before. */
static void
add_patch(struct test *t, struct scene *s, uint64_t first, uint64_t end)
{
	uint64_t block = block_of(t), from = first / block * block, to = (end + block - 1) / block * block;

	if (first >= usable_size(t) || s->n == PATCHES)
		return;
	to = to <= usable_size(t) ? to : usable_size(t);
	for (unsigned i = 0; i < s->n; i++)
		if (s->at[i].from <= from && s->at[i].from + s->at[i].length >= to)
			return;
	s->at[s->n++] = (struct patch){ from, (uint32_t)(to - from), NULL };
}

static void
add_block(struct test *t, struct scene *s, uint64_t offset)
{
	add_patch(t, s, offset, offset + 1);
}

static void
choose_patches(struct test *t, struct scene *s)
{
	static const unsigned within[] = { 24, 25, 30, 31 };
	uint64_t offset = s->range.offset, length = s->range.length, end = offset + length, block = block_of(t);
	uint64_t before = offset >= block ? offset - block : 0;

	if (length <= 128 << 10)
		add_patch(t, s, before, end + block);
	add_patch(t, s, before, offset + 1);
	add_patch(t, s, end - 1, end + block);
	add_block(t, s, offset + length / 2);
	for (unsigned i = 0; i < sizeof(within) / sizeof(within[0]); i++)
		if (length >> within[i] > 0)
			add_block(t, s, offset + (UINT64_C(1) << within[i]));
	/* Where another reading of the range leads to. */
	add_block(t, s, 0);
	add_block(t, s, offset & UINT32_MAX);
	add_block(t, s, offset & INT32_MAX);
	add_block(t, s, offset & 0xffffff);
	add_block(t, s, offset / 512);
	add_block(t, s, end + length);
	add_block(t, s, offset >= length ? offset - length : 0);
	add_block(t, s, usable_size(t) - 1);
}

struct scene
paint_scene(struct test *t, struct range range, unsigned seed)
{
	struct scene s = { .range = range };

	/* Byte by byte it would take too long. */
	if (t->s->block.maximum < block_of(t))
		skip(t, "large payloads", "the export's maximum payload size is %" PRIu32, t->s->block.maximum);
	choose_patches(t, &s);
	for (unsigned i = 0; i < s.n; i++) {
		struct patch *p = &s.at[i];

		p->was = room(p->length);
		fill_pattern(p->was, p->length, p->from, seed);
		/* A pattern's byte may be zero; these shall not be. */
		for (uint32_t k = 0; k < p->length; k++)
			p->was[k] |= (uint8_t)(1u << (p->from + k) % 8);
		store(t, p->from, p->was, p->length, R(write_stored));
	}
	return s;
}

static uint8_t *
read_patch(struct test *t, const struct patch *p, enum requirement_id r)
{
	uint32_t most = longest_payload(t) < 65536 ? longest_payload(t) : 65536;
	uint8_t *data = room(p->length);

	for (uint32_t at = 0, n; at < p->length; at += n) {
		n = p->length - at < most ? p->length - at : most;
		read_served(t, p->from + at, n, data + at, r);
	}
	return data;
}

void
expect_scene(struct test *t, const struct scene *s, enum inside inside, enum requirement_id outside,
             enum requirement_id within)
{
	for (unsigned i = 0; i < s->n; i++) {
		const struct patch *p = &s->at[i];
		uint8_t *data = read_patch(t, p, within), *want = room(p->length);

		memcpy(want, p->was, p->length);
		for (uint32_t k = 0; k < p->length; k++)
			if (p->from + k >= s->range.offset && p->from + k - s->range.offset < s->range.length)
				want[k] = data[k];
		expect_data(t, outside, data, want, p->length, p->from);
		for (uint32_t k = 0; k < p->length && inside != ANYTHING; k++)
			if (p->from + k >= s->range.offset && p->from + k - s->range.offset < s->range.length)
				want[k] = inside == ZEROES ? 0 : p->was[k];
		expect_data(t, within, data, want, p->length, p->from);
	}
}

void
goes_on(struct test *t, enum requirement_id r)
{
	if (t->s->structured)
		expect_in_step(t, r);
	else
		in_step(t, r);
}

uint32_t
venture(struct test *t, uint16_t flags, uint16_t type, uint64_t offset, uint32_t length)
{
	struct sent q = send_command(t, flags, type, offset, length, NULL);
	uint32_t error;

	if (peer_goes_on(t, R(each_request_one_reply))) {
		error = recv_reply(t, &q, R(each_request_one_reply)).error;
		if (t->s->structured)
			expect_in_step(t, R(request_payload_consumed));
		else if (!in_step_or_gone(t, R(request_payload_consumed)))
			return GONE;
		return error;
	}
	expect_next_served(t);
	return GONE;
}

bool
is_refusal(uint32_t error)
{
	return error == NBD_EINVAL || error == NBD_ENOTSUP || error == NBD_EOVERFLOW || error == NBD_EPERM;
}

/* proto.md:869-874 */
static bool
is_too_long(struct test *t, struct range range, uint32_t error)
{
	return range.length > t->s->block.maximum && (error == NBD_EINVAL || error == NBD_EOVERFLOW);
}

static void
skip_too_long(struct test *t, const char *what, struct range range, uint32_t error)
{
	if (!is_too_long(t, range, error))
		return;
	observe(t, R(long_effect_refused), "%s of %" PRIu32 " bytes gets error %" PRIu32, what, range.length, error);
	skip(t, "long effects", "%s of %" PRIu32 " bytes gets error %" PRIu32, what, range.length, error);
}

/*
 * Who refuses even a plain request for whole blocks does not know the command. That is for the one case to say which is
 * about it (`first_hand`); the others have nothing to look at.
 */
static void
expect_known(struct test *t, uint16_t type, uint16_t flags, struct range range, uint32_t error, bool first_hand)
{
	const char *name = type == NBD_CMD_TRIM ? "TRIM" : "WRITE_ZEROES";
	bool is_plain = flags == 0 && range.length <= 65536 && (range.offset | range.length) % block_of(t) == 0;

	skip_too_long(t, name, range, error);
	if (!is_refusal(error) || (is_plain && first_hand) || t->s->size < block_of(t))
		return;
	if (is_refusal(do_command(t, 0, type, 0, (uint32_t)block_of(t), R(each_request_one_reply))))
		skip(t, name, "%s is refused whatever its range is: error %" PRIu32, name, error);
}

static void
trim(struct test *t, uint16_t flags, struct range range, bool first_hand)
{
	uint32_t error = do_command(t, flags, NBD_CMD_TRIM, range.offset, range.length, R(trim_supported));

	expect_known(t, NBD_CMD_TRIM, flags, range, error, first_hand);
	if (is_refusal(error))
		expect_served(t, range.offset, range.length, error, R(trim_supported));
	if (error != NBD_SUCCESS)
		skip(t, "TRIM", "the storage fails TRIM: error %" PRIu32, error);
}

void
trim_judged(struct test *t, struct range range)
{
	trim(t, 0, range, true);
}

void
trim_served(struct test *t, struct range range)
{
	trim(t, 0, range, false);
}

static void
zero(struct test *t, uint16_t flags, struct range range, bool first_hand)
{
	bool told = (t->s->flags & NBD_FLAG_SEND_FAST_ZERO) != 0;
	uint32_t error = do_command(t, flags, NBD_CMD_WRITE_ZEROES, range.offset, range.length, R(zeroes_stored));

	EXPECT(t, told ? R(unset_fast_zero_not_enotsup) : R(unadvertised_fast_zero_not_enotsup), error != NBD_ENOTSUP,
	       "a WRITE_ZEROES without NBD_CMD_FLAG_FAST_ZERO gets NBD_ENOTSUP");
	expect_known(t, NBD_CMD_WRITE_ZEROES, flags, range, error, first_hand);
	expect_served(t, range.offset, range.length, error,
	              (flags & NBD_CMD_FLAG_NO_HOLE) != 0 ? R(no_hole_supported) : R(zeroes_stored));
}

void
zeroes_judged(struct test *t, struct range range)
{
	zero(t, 0, range, true);
}

void
zeroes_served(struct test *t, uint16_t flags, struct range range)
{
	zero(t, flags, range, false);
}

void
flush_served(struct test *t)
{
	uint32_t error = do_command(t, 0, NBD_CMD_FLUSH, 0, 0, R(flush_supported));

	if (error != NBD_SUCCESS)
		skip(t, "FLUSH", "FLUSH gets error %" PRIu32, error);
}

void
need_expendable(struct test *t)
{
	uint16_t flags = t->s->flags;

	t->s->flags &= (uint16_t)~NBD_FLAG_READ_ONLY;
	need_writable(t);
	t->s->flags = flags;
}

/* ---- far and long ---- */

static const struct effect {
	const char *name;
	uint16_t type, flag;
	bool writes;
	enum inside inside;
	enum requirement_id outside, within;
} effects[] = {
	{ "TRIM", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, true, ANYTHING, R(trim_keeps_outside), R(trim_keeps_outside) },
	{ "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, true, ZEROES, R(zeroes_stored),
	  R(zeroes_stored) },
	{ "CACHE", NBD_CMD_CACHE, NBD_FLAG_SEND_CACHE, false, AS_BEFORE, R(cache_changes_no_semantics),
	  R(cache_changes_no_semantics) },
};
enum { N_EFFECTS = sizeof(effects) / sizeof(effects[0]) };

static void
enter_for(struct test *t, const struct effect *e)
{
	enter_transmission(t);
	need_flag(t, e->flag);
	need_writable(t);
}

static void
carry_out(struct test *t, const struct effect *e, struct range range)
{
	if (e->type == NBD_CMD_TRIM)
		trim_served(t, range);
	else if (e->type == NBD_CMD_WRITE_ZEROES)
		zeroes_served(t, 0, range);
	else
		do_command(t, 0, e->type, range.offset, range.length, R(each_request_one_reply)); /* it may fail */
}

static void
affect(struct test *t, const struct effect *e, struct range range, unsigned seed)
{
	struct scene s = paint_scene(t, range, seed);

	carry_out(t, e, range);
	goes_on(t, R(request_payload_consumed));
	expect_scene(t, &s, e->inside, e->outside, e->within);
}

CASE(effects, far_offsets,
     "TRIM, WRITE_ZEROES and CACHE far into the export act there and nowhere else, whatever bits of the offset are set",
     R(trim_keeps_outside), R(zeroes_stored), R(cache_changes_no_semantics), R(request_payload_consumed))
{
	for (unsigned i = 0; i < N_EFFECTS; i++)
		for (unsigned k = 0; k < N_FAR; k++)
			POINT(t, "%s,offset=%" PRId64, effects[i].name, far_places[k].offset) {
				enter_for(t, &effects[i]);
				affect(t, &effects[i], range_at(t, far_places[k]), 50 + i);
			}
}

/* Whoever writes zeroes one by one would need more time, or more space, than anybody has for a test. */
static void
need_fast_zeroes(struct test *t)
{
	enum { SAMPLE = 128 << 20, MOST_MS = 200 };
	struct range sample = { 0, SAMPLE };
	int64_t from = now_ms();

	need_size(t, SAMPLE);
	zeroes_served(t, 0, sample);
	if (now_ms() - from > MOST_MS)
		skip(t, "fast zeroes", "a WRITE_ZEROES of 128 MiB takes %d ms", (int)(now_ms() - from));
}

static void
affect_long(struct test *t, const struct effect *e, uint32_t length)
{
	bool is_huge = length > 1u << 30;
	struct range range;

	enter_for(t, e);
	length -= length % unit_of(t);
	range = range_at(t, (struct place){ 2 * (int64_t)block_of(t), length });
	if (is_huge && e->type == NBD_CMD_CACHE)
		skip(t, "a cache of gigabytes", "it may take as long as to read them all");
	if (is_huge && e->type == NBD_CMD_WRITE_ZEROES)
		need_fast_zeroes(t);
	affect(t, e, range, 60);
}

CASE(effects, long_ranges,
     "TRIM, WRITE_ZEROES and CACHE of more than 32 MiB, and of up to 4 GiB, act on just that range, or are refused",
     R(trim_keeps_outside), R(zeroes_stored), R(cache_changes_no_semantics), R(long_effect_refused),
     R(request_payload_consumed))
{
	static const uint32_t lengths[] = { (32u << 20) + 65536, 1u << 31, (1u << 31) + 65536, UINT32_MAX - 65535 };

	for (unsigned i = 0; i < N_EFFECTS; i++)
		for (unsigned k = 0; k < sizeof(lengths) / sizeof(lengths[0]); k++)
			POINT(t, "%s,length=%" PRIu32, effects[i].name, lengths[k])
				affect_long(t, &effects[i], lengths[k]);
}

/* ---- length 0 ---- */

/* What it does is not specified (proto.md:2104, 2154), but that the connection should stay. */
static void
affect_nothing(struct test *t, const struct effect *e, enum requirement_id stays, bool structured)
{
	struct sent q;
	uint32_t error;

	if (structured)
		enter_structured(t);
	else
		enter_transmission(t);
	need_flag(t, e->flag);
	if (e->writes)
		need_writable(t);
	goes_on(t, R(read_returns_data));
	q = send_command(t, 0, e->type, 0, 0, NULL);
	if (!peer_goes_on(t, R(each_request_one_reply))) {
		deviates(t, stays, "a reply, and the connection stays", "the connection was closed");
		expect_next_served(t);
		return;
	}
	error = recv_reply(t, &q, R(each_request_one_reply)).error;
	if (error != NBD_SUCCESS)
		observe(t, stays, "%s of length 0 gets error %" PRIu32, e->name, error);
	if (t->s->structured) {
		expect_in_step(t, stays);
		return;
	}
	if (probe(t, R(request_payload_consumed)))
		return;
	deviates(t, stays, "the connection stays", "the connection was closed");
	expect_next_served(t);
}

CASE(effects, length_zero,
     "TRIM, WRITE_ZEROES and CACHE of length 0 are answered in one way or another, and the connection stays",
     R(trim_zero_no_disconnect), R(zeroes_empty_no_disconnect), R(transmission_no_disconnect),
     R(each_request_one_reply), R(request_payload_consumed))
{
	static const enum requirement_id stays[N_EFFECTS] = { R(trim_zero_no_disconnect), R(zeroes_empty_no_disconnect),
		                                              R(transmission_no_disconnect) };

	for (unsigned i = 0; i < N_EFFECTS; i++) {
		POINT(t, "%s", effects[i].name)
			affect_nothing(t, &effects[i], stays[i], false);
		POINT(t, "%s,structured", effects[i].name)
			affect_nothing(t, &effects[i], stays[i], true);
	}
}

/* ---- one after another ---- */

enum { SLOTS = 8 };

struct step {
	uint16_t type;
	uint8_t from, to; /* slots */
};

static void
take_step(struct test *t, const struct step *s, uint8_t *data, uint8_t *known, uint32_t each, unsigned seed)
{
	uint32_t at = s->from * each, length = (uint32_t)(s->to - s->from) * each;
	struct range range = { at, length };

	if (s->type == NBD_CMD_WRITE) {
		fill_pattern(data + at, length, at, seed);
		write_served(t, at, length, data + at, R(write_stored));
	} else if (s->type == NBD_CMD_WRITE_ZEROES && (t->s->flags & NBD_FLAG_SEND_WRITE_ZEROES) != 0) {
		zeroes_served(t, 0, range);
		memset(data + at, 0, length);
	} else if (s->type == NBD_CMD_TRIM && (t->s->flags & NBD_FLAG_SEND_TRIM) != 0) {
		trim_served(t, range);
	} else if (s->type == NBD_CMD_CACHE && (t->s->flags & NBD_FLAG_SEND_CACHE) != 0) {
		do_command(t, 0, NBD_CMD_CACHE, at, length, R(each_request_one_reply));
		return;
	} else {
		return;
	}
	memset(known + at, s->type != NBD_CMD_TRIM, length);
}

/* A TRIM that is carried out late would take away what was written since. */
CASE(effects, overlapping,
     "Of WRITE, WRITE_ZEROES and TRIM that overlap, each sent once the one before was answered, the last one counts",
     R(write_stored), R(zeroes_stored), R(trim_keeps_outside), R(cache_changes_no_semantics))
{
	static const struct step steps[] = {
		{ NBD_CMD_WRITE, 0, 8 },        { NBD_CMD_CACHE, 0, 8 },        { NBD_CMD_TRIM, 1, 7 },
		{ NBD_CMD_WRITE, 2, 6 },        { NBD_CMD_WRITE_ZEROES, 3, 5 }, { NBD_CMD_CACHE, 2, 6 },
		{ NBD_CMD_WRITE, 4, 6 },        { NBD_CMD_TRIM, 5, 6 },         { NBD_CMD_WRITE_ZEROES, 5, 6 },
		{ NBD_CMD_WRITE_ZEROES, 0, 1 }, { NBD_CMD_WRITE, 0, 1 },        { NBD_CMD_WRITE_ZEROES, 7, 8 },
	};
	uint8_t *data, *known, *got;
	uint32_t each;

	enter_transmission(t);
	need_writable(t);
	each = blocks(t, 4096);
	need_range(t, 0, SLOTS * each);
	data = room(SLOTS * each);
	known = room(SLOTS * each);
	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		take_step(t, &steps[i], data, known, each, 70 + i);
	got = room(SLOTS * each);
	for (uint32_t k = 0; k < SLOTS; k++) {
		read_served(t, k * each, each, got + k * each, R(read_returns_data));
		if (known[k * each])
			expect_data(t, R(write_stored), got + k * each, data + k * each, each, k * each);
	}
}

/* ---- many at once ---- */

enum { FLIGHT = 48 };

/* Each acts on a slot of its own, so that their order means nothing. */
static uint16_t
command_of(const struct test *t, unsigned i)
{
	static const uint16_t cycle[] = { NBD_CMD_WRITE_ZEROES, NBD_CMD_WRITE, NBD_CMD_TRIM,
		                          NBD_CMD_READ,         NBD_CMD_CACHE, NBD_CMD_FLUSH };
	static const uint16_t flags[] = { NBD_FLAG_SEND_WRITE_ZEROES, 0, NBD_FLAG_SEND_TRIM, 0, NBD_FLAG_SEND_CACHE,
		                          NBD_FLAG_SEND_FLUSH };

	/* Nobody takes the replies before all is sent: few enough bytes of READ that they fit into the socket. */
	if (cycle[i % 6] == NBD_CMD_READ && blocks(t, 4096) > 8192)
		return NBD_CMD_WRITE;
	return (t->s->flags & flags[i % 6]) == flags[i % 6] ? cycle[i % 6] : NBD_CMD_WRITE;
}

static enum requirement_id
owed_by(uint16_t type)
{
	return type == NBD_CMD_WRITE_ZEROES ? R(zeroes_stored)
	       : type == NBD_CMD_TRIM       ? R(trim_keeps_outside)
	       : type == NBD_CMD_CACHE      ? R(cache_changes_no_semantics)
	       : type == NBD_CMD_WRITE      ? R(write_stored)
	                                    : R(read_returns_data);
}

static void
send_flight(struct test *t, struct sent *q, uint8_t *data, uint32_t each)
{
	for (unsigned i = 0; i < FLIGHT; i++) {
		uint16_t type = command_of(t, i);

		if (type == NBD_CMD_WRITE)
			fill_pattern(data + i * each, each, i * each, 81);
		q[i] = send_command(t, 0, type, type == NBD_CMD_FLUSH ? 0 : i * each, type == NBD_CMD_FLUSH ? 0 : each,
		                    type == NBD_CMD_WRITE ? data + i * each : NULL);
		if (type == NBD_CMD_WRITE_ZEROES)
			memset(data + i * each, 0, each);
	}
}

static void
fly(struct test *t)
{
	uint32_t each = blocks(t, 4096);
	struct reply r[FLIGHT];
	struct sent q[FLIGHT];
	uint8_t *data, *got;

	need_writable(t);
	need_range(t, 0, each);
	need_size(t, (uint64_t)FLIGHT * each);
	data = room((size_t)FLIGHT * each);
	got = room(each);
	fill_pattern(data, (size_t)FLIGHT * each, 0, 80);
	if ((t->s->flags & NBD_FLAG_SEND_WRITE_ZEROES) != 0)
		zeroes_served(t, 0, (struct range){ 0, each });
	store(t, 0, data, (size_t)FLIGHT * each, R(write_stored));
	send_flight(t, q, data, each);
	recv_replies(t, q, r, FLIGHT, R(each_request_one_reply));
	goes_on(t, R(each_request_one_reply));
	for (unsigned i = 0; i < FLIGHT; i++) {
		enum requirement_id owed = owed_by(q[i].type);

		if (q[i].type == NBD_CMD_WRITE_ZEROES || q[i].type == NBD_CMD_WRITE || q[i].type == NBD_CMD_READ)
			EXPECT_ERROR(t, owed, r[i].error, NBD_SUCCESS);
		if (q[i].type == NBD_CMD_READ)
			expect_data(t, R(read_returns_data), r[i].data, data + i * each, each, i * each);
		read_served(t, i * each, each, got, owed);
		if (q[i].type != NBD_CMD_TRIM)
			expect_data(t, owed, got, data + i * each, each, i * each);
	}
}

CASE(effects, in_flight,
     "Of TRIM, WRITE_ZEROES, CACHE, READ, WRITE and FLUSH in flight together each is answered once, and acts on its "
     "own "
     "range only",
     R(each_request_one_reply), R(cookie_echoed), R(zeroes_stored), R(trim_keeps_outside),
     R(cache_changes_no_semantics), R(write_stored), R(read_returns_data), R(commands_any_order), R(replies_any_order),
     R(write_may_reply_before_stable), R(zeroes_may_reply_before_stable))
{
	POINT(t, "simple") {
		enter_transmission(t);
		fly(t);
	}
	POINT(t, "structured") {
		enter_structured(t);
		fly(t);
	}
}

/* ---- what is refused ---- */

struct misuse {
	const char *name;
	uint16_t type, flag, flags;
	bool unknown;
};

static void
misuse(struct test *t, const struct misuse *m)
{
	enum requirement_id should = m->unknown ? R(unknown_command_flag_einval) : R(inapplicable_flag_einval);
	uint32_t length, error;
	uint8_t *data;

	enter_transmission(t);
	need_flag(t, m->flag);
	need_writable(t);
	length = blocks(t, 4096);
	need_range(t, 0, 3 * length);
	data = room(3 * length);
	fill_pattern(data, 3 * length, 0, 90);
	store(t, 0, data, 3 * length, R(write_stored));
	in_step(t, R(read_returns_data));
	error = venture(t, m->flags, m->type, length, length);
	if (error == GONE) {
		deviates(t, should, "a reply with NBD_EINVAL", "the connection was closed");
		return;
	}
	expect_stored(t, 0, data, length, R(trim_keeps_outside));
	expect_stored(t, 2 * length, data + 2 * length, length, R(trim_keeps_outside));
	EXPECT_ERROR(t, should, error, NBD_EINVAL);
}

/* CACHE's flags stand in cache.c, READ's, WRITE's and FLUSH's in request.c. */
CASE(effects, misused_flags,
     "TRIM and WRITE_ZEROES with a flag that is unknown, or that is another command's, get NBD_EINVAL",
     R(inapplicable_flag_einval), R(unknown_command_flag_einval), R(each_request_one_reply),
     R(request_payload_consumed))
{
	static const struct misuse points[] = {
		{ "TRIM,NO_HOLE", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, NBD_CMD_FLAG_NO_HOLE, false },
		{ "TRIM,FAST_ZERO", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, NBD_CMD_FLAG_FAST_ZERO, false },
		{ "TRIM,REQ_ONE", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, NBD_CMD_FLAG_REQ_ONE, false },
		{ "TRIM,flags=0x40", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, 0x40, true },
		{ "TRIM,flags=0x8000", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, 0x8000, true },
		{ "WRITE_ZEROES,DF", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, NBD_CMD_FLAG_DF, false },
		{ "WRITE_ZEROES,REQ_ONE", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, NBD_CMD_FLAG_REQ_ONE,
		  false },
		{ "WRITE_ZEROES,flags=0x40", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, 0x40, true },
		{ "WRITE_ZEROES,flags=0x8000", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, 0x8000, true },
	};

	for (unsigned i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		POINT(t, "%s", points[i].name)
			misuse(t, &points[i]);
}

/* proto.md:2337-2356; which error is right for what, other cases say. */
static void
expect_kept_errors(struct test *t, const struct effect *e, enum beyond where)
{
	struct range range;
	uint32_t error;

	enter_transmission(t);
	need_flag(t, e->flag);
	if (e->writes)
		need_writable(t);
	range = range_beyond(t, where);
	error = venture(t, 0, e->type, range.offset, range.length);
	if (error == GONE)
		return;
	EXPECT(t, R(no_eoverflow), error != NBD_EOVERFLOW, "NBD_EOVERFLOW in reply to a %s of %" PRIu32 " bytes",
	       e->name, range.length);
	EXPECT(t, R(no_enotsup), error != NBD_ENOTSUP, "NBD_ENOTSUP in reply to a %s without NBD_CMD_FLAG_FAST_ZERO",
	       e->name);
	EXPECT(t, R(no_enomem), error != NBD_ENOMEM, "NBD_ENOMEM for a %s, which takes no memory", e->name);
}

CASE(effects, errors_are_kept,
     "TRIM, WRITE_ZEROES and CACHE past the end get none of EOVERFLOW, ENOTSUP and ENOMEM, which mean something else",
     R(no_eoverflow), R(no_enotsup), R(no_enomem), R(error_values_listed), R(each_request_one_reply))
{
	for (unsigned i = 0; i < N_EFFECTS; i++) {
		POINT(t, "%s,%s", effects[i].name, beyond_name(BEYOND_AT_END))
			expect_kept_errors(t, &effects[i], BEYOND_AT_END);
		POINT(t, "%s,%s", effects[i].name, beyond_name(BEYOND_WRAPPING))
			expect_kept_errors(t, &effects[i], BEYOND_WRAPPING);
	}
}

/* ---- read-only ---- */

void
venture_read_only(struct test *t, uint16_t type, uint16_t flag, enum requirement_id eperm)
{
	uint32_t length, error;
	uint8_t *data;

	enter_transmission(t);
	if ((t->s->flags & NBD_FLAG_READ_ONLY) == 0)
		skip(t, "read-only", "the export is writable");
	need_expendable(t);
	length = blocks(t, 4096);
	need_range(t, 0, length);
	data = room(length);
	read_served(t, 0, length, data, R(read_returns_data));
	error = venture(t, 0, type, 0, length);
	if (error == GONE) {
		deviates(t, eperm, "a reply with NBD_EPERM", "the connection was closed");
		return;
	}
	expect_stored(t, 0, data, length, R(read_only_errors_writes));
	EXPECT(t, R(read_only_errors_writes), error != NBD_SUCCESS, "%s on a read-only export succeeded",
	       name_of(NAME_COMMAND, type));
	if ((t->s->flags & flag) == 0)
		EXPECT_ERROR(t, eperm, error, NBD_EPERM, NBD_EINVAL);
	else
		EXPECT_ERROR(t, eperm, error, NBD_EPERM);
}
