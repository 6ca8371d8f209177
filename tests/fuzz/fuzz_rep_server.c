/* NBD_REP_SERVER, proto.md:1537. */
/* Seed: 00000003 666f6f 68656c6c6f */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(rep_server)
{
	require_within(in, m->name);
	require_within(in, m->details);
	REQUIRE(end == WIRE_SHORT || (end == WIRE_EXACT && m->name.len == m->name_length));
}
