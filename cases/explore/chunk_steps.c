/* Chunks as steps of a play: their names, and what is lawful and alike. */
#include "cases/explore/chunks.h"

#include <stdlib.h>
#include <string.h>

static const char *const kinds[CHUNK_KINDS] = { "data", "hole", "none", "error", "error@", "ok", "fails", "close" };

uint16_t
chunk_step_pack(struct chunk_step s)
{
	return (uint16_t)(s.reader << 14 | s.kind << 10 | s.from << 6 | s.to << 2 | s.done << 1 | 1);
}

struct chunk_step
chunk_step_of(uint16_t step)
{
	return (struct chunk_step){ .reader = (uint8_t)(step >> 14),
		                    .kind = step >> 10 & 15,
		                    .from = step >> 6 & 15,
		                    .to = step >> 2 & 15,
		                    .done = (step & 2) != 0 };
}

/* Simple replies and NONE end their reply by themselves. */
static bool
ends_itself(struct chunk_step s)
{
	return s.kind == CHUNK_NONE || s.kind == REPLY_OK || s.kind == REPLY_FAILS || s.kind == CLOSE;
}

void
chunk_step_put(FILE *f, uint16_t step)
{
	struct chunk_step s = chunk_step_of(step);

	fprintf(f, "%c:%s", 'A' + s.reader, kinds[s.kind]);
	if (is_content(s) || s.kind == CHUNK_ERROR_AT)
		fprintf(f, "%u", s.from);
	if (is_content(s) && s.to > s.from)
		fprintf(f, "-%u", s.to);
	if (s.done && !ends_itself(s))
		putc('!', f);
}

static const char *
parse_number(const char *at, const char *end, uint8_t *number)
{
	*number = 15;
	if (at < end && *at >= '0' && *at <= '9')
		*number = (uint8_t)(*at++ - '0');
	return at;
}

/* The longest name first: "error@" begins with "error". */
static const char *
parse_kind(const char *at, const char *end, uint8_t *kind)
{
	for (unsigned k = CHUNK_KINDS; k-- > 0;) {
		size_t len = strlen(kinds[k]);

		if ((size_t)(end - at) >= len && strncmp(at, kinds[k], len) == 0) {
			*kind = (uint8_t)k;
			return at + len;
		}
	}
	return NULL;
}

bool
chunk_step_parse(const char *word, size_t len, uint16_t *step)
{
	const char *at = word + 2, *end = word + len;
	struct chunk_step s = { 0 };

	if (len < 4 || word[0] < 'A' || word[0] >= 'A' + CHUNK_READERS || word[1] != ':')
		return false;
	s.reader = (uint8_t)(word[0] - 'A');
	at = parse_kind(at, end, &s.kind);
	if (at == NULL)
		return false;
	if (is_content(s) || s.kind == CHUNK_ERROR_AT)
		at = parse_number(at, end, &s.from);
	s.to = s.from;
	if (is_content(s) && at < end && *at == '-')
		at = parse_number(at + 1, end, &s.to);
	s.done = ends_itself(s);
	if (!s.done && at < end && *at == '!') {
		s.done = true;
		at++;
	}
	*step = chunk_step_pack(s);
	return at == end && s.from <= s.to && s.to < 10;
}

bool
names_chunks(const char *sequence)
{
	static const char *const begins[] = { "chunks,", "simple," };

	sequence += strspn(sequence, " ");
	return strncmp(sequence, begins[0], 7) == 0 || strncmp(sequence, begins[1], 7) == 0;
}

bool
is_content(struct chunk_step s)
{
	return s.kind == CHUNK_DATA || s.kind == CHUNK_HOLE;
}

bool
is_failure(struct chunk_step s)
{
	return s.kind == CHUNK_ERROR || s.kind == CHUNK_ERROR_AT || s.kind == REPLY_FAILS;
}

unsigned
chunk_readers(const struct play *p)
{
	unsigned n = 0;

	for (unsigned i = 0; i < p->n; i++)
		if (chunk_step_of(p->step[i]).reader >= n)
			n = chunk_step_of(p->step[i]).reader + 1u;
	return n;
}

/* ---- the law ---- */

struct said {
	bool done, failed, wrong;
	unsigned covered, voided; /* a bit for each block */
};

static unsigned
blocks_of(struct chunk_step s)
{
	return (2u << s.to) - (1u << s.from);
}

/* Content after an error may not cover its offset (proto.md:1989-1991, 2029-2031). */
static void
say_lawfully(struct said *r, struct chunk_step s, uint8_t way)
{
	unsigned blocks = is_content(s) ? blocks_of(s) : 0;
	bool simple = s.kind == REPLY_OK || s.kind == REPLY_FAILS;

	r->wrong |=
		s.kind == CLOSE || r->done || simple != (way == BY_SIMPLE) || (blocks & (r->covered | r->voided)) != 0;
	r->wrong |= blocks >= 1u << CHUNK_BLOCKS || (s.kind == CHUNK_ERROR_AT && s.from >= CHUNK_BLOCKS);
	r->covered |= s.kind == REPLY_OK ? (1u << CHUNK_BLOCKS) - 1 : blocks;
	r->voided |= s.kind == CHUNK_ERROR_AT ? 1u << s.from : 0;
	r->failed |= is_failure(s);
	r->done |= s.done;
}

bool
chunks_lawful(const struct play *p)
{
	struct said said[CHUNK_READERS + 1] = { 0 };
	unsigned n = chunk_readers(p);

	if (n > CHUNK_READERS)
		return false;
	for (unsigned i = 0; i < p->n; i++) {
		struct chunk_step s = chunk_step_of(p->step[i]);

		say_lawfully(&said[s.reader], s, p->way);
	}
	for (unsigned r = 0; r < n; r++)
		if (said[r].wrong || !said[r].done || (!said[r].failed && said[r].covered != (1u << CHUNK_BLOCKS) - 1))
			return false;
	return n > 0;
}

bool
chunks_overrun(const struct play *p)
{
	bool done[CHUNK_READERS + 1] = { false }, overrun = false;

	for (unsigned i = 0; i < p->n; i++) {
		struct chunk_step s = chunk_step_of(p->step[i]);

		overrun |= done[s.reader];
		done[s.reader] |= s.done;
	}
	return overrun;
}

bool
chunks_interleaved(const struct play *p)
{
	unsigned changes = 0;

	for (unsigned i = 1; i < p->n; i++)
		changes += chunk_step_of(p->step[i]).reader != chunk_step_of(p->step[i - 1]).reader;
	return changes >= chunk_readers(p);
}

/* ---- alike ---- */

static bool
same_order(struct chunk_step a1, struct chunk_step a2, struct chunk_step b1, struct chunk_step b2)
{
	if ((a1.reader == a2.reader) != (b1.reader == b2.reader))
		return false;
	return !is_content(a1) || !is_content(a2) || (a1.from < a2.from) == (b1.from < b2.from);
}

static bool
is_as(const struct play *whole, const struct play *part, const unsigned *place, unsigned k)
{
	struct chunk_step w = chunk_step_of(whole->step[place[k]]), p = chunk_step_of(part->step[k]);

	if (w.kind != p.kind && !(w.kind == CHUNK_ERROR_AT && p.kind == CHUNK_ERROR))
		return false;
	for (unsigned i = 0; i < k; i++)
		if (!same_order(chunk_step_of(whole->step[place[i]]), w, chunk_step_of(part->step[i]), p))
			return false;
	return true;
}

/* The steps of the part, of the same kinds and in the same order on the disk, among those of the whole from `from` on. */
static bool
is_in(const struct play *whole, const struct play *part, unsigned *place, unsigned k, unsigned from)
{
	if (k == part->n)
		return true;
	for (unsigned i = from; i < whole->n; i++) {
		place[k] = i;
		if (is_as(whole, part, place, k) && is_in(whole, part, place, k + 1, i + 1))
			return true;
	}
	return false;
}

bool
chunks_contain(const struct play *whole, const struct play *part, bool roughly)
{
	unsigned place[PLAY_STEPS];

	if (whole->way != part->way)
		return false;
	if (roughly)
		return (chunks_lawful(part) || !chunks_lawful(whole)) && is_in(whole, part, place, 0, 0);
	return whole->n == part->n && memcmp(whole->step, part->step, part->n * sizeof(part->step[0])) == 0;
}

/* ---- less ---- */

static void
drop(struct play *p, unsigned step)
{
	memmove(p->step + step, p->step + step + 1, (p->n - step - 1u) * sizeof(p->step[0]));
	p->step[--p->n] = 0;
}

/* The reader's last step ends its reply, and no other does. */
static void
set_done(struct play *p, unsigned reader)
{
	bool last = true;

	for (unsigned i = p->n; i-- > 0;) {
		struct chunk_step s = chunk_step_of(p->step[i]);

		if (s.reader != reader)
			continue;
		s.done = last;
		last = false;
		p->step[i] = chunk_step_pack(s);
	}
}

static bool
drop_reader(struct play *p, unsigned reader)
{
	for (unsigned i = p->n; i-- > 0;) {
		struct chunk_step s = chunk_step_of(p->step[i]);

		if (s.reader == reader)
			drop(p, i);
		else if (s.reader > reader) {
			s.reader--;
			p->step[i] = chunk_step_pack(s);
		}
	}
	return p->n > 0;
}

/* Its blocks go to a chunk of the same kind beside it. */
static bool
merge(struct play *p, unsigned step)
{
	struct chunk_step s = chunk_step_of(p->step[step]);

	for (unsigned i = 0; i < p->n; i++) {
		struct chunk_step n = chunk_step_of(p->step[i]);

		if (i == step || n.reader != s.reader || n.kind != s.kind || (n.from != s.to + 1 && n.to + 1 != s.from))
			continue;
		n.from = n.from < s.from ? n.from : s.from;
		n.to = n.to > s.to ? n.to : s.to;
		p->step[i] = chunk_step_pack(n);
		drop(p, step);
		return true;
	}
	return false;
}

static bool
is_first_of_reader(const struct play *p, unsigned step)
{
	for (unsigned i = 0; i < step; i++)
		if (chunk_step_of(p->step[i]).reader == chunk_step_of(p->step[step]).reader)
			return false;
	return true;
}

bool
chunks_without(const struct play *p, unsigned step, struct play *less)
{
	struct chunk_step s = chunk_step_of(p->step[step]);
	bool lawful = chunks_lawful(p);

	*less = *p;
	if (chunk_readers(p) > 1 && is_first_of_reader(p, step))
		return drop_reader(less, s.reader);
	if (!is_content(s) || !merge(less, step))
		drop(less, step);
	if (lawful)
		set_done(less, s.reader);
	return less->n > 0 && chunks_lawful(less) == lawful;
}

/* ---- plainer ---- */

/* The pieces of a read that is cut behind the blocks of a mask, in their order on the disk. */
static unsigned
pieces_of(unsigned cuts, struct chunk_step *piece)
{
	unsigned n = 0;

	piece[0] = (struct chunk_step){ 0 };
	for (unsigned block = 0; block < CHUNK_BLOCKS; block++) {
		piece[n].to = (uint8_t)block;
		if ((cuts & 1u << block) != 0 && block + 1 < CHUNK_BLOCKS)
			piece[++n] = (struct chunk_step){ .from = (uint8_t)(block + 1) };
	}
	return n + 1;
}

static unsigned
cuts_of(const struct play *p)
{
	unsigned cuts = 0;

	for (unsigned i = 0; i < p->n; i++)
		if (is_content(chunk_step_of(p->step[i])))
			cuts |= 1u << chunk_step_of(p->step[i]).to;
	return cuts & ((1u << (CHUNK_BLOCKS - 1)) - 1);
}

/* The pieces keep their order, and are cut elsewhere. */
static void
cut_elsewhere(struct play *p, unsigned cuts)
{
	struct chunk_step was[CHUNK_BLOCKS], is[CHUNK_BLOCKS];
	unsigned n = pieces_of(cuts_of(p), was);

	pieces_of(cuts, is);
	for (unsigned i = 0; i < p->n; i++) {
		struct chunk_step s = chunk_step_of(p->step[i]);

		for (unsigned k = 0; k < n; k++)
			if (is_content(s) && s.from == was[k].from) {
				s.from = is[k].from;
				s.to = is[k].to;
				p->step[i] = chunk_step_pack(s);
				break;
			}
	}
}

/* An error without an offset, or with a lower one. */
static bool
plainer_error(const struct play *p, unsigned *nth, struct play *plainer)
{
	for (unsigned i = 0; i < p->n; i++) {
		struct chunk_step s = chunk_step_of(p->step[i]);

		for (unsigned k = 0; s.kind == CHUNK_ERROR_AT && k <= s.from; k++) {
			struct chunk_step less = s;

			less.kind = k == 0 ? CHUNK_ERROR : CHUNK_ERROR_AT;
			less.from = less.to = (uint8_t)(k == 0 ? 0 : k - 1);
			*plainer = *p;
			plainer->step[i] = chunk_step_pack(less);
			if (chunks_lawful(plainer) && (*nth)-- == 0)
				return true;
		}
	}
	return false;
}

bool
chunks_plainer(const struct play *p, unsigned nth, struct play *plainer)
{
	unsigned cuts = cuts_of(p);

	if (!chunks_lawful(p))
		return false;
	if (plainer_error(p, &nth, plainer))
		return true;
	if (chunk_readers(p) > 1)
		return false;
	for (unsigned other = 0; other < cuts; other++)
		if (__builtin_popcount(other) == __builtin_popcount(cuts)) {
			*plainer = *p;
			cut_elsewhere(plainer, other);
			if (chunks_lawful(plainer) && nth-- == 0)
				return true;
		}
	return false;
}
