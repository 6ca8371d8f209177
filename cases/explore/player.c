/* What is found when clients are explored: brought down, told once, and counted. */
#include "cases/explore/player_private.h"

#include "cases/explore/told.h"
#include "harness/clock.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HISTORY_MOST = 4096, HISTORY_TRIED = 1024, STUCK_ENOUGH = 16, ALIKE_ENOUGH = 3 };

struct scene {
	struct play *play;
	size_t n;
};

struct finding {
	struct scene shortest;
	struct play_breach breach;
	bool stuck;     /* what contains it is not played */
	unsigned alike; /* so many others were stuck in it: then nothing like it is */
	bool once;      /* and not again, which may be chance: it accuses nobody, and explains nothing */
	bool again;     /* it was seen a second time */
};

struct player player;

static const struct stage *stage;
static const struct exploration *plan;
static struct exploration_tally *tally;
static struct exploration_pace *pace;
static unsigned shard, n_stuck;
static uint64_t began_us;
static bool gone, showing;
static struct finding *findings;
static size_t n_findings;
static struct play history[HISTORY_MOST]; /* since the client was started */
static size_t n_history;

/* ---- names ---- */

static void
put_play(FILE *f, const struct play *p)
{
	fputs(stage->ways[p->way], f);
	for (unsigned i = 0; i < p->n; i++) {
		putc(',', f);
		stage->put_step(f, p->step[i]);
	}
}

static char *
scene_text(const struct scene *s)
{
	size_t size;
	char *text;
	FILE *f = open_memstream(&text, &size);

	if (f == NULL)
		abort();
	for (size_t i = 0; i < s->n; i++) {
		fputs(i > 0 ? "; " : "", f);
		put_play(f, &s->play[i]);
	}
	fclose(f);
	return text;
}

static bool
parse_way(const char *word, size_t len, struct play *p)
{
	for (p->way = 0; stage->ways[p->way] != NULL; p->way++)
		if (strlen(stage->ways[p->way]) == len && strncmp(stage->ways[p->way], word, len) == 0)
			return true;
	return false;
}

static bool
parse_play(const char *text, size_t len, struct play *p)
{
	const char *end = text + len;
	size_t word;
	bool good;

	*p = (struct play){ 0 };
	text += strspn(text, " ");
	word = strcspn(text, ",; ");
	good = parse_way(text, word, p);
	for (text += word; good && text < end && *text == ','; text += word) {
		text++;
		word = strcspn(text, ",; ");
		good = p->n < PLAY_STEPS && stage->parse_step(text, word, &p->step[p->n++]);
	}
	return good && text + strspn(text, " ") >= end;
}

static void
parse_scene(const char *text, struct scene *s)
{
	*s = (struct scene){ 0 };
	for (;;) {
		size_t len = strcspn(text, ";");

		s->play = reallocarray(s->play, s->n + 1, sizeof(*s->play));
		if (s->play == NULL)
			abort();
		if (!parse_play(text, len, &s->play[s->n++]))
			harness_error(player.t, "--explore-sequence: '%.*s' is no sequence; %s is one", (int)len, text,
			              stage->example);
		if (text[len] == '\0')
			return;
		text += len + 1;
	}
}

/* ---- performing ---- */

/* What nobody is shown is forgotten: there may be millions. */
static void
forget_trace(off_t from)
{
	struct trace *trace = client_trace(player.d != NULL ? player.d->client : player.h->client);

	if (showing)
		return;
	if (ftruncate(trace->fd, from) != 0)
		harness_error(player.t, "cannot shorten the trace");
	if (player.d != NULL)
		player.d->from = from;
}

static void
perform(const struct play *p)
{
	off_t from = subject_mark();

	if (n_history == HISTORY_MOST) {
		n_history = HISTORY_TRIED;
		memmove(history, history + HISTORY_MOST - HISTORY_TRIED, HISTORY_TRIED * sizeof(*history));
	}
	history[n_history++] = *p;
	player.n_breaches = 0;
	player.stuck = player.unlawful = false;
	stage->perform(p);
	forget_trace(from);
}

void
player_renew(void)
{
	n_history = 0;
	subject_renew();
	stage->renewed();
}

static bool
same_breach(const struct play_breach *a, const struct play_breach *b)
{
	return a->broken[0] == b->broken[0] && strcmp(a->expected, b->expected) == 0;
}

static const struct play_breach *
breach_again(const struct play_breach *b)
{
	for (unsigned i = 0; i < player.n_breaches; i++)
		if (same_breach(&subject_breaches[i], b))
			return &subject_breaches[i];
	return NULL;
}

/* On a client that is started anew: does the last play of it break the same? */
static bool
scene_breaks(const struct scene *s, const struct play_breach *b)
{
	player_renew();
	for (size_t i = 0; i < s->n; i++) {
		perform(&s->play[i]);
		if (i + 1 < s->n && player.stuck)
			player_renew();
	}
	return breach_again(b) != NULL;
}

/* ---- bringing it down ---- */

static struct scene
scene_of(const struct play *p, size_t n)
{
	struct scene s = { calloc(n + 1, sizeof(*p)), n };

	if (s.play == NULL)
		abort();
	memcpy(s.play, p, n * sizeof(*p));
	return s;
}

/* Where it does not break by itself, it does behind what came before: as little of that as breaks it. */
static bool
find_scene(const struct play *p, const struct play_breach *b, struct scene *s)
{
	size_t n = n_history - 1 < HISTORY_TRIED ? n_history - 1 : HISTORY_TRIED;
	struct scene before = scene_of(history + n_history - 1 - n, n);
	bool breaks;

	*s = scene_of(p, 1);
	breaks = scene_breaks(s, b);
	for (size_t k = 1; !breaks && player.d != NULL && !player.stuck && k < 2 * n; k *= 2) {
		size_t some = k < n ? k : n;

		free(s->play);
		*s = scene_of(before.play + n - some, some);
		s->play[s->n++] = *p;
		breaks = scene_breaks(s, b);
	}
	free(before.play);
	return breaks;
}

static void
drop_plays(struct scene *s, const struct play_breach *b)
{
	for (size_t part = s->n / 2; part > 0; part /= 2)
		for (size_t i = 0; i + part < s->n;) {
			struct scene less = scene_of(s->play, s->n);

			memmove(less.play + i, less.play + i + part, (less.n - i - part) * sizeof(*less.play));
			less.n -= part;
			if (scene_breaks(&less, b)) {
				free(s->play);
				*s = less;
			} else {
				free(less.play);
				i += part;
			}
		}
}

static bool
play_without(const struct play *p, unsigned step, struct play *less)
{
	if (stage->without != NULL)
		return stage->without(p, step, less);
	*less = *p;
	memmove(less->step + step, less->step + step + 1, (p->n - step - 1u) * sizeof(p->step[0]));
	less->step[--less->n] = 0;
	return true;
}

static void
drop_steps(struct scene *s, size_t i, const struct play_breach *b)
{
	for (unsigned k = 0; k < s->play[i].n;) {
		struct play was = s->play[i];

		if (!play_without(&was, k, &s->play[i]) || !scene_breaks(s, b)) {
			s->play[i] = was;
			k++;
		}
	}
}

static void
make_plain(struct scene *s, size_t i, const struct play_breach *b)
{
	struct play was = s->play[i];

	for (unsigned n = 0; stage->plainer(&was, n, &s->play[i]); n++)
		if (scene_breaks(s, b)) {
			was = s->play[i];
			n = UINT_MAX;
		}
	s->play[i] = was;
}

static struct finding *
found(const struct play *p, const struct play_breach *b)
{
	struct finding f = { .breach = *b, .stuck = player.stuck };

	f.again = find_scene(p, b, &f.shortest);
	if (!f.again) {
		free(f.shortest.play);
		f.shortest = scene_of(p, 1);
	} else {
		drop_plays(&f.shortest, b);
		for (size_t i = 0; i < f.shortest.n; i++)
			drop_steps(&f.shortest, i, b);
		for (size_t i = 0; i < f.shortest.n && !f.stuck; i++)
			make_plain(&f.shortest, i, b);
	}
	/* What a command does may hang on how its threads and connections come about. */
	f.once = !f.again && (b->silent || player.d == NULL);
	f.stuck &= !f.once;
	findings = reallocarray(findings, n_findings + 1, sizeof(*findings));
	if (findings == NULL)
		abort();
	findings[n_findings] = f;
	return &findings[n_findings++];
}

/* ---- known before ---- */

static const struct play *
last_of(const struct finding *f)
{
	return &f->shortest.play[f->shortest.n - 1];
}

/* Of what takes several plays the first is not looked for. */
static bool
is_explained(const struct play *p, const struct play_breach *b)
{
	for (size_t i = 0; i < n_findings; i++) {
		struct finding *f = &findings[i];

		if (f->once || !same_breach(&f->breach, b) ||
		    (f->shortest.n == 1 && !stage->contains(p, last_of(f), true)))
			continue;
		f->alike += player.stuck;
		return true;
	}
	return false;
}

enum requirement_id
player_known(const struct play *p, enum requirement_id otherwise)
{
	for (size_t i = 0; i < n_findings; i++) {
		const struct finding *f = &findings[i];

		if (!f->once && f->shortest.n == 1 && last_of(f)->n < p->n && stage->contains(p, last_of(f), true))
			return f->breach.broken[0];
	}
	return otherwise;
}

static bool
is_better_not_played(const struct play *p)
{
	for (size_t i = 0; i < n_findings; i++) {
		const struct finding *f = &findings[i];

		if (f->stuck && f->shortest.n == 1 && stage->contains(p, last_of(f), f->alike >= ALIKE_ENOUGH))
			return true;
	}
	return false;
}

/* ---- telling ---- */

static void
show(const struct finding *f, const char *names)
{
	const struct play_breach *b;
	char *options, *again;

	showing = true;
	b = scene_breaks(&f->shortest, &f->breach) ? breach_again(&f->breach) : NULL;
	showing = false;
	if (b == NULL) {
		b = &f->breach;
		note(player.t, "it was broken %s, and not again", f->again ? "before" : "once");
	}
	if (asprintf(&options, "--case %s --explore-sequence '%s'", stage->case_id, names) < 0)
		abort();
	again = exploration_again(player.t, options);
	broken_finding(player.t, b->broken, b->expected, b->got, again);
}

static void
report(const struct finding *f)
{
	char *names = scene_text(&f->shortest);

	if (!f->once && is_to_be_told(player.t, &tally->told, names, f->breach.broken[0]))
		POINT(player.t, "%s", names)
			show(f, names);
	if (f->once)
		POINT(player.t, "%s", names)
			observe(player.t, f->breach.broken[0], "seen once, and not again: expected %s; got %s",
			        f->breach.expected, f->breach.got);
	showing = false;
	free(names);
}

static void
take_breaches(const struct play *p)
{
	struct play_breach breach[PLAY_BREACHES];
	struct play before[HISTORY_MOST];
	unsigned n = player.n_breaches;
	size_t n_before = n_history;
	bool stuck = player.stuck, disturbed = stuck;

	memcpy(breach, subject_breaches, sizeof(breach));
	memcpy(before, history, n_history * sizeof(*history));
	for (unsigned i = 0; i < n; i++) {
		if (is_explained(p, &breach[i]))
			continue;
		memcpy(history, before, n_before * sizeof(*history));
		n_history = n_before;
		player.stuck = stuck;
		if (is_enough_told(&tally->told)) {
			tally->told.untold++;
			continue;
		}
		report(found(p, &breach[i]));
		disturbed = true;
	}
	player.stuck = stuck;
	player.n_breaches = n;
	n_stuck += stuck;
	gone = n_stuck >= STUCK_ENOUGH;
	if (disturbed && !gone)
		player_renew();
}

void
player_take(const struct play *p)
{
	player.n_breaches = 0;
	player.stuck = false;
	if (gone || is_better_not_played(p)) {
		*(gone ? &tally->unwalked : &tally->skipped) += 1;
		pace->done++;
		player.stuck = true;
		return;
	}
	tally->walked++;
	pace->done++;
	perform(p);
	if (player.n_breaches == 0)
		return;
	tally->broken++;
	take_breaches(p);
}

bool
player_takes_first(const struct play *p)
{
	bool good;

	if (shard == 0) {
		player_take(p);
		return player.n_breaches == 0;
	}
	perform(p);
	good = player.n_breaches == 0;
	if (!good)
		player_renew();
	return good;
}

/* ---- beginning and end ---- */

void
player_begin(struct test *t, const struct stage *s, struct exploration_tally *counts, const struct script *script)
{
	stage = s;
	tally = counts;
	player.t = t;
	plan = exploration_of(t, &shard);
	exploration_begins(t);
	subject_start(script, s->owed);
	player_renew();
	began_us = now_us();
	pace = exploration_pace(t, "sequences", 0);
}

bool
player_takes_sequence(void)
{
	struct play_breach breach[PLAY_BREACHES];
	struct finding f = { .again = true };
	unsigned n;

	if (plan->sequence == NULL)
		return false;
	if (shard != 0)
		return true;
	parse_scene(plan->sequence, &f.shortest);
	player_renew();
	for (size_t i = 0; i < f.shortest.n; i++)
		perform(&f.shortest.play[i]);
	tally->walked += f.shortest.n;
	n = player.n_breaches;
	tally->broken += n > 0;
	memcpy(breach, subject_breaches, sizeof(breach));
	for (unsigned i = 0; i < n; i++) {
		f.breach = breach[i];
		report(&f);
	}
	return true;
}

bool
player_is_ours(uint64_t n)
{
	return n % plan->shards == shard;
}

void
player_plans(uint64_t more)
{
	pace->planned += more;
}

/* What was not seen may be anything. */
void
player_ends(const char *what)
{
	double seconds = (double)(now_us() - began_us) / 1e6;
	size_t size;
	char *text;
	FILE *f;

	if (++tally->finished != plan->shards)
		return;
	f = open_memstream(&text, &size);
	if (f == NULL)
		abort();
	fprintf(f, "%" PRIu64 " %s in %.1f s, %.0f a second; %" PRIu64 " of them deviate", tally->walked, what, seconds,
	        (double)tally->walked / seconds, tally->broken);
	if (tally->skipped > 0)
		fprintf(f, ", %" PRIu64 " not played, for the client hangs or dies in what they contain",
		        tally->skipped);
	put_untold(f, &tally->told);
	if (tally->unwalked > 0)
		fprintf(f, "; not all is done: %" PRIu64 " not played, for the client hangs or dies all the time",
		        tally->unwalked);
	fclose(f);
	sum_up(player.t, tally->told.untold == 0 && tally->unwalked == 0, text);
	free(text);
}
