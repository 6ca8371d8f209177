/*
 * Metadata contexts: NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT and NBD_CMD_BLOCK_STATUS.
 *
 * The namespace x-nbdspec is ours (proto.md:973 wants its queries documented: docs/man/nbdspec-serve.pod does). Its queries
 * are x-nbdspec:LEAF for one context and x-nbdspec:* for all; x-nbdspec: lists them all and selects none.
 */
#include "fakeserver/core.h"

#include "fakeserver/disk.h"
#include "harness/nbd.h"

#include <stdlib.h>
#include <string.h>

static const char *const names[N_META_CONTEXTS] = {
	[META_ALLOCATION] = "base:allocation",
	[META_DIRTY] = "x-nbdspec:dirty",   /* 1: touched by a WRITE, WRITE_ZEROES or TRIM since the server started */
	[META_BLOCKS] = "x-nbdspec:blocks", /* the number of the 64 KiB block, its low 32 bits */
	[META_WIDE] = "x-nbdspec:wide",     /* likewise, in the high ones, for who has extended headers */
};

enum {
	QUERIES_FEW = 16,       /* of the knobs *_few_queries */
	RUN_PAST = 16 << 20,    /* how far the knob extents_run_past looks ahead */
	BLOCKS_BITS = 16,       /* of x-nbdspec:blocks */
	EXTENTS_MOST = 1 << 20, /* proto.md:1870 */
	/* Of the knob status_errors_hidden. */
	HIDDEN_END = 2 << 20,
	HIDDEN_START = HIDDEN_END - (64 << 10),
};

const char *
meta_context_name(enum meta_context context)
{
	return names[context];
}

/* ---- queries ---- */

static struct bytes
namespace_of(struct bytes name)
{
	const uint8_t *colon = name.len > 0 ? memchr(name.at, ':', name.len) : NULL;

	return (struct bytes){ name.at, colon != NULL ? (size_t)(colon - name.at) + 1 : 0 };
}

static bool is_known_namespace(struct bytes namespace)
{
	for (int i = 0; i < N_META_CONTEXTS; i++)
		if (bytes_equal(namespace_of(bytes_of(names[i])), namespace))
			return true;
	return false;
}

/* Whether a query selects a context, or lists it. */
static bool
query_matches(const struct conn *c, struct bytes query, enum meta_context context)
{
	struct bytes name = bytes_of(names[context]), namespace = namespace_of(query), leaf;

	if (bytes_equal(name, query))
		return true;
	if (namespace.len == 0 || !bytes_equal(namespace_of(name), namespace))
		return false;
	leaf = (struct bytes){ query.at + namespace.len, query.len - namespace.len };
	if (leaf.len == 0)
		return c->option == NBD_OPT_LIST_META_CONTEXT;
	return context != META_ALLOCATION && bytes_equal(leaf, BYTES_OF("*")) &&
	       (c->option == NBD_OPT_LIST_META_CONTEXT || !knob(c, KNOB_ambiguous_queries_ignored));
}

/* A query without a colon, or for a leaf that its namespace does not have (proto.md:1421); never of an unknown namespace. */
static bool
is_meaningless(const struct conn *c, struct bytes query)
{
	struct bytes namespace = namespace_of(query);

	if (namespace.len == 0)
		return true;
	/* base: must be ignored whatever leaf it names (proto.md:997). */
	if (!is_known_namespace(namespace) || bytes_equal(namespace, BYTES_OF("base:")) || namespace.len == query.len)
		return false;
	for (int i = 0; i < N_META_CONTEXTS; i++)
		if (query_matches(c, query, (enum meta_context)i))
			return false;
	return !bytes_equal(query, BYTES_OF("x-nbdspec:*"));
}

/* What needs extended headers may be listed, but not selected, without them (ext:1517-1527, 1614-1619). */
static bool
may_have_wide(const struct conn *c)
{
	bool offers = knob(c, KNOB_wide_contexts) || knob(c, KNOB_wide_contexts_refused);

	if (!offers || c->extended)
		return offers;
	return c->option == NBD_OPT_LIST_META_CONTEXT && knob(c, KNOB_wide_contexts);
}

struct found {
	enum meta_context at[N_META_CONTEXTS];
	unsigned n, set;
};

static void
find_matches(const struct conn *c, struct bytes query, struct found *f)
{
	for (int i = 0; i < N_META_CONTEXTS; i++) {
		unsigned bit = 1u << i;

		if ((c->named->contexts & bit & ~f->set) == 0 || !query_matches(c, query, (enum meta_context)i) ||
		    (i == META_WIDE && !may_have_wide(c)))
			continue;
		f->set |= bit;
		f->at[f->n++] = (enum meta_context)i;
	}
}

/* Why the queries cannot be, or NULL. */
static const char *
check_queries(const struct conn *c, const struct opt_meta_context *o)
{
	struct wire w = wire_over(o->queries);
	bool strict = c->option == NBD_OPT_LIST_META_CONTEXT && knob(c, KNOB_list_meta_strict);

	for (uint32_t i = 0; i < o->n_queries; i++) {
		struct bytes query = opt_meta_context_query(&w);

		if (!is_string(query))
			return "a query has at most 4096 bytes, and no NUL";
		if (strict && is_meaningless(c, query))
			return "a query without a namespace, or for a context that its namespace does not have";
	}
	return NULL;
}

static struct found
find_all(const struct conn *c, const struct opt_meta_context *o)
{
	struct wire w = wire_over(o->queries);
	struct found f = { .n = 0 };

	for (uint32_t i = 0; i < o->n_queries; i++)
		find_matches(c, opt_meta_context_query(&w), &f);
	for (int i = 0; o->n_queries == 0 && c->option == NBD_OPT_LIST_META_CONTEXT && i < N_META_CONTEXTS; i++)
		find_matches(c, bytes_of(names[i]), &f);
	return f;
}

/* ---- replies ---- */

static void
send_context(struct conn *c, uint32_t id, const char *name)
{
	struct outgoing m = option_reply_start(c, NBD_REP_META_CONTEXT, PAYLOAD_CONTEXT);

	m.context = (struct rep_meta_context){ id, bytes_of(name) };
	outgoing_send(c, &m);
}

static void
list(struct conn *c, const struct found *f, bool all)
{
	bool abbreviates = all && knob(c, KNOB_list_meta_abbreviates), told = false;

	for (unsigned i = 0; i < f->n; i++) {
		enum meta_context context = f->at[knob(c, KNOB_list_meta_reversed) ? f->n - 1 - i : i];

		if (context == META_ALLOCATION || !abbreviates)
			send_context(c, 0, names[context]);
		else if (!told)
			send_context(c, 0, "x-nbdspec:");
		told |= context != META_ALLOCATION;
	}
	if ((f->set & 1u << META_WIDE) != 0 && !c->extended)
		option_error(c, NBD_REP_ERR_EXT_HEADER_REQD, "x-nbdspec:wide is for who has extended headers");
	else
		option_ack(c);
}

/* IDs are not used again in a session, so that a client which keeps an old one is found out (proto.md:1511). */
static void
set(struct conn *c, const struct found *f)
{
	c->context_export = c->named;
	for (unsigned i = 0; i < f->n; i++) {
		enum meta_context context = f->at[knob(c, KNOB_set_meta_reversed) ? f->n - 1 - i : i];

		c->contexts[c->n_contexts++] = (struct selected_context){ ++c->next_context_id, context };
		send_context(c, c->next_context_id, names[context]);
	}
	option_ack(c);
}

/* Sends the error, and returns false, or parses the data. */
static bool
parse(struct conn *c, const struct option *o, struct opt_meta_context *data)
{
	bool is_set = o->option == NBD_OPT_SET_META_CONTEXT;
	enum wire_end end;
	const char *wrong;

	if (knob(c, KNOB_no_meta_contexts) || knob(c, KNOB_no_structured_replies)) {
		option_error(c, NBD_REP_ERR_UNSUP, "this server has no metadata contexts");
		return false;
	}
	if (!in_chunks(c) && (is_set || knob(c, KNOB_list_meta_wants_structured))) {
		option_error(c, NBD_REP_ERR_INVALID, "structured replies were not agreed");
		return false;
	}
	if (o->length > OPTION_DATA_MAX) {
		option_error(c, NBD_REP_ERR_TOO_BIG, "more queries than any client needs");
		return false;
	}
	end = wire_get_opt_meta_context(wire_over(o->data), data);
	wrong = end == WIRE_SHORT || (end == WIRE_EXTRA && !knob(c, KNOB_meta_extra_ignored))
	                ? "the lengths do not agree"
	        : !is_string(data->name) ? "a name has at most 4096 bytes, and no NUL"
	                                 : check_queries(c, data);
	if (wrong != NULL)
		option_refuse_invalid(c, wrong);
	return wrong == NULL;
}

static bool
asks_for_wide(const struct opt_meta_context *o)
{
	struct wire w = wire_over(o->queries);
	bool asks = false;

	for (uint32_t i = 0; i < o->n_queries; i++)
		asks |= bytes_equal(opt_meta_context_query(&w), bytes_of(names[META_WIDE]));
	return asks;
}

void
handle_meta_context(struct conn *c, const struct option *o)
{
	bool is_set = o->option == NBD_OPT_SET_META_CONTEXT;
	struct opt_meta_context data;
	struct found f;

	if (is_set) {
		/* Also when it fails (proto.md:1474). */
		c->n_contexts = 0;
		c->context_export = NULL;
	}
	if (!parse(c, o, &data))
		return;
	c->named = export_named(c, data.name);
	if (c->named == NULL) {
		option_error(c, NBD_REP_ERR_UNKNOWN, "there is no export of this name");
		return;
	}
	if (data.n_queries > QUERIES_FEW && knob(c, is_set ? KNOB_set_meta_few_queries : KNOB_list_meta_few_queries)) {
		option_error(c, NBD_REP_ERR_TOO_BIG, "at most 16 queries");
		return;
	}
	f = find_all(c, &data);
	if (is_set && !c->extended && knob(c, KNOB_wide_contexts_refused) && asks_for_wide(&data))
		option_error(c, NBD_REP_ERR_EXT_HEADER_REQD, "x-nbdspec:wide is for who has extended headers");
	else if (is_set)
		set(c, &f);
	else
		list(c, &f, data.n_queries == 0);
}

/* ---- NBD_CMD_BLOCK_STATUS ---- */

static uint32_t
allocation_of(const struct conn *c, enum disk_state state)
{
	if (knob(c, KNOB_status_always_zero))
		return 0;
	switch (state) {
	case DISK_UNTOUCHED:
		return knob(c, KNOB_untouched_is_allocated) ? NBD_STATE_ZERO
		       : knob(c, KNOB_untouched_is_unknown) ? NBD_STATE_HOLE
		                                            : NBD_STATE_HOLE | NBD_STATE_ZERO;
	case DISK_TRIMMED:
		return knob(c, KNOB_zeroes_are_unknown) ? NBD_STATE_HOLE : NBD_STATE_HOLE | NBD_STATE_ZERO;
	case DISK_PROVISIONED:
		return knob(c, KNOB_zeroes_are_unknown) ? 0 : NBD_STATE_ZERO;
	default:
		return 0;
	}
}

/* The status at an offset, and for how many bytes at least. */
static uint64_t
status_at(const struct conn *c, enum meta_context context, uint64_t offset, uint64_t *run)
{
	uint64_t block = UINT64_C(1) << BLOCKS_BITS, left = c->export->size - offset;
	enum disk_state state;

	if (context == META_BLOCKS || context == META_WIDE) {
		*run = block - (offset & (block - 1));
		if (*run > left)
			*run = left;
		return context == META_WIDE ? ((offset >> BLOCKS_BITS) + 1) << 32 : (uint32_t)(offset >> BLOCKS_BITS);
	}
	state = disk_state(c->export->disk, offset, run);
	return context == META_DIRTY ? state != DISK_UNTOUCHED : allocation_of(c, state);
}

static struct extent *
extent_room(struct fake_server *s, size_t n)
{
	if (n + EXTENTS_ROOM > s->extents_cap) {
		s->extents_cap = 2 * (n + EXTENTS_ROOM);
		s->extents = reallocarray(s->extents, s->extents_cap, sizeof(*s->extents));
		if (s->extents == NULL)
			abort();
	}
	return s->extents;
}

/* The last extent reaches `end`, or lies behind it. */
static size_t
find_extents(struct conn *c, enum meta_context context, uint64_t offset, uint64_t end, size_t most)
{
	uint64_t longest = c->extended ? UINT64_MAX : UINT32_MAX, beyond = end, run;
	struct extent *e = NULL;
	size_t n = 0;

	if (knob(c, KNOB_extents_run_past)) {
		longest &= ~(uint64_t)UINT16_MAX;
		beyond = c->export->size - end < RUN_PAST ? c->export->size : end + RUN_PAST;
	}
	while (offset < beyond) {
		uint64_t flags = status_at(c, context, offset, &run);

		if (e == NULL || e->flags != flags) {
			if (n == most || offset >= end)
				break;
			e = &extent_room(c->server, n + 1)[n];
			*e = (struct extent){ 0, flags };
			n++;
		}
		if (run > longest - e->length)
			run = longest - e->length;
		if (run == 0)
			break;
		e->length += run;
		offset += run;
	}
	return n;
}

static void
clamp_extents(struct extent *e, size_t n, uint64_t length)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += e[i].length;
	if (sum > length)
		e[n - 1].length -= sum - length;
}

static size_t
extents_of(struct conn *c, enum meta_context context, const struct disk_op *op)
{
	uint64_t size = c->export->size, length = op->length, end;
	bool one = (op->flags & NBD_CMD_FLAG_REQ_ONE) != 0;
	size_t n;

	/* A lie has skipped it, or moved it past the end: nothing is known of what it asks for. */
	if (length == 0)
		length = UINT64_C(1) << BLOCKS_BITS;
	end = op->offset + length;
	if (knob(c, KNOB_status_errors_hidden) && op->offset < HIDDEN_END && end > HIDDEN_START) {
		extent_room(c->server, 1)[0] = (struct extent){ length, 0 };
		return 1;
	}
	if (op->skip || op->offset >= size || end < op->offset) {
		extent_room(c->server, 1)[0] = (struct extent){ length, 0 };
		return 1;
	}
	if (end > size)
		end = size;
	if (knob(c, KNOB_extents_fall_short) && op->length > 65536)
		end = op->offset + (((end - op->offset) / 2 + UINT16_MAX) & ~(uint64_t)UINT16_MAX);
	n = find_extents(c, context, op->offset, end, one || knob(c, KNOB_single_extents) ? 1 : EXTENTS_MOST);
	if (one || !knob(c, KNOB_extents_run_past))
		clamp_extents(c->server->extents, n, end - op->offset);
	return n;
}

static const struct selected_context *
selected(const struct conn *c, uint32_t id)
{
	for (unsigned i = 0; i < c->n_contexts; i++)
		if (c->contexts[i].id == id)
			return &c->contexts[i];
	return NULL;
}

bool
knows_contexts(const struct conn *c, const struct block_status_payload *p)
{
	size_t n = p->ids.len / sizeof(uint32_t);

	for (size_t i = 0; i < n; i++) {
		uint32_t id = block_status_payload_id(p, i);

		/* More than there are cannot be all different. */
		if (selected(c, id) == NULL || n > c->n_contexts)
			return false;
		for (size_t k = 0; k < i; k++)
			if (block_status_payload_id(p, k) == id)
				return false;
	}
	return true;
}

static bool
is_asked_for(const struct disk_op *op, uint32_t id)
{
	struct block_status_payload p = { .ids = op->ids };
	bool asked = !op->by_payload;

	for (size_t i = 0; i < p.ids.len / sizeof(uint32_t); i++)
		asked |= block_status_payload_id(&p, i) == id;
	return asked;
}

static void
send_extents(struct conn *c, const struct disk_op *op, const struct selected_context *s, bool final)
{
	struct outgoing m = chunk_start(c, op->request, NBD_REPLY_TYPE_BLOCK_STATUS, PAYLOAD_BLOCK_STATUS, final);

	if (c->extended) {
		m.chunk.type = NBD_REPLY_TYPE_BLOCK_STATUS_EXT;
		m.payload = PAYLOAD_BLOCK_STATUS_EXT;
	}
	m.block_status.context_id = s->id;
	m.n_extents = extents_of(c, s->context, op);
	m.extents = extent_room(c->server, m.n_extents);
	outgoing_send(c, &m);
}

void
answer_block_status(struct conn *c, const struct disk_op *op)
{
	bool ends_with_none = knob(c, KNOB_status_ends_with_none);
	const struct selected_context *asked[META_SELECTED_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < c->n_contexts; i++)
		if (is_asked_for(op, c->contexts[i].id))
			asked[n++] = &c->contexts[i];
	for (unsigned i = 0; i < n; i++)
		send_extents(c, op, asked[knob(c, KNOB_status_chunks_reversed) ? n - 1 - i : i],
		             i + 1 == n && !ends_with_none);
	/* Its payload names none, or a lie has let a request through that found none. */
	if (n == 0)
		send_status(c, op->request, NBD_SUCCESS);
	else if (ends_with_none)
		send_none(c, op->request);
}
