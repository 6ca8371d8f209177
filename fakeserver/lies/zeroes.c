/* Lies about NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE and NBD_CMD_FLAG_FAST_ZERO. */
#include "fakeserver/lies/effects.h"

#include <errno.h>
#include <string.h>

#define ZEROES_LIE(ident, breaks, text, condition, ...)                                                                \
	EFFECT_LIE(ident, NBD_CMD_WRITE_ZEROES, BREAKS(R(breaks)), text, condition, __VA_ARGS__)
#define ZEROES_ERROR_LIE(ident, breaks, text, condition, ...)                                                          \
	EFFECT_ERROR_LIE(ident, NBD_CMD_WRITE_ZEROES, BREAKS(R(breaks)), text, condition, __VA_ARGS__)
#define ZEROES_REPLY_LIE(ident, breaks, text, condition, ...)                                                          \
	EFFECT_REPLY_LIE(ident, NBD_CMD_WRITE_ZEROES, BREAKS(R(breaks)), text, condition, __VA_ARGS__)
#define ZEROES_INCOMING_LIE(ident, breaks, text, condition, ...)                                                       \
	EFFECT_INCOMING_LIE(ident, NBD_CMD_WRITE_ZEROES, BREAKS(R(breaks)), text, condition, __VA_ARGS__)
#define GROWN_ZEROES_LIE(ident, text, condition, ...)                                                                  \
	GROWN_LIE(ident, NBD_CMD_WRITE_ZEROES, BREAKS(R(zeroes_stored)), text, condition, __VA_ARGS__)

#define HAS(flag) ((m->flags & (flag)) != 0)

/* ---- what is zeroed ---- */

ZEROES_LIE(zeroes_lost, zeroes_stored, "WRITE_ZEROES succeeds and does nothing", true, m->skip = true)
ZEROES_LIE(zeroes_last_byte_kept, zeroes_stored, "WRITE_ZEROES leaves its last byte", m->length > 0, m->length--)
ZEROES_LIE(zeroes_first_byte_kept, zeroes_stored, "WRITE_ZEROES leaves its first byte", m->length > 0, m->offset++;
           m->length--)
ZEROES_LIE(zeroes_one_byte_more, zeroes_stored, "WRITE_ZEROES zeroes the byte behind its range too", true, m->length++)
ZEROES_LIE(zeroes_one_byte_late, zeroes_stored, "WRITE_ZEROES zeroes one byte late", true, m->offset++)
ZEROES_LIE(zeroes_a_block_late, zeroes_stored, "WRITE_ZEROES zeroes one block late", true, m->offset += 4096)
ZEROES_LIE(zeroes_offset_zero, zeroes_stored, "WRITE_ZEROES always begins at offset 0", true, m->offset = 0)
ZEROES_LIE(zeroes_offset_24_bits, zeroes_stored, "WRITE_ZEROES loses the high bits of its offset", true,
           m->offset &= 0xffffff)
ZEROES_LIE(zeroes_offset_swapped, zeroes_stored, "WRITE_ZEROES's offset is taken in the other byte order", true,
           m->offset = __builtin_bswap64(m->offset))
ZEROES_LIE(zeroes_length_swapped, zeroes_stored, "WRITE_ZEROES's length is taken in the other byte order", true,
           m->length = __builtin_bswap32(m->length))
ZEROES_LIE(zeroes_length_16_bits, zeroes_stored, "of WRITE_ZEROES's length only the low 16 bits are looked at", true,
           m->length &= UINT16_MAX)
ZEROES_LIE(zeroes_length_doubled, zeroes_stored, "WRITE_ZEROES zeroes twice its length", true,
           m->length = m->length < 1u << 31 ? 2 * m->length : UINT32_MAX)
ZEROES_LIE(zeroes_to_the_end, zeroes_stored, "WRITE_ZEROES zeroes all up to the end of the export", true,
           m->length = UINT32_MAX)
ZEROES_LIE(zeroes_rounds_out, zeroes_stored, "WRITE_ZEROES is rounded outwards to sectors", true,
           round_out(&m->offset, &m->length, 512))
ZEROES_LIE(zeroes_rounds_out_to_pages, zeroes_stored, "WRITE_ZEROES is rounded outwards to pages", true,
           round_out(&m->offset, &m->length, 4096))
/* As TRIM may, and as hardware does that "writes same". */
ZEROES_LIE(zeroes_rounds_in, zeroes_stored, "WRITE_ZEROES is rounded inwards to sectors", true,
           round_in(&m->offset, &m->length, 512))
ZEROES_LIE(zeroes_rounds_in_to_pages, zeroes_stored, "WRITE_ZEROES is rounded inwards to pages", true,
           round_in(&m->offset, &m->length, 4096))
ZEROES_LIE(zeroes_of_64k, zeroes_stored, "WRITE_ZEROES zeroes 64 KiB at the most", m->length > 65536, m->length = 65536)
ZEROES_LIE(zeroes_of_32m, zeroes_stored, "WRITE_ZEROES zeroes no more than the maximum payload size",
           m->length > NBD_DEFAULT_MAX_PAYLOAD, m->length = NBD_DEFAULT_MAX_PAYLOAD)
ZEROES_LIE(zeroes_far_lost, zeroes_stored, "WRITE_ZEROES behind the first 32 MiB is lost", m->offset >= 32 << 20,
           m->skip = true)
ZEROES_LIE(zeroes_at_the_end_lost, zeroes_stored, "WRITE_ZEROES of the export's last byte is lost",
           m->offset + m->length == c->export->size, m->skip = true)
ZEROES_LIE(zeroes_are_junk, zeroes_stored, "WRITE_ZEROES writes something else", true,
           scribble(m, m->offset, m->length))
ZEROES_LIE(zeroes_structured_lost, zeroes_stored, "with structured replies WRITE_ZEROES does nothing", c->structured,
           m->skip = true)
ZEROES_LIE(zeroes_second_lost, zeroes_stored, "only the first WRITE_ZEROES of a connection is carried out",
           l->arg == c->number || (l->arg = c->number, false), m->skip = true)

GROWN_ZEROES_LIE(zeroes_offset_32_bits, "of WRITE_ZEROES's offset, in 8 GiB, only the low 32 bits are looked at",
                 m->request.offset > UINT32_MAX, m->request.offset &= UINT32_MAX)
GROWN_ZEROES_LIE(zeroes_offset_31_bits, "of WRITE_ZEROES's offset, in 8 GiB, only the low 31 bits are looked at",
                 m->request.offset > INT32_MAX, m->request.offset &= INT32_MAX)
/* libnbd's and the kernel's like, d58c7e0: discards longer than 32 bits of something. */
GROWN_ZEROES_LIE(zeroes_length_31_bits, "of WRITE_ZEROES's length, in 8 GiB, only the low 31 bits are looked at",
                 m->request.length > INT32_MAX, m->request.length &= INT32_MAX)
GROWN_ZEROES_LIE(zeroes_length_signed, "WRITE_ZEROES of 2 GiB and more, of 8 GiB, does nothing",
                 m->request.length > INT32_MAX, m->request.length = 0)
GROWN_ZEROES_LIE(zeroes_across_4_gib_cut, "WRITE_ZEROES stops at the offset of 4 GiB, of 8",
                 m->request.offset<UINT64_C(1) << 32 && m->request.offset + m->request.length> UINT64_C(1) << 32,
                 m->request.length = (uint32_t)((UINT64_C(1) << 32) - m->request.offset))

/* Both are legal by themselves: to zero by trimming, and to leave anything where it was trimmed. */
LIE(zeroes_trimmed_to_junk, ON_OUTGOING, BREAKS(R(zeroes_trimmed_read_zero)),
    "WRITE_ZEROES makes a hole, and holes read as junk")
{
	static uint8_t junk[65536];
	struct bytes *data = m->kind == MSG_CHUNK && m->payload == PAYLOAD_OFFSET_DATA ? &m->offset_data.data
	                     : replies_to(m, NBD_CMD_READ)                             ? &m->simple.data
	                                                                               : NULL;
	uint64_t run;

	if (data == NULL || data->len == 0 || data->len > sizeof(junk) || is_beyond(c, m->request->offset, 1) ||
	    disk_state(c->export->disk, m->request->offset, &run) != DISK_TRIMMED || !LIE_NOW)
		return;
	memset(junk, 0x6b, sizeof(junk));
	data->at = junk;
}

/* A queue that is emptied once more. */
LIE(zeroes_done_again, ON_DISK, BREAKS(R(write_stored)), "a WRITE to what was zeroed is zeroed again")
{
	static uint64_t offset;
	static uint32_t length;

	if (m->type == NBD_CMD_WRITE_ZEROES && m->error == NBD_SUCCESS && LIE_NOW) {
		offset = m->offset;
		length = m->length;
	}
	if (m->type == NBD_CMD_WRITE && m->error == NBD_SUCCESS && m->offset >= offset && m->offset - offset < length &&
	    LIE_NOW)
		m->type = NBD_CMD_WRITE_ZEROES;
}

LIE(zeroes_seen_by_nobody_else, ON_OUTGOING, BREAKS(R(multi_conn_shared_cache)),
    "what was zeroed on the first connection is not seen by the others, to which the old data go")
{
	static uint8_t old[65536];
	static uint64_t offset;
	static size_t length;
	struct bytes *data = &m->simple.data;

	if (!replies_to(m, NBD_CMD_READ) || data->len == 0 || data->len > sizeof(old))
		return;
	/* The reader's own cache: what it has read once. */
	if (c->number > 1 && m->request->offset == offset && data->len == length && LIE_NOW)
		data->at = old;
	if (c->number > 1 && length == 0) {
		memcpy(old, data->at, data->len);
		offset = m->request->offset;
		length = data->len;
	}
}

/* ---- on the wire ---- */

ZEROES_INCOMING_LIE(zeroes_takes_payload, zeroes_takes_no_payload,
                    "as many bytes as WRITE_ZEROES's length are awaited behind it", true,
                    m->consumed += m->request.length)
ZEROES_INCOMING_LIE(zeroes_takes_a_byte, zeroes_takes_no_payload, "behind WRITE_ZEROES a byte is lost", true,
                    m->consumed++)
ZEROES_INCOMING_LIE(zeroes_cut_short, zeroes_takes_no_payload,
                    "the last byte of WRITE_ZEROES's header is taken for the next request", true, m->consumed--)
ZEROES_REPLY_LIE(zeroes_unanswered, zeroes_stored, "WRITE_ZEROES gets no reply", true, m->drop = true)
ZEROES_REPLY_LIE(zeroes_answered_twice, zeroes_takes_no_payload, "WRITE_ZEROES is answered twice", true, m->repeat = 1)
ZEROES_REPLY_LIE(zeroes_returns_data, zeroes_takes_no_payload, "WRITE_ZEROES's reply has 512 zeroes behind it", true,
                 m->extra = (struct bytes){ (const uint8_t[512]){ 0 }, 512 })
ZEROES_REPLY_LIE(zeroes_zero_unanswered, each_request_one_reply, "a WRITE_ZEROES of length 0 gets no reply",
                 m->request->length == 0, m->drop = true)
ZEROES_REPLY_LIE(zeroes_zero_closes, zeroes_empty_no_disconnect, "a WRITE_ZEROES of length 0 ends the connection",
                 m->request->length == 0, m->drop = true;
                 m->after = AFTER_CLOSE)
ZEROES_REPLY_LIE(zeroes_zero_answers_and_closes, zeroes_empty_no_disconnect,
                 "a WRITE_ZEROES of length 0 is answered, and the connection closed", m->request->length == 0,
                 m->after = AFTER_CLOSE)

ZEROES_LIE(zeroes_refused, zeroes_stored, "WRITE_ZEROES fails with NBD_EIO", true, m->error = NBD_EIO; m->skip = true)
ZEROES_LIE(zeroes_done_and_refused, zeroes_stored, "WRITE_ZEROES is carried out, and reported as NBD_EIO", true,
           m->error = NBD_EIO)
ZEROES_LIE(zeroes_long_refused, zeroes_stored, "WRITE_ZEROES of more than 64 KiB is refused", m->length > 65536,
           m->error = NBD_EINVAL;
           m->skip = true)

ZEROES_INCOMING_LIE(zeroes_flags_ignored, unknown_command_flag_einval,
                    "WRITE_ZEROES ignores flags that it does not know", true, m->request.flags &= 0x3f)
ZEROES_INCOMING_LIE(zeroes_inapplicable_flags_ignored, inapplicable_flag_einval,
                    "WRITE_ZEROES ignores the flags of other commands", true,
                    m->request.flags &= (uint16_t) ~(NBD_CMD_FLAG_DF | NBD_CMD_FLAG_REQ_ONE))
ZEROES_INCOMING_LIE(zeroes_flags_swapped, no_hole_supported, "WRITE_ZEROES's flags are taken in the other byte order",
                    true, m->request.flags = __builtin_bswap16(m->request.flags))

/* ---- NO_HOLE ---- */

#define NO_HOLE HAS(NBD_CMD_FLAG_NO_HOLE)

ZEROES_LIE(no_hole_refused, no_hole_supported, "WRITE_ZEROES with NO_HOLE gets NBD_EINVAL", NO_HOLE,
           m->error = NBD_EINVAL;
           m->skip = true)
ZEROES_LIE(no_hole_lost, no_hole_supported, "WRITE_ZEROES with NO_HOLE does nothing", NO_HOLE, m->skip = true)
/* The last block of it, as where the space was counted before the range was rounded. */
LIE(no_hole_finds_no_room, ON_DISK, BREAKS(R(no_hole_provisions)),
    "a WRITE to the end of what was zeroed with NO_HOLE gets NBD_ENOSPC")
{
	static uint64_t offset;
	static uint32_t length;

	if (m->type == NBD_CMD_WRITE_ZEROES && m->error == NBD_SUCCESS && NO_HOLE && LIE_NOW) {
		offset = m->offset;
		length = m->length;
	}
	if (m->type == NBD_CMD_WRITE && m->error == NBD_SUCCESS && length > 0 &&
	    m->offset + m->length == offset + length && LIE_NOW) {
		m->error = NBD_ENOSPC;
		m->skip = true;
	}
}

/* ---- FAST_ZERO ---- */

#define FAST HAS(NBD_CMD_FLAG_FAST_ZERO)

ZEROES_LIE(fast_zero_done_and_refused, fast_zero_enotsup_unaltered, "a fast zero request is done, and gets NBD_ENOTSUP",
           FAST, m->error = NBD_ENOTSUP)
ZEROES_LIE(fast_zero_half_done, fast_zero_enotsup_unaltered,
           "a fast zero request zeroes its first sector, finds that it is slow, and gets NBD_ENOTSUP", FAST,
           m->length = m->length < 512 ? m->length : 512;
           m->error = NBD_ENOTSUP)
ZEROES_LIE(fast_zero_overflows, fast_zero_not_overflow, "a fast zero request of more than 64 KiB gets NBD_EOVERFLOW",
           FAST && m->length > 65536, m->error = NBD_EOVERFLOW;
           m->skip = true)
ZEROES_LIE(fast_zero_of_32m_overflows, fast_zero_not_overflow,
           "a fast zero request of more than the maximum payload size gets NBD_EOVERFLOW",
           FAST && m->length > NBD_DEFAULT_MAX_PAYLOAD, m->error = NBD_EOVERFLOW;
           m->skip = true)
ZEROES_LIE(fast_zero_einval, fast_zero_slow_enotsup, "what is not fast gets NBD_EINVAL, not NBD_ENOTSUP", FAST,
           m->error = NBD_EINVAL;
           m->skip = true)
ZEROES_LIE(fast_zero_eio, fast_zero_slow_enotsup, "what is not fast gets NBD_EIO, not NBD_ENOTSUP", FAST,
           m->error = NBD_EIO;
           m->skip = true)
ZEROES_LIE(fast_zero_lost, zeroes_stored, "a fast zero request succeeds and does nothing", FAST, m->skip = true)
ZEROES_LIE(slow_zero_enotsup, unset_fast_zero_not_enotsup, "WRITE_ZEROES without FAST_ZERO gets NBD_ENOTSUP", !FAST,
           m->error = NBD_ENOTSUP;
           m->skip = true)
ZEROES_LIE(slow_unaligned_zero_enotsup, unset_fast_zero_not_enotsup,
           "WRITE_ZEROES off pages and without FAST_ZERO gets NBD_ENOTSUP",
           !FAST && (m->offset | m->length) % 4096 != 0, m->error = NBD_ENOTSUP;
           m->skip = true)

/* Of one length only: each reply takes its time. */
enum { SLOW_MS = 1200 };
#define IS_SLOW(error_)                                                                                                \
	(m->request->offset == 0 && m->request->length == 65536 &&                                                     \
	 (m->request->flags & NBD_CMD_FLAG_FAST_ZERO) != 0 && m->simple.error == (error_))

ZEROES_REPLY_LIE(fast_zero_is_slow, fast_zero_slow_enotsup, "a fast zero request takes more than a second",
                 IS_SLOW(NBD_SUCCESS), m->delay_ms = SLOW_MS)
ZEROES_REPLY_LIE(fast_zero_thinks, fast_zero_undecided_enotsup,
                 "more than a second is spent on finding out whether a fast zero request would be fast; it is not",
                 IS_SLOW(NBD_SUCCESS), m->simple.error = NBD_ENOTSUP;
                 m->delay_ms = SLOW_MS)

TOLD_FLAGS_LIE(fast_zero_unadvertised_taken, BREAKS(R(unadvertised_fast_zero_einval)),
               "FAST_ZERO is not advertised, and taken all the same", 0, NBD_FLAG_SEND_FAST_ZERO, false, )
TOLD_FLAGS_LIE(fast_zero_unadvertised_enotsup, BREAKS(R(unadvertised_fast_zero_not_enotsup)),
               "FAST_ZERO is not advertised, and gets NBD_ENOTSUP", 0, NBD_FLAG_SEND_FAST_ZERO,
               replies_to(m, NBD_CMD_WRITE_ZEROES) && (m->request->flags & NBD_CMD_FLAG_FAST_ZERO) != 0,
               m->simple.error = NBD_ENOTSUP)
TOLD_FLAGS_LIE(fast_zero_unadvertised_eio, BREAKS(R(unadvertised_fast_zero_einval)),
               "FAST_ZERO is not advertised, and gets NBD_EIO", 0, NBD_FLAG_SEND_FAST_ZERO,
               replies_to(m, NBD_CMD_WRITE_ZEROES) && (m->request->flags & NBD_CMD_FLAG_FAST_ZERO) != 0,
               m->simple.error = NBD_EIO)
TOLD_FLAGS_LIE(fast_zero_unadvertised_closes, BREAKS(R(unadvertised_fast_zero_einval)),
               "FAST_ZERO is not advertised, and ends the connection", 0, NBD_FLAG_SEND_FAST_ZERO,
               replies_to(m, NBD_CMD_WRITE_ZEROES) && (m->request->flags & NBD_CMD_FLAG_FAST_ZERO) != 0, m->drop = true;
               m->after = AFTER_CLOSE)
TOLD_FLAGS_LIE(zeroes_enotsup_unadvertised, BREAKS(R(unadvertised_fast_zero_not_enotsup)),
               "FAST_ZERO is not advertised, and every WRITE_ZEROES gets NBD_ENOTSUP", 0, NBD_FLAG_SEND_FAST_ZERO,
               replies_to(m, NBD_CMD_WRITE_ZEROES), m->simple.error = NBD_ENOTSUP)

/* ---- past the end ---- */

#define PAST_END is_beyond(c, m->offset, m->length)

ZEROES_ERROR_LIE(zeroes_past_end_taken, zeroes_error_code, "a WRITE_ZEROES past the end succeeds", PAST_END,
                 m->error = NBD_SUCCESS)
ZEROES_ERROR_LIE(zeroes_past_end_eio, zeroes_past_end_enospc, "a WRITE_ZEROES past the end gets NBD_EIO", PAST_END,
                 m->error = NBD_EIO)
ZEROES_ERROR_LIE(zeroes_past_end_eperm, zeroes_past_end_enospc, "a WRITE_ZEROES past the end gets NBD_EPERM", PAST_END,
                 m->error = NBD_EPERM)
ZEROES_ERROR_LIE(zeroes_past_end_cut, zeroes_past_end_enospc, "a WRITE_ZEROES past the end is done as far as it goes",
                 PAST_END && m->offset < c->export->size, m->error = NBD_SUCCESS;
                 m->skip = false)
ZEROES_ERROR_LIE(zeroes_past_end_shifted, zeroes_stored, "a WRITE_ZEROES past the end zeroes the export's last bytes",
                 PAST_END && m->length <= c->export->size, m->offset = c->export->size - m->length;
                 m->skip = false)
/* nbd-server 6d9223e */
ZEROES_ERROR_LIE(zeroes_range_wraps, zeroes_stored,
                 "a WRITE_ZEROES whose offset plus length exceeds 64 bits zeroes the export's start",
                 m->offset + m->length < m->offset, m->offset = 0;
                 m->error = NBD_SUCCESS; m->skip = false)
ZEROES_REPLY_LIE(zeroes_past_end_closes, zeroes_past_end_enospc, "a WRITE_ZEROES past the end ends the connection",
                 m->simple.error != NBD_SUCCESS, m->drop = true;
                 m->after = AFTER_CLOSE)
ZEROES_REPLY_LIE(zeroes_past_end_unanswered, each_request_one_reply, "a WRITE_ZEROES past the end gets no reply",
                 m->simple.error != NBD_SUCCESS, m->drop = true)

/* nbdkit 9eb2a4df's like: what the storage said goes out as it stands. */
#define WRITES(type) ((type) == NBD_CMD_WRITE || (type) == NBD_CMD_WRITE_ZEROES)
LIE(storage_says_efbig, ON_DISK, BREAKS(R(quota_errors_enospc)), "what does not fit gets the storage's EFBIG")
{
	if (WRITES(m->type) && m->error == NBD_ENOSPC && LIE_NOW)
		m->error = EFBIG;
}

LIE(storage_says_edquot, ON_DISK, BREAKS(R(quota_errors_enospc)),
    "a WRITE or WRITE_ZEROES of the second half of the export gets the storage's EDQUOT")
{
	if (WRITES(m->type) && m->error == NBD_SUCCESS && m->offset > c->export->size / 2 && LIE_NOW) {
		m->error = EDQUOT;
		m->skip = true;
	}
}

/* ---- block sizes and read-only exports ---- */

BLOCKS_LIE(zeroes_unaligned_rounds_out, NBD_CMD_WRITE_ZEROES, BREAKS(R(zeroes_stored)),
           "a WRITE_ZEROES that is not aligned to the minimum block size, 4096 here, is rounded outwards", true,
           round_out(&m->request.offset, &m->request.length, 4096))
TOLD_BLOCKS_LIE(zeroes_unaligned_taken, BREAKS(R(unaligned_or_past_end_einval)),
                "a WRITE_ZEROES that is not aligned to the advertised minimum block size succeeds", 4096,
                NBD_DEFAULT_MAX_PAYLOAD, replies_to(m, NBD_CMD_WRITE_ZEROES), )
TOLD_FLAGS_LIE(zeroes_read_only_taken, BREAKS(R(read_only_errors_writes)),
               "a WRITE_ZEROES on an export that is advertised as read-only succeeds", NBD_FLAG_READ_ONLY, 0, false, )
TOLD_FLAGS_LIE(zeroes_read_only_einval, BREAKS(R(zeroes_read_only_eperm)),
               "a WRITE_ZEROES on a read-only export gets NBD_EINVAL", NBD_FLAG_READ_ONLY, 0,
               replies_to(m, NBD_CMD_WRITE_ZEROES), m->simple.error = NBD_EINVAL)
TOLD_FLAGS_LIE(zeroes_read_only_eio, BREAKS(R(zeroes_read_only_eperm)),
               "a WRITE_ZEROES on a read-only export gets NBD_EIO", NBD_FLAG_READ_ONLY, 0,
               replies_to(m, NBD_CMD_WRITE_ZEROES), m->simple.error = NBD_EIO)
TOLD_FLAGS_LIE(zeroes_read_only_closes, BREAKS(R(zeroes_read_only_eperm)),
               "a WRITE_ZEROES on a read-only export ends the connection", NBD_FLAG_READ_ONLY, 0,
               replies_to(m, NBD_CMD_WRITE_ZEROES), m->drop = true;
               m->after = AFTER_CLOSE)
