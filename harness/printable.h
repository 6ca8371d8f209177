/*
 * The one function through which every byte of a peer passes before it reaches a report or a terminal.
 *
 * What comes out is always valid UTF-8, holds no character that XML 1.0 or JSON or YAML refuses, and, unless
 * PRINTABLE_LINES asks for it, no line break of any kind. It neither moves a terminal's cursor nor hides or reorders
 * what stands beside it. Each byte of what had to go appears as \xNN; a backslash appears twice, so that the text tells
 * exactly which bytes came in.
 *
 * Escaped: control characters (C0, DEL, C1), bytes that are no UTF-8 (overlong and cut-off forms, surrogates, values
 * past U+10FFFF), noncharacters, line and paragraph separators, bidirectional controls, and characters that show
 * nothing (byte order mark, zero width space, soft hyphen, tags). The joiners that some scripts need stay.
 */
#ifndef NBDSPEC_PRINTABLE_H
#define NBDSPEC_PRINTABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum {
	PRINTABLE_LINES = 1, /* '\n' and '\t' stay as they are */
	PRINTABLE_AGAIN = 2, /* the peer's bytes in it were made printable before: backslashes stay as they are */
};

/*
 * Writes at most size bytes, the final NUL included, into out (which may be NULL when size is 0). Returns the length
 * that the whole text has without the NUL, at most 4 * len. A text that does not fit ends before the escape or the
 * character that would be cut.
 */
size_t printable_into(char *out, size_t size, const void *in, size_t len, unsigned flags);

/* The same, malloc'd. Never NULL: without memory the program ends with status 3. A string that is NULL counts as "". */
char *printable(const void *in, size_t len); /* one line: no flags */
char *printable_string(const char *s);       /* one line: no flags */
char *printable_text(const char *s, unsigned flags);

/* The text that printable_text() without PRINTABLE_AGAIN has made this of, malloc'd. */
char *printable_undo(const char *s);

/* Without overlong or cut-off forms, surrogates, or values past U+10FFFF. */
bool is_utf8(const void *in, size_t len);

/* Writes the text to f; errors stay in f. */
void printable_put(FILE *f, const char *s, unsigned flags);

#endif
