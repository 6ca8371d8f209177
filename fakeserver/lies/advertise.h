/* For lies about what the server told of an export: only the telling is changed, the server goes on as it was set up. */
#ifndef NBDSPEC_LIES_ADVERTISE_H
#define NBDSPEC_LIES_ADVERTISE_H

#include "fakeserver/lie.h"
#include "harness/nbd.h"

static inline void
advertise(struct outgoing *m, uint16_t set, uint16_t clear)
{
	if (m->kind == MSG_OLDSTYLE_GREETING)
		m->oldstyle.flags = (m->oldstyle.flags | set) & ~(uint32_t)clear;
	else if (m->kind == MSG_EXPORT_NAME_REPLY)
		m->export_name.flags = (uint16_t)((m->export_name.flags | set) & ~clear);
	else if (m->kind == MSG_OPTION_REPLY && m->payload == PAYLOAD_INFO_EXPORT)
		m->info_export.flags = (uint16_t)((m->info_export.flags | set) & ~clear);
}

/* Only those who ask are told. */
static inline void
advertise_blocks(struct outgoing *m, uint32_t minimum, uint32_t maximum)
{
	if (m->kind == MSG_OPTION_REPLY && m->payload == PAYLOAD_INFO_BLOCK_SIZE)
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

#endif
