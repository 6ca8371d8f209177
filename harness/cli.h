/*
 * Commands and their options: each command is one table entry, from which --help, the man page's synopsis and the
 * shell completion come. main() only looks the command up.
 */
#ifndef NBDSPEC_CLI_H
#define NBDSPEC_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Exit statuses (design, section 2). */
enum { STATUS_OK = 0, STATUS_FAILED = 1, STATUS_USAGE = 2, STATUS_BROKEN = 3, STATUS_INTERRUPTED = 130 };

struct cli_option {
	const char *name;		/* long name; NULL ends the table */
	char letter;			/* short name, or 0 */
	const char *arg;		/* name of its argument for --help; NULL: a flag */
	const char *help;		/* one line */
	int id;				/* for the command's switch; from 1 */
	bool repeat;			/* may be given more than once */
};

struct cli_given {
	int id;
	const char *value;		/* NULL for a flag */
};

struct cli {
	const struct command *command;
	struct cli_given *given;	/* in the order of the command line */
	size_t n_given;
	char **args;			/* what is no option, in order; NULL-terminated */
	size_t n_args;
	char **program;			/* what stood behind "--", or between "[" and "]"; NULL when neither was there */
	bool bracket;			/* it stood in "[ … ]": systemd socket activation */
	char *line;			/* the whole command line, shell-quoted */
};

struct command {
	const char *name;		/* of one word, or two: "crash explore" */
	const char *usage;		/* "[OPTION]... URI | -- COMMAND" */
	const char *summary;		/* one line */
	const char *help;		/* more lines for --help, or NULL */
	const struct cli_option *options;
	int (*run)(struct cli *cli);	/* returns an exit status */
	bool takes_program;		/* "-- COMMAND…" and "[ COMMAND… ]"; elsewhere "--" only ends the options */
	bool hidden;			/* for the project's own tests; not in the list of commands */
};

#define COMMAND(ident)                                                                                                 \
	static const struct command command_##ident;                                                                   \
	static const struct command *const command_entry_##ident                                                       \
		__attribute__((used, section("nbdspec_commands"))) = &command_##ident;                                 \
	static const struct command command_##ident

const struct command *command_at(size_t i);	/* sorted by name; NULL past the last */

/* One line to stderr, "nbdspec COMMAND: …", and STATUS_USAGE or STATUS_BROKEN. */
int cli_usage_error(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int cli_broken(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Numbers with what is allowed; on failure they print the line themselves and return false. */
bool cli_number(const struct cli *cli, const char *option, const char *value, unsigned long min, unsigned long max,
		unsigned long *out);
bool cli_factor(const struct cli *cli, const char *option, const char *value, double *out);	/* 0.01 to 1000 */
/* "I/N": the I-th of N shards, from 1. */
bool cli_shard(const struct cli *cli, const char *value, unsigned most, unsigned *number, unsigned *of);
/* A size in bytes with an optional suffix k, M, G, T, P, E (powers of 1024). */
bool size_parse(const char *value, unsigned long long *bytes);
/* The same of memory to be used at once: from 1M on, and no more than the machine can give; else what is wrong. */
bool memory_parse(const char *value, unsigned long long *bytes, char error[256]);

/* Creates a file; NULL and one line, as cli_broken(). */
FILE *cli_create(const struct cli *cli, const char *path);
/* Closes a file that was written, but for standard output. Where it is not whole it is removed: false, and one line. */
bool cli_close(const struct cli *cli, FILE *f, const char *path, const char *what);
/* They are one file, whatever it is called, and one use would destroy the other; a device takes any number of them. */
bool cli_same_file(const char *a, const char *b);
/* Closes it and, for no half of a report is left behind, removes it; a device is not ours to remove. */
void cli_discard(FILE *f, const char *path);

char *shell_quote(char *const *argv);		/* malloc'd */

#endif
