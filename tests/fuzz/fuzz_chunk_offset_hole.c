/* NBD_REPLY_TYPE_OFFSET_HOLE, proto.md:1832. */
/* Seed: 2122232425262728 01020304 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(chunk_offset_hole)
{
	REQUIRE((end == WIRE_EXACT) == (in.len == 12));
}
