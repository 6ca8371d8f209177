/* Requests and replies with extended headers: lengths, payloads, offsets, errors (ext:382-530, 949-963, 1941-1954). */
#include "harness/test.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GIB (UINT64_C(1) << 30)

static void *
room(size_t n)
{
	void *p = calloc(1, n > 0 ? n : 1);

	if (p == NULL)
		abort();
	return p;
}

/* Skips where the export does not take the command; `flag` 0: every export does. */
static void
enter_for(struct test *t, uint16_t type, uint16_t flag)
{
	enter_extended(t);
	if (flag != 0)
		need_flag(t, flag);
	if (type == NBD_CMD_WRITE || type == NBD_CMD_TRIM || type == NBD_CMD_WRITE_ZEROES)
		need_writable(t);
}

static void
expect_stored(struct test *t, uint64_t offset, uint32_t length, const void *want, enum requirement_id r)
{
	uint8_t *got = room(length);

	must_read(t, offset, length, got, r);
	expect_data(t, r, got, want, length, offset);
	free(got);
}

static void
store(struct test *t, uint64_t offset, uint32_t length, unsigned seed, uint8_t *data)
{
	fill_pattern(data, length, offset, seed);
	must_write(t, offset, length, data, R(ext_command_done));
}

/* ---- what each command does ---- */

static const struct command {
	const char *name;
	uint16_t type, exposed_by, flags;
} commands[] = {
	{ "FLUSH", NBD_CMD_FLUSH, NBD_FLAG_SEND_FLUSH, 0 },
	{ "TRIM", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, 0 },
	{ "TRIM,FUA", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, NBD_CMD_FLAG_FUA },
	{ "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, 0 },
	{ "WRITE_ZEROES,NO_HOLE", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE },
	{ "WRITE_ZEROES,FUA", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, NBD_CMD_FLAG_FUA },
	{ "CACHE", NBD_CMD_CACHE, NBD_FLAG_SEND_CACHE, 0 },
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

/* A command on the middle one of three blocks, whose neighbours stay as they are. */
static void
try_command(struct test *t, const struct command *c)
{
	uint32_t unit, error;
	uint8_t *data;

	enter_for(t, NBD_CMD_WRITE, c->exposed_by);
	if ((c->flags & NBD_CMD_FLAG_FUA) != 0)
		need_flag(t, NBD_FLAG_SEND_FUA);
	unit = blocks(t, 4096);
	need_size(t, 3u * unit);
	data = room(3u * unit);
	store(t, 0, 3 * unit, 7, data);
	error = do_command(t, c->flags, c->type, c->type == NBD_CMD_FLUSH ? 0 : unit,
	                   c->type == NBD_CMD_FLUSH ? 0 : unit, R(ext_chunk_layout));
	if (c->type == NBD_CMD_CACHE && error != NBD_SUCCESS)
		skip(t, "CACHE", "the server refuses NBD_CMD_CACHE");
	EXPECT_ERROR(t, R(ext_command_done), error, NBD_SUCCESS);
	if (c->type == NBD_CMD_WRITE_ZEROES)
		memset(data + unit, 0, unit);
	expect_stored(t, 0, unit, data, R(ext_command_done));
	if (c->type != NBD_CMD_TRIM)
		expect_stored(t, unit, unit, data + unit, R(ext_command_done));
	expect_stored(t, 2u * unit, unit, data + 2u * unit, R(ext_command_done));
	free(data);
}

CASE(extended, commands, "Each command does with extended headers what it does with compact ones", R(ext_command_done),
     R(ext_chunk_layout), R(ext_offset_echoed), R(ext_cookie_echoed), R(ext_no_simple_reply), R(ext_replies_extended))
{
	POINT(t, "WRITE") {
		uint8_t *data;
		uint32_t n;

		enter_for(t, NBD_CMD_WRITE, 0);
		n = blocks(t, 65536);
		need_size(t, 2u * n);
		data = room(n);
		store(t, n, n, 3, data);
		expect_stored(t, n, n, data, R(ext_command_done));
		free(data);
	}
	for (size_t i = 0; i < N_COMMANDS; i++)
		POINT(t, "%s", commands[i].name)
			try_command(t, &commands[i]);
}

CASE(extended, read, "A READ comes in chunks that have the extended header, and with DF in one of content",
     R(ext_read_in_chunks), R(ext_read_may_split), R(ext_payload_constraints), R(ext_offset_echoed),
     R(ext_chunk_layout))
{
	struct reply r;
	uint32_t n;

	for (unsigned df = 0; df < 2; df++)
		POINT(t, "%s", df ? "DF" : "plain") {
			enter_extended(t);
			if (df)
				need_flag(t, NBD_FLAG_SEND_DF);
			n = blocks(t, 65536);
			need_size(t, 2u * n);
			r = exchange(t, df ? NBD_CMD_FLAG_DF : 0, NBD_CMD_READ, n, n, NULL, R(ext_read_in_chunks));
			EXPECT_ERROR(t, R(ext_read_in_chunks), r.error, NBD_SUCCESS);
			if (r.n_data + r.n_hole > 1)
				observe(t, R(ext_read_may_split), "%u chunks answer a READ of %" PRIu32 " bytes",
				        r.n_data + r.n_hole, n);
		}
}

CASE_BULK(extended, read_maximum,
          "A READ of the maximum payload size is served; its chunk may be longer by its fixed fields",
          R(ext_overhead_above_maximum), R(ext_read_in_chunks))
{
	struct reply r;

	enter_extended(t);
	need_size(t, t->s->block.maximum);
	if (t->s->block.maximum > 32u << 20)
		skip(t, "size", "the maximum payload size is %" PRIu32, t->s->block.maximum);
	r = exchange(t, 0, NBD_CMD_READ, 0, t->s->block.maximum, NULL, R(ext_read_in_chunks));
	EXPECT_ERROR(t, R(ext_read_in_chunks), r.error, NBD_SUCCESS);
	if (r.n_data == 1)
		observe(t, R(ext_overhead_above_maximum), "one chunk has %" PRIu32 " bytes of data, and its offset",
		        t->s->block.maximum);
}

CASE(extended, in_flight, "Each of many replies has the cookie and the offset of its own request", R(ext_cookie_echoed),
     R(ext_offset_echoed))
{
	enum { MANY = 16 };
	struct reply r[MANY];
	struct sent q[MANY];
	uint32_t unit;

	enter_extended(t);
	unit = blocks(t, 512);
	need_size(t, (uint64_t)MANY * unit);
	for (unsigned i = 0; i < MANY; i++)
		q[i] = send_command(t, 0, NBD_CMD_READ, (uint64_t)i * unit, unit, NULL);
	recv_replies(t, q, r, MANY, R(ext_read_in_chunks));
	for (unsigned i = 0; i < MANY; i++)
		EXPECT_ERROR(t, R(ext_read_in_chunks), r[i].error, NBD_SUCCESS);
	expect_in_step(t, R(ext_chunk_layout));
}

/* ---- effects of more than 32 bits ---- */

static const struct command effects[] = {
	{ "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, 0 },
	{ "WRITE_ZEROES,NO_HOLE", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE },
	{ "TRIM", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, 0 },
	{ "CACHE", NBD_CMD_CACHE, NBD_FLAG_SEND_CACHE, 0 },
};
#define N_EFFECTS (sizeof(effects) / sizeof(effects[0]))

/* ext:958-962: it may be refused, and the connection goes on. */
static bool
long_effect(struct test *t, const struct command *c, uint64_t offset, uint64_t length)
{
	struct sent q = send_command(t, c->flags, c->type, offset, length, NULL);
	uint32_t error;

	if (!peer_goes_on(t, R(ext_long_effect_no_disconnect))) {
		deviates(t, R(ext_long_effect_no_disconnect), "a reply", "the connection ends");
		return false;
	}
	error = recv_reply(t, &q, R(ext_chunk_layout)).error;
	expect_in_step(t, R(ext_effect_length));
	if (error == NBD_EINVAL || error == NBD_EOVERFLOW || (c->type == NBD_CMD_CACHE && error != NBD_SUCCESS)) {
		observe(t, R(ext_long_effect_refused), "%s of %" PRIu64 " bytes gets %s", c->name, length,
		        name_of(NAME_ERROR, error) ?: "an error");
		return false;
	}
	EXPECT_ERROR(t, R(ext_effect_length), error, NBD_SUCCESS);
	return true;
}

/* The length's low 32 bits are those of one block: who drops the rest clears the first alone. */
static void
try_long_effect(struct test *t, const struct command *c)
{
	enum { PLACES = 4 };
	uint32_t unit;
	uint64_t length, places[PLACES];
	uint8_t *data, *zeroes;

	enter_for(t, c->type, c->exposed_by);
	unit = blocks(t, 65536);
	length = 4 * GIB + unit;
	need_size(t, length + 2u * unit);
	if (c->type == NBD_CMD_CACHE) {
		long_effect(t, c, unit, length);
		return;
	}
	memcpy(places, (const uint64_t[PLACES]){ 0, unit, length, length + unit }, sizeof(places));
	data = room((size_t)PLACES * unit);
	zeroes = room(unit);
	for (unsigned i = 0; i < PLACES; i++)
		store(t, places[i], unit, 20 + i, data + (size_t)i * unit);
	if (!long_effect(t, c, unit, length))
		return;
	expect_stored(t, 0, unit, data, R(ext_effect_length));
	expect_stored(t, length + unit, unit, data + (size_t)3 * unit, R(ext_effect_length));
	if (c->type == NBD_CMD_WRITE_ZEROES) {
		expect_stored(t, unit, unit, zeroes, R(ext_effect_length));
		expect_stored(t, length, unit, zeroes, R(ext_effect_length));
	}
	free(data);
	free(zeroes);
}

CASE(extended, long_effects,
     "WRITE_ZEROES, TRIM and CACHE over more than 4 GiB do all of it, and no more, or are refused",
     R(ext_effect_length), R(ext_long_effect_no_disconnect), R(ext_long_effect_refused))
{
	for (size_t i = 0; i < N_EFFECTS; i++)
		POINT(t, "%s", effects[i].name)
			try_long_effect(t, &effects[i]);
}

/* Past the end, where what is left of the length in 32 bits, or of the sum in 64, is one block of the export. */
static uint64_t
past_end(struct test *t, uint32_t unit, bool wraps, uint64_t *offset)
{
	need_size(t, 4u * unit);
	if (!wraps && t->s->size >= UINT64_C(1) << 62)
		skip(t, "size", "the export has %" PRIu64 " bytes", t->s->size);
	*offset = wraps ? 2u * unit : unit;
	return wraps ? UINT64_MAX - unit + 1 : (UINT64_C(1) << 62) + unit;
}

static void
try_past_end(struct test *t, const struct command *c, bool wraps)
{
	uint64_t offset, length;
	uint32_t unit, error;
	uint8_t *data;
	struct sent q;

	enter_for(t, NBD_CMD_WRITE, c->exposed_by);
	unit = blocks(t, 4096);
	length = past_end(t, unit, wraps, &offset);
	data = room(2u * unit);
	store(t, 0, 2 * unit, 31, data);
	q = send_command(t, c->flags, c->type, offset, length, NULL);
	/* Our violation (proto.md:881). */
	if (!peer_goes_on(t, R(ext_effect_length)))
		return;
	error = recv_reply(t, &q, R(ext_chunk_layout)).error;
	EXPECT_ERROR(t, R(ext_effect_length), error, NBD_EINVAL, NBD_ENOSPC, NBD_EOVERFLOW, NBD_ENOTSUP);
	expect_in_step(t, R(ext_errors_in_chunks));
	expect_stored(t, 0, 2 * unit, data, R(ext_effect_length));
	free(data);
}

/* No room for all that it asks for: the first chunk says enough. */
static void
try_read_past_end(struct test *t, bool wraps)
{
	uint64_t offset, length;

	enter_extended(t);
	length = past_end(t, blocks(t, 4096), wraps, &offset);
	send_request(t, 0, NBD_CMD_READ, new_cookie(t), offset, length, NULL);
	if (!peer_goes_on(t, R(ext_effect_length)))
		return;
	EXPECT(t, R(ext_errors_in_chunks), (recv_chunk(t, R(ext_chunk_layout)).type & 0x8000) != 0,
	       "a READ past the end does not begin with an error");
}

CASE(extended, past_the_end, "A length of 64 bits that goes past the end gets an error, and nothing is altered",
     R(ext_effect_length), R(ext_errors_in_chunks))
{
	for (unsigned wraps = 0; wraps < 2; wraps++) {
		for (size_t i = 0; i < N_EFFECTS; i++)
			POINT(t, "%s,%s", effects[i].name, wraps ? "wraps" : "long")
				try_past_end(t, &effects[i], wraps);
		POINT(t, "READ,%s", wraps ? "wraps" : "long")
			try_read_past_end(t, wraps);
	}
}

/* ---- payloads ---- */

/* What is taken for requests shows, by its cookies. */
static struct buf
tempting_payload(struct test *t)
{
	struct buf b = { 0 };

	for (unsigned i = 0; i < 16; i++)
		wire_put_extended_request(&b, &(struct request){ .magic = NBD_EXTENDED_REQUEST_MAGIC,
		                                                 .type = NBD_CMD_READ,
		                                                 .cookie = UINT64_C(0x7061796c6f616400) + i,
		                                                 .length = blocks(t, 512) });
	return b;
}

static void
try_payload(struct test *t, uint16_t type, uint16_t flag)
{
	struct buf payload;
	struct sent q;
	uint32_t error;

	enter_for(t, type, flag);
	need_size(t, blocks(t, 512));
	payload = tempting_payload(t);
	q = send_with_payload(t, 0, type, 0, (struct bytes){ payload.at, payload.len }, 0);
	buf_free(&payload);
	if (!peer_goes_on(t, R(ext_payload_consumed))) {
		deviates(t, R(ext_payload_consumed), "a reply", "the connection ends");
		return;
	}
	error = recv_reply(t, &q, R(ext_unexpected_payload_einval)).error;
	EXPECT_ERROR(t, R(ext_unexpected_payload_einval), error, NBD_EINVAL);
	expect_in_step(t, R(ext_payload_consumed));
}

CASE(extended, payload_unexpected,
     "A payload with a command that has no use for one is consumed, the command gets NBD_EINVAL, and the next is "
     "served",
     R(ext_unexpected_payload_einval), R(ext_payload_consumed))
{
	POINT(t, "READ")
		try_payload(t, NBD_CMD_READ, 0);
	POINT(t, "FLUSH")
		try_payload(t, NBD_CMD_FLUSH, NBD_FLAG_SEND_FLUSH);
	POINT(t, "TRIM")
		try_payload(t, NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM);
	POINT(t, "WRITE_ZEROES")
		try_payload(t, NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES);
	POINT(t, "CACHE")
		try_payload(t, NBD_CMD_CACHE, NBD_FLAG_SEND_CACHE);
	POINT(t, "unknown")
		try_payload(t, 0x7e57, 0);
}

CASE(extended, refused_write, "A WRITE past the end has its payload consumed, and the next request is served",
     R(ext_payload_consumed), R(ext_errors_in_chunks))
{
	struct buf payload;
	struct sent q;
	uint32_t error;

	enter_for(t, NBD_CMD_WRITE, 0);
	payload = tempting_payload(t);
	payload.len = 512;
	q = send_with_payload(t, 0, NBD_CMD_WRITE, UINT64_C(1) << 63, (struct bytes){ payload.at, payload.len }, 512);
	buf_free(&payload);
	/* Our violation (proto.md:881). */
	if (!peer_goes_on(t, R(ext_payload_consumed)))
		return;
	error = recv_reply(t, &q, R(ext_errors_in_chunks)).error;
	EXPECT_ERROR(t, R(ext_errors_in_chunks), error, NBD_ENOSPC, NBD_EINVAL);
	expect_in_step(t, R(ext_payload_consumed));
}

static void
try_oversize(struct test *t, uint64_t length)
{
	enter_for(t, NBD_CMD_WRITE, 0);
	send_request(t, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_WRITE, new_cookie(t), 0, length, NULL);
	/* A reply before the end is none the worse; who goes on behind it, or waits for so many bytes, is. */
	if (peer_goes_on(t, R(ext_oversize_payload_ends))) {
		recv_chunk(t, R(ext_oversize_payload_ends));
		send_request(t, 0, NBD_CMD_READ, new_cookie(t), 0, blocks(t, 512), NULL);
		if (peer_goes_on(t, R(ext_oversize_payload_ends)))
			deviates(t, R(ext_oversize_payload_ends), "the connection ends", "another reply");
	}
	expect_next_client_served(t, R(ext_oversize_payload_ends));
}

CASE(extended, payload_above_maximum,
     "A payload far above any maximum ends the connection, and the next client is served", R(ext_oversize_payload_ends))
{
	need_extended(t);
	POINT(t, "length=2^40")
		try_oversize(t, UINT64_C(1) << 40);
	POINT(t, "length=2^63")
		try_oversize(t, UINT64_C(1) << 63);
}

/* ---- errors ---- */

CASE(extended, errors, "Errors come in extended chunks, with the offset of the request, and the next request is served",
     R(ext_errors_in_chunks), R(ext_error_text_limit), R(ext_no_simple_reply), R(ext_offset_echoed))
{
	static const struct command wrong[] = {
		{ "READ", NBD_CMD_READ, 0, 0 },
		{ "TRIM", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, 0 },
		{ "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, 0 },
		{ "unknown", 0x7e57, 0, 0 },
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		POINT(t, "%s", wrong[i].name) {
			struct reply r;
			struct sent q;

			enter_for(t, wrong[i].type, wrong[i].exposed_by);
			q = send_command(t, 0, wrong[i].type, UINT64_C(1) << 62, blocks(t, 512), NULL);
			/* Our violation. */
			if (!peer_goes_on(t, R(ext_errors_in_chunks)))
				continue;
			r = recv_reply(t, &q, R(ext_errors_in_chunks));
			EXPECT(t, R(ext_errors_in_chunks), r.error != NBD_SUCCESS || t->s->size > UINT64_C(1) << 62,
			       "%s past the end succeeds", wrong[i].name);
			expect_in_step(t, R(ext_errors_in_chunks));
		}
}
