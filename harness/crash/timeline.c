#include "harness/crash/timeline.h"

#include "harness/printable.h"

#include <stdlib.h>

enum { MARK_BYTES = 400, DURABLE_MOST = 50, BEFORE_CUT = 40, AFTER_CUT = 5 };

/* ---- findings ---- */

static json_t *
lost_commands(const struct difference *d)
{
	json_t *all = json_array();

	for (size_t i = 0; i < d->n; i++)
		for (uint32_t c = d->lacks[i].low; c != 0 && c <= d->lacks[i].high; c++)
			json_array_append_new(all, json_integer(c));
	return all;
}

static json_t *
torn_commands(const struct difference *d)
{
	json_t *all = json_array();

	for (size_t i = 0; i < d->n; i++) {
		const struct lack *l = &d->lacks[i];

		if (l->low == 0)
			json_array_append_new(all, json_pack("{sI sI sI sI}", "command", (json_int_t)l->torn, "offset",
			                                     (json_int_t)l->offset, "length", (json_int_t)l->length,
			                                     "holds", (json_int_t)l->command));
	}
	return all;
}

static json_t *
durable_commands(const struct difference *d, struct view *v)
{
	json_t *all = json_array();
	uint32_t first = difference_first(d);

	if (d->n == 0 || !difference_show(d, v, NULL))
		return all;
	for (uint32_t i = 0; i < v->n_pending && json_array_size(all) < DURABLE_MOST; i++)
		if (v->pending[i].present && v->pending[i].command > first)
			json_array_append_new(all, json_integer(v->pending[i].command));
	return all;
}

void
timeline_add_finding(json_t *finding, const struct exploration *e, size_t i, struct view *v)
{
	const struct difference *d = &e->findings[i].difference;

	json_object_set_new(finding, "at", json_integer(d->at));
	json_object_set_new(finding, "lost", lost_commands(d));
	json_object_set_new(finding, "torn", torn_commands(d));
	json_object_set_new(finding, "durable", durable_commands(d, v));
}

/* ---- which ---- */

static uint32_t
commands_before(const struct recording *r, uint32_t at)
{
	uint32_t low = 0, high = r->n_commands;

	while (low < high) {
		uint32_t middle = low + (high - low + 1) / 2;

		if (r->commands[middle].received < at)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

static void
show_commands(bool *shown, const json_t *numbers)
{
	const json_t *number;
	size_t k;

	json_array_foreach(numbers, k, number)
	{
		shown[json_integer_value(json_is_object(number) ? json_object_get(number, "command") : number)] = true;
	}
}

/* The last ones before each crash point, or before some of these: the same in every shard. */
static void
show_about_points(bool *shown, const struct exploration *e)
{
	uint32_t n = e->space->n_points, each = n > 0 && n < TIMELINE_COMMANDS ? TIMELINE_COMMANDS / n : 1;

	for (uint32_t i = 0; i < n; i += n / TIMELINE_COMMANDS + 1) {
		uint32_t last = commands_before(e->space->recording, e->space->points[i].at);

		for (uint32_t k = 0; k < each && k < last; k++)
			shown[last - k] = true;
	}
}

/* What it names, and what came about its cut. */
static void
show_about_finding(bool *shown, const struct exploration *e, size_t i, struct view *v)
{
	const struct recording *r = e->space->recording;
	uint32_t last = commands_before(r, e->findings[i].difference.at);
	json_t *finding = json_object();

	for (uint32_t k = last > BEFORE_CUT ? last - BEFORE_CUT : 1; k <= last + AFTER_CUT && k <= r->n_commands; k++)
		shown[k] = true;
	timeline_add_finding(finding, e, i, v);
	show_commands(shown, json_object_get(finding, "lost"));
	show_commands(shown, json_object_get(finding, "torn"));
	show_commands(shown, json_object_get(finding, "durable"));
	json_decref(finding);
}

static bool *
choose_commands(const struct exploration *e, struct view *v)
{
	const struct recording *r = e->space->recording;
	bool *shown = calloc(r->n_commands + 1u, sizeof(*shown));

	if (shown == NULL)
		abort();
	for (uint32_t i = 1; i <= r->n_commands && r->n_commands <= TIMELINE_COMMANDS; i++)
		shown[i] = true;
	if (r->n_commands <= TIMELINE_COMMANDS)
		return shown;
	show_about_points(shown, e);
	for (size_t i = 0; i < e->n_findings; i++)
		show_about_finding(shown, e, i, v);
	return shown;
}

/* ---- what of them ---- */

static json_int_t
event(uint32_t at)
{
	return at == NEVER ? -1 : (json_int_t)at;
}

static json_t *
command_row(const struct exploration *e, uint32_t number)
{
	const struct recorded_command *c = &e->space->recording->commands[number];

	return json_pack("[IsIIIiIIIi]", (json_int_t)number, recorded_kind_name(c->kind), (json_int_t)c->offset,
	                 (json_int_t)c->length, (json_int_t)c->connection, (int)c->fua, (json_int_t)c->received,
	                 event(c->answered), event(e->space->guaranteed[number]), (int)c->success);
}

static json_t *
shown_commands(const struct exploration *e, struct view *v)
{
	bool *shown = choose_commands(e, v);
	json_t *rows = json_array();

	for (uint32_t i = 1; i <= e->space->recording->n_commands; i++)
		if (shown[i])
			json_array_append_new(rows, command_row(e, i));
	free(shown);
	return rows;
}

/* Every so many; and the last before each finding's cut. */
static json_t *
shown_marks(const struct exploration *e)
{
	const struct recording *r = e->space->recording;
	uint32_t stride = r->n_marks / (TIMELINE_MARKS + 1) + 1;
	json_t *rows = json_array();

	for (uint32_t i = 0; i < r->n_marks; i++) {
		uint32_t next = i + 1 < r->n_marks ? r->marks[i + 1].event : NEVER;
		bool wanted = i % stride == 0;
		char text[MARK_BYTES];

		for (size_t k = 0; k < e->n_findings && !wanted; k++)
			wanted = e->findings[k].difference.at > r->marks[i].event &&
			         e->findings[k].difference.at <= next;
		if (!wanted)
			continue;
		printable_into(text, sizeof(text), r->marks[i].text.at, r->marks[i].text.len, 0);
		json_array_append_new(rows, json_pack("[Is]", (json_int_t)r->marks[i].event, text));
	}
	return rows;
}

json_t *
timeline_object(const struct exploration *e, struct view *v)
{
	const struct recording *r = e->space->recording;
	json_t *commands = shown_commands(e, v), *marks = shown_marks(e);
	json_int_t flushes = 0, left_out = (json_int_t)r->n_commands - (json_int_t)json_array_size(commands);

	for (uint32_t i = 1; i <= r->n_commands; i++)
		flushes += r->commands[i].kind == HISTORY_FLUSH;
	return json_pack("{sI sI sI so sI so}", "events", (json_int_t)r->n_events, "flushes", flushes, "left_out",
	                 left_out, "commands", commands, "marks_left_out",
	                 (json_int_t)r->n_marks - (json_int_t)json_array_size(marks), "marks", marks);
}

/* ---- shards ---- */

static json_int_t
first_of(const json_t *row)
{
	return json_integer_value(json_array_get(row, 0));
}

/* Rows of both, by their first number; how many are new. */
static json_int_t
join_rows(json_t *timeline, const json_t *other, const char *name)
{
	json_t *mine = json_object_get(timeline, name), *both = json_array();
	const json_t *theirs = json_object_get(other, name);
	size_t i = 0, k = 0, had = json_array_size(mine);

	while (i < json_array_size(mine) || k < json_array_size(theirs)) {
		json_t *a = json_array_get(mine, i), *b = json_array_get(theirs, k);
		bool take = b == NULL || (a != NULL && first_of(a) <= first_of(b));

		json_array_append(both, take ? a : b);
		k += b != NULL && (!take || (a != NULL && first_of(a) == first_of(b)));
		i += take;
	}
	json_object_set_new(timeline, name, both);
	return (json_int_t)(json_array_size(both) - had);
}

static void
take_off(json_t *timeline, const char *name, json_int_t n)
{
	json_object_set_new(timeline, name, json_integer(json_integer_value(json_object_get(timeline, name)) - n));
}

void
timeline_join(json_t *timeline, const json_t *other)
{
	take_off(timeline, "left_out", join_rows(timeline, other, "commands"));
	take_off(timeline, "marks_left_out", join_rows(timeline, other, "marks"));
}
