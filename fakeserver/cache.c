#include "fakeserver/cache.h"

#include "harness/history.h"

#include <stdlib.h>
#include <string.h>

enum { BYTES_MOST = 64 << 10 };

/* What a range may hold. Ranges beyond BYTES_MOST that were written here and there are kept as a sparse disk. */
struct content {
	enum { CONTENT_BYTES, CONTENT_STATE, CONTENT_SPARSE } kind;
	enum disk_state state;
	uint64_t offset, length;
	uint64_t base; /* of CONTENT_SPARSE: where its disk begins, on a page's border of the other */
	struct disk *sparse;
	uint8_t bytes[];
};

struct cache {
	struct disk *disk;
	struct history *history;
	struct cache_config config;
	uint64_t bytes;
	bool write_through; /* the command that is arriving is durable at once: what it overwrites is not kept */
};

static uint64_t
weight(const struct content *k)
{
	return sizeof(*k) + (k->kind == CONTENT_STATE ? 0 : k->length);
}

static struct content *
content_new(struct cache *c, size_t n, struct content k)
{
	struct content *content = malloc(sizeof(*content) + n);

	if (content == NULL)
		abort();
	*content = k;
	c->bytes += weight(content);
	return content;
}

static void
content_release(void *arg, enum history_kind kind, void *content)
{
	struct cache *c = arg;
	struct content *k = content;

	(void)kind;
	if (k == NULL)
		return;
	c->bytes -= weight(k);
	disk_free(k->sparse);
	free(k);
}

/* Is the range in one state, without data? */
static bool
is_plain(const struct disk *d, uint64_t offset, uint64_t length, enum disk_state *state)
{
	uint64_t run;

	*state = disk_state(d, offset, &run);
	if (*state == DISK_DATA)
		return false;
	for (uint64_t at = run; at < length; at += run)
		if (disk_state(d, offset + at, &run) != *state)
			return false;
	return true;
}

static void *
content_of_disk(void *arg, uint64_t offset, uint64_t length)
{
	struct cache *c = arg;
	struct content k = { .offset = offset, .length = length }, *saved;

	if (c->write_through)
		return NULL;
	if (is_plain(c->disk, offset, length, &k.state)) {
		k.kind = CONTENT_STATE;
		return content_new(c, 0, k);
	}
	if (length <= BYTES_MOST) {
		saved = content_new(c, (size_t)length, k);
		disk_read(c->disk, offset, (size_t)length, saved->bytes);
		return saved;
	}
	k.kind = CONTENT_SPARSE;
	k.base = offset - offset % DISK_PAGE;
	k.sparse = disk_new(offset + length - k.base);
	k.length = disk_copy(k.sparse, offset - k.base, c->disk, offset, length);
	return content_new(c, 0, k);
}

struct cache *
cache_new(struct disk *d, const struct cache_config *config)
{
	struct cache *c = calloc(1, sizeof(*c));

	if (c == NULL)
		abort();
	c->disk = d;
	c->config = *config;
	c->history = history_new(
		config->flush_covers_all, false,
		&(struct history_owner){ .arg = c, .initial = content_of_disk, .release = content_release });
	return c;
}

void
cache_free(struct cache *c)
{
	if (c == NULL)
		return;
	history_free(c->history);
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
	struct content k = { .kind = CONTENT_STATE, .state = m->no_hole ? DISK_PROVISIONED : DISK_TRIMMED };
	uint64_t number;

	clamp(c, &h);
	c->write_through = m->kind != CACHED_FLUSH && is_too_much(c, m);
	while (c->write_through && history_destage(c->history))
		;
	h.fua |= c->write_through;
	k.offset = h.offset;
	k.length = h.length;
	if (m->kind == CACHED_WRITE) {
		k.kind = CONTENT_BYTES;
		h.content = content_new(c, (size_t)h.length, k);
		memcpy(((struct content *)h.content)->bytes, m->data, (size_t)h.length);
	} else if (m->kind != CACHED_FLUSH) {
		h.content = content_new(c, 0, k);
	}
	number = history_receive(c->history, &h);
	c->write_through = false;
	return number;
}

void
cache_answer(struct cache *c, uint64_t number, bool success)
{
	history_answer(c->history, number, success);
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

static void
restore(struct cache *c, const struct content *k, uint64_t offset, uint64_t length)
{
	enum disk_state failed;

	switch (k->kind) {
	case CONTENT_STATE:
		disk_zero(c->disk, offset, length, k->state);
		break;
	case CONTENT_BYTES:
		if (!disk_write(c->disk, offset, (size_t)length, k->bytes + (offset - k->offset), &failed))
			abort();
		break;
	case CONTENT_SPARSE:
		disk_copy(c->disk, offset, k->sparse, offset - k->base, length);
		break;
	}
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
	if (i + 1 < cell->n && cell->candidates[i]->content != NULL)
		restore(c, cell->candidates[i]->content, offset, length);
}

static void
leave_pieces(struct cache *c, const struct history_cell *cell, uint64_t (*random)(void *arg), void *arg)
{
	uint64_t end = cell->offset + cell->length, unit = c->config.tear_unit, next;

	for (uint64_t at = cell->offset; at < end; at = next) {
		next = (at / unit + 1) * unit;
		/* Nobody looks at each unit of a long range. */
		if (cell->length > BYTES_MOST && end - at > BYTES_MOST)
			next = (at / BYTES_MOST + 1) * BYTES_MOST;
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
	uint64_t limit = disk_memory_limit();
	struct history_cell cell;

	disk_limit_memory(UINT64_MAX);
	for (uint64_t from = 0; how != CUT_KEEP && history_next(c->history, from, &cell);
	     from = cell.offset + cell.length) {
		if (how == CUT_DROP)
			leave(c, &cell, newest_guaranteed(&cell), cell.offset, cell.length);
		else
			leave_pieces(c, &cell, random, arg);
	}
	disk_limit_memory(limit);
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
