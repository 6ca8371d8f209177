/* nbdspec completion: what makes a shell complete our command lines, from the tables of the commands. */
#include "harness/cli.h"
#include "harness/embedded.h"

#include <stdio.h>
#include <string.h>

/*
 * What completes an argument: "files", "directories", "commands", "words A B …", "from COMMAND…" (the first word of each
 * line that nbdspec prints), "cases SUITE", or NULL for nothing.
 */
struct argument {
	const char *command; /* or NULL: of any */
	const char *name;    /* of the option; NULL: what is no option */
	const char *kind;
};

static const struct argument arguments[] = {
	{ "client", "case", "cases client" },
	{ "durability", "case", "cases durability" },
	{ "mutants", "case", "from list" },
	{ "server", "case", "cases server" },
	{ "mutants", "mutant", "from serve --list-lies" },
	{ "driver", "lie", "from driver --list-lies" },
	{ "serve", "lie", "from serve --list-lies" },
	{ NULL, "habit", "from driver --list-habits" },
	{ NULL, "knob", "from serve --list-knobs" },
	{ NULL, "binds", "words server client" },
	{ NULL, "cut", "words drop keep random" },
	{ NULL, "driver", "commands" },
	{ NULL, "filesystem", "words ext4 xfs btrfs" },
	{ NULL, "format", "words dm-log-writes pcapng" },
	{ NULL, "fs", "words ext4 xfs btrfs" },
	{ NULL, "reload", "words HUP USR1 USR2" },
	{ NULL, "require", "words any" },
	{ NULL, "tear", "words sector 4096 write" },
	{ "serve", "tls", "words off on require" },
	{ NULL, "via", "words unix tcp stdio activation" },
	{ "certificates", NULL, "directories" },
	{ "completion", NULL, "words bash zsh" },
	{ "crash explore", NULL, "files" },
	{ "crash export", NULL, "files" },
	{ "crash import", NULL, "files" },
	{ "crash merge", NULL, "files" },
	{ "crash replay", NULL, "files" },
	{ "driver", NULL, "files" },
	{ "driver-check", NULL, "commands" },
	{ "explain", NULL, "from list" },
	{ "list", NULL, "from list" },
	{ "matrix", NULL, "files" },
	{ "referee", NULL, "files" },
};

static const char *
kind_listed(const char *command, const char *option)
{
	for (size_t i = 0; i < sizeof(arguments) / sizeof(arguments[0]); i++) {
		const struct argument *a = &arguments[i];

		if (a->command != NULL && strcmp(a->command, command) != 0)
			continue;
		if (option == NULL ? a->name == NULL : a->name != NULL && strcmp(a->name, option) == 0)
			return a->kind;
	}
	return NULL;
}

/* Of an option that is not listed, what its argument is called says what it is. */
static const char *
kind_of(const struct command *c, const struct cli_option *o)
{
	static const char *const files[] = { "FILE", "IMAGE", "PATH", "SOCKET", "TRACE" };
	const char *kind = kind_listed(c->name, o->name);

	for (size_t i = 0; kind == NULL && i < sizeof(files) / sizeof(files[0]); i++)
		if (strcmp(o->arg, files[i]) == 0)
			kind = "files";
	if (kind == NULL && strcmp(o->arg, "DIR") == 0)
		kind = "directories";
	return kind;
}

/* Within quotes of the shell; what is `escaped` gets a backslash before it. */
static void
put_quoted(const char *s, const char *escaped)
{
	for (; *s != '\0'; s++)
		if (*s == '\'')
			fputs("'\\''", stdout);
		else
			printf("%s%c", strchr(escaped, *s) != NULL ? "\\" : "", *s);
}

/* The length of the first of two words, or 0. */
static size_t
group_length(const struct command *c)
{
	const char *blank = strchr(c->name, ' ');

	return blank != NULL ? (size_t)(blank - c->name) : 0;
}

/* Its group is not that of the command before it. */
static bool
begins_group(size_t i)
{
	const struct command *c = command_at(i), *before;
	size_t n = group_length(c);

	for (size_t j = i; n > 0 && j-- > 0;) {
		before = command_at(j);
		if (!before->hidden)
			return group_length(before) != n || strncmp(before->name, c->name, n) != 0;
	}
	return n > 0;
}

/* ---- what both shells ask of a command ---- */

static void
put_is_group(void)
{
	fputs("_nbdspec_is_group() {\n\tcase $1 in\n", stdout);
	for (size_t i = 0; command_at(i) != NULL; i++)
		if (!command_at(i)->hidden && begins_group(i))
			printf("\t%.*s) return 0 ;;\n", (int)group_length(command_at(i)), command_at(i)->name);
	fputs("\tesac\n\treturn 1\n}\n\n", stdout);
}

static void
put_takes_program(void)
{
	const struct command *c;

	fputs("_nbdspec_takes_program() {\n\tcase $1 in\n", stdout);
	for (size_t i = 0; (c = command_at(i)) != NULL; i++)
		if (!c->hidden && c->takes_program)
			printf("\t'%s') return 0 ;;\n", c->name);
	fputs("\tesac\n\treturn 1\n}\n\n", stdout);
}

/* ---- bash ---- */

EMBEDDED_TEXT(completion_bash, "harness/completion.bash");

static void
put_bash_commands(void)
{
	const struct command *c;

	fputs("_nbdspec_commands() {\n\tcase $1 in\n", stdout);
	for (size_t i = 0; (c = command_at(i)) != NULL; i++)
		if (!c->hidden && group_length(c) > 0)
			printf("\t%.*s) printf '%%s\\n' '%s' ;;&\n", (int)group_length(c), c->name,
			       c->name + group_length(c) + 1);
	fputs("\t'') printf '%s\\n' --help --version help", stdout);
	for (size_t i = 0; (c = command_at(i)) != NULL; i++)
		if (!c->hidden && group_length(c) == 0)
			printf(" %s", c->name);
		else if (!c->hidden && begins_group(i))
			printf(" %.*s", (int)group_length(c), c->name);
	fputs(" ;;\n\tesac\n}\n\n", stdout);
}

static void
put_bash_options(void)
{
	const struct command *c;

	fputs("_nbdspec_options() {\n\tcase $1 in\n", stdout);
	for (size_t i = 0; (c = command_at(i)) != NULL; i++) {
		if (c->hidden)
			continue;
		printf("\t'%s') printf '%%s\\n' --help", c->name);
		for (const struct cli_option *o = c->options; o->name != NULL; o++)
			printf(" --%s", o->name);
		fputs(" ;;\n", stdout);
	}
	fputs("\tesac\n}\n\n", stdout);
}

/* Nothing is said of a flag; "none" of an argument that nothing completes. */
static void
put_bash_kinds(void)
{
	const struct command *c;
	const char *kind;

	fputs("_nbdspec_kind() {\n\tcase \"$1 $2\" in\n", stdout);
	for (size_t i = 0; (c = command_at(i)) != NULL; i++) {
		if (c->hidden)
			continue;
		if ((kind = kind_listed(c->name, NULL)) != NULL)
			printf("\t'%s argument') echo '%s' ;;\n", c->name, kind);
		for (const struct cli_option *o = c->options; o->name != NULL; o++) {
			if (o->arg == NULL)
				continue;
			printf("\t'%s --%s'", c->name, o->name);
			if (o->letter)
				printf(" | '%s -%c'", c->name, o->letter);
			printf(") echo '%s' ;;\n", (kind = kind_of(c, o)) != NULL ? kind : "none");
		}
	}
	fputs("\tesac\n}\n", stdout);
}

static void
put_bash(void)
{
	fputs(completion_bash, stdout);
	put_is_group();
	put_takes_program();
	put_bash_commands();
	put_bash_options();
	put_bash_kinds();
}

/* ---- zsh ---- */

EMBEDDED_TEXT(completion_zsh, "harness/completion.zsh");

static void
put_zsh_commands(void)
{
	const struct command *c;

	fputs("_nbdspec_commands() {\n\tcase $1 in\n", stdout);
	for (size_t i = 0; (c = command_at(i)) != NULL; i++)
		if (!c->hidden && group_length(c) > 0) {
			printf("\t%.*s) offered+=('%s:", (int)group_length(c), c->name, c->name + group_length(c) + 1);
			put_quoted(c->summary, "\\:");
			fputs("') ;|\n", stdout);
		}
	fputs("\t'') offered=(\n\t\t--help --version help\n", stdout);
	for (size_t i = 0; (c = command_at(i)) != NULL; i++) {
		if (c->hidden || (group_length(c) > 0 && !begins_group(i)))
			continue;
		printf("\t\t'%.*s", (int)strcspn(c->name, " "), c->name);
		if (group_length(c) == 0) {
			putchar(':');
			put_quoted(c->summary, "\\:");
		}
		fputs("'\n", stdout);
	}
	fputs("\t) ;;\n\tesac\n}\n\n", stdout);
}

static void
put_zsh_action(const char *kind)
{
	if (kind == NULL)
		putchar(' ');
	else if (strncmp(kind, "words ", 6) == 0)
		printf("(%s)", kind + 6);
	else if (strcmp(kind, "files") == 0)
		fputs("_files", stdout);
	else if (strcmp(kind, "directories") == 0)
		fputs("_files -/", stdout);
	else if (strcmp(kind, "commands") == 0)
		fputs("_command_names -e", stdout);
	else
		printf("{ _nbdspec_%s }", kind);
}

/* One of its two names; the other is not offered beside it. */
static void
put_zsh_spec(const struct command *c, const struct cli_option *o, bool letter)
{
	fputs("\t\t'", stdout);
	if (o->repeat)
		putchar('*');
	else if (o->letter)
		printf("(-%c --%s)", o->letter, o->name);
	if (letter)
		printf("-%c%s[", o->letter, o->arg ? "+" : "");
	else
		printf("--%s%s[", o->name, o->arg ? "=" : "");
	put_quoted(o->help, "\\[]");
	putchar(']');
	if (o->arg != NULL) {
		putchar(':');
		put_quoted(o->arg, "\\:");
		putchar(':');
		put_zsh_action(kind_of(c, o));
	}
	fputs("'\n", stdout);
}

static void
put_zsh_specs(void)
{
	const struct command *c;
	const char *kind;

	fputs("_nbdspec_specs() {\n\tcase $1 in\n", stdout);
	for (size_t i = 0; (c = command_at(i)) != NULL; i++) {
		if (c->hidden)
			continue;
		printf("\t'%s') specs=(\n\t\t'(- *)'{-h,--help}'[print the help]'\n", c->name);
		for (const struct cli_option *o = c->options; o->name != NULL; o++) {
			put_zsh_spec(c, o, false);
			if (o->letter)
				put_zsh_spec(c, o, true);
		}
		if ((kind = kind_listed(c->name, NULL)) != NULL) {
			fputs("\t\t'*: :", stdout);
			put_zsh_action(kind);
			fputs("'\n", stdout);
		}
		fputs("\t) ;;\n", stdout);
	}
	fputs("\tesac\n}\n\n", stdout);
}

static void
put_zsh(void)
{
	fputs(completion_zsh, stdout);
	put_is_group();
	put_takes_program();
	put_zsh_commands();
	put_zsh_specs();
	fputs("_nbdspec \"$@\"\n", stdout);
}

static int
run_completion(struct cli *cli)
{
	const char *shell = cli->n_args == 1 ? cli->args[0] : "";

	if (strcmp(shell, "bash") == 0)
		put_bash();
	else if (strcmp(shell, "zsh") == 0)
		put_zsh();
	else if (cli->n_args == 1)
		return cli_usage_error(cli, "no completion for '%s': want bash or zsh", shell);
	else
		return cli_usage_error(cli, "want one shell, bash or zsh");
	return STATUS_OK;
}

static const struct cli_option no_options[] = { { 0 } };

COMMAND(completion) = {
	.name = "completion",
	.usage = "bash|zsh",
	.summary = "print what makes a shell complete the command lines of nbdspec",
	.help = "'make install' puts it where both shells find it. Without that:\n\n"
		"  source <(nbdspec completion bash)\n"
		"  nbdspec completion zsh > ~/.zfunc/_nbdspec        # ~/.zfunc is in $fpath, before compinit\n",
	.options = no_options,
	.run = run_completion,
};
