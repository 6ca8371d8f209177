/* Lies about the first words: the greeting, what follows it unasked, and how the server bears clients that leave. */
#include "fakeserver/lie.h"
#include "harness/nbd.h"

static const uint8_t zeroes[NBD_EXPORT_NAME_PADDING], zeroes_and_one[NBD_EXPORT_NAME_PADDING] = { [123] = 1 };

#define GREETING_LIE(ident, breaks, text, edit)                                                                        \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_GREETING && LIE_NOW) {                                                              \
			edit;                                                                                          \
		}                                                                                                      \
	}

/* ---- fields ---- */

GREETING_LIE(greeting_magic_off_by_one, BREAKS(R(greeting_magic)), "NBDMAGIC is one too large", m->greeting.magic++)
GREETING_LIE(greeting_magic_zero, BREAKS(R(greeting_magic)), "zeroes instead of NBDMAGIC", m->greeting.magic = 0)
GREETING_LIE(greeting_magic_ones, BREAKS(R(greeting_magic)), "all ones instead of NBDMAGIC",
             m->greeting.magic = UINT64_MAX)
GREETING_LIE(greeting_swapped, BREAKS(R(numbers_big_endian)), "the greeting in little-endian byte order",
             m->swap = true)
GREETING_LIE(greeting_flags_swapped, BREAKS(R(numbers_big_endian), R(no_other_handshake_flags)),
             "the handshake flags in little-endian byte order",
             m->greeting.flags = __builtin_bswap16(m->greeting.flags))
GREETING_LIE(greeting_option_magic_off_by_one, BREAKS(R(newstyle_magic)), "IHAVEOPT is one too large",
             m->greeting.option_magic++)
GREETING_LIE(greeting_option_magic_zero, BREAKS(R(newstyle_magic)), "zeroes instead of IHAVEOPT",
             m->greeting.option_magic = 0)
GREETING_LIE(greeting_option_magic_ones, BREAKS(R(newstyle_magic)), "all ones instead of IHAVEOPT",
             m->greeting.option_magic = UINT64_MAX)
GREETING_LIE(greeting_magics_reversed, BREAKS(R(greeting_magic)), "IHAVEOPT comes before NBDMAGIC",
             m->greeting.magic = NBD_OPTION_MAGIC;
             m->greeting.option_magic = NBD_MAGIC)
GREETING_LIE(greeting_newstyle_under_oldstyle_magic, BREAKS(R(oldstyle_greeting_layout)),
             "the oldstyle magic, and then the flags of newstyle", m->greeting.option_magic = NBD_CLISERV_MAGIC)
GREETING_LIE(greeting_flags_off_by_one, BREAKS(R(no_other_handshake_flags)), "the handshake flags are one too large",
             m->greeting.flags++)
GREETING_LIE(greeting_flags_ones, BREAKS(R(no_other_handshake_flags)), "all 16 handshake flags are set",
             m->greeting.flags = UINT16_MAX)
GREETING_LIE(greeting_flags_highest, BREAKS(R(no_other_handshake_flags)),
             "the most significant handshake flag, kept for a second flags field (proto.md:172), is set",
             m->greeting.flags |= 0x8000)

/* The flags are cleared on the wire only: what they stand for is served all the same, to whoever asks. */
GREETING_LIE(greeting_flags_zero, BREAKS(R(fixed_newstyle_flag_set), R(unoffered_client_flag_close)),
             "no handshake flag is set, but other options than EXPORT_NAME are replied to", m->greeting.flags = 0;
             fake_config_of(c->server)->knob[KNOB_fixed_newstyle_unasked] = true)
GREETING_LIE(greeting_hides_no_zeroes, BREAKS(R(unoffered_client_flag_close)),
             "NBD_FLAG_C_NO_ZEROES is accepted although it was not offered",
             m->greeting.flags &= (uint16_t)~NBD_FLAG_NO_ZEROES)
GREETING_LIE(greeting_hides_fixed_newstyle, BREAKS(R(unoffered_client_flag_close)),
             "NBD_FLAG_C_FIXED_NEWSTYLE is accepted although it was not offered",
             m->greeting.flags &= (uint16_t)~NBD_FLAG_FIXED_NEWSTYLE)

/* ---- transport ---- */

GREETING_LIE(greeting_dropped, BREAKS(R(greeting_magic)), "there is no greeting: the server waits for the client",
             m->drop = true)
GREETING_LIE(greeting_refused, BREAKS(R(greeting_magic)), "the connection is closed instead of a greeting",
             m->drop = true;
             m->after = AFTER_CLOSE)
GREETING_LIE(greeting_reset, BREAKS(R(greeting_magic)), "the connection is reset instead of a greeting", m->drop = true;
             m->after = AFTER_RESET)
GREETING_LIE(greeting_cut_in_first_magic, BREAKS(R(greeting_magic)), "the greeting ends after 7 bytes", m->cut = 7;
             m->after = AFTER_CLOSE)
GREETING_LIE(greeting_cut_after_first_magic, BREAKS(R(newstyle_magic)), "the greeting ends after 8 bytes", m->cut = 8)
GREETING_LIE(greeting_cut_in_second_magic, BREAKS(R(newstyle_magic)), "the greeting ends after 15 bytes", m->cut = 15;
             m->after = AFTER_CLOSE)
GREETING_LIE(greeting_cut_before_flags, BREAKS(R(handshake_flags_sent)), "the greeting has no handshake flags",
             m->cut = 16)
GREETING_LIE(greeting_cut_in_flags, BREAKS(R(handshake_flags_sent)), "the handshake flags have 8 bits", m->cut = 17)
GREETING_LIE(greeting_repeated, BREAKS(R(handshake_flags_sent)), "the greeting comes twice", m->repeat = 1)
GREETING_LIE(greeting_flags_too_wide, BREAKS(R(handshake_flags_sent)), "the handshake flags have 32 bits",
             m->extra = BYTES_OF("\0\0"))
GREETING_LIE(greeting_has_zeroes, BREAKS(R(handshake_flags_sent)), "the 124 zeroes of oldstyle follow the greeting",
             m->extra = ((struct bytes){ zeroes, sizeof(zeroes) }))

/* ---- oldstyle ---- */

/* The honest newstyle greeting turns into an oldstyle one, for the lies below. */
static void
become_oldstyle(struct conn *c, struct outgoing *m)
{
	c->export = &fake_config_of(c->server)->exports[0];
	c->flags = c->export->flags & (uint16_t)~NBD_FLAG_SEND_DF;
	c->phase = PHASE_TRANSMISSION;
	m->kind = MSG_OLDSTYLE_GREETING;
	m->oldstyle = (struct oldstyle_greeting){
		NBD_MAGIC, NBD_CLISERV_MAGIC, c->export->size, c->flags, { zeroes, sizeof(zeroes) }
	};
}

#define OLDSTYLE_LIE(ident, breaks, text, edit) GREETING_LIE(ident, breaks, text, become_oldstyle(c, m); edit)

OLDSTYLE_LIE(oldstyle_size_too_large, BREAKS(R(oldstyle_greeting_layout)),
             "the size in an oldstyle greeting is 4096 bytes too large", m->oldstyle.size += 4096)
OLDSTYLE_LIE(oldstyle_size_ones, BREAKS(R(oldstyle_greeting_layout)), "the size in an oldstyle greeting is all ones",
             m->oldstyle.size = UINT64_MAX)
OLDSTYLE_LIE(oldstyle_size_swapped, BREAKS(R(oldstyle_greeting_layout)),
             "the size in an oldstyle greeting is in little-endian byte order",
             m->oldstyle.size = __builtin_bswap64(m->oldstyle.size))
OLDSTYLE_LIE(oldstyle_handshake_flags, BREAKS(R(oldstyle_no_handshake_flags)),
             "an oldstyle greeting has the handshake flags in its upper 16 bits",
             m->oldstyle.flags |= (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES) << 16)
OLDSTYLE_LIE(oldstyle_flags_ones, BREAKS(R(oldstyle_no_handshake_flags)),
             "all 32 flags of an oldstyle greeting are set", m->oldstyle.flags = UINT32_MAX)
OLDSTYLE_LIE(oldstyle_flags_swapped, BREAKS(R(oldstyle_no_handshake_flags)),
             "the flags of an oldstyle greeting are in little-endian byte order",
             m->oldstyle.flags = __builtin_bswap32(m->oldstyle.flags))
OLDSTYLE_LIE(oldstyle_reserved_not_zero, BREAKS(R(oldstyle_greeting_layout)),
             "the last reserved byte of an oldstyle greeting is one", m->oldstyle.reserved.at = zeroes_and_one)
OLDSTYLE_LIE(oldstyle_no_reserved, BREAKS(R(oldstyle_greeting_layout)), "an oldstyle greeting ends with its flags",
             m->oldstyle.reserved.len = 0)
OLDSTYLE_LIE(oldstyle_one_zero_less, BREAKS(R(oldstyle_greeting_layout)), "an oldstyle greeting has 151 bytes",
             m->cut = 151)
OLDSTYLE_LIE(oldstyle_one_zero_more, BREAKS(R(oldstyle_enters_transmission)), "an oldstyle greeting has 153 bytes",
             m->extra = BYTES_OF("\0"))
OLDSTYLE_LIE(oldstyle_cut, BREAKS(R(oldstyle_greeting_layout)), "an oldstyle greeting ends within the size",
             m->cut = 20;
             m->after = AFTER_CLOSE)
OLDSTYLE_LIE(oldstyle_waits_for_flags, BREAKS(R(oldstyle_enters_transmission)),
             "behind an oldstyle greeting the server waits for client flags", c->phase = PHASE_CLIENT_FLAGS)
OLDSTYLE_LIE(oldstyle_closes, BREAKS(R(oldstyle_enters_transmission)),
             "behind an oldstyle greeting the server closes the connection", m->after = AFTER_CLOSE)

/* ---- clients that leave ---- */

/*
 * Acted on at the third accept after it: by then the end of the connection has been seen for certain, and a client that
 * leaves is followed by one that stays, so what a case sees does not depend on which process is the faster one.
 */
static bool
somebody_left_early(struct lie_use *l, struct conn *c, const struct process_event *m)
{
	if (m->moment == PROCESS_DISCONNECT && c->phase == PHASE_CLIENT_FLAGS && LIE_NOW && l->arg == 0)
		l->arg = c->number;
	return m->moment == PROCESS_ACCEPT && l->arg > 0 && c->number > l->arg + 2;
}

/* CVE-2017-9524 (qemu): a client connects and closes, and the server crashes. */
LIE(dies_when_client_leaves_at_once, ON_PROCESS, BREAKS(R(greeting_magic), R(handshake_no_hard_disconnect)),
    "a client that leaves before its flags ends the server")
{
	if (somebody_left_early(l, c, m))
		m->stop_listening = m->die = true;
}

/* CVE-2013-7441 (nbd-server): a failed handshake ends the process that listens. */
LIE(serves_nobody_after_client_left, ON_PROCESS, BREAKS(R(greeting_magic)),
    "once a client has left before its flags, every other is closed at once")
{
	if (somebody_left_early(l, c, m))
		m->refuse = true;
}

/* CVE-2015-0847 (nbd-server): connecting and disconnecting often enough ends in a deadlock. */
LIE(tires_of_clients, ON_PROCESS, BREAKS(R(greeting_magic)), "from the 40th connection on each is closed at once")
{
	if (m->moment == PROCESS_ACCEPT && c->number >= 40 && LIE_NOW)
		m->refuse = true;
}

LIE(refuses_next_client, ON_PROCESS, BREAKS(R(greeting_magic)), "every other connection is closed at once")
{
	if (m->moment == PROCESS_ACCEPT && c->number % 2 == 0 && LIE_NOW)
		m->refuse = true;
}

/* ---- client flags ---- */

#define CLIENT_FLAGS_LIE(ident, breaks, text, cond, edit)                                                              \
	LIE(ident, ON_INCOMING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_CLIENT_FLAGS && (cond) && LIE_NOW) {                                                \
			edit;                                                                                          \
		}                                                                                                      \
	}

enum { KNOWN_FLAGS = NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES };

CLIENT_FLAGS_LIE(client_flags_unknown_ignored, BREAKS(R(unknown_client_flags_close)),
                 "unknown client flags are ignored", true, m->client_flags &= KNOWN_FLAGS)
CLIENT_FLAGS_LIE(client_flags_16_bits, BREAKS(R(unknown_client_flags_close)),
                 "only the lower 16 bits of the client flags are looked at", true, m->client_flags &= 0xffff)
CLIENT_FLAGS_LIE(client_flags_bit_2_ignored, BREAKS(R(unknown_client_flags_close)),
                 "one unknown client flag is ignored", true, m->client_flags &= ~UINT32_C(4))
CLIENT_FLAGS_LIE(client_flags_unknown_wait, BREAKS(R(unknown_client_flags_close)),
                 "after unknown client flags the server neither answers nor closes",
                 (m->client_flags & ~(uint32_t)KNOWN_FLAGS) != 0, m->ignore = true;
                 m->consumed = UINT32_MAX)
CLIENT_FLAGS_LIE(client_flags_swapped, BREAKS(R(option_gets_reply), R(handshake_no_hard_disconnect)),
                 "the client flags are read in little-endian byte order", true,
                 m->client_flags = __builtin_bswap32(m->client_flags))
CLIENT_FLAGS_LIE(client_flags_half_read, BREAKS(R(option_gets_reply)),
                 "two of the four bytes of the client flags are read", true, m->consumed = 2)
CLIENT_FLAGS_LIE(client_flags_one_byte_more, BREAKS(R(option_gets_reply)), "five bytes of client flags are read", true,
                 m->consumed = 5)
CLIENT_FLAGS_LIE(client_flags_ignored, BREAKS(R(option_gets_reply)), "what comes first is not taken as client flags",
                 true, m->ignore = true)
CLIENT_FLAGS_LIE(no_zeroes_insisted_on, BREAKS(R(option_gets_reply), R(handshake_no_hard_disconnect)),
                 "a client that does not set NBD_FLAG_C_NO_ZEROES is disconnected",
                 (m->client_flags & NBD_FLAG_C_NO_ZEROES) == 0, m->close = true)
CLIENT_FLAGS_LIE(no_zeroes_unasked, BREAKS(R(handshake_flags_no_unasked_change), R(export_name_zeroes_padding)),
                 "the padding is left out although the client did not set NBD_FLAG_C_NO_ZEROES", true,
                 m->client_flags |= NBD_FLAG_C_NO_ZEROES)
CLIENT_FLAGS_LIE(no_zeroes_forgotten, BREAKS(R(export_name_no_zeroes)),
                 "NBD_FLAG_C_NO_ZEROES is accepted, and the padding is sent", true,
                 m->client_flags &= ~(uint32_t)NBD_FLAG_C_NO_ZEROES)
CLIENT_FLAGS_LIE(
	fixed_newstyle_forgotten, BREAKS(R(baseline_fixed_newstyle), R(option_gets_reply)),
	"fixed newstyle is agreed, and an option other than EXPORT_NAME is answered by the end of the connection", true,
	m->client_flags &= ~(uint32_t)NBD_FLAG_C_FIXED_NEWSTYLE)

/* Whoever does not speak fixed newstyle cannot ask for TLS (proto.md:551). */
LIE(tls_demanded_in_newstyle, ON_OUTGOING, BREAKS(R(notls_without_fixed_newstyle)),
    "options get NBD_REP_ERR_TLS_REQD although NBD_FLAG_C_FIXED_NEWSTYLE is not set")
{
	if (m->kind == MSG_GREETING && LIE_NOW)
		fake_config_of(c->server)->knob[KNOB_fixed_newstyle_unasked] = true;
	if (m->kind == MSG_OPTION_REPLY && m->final && m->option != NBD_OPT_STARTTLS && LIE_NOW)
		m->reply.type = NBD_REP_ERR_TLS_REQD;
}

LIE(starttls_in_newstyle, ON_OUTGOING, BREAKS(R(notls_without_fixed_newstyle)),
    "NBD_OPT_STARTTLS gets NBD_REP_ACK although NBD_FLAG_C_FIXED_NEWSTYLE is not set")
{
	if (m->kind == MSG_GREETING && LIE_NOW)
		fake_config_of(c->server)->knob[KNOB_fixed_newstyle_unasked] = true;
	if (m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_STARTTLS && LIE_NOW)
		m->reply.type = NBD_REP_ACK;
}
