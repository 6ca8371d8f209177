/* NBD_CMD_BLOCK_STATUS (proto.md:912-945, 1839-1885, 2224-2289) and what base:allocation promises (proto.md:1002-1038). */
#include "cases/server/meta_context.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- shared ---- */

void
go_on(struct test *t, struct bytes name)
{
	struct infos infos = ask_known(t, NBD_OPT_GO, name, REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));

	take_go(t, &infos);
}

uint32_t *
id_of(const struct contexts *c, const char *name)
{
	for (unsigned i = 0; i < c->count; i++)
		if (is_context(c, i, name))
			return &c->context[i].id;
	return NULL;
}

const struct status_chunk *
status_of(const struct reply *r, uint32_t context_id)
{
	for (unsigned i = 0; i < r->n_status; i++)
		if (r->status[i].context_id == context_id)
			return &r->status[i];
	return NULL;
}

static uint64_t
length_of(const struct status_chunk *s, unsigned n)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += s->extents[i].length;
	return sum;
}

/* A chunk for each context that was selected, and for no other. */
static void
check_chunks(struct test *t, const struct contexts *contexts, const struct reply *r)
{
	for (unsigned i = 0; i < r->n_status; i++) {
		bool selected = false;

		for (unsigned k = 0; k < contexts->count; k++)
			selected |= contexts->context[k].id == r->status[i].context_id;
		EXPECT(t, R(status_chunk_names_context), selected,
		       "a status chunk names context 0x%" PRIx32 ", which was not selected", r->status[i].context_id);
		for (unsigned k = 0; k < i; k++)
			EXPECT(t, R(status_chunk_per_context_id), r->status[k].context_id != r->status[i].context_id,
			       "two status chunks name context 0x%" PRIx32, r->status[i].context_id);
	}
	for (unsigned k = 0; k < contexts->count; k++)
		EXPECT(t, R(status_chunk_per_context), status_of(r, contexts->context[k].id) != NULL,
		       "no status chunk names the context \"%s\"", contexts->context[k].name);
}

/* Extents that are no multiple of `unit` are excused at the ends of a request that is none, and at the export's end. */
static void
check_multiples(struct test *t, const struct sent *q, const struct status_chunk *s, uint32_t unit,
                enum requirement_id r)
{
	bool aligned = q->offset % unit == 0 && q->length % unit == 0;
	char want[40], got[40];

	for (unsigned i = 0; i < s->count; i++) {
		bool last = i + 1 == s->count;

		if (s->extents[i].length % unit == 0 || (!aligned && (i == 0 || last)) ||
		    (last && q->offset + length_of(s, s->count) == t->s->size))
			continue;
		snprintf(want, sizeof(want), "multiples of %" PRIu32, unit);
		snprintf(got, sizeof(got), "%" PRIu64, s->extents[i].length);
		deviates(t, r, want, got);
		return;
	}
}

/* Two that could not be one in 32 bits had to be two. */
static void
check_merged(struct test *t, const struct status_chunk *s)
{
	char got[100];

	for (unsigned i = 1; i < s->count; i++) {
		if (s->extents[i].flags != s->extents[i - 1].flags ||
		    (uint64_t)s->extents[i].length + s->extents[i - 1].length > UINT32_MAX)
			continue;
		snprintf(got, sizeof(got), "%" PRIu64 " and %" PRIu64 " bytes, both with status 0x%" PRIx64,
		         s->extents[i - 1].length, s->extents[i].length, s->extents[i].flags);
		deviates(t, R(extents_merged), "a status that differs from extent to extent", got);
		return;
	}
}

static void
check_lengths(struct test *t, const struct sent *q, const struct status_chunk *s, bool several)
{
	uint64_t sum = length_of(s, s->count);

	for (unsigned i = 0; i < s->count; i++)
		EXPECT(t, R(extent_length_nonzero), s->extents[i].length > 0, "extent %u has length 0", i);
	if ((q->flags & NBD_CMD_FLAG_REQ_ONE) != 0) {
		EXPECT(t, several ? R(req_one_single_extent) : R(req_one_one_extent), s->count == 1,
		       "%u extents answer a request with NBD_CMD_FLAG_REQ_ONE", s->count);
		EXPECT(t, R(req_one_within_request), s->extents[0].length <= q->length,
		       "an extent of %" PRIu64 " bytes answers a request for %" PRIu64 " with NBD_CMD_FLAG_REQ_ONE",
		       s->extents[0].length, q->length);
	}
	EXPECT(t, R(extents_before_last_shorter), length_of(s, s->count - 1) < q->length,
	       "all extents but the last have %" PRIu64 " bytes; asked for were %" PRIu64, length_of(s, s->count - 1),
	       q->length);
	EXPECT(t, R(extents_start_at_offset), sum <= t->s->size - q->offset,
	       "the extents reach to %" PRIu64 "; the export ends at %" PRIu64, q->offset + sum, t->s->size);
	if (sum > q->length)
		observe(t, R(last_extent_may_exceed), "the last extent reaches past the request");
	if (sum < q->length)
		observe(t, R(extents_may_fall_short), "the extents cover only the beginning of the request");
	if (s->count > 1)
		observe(t, R(extents_may_be_several), "several extents come at once");
}

static void
check_extents(struct test *t, const struct sent *q, const struct status_chunk *s, bool several)
{
	char got[40];

	check_lengths(t, q, s, several);
	if (s->count > 1 << 20) {
		snprintf(got, sizeof(got), "%u", s->count);
		deviates(t, R(extent_count_limited), "at most 2^20 extents", got);
	}
	check_merged(t, s);
	check_multiples(t, q, s, 512, R(extents_multiple_of_512));
	if (t->s->block_advertised && t->s->block.minimum > 1)
		check_multiples(t, q, s, t->s->block.minimum, R(extents_multiple_of_min_block));
}

static void
check_reserved(struct test *t, const struct status_chunk *s)
{
	char got[40];

	for (unsigned i = 0; s != NULL && i < s->count; i++) {
		if ((s->extents[i].flags & ~(uint32_t)(NBD_STATE_HOLE | NBD_STATE_ZERO)) == 0)
			continue;
		snprintf(got, sizeof(got), "status 0x%" PRIx64, s->extents[i].flags);
		deviates(t, R(allocation_reserved_flags_zero), "NBD_STATE_HOLE and NBD_STATE_ZERO, and no other bit",
		         got);
		return;
	}
}

static void
judge(struct test *t, const struct contexts *contexts, const struct sent *q, const struct reply *r)
{
	const uint32_t *base = id_of(contexts, BASE_ALLOCATION);

	EXPECT(t, R(status_success_structured), r->structured, "a simple reply tells of success");
	check_chunks(t, contexts, r);
	for (unsigned i = 0; i < r->n_status; i++)
		check_extents(t, q, &r->status[i], contexts->count > 1);
	if (base != NULL)
		check_reserved(t, status_of(r, *base));
}

struct reply
ask_status(struct test *t, const struct contexts *contexts, uint16_t flags, uint64_t offset, uint32_t length)
{
	struct sent q = send_command(t, flags, NBD_CMD_BLOCK_STATUS, offset, length, NULL);
	struct reply r = recv_reply(t, &q, R(each_request_one_reply));

	if (r.error == NBD_SUCCESS)
		judge(t, contexts, &q, &r);
	return r;
}

/* Errors that have nothing to do with the request. */
static bool
is_excused(uint32_t error)
{
	return error == NBD_EIO || error == NBD_ENOMEM || error == NBD_ESHUTDOWN;
}

struct reply
know_status(struct test *t, const struct contexts *contexts, uint16_t flags, uint64_t offset, uint32_t length)
{
	struct reply r = ask_status(t, contexts, flags, offset, length);

	if (r.error == NBD_SUCCESS)
		return r;
	if (length > t->s->block.maximum || (!t->s->block_advertised && ((offset | length) & 4095) != 0))
		skip(t, "default block sizes", "the status of %" PRIu32 " bytes is refused with error %" PRIu32, length,
		     r.error);
	if (!is_excused(r.error))
		EXPECT_ERROR(t, R(status_error_code), r.error, NBD_SUCCESS, NBD_EIO, NBD_ENOMEM, NBD_ESHUTDOWN);
	skip(t, "BLOCK_STATUS", "NBD_CMD_BLOCK_STATUS fails with error %" PRIu32, r.error);
}

void
expect_in_force(struct test *t, const struct contexts *contexts, enum requirement_id r)
{
	uint32_t length = unit_of(t) > 4096 ? unit_of(t) : 4096;
	struct reply reply;

	if (usable_size(t) < length)
		length = unit_of(t);
	need_size(t, length);
	reply = ask_status(t, contexts, 0, 0, length);
	if (is_excused(reply.error))
		skip(t, "BLOCK_STATUS", "NBD_CMD_BLOCK_STATUS fails with error %" PRIu32, reply.error);
	EXPECT(t, r, reply.error == NBD_SUCCESS,
	       "the contexts are selected, but BLOCK_STATUS fails with error %" PRIu32, reply.error);
	expect_in_step(t, R(structured_chunk_length));
}

/* We break a MUST NOT (proto.md:936), for which the server may leave us. */
void
expect_none_in_force(struct test *t, enum requirement_id r)
{
	struct sent q;
	struct reply reply;

	need_size(t, unit_of(t));
	q = send_command(t, 0, NBD_CMD_BLOCK_STATUS, 0, unit_of(t), NULL);
	if (!peer_goes_on(t, R(each_request_one_reply))) {
		deviates(t, R(status_without_context_einval), "NBD_EINVAL", "the connection was closed");
		expect_next_client_served(t, R(each_request_one_reply));
		return;
	}
	reply = recv_reply(t, &q, R(each_request_one_reply));
	if (reply.error == NBD_SUCCESS)
		deviates(t, r, "BLOCK_STATUS is refused: no context is in force", "success");
	else
		EXPECT_ERROR(t, R(status_without_context_einval), reply.error, NBD_EINVAL);
	expect_in_step(t, R(structured_chunk_length));
}

/* base:allocation, and in transmission. */
static struct contexts
enter_base(struct test *t)
{
	struct contexts c = select_base(t);

	go_on(t, export_name(t));
	return c;
}

/* All that are listed, two at the least. */
static struct contexts
enter_several(struct test *t)
{
	static const char *names[CONTEXTS_TRIED];
	struct contexts c;
	size_t n = 0;

	haggle_structured(t);
	need_contexts(t, NBD_OPT_LIST_META_CONTEXT);
	c = list_contexts(t, NO_QUERIES, R(list_meta_no_query_lists_all));
	for (unsigned i = 0; i < c.count && n < CONTEXTS_TRIED; i++)
		names[n++] = c.context[i].name;
	c = ask_contexts(t, NBD_OPT_SET_META_CONTEXT, export_name(t), (struct queries){ names, n });
	if (c.final != NBD_REP_ACK || c.count < 2)
		skip(t, "several metadata contexts", "the server selects %u of those that it lists", c.count);
	go_on(t, export_name(t));
	return c;
}

/* A request may be longer than a payload: what it gets is short (proto.md:860). */
static void
need_place(struct test *t, uint64_t offset, uint32_t length)
{
	if (offset % unit_of(t) != 0 || length % unit_of(t) != 0)
		skip(t, "small blocks", "the export's minimum block size is %" PRIu32, unit_of(t));
	need_size(t, offset + length);
}

/* ---- the form of the answer ---- */

static const struct place {
	int64_t offset; /* from the end where it is negative */
	uint32_t length;
} places[] = {
	{ 0, 1 },
	{ 0, 512 },
	{ 1, 1 },
	{ 1, 4096 },
	{ 511, 2 },
	{ 0, 4096 },
	{ 4096, 65536 },
	{ 65535, 65538 },
	{ 0, 1 << 20 },
	{ 12345, 2345678 },
	{ 0, 32 << 20 },
	{ (2 << 20) - 65536, 1 << 20 },
	{ -1, 1 },
	{ -512, 512 },
	{ -4096, 4096 },
	{ -65536, 65536 },
	{ -1000000, 1000000 },
};
enum { PLACES = sizeof(places) / sizeof(places[0]) };

static void
ask_at(struct test *t, const struct contexts *c, uint16_t flags, const struct place *p)
{
	uint64_t offset = (uint64_t)p->offset;

	if (p->offset < 0) {
		need_size(t, -offset);
		offset += usable_size(t);
	}
	need_place(t, offset, p->length);
	know_status(t, c, flags, offset, p->length);
	know_status(t, c, flags, offset, p->length);
	expect_in_step(t, R(structured_chunk_length));
}

/* judge() looks at every rule of the text about what may be in it. */
CASE(block_status, shapes,
     "BLOCK_STATUS of one context is answered by one chunk of extents from the offset on, as long as they may be",
     R(status_chunk_per_context), R(status_chunk_per_context_id), R(status_chunk_names_context), R(status_chunk_length),
     R(status_success_structured), R(extent_at_least_one), R(extent_length_nonzero), R(extents_before_last_shorter),
     R(extents_start_at_offset), R(extents_merged), R(extents_multiple_of_512), R(extents_multiple_of_min_block),
     R(last_extent_may_exceed), R(extents_may_fall_short), R(extents_may_be_several), R(allocation_reserved_flags_zero),
     R(status_error_code), R(status_may_hide_error), R(each_request_one_reply), R(structured_chunk_length))
{
	for (volatile size_t i = 0; i < PLACES; i++)
		POINT(t, "offset=%" PRId64 ",length=%" PRIu32, places[i].offset, places[i].length) {
			struct contexts c = enter_base(t);

			ask_at(t, &c, 0, &places[i]);
		}
}

CASE(block_status, req_one, "With REQ_ONE the answer has one extent, no longer than the request", R(req_one_one_extent),
     R(req_one_within_request), R(extent_length_nonzero), R(status_chunk_length))
{
	for (volatile size_t i = 0; i < PLACES; i++)
		POINT(t, "offset=%" PRId64 ",length=%" PRIu32, places[i].offset, places[i].length) {
			struct contexts c = enter_base(t);

			ask_at(t, &c, NBD_CMD_FLAG_REQ_ONE, &places[i]);
		}
}

CASE(block_status, several_contexts,
     "BLOCK_STATUS of several contexts is answered by one chunk for each, in any order, with REQ_ONE and without",
     R(status_chunk_per_context), R(status_chunk_per_context_id), R(status_chunk_names_context),
     R(status_chunks_any_order), R(req_one_single_extent), R(extents_merged))
{
	static const struct place some[] = { { 0, 4096 }, { 65536, 262144 }, { 0, 8 << 20 }, { -65536, 65536 } };

	for (volatile size_t i = 0; i < 2 * COUNT(some); i++)
		POINT(t, "offset=%" PRId64 ",length=%" PRIu32 "%s", some[i / 2].offset, some[i / 2].length,
		      i % 2 ? ",REQ_ONE" : "") {
			struct contexts c = enter_several(t);

			ask_at(t, &c, i % 2 ? NBD_CMD_FLAG_REQ_ONE : 0, &some[i / 2]);
		}
}

/*
 * nbdkit 6e0dc839: extents of a byte each made the reply longer than what it told of. nbdkit 1.32.5 aborts where
 * 2^32 - 1 bytes are asked for and one extent is longer (protocol.c:506, assertion e.length <= length), and its filter
 * blocksize where the length is rounded up to 2^32 (backend.c:786).
 */
CASE(block_status, longest, "BLOCK_STATUS of all of the export, or of almost 4 GiB, has at most 2^20 extents",
     R(extent_count_limited), R(status_success_structured), R(extents_before_last_shorter), R(req_one_within_request),
     R(each_request_one_reply))
{
	static const uint32_t lengths[] = { 0x7ffff000, 0x80000000, 0xfffff000, UINT32_MAX };

	for (volatile size_t i = 0; i < 2 * COUNT(lengths); i++)
		POINT(t, "length=%" PRIu32 "%s", lengths[i / 2], i % 2 ? ",REQ_ONE" : "") {
			struct contexts c = enter_base(t);
			uint32_t length = lengths[i / 2] / unit_of(t) * unit_of(t);

			if (usable_size(t) < length)
				length = (uint32_t)usable_size(t);
			need_size(t, unit_of(t));
			/* What is no longer than all of it need not be asked twice. */
			if (i < 2 || usable_size(t) >= lengths[i / 2 - 1])
				know_status(t, &c, i % 2 ? NBD_CMD_FLAG_REQ_ONE : 0, 0, length);
			expect_in_step(t, R(structured_chunk_length));
		}
}

CASE(block_status, fua, "BLOCK_STATUS with FUA is served where NBD_FLAG_SEND_FUA is advertised", R(fua_accepted))
{
	struct contexts c = enter_base(t);
	uint32_t length = blocks(t, 4096);

	need_flag(t, NBD_FLAG_SEND_FUA);
	need_place(t, 0, length);
	know_status(t, &c, 0, 0, length);
	EXPECT_ERROR(t, R(fua_accepted), ask_status(t, &c, NBD_CMD_FLAG_FUA, 0, length).error, NBD_SUCCESS);
	expect_in_step(t, R(structured_chunk_length));
}

/* Replies come in any order, and their chunks between one another; each has its cookie. */
CASE(block_status, in_flight, "Of several BLOCK_STATUS in flight each gets its own answer, under its own cookie",
     R(each_request_one_reply), R(status_chunk_per_context))
{
	enum { REQUESTS_SENT = 8 };
	struct contexts c = enter_base(t);
	unsigned status[REQUESTS_SENT] = { 0 }, left = REQUESTS_SENT;
	uint32_t length = blocks(t, 4096);
	uint64_t first;

	need_place(t, 0, REQUESTS_SENT * length);
	know_status(t, &c, 0, 0, length);
	first = t->s->next_cookie;
	for (unsigned i = 0; i < REQUESTS_SENT; i++)
		send_command(t, NBD_CMD_FLAG_REQ_ONE, NBD_CMD_BLOCK_STATUS, i * length, length, NULL);
	while (left > 0) {
		struct chunk k = recv_chunk(t, R(each_request_one_reply));
		uint64_t i = k.cookie - first;

		EXPECT(t, R(cookie_echoed), i < REQUESTS_SENT, "no request has cookie 0x%" PRIx64, k.cookie);
		i %= REQUESTS_SENT;
		status[i] += k.type == NBD_REPLY_TYPE_BLOCK_STATUS;
		left -= (k.flags & NBD_REPLY_FLAG_DONE) != 0;
		EXPECT(t, R(status_chunk_per_context), (k.flags & NBD_REPLY_FLAG_DONE) == 0 || status[i] == 1,
		       "%u status chunks answer request %u", status[i], (unsigned)i);
	}
	expect_in_step(t, R(structured_chunk_length));
}

/* ---- what base:allocation promises ---- */

/* An area of known contents: data, zeroes, data, trimmed, written zeroes, data; and what is read there. */
struct area {
	uint64_t offset;
	uint32_t each, length; /* bytes */
	uint8_t *data;
};
enum { STRIPES = 6 };

static void
zero(struct test *t, uint64_t offset, uint32_t length)
{
	if ((t->s->flags & NBD_FLAG_SEND_WRITE_ZEROES) == 0 ||
	    do_command(t, 0, NBD_CMD_WRITE_ZEROES, offset, length, R(each_request_one_reply)) != NBD_SUCCESS)
		store(t, offset, room(length), length, R(write_stored));
}

static void
trim(struct test *t, uint64_t offset, uint32_t length)
{
	if ((t->s->flags & NBD_FLAG_SEND_TRIM) != 0)
		do_command(t, 0, NBD_CMD_TRIM, offset, length, R(each_request_one_reply));
}

static void
read_area(struct test *t, struct area *a)
{
	for (uint32_t at = 0; at < a->length; at += a->each)
		read_served(t, a->offset + at, a->each, a->data + at, R(read_returns_data));
}

static struct area
paint(struct test *t, uint64_t offset)
{
	struct area a = { .offset = offset, .each = blocks(t, 65536) };

	need_writable(t);
	a.length = STRIPES * a.each;
	need_place(t, offset, a.length);
	need_range(t, offset, a.each);
	a.data = room(a.length);
	fill_pattern(a.data, a.length, offset, 41);
	/* A pattern's byte may be zero; these differ from a hole everywhere. */
	for (uint32_t i = 0; i < a.length; i++)
		a.data[i] |= 1;
	store(t, offset, a.data, a.length, R(write_stored));
	zero(t, offset + a.each, a.each);
	trim(t, offset + 3 * a.each, a.each);
	store(t, offset + 4 * a.each, room(a.each), a.each, R(write_stored));
	read_area(t, &a);
	return a;
}

/* No extent with NBD_STATE_ZERO lies over a byte that is not zero, as far as the area goes. */
static void
expect_zeroes(struct test *t, const struct area *a, uint64_t offset, const struct status_chunk *s,
              enum requirement_id r)
{
	uint64_t at = offset;

	for (unsigned i = 0; i < s->count; at += s->extents[i++].length) {
		if ((s->extents[i].flags & NBD_STATE_ZERO) == 0)
			continue;
		for (uint64_t k = at; k < at + s->extents[i].length && k < a->offset + a->length; k++)
			EXPECT(t, r, a->data[k - a->offset] == 0,
			       "the %" PRIu64 " bytes at %" PRIu64 " are said to be zeroes; byte %" PRIu64
			       " reads 0x%02x",
			       s->extents[i].length, at, k, a->data[k - a->offset]);
	}
}

static void
expect_zeroes_at(struct test *t, const struct contexts *c, const struct area *a, uint16_t flags, uint64_t offset,
                 uint32_t length, enum requirement_id r)
{
	struct reply reply;

	need_place(t, offset, length);
	reply = know_status(t, c, flags, offset, length);
	expect_zeroes(t, a, offset, status_of(&reply, *id_of(c, BASE_ALLOCATION)), r);
}

CASE(block_status, zeroes_are_zeroes, "What base:allocation calls zeroes reads as zeroes, among data, zeroes and holes",
     R(state_zero_reads_zeroes), R(hole_without_trim), R(allocated_after_trim), R(status_may_be_zero))
{
	for (volatile int one = 0; one < 2; one++)
		POINT(t, one ? "REQ_ONE" : "several extents") {
			struct contexts c = enter_base(t);
			struct area a = paint(t, 0);

			for (uint32_t at = 0; at < a.length; at += one ? a.each : a.length)
				expect_zeroes_at(t, &c, &a, one ? NBD_CMD_FLAG_REQ_ONE : 0, at, a.length - at,
				                 R(state_zero_reads_zeroes));
			expect_in_step(t, R(structured_chunk_length));
		}
}

CASE(block_status, unwritten_zeroes, "What base:allocation calls zeroes reads as zeroes in an export as it is found",
     R(state_zero_reads_zeroes))
{
	struct contexts c = enter_base(t);
	struct area a = { .each = blocks(t, 65536) };

	a.length = 4 * a.each;
	if (a.length > usable_size(t))
		a.length = a.each = (uint32_t)usable_size(t) / unit_of(t) * unit_of(t);
	need_size(t, unit_of(t));
	need_range(t, 0, a.each);
	a.data = room(a.length);
	read_area(t, &a);
	expect_zeroes_at(t, &c, &a, 0, 0, a.length, R(state_zero_reads_zeroes));
	expect_in_step(t, R(structured_chunk_length));
}

/* Extents that begin elsewhere than at the offset are out of place: zeroes come to lie over data. */
CASE(block_status, from_the_offset, "The first extent begins at the offset of the request, wherever that is",
     R(extents_start_at_offset), R(state_zero_reads_zeroes), R(extents_multiple_of_512))
{
	static const struct {
		const char *label;
		uint32_t stripes;
		int32_t plus;
		uint32_t length; /* 0: to the end of the area */
	} from[] = {
		{ "zeroes", 1, 0, 0 },
		{ "end of data", 1, -4096, 0 },
		{ "end of zeroes", 2, -4096, 0 },
		{ "within zeroes", 1, 32768, 0 },
		{ "one block of data", 0, 4096, 4096 },
		{ "data behind holes", 5, 0, 0 },
		{ "last byte of zeroes", 2, -1, 4096 },
		{ "odd", 1, 17, 70001 },
	};

	for (volatile size_t i = 0; i < COUNT(from); i++)
		POINT(t, "%s", from[i].label) {
			struct contexts c = enter_base(t);
			struct area a = paint(t, 0);
			uint64_t offset = from[i].stripes * a.each + (uint64_t)(int64_t)from[i].plus;
			uint32_t length = from[i].length != 0 ? from[i].length : (uint32_t)(a.length - offset);

			expect_zeroes_at(t, &c, &a, 0, 0, a.length, R(state_zero_reads_zeroes));
			expect_zeroes_at(t, &c, &a, 0, offset, length, R(extents_start_at_offset));
			expect_zeroes_at(t, &c, &a, NBD_CMD_FLAG_REQ_ONE, offset, length, R(extents_start_at_offset));
			expect_in_step(t, R(structured_chunk_length));
		}
}

CASE(block_status, far_offsets, "The status far into the export is that of what is there, whatever bits the offset has",
     R(extents_start_at_offset))
{
	static const uint64_t offsets[] = {
		16 << 20, 44 << 20, UINT64_C(1) << 31, UINT64_C(1) << 32, UINT64_C(5) << 32, UINT64_C(1) << 41,
	};

	for (volatile size_t i = 0; i < COUNT(offsets); i++)
		POINT(t, "offset=%" PRIu64, offsets[i]) {
			struct contexts c = enter_base(t);
			struct area near, far;

			need_place(t, offsets[i], STRIPES * blocks(t, 65536));
			near = paint(t, 0);
			/* What is zeroes near the start is data here. */
			far = paint(t, offsets[i]);
			store(t, far.offset + far.each, far.data, far.each, R(write_stored));
			read_area(t, &far);
			expect_zeroes_at(t, &c, &near, 0, 0, near.length, R(state_zero_reads_zeroes));
			expect_zeroes_at(t, &c, &far, 0, far.offset, far.length, R(extents_start_at_offset));
			expect_zeroes_at(t, &c, &far, 0, far.offset + far.each, far.length - far.each,
			                 R(extents_start_at_offset));
			expect_in_step(t, R(structured_chunk_length));
		}
}

/* Between the two questions only the WRITE comes, so that a status which is kept from before is found out. */
CASE(block_status, follows_writes, "What was zeroes is called so no more once data was written there",
     R(state_zero_reads_zeroes))
{
	static const char *const hows[] = { "zeroed", "trimmed", "written with zeroes" };

	for (volatile size_t how = 0; how < COUNT(hows); how++)
		POINT(t, "%s", hows[how]) {
			struct contexts c = enter_base(t);
			struct area a = paint(t, 0);

			if (how == 0)
				zero(t, 0, a.length);
			else if (how == 1)
				trim(t, 0, a.length);
			else
				for (uint32_t at = 0; at < a.length; at += a.each)
					store(t, at, room(a.each), a.each, R(write_stored));
			read_area(t, &a);
			expect_zeroes_at(t, &c, &a, 0, 0, a.length, R(state_zero_reads_zeroes));
			fill_pattern(a.data + 2 * a.each, a.each, 2 * a.each, 42);
			store(t, 2 * a.each, a.data + 2 * a.each, a.each, R(write_stored));
			read_area(t, &a);
			expect_zeroes_at(t, &c, &a, 0, 0, a.length, R(state_zero_reads_zeroes));
			expect_in_step(t, R(structured_chunk_length));
		}
}

CASE(block_status, each_its_own, "With several contexts base:allocation's chunk still has base:allocation's status",
     R(status_flags_of_context), R(allocation_reserved_flags_zero), R(status_chunks_any_order))
{
	struct contexts c = enter_several(t);
	struct area a;

	if (!has_context(&c, BASE_ALLOCATION))
		skip(t, BASE_ALLOCATION, "the server does not offer it");
	a = paint(t, 0);
	expect_zeroes_at(t, &c, &a, 0, 0, a.length, R(status_flags_of_context));
	for (uint32_t at = 0; at < a.length; at += a.each)
		expect_zeroes_at(t, &c, &a, NBD_CMD_FLAG_REQ_ONE, at, a.each, R(status_flags_of_context));
	expect_in_step(t, R(structured_chunk_length));
}

/* What the server has just told was easy to find out. */
static void
expect_told_again(struct test *t, const struct contexts *c, uint64_t offset, uint32_t length)
{
	uint32_t id = *id_of(c, BASE_ALLOCATION), flags;
	struct reply r = know_status(t, c, 0, offset, length);
	char want[40];

	flags = status_of(&r, id)->extents[0].flags;
	snprintf(want, sizeof(want), "status 0x%" PRIx32 ", as before", flags);
	for (unsigned i = 0; i < 4 && flags != 0; i++) {
		r = know_status(t, c, i % 2 == 0 ? NBD_CMD_FLAG_REQ_ONE : 0, offset, length);
		if (status_of(&r, id)->extents[0].flags != 0)
			continue;
		deviates(t, R(status_reported_when_easy), want, "status 0");
		return;
	}
}

CASE(block_status, told_again,
     "A status that was found out once is told again, with REQ_ONE and without, as long as nothing is written",
     R(status_reported_when_easy), R(status_may_be_zero))
{
	for (volatile unsigned stripe = 0; stripe < STRIPES; stripe++)
		POINT(t, "stripe=%u", stripe) {
			struct contexts c = enter_base(t);
			struct area a = paint(t, 0);

			expect_told_again(t, &c, stripe * a.each, a.each);
			expect_in_step(t, R(structured_chunk_length));
		}
}

/* ---- space ---- */

/* Writes over the first extent; NBD_ENOSPC is free where that is a hole (proto.md:1005-1012). */
static void
write_first_extent(struct test *t, const struct contexts *c, uint64_t offset, const uint8_t *data, uint32_t most)
{
	struct reply r = know_status(t, c, NBD_CMD_FLAG_REQ_ONE, offset, most);
	struct extent e = status_of(&r, *id_of(c, BASE_ALLOCATION))->extents[0];
	bool hole = (e.flags & NBD_STATE_HOLE) != 0;
	uint32_t error = do_write(t, 0, offset, e.length, data, R(write_stored));

	if (hole && error == NBD_ENOSPC) {
		observe(t, R(hole_write_enospc), "a write to a hole gets NBD_ENOSPC");
		return;
	}
	EXPECT(t, R(allocated_write_no_enospc), error != NBD_ENOSPC,
	       "a write to %" PRIu64 " bytes at %" PRIu64 ", which are said to be no hole, gets NBD_ENOSPC", e.length,
	       offset);
	EXPECT_ERROR(t, R(write_stored), error, NBD_SUCCESS);
}

CASE(block_status, allocated_is_writable,
     "A write to what base:allocation calls no hole does not fail for want of space", R(allocated_write_no_enospc),
     R(hole_write_enospc))
{
	static const char *const stripes[STRIPES] = { "data",    "zeroed",         "more data",
		                                      "trimmed", "written zeroes", "last data" };

	for (volatile unsigned stripe = 0; stripe < STRIPES; stripe++)
		POINT(t, "%s", stripes[stripe]) {
			struct contexts c = enter_base(t);
			uint64_t offset = t->s->size > 48 << 20 ? 40 << 20 : 0;
			struct area a = paint(t, offset);

			offset += stripe * a.each;
			write_first_extent(t, &c, offset, a.data, a.each);
			write_first_extent(t, &c, offset, a.data, a.each);
			expect_in_step(t, R(structured_chunk_length));
		}
}

/* ---- what is refused, or may be ---- */

/* Nothing says what is in it (proto.md:2228): only that it comes, for this cookie, and ends. */
static void
recv_any_reply(struct test *t, const struct sent *q)
{
	struct chunk c;

	if (peek_magic(t) != NBD_STRUCTURED_REPLY_MAGIC) {
		recv_reply(t, q, R(each_request_one_reply));
		return;
	}
	do {
		c = recv_chunk(t, R(each_request_one_reply));
		EXPECT_EQ(t, R(structured_chunks_same_cookie), c.cookie, q->cookie);
	} while ((c.flags & NBD_REPLY_FLAG_DONE) == 0);
	if ((c.type & 0x8000) == 0)
		observe(t, R(status_zero_no_disconnect), "BLOCK_STATUS of length 0 succeeds");
}

CASE(block_status, length_zero, "BLOCK_STATUS of length 0 is answered in one way or another, and the connection stays",
     R(status_zero_no_disconnect), R(each_request_one_reply), R(structured_chunk_length))
{
	static const char *const where[] = { "start", "start,REQ_ONE", "end" };

	for (volatile size_t i = 0; i < COUNT(where); i++)
		POINT(t, "%s", where[i]) {
			struct contexts c = enter_base(t);
			struct sent q;

			need_size(t, unit_of(t));
			know_status(t, &c, 0, 0, unit_of(t));
			q = send_command(t, i == 1 ? NBD_CMD_FLAG_REQ_ONE : 0, NBD_CMD_BLOCK_STATUS,
			                 i == 2 ? usable_size(t) : 0, 0, NULL);
			if (peer_goes_on(t, R(each_request_one_reply))) {
				recv_any_reply(t, &q);
				expect_in_step(t, R(structured_chunk_length));
			} else {
				deviates(t, R(status_zero_no_disconnect), "a reply, and the connection stays",
				         "the connection was closed");
				expect_next_client_served(t, R(each_request_one_reply));
			}
		}
}

CASE(block_status, past_the_end, "BLOCK_STATUS past the end of the export gets NBD_EINVAL, and the connection stays",
     R(status_past_end_einval), R(each_request_one_reply), R(structured_chunk_length), R(status_error_code))
{
	for (volatile unsigned b = 0; b < BEYOND_KINDS; b++)
		POINT(t, "%s", beyond_name((enum beyond)b)) {
			struct contexts c = enter_base(t);
			struct range range;
			struct sent q;

			need_size(t, unit_of(t));
			know_status(t, &c, 0, 0, unit_of(t));
			range = range_beyond(t, (enum beyond)b);
			q = send_command(t, 0, NBD_CMD_BLOCK_STATUS, range.offset, range.length, NULL);
			if (peer_goes_on(t, R(each_request_one_reply))) {
				struct reply r = recv_reply(t, &q, R(each_request_one_reply));

				EXPECT_ERROR(t, R(status_past_end_einval), r.error, NBD_EINVAL);
				expect_in_step(t, R(structured_chunk_length));
			} else {
				deviates(t, R(status_past_end_einval), "a reply with NBD_EINVAL",
				         "the connection was closed");
				expect_next_client_served(t, R(each_request_one_reply));
			}
		}
}

/* We break a MUST (proto.md:874). */
CASE(block_status, unaligned, "BLOCK_STATUS off the minimum block size gets NBD_EINVAL, and the connection stays",
     R(unaligned_or_past_end_einval), R(each_request_one_reply), R(structured_chunk_length))
{
	for (volatile unsigned kind = 0; kind < UNALIGNED_KINDS; kind++)
		POINT(t, "%s", unaligned_name(kind)) {
			struct range range;
			struct sent q;

			enter_base(t);
			range = range_unaligned(t, kind);
			q = send_command(t, 0, NBD_CMD_BLOCK_STATUS, range.offset, range.length, NULL);
			if (peer_goes_on(t, R(each_request_one_reply))) {
				EXPECT_ERROR(t, R(unaligned_or_past_end_einval),
				             recv_reply(t, &q, R(each_request_one_reply)).error, NBD_EINVAL);
				expect_in_step(t, R(structured_chunk_length));
			} else {
				deviates(t, R(unaligned_or_past_end_einval), "a reply with NBD_EINVAL",
				         "the connection was closed");
				expect_next_client_served(t, R(each_request_one_reply));
			}
		}
}
