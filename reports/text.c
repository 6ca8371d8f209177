/*
 * The report that a person reads. On a terminal a line of progress stands below it; what is no pass appears as it
 * comes, what is worth knowing follows at the end, and the end also names all that made the run fail once more, so that
 * nobody has to scroll for it.
 */
#include "reports/report.h"

#include "harness/printable.h"

#include <err.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
	INDENT = 7,           /* of all that stands under a headline */
	VALUES = INDENT + 12, /* the longest label is "SHOULD NOT" */
	WIDEST = 120,         /* columns: wider text is hard to read */
	CASES_SHOWN = 60,     /* bytes of case ids on the line of a reason to skip */
};

enum shade { PLAIN, BOLD, DIM, RED, GREEN, YELLOW, BLUE, MAGENTA };

static const enum shade shade_of[N_VERDICTS] = {
	[VERDICT_PASS] = GREEN,  [VERDICT_INFO] = BLUE, [VERDICT_SKIP] = BLUE,
	[VERDICT_WARN] = YELLOW, [VERDICT_FAIL] = RED,  [VERDICT_ERROR] = MAGENTA,
};

/* All skips for one reason. */
struct skips {
	struct skips *next;
	char *feature, *message, *last; /* last: the case named last; its points are not named again */
	char cases[CASES_SHOWN];
	unsigned count, unnamed;
};

struct text {
	FILE *f;
	bool live, colour; /* a line of progress; colours */
	unsigned width;    /* columns to fold lines at; 0: never */
	bool progress;     /* the line of progress is on the terminal */
	unsigned count[N_VERDICTS], known[N_VERDICTS], apart[N_VERDICTS];
	struct skips *skips;
	FILE *infos, *knowns, *reds; /* sections of the end, written as results come */
	char *infos_text, *knowns_text, *reds_text;
	size_t infos_size, knowns_size, reds_size;
};

/* ---- words on the terminal ---- */

static void
shade(const struct text *t, FILE *f, enum shade s)
{
	static const char *const codes[] = { "0", "1", "2", "1;31", "32", "1;33", "34", "1;35" };

	if (t->colour)
		fprintf(f, "\033[%sm", codes[s]);
}

__attribute__((format(printf, 4, 5))) static void
put_shaded(const struct text *t, FILE *f, enum shade s, const char *fmt, ...)
{
	va_list ap;

	shade(t, f, s);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	shade(t, f, PLAIN);
}

/* Some characters beyond ASCII take two columns: to be sure that a line fits, all count as two. */
static unsigned
columns(const char *s, size_t n)
{
	unsigned columns = 0;

	for (size_t i = 0; i < n; i++)
		columns += (unsigned char)s[i] < 0x80 ? 1 : (unsigned char)s[i] >= 0xc0 ? 2 : 0;
	return columns;
}

static unsigned
terminal_width(FILE *f)
{
	struct winsize size;

	return ioctl(fileno(f), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/* Prints from column `at` on. Words that would pass the edge, and what follows a '\n', begin a new line at `column`. */
static void
put_folded(const struct text *t, FILE *f, unsigned at, unsigned column, const char *s)
{
	while (*s) {
		size_t gap = strspn(s, " "), n = strcspn(s + gap, " \n");
		unsigned wide = columns(s + gap, n);

		if (t->width > 0 && at > column && n > 0 && at + gap + wide > t->width)
			at = (unsigned)fprintf(f, "\n%*s", (int)column, "") - 1;
		else
			at += (unsigned)fprintf(f, "%*s", (int)gap, "");
		fwrite(s + gap, 1, n, f);
		at += wide;
		s += gap + n;
		if (*s == '\n' && *++s != '\0')
			at = (unsigned)fprintf(f, "\n%*s", (int)column, "") - 1;
	}
}

/* ---- a result that is worth a block ---- */

static void
clear_progress(struct text *t)
{
	if (t->progress)
		fputs("\r\033[K", t->f);
	t->progress = false;
}

static void
put_field(const struct text *t, const char *label, enum shade s, const char *value, unsigned flags)
{
	autofree char *text = printable_text(value, flags);

	if (text[0] == '\0')
		return;
	fprintf(t->f, "%*s", INDENT, "");
	put_shaded(t, t->f, DIM, "%-*s", VALUES - INDENT, label);
	if (s != PLAIN)
		shade(t, t->f, s);
	put_folded(t, t->f, VALUES, VALUES, text);
	if (s != PLAIN)
		shade(t, t->f, PLAIN);
	putc('\n', t->f);
}

static void
put_headline(const struct text *t, const struct result *r)
{
	autofree char *id = result_id(r), *message = printable_string(r->message);
	const char *name = verdict_name(r->verdict);
	enum shade s = r->red ? RED : shade_of[r->verdict];
	char capitals[8] = "", seconds[SECONDS_MAX_TEXT];

	for (size_t i = 0; name[i] && i + 1 < sizeof(capitals); i++)
		capitals[i] = (char)(name[i] - 'a' + 'A');
	put_shaded(t, t->f, s, "%-*s", INDENT, capitals);
	put_shaded(t, t->f, BOLD, "%s", id);
	put_shaded(t, t->f, DIM, "  %s s", seconds_text(r->duration_us, seconds));
	putc('\n', t->f);
	if (message[0] == '\0')
		return;
	fprintf(t->f, "%*s", INDENT, "");
	put_folded(t, t->f, INDENT, INDENT, message);
	putc('\n', t->f);
}

static void
put_requirement(const struct text *t, const struct result *r)
{
	const struct requirement *q = requirement(r->requirement);
	autofree char *place = NULL;

	if (r->requirement == REQUIREMENT_NONE)
		return;
	if (asprintf(&place, "%s, %s, binds the %s", q->where, q->id, binds_name(q->binds)) < 0)
		err(3, "a line of a report");
	put_field(t, level_name(q->level), PLAIN, q->text, 0);
	put_field(t, "", DIM, place, 0);
}

/* The lines are not folded, for columns say something there; with one space before it, a hex dump fits into 80. */
static void
put_lines(const struct text *t, const char *lines, unsigned flags)
{
	autofree char *text = printable_text(lines, PRINTABLE_LINES | flags);

	if (text[0] != '\0')
		putc('\n', t->f);
	for (const char *line = text; *line;) {
		size_t n = strcspn(line, "\n");

		fprintf(t->f, "%*s%.*s\n", n > 0, "", (int)n, line);
		line += n + (line[n] == '\n');
	}
}

static void
put_block(struct text *t, const struct result *r)
{
	clear_progress(t);
	put_headline(t, r);
	put_field(t, "expected", GREEN, r->expected, 0);
	put_field(t, "got", RED, r->got, 0);
	put_requirement(t, r);
	put_field(t, "case", PLAIN, r->title, 0);
	if (r->expectation == EXPECT_UNEXPECTED_PASS)
		put_field(t, "but", PLAIN, "the expectation file calls this a deviation; remove its line", 0);
	else if (result_is_apart(r))
		put_field(t, "but", PLAIN, "the extension is experimental; --experimental makes it fail the run", 0);
	else if (r->expectation == EXPECT_CHANGED)
		put_field(t, "but", PLAIN, "the expectation file expects another verdict or requirement", 0);
	put_field(t, "reason", PLAIN, r->reason, 0);
	put_field(t, "server", PLAIN, r->server, PRINTABLE_LINES);
	put_lines(t, r->transcript, PRINTABLE_AGAIN);
	put_lines(t, r->again, PRINTABLE_AGAIN);
	putc('\n', t->f);
}

/* ---- what is kept for the end ---- */

/* A line of a list; where it is too long for the terminal the rest stands under it. */
static void
put_item(const struct text *t, FILE *f, const char *verdict, enum shade s, const char *id, const char *words)
{
	unsigned at = 2 + (verdict ? INDENT : 0);

	fputs("  ", f);
	if (verdict != NULL)
		put_shaded(t, f, s, "%-*s", INDENT, verdict);
	put_shaded(t, f, BOLD, "%s", id);
	fputs("  ", f);
	put_folded(t, f, at + columns(id, strlen(id)) + 2, at + 2, words);
	putc('\n', f);
}

static void
keep_known(const struct text *t, const struct result *r)
{
	autofree char *id = result_id(r), *reason = printable_string(r->reason), *words = NULL;

	if (asprintf(&words, "%s%s", r->expectation == EXPECT_FLAKY ? "(flaky) " : "", reason) < 0)
		err(3, "a line of a report");
	put_item(t, t->knowns, verdict_name(r->verdict), shade_of[r->verdict], id, words);
}

static void
keep_info(const struct text *t, const struct result *r)
{
	const struct requirement *q = requirement(r->requirement);
	autofree char *id = result_id(r), *message = printable_string(r->message), *words = NULL;

	if (asprintf(&words, q->where[0] ? "%s (%s %s)" : "%s", message, level_name(q->level), q->where) < 0)
		err(3, "a line of a report");
	put_item(t, t->infos, NULL, PLAIN, id, words);
}

static void
keep_red(const struct text *t, const struct result *r)
{
	autofree char *id = result_id(r), *why = result_why(r);

	put_item(t, t->reds, verdict_name(r->verdict), RED, id, why);
}

static void
skips_add(struct skips *g, const struct result *r)
{
	char *id = printable_string(r->case_id);
	size_t used = strlen(g->cases);
	bool again = g->last != NULL && strcmp(g->last, id) == 0;

	g->count++;
	if (!again && g->unnamed == 0 && used + strlen(id) + 2 < sizeof(g->cases))
		snprintf(g->cases + used, sizeof(g->cases) - used, "%s%s", used ? ", " : "", id);
	else if (!again)
		g->unnamed++;
	free(g->last);
	g->last = id;
}

static void
keep_skip(struct text *t, const struct result *r)
{
	char *feature = printable_string(r->feature), *message = printable_string(r->message);
	struct skips **g = &t->skips;

	while (*g != NULL && (strcmp((*g)->feature, feature) != 0 || strcmp((*g)->message, message) != 0))
		g = &(*g)->next;
	if (*g == NULL) {
		*g = report_state(sizeof(**g));
		(*g)->feature = feature;
		(*g)->message = message;
	} else {
		free(feature);
		free(message);
	}
	skips_add(*g, r);
}

/* ---- the writer ---- */

static void
text_progress(void *state, unsigned done, unsigned total, const char *running)
{
	struct text *t = state;
	char line[256];
	size_t n;

	if (!t->live)
		return;
	n = (size_t)snprintf(line, sizeof(line), "[%u/%u] ", done, total);
	for (int v = VERDICT_WARN; v < N_VERDICTS; v++)
		if (t->count[v] > 0)
			n += (size_t)snprintf(line + n, sizeof(line) - n, "%u %s, ", t->count[v],
			                      verdict_name((enum verdict)v));
	printable_into(line + n, sizeof(line) - n, running, running ? strlen(running) : 0, 0);
	n = strlen(line);
	for (unsigned width = terminal_width(t->f); n > 0 && columns(line, n) >= width;)
		while (((unsigned char)line[--n] & 0xc0) == 0x80)
			;
	fprintf(t->f, "\r\033[K%.*s", (int)n, line);
	fflush(t->f);
	t->progress = true;
}

static void
text_result(void *state, const struct result *r)
{
	struct text *t = state;

	t->count[r->verdict]++;
	if (r->red)
		keep_red(t, r);
	t->known[r->verdict] += result_is_known(r);
	t->apart[r->verdict] += result_is_apart(r);
	if (result_is_known(r))
		keep_known(t, r);
	else if (r->red || r->verdict >= VERDICT_WARN)
		put_block(t, r);
	else if (r->verdict == VERDICT_SKIP)
		keep_skip(t, r);
	else if (r->verdict == VERDICT_INFO || result_tells(r))
		keep_info(t, r);
	fflush(t->f);
}

static void
text_stale(void *state, const struct stale *s)
{
	struct text *t = state;
	autofree char *file = printable_string(s->file), *pattern = printable_string(s->pattern);
	autofree char *place = NULL, *words = NULL;

	if (asprintf(&place, "%s:%u", file, s->line) < 0 || asprintf(&words, "no result matches %s", pattern) < 0)
		err(3, "a line of a report");
	put_item(t, t->reds, "stale", RED, place, words);
}

static void *
text_open(FILE *f, const struct run_info *info)
{
	struct text *t = report_state(sizeof(*t));
	const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");
	bool terminal = isatty(fileno(f));

	t->f = f;
	t->live = terminal && term != NULL && strcmp(term, "dumb") != 0;
	t->colour = t->live && (no_colour == NULL || no_colour[0] == '\0');
	t->width = terminal ? terminal_width(f) : 0;
	t->width = t->width > WIDEST ? WIDEST : t->width;
	t->infos = open_memstream(&t->infos_text, &t->infos_size);
	t->knowns = open_memstream(&t->knowns_text, &t->knowns_size);
	t->reds = open_memstream(&t->reds_text, &t->reds_size);
	if (t->infos == NULL || t->knowns == NULL || t->reds == NULL)
		err(3, "the end of a report");
	fputs("nbdspec ", f);
	printable_put(f, info->version, 0);
	put_shaded(t, f, DIM, "  suite ");
	printable_put(f, info->suite, 0);
	put_shaded(t, f, DIM, "  target ");
	printable_put(f, info->target, 0);
	if (info->shard != NULL) {
		put_shaded(t, f, DIM, "  shard ");
		fprintf(f, "%u/%u", info->shard->number, info->shard->of);
	}
	fputs("\n\n", f);
	fflush(f);
	return t;
}

/* Ends the stream of a section and prints it under its heading. */
static void
put_section(const struct text *t, const char *heading, FILE *stream, char **text)
{
	fclose(stream);
	if ((*text)[0] != '\0') {
		put_shaded(t, t->f, BOLD, "%s", heading);
		fprintf(t->f, "\n%s\n", *text);
	}
	free(*text);
}

static void
put_skip(const struct text *t, struct skips *g)
{
	autofree char *count = NULL, *words = NULL, *more = NULL;

	if (asprintf(&more, "%s%u more", g->cases[0] ? ", " : "", g->unnamed) < 0 ||
	    asprintf(&count, "%3u", g->count) < 0 ||
	    asprintf(&words, "%s%s%s (%s%s)", g->feature, g->feature[0] && g->message[0] ? ": " : "", g->message,
	             g->cases, g->unnamed > 0 ? more : "") < 0)
		err(3, "a line of a report");
	put_item(t, t->f, NULL, PLAIN, count, words);
	free(g->feature);
	free(g->message);
	free(g->last);
	free(g);
}

static void
put_skips(struct text *t)
{
	if (t->skips == NULL)
		return;
	put_shaded(t, t->f, BOLD, "Skipped");
	putc('\n', t->f);
	for (struct skips *g = t->skips, *next; g != NULL; g = next) {
		next = g->next;
		put_skip(t, g);
	}
	putc('\n', t->f);
}

static void
put_summary(const struct text *t, const struct run_summary *s)
{
	static const enum verdict order[] = { VERDICT_PASS, VERDICT_INFO,  VERDICT_WARN,
		                              VERDICT_FAIL, VERDICT_ERROR, VERDICT_SKIP };
	char seconds[SECONDS_MAX_TEXT];

	shade(t, t->f, s->red > 0 || s->interrupted || s->broken ? RED : GREEN);
	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		if (s->count[order[i]] == 0 && order[i] != VERDICT_PASS)
			continue;
		fprintf(t->f, "%s%u %s", i ? ", " : "", s->count[order[i]], verdict_name(order[i]));
		if (t->known[order[i]] > 0)
			fprintf(t->f, " (%u known)", t->known[order[i]]);
		if (t->apart[order[i]] > 0)
			fprintf(t->f, " (%u experimental)", t->apart[order[i]]);
	}
	if (s->stale > 0)
		fprintf(t->f, ", %u stale", s->stale);
	fprintf(t->f, " in %s s", seconds_text(s->duration_us, seconds));
	shade(t, t->f, PLAIN);
	putc('\n', t->f);
}

static void
text_finish(void *state, const struct run_summary *s)
{
	struct text *t = state;

	clear_progress(t);
	put_section(t, "What the implementation chose", t->infos, &t->infos_text);
	put_skips(t);
	put_section(t, "Known deviations", t->knowns, &t->knowns_text);
	put_section(t, "Why this run fails", t->reds, &t->reds_text);
	if (s->broken != NULL || s->interrupted) {
		autofree char *why = printable_string(s->broken ? s->broken : "interrupted");

		put_shaded(t, t->f, RED, "The run ended early: %s", why);
		putc('\n', t->f);
	}
	put_summary(t, s);
	fflush(t->f);
	free(t);
}

REPORT(text) = {
	.name = "text",
	.help = "what a person reads on a terminal",
	.open = text_open,
	.result = text_result,
	.stale = text_stale,
	.progress = text_progress,
	.finish = text_finish,
};
