/*
 * Workflow commands of GitHub Actions, which make annotations of a run. GitHub shows ten errors and ten warnings of a
 * step, and no more: what is new comes first, points of a case that break the same are one, and where there are more the
 * tenth tells what is left.
 */
#include "reports/changes.h"
#include "reports/whole.h"

#include "harness/saved.h"
#include "harness/test.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN_MOST = 10, TITLE_MOST = 200, NAMES_MOST = 600, WORDS_MOST = 2000 }; /* but for the first, bytes */

struct note {
	const json_t *result; /* or NULL */
	const json_t *stale;
	const char *words; /* of neither */
	size_t n;          /* points that are alike */
	bool new;          /* since the baseline */
};

struct notes {
	struct note *list;
	size_t n;
};

/* ---- writing ---- */

/* The runner takes these back; in a property ':' and ',' end something. */
static void
put_escaped(FILE *f, const char *text, bool property)
{
	for (; *text != '\0'; text++)
		if (strchr(property ? "%\r\n:," : "%\r\n", *text) != NULL)
			fprintf(f, "%%%02X", *text);
		else
			putc(*text, f);
}

static void
put_words(FILE *f, const char *text, size_t most, bool property)
{
	size_t n = strlen(text) <= most ? strlen(text) : most;
	autofree char *start = NULL;

	while (text[n] != '\0' && n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
		n--;
	start = strndup(text, n);
	put_escaped(f, start, property);
	if (text[n] != '\0')
		fprintf(f, "… and %zu bytes more", strlen(text) - n);
}

static void
put_place(FILE *f, const char *file, long long line)
{
	fputs("file=", f);
	put_escaped(f, file, true);
	if (line > 0)
		fprintf(f, ",line=%lld", line);
	putc(',', f);
}

static void
put_result(FILE *f, const json_t *run, const struct note *n)
{
	const struct case_def *c = case_named(saved_text(n->result, "case"));
	autofree char *id = saved_id(n->result), *why = whole_why(n->result), *place = whole_place(n->result);
	autofree char *again = whole_again(run, n->result);

	if (c != NULL)
		put_place(f, c->file, c->line);
	fputs("title=", f);
	put_escaped(f, whole_outcome(n->result), true);
	putc(' ', f);
	put_words(f, n->n > 1 ? saved_text(n->result, "case") : id, TITLE_MOST, true);
	if (n->n > 1)
		fprintf(f, " at %zu points", n->n);
	fputs("::", f);
	fputs(n->new ? "new: " : "", f);
	put_words(f, why, WORDS_MOST, false);
	if (*place) {
		fputs("%0A", f);
		put_escaped(f, place, false);
		fputs(": ", f);
		put_escaped(f, saved_text(n->result, "text"), false);
	}
	fputs("%0A", f);
	put_words(f, again, WORDS_MOST, false);
	putc('\n', f);
}

static void
put_note(FILE *f, const json_t *run, const char *command, const struct note *n)
{
	fprintf(f, "::%s ", command);
	if (n->result != NULL)
		put_result(f, run, n);
	else if (n->stale != NULL) {
		put_place(f, saved_text(n->stale, "file"), saved_number(n->stale, "line"));
		fputs("title=stale expectation::", f);
		put_escaped(f, saved_text(n->stale, "pattern"), false);
		fputs(": no result matches this line\n", f);
	} else {
		fputs("title=nbdspec::The run ended early: ", f);
		put_words(f, n->words, WORDS_MOST, false);
		putc('\n', f);
	}
}

static void
put_rest(FILE *f, const char *command, const struct note *list, size_t n)
{
	size_t names = 0;

	fprintf(f, "::%s title=nbdspec::%zu more are not shown, for GitHub shows %d: ", command, n, SHOWN_MOST);
	for (size_t i = 0; i < n && names < NAMES_MOST; i++) {
		const char *name = list[i].result != NULL ? saved_text(list[i].result, "case")
		                                          : saved_text(list[i].stale, "pattern");

		fputs(i > 0 ? ", " : "", f);
		put_words(f, name, NAMES_MOST, false);
		names += strlen(name);
	}
	fputs(names < NAMES_MOST ? "\n" : " …\n", f);
}

static void
put_notes(FILE *f, const json_t *run, const char *command, const struct notes *notes)
{
	size_t shown = notes->n <= SHOWN_MOST ? notes->n : SHOWN_MOST - 1;

	for (size_t i = 0; i < shown; i++)
		put_note(f, run, command, &notes->list[i]);
	if (shown < notes->n)
		put_rest(f, command, notes->list + shown, notes->n - shown);
}

/* ---- which, and in which order ---- */

static void
add(struct notes *notes, struct note note)
{
	notes->list = reallocarray(notes->list, notes->n + 1, sizeof(*notes->list));
	if (notes->list == NULL)
		err(3, "a report");
	notes->list[notes->n++] = note;
}

static void
add_result(struct notes *notes, const json_t *result, bool new)
{
	struct note *last = notes->n > 0 ? &notes->list[notes->n - 1] : NULL;

	if (last != NULL && last->result != NULL && last->new == new &&whole_alike(last->result, result))
		last->n++;
	else
		add(notes, (struct note){ .result = result, .n = 1, .new = new });
}

static bool
is_worse(const struct changes *c, const json_t *result)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->list[i].kind == CHANGE_WORSE && c->list[i].after == result)
			return true;
	return false;
}

/* Red ones, or the warnings that nobody knows; of these what is new, or the others. */
static void
add_results(struct notes *notes, const json_t *run, const struct changes *c, bool red, bool new)
{
	json_t *r;
	size_t i;

	for (int v = VERDICT_ERROR; v >= VERDICT_PASS; v--)
		json_array_foreach(json_object_get(run, "results"), i, r)
		{
			bool is_red = json_is_true(json_object_get(r, "red"));

			if ((int)saved_verdict(r) == v && is_red == red && is_worse(c, r) == new &&
			    (red || (v >= VERDICT_WARN && whole_excuse(r) == NULL)))
				add_result(notes, r, new);
		}
}

static void
put_all(FILE *f, const json_t *run, const struct changes *c)
{
	struct notes errors = { 0 }, warnings = { 0 };
	autofree char *counts = whole_counts(run);
	json_t *line;
	size_t i;

	if (whole_broken(run) != NULL)
		add(&errors, (struct note){ .words = whole_broken(run) });
	for (int new = 1; new >= 0; new --) {
		add_results(&errors, run, c, true, new);
		add_results(&warnings, run, c, false, new);
	}
	json_array_foreach(json_object_get(run, "stale"), i, line)
	{
		add(&errors, (struct note){ .stale = line });
	}
	put_notes(f, run, "error", &errors);
	put_notes(f, run, "warning", &warnings);
	fputs("::notice title=nbdspec::", f);
	put_escaped(f, saved_text(run, "target"), false);
	fprintf(f, ": %s\n", counts);
	fflush(f);
	free(errors.list);
	free(warnings.list);
}

static void
github_finish(void *state, const struct run_summary *s)
{
	struct whole *w = state;
	json_t *run = whole_end(w, s);
	struct changes c = { 0 };

	if (w->baseline != NULL)
		c = changes_between(w->baseline, run);
	put_all(w->f, run, &c);
	changes_free(&c);
	json_decref(run);
	whole_free(w);
}

REPORT(github) = {
	.name = "github",
	.help = "workflow commands of GitHub Actions; written at the end",
	.compares = true,
	.open = whole_open,
	.result = whole_result,
	.stale = whole_stale,
	.finish = github_finish,
};
