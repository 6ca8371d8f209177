#include "harness/crash/points.h"

#include <stdlib.h>

static json_int_t
number(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

/* Whether a point, of `all` of them and by its number from 1, is among those that are kept; `failing` were so far. */
static bool
is_kept(json_int_t point, json_int_t all, bool fails, unsigned *failing)
{
	json_int_t stride = all > POINTS_MOST ? all / (POINTS_MOST + 1) + 1 : 1;
	bool kept = fails && *failing < POINTS_MOST;

	*failing += kept;
	return kept || (point - 1) % stride == 0;
}

static void
set_points(json_t *report, json_t *points, json_int_t all, json_int_t complete, json_int_t reached)
{
	json_object_set_new(report, "points_left_out", json_integer(all - (json_int_t)json_array_size(points)));
	json_object_set_new(report, "points_complete", json_integer(complete));
	json_object_set_new(report, "points_reached", json_integer(reached));
	json_object_set_new(report, "points", points);
}

void
points_add(json_t *report, const struct exploration *e)
{
	json_int_t complete = 0;
	json_t *points = json_array();
	unsigned failing = 0;

	for (uint32_t i = 0; i < e->space->n_points; i++) {
		const struct point_result *p = &e->points[i];

		complete += p->complete;
		if (!is_kept(i + 1, e->space->n_points, p->failing > 0, &failing))
			continue;
		json_array_append_new(points,
		                      json_pack("{sI sI sI sI sI sI sb}", "number", (json_int_t)i + 1, "at",
		                                (json_int_t)e->space->points[i].at, "marks_must",
		                                (json_int_t)e->space->points[i].must, "pending", (json_int_t)p->pending,
		                                "states", (json_int_t)p->states, "failing", (json_int_t)p->failing,
		                                "complete", (int)p->complete));
	}
	set_points(report, points, e->space->n_points, complete, (json_int_t)e->reached + 1);
}

/* ---- shards ---- */

static bool
is_within(const json_t *object, const char *name, json_int_t least, json_int_t most)
{
	return json_is_integer(json_object_get(object, name)) && number(object, name) >= least &&
	       number(object, name) <= most;
}

bool
points_are_sound(const json_t *report)
{
	const json_t *exploration = json_object_get(report, "exploration"), *points = json_object_get(report, "points"),
		     *point;
	json_int_t all = number(exploration, "crash_points"), last = 0;
	size_t k;

	if (!is_within(exploration, "crash_points", 0, UINT32_MAX) || !json_is_array(points) ||
	    !is_within(report, "points_complete", 0, all) || !is_within(report, "points_reached", 1, all + 1))
		return false;
	json_array_foreach(points, k, point)
	{
		/* They are in order, and no --budget has more states. */
		if (!is_within(point, "number", last + 1, all) ||
		    !is_within(point, "states", 0, (json_int_t)UINT32_MAX + 1) ||
		    !is_within(point, "failing", 0, number(point, "states")))
			return false;
		last = number(point, "number");
	}
	return true;
}

static int
compare_points(const void *a, const void *b)
{
	json_int_t x = number(*(json_t *const *)a, "number"), y = number(*(json_t *const *)b, "number");

	return x < y ? -1 : x > y;
}

/* Those of all shards, by their numbers; malloc'd. */
static json_t **
all_points(json_t *const *reports, size_t n, size_t *count)
{
	json_t **all, *point;
	size_t k;

	*count = 0;
	for (size_t i = 0; i < n; i++)
		*count += json_array_size(json_object_get(reports[i], "points"));
	all = calloc(*count + 1, sizeof(json_t *));
	if (all == NULL)
		abort();
	*count = 0;
	for (size_t i = 0; i < n; i++)
		json_array_foreach(json_object_get(reports[i], "points"), k, point)
		{
			all[(*count)++] = point;
		}
	if (*count > 0)
		qsort(all, *count, sizeof(json_t *), compare_points);
	return all;
}

/* One point as `n` shards tell of it; the others have found no failing state there. */
static json_t *
joined_point(json_t *const *told, size_t n, json_int_t reached)
{
	json_t *point = json_copy(told[0]);
	json_int_t failing = 0, states = 0;
	bool complete = number(point, "number") >= reached;

	for (size_t i = 0; i < n; i++) {
		failing += number(told[i], "failing");
		states = number(told[i], "states") > states ? number(told[i], "states") : states;
		complete = complete && json_is_true(json_object_get(told[i], "complete"));
	}
	json_object_set_new(point, "failing", json_integer(failing));
	json_object_set_new(point, "states", json_integer(states));
	json_object_set_new(point, "complete", json_boolean(complete));
	return point;
}

/* All shards go the same way, from the last point to the first, and one that stopped has gone less far. */
void
points_join(json_t *merged, json_t *const *reports, size_t n)
{
	json_int_t all = number(json_object_get(reports[0], "exploration"), "crash_points"), complete = all,
		   reached = 1;
	json_t *points = json_array(), *point;
	unsigned failing = 0;
	size_t count, same;
	json_t **told = all_points(reports, n, &count);

	for (size_t i = 0; i < n; i++) {
		json_int_t one = number(reports[i], "points_complete"), least = number(reports[i], "points_reached");

		complete = one < complete ? one : complete;
		reached = least > reached ? least : reached;
	}
	for (size_t i = 0; i < count; i += same) {
		for (same = 1; i + same < count && compare_points(&told[i], &told[i + same]) == 0;)
			same++;
		point = joined_point(told + i, same, reached);
		if (is_kept(number(point, "number"), all, number(point, "failing") > 0, &failing))
			json_array_append(points, point);
		json_decref(point);
	}
	free(told);
	set_points(merged, points, all, complete, reached);
}
