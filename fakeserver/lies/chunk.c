/* Lies about the chunks of a structured reply: data, holes and errors. */
#include "fakeserver/lies/structured.h"

static const uint8_t zeroes[65536];

#define DATA_LIE(ident, breaks, text, ...) CHUNK_LIE(ident, breaks, text, is_data(m), __VA_ARGS__)
#define READ_LIE(ident, breaks, text, condition, ...)                                                                  \
	LIE(ident, ON_DISK, breaks, text)                                                                              \
	{                                                                                                              \
		if (c->structured && m->type == NBD_CMD_READ && m->error == NBD_SUCCESS && (condition) && LIE_NOW) {   \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}

/* ---- NBD_REPLY_TYPE_OFFSET_DATA ---- */

DATA_LIE(data_offset_off_by_one, BREAKS(R(data_chunk_in_bounds)), "chunks of data tell their offset one byte late",
         m->offset_data.offset++)
DATA_LIE(data_offset_early, BREAKS(R(data_chunk_in_bounds), R(read_chunks_in_bounds)),
         "chunks of data tell their offset one byte early", m->offset_data.offset--)
DATA_LIE(data_offset_zero, BREAKS(R(data_chunk_in_bounds), R(read_chunks_in_bounds)), "chunks of data tell offset 0",
         m->offset_data.offset = 0)
DATA_LIE(data_offset_ones, BREAKS(R(data_chunk_in_bounds), R(read_chunks_in_bounds)),
         "chunks of data tell an offset of all ones", m->offset_data.offset = UINT64_MAX)
DATA_LIE(data_offset_swapped, BREAKS(R(read_chunks_in_bounds)),
         "chunks of data have their offset in little-endian byte order",
         m->offset_data.offset = __builtin_bswap64(m->offset_data.offset))
DATA_LIE(data_offset_relative, BREAKS(R(data_chunk_in_bounds), R(read_chunks_in_bounds)),
         "chunks of data tell their offset within the request", m->offset_data.offset -= m->request->offset)
DATA_LIE(data_offset_32_bits, BREAKS(R(data_chunk_in_bounds), R(read_chunks_in_bounds)),
         "chunks of data lose the high bits of their offset", m->offset_data.offset &= 0xffffff)
DATA_LIE(data_offset_behind, BREAKS(R(read_chunks_in_bounds)), "chunks of data tell where the request ends",
         m->offset_data.offset += m->request->length)
DATA_LIE(data_first_byte_missing, BREAKS(R(read_covers_range), R(read_chunk_not_empty)),
         "chunks of data lack their first byte", m->offset_data.offset++;
         m->offset_data.data.at++; m->offset_data.data.len--)
DATA_LIE(data_last_byte_missing, BREAKS(R(read_covers_range), R(read_chunk_not_empty)),
         "chunks of data lack their last byte", m->offset_data.data.len--)
CHUNK_LIE(data_of_a_block_missing, BREAKS(R(read_covers_range)), "chunks of data end 512 bytes early",
          is_data(m) && m->offset_data.data.len > 512, m->offset_data.data.len -= 512)
DATA_LIE(data_at_most_64k, BREAKS(R(read_covers_range)), "a READ returns 64 KiB at most",
         if (m->offset_data.data.len > 65536) m->offset_data.data.len = 65536)
DATA_LIE(data_one_byte_more, BREAKS(R(data_chunk_in_bounds)), "chunks of data have one byte more than was asked for",
         m->length_off = 1;
         m->extra = BYTES_OF("\0"))
DATA_LIE(data_rounded_up, BREAKS(R(data_chunk_in_bounds)), "chunks of data have whole sectors",
         size_t more = (512 - m->offset_data.data.len % 512) % 512;
         m->length_off = (int64_t)more; m->extra = ((struct bytes){ zeroes, more }))
DATA_LIE(data_without_data, BREAKS(R(read_chunk_not_empty)), "chunks of data have none", m->offset_data.data.len = 0)
KNOB_CHUNK_LIE(data_empty_at_first, KNOB_read_ends_with_none, BREAKS(R(read_chunk_not_empty)),
               "an empty chunk of data stands before the last chunk", is_data(m), uint64_t end = m->request->offset;
               struct buf b = { 0 }; put_be64(&b, end);
               add_chunk(m, 0, NBD_REPLY_TYPE_OFFSET_DATA, (struct bytes){ b.at, b.len }); buf_free(&b))
DATA_LIE(data_offset_missing, BREAKS(R(data_chunk_length)), "chunks of data have four bytes in all",
         m->payload = PAYLOAD_RAW;
         m->chunk.data = BYTES_OF("data"))
DATA_LIE(data_zeroed, BREAKS(R(data_chunk_contents)), "chunks of data hold zeroes",
         if (m->offset_data.data.len <= sizeof(zeroes)) m->offset_data.data.at = zeroes)
READ_LIE(data_from_next_byte, BREAKS(R(data_chunk_contents)), "chunks of data hold what stands one byte later", true,
         m->offset++)
READ_LIE(data_from_next_block, BREAKS(R(data_chunk_contents)), "chunks of data hold what stands one block later",
         m->offset >= 4096, m->offset += 4096)
READ_LIE(data_of_long_read_shifted, BREAKS(R(data_chunk_contents)), "a READ of more than 1 MiB begins 4096 bytes late",
         m->length > 1 << 20, m->offset += 4096)
READ_LIE(data_from_first_16m, BREAKS(R(data_chunk_contents)), "a READ loses the high bits of its offset", true,
         m->offset &= 0xffffff)

/* nbd-server a43a2d8: what several READs in flight shared was where they read. */
LIE(parallel_reads_share_offset, ON_DISK, BREAKS(R(data_chunk_contents)),
    "every third READ returns what the one before was asked for")
{
	uint64_t before = l->arg >> 2, turn = l->arg & 3;

	if (!c->structured || m->type != NBD_CMD_READ || m->error != NBD_SUCCESS)
		return;
	l->arg = m->offset << 2 | (turn + 1) % 3;
	if (turn == 2 && LIE_NOW)
		m->offset = before;
}

CHUNK_LIE(data_split_unaligned, BREAKS(R(read_chunks_multiple_of_512)), "data are split in odd places",
          is_data(m) && m->offset_data.data.len > 1025, split_data(m, 513, 0))
CHUNK_LIE(data_split_overlaps, BREAKS(R(data_chunk_no_overlap)), "two chunks of data share one byte",
          is_data(m) && m->offset_data.data.len > 1025, split_data(m, 512, 1))
KNOB_CHUNK_LIE(later_chunk_behind_the_end, KNOB_read_halves, BREAKS(R(read_chunks_in_bounds), R(data_chunk_in_bounds)),
               "the last chunk of data lies behind what was asked for", is_data(m) && m->final,
               m->offset_data.offset += m->request->length)

LIE(above_maximum_payload_in_one, ON_OUTGOING, BREAKS(R(chunk_within_max_payload)),
    "advertises a maximum payload size of 1 MiB, and sends longer chunks")
{
	if (tells_blocks(m) && LIE_NOW)
		advertise_blocks(m, 1, 1 << 20);
}

CHUNK_LIE(above_maximum_payload_unanswered, BREAKS(R(each_request_one_reply)),
          "a READ above the maximum payload size gets no chunk",
          m->request->type == NBD_CMD_READ && m->request->length > NBD_DEFAULT_MAX_PAYLOAD, m->drop = true)
CHUNK_LIE(maximum_payload_refused, BREAKS(R(read_returns_data)), "a READ of the maximum payload size gets NBD_ENOMEM",
          is_data(m) && m->request->length == NBD_DEFAULT_MAX_PAYLOAD,
          become_chunk(m, NBD_REPLY_TYPE_ERROR, error_payload(NBD_ENOMEM, NULL)))

/* The chunk's length field has 32 bits, and the chunk 2^32 - 1 + 8 bytes. */
LIE(four_gigabytes_in_one, ON_OUTGOING, BREAKS(R(read_huge_is_split)),
    "is 8 GiB large, and answers a READ of 2^32 - 1 bytes in a chunk of data whose length overflows")
{
	if (m->kind == MSG_OPTION_REPLY && m->payload == PAYLOAD_INFO_EXPORT && LIE_NOW)
		m->info_export.size = UINT64_C(8) << 30;
	else if (is_error(m) && m->request->type == NBD_CMD_READ && m->request->length > UINT32_MAX - 7 && LIE_NOW)
		become_chunk(m, NBD_REPLY_TYPE_OFFSET_DATA, (struct bytes){ zeroes, 7 });
}

/* ---- success without data ---- */

DATA_LIE(read_succeeds_without_chunks, BREAKS(R(none_chunk_means_success)),
         "a READ is answered by NBD_REPLY_TYPE_NONE alone",
         become_chunk(m, NBD_REPLY_TYPE_NONE, (struct bytes){ NULL, 0 }))

/* ---- NBD_REPLY_TYPE_OFFSET_HOLE ---- */

#define HOLE_LIE(ident, breaks, text, ...) KNOB_CHUNK_LIE(ident, KNOB_read_holes, breaks, text, is_hole(m), __VA_ARGS__)

HOLE_LIE(hole_offset_off_by_one, BREAKS(R(hole_chunk_in_bounds)), "holes tell their offset one byte late",
         m->offset_hole.offset++)
HOLE_LIE(hole_offset_zero, BREAKS(R(hole_chunk_in_bounds), R(read_chunks_in_bounds)), "holes tell offset 0",
         m->offset_hole.offset = 0)
HOLE_LIE(hole_offset_ones, BREAKS(R(hole_chunk_in_bounds), R(read_chunks_in_bounds)),
         "holes tell an offset of all ones", m->offset_hole.offset = UINT64_MAX)
HOLE_LIE(hole_offset_swapped, BREAKS(R(read_chunks_in_bounds)), "holes have their offset in little-endian byte order",
         m->offset_hole.offset = __builtin_bswap64(m->offset_hole.offset))
HOLE_LIE(hole_offset_relative, BREAKS(R(hole_chunk_in_bounds), R(read_chunks_in_bounds)),
         "holes tell their offset within the request", m->offset_hole.offset -= m->request->offset)
HOLE_LIE(hole_size_zero, BREAKS(R(hole_chunk_nonzero)), "holes have size 0", m->offset_hole.size = 0)
HOLE_LIE(hole_size_one_more, BREAKS(R(hole_chunk_in_bounds)), "holes are one byte too large", m->offset_hole.size++)
HOLE_LIE(hole_size_one_less, BREAKS(R(read_covers_range)), "holes are one byte too small",
         if (m->offset_hole.size > 1) m->offset_hole.size--)
HOLE_LIE(hole_size_ones, BREAKS(R(hole_chunk_in_bounds)), "holes have a size of all ones",
         m->offset_hole.size = UINT32_MAX)
HOLE_LIE(hole_size_swapped, BREAKS(R(hole_chunk_in_bounds)), "holes have their size in little-endian byte order",
         m->offset_hole.size = __builtin_bswap32(m->offset_hole.size))
HOLE_LIE(hole_size_of_request, BREAKS(R(hole_chunk_in_bounds), R(hole_chunk_no_overlap), R(data_chunk_no_overlap)),
         "holes have the size of the request", m->offset_hole.size = m->request->length)
HOLE_LIE(hole_too_short, BREAKS(R(hole_chunk_length)), "chunks with a hole have 8 bytes", m->payload = PAYLOAD_RAW;
         m->chunk.data = ((struct bytes){ zeroes, 8 }))
HOLE_LIE(hole_too_long, BREAKS(R(hole_chunk_length)), "chunks with a hole have 16 bytes", m->length_off = 4;
         m->extra = ((struct bytes){ zeroes, 4 }))
HOLE_LIE(hole_with_zeroes, BREAKS(R(hole_chunk_length)), "holes bring their zeroes along",
         size_t n = m->offset_hole.size < sizeof(zeroes) ? m->offset_hole.size : sizeof(zeroes);
         m->length_off = (int64_t)n; m->extra = ((struct bytes){ zeroes, n }))
KNOB_CHUNK_LIE(hole_twice, KNOB_read_holes, BREAKS(R(hole_chunk_no_overlap)), "holes come twice",
               is_hole(m) && !m->final, m->repeat = 1)
KNOB_CHUNK_LIE(hole_lost, KNOB_read_holes, BREAKS(R(read_covers_range)), "holes before the end are lost",
               is_hole(m) && !m->final, m->drop = true)
KNOB_CHUNK_LIE(hole_without_done, KNOB_read_holes, BREAKS(R(done_set_on_last)),
               "a hole at the end lacks NBD_REPLY_FLAG_DONE", is_hole(m) && m->final, m->chunk.flags = 0)

static void
become_hole(struct outgoing *m)
{
	struct chunk_offset_hole hole = { m->offset_data.offset, (uint32_t)m->offset_data.data.len };

	m->chunk.type = NBD_REPLY_TYPE_OFFSET_HOLE;
	m->payload = PAYLOAD_OFFSET_HOLE;
	m->offset_hole = hole;
}

DATA_LIE(data_told_as_hole, BREAKS(R(hole_chunk_reads_zero)), "every READ finds a hole", become_hole(m))
CHUNK_LIE(data_with_zeroes_told_as_hole, BREAKS(R(hole_chunk_reads_zero)), "data that begin with a zero are a hole",
          is_data(m) && m->offset_data.data.len > 0 && m->offset_data.data.at[0] == 0, become_hole(m))
CHUNK_LIE(data_behind_zeroes_told_as_hole, BREAKS(R(hole_chunk_reads_zero), R(df_mixed_as_data)),
          "data that end in a zero are a hole",
          is_data(m) && m->offset_data.data.len > 0 && m->offset_data.data.at[m->offset_data.data.len - 1] == 0,
          become_hole(m))

/* ---- NBD_CMD_FLAG_DF ---- */

static bool
is_df(const struct outgoing *m)
{
	return is_data(m) && (m->request->flags & NBD_CMD_FLAG_DF) != 0;
}

CHUNK_LIE(df_split, BREAKS(R(df_one_content_chunk)), "a READ with DF comes in two chunks of data",
          is_df(m) && m->offset_data.data.len > 512, split_data(m, 512, 0))
CHUNK_LIE(df_long_split, BREAKS(R(df_one_content_chunk)), "a READ of more than 64 KiB with DF comes in two chunks",
          is_df(m) && m->offset_data.data.len > 65536, split_data(m, 65536, 0))
CHUNK_LIE(df_maximum_split, BREAKS(R(command_payload_constraints)),
          "a READ of the maximum payload size with DF comes in two chunks, neither of which exceeds it",
          is_df(m) && m->offset_data.data.len == NBD_DEFAULT_MAX_PAYLOAD, split_data(m, 65536, 0))
CHUNK_LIE(df_told_as_hole, BREAKS(R(df_mixed_as_data)), "a READ with DF finds a hole", is_df(m), become_hole(m))
CHUNK_LIE(df_64k_overflows, BREAKS(R(df_64k_supported)), "a READ of 64 KiB with DF gets NBD_EOVERFLOW",
          is_df(m) && m->offset_data.data.len == 65536,
          become_chunk(m, NBD_REPLY_TYPE_ERROR, error_payload(NBD_EOVERFLOW, NULL)))
CHUNK_LIE(df_4k_overflows, BREAKS(R(df_64k_supported)), "a READ of more than 4096 bytes with DF gets NBD_EOVERFLOW",
          is_df(m) && m->offset_data.data.len > 4096,
          become_chunk(m, NBD_REPLY_TYPE_ERROR, error_payload(NBD_EOVERFLOW, NULL)))
CHUNK_LIE(df_overflow_with_content, BREAKS(R(df_overflow_no_content)),
          "a READ of more than 64 KiB with DF gets NBD_EOVERFLOW behind the first 64 KiB",
          is_df(m) && m->offset_data.data.len > 65536, m->offset_data.data.len = 65536;
          m->chunk.flags = 0;
          add_chunk(m, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, error_payload(NBD_EOVERFLOW, NULL)))
/* nbd-server 89ba7b5 (complete_read): the chunk's length counts the data, and none are sent. */
KNOB_CHUNK_LIE(df_payload_missing, KNOB_df_ends_with_none, BREAKS(R(structured_chunk_length)),
               "a READ with DF gets a chunk whose data are missing", is_df(m), m->cut = CHUNK_HEADER_SIZE + 8)

/* nbd-server 89ba7b5 (handle_normal_read) looks for the flag where the command's type is. */
LIE(df_ignored, ON_INCOMING, BREAKS(R(df_one_content_chunk)), "sends READs in two chunks, with DF and without")
{
	if (m->kind == MSG_OPTION && m->option.option == NBD_OPT_STRUCTURED_REPLY && LIE_NOW)
		fake_config_of(c->server)->knob[KNOB_read_halves] = true;
	if (m->kind == MSG_REQUEST && m->request.type == NBD_CMD_READ && (m->request.flags & NBD_CMD_FLAG_DF) != 0 &&
	    LIE_NOW)
		m->request.flags &= (uint16_t)~NBD_CMD_FLAG_DF;
}

CHUNK_LIE(df_long_einval, BREAKS(R(read_returns_data)), "a READ of more than 64 KiB with DF gets NBD_EIO",
          is_df(m) && m->offset_data.data.len > 65536,
          become_chunk(m, NBD_REPLY_TYPE_ERROR, error_payload(NBD_EIO, NULL)))

/* ---- NBD_REPLY_TYPE_ERROR ---- */

static char text[5000];

static struct bytes
text_of(size_t len)
{
	memset(text, 'x', sizeof(text));
	return (struct bytes){ (const uint8_t *)text, len };
}

#define ERROR_LIE(ident, breaks, text_, ...) CHUNK_LIE(ident, breaks, text_, is_error(m), __VA_ARGS__)
#define READ_ERROR_LIE(ident, breaks, text_, ...)                                                                      \
	CHUNK_LIE(ident, breaks, text_, is_error(m) && m->request->type == NBD_CMD_READ, __VA_ARGS__)
#define OTHER_ERROR_LIE(ident, breaks, text_, ...)                                                                     \
	CHUNK_LIE(ident, breaks, text_, is_error(m) && m->request->type != NBD_CMD_READ, __VA_ARGS__)

ERROR_LIE(error_chunk_error_zero, BREAKS(R(error_chunk_nonzero)), "error chunks have error 0", m->error.error = 0)
ERROR_LIE(error_chunk_error_ones, BREAKS(R(error_values_listed)), "error chunks have an error of all ones",
          m->error.error = UINT32_MAX)
ERROR_LIE(error_chunk_error_swapped, BREAKS(R(error_values_listed)),
          "error chunks have their error in little-endian byte order",
          m->error.error = __builtin_bswap32(m->error.error))
/* nbdkit 9eb2a4df, with structured replies */
ERROR_LIE(error_chunk_errno, BREAKS(R(error_values_listed)), "error chunks have the host's ESPIPE", m->error.error = 29)
READ_ERROR_LIE(error_chunk_eio, BREAKS(R(read_past_end_einval)), "a READ that is refused gets NBD_EIO",
               m->error.error = NBD_EIO)
ERROR_LIE(error_chunk_message_length_one_more, BREAKS(R(error_chunk_message_fits)),
          "the message of an error chunk is one byte longer than the chunk", m->inner_length_off = 1)
ERROR_LIE(error_chunk_message_length_ones, BREAKS(R(error_chunk_message_fits)),
          "the message of an error chunk has 65535 bytes, the chunk has not", m->inner_length_off = UINT16_MAX)
ERROR_LIE(error_chunk_message_length_one_less, BREAKS(R(error_chunk_layout)),
          "the message of an error chunk is one byte longer than its length",
          m->error.message = BYTES_OF("no such thing");
          m->inner_length_off = -1)
ERROR_LIE(error_chunk_message_length_zero, BREAKS(R(error_chunk_layout)),
          "error chunks tell no length of the message that they have", m->error.message = BYTES_OF("no such thing");
          m->inner_length_off = -13)
ERROR_LIE(error_chunk_message_length_swapped, BREAKS(R(error_chunk_message_fits)),
          "error chunks have their message's length in little-endian byte order",
          m->error.message = BYTES_OF("no such thing");
          m->inner_length_off = (13 << 8) - 13)
/* nbd-server 89ba7b5 (complete_read), text and NUL and all */
ERROR_LIE(error_chunk_in_host_order, BREAKS(R(error_chunk_message_fits)),
          "error chunks have error and length in little-endian byte order",
          m->error.error = __builtin_bswap32(m->error.error);
          m->error.message = ((struct bytes){ (const uint8_t *)"Read failed", 12 });
          m->inner_length_off = (12 << 8) - 12)
ERROR_LIE(error_chunk_without_length, BREAKS(R(error_chunk_length)), "error chunks end behind the error",
          become_chunk(m, NBD_REPLY_TYPE_ERROR, (struct bytes){ error_payload(NBD_EINVAL, NULL).at, 4 }))
ERROR_LIE(error_chunk_empty, BREAKS(R(error_chunk_length)), "error chunks are empty",
          become_chunk(m, NBD_REPLY_TYPE_ERROR, (struct bytes){ NULL, 0 }))
ERROR_LIE(error_chunk_message_4097, BREAKS(R(error_chunk_message_limit)), "error chunks have a text of 4097 bytes",
          m->error.message = text_of(4097))
ERROR_LIE(error_chunk_message_300, BREAKS(R(server_strings_short)), "error chunks have a text of 300 bytes",
          m->error.message = text_of(300))
ERROR_LIE(error_chunk_message_with_nul, BREAKS(R(server_strings_no_nul)), "the text of error chunks ends in a NUL",
          m->error.message = ((struct bytes){ (const uint8_t *)"no such thing", 14 }))
ERROR_LIE(error_chunk_message_binary, BREAKS(R(error_chunk_message_text)),
          "the text of error chunks is the error once more, in binary",
          m->error.message = ((struct bytes){ (const uint8_t *)"\x01\x02\x03\x16", 4 }))
ERROR_LIE(error_chunk_message_escapes, BREAKS(R(error_chunk_message_text)),
          "the text of error chunks has escape sequences", m->error.message = BYTES_OF("\033[31mno such thing"))
READ_ERROR_LIE(error_chunk_twice_to_read, BREAKS(R(read_error_only_one)), "a READ that fails gets two error chunks",
               m->chunk.flags = 0;
               add_chunk(m, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, error_payload(NBD_EINVAL, NULL)))
OTHER_ERROR_LIE(error_chunk_twice_to_others, BREAKS(R(error_chunk_once)),
                "a command that fails and is no READ gets two error chunks", m->chunk.flags = 0;
                add_chunk(m, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, error_payload(NBD_EINVAL, NULL)))
CHUNK_LIE(error_chunks_mixed, BREAKS(R(read_errors_not_mixed)),
          "a READ that fails gets an error with an offset and one without",
          is_error(m) && m->request->type == NBD_CMD_READ && m->request->length > 0, m->chunk.flags = 0;
          add_chunk(m, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR_OFFSET,
                    error_payload(NBD_EINVAL, &m->request->offset)))
/* gonbdserver: the data follow all the same, as they do behind a simple reply. */
READ_ERROR_LIE(error_chunk_with_payload, BREAKS(R(structured_reply_magic)),
               "what a READ asked for follows behind the error chunk", m->extra = ((struct bytes){ zeroes, 512 }))
OTHER_ERROR_LIE(error_of_others_with_data, BREAKS(R(content_chunks_only_for_read)),
                "a command that fails and is no READ gets data too", m->chunk.flags = 0;
                add_chunk(m, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_OFFSET_DATA, (struct bytes){ zeroes, 9 }))
CHUNK_LIE(error_chunk_closes, BREAKS(R(structured_chunk_length)), "the connection ends within an error chunk",
          is_error(m), m->cut = CHUNK_HEADER_SIZE + 4;
          m->after = AFTER_CLOSE)

/* ---- NBD_REPLY_TYPE_ERROR_OFFSET ---- */

#define ERROR_OFFSET_LIE(ident, breaks, text_, ...)                                                                    \
	KNOB_CHUNK_LIE(ident, KNOB_error_offsets, breaks, text_, is_error_offset(m), __VA_ARGS__)

ERROR_OFFSET_LIE(error_offset_error_zero, BREAKS(R(error_offset_nonzero)), "error chunks with an offset have error 0",
                 m->error_offset.error = 0)
ERROR_OFFSET_LIE(error_offset_errno, BREAKS(R(error_values_listed)),
                 "error chunks with an offset have the host's ESPIPE", m->error_offset.error = 29)
ERROR_OFFSET_LIE(error_offset_at_end, BREAKS(R(error_offset_in_bounds)), "error offsets lie behind the request",
                 m->error_offset.offset = m->request->offset + m->request->length)
ERROR_OFFSET_LIE(error_offset_early, BREAKS(R(error_offset_in_bounds)), "error offsets lie one byte before the request",
                 m->error_offset.offset = m->request->offset - 1)
ERROR_OFFSET_LIE(error_offset_zero, BREAKS(R(error_offset_in_bounds)), "error offsets are zero",
                 m->error_offset.offset = 0)
ERROR_OFFSET_LIE(error_offset_ones, BREAKS(R(error_offset_in_bounds)), "error offsets are all ones",
                 m->error_offset.offset = UINT64_MAX)
ERROR_OFFSET_LIE(error_offset_swapped, BREAKS(R(error_offset_in_bounds)),
                 "error offsets are in little-endian byte order",
                 m->error_offset.offset = __builtin_bswap64(m->error_offset.offset))
ERROR_OFFSET_LIE(error_offset_relative, BREAKS(R(error_offset_in_bounds)), "error offsets begin with the request",
                 m->error_offset.offset -= m->request->offset)
/* libnbd 15d0f03 and 1aa33e0 misparsed these; a server that puts the offset first writes them so. */
ERROR_OFFSET_LIE(error_offset_before_message, BREAKS(R(error_offset_in_bounds), R(server_strings_no_nul)),
                 "the offset stands before the message", static struct buf b;
                 buf_clear(&b); put_be32(&b, m->error_offset.error); put_be16(&b, 5);
                 put_be64(&b, m->error_offset.offset); put_bytes(&b, BYTES_OF("wrong")); m->payload = PAYLOAD_RAW;
                 m->chunk.data = ((struct bytes){ b.at, b.len }))
ERROR_OFFSET_LIE(error_offset_missing, BREAKS(R(error_offset_length)), "error chunks with an offset have none",
                 m->payload = PAYLOAD_RAW;
                 m->chunk.data = error_payload(NBD_EINVAL, NULL))
ERROR_OFFSET_LIE(error_offset_of_32_bits, BREAKS(R(error_offset_length)), "error offsets have 32 bits",
                 struct bytes whole = error_payload(NBD_EINVAL, &m->request->offset);
                 m->payload = PAYLOAD_RAW; m->chunk.data = ((struct bytes){ whole.at, whole.len - 4 }))
ERROR_OFFSET_LIE(error_offset_message_length_one_more, BREAKS(R(error_chunk_message_fits)),
                 "the message of an error chunk with an offset is one byte longer than the chunk",
                 m->inner_length_off = 1)
ERROR_OFFSET_LIE(error_offset_message_length_with_offset, BREAKS(R(error_chunk_message_fits)),
                 "the message's length in an error chunk counts the offset too", m->inner_length_off = 8)
ERROR_OFFSET_LIE(error_offset_message_4097, BREAKS(R(error_chunk_message_limit)),
                 "error chunks with an offset have a text of 4097 bytes", m->error_offset.message = text_of(4097))
ERROR_OFFSET_LIE(error_offset_message_binary, BREAKS(R(error_chunk_message_text)),
                 "error chunks with an offset have a binary text", m->error_offset.message = BYTES_OF("\x7f\x1b"))

OTHER_LIE(error_offset_to_flush, BREAKS(R(error_offset_commands)), "a FLUSH fails with an offset",
          m->request->type == NBD_CMD_FLUSH, uint64_t offset = 0;
          become_chunk(m, NBD_REPLY_TYPE_ERROR_OFFSET, error_payload(NBD_EIO, &offset)))
OTHER_ERROR_LIE(error_offset_to_unknown, BREAKS(R(error_offset_commands)),
                "commands that nobody knows fail with an offset",
                if (m->request->type > NBD_CMD_BLOCK_STATUS)
                        become_chunk(m, NBD_REPLY_TYPE_ERROR_OFFSET, error_payload(NBD_EINVAL, &m->request->offset)))

/* ---- an error in the middle of a READ: one that goes past the end, of which there is a part ---- */

#define PART_LIE(ident, knob_, breaks, text_, condition, ...)                                                          \
	KNOB_CHUNK_LIE(ident, knob_, breaks, text_, asks_past_end(c, m->request) && (condition), __VA_ARGS__)

PART_LIE(error_offset_twice, KNOB_read_errors_many, BREAKS(R(error_offset_distinct)),
         "two errors are reported for one offset", is_error_offset(m) && m->final, m->error_offset.offset -= 512)
PART_LIE(error_offsets_in_one_chunk, KNOB_read_errors_many, BREAKS(R(error_offset_once_per_chunk)),
         "two errors are reported for one chunk of data", is_error_offset(m),
         m->error_offset.offset = m->request->offset + m->final)
PART_LIE(error_before_its_content, KNOB_read_errors_first, BREAKS(R(read_content_before_its_error)),
         "an error is reported before the chunk of data that it lies in", is_error_offset(m),
         m->error_offset.offset = m->request->offset)
PART_LIE(partial_read_without_error, KNOB_read_errors_last, BREAKS(R(read_error_chunk_sent)),
         "a READ past the end gets what there is, and no error", true, m->drop = is_error_offset(m);
         m->chunk.flags = NBD_REPLY_FLAG_DONE)
PART_LIE(partial_read_ends_with_none, KNOB_read_errors_last, BREAKS(R(read_error_chunk_sent)),
         "a READ past the end gets what there is, and NBD_REPLY_TYPE_NONE", is_error_offset(m),
         become_chunk(m, NBD_REPLY_TYPE_NONE, (struct bytes){ NULL, 0 }))
PART_LIE(partial_chunk_cut, KNOB_read_errors_last, BREAKS(R(read_error_completes_chunk)),
         "the connection ends in a chunk of data at the error in it", is_data(m),
         m->length_off = m->request->length - (int64_t)m->offset_data.data.len;
         m->after = AFTER_CLOSE)
PART_LIE(partial_chunk_not_padded, KNOB_read_errors_last, BREAKS(R(read_error_pads_chunk)),
         "the next chunk begins where an error came up in a chunk of data", is_data(m),
         m->length_off = m->request->length - (int64_t)m->offset_data.data.len)
PART_LIE(partial_chunk_padded_short, KNOB_read_errors_last, BREAKS(R(read_error_pads_chunk)),
         "a chunk of data with an error in it gets four bytes too few of padding", is_data(m) && m->request->length > 4,
         size_t missing = m->request->length - m->offset_data.data.len;
         m->length_off = (int64_t)missing; m->extra = ((struct bytes){ zeroes, missing > 4 ? missing - 4 : 0 }))
PART_LIE(partial_chunk_padded_with_junk, KNOB_read_errors_last, BREAKS(R(read_error_padding_zero)),
         "a chunk of data with an error in it is padded with junk", is_data(m), static uint8_t junk[65536];
         size_t missing = m->request->length - m->offset_data.data.len; memset(junk, 0xdb, sizeof(junk));
         m->length_off = (int64_t)missing; m->extra = ((struct bytes){ junk, missing }))
PART_LIE(partial_content_wrong, KNOB_read_errors_last, BREAKS(R(data_chunk_contents)),
         "what a READ past the end gets of what there is, is not what there is",
         is_data(m) && m->offset_data.data.len <= sizeof(zeroes), static uint8_t junk[65536];
         memset(junk, 0xdb, sizeof(junk)); m->offset_data.data.at = junk)
PART_LIE(partial_content_final, KNOB_read_errors_last, BREAKS(R(read_final_content_certain), R(read_error_chunk_sent)),
         "what there is comes with NBD_REPLY_FLAG_DONE, and then the error", is_data(m),
         m->chunk.flags = NBD_REPLY_FLAG_DONE)

/* qemu-nbd 7.2 (nbd_co_send_sparse_read): an error of the storage ends the connection, before a chunk or behind some. */
#define BAD_SECTOR UINT64_C(66560)
static bool
meets_bad_sector(const struct outgoing *m)
{
	return is_data(m) && m->offset_data.offset <= BAD_SECTOR &&
	       BAD_SECTOR - m->offset_data.offset < m->offset_data.data.len;
}

CHUNK_LIE(storage_error_closes, BREAKS(R(read_error_chunk_sent)), "a READ of a bad sector ends the connection",
          meets_bad_sector(m), m->drop = true;
          m->after = AFTER_CLOSE)
CHUNK_LIE(storage_error_closes_behind_data, BREAKS(R(read_error_chunk_sent)),
          "a READ of a bad sector gets what stands before it, and the connection ends", meets_bad_sector(m),
          m->offset_data.data.len = BAD_SECTOR - m->offset_data.offset;
          m->chunk.flags = 0; m->after = AFTER_CLOSE)
CHUNK_LIE(storage_error_ends_reply, BREAKS(R(read_covers_range)),
          "a READ of a bad sector gets what stands before it, and no error", meets_bad_sector(m),
          m->offset_data.data.len = BAD_SECTOR - m->offset_data.offset)

/* ---- the same with a simple reply, which cannot tell ---- */

#define LATE_LIE(ident, breaks, text_, ...)                                                                            \
	LIE(ident, ON_OUTGOING, breaks, text_)                                                                         \
	{                                                                                                              \
		if (replies_to(m, NBD_CMD_READ) && m->simple.error != NBD_SUCCESS && !c->structured &&                 \
		    asks_past_end(c, m->request) && m->request->length <= 2 * sizeof(zeroes) && LIE_NOW) {             \
			m->simple.error = NBD_SUCCESS;                                                                 \
			m->simple.data = (struct bytes){ zeroes, m->request->length / 2 };                             \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}

LATE_LIE(late_error_goes_on, BREAKS(R(read_late_error_no_more_data)),
         "a READ past the end begins as if it succeeded, stops, and the next reply follows", )
LATE_LIE(late_error_falls_silent, BREAKS(R(read_late_error_disconnects)),
         "a READ past the end begins as if it succeeded, stops, and nothing more comes", m->after = AFTER_SILENCE)
