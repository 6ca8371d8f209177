/* Lies about NBD_OPT_LIST. */
#include "fakeserver/lie.h"
#include "harness/nbd.h"

#include <string.h>

/* Every reply to LIST; one REP_SERVER; the final ACK. */
#define REPLY_LIE(ident, breaks, text, cond, edit)                                                                     \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_LIST && (cond) && LIE_NOW) {                   \
			edit;                                                                                          \
		}                                                                                                      \
	}
#define SERVER_LIE(ident, breaks, text, edit) REPLY_LIE(ident, breaks, text, m->payload == PAYLOAD_SERVER, edit)
#define ACK_LIE(ident, breaks, text, edit)    REPLY_LIE(ident, breaks, text, m->reply.type == NBD_REP_ACK, edit)

static bool
is_list(const struct incoming *m)
{
	return m->kind == MSG_OPTION && m->option.option == NBD_OPT_LIST;
}

/* ---- fields of REP_SERVER ---- */

SERVER_LIE(list_magic_off_by_one, BREAKS(R(option_reply_magic)), "the magic of REP_SERVER is one too large",
           m->reply.magic++)
SERVER_LIE(list_echoes_next, BREAKS(R(option_reply_echoes_option)), "REP_SERVER tells of the option behind LIST",
           m->reply.option++)
SERVER_LIE(list_type_zero, BREAKS(R(list_replies)), "REP_SERVER has type 0", m->reply.type = 0)
SERVER_LIE(list_type_info, BREAKS(R(list_replies)), "exports are listed as NBD_REP_INFO", m->reply.type = NBD_REP_INFO)
SERVER_LIE(list_type_ack, BREAKS(R(rep_ack_empty)), "exports are listed as NBD_REP_ACK", m->reply.type = NBD_REP_ACK)
SERVER_LIE(list_swapped, BREAKS(R(option_reply_magic)), "REP_SERVER is in little-endian byte order", m->swap = true)
SERVER_LIE(list_length_one_less, BREAKS(R(rep_server_layout)), "the length of REP_SERVER is one too small",
           m->length_off = -1)
SERVER_LIE(list_length_one_more, BREAKS(R(option_reply_magic)), "the length of REP_SERVER is one too large",
           m->length_off = 1)
SERVER_LIE(list_length_zero, BREAKS(R(rep_server_layout)), "the length of REP_SERVER is zero",
           m->length_off = -4 - (int64_t)m->server.name.len - (int64_t)m->server.details.len)
SERVER_LIE(list_length_ones, BREAKS(R(option_reply_length)), "the length of REP_SERVER is all ones",
           m->length_off = UINT32_MAX - 4 - (int64_t)m->server.name.len - (int64_t)m->server.details.len)
/* xapi-nbd #128 */
SERVER_LIE(list_name_length_one_less, BREAKS(R(rep_server_name_opens), R(info_name_canonical)),
           "the length of the name in REP_SERVER is one too small", m->inner_length_off = -1)
SERVER_LIE(list_name_length_one_more, BREAKS(R(rep_server_layout)),
           "the length of the name in REP_SERVER is one too large", m->inner_length_off = 1)
SERVER_LIE(list_name_length_zero, BREAKS(R(info_name_canonical), R(list_replies)),
           "the length of the name in REP_SERVER is zero", m->inner_length_off = -(int64_t)m->server.name.len)
SERVER_LIE(list_name_length_ones, BREAKS(R(rep_server_layout)), "the length of the name in REP_SERVER is all ones",
           m->inner_length_off = UINT32_MAX - (int64_t)m->server.name.len)
SERVER_LIE(list_name_length_swapped, BREAKS(R(rep_server_layout)),
           "the length of the name in REP_SERVER is in little-endian byte order",
           m->inner_length_off = (int64_t)__builtin_bswap32((uint32_t)m->server.name.len) - (int64_t)m->server.name.len)
SERVER_LIE(list_without_name_length, BREAKS(R(rep_server_layout)), "REP_SERVER is the name alone",
           m->payload = PAYLOAD_RAW;
           m->reply.data = m->server.name)

/* ---- names and details ---- */

static uint8_t filled[NBD_MAX_STRING + 1];

static struct bytes
long_string(size_t len)
{
	memset(filled, 'n', sizeof(filled));
	return (struct bytes){ filled, len };
}

/* The name with more behind it. */
static struct bytes
name_and(struct bytes name, struct bytes more)
{
	static uint8_t both[NBD_MAX_STRING + 16];

	memcpy(both, name.at, name.len);
	memcpy(both + name.len, more.at, more.len);
	return (struct bytes){ both, name.len + more.len };
}

SERVER_LIE(list_name_unknown, BREAKS(R(rep_server_name_opens), R(info_name_canonical)),
           "the names in the list are not those of the exports",
           m->server.name = name_and(m->server.name, BYTES_OF("-1")))
SERVER_LIE(list_name_ends_in_nul, BREAKS(R(server_strings_no_nul)), "the names in the list end in a NUL",
           m->server.name = name_and(m->server.name, BYTES_OF("\0")))
SERVER_LIE(list_name_contains_nul, BREAKS(R(server_strings_no_nul)), "the names in the list contain a NUL",
           m->server.name = name_and(m->server.name, BYTES_OF("\0x")))
SERVER_LIE(list_name_not_utf8, BREAKS(R(server_strings_utf8)), "the names in the list are Latin-1",
           m->server.name = name_and(m->server.name, BYTES_OF("\xe9")))
SERVER_LIE(list_name_overlong_utf8, BREAKS(R(server_strings_utf8)), "the names in the list contain an overlong form",
           m->server.name = name_and(m->server.name, BYTES_OF("\xc0\xaf")))
SERVER_LIE(list_name_surrogate, BREAKS(R(server_strings_utf8)), "the names in the list contain half a surrogate pair",
           m->server.name = name_and(m->server.name, BYTES_OF("\xed\xa0\x80")))
SERVER_LIE(list_name_cut_off_utf8, BREAKS(R(server_strings_utf8)), "the names in the list end within a character",
           m->server.name = name_and(m->server.name, BYTES_OF("\xf0\x9f\x92")))
SERVER_LIE(list_name_257, BREAKS(R(server_strings_short)), "the names in the list have 257 bytes",
           m->server.name = long_string(257))
SERVER_LIE(list_name_4097, BREAKS(R(server_strings_max_length)), "the names in the list have 4097 bytes",
           m->server.name = long_string(NBD_MAX_STRING + 1))
SERVER_LIE(list_details_4097, BREAKS(R(server_strings_max_length)), "the details in the list have 4097 bytes",
           m->server.details = long_string(NBD_MAX_STRING + 1))
SERVER_LIE(list_details_257, BREAKS(R(server_strings_short)), "the details in the list have 257 bytes",
           m->server.details = long_string(257))
SERVER_LIE(list_details_end_in_nul, BREAKS(R(rep_server_details_text)), "the details in the list end in a NUL",
           m->server.details = BYTES_OF("details\0"))
SERVER_LIE(list_details_not_utf8, BREAKS(R(rep_server_details_text)), "the details in the list are no UTF-8",
           m->server.details = BYTES_OF("d\xe9tails"))
SERVER_LIE(list_details_binary, BREAKS(R(rep_server_details_text)),
           "the size of the export follows its name in the list", m->server.details = BYTES_OF("\0\0\0\0\4\0\0\0"))

/* go-nbd: all exports in one REP_SERVER. */
LIE(list_in_one_reply, ON_OUTGOING, BREAKS(R(rep_server_details_text)),
    "all exports are listed in one REP_SERVER, one behind the other")
{
	const struct fake_config *config = fake_config_of(c->server);
	static struct buf rest;

	if (m->kind != MSG_OPTION_REPLY || m->option != NBD_OPT_LIST || m->final || !LIE_NOW)
		return;
	m->drop = !bytes_equal(m->server.name, bytes_of(config->exports[0].name));
	buf_clear(&rest);
	for (size_t i = 1; i < config->n_exports; i++)
		wire_put_rep_server(&rest, &(struct rep_server){ (uint32_t)strlen(config->exports[i].name),
		                                                 bytes_of(config->exports[i].name),
		                                                 { NULL, 0 } });
	m->server.details = (struct bytes){ rest.at, rest.len };
}

/* ---- which exports ---- */

SERVER_LIE(list_empty, BREAKS(R(list_replies)), "the list is empty", m->drop = true)
SERVER_LIE(list_twice_each, BREAKS(R(list_replies)), "every export is listed twice", m->repeat = 1)

LIE(list_omits_first, ON_OUTGOING, BREAKS(R(info_name_canonical), R(list_replies)), "the default export is not listed")
{
	if (m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_LIST && !m->final &&
	    bytes_equal(m->server.name, bytes_of(fake_config_of(c->server)->exports[0].name)) && LIE_NOW)
		m->drop = true;
}

LIE(list_grows, ON_OUTGOING, BREAKS(R(list_replies)), "from the second time on the last export is listed once more")
{
	if (m->kind != MSG_OPTION_REPLY || m->option != NBD_OPT_LIST)
		return;
	if (!m->final && l->arg == c->number && LIE_NOW)
		m->repeat = 1;
	if (m->final)
		l->arg = c->number;
}

/* ---- the final reply ---- */

/* tokio-nbd #7 */
ACK_LIE(list_without_ack, BREAKS(R(list_replies)), "the ACK behind the list is missing", m->drop = true)
ACK_LIE(list_ack_has_data, BREAKS(R(rep_ack_empty)), "the ACK behind the list carries data",
        m->reply.data = BYTES_OF("end"))
ACK_LIE(list_ends_in_server, BREAKS(R(rep_server_layout)), "the list ends in an empty REP_SERVER, not in ACK",
        m->reply.type = NBD_REP_SERVER)
ACK_LIE(list_ack_cut, BREAKS(R(list_replies)), "the connection ends within the ACK behind the list", m->cut = 12;
        m->after = AFTER_CLOSE)
ACK_LIE(list_closes, BREAKS(R(list_replies)), "the connection is closed instead of the ACK behind the list",
        m->drop = true;
        m->after = AFTER_CLOSE)
ACK_LIE(list_resets, BREAKS(R(list_replies)), "the connection is reset instead of the ACK behind the list",
        m->drop = true;
        m->after = AFTER_RESET)
ACK_LIE(list_acked_twice, BREAKS(R(list_replies), R(option_reply_echoes_option)), "two ACKs end the list",
        m->repeat = 1)
ACK_LIE(list_then_closes, BREAKS(R(list_replies), R(option_reply_length)), "the server closes behind the list",
        m->after = AFTER_CLOSE)
SERVER_LIE(list_cut, BREAKS(R(option_reply_length)), "the connection ends within a name of the list",
           m->cut = OPTION_REPLY_HEADER_SIZE + 5;
           m->after = AFTER_CLOSE)
SERVER_LIE(list_ack_before_last, BREAKS(R(list_replies)), "the ACK comes before the last export", m->hold = true)

/* ---- refusals ---- */

REPLY_LIE(list_unsupported, BREAKS(R(baseline_list)), "LIST is answered with NBD_REP_ERR_UNSUP", true,
          m->drop = !m->final;
          m->reply.type = NBD_REP_ERR_UNSUP)
REPLY_LIE(list_invalid, BREAKS(R(list_replies)), "every LIST is answered with NBD_REP_ERR_INVALID", true,
          m->drop = !m->final;
          m->reply.type = NBD_REP_ERR_INVALID)
REPLY_LIE(list_data_unsupported, BREAKS(R(list_rejects_data)), "LIST with data is answered with NBD_REP_ERR_UNSUP",
          m->reply.type == NBD_REP_ERR_INVALID, m->reply.type = NBD_REP_ERR_UNSUP)

LIE(list_takes_data, ON_INCOMING, BREAKS(R(list_rejects_data)), "LIST with data is answered as if it had none")
{
	if (is_list(m) && m->option.length > 0 && LIE_NOW)
		m->option.length = 0;
}

/* nbd-server 2ab3a2d, 9ca2974: the data of a refused option stays in the stream. */
LIE(list_data_unread, ON_INCOMING, BREAKS(R(option_data_consumed)), "the data of LIST is not read")
{
	if (is_list(m) && m->option.length > 0 && LIE_NOW)
		m->consumed = OPTION_HEADER_SIZE;
}

LIE(list_data_half_read, ON_INCOMING, BREAKS(R(option_data_consumed)), "one byte of the data of LIST is not read")
{
	if (is_list(m) && m->option.length > 0 && LIE_NOW)
		m->consumed--;
}

LIE(list_data_silence, ON_INCOMING, BREAKS(R(option_gets_reply)), "LIST with data is not answered")
{
	if (is_list(m) && m->option.length > 0 && LIE_NOW)
		m->ignore = true;
}

/* nbd-server 3.24 */
LIE(list_goes_on_behind_error, ON_OUTGOING, BREAKS(R(list_replies)),
    "LIST with data is answered with NBD_REP_ERR_INVALID, and then with NBD_REP_ACK")
{
	static uint8_t ack[OPTION_REPLY_HEADER_SIZE];
	struct buf b = { ack, 0, sizeof(ack) };

	if (m->kind != MSG_OPTION_REPLY || m->option != NBD_OPT_LIST || m->reply.type != NBD_REP_ERR_INVALID ||
	    !LIE_NOW)
		return;
	wire_put_option_reply(
		&b, &(struct option_reply){ NBD_OPTION_REPLY_MAGIC, NBD_OPT_LIST, NBD_REP_ACK, 0, { NULL, 0 } });
	m->extra = (struct bytes){ ack, b.len };
}

/* .arg remembers the connection, here and below. */
LIE(list_only_once, ON_OUTGOING, BREAKS(R(baseline_list)),
    "a second LIST on a connection is answered as an unknown option")
{
	if (m->kind != MSG_OPTION_REPLY || m->option != NBD_OPT_LIST)
		return;
	if (l->arg == c->number && LIE_NOW) {
		m->drop = !m->final;
		m->reply.type = NBD_REP_ERR_UNSUP;
	}
	if (m->final)
		l->arg = c->number;
}

LIE(list_shrinks, ON_OUTGOING, BREAKS(R(list_replies)), "the list is empty for every client but the first")
{
	if (m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_LIST && !m->final && c->number > 1 && LIE_NOW)
		m->drop = true;
}

LIE(list_only_as_first, ON_OUTGOING, BREAKS(R(list_replies)), "the list is empty when another option came before")
{
	if (m->kind == MSG_OPTION_REPLY && m->option != NBD_OPT_LIST)
		l->arg = c->number;
	else if (m->kind == MSG_OPTION_REPLY && l->arg == c->number && !m->final && LIE_NOW)
		m->drop = true;
}

/* ---- what the names open ---- */

LIE(listed_names_unknown_to_export_name, ON_INCOMING, BREAKS(R(rep_server_name_opens)),
    "EXPORT_NAME takes no name but the empty one")
{
	if (m->kind == MSG_OPTION && m->option.option == NBD_OPT_EXPORT_NAME && m->option.length > 0 && LIE_NOW)
		m->close = true;
}

static void
forget_named(struct outgoing *m)
{
	m->drop = !m->final;
	m->reply.type = NBD_REP_ERR_UNKNOWN;
}

LIE(listed_names_unknown_to_info, ON_OUTGOING, BREAKS(R(rep_server_name_opens)),
    "INFO does not know the exports in the list")
{
	if (m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_INFO && LIE_NOW)
		forget_named(m);
}

LIE(listed_names_unknown_to_go, ON_OUTGOING, BREAKS(R(rep_server_name_opens)), "GO knows the default export alone")
{
	if (m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_GO && c->named != fake_config_of(c->server)->exports &&
	    LIE_NOW)
		forget_named(m);
}

/* ---- clients that come later ---- */

LIE(list_ends_service, ON_PROCESS, BREAKS(R(handshake_no_hard_disconnect), R(greeting_magic)),
    "after a LIST nobody is let in")
{
	if (m->moment == PROCESS_INCOMING && m->option == NBD_OPT_LIST && LIE_NOW)
		l->arg = 1;
	if (m->moment == PROCESS_ACCEPT && l->arg > 0)
		m->refuse = true;
}
