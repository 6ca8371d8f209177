/*
 * GitLab's code quality report: an array of what deviates. GitLab compares it with that of the target branch by the
 * fingerprints, so nothing is in them that differs from run to run.
 */
#include "reports/whole.h"

#include "harness/saved.h"
#include "harness/test.h"
#include "reports/json.h"

#include <err.h>
#include <gnutls/crypto.h>
#include <stdlib.h>
#include <string.h>

enum { FINGERPRINT_BYTES = 20 };

/* Of what is told with the same words, the nth is another. */
static json_t *
fingerprint(json_t *seen, const char *words)
{
	unsigned char digest[32];
	char hex[2 * FINGERPRINT_BYTES + 1];
	autofree char *nth = NULL;

	json_object_set_new(seen, words, json_integer(saved_number(seen, words) + 1));
	if (asprintf(&nth, "%s\n%lld", words, (long long)saved_number(seen, words)) < 0 ||
	    gnutls_hash_fast(GNUTLS_DIG_SHA256, nth, strlen(nth), digest) != 0)
		errx(3, "a fingerprint for a report");
	for (int i = 0; i < FINGERPRINT_BYTES; i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
	return json_string(hex);
}

static const char *
severity_of(const json_t *r)
{
	if (whole_excuse(r) != NULL)
		return "info";
	switch (saved_verdict(r)) {
	case VERDICT_ERROR:
		return "blocker";
	case VERDICT_FAIL:
		return "major";
	default:
		return "minor";
	}
}

static json_t *
entry(const char *description, const char *check, json_t *print, const char *severity, const char *file, long long line)
{
	return json_pack("{ss ss so ss s{ss s{sI}}}", "description", description, "check_name", check, "fingerprint",
	                 print, "severity", severity, "location", "path", file, "lines", "begin",
	                 (json_int_t)(line > 0 ? line : 1));
}

/* What is told of it, with what it breaks. */
static char *
description_of(const json_t *r)
{
	autofree char *id = saved_id(r), *why = whole_why(r), *place = whole_place(r);
	const char *excuse = whole_excuse(r);
	char *text;

	if (asprintf(&text, "%s %s: %s%s%s%s%s%s%s%s", saved_text(r, "verdict"), id, why, *place ? " (" : "", place,
	             *place ? ": " : "", saved_text(r, "text"), *place ? ")" : "", excuse ? "; " : "",
	             excuse ? excuse : "") < 0)
		err(3, "a line of a report");
	return text;
}

static json_t *
entry_of(const json_t *run, const json_t *r, json_t *seen)
{
	const struct case_def *c = case_named(saved_text(r, "case"));
	autofree char *description = description_of(r), *words = NULL;

	if (asprintf(&words, "%s\n%s\n%s\n%s\n%s\n%s", saved_text(run, "suite"), saved_text(run, "target"),
	             saved_text(r, "case"), saved_text(r, "point"), saved_text(r, "verdict"),
	             saved_text(r, "requirement")) < 0)
		err(3, "a line of a report");
	return entry(description, saved_text(r, "case"), fingerprint(seen, words), severity_of(r),
	             c != NULL ? c->file : saved_text(r, "case"), c != NULL ? c->line : 1);
}

static json_t *
stale_entry(const json_t *run, const json_t *line, json_t *seen)
{
	autofree char *description = NULL, *words = NULL;
	const char *pattern = saved_text(line, "pattern"), *file = saved_text(line, "file");

	if (asprintf(&description, "stale expectation: no result matches %s", pattern) < 0 ||
	    asprintf(&words, "%s\n%s\nstale\n%s\n%s", saved_text(run, "suite"), saved_text(run, "target"), file,
	             pattern) < 0)
		err(3, "a line of a report");
	return entry(description, "stale_expectation", fingerprint(seen, words), "minor", file,
	             saved_number(line, "line"));
}

static json_t *
broken_entry(const json_t *run, json_t *seen)
{
	autofree char *description = NULL, *words = NULL;

	if (asprintf(&description, "The run ended early: %s", whole_broken(run)) < 0 ||
	    asprintf(&words, "%s\n%s\nbroken", saved_text(run, "suite"), saved_text(run, "target")) < 0)
		err(3, "a line of a report");
	return entry(description, "nbdspec", fingerprint(seen, words), "blocker", "nbdspec", 1);
}

static json_t *
all_entries(const json_t *run)
{
	json_t *list = json_array(), *seen = json_object(), *one;
	size_t i;

	if (whole_broken(run) != NULL)
		json_array_append_new(list, broken_entry(run, seen));
	json_array_foreach(json_object_get(run, "results"), i, one)
	{
		if (saved_verdict(one) >= VERDICT_WARN || json_is_true(json_object_get(one, "red")))
			json_array_append_new(list, entry_of(run, one, seen));
	}
	json_array_foreach(json_object_get(run, "stale"), i, one)
	{
		json_array_append_new(list, stale_entry(run, one, seen));
	}
	json_decref(seen);
	return list;
}

static void
gitlab_finish(void *state, const struct run_summary *s)
{
	struct whole *w = state;
	json_t *run = whole_end(w, s);

	json_put(w->f, all_entries(run), JSON_INDENT(1));
	putc('\n', w->f);
	fflush(w->f);
	json_decref(run);
	whole_free(w);
}

REPORT(gitlab) = {
	.name = "gitlab",
	.help = "JSON for GitLab's code quality; written at the end",
	.open = whole_open,
	.result = whole_result,
	.stale = whole_stale,
	.finish = gitlab_finish,
};
