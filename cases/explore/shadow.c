/*
 * A copy of what the export holds, as far as the requests tell. While several are in flight each byte may be what it was or
 * what any of them makes of it, for the server is free to carry them out in any order (proto.md:316). Those that a
 * connection has ended without an answer to may be carried out at any time, as long as the server lives: they are kept.
 */
#include "cases/explore/product.h"

#include <stdlib.h>
#include <string.h>

enum { STRAY_BYTES_MOST = 32 << 20, STRAYS_WHOLE_MOST = MOST_STRAYS / 2 };

/* Whoever may change something meanwhile. */
struct writers {
	const struct item *at[MOST_ITEMS + MOST_STRAYS];
	unsigned n, n_strays; /* the last ones */
	bool anything;        /* and anywhere: they are too many */
};

void
shadow_start(struct shadow *s, const struct entered *e)
{
	struct span spans[3] = { { 0, 0 } };
	unsigned n = spans_of(e, spans);

	shadow_start_over(s, spans, n);
}

void
shadow_start_over(struct shadow *s, const struct span *spans, unsigned n)
{
	shadow_free(s);
	s->n = n;
	for (unsigned i = 0; i < s->n; i++) {
		struct shadow_part *p = &s->part[i];

		p->span = spans[i];
		p->bytes = calloc(1, p->span.length + 1);
		p->known = calloc(1, p->span.length + 1);
		if (p->bytes == NULL || p->known == NULL)
			abort();
	}
}

void
shadow_free(struct shadow *s)
{
	for (unsigned i = 0; i < s->n; i++) {
		free(s->part[i].bytes);
		free(s->part[i].known);
	}
	shadow_forget_strays(s);
	*s = (struct shadow){ .n = 0 };
}

/* ---- what is known ---- */

void
shadow_forget(struct shadow *s, struct span span)
{
	for (unsigned i = 0; i < s->n; i++) {
		struct shadow_part *p = &s->part[i];
		uint64_t end = p->span.offset + p->span.length;
		uint64_t from = span.offset > p->span.offset ? span.offset : p->span.offset;
		uint64_t to = span.offset < end && span.length < end - span.offset ? span.offset + span.length : end;

		if (span.offset < end && to > from)
			memset(p->known + (from - p->span.offset), 0, to - from);
	}
}

void
shadow_forget_all(struct shadow *s)
{
	for (unsigned i = 0; i < s->n; i++)
		memset(s->part[i].known, 0, s->part[i].span.length);
}

bool
shadow_unknown(const struct shadow *s, struct span *span)
{
	for (unsigned i = 0; i < s->n; i++) {
		const struct shadow_part *p = &s->part[i];
		uint64_t skip = span->offset > p->span.offset ? span->offset - p->span.offset : 0;
		const uint8_t *at = skip < p->span.length ? memchr(p->known + skip, 0, p->span.length - skip) : NULL;
		const uint8_t *end;

		if (at == NULL)
			continue;
		end = memchr(at, 1, p->span.length - (size_t)(at - p->known));
		end = end != NULL ? end : p->known + p->span.length;
		span->offset = p->span.offset + (uint64_t)(at - p->known);
		span->length = (uint64_t)(end - at) < span->length ? (uint64_t)(end - at) : span->length;
		return true;
	}
	return false;
}

/* NULL for what no part holds. */
static const struct shadow_part *
part_of(const struct shadow *s, const struct request *q)
{
	for (unsigned i = 0; i < s->n; i++) {
		const struct span *span = &s->part[i].span;

		if (q->offset >= span->offset && q->length <= span->length &&
		    q->offset - span->offset <= span->length - q->length)
			return &s->part[i];
	}
	return NULL;
}

/* ---- who writes ---- */

/* A fast zero that was refused should alter nothing (proto.md:2182); of other errors nothing is said. */
static bool
has_effect(const struct item *i)
{
	return is_write(i->q.type) &&
	       !(i->answered && (i->q.flags & NBD_CMD_FLAG_FAST_ZERO) != 0 && i->error == NBD_ENOTSUP);
}

static struct writers
writers_of(const struct shadow *s, const struct item *items, unsigned n)
{
	struct writers w = { .n_strays = s->n_strays, .anything = s->stray_anywhere };

	for (unsigned i = 0; i < n; i++)
		if (has_effect(&items[i]))
			w.at[w.n++] = &items[i];
	for (unsigned i = 0; i < s->n_strays; i++)
		w.at[w.n++] = &s->stray[i];
	return w;
}

static bool
makes_the_same(const struct item *a, const struct item *b)
{
	return a->q.type == b->q.type && a->q.offset == b->q.offset && a->q.length == b->q.length &&
	       (a->q.type != NBD_CMD_WRITE || memcmp(a->payload, b->payload, a->q.length) == 0);
}

void
shadow_strays(struct shadow *s, const struct item *i)
{
	struct item stray = { .q = i->q, .payload = i->payload };
	bool copies = i->q.type == NBD_CMD_WRITE;

	if (i->q.length == 0)
		return;
	/* A TRIM may leave anything there. */
	if (s->n_strays >= STRAYS_WHOLE_MOST || (copies && s->stray_bytes + i->q.length > STRAY_BYTES_MOST)) {
		stray.q.type = NBD_CMD_TRIM;
		copies = false;
	}
	for (unsigned k = 0; k < s->n_strays; k++)
		if (makes_the_same(&s->stray[k], &stray))
			return;
	if (s->n_strays == MOST_STRAYS) {
		s->stray_anywhere = true;
		return;
	}
	stray.payload = copies ? malloc(i->q.length) : NULL;
	if (copies && stray.payload == NULL)
		abort();
	if (copies)
		memcpy(stray.payload, i->payload, i->q.length);
	s->stray_bytes += copies ? i->q.length : 0;
	s->stray[s->n_strays++] = stray;
}

void
shadow_forget_strays(struct shadow *s)
{
	for (unsigned i = 0; i < s->n_strays; i++)
		item_free(&s->stray[i]);
	s->n_strays = 0;
	s->stray_bytes = 0;
	s->stray_anywhere = false;
}

/* ---- one byte ---- */

static bool
covers(const struct item *i, uint64_t at)
{
	return at >= i->q.offset && at - i->q.offset < i->q.length;
}

/* What was trimmed may be anything, and so may be what the storage failed at. */
static bool
makes_anything(const struct item *i)
{
	return i->q.type == NBD_CMD_TRIM || (i->answered && i->error == NBD_EIO);
}

static bool
makes(const struct item *i, uint64_t at, uint8_t byte)
{
	return makes_anything(i) || byte == (i->q.type == NBD_CMD_WRITE ? i->payload[at - i->q.offset] : 0);
}

static bool
may_be_read(const struct writers *w, uint64_t at, uint8_t byte)
{
	for (unsigned i = 0; i < w->n; i++)
		if (covers(w->at[i], at) && makes(w->at[i], at, byte))
			return true;
	return w->anything;
}

/* ---- a stretch, all of which the same of them cover ---- */

static uint64_t
stretch_end(const struct writers *w, uint64_t from, uint64_t to)
{
	for (unsigned i = 0; i < w->n; i++) {
		const struct request *q = &w->at[i]->q;
		uint64_t end = q->offset + q->length;

		if (q->offset > from && q->offset < to)
			to = q->offset;
		if (end > from && end < to)
			to = end;
	}
	return to;
}

static bool
are_zero(const uint8_t *at, size_t n)
{
	return n == 0 || (at[0] == 0 && memcmp(at, at + 1, n - 1) == 0);
}

/* All of it is what one of them makes of it. */
static bool
is_made_by_one(const struct writers *w, uint64_t from, const uint8_t *data, size_t len)
{
	for (unsigned i = 0; i < w->n; i++) {
		const struct item *m = w->at[i];

		if (!covers(m, from))
			continue;
		if (makes_anything(m) ||
		    (m->q.type == NBD_CMD_WRITE ? memcmp(m->payload + (from - m->q.offset), data, len) == 0
		                                : are_zero(data, len)))
			return true;
	}
	return false;
}

/* One that failed may have had its effect or not; and of those that did not, any may have been the last. */
static bool
is_changed(const struct writers *w, uint64_t at)
{
	for (unsigned i = 0; i < w->n; i++)
		if (covers(w->at[i], at) && w->at[i]->answered && w->at[i]->error == NBD_SUCCESS)
			return true;
	return false;
}

static bool
is_written(const struct writers *w, uint64_t at)
{
	for (unsigned i = 0; i < w->n; i++)
		if (covers(w->at[i], at))
			return true;
	return false;
}

/* What a stray may do is looked at each time, so that it need not be written anew for ever. */
static bool
is_trimmed(const struct writers *w, uint64_t at)
{
	for (unsigned i = 0; i < w->n - w->n_strays; i++)
		if (w->at[i]->q.type == NBD_CMD_TRIM && covers(w->at[i], at))
			return true;
	return false;
}

/* Each byte is what it was, where it `may_stay`, or what one of them makes of it. */
static bool
stretch_allows(const struct shadow_part *p, const struct writers *w, bool may_stay, uint64_t *at, const uint8_t *data,
               size_t len)
{
	const uint8_t *bytes = p->bytes + (*at - p->span.offset), *known = p->known + (*at - p->span.offset);

	if ((may_stay && memcmp(bytes, data, len) == 0) || is_made_by_one(w, *at, data, len))
		return true;
	for (size_t i = 0; i < len; i++, ++*at)
		if (!(may_stay && (!known[i] || bytes[i] == data[i])) && !may_be_read(w, *at, data[i]))
			return false;
	return true;
}

/* ---- ranges ---- */

bool
shadow_allows(const struct shadow *s, const struct item *read, const struct item *items, unsigned n, uint64_t *at)
{
	const struct shadow_part *p = part_of(s, &read->q);
	const struct writers w = writers_of(s, items, n);
	uint64_t from = read->q.offset, end = from + read->q.length;

	while (p != NULL && from < end) {
		uint64_t to = stretch_end(&w, from, end);

		*at = from;
		if (!stretch_allows(p, &w, true, at, read->data + (from - read->q.offset), to - from))
			return false;
		from = to;
	}
	return true;
}

bool
shadow_settles(struct shadow *s, const struct item *read, const struct item *items, unsigned n, uint64_t *at)
{
	const struct shadow_part *p = part_of(s, &read->q);
	const struct writers w = writers_of(s, items, n);
	uint64_t from = read->q.offset, end = from + read->q.length;
	bool ok = true;

	while (p != NULL && from < end) {
		uint64_t to = stretch_end(&w, from, end), first = from;
		const uint8_t *data = read->data + (from - read->q.offset);
		bool stays = !is_changed(&w, from);

		if (ok && !stretch_allows(p, &w, stays, &first, data, to - from)) {
			*at = first;
			ok = false;
		}
		memcpy(p->bytes + (from - p->span.offset), data, to - from);
		if (is_written(&w, from))
			memset(p->known + (from - p->span.offset), !is_trimmed(&w, from), to - from);
		from = to;
	}
	return ok;
}

bool
shadow_contradicts(const struct shadow *s, const struct item *status, const struct item *items, unsigned n,
                   uint64_t *at)
{
	const struct shadow_part *p = part_of(s, &status->q);
	const struct writers w = writers_of(s, items, n);
	uint64_t end = status->q.offset + status->q.length;

	if (p == NULL)
		return false;
	*at = status->q.offset;
	for (unsigned i = 0; i < status->n_extents; i++) {
		uint64_t to = *at + status->extents[i].length;

		for (; *at < to && *at < end; ++*at)
			if ((status->extents[i].flags & NBD_STATE_ZERO) != 0 && p->known[*at - p->span.offset] &&
			    p->bytes[*at - p->span.offset] != 0 && !may_be_read(&w, *at, 0))
				return true;
	}
	return false;
}
