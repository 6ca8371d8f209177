/* NBD_INFO_BLOCK_SIZE, proto.md:1632. */
/* Seed: 00000200 00001000 02000000 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(info_block_size)
{
	REQUIRE((end == WIRE_EXACT) == (in.len == 12));
}
