/* The reply to NBD_OPT_EXPORT_NAME, proto.md:160. */
/* Seed: 0102030405060708 0101 0000 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(export_name_reply)
{
	require_within(in, m->padding);
	REQUIRE(end != WIRE_EXTRA);
}
