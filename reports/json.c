/* One JSON object for programs; docs/json-schema.json describes it. Each result stands on a line of its own. */
#include "reports/report.h"

#include "harness/printable.h"

#include <err.h>
#include <jansson.h>
#include <stdlib.h>

enum { FORMAT = 1 }; /* grows when a reader of the old form would misread the new one */

struct json {
	FILE *f;
	bool any; /* a result was written */
	json_t *stale;
};

/* What says nothing is null, so that a reader need not tell "" from none. */
static json_t *
text_flags(const char *s, unsigned flags)
{
	autofree char *out = printable_text(s, flags);

	return out[0] ? json_string(out) : json_null();
}

static json_t *
text(const char *s)
{
	return text_flags(s, 0);
}

/* clang-format off */

static json_t *
result_object(const struct result *r)
{
	const struct requirement *q = requirement(r->requirement);
	bool none = r->requirement == REQUIREMENT_NONE;

	return json_pack("{so so so ss sb sb so so so so so so so so so so so so so so sI}",
			 "case", text(r->case_id),
			 "point", text(r->point),
			 "title", text(r->title),
			 "verdict", verdict_name(r->verdict),
			 "red", (int)r->red,
			 "experimental", (int)r->experimental,
			 "requirement", text(none ? "" : q->id),
			 "level", text(none ? "" : level_name(q->level)),
			 "binds", text(none ? "" : binds_name(q->binds)),
			 "where", text(none ? "" : q->where),
			 "text", text(none ? "" : q->text),
			 "message", text(r->message),
			 "expected", text(r->expected),
			 "got", text(r->got),
			 "feature", text(r->feature),
			 "transcript", text_flags(r->transcript, PRINTABLE_LINES | PRINTABLE_AGAIN),
			 "again", text_flags(r->again, PRINTABLE_LINES | PRINTABLE_AGAIN),
			 "server", text_flags(r->server, PRINTABLE_LINES),
			 "expectation", text(expectation_name(r->expectation)),
			 "reason", text(r->reason),
			 "duration_us", (json_int_t)r->duration_us);
}

static json_t *
head_object(const struct run_info *info)
{
	return json_pack("{si so so so so sI si sb}",
			 "format", FORMAT,
			 "nbdspec", text(info->version),
			 "command", text(info->command),
			 "target", text(info->target),
			 "suite", text(info->suite),
			 "started", (json_int_t)info->started,
			 "cases", (int)info->n_cases,
			 "strict", (int)info->strict);
}

/* clang-format on */

static json_t *
summary_object(const struct run_summary *s)
{
	json_t *summary = json_object();

	for (int i = 0; i < N_VERDICTS; i++)
		json_object_set_new(summary, verdict_name((enum verdict)i), json_integer(s->count[i]));
	json_object_set_new(summary, "known", json_integer(s->known));
	json_object_set_new(summary, "experimental", json_integer(s->experimental));
	json_object_set_new(summary, "red", json_integer(s->red));
	json_object_set_new(summary, "stale", json_integer(s->stale));
	json_object_set_new(summary, "interrupted", json_boolean(s->interrupted));
	json_object_set_new(summary, "broken", text(s->broken));
	json_object_set_new(summary, "duration_us", json_integer((json_int_t)s->duration_us));
	return summary;
}

/* Writes the value and lets it go. All texts are UTF-8 by now, so what could not be made wants memory. */
static void
put(FILE *f, json_t *value, size_t flags)
{
	if (value == NULL)
		errx(3, "no memory for a JSON report");
	json_dumpf(value, f, flags);
	json_decref(value);
}

static void *
json_open(FILE *f, const struct run_info *info)
{
	struct json *j = report_state(sizeof(*j));

	j->f = f;
	j->stale = json_array();
	putc('{', f);
	put(f, head_object(info), JSON_EMBED);
	fputs(",\n\"results\": [", f);
	return j;
}

static void
json_result(void *state, const struct result *r)
{
	struct json *j = state;

	fputs(j->any ? ",\n" : "\n", j->f);
	j->any = true;
	put(j->f, result_object(r), 0);
	fflush(j->f);
}

static void
json_stale(void *state, const struct stale *s)
{
	struct json *j = state;

	json_array_append_new(j->stale, json_pack("{so si so}", "file", text(s->file), "line", (int)s->line, "pattern",
	                                          text(s->pattern)));
}

static void
json_finish(void *state, const struct run_summary *s)
{
	struct json *j = state;

	fputs("\n],\n\"stale\": ", j->f);
	put(j->f, j->stale, 0);
	fputs(",\n\"summary\": ", j->f);
	put(j->f, summary_object(s), 0);
	fputs("}\n", j->f);
	fflush(j->f);
	free(j);
}

REPORT(json) = {
	.name = "json",
	.help = "one JSON object with all that is known of each result",
	.open = json_open,
	.result = json_result,
	.stale = json_stale,
	.finish = json_finish,
};
