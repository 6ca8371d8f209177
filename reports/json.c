/* One JSON object for programs; docs/json-schema.json describes it. Each result stands on a line of its own. */
#include "reports/json.h"

#include "harness/printable.h"

#include <err.h>
#include <stdlib.h>

struct json {
	FILE *f;
	bool brief;
	bool any; /* a result was written */
	json_t *stale, *open, *catalogue;
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

/* The names of those up to NONE, at most `most`. */
static json_t *
names_of(const enum requirement_id *list, size_t most)
{
	json_t *names = json_array();

	for (size_t i = 0; list != NULL && i < most && list[i] != REQUIREMENT_NONE; i++)
		json_array_append_new(names, json_string(requirement(list[i])->id));
	return names;
}

/* clang-format off */

static json_t *
result_object(const struct result *r)
{
	const struct requirement *q = requirement(r->requirement);
	bool none = r->requirement == REQUIREMENT_NONE;

	return json_pack("{so so so ss sb sb so so so so so so so so so so so so so so so sI}",
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
			 "also", names_of(r->also, ALSO_MOST),
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
shard_object(const struct run_shard *s)
{
	return s == NULL ? json_null()
	                 : json_pack("{si si si so}",
	                             "number", (int)s->number,
	                             "of", (int)s->of,
	                             "cases", (int)s->cases,
	                             "how", text_flags(s->how, PRINTABLE_AGAIN));
}

static json_t *
head_object(const struct run_info *info)
{
	return json_pack("{si so s{ss ss} so so so so sI si sb so so}",
			 "format", JSON_FORMAT,
			 "nbdspec", text(info->version),
			 "protocol",
			 "text", PROTOCOL_COMMIT,
			 "extension", EXTENSION_COMMIT,
			 "command", text(info->command),
			 "target", text(info->target),
			 "suite", text(info->suite),
			 "again", text_flags(info->again, PRINTABLE_LINES | PRINTABLE_AGAIN),
			 "started", (json_int_t)info->started,
			 "cases", (int)info->n_cases,
			 "strict", (int)info->strict,
			 "expect", text(info->expect),
			 "shard", shard_object(info->shard));
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

void
json_put(FILE *f, json_t *value, size_t flags)
{
	if (value == NULL)
		errx(3, "no memory for a JSON report");
	json_dumpf(value, f, flags);
	json_decref(value);
}

/* What is said of each case once, though it may have many results. */
static void
remember_case(struct json *j, const struct result *r)
{
	autofree char *id = printable_string(r->case_id);

	if (json_object_get(j->catalogue, id) == NULL)
		json_object_set_new(
			j->catalogue, id,
			json_pack("{so so}", "title", text(r->title), "cites", names_of(r->cites, N_REQUIREMENTS)));
}

void
json_make_brief(json_t *result)
{
	static const char *const said_elsewhere[] = { "title", "level", "binds", "where", "text" };
	const char *name;
	json_t *value;
	void *next;

	for (size_t i = 0; i < sizeof(said_elsewhere) / sizeof(said_elsewhere[0]); i++)
		json_object_del(result, said_elsewhere[i]);
	json_object_foreach_safe(result, next, name, value)
	{
		if (json_is_null(value) || json_is_false(value) ||
		    (json_is_array(value) && json_array_size(value) == 0))
			json_object_del(result, name);
	}
}

void *
json_begin(FILE *f, const struct run_info *info, bool brief)
{
	struct json *j = report_state(sizeof(*j));

	j->f = f;
	j->brief = brief;
	j->stale = json_array();
	j->open = json_array();
	j->catalogue = json_object();
	putc('{', f);
	json_put(f, head_object(info), JSON_EMBED);
	fputs(",\n\"results\": [", f);
	return j;
}

static void *
json_open(FILE *f, const struct run_info *info)
{
	return json_begin(f, info, false);
}

void
json_result(void *state, const struct result *r)
{
	struct json *j = state;
	json_t *object = result_object(r);

	fputs(j->any ? ",\n" : "\n", j->f);
	j->any = true;
	remember_case(j, r);
	if (j->brief && object != NULL)
		json_make_brief(object);
	json_put(j->f, object, j->brief ? JSON_COMPACT : 0);
	fflush(j->f);
}

static void
keep_line(json_t *lines, const struct stale *s)
{
	json_array_append_new(lines, json_pack("{so si so}", "file", text(s->file), "line", (int)s->line, "pattern",
	                                       text(s->pattern)));
}

void
json_stale(void *state, const struct stale *s)
{
	struct json *j = state;

	keep_line(j->stale, s);
}

void
json_open_line(void *state, const struct stale *s)
{
	struct json *j = state;

	keep_line(j->open, s);
}

void
json_finish(void *state, const struct run_summary *s)
{
	struct json *j = state;

	fputs("\n],\n\"catalogue\": ", j->f);
	json_put(j->f, j->catalogue, 0);
	fputs(",\n\"stale\": ", j->f);
	json_put(j->f, j->stale, 0);
	fputs(",\n\"open\": ", j->f);
	json_put(j->f, j->open, 0);
	fputs(",\n\"summary\": ", j->f);
	json_put(j->f, summary_object(s), 0);
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
	.open_line = json_open_line,
	.finish = json_finish,
};
