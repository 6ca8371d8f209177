/* proto.md:132. */
/* Seed: 00000003 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(client_flags)
{
	REQUIRE((end == WIRE_EXACT) == (in.len == CLIENT_FLAGS_SIZE));
}
