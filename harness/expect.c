#include "harness/expect.h"

#include "harness/printable.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#define REASON_WANTED "REASON WANTED"

struct line {
	unsigned number;
	char *pattern, *reason;
	enum verdict verdict;
	enum requirement_id requirement; /* or NONE: the peer died, and .crash is in what it printed */
	char *crash;
	bool flaky;
	bool matched;
};

/* In place of a requirement: what a server that dies breaks is a matter of chance. */
#define CRASH "crash:"

struct expectations {
	char *path;
	struct line *lines;
	size_t n;
};

static bool
parse_verdict(const char *word, struct line *l)
{
	l->flaky = strncmp(word, "flaky-", 6) == 0;
	if (l->flaky)
		word += 6;
	return verdict_named(word, &l->verdict) && (l->verdict == VERDICT_FAIL || l->verdict == VERDICT_WARN);
}

/* What is wrong with the line, or NULL; `word` is what it is about, or NULL. */
static const char *
parse_line(char *text, struct line *l, const char **word)
{
	char *save, *pattern = strtok_r(text, " \t", &save), *verdict = strtok_r(NULL, " \t", &save);
	char *req = strtok_r(NULL, " \t", &save), *reason = strtok_r(NULL, "", &save);

	if (pattern == NULL || verdict == NULL || req == NULL)
		return "want PATTERN VERDICT REQUIREMENT REASON";
	*word = verdict;
	if (!parse_verdict(verdict, l))
		return "the verdict must be fail, warn, flaky-fail or flaky-warn";
	*word = req;
	l->requirement = requirement_named(req);
	if (l->requirement == REQUIREMENT_NONE &&
	    (strncmp(req, CRASH, sizeof(CRASH) - 1) != 0 || req[sizeof(CRASH) - 1] == '\0'))
		return "no such requirement; 'nbdspec requirements' lists them, and " CRASH
		       "TEXT is a server or a client that died";
	if (l->requirement == REQUIREMENT_NONE)
		l->crash = strdup(req + sizeof(CRASH) - 1);
	l->pattern = strdup(pattern);
	l->reason = strdup(reason != NULL ? reason + strspn(reason, " \t") : "");
	return NULL;
}

static void
add_reason(struct line *l, const char *more)
{
	char *joined;

	if (asprintf(&joined, "%s%s%s", l->reason, *l->reason ? " " : "", more + strspn(more, " \t")) < 0)
		abort();
	free(l->reason);
	l->reason = joined;
}

static const char *
take_line(struct expectations *e, char *text, unsigned number, const char **word)
{
	struct line *l;

	text[strcspn(text, "\r\n")] = '\0';
	if (text[0] == '#' || text[strspn(text, " \t")] == '\0')
		return NULL;
	if (text[0] == ' ' || text[0] == '\t') {
		if (e->n == 0)
			return "a continued reason without a line before it";
		add_reason(&e->lines[e->n - 1], text);
		return NULL;
	}
	e->lines = reallocarray(e->lines, e->n + 1, sizeof(*e->lines));
	if (e->lines == NULL)
		abort();
	l = &e->lines[e->n++];
	*l = (struct line){ .number = number };
	return parse_line(text, l, word);
}

/* Every line must say why. */
static const char *
check_reasons(const struct expectations *e, unsigned *number)
{
	for (size_t i = 0; i < e->n; i++)
		if (e->lines[i].reason[0] == '\0' || strstr(e->lines[i].reason, REASON_WANTED) != NULL) {
			*number = e->lines[i].number;
			return "the reason is missing: say why this deviation is known";
		}
	return NULL;
}

static bool
read_file(struct expectations *e, FILE *f, char error[512])
{
	const char *wrong = NULL, *word = NULL;
	unsigned number = 0;
	char *text = NULL;
	size_t size = 0;
	ssize_t len;

	while (wrong == NULL && (word = NULL, len = getline(&text, &size, f)) >= 0) {
		number++;
		wrong = strlen(text) < (size_t)len ? "a NUL byte: this is no text" : take_line(e, text, number, &word);
	}
	if (ferror(f))
		snprintf(error, 512, "%.300s: %s", e->path, strerror(errno));
	else if (wrong != NULL || (wrong = check_reasons(e, &number)) != NULL)
		snprintf(error, 512, "%.200s:%u: %s%.60s%s%s", e->path, number, word ? "'" : "", word ? word : "",
		         word ? "': " : "", wrong);
	free(text);
	return wrong == NULL && !ferror(f);
}

struct expectations *
expect_load(const char *path, char error[512])
{
	struct expectations *e = calloc(1, sizeof(*e));
	FILE *f = fopen(path, "re");
	bool ok;

	if (e == NULL)
		abort();
	e->path = strdup(path);
	ok = f != NULL && read_file(e, f, error);
	if (f == NULL)
		snprintf(error, 512, "%.300s: %s", path, strerror(errno));
	else
		fclose(f);
	if (ok)
		return e;
	expect_free(e);
	return NULL;
}

void
expect_free(struct expectations *e)
{
	if (e == NULL)
		return;
	for (size_t i = 0; i < e->n; i++) {
		free(e->lines[i].pattern);
		free(e->lines[i].crash);
		free(e->lines[i].reason);
	}
	free(e->lines);
	free(e->path);
	free(e);
}

/* '[' begins a point, so it is no special character of the glob. */
static bool
matches(const char *pattern, const char *id)
{
	char quoted[1024];
	size_t n = 0;

	for (; *pattern != '\0' && n + 3 < sizeof(quoted); pattern++) {
		if (*pattern == '[' || *pattern == ']')
			quoted[n++] = '\\';
		quoted[n++] = *pattern;
	}
	quoted[n] = '\0';
	return fnmatch(quoted, id, 0) == 0;
}

/*
 * A finding of an exploration tells by itself how the server died, for it may not do so again when it is shown. Of a client
 * its end is what was got.
 */
static bool
died_of(const struct result *r, const char *crash)
{
	bool told = r->again != NULL && *r->again != '\0' && r->got != NULL && strncmp(r->got, "the server ", 11) == 0;
	bool client = r->got != NULL && strstr(r->got, " was killed by signal ") != NULL;

	return (r->server_died && strstr(r->server, crash) != NULL) ||
	       ((told || client) && strstr(r->got, crash) != NULL);
}

static bool
says(const struct line *l, const struct result *r)
{
	return l->verdict == r->verdict && (l->crash != NULL ? died_of(r, l->crash) : l->requirement == r->requirement);
}

/* The line that says just this, else the first that speaks of the case; a crash that may be speaks only of crashes. */
static struct line *
line_for(struct expectations *e, const struct result *r)
{
	struct line *exact = NULL, *found = NULL;
	char id[512];

	snprintf(id, sizeof(id), "%s%s%s%s", r->case_id, r->point ? "[" : "", r->point ? r->point : "",
	         r->point ? "]" : "");
	for (size_t i = 0; e != NULL && i < e->n; i++) {
		if (!matches(e->lines[i].pattern, id))
			continue;
		/* What comes by chance is not stale where another chance has come. */
		if (e->lines[i].flaky)
			e->lines[i].matched = true;
		if (exact == NULL && says(&e->lines[i], r))
			exact = &e->lines[i];
		if (found == NULL && !(e->lines[i].flaky && e->lines[i].crash != NULL))
			found = &e->lines[i];
	}
	return exact != NULL ? exact : found;
}

void
expect_judge(struct expectations *e, struct result *r, bool strict)
{
	struct line *l = line_for(e, r);
	bool bad = r->verdict == VERDICT_FAIL || r->verdict == VERDICT_ERROR || (strict && r->verdict == VERDICT_WARN);

	r->red = bad;
	if (l == NULL)
		return;
	r->reason = l->reason;
	l->matched = true;
	if (r->verdict == VERDICT_SKIP || r->verdict == VERDICT_ERROR)
		return; /* it did not run: neither better nor worse, nor stale */
	r->expectation = l->flaky ? EXPECT_FLAKY : EXPECT_KNOWN;
	if (says(l, r)) {
		r->red = false;
		return;
	}
	if (r->verdict == VERDICT_PASS || r->verdict == VERDICT_INFO) {
		r->expectation = l->flaky ? EXPECT_FLAKY : EXPECT_UNEXPECTED_PASS;
		r->red = !l->flaky;
		return;
	}
	r->expectation = EXPECT_CHANGED;
	r->red = true;
}

unsigned
expect_stale(struct expectations *e, bool (*selected)(void *arg, const char *pattern), void *arg,
             void (*found)(void *arg, const struct stale *s))
{
	unsigned n = 0;

	for (size_t i = 0; e != NULL && i < e->n; i++) {
		struct stale s = { e->path, e->lines[i].number, e->lines[i].pattern };

		if (e->lines[i].matched || !selected(arg, e->lines[i].pattern))
			continue;
		found(arg, &s);
		n++;
	}
	return n;
}

/* A pattern has no blanks, and a backslash would quote what follows. */
static void
put_pattern(FILE *f, const char *text)
{
	for (; *text != '\0'; text++)
		fputc(*text > ' ' && *text < 0x7f && *text != '\\' ? *text : '?', f);
}

/* As comments: a line is one message or one row of its hex. */
static void
put_transcript(FILE *f, const char *text)
{
	char *clean = printable_text(text, PRINTABLE_LINES | PRINTABLE_AGAIN), *save = NULL;

	for (char *line = strtok_r(clean, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save))
		fprintf(f, "# %s\n", line);
	free(clean);
}

void
expect_write(FILE *f, const struct result *r, bool with_transcript)
{
	char *message = printable_string(r->message), *expected = printable_string(r->expected);
	char *got = printable_string(r->got);

	if (with_transcript)
		put_transcript(f, r->transcript);
	put_pattern(f, r->case_id);
	if (r->point != NULL) {
		fputc('[', f);
		put_pattern(f, r->point);
		fputc(']', f);
	}
	fprintf(f, "  %s  %s\n", verdict_name(r->verdict), requirement(r->requirement)->id);
	fprintf(f, "\t" REASON_WANTED ": %s%s%s%s%s\n", message, *expected ? "expected " : "", expected,
	        *got ? "; got " : "", got);
	free(message);
	free(expected);
	free(got);
}
