/* Replies, simple, structured and extended: what the honest client makes of them, and what it does not put up with. */
#include "fakeserver/client/lying.h"
#include "harness/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_MOST = 1 << 25, ERROR_BIT = 0x8000, NO_SUCH_CONTEXT = FC_CONTEXTS_MOST };

/* ---- errors ---- */

/* Any other value is as NBD_EINVAL (proto.md:2358). */
void
fc_name_of_error(uint32_t error, char text[40])
{
	const char *name = name_of(NAME_ERROR, error);

	snprintf(text, 40, "%s", name != NULL && strncmp(name, "NBD_E", 5) == 0 ? name + 4 : "EINVAL");
}

static void
op_fails(struct fc_session *s, struct fc_op *op, uint32_t error)
{
	char name[40];

	fc_name_of_error(error, name);
	fc_fail(op, name);
	if (error == NBD_ESHUTDOWN && s->stage == FC_TRANSMISSION)
		s->stage = FC_DISCONNECTING;
}

static bool
finish_op(struct fc_session *s, struct fc_op *op)
{
	/* Nothing new is sent to a server that shuts down. */
	if (s->stage == FC_DISCONNECTING && s->until == 0 && strcmp(op->error, "ESHUTDOWN") == 0)
		fc_drop_unsent(s, op->error);
	fc_finish(op);
	fc_send_requests(s);
	return true;
}

/* ---- what a READ has brought ---- */

static void
need_data(struct fc_op *op)
{
	if (op->data != NULL)
		return;
	op->data = calloc(1, (size_t)op->request.length + 1);
	if (op->data == NULL)
		abort();
}

/* Bits from..to-1 of op->covered: were any set? Sets them. */
static bool
cover(struct fc_op *op, uint32_t from, uint32_t to)
{
	bool any = false;

	if (op->covered == NULL && from == 0 && to == op->request.length)
		return false;
	if (op->covered == NULL)
		op->covered = calloc(1, (size_t)op->request.length / 8 + 1);
	if (op->covered == NULL)
		abort();
	while (from < to) {
		uint8_t *byte = &op->covered[from / 8];
		bool whole = from % 8 == 0 && to - from >= 8;
		uint8_t mask = whole ? 0xff : (uint8_t)(1u << from % 8);

		any |= (*byte & mask) != 0;
		*byte |= mask;
		from += whole ? 8 : 1;
	}
	return any;
}

/* data NULL: a hole. False: the session is over. */
static bool
take_content(struct fc_session *s, struct fc_op *op, uint64_t offset, uint64_t length, const uint8_t *data)
{
	const struct request *r = &op->request;
	bool inside =
		offset >= r->offset && offset - r->offset <= r->length && length <= r->length - (offset - r->offset);
	uint32_t at = (uint32_t)(offset - r->offset);

	if (!fc_sound(s, inside, "a chunk outside of the request"))
		return false;
	if (!inside)
		return true;
	if (!fc_sound(s, (r->flags & NBD_CMD_FLAG_DF) == 0 || !op->has_content, "two content chunks in spite of DF"))
		return false;
	op->has_content = true;
	if (!fc_sound(s, op->n_covered < r->length && !cover(op, at, (uint32_t)(at + length)), "chunks that overlap"))
		return false;
	op->n_covered += (uint32_t)length;
	need_data(op);
	if (data != NULL)
		memcpy(op->data + at, data, length);
	else
		memset(op->data + at, 0, length);
	return true;
}

static bool
take_data(struct fc_session *s, struct fc_op *op, const struct chunk *c)
{
	struct chunk_offset_data m;

	wire_get_chunk_offset_data(wire_over(c->data), &m);
	return fc_sound(s, op->request.type == NBD_CMD_READ, "data in answer to another command") &&
	       fc_sound(s, c->length > 8, "the length of NBD_REPLY_TYPE_OFFSET_DATA") &&
	       (op->request.type != NBD_CMD_READ || take_content(s, op, m.offset, m.data.len, m.data.at));
}

static bool
take_hole(struct fc_session *s, struct fc_op *op, const struct chunk *c)
{
	struct chunk_offset_hole m;
	bool exact = wire_get_chunk_offset_hole(wire_over(c->data), &m) == WIRE_EXACT;

	return fc_sound(s, op->request.type == NBD_CMD_READ, "a hole in answer to another command") &&
	       fc_sound(s, exact && m.size > 0, "the length of NBD_REPLY_TYPE_OFFSET_HOLE") &&
	       (op->request.type != NBD_CMD_READ || take_content(s, op, m.offset, m.size, NULL));
}

/* ---- what a BLOCK_STATUS has brought ---- */

static size_t
context_of(const struct fc_session *s, uint32_t id)
{
	size_t i = 0;

	while (i < s->facts.n_contexts && s->facts.contexts[i].id != id)
		i++;
	return i < s->facts.n_contexts ? i : NO_SUCH_CONTEXT;
}

/* A status chunk, of either width. */
struct status {
	uint32_t context_id;
	size_t n;
	bool wide;
	struct chunk_block_status compact;
	struct chunk_block_status_ext ext;
};

static struct extent
extent_at(const struct status *m, size_t i)
{
	return m->wide ? chunk_extent_ext(&m->ext, i) : chunk_extent(&m->compact, i);
}

/* False: what it says of its length is not so. */
static bool
get_status(const struct chunk *c, struct status *m)
{
	enum wire_end end;

	m->wide = c->type == NBD_REPLY_TYPE_BLOCK_STATUS_EXT;
	end = m->wide ? wire_get_chunk_block_status_ext(wire_over(c->data), &m->ext)
	              : wire_get_chunk_block_status(wire_over(c->data), &m->compact);
	m->context_id = m->wide ? m->ext.context_id : m->compact.context_id;
	m->n = m->wide ? m->ext.extents.len / EXTENT_EXT_SIZE : m->compact.extents.len / EXTENT_SIZE;
	return end == WIRE_EXACT && (!m->wide || m->ext.count == m->n);
}

/* proto.md:1845-1868 */
static bool
are_extents_sound(const struct fc_op *op, const struct status *m)
{
	bool one = (op->request.flags & NBD_CMD_FLAG_REQ_ONE) != 0;
	uint64_t before_last = 0;
	size_t n = m->n;

	for (size_t i = 0; i < n; i++) {
		struct extent e = extent_at(m, i);

		if (e.length == 0 || (one && e.length > op->request.length))
			return false;
		before_last += i + 1 < n ? e.length : 0;
	}
	return n == 1 || (!one && before_last < op->request.length);
}

static void
tell_extents(struct fc_op *op, const struct fc_context *c, const struct status *m)
{
	char text[48];

	buf_put(&op->said, " ", 1);
	fc_put_word(&op->said, (struct bytes){ c->name.at, c->name.len });
	for (size_t i = 0; i < m->n && op->n_extents < FC_EXTENTS_MOST; i++, op->n_extents++) {
		struct extent e = extent_at(m, i);
		int len = snprintf(text, sizeof(text), "%c%" PRIu64 ":%" PRIu64, i == 0 ? '=' : ',', e.length, e.flags);

		buf_put(&op->said, text, (size_t)len);
	}
}

static bool
take_status(struct fc_session *s, struct fc_op *op, const struct chunk *c)
{
	struct status m = { 0 };
	bool exact = get_status(c, &m);
	size_t i = context_of(s, m.context_id);

	if (!fc_sound(s, op->request.type == NBD_CMD_BLOCK_STATUS, "extents in answer to another command") ||
	    !fc_sound(s, m.wide == s->facts.extended, "extents of the wrong width") ||
	    !fc_sound(s, exact, "the length of NBD_REPLY_TYPE_BLOCK_STATUS") ||
	    !fc_sound(s, i != NO_SUCH_CONTEXT, "extents of no context that was selected"))
		return false;
	if (op->request.type != NBD_CMD_BLOCK_STATUS || s->facts.n_contexts == 0)
		return true;
	/* Whoever puts up with it takes it for the first one's. */
	i = i == NO_SUCH_CONTEXT ? 0 : i;
	if (!fc_sound(s, fc_asks_for(op, &s->facts.contexts[i]), "extents of a context that was not asked for") ||
	    !fc_sound(s, !op->told[i], "two chunks of extents of one context") ||
	    !fc_sound(s, are_extents_sound(op, &m), "extents that cannot be"))
		return false;
	op->told[i] = true;
	tell_extents(op, &s->facts.contexts[i], &m);
	return true;
}

/* ---- chunks ---- */

static bool
take_error(struct fc_session *s, struct fc_op *op, const struct chunk *c)
{
	const struct request *r = &op->request;
	struct chunk_error_offset at;
	struct chunk_error m;
	bool fits = wire_get_chunk_error(wire_over(c->data), &m) != WIRE_SHORT;

	if (!fc_sound(s, fits, "a message longer than its chunk"))
		return false;
	if (c->type == NBD_REPLY_TYPE_ERROR_OFFSET) {
		fits = wire_get_chunk_error_offset(wire_over(c->data), &at) != WIRE_SHORT;
		if (!fc_sound(s, fits, "the length of NBD_REPLY_TYPE_ERROR_OFFSET") ||
		    !fc_sound(s,
		              r->type == NBD_CMD_FLUSH || (at.offset >= r->offset && at.offset - r->offset < r->length),
		              "an error at an offset outside of the request"))
			return false;
	}
	if ((c->type == NBD_REPLY_TYPE_ERROR || c->type == NBD_REPLY_TYPE_ERROR_OFFSET) &&
	    !fc_sound(s, m.error != NBD_SUCCESS, "an error chunk without an error"))
		return false;
	op_fails(s, op, m.error);
	return true;
}

static bool
take_none(struct fc_session *s, const struct chunk *c)
{
	return fc_sound(s, c->length == 0, "the length of NBD_REPLY_TYPE_NONE") &&
	       fc_sound(s, (c->flags & NBD_REPLY_FLAG_DONE) != 0, "NBD_REPLY_TYPE_NONE without NBD_REPLY_FLAG_DONE");
}

static bool
act_on_chunk(struct fc_session *s, struct fc_op *op, const struct chunk *c)
{
	if ((c->type & ERROR_BIT) != 0)
		return take_error(s, op, c);
	switch (c->type) {
	case NBD_REPLY_TYPE_NONE:
		return take_none(s, c);
	case NBD_REPLY_TYPE_OFFSET_DATA:
		return take_data(s, op, c);
	case NBD_REPLY_TYPE_OFFSET_HOLE:
		return take_hole(s, op, c);
	case NBD_REPLY_TYPE_BLOCK_STATUS:
	case NBD_REPLY_TYPE_BLOCK_STATUS_EXT:
		return take_status(s, op, c);
	default:
		return fc_sound(s, false, "an unknown chunk type");
	}
}

/* Success without all that was asked for is none. */
static bool
is_complete(const struct fc_session *s, const struct fc_op *op)
{
	size_t n = 0;

	if (op->error[0] != '\0')
		return true;
	if (op->request.type == NBD_CMD_READ)
		return op->n_covered == op->request.length;
	while (op->request.type == NBD_CMD_BLOCK_STATUS && n < s->facts.n_contexts &&
	       (op->told[n] || !fc_asks_for(op, &s->facts.contexts[n])))
		n++;
	return op->request.type != NBD_CMD_BLOCK_STATUS || n == s->facts.n_contexts;
}

/* A payload of 32 MiB is no attack (proto.md:849), and neither is what was asked for. */
static bool
is_bearable(const struct fc_op *op, const struct chunk *c)
{
	uint64_t length = op != NULL && op->request.type == NBD_CMD_READ ? op->request.length : 0;

	return c->length <= (length > CHUNK_MOST ? length : CHUNK_MOST) + sizeof(uint64_t);
}

static bool
take_chunk(struct fc_session *s, bool extended)
{
	size_t header = extended ? EXTENDED_CHUNK_HEADER_SIZE : CHUNK_HEADER_SIZE;
	struct chunk c;
	struct fc_receiving m = { .kind = MSG_CHUNK, .chunk = &c, .extended = extended };

	if (!fc_has(s, header))
		return false;
	if (extended)
		wire_get_extended_chunk(fc_input(s), &c);
	else
		wire_get_chunk(fc_input(s), &c);
	m.op = fc_op_in_flight(s, c.cookie);
	if (!fc_sound(s, s->facts.structured, "a structured reply that was not agreed") ||
	    !fc_sound(s, extended == s->facts.extended, "a chunk with the other header than was agreed") ||
	    !fc_sound(s, is_bearable(m.op, &c), "the length of a chunk"))
		return false;
	s->want = header + (size_t)(c.length < SIZE_MAX / 2 ? c.length : SIZE_MAX / 2);
	if (m.op != NULL && !fc_has(s, s->want))
		return false;
	fc_lie_receiving(s, &m);
	if (m.leave || !fc_sound(s, m.op != NULL, "a reply to no request")) {
		fc_over(s, "EPROTO");
		return false;
	}
	if (!fc_has(s, s->want))
		return false;
	s->in_at += s->want;
	s->want = 0;
	if (m.op == NULL)
		return true;
	if (!fc_sound(s, !extended || c.offset == m.op->request.offset, "the offset of an extended reply"))
		return false;
	m.op->replied = true;
	if (!m.ignore && !act_on_chunk(s, m.op, &c))
		return false;
	if ((c.flags & NBD_REPLY_FLAG_DONE) == 0)
		return true;
	return fc_sound(s, is_complete(s, m.op), "a reply that lacks what was asked for") && finish_op(s, m.op);
}

/* ---- simple replies ---- */

static bool
is_simple_sound(struct fc_session *s, const struct fc_op *op, const struct simple_reply *r)
{
	uint16_t type = op->request.type;

	return fc_sound(s, !s->facts.extended, "a simple reply in spite of extended headers") &&
	       fc_sound(s, !op->replied, "a simple reply behind a chunk") &&
	       fc_sound(s, type != NBD_CMD_READ || !s->facts.structured, "a simple reply to NBD_CMD_READ") &&
	       fc_sound(s, type != NBD_CMD_BLOCK_STATUS || r->error != NBD_SUCCESS,
	                "a simple reply to NBD_CMD_BLOCK_STATUS");
}

static bool
take_simple(struct fc_session *s)
{
	struct simple_reply r;
	struct fc_receiving m = { .kind = MSG_SIMPLE_REPLY, .simple = &r };
	bool data;

	if (!fc_has(s, SIMPLE_REPLY_SIZE))
		return false;
	wire_get_simple_reply(fc_input(s), &r);
	m.op = fc_op_in_flight(s, r.cookie);
	data = m.op != NULL && m.op->request.type == NBD_CMD_READ && r.error == NBD_SUCCESS && !s->facts.structured;
	s->want = SIMPLE_REPLY_SIZE + (data ? (size_t)m.op->request.length : 0);
	if (!fc_has(s, s->want))
		return false;
	r.data.len = s->want - SIMPLE_REPLY_SIZE;
	fc_lie_receiving(s, &m);
	if (m.leave)
		fc_over(s, "EPROTO");
	if (m.leave || !fc_sound(s, m.op != NULL, "a reply to no request"))
		return false;
	s->in_at += s->want;
	s->want = 0;
	if (m.op == NULL || m.ignore)
		return true;
	if (!is_simple_sound(s, m.op, &r))
		return false;
	if (r.error != NBD_SUCCESS)
		op_fails(s, m.op, r.error);
	else if (m.op->request.type == NBD_CMD_READ && data) {
		need_data(m.op);
		memcpy(m.op->data, r.data.at, r.data.len < m.op->request.length ? r.data.len : m.op->request.length);
	}
	return finish_op(s, m.op);
}

bool
fc_take_reply(struct fc_session *s)
{
	struct wire w = fc_input(s);
	uint32_t magic;

	if (!fc_has(s, sizeof(magic)))
		return false;
	magic = wire_be32(&w);
	if (magic == NBD_STRUCTURED_REPLY_MAGIC || magic == NBD_EXTENDED_REPLY_MAGIC)
		return take_chunk(s, magic == NBD_EXTENDED_REPLY_MAGIC);
	if (magic == NBD_SIMPLE_REPLY_MAGIC)
		return take_simple(s);
	return fc_sound(s, false, "the magic of a reply") && false;
}
