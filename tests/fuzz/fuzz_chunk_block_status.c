/* NBD_REPLY_TYPE_BLOCK_STATUS, proto.md:1845. */
/* Seed: 01020304 00001000 00000003 00002000 00000001 */
#include "tests/fuzz/fuzz.h"

/* An encoder writes one extent at a time, the decoder takes them all. */
static void
wire_put_chunk_block_status(struct buf *b, const struct chunk_block_status *m)
{
	put_be32(b, m->context_id);
	for (size_t i = 0; i < m->extents.len / EXTENT_SIZE; i++)
		wire_put_extent(b, chunk_extent(m, i));
}

FUZZ_MESSAGE(chunk_block_status)
{
	require_within(in, m->extents);
	REQUIRE((end == WIRE_SHORT) == (in.len < 4 + EXTENT_SIZE));
	REQUIRE(m->extents.len % EXTENT_SIZE == 0);
	REQUIRE(chunk_extent(m, m->extents.len / EXTENT_SIZE).length == 0);
}
