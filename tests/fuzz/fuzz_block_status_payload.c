/* The payload of NBD_CMD_BLOCK_STATUS, ext:2510. */
/* Seed: 0000000100001000 00000001 01020304 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(block_status_payload)
{
	require_within(in, m->ids);
	REQUIRE((end == WIRE_SHORT) == (in.len < 8));
	REQUIRE(m->ids.len % 4 == 0);
	REQUIRE(block_status_payload_id(m, m->ids.len / 4) == 0);
}
