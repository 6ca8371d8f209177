#include "harness/saved.h"

#include "harness/printable.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- what is sound ---- */

static bool
is_text(const json_t *value)
{
	return json_is_string(value) || json_is_null(value);
}

static bool
are_texts(const json_t *object, const char *const *keys)
{
	while (*keys != NULL && is_text(json_object_get(object, *keys)))
		keys++;
	return *keys == NULL;
}

static bool
is_count(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	return json_is_integer(value) && json_integer_value(value) >= 0;
}

static bool
is_list_of_names(const json_t *list)
{
	json_t *name;
	size_t i;

	json_array_foreach(list, i, name)
	{
		if (!json_is_string(name))
			return false;
	}
	return json_is_array(list);
}

static bool
is_result(const json_t *r, const json_t *catalogue)
{
	static const char *const texts[] = { "point",      "requirement", "message", "expected",    "got",    "feature",
		                             "transcript", "again",       "server",  "expectation", "reason", NULL };
	const char *verdict = json_string_value(json_object_get(r, "verdict"));
	enum verdict v;

	return are_texts(r, texts) && json_is_string(json_object_get(r, "case")) && verdict != NULL &&
	       verdict_named(verdict, &v) && json_is_boolean(json_object_get(r, "red")) && is_count(r, "duration_us") &&
	       is_list_of_names(json_object_get(r, "also")) &&
	       json_object_get(catalogue, json_string_value(json_object_get(r, "case"))) != NULL;
}

static bool
are_results(const json_t *results, const json_t *catalogue)
{
	const char *name;
	json_t *value;
	size_t i;

	json_object_foreach((json_t *)(uintptr_t)catalogue, name, value)
	{
		if (!is_text(json_object_get(value, "title")) || !is_list_of_names(json_object_get(value, "cites")))
			return false;
	}
	json_array_foreach(results, i, value)
	{
		if (!is_result(value, catalogue))
			return false;
	}
	return json_is_array(results);
}

/* Lines of an expectation file; older reports have none that are open. */
static bool
are_lines(const json_t *lines, bool needed)
{
	json_t *line;
	size_t i;

	json_array_foreach(lines, i, line)
	{
		if (!is_text(json_object_get(line, "file")) || !is_text(json_object_get(line, "pattern")) ||
		    !is_count(line, "line"))
			return false;
	}
	return json_is_array(lines) || (lines == NULL && !needed);
}

static bool
is_summary(const json_t *summary)
{
	bool ok = is_count(summary, "red") && is_count(summary, "known") && is_count(summary, "stale") &&
	          is_count(summary, "duration_us") && is_text(json_object_get(summary, "broken")) &&
	          json_is_boolean(json_object_get(summary, "interrupted"));

	for (int v = 0; v < N_VERDICTS; v++)
		ok &= is_count(summary, verdict_name((enum verdict)v));
	return ok;
}

static bool
is_shard(const json_t *shard)
{
	json_int_t n = saved_number(shard, "number"), of = saved_number(shard, "of");

	return shard == NULL || json_is_null(shard) ||
	       (n >= 1 && n <= of && of <= SHARDS_MOST && is_count(shard, "cases") &&
	        is_text(json_object_get(shard, "how")));
}

static bool
is_sound(const json_t *run)
{
	static const char *const texts[] = { "nbdspec", "command", "target", "again", NULL };

	return are_texts(run, texts) && json_is_string(json_object_get(run, "suite")) && is_count(run, "started") &&
	       is_count(run, "cases") && json_is_boolean(json_object_get(run, "strict")) &&
	       are_lines(json_object_get(run, "stale"), true) && are_lines(json_object_get(run, "open"), false) &&
	       is_summary(json_object_get(run, "summary")) && is_shard(json_object_get(run, "shard")) &&
	       are_results(json_object_get(run, "results"), json_object_get(run, "catalogue"));
}

/* JSON of another kind. */
static bool
is_other(const json_t *run)
{
	return saved_number(run, "format") == 0 || json_object_get(run, "results") == NULL;
}

/* One line says what is wrong with it; NULL for nothing. */
static const char *
wrong_with(const json_t *run)
{
	if (is_other(run) || saved_number(run, "format") != JSON_FORMAT)
		return "is no report of 'nbdspec … --json'";
	if (json_object_get(run, "catalogue") == NULL)
		return "is of an older nbdspec, which did not say what its cases ask; run it anew";
	return is_sound(run) ? NULL : "is a damaged report";
}

/* ---- reading ---- */

static unsigned
flags_of(const char *key)
{
	bool lines = strcmp(key, "transcript") == 0 || strcmp(key, "again") == 0 || strcmp(key, "server") == 0;

	return PRINTABLE_AGAIN | (lines ? PRINTABLE_LINES : 0);
}

/* A command line that is copied, and not shown. */
static bool
is_to_run(const char *key)
{
	return strcmp(key, "replay") == 0;
}

/* It is as printable_text() would leave it; most texts are ASCII. */
static bool
is_plain(const char *text, unsigned flags)
{
	while ((*text >= ' ' && *text <= '~') || ((flags & PRINTABLE_LINES) && (*text == '\n' || *text == '\t')))
		text++;
	return *text == '\0';
}

/* What was written by hand may have other texts than ours do. Returns the value, or a new one in place of it. */
static json_t *
made_printable(json_t *value, unsigned flags)
{
	const char *text = json_string_value(value), *name;
	json_t *part, *made;
	size_t i;

	if (text != NULL && !is_plain(text, flags)) {
		char *clean = printable_text(text, flags);

		made = json_string(clean);
		free(clean);
		json_decref(value);
		return made;
	}
	json_array_foreach(value, i, part)
	{
		json_array_set_new(value, i, made_printable(json_incref(part), flags));
	}
	if (!json_is_object(value))
		return value;
	made = json_object();
	json_object_foreach(value, name, part)
	{
		char *key = printable_text(name, PRINTABLE_AGAIN);

		json_incref(part);
		json_object_set_new(made, key, is_to_run(name) ? part : made_printable(part, flags_of(name)));
		free(key);
	}
	json_decref(value);
	return made;
}

/* It can be opened, and has no byte to read. */
static bool
is_directory(const char *path)
{
	struct stat st;

	if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
		return false;
	errno = EISDIR;
	return true;
}

json_t *
saved_printable(json_t *value)
{
	return made_printable(value, PRINTABLE_AGAIN);
}

json_t *
saved_load(const char *path, char error[512])
{
	json_error_t wrong = { .line = -1 };
	json_t *value = is_directory(path) ? NULL : json_load_file(path, 0, &wrong);

	if (value == NULL && wrong.line < 0)
		snprintf(error, 512, "%.300s: %s", path, strerror(errno));
	else if (value == NULL) {
		char *text = printable_string(wrong.text);

		snprintf(error, 512, "%.200s: line %d: %.200s", path, wrong.line, text);
		free(text);
	}
	return value;
}

json_t *
saved_run(json_t *json, const char *path, bool *other, char error[512])
{
	const char *why = wrong_with(json);

	if (other != NULL)
		*other = is_other(json);
	if (why == NULL)
		return saved_printable(json);
	snprintf(error, 512, "%.300s: %s", path, why);
	json_decref(json);
	return NULL;
}

json_t *
saved_read(const char *path, bool *other, char error[512])
{
	json_t *json = saved_load(path, error);

	if (other != NULL)
		*other = false;
	return json != NULL ? saved_run(json, path, other, error) : NULL;
}

/* ---- what is in it ---- */

const char *
saved_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text != NULL ? text : "";
}

json_int_t
saved_number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

char *
saved_id(const json_t *result)
{
	const char *point = saved_text(result, "point");
	char *id;

	if (asprintf(&id, *point ? "%s[%s]" : "%s", saved_text(result, "case"), point) < 0)
		abort();
	return id;
}

enum verdict
saved_verdict(const json_t *result)
{
	enum verdict v = VERDICT_ERROR;

	(void)verdict_named(saved_text(result, "verdict"), &v);
	return v;
}

const json_t *
saved_case(const json_t *run, const json_t *result)
{
	return json_object_get(json_object_get(run, "catalogue"), saved_text(result, "case"));
}

/* ---- a result as it was ---- */

static const char *
keep(struct saved_result *s, char *text)
{
	s->texts[s->n_texts++] = text;
	return text;
}

/* It was printed without PRINTABLE_AGAIN. */
static const char *
as_it_came(struct saved_result *s, const json_t *object, const char *key)
{
	return keep(s, printable_undo(saved_text(object, key)));
}

/* Up to NONE, in a list with room for `room` and NONE. */
static bool
take_requirements(const json_t *names, enum requirement_id *list, size_t room)
{
	json_t *name;
	size_t i;

	json_array_foreach(names, i, name)
	{
		if (i == room || (list[i] = requirement_named(json_string_value(name))) == REQUIREMENT_NONE)
			return false;
	}
	return true;
}

static bool
take_all_requirements(const json_t *run, const json_t *result, struct saved_result *s)
{
	const json_t *cites = json_object_get(saved_case(run, result), "cites");
	const char *name = saved_text(result, "requirement");
	enum requirement_id also[ALSO_MOST + 1] = { REQUIREMENT_NONE };
	size_t n = json_array_size(cites);

	s->cites = calloc(n + 1, sizeof(*s->cites));
	if (s->cites == NULL)
		abort();
	s->result.cites = s->cites;
	s->result.requirement = requirement_named(name);
	if ((*name && s->result.requirement == REQUIREMENT_NONE) || !take_requirements(cites, s->cites, n) ||
	    !take_requirements(json_object_get(result, "also"), also, ALSO_MOST))
		return false;
	memcpy(s->result.also, also, sizeof(s->result.also));
	return true;
}

bool
saved_result(const json_t *run, const json_t *result, struct saved_result *s)
{
	const char *point = saved_text(result, "point"), *expectation = saved_text(result, "expectation");

	*s = (struct saved_result){ .n_texts = 0 };
	s->result = (struct result){
		.case_id = as_it_came(s, result, "case"),
		.point = *point ? as_it_came(s, result, "point") : NULL,
		.title = as_it_came(s, saved_case(run, result), "title"),
		.verdict = saved_verdict(result),
		.red = json_is_true(json_object_get(result, "red")),
		.message = as_it_came(s, result, "message"),
		.expected = as_it_came(s, result, "expected"),
		.got = as_it_came(s, result, "got"),
		.feature = as_it_came(s, result, "feature"),
		.again = saved_text(result, "again"),
		.transcript = saved_text(result, "transcript"),
		.server = as_it_came(s, result, "server"),
		.experimental = json_is_true(json_object_get(result, "experimental")),
		.expectation = expectation_named(expectation),
		.reason = as_it_came(s, result, "reason"),
		.duration_us = (uint64_t)saved_number(result, "duration_us"),
	};
	return take_all_requirements(run, result, s);
}

void
saved_forget(struct saved_result *s)
{
	while (s->n_texts > 0)
		free(s->texts[--s->n_texts]);
	free(s->cites);
}
