/* Lies about NBD_CMD_BLOCK_STATUS. */
#include "fakeserver/disk.h"
#include "fakeserver/lies/advertise.h"

#include <stdlib.h>
#include <string.h>

/* ---- the chunks ---- */

static bool
is_status(const struct outgoing *m)
{
	return m->kind == MSG_CHUNK && m->payload == PAYLOAD_BLOCK_STATUS && m->request != NULL && m->n_extents > 0;
}

static bool
is_error(const struct outgoing *m)
{
	return m->kind == MSG_CHUNK && m->payload == PAYLOAD_ERROR && m->request != NULL &&
	       m->request->type == NBD_CMD_BLOCK_STATUS;
}

static bool
wants_one(const struct outgoing *m)
{
	return (m->request->flags & NBD_CMD_FLAG_REQ_ONE) != 0;
}

static bool
is_base(const struct conn *c, const struct outgoing *m)
{
	for (unsigned i = 0; i < c->n_contexts; i++)
		if (c->contexts[i].context == META_ALLOCATION && c->contexts[i].id == m->block_status.context_id)
			return true;
	return false;
}

#define STATUS_LIE(ident, breaks_, text_, when, ...)                                                                   \
	LIE(ident, ON_OUTGOING, breaks_, text_)                                                                        \
	{                                                                                                              \
		if (is_status(m) && (when) && LIE_NOW) {                                                               \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}

STATUS_LIE(status_simple, BREAKS(R(status_success_structured)), "a simple reply tells of success", m->final,
           m->simple = (struct simple_reply){ NBD_SIMPLE_REPLY_MAGIC, NBD_SUCCESS, m->request->cookie, { NULL, 0 } };
           m->kind = MSG_SIMPLE_REPLY)
/* nbdkit 4ec2f0a0 */
STATUS_LIE(status_type_data, BREAKS(R(content_chunks_only_for_read)), "a status comes as NBD_REPLY_TYPE_OFFSET_DATA",
           true, m->chunk.type = NBD_REPLY_TYPE_OFFSET_DATA)
STATUS_LIE(status_type_none, BREAKS(R(none_chunk_empty)), "a status comes as NBD_REPLY_TYPE_NONE", true,
           m->chunk.type = NBD_REPLY_TYPE_NONE)
STATUS_LIE(status_type_off_by_one, BREAKS(R(chunk_types_defined)), "a status comes as NBD_REPLY_TYPE_BLOCK_STATUS_EXT",
           true, m->chunk.type = NBD_REPLY_TYPE_BLOCK_STATUS_EXT)
STATUS_LIE(status_type_error, BREAKS(R(error_chunk_message_fits)), "a status comes as NBD_REPLY_TYPE_ERROR", true,
           m->chunk.type = NBD_REPLY_TYPE_ERROR)
/* nbdkit 80033669 */
STATUS_LIE(status_length_unset, BREAKS(R(status_chunk_length)), "a status chunk has length 0", true,
           m->length_off = -(int64_t)(4 + 8 * m->n_extents))
STATUS_LIE(status_length_1_less, BREAKS(R(status_chunk_length)), "a status chunk's length is one byte too short", true,
           m->length_off = -1)
STATUS_LIE(status_length_1_more, BREAKS(R(status_chunk_length)), "a status chunk's length is one byte too long", true,
           m->length_off = 1)
STATUS_LIE(status_length_of_extents, BREAKS(R(status_chunk_length)),
           "a status chunk's length does not count the context ID", true, m->length_off = -4)
STATUS_LIE(status_length_ones, BREAKS(R(structured_chunk_length)), "a status chunk's length is 0xffffffff", true,
           m->length_off = -(int64_t)(4 + 8 * m->n_extents) - 1)
STATUS_LIE(status_half_an_extent, BREAKS(R(status_chunk_length)), "a status chunk ends within its last extent", true,
           m->length_off = -4;
           m->cut = CHUNK_HEADER_SIZE + 8 * m->n_extents)
STATUS_LIE(status_without_extents, BREAKS(R(extent_at_least_one)), "a status chunk has no extents", true,
           m->n_extents = 0)
STATUS_LIE(status_cut, BREAKS(R(structured_chunk_length)), "the connection ends within a status chunk", true,
           m->cut = CHUNK_HEADER_SIZE + 6;
           m->after = AFTER_CLOSE)
STATUS_LIE(status_cookie_off_by_one, BREAKS(R(cookie_echoed)), "a status has the next cookie", true, m->chunk.cookie++)
STATUS_LIE(status_cookie_zero, BREAKS(R(cookie_echoed)), "a status has the cookie 0", true, m->chunk.cookie = 0)
STATUS_LIE(status_header_swapped, BREAKS(R(structured_reply_magic), R(simple_reply_magic)),
           "a status comes in the other byte order", true, m->swap = true)
STATUS_LIE(status_not_done, BREAKS(R(done_set_on_last)), "the last status chunk is not marked as the last", m->final,
           m->chunk.flags = 0)
STATUS_LIE(status_flag_unknown, BREAKS(R(reply_flags_need_negotiation)),
           "a status chunk has flags that are not defined", true, m->chunk.flags |= 2)
STATUS_LIE(status_unanswered, BREAKS(R(each_request_one_reply)), "BLOCK_STATUS gets no reply", true, m->drop = true)
STATUS_LIE(status_closes, BREAKS(R(each_request_one_reply)), "BLOCK_STATUS ends the connection", true, m->drop = true;
           m->after = AFTER_CLOSE)

/* ---- the contexts ---- */

STATUS_LIE(status_id_zero, BREAKS(R(status_chunk_names_context)), "a status names the context 0", true,
           m->block_status.context_id = 0)
STATUS_LIE(status_id_ones, BREAKS(R(status_chunk_names_context)), "a status names the context 0xffffffff", true,
           m->block_status.context_id = UINT32_MAX)
STATUS_LIE(status_id_off_by_one, BREAKS(R(status_chunk_names_context)), "a status names the context before its own",
           true, m->block_status.context_id--)
STATUS_LIE(status_id_swapped, BREAKS(R(status_chunk_names_context)),
           "a status names its context in the other byte order", true,
           m->block_status.context_id = __builtin_bswap32(m->block_status.context_id))
STATUS_LIE(status_id_of_first, BREAKS(R(status_chunk_per_context_id)), "every status names the first context", true,
           m->block_status.context_id = c->contexts[0].id)
STATUS_LIE(status_twice, BREAKS(R(status_chunk_per_context_id)), "all status chunks but the last come twice", !m->final,
           m->repeat = 1)
STATUS_LIE(status_of_last_only, BREAKS(R(status_chunk_per_context)), "of several contexts only the last one is told of",
           !m->final, m->drop = true)

LIE(status_of_first_only, ON_OUTGOING, BREAKS(R(status_chunk_per_context)),
    "of several contexts only the first one is told of")
{
	if (!is_status(m) || (m->final && c->n_contexts == 1) || !LIE_NOW)
		return;
	m->drop = m->block_status.context_id != c->contexts[0].id;
	m->chunk.flags = NBD_REPLY_FLAG_DONE;
}

STATUS_LIE(status_is_none, BREAKS(R(status_chunk_per_context)), "NBD_REPLY_TYPE_NONE tells of success", m->final,
           m->chunk.type = NBD_REPLY_TYPE_NONE;
           m->payload = PAYLOAD_RAW; m->chunk.data = (struct bytes){ NULL, 0 })

/* Each chunk is another context's. */
STATUS_LIE(
	status_contexts_mixed_up, BREAKS(R(status_flags_of_context)),
	"the status of each context is that of the one after it", c->n_contexts > 1,
	for (unsigned i = 0; i < c->n_contexts; i++) if (c->contexts[i].id == m->block_status.context_id) {
		m->block_status.context_id = c->contexts[(i + 1) % c->n_contexts].id;
		break;
	})
STATUS_LIE(status_contexts_joined, BREAKS(R(status_flags_of_context)),
           "with several contexts all blocks are zeroes that are allocated", c->n_contexts > 1,
           for (size_t i = 0; i < m->n_extents; i++) m->extents[i].flags = NBD_STATE_ZERO)

/* ---- lengths of extents ---- */

static uint64_t
sum_of(const struct outgoing *m)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < m->n_extents; i++)
		sum += m->extents[i].length;
	return sum;
}

/* The last extent becomes two, of which the second has `length` bytes and its own flags. */
static void
split_last(struct outgoing *m, uint32_t length, uint32_t flags)
{
	m->extents[m->n_extents - 1].length -= length;
	m->extents[m->n_extents++] = (struct extent){ length, flags };
}

static uint32_t
last_length(const struct outgoing *m)
{
	return m->extents[m->n_extents - 1].length;
}

STATUS_LIE(extent_first_empty, BREAKS(R(extent_length_nonzero)), "the first extent has length 0", true,
           m->extents[0].length = 0)
STATUS_LIE(extent_empty_behind, BREAKS(R(extent_length_nonzero)), "an extent of length 0 stands behind the last one",
           !wants_one(m), m->extents[m->n_extents++] = (struct extent){ 0, NBD_STATE_HOLE })
STATUS_LIE(extent_lengths_swapped, BREAKS(R(req_one_within_request), R(extents_start_at_offset)),
           "the lengths of extents come in the other byte order", true,
           for (size_t i = 0; i < m->n_extents; i++) m->extents[i].length = __builtin_bswap32(m->extents[i].length))
STATUS_LIE(req_one_ignored, BREAKS(R(req_one_one_extent), R(req_one_single_extent)),
           "two extents answer a request with REQ_ONE", wants_one(m) && last_length(m) >= 1024,
           split_last(m, last_length(m) / 1024 * 512, 0))
STATUS_LIE(req_one_length_ones, BREAKS(R(req_one_within_request)),
           "an extent as long as can be answers a request with REQ_ONE", wants_one(m),
           m->extents[0].length = UINT32_MAX / 512 * 512)
STATUS_LIE(req_one_too_long, BREAKS(R(req_one_within_request)),
           "an extent 512 bytes longer than the request answers one with REQ_ONE",
           wants_one(m) && m->extents[0].length == m->request->length, m->extents[0].length += 512)
/* nbdkit 1.32 has `pos > offset + count` for where to stop. */
STATUS_LIE(extents_one_too_many, BREAKS(R(extents_before_last_shorter)), "an extent stands behind the requested range",
           !wants_one(m) && sum_of(m) == m->request->length &&
                   c->export->size - m->request->offset - m->request->length >= 4096,
           m->extents[m->n_extents++] = (struct extent){ 4096, 0 })
STATUS_LIE(extents_past_the_end, BREAKS(R(extents_start_at_offset)),
           "the last extent reaches past the end of the export",
           !wants_one(m) && m->request->offset + sum_of(m) == c->export->size,
           m->extents[m->n_extents - 1].length += 512)
STATUS_LIE(extents_not_merged, BREAKS(R(extents_merged)), "two extents of one status stand side by side",
           !wants_one(m) && last_length(m) >= 1024, split_last(m, 512, m->extents[m->n_extents - 1].flags))
STATUS_LIE(extents_odd, BREAKS(R(extents_multiple_of_512)), "an extent of 100 bytes is split off the last one",
           !wants_one(m) && last_length(m) >= 1024,
           split_last(m, 100, m->extents[m->n_extents - 1].flags != 0 ? 0 : NBD_STATE_HOLE))

LIE(extents_below_min_block, ON_OUTGOING, BREAKS(R(extents_multiple_of_min_block)),
    "advertises a minimum block size of 4096, and splits extents at 512")
{
	if (tells_blocks(m) && LIE_NOW)
		advertise_blocks(m, 4096, NBD_DEFAULT_MAX_PAYLOAD);
	else if (is_status(m) && !wants_one(m) && last_length(m) >= 4096 && LIE_NOW)
		split_last(m, 512, m->extents[m->n_extents - 1].flags != 0 ? 0 : NBD_STATE_HOLE);
}

/* nbdkit 6e0dc839: extents of a byte, without a bound. */
LIE(extents_amplify, ON_OUTGOING, BREAKS(R(extent_count_limited)), "more than 2^20 extents tell of a long range")
{
	enum { MANY = (1 << 20) + 1 };
	static struct extent *many;
	uint32_t each;

	if (!is_status(m) || wants_one(m) || m->request->length < 2 * MANY || !LIE_NOW)
		return;
	if (many == NULL && (many = calloc(MANY, sizeof(*many))) == NULL)
		abort();
	each = m->request->length / MANY;
	for (unsigned i = 0; i < MANY; i++)
		many[i] = (struct extent){ each, i % 2 };
	m->extents = many;
	m->n_extents = MANY;
}

/* ---- the status ---- */

#define EACH_EXTENT(i) for (size_t i = 0; i < m->n_extents; i++)

STATUS_LIE(status_reserved_bit_2, BREAKS(R(allocation_reserved_flags_zero)), "base:allocation has bit 2 set",
           is_base(c, m), m->extents[0].flags |= 4)
STATUS_LIE(status_reserved_bit_31, BREAKS(R(allocation_reserved_flags_zero)), "base:allocation has bit 31 set",
           is_base(c, m), m->extents[m->n_extents - 1].flags |= 1u << 31)
STATUS_LIE(status_flags_swapped, BREAKS(R(allocation_reserved_flags_zero)), "the status comes in the other byte order",
           is_base(c, m), EACH_EXTENT(i) m->extents[i].flags = __builtin_bswap32(m->extents[i].flags))
STATUS_LIE(status_all_zeroes, BREAKS(R(state_zero_reads_zeroes)), "base:allocation calls everything zeroes",
           is_base(c, m), EACH_EXTENT(i) m->extents[i].flags |= NBD_STATE_ZERO)
STATUS_LIE(status_inverted, BREAKS(R(state_zero_reads_zeroes)), "base:allocation has NBD_STATE_ZERO where data is",
           is_base(c, m), EACH_EXTENT(i) m->extents[i].flags ^= NBD_STATE_ZERO)
STATUS_LIE(
	status_zero_reaches_back, BREAKS(R(state_zero_reads_zeroes)),
	"what is called zeroes begins 512 bytes too early", is_base(c, m) && m->n_extents > 1,
	for (size_t i = 0; i + 1 < m->n_extents;
             i++) if ((m->extents[i + 1].flags & NBD_STATE_ZERO) != 0 && m->extents[i].length > 512) {
		m->extents[i].length -= 512;
		m->extents[i + 1].length += 512;
	})
STATUS_LIE(
	status_zero_reaches_on, BREAKS(R(state_zero_reads_zeroes)), "what is called zeroes ends 512 bytes too late",
	is_base(c, m) && m->n_extents > 1,
	for (size_t i = 0; i + 1 < m->n_extents;
             i++) if ((m->extents[i].flags & NBD_STATE_ZERO) != 0 && m->extents[i + 1].length > 512) {
		m->extents[i].length += 512;
		m->extents[i + 1].length -= 512;
	})
STATUS_LIE(status_of_first_extent, BREAKS(R(state_zero_reads_zeroes)),
           "the status of the second extent stands for all behind it", is_base(c, m) && m->n_extents > 2,
           for (size_t i = 2; i < m->n_extents; i++) m->extents[1].length += m->extents[i].length;
           m->n_extents = 2)
STATUS_LIE(req_one_tells_nothing, BREAKS(R(status_reported_when_easy)), "with REQ_ONE every status is 0",
           is_base(c, m) && wants_one(m), m->extents[0].flags = 0)

LIE(status_told_once, ON_OUTGOING, BREAKS(R(status_reported_when_easy)), "only every third status is more than 0")
{
	if (is_status(m) && is_base(c, m) && ++l->arg % 3 != 1 && LIE_NOW)
		EACH_EXTENT(i)
	m->extents[i].flags = 0;
}

/* What was found out once is told again, whatever was written since. */
LIE(status_cached, ON_OUTGOING, BREAKS(R(state_zero_reads_zeroes)),
    "the first status of a range that is all zeroes is kept for ever")
{
	static uint64_t offset;
	static uint32_t length;

	if (!is_status(m) || !is_base(c, m) || wants_one(m))
		return;
	if (length == 0 && m->n_extents == 1 && (m->extents[0].flags & NBD_STATE_ZERO) != 0 &&
	    m->request->length > 65536) {
		offset = m->request->offset;
		length = m->request->length;
	} else if (length == m->request->length && offset == m->request->offset && LIE_NOW) {
		m->extents[0] = (struct extent){ length, NBD_STATE_ZERO };
		m->n_extents = 1;
	}
}

/* The disk is not as blank as it says. */
LIE(status_of_junk, ON_OUTGOING, BREAKS(R(state_zero_reads_zeroes)),
    "what was never written reads as junk, and is called zeroes")
{
	static uint8_t junk[1 << 20];

	if (m->kind != MSG_CHUNK || m->payload != PAYLOAD_OFFSET_DATA || m->offset_data.data.len > sizeof(junk))
		return;
	memset(junk, 0, sizeof(junk));
	if (memcmp(junk, m->offset_data.data.at, m->offset_data.data.len) != 0 || !LIE_NOW)
		return;
	memset(junk, 0xdb, sizeof(junk));
	m->offset_data.data.at = junk;
}

#define DISK_LIE(ident, breaks_, text_, when, ...)                                                                     \
	LIE(ident, ON_DISK, breaks_, text_)                                                                            \
	{                                                                                                              \
		if (m->type == NBD_CMD_BLOCK_STATUS && (when) && LIE_NOW) {                                            \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}
#define GOOD (m->error == NBD_SUCCESS)

DISK_LIE(status_offset_zero, BREAKS(R(extents_start_at_offset)), "the status is that of the start of the export", GOOD,
         m->offset = 0)
DISK_LIE(status_offset_off_by_one, BREAKS(R(extents_start_at_offset)),
         "the status is that of the byte after the offset, unless that is 0",
         GOOD && m->offset > 0 && m->offset + m->length < c->export->size, m->offset++)
DISK_LIE(status_offset_in_blocks, BREAKS(R(extents_start_at_offset)),
         "the extents begin where the 64 KiB block begins that the offset is in", GOOD, m->offset &= ~(uint64_t)65535)
DISK_LIE(status_offset_24_bits, BREAKS(R(extents_start_at_offset)), "the status is that of the offset's low 24 bits",
         GOOD, m->offset &= 0xffffff)
DISK_LIE(status_offset_swapped, BREAKS(R(extents_start_at_offset)), "the offset is taken in the other byte order",
         GOOD && m->offset != 0, m->offset = __builtin_bswap64(m->offset) % c->export->size)
DISK_LIE(status_of_next_page, BREAKS(R(state_zero_reads_zeroes), R(extents_start_at_offset)),
         "the status is that of 4096 bytes further on", GOOD && m->offset + m->length + 4096 <= c->export->size,
         m->offset += 4096)

/* ---- errors ---- */

DISK_LIE(status_fails_einval, BREAKS(R(status_error_code)), "BLOCK_STATUS always fails with NBD_EINVAL", GOOD,
         m->error = NBD_EINVAL)
DISK_LIE(status_fails_eperm, BREAKS(R(status_error_code)), "BLOCK_STATUS of more than 4096 bytes fails with NBD_EPERM",
         GOOD && m->length > 4096, m->error = NBD_EPERM)
DISK_LIE(status_fails_enospc, BREAKS(R(status_error_code)), "BLOCK_STATUS of the last byte fails with NBD_ENOSPC",
         GOOD && m->offset + m->length == c->export->size, m->error = NBD_ENOSPC)
DISK_LIE(status_fails_at_zero_offset, BREAKS(R(status_error_code)),
         "BLOCK_STATUS with an offset fails with NBD_ENOTSUP", GOOD && m->offset != 0, m->error = NBD_ENOTSUP)
DISK_LIE(status_fua_refused, BREAKS(R(fua_accepted)), "BLOCK_STATUS with FUA fails with NBD_EINVAL",
         GOOD && (m->flags & NBD_CMD_FLAG_FUA) != 0, m->error = NBD_EINVAL)
DISK_LIE(status_errno, BREAKS(R(error_values_listed)), "BLOCK_STATUS past the end gets the host's EFBIG",
         m->error == NBD_EINVAL && m->offset + m->length > c->export->size, m->error = 27)

#define PAST_END (m->request->length > 0 && m->request->offset + m->request->length > c->export->size)

DISK_LIE(status_past_end_served, BREAKS(R(status_past_end_einval)), "BLOCK_STATUS past the end is served",
         m->error == NBD_EINVAL && PAST_END && c->n_contexts > 0, m->error = NBD_SUCCESS;
         m->skip = false)
DISK_LIE(status_past_end_enospc, BREAKS(R(status_past_end_einval)), "BLOCK_STATUS past the end gets NBD_ENOSPC",
         m->error == NBD_EINVAL && PAST_END, m->error = NBD_ENOSPC)
/* nbd-server 6d9223e's shape */
DISK_LIE(status_range_wraps, BREAKS(R(status_past_end_einval)),
         "BLOCK_STATUS whose offset plus length exceeds 64 bits is served",
         m->error == NBD_EINVAL && m->length > 0 && m->offset + m->length < m->offset && c->n_contexts > 0,
         m->error = NBD_SUCCESS;
         m->offset = 0; m->skip = false)

#define ERROR_LIE(ident, breaks_, text_, when, ...)                                                                    \
	LIE(ident, ON_OUTGOING, breaks_, text_)                                                                        \
	{                                                                                                              \
		if (is_error(m) && (when) && LIE_NOW) {                                                                \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}

ERROR_LIE(status_past_end_closes, BREAKS(R(status_past_end_einval)), "BLOCK_STATUS past the end ends the connection",
          PAST_END, m->drop = true;
          m->after = AFTER_CLOSE)
ERROR_LIE(status_past_end_unanswered, BREAKS(R(each_request_one_reply)), "BLOCK_STATUS past the end gets no reply",
          PAST_END, m->drop = true)
ERROR_LIE(status_past_end_error_zero, BREAKS(R(error_chunk_nonzero)), "BLOCK_STATUS past the end gets the error 0",
          PAST_END, m->error.error = NBD_SUCCESS)
ERROR_LIE(status_empty_closes, BREAKS(R(status_zero_no_disconnect)), "BLOCK_STATUS of length 0 ends the connection",
          m->request->length == 0, m->drop = true;
          m->after = AFTER_CLOSE)
ERROR_LIE(status_empty_unanswered, BREAKS(R(each_request_one_reply)), "BLOCK_STATUS of length 0 gets no reply",
          m->request->length == 0, m->drop = true)
ERROR_LIE(status_without_context_eperm, BREAKS(R(status_without_context_einval)),
          "BLOCK_STATUS without a context gets NBD_EPERM", c->n_contexts == 0 || c->context_export != c->export,
          m->error.error = NBD_EPERM)
ERROR_LIE(status_without_context_closes, BREAKS(R(status_without_context_einval)),
          "BLOCK_STATUS without a context ends the connection", c->n_contexts == 0 || c->context_export != c->export,
          m->drop = true;
          m->after = AFTER_CLOSE)

LIE(status_empty_dies, ON_PROCESS, BREAKS(R(greeting_magic), R(each_request_one_reply)),
    "dies of a BLOCK_STATUS of length 0")
{
	if (m->moment == PROCESS_INCOMING && m->request != NULL && m->request->type == NBD_CMD_BLOCK_STATUS &&
	    m->request->length == 0 && LIE_NOW)
		m->die = true;
}

/* nbdkit 1.32.5 aborts where 2^32 - 1 bytes are asked for and one extent is longer; here it takes less. */
LIE(status_of_all_dies, ON_PROCESS, BREAKS(R(each_request_one_reply)), "dies of a BLOCK_STATUS of 48 MiB or more")
{
	if (m->moment == PROCESS_INCOMING && m->request != NULL && m->request->type == NBD_CMD_BLOCK_STATUS &&
	    m->request->length >= 48 << 20 && LIE_NOW)
		m->die = true;
}

LIE(status_unaligned_closes, ON_OUTGOING, BREAKS(R(unaligned_or_past_end_einval)),
    "advertises a minimum block size of 4096; BLOCK_STATUS off it ends the connection")
{
	if (tells_blocks(m) && LIE_NOW) {
		advertise_blocks(m, 4096, NBD_DEFAULT_MAX_PAYLOAD);
	} else if (is_status(m) && ((m->request->offset | m->request->length) & 4095) != 0 && LIE_NOW) {
		m->drop = true;
		m->after = AFTER_CLOSE;
	}
}

LIE(status_unaligned_served, ON_OUTGOING, BREAKS(R(unaligned_or_past_end_einval)),
    "advertises a minimum block size of 4096; BLOCK_STATUS off it is served")
{
	if (tells_blocks(m) && LIE_NOW)
		advertise_blocks(m, 4096, NBD_DEFAULT_MAX_PAYLOAD);
}

/* ---- several requests at once ---- */

LIE(status_in_flight_mixed_up, ON_OUTGOING, BREAKS(R(status_chunk_per_context)),
    "of requests that come together two are answered under one cookie")
{
	if (!is_status(m) || !wants_one(m) || m->request->offset == 0)
		return;
	if (++l->arg == 2 && LIE_NOW)
		m->chunk.cookie--;
}

LIE(status_in_flight_lost, ON_OUTGOING, BREAKS(R(each_request_one_reply)),
    "of requests that come together the last is not answered")
{
	if (is_status(m) && wants_one(m) && m->request->offset > 0 && ++l->arg == 7 && LIE_NOW)
		m->drop = true;
}

/* ---- space ---- */

LIE(allocated_write_enospc, ON_DISK, BREAKS(R(allocated_write_no_enospc)),
    "once BLOCK_STATUS was asked, a WRITE to what it calls data gets NBD_ENOSPC")
{
	uint64_t run;

	if (m->type == NBD_CMD_BLOCK_STATUS)
		l->arg = 1;
	if (l->arg == 1 && m->type == NBD_CMD_WRITE && m->error == NBD_SUCCESS && m->offset < c->export->size &&
	    disk_state(c->export->disk, m->offset, &run) == DISK_DATA && LIE_NOW) {
		m->error = NBD_ENOSPC;
		m->skip = true;
	}
}

LIE(hole_write_eio, ON_DISK, BREAKS(R(write_stored)), "a WRITE to what is reported to be a hole gets NBD_EIO")
{
	uint64_t run;

	if (m->type == NBD_CMD_WRITE && m->error == NBD_SUCCESS && m->offset >= 40 << 20 &&
	    m->offset < c->export->size && disk_state(c->export->disk, m->offset, &run) == DISK_TRIMMED && LIE_NOW) {
		m->error = NBD_EIO;
		m->skip = true;
	}
}
