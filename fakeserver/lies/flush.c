/* Lies about NBD_CMD_FLUSH and NBD_CMD_FLAG_FUA as requests; those about durability stand elsewhere. */
#include "fakeserver/lies/advertise.h"

#define COMMAND_LIE(ident, breaks, text, condition, edit)                                                              \
	LIE(ident, ON_DISK, breaks, text)                                                                              \
	{                                                                                                              \
		if ((condition) && LIE_NOW) {                                                                          \
			edit;                                                                                          \
		}                                                                                                      \
	}

/* SPDK c3f628f1: advertised where nothing behind it can flush. */
COMMAND_LIE(flush_refused, BREAKS(R(flush_supported)), "FLUSH is advertised, and refused with NBD_EINVAL",
            m->type == NBD_CMD_FLUSH, m->error = NBD_EINVAL)
COMMAND_LIE(flush_eio, BREAKS(R(flush_supported)), "FLUSH is advertised, and always fails with NBD_EIO",
            m->type == NBD_CMD_FLUSH, m->error = NBD_EIO)

LIE(flush_unanswered, ON_OUTGOING, BREAKS(R(flush_supported)), "FLUSH gets no reply")
{
	if (replies_to(m, NBD_CMD_FLUSH) && LIE_NOW)
		m->drop = true;
}

LIE(flush_closes, ON_OUTGOING, BREAKS(R(flush_supported)), "FLUSH ends the connection")
{
	if (replies_to(m, NBD_CMD_FLUSH) && LIE_NOW) {
		m->drop = true;
		m->after = AFTER_CLOSE;
	}
}

LIE(flush_returns_data, ON_OUTGOING, BREAKS(R(simple_reply_payload_only_read)), "FLUSH's reply has 512 bytes behind it")
{
	static const uint8_t zeroes[512];

	if (replies_to(m, NBD_CMD_FLUSH) && LIE_NOW)
		m->extra = (struct bytes){ zeroes, sizeof(zeroes) };
}

LIE(flush_range_unanswered, ON_OUTGOING, BREAKS(R(each_request_one_reply)),
    "a FLUSH with an offset or a length gets no reply")
{
	if (replies_to(m, NBD_CMD_FLUSH) && (m->request->offset | m->request->length) != 0 && LIE_NOW)
		m->drop = true;
}

LIE(flush_swallows, ON_INCOMING, BREAKS(R(request_payload_consumed)),
    "as many bytes as a FLUSH's length are dropped, and with them the requests behind it")
{
	if (m->kind == MSG_REQUEST && m->request.type == NBD_CMD_FLUSH && LIE_NOW)
		m->consumed += m->request.length;
}

LIE(flush_undoes_writes, ON_DISK, BREAKS(R(write_stored)), "after a FLUSH the first READ finds zeroes")
{
	if (m->type == NBD_CMD_READ && l->arg == 1 && LIE_NOW)
		m->skip = true;
	l->arg = m->type == NBD_CMD_FLUSH;
}

/* ---- FUA ---- */

#define WITH_FUA(command) (m->type == (command) && (m->flags & NBD_CMD_FLAG_FUA) != 0)

/* nbd-server b23190d */
COMMAND_LIE(fua_flush_refused, BREAKS(R(fua_accepted)), "FLUSH with FUA is refused", WITH_FUA(NBD_CMD_FLUSH),
            m->error = NBD_EINVAL)
COMMAND_LIE(fua_read_refused, BREAKS(R(fua_accepted)), "READ with FUA is refused", WITH_FUA(NBD_CMD_READ),
            m->error = NBD_EINVAL)
COMMAND_LIE(fua_write_refused, BREAKS(R(fua_accepted), R(fua_supported)),
            "FUA is advertised, and WRITE with it is refused", WITH_FUA(NBD_CMD_WRITE), m->error = NBD_EINVAL;
            m->skip = true)
COMMAND_LIE(fua_trim_refused, BREAKS(R(fua_accepted)), "TRIM with FUA is refused", WITH_FUA(NBD_CMD_TRIM),
            m->error = NBD_EINVAL)
COMMAND_LIE(fua_cache_refused, BREAKS(R(fua_accepted)), "CACHE with FUA is refused", WITH_FUA(NBD_CMD_CACHE),
            m->error = NBD_EINVAL)
COMMAND_LIE(fua_zeroes_refused, BREAKS(R(fua_accepted)), "WRITE_ZEROES with FUA is refused",
            WITH_FUA(NBD_CMD_WRITE_ZEROES), m->error = NBD_EINVAL)
COMMAND_LIE(fua_write_lost, BREAKS(R(fua_supported)), "WRITE with FUA succeeds and stores nothing",
            WITH_FUA(NBD_CMD_WRITE), m->skip = true)

/* nbdkit 4aae4a83 */
LIE(fua_trim_dies, ON_PROCESS, BREAKS(R(fua_accepted)), "TRIM with FUA aborts the server")
{
	if (m->moment == PROCESS_INCOMING && m->request != NULL && m->request->type == NBD_CMD_TRIM &&
	    (m->request->flags & NBD_CMD_FLAG_FUA) != 0 && LIE_NOW)
		m->die = true;
}

LIE(fua_flagged_write_swallows, ON_INCOMING, BREAKS(R(request_payload_consumed)),
    "behind a WRITE with FUA a byte is lost")
{
	if (m->kind == MSG_REQUEST && m->request.type == NBD_CMD_WRITE && (m->request.flags & NBD_CMD_FLAG_FUA) != 0 &&
	    LIE_NOW)
		m->consumed++;
}

TOLD_FLAGS_LIE(fua_unadvertised_accepted, BREAKS(R(inapplicable_flag_einval)),
               "FUA is accepted although it was not advertised", 0, NBD_FLAG_SEND_FUA, false, )
TOLD_FLAGS_LIE(fua_unadvertised_unanswered, BREAKS(R(each_request_one_reply)),
               "FUA is not advertised, and who uses it gets no reply", 0, NBD_FLAG_SEND_FUA,
               (m->request->flags & NBD_CMD_FLAG_FUA) != 0, m->drop = true)

LIE(fua_unadvertised_write_unread, ON_INCOMING, BREAKS(R(request_payload_consumed)),
    "the payload of a WRITE with FUA, which this export then does not have, is taken for requests")
{
	if (m->kind == MSG_OPTION && LIE_NOW)
		fake_config_of(c->server)->exports[0].flags &= (uint16_t)~NBD_FLAG_SEND_FUA;
	if (m->kind == MSG_REQUEST && m->request.type == NBD_CMD_WRITE && (m->request.flags & NBD_CMD_FLAG_FUA) != 0 &&
	    LIE_NOW)
		m->consumed = REQUEST_SIZE;
}

TOLD_FLAGS_LIE(flush_unadvertised_unanswered, BREAKS(R(each_request_one_reply)),
               "FLUSH is not advertised, and gets no reply", 0, NBD_FLAG_SEND_FLUSH, replies_to(m, NBD_CMD_FLUSH),
               m->drop = true)
