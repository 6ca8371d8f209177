#include "harness/requirement.h"

#include <stdlib.h>
#include <string.h>

static const struct requirement catalogue[] = {
	[REQUIREMENT_NONE] = { "none", LEVEL_MAY, BINDS_BOTH, "", "", NULL },
#define REQUIREMENT(id, level, binds, where, text)     { #id, LEVEL_##level, BINDS_##binds, where, text, NULL },
#define UNTESTABLE(id, level, binds, where, text, why) { #id, LEVEL_##level, BINDS_##binds, where, text, why },
#include "cases/requirements.def"
};

const struct requirement *
requirement(enum requirement_id id)
{
	return &catalogue[id < N_REQUIREMENTS ? id : REQUIREMENT_NONE];
}

enum requirement_id
requirement_named(const char *id)
{
	for (int i = 1; i < N_REQUIREMENTS; i++)
		if (strcmp(catalogue[i].id, id) == 0)
			return (enum requirement_id)i;
	return REQUIREMENT_NONE;
}

bool
requirement_experimental(enum requirement_id id)
{
	return strncmp(requirement(id)->where, "ext:", 4) == 0;
}

static const struct chapter chapters[] = {
#define CHAPTER(line, depth, title) { line, depth, title },
#include "cases/chapters.def"
};

const struct chapter *
chapter_at(unsigned i)
{
	return i < sizeof(chapters) / sizeof(chapters[0]) ? &chapters[i] : NULL;
}

unsigned
requirement_chapter(enum requirement_id id)
{
	const char *colon = strchr(requirement(id)->where, ':');
	unsigned long line = colon != NULL ? strtoul(colon + 1, NULL, 10) : 0;
	unsigned i = 0, last = sizeof(chapters) / sizeof(chapters[0]) - 1;

	while (i + 1 < last && chapters[i + 1].line <= line)
		i++;
	return requirement_experimental(id) ? last : i;
}

const char *
level_name(enum level level)
{
	static const char *const names[] = { "MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY", "the text" };

	return names[level];
}

const char *
binds_name(enum binds binds)
{
	static const char *const names[] = { "server", "client", "server and client" };

	return names[binds];
}
