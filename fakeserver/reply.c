/* Replies of the transmission phase: simple ones, status and error chunks, and the chunks of a READ. */
#include "fakeserver/core.h"

#include "fakeserver/disk.h"
#include "harness/nbd.h"

#include <stdlib.h>
#include <string.h>

void
send_simple(struct conn *c, const struct request *r, uint32_t error, struct bytes data)
{
	struct outgoing m = OUTGOING(MSG_SIMPLE_REPLY);

	m.simple = (struct simple_reply){ NBD_SIMPLE_REPLY_MAGIC, error, r->cookie, data };
	m.request = r;
	m.final = true;
	outgoing_send(c, &m);
}

struct outgoing
chunk_start(const struct request *r, uint16_t type, enum outgoing_payload payload, bool final)
{
	struct outgoing m = OUTGOING(MSG_CHUNK);

	m.chunk = (struct chunk){ .magic = NBD_STRUCTURED_REPLY_MAGIC,
		                  .flags = final ? NBD_REPLY_FLAG_DONE : 0,
		                  .type = type,
		                  .cookie = r->cookie };
	m.payload = payload;
	m.request = r;
	m.final = final;
	return m;
}

void
send_none(struct conn *c, const struct request *r)
{
	struct outgoing m = chunk_start(r, NBD_REPLY_TYPE_NONE, PAYLOAD_RAW, true);

	outgoing_send(c, &m);
}

static const char *
error_text(uint32_t error)
{
	switch (error) {
	case NBD_EPERM:
		return "the export is read-only";
	case NBD_ENOSPC:
		return "past the end of the export, or no memory left";
	case NBD_EOVERFLOW:
		return "longer than one reply may be";
	case NBD_ENOTSUP:
		return "no faster than a write";
	default:
		return "the request is not valid here";
	}
}

static void
send_error_chunk(struct conn *c, const struct request *r, uint32_t error)
{
	struct outgoing m = chunk_start(r, NBD_REPLY_TYPE_ERROR, PAYLOAD_ERROR, true);

	m.error.error = error;
	if (knob(c, KNOB_error_messages))
		m.error.message = bytes_of(error_text(error));
	outgoing_send(c, &m);
}

/* Errors are better told in a chunk (proto.md:398), which a READ demands anyway (proto.md:395). */
void
send_status(struct conn *c, const struct request *r, uint32_t error)
{
	bool may_be_simple = !c->structured || r->type != NBD_CMD_READ;

	if (!c->structured || (may_be_simple && error == NBD_SUCCESS && !knob(c, KNOB_structured_successes)) ||
	    (may_be_simple && error != NBD_SUCCESS && knob(c, KNOB_simple_errors)))
		send_simple(c, r, error, (struct bytes){ NULL, 0 });
	else if (error != NBD_SUCCESS)
		send_error_chunk(c, r, error);
	else
		send_none(c, r);
}

/* The data is read to where it will be sent from. */
void
answer_read(struct conn *c, const struct disk_op *op)
{
	const struct request *r = op->request;
	size_t header = c->structured ? CHUNK_HEADER_SIZE + sizeof(uint64_t) : SIMPLE_REPLY_SIZE;
	bool ends_with_none = knob(c, KNOB_read_ends_with_none);
	uint8_t *data = outgoing_room(c, header, op->length);
	struct outgoing m;

	if (op->skip)
		memset(data, 0, op->length);
	else
		disk_read(c->export->disk, op->offset, op->length, data);
	if (!c->structured) {
		send_simple(c, r, NBD_SUCCESS, (struct bytes){ data, op->length });
		return;
	}
	/* A chunk of data has at least one byte (proto.md:1806, 1979). */
	if (op->length == 0) {
		send_none(c, r);
		return;
	}
	m = chunk_start(r, NBD_REPLY_TYPE_OFFSET_DATA, PAYLOAD_OFFSET_DATA, !ends_with_none);
	m.offset_data = (struct chunk_offset_data){ r->offset, { data, op->length } };
	outgoing_send(c, &m);
	if (ends_with_none)
		send_none(c, r);
}
