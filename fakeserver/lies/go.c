/* Lies about NBD_OPT_GO: how it differs from the NBD_OPT_INFO before it, and what is served after it. */
#include "fakeserver/lie.h"

#include "harness/nbd.h"

#include <stdlib.h>
#include <string.h>

static bool
is_reply(const struct outgoing *m, uint32_t option, uint32_t type)
{
	return m->kind == MSG_OPTION_REPLY && m->option == option && m->reply.type == type;
}

static bool
is_go_info(const struct outgoing *m, uint16_t type)
{
	return is_reply(m, NBD_OPT_GO, NBD_REP_INFO) && m->info.type == type;
}

static const uint8_t zeroes[NBD_EXPORT_NAME_PADDING];

/* ---- the way into transmission ---- */

OUTGOING_LIE(go_padded, BREAKS(R(go_no_padding)), "sends 124 zeroes behind the ACK to NBD_OPT_GO",
             is_reply(m, NBD_OPT_GO, NBD_REP_ACK), m->extra = ((struct bytes){ zeroes, sizeof(zeroes) }))
OUTGOING_LIE(go_padded_unless_no_zeroes, BREAKS(R(go_no_padding)),
             "sends 124 zeroes behind the ACK to NBD_OPT_GO where NO_ZEROES was not agreed",
             is_reply(m, NBD_OPT_GO, NBD_REP_ACK) && !c->no_zeroes,
             m->extra = ((struct bytes){ zeroes, sizeof(zeroes) }))
OUTGOING_LIE(go_padded_by_4, BREAKS(R(go_no_padding)), "sends 4 zeroes behind the ACK to NBD_OPT_GO",
             is_reply(m, NBD_OPT_GO, NBD_REP_ACK), m->extra = ((struct bytes){ zeroes, 4 }))
OUTGOING_LIE(go_ack_twice, BREAKS(R(info_final_reply)), "ends the answer to NBD_OPT_GO twice",
             is_reply(m, NBD_OPT_GO, NBD_REP_ACK), m->repeat = 1)
OUTGOING_LIE(go_ack_missing, BREAKS(R(info_final_reply)), "does not end the answer to NBD_OPT_GO",
             is_reply(m, NBD_OPT_GO, NBD_REP_ACK), m->drop = true)
OUTGOING_LIE(go_ack_with_data, BREAKS(R(rep_ack_empty)), "sends data with the ACK to NBD_OPT_GO",
             is_reply(m, NBD_OPT_GO, NBD_REP_ACK), m->reply.data = BYTES_OF("go"))
OUTGOING_LIE(go_ack_length_plus_1, BREAKS(R(option_reply_length)), "says that the ACK to NBD_OPT_GO has 1 byte of data",
             is_reply(m, NBD_OPT_GO, NBD_REP_ACK), m->length_off = 1)
OUTGOING_LIE(go_ack_cut, BREAKS(R(go_enters_transmission), R(info_final_reply)), "breaks off in the ACK to NBD_OPT_GO",
             is_reply(m, NBD_OPT_GO, NBD_REP_ACK), m->cut = 19;
             m->after = AFTER_CLOSE)
OUTGOING_LIE(go_closes, BREAKS(R(go_enters_transmission), R(info_final_reply)),
             "ends the session instead of the ACK to NBD_OPT_GO", is_reply(m, NBD_OPT_GO, NBD_REP_ACK), m->drop = true;
             m->after = AFTER_CLOSE)
OUTGOING_LIE(go_resets, BREAKS(R(go_enters_transmission), R(info_final_reply)),
             "resets the connection instead of the ACK to NBD_OPT_GO", is_reply(m, NBD_OPT_GO, NBD_REP_ACK),
             m->drop = true;
             m->after = AFTER_RESET)
OUTGOING_LIE(go_ack_closes, BREAKS(R(go_enters_transmission)), "ends the session after the ACK to NBD_OPT_GO",
             is_reply(m, NBD_OPT_GO, NBD_REP_ACK), m->after = AFTER_CLOSE)
OUTGOING_LIE(go_ack_falls_silent, BREAKS(R(go_enters_transmission)), "says nothing more after the ACK to NBD_OPT_GO",
             is_reply(m, NBD_OPT_GO, NBD_REP_ACK), m->after = AFTER_SILENCE)
OUTGOING_LIE(go_echoes_info, BREAKS(R(option_reply_echoes_option)), "answers NBD_OPT_GO as if it had been NBD_OPT_INFO",
             m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_GO, m->reply.option = NBD_OPT_INFO)
OUTGOING_LIE(go_unsup, BREAKS(R(baseline_info_go)), "does not know NBD_OPT_GO",
             m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_GO && m->final, m->reply.type = NBD_REP_ERR_UNSUP;
             m->payload = PAYLOAD_RAW)
OUTGOING_LIE(go_acked_by_info_reply, BREAKS(R(info_final_reply), R(info_reply_layout)),
             "ends the answer to NBD_OPT_GO by an empty NBD_REP_INFO", is_reply(m, NBD_OPT_GO, NBD_REP_ACK),
             m->reply.type = NBD_REP_INFO)
OUTGOING_LIE(go_reply_of_meta_context, BREAKS(R(info_go_same_format)),
             "sends NBD_REP_META_CONTEXT in answer to NBD_OPT_GO", is_go_info(m, NBD_INFO_BLOCK_SIZE),
             m->reply.type = NBD_REP_META_CONTEXT)

LIE(go_stays_in_haggling, ON_STATE, BREAKS(R(go_enters_transmission)),
    "acknowledges NBD_OPT_GO and stays in option haggling")
{
	if (m->moment == STATE_AFTER_OPTION && m->option == NBD_OPT_GO && c->phase == PHASE_TRANSMISSION && LIE_NOW)
		c->phase = PHASE_HAGGLING;
}

/* ---- against NBD_OPT_INFO ---- */

#define GO_INFO_LIE(ident, type, text_, ...)                                                                           \
	OUTGOING_LIE(ident, BREAKS(R(info_then_go_same)), text_, is_go_info(m, type), __VA_ARGS__)

GO_INFO_LIE(go_size_differs, NBD_INFO_EXPORT, "tells a size by NBD_OPT_GO that is smaller than that by NBD_OPT_INFO",
            m->info_export.size -= 512)
GO_INFO_LIE(go_flags_differ, NBD_INFO_EXPORT, "advertises NBD_FLAG_ROTATIONAL by NBD_OPT_GO only",
            m->info_export.flags |= NBD_FLAG_ROTATIONAL)
GO_INFO_LIE(go_name_differs, NBD_INFO_NAME, "sends another name by NBD_OPT_GO than by NBD_OPT_INFO",
            m->info.payload = BYTES_OF("other"))
GO_INFO_LIE(go_description_differs, NBD_INFO_DESCRIPTION,
            "sends another description by NBD_OPT_GO than by NBD_OPT_INFO",
            m->info.payload.len -= m->info.payload.len > 0)
GO_INFO_LIE(go_minimum_differs, NBD_INFO_BLOCK_SIZE,
            "tells another minimum block size by NBD_OPT_GO than by NBD_OPT_INFO", m->block_size.minimum = 2)
GO_INFO_LIE(go_preferred_differs, NBD_INFO_BLOCK_SIZE,
            "tells another preferred block size by NBD_OPT_GO than by NBD_OPT_INFO", m->block_size.preferred *= 2)
GO_INFO_LIE(go_maximum_differs, NBD_INFO_BLOCK_SIZE,
            "tells another maximum payload size by NBD_OPT_GO than by NBD_OPT_INFO", m->block_size.maximum *= 2)
GO_INFO_LIE(go_omits_name, NBD_INFO_NAME, "sends NBD_INFO_NAME by NBD_OPT_INFO only", m->drop = true)
GO_INFO_LIE(go_omits_description, NBD_INFO_DESCRIPTION, "sends NBD_INFO_DESCRIPTION by NBD_OPT_INFO only",
            m->drop = true)
GO_INFO_LIE(go_omits_block_size, NBD_INFO_BLOCK_SIZE, "sends NBD_INFO_BLOCK_SIZE by NBD_OPT_INFO only", m->drop = true)
GO_INFO_LIE(go_block_size_of_unknown_type, NBD_INFO_BLOCK_SIZE,
            "sends the block sizes by NBD_OPT_GO under another type", m->info.type = 0x103)

OUTGOING_LIE(go_size_0, BREAKS(R(info_export_same_as_export_name), R(info_then_go_same)),
             "tells by NBD_OPT_GO that the export is empty", is_go_info(m, NBD_INFO_EXPORT), m->info_export.size = 0)

/* ---- what came before ---- */

/*
 * These lies remember, for one connection: the number in the low half of .arg, what came in the high half. Two sessions
 * that take turns are more than they can keep apart.
 */
enum memory { SAW_NOTHING, SAW_INFO, SAW_REFUSAL };

static void
remember(struct lie_use *l, const struct conn *c, enum memory what)
{
	l->arg = (uint64_t)what << 32 | c->number;
}

static enum memory
remembered(const struct lie_use *l, const struct conn *c)
{
	return (uint32_t)l->arg == c->number ? (enum memory)(l->arg >> 32) : SAW_NOTHING;
}

LIE(go_wants_info_first, ON_OUTGOING, BREAKS(R(go_without_info_taken)),
    "refuses NBD_OPT_GO without NBD_OPT_INFO before it")
{
	if (is_reply(m, NBD_OPT_INFO, NBD_REP_ACK))
		remember(l, c, SAW_INFO);
	if (is_reply(m, NBD_OPT_GO, NBD_REP_ACK) && remembered(l, c) != SAW_INFO && LIE_NOW)
		m->reply.type = NBD_REP_ERR_INVALID;
}

/* nbdkit 2f80ce12: the export that could not be opened was taken to be open still. */
LIE(go_after_refusal_fails, ON_OUTGOING, BREAKS(R(baseline_info_go)),
    "refuses NBD_OPT_GO after an option that it has refused")
{
	if (m->kind == MSG_OPTION_REPLY && m->reply.type == NBD_REP_ERR_UNKNOWN)
		remember(l, c, SAW_REFUSAL);
	if (is_reply(m, NBD_OPT_GO, NBD_REP_ACK) && remembered(l, c) == SAW_REFUSAL && LIE_NOW)
		m->reply.type = NBD_REP_ERR_INVALID;
}

/* CVE-2019-14851 (nbdkit) */
LIE(go_after_info_dies, ON_INCOMING, BREAKS(R(go_enters_transmission), R(info_then_go_same)),
    "dies of NBD_OPT_GO behind NBD_OPT_INFO")
{
	if (m->kind == MSG_OPTION && m->option.option == NBD_OPT_INFO)
		remember(l, c, SAW_INFO);
	if (m->kind == MSG_OPTION && m->option.option == NBD_OPT_GO && remembered(l, c) == SAW_INFO && LIE_NOW)
		abort();
}

static struct bytes
copy_data(struct incoming *m)
{
	static struct buf data;

	buf_clear(&data);
	put_bytes(&data, m->option.data);
	return (struct bytes){ data.at, data.len };
}

/* nbdkit f1ffde56 */
LIE(info_remembers_first_name, ON_INCOMING, BREAKS(R(info_export_same_as_export_name), R(info_unknown_export)),
    "takes every NBD_OPT_INFO and NBD_OPT_GO of a session for the export that the first one named")
{
	static struct bytes first;

	if (m->kind != MSG_OPTION || (m->option.option != NBD_OPT_INFO && m->option.option != NBD_OPT_GO))
		return;
	if (remembered(l, c) != SAW_INFO) {
		remember(l, c, SAW_INFO);
		first = copy_data(m);
	} else if (LIE_NOW) {
		m->option.data = first;
	}
}

/* go-nbd */
LIE(go_serves_what_info_named, ON_INCOMING, BREAKS(R(info_unknown_export), R(info_export_same_as_export_name)),
    "serves by NBD_OPT_GO the export that the last NBD_OPT_INFO named")
{
	static struct bytes last;

	if (m->kind == MSG_OPTION && m->option.option == NBD_OPT_INFO) {
		remember(l, c, SAW_INFO);
		last = copy_data(m);
	}
	if (m->kind == MSG_OPTION && m->option.option == NBD_OPT_GO && remembered(l, c) == SAW_INFO && LIE_NOW)
		m->option.data = last;
}

/* ---- which export ---- */

LIE(go_serves_first_export, ON_STATE, BREAKS(R(go_enters_transmission)),
    "serves its first export, whichever NBD_OPT_GO named")
{
	struct fake_export *first = &fake_config_of(c->server)->exports[0];

	if (m->moment == STATE_ENTER_TRANSMISSION && m->option == NBD_OPT_GO && c->export != first && LIE_NOW)
		c->export = first;
}

OUTGOING_LIE(go_tells_first_export, BREAKS(R(info_export_same_as_export_name)),
             "tells by NBD_OPT_GO of its first export, whichever was named",
             is_go_info(m, NBD_INFO_EXPORT) && c->named != NULL,
             m->info_export.size = fake_config_of(c->server)->exports[0].size)

LIE(go_session_ends_server, ON_PROCESS, BREAKS(R(go_enters_transmission), R(greeting_magic)),
    "dies when a session that was in transmission ends")
{
	if (m->moment == PROCESS_DISCONNECT && c != NULL && c->export != NULL && LIE_NOW)
		m->stop_listening = m->die = true;
}
