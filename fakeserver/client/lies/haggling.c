/* Lies of option haggling: what is sent in it. */
#include "fakeserver/client/lies/helpers.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <unistd.h>

#define SENDING_LIE(ident, breaks, text_, when, ...) CLIENT_LIE_WHERE(ident, SENDING, breaks, text_, when, __VA_ARGS__)

/* ---- the connection ---- */

CLIENT_LIE_WHERE(default_port_10808, STATE, BREAKS(R(newstyle_default_port_client)),
                 "takes 10808 for the port that NBD has", moment == FC_STATE_PORT && strcmp(s->port, "10809") == 0,
                 strcpy(s->port, "10808"))
CLIENT_LIE_WHERE(reads_only_when_all_is_sent, STATE, BREAKS(R(client_takes_replies_unordered)),
                 "reads no reply before all requests are sent, large ones too", moment == FC_STATE_CONNECTED,
                 s->blind = true)

/* ---- oldstyle ---- */

CLIENT_LIE(oldstyle_sends_flags, STATE, BREAKS(R(oldstyle_client_silent)),
           "sends client flags to an oldstyle server, too")
{
	if (moment == FC_STATE_TRANSMISSION && s->facts.oldstyle && CLIENT_LIE_NOW)
		put_be32(&s->out, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
}

CLIENT_LIE(oldstyle_sends_options, STATE, BREAKS(R(oldstyle_client_silent)), "sends an option to an oldstyle server")
{
	if (moment == FC_STATE_TRANSMISSION && s->facts.oldstyle && CLIENT_LIE_NOW)
		put_bytes(&s->out, option_bytes(NBD_OPT_LIST));
}

CLIENT_LIE(oldstyle_refused_lingers, STATE, BREAKS(R(oldstyle_unhappy_client_leaves)),
           "does not accept an oldstyle server, and stays connected to it")
{
	if (moment != FC_STATE_TRANSMISSION || !s->facts.oldstyle || !CLIENT_LIE_NOW)
		return;
	/* Whatever the handle closes later. */
	dup(s->fd);
	fc_fail(TAILQ_FIRST(&s->ops), "EPROTO");
	fc_over(s, "EPROTO");
}

CLIENT_LIE_WHERE(oldstyle_size_of_32_bits, STATE, BREAKS(R(numbers_big_endian)),
                 "takes the low half of an oldstyle server's size",
                 moment == FC_STATE_TRANSMISSION && s->facts.oldstyle, s->facts.export.size &= UINT32_MAX)

/* ---- client flags ---- */

SENDING_LIE(flags_not_sent, BREAKS(R(client_flags_sent)), "sends no client flags", m->kind == MSG_CLIENT_FLAGS,
            m->drop = true)
SENDING_LIE(flags_of_16_bits, BREAKS(R(client_flags_sent), R(no_other_client_flags)), "sends 16 bits of client flags",
            m->kind == MSG_CLIENT_FLAGS, m->drop = true;
            m->behind = BYTES_OF("\0\3"))
SENDING_LIE(flags_twice, BREAKS(R(client_flags_sent), R(option_magic_client)), "sends its client flags twice",
            m->kind == MSG_CLIENT_FLAGS, m->behind = BYTES_OF("\0\0\0\3"))
SENDING_LIE(flags_little_endian, BREAKS(R(numbers_big_endian), R(no_other_client_flags)),
            "sends its client flags in little-endian", m->kind == MSG_CLIENT_FLAGS, m->swap = true)
SENDING_LIE(flags_lack_fixed_newstyle, BREAKS(R(client_fixed_newstyle_flag)),
            "does not set NBD_FLAG_C_FIXED_NEWSTYLE, and sends options", m->kind == MSG_CLIENT_FLAGS,
            m->flags.flags &= ~(uint32_t)NBD_FLAG_C_FIXED_NEWSTYLE)
SENDING_LIE(flags_undefined, BREAKS(R(no_other_client_flags)), "sets a client flag that is not defined",
            m->kind == MSG_CLIENT_FLAGS, m->flags.flags |= 1u << 2)
SENDING_LIE(flags_echoed, BREAKS(R(no_other_client_flags)), "sets the highest client flag", m->kind == MSG_CLIENT_FLAGS,
            m->flags.flags |= 1u << 31)
CLIENT_LIE_WHERE(no_zeroes_unoffered, STATE, BREAKS(R(client_no_zeroes_unoffered)),
                 "sets NBD_FLAG_C_NO_ZEROES although the server does not offer it",
                 moment == FC_STATE_FLAGS && !s->facts.server_no_zeroes, s->facts.no_zeroes = true)
CLIENT_LIE_WHERE(no_zeroes_forgotten, STATE,
                 BREAKS(R(interop_export_name_used), R(go_falls_back), R(baseline_client_fixed_newstyle)),
                 "awaits the padding that it has negotiated away", moment == FC_STATE_BEFORE_OPTION,
                 s->facts.no_zeroes = false)
CLIENT_LIE_WHERE(padding_not_awaited, STATE, BREAKS(R(interop_export_name_used), R(client_reads_option_reply)),
                 "takes the padding for what follows it", moment == FC_STATE_BEFORE_OPTION && !s->facts.no_zeroes,
                 s->facts.no_zeroes = true)
CLIENT_LIE_WHERE(options_to_unfixed, COMMAND, BREAKS(R(nonfixed_only_export_name)),
                 "sends other options to a server that is not fixed newstyle",
                 op->ask != FC_DISCONNECT && s->stage == FC_OPTIONS && !s->facts.server_fixed, s->facts.fixed = true)

/* ---- the layout of options ---- */

SENDING_LIE(option_magic_of_replies, BREAKS(R(option_magic_client)), "begins an option with the magic of replies",
            m->kind == MSG_OPTION, m->option.magic = NBD_OPTION_REPLY_MAGIC)
SENDING_LIE(option_little_endian, BREAKS(R(numbers_big_endian)), "sends options in little-endian",
            m->kind == MSG_OPTION, m->swap = true)
SENDING_LIE(option_longer_than_it_says, BREAKS(R(option_layout_client)),
            "sends a byte more of option data than it says", m->kind == MSG_OPTION, m->behind = BYTES_OF("\0"))
SENDING_LIE(option_length_minus_1, BREAKS(R(option_layout_client), R(info_request_layout), R(set_meta_request_layout)),
            "says that an option has a byte less of data", m->kind == MSG_OPTION && m->data != FC_DATA_RAW,
            m->length_off = -1)
SENDING_LIE(abort_with_data, BREAKS(R(abort_no_data)), "sends data with NBD_OPT_ABORT", is_option(m, NBD_OPT_ABORT),
            m->option.data = BYTES_OF("bye"))
SENDING_LIE(list_with_data, BREAKS(R(list_no_data)), "sends data with NBD_OPT_LIST", is_option(m, NBD_OPT_LIST),
            m->option.data = BYTES_OF("*"))
SENDING_LIE(structured_with_data, BREAKS(R(structured_reply_no_data)), "sends data with NBD_OPT_STRUCTURED_REPLY",
            is_option(m, NBD_OPT_STRUCTURED_REPLY), m->option.data = BYTES_OF("\1"))

/* ---- NBD_OPT_GO and NBD_OPT_INFO ---- */

static bool
is_go(const struct fc_sending *m)
{
	return is_option(m, NBD_OPT_GO) || is_option(m, NBD_OPT_INFO);
}

static bool
is_meta(const struct fc_sending *m)
{
	return is_option(m, NBD_OPT_SET_META_CONTEXT) || is_option(m, NBD_OPT_LIST_META_CONTEXT);
}

SENDING_LIE(go_name_length_beyond, BREAKS(R(info_request_name_fits)),
            "gives a name length that does not fit into the option", is_go(m), m->inner_length_off = 4096)
SENDING_LIE(go_name_length_ones, BREAKS(R(info_request_name_fits)), "gives a name length of 0xffffffff", is_go(m),
            m->inner_length_off = -1 - (int64_t)m->go.name_length)
SENDING_LIE(go_counts_one_info_more, BREAKS(R(info_request_layout)), "asks for less information than it counts",
            is_go(m), m->go.n_infos++)
SENDING_LIE(go_counts_no_infos, BREAKS(R(info_request_layout)), "counts none of the information it asks for",
            is_go(m) && m->go.n_infos > 0, m->go.n_infos = 0)
SENDING_LIE(go_infos_of_32_bits, BREAKS(R(info_request_layout)), "asks for information by 32 bits", is_go(m),
            m->go.infos = BYTES_OF("\0\0\0\3"))
SENDING_LIE(go_without_infos, BREAKS(R(info_request_layout), R(info_request_name_fits)),
            "leaves out the number of information requests", is_go(m), m->data = FC_DATA_RAW;
            m->option.data = with_tail(BYTES_OF("\0\0\0\0"), (struct bytes){ 0 }))
SENDING_LIE(go_asks_twice, BREAKS(R(info_requests_once_each)), "asks for each information twice",
            is_go(m) && m->go.n_infos > 0, m->go.n_infos *= 2;
            m->go.infos = with_tail(m->go.infos, m->go.infos))
SENDING_LIE(go_asks_no_block_size, BREAKS(R(interop_block_sizes_queried)),
            "does not ask for size constraints, whatever its user says", is_option(m, NBD_OPT_GO), m->go.n_infos = 0;
            m->go.infos.len = 0)
SENDING_LIE(info_asks_no_block_size, BREAKS(R(client_asks_block_size)),
            "asks for size constraints by NBD_OPT_GO, and not by NBD_OPT_INFO before it", is_option(m, NBD_OPT_INFO),
            m->go.n_infos = 0;
            m->go.infos.len = 0)
SENDING_LIE(go_then_option, BREAKS(R(go_then_no_options), R(client_one_option_at_a_time)),
            "sends an option behind NBD_OPT_GO", is_option(m, NBD_OPT_GO), m->behind = option_bytes(NBD_OPT_LIST))

/* ---- strings ---- */

static void
change_name(struct fc_sending *m, struct bytes tail)
{
	if (is_go(m)) {
		m->go.name = with_tail(m->go.name, tail);
		m->go.name_length = (uint32_t)m->go.name.len;
	} else if (is_meta(m)) {
		m->meta.name = with_tail(m->meta.name, tail);
		m->meta.name_length = (uint32_t)m->meta.name.len;
	} else {
		m->option.data = with_tail(m->option.data, tail);
	}
}

static bool
has_name(const struct fc_sending *m)
{
	return m->kind == MSG_OPTION && (is_go(m) || is_meta(m) || m->option.option == NBD_OPT_EXPORT_NAME);
}

/* The first query, with its length. */
static void
change_query(struct fc_sending *m, size_t keep, struct bytes tail)
{
	static struct buf b;
	struct wire w = wire_over(m->meta.queries);
	struct bytes first = opt_meta_context_query(&w), rest = wire_rest(&w);

	first.len = first.len < keep ? first.len : keep;
	buf_clear(&b);
	put_be32(&b, (uint32_t)(first.len + tail.len));
	put_bytes(&b, first);
	put_bytes(&b, tail);
	put_bytes(&b, rest);
	m->meta.queries = (struct bytes){ b.at, b.len };
}

#define STRING_LIES(ident, rule, what, tail)                                                                           \
	SENDING_LIE(name_##ident, BREAKS(R(rule)), "sends an export name " what, has_name(m), change_name(m, tail))    \
	SENDING_LIE(query_##ident, BREAKS(R(rule)), "sends a metadata query " what,                                    \
	            is_meta(m) && m->meta.n_queries > 0, change_query(m, SIZE_MAX, tail))

STRING_LIES(ends_in_nul, client_strings_no_nul, "that ends in a NUL", BYTES_OF("\0"))
STRING_LIES(has_nul, client_strings_no_nul, "with a NUL in it", BYTES_OF("\0x"))
STRING_LIES(of_5000_bytes, client_strings_max_length, "of some 5000 bytes", many('x', 5000))

CLIENT_LIE_WHERE(any_string_sent, COMMAND, BREAKS(R(client_strings_max_length), R(client_strings_no_nul)),
                 "sends whatever name its user gives it", op->ask == FC_CONNECT, op->unchecked = true)
SENDING_LIE(name_of_300_bytes, BREAKS(R(client_strings_short), R(baseline_client_info_go)),
            "sends an export name of some 300 bytes", has_name(m), change_name(m, many('x', 300)))
SENDING_LIE(query_of_300_bytes, BREAKS(R(client_strings_short)), "sends a metadata query of some 300 bytes",
            is_meta(m) && m->meta.n_queries > 0, change_query(m, SIZE_MAX, many('x', 300)))
STRING_LIES(no_utf8, client_strings_utf8, "that is no UTF-8", BYTES_OF("\xff\xfe"))
STRING_LIES(latin1, client_strings_utf8, "in Latin-1", BYTES_OF("caf\xe9"))

/* ---- metadata contexts ---- */

#define META_LIES(ident, set_rule, list_rule, text_, ...)                                                              \
	SENDING_LIE(set_meta_##ident, BREAKS(R(set_rule)), text_ " in NBD_OPT_SET_META_CONTEXT",                       \
	            is_option(m, NBD_OPT_SET_META_CONTEXT) && m->meta.n_queries > 0, __VA_ARGS__)                      \
	SENDING_LIE(list_meta_##ident, BREAKS(R(list_rule)), text_ " in NBD_OPT_LIST_META_CONTEXT",                    \
	            is_option(m, NBD_OPT_LIST_META_CONTEXT) && m->meta.n_queries > 0, __VA_ARGS__)

META_LIES(counts_one_more, set_meta_request_layout, list_meta_request_layout, "sends less queries than it counts",
          m->meta.n_queries++)
META_LIES(counts_one_less, set_meta_request_layout, list_meta_request_layout, "sends more queries than it counts",
          m->meta.n_queries--)
META_LIES(name_length_off, set_meta_request_layout, list_meta_request_layout, "gives a wrong name length",
          m->inner_length_off = 3)
META_LIES(count_of_16_bits, set_meta_request_layout, list_meta_request_layout, "counts queries by 16 bits",
          m->data = FC_DATA_RAW;
          m->option.data = with_tail(BYTES_OF("\0\0\0\0\0\1"), m->meta.queries))
META_LIES(without_colon, set_meta_query_namespaced, list_meta_query_namespaced, "sends a query without a colon",
          change_query(m, 4, (struct bytes){ 0 }))
META_LIES(without_namespace, set_meta_query_namespaced, list_meta_query_namespaced,
          "sends a query with nothing before the colon", change_query(m, 0, BYTES_OF(":allocation")))
SENDING_LIE(contexts_of_another_export,
            BREAKS(R(block_status_after_set_meta), R(client_status_needs_context), R(client_selects_contexts)),
            "selects contexts of another export than it goes to", is_option(m, NBD_OPT_SET_META_CONTEXT),
            m->meta.name = BYTES_OF("other");
            m->meta.name_length = 5)

CLIENT_LIE(contexts_listed_without_structured, COMMAND,
           BREAKS(R(list_meta_after_structured), R(ext_list_contexts_after_negotiation)),
           "sends NBD_OPT_LIST_META_CONTEXT although structured replies were not agreed")
{
	if (op->ask == FC_LIST_CONTEXTS && !s->facts.structured && CLIENT_LIE_NOW)
		op->unchecked = true;
}
CLIENT_LIE(structured_assumed, STATE,
           BREAKS(R(set_meta_after_structured), R(client_metadata_needs_structured),
                  R(payload_extensions_need_structured)),
           "does not ask for structured replies, and acts as if they were agreed")
{
	if (moment != FC_STATE_FLAGS || !s->facts.fixed || !s->settings.structured || !CLIENT_LIE_NOW)
		return;
	s->settings.structured = false;
	s->facts.structured = true;
}
CLIENT_LIE(structured_refused_assumed, STATE,
           BREAKS(R(set_meta_after_structured), R(client_metadata_needs_structured),
                  R(payload_extensions_need_structured), R(structured_reply_unsup_handled),
                  R(ext_contexts_need_negotiation), R(ext_contexts_after_negotiation)),
           "acts as if structured replies were agreed when they were refused")
{
	if (moment == FC_STATE_AFTER_OPTION && s->option == NBD_OPT_STRUCTURED_REPLY && !s->facts.structured &&
	    CLIENT_LIE_NOW)
		s->facts.structured = true;
}

/* ---- the order of options ---- */

SENDING_LIE(options_pipelined, BREAKS(R(client_one_option_at_a_time)),
            "sends the next option before the reply to NBD_OPT_STRUCTURED_REPLY",
            is_option(m, NBD_OPT_STRUCTURED_REPLY), m->behind = option_bytes(NBD_OPT_LIST))
SENDING_LIE(list_pipelined, BREAKS(R(client_one_option_at_a_time)),
            "sends the next option before the last reply to NBD_OPT_LIST", is_option(m, NBD_OPT_LIST),
            m->behind = option_bytes(NBD_OPT_LIST))

CLIENT_LIE(structured_asked_twice, STATE, BREAKS(R(client_state_option_once)),
           "sends NBD_OPT_STRUCTURED_REPLY again when it is acknowledged")
{
	struct fc_op *op = TAILQ_FIRST(&s->ops);

	if (moment != FC_STATE_AFTER_OPTION || s->option != NBD_OPT_STRUCTURED_REPLY || l->memory == s->number ||
	    !CLIENT_LIE_NOW)
		return;
	l->memory = s->number;
	op->step = FC_STRUCTURED;
}

CLIENT_LIE(go_not_tried, STATE, BREAKS(R(go_preferred)), "sends NBD_OPT_EXPORT_NAME, and never NBD_OPT_GO")
{
	struct fc_op *op = TAILQ_FIRST(&s->ops);

	if (moment != FC_STATE_FLAGS || op == NULL || op->ask != FC_CONNECT || !CLIENT_LIE_NOW)
		return;
	op->step = FC_OLD_WAY;
	s->option = NBD_OPT_GO;
	s->option_unsupported = true;
}

CLIENT_LIE(no_way_back_to_export_name, STATE, BREAKS(R(go_falls_back), R(interop_export_name_used)),
           "gives up where NBD_OPT_GO is not known")
{
	if (moment != FC_STATE_AFTER_OPTION || s->option != NBD_OPT_GO || !s->option_unsupported || !CLIENT_LIE_NOW)
		return;
	s->option_unsupported = false;
	fc_fail(TAILQ_FIRST(&s->ops), "REP_ERR_UNSUP");
}

/* As long as the server knows the option, its refusal is meant. */
CLIENT_LIE(export_name_after_any_error, STATE, BREAKS(R(client_block_size_uses_go)),
           "sends NBD_OPT_EXPORT_NAME where NBD_OPT_GO failed for whatever reason")
{
	struct fc_op *op = TAILQ_FIRST(&s->ops);

	if (moment != FC_STATE_AFTER_OPTION || s->option != NBD_OPT_GO || s->facts.export.known || op == NULL ||
	    op->error[0] == '\0' || !CLIENT_LIE_NOW)
		return;
	op->error[0] = '\0';
	s->option_unsupported = true;
}

/* ---- leaving ---- */

SENDING_LIE(abort_not_sent,
            BREAKS(R(client_abandons_softly), R(client_handshake_no_hard_disconnect), R(baseline_client_abort)),
            "leaves option haggling without NBD_OPT_ABORT", is_option(m, NBD_OPT_ABORT), m->drop = true;
            m->close = true)
SENDING_LIE(abort_then_option, BREAKS(R(client_abort_drops_connection)), "sends an option behind NBD_OPT_ABORT",
            is_option(m, NBD_OPT_ABORT), m->behind = option_bytes(NBD_OPT_LIST))
SENDING_LIE(abort_then_disc, BREAKS(R(client_abort_drops_connection)), "sends NBD_CMD_DISC behind NBD_OPT_ABORT",
            is_option(m, NBD_OPT_ABORT), m->behind = request_bytes(NBD_CMD_DISC, 1, 0, 0))

CLIENT_LIE(abort_unanswered_is_error, STATE, BREAKS(R(abort_unanswered_graceful)),
           "calls it an error when the server closes the connection on NBD_OPT_ABORT")
{
	if (moment == FC_STATE_EOF && s->aborting && CLIENT_LIE_NOW)
		s->stage = FC_OPTIONS;
}

CLIENT_LIE(abort_unanswered_dies, STATE, BREAKS(R(abort_unanswered_graceful)),
           "dies when the server closes the connection on NBD_OPT_ABORT")
{
	if (moment == FC_STATE_EOF && s->aborting && CLIENT_LIE_NOW)
		abort();
}

/* ---- what a client must be able to do ---- */

CLIENT_LIE_WHERE(knows_no_fixed_newstyle, STATE, BREAKS(R(baseline_client_fixed_newstyle), R(baseline_client_info_go)),
                 "does not know fixed newstyle", moment == FC_STATE_FLAGS, s->facts.fixed = false)

#define LACKS_LIE(ident, rule, text_, wanted)                                                                          \
	CLIENT_LIE(ident, COMMAND, BREAKS(R(rule)), text_)                                                             \
	{                                                                                                              \
		if ((wanted) && CLIENT_LIE_NOW)                                                                        \
			fc_fail(op, "ENOTSUP");                                                                        \
	}

LACKS_LIE(lacks_info, baseline_client_info_go, "cannot send NBD_OPT_INFO", op->ask == FC_INFO)
LACKS_LIE(lacks_go, baseline_client_info_go, "cannot go into transmission from option haggling", op->ask == FC_GO)
LACKS_LIE(lacks_list, baseline_client_list, "cannot send NBD_OPT_LIST", op->ask == FC_LIST)
LACKS_LIE(lacks_read, baseline_client_read, "cannot read", is_command(op, NBD_CMD_READ))
LACKS_LIE(lacks_write, baseline_client_write, "cannot write", is_command(op, NBD_CMD_WRITE))
LACKS_LIE(lacks_disc, baseline_client_disc, "cannot disconnect",
          op->ask == FC_DISCONNECT && s->stage == FC_TRANSMISSION)
