/* NBD_CMD_READ with structured replies, what it returns in which chunks (proto.md:1786-1840, 1975-2012). */
#include "cases/server/structured.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- shared ---- */

void
free_reply(struct reply *r)
{
	free(r->data);
	free(r->covered);
	r->data = r->covered = NULL;
}

void
expect_content(struct test *t, const struct reply *r, const uint8_t *want, uint32_t length, uint64_t offset)
{
	for (uint32_t i = 0; i < length; i++)
		if (r->covered[i] != COVERED_NOT && r->data[i] != want[i])
			expect_data(
				t, r->covered[i] == COVERED_BY_HOLE ? R(hole_chunk_reads_zero) : R(data_chunk_contents),
				r->data + i, want + i, 1, offset + i);
}

struct reply
read_chunks(struct test *t, uint16_t flags, uint64_t offset, uint32_t length)
{
	struct reply r = exchange(t, flags, NBD_CMD_READ, offset, length, NULL, R(read_reply_structured));

	expect_served(t, offset, length, r.error, R(read_returns_data));
	return r;
}

bool
recv_reply_or_end(struct test *t, const struct sent *q, struct reply *r)
{
	if (peer_goes_on(t, R(each_request_one_reply))) {
		*r = recv_reply(t, q, R(each_request_one_reply));
		return true;
	}
	expect_next_served(t);
	return false;
}

/* ---- contents ---- */

static void
read_back(struct test *t, uint64_t offset, uint32_t length)
{
	uint64_t block = unit_of(t) > 4096 ? unit_of(t) : 4096;
	uint64_t from = offset / block * block, to = (offset + length + block - 1) / block * block;
	struct reply r;
	uint8_t *data;

	to = to <= usable_size(t) ? to : usable_size(t);
	data = room(to - from);
	fill_pattern(data, to - from, from, 21);
	store(t, from, data, to - from, R(write_stored));
	r = read_chunks(t, 0, offset, length);
	expect_content(t, &r, data + (offset - from), length, offset);
	expect_in_step(t, R(structured_chunk_length));
}

/* Each message's form, its cookie, its flags, its type and its length are judged as it comes (harness/structured.c). */
CASE(structured, contents,
     "A READ returns what was written, of any length, at any offset, in chunks that cover it once",
     R(data_chunk_contents), R(data_chunk_length), R(data_chunk_in_bounds), R(data_chunk_no_overlap),
     R(read_covers_range), R(read_chunks_in_bounds), R(read_chunk_not_empty), R(read_chunks_multiple_of_512),
     R(structured_reply_magic), R(structured_chunk_length), R(structured_reply_for_payload), R(done_set_on_last),
     R(done_clear_before_last), R(done_chunk_last), R(read_final_content_certain), R(structured_chunks_same_cookie),
     R(cookie_echoed), R(reply_flags_need_negotiation), R(chunk_types_defined), R(none_chunk_empty), R(none_chunk_done),
     R(none_chunk_means_success), R(status_chunk_only_for_block_status), R(extended_reply_magic_negotiated),
     R(read_returns_data))
{
	static const struct {
		int64_t offset; /* from the end where it is negative */
		uint32_t length;
	} reads[] = {
		{ 0, 1 },
		{ 0, 511 },
		{ 0, 512 },
		{ 1, 512 },
		{ 511, 2 },
		{ 4095, 4098 },
		{ 4096, 4096 },
		{ 8191, 1 },
		{ 12345, 6789 },
		{ 0, 65536 },
		{ 65535, 65538 },
		{ 131072, 262144 },
		{ 1 << 20, 1 },
		{ -1, 1 },
		{ -512, 512 },
		{ -70000, 70000 },
		{ (5 << 20) + 1, 3000 },
	};

	for (size_t i = 0; i < sizeof(reads) / sizeof(reads[0]); i++)
		POINT(t, "offset=%" PRId64 ",length=%" PRIu32, reads[i].offset, reads[i].length) {
			uint64_t offset = (uint64_t)reads[i].offset;

			enter_structured(t);
			need_writable(t);
			need_size(t, reads[i].offset < 0 ? -offset : reads[i].length);
			offset += reads[i].offset < 0 ? usable_size(t) : 0;
			need_range(t, offset, reads[i].length);
			read_back(t, offset, reads[i].length);
		}
}

CASE(structured, far_offsets,
     "A READ far into the export returns what was written there, whatever bits of its offset are set",
     R(data_chunk_contents), R(data_chunk_in_bounds), R(read_chunks_in_bounds))
{
	static const uint64_t offsets[] = {
		(8 << 20) + 4096,
		(16 << 20) - 4096,
		(48 << 20) + 65536,
		(UINT64_C(1) << 31) - 4096,
		(UINT64_C(1) << 32) - 4096,
		(UINT64_C(1) << 32) + 65536,
		(UINT64_C(1) << 41) + 65536,
	};

	for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++)
		POINT(t, "offset=%" PRIu64, offsets[i]) {
			enter_structured(t);
			need_writable(t);
			need_range(t, offsets[i], 8192);
			read_back(t, offsets[i], 8192);
		}
}

/* What nobody may write can still be compared with itself. */
CASE(structured, pieces_agree, "READs of pieces, with DF or without, agree with the READ of the whole",
     R(data_chunk_contents), R(hole_chunk_reads_zero), R(read_covers_range))
{
	enum { PIECES = 16 };
	uint32_t length, piece;
	struct reply whole, r;

	enter_structured(t);
	piece = blocks(t, 4096);
	length = PIECES * piece;
	need_range(t, 0, length);
	whole = read_chunks(t, 0, 0, length);
	for (uint32_t at = 0; at < length; at += piece) {
		bool df = (t->s->flags & NBD_FLAG_SEND_DF) != 0 && at / piece % 2 == 1 && piece <= 65536;

		r = read_chunks(t, df ? NBD_CMD_FLAG_DF : 0, at, piece);
		expect_content(t, &r, whole.data + at, piece, at);
		free_reply(&r);
	}
	expect_in_step(t, R(structured_chunk_length));
}

enum { LONG_AREA = 3 << 20 };

CASE_BULK(structured, long_reads, "READs of megabytes return what was written, from end to end", R(data_chunk_contents),
          R(read_covers_range), R(read_returns_data))
{
	static const struct {
		uint32_t offset, length;
	} reads[] = { { 12345, 1 << 20 }, { 1, LONG_AREA - 1 } };

	for (size_t i = 0; i < sizeof(reads) / sizeof(reads[0]); i++)
		POINT(t, "offset=%" PRIu32 ",length=%" PRIu32, reads[i].offset, reads[i].length) {
			uint8_t *data = room(LONG_AREA);
			struct reply r;

			enter_structured(t);
			need_writable(t);
			need_size(t, LONG_AREA);
			need_range(t, reads[i].offset, reads[i].length);
			fill_pattern(data, LONG_AREA, 0, 24);
			store(t, 0, data, LONG_AREA, R(write_stored));
			r = read_chunks(t, 0, reads[i].offset, reads[i].length);
			expect_content(t, &r, data + reads[i].offset, reads[i].length, reads[i].offset);
		}
}

/* ---- data and zeroes ---- */

static void
zero_stripe(struct test *t, uint64_t offset, uint32_t length, bool by_command)
{
	if (by_command && (t->s->flags & NBD_FLAG_SEND_WRITE_ZEROES) != 0)
		EXPECT_ERROR(t, R(zeroes_stored),
		             do_command(t, 0, NBD_CMD_WRITE_ZEROES, offset, length, R(zeroes_stored)), NBD_SUCCESS);
	else
		store(t, offset, room(length), length, R(write_stored));
}

struct stripes
paint_stripes(struct test *t, uint32_t each)
{
	struct stripes s = { .each = blocks(t, each) };

	need_writable(t);
	s.length = 6 * s.each;
	need_range(t, 0, s.length);
	s.data = room(s.length);
	s.known = room(s.length);
	memset(s.known, 1, s.length);
	fill_pattern(s.data, s.length, 0, 22);
	/* A pattern's byte may be zero; these shall differ from a hole. */
	for (uint32_t i = 0; i < s.length; i++)
		s.data[i] |= 1;
	store(t, 0, s.data, s.length, R(write_stored));
	for (unsigned stripe = 1; stripe < 6; stripe += 4) {
		zero_stripe(t, stripe * s.each, s.each, stripe == 1);
		memset(s.data + stripe * s.each, 0, s.each);
	}
	/* An advisory command, which may fail. */
	if ((t->s->flags & NBD_FLAG_SEND_TRIM) != 0) {
		do_command(t, 0, NBD_CMD_TRIM, 3 * s.each, s.each, R(each_request_one_reply));
		memset(s.known + 3 * s.each, 0, s.each);
	}
	return s;
}

void
expect_stripes(struct test *t, const struct stripes *s, const struct reply *r, uint64_t offset, uint32_t length)
{
	uint8_t *want = room(length);

	for (uint32_t i = 0; i < length; i++)
		want[i] = s->known[offset + i] ? s->data[offset + i] : r->data[i];
	expect_content(t, r, want, length, offset);
}

/* Where a READ begins, in stripes and bytes, and its length likewise. */
static const struct {
	const char *name;
	uint32_t stripe;
	int32_t plus;
	uint32_t stripes, length;
} across[] = {
	{ "all", 0, 0, 6, 0 },
	{ "data", 2, 0, 1, 0 },
	{ "zeroes", 1, 0, 1, 0 },
	{ "trimmed", 3, 0, 1, 0 },
	{ "written-zeroes", 5, 0, 1, 0 },
	{ "data-then-zeroes", 0, 0, 2, 0 },
	{ "zeroes-then-data", 1, 0, 2, 0 },
	{ "from-within-zeroes", 1, 4096, 1, 0 },
	{ "from-within-data", 0, 4096, 3, 4096 },
	{ "one-byte-of-zeroes", 1, 17, 0, 1 },
	{ "one-byte-of-data", 2, 17, 0, 1 },
	{ "two-bytes-across", 1, -1, 0, 2 },
	{ "odd", 0, 1, 4, 511 },
};
enum { ACROSS = sizeof(across) / sizeof(across[0]) };

static bool
mixed(const struct stripes *s, uint32_t offset, uint32_t length)
{
	bool data = false, zeroes = false;

	for (uint32_t i = offset; i < offset + length; i++) {
		data |= s->known[i] && s->data[i] != 0;
		zeroes |= s->known[i] && s->data[i] == 0;
	}
	return data && zeroes;
}

static void
read_across(struct test *t, unsigned i, uint16_t flags, uint32_t each)
{
	struct stripes s = paint_stripes(t, each);
	uint32_t offset = across[i].stripe * s.each + (uint32_t)across[i].plus;
	uint32_t length = across[i].stripes * s.each + across[i].length;
	struct reply r;

	need_range(t, offset, length);
	r = exchange(t, flags, NBD_CMD_READ, offset, length, NULL, R(read_reply_structured));
	if ((flags & NBD_CMD_FLAG_DF) != 0 && length > 65536 && r.error == NBD_EOVERFLOW)
		return;
	EXPECT(t, R(df_64k_supported), r.error != NBD_EOVERFLOW || (flags & NBD_CMD_FLAG_DF) == 0,
	       "a READ of %" PRIu32 " bytes with DF is too long", length);
	expect_served(t, offset, length, r.error, R(read_returns_data));
	EXPECT(t, R(df_mixed_as_data), (flags & NBD_CMD_FLAG_DF) == 0 || r.n_hole == 0 || !mixed(&s, offset, length),
	       "a hole answers a READ with DF of what has both data and zeroes");
	expect_stripes(t, &s, &r, offset, length);
	expect_in_step(t, R(structured_chunk_length));
}

CASE(structured, data_and_zeroes,
     "READs across data, zeroes and trimmed blocks return what is there, in chunks of data or holes",
     R(data_chunk_contents), R(hole_chunk_reads_zero), R(hole_chunk_length), R(hole_chunk_nonzero),
     R(hole_chunk_in_bounds), R(hole_chunk_no_overlap), R(read_covers_range), R(read_chunks_multiple_of_512),
     R(data_chunk_no_overlap), R(done_clear_before_last))
{
	for (unsigned i = 0; i < ACROSS; i++)
		POINT(t, "%s", across[i].name) {
			enter_structured(t);
			read_across(t, i, 0, 65536);
		}
}

/* ---- NBD_CMD_FLAG_DF (proto.md:2043-2054) ---- */

static void
enter_with_df(struct test *t)
{
	enter_structured(t);
	need_flag(t, NBD_FLAG_SEND_DF);
}

/* All the stripes fit into the 64 KiB that every server must be able to send in one piece. */
CASE(structured, df_data_and_zeroes, "A READ with DF across data and zeroes comes in one chunk, with the zeroes in it",
     R(df_one_content_chunk), R(df_mixed_as_data), R(df_64k_supported), R(data_chunk_contents), R(read_covers_range),
     R(hole_chunk_reads_zero))
{
	for (unsigned i = 0; i < ACROSS; i++)
		POINT(t, "%s", across[i].name) {
			enter_with_df(t);
			read_across(t, i, NBD_CMD_FLAG_DF, 8192);
		}
}

static void
read_unfragmented(struct test *t, uint64_t offset, uint32_t length)
{
	struct reply r;

	need_range(t, offset, length);
	read_chunks(t, 0, offset, length);
	r = exchange(t, NBD_CMD_FLAG_DF, NBD_CMD_READ, offset, length, NULL, R(read_reply_structured));
	EXPECT(t, R(df_64k_supported), r.error != NBD_EOVERFLOW || length > 65536,
	       "a READ of %" PRIu32 " bytes with DF is too long", length);
	if (r.error == NBD_EOVERFLOW)
		observe(t, R(df_may_overflow), "a READ of %" PRIu32 " bytes with DF gets NBD_EOVERFLOW", length);
	else
		expect_served(t, offset, length, r.error, R(read_returns_data));
	expect_in_step(t, R(structured_chunk_length));
}

CASE(structured, df_lengths,
     "A READ of up to 64 KiB with DF is served in one chunk, a longer one that way or not at all", R(df_64k_supported),
     R(df_one_content_chunk), R(df_overflow_no_content), R(df_may_overflow), R(df_may_send_other_chunks),
     R(read_returns_data))
{
	static const struct {
		uint32_t offset, length;
	} reads[] = { { 0, 1 },     { 0, 512 },       { 4096, 4096 }, { 0, 65535 },     { 0, 65536 },
		      { 1, 65535 }, { 12345, 65536 }, { 0, 65537 },   { 4096, 131072 }, { 0, 1 << 20 } };

	for (size_t i = 0; i < sizeof(reads) / sizeof(reads[0]); i++)
		POINT(t, "offset=%" PRIu32 ",length=%" PRIu32, reads[i].offset, reads[i].length) {
			enter_with_df(t);
			read_unfragmented(t, reads[i].offset, reads[i].length);
		}
}

/* ---- the length ---- */

/* proto.md:1954: what comes back is not told, but the server should stay, and use a structured reply. */
CASE(structured, length_zero, "A READ of length 0 gets a structured reply, and the connection stays",
     R(read_zero_no_disconnect), R(no_simple_reply_to_read), R(done_set_on_last))
{
	struct reply r;
	struct sent q;

	enter_structured(t);
	q = send_command(t, 0, NBD_CMD_READ, 0, 0, NULL);
	if (peer_goes_on(t, R(each_request_one_reply))) {
		r = recv_reply(t, &q, R(each_request_one_reply));
		if (r.error != NBD_SUCCESS)
			observe(t, R(read_zero_no_disconnect), "a READ of length 0 is refused with error %" PRIu32,
			        r.error);
		expect_in_step(t, R(structured_chunk_length));
		return;
	}
	deviates(t, R(read_zero_no_disconnect), "a reply, and the connection stays", "the connection was closed");
	expect_next_served(t);
}

static void
need_maximum(struct test *t)
{
	if (!t->s->block_advertised || t->s->block.maximum > NBD_DEFAULT_MAX_PAYLOAD)
		skip(t, "maximum payload size", "the server advertises none, or one above 32 MiB");
}

static void
read_maximum(struct test *t, uint16_t flags)
{
	uint32_t most = t->s->block.maximum / unit_of(t) * unit_of(t);
	struct reply r;

	need_size(t, most);
	r = exchange(t, flags, NBD_CMD_READ, 0, most, NULL, R(read_reply_structured));
	if (flags != 0 && r.error == NBD_EOVERFLOW)
		return;
	EXPECT_ERROR(t, R(read_returns_data), r.error, NBD_SUCCESS);
	observe(t, R(reply_overhead_above_maximum), "a READ of the maximum payload size comes in %u chunks",
	        r.n_data + r.n_hole);
}

/* proto.md:857-866, 1791-1794 */
CASE_BULK(structured, maximum_payload,
          "A READ of the maximum payload size is served, with DF in one chunk or not at all",
          R(reply_overhead_above_maximum), R(command_payload_constraints), R(read_returns_data))
{
	POINT(t, "plain") {
		enter_structured(t);
		need_maximum(t);
		read_maximum(t, 0);
	}
	POINT(t, "df") {
		enter_with_df(t);
		need_maximum(t);
		read_maximum(t, NBD_CMD_FLAG_DF);
	}
}

/* proto.md:1994: split, or refused; a hard disconnect only where 32 MiB are exceeded (proto.md:845-851). */
CASE_BULK(structured, above_maximum_payload,
          "A READ above the maximum payload size comes in chunks that keep to it, or is refused",
          R(chunk_within_max_payload), R(read_may_exceed_max_payload), R(each_request_one_reply))
{
	uint32_t length;
	struct reply r;
	struct sent q;

	enter_structured(t);
	need_maximum(t);
	length = (t->s->block.maximum / unit_of(t) + 1) * unit_of(t);
	need_size(t, length);
	read_chunks(t, 0, 0, blocks(t, 512));
	q = send_command(t, 0, NBD_CMD_READ, 0, length, NULL);
	if (!recv_reply_or_end(t, &q, &r)) {
		EXPECT(t, R(each_request_one_reply), length > NBD_DEFAULT_MAX_PAYLOAD,
		       "the connection is closed after a READ of %" PRIu32 " bytes", length);
		return;
	}
	observe(t, R(read_may_exceed_max_payload), "a READ of %" PRIu32 " bytes %s", length,
	        r.error == NBD_SUCCESS ? "is served" : "is refused");
	expect_in_step(t, R(structured_chunk_length));
}

/*
 * proto.md:1995-1998: with the chunk's own 8 bytes the length no longer fits its field. Only the first header is looked
 * at: nobody wants the four gigabytes.
 */
CASE(structured, four_gigabytes, "A READ of more than 2^32 - 8 bytes is refused, or split", R(read_huge_is_split),
     R(no_simple_reply_to_read))
{
	uint32_t length;
	struct chunk c;
	struct wire w;
	struct sent q;

	enter_structured(t);
	length = UINT32_MAX / unit_of(t) * unit_of(t);
	if (length <= UINT32_MAX - 7)
		skip(t, "small blocks", "the export's minimum block size is %" PRIu32, unit_of(t));
	need_size(t, length);
	read_chunks(t, 0, 0, blocks(t, 512));
	q = send_command(t, 0, NBD_CMD_READ, 0, length, NULL);
	/* Who has no such buffers may call it an attack (proto.md:845). */
	if (!peer_goes_on(t, R(each_request_one_reply))) {
		expect_next_served(t);
		return;
	}
	buf_clear(&t->s->in);
	w = wire_over(recv_payload(t, SIMPLE_REPLY_SIZE, R(each_request_one_reply)));
	EXPECT(t, R(no_simple_reply_to_read), wire_be32(&w) != NBD_SIMPLE_REPLY_MAGIC,
	       "a simple reply answers NBD_CMD_READ although structured replies were negotiated");
	recv_payload(t, CHUNK_HEADER_SIZE - SIMPLE_REPLY_SIZE, R(structured_chunk_length));
	wire_get_chunk(wire(t->s->in.at, t->s->in.len), &c);
	EXPECT_EQ(t, R(structured_reply_magic), c.magic, NBD_STRUCTURED_REPLY_MAGIC);
	EXPECT_EQ(t, R(cookie_echoed), c.cookie, q.cookie);
	EXPECT(t, R(read_huge_is_split), c.type != NBD_REPLY_TYPE_OFFSET_DATA || c.length > 8,
	       "the first chunk of data has length %" PRIu64 ": its length field has overflowed", c.length);
	note(t, "the first chunk has type 0x%04x and length %" PRIu64, c.type, c.length);
}

/* ---- many requests ---- */

static const struct {
	uint16_t type;
	uint32_t block, length; /* blocks, 4096 bytes each */
} flight[] = {
	{ NBD_CMD_READ, 0, 1 },   { NBD_CMD_READ, 3, 16 },  { NBD_CMD_WRITE, 40, 2 }, { NBD_CMD_READ, 1, 7 },
	{ NBD_CMD_READ, 15, 16 }, { NBD_CMD_FLUSH, 0, 0 },  { NBD_CMD_READ, 0, 32 },  { NBD_CMD_READ, 31, 1 },
	{ NBD_CMD_WRITE, 44, 1 }, { NBD_CMD_READ, 8, 8 },   { NBD_CMD_READ, 2, 30 },  { NBD_CMD_READ, 5, 1 },
	{ NBD_CMD_CACHE, 0, 32 }, { NBD_CMD_READ, 12, 13 }, { NBD_CMD_READ, 0, 5 },   { NBD_CMD_READ, 30, 2 },
	{ NBD_CMD_WRITE, 50, 4 }, { NBD_CMD_READ, 17, 15 }, { NBD_CMD_READ, 9, 3 },   { NBD_CMD_READ, 4, 28 },
};
enum { FLIGHT = sizeof(flight) / sizeof(flight[0]), READ_BLOCKS = 32, FLIGHT_BLOCKS = 56 };

static uint16_t
type_in_flight(const struct test *t, unsigned i)
{
	uint16_t type = flight[i].type;

	if ((type == NBD_CMD_FLUSH && (t->s->flags & NBD_FLAG_SEND_FLUSH) == 0) ||
	    (type == NBD_CMD_CACHE && (t->s->flags & NBD_FLAG_SEND_CACHE) == 0))
		return NBD_CMD_READ;
	return type;
}

/* proto.md:298-309, 405-410: the cookie tells whose chunk it is. */
CASE(structured, in_flight, "Of many requests in flight each gets its own chunks, its own data, and one end",
     R(cookie_echoed), R(data_chunk_contents), R(read_covers_range), R(data_chunk_in_bounds), R(done_set_on_last),
     R(done_clear_before_last), R(structured_reply_magic), R(structured_reply_many_chunks), R(replies_any_order))
{
	struct sent q[FLIGHT];
	struct reply r[FLIGHT];
	uint32_t block;
	uint8_t *data;

	enter_structured(t);
	need_writable(t);
	block = blocks(t, 4096);
	need_range(t, 0, FLIGHT_BLOCKS * block);
	data = room(READ_BLOCKS * block);
	fill_pattern(data, READ_BLOCKS * block, 0, 23);
	store(t, 0, data, READ_BLOCKS * block, R(write_stored));
	for (unsigned i = 0; i < FLIGHT; i++) {
		uint16_t type = type_in_flight(t, i);

		q[i] = send_command(t, 0, type, type == NBD_CMD_FLUSH ? 0 : flight[i].block * (uint64_t)block,
		                    flight[i].length * block, type == NBD_CMD_WRITE ? data : NULL);
	}
	recv_replies(t, q, r, FLIGHT, R(each_request_one_reply));
	for (unsigned i = 0; i < FLIGHT; i++) {
		if (q[i].type != NBD_CMD_READ)
			continue;
		expect_served(t, q[i].offset, q[i].length, r[i].error, R(read_returns_data));
		expect_content(t, &r[i], data + q[i].offset, q[i].length, q[i].offset);
	}
	expect_in_step(t, R(structured_chunk_length));
}

/* proto.md:304-309 */
CASE(structured, cookies, "Every chunk carries its request's cookie, whatever its bits are", R(cookie_echoed),
     R(structured_chunks_same_cookie))
{
	static const uint64_t cookies[] = {
		0, 1, UINT64_MAX, UINT64_C(1) << 63, UINT64_C(0x0123456789abcdef), UINT64_C(0x67446698668e33ef)
	};

	for (size_t i = 0; i < sizeof(cookies) / sizeof(cookies[0]); i++)
		POINT(t, "cookie=0x%" PRIx64, cookies[i]) {
			struct sent q = { NBD_CMD_READ, 0, cookies[i], 0, 0 };
			struct reply r;

			enter_structured(t);
			q.length = blocks(t, 8192);
			need_range(t, 0, q.length);
			send_request(t, 0, q.type, q.cookie, q.offset, q.length, NULL);
			r = recv_reply(t, &q, R(each_request_one_reply));
			expect_served(t, 0, q.length, r.error, R(read_returns_data));
			expect_in_step(t, R(structured_chunk_length));
		}
}

/* ---- other commands ---- */

static const struct {
	uint16_t type, flag;
	uint32_t length;
} others[] = {
	{ NBD_CMD_WRITE, 0, 4096 },
	{ NBD_CMD_FLUSH, NBD_FLAG_SEND_FLUSH, 0 },
	{ NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, 4096 },
	{ NBD_CMD_CACHE, NBD_FLAG_SEND_CACHE, 4096 },
	{ NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, 4096 },
};

static void
other_command(struct test *t, unsigned i)
{
	uint32_t length = blocks(t, others[i].length);
	bool writes = others[i].type != NBD_CMD_FLUSH && others[i].type != NBD_CMD_CACHE;
	struct reply r;

	if (others[i].flag != 0)
		need_flag(t, others[i].flag);
	if (writes)
		need_writable(t);
	need_range(t, 0, length);
	r = exchange(t, 0, others[i].type, 0, length, others[i].type == NBD_CMD_WRITE ? room(length) : NULL,
	             R(each_request_one_reply));
	observe(t, R(simple_reply_when_structured), "a %s reply answers it", r.structured ? "structured" : "simple");
	if (!r.structured && r.error == NBD_SUCCESS)
		observe(t, R(simple_reply_error_zero), "its error is zero");
	expect_in_step(t, r.structured ? R(structured_chunk_length) : R(simple_reply_payload_only_read));
}

/* proto.md:363-365, 395-398, 1925 */
CASE(structured, other_commands,
     "What is no READ gets a simple reply without payload, or a structured one without content, and one of them",
     R(simple_reply_when_structured), R(simple_reply_error_zero), R(content_chunks_only_for_read),
     R(status_chunk_only_for_block_status), R(none_chunk_empty), R(none_chunk_done), R(done_set_on_last),
     R(done_chunk_cannot_fail), R(error_offset_commands), R(each_request_one_reply), R(done_clear_before_last),
     R(chunk_types_defined))
{
	char text[NAME_MAX_TEXT];

	for (unsigned i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		POINT(t, "%s", name_text(NAME_COMMAND, others[i].type, text)) {
			enter_structured(t);
			other_command(t, i);
		}
}
