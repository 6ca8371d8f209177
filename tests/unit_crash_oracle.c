/*
 * The states of crash exploration (harness/crash/) against their definition (design, section 7), written down once more
 * with nothing but loops: small random histories with partial overlaps, every cut, every legal choice in each cell. The
 * sets of images are equal at each crash point, and over all moments.
 */
#include "harness/crash/ladder.h"
#include "harness/random.h"

#include <inttypes.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { DISK = 10, COMMANDS = 6, EVENTS = 2 * COMMANDS, HISTORIES = 10000 };

typedef struct {
	uint8_t bytes[DISK];
} image;

struct images {
	image *at;
	size_t n, room;
};

static void
add_image(struct images *s, const image *i)
{
	if (s->n == s->room) {
		s->room = s->room > 0 ? 2 * s->room : 1024;
		s->at = realloc(s->at, s->room * sizeof(*s->at));
		assert_non_null(s->at);
	}
	s->at[s->n++] = *i;
}

static int
compare_images(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(image));
}

static void
make_set(struct images *s)
{
	size_t kept = 0;

	qsort(s->at, s->n, sizeof(*s->at), compare_images);
	for (size_t i = 0; i < s->n; i++)
		if (kept == 0 || compare_images(&s->at[kept - 1], &s->at[i]) != 0)
			s->at[kept++] = s->at[i];
	s->n = kept;
}

/* ---- a random history ---- */

static uint64_t seed_state;

static unsigned
below(unsigned n)
{
	return (unsigned)(random_next(&seed_state) % n);
}

struct small {
	struct recording recording;
	struct recorded_command commands[COMMANDS + 1];
	struct recorded_event events[EVENTS];
	uint8_t data[COMMANDS + 1][DISK];
	struct tear tear;
};

static struct recorded_command
random_command(struct small *s, unsigned number)
{
	static const enum history_kind kinds[] = { HISTORY_WRITE,  HISTORY_WRITE, HISTORY_WRITE, HISTORY_WRITE,
		                                   HISTORY_ZEROES, HISTORY_TRIM,  HISTORY_FLUSH, HISTORY_FLUSH };
	struct recorded_command c = { .kind = kinds[below(8)], .connection = below(2), .answered = NEVER };

	c.success = below(8) > 0;
	if (c.kind == HISTORY_FLUSH)
		return c;
	c.fua = below(5) == 0;
	c.offset = below(DISK);
	c.length = 1 + below(DISK - (unsigned)c.offset);
	c.data = c.kind == HISTORY_WRITE ? s->data[number] : NULL;
	for (unsigned i = 0; i < DISK; i++)
		s->data[number][i] = (uint8_t)below(3);
	return c;
}

static void
make_small(struct small *s, unsigned seed)
{
	struct recording *r = &s->recording;
	unsigned most, waiting[COMMANDS + 1], n_waiting = 0;

	seed_state = seed;
	most = 2 + below(COMMANDS - 1);
	*r = (struct recording){
		.size = DISK, .minimum = 1, .multi_conn = below(2), .commands = s->commands, .events = s->events
	};
	s->tear = (struct tear){ .whole = seed % 4 == 0, .unit = 1u << (1 + below(3)) };
	while (r->n_commands < most || (n_waiting > 0 && below(6) > 0)) {
		struct recorded_event *e = &s->events[r->n_events];

		if (n_waiting > 0 && (r->n_commands == most || below(2) == 0)) {
			unsigned i = below(n_waiting);

			*e = (struct recorded_event){ EVENT_ANSWERED, waiting[i] };
			waiting[i] = waiting[--n_waiting];
			s->commands[e->which].answered = r->n_events++;
			continue;
		}
		*e = (struct recorded_event){ EVENT_RECEIVED, ++r->n_commands };
		s->commands[e->which] = random_command(s, e->which);
		s->commands[e->which].received = r->n_events++;
		waiting[n_waiting++] = e->which;
	}
	r->begin = below(4) == 0 ? below(r->n_events) : 0;
}

/* ---- the definition ---- */

static bool
happened(uint32_t event, uint32_t at)
{
	return event != NEVER && event < at;
}

static bool
before(const struct recorded_command *a, const struct recorded_command *b)
{
	return a->answered != NEVER && a->answered < b->received;
}

static bool
is_guaranteed(const struct small *s, const struct recorded_command *w, uint32_t at)
{
	if (w->kind == HISTORY_FLUSH || !happened(w->answered, at) || !w->success)
		return false;
	for (uint32_t i = 1; i <= s->recording.n_commands && !w->fua; i++) {
		const struct recorded_command *f = &s->commands[i];

		if (f->kind == HISTORY_FLUSH && f->success && happened(f->answered, at) && before(w, f) &&
		    (s->recording.multi_conn || f->connection == w->connection))
			return true;
	}
	return w->fua;
}

static bool
covers(const struct recorded_command *w, unsigned byte)
{
	return w->kind != HISTORY_FLUSH && w->offset <= byte && byte < w->offset + w->length;
}

/* Something guaranteed came after v (NULL: the blank disk); a TRIM counts only against TRIMs. */
static bool
is_overruled(const struct small *s, const struct recorded_command *v, unsigned byte, uint32_t at)
{
	for (uint32_t i = 1; i <= s->recording.n_commands; i++) {
		const struct recorded_command *g = &s->commands[i];

		if (g != v && covers(g, byte) && is_guaranteed(s, g, at) &&
		    (g->kind != HISTORY_TRIM || (v != NULL && v->kind == HISTORY_TRIM)) && (v == NULL || before(v, g)))
			return true;
	}
	return false;
}

/* The cell that the byte begins ends before the byte that is returned. */
static unsigned
cell_end(const struct small *s, unsigned start)
{
	for (unsigned end = start + 1; end < DISK; end++) {
		if (end % s->tear.unit == 0)
			return end;
		for (uint32_t i = 1; i <= s->recording.n_commands; i++)
			if (covers(&s->commands[i], end) != covers(&s->commands[i], end - 1))
				return end;
	}
	return DISK;
}

static void
put(const struct recorded_command *c, image *i, unsigned start, unsigned end)
{
	for (unsigned byte = start; byte < end; byte++)
		i->bytes[byte] = c->kind == HISTORY_WRITE ? c->data[byte - c->offset] : 0;
}

static void
choose_cells(const struct small *s, uint32_t at, unsigned start, image *i, struct images *found)
{
	unsigned end;

	if (start == DISK) {
		add_image(found, i);
		return;
	}
	end = cell_end(s, start);
	if (!is_overruled(s, NULL, start, at)) {
		memset(i->bytes + start, 0, end - start);
		choose_cells(s, at, end, i, found);
	}
	for (uint32_t v = 1; v <= s->recording.n_commands; v++)
		if (covers(&s->commands[v], start) && happened(s->commands[v].received, at) &&
		    !is_overruled(s, &s->commands[v], start, at)) {
			put(&s->commands[v], i, start, end);
			choose_cells(s, at, end, i, found);
		}
}

/* Whole commands, where they are legal: what is guaranteed, and any of the others, in order of arrival; no TRIM must be. */
static void
choose_commands(const struct small *s, uint32_t at, struct images *found)
{
	for (unsigned chosen = 0; chosen < 1u << s->recording.n_commands; chosen++) {
		image i = { { 0 } };
		bool legal = true;

		for (uint32_t v = 1; v <= s->recording.n_commands && legal; v++) {
			const struct recorded_command *c = &s->commands[v];
			bool is = chosen >> (v - 1) & 1;

			legal = is ? happened(c->received, at) : c->kind == HISTORY_TRIM || !is_guaranteed(s, c, at);
			for (unsigned byte = 0; is && legal && byte < DISK; byte++)
				if (covers(c, byte) && !is_overruled(s, c, byte, at))
					put(c, &i, byte, byte + 1);
		}
		if (legal)
			add_image(found, &i);
	}
}

static void
define(const struct small *s, uint32_t at, struct images *found)
{
	image i = { { 0 } };

	found->n = 0;
	if (s->tear.whole)
		choose_commands(s, at, found);
	else
		choose_cells(s, at, 0, &i, found);
	make_set(found);
}

/* ---- both ---- */

struct enumeration {
	struct images images;
	struct hash *hashes;
	size_t room;
};

static void
put_cell(const struct space *s, uint32_t cell, uint32_t version, image *i)
{
	const uint8_t *bytes = version_bytes(s, cell, version);

	for (uint32_t k = 0; k < s->length[cell]; k++)
		i->bytes[s->offset[cell] + k] = bytes != NULL ? bytes[k] : 0;
}

static enum offered
take_state(void *arg, const struct view *v)
{
	struct enumeration *e = arg;
	image i = { { 0 } };

	for (uint32_t cell = 0; cell < v->space->n_cells; cell++)
		if (v->at_rest[cell] != NEVER)
			put_cell(v->space, cell, v->at_rest[cell], &i);
	for (uint32_t place = 0; place < v->n_open; place++)
		put_cell(v->space, v->open[place], v->versions[place][v->groups[v->group_of[place]].chosen], &i);
	for (uint32_t k = 0; k < v->n_changes; k++)
		put_cell(v->space, v->open[v->changes[k].place],
		         v->versions[v->changes[k].place][v->changes[k].candidate], &i);
	if (e->images.n == e->room) {
		e->room = e->room > 0 ? 2 * e->room : 1024;
		e->hashes = realloc(e->hashes, e->room * sizeof(*e->hashes));
		assert_non_null(e->hashes);
	}
	e->hashes[e->images.n] = v->hash;
	add_image(&e->images, &i);
	return STATE_NEW;
}

static int
compare_hashes(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct hash));
}

/* As many as there are images. */
static size_t
distinct_hashes(struct enumeration *e, size_t n)
{
	size_t kept = 0;

	qsort(e->hashes, n, sizeof(*e->hashes), compare_hashes);
	for (size_t i = 0; i < n; i++)
		kept += i == 0 || compare_hashes(&e->hashes[i - 1], &e->hashes[i]) != 0;
	return kept;
}

static void
print_history(const struct small *s)
{
	for (uint32_t i = 1; i <= s->recording.n_commands; i++) {
		const struct recorded_command *c = &s->commands[i];

		print_error("  %u %-12s [%u, %u)%s connection %u, received at %u, %s at %d\n", i,
		            recorded_kind_name(c->kind), (unsigned)c->offset, (unsigned)(c->offset + c->length),
		            c->fua ? " FUA" : "", c->connection, c->received, c->success ? "done" : "failed",
		            (int)c->answered);
	}
}

static void
expect_equal(const struct small *s, unsigned seed, uint32_t at, const struct images *is, const struct images *want)
{
	if (is->n == want->n && memcmp(is->at, want->at, is->n * sizeof(image)) == 0)
		return;
	print_history(s);
	fail_msg("history %u (unit %u%s), cut at %u: %zu states are enumerated, and %zu are legal", seed, s->tear.unit,
	         s->tear.whole ? ", whole" : "", at, is->n, want->n);
}

static enum offered
take_new_state(void *arg, const struct view *v)
{
	struct enumeration *e = arg;
	size_t n = e->images.n;

	take_state(arg, v);
	for (size_t i = 0; i < n; i++)
		if (memcmp(&e->hashes[i], &e->hashes[n], sizeof(*e->hashes)) == 0) {
			assert_memory_equal(&e->images.at[i], &e->images.at[n], sizeof(image));
			e->images.n = n;
			return STATE_SEEN;
		}
	return STATE_NEW;
}

/* Of few that are asked for all are legal, and they are as many as there are, unless chance finds no more. */
static void
climb_a_little(const struct small *s, unsigned seed, struct view *v, uint64_t quota, const struct images *legal)
{
	static struct enumeration e;
	struct climb climb;

	e.images.n = 0;
	climb = ladder_climb(v, quota, seed, take_new_state, &e);
	assert_int_equal(climb.found, e.images.n);
	assert_true(climb.found <= quota && climb.found >= (quota < legal->n ? quota : legal->n) * 3 / 4);
	for (size_t i = 0; i < e.images.n; i++)
		if (bsearch(&e.images.at[i], legal->at, legal->n, sizeof(image), compare_images) == NULL) {
			print_history(s);
			fail_msg("history %u: a state that is offered at %u is not legal", seed,
			         v->space->points[v->point].at);
		}
}

struct sums {
	uint64_t states, points, torn;
};

static void
go_through(const struct small *s, unsigned seed, struct sums *sums)
{
	static struct images all, want, wanted;
	static struct enumeration e;
	struct space *space = space_new(&s->recording, s->tear, false, NEVER);
	struct view *v = view_new(space);
	uint64_t count;

	all.n = wanted.n = 0;
	for (uint32_t point = space->n_points; point-- > 0;) {
		struct climb climb;
		size_t offered;

		view_go(v, point);
		count = view_count(v, UINT64_MAX);
		e.images.n = 0;
		climb = ladder_climb(v, UINT64_MAX / 2, seed, take_state, &e);
		assert_true(climb.complete);
		offered = e.images.n;
		make_set(&e.images);
		assert_int_equal(distinct_hashes(&e, offered), e.images.n);
		if (!s->tear.whole)
			assert_int_equal(count, e.images.n);
		define(s, space->points[point].at, &want);
		expect_equal(s, seed, space->points[point].at, &e.images, &want);
		climb_a_little(s, seed, v, 1 + seed % 24, &want);
		for (size_t i = 0; i < e.images.n; i++)
			add_image(&all, &e.images.at[i]);
		sums->points++;
		sums->torn += !s->tear.whole && e.images.n > UINT64_C(1) << v->n_pending;
	}
	for (uint32_t at = s->recording.begin; at <= s->recording.n_events; at++) {
		define(s, at, &want);
		for (size_t i = 0; i < want.n; i++)
			add_image(&wanted, &want.at[i]);
	}
	make_set(&all);
	make_set(&wanted);
	expect_equal(s, seed, NEVER, &all, &wanted);
	sums->states += all.n;
	view_free(v);
	space_free(space);
}

static void
small_histories(void **state)
{
	static struct small s;
	struct sums sums = { 0 };

	(void)state;
	for (unsigned seed = 1; seed <= HISTORIES; seed++) {
		make_small(&s, seed);
		go_through(&s, seed, &sums);
	}
	print_message("%d histories, %" PRIu64 " crash points, %" PRIu64 " states; at %" PRIu64
	              " points there are more than by whole commands\n",
	              HISTORIES, sums.points, sums.states, sums.torn);
	assert_true(sums.torn > HISTORIES / 4);
}

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(small_histories) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
