/*
 * What judges a state: a command that is shown the image, and says by its exit status 0 that it is good. A signal, and a
 * time-out, are failures like any other status.
 */
#ifndef NBDSPEC_CRASH_CHECKER_H
#define NBDSPEC_CRASH_CHECKER_H

#include "harness/crash/served.h"

enum state_verdict {
	VERDICT_GOOD,
	VERDICT_BAD,
	VERDICT_CRASH,
	VERDICT_HANG,
	VERDICT_BROKEN,		/* the checker could not be run: no verdict */
	VERDICTS
};
const char *state_verdict_name(enum state_verdict v);	/* "good" */

struct checked {
	enum state_verdict verdict;
	int number;		/* the exit status, or the signal */
	bool wrote;		/* to the image; undone */
	char second[200];	/* the state after a second cut that failed (nested.h); "": there was none */
	char output[256];	/* the last line of what it printed, printable; or why it is broken */
};

struct filesystem;

struct checker_setup {
	const char *command;		/* with {file}, {mount} or {uri} */
	const struct filesystem *fs;	/* for {mount} */
	const char *dir;		/* private; its name is the mark of what runs (harness/process.h) */
	const char *marks;		/* the path of a file with all marks */
	int ms;				/* a check may take */
	uint64_t nested;		/* with {uri}: states after a second cut that each check is followed by */
	bool keep;			/* with {uri}: what it wrote is kept without that, too */
	struct tear tear;		/* of what it writes */
};

struct checker;
/* In the process that checks; the image is its own. NULL, and one line. */
struct checker *checker_new(const struct checker_setup *setup, struct image *i, char error[512]);
void checker_free(struct checker *c);

/* Judges what the image shows, and restores it. `must` marks must be visible, and `may`, or NULL, may be. */
void checker_run(struct checker *c, uint32_t must, const struct bytes *may, struct checked *result);

/* With {uri}: what the last check read; and wrote, where that is kept. */
const struct served *checker_served(const struct checker *c);

/* The options that say so, for a command's table; their ids are not for others. */
enum { OPT_CHECK = 100, OPT_FS, OPT_TIMEOUT };
#define CHECKER_OPTIONS(check)                                                                                         \
	{ "check", 'c', "COMMAND", check, OPT_CHECK, false },                                                          \
	{ "fs", 0, "NAME", "the filesystem that {mount} is: " FILESYSTEM_NAMES, OPT_FS, false },                       \
	{ "timeout", 0, "SECONDS", "a check that takes longer has hung (default: 30)", OPT_TIMEOUT, false }
struct cli;
struct cli_given;
/* 0, or STATUS_USAGE and a line that is printed: one of these options, and all of them, where a command was given. */
int checker_take_option(const struct cli *cli, const struct cli_given *g, struct checker_setup *setup);
int checker_take_all(const struct cli *cli, const struct checker_setup *setup);

#endif
