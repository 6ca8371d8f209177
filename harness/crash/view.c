#include "harness/crash/view.h"

#include <stdlib.h>
#include <string.h>

/* A group's arrays are cut from one block, which lasts until the view goes on. */
struct view_memory {
	char *at;
	size_t used, room;
	struct block *full;
	uint64_t *is_open; /* a bit for each cell */
	uint32_t *slot_of; /* of each command; NEVER */
	uint32_t *found;   /* for legal_versions */
};

struct block {
	struct block *next;
};

static void *
need(void *memory)
{
	if (memory == NULL)
		abort();
	return memory;
}

/* ---- memory ---- */

static void *
take(struct view *v, size_t n, size_t size)
{
	struct view_memory *m = v->memory;
	size_t bytes = (n * size + 15) & ~(size_t)15;
	void *taken;

	if (m->at == NULL || m->used + bytes > m->room) {
		if (m->at != NULL) {
			((struct block *)(void *)m->at)->next = m->full;
			m->full = (struct block *)(void *)m->at;
		}
		m->room = bytes + 16 > 1 << 18 ? bytes + 16 : 1 << 18;
		m->at = need(malloc(m->room));
		m->used = 16;
	}
	taken = m->at + m->used;
	m->used += bytes;
	return taken;
}

static void
give_back(struct view *v)
{
	struct block *b;

	while ((b = v->memory->full) != NULL) {
		v->memory->full = b->next;
		free(b);
	}
	if (v->memory->at != NULL)
		v->memory->used = 16;
}

struct view *
view_new(const struct space *s)
{
	struct view *v = need(calloc(1, sizeof(*v)));
	size_t commands = s->recording->n_commands + 2u;

	v->space = s;
	v->point = NEVER;
	v->memory = need(calloc(1, sizeof(*v->memory)));
	v->memory->is_open = need(calloc(s->n_cells / 64 + 1, sizeof(uint64_t)));
	v->memory->slot_of = need(malloc(commands * sizeof(uint32_t)));
	memset(v->memory->slot_of, 0xff, commands * sizeof(uint32_t));
	v->memory->found = need(malloc(commands * sizeof(uint32_t)));
	v->at_rest = need(malloc((s->n_cells + 1u) * sizeof(uint32_t)));
	memset(v->at_rest, 0xff, (s->n_cells + 1u) * sizeof(uint32_t));
	return v;
}

void
view_free(struct view *v)
{
	if (v == NULL)
		return;
	give_back(v);
	free(v->memory->at);
	free(v->memory->is_open);
	free(v->memory->slot_of);
	free(v->memory->found);
	free(v->memory);
	free(v->at_rest);
	free(v);
}

/* ---- hashes ---- */

static uint64_t
mix(uint64_t z)
{
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* Contents of a cell are told apart by their bytes, so that two numbers stand for them. */
static struct hash
content_hash(const struct space *s, uint32_t cell, uint32_t version)
{
	uint64_t key = (uint64_t)cell << 32 | s->versions[version].content;

	return (struct hash){ mix(key + UINT64_C(0x9e3779b97f4a7c15)), mix(~key * UINT64_C(0xd1342543de82ef95)) };
}

static void
add_hash(struct hash *sum, struct hash h)
{
	sum->low ^= h.low;
	sum->high ^= h.high;
}

/* ---- what is open ---- */

static void
look_at_cell(struct view *v, uint32_t cell)
{
	const struct space *s = v->space;
	uint32_t *found = v->memory->found;
	uint32_t n = legal_versions(s, cell, s->points[v->point].at, found);
	bool open = false;

	for (uint32_t i = 1; i < n; i++)
		open |= s->versions[found[i]].content != s->versions[found[0]].content;
	if (v->at_rest[cell] != NEVER)
		add_hash(&v->rest, content_hash(s, cell, v->at_rest[cell]));
	v->at_rest[cell] = open ? NEVER : found[0];
	if (!open)
		add_hash(&v->rest, content_hash(s, cell, found[0]));
	v->memory->is_open[cell / 64] &= ~(UINT64_C(1) << cell % 64);
	v->memory->is_open[cell / 64] |= (uint64_t)open << cell % 64;
}

static void
look_at_changed(struct view *v, uint32_t from)
{
	const struct space *s = v->space;
	uint32_t low = from < v->point ? from : v->point, high = from < v->point ? v->point : from;

	for (uint32_t i = s->changes_before[low + 1]; i < s->changes_before[high + 1]; i++)
		look_at_cell(v, s->changed[i]);
}

static void
list_open(struct view *v)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i <= v->space->n_cells / 64; i++)
		n += (uint32_t)__builtin_popcountll(v->memory->is_open[i]);
	v->open = take(v, n, sizeof(*v->open));
	v->group_of = take(v, n, sizeof(*v->group_of));
	v->changes = take(v, n, sizeof(*v->changes));
	v->versions = take(v, n, sizeof(*v->versions));
	v->n_open = v->n_changes = 0;
	for (uint32_t i = 0; i <= v->space->n_cells / 64; i++)
		for (uint64_t bits = v->memory->is_open[i]; bits != 0; bits &= bits - 1)
			v->open[v->n_open++] = i * 64 + (uint32_t)__builtin_ctzll(bits);
}

/* ---- groups ---- */

/* Its versions in order of arrival; how many. */
static uint32_t
list_versions(struct view *v, uint32_t place)
{
	uint32_t *found = v->memory->found;
	uint32_t n = legal_versions(v->space, v->open[place], v->space->points[v->point].at, found);

	v->versions[place] = take(v, n, sizeof(uint32_t));
	for (uint32_t i = 0; i < n; i++)
		v->versions[place][i] = found[n - 1 - i];
	return n;
}

static bool
same_commands(const struct view *v, uint32_t a, uint32_t b, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (v->space->versions[v->versions[a][i]].command != v->space->versions[v->versions[b][i]].command)
			return false;
	return true;
}

/* A TRIM's promise is none: the cell may hold what it held. */
static bool
is_settled_by(const struct view *v, uint32_t command)
{
	return command == 0 || (v->space->guaranteed[command] < v->space->points[v->point].at &&
	                        v->space->recording->commands[command].kind != HISTORY_TRIM);
}

static void
begin_group(struct view *v, uint32_t place, uint32_t n)
{
	struct open_group *g = &v->groups[v->n_groups++];

	*g = (struct open_group){ .first = place, .n = n };
	g->slot = take(v, n, sizeof(*g->slot));
	g->hash = take(v, n, sizeof(*g->hash));
	memset(g->hash, 0, n * sizeof(*g->hash));
	for (uint32_t i = 0; i < n; i++)
		if (is_settled_by(v, v->space->versions[v->versions[place][i]].command))
			g->floor = i;
}

static void
make_groups(struct view *v)
{
	struct open_group *g;

	v->groups = take(v, v->n_open, sizeof(*v->groups));
	v->n_groups = 0;
	for (uint32_t place = 0; place < v->n_open; place++) {
		uint32_t n = list_versions(v, place);

		if (place == 0 || n != v->groups[v->n_groups - 1].n || !same_commands(v, place - 1, place, n))
			begin_group(v, place, n);
		g = &v->groups[v->n_groups - 1];
		g->end = place + 1;
		v->group_of[place] = v->n_groups - 1;
		for (uint32_t i = 0; i < n; i++)
			add_hash(&g->hash[i], content_hash(v->space, v->open[place], v->versions[place][i]));
	}
}

/* ---- pending commands ---- */

static uint32_t
command_of(const struct view *v, const struct open_group *g, uint32_t candidate)
{
	return v->space->versions[v->versions[g->first][candidate]].command;
}

static int
compare_pending(const void *a, const void *b)
{
	const struct pending *x = a, *y = b;

	return x->command < y->command ? -1 : x->command > y->command;
}

/* Each once, with the number of its groups; `slot_of` is its place from now on. */
static void
list_pending(struct view *v)
{
	uint32_t *slot_of = v->memory->slot_of, most = 0, command;

	for (uint32_t i = 0; i < v->n_groups; i++)
		most += v->groups[i].n;
	v->pending = take(v, most, sizeof(*v->pending));
	v->n_pending = 0;
	for (uint32_t i = 0; i < v->n_groups; i++)
		for (uint32_t k = v->groups[i].floor + 1; k < v->groups[i].n; k++) {
			command = command_of(v, &v->groups[i], k);
			if (slot_of[command] == NEVER) {
				slot_of[command] = v->n_pending;
				v->pending[v->n_pending++] = (struct pending){ .command = command, .present = true };
			}
			v->pending[slot_of[command]].n_groups++;
		}
	qsort(v->pending, v->n_pending, sizeof(*v->pending), compare_pending);
	for (uint32_t i = 0; i < v->n_pending; i++)
		slot_of[v->pending[i].command] = i;
}

static void
shorten(const struct view *v, struct pending *p)
{
	struct open_group *g = &v->groups[p->groups[0]];

	p->only = p->n_groups == 1 && g->n == 2 && g->floor == 0 ? g : NULL;
	if (p->only == NULL)
		return;
	p->delta = g->hash[0];
	add_hash(&p->delta, g->hash[1]);
}

static void
link_pending(struct view *v)
{
	uint32_t *slot_of = v->memory->slot_of;

	for (uint32_t i = 0; i < v->n_pending; i++) {
		v->pending[i].groups = take(v, v->pending[i].n_groups, sizeof(uint32_t));
		v->pending[i].n_groups = 0;
	}
	for (uint32_t i = 0; i < v->n_groups; i++) {
		struct open_group *g = &v->groups[i];

		for (uint32_t k = 0; k < g->n; k++) {
			g->slot[k] = k > g->floor ? slot_of[command_of(v, g, k)] : NEVER;
			if (g->slot[k] != NEVER)
				v->pending[g->slot[k]].groups[v->pending[g->slot[k]].n_groups++] = i;
		}
		g->chosen = g->n - 1;
		add_hash(&v->hash, g->hash[g->chosen]);
	}
	for (uint32_t i = 0; i < v->n_pending; i++) {
		slot_of[v->pending[i].command] = NEVER;
		shorten(v, &v->pending[i]);
	}
}

void
view_go(struct view *v, uint32_t point)
{
	uint32_t from = v->point;

	give_back(v);
	v->point = point;
	if (from == NEVER)
		for (uint32_t cell = 0; cell < v->space->n_cells; cell++)
			look_at_cell(v, cell);
	else
		look_at_changed(v, from);
	list_open(v);
	make_groups(v);
	list_pending(v);
	v->hash = v->rest;
	link_pending(v);
}

/* ---- states ---- */

uint32_t
candidate_below(const struct view *v, const struct open_group *g, uint32_t candidate)
{
	while (candidate > g->floor) {
		candidate--;
		if (candidate == g->floor || v->pending[g->slot[candidate]].present)
			break;
	}
	return candidate;
}

void
view_flip(struct view *v, uint32_t pending)
{
	struct pending *p = &v->pending[pending];

	p->present = !p->present;
	if (p->only != NULL) {
		p->only->chosen = p->present;
		add_hash(&v->hash, p->delta);
		return;
	}
	for (uint32_t i = 0; i < p->n_groups; i++) {
		struct open_group *g = &v->groups[p->groups[i]];
		uint32_t was = g->chosen;

		if (g->slot[was] != NEVER && g->slot[was] > pending)
			continue;
		g->chosen = candidate_below(v, g, g->n);
		add_hash(&v->hash, g->hash[was]);
		add_hash(&v->hash, g->hash[g->chosen]);
	}
}

void
view_set_all(struct view *v, bool present)
{
	for (uint32_t i = 0; i < v->n_pending; i++)
		view_set(v, i, present);
}

static struct hash
candidate_hash(const struct view *v, uint32_t place, uint32_t candidate)
{
	return content_hash(v->space, v->open[place], v->versions[place][candidate]);
}

void
view_change(struct view *v, uint32_t place, uint32_t candidate)
{
	add_hash(&v->hash, candidate_hash(v, place, v->groups[v->group_of[place]].chosen));
	add_hash(&v->hash, candidate_hash(v, place, candidate));
	v->changes[v->n_changes++] = (struct change){ place, candidate };
}

void
view_unchange(struct view *v)
{
	while (v->n_changes > 0) {
		const struct change *c = &v->changes[--v->n_changes];

		add_hash(&v->hash, candidate_hash(v, c->place, v->groups[v->group_of[c->place]].chosen));
		add_hash(&v->hash, candidate_hash(v, c->place, c->candidate));
	}
}

uint32_t
distinct_candidates(const struct view *v, uint32_t place, uint32_t *candidates)
{
	uint32_t n = 0;

	for (uint32_t i = v->groups[v->group_of[place]].n; i-- > 0;) {
		uint32_t content = v->space->versions[v->versions[place][i]].content, k = 0;

		while (k < n && v->space->versions[v->versions[place][candidates[k]]].content != content)
			k++;
		if (k == n)
			candidates[n++] = i;
	}
	return n;
}

uint64_t
view_count(const struct view *v, uint64_t most)
{
	uint64_t count = 1;

	if (v->space->tear.whole)
		return v->n_pending < 63 && UINT64_C(1) << v->n_pending < most ? UINT64_C(1) << v->n_pending : most;
	for (uint32_t place = 0; place < v->n_open && count < most; place++) {
		uint32_t n = distinct_candidates(v, place, v->memory->found);

		count = count > most / n ? most : count * n;
	}
	return count;
}

/* ---- from one view to another ---- */

/* The point, a bit for each pending command, the number of changes, each change. */
uint32_t *
view_save(const struct view *v, uint32_t *n)
{
	uint32_t bits = (v->n_pending + 31) / 32, *words;

	*n = 2 + bits + 2 * v->n_changes;
	words = need(calloc(*n, sizeof(*words)));
	words[0] = v->point;
	for (uint32_t i = 0; i < v->n_pending; i++)
		words[1 + i / 32] |= (uint32_t)v->pending[i].present << i % 32;
	words[1 + bits] = v->n_changes;
	memcpy(words + 2 + bits, v->changes, v->n_changes * sizeof(*v->changes));
	return words;
}

void
view_load(struct view *v, const uint32_t *words)
{
	uint32_t bits;

	if (v->point == words[0])
		view_unchange(v);
	else
		view_go(v, words[0]);
	bits = (v->n_pending + 31) / 32;
	for (uint32_t i = 0; i < v->n_pending; i++)
		view_set(v, i, words[1 + i / 32] >> i % 32 & 1);
	for (uint32_t i = 0; i < words[1 + bits]; i++)
		view_change(v, words[2 + bits + 2 * i], words[3 + bits + 2 * i]);
}
