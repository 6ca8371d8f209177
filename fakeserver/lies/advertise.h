/* For lies about what the server tells of an export: only that is changed, the server goes on as it was set up. */
#ifndef NBDSPEC_LIES_ADVERTISE_H
#define NBDSPEC_LIES_ADVERTISE_H

#include "fakeserver/lie.h"
#include "harness/nbd.h"

/* The message tells the transmission flags; then advertise() may change them. */
static inline bool
tells_flags(const struct outgoing *m)
{
	return m->kind == MSG_OLDSTYLE_GREETING || m->kind == MSG_EXPORT_NAME_REPLY ||
	       (m->kind == MSG_OPTION_REPLY && m->payload == PAYLOAD_INFO_EXPORT);
}

static inline void
advertise(struct outgoing *m, uint16_t set, uint16_t clear)
{
	if (m->kind == MSG_OLDSTYLE_GREETING)
		m->oldstyle.flags = (m->oldstyle.flags | set) & ~(uint32_t)clear;
	else if (m->kind == MSG_EXPORT_NAME_REPLY)
		m->export_name.flags = (uint16_t)((m->export_name.flags | set) & ~clear);
	else
		m->info_export.flags = (uint16_t)((m->info_export.flags | set) & ~clear);
}

/* The message tells the block sizes, to a client that asked; then advertise_blocks() may change them. */
static inline bool
tells_blocks(const struct outgoing *m)
{
	return m->kind == MSG_OPTION_REPLY && m->payload == PAYLOAD_INFO_BLOCK_SIZE;
}

static inline void
advertise_blocks(struct outgoing *m, uint32_t minimum, uint32_t maximum)
{
	m->block_size = (struct info_block_size){ minimum, minimum > 4096 ? minimum : 4096, maximum };
}

static inline bool
replies_to(const struct outgoing *m, uint16_t command)
{
	return m->kind == MSG_SIMPLE_REPLY && m->request != NULL && m->request->type == command;
}

static inline bool
replies_with_error(const struct outgoing *m)
{
	return m->kind == MSG_SIMPLE_REPLY && m->simple.error != NBD_SUCCESS;
}

/* First the telling, then what is done about replies that meet the condition. */
#define TOLD_FLAGS_LIE(ident, breaks, text, set, clear, condition, edit)                                               \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (tells_flags(m) && LIE_NOW)                                                                         \
			advertise(m, set, clear);                                                                      \
		else if (m->kind == MSG_SIMPLE_REPLY && m->request != NULL && (condition) && LIE_NOW) {                \
			edit;                                                                                          \
		}                                                                                                      \
	}
#define TOLD_BLOCKS_LIE(ident, breaks, text, minimum, maximum, condition, edit)                                        \
	LIE(ident, ON_OUTGOING, breaks, text)                                                                          \
	{                                                                                                              \
		if (tells_blocks(m) && LIE_NOW)                                                                        \
			advertise_blocks(m, minimum, maximum);                                                         \
		else if (m->kind == MSG_SIMPLE_REPLY && m->request != NULL && (condition) && LIE_NOW) {                \
			edit;                                                                                          \
		}                                                                                                      \
	}

#endif
