/* Lies about extended headers. */
#include "fakeserver/client/lies/helpers.h"

#define SENDING_LIE(ident, breaks, text_, when, ...) CLIENT_LIE_WHERE(ident, SENDING, breaks, text_, when, __VA_ARGS__)
#define COMMAND_LIE(ident, breaks, text_, when, ...) CLIENT_LIE_WHERE(ident, COMMAND, breaks, text_, when, __VA_ARGS__)
#define RECEIVING_LIE(ident, breaks, text_, when, ...)                                                                 \
	CLIENT_LIE_WHERE(ident, RECEIVING, breaks, text_, when, __VA_ARGS__)
#define STATE_LIE(ident, breaks, text_, when, ...) CLIENT_LIE_WHERE(ident, STATE, breaks, text_, when, __VA_ARGS__)

/* ---- how they are agreed ---- */

SENDING_LIE(extended_option_with_data, BREAKS(R(ext_option_no_data)), "sends data with NBD_OPT_EXTENDED_HEADERS",
            is_option(m, NBD_OPT_EXTENDED_HEADERS), m->option.data = many('x', 4))

static bool
is_answered(const struct fc_session *s, int moment, uint32_t option)
{
	return moment == FC_STATE_AFTER_OPTION && s->option == option;
}

CLIENT_LIE(extended_asked_twice, STATE, BREAKS(R(client_state_option_once)),
           "sends NBD_OPT_EXTENDED_HEADERS again when it is acknowledged")
{
	if (!is_answered(s, moment, NBD_OPT_EXTENDED_HEADERS) || !s->facts.extended || l->memory == s->number ||
	    !CLIENT_LIE_NOW)
		return;
	l->memory = s->number;
	TAILQ_FIRST(&s->ops)->step = FC_EXTENDED;
}

STATE_LIE(extended_refused_assumed, BREAKS(R(extended_request_magic_negotiated), R(ext_client_falls_back)),
          "sends extended requests where NBD_OPT_EXTENDED_HEADERS was refused",
          is_answered(s, moment, NBD_OPT_EXTENDED_HEADERS) && !s->facts.extended,
          s->facts.extended = s->facts.structured = true)
STATE_LIE(extended_refused_leaves, BREAKS(R(ext_client_falls_back)),
          "gives up where NBD_OPT_EXTENDED_HEADERS is not known",
          is_answered(s, moment, NBD_OPT_EXTENDED_HEADERS) && s->option_unsupported,
          fc_fail(TAILQ_FIRST(&s->ops), "REP_ERR_UNSUP"))
CLIENT_LIE(extended_refused_go_not_tried, STATE, BREAKS(R(ext_client_prefers_go)),
           "knows extended headers, and sends NBD_OPT_EXPORT_NAME where they are refused")
{
	struct fc_op *op = TAILQ_FIRST(&s->ops);

	if (!is_answered(s, moment, NBD_OPT_EXTENDED_HEADERS) || s->facts.extended || op->ask != FC_CONNECT ||
	    !CLIENT_LIE_NOW)
		return;
	op->step = FC_OLD_WAY;
	s->option = NBD_OPT_GO;
	s->option_unsupported = true;
}
STATE_LIE(extended_then_export_name, BREAKS(R(ext_no_export_name)),
          "sends NBD_OPT_EXPORT_NAME where NBD_OPT_GO failed behind NBD_OPT_EXTENDED_HEADERS",
          is_answered(s, moment, NBD_OPT_GO) && s->option_unsupported && s->facts.extended, s->facts.extended = false;
          TAILQ_FIRST(&s->ops)->error[0] = '\0')

/* ---- requests ---- */

CLIENT_LIE(extended_agreed_compact_sent, SENDING, BREAKS(R(ext_requests_extended)),
           "sends compact requests although extended headers were agreed")
{
	if (m->kind != MSG_REQUEST || !m->extended || m->request.length > UINT32_MAX || !CLIENT_LIE_NOW)
		return;
	m->extended = false;
	m->request.magic = NBD_REQUEST_MAGIC;
	m->request.flags &= (uint16_t)~NBD_CMD_FLAG_PAYLOAD_LEN;
}

/* qemu 10 */
SENDING_LIE(payload_flag_left_out, BREAKS(R(ext_write_payload_flag)), "sends WRITE without NBD_CMD_FLAG_PAYLOAD_LEN",
            is_request(m, NBD_CMD_WRITE) && m->extended, m->request.flags &= (uint16_t)~NBD_CMD_FLAG_PAYLOAD_LEN)
SENDING_LIE(payload_flag_on_trim, BREAKS(R(command_flags_documented_only)),
            "sends TRIM with NBD_CMD_FLAG_PAYLOAD_LEN, and a payload",
            is_request(m, NBD_CMD_TRIM) && m->extended && m->request.length <= 8192,
            m->request.flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
            m->request.data = many('x', m->request.length))

#define LENGTH_CUT_LIE(ident, cmd, name)                                                                               \
	SENDING_LIE(ident, BREAKS(R(baseline_client_write)), "sends the low half of the length of a long " name,       \
	            is_request(m, cmd) && m->request.length > UINT32_MAX, m->request.length &= UINT32_MAX)
LENGTH_CUT_LIE(long_zeroes_cut, NBD_CMD_WRITE_ZEROES, "WRITE_ZEROES")
SENDING_LIE(far_write_cut, BREAKS(R(baseline_client_write)), "writes at the low half of an offset",
            is_request(m, NBD_CMD_WRITE) && m->extended && m->request.offset > UINT32_MAX,
            m->request.offset &= UINT32_MAX)

COMMAND_LIE(long_read_sent, BREAKS(R(ext_read_32bit)), "reads more than 32 bits of length at once",
            is_command(op, NBD_CMD_READ) && op->request.length > UINT32_MAX && s->facts.extended, op->unchecked = true)
COMMAND_LIE(status_payload_unadvertised, BREAKS(R(ext_status_payload_needs_flag)),
            "sends a payload with BLOCK_STATUS although NBD_FLAG_BLOCK_STATUS_PAYLOAD is not advertised",
            is_command(op, NBD_CMD_BLOCK_STATUS) && op->filtered &&
                    (fc_flags(&s->facts) & NBD_FLAG_BLOCK_STATUS_PAYLOAD) == 0,
            op->unchecked = true)

static bool
has_status_payload(const struct fc_sending *m)
{
	return is_request(m, NBD_CMD_BLOCK_STATUS) && (m->request.flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0;
}

SENDING_LIE(status_payload_too_long, BREAKS(R(ext_status_payload_layout)),
            "sends a byte more than the IDs of the contexts with BLOCK_STATUS", has_status_payload(m),
            m->request.data = with_tail(m->request.data, many('x', 1));
            m->request.length++)
SENDING_LIE(status_payload_of_32_bits, BREAKS(R(client_within_export)),
            "sends the effect length of a BLOCK_STATUS as 32 bits", has_status_payload(m) && m->request.data.len > 4,
            m->request.data.at += 4;
            m->request.data.len -= 4; m->request.length -= 4)
COMMAND_LIE(status_payload_forgotten, BREAKS(R(ext_status_payload_layout)),
            "asks for all contexts where the user asks for some",
            is_command(op, NBD_CMD_BLOCK_STATUS) && op->filtered && s->facts.extended, op->filtered = false)

/* ---- replies ---- */

static struct buf rewritten;

/* The extents of 64 bits, each changed. */
static void
change_extents(struct fc_receiving *m, struct extent (*change)(struct extent e))
{
	struct chunk_block_status_ext status;

	wire_get_chunk_block_status_ext(wire_over(m->chunk->data), &status);
	buf_clear(&rewritten);
	put_be32(&rewritten, status.context_id);
	put_be32(&rewritten, status.count);
	for (size_t i = 0; i < status.extents.len / EXTENT_EXT_SIZE; i++)
		wire_put_extent_ext(&rewritten, change(chunk_extent_ext(&status, i)));
	m->chunk->data = (struct bytes){ rewritten.at, rewritten.len };
}

static bool
is_wide_status(const struct fc_receiving *m)
{
	return is_chunk(m, NBD_REPLY_TYPE_BLOCK_STATUS_EXT) && is_command(m->op, NBD_CMD_BLOCK_STATUS);
}

static struct extent
cut_length(struct extent e)
{
	e.length &= UINT32_MAX;
	return e;
}

static struct extent
swap_halves(struct extent e)
{
	e.flags = e.flags << 32 | e.flags >> 32;
	return e;
}

static struct extent
mark_hole_zero(struct extent e)
{
	e.flags |= (e.flags & NBD_STATE_HOLE) != 0 ? NBD_STATE_ZERO : 0;
	return e;
}

RECEIVING_LIE(wide_extents_cut, BREAKS(R(client_takes_any_extent_length), R(client_takes_unequal_contexts)),
              "takes the low half of the length of an extent of 64 bits", is_wide_status(m),
              change_extents(m, cut_length))
RECEIVING_LIE(wide_status_swapped, BREAKS(R(client_takes_any_extent_length), R(client_ignores_status_flags)),
              "takes the high half of a status of 64 bits for the low one", is_wide_status(m),
              change_extents(m, swap_halves))
RECEIVING_LIE(wide_hole_taken_for_zero, BREAKS(R(client_hole_not_zero)), "takes every hole for zeroes, told in 64 bits",
              is_wide_status(m), change_extents(m, mark_hole_zero))

/* What it says of its place twice is not the same (ext:509-512). */
CLIENT_LIE(data_put_where_the_header_says, RECEIVING, BREAKS(R(read_chunks_reassembled)),
           "puts data where the header of the chunk says, which is where the request begins")
{
	if (!is_chunk(m, NBD_REPLY_TYPE_OFFSET_DATA) || !m->extended || !is_command(m->op, NBD_CMD_READ) ||
	    m->chunk->data.len < 8 || !CLIENT_LIE_NOW)
		return;
	buf_clear(&rewritten);
	put_be64(&rewritten, m->chunk->offset);
	buf_put(&rewritten, m->chunk->data.at + 8, m->chunk->data.len - 8);
	m->chunk->data = (struct bytes){ rewritten.at, rewritten.len };
	free(m->op->covered);
	m->op->covered = NULL;
}

#define TAKEN_LIE(ident, rule, text_, check)                                                                           \
	CLIENT_LIE_WHERE(ident, VIOLATION, BREAKS(R(rule)), text_, strcmp(v->what, check) == 0, v->forgive = true)
TAKEN_LIE(other_width_of_extents_taken, inconsistent_chunk_disconnects,
          "goes on after extents of the width that was not agreed", "extents of the wrong width")

CLIENT_LIE(long_reply_taken, ANSWER, BREAKS(R(client_reads_chunk_length)),
           "says that a READ has succeeded whose chunk has not come as a whole")
{
	if (!is_command(op, NBD_CMD_READ) || !s->facts.extended || strcmp(op->error, "EPROTO") != 0 || !CLIENT_LIE_NOW)
		return;
	op->error[0] = '\0';
	take_for_whole(op);
}
