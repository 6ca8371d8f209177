/* Option haggling in general: options that nobody knows, payloads, staying in step. */
#include "harness/test.h"

/* proto.md:2420 */
CASE(option, unknown_is_refused, "An option that nobody knows is refused by name, and the next one is still understood",
     R(unknown_option_unsup), R(next_message_parsed), R(option_gets_reply))
{
	struct option_reply r;

	open_fixed_newstyle(t);
	send_option(t, 0x7fffffff, "payload", 7);
	r = recv_option_reply(t, R(option_gets_reply));
	EXPECT_REPLY(t, R(unknown_option_unsup), r.type, NBD_REP_ERR_UNSUP);
	expect_in_step(t, R(next_message_parsed));
}
