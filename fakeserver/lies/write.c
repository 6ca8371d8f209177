/* Lies about NBD_CMD_WRITE. */
#include "fakeserver/lies/advertise.h"

#include <string.h>

#define WRITE_LIE(ident, breaks, text, condition, edit)                                                                \
	LIE(ident, ON_DISK, breaks, text)                                                                              \
	{                                                                                                              \
		if (m->type == NBD_CMD_WRITE && (condition) && LIE_NOW) {                                              \
			edit;                                                                                          \
		}                                                                                                      \
	}
#define WRITE_REPLY_LIE(ident, breaks, text, condition, edit)                                                          \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (replies_to(m, NBD_CMD_WRITE) && (condition) && LIE_NOW) {                                          \
			edit;                                                                                          \
		}                                                                                                      \
	}
#define WRITE_INCOMING_LIE(ident, breaks, text, condition, edit)                                                       \
	LIE(ident, ON_INCOMING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_REQUEST && m->request.type == NBD_CMD_WRITE && (condition) && LIE_NOW) {            \
			edit;                                                                                          \
		}                                                                                                      \
	}

static bool
is_past_end(const struct conn *c, uint64_t offset, uint32_t length)
{
	return offset > c->export->size || length > c->export->size - offset;
}

/* ---- what is stored, and where ---- */

WRITE_LIE(write_lost, BREAKS(R(write_stored)), "WRITE succeeds and stores nothing", m->error == NBD_SUCCESS,
          m->skip = true)
WRITE_LIE(write_last_byte_lost, BREAKS(R(write_stored)), "WRITE does not store its last byte",
          m->error == NBD_SUCCESS && m->length > 0, m->length--)
WRITE_LIE(write_offset_off_by_one, BREAKS(R(write_stored)), "WRITE stores its data one byte late",
          m->error == NBD_SUCCESS, m->offset++)
WRITE_LIE(write_offset_zero, BREAKS(R(write_stored)), "WRITE always stores at offset 0", m->error == NBD_SUCCESS,
          m->offset = 0)
WRITE_LIE(write_offset_in_sectors, BREAKS(R(write_stored)), "WRITE begins at the sector that its offset is in",
          m->error == NBD_SUCCESS, m->offset &= ~(uint64_t)511)
WRITE_LIE(write_offset_24_bits, BREAKS(R(write_stored)), "WRITE loses the high bits of its offset",
          m->error == NBD_SUCCESS, m->offset &= 0xffffff)
WRITE_LIE(write_offset_swapped, BREAKS(R(write_stored)), "WRITE's offset is taken in the other byte order",
          m->error == NBD_SUCCESS, m->offset = __builtin_bswap64(m->offset))
WRITE_LIE(write_zeroed, BREAKS(R(write_stored)), "WRITE stores zeroes", m->error == NBD_SUCCESS,
          m->type = NBD_CMD_WRITE_ZEROES)
WRITE_LIE(write_far_lost, BREAKS(R(write_stored)), "WRITE behind the first 32 MiB is lost",
          m->error == NBD_SUCCESS && m->offset >= 32 << 20, m->skip = true)
WRITE_LIE(write_at_the_end_lost, BREAKS(R(write_stored)), "WRITE of the export's last byte is lost",
          m->error == NBD_SUCCESS && m->offset + m->length == c->export->size, m->skip = true)

/* nbd-server 4b78826, 425c9e2; vitastor 9c30df83: what is longer than a buffer lands in the wrong place. */
WRITE_LIE(write_long_misplaced, BREAKS(R(write_stored)), "a WRITE of more than 64 KiB is stored 4096 bytes too early",
          m->error == NBD_SUCCESS && m->length > 65536 && m->offset >= 4096, m->offset -= 4096)
WRITE_LIE(write_long_cut, BREAKS(R(write_stored)), "of a WRITE only the first 16 MiB are stored",
          m->error == NBD_SUCCESS && m->length > 16 << 20, m->length = 16 << 20)

/* Read, modify, write: without the read. */
LIE(write_rounds_out, ON_DISK, BREAKS(R(write_stored)), "WRITE fills up the sectors that it touches with zeroes")
{
	static uint8_t sectors[65536];
	uint32_t head = m->offset % 512, whole = (head + m->length + 511) / 512 * 512;

	if (m->type != NBD_CMD_WRITE || m->error != NBD_SUCCESS || whole > sizeof(sectors) || m->data == NULL ||
	    !LIE_NOW)
		return;
	memset(sectors, 0, sizeof(sectors));
	memcpy(sectors + head, m->data, m->length);
	m->data = sectors;
	m->offset -= head;
	m->length = whole;
}

LIE(write_spills_over, ON_DISK, BREAKS(R(write_stored)), "WRITE alters 16 bytes behind its range too")
{
	static uint8_t longer[65536];

	if (m->type != NBD_CMD_WRITE || m->error != NBD_SUCCESS || m->length + 16 > sizeof(longer) || m->data == NULL ||
	    !LIE_NOW)
		return;
	memcpy(longer, m->data, m->length);
	memset(longer + m->length, 0, 16);
	m->data = longer;
	m->length += 16;
}

/* Two writers to one place: the first one wins. */
LIE(write_older_wins, ON_DISK, BREAKS(R(write_stored)), "a WRITE within the range of the one before is lost")
{
	uint64_t before = l->arg, offset = m->offset;

	if (m->type != NBD_CMD_WRITE || m->error != NBD_SUCCESS)
		return;
	l->arg = m->offset + m->length;
	if (offset < before && m->offset + m->length <= before && LIE_NOW)
		m->skip = true;
}

WRITE_LIE(write_refused, BREAKS(R(write_stored)), "WRITE always fails with NBD_EIO", m->error == NBD_SUCCESS,
          m->error = NBD_EIO;
          m->skip = true)
WRITE_LIE(write_at_most_16m, BREAKS(R(write_stored), R(default_max_payload)), "a WRITE of more than 16 MiB is refused",
          m->error == NBD_SUCCESS && m->length > 16 << 20, m->error = NBD_EINVAL;
          m->skip = true)
WRITE_REPLY_LIE(write_unanswered, BREAKS(R(write_stored), R(each_request_one_reply)), "WRITE gets no reply", true,
                m->drop = true)
WRITE_REPLY_LIE(write_returns_data, BREAKS(R(simple_reply_payload_only_read)),
                "WRITE's reply has its data behind it, as READ's has",
                m->simple.error == NBD_SUCCESS && m->request->data.len == m->request->length,
                m->extra = m->request->data)

/* ---- other clients ---- */

/* nbdkit 0d03698c: each connection has a cache, although CAN_MULTI_CONN is advertised. */
LIE_BY_CHANCE(other_connection_reads_stale, ON_DISK,
              BREAKS(R(multi_conn_shared_cache), R(multi_conn_flush_visible), R(multi_conn_fua_visible)),
              "what one connection has written after another one read it, that one does not see")
{
	if (m->type == NBD_CMD_WRITE && m->error == NBD_SUCCESS && l->arg > 1 && LIE_NOW)
		m->skip = true;
	if (c->number > l->arg)
		l->arg = c->number;
}

LIE(write_forgotten_with_connection, ON_DISK, BREAKS(R(write_stored)),
    "the first READ of every connection finds zeroes")
{
	if (m->type == NBD_CMD_READ && m->error == NBD_SUCCESS && c->number > l->arg && c->number > 1 && LIE_NOW)
		m->skip = true;
	if (c->number > l->arg)
		l->arg = c->number;
}

/* ---- length 0 ---- */

WRITE_REPLY_LIE(write_zero_unanswered, BREAKS(R(simple_reply_required)), "a WRITE of length 0 gets no reply",
                m->request->length == 0, m->drop = true)
WRITE_REPLY_LIE(write_zero_closes, BREAKS(R(write_zero_no_disconnect)), "a WRITE of length 0 ends the connection",
                m->request->length == 0, m->drop = true;
                m->after = AFTER_CLOSE)
WRITE_INCOMING_LIE(write_zero_takes_a_sector, BREAKS(R(request_payload_consumed)),
                   "a WRITE of length 0 is taken to have 512 bytes of data", m->request.length == 0, m->consumed += 512)

/* ---- the payload on the wire ---- */

WRITE_INCOMING_LIE(write_payload_one_byte_short, BREAKS(R(request_payload_consumed)),
                   "the last byte of a WRITE's payload is taken for the next request", m->request.length > 0,
                   m->consumed--)
WRITE_INCOMING_LIE(write_payload_one_byte_more, BREAKS(R(request_payload_consumed)),
                   "one byte more than a WRITE's payload is taken", true, m->consumed++)
WRITE_INCOMING_LIE(write_payload_rounded_up, BREAKS(R(request_payload_consumed)),
                   "a WRITE's payload is taken in whole sectors", m->request.length % 512 != 0,
                   m->consumed += 512 - m->request.length % 512)

/* nbd-server 946a2a6: the payload of a WRITE that is refused stays on the wire. */
WRITE_INCOMING_LIE(write_past_end_unread, BREAKS(R(request_payload_consumed)),
                   "the payload of a WRITE past the end is taken for requests",
                   is_past_end(c, m->request.offset, m->request.length), m->consumed = REQUEST_SIZE)

/* CVE-2022-26495's shape, in transmission: what is announced is believed. */
LIE(huge_write_dies, ON_PROCESS, BREAKS(R(greeting_magic)), "a WRITE that announces 4 GiB aborts the server")
{
	if (m->moment == PROCESS_INCOMING && m->request != NULL && m->request->type == NBD_CMD_WRITE &&
	    m->request->length > 1u << 31 && LIE_NOW)
		m->die = true;
}

/* ---- past the end ---- */

#define PAST_END is_past_end(c, m->offset, m->length)

WRITE_LIE(write_past_end_taken, BREAKS(R(write_past_end_enospc), R(write_error_code)),
          "a WRITE past the end succeeds and stores nothing", PAST_END, m->error = NBD_SUCCESS)
WRITE_LIE(write_past_end_eio, BREAKS(R(write_past_end_enospc)), "a WRITE past the end gets NBD_EIO", PAST_END,
          m->error = NBD_EIO)
WRITE_LIE(write_past_end_eperm, BREAKS(R(write_past_end_enospc)), "a WRITE past the end gets NBD_EPERM", PAST_END,
          m->error = NBD_EPERM)

/* nbd-server 6d9223e */
WRITE_LIE(write_range_wraps, BREAKS(R(write_stored)),
          "a WRITE whose offset plus length exceeds 64 bits is stored at the start", m->offset + m->length < m->offset,
          m->offset = 0;
          m->error = NBD_SUCCESS; m->skip = false)
WRITE_LIE(write_past_end_clamped, BREAKS(R(write_stored)), "a WRITE past the end is stored, shifted, so that it fits",
          PAST_END && m->length <= c->export->size, m->offset = c->export->size - m->length;
          m->skip = false)
WRITE_REPLY_LIE(write_past_end_closes, BREAKS(R(write_past_end_enospc)), "a WRITE past the end ends the connection",
                m->simple.error != NBD_SUCCESS, m->drop = true;
                m->after = AFTER_CLOSE)
WRITE_REPLY_LIE(write_past_end_unanswered, BREAKS(R(each_request_one_reply)), "a WRITE past the end gets no reply",
                m->simple.error != NBD_SUCCESS, m->drop = true)

/* ---- block sizes ---- */

static bool
is_unaligned(const struct request *r)
{
	return ((r->offset | r->length) & 4095) != 0;
}

TOLD_BLOCKS_LIE(unaligned_write_eio, BREAKS(R(unaligned_einval)),
                "a WRITE that is not aligned to the advertised minimum block size gets NBD_EIO", 4096,
                NBD_DEFAULT_MAX_PAYLOAD, replies_to(m, NBD_CMD_WRITE) && is_unaligned(m->request),
                m->simple.error = NBD_EIO)
TOLD_BLOCKS_LIE(unaligned_write_closes, BREAKS(R(unaligned_einval)),
                "a WRITE that is not aligned to the advertised minimum block size ends the connection", 4096,
                NBD_DEFAULT_MAX_PAYLOAD, replies_to(m, NBD_CMD_WRITE) && is_unaligned(m->request), m->drop = true;
                m->after = AFTER_CLOSE)

/* What is enforced from now on is told to who asks for it; the others are let in. */
static void
constrain(struct conn *c)
{
	struct fake_config *config = fake_config_of(c->server);

	config->exports[0].block = (struct info_block_size){ 4096, 4096, NBD_DEFAULT_MAX_PAYLOAD };
	config->knob[KNOB_block_sizes_optional] = true;
}

LIE(unaligned_write_unread, ON_INCOMING, BREAKS(R(request_payload_consumed)),
    "the payload of a WRITE that is not aligned to the minimum block size, 4096 here, is taken for requests")
{
	if (m->kind == MSG_OPTION && LIE_NOW)
		constrain(c);
	if (m->kind == MSG_REQUEST && m->request.type == NBD_CMD_WRITE && is_unaligned(&m->request) && LIE_NOW)
		m->consumed = REQUEST_SIZE;
}

/* The whole block is overwritten, data or not. */
LIE(unaligned_write_corrupts, ON_INCOMING, BREAKS(R(write_stored)),
    "of a WRITE that is not aligned to the minimum block size, 4096 here, what lies around it is lost")
{
	static uint8_t junk[4096];

	if (m->kind == MSG_OPTION && LIE_NOW)
		constrain(c);
	if (m->kind != MSG_REQUEST || m->request.type != NBD_CMD_WRITE || !is_unaligned(&m->request) ||
	    m->request.length > 4096 || !LIE_NOW)
		return;
	m->request.offset &= ~(uint64_t)4095;
	m->request.length = 4096;
	m->request.data = (struct bytes){ junk, 4096 };
}

TOLD_BLOCKS_LIE(write_above_maximum_closes, BREAKS(R(server_takes_32_mebibytes)),
                "advertises a maximum payload size of 1 MiB, and ends the connection of who sends more", 1, 1 << 20,
                replies_to(m, NBD_CMD_WRITE) && m->request->length > 1 << 20, m->drop = true;
                m->after = AFTER_CLOSE)

WRITE_INCOMING_LIE(write_above_maximum_unread, BREAKS(R(request_payload_consumed)),
                   "the payload of a WRITE longer than the maximum payload size is taken for requests",
                   m->request.length > NBD_DEFAULT_MAX_PAYLOAD, m->consumed = REQUEST_SIZE)

/* ---- read-only ---- */

TOLD_FLAGS_LIE(read_only_is_written, BREAKS(R(read_only_errors_writes)),
               "advertises a read-only export, and writes to it", NBD_FLAG_READ_ONLY, 0, false, )
TOLD_FLAGS_LIE(read_only_einval, BREAKS(R(read_only_eperm)), "a WRITE to a read-only export gets NBD_EINVAL",
               NBD_FLAG_READ_ONLY, 0, replies_to(m, NBD_CMD_WRITE), m->simple.error = NBD_EINVAL)
/* nbdkit 1.32 with -o -r: an assertion failed. */
TOLD_FLAGS_LIE(read_only_closes, BREAKS(R(read_only_errors_writes)),
               "a WRITE to a read-only export ends the connection", NBD_FLAG_READ_ONLY, 0, replies_to(m, NBD_CMD_WRITE),
               m->drop = true;
               m->after = AFTER_CLOSE)
TOLD_FLAGS_LIE(read_only_errno, BREAKS(R(error_values_listed)), "a WRITE to a read-only export gets the host's EROFS",
               NBD_FLAG_READ_ONLY, 0, replies_to(m, NBD_CMD_WRITE), m->simple.error = 30)

LIE(read_only_payload_unread, ON_INCOMING, BREAKS(R(request_payload_consumed)),
    "the payload of a WRITE to a read-only export, which this one then is, is taken for requests")
{
	if (m->kind == MSG_OPTION && LIE_NOW)
		fake_config_of(c->server)->exports[0].flags |= NBD_FLAG_READ_ONLY;
	if (m->kind == MSG_REQUEST && m->request.type == NBD_CMD_WRITE && LIE_NOW)
		m->consumed = REQUEST_SIZE;
}
