/* Lies of transmission: what is made of replies, and what the user is told. */
#include "fakeserver/client/lies/helpers.h"

#define RECEIVING_LIE(ident, breaks, text_, when, ...)                                                                 \
	CLIENT_LIE_WHERE(ident, RECEIVING, breaks, text_, when, __VA_ARGS__)

static bool
is_final(const struct fc_receiving *m)
{
	return m->kind == MSG_SIMPLE_REPLY || (m->chunk->flags & NBD_REPLY_FLAG_DONE) != 0;
}

static bool
is_answer(const struct fc_receiving *m)
{
	return m->op != NULL && (m->kind == MSG_SIMPLE_REPLY || m->kind == MSG_CHUNK);
}

static bool
is_content(const struct fc_receiving *m)
{
	return is_chunk(m, NBD_REPLY_TYPE_OFFSET_DATA) || is_chunk(m, NBD_REPLY_TYPE_OFFSET_HOLE);
}

/* The reply never comes to an end. */
static void
lose(struct fc_receiving *m)
{
	m->ignore = true;
	if (m->kind == MSG_CHUNK)
		m->chunk->flags = 0;
}

/* ---- errors that are not told (CVE-2022-0485, nbdcopy) ---- */

#define HIDDEN_LIE(ident, cmd, name)                                                                                   \
	CLIENT_LIE(ident, ANSWER, BREAKS(R(client_error_chunk_fails_reply), R(client_no_data_after_error)),            \
	           "says that a " name " has succeeded which the server has failed")                                   \
	{                                                                                                              \
		if (!is_command(op, cmd) || !op->sent || op->error[0] == '\0' || !CLIENT_LIE_NOW)                      \
			return;                                                                                        \
		op->error[0] = '\0';                                                                                   \
		take_for_whole(op);                                                                                    \
	}
HIDDEN_LIE(failed_read_succeeds, NBD_CMD_READ, "READ")
HIDDEN_LIE(failed_write_succeeds, NBD_CMD_WRITE, "WRITE")
HIDDEN_LIE(failed_flush_succeeds, NBD_CMD_FLUSH, "FLUSH")
HIDDEN_LIE(failed_trim_succeeds, NBD_CMD_TRIM, "TRIM")
HIDDEN_LIE(failed_zeroes_succeed, NBD_CMD_WRITE_ZEROES, "WRITE_ZEROES")
HIDDEN_LIE(failed_cache_succeeds, NBD_CMD_CACHE, "CACHE")
HIDDEN_LIE(failed_block_status_succeeds, NBD_CMD_BLOCK_STATUS, "BLOCK_STATUS")

CLIENT_LIE(failed_fua_succeeds, ANSWER, BREAKS(R(client_error_chunk_fails_reply), R(client_no_data_after_error)),
           "says that a command with FUA has succeeded which the server has failed")
{
	if (op->ask == FC_COMMAND && (op->request.flags & NBD_CMD_FLAG_FUA) != 0 && op->sent && op->error[0] != '\0' &&
	    CLIENT_LIE_NOW)
		op->error[0] = '\0';
}

/* Where an errno of the host is meant, 12 bits are all that it looks at. */
RECEIVING_LIE(error_of_8_bits, BREAKS(R(unexpected_error_as_einval)), "looks at the low byte of an error only",
              is_answer(m) && error_of(m) != 0 && (error_of(m) & 0xff) == 0 && m->kind == MSG_SIMPLE_REPLY,
              m->simple->error = 0;
              take_for_whole(m->op))
RECEIVING_LIE(error_chunk_ignored, BREAKS(R(client_error_chunk_fails_reply)), "ignores error chunks",
              is_error_chunk(m) && m->op != NULL, m->ignore = true;
              take_for_whole(m->op))
RECEIVING_LIE(error_chunk_before_last_ignored, BREAKS(R(client_error_chunk_fails_reply)),
              "lets the last chunk alone decide whether a reply is an error",
              is_error_chunk(m) && m->op != NULL && !is_final(m), m->ignore = true;
              take_for_whole(m->op))
RECEIVING_LIE(error_offset_ignored, BREAKS(R(client_error_chunk_fails_reply)), "ignores errors that have an offset",
              is_chunk(m, NBD_REPLY_TYPE_ERROR_OFFSET) && m->op != NULL, m->ignore = true;
              take_for_whole(m->op))
/* libnbd 97fab5e */
RECEIVING_LIE(error_chunk_of_0_is_success, BREAKS(R(inconsistent_chunk_disconnects), R(client_error_chunk_fails_reply)),
              "takes an error chunk with error 0 for success", is_error_chunk(m) && m->op != NULL && error_of(m) == 0,
              m->ignore = true;
              take_for_whole(m->op))
CLIENT_LIE(read_error_behind_data_ignored, RECEIVING,
           BREAKS(R(error_chunk_no_partial_success), R(read_error_voids_data), R(client_error_chunk_fails_reply)),
           "takes a READ for good when an error comes behind all of its data")
{
	if (is_error_chunk(m) && is_command(m->op, NBD_CMD_READ) && m->op->n_covered == m->op->request.length &&
	    CLIENT_LIE_NOW)
		m->ignore = true;
}
CLIENT_LIE(read_error_with_data_ignored, RECEIVING,
           BREAKS(R(error_chunk_no_partial_success), R(read_error_voids_data), R(client_error_chunk_fails_reply)),
           "takes a READ for good when any data came before an error")
{
	if (!is_error_chunk(m) || !is_command(m->op, NBD_CMD_READ) || m->op->n_covered == 0 || !CLIENT_LIE_NOW)
		return;
	m->ignore = true;
	take_for_whole(m->op);
}
CLIENT_LIE(data_behind_error_repairs, RECEIVING, BREAKS(R(read_error_voids_data), R(client_error_chunk_fails_reply)),
           "forgets the error of a READ when data come behind it")
{
	if (is_content(m) && m->op != NULL && m->op->error[0] != '\0' && CLIENT_LIE_NOW)
		m->op->error[0] = '\0';
}
CLIENT_LIE(status_error_behind_extents_ignored, RECEIVING,
           BREAKS(R(error_chunk_no_partial_success), R(client_error_chunk_fails_reply)),
           "takes a BLOCK_STATUS for good when an error comes behind its extents")
{
	if (!is_error_chunk(m) || !is_command(m->op, NBD_CMD_BLOCK_STATUS) || m->op->said.len == 0 || !CLIENT_LIE_NOW)
		return;
	m->ignore = true;
	take_for_whole(m->op);
}
RECEIVING_LIE(unknown_error_chunk_ignored, BREAKS(R(unknown_error_chunk_fails), R(client_error_chunk_fails_reply)),
              "ignores error chunks of types that it does not know",
              is_error_chunk(m) && m->op != NULL && m->chunk->type > NBD_REPLY_TYPE_ERROR_OFFSET, m->ignore = true;
              take_for_whole(m->op))
RECEIVING_LIE(unknown_error_chunk_dies, BREAKS(R(unknown_error_chunk_fails)),
              "dies of error chunks of types that it does not know",
              is_error_chunk(m) && m->chunk->type > NBD_REPLY_TYPE_ERROR_OFFSET, abort())

/* @vates/nbd-client 9ef5389 */
CLIENT_LIE(one_error_fails_all, ANSWER, BREAKS(R(client_takes_replies_unordered)),
           "fails all requests in flight when one fails")
{
	struct fc_op *o;

	if (op->ask != FC_COMMAND || op->error[0] == '\0' || !CLIENT_LIE_NOW)
		return;
	for (o = TAILQ_FIRST(&s->ops); o != NULL; o = TAILQ_NEXT(o, entry))
		fc_fail(o, op->error);
}

static bool
is_defined(uint32_t error)
{
	static const uint32_t defined[] = { NBD_EPERM,  NBD_EIO,       NBD_ENOMEM,  NBD_EINVAL,
		                            NBD_ENOSPC, NBD_EOVERFLOW, NBD_ENOTSUP, NBD_ESHUTDOWN };

	for (size_t i = 0; i < sizeof(defined) / sizeof(defined[0]); i++)
		if (error == defined[i])
			return true;
	return false;
}

RECEIVING_LIE(unexpected_error_leaves, BREAKS(R(unexpected_error_as_einval)),
              "leaves over an error that it does not know",
              is_answer(m) && error_of(m) != 0 && !is_defined(error_of(m)), m->leave = true)
RECEIVING_LIE(unexpected_error_dies, BREAKS(R(unexpected_error_as_einval)), "dies of an error that it does not know",
              is_answer(m) && error_of(m) != 0 && !is_defined(error_of(m)), abort())
RECEIVING_LIE(unexpected_error_is_success, BREAKS(R(unexpected_error_as_einval)),
              "takes an error that it does not know for success",
              is_answer(m) && error_of(m) != 0 && !is_defined(error_of(m)), take_for_whole(m->op);
              m->ignore = m->kind == MSG_CHUNK; set_error(m, 0))
RECEIVING_LIE(unexpected_error_is_eio, BREAKS(R(unexpected_error_as_einval)),
              "takes an error that it does not know for NBD_EIO",
              is_answer(m) && error_of(m) != 0 && !is_defined(error_of(m)), set_error(m, NBD_EIO))
RECEIVING_LIE(error_leaves, BREAKS(R(client_transmission_no_disconnect)), "closes the connection on any error",
              is_answer(m) && error_of(m) != 0, m->leave = true)
RECEIVING_LIE(error_waits, BREAKS(R(client_no_data_after_error), R(client_error_chunk_fails_reply)),
              "waits for ever for a request that has failed", is_answer(m) && error_of(m) != 0, lose(m))
RECEIVING_LIE(error_dies, BREAKS(R(client_no_data_after_error), R(client_error_chunk_fails_reply)), "dies of any error",
              is_answer(m) && error_of(m) != 0, abort())

/* ---- how long a reply is ---- */

RECEIVING_LIE(error_reply_awaits_data, BREAKS(R(client_no_data_after_error)),
              "awaits data behind a simple reply that is an error",
              m->kind == MSG_SIMPLE_REPLY && is_command(m->op, NBD_CMD_READ) && m->simple->error != 0,
              s->skip = m->op->request.length)
RECEIVING_LIE(error_text_unread, BREAKS(R(client_reads_chunk_length)), "leaves the text of an error chunk unread",
              is_error_chunk(m) && m->chunk->length > 6, s->want -= m->chunk->length - 6)
RECEIVING_LIE(error_offset_unread, BREAKS(R(client_reads_chunk_length)), "leaves the offset of an error chunk unread",
              is_chunk(m, NBD_REPLY_TYPE_ERROR_OFFSET) && m->chunk->length >= 14, s->want -= 8)
RECEIVING_LIE(hole_read_as_data, BREAKS(R(client_reads_chunk_length), R(read_chunks_reassembled)),
              "takes 4 bytes of a hole chunk for the next", is_chunk(m, NBD_REPLY_TYPE_OFFSET_HOLE), s->want -= 4)
RECEIVING_LIE(second_extents_unread, BREAKS(R(client_reads_chunk_length)),
              "reads the first extent of a chunk, and leaves the others unread",
              is_chunk(m, NBD_REPLY_TYPE_BLOCK_STATUS) && m->chunk->length > 12, s->want -= m->chunk->length - 12)
/* digitalocean/go-nbd 70348df */
RECEIVING_LIE(split_chunk_overread, BREAKS(R(client_reads_chunk_length), R(read_chunks_reassembled)),
              "takes what remains of the request for the length of a data chunk",
              is_chunk(m, NBD_REPLY_TYPE_OFFSET_DATA) && m->op != NULL && m->chunk->length < m->op->request.length + 8,
              s->skip = m->op->request.length + 8 - m->chunk->length)
CLIENT_LIE_WHERE(short_read_is_whole, STATE, BREAKS(R(client_reads_chunk_length), R(baseline_client_read)),
                 "takes what one recv() has brought for all of a payload", moment == FC_STATE_TRANSMISSION,
                 s->hasty = true)

/* ---- which request it answers ---- */

static struct fc_op *
first_in_flight(struct fc_session *s)
{
	struct fc_op *op;

	for (op = TAILQ_FIRST(&s->ops); op != NULL; op = TAILQ_NEXT(op, entry))
		if (op->ask == FC_COMMAND && op->sent)
			return op;
	return NULL;
}

static struct fc_op *
last_in_flight(struct fc_session *s)
{
	struct fc_op *op, *last = NULL;

	for (op = TAILQ_FIRST(&s->ops); op != NULL; op = TAILQ_NEXT(op, entry))
		if (op->ask == FC_COMMAND && op->sent)
			last = op;
	return last;
}

RECEIVING_LIE(replies_in_order, BREAKS(R(client_takes_replies_unordered)),
              "takes each reply for that to its oldest request", is_answer(m) && m->op != first_in_flight(s),
              m->op = first_in_flight(s))
RECEIVING_LIE(replies_to_the_last, BREAKS(R(client_takes_replies_unordered)),
              "takes each reply for that to its latest request", is_answer(m) && m->op != last_in_flight(s),
              m->op = last_in_flight(s))
RECEIVING_LIE(leaves_over_unordered_replies, BREAKS(R(client_takes_replies_unordered)),
              "leaves over a reply that comes before that to an older request",
              is_answer(m) && m->op != first_in_flight(s), m->leave = true)
RECEIVING_LIE(unordered_replies_lost, BREAKS(R(client_takes_replies_unordered)),
              "loses replies that come before that to an older request", is_answer(m) && m->op != first_in_flight(s),
              lose(m))

CLIENT_LIE(leaves_over_interleaved_chunks, RECEIVING, BREAKS(R(client_takes_interleaved_chunks)),
           "leaves over a chunk that comes before the end of another reply")
{
	if (m->kind != MSG_CHUNK)
		return;
	if (l->memory != 0 && l->memory != m->chunk->cookie && CLIENT_LIE_NOW)
		m->leave = true;
	l->memory = is_final(m) ? 0 : m->chunk->cookie;
}

CLIENT_LIE(interleaved_chunks_mixed_up, RECEIVING, BREAKS(R(client_takes_interleaved_chunks)),
           "takes a chunk for one of the reply that is not yet at its end")
{
	struct fc_op *op;

	if (m->kind != MSG_CHUNK)
		return;
	op = l->memory != 0 ? fc_op_in_flight(s, l->memory) : NULL;
	if (op != NULL && op != m->op && CLIENT_LIE_NOW)
		m->op = op;
	l->memory = is_final(m) ? 0 : m->op != NULL ? m->op->request.cookie : 0;
}

RECEIVING_LIE(leaves_over_simple_replies, BREAKS(R(baseline_client_simple_replies)), "leaves over a simple reply",
              m->kind == MSG_SIMPLE_REPLY, m->leave = true)
RECEIVING_LIE(dies_of_simple_replies, BREAKS(R(baseline_client_simple_replies), R(client_transmission_no_disconnect)),
              "dies of a simple reply where structured replies were agreed",
              m->kind == MSG_SIMPLE_REPLY && s->facts.structured, abort())
RECEIVING_LIE(dies_without_structured_replies,
              BREAKS(R(baseline_client_simple_replies), R(client_transmission_no_disconnect)),
              "dies of a simple reply where structured replies were not agreed",
              m->kind == MSG_SIMPLE_REPLY && !s->facts.structured, abort())

/* ---- chunks of a READ ---- */

static struct buf rewritten; /* payload of a chunk */

static void
move_content(struct fc_receiving *m, uint64_t offset)
{
	buf_clear(&rewritten);
	put_be64(&rewritten, offset);
	if (m->chunk->data.len > 8)
		buf_put(&rewritten, m->chunk->data.at + 8, m->chunk->data.len - 8);
	m->chunk->data = (struct bytes){ rewritten.at, rewritten.len };
}

RECEIVING_LIE(chunks_put_as_they_come, BREAKS(R(read_chunks_reassembled)),
              "puts the chunks of a READ one behind the other, as they come",
              is_content(m) && is_command(m->op, NBD_CMD_READ),
              move_content(m, m->op->request.offset + m->op->n_covered))
CLIENT_LIE(chunks_put_at_the_beginning, RECEIVING, BREAKS(R(read_chunks_reassembled)),
           "puts every chunk of a READ at its beginning")
{
	if (!is_content(m) || !is_command(m->op, NBD_CMD_READ) || !CLIENT_LIE_NOW)
		return;
	move_content(m, m->op->request.offset);
	free(m->op->covered);
	m->op->covered = NULL;
}
RECEIVING_LIE(first_chunk_is_all, BREAKS(R(read_chunks_reassembled)),
              "takes the first chunk of a READ for all of it, and the rest for zeroes",
              is_content(m) && is_command(m->op, NBD_CMD_READ) && m->op->n_covered > 0, m->ignore = true;
              take_for_whole(m->op))
RECEIVING_LIE(chunk_offsets_relative, BREAKS(R(read_chunks_reassembled)),
              "takes the offset of a chunk for one within the request",
              is_content(m) && is_command(m->op, NBD_CMD_READ) && m->op->request.offset > 0 && m->chunk->data.len >= 8,
              m->leave = true)
RECEIVING_LIE(chunk_offsets_of_32_bits, BREAKS(R(read_chunks_reassembled)), "takes the low half of a chunk's offset",
              is_content(m) && is_command(m->op, NBD_CMD_READ) && m->op->request.offset > UINT32_MAX,
              move_content(m, m->op->request.offset &UINT32_MAX))
/* digitalocean/go-nbd f03e1bb */
CLIENT_LIE(hole_not_zeroed, RECEIVING, BREAKS(R(read_chunks_reassembled)), "leaves garbage where a READ has a hole")
{
	struct chunk_offset_hole hole;

	if (!is_chunk(m, NBD_REPLY_TYPE_OFFSET_HOLE) || !is_command(m->op, NBD_CMD_READ))
		return;
	wire_get_chunk_offset_hole(wire_over(m->chunk->data), &hole);
	if (hole.size > m->op->request.length || !CLIENT_LIE_NOW)
		return;
	buf_clear(&rewritten);
	put_be64(&rewritten, hole.offset);
	memset(buf_grow(&rewritten, hole.size), 0xaa, hole.size);
	m->chunk->type = NBD_REPLY_TYPE_OFFSET_DATA;
	m->chunk->length = (uint32_t)rewritten.len;
	m->chunk->data = (struct bytes){ rewritten.at, rewritten.len };
}
RECEIVING_LIE(leaves_over_holes, BREAKS(R(read_chunks_reassembled)), "does not know hole chunks",
              is_chunk(m, NBD_REPLY_TYPE_OFFSET_HOLE), m->leave = true)
RECEIVING_LIE(none_chunk_is_error, BREAKS(R(none_chunk_taken_as_success)), "takes NBD_REPLY_TYPE_NONE for an error",
              is_chunk(m, NBD_REPLY_TYPE_NONE) && m->op != NULL, fc_fail(m->op, "EIO"))
RECEIVING_LIE(none_chunk_ends_no_read, BREAKS(R(none_chunk_taken_as_final), R(none_chunk_taken_as_success)),
              "leaves when a READ ends in NBD_REPLY_TYPE_NONE",
              is_chunk(m, NBD_REPLY_TYPE_NONE) && is_command(m->op, NBD_CMD_READ), m->leave = true)
RECEIVING_LIE(none_chunk_waits, BREAKS(R(none_chunk_taken_as_final), R(none_chunk_taken_as_success)),
              "waits for more behind NBD_REPLY_TYPE_NONE", is_chunk(m, NBD_REPLY_TYPE_NONE), m->ignore = true;
              m->chunk->flags = 0)
/* digitalocean/go-nbd f4c19ae */
RECEIVING_LIE(done_inverted, BREAKS(R(read_chunks_reassembled), R(none_chunk_taken_as_final)),
              "takes NBD_REPLY_FLAG_DONE for its contrary", m->kind == MSG_CHUNK && m->op != NULL,
              m->chunk->flags ^= NBD_REPLY_FLAG_DONE)
RECEIVING_LIE(reply_flags_leave, BREAKS(R(reply_flags_unknown_ignored)),
              "leaves over chunk flags that it does not know",
              m->kind == MSG_CHUNK && (m->chunk->flags & ~NBD_REPLY_FLAG_DONE) != 0, m->leave = true)
RECEIVING_LIE(reply_flags_compared, BREAKS(R(reply_flags_unknown_ignored)),
              "takes a chunk for the last one only where no other flag is set",
              m->kind == MSG_CHUNK && m->chunk->flags != NBD_REPLY_FLAG_DONE, m->chunk->flags = 0)

static uint64_t
payload_of(const struct fc_receiving *m)
{
	return m->kind == MSG_CHUNK ? m->chunk->length : m->kind == MSG_SIMPLE_REPLY ? m->simple->data.len : 0;
}

RECEIVING_LIE(payload_of_16_mebibytes_leaves, BREAKS(R(client_takes_32_mebibytes)),
              "leaves over a payload of more than 16 MiB", payload_of(m) > 1u << 24, m->leave = true)
RECEIVING_LIE(payload_above_maximum_leaves, BREAKS(R(client_takes_32_mebibytes)),
              "leaves over a payload above the maximum payload size",
              s->facts.export.has_block &&payload_of(m) > s->facts.export.block.maximum, m->leave = true)

/* ---- extents ---- */

struct sums {
	uint64_t length;
	bool hole, unknown, repeated;
};

static struct sums
sums_of(const struct fc_receiving *m)
{
	struct chunk_block_status status;
	struct sums sums = { 0 };
	uint32_t last = 0;

	if (!is_chunk(m, NBD_REPLY_TYPE_BLOCK_STATUS))
		return sums;
	wire_get_chunk_block_status(wire_over(m->chunk->data), &status);
	for (size_t i = 0; i < status.extents.len / EXTENT_SIZE; i++) {
		struct extent e = chunk_extent(&status, i);

		sums.length += e.length;
		sums.hole |= (e.flags & 3) == NBD_STATE_HOLE;
		sums.unknown |= (e.flags & ~3u) != 0;
		sums.repeated |= i > 0 && e.flags == last;
		last = e.flags;
	}
	return sums;
}

static bool
is_status(const struct fc_receiving *m)
{
	return is_chunk(m, NBD_REPLY_TYPE_BLOCK_STATUS) && is_command(m->op, NBD_CMD_BLOCK_STATUS);
}

RECEIVING_LIE(long_extents_leave, BREAKS(R(client_takes_any_extent_length)),
              "leaves over extents that reach beyond the request",
              is_status(m) && sums_of(m).length > m->op->request.length, m->leave = true)
RECEIVING_LIE(short_extents_leave, BREAKS(R(client_takes_any_extent_length)),
              "leaves over extents that end before the request",
              is_status(m) && sums_of(m).length < m->op->request.length, m->leave = true)
RECEIVING_LIE(short_extents_fail, BREAKS(R(client_takes_any_extent_length)),
              "fails a BLOCK_STATUS whose extents end before the request",
              is_status(m) && sums_of(m).length < m->op->request.length, fc_fail(m->op, "EIO"))
RECEIVING_LIE(long_extents_die, BREAKS(R(client_takes_any_extent_length)),
              "dies of extents that reach beyond the request",
              is_status(m) && sums_of(m).length > m->op->request.length, abort())
CLIENT_LIE(unequal_contexts_leave, RECEIVING, BREAKS(R(client_takes_unequal_contexts)),
           "leaves where the extents of two contexts have not the same length")
{
	uint64_t length = sums_of(m).length;

	if (!is_status(m))
		return;
	if (m->op->n_extents > 0 && l->memory != length && CLIENT_LIE_NOW)
		m->leave = true;
	l->memory = length;
}
RECEIVING_LIE(hole_without_zero_leaves, BREAKS(R(client_takes_hole_without_zero)),
              "leaves over an extent that is a hole and not zeroes", is_status(m) && sums_of(m).hole, m->leave = true)
RECEIVING_LIE(unknown_status_leaves, BREAKS(R(client_ignores_status_flags)),
              "leaves over status flags that it does not know", is_status(m) && sums_of(m).unknown, m->leave = true)
RECEIVING_LIE(unknown_status_fails, BREAKS(R(client_ignores_status_flags)),
              "fails a BLOCK_STATUS with status flags that it does not know", is_status(m) && sums_of(m).unknown,
              fc_fail(m->op, "EINVAL"))
RECEIVING_LIE(same_status_leaves, BREAKS(R(extents_same_status_handled)),
              "leaves over two extents of the same status, one behind the other", is_status(m) && sums_of(m).repeated,
              m->leave = true)
RECEIVING_LIE(same_status_fails, BREAKS(R(extents_same_status_handled)),
              "fails a BLOCK_STATUS with two extents of the same status, one behind the other",
              is_status(m) && sums_of(m).repeated, fc_fail(m->op, "EINVAL"))

static void
change_flags(struct fc_receiving *m, uint32_t (*change)(uint32_t flags))
{
	struct chunk_block_status status;

	wire_get_chunk_block_status(wire_over(m->chunk->data), &status);
	buf_clear(&rewritten);
	put_be32(&rewritten, status.context_id);
	for (size_t i = 0; i < status.extents.len / EXTENT_SIZE; i++) {
		struct extent e = chunk_extent(&status, i);

		e.flags = change(e.flags);
		wire_put_extent(&rewritten, e);
	}
	m->chunk->data = (struct bytes){ rewritten.at, rewritten.len };
}

static uint32_t
hole_is_zero(uint32_t flags)
{
	return (flags & NBD_STATE_HOLE) != 0 ? flags | NBD_STATE_ZERO : flags;
}

static uint32_t
any_is_zero(uint32_t flags)
{
	return (flags & ~3u) != 0 ? flags | NBD_STATE_HOLE | NBD_STATE_ZERO : flags;
}

RECEIVING_LIE(hole_is_taken_for_zero, BREAKS(R(client_hole_not_zero)), "takes every hole for zeroes",
              is_status(m) && sums_of(m).hole, change_flags(m, hole_is_zero))
RECEIVING_LIE(unknown_status_is_zero, BREAKS(R(client_ignores_status_flags)),
              "takes an extent with flags that it does not know for a hole", is_status(m) && sums_of(m).unknown,
              change_flags(m, any_is_zero))

/* An error without a message in its place. */
static void
mend_error(struct fc_receiving *m)
{
	static const uint8_t failed[] = { 0, 0, 0, NBD_EIO, 0, 0 };

	m->chunk->type = NBD_REPLY_TYPE_ERROR;
	m->chunk->length = sizeof(failed);
	m->chunk->data = (struct bytes){ failed, sizeof(failed) };
}

RECEIVING_LIE(unknown_error_unlooked_at, BREAKS(R(unknown_error_chunk_overlong)),
              "goes on after an error chunk of a type that it does not know, whatever is in it",
              is_error_chunk(m) && m->chunk->type > NBD_REPLY_TYPE_ERROR_OFFSET, mend_error(m))

/* ---- what cannot be, and is put up with ---- */

#define PUTS_UP_LIE(ident, rule, text_, check)                                                                         \
	CLIENT_LIE_WHERE(ident, VIOLATION, BREAKS(R(rule)), text_, strcmp(v->what, check) == 0, v->forgive = true)
#define DIES_LIE(ident, rule, text_, check)                                                                            \
	CLIENT_LIE_WHERE(ident, VIOLATION, BREAKS(R(rule), R(client_transmission_no_disconnect)), text_,               \
	                 strcmp(v->what, check) == 0, abort())

PUTS_UP_LIE(unknown_chunk_taken, unknown_chunk_disconnects, "goes on after a chunk of a type that it does not know",
            "an unknown chunk type")
PUTS_UP_LIE(data_for_no_read_taken, unknown_chunk_disconnects, "goes on after data in answer to another command",
            "data in answer to another command")
PUTS_UP_LIE(hole_for_no_read_taken, unknown_chunk_disconnects, "goes on after a hole in answer to another command",
            "a hole in answer to another command")
PUTS_UP_LIE(extents_for_no_status_taken, unknown_chunk_disconnects,
            "goes on after extents in answer to another command", "extents in answer to another command")
PUTS_UP_LIE(overlong_message_taken, inconsistent_chunk_disconnects, "takes a message that is longer than its chunk",
            "a message longer than its chunk")
PUTS_UP_LIE(empty_data_taken, inconsistent_chunk_disconnects, "takes a data chunk without data",
            "the length of NBD_REPLY_TYPE_OFFSET_DATA")
PUTS_UP_LIE(hole_of_any_length_taken, inconsistent_chunk_disconnects, "takes a hole chunk of a wrong length",
            "the length of NBD_REPLY_TYPE_OFFSET_HOLE")
PUTS_UP_LIE(none_of_any_length_taken, inconsistent_chunk_disconnects, "takes NBD_REPLY_TYPE_NONE with data",
            "the length of NBD_REPLY_TYPE_NONE")
PUTS_UP_LIE(none_without_done_taken, inconsistent_chunk_disconnects,
            "takes NBD_REPLY_TYPE_NONE without NBD_REPLY_FLAG_DONE", "NBD_REPLY_TYPE_NONE without NBD_REPLY_FLAG_DONE")
PUTS_UP_LIE(extents_of_any_length_taken, inconsistent_chunk_disconnects,
            "takes a chunk of extents that has not the length of any", "the length of NBD_REPLY_TYPE_BLOCK_STATUS")
PUTS_UP_LIE(foreign_context_taken, inconsistent_chunk_disconnects, "takes extents of a context that was not selected",
            "extents of no context that was selected")
PUTS_UP_LIE(error_outside_taken, inconsistent_chunk_disconnects, "takes an error at an offset outside of the request",
            "an error at an offset outside of the request")
PUTS_UP_LIE(error_0_is_einval, inconsistent_chunk_disconnects, "takes an error chunk with error 0 for an error",
            "an error chunk without an error")
/* libnbd f75f602: there it was written outside of the buffer. */
PUTS_UP_LIE(chunk_outside_taken, inconsistent_chunk_disconnects, "goes on after a chunk outside of the request",
            "a chunk outside of the request")
PUTS_UP_LIE(overlapping_chunks_taken, inconsistent_chunk_disconnects, "takes chunks that overlap",
            "chunks that overlap")
PUTS_UP_LIE(incomplete_read_taken, inconsistent_chunk_disconnects, "takes a reply that lacks what was asked for",
            "a reply that lacks what was asked for")
/* digitalocean/go-nbd 4388797 */
PUTS_UP_LIE(structured_unagreed_taken, inconsistent_chunk_disconnects, "takes structured replies that were not agreed",
            "a structured reply that was not agreed")

DIES_LIE(chunk_outside_dies, inconsistent_chunk_disconnects, "dies of a chunk outside of the request",
         "a chunk outside of the request")
/* CVE-2023-5871 (libnbd) */
DIES_LIE(impossible_extents_die, inconsistent_chunk_disconnects, "dies of extents that cannot be",
         "extents that cannot be")
DIES_LIE(extents_of_any_length_die, inconsistent_chunk_disconnects, "dies of a chunk of extents of a wrong length",
         "the length of NBD_REPLY_TYPE_BLOCK_STATUS")
/* libnbd 6f238ad */
DIES_LIE(overlong_message_dies, inconsistent_chunk_disconnects, "dies of a message that is longer than its chunk",
         "a message longer than its chunk")
/* libnbd 15d0f03 */
DIES_LIE(error_outside_dies, inconsistent_chunk_disconnects, "dies of an error at an offset outside of the request",
         "an error at an offset outside of the request")
/* libnbd bac8e8c */
DIES_LIE(extents_for_no_status_die, unknown_chunk_disconnects, "dies of extents in answer to another command",
         "extents in answer to another command")
DIES_LIE(unknown_chunk_dies, unknown_chunk_disconnects, "dies of a chunk of a type that it does not know",
         "an unknown chunk type")
DIES_LIE(no_such_request_dies, client_takes_replies_unordered, "dies of a reply to no request", "a reply to no request")

#define HANGS_LIE(ident, rule, text_, check)                                                                           \
	CLIENT_LIE(ident, VIOLATION, BREAKS(R(rule)), text_)                                                           \
	{                                                                                                              \
		if (strcmp(v->what, check) != 0 || !CLIENT_LIE_NOW)                                                    \
			return;                                                                                        \
		v->forgive = s->deaf = true;                                                                           \
		s->skip = UINT64_MAX;                                                                                  \
	}
HANGS_LIE(unknown_chunk_hangs, unknown_chunk_disconnects,
          "hears nothing more after a chunk of a type that it does not know", "an unknown chunk type")
HANGS_LIE(chunk_outside_hangs, inconsistent_chunk_disconnects,
          "hears nothing more after a chunk outside of the request", "a chunk outside of the request")
