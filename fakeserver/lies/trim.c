/* Lies about NBD_CMD_TRIM. Of what lies within the range nothing can be said (proto.md:2108), so they are about the rest. */
#include "fakeserver/lies/effects.h"

#define TRIM_LIE(ident, breaks, text, condition, ...)                                                                  \
	EFFECT_LIE(ident, NBD_CMD_TRIM, BREAKS(R(breaks)), text, condition, __VA_ARGS__)
#define TRIM_ERROR_LIE(ident, breaks, text, condition, ...)                                                            \
	EFFECT_ERROR_LIE(ident, NBD_CMD_TRIM, BREAKS(R(breaks)), text, condition, __VA_ARGS__)
#define TRIM_REPLY_LIE(ident, breaks, text, condition, ...)                                                            \
	EFFECT_REPLY_LIE(ident, NBD_CMD_TRIM, BREAKS(R(breaks)), text, condition, __VA_ARGS__)

/* ---- where ---- */

TRIM_LIE(trim_one_byte_more, trim_keeps_outside, "TRIM takes away the byte behind its range too", true, m->length++)
TRIM_LIE(trim_one_byte_early, trim_keeps_outside, "TRIM takes away the byte before its range too", m->offset > 0,
         m->offset--;
         m->length++)
TRIM_LIE(trim_rounds_out, trim_keeps_outside, "TRIM is rounded outwards to sectors", true,
         round_out(&m->offset, &m->length, 512))
TRIM_LIE(trim_rounds_out_to_pages, trim_keeps_outside, "TRIM is rounded outwards to pages", true,
         round_out(&m->offset, &m->length, 4096))
TRIM_LIE(trim_a_block_late, trim_keeps_outside, "TRIM takes away what lies a block behind its range", true,
         m->offset += 4096)
TRIM_LIE(trim_a_block_early, trim_keeps_outside, "TRIM takes away what lies a block before its range",
         m->offset >= 4096, m->offset -= 4096)
TRIM_LIE(trim_offset_zero, trim_keeps_outside, "TRIM always begins at offset 0", true, m->offset = 0)
TRIM_LIE(trim_offset_24_bits, trim_keeps_outside, "TRIM loses the high bits of its offset", true, m->offset &= 0xffffff)
TRIM_LIE(trim_offset_in_sectors, trim_keeps_outside, "TRIM's offset is taken in sectors where it is in bytes", true,
         m->offset /= 512)
TRIM_LIE(trim_length_doubled, trim_keeps_outside, "TRIM takes away twice its length", true,
         m->length = m->length < 1u << 31 ? 2 * m->length : UINT32_MAX)
TRIM_LIE(trim_length_in_sectors, trim_keeps_outside, "TRIM's length is taken in sectors where it is in bytes", true,
         m->length = m->length < 1u << 22 ? 512 * m->length : UINT32_MAX)
TRIM_LIE(trim_to_the_end, trim_keeps_outside, "TRIM takes away all up to the end of the export", true,
         m->length = UINT32_MAX)
TRIM_LIE(trim_all, trim_keeps_outside, "TRIM takes away all of the export", true, m->offset = 0; m->length = UINT32_MAX)
TRIM_LIE(trim_scribbles_behind, trim_keeps_outside, "behind what was trimmed there are 16 bytes of junk", true,
         scribble(m, m->offset + m->length, 16))
TRIM_LIE(trim_structured_more, trim_keeps_outside, "with structured replies TRIM takes away a sector too many",
         c->structured, m->length += 512)

LIE(trim_slides, ON_DISK, BREAKS(R(trim_keeps_outside)), "every other TRIM is one block long too much")
{
	if (m->type == NBD_CMD_TRIM && m->error == NBD_SUCCESS && ++l->arg % 2 == 0 && LIE_NOW)
		m->length += 512;
}

GROWN_LIE(trim_offset_32_bits, NBD_CMD_TRIM, BREAKS(R(trim_keeps_outside)),
          "of a TRIM's offset, in 8 GiB, only the low 32 bits are looked at", m->request.offset > UINT32_MAX,
          m->request.offset &= UINT32_MAX)
GROWN_LIE(trim_offset_31_bits, NBD_CMD_TRIM, BREAKS(R(trim_keeps_outside)),
          "of a TRIM's offset, in 8 GiB, only the low 31 bits are looked at", m->request.offset > INT32_MAX,
          m->request.offset &= INT32_MAX)
GROWN_LIE(trim_length_signed, NBD_CMD_TRIM, BREAKS(R(trim_keeps_outside)),
          "a TRIM of 2 GiB and more, of 8 GiB, has no end", m->request.length > INT32_MAX,
          m->request.length = UINT32_MAX)

/* ---- when ---- */

static struct range_trimmed {
	uint64_t offset;
	uint32_t length;
} last;

/* Queued, and carried out behind what has come since. */
LIE(trim_late, ON_DISK, BREAKS(R(write_stored)), "a TRIM is carried out once more after a WRITE to what it trimmed")
{
	if (m->type == NBD_CMD_TRIM && m->error == NBD_SUCCESS && LIE_NOW)
		last = (struct range_trimmed){ m->offset, m->length };
	if (m->type == NBD_CMD_WRITE && m->error == NBD_SUCCESS && m->offset >= last.offset &&
	    m->offset - last.offset < last.length && LIE_NOW)
		m->type = NBD_CMD_WRITE_ZEROES;
}

/* It looks at the block of a copy that it had made before. */
LIE(trim_puts_back_what_was_before, ON_DISK, BREAKS(R(trim_keeps_outside)),
    "TRIM takes away the block before its range where another connection wrote there")
{
	if (m->type == NBD_CMD_WRITE && m->error == NBD_SUCCESS && c->number > 1)
		l->arg = m->offset + m->length;
	if (m->type == NBD_CMD_TRIM && m->error == NBD_SUCCESS && l->arg == m->offset && m->offset >= 512 && LIE_NOW) {
		m->offset -= 512;
		m->length += 512;
	}
}

/* ---- replies ---- */

TRIM_LIE(trim_enotsup, trim_supported, "TRIM is advertised, and gets NBD_ENOTSUP", true, m->error = NBD_ENOTSUP;
         m->skip = true)
TRIM_LIE(trim_eperm, trim_supported, "TRIM is advertised, and gets NBD_EPERM", true, m->error = NBD_EPERM;
         m->skip = true)
TRIM_LIE(trim_single_bytes_refused, trim_supported, "a TRIM off sectors is refused, though the sizes allow it",
         (m->offset | m->length) % 512 != 0, m->error = NBD_EINVAL;
         m->skip = true)
TRIM_REPLY_LIE(trim_unanswered, trim_supported, "TRIM gets no reply", true, m->drop = true)
TRIM_REPLY_LIE(trim_answered_twice, request_payload_consumed, "TRIM is answered twice", true, m->repeat = 1)
TRIM_REPLY_LIE(trim_closes, trim_supported, "TRIM ends the connection", true, m->drop = true; m->after = AFTER_CLOSE)
EFFECT_INCOMING_LIE(trim_swallows, NBD_CMD_TRIM, BREAKS(R(request_payload_consumed)),
                    "as many bytes as a TRIM's length are dropped", true, m->consumed += m->request.length)
EFFECT_INCOMING_LIE(trim_swallows_one_byte, NBD_CMD_TRIM, BREAKS(R(request_payload_consumed)),
                    "behind a TRIM a byte is lost", true, m->consumed++)

/* ---- flags ---- */

EFFECT_INCOMING_LIE(trim_flags_ignored, NBD_CMD_TRIM,
                    BREAKS(R(inapplicable_flag_einval), R(unknown_command_flag_einval)),
                    "TRIM looks at no flag but FUA", true, m->request.flags &= NBD_CMD_FLAG_FUA)
EFFECT_INCOMING_LIE(trim_flags_swapped, NBD_CMD_TRIM, BREAKS(R(fua_accepted)),
                    "TRIM's flags are taken in the other byte order", true,
                    m->request.flags = __builtin_bswap16(m->request.flags))
/* Refused, and carried out on the wrong place all the same. */
TRIM_ERROR_LIE(trim_flag_refused_and_trimmed, trim_keeps_outside,
               "a TRIM that is refused for its flags takes away the block before its range",
               !is_beyond(c, m->offset, m->length) && m->offset >= 4096, m->offset -= 4096;
               m->skip = false)

/* ---- length 0 ---- */

TRIM_REPLY_LIE(trim_zero_unanswered, each_request_one_reply, "a TRIM of length 0 gets no reply",
               m->request->length == 0, m->drop = true)
TRIM_REPLY_LIE(trim_zero_closes, trim_zero_no_disconnect, "a TRIM of length 0 ends the connection",
               m->request->length == 0, m->drop = true;
               m->after = AFTER_CLOSE)
TRIM_REPLY_LIE(trim_zero_answers_and_closes, trim_zero_no_disconnect,
               "a TRIM of length 0 is answered, and the connection closed", m->request->length == 0,
               m->after = AFTER_CLOSE)

/* ---- past the end ---- */

#define PAST_END is_beyond(c, m->offset, m->length)

TRIM_ERROR_LIE(trim_past_end_taken, trim_past_end_einval, "a TRIM past the end succeeds", PAST_END,
               m->error = NBD_SUCCESS)
TRIM_ERROR_LIE(trim_past_end_enospc, trim_past_end_einval, "a TRIM past the end gets NBD_ENOSPC, as a WRITE does",
               PAST_END, m->error = NBD_ENOSPC)
TRIM_ERROR_LIE(trim_past_end_eio, trim_past_end_einval, "a TRIM past the end gets NBD_EIO", PAST_END,
               m->error = NBD_EIO)
TRIM_ERROR_LIE(trim_past_end_eoverflow, no_eoverflow, "a TRIM past the end gets NBD_EOVERFLOW", PAST_END,
               m->error = NBD_EOVERFLOW)
TRIM_ERROR_LIE(trim_past_end_enotsup, no_enotsup, "a TRIM past the end gets NBD_ENOTSUP", PAST_END,
               m->error = NBD_ENOTSUP)
TRIM_ERROR_LIE(trim_past_end_shifted, trim_keeps_outside, "a TRIM past the end takes away the last bytes of the export",
               PAST_END && m->length <= c->export->size, m->offset = c->export->size - m->length;
               m->skip = false)
/* nbd-server 6d9223e */
TRIM_ERROR_LIE(trim_range_wraps, trim_keeps_outside,
               "a TRIM whose offset plus length exceeds 64 bits takes away the export's start",
               m->offset + m->length < m->offset, m->offset = 0;
               m->error = NBD_SUCCESS; m->skip = false)
TRIM_REPLY_LIE(trim_past_end_closes, trim_past_end_einval, "a TRIM past the end ends the connection",
               m->simple.error != NBD_SUCCESS, m->drop = true;
               m->after = AFTER_CLOSE)
TRIM_REPLY_LIE(trim_past_end_unanswered, each_request_one_reply, "a TRIM past the end gets no reply",
               m->simple.error != NBD_SUCCESS, m->drop = true)

/* ---- block sizes and read-only exports ---- */

BLOCKS_LIE(trim_unaligned_rounds_out, NBD_CMD_TRIM, BREAKS(R(trim_keeps_outside)),
           "a TRIM that is not aligned to the minimum block size, 4096 here, is rounded outwards", true,
           round_out(&m->request.offset, &m->request.length, 4096))
TOLD_BLOCKS_LIE(trim_unaligned_taken, BREAKS(R(unaligned_or_past_end_einval)),
                "a TRIM that is not aligned to the advertised minimum block size succeeds", 4096,
                NBD_DEFAULT_MAX_PAYLOAD, replies_to(m, NBD_CMD_TRIM), )
TOLD_FLAGS_LIE(trim_read_only_taken, BREAKS(R(read_only_errors_writes)),
               "a TRIM of an export that is advertised as read-only succeeds", NBD_FLAG_READ_ONLY, 0, false, )
TOLD_FLAGS_LIE(trim_read_only_einval, BREAKS(R(read_only_eperm)), "a TRIM of a read-only export gets NBD_EINVAL",
               NBD_FLAG_READ_ONLY, 0, replies_to(m, NBD_CMD_TRIM), m->simple.error = NBD_EINVAL)
TOLD_FLAGS_LIE(trim_read_only_closes, BREAKS(R(read_only_eperm)), "a TRIM of a read-only export ends the connection",
               NBD_FLAG_READ_ONLY, 0, replies_to(m, NBD_CMD_TRIM), m->drop = true;
               m->after = AFTER_CLOSE)
