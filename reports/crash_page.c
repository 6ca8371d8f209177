/* The page of a crash exploration: the template crash.html, with the JSON report in it, and the same as text. */
#include "harness/crash/report.h"
#include "harness/printable.h"

#include <stdlib.h>
#include <string.h>

extern const char crash_page_template[];
__asm__(".section .rodata\n"
        "crash_page_template:\n"
        ".incbin \"reports/crash.html\"\n"
        ".byte 0\n"
        ".previous\n");

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

/* ---- text in HTML ---- */

static void
put_html(FILE *f, const char *text)
{
	char *clean = printable_text(text != NULL ? text : "", PRINTABLE_AGAIN);

	for (const char *at = clean; *at != '\0'; at++)
		if (strchr("&<>\"'", *at) != NULL)
			fprintf(f, "&#%d;", *at);
		else
			fputc(*at, f);
	free(clean);
}

static void
put_title(FILE *f, const json_t *report)
{
	const char *trace = json_string_value(json_object_get(json_object_get(report, "exploration"), "trace"));
	const char *slash = trace != NULL ? strrchr(trace, '/') : NULL;

	fprintf(f, "Crash exploration of ");
	put_html(f, slash != NULL ? slash + 1 : trace);
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
			put_html(f, json_string_value(line));
			fputc('\n', f);
		}
	}
	if (number(report, "unexplained") > 0)
		fprintf(f, "\n%lld more failing states were not minimised\n", (long long)number(report, "unexplained"));
	if (json_is_true(json_object_get(report, "interrupted")))
		fprintf(f, "\ninterrupted: this is what was known by then\n");
}

/* No markup can begin in it. */
static bool
put_json(FILE *f, const json_t *report)
{
	json_t *page = page_report(report);
	char *text = json_dumps(page, JSON_ENSURE_ASCII | JSON_COMPACT);

	for (const char *at = text; at != NULL && *at != '\0'; at++)
		if (strchr("&<>", *at) != NULL)
			fprintf(f, "\\u%04x", (unsigned)*at);
		else
			fputc(*at, f);
	json_decref(page);
	free(text);
	return text != NULL;
}

/* ---- the template ---- */

static bool
write_page(FILE *f, const json_t *report)
{
	const char *at = crash_page_template, *place;
	bool ok = true;

	while (ok && (place = strchr(at, '@')) != NULL) {
		fwrite(at, 1, (size_t)(place - at), f);
		at = place;
		if (strncmp(at, "@TITLE@", 7) == 0)
			put_title(f, report);
		else if (strncmp(at, "@TEXT@", 6) == 0)
			put_text(f, report);
		else if (strncmp(at, "@JSON@", 6) == 0)
			ok = put_json(f, report);
		else
			fputc('@', f);
		at += at[1] >= 'A' && at[1] <= 'Z' ? strcspn(at + 1, "@") + 2 : 1;
	}
	return ok && fputs(at, f) >= 0;
}

CRASH_REPORT(page) = {
	.name = "html",
	.write = write_page,
};
