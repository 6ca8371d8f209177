/* Finds the command, reads its options by its table, runs it. */
#include "harness/cli.h"

#include "harness/section.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

SECTION_LIST(command, struct command, nbdspec_commands)

const struct command *
command_at(size_t i)
{
	return section_sorted(command_section(), i);
}

static const struct command *
command_named(const char *name)
{
	const struct command *c;

	for (size_t i = 0; (c = command_at(i)) != NULL; i++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

static void
print_usage(FILE *f)
{
	const struct command *c;

	fputs("usage: nbdspec COMMAND [OPTION]...\n\n"
	      "Tests implementations of the NBD protocol.\n\ncommands:\n", f);
	for (size_t i = 0; (c = command_at(i)) != NULL; i++)
		if (!c->hidden)
			fprintf(f, "  %-14s %s\n", c->name, c->summary);
	fputs("\n'nbdspec COMMAND --help' tells a command's options.\n"
	      "Exit status: 0 all as expected; 1 a case failed; 2 usage; 3 the set-up broke or nothing ran.\n", f);
}

static void
print_command_help(const struct command *c)
{
	char left[80];

	printf("usage: nbdspec %s %s\n\n%s.\n", c->name, c->usage, c->summary);
	if (c->help != NULL)
		printf("\n%s", c->help);
	printf("\noptions:\n");
	for (const struct cli_option *o = c->options; o->name != NULL; o++) {
		snprintf(left, sizeof(left), "%c%c%s--%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
			 o->letter ? ", " : "  ", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
		printf("  %-30s%s%s\n", left, strlen(left) >= 30 ? "\n                                " : "", o->help);
	}
	printf("  %-30s%s\n", "    --help", "print this");
}

static const struct cli_option *
option_by_id(const struct command *c, int id)
{
	for (const struct cli_option *o = c->options; o->name != NULL; o++)
		if (o->id == id)
			return o;
	return NULL;
}

/* "[ COMMAND … ]" and "-- COMMAND …" are cut off before getopt sees them. */
static bool
cut_program(struct cli *cli, int *argc, char **argv)
{
	for (int i = 1; i < *argc; i++) {
		cli->bracket = strcmp(argv[i], "[") == 0;
		if (!cli->bracket && strcmp(argv[i], "--") != 0)
			continue;
		if (cli->bracket && (*argc - i < 3 || strcmp(argv[*argc - 1], "]") != 0)) {
			cli_usage_error(cli, "'[' wants a server's command and a last argument ']'");
			return false;
		}
		if (!cli->bracket && i + 1 == *argc) {
			cli_usage_error(cli, "'--' wants a command behind it");
			return false;
		}
		cli->program = argv + i + 1;
		argv[*argc - (cli->bracket ? 1 : 0)] = NULL;
		argv[i] = NULL;
		*argc = i;
		return true;
	}
	return true;
}

static int
read_options(struct cli *cli, int argc, char **argv)
{
	struct option longs[64] = { { 0 } };
	char shorts[160] = ":";
	size_t n = 0;
	int got;

	for (const struct cli_option *o = cli->command->options; o->name != NULL; o++, n++) {
		longs[n] = (struct option){ o->name, o->arg ? required_argument : no_argument, NULL, 1000 + o->id };
		if (o->letter)
			snprintf(shorts + strlen(shorts), 4, "%c%s", o->letter, o->arg ? ":" : "");
	}
	longs[n] = (struct option){ "help", no_argument, NULL, 999 };
	cli->given = calloc((size_t)argc + 1, sizeof(*cli->given));
	opterr = 0;
	while ((got = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
		int id = got - 1000;

		if (got == 999) {
			print_command_help(cli->command);
			return -1;
		}
		if (got == ':')
			return cli_usage_error(cli, "option %s wants an argument", argv[optind - 1]);
		if (got == '?')
			return cli_usage_error(cli, "unknown option %s; see 'nbdspec %s --help'", argv[optind - 1],
					       cli->command->name);
		for (const struct cli_option *o = cli->command->options; got < 999 && o->name != NULL; o++)
			if (o->letter == got)
				id = o->id;
		for (size_t i = 0; i < cli->n_given; i++)
			if (cli->given[i].id == id && !option_by_id(cli->command, id)->repeat)
				return cli_usage_error(cli, "option --%s is given twice",
						       option_by_id(cli->command, id)->name);
		cli->given[cli->n_given++] = (struct cli_given){ id, optarg };
	}
	cli->args = argv + optind;
	cli->n_args = (size_t)(argc - optind);
	return 0;
}

int
main(int argc, char **argv)
{
	struct cli cli = { .line = shell_quote(argv) };
	int status;

	if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
		print_usage(argc < 2 ? stderr : stdout);
		return argc < 2 ? STATUS_USAGE : STATUS_OK;
	}
	if (strcmp(argv[1], "--version") == 0) {
		printf("nbdspec " NBDSPEC_VERSION " (protocol text 89ba7b5379548d6ebbfa36db15f2b8e3787a09ea)\n");
		return STATUS_OK;
	}
	cli.command = command_named(argv[1]);
	if (cli.command == NULL) {
		fprintf(stderr, "nbdspec: unknown command '%s'; 'nbdspec --help' lists them\n", argv[1]);
		return STATUS_USAGE;
	}
	argc--;
	argv++;
	if (!cut_program(&cli, &argc, argv))
		return STATUS_USAGE;
	status = read_options(&cli, argc, argv);
	if (status == 0)
		status = cli.command->run(&cli);
	free(cli.given);
	free(cli.line);
	if (status >= 0 && fflush(stdout) != 0) {
		fprintf(stderr, "nbdspec: standard output: %s\n", strerror(errno));
		return STATUS_BROKEN;
	}
	return status < 0 ? STATUS_OK : status;
}
