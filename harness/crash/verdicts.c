#include "harness/crash/verdicts.h"

#include "harness/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int
compare_known(const void *a, const void *b)
{
	const struct known_verdict *x = a, *y = b;

	if (x->key.low != y->key.low)
		return x->key.low < y->key.low ? -1 : 1;
	return x->key.high < y->key.high ? -1 : x->key.high > y->key.high;
}

static bool
read_verdict(struct verdicts *v, const char *line)
{
	struct known_verdict k = { .result = { .verdict = VERDICT_BROKEN } };
	int wrote, end = 0;
	char name[16];

	if (sscanf(line, "%16" SCNx64 "%16" SCNx64 " %15s %d %d %199s %n", &k.key.low, &k.key.high, name,
	           &k.result.number, &wrote, k.result.second, &end) != 6 ||
	    end == 0)
		return false;
	if (strcmp(k.result.second, "-") == 0)
		k.result.second[0] = '\0';
	for (int i = 0; i < VERDICT_BROKEN; i++)
		if (strcmp(name, state_verdict_name(i)) == 0)
			k.result.verdict = i;
	k.result.wrote = wrote != 0;
	snprintf(k.result.output, sizeof(k.result.output), "%s", line + end);
	k.result.output[strcspn(k.result.output, "\n")] = '\0';
	if ((v->n & (v->n - 1)) == 0)
		v->known = reallocarray(v->known, v->n == 0 ? 1 : 2 * v->n, sizeof(*v->known));
	if (v->known == NULL)
		abort();
	v->known[v->n++] = k;
	return k.result.verdict != VERDICT_BROKEN;
}

/* "t FROM CONTENT CELL CONTENT CELL CONTENT …": what the last verdict has added to the trie. */
static bool
read_path(struct verdicts *v, char *line)
{
	struct trie_path path = { .from = 0 };
	size_t most = strlen(line) / 4 + 1;
	struct touched *touched = calloc(most, sizeof(*touched));
	char *at, *middle, *end;
	unsigned long numbers[2];
	bool ok = v->n > 0;

	if (touched == NULL)
		abort();
	for (at = line + 1; ok && *at != '\n'; at = end, path.n++) {
		numbers[0] = strtoul(at, &middle, 10);
		numbers[1] = strtoul(middle, &end, 10);
		ok = *at == ' ' && *middle == ' ' && end > middle && path.n <= most && numbers[0] <= NEVER &&
		     numbers[1] <= NEVER;
		if (ok && path.n > 0)
			touched[path.n - 1] = (struct touched){ (uint32_t)numbers[0], (uint32_t)numbers[1] };
		if (path.n == 0) {
			path.from = (uint32_t)numbers[0];
			path.content = (uint32_t)numbers[1];
		}
	}
	ok = ok && path.n-- > 0;
	path.touched = touched;
	ok = ok && (v->trie == NULL || trie_restore(v->trie, &path, &v->known[v->n - 1].result));
	free(touched);
	return ok;
}

static bool
read_line(struct verdicts *v, char *line)
{
	return line[0] == 't' ? read_path(v, line) : read_verdict(v, line);
}

/* Whole lines; where they end. */
static bool
read_lines(struct verdicts *v, const char *path, const char *what, long *end, char error[512])
{
	char *line = NULL;
	size_t room = 0;
	ssize_t n;
	bool ok = true, first = true;

	*end = 0;
	while (ok && (n = getline(&line, &room, v->f)) > 0 && line[n - 1] == '\n') {
		line[n - 1] = first ? '\0' : '\n';
		ok = first ? strcmp(line, what) == 0 : read_line(v, line);
		if (!ok && first)
			snprintf(error, 512,
			         "%.200s has verdicts of another exploration, or is no such file; name another", path);
		else if (!ok)
			snprintf(error, 512, "%.200s: a line of it is not understood; remove the file to begin anew",
			         path);
		*end += n;
		first = false;
	}
	free(line);
	return ok;
}

bool
verdicts_open(struct verdicts *v, struct trie *t, const char *path, const char *what, char error[512])
{
	long end;

	*v = (struct verdicts){ .f = fopen(path, "a+e"), .trie = t };
	TAILQ_INIT(&v->held);
	if (v->f == NULL) {
		snprintf(error, 512, "%.200s: %s", path, strerror(errno));
		return false;
	}
	rewind(v->f);
	if (!read_lines(v, path, what, &end, error)) {
		verdicts_close(v, 0);
		return false;
	}
	if (v->n > 0)
		qsort(v->known, v->n, sizeof(*v->known), compare_known);
	if (ftruncate(fileno(v->f), end) != 0 || fseek(v->f, 0, SEEK_END) != 0 ||
	    (end == 0 && fprintf(v->f, "%s\n", what) < 0) || fflush(v->f) != 0) {
		snprintf(error, 512, "%.200s: %s", path, strerror(errno));
		verdicts_close(v, 0);
		return false;
	}
	setvbuf(v->f, NULL, _IOLBF, 0);
	return true;
}

/* ---- lines ---- */

/* Those that came by then. */
static void
write_held(struct verdicts *v, uint64_t by)
{
	struct held_line *line;

	while ((line = TAILQ_FIRST(&v->held)) != NULL && line->ns <= by) {
		TAILQ_REMOVE(&v->held, line, next);
		fputs(line->text, v->f);
		free(line->text);
		free(line);
	}
}

static void
hold(struct verdicts *v, char *text, uint64_t ns)
{
	struct held_line *line = malloc(sizeof(*line));

	if (line == NULL)
		abort();
	*line = (struct held_line){ .ns = ns, .text = text };
	TAILQ_INSERT_TAIL(&v->held, line, next);
}

void
verdicts_write(struct verdicts *v)
{
	if (v->f != NULL)
		write_held(v, now_ns() - VERDICT_HELD_NS);
}

bool
verdicts_close(struct verdicts *v, uint64_t by)
{
	struct held_line *line;
	bool ok;

	if (v->f != NULL)
		write_held(v, by);
	while (v->f != NULL && (line = TAILQ_FIRST(&v->held)) != NULL) {
		TAILQ_REMOVE(&v->held, line, next);
		free(line->text);
		free(line);
	}
	ok = v->f == NULL || !ferror(v->f);
	if (v->f != NULL && fclose(v->f) != 0)
		ok = false;
	free(v->known);
	*v = (struct verdicts){ 0 };
	return ok;
}

const struct checked *
verdicts_find(const struct verdicts *v, struct hash key)
{
	struct known_verdict wanted = { .key = key }, *found;

	if (v->n == 0)
		return NULL;
	found = bsearch(&wanted, v->known, v->n, sizeof(*v->known), compare_known);
	return found != NULL ? &found->result : NULL;
}

void
verdicts_add(struct verdicts *v, struct hash key, const struct checked *r)
{
	char *text;

	if (v->f == NULL)
		return;
	if (asprintf(&text, "%016" PRIx64 "%016" PRIx64 " %s %d %d %s %s\n", key.low, key.high,
	             state_verdict_name(r->verdict), r->number, r->wrote, r->second[0] != '\0' ? r->second : "-",
	             r->output) < 0)
		abort();
	verdicts_write(v);
	hold(v, text, now_ns());
}

void
verdicts_add_path(struct verdicts *v, const struct trie_path *added)
{
	const struct held_line *verdict = v->f != NULL ? TAILQ_LAST(&v->held, held_lines) : NULL;
	char *text;
	size_t size;
	FILE *f;

	if (verdict == NULL || added->from == NEVER)
		return;
	f = open_memstream(&text, &size);
	if (f == NULL)
		abort();
	fprintf(f, "t %" PRIu32 " %" PRIu32, added->from, added->content);
	for (uint32_t i = 0; i < added->n; i++)
		fprintf(f, " %" PRIu32 " %" PRIu32, added->touched[i].cell, added->touched[i].content);
	fputc('\n', f);
	if (fclose(f) != 0)
		abort();
	hold(v, text, verdict->ns);
}
