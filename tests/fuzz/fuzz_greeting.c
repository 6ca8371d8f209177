/* proto.md:127. */
/* Seed: 4e42444d41474943 49484156454f5054 0003 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(greeting)
{
	REQUIRE((end == WIRE_EXACT) == (in.len == GREETING_SIZE));
}
