/* The page of a run: the template runs.html, with the JSON report in it, which is written as results come. */
#include "reports/html.h"

#include "reports/json.h"
#include "reports/page.h"

#include <stdlib.h>

PAGE_TEMPLATE(runs_page_template, "reports/runs.html");

void
runs_page_begin(struct runs_page *p, FILE *f, const char *title)
{
	const char *place = page_write(f, runs_page_template);

	while (!place_is(place, "JSON")) {
		page_put_text(f, title);
		place = page_write(f, place_end(place));
	}
	p->f = f;
	p->rest = place_end(place);
	p->json = page_json_open(f);
	fputs("{\"runs\": [\n", p->json);
}

void
runs_page_crashes(struct runs_page *p)
{
	fputs("],\n\"crashes\": [\n", p->json);
}

void
runs_page_end(struct runs_page *p)
{
	fputs("],\n", p->json);
	page_put_protocol(p->json);
	fputs("}\n", p->json);
	fclose(p->json);
	page_write(p->f, p->rest);
	fflush(p->f);
}

/* ---- the report ---- */

struct html {
	struct runs_page page;
	void *run;
};

static void *
html_open(FILE *f, const struct run_info *info)
{
	struct html *h = report_state(sizeof(*h));

	runs_page_begin(&h->page, f, info->target);
	h->run = json_begin(h->page.json, info, true);
	return h;
}

static void
html_result(void *state, const struct result *r)
{
	struct html *h = state;

	json_result(h->run, r);
	fflush(h->page.f);
}

static void
html_stale(void *state, const struct stale *s)
{
	struct html *h = state;

	json_stale(h->run, s);
}

static void
html_finish(void *state, const struct run_summary *s)
{
	struct html *h = state;

	json_finish(h->run, s);
	runs_page_end(&h->page);
	free(h);
}

REPORT(html) = {
	.name = "html",
	.help = "a page for a browser, in one file",
	.open = html_open,
	.result = html_result,
	.stale = html_stale,
	.finish = html_finish,
};
