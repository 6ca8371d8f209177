#include "harness/crash/space.h"

#include "harness/sum.h"

#include <stdlib.h>
#include <string.h>

static void *
need(void *memory)
{
	if (memory == NULL)
		abort();
	return memory;
}

static void *
array(size_t n, size_t size)
{
	return need(calloc(n + 1, size));
}

bool
tear_parse(const char *text, uint64_t minimum, struct tear *tear)
{
	uint32_t unit = 512;

	if (strcmp(text, "write") == 0) {
		*tear = (struct tear){ .whole = true };
		return true;
	}
	if (strcmp(text, "4096") == 0)
		unit = 4096;
	else if (strcmp(text, "sector") != 0 && strcmp(text, "sector=512") != 0)
		return false;
	*tear = (struct tear){ .unit = minimum > unit ? (uint32_t)minimum : unit };
	return true;
}

/* ---- cells ---- */

struct range {
	uint64_t start, end;
};

static int
compare_ranges(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

static int
compare_offsets(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* What is ever written: ascending, none touching the next. */
static struct range *
written_ranges(const struct recording *r, size_t *n)
{
	struct range *all = array(r->n_commands, sizeof(*all));
	size_t found = 0;

	*n = 0;
	for (uint32_t i = 1; i <= r->n_commands; i++)
		if (r->commands[i].kind == HISTORY_WRITE)
			all[found++] =
				(struct range){ r->commands[i].offset, r->commands[i].offset + r->commands[i].length };
	qsort(all, found, sizeof(*all), compare_ranges);
	for (size_t i = 0; i < found; i++)
		if (*n > 0 && all[i].start <= all[*n - 1].end)
			all[*n - 1].end = all[i].end > all[*n - 1].end ? all[i].end : all[*n - 1].end;
		else
			all[(*n)++] = all[i];
	return all;
}

/* Where commands begin and end, ascending. */
static uint64_t *
edges_of(const struct recording *r, size_t *n)
{
	uint64_t *edges = array(2 * (size_t)r->n_commands, sizeof(*edges));

	*n = 0;
	for (uint32_t i = 1; i <= r->n_commands; i++)
		if (r->commands[i].length > 0) {
			edges[(*n)++] = r->commands[i].offset;
			edges[(*n)++] = r->commands[i].offset + r->commands[i].length;
		}
	qsort(edges, *n, sizeof(*edges), compare_offsets);
	return edges;
}

/* Once with .offset NULL, to count them. */
static void
cut_into_cells(struct space *s, const struct range *ranges, size_t n_ranges, const uint64_t *edges, size_t n_edges)
{
	size_t edge = 0;
	uint64_t at, next;

	s->n_cells = 0;
	for (size_t i = 0; i < n_ranges; i++)
		for (at = ranges[i].start; at < ranges[i].end; at = next) {
			while (edge < n_edges && edges[edge] <= at)
				edge++;
			next = edge < n_edges && edges[edge] < ranges[i].end ? edges[edge] : ranges[i].end;
			if (!s->tear.whole && next > (at | (s->tear.unit - 1)) + 1)
				next = (at | (s->tear.unit - 1)) + 1;
			if (s->offset != NULL) {
				s->offset[s->n_cells] = at;
				s->length[s->n_cells] = (uint32_t)(next - at);
			}
			s->n_cells++;
		}
}

static void
make_cells(struct space *s)
{
	size_t n_ranges, n_edges;
	struct range *ranges = written_ranges(s->recording, &n_ranges);
	uint64_t *edges = edges_of(s->recording, &n_edges);

	cut_into_cells(s, ranges, n_ranges, edges, n_edges);
	s->offset = array(s->n_cells, sizeof(*s->offset));
	s->length = array(s->n_cells, sizeof(*s->length));
	cut_into_cells(s, ranges, n_ranges, edges, n_edges);
	free(ranges);
	free(edges);
}

uint32_t
space_cell_at(const struct space *s, uint64_t offset)
{
	uint32_t low = 0, high = s->n_cells;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (s->offset[middle] < offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* ---- versions ---- */

const uint8_t *
version_bytes(const struct space *s, uint32_t cell, uint32_t version)
{
	const struct recorded_command *c = &s->recording->commands[s->versions[version].command];

	if (s->versions[version].command == 0)
		return s->recording->base != NULL ? s->recording->base + s->offset[cell] : NULL;
	if (c->kind != HISTORY_WRITE)
		return NULL;
	return c->data + (s->offset[cell] - c->offset);
}

static bool
all_zero(const uint8_t *bytes, uint32_t length)
{
	return bytes == NULL || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}

static bool
same_bytes(const uint8_t *a, const uint8_t *b, uint32_t length)
{
	if (a == NULL || b == NULL)
		return all_zero(a != NULL ? a : b, length);
	return memcmp(a, b, length) == 0;
}

/* Zeroes that were written, and those that were there before, are equal. */
static uint64_t
hash_bytes(uint64_t sum, const uint8_t *bytes, uint32_t length)
{
	return all_zero(bytes, length) ? sum : sum_bytes(sum, bytes, length);
}

/* Gives each version the first of its cell with the same bytes; a table, with open addressing, of one more than these. */
static void
find_equal_contents(struct space *s)
{
	size_t n = s->versions_of[s->n_cells], size = 2 * n + 1;
	uint32_t *table = array(size, sizeof(*table));

	for (uint32_t cell = 0; cell < s->n_cells; cell++)
		for (uint32_t v = s->versions_of[cell]; v < s->versions_of[cell + 1]; v++) {
			const uint8_t *bytes = version_bytes(s, cell, v);
			uint64_t hash = hash_bytes((cell + 1) * UINT64_C(0xbf58476d1ce4e5b9), bytes, s->length[cell]);
			size_t at = (size_t)(hash % size);

			while (table[at] != 0 &&
			       (table[at] - 1 < s->versions_of[cell] ||
			        !same_bytes(version_bytes(s, cell, table[at] - 1), bytes, s->length[cell])))
				at = at + 1 < size ? at + 1 : 0;
			if (table[at] == 0)
				table[at] = v + 1;
			s->versions[v].content = table[at] - 1;
		}
	free(table);
}

/* The cells of each command, once to count their versions, and once to lay them. */
static void
make_versions(struct space *s)
{
	const struct recording *r = s->recording;
	uint32_t *next = array(s->n_cells, sizeof(*next)), n = 0;

	for (int lay = 0; lay < 2; lay++) {
		for (uint32_t i = 1; i <= r->n_commands; i++) {
			const struct recorded_command *c = &r->commands[i];
			uint64_t end = c->offset + c->length;

			for (uint32_t cell = space_cell_at(s, c->offset); cell < s->n_cells && s->offset[cell] < end;
			     cell++) {
				if (lay)
					s->versions[next[cell]] = (struct version){ .command = i, .last = NEVER };
				next[cell]++;
			}
		}
		if (lay)
			break;
		s->versions_of = array(s->n_cells + 1u, sizeof(*s->versions_of));
		for (uint32_t cell = 0; cell < s->n_cells; cell++) {
			s->versions_of[cell] = n;
			n += 1 + next[cell];
			next[cell] = s->versions_of[cell] + 1;
		}
		s->versions_of[s->n_cells] = n;
		s->versions = array(n, sizeof(*s->versions));
		for (uint32_t cell = 0; cell < s->n_cells; cell++)
			s->versions[s->versions_of[cell]].last = NEVER;
	}
	free(next);
	find_equal_contents(s);
}

static uint32_t
version_of(const struct space *s, uint32_t cell, uint32_t command)
{
	uint32_t low = s->versions_of[cell], high = s->versions_of[cell + 1];

	while (low + 1 < high) {
		uint32_t middle = low + (high - low) / 2;

		if (s->versions[middle].command <= command)
			low = middle;
		else
			high = middle;
	}
	return low;
}

/* ---- moments ---- */

/* One telling of the history: with TRIM, for what becomes of trimmed cells, or without, for all others. */
struct telling {
	struct space *space;
	struct history *history;
	bool trims;
	uint32_t *command_of; /* by its number in the history */
	uint32_t *number_of;  /* the other way round */
	uint32_t *base;       /* of each cell: the version that was settled there */
	uint32_t now;
	bool pruned_some;
};

static uint32_t
told_version(const struct telling *t, uint32_t cell, const struct history_candidate *c)
{
	return c->number == 0 ? t->base[cell] : version_of(t->space, cell, t->command_of[c->number]);
}

static void
take_settled(void *arg, uint64_t offset, uint64_t length, const struct history_candidate *c)
{
	struct telling *t = arg;
	const struct space *s = t->space;

	for (uint32_t cell = space_cell_at(s, offset); cell < s->n_cells && s->offset[cell] < offset + length; cell++)
		t->base[cell] = told_version(t, cell, c);
}

static void
take_pruned(void *arg, uint64_t offset, uint64_t length, const struct history_candidate *c)
{
	struct telling *t = arg;
	struct space *s = t->space;

	if (t->trims != (c->kind == HISTORY_TRIM))
		return;
	for (uint32_t cell = space_cell_at(s, offset); cell < s->n_cells && s->offset[cell] < offset + length; cell++) {
		s->versions[told_version(t, cell, c)].last = t->now;
		t->pruned_some = true;
	}
}

static void
take_guaranteed(void *arg, const struct history_candidate *c)
{
	struct telling *t = arg;

	t->space->guaranteed[t->command_of[c->number]] = t->now;
	/* Of whole writes only the latest is seen, so that an earlier one may be hidden by it from now on. */
	t->pruned_some |= t->space->tear.whole;
}

static void
telling_start(struct telling *t, struct space *s, bool trims)
{
	struct history_owner owner = {
		.arg = t, .settled = take_settled, .pruned = take_pruned, .guaranteed = take_guaranteed
	};

	*t = (struct telling){ .space = s, .trims = trims };
	t->history = history_new(s->recording->multi_conn, true, &owner);
	t->command_of = array(s->recording->n_commands + 1u, sizeof(*t->command_of));
	t->number_of = array(s->recording->n_commands + 1u, sizeof(*t->number_of));
	t->base = array(s->n_cells, sizeof(*t->base));
	memcpy(t->base, s->versions_of, s->n_cells * sizeof(*t->base));
}

static void
tell(struct telling *t, uint32_t now)
{
	const struct recorded_event *e = &t->space->recording->events[now];
	const struct recorded_command *c = &t->space->recording->commands[e->which];
	uint64_t number;

	if (e->what == EVENT_MARK || (c->kind == HISTORY_TRIM && !t->trims))
		return;
	t->now = now;
	if (e->what == EVENT_ANSWERED) {
		history_answer(t->history, t->number_of[e->which], c->success);
		return;
	}
	number = history_receive(t->history, &(struct history_command){ .kind = c->kind,
	                                                                .fua = c->fua,
	                                                                .connection = c->connection,
	                                                                .offset = c->offset,
	                                                                .length = c->length });
	t->command_of[number] = e->which;
	t->number_of[e->which] = (uint32_t)number;
}

static void
telling_end(struct telling *t)
{
	history_free(t->history);
	free(t->command_of);
	free(t->number_of);
	free(t->base);
}

static bool
has_trim(const struct recording *r)
{
	for (uint32_t i = 1; i <= r->n_commands; i++)
		if (r->commands[i].kind == HISTORY_TRIM)
			return true;
	return false;
}

/* ---- points ---- */

static void
add_point(struct space *s, uint32_t at, uint32_t must)
{
	if (at >= s->recording->begin)
		s->points[s->n_points++] = (struct crash_point){ at, must };
}

static void
make_points(struct space *s, bool marks, uint32_t extra)
{
	const struct recording *r = s->recording;
	struct telling told[2];
	unsigned n = has_trim(r) ? 2 : 1;
	uint32_t must = 0;

	s->points = array(r->n_events + 1u, sizeof(*s->points));
	s->guaranteed = array(r->n_commands + 1u, sizeof(*s->guaranteed));
	memset(s->guaranteed, 0xff, (r->n_commands + 1u) * sizeof(*s->guaranteed));
	for (unsigned i = 0; i < n; i++)
		telling_start(&told[i], s, i == 1);
	for (uint32_t now = 0; now < r->n_events; now++) {
		bool mark = r->events[now].what == EVENT_MARK, point = (mark && marks) || now == extra;

		for (unsigned i = 0; i < n; i++) {
			told[i].pruned_some = false;
			tell(&told[i], now);
			point |= told[i].pruned_some;
		}
		if (point)
			add_point(s, now, must);
		must += mark;
	}
	s->points[s->n_points++] = (struct crash_point){ r->n_events, must };
	for (unsigned i = 0; i < n; i++)
		telling_end(&told[i]);
}

uint32_t
space_point_at(const struct space *s, uint32_t at)
{
	uint32_t low = 0, high = s->n_points;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (s->points[middle].at < at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static uint32_t
first_moment(const struct space *s, const struct version *v)
{
	return v->command == 0 ? 0 : s->recording->commands[v->command].received + 1;
}

/* The points between which a version comes and goes; once with .changed NULL, to count them. */
static void
note_changes(struct space *s, uint32_t *next)
{
	for (uint32_t cell = 0; cell < s->n_cells; cell++)
		for (uint32_t v = s->versions_of[cell]; v < s->versions_of[cell + 1]; v++) {
			uint32_t first = space_point_at(s, first_moment(s, &s->versions[v]));
			uint32_t behind =
				s->versions[v].last == NEVER ? s->n_points : space_point_at(s, s->versions[v].last + 1);
			uint32_t ends[2] = { first, behind };

			for (int i = 0; i < 2 && first < behind; i++) {
				if (ends[i] == 0 || ends[i] == s->n_points)
					continue;
				if (s->changed != NULL)
					s->changed[next[ends[i]]] = cell;
				next[ends[i]]++;
			}
		}
}

static void
make_changes(struct space *s)
{
	uint32_t *next = array(s->n_points + 1u, sizeof(*next)), n = 0;

	note_changes(s, next);
	s->changes_before = array(s->n_points + 1u, sizeof(*s->changes_before));
	for (uint32_t i = 0; i <= s->n_points; i++) {
		s->changes_before[i] = n;
		n += next[i];
		next[i] = s->changes_before[i];
	}
	s->changed = array(n, sizeof(*s->changed));
	note_changes(s, next);
	free(next);
}

struct space *
space_new(const struct recording *r, struct tear tear, bool marks, uint32_t extra)
{
	struct space *s = array(1, sizeof(*s));

	s->recording = r;
	s->tear = tear;
	make_cells(s);
	make_versions(s);
	make_points(s, marks, extra);
	for (uint32_t cell = 0; cell < s->n_cells; cell++)
		for (uint32_t v = s->versions_of[cell], latest = 0; v < s->versions_of[cell + 1]; v++) {
			latest = s->versions[v].last > latest ? s->versions[v].last : latest;
			s->versions[v].latest = latest;
		}
	make_changes(s);
	return s;
}

void
space_free(struct space *s)
{
	if (s == NULL)
		return;
	free(s->offset);
	free(s->length);
	free(s->versions_of);
	free(s->versions);
	free(s->guaranteed);
	free(s->points);
	free(s->changes_before);
	free(s->changed);
	free(s);
}

uint32_t
legal_versions(const struct space *s, uint32_t cell, uint32_t at, uint32_t *versions)
{
	uint32_t low = s->versions_of[cell], high = s->versions_of[cell + 1], n = 0;

	/* The versions that arrived before the moment are those below `low`. */
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (first_moment(s, &s->versions[middle]) <= at)
			low = middle + 1;
		else
			high = middle;
	}
	while (low > s->versions_of[cell] && s->versions[low - 1].latest >= at)
		if (s->versions[--low].last >= at)
			versions[n++] = low;
	return n;
}
