/*
 * A radix tree of 4 KiB pages. A slot at any level is NULL (never touched), TRIMMED (a hole), PROVISIONED (zeroes, but
 * no hole), or the next node or page; a whole subtree that reads as zeroes is therefore one slot, and reading or zeroing
 * it is one step.
 */
#include "fakeserver/disk.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE_BITS = 12, PAGE_BYTES = DISK_PAGE, NODE_BITS = 9, NODE_SLOTS = 1 << NODE_BITS };

struct node {
	void *slot[NODE_SLOTS];
};

struct disk {
	uint64_t size;
	unsigned levels; /* of nodes above the pages; 0: the root is a page */
	void *root;
};

/*
 * Nodes and pages are blocks of one size, taken off slabs of huge pages: a page fault for each page would cost a long
 * WRITE more than its copying. Freed blocks are used again and never given back before the process ends.
 */
_Static_assert(PAGE_BYTES == 1 << PAGE_BITS, "one size of a page");
_Static_assert(sizeof(struct node) == PAGE_BYTES, "one size for both");

static struct {
	void *freed;         /* a list through the first bytes of each block */
	uint8_t *next, *end; /* what is left of the newest slab */
	uint64_t used, most;
} blocks = { .most = UINT64_C(8) << 30 >> PAGE_BITS };

void
disk_limit_memory(uint64_t bytes)
{
	blocks.most = bytes == UINT64_MAX ? UINT64_MAX : bytes >> PAGE_BITS;
}

uint64_t
disk_memory_limit(void)
{
	return blocks.most == UINT64_MAX ? UINT64_MAX : blocks.most << PAGE_BITS;
}

uint64_t
disk_memory(void)
{
	return blocks.used << PAGE_BITS;
}

static bool
new_slab(void)
{
	enum { SLAB = 4 << 20, HUGE = 2 << 20 };
	uint8_t *at = mmap(NULL, SLAB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool first = blocks.end == NULL;

	if (at == MAP_FAILED)
		return false;
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
	void *block = blocks.freed;

	if (blocks.used >= blocks.most)
		return NULL;
	if (block != NULL) {
		blocks.used++;
		memcpy(&blocks.freed, block, sizeof(blocks.freed));
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
	memcpy(block, &blocks.freed, sizeof(blocks.freed));
	blocks.freed = block;
	blocks.used--;
}

static char trimmed, provisioned;
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

	if (is_empty(slot))
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

/* The page to be written at offset; a new one is zeroed unless all of it is about to be written. */
static uint8_t *
page_at(struct disk *d, uint64_t offset, bool whole)
{
	void **slot = &d->root;

	for (unsigned level = d->levels; level > 0; level--) {
		if (is_empty(*slot) && split(slot) == NULL)
			return NULL;
		slot = &((struct node *)*slot)->slot[index_at(offset, level)];
	}
	if (is_empty(*slot)) {
		uint8_t *page = block_alloc(!whole);

		if (page == NULL)
			return NULL;
		*slot = page;
	}
	return *slot;
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

bool
disk_write(struct disk *d, uint64_t offset, size_t length, const uint8_t *data, enum disk_state *failed)
{
	uint64_t run;
	size_t n;

	length = clamp(d, offset, length);
	for (; length > 0; length -= n, offset += n, data += n) {
		size_t in_page = offset % PAGE_BYTES;
		uint8_t *page;

		n = PAGE_BYTES - in_page < length ? PAGE_BYTES - in_page : length;
		page = page_at(d, offset, n == PAGE_BYTES);
		if (page == NULL) {
			*failed = disk_state(d, offset, &run);
			return false;
		}
		/* memmove, since gcc would make of memcpy a string instruction, slow where the payload is unaligned. */
		memmove(page + in_page, data, n);
	}
	return true;
}

/* Zeroes [first, last], offsets within the subtree. What cannot be split for want of memory was empty: it stays so. */
static void
zero_subtree(void **slot, unsigned level, uint64_t first, uint64_t last, void *fill)
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
			memset((uint8_t *)*slot + first, 0, (size_t)(last - first + 1));
		else if (*slot != PROVISIONED) /* a part of what is no hole is not made one */
			*slot = fill;
		return;
	}
	node = is_empty(*slot) ? split(slot) : *slot;
	if (node == NULL)
		return;
	mask = level_mask(level - 1);
	for (unsigned i = index_at(first, level); i <= index_at(last, level); i++)
		zero_subtree(&node->slot[i], level - 1, i == index_at(first, level) ? first & mask : 0,
		             i == index_at(last, level) ? last & mask : mask, fill);
}

void
disk_zero(struct disk *d, uint64_t offset, uint64_t length, enum disk_state how)
{
	if (offset >= d->size || length == 0)
		return;
	if (length > d->size - offset)
		length = d->size - offset;
	zero_subtree(&d->root, d->levels, offset, offset + length - 1, how == DISK_PROVISIONED ? PROVISIONED : TRIMMED);
}

uint64_t
disk_copy(struct disk *to, uint64_t to_offset, const struct disk *from, uint64_t from_offset, uint64_t length)
{
	uint64_t limit = disk_memory_limit(), run, data = 0;
	uint8_t page[PAGE_BYTES];

	disk_limit_memory(UINT64_MAX);
	for (; length > 0; length -= run, to_offset += run, from_offset += run) {
		enum disk_state state = disk_state(from, from_offset, &run), failed;

		if (run > length)
			run = length;
		if (state != DISK_DATA) {
			disk_zero(to, to_offset, run, state);
			continue;
		}
		disk_read(from, from_offset, (size_t)run, page);
		if (!disk_write(to, to_offset, (size_t)run, page, &failed))
			abort();
		data += run;
	}
	disk_limit_memory(limit);
	return data;
}
