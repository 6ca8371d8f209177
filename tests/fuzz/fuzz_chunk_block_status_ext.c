/* NBD_REPLY_TYPE_BLOCK_STATUS_EXT, ext:2112. */
/* Seed: 01020304 00000002 0000000100001000 0000000000000003 0000000000002000 0000000000000001 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(chunk_block_status_ext)
{
	require_within(in, m->extents);
	REQUIRE((end == WIRE_SHORT) == (in.len < 8 + EXTENT_EXT_SIZE));
	REQUIRE(m->extents.len % EXTENT_EXT_SIZE == 0);
	REQUIRE(chunk_extent_ext(m, m->extents.len / EXTENT_EXT_SIZE).length == 0);
}
