/* NBD_CMD_READ with simple replies (proto.md:1948-1973). */
#include "cases/server/transmission.h"

#include <inttypes.h>

CASE(read, first_block, "A READ of the first block is answered with as many bytes as it asks for",
     R(baseline_read_write), R(simple_reply_read_payload), R(simple_reply_magic))
{
	uint32_t length;

	enter_transmission(t);
	length = blocks(t, 512);
	need_size(t, length);
	read_served(t, 0, length, room(length), R(baseline_read_write));
	in_step(t, R(simple_reply_read_payload));
}

/* ---- lengths ---- */

static void
read_of_length(struct test *t, uint32_t length)
{
	enter_transmission(t);
	need_range(t, 0, length);
	read_served(t, 0, length, room(length), R(read_returns_data));
	in_step(t, R(simple_reply_read_payload));
}

CASE(read, every_length, "A READ of any length is followed by just as many bytes, and then by the next reply",
     R(read_returns_data), R(simple_reply_read_payload), R(default_min_block), R(default_max_payload))
{
	static const uint32_t lengths[] = { 1, 7, 511, 512, 513, 4096, 65536, 65537, 1 << 20, 4 << 20 };

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
		POINT(t, "length=%" PRIu32, lengths[i])
			read_of_length(t, lengths[i]);
}

/* proto.md:1954: what comes back is not told, but the server should stay. */
CASE(read, length_zero, "A READ of length 0 is answered in one way or another, without data, and the connection stays",
     R(read_zero_no_disconnect), R(read_reply_simple), R(simple_reply_read_payload))
{
	struct simple_reply r;
	uint64_t cookie;

	enter_transmission(t);
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_READ, cookie, 0, 0, NULL);
	if (peer_goes_on(t, R(read_reply_simple))) {
		r = recv_simple_reply(t, cookie, 0, R(read_reply_simple));
		if (r.error != NBD_SUCCESS)
			observe(t, R(read_zero_no_disconnect), "a READ of length 0 is refused with error %" PRIu32,
			        r.error);
		if (probe(t, R(simple_reply_read_payload)))
			return;
	}
	deviates(t, R(read_zero_no_disconnect), "a reply, and the connection stays", "the connection was closed");
	expect_next_served(t);
}

/* ---- contents ---- */

enum { AREA = 131072 };

static const struct {
	uint32_t at, length;
} parts[] = {
	{ 0, 1 },         { 1, 1 },         { 1, 511 },     { 511, 2 },    { 512, 512 },
	{ 513, 1000 },    { 4095, 2 },      { 4096, 4096 }, { 0, 65536 },  { 65535, 2 },
	{ 65536, 65536 }, { 1000, 100000 }, { 131000, 72 }, { 131071, 1 }, { 0, AREA },
};

static void
read_parts(struct test *t, uint64_t base, uint32_t area)
{
	uint8_t *pattern = room(area), *data = room(area);

	fill_pattern(pattern, area, base, 1);
	store(t, base, pattern, area, R(write_stored));
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		uint32_t at = parts[i].at, length = parts[i].length;

		if ((at | length) % unit_of(t) != 0 || at + length > area || length > t->s->block.maximum)
			continue;
		read_served(t, base + at, length, data, R(read_returns_data));
		expect_data(t, R(read_returns_data), data, pattern + at, length, base + at);
	}
	in_step(t, R(simple_reply_read_payload));
}

/* An area at the place, or around it; small exports have one area. */
static void
read_area(struct test *t, uint64_t place, bool from_end)
{
	uint32_t area;

	enter_transmission(t);
	need_writable(t);
	area = usable_size(t) < AREA ? (uint32_t)usable_size(t) : AREA;
	need_size(t, unit_of(t));
	if (from_end)
		place = usable_size(t) - area;
	need_size(t, place + area);
	read_parts(t, place, area);
}

CASE(read, contents,
     "A READ returns the bytes that were written there, at every offset and length, up to the last byte",
     R(read_returns_data), R(write_stored), R(default_min_block))
{
	static const struct {
		const char *name;
		uint64_t place;
		bool from_end;
	} areas[] = {
		{ "at=0", 0, false },
		{ "at=17M", 17 << 20, false },
		{ "at=2G", (UINT64_C(1) << 31) - 65536, false },
		{ "at=4G", (UINT64_C(1) << 32) - 65536, false },
		{ "at=the-end", 0, true },
	};

	for (size_t i = 0; i < sizeof(areas) / sizeof(areas[0]); i++)
		POINT(t, "%s", areas[i].name)
			read_area(t, areas[i].place, areas[i].from_end);
}

/* A server that reads ahead, or maps from the last offset on, is led backwards. */
CASE(read, backwards, "Blocks that are read from the last to the first hold what was written there",
     R(read_returns_data))
{
	enum { BLOCKS = 16 };
	uint8_t *pattern, *data;
	uint32_t block;

	enter_transmission(t);
	block = blocks(t, 512);
	need_writable(t);
	need_range(t, 0, BLOCKS * block);
	pattern = room(BLOCKS * block);
	data = room(block);
	fill_pattern(pattern, BLOCKS * block, 0, 5);
	store(t, 0, pattern, BLOCKS * block, R(write_stored));
	for (uint32_t i = BLOCKS; i-- > 0;) {
		must_read(t, i * block, block, data, R(read_returns_data));
		expect_data(t, R(read_returns_data), data, pattern + i * block, block, i * block);
	}
}

CASE(read, last_byte, "A READ of the last byte, or the last block, of the export is served", R(read_returns_data),
     R(simple_reply_read_payload), R(default_min_block))
{
	uint8_t *data;

	enter_transmission(t);
	need_size(t, unit_of(t));
	data = room(unit_of(t));
	read_served(t, usable_size(t) - unit_of(t), unit_of(t), data, R(read_returns_data));
	in_step(t, R(simple_reply_read_payload));
}

/* ---- beyond the export ---- */

static void
read_beyond(struct test *t, enum beyond where, enum requirement_id should)
{
	struct range r;
	uint64_t cookie;

	enter_transmission(t);
	in_step(t, R(read_returns_data));
	r = range_beyond(t, where);
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_READ, cookie, r.offset, r.length, NULL);
	if (expect_refusal(t, cookie, r.length, should, NBD_EINVAL, 0) != GONE)
		in_step_or_gone(t, R(read_error_no_payload));
}

CASE(read, past_the_end, "A READ that reaches past the end of the export gets NBD_EINVAL and no data",
     R(read_past_end_einval), R(read_error_no_payload), R(each_request_one_reply), R(violation_may_close))
{
	for (enum beyond b = BEYOND_CROSSING; b <= BEYOND_FAR; b++)
		POINT(t, "%s", beyond_name(b))
			read_beyond(t, b, R(read_past_end_einval));
}

CASE(read, past_all_offsets,
     "A READ whose offset, or offset plus length, exceeds 63 or 64 bits gets NBD_EINVAL and no data",
     R(unaligned_or_past_end_einval), R(read_error_no_payload), R(each_request_one_reply))
{
	for (enum beyond b = BEYOND_HALF; b < BEYOND_KINDS; b++)
		POINT(t, "%s", beyond_name(b))
			read_beyond(t, b, R(unaligned_or_past_end_einval));
}

/* proto.md:372, 1966-1968: an error, whatever its reason, is the whole reply. */
CASE(read, error_without_data, "The reply to a READ that fails has an error in it, and no data behind it",
     R(simple_reply_no_payload_on_error), R(read_error_code), R(read_error_may_disconnect))
{
	struct range r;
	uint64_t cookie;

	enter_transmission(t);
	in_step(t, R(read_returns_data));
	r = range_beyond(t, BEYOND_AT_END);
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_READ, cookie, r.offset, r.length, NULL);
	if (!peer_goes_on(t, R(read_error_code))) {
		deviates(t, R(read_error_code), "a reply with an error", "the connection was closed");
		expect_next_served(t);
		return;
	}
	EXPECT(t, R(read_error_code), recv_simple_reply(t, cookie, r.length, R(read_error_code)).error != NBD_SUCCESS,
	       "bytes that the export does not have were read without an error");
	in_step_or_gone(t, R(simple_reply_no_payload_on_error));
}

/* ---- block sizes ---- */

static void
read_unaligned(struct test *t, struct range r)
{
	uint64_t cookie = new_cookie(t);

	in_step(t, R(read_returns_data));
	send_request(t, 0, NBD_CMD_READ, cookie, r.offset, r.length, NULL);
	if (expect_refusal(t, cookie, r.length, R(unaligned_einval), NBD_EINVAL, 0) != GONE)
		in_step_or_gone(t, R(read_error_no_payload));
}

CASE(read, unaligned, "A READ that is not aligned to the advertised minimum block size gets NBD_EINVAL and no data",
     R(unaligned_einval), R(read_error_no_payload), R(each_request_one_reply))
{
	for (unsigned kind = 0; kind < UNALIGNED_KINDS; kind++)
		POINT(t, "%s", unaligned_name(kind)) {
			enter_transmission(t);
			read_unaligned(t, range_unaligned(t, kind));
		}
}

/* Only an advertised maximum says where a READ must fail; the largest ones cost more memory than they prove. */
static uint32_t
need_maximum(struct test *t)
{
	uint32_t most = t->s->block.maximum;

	if (!t->s->block_advertised)
		skip(t, "maximum payload size", "the server advertises no size constraints");
	if (most > 64 << 20)
		skip(t, "maximum payload size", "the server's maximum payload size is %" PRIu32, most);
	return most / unit_of(t) * unit_of(t);
}

CASE_BULK(read, maximum_payload, "A READ as long as the advertised maximum payload size is served",
          R(read_returns_data), R(simple_reply_read_payload))
{
	uint32_t most;

	enter_transmission(t);
	most = need_maximum(t);
	need_size(t, most);
	EXPECT_ERROR(t, R(read_returns_data), read_long(t, most, false, R(simple_reply_read_payload)), NBD_SUCCESS);
	in_step(t, R(simple_reply_read_payload));
}

/* proto.md:1962 */
CASE(read, above_maximum_payload, "A READ longer than the advertised maximum payload size fails",
     R(read_simple_oversize_fails), R(read_error_no_payload), R(each_request_one_reply))
{
	uint32_t length, error;
	uint64_t cookie;

	enter_transmission(t);
	length = need_maximum(t) + unit_of(t);
	need_size(t, length);
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_READ, cookie, 0, length, NULL);
	if (!peer_goes_on(t, R(each_request_one_reply))) {
		expect_next_served(t);
		return;
	}
	error = recv_simple_reply(t, cookie, length, R(each_request_one_reply)).error;
	EXPECT(t, R(read_simple_oversize_fails), error != NBD_SUCCESS, "a READ of %" PRIu32 " bytes was served",
	       length);
	in_step_or_gone(t, R(read_error_no_payload));
}
