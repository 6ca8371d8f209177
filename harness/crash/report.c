#include "harness/crash/report.h"

#include "harness/crash/points.h"
#include "harness/crash/timeline.h"
#include "harness/filesystem.h"
#include "harness/printable.h"
#include "harness/section.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

SECTION_LIST(writer, struct crash_writer, nbdspec_crash_reports)

/* ---- writing ---- */

static json_t *
text(const char *s)
{
	char *clean = printable_text(s, PRINTABLE_AGAIN);
	json_t *j = json_string(clean);

	free(clean);
	return j;
}

static json_t *
taken(char *s)
{
	json_t *j = text(s);

	free(s);
	return j;
}

/* clang-format off */

static json_t *
about(const struct exploration *e, const char *trace)
{
	const struct explore_options *o = e->options;
	const struct recording *r = e->space->recording;
	char identity[20];

	snprintf(identity, sizeof(identity), "%016" PRIx64, recording_identity(r));
	return json_pack("{ss so ss so ss si sI sI sb sI ss sI si si si}",
			 "version", NBDSPEC_VERSION,
			 "trace", text(trace),
			 "identity", identity,
			 "check", text(o->setup.command),
			 "tear", o->tear.whole ? "write" : "unit",
			 "unit", (int)o->tear.unit,
			 "budget", (json_int_t)o->budget,
			 "seed", (json_int_t)o->seed,
			 "marks", (int)o->marks,
			 "nested", (json_int_t)o->setup.nested,
			 "fs", o->setup.fs != NULL ? o->setup.fs->name : "",
			 "size", (json_int_t)r->size,
			 "commands", (int)r->n_commands,
			 "marks_set", (int)r->n_marks,
			 "crash_points", (int)e->space->n_points);
}

static json_t *
counts(const struct exploration *e)
{
	return json_pack("{sI sI sI sI sI sI sI sI sI sI sI sI}",
			 "met", (json_int_t)e->states,
			 "elsewhere", (json_int_t)e->elsewhere,
			 "resumed", (json_int_t)e->known,
			 "decided", (json_int_t)e->decided,
			 "verified", (json_int_t)e->verified,
			 "contradicted", (json_int_t)e->contradicted,
			 "good", (json_int_t)e->verdicts[VERDICT_GOOD],
			 "bad", (json_int_t)e->verdicts[VERDICT_BAD],
			 "crash", (json_int_t)e->verdicts[VERDICT_CRASH],
			 "hang", (json_int_t)e->verdicts[VERDICT_HANG],
			 "wrote", (json_int_t)e->wrote,
			 "minimising", (json_int_t)e->minimising);
}

static json_t *
failing(const struct exploration *e)
{
	json_t *all = json_array();

	for (size_t i = 0; i < e->n_failing; i++)
		json_array_append_new(all, json_pack("{so ss si ss so sI}",
			"state", taken(difference_text(&e->failing[i].difference)),
			"verdict", state_verdict_name(e->failing[i].result.verdict),
			"number", e->failing[i].result.number,
			"second", e->failing[i].result.second,
			"output", text(e->failing[i].result.output),
			"marks_must", (json_int_t)e->failing[i].must));
	return all;
}

/* Of each that it lacks what lies there, or null. */
static json_t *
which(const struct finding *n)
{
	json_t *all = json_array();

	for (size_t i = 0; i < n->difference.n; i++)
		json_array_append_new(all, n->which != NULL && n->which[i] != NULL ? text(n->which[i]) : json_null());
	return all;
}

/* To be run, and so as it is, where it is text. */
static json_t *
replay(const struct exploration *e, size_t i, const char *trace)
{
	char *line = replay_line(e, i, trace);
	json_t *j = is_utf8(line, strlen(line)) ? json_string(line) : text(line);

	free(line);
	return j;
}

static json_t *
finding(const struct exploration *e, size_t i, struct view *v, const char *trace)
{
	const struct finding *n = &e->findings[i];
	json_t *lines = json_array();
	char *told = NULL, *line, *save = NULL;
	size_t size;
	FILE *f = open_memstream(&told, &size);
	json_t *object;

	if (f == NULL)
		abort();
	print_finding(f, e, i, v, trace);
	fclose(f);
	for (line = strtok_r(told, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save))
		json_array_append_new(lines, text(line));
	free(told);
	object = json_pack("{so ss si ss so sI sI so so so}",
			 "state", taken(difference_text(&n->difference)),
			 "verdict", state_verdict_name(n->result.verdict),
			 "number", n->result.number,
			 "second", n->result.second,
			 "output", text(n->result.output),
			 "marks_must", (json_int_t)n->must,
			 "states", (json_int_t)n->states,
			 "told", lines,
			 "which", which(n),
			 "replay", replay(e, i, trace));
	timeline_add_finding(object, e, i, v);
	return object;
}

json_t *
exploration_object(const struct exploration *e, const char *trace)
{
	json_t *findings = json_array(), *timeline, *report;
	struct view *v = view_new(e->space);

	for (size_t i = 0; i < e->n_findings; i++)
		json_array_append_new(findings, finding(e, i, v, trace));
	timeline = timeline_object(e, v);
	view_free(v);
	report = json_pack("{ss so s[ii] so so so so sI sf sf sb}",
			 "format", REPORT_FORMAT,
			 "exploration", about(e, trace),
			 "shard", (int)e->options->shard + 1, (int)e->options->shards,
			 "states", counts(e),
			 "failing", failing(e),
			 "findings", findings,
			 "timeline", timeline,
			 "unexplained", (json_int_t)e->unexplained,
			 "seconds", e->seconds,
			 "first_failure", e->first_failure,
			 "interrupted", (int)e->interrupted);
	points_add(report, e);
	return report;
}

/* clang-format on */

/* ---- files ---- */

static const struct crash_writer *
writer_named(const char *name)
{
	const struct crash_writer *w;

	for (size_t i = 0; (w = section_sorted(writer_section(), i)) != NULL; i++)
		if (strcmp(w->name, name) == 0)
			return w;
	abort();
}

static bool
write_report(const char *name, const char *path, const json_t *report, char error[512])
{
	const struct crash_writer *writer = writer_named(name);
	FILE *f = fopen(path, "we");
	struct stat st;
	bool ok = f != NULL && writer->write(f, report) && !ferror(f);

	if (f != NULL && fclose(f) != 0)
		ok = false;
	if (!ok)
		snprintf(error, 512, "%.300s: %s", path, strerror(errno));
	/* Half a report is none; what is no file stays. */
	if (!ok && f != NULL && stat(path, &st) == 0 && S_ISREG(st.st_mode))
		unlink(path);
	return ok;
}

bool
report_write_all(const struct report_files *files, const json_t *report, char error[512])
{
	return (files->json == NULL || write_report("json", files->json, report, error)) &&
	       (files->html == NULL || write_report("html", files->html, report, error));
}

static bool
write_json(FILE *f, const json_t *report)
{
	return json_dumpf(report, f, JSON_INDENT(1)) == 0 && fputc('\n', f) != EOF;
}

CRASH_REPORT(json) = {
	.name = "json",
	.write = write_json,
};
