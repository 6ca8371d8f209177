/* The results of an exploration, for people. */
#include "harness/cli.h"
#include "harness/crash/explore.h"
#include "harness/crash/nested.h"
#include "harness/filesystem.h"
#include "harness/printable.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { DURABLE_MOST = 6 };

static void
print_mark(FILE *f, const struct recording *r, uint32_t event)
{
	uint32_t n = 0;
	char *text;

	while (n < r->n_marks && r->marks[n].event < event)
		n++;
	if (n == 0)
		return;
	text = printable(r->marks[n - 1].text.at, r->marks[n - 1].text.len);
	fprintf(f, ", after the mark \"%s\"", text);
	free(text);
}

static void
print_command(FILE *f, const struct recording *r, uint32_t number)
{
	const struct recorded_command *c = &r->commands[number];

	fprintf(f, "%" PRIu32 " %s%s %" PRIu64 "+%" PRIu64, number, recorded_kind_name(c->kind), c->fua ? " FUA" : "",
	        c->offset, c->length);
	print_mark(f, r, c->received);
	fprintf(f, "\n");
}

static void
print_torn(FILE *f, const struct recording *r, const struct lack *l)
{
	if (l->torn != 0) {
		fprintf(f, "  torn:    ");
		print_command(f, r, l->torn);
	}
	fprintf(f, "           %" PRIu64 "+%" PRIu64 " holds ", l->offset, l->length);
	if (l->command == 0)
		fprintf(f, "what was there before all\n");
	else
		print_command(f, r, l->command);
}

static void
print_lost(FILE *f, const struct recording *r, const struct finding *n)
{
	const struct difference *d = &n->difference;

	for (size_t i = 0; i < d->n; i++) {
		const struct lack *l = &d->lacks[i];

		if (l->low != 0) {
			fprintf(f, "  lost:    ");
			print_command(f, r, l->low);
		} else {
			print_torn(f, r, l);
		}
		if (n->which != NULL && n->which[i] != NULL)
			fprintf(f, "           which is: %s\n", n->which[i]);
	}
}

/* What arrived after the first that was lost, and is there all the same. */
static void
print_durable(FILE *f, const struct view *v, uint32_t first)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < v->n_pending; i++) {
		if (!v->pending[i].present || v->pending[i].command <= first)
			continue;
		if (n++ >= DURABLE_MOST)
			continue;
		fprintf(f, "  durable: ");
		print_command(f, v->space->recording, v->pending[i].command);
	}
	if (n > DURABLE_MOST)
		fprintf(f, "  durable: and %u more\n", n - DURABLE_MOST);
}

static void
print_verdict(FILE *f, const struct checked *c)
{
	if (c->verdict == VERDICT_HANG)
		fprintf(f, "the checker hung");
	else if (c->verdict == VERDICT_CRASH)
		fprintf(f, "the checker died of signal %d (%s)", c->number, strsignal(c->number));
	else
		fprintf(f, "the checker exited %d", c->number);
	fprintf(f, "%s%s\n", c->output[0] != '\0' ? ": " : "", c->output);
}

/* Its whole name, with the second cut. */
static char *
state_text(const struct difference *d, const struct checked *result)
{
	char *first = difference_text(d), *state;

	if (asprintf(&state, "%s%s%s", first, result->second[0] != '\0' ? SECOND_WORD : "", result->second) < 0)
		abort();
	free(first);
	return state;
}

char *
replay_line(const struct exploration *e, size_t i, const char *trace)
{
	char *state = state_text(&e->findings[i].difference, &e->findings[i].result);
	const struct filesystem *fs = e->options->setup.fs;
	char *words[] = { (char *)"nbdspec",
		          (char *)"crash",
		          (char *)"replay",
		          (char *)trace,
		          state,
		          (char *)"--check",
		          (char *)e->options->setup.command,
		          fs != NULL ? (char *)"--fs" : NULL,
		          fs != NULL ? (char *)fs->name : NULL,
		          NULL };
	char *line = shell_quote(words);

	free(state);
	return line;
}

void
print_finding(FILE *f, const struct exploration *e, size_t i, struct view *v, const char *trace)
{
	const struct finding *n = &e->findings[i];
	const struct recording *r = e->space->recording;
	char *replay = replay_line(e, i, trace);

	fprintf(f, "\nfinding %zu, %" PRIu64 " state%s: ", i + 1, n->states, n->states == 1 ? "" : "s");
	print_verdict(f, &n->result);
	fprintf(f, "  cut:     when %" PRIu32 " of %" PRIu32 " requests, replies and marks had come", n->difference.at,
	        r->n_events);
	print_mark(f, r, n->difference.at);
	fprintf(f, "\n");
	print_lost(f, r, n);
	if (n->difference.n == 0)
		fprintf(f, "  lost:    nothing: all that was written by then is there\n");
	else if (difference_show(&n->difference, v, NULL))
		print_durable(f, v, difference_first(&n->difference));
	if (n->result.second[0] != '\0')
		fprintf(f, "  then:    a second cut while the checker wrote: %.*s\n",
		        (int)strcspn(n->result.second, "@"), n->result.second);
	fprintf(f, "  replay:  %s\n", replay);
	free(replay);
}

static void
print_recording(FILE *f, const struct exploration *e)
{
	const struct recording *r = e->space->recording;
	uint32_t writes = 0, flushes = 0;

	for (uint32_t i = 1; i <= r->n_commands; i++)
		flushes += r->commands[i].kind == HISTORY_FLUSH;
	writes = r->n_commands - flushes;
	fprintf(f, "recording: %" PRIu32 " writes, %" PRIu32 " flushes, %" PRIu32 " marks; %" PRIu32 " crash points\n",
	        writes, flushes, r->n_marks, e->space->n_points);
}

static void
print_states(FILE *f, const struct exploration *e)
{
	uint64_t checked = 0;
	uint32_t complete = 0;

	for (int v = 0; v < VERDICTS; v++)
		checked += e->verdicts[v];
	for (uint32_t i = 0; i < e->space->n_points; i++)
		complete += e->points[i].complete;
	fprintf(f, "states: %" PRIu64 " checked", checked - e->decided);
	if (e->decided > 0)
		fprintf(f, ", %" PRIu64 " more decided by what the checker reads", e->decided);
	fprintf(f, ", %zu failing", e->n_failing);
	if (e->verdicts[VERDICT_CRASH] + e->verdicts[VERDICT_HANG] > 0)
		fprintf(f, " (%" PRIu64 " hung, %" PRIu64 " crashed)", e->verdicts[VERDICT_HANG],
		        e->verdicts[VERDICT_CRASH]);
	fprintf(f, "; all there are at %" PRIu32 " of %" PRIu32 " points\n", complete, e->space->n_points);
	if (e->verified > 0 && e->contradicted == 0)
		fprintf(f, "verified: %" PRIu64 " of these decisions were checked, and hold\n", e->verified);
	if (e->known > 0)
		fprintf(f, "resumed: %" PRIu64 " of these verdicts were known\n", e->known);
	if (e->elsewhere > 0)
		fprintf(f, "shard %" PRIu32 "/%" PRIu32 ": %" PRIu64 " more states are for the others\n",
		        e->options->shard + 1, e->options->shards, e->elsewhere);
	if (e->wrote > 0)
		fprintf(f, "the checker wrote to the image in %" PRIu64 " checks; undone each time\n", e->wrote);
	fprintf(f, "time: %.1f s, %.0f verdicts per second", e->seconds,
	        e->seconds > 0 ? (double)(checked + e->minimising) / e->seconds : 0);
	if (e->first_failure >= 0)
		fprintf(f, ", first failure after %.2f s", e->first_failure);
	fprintf(f, "\n");
}

void
print_exploration(FILE *f, const struct exploration *e, const char *trace)
{
	struct view *v = view_new(e->space);

	print_recording(f, e);
	print_states(f, e);
	for (size_t i = 0; i < e->n_findings; i++)
		print_finding(f, e, i, v, trace);
	if (e->unexplained > 0)
		fprintf(f, "\n%" PRIu64 " more failing states were not minimised\n", e->unexplained);
	if (e->interrupted)
		fprintf(f, "interrupted: this is what was known by then\n");
	view_free(v);
}
