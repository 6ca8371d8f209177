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
chunk_start(const struct conn *c, const struct request *r, uint16_t type, enum outgoing_payload payload, bool final)
{
	struct outgoing m = OUTGOING(MSG_CHUNK);

	m.chunk = (struct chunk){ .magic = c->extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC,
		                  .flags = final ? NBD_REPLY_FLAG_DONE : 0,
		                  .type = type,
		                  .cookie = r->cookie,
		                  .offset = r->offset };
	m.extended = c->extended;
	m.payload = payload;
	m.request = r;
	m.final = final;
	return m;
}

void
send_none(struct conn *c, const struct request *r)
{
	struct outgoing m = chunk_start(c, r, NBD_REPLY_TYPE_NONE, PAYLOAD_RAW, true);

	outgoing_send(c, &m);
}

static const char *
error_text(uint32_t error)
{
	switch (error) {
	case NBD_EPERM:
		return "the export is read-only";
	case NBD_ESHUTDOWN:
		return "the server is being shut down";
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

/* The first byte of a request that cannot be served; false where no byte of it is to blame (proto.md:1918-1929). */
static bool
error_offset_of(const struct conn *c, const struct request *r, uint64_t *offset)
{
	uint64_t size = c->export->size;
	bool is_past_end = r->offset < size && r->length > size - r->offset;

	*offset = is_past_end ? size : r->offset;
	/* The length is no range where it is that of a payload. */
	if ((r->flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0 && r->type != NBD_CMD_WRITE)
		return false;
	return r->type <= NBD_CMD_BLOCK_STATUS && r->type != NBD_CMD_FLUSH && r->type != NBD_CMD_DISC && r->length > 0;
}

static void
send_error_chunk(struct conn *c, const struct request *r, uint32_t error)
{
	struct outgoing m = chunk_start(c, r, NBD_REPLY_TYPE_ERROR, PAYLOAD_ERROR, true);
	struct bytes text = knob(c, KNOB_error_messages) ? bytes_of(error_text(error)) : (struct bytes){ NULL, 0 };
	uint64_t offset;

	if (error_offset_of(c, r, &offset) && knob(c, KNOB_error_offsets)) {
		m.chunk.type = NBD_REPLY_TYPE_ERROR_OFFSET;
		m.payload = PAYLOAD_ERROR_OFFSET;
		m.error_offset = (struct chunk_error_offset){ .error = error, .message = text, .offset = offset };
	} else {
		m.error = (struct chunk_error){ .error = error, .message = text };
	}
	outgoing_send(c, &m);
}

/* Errors are better told in a chunk (proto.md:398), which a READ demands anyway (proto.md:395), and so do extended headers. */
void
send_status(struct conn *c, const struct request *r, uint32_t error)
{
	bool may_be_simple = !c->extended && (!c->structured || r->type != NBD_CMD_READ);

	if (!in_chunks(c) || (may_be_simple && error == NBD_SUCCESS && !knob(c, KNOB_structured_successes)) ||
	    (may_be_simple && error != NBD_SUCCESS && knob(c, KNOB_simple_errors)))
		send_simple(c, r, error, (struct bytes){ NULL, 0 });
	else if (error != NBD_SUCCESS)
		send_error_chunk(c, r, error);
	else
		send_none(c, r);
}

/* ---- READ ---- */

/* What a content chunk tells. */
struct piece {
	uint64_t offset;
	uint32_t length;
	bool hole;
};

struct pieces {
	struct piece *at;
	size_t n, cap;
};

static void
add_piece(struct pieces *l, struct piece p)
{
	if (l->n == l->cap) {
		l->cap = l->cap > 0 ? 2 * l->cap : 16;
		l->at = reallocarray(l->at, l->cap, sizeof(*l->at));
		if (l->at == NULL)
			abort();
	}
	l->at[l->n++] = p;
}

/* To change the order of chunks needs some. */
static bool
fragments(const struct conn *c)
{
	return knob(c, KNOB_read_halves) || knob(c, KNOB_read_fragments) || knob(c, KNOB_read_chunks_reversed) ||
	       knob(c, KNOB_read_chunks_shuffled) || knob(c, KNOB_chunks_interleaved);
}

/* The text allows some bytes of overhead more (proto.md:857-861). */
static uint32_t
longest_chunk(const struct conn *c)
{
	return max_payload(c->export) - (knob(c, KNOB_read_overhead_counts) ? 512 : 0);
}

/* How far one chunk goes from an offset; it ends at a multiple of 512 (proto.md:1980). */
static uint32_t
piece_length(struct conn *c, uint64_t offset, uint32_t left, uint32_t whole)
{
	uint32_t most = longest_chunk(c), steps = whole / 4096 + 1;
	uint32_t length;

	if (left > most)
		left = most;
	if (knob(c, KNOB_read_halves)) {
		length = whole / 2 + 512 - (uint32_t)((offset + whole / 2) % 512);
		return length < left ? length : left;
	}
	if (!fragments(c))
		return left;
	length = 512 * (1 + random_below(c->server, steps)) - (uint32_t)(offset % 512);
	return length < left ? length : left;
}

/* How much of it has the same right to be called a hole. */
static uint32_t
until_change(const struct conn *c, uint64_t offset, uint32_t length, bool *hole)
{
	uint64_t run, sum = 0;

	*hole = disk_state(c->export->disk, offset, &run) != DISK_DATA;
	for (sum = run; sum < length; sum += run)
		if ((disk_state(c->export->disk, offset + sum, &run) != DISK_DATA) != *hole)
			break;
	return sum < length ? (uint32_t)sum : length;
}

static void
shuffle_pieces(struct conn *c, struct pieces *l)
{
	bool shuffled = knob(c, KNOB_read_chunks_shuffled);

	for (size_t i = 0; i < (shuffled ? l->n : l->n / 2); i++) {
		size_t j = shuffled ? i + random_below(c->server, (uint32_t)(l->n - i)) : l->n - 1 - i;
		struct piece p = l->at[i];

		l->at[i] = l->at[j];
		l->at[j] = p;
	}
}

/* With DF there is one chunk of content, its zeroes explicit (proto.md:2045-2050). */
static void
cut_into_pieces(struct conn *c, const struct disk_op *op, struct pieces *l)
{
	uint64_t offset = op->offset, size = c->export->size;
	uint32_t left = (uint32_t)op->length; /* more than is in no reply is refused */

	/* Only a lie leads past the end. */
	if ((op->flags & NBD_CMD_FLAG_DF) != 0 || op->skip || offset > size || left > size - offset) {
		add_piece(l, (struct piece){ offset, left, false });
		return;
	}
	while (left > 0) {
		bool hole = false;
		uint32_t n = knob(c, KNOB_read_holes) ? until_change(c, offset, left, &hole) : left;

		if (!hole)
			n = piece_length(c, offset, n, (uint32_t)op->length);
		add_piece(l, (struct piece){ offset, n, hole });
		offset += n;
		left -= n;
	}
	if (knob(c, KNOB_read_chunks_reversed) || knob(c, KNOB_read_chunks_shuffled))
		shuffle_pieces(c, l);
}

/* The data is read to where it will be sent from. `from` is where it is on the disk, which only a lie makes differ. */
static uint8_t *
read_into_output(struct conn *c, size_t header, const struct disk_op *op, uint64_t from, uint32_t length)
{
	uint8_t *data = outgoing_room(c, header, length);

	if (op->skip)
		memset(data, 0, length);
	else
		disk_read(c->export->disk, from, length, data);
	return data;
}

static void
send_piece(struct conn *c, const struct disk_op *op, struct piece p, bool final)
{
	const struct request *r = op->request;
	uint64_t told = p.offset - op->offset + r->offset;
	struct outgoing m = chunk_start(c, r, NBD_REPLY_TYPE_OFFSET_DATA, PAYLOAD_OFFSET_DATA, final);

	if (p.hole) {
		m.chunk.type = NBD_REPLY_TYPE_OFFSET_HOLE;
		m.payload = PAYLOAD_OFFSET_HOLE;
		m.offset_hole = (struct chunk_offset_hole){ told, p.length };
	} else {
		size_t header = m.extended ? EXTENDED_CHUNK_HEADER_SIZE : CHUNK_HEADER_SIZE;
		uint8_t *data = read_into_output(c, header + sizeof(uint64_t), op, p.offset, p.length);

		m.offset_data = (struct chunk_offset_data){ told, { data, p.length } };
	}
	outgoing_send(c, &m);
}

/* The content of a reply; `final` if nothing comes behind it. */
static void
send_pieces(struct conn *c, const struct disk_op *op, bool final)
{
	struct pieces l = { .n = 0 };

	cut_into_pieces(c, op, &l);
	for (size_t i = 0; i < l.n; i++)
		send_piece(c, op, l.at[i], final && i + 1 == l.n);
	free(l.at);
}

static bool
in_pieces(const struct conn *c, const struct disk_op *op)
{
	return fragments(c) || knob(c, KNOB_read_holes) || op->length > longest_chunk(c);
}

void
answer_read(struct conn *c, const struct disk_op *op)
{
	const struct request *r = op->request;
	bool is_df = (op->flags & NBD_CMD_FLAG_DF) != 0;
	bool ends_with_none = knob(c, KNOB_read_ends_with_none) || (is_df && knob(c, KNOB_df_ends_with_none));

	if (!in_chunks(c)) {
		uint8_t *data = read_into_output(c, SIMPLE_REPLY_SIZE, op, op->offset, (uint32_t)op->length);

		send_simple(c, r, NBD_SUCCESS, (struct bytes){ data, op->length });
		return;
	}
	/* A chunk of data has at least one byte (proto.md:1806, 1979). */
	if (op->length == 0) {
		send_none(c, r);
		return;
	}
	if (in_pieces(c, op))
		send_pieces(c, op, !ends_with_none);
	else
		send_piece(c, op, (struct piece){ op->offset, (uint32_t)op->length, false }, !ends_with_none);
	if (ends_with_none)
		send_none(c, r);
}

/* ---- a READ of which only the first part exists ---- */

static void
send_error_offset(struct conn *c, const struct request *r, uint64_t offset, bool final)
{
	struct outgoing m = chunk_start(c, r, NBD_REPLY_TYPE_ERROR_OFFSET, PAYLOAD_ERROR_OFFSET, final);

	m.error_offset = (struct chunk_error_offset){ .error = NBD_EINVAL, .offset = offset };
	if (knob(c, KNOB_error_messages))
		m.error_offset.message = bytes_of(error_text(NBD_EINVAL));
	outgoing_send(c, &m);
}

/* Errors with offsets, with the content around them that can be had (proto.md:2011-2035). */
void
answer_partial_read(struct conn *c, const struct disk_op *op)
{
	bool around = knob(c, KNOB_read_errors_around), early = knob(c, KNOB_read_errors_early);
	bool first = knob(c, KNOB_read_errors_first) || around, many = knob(c, KNOB_read_errors_many) || around;
	const struct request *r = op->request;
	uint64_t size = c->export->size;
	struct disk_op part = *op;

	part.skip = false;
	part.length = (uint32_t)(size - r->offset);
	if (early && part.length > 512)
		part.length = 512 - (uint32_t)(r->offset % 512);
	size = r->offset + part.length;
	many &= r->length - part.length > 512;
	if (first)
		send_error_offset(c, r, size, false);
	send_pieces(c, &part, first && !many);
	if (!first)
		send_error_offset(c, r, size, !many);
	if (many)
		send_error_offset(c, r, size + 512, true);
}
