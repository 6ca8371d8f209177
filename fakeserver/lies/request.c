/* Lies about requests in general, and about the head of their simple replies. */
#include "fakeserver/lies/advertise.h"

#define REPLY_LIE(ident, breaks, text, edit)                                                                           \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_SIMPLE_REPLY && LIE_NOW) {                                                          \
			edit;                                                                                          \
		}                                                                                                      \
	}
#define ERROR_LIE(ident, breaks, text, edit)                                                                           \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (replies_with_error(m) && LIE_NOW) {                                                                \
			edit;                                                                                          \
		}                                                                                                      \
	}

/* ---- magic ---- */

REPLY_LIE(reply_magic_off_by_one, BREAKS(R(simple_reply_magic)), "the magic of simple replies is one too large",
          m->simple.magic++)
REPLY_LIE(reply_magic_zero, BREAKS(R(simple_reply_magic)), "zeroes instead of the magic of simple replies",
          m->simple.magic = 0)
REPLY_LIE(reply_magic_ones, BREAKS(R(simple_reply_magic)), "all ones instead of the magic of simple replies",
          m->simple.magic = UINT32_MAX)
REPLY_LIE(reply_magic_of_request, BREAKS(R(simple_reply_magic)), "replies begin with the magic of requests",
          m->simple.magic = NBD_REQUEST_MAGIC)
REPLY_LIE(reply_swapped, BREAKS(R(simple_reply_magic)), "simple replies in little-endian byte order", m->swap = true)
REPLY_LIE(reply_magic_of_structured, BREAKS(R(simple_reply_required), R(structured_reply_needs_negotiation)),
          "simple replies begin with the magic of structured ones", m->simple.magic = NBD_STRUCTURED_REPLY_MAGIC)

/* digitalocean/go-nbd 4388797 is the client that believed it. */
LIE(structured_reply_unasked, ON_OUTGOING,
    BREAKS(R(simple_reply_required), R(structured_reply_needs_negotiation), R(baseline_simple_replies)),
    "structured replies are sent although nobody asked for them")
{
	struct simple_reply simple = m->simple;

	if (m->kind != MSG_SIMPLE_REPLY || c->structured || m->request == NULL || !LIE_NOW)
		return;
	m->kind = MSG_CHUNK;
	m->chunk = (struct chunk){ .magic = NBD_STRUCTURED_REPLY_MAGIC,
		                   .flags = NBD_REPLY_FLAG_DONE,
		                   .cookie = simple.cookie };
	if (simple.error != NBD_SUCCESS) {
		m->chunk.type = NBD_REPLY_TYPE_ERROR;
		m->payload = PAYLOAD_ERROR;
		m->error.error = simple.error;
	} else if (simple.data.len > 0) {
		m->chunk.type = NBD_REPLY_TYPE_OFFSET_DATA;
		m->payload = PAYLOAD_OFFSET_DATA;
		m->offset_data = (struct chunk_offset_data){ m->request->offset, simple.data };
	}
}

/* ---- error ---- */

/* nbdkit 9eb2a4df: the host's errno as it stands. */
ERROR_LIE(error_is_host_errno, BREAKS(R(error_values_listed)), "errors are raw errno values of the host: EROFS, EBADF",
          m->simple.error = m->simple.error == NBD_EPERM ? 30 : 9)
ERROR_LIE(error_off_by_one, BREAKS(R(error_values_listed)), "error values are one too large", m->simple.error++)
ERROR_LIE(error_negative, BREAKS(R(error_values_listed)), "errors are negative, as inside a kernel",
          m->simple.error = -m->simple.error)
ERROR_LIE(error_swapped, BREAKS(R(error_values_listed)), "errors are in little-endian byte order",
          m->simple.error = __builtin_bswap32(m->simple.error))
ERROR_LIE(error_ones, BREAKS(R(error_values_listed)), "any error is all ones", m->simple.error = UINT32_MAX)
ERROR_LIE(error_zero,
          BREAKS(R(unknown_command_einval), R(unknown_command_flag_einval), R(inapplicable_flag_einval),
                 R(status_without_context_einval), R(read_error_code), R(write_error_code)),
          "refused requests are reported as done", m->simple.error = NBD_SUCCESS)
ERROR_LIE(error_is_eoverflow, BREAKS(R(no_eoverflow)), "any error is NBD_EOVERFLOW", m->simple.error = NBD_EOVERFLOW)
ERROR_LIE(error_is_enotsup, BREAKS(R(no_enotsup), R(unknown_command_einval), R(inapplicable_flag_einval)),
          "any error is NBD_ENOTSUP", m->simple.error = NBD_ENOTSUP)
ERROR_LIE(error_is_enomem, BREAKS(R(no_enomem)), "any error is NBD_ENOMEM", m->simple.error = NBD_ENOMEM)
ERROR_LIE(error_is_eio,
          BREAKS(R(unknown_command_einval), R(unknown_command_flag_einval), R(inapplicable_flag_einval),
                 R(status_without_context_einval), R(read_past_end_einval), R(write_past_end_enospc)),
          "any error is NBD_EIO", m->simple.error = NBD_EIO)
ERROR_LIE(error_closes, BREAKS(R(unknown_command_einval), R(unknown_command_flag_einval), R(inapplicable_flag_einval)),
          "instead of an error the client gets a closed connection", m->drop = true;
          m->after = AFTER_CLOSE)
ERROR_LIE(error_dropped, BREAKS(R(each_request_one_reply)), "a request that is refused gets no reply", m->drop = true)
REPLY_LIE(error_for_success, BREAKS(R(baseline_read_write), R(write_stored), R(read_returns_data)),
          "what was done is reported as NBD_EIO", m->simple.error = NBD_EIO;
          m->simple.data.len = 0)

/* ---- cookie ---- */

/* The cookie is opaque to the server, and what the client knows its request by (proto.md:308). */
LIE(cookie_changed, ON_OUTGOING, BREAKS(R(cookie_echoed)), "replies carry the request's cookie plus one")
{
	if (m->kind == MSG_SIMPLE_REPLY && LIE_NOW)
		m->simple.cookie++;
	else if (m->kind == MSG_CHUNK && LIE_NOW)
		m->chunk.cookie++;
}

REPLY_LIE(cookie_zero, BREAKS(R(cookie_echoed)), "replies have cookie 0", m->simple.cookie = 0)
REPLY_LIE(cookie_ones, BREAKS(R(cookie_echoed)), "replies have a cookie of all ones", m->simple.cookie = UINT64_MAX)
REPLY_LIE(cookie_swapped, BREAKS(R(cookie_echoed)), "the cookie comes back in the other byte order",
          m->simple.cookie = __builtin_bswap64(m->simple.cookie))
REPLY_LIE(cookie_low_half, BREAKS(R(cookie_echoed)), "of the cookie only the low 32 bits come back",
          m->simple.cookie = (uint32_t)m->simple.cookie)
REPLY_LIE(cookie_signed, BREAKS(R(cookie_echoed)), "the highest bit of the cookie is lost",
          m->simple.cookie &= INT64_MAX)

LIE(cookie_of_the_request_before, ON_OUTGOING, BREAKS(R(cookie_echoed)),
    "replies carry the cookie of the request before")
{
	static uint64_t before[256]; /* by connection, or what comes first would be chance */
	uint64_t cookie = m->simple.cookie;

	if (m->kind != MSG_SIMPLE_REPLY)
		return;
	if (before[c->number % 256] != 0 && LIE_NOW)
		m->simple.cookie = before[c->number % 256];
	before[c->number % 256] = cookie;
}

LIE(cookie_zero_refused, ON_DISK, BREAKS(R(cookie_opaque)), "a request with cookie 0 gets NBD_EINVAL")
{
	if (m->request->cookie == 0 && LIE_NOW) {
		m->error = NBD_EINVAL;
		m->skip = true;
	}
}

LIE(cookie_ones_closes, ON_INCOMING, BREAKS(R(cookie_opaque)), "a request whose cookie is all ones ends the connection")
{
	if (m->kind == MSG_REQUEST && m->request.cookie == UINT64_MAX && LIE_NOW)
		m->close = true;
}

LIE_BY_CHANCE(cookie_used_again_ignored, ON_INCOMING, BREAKS(R(cookie_opaque)),
              "a request with the cookie of the one before is taken for a repetition")
{
	if (m->kind != MSG_REQUEST)
		return;
	m->ignore = m->request.cookie == l->arg && m->request.cookie != 0 && LIE_NOW;
	l->arg = m->request.cookie;
}

/* ---- transport ---- */

REPLY_LIE(reply_dropped, BREAKS(R(each_request_one_reply), R(baseline_simple_replies), R(read_reply_simple)),
          "requests get no reply", m->drop = true)
REPLY_LIE(reply_repeated, BREAKS(R(each_request_one_reply)), "every reply comes twice", m->repeat = 1)
REPLY_LIE(reply_closed, BREAKS(R(each_request_one_reply), R(transmission_no_disconnect)),
          "the connection is closed instead of a reply", m->drop = true;
          m->after = AFTER_CLOSE)
REPLY_LIE(reply_reset, BREAKS(R(each_request_one_reply), R(transmission_no_disconnect)),
          "the connection is reset instead of a reply", m->drop = true;
          m->after = AFTER_RESET)
REPLY_LIE(reply_then_closed, BREAKS(R(transmission_no_disconnect)), "the connection is closed after the first reply",
          m->after = AFTER_CLOSE)
REPLY_LIE(reply_header_cut, BREAKS(R(simple_reply_required), R(each_request_one_reply)),
          "replies end, in silence, after 15 bytes", m->cut = 15;
          m->after = AFTER_SILENCE)
REPLY_LIE(reply_without_cookie, BREAKS(R(each_request_one_reply)),
          "replies end after magic and error, and the connection with them", m->cut = 8;
          m->after = AFTER_CLOSE)
REPLY_LIE(reply_has_one_byte_more,
          BREAKS(R(simple_reply_payload_only_read), R(simple_reply_read_payload), R(cache_no_payload)),
          "a byte follows every reply", m->extra = BYTES_OF("\0"))
REPLY_LIE(reply_has_length, BREAKS(R(simple_reply_read_payload)), "replies have a length field of 32 bits behind them",
          m->extra = BYTES_OF("\0\0\0\0"))

REPLY_LIE(tenth_reply_lost, BREAKS(R(each_request_one_reply)), "every tenth reply is lost",
          m->drop = l->turns % 10 == 0)
REPLY_LIE(tenth_reply_repeated, BREAKS(R(each_request_one_reply)), "every tenth reply comes twice",
          m->repeat = l->turns % 10 == 0)
REPLY_LIE(thirtieth_reply_closes, BREAKS(R(transmission_no_disconnect)),
          "after thirty replies the connection is closed", m->after = l->turns == 30 ? AFTER_CLOSE : AFTER_GO_ON)

/* xapi-nbd 5368f66: a WRITE left the connection deaf. */
LIE(deaf_after_write, ON_OUTGOING, BREAKS(R(each_request_one_reply)), "after a WRITE nothing is answered any more")
{
	if (m->kind == MSG_SIMPLE_REPLY && l->arg == c->number && LIE_NOW)
		m->drop = true;
	if (replies_to(m, NBD_CMD_WRITE))
		l->arg = c->number;
}

/* ---- commands and flags that are not known ---- */

static bool
is_unknown(const struct request *r)
{
	return r->type > NBD_CMD_RESIZE;
}

/* gonbdserver */
LIE(unknown_command_closes, ON_INCOMING, BREAKS(R(unknown_command_einval)), "an unknown command ends the connection")
{
	if (m->kind == MSG_REQUEST && is_unknown(&m->request) && LIE_NOW)
		m->close = true;
}

/* go-nbd: the length of a command that is not supported was skipped as if it were payload. */
LIE(unknown_command_swallows, ON_INCOMING, BREAKS(R(request_payload_consumed)),
    "as many bytes as an unknown command's length are dropped, and with them the requests behind it")
{
	if (m->kind == MSG_REQUEST && is_unknown(&m->request) && LIE_NOW)
		m->consumed += m->request.length;
}

LIE(unknown_command_ignored, ON_INCOMING, BREAKS(R(each_request_one_reply)), "an unknown command gets no reply")
{
	if (m->kind == MSG_REQUEST && is_unknown(&m->request) && LIE_NOW)
		m->ignore = true;
}

LIE(unknown_command_dies, ON_PROCESS, BREAKS(R(greeting_magic)), "an unknown command aborts the server")
{
	if (m->moment == PROCESS_INCOMING && m->request != NULL && is_unknown(m->request) && LIE_NOW)
		m->die = true;
}

LIE(unknown_command_succeeds, ON_DISK, BREAKS(R(unknown_command_einval)), "an unknown command succeeds")
{
	if (is_unknown(m->request) && LIE_NOW)
		m->error = NBD_SUCCESS;
}

LIE(unknown_command_eperm, ON_DISK, BREAKS(R(unknown_command_einval)), "an unknown command gets NBD_EPERM")
{
	if (is_unknown(m->request) && LIE_NOW)
		m->error = NBD_EPERM;
}

LIE(command_type_truncated, ON_INCOMING, BREAKS(R(request_payload_consumed)),
    "of the command type only the low 8 bits are looked at")
{
	if (m->kind == MSG_REQUEST && m->request.type > 0xff && LIE_NOW)
		m->request.type &= 0xff;
}

enum { UNKNOWN_FLAGS = 0xffc0, FLAGS_OF_OTHERS = 0x3e };

LIE(unknown_flag_ignored, ON_INCOMING, BREAKS(R(unknown_command_flag_einval)), "unknown command flags are ignored")
{
	if (m->kind == MSG_REQUEST && (m->request.flags & UNKNOWN_FLAGS) != 0 && LIE_NOW)
		m->request.flags &= (uint16_t)~UNKNOWN_FLAGS;
}

LIE(inapplicable_flag_ignored, ON_INCOMING, BREAKS(R(inapplicable_flag_einval)),
    "command flags that belong to other commands are ignored")
{
	if (m->kind == MSG_REQUEST && (m->request.flags & FLAGS_OF_OTHERS) != 0 && m->request.type <= NBD_CMD_FLUSH &&
	    LIE_NOW)
		m->request.flags &= (uint16_t)~FLAGS_OF_OTHERS;
}

LIE(unknown_flag_closes, ON_INCOMING, BREAKS(R(unknown_command_flag_einval)),
    "an unknown command flag ends the connection")
{
	if (m->kind == MSG_REQUEST && (m->request.flags & UNKNOWN_FLAGS) != 0 && LIE_NOW)
		m->close = true;
}

LIE(flagged_write_unread, ON_INCOMING, BREAKS(R(request_payload_consumed)),
    "the payload of a WRITE that is refused for its flags is taken for the next requests")
{
	if (m->kind == MSG_REQUEST && m->request.type == NBD_CMD_WRITE &&
	    (m->request.flags & (UNKNOWN_FLAGS | FLAGS_OF_OTHERS)) != 0 && LIE_NOW)
		m->consumed = REQUEST_SIZE;
}

/* ---- what was not advertised ---- */

LIE(status_without_context_served, ON_DISK, BREAKS(R(status_without_context_einval)),
    "BLOCK_STATUS succeeds, with nothing, although no context was chosen")
{
	if (m->type == NBD_CMD_BLOCK_STATUS && LIE_NOW)
		m->error = NBD_SUCCESS;
}

LIE(status_swallows, ON_INCOMING, BREAKS(R(request_payload_consumed)),
    "as many bytes as the length of a BLOCK_STATUS are dropped, and with them the requests behind it")
{
	if (m->kind == MSG_REQUEST && m->request.type == NBD_CMD_BLOCK_STATUS && LIE_NOW)
		m->consumed += m->request.length;
}

/* Nothing but READ and WRITE is advertised; whatever else comes vanishes without a reply. */
TOLD_FLAGS_LIE(unadvertised_dropped, BREAKS(R(each_request_one_reply)),
               "advertises no command and does not answer any of them", 0,
               NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_CACHE | NBD_FLAG_SEND_WRITE_ZEROES,
               m->request->type > NBD_CMD_DISC, m->drop = true)

/* ---- commands without payload ---- */

LIE(effect_swallows, ON_INCOMING, BREAKS(R(request_payload_consumed)),
    "as many bytes as the length of a TRIM, CACHE or WRITE_ZEROES are dropped, and with them the requests behind it")
{
	if (m->kind == MSG_REQUEST && m->request.type >= NBD_CMD_TRIM && m->request.type <= NBD_CMD_WRITE_ZEROES &&
	    LIE_NOW)
		m->consumed += m->request.length;
}

LIE(cache_returns_data, ON_OUTGOING, BREAKS(R(cache_no_payload)), "CACHE is answered with the data, as READ is")
{
	static const uint8_t zeroes[65536];

	if (replies_to(m, NBD_CMD_CACHE) && m->simple.error == NBD_SUCCESS && LIE_NOW)
		m->extra = (struct bytes){ zeroes,
			                   m->request->length < sizeof(zeroes) ? m->request->length : sizeof(zeroes) };
}

/* ---- what is no request ---- */

LIE(bad_request_magic_stalls, ON_INCOMING, BREAKS(R(each_request_one_reply)),
    "after a wrong request magic whatever comes is dropped, in silence")
{
	if (m->kind == MSG_REQUEST && m->request.magic != NBD_REQUEST_MAGIC && LIE_NOW) {
		m->ignore = true;
		m->consumed = INT64_MAX;
	}
}

/* xapi-nbd ea82add: one client that misbehaves stops the server. */
LIE(bad_request_magic_dies, ON_PROCESS, BREAKS(R(greeting_magic)), "a wrong request magic aborts the server")
{
	if (m->moment == PROCESS_INCOMING && m->request != NULL && m->request->magic != NBD_REQUEST_MAGIC && LIE_NOW)
		m->die = true;
}

LIE(cut_request_dies, ON_PROCESS, BREAKS(R(greeting_magic)),
    "the server aborts when a client leaves in the middle of a request")
{
	if (m->moment == PROCESS_DISCONNECT && c->phase == PHASE_TRANSMISSION && c->input.len > 0 && LIE_NOW)
		m->die = true;
}

/* ---- many in flight ---- */

/* nbd-server a43a2d8: parallel reads seek in one descriptor. */
LIE(parallel_reads_share_an_offset, ON_DISK, BREAKS(R(read_returns_data)),
    "every eighth READ is read where the one before it was")
{
	uint64_t offset = m->offset;

	if (m->type != NBD_CMD_READ || m->error != NBD_SUCCESS)
		return;
	if (LIE_NOW && l->turns % 8 == 0)
		m->offset = l->arg;
	l->arg = offset;
}
