/*
 * The wire codec against encodings that were written out by hand from proto.md, so that encoder and decoder cannot be
 * wrong together: every message, every prefix of it, one byte more, and lengths that lie.
 */
#include "harness/nbd.h"
#include "harness/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LENGTH(a) (sizeof(a) / sizeof((a)[0]))

/* One member of a message's struct: a number, or a struct bytes, which no number is as large as. */
struct field {
	size_t at, size;
	const char *name;
};
#define F(s, m)                                                                                                        \
	{                                                                                                              \
		offsetof(struct s, m), sizeof(((struct s *)0)->m), #m                                                  \
	}

/* What the tests know of a message: how to call its codec, and its members. */
struct codec {
	enum wire_end (*get)(struct wire w, void *m);
	void (*put)(struct buf *b, const void *m);
	struct field fields[8];
};
#define CODEC(name, ...)                                                                                               \
	static enum wire_end get_##name(struct wire w, void *m)                                                        \
	{                                                                                                              \
		return wire_get_##name(w, m);                                                                          \
	}                                                                                                              \
	static void put_##name(struct buf *b, const void *m)                                                           \
	{                                                                                                              \
		wire_put_##name(b, m);                                                                                 \
	}                                                                                                              \
	static const struct codec name = { get_##name, put_##name, { __VA_ARGS__ } };

CODEC(oldstyle_greeting, F(oldstyle_greeting, magic), F(oldstyle_greeting, cliserv_magic), F(oldstyle_greeting, size),
      F(oldstyle_greeting, flags), F(oldstyle_greeting, reserved))
CODEC(greeting, F(greeting, magic), F(greeting, option_magic), F(greeting, flags))
CODEC(client_flags, F(client_flags, flags))
CODEC(option, F(option, magic), F(option, option), F(option, length), F(option, data))
CODEC(option_reply, F(option_reply, magic), F(option_reply, option), F(option_reply, type), F(option_reply, length),
      F(option_reply, data))
CODEC(export_name_reply, F(export_name_reply, size), F(export_name_reply, flags), F(export_name_reply, padding))
CODEC(opt_go, F(opt_go, name_length), F(opt_go, name), F(opt_go, n_infos), F(opt_go, infos))
CODEC(opt_meta_context, F(opt_meta_context, name_length), F(opt_meta_context, name), F(opt_meta_context, n_queries),
      F(opt_meta_context, queries))
CODEC(rep_server, F(rep_server, name_length), F(rep_server, name), F(rep_server, details))
CODEC(rep_info, F(rep_info, type), F(rep_info, payload))
CODEC(info_export, F(info_export, size), F(info_export, flags))
CODEC(info_block_size, F(info_block_size, minimum), F(info_block_size, preferred), F(info_block_size, maximum))
CODEC(rep_meta_context, F(rep_meta_context, id), F(rep_meta_context, name))
CODEC(request, F(request, magic), F(request, flags), F(request, type), F(request, cookie), F(request, offset),
      F(request, length), F(request, data))
CODEC(simple_reply, F(simple_reply, magic), F(simple_reply, error), F(simple_reply, cookie), F(simple_reply, data))
CODEC(chunk, F(chunk, magic), F(chunk, flags), F(chunk, type), F(chunk, cookie), F(chunk, length), F(chunk, data))
CODEC(extended_request, F(request, magic), F(request, flags), F(request, type), F(request, cookie), F(request, offset),
      F(request, length), F(request, data))
CODEC(extended_chunk, F(chunk, magic), F(chunk, flags), F(chunk, type), F(chunk, cookie), F(chunk, length),
      F(chunk, data), F(chunk, offset))
CODEC(block_status_payload, F(block_status_payload, length), F(block_status_payload, ids))
CODEC(chunk_block_status_ext, F(chunk_block_status_ext, context_id), F(chunk_block_status_ext, count),
      F(chunk_block_status_ext, extents))
CODEC(chunk_offset_data, F(chunk_offset_data, offset), F(chunk_offset_data, data))
CODEC(chunk_offset_hole, F(chunk_offset_hole, offset), F(chunk_offset_hole, size))
CODEC(chunk_block_status, F(chunk_block_status, context_id), F(chunk_block_status, extents))
CODEC(chunk_error, F(chunk_error, error), F(chunk_error, message_length), F(chunk_error, message))
CODEC(chunk_error_offset, F(chunk_error_offset, error), F(chunk_error_offset, message_length),
      F(chunk_error_offset, message), F(chunk_error_offset, offset))

/* BYTES_OF, as a constant initializer. */
#define B(s)                                                                                                           \
	{                                                                                                              \
		(const uint8_t *)(s), sizeof(s) - 1                                                                    \
	}

#define ZEROES_4   "00000000"
#define ZEROES_20  ZEROES_4 ZEROES_4 ZEROES_4 ZEROES_4 ZEROES_4
#define ZEROES_124 ZEROES_20 ZEROES_20 ZEROES_20 ZEROES_20 ZEROES_20 ZEROES_20 ZEROES_4
#define COOKIE     0x1112131415161718
#define OFFSET     0x2122232425262728

/*
 * The encoding is in hexadecimal, a word per line of proto.md. <…> is a length or a count of what follows. After |
 * comes the rest of the bytes, however many; after # the rest in whole extents, at least one, after % in whole extents of
 * 16 bytes, at least one, after = in whole numbers of 4 bytes.
 */
static const struct row {
	const char *name;
	const struct codec *codec;
	const void *message;
	const char *hex;
} rows[] = {
	{ "oldstyle greeting, proto.md:97", &oldstyle_greeting,
	  &(struct oldstyle_greeting){
		  NBD_MAGIC, NBD_CLISERV_MAGIC, 0x0102030405060708, 0x0a0b002d, { (uint8_t[124]){ 0 }, 124 } },
	  "4e42444d41474943 0000420281861253 0102030405060708 0a0b002d" ZEROES_124 },
	{ "greeting, proto.md:127", &greeting,
	  &(struct greeting){ NBD_MAGIC, NBD_OPTION_MAGIC, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES },
	  "4e42444d41474943 49484156454f5054 0003" },
	{ "client flags, proto.md:132", &client_flags, &(struct client_flags){ NBD_FLAG_C_NO_ZEROES }, "00000002" },
	{ "option, proto.md:146", &option, &(struct option){ NBD_OPTION_MAGIC, NBD_OPT_EXPORT_NAME, 4, B("disk") },
	  "49484156454f5054 00000001 <00000004> 6469736b" },
	{ "option without data", &option, &(struct option){ NBD_OPTION_MAGIC, NBD_OPT_ABORT, 0, B("") },
	  "49484156454f5054 00000002 <00000000>" },
	{ "option reply, proto.md:197", &option_reply,
	  &(struct option_reply){ NBD_OPTION_REPLY_MAGIC, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, 2, B("no") },
	  "0003e889045565a9 00000007 80000006 <00000002> 6e6f" },
	{ "option reply without data", &option_reply,
	  &(struct option_reply){ NBD_OPTION_REPLY_MAGIC, NBD_OPT_LIST, NBD_REP_ACK, 0, B("") },
	  "0003e889045565a9 00000003 00000001 <00000000>" },
	{ "reply to NBD_OPT_EXPORT_NAME, proto.md:160", &export_name_reply,
	  &(struct export_name_reply){
		  0x0102030405060708, NBD_FLAG_HAS_FLAGS | NBD_FLAG_CAN_MULTI_CONN, { (uint8_t[124]){ 0 }, 124 } },
	  "0102030405060708 0101 |" ZEROES_124 },
	{ "reply to NBD_OPT_EXPORT_NAME, no zeroes", &export_name_reply,
	  &(struct export_name_reply){ 0x0102030405060708, NBD_FLAG_HAS_FLAGS, B("") }, "0102030405060708 0001 |" },
	{ "NBD_OPT_GO, proto.md:1266", &opt_go, &(struct opt_go){ 3, B("foo"), 2, B("\1\2\3\4") },
	  "<00000003> 666f6f <0002> 0102 0304" },
	{ "NBD_OPT_GO, the default export", &opt_go, &(struct opt_go){ 0, B(""), 0, B("") }, "<00000000> <0000>" },
	{ "NBD_OPT_SET_META_CONTEXT, proto.md:1491", &opt_meta_context,
	  &(struct opt_meta_context){ 1, B("e"), 2, B("\0\0\0\17base:allocation\0\0\0\2x:") },
	  "<00000001> 65 <00000002> <0000000f> 626173653a616c6c6f636174696f6e <00000002> 783a" },
	{ "NBD_OPT_LIST_META_CONTEXT, zero queries, proto.md:1400", &opt_meta_context,
	  &(struct opt_meta_context){ 0, B(""), 0, B("") }, "<00000000> <00000000>" },
	{ "NBD_REP_SERVER, proto.md:1537", &rep_server, &(struct rep_server){ 3, B("foo"), B("hello") },
	  "<00000003> 666f6f | 68656c6c6f" },
	{ "NBD_REP_SERVER, no details", &rep_server, &(struct rep_server){ 1, B("a"), B("") }, "<00000001> 61 |" },
	{ "NBD_REP_INFO, proto.md:1572", &rep_info, &(struct rep_info){ NBD_INFO_NAME, B("foo") }, "0001 | 666f6f" },
	{ "NBD_INFO_EXPORT, proto.md:1586", &info_export, &(struct info_export){ 0x0102030405060708, 0x0a0b },
	  "0102030405060708 0a0b" },
	{ "NBD_INFO_BLOCK_SIZE, proto.md:1632", &info_block_size, &(struct info_block_size){ 512, 4096, 1 << 25 },
	  "00000200 00001000 02000000" },
	{ "NBD_REP_META_CONTEXT, proto.md:1641", &rep_meta_context,
	  &(struct rep_meta_context){ 0x01020304, B("base:allocation") }, "01020304 | 626173653a616c6c6f636174696f6e" },
	{ "NBD_CMD_READ, proto.md:351", &request,
	  &(struct request){ NBD_REQUEST_MAGIC, NBD_CMD_FLAG_DF, NBD_CMD_READ, COOKIE, OFFSET, 4096, B("") },
	  "25609513 0004 0000 1112131415161718 2122232425262728 00001000" },
	{ "NBD_CMD_WRITE, proto.md:351", &request,
	  &(struct request){ NBD_REQUEST_MAGIC, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, COOKIE, OFFSET, 3, B("abc") },
	  "25609513 0001 0001 1112131415161718 2122232425262728 <00000003> 616263" },
	{ "simple reply, proto.md:368", &simple_reply,
	  &(struct simple_reply){ NBD_SIMPLE_REPLY_MAGIC, 0, COOKIE, B("abc") },
	  "67446698 00000000 1112131415161718 | 616263" },
	{ "simple reply, an error", &simple_reply,
	  &(struct simple_reply){ NBD_SIMPLE_REPLY_MAGIC, NBD_ESHUTDOWN, COOKIE, B("") },
	  "67446698 0000006c 1112131415161718 |" },
	{ "chunk, proto.md:420", &chunk,
	  &(struct chunk){ NBD_STRUCTURED_REPLY_MAGIC, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR_OFFSET, COOKIE, 3,
	                   B("abc"), 0 },
	  "668e33ef 0001 8002 1112131415161718 <00000003> 616263" },
	{ "NBD_REPLY_TYPE_NONE", &chunk,
	  &(struct chunk){ NBD_STRUCTURED_REPLY_MAGIC, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, COOKIE, 0, B(""), 0 },
	  "668e33ef 0001 0000 1112131415161718 <00000000>" },
	{ "NBD_REPLY_TYPE_OFFSET_DATA, proto.md:1816", &chunk_offset_data,
	  &(struct chunk_offset_data){ OFFSET, B("abc") }, "2122232425262728 | 616263" },
	{ "NBD_REPLY_TYPE_OFFSET_HOLE, proto.md:1832", &chunk_offset_hole,
	  &(struct chunk_offset_hole){ OFFSET, 0x01020304 }, "2122232425262728 01020304" },
	{ "NBD_REPLY_TYPE_BLOCK_STATUS, proto.md:1845", &chunk_block_status,
	  &(struct chunk_block_status){ 0x01020304, B("\0\0\20\0\0\0\0\3\0\0\40\0\0\0\0\1") },
	  "01020304 # 00001000 00000003 00002000 00000001" },
	{ "extended NBD_CMD_TRIM, ext:388", &extended_request,
	  &(struct request){ NBD_EXTENDED_REQUEST_MAGIC, NBD_CMD_FLAG_FUA, NBD_CMD_TRIM, COOKIE, OFFSET, 0x100001000,
	                     B("") },
	  "21e41c71 0001 0004 1112131415161718 2122232425262728 0000000100001000" },
	{ "extended NBD_CMD_WRITE, ext:388", &extended_request,
	  &(struct request){ NBD_EXTENDED_REQUEST_MAGIC, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_WRITE, COOKIE, OFFSET, 3,
	                     B("abc") },
	  "21e41c71 0020 0001 1112131415161718 2122232425262728 <0000000000000003> 616263" },
	{ "extended NBD_CMD_WRITE without NBD_CMD_FLAG_PAYLOAD_LEN", &extended_request,
	  &(struct request){ NBD_EXTENDED_REQUEST_MAGIC, 0, NBD_CMD_WRITE, COOKIE, OFFSET, 3, B("abc") },
	  "21e41c71 0000 0001 1112131415161718 2122232425262728 <0000000000000003> 616263" },
	{ "payload of NBD_CMD_BLOCK_STATUS, ext:2510", &block_status_payload,
	  &(struct block_status_payload){ 0x100001000, B("\0\0\0\1\1\2\3\4") },
	  "0000000100001000 = 00000001 01020304" },
	{ "payload of NBD_CMD_BLOCK_STATUS, no IDs", &block_status_payload,
	  &(struct block_status_payload){ 4096, B("") }, "0000000000001000 =" },
	{ "extended chunk, ext:525", &extended_chunk,
	  &(struct chunk){ NBD_EXTENDED_REPLY_MAGIC, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_OFFSET_DATA, COOKIE, 3,
	                   B("abc"), OFFSET },
	  "6e8a278c 0001 0001 1112131415161718 2122232425262728 <0000000000000003> 616263" },
	{ "extended NBD_REPLY_TYPE_NONE", &extended_chunk,
	  &(struct chunk){ NBD_EXTENDED_REPLY_MAGIC, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, COOKIE, 0, B(""),
	                   OFFSET },
	  "6e8a278c 0001 0000 1112131415161718 2122232425262728 <0000000000000000>" },
	{ "NBD_REPLY_TYPE_BLOCK_STATUS_EXT, ext:2112", &chunk_block_status_ext,
	  &(struct chunk_block_status_ext){ 0x01020304, 2,
	                                    B("\0\0\0\1\0\0\20\0\0\0\0\0\0\0\0\3\0\0\0\0\0\0\40\0\0\0\0\0\0\0\0\1") },
	  "01020304 00000002 % 0000000100001000 0000000000000003 0000000000002000 0000000000000001" },
	{ "NBD_REPLY_TYPE_ERROR, proto.md:1907", &chunk_error, &(struct chunk_error){ NBD_EOVERFLOW, 3, B("bad") },
	  "0000004b <0003> 626164" },
	{ "NBD_REPLY_TYPE_ERROR, no message", &chunk_error, &(struct chunk_error){ NBD_EIO, 0, B("") },
	  "00000005 <0000>" },
	{ "NBD_REPLY_TYPE_ERROR_OFFSET, proto.md:1929", &chunk_error_offset,
	  &(struct chunk_error_offset){ NBD_ENOTSUP, 3, B("bad"), OFFSET }, "0000005f <0003> 626164 2122232425262728" },
};

/* A row's encoding, its marks taken out. */
struct golden {
	uint8_t bytes[256];
	size_t len;
	struct length {
		size_t at, size;
	} lengths[4];
	size_t n_lengths;
	bool has_rest;
	size_t rest, unit, least; /* where the rest begins, in multiples of what, and how much there must be */
};

static struct golden
golden(const char *hex)
{
	struct golden g = { 0 };

	for (const char *p = hex; *p != '\0'; p++) {
		if (*p == ' ') {
			continue;
		} else if (*p == '<') {
			g.lengths[g.n_lengths].at = g.len;
		} else if (*p == '>') {
			g.lengths[g.n_lengths].size = g.len - g.lengths[g.n_lengths].at;
			g.n_lengths++;
		} else if (strchr("|#%=", *p) != NULL) {
			g.has_rest = true;
			g.rest = g.len;
			g.unit = *p == '#' ? 8 : *p == '%' ? 16 : *p == '=' ? 4 : 1;
			g.least = *p == '#' || *p == '%' ? g.unit : 0;
		} else {
			assert_int_equal(sscanf(p++, "%2hhx", &g.bytes[g.len++]), 1);
		}
	}
	return g;
}

static enum wire_end
expected_end(const struct golden *g, size_t n)
{
	if (!g->has_rest)
		return n < g->len ? WIRE_SHORT : n == g->len ? WIRE_EXACT : WIRE_EXTRA;
	if (n < g->rest + g->least)
		return WIRE_SHORT;
	return (n - g->rest) % g->unit == 0 ? WIRE_EXACT : WIRE_EXTRA;
}

static struct bytes
bytes_at(const void *message, const struct field *f)
{
	struct bytes b;

	memcpy(&b, (const uint8_t *)message + f->at, sizeof(b));
	return b;
}

static void
check_same(const struct field *fields, const void *a, const void *b)
{
	for (const struct field *f = fields; f->size > 0; f++) {
		bool same = f->size == sizeof(struct bytes)
		                    ? bytes_equal(bytes_at(a, f), bytes_at(b, f))
		                    : memcmp((const uint8_t *)a + f->at, (const uint8_t *)b + f->at, f->size) == 0;

		if (!same)
			fail_msg("%s differs", f->name);
	}
}

/* Whatever the verdict, what is borrowed lies within the input. */
static void
check_within(const struct field *fields, const void *message, const uint8_t *data, size_t len)
{
	for (const struct field *f = fields; f->size > 0; f++) {
		struct bytes b;

		if (f->size != sizeof(b))
			continue;
		b = bytes_at(message, f);
		if (b.len > 0 && (b.at < data || b.len > len || b.at > data + len - b.len))
			fail_msg("%s reaches out of the message", f->name);
	}
}

/* Decodes a copy that ends where its memory ends, so that ASan and valgrind see what is read beyond it. */
static void
check_decode(const struct row *row, const uint8_t *data, size_t len, enum wire_end expected, bool whole)
{
	uint8_t *copy = malloc(len), *message = malloc(256);
	struct buf again = { 0 };
	enum wire_end end;

	memcpy(copy, data, len);
	memset(message, 0xa5, 256);
	end = row->codec->get(wire(copy, len), message);
	if (end != expected)
		fail_msg("%s, %zu bytes: %d, should be %d", row->name, len, end, expected);
	check_within(row->codec->fields, message, copy, len);
	if (whole)
		check_same(row->codec->fields, message, row->message);
	if (end != WIRE_SHORT) {
		row->codec->put(&again, message);
		assert_in_range(again.len, end == WIRE_EXACT ? len : 1, end == WIRE_EXACT ? len : len - 1);
		assert_memory_equal(again.at, copy, again.len);
	}
	buf_free(&again);
	free(message);
	free(copy);
}

static void
encodes_as_the_text_says(void **state)
{
	(void)state;
	for (const struct row *row = rows; row < rows + LENGTH(rows); row++) {
		struct golden g = golden(row->hex);
		struct buf b = { 0 };

		put_be16(&b, 0xabcd); /* an encoder appends */
		row->codec->put(&b, row->message);
		if (b.len != 2 + g.len)
			fail_msg("%s has %zu bytes, should have %zu", row->name, b.len - 2, g.len);
		assert_memory_equal(b.at, "\xab\xcd", 2);
		assert_memory_equal(b.at + 2, g.bytes, g.len);
		buf_free(&b);
	}
}

static void
decodes_every_prefix_and_one_byte_more(void **state)
{
	uint8_t message[256];

	(void)state;
	for (const struct row *row = rows; row < rows + LENGTH(rows); row++) {
		struct golden g = golden(row->hex);

		g.bytes[g.len] = 0xee;
		for (size_t n = 0; n <= g.len + 1; n++)
			check_decode(row, g.bytes, n, expected_end(&g, n), n == g.len);
		assert_int_equal(row->codec->get(wire(NULL, 0), message), WIRE_SHORT);
	}
}

static void
lengths_that_lie_are_short(void **state)
{
	(void)state;
	for (const struct row *row = rows; row < rows + LENGTH(rows); row++) {
		const struct golden g = golden(row->hex);

		for (size_t i = 0; i < g.n_lengths; i++) {
			struct golden lie = g;
			const struct length l = g.lengths[i];

			memset(lie.bytes + l.at, 0xff, l.size);
			check_decode(row, lie.bytes, lie.len, WIRE_SHORT, false);
			memset(lie.bytes + l.at, 0x7f, 1);
			check_decode(row, lie.bytes, lie.len, WIRE_SHORT, false);
			memset(lie.bytes + l.at, 0, l.size);
			lie.bytes[l.at + l.size - 1] = (uint8_t)(lie.len - l.at - l.size + 1);
			check_decode(row, lie.bytes, lie.len, WIRE_SHORT, false);
		}
	}
}

/* The sizes that wire.h promises, in bytes. */
static void
fixed_parts_have_their_sizes(void **state)
{
	static const struct {
		const struct codec *codec;
		size_t size;
	} sizes[] = {
		{ &oldstyle_greeting, OLDSTYLE_GREETING_SIZE - 124 },
		{ &greeting, GREETING_SIZE },
		{ &client_flags, CLIENT_FLAGS_SIZE },
		{ &option, OPTION_HEADER_SIZE },
		{ &option_reply, OPTION_REPLY_HEADER_SIZE },
		{ &export_name_reply, EXPORT_NAME_REPLY_SIZE },
		{ &request, REQUEST_SIZE },
		{ &simple_reply, SIMPLE_REPLY_SIZE },
		{ &chunk, CHUNK_HEADER_SIZE },
		{ &extended_request, EXTENDED_REQUEST_SIZE },
		{ &extended_chunk, EXTENDED_CHUNK_HEADER_SIZE },
	};
	static const uint64_t zeroes[32];
	struct buf b = { 0 };

	(void)state;
	for (size_t i = 0; i < LENGTH(sizes); i++) {
		buf_clear(&b);
		sizes[i].codec->put(&b, zeroes);
		assert_int_equal(b.len, sizes[i].size);
	}
	buf_clear(&b);
	wire_put_extent(&b, (struct extent){ 0x01020304, 0x05060708 });
	assert_int_equal(b.len, EXTENT_SIZE);
	assert_memory_equal(b.at, "\1\2\3\4\5\6\7\10", 8);
	buf_clear(&b);
	wire_put_extent_ext(&b, (struct extent){ 0x0102030405060708, 0x1112131415161718 });
	assert_int_equal(b.len, EXTENT_EXT_SIZE);
	assert_memory_equal(b.at, "\1\2\3\4\5\6\7\10\21\22\23\24\25\26\27\30", 16);
	buf_free(&b);
}

/* What must be wrong can be written wrong: no encoder corrects a length, and a request carries data of any type. */
static void
encoders_write_lies_as_they_stand(void **state)
{
	const struct row lies[] = {
		{ "option", &option, &(struct option){ 1, 2, 0xffffffff, BYTES_OF("a") },
		  "0000000000000001 00000002 ffffffff 61" },
		{ "option reply", &option_reply, &(struct option_reply){ 1, 2, 3, 9, BYTES_OF("a") },
		  "0000000000000001 00000002 00000003 00000009 61" },
		{ "NBD_OPT_GO", &opt_go, &(struct opt_go){ 9, BYTES_OF("a"), 7, BYTES_OF("b") },
		  "00000009 61 0007 62" },
		{ "NBD_OPT_SET_META_CONTEXT", &opt_meta_context,
		  &(struct opt_meta_context){ 9, BYTES_OF("a"), 0, BYTES_OF("b") }, "00000009 61 00000000 62" },
		{ "NBD_CMD_READ", &request, &(struct request){ 1, 2, NBD_CMD_READ, 3, 4, 5, BYTES_OF("a") },
		  "00000001 0002 0000 0000000000000003 0000000000000004 00000005 61" },
		{ "chunk", &chunk, &(struct chunk){ 1, 2, 3, 4, 0, BYTES_OF("a"), 0 },
		  "00000001 0002 0003 0000000000000004 00000000 61" },
		{ "extended NBD_CMD_READ", &extended_request,
		  &(struct request){ 1, 2, NBD_CMD_READ, 3, 4, 5, BYTES_OF("a") },
		  "00000001 0002 0000 0000000000000003 0000000000000004 0000000000000005 61" },
		{ "extended chunk", &extended_chunk, &(struct chunk){ 1, 2, 3, 4, 0, BYTES_OF("a"), 5 },
		  "00000001 0002 0003 0000000000000004 0000000000000005 0000000000000000 61" },
		{ "NBD_REPLY_TYPE_BLOCK_STATUS_EXT", &chunk_block_status_ext,
		  &(struct chunk_block_status_ext){ 1, 9, BYTES_OF("a") }, "00000001 00000009 61" },
		{ "NBD_REPLY_TYPE_ERROR", &chunk_error, &(struct chunk_error){ 0, 0xffff, BYTES_OF("a") },
		  "00000000 ffff 61" },
	};

	(void)state;
	for (size_t i = 0; i < LENGTH(lies); i++) {
		struct golden g = golden(lies[i].hex);
		struct buf b = { 0 };

		lies[i].codec->put(&b, lies[i].message);
		assert_int_equal(b.len, g.len);
		assert_memory_equal(b.at, g.bytes, g.len);
		buf_free(&b);
	}
}

static void
items_of_a_list_are_read_one_by_one(void **state)
{
	struct wire queries = wire_over(BYTES_OF("\0\0\0\0\0\0\0\2x:\0\0\0\3y"));
	struct opt_go go = { .infos = BYTES_OF("\0\3\1\2") };
	struct chunk_block_status status = { .extents = BYTES_OF("\0\0\20\0\0\0\0\3\0\0\40\0\0\0\0\1") };

	(void)state;
	assert_int_equal(opt_go_info(&go, 0), 3);
	assert_int_equal(opt_go_info(&go, 1), 0x0102);
	assert_int_equal(opt_go_info(&go, 2), 0);
	assert_int_equal(opt_go_info(&go, SIZE_MAX / 2), 0);
	assert_int_equal(chunk_extent(&status, 0).length, 0x1000);
	assert_int_equal(chunk_extent(&status, 0).flags, 3);
	assert_int_equal(chunk_extent(&status, 1).length, 0x2000);
	assert_int_equal(chunk_extent(&status, 1).flags, 1);
	assert_int_equal(chunk_extent(&status, 2).length, 0);
	assert_true(bytes_equal(opt_meta_context_query(&queries), BYTES_OF("")));
	assert_true(bytes_equal(opt_meta_context_query(&queries), BYTES_OF("x:")));
	assert_false(queries.ran_out);
	assert_true(bytes_equal(opt_meta_context_query(&queries), BYTES_OF("")));
	assert_int_equal(wire_end(&queries), WIRE_SHORT);
}

static void
the_cursor_remembers_that_it_ran_out(void **state)
{
	struct wire w = wire("\1\2\3\4\5\6\7\10\11\12", 10);

	(void)state;
	assert_int_equal(wire_end(&w), WIRE_EXTRA);
	assert_int_equal(wire_be16(&w), 0x0102);
	assert_int_equal(wire_be32(&w), 0x03040506);
	assert_true(bytes_equal(wire_take(&w, 1), BYTES_OF("\7")));
	assert_int_equal(wire_be32(&w), 0); /* three are left: none of them is used */
	assert_int_equal(wire_end(&w), WIRE_SHORT);
	assert_int_equal(wire_be16(&w), 0);
	assert_int_equal(wire_take(&w, SIZE_MAX).len, 0);
	assert_int_equal(wire_take(&w, 0).len, 0);
	assert_int_equal(wire_rest(&w).len, 0);
	assert_int_equal(wire_end(&w), WIRE_SHORT);
	w = wire("\377\376\375\374\373\372\371\370", 8);
	assert_true(wire_be64(&w) == 0xfffefdfcfbfaf9f8);
	assert_int_equal(wire_rest(&w).len, 0);
	assert_int_equal(wire_end(&w), WIRE_EXACT);
	assert_int_equal(wire_take(&w, 1).len, 0);
	assert_int_equal(wire_end(&w), WIRE_SHORT);
}

static void
wide_extents_and_ids_are_read_one_by_one(void **state)
{
	const struct bytes in = BYTES_OF("\0\0\0\7\0\0\0\2\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\3"
	                                 "\0\0\0\0\0\0\20\0\200\0\0\0\0\0\0\1");
	const struct bytes asked = BYTES_OF("\0\0\0\1\0\0\0\0\0\0\0\5\0\0\0\6");
	struct chunk_block_status_ext status;
	struct block_status_payload payload;

	(void)state;
	assert_int_equal(wire_get_chunk_block_status_ext(wire_over(in), &status), WIRE_EXACT);
	assert_int_equal(status.count, 2);
	assert_int_equal(chunk_extent_ext(&status, 0).length, 0x100000000);
	assert_int_equal(chunk_extent_ext(&status, 0).flags, 3);
	assert_int_equal(chunk_extent_ext(&status, 1).length, 0x1000);
	assert_int_equal(chunk_extent_ext(&status, 1).flags, 0x8000000000000001);
	assert_int_equal(chunk_extent_ext(&status, 2).length, 0);
	assert_int_equal(wire_get_block_status_payload(wire_over(asked), &payload), WIRE_EXACT);
	assert_int_equal(payload.length, 0x100000000);
	assert_int_equal(block_status_payload_id(&payload, 0), 5);
	assert_int_equal(block_status_payload_id(&payload, 1), 6);
	assert_int_equal(block_status_payload_id(&payload, 2), 0);
}

static void
a_buffer_grows_and_is_consumed(void **state)
{
	struct buf b = { 0 };

	(void)state;
	buf_consume(&b, 0);
	buf_zero(&b, 0);
	buf_put(&b, NULL, 0);
	put_bytes(&b, (struct bytes){ 0 });
	assert_int_equal(b.len, 0);
	for (unsigned i = 0; i < 1000; i++)
		put_be16(&b, (uint16_t)i);
	assert_int_equal(b.len, 2000);
	buf_consume(&b, 1998);
	assert_memory_equal(b.at, "\3\347", 2);
	put_be64(&b, 0x0102030405060708);
	put_be32(&b, 0xfffefdfc);
	buf_zero(&b, 2);
	memcpy(buf_grow(&b, 3), "abc", 3);
	put_bytes(&b, bytes_of("de"));
	assert_int_equal(b.len, 21);
	assert_memory_equal(b.at, "\3\347\1\2\3\4\5\6\7\10\377\376\375\374\0\0abcde", 21);
	buf_consume(&b, 21);
	assert_int_equal(b.len, 0);
	buf_put(&b, "x", 1);
	buf_clear(&b);
	assert_int_equal(b.len, 0);
	buf_free(&b);
	assert_null(b.at);
}

static void
bytes_are_equal_by_content(void **state)
{
	(void)state;
	assert_true(bytes_equal((struct bytes){ 0 }, BYTES_OF("")));
	assert_true(bytes_equal(bytes_of("a"), BYTES_OF("a")));
	assert_false(bytes_equal(BYTES_OF("a"), BYTES_OF("b")));
	assert_false(bytes_equal(BYTES_OF("a"), BYTES_OF("a\0")));
	assert_int_equal(bytes_of("").len, 0);
	assert_int_equal(BYTES_OF("a\0b").len, 3);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(encodes_as_the_text_says),
		cmocka_unit_test(decodes_every_prefix_and_one_byte_more),
		cmocka_unit_test(lengths_that_lie_are_short),
		cmocka_unit_test(fixed_parts_have_their_sizes),
		cmocka_unit_test(encoders_write_lies_as_they_stand),
		cmocka_unit_test(items_of_a_list_are_read_one_by_one),
		cmocka_unit_test(the_cursor_remembers_that_it_ran_out),
		cmocka_unit_test(wide_extents_and_ids_are_read_one_by_one),
		cmocka_unit_test(a_buffer_grows_and_is_consumed),
		cmocka_unit_test(bytes_are_equal_by_content),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
