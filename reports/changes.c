#include "reports/changes.h"

#include "harness/saved.h"
#include "reports/whole.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>

/* ---- which results are the same ---- */

/* "case\npoint\nNTH", malloc'd; `seen` counts. */
static char *
key_of(json_t *seen, const json_t *result)
{
	autofree char *id = NULL;
	json_int_t nth;
	char *key;

	if (asprintf(&id, "%s\n%s", saved_text(result, "case"), saved_text(result, "point")) < 0)
		err(3, "a comparison");
	nth = saved_number(seen, id);
	json_object_set_new(seen, id, json_integer(nth + 1));
	if (asprintf(&key, "%s\n%lld", id, (long long)nth) < 0)
		err(3, "a comparison");
	return key;
}

/* All results of a run by their keys. */
static json_t *
by_key(const json_t *run)
{
	json_t *found = json_object(), *seen = json_object(), *result;
	size_t i;

	json_array_foreach(json_object_get(run, "results"), i, result)
	{
		autofree char *key = key_of(seen, result);

		json_object_set(found, key, result);
	}
	json_decref(seen);
	return found;
}

/* ---- what it means ---- */

static bool
deviates(const json_t *result)
{
	return saved_verdict(result) >= VERDICT_WARN;
}

static bool
is_flaky(const json_t *result)
{
	return strcmp(saved_text(result, "expectation"), "flaky") == 0;
}

static enum change_kind
kind_of_new(const json_t *before, const json_t *after)
{
	return whole_excuse(after) != NULL || is_flaky(before) ? CHANGE_EXCUSED : CHANGE_WORSE;
}

/* False where nothing changed. */
static bool
compare(const json_t *before, const json_t *after, enum change_kind *kind)
{
	enum verdict was = saved_verdict(before), is = saved_verdict(after);
	bool other = strcmp(saved_text(before, "requirement"), saved_text(after, "requirement")) != 0;

	if (was == is && !(deviates(after) && other))
		return false;
	if (deviates(after) && (was <= is || was == VERDICT_ERROR))
		*kind = kind_of_new(before, after);
	else if (deviates(before) && (is == VERDICT_PASS || is == VERDICT_INFO))
		*kind = is_flaky(before) ? CHANGE_OTHER : CHANGE_MENDED;
	else
		*kind = CHANGE_OTHER;
	return true;
}

static void
add(struct changes *c, enum change_kind kind, const json_t *before, const json_t *after)
{
	c->list = reallocarray(c->list, c->n + 1, sizeof(*c->list));
	if (c->list == NULL)
		err(3, "a comparison");
	c->list[c->n] = (struct change){ kind, json_incref((json_t *)(uintptr_t)before),
		                         json_incref((json_t *)(uintptr_t)after), c->n };
	c->n++;
	c->count[kind]++;
}

static void
add_those_after(struct changes *c, const json_t *were, const json_t *are)
{
	const char *key;
	json_t *after;

	json_object_foreach((json_t *)(uintptr_t)are, key, after)
	{
		const json_t *before = json_object_get(were, key);
		enum change_kind kind;

		if (before == NULL)
			add(c, deviates(after) ? kind_of_new(NULL, after) : CHANGE_ONLY_AFTER, NULL, after);
		else if (compare(before, after, &kind))
			add(c, kind, before, after);
		else
			c->same++;
	}
}

/* The cases of a run that came to its end, but for those that were skipped or could not be tested. */
static json_t *
cases_that_ran(const json_t *run)
{
	json_t *ran = json_object(), *result;
	size_t i;

	json_array_foreach(whole_broken(run) == NULL ? json_object_get(run, "results") : NULL, i, result)
	{
		if (saved_verdict(result) != VERDICT_SKIP && saved_verdict(result) != VERDICT_ERROR)
			json_object_set_new(ran, saved_text(result, "case"), json_true());
	}
	return ran;
}

/* A finding that comes no more, of a case that ran, is gone. */
static void
add_those_before(struct changes *c, const json_t *were, const json_t *are)
{
	json_t *before, *cases = cases_that_ran(c->after);
	const char *key;

	json_object_foreach((json_t *)(uintptr_t)were, key, before)
	{
		bool ran = json_object_get(cases, saved_text(before, "case")) != NULL;

		if (json_object_get(are, key) == NULL)
			add(c, deviates(before) && ran ? CHANGE_MENDED : CHANGE_ONLY_BEFORE, before, NULL);
	}
	json_decref(cases);
}

/* By kind, by how bad, by case. */
static int
in_order(const void *a, const void *b)
{
	const struct change *x = a, *y = b;
	int by = (int)x->kind - (int)y->kind;

	if (by == 0)
		by = (int)saved_verdict(change_result(y)) - (int)saved_verdict(change_result(x));
	if (by == 0)
		by = strcmp(saved_text(change_result(x), "case"), saved_text(change_result(y), "case"));
	return by != 0 ? by : x->turn < y->turn ? -1 : 1;
}

struct changes
changes_between(const json_t *before, const json_t *after)
{
	struct changes c = { .before = before, .after = after };
	json_t *were = by_key(before), *are = by_key(after);

	add_those_after(&c, were, are);
	add_those_before(&c, were, are);
	if (c.n > 0)
		qsort(c.list, c.n, sizeof(*c.list), in_order);
	c.broken[0] = whole_broken(before);
	c.broken[1] = whole_broken(after);
	c.ended_early = c.broken[1] != NULL && c.broken[0] == NULL;
	json_decref(were);
	json_decref(are);
	return c;
}

void
changes_free(struct changes *c)
{
	for (size_t i = 0; i < c->n; i++) {
		json_decref((json_t *)(uintptr_t)c->list[i].before);
		json_decref((json_t *)(uintptr_t)c->list[i].after);
	}
	free(c->list);
}

bool
changes_worse(const struct changes *c)
{
	return c->count[CHANGE_WORSE] > 0 || c->ended_early;
}

static bool
is_alike(const struct change *a, const struct change *b)
{
	autofree char *here = change_words(a), *there = change_words(b);

	return a->kind == b->kind && whole_alike(change_result(a), change_result(b)) && strcmp(here, there) == 0;
}

size_t
changes_alike(const struct changes *c, size_t i)
{
	size_t n = 1;

	while (i + n < c->n && is_alike(&c->list[i], &c->list[i + n]))
		n++;
	return n;
}

/* ---- words ---- */

const char *
change_name(enum change_kind kind)
{
	static const char *const names[] = { "worse", "excused", "mended", "other", "only_before", "only_after" };

	return names[kind];
}

const char *
change_heading(enum change_kind kind)
{
	static const char *const headings[] = { "Got worse",   "Got worse, but known, flaky or experimental",
		                                "Mended",      "Changed otherwise",
		                                "Only before", "Only after" };

	return headings[kind];
}

const json_t *
change_result(const struct change *c)
{
	return c->after != NULL ? c->after : c->before;
}

char *
change_words(const struct change *c)
{
	const char *other = c->before != NULL ? saved_text(c->before, "requirement") : "";
	char *text;
	int n;

	if (c->before == NULL)
		return strdup("was not there");
	if (c->after == NULL)
		n = asprintf(&text, "was %s, is not there", saved_text(c->before, "verdict"));
	else if (saved_verdict(c->before) == saved_verdict(c->after))
		n = asprintf(&text, "broke %s before", other);
	else
		n = asprintf(&text, "was %s", saved_text(c->before, "verdict"));
	if (n < 0)
		err(3, "a line of a report");
	return text;
}
