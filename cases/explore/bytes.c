/* Sessions whose bytes are damaged at random, by a seed (nbdspec server --mutate). */
#include "cases/explore/bytes.h"
#include "cases/explore/told.h"
#include "harness/clock.h"
#include "harness/test.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	CHECK_EVERY = 8,   /* runs, for an honest client to come behind */
	RENEW_AFTER = 512, /* runs, for a server whose contents nobody knows any more */
	HISTORY = 256,     /* runs that a finding may need */
	HANGS_ENOUGH = 8,
	LIKE_ENOUGH = 6,
	EACH_TIME = 4,
	WINDOW = 16384,
	TEXT_MOST = 100000, /* of a command line */
};

struct bytes_finding {
	struct inputs shortest;
	struct damage damage;
	bool expected, again;
};

struct explorer {
	struct runner_state r;
	struct mutator m;
	const struct exploration *plan;
	struct exploration_counts *counts;
	unsigned shard, n_hangs;

	uint64_t *history; /* since the server was started */
	size_t n_history;
	struct bytes_finding *findings;
	size_t n_findings;
	struct input input;
};

/* ---- what is known beforehand ---- */

static void
choose_windows(struct bytes_facts *f)
{
	uint64_t length = f->block > WINDOW ? f->block : WINDOW / f->block * f->block;
	uint64_t last = f->size >= f->block ? (f->size / f->block - 1) * f->block : 0;

	/* All around the block that our sessions write to, and the end. */
	f->target = last < 4 * length ? last : length;
	if (last == 0 || f->block > f->maximum)
		return;
	f->window[f->n_windows++] = (struct span){ 0, last < length ? last : length };
	if (last < 4 * length)
		return;
	f->window[f->n_windows++] = (struct span){ length + f->block, length };
	f->window[f->n_windows++] = (struct span){ last + f->block - length, length };
}

static void
learn(struct explorer *x, struct test *t)
{
	struct bytes_facts *f = &x->r.facts;
	struct session *first;

	need_connections(t);
	open_newstyle(t);
	f->handshake_flags = t->s->handshake_flags;
	disconnect(t);
	enter_transmission(t);
	f->by_go = (f->handshake_flags & NBD_FLAG_FIXED_NEWSTYLE) != 0;
	f->size = t->s->size;
	f->flags = t->s->flags;
	f->block = t->s->block.minimum > 512 ? t->s->block.minimum : 512;
	f->maximum = t->s->block.maximum;
	f->name = export_name(t);
	f->writes = may_write(t) && (f->flags & NBD_FLAG_READ_ONLY) == 0;
	first = t->s;
	x->r.alone = !open_beside(t);
	disconnect(t);
	use(t, first);
	disconnect(t);
	choose_windows(f);
	shadow_start_over(&x->r.shadow, f->window, f->n_windows);
}

/* ---- findings ---- */

/* Where it died we say in which phase, as far as that can be seen of what is left. */
static void
attribute(struct damage *d, const struct inputs *s)
{
	static struct token tokens[MOST_TOKENS];
	const struct buf *last = &s->at[s->n - 1].bytes;
	unsigned n = tokenize((struct bytes){ last->at, last->len }, tokens);

	for (unsigned i = 0; i < n && d->harm == HARM_ENDED; i++)
		if (tokens[i].kind == TOKEN_REQUEST)
			d->breach.broken[0] = R(transmission_no_disconnect);
}

static char *
again_text(const struct explorer *x, const struct inputs *s)
{
	const struct mutation *m = &x->plan->mutation;
	char *bytes = inputs_text(s), *command, *text, *options;
	size_t n = 0;

	for (size_t i = 0; i < s->n; i++)
		n += s->at[i].bytes.len;
	if (asprintf(&options, "--mutate-bytes '%s'", bytes) < 0)
		abort();
	command = exploration_again(x->r.t, strlen(options) < TEXT_MOST ? options : "--mutate-bytes '…'");
	free(options);
	options = NULL;
	if (m->bytes == NULL &&
	    asprintf(&options, "; before it was brought down run %" PRIu64 " of --seed %" PRIu64 "%s%s",
	             s->at[s->n - 1].run, x->m.seed, m->corpus_dir != NULL ? " and --corpus " : "",
	             m->corpus_dir != NULL ? m->corpus_dir : "") < 0)
		abort();
	if (asprintf(&text, "%s\n%zu bytes on %zu connection%s%s", command, n, s->n, s->n == 1 ? "" : "s",
	             options != NULL ? options : "") < 0)
		abort();
	free(options);
	free(command);
	free(bytes);
	return text;
}

/* Once more, for the trace. */
static void
show(struct explorer *x, const struct inputs *s, const struct damage *d, bool again)
{
	struct damage now;
	bool same;
	char *text;

	x->r.traced = true;
	same = inputs_harm(&x->r, s, d, true, &now);
	x->r.traced = false;
	if (!same)
		note(x->r.t, "it was so %s, and not again", again ? "before" : "once");
	if (d->harm == HARM_ENDED)
		await_server_end(x->r.t);
	text = again_text(x, s);
	broken_finding(x->r.t, d->breach.broken, d->breach.expected, d->breach.got, text);
}

/* What died has how it did in its name, so that who expects the one is not told of the other as the same. */
static char *
finding_name(const struct inputs *s, const struct damage *d, bool again)
{
	static const char server[] = "the server was ";
	const char *how = strncmp(d->how, server, strlen(server)) == 0 ? d->how + strlen(server) : d->how;
	char *name = again ? inputs_name(s) : strdup("not again"), *text;

	if (name == NULL || asprintf(&text, "%s%s%s", name, *how != '\0' ? ": " : "", how) < 0)
		abort();
	free(name);
	return text;
}

/* Is it known? */
static bool
report(struct explorer *x, const struct inputs *s, const struct damage *d, bool again, bool once)
{
	enum requirement_id r = d->breach.broken[0];
	char *name = finding_name(s, d, again || once);
	struct exploration_told *told = &x->counts->bytes.told;
	bool expected = is_expected(x->r.t, name, r);

	if (once ? is_first_told(told, name, r) : is_to_be_told(x->r.t, told, name, r))
		POINT(x->r.t, "%s", name) {
			if (!once)
				show(x, s, d, again);
			observe(x->r.t, r, "seen once, and not again: expected %s; got %s", d->breach.expected,
			        d->breach.got);
		}
	free(name);
	return expected;
}

/* One that was seen before: dead with the same words, or of the same messages and more. */
static bool
is_explained(const struct explorer *x, const struct inputs *s, const struct damage *d)
{
	unsigned like = 0, expected = 0;
	for (size_t i = 0; i < x->n_findings; i++) {
		const struct bytes_finding *f = &x->findings[i];

		if (!same_damage(&f->damage, d))
			continue;
		if (!f->again || strstr(d->how, ": ") != NULL || inputs_contain(s, &f->shortest))
			return true;
		like++;
		expected += f->expected;
	}
	if (like < LIKE_ENOUGH)
		return false;
	/* Of so many, which may all be one, no more is told; but behind what is known there may be what is not. */
	x->counts->bytes.told.untold += like == expected;
	return true;
}

static void
add_run(struct explorer *x, struct inputs *s, uint64_t k)
{
	struct input i = { 0 };

	mutate(&x->m, k, &i);
	inputs_add(s, &i);
	input_free(&i);
}

/* What comes by chance, now and then, cannot be brought down. */
static bool
comes_each_time(struct explorer *x, const struct damage *d, const struct inputs *s)
{
	struct damage again;
	unsigned times = d->harm == HARM_HANGS ? 1 : EACH_TIME;

	while (times > 0 && inputs_harm(&x->r, s, d, true, &again))
		times--;
	return times == 0;
}

/* The last run by itself; else behind as few of those before it as make it happen. */
static bool
find_runs(struct explorer *x, const struct damage *d, struct inputs *s)
{
	size_t most = can_restart_server(x->r.t) ? x->n_history : 1;

	for (size_t n = 1;; n = 2 * n < most ? 2 * n : most) {
		inputs_free(s);
		for (size_t i = x->n_history - n; i < x->n_history; i++)
			add_run(x, s, x->history[i]);
		if (comes_each_time(x, d, s))
			return true;
		if (n >= most)
			break;
	}
	inputs_free(s);
	add_run(x, s, x->history[x->n_history - 1]);
	return false;
}

static void
keep_finding(struct explorer *x, const struct inputs *s, const struct damage *d, bool expected, bool again)
{
	x->findings = reallocarray(x->findings, x->n_findings + 1, sizeof(*x->findings));
	if (x->findings == NULL)
		abort();
	x->findings[x->n_findings++] = (struct bytes_finding){ *s, *d, expected, again };
}

static void
found(struct explorer *x, const struct damage *seen)
{
	struct damage d = *seen;
	struct inputs s = { 0 };
	bool again, once, expected;

	for (size_t i = x->n_history > CHECK_EVERY ? x->n_history - CHECK_EVERY : 0; i < x->n_history; i++) {
		inputs_free(&s);
		add_run(x, &s, x->history[i]);
		if (is_explained(x, &s, &d)) {
			inputs_free(&s);
			return;
		}
	}
	if (is_enough_told(&x->counts->bytes.told)) {
		x->counts->bytes.told.untold++;
		inputs_free(&s);
		return;
	}
	again = find_runs(x, &d, &s) && shrink(&x->r, &s, &d);
	once = !again && d.harm == HARM_HANGS && can_restart_server(x->r.t);
	if (again)
		attribute(&d, &s);
	expected = report(x, &s, &d, again, once);
	if (once)
		inputs_free(&s);
	else
		keep_finding(x, &s, &d, expected, again);
}

/* ---- one run ---- */

static void
anew(struct explorer *x)
{
	x->n_history = 0;
	start_anew(&x->r);
}

static void
take_damage(struct explorer *x, const struct damage *d)
{
	x->counts->bytes.broken++;
	found(x, d);
	x->n_hangs += d->harm == HARM_HANGS;
	anew(x);
	x->r.gone |= x->n_hangs >= HANGS_ENOUGH;
}

static void
remember(struct explorer *x, uint64_t k)
{
	if (x->n_history == 2 * HISTORY) {
		memmove(x->history, x->history + HISTORY, HISTORY * sizeof(*x->history));
		x->n_history = HISTORY;
	}
	x->history[x->n_history++] = k;
}

static void
keep_shape(struct explorer *x)
{
	const char *dir = x->plan->mutation.new_dir;
	struct bytes stream = { x->input.bytes.at, x->input.bytes.len };
	char error[512];
	bool full;

	if (x->input.manner == MANNER_LEAVE || x->r.last.shape == 0 ||
	    !exploration_claim(x->counts->bytes.shape, EXPLORE_SHAPES_MOST, x->r.last.shape, &full))
		return;
	x->counts->bytes.shapes++;
	if (dir != NULL && !corpus_add(dir, stream, error))
		harness_error(x->r.t, "--corpus-new %s", error);
}

static void
do_run(struct explorer *x, uint64_t k)
{
	struct damage d;
	bool ok, accepted;

	if (x->r.gone) {
		x->counts->bytes.undone++;
		return;
	}
	mutate(&x->m, k, &x->input);
	remember(x, k);
	ok = run_input(&x->r, &x->input, &accepted, &d);
	if (ok)
		keep_shape(x);
	/* Who is not let in has done nothing. */
	x->n_history -= !accepted && x->n_history > 1;
	ok = ok && (x->r.since_start % CHECK_EVERY != 0 || check_honest(&x->r, &x->r.beside, &d));
	x->counts->bytes.done++;
	if (!ok)
		take_damage(x, &d);
	if (x->r.gone || !is_blind(&x->r))
		return;
	x->counts->bytes.unseen++;
	if (x->r.since_start >= RENEW_AFTER && can_restart_server(x->r.t))
		anew(x);
}

/* ---- all of them ---- */

static void
do_runs(struct explorer *x)
{
	const struct mutation *m = &x->plan->mutation;
	uint64_t from = now_us(), nobody = 0;
	struct damage d;

	atomic_compare_exchange_strong(&x->counts->bytes.since_us, &nobody, from);
	x->counts->bytes.planned = m->runs;
	for (uint64_t k = x->shard + 1; m->runs == 0 || k <= m->runs; k += x->plan->shards) {
		if (m->seconds > 0 && (double)(now_us() - from) > m->seconds * 1e6)
			break;
		if (x->r.gone && m->runs == 0)
			break;
		do_run(x, k);
	}
	if (!x->r.gone && x->n_history > 0 && !check_honest(&x->r, &x->r.beside, &d))
		take_damage(x, &d);
}

/* What one finding, or one run, has named. */
static void
do_these(struct explorer *x, struct inputs *s)
{
	struct damage d;

	for (size_t i = 0; i < s->n; i++)
		disarm(&x->r.facts, &s->at[i]);
	x->counts->bytes.done += s->n;
	inputs_harm(&x->r, s, NULL, true, &d);
	if (d.harm == HARM_NONE)
		return;
	x->counts->bytes.broken++;
	attribute(&d, s);
	report(x, s, &d, true, false);
}

static void
do_what_is_named(struct explorer *x)
{
	const struct mutation *m = &x->plan->mutation;
	struct inputs s = { 0 };
	char error[256];

	if (x->shard > 0)
		return;
	if (m->bytes != NULL && !inputs_parse(m->bytes, &s, error))
		harness_error(x->r.t, "--mutate-bytes %s", error);
	if (m->only > 0)
		add_run(x, &s, m->only);
	do_these(x, &s);
	inputs_free(&s);
}

static void
tell_counts(struct explorer *x, uint64_t took_us)
{
	struct exploration_counts *c = x->counts;
	uint64_t n = c->bytes.done;
	size_t size;
	char *text;
	FILE *f = open_memstream(&text, &size);

	if (f == NULL)
		abort();
	fprintf(f,
	        "%" PRIu64 " runs of seed %" PRIu64 " in %.1f s, %.0f a second; from %u sessions, with %u shapes of "
	        "replies, and %" PRIu64 " times an honest client; %" PRIu64 " deviate",
	        n, x->m.seed, (double)took_us / 1e6, (double)n * 1e6 / (double)(took_us + 1), x->m.n_corpus,
	        c->bytes.shapes, c->bytes.checks, c->bytes.broken);
	if (c->bytes.lingered > 0)
		fprintf(f, "; %" PRIu64 " connections were not ended when we had", c->bytes.lingered);
	if (x->r.facts.n_windows > 0 && c->bytes.unseen > 0)
		fprintf(f, "; in %" PRIu64 " the contents were unknown", c->bytes.unseen);
	put_untold(f, &c->bytes.told);
	if (c->bytes.undone > 0)
		fprintf(f, "; not all is done: %" PRIu64 " not, for the server is gone, or hangs all the time",
		        c->bytes.undone);
	fclose(f);
	sum_up(x->r.t, c->bytes.told.untold + c->bytes.undone == 0, text);
	free(text);
}

CASE_MUTATE(explore, bytes,
            "Whatever bytes a client sends, the server serves others, what it answers is well formed, and what no "
            "request has changed is as before",
            R(handshake_no_hard_disconnect), R(transmission_no_disconnect), R(option_gets_reply),
            R(option_data_consumed), R(info_final_reply), R(option_reply_magic), R(option_reply_echoes_option),
            R(option_reply_length), R(each_request_one_reply), R(cookie_echoed), R(simple_reply_magic),
            R(structured_reply_magic), R(simple_reply_required), R(read_reply_structured), R(structured_chunk_length),
            R(data_chunk_in_bounds), R(data_chunk_contents), R(read_returns_data), R(write_stored), R(greeting_magic),
            R(handshake_flags_sent), R(go_enters_transmission))
{
	static struct explorer x;
	uint64_t from = now_us();

	x.r.t = t;
	x.r.link.fd = x.r.beside.fd = -1;
	x.plan = exploration_of(t, &x.shard);
	x.r.counts = x.counts = x.plan->counts;
	x.history = calloc(2 * HISTORY, sizeof(*x.history));
	if (x.history == NULL)
		abort();
	learn(&x, t);
	mutator_start(&x.m, &x.r.facts, &x.plan->mutation.corpus, case_seed(t));
	exploration_begins(t);
	if (!start_anew(&x.r) && (x.r.facts.by_go = false, !start_anew(&x.r)))
		skip(t, "transmission", "an honest client is not let in, or does not find what it has written");
	if (x.plan->mutation.only > 0 || x.plan->mutation.bytes != NULL)
		do_what_is_named(&x);
	else
		do_runs(&x);
	if (++x.counts->bytes.finished == x.plan->shards)
		tell_counts(&x, now_us() - from);
	shadow_free(&x.r.shadow);
}
