/* NBD_REPLY_TYPE_BLOCK_STATUS, proto.md:1845. */
/* Seed: 01020304 00001000 00000003 00002000 00000001 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(chunk_block_status)
{
	require_within(in, m->extents);
	REQUIRE((end == WIRE_SHORT) == (in.len < 4 + EXTENT_SIZE));
	REQUIRE(m->extents.len % EXTENT_SIZE == 0);
	REQUIRE(chunk_extent(m, m->extents.len / EXTENT_SIZE).length == 0);
}
