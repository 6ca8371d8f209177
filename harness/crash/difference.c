#include "harness/crash/difference.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct lack *
add(struct difference *d)
{
	if ((d->n & (d->n - 1)) == 0) {
		d->lacks = reallocarray(d->lacks, d->n == 0 ? 1 : 2 * d->n, sizeof(*d->lacks));
		if (d->lacks == NULL)
			abort();
	}
	d->lacks[d->n] = (struct lack){ 0 };
	return &d->lacks[d->n++];
}

void
difference_free(struct difference *d)
{
	free(d->lacks);
	*d = (struct difference){ 0 };
}

struct difference
difference_copy(const struct difference *d)
{
	struct difference copy = { .at = d->at };

	for (size_t i = 0; i < d->n; i++)
		*add(&copy) = d->lacks[i];
	return copy;
}

static bool
same_lack(const struct lack *a, const struct lack *b)
{
	return a->low == b->low && a->high == b->high && a->offset == b->offset && a->length == b->length &&
	       a->command == b->command;
}

/* A range of commands stands for each of them, and a torn command is as good as lost. */
static bool
has_lack(const struct difference *d, const struct lack *l)
{
	for (size_t i = 0; i < d->n; i++) {
		const struct lack *has = &d->lacks[i];

		if (same_lack(has, l) || (l->low != 0 && has->low != 0 && has->low <= l->low && has->high >= l->high) ||
		    (l->low != 0 && has->low == 0 && has->torn == l->low))
			return true;
	}
	return false;
}

bool
difference_has(const struct difference *d, const struct difference *less)
{
	for (size_t i = 0; i < less->n; i++)
		if (!has_lack(d, &less->lacks[i]))
			return false;
	return less->n > 0 || d->at == less->at;
}

uint32_t
difference_first(const struct difference *d)
{
	uint32_t first = NEVER;

	for (size_t i = 0; i < d->n; i++) {
		uint32_t command = d->lacks[i].low != 0 ? d->lacks[i].low : d->lacks[i].command;

		first = command < first ? command : first;
	}
	return first;
}

int
difference_compare(const struct difference *a, const struct difference *b)
{
	if (a->n != b->n)
		return a->n < b->n ? -1 : 1;
	if (a->at != b->at)
		return a->at > b->at ? -1 : 1;
	return a->n > 0 ? memcmp(a->lacks, b->lacks, a->n * sizeof(*a->lacks)) : 0;
}

/* ---- from and to a view ---- */

static uint32_t
command_at(const struct view *v, uint32_t place, uint32_t candidate)
{
	return v->space->versions[v->versions[place][candidate]].command;
}

struct difference
difference_of(const struct view *v)
{
	const struct space *s = v->space;
	struct difference d = { .at = s->points[v->point].at };
	struct lack *last = NULL;

	for (uint32_t i = 0; i < v->n_pending; i++)
		if (!v->pending[i].present) {
			struct lack *l = add(&d);

			l->low = l->high = v->pending[i].command;
		}
	for (uint32_t i = 0; i < v->n_changes; i++) {
		uint32_t place = v->changes[i].place, cell = v->open[place];
		uint32_t command = command_at(v, place, v->changes[i].candidate);
		uint32_t torn = command_at(v, place, v->groups[v->group_of[place]].chosen);

		if (last == NULL || last->offset + last->length != s->offset[cell] || last->command != command ||
		    last->torn != torn) {
			last = add(&d);
			*last = (struct lack){ .offset = s->offset[cell], .command = command, .torn = torn };
		}
		last->length += s->length[cell];
	}
	return d;
}

/* What was there already was written once more, and no guarantee is broken without it. */
static bool
is_lost_unseen(const struct view *v, uint32_t command)
{
	const struct recording *r = v->space->recording;
	uint32_t at = v->space->points[v->point].at;

	return command <= r->n_commands && r->commands[command].kind != HISTORY_FLUSH &&
	       r->commands[command].received < at && v->space->guaranteed[command] >= at;
}

static bool
lose(struct view *v, const struct lack *l, char error[512])
{
	bool some = false;

	for (uint32_t i = 0; i < v->n_pending; i++)
		if (v->pending[i].command >= l->low && v->pending[i].command <= l->high) {
			view_set(v, i, false);
			some = true;
		}
	for (uint32_t command = l->low; command <= l->high && !some; command++)
		some = is_lost_unseen(v, command);
	if (!some && error != NULL)
		snprintf(error, 512, "none of the commands %" PRIu32 " to %" PRIu32 " can be lost there", l->low,
		         l->high);
	return some;
}

/* The candidate that the command is in a cell, or NEVER. 0 is whatever was there before all. */
static uint32_t
candidate_of(const struct view *v, uint32_t place, uint32_t command)
{
	uint32_t n = v->groups[v->group_of[place]].n;

	for (uint32_t k = 0; k < n; k++)
		if (command_at(v, place, k) == command)
			return k;
	return NEVER;
}

static bool
hold(struct view *v, const struct lack *l, char error[512])
{
	const struct space *s = v->space;
	bool some = false;

	for (uint32_t place = 0; place < v->n_open; place++) {
		uint32_t cell = v->open[place], candidate;

		if (s->offset[cell] < l->offset || s->offset[cell] + s->length[cell] > l->offset + l->length)
			continue;
		candidate = candidate_of(v, place, l->command);
		some = candidate != NEVER;
		if (!some)
			break;
		if (candidate != v->groups[v->group_of[place]].chosen)
			view_change(v, place, candidate);
	}
	if (!some && error != NULL)
		snprintf(error, 512, "%" PRIu64 "+%" PRIu64 " cannot hold what command %" PRIu32 " wrote there",
		         l->offset, l->length, l->command);
	return some;
}

bool
difference_show(const struct difference *d, struct view *v, char error[512])
{
	uint32_t point = space_point_at(v->space, d->at);

	if (point == v->space->n_points || v->space->points[point].at != d->at) {
		if (error != NULL)
			snprintf(error, 512, "there is no cut at %" PRIu32, d->at);
		return false;
	}
	view_unchange(v);
	if (v->point != point)
		view_go(v, point);
	view_set_all(v, true);
	for (size_t i = 0; i < d->n; i++)
		if (d->lacks[i].low != 0 && !lose(v, &d->lacks[i], error))
			return false;
	for (size_t i = 0; i < d->n; i++)
		if (d->lacks[i].low == 0 && !hold(v, &d->lacks[i], error))
			return false;
	return true;
}

/* ---- text ---- */

char *
difference_text(const struct difference *d)
{
	struct buf b = { 0 };
	char text[80];

	snprintf(text, sizeof(text), "%" PRIu32, d->at);
	put_bytes(&b, bytes_of(text));
	for (size_t i = 0; i < d->n; i++) {
		const struct lack *l = &d->lacks[i];
		size_t run = i;

		while (l->low != 0 && run + 1 < d->n && d->lacks[run + 1].low == d->lacks[run].high + 1)
			run++;
		buf_put(&b, i == 0 ? ":" : ",", 1);
		if (l->low == 0)
			snprintf(text, sizeof(text), "%" PRIu64 "+%" PRIu64 "=%" PRIu32 "/%" PRIu32, l->offset,
			         l->length, l->command, l->torn);
		else if (d->lacks[run].high > l->low)
			snprintf(text, sizeof(text), "-%" PRIu32 "..%" PRIu32, l->low, d->lacks[run].high);
		else
			snprintf(text, sizeof(text), "-%" PRIu32, l->low);
		put_bytes(&b, bytes_of(text));
		i = run;
	}
	buf_put(&b, "", 1);
	return (char *)b.at;
}

static bool
number(const char **text, uint64_t most, uint64_t *value)
{
	char *end;

	if (!isdigit((unsigned char)**text))
		return false;
	errno = 0;
	*value = strtoull(*text, &end, 10);
	*text = end;
	return errno == 0 && *value <= most;
}

static bool
number32(const char **text, uint32_t *value)
{
	uint64_t wide = 0;
	bool ok = number(text, NEVER - 1u, &wide);

	*value = (uint32_t)wide;
	return ok;
}

static bool
skip(const char **text, const char *word)
{
	if (strncmp(*text, word, strlen(word)) != 0)
		return false;
	*text += strlen(word);
	return true;
}

static bool
parse_lack(const char **text, struct lack *l)
{
	if (skip(text, "-")) {
		if (!number32(text, &l->low))
			return false;
		l->high = l->low;
		return l->low > 0 && (!skip(text, "..") || (number32(text, &l->high) && l->high >= l->low));
	}
	return number(text, INT64_MAX, &l->offset) && skip(text, "+") && number(text, INT64_MAX, &l->length) &&
	       l->length > 0 && skip(text, "=") && number32(text, &l->command) &&
	       (!skip(text, "/") || number32(text, &l->torn));
}

bool
difference_parse(const char *text, struct difference *d)
{
	bool ok;

	*d = (struct difference){ 0 };
	ok = number32(&text, &d->at);
	if (ok && skip(&text, ":"))
		do
			ok = parse_lack(&text, add(d));
		while (ok && skip(&text, ","));
	if (ok && *text == '\0')
		return true;
	difference_free(d);
	return false;
}
