#include "reports/markup.h"

#include "harness/saved.h"
#include "reports/changes.h"
#include "reports/page.h"
#include "reports/whole.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the text that are shown, up to the end of a character. */
static size_t
shown(const char *text, size_t most)
{
	size_t n = strlen(text);

	if (n <= most)
		return n;
	n = most;
	while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
		n--;
	return n;
}

static size_t
longest_run(const char *text, size_t n, char of)
{
	size_t longest = 0, run = 0;

	for (size_t i = 0; i < n; i++) {
		run = text[i] == of ? run + 1 : 0;
		longest = run > longest ? run : longest;
	}
	return longest;
}

static void
put_times(FILE *f, char c, size_t n)
{
	while (n-- > 0)
		putc(c, f);
}

/* Fenced by more backticks than are in it; one blank at both ends is taken away by who reads it. */
void
markup_code(FILE *f, const char *text)
{
	size_t n = shown(text, MARKUP_CODE_MOST), fence = longest_run(text, n, '`') + 1;
	bool pad = n > 0 && (strchr("` ", text[0]) != NULL || strchr("` ", text[n - 1]) != NULL);

	if (n == 0)
		return;
	put_times(f, '`', fence);
	fprintf(f, "%s%.*s%s", pad ? " " : "", (int)n, text, pad ? " " : "");
	put_times(f, '`', fence);
	if (text[n] != '\0')
		fprintf(f, " … and %zu bytes more", strlen(text) - n);
}

void
markup_prose(FILE *f, const char *text)
{
	for (; *text != '\0'; text++) {
		if (strchr("\\`*_[]<>#|~&$!", *text) != NULL)
			putc('\\', f);
		putc(*text, f);
	}
}

void
markup_lines(FILE *f, const char *lines, size_t most)
{
	size_t n = shown(lines, most), fence = longest_run(lines, n, '`') + 1;

	fence = fence < 3 ? 3 : fence;
	put_times(f, '`', fence);
	fprintf(f, "\n%.*s%s", (int)n, lines, n > 0 && lines[n - 1] == '\n' ? "" : "\n");
	if (lines[n] != '\0')
		fprintf(f, "… and %zu bytes more\n", strlen(lines) - n);
	put_times(f, '`', fence);
	putc('\n', f);
}

void
markup_folded(FILE *f, const char *text)
{
	autofree char *start = strndup(text, shown(text, MARKUP_CODE_MOST));

	fputs("<code>", f);
	page_put_text(f, start);
	fprintf(f, "%s</code>", strlen(start) < strlen(text) ? "…" : "");
}

/* ---- a document that has an end ---- */

FILE *
part_begin(struct markup *m)
{
	m->part = open_memstream(&m->part_text, &m->part_size);
	if (m->part == NULL)
		err(3, "a part of a report");
	return m->part;
}

bool
part_end(struct markup *m, size_t keep)
{
	bool fits;

	fclose(m->part);
	fits = m->size + m->part_size + keep <= MARKUP_MOST;
	if (fits) {
		m->text = realloc(m->text, m->size + m->part_size + 1);
		if (m->text == NULL)
			err(3, "a report");
		memcpy(m->text + m->size, m->part_text, m->part_size);
		m->size += m->part_size;
	}
	free(m->part_text);
	return fits;
}

void
markup_finish(struct markup *m, FILE *f)
{
	fwrite(m->text, 1, m->size, f);
	fflush(f);
	free(m->text);
}

/* ---- what changed ---- */

enum { ONLY_SHOWN = 10 }; /* lines of what only one of the runs has */

static void
put_change(FILE *f, const struct change *list, size_t n)
{
	const json_t *r = change_result(list);
	autofree char *words = change_words(list), *id = saved_id(r), *why = whole_why(r);
	const char *excuse = list->after != NULL ? whole_excuse(r) : NULL;

	fprintf(f, "- **%s** ", list->after != NULL ? saved_text(r, "verdict") : "gone");
	markup_code(f, id);
	if (n > 1)
		fprintf(f, " and %zu more point%s", n - 1, n > 2 ? "s" : "");
	fprintf(f, ", ");
	markup_prose(f, words);
	if (excuse != NULL)
		fprintf(f, ", %s", excuse);
	if (list->after != NULL && *why) {
		fputs(": ", f);
		markup_code(f, why);
	}
	putc('\n', f);
}

/* Those of one kind, from the i-th on. Returns how many had no room. */
static size_t
put_kind(struct markup *m, const struct changes *c, size_t i, size_t keep)
{
	enum change_kind kind = c->list[i].kind;
	bool only = kind == CHANGE_ONLY_BEFORE || kind == CHANGE_ONLY_AFTER, room = true;
	size_t end = i + c->count[kind], lines = 0;

	fprintf(part_begin(m), "\n**%s: %zu**\n\n", change_heading(kind), c->count[kind]);
	room = part_end(m, keep + 200);
	for (size_t n; room && i < end && !(only && lines == ONLY_SHOWN); i += n, lines++) {
		n = changes_alike(c, i);
		put_change(part_begin(m), &c->list[i], n);
		room = part_end(m, keep + 200);
		if (!room)
			break;
	}
	if (i < end) {
		fprintf(part_begin(m), "- and %zu more\n", end - i);
		(void)part_end(m, keep);
	}
	return end - i;
}

bool
markup_changes(struct markup *m, const struct changes *c, size_t keep)
{
	bool all = true;

	for (int side = 0; side < 2; side++) {
		if (c->broken[side] == NULL)
			continue;
		fprintf(part_begin(m), "\n**The run %s ended early:** ", side == 0 ? "before" : "after");
		markup_code(m->part, c->broken[side]);
		putc('\n', m->part);
		(void)part_end(m, keep);
	}
	if (c->n == 0) {
		fprintf(part_begin(m), "\nNothing: all %zu results are as before.\n", c->same);
		(void)part_end(m, keep);
	}
	for (size_t i = 0; i < c->n; i += c->count[c->list[i].kind])
		all &= put_kind(m, c, i, keep) == 0 || c->list[i].kind >= CHANGE_ONLY_BEFORE;
	return all;
}
