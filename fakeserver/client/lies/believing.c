/* Lies of option haggling: what is made of the server's replies. */
#include "fakeserver/client/lies/helpers.h"

#define RECEIVING_LIE(ident, breaks, text_, when, ...)                                                                 \
	CLIENT_LIE_WHERE(ident, RECEIVING, breaks, text_, when, __VA_ARGS__)

static bool
is_option_reply(const struct fc_receiving *m)
{
	return m->kind == MSG_OPTION_REPLY;
}

static bool
is_option_error(const struct fc_receiving *m)
{
	return m->kind == MSG_OPTION_REPLY && (m->option_reply->type & NBD_REP_ERROR_BIT) != 0;
}

/* ---- flags that mean nothing to it ---- */

RECEIVING_LIE(leaves_over_handshake_flags, BREAKS(R(client_ignores_handshake_flags)),
              "leaves a server with handshake flags that it does not know",
              m->kind == MSG_GREETING && (m->greeting->flags & ~3) != 0, m->leave = true)
RECEIVING_LIE(dies_of_handshake_flags, BREAKS(R(client_ignores_handshake_flags)),
              "dies of handshake flags that it does not know",
              m->kind == MSG_GREETING && (m->greeting->flags & ~3) != 0, abort())

static uint16_t
told_flags(const struct fc_receiving *m)
{
	struct info_export e = { 0 };
	struct rep_info info;

	if (m->kind == MSG_EXPORT_NAME_REPLY)
		return m->export_name_reply->flags;
	if (!is_info(m, NBD_INFO_EXPORT))
		return 0;
	wire_get_rep_info(wire_over(m->option_reply->data), &info);
	wire_get_info_export(wire_over(info.payload), &e);
	return e.flags;
}

CLIENT_LIE(leaves_over_transmission_flags, STATE, BREAKS(R(client_ignores_transmission_flags)),
           "leaves a server with transmission flags that it does not know")
{
	if (moment == FC_STATE_AFTER_OPTION && s->option == NBD_OPT_GO && s->facts.export.known &&
	    (s->facts.export.flags & 0xf000) != 0 && CLIENT_LIE_NOW)
		fc_over(s, "EPROTO");
}
RECEIVING_LIE(dies_of_transmission_flags,
              BREAKS(R(client_ignores_transmission_flags), R(client_transmission_no_disconnect)),
              "dies of transmission flags that it does not know", (told_flags(m) & 0xf000) != 0, abort())

/* ---- the length of replies ---- */

RECEIVING_LIE(error_text_left_unread, BREAKS(R(client_reads_option_reply)), "leaves the text of an error reply unread",
              is_option_error(m), s->in_at -= m->option_reply->length)
RECEIVING_LIE(info_read_a_byte_short, BREAKS(R(client_reads_option_reply)), "leaves a byte of an information unread",
              is_info(m, -1), s->in_at--)
RECEIVING_LIE(ack_awaits_data, BREAKS(R(client_reads_option_reply)), "takes 4 bytes behind a reply of length zero",
              is_option_reply(m) && m->option_reply->length == 0, s->skip = 4)
RECEIVING_LIE(long_reply_cut, BREAKS(R(client_reads_option_reply)), "reads at most 256 bytes of a reply",
              is_option_reply(m) && m->option_reply->length > 256, s->in_at -= m->option_reply->length - 256)
RECEIVING_LIE(dies_of_long_reply, BREAKS(R(client_reads_option_reply)), "dies of a reply of more than 1024 bytes",
              is_option_reply(m) && m->option_reply->length > 1024, abort())
/* CVE-2017-2630 (qemu) */
RECEIVING_LIE(dies_of_long_list, BREAKS(R(client_reads_option_reply), R(baseline_client_list)),
              "dies of an export's description of more than 256 bytes",
              is_reply(s, m, NBD_OPT_LIST, NBD_REP_SERVER) && m->option_reply->length > 256, abort())

/* ---- information ---- */

static bool
is_unknown_info(const struct fc_receiving *m)
{
	struct rep_info info;

	if (!is_info(m, -1))
		return false;
	wire_get_rep_info(wire_over(m->option_reply->data), &info);
	return info.type > NBD_INFO_BLOCK_SIZE;
}

RECEIVING_LIE(leaves_over_unknown_info, BREAKS(R(info_unknown_replies_ignored)),
              "leaves over information of a type that it does not know", is_unknown_info(m), m->leave = true)
RECEIVING_LIE(dies_of_unknown_info, BREAKS(R(info_unknown_replies_ignored)),
              "dies of information of a type that it does not know", is_unknown_info(m), abort())
RECEIVING_LIE(unknown_info_is_the_end, BREAKS(R(info_unknown_replies_ignored)),
              "takes information of a type that it does not know for the end", is_unknown_info(m),
              m->option_reply->type = NBD_REP_ACK;
              m->option_reply->length = 0)
RECEIVING_LIE(leaves_over_unasked_info, BREAKS(R(baseline_client_info_go)),
              "leaves over a name or description that it has not asked for",
              (is_info(m, NBD_INFO_NAME) || is_info(m, NBD_INFO_DESCRIPTION)) && !s->settings.full_info,
              m->leave = true)

CLIENT_LIE(wants_export_info_first, RECEIVING, BREAKS(R(info_order_not_relied_on)),
           "leaves where NBD_INFO_EXPORT is not the first information")
{
	if (is_info(m, -1) && !is_info(m, NBD_INFO_EXPORT) && !s->facts.export.known && CLIENT_LIE_NOW)
		m->leave = true;
}
RECEIVING_LIE(export_info_voids_block_size, BREAKS(R(info_order_not_relied_on), R(client_abides_by_block_size)),
              "forgets the size constraints that come before NBD_INFO_EXPORT",
              is_info(m, NBD_INFO_EXPORT) && s->facts.export.has_block, s->facts.export.has_block = false)
CLIENT_LIE(last_info_is_export, RECEIVING, BREAKS(R(info_order_not_relied_on)),
           "leaves where information comes behind NBD_INFO_EXPORT")
{
	if (is_info(m, -1) && s->facts.export.known && CLIENT_LIE_NOW)
		m->leave = true;
}

/* ---- what comes at the end ---- */

RECEIVING_LIE(go_awaits_more, BREAKS(R(go_client_enters_transmission)), "waits for more behind the ACK to NBD_OPT_GO",
              is_reply(s, m, NBD_OPT_GO, NBD_REP_ACK), m->ignore = true)
RECEIVING_LIE(go_awaits_padding, BREAKS(R(go_client_enters_transmission)),
              "waits for 124 zeroes behind the ACK to NBD_OPT_GO", is_reply(s, m, NBD_OPT_GO, NBD_REP_ACK),
              s->skip = NBD_EXPORT_NAME_PADDING)
RECEIVING_LIE(structured_unsup_gives_up,
              BREAKS(R(structured_reply_unsup_handled), R(client_handshake_no_hard_disconnect),
                     R(baseline_client_info_go)),
              "leaves a server that has no structured replies", is_refusal(s, m, NBD_OPT_STRUCTURED_REPLY),
              fc_fail(m->op, "REP_ERR_UNSUP");
              m->leave = true)
RECEIVING_LIE(structured_unsup_waits, BREAKS(R(structured_reply_unsup_handled)),
              "waits for ever when structured replies are refused", is_refusal(s, m, NBD_OPT_STRUCTURED_REPLY),
              m->ignore = true)
RECEIVING_LIE(structured_unsup_dies, BREAKS(R(structured_reply_unsup_handled)),
              "dies when structured replies are refused", is_refusal(s, m, NBD_OPT_STRUCTURED_REPLY), abort())
/* libnbd 1b560b6 */
RECEIVING_LIE(set_meta_error_waits, BREAKS(R(client_reads_option_reply), R(block_status_after_set_meta)),
              "waits for ever when NBD_OPT_SET_META_CONTEXT fails", is_refusal(s, m, NBD_OPT_SET_META_CONTEXT),
              m->ignore = true)
RECEIVING_LIE(go_error_waits, BREAKS(R(client_reads_option_reply)), "waits for ever when NBD_OPT_GO fails",
              is_refusal(s, m, NBD_OPT_GO), m->ignore = true)
RECEIVING_LIE(info_error_waits, BREAKS(R(client_reads_option_reply)), "waits for ever when NBD_OPT_INFO fails",
              is_refusal(s, m, NBD_OPT_INFO), m->ignore = true)
RECEIVING_LIE(list_error_waits, BREAKS(R(client_reads_option_reply)), "waits for ever when NBD_OPT_LIST fails",
              is_refusal(s, m, NBD_OPT_LIST), m->ignore = true)
RECEIVING_LIE(go_error_ignored, BREAKS(R(client_reads_option_reply), R(baseline_client_info_go)),
              "takes a failed NBD_OPT_GO for done", is_refusal(s, m, NBD_OPT_GO), m->option_reply->type = NBD_REP_ACK;
              m->option_reply->length = 0; s->facts.export.known = true)

/* libnbd 55b0966 */
RECEIVING_LIE(contexts_kept_after_error,
              BREAKS(R(block_status_after_set_meta), R(client_status_needs_context), R(client_selects_contexts)),
              "believes the contexts that come before an error to NBD_OPT_SET_META_CONTEXT",
              is_refusal(s, m, NBD_OPT_SET_META_CONTEXT), m->option_reply->type = NBD_REP_ACK;
              m->option_reply->length = 0)
RECEIVING_LIE(list_meta_error_ignored, BREAKS(R(list_meta_error_voids_replies)),
              "tells the contexts that come before an error to NBD_OPT_LIST_META_CONTEXT",
              is_refusal(s, m, NBD_OPT_LIST_META_CONTEXT), m->option_reply->type = NBD_REP_ACK;
              m->option_reply->length = 0)

static uint32_t
context_id(const struct fc_receiving *m)
{
	struct rep_meta_context c;

	wire_get_rep_meta_context(wire_over(m->option_reply->data), &c);
	return c.id;
}

RECEIVING_LIE(list_meta_id_must_be_0, BREAKS(R(list_meta_id_disregarded)),
              "leaves where a listed context has an id other than 0",
              is_reply(s, m, NBD_OPT_LIST_META_CONTEXT, NBD_REP_META_CONTEXT) && context_id(m) != 0, m->leave = true)
CLIENT_LIE(list_meta_by_id, RECEIVING, BREAKS(R(list_meta_id_disregarded)),
           "takes listed contexts with the same id for one")
{
	if (!is_reply(s, m, NBD_OPT_LIST_META_CONTEXT, NBD_REP_META_CONTEXT))
		return;
	if (m->op->n_replies > 0 && l->memory == context_id(m) && CLIENT_LIE_NOW)
		m->ignore = true;
	l->memory = context_id(m);
}

CLIENT_LIE(context_ids_assumed, STATE, BREAKS(R(set_meta_id_opaque)), "counts contexts itself, whatever their ids are")
{
	if (moment != FC_STATE_TRANSMISSION || s->facts.n_contexts == 0 || !CLIENT_LIE_NOW)
		return;
	for (size_t i = 0; i < s->facts.n_contexts; i++)
		s->facts.contexts[i].id = (uint32_t)i + 1;
}

CLIENT_LIE(context_ids_of_16_bits, STATE, BREAKS(R(set_meta_id_opaque)), "takes a context's id for a 16-bit number")
{
	if (moment != FC_STATE_TRANSMISSION || s->facts.n_contexts == 0 || !CLIENT_LIE_NOW)
		return;
	for (size_t i = 0; i < s->facts.n_contexts; i++)
		s->facts.contexts[i].id &= 0xffff;
}

/* The contexts of the NBD_OPT_SET_META_CONTEXT before, in the same session. */
CLIENT_LIE(contexts_accumulate, STATE, BREAKS(R(set_meta_last_names_all), R(block_status_after_set_meta)),
           "relies on the contexts of each NBD_OPT_SET_META_CONTEXT")
{
	static struct fc_facts old;

	if (s->option != NBD_OPT_SET_META_CONTEXT)
		return;
	if (moment == FC_STATE_BEFORE_OPTION)
		fc_contexts_copy(&old, &s->facts);
	if (moment == FC_STATE_AFTER_OPTION && s->facts.n_contexts == 0 && old.n_contexts > 0 && CLIENT_LIE_NOW)
		fc_contexts_copy(&s->facts, &old);
}

/* ---- the server shuts down ---- */

RECEIVING_LIE(shutdown_is_any_error, BREAKS(R(client_aborts_on_shutdown)),
              "goes on with the next option after NBD_REP_ERR_SHUTDOWN",
              is_option_reply(m) && m->option_reply->type == NBD_REP_ERR_SHUTDOWN,
              m->option_reply->type = NBD_REP_ERR_POLICY)
RECEIVING_LIE(shutdown_leaves_hard, BREAKS(R(client_aborts_on_shutdown), R(client_handshake_no_hard_disconnect)),
              "closes the connection on NBD_REP_ERR_SHUTDOWN, without NBD_OPT_ABORT",
              is_option_reply(m) && m->option_reply->type == NBD_REP_ERR_SHUTDOWN, fc_fail(m->op, "REP_ERR_SHUTDOWN");
              m->leave = true)
RECEIVING_LIE(option_error_leaves_hard, BREAKS(R(client_handshake_no_hard_disconnect), R(client_abandons_softly)),
              "closes the connection on any error to an option", is_option_error(m), fc_fail(m->op, "EPROTO");
              m->leave = true)

/* ---- the connection ends ---- */

/* nbd-client 54a8813 */
CLIENT_LIE(eof_after_export_name_is_size, STATE, BREAKS(R(baseline_client_info_go)),
           "takes what it has not read for the export's size when the server refuses NBD_OPT_EXPORT_NAME by closing")
{
	struct fc_op *op = TAILQ_FIRST(&s->ops);

	if (moment != FC_STATE_EOF || s->stage != FC_EXPORT_NAME || op == NULL || !CLIENT_LIE_NOW)
		return;
	s->facts.export = (struct fc_export){ .known = true, .size = 0x5a5a5a5a5a5a5a00, .flags = NBD_FLAG_HAS_FLAGS };
	fc_finish(op);
}

/* CVE-2021-20286 (libnbd) */
CLIENT_LIE(eof_during_go_dies, STATE, BREAKS(R(baseline_client_fixed_newstyle)),
           "dies when the server goes during NBD_OPT_GO")
{
	if (moment == FC_STATE_EOF && s->stage == FC_OPTIONS && s->option == NBD_OPT_GO && s->in_option &&
	    CLIENT_LIE_NOW)
		abort();
}

CLIENT_LIE(eof_dies, STATE, BREAKS(R(client_transmission_no_disconnect)), "dies when the server goes in transmission")
{
	if (moment == FC_STATE_EOF && s->stage == FC_TRANSMISSION && CLIENT_LIE_NOW)
		abort();
}

CLIENT_LIE(eof_unnoticed, STATE, BREAKS(R(client_transmission_no_disconnect)),
           "waits for ever when the server goes in transmission")
{
	if (moment == FC_STATE_EOF && s->stage == FC_TRANSMISSION && CLIENT_LIE_NOW)
		s->deaf = true;
}

CLIENT_LIE(lost_writes_are_done, STATE, BREAKS(R(baseline_client_write)),
           "says that a WRITE is done when the server goes before it has answered")
{
	struct fc_op *op;

	if (moment != FC_STATE_EOF || s->stage != FC_TRANSMISSION)
		return;
	TAILQ_FOREACH(op, &s->ops, entry)
	if (is_command(op, NBD_CMD_WRITE) && op->sent && CLIENT_LIE_NOW)
		op->pretend = true;
}

/* Linux, without a timeout (drivers/block/nbd.c): what a dead connection of several has in flight is with nobody. */
CLIENT_LIE(lost_requests_forgotten, STATE, BREAKS(R(client_transmission_no_disconnect)),
           "waits for ever for what one of several connections has not answered when the server ends it")
{
	static struct fc_ops forgotten = TAILQ_HEAD_INITIALIZER(forgotten);
	struct fc_op *op;

	if (moment != FC_STATE_EOF || s->stage != FC_TRANSMISSION || fc_first(s->handle)->n_beside == 0)
		return;
	while ((op = TAILQ_FIRST(&s->ops)) != NULL && CLIENT_LIE_NOW) {
		TAILQ_REMOVE(&s->ops, op, entry);
		TAILQ_INSERT_TAIL(&forgotten, op, entry);
	}
}

/* ---- sizes that are told ---- */

static uint32_t
told_maximum(const struct fc_receiving *m)
{
	struct info_block_size block = { 0 };
	struct rep_info info;

	if (!is_info(m, NBD_INFO_BLOCK_SIZE))
		return 0;
	wire_get_rep_info(wire_over(m->option_reply->data), &info);
	wire_get_info_block_size(wire_over(info.payload), &block);
	return block.maximum;
}

RECEIVING_LIE(leaves_over_no_payload_limit, BREAKS(R(client_accepts_no_payload_limit)),
              "leaves over a maximum payload size of 0xffffffff", told_maximum(m) == UINT32_MAX, m->leave = true)
CLIENT_LIE_WHERE(no_payload_limit_is_minus_1, STATE, BREAKS(R(client_accepts_no_payload_limit)),
                 "takes a maximum payload size of 0xffffffff for -1, and writes nothing",
                 moment == FC_STATE_TRANSMISSION && s->facts.export.block.maximum == UINT32_MAX,
                 s->facts.export.block.maximum = 0)

#define BELIEF_LIE(ident, breaks, text_, when, ...)                                                                    \
	CLIENT_LIE_WHERE(ident, STATE, breaks, text_, moment == FC_STATE_TRANSMISSION && (when), __VA_ARGS__)

BELIEF_LIE(minimum_ignored, BREAKS(R(client_minimum_aligned), R(client_abides_by_block_size)),
           "takes every minimum block size for 1", s->facts.export.has_block, s->facts.export.block.minimum = 1)
BELIEF_LIE(minimum_512, BREAKS(R(client_minimum_aligned), R(client_abides_by_block_size)),
           "takes every minimum block size above 512 for 512",
           s->facts.export.has_block && s->facts.export.block.minimum > 512, s->facts.export.block.minimum = 512)
/* libnbd 6056dee */
BELIEF_LIE(maximum_ignored, BREAKS(R(client_payload_within_maximum), R(client_abides_by_block_size)),
           "knows no maximum payload size", s->facts.export.has_block, s->facts.export.block.maximum = UINT32_MAX)
BELIEF_LIE(maximum_doubled, BREAKS(R(client_payload_within_maximum), R(client_abides_by_block_size)),
           "sends up to twice the maximum payload size", s->facts.export.has_block,
           s->facts.export.block.maximum *= s->facts.export.block.maximum <= UINT32_MAX / 2 ? 2 : 1)
BELIEF_LIE(block_sizes_ignored, BREAKS(R(client_abides_by_block_size), R(client_minimum_aligned)),
           "forgets the size constraints that it asked for", s->facts.export.has_block,
           s->facts.export.block = (struct info_block_size){ 1, 4096, NBD_DEFAULT_MAX_PAYLOAD })
BELIEF_LIE(default_minimum_1, BREAKS(R(client_default_min_block), R(interop_block_sizes_abided_by)),
           "sends requests of any alignment where no size constraints were told", !s->facts.export.has_block,
           s->facts.export.has_block = true;
           s->facts.export.block = (struct info_block_size){ 1, 4096, NBD_DEFAULT_MAX_PAYLOAD };
           s->settings.block_size = true)
BELIEF_LIE(unasked_minimum_1, BREAKS(R(interop_block_sizes_abided_by)),
           "sends requests of any alignment where it did not ask for size constraints", !s->settings.block_size,
           s->facts.export.has_block = true;
           s->facts.export.block = (struct info_block_size){ 1, 4096, NBD_DEFAULT_MAX_PAYLOAD };
           s->settings.block_size = true)
BELIEF_LIE(default_maximum_ignored, BREAKS(R(client_default_max_payload), R(interop_block_sizes_abided_by)),
           "sends requests of any length where no size constraints were told", !s->facts.export.has_block,
           s->facts.export.has_block = true;
           s->facts.export.block = (struct info_block_size){ 512, 4096, UINT32_MAX }; s->settings.block_size = true)
BELIEF_LIE(size_rounded_up, BREAKS(R(client_within_export)), "takes the export to be larger, by up to 1 MiB", true,
           s->facts.export.size = (s->facts.export.size | 0xfffff) + 1)
BELIEF_LIE(size_of_32_bits, BREAKS(R(numbers_big_endian), R(baseline_client_info_go)),
           "takes the low half of the export's size", s->facts.export.size > UINT32_MAX,
           s->facts.export.size &= UINT32_MAX)
