/* Finds the command, reads its options by its table, runs it. */
#include "harness/cli.h"

#include "harness/requirement.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of a command's name, such as "crash explore", the first word is `word`; its second one, "" without one, or NULL. */
static const char *
behind_word(const struct command *c, const char *word)
{
	size_t len = strlen(word);

	if (len == 0 || strncmp(c->name, word, len) != 0)
		return NULL;
	return c->name[len] == ' ' ? c->name + len + 1 : c->name[len] == '\0' ? c->name + len : NULL;
}

/* The command that the words begin with, and how many of them are its name. */
static const struct command *
command_named(char **words, size_t *n)
{
	const struct command *c;
	const char *second;

	for (size_t i = 0; words[0] != NULL && (c = command_at(i)) != NULL; i++) {
		second = behind_word(c, words[0]);
		*n = second != NULL && *second != '\0' ? 2 : 1;
		if (second != NULL && (*n == 1 || (words[1] != NULL && strcmp(second, words[1]) == 0)))
			return c;
	}
	return NULL;
}

/* It is the first word of commands of two. */
static bool
is_group(const char *word)
{
	const struct command *c;
	const char *second;

	for (size_t i = 0; (c = command_at(i)) != NULL; i++)
		if ((second = behind_word(c, word)) != NULL && *second != '\0')
			return true;
	return false;
}

/* All commands, or those of a group. */
static void
print_commands(FILE *f, const char *group)
{
	const struct command *c;

	for (size_t i = 0; (c = command_at(i)) != NULL; i++)
		if (!c->hidden && (group == NULL || behind_word(c, group) != NULL))
			fprintf(f, "  %-14s %s\n", c->name, c->summary);
}

static void
print_group(FILE *f, const char *group)
{
	fprintf(f, "usage: nbdspec %s COMMAND [OPTION]...\n\ncommands:\n", group);
	print_commands(f, group);
	fprintf(f, "\n'nbdspec %s COMMAND --help' tells a command's options.\n", group);
}

static void
print_usage(FILE *f)
{
	fputs("usage: nbdspec COMMAND [OPTION]...\n\n"
	      "Tests implementations of the NBD protocol.\n\ncommands:\n",
	      f);
	print_commands(f, NULL);
	fputs("\n'nbdspec COMMAND --help' tells a command's options.\n"
	      "'nbdspec --version' prints the version, and the commits of the protocol texts whose lines are named.\n"
	      "Exit status: 0 all as expected; 1 a case failed; 2 usage; 3 the set-up broke or nothing ran.\n",
	      f);
}

static int
print_command_help(const struct command *c)
{
	char left[80];

	printf("usage: nbdspec %s %s\n\n%c%s.\n", c->name, c->usage, toupper((unsigned char)c->summary[0]),
	       c->summary + 1);
	if (c->help != NULL)
		printf("\n%s", c->help);
	printf("\noptions:\n");
	for (const struct cli_option *o = c->options; o->name != NULL; o++) {
		snprintf(left, sizeof(left), "%c%c%s--%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
		         o->letter ? ", " : "  ", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
		printf("  %-30s%s%s\n", left, strlen(left) >= 30 ? "\n                                " : "", o->help);
	}
	printf("  %-30s%s\n", "-h, --help", "print this");
	return STATUS_OK;
}

/* ---- reading a command line ---- */

enum { GOT_ARGUMENT = 1, GOT_HELP = 999, GOT_LONG = 1000 }; /* what getopt_long returns, besides letters */

static const struct cli_option *
option_got(const struct command *c, int got)
{
	for (const struct cli_option *o = c->options; o->name != NULL; o++)
		if ((got != 0 && o->letter == got) || GOT_LONG + o->id == got)
			return o;
	return NULL;
}

/* "--t": "--target, --time-factor, …", or "" where it begins no more than one. */
static void
list_meant(const struct command *c, const char *arg, char *text, size_t size)
{
	size_t len = strcspn(arg + 2, "=");
	unsigned n = 0;

	text[0] = '\0';
	for (const struct cli_option *o = c->options; o->name != NULL; o++)
		if (len > 0 && strncmp(o->name, arg + 2, len) == 0)
			snprintf(text + strlen(text), size - strlen(text), "%s--%s", n++ > 0 ? ", " : "", o->name);
	if (n < 2)
		text[0] = '\0';
}

static int
complain_of_option(const struct cli *cli, int got, const char *arg)
{
	const struct cli_option *o = option_got(cli->command, optopt);
	char meant[400] = "";

	if (got == ':')
		return cli_usage_error(cli, "option --%s wants an argument: --%s %s", o->name, o->name, o->arg);
	if (o != NULL || optopt == GOT_HELP)
		return cli_usage_error(cli, "option --%s takes no argument", o != NULL ? o->name : "help");
	if (optopt != 0)
		return cli_usage_error(cli, "unknown option -%c; see 'nbdspec %s --help'", optopt, cli->command->name);
	list_meant(cli->command, arg, meant, sizeof(meant));
	if (meant[0] != '\0')
		return cli_usage_error(cli, "option %s may mean %s", arg, meant);
	return cli_usage_error(cli, "unknown option %s; see 'nbdspec %s --help'", arg, cli->command->name);
}

static int
take_option(struct cli *cli, int got, const char *value)
{
	const struct cli_option *o = option_got(cli->command, got);

	for (size_t i = 0; i < cli->n_given; i++)
		if (cli->given[i].id == o->id && !o->repeat)
			return cli_usage_error(cli, "option --%s is given twice", o->name);
	cli->given[cli->n_given++] = (struct cli_given){ o->id, value };
	return 0;
}

/* The server's command: all that stands behind "--", or up to the "]" that ends the line. */
static int
take_program(struct cli *cli, char **at, bool bracket)
{
	size_t n = 0, end = 0;

	for (; at[n] != NULL; n++)
		if (strcmp(at[n], "]") == 0)
			end = n + 1;
	cli->bracket = bracket;
	cli->program = at;
	if (!bracket)
		return n > 0 ? 0 : cli_usage_error(cli, "'--' wants a command behind it");
	if (end == 0)
		return cli_usage_error(cli, "'[' wants a command and ']' as the last argument");
	if (end < n)
		return cli_usage_error(cli, "'%s': nothing may stand behind ']'", at[end]);
	if (n == 1)
		return cli_usage_error(cli, "'[ ]': want a command between them");
	at[n - 1] = NULL;
	return 0;
}

static void
fill_getopt(const struct command *c, struct option *longs, char *shorts)
{
	strcpy(shorts, "-:h"); /* '-': what is no option comes in its place, so that a '[' is seen as one */
	for (const struct cli_option *o = c->options; o->name != NULL; o++) {
		*longs++ = (struct option){ o->name, o->arg ? required_argument : no_argument, NULL, GOT_LONG + o->id };
		if (o->letter)
			snprintf(shorts + strlen(shorts), 4, "%c%s", o->letter, o->arg ? ":" : "");
	}
	*longs = (struct option){ "help", no_argument, NULL, GOT_HELP };
}

static int
read_options(struct cli *cli, int argc, char **argv, bool *help)
{
	struct option longs[64] = { { 0 } };
	char shorts[160];
	int got, at, status = 0;

	fill_getopt(cli->command, longs, shorts);
	opterr = 0;
	while (status == 0 && !*help) {
		at = optind;
		got = getopt_long(argc, argv, shorts, longs, NULL);
		if (got == -1 && optind > at && cli->command->takes_program)
			return take_program(cli, argv + optind, false);
		if (got == -1)
			break;
		if (got == GOT_ARGUMENT && cli->command->takes_program && strcmp(optarg, "[") == 0)
			return take_program(cli, argv + optind, true);
		if (got == GOT_ARGUMENT)
			cli->args[cli->n_args++] = optarg;
		else if (got == 'h' || got == GOT_HELP)
			*help = true;
		else if (got == ':' || got == '?')
			status = complain_of_option(cli, got, argv[optind - 1]);
		else
			status = take_option(cli, got, optarg);
	}
	while (optind < argc && status == 0)
		cli->args[cli->n_args++] = argv[optind++];
	return status;
}

static int
run_command(const struct command *c, int argc, char **argv, char *line)
{
	struct cli cli = { .command = c,
		           .line = line,
		           .given = calloc((size_t)argc + 1, sizeof(*cli.given)),
		           .args = calloc((size_t)argc + 1, sizeof(*cli.args)) };
	bool help = false;
	int status;

	if (cli.given == NULL || cli.args == NULL)
		abort();
	status = read_options(&cli, argc, argv, &help);
	if (status == 0)
		status = help ? print_command_help(c) : c->run(&cli);
	free(cli.given);
	free(cli.args);
	return status;
}

static bool
asks_help(const char *word)
{
	return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

/* The words name no command. */
static int
complain_of_command(char **words, bool help)
{
	bool group = is_group(words[0]);

	if (group && (words[1] == NULL || asks_help(words[1]))) {
		help |= words[1] != NULL;
		print_group(help ? stdout : stderr, words[0]);
		return help ? STATUS_OK : STATUS_USAGE;
	}
	fprintf(stderr, "nbdspec: unknown command '%s%s%s'; 'nbdspec %s%s--help' lists them\n", words[0],
	        group ? " " : "", group ? words[1] : "", group ? words[0] : "", group ? " " : "");
	return STATUS_USAGE;
}

static int
run_main(int argc, char **argv, char *line)
{
	bool help = argc > 1 && asks_help(argv[1]);
	char **words = argv + (help ? 2 : 1);
	const struct command *c;
	size_t n;

	if (argc < (help ? 3 : 2)) {
		print_usage(help ? stdout : stderr);
		return help ? STATUS_OK : STATUS_USAGE;
	}
	if (strcmp(words[0], "--version") == 0) {
		fputs("nbdspec " NBDSPEC_VERSION "\n"
		      "protocol text     " PROTOCOL_COMMIT " (doc/proto.md of NetworkBlockDevice/nbd)\n"
		      "extended headers  " EXTENSION_COMMIT " (its branch extension-ext-header)\n",
		      stdout);
		return STATUS_OK;
	}
	c = command_named(words, &n);
	if (c == NULL)
		return complain_of_command(words, help);
	return help ? print_command_help(c) : run_command(c, argc - (int)n, argv + n, line);
}

/* A closed descriptor 0, 1 or 2 would be given to the next file that is opened, and what we print would land in it. */
static void
fill_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDONLY);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

int
main(int argc, char **argv)
{
	char *line;
	int status;

	fill_standard_descriptors();
	line = shell_quote(argv);
	status = run_main(argc, argv, line);
	free(line);
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	if (status != STATUS_BROKEN)
		fprintf(stderr, "nbdspec: standard output: %s\n", strerror(errno));
	return STATUS_BROKEN;
}
