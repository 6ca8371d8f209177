/* Lies of a server that is asked to end. */
#include "fakeserver/lie.h"
#include "harness/nbd.h"

#include <unistd.h>

static bool
ending(const struct conn *c)
{
	return fake_count(c->server).shutting_down;
}

#define SHUTDOWN_LIE(ident, breaks, text, condition, edit)                                                             \
	LIE(ident, ON_PROCESS, breaks, text)                                                                           \
	{                                                                                                              \
		if (m->moment == PROCESS_SHUTDOWN && (condition) && LIE_NOW) {                                         \
			edit;                                                                                          \
		}                                                                                                      \
	}

SHUTDOWN_LIE(shutdown_cuts_replies, BREAKS(R(shutdown_waits_for_inflight)),
             "a shutdown closes all connections, whatever is under way", true, m->close_all = true)
SHUTDOWN_LIE(shutdown_aborts, BREAKS(R(shutdown_waits_for_inflight)), "a shutdown is a crash", true, m->die = true)
/* CVE-2024-7409 (qemu) */
SHUTDOWN_LIE(shutdown_dies_of_idle_clients, BREAKS(R(shutdown_waits_for_inflight)),
             "a shutdown is a crash if a client is still in the handshake", c->phase != PHASE_TRANSMISSION,
             m->die = true)
SHUTDOWN_LIE(shutdown_only_stops_listening, BREAKS(R(shutdown_errors_later_options)),
             "in a shutdown options are served like before", true, m->serve_on = true)

#define REFUSAL_LIE(ident, type_, text)                                                                                \
	LIE(ident, ON_OUTGOING, BREAKS(R(shutdown_errors_later_options)), text)                                        \
	{                                                                                                              \
		if (m->kind == MSG_OPTION_REPLY && m->reply.type == NBD_REP_ERR_SHUTDOWN && LIE_NOW)                   \
			m->reply.type = type_;                                                                         \
	}
REFUSAL_LIE(shutdown_option_policy, NBD_REP_ERR_POLICY, "in a shutdown options get NBD_REP_ERR_POLICY")
REFUSAL_LIE(shutdown_option_unsup, NBD_REP_ERR_UNSUP, "in a shutdown options get NBD_REP_ERR_UNSUP")
REFUSAL_LIE(shutdown_option_host_error, UINT32_C(1) << 31 | NBD_ESHUTDOWN, "in a shutdown options get error 2^31 + 108")
REFUSAL_LIE(shutdown_option_acked, NBD_REP_ACK, "in a shutdown options are acknowledged, and nothing is done")

LIE(shutdown_option_unanswered, ON_OUTGOING, BREAKS(R(shutdown_errors_later_options), R(option_gets_reply)),
    "in a shutdown options are not answered")
{
	if (m->kind == MSG_OPTION_REPLY && m->reply.type == NBD_REP_ERR_SHUTDOWN && LIE_NOW)
		m->drop = true;
}

LIE(shutdown_abort_refused, ON_OUTGOING, BREAKS(R(abort_acked)),
    "in a shutdown NBD_OPT_ABORT gets NBD_REP_ERR_SHUTDOWN")
{
	if (m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_ABORT && ending(c) && LIE_NOW)
		m->reply.type = NBD_REP_ERR_SHUTDOWN;
}

#define ERROR_LIE(ident, breaks, text, edit)                                                                           \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_SIMPLE_REPLY && m->simple.error == NBD_ESHUTDOWN && LIE_NOW) {                      \
			edit;                                                                                          \
		}                                                                                                      \
	}
#define ERRORS BREAKS(R(shutdown_inflight_eshutdown), R(shutdown_later_eshutdown))
ERROR_LIE(shutdown_request_eio, ERRORS, "in a shutdown requests get NBD_EIO", m->simple.error = NBD_EIO)
ERROR_LIE(shutdown_request_eperm, ERRORS, "in a shutdown requests get NBD_EPERM", m->simple.error = NBD_EPERM)
ERROR_LIE(shutdown_request_swapped,
          BREAKS(R(error_values_listed), R(shutdown_inflight_eshutdown), R(shutdown_later_eshutdown)),
          "in a shutdown the error is byte-swapped", m->simple.error = __builtin_bswap32(NBD_ESHUTDOWN))
ERROR_LIE(shutdown_request_unanswered, BREAKS(R(shutdown_waits_for_inflight), R(shutdown_later_eshutdown)),
          "in a shutdown requests are not answered", m->drop = true)
ERROR_LIE(shutdown_request_answered_twice, BREAKS(R(each_request_one_reply)), "in a shutdown errors are sent twice",
          m->repeat = 1)
ERROR_LIE(shutdown_request_wrong_cookie, BREAKS(R(cookie_echoed)), "in a shutdown errors have cookie 0",
          m->simple.cookie = 0)
ERROR_LIE(shutdown_reply_cut, BREAKS(R(each_request_one_reply)), "in a shutdown the connection ends within a reply",
          m->cut = 9;
          m->after = AFTER_CLOSE)

LIE(shutdown_says_garbage, ON_PROCESS, BREAKS(R(handshake_flags_sent), R(each_request_one_reply)),
    "a shutdown is announced to every client by a line of text")
{
	if (m->moment == PROCESS_SHUTDOWN && LIE_NOW)
		m->say = BYTES_OF("the server is going down\n");
}

LIE(shutdown_never_ends, ON_PROCESS, BREAKS(R(shutdown_waits_for_inflight)),
    "a server that was asked to end hangs when its last client has left")
{
	if (m->moment == PROCESS_DISCONNECT && ending(c) && fake_count(c->server).open == 1 && LIE_NOW)
		for (;;)
			pause();
}

#define RELOAD_LIE(ident, breaks, text, edit)                                                                          \
	LIE(ident, ON_PROCESS, breaks, text)                                                                           \
	{                                                                                                              \
		if (m->moment == PROCESS_RELOAD && LIE_NOW) {                                                          \
			edit;                                                                                          \
		}                                                                                                      \
	}
RELOAD_LIE(reload_ends_sessions, BREAKS(R(transmission_no_disconnect), R(handshake_no_hard_disconnect)),
           "a reload ends all sessions", m->close_all = true)
RELOAD_LIE(reload_aborts, BREAKS(R(transmission_no_disconnect)), "a reload is a crash", m->die = true)
RELOAD_LIE(reload_says_garbage, BREAKS(R(handshake_flags_sent), R(each_request_one_reply)),
           "a reload is announced to every client by a line of text",
           m->say = BYTES_OF("the configuration has changed\n"))

LIE(reload_ends_service, ON_PROCESS, BREAKS(R(greeting_magic)), "after a reload no new client is let in")
{
	static bool reloaded;

	reloaded |= m->moment == PROCESS_RELOAD;
	if (m->moment == PROCESS_ACCEPT && reloaded && LIE_NOW)
		m->refuse = true;
}

LIE(reload_drops_handshakes, ON_PROCESS, BREAKS(R(handshake_no_hard_disconnect)),
    "a reload forgets clients that are in the handshake")
{
	if (m->moment == PROCESS_RELOAD && c->phase < PHASE_TRANSMISSION && LIE_NOW)
		fake_disconnect(c->server, c->number);
}

LIE(shutdown_write_payload_unread, ON_INCOMING, BREAKS(R(request_payload_consumed)),
    "in a shutdown the payload of a refused WRITE is taken for requests")
{
	if (m->kind == MSG_REQUEST && m->request.type == NBD_CMD_WRITE && ending(c) && LIE_NOW)
		m->consumed = REQUEST_SIZE;
}
