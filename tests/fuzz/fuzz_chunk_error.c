/* NBD_REPLY_TYPE_ERROR, proto.md:1907. */
/* Seed: 0000004b 0003 626164 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(chunk_error)
{
	require_within(in, m->message);
	REQUIRE(end == WIRE_SHORT || m->message.len == m->message_length);
}
