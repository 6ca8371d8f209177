/* Markdown as GitHub and GitLab have it (GFM). Whatever is in the texts, it stays text; all of them are printable. */
#ifndef NBDSPEC_REPORTS_MARKUP_H
#define NBDSPEC_REPORTS_MARKUP_H

#include "harness/result.h"

#include <jansson.h>

enum { MARKUP_CODE_MOST = 300 }; /* bytes; of what is longer the rest is left out, and counted */

/* What a peer sent: a code span, in which neither markup nor names of people or issues mean anything. "" is nothing. */
void markup_code(FILE *f, const char *text);
/* Words of ours, or of an expectation file. */
void markup_prose(FILE *f, const char *text);
/* Lines, as a block of code; at most `most` bytes. */
void markup_lines(FILE *f, const char *lines, size_t most);
/* What stands in the line that opens and folds a block, as <code>. */
void markup_folded(FILE *f, const char *text);

/*
 * A document that is kept below what GitHub takes for a comment. Parts are written to part_begin()'s stream; part_end()
 * says whether there was room for it.
 */
enum { MARKUP_MOST = 65000 };
struct markup {
	char *text, *part_text;
	size_t size, part_size;
	FILE *part;
};
FILE *part_begin(struct markup *m);
bool part_end(struct markup *m, size_t keep);	/* with so many bytes that must stay free behind it */
void markup_finish(struct markup *m, FILE *f);

/* What changed between two runs, as sections. False where something had to be left out. */
struct changes;
bool markup_changes(struct markup *m, const struct changes *c, size_t keep);

#endif
