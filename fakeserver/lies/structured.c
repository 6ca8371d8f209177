/* Lies about structured replies as such: the header of their chunks, which come, and where a reply ends. */
#include "fakeserver/lies/structured.h"

/* ---- magic ---- */

CHUNK_LIE(chunk_magic_off_by_one, BREAKS(R(structured_reply_magic)), "the magic of chunks is one too large", true,
          m->chunk.magic++)
CHUNK_LIE(chunk_magic_zero, BREAKS(R(structured_reply_magic)), "the magic of chunks is zero", true, m->chunk.magic = 0)
CHUNK_LIE(chunk_magic_ones, BREAKS(R(structured_reply_magic)), "the magic of chunks is all ones", true,
          m->chunk.magic = UINT32_MAX)
CHUNK_LIE(chunk_magic_swapped, BREAKS(R(structured_reply_magic)), "the magic of chunks is in little-endian byte order",
          true, m->chunk.magic = __builtin_bswap32(m->chunk.magic))
CHUNK_LIE(chunk_magic_simple, BREAKS(R(no_simple_reply_to_read)), "chunks begin with the magic of simple replies", true,
          m->chunk.magic = NBD_SIMPLE_REPLY_MAGIC)
CHUNK_LIE(chunk_magic_extended, BREAKS(R(extended_reply_magic_negotiated)),
          "chunks begin with the magic of an extension that was not agreed", true,
          m->chunk.magic = NBD_EXTENDED_REPLY_MAGIC)
CHUNK_LIE(chunk_swapped, BREAKS(R(structured_reply_magic)), "chunks are in little-endian byte order", true,
          m->swap = true)

/* ---- cookie ---- */

CHUNK_LIE(chunk_cookie_off_by_one, BREAKS(R(cookie_echoed)), "chunks carry their request's cookie plus one", true,
          m->chunk.cookie++)
CHUNK_LIE(chunk_cookie_zero, BREAKS(R(cookie_echoed)), "chunks carry no cookie", true, m->chunk.cookie = 0)
CHUNK_LIE(chunk_cookie_ones, BREAKS(R(cookie_echoed)), "chunks carry all ones for their cookie", true,
          m->chunk.cookie = UINT64_MAX)
CHUNK_LIE(chunk_cookie_swapped, BREAKS(R(cookie_echoed)), "chunks carry their cookie in the other byte order", true,
          m->chunk.cookie = __builtin_bswap64(m->chunk.cookie))
CHUNK_LIE(chunk_cookie_32_bits, BREAKS(R(cookie_echoed)), "chunks carry the lower half of their cookie", true,
          m->chunk.cookie &= UINT32_MAX)
KNOB_CHUNK_LIE(second_chunk_cookie_off_by_one, KNOB_read_halves, BREAKS(R(structured_chunks_same_cookie)),
               "the second chunk of a reply has another cookie than the first", m->final, m->chunk.cookie++)
KNOB_CHUNK_LIE(second_chunk_cookie_zero, KNOB_read_halves, BREAKS(R(structured_chunks_same_cookie)),
               "the second chunk of a reply has no cookie", m->final, m->chunk.cookie = 0)

LIE(chunk_cookie_of_the_last, ON_OUTGOING, BREAKS(R(cookie_echoed), R(done_clear_before_last)),
    "chunks carry the cookie of the request before")
{
	uint64_t before = l->arg;

	if (m->kind != MSG_CHUNK || m->request == NULL)
		return;
	l->arg = m->request->cookie;
	if (before != 0 && LIE_NOW)
		m->chunk.cookie = before;
}

/* ---- length ---- */

CHUNK_LIE(chunk_length_one_more, BREAKS(R(structured_chunk_length)), "chunks claim one byte more than they have", true,
          m->length_off = 1)
CHUNK_LIE(chunk_length_one_less, BREAKS(R(structured_chunk_length)), "chunks claim one byte less than they have",
          is_data(m), m->length_off = -1)
CHUNK_LIE(chunk_length_zero, BREAKS(R(structured_chunk_length), R(data_chunk_length)),
          "chunks of data claim to be empty", is_data(m), m->length_off = -8 - (int64_t)m->offset_data.data.len)
CHUNK_LIE(chunk_length_of_data, BREAKS(R(structured_chunk_length)),
          "the length of chunks of data leaves out their offset", is_data(m), m->length_off = -8)
CHUNK_LIE(chunk_length_ones, BREAKS(R(structured_chunk_length)), "chunks claim 4 GiB", is_data(m),
          m->length_off = (int64_t)UINT32_MAX - 8 - (int64_t)m->offset_data.data.len)
CHUNK_LIE(chunk_length_with_header, BREAKS(R(structured_chunk_length)), "the length of chunks includes their header",
          true, m->length_off = CHUNK_HEADER_SIZE)
CHUNK_LIE(chunk_cut, BREAKS(R(structured_chunk_length)), "the connection ends in the middle of a chunk", is_data(m),
          m->cut = CHUNK_HEADER_SIZE + 8 + m->offset_data.data.len / 2;
          m->after = AFTER_CLOSE)
CHUNK_LIE(chunk_reset, BREAKS(R(structured_chunk_length)), "the connection is reset behind a chunk's header", true,
          m->cut = CHUNK_HEADER_SIZE;
          m->after = AFTER_RESET)
CHUNK_LIE(chunk_stalls, BREAKS(R(structured_chunk_length)), "a chunk of data stops, in silence, before its last byte",
          is_data(m), m->cut = CHUNK_HEADER_SIZE + 7 + m->offset_data.data.len;
          m->after = AFTER_SILENCE)
CHUNK_LIE(chunk_header_cut, BREAKS(R(structured_chunk_length)), "the connection ends within a chunk's header", true,
          m->cut = SIMPLE_REPLY_SIZE;
          m->after = AFTER_CLOSE)

/* ---- type ---- */

CHUNK_LIE(chunk_type_undefined, BREAKS(R(chunk_types_defined)), "data come in chunks of type 3", is_data(m),
          m->chunk.type = 3)
CHUNK_LIE(chunk_type_extended_status, BREAKS(R(chunk_types_defined)), "data come in chunks of an extension", is_data(m),
          m->chunk.type = NBD_REPLY_TYPE_BLOCK_STATUS_EXT)
CHUNK_LIE(chunk_type_undefined_error, BREAKS(R(chunk_types_defined)), "errors come in chunks of type 0x8003",
          is_error(m), m->chunk.type = 0x8003)
CHUNK_LIE(chunk_type_ones, BREAKS(R(chunk_types_defined)), "chunks have a type of all ones", true,
          m->chunk.type = UINT16_MAX)
CHUNK_LIE(chunk_type_swapped, BREAKS(R(chunk_types_defined)), "chunks have their type in little-endian byte order",
          true, m->chunk.type = __builtin_bswap16(m->chunk.type))
CHUNK_LIE(chunk_type_zero, BREAKS(R(none_chunk_empty)), "chunks of data have type 0", is_data(m), m->chunk.type = 0)
CHUNK_LIE(data_called_hole, BREAKS(R(hole_chunk_length)), "chunks of data are called holes", is_data(m),
          m->chunk.type = NBD_REPLY_TYPE_OFFSET_HOLE)
CHUNK_LIE(error_without_bit_15, BREAKS(R(chunk_types_defined), R(data_chunk_length)),
          "error chunks lack bit 15 in their type", is_error(m), m->chunk.type &= 0x7fff)

/* libnbd bac8e8c is what a client made of it. */
CHUNK_LIE(status_answers_read, BREAKS(R(status_chunk_only_for_block_status)), "a READ is answered with a status chunk",
          is_data(m), static const uint8_t status[12] = { [6] = 2 };
          become_chunk(m, NBD_REPLY_TYPE_BLOCK_STATUS, (struct bytes){ status, sizeof(status) }))
OTHER_LIE(status_answers_others, BREAKS(R(status_chunk_only_for_block_status)),
          "commands that succeed are answered with a status chunk", m->request->type != NBD_CMD_BLOCK_STATUS,
          static const uint8_t status[12] = { [6] = 2 };
          become_chunk(m, NBD_REPLY_TYPE_BLOCK_STATUS, (struct bytes){ status, sizeof(status) }))
OTHER_LIE(data_answers_write, BREAKS(R(content_chunks_only_for_read)), "a WRITE is answered with a chunk of data",
          m->request->type == NBD_CMD_WRITE, static const uint8_t data[9];
          become_chunk(m, NBD_REPLY_TYPE_OFFSET_DATA, (struct bytes){ data, sizeof(data) }))
OTHER_LIE(hole_answers_zeroes, BREAKS(R(content_chunks_only_for_read)),
          "a TRIM or WRITE_ZEROES is answered with a hole",
          m->request->type == NBD_CMD_TRIM || m->request->type == NBD_CMD_WRITE_ZEROES,
          static const uint8_t hole[12] = { [11] = 1 };
          become_chunk(m, NBD_REPLY_TYPE_OFFSET_HOLE, (struct bytes){ hole, sizeof(hole) }))

/* ---- flags, and the end of a reply ---- */

CHUNK_LIE(chunk_flags_high_bit, BREAKS(R(reply_flags_need_negotiation)), "chunks have bit 15 in their flags", true,
          m->chunk.flags |= 0x8000)
CHUNK_LIE(chunk_flags_next_bit, BREAKS(R(reply_flags_need_negotiation)), "chunks have bit 1 in their flags", true,
          m->chunk.flags |= 2)
CHUNK_LIE(chunk_flags_swapped, BREAKS(R(reply_flags_need_negotiation)),
          "chunks have their flags in little-endian byte order", true,
          m->chunk.flags = __builtin_bswap16(m->chunk.flags))
CHUNK_LIE(chunk_flags_ones, BREAKS(R(reply_flags_need_negotiation)), "chunks have all ones for their flags", true,
          m->chunk.flags = UINT16_MAX)
CHUNK_LIE(done_never, BREAKS(R(done_set_on_last)), "no chunk has NBD_REPLY_FLAG_DONE", true, m->chunk.flags = 0)
CHUNK_LIE(done_not_on_errors, BREAKS(R(done_set_on_last)), "error chunks lack NBD_REPLY_FLAG_DONE", is_error(m),
          m->chunk.flags = 0)
CHUNK_LIE(done_not_on_none, BREAKS(R(done_set_on_last), R(none_chunk_done)),
          "NBD_REPLY_TYPE_NONE lacks NBD_REPLY_FLAG_DONE", is_chunk(m, NBD_REPLY_TYPE_NONE), m->chunk.flags = 0)
KNOB_CHUNK_LIE(none_without_done, KNOB_read_ends_with_none, BREAKS(R(none_chunk_done)),
               "the NBD_REPLY_TYPE_NONE that ends a READ lacks NBD_REPLY_FLAG_DONE", is_chunk(m, NBD_REPLY_TYPE_NONE),
               m->chunk.flags = 0)
KNOB_CHUNK_LIE(none_with_payload, KNOB_read_ends_with_none, BREAKS(R(none_chunk_empty)),
               "NBD_REPLY_TYPE_NONE has four bytes of payload", is_chunk(m, NBD_REPLY_TYPE_NONE),
               m->chunk.data = BYTES_OF("none"))
KNOB_CHUNK_LIE(none_of_others_with_payload, KNOB_structured_successes, BREAKS(R(none_chunk_empty)),
               "NBD_REPLY_TYPE_NONE to a command that is no READ has four bytes of payload",
               is_chunk(m, NBD_REPLY_TYPE_NONE) && m->request->type != NBD_CMD_READ, m->chunk.data = BYTES_OF("none"))
KNOB_CHUNK_LIE(none_of_others_without_done, KNOB_structured_successes, BREAKS(R(none_chunk_done)),
               "NBD_REPLY_TYPE_NONE to a command that is no READ lacks NBD_REPLY_FLAG_DONE",
               is_chunk(m, NBD_REPLY_TYPE_NONE) && m->request->type != NBD_CMD_READ, m->chunk.flags = 0)
KNOB_CHUNK_LIE(done_on_all, KNOB_read_halves, BREAKS(R(done_clear_before_last)), "every chunk has NBD_REPLY_FLAG_DONE",
               !m->final, m->chunk.flags = NBD_REPLY_FLAG_DONE)
KNOB_CHUNK_LIE(done_on_first, KNOB_read_halves, BREAKS(R(done_chunk_last)),
               "the first chunk has NBD_REPLY_FLAG_DONE, the last has not", true, m->chunk.flags ^= NBD_REPLY_FLAG_DONE)
CHUNK_LIE(none_behind_the_end, BREAKS(R(done_clear_before_last)),
          "an NBD_REPLY_TYPE_NONE follows the chunk with NBD_REPLY_FLAG_DONE", is_data(m) && m->final,
          add_chunk(m, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, (struct bytes){ NULL, 0 }))
CHUNK_LIE(open_chunk_behind_the_end, BREAKS(R(done_chunk_last)),
          "a chunk without NBD_REPLY_FLAG_DONE follows one that has it", is_data(m) && m->final,
          add_chunk(m, 0, NBD_REPLY_TYPE_NONE, (struct bytes){ NULL, 0 }))
CHUNK_LIE(error_behind_the_end, BREAKS(R(read_final_content_certain)),
          "an error comes up after data were sent with NBD_REPLY_FLAG_DONE", is_data(m) && m->final,
          add_chunk(m, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, error_payload(NBD_EIO, NULL)))
OTHER_LIE(error_behind_success, BREAKS(R(done_chunk_cannot_fail)),
          "an error comes up after a WRITE was answered with NBD_REPLY_FLAG_DONE", m->request->type == NBD_CMD_WRITE,
          become_chunk(m, NBD_REPLY_TYPE_NONE, (struct bytes){ NULL, 0 });
          add_chunk(m, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, error_payload(NBD_EIO, NULL)))
OTHER_LIE(chunk_behind_simple_reply, BREAKS(R(each_request_one_reply)),
          "a simple reply is followed by an NBD_REPLY_TYPE_NONE to the same request", true,
          add_chunk(m, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, (struct bytes){ NULL, 0 }))
OTHER_LIE(simple_reply_twice_when_structured, BREAKS(R(each_request_one_reply)),
          "simple replies come twice where structured ones were agreed", true, m->repeat = 1)
CHUNK_LIE(chunk_twice, BREAKS(R(done_clear_before_last)), "the last chunk of a reply comes twice", m->final,
          m->repeat = 1)
KNOB_CHUNK_LIE(first_chunk_twice, KNOB_read_halves, BREAKS(R(data_chunk_no_overlap)),
               "the first chunk of a reply comes twice", !m->final, m->repeat = 1)
KNOB_CHUNK_LIE(first_chunk_lost, KNOB_read_halves, BREAKS(R(read_covers_range)), "the first chunk of a reply is lost",
               !m->final, m->drop = true)
KNOB_CHUNK_LIE(last_chunk_lost, KNOB_read_halves, BREAKS(R(done_set_on_last)), "the last chunk of a reply is lost",
               m->final, m->drop = true)
KNOB_CHUNK_LIE(last_chunk_late, KNOB_read_halves, BREAKS(R(done_set_on_last)),
               "the last chunk of a reply waits for the next reply", m->final, m->hold = true)
CHUNK_LIE(structured_reply_lost, BREAKS(R(each_request_one_reply), R(read_reply_structured)),
          "structured replies are never sent", true, m->drop = true)
CHUNK_LIE(chunk_unsolicited, BREAKS(R(cookie_echoed)), "a chunk to a request that was never sent follows each reply",
          m->final, static uint8_t none[CHUNK_HEADER_SIZE] = { 0x66, 0x8e, 0x33, 0xef, 0, 1, [15] = 7 };
          m->extra = ((struct bytes){ none, sizeof(none) }))

/* ---- simple replies where they are forbidden ---- */

CHUNK_LIE(simple_reply_with_data, BREAKS(R(structured_reply_for_payload)),
          "a READ is answered by a simple reply although structured ones were agreed", is_data(m) && m->final,
          struct bytes data = m->offset_data.data;
          m->kind = MSG_SIMPLE_REPLY;
          m->simple = ((struct simple_reply){ NBD_SIMPLE_REPLY_MAGIC, NBD_SUCCESS, m->request->cookie, data }))

static void
become_simple_error(struct outgoing *m, uint32_t error)
{
	m->kind = MSG_SIMPLE_REPLY;
	m->simple = (struct simple_reply){ NBD_SIMPLE_REPLY_MAGIC, error, m->request->cookie, { NULL, 0 } };
}

CHUNK_LIE(simple_error_to_read, BREAKS(R(no_simple_reply_to_read)), "a READ that fails is answered by a simple reply",
          is_error(m) && m->request->type == NBD_CMD_READ, become_simple_error(m, m->error.error))
CHUNK_LIE(simple_error_to_flags, BREAKS(R(no_simple_reply_to_read)),
          "a READ with flags that are unknown is answered by a simple reply",
          is_error(m) && m->request->type == NBD_CMD_READ && (m->request->flags & 0xffe0) != 0,
          become_simple_error(m, NBD_EINVAL))
CHUNK_LIE(simple_reply_to_empty_read, BREAKS(R(no_simple_reply_to_read)),
          "a READ of length 0 is answered by a simple reply",
          m->request->type == NBD_CMD_READ && m->request->length == 0, become_simple_error(m, NBD_SUCCESS))
/* nbd-server 8d0ba31, with structured replies */
CHUNK_LIE(empty_read_gets_no_chunk, BREAKS(R(each_request_one_reply)),
          "a READ of length 0 gets no structured reply either",
          m->request->type == NBD_CMD_READ && m->request->length == 0, m->drop = true)
CHUNK_LIE(empty_read_closes, BREAKS(R(read_zero_no_disconnect)), "a READ of length 0 ends a structured session",
          m->request->type == NBD_CMD_READ && m->request->length == 0, m->drop = true;
          m->after = AFTER_CLOSE)
