/* The registry of lies, their selectors, and when each one speaks. */
#include "fakeserver/lie.h"

#include "fakeserver/core.h"
#include "harness/names.h"
#include "harness/section.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

SECTION_LIST(lie, struct lie, nbdspec_lies)

const struct lie *
lie_at(size_t i)
{
	return section_sorted(lie_section(), i);
}

static const struct lie *
lie_named(const char *name, size_t len)
{
	const struct lie *lie;

	for (size_t i = 0; (lie = lie_at(i)) != NULL; i++)
		if (strlen(lie->name) == len && memcmp(lie->name, name, len) == 0)
			return lie;
	return NULL;
}

static bool
export_matches(const struct lie_use *l, const struct conn *c)
{
	const struct fake_export *e = c->export != NULL ? c->export : c->named;

	return e != NULL && strcmp(e->name, l->export_name) == 0;
}

bool
lie_now(struct lie_use *l, const struct conn *c)
{
	if ((l->has_option && c->option != l->option) ||
	    (l->has_command && (c->request == NULL || c->request->type != l->command)) ||
	    (l->has_connection && c->number != l->connection) || (l->export_name != NULL && !export_matches(l, c)))
		return false;
	if (l->occasion != NULL) {
		*l->occasion = true;
		return false;
	}
	l->turns++;
	return l->turns >= l->nth && (l->times == 0 || l->turns - l->nth < l->times);
}

/* ---- NAME:selector=value,… ---- */

static bool
number(const char *value, uint64_t max, uint64_t *n)
{
	char *end;

	errno = 0;
	*n = strtoull(value, &end, 0);
	return errno == 0 && end != value && *end == '\0' && value[0] != '-' && *n <= max;
}

static const struct selector {
	const char *name, *allowed;
	uint64_t min, max;
	int names; /* the kind whose names are allowed beside numbers, or -1 */
} selectors[] = {
	{ "nth", "a number from 1", 1, UINT32_MAX, -1 },
	{ "times", "a number; 0 is for ever", 0, UINT32_MAX, -1 },
	{ "option", "an option's name (GO) or number", 0, UINT32_MAX, NAME_OPTION },
	{ "command", "a command's name (READ) or number", 0, UINT16_MAX, NAME_COMMAND },
	{ "connection", "a number from 1, in order of accept", 1, UINT32_MAX, -1 },
	{ "arg", "a number", 0, UINT64_MAX, -1 },
};

static void
set_selector(struct lie_use *use, const char *name, uint64_t n)
{
	if (strcmp(name, "nth") == 0) {
		use->nth = (unsigned)n;
	} else if (strcmp(name, "times") == 0) {
		use->times = (unsigned)n;
	} else if (strcmp(name, "option") == 0) {
		use->option = (uint32_t)n;
		use->has_option = true;
	} else if (strcmp(name, "command") == 0) {
		use->command = (uint16_t)n;
		use->has_command = true;
	} else if (strcmp(name, "connection") == 0) {
		use->connection = (unsigned)n;
		use->has_connection = true;
	} else {
		use->arg = n;
	}
}

/* Returns what would have been right, NULL if it was, or "" for an unknown name. */
static const char *
read_selector(struct lie_use *use, const char *name, const char *value)
{
	uint64_t n;

	if (strcmp(name, "export") == 0) {
		free(use->export_name);
		use->export_name = strdup(value);
		return NULL;
	}
	for (const struct selector *s = selectors; s < selectors + sizeof(selectors) / sizeof(*selectors); s++) {
		if (strcmp(name, s->name) != 0)
			continue;
		if (!number(value, s->max, &n) && (s->names < 0 || !name_value((enum name_kind)s->names, value, &n)))
			return s->allowed;
		set_selector(use, name, n);
		return n < s->min ? s->allowed : NULL;
	}
	return "";
}

static bool
parse_selectors(char *text, struct lie_use *use, char error[256])
{
	char *state, *item, *equals;
	const char *allowed;

	for (item = strtok_r(text, ",", &state); item != NULL; item = strtok_r(NULL, ",", &state)) {
		equals = strchr(item, '=');
		if (equals != NULL)
			*equals = '\0';
		allowed = equals == NULL ? "" : read_selector(use, item, equals + 1);
		if (allowed == NULL)
			continue;
		if (*allowed == '\0')
			snprintf(error, 256,
			         "unknown selector '%.60s'; want nth=, times=, option=, command=, connection=, "
			         "export= or arg=",
			         item);
		else
			snprintf(error, 256, "%.20s=%.60s: want %s", item, equals + 1, allowed);
		return false;
	}
	return true;
}

bool
lie_parse(const char *text, struct lie_use *use, char error[256])
{
	size_t len = strcspn(text, ":");
	char *copy;
	bool ok;

	*use = (struct lie_use){ .lie = lie_named(text, len), .nth = 1 };
	if (use->lie == NULL) {
		snprintf(error, 256, "no lie is called '%.*s'; 'nbdspec serve --list-lies' tells them all",
		         len < 100 ? (int)len : 100, text);
		return false;
	}
	if (text[len] == '\0')
		return true;
	copy = strdup(text + len + 1);
	if (copy == NULL)
		abort();
	ok = parse_selectors(copy, use, error);
	free(copy);
	if (!ok)
		lie_use_free(use);
	return ok;
}

void
lie_use_free(struct lie_use *use)
{
	free(use->export_name);
	*use = (struct lie_use){ 0 };
}

/* ---- the places ---- */

#define ASK(s, where, member, c, m)                                                                                    \
	for (size_t i = 0; i < (s)->config->n_lies; i++) {                                                             \
		struct lie_use *use = &(s)->config->lies[i];                                                           \
		if (use->lie->place == (where))                                                                        \
			use->lie->member(use, c, m);                                                                   \
	}

void
lie_incoming(struct conn *c, struct incoming *m)
{
	ASK(c->server, ON_INCOMING, incoming, c, m);
}

void
lie_state(struct conn *c, struct state_change *m)
{
	ASK(c->server, ON_STATE, state, c, m);
}

void
lie_outgoing(struct conn *c, struct outgoing *m)
{
	ASK(c->server, ON_OUTGOING, outgoing, c, m);
}

void
lie_disk(struct conn *c, struct disk_op *m)
{
	ASK(c->server, ON_DISK, disk, c, m);
}

void
lie_process(struct fake_server *s, struct conn *c, struct process_event *m)
{
	ASK(s, ON_PROCESS, process, c, m);
}
