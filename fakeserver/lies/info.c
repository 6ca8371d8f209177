/* Lies about NBD_OPT_INFO, about the information that it and NBD_OPT_GO send, and in how both take their data. */
#include "fakeserver/lie.h"

#include "harness/nbd.h"

#include <stdlib.h>
#include <string.h>

/* ---- what is on its way out ---- */

static bool
answers_go(const struct outgoing *m)
{
	return m->kind == MSG_OPTION_REPLY && (m->option == NBD_OPT_INFO || m->option == NBD_OPT_GO);
}

static bool
is_info(const struct outgoing *m, uint16_t type)
{
	return answers_go(m) && m->reply.type == NBD_REP_INFO && m->info.type == type;
}

static bool
is_final(const struct outgoing *m, uint32_t option, uint32_t type)
{
	return m->kind == MSG_OPTION_REPLY && m->option == option && m->reply.type == type;
}

static bool
is_unknown(const struct outgoing *m)
{
	return answers_go(m) && m->reply.type == NBD_REP_ERR_UNKNOWN;
}

#define EXPORT_LIE(ident, breaks_, text_, ...)                                                                         \
	OUTGOING_LIE(ident, breaks_, text_, is_info(m, NBD_INFO_EXPORT), __VA_ARGS__)
#define NAME_LIE(ident, breaks_, text_, ...) OUTGOING_LIE(ident, breaks_, text_, is_info(m, NBD_INFO_NAME), __VA_ARGS__)
#define DESCRIPTION_LIE(ident, breaks_, text_, ...)                                                                    \
	OUTGOING_LIE(ident, breaks_, text_, is_info(m, NBD_INFO_DESCRIPTION), __VA_ARGS__)

static const uint8_t zeroes[NBD_EXPORT_NAME_PADDING + 10];

static void
send_raw(struct outgoing *m, const void *data, size_t len)
{
	m->payload = PAYLOAD_RAW;
	m->reply.data = (struct bytes){ data, len };
}

/* ---- NBD_INFO_EXPORT ---- */

EXPORT_LIE(info_export_missing, BREAKS(R(info_export_sent)), "never sends NBD_INFO_EXPORT", m->drop = true)
EXPORT_LIE(info_export_twice, BREAKS(R(info_once_each)), "sends NBD_INFO_EXPORT twice", m->repeat = 1)
EXPORT_LIE(info_export_last, BREAKS(R(info_export_sent)), "sends NBD_INFO_EXPORT behind the message that follows it",
           m->hold = true)
EXPORT_LIE(info_export_typed_name, BREAKS(R(info_export_sent)), "gives NBD_INFO_EXPORT the type of NBD_INFO_NAME",
           m->info.type = NBD_INFO_NAME)
EXPORT_LIE(info_export_typed_ffff, BREAKS(R(info_export_sent)), "gives NBD_INFO_EXPORT the type 0xffff",
           m->info.type = 0xffff)
EXPORT_LIE(info_export_without_flags, BREAKS(R(info_export_length)), "ends NBD_INFO_EXPORT behind the size",
           m->payload = PAYLOAD_INFO;
           m->info.payload = (struct bytes){ zeroes, 8 })
/* The 124 zeroes that NBD_OPT_EXPORT_NAME has. */
EXPORT_LIE(info_export_padded, BREAKS(R(info_export_length)), "sends 124 zeroes within NBD_INFO_EXPORT",
           m->payload = PAYLOAD_INFO;
           m->info.payload = (struct bytes){ zeroes, sizeof(zeroes) })
EXPORT_LIE(info_export_length_plus_1, BREAKS(R(info_export_length)), "says that NBD_INFO_EXPORT has 13 bytes",
           m->length_off = 1)
EXPORT_LIE(info_export_length_minus_1, BREAKS(R(info_export_length)), "says that NBD_INFO_EXPORT has 11 bytes",
           m->length_off = -1)
EXPORT_LIE(info_export_length_0, BREAKS(R(info_reply_layout)), "says that NBD_INFO_EXPORT has no bytes",
           m->length_off = -12)
EXPORT_LIE(info_export_length_1, BREAKS(R(info_reply_layout)), "says that NBD_INFO_EXPORT has 1 byte",
           m->length_off = -11)
EXPORT_LIE(info_export_length_ffffffff, BREAKS(R(option_reply_length)),
           "says that NBD_INFO_EXPORT has 4 GiB less 1 byte", m->length_off = UINT32_MAX - 12)
EXPORT_LIE(info_export_cut, BREAKS(R(option_reply_length)), "breaks off in the size in NBD_INFO_EXPORT",
           m->cut = OPTION_REPLY_HEADER_SIZE + 5;
           m->after = AFTER_CLOSE)
EXPORT_LIE(info_export_cut_in_header, BREAKS(R(info_final_reply)), "breaks off in the header before NBD_INFO_EXPORT",
           m->cut = 13;
           m->after = AFTER_RESET)
EXPORT_LIE(info_export_swapped, BREAKS(R(option_reply_magic)), "sends NBD_INFO_EXPORT and its header in little-endian",
           m->swap = true)
EXPORT_LIE(info_export_closes, BREAKS(R(info_final_reply)), "ends the session instead of NBD_INFO_EXPORT",
           m->drop = true;
           m->after = AFTER_CLOSE)
EXPORT_LIE(info_export_resets, BREAKS(R(info_final_reply)), "resets the connection instead of NBD_INFO_EXPORT",
           m->drop = true;
           m->after = AFTER_RESET)
EXPORT_LIE(info_export_falls_silent, BREAKS(R(info_final_reply)), "says nothing more from NBD_INFO_EXPORT on",
           m->drop = true;
           m->after = AFTER_SILENCE)
EXPORT_LIE(info_is_server_reply, BREAKS(R(info_go_same_format)), "sends NBD_INFO_EXPORT as NBD_REP_SERVER",
           m->reply.type = NBD_REP_SERVER)
EXPORT_LIE(info_export_magic_off, BREAKS(R(option_reply_magic)),
           "sends NBD_INFO_EXPORT with a magic that is wrong by one", m->reply.magic++)

EXPORT_LIE(info_export_size_plus_1, BREAKS(R(info_export_same_as_export_name)),
           "tells a size that is too large by 1 byte", m->info_export.size++)
EXPORT_LIE(info_export_size_minus_1, BREAKS(R(info_export_same_as_export_name)),
           "tells a size that is too small by 1 byte", m->info_export.size--)
EXPORT_LIE(info_export_size_0, BREAKS(R(info_export_same_as_export_name)), "tells that the export is empty",
           m->info_export.size = 0)
EXPORT_LIE(info_export_size_all_ones, BREAKS(R(info_export_same_as_export_name)), "tells a size of 2^64-1",
           m->info_export.size = UINT64_MAX)
EXPORT_LIE(info_export_size_swapped, BREAKS(R(info_export_same_as_export_name)), "tells the size in little-endian",
           m->info_export.size = __builtin_bswap64(m->info_export.size))
EXPORT_LIE(info_export_size_32_bits, BREAKS(R(info_export_same_as_export_name)),
           "tells the size in blocks of 512 bytes", m->info_export.size /= 512)

/* nbd-server 3.24: only NBD_OPT_GO opened the export and looked at its size. */
OUTGOING_LIE(info_size_0, BREAKS(R(info_export_same_as_export_name), R(info_then_go_same)),
             "tells by NBD_OPT_INFO that the export is empty, and the size by NBD_OPT_GO only",
             is_info(m, NBD_INFO_EXPORT) && m->option == NBD_OPT_INFO, m->info_export.size = 0)

/* ---- NBD_INFO_NAME and NBD_INFO_DESCRIPTION ---- */

static uint8_t long_text[NBD_MAX_STRING + 1];

static struct bytes
text_of_length(size_t n)
{
	memset(long_text, 'n', n);
	return (struct bytes){ long_text, n };
}

NAME_LIE(info_name_of_nothing, BREAKS(R(info_name_canonical)), "calls canonical a name that no export has",
         m->info.payload = BYTES_OF("canonical"))
NAME_LIE(info_name_of_another, BREAKS(R(info_name_canonical)), "calls canonical the name of another export",
         m->info.payload = BYTES_OF("other"))
NAME_LIE(info_name_truncated, BREAKS(R(info_name_canonical)), "leaves out the last byte of the name",
         m->info.payload.len -= m->info.payload.len > 0)
NAME_LIE(info_name_ends_in_nul, BREAKS(R(server_strings_no_nul)), "ends NBD_INFO_NAME in a NUL",
         m->info.payload = ((struct bytes){ (const uint8_t *)"nbdspec", 8 }))
NAME_LIE(info_name_of_4097, BREAKS(R(server_strings_max_length)), "sends a name of 4097 bytes",
         m->info.payload = text_of_length(NBD_MAX_STRING + 1))
NAME_LIE(info_name_of_257, BREAKS(R(server_strings_short)), "sends a name of 257 bytes",
         m->info.payload = text_of_length(257))
NAME_LIE(info_name_latin_1, BREAKS(R(server_strings_utf8)), "sends a name in Latin-1",
         m->info.payload = BYTES_OF("nbdsp\xe9"
                                    "c"))
NAME_LIE(info_name_twice, BREAKS(R(info_once_each)), "sends NBD_INFO_NAME twice", m->repeat = 1)
NAME_LIE(info_name_of_0_bytes, BREAKS(R(info_name_length)), "sends NBD_INFO_NAME without its type",
         send_raw(m, NULL, 0))
NAME_LIE(info_name_of_1_byte, BREAKS(R(info_name_length)), "sends one byte of NBD_INFO_NAME", send_raw(m, zeroes, 1))

DESCRIPTION_LIE(info_description_with_nul, BREAKS(R(server_strings_no_nul)), "sends a description with a NUL",
                m->info.payload = BYTES_OF("a\0disk"))
DESCRIPTION_LIE(info_description_of_4097, BREAKS(R(server_strings_max_length)), "sends a description of 4097 bytes",
                m->info.payload = text_of_length(NBD_MAX_STRING + 1))
DESCRIPTION_LIE(info_description_of_257, BREAKS(R(server_strings_short)), "sends a description of 257 bytes",
                m->info.payload = text_of_length(257))
DESCRIPTION_LIE(info_description_overlong, BREAKS(R(server_strings_utf8)), "sends a description with an overlong form",
                m->info.payload = BYTES_OF("a disk \xc0\xaf"))
DESCRIPTION_LIE(info_description_surrogate, BREAKS(R(server_strings_utf8)), "sends a description with a surrogate",
                m->info.payload = BYTES_OF("a disk \xed\xa0\x80"))
DESCRIPTION_LIE(info_description_half, BREAKS(R(server_strings_utf8)), "cuts a description within a character",
                m->info.payload = BYTES_OF("a disk \xe2\x82"))
DESCRIPTION_LIE(info_description_twice, BREAKS(R(info_once_each)), "sends NBD_INFO_DESCRIPTION twice", m->repeat = 1)
DESCRIPTION_LIE(info_description_of_0_bytes, BREAKS(R(info_description_length)),
                "sends NBD_INFO_DESCRIPTION without its type", send_raw(m, NULL, 0))
DESCRIPTION_LIE(info_description_of_1_byte, BREAKS(R(info_description_length)),
                "sends one byte of NBD_INFO_DESCRIPTION", send_raw(m, zeroes, 1))
OUTGOING_LIE(list_description_differs, BREAKS(R(info_description_same_as_list)),
             "describes an export by LIST in other words than by INFO",
             m->kind == MSG_OPTION_REPLY && m->payload == PAYLOAD_SERVER, m->server.details = BYTES_OF("another text"))

/* ---- the end of the answer ---- */

OUTGOING_LIE(info_unsup, BREAKS(R(baseline_info_go)), "does not know NBD_OPT_INFO",
             m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_INFO && m->final, m->reply.type = NBD_REP_ERR_UNSUP;
             send_raw(m, NULL, 0))
OUTGOING_LIE(info_invalid, BREAKS(R(baseline_info_go)), "ends a right answer to NBD_OPT_INFO by NBD_REP_ERR_INVALID",
             is_final(m, NBD_OPT_INFO, NBD_REP_ACK), m->reply.type = NBD_REP_ERR_INVALID)
OUTGOING_LIE(info_known_is_unknown, BREAKS(R(baseline_info_go)), "says by NBD_OPT_INFO that no export exists",
             is_final(m, NBD_OPT_INFO, NBD_REP_ACK), m->reply.type = NBD_REP_ERR_UNKNOWN)
OUTGOING_LIE(info_echoes_go, BREAKS(R(option_reply_echoes_option)), "answers NBD_OPT_INFO as if it had been NBD_OPT_GO",
             m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_INFO, m->reply.option = NBD_OPT_GO)
/* nbd-server d1b135e */
OUTGOING_LIE(info_echoes_swapped, BREAKS(R(option_reply_echoes_option)), "echoes NBD_OPT_INFO in little-endian",
             m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_INFO,
             m->reply.option = __builtin_bswap32(m->reply.option))
OUTGOING_LIE(info_ack_with_data, BREAKS(R(rep_ack_empty)), "sends data with the ACK to NBD_OPT_INFO",
             is_final(m, NBD_OPT_INFO, NBD_REP_ACK), send_raw(m, "ok", 2))
OUTGOING_LIE(info_ack_missing, BREAKS(R(info_final_reply)), "does not end the answer to NBD_OPT_INFO",
             is_final(m, NBD_OPT_INFO, NBD_REP_ACK), m->drop = true)
OUTGOING_LIE(info_ack_twice, BREAKS(R(option_reply_echoes_option)), "ends the answer to NBD_OPT_INFO twice",
             is_final(m, NBD_OPT_INFO, NBD_REP_ACK), m->repeat = 1)
OUTGOING_LIE(info_ack_closes, BREAKS(R(info_stays_in_haggling)), "ends the session after the ACK to NBD_OPT_INFO",
             is_final(m, NBD_OPT_INFO, NBD_REP_ACK), m->after = AFTER_CLOSE)
OUTGOING_LIE(info_ack_falls_silent, BREAKS(R(info_stays_in_haggling)),
             "says nothing more after the ACK to NBD_OPT_INFO", is_final(m, NBD_OPT_INFO, NBD_REP_ACK),
             m->after = AFTER_SILENCE)

LIE(info_enters_transmission, ON_STATE, BREAKS(R(info_stays_in_haggling)), "enters transmission after NBD_OPT_INFO")
{
	if (m->moment == STATE_AFTER_OPTION && m->option == NBD_OPT_INFO && c->named != NULL && LIE_NOW) {
		c->phase = PHASE_TRANSMISSION;
		c->export = c->named;
	}
}

/* ---- an export that does not exist ---- */

/* The refusal stands behind it, ready encoded. */
static void
put_info_before_unknown(struct outgoing *m)
{
	static struct buf refusal;

	buf_clear(&refusal);
	wire_put_option_reply(&refusal, &m->reply);
	m->reply.type = NBD_REP_INFO;
	m->payload = PAYLOAD_INFO_EXPORT;
	m->info.type = NBD_INFO_EXPORT;
	m->info_export = (struct info_export){ 0, NBD_FLAG_HAS_FLAGS };
	m->extra = (struct bytes){ refusal.at, refusal.len };
}

OUTGOING_LIE(info_before_unknown, BREAKS(R(info_unknown_no_infos)), "sends NBD_INFO_EXPORT before NBD_REP_ERR_UNKNOWN",
             is_unknown(m), put_info_before_unknown(m))
OUTGOING_LIE(info_unknown_is_invalid, BREAKS(R(info_unknown_export)),
             "answers NBD_REP_ERR_INVALID for an export that does not exist", is_unknown(m),
             m->reply.type = NBD_REP_ERR_INVALID)
OUTGOING_LIE(info_unknown_is_tls_reqd, BREAKS(R(notls_no_tls_reqd)),
             "answers NBD_REP_ERR_TLS_REQD for an export that does not exist, and has no TLS", is_unknown(m),
             m->reply.type = NBD_REP_ERR_TLS_REQD)
OUTGOING_LIE(info_unknown_is_ack, BREAKS(R(info_export_sent)), "answers NBD_REP_ACK for an export that does not exist",
             is_unknown(m), m->reply.type = NBD_REP_ACK)
/* nbdkit e60d67ee; CVE-2013-7441 is of the same kind. */
OUTGOING_LIE(info_unknown_closes, BREAKS(R(info_unknown_export)), "ends the session over an export that does not exist",
             is_unknown(m), m->drop = true;
             m->after = AFTER_CLOSE)
OUTGOING_LIE(info_unknown_then_closes, BREAKS(R(server_errors_unwelcome_client)),
             "ends the session after NBD_REP_ERR_UNKNOWN", is_unknown(m), m->after = AFTER_CLOSE)
OUTGOING_LIE(info_unknown_unanswered, BREAKS(R(info_unknown_export)), "says nothing of an export that does not exist",
             is_unknown(m), m->drop = true)
OUTGOING_LIE(info_unknown_short_length, BREAKS(R(option_reply_length)),
             "says that NBD_REP_ERR_UNKNOWN has 4 GiB less 1 byte of text", is_unknown(m), m->length_off = UINT32_MAX)
OUTGOING_LIE(info_unknown_text_with_nul, BREAKS(R(option_reply_string_limits)),
             "sends a text with a NUL with NBD_REP_ERR_UNKNOWN", is_unknown(m),
             m->message = BYTES_OF("no such export\0"))

/* ---- how the data is taken ---- */

static bool
is_go(const struct incoming *m)
{
	return m->kind == MSG_OPTION && (m->option.option == NBD_OPT_INFO || m->option.option == NBD_OPT_GO);
}

static enum wire_end
parse(const struct incoming *m, struct opt_go *go)
{
	return wire_get_opt_go(wire_over(m->option.data), go);
}

/* True: well-formed, and with a name of `from` to `to` bytes. */
static bool
has_name_of(const struct incoming *m, size_t from, size_t to)
{
	struct opt_go go;

	return is_go(m) && parse(m, &go) == WIRE_EXACT && go.name.len >= from && go.name.len <= to;
}

/* From here on the honest server sees data that ends one byte early, and refuses it. */
static void
make_invalid(struct incoming *m)
{
	if (m->option.data.len > 0)
		m->option.data.len--;
}

/* The data is put together anew; it stays in place until the next message comes. */
static void
replace_data(struct incoming *m, struct bytes name, struct bytes infos)
{
	static struct buf data;

	buf_clear(&data);
	wire_put_opt_go(&data, &(struct opt_go){ (uint32_t)name.len, name, (uint16_t)(infos.len / 2), infos });
	m->option.data = (struct bytes){ data.at, data.len };
	m->option.length = (uint32_t)data.len;
}

static size_t
requests(const struct incoming *m)
{
	struct opt_go go;

	return is_go(m) && parse(m, &go) == WIRE_EXACT ? go.n_infos : SIZE_MAX;
}

static bool
asks_for_unknown(const struct incoming *m)
{
	struct opt_go go;

	if (!is_go(m) || parse(m, &go) != WIRE_EXACT)
		return false;
	for (size_t i = 0; i < go.n_infos; i++)
		if (opt_go_info(&go, i) > NBD_INFO_BLOCK_SIZE)
			return true;
	return false;
}

static bool
asks_twice(const struct incoming *m)
{
	struct opt_go go;

	if (!is_go(m) || parse(m, &go) != WIRE_EXACT)
		return false;
	for (size_t i = 1; i < go.n_infos; i++)
		for (size_t k = 0; k < i && i < 16; k++)
			if (opt_go_info(&go, i) == opt_go_info(&go, k))
				return true;
	return false;
}

/* What stands before the first request that is not known. */
static void
stop_at_unknown(struct incoming *m)
{
	struct opt_go go;
	size_t n = 0;

	parse(m, &go);
	while (n < go.n_infos && opt_go_info(&go, n) <= NBD_INFO_BLOCK_SIZE)
		n++;
	replace_data(m, go.name, (struct bytes){ go.infos.at, 2 * n });
}

static void
take_low_bytes(struct incoming *m)
{
	static uint8_t low[2 * 65536];
	struct opt_go go;

	parse(m, &go);
	for (size_t i = 0; i < go.n_infos; i++)
		low[2 * i + 1] = (uint8_t)opt_go_info(&go, i);
	replace_data(m, go.name, (struct bytes){ low, 2u * go.n_infos });
}

INCOMING_LIE(info_empty_list_invalid, BREAKS(R(info_empty_list_taken)),
             "refuses NBD_OPT_INFO and NBD_OPT_GO that ask for nothing", requests(m) == 0, make_invalid(m))
INCOMING_LIE(info_unknown_request_invalid, BREAKS(R(info_ignores_unknown_requests)),
             "refuses a list with an information request that it does not know", asks_for_unknown(m), make_invalid(m))
INCOMING_LIE(info_unknown_request_stops, BREAKS(R(info_ignores_unknown_requests)),
             "reads no further than to an information request that it does not know", asks_for_unknown(m),
             stop_at_unknown(m))
INCOMING_LIE(info_request_in_8_bits, BREAKS(R(info_ignores_unknown_requests)),
             "takes information requests by their low byte: 0x103 for NBD_INFO_BLOCK_SIZE",
             asks_for_unknown(m) && requests(m) < 1000, take_low_bytes(m))
INCOMING_LIE(info_duplicate_unanswered, BREAKS(R(option_gets_reply)),
             "says nothing where an information is asked for twice", asks_twice(m), m->ignore = true)
INCOMING_LIE(info_long_list_closes, BREAKS(R(option_gets_reply)),
             "ends the session over more than 512 information requests", is_go(m) && m->option.length > 1024,
             m->close = true)
INCOMING_LIE(info_long_list_read_in_part, BREAKS(R(option_data_consumed)),
             "takes no more than 2048 bytes of an option's data off the stream", is_go(m) && m->option.length > 2048,
             m->consumed = OPTION_HEADER_SIZE + 2048)
INCOMING_LIE(info_data_read_on, BREAKS(R(info_stays_in_haggling), R(option_data_consumed)),
             "takes one byte too many off the stream behind NBD_OPT_INFO",
             m->kind == MSG_OPTION && m->option.option == NBD_OPT_INFO, m->consumed++)
/* More is asked for behind "other" than for an alias: the export is another one. */
INCOMING_LIE(info_empty_name_is_another, BREAKS(R(info_empty_name_default), R(info_export_same_as_export_name)),
             "takes the empty name for another export than NBD_OPT_EXPORT_NAME does", has_name_of(m, 0, 0),
             replace_data(m, BYTES_OF("other"), (struct bytes){ (const uint8_t *)"\0\3", 2 }))
INCOMING_LIE(info_empty_name_is_nothing, BREAKS(R(info_empty_name_default), R(baseline_info_go)),
             "takes the empty name in NBD_OPT_INFO for an export that does not exist",
             has_name_of(m, 0, 0) && m->option.option == NBD_OPT_INFO,
             replace_data(m, BYTES_OF("nothing"), (struct bytes){ NULL, 0 }))

/* ---- names ---- */

/* nbdkit faf614e3 */
INCOMING_LIE(info_name_of_4096_refused, BREAKS(R(info_unknown_export)), "refuses a name of 4096 bytes as invalid",
             has_name_of(m, NBD_MAX_STRING, NBD_MAX_STRING), make_invalid(m))
/* CVE-2017-15118 (qemu): names went into 256 bytes on the stack. */
INCOMING_LIE(info_name_of_3000_dies, BREAKS(R(info_unknown_export)), "dies of a name of 3000 bytes",
             has_name_of(m, 3000, 4000), abort())
/* CVE-2020-10761 (qemu): the text of the error had no room for the name. */
INCOMING_LIE(info_longest_name_dies, BREAKS(R(info_unknown_export)), "dies of an unknown name of 4096 bytes",
             has_name_of(m, NBD_MAX_STRING, NBD_MAX_STRING), abort())
INCOMING_LIE(info_too_long_name_dies, BREAKS(R(greeting_magic), R(handshake_no_hard_disconnect)),
             "dies of a name of more than 4096 bytes", has_name_of(m, NBD_MAX_STRING + 1, SIZE_MAX), abort())

static bool
has_nul(const struct incoming *m)
{
	struct opt_go go;

	return is_go(m) && parse(m, &go) == WIRE_EXACT && go.name.len > 0 && memchr(go.name.at, 0, go.name.len) != NULL;
}

static void
end_name_at_nul(struct incoming *m)
{
	struct opt_go go;

	parse(m, &go);
	go.name.len = strlen((const char *)go.name.at);
	replace_data(m, go.name, go.infos);
}

/* nbdkit 1913af3f */
INCOMING_LIE(info_name_ends_at_nul, BREAKS(R(info_unknown_export)), "takes the name in front of a NUL for the name",
             has_nul(m), end_name_at_nul(m))
/* tokio-nbd #7 */
INCOMING_LIE(info_name_length_in_8_bits, BREAKS(R(info_unknown_export)),
             "takes the low byte for the length of the name", has_name_of(m, 256, SIZE_MAX), make_invalid(m))

/* ---- lengths that disagree ---- */

static bool
is_malformed(const struct incoming *m)
{
	struct opt_go go;

	return is_go(m) && parse(m, &go) != WIRE_EXACT;
}

static bool
has_rest(const struct incoming *m)
{
	struct opt_go go;

	return is_go(m) && parse(m, &go) == WIRE_EXTRA;
}

static bool
wants_name_of(const struct incoming *m, uint32_t from)
{
	struct opt_go go;

	return is_malformed(m) && parse(m, &go) == WIRE_SHORT && go.name_length >= from;
}

static void
serve_default(struct incoming *m)
{
	replace_data(m, (struct bytes){ NULL, 0 }, (struct bytes){ (const uint8_t *)"\0\3", 2 });
}

INCOMING_LIE(info_malformed_served, BREAKS(R(option_malformed_invalid)),
             "serves the default export where the lengths in a request disagree", is_malformed(m), serve_default(m))
INCOMING_LIE(info_rest_ignored, BREAKS(R(option_malformed_invalid)),
             "ignores what stands behind the information requests", has_rest(m), serve_default(m))
INCOMING_LIE(info_malformed_unanswered, BREAKS(R(option_gets_reply)),
             "says nothing where the lengths in a request disagree", is_malformed(m), m->ignore = true)
INCOMING_LIE(info_malformed_dies, BREAKS(R(greeting_magic), R(handshake_no_hard_disconnect)),
             "dies where the lengths in a request disagree", is_malformed(m), abort())
/* CVE-2022-26496: a message of more than 1024 bytes ran over the stack. */
INCOMING_LIE(info_long_malformed_dies, BREAKS(R(greeting_magic), R(handshake_no_hard_disconnect)),
             "dies where the lengths in a request of more than 1024 bytes disagree",
             is_malformed(m) && m->option.length > 1024, abort())
/* CVE-2022-26495: the name of 4 GiB was read into a buffer of no bytes. */
INCOMING_LIE(info_name_read_as_announced, BREAKS(R(option_gets_reply)),
             "waits for a name as long as its length says, behind the end of the option too",
             wants_name_of(m, 0x70000000), m->ignore = true;
             m->consumed = UINT32_MAX)
/* nbd-server 3.24: NBD_REP_ERR_INVALID, and then the data is read as if nothing had been wrong. */
INCOMING_LIE(info_malformed_read_twice, BREAKS(R(option_data_consumed)),
             "takes the name of a request that it refuses off the stream once more", wants_name_of(m, 1),
             m->consumed += 4)
OUTGOING_LIE(info_malformed_is_unknown, BREAKS(R(option_malformed_invalid)),
             "answers NBD_REP_ERR_UNKNOWN where the lengths in a request disagree",
             answers_go(m) && m->reply.type == NBD_REP_ERR_INVALID, m->reply.type = NBD_REP_ERR_UNKNOWN)
