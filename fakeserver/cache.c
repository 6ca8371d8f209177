#include "fakeserver/cache.h"

#include "harness/history.h"

#include <stdlib.h>
#include <string.h>

/*
 * What one command put on the disk, as far as others have overwritten it since; the rest is on the disk still. Each
 * piece is what one later command was laid over, so that a cell of the history never reaches from one into another.
 */
struct content {
	unsigned n, room;
	bool sorted;
	struct disk_saved **pieces;
};

struct cache {
	struct disk *disk;
	struct history *history;
	struct cache_config config;
	uint64_t bytes;
	bool write_through;   /* the command that is arriving is durable at once: what it overwrites is not kept */
	uint64_t arriving;    /* its number; 0: none is */
	struct content taken; /* by it; the pieces are others' */
};

static struct content *
content_new(struct cache *c)
{
	struct content *k = calloc(1, sizeof(*k));

	if (k == NULL)
		abort();
	c->bytes += sizeof(*k);
	return k;
}

static void
add_piece(struct content *k, struct disk_saved *piece)
{
	if (k->n == k->room) {
		k->room = k->room > 0 ? 2 * k->room : 1;
		k->pieces = reallocarray(k->pieces, k->room, sizeof(struct disk_saved *));
		if (k->pieces == NULL)
			abort();
	}
	k->pieces[k->n++] = piece;
	k->sorted = false;
}

/* The range is about to be overwritten: what this one put there goes into the content. */
static void
save(struct cache *c, struct content *k, uint64_t offset, uint64_t length)
{
	struct disk_saved *piece = disk_take(c->disk, offset, length);

	c->bytes += disk_saved_bytes(piece);
	add_piece(k, piece);
	add_piece(&c->taken, piece);
}

static void
release(void *arg, enum history_kind kind, void *content)
{
	struct cache *c = arg;
	struct content *k = content;

	(void)kind;
	if (k == NULL)
		return;
	c->bytes -= sizeof(*k);
	for (unsigned i = 0; i < k->n; i++) {
		c->bytes -= disk_saved_bytes(k->pieces[i]);
		disk_saved_free(k->pieces[i]);
	}
	free(k->pieces);
	free(k);
}

static void *
save_initial(void *arg, uint64_t offset, uint64_t length)
{
	struct cache *c = arg;
	struct content *k;

	if (c->write_through)
		return NULL;
	k = content_new(c);
	save(c, k, offset, length);
	return k;
}

static void
save_overwritten(struct cache *c, uint64_t offset, uint64_t length)
{
	struct history_cell cell;

	for (uint64_t end = offset + length; history_next(c->history, offset, &cell) && cell.offset < end;
	     offset = cell.offset + cell.length) {
		uint64_t first = cell.offset > offset ? cell.offset : offset, last = cell.offset + cell.length;

		if (cell.candidates[cell.n - 1]->content != NULL)
			save(c, cell.candidates[cell.n - 1]->content, first, (last < end ? last : end) - first);
	}
}

struct cache *
cache_new(struct disk *d, const struct cache_config *config)
{
	struct cache *c = calloc(1, sizeof(*c));

	if (c == NULL)
		abort();
	c->disk = d;
	c->config = *config;
	c->history = history_new(config->flush_covers_all, false,
	                         &(struct history_owner){ .arg = c, .initial = save_initial, .release = release });
	return c;
}

void
cache_free(struct cache *c)
{
	if (c == NULL)
		return;
	history_free(c->history);
	free(c->taken.pieces);
	free(c);
}

/* More data would have to be kept than the cache takes: then everything before it is destaged, and it is durable at once. */
static bool
is_too_much(const struct cache *c, const struct cache_command *m)
{
	uint64_t data = m->kind == CACHED_WRITE ? m->length : 0, run;

	if (m->length <= c->config.most / 2)
		return false;
	for (uint64_t at = 0; at < m->length && data <= c->config.most; at += run)
		if (disk_state(c->disk, m->offset + at, &run) == DISK_DATA)
			data += run;
	return data > c->config.most;
}

/* What lies past the end of the disk is nothing that could be lost (disk.h). */
static void
clamp(const struct cache *c, struct history_command *h)
{
	uint64_t size = disk_size(c->disk);

	if (h->offset > size)
		h->offset = size;
	if (h->length > size - h->offset)
		h->length = size - h->offset;
}

uint64_t
cache_receive(struct cache *c, const struct cache_command *m)
{
	static const enum history_kind kinds[] = { [CACHED_WRITE] = HISTORY_WRITE,
		                                   [CACHED_ZEROES] = HISTORY_ZEROES,
		                                   [CACHED_TRIM] = HISTORY_TRIM,
		                                   [CACHED_FLUSH] = HISTORY_FLUSH };
	struct history_command h = { .kind = kinds[m->kind],
		                     .fua = m->fua,
		                     .connection = m->connection,
		                     .offset = m->offset,
		                     .length = m->length };

	clamp(c, &h);
	c->taken.n = 0;
	c->write_through = h.length > 0 && is_too_much(c, m);
	while (c->write_through && history_destage(c->history))
		;
	h.fua |= c->write_through;
	if (h.kind != HISTORY_FLUSH && h.length > 0 && !c->write_through) {
		save_overwritten(c, h.offset, h.length);
		h.content = content_new(c);
	}
	c->arriving = history_receive(c->history, &h);
	c->write_through = false;
	return c->arriving;
}

/* A command that failed may have been carried out in part; what is not there any more comes back. */
static void
take_back(struct cache *c)
{
	for (unsigned i = 0; i < c->taken.n; i++) {
		const struct disk_saved *s = c->taken.pieces[i];

		disk_put(c->disk, s, disk_saved_offset(s), disk_saved_length(s));
	}
}

void
cache_answer(struct cache *c, uint64_t number, bool success, bool volatile_only)
{
	if (!success && number == c->arriving)
		take_back(c);
	c->taken.n = 0;
	history_answer(c->history, number, success && !volatile_only);
	while (c->bytes > c->config.most && history_destage(c->history))
		;
}

void
cache_forget(struct cache *c)
{
	history_forget(c->history);
}

/* ---- the cut ---- */

bool
cut_parse(const char *text, enum cut *cut)
{
	static const char *const names[] = { [CUT_DROP] = "drop", [CUT_KEEP] = "keep", [CUT_RANDOM] = "random" };

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(text, names[i]) == 0) {
			*cut = (enum cut)i;
			return true;
		}
	return false;
}

static int
compare_pieces(const void *a, const void *b)
{
	uint64_t x = disk_saved_offset(*(struct disk_saved *const *)a);
	uint64_t y = disk_saved_offset(*(struct disk_saved *const *)b);

	return x < y ? -1 : x > y;
}

/* The piece that holds `offset`; NULL: what was written through went over it. */
static const struct disk_saved *
piece_at(struct content *k, uint64_t offset)
{
	unsigned low = 0, high = k->n;

	if (!k->sorted && k->n > 1)
		qsort(k->pieces, k->n, sizeof(struct disk_saved *), compare_pieces);
	k->sorted = true;
	while (high - low > 1) {
		unsigned middle = low + (high - low) / 2;

		*(disk_saved_offset(k->pieces[middle]) <= offset ? &low : &high) = middle;
	}
	return k->n > 0 && disk_saved_offset(k->pieces[low]) <= offset &&
	                       offset - disk_saved_offset(k->pieces[low]) < disk_saved_length(k->pieces[low])
	               ? k->pieces[low]
	               : NULL;
}

/* The newest of the guaranteed ones; none: what was there first. The last of all is what the disk holds already. */
static unsigned
newest_guaranteed(const struct history_cell *cell)
{
	for (unsigned i = cell->n; i-- > 0;)
		if (cell->candidates[i]->guaranteed)
			return i;
	return 0;
}

static void
leave(struct cache *c, const struct history_cell *cell, unsigned i, uint64_t offset, uint64_t length)
{
	struct content *k = cell->candidates[i]->content;
	const struct disk_saved *piece = i + 1 < cell->n && k != NULL ? piece_at(k, offset) : NULL;

	if (piece != NULL)
		disk_put(c->disk, piece, offset, length);
}

enum { FINE_MOST = 64 << 10 };

static void
leave_pieces(struct cache *c, const struct history_cell *cell, uint64_t (*random)(void *arg), void *arg)
{
	uint64_t end = cell->offset + cell->length, unit = c->config.tear_unit, next;

	for (uint64_t at = cell->offset; at < end; at = next) {
		next = (at / unit + 1) * unit;
		/* Nobody looks at each unit of a long range. */
		if (cell->length > FINE_MOST && end - at > FINE_MOST)
			next = (at / FINE_MOST + 1) * FINE_MOST;
		if (cell->length >> 40 != 0)
			next = end;
		if (next > end)
			next = end;
		leave(c, cell, (unsigned)((random(arg) >> 32) * cell->n >> 32), at, next - at);
	}
}

void
cache_cut(struct cache *c, enum cut how, uint64_t (*random)(void *arg), void *arg)
{
	struct history_cell cell;

	for (uint64_t from = 0; how != CUT_KEEP && history_next(c->history, from, &cell);
	     from = cell.offset + cell.length) {
		if (how == CUT_DROP)
			leave(c, &cell, newest_guaranteed(&cell), cell.offset, cell.length);
		else
			leave_pieces(c, &cell, random, arg);
	}
	history_cut(c->history);
}

uint64_t
cache_bytes(const struct cache *c)
{
	return c->bytes;
}

uint64_t
cache_pending(const struct cache *c)
{
	return history_pending(c->history);
}
