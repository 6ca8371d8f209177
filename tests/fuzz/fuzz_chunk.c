/* proto.md:420. */
/* Seed: 668e33ef 0001 8002 1112131415161718 00000003 616263 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(chunk)
{
	require_within(in, m->data);
	REQUIRE(end == WIRE_SHORT || m->data.len == m->length);
}
