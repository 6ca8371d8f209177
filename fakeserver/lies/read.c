/* Lies about NBD_CMD_READ with simple replies. */
#include "fakeserver/lies/advertise.h"

static const uint8_t zeroes[65536];

/* A READ that was carried out. */
#define DATA_LIE(ident, breaks, text, edit)                                                                            \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (replies_to(m, NBD_CMD_READ) && m->simple.error == NBD_SUCCESS && m->simple.data.len > 0 &&         \
		    LIE_NOW) {                                                                                         \
			edit;                                                                                          \
		}                                                                                                      \
	}
#define READ_LIE(ident, breaks, text, condition, edit)                                                                 \
	LIE(ident, ON_DISK, breaks, text)                                                                              \
	{                                                                                                              \
		if (m->type == NBD_CMD_READ && (condition) && LIE_NOW) {                                               \
			edit;                                                                                          \
		}                                                                                                      \
	}

static bool
is_past_end(const struct conn *c, const struct disk_op *m)
{
	return m->offset > c->export->size || m->length > c->export->size - m->offset;
}

/* ---- the payload ---- */

DATA_LIE(read_one_byte_short, BREAKS(R(simple_reply_read_payload), R(read_returns_data)),
         "READ returns one byte less than it was asked for", m->simple.data.len--)
DATA_LIE(read_one_byte_more, BREAKS(R(simple_reply_read_payload)), "READ returns one byte more than it was asked for",
         m->extra = BYTES_OF("\0"))
DATA_LIE(read_block_more, BREAKS(R(simple_reply_read_payload)), "READ returns 512 bytes more than it was asked for",
         m->extra = ((struct bytes){ zeroes, 512 }))
DATA_LIE(read_without_payload, BREAKS(R(simple_reply_read_payload), R(read_returns_data)),
         "READ succeeds and returns no data", m->simple.data.len = 0)
DATA_LIE(read_rounded_up, BREAKS(R(simple_reply_read_payload)), "READ returns whole sectors, whatever it was asked for",
         m->extra = ((struct bytes){ zeroes, (512 - m->simple.data.len % 512) % 512 }))
DATA_LIE(read_at_most_64k, BREAKS(R(simple_reply_read_payload), R(read_returns_data)), "READ returns 64 KiB at most",
         if (m->simple.data.len > 65536) m->simple.data.len = 65536)
DATA_LIE(read_payload_cut, BREAKS(R(simple_reply_read_payload), R(read_returns_data)),
         "the connection ends in the middle of READ's data", m->cut = SIMPLE_REPLY_SIZE + m->simple.data.len / 2;
         m->after = AFTER_CLOSE)
DATA_LIE(read_payload_reset, BREAKS(R(simple_reply_read_payload), R(read_returns_data)),
         "the connection is reset after the head of READ's reply", m->cut = SIMPLE_REPLY_SIZE;
         m->after = AFTER_RESET)
DATA_LIE(read_payload_stalls, BREAKS(R(simple_reply_read_payload), R(read_returns_data)),
         "READ's data stops, in silence, before its last byte", m->cut = SIMPLE_REPLY_SIZE + m->simple.data.len - 1;
         m->after = AFTER_SILENCE)
DATA_LIE(read_zeroes, BREAKS(R(read_returns_data), R(write_stored)), "READ returns zeroes",
         if (m->simple.data.len <= sizeof(zeroes)) m->simple.data.at = zeroes)
DATA_LIE(read_eio, BREAKS(R(read_returns_data), R(baseline_read_write)), "READ always fails with NBD_EIO",
         m->simple.error = NBD_EIO;
         m->simple.data.len = 0)

/* ---- what is read ---- */

LIE(read_never_goes_back, ON_DISK, BREAKS(R(read_returns_data)),
    "a READ before the last one gets the data from there: the file is only ever read onwards")
{
	static uint64_t last;

	if (m->type != NBD_CMD_READ || m->skip)
		return;
	if (m->offset < last && last + m->length <= c->export->size && LIE_NOW)
		m->offset = last;
	else
		last = m->offset;
}

READ_LIE(read_offset_off_by_one, BREAKS(R(read_returns_data)), "READ begins one byte late", true, m->offset++)
READ_LIE(read_offset_zero, BREAKS(R(read_returns_data)), "READ always begins at offset 0", true, m->offset = 0)
READ_LIE(read_offset_swapped, BREAKS(R(read_returns_data)), "READ's offset is taken in the other byte order", true,
         m->offset = __builtin_bswap64(m->offset))
READ_LIE(read_offset_in_sectors, BREAKS(R(read_returns_data)), "READ begins at the sector that its offset is in", true,
         m->offset &= ~(uint64_t)511)
READ_LIE(read_offset_24_bits, BREAKS(R(read_returns_data)), "READ loses the high bits of its offset", true,
         m->offset &= 0xffffff)
READ_LIE(read_only_first_mebibyte, BREAKS(R(read_returns_data), R(write_stored)),
         "behind the first mebibyte READ finds zeroes", m->offset >= 1 << 20, m->skip = true)

/* ---- length 0 ---- */

/* nbd-server 8d0ba31 */
LIE(read_zero_unanswered, ON_OUTGOING, BREAKS(R(read_reply_simple)), "a READ of length 0 gets no reply")
{
	if (replies_to(m, NBD_CMD_READ) && m->request->length == 0 && LIE_NOW)
		m->drop = true;
}

LIE(read_zero_closes, ON_OUTGOING, BREAKS(R(read_zero_no_disconnect)), "a READ of length 0 ends the connection")
{
	if (replies_to(m, NBD_CMD_READ) && m->request->length == 0 && LIE_NOW) {
		m->drop = true;
		m->after = AFTER_CLOSE;
	}
}

LIE(read_zero_returns_sector, ON_OUTGOING, BREAKS(R(simple_reply_read_payload)), "a READ of length 0 returns 512 bytes")
{
	if (replies_to(m, NBD_CMD_READ) && m->request->length == 0 && LIE_NOW)
		m->extra = (struct bytes){ zeroes, 512 };
}

/* ---- beyond the export ---- */

READ_LIE(read_past_end_zeroes, BREAKS(R(read_past_end_einval), R(unaligned_or_past_end_einval), R(read_error_code)),
         "READ past the end returns zeroes", is_past_end(c, m), m->error = NBD_SUCCESS)
READ_LIE(read_past_end_shortened, BREAKS(R(each_request_one_reply), R(read_error_code)),
         "READ past the end succeeds with the bytes that there are", is_past_end(c, m), m->error = NBD_SUCCESS;
         m->skip = true; m->length = 0)
READ_LIE(read_past_end_eio, BREAKS(R(read_past_end_einval), R(unaligned_or_past_end_einval)),
         "READ past the end gets NBD_EIO", is_past_end(c, m), m->error = NBD_EIO)
READ_LIE(read_past_end_enospc, BREAKS(R(read_past_end_einval), R(unaligned_or_past_end_einval)),
         "READ past the end gets NBD_ENOSPC, as a WRITE does", is_past_end(c, m), m->error = NBD_ENOSPC)
READ_LIE(read_end_off_by_one, BREAKS(R(read_past_end_einval)), "one byte, or block, past the end can be read",
         is_past_end(c, m) && m->offset < c->export->size && m->offset + m->length - 1 == c->export->size,
         m->error = NBD_SUCCESS)
READ_LIE(read_last_byte_refused, BREAKS(R(read_returns_data)), "the last byte of the export cannot be read",
         m->error == NBD_SUCCESS && m->offset + m->length == c->export->size, m->error = NBD_EINVAL;
         m->skip = true)

/* nbd-server 6d9223e: offset plus length wraps around. */
READ_LIE(read_range_wraps, BREAKS(R(unaligned_or_past_end_einval)),
         "a READ whose offset plus length exceeds 64 bits is served", m->offset + m->length < m->offset,
         m->error = NBD_SUCCESS)
READ_LIE(read_offset_signed, BREAKS(R(unaligned_or_past_end_einval)),
         "an offset of 2^63 or more is taken for a negative one, and served", (int64_t)m->offset < 0,
         m->error = NBD_SUCCESS)

/* gonbdserver: the error, and the payload all the same. */
LIE(read_error_has_payload, ON_OUTGOING, BREAKS(R(read_error_no_payload), R(simple_reply_no_payload_on_error)),
    "a READ that fails returns an error and, behind it, as many bytes as it asked for")
{
	if (replies_to(m, NBD_CMD_READ) && m->simple.error != NBD_SUCCESS && LIE_NOW)
		m->extra = (struct bytes){ zeroes,
			                   m->request->length < sizeof(zeroes) ? m->request->length : sizeof(zeroes) };
}

LIE(read_error_closes, ON_OUTGOING,
    BREAKS(R(read_error_code), R(read_past_end_einval), R(unaligned_or_past_end_einval)),
    "a READ that fails gets no error, but a closed connection")
{
	if (replies_to(m, NBD_CMD_READ) && m->simple.error != NBD_SUCCESS && LIE_NOW) {
		m->drop = true;
		m->after = AFTER_CLOSE;
	}
}

/* ---- sizes ---- */

READ_LIE(read_needs_sectors, BREAKS(R(default_min_block), R(read_returns_data)),
         "a READ that is not in whole sectors is refused",
         m->error == NBD_SUCCESS && ((m->offset | m->length) & 511) != 0, m->error = NBD_EINVAL;
         m->skip = true)
READ_LIE(read_at_most_16m, BREAKS(R(default_max_payload), R(read_returns_data)),
         "a READ of more than 16 MiB is refused", m->error == NBD_SUCCESS && m->length > 16 << 20,
         m->error = NBD_EINVAL;
         m->skip = true)

TOLD_BLOCKS_LIE(read_above_maximum_served, BREAKS(R(read_simple_oversize_fails)),
                "advertises a maximum payload size of 64 KiB, and serves longer READs", 1, 65536, false, )

#define IS_UNALIGNED (replies_to(m, NBD_CMD_READ) && ((m->request->offset | m->request->length) & 4095) != 0)

TOLD_BLOCKS_LIE(unaligned_read_served, BREAKS(R(unaligned_einval)),
                "advertises a minimum block size of 4096, and serves requests that are not aligned to it", 4096,
                NBD_DEFAULT_MAX_PAYLOAD, false, )
TOLD_BLOCKS_LIE(unaligned_read_error_has_payload, BREAKS(R(read_error_no_payload)),
                "advertises a minimum block size of 4096; a READ that is not aligned to it gets an error, and the data",
                4096, NBD_DEFAULT_MAX_PAYLOAD, IS_UNALIGNED, m->simple.error = NBD_EINVAL)
TOLD_BLOCKS_LIE(unaligned_read_rounded, BREAKS(R(each_request_one_reply)),
                "advertises a minimum block size of 4096; a READ that is not aligned to it returns whole blocks only",
                4096, NBD_DEFAULT_MAX_PAYLOAD, IS_UNALIGNED, m->simple.data.len &= ~(size_t)4095)
