/* The steps of a case with structured replies and metadata contexts; recv_reply judges a reply as a whole. */
#include "harness/test_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* proto.md:1791: data of the maximum payload, and a little of fixed fields. More is no chunk that we would take. */
enum { MOST_CHUNK = (64 << 20) + 64, MOST_CHUNKS = 1 << 20 };

/* ---- negotiation ---- */

void
negotiate_structured(struct test *t)
{
	struct option_reply r;

	send_option(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	r = recv_option_reply(t, R(structured_reply_acked));
	if (is_error_reply(r.type))
		skip(t, "structured replies", "the server refuses NBD_OPT_STRUCTURED_REPLY with %s",
		     name_of(NAME_REPLY, r.type) ?: "an error");
	EXPECT_REPLY(t, R(structured_reply_acked), r.type, NBD_REP_ACK);
	t->s->structured = true;
}

void
put_meta_context(struct buf *b, struct bytes name, const char *const *queries, size_t n)
{
	struct buf list = { 0 };

	for (size_t i = 0; i < n; i++) {
		put_be32(&list, (uint32_t)strlen(queries[i]));
		put_bytes(&list, bytes_of(queries[i]));
	}
	wire_put_opt_meta_context(
		b, &(struct opt_meta_context){ (uint32_t)name.len, name, (uint32_t)n, { list.at, list.len } });
	buf_free(&list);
}

static void
take_context(struct test *t, struct contexts *contexts, const struct option_reply *r)
{
	struct rep_meta_context m;

	EXPECT(t, R(rep_meta_context_layout), wire_get_rep_meta_context(wire_over(r->data), &m) == WIRE_EXACT,
	       "NBD_REP_META_CONTEXT has length %" PRIu32 "; its ID alone takes 4 bytes", r->length);
	EXPECT(t, R(rep_meta_context_layout), contexts->count < 64, "more than 64 contexts");
	contexts->context[contexts->count].id = m.id;
	contexts->context[contexts->count].name = strndup((const char *)m.name.at, m.name.len);
	contexts->context[contexts->count++].name_length = m.name.len;
}

struct contexts
meta_contexts(struct test *t, uint32_t option, struct bytes name, const char *const *queries, size_t n,
              enum requirement_id owed)
{
	struct contexts contexts = { 0 };
	struct option_reply r;
	struct buf b = { 0 };

	put_meta_context(&b, name, queries, n);
	send_option(t, option, b.at, b.len);
	buf_free(&b);
	for (;;) {
		r = recv_option_reply(t, owed);
		contexts.final = r.type;
		if (r.type == NBD_REP_ACK || is_error_reply(r.type))
			return contexts;
		EXPECT_REPLY(t, owed, r.type, NBD_REP_META_CONTEXT, NBD_REP_ACK);
		take_context(t, &contexts, &r);
	}
}

static void
enter(struct test *t)
{
	static const uint16_t block_size = NBD_INFO_BLOCK_SIZE;

	if (!enter_by_go_here(t, &block_size, 1))
		skip(t, "GO", "the server does not know NBD_OPT_GO");
}

void
enter_structured(struct test *t)
{
	open_fixed_newstyle(t);
	negotiate_structured(t);
	enter(t);
}

struct contexts
enter_with_contexts(struct test *t, const char *const *queries, size_t n)
{
	struct contexts contexts;

	open_fixed_newstyle(t);
	negotiate_structured(t);
	contexts = meta_contexts(t, NBD_OPT_SET_META_CONTEXT, export_name(t), queries, n, R(option_gets_reply));
	if (is_error_reply(contexts.final))
		skip(t, "metadata contexts", "the server refuses NBD_OPT_SET_META_CONTEXT with %s",
		     name_of(NAME_REPLY, contexts.final) ?: "an error");
	if (contexts.count == 0)
		skip(t, "metadata contexts", "the server selects no context for %s", n > 0 ? queries[0] : "no query");
	enter(t);
	return contexts;
}

/* ---- one chunk ---- */

struct sent
send_command(struct test *t, uint16_t flags, uint16_t type, uint64_t offset, uint32_t length, const void *data)
{
	struct sent q = { type, flags, new_cookie(t), offset, length };

	send_request(t, flags, type, q.cookie, offset, length, data);
	return q;
}

/* The rest of a chunk whose header stands in the session's buffer. */
static struct chunk
finish_chunk(struct test *t)
{
	struct session *s = t->s;
	struct chunk c;

	wire_get_chunk(wire(s->in.at, s->in.len), &c);
	if (c.length > MOST_CHUNK) {
		trace_received(t, MSG_CHUNK, c.cookie, (struct bytes){ s->in.at, s->in.len });
		broken(t, R(structured_chunk_length), "the chunk claims %" PRIu32 " bytes of payload", c.length);
	}
	recv_or_broken(t, c.length, R(structured_chunk_length), "the payload that the chunk's length announces");
	trace_received(t, MSG_CHUNK, c.cookie, (struct bytes){ s->in.at, s->in.len });
	wire_get_chunk(wire(s->in.at, s->in.len), &c);
	return c;
}

struct chunk
recv_chunk(struct test *t, enum requirement_id owed)
{
	struct session *s = t->s;
	uint32_t magic;

	buf_clear(&s->in);
	recv_or_broken(t, SIMPLE_REPLY_SIZE, owed, "a structured reply");
	magic = wire_be32(&(struct wire){ s->in.at, 4, false });
	if (magic != NBD_STRUCTURED_REPLY_MAGIC)
		trace_received(t, MSG_RAW, 0, (struct bytes){ s->in.at, s->in.len });
	EXPECT_EQ(t, R(structured_reply_magic), magic, NBD_STRUCTURED_REPLY_MAGIC);
	recv_or_broken(t, CHUNK_HEADER_SIZE - SIMPLE_REPLY_SIZE, owed, "the rest of a chunk's header");
	return finish_chunk(t);
}

/* ---- a whole reply ---- */

struct judge {
	struct test *t;
	const struct sent *q;
	struct reply *r;
	uint8_t *covered; /* of a READ: 1 for each byte that a content chunk described */
	uint64_t last_offset;
};

/* Marks a content chunk's range; each kind of chunk has its own statements about bounds and overlap. */
static void
cover(struct judge *j, uint64_t offset, uint64_t length, enum requirement_id bounds, enum requirement_id overlap)
{
	const struct sent *q = j->q;
	bool within = offset >= q->offset && length <= q->length && offset - q->offset <= q->length - length;

	EXPECT(j->t, R(content_chunks_only_for_read), q->type == NBD_CMD_READ,
	       "a content chunk answers a command that reads nothing");
	EXPECT(j->t, bounds, within,
	       "the chunk describes %" PRIu64 " bytes at %" PRIu64 "; asked for were %" PRIu32 " at %" PRIu64, length,
	       offset, q->length, q->offset);
	for (uint64_t i = 0; i < length; i++) {
		EXPECT(j->t, overlap, j->covered[offset - q->offset + i] == 0,
		       "byte %" PRIu64 " of the export is described by two chunks", offset + i);
		j->covered[offset - q->offset + i] = 1;
	}
	if (j->r->n_data + j->r->n_hole > 1 && offset < j->last_offset)
		j->r->ascending = false;
	j->last_offset = offset;
}

static void
take_data(struct judge *j, const struct chunk *c)
{
	struct chunk_offset_data d;

	j->r->n_data++;
	EXPECT(j->t, R(data_chunk_length),
	       wire_get_chunk_offset_data(wire_over(c->data), &d) == WIRE_EXACT && d.data.len > 0,
	       "NBD_REPLY_TYPE_OFFSET_DATA has length %" PRIu32 "; it must be at least 9", c->length);
	cover(j, d.offset, d.data.len, R(data_chunk_in_bounds), R(data_chunk_no_overlap));
	memcpy(j->r->data + (d.offset - j->q->offset), d.data.at, d.data.len);
}

static void
take_hole(struct judge *j, const struct chunk *c)
{
	struct chunk_offset_hole h;

	j->r->n_hole++;
	EXPECT(j->t, R(hole_chunk_length), wire_get_chunk_offset_hole(wire_over(c->data), &h) == WIRE_EXACT,
	       "NBD_REPLY_TYPE_OFFSET_HOLE has length %" PRIu32 "; it must be 12", c->length);
	EXPECT(j->t, R(hole_chunk_nonzero), h.size > 0, "the hole has size 0");
	cover(j, h.offset, h.size, R(hole_chunk_in_bounds), R(hole_chunk_no_overlap));
}

static void
take_status(struct judge *j, const struct chunk *c)
{
	struct chunk_block_status s;
	struct status_chunk *out;

	EXPECT(j->t, R(status_chunk_length), wire_get_chunk_block_status(wire_over(c->data), &s) == WIRE_EXACT,
	       "NBD_REPLY_TYPE_BLOCK_STATUS has length %" PRIu32 "; it must be 4 and a positive multiple of 8",
	       c->length);
	EXPECT(j->t, R(status_chunk_per_context_id), j->r->n_status < 16, "more than 16 status chunks");
	EXPECT(j->t, R(status_chunk_only_for_block_status), j->q->type == NBD_CMD_BLOCK_STATUS,
	       "a status chunk answers a command that is not NBD_CMD_BLOCK_STATUS");
	out = &j->r->status[j->r->n_status++];
	out->context_id = s.context_id;
	out->count = (unsigned)(s.extents.len / EXTENT_SIZE);
	out->extents = calloc(out->count, sizeof(*out->extents));
	if (out->extents == NULL)
		abort();
	for (unsigned i = 0; i < out->count; i++)
		out->extents[i] = chunk_extent(&s, i);
}

/* proto.md:1890-1912: what all error chunks begin with. */
static void
check_error(struct judge *j, uint32_t error, struct bytes message, enum requirement_id nonzero)
{
	EXPECT(j->t, nonzero, error != 0, "an error chunk has error 0");
	EXPECT(j->t, R(error_chunk_message_limit), message.len <= NBD_MAX_STRING,
	       "the error's text has %zu bytes; a string has at most %u", message.len, NBD_MAX_STRING);
	EXPECT(j->t, R(server_strings_no_nul), message.len == 0 || memchr(message.at, 0, message.len) == NULL,
	       "the error's text contains a NUL");
	check_error_value(j->t, error);
	if (j->r->error == 0)
		j->r->error = error;
}

static void
take_error(struct judge *j, const struct chunk *c)
{
	struct chunk_error e;

	j->r->n_error++;
	EXPECT(j->t, R(error_chunk_length), c->length >= 6,
	       "NBD_REPLY_TYPE_ERROR has length %" PRIu32 "; it must be at least 6", c->length);
	EXPECT(j->t, R(error_chunk_message_fits), wire_get_chunk_error(wire_over(c->data), &e) != WIRE_SHORT,
	       "message length %u does not fit into a chunk of %" PRIu32, e.message_length, c->length);
	EXPECT(j->t, R(error_chunk_layout), c->length == 6u + e.message_length,
	       "the chunk has length %" PRIu32 " for a message of %u", c->length, e.message_length);
	check_error(j, e.error, e.message, R(error_chunk_nonzero));
}

static void
take_error_offset(struct judge *j, const struct chunk *c)
{
	struct chunk_error_offset e;

	EXPECT(j->t, R(error_offset_length), c->length >= 14,
	       "NBD_REPLY_TYPE_ERROR_OFFSET has length %" PRIu32 "; it must be at least 14", c->length);
	EXPECT(j->t, R(error_chunk_message_fits), wire_get_chunk_error_offset(wire_over(c->data), &e) != WIRE_SHORT,
	       "message length %u does not fit into a chunk of %" PRIu32, e.message_length, c->length);
	EXPECT(j->t, R(error_offset_commands), j->q->type != NBD_CMD_FLUSH && j->q->type <= NBD_CMD_BLOCK_STATUS,
	       "NBD_REPLY_TYPE_ERROR_OFFSET answers a command that has no range");
	EXPECT(j->t, R(error_offset_in_bounds), e.offset >= j->q->offset && e.offset - j->q->offset < j->q->length,
	       "error offset %" PRIu64 " lies outside the %" PRIu32 " bytes at %" PRIu64, e.offset, j->q->length,
	       j->q->offset);
	if (j->r->n_error_offset++ == 0)
		j->r->error_offset = e.offset;
	check_error(j, e.error, e.message, R(error_offset_nonzero));
}

static void
take_chunk(struct judge *j, const struct chunk *c)
{
	j->r->n_chunks++;
	switch (c->type) {
	case NBD_REPLY_TYPE_NONE:
		j->r->n_none++;
		EXPECT_EQ(j->t, R(none_chunk_empty), c->length, 0);
		EXPECT(j->t, R(none_chunk_done), (c->flags & NBD_REPLY_FLAG_DONE) != 0,
		       "NBD_REPLY_TYPE_NONE comes without NBD_REPLY_FLAG_DONE");
		break;
	case NBD_REPLY_TYPE_OFFSET_DATA:
		take_data(j, c);
		break;
	case NBD_REPLY_TYPE_OFFSET_HOLE:
		take_hole(j, c);
		break;
	case NBD_REPLY_TYPE_BLOCK_STATUS:
		take_status(j, c);
		break;
	case NBD_REPLY_TYPE_ERROR:
		take_error(j, c);
		break;
	case NBD_REPLY_TYPE_ERROR_OFFSET:
		take_error_offset(j, c);
		break;
	default:
		j->r->n_unknown++;
		broken(j->t, R(chunk_types_defined),
		       "chunk type 0x%04x is not defined, and nothing that defines it was negotiated", c->type);
	}
}

/* What only the end of the reply can tell. */
static void
check_whole(struct judge *j)
{
	const struct sent *q = j->q;
	struct reply *r = j->r;

	if (q->type == NBD_CMD_READ && r->error == 0)
		for (uint32_t i = 0; i < q->length; i++)
			EXPECT(j->t, R(read_covers_range), j->covered[i] != 0,
			       "no chunk describes byte %" PRIu64 " of the export, and no error was reported",
			       q->offset + i);
	if (q->type == NBD_CMD_READ && (q->flags & NBD_CMD_FLAG_DF) != 0)
		EXPECT(j->t, R(df_one_content_chunk), r->n_data + r->n_hole <= 1,
		       "%u content chunks answer a read with DF", r->n_data + r->n_hole);
	EXPECT(j->t, R(error_chunk_once), r->n_error <= 1, "%u chunks of type NBD_REPLY_TYPE_ERROR in one reply",
	       r->n_error);
}

static void
recv_chunks(struct judge *j, enum requirement_id owed)
{
	struct test *t = j->t;
	struct chunk c;

	recv_or_broken(t, CHUNK_HEADER_SIZE - SIMPLE_REPLY_SIZE, R(structured_chunk_length),
	               "the rest of a chunk's header");
	c = finish_chunk(t);
	for (;;) {
		EXPECT_EQ(t, R(structured_chunks_same_cookie), c.cookie, j->q->cookie);
		EXPECT(t, R(reply_flags_need_negotiation), (c.flags & ~NBD_REPLY_FLAG_DONE) == 0,
		       "structured reply flags 0x%04x: only NBD_REPLY_FLAG_DONE is defined", c.flags);
		take_chunk(j, &c);
		if ((c.flags & NBD_REPLY_FLAG_DONE) != 0)
			return;
		EXPECT(t, R(done_chunk_last), j->r->n_chunks < MOST_CHUNKS, "no end after %d chunks", MOST_CHUNKS);
		c = recv_chunk(t, j->r->n_chunks > 0 ? R(done_chunk_last) : owed);
	}
}

static void
recv_simple(struct judge *j)
{
	struct session *s = j->t->s;
	struct simple_reply r;

	wire_get_simple_reply(wire(s->in.at, s->in.len), &r);
	if (r.magic != NBD_SIMPLE_REPLY_MAGIC || !s->structured) {
		if (r.magic == NBD_SIMPLE_REPLY_MAGIC && r.error == 0 && j->q->type == NBD_CMD_READ &&
		    r.cookie == j->q->cookie) {
			recv_payload(j->t, j->q->length, R(simple_reply_read_payload));
			wire_get_simple_reply(wire(s->in.at, s->in.len), &r);
			memcpy(j->r->data, r.data.at, j->q->length);
		}
	}
	trace_received(j->t, r.magic == NBD_SIMPLE_REPLY_MAGIC ? MSG_SIMPLE_REPLY : MSG_RAW, r.cookie,
	               (struct bytes){ s->in.at, s->in.len });
	EXPECT_EQ(j->t, R(simple_reply_magic), r.magic, NBD_SIMPLE_REPLY_MAGIC);
	EXPECT_EQ(j->t, R(cookie_echoed), r.cookie, j->q->cookie);
	EXPECT(j->t, R(no_simple_reply_to_read), !s->structured || j->q->type != NBD_CMD_READ,
	       "a simple reply answers NBD_CMD_READ although structured replies were negotiated");
	EXPECT(j->t, R(status_success_structured), !s->structured || j->q->type != NBD_CMD_BLOCK_STATUS || r.error != 0,
	       "a simple reply answers NBD_CMD_BLOCK_STATUS with success");
	if (r.error != 0)
		check_error_value(j->t, r.error);
	j->r->error = r.error;
}

struct reply
recv_reply(struct test *t, const struct sent *q, enum requirement_id owed)
{
	struct reply r = { .ascending = true };
	struct judge j = { .t = t, .q = q, .r = &r };
	uint32_t magic;

	if (q->type == NBD_CMD_READ) {
		r.data = calloc(1, (size_t)q->length + 1);
		j.covered = calloc(1, (size_t)q->length + 1);
		if (r.data == NULL || j.covered == NULL)
			abort();
	}
	buf_clear(&t->s->in);
	recv_or_broken(t, SIMPLE_REPLY_SIZE, owed, "a reply to the request");
	magic = wire_be32(&(struct wire){ t->s->in.at, 4, false });
	if (magic == NBD_STRUCTURED_REPLY_MAGIC) {
		EXPECT(t, R(structured_reply_needs_negotiation), t->s->structured,
		       "a structured reply comes although structured replies were not negotiated");
		r.structured = true;
		recv_chunks(&j, owed);
		check_whole(&j);
	} else {
		recv_simple(&j);
	}
	free(j.covered);
	return r;
}

struct reply
exchange(struct test *t, uint16_t flags, uint16_t type, uint64_t offset, uint32_t length, const void *data,
         enum requirement_id owed)
{
	struct sent q = send_command(t, flags, type, offset, length, data);

	return recv_reply(t, &q, owed);
}
