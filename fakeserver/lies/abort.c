/* Lies about NBD_OPT_ABORT. */
#include "fakeserver/lie.h"
#include "harness/nbd.h"

#define ACK_LIE(ident, breaks, text, edit)                                                                             \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_ABORT && LIE_NOW) {                            \
			edit;                                                                                          \
		}                                                                                                      \
	}

/* ---- fields of the ACK ---- */

ACK_LIE(abort_magic_off_by_one, BREAKS(R(option_reply_magic)), "the magic of the reply to ABORT is one too large",
        m->reply.magic++)
ACK_LIE(abort_echoes_zero, BREAKS(R(option_reply_echoes_option)), "the reply to ABORT tells of option 0",
        m->reply.option = 0)
ACK_LIE(abort_echoes_next, BREAKS(R(option_reply_echoes_option)), "the reply to ABORT tells of the option behind it",
        m->reply.option++)
ACK_LIE(abort_echo_swapped, BREAKS(R(option_reply_echoes_option)),
        "the reply to ABORT tells of the option in little-endian byte order",
        m->reply.option = __builtin_bswap32(m->reply.option))
ACK_LIE(abort_type_zero, BREAKS(R(abort_acked)), "the reply to ABORT has type 0", m->reply.type = 0)
ACK_LIE(abort_type_off_by_one, BREAKS(R(abort_acked)), "the reply to ABORT is NBD_REP_SERVER", m->reply.type++)
ACK_LIE(abort_type_ones, BREAKS(R(abort_acked)), "the type of the reply to ABORT is all ones",
        m->reply.type = UINT32_MAX)
ACK_LIE(abort_swapped, BREAKS(R(option_reply_magic)), "the reply to ABORT is in little-endian byte order",
        m->swap = true)
ACK_LIE(abort_length_off_by_one, BREAKS(R(option_reply_length)),
        "the reply to ABORT announces a byte that does not come", m->length_off = 1)
/* nbd-server 6201b7d, there with errors. */
ACK_LIE(abort_length_ones, BREAKS(R(option_reply_length)), "the length of the reply to ABORT is all ones",
        m->length_off = -1)
ACK_LIE(abort_ack_has_data, BREAKS(R(rep_ack_empty)), "the ACK to ABORT carries data", m->reply.data = BYTES_OF("bye"))
ACK_LIE(abort_unsupported, BREAKS(R(baseline_abort), R(abort_ignores_data)), "ABORT is answered with NBD_REP_ERR_UNSUP",
        m->reply.type = NBD_REP_ERR_UNSUP)
ACK_LIE(abort_refused, BREAKS(R(abort_acked), R(abort_ignores_data)), "ABORT is answered with NBD_REP_ERR_POLICY",
        m->reply.type = NBD_REP_ERR_POLICY)

/* ---- transport ---- */

/* What an older protocol text let servers do (proto.md:1201). */
ACK_LIE(abort_unanswered, BREAKS(R(abort_acked)), "on ABORT the server closes the connection without a reply",
        m->drop = true)
ACK_LIE(abort_reset, BREAKS(R(abort_acked)), "on ABORT the server resets the connection", m->drop = true;
        m->after = AFTER_RESET)
ACK_LIE(abort_cut, BREAKS(R(abort_acked)), "the connection ends within the reply to ABORT", m->cut = 10)
ACK_LIE(abort_cut_at_once, BREAKS(R(abort_acked)), "the connection ends after one byte of the reply to ABORT",
        m->cut = 1)
ACK_LIE(abort_acked_twice, BREAKS(R(abort_acked)), "ABORT is answered with two ACKs", m->repeat = 1)

LIE(abort_ignored, ON_INCOMING, BREAKS(R(abort_acked)), "ABORT is neither answered, nor does it end anything")
{
	if (m->kind == MSG_OPTION && m->option.option == NBD_OPT_ABORT && LIE_NOW)
		m->ignore = true;
}

/* ---- data and other options ---- */

/* Honestly refused as a LIST with data; the reply echoes what came, as c->option was set before. */
LIE(abort_data_is_invalid, ON_INCOMING, BREAKS(R(abort_ignores_data)),
    "ABORT with data is answered with NBD_REP_ERR_INVALID")
{
	if (m->kind == MSG_OPTION && m->option.option == NBD_OPT_ABORT && m->option.length > 0 && LIE_NOW)
		m->option.option = NBD_OPT_LIST;
}

LIE(abort_data_closes, ON_INCOMING, BREAKS(R(abort_acked)), "ABORT with data is answered by closing the connection")
{
	if (m->kind == MSG_OPTION && m->option.option == NBD_OPT_ABORT && m->option.length > 0 && LIE_NOW)
		m->close = true;
}

/* .arg remembers the connection. */
LIE(abort_only_as_first, ON_OUTGOING, BREAKS(R(abort_acked)),
    "ABORT is not answered when another option came before it")
{
	if (m->kind == MSG_OPTION_REPLY && m->option != NBD_OPT_ABORT)
		l->arg = c->number;
	else if (m->kind == MSG_OPTION_REPLY && l->arg == c->number && LIE_NOW)
		m->drop = true;
}

/* ---- clients that come later; .arg counts ---- */

LIE(abort_exhausts_server, ON_PROCESS, BREAKS(R(abort_closing_client_graceful)), "after the 4th ABORT nobody is let in")
{
	if (m->moment == PROCESS_INCOMING && m->option == NBD_OPT_ABORT && LIE_NOW)
		l->arg++;
	if (m->moment == PROCESS_ACCEPT && l->arg >= 4)
		m->refuse = true;
}

/* nbdkit 9d82aa4f: the peer hangs up while a reply is on its way. */
LIE(abort_ends_service, ON_PROCESS, BREAKS(R(abort_closing_client_graceful), R(greeting_magic)),
    "after an ABORT nobody is let in")
{
	if (m->moment == PROCESS_INCOMING && m->option == NBD_OPT_ABORT && LIE_NOW)
		l->arg = 1;
	if (m->moment == PROCESS_ACCEPT && l->arg > 0)
		m->refuse = true;
}
