/* Which table, or which part of the guest's disk, a place in a qcow2 image belongs to: by its header and its tables. */
#include "harness/crash/places.h"

#include <inttypes.h>

/* docs/interop/qcow2.txt of qemu: bits 9 to 55 of an entry are the offset; bit 62 tells a compressed cluster. */
#define OFFSET_MASK UINT64_C(0x00fffffffffffe00)
#define COMPRESSED  (UINT64_C(1) << 62)
#define UNDERSTOOD  UINT64_C(3) /* incompatible features: the dirty bit, the corrupt bit */

enum { CLUSTERS_MOST = 64, CLUSTER_BITS_LEAST = 9, CLUSTER_BITS_MOST = 21 };

struct qcow2 {
	const struct image *image;
	struct place *place;
	unsigned bits;                                   /* of a cluster */
	uint64_t l1, l1_size, refcounts, refcounts_size; /* tables: their places, their entries */
};

/* 0 outside of the image. */
static uint64_t
be(const struct qcow2 *q, uint64_t offset, unsigned bytes)
{
	uint64_t value = 0;

	if (offset > q->image->size || bytes > q->image->size - offset)
		return 0;
	for (unsigned i = 0; i < bytes; i++)
		value = value << 8 | q->image->at[offset + i];
	return value;
}

static bool
read_header(struct qcow2 *q)
{
	q->bits = (unsigned)be(q, 20, 4);
	q->l1_size = be(q, 36, 4);
	q->l1 = be(q, 40, 8);
	q->refcounts = be(q, 48, 8);
	if (q->bits < CLUSTER_BITS_LEAST || q->bits > CLUSTER_BITS_MOST)
		return false;
	q->refcounts_size = be(q, 56, 4) << q->bits >> 3;
	/* A table that does not fit is none. */
	return q->l1_size <= q->image->size / 8 && q->refcounts_size <= q->image->size / 8 &&
	       (be(q, 4, 4) == 2 || (be(q, 72, 8) & ~UNDERSTOOD) == 0);
}

static bool
within(uint64_t at, uint64_t table, uint64_t entries)
{
	return table != 0 && at >= table && at - table < entries * 8;
}

/* An L2 table, or a cluster that it maps. */
static bool
find_by_l1(const struct qcow2 *q, uint64_t at, uint64_t end)
{
	uint64_t entries = (UINT64_C(1) << q->bits) / 8, cluster = at >> q->bits << q->bits;

	for (uint64_t i = 0; i < q->l1_size; i++) {
		uint64_t l2 = be(q, q->l1 + 8 * i, 8) & OFFSET_MASK, last;

		if (l2 == 0)
			continue;
		if (l2 == cluster) {
			last = (end - l2 < entries * 8 ? end - l2 - 1 : entries * 8 - 1) / 8;
			place_add(q->place, "L2 table, entries of guest offsets %" PRIu64 " to %" PRIu64,
			          (i * entries + (at - l2) / 8) << q->bits, (i * entries + last) << q->bits);
			return true;
		}
		for (uint64_t k = 0; k < entries; k++) {
			uint64_t entry = be(q, l2 + 8 * k, 8);

			if ((entry & COMPRESSED) == 0 && (entry & OFFSET_MASK) == cluster) {
				place_add(q->place, "data at guest offset %" PRIu64,
				          ((i * entries + k) << q->bits) + at - cluster);
				return true;
			}
		}
	}
	return false;
}

static void
find(const struct qcow2 *q, uint64_t at, uint64_t end)
{
	uint64_t cluster = at >> q->bits << q->bits;

	if (cluster == 0) {
		place_add(q->place, "qcow2 header");
	} else if (within(at, q->l1, q->l1_size)) {
		place_add(q->place, "L1 table");
	} else if (within(at, q->refcounts, q->refcounts_size)) {
		place_add(q->place, "refcount table");
	} else if (!find_by_l1(q, at, end)) {
		for (uint64_t i = 0; i < q->refcounts_size; i++)
			if ((be(q, q->refcounts + 8 * i, 8) & ~UINT64_C(511)) == cluster)
				place_add(q->place, "refcount block %" PRIu64, i);
	}
}

static void
find_all(const struct qcow2 *q)
{
	uint64_t at = q->place->offset, end = at + q->place->length;

	for (unsigned n = 0; at < end && n < CLUSTERS_MOST; n++) {
		find(q, at, end);
		at = ((at >> q->bits) + 1) << q->bits;
	}
}

void
place_in_qcow2(struct place_disk *d)
{
	struct qcow2 q = { .image = d->image };

	if (!read_header(&q))
		return;
	for (size_t i = 0; i < d->n; i++) {
		q.place = d->places[i];
		find_all(&q);
	}
}
