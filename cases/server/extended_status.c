/* NBD_CMD_BLOCK_STATUS with extended headers, and its form with a payload (ext:1005-1037, 2042-2131, 2476-2554). */
#include "harness/test.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BASE "base:allocation"
#define GIB  (UINT64_C(1) << 30)
enum { MOST_SELECTED = 8 };

/* The contexts that the server lists, base:allocation first, no more than a few. */
static size_t
list_names(struct test *t, const char *names[MOST_SELECTED])
{
	struct contexts all;
	size_t n = 1;

	open_fixed_newstyle(t);
	negotiate_extended(t);
	all = meta_contexts(t, NBD_OPT_LIST_META_CONTEXT, export_name(t), NULL, 0, R(ext_contexts_served));
	need_connections(t);
	disconnect(t);
	names[0] = BASE;
	for (unsigned i = 0; i < all.count && n < MOST_SELECTED; i++)
		if (strcmp(all.context[i].name, BASE) != 0)
			names[n++] = all.context[i].name;
	return n;
}

/* In transmission, with all of them that can be had. */
static struct contexts
enter_with_all(struct test *t)
{
	const char *names[MOST_SELECTED];
	size_t n = list_names(t, names);

	return enter_extended_with_contexts(t, names, n);
}

static const char *
name_of_context(const struct contexts *c, uint32_t id)
{
	for (unsigned i = 0; i < c->count; i++)
		if (c->context[i].id == id)
			return c->context[i].name;
	return NULL;
}

/* Each context that is in `wanted` once, and no other; NULL: all that were selected. */
static void
expect_contexts(struct test *t, const struct reply *r, const struct contexts *c, const uint32_t *wanted, unsigned n,
                enum requirement_id rule)
{
	EXPECT_EQ(t, rule, r->n_status, wanted != NULL ? n : c->count);
	for (unsigned i = 0; i < r->n_status; i++) {
		uint32_t id = r->status[i].context_id;
		bool found = wanted == NULL && name_of_context(c, id) != NULL;

		for (unsigned k = 0; k < n && wanted != NULL; k++)
			found |= wanted[k] == id;
		EXPECT(t, rule, found, "a status chunk is for context %" PRIu32 ", which was not asked for", id);
		for (unsigned k = 0; k < i; k++)
			EXPECT(t, rule, r->status[k].context_id != id, "two status chunks are for context %" PRIu32,
			       id);
	}
}

static uint64_t
sum_of(const struct status_chunk *s, unsigned n)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += s->extents[i].length;
	return sum;
}

static void
judge_extents(struct test *t, const struct reply *r, const struct contexts *c, const struct sent *q)
{
	bool one = (q->flags & NBD_CMD_FLAG_REQ_ONE) != 0;

	for (unsigned i = 0; i < r->n_status; i++) {
		const struct status_chunk *s = &r->status[i];
		const char *name = name_of_context(c, s->context_id);

		for (unsigned k = 0; k < s->count && name != NULL && strncmp(name, "base:", 5) == 0; k++)
			EXPECT(t, R(ext_status_high_bits_zero), s->extents[k].flags <= UINT32_MAX,
			       "the status of %s is 0x%" PRIx64, name, s->extents[k].flags);
		EXPECT(t, R(ext_req_one_within_request), !one || (s->count == 1 && s->extents[0].length <= q->length),
		       "%u extents, the first of %" PRIu64 " bytes, answer a request for %" PRIu64
		       " with NBD_CMD_FLAG_REQ_ONE",
		       s->count, s->extents[0].length, q->length);
		EXPECT(t, R(ext_effect_length),
		       sum_of(s, s->count) <= t->s->size - q->offset && sum_of(s, s->count - 1) <= t->s->size,
		       "%" PRIu64 " bytes of extents at %" PRIu64 " go past the end", sum_of(s, s->count), q->offset);
		if (s->count > 1)
			observe(t, R(ext_extents_may_be_several), "%u extents", s->count);
		if (sum_of(s, s->count) > q->length)
			observe(t, R(ext_last_extent_may_exceed), "%" PRIu64 " bytes of extents answer %" PRIu64,
			        sum_of(s, s->count), q->length);
		if (sum_of(s, s->count) < q->length)
			observe(t, R(ext_extents_may_fall_short), "%" PRIu64 " bytes of extents answer %" PRIu64,
			        sum_of(s, s->count), q->length);
	}
}

static struct reply
ask(struct test *t, const struct contexts *c, uint16_t flags, uint64_t offset, uint64_t length)
{
	struct sent q = send_command(t, flags, NBD_CMD_BLOCK_STATUS, offset, length, NULL);
	struct reply r = recv_reply(t, &q, R(ext_status_in_chunks));

	EXPECT_ERROR(t, R(ext_status_in_chunks), r.error, NBD_SUCCESS);
	expect_contexts(t, &r, c, NULL, 0, R(ext_status_chunk_per_context));
	for (unsigned i = 1; i < r.n_status; i++)
		if (r.status[i].context_id < r.status[i - 1].context_id)
			observe(t, R(ext_status_chunks_any_order), "context %" PRIu32 " comes before %" PRIu32,
			        r.status[i - 1].context_id, r.status[i].context_id);
	judge_extents(t, &r, c, &q);
	return r;
}

CASE(extended, status, "BLOCK_STATUS is answered by one NBD_REPLY_TYPE_BLOCK_STATUS_EXT for each context",
     R(ext_status_in_chunks), R(ext_status_chunk_per_context), R(ext_status_ext_used), R(ext_status_ext_length),
     R(ext_status_ext_count), R(ext_extent_nonzero), R(ext_status_high_bits_zero), R(ext_status_at_least_one),
     R(ext_status_chunks_any_order), R(ext_extents_may_be_several), R(ext_last_extent_may_exceed),
     R(ext_extents_may_fall_short), R(ext_req_one_within_request), R(ext_offset_echoed), R(ext_status_descriptor_limit))
{
	for (unsigned one = 0; one < 2; one++)
		POINT(t, "%s", one ? "REQ_ONE" : "plain") {
			struct contexts c = enter_with_all(t);
			uint32_t unit = blocks(t, 65536);
			uint64_t whole = t->s->size / unit * unit;
			uint16_t flags = one ? NBD_CMD_FLAG_REQ_ONE : 0;

			need_size(t, 4u * unit);
			ask(t, &c, flags, 0, unit);
			ask(t, &c, flags, unit, 2u * unit);
			ask(t, &c, flags, whole - unit, unit);
			ask(t, &c, flags, 0, whole < 4 * GIB ? whole : 2 * GIB);
			expect_in_step(t, R(ext_chunk_layout));
		}
}

CASE(extended, status_mixed, "Extents follow what was written, as with structured replies", R(ext_command_done),
     R(ext_status_ext_count), R(ext_extents_may_be_several))
{
	struct contexts c = enter_extended_with_contexts(t, (const char *const[]){ BASE }, 1);
	uint32_t unit = blocks(t, 65536);
	struct status_chunk *s;
	uint64_t at = 0;
	struct reply r;
	uint8_t *data;

	need_writable(t);
	need_size(t, 8u * unit);
	if (c.count != 1)
		skip(t, "metadata contexts", "the server selects %u contexts for " BASE, c.count);
	data = calloc(1, unit);
	if (data == NULL)
		abort();
	fill_pattern(data, unit, 2u * unit, 9);
	must_write(t, 2u * unit, unit, data, R(ext_command_done));
	r = ask(t, &c, 0, 0, 8u * unit);
	s = &r.status[0];
	for (unsigned i = 0; i < s->count; at += s->extents[i++].length)
		EXPECT(t, R(ext_command_done),
		       (s->extents[i].flags & NBD_STATE_ZERO) == 0 || at >= 3u * unit ||
		               at + s->extents[i].length <= 2u * unit,
		       "%" PRIu64 " bytes at %" PRIu64 " are said to be zeroes, which they are not",
		       s->extents[i].length, at);
	free(data);
}

/* The low 32 bits of the length are one block's. */
static void
try_long_status(struct test *t, uint16_t flags)
{
	struct contexts c = enter_extended_with_contexts(t, (const char *const[]){ BASE }, 1);
	uint32_t unit = blocks(t, 65536);
	struct reply r;
	struct sent q;

	need_size(t, 4 * GIB + 4u * unit);
	q = send_command(t, flags, NBD_CMD_BLOCK_STATUS, unit, 4 * GIB + unit, NULL);
	if (!peer_goes_on(t, R(ext_long_effect_no_disconnect))) {
		deviates(t, R(ext_long_effect_no_disconnect), "a reply", "the connection ends");
		return;
	}
	r = recv_reply(t, &q, R(ext_status_in_chunks));
	EXPECT_ERROR(t, R(ext_effect_length), r.error, NBD_SUCCESS);
	judge_extents(t, &r, &c, &q);
	expect_in_step(t, R(ext_effect_length));
}

CASE(extended, status_long,
     "BLOCK_STATUS over more than 4 GiB tells of nothing past the end, with REQ_ONE of no more than was asked",
     R(ext_effect_length), R(ext_req_one_within_request), R(ext_long_effect_no_disconnect))
{
	POINT(t, "plain")
		try_long_status(t, 0);
	POINT(t, "REQ_ONE")
		try_long_status(t, NBD_CMD_FLAG_REQ_ONE);
}

CASE(extended, status_past_end,
     "BLOCK_STATUS of 64 bits that goes past the end gets NBD_EINVAL, and the next request is served",
     R(ext_errors_in_chunks), R(ext_effect_length))
{
	uint32_t unit;
	struct reply r;
	struct sent q;

	enter_extended_with_contexts(t, (const char *const[]){ BASE }, 1);
	unit = blocks(t, 65536);
	need_size(t, 2u * unit);
	if (t->s->size >= UINT64_C(1) << 62)
		skip(t, "size", "the export has %" PRIu64 " bytes", t->s->size);
	q = send_command(t, 0, NBD_CMD_BLOCK_STATUS, unit, (UINT64_C(1) << 62) + unit, NULL);
	/* Our violation. */
	if (!peer_goes_on(t, R(ext_errors_in_chunks)))
		return;
	r = recv_reply(t, &q, R(ext_errors_in_chunks));
	/* proto.md:2288 is a SHOULD: who tells of what there is breaks no more. */
	for (unsigned i = 0; i < r.n_status; i++)
		EXPECT(t, R(ext_effect_length), sum_of(&r.status[i], r.status[i].count) <= t->s->size - unit,
		       "extents go past the end");
	expect_in_step(t, R(ext_errors_in_chunks));
}

CASE(extended, status_zero, "BLOCK_STATUS of no bytes does not end the connection", R(ext_status_zero_no_disconnect))
{
	enter_extended_with_contexts(t, (const char *const[]){ BASE }, 1);
	send_command(t, 0, NBD_CMD_BLOCK_STATUS, 0, 0, NULL);
	if (!peer_goes_on(t, R(ext_status_zero_no_disconnect)))
		deviates(t, R(ext_status_zero_no_disconnect), "a reply", "the connection ends");
}

CASE(extended, compact_status, "Without extended headers status has extents of 32 bits", R(ext_compact_status_length),
     R(ext_status_ext_needs_negotiation))
{
	uint32_t unit;
	struct sent q;
	struct chunk c;

	need_extended(t);
	enter_with_contexts(t, (const char *const[]){ BASE }, 1);
	unit = blocks(t, 65536);
	need_size(t, unit);
	q = send_command(t, 0, NBD_CMD_BLOCK_STATUS, 0, unit, NULL);
	c = recv_chunk(t, R(ext_compact_status_length));
	EXPECT(t, R(ext_status_ext_needs_negotiation), c.type != NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
	       "NBD_REPLY_TYPE_BLOCK_STATUS_EXT comes with structured replies");
	EXPECT_EQ(t, R(ext_compact_status_length), c.type, NBD_REPLY_TYPE_BLOCK_STATUS);
	EXPECT(t, R(ext_compact_status_length), c.length >= 12 && (c.length - 4) % 8 == 0,
	       "NBD_REPLY_TYPE_BLOCK_STATUS has length %" PRIu64, c.length);
	EXPECT_EQ(t, R(cookie_echoed), c.cookie, q.cookie);
}

/* ---- the form with a payload ---- */

static struct buf
status_payload(uint64_t length, const uint32_t *ids, unsigned n)
{
	struct buf b = { 0 };

	put_be64(&b, length);
	for (unsigned i = 0; i < n; i++)
		put_be32(&b, ids[i]);
	return b;
}

/* The reply to one that names these contexts; `cut` bytes of the payload are left out. */
static struct reply
ask_for(struct test *t, uint64_t offset, uint64_t length, const uint32_t *ids, unsigned n, size_t cut,
        enum requirement_id gone)
{
	struct buf b = status_payload(length, ids, n);
	struct sent q =
		send_with_payload(t, 0, NBD_CMD_BLOCK_STATUS, offset, (struct bytes){ b.at, b.len - cut }, length);

	buf_free(&b);
	if (!peer_goes_on(t, gone))
		broken(t, gone, "the connection ends at a BLOCK_STATUS with a payload");
	return recv_reply(t, &q, gone);
}

static struct contexts
enter_for_payload(struct test *t)
{
	struct contexts c = enter_with_all(t);

	if ((t->s->flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD) == 0)
		skip(t, "BLOCK_STATUS_PAYLOAD", "the export does not advertise NBD_FLAG_BLOCK_STATUS_PAYLOAD");
	return c;
}

CASE(extended, status_payload, "BLOCK_STATUS with a payload is answered for the contexts in it, over the length in it",
     R(ext_status_payload_filters), R(ext_status_ext_used))
{
	struct contexts c = enter_for_payload(t);
	uint32_t unit = blocks(t, 65536), ids[MOST_SELECTED], n = 0;
	struct sent q = { .length = unit, .offset = unit };
	struct reply r;

	need_size(t, 2u * unit);
	for (; n < c.count && n < MOST_SELECTED; n++) {
		/* In the reverse order, so that the next is no prefix of those that are selected. */
		ids[n] = c.context[c.count - 1 - n].id;
		r = ask_for(t, unit, unit, &ids[n], 1, 0, R(ext_status_payload_filters));
		EXPECT_ERROR(t, R(ext_status_payload_filters), r.error, NBD_SUCCESS);
		expect_contexts(t, &r, &c, &ids[n], 1, R(ext_status_payload_filters));
		judge_extents(t, &r, &c, &q);
	}
	r = ask_for(t, unit, unit, ids, n, 0, R(ext_status_payload_filters));
	EXPECT_ERROR(t, R(ext_status_payload_filters), r.error, NBD_SUCCESS);
	expect_contexts(t, &r, &c, ids, n, R(ext_status_payload_filters));
	/* Without a payload all are told again. */
	ask(t, &c, 0, 0, unit);
}

/* The length in the header is that of the payload, and much shorter than the effect. */
CASE(extended, status_payload_length, "The effect length of a BLOCK_STATUS with a payload is the one in the payload",
     R(ext_status_payload_filters), R(ext_effect_length))
{
	struct contexts c = enter_for_payload(t);
	uint32_t unit = blocks(t, 65536), id = c.context[0].id;
	uint64_t whole = t->s->size / unit * unit;
	struct reply plain, r;

	need_size(t, 4u * unit);
	plain = exchange(t, 0, NBD_CMD_BLOCK_STATUS, 0, whole, NULL, R(ext_status_in_chunks));
	EXPECT_ERROR(t, R(ext_status_in_chunks), plain.error, NBD_SUCCESS);
	r = ask_for(t, 0, whole, &id, 1, 0, R(ext_status_payload_filters));
	EXPECT_ERROR(t, R(ext_status_payload_filters), r.error, NBD_SUCCESS);
	expect_contexts(t, &r, &c, &id, 1, R(ext_status_payload_filters));
	for (unsigned i = 0; i < plain.n_status; i++)
		EXPECT(t, R(ext_status_payload_filters),
		       plain.status[i].context_id != id || sum_of(&plain.status[i], plain.status[i].count) ==
		                                                   sum_of(&r.status[0], r.status[0].count),
		       "%" PRIu64 " bytes of extents answer a payload, %" PRIu64 " the same request without one",
		       sum_of(&r.status[0], r.status[0].count), sum_of(&plain.status[i], plain.status[i].count));
	/* Past the end by what is in the payload alone. */
	r = ask_for(t, unit, t->s->size, &id, 1, 0, R(ext_errors_in_chunks));
	for (unsigned i = 0; i < r.n_status; i++)
		EXPECT(t, R(ext_effect_length), sum_of(&r.status[i], r.status[i].count) <= t->s->size - unit,
		       "extents go past the end");
	expect_in_step(t, R(ext_payload_consumed));
}

static void
expect_refused(struct test *t, uint64_t length, const uint32_t *ids, unsigned n, size_t cut)
{
	struct reply r = ask_for(t, 0, length, ids, n, cut, R(ext_status_payload_refused));

	EXPECT_ERROR(t, R(ext_status_payload_refused), r.error, NBD_EINVAL);
	expect_in_step(t, R(ext_payload_consumed));
}

CASE(extended, status_payload_wrong,
     "A payload that names a context twice, or one that is not selected, or has no such layout, is consumed and gets "
     "NBD_EINVAL",
     R(ext_status_payload_refused), R(ext_payload_consumed))
{
	static const char *const kinds[] = { "unknown", "twice", "unknown behind known", "cut in an ID", "too short" };

	for (unsigned kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++)
		POINT(t, "%s", kinds[kind]) {
			struct contexts c = enter_for_payload(t);
			uint32_t known = c.context[0].id, unknown = 0x7e575e1f, unit = blocks(t, 65536);

			for (unsigned i = 0; i < c.count; i++)
				unknown += c.context[i].id == unknown;
			need_size(t, unit);
			if (kind == 0)
				expect_refused(t, unit, &unknown, 1, 0);
			else if (kind == 1)
				expect_refused(t, unit, (const uint32_t[]){ known, known }, 2, 0);
			else if (kind == 2)
				expect_refused(t, unit, (const uint32_t[]){ known, unknown }, 2, 0);
			else if (kind == 3)
				expect_refused(t, unit, &known, 1, 1);
			else
				expect_refused(t, unit, &known, 1, 8);
			ask(t, &c, 0, 0, unit);
		}
}

CASE(extended, status_payload_unsupported,
     "Without NBD_FLAG_BLOCK_STATUS_PAYLOAD the payload of a BLOCK_STATUS is consumed, and it gets NBD_EINVAL",
     R(ext_status_payload_refused), R(ext_payload_consumed))
{
	struct contexts c = enter_with_all(t);
	uint32_t unit = blocks(t, 65536);
	struct reply r;

	if ((t->s->flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD) != 0)
		skip(t, "no BLOCK_STATUS_PAYLOAD", "the export advertises NBD_FLAG_BLOCK_STATUS_PAYLOAD");
	need_size(t, unit);
	r = ask_for(t, 0, unit, &c.context[0].id, 1, 0, R(ext_status_payload_refused));
	/* Who has the form and says nothing of it may serve it. */
	if (r.error == NBD_SUCCESS)
		expect_contexts(t, &r, &c, &c.context[0].id, 1, R(ext_status_payload_refused));
	else
		EXPECT_ERROR(t, R(ext_status_payload_refused), r.error, NBD_EINVAL);
	expect_in_step(t, R(ext_payload_consumed));
	ask(t, &c, 0, 0, unit);
}
