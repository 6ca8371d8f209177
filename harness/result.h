/*
 * What a run says of itself: one typed stream that every report writer consumes (design, section 11).
 *
 * Strings in these structs are UTF-8 or the raw bytes of a peer: a writer passes every one of them through printable()
 * (harness/printable.h) before it writes. All are owned by the caller and valid during the call only.
 */
#ifndef NBDSPEC_RESULT_H
#define NBDSPEC_RESULT_H

#include "harness/requirement.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum verdict {
	VERDICT_PASS,
	VERDICT_INFO,		/* a MAY: what was seen */
	VERDICT_SKIP,		/* the feature is not offered */
	VERDICT_WARN,		/* a SHOULD is broken */
	VERDICT_FAIL,		/* a MUST is broken, or the text's rule */
	VERDICT_ERROR,		/* the harness or the set-up broke */
	N_VERDICTS
};
const char *verdict_name(enum verdict v);		/* "pass" */
bool verdict_named(const char *name, enum verdict *v);

/* How a result stands to the expectation file. */
enum expectation {
	EXPECT_NONE,		/* no line speaks of it */
	EXPECT_KNOWN,		/* the line says just this */
	EXPECT_FLAKY,		/* the line says that it comes and goes */
	EXPECT_UNEXPECTED_PASS,	/* the line says fail or warn, but it does so no more */
	EXPECT_CHANGED,		/* the line says another verdict or requirement */
	N_EXPECTATIONS
};
const char *expectation_name(enum expectation e);	/* "known"; NULL for none */
enum expectation expectation_named(const char *name);	/* NONE when unknown */

enum { ALSO_MOST = 8 };

struct result {
	const char *case_id;		/* "group/name" */
	const char *point;		/* "flags=0x2d", or NULL */
	const char *title;		/* what the case does, one sentence */
	const enum requirement_id *cites;	/* what the case asks, up to NONE; or NULL */
	enum verdict verdict;
	bool red;			/* it alone makes the run fail: --strict, --require and expectations weighed */
	enum requirement_id requirement;	/* what was broken (warn, fail) or is spoken of (info); else NONE */
	enum requirement_id also[ALSO_MOST];	/* what the same act broke, too; up to NONE */
	const char *message;		/* one line: why, or what a pass has to tell; "" for a plain pass */
	const char *expected, *got;	/* for fail and warn; "" when message says all */
	const char *feature;		/* for skip: the feature that is missing (--require takes it); else "" */
	const char *again;		/* how to see it again; many lines; "" */
	const char *transcript;		/* the last messages, decoded, with hex; many lines; "" when none */
	const char *server;		/* what happened to the server process, and the end of its stderr; "" */
	bool experimental;		/* a fail or warn, that no expectation knows, of an experimental extension */
	bool server_died;		/* by a signal or with a status that is not 0, and .server says how */
	enum expectation expectation;
	const char *reason;		/* of the expectation line; "" */
	uint64_t duration_us;
};

/* An expectation line that nothing matched: stale, and red. */
struct stale {
	const char *file;
	unsigned line;
	const char *pattern;
};

enum { SHARDS_MOST = 1000 };

/* A part of a run whose other parts are run elsewhere (--shard). */
struct run_shard {
	unsigned number, of;		/* number from 1 */
	unsigned cases;			/* of all of them together */
	const char *how;		/* the options that weigh, and the peer's command: equal for all of them */
};

struct run_info {
	const char *command;		/* the command line of nbdspec, shell-quoted */
	const char *target;		/* a name for what is tested: --target, else the server's command or URI */
	const char *suite;		/* "server" */
	const char *version;		/* of nbdspec */
	uint64_t started;		/* seconds since 1970 */
	const char *again;		/* behind "nbdspec SUITE -c CASE": what runs a case of it again; or NULL */
	unsigned n_cases;		/* selected; a lower bound for the number of results */
	bool strict;
	const char *expect;		/* the expectation file, or NULL */
	const struct run_shard *shard;	/* or NULL: all of it */
	/* An earlier run to be compared with, and its file; or NULL. It lives until the report is finished. */
	const struct json_t *baseline;
	const char *baseline_path;
};

struct run_summary {
	unsigned count[N_VERDICTS];	/* results by verdict */
	unsigned known;			/* fails and warns that the expectation file knows */
	unsigned experimental;		/* fails and warns of an experimental extension that do not make the run fail */
	unsigned red;			/* results that made the run fail, and stale lines */
	unsigned stale;
	bool interrupted;		/* Ctrl-C, or the server could not be started: the rest did not run */
	const char *broken;		/* why the run ended early, or NULL */
	uint64_t duration_us;
};

/*
 * A report writer: one file in reports/, one entry in the table by REPORT(). It writes as results come; finish() ends
 * the document so that it is valid even when the run was interrupted. Write errors are left in the FILE (ferror) for
 * the caller to report. State is what open() returns; finish() releases it.
 */
struct report_writer {
	const char *name;		/* "tap": the option --tap FILE */
	const char *help;		/* one line for --help */
	bool compares;			/* it tells what changed since an earlier run (--baseline) */
	void *(*open)(FILE *f, const struct run_info *info);
	void (*result)(void *state, const struct result *r);
	void (*stale)(void *state, const struct stale *s);	/* may be NULL */
	/* Of a shard: a line that nothing has matched here, though something may in another one. May be NULL. */
	void (*open_line)(void *state, const struct stale *s);
	void (*progress)(void *state, unsigned done, unsigned total, const char *running);	/* may be NULL */
	void (*finish)(void *state, const struct run_summary *s);
};

#define REPORT(ident)                                                                                                  \
	static const struct report_writer report_##ident;                                                              \
	static const struct report_writer *const report_entry_##ident                                                  \
		__attribute__((used, section("nbdspec_reports"))) = &report_##ident;                                   \
	static const struct report_writer report_##ident

const struct report_writer *report_named(const char *name);
const struct report_writer *report_at(size_t i);		/* sorted by name; NULL past the last */

#endif
