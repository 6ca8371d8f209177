/* proto.md:97. */
/* Seed: 4e42444d41474943 0000420281861253 0102030405060708 0a0b002d */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(oldstyle_greeting)
{
	require_within(in, m->reserved);
	REQUIRE(end == WIRE_SHORT || m->reserved.len == NBD_EXPORT_NAME_PADDING);
}
