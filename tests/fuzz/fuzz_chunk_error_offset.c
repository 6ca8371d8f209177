/* NBD_REPLY_TYPE_ERROR_OFFSET, proto.md:1929. */
/* Seed: 0000005f 0003 626164 2122232425262728 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE(chunk_error_offset)
{
	require_within(in, m->message);
	REQUIRE(end == WIRE_SHORT || m->message.len == m->message_length);
}
