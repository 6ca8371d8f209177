/* NBD_INFO_EXPORT, proto.md:1586. */
/* Seed: 0102030405060708 0a0b */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(info_export)
{
	REQUIRE((end == WIRE_EXACT) == (in.len == 10));
}
