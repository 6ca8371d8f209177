/* For lies about structured replies. */
#ifndef NBDSPEC_LIES_STRUCTURED_H
#define NBDSPEC_LIES_STRUCTURED_H

#include "fakeserver/lies/advertise.h"

#include <string.h>

static inline bool
agrees_on_structured(const struct outgoing *m)
{
	return m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_STRUCTURED_REPLY && m->reply.type == NBD_REP_ACK;
}

static inline bool
is_chunk(const struct outgoing *m, uint16_t type)
{
	return m->kind == MSG_CHUNK && m->request != NULL && m->chunk.type == type;
}

static inline bool
is_data(const struct outgoing *m)
{
	return is_chunk(m, NBD_REPLY_TYPE_OFFSET_DATA);
}

static inline bool
is_hole(const struct outgoing *m)
{
	return is_chunk(m, NBD_REPLY_TYPE_OFFSET_HOLE);
}

static inline bool
is_error(const struct outgoing *m)
{
	return is_chunk(m, NBD_REPLY_TYPE_ERROR);
}

static inline bool
is_error_offset(const struct outgoing *m)
{
	return is_chunk(m, NBD_REPLY_TYPE_ERROR_OFFSET);
}

/* What succeeds and is no READ gets a simple reply from the honest server. */
static inline bool
is_success_of_other(const struct conn *c, const struct outgoing *m)
{
	return c->structured && m->kind == MSG_SIMPLE_REPLY && m->request != NULL && m->simple.error == NBD_SUCCESS &&
	       m->request->type != NBD_CMD_READ;
}

static inline bool
asks_past_end(const struct conn *c, const struct request *r)
{
	return r->offset < c->export->size && r->length > c->export->size - r->offset;
}

/* The message becomes a chunk of this type, the last of its reply, with this payload. */
static inline void
become_chunk(struct outgoing *m, uint16_t type, struct bytes payload)
{
	m->kind = MSG_CHUNK;
	m->payload = PAYLOAD_RAW;
	m->chunk = (struct chunk){ .magic = NBD_STRUCTURED_REPLY_MAGIC,
		                   .flags = NBD_REPLY_FLAG_DONE,
		                   .type = type,
		                   .cookie = m->request->cookie,
		                   .data = payload };
}

/* The payload of an error chunk; with an offset if it is told. Valid until the next call. */
static inline struct bytes
error_payload(uint32_t error, const uint64_t *offset)
{
	static struct buf b;

	buf_clear(&b);
	put_be32(&b, error);
	put_be16(&b, 0);
	if (offset != NULL)
		put_be64(&b, *offset);
	return (struct bytes){ b.at, b.len };
}

/* One more chunk of the same reply goes out behind the message. */
static inline void
add_chunk(struct outgoing *m, uint16_t flags, uint16_t type, struct bytes payload)
{
	static struct buf b;

	buf_clear(&b);
	wire_put_chunk(&b, &(struct chunk){ .magic = NBD_STRUCTURED_REPLY_MAGIC,
	                                    .flags = flags,
	                                    .type = type,
	                                    .cookie = m->request->cookie,
	                                    .length = (uint32_t)payload.len,
	                                    .data = payload });
	m->extra = (struct bytes){ b.at, b.len };
}

/* A chunk of data becomes two; the second begins `overlap` bytes before the end of the first. */
static inline void
split_data(struct outgoing *m, size_t first, size_t overlap)
{
	static struct buf b;
	struct bytes data = m->offset_data.data;

	buf_clear(&b);
	put_be64(&b, m->offset_data.offset + first - overlap);
	buf_put(&b, data.at + first - overlap, data.len - first + overlap);
	add_chunk(m, m->chunk.flags, NBD_REPLY_TYPE_OFFSET_DATA, (struct bytes){ b.at, b.len });
	m->offset_data.data.len = first;
	m->chunk.flags = 0;
}

#define CHUNK_LIE(ident, breaks, text, condition, ...)                                                                 \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_CHUNK && m->request != NULL && (condition) && LIE_NOW) {                            \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}
/* The same on top of a legal freedom, which the server takes once structured replies are agreed. */
#define KNOB_CHUNK_LIE(ident, knob_, breaks, text, condition, ...)                                                     \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (agrees_on_structured(m) && LIE_NOW)                                                                \
			fake_config_of(c->server)->knob[knob_] = true;                                                 \
		else if (m->kind == MSG_CHUNK && m->request != NULL && (condition) && LIE_NOW) {                       \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}
/* What would be the simple reply to a command that is no READ. */
#define OTHER_LIE(ident, breaks, text, condition, ...)                                                                 \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (is_success_of_other(c, m) && (condition) && LIE_NOW) {                                             \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}

#endif
