/* Errors in structured replies, and those in the middle of a READ (proto.md:1890-1940, 1966-1973, 2007-2041). */
#include "cases/server/structured.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* After our violation the server may leave even now (proto.md:447). */
static bool
goes_on_with_read(struct test *t)
{
	struct sent q = send_command(t, 0, NBD_CMD_READ, 0, unit_of(t), NULL);

	if (!peer_goes_on(t, R(structured_chunk_length)))
		return false;
	recv_reply(t, &q, R(structured_chunk_length));
	return true;
}

/* ---- READs past the end ---- */

/* Without an error at large, chunks without an error behind them are valid, others up to it (proto.md:2032-2037). */
static void
expect_valid_part(struct test *t, const struct sent *q, const struct reply *r, const uint8_t *want, uint32_t exists)
{
	uint64_t valid = r->error_offset - q->offset;

	if (r->n_error > 0 || r->n_error_offset != 1)
		return;
	expect_content(t, r, want, valid < exists ? (uint32_t)valid : exists, q->offset);
}

static void
read_beyond(struct test *t, struct range range)
{
	uint64_t size = usable_size(t);
	uint32_t exists = range.offset < size ? (uint32_t)(size - range.offset) : 0;
	uint8_t *want = room(exists);
	struct reply r;
	struct sent q;

	exists = exists < range.length ? exists : range.length;
	/* What exists can be had by itself. */
	if (exists > 0)
		read_served(t, range.offset, exists, want, R(read_returns_data));
	else
		read_served(t, 0, unit_of(t), room(unit_of(t)), R(read_returns_data));
	q = send_command(t, 0, NBD_CMD_READ, range.offset, range.length, NULL);
	if (!recv_reply_or_end(t, &q, &r))
		return;
	EXPECT_ERROR(t, R(read_past_end_einval), r.error, NBD_EINVAL);
	expect_valid_part(t, &q, &r, want, exists);
	if (!goes_on_with_read(t))
		expect_next_served(t);
}

/* The chunks of the partial reply are judged as they come (harness/structured.c). */
CASE(structured, past_the_end,
     "A READ past the end gets a structured error, NBD_EINVAL, perhaps beside what there is, and the stream goes on",
     R(read_past_end_einval), R(no_simple_reply_to_read), R(structured_chunk_length), R(read_error_chunk_sent),
     R(read_error_completes_chunk), R(read_error_pads_chunk), R(read_error_padding_zero), R(read_error_only_one),
     R(read_error_may_lack_content), R(read_content_before_its_error), R(read_errors_not_mixed), R(error_chunk_layout),
     R(error_chunk_length), R(error_chunk_message_fits), R(error_chunk_message_limit), R(error_chunk_message_text),
     R(error_chunk_nonzero), R(error_offset_length), R(error_offset_in_bounds), R(error_offset_distinct),
     R(error_offset_once_per_chunk), R(error_offset_nonzero), R(error_values_listed), R(server_strings_no_nul),
     R(server_strings_short), R(data_chunk_contents), R(read_final_content_certain), R(done_set_on_last))
{
	for (enum beyond b = 0; b < BEYOND_KINDS; b++)
		POINT(t, "%s", beyond_name(b)) {
			enter_structured(t);
			need_size(t, unit_of(t));
			read_beyond(t, range_beyond(t, b));
		}
	POINT(t, "half-behind-the-end") {
		uint32_t half;

		enter_structured(t);
		half = blocks(t, 65536);
		need_size(t, half);
		need_range(t, 0, 2 * half <= t->s->size ? 2 * half : half);
		read_beyond(t, (struct range){ usable_size(t) - half, 2 * half });
	}
}

/* ---- storage that fails ---- */

enum { IN_A_ROW = 16, SPREAD = 16 };

static void
read_somewhere(struct test *t, uint64_t offset, uint32_t length)
{
	struct sent q = send_command(t, 0, NBD_CMD_READ, offset, length, NULL);
	struct reply r;

	if (!peer_goes_on(t, R(each_request_one_reply)))
		broken(t, R(read_error_chunk_sent),
		       "the connection is closed after a READ of %" PRIu32 " bytes at %" PRIu64, length, offset);
	r = recv_reply(t, &q, R(read_error_chunk_sent));
	if (r.error != NBD_SUCCESS)
		observe(t, R(read_error_chunk_sent),
		        "the READ of %" PRIu32 " bytes at %" PRIu64 " fails with error %" PRIu32, length, offset,
		        r.error);
	free_reply(&r);
}

/*
 * proto.md:2014-2019: we broke nothing, so a READ that the storage fails is answered all the same. qemu-nbd 7.2 closes the
 * connection instead, which takes storage that really fails to see (blkdebug, a bad disk).
 */
CASE(structured, storage_may_fail, "READs all over the export are each answered, with data or with an error chunk",
     R(read_error_chunk_sent), R(each_request_one_reply), R(read_covers_range))
{
	uint32_t length;
	uint64_t step;

	enter_structured(t);
	length = blocks(t, 65536);
	need_range(t, 0, length);
	for (uint64_t i = 0; i < IN_A_ROW && (i + 1) * length <= t->s->size; i++)
		read_somewhere(t, i * length, length);
	step = t->s->size / SPREAD / length * length;
	for (uint64_t i = 1; i < SPREAD && step > 0; i++)
		read_somewhere(t, i * step, length);
}

/* ---- requests that are wrong in another way ---- */

static void
refused(struct test *t, uint16_t flags, uint16_t type, struct range range, const void *data)
{
	struct reply r;
	struct sent q;

	read_served(t, 0, blocks(t, 512), room(blocks(t, 512)), R(read_returns_data));
	q = send_command(t, flags, type, range.offset, range.length, data);
	if (!recv_reply_or_end(t, &q, &r))
		return;
	if (r.error != NBD_SUCCESS)
		observe(t, R(structured_errors_preferred), "a %s reply tells the error",
		        r.structured ? "structured" : "simple");
	if (!goes_on_with_read(t))
		expect_next_served(t);
}

/* proto.md:395-397, 2348 */
CASE(structured, flags_on_read, "A READ with a flag that is unknown, or does not apply, gets a structured reply",
     R(no_simple_reply_to_read), R(structured_chunk_length), R(error_chunk_layout), R(error_chunk_nonzero))
{
	static const uint16_t flags[] = {
		NBD_CMD_FLAG_NO_HOLE, NBD_CMD_FLAG_REQ_ONE, NBD_CMD_FLAG_FAST_ZERO, 1 << 5, 1 << 8, 1 << 15, 0xffe0
	};

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		POINT(t, "flags=0x%04x", flags[i]) {
			enter_structured(t);
			need_range(t, 0, blocks(t, 4096));
			refused(t, flags[i], NBD_CMD_READ, (struct range){ 0, blocks(t, 4096) }, NULL);
		}
}

static const struct {
	const char *name;
	uint16_t type, flag, flags;
	bool past_end, writes;
} wrong[] = {
	{ "write-past-the-end", NBD_CMD_WRITE, 0, 0, true, true },
	{ "trim-past-the-end", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, 0, true, true },
	{ "zeroes-past-the-end", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, 0, true, true },
	{ "cache-past-the-end", NBD_CMD_CACHE, NBD_FLAG_SEND_CACHE, 0, true, false },
	{ "status-without-contexts", NBD_CMD_BLOCK_STATUS, 0, 0, false, false },
	{ "flush-with-unknown-flag", NBD_CMD_FLUSH, NBD_FLAG_SEND_FLUSH, 1 << 14, false, false },
	{ "write-with-unknown-flag", NBD_CMD_WRITE, 0, 1 << 14, false, true },
	{ "unknown-command", 99, 0, 0, false, false },
};

static void
wrong_command(struct test *t, unsigned i)
{
	uint32_t length = blocks(t, 512);
	struct range range = { 0, wrong[i].type == NBD_CMD_FLUSH ? 0 : length };

	if (wrong[i].flag != 0)
		need_flag(t, wrong[i].flag);
	if (wrong[i].writes)
		need_writable(t);
	need_size(t, length);
	if (wrong[i].past_end)
		range = range_beyond(t, BEYOND_CROSSING);
	refused(t, wrong[i].flags, wrong[i].type, range, wrong[i].type == NBD_CMD_WRITE ? room(range.length) : NULL);
}

/* proto.md:398-400: a structured error is preferred; which it was is recorded. */
CASE(structured, errors_of_other_commands,
     "What fails and is no READ is told in a simple reply, or in well-formed error chunks, and the stream goes on",
     R(structured_errors_preferred), R(error_chunk_layout), R(error_chunk_length), R(error_chunk_message_fits),
     R(error_chunk_message_limit), R(error_chunk_message_text), R(error_chunk_nonzero), R(error_chunk_once),
     R(error_offset_commands), R(error_offset_length), R(error_offset_in_bounds), R(error_offset_nonzero),
     R(structured_chunk_length), R(content_chunks_only_for_read), R(error_values_listed), R(done_set_on_last))
{
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		POINT(t, "%s", wrong[i].name) {
			enter_structured(t);
			wrong_command(t, i);
		}
}

/* ---- a simple reply that turns out to be wrong while it is sent ---- */

static bool
contains(struct bytes data, uint64_t cookie)
{
	struct buf b = { 0 };
	bool found;

	put_be64(&b, cookie);
	found = memmem(data.at, data.len, b.at, b.len) != NULL;
	buf_free(&b);
	return found;
}

/*
 * proto.md:1970-1973. The READ goes past the end, so the server finds the error at the end at the latest; a server that
 * has said before that all is well can then only leave. Another READ behind it shows one that goes on: its reply's
 * cookie comes where data were due.
 */
static void
late_error(struct test *t, uint32_t length)
{
	uint64_t cookie = new_cookie(t), next = new_cookie(t), from = usable_size(t) - length;
	struct simple_reply r;
	struct bytes data;
	bool silent;

	read_served(t, from, length, room(length), R(read_returns_data));
	send_request(t, 0, NBD_CMD_READ, cookie, from, 2 * length, NULL);
	if (!peer_goes_on(t, R(each_request_one_reply))) {
		expect_next_served(t);
		return;
	}
	r = recv_simple_header(t, R(each_request_one_reply));
	EXPECT_EQ(t, R(cookie_echoed), r.cookie, cookie);
	if (r.error != NBD_SUCCESS)
		return;
	send_request(t, 0, NBD_CMD_READ, next, 0, length, NULL);
	data = recv_what_comes(t, 2 * length, &silent);
	EXPECT(t, R(read_late_error_no_more_data), !contains(data, next),
	       "a READ that has failed in the middle of its data is followed by the reply to the next one");
	EXPECT(t, R(read_late_error_disconnects), !silent,
	       "after %zu of %" PRIu32 " bytes no more come, and the connection stays", data.len, 2 * length);
	if (data.len < 2 * length)
		observe(t, R(read_late_error_disconnects), "the connection ends after %zu of %" PRIu32 " bytes",
		        data.len, 2 * length);
}

CASE(structured, late_error_in_simple_reply,
     "A READ past the end whose simple reply has begun without an error has all of its data, or ends the connection",
     R(read_late_error_disconnects), R(read_late_error_no_more_data), R(each_request_one_reply))
{
	static const uint32_t lengths[] = { 512, 4096, 65536 };

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
		POINT(t, "length=%" PRIu32, lengths[i]) {
			enter_transmission(t);
			need_range(t, 0, blocks(t, lengths[i]));
			if (2 * (uint64_t)blocks(t, lengths[i]) > t->s->block.maximum)
				skip(t, "large payloads", "the maximum payload size is %" PRIu32, t->s->block.maximum);
			late_error(t, blocks(t, lengths[i]));
		}
}
