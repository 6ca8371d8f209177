/* What pages show of an exploration of power cuts (reports/crash_view.html). */
#ifndef NBDSPEC_REPORTS_CRASH_PAGE_H
#define NBDSPEC_REPORTS_CRASH_PAGE_H

#include <jansson.h>
#include <stdio.h>

/* Writes it, of a JSON report, to a file of page_json_open(). */
void crash_page_put(FILE *json, const json_t *report);

#endif
