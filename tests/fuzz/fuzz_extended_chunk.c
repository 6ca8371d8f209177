/* ext:525. */
/* Seed: 6e8a278c 0001 0001 1112131415161718 2122232425262728 0000000000000003 616263 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE_AS(extended_chunk, chunk)
{
	require_within(in, m->data);
	REQUIRE(end == WIRE_SHORT || m->data.len == m->length);
}
