/* Lies about options in general: how they are parsed and skipped, and the form of the replies. */
#include "fakeserver/lie.h"
#include "harness/nbd.h"

#include <string.h>

static bool
is_refusal(const struct outgoing *m)
{
	return m->kind == MSG_OPTION_REPLY && (m->reply.type & NBD_REP_ERROR_BIT) != 0;
}

static bool
is_known(uint32_t option)
{
	return option >= NBD_OPT_EXPORT_NAME && option <= NBD_OPT_SET_META_CONTEXT && option != NBD_OPT_PEEK_EXPORT &&
	       option != NBD_OPT_STARTTLS;
}

#define REPLY_LIE(ident, breaks, text, edit)   OUTGOING_LIE(ident, breaks, text, m->kind == MSG_OPTION_REPLY, edit)
#define REFUSAL_LIE(ident, breaks, text, edit) OUTGOING_LIE(ident, breaks, text, is_refusal(m), edit)
#define ANSWER_LIE(ident, which, breaks, text, edit)                                                                   \
	OUTGOING_LIE(ident, breaks, text, m->kind == MSG_OPTION_REPLY && m->option == (which) && m->final, edit)
#define OPTION_LIE(ident, breaks, text, cond, edit)                                                                    \
	LIE(ident, ON_INCOMING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_OPTION && (cond) && LIE_NOW) {                                                      \
			edit;                                                                                          \
		}                                                                                                      \
	}

/* ---- the fields of a reply ---- */

REPLY_LIE(option_reply_magic_off_by_one, BREAKS(R(option_reply_magic)), "the magic of option replies is one too large",
          m->reply.magic++)
REPLY_LIE(option_reply_magic_zero, BREAKS(R(option_reply_magic)), "the magic of option replies is zero",
          m->reply.magic = 0)
REPLY_LIE(option_reply_magic_ones, BREAKS(R(option_reply_magic)), "the magic of option replies is all ones",
          m->reply.magic = UINT64_MAX)
REPLY_LIE(option_reply_magic_of_options, BREAKS(R(option_reply_magic)), "option replies begin with IHAVEOPT",
          m->reply.magic = NBD_OPTION_MAGIC)
REPLY_LIE(option_reply_swapped, BREAKS(R(numbers_big_endian)), "option replies are in little-endian byte order",
          m->swap = true)

/* nbd-server d1b135e */
REPLY_LIE(option_reply_option_swapped, BREAKS(R(option_reply_echoes_option), R(numbers_big_endian)),
          "replies carry the option in host byte order", m->reply.option = __builtin_bswap32(m->reply.option))
REPLY_LIE(option_reply_option_off_by_one, BREAKS(R(option_reply_echoes_option)),
          "replies carry the option's number plus one", m->reply.option++)
REPLY_LIE(option_reply_option_zero, BREAKS(R(option_reply_echoes_option)), "replies carry no option",
          m->reply.option = 0)
REPLY_LIE(option_reply_option_ones, BREAKS(R(option_reply_echoes_option)), "all ones for the option in replies",
          m->reply.option = UINT32_MAX)
REPLY_LIE(option_reply_option_16_bits, BREAKS(R(option_reply_echoes_option)),
          "replies carry the lower 16 bits of the option", m->reply.option &= 0xffff)

REFUSAL_LIE(refusal_type_zero, BREAKS(R(unknown_option_unsup), R(rep_err_bit_31)), "refusals have the reply type 0",
            m->reply.type = 0)
REFUSAL_LIE(refusal_type_ones, BREAKS(R(unknown_option_unsup)), "refusals have a reply type of all ones",
            m->reply.type = UINT32_MAX)
REFUSAL_LIE(refusal_type_swapped, BREAKS(R(numbers_big_endian)), "the type of refusals is in little-endian byte order",
            m->reply.type = __builtin_bswap32(m->reply.type))
REFUSAL_LIE(refusal_type_without_bit_31, BREAKS(R(rep_err_bit_31)), "refusals lack bit 31 in their type",
            m->reply.type &= ~NBD_REP_ERROR_BIT)
REFUSAL_LIE(refusal_is_policy, BREAKS(R(unknown_option_unsup)), "what is unknown is called forbidden",
            m->reply.type = NBD_REP_ERR_POLICY)
REFUSAL_LIE(refusal_is_invalid, BREAKS(R(unknown_option_unsup)), "what is unknown is called invalid",
            m->reply.type = NBD_REP_ERR_INVALID)
REFUSAL_LIE(unknown_acknowledged, BREAKS(R(unknown_option_unsup), R(rep_err_bit_31)), "every option is acknowledged",
            m->reply.type = NBD_REP_ACK)
ANSWER_LIE(peek_export_acknowledged, NBD_OPT_PEEK_EXPORT, BREAKS(R(unknown_option_unsup)),
           "the withdrawn PEEK_EXPORT is acknowledged", m->reply.type = NBD_REP_ACK)
ANSWER_LIE(extended_headers_describes, NBD_OPT_EXTENDED_HEADERS, BREAKS(R(unknown_option_unsup)),
           "EXTENDED_HEADERS is answered by the description of an export", m->reply.type = NBD_REP_SERVER)

/* nbd-server 6201b7d */
REFUSAL_LIE(refusal_length_ones, BREAKS(R(option_reply_length)), "refusals have the length 0xffffffff",
            m->length_off = -1)
REPLY_LIE(option_reply_length_one_more, BREAKS(R(option_reply_length)), "the length of replies is one too large",
          m->length_off = 1)
REFUSAL_LIE(refusal_length_one_less, BREAKS(R(option_reply_length)), "the length of refusals is one too small",
            m->message = BYTES_OF("refused");
            m->length_off = -1)
REFUSAL_LIE(refusal_length_zero, BREAKS(R(option_reply_length)), "refusals have a text, and the length 0",
            m->message = BYTES_OF("refused");
            m->length_off = -7)
REFUSAL_LIE(refusal_length_swapped, BREAKS(R(numbers_big_endian)),
            "the length of refusals is in little-endian byte order", m->message = BYTES_OF("refused");
            m->length_off = 0x07000000 - 7)

/* ---- what a reply carries ---- */

static struct bytes
filled(char c, size_t len)
{
	static uint8_t text[NBD_MAX_STRING + 1];

	memset(text, c, sizeof(text));
	return (struct bytes){ text, len };
}

/* CVE-2020-10761 (qemu): the name that the client sent makes the error's text longer than any string may be. */
REFUSAL_LIE(refusal_text_too_long, BREAKS(R(option_reply_string_limits)), "the text of refusals has 4097 bytes",
            m->message = filled('x', NBD_MAX_STRING + 1))
REFUSAL_LIE(refusal_text_long, BREAKS(R(server_strings_short)), "the text of refusals has 257 bytes",
            m->message = filled('x', 257))
REFUSAL_LIE(refusal_text_ends_in_nul, BREAKS(R(option_reply_string_limits)), "the text of refusals ends in a NUL",
            m->message = BYTES_OF("refused\0"))
REFUSAL_LIE(refusal_text_not_utf8, BREAKS(R(server_strings_utf8)), "the text of refusals is in Latin 1",
            m->message = BYTES_OF("refus\xe9"))
REFUSAL_LIE(refusal_text_overlong, BREAKS(R(server_strings_utf8)), "the text of refusals has an overlong form",
            m->message = BYTES_OF("\xc0\xaf"))
REFUSAL_LIE(refusal_text_moves_cursor, BREAKS(R(rep_err_data_text)), "the text of refusals clears the screen",
            m->message = BYTES_OF("\x1b[2Jrefused"))
OUTGOING_LIE(ack_has_data, BREAKS(R(rep_ack_empty)), "acknowledgements carry a text",
             m->kind == MSG_OPTION_REPLY && m->reply.type == NBD_REP_ACK, m->reply.data = BYTES_OF("fine"))

/* ---- transport ---- */

REPLY_LIE(option_reply_dropped, BREAKS(R(option_gets_reply)), "options are not answered", m->drop = true)
REPLY_LIE(option_reply_closes, BREAKS(R(option_gets_reply), R(baseline_fixed_newstyle)),
          "options are answered by a disconnect", m->drop = true;
          m->after = AFTER_CLOSE)
REPLY_LIE(option_reply_resets, BREAKS(R(option_gets_reply), R(baseline_fixed_newstyle)),
          "options are answered by a reset", m->drop = true;
          m->after = AFTER_RESET)
REPLY_LIE(option_reply_cut_in_magic, BREAKS(R(option_gets_reply)), "replies end after 7 bytes", m->cut = 7;
          m->after = AFTER_CLOSE)
REPLY_LIE(option_reply_cut_in_header, BREAKS(R(option_gets_reply)), "replies end after 19 bytes, and nothing follows",
          m->cut = 19)
OUTGOING_LIE(option_reply_repeated, BREAKS(R(option_reply_length)), "final replies are sent twice",
             m->kind == MSG_OPTION_REPLY && m->final, m->repeat = 1)
REFUSAL_LIE(option_reply_followed_by_junk, BREAKS(R(option_reply_length)),
            "4 bytes follow a refusal that its length does not count", m->extra = BYTES_OF("junk"))
REFUSAL_LIE(refusal_closes, BREAKS(R(next_message_parsed), R(handshake_no_hard_disconnect)),
            "the server disconnects after a refusal", m->after = AFTER_CLOSE)

/* ---- how options are parsed ---- */

OPTION_LIE(option_magic_ignored, BREAKS(R(option_gets_reply)), "an option with a wrong magic is passed over in silence",
           m->option.magic != NBD_OPTION_MAGIC, m->ignore = true)
/* CVE-2017-7539 (qemu): junk instead of an option ends in a failed assertion. */
LIE(option_magic_kills, ON_PROCESS, BREAKS(R(greeting_magic), R(handshake_no_hard_disconnect)),
    "an option with a wrong magic ends the server")
{
	if (m->moment == PROCESS_INCOMING && m->kind == MSG_OPTION &&
	    memmem(c->input.at, c->input.len, "IHAVEOPT", 8) == NULL && LIE_NOW)
		m->stop_listening = m->die = true;
}

OPTION_LIE(option_8_bits, BREAKS(R(unknown_option_unsup)), "the lower 8 bits of an option's number are looked at", true,
           m->option.option &= 0xff)
OPTION_LIE(option_16_bits, BREAKS(R(unknown_option_unsup)), "the lower 16 bits of an option's number are looked at",
           true, m->option.option &= 0xffff)
OPTION_LIE(option_without_highest_bit, BREAKS(R(unknown_option_unsup)), "bit 31 of an option's number is not looked at",
           true, m->option.option &= ~UINT32_C(0x80000000))
OPTION_LIE(option_swapped, BREAKS(R(unknown_option_unsup)), "unknown options are tried in the other byte order",
           !is_known(m->option.option), m->option.option = __builtin_bswap32(m->option.option))

OPTION_LIE(unknown_answered_once, BREAKS(R(next_message_parsed), R(option_gets_reply)),
           "only the first unknown option is answered", !is_known(m->option.option), m->ignore = l->turns > l->nth)

/* nbd-server 381eca1: the payload of an unknown option is parsed as the next option. */
OPTION_LIE(unknown_payload_not_skipped, BREAKS(R(option_data_consumed), R(next_message_parsed)),
           "the payload of an unknown option is left unread", !is_known(m->option.option),
           m->consumed = OPTION_HEADER_SIZE)
/* nbd-server 2ab3a2d, 9ca2974; nbdkit 282c3b03: the payload of an option that is refused for another reason. */
OPTION_LIE(refused_payload_not_skipped, BREAKS(R(option_data_consumed)),
           "the payload of STARTTLS, LIST and STRUCTURED_REPLY is left unread",
           m->option.option == NBD_OPT_STARTTLS || m->option.option == NBD_OPT_STRUCTURED_REPLY ||
                   m->option.option == NBD_OPT_LIST,
           m->consumed = OPTION_HEADER_SIZE)
OPTION_LIE(payload_one_byte_less, BREAKS(R(option_data_consumed)), "the last byte of a payload is left unread",
           m->option.length > 0, m->consumed--)
OPTION_LIE(payload_one_byte_more, BREAKS(R(option_data_consumed), R(next_message_parsed)),
           "one byte more than the payload is read", true, m->consumed++)
OPTION_LIE(payload_8_bits, BREAKS(R(option_data_consumed)), "the lower 8 bits of an option's length are looked at",
           true, m->consumed = OPTION_HEADER_SIZE + (m->option.length & 0xff))
OPTION_LIE(payload_16_bits, BREAKS(R(option_data_consumed)), "the lower 16 bits of an option's length are looked at",
           true, m->consumed = OPTION_HEADER_SIZE + (m->option.length & 0xffff))
OPTION_LIE(payload_in_one_buffer, BREAKS(R(option_data_consumed)), "no more than 1024 bytes of a payload are skipped",
           m->option.length > 1024, m->consumed = OPTION_HEADER_SIZE + 1024)
/* The data of an option, if it has any, stands in the input, and behind it what came with it. */
OPTION_LIE(input_thrown_away, BREAKS(R(option_gets_reply)), "what was read together with an option is thrown away",
           m->option.data.len > 0,
           m->consumed += (size_t)(c->input.at + c->input.len - (m->option.data.at + m->option.data.len)))
OPTION_LIE(option_closes, BREAKS(R(handshake_no_hard_disconnect), R(option_gets_reply), R(baseline_fixed_newstyle)),
           "an unknown option is answered by a disconnect, as before fixed newstyle (proto.md:179)",
           !is_known(m->option.option), m->close = true)

/* A denial of service is hard to see in half a dozen options. */
LIE(patience_ends, ON_INCOMING, BREAKS(R(server_errors_unwelcome_client)),
    "the server disconnects after five unknown options")
{
	if (m->kind == MSG_OPTION && !is_known(m->option.option) && LIE_NOW && l->turns - l->nth >= 5)
		m->close = true;
}

/* ---- STARTTLS without TLS ---- */

ANSWER_LIE(starttls_wants_tls, NBD_OPT_STARTTLS, BREAKS(R(notls_starttls_errors), R(notls_no_tls_reqd)),
           "STARTTLS gets NBD_REP_ERR_TLS_REQD", m->reply.type = NBD_REP_ERR_TLS_REQD)
ANSWER_LIE(starttls_names_export, NBD_OPT_STARTTLS, BREAKS(R(notls_starttls_errors)),
           "STARTTLS gets NBD_REP_ERR_UNKNOWN", m->reply.type = NBD_REP_ERR_UNKNOWN)
ANSWER_LIE(starttls_informs, NBD_OPT_STARTTLS, BREAKS(R(starttls_ack_or_error)), "STARTTLS gets NBD_REP_INFO",
           m->reply.type = NBD_REP_INFO)
ANSWER_LIE(starttls_unanswered, NBD_OPT_STARTTLS, BREAKS(R(starttls_ack_or_error)), "STARTTLS is not answered",
           m->drop = true)
ANSWER_LIE(starttls_closes, NBD_OPT_STARTTLS, BREAKS(R(starttls_ack_or_error)), "STARTTLS is answered by a disconnect",
           m->drop = true;
           m->after = AFTER_CLOSE)
OUTGOING_LIE(tls_demanded, BREAKS(R(notls_no_tls_reqd), R(baseline_notls)),
             "a server that refuses STARTTLS demands TLS for everything else",
             m->kind == MSG_OPTION_REPLY && m->final && m->option != NBD_OPT_STARTTLS,
             m->reply.type = NBD_REP_ERR_TLS_REQD)
ANSWER_LIE(tls_demanded_for_list, NBD_OPT_LIST, BREAKS(R(notls_no_tls_reqd)),
           "a server without TLS demands it for LIST", m->reply.type = NBD_REP_ERR_TLS_REQD)
ANSWER_LIE(tls_demanded_for_export, NBD_OPT_GO, BREAKS(R(notls_no_tls_reqd), R(baseline_notls)),
           "a server without TLS demands it for its export", m->reply.type = NBD_REP_ERR_TLS_REQD)

/* ---- STRUCTURED_REPLY ---- */

ANSWER_LIE(structured_reply_described, NBD_OPT_STRUCTURED_REPLY, BREAKS(R(structured_reply_acked)),
           "STRUCTURED_REPLY gets NBD_REP_SERVER", m->reply.type = NBD_REP_SERVER)
ANSWER_LIE(structured_reply_unanswered, NBD_OPT_STRUCTURED_REPLY, BREAKS(R(structured_reply_acked)),
           "STRUCTURED_REPLY is not answered", m->drop = true)
ANSWER_LIE(structured_reply_refused_and_used, NBD_OPT_STRUCTURED_REPLY, BREAKS(R(structured_reply_refused_unused)),
           "STRUCTURED_REPLY is refused, and structured replies are sent", m->reply.type = NBD_REP_ERR_UNSUP)
OPTION_LIE(structured_reply_takes_data, BREAKS(R(structured_reply_rejects_data)),
           "STRUCTURED_REPLY with data is acknowledged", m->option.option == NBD_OPT_STRUCTURED_REPLY,
           m->option.length = 0)
OUTGOING_LIE(structured_reply_second_unknown, BREAKS(R(structured_reply_acked)),
             "a second STRUCTURED_REPLY is refused as unknown",
             m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_STRUCTURED_REPLY && m->reply.type == NBD_REP_ACK,
             if (l->turns > l->nth) m->reply.type = NBD_REP_ERR_UNSUP)

LIE(structured_reply_forgotten, ON_STATE, BREAKS(R(read_reply_structured)),
    "STRUCTURED_REPLY is acknowledged, and simple replies are sent")
{
	if (m->moment == STATE_ENTER_TRANSMISSION && c->structured && LIE_NOW)
		c->structured = false;
}

/* ---- EXPORT_NAME that cannot be satisfied ---- */

static bool
names_nothing(const struct conn *c, const struct option *o)
{
	const struct fake_config *config = fake_config_of(c->server);

	for (size_t i = 0; i < config->n_exports; i++)
		if (o->data.len == 0 || bytes_equal(bytes_of(config->exports[i].name), o->data))
			return false;
	return o->option == NBD_OPT_EXPORT_NAME;
}

OPTION_LIE(unknown_export_name_ignored, BREAKS(R(server_terminates_hard)),
           "EXPORT_NAME for an export that does not exist is passed over in silence", names_nothing(c, &m->option),
           m->ignore = true)
/* nbd-server 2933710; option 0 is refused, and the reply carries the number that came. */
OPTION_LIE(export_name_gets_option_reply, BREAKS(R(server_terminates_hard)),
           "EXPORT_NAME for an export that does not exist gets an option reply", names_nothing(c, &m->option),
           m->option.option = 0)

/* ---- clients that leave ---- */

/*
 * Acted on at the third accept after it: by then the end of the connection has been seen for certain, and a client that
 * leaves is followed by one that stays, so what a case sees does not depend on which process is the faster one.
 */
static bool
somebody_left(struct lie_use *l, struct conn *c, const struct process_event *m, enum phase phase)
{
	if (m->moment == PROCESS_DISCONNECT && c->phase == phase && LIE_NOW && l->arg == 0)
		l->arg = c->number;
	return m->moment == PROCESS_ACCEPT && l->arg > 0 && c->number > l->arg + 2;
}

LIE(dies_when_client_leaves_haggling, ON_PROCESS, BREAKS(R(greeting_magic), R(handshake_no_hard_disconnect)),
    "a client that leaves during option haggling ends the server")
{
	if (somebody_left(l, c, m, PHASE_HAGGLING))
		m->stop_listening = m->die = true;
}

/* xapi-nbd ea82add: one misbehaving client stops the server. */
LIE(stops_after_misbehaviour, ON_PROCESS, BREAKS(R(greeting_magic)),
    "once a client was disconnected, every other is closed at once")
{
	if (somebody_left(l, c, m, PHASE_CLOSING))
		m->refuse = true;
}
