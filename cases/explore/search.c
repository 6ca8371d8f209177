#include "cases/explore/search.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HISTORY_MOST = 100000, HISTORY_TRIED = 4096 };

/* ---- as text ---- */

char *
scenario_text(const struct scenario *s)
{
	struct buf b = { 0 };

	for (size_t i = 0; i < s->n; i++)
		for (unsigned k = 0; k < s->path[i].n; k++) {
			if (k > 0 || i > 0)
				put_bytes(&b, k > 0 ? BYTES_OF(",") : BYTES_OF("; "));
			put_bytes(&b, bytes_of(s->path[i].at[k]->name));
		}
	buf_put(&b, "", 1);
	return (char *)b.at;
}

static size_t
blanks(const char *text, size_t len)
{
	size_t n = strspn(text, " ,\n");

	return n < len ? n : len;
}

static bool
parse_path(const char *text, size_t len, struct path *p, char error[256])
{
	size_t n = blanks(text, len);

	*p = (struct path){ .n = 0 };
	for (text += n, len -= n; len > 0; text += n, len -= n) {
		size_t word = strcspn(text, " ,;\n");
		const struct symbol *s = symbol_named(text, word);

		if (s == NULL || p->n + 1 == MOST_LENGTH) {
			snprintf(error, 256,
			         s == NULL ? "'%.*s': there is no such symbol; GO and LIST are some"
			                   : "'%.*s' and what is behind it: too long a sequence",
			         (int)word, text);
			return false;
		}
		p->at[p->n++] = s;
		n = word + blanks(text + word, len - word);
	}
	if (p->n == 0 || !p->at[p->n - 1]->ends)
		p->at[p->n++] = symbols;
	return true;
}

bool
scenario_parse(const char *text, struct scenario *s, char error[256])
{
	*s = (struct scenario){ 0 };
	for (;;) {
		size_t len = strcspn(text, ";");

		s->path = reallocarray(s->path, s->n + 1, sizeof(*s->path));
		if (s->path == NULL)
			abort();
		if (!parse_path(text, len, &s->path[s->n++], error))
			return false;
		if (text[len] == '\0')
			return true;
		text += len + 1;
	}
}

/* ---- walking again ---- */

void
search_walked(struct search *s, const struct path *p)
{
	if (s->n_history == HISTORY_MOST) {
		s->n_history = HISTORY_TRIED;
		memmove(s->history, s->history + HISTORY_MOST - HISTORY_TRIED, HISTORY_TRIED * sizeof(*s->history));
	}
	if (s->n_history == s->history_room) {
		s->history_room = s->history_room > 0 ? 2 * s->history_room : 256;
		s->history = reallocarray(s->history, s->history_room, sizeof(*s->history));
		if (s->history == NULL)
			abort();
	}
	s->history[s->n_history++] = *p;
}

static void
start_anew(struct search *s)
{
	char error[512];

	if (!can_restart_server(s->t))
		return;
	s->n_history = 0;
	if (!restart_server(s->t, error))
		harness_error(s->t, "the server could not be started again: %s", error);
}

bool
search_renews(struct search *s)
{
	struct path p = { .at = { symbol_named("close", 5) }, .n = 1 };

	start_anew(s);
	return can_restart_server(s->t) || walk(&s->w, &p, NULL) || !s->w.stuck;
}

/* One requirement may be broken in more than one way: what was expected tells them apart. */
bool
same_breach(const struct breach *a, const struct breach *b)
{
	return a->broken[0] == b->broken[0] && strcmp(a->expected, b->expected) == 0;
}

bool
search_breaks(struct search *s, const struct scenario *c, const struct breach *b, bool anew)
{
	bool broken = false;

	if (anew || s->w.stuck)
		start_anew(s);
	for (size_t i = 0; i < c->n; i++) {
		walk(&s->w, &c->path[i], NULL);
		search_walked(s, &c->path[i]);
	}
	for (unsigned i = 0; i < s->w.n_breaches && b != NULL; i++)
		broken |= same_breach(&s->w.breach[i], b);
	return broken;
}

/* ---- known before ---- */

/* All of a, in its order, in b. */
static bool
contains(const struct path *b, const struct path *a, bool with_ends)
{
	unsigned n = a->n - !with_ends, k = 0;

	for (unsigned i = 0; i < b->n && k < n; i++)
		k += b->at[i] == a->at[k];
	return k == n;
}

static const struct path *
last_of(const struct finding *f)
{
	return &f->shortest.path[f->shortest.n - 1];
}

/* Where the second of two connections finds nobody it is the first that has brought the server down. */
bool
search_skips(const struct search *s, const struct path *p)
{
	for (size_t i = 0; i < s->n_findings; i++)
		if (s->findings[i].stuck && s->findings[i].shortest.n <= 2 &&
		    contains(p, &s->findings[i].shortest.path[0], false))
			return true;
	return false;
}

/*
 * What breaks with the plainest ending is taken to be the same with another; and of what takes several connections the
 * first is not looked for, unless it has brought the server down.
 */
static bool
explains(const struct search *s, const struct finding *f, const struct path *p)
{
	const struct path *last = last_of(f);

	if (f->once)
		return false;
	if (f->stuck && f->shortest.n == 2)
		return s->n_history > 0 && contains(&s->history[s->n_history - 1], f->shortest.path, false);
	return f->shortest.n > 1 || contains(p, last, last->at[last->n - 1] != symbols);
}

bool
search_explains(const struct search *s, const struct path *p, const struct breach *b)
{
	for (size_t i = 0; i < s->n_findings; i++)
		if (same_breach(&s->findings[i].breach, b) && explains(s, &s->findings[i], p))
			return true;
	return false;
}

/* ---- bringing it down ---- */

/* With room for one more. */
static struct scenario
copy_of(const struct path *p, size_t n)
{
	struct scenario c = { calloc(n + 1, sizeof(*p)), n };

	if (c.path == NULL)
		abort();
	if (n > 0)
		memcpy(c.path, p, n * sizeof(*p));
	return c;
}

/* Where it does not break by itself, it does behind what came before: as little of that as breaks it. */
static bool
find_scenario(struct search *s, const struct path *p, const struct breach *b, struct scenario *c)
{
	size_t n = s->n_history < HISTORY_TRIED ? s->n_history : HISTORY_TRIED;
	struct scenario before = copy_of(s->history + s->n_history - n, n);
	bool breaks = false;

	*c = copy_of(p, 1);
	breaks = search_breaks(s, c, b, true);
	for (size_t k = 1; !breaks && can_restart_server(s->t) && k < 2 * n; k *= 2) {
		size_t some = k < n ? k : n;

		free(c->path);
		*c = copy_of(before.path + n - some, some);
		c->path[c->n++] = *p;
		breaks = search_breaks(s, c, b, true);
	}
	free(before.path);
	return breaks;
}

static bool
try_without(struct search *s, struct scenario *c, size_t from, size_t n, const struct breach *b)
{
	struct scenario less = copy_of(c->path, c->n);
	bool breaks;

	memmove(less.path + from, less.path + from + n, (c->n - from - n) * sizeof(*less.path));
	less.n -= n;
	breaks = search_breaks(s, &less, b, true);
	free(breaks ? c->path : less.path);
	if (breaks)
		*c = less;
	return breaks;
}

/* Halves first, then smaller parts; the last connection stays. */
static void
drop_connections(struct search *s, struct scenario *c, const struct breach *b)
{
	for (size_t part = c->n / 2; part > 0; part /= 2)
		for (size_t i = 0; i + part < c->n;)
			if (!try_without(s, c, i, part, b))
				i += part;
}

static bool
try_path(struct search *s, struct scenario *c, size_t i, struct path p, const struct breach *b, bool anew)
{
	struct path was = c->path[i];

	c->path[i] = p;
	if (search_breaks(s, c, b, anew))
		return true;
	c->path[i] = was;
	return false;
}

static void
drop_symbols(struct search *s, struct scenario *c, size_t i, const struct breach *b, bool anew)
{
	for (unsigned k = 0; k + 1 < c->path[i].n;) {
		struct path p = c->path[i];

		memmove(p.at + k, p.at + k + 1, (p.n - k - 1) * sizeof(p.at[0]));
		p.n--;
		if (!try_path(s, c, i, p, b, anew))
			k++;
	}
	/* The plainest ending, where that does as well. */
	if (c->path[i].at[c->path[i].n - 1] != symbols) {
		struct path p = c->path[i];

		p.at[p.n - 1] = symbols;
		try_path(s, c, i, p, b, anew);
	}
}

/*
 * On the server that is there, which is quick. What that has kept from one try may break the next: the end is tried on a
 * new one, and where it breaks nothing there, so is all of it.
 */
static void
drop_symbols_of_one(struct search *s, struct scenario *c, const struct breach *b)
{
	struct path was = c->path[0];

	drop_symbols(s, c, 0, b, false);
	if (search_breaks(s, c, b, true))
		return;
	c->path[0] = was;
	drop_symbols(s, c, 0, b, true);
}

static struct scenario
shortest(struct search *s, const struct path *p, const struct breach *b, bool *again)
{
	struct scenario c, was = copy_of(p, 1);
	bool hangs = s->w.stuck; /* each time that it does costs a wait */

	*again = find_scenario(s, p, b, &c);
	if (!*again) {
		free(c.path);
		return was;
	}
	free(was.path);
	drop_connections(s, &c, b);
	if (c.n == 1 && !hangs)
		drop_symbols_of_one(s, &c, b);
	else
		for (size_t i = 0; i < c.n; i++)
			drop_symbols(s, &c, i, b, true);
	return c;
}

const struct finding *
search_found(struct search *s, const struct path *p, const struct breach *b)
{
	struct finding f = { .breach = *b, .stuck = s->w.stuck };

	f.shortest = shortest(s, p, &f.breach, &f.again);
	f.once = !f.again && b->silent && can_restart_server(s->t);
	f.stuck &= !f.once;
	s->findings = reallocarray(s->findings, s->n_findings + 1, sizeof(*s->findings));
	if (s->findings == NULL)
		abort();
	s->findings[s->n_findings] = f;
	return &s->findings[s->n_findings++];
}
