/*
 * TAP, for prove and for CI systems that read it. Version 13 rather than 14: the same lines, and the harness that
 * ships with Perl refuses a version that it does not know.
 */
#include "reports/report.h"

#include "harness/printable.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct tap {
	FILE *f;
	unsigned n; /* test lines so far */
};

/* In the text of a test line '#' begins a directive. */
static void
put_description(FILE *f, const char *text)
{
	for (; *text; text++) {
		if (*text == '#' || *text == '\\')
			putc('\\', f);
		putc(*text, f);
	}
}

/* A double-quoted scalar: what JSON, YAML and the YAML subset of Perl's TAP parser read alike. */
static void
put_quoted(FILE *f, const char *text)
{
	putc('"', f);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			putc('\\', f);
		putc(*text, f);
	}
	fputs("\"\n", f);
}

static void
put_key(FILE *f, const char *key, const char *value)
{
	autofree char *text = printable_string(value);

	if (text[0] == '\0')
		return;
	fprintf(f, "  %s: ", key);
	put_quoted(f, text);
}

/*
 * Many lines are a literal block. Its first line gives the indentation and may not have more than the others; the ways
 * out that YAML has, a number behind the '|' or a list of quoted lines, Perl's parser misreads or dies of.
 */
static void
put_lines(FILE *f, const char *key, const char *value, unsigned flags)
{
	autofree char *text = printable_text(value, PRINTABLE_LINES | flags);

	if (text[0] == '\0')
		return;
	fprintf(f, "  %s: |\n", key);
	if (strchr(" \t\n", text[0]) != NULL)
		fprintf(f, "    (%s)\n", key);
	for (const char *line = text; *line;) {
		size_t n = strcspn(line, "\n");

		fprintf(f, "    %.*s\n", (int)n, line);
		line += n + (line[n] == '\n');
	}
}

static void
put_yaml(FILE *f, const struct result *r)
{
	const struct requirement *q = requirement(r->requirement);

	fprintf(f, "  ---\n  verdict: %s\n", verdict_name(r->verdict));
	put_key(f, "case", r->title);
	if (r->requirement != REQUIREMENT_NONE) {
		put_key(f, "requirement", q->id);
		put_key(f, "level", level_name(q->level));
		put_key(f, "where", q->where);
		put_key(f, "text", q->text);
	}
	put_key(f, "message", r->message);
	put_key(f, "expected", r->expected);
	put_key(f, "got", r->got);
	if (r->expectation != EXPECT_NONE)
		put_key(f, "expectation", expectation_name(r->expectation));
	put_key(f, "reason", r->reason);
	fprintf(f, "  duration_ms: %" PRIu64 ".%03" PRIu64 "\n", r->duration_us / 1000, r->duration_us % 1000);
	put_lines(f, "server", r->server, 0);
	put_lines(f, "again", r->again, PRINTABLE_AGAIN);
	put_lines(f, "transcript", r->transcript, PRINTABLE_AGAIN);
	fputs("  ...\n", f);
}

static void
put_directive(FILE *f, const struct result *r)
{
	autofree char *feature = printable_string(r->feature), *message = printable_string(r->message);
	autofree char *reason = printable_string(r->reason);

	if (r->verdict == VERDICT_SKIP && !r->red)
		fprintf(f, " # SKIP %s%s%s", feature, feature[0] && message[0] ? ": " : "", message);
	else if (r->verdict >= VERDICT_FAIL && result_is_known(r))
		fprintf(f, " # TODO %s%s", r->expectation == EXPECT_FLAKY ? "flaky: " : "", reason);
	else if (r->verdict >= VERDICT_FAIL && result_is_apart(r))
		fputs(" # TODO an experimental extension", f);
}

static void
tap_result(void *state, const struct result *r)
{
	struct tap *t = state;
	autofree char *id = result_id(r);

	fprintf(t->f, "%s %u - ", r->red || r->verdict >= VERDICT_FAIL ? "not ok" : "ok", ++t->n);
	put_description(t->f, id);
	put_directive(t->f, r);
	putc('\n', t->f);
	if (r->red || (r->verdict == VERDICT_PASS ? result_tells(r) : r->verdict != VERDICT_SKIP))
		put_yaml(t->f, r);
	fflush(t->f);
}

/* A stale line makes the run red, so it is a test line that says so. */
static void
tap_stale(void *state, const struct stale *s)
{
	struct tap *t = state;
	autofree char *file = printable_string(s->file), *pattern = printable_string(s->pattern);

	fprintf(t->f, "not ok %u - stale expectation ", ++t->n);
	put_description(t->f, file);
	fprintf(t->f, ":%u: ", s->line);
	put_description(t->f, pattern);
	putc('\n', t->f);
}

static void *
tap_open(FILE *f, const struct run_info *info)
{
	struct tap *t = report_state(sizeof(*t));

	t->f = f;
	fputs("TAP version 13\n# nbdspec ", f);
	printable_put(f, info->version, 0);
	fputs(", suite ", f);
	printable_put(f, info->suite, 0);
	fputs(", target ", f);
	printable_put(f, info->target, 0);
	if (info->shard != NULL)
		fprintf(f, ", shard %u/%u", info->shard->number, info->shard->of);
	putc('\n', f);
	return t;
}

static void
tap_finish(void *state, const struct run_summary *s)
{
	struct tap *t = state;

	/* "1..0" alone means that all was skipped on purpose, and passes. */
	if (t->n > 0)
		fprintf(t->f, "1..%u\n", t->n);
	if (s->broken != NULL || s->interrupted || t->n == 0) {
		fputs("Bail out! ", t->f);
		printable_put(t->f, s->broken ? s->broken : s->interrupted ? "interrupted" : "no case ran", 0);
		putc('\n', t->f);
	}
	fflush(t->f);
	free(t);
}

REPORT(tap) = {
	.name = "tap",
	.help = "Test Anything Protocol, version 13",
	.open = tap_open,
	.result = tap_result,
	.stale = tap_stale,
	.finish = tap_finish,
};
