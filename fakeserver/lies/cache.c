/* Lies about NBD_CMD_CACHE, which must not matter. */
#include "fakeserver/lies/effects.h"

#include <string.h>

#define CACHE_LIE(ident, breaks, text, condition, ...)                                                                 \
	EFFECT_LIE(ident, NBD_CMD_CACHE, BREAKS(R(breaks)), text, condition, __VA_ARGS__)
#define CACHE_REPLY_LIE(ident, breaks, text, condition, ...)                                                           \
	EFFECT_REPLY_LIE(ident, NBD_CMD_CACHE, BREAKS(R(breaks)), text, condition, __VA_ARGS__)
#define CACHE_INCOMING_LIE(ident, breaks, text, condition, ...)                                                        \
	EFFECT_INCOMING_LIE(ident, NBD_CMD_CACHE, BREAKS(R(breaks)), text, condition, __VA_ARGS__)

/* ---- the data ---- */

CACHE_LIE(cache_zeroes, cache_changes_no_semantics, "CACHE zeroes its range", true, m->type = NBD_CMD_WRITE_ZEROES)
CACHE_LIE(cache_trims, cache_changes_no_semantics, "CACHE trims its range", true, m->type = NBD_CMD_TRIM)
CACHE_LIE(cache_scribbles, cache_changes_no_semantics, "CACHE writes something over the first byte of its range",
          m->length > 0, scribble(m, m->offset, 1))
CACHE_LIE(cache_scribbles_behind, cache_changes_no_semantics, "CACHE writes something over the byte behind its range",
          true, scribble(m, m->offset + m->length, 1))
CACHE_LIE(cache_structured_zeroes, cache_changes_no_semantics, "with structured replies CACHE alters its range",
          c->structured, scribble(m, m->offset, 16))
GROWN_LIE(cache_far_zeroes, NBD_CMD_CACHE, BREAKS(R(cache_changes_no_semantics)),
          "a CACHE past 4 GiB, of 8, trims its range", m->request.offset > UINT32_MAX, m->request.type = NBD_CMD_TRIM)

/* The copy that a CACHE makes is what is read from then on, whatever is written. */
LIE(cache_goes_stale, ON_OUTGOING, BREAKS(R(cache_changes_no_semantics)),
    "a READ within what was cached returns what was there when it was cached")
{
	static uint8_t copy[65536];
	static uint64_t offset;
	static uint32_t length;
	struct bytes *data = &m->simple.data;

	if (replies_to(m, NBD_CMD_CACHE) && m->simple.error == NBD_SUCCESS && m->request->length <= sizeof(copy) &&
	    LIE_NOW) {
		offset = m->request->offset;
		length = m->request->length;
		disk_read(c->export->disk, offset, length, copy);
	}
	if (replies_to(m, NBD_CMD_READ) && data->len > 0 && m->request->offset >= offset &&
	    m->request->offset - offset + data->len <= length && LIE_NOW)
		data->at = copy + (m->request->offset - offset);
}

LIE(cache_drops_write, ON_DISK, BREAKS(R(cache_changes_no_semantics)), "the first WRITE after a CACHE is lost")
{
	if (m->type == NBD_CMD_WRITE && m->error == NBD_SUCCESS && l->arg == c->number && LIE_NOW)
		m->skip = true;
	if (m->type == NBD_CMD_CACHE)
		l->arg = c->number;
	else if (m->type == NBD_CMD_WRITE)
		l->arg = 0;
}

LIE(cache_other_connection_stale, ON_DISK, BREAKS(R(cache_changes_no_semantics)),
    "after a CACHE another connection's WRITE is lost")
{
	if (m->type == NBD_CMD_WRITE && m->error == NBD_SUCCESS && l->arg != 0 && l->arg != c->number && LIE_NOW)
		m->skip = true;
	if (m->type == NBD_CMD_CACHE)
		l->arg = c->number;
}

LIE(cache_failed_then_reads_fail, ON_DISK, BREAKS(R(cache_changes_no_semantics)),
    "once a CACHE has failed, the next READ fails with NBD_EIO")
{
	if (m->type == NBD_CMD_READ && m->error == NBD_SUCCESS && l->arg == 1 && LIE_NOW)
		m->error = NBD_EIO;
	l->arg = m->type == NBD_CMD_CACHE && m->error != NBD_SUCCESS;
}

LIE(cache_shifts_reads, ON_DISK, BREAKS(R(cache_changes_no_semantics)), "the second READ after a CACHE is one byte off")
{
	if (m->type == NBD_CMD_CACHE)
		l->arg = c->number;
	else if (m->type == NBD_CMD_READ && m->error == NBD_SUCCESS && l->arg == c->number && LIE_NOW)
		m->offset++;
}

/* ---- on the wire ---- */

CACHE_INCOMING_LIE(cache_swallows, request_payload_consumed, "as many bytes as a CACHE's length are dropped", true,
                   m->consumed += m->request.length)
CACHE_INCOMING_LIE(cache_swallows_a_byte, request_payload_consumed, "behind a CACHE a byte is lost", true,
                   m->consumed++)
CACHE_REPLY_LIE(cache_returns_a_byte, cache_no_payload, "CACHE's reply has a byte behind it", true,
                m->extra = BYTES_OF("c"))
CACHE_REPLY_LIE(cache_failed_returns_data, cache_changes_no_semantics,
                "the reply to a CACHE past the end has data behind it", m->simple.error != NBD_SUCCESS,
                m->extra = BYTES_OF("cached so far"))
CACHE_REPLY_LIE(cache_unanswered, each_request_one_reply, "CACHE gets no reply", true, m->drop = true)
CACHE_REPLY_LIE(cache_zero_unanswered, each_request_one_reply, "a CACHE of length 0 gets no reply",
                m->request->length == 0, m->drop = true)
CACHE_REPLY_LIE(cache_zero_closes, transmission_no_disconnect, "a CACHE of length 0 ends the connection",
                m->request->length == 0, m->drop = true;
                m->after = AFTER_CLOSE)
CACHE_REPLY_LIE(cache_answered_twice, cache_no_payload, "CACHE is answered when it begins, and again when it is done",
                true, m->repeat = 1)

/* ---- errors ---- */

CACHE_LIE(cache_enotsup, no_enotsup, "CACHE is advertised, and gets NBD_ENOTSUP", true, m->error = NBD_ENOTSUP)
CACHE_LIE(cache_eoverflow, no_eoverflow, "a CACHE of more than 64 KiB gets NBD_EOVERFLOW", m->length > 65536,
          m->error = NBD_EOVERFLOW)

CACHE_REPLY_LIE(cache_past_end_errno, cache_error_code, "a CACHE past the end gets the host's ESPIPE",
                m->simple.error != NBD_SUCCESS, m->simple.error = 29)
CACHE_REPLY_LIE(cache_past_end_negative, cache_error_code, "a CACHE past the end gets a negative error",
                m->simple.error != NBD_SUCCESS, m->simple.error = -m->simple.error)
CACHE_REPLY_LIE(cache_past_end_swapped, cache_error_code, "a CACHE past the end gets its error in little-endian order",
                m->simple.error != NBD_SUCCESS, m->simple.error = __builtin_bswap32(m->simple.error))
CACHE_REPLY_LIE(cache_past_end_enospc, unaligned_or_past_end_einval, "a CACHE past the end gets NBD_ENOSPC",
                m->simple.error != NBD_SUCCESS, m->simple.error = NBD_ENOSPC)
CACHE_REPLY_LIE(cache_past_end_closes, unaligned_or_past_end_einval, "a CACHE past the end ends the connection",
                m->simple.error != NBD_SUCCESS, m->drop = true;
                m->after = AFTER_CLOSE)
CACHE_REPLY_LIE(cache_past_end_unanswered, each_request_one_reply, "a CACHE past the end gets no reply",
                m->simple.error != NBD_SUCCESS, m->drop = true)

/* ---- flags ---- */

enum { KNOWN_FLAGS = 0x3f };

CACHE_INCOMING_LIE(cache_unknown_flags_taken, cache_rejects_unknown_flags, "CACHE ignores flags that it does not know",
                   true, m->request.flags &= KNOWN_FLAGS)
CACHE_INCOMING_LIE(cache_high_flags_taken, cache_rejects_unknown_flags,
                   "of CACHE's flags only the low byte is looked at", true, m->request.flags &= 0xff)
CACHE_INCOMING_LIE(cache_inapplicable_flags_taken, inapplicable_flag_einval,
                   "CACHE ignores the flags of other commands", true,
                   m->request.flags &= (uint16_t) ~(KNOWN_FLAGS & ~NBD_CMD_FLAG_FUA))
CACHE_REPLY_LIE(cache_unknown_flags_eio, unknown_command_flag_einval, "a CACHE with unknown flags gets NBD_EIO",
                m->request->flags > KNOWN_FLAGS, m->simple.error = NBD_EIO)
CACHE_REPLY_LIE(cache_unknown_flags_close, unknown_command_flag_einval,
                "a CACHE with unknown flags ends the connection", m->request->flags > KNOWN_FLAGS, m->drop = true;
                m->after = AFTER_CLOSE)
