/*
 * The catalogue of requirements: what the protocol text demands, of whom, and where it says so.
 * The entries stand in cases/requirements.def, which is data; R(name) is an identifier, so a misspelt one does not
 * compile, and neither does one that the catalogue calls untestable.
 */
#ifndef NBDSPEC_REQUIREMENT_H
#define NBDSPEC_REQUIREMENT_H

#include <stdbool.h>

/* Commits of the repository NetworkBlockDevice/nbd: the lines that are cited are those of its doc/proto.md there. */
#define PROTOCOL_COMMIT		"89ba7b5379548d6ebbfa36db15f2b8e3787a09ea"	/* proto.md: the branch master */
#define EXTENSION_COMMIT	"e6f3b94a9345cd36d36774694ab298e25003afe6"	/* ext: the branch extension-ext-header */

enum level { LEVEL_MUST, LEVEL_MUST_NOT, LEVEL_SHOULD, LEVEL_SHOULD_NOT, LEVEL_MAY, LEVEL_TEXT };
enum binds { BINDS_SERVER, BINDS_CLIENT, BINDS_BOTH };

enum requirement_id {
	REQUIREMENT_NONE,
#define REQUIREMENT(id, level, binds, where, text) REQUIREMENT_##id,
#define UNTESTABLE(id, level, binds, where, text, why) UNTESTABLE_##id,
#include "cases/requirements.def"
#undef REQUIREMENT
#undef UNTESTABLE
	N_REQUIREMENTS
};

#define R(id) REQUIREMENT_##id

struct requirement {
	const char *id;
	enum level level;
	enum binds binds;
	const char *where;		/* "proto.md:2420-2421", or "ext:1665" of proto-extension-ext-header.md */
	const char *text;		/* what it asks, one sentence */
	const char *untestable;		/* why no test can observe it, or NULL */
};

const struct requirement *requirement(enum requirement_id id);		/* never NULL; id 0 is "none" */
enum requirement_id requirement_named(const char *id);			/* REQUIREMENT_NONE when unknown */
bool requirement_experimental(enum requirement_id id);		/* of an experimental extension: ext:NNN */


/* A heading of the protocol text; the last is for what experimental extensions say. They stand in cases/chapters.def. */
struct chapter {
	unsigned line, depth;		/* from 1; the line of the last is 0 */
	const char *title;
};

const struct chapter *chapter_at(unsigned i);				/* in order; NULL past the last */
unsigned requirement_chapter(enum requirement_id id);			/* the chapter that its first line stands in */

const char *level_name(enum level level);				/* "MUST NOT" */
const char *binds_name(enum binds binds);				/* "server" */

#endif
