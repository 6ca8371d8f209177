/* NBD_CMD_READ with simple replies. */
#include "harness/test.h"

CASE(read, first_block, "A READ of the first block is answered with as many bytes as it asks for",
     R(read_returns_data), R(simple_reply_read_payload))
{
	uint8_t data[65536];

	enter_transmission(t);
	need_size(t, blocks(t, 512));
	must_read(t, 0, blocks(t, 512), data, R(read_returns_data));
	expect_in_step(t, R(simple_reply_read_payload));
}
