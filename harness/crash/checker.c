#include "harness/crash/checker.h"

#include "harness/cli.h"
#include "harness/clock.h"
#include "harness/crash/nested.h"
#include "harness/file.h"
#include "harness/filesystem.h"
#include "harness/printable.h"
#include "harness/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS_MOST = 64, DETACH_MS = 5000 };

struct checker {
	struct checker_setup setup;
	struct image *image;
	char *command;              /* with what stands for the image filled in */
	char *argv[WORDS_MOST + 1]; /* its words, or a shell with it */
	char *mount;                /* NULL without one */
	struct served *served;      /* NULL without {uri} */
	int null, output;
};

const char *
state_verdict_name(enum state_verdict v)
{
	static const char *const names[VERDICTS] = { "good", "bad", "crash", "hang", "broken" };

	return names[v];
}

static const char *
checker_complaint(const char *command, bool has_fs)
{
	bool file = strstr(command, "{file}") != NULL, mount = strstr(command, "{mount}") != NULL;
	bool uri = strstr(command, "{uri}") != NULL;

	if (file + mount + uri != 1)
		return "want a command with one of {file}, {uri} and {mount} in it, in whose place it gets the image";
	if (mount && !has_fs)
		return "{mount} wants --fs with the filesystem that is on the disk";
	if (!mount && has_fs)
		return "--fs is of use only with {mount} in --check";
	return NULL;
}

int
checker_take_option(const struct cli *cli, const struct cli_given *g, struct checker_setup *setup)
{
	unsigned long n;

	switch (g->id) {
	case OPT_CHECK:
		setup->command = g->value;
		return 0;
	case OPT_FS:
		setup->fs = filesystem_named(g->value);
		return setup->fs != NULL ? 0 : cli_usage_error(cli, "--fs '%s': want " FILESYSTEM_NAMES, g->value);
	default:
		if (!cli_number(cli, "--timeout", g->value, 1, 86400, &n))
			return STATUS_USAGE;
		setup->ms = (int)n * 1000;
		return 0;
	}
}

int
checker_take_all(const struct cli *cli, const struct checker_setup *setup)
{
	const char *complaint = setup->command != NULL ? checker_complaint(setup->command, setup->fs != NULL) : NULL;

	return complaint == NULL ? 0 : cli_usage_error(cli, "--check '%s': %s", setup->command, complaint);
}

/* ---- the command ---- */

static char *
filled_in(const char *command, const char *name, const char *value)
{
	struct buf b = { 0 };
	const char *found;

	while ((found = strstr(command, name)) != NULL) {
		buf_put(&b, command, (size_t)(found - command));
		put_bytes(&b, bytes_of(value));
		command = found + strlen(name);
	}
	put_bytes(&b, bytes_of(command));
	buf_put(&b, "", 1);
	return (char *)b.at;
}

/* A shell costs as much as a small checker: plain words do without it. False: they are not plain. */
static bool
split_words(struct checker *c)
{
	char *text = c->command, *save = NULL;
	size_t n = 0;

	if (text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _-./:,+@%")] != '\0')
		return false;
	text = strdup(text);
	for (char *word = strtok_r(text, " ", &save); word != NULL && n < WORDS_MOST; word = strtok_r(NULL, " ", &save))
		c->argv[n++] = strdup(word);
	free(text);
	c->argv[n] = NULL;
	/* The shell's own commands are none to execute. */
	return n > 0 && n < WORDS_MOST &&
	       (strchr(c->argv[0], '/') != NULL ? access(c->argv[0], X_OK) == 0 : in_path(c->argv[0]));
}

static void
free_words(struct checker *c)
{
	for (size_t i = 0; c->argv[i] != NULL; i++)
		free(c->argv[i]);
	c->argv[0] = NULL;
}

static void
use_shell(struct checker *c)
{
	free_words(c);
	c->argv[0] = strdup("/bin/sh");
	c->argv[1] = strdup("-c");
	c->argv[2] = strdup(c->command);
	c->argv[3] = NULL;
}

/*
 * Nobody else sees what is mounted here, and it goes with the process. In a chroot, whose root is no mount (EINVAL), others may
 * see it, and the guard of the directory unmounts what a kill leaves.
 */
static bool
prepare_mount(struct checker *c, char error[512])
{
	char name[32];

	/* Removing a directory unmounts it for all who have something there. */
	snprintf(name, sizeof(name), "mount-%ld", (long)getpid());
	c->mount = join_path(c->setup.dir, name);
	if ((mkdir(c->mount, 0700) == 0 || errno == EEXIST) && unshare(CLONE_NEWNS) == 0 &&
	    (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 || errno == EINVAL))
		return true;
	snprintf(error, 512, "cannot mount the image: %s; {mount} wants root", strerror(errno));
	return false;
}

struct checker *
checker_new(const struct checker_setup *setup, struct image *i, char error[512])
{
	struct checker *c = calloc(1, sizeof(*c));

	if (c == NULL)
		abort();
	c->setup = *setup;
	c->image = i;
	c->null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	c->output = memfd_create("nbdspec-output", MFD_CLOEXEC);
	if (c->output < 0 || fcntl(c->output, F_SETFL, O_APPEND) != 0) {
		snprintf(error, 512, "no room for the checker's output: %s", strerror(errno));
		checker_free(c);
		return NULL;
	}
	if ((setup->fs != NULL && !prepare_mount(c, error)) ||
	    (strstr(setup->command, "{uri}") != NULL &&
	     (c->served = served_new(i, setup->dir, setup->keep || setup->nested > 0, error)) == NULL)) {
		checker_free(c);
		return NULL;
	}
	c->command = c->mount != NULL    ? filled_in(setup->command, "{mount}", c->mount)
	             : c->served != NULL ? filled_in(setup->command, "{uri}", c->served->uri)
	                                 : filled_in(setup->command, "{file}", i->path);
	if (!split_words(c))
		use_shell(c);
	carry_mark(setup->dir);
	setenv("NBDSPEC_MARKS", setup->marks, 1);
	return c;
}

void
checker_free(struct checker *c)
{
	if (c == NULL)
		return;
	free_words(c);
	served_free(c->served);
	if (c->null >= 0)
		close(c->null);
	if (c->output >= 0)
		close(c->output);
	free(c->command);
	free(c->mount);
	free(c);
}

/* ---- a check ---- */

/* The child has our memory until it executes; it changes none of it. */
static pid_t
start(const struct checker *c, int *failed)
{
	volatile int why = 0;
	pid_t us = getpid(), pid = vfork();

	if (pid == 0) {
		become_child(us);
		dup2(c->null, 0);
		dup2(c->output, 1);
		dup2(c->output, 2);
		execvp(c->argv[0], c->argv);
		why = errno;
		_exit(127);
	}
	*failed = pid < 0 ? errno : why;
	return pid;
}

static void
take_output(const struct checker *c, struct checked *result)
{
	char text[1024], *line, *clean;
	off_t end = lseek(c->output, 0, SEEK_END), from = end > 1023 ? end - 1023 : 0;
	ssize_t n = pread(c->output, text, sizeof(text) - 1, from);

	result->output[0] = '\0';
	if (end > 0)
		(void)!ftruncate(c->output, 0);
	while (n > 0 && strchr("\n \t\r", text[n - 1]) != NULL)
		n--;
	if (n <= 0)
		return;
	text[n] = '\0';
	line = strrchr(text, '\n');
	clean = printable_text(line != NULL ? line + 1 : text, 0);
	snprintf(result->output, sizeof(result->output), "%s", clean);
	free(clean);
}

static void
take_status(int status, struct checked *result)
{
	if (WIFSIGNALED(status)) {
		result->verdict = VERDICT_CRASH;
		result->number = WTERMSIG(status);
		return;
	}
	result->number = WEXITSTATUS(status);
	result->verdict = result->number == 0 ? VERDICT_GOOD : VERDICT_BAD;
	/* What a shell says of a command that it cannot run, and of one that a signal killed. */
	if (result->number == 126 || result->number == 127)
		result->verdict = VERDICT_BROKEN;
	if (result->number > 128 && result->number < 160) {
		result->verdict = VERDICT_CRASH;
		result->number -= 128;
	}
}

static void
run_command(struct checker *c, struct checked *result)
{
	int failed, status = 0, pidfd;
	pid_t pid = start(c, &failed);

	if (failed != 0) {
		result->verdict = VERDICT_BROKEN;
		snprintf(result->output, sizeof(result->output), "%s: %s", c->argv[0], strerror(failed));
		if (pid > 0)
			waitpid(pid, NULL, 0);
		return;
	}
	pidfd = process_open(pid);
	if ((c->served != NULL ? served_wait(c->served, pidfd, c->setup.ms) : process_wait(pidfd, c->setup.ms)) !=
	    PROCESS_ENDED) {
		kill(-pid, SIGKILL);
		waitpid(pid, NULL, 0);
		result->verdict = VERDICT_HANG;
	} else {
		waitpid(pid, &status, 0);
		/* What it left in the background could change the next state. */
		kill(-pid, SIGKILL);
		take_status(status, result);
	}
	close(pidfd);
	take_output(c, result);
}

/* The loop device lets go of the file when nobody waits for it any more. */
static void
await_detach(const struct checker *c)
{
	struct pollfd p = { .fd = c->image->watch, .events = POLLIN };

	poll(&p, 1, DETACH_MS);
}

/* The filesystem is what is wrong, and not that there is no loop device, or no right to mount. */
static bool
is_refusal(int failed)
{
	static const int refusals[] = { EINVAL, EIO, EUCLEAN, EBADMSG, ENODATA, ENOENT, EROFS, ENOTTY, EOVERFLOW };

	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++)
		if (failed == refusals[i])
			return true;
	return false;
}

static void
run_on_mount(struct checker *c, struct checked *result)
{
	char error[512];
	int failed = filesystem_mount(c->setup.fs, c->image->path, c->mount, 0, c->setup.ms, error);

	if (failed == 0) {
		run_command(c, result);
		filesystem_unmount(c->mount);
	} else {
		result->verdict = is_refusal(failed)    ? VERDICT_BAD
		                  : failed == ETIMEDOUT ? VERDICT_HANG
		                                        : VERDICT_BROKEN;
		result->number = 32; /* as mount(8) has it */
		snprintf(result->output, sizeof(result->output), "%.250s", error);
	}
	await_detach(c);
}

void
checker_run(struct checker *c, uint32_t must, const struct bytes *may, struct checked *result)
{
	char text[16], *next;

	*result = (struct checked){ 0 };
	snprintf(text, sizeof(text), "%u", must);
	setenv("NBDSPEC_MARKS_MUST", text, 1);
	if (may != NULL && (next = strndup((const char *)may->at, may->len)) != NULL) {
		setenv("NBDSPEC_MARK_MAY", next, 1);
		free(next);
	} else {
		unsetenv("NBDSPEC_MARK_MAY");
	}
	if (c->served != NULL)
		served_reset(c->served);
	if (c->mount != NULL)
		run_on_mount(c, result);
	else
		run_command(c, result);
	result->wrote = image_restore(c->image);
	if (result->verdict == VERDICT_GOOD && c->setup.nested > 0 && c->served->writes.n_commands > 0)
		nested_check(&c->setup, c->image, &c->served->writes, must, may, result);
}

const struct served *
checker_served(const struct checker *c)
{
	return c->served;
}
