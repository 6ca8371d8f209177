/*
 * A tree of segments: ranges with the same candidates. A segment is made when a command arrives where all was settled,
 * is split where commands begin and end, and goes when it is settled again. Every command knows its moments; a guarantee
 * prunes the segments under its command, once.
 */
#include "harness/history.h"

#include <bsd/sys/queue.h>
#include <bsd/sys/tree.h>
#include <stdlib.h>
#include <string.h>

struct command {
	struct history_candidate told; /* first: what history_next shows */
	uint64_t arrived, answered;    /* moments; .answered 0: not yet */
	unsigned references;           /* segments that it is a candidate of */
	bool owed;                     /* the next FLUSH that covers it guarantees it */
	bool in_flight;
	TAILQ_ENTRY(command) next; /* of .owed, in order of answers, or of .in_flight, in order of arrival */
};
TAILQ_HEAD(commands, command);

enum { FEW = 4 };

struct segment {
	RB_ENTRY(segment) entry;
	uint64_t start, end;
	unsigned n, room;
	struct command **candidates; /* in order of arrival */
	struct command *few[FEW];
};
RB_HEAD(segments, segment);

struct history {
	struct history_owner owner;
	bool flush_covers_all, trims_stay;
	uint64_t numbers, now;
	uint64_t pending_bytes, pending;
	struct segments segments;
	struct commands owed, in_flight;
	struct segment *spare; /* freed ones, linked by .candidates */
};

static int
compare_segments(const struct segment *a, const struct segment *b)
{
	return a->start < b->start ? -1 : a->start > b->start;
}

RB_GENERATE_INTERNAL(segments, segment, entry, compare_segments, static __attribute__((unused)))

static void *
need(void *memory)
{
	if (memory == NULL)
		abort();
	return memory;
}

/* ---- commands ---- */

static bool
is_pending(const struct command *c)
{
	return c->told.number != 0 && c->references > 0 && !c->told.guaranteed;
}

/* Around every change of what is_pending looks at. */
static void
count_pending(struct history *h, const struct command *c, bool was)
{
	bool is = is_pending(c);

	if (was == is)
		return;
	h->pending += is ? 1 : UINT64_MAX;
	h->pending_bytes += is ? c->told.length : -c->told.length;
}

static void
forget_if_unused(struct command *c)
{
	if (c->references == 0 && !c->owed && !c->in_flight)
		free(c);
}

static void
release_content(struct history *h, struct command *c)
{
	if (h->owner.release != NULL)
		h->owner.release(h->owner.arg, c->told.kind, c->told.content);
	c->told.content = NULL;
}

static void
drop_reference(struct history *h, struct command *c)
{
	bool was = is_pending(c);

	c->references--;
	count_pending(h, c, was);
	if (c->references > 0)
		return;
	release_content(h, c);
	forget_if_unused(c);
}

static void
add_reference(struct history *h, struct command *c)
{
	bool was = is_pending(c);

	c->references++;
	count_pending(h, c, was);
}

/* ---- segments ---- */

static struct segment *
segment_new(struct history *h, uint64_t start, uint64_t end)
{
	struct segment *s = h->spare;

	if (s != NULL)
		h->spare = (struct segment *)(void *)s->candidates;
	else
		s = need(malloc(sizeof(*s)));
	s->start = start;
	s->end = end;
	s->n = 0;
	s->room = FEW;
	s->candidates = s->few;
	RB_INSERT(segments, &h->segments, s);
	return s;
}

static void
segment_free(struct history *h, struct segment *s)
{
	RB_REMOVE(segments, &h->segments, s);
	for (unsigned i = 0; i < s->n; i++)
		drop_reference(h, s->candidates[i]);
	if (s->candidates != s->few)
		free(s->candidates);
	s->candidates = (struct command **)(void *)h->spare;
	h->spare = s;
}

static void
add_candidate(struct history *h, struct segment *s, struct command *c)
{
	if (s->n == s->room) {
		struct command **more =
			need(reallocarray(s->candidates == s->few ? NULL : s->candidates, s->room, 2 * sizeof(*more)));

		if (s->candidates == s->few)
			memcpy(more, s->few, sizeof(s->few));
		s->candidates = more;
		s->room *= 2;
	}
	s->candidates[s->n++] = c;
	add_reference(h, c);
}

/* The first segment that ends behind `offset`. */
static struct segment *
segment_at(const struct history *h, uint64_t offset)
{
	struct segments *all = (struct segments *)(uintptr_t)&h->segments;
	struct segment key = { .start = offset }, *s = RB_NFIND(segments, all, &key), *before;

	if (s != NULL && s->start == offset)
		return s;
	before = s != NULL ? RB_PREV(segments, all, s) : RB_MAX(segments, all);
	return before != NULL && before->end > offset ? before : s;
}

/* Both parts keep all candidates; returns the second. */
static struct segment *
split(struct history *h, struct segment *s, uint64_t at)
{
	struct segment *second = segment_new(h, at, s->end);

	s->end = at;
	for (unsigned i = 0; i < s->n; i++)
		add_candidate(h, second, s->candidates[i]);
	return second;
}

static struct segment *
begin_segment(struct history *h, uint64_t start, uint64_t end)
{
	struct segment *s = segment_new(h, start, end);
	struct command *c = need(calloc(1, sizeof(*c)));

	c->told = (struct history_candidate){ .kind = HISTORY_INITIAL, .offset = start, .length = end - start };
	if (h->owner.initial != NULL)
		c->told.content = h->owner.initial(h->owner.arg, start, end - start);
	add_candidate(h, s, c);
	return s;
}

static uint64_t
end_of(uint64_t offset, uint64_t length)
{
	return length > UINT64_MAX - offset ? UINT64_MAX : offset + length;
}

/* The command becomes a candidate everywhere in its range. */
static void
lay(struct history *h, struct command *c)
{
	uint64_t at = c->told.offset, end = end_of(at, c->told.length);
	struct segment *s = at < end ? segment_at(h, at) : NULL, *now;

	if (s != NULL && s->start < at)
		s = split(h, s, at);
	for (; at < end; at = now->end) {
		if (s == NULL || s->start > at) {
			now = begin_segment(h, at, s != NULL && s->start < end ? s->start : end);
		} else {
			now = s;
			if (now->end > end)
				split(h, now, end);
			s = RB_NEXT(segments, &h->segments, now);
		}
		add_candidate(h, now, c);
	}
}

/* ---- guarantees ---- */

/* v → g */
static bool
precedes(const struct command *v, const struct command *g)
{
	return v->told.number == 0 || (v->answered != 0 && v->answered < g->arrived);
}

static bool
has_candidate(const struct segment *s, const struct command *c)
{
	for (unsigned i = s->n; i-- > 0;)
		if (s->candidates[i] == c)
			return true;
	return false;
}

static void
settle(struct history *h, struct segment *s)
{
	const struct history_candidate *c = &s->candidates[0]->told;

	if (s->n != 1 || !c->guaranteed || (c->kind == HISTORY_TRIM && h->trims_stay))
		return;
	if (h->owner.settled != NULL)
		h->owner.settled(h->owner.arg, s->start, s->end - s->start, c);
	segment_free(h, s);
}

static void
prune(struct history *h, struct segment *s, const struct command *g)
{
	unsigned kept = 0, n = s->n;

	if (!has_candidate(s, g))
		return;
	for (unsigned i = 0; i < n; i++) {
		struct command *v = s->candidates[i];

		if (v == g || !precedes(v, g)) {
			s->candidates[kept++] = v;
			continue;
		}
		if (h->owner.pruned != NULL)
			h->owner.pruned(h->owner.arg, s->start, s->end - s->start, &v->told);
		drop_reference(h, v);
	}
	s->n = kept;
	settle(h, s);
}

/* The command may vanish by this, where all of its range is settled. */
static void
guarantee(struct history *h, struct command *g, uint64_t promise)
{
	uint64_t end = end_of(g->told.offset, g->told.length);
	struct segment *s = g->told.length > 0 ? segment_at(h, g->told.offset) : NULL, *next;
	bool was = is_pending(g);

	g->told.guaranteed = true;
	g->told.promise = promise;
	count_pending(h, g, was);
	if (h->owner.guaranteed != NULL)
		h->owner.guaranteed(h->owner.arg, &g->told);
	g->references++; /* stays while we look at it */
	for (; s != NULL && s->start < end; s = next) {
		next = RB_NEXT(segments, &h->segments, s);
		prune(h, s, g);
	}
	if (--g->references == 0) {
		release_content(h, g);
		forget_if_unused(g);
	}
}

static void
pay(struct history *h, struct command *c, uint64_t promise)
{
	TAILQ_REMOVE(&h->owed, c, next);
	c->owed = false;
	if (c->references > 0)
		guarantee(h, c, promise);
	else
		forget_if_unused(c);
}

static void
flush(struct history *h, const struct command *f)
{
	struct command *c, *next;

	for (c = TAILQ_FIRST(&h->owed); c != NULL && c->answered < f->arrived; c = next) {
		next = TAILQ_NEXT(c, next);
		if (h->flush_covers_all || c->told.connection == f->told.connection)
			pay(h, c, f->told.number);
	}
}

/* ---- what is told ---- */

struct history *
history_new(bool flush_covers_all, bool trims_stay, const struct history_owner *owner)
{
	struct history *h = need(calloc(1, sizeof(*h)));

	h->owner = *owner;
	h->flush_covers_all = flush_covers_all;
	h->trims_stay = trims_stay;
	RB_INIT(&h->segments);
	TAILQ_INIT(&h->owed);
	TAILQ_INIT(&h->in_flight);
	return h;
}

uint64_t
history_receive(struct history *h, const struct history_command *m)
{
	struct command *c = need(calloc(1, sizeof(*c)));

	c->told = (struct history_candidate){ .number = ++h->numbers,
		                              .kind = m->kind,
		                              .fua = m->fua,
		                              .offset = m->offset,
		                              .length = m->kind == HISTORY_FLUSH ? 0 : m->length,
		                              .connection = m->connection,
		                              .content = m->content };
	c->arrived = ++h->now;
	c->in_flight = true;
	TAILQ_INSERT_TAIL(&h->in_flight, c, next);
	lay(h, c);
	if (c->references == 0 && m->kind != HISTORY_FLUSH)
		release_content(h, c);
	return c->told.number;
}

/* Answers come about in the order of arrival, so that the one that is meant stands near the front. */
static struct command *
take_from_flight(struct history *h, uint64_t number)
{
	struct command *c;

	TAILQ_FOREACH(c, &h->in_flight, next)
	{
		/* cppcheck-suppress uninitvar; it does not see into TAILQ_FIRST */
		if (c->told.number == number) {
			TAILQ_REMOVE(&h->in_flight, c, next);
			c->in_flight = false;
			return c;
		}
	}
	return NULL;
}

void
history_answer(struct history *h, uint64_t number, bool success)
{
	struct command *c = take_from_flight(h, number);

	if (c == NULL)
		return;
	c->answered = ++h->now;
	c->told.answered = true;
	c->told.success = success;
	if (c->told.kind == HISTORY_FLUSH && success)
		flush(h, c);
	if (c->references == 0 || !success) {
		forget_if_unused(c);
	} else if (c->told.fua) {
		guarantee(h, c, number);
	} else {
		c->owed = true;
		TAILQ_INSERT_TAIL(&h->owed, c, next);
	}
}

bool
history_destage(struct history *h)
{
	struct command *c = TAILQ_FIRST(&h->owed);

	if (c == NULL)
		return false;
	pay(h, c, 0);
	return true;
}

void
history_forget(struct history *h)
{
	struct command *c;

	while ((c = TAILQ_FIRST(&h->owed)) != NULL) {
		TAILQ_REMOVE(&h->owed, c, next);
		c->owed = false;
		forget_if_unused(c);
	}
}

void
history_cut(struct history *h)
{
	struct command *c;
	struct segment *s;

	history_forget(h);
	while ((s = RB_ROOT(&h->segments)) != NULL)
		segment_free(h, s);
	while ((c = TAILQ_FIRST(&h->in_flight)) != NULL) {
		TAILQ_REMOVE(&h->in_flight, c, next);
		c->in_flight = false;
		forget_if_unused(c);
	}
}

void
history_free(struct history *h)
{
	struct segment *s;

	if (h == NULL)
		return;
	history_cut(h);
	while ((s = h->spare) != NULL) {
		h->spare = (struct segment *)(void *)s->candidates;
		free(s);
	}
	free(h);
}

/* ---- what is asked ---- */

bool
history_next(const struct history *h, uint64_t from, struct history_cell *cell)
{
	const struct segment *s = segment_at(h, from);

	if (s == NULL)
		return false;
	_Static_assert(offsetof(struct command, told) == 0, "a candidate is the start of a command");
	*cell = (struct history_cell){ .offset = s->start,
		                       .length = s->end - s->start,
		                       .n = s->n,
		                       .candidates =
		                               (const struct history_candidate *const *)(const void *)s->candidates };
	return true;
}

uint64_t
history_pending_bytes(const struct history *h)
{
	return h->pending_bytes;
}

uint64_t
history_pending(const struct history *h)
{
	return h->pending;
}
