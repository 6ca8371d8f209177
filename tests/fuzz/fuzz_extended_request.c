/* ext:388. */
/* Seed: 21e41c71 0020 0001 1112131415161718 2122232425262728 0000000000000003 616263 */
/* Seed: 21e41c71 0000 0004 1112131415161718 2122232425262728 0000000100001000 */
#include "tests/fuzz/fuzz.h"

FUZZ_MESSAGE_AS(extended_request, request)
{
	require_within(in, m->data);
	REQUIRE(end == WIRE_SHORT || m->data.len == (request_has_payload(m) ? m->length : 0));
}
