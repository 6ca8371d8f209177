/* proto.md:146. */
/* Seed: 49484156454f5054 00000001 00000004 6469736b */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(option)
{
	require_within(in, m->data);
	REQUIRE(end == WIRE_SHORT || m->data.len == m->length);
}
