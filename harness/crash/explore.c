#include "harness/crash/explore.h"

#include "harness/clock.h"
#include "harness/crash/places.h"
#include "harness/crash/seen.h"
#include "harness/crash/trie.h"
#include "harness/crash/verdicts.h"
#include "harness/filesystem.h"
#include "harness/process.h"
#include "harness/progress.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* One that is to be checked after all. */
struct decision {
	uint32_t must;
	uint32_t *words;
	struct checked result;
};

struct explorer {
	struct exploration *e;
	const struct explore_options *o;
	struct view *view;
	struct pool *pool;
	struct seen seen;
	struct verdicts verdicts;
	struct trie *trie; /* NULL without one */
	struct decision *decisions;
	uint64_t random;
	uint64_t started, progressed;
	uint64_t stopped;      /* when a stop was: no verdict came later */
	uint64_t contradicted; /* when the first contradiction came */
	enum pool_wait wait;
	bool failed; /* with --stop-at-first: enough */
	char broken[512];
};

static void *
need(void *memory)
{
	if (memory == NULL)
		abort();
	return memory;
}

/* ---- results ---- */

static double
seconds_since(uint64_t ns)
{
	return (double)(now_ns() - ns) / 1e9;
}

/* Where a verdict comes from. */
enum origin { CHECKED, KNOWN, DECIDED };

static void
note_failing(struct explorer *x, struct pool_job *job, const struct checked *result, enum origin origin)
{
	struct exploration *e = x->e;

	if ((e->n_failing & (e->n_failing - 1)) == 0)
		e->failing =
			need(reallocarray(e->failing, e->n_failing == 0 ? 1 : 2 * e->n_failing, sizeof(*e->failing)));
	e->points[job->words[0]].failing++;
	/* The ladder stands on the view: what the words mean is seen when it is done. */
	e->failing[e->n_failing++] = (struct failing){ .number = job->number,
		                                       .must = job->must,
		                                       .result = *result,
		                                       .ns = now_ns(),
		                                       .known = origin == KNOWN,
		                                       .decided = origin == DECIDED,
		                                       .words = job->words };
	job->words = NULL;
	if (e->first_failure < 0)
		e->first_failure = seconds_since(x->started);
	x->failed = true;
}

static void
count_result(struct explorer *x, struct pool_job *job, const struct checked *result, enum origin origin)
{
	x->e->verdicts[result->verdict]++;
	x->e->points[job->words[0]].judged++;
	x->e->wrote += result->wrote;
	if (result->verdict == VERDICT_BROKEN)
		snprintf(x->broken, sizeof(x->broken), "the checker cannot be run: %s", result->output);
	else if (result->verdict != VERDICT_GOOD)
		note_failing(x, job, result, origin);
}

static void
note_contradiction(struct explorer *x)
{
	if (x->e->contradicted++ == 0)
		x->contradicted = now_ns();
}

static void
take_result(void *arg, struct pool_job *job, const struct checked *result)
{
	struct explorer *x = arg;
	/* How long it takes is nothing that is read, and with another --timeout it may be enough. */
	bool lasting = result->verdict != VERDICT_BROKEN && result->verdict != VERDICT_HANG;
	struct trie_path added;

	if (lasting)
		verdicts_add(&x->verdicts, job->key, result);
	if (x->trie != NULL && lasting) {
		if (!trie_add(x->trie, job->must, job->touched, job->n_touched, result, &added))
			note_contradiction(x);
		verdicts_add_path(&x->verdicts, &added);
	}
	count_result(x, job, result, CHECKED);
}

/* ---- states ---- */

static void
print_progress(struct explorer *x)
{
	const struct exploration *e = x->e;
	uint64_t done = e->verdicts[VERDICT_GOOD] + e->n_failing;
	char point[40], pace[PROGRESS_MAX_TEXT];

	if (!x->o->progress || now_ns() - x->progressed < UINT64_C(1000000) * PROGRESS_MS)
		return;
	x->progressed = now_ns();
	snprintf(point, sizeof(point), "point %" PRIu32 " of %" PRIu32 ", ", x->view->space->n_points - x->view->point,
	         x->view->space->n_points);
	fprintf(stderr, "\r%" PRIu64 " verdicts, %zu failing, %s\033[K", done, e->n_failing,
	        progress_pace(pace, done, x->o->budget / x->o->shards, seconds_since(x->started), point));
}

static struct hash
with_marks(struct hash h, uint32_t must)
{
	h.low ^= (must + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15);
	return h;
}

/* Each has the same chance, though nobody knows how many there will be. */
static void
sample_decision(struct explorer *x, const uint32_t *words, uint32_t n, uint32_t must, const struct checked *result)
{
	uint64_t at = x->e->decided;
	struct decision *d;

	if (x->o->verify == 0)
		return;
	x->random = (x->random ^ at) * UINT64_C(0xd1342543de82ef95) + 1;
	if (at >= x->o->verify)
		at = (x->random >> 11) % (at + 1);
	if (at >= x->o->verify)
		return;
	d = &x->decisions[at];
	free(d->words);
	*d = (struct decision){ .must = must, .result = *result, .words = need(malloc(n * sizeof(*words))) };
	memcpy(d->words, words, n * sizeof(*words));
}

static void
decide(struct explorer *x, const struct view *v, uint32_t must)
{
	struct hash key = with_marks(v->hash, must);
	const struct checked *known = verdicts_find(&x->verdicts, key);
	const struct checked *follows = known == NULL && x->trie != NULL ? trie_find(x->trie, must, v) : NULL;
	struct pool_job job = { .number = x->e->states, .key = key, .must = must };
	uint32_t n;

	if (known == NULL && follows == NULL) {
		x->wait = pool_give(x->pool, v, job.number, key, must);
		return;
	}
	job.words = view_save(v, &n);
	if (known != NULL) {
		x->e->known++;
	} else {
		verdicts_add(&x->verdicts, key, follows);
		sample_decision(x, job.words, n, must, follows);
		x->e->decided++;
	}
	count_result(x, &job, known != NULL ? known : follows, known != NULL ? KNOWN : DECIDED);
	free(job.words);
	if (x->e->states % 64 == 0)
		x->wait = pool_poll(x->pool);
}

/* Each image once; with --marks, once for each number that must be visible. */
static enum offered
offer(void *arg, const struct view *v)
{
	struct explorer *x = arg;
	uint32_t must = v->space->points[v->point].must;

	if (!seen_put(&x->seen, x->o->marks ? with_marks(v->hash, must) : v->hash))
		return STATE_SEEN;
	x->e->states++;
	x->e->points[v->point].states++;
	if (v->hash.high % x->o->shards != x->o->shard) {
		x->e->elsewhere++;
		x->e->points[v->point].judged++;
		return STATE_NEW;
	}
	decide(x, v, must);
	print_progress(x);
	if (x->wait != POOL_DONE || x->broken[0] != '\0' || (x->failed && x->o->stop_at_first))
		return STATE_STOP;
	return STATE_NEW;
}

/* How many states each point gets of the budget. */
static uint64_t *
share_budget(struct explorer *x)
{
	const struct space *s = x->view->space;
	uint64_t *quota = need(calloc(s->n_points + 1u, sizeof(*quota)));

	for (uint32_t point = s->n_points; point-- > 0;) {
		view_go(x->view, point);
		quota[point] = view_count(x->view, x->o->budget);
		x->e->points[point].pending = x->view->n_pending;
	}
	ladder_share(quota, s->n_points, x->o->budget);
	return quota;
}

/* What a point has left over, since its states were met before, goes to the ones before it. */
static void
go_through_points(struct explorer *x)
{
	uint64_t *quota = share_budget(x), spare = 0;
	bool stopped = false;

	for (uint32_t point = x->view->space->n_points; point-- > 0 && !stopped;) {
		struct climb climb;

		view_go(x->view, point);
		climb = ladder_climb(x->view, quota[point] + spare, x->o->seed, offer, x);
		spare = quota[point] + spare - climb.found;
		stopped = climb.stopped;
		x->e->points[point].complete = climb.complete;
		x->e->reached = stopped ? point + 1 : point;
	}
	free(quota);
}

/* ---- one state after the other ---- */

struct asker {
	struct pool *pool;
	struct view *view;
	struct checked *result;
	enum pool_wait wait;
};

static void
take_answer(void *arg, struct pool_job *job, const struct checked *result)
{
	struct asker *a = arg;

	(void)job;
	*a->result = *result;
}

/* What the view shows. */
static bool
check_shown(struct asker *a, uint32_t must, struct checked *result)
{
	a->result = result;
	a->wait = pool_give(a->pool, a->view, 0, a->view->hash, must);
	if (a->wait == POOL_DONE)
		a->wait = pool_drain(a->pool);
	return a->wait == POOL_DONE;
}

bool
check_again(struct asker *a, const struct difference *d, uint32_t must, struct checked *result)
{
	return a->wait == POOL_DONE && difference_show(d, a->view, NULL) && check_shown(a, must, result) &&
	       result->verdict != VERDICT_BROKEN;
}

bool
answers_ended(const struct asker *a)
{
	return a->wait != POOL_DONE;
}

/* Decisions are checked after all. */
static void
verify(struct explorer *x, struct asker *a)
{
	for (uint32_t i = 0; i < x->o->verify && x->decisions[i].words != NULL; i++) {
		const struct decision *d = &x->decisions[i];
		struct checked again = { 0 };

		view_load(x->view, d->words);
		if (!check_shown(a, d->must, &again))
			return;
		x->e->verified++;
		if (again.verdict != d->result.verdict || again.number != d->result.number)
			note_contradiction(x);
	}
}

static int
compare_failing(const void *a, const void *b)
{
	const struct failing *x = a, *y = b;

	return x->number < y->number ? -1 : x->number > y->number;
}

static void
name_failing(struct explorer *x)
{
	if (x->e->n_failing > 0)
		qsort(x->e->failing, x->e->n_failing, sizeof(*x->e->failing), compare_failing);
	for (size_t i = 0; i < x->e->n_failing; i++) {
		struct failing *f = &x->e->failing[i];

		view_load(x->view, f->words);
		f->difference = difference_of(x->view);
	}
}

static void
explain(struct explorer *x)
{
	struct asker a = { .pool = x->pool, .view = x->view };

	pool_tell(x->pool, take_answer, &a);
	verify(x, &a);
	minimise(x->e, &a);
	x->wait = a.wait;
}

/* ---- a stop ---- */

/* Who stops us may have stopped our checkers just before: that these failed then says nothing of their states. */
static bool
is_sure(const struct explorer *x, uint64_t ns)
{
	return ns + VERDICT_HELD_NS <= x->stopped;
}

static void
take_back_failing(struct exploration *e, struct failing *f)
{
	e->verdicts[f->result.verdict]--;
	e->wrote -= f->result.wrote;
	e->decided -= f->decided;
	e->points[f->words[0]].failing--;
	e->points[f->words[0]].judged--;
	free(f->words);
	difference_free(&f->difference);
}

static void
take_back(struct explorer *x)
{
	struct exploration *e = x->e;
	size_t failing = 0, findings = 0;
	uint64_t first = UINT64_MAX;

	for (size_t i = 0; i < e->n_failing; i++) {
		if (e->failing[i].known || is_sure(x, e->failing[i].ns)) {
			first = e->failing[i].ns < first ? e->failing[i].ns : first;
			e->failing[failing++] = e->failing[i];
		} else {
			take_back_failing(e, &e->failing[i]);
		}
	}
	e->n_failing = failing;
	e->first_failure = failing > 0 ? (double)(first - x->started) / 1e9 : -1;
	for (size_t i = 0; i < e->n_findings; i++) {
		if (is_sure(x, e->findings[i].ns))
			e->findings[findings++] = e->findings[i];
		else
			difference_free(&e->findings[i].difference);
	}
	e->n_findings = findings;
	if (!is_sure(x, x->contradicted))
		e->contradicted = 0;
}

/* What was met at one point without a verdict may be a state of those before it, too. */
static void
keep_judged(struct exploration *e)
{
	uint32_t end = e->space->n_points;

	while (end > e->reached && e->points[end - 1].judged == e->points[end - 1].states)
		end--;
	for (uint32_t point = 0; point < end; point++)
		e->points[point].complete = false;
	e->reached = end;
}

static void
note_stop(struct explorer *x)
{
	if (x->wait != POOL_DONE && x->stopped == 0)
		x->stopped = now_ns();
}

/* ---- all of it ---- */

static void
write_verdicts(void *arg)
{
	struct explorer *x = arg;

	verdicts_write(&x->verdicts);
}

static bool
run(struct explorer *x, char error[512])
{
	struct exploration *e = x->e;

	x->pool = pool_new(e->space, &x->o->setup, x->o->jobs, take_result, x, error);
	if (x->pool == NULL)
		return false;
	pool_while_waiting(x->pool, VERDICT_HELD_MS, write_verdicts, x);
	go_through_points(x);
	if (x->wait == POOL_DONE)
		x->wait = pool_drain(x->pool);
	if (x->o->progress)
		fprintf(stderr, "\r\033[K");
	note_stop(x);
	name_failing(x);
	if (x->wait == POOL_DONE && x->broken[0] == '\0')
		explain(x);
	note_stop(x);
	/* Who stops us may have stopped those first. */
	if (x->wait == POOL_LOST && process_wait(-1, VERDICT_HELD_MS) == PROCESS_INTERRUPTED)
		x->wait = POOL_INTERRUPTED;
	if (x->wait == POOL_INTERRUPTED) {
		take_back(x);
		keep_judged(e);
	}
	count_states(e);
	e->interrupted = x->wait == POOL_INTERRUPTED;
	e->seconds = seconds_since(x->started);
	if (x->wait == POOL_LOST)
		snprintf(error, 512,
		         "a process that checks has died; is there memory for %u images of %" PRIu64 " bytes?",
		         x->o->jobs, e->space->recording->size);
	else if (x->broken[0] != '\0')
		snprintf(error, 512, "%.500s", x->broken);
	return x->wait != POOL_LOST && x->broken[0] == '\0';
}

/* Verdicts are of images by the cells that the profile cuts, and of what checks them. */
static bool
open_verdicts(struct explorer *x, char error[512])
{
	const struct explore_options *o = x->o;
	char *what;
	bool ok;

	if (o->resume == NULL)
		return true;
	if (asprintf(&what,
	             "nbdspec crash verdicts 3 of %016" PRIx64 " tear %s%" PRIu32 " fs %s nested %" PRIu64 " check %s",
	             recording_identity(x->e->space->recording), o->tear.whole ? "write" : "", o->tear.unit,
	             o->setup.fs != NULL ? o->setup.fs->name : "none", o->setup.nested, o->setup.command) < 0)
		abort();
	for (char *at = what; *at != '\0'; at++)
		*at = *at == '\n' ? ' ' : *at;
	ok = verdicts_open(&x->verdicts, x->trie, o->resume, what, error);
	free(what);
	return ok;
}

bool
explore(struct exploration *e, const struct explore_options *o, const struct space *s, char error[512])
{
	struct explorer x = { .e = e, .o = o, .started = now_ns() };
	bool ok;

	*e = (struct exploration){ .options = o, .space = s, .first_failure = -1 };
	e->points = need(calloc(s->n_points + 1u, sizeof(*e->points)));
	if (!seen_start(&x.seen, o->budget)) {
		snprintf(error, 512, "no memory for %" PRIu64 " states; give a smaller --budget", o->budget);
		return false;
	}
	x.view = view_new(s);
	x.trie = o->trie && strstr(o->setup.command, "{uri}") != NULL && o->setup.nested == 0 ? trie_new(s) : NULL;
	x.decisions = need(calloc(o->verify + 1u, sizeof(*x.decisions)));
	ok = open_verdicts(&x, error) && run(&x, error);
	pool_free(x.pool);
	if (ok)
		name_places(e, x.view);
	if (!verdicts_close(&x.verdicts, x.wait == POOL_DONE ? UINT64_MAX : x.stopped - VERDICT_HELD_NS) && ok) {
		snprintf(error, 512, "%.300s: not all verdicts could be written", o->resume);
		ok = false;
	}
	for (uint32_t i = 0; i < o->verify; i++)
		free(x.decisions[i].words);
	free(x.decisions);
	trie_free(x.trie);
	view_free(x.view);
	seen_free(&x.seen);
	return ok;
}

void
exploration_free(struct exploration *e)
{
	for (size_t i = 0; i < e->n_failing; i++) {
		free(e->failing[i].words);
		difference_free(&e->failing[i].difference);
	}
	for (size_t i = 0; i < e->n_findings; i++) {
		for (size_t k = 0; e->findings[i].which != NULL && k < e->findings[i].difference.n; k++)
			free(e->findings[i].which[k]);
		free(e->findings[i].which);
		difference_free(&e->findings[i].difference);
	}
	free(e->failing);
	free(e->findings);
	free(e->points);
}
