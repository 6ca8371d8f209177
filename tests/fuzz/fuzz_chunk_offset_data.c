/* NBD_REPLY_TYPE_OFFSET_DATA, proto.md:1816. */
/* Seed: 2122232425262728 616263 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(chunk_offset_data)
{
	require_within(in, m->data);
	REQUIRE((end == WIRE_SHORT) == (in.len < 8));
}
