/* For lies about commands that have an effect and no payload: TRIM, WRITE_ZEROES and CACHE. */
#ifndef NBDSPEC_LIES_EFFECTS_H
#define NBDSPEC_LIES_EFFECTS_H

#include "fakeserver/disk.h"
#include "fakeserver/lies/advertise.h"

/* The honest server would carry it out. */
#define EFFECT_LIE(ident, command, breaks, text, condition, ...)                                                       \
	LIE(ident, ON_DISK, breaks, text)                                                                              \
	{                                                                                                              \
		if (m->type == (command) && m->error == NBD_SUCCESS && (condition) && LIE_NOW) {                       \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}
/* The honest server refuses it. */
#define EFFECT_ERROR_LIE(ident, command, breaks, text, condition, ...)                                                 \
	LIE(ident, ON_DISK, breaks, text)                                                                              \
	{                                                                                                              \
		if (m->type == (command) && m->error != NBD_SUCCESS && (condition) && LIE_NOW) {                       \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}
#define EFFECT_REPLY_LIE(ident, command, breaks, text, condition, ...)                                                 \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (replies_to(m, command) && (condition) && LIE_NOW) {                                                \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}
#define EFFECT_INCOMING_LIE(ident, command, breaks, text, condition, ...)                                              \
	LIE(ident, ON_INCOMING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_REQUEST && m->request.type == (command) && (condition) && LIE_NOW) {                \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}
/* On an export of 8 GiB, which it takes to see it. */
#define GROWN_LIE(ident, command, breaks, text, condition, ...)                                                        \
	LIE(ident, ON_INCOMING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_OPTION && LIE_NOW)                                                                  \
			grow(c);                                                                                       \
		if (m->kind == MSG_REQUEST && m->request.type == (command) && (condition) && LIE_NOW) {                \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}
/* On an export whose minimum block size is 4096, which is told to who asks. */
#define BLOCKS_LIE(ident, command, breaks, text, condition, ...)                                                       \
	LIE(ident, ON_INCOMING, breaks, text)                                                                          \
	{                                                                                                              \
		if (m->kind == MSG_OPTION && LIE_NOW)                                                                  \
			enlarge_blocks(c);                                                                             \
		if (m->kind == MSG_REQUEST && m->request.type == (command) && (condition) && LIE_NOW) {                \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}

static inline void
grow(struct conn *c)
{
	struct fake_export *e = &fake_config_of(c->server)->exports[0];

	if (disk_size(e->disk) >= UINT64_C(8) << 30)
		return;
	disk_free(e->disk);
	e->size = UINT64_C(8) << 30;
	e->disk = disk_new(e->size);
}

static inline void
enlarge_blocks(struct conn *c)
{
	struct fake_config *config = fake_config_of(c->server);

	config->exports[0].block = (struct info_block_size){ 4096, 4096, NBD_DEFAULT_MAX_PAYLOAD };
	config->knob[KNOB_block_sizes_optional] = true;
}

static inline bool
is_beyond(const struct conn *c, uint64_t offset, uint32_t length)
{
	return offset > c->export->size || length > c->export->size - offset;
}

/* The command becomes a WRITE of bytes that nobody sent. */
static inline void
scribble(struct disk_op *m, uint64_t offset, uint32_t length)
{
	static const uint8_t junk[65536] = { [0 ... 65535] = 0x5a };

	m->type = NBD_CMD_WRITE;
	m->data = junk;
	m->offset = offset;
	m->length = length < sizeof(junk) ? length : (uint32_t)sizeof(junk);
}

/* Outwards, to multiples of `to`. */
static inline void
round_out(uint64_t *offset, uint64_t *length, uint32_t to)
{
	uint32_t head = (uint32_t)(*offset % to);

	*offset -= head;
	*length = (*length + head + to - 1) / to * to;
}

/* Inwards; nothing may be left. */
static inline void
round_in(uint64_t *offset, uint64_t *length, uint32_t to)
{
	uint64_t end = (*offset + *length) / to * to, from = (*offset + to - 1) / to * to;

	*offset = from;
	*length = end > from ? end - from : 0;
}

#endif
