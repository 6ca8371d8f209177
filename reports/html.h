/* The page that shows runs: one run, or a matrix of many (reports/runs.html). */
#ifndef NBDSPEC_REPORTS_HTML_H
#define NBDSPEC_REPORTS_HTML_H

#include <stdio.h>

struct runs_page {
	FILE *f, *json;		/* json: the runs go there, as elements of an array of brief JSON reports */
	const char *rest;	/* of the template */
};

void runs_page_begin(struct runs_page *p, FILE *f, const char *title);
/* Those after this are JSON reports of explorations of power cuts, as crash_page_put() writes them. */
void runs_page_crashes(struct runs_page *p);
void runs_page_end(struct runs_page *p);

#endif
