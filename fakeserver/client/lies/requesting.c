/* Lies of transmission: what is sent in it. */
#include "fakeserver/client/lies/helpers.h"

#include <stdio.h>

#define SENDING_LIE(ident, breaks, text_, when, ...) CLIENT_LIE_WHERE(ident, SENDING, breaks, text_, when, __VA_ARGS__)
#define COMMAND_LIE(ident, breaks, text_, when, ...) CLIENT_LIE_WHERE(ident, COMMAND, breaks, text_, when, __VA_ARGS__)

static bool
offers(const struct fc_session *s, uint16_t flag)
{
	return (fc_flags(&s->facts) & flag) == flag;
}

static bool
has_flag(const struct fc_op *op, uint16_t flag)
{
	return op->ask == FC_COMMAND && (op->request.flags & flag) != 0;
}

/* ---- what is not offered (libnbd bf38b21) ---- */

#define UNADVERTISED_LIE(ident, type, flag, text_, ...)                                                                \
	COMMAND_LIE(ident, BREAKS(__VA_ARGS__), text_, is_command(op, type) && !offers(s, flag), op->unchecked = true)

UNADVERTISED_LIE(flush_unadvertised, NBD_CMD_FLUSH, NBD_FLAG_SEND_FLUSH, "sends FLUSH although it is not advertised",
                 R(flush_only_where_advertised), R(client_uses_exposed_features), R(client_negotiates_extras))
UNADVERTISED_LIE(trim_unadvertised, NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, "sends TRIM although it is not advertised",
                 R(trim_only_where_advertised), R(client_uses_exposed_features), R(client_negotiates_extras))
UNADVERTISED_LIE(zeroes_unadvertised, NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES,
                 "sends WRITE_ZEROES although it is not advertised", R(zeroes_only_where_advertised),
                 R(client_uses_exposed_features), R(client_negotiates_extras))
COMMAND_LIE(status_without_contexts,
            BREAKS(R(block_status_after_set_meta), R(client_status_needs_context), R(client_selects_contexts),
                   R(client_metadata_needs_structured), R(payload_extensions_need_structured),
                   R(client_negotiates_extras)),
            "sends BLOCK_STATUS although no context is selected",
            is_command(op, NBD_CMD_BLOCK_STATUS) && s->facts.n_contexts == 0, op->unchecked = true)
COMMAND_LIE(fua_unadvertised, BREAKS(R(client_uses_exposed_features), R(command_flags_documented_only)),
            "sets FUA although it is not advertised", has_flag(op, NBD_CMD_FLAG_FUA) && !offers(s, NBD_FLAG_SEND_FUA),
            op->unchecked = true)
COMMAND_LIE(df_unadvertised,
            BREAKS(R(df_only_where_advertised), R(client_df_unadvertised), R(command_flags_documented_only),
                   R(ext_df_needs_flag)),
            "sets DF although it is not advertised", has_flag(op, NBD_CMD_FLAG_DF) && !offers(s, NBD_FLAG_SEND_DF),
            op->unchecked = true)
COMMAND_LIE(fast_zero_unadvertised,
            BREAKS(R(fast_zero_only_where_advertised), R(client_fast_zero_unadvertised),
                   R(command_flags_documented_only)),
            "sets FAST_ZERO although it is not advertised",
            has_flag(op, NBD_CMD_FLAG_FAST_ZERO) && offers(s, NBD_FLAG_SEND_WRITE_ZEROES) &&
                    !offers(s, NBD_FLAG_SEND_FAST_ZERO),
            op->unchecked = true)
COMMAND_LIE(no_hole_unadvertised, BREAKS(R(client_uses_exposed_features), R(zeroes_only_where_advertised)),
            "sets NO_HOLE although WRITE_ZEROES is not advertised",
            has_flag(op, NBD_CMD_FLAG_NO_HOLE) && !offers(s, NBD_FLAG_SEND_WRITE_ZEROES), op->unchecked = true)

COMMAND_LIE(undefined_flags_sent, BREAKS(R(command_flags_documented_only)), "sends whatever flags its user asks for",
            has_flag(op, 0xffe0), op->unchecked = true)

/* What nobody has asked for. */
static bool
lacks_flag(const struct fc_sending *m, uint16_t type, uint16_t flag)
{
	return is_request(m, type) && (m->request.flags & flag) == 0;
}

SENDING_LIE(fua_on_read, BREAKS(R(fua_only_on_writes)), "sets FUA on READ", is_request(m, NBD_CMD_READ),
            m->request.flags |= NBD_CMD_FLAG_FUA)
SENDING_LIE(fua_on_flush, BREAKS(R(fua_only_on_writes)), "sets FUA on FLUSH", is_request(m, NBD_CMD_FLUSH),
            m->request.flags |= NBD_CMD_FLAG_FUA)
SENDING_LIE(fua_on_cache, BREAKS(R(fua_only_on_writes)), "sets FUA on CACHE", is_request(m, NBD_CMD_CACHE),
            m->request.flags |= NBD_CMD_FLAG_FUA)
SENDING_LIE(fua_on_block_status, BREAKS(R(fua_only_on_writes)), "sets FUA on BLOCK_STATUS",
            is_request(m, NBD_CMD_BLOCK_STATUS), m->request.flags |= NBD_CMD_FLAG_FUA)
SENDING_LIE(fua_always, BREAKS(R(client_uses_exposed_features), R(command_flags_documented_only)),
            "sets FUA on every WRITE", lacks_flag(m, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA),
            m->request.flags |= NBD_CMD_FLAG_FUA)
SENDING_LIE(df_always, BREAKS(R(df_only_where_advertised), R(client_df_unadvertised), R(command_flags_documented_only)),
            "sets DF on every READ", lacks_flag(m, NBD_CMD_READ, NBD_CMD_FLAG_DF), m->request.flags |= NBD_CMD_FLAG_DF)
SENDING_LIE(fast_zero_always,
            BREAKS(R(fast_zero_only_where_advertised), R(client_fast_zero_unadvertised),
                   R(command_flags_documented_only)),
            "sets FAST_ZERO on every WRITE_ZEROES", lacks_flag(m, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO),
            m->request.flags |= NBD_CMD_FLAG_FAST_ZERO)
SENDING_LIE(no_hole_on_write, BREAKS(R(command_flags_documented_only)), "sets NO_HOLE on WRITE",
            is_request(m, NBD_CMD_WRITE), m->request.flags |= NBD_CMD_FLAG_NO_HOLE)
SENDING_LIE(req_one_on_read, BREAKS(R(command_flags_documented_only)), "sets REQ_ONE on READ",
            is_request(m, NBD_CMD_READ), m->request.flags |= NBD_CMD_FLAG_REQ_ONE)
SENDING_LIE(fast_zero_on_trim, BREAKS(R(command_flags_documented_only)), "sets FAST_ZERO on TRIM",
            is_request(m, NBD_CMD_TRIM), m->request.flags |= NBD_CMD_FLAG_FAST_ZERO)
SENDING_LIE(flag_15_set, BREAKS(R(command_flags_documented_only)), "sets bit 15 of the command flags",
            m->kind == MSG_REQUEST && m->request.type != NBD_CMD_DISC, m->request.flags |= 0x8000)
SENDING_LIE(payload_len_set, BREAKS(R(command_flags_documented_only), R(ext_compact_no_payload_flag)),
            "sets PAYLOAD_LEN, which is of extended headers", is_request(m, NBD_CMD_WRITE),
            m->request.flags |= NBD_CMD_FLAG_PAYLOAD_LEN)
SENDING_LIE(cache_sent_as_resize, BREAKS(R(client_negotiates_extras)), "sends RESIZE, which was not negotiated",
            is_request(m, NBD_CMD_CACHE), m->request.type = NBD_CMD_RESIZE)
SENDING_LIE(trim_sent_as_unknown, BREAKS(R(client_negotiates_extras)), "sends a command that nobody knows",
            is_request(m, NBD_CMD_TRIM), m->request.type = 0x4000)
SENDING_LIE(flush_of_its_own,
            BREAKS(R(flush_only_where_advertised), R(client_uses_exposed_features), R(client_negotiates_extras)),
            "sends FLUSH before NBD_CMD_DISC, advertised or not", is_request(m, NBD_CMD_DISC),
            m->before = request_bytes(NBD_CMD_FLUSH, m->request.cookie + 1, 0, 0))

/* ---- what the user wanted ---- */

SENDING_LIE(no_hole_dropped, BREAKS(R(no_hole_set_when_wanted)), "drops NO_HOLE, and says nothing",
            is_request(m, NBD_CMD_WRITE_ZEROES), m->request.flags &= (uint16_t)~NBD_CMD_FLAG_NO_HOLE)
SENDING_LIE(df_dropped, BREAKS(R(df_set_when_needed)), "drops DF, and says nothing", is_request(m, NBD_CMD_READ),
            m->request.flags &= (uint16_t)~NBD_CMD_FLAG_DF)
#define FUA_DROPPED_LIE(ident, cmd, name)                                                                              \
	SENDING_LIE(ident, BREAKS(R(baseline_client_write)), "drops FUA of " name ", and says nothing",                \
	            is_request(m, cmd) && (m->request.flags & NBD_CMD_FLAG_FUA) != 0,                                  \
	            m->request.flags &= (uint16_t)~NBD_CMD_FLAG_FUA)
FUA_DROPPED_LIE(fua_dropped_of_write, NBD_CMD_WRITE, "WRITE")
FUA_DROPPED_LIE(fua_dropped_of_trim, NBD_CMD_TRIM, "TRIM")
FUA_DROPPED_LIE(fua_dropped_of_zeroes, NBD_CMD_WRITE_ZEROES, "WRITE_ZEROES")

CLIENT_LIE_WHERE(timeout_ignored, STATE, BREAKS(R(baseline_client_read), R(client_transmission_no_disconnect)),
                 "waits for ever for a reply, whatever limit was set",
                 moment == FC_STATE_NEW && s->settings.timeout_s != 0, s->settings.timeout_s = 0)

#define PRETENDED_LIE(ident, cmd, text_, rule)                                                                         \
	COMMAND_LIE(ident, BREAKS(R(rule)), text_, is_command(op, cmd), op->pretend = true)
PRETENDED_LIE(flush_pretended, NBD_CMD_FLUSH, "sends no FLUSH, and says that it is done", client_flush_awaits_replies)
PRETENDED_LIE(write_pretended, NBD_CMD_WRITE, "sends no WRITE, and says that it is done", baseline_client_write)
PRETENDED_LIE(read_pretended, NBD_CMD_READ, "sends no READ, and says that it is done", baseline_client_read)

#define EARLY_LIE(ident, cmd, name, ...)                                                                               \
	COMMAND_LIE(ident, BREAKS(__VA_ARGS__), "says that " name " is done before the reply", is_command(op, cmd),    \
	            op->early = true)
EARLY_LIE(write_done_early, NBD_CMD_WRITE, "WRITE", R(client_flush_awaits_replies), R(baseline_client_write))
EARLY_LIE(trim_done_early, NBD_CMD_TRIM, "TRIM", R(client_flush_awaits_replies))
EARLY_LIE(zeroes_done_early, NBD_CMD_WRITE_ZEROES, "WRITE_ZEROES", R(client_flush_awaits_replies))
EARLY_LIE(flush_done_early, NBD_CMD_FLUSH, "FLUSH", R(client_flush_awaits_replies))

/* nbdcopy d5f65e3 */
SENDING_LIE(zeroes_sent_as_trim,
            BREAKS(R(trim_contents_not_assumed), R(trim_only_where_advertised), R(command_flags_documented_only)),
            "sends TRIM for WRITE_ZEROES", is_request(m, NBD_CMD_WRITE_ZEROES), m->request.type = NBD_CMD_TRIM)
SENDING_LIE(trim_sent_as_zeroes, BREAKS(R(zeroes_only_where_advertised), R(client_uses_exposed_features)),
            "sends WRITE_ZEROES for TRIM", is_request(m, NBD_CMD_TRIM), m->request.type = NBD_CMD_WRITE_ZEROES)

CLIENT_LIE(trimmed_reads_as_zeroes, COMMAND, BREAKS(R(trim_contents_not_assumed)),
           "says without asking the server that what it has trimmed reads as zeroes")
{
	static uint64_t from, to;
	const struct request *r = &op->request;

	if (is_command(op, NBD_CMD_TRIM)) {
		from = r->offset;
		to = r->offset + r->length;
	}
	if (!is_command(op, NBD_CMD_READ) || r->offset < from || r->offset + r->length > to || !CLIENT_LIE_NOW)
		return;
	op->data = calloc(1, (size_t)r->length + 1);
	op->pretend = true;
}

/* ---- lengths and places ---- */

#define EMPTY_LIE(ident, cmd, name, ...)                                                                               \
	COMMAND_LIE(ident, BREAKS(__VA_ARGS__), "sends " name " of length 0",                                          \
	            is_command(op, cmd) && op->request.length == 0, op->unchecked = true)
EMPTY_LIE(empty_read, NBD_CMD_READ, "READ", R(read_length_nonzero), R(ext_read_nonzero))
EMPTY_LIE(empty_write, NBD_CMD_WRITE, "WRITE", R(write_length_nonzero))
EMPTY_LIE(empty_trim, NBD_CMD_TRIM, "TRIM", R(trim_length_nonzero))
EMPTY_LIE(empty_zeroes, NBD_CMD_WRITE_ZEROES, "WRITE_ZEROES", R(zeroes_length_nonzero))
EMPTY_LIE(empty_block_status, NBD_CMD_BLOCK_STATUS, "BLOCK_STATUS", R(status_length_nonzero), R(ext_status_nonzero))

#define EMPTY_BEFORE_LIE(ident, cmd, rule, name)                                                                       \
	CLIENT_LIE(ident, SENDING, BREAKS(R(rule)), "sends " name " of length 0 for " name)                            \
	{                                                                                                              \
		if (!is_request(m, cmd) || !CLIENT_LIE_NOW)                                                            \
			return;                                                                                        \
		m->request.length = m->op->request.length = 0;                                                         \
		m->request.data.len = 0;                                                                               \
	}
EMPTY_BEFORE_LIE(read_emptied, NBD_CMD_READ, read_length_nonzero, "READ")
EMPTY_BEFORE_LIE(write_emptied, NBD_CMD_WRITE, write_length_nonzero, "WRITE")
EMPTY_BEFORE_LIE(trim_emptied, NBD_CMD_TRIM, trim_length_nonzero, "TRIM")
EMPTY_BEFORE_LIE(zeroes_emptied, NBD_CMD_WRITE_ZEROES, zeroes_length_nonzero, "WRITE_ZEROES")
EMPTY_BEFORE_LIE(block_status_emptied, NBD_CMD_BLOCK_STATUS, status_length_nonzero, "BLOCK_STATUS")

static bool
ends_beyond(const struct fc_session *s, const struct fc_op *op)
{
	return op->ask == FC_COMMAND && op->request.type != NBD_CMD_FLUSH &&
	       (op->request.offset > s->facts.export.size ||
	        op->request.length > s->facts.export.size - op->request.offset);
}

COMMAND_LIE(beyond_export, BREAKS(R(client_within_export)), "sends requests beyond the export's end",
            ends_beyond(s, op), op->unchecked = true)
COMMAND_LIE(read_beyond_export, BREAKS(R(client_within_export)), "reads beyond the export's end",
            is_command(op, NBD_CMD_READ) && ends_beyond(s, op), op->unchecked = true)
COMMAND_LIE(write_beyond_export, BREAKS(R(client_within_export)), "writes beyond the export's end",
            is_command(op, NBD_CMD_WRITE) && ends_beyond(s, op), op->unchecked = true)
/* An end that has wrapped round 2^64 lies before the export's. */
COMMAND_LIE(end_wraps, BREAKS(R(client_within_export)), "takes an end beyond 2^64 for one within the export",
            op->ask == FC_COMMAND && op->request.offset + op->request.length < op->request.offset, op->unchecked = true)

SENDING_LIE(read_ahead, BREAKS(R(client_within_export), R(client_minimum_aligned), R(client_abides_by_block_size)),
            "reads a byte more than it was asked for", is_request(m, NBD_CMD_READ), m->request.length++;
            m->op->request.length++)
SENDING_LIE(block_status_to_32_bits, BREAKS(R(client_within_export)),
            "asks for the status of all 4 GiB behind an offset", is_request(m, NBD_CMD_BLOCK_STATUS),
            m->request.length = m->op->request.length = UINT32_MAX)

/* Leaves out what stands before the next 512 bytes. */
#define SHRUNK_LIE(ident, cmd, name)                                                                                   \
	CLIENT_LIE(ident, SENDING, BREAKS(R(client_preferred_aligned)), "leaves out the first 512 bytes of a " name)   \
	{                                                                                                              \
		if (!is_request(m, cmd) || m->request.length <= 512 || !CLIENT_LIE_NOW)                                \
			return;                                                                                        \
		m->request.offset = m->op->request.offset += 512;                                                      \
		m->request.length = m->op->request.length -= 512;                                                      \
		m->request.data.len -= m->request.data.len > 0 ? 512 : 0;                                              \
	}
SHRUNK_LIE(read_shrunk, NBD_CMD_READ, "READ")
SHRUNK_LIE(write_shrunk, NBD_CMD_WRITE, "WRITE")
SHRUNK_LIE(zeroes_shrunk, NBD_CMD_WRITE_ZEROES, "WRITE_ZEROES")

#define UNALIGNED_LIE(ident, cmd, name)                                                                                \
	CLIENT_LIE(ident, SENDING,                                                                                     \
	           BREAKS(R(client_minimum_aligned), R(client_abides_by_block_size), R(client_default_min_block),      \
	                  R(client_preferred_aligned)),                                                                \
	           "leaves out the last byte of a " name)                                                              \
	{                                                                                                              \
		if (!is_request(m, cmd) || m->request.length < 2 || !CLIENT_LIE_NOW)                                   \
			return;                                                                                        \
		m->request.length = --m->op->request.length;                                                           \
		m->request.data.len -= m->request.data.len > 0;                                                        \
	}
UNALIGNED_LIE(read_unaligned, NBD_CMD_READ, "READ")
UNALIGNED_LIE(write_unaligned, NBD_CMD_WRITE, "WRITE")
UNALIGNED_LIE(trim_unaligned, NBD_CMD_TRIM, "TRIM")
UNALIGNED_LIE(zeroes_unaligned, NBD_CMD_WRITE_ZEROES, "WRITE_ZEROES")
UNALIGNED_LIE(cache_unaligned, NBD_CMD_CACHE, "CACHE")
UNALIGNED_LIE(block_status_unaligned, NBD_CMD_BLOCK_STATUS, "BLOCK_STATUS")

SENDING_LIE(flush_with_length, BREAKS(R(flush_fields_zero)), "sends FLUSH with a length", is_request(m, NBD_CMD_FLUSH),
            m->request.length = 512)
SENDING_LIE(flush_with_offset, BREAKS(R(flush_fields_zero)), "sends FLUSH with an offset", is_request(m, NBD_CMD_FLUSH),
            m->request.offset = 512)
SENDING_LIE(disc_with_length, BREAKS(R(disc_fields_zero)), "sends NBD_CMD_DISC with a length",
            is_request(m, NBD_CMD_DISC), m->request.length = 1)
SENDING_LIE(disc_with_offset, BREAKS(R(disc_fields_zero)), "sends NBD_CMD_DISC with an offset",
            is_request(m, NBD_CMD_DISC), m->request.offset = 512)

/* ---- the layout of requests ---- */

SENDING_LIE(request_magic_reserved, BREAKS(R(request_magic)), "begins a request with 0x25609514",
            m->kind == MSG_REQUEST, m->request.magic = 0x25609514)
SENDING_LIE(request_magic_of_replies, BREAKS(R(request_magic)), "begins a request with the magic of replies",
            m->kind == MSG_REQUEST, m->request.magic = NBD_SIMPLE_REPLY_MAGIC)
SENDING_LIE(request_extended, BREAKS(R(extended_request_magic_negotiated)),
            "begins a request with the magic of extended headers", m->kind == MSG_REQUEST,
            m->request.magic = 0x21e41c71)
SENDING_LIE(request_little_endian, BREAKS(R(numbers_big_endian)), "sends requests in little-endian",
            m->kind == MSG_REQUEST, m->swap = true)
SENDING_LIE(request_length_of_64_bits, BREAKS(R(request_layout), R(request_payload_client)),
            "sends a request's length as 64 bits", m->kind == MSG_REQUEST && m->request.type != NBD_CMD_DISC,
            m->behind = BYTES_OF("\0\0\0\0"))
SENDING_LIE(request_cut_short, BREAKS(R(request_layout)), "closes the connection within NBD_CMD_DISC",
            m->kind == MSG_REQUEST && m->request.type == NBD_CMD_DISC, m->drop = m->close = true;
            m->behind = BYTES_OF("\x25\x60\x95\x13\0\0\0\2"))
SENDING_LIE(request_type_first, BREAKS(R(request_layout), R(command_flags_documented_only)),
            "sends a request's type before its flags", m->kind == MSG_REQUEST && m->request.type != NBD_CMD_WRITE,
            m->request.flags = m->request.type;
            m->request.type = m->op != NULL ? m->op->request.flags : 0)
SENDING_LIE(write_lacks_a_byte, BREAKS(R(write_payload_follows), R(request_payload_client)),
            "sends a byte less than a WRITE has", is_request(m, NBD_CMD_WRITE) && m->request.data.len > 0,
            m->request.data.len--)
SENDING_LIE(write_has_a_byte_more, BREAKS(R(write_payload_follows), R(request_payload_client)),
            "sends a byte more than a WRITE has", is_request(m, NBD_CMD_WRITE), m->behind = BYTES_OF("x"))
SENDING_LIE(write_without_data,
            BREAKS(R(write_payload_follows), R(request_payload_client), R(client_transmission_no_disconnect)),
            "sends a WRITE's header without its data", is_request(m, NBD_CMD_WRITE), m->request.data.len = 0)
SENDING_LIE(zeroes_with_data, BREAKS(R(zeroes_sent_without_payload), R(request_payload_client)),
            "sends zeroes behind WRITE_ZEROES", is_request(m, NBD_CMD_WRITE_ZEROES), m->behind = many('\0', 512))
SENDING_LIE(trim_with_data, BREAKS(R(request_payload_client)), "sends data behind TRIM", is_request(m, NBD_CMD_TRIM),
            m->behind = many('\0', 512))
SENDING_LIE(read_with_data, BREAKS(R(request_payload_client)), "sends data behind READ", is_request(m, NBD_CMD_READ),
            m->behind = many('\0', 512))
SENDING_LIE(flush_with_data, BREAKS(R(request_payload_client)), "sends data behind FLUSH", is_request(m, NBD_CMD_FLUSH),
            m->behind = many('\0', 512))

/* ---- cookies ---- */

#define COOKIE_LIE(ident, rules, text_, value)                                                                         \
	SENDING_LIE(ident, rules, text_, m->kind == MSG_REQUEST && m->op != NULL,                                      \
	            m->request.cookie = m->op->request.cookie = (value))
COOKIE_LIE(cookies_alike, BREAKS(R(client_distinct_cookies)), "gives all requests the same cookie", 1)
COOKIE_LIE(cookies_zero, BREAKS(R(client_distinct_cookies)), "gives all requests the cookie 0", 0)
COOKIE_LIE(cookies_by_offset, BREAKS(R(client_distinct_cookies)), "takes the offset for the cookie", m->request.offset)
COOKIE_LIE(cookies_of_1_bit, BREAKS(R(client_distinct_cookies)), "gives two cookies in turn", m->request.cookie & 1)
/* Linux 8337b029f788 */
SENDING_LIE(resent_under_new_cookie, BREAKS(R(client_transmission_no_disconnect), R(client_takes_replies_unordered)),
            "sends a request twice, and leaves over the reply to the second",
            m->kind == MSG_REQUEST && m->op != NULL && m->request.length < 65536 && m->request.type != NBD_CMD_WRITE,
            m->behind = request_bytes(m->request.type, m->request.cookie + (1u << 30), m->request.offset,
                                      m->request.length))

/* ---- the end of a session ---- */

SENDING_LIE(disc_not_sent, BREAKS(R(client_transmission_no_disconnect), R(baseline_client_disc)),
            "leaves without NBD_CMD_DISC", is_request(m, NBD_CMD_DISC), m->drop = true;
            m->close = true)
SENDING_LIE(eshutdown_leaves_hard, BREAKS(R(client_disconnects_on_eshutdown), R(client_transmission_no_disconnect)),
            "leaves without NBD_CMD_DISC after NBD_ESHUTDOWN",
            is_request(m, NBD_CMD_DISC) && strcmp(s->facts.error, "ESHUTDOWN") == 0, m->drop = true;
            m->close = true)
/* libnbd bbe5b97 */
SENDING_LIE(disc_then_read, BREAKS(R(disc_nothing_after)), "sends a request behind NBD_CMD_DISC",
            is_request(m, NBD_CMD_DISC), m->behind = request_bytes(NBD_CMD_READ, m->request.cookie + 1, 0, 512))
SENDING_LIE(disc_twice, BREAKS(R(disc_nothing_after)), "sends NBD_CMD_DISC twice", is_request(m, NBD_CMD_DISC),
            m->behind = request_bytes(NBD_CMD_DISC, m->request.cookie, 0, 0))
CLIENT_LIE(disc_at_once, COMMAND, BREAKS(R(client_disc_after_inflight)), "sends NBD_CMD_DISC with requests in flight")
{
	if (op->ask == FC_DISCONNECT && s->stage == FC_TRANSMISSION && CLIENT_LIE_NOW)
		fc_disconnect(s);
}

/* ---- several connections (libnbd 41422f5) ---- */

enum { TWINS = 1 << 24 };

static void
ignore(struct fc_op *op)
{
	(void)op;
}

static struct fc_handle *
twin_of(const struct fc_handle *h)
{
	return h->number < TWINS ? fc_handle_find(h->number + TWINS) : NULL;
}

static void
connect_twin(const struct fc_session *s)
{
	struct fc_handle *twin = twin_of(s->handle);

	if (twin == NULL)
		twin = fc_handle_new(s->handle->number + TWINS);
	if (twin->session == NULL)
		fc_start(fc_op_new(twin, FC_CONNECT, "", ignore), s->uri);
}

CLIENT_LIE(second_connection, COMMAND, BREAKS(R(client_multi_conn_unadvertised)),
           "sends every other command over a second connection, whether NBD_FLAG_CAN_MULTI_CONN is set or not")
{
	struct fc_handle *twin = twin_of(op->handle);

	if (op->ask != FC_COMMAND || op->handle->number >= TWINS || offers(s, NBD_FLAG_CAN_MULTI_CONN) ||
	    !CLIENT_LIE_NOW)
		return;
	if (twin == NULL || !fc_is_connected(twin))
		connect_twin(s);
	else if (l->memory++ % 2 == 0)
		op->handle = twin;
}
