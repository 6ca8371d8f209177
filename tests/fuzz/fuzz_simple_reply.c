/* proto.md:368. */
/* Seed: 67446698 00000000 1112131415161718 616263 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(simple_reply)
{
	require_within(in, m->data);
	REQUIRE((end == WIRE_SHORT) == (in.len < SIMPLE_REPLY_SIZE));
}
