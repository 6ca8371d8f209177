/* The page of a crash exploration: the template crash.html, with the JSON report in it, and the same as text. */
#include "reports/crash_page.h"

#include "harness/crash/report.h"
#include "reports/json.h"
#include "reports/page.h"

#include <string.h>

PAGE_TEMPLATE(crash_page_template, "reports/crash.html");

/* ---- what goes into it ---- */

static json_int_t
number(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

/* The single failing states stay in the JSON report. */
static json_t *
page_report(const json_t *report)
{
	json_t *page = json_copy((json_t *)(uintptr_t)report);

	json_object_set_new(page, "failing_states",
	                    json_integer((json_int_t)json_array_size(json_object_get(report, "failing"))));
	json_object_del(page, "failing");
	return page;
}

void
crash_page_put(FILE *json, const json_t *report)
{
	json_put(json, page_report(report), JSON_ENSURE_ASCII | JSON_COMPACT);
}

/* ---- text in HTML ---- */

static void
put_title(FILE *f, const json_t *report)
{
	const char *trace = json_string_value(json_object_get(json_object_get(report, "exploration"), "trace"));
	const char *slash = trace != NULL ? strrchr(trace, '/') : NULL;

	fprintf(f, "Crash exploration of ");
	page_put_text(f, slash != NULL ? slash + 1 : trace);
}

static void
put_text(FILE *f, const json_t *report)
{
	const json_t *about = json_object_get(report, "exploration"), *states = json_object_get(report, "states");
	json_t *finding, *line;
	size_t i, k;

	fprintf(f, "recording: %lld commands, %lld marks; %lld crash points\n", (long long)number(about, "commands"),
	        (long long)number(about, "marks_set"), (long long)number(about, "crash_points"));
	fprintf(f, "states: %lld good, %lld bad, %lld crashed the checker, %lld made it hang\n",
	        (long long)number(states, "good"), (long long)number(states, "bad"), (long long)number(states, "crash"),
	        (long long)number(states, "hang"));
	json_array_foreach(json_object_get(report, "findings"), i, finding)
	{
		fputc('\n', f);
		json_array_foreach(json_object_get(finding, "told"), k, line)
		{
			page_put_text(f, json_string_value(line));
			fputc('\n', f);
		}
	}
	if (number(report, "unexplained") > 0)
		fprintf(f, "\n%lld more failing states were not minimised\n", (long long)number(report, "unexplained"));
	if (json_is_true(json_object_get(report, "interrupted")))
		fprintf(f, "\ninterrupted: this is what was known by then\n");
}

static bool
write_page(FILE *f, const json_t *report)
{
	const char *place = page_write(f, crash_page_template);
	FILE *json;

	while (place != NULL) {
		if (place_is(place, "TITLE"))
			put_title(f, report);
		else if (place_is(place, "TEXT"))
			put_text(f, report);
		else {
			json = page_json_open(f);
			crash_page_put(json, report);
			fclose(json);
		}
		place = page_write(f, place_end(place));
	}
	return !ferror(f);
}

CRASH_REPORT(page) = {
	.name = "html",
	.write = write_page,
};
