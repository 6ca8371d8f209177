/*
 * A summary in Markdown for a pull request, below what GitHub takes for a comment: what changed first, then the counts,
 * then each failure, folded. What has no room is counted at the end.
 */
#include "reports/changes.h"
#include "reports/markup.h"
#include "reports/page.h"
#include "reports/whole.h"

#include "harness/saved.h"

#include <stdlib.h>
#include <string.h>

enum {
	END_ROOM = 400,         /* bytes for the last lines */
	TRANSCRIPT_MOST = 2500, /* bytes */
	REST_SHARE = 3,         /* one part of so many is kept for what stands behind what changed */
	POINTS_SHOWN = 5,
};

struct page {
	struct markup m;
	const json_t *run, *baseline;
	const char *baseline_path;
	size_t left_out;
};

static const json_t *
summary_of(const json_t *run)
{
	return json_object_get(run, "summary");
}

/* ---- the head ---- */

static void
put_outcome(FILE *f, const json_t *run)
{
	json_int_t red = saved_number(summary_of(run), "red"), stale = saved_number(summary_of(run), "stale");
	const char *broken = whole_broken(run);

	if (broken != NULL) {
		fputs("**The run ended early:** ", f);
		markup_code(f, broken);
		fputs(red > 0 ? "  \n" : "", f);
	}
	if (red > stale)
		fprintf(f, "**%lld result%s this run fail.**", (long long)(red - stale),
		        red - stale == 1 ? " makes" : "s make");
	if (stale > 0)
		fprintf(f, "%s**%lld line%s of the expectation file %s stale.**", red > stale ? " " : "",
		        (long long)stale, stale == 1 ? "" : "s", stale == 1 ? "is" : "are");
	if (red == 0 && broken == NULL)
		fputs("**All as expected.**", f);
	putc('\n', f);
}

static void
put_head(struct page *p)
{
	const json_t *shard = json_object_get(p->run, "shard");
	FILE *f = part_begin(&p->m);

	fprintf(f, "## nbdspec %s: ", saved_text(p->run, "suite"));
	markup_code(f, saved_text(p->run, "target"));
	if (json_is_object(shard))
		fprintf(f, ", shard %lld/%lld", (long long)saved_number(shard, "number"),
		        (long long)saved_number(shard, "of"));
	fputs("\n\n", f);
	put_outcome(f, p->run);
	(void)part_end(&p->m, 0);
}

/* ---- points of a case are told at once ---- */

static bool
is_wanted(const json_t *r, bool red)
{
	if (red)
		return json_is_true(json_object_get(r, "red"));
	return !json_is_true(json_object_get(r, "red")) && saved_verdict(r) >= VERDICT_WARN && whole_excuse(r) == NULL;
}

/* The k-th of those that are told with the i-th result, or NULL past the last; then *n is how many there are. */
static const json_t *
alike_at(const json_t *results, size_t i, size_t k, size_t *n)
{
	const json_t *first = json_array_get(results, i), *r;

	for (*n = 0; (r = json_array_get(results, i)) != NULL; i++) {
		if (strcmp(saved_text(r, "case"), saved_text(first, "case")) != 0)
			break;
		if (whole_alike(first, r) && (*n)++ == k)
			return r;
	}
	return NULL;
}

static size_t
count_alike(const json_t *results, size_t i)
{
	size_t n;

	(void)alike_at(results, i, SIZE_MAX, &n);
	return n;
}

static bool
is_first_alike(const json_t *results, size_t i)
{
	const json_t *r = json_array_get(results, i), *other;

	for (size_t k = i; k-- > 0 && (other = json_array_get(results, k)) != NULL;) {
		if (strcmp(saved_text(other, "case"), saved_text(r, "case")) != 0)
			return true;
		if (whole_alike(other, r))
			return false;
	}
	return true;
}

/* ---- what changed ---- */

static void
put_baseline(struct page *p)
{
	struct changes c;
	FILE *f;

	if (p->baseline == NULL)
		return;
	f = part_begin(&p->m);
	fputs("\n### What changed since ", f);
	markup_code(f, p->baseline_path);
	fputs("\n\n", f);
	markup_code(f, saved_text(p->baseline, "target"));
	fprintf(f, ", nbdspec %s\n", saved_text(p->baseline, "nbdspec"));
	(void)part_end(&p->m, 0);
	c = changes_between(p->baseline, p->run);
	(void)markup_changes(&p->m, &c, MARKUP_MOST / REST_SHARE);
	changes_free(&c);
}

/* What a red result is to the expectation file. */
static const char *
news_of(const json_t *r)
{
	enum expectation e = expectation_named(saved_text(r, "expectation"));

	return e == EXPECT_UNEXPECTED_PASS ? "gone" : e == EXPECT_CHANGED ? "changed" : "new";
}

static bool
put_news(struct page *p, const json_t *r, size_t n)
{
	autofree char *id = saved_id(r), *why = whole_why(r);
	FILE *f = part_begin(&p->m);

	fprintf(f, "- **%s** %s ", news_of(r), whole_outcome(r));
	markup_code(f, id);
	if (n > 1)
		fprintf(f, " and %zu more point%s", n - 1, n > 2 ? "s" : "");
	if (*why) {
		fputs(": ", f);
		markup_code(f, why);
	}
	putc('\n', f);
	return part_end(&p->m, MARKUP_MOST / REST_SHARE);
}

static bool
put_stale(struct page *p, const json_t *line)
{
	FILE *f = part_begin(&p->m);

	fputs("- **stale** ", f);
	markup_code(f, saved_text(line, "file"));
	fprintf(f, " line %lld, ", (long long)saved_number(line, "line"));
	markup_code(f, saved_text(line, "pattern"));
	fputs(": nothing in this run matches it\n", f);
	return part_end(&p->m, MARKUP_MOST / REST_SHARE);
}

static void
put_expectations(struct page *p)
{
	const char *file = saved_text(p->run, "expect");
	const json_t *results = json_object_get(p->run, "results");
	size_t i, n, untold = 0;
	json_t *one;
	FILE *f;

	if (*file == '\0' || saved_number(summary_of(p->run), "red") == 0)
		return;
	f = part_begin(&p->m);
	fputs("\n### What ", f);
	markup_code(f, file);
	fputs(" does not know\n\n", f);
	(void)part_end(&p->m, 0);
	json_array_foreach(results, i, one)
	{
		n = is_wanted(one, true) && is_first_alike(results, i) ? count_alike(results, i) : 0;
		if (n > 0 && !put_news(p, one, n))
			untold += n;
	}
	json_array_foreach(json_object_get(p->run, "stale"), i, one)
	{
		untold += !put_stale(p, one);
	}
	if (untold > 0) {
		fprintf(part_begin(&p->m), "- and %zu more\n", untold);
		(void)part_end(&p->m, END_ROOM);
	}
}

/* ---- counts ---- */

static void
put_row(FILE *f, const char *label, const json_t *run, bool labelled)
{
	static const char *const columns[] = { "pass",  "info",  "skip",         "warn", "fail",
		                               "error", "known", "experimental", "stale" };
	char seconds[SECONDS_MAX_TEXT];

	fprintf(f, labelled ? "| %s |" : "|", label);
	for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++)
		fprintf(f, " %lld |", (long long)saved_number(summary_of(run), columns[i]));
	fprintf(f, " %s s |\n", seconds_text((uint64_t)saved_number(summary_of(run), "duration_us"), seconds));
}

static void
put_counts(struct page *p)
{
	bool labelled = p->baseline != NULL;
	FILE *f = part_begin(&p->m);

	fprintf(f,
	        "\n### Counts\n\n%s pass | info | skip | warn | fail | error | known | experimental | stale | time |\n",
	        labelled ? "| |" : "|");
	fprintf(f, "|%s--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n", labelled ? "---|" : "");
	if (labelled)
		put_row(f, "before", p->baseline, true);
	put_row(f, "now", p->run, labelled);
	(void)part_end(&p->m, 0);
}

/* ---- failures ---- */

static void
put_value(FILE *f, const char *label, const char *value)
{
	if (*value == '\0')
		return;
	fprintf(f, "- %s: ", label);
	markup_code(f, value);
	putc('\n', f);
}

static void
put_requirement(FILE *f, const json_t *r)
{
	const char *name = saved_text(r, "requirement");
	autofree char *place = whole_place(r);

	if (*name == '\0')
		return;
	fprintf(f, "- **%s** `%s`: ", place, name);
	markup_prose(f, saved_text(r, "text"));
	putc('\n', f);
}

static void
put_points(FILE *f, const json_t *results, size_t at, size_t n)
{
	size_t unused;

	if (n < 2)
		return;
	fprintf(f, "- and at %zu more point%s: ", n - 1, n > 2 ? "s" : "");
	for (size_t i = 1; i < n && i <= POINTS_SHOWN; i++) {
		fputs(i > 1 ? ", " : "", f);
		markup_code(f, saved_text(alike_at(results, at, i, &unused), "point"));
	}
	fputs(n - 1 > POINTS_SHOWN ? " …\n" : "\n", f);
}

static void
put_facts(FILE *f, const json_t *r)
{
	put_requirement(f, r);
	put_value(f, "seen", saved_text(r, "message"));
	put_value(f, "expected", saved_text(r, "expected"));
	put_value(f, "got", saved_text(r, "got"));
	if (*saved_text(r, "title")) {
		fputs("- case: ", f);
		markup_prose(f, saved_text(r, "title"));
		putc('\n', f);
	}
	if (*saved_text(r, "reason")) {
		fputs("- the expectation file says: ", f);
		markup_prose(f, saved_text(r, "reason"));
		putc('\n', f);
	}
}

static bool
put_failure(struct page *p, size_t i, size_t n, bool all)
{
	const json_t *results = json_object_get(p->run, "results"), *r = json_array_get(results, i);
	autofree char *id = saved_id(r), *again = whole_again(p->run, r);
	FILE *f = part_begin(&p->m);

	fprintf(f, "\n<details><summary><b>%s</b> ", whole_outcome(r));
	markup_folded(f, id);
	if (n > 1)
		fprintf(f, " and %zu more point%s", n - 1, n > 2 ? "s" : "");
	fputs("</summary>\n\n", f);
	put_facts(f, r);
	put_points(f, results, i, n);
	putc('\n', f);
	markup_lines(f, again, TRANSCRIPT_MOST);
	if (all && *saved_text(r, "server")) {
		fputs("\nThe server:\n\n", f);
		markup_lines(f, saved_text(r, "server"), TRANSCRIPT_MOST);
	}
	if (all && *saved_text(r, "transcript")) {
		fputs("\nThe last messages:\n\n", f);
		markup_lines(f, saved_text(r, "transcript"), TRANSCRIPT_MOST);
	}
	fputs("\n</details>\n", f);
	return part_end(&p->m, END_ROOM);
}

static void
put_failures(struct page *p, bool red, const char *heading)
{
	const json_t *results = json_object_get(p->run, "results");
	bool any = false;
	json_t *r;
	size_t i, n;

	json_array_foreach(results, i, r)
	{
		if (!is_wanted(r, red) || !is_first_alike(results, i))
			continue;
		if (!any) {
			fprintf(part_begin(&p->m), "\n### %s\n", heading);
			any = part_end(&p->m, END_ROOM);
		}
		n = count_alike(results, i);
		if (!put_failure(p, i, n, true) && !put_failure(p, i, n, false))
			p->left_out += n;
	}
}

static void
put_end(struct page *p)
{
	FILE *f = part_begin(&p->m);

	if (p->left_out > 0)
		fprintf(f,
		        "\n**%zu more result%s had no room here** (a comment on GitHub has at most 65536 characters): "
		        "`--text`, `--json` and `--html` have all of them.\n",
		        p->left_out, p->left_out == 1 ? "" : "s");
	fprintf(f, "\nnbdspec %s\n", saved_text(p->run, "nbdspec"));
	(void)part_end(&p->m, 0);
}

static void
markdown_finish(void *state, const struct run_summary *s)
{
	struct whole *w = state;
	json_t *run = whole_end(w, s);
	struct page p = { .run = run, .baseline = w->baseline, .baseline_path = w->baseline_path };

	put_head(&p);
	put_baseline(&p);
	put_expectations(&p);
	put_counts(&p);
	put_failures(&p, true, "What makes this run fail");
	put_failures(&p, false, "Warnings");
	put_end(&p);
	markup_finish(&p.m, w->f);
	json_decref(run);
	whole_free(w);
}

REPORT(markdown) = {
	.name = "markdown",
	.help = "a summary for a pull request; written at the end",
	.compares = true,
	.open = whole_open,
	.result = whole_result,
	.stale = whole_stale,
	.finish = markdown_finish,
};
