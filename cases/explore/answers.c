/* The replies to requests in flight, in whatever order their messages come; each rule that one reply can break is looked at. */
#include "cases/explore/product.h"

#include "harness/names.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CHUNK = 64 << 20, COOKIE = 0x70726f64, SEND_AT = 1 << 16 };

struct flight {
	struct link *link;
	const struct entered *e;
	struct item *items;
	unsigned n, left;
	struct breaches *b;
	bool broken;
};

void
add_product_breach(struct breaches *b, int item, enum breach_kind kind, enum requirement_id r, const char *expected,
                   const char *fmt, ...)
{
	struct product_breach *p = &b->b[b->n];
	va_list ap;

	if (b->n == MOST_PRODUCT_BREACHES)
		return;
	b->n++;
	*p = (struct product_breach){ .kind = kind, .broken = { r }, .item = item };
	snprintf(p->expected, sizeof(p->expected), "%s", expected);
	va_start(ap, fmt);
	vsnprintf(p->got, sizeof(p->got), fmt, ap);
	va_end(ap);
}

void
item_free(struct item *i)
{
	free(i->payload);
	free(i->data);
	free(i->covered);
	i->payload = i->data = i->covered = NULL;
}

/* What comes cannot be told apart any more, or not without more of the same: the connection is given up. */
#define BROKEN(f, i, r, expected, ...)                                                                                 \
	do {                                                                                                           \
		add_product_breach((f)->b, (i) != NULL ? (int)((i) - (f)->items) : -1, BREACH_STREAM, r, expected,     \
		                   __VA_ARGS__);                                                                       \
		(f)->broken = true;                                                                                    \
	} while (0)
#define EXPECTED(f, i, cond, r, expected, ...)                                                                         \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			BROKEN(f, i, r, expected, __VA_ARGS__);                                                        \
			return;                                                                                        \
		}                                                                                                      \
	} while (0)

/* ---- chunks ---- */

static bool
is_within(const struct request *q, uint64_t offset, uint64_t length)
{
	return offset >= q->offset && length <= q->length && offset - q->offset <= q->length - length;
}

static void
take_content(struct flight *f, struct item *i, uint64_t offset, uint64_t length, const uint8_t *data)
{
	size_t at = offset - i->q.offset;

	EXPECTED(f, i, is_within(&i->q, offset, length),
	         data != NULL ? R(data_chunk_in_bounds) : R(hole_chunk_in_bounds), "content within the request",
	         "%" PRIu64 " bytes at %" PRIu64, length, offset);
	i->n_content++;
	if (length == 0)
		return;
	EXPECTED(f, i, memchr(i->covered + at, 1, length) == NULL,
	         data != NULL ? R(data_chunk_no_overlap) : R(hole_chunk_no_overlap), "each byte in one chunk",
	         "one of %" PRIu64 " bytes at %" PRIu64 " comes again", length, offset);
	memset(i->covered + at, 1, length);
	if (data != NULL)
		memcpy(i->data + at, data, length);
	else
		memset(i->data + at, 0, length);
}

static void
take_data(struct flight *f, struct item *i, const struct chunk *c)
{
	struct chunk_offset_data d;

	EXPECTED(f, i, i->q.type == NBD_CMD_READ, R(content_chunks_only_for_read), "content in reply to READs only",
	         "a chunk of data");
	wire_get_chunk_offset_data(wire_over(c->data), &d);
	EXPECTED(f, i, c->length >= (i->q.length > 0 ? 9 : 8), R(data_chunk_length), "9 bytes or more",
	         "length %" PRIu64, c->length);
	EXPECTED(f, i, !f->e->sized || d.data.len <= f->e->maximum, R(chunk_within_max_payload),
	         "no more data than the maximum payload size", "%zu bytes", d.data.len);
	take_content(f, i, d.offset, d.data.len, d.data.at);
}

static void
take_hole(struct flight *f, struct item *i, const struct chunk *c)
{
	struct chunk_offset_hole h;

	EXPECTED(f, i, i->q.type == NBD_CMD_READ, R(content_chunks_only_for_read), "content in reply to READs only",
	         "a hole");
	EXPECTED(f, i, wire_get_chunk_offset_hole(wire_over(c->data), &h) == WIRE_EXACT, R(hole_chunk_length),
	         "length 12", "length %" PRIu64, c->length);
	EXPECTED(f, i, h.size > 0, R(hole_chunk_nonzero), "a hole of some bytes", "size 0");
	take_content(f, i, h.offset, h.size, NULL);
}

/* Of a length of 0 nothing is known (proto.md:2228). */
static void
take_extents(struct flight *f, struct item *i, const struct chunk_block_status *s, bool first)
{
	unsigned n = (unsigned)(s->extents.len / EXTENT_SIZE);
	bool one = (i->q.flags & NBD_CMD_FLAG_REQ_ONE) != 0 && i->q.length > 0;
	uint64_t sum = 0;

	EXPECTED(f, i, !one || n == 1, R(req_one_one_extent), "one extent with REQ_ONE", "%u", n);
	for (unsigned k = 0; k < n; k++) {
		struct extent x = chunk_extent(s, k);

		EXPECTED(f, i, x.length > 0, R(extent_length_nonzero), "extents of some bytes", "one of 0");
		EXPECTED(f, i, !one || x.length <= i->q.length, R(req_one_within_request),
		         "an extent within the request with REQ_ONE", "%" PRIu64 " bytes", x.length);
		EXPECTED(f, i, k == 0 || sum < i->q.length || i->q.length == 0, R(extents_before_last_shorter),
		         "no extent behind the one that reaches the request's end", "%u extents", n);
		sum += x.length;
		if (first && k < COUNT(i->extents))
			i->extents[i->n_extents++] = x;
	}
}

static void
take_status(struct flight *f, struct item *i, const struct chunk *c)
{
	struct chunk_block_status s;
	unsigned k = 0;

	EXPECTED(f, i, i->q.type == NBD_CMD_BLOCK_STATUS, R(status_chunk_only_for_block_status),
	         "status in reply to BLOCK_STATUS only", "a status chunk");
	EXPECTED(f, i, wire_get_chunk_block_status(wire_over(c->data), &s) == WIRE_EXACT, R(status_chunk_length),
	         "4 bytes and extents", "length %" PRIu64, c->length);
	while (k < f->e->n_contexts && f->e->contexts[k] != s.context_id)
		k++;
	EXPECTED(f, i, k < f->e->n_contexts, R(status_chunk_names_context), "the ID of a context that is selected",
	         "%" PRIu32, s.context_id);
	EXPECTED(f, i, (i->contexts_seen & 1u << k) == 0, R(status_chunk_per_context_id),
	         "one status chunk for each context", "another one for %" PRIu32, s.context_id);
	i->contexts_seen |= 1u << k;
	i->n_status++;
	take_extents(f, i, &s, k == 0);
}

static void
take_error(struct flight *f, struct item *i, const struct chunk *c)
{
	bool placed = c->type == NBD_REPLY_TYPE_ERROR_OFFSET;
	bool ranged = i->q.type <= NBD_CMD_BLOCK_STATUS && i->q.type != NBD_CMD_FLUSH;
	struct chunk_error_offset x = { .error = 0 };
	struct chunk_error plain = { .error = 0 };
	enum wire_end end = placed ? wire_get_chunk_error_offset(wire_over(c->data), &x)
	                           : wire_get_chunk_error(wire_over(c->data), &plain);
	uint32_t error = placed ? x.error : plain.error;

	EXPECTED(f, i, c->length >= (placed ? 14 : 6), placed ? R(error_offset_length) : R(error_chunk_length),
	         "an error and the length of its text", "length %" PRIu64, c->length);
	EXPECTED(f, i, end != WIRE_SHORT, R(error_chunk_message_fits), "a text within the chunk", "a longer one");
	EXPECTED(f, i, error != NBD_SUCCESS, placed ? R(error_offset_nonzero) : R(error_chunk_nonzero),
	         "an error in an error chunk", "0");
	if (placed) {
		EXPECTED(f, i, ranged, R(error_offset_commands), "an error without an offset", "one with an offset");
		EXPECTED(f, i, i->q.length == 0 || is_within(&i->q, x.offset, 1), R(error_offset_in_bounds),
		         "an error's offset within the request", "%" PRIu64, x.offset);
	}
	if (i->error == NBD_SUCCESS)
		i->error = error;
}

static void
take_chunk(struct flight *f, struct item *i, const struct chunk *c)
{
	switch (c->type) {
	case NBD_REPLY_TYPE_NONE:
		EXPECTED(f, i, c->length == 0, R(none_chunk_empty), "length 0", "length %" PRIu64, c->length);
		EXPECTED(f, i, (c->flags & NBD_REPLY_FLAG_DONE) != 0, R(none_chunk_done), "NBD_REPLY_FLAG_DONE",
		         "flags 0x%04x", c->flags);
		return;
	case NBD_REPLY_TYPE_OFFSET_DATA:
		take_data(f, i, c);
		return;
	case NBD_REPLY_TYPE_OFFSET_HOLE:
		take_hole(f, i, c);
		return;
	case NBD_REPLY_TYPE_BLOCK_STATUS:
		take_status(f, i, c);
		return;
	case NBD_REPLY_TYPE_ERROR:
	case NBD_REPLY_TYPE_ERROR_OFFSET:
		take_error(f, i, c);
		return;
	default:
		BROKEN(f, i, R(chunk_types_defined), "a chunk of a type that is defined", "0x%04x", c->type);
	}
}

/* ---- the end of a reply ---- */

/* As long as the maximum payload size: what would otherwise be split must not be (proto.md:864). */
static void
check_df(struct flight *f, struct item *i)
{
	bool counts = (i->q.flags & NBD_CMD_FLAG_DF) != 0 && (f->e->flags & NBD_FLAG_SEND_DF) != 0 &&
	              (!f->e->sized || i->q.length < f->e->maximum);

	EXPECTED(f, i, !counts || i->error != NBD_EOVERFLOW || i->n_content == 0, R(df_overflow_no_content),
	         "no content beside NBD_EOVERFLOW", "%u chunks", i->n_content);
	EXPECTED(f, i, !counts || i->n_content <= 1, R(df_one_content_chunk), "one content chunk with DF", "%u",
	         i->n_content);
}

static void
wrong_result(struct flight *f, struct item *i, enum requirement_id r, const char *expected)
{
	unsigned n = f->b->n;
	char text[NAME_MAX_TEXT];

	add_product_breach(f->b, (int)(i - f->items), BREACH_RESULT, r, expected, "%s",
	                   i->error == NBD_SUCCESS ? "success" : name_text(NAME_ERROR, i->error, text));
	if (n < f->b->n)
		f->b->b[n].succeeded = i->error == NBD_SUCCESS;
}

static void
finish(struct flight *f, struct item *i)
{
	char expected[160];
	enum requirement_id r = law_judges(&i->law, &i->q, i->error, expected);
	bool lacks = i->structured && i->q.type == NBD_CMD_READ && i->error == NBD_SUCCESS && i->q.length > 0 &&
	             memchr(i->covered, 0, i->q.length) != NULL;

	link_begin_wait(f->link);
	i->answered = true;
	f->left--;
	EXPECTED(f, i, !lacks, R(read_covers_range), "content for all that was asked for", "less, and no error");
	if (i->structured && i->q.type == NBD_CMD_READ)
		check_df(f, i);
	if (r == REQUIREMENT_NONE && i->error == NBD_SUCCESS && i->q.type == NBD_CMD_BLOCK_STATUS && i->q.length > 0)
		EXPECTED(f, i, !i->structured || f->e->n_contexts == 0 || i->n_status == f->e->n_contexts,
		         R(status_chunk_per_context), "a status chunk for each context", "%u", i->n_status);
	if (r != REQUIREMENT_NONE)
		wrong_result(f, i, r, expected);
}

/* ---- messages ---- */

static struct item *
item_of(struct flight *f, uint64_t cookie)
{
	for (unsigned i = 0; i < f->n; i++)
		if (f->items[i].q.cookie == cookie) {
			if (!f->items[i].answered)
				return &f->items[i];
			BROKEN(f, &f->items[i], R(each_request_one_reply), "one reply to each request", "another one");
			return NULL;
		}
	if (cookie >> 32 == BAIT_COOKIE) {
		BROKEN(f, (struct item *)NULL, R(request_payload_consumed), "nothing for the payload of a WRITE",
		       "a reply to what stands in it");
		return NULL;
	}
	BROKEN(f, (struct item *)NULL, R(cookie_echoed), "the cookie of a request", "0x%016" PRIx64, cookie);
	return NULL;
}

static void
take_simple_data(struct flight *f, struct item *i, const struct simple_reply *r)
{
	if (i->q.type == NBD_CMD_READ && r->error == NBD_SUCCESS && r->data.len == i->q.length)
		memcpy(i->data, r->data.at, i->q.length);
	i->error = r->error;
	finish(f, i);
}

static void
recv_simple(struct flight *f)
{
	bool structured = f->e->mode != MODE_SIMPLE;
	const uint8_t *at = link_need(f->link, SIMPLE_REPLY_SIZE);
	size_t size = SIMPLE_REPLY_SIZE;
	struct simple_reply r;
	struct item *i;

	if (at == NULL)
		return;
	wire_get_simple_reply(wire(at, SIMPLE_REPLY_SIZE), &r);
	i = item_of(f, r.cookie);
	if (i == NULL)
		return;
	EXPECTED(f, i, !i->started, R(each_request_one_reply), "chunks up to the one with NBD_REPLY_FLAG_DONE",
	         "a simple reply behind the first");
	EXPECTED(f, i, !structured || i->q.type != NBD_CMD_READ, R(no_simple_reply_to_read), "a structured reply",
	         "a simple one");
	EXPECTED(f, i, i->q.type != NBD_CMD_BLOCK_STATUS || r.error != NBD_SUCCESS || i->law.success_breaks != 0,
	         R(status_success_structured), "a structured reply, or an error", "a simple reply with success");
	if (i->q.type == NBD_CMD_READ && r.error == NBD_SUCCESS)
		size += i->q.length;
	if (link_need(f->link, size) == NULL)
		return;
	wire_get_simple_reply(wire_over(link_take(f->link, MSG_SIMPLE_REPLY, r.cookie, size)), &r);
	take_simple_data(f, i, &r);
}

static void
recv_chunk_part(struct flight *f)
{
	const uint8_t *at = link_need(f->link, CHUNK_HEADER_SIZE);
	struct chunk c;
	struct item *i;

	if (at == NULL)
		return;
	wire_get_chunk(wire(at, CHUNK_HEADER_SIZE), &c);
	i = item_of(f, c.cookie);
	if (i == NULL)
		return;
	EXPECTED(f, i, f->e->mode != MODE_SIMPLE, R(structured_reply_needs_negotiation),
	         "a simple reply: structured ones were not agreed", "a structured one");
	EXPECTED(f, i, c.length <= MOST_CHUNK, R(structured_chunk_length), "the payload of a chunk",
	         "%" PRIu64 " bytes", c.length);
	if (link_need(f->link, CHUNK_HEADER_SIZE + c.length) == NULL)
		return;
	wire_get_chunk(wire_over(link_take(f->link, MSG_CHUNK, c.cookie, CHUNK_HEADER_SIZE + c.length)), &c);
	EXPECTED(f, i, (c.flags & ~NBD_REPLY_FLAG_DONE) == 0, R(reply_flags_need_negotiation),
	         "no flag but NBD_REPLY_FLAG_DONE", "flags 0x%04x", c.flags);
	i->started = i->structured = true;
	take_chunk(f, i, &c);
	if (!f->broken && (c.flags & NBD_REPLY_FLAG_DONE) != 0)
		finish(f, i);
}

static void
recv_message(struct flight *f)
{
	const uint8_t *at = link_need(f->link, 4);
	struct wire peek;
	uint32_t magic;

	if (at == NULL)
		return;
	peek = wire(at, 4);
	magic = wire_be32(&peek);
	if (magic == NBD_SIMPLE_REPLY_MAGIC)
		recv_simple(f);
	else if (magic == NBD_STRUCTURED_REPLY_MAGIC)
		recv_chunk_part(f);
	else {
		link_take(f->link, MSG_RAW, 0, 4);
		BROKEN(f, (struct item *)NULL,
		       f->e->mode == MODE_SIMPLE ? R(simple_reply_magic) : R(structured_reply_magic),
		       "the magic of a reply", "0x%08" PRIx32, magic);
	}
}

/* ---- all of them ---- */

static void
flush_out(struct link *l, struct buf *b, uint64_t cookie)
{
	if (b->len > 0)
		link_send(l, MSG_REQUEST, cookie, (struct bytes){ b->at, b->len });
	buf_clear(b);
}

/* Small ones go in one piece, so that they meet in the server. */
static void
send_items(struct link *l, const struct item *items, unsigned n)
{
	struct buf b = { 0 };

	for (unsigned i = 0; i < n; i++) {
		wire_put_request(&b, &items[i].q);
		if (l->traced || b.len > SEND_AT)
			flush_out(l, &b, items[i].q.cookie);
	}
	flush_out(l, &b, n > 0 ? items[n - 1].q.cookie : 0);
	buf_free(&b);
}

static void
prepare(struct item *items, unsigned n)
{
	static uint32_t serial;

	for (unsigned i = 0; i < n; i++) {
		struct item *x = &items[i];

		x->q.cookie = (uint64_t)COOKIE << 32 | serial++;
		if (x->q.type == NBD_CMD_WRITE)
			x->q.data = (struct bytes){ x->payload, x->q.length };
		if (x->q.type != NBD_CMD_READ)
			continue;
		x->data = calloc(1, (size_t)x->q.length + 1);
		x->covered = calloc(1, (size_t)x->q.length + 1);
		if (x->data == NULL || x->covered == NULL)
			abort();
	}
}

void
send_flight(struct link *l, struct item *items, unsigned n)
{
	prepare(items, n);
	send_items(l, items, n);
}

enum answers_end
await_flight(struct link *l, const struct entered *e, struct item *items, unsigned n, struct breaches *b)
{
	struct flight f = { .link = l, .e = e, .items = items, .n = n, .left = n, .b = b };

	link_begin_wait(l);
	while (f.left > 0 && !f.broken && l->end == LINK_OPEN)
		recv_message(&f);
	if (f.broken)
		return ANSWERS_BROKEN;
	if (f.left == 0)
		return ANSWERS_ALL;
	return l->end == LINK_SILENT ? ANSWERS_SILENT : ANSWERS_CLOSED;
}

enum answers_end
exchange_items(struct link *l, const struct entered *e, struct item *items, unsigned n, struct breaches *b)
{
	send_flight(l, items, n);
	return await_flight(l, e, items, n, b);
}
