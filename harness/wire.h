/*
 * The wire codec, shared by every role (design, section 4).
 *
 * A decoder is a cursor over bytes that somebody else owns. Getters return zeroes past the end and remember it; the
 * caller asks once, at the end, whether the message was exact, short, or had bytes left over. The decoder judges shape
 * only: wrong magics, lengths that disagree, unknown values are handed on as they came.
 *
 * An encoder appends to a struct buf. Every length that is on the wire is a field of its own, so that what must be
 * wrong can be written wrong; wire_put_* never corrects anything.
 */
#ifndef NBDSPEC_WIRE_H
#define NBDSPEC_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that are borrowed: valid as long as the buffer that they were decoded from. */
struct bytes {
	const uint8_t *at;
	size_t len;
};
#define BYTES_OF(s) ((struct bytes){ (const uint8_t *)(s), sizeof(s) - 1 })
struct bytes bytes_of(const char *s);			/* a NUL-terminated string, without its NUL */
bool bytes_equal(struct bytes a, struct bytes b);

/* ---- decoding ---- */
struct wire {
	const uint8_t *at;
	size_t left;
	bool ran_out;		/* a getter wanted more than there was */
};

enum wire_end { WIRE_EXACT, WIRE_SHORT, WIRE_EXTRA };

struct wire wire(const void *data, size_t len);
struct wire wire_over(struct bytes b);
uint16_t wire_be16(struct wire *w);
uint32_t wire_be32(struct wire *w);
uint64_t wire_be64(struct wire *w);
struct bytes wire_take(struct wire *w, size_t n);	/* n bytes, or none and ran_out */
struct bytes wire_rest(struct wire *w);			/* all that is left */
enum wire_end wire_end(const struct wire *w);

/* ---- encoding ---- */
/* Grows on demand; aborts the process when memory runs out. Zero-initialise; release with buf_free. */
struct buf {
	uint8_t *at;
	size_t len, cap;
};
void buf_free(struct buf *b);
void buf_clear(struct buf *b);				/* keeps the memory */
uint8_t *buf_grow(struct buf *b, size_t n);		/* n more bytes, unset; the address of the first */
void buf_put(struct buf *b, const void *data, size_t n);
void buf_zero(struct buf *b, size_t n);
void buf_consume(struct buf *b, size_t n);		/* drops the first n bytes */
void put_be16(struct buf *b, uint16_t v);
void put_be32(struct buf *b, uint32_t v);
void put_be64(struct buf *b, uint64_t v);
void put_bytes(struct buf *b, struct bytes v);

/* ---- messages ---- */
enum message_kind {
	MSG_RAW,			/* bytes that are no message, or part of one */
	MSG_OLDSTYLE_GREETING,
	MSG_GREETING,
	MSG_CLIENT_FLAGS,
	MSG_OPTION,
	MSG_OPTION_REPLY,
	MSG_EXPORT_NAME_REPLY,
	MSG_REQUEST,			/* header, and the payload of a WRITE */
	MSG_SIMPLE_REPLY,		/* header, and the payload of a READ */
	MSG_CHUNK,			/* structured reply chunk, header and payload */
	MSG_EXTENDED_REQUEST,		/* header, and the payload that NBD_CMD_FLAG_PAYLOAD_LEN announces */
	MSG_EXTENDED_CHUNK,		/* extended reply chunk, header and payload */
	MSG_KINDS
};

/* Sizes in bytes of the fixed part of each message. */
enum {
	OLDSTYLE_GREETING_SIZE = 152,
	GREETING_SIZE = 18,
	CLIENT_FLAGS_SIZE = 4,
	OPTION_HEADER_SIZE = 16,
	OPTION_REPLY_HEADER_SIZE = 20,
	EXPORT_NAME_REPLY_SIZE = 10,	/* without the padding */
	REQUEST_SIZE = 28,
	SIMPLE_REPLY_SIZE = 16,
	CHUNK_HEADER_SIZE = 20,
	EXTENT_SIZE = 8,
	EXTENDED_REQUEST_SIZE = 32,
	EXTENDED_CHUNK_HEADER_SIZE = 32,
	EXTENT_EXT_SIZE = 16,
};

/* Server: proto.md:97. */
struct oldstyle_greeting {
	uint64_t magic, cliserv_magic, size;
	uint32_t flags;			/* low 16 bits: transmission flags */
	struct bytes reserved;		/* 124 bytes */
};

/* Server: proto.md:127. */
struct greeting {
	uint64_t magic, option_magic;
	uint16_t flags;
};

/* Client: proto.md:132. */
struct client_flags {
	uint32_t flags;
};

/* Client: proto.md:146. */
struct option {
	uint64_t magic;
	uint32_t option, length;
	struct bytes data;
};

/* Server: proto.md:197. */
struct option_reply {
	uint64_t magic;
	uint32_t option, type, length;
	struct bytes data;
};

/* Server: proto.md:160. */
struct export_name_reply {
	uint64_t size;
	uint16_t flags;
	struct bytes padding;		/* none, or 124 bytes */
};

/* Data of NBD_OPT_INFO and NBD_OPT_GO: proto.md:1266. */
struct opt_go {
	uint32_t name_length;
	struct bytes name;
	uint16_t n_infos;
	struct bytes infos;		/* n_infos × be16; opt_go_info reads one */
};
uint16_t opt_go_info(const struct opt_go *go, size_t i);

/* Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT: proto.md:1400, 1491. */
struct opt_meta_context {
	uint32_t name_length;
	struct bytes name;		/* of the export */
	uint32_t n_queries;
	struct bytes queries;		/* n_queries × (be32 length, string), shape checked */
};
/* Takes the next query from a cursor over .queries. */
struct bytes opt_meta_context_query(struct wire *queries);

/* Data of NBD_REP_SERVER: proto.md:1537. */
struct rep_server {
	uint32_t name_length;
	struct bytes name, details;
};

/* Data of NBD_REP_INFO: proto.md:1572. */
struct rep_info {
	uint16_t type;
	struct bytes payload;		/* without the type */
};
struct info_export {			/* payload of NBD_INFO_EXPORT: proto.md:1586 */
	uint64_t size;
	uint16_t flags;
};
struct info_block_size {		/* payload of NBD_INFO_BLOCK_SIZE, bytes: proto.md:1632 */
	uint32_t minimum, preferred, maximum;
};

/* Data of NBD_REP_META_CONTEXT: proto.md:1641. */
struct rep_meta_context {
	uint32_t id;
	struct bytes name;
};

/*
 * Client: proto.md:351, and ext:388 for the extended form, which alone has more than 32 bits of length. The payload is
 * in .data (.length is what the header says): a WRITE has one, and an extended request with NBD_CMD_FLAG_PAYLOAD_LEN. An
 * extended WRITE has it also where it lacks the flag, which it must not (ext:402): qemu's client sends them so.
 */
struct request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset, length;
	struct bytes data;
};

bool request_has_payload(const struct request *m);		/* of an extended one */

/* Server: proto.md:368. The decoder takes all that follows the header as the payload of a READ. */
struct simple_reply {
	uint32_t magic, error;
	uint64_t cookie;
	struct bytes data;
};

/* Server: proto.md:420, and ext:525 for the extended form, which alone has an offset and more than 32 bits of length. */
struct chunk {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, length;
	struct bytes data;
	uint64_t offset;		/* of the request; 0 in a structured reply */
};

/* Payloads of chunks: proto.md:1816, 1832, 1845, 1907, 1929. */
struct chunk_offset_data {
	uint64_t offset;
	struct bytes data;
};
struct chunk_offset_hole {
	uint64_t offset;
	uint32_t size;
};
struct chunk_block_status {
	uint32_t context_id;
	struct bytes extents;		/* at least one, each EXTENT_SIZE; WIRE_EXTRA for a part of one left over */
};
struct extent {
	uint64_t length, flags;		/* 32 bits each in NBD_REPLY_TYPE_BLOCK_STATUS */
};
struct extent chunk_extent(const struct chunk_block_status *s, size_t i);
struct chunk_block_status_ext {		/* ext:2112 */
	uint32_t context_id, count;	/* .count is what it says of its extents */
	struct bytes extents;		/* at least one, each EXTENT_EXT_SIZE; WIRE_EXTRA for a part of one left over */
};
struct extent chunk_extent_ext(const struct chunk_block_status_ext *s, size_t i);
struct chunk_error {
	uint32_t error;
	uint16_t message_length;
	struct bytes message;
};
struct chunk_error_offset {
	uint32_t error;
	uint16_t message_length;
	struct bytes message;
	uint64_t offset;
};

/* Payload of NBD_CMD_BLOCK_STATUS: ext:2510. */
struct block_status_payload {
	uint64_t length;		/* effect length, bytes */
	struct bytes ids;		/* any number of be32; WIRE_EXTRA for a part of one left over */
};
uint32_t block_status_payload_id(const struct block_status_payload *p, size_t i);

/* A decoder per message; whole messages (header and data) or whole payloads, as the struct says. */
enum wire_end wire_get_oldstyle_greeting(struct wire w, struct oldstyle_greeting *m);
enum wire_end wire_get_greeting(struct wire w, struct greeting *m);
enum wire_end wire_get_client_flags(struct wire w, struct client_flags *m);
enum wire_end wire_get_option(struct wire w, struct option *m);
enum wire_end wire_get_option_reply(struct wire w, struct option_reply *m);
enum wire_end wire_get_export_name_reply(struct wire w, struct export_name_reply *m);	/* padding: all that is left */
enum wire_end wire_get_opt_go(struct wire w, struct opt_go *m);
enum wire_end wire_get_opt_meta_context(struct wire w, struct opt_meta_context *m);
enum wire_end wire_get_rep_server(struct wire w, struct rep_server *m);
enum wire_end wire_get_rep_info(struct wire w, struct rep_info *m);
enum wire_end wire_get_info_export(struct wire w, struct info_export *m);
enum wire_end wire_get_info_block_size(struct wire w, struct info_block_size *m);
enum wire_end wire_get_rep_meta_context(struct wire w, struct rep_meta_context *m);
enum wire_end wire_get_request(struct wire w, struct request *m);
enum wire_end wire_get_extended_request(struct wire w, struct request *m);
enum wire_end wire_get_block_status_payload(struct wire w, struct block_status_payload *m);
enum wire_end wire_get_simple_reply(struct wire w, struct simple_reply *m);
enum wire_end wire_get_chunk(struct wire w, struct chunk *m);
enum wire_end wire_get_extended_chunk(struct wire w, struct chunk *m);
enum wire_end wire_get_chunk_offset_data(struct wire w, struct chunk_offset_data *m);
enum wire_end wire_get_chunk_offset_hole(struct wire w, struct chunk_offset_hole *m);
enum wire_end wire_get_chunk_block_status(struct wire w, struct chunk_block_status *m);
enum wire_end wire_get_chunk_block_status_ext(struct wire w, struct chunk_block_status_ext *m);
enum wire_end wire_get_chunk_error(struct wire w, struct chunk_error *m);
enum wire_end wire_get_chunk_error_offset(struct wire w, struct chunk_error_offset *m);

void wire_put_oldstyle_greeting(struct buf *b, const struct oldstyle_greeting *m);
void wire_put_greeting(struct buf *b, const struct greeting *m);
void wire_put_client_flags(struct buf *b, const struct client_flags *m);
void wire_put_option(struct buf *b, const struct option *m);
void wire_put_option_reply(struct buf *b, const struct option_reply *m);
void wire_put_export_name_reply(struct buf *b, const struct export_name_reply *m);
void wire_put_opt_go(struct buf *b, const struct opt_go *m);
void wire_put_opt_meta_context(struct buf *b, const struct opt_meta_context *m);
void wire_put_rep_server(struct buf *b, const struct rep_server *m);
void wire_put_rep_info(struct buf *b, const struct rep_info *m);
void wire_put_info_export(struct buf *b, const struct info_export *m);
void wire_put_info_block_size(struct buf *b, const struct info_block_size *m);
void wire_put_rep_meta_context(struct buf *b, const struct rep_meta_context *m);
void wire_put_request(struct buf *b, const struct request *m);
void wire_put_extended_request(struct buf *b, const struct request *m);
void wire_put_block_status_payload(struct buf *b, const struct block_status_payload *m);
void wire_put_simple_reply(struct buf *b, const struct simple_reply *m);
void wire_put_chunk(struct buf *b, const struct chunk *m);
void wire_put_extended_chunk(struct buf *b, const struct chunk *m);
void wire_put_chunk_offset_data(struct buf *b, const struct chunk_offset_data *m);
void wire_put_chunk_offset_hole(struct buf *b, const struct chunk_offset_hole *m);
void wire_put_chunk_block_status(struct buf *b, const struct chunk_block_status *m);
void wire_put_extent(struct buf *b, struct extent e);
void wire_put_chunk_block_status_ext(struct buf *b, const struct chunk_block_status_ext *m);
void wire_put_extent_ext(struct buf *b, struct extent e);
void wire_put_chunk_error(struct buf *b, const struct chunk_error *m);
void wire_put_chunk_error_offset(struct buf *b, const struct chunk_error_offset *m);

#endif
