/* proto.md:351. */
/* Seed: 25609513 0001 0001 1112131415161718 2122232425262728 00000003 616263 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(request)
{
	require_within(in, m->data);
	REQUIRE(end == WIRE_SHORT || m->data.len == (m->type == NBD_CMD_WRITE ? m->length : 0));
}
