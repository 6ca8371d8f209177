/* Lies about NBD_CMD_DISC, and about clients that leave. */
#include "fakeserver/lies/advertise.h"

#define DISC_LIE(ident, breaks, text, condition, edit)                                                                 \
	LIE(ident, ON_INCOMING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_REQUEST && m->request.type == NBD_CMD_DISC && (condition) && LIE_NOW) {             \
			edit;                                                                                          \
		}                                                                                                      \
	}
#define DISC_PROCESS_LIE(ident, breaks, text, edit)                                                                    \
	LIE(ident, ON_PROCESS, breaks, text)                                                                           \
	{                                                                                                              \
		if (m->moment == PROCESS_INCOMING && m->request != NULL && m->request->type == NBD_CMD_DISC &&         \
		    LIE_NOW) {                                                                                         \
			edit;                                                                                          \
		}                                                                                                      \
	}

/* nbdkit c70616f8, 430f8141: both ends read, and nobody closes. */
DISC_LIE(disc_ignored, BREAKS(R(disc_closes), R(disc_closes_session), R(baseline_disc)),
         "NBD_CMD_DISC does not close the connection", true, m->ignore = true)
/* xapi-nbd 4100b82 */
DISC_LIE(disc_answered, BREAKS(R(disc_no_reply), R(baseline_disc)), "NBD_CMD_DISC is answered like any request", true,
         m->request.type = NBD_CMD_FLUSH)
DISC_LIE(disc_unknown, BREAKS(R(disc_no_reply), R(baseline_disc)), "NBD_CMD_DISC is refused as an unknown command",
         true, m->request.type = UINT16_MAX)
DISC_LIE(disc_awaits_payload, BREAKS(R(disc_closes_session)), "an NBD_CMD_DISC with a length waits for so much data",
         m->request.length > 0, m->ignore = true)
DISC_LIE(disc_offset_refused, BREAKS(R(disc_no_reply)), "an NBD_CMD_DISC with an offset is refused with NBD_EINVAL",
         m->request.offset > 0, m->request.type = UINT16_MAX)
/* nbd-server 3.24 compares the type with its flags still in it. */
DISC_LIE(disc_with_fua_unknown, BREAKS(R(fua_accepted)),
         "NBD_CMD_DISC with NBD_CMD_FLAG_FUA is refused as an unknown command",
         (m->request.flags & NBD_CMD_FLAG_FUA) != 0, m->request.type = UINT16_MAX)

DISC_PROCESS_LIE(disc_dies, BREAKS(R(greeting_magic)), "NBD_CMD_DISC ends the server", m->die = true)
DISC_PROCESS_LIE(disc_closes_all, BREAKS(R(transmission_no_disconnect)),
                 "NBD_CMD_DISC closes the other connections too", m->close_all = true)

/* SPDK e5c3791c: commands in flight are aborted. Looks ahead, to where the client has sent NBD_CMD_DISC already. */
LIE(disc_aborts_outstanding, ON_DISK, BREAKS(R(disc_handles_outstanding)),
    "writes that NBD_CMD_DISC follows are reported as done and are not")
{
	struct request last = { 0 };

	if (c->input.len >= REQUEST_SIZE)
		wire_get_request(wire(c->input.at + c->input.len - REQUEST_SIZE, REQUEST_SIZE), &last);
	if (m->type == NBD_CMD_WRITE && m->error == NBD_SUCCESS && last.magic == NBD_REQUEST_MAGIC &&
	    last.type == NBD_CMD_DISC && LIE_NOW)
		m->skip = true;
}

/* ---- without NBD_CMD_DISC ---- */

LIE(leaving_dies, ON_PROCESS, BREAKS(R(greeting_magic)), "the server aborts when a client leaves without NBD_CMD_DISC")
{
	if (m->moment == PROCESS_DISCONNECT && c->phase == PHASE_TRANSMISSION && LIE_NOW)
		m->die = true;
}

/* nbdkit 9d82aa4f: the peer hangs up with replies queued. */
LIE(leaving_with_replies_queued_dies, ON_PROCESS, BREAKS(R(greeting_magic)),
    "the server aborts when a client leaves before it has read its replies")
{
	/* More than a client leaves behind by chance. */
	if (m->moment == PROCESS_DISCONNECT && c->phase == PHASE_TRANSMISSION && c->output.len > 65536 && LIE_NOW)
		m->die = true;
}
