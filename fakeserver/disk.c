/*
 * A radix tree of 4 KiB pages. A slot at any level is NULL (never touched), TRIMMED (a hole), PROVISIONED (zeroes, but
 * no hole), or the next node or page; a whole subtree that reads as zeroes is therefore one slot, and reading or zeroing
 * it is one step. In the place of a page there may be the offset in a file where its bytes stand (disk_write_kept).
 */
#include "fakeserver/disk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { LONG_WRITE = 256 << 10 }; /* bytes */
enum { PAGE_BITS = 12, PAGE_BYTES = DISK_PAGE, NODE_BITS = 9, NODE_SLOTS = 1 << NODE_BITS };

struct node {
	void *slot[NODE_SLOTS];
};

struct disk {
	uint64_t size;
	unsigned levels; /* of nodes above the pages; 0: the root is a page */
	void *root;
	disk_reader *read; /* of what stands elsewhere */
	void *read_arg;
};

/*
 * Nodes and pages are blocks of one size, taken off slabs of huge pages: a page fault for each page would cost a long
 * WRITE more than its copying. Freed blocks are used again and never given back before the process ends.
 */
_Static_assert(PAGE_BYTES == 1 << PAGE_BITS, "one size of a page");
_Static_assert(sizeof(struct node) == PAGE_BYTES, "one size for both");

static struct {
	void **freed; /* apart from the blocks: to touch each one would wait for memory that nobody has in a cache */
	size_t n_freed, slabs;
	uint8_t *next, *end; /* what is left of the newest slab */
	uint64_t used, most;
} blocks = { .most = UINT64_C(8) << 30 >> PAGE_BITS };

enum { SLAB = 4 << 20, HUGE = 2 << 20 };

void
disk_limit_memory(uint64_t bytes)
{
	blocks.most = bytes >> PAGE_BITS;
}

uint64_t
disk_memory(void)
{
	return blocks.used << PAGE_BITS;
}

static bool
new_slab(void)
{
	void **freed = reallocarray(blocks.freed, blocks.slabs + 1, SLAB / PAGE_BYTES * sizeof(void *));
	uint8_t *at = MAP_FAILED;
	bool first = blocks.slabs == 0;

	if (freed != NULL) {
		blocks.freed = freed;
		at = mmap(NULL, SLAB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	}
	if (at == MAP_FAILED)
		return false;
	blocks.slabs++;
	/* Small disks stay small: only whoever fills a slab gets huge pages. */
	if (!first)
		madvise(at, SLAB, MADV_HUGEPAGE);
	blocks.next = at;
	blocks.end = at + (first ? HUGE : SLAB);
	return true;
}

/* NULL without memory. A fresh block is zero already. */
static void *
block_alloc(bool zeroed)
{
	void *block;

	if (blocks.used >= blocks.most)
		return NULL;
	if (blocks.n_freed > 0) {
		blocks.used++;
		block = blocks.freed[--blocks.n_freed];
		return zeroed ? memset(block, 0, PAGE_BYTES) : block;
	}
	if (blocks.next == blocks.end && !new_slab())
		return NULL;
	block = blocks.next;
	blocks.next += PAGE_BYTES;
	blocks.used++;
	return block;
}

static void
block_free(void *block)
{
	blocks.freed[blocks.n_freed++] = block; /* there is room for all that the slabs hold */
	blocks.used--;
}

static _Alignas(2) char trimmed, provisioned;
#define TRIMMED     ((void *)&trimmed)
#define PROVISIONED ((void *)&provisioned)

static enum disk_state
state_of(const void *slot)
{
	return slot == NULL          ? DISK_UNTOUCHED
	       : slot == TRIMMED     ? DISK_TRIMMED
	       : slot == PROVISIONED ? DISK_PROVISIONED
	                             : DISK_DATA;
}

static bool
is_empty(const void *slot)
{
	return state_of(slot) != DISK_DATA;
}

/* An offset in the file, odd as no pointer is. */
static void *
elsewhere(uint64_t where)
{
	return (void *)(uintptr_t)(where << 1 | 1);
}

static bool
is_elsewhere(const void *slot)
{
	return ((uintptr_t)slot & 1) != 0;
}

/* Somebody may have cut the file off, and then there is nothing to go on with. */
static void
read_elsewhere(const struct disk *d, const void *slot, uint64_t in_page, size_t n, uint8_t *data)
{
	if (d->read(d->read_arg, ((uintptr_t)slot >> 1) + in_page, n, data))
		return;
	fprintf(stderr,
	        "nbdspec: what a disk in memory holds cannot be read back from the trace: leave that file alone\n");
	abort();
}

/* The last byte of a subtree, counted from its first; the top of a large tree is wider than 64 bits. */
static uint64_t
level_mask(unsigned level)
{
	unsigned bits = PAGE_BITS + NODE_BITS * level;

	return bits < 64 ? (UINT64_C(1) << bits) - 1 : UINT64_MAX;
}

static unsigned
index_at(uint64_t offset, unsigned level)
{
	return (offset >> (PAGE_BITS + NODE_BITS * (level - 1))) & (NODE_SLOTS - 1);
}

struct disk *
disk_new(uint64_t size)
{
	struct disk *d = calloc(1, sizeof(*d));

	if (d == NULL)
		abort();
	d->size = size;
	while (size > 0 && level_mask(d->levels) < size - 1)
		d->levels++;
	return d;
}

static void
free_subtree(void *slot, unsigned level)
{
	struct node *node = slot;

	if (is_empty(slot) || is_elsewhere(slot))
		return;
	for (unsigned i = 0; level > 0 && i < NODE_SLOTS; i++)
		free_subtree(node->slot[i], level - 1);
	block_free(slot);
}

void
disk_free(struct disk *d)
{
	if (d == NULL)
		return;
	free_subtree(d->root, d->levels);
	free(d);
}

uint64_t
disk_size(const struct disk *d)
{
	return d->size;
}

/* The page that holds offset, or the empty subtree around it; *level is its height. */
static const void *
find(const struct disk *d, uint64_t offset, unsigned *level)
{
	const void *slot = d->root;

	for (*level = d->levels; *level > 0 && !is_empty(slot); --*level)
		slot = ((const struct node *)slot)->slot[index_at(offset, *level)];
	return slot;
}

/* How many bytes of a request lie on the disk. */
static size_t
clamp(const struct disk *d, uint64_t offset, size_t length)
{
	if (offset >= d->size)
		return 0;
	return length < d->size - offset ? length : (size_t)(d->size - offset);
}

void
disk_read(const struct disk *d, uint64_t offset, size_t length, uint8_t *data)
{
	size_t inside = clamp(d, offset, length);

	if (inside < length)
		memset(data + inside, 0, length - inside);
	for (size_t n; inside > 0; inside -= n, offset += n, data += n) {
		unsigned level;
		const uint8_t *page = find(d, offset, &level);
		uint64_t to_end = level_mask(level) - (offset & level_mask(level));

		n = inside - 1 <= to_end ? inside : (size_t)to_end + 1;
		if (is_empty(page))
			memset(data, 0, n);
		else if (is_elsewhere(page))
			read_elsewhere(d, page, offset % PAGE_BYTES, n, data);
		else
			memcpy(data, page + offset % PAGE_BYTES, n);
	}
}

/* Makes a node whose slots are all what the slot was. */
static struct node *
split(void **slot)
{
	void *was = *slot;
	struct node *node = block_alloc(was == NULL);

	if (node != NULL && was != NULL)
		for (unsigned i = 0; i < NODE_SLOTS; i++)
			node->slot[i] = was;
	if (node != NULL)
		*slot = node;
	return node;
}

/* What stands for the page at offset; NULL without memory. */
static void **
page_slot(struct disk *d, uint64_t offset)
{
	void **slot = &d->root;

	for (unsigned level = d->levels; level > 0; level--) {
		if (is_empty(*slot) && split(slot) == NULL)
			return NULL;
		slot = &((struct node *)*slot)->slot[index_at(offset, level)];
	}
	return slot;
}

/* The page to be written; a new one has no contents where all of it is about to be written. NULL without memory. */
static uint8_t *
own_page(const struct disk *d, void **slot, bool whole)
{
	uint8_t *page;

	if (!is_empty(*slot) && !is_elsewhere(*slot))
		return *slot;
	page = block_alloc(!whole && is_empty(*slot));
	if (page == NULL)
		return NULL;
	if (!whole && is_elsewhere(*slot))
		read_elsewhere(d, *slot, 0, PAGE_BYTES, page);
	*slot = page;
	return page;
}

enum disk_state
disk_state(const struct disk *d, uint64_t offset, uint64_t *run)
{
	unsigned level;
	enum disk_state state = state_of(find(d, offset, &level));
	uint64_t to_end = level_mask(level) - (offset & level_mask(level));

	*run = to_end < d->size - offset - 1 ? to_end + 1 : d->size - offset;
	return state;
}

/*
 * A whole page, of a long write: who reads it again does so when it has left the processor's caches anyhow, and to write
 * past them saves reading what is overwritten.
 */
static void
copy_past_cache(uint8_t *page, const uint8_t *data)
{
#ifdef __SSE2__
	for (size_t i = 0; i < PAGE_BYTES; i += sizeof(__m128i))
		_mm_stream_si128((__m128i *)(void *)(page + i),
		                 _mm_loadu_si128((const __m128i *)(const void *)(data + i)));
#else
	memmove(page, data, PAGE_BYTES);
#endif
}

bool
disk_write(struct disk *d, uint64_t offset, size_t length, const uint8_t *data, enum disk_state *failed)
{
	return disk_write_kept(d, offset, length, data, DISK_NOT_KEPT, failed);
}

void
disk_reads_from(struct disk *d, disk_reader *read, void *arg)
{
	d->read = read;
	d->read_arg = arg;
}

static void
write_page(uint8_t *page, size_t in_page, size_t n, const uint8_t *data, bool is_long)
{
	if (n == PAGE_BYTES && is_long)
		copy_past_cache(page, data);
	else
		/* Since gcc would make of memcpy a string instruction, slow where the payload is unaligned. */
		memmove(page + in_page, data, n);
}

bool
disk_write_kept(struct disk *d, uint64_t offset, size_t length, const uint8_t *data, uint64_t where,
                enum disk_state *failed)
{
	uint64_t run;
	size_t n;
	bool is_long, kept = where != DISK_NOT_KEPT && d->read != NULL;

	length = clamp(d, offset, length);
	is_long = length >= LONG_WRITE;
	for (; length > 0; length -= n, offset += n, data += n, where += n) {
		size_t in_page = offset % PAGE_BYTES;
		uint8_t *page = NULL;
		void **slot = page_slot(d, offset);

		n = PAGE_BYTES - in_page < length ? PAGE_BYTES - in_page : length;
		if (slot != NULL && n == PAGE_BYTES && kept) {
			free_subtree(*slot, 0);
			*slot = elsewhere(where);
			continue;
		}
		if (slot != NULL)
			page = own_page(d, slot, n == PAGE_BYTES);
		if (page == NULL) {
			*failed = disk_state(d, offset, &run);
			return false;
		}
		write_page(page, in_page, n, data, is_long);
	}
	return true;
}

static void
zero_part(const struct disk *d, void **slot, uint64_t first, uint64_t last)
{
	uint64_t limit = blocks.most;
	uint8_t *page;

	/* What stands elsewhere comes home, whatever the limit is: it must not stay as it was. */
	blocks.most = UINT64_MAX;
	page = own_page(d, slot, false);
	blocks.most = limit;
	if (page == NULL)
		abort();
	memset(page + first, 0, (size_t)(last - first + 1));
}

/* Zeroes [first, last], offsets within the subtree. What cannot be split for want of memory was empty: it stays so. */
static void
zero_subtree(const struct disk *d, void **slot, unsigned level, uint64_t first, uint64_t last, void *fill)
{
	struct node *node;
	uint64_t mask;

	if (*slot == fill)
		return;
	if (first == 0 && last == level_mask(level)) {
		free_subtree(*slot, level);
		*slot = fill;
		return;
	}
	if (level == 0) {
		if (!is_empty(*slot))
			zero_part(d, slot, first, last);
		else if (*slot != PROVISIONED) /* a part of what is no hole is not made one */
			*slot = fill;
		return;
	}
	node = is_empty(*slot) ? split(slot) : *slot;
	if (node == NULL)
		return;
	mask = level_mask(level - 1);
	for (unsigned i = index_at(first, level); i <= index_at(last, level); i++)
		zero_subtree(d, &node->slot[i], level - 1, i == index_at(first, level) ? first & mask : 0,
		             i == index_at(last, level) ? last & mask : mask, fill);
}

void
disk_zero(struct disk *d, uint64_t offset, uint64_t length, enum disk_state how)
{
	if (offset >= d->size || length == 0)
		return;
	if (length > d->size - offset)
		length = d->size - offset;
	zero_subtree(d, &d->root, d->levels, offset, offset + length - 1,
	             how == DISK_PROVISIONED ? PROVISIONED : TRIMMED);
}

/* ---- saved ranges ---- */

enum { SAVED_PAGES_MOST = 16384 };

struct disk_saved {
	uint64_t offset, length, bytes;
	bool paged;
	void *plain;         /* what every page is; or else … */
	struct disk *sparse; /* … a copy of the range, with its pages where they were; or else … */
	void *page[];        /* … what each page is, from that of .offset on */
};

static uint64_t
page_of(uint64_t offset)
{
	return offset >> PAGE_BITS;
}

/* Is the range all of one state and no data? Then *slot is it. */
static bool
is_plain(const struct disk *d, uint64_t offset, uint64_t length, void **slot)
{
	unsigned level;
	uint64_t to_end;

	*slot = (void *)(uintptr_t)find(d, offset, &level);
	for (uint64_t at = offset, last = offset + length - 1;;) {
		const void *now = find(d, at, &level);

		if (!is_empty(now) || now != *slot)
			return false;
		to_end = level_mask(level) - (at & level_mask(level));
		if (to_end >= last - at)
			return true;
		at += to_end + 1;
	}
}

static void *
copy_of_page(const void *page)
{
	void *copy = block_alloc(false);

	if (copy == NULL)
		abort();
	return memcpy(copy, page, PAGE_BYTES);
}

/* The slot of a page, or NULL where a whole subtree is empty: then *empty is what it is. */
static void **
slot_of(struct disk *d, uint64_t offset, void **empty)
{
	void **slot = &d->root;

	for (unsigned level = d->levels; level > 0; level--) {
		if (is_empty(*slot)) {
			*empty = *slot;
			return NULL;
		}
		slot = &((struct node *)*slot)->slot[index_at(offset, level)];
	}
	return slot;
}

static struct disk_saved *
take_pages(struct disk *d, uint64_t offset, uint64_t length)
{
	uint64_t first = page_of(offset), n = page_of(offset + length - 1) - first + 1;
	struct disk_saved *s = malloc(sizeof(*s) + n * sizeof(s->page[0]));

	if (s == NULL)
		abort();
	*s = (struct disk_saved){ .offset = offset, .length = length, .paged = true };
	for (uint64_t i = 0; i < n; i++) {
		uint64_t at = (first + i) << PAGE_BITS;
		void **slot = slot_of(d, at, &s->page[i]);

		if (slot == NULL)
			continue;
		s->page[i] = *slot;
		if (is_empty(*slot))
			continue;
		s->bytes += PAGE_BYTES;
		if (at >= offset && PAGE_BYTES <= offset + length - at)
			*slot = NULL;
		else
			s->page[i] = copy_of_page(*slot);
	}
	return s;
}

/* Copies the pages between two disks with the same offsets. */
static uint64_t
copy_pages(struct disk *to, const struct disk *from, uint64_t offset, uint64_t length)
{
	uint64_t data = 0;

	for (uint64_t run; length > 0; length -= run, offset += run) {
		enum disk_state state = disk_state(from, offset, &run), failed;
		unsigned level;

		run = run < length ? run : length;
		if (state != DISK_DATA) {
			disk_zero(to, offset, run, state);
			continue;
		}
		if (!disk_write(to, offset, (size_t)run,
		                (const uint8_t *)find(from, offset, &level) + offset % PAGE_BYTES, &failed))
			abort();
		data += run;
	}
	return data;
}

/* Without a limit of memory. */
static void
bring_home(struct disk *d, uint64_t offset, uint64_t length)
{
	void *empty, **slot;

	if (d->read == NULL)
		return;
	for (uint64_t at = offset & ~(uint64_t)(PAGE_BYTES - 1); at < offset + length; at += PAGE_BYTES) {
		slot = slot_of(d, at, &empty);
		if (slot != NULL && is_elsewhere(*slot) && own_page(d, slot, false) == NULL)
			abort();
	}
}

struct disk_saved *
disk_take(struct disk *d, uint64_t offset, uint64_t length)
{
	uint64_t limit = blocks.most;
	struct disk_saved *s;
	void *slot;

	blocks.most = UINT64_MAX;
	bring_home(d, offset, length);
	if (!is_plain(d, offset, length, &slot) && length <= (uint64_t)SAVED_PAGES_MOST << PAGE_BITS) {
		s = take_pages(d, offset, length);
	} else {
		s = calloc(1, sizeof(*s));
		if (s == NULL)
			abort();
		*s = (struct disk_saved){ .offset = offset, .length = length, .plain = slot };
		if (!is_plain(d, offset, length, &slot)) {
			s->sparse = disk_new(d->size);
			s->bytes = copy_pages(s->sparse, d, offset, length);
		}
	}
	blocks.most = limit;
	return s;
}

static void
put_page(struct disk *d, const void *page, uint64_t offset, uint64_t length)
{
	enum disk_state failed;

	if (is_empty(page))
		disk_zero(d, offset, length, state_of(page));
	else if (!disk_write(d, offset, (size_t)length, (const uint8_t *)page + offset % PAGE_BYTES, &failed))
		abort();
}

void
disk_put(struct disk *d, const struct disk_saved *s, uint64_t offset, uint64_t length)
{
	uint64_t limit = blocks.most, n;

	blocks.most = UINT64_MAX;
	if (s->sparse != NULL) {
		copy_pages(d, s->sparse, offset, length);
	} else if (!s->paged) {
		disk_zero(d, offset, length, state_of(s->plain));
	} else {
		for (; length > 0; length -= n, offset += n) {
			n = PAGE_BYTES - offset % PAGE_BYTES;
			n = n < length ? n : length;
			put_page(d, s->page[page_of(offset) - page_of(s->offset)], offset, n);
		}
	}
	blocks.most = limit;
}

void
disk_saved_free(struct disk_saved *s)
{
	if (s == NULL)
		return;
	if (s->paged)
		for (uint64_t i = 0; i <= page_of(s->offset + s->length - 1) - page_of(s->offset); i++)
			if (!is_empty(s->page[i]))
				block_free(s->page[i]);
	disk_free(s->sparse);
	free(s);
}

uint64_t
disk_saved_offset(const struct disk_saved *s)
{
	return s->offset;
}

uint64_t
disk_saved_length(const struct disk_saved *s)
{
	return s->length;
}

uint64_t
disk_saved_bytes(const struct disk_saved *s)
{
	return sizeof(*s) + s->bytes;
}
