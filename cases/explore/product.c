/* The transmission product, pipelined at random depth in a shuffled order (nbdspec server --explore). */
#include "cases/explore/product.h"
#include "cases/explore/told.h"

#include "cases/server/transmission.h"
#include "harness/clock.h"
#include "harness/names.h"
#include "harness/random.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char serves_others[] = "a server that serves others";

enum { LAST_PART = COMMANDS * FLAG_SETS * 2 + 256 }; /* of a mode: those of a megabyte or more, and others */
enum { PIECE = 1 << 20, STUCK_ENOUGH = 16, HANGS_ENOUGH = 64, LEFT_ENOUGH = 8, RENEWED_MOST = 64 };

struct product_finding {
	struct combination c[MOST_COMBINATIONS];
	unsigned n;
	struct product_breach breach;
	bool danger; /* what contains it is left out */
};

struct explorer {
	struct test *t;
	const struct exploration *plan;
	struct exploration_pace *pace;
	unsigned shard;
	struct entered known[MODES], e; /* as found out beforehand, and on this connection */
	struct link link;
	struct shadow shadow;
	bool writes, paints, traced; /* paints: the contents are known because we write them */
	bool dead;                   /* the server is not there, or it hangs */
	bool gone;                   /* and will not be */
	unsigned n_stuck, n_left_us;
	struct combination *later; /* those that it leaves for */
	unsigned n_later;
	unsigned n_renewed; /* servers, to be rid of those that may still write */
	unsigned hangs;     /* those of the search as well: each takes as long as the patience with one answer */
	uint64_t random;
	unsigned seed; /* of what is written next */
	struct history {
		struct combination c[MOST_COMBINATIONS];
		unsigned n;
	} past; /* on this connection */
	struct item item[MOST_ITEMS];
	unsigned n_items;
	enum answers_end end; /* of those */
	struct breaches breaches;
	struct product_finding *findings;
	unsigned n_findings;
};

/* ---- connections ---- */

static bool
is_entered(const struct explorer *x, enum mode mode)
{
	return x->link.fd >= 0 && x->link.end == LINK_OPEN && x->e.mode == mode;
}

/* On the connection that there is, or on a new one. */
static bool
enter_mode(struct explorer *x, enum mode mode)
{
	if (is_entered(x, mode))
		return true;
	hang_up_link(&x->link);
	x->past.n = 0;
	if (enter_link(&x->link, x->t, mode, &x->e) && x->e.there)
		return true;
	link_close(&x->link);
	x->dead = true;
	return false;
}

static void
revive(struct explorer *x)
{
	char error[512];

	link_close(&x->link);
	shadow_forget_all(&x->shadow);
	if (can_restart_server(x->t) && !restart_server(x->t, error))
		harness_error(x->t, "the server could not be started again: %s", error);
	if (can_restart_server(x->t))
		shadow_forget_strays(&x->shadow);
	x->gone = !enter_mode(x, MODE_SIMPLE);
	x->dead = x->gone;
}

/* ---- what stands in the export beforehand ---- */

static void
add_item(struct explorer *x, struct item *items, unsigned *n, uint16_t type, struct span span)
{
	struct item *i = &items[(*n)++];

	*i = (struct item){ .q = { .magic = NBD_REQUEST_MAGIC,
		                   .type = type,
		                   .offset = span.offset,
		                   .length = (uint32_t)span.length } };
	i->law = law_of(&i->q, &x->e);
	if (type != NBD_CMD_WRITE)
		return;
	i->payload = malloc(span.length + 1);
	if (i->payload == NULL)
		abort();
	fill_pattern(i->payload, span.length, span.offset, x->seed++);
}

static void
free_items(struct item *items, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		item_free(&items[i]);
}

static uint32_t
piece_of(const struct entered *e)
{
	return e->maximum < PIECE ? e->maximum / e->minimum * e->minimum : PIECE;
}

static struct span
whole_blocks(const struct entered *e, struct span s)
{
	uint64_t end = (s.offset + s.length + e->minimum - 1) / e->minimum * e->minimum;

	s.offset -= s.offset % e->minimum;
	s.length = end - s.offset;
	return s;
}

/* What was under way when the connection ended may still be carried out. */
static void
leave_strays(struct explorer *x, const struct item *items, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (!items[i].answered && is_write(items[i].q.type))
			shadow_strays(&x->shadow, &items[i]);
}

/* Those that end as they should are known from now on; the others are told of, and nothing more is written so. */
static void
painted(struct explorer *x, struct item *items, unsigned n, enum answers_end end)
{
	uint64_t at;

	for (unsigned i = 0; i < n; i++) {
		struct item read = { .q = items[i].q, .data = items[i].payload };

		if (items[i].answered && items[i].error == NBD_SUCCESS)
			shadow_settles(&x->shadow, &read, &items[i], 1, &at);
		else
			x->paints = false;
	}
	if (end == ANSWERS_ALL)
		return;
	leave_strays(x, items, n);
	link_close(&x->link);
}

static void
paint(struct explorer *x)
{
	struct item items[MOST_IN_FLIGHT];
	struct span span = { 0, piece_of(&x->e) };
	unsigned n = 0;
	enum answers_end end;

	while (x->paints && is_entered(x, x->e.mode) && shadow_unknown(&x->shadow, &span)) {
		for (n = 0; n < MOST_IN_FLIGHT && shadow_unknown(&x->shadow, &span); n++) {
			unsigned k = n;

			span = whole_blocks(&x->e, span);
			add_item(x, items, &k, NBD_CMD_WRITE, span);
			span = (struct span){ span.offset + span.length, piece_of(&x->e) };
		}
		end = exchange_items(&x->link, &x->e, items, n, &x->breaches);
		painted(x, items, n, end);
		free_items(items, n);
		span = (struct span){ 0, piece_of(&x->e) };
	}
}

/* ---- what stands there behind it ---- */

static bool
is_fast_zeroed(const struct explorer *x, uint64_t at)
{
	for (unsigned i = 0; i < x->n_items; i++) {
		const struct item *m = &x->item[i];

		if (m->error == NBD_ENOTSUP && (m->q.flags & NBD_CMD_FLAG_FAST_ZERO) != 0 && at >= m->q.offset &&
		    at - m->q.offset < m->q.length)
			return true;
	}
	return false;
}

static enum requirement_id
who_changed(const struct explorer *x, uint64_t at)
{
	unsigned seen[NBD_CMD_RESIZE] = { 0 }, covers[NBD_CMD_RESIZE] = { 0 };

	for (unsigned i = 0; i < x->n_items; i++) {
		const struct item *m = &x->item[i];
		bool over = at >= m->q.offset && at - m->q.offset < m->q.length && m->error == NBD_SUCCESS;

		if (m->q.type >= NBD_CMD_RESIZE)
			continue;
		seen[m->q.type]++;
		covers[m->q.type] += over;
	}
	if (is_fast_zeroed(x, at))
		return R(fast_zero_enotsup_unaltered);
	if (covers[NBD_CMD_WRITE] > 0)
		return R(write_stored);
	if (covers[NBD_CMD_WRITE_ZEROES] > 0)
		return R(zeroes_stored);
	return seen[NBD_CMD_TRIM] > 0           ? R(trim_keeps_outside)
	       : seen[NBD_CMD_WRITE] > 0        ? R(write_stored)
	       : seen[NBD_CMD_WRITE_ZEROES] > 0 ? R(zeroes_stored)
	       : seen[NBD_CMD_CACHE] > 0        ? R(cache_changes_no_semantics)
	       : x->e.mode == MODE_SIMPLE       ? R(read_returns_data)
	                                        : R(data_chunk_contents);
}

static void
contents_breach(struct explorer *x, int item, enum requirement_id r, uint64_t at, const struct item *read)
{
	add_product_breach(&x->breaches, item, BREACH_CONTENTS, r,
	                   "what was there, or what a request in flight makes of it",
	                   "byte %" PRIu64 " of the export is 0x%02x", at, read->data[at - read->q.offset]);
}

/* It is answered, and the next request is not: the reply or the request was longer than it should be. */
static enum requirement_id
out_of_step(const struct item *i, enum requirement_id seen)
{
	bool more = seen == R(simple_reply_magic) || seen == R(structured_reply_magic);

	if (seen == R(cookie_echoed))
		return R(each_request_one_reply);
	if (seen == R(transmission_no_disconnect))
		return i->law.leaving_breaks;
	if (!more)
		return R(request_payload_consumed);
	if (i->q.type == NBD_CMD_CACHE)
		return R(cache_no_payload);
	return i->q.type != NBD_CMD_READ && !i->structured ? R(simple_reply_payload_only_read) : seen;
}

/* Whatever goes wrong now does so behind the replies to all of them. */
static void
take_behind(struct explorer *x, const struct breaches *b)
{
	for (unsigned i = 0; i < b->n; i++) {
		struct product_breach p = b->b[i];

		p.seen = p.broken[0];
		if (p.kind == BREACH_STREAM && x->n_items == 1) {
			p.broken[1] = p.seen;
			p.broken[0] = out_of_step(&x->item[0], p.seen);
		}
		p.behind = true;
		p.item = -1;
		if (x->breaches.n < MOST_PRODUCT_BREACHES)
			x->breaches.b[x->breaches.n++] = p;
	}
}

static bool
may_leave(const struct explorer *x)
{
	for (unsigned i = 0; i < x->n_items; i++)
		if (x->item[i].law.may_leave ||
		    (x->item[i].law.may_leave_behind && (x->item[i].answered || x->n_items > 1)))
			return true;
	return false;
}

static void
settle(struct explorer *x, const struct span *spans, unsigned n_spans)
{
	struct item items[MOST_ITEMS];
	struct breaches b = { .n = 0 };
	enum answers_end end;
	unsigned n = 0;
	uint64_t at;

	while (n < n_spans)
		add_item(x, items, &n, NBD_CMD_READ, spans[n]);
	end = exchange_items(&x->link, &x->e, items, n, &b);
	for (unsigned i = 0; i < n; i++)
		if (items[i].answered && items[i].error == NBD_SUCCESS &&
		    !shadow_settles(&x->shadow, &items[i], x->item, x->n_items, &at))
			contents_breach(x, -1, who_changed(x, at), at, &items[i]);
	for (unsigned i = 0; i < n; i++)
		if (!items[i].answered || items[i].error != NBD_SUCCESS)
			shadow_forget(&x->shadow, spans[i]);
	if (end == ANSWERS_SILENT || (end == ANSWERS_CLOSED && !may_leave(x)))
		add_product_breach(&b, -1, BREACH_STREAM,
		                   end == ANSWERS_SILENT ? R(each_request_one_reply) : R(transmission_no_disconnect),
		                   "a reply to the READ behind", "%s", link_end_text(x->link.end));
	x->n_stuck += end == ANSWERS_SILENT;
	x->hangs += end == ANSWERS_SILENT;
	take_behind(x, &b);
	free_items(items, n);
	if (end != ANSWERS_ALL)
		link_close(&x->link);
}

/* All that they may have changed, and two blocks around it. */
static struct span
touched(const struct explorer *x, const struct shadow_part *p)
{
	uint64_t from = UINT64_MAX, to = 0, end = p->span.offset + p->span.length, more = 2 * block_of(&x->e);

	for (unsigned i = 0; i < x->n_items; i++) {
		const struct request *q = &x->item[i].q;
		/* No bytes should touch none. */
		uint64_t behind = q->offset + (q->length > 0 ? q->length : 1);

		if (!is_write(q->type) || q->offset >= end || behind <= p->span.offset || behind < q->offset)
			continue;
		from = q->offset < from ? q->offset : from;
		to = behind > to ? behind : to;
	}
	if (from >= to)
		return (struct span){ p->span.offset, 0 };
	from = from < p->span.offset + more ? p->span.offset : from - more;
	to = to > end - more ? end : to + more;
	return whole_blocks(&x->e, (struct span){ from, to - from });
}

/* False where the connection is gone before all was looked at. */
static bool
look_once(struct explorer *x)
{
	struct span spans[MOST_ITEMS];
	unsigned n = 0;

	for (unsigned i = 0; i < x->shadow.n; i++) {
		struct span all = touched(x, &x->shadow.part[i]);

		while (all.length > 0) {
			uint64_t piece = all.length < piece_of(&x->e) ? all.length : piece_of(&x->e);

			spans[n++] = (struct span){ all.offset, piece };
			all = (struct span){ all.offset + piece, all.length - piece };
			if (n < MOST_ITEMS)
				continue;
			settle(x, spans, n);
			n = 0;
			if (!is_entered(x, x->e.mode))
				return false;
		}
	}
	if (n == 0 && x->e.size >= block_of(&x->e))
		spans[n++] = (struct span){ 0, block_of(&x->e) };
	if (n > 0)
		settle(x, spans, n);
	return is_entered(x, x->e.mode);
}

static void
forget_touched(struct explorer *x)
{
	for (unsigned i = 0; i < x->n_items; i++)
		if (is_write(x->item[i].q.type))
			shadow_forget(&x->shadow, (struct span){ x->item[i].q.offset, x->item[i].q.length });
}

/* A server that is free to leave us may do so behind its replies. */
static void
look(struct explorer *x)
{
	unsigned breaches = x->breaches.n;

	if (look_once(x))
		return;
	if (x->breaches.n > breaches || !enter_mode(x, x->e.mode) || !look_once(x))
		forget_touched(x);
}

/* ---- requests that are in flight together ---- */

/* A WRITE that is to be refused has READs for its data. */
static void
put_bait(const struct explorer *x, struct item *i)
{
	struct request read = { .magic = NBD_REQUEST_MAGIC,
		                .cookie = (uint64_t)BAIT_COOKIE << 32,
		                .length = block_of(&x->e) };
	struct buf b = { 0 };

	while (b.len < i->q.length) {
		wire_put_request(&b, &read);
		read.cookie++;
	}
	memcpy(i->payload, b.at, i->q.length);
	buf_free(&b);
}

static void
prepare_items(struct explorer *x, const struct combination *c, unsigned n)
{
	free_items(x->item, x->n_items);
	x->n_items = 0;
	for (unsigned i = 0; i < n; i++) {
		struct request q = request_of(&c[i], &x->e);
		struct item *item = &x->item[i];

		add_item(x, x->item, &x->n_items, q.type, (struct span){ q.offset, q.length });
		item->q.flags = q.flags;
		item->c = c[i];
		item->law = law_of(&item->q, &x->e);
		if (item->q.type == NBD_CMD_WRITE && !item->law.may_succeed && item->q.length > 0)
			put_bait(x, item);
	}
}

static void
judge_contents(struct explorer *x)
{
	enum requirement_id r = x->e.mode == MODE_SIMPLE ? R(read_returns_data) : R(data_chunk_contents);
	uint64_t at;

	for (unsigned i = 0; i < x->n_items; i++) {
		const struct item *m = &x->item[i];

		if (!m->answered || m->error != NBD_SUCCESS)
			continue;
		if (m->q.type == NBD_CMD_READ && !shadow_allows(&x->shadow, m, x->item, x->n_items, &at))
			contents_breach(x, (int)i, is_fast_zeroed(x, at) ? R(fast_zero_enotsup_unaltered) : r, at, m);
		if (m->q.type == NBD_CMD_BLOCK_STATUS && shadow_contradicts(&x->shadow, m, x->item, x->n_items, &at))
			add_product_breach(&x->breaches, (int)i, BREACH_RESULT, R(state_zero_reads_zeroes),
			                   "NBD_STATE_ZERO only where zeroes are read", "it is set for byte %" PRIu64,
			                   at);
	}
}

static int
first_unanswered(const struct explorer *x)
{
	for (unsigned i = 0; i < x->n_items; i++)
		if (!x->item[i].answered)
			return (int)i;
	return -1;
}

/* They have not all been answered. `accuses`: whoever is to blame for it is among them. */
static void
ended_early(struct explorer *x, bool accuses)
{
	int i = first_unanswered(x);
	const char *how = link_end_text(x->link.end);
	enum mode mode = x->e.mode;

	forget_touched(x);
	link_close(&x->link);
	x->n_stuck += accuses && x->end == ANSWERS_SILENT;
	x->hangs += x->end == ANSWERS_SILENT;
	x->n_left_us += x->end == ANSWERS_CLOSED;
	leave_strays(x, x->item, x->n_items);
	if (accuses && x->end == ANSWERS_SILENT)
		add_product_breach(&x->breaches, i, BREACH_STREAM, R(each_request_one_reply), "a reply to each request",
		                   "%s", how);
	else if (accuses && x->end == ANSWERS_CLOSED && !may_leave(x))
		add_product_breach(&x->breaches, i, BREACH_STREAM,
		                   i < 0 ? R(transmission_no_disconnect) : x->item[i].law.leaving_breaks,
		                   "a reply to each request", "%s", how);
	if (enter_mode(x, mode))
		return;
	await_server_end(x->t);
	if (accuses && x->end != ANSWERS_SILENT)
		add_product_breach(&x->breaches, i, BREACH_STREAM, R(transmission_no_disconnect), serves_others,
		                   "it serves nobody");
}

static void
remember(struct explorer *x, const struct combination *c, unsigned n)
{
	for (unsigned i = 0; i < n && x->past.n < MOST_COMBINATIONS; i++) {
		x->past.c[x->past.n] = c[i];
		x->past.c[x->past.n++].waits = i == 0;
	}
}

/* Who may still write makes less certain what others do; but a server may leave us for thousands of requests. */
static void
renew(struct explorer *x)
{
	bool weary = x->shadow.n_strays > 0 && can_restart_server(x->t) && x->n_renewed < RENEWED_MOST;

	x->n_renewed += weary;
	if (x->dead || weary)
		revive(x);
}

/* False where some were not answered: .end says why. */
static bool
run_together(struct explorer *x, const struct combination *c, unsigned n, bool accuses)
{
	renew(x);
	if (x->gone || !enter_mode(x, c->mode))
		return false;
	x->link.traced = x->traced;
	paint(x);
	if (!enter_mode(x, c->mode))
		return false;
	x->link.traced = x->traced;
	prepare_items(x, c, n);
	remember(x, c, n);
	x->end = exchange_items(&x->link, &x->e, x->item, n, &x->breaches);
	judge_contents(x);
	if (x->end == ANSWERS_ALL)
		look(x);
	else
		ended_early(x, accuses);
	return x->end == ANSWERS_ALL;
}

/* ---- findings ---- */

/* Of what may be wrong with a request the plainest is told: a wrong success is one whatever should have refused it. */
static bool
same_result(const struct product_breach *a, const struct product_breach *b)
{
	bool special = a->broken[0] == R(state_zero_reads_zeroes) || a->broken[0] == R(error_values_listed) ||
	               b->broken[0] == R(state_zero_reads_zeroes) || b->broken[0] == R(error_values_listed);

	if (special)
		return a->broken[0] == b->broken[0];
	return a->succeeded == b->succeeded &&
	       (strcmp(a->expected, "success") == 0) == (strcmp(b->expected, "success") == 0);
}

static bool
same_kind(const struct product_breach *a, const struct product_breach *b)
{
	if (a->kind != b->kind || a->kind == BREACH_CONTENTS)
		return a->kind == b->kind;
	if (a->kind == BREACH_RESULT)
		return same_result(a, b);
	if (a->behind && b->behind)
		return true;
	return (a->behind ? a->seen : a->broken[0]) == (b->behind ? b->seen : b->broken[0]) &&
	       strcmp(a->expected, b->expected) == 0;
}

static const struct product_breach *
breach_like(const struct explorer *x, const struct product_breach *b)
{
	for (unsigned i = 0; i < x->breaches.n; i++)
		if (same_kind(&x->breaches.b[i], b))
			return &x->breaches.b[i];
	return NULL;
}

/* A FLUSH has no range (proto.md:2094). */
static enum place
plainest_place(const struct combination *c)
{
	return command_of(c) == NBD_CMD_FLUSH ? PLACE_EMPTY : PLACE_START;
}

static bool
is_like(const struct combination *a, const struct combination *like)
{
	return a->command == like->command && (a->flags & like->flags) == like->flags &&
	       (a->place == like->place || like->place == plainest_place(like) || like->place == PLACE_START);
}

static bool
is_explained(const struct explorer *x, const struct combination *c, unsigned n, const struct product_breach *b)
{
	/* Of a wrong result it is known whose it is. */
	if (b->kind == BREACH_RESULT && b->item >= 0) {
		c += b->item;
		n = 1;
	}
	for (unsigned i = 0; i < x->n_findings; i++) {
		const struct product_finding *f = &x->findings[i];
		bool all = same_kind(&f->breach, b);

		/* Where what was written cannot be read, all contents are in doubt. */
		if (all && (b->kind == BREACH_CONTENTS || (b->kind == BREACH_RESULT && b->behind)) && f->n == 1 &&
		    command_of(&f->c[0]) == NBD_CMD_READ)
			return true;

		for (unsigned k = 0; k < f->n && all; k++) {
			bool found = false;

			for (unsigned m = 0; m < n && !found; m++)
				found = is_like(&c[m], &f->c[k]);
			all = found;
		}
		if (all)
			return true;
	}
	return false;
}

static bool
is_dangerous(const struct explorer *x, const struct combination *c)
{
	for (unsigned i = 0; i < x->n_findings; i++)
		if (x->findings[i].danger && x->findings[i].n == 1 && is_like(c, &x->findings[i].c[0]))
			return true;
	return false;
}

/* On a connection of their own, over contents that are written anew. */
static bool
breaks(struct explorer *x, const struct combination *c, unsigned n, const struct product_breach *b)
{
	unsigned from = 0;

	for (unsigned i = 0; i < n; i++)
		if (left_out(&c[i], &x->known[c->mode], x->writes) != LEFT_NOT)
			return false;
	hang_up_link(&x->link);
	shadow_forget_all(&x->shadow);
	x->breaches.n = 0;
	while (from < n) {
		unsigned to = from + 1;

		while (to < n && !c[to].waits && to - from < MOST_IN_FLIGHT)
			to++;
		run_together(x, c + from, to - from, true);
		from = to;
	}
	return b != NULL && breach_like(x, b) != NULL;
}

static bool
try_combinations(struct explorer *x, struct product_finding *f, const struct combination *c, unsigned n)
{
	if (x->hangs >= HANGS_ENOUGH || !breaks(x, c, n, &f->breach))
		return false;
	memcpy(f->c, c, n * sizeof(*c));
	f->n = n;
	f->breach = *breach_like(x, &f->breach);
	return true;
}

/* Halves first, then smaller parts; one stays. */
static void
drop_requests(struct explorer *x, struct product_finding *f)
{
	struct combination less[MOST_COMBINATIONS];

	for (unsigned part = f->n / 2; part > 0; part /= 2)
		for (unsigned i = 0; i < f->n && part < f->n;) {
			unsigned behind = i + part < f->n ? f->n - i - part : 0;

			memcpy(less, f->c, i * sizeof(*less));
			memcpy(less + i, f->c + i + part, behind * sizeof(*less));
			if (behind > 0 && i + part < f->n)
				less[i].waits |= f->c[i].waits;
			if (i + behind == 0 || !try_combinations(x, f, less, i + behind))
				i += part;
		}
}

static void
simplify(struct explorer *x, struct product_finding *f, unsigned i)
{
	struct combination c[MOST_COMBINATIONS];

	for (unsigned bit = 0; bit < 6; bit++) {
		memcpy(c, f->c, sizeof(c));
		c[i].flags &= (uint8_t) ~(1u << bit);
		if (c[i].flags != f->c[i].flags)
			try_combinations(x, f, c, f->n);
	}
	memcpy(c, f->c, sizeof(c));
	c[i].place = (uint8_t)plainest_place(&c[i]);
	if (f->c[i].place != c[i].place && !try_combinations(x, f, c, f->n)) {
		c[i].place = PLACE_START;
		try_combinations(x, f, c, f->n);
	}
	memcpy(c, f->c, sizeof(c));
	c[i].waits = false;
	if (f->c[i].waits && i > 0)
		try_combinations(x, f, c, f->n);
	memcpy(c, f->c, sizeof(c));
	c[i].command = NBD_CMD_READ;
	c[i].flags = 0;
	if ((f->breach.kind == BREACH_CONTENTS || (f->breach.kind == BREACH_RESULT && f->breach.behind)) &&
	    f->c[i].command != NBD_CMD_READ)
		try_combinations(x, f, c, f->n);
}

static void
plainest_mode(struct explorer *x, struct product_finding *f)
{
	struct combination c[MOST_COMBINATIONS];

	for (enum mode m = MODE_SIMPLE; m < f->c[0].mode; m++) {
		memcpy(c, f->c, sizeof(c));
		for (unsigned i = 0; i < f->n; i++)
			c[i].mode = (uint8_t)m;
		if (try_combinations(x, f, c, f->n))
			return;
	}
}

/* ---- telling of them ---- */

/* What is left of it is what matters, a flag as well. */
static void
attribute(struct product_breach *b, const struct product_finding *f)
{
	const struct combination *c = &f->c[b->item >= 0 && (unsigned)b->item < f->n ? b->item : 0];
	enum requirement_id r = REQUIREMENT_NONE;

	/* We wrote it before. */
	if (b->kind == BREACH_CONTENTS && f->n == 1 && command_of(c) == NBD_CMD_READ)
		b->broken[1] = R(write_stored);
	if (b->kind != BREACH_RESULT || f->n > 1 || strcmp(b->expected, "success") != 0)
		return;
	if ((c->flags & NBD_CMD_FLAG_FUA) != 0)
		r = R(fua_accepted);
	else if (command_of(c) == NBD_CMD_WRITE_ZEROES && (c->flags & NBD_CMD_FLAG_NO_HOLE) != 0)
		r = R(no_hole_supported);
	if (r == REQUIREMENT_NONE)
		return;
	b->broken[1] = b->broken[0];
	b->broken[0] = r;
}

static void
show(struct explorer *x, const struct product_finding *f)
{
	const struct product_breach *again;
	struct product_breach b = f->breach;
	char *text;

	x->traced = true;
	breaks(x, f->c, f->n, &f->breach);
	x->traced = false;
	again = breach_like(x, &f->breach);
	if (again != NULL)
		b = *again;
	else
		note(x->t, "it was broken once, and not again");
	attribute(&b, f);
	text = product_finding_text(x->t, &x->known[f->c->mode], f->c, f->n, &b, x->paints);
	broken_finding(x->t, b.broken, b.expected, b.got, text);
}

static void
report(struct explorer *x, const struct product_finding *f)
{
	char *text = combinations_text(f->c, f->n);

	if (is_to_be_told(x->t, &x->plan->counts->product.told, text, f->breach.broken[0]))
		POINT(x->t, "%s", text)
			show(x, f);
	free(text);
}

/* By themselves; else behind what came before on the same connection. */
static bool
comes_again(struct explorer *x, struct product_finding *f, const struct history *past)
{
	struct combination c[MOST_COMBINATIONS];

	memcpy(c, f->c, f->n * sizeof(*c));
	if (f->breach.item >= 0 && try_combinations(x, f, &c[f->breach.item], 1))
		return true;
	for (int i = 0; i < 2; i++)
		if (try_combinations(x, f, c, f->n))
			return true;
	return past->n > f->n && try_combinations(x, f, past->c, past->n);
}

static bool
ends_the_server(const struct product_breach *b)
{
	return b->kind == BREACH_STREAM && strcmp(b->expected, serves_others) == 0;
}

static void
found(struct explorer *x, const struct combination *c, unsigned n, const struct product_breach *b,
      const struct history *past)
{
	unsigned stuck = x->n_stuck;
	struct product_finding *f;

	if (is_explained(x, c, n, b))
		return;
	if (is_enough_told(&x->plan->counts->product.told)) {
		x->plan->counts->product.told.untold++;
		return;
	}
	x->findings = reallocarray(x->findings, x->n_findings + 1, sizeof(*x->findings));
	if (x->findings == NULL)
		abort();
	f = &x->findings[x->n_findings++];
	*f = (struct product_finding){ .n = n, .breach = *b };
	memcpy(f->c, c, n * sizeof(*c));
	if (comes_again(x, f, past)) {
		drop_requests(x, f);
		for (unsigned i = 0; i < f->n; i++)
			simplify(x, f, i);
		plainest_mode(x, f);
	}
	f->danger = x->n_stuck > stuck || ends_the_server(&f->breach);
	report(x, f);
	/* What hung meanwhile is no news. */
	x->n_stuck = stuck;
}

/* ---- all combinations ---- */

static bool
take_breaches(struct explorer *x, const struct combination *c, unsigned n)
{
	struct breaches b = x->breaches;
	struct history past = x->past;

	for (unsigned i = 0; i < b.n; i++)
		found(x, c, n, &b.b[i], &past);
	x->breaches.n = 0;
	return b.n > 0;
}

static void
count_broken(struct explorer *x)
{
	uint32_t seen = 0, others = 0;

	for (unsigned i = 0; i < x->breaches.n; i++)
		if (x->breaches.b[i].item >= 0)
			seen |= 1u << x->breaches.b[i].item;
		else
			others = 1;
	x->plan->counts->product.broken += seen != 0 ? (unsigned)__builtin_popcount(seen) : others;
}

static bool
is_given_up(const struct explorer *x)
{
	return x->gone || x->n_stuck >= STUCK_ENOUGH || x->hangs >= HANGS_ENOUGH;
}

/* True where nothing of it was wrong, and it has not ended early. */
static bool
explore_alone(struct explorer *x, const struct combination *c)
{
	bool all, broken;

	x->breaches.n = 0;
	all = run_together(x, c, 1, true);
	if (x->gone) {
		x->plan->counts->product.left_out[LEFT_GONE]++;
		return true;
	}
	x->plan->counts->product.done++;
	x->plan->counts->product.by_leaving += !all && x->breaches.n == 0;
	count_broken(x);
	broken = take_breaches(x, c, 1);
	return all && !broken;
}

/* Who was not answered is asked again alone; where that is in order, it takes several. */
static void
explore_unanswered(struct explorer *x, const struct combination *c, unsigned n)
{
	struct combination left[MOST_IN_FLIGHT];
	struct product_breach b = { .kind = BREACH_STREAM, .broken = { R(each_request_one_reply) }, .item = -1 };
	bool accuses = x->end == ANSWERS_SILENT || (x->end == ANSWERS_CLOSED && !may_leave(x)), fine = true;
	struct history past = x->past;
	unsigned n_left = 0;

	if (x->end == ANSWERS_CLOSED)
		b.broken[0] = R(transmission_no_disconnect);
	snprintf(b.expected, sizeof(b.expected), "a reply to each request");
	for (unsigned i = 0; i < n; i++)
		if (i >= x->n_items || !x->item[i].answered)
			left[n_left++] = c[i];
	x->plan->counts->product.done += n - n_left;
	for (unsigned i = 0; i < n_left; i++) {
		if (is_given_up(x) || is_dangerous(x, &left[i])) {
			x->plan->counts->product.left_out[is_given_up(x) ? LEFT_GONE : LEFT_DANGER]++;
			fine = false;
		} else {
			fine &= explore_alone(x, &left[i]);
		}
	}
	if (!fine || !accuses)
		return;
	x->plan->counts->product.broken++;
	found(x, c, n, &b, &past);
}

static void
explore_group(struct explorer *x, const struct combination *c, unsigned n)
{
	struct item items[MOST_ITEMS];
	unsigned n_items;
	enum answers_end end;
	bool all;

	if (n == 1) {
		explore_alone(x, c);
		return;
	}
	x->breaches.n = 0;
	free_items(x->item, x->n_items);
	x->n_items = 0;
	x->end = ANSWERS_CLOSED;
	all = run_together(x, c, n, false);
	if (x->breaches.n > 0) {
		/* What is looked for meanwhile uses the same room. */
		memcpy(items, x->item, sizeof(items));
		n_items = x->n_items;
		end = x->end;
		x->n_items = 0;
		count_broken(x);
		take_breaches(x, c, n);
		free_items(x->item, x->n_items);
		memcpy(x->item, items, sizeof(items));
		x->n_items = n_items;
		x->end = end;
	}
	if (all)
		x->plan->counts->product.done += n;
	else
		explore_unanswered(x, c, n);
}

/* Of a server that does leave, those that it leaves for are asked alone, when the others have had their peace. */
static void
explore_together(struct explorer *x, const struct combination *c, unsigned n)
{
	struct combination others[MOST_IN_FLIGHT];
	unsigned n_others = 0;

	for (unsigned i = 0; i < n; i++) {
		struct request q = request_of(&c[i], &x->known[c->mode]);

		if (x->n_left_us >= LEFT_ENOUGH && law_of(&q, &x->known[c->mode]).may_leave)
			x->later[x->n_later++] = c[i];
		else
			others[n_others++] = c[i];
	}
	if (n_others > 0)
		explore_group(x, others, n_others);
	x->pace->done += n_others;
}

static void
shuffle(struct explorer *x, struct combination *c, unsigned n)
{
	for (unsigned i = n; i > 1; i--) {
		unsigned k = (unsigned)(random_next(&x->random) % i);
		struct combination was = c[i - 1];

		c[i - 1] = c[k];
		c[k] = was;
	}
}

static bool
is_large(const struct combination *c)
{
	return c->place == PLACE_1M || c->place == PLACE_3M;
}

/* Those that move megabytes go together, with a few others, at the end: what they touch is read and written again. */
static void
gather_large(struct combination *c, unsigned n)
{
	unsigned end = n;

	for (unsigned i = 0; i < end; i++)
		while (i < end && is_large(&c[i])) {
			struct combination was = c[--end];

			c[end] = c[i];
			c[i] = was;
		}
}

static bool
is_tried(struct explorer *x, const struct combination *c)
{
	enum left_out why = left_out(c, &x->known[c->mode], x->writes);

	if (why == LEFT_NOT && is_given_up(x))
		why = LEFT_GONE;
	if (why == LEFT_NOT && is_dangerous(x, c))
		why = LEFT_DANGER;
	x->plan->counts->product.left_out[why] += why != LEFT_NOT;
	x->pace->done += why != LEFT_NOT;
	return why == LEFT_NOT;
}

static void
explore_mode(struct explorer *x, enum mode mode)
{
	static struct combination c[PRODUCT / MODES];
	struct combination some[MOST_IN_FLIGHT];
	unsigned n = 0, depth = 1;

	/* The same order for every shard. */
	x->random = case_seed(x->t) * MODES + mode;
	for (unsigned i = 0; i < COUNT(c); i++)
		c[i] = combination_at(mode * COUNT(c) + i);
	shuffle(x, c, COUNT(c));
	gather_large(c, COUNT(c));
	shuffle(x, c + COUNT(c) - LAST_PART, LAST_PART);
	for (unsigned i = 0; i < COUNT(c); i++) {
		if (i % x->plan->shards == x->shard && is_tried(x, &c[i]))
			some[n++] = c[i];
		if (n == depth || (i + 1 == COUNT(c) && n > 0)) {
			explore_together(x, some, n);
			n = 0;
			depth = 1 + (unsigned)(random_next(&x->random) % MOST_IN_FLIGHT);
		}
	}
}

static void
explore_later(struct explorer *x)
{
	for (unsigned i = 0; i < x->n_later; i++)
		if (is_tried(x, &x->later[i])) {
			explore_alone(x, &x->later[i]);
			x->pace->done++;
		}
	free(x->later);
}

static void
explore_all(struct explorer *x)
{
	x->later = reallocarray(NULL, PRODUCT, sizeof(*x->later));
	if (x->later == NULL)
		abort();
	for (enum mode m = MODE_SIMPLE; m < MODES; m++)
		explore_mode(x, m);
	explore_later(x);
}

static void
explore_sequence(struct explorer *x, const char *text)
{
	struct product_finding f = { .n = 0 };
	struct breaches b;
	char error[256];

	f.n = combinations_parse(text, f.c, error);
	if (f.n == 0)
		harness_error(x->t, "--explore-sequence %s", error);
	if (!x->known[f.c[0].mode].there)
		skip(x->t, "this kind of reply", "this server does not have what it speaks of");
	breaks(x, f.c, f.n, NULL);
	b = x->breaches;
	x->plan->counts->product.done += f.n;
	x->plan->counts->product.broken += b.n > 0;
	for (unsigned i = 0; i < b.n; i++) {
		f.breach = b.b[i];
		report(x, &f);
	}
}

/* ---- what it came to ---- */

static void
tell_counts(const struct explorer *x, uint64_t took_us)
{
	const struct exploration_counts *c = x->plan->counts;
	bool whole = c->product.told.untold == 0 && c->product.left_out[LEFT_GONE] == 0;
	size_t size;
	char *text;
	FILE *f = open_memstream(&text, &size);

	if (f == NULL)
		abort();
	fprintf(f, "%" PRIu64 " combinations in %.1f s: %" PRIu64 " tried",
	        x->plan->sequence != NULL ? c->product.done : PRODUCT, (double)took_us / 1e6, c->product.done);
	if (c->product.by_leaving > 0)
		fprintf(f, ", %" PRIu64 " of them answered by leaving", c->product.by_leaving);
	for (enum left_out l = LEFT_STRUCTURED; l < LEFT_REASONS; l++)
		if (c->product.left_out[l] > 0)
			fprintf(f, "; %" PRIu64 " not, %s", c->product.left_out[l], left_out_text(l));
	fprintf(f, "; %" PRIu64 " deviate", c->product.broken);
	put_untold(f, &c->product.told);
	fclose(f);
	sum_up(x->t, whole, text);
	free(text);
}

static void
learn(struct explorer *x)
{
	for (enum mode m = MODE_SIMPLE; m < MODES; m++) {
		enter_link(&x->link, x->t, m, &x->known[m]);
		hang_up_link(&x->link);
	}
	if (!x->known[MODE_SIMPLE].there)
		skip(x->t, "GO", "the server lets nobody in by NBD_OPT_GO");
	x->e = x->known[MODE_SIMPLE];
	shadow_start(&x->shadow, &x->e);
	exploration_begins(x->t);
}

CASE_EXPLORE(explore, transmission,
             "Every command with every combination of flags, over all kinds of ranges and with each kind of reply, is "
             "answered as the text allows, in flight with others, and leaves what it should",
             R(each_request_one_reply), R(transmission_no_disconnect), R(cookie_echoed), R(read_returns_data),
             R(data_chunk_contents), R(write_stored), R(zeroes_stored), R(trim_keeps_outside),
             R(cache_changes_no_semantics), R(inapplicable_flag_einval), R(unknown_command_einval),
             R(read_past_end_einval), R(write_past_end_enospc), R(read_only_errors_writes), R(fua_accepted),
             R(fast_zero_enotsup_unaltered), R(no_hole_supported), R(request_payload_consumed))
{
	static struct explorer x;
	uint64_t from = now_us();

	x.t = t;
	x.link.fd = -1;
	x.plan = exploration_of(t, &x.shard);
	if (x.plan->sequence == NULL ? x.plan->depth < 0 : !is_combinations(x.plan->sequence) || x.shard > 0)
		return;
	need_connections(t);
	open_fixed_newstyle(t);
	disconnect(t);
	learn(&x);
	x.writes = may_write(t);
	x.paints = x.writes && (x.e.flags & NBD_FLAG_READ_ONLY) == 0;
	x.seed = 1 + (unsigned)case_seed(t);
	x.pace = exploration_pace(t, "combinations", x.plan->sequence == NULL ? PRODUCT : 0);
	if (x.plan->sequence != NULL)
		explore_sequence(&x, x.plan->sequence);
	else
		explore_all(&x);
	hang_up_link(&x.link);
	if (x.plan->sequence != NULL || ++x.plan->counts->product.finished == x.plan->shards)
		tell_counts(&x, now_us() - from);
	link_free(&x.link);
	shadow_free(&x.shadow);
}
