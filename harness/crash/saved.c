#include "harness/crash/saved.h"

#include "harness/crash/points.h"
#include "harness/crash/report.h"
#include "harness/saved.h"

#include <string.h>

/* ---- what is sound ---- */

static bool
is_at_least(const json_t *value, json_int_t least)
{
	return json_is_integer(value) && json_integer_value(value) >= least;
}

static bool
is_count(const json_t *value)
{
	return is_at_least(value, 0);
}

static bool
is_integer(const json_t *value)
{
	return json_is_integer(value);
}

static bool
is_number(const json_t *value)
{
	return json_is_number(value);
}

static bool
is_boolean(const json_t *value)
{
	return json_is_boolean(value);
}

static bool
is_text(const json_t *value)
{
	return json_is_string(value);
}

/* A list of such. */
static bool
each(const json_t *list, bool (*is)(const json_t *value))
{
	const json_t *value;
	size_t i;

	json_array_foreach(list, i, value)
	{
		if (!is(value))
			return false;
	}
	return json_is_array(list);
}

struct member {
	const char *name;
	bool (*is)(const json_t *value);
};

static bool
has(const json_t *object, const struct member *m)
{
	while (m->name != NULL && m->is(json_object_get(object, m->name)))
		m++;
	return m->name == NULL;
}

/* ---- the parts ---- */

static bool
are_counts(const json_t *list)
{
	return each(list, is_count);
}

static bool
is_list(const json_t *value)
{
	return json_is_array(value);
}

static bool
is_shard(const json_t *shard)
{
	return are_counts(shard) && json_array_size(shard) == 2;
}

/* clang-format off */

static bool
is_about(const json_t *exploration)
{
	static const struct member members[] = {
		{ "version", is_text }, { "trace", is_text }, { "identity", is_text }, { "check", is_text }, { "tear", is_text },
		{ "unit", is_count }, { "budget", is_count }, { "seed", is_integer }, { "fs", is_text }, { "size", is_count },
		{ "commands", is_count }, { "marks_set", is_count }, { "crash_points", is_count }, { NULL, NULL },
	};

	return has(exploration, members);
}

static bool
are_states(const json_t *states)
{
	static const struct member members[] = {
		{ "met", is_count }, { "decided", is_count }, { "good", is_count }, { "bad", is_count }, { "crash", is_count },
		{ "hang", is_count }, { "minimising", is_count }, { NULL, NULL },
	};

	return has(states, members);
}

static bool
is_point(const json_t *point)
{
	static const struct member members[] = {
		{ "at", is_count }, { "pending", is_count }, { "complete", is_boolean }, { NULL, NULL },
	};

	return has(point, members);
}

static bool
are_points(const json_t *points)
{
	return each(points, is_point);
}

static bool
is_torn(const json_t *place)
{
	return is_count(json_object_get(place, "command"));
}

static bool
are_torn(const json_t *places)
{
	return each(places, is_torn);
}

static bool
is_told(const json_t *lines)
{
	return each(lines, is_text) && json_array_size(lines) > 0;
}

static bool
is_finding(const json_t *finding)
{
	static const struct member members[] = {
		{ "told", is_told }, { "replay", is_text }, { "at", is_count }, { "lost", are_counts }, { "torn", are_torn },
		{ "durable", are_counts }, { NULL, NULL },
	};

	return has(finding, members);
}

static bool
are_findings(const json_t *findings)
{
	return each(findings, is_finding);
}

/* Number, kind, offset, length, connection, FUA, request, reply, durable, success. */
static bool
is_command(const json_t *row)
{
	bool ok = json_array_size(row) == 10;

	for (size_t i = 0; i < 10 && ok; i++)
		ok = i == 1 ? is_text(json_array_get(row, i)) : is_at_least(json_array_get(row, i), i < 7 ? 0 : -1);
	return ok;
}

static bool
are_commands(const json_t *rows)
{
	return each(rows, is_command);
}

static bool
is_mark(const json_t *row)
{
	return json_array_size(row) == 2 && is_count(json_array_get(row, 0)) && is_text(json_array_get(row, 1));
}

static bool
are_marks(const json_t *rows)
{
	return each(rows, is_mark);
}

static bool
is_timeline(const json_t *timeline)
{
	static const struct member members[] = {
		{ "events", is_count }, { "flushes", is_count }, { "left_out", is_count }, { "marks_left_out", is_count },
		{ "commands", are_commands }, { "marks", are_marks }, { NULL, NULL },
	};

	return has(timeline, members);
}

/* What ci/crash thinks of it; nothing where nobody has judged. */
static bool
is_judged(const json_t *judged)
{
	static const struct member members[] = {
		{ "verdict", is_text }, { "because", is_text }, { "red", is_boolean }, { NULL, NULL },
	};

	return judged == NULL || has(judged, members);
}

static bool
is_sound(const json_t *report)
{
	static const struct member members[] = {
		{ "exploration", is_about }, { "shard", is_shard }, { "states", are_states }, { "failing", is_list },
		{ "findings", are_findings }, { "timeline", is_timeline }, { "points", are_points }, { "unexplained", is_count },
		{ "seconds", is_number }, { "first_failure", is_number }, { "interrupted", is_boolean },
		{ "points_left_out", is_count }, { "judged", is_judged }, { NULL, NULL },
	};

	return has(report, members) && points_are_sound(report);
}

/* clang-format on */

/* ---- reading ---- */

bool
saved_is_exploration(const json_t *json)
{
	return strncmp(saved_text(json, "format"), "nbdspec crash", 13) == 0;
}

json_t *
saved_exploration(json_t *json, const char *path, char error[512])
{
	const char *why = strcmp(saved_text(json, "format"), REPORT_FORMAT) != 0
	                          ? "is a report of another version of 'nbdspec crash explore'; explore anew"
	                          : "is a damaged report";

	if (strcmp(saved_text(json, "format"), REPORT_FORMAT) == 0 && is_sound(json))
		return saved_printable(json);
	snprintf(error, 512, "%.300s: %s", path, why);
	json_decref(json);
	return NULL;
}
