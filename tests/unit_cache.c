/*
 * The volatile cache over the fake disk: after a power cut every byte must hold what the model allows, and as the policy
 * says; what was never touched must be as it was. Thousands of histories by seed, with data.
 */
#include "fakeserver/cache.h"
#include "harness/history.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SIZE = 40 << 10, COMMANDS = 60 };

static uint64_t seed_state;

static uint64_t
bits(void *arg)
{
	uint64_t z = seed_state += UINT64_C(0x9e3779b97f4a7c15);

	(void)arg;
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static unsigned
below(unsigned n)
{
	return (unsigned)(bits(NULL) % n);
}

/* The disk under test, and what clients see; the model, fed with the same commands. */
struct rig {
	struct disk *disk;
	struct cache *cache;
	struct history *model;
	uint8_t visible[SIZE], first[SIZE];
	uint8_t value[2 * COMMANDS]; /* what command n fills its range with */
	bool limited;                /* the cache destages by itself: the model allows more then */
};

static void
rig_start(struct rig *r, unsigned seed)
{
	struct cache_config config = { .most = seed % 3 == 0 ? below(64 << 10) : CACHE_MOST_DEFAULT,
		                       .tear_unit = 512,
		                       .flush_covers_all = seed % 2 };

	memset(r, 0, sizeof(*r));
	r->limited = seed % 3 == 0;
	r->disk = disk_new(SIZE);
	r->cache = cache_new(r->disk, &config);
	r->model = history_new(config.flush_covers_all, false, &(struct history_owner){ 0 });
}

static void
rig_end(struct rig *r)
{
	cache_free(r->cache);
	history_free(r->model);
	disk_free(r->disk);
	assert_int_equal(disk_memory(), 0);
}

static void
carry_out(struct rig *r, const struct cache_command *m)
{
	enum disk_state failed;

	if (m->kind == CACHED_WRITE)
		assert_true(disk_write(r->disk, m->offset, (size_t)m->length, m->data, &failed));
	else if (m->kind != CACHED_FLUSH)
		disk_zero(r->disk, m->offset, m->length, m->no_hole ? DISK_PROVISIONED : DISK_TRIMMED);
}

/* What is durable at once for want of room is not taken back either: then each byte may be old or new. */
static void
see_failed(struct rig *r, const struct history_command *h, uint8_t value)
{
	static uint8_t is[SIZE];

	disk_read(r->disk, 0, SIZE, is);
	for (uint64_t at = h->offset; r->limited && at < h->offset + h->length; at++) {
		assert_true(is[at] == r->visible[at] || is[at] == value);
		r->visible[at] = is[at];
	}
}

/* One command, which may fail half done. */
static void
command(struct rig *r)
{
	static const enum history_kind kinds[] = { HISTORY_WRITE, HISTORY_ZEROES, HISTORY_TRIM, HISTORY_FLUSH };
	static uint8_t data[SIZE];
	struct cache_command m = { .kind = below(2) == 0 ? CACHED_WRITE : below(4),
		                   .connection = below(2),
		                   .data = data };
	struct history_command h;
	uint64_t told, number;
	bool success = below(8) != 0;

	if (m.kind != CACHED_FLUSH) {
		m.offset = below(SIZE);
		m.length = 1 + below(below(3) == 0 ? SIZE : 6000);
		m.length = m.length < SIZE - m.offset ? m.length : SIZE - m.offset;
		m.fua = below(5) == 0;
		m.no_hole = below(2) == 0;
	}
	h = (struct history_command){ kinds[m.kind], m.fua, m.connection, m.offset, m.length, NULL };
	number = history_receive(r->model, &h);
	r->value[number] = m.kind == CACHED_WRITE ? (uint8_t)number : 0;
	memset(data, r->value[number], (size_t)m.length);
	told = cache_receive(r->cache, &m);
	if (!success)
		m.length /= 2;
	carry_out(r, &m);
	cache_answer(r->cache, told, success, false);
	history_answer(r->model, number, success);
	if (success && h.kind != HISTORY_FLUSH)
		memset(r->visible + m.offset, r->value[number], (size_t)m.length);
	if (!success && h.kind != HISTORY_FLUSH)
		see_failed(r, &h, r->value[number]);
}

static void
expect_visible(struct rig *r)
{
	static uint8_t is[SIZE];

	disk_read(r->disk, 0, SIZE, is);
	assert_memory_equal(is, r->visible, SIZE);
}

static bool
is_legal(const struct rig *r, const struct history_cell *cell, uint64_t at, uint8_t is)
{
	for (unsigned i = 0; i < cell->n; i++) {
		uint64_t number = cell->candidates[i]->number;

		if (is == (number != 0 ? r->value[number] : r->first[at]))
			return true;
	}
	return false;
}

/* Nothing is left that could be lost: the newest of the guaranteed, or what was there first. */
static uint8_t
least(const struct rig *r, const struct history_cell *cell, uint64_t at)
{
	for (unsigned i = cell->n; i-- > 0;)
		if (cell->candidates[i]->guaranteed)
			return r->value[cell->candidates[i]->number];
	return r->first[at];
}

static void
expect_left(struct rig *r, enum cut how)
{
	static uint8_t is[SIZE];
	struct history_cell cell = { .offset = 0, .length = 0 };
	bool more = true;

	disk_read(r->disk, 0, SIZE, is);
	for (uint64_t at = 0; at < SIZE; at++) {
		if (more && at >= cell.offset + cell.length)
			more = history_next(r->model, at, &cell);
		if (!more || at < cell.offset)
			assert_int_equal(is[at], r->visible[at]);
		else if (how == CUT_KEEP)
			assert_int_equal(is[at], r->visible[at]);
		else if (how == CUT_DROP && !r->limited)
			assert_int_equal(is[at], least(r, &cell, at));
		else
			assert_true(is_legal(r, &cell, at, is[at]));
	}
	memcpy(r->visible, is, SIZE);
	memcpy(r->first, is, SIZE);
}

static void
cut(struct rig *r)
{
	enum cut how = below(3);

	cache_cut(r->cache, how, bits, NULL);
	expect_left(r, how);
	history_cut(r->model);
	assert_int_equal(cache_pending(r->cache), 0);
	assert_int_equal(cache_bytes(r->cache), 0);
}

/* What was settled in the model before the last cut is what was visible then: so a settled write becomes the first content. */
static void
note_settled(struct rig *r)
{
	struct history_cell cell = { .offset = 0, .length = 0 };
	bool more = true;

	for (uint64_t at = 0; at < SIZE; at++) {
		if (more && at >= cell.offset + cell.length)
			more = history_next(r->model, at, &cell);
		if (!more || at < cell.offset)
			r->first[at] = r->visible[at];
	}
}

static void
histories(void **state)
{
	static struct rig r;

	(void)state;
	for (unsigned seed = 1; seed <= 1000; seed++) {
		seed_state = seed;
		rig_start(&r, seed);
		for (unsigned i = 0; i < COMMANDS; i++) {
			command(&r);
			note_settled(&r);
			if (below(10) == 0)
				expect_visible(&r);
			if (below(20) == 0)
				cut(&r);
		}
		cut(&r);
		rig_end(&r);
	}
}

/* A large range costs nothing as long as there is nothing in it, and is there again after the cut. */
static void
large_ranges(void **state)
{
	struct disk *d = disk_new(UINT64_C(1) << 62);
	struct cache *c = cache_new(d, &(struct cache_config){ .most = CACHE_MOST_DEFAULT, .tear_unit = 512 });
	struct cache_command zeroes = { .kind = CACHED_ZEROES, .length = UINT64_C(1) << 61 };
	uint8_t data[5000], is[5000];
	enum disk_state failed;

	(void)state;
	memset(data, 'x', sizeof(data));
	assert_true(disk_write(d, UINT64_C(1) << 40, sizeof(data), data, &failed));
	for (unsigned i = 0; i < 3; i++) {
		cache_answer(c, cache_receive(c, &zeroes), true, false);
		disk_zero(d, 0, zeroes.length, DISK_TRIMMED);
	}
	assert_in_range(cache_bytes(c), 1, 1 << 20);
	cache_cut(c, CUT_DROP, bits, NULL);
	disk_read(d, UINT64_C(1) << 40, sizeof(is), is);
	assert_memory_equal(is, data, sizeof(data));
	cache_free(c);
	disk_free(d);
	assert_int_equal(disk_memory(), 0);
}

/* However much is written, no more than the limit is remembered; the oldest is durable then. */
static void
limit(void **state)
{
	enum { MOST = 1 << 20 };
	struct disk *d = disk_new(UINT64_C(1) << 40);
	struct cache *c = cache_new(d, &(struct cache_config){ .most = MOST, .tear_unit = 512 });
	static uint8_t data[4096];
	enum disk_state failed;
	uint8_t is;

	(void)state;
	for (unsigned i = 0; i < 4096; i++) {
		struct cache_command m = {
			.kind = CACHED_WRITE, .offset = i % 1024 * 4096, .length = 4096, .data = data
		};
		uint64_t number = cache_receive(c, &m);

		memset(data, 'a' + (int)(i / 1024), sizeof(data));
		assert_true(disk_write(d, m.offset, m.length, data, &failed));
		cache_answer(c, number, true, false);
		assert_in_range(cache_bytes(c), 0, MOST);
	}
	cache_cut(c, CUT_DROP, bits, NULL);
	disk_read(d, 0, 1, &is);
	assert_int_equal(is, 'd');
	disk_read(d, UINT64_C(1023) * 4096, 1, &is);
	assert_int_equal(is, 'c');
	cache_free(c);
	disk_free(d);
}

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(histories), cmocka_unit_test(large_ranges),
		                            cmocka_unit_test(limit) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
