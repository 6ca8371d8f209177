/* What the lies of the fake client share. */
#ifndef NBDSPEC_CLIENT_LIES_HELPERS_H
#define NBDSPEC_CLIENT_LIES_HELPERS_H

#include "fakeserver/client/lying.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK_ERROR_BIT = 0x8000 };

static inline bool
is_option(const struct fc_sending *m, uint32_t option)
{
	return m->kind == MSG_OPTION && m->option.option == option;
}

static inline bool
is_request(const struct fc_sending *m, uint16_t type)
{
	return m->kind == MSG_REQUEST && m->request.type == type;
}

static inline bool
is_command(const struct fc_op *op, uint16_t type)
{
	return op != NULL && op->ask == FC_COMMAND && op->request.type == type;
}

static inline bool
is_reply(const struct fc_session *s, const struct fc_receiving *m, uint32_t option, uint32_t type)
{
	return m->kind == MSG_OPTION_REPLY && s->option == option && m->option_reply->type == type;
}

static inline bool
is_refusal(const struct fc_session *s, const struct fc_receiving *m, uint32_t option)
{
	return m->kind == MSG_OPTION_REPLY && s->option == option && (m->option_reply->type & NBD_REP_ERROR_BIT) != 0;
}

/* An NBD_REP_INFO, or (type) -1 for any. */
static inline bool
is_info(const struct fc_receiving *m, int type)
{
	struct rep_info info;

	return m->kind == MSG_OPTION_REPLY && m->option_reply->type == NBD_REP_INFO &&
	       wire_get_rep_info(wire_over(m->option_reply->data), &info) != WIRE_SHORT &&
	       (type < 0 || info.type == type);
}

static inline bool
is_chunk(const struct fc_receiving *m, uint16_t type)
{
	return m->kind == MSG_CHUNK && m->chunk->type == type;
}

static inline bool
is_error_chunk(const struct fc_receiving *m)
{
	return m->kind == MSG_CHUNK && (m->chunk->type & CHUNK_ERROR_BIT) != 0;
}

/* The error that a reply tells, 0 for none. */
static inline uint32_t
error_of(const struct fc_receiving *m)
{
	struct chunk_error e;

	if (m->kind == MSG_SIMPLE_REPLY)
		return m->simple->error;
	if (!is_error_chunk(m))
		return 0;
	wire_get_chunk_error(wire_over(m->chunk->data), &e);
	return e.error;
}

static inline void
set_error(struct fc_receiving *m, uint32_t error)
{
	static struct buf data;

	if (m->kind == MSG_SIMPLE_REPLY) {
		m->simple->error = error;
		return;
	}
	buf_clear(&data);
	put_be32(&data, error);
	if (m->chunk->data.len > 4)
		buf_put(&data, m->chunk->data.at + 4, m->chunk->data.len - 4);
	m->chunk->data = (struct bytes){ data.at, data.len };
}

/* What has come of a reply is taken for all of it. */
static inline void
take_for_whole(struct fc_op *op)
{
	size_t n = sizeof(op->told) / sizeof(op->told[0]);

	op->n_covered = op->request.length;
	for (size_t i = 0; i < n; i++)
		op->told[i] = true;
	if (op->request.type == NBD_CMD_READ && op->data == NULL)
		op->data = calloc(1, (size_t)op->request.length + 1);
}

/* A text with more behind it; valid until the next call. */
static inline struct bytes
with_tail(struct bytes text, struct bytes tail)
{
	static struct buf b[4];
	static unsigned turn;
	struct buf *to = &b[turn++ % 4];

	buf_clear(to);
	put_bytes(to, text);
	put_bytes(to, tail);
	return (struct bytes){ to->at, to->len };
}

static inline struct bytes
many(char c, size_t n)
{
	static char text[8192];

	memset(text, c, sizeof(text));
	return (struct bytes){ (const uint8_t *)text, n < sizeof(text) ? n : sizeof(text) };
}

static inline struct bytes
option_bytes(uint32_t option)
{
	static struct buf b;

	buf_clear(&b);
	wire_put_option(&b, &(struct option){ .magic = NBD_OPTION_MAGIC, .option = option });
	return (struct bytes){ b.at, b.len };
}

static inline struct bytes
request_bytes(uint16_t type, uint64_t cookie, uint64_t offset, uint32_t length)
{
	static struct buf b;

	buf_clear(&b);
	wire_put_request(&b, &(struct request){ .magic = NBD_REQUEST_MAGIC, .type = type, .cookie = cookie,
	                                        .offset = offset, .length = length });
	return (struct bytes){ b.at, b.len };
}

#endif
