/*
 * JUnit XML in the form that Jenkins, GitLab and their like read: tests/golden/reports/junit.xsd. The counts stand at
 * the head of the document, so the test cases are kept as XML until the end.
 *
 * A known deviation, or one from an experimental extension, is skipped there: a CI server must stay green for it, and
 * still show it.
 */
#include "reports/report.h"

#include "harness/printable.h"

#include <err.h>
#include <libxml/xmlwriter.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum outcome { PASSED, FAILED, BROKEN, SKIPPED, N_OUTCOMES };

struct junit {
	FILE *f;
	xmlBufferPtr cases;
	xmlTextWriterPtr w; /* into cases */
	unsigned tests, count[N_OUTCOMES];
	char *suite, *version, *target, *command;
	char started[32];
};

static enum outcome
outcome_of(const struct result *r)
{
	if ((result_is_known(r) || result_is_apart(r)) && r->verdict >= VERDICT_FAIL)
		return SKIPPED;
	if (r->verdict == VERDICT_ERROR)
		return BROKEN;
	if (r->red || r->verdict == VERDICT_FAIL)
		return FAILED;
	return r->verdict == VERDICT_SKIP ? SKIPPED : PASSED;
}

/* xmlTextWriter indents nothing where text stands beside elements, so lines are broken by hand. */
static void
start(xmlTextWriterPtr w, unsigned depth, const char *element)
{
	xmlTextWriterWriteFormatString(w, "\n%*s", (int)(2 * depth), "");
	xmlTextWriterStartElement(w, BAD_CAST element);
}

static void
end(xmlTextWriterPtr w, unsigned depth)
{
	xmlTextWriterWriteFormatString(w, "\n%*s", (int)(2 * depth), "");
	xmlTextWriterEndElement(w);
}

static void
attribute(xmlTextWriterPtr w, const char *name, const char *value)
{
	xmlTextWriterWriteAttribute(w, BAD_CAST name, BAD_CAST value);
}

static void
attribute_time(xmlTextWriterPtr w, uint64_t us)
{
	char text[SECONDS_MAX_TEXT];

	attribute(w, "time", seconds_text(us, text));
}

static void
detail(FILE *f, const char *label, const char *value, unsigned flags)
{
	autofree char *text = printable_text(value, flags);
	size_t n = strlen(text);

	while (n > 0 && text[n - 1] == '\n')
		n--;
	if (n > 0)
		fprintf(f, "%s%.*s\n", label, (int)n, text);
}

/* What the page of a test case shows: malloc'd. */
static char *
details(const struct result *r)
{
	const struct requirement *q = requirement(r->requirement);
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (f == NULL)
		err(3, "the details of a result");
	detail(f, "", r->message, 0);
	detail(f, "expected: ", r->expected, 0);
	detail(f, "got: ", r->got, 0);
	if (r->requirement != REQUIREMENT_NONE) {
		fprintf(f, "%s (%s, %s): ", level_name(q->level), q->where, q->id);
		detail(f, "", q->text, 0);
	}
	detail(f, "case: ", r->title, 0);
	if (r->expectation != EXPECT_NONE)
		detail(f, "the expectation file says: ", r->reason, 0);
	detail(f, "\n", r->transcript, PRINTABLE_LINES | PRINTABLE_AGAIN);
	fclose(f);
	return text;
}

static void
put_failure(xmlTextWriterPtr w, const struct result *r, const char *element)
{
	autofree char *why = result_why(r), *text = details(r);
	const char *type = r->expectation != EXPECT_NONE ? expectation_name(r->expectation) : verdict_name(r->verdict);

	if (r->requirement != REQUIREMENT_NONE)
		type = requirement(r->requirement)->id;
	start(w, 3, element);
	attribute(w, "type", type);
	attribute(w, "message", why);
	xmlTextWriterWriteString(w, BAD_CAST text);
	xmlTextWriterEndElement(w);
}

static void
put_skipped(xmlTextWriterPtr w, const struct result *r)
{
	autofree char *feature = printable_string(r->feature), *message = printable_string(r->message);
	autofree char *reason = printable_string(r->reason), *why = result_why(r), *words = NULL;
	int n;

	if (r->verdict == VERDICT_SKIP)
		n = asprintf(&words, "%s%s%s", feature, feature[0] && message[0] ? ": " : "", message);
	else if (result_is_apart(r))
		n = asprintf(&words, "experimental %s: %s", verdict_name(r->verdict), why);
	else
		n = asprintf(&words, "%s %s: %s", expectation_name(r->expectation), verdict_name(r->verdict), reason);
	if (n < 0)
		err(3, "a line of a report");
	start(w, 3, "skipped");
	attribute(w, "message", words);
	xmlTextWriterEndElement(w);
}

static void
put_output(xmlTextWriterPtr w, const char *element, const char *text)
{
	if (text[0] == '\0')
		return;
	start(w, 3, element);
	xmlTextWriterWriteString(w, BAD_CAST text);
	xmlTextWriterEndElement(w);
}

/* Counts the test case too. */
static void
start_testcase(struct junit *j, enum outcome outcome, const char *group, const char *name)
{
	j->tests++;
	j->count[outcome]++;
	start(j->w, 2, "testcase");
	attribute(j->w, "classname", group);
	attribute(j->w, "name", name);
}

static void
put_outcome(xmlTextWriterPtr w, const struct result *r, enum outcome outcome)
{
	autofree char *server = printable_text(r->server, PRINTABLE_LINES), *text = details(r);

	if (outcome == FAILED || outcome == BROKEN)
		put_failure(w, r, outcome == FAILED ? "failure" : "error");
	else if (outcome == SKIPPED)
		put_skipped(w, r);
	if ((outcome == PASSED && r->verdict != VERDICT_PASS) || result_is_known(r))
		put_output(w, "system-out", text);
	put_output(w, "system-err", server);
}

static void
junit_result(void *state, const struct result *r)
{
	struct junit *j = state;
	autofree char *id = result_id(r);
	char *name = strchr(id, '/');
	enum outcome outcome = outcome_of(r);

	if (name != NULL)
		*name++ = '\0';
	start_testcase(j, outcome, id, name ? name : id);
	attribute_time(j->w, r->duration_us);
	if (r->verdict == VERDICT_PASS && outcome == PASSED && (r->server == NULL || r->server[0] == '\0')) {
		xmlTextWriterEndElement(j->w);
		return;
	}
	put_outcome(j->w, r, outcome);
	end(j->w, 2);
}

/* A test case of our own making: what is red although no case is. */
static void
put_extra(struct junit *j, enum outcome outcome, const char *group, const char *name, const char *message)
{
	start_testcase(j, outcome, group, name);
	attribute(j->w, "time", "0.000");
	start(j->w, 3, outcome == FAILED ? "failure" : "error");
	attribute(j->w, "type", group);
	attribute(j->w, "message", message);
	xmlTextWriterEndElement(j->w);
	end(j->w, 2);
}

static void
junit_stale(void *state, const struct stale *s)
{
	autofree char *file = printable_string(s->file), *pattern = printable_string(s->pattern);
	autofree char *name = NULL;

	if (asprintf(&name, "%s:%u: %s", file, s->line, pattern) < 0)
		err(3, "a line of a report");
	put_extra(state, FAILED, "stale_expectation", name, "no result matches this line");
}

static void *
junit_open(FILE *f, const struct run_info *info)
{
	struct junit *j = report_state(sizeof(*j));
	struct tm tm;

	j->f = f;
	j->cases = xmlBufferCreate();
	j->w = xmlNewTextWriterMemory(j->cases, 0);
	if (j->w == NULL)
		errx(3, "no memory for a JUnit report");
	j->suite = printable_string(info->suite);
	j->version = printable_string(info->version);
	j->target = printable_string(info->target);
	j->command = printable_string(info->command);
	gmtime_r(&(time_t){ (time_t)info->started }, &tm);
	strftime(j->started, sizeof(j->started), "%Y-%m-%dT%H:%M:%S", &tm);
	return j;
}

static void
put_counts(struct junit *j, xmlTextWriterPtr w, const struct run_summary *s)
{
	xmlTextWriterWriteFormatAttribute(w, BAD_CAST "tests", "%u", j->tests);
	xmlTextWriterWriteFormatAttribute(w, BAD_CAST "failures", "%u", j->count[FAILED]);
	xmlTextWriterWriteFormatAttribute(w, BAD_CAST "errors", "%u", j->count[BROKEN]);
	attribute_time(w, s->duration_us);
}

static void
put_property(xmlTextWriterPtr w, const char *name, const char *value)
{
	start(w, 3, "property");
	attribute(w, "name", name);
	attribute(w, "value", value);
	xmlTextWriterEndElement(w);
}

static void
put_document(struct junit *j, xmlTextWriterPtr w, const struct run_summary *s)
{
	xmlTextWriterStartDocument(w, NULL, "UTF-8", NULL);
	xmlTextWriterStartElement(w, BAD_CAST "testsuites");
	attribute(w, "name", "nbdspec");
	put_counts(j, w, s);
	start(w, 1, "testsuite");
	attribute(w, "name", j->suite);
	put_counts(j, w, s);
	xmlTextWriterWriteFormatAttribute(w, BAD_CAST "skipped", "%u", j->count[SKIPPED]);
	attribute(w, "timestamp", j->started);
	start(w, 2, "properties");
	put_property(w, "nbdspec", j->version);
	put_property(w, "target", j->target);
	put_property(w, "command", j->command);
	end(w, 2);
	xmlTextWriterWriteRaw(w, xmlBufferContent(j->cases));
	end(w, 1);
	end(w, 0);
	xmlTextWriterEndDocument(w);
}

/* libxml2 would print its own words about a full disk: errors stay in the FILE, for the caller to report. */
static int
write_to_file(void *f, const char *bytes, int n)
{
	fwrite(bytes, 1, (size_t)n, f);
	return n;
}

static void
junit_finish(void *state, const struct run_summary *s)
{
	struct junit *j = state;
	autofree char *why = printable_string(s->broken ? s->broken : s->interrupted ? "interrupted" : "no case ran");
	xmlTextWriterPtr w = xmlNewTextWriter(xmlOutputBufferCreateIO(write_to_file, NULL, j->f, NULL));

	if (w == NULL)
		errx(3, "no memory for a JUnit report");
	if (s->broken != NULL || s->interrupted || j->tests == 0)
		put_extra(j, BROKEN, "nbdspec", "run", why);
	xmlFreeTextWriter(j->w);
	put_document(j, w, s);
	xmlFreeTextWriter(w);
	fflush(j->f);
	xmlBufferFree(j->cases);
	free(j->suite);
	free(j->version);
	free(j->target);
	free(j->command);
	free(j);
}

REPORT(junit) = {
	.name = "junit",
	.help = "JUnit XML, for CI servers; written at the end",
	.open = junit_open,
	.result = junit_result,
	.stale = junit_stale,
	.finish = junit_finish,
};
