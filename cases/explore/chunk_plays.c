/* All the plays of chunks, by kind: one read, one that fails, simple replies, several reads in flight, and unlawful ones. */
#include "cases/explore/chunks.h"

#include "cases/client/answers.h"

enum { ALL_CUTS = 1 << (CHUNK_BLOCKS - 1), MOST_REPLIES = 64 };

static void (*take_play)(const struct play *p);

static void
put(struct play *p, struct chunk_step s)
{
	if (p->n < PLAY_STEPS)
		p->step[p->n++] = chunk_step_pack(s);
}

static unsigned
cut(unsigned cuts, struct chunk_step *piece)
{
	unsigned n = 0, from = 0;

	for (unsigned block = 0; block < CHUNK_BLOCKS; block++)
		if (block + 1 == CHUNK_BLOCKS || (cuts & 1u << block) != 0) {
			piece[n++] =
				(struct chunk_step){ .kind = CHUNK_DATA, .from = (uint8_t)from, .to = (uint8_t)block };
			from = block + 1;
		}
	return n;
}

static unsigned
factorial(unsigned n)
{
	return n <= 1 ? 1 : n * factorial(n - 1);
}

/* The last chunk ends the reply, or NONE behind it. */
static void
end(struct play *p, uint8_t reader, bool none)
{
	struct chunk_step s = { .reader = reader, .kind = CHUNK_NONE, .done = true };

	if (!none) {
		s = chunk_step_of(p->step[--p->n]);
		s.done = true;
	}
	put(p, s);
}

/* The pieces in their nth order, those of the mask as holes. */
static struct play
pieces(const struct chunk_step *piece, unsigned n, unsigned nth, unsigned holes)
{
	struct play p = { .way = BY_CHUNKS };
	unsigned order[CHUNK_BLOCKS];

	permutation(order, n, nth);
	for (unsigned i = 0; i < n; i++) {
		struct chunk_step s = piece[order[i]];

		s.kind = (holes & 1u << order[i]) != 0 ? CHUNK_HOLE : CHUNK_DATA;
		put(&p, s);
	}
	return p;
}

/* Calls for all ways to cut a read into so many pieces, in all orders. */
static void
each_cut(unsigned n, void (*call)(const struct chunk_step *piece, unsigned n, unsigned nth))
{
	struct chunk_step piece[CHUNK_BLOCKS];

	for (unsigned cuts = 0; cuts < ALL_CUTS; cuts++)
		if (cut(cuts, piece) == n)
			for (unsigned nth = 0; nth < factorial(n); nth++)
				call(piece, n, nth);
}

/* ---- one read ---- */

static void
whole_reads(const struct chunk_step *piece, unsigned n, unsigned nth)
{
	for (unsigned i = 0; i < 2u << n; i++) {
		struct play p = pieces(piece, n, nth, i / 2);

		end(&p, 0, i % 2 != 0);
		take_play(&p);
	}
}

static void
insert(struct play *p, unsigned at, struct chunk_step s)
{
	struct play was = *p;

	p->n = (uint8_t)at;
	put(p, s);
	for (unsigned i = at; i < was.n; i++)
		put(p, chunk_step_of(was.step[i]));
}

/* An error at any place among the first so many pieces, with or without an offset. */
static void
failing(const struct chunk_step *piece, unsigned n, unsigned nth)
{
	for (unsigned kept = 0; kept <= n; kept++)
		for (unsigned at = 0; at <= kept; at++)
			for (unsigned offset = 0; offset <= CHUNK_BLOCKS; offset++)
				for (unsigned none = 0; none < 2; none++) {
					struct play p = pieces(piece, n, nth, 0);
					struct chunk_step error = { .kind = CHUNK_ERROR };

					if (offset < CHUNK_BLOCKS)
						error = (struct chunk_step){ .kind = CHUNK_ERROR_AT,
							                     .from = (uint8_t)offset,
							                     .to = (uint8_t)offset };
					p.n = (uint8_t)kept;
					insert(&p, at, error);
					end(&p, 0, none != 0);
					if (chunks_lawful(&p) && (kept < n || nth == 0 || at < kept))
						take_play(&p);
				}
}

/* ---- several reads ---- */

static struct play
of_reader(const struct play *p, uint8_t reader)
{
	struct play other = *p;

	for (unsigned i = 0; i < p->n; i++) {
		struct chunk_step s = chunk_step_of(p->step[i]);

		s.reader = reader;
		other.step[i] = chunk_step_pack(s);
	}
	return other;
}

/* All ways in which the steps of a and b come in turn. */
static void
weave(const struct play *so_far, const struct play *a, unsigned i, const struct play *b, unsigned k)
{
	struct play p = *so_far;

	if (i == a->n && k == b->n)
		take_play(so_far);
	if (i < a->n) {
		p.step[p.n++] = a->step[i];
		weave(&p, a, i + 1, b, k);
	}
	p = *so_far;
	if (k < b->n) {
		p.step[p.n++] = b->step[k];
		weave(&p, a, i, b, k + 1);
	}
}

/* The replies that are woven: whole, in two halves, and with an error. */
static unsigned
short_replies(struct play *reply)
{
	static const struct chunk_step error = { .kind = CHUNK_ERROR };
	struct chunk_step piece[CHUNK_BLOCKS];
	unsigned n = 0;

	for (unsigned none = 0; none < 2; none++) {
		for (unsigned i = 0; i < 10; i++) {
			unsigned count = cut(i < 2 ? 0 : 2, piece);

			reply[n] = i < 2 ? pieces(piece, count, 0, i) : pieces(piece, count, (i - 2) / 4, (i - 2) % 4);
			end(&reply[n++], 0, none != 0);
		}
		for (unsigned kept = 0; kept < 2; kept++) {
			reply[n] = pieces(piece, cut(2, piece), 0, 0);
			reply[n].n = (uint8_t)kept;
			put(&reply[n], error);
			end(&reply[n++], 0, none != 0);
		}
	}
	return n;
}

static void
two_reads(void)
{
	const struct play nothing = { .way = BY_CHUNKS };
	struct play reply[MOST_REPLIES], other;
	unsigned n = short_replies(reply);

	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; k < n; k++) {
			other = of_reader(&reply[k], 1);
			weave(&nothing, &reply[i], 0, &other, 0);
		}
}

static void
simple_replies(unsigned readers)
{
	for (unsigned fails = 0; fails < 1u << readers; fails++)
		for (unsigned nth = 0; nth < factorial(readers); nth++) {
			struct play p = { .way = BY_SIMPLE };
			unsigned order[CHUNK_READERS];

			permutation(order, readers, nth);
			for (unsigned i = 0; i < readers; i++)
				put(&p,
				    (struct chunk_step){ .reader = (uint8_t)order[i],
				                         .kind = (fails & 1u << order[i]) != 0 ? REPLY_FAILS : REPLY_OK,
				                         .done = true });
			take_play(&p);
		}
}

/* ---- unlawful ones ---- */

static void
take_unlawful(const struct play *p)
{
	if (!chunks_lawful(p))
		take_play(p);
}

static void
with_step(const struct play *p, unsigned at, struct chunk_step s)
{
	struct play more = *p;

	insert(&more, at, s);
	take_unlawful(&more);
}

/* Pieces that are left out, longer, of other blocks, said twice, or after the end. */
static void
unlawful(const struct chunk_step *piece, unsigned n, unsigned nth)
{
	struct play good = pieces(piece, n, nth, 0), p;

	end(&good, 0, false);
	for (unsigned i = 0; i < n; i++) {
		struct chunk_step s = chunk_step_of(good.step[i]);

		p = pieces(piece, n, nth, 0);
		for (unsigned k = i; k + 1 < n; k++)
			p.step[k] = p.step[k + 1];
		p.n--;
		end(&p, 0, n == 1);
		take_unlawful(&p);
		s.to++;
		p = good;
		p.step[i] = chunk_step_pack(s);
		take_unlawful(&p);
		s.to = (uint8_t)(s.to + CHUNK_BLOCKS - 1);
		s.from = (uint8_t)(s.from + CHUNK_BLOCKS);
		p.step[i] = chunk_step_pack(s);
		take_unlawful(&p);
		s = chunk_step_of(good.step[i]);
		s.done = false;
		for (unsigned at = 0; at <= n; at++) {
			with_step(&good, at, s);
			s.kind ^= CHUNK_HOLE;
			with_step(&good, at, s);
			s.kind ^= CHUNK_HOLE;
		}
	}
	with_step(&good, n, (struct chunk_step){ .kind = CHUNK_NONE, .done = true });
	with_step(&good, n, (struct chunk_step){ .kind = CHUNK_ERROR, .done = true });
}

/* The server leaves amid a reply, or before it. */
static void
leaving(const struct chunk_step *piece, unsigned n, unsigned nth)
{
	for (unsigned kept = 0; kept < n; kept++) {
		struct play p = pieces(piece, n, nth, 0);

		p.n = (uint8_t)kept;
		put(&p, (struct chunk_step){ .kind = CLOSE, .done = true });
		if (kept > 0 || (n == 1 && nth == 0))
			take_play(&p);
	}
}

static void
leaving_behind_one(void)
{
	struct play p = { .way = BY_CHUNKS };

	put(&p, (struct chunk_step){ .kind = CHUNK_DATA, .to = CHUNK_BLOCKS - 1, .done = true });
	put(&p, (struct chunk_step){ .reader = 1, .kind = CLOSE, .done = true });
	take_play(&p);
}

void
chunks_all(bool several_readers, void (*take)(const struct play *p))
{
	take_play = take;
	for (unsigned n = 1; n <= CHUNK_BLOCKS; n++)
		each_cut(n, whole_reads);
	for (unsigned n = 1; n <= 2; n++)
		each_cut(n, failing);
	for (unsigned readers = 1; readers <= (several_readers ? CHUNK_READERS : 1u); readers++)
		simple_replies(readers);
	if (several_readers)
		two_reads();
	if (several_readers)
		leaving_behind_one();
	for (unsigned n = 1; n <= 2; n++)
		each_cut(n, leaving);
	for (unsigned n = 1; n <= 3; n++)
		each_cut(n, unlawful);
}
