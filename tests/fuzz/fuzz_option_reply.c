/* proto.md:197. */
/* Seed: 0003e889045565a9 00000007 80000006 00000002 6e6f */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(option_reply)
{
	require_within(in, m->data);
	REQUIRE(end == WIRE_SHORT || m->data.len == m->length);
}
