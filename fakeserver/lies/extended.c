/* Lies about extended headers; told to servers that offer them, with x-nbdspec:wide (cases/mutants.c). */
#include "fakeserver/lies/structured.h"

#include <stdlib.h>

enum { UNKNOWN_OPTION = 0x6e627375 };

/* ---- option haggling ---- */

static bool
is_option(const struct incoming *m, uint32_t option)
{
	return m->kind == MSG_OPTION && m->option.option == option;
}

static bool
ends_with(const struct outgoing *m, uint32_t option, uint32_t type)
{
	return m->kind == MSG_OPTION_REPLY && m->option == option && m->reply.type == type;
}

INCOMING_LIE(extended_wants_structured, BREAKS(R(ext_without_structured)),
             "knows EXTENDED_HEADERS behind STRUCTURED_REPLY alone",
             is_option(m, NBD_OPT_EXTENDED_HEADERS) && !c->structured, m->option.option = UNKNOWN_OPTION)
INCOMING_LIE(extended_takes_data, BREAKS(R(ext_option_data_refused)), "does not mind data with EXTENDED_HEADERS",
             is_option(m, NBD_OPT_EXTENDED_HEADERS) && m->option.length > 0, m->option.length = 0;
             m->option.data.len = 0)
OUTGOING_LIE(extended_data_unsupported, BREAKS(R(ext_option_data_refused)),
             "EXTENDED_HEADERS with data gets NBD_REP_ERR_UNSUP",
             ends_with(m, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_INVALID), m->reply.type = NBD_REP_ERR_UNSUP)
OUTGOING_LIE(extended_answered_by_server, BREAKS(R(ext_option_answered)),
             "EXTENDED_HEADERS is answered by NBD_REP_SERVER", ends_with(m, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK),
             m->reply.type = NBD_REP_SERVER)
OUTGOING_LIE(extended_unanswered, BREAKS(R(ext_option_answered)), "EXTENDED_HEADERS is not answered",
             ends_with(m, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK), m->drop = true)
INCOMING_LIE(extended_go_unknown, BREAKS(R(ext_go_not_unsupported)),
             "behind EXTENDED_HEADERS GO gets NBD_REP_ERR_UNSUP", is_option(m, NBD_OPT_GO) && c->extended,
             m->option.option = UNKNOWN_OPTION)
OUTGOING_LIE(extended_go_refused, BREAKS(R(ext_go_supported)), "behind EXTENDED_HEADERS GO gets NBD_REP_ERR_PLATFORM",
             ends_with(m, NBD_OPT_GO, NBD_REP_ACK) && c->extended, m->reply.type = NBD_REP_ERR_PLATFORM)
OUTGOING_LIE(extended_required, BREAKS(R(ext_interop_go_not_reqd)),
             "GO without EXTENDED_HEADERS gets NBD_REP_ERR_EXT_HEADER_REQD",
             ends_with(m, NBD_OPT_GO, NBD_REP_ACK) && !c->extended, m->reply.type = NBD_REP_ERR_EXT_HEADER_REQD)

LIE(extended_structured_downgrades, ON_STATE, BREAKS(R(ext_structured_superseded)),
    "STRUCTURED_REPLY behind EXTENDED_HEADERS takes precedence")
{
	if (m->moment == STATE_AFTER_OPTION && m->option == NBD_OPT_STRUCTURED_REPLY && c->extended && LIE_NOW) {
		c->extended = false;
		c->structured = true;
	}
}

LIE(extended_structured_first_stays, ON_STATE, BREAKS(R(ext_structured_superseded)),
    "EXTENDED_HEADERS behind STRUCTURED_REPLY changes nothing")
{
	if (m->moment == STATE_AFTER_OPTION && m->option == NBD_OPT_EXTENDED_HEADERS && c->structured && LIE_NOW)
		c->extended = false;
}

LIE(extended_not_in_force, ON_STATE, BREAKS(R(ext_requests_understood)),
    "EXTENDED_HEADERS is acknowledged and forgotten")
{
	if (m->moment == STATE_ENTER_TRANSMISSION && c->extended && LIE_NOW)
		c->extended = false;
}

LIE(extended_second_undoes, ON_STATE, BREAKS(R(ext_replies_extended)), "a second EXTENDED_HEADERS undoes the first")
{
	static const struct conn *was;

	if (m->option != NBD_OPT_EXTENDED_HEADERS)
		return;
	if (m->moment == STATE_BEFORE_OPTION)
		was = c->extended ? c : NULL;
	if (m->moment == STATE_AFTER_OPTION && was == c && LIE_NOW)
		c->extended = false;
}

LIE(extended_tls_survives, ON_STATE, BREAKS(R(ext_forgotten_by_starttls)),
    "extended headers that were agreed in clear hold over TLS")
{
	if (m->moment == STATE_STARTTLS && c->extended && LIE_NOW)
		m->keep_extended = true;
}

/* ---- what was not asked for ---- */

LIE(extended_compact_read_in_chunks, ON_STATE, BREAKS(R(ext_compact_read_simple)),
    "a READ gets a structured reply though nobody asked for them")
{
	if (m->moment == STATE_ENTER_TRANSMISSION && !c->extended && !c->structured && LIE_NOW)
		c->structured = true;
}

OUTGOING_LIE(extended_compact_status_wide, BREAKS(R(ext_compact_status_length)),
             "with structured replies status has extents of 64 bits", is_chunk(m, NBD_REPLY_TYPE_BLOCK_STATUS),
             m->payload = PAYLOAD_BLOCK_STATUS_EXT)
OUTGOING_LIE(extended_status_unasked, BREAKS(R(ext_status_ext_needs_negotiation)),
             "with structured replies status comes in NBD_REPLY_TYPE_BLOCK_STATUS_EXT",
             is_chunk(m, NBD_REPLY_TYPE_BLOCK_STATUS), m->chunk.type = NBD_REPLY_TYPE_BLOCK_STATUS_EXT;
             m->payload = PAYLOAD_BLOCK_STATUS_EXT)

/* ---- transmission flags ---- */

OUTGOING_LIE(extended_df_clear, BREAKS(R(ext_df_flag_set)), "with extended headers NBD_FLAG_SEND_DF is clear",
             tells_flags(m) && c->extended, advertise(m, 0, NBD_FLAG_SEND_DF))
OUTGOING_LIE(extended_df_always, BREAKS(R(ext_df_flag_clear)), "NBD_FLAG_SEND_DF is set for everybody",
             tells_flags(m) && !c->extended && !c->structured, advertise(m, NBD_FLAG_SEND_DF, 0))
OUTGOING_LIE(extended_payload_flag_always, BREAKS(R(ext_status_payload_needs_negotiation)),
             "NBD_FLAG_BLOCK_STATUS_PAYLOAD is set for everybody", tells_flags(m) && !c->extended,
             advertise(m, NBD_FLAG_BLOCK_STATUS_PAYLOAD, 0))
OUTGOING_LIE(extended_payload_flag_bare, BREAKS(R(ext_status_payload_needs_contexts)),
             "NBD_FLAG_BLOCK_STATUS_PAYLOAD is set for who has no contexts",
             tells_flags(m) && c->extended && c->n_contexts == 0, advertise(m, NBD_FLAG_BLOCK_STATUS_PAYLOAD, 0))

/* ---- metadata contexts ---- */

OUTGOING_LIE(extended_contexts_want_structured, BREAKS(R(ext_contexts_served)),
             "SET_META_CONTEXT behind EXTENDED_HEADERS alone gets NBD_REP_ERR_INVALID",
             ends_with(m, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK) && c->extended && !c->structured,
             m->reply.type = NBD_REP_ERR_INVALID)
OUTGOING_LIE(extended_list_wants_them, BREAKS(R(ext_base_list_succeeds)),
             "any LIST_META_CONTEXT without extended headers ends in NBD_REP_ERR_EXT_HEADER_REQD",
             ends_with(m, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ACK) && !c->extended,
             m->reply.type = NBD_REP_ERR_EXT_HEADER_REQD)
OUTGOING_LIE(extended_list_wants_more, BREAKS(R(ext_base_list_succeeds)),
             "LIST_META_CONTEXT ends in NBD_REP_ERR_EXT_HEADER_REQD behind EXTENDED_HEADERS",
             ends_with(m, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ACK) && c->extended,
             m->reply.type = NBD_REP_ERR_EXT_HEADER_REQD)
OUTGOING_LIE(extended_base_wants_them, BREAKS(R(ext_base_select_succeeds)),
             "SET_META_CONTEXT without extended headers gets NBD_REP_ERR_EXT_HEADER_REQD",
             ends_with(m, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK) && !c->extended,
             m->reply.type = NBD_REP_ERR_EXT_HEADER_REQD)
OUTGOING_LIE(extended_contexts_unnegotiated, BREAKS(R(ext_set_meta_unnegotiated)),
             "SET_META_CONTEXT before structured replies and extended headers gets NBD_REP_ERR_POLICY",
             ends_with(m, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID) && !c->extended && !c->structured,
             m->reply.type = NBD_REP_ERR_POLICY)
OUTGOING_LIE(extended_wide_list_acked, BREAKS(R(ext_wide_list_ends_in_error)),
             "a list with x-nbdspec:wide ends in NBD_REP_ACK for who has no extended headers",
             ends_with(m, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_EXT_HEADER_REQD), m->reply.type = NBD_REP_ACK)

LIE(extended_wide_selected, ON_STATE, BREAKS(R(ext_wide_context_not_selected)),
    "x-nbdspec:wide is selected for who has no extended headers")
{
	static const struct conn *lent;

	if (m->moment == STATE_BEFORE_OPTION && m->option == NBD_OPT_SET_META_CONTEXT && c->structured &&
	    !c->extended && LIE_NOW) {
		c->extended = true;
		lent = c;
	} else if (m->moment == STATE_AFTER_OPTION && lent == c) {
		c->extended = false;
		lent = NULL;
	}
}

/* ---- replies ---- */

#define EXTENDED_LIE(ident, breaks, text, condition, ...)                                                              \
	OUTGOING_LIE(extended_##ident, breaks, text,                                                                   \
	             m->kind == MSG_CHUNK && m->extended && m->request != NULL && (condition), __VA_ARGS__)

static void
become_simple(struct outgoing *m, uint32_t error)
{
	m->kind = MSG_SIMPLE_REPLY;
	m->simple =
		(struct simple_reply){ .magic = NBD_SIMPLE_REPLY_MAGIC, .error = error, .cookie = m->request->cookie };
}

EXTENDED_LIE(simple_success, BREAKS(R(ext_no_simple_reply)), "what has no payload comes in a simple reply",
             m->chunk.type == NBD_REPLY_TYPE_NONE && m->request->type != NBD_CMD_BLOCK_STATUS,
             become_simple(m, NBD_SUCCESS))
EXTENDED_LIE(simple_error, BREAKS(R(ext_no_simple_reply)), "errors come in simple replies",
             m->chunk.type == NBD_REPLY_TYPE_ERROR, become_simple(m, m->error.error))
EXTENDED_LIE(simple_status, BREAKS(R(ext_status_in_chunks)), "BLOCK_STATUS succeeds with a simple reply",
             m->payload == PAYLOAD_BLOCK_STATUS_EXT && m->final, become_simple(m, NBD_SUCCESS))
EXTENDED_LIE(structured_chunk, BREAKS(R(ext_replies_extended)), "replies have the header of structured ones", true,
             m->extended = false;
             m->chunk.magic = NBD_STRUCTURED_REPLY_MAGIC)
EXTENDED_LIE(wrong_magic, BREAKS(R(ext_replies_extended)), "replies begin with the magic of requests", true,
             m->chunk.magic = NBD_EXTENDED_REQUEST_MAGIC)
EXTENDED_LIE(offset_zero, BREAKS(R(ext_offset_echoed)), "the offset in a reply's header is 0", true,
             m->chunk.offset = 0)
EXTENDED_LIE(offset_of_end, BREAKS(R(ext_offset_echoed)), "the offset in a reply's header is behind its data",
             is_data(m), m->chunk.offset += m->offset_data.data.len)
EXTENDED_LIE(offset_of_error, BREAKS(R(ext_offset_echoed)), "the offset in the header of an error is 0", is_error(m),
             m->chunk.offset = 0)
EXTENDED_LIE(cookie_lost, BREAKS(R(ext_cookie_echoed)), "the cookie of a reply is 0", true, m->chunk.cookie = 0)
EXTENDED_LIE(length_high, BREAKS(R(ext_chunk_layout)), "the length of a reply stands in the high 32 bits", is_data(m),
             m->length_off = INT64_C(1) << 32)
EXTENDED_LIE(length_short, BREAKS(R(ext_chunk_layout)), "the length of a reply with data is 8 too small", is_data(m),
             m->length_off = -8)
EXTENDED_LIE(never_done, BREAKS(R(ext_chunk_layout)), "no chunk has NBD_REPLY_FLAG_DONE", true, m->chunk.flags = 0)
EXTENDED_LIE(repeats, BREAKS(R(ext_chunk_layout)), "what has no payload is answered twice",
             m->chunk.type == NBD_REPLY_TYPE_NONE, m->repeat = 1)
EXTENDED_LIE(read_without_data, BREAKS(R(ext_read_in_chunks)), "a READ succeeds without data", is_data(m) && m->final,
             m->chunk.type = NBD_REPLY_TYPE_NONE;
             m->payload = PAYLOAD_RAW)
EXTENDED_LIE(error_of_zero, BREAKS(R(ext_errors_in_chunks)), "the error in an error chunk is 0", is_error(m),
             m->error.error = NBD_SUCCESS)
EXTENDED_LIE(error_text_long, BREAKS(R(ext_error_text_limit)), "the text of an error has 4097 bytes", is_error(m), {
	static char text[NBD_MAX_STRING + 1];

	memset(text, 'x', sizeof(text));
	m->error.message = (struct bytes){ (const uint8_t *)text, sizeof(text) };
})

LIE(extended_df_ignored, ON_INCOMING, BREAKS(R(ext_payload_constraints)),
    "READs come in two chunks, with DF and without")
{
	if (is_option(m, NBD_OPT_EXTENDED_HEADERS) && LIE_NOW)
		fake_config_of(c->server)->knob[KNOB_read_halves] = true;
	if (m->kind == MSG_REQUEST && c->extended && (m->request.flags & NBD_CMD_FLAG_DF) != 0 && LIE_NOW)
		m->request.flags &= (uint16_t)~NBD_CMD_FLAG_DF;
}

/* ---- requests ---- */

#define REQUEST_LIE(ident, breaks, text, condition, ...)                                                               \
	INCOMING_LIE(extended_##ident, breaks, text, m->kind == MSG_REQUEST && c->extended && (condition), __VA_ARGS__)
#define DISK_LIE(ident, breaks, text, condition, ...)                                                                  \
	LIE(extended_##ident, ON_DISK, breaks, text)                                                                   \
	{                                                                                                              \
		if (c->extended && (condition) && LIE_NOW) {                                                           \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}

static bool
has_useless_payload(const struct request *r)
{
	return (r->flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0 && r->type != NBD_CMD_WRITE &&
	       r->type != NBD_CMD_BLOCK_STATUS;
}

static bool
is_status_by_payload(const struct request *r)
{
	return (r->flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0 && r->type == NBD_CMD_BLOCK_STATUS;
}

DISK_LIE(length_32_bits, BREAKS(R(ext_effect_length)), "of a length the low 32 bits count",
         m->length > UINT32_MAX && m->error == NBD_SUCCESS, m->length &= UINT32_MAX)
DISK_LIE(length_capped, BREAKS(R(ext_effect_length)), "more than 4 GiB are done in part, with success",
         m->length > UINT32_MAX && m->error == NBD_SUCCESS && m->type != NBD_CMD_BLOCK_STATUS,
         m->length = UINT32_MAX - 65535)
DISK_LIE(length_truncated_early, BREAKS(R(ext_effect_length)), "a length past the end is taken for its low 32 bits",
         m->length > UINT32_MAX && m->error != NBD_SUCCESS && m->type != NBD_CMD_READ &&
                 m->type != NBD_CMD_BLOCK_STATUS,
         m->length &= UINT32_MAX;
         m->error = NBD_SUCCESS; m->skip = false)
DISK_LIE(sum_wraps, BREAKS(R(ext_effect_length)), "offset and length may add up to more than 64 bits",
         m->error != NBD_SUCCESS && m->offset + m->length < m->offset && m->type != NBD_CMD_READ,
         m->length += m->offset;
         m->offset = 0; m->error = NBD_SUCCESS; m->skip = false)
REQUEST_LIE(long_effect_ends, BREAKS(R(ext_long_effect_no_disconnect)), "more than 32 bits of length end the session",
            m->request.length > UINT32_MAX && (m->request.flags & NBD_CMD_FLAG_PAYLOAD_LEN) == 0, m->close = true)
DISK_LIE(zeroes_nothing, BREAKS(R(ext_command_done)), "with extended headers WRITE_ZEROES does nothing",
         m->type == NBD_CMD_WRITE_ZEROES, m->skip = true)
DISK_LIE(flush_fails, BREAKS(R(ext_command_done)), "with extended headers FLUSH gets NBD_EIO", m->type == NBD_CMD_FLUSH,
         m->error = NBD_EIO)
REQUEST_LIE(payload_left, BREAKS(R(ext_payload_consumed)), "a payload that is not expected is taken for requests",
            has_useless_payload(&m->request), m->consumed = EXTENDED_REQUEST_SIZE)
REQUEST_LIE(payload_ends, BREAKS(R(ext_payload_consumed)), "a payload that is not expected ends the session",
            has_useless_payload(&m->request), m->close = true)
REQUEST_LIE(payload_of_refused_left, BREAKS(R(ext_payload_consumed)),
            "the payload of a WRITE past the end is taken for requests",
            m->request.type == NBD_CMD_WRITE && m->request.offset > c->export->size,
            m->consumed = EXTENDED_REQUEST_SIZE)
REQUEST_LIE(payload_ignored, BREAKS(R(ext_unexpected_payload_einval)), "a payload that is not expected does not matter",
            has_useless_payload(&m->request), m->request.flags &= (uint16_t)~NBD_CMD_FLAG_PAYLOAD_LEN)
REQUEST_LIE(oversize_refused, BREAKS(R(ext_oversize_payload_ends)), "a payload above the maximum gets NBD_EINVAL",
            m->close && m->request.length > NBD_DEFAULT_MAX_PAYLOAD, m->close = false)

/* ---- NBD_CMD_BLOCK_STATUS ---- */

#define STATUS_LIE(ident, breaks, text, condition, ...)                                                                \
	EXTENDED_LIE(status_##ident, breaks, text, m->payload == PAYLOAD_BLOCK_STATUS_EXT && (condition), __VA_ARGS__)

static bool
is_allocation(const struct conn *c, const struct outgoing *m)
{
	for (unsigned i = 0; i < c->n_contexts; i++)
		if (c->contexts[i].id == m->block_status.context_id)
			return c->contexts[i].context == META_ALLOCATION;
	return false;
}

STATUS_LIE(compact, BREAKS(R(ext_status_ext_used)), "with extended headers status comes in NBD_REPLY_TYPE_BLOCK_STATUS",
           true, m->chunk.type = NBD_REPLY_TYPE_BLOCK_STATUS;
           m->payload = PAYLOAD_BLOCK_STATUS)
STATUS_LIE(odd_length, BREAKS(R(ext_status_ext_length)), "a status chunk has 4 bytes too many", true,
           m->extra = BYTES_OF("\0\0\0\0");
           m->length_off = 4)
STATUS_LIE(count_high, BREAKS(R(ext_status_ext_count)), "a status chunk counts one extent too many", true,
           m->inner_length_off = 1)
STATUS_LIE(count_zero, BREAKS(R(ext_status_ext_count)), "a status chunk counts no extents", true,
           m->inner_length_off = -(int64_t)m->n_extents)
STATUS_LIE(empty, BREAKS(R(ext_status_at_least_one)), "a status chunk has no extents", true, m->n_extents = 0)
STATUS_LIE(zero_extent, BREAKS(R(ext_extent_nonzero)), "the last extent has length 0", true,
           m->extents[m->n_extents++] = (struct extent){ 0, 0 })
STATUS_LIE(high_bits, BREAKS(R(ext_status_high_bits_zero)), "base:allocation has bit 32 set", is_allocation(c, m),
           m->extents[0].flags |= UINT64_C(1) << 32)
STATUS_LIE(one_too_long, BREAKS(R(ext_req_one_within_request)), "with REQ_ONE the extent runs past the request",
           (m->request->flags & NBD_CMD_FLAG_REQ_ONE) != 0, m->extents[0].length = m->request->length + 65536)
STATUS_LIE(one_is_two, BREAKS(R(ext_req_one_within_request)), "with REQ_ONE come two extents",
           (m->request->flags & NBD_CMD_FLAG_REQ_ONE) != 0 && m->extents[0].length > 4096,
           m->extents[m->n_extents++] = (struct extent){ 4096, m->extents[0].flags ^ 1 };
           m->extents[0].length -= 4096)
STATUS_LIE(context_missing, BREAKS(R(ext_status_chunk_per_context)), "the first of several contexts is not told",
           !m->final, m->drop = true)
STATUS_LIE(context_twice, BREAKS(R(ext_status_chunk_per_context)), "the first of several contexts is told twice",
           !m->final, m->repeat = 1)
STATUS_LIE(past_end, BREAKS(R(ext_effect_length)), "the last extent reaches past the end of the export",
           (m->request->flags & NBD_CMD_FLAG_REQ_ONE) == 0, m->extents[m->n_extents - 1].length += UINT64_C(1) << 40)
STATUS_LIE(amplifies, BREAKS(R(ext_status_descriptor_limit)), "more than 2^20 extents tell of a long range",
           m->request->length > 4u << 20 && (m->request->flags & NBD_CMD_FLAG_REQ_ONE) == 0, {
		   enum { MANY = (1 << 20) + 1 };
		   static struct extent *many;

		   if (many == NULL && (many = calloc(MANY, sizeof(*many))) == NULL)
			   abort();
		   for (unsigned i = 0; i < MANY; i++)
			   many[i] = (struct extent){ 1, i % 2 };
		   m->extents = many;
		   m->n_extents = MANY;
	   })

REQUEST_LIE(status_zero_ends, BREAKS(R(ext_status_zero_no_disconnect)), "BLOCK_STATUS of no bytes ends the session",
            m->request.type == NBD_CMD_BLOCK_STATUS && m->request.length == 0, m->close = true)
DISK_LIE(status_filter_ignored, BREAKS(R(ext_status_payload_filters)),
         "the contexts in the payload of a BLOCK_STATUS do not matter", m->by_payload && m->error == NBD_SUCCESS,
         m->by_payload = false)
DISK_LIE(status_header_length, BREAKS(R(ext_status_payload_filters)),
         "the length in the header counts for a BLOCK_STATUS with a payload", m->by_payload && m->error == NBD_SUCCESS,
         m->length = m->request->length)
DISK_LIE(status_wrong_payload_served, BREAKS(R(ext_status_payload_refused)),
         "what is wrong in the payload of a BLOCK_STATUS does not matter",
         is_status_by_payload(m->request) && m->error == NBD_EINVAL && m->length <= c->export->size,
         m->error = NBD_SUCCESS;
         m->skip = false)
DISK_LIE(status_wrong_payload_eio, BREAKS(R(ext_status_payload_refused)),
         "what is wrong in the payload of a BLOCK_STATUS gets NBD_EIO",
         is_status_by_payload(m->request) && m->error == NBD_EINVAL, m->error = NBD_EIO)

static void
become_error(struct outgoing *m, uint32_t error)
{
	m->chunk.type = NBD_REPLY_TYPE_ERROR;
	m->payload = PAYLOAD_ERROR;
	m->error = (struct chunk_error){ .error = error };
}

LIE(extended_status_payload_unadvertised, ON_OUTGOING, BREAKS(R(ext_status_payload_refused)),
    "does not advertise NBD_FLAG_BLOCK_STATUS_PAYLOAD, and answers a BLOCK_STATUS with a payload by NBD_EIO")
{
	if (tells_flags(m) && c->extended && LIE_NOW)
		advertise(m, 0, NBD_FLAG_BLOCK_STATUS_PAYLOAD);
	else if (m->kind == MSG_CHUNK && m->request != NULL && is_status_by_payload(m->request) && m->final && LIE_NOW)
		become_error(m, NBD_EIO);
}

REQUEST_LIE(status_payload_left, BREAKS(R(ext_payload_consumed)),
            "a payload of BLOCK_STATUS that is cut is left unread",
            is_status_by_payload(&m->request) && m->request.length % 4 != 0, m->consumed = EXTENDED_REQUEST_SIZE)
