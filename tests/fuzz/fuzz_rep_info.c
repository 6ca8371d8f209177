/* NBD_REP_INFO, proto.md:1572. */
/* Seed: 0001 666f6f */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(rep_info)
{
	require_within(in, m->payload);
	REQUIRE((end == WIRE_SHORT) == (in.len < 2));
}
