/* NBD_REP_META_CONTEXT, proto.md:1641. */
/* Seed: 01020304 626173653a616c6c6f636174696f6e */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(rep_meta_context)
{
	require_within(in, m->name);
	REQUIRE((end == WIRE_SHORT) == (in.len < 4));
}
