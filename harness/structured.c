/* The steps of a case with structured replies and metadata contexts; recv_reply judges a reply as a whole. */
#include "harness/test_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* proto.md:1791: data of the maximum payload, and a little of fixed fields. More is no chunk that we would take. */
enum { MOST_CHUNK = (64 << 20) + 64, MOST_CHUNKS = 1 << 20 };
/* A server may have many bitmaps; one that comes to no end has not. */
enum { MOST_CONTEXTS = 1 << 16 };

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
	char *name;

	EXPECT(t, R(rep_meta_context_layout), wire_get_rep_meta_context(wire_over(r->data), &m) == WIRE_EXACT,
	       "NBD_REP_META_CONTEXT has length %" PRIu32 "; its ID alone takes 4 bytes", r->length);
	EXPECT(t, R(option_gets_reply), contexts->count < MOST_CONTEXTS, "no end after %d contexts", MOST_CONTEXTS);
	contexts->context = reallocarray(contexts->context, contexts->count + 1, sizeof(*contexts->context));
	name = calloc(1, m.name.len + 1);
	if (contexts->context == NULL || name == NULL)
		abort();
	if (m.name.len > 0)
		memcpy(name, m.name.at, m.name.len);
	contexts->context[contexts->count].id = m.id;
	contexts->context[contexts->count].name = name;
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

void
enter_by_sized_go(struct test *t)
{
	static const uint16_t block_size = NBD_INFO_BLOCK_SIZE;

	if (enter_by_go_here(t, &block_size, 1))
		return;
	if (t->s->extended)
		broken(t, R(ext_go_not_unsupported), "NBD_OPT_GO gets NBD_REP_ERR_UNSUP behind extended headers");
	skip(t, "GO", "the server does not know NBD_OPT_GO");
}

void
enter_structured(struct test *t)
{
	open_fixed_newstyle(t);
	negotiate_structured(t);
	enter_by_sized_go(t);
}

struct contexts
select_and_enter(struct test *t, const char *const *queries, size_t n, enum requirement_id owed)
{
	struct contexts contexts;

	contexts = meta_contexts(t, NBD_OPT_SET_META_CONTEXT, export_name(t), queries, n, owed);
	if (is_error_reply(contexts.final))
		skip(t, "metadata contexts", "the server refuses NBD_OPT_SET_META_CONTEXT with %s",
		     name_of(NAME_REPLY, contexts.final) ?: "an error");
	if (contexts.count == 0)
		skip(t, "metadata contexts", "the server selects no context for %s", n > 0 ? queries[0] : "no query");
	enter_by_sized_go(t);
	return contexts;
}

struct contexts
enter_with_contexts(struct test *t, const char *const *queries, size_t n)
{
	open_fixed_newstyle(t);
	negotiate_structured(t);
	return select_and_enter(t, queries, n, R(option_gets_reply));
}

/* ---- one chunk ---- */

struct sent
send_command(struct test *t, uint16_t flags, uint16_t type, uint64_t offset, uint64_t length, const void *data)
{
	struct sent q = { type, flags, new_cookie(t), offset, length };

	send_request(t, flags, type, q.cookie, offset, length, data);
	return q;
}

static void
get_chunk(const struct session *s, const uint8_t *at, size_t len, struct chunk *c)
{
	if (s->extended)
		wire_get_extended_chunk(wire(at, len), c);
	else
		wire_get_chunk(wire(at, len), c);
}

static uint32_t
chunk_magic(const struct session *s)
{
	return s->extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC;
}

static size_t
chunk_header_size(const struct session *s)
{
	return s->extended ? EXTENDED_CHUNK_HEADER_SIZE : CHUNK_HEADER_SIZE;
}

/*
 * The rest of a chunk whose header stands in the session's buffer. Where the connection ends within it `closed` is
 * broken, where no more comes `silent`; of chunks that are not data always structured_chunk_length.
 */
static struct chunk
finish_chunk(struct test *t, enum requirement_id closed, enum requirement_id silent)
{
	struct session *s = t->s;
	enum message_kind kind = s->extended ? MSG_EXTENDED_CHUNK : MSG_CHUNK;
	struct chunk c;

	get_chunk(s, s->in.at, s->in.len, &c);
	if (c.type != NBD_REPLY_TYPE_OFFSET_DATA)
		closed = silent = R(structured_chunk_length);
	if (c.length > MOST_CHUNK) {
		trace_received(t, kind, c.cookie, (struct bytes){ s->in.at, s->in.len });
		broken(t, R(structured_chunk_length), "the chunk claims %" PRIu64 " bytes of payload", c.length);
	}
	recv_or_broken_by(t, c.length, closed, silent, "the payload that the chunk's length announces");
	trace_received(t, kind, c.cookie, (struct bytes){ s->in.at, s->in.len });
	get_chunk(s, s->in.at, s->in.len, &c);
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
	if (magic != chunk_magic(s))
		trace_received(t, MSG_RAW, 0, (struct bytes){ s->in.at, s->in.len });
	EXPECT_EQ(t, s->extended ? R(ext_replies_extended) : R(structured_reply_magic), magic, chunk_magic(s));
	recv_or_broken(t, chunk_header_size(s) - SIMPLE_REPLY_SIZE, owed, "the rest of a chunk's header");
	return finish_chunk(t, R(structured_chunk_length), R(structured_chunk_length));
}

/* ---- a whole reply ---- */

struct piece {
	uint64_t offset, length;
};

struct judge {
	struct test *t;
	const struct sent *q;
	struct reply *r;
	bool started, done;
	bool ended_in_content;
	struct piece *pieces; /* content chunks so far */
	size_t n_pieces, pieces_cap;
	struct piece unaligned; /* the first content chunk that is not in multiples of 512 bytes */
	uint64_t *error_offsets;
	size_t n_error_offsets;
};

/* Our violation (proto.md:881): whatever is wrong with the reply, an error has come up in the middle of it. */
static bool
reads_past_end(const struct judge *j)
{
	uint64_t size = j->t->s->size;

	return j->q->type == NBD_CMD_READ && (j->q->offset > size || j->q->length > size - j->q->offset);
}

static bool
lies_in(uint64_t at, struct piece p)
{
	return at >= p.offset && at - p.offset < p.length;
}

static void
note_piece(struct judge *j, struct piece p)
{
	uint64_t end = j->q->offset + j->q->length;

	if (j->n_pieces == j->pieces_cap) {
		j->pieces_cap = 2 * j->pieces_cap + 16;
		j->pieces = reallocarray(j->pieces, j->pieces_cap, sizeof(*j->pieces));
		if (j->pieces == NULL)
			abort();
	}
	if (j->n_pieces > 0 && p.offset < j->pieces[j->n_pieces - 1].offset)
		j->r->ascending = false;
	j->pieces[j->n_pieces++] = p;
	if (j->unaligned.length == 0 && ((p.offset % 512 != 0 && p.offset != j->q->offset) ||
	                                 ((p.offset + p.length) % 512 != 0 && p.offset + p.length != end)))
		j->unaligned = p;
}

static bool
are_covered_not(const uint8_t *at, uint64_t length)
{
	return length == 0 || (at[0] == COVERED_NOT && memcmp(at, at + 1, length - 1) == 0);
}

/* proto.md:1810-1813, 1826-1829, 1988-1991; each kind of chunk has its own statements about bounds and overlap. */
static void
cover(struct judge *j, struct piece p, enum covered kind, enum requirement_id bounds, enum requirement_id overlap)
{
	const struct sent *q = j->q;
	bool within = p.offset >= q->offset && p.length <= q->length && p.offset - q->offset <= q->length - p.length;
	bool apart = p.offset + p.length <= q->offset || p.offset >= q->offset + q->length;
	uint8_t *at;
	bool covers_none;

	EXPECT(j->t, apart && q->length > 0 ? R(read_chunks_in_bounds) : bounds, within,
	       "the chunk describes %" PRIu64 " bytes at %" PRIu64 "; asked for were %" PRIu64 " at %" PRIu64, p.length,
	       p.offset, q->length, q->offset);
	at = j->r->covered + (p.offset - q->offset);
	covers_none = are_covered_not(at, p.length);
	for (uint64_t i = 0; i < p.length && !covers_none; i++)
		EXPECT(j->t, overlap, at[i] == COVERED_NOT, "byte %" PRIu64 " of the export is described by two chunks",
		       p.offset + i);
	memset(at, kind, p.length);
	for (size_t i = 0; i < j->n_error_offsets; i++)
		EXPECT(j->t, R(read_content_before_its_error), !lies_in(j->error_offsets[i], p),
		       "a chunk describes byte %" PRIu64 " after an error was reported for it", j->error_offsets[i]);
	note_piece(j, p);
}

static void
expect_read_chunk(struct judge *j)
{
	EXPECT(j->t, R(content_chunks_only_for_read), j->q->type == NBD_CMD_READ,
	       "a content chunk answers a command that reads nothing");
}

static void
take_data(struct judge *j, const struct chunk *c)
{
	const struct info_block_size *block = &j->t->s->block;
	struct chunk_offset_data d;

	j->r->n_data++;
	expect_read_chunk(j);
	EXPECT(j->t, R(data_chunk_length), wire_get_chunk_offset_data(wire_over(c->data), &d) == WIRE_EXACT,
	       "NBD_REPLY_TYPE_OFFSET_DATA has length %" PRIu64 "; it must be at least 9", c->length);
	/* What a READ of length 0 gets is left open (proto.md:1954). */
	EXPECT(j->t, R(read_chunk_not_empty), d.data.len > 0 || j->q->length == 0,
	       "NBD_REPLY_TYPE_OFFSET_DATA has length 8, and no data");
	EXPECT(j->t, R(chunk_within_max_payload), !j->t->s->block_advertised || d.data.len <= block->maximum,
	       "a chunk has %zu bytes of data; the maximum payload size is %" PRIu32, d.data.len, block->maximum);
	cover(j, (struct piece){ d.offset, d.data.len }, COVERED_BY_DATA, R(data_chunk_in_bounds),
	      R(data_chunk_no_overlap));
	memcpy(j->r->data + (d.offset - j->q->offset), d.data.at, d.data.len);
}

static void
take_hole(struct judge *j, const struct chunk *c)
{
	struct chunk_offset_hole h;

	j->r->n_hole++;
	expect_read_chunk(j);
	EXPECT(j->t, R(hole_chunk_length), wire_get_chunk_offset_hole(wire_over(c->data), &h) == WIRE_EXACT,
	       "NBD_REPLY_TYPE_OFFSET_HOLE has length %" PRIu64 "; it must be 12", c->length);
	EXPECT(j->t, R(hole_chunk_nonzero), h.size > 0, "the hole has size 0");
	cover(j, (struct piece){ h.offset, h.size }, COVERED_BY_HOLE, R(hole_chunk_in_bounds),
	      R(hole_chunk_no_overlap));
}

/* ext:2100-2121. */
static void
take_status_ext(struct judge *j, const struct chunk *c)
{
	struct chunk_block_status_ext s;
	struct status_chunk *out;

	EXPECT(j->t, R(ext_status_at_least_one), c->length != 8, "NBD_REPLY_TYPE_BLOCK_STATUS_EXT has no extent");
	EXPECT(j->t, R(ext_status_ext_length), wire_get_chunk_block_status_ext(wire_over(c->data), &s) == WIRE_EXACT,
	       "NBD_REPLY_TYPE_BLOCK_STATUS_EXT has length %" PRIu64 "; it must be 8 and a positive multiple of 16",
	       c->length);
	EXPECT_EQ(j->t, R(ext_status_ext_count), s.count, s.extents.len / EXTENT_EXT_SIZE);
	EXPECT(j->t, R(ext_status_chunk_per_context), j->r->n_status < 16, "more than 16 status chunks");
	EXPECT(j->t, R(status_chunk_only_for_block_status), j->q->type == NBD_CMD_BLOCK_STATUS,
	       "a status chunk answers a command that is not NBD_CMD_BLOCK_STATUS");
	out = &j->r->status[j->r->n_status++];
	*out = (struct status_chunk){ s.context_id, s.count, calloc(s.count, sizeof(*out->extents)) };
	if (out->extents == NULL)
		abort();
	for (unsigned i = 0; i < out->count; i++) {
		out->extents[i] = chunk_extent_ext(&s, i);
		EXPECT(j->t, R(ext_extent_nonzero), out->extents[i].length > 0, "extent %u has length 0", i);
	}
	if (out->count > 1 << 20)
		deviates(j->t, R(ext_status_descriptor_limit), "at most 2^20 extents", "more");
}

static void
take_status(struct judge *j, const struct chunk *c)
{
	struct chunk_block_status s;
	struct status_chunk *out;

	EXPECT(j->t, R(ext_status_ext_used), !j->t->s->extended,
	       "NBD_REPLY_TYPE_BLOCK_STATUS comes although extended headers were negotiated");
	EXPECT(j->t, R(extent_at_least_one), c->length != 4, "NBD_REPLY_TYPE_BLOCK_STATUS has no extent");
	EXPECT(j->t, R(status_chunk_length), wire_get_chunk_block_status(wire_over(c->data), &s) == WIRE_EXACT,
	       "NBD_REPLY_TYPE_BLOCK_STATUS has length %" PRIu64 "; it must be 4 and a positive multiple of 8",
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

/* Shown to a person (proto.md:1892-1895): a line break may be, other control characters not. */
static void
check_error_text(struct judge *j, struct bytes message)
{
	char text[80];

	EXPECT(j->t, R(error_chunk_message_limit), message.len <= NBD_MAX_STRING,
	       "the error's text has %zu bytes; a string has at most %u", message.len, NBD_MAX_STRING);
	for (size_t i = 0; i < message.len; i++) {
		uint8_t c = message.at[i];

		EXPECT(j->t, R(server_strings_no_nul), c != 0, "the error's text contains a NUL at byte %zu", i);
		EXPECT(j->t, R(error_chunk_message_text),
		       (c >= 0x20 && c != 0x7f) || c == '\n' || c == '\r' || c == '\t',
		       "the error's text has the control character 0x%02x at byte %zu", c, i);
	}
	snprintf(text, sizeof(text), "%zu bytes of text", message.len);
	if (message.len > 256)
		deviates(j->t, R(server_strings_short), "at most 256 bytes of text", text);
}

/* proto.md:1890-1912: what all error chunks begin with. */
static void
check_error(struct judge *j, uint32_t error, struct bytes message, enum requirement_id nonzero)
{
	EXPECT(j->t, nonzero, error != 0, "an error chunk has error 0");
	check_error_text(j, message);
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
	       "NBD_REPLY_TYPE_ERROR has length %" PRIu64 "; it must be at least 6", c->length);
	EXPECT(j->t, R(error_chunk_message_fits), wire_get_chunk_error(wire_over(c->data), &e) != WIRE_SHORT,
	       "message length %u does not fit into a chunk of %" PRIu64, e.message_length, c->length);
	EXPECT(j->t, R(error_chunk_layout), c->length == 6u + e.message_length,
	       "the chunk has length %" PRIu64 " for a message of %u", c->length, e.message_length);
	check_error(j, e.error, e.message, R(error_chunk_nonzero));
}

/* proto.md:1921-1925 */
static void
note_error_offset(struct judge *j, uint64_t offset)
{
	for (size_t i = 0; i < j->n_error_offsets; i++) {
		EXPECT(j->t, R(error_offset_distinct), j->error_offsets[i] != offset,
		       "two errors are reported for offset %" PRIu64, offset);
		for (size_t k = 0; k < j->n_pieces && j->error_offsets[i] != offset; k++)
			EXPECT(j->t, R(error_offset_once_per_chunk),
			       !lies_in(offset, j->pieces[k]) || !lies_in(j->error_offsets[i], j->pieces[k]),
			       "errors are reported for %" PRIu64 " and %" PRIu64 ", both in the chunk at %" PRIu64,
			       j->error_offsets[i], offset, j->pieces[k].offset);
	}
	j->error_offsets = reallocarray(j->error_offsets, j->n_error_offsets + 1, sizeof(*j->error_offsets));
	if (j->error_offsets == NULL)
		abort();
	j->error_offsets[j->n_error_offsets++] = offset;
}

static bool
may_have_error_offset(uint16_t command)
{
	return command <= NBD_CMD_BLOCK_STATUS && command != NBD_CMD_FLUSH && command != NBD_CMD_DISC;
}

static void
take_error_offset(struct judge *j, const struct chunk *c)
{
	struct chunk_error_offset e;

	EXPECT(j->t, R(error_offset_length), c->length >= 14,
	       "NBD_REPLY_TYPE_ERROR_OFFSET has length %" PRIu64 "; it must be at least 14", c->length);
	EXPECT(j->t, R(error_chunk_message_fits), wire_get_chunk_error_offset(wire_over(c->data), &e) != WIRE_SHORT,
	       "message length %u does not fit into a chunk of %" PRIu64, e.message_length, c->length);
	EXPECT(j->t, R(error_offset_commands), may_have_error_offset(j->q->type),
	       "NBD_REPLY_TYPE_ERROR_OFFSET answers a command that has no range");
	EXPECT(j->t, R(error_offset_in_bounds), e.offset >= j->q->offset && e.offset - j->q->offset < j->q->length,
	       "error offset %" PRIu64 " lies outside the %" PRIu64 " bytes at %" PRIu64, e.offset, j->q->length,
	       j->q->offset);
	if (j->r->n_error_offset++ == 0)
		j->r->error_offset = e.offset;
	check_error(j, e.error, e.message, R(error_offset_nonzero));
	note_error_offset(j, e.offset);
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
		if (c->type == NBD_REPLY_TYPE_BLOCK_STATUS_EXT && j->t->s->extended) {
			take_status_ext(j, c);
			break;
		}
		j->r->n_unknown++;
		broken(j->t, R(chunk_types_defined),
		       "chunk type 0x%04x is not defined, and nothing that defines it was negotiated", c->type);
	}
}

/* ---- what only the end of a reply can tell ---- */

static bool
used_before(const struct session *s, uint64_t cookie)
{
	return s->next_cookie - cookie - 1 < s->next_cookie - FIRST_COOKIE;
}

/* A message to a request that has had its reply. */
static _Noreturn void
stray(struct test *t, const struct ended *e, const struct chunk *c)
{
	if (c == NULL || !e->structured)
		broken(t, R(each_request_one_reply), "a request that was answered gets another reply");
	if ((c->type & 0x8000) != 0 && !e->error)
		broken(t, e->in_content ? R(read_final_content_certain) : R(done_chunk_cannot_fail),
		       "an error chunk follows the chunk with NBD_REPLY_FLAG_DONE");
	broken(t, (c->flags & NBD_REPLY_FLAG_DONE) != 0 ? R(done_clear_before_last) : R(done_chunk_last),
	       "a chunk of type 0x%04x follows the chunk with NBD_REPLY_FLAG_DONE", c->type);
}

/*
 * A reply has ended too early. Is the rest still to come, or is the stream out of step? The next request tells;
 * whatever it shows, the reply was wrong.
 */
static void
look_behind(struct judge *j, const struct ended *e)
{
	struct test *t = j->t;
	uint8_t header[EXTENDED_CHUNK_HEADER_SIZE] = { 0 };
	size_t size = chunk_header_size(t->s), got;
	uint32_t magic = chunk_magic(t->s);
	struct chunk c;

	send_request(t, 0, NBD_CMD_READ, new_cookie(t), 0, blocks(t, 512), NULL);
	session_recv(t, header, size, &got);
	get_chunk(t->s, header, size, &c);
	if (got > 0)
		trace_received(t, MSG_RAW, c.cookie, (struct bytes){ header, got });
	if (got >= size && c.magic == magic && c.cookie == j->q->cookie)
		stray(t, e, &c);
	EXPECT(t, R(structured_chunk_length), got < 4 || c.magic == magic,
	       "behind the chunk comes what begins with 0x%08" PRIx32, c.magic);
}

static void
check_coverage(struct judge *j, const struct ended *e)
{
	const struct sent *q = j->q;
	const struct reply *r = j->r;
	const uint8_t *gap = q->length > 0 ? memchr(r->covered, COVERED_NOT, q->length) : NULL;

	if (gap == NULL)
		return;
	look_behind(j, e);
	broken(j->t,
	       reads_past_end(j)                                   ? R(read_error_chunk_sent)
	       : r->n_none > 0 && r->n_data == 0 && r->n_hole == 0 ? R(none_chunk_means_success)
	                                                           : R(read_covers_range),
	       "no chunk describes byte %" PRIu64 " of the export, and no error was reported",
	       q->offset + (uint64_t)(gap - r->covered));
}

/* proto.md:2043-2054 */
static void
check_df(struct judge *j)
{
	const struct reply *r = j->r;
	bool fits = !j->t->s->block_advertised || j->q->length < j->t->s->block.maximum;
	unsigned n = r->n_data + r->n_hole;

	if ((j->q->flags & NBD_CMD_FLAG_DF) == 0 || (j->t->s->flags & NBD_FLAG_SEND_DF) == 0)
		return;
	EXPECT(j->t, R(df_overflow_no_content), r->error != NBD_EOVERFLOW || n == 0,
	       "%u content chunks come beside NBD_EOVERFLOW", n);
	/* As long as the maximum payload size: what would otherwise be split must not be (proto.md:864). */
	EXPECT(j->t, fits ? R(df_one_content_chunk) : R(command_payload_constraints), n <= 1,
	       "%u content chunks answer a read with DF", n);
}

/* proto.md:2014-2017: behind the end there can be nothing but padding. */
static void
check_padding(struct judge *j)
{
	uint64_t size = j->t->s->size, from = size > j->q->offset ? size - j->q->offset : 0;
	const struct reply *r = j->r;

	if (!reads_past_end(j) || r->error == 0)
		return;
	if (r->n_error_offset > 0 && r->error_offset - j->q->offset > from)
		from = r->error_offset - j->q->offset;
	for (uint64_t i = from; i < j->q->length; i++)
		EXPECT(j->t, R(read_error_padding_zero), r->covered[i] != COVERED_BY_DATA || r->data[i] == 0,
		       "byte %" PRIu64 ", behind the end of the export, comes as 0x%02x", j->q->offset + i, r->data[i]);
}

static void
check_read(struct judge *j, const struct ended *e)
{
	const struct reply *r = j->r;

	if (r->error == 0)
		check_coverage(j, e);
	check_df(j);
	check_padding(j);
	if (r->error == 0 && j->unaligned.length > 0)
		EXPECT(j->t, R(read_chunks_multiple_of_512), false,
		       "a chunk in the middle of the read describes %" PRIu64 " bytes at %" PRIu64, j->unaligned.length,
		       j->unaligned.offset);
	EXPECT(j->t, R(read_errors_not_mixed), r->n_error == 0 || r->n_error_offset == 0,
	       "errors with and without an offset come in one reply");
	EXPECT(j->t, R(read_error_only_one), r->n_error <= 1, "%u chunks of type NBD_REPLY_TYPE_ERROR in one reply",
	       r->n_error);
}

static void
finish(struct judge *j)
{
	struct ended e = { j->q->cookie, j->r->structured, j->r->error != 0, j->ended_in_content };

	j->done = true;
	j->t->s->ended = e;
	if (j->r->structured && j->q->type == NBD_CMD_READ)
		check_read(j, &e);
	else if (j->r->structured)
		EXPECT(j->t, R(error_chunk_once), j->r->n_error <= 1,
		       "%u chunks of type NBD_REPLY_TYPE_ERROR in one reply", j->r->n_error);
	free(j->pieces);
	free(j->error_offsets);
}

/* ---- replies to several requests, whose messages come in any order ---- */

static struct judge *
judge_of(struct judge *j, size_t n, uint64_t cookie)
{
	for (size_t i = 0; i < n; i++)
		if (j[i].q->cookie == cookie)
			return &j[i];
	return NULL;
}

/* Nobody waits for this cookie. */
static _Noreturn void
no_such_request(const struct judge *j, size_t n, uint64_t cookie, const struct chunk *c)
{
	struct test *t = j->t;

	if (n == 1 && j->started)
		expect_number(t, R(structured_chunks_same_cookie), "the chunk's cookie", cookie, j->q->cookie);
	if (t->s->ended.cookie == cookie && used_before(t->s, cookie))
		stray(t, &t->s->ended, c);
	if (n == 1)
		expect_number(t, R(cookie_echoed), "the reply's cookie", cookie, j->q->cookie);
	broken(t, R(cookie_echoed), "a reply has cookie 0x%" PRIx64 ", which no request has", cookie);
}

static struct judge *
judge_for(struct judge *judges, size_t n, uint64_t cookie, const struct chunk *c)
{
	struct judge *j = judge_of(judges, n, cookie);

	if (j == NULL)
		no_such_request(judges, n, cookie, c);
	return j;
}

static void
recv_one_chunk(struct judge *judges, size_t n)
{
	struct test *t = judges->t;
	bool padded = n == 1 && reads_past_end(judges);
	struct judge *j;
	struct chunk c;

	EXPECT(t, R(structured_reply_needs_negotiation), t->s->structured,
	       "a structured reply comes although structured replies were not negotiated");
	recv_or_broken(t, chunk_header_size(t->s) - SIMPLE_REPLY_SIZE, R(structured_chunk_length),
	               "the rest of a chunk's header");
	c = finish_chunk(t, padded ? R(read_error_completes_chunk) : R(structured_chunk_length),
	                 padded ? R(read_error_pads_chunk) : R(structured_chunk_length));
	j = judge_for(judges, n, c.cookie, &c);
	EXPECT(t, R(ext_offset_echoed), !t->s->extended || c.offset == j->q->offset,
	       "the chunk's header has offset %" PRIu64 ", the request %" PRIu64, c.offset, j->q->offset);
	if (j->done)
		stray(t, &(struct ended){ c.cookie, j->r->structured, j->r->error != 0, j->ended_in_content }, &c);
	EXPECT(t, R(reply_flags_need_negotiation), (c.flags & ~NBD_REPLY_FLAG_DONE) == 0,
	       "structured reply flags 0x%04x: only NBD_REPLY_FLAG_DONE is defined", c.flags);
	j->started = j->r->structured = true;
	j->ended_in_content = c.type == NBD_REPLY_TYPE_OFFSET_DATA || c.type == NBD_REPLY_TYPE_OFFSET_HOLE;
	take_chunk(j, &c);
	EXPECT(t, R(done_chunk_last), j->r->n_chunks < MOST_CHUNKS, "no end after %d chunks", MOST_CHUNKS);
	if ((c.flags & NBD_REPLY_FLAG_DONE) != 0)
		finish(j);
}

/* proto.md:362-365, 393-397 */
static void
recv_simple(struct judge *judges, size_t n)
{
	struct test *t = judges->t;
	struct session *s = t->s;
	struct simple_reply r;
	struct judge *j;

	wire_get_simple_reply(wire(s->in.at, s->in.len), &r);
	j = judge_of(judges, n, r.cookie);
	if (s->extended) {
		trace_received(t, MSG_SIMPLE_REPLY, r.cookie, (struct bytes){ s->in.at, s->in.len });
		broken(t,
		       j != NULL && j->q->type == NBD_CMD_BLOCK_STATUS ? R(ext_status_in_chunks)
		                                                       : R(ext_no_simple_reply),
		       "a simple reply comes although extended headers were negotiated");
	}
	if (j != NULL && j->q->type == NBD_CMD_READ && !s->structured && r.error == 0)
		recv_payload(t, j->q->length, R(simple_reply_read_payload));
	trace_received(t, MSG_SIMPLE_REPLY, r.cookie, (struct bytes){ s->in.at, s->in.len });
	j = judge_for(judges, n, r.cookie, NULL);
	EXPECT(t, R(each_request_one_reply), !j->started && !j->done,
	       "a simple reply follows what has answered the same request");
	EXPECT(t, R(structured_reply_for_payload),
	       !s->structured || j->q->type != NBD_CMD_READ || r.error != 0 || j->q->length == 0,
	       "a simple reply says that data follow, although structured replies were negotiated");
	EXPECT(t, R(no_simple_reply_to_read), !s->structured || j->q->type != NBD_CMD_READ,
	       "a simple reply answers NBD_CMD_READ although structured replies were negotiated");
	EXPECT(t, R(status_success_structured), !s->structured || j->q->type != NBD_CMD_BLOCK_STATUS || r.error != 0,
	       "a simple reply answers NBD_CMD_BLOCK_STATUS with success");
	if (j->r->data != NULL && r.error == 0)
		memcpy(j->r->data, s->in.at + SIMPLE_REPLY_SIZE, j->q->length);
	if (r.error != 0)
		check_error_value(t, r.error);
	j->r->error = r.error;
	j->started = true;
	finish(j);
}

/* What begins with no magic of a reply. */
static _Noreturn void
no_reply(const struct judge *j, size_t n, uint32_t magic)
{
	struct test *t = j->t;
	bool is_read = n == 1 && j->q->type == NBD_CMD_READ;

	trace_received(t, MSG_RAW, 0, (struct bytes){ t->s->in.at, t->s->in.len });
	broken(t,
	       t->s->extended                              ? R(ext_replies_extended)
	       : magic == NBD_EXTENDED_REPLY_MAGIC         ? R(extended_reply_magic_negotiated)
	       : n == 1 && j->started && reads_past_end(j) ? R(read_error_pads_chunk)
	       : t->s->structured && (is_read || n > 1)    ? R(structured_reply_magic)
	                                                   : R(simple_reply_magic),
	       "a reply begins with 0x%08" PRIx32, magic);
}

static void
recv_message(struct judge *judges, size_t n, enum requirement_id owed)
{
	struct test *t = judges->t;
	uint32_t magic;
	bool rest = true;

	for (size_t i = 0; i < n; i++)
		rest &= judges[i].started;
	buf_clear(&t->s->in);
	recv_or_broken_by(t, SIMPLE_REPLY_SIZE, owed, rest ? R(done_set_on_last) : owed,
	                  rest ? "the rest of the reply, which ends in a chunk with NBD_REPLY_FLAG_DONE"
	                       : "a reply to the request");
	magic = wire_be32(&(struct wire){ t->s->in.at, 4, false });
	if (magic == chunk_magic(t->s))
		recv_one_chunk(judges, n);
	else if (magic == NBD_SIMPLE_REPLY_MAGIC)
		recv_simple(judges, n);
	else
		no_reply(judges, n, magic);
}

static size_t
n_open(const struct judge *j, size_t n)
{
	size_t open = 0;

	for (size_t i = 0; i < n; i++)
		open += !j[i].done;
	return open;
}

void
recv_replies(struct test *t, const struct sent *q, struct reply *r, size_t n, enum requirement_id owed)
{
	struct judge *j = calloc(n, sizeof(*j));

	for (size_t i = 0; i < n && j != NULL; i++) {
		j[i] = (struct judge){ .t = t, .q = &q[i], .r = &r[i] };
		r[i] = (struct reply){ .ascending = true };
		if (q[i].type != NBD_CMD_READ)
			continue;
		r[i].data = calloc(1, (size_t)q[i].length + 1);
		r[i].covered = calloc(1, (size_t)q[i].length + 1);
		if (r[i].data == NULL || r[i].covered == NULL)
			abort();
	}
	if (j == NULL)
		abort();
	while (n_open(j, n) > 0)
		recv_message(j, n, owed);
	free(j);
}

struct reply
recv_reply(struct test *t, const struct sent *q, enum requirement_id owed)
{
	struct reply r;

	recv_replies(t, q, &r, 1, owed);
	return r;
}

struct reply
exchange(struct test *t, uint16_t flags, uint16_t type, uint64_t offset, uint64_t length, const void *data,
         enum requirement_id owed)
{
	struct sent q = send_command(t, flags, type, offset, length, data);

	return recv_reply(t, &q, owed);
}
