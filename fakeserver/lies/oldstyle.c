/* Lies of an oldstyle server that greeting.c does not tell: flags, sizes, and the clients that come later. */
#include "fakeserver/lie.h"
#include "harness/nbd.h"

/* The newstyle greeting of the server turns into an honest oldstyle one, which each lie then changes. */
static void
become_oldstyle(struct conn *c, struct outgoing *m)
{
	static const uint8_t zeroes[NBD_EXPORT_NAME_PADDING];

	c->export = &fake_config_of(c->server)->exports[0];
	c->flags = c->export->flags & (uint16_t)~NBD_FLAG_SEND_DF;
	c->phase = PHASE_TRANSMISSION;
	m->kind = MSG_OLDSTYLE_GREETING;
	m->oldstyle = (struct oldstyle_greeting){
		NBD_MAGIC, NBD_CLISERV_MAGIC, c->export->size, c->flags, { zeroes, sizeof(zeroes) }
	};
}

#define OLDSTYLE_LIE(ident, breaks, text, edit)                                                                        \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_GREETING && LIE_NOW) {                                                              \
			become_oldstyle(c, m);                                                                         \
			edit;                                                                                          \
		}                                                                                                      \
	}

OLDSTYLE_LIE(oldstyle_without_has_flags, BREAKS(R(has_flags_set)), "an oldstyle greeting lacks NBD_FLAG_HAS_FLAGS",
             m->oldstyle.flags &= ~(uint32_t)NBD_FLAG_HAS_FLAGS)
OLDSTYLE_LIE(oldstyle_flags_zero, BREAKS(R(has_flags_set)), "no flag is set in an oldstyle greeting",
             m->oldstyle.flags = 0)
OLDSTYLE_LIE(oldstyle_flags_off_by_one, BREAKS(R(has_flags_set)), "the flags of an oldstyle greeting are one too large",
             m->oldstyle.flags++)
OLDSTYLE_LIE(oldstyle_with_df, BREAKS(R(df_flag_without_structured)), "NBD_FLAG_SEND_DF is set in an oldstyle greeting",
             m->oldstyle.flags |= NBD_FLAG_SEND_DF)
OLDSTYLE_LIE(oldstyle_size_zero, BREAKS(R(read_past_end_einval)), "the size in an oldstyle greeting is zero",
             m->oldstyle.size = 0)
OLDSTYLE_LIE(oldstyle_size_too_small, BREAKS(R(read_past_end_einval)),
             "the size in an oldstyle greeting is 4096 bytes too small", m->oldstyle.size -= 4096)
OLDSTYLE_LIE(oldstyle_size_off_by_one, BREAKS(R(default_min_block)),
             "the size in an oldstyle greeting is one too large", m->oldstyle.size++)
OLDSTYLE_LIE(oldstyle_swapped, BREAKS(R(greeting_magic), R(numbers_big_endian)),
             "an oldstyle greeting is in little-endian byte order", m->swap = true)
OLDSTYLE_LIE(oldstyle_repeated, BREAKS(R(oldstyle_enters_transmission)), "an oldstyle greeting is sent twice",
             m->repeat = 1)
OLDSTYLE_LIE(oldstyle_reset, BREAKS(R(oldstyle_enters_transmission), R(greeting_magic)),
             "the connection is reset behind an oldstyle greeting", m->after = AFTER_RESET)
OLDSTYLE_LIE(oldstyle_size_differs, BREAKS(R(oldstyle_greeting_layout)),
             "oldstyle greetings tell a new size to every client", m->oldstyle.size -= 512 * (uint64_t)c->number)

/* CVE-2017-9524 (qemu). What .arg remembers shows at the next accept. */
LIE(oldstyle_leaving_ends_service, ON_PROCESS, BREAKS(R(greeting_magic)),
    "after a client that leaves within a request an oldstyle server lets nobody in")
{
	if (m->moment == PROCESS_DISCONNECT && c->phase == PHASE_TRANSMISSION && c->input.len > 0)
		l->arg = 1;
	if (m->moment == PROCESS_ACCEPT && LIE_NOW) {
		fake_config_of(c->server)->oldstyle = true;
		m->refuse = l->arg > 0;
	}
}
