/* Pages for a browser: a template of reports/ with texts and JSON in its places, which look like "@NAME@". */
#ifndef NBDSPEC_REPORTS_PAGE_H
#define NBDSPEC_REPORTS_PAGE_H

#include "harness/embedded.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/* Defines the text of a template, a file of the tree. */
#define PAGE_TEMPLATE(ident, path) EMBEDDED_TEXT(ident, path)

/*
 * Writes the template from `at` up to its next place, and returns that; NULL when it is written to its end. What
 * pages share is put into its places meanwhile: page.html, page.css and page.js into @HEAD@, @STYLE@ and @SCRIPT@;
 * crash_view.html, crash.css and crash.js into @CRASHVIEW@, @CRASHSTYLE@ and @CRASHSCRIPT@.
 */
const char *page_write(FILE *f, const char *at);
bool place_is(const char *place, const char *name);
const char *place_end(const char *place);

/* As text in HTML; `text` may be NULL. */
void page_put_text(FILE *f, const char *text);

/*
 * For JSON within <script>: what is written to it goes to f, and no markup can begin in it. The caller closes it. Errors
 * are left in f.
 */
FILE *page_json_open(FILE *f);

/* "name": the requirements and chapters of the protocol text, as members of an object, without braces. */
void page_put_protocol(FILE *json);

#endif
