/* Lies about NBD_OPT_EXPORT_NAME: its answer, the names that it takes, and what lies behind it. */
#include "fakeserver/lie.h"
#include "harness/nbd.h"

#include <string.h>
#include <strings.h>

static const uint8_t one_last[NBD_EXPORT_NAME_PADDING] = { [123] = 1 }, one_first[NBD_EXPORT_NAME_PADDING] = { 1 };

#define ANSWER_LIE(ident, breaks, text, edit)                                                                          \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_EXPORT_NAME_REPLY && LIE_NOW) {                                                     \
			edit;                                                                                          \
		}                                                                                                      \
	}

/* ---- fields of the answer ---- */

ANSWER_LIE(export_name_size_off_by_one, BREAKS(R(info_export_same_as_export_name)),
           "the size in the answer to EXPORT_NAME is one too large", m->export_name.size++)
ANSWER_LIE(export_name_size_zero, BREAKS(R(info_export_same_as_export_name)),
           "the size in the answer to EXPORT_NAME is zero", m->export_name.size = 0)
ANSWER_LIE(export_name_size_ones, BREAKS(R(info_export_same_as_export_name)),
           "the size in the answer to EXPORT_NAME is all ones", m->export_name.size = UINT64_MAX)
ANSWER_LIE(export_name_size_swapped, BREAKS(R(info_export_same_as_export_name)),
           "the size in the answer to EXPORT_NAME is in little-endian byte order",
           m->export_name.size = __builtin_bswap64(m->export_name.size))
ANSWER_LIE(export_name_flags_off_by_one, BREAKS(R(has_flags_set), R(info_export_same_as_export_name)),
           "the flags in the answer to EXPORT_NAME are one too large", m->export_name.flags++)
ANSWER_LIE(export_name_flags_zero, BREAKS(R(has_flags_set), R(info_export_same_as_export_name)),
           "no flag is set in the answer to EXPORT_NAME", m->export_name.flags = 0)
ANSWER_LIE(export_name_flags_ones, BREAKS(R(df_flag_without_structured), R(info_export_same_as_export_name)),
           "all flags are set in the answer to EXPORT_NAME", m->export_name.flags = UINT16_MAX)
ANSWER_LIE(export_name_swapped, BREAKS(R(info_export_same_as_export_name)),
           "the answer to EXPORT_NAME is in little-endian byte order", m->swap = true)

/* go-nbd */
ANSWER_LIE(export_name_without_has_flags, BREAKS(R(has_flags_set)), "NBD_FLAG_HAS_FLAGS is missing after EXPORT_NAME",
           m->export_name.flags &= (uint16_t)~NBD_FLAG_HAS_FLAGS)
ANSWER_LIE(export_name_without_read_only, BREAKS(R(info_export_same_as_export_name)),
           "EXPORT_NAME never tells that an export is read-only", m->export_name.flags &= (uint16_t)~NBD_FLAG_READ_ONLY)
ANSWER_LIE(export_name_with_df, BREAKS(R(df_flag_without_structured)),
           "NBD_FLAG_SEND_DF is set after EXPORT_NAME although there are no structured replies",
           m->export_name.flags |= NBD_FLAG_SEND_DF)

/* nbdkit f71080b1: one connection uses another's export size. */
LIE(export_name_size_of_another, ON_OUTGOING, BREAKS(R(info_export_same_as_export_name)),
    "the answer to EXPORT_NAME tells the size of another export")
{
	struct fake_config *config = fake_config_of(c->server);

	if (m->kind == MSG_EXPORT_NAME_REPLY && config->n_exports > 1 && LIE_NOW)
		m->export_name.size = config->exports[c->named == &config->exports[0]].size;
}

/* ---- padding ---- */

/* xapi-nbd #63: the padding is sent although NBD_FLAG_C_NO_ZEROES was agreed. */
LIE(export_name_keeps_padding, ON_OUTGOING, BREAKS(R(export_name_no_zeroes)),
    "sends 124 zeroes that were negotiated away")
{
	if (m->kind == MSG_EXPORT_NAME_REPLY && c->no_zeroes && LIE_NOW)
		m->padding = 124;
}

LIE(export_name_no_zeroes_only_in_fixed, ON_OUTGOING, BREAKS(R(export_name_no_zeroes)),
    "NBD_FLAG_C_NO_ZEROES counts for nothing without NBD_FLAG_C_FIXED_NEWSTYLE")
{
	if (m->kind == MSG_EXPORT_NAME_REPLY && !c->fixed_newstyle && LIE_NOW)
		m->padding = 124;
}

#define PADDING_LIE(ident, breaks, text, edit)                                                                         \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_EXPORT_NAME_REPLY && m->padding > 0 && LIE_NOW) {                                   \
			edit;                                                                                          \
		}                                                                                                      \
	}

PADDING_LIE(export_name_no_padding, BREAKS(R(export_name_zeroes_padding), R(handshake_flags_no_unasked_change)),
            "the 124 zeroes are left out for every client", m->padding = 0)
PADDING_LIE(export_name_padding_one_less, BREAKS(R(export_name_zeroes_padding)), "123 zeroes follow EXPORT_NAME",
            m->padding--)
PADDING_LIE(export_name_padding_one_more, BREAKS(R(export_name_zeroes_padding)), "125 zeroes follow EXPORT_NAME",
            m->padding++)
PADDING_LIE(export_name_padding_128, BREAKS(R(export_name_zeroes_padding)), "128 zeroes follow EXPORT_NAME",
            m->padding = 128)
PADDING_LIE(export_name_padding_ends_in_one, BREAKS(R(export_name_zeroes_padding)),
            "the last of the bytes that should be zero is one", m->padding = 0;
            m->extra = ((struct bytes){ one_last, sizeof(one_last) }))
PADDING_LIE(export_name_padding_begins_with_one, BREAKS(R(export_name_zeroes_padding)),
            "the first of the bytes that should be zero is one", m->padding = 0;
            m->extra = ((struct bytes){ one_first, sizeof(one_first) }))
PADDING_LIE(export_name_padding_cut, BREAKS(R(export_name_zeroes_padding)), "the connection ends within the 124 zeroes",
            m->cut = 100;
            m->after = AFTER_CLOSE)
ANSWER_LIE(export_name_one_zero, BREAKS(R(export_name_no_zeroes), R(export_name_zeroes_padding)),
           "one zero too many follows EXPORT_NAME", m->padding++)

/* ---- transport ---- */

ANSWER_LIE(export_name_cut_in_size, BREAKS(R(export_name_reply_layout)),
           "the connection ends within the size after EXPORT_NAME", m->cut = 5;
           m->after = AFTER_CLOSE)
ANSWER_LIE(export_name_cut_before_flags, BREAKS(R(export_name_reply_layout)),
           "the size is sent after EXPORT_NAME, and no flags", m->cut = 8)
ANSWER_LIE(export_name_cut_in_flags, BREAKS(R(export_name_reply_layout)),
           "the connection is reset within the flags after EXPORT_NAME", m->cut = 9;
           m->after = AFTER_RESET)
ANSWER_LIE(export_name_unanswered, BREAKS(R(export_name_reply_layout)),
           "EXPORT_NAME is not answered: the server waits for requests", m->drop = true)
ANSWER_LIE(export_name_refused,
           BREAKS(R(interop_export_name_served), R(export_name_default), R(handshake_no_hard_disconnect)),
           "EXPORT_NAME ends the session, whatever the name", m->drop = true;
           m->after = AFTER_CLOSE)
ANSWER_LIE(export_name_reset, BREAKS(R(interop_export_name_served), R(export_name_default)),
           "EXPORT_NAME resets the connection, whatever the name", m->drop = true;
           m->after = AFTER_RESET)
ANSWER_LIE(export_name_answered_twice, BREAKS(R(export_name_no_zeroes), R(export_name_zeroes_padding)),
           "the answer to EXPORT_NAME is sent twice", m->repeat = 1)
ANSWER_LIE(export_name_then_closes, BREAKS(R(transmission_after_export_name)),
           "the connection is closed behind the answer to EXPORT_NAME", m->after = AFTER_CLOSE)

/* nbd-server 2933710: it was answered as if it were another option. */
ANSWER_LIE(export_name_acked, BREAKS(R(export_name_no_option_reply)), "EXPORT_NAME is answered with NBD_REP_ACK",
           m->kind = MSG_OPTION_REPLY;
           m->payload = PAYLOAD_RAW;
           m->reply = ((struct option_reply){
		   .magic = NBD_OPTION_REPLY_MAGIC, .option = NBD_OPT_EXPORT_NAME, .type = NBD_REP_ACK }))

LIE(export_name_stays_in_haggling, ON_STATE, BREAKS(R(transmission_after_export_name)),
    "EXPORT_NAME is answered, and then the server waits for another option")
{
	if (m->moment == STATE_ENTER_TRANSMISSION && m->option == NBD_OPT_EXPORT_NAME && LIE_NOW)
		c->phase = PHASE_HAGGLING;
}

/* ---- names ---- */

static bool
is_export_name(const struct incoming *m)
{
	return m->kind == MSG_OPTION && m->option.option == NBD_OPT_EXPORT_NAME;
}

static bool
exists(const struct conn *c, struct bytes name)
{
	const struct fake_config *config = fake_config_of(c->server);

	for (size_t i = 0; i < config->n_exports; i++)
		if (bytes_equal(bytes_of(config->exports[i].name), name))
			return true;
	return name.len == 0;
}

/* Chooses another export than the client did. */
static void
rename_to(struct incoming *m, struct bytes name)
{
	m->option.data = name;
	m->option.length = (uint32_t)name.len;
}

/* go-nbd: a known export is served under an unknown name. */
LIE(export_name_unknown_opens_default, ON_INCOMING, BREAKS(R(export_name_unknown_closes)),
    "EXPORT_NAME with an unknown name opens the default export")
{
	if (is_export_name(m) && !exists(c, m->option.data) && LIE_NOW)
		rename_to(m, BYTES_OF(""));
}

LIE(export_name_unknown_ignored, ON_INCOMING, BREAKS(R(server_terminates_hard)),
    "after EXPORT_NAME with an unknown name the server waits for another option")
{
	if (is_export_name(m) && !exists(c, m->option.data) && LIE_NOW)
		m->ignore = true;
}

/* The reply echoes the option that came, as c->option was set before. */
LIE(export_name_unknown_gets_error, ON_INCOMING, BREAKS(R(export_name_no_option_reply)),
    "EXPORT_NAME with an unknown name is answered with NBD_REP_ERR_UNKNOWN")
{
	static uint8_t data[4 + NBD_MAX_STRING + 2];
	struct bytes name = m->option.data;

	if (!is_export_name(m) || name.len > NBD_MAX_STRING || exists(c, name) || !LIE_NOW)
		return;
	memset(data, 0, sizeof(data));
	data[2] = (uint8_t)(name.len >> 8);
	data[3] = (uint8_t)name.len;
	memcpy(data + 4, name.at, name.len);
	m->option.option = NBD_OPT_GO;
	rename_to(m, (struct bytes){ data, name.len + 6 });
}

LIE(export_name_unsupported, ON_INCOMING, BREAKS(R(export_name_no_option_reply)),
    "EXPORT_NAME is answered with NBD_REP_ERR_UNSUP")
{
	if (is_export_name(m) && LIE_NOW)
		m->option.option = UINT32_MAX;
}

/* nbdkit 1913af3f: a name with an embedded NUL is treated as what stands before it. */
LIE(export_name_ends_at_nul, ON_INCOMING, BREAKS(R(export_name_unknown_closes)), "a NUL ends the name in EXPORT_NAME")
{
	struct bytes name = m->option.data;

	if (is_export_name(m) && name.len > 0 && memchr(name.at, 0, name.len) != NULL && LIE_NOW)
		rename_to(m, (struct bytes){ name.at, strnlen((const char *)name.at, name.len) });
}

/* tokio-nbd #7 */
LIE(export_name_length_is_8_bits, ON_INCOMING, BREAKS(R(export_name_unknown_closes)),
    "only the lowest 8 bits of the length of EXPORT_NAME count for the name")
{
	if (is_export_name(m) && m->option.data.len > 0xff && LIE_NOW)
		rename_to(m, (struct bytes){ m->option.data.at, m->option.data.len & 0xff });
}

enum likeness { LONGER, SHORTER, OTHER_CASE };

/* Takes the name for that of an export that is like it. */
static void
confuse(struct conn *c, struct incoming *m, enum likeness like)
{
	const struct fake_config *config = fake_config_of(c->server);
	struct bytes name = m->option.data;

	for (size_t i = 0; i < config->n_exports; i++) {
		struct bytes known = bytes_of(config->exports[i].name);
		size_t n = name.len < known.len ? name.len : known.len;

		if (n == 0 || strncasecmp((const char *)name.at, (const char *)known.at, n) != 0)
			continue;
		if (like == LONGER    ? name.len > known.len
		    : like == SHORTER ? name.len < known.len
		                      : name.len == known.len)
			rename_to(m, known);
	}
}

LIE(export_name_begins_with_name, ON_INCOMING, BREAKS(R(export_name_unknown_closes)),
    "EXPORT_NAME opens an export whose name is only the beginning of what was asked for")
{
	if (is_export_name(m) && LIE_NOW)
		confuse(c, m, LONGER);
}

LIE(export_name_begins_name, ON_INCOMING, BREAKS(R(export_name_unknown_closes)),
    "EXPORT_NAME opens an export for the beginning of its name")
{
	if (is_export_name(m) && LIE_NOW)
		confuse(c, m, SHORTER);
}

LIE(export_name_ignores_case, ON_INCOMING, BREAKS(R(export_name_unknown_closes)),
    "EXPORT_NAME opens an export for its name in the other case")
{
	if (is_export_name(m) && LIE_NOW)
		confuse(c, m, OTHER_CASE);
}

LIE(export_name_empty_closes, ON_INCOMING, BREAKS(R(export_name_default)),
    "EXPORT_NAME with an empty name ends the session, although there is a default export")
{
	if (is_export_name(m) && m->option.length == 0 && LIE_NOW)
		m->close = true;
}

LIE(export_name_empty_opens_last, ON_INCOMING, BREAKS(R(info_export_same_as_export_name)),
    "EXPORT_NAME with an empty name opens another export than the default one")
{
	const struct fake_config *config = fake_config_of(c->server);

	if (is_export_name(m) && m->option.length == 0 && LIE_NOW)
		rename_to(m, bytes_of(config->exports[config->n_exports - 1].name));
}

/* ---- other options before it; .arg remembers the connection that one came on ---- */

/* nbdkit f1ffde56: the first name is remembered. */
LIE(export_name_remembers_info, ON_INCOMING,
    BREAKS(R(export_name_reply_layout), R(export_name_unknown_closes), R(info_export_same_as_export_name)),
    "EXPORT_NAME opens the export that an INFO on the connection named last")
{
	const struct fake_config *config = fake_config_of(c->server);
	struct opt_go go;

	if (m->kind == MSG_OPTION && m->option.option == NBD_OPT_INFO &&
	    wire_get_opt_go(wire_over(m->option.data), &go) == WIRE_EXACT)
		for (size_t i = 0; i < config->n_exports; i++)
			if (bytes_equal(bytes_of(config->exports[i].name), go.name))
				l->arg = (uint64_t)c->number << 32 | i;
	if (is_export_name(m) && l->arg >> 32 == c->number && LIE_NOW)
		rename_to(m, bytes_of(config->exports[(uint32_t)l->arg].name));
}

LIE(export_name_not_after_error, ON_OUTGOING, BREAKS(R(handshake_no_hard_disconnect)),
    "once an option was refused, EXPORT_NAME ends the session")
{
	if (m->kind == MSG_OPTION_REPLY && (m->reply.type & NBD_REP_ERROR_BIT) != 0)
		l->arg = c->number;
	if (m->kind == MSG_EXPORT_NAME_REPLY && l->arg == c->number && LIE_NOW) {
		m->drop = true;
		m->after = AFTER_CLOSE;
	}
}

/* INFO speaks as a server that wants TLS does; EXPORT_NAME has no such scruples. */
LIE(export_name_without_tls, ON_OUTGOING, BREAKS(R(export_name_unmet_closes)),
    "INFO demands TLS for every export, and EXPORT_NAME opens them without")
{
	if (m->kind != MSG_OPTION_REPLY || m->option != NBD_OPT_INFO || !LIE_NOW)
		return;
	if (m->final)
		m->reply.type = NBD_REP_ERR_TLS_REQD;
	else
		m->drop = true;
}

/* The flag is cleared on the wire only. */
LIE(other_options_unannounced, ON_OUTGOING, BREAKS(R(other_options_need_fixed), R(fixed_newstyle_flag_set)),
    "every option is served although NBD_FLAG_FIXED_NEWSTYLE is not set")
{
	if (m->kind == MSG_GREETING && LIE_NOW) {
		m->greeting.flags &= (uint16_t)~NBD_FLAG_FIXED_NEWSTYLE;
		fake_config_of(c->server)->knob[KNOB_fixed_newstyle_unasked] = true;
	}
}

/*
 * ---- clients that come later ----
 * What .arg remembers shows at the next accept, and no process dies of it: a case must see the same however fast either
 * of two processes is.
 */

static void
turn_away(struct lie_use *l, struct process_event *m)
{
	if (m->moment == PROCESS_ACCEPT && l->arg == 1)
		m->refuse = true;
}

/* CVE-2017-15118, CVE-2020-10761 (qemu): a long name is written over the stack, or too long for the error's text. */
LIE(export_name_long_ends_service, ON_PROCESS, BREAKS(R(handshake_no_hard_disconnect), R(greeting_magic)),
    "after a name of more than 4096 bytes in EXPORT_NAME nobody is served")
{
	if (m->moment == PROCESS_INCOMING && m->option == NBD_OPT_EXPORT_NAME &&
	    c->input.len > OPTION_HEADER_SIZE + NBD_MAX_STRING && LIE_NOW)
		l->arg = 1;
	turn_away(l, m);
}

/* CVE-2022-26495 (nbd-server): memory is trusted to hold what has not come. */
LIE(export_name_abandoned_ends_service, ON_PROCESS, BREAKS(R(handshake_no_hard_disconnect), R(greeting_magic)),
    "after a client that leaves within an option nobody is served")
{
	if (m->moment == PROCESS_DISCONNECT && c->phase == PHASE_HAGGLING && c->input.len > 0 && LIE_NOW)
		l->arg = 1;
	turn_away(l, m);
}

/* CVE-2013-7441 (nbd-server): a name that is refused ends the process that listens. */
LIE(export_name_refusal_ends_service, ON_PROCESS, BREAKS(R(handshake_no_hard_disconnect), R(greeting_magic)),
    "once EXPORT_NAME was refused nobody is served")
{
	if (m->moment == PROCESS_INCOMING && m->option == NBD_OPT_EXPORT_NAME)
		l->arg = (uint64_t)c->number << 1;
	if (m->moment == PROCESS_DISCONNECT && l->arg == (uint64_t)c->number << 1 && c->export == NULL && LIE_NOW)
		l->arg = 1;
	turn_away(l, m);
}
