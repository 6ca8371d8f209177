/* nbdspec crash replay: one state of a recording, as an image. */
#include "harness/cli.h"
#include "harness/crash/nested.h"
#include "harness/file.h"
#include "harness/filesystem.h"
#include "harness/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPT_OUTPUT = 1 };

static const struct cli_option replay_options[] = {
	{ "output", 'o', "IMAGE", "write the image there; the file must not exist", OPT_OUTPUT, false },
	CHECKER_OPTIONS("check it, as 'nbdspec crash explore' does"),
	{ 0 },
};

struct asked {
	const char *trace, *state, *output;
	struct checker_setup setup;
	struct difference difference;
	bool twice; /* a second cut, while the checker wrote */
	struct second second;
};

static int
take_option(const struct cli *cli, const struct cli_given *g, struct asked *a)
{
	if (g->id != OPT_OUTPUT)
		return checker_take_option(cli, g, &a->setup);
	a->output = g->value;
	return 0;
}

static int
read_state(const struct cli *cli, struct asked *a)
{
	const char *then = strstr(a->state, SECOND_WORD);
	char *first = then != NULL ? strndup(a->state, (size_t)(then - a->state)) : strdup(a->state);
	bool ok = first != NULL && difference_parse(first, &a->difference);

	free(first);
	a->twice = then != NULL;
	if (ok && a->twice)
		ok = second_parse(then + strlen(SECOND_WORD), &a->second);
	if (!ok)
		return cli_usage_error(cli, "'%s': want a state such as '1234:-5..7,4096+512=3'", a->state);
	if (a->twice && (a->setup.command == NULL || strstr(a->setup.command, "{uri}") == NULL))
		return cli_usage_error(cli,
		                       "'%s' is what a cut leaves of what the checker wrote: want --check with its "
		                       "command, and {uri} in it",
		                       a->state);
	a->setup.keep = a->twice;
	return 0;
}

static int
read_command_line(const struct cli *cli, struct asked *a)
{
	int status = 0;

	for (size_t i = 0; i < cli->n_given && status == 0; i++)
		status = take_option(cli, &cli->given[i], a);
	if (status != 0)
		return status;
	if (cli->n_args != 2)
		return cli_usage_error(cli, "want a TRACE, and a STATE as 'nbdspec crash explore' names it");
	a->trace = cli->args[0];
	a->state = cli->args[1];
	if (a->output == NULL && a->setup.command == NULL)
		return cli_usage_error(cli, "want -o IMAGE, or --check COMMAND, or both");
	status = checker_take_all(cli, &a->setup);
	return status != 0 ? status : read_state(cli, a);
}

/* ---- the image as a file ---- */

static bool
write_data(const struct image *i, int fd)
{
	off_t data = 0, hole;

	while ((data = lseek(i->fd, data, SEEK_DATA)) >= 0) {
		hole = lseek(i->fd, data, SEEK_HOLE);
		while (data < hole) {
			ssize_t n = pwrite(fd, i->at + data, (size_t)(hole - data), data);

			if (n <= 0)
				return false;
			data += n;
		}
	}
	return true;
}

/* No half of an image is left behind. */
static int
write_image(const struct cli *cli, const struct image *i, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), failed;

	if (fd < 0)
		return cli_broken(cli, "%s: %s", path, strerror(errno));
	failed = ftruncate(fd, (off_t)i->size) == 0 && write_data(i, fd) ? 0 : errno;
	if (close(fd) != 0 && failed == 0)
		failed = errno;
	if (failed == 0)
		return STATUS_OK;
	unlink(path);
	return cli_broken(cli, "%s: %s", path, strerror(failed));
}

/* ---- checking ---- */

static int
print_verdict(const struct cli *cli, const struct checked *c)
{
	if (c->verdict == VERDICT_BROKEN)
		return cli_broken(cli, "the checker cannot be run: %s", c->output);
	printf("%s", state_verdict_name(c->verdict));
	if (c->verdict == VERDICT_BAD)
		printf(": the checker exited %d", c->number);
	else if (c->verdict == VERDICT_CRASH)
		printf(": the checker died of signal %d", c->number);
	printf("%s%s\n", c->output[0] != '\0' ? ": " : "", c->output);
	return c->verdict == VERDICT_GOOD ? STATUS_OK : STATUS_FAILED;
}

static int
check_shown(const struct cli *cli, const struct asked *a, struct image *i, const struct recording *r, uint32_t must)
{
	struct checked result;
	char error[512];
	struct checker *c = checker_new(&a->setup, i, error);

	if (c == NULL)
		return cli_broken(cli, "%s", error);
	checker_run(c, must, must < r->n_marks ? &r->marks[must].text : NULL, &result);
	checker_free(c);
	return print_verdict(cli, &result);
}

/* What the checker wrote is on the first disk; its part that is to be there is shown. */
static int
cut_again(const struct cli *cli, struct asked *a, struct second_disk *d, const struct recording *r, uint32_t must)
{
	struct view *v = view_new(d->space);
	char error[512];
	int status;

	if (!difference_show(&a->second.difference, v, error)) {
		status = cli_usage_error(cli, "'%s' is no state of %s: %s", a->state, a->trace, error);
	} else {
		image_show(d->image, v);
		status = a->output != NULL ? write_image(cli, d->image, a->output) : STATUS_OK;
		if (status == STATUS_OK)
			status = check_shown(cli, a, d->image, r, must);
	}
	view_free(v);
	return status;
}

/* The checker runs for what it writes, which must be what it wrote when the state got its name. */
static int
check_twice(const struct cli *cli, struct asked *a, struct image *i, const struct recording *r, uint32_t must)
{
	struct checked result;
	struct second_disk d = { 0 };
	char error[512];
	struct checker *c = checker_new(&a->setup, i, error);
	const struct recording *writes;
	int status;

	if (c == NULL)
		return cli_broken(cli, "%s", error);
	checker_run(c, must, must < r->n_marks ? &r->marks[must].text : NULL, &result);
	writes = &checker_served(c)->writes;
	if (result.verdict != VERDICT_GOOD)
		status = print_verdict(cli, &result);
	else if (writes->n_commands == 0 || recording_identity(writes) != a->second.writes)
		status = cli_broken(cli,
		                    "the checker has written something else than when '%s' was found: it is another "
		                    "one, or not deterministic",
		                    a->state);
	else if (!second_open(&d, i, writes, a->setup.tear, a->second.difference.at, error))
		status = cli_broken(cli, "%s", error);
	else
		status = cut_again(cli, a, &d, r, must);
	second_close(&d);
	checker_free(c);
	return status;
}

static int
check_image(const struct cli *cli, struct asked *a, struct image *i, uint32_t must)
{
	const struct recording *r = i->space->recording;
	char error[512], *marks = join_path(a->setup.dir, "marks");
	int status;

	a->setup.marks = marks;
	if (!recording_write_marks(r, marks, error))
		status = cli_broken(cli, "%s", error);
	else if (a->twice)
		status = check_twice(cli, a, i, r, must);
	else
		status = check_shown(cli, a, i, r, must);
	free(marks);
	return status;
}

/* The guard ends what the checker started, and removes the directory, should this process die. */
static int
check_guarded(const struct cli *cli, struct asked *a, struct image *i, uint32_t must)
{
	pid_t guard;
	char error[512], *dir = make_guarded_dir(&guard, error);
	int status;

	if (dir == NULL)
		return cli_broken(cli, "%s", error);
	a->setup.dir = dir;
	status = check_image(cli, a, i, must);
	signal_marked(dir, NULL, SIGKILL);
	remove_dir(dir);
	dismiss_guard(guard, dir);
	free(dir);
	return status;
}

static int
replay(const struct cli *cli, struct asked *a, const struct space *s)
{
	struct view *v = view_new(s);
	char error[512];
	struct image *i = NULL;
	int status;

	if (!difference_show(&a->difference, v, error)) {
		status = cli_usage_error(cli, "'%s' is no state of %s: %s", a->state, a->trace, error);
	} else if ((i = image_new(s, error)) == NULL) {
		status = cli_broken(cli, "%s", error);
	} else {
		image_show(i, v);
		status = a->output != NULL && !a->twice ? write_image(cli, i, a->output) : STATUS_OK;
		if (status == STATUS_OK && a->setup.command != NULL)
			status = check_guarded(cli, a, i, s->points[v->point].must);
	}
	image_free(i);
	view_free(v);
	return status;
}

static int
run_replay(struct cli *cli)
{
	struct asked a = { .setup = { .ms = 30000 } };
	struct recording r;
	struct tear tear;
	struct space *s;
	char error[512];
	int status = read_command_line(cli, &a);

	if (status != 0)
		return status;
	if (!recording_load(&r, a.trace, error))
		return cli_usage_error(cli, "%s", error);
	tear_parse("sector", r.minimum, &tear);
	a.setup.tear = tear;
	s = space_new(&r, tear, false, a.difference.at);
	status = replay(cli, &a, s);
	space_free(s);
	recording_free(&r);
	difference_free(&a.difference);
	difference_free(&a.second.difference);
	return status;
}

COMMAND(crash_replay) = {
	.name = "crash replay",
	.usage = "[OPTION]... TRACE STATE",
	.summary = "build the image of one state, and check it",
	.help = "STATE is what 'nbdspec crash explore' names: a cut when 1234 of the recording's requests, replies and "
		"marks had\n"
		"come is 1234, with all that was written by then; 1234:-5..7 lacks the writes 5 to 7, and in "
		"1234:4096+512=3 the\n"
		"512 bytes at 4096 are as write 3 made them (=0: as they were before all).\n"
		"Behind 'then' stands what a second cut left of what the checker wrote in that state.\n\n"
		"Exit status: 0 it was built, and is good; 1 the check fails; 2 usage; 3 the checker cannot be run.\n",
	.options = replay_options,
	.run = run_replay,
};
