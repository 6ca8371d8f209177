#include "reports/page.h"

#include "harness/printable.h"
#include "reports/json.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

/* What all pages share. */
PAGE_TEMPLATE(page_head, "reports/page.html");
PAGE_TEMPLATE(page_style, "reports/page.css");
PAGE_TEMPLATE(page_script, "reports/page.js");
/* The view of an exploration of power cuts. */
PAGE_TEMPLATE(page_crash_view, "reports/crash_view.html");
PAGE_TEMPLATE(page_crash_style, "reports/crash.css");
PAGE_TEMPLATE(page_crash_script, "reports/crash.js");

/* ---- the template ---- */

static bool
is_place(const char *at)
{
	size_t n = strspn(at + 1, "ABCDEFGHIJKLMNOPQRSTUVWXYZ");

	return n > 0 && at[n + 1] == '@';
}

bool
place_is(const char *place, const char *name)
{
	size_t n = strlen(name);

	return strncmp(place + 1, name, n) == 0 && place[n + 1] == '@';
}

const char *
place_end(const char *place)
{
	return strchr(place + 1, '@') + 1;
}

/* What stands in the place in every page; NULL: that is for the page to say. */
static const char *
shared_text(const char *place)
{
	static const struct {
		const char *name, *text;
	} shared[] = {
		{ "HEAD", page_head },
		{ "STYLE", page_style },
		{ "SCRIPT", page_script },
		{ "CRASHVIEW", page_crash_view },
		{ "CRASHSTYLE", page_crash_style },
		{ "CRASHSCRIPT", page_crash_script },
	};

	for (size_t i = 0; i < sizeof(shared) / sizeof(shared[0]); i++)
		if (place_is(place, shared[i].name))
			return shared[i].text;
	return NULL;
}

const char *
page_write(FILE *f, const char *at)
{
	const char *place = strchr(at, '@'), *shared;

	while (place != NULL && !is_place(place))
		place = strchr(place + 1, '@');
	fwrite(at, 1, place != NULL ? (size_t)(place - at) : strlen(at), f);
	shared = place != NULL ? shared_text(place) : NULL;
	if (shared == NULL)
		return place;
	fputs(shared, f);
	return page_write(f, place_end(place));
}

/* ---- what stands in the places ---- */

void
page_put_text(FILE *f, const char *text)
{
	autofree char *clean = printable_text(text, PRINTABLE_AGAIN);

	for (const char *at = clean; *at != '\0'; at++)
		if (strchr("&<>\"'", *at) != NULL)
			fprintf(f, "&#%d;", *at);
		else
			fputc(*at, f);
}

/* In JSON these stand in strings only. */
static ssize_t
write_without_markup(void *cookie, const char *bytes, size_t n)
{
	FILE *f = cookie;
	size_t from = 0;

	for (size_t i = 0; i < n; i++) {
		if (bytes[i] != '<' && bytes[i] != '>' && bytes[i] != '&')
			continue;
		fwrite(bytes + from, 1, i - from, f);
		fprintf(f, "\\u%04x", (unsigned)bytes[i]);
		from = i + 1;
	}
	fwrite(bytes + from, 1, n - from, f);
	return (ssize_t)n;
}

FILE *
page_json_open(FILE *f)
{
	FILE *json = fopencookie(f, "w", (cookie_io_functions_t){ .write = write_without_markup });

	if (json == NULL)
		err(3, "a page");
	return json;
}

static json_t *
requirement_object(enum requirement_id id)
{
	const struct requirement *q = requirement(id);
	json_t *object = json_pack("{ss ss ss ss ss si}", "id", q->id, "level", level_name(q->level), "binds",
	                           binds_name(q->binds), "where", q->where, "text", q->text, "chapter",
	                           (int)requirement_chapter(id));

	if (q->untestable != NULL)
		json_object_set_new(object, "untestable", json_string(q->untestable));
	return object;
}

void
page_put_protocol(FILE *json)
{
	json_t *requirements = json_array(), *chapters = json_array();
	const struct chapter *c;

	for (int id = 1; id < N_REQUIREMENTS; id++)
		json_array_append_new(requirements, requirement_object((enum requirement_id)id));
	for (unsigned i = 0; (c = chapter_at(i)) != NULL; i++)
		json_array_append_new(chapters, json_pack("{si si ss}", "line", (int)c->line, "depth", (int)c->depth,
		                                          "title", c->title));
	fputs("\"requirements\": ", json);
	json_put(json, requirements, JSON_COMPACT);
	fputs(",\n\"chapters\": ", json);
	json_put(json, chapters, JSON_COMPACT);
}
