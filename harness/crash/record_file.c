#include "harness/crash/record_file.h"

#include "harness/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *
unfinished_name(const struct new_file *f)
{
	char *name;

	if (asprintf(&name, "%s.%ld.unfinished", f->path, (long)getpid()) < 0)
		abort();
	return name;
}

static bool
open_unnamed(struct new_file *f)
{
	char *copy = strdup(f->path), *slash = strrchr(copy, '/');
	const char *dir = slash == NULL ? "." : slash == copy ? "/" : copy;

	if (slash != NULL)
		*slash = '\0';
	f->fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
	free(copy);
	if (f->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
		f->unnamed = unfinished_name(f);
		f->fd = open(f->unnamed, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	}
	return f->fd >= 0;
}

/*
 * For writing alone: who has the end of a pipe for reading, too, is never told that nobody else reads it. A pipe's reader is
 * waited for here, since a signal that its owner has blocked would not end the waiting of open().
 */
static int
open_device(const char *path, bool is_pipe)
{
	int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	sigset_t pending, stop = stop_signals(), both;

	while (fd < 0 && errno == ENXIO && is_pipe) {
		poll(NULL, 0, 5);
		sigpending(&pending);
		sigandset(&both, &pending, &stop);
		errno = EINTR;
		if (!sigisemptyset(&both))
			return -1;
		fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	}
	if (fd >= 0)
		fcntl(fd, F_SETFL, 0);
	return fd;
}

bool
new_file_open(struct new_file *f, const char *path)
{
	struct stat st;

	/* A link stays one. */
	*f = (struct new_file){ .fd = -1, .path = realpath(path, NULL) };
	if (f->path == NULL)
		f->path = strdup(path);
	if (stat(f->path, &st) != 0 || S_ISREG(st.st_mode))
		return open_unnamed(f);
	f->fd = open_device(f->path, S_ISFIFO(st.st_mode));
	f->published = f->fd >= 0;
	return f->published;
}

bool
new_file_publish(struct new_file *f)
{
	char here[64], *name;
	int failed = 0;

	if (f->published)
		return true;
	name = unfinished_name(f);
	snprintf(here, sizeof(here), "/proc/self/fd/%d", f->fd);
	if ((f->unnamed == NULL && linkat(AT_FDCWD, here, AT_FDCWD, name, AT_SYMLINK_FOLLOW) != 0) ||
	    rename(name, f->path) != 0) {
		failed = errno;
		unlink(name);
	}
	free(name);
	f->published = failed == 0;
	errno = failed;
	return failed == 0;
}

void
new_file_close(struct new_file *f)
{
	if (f->unnamed != NULL && !f->published)
		unlink(f->unnamed);
	if (f->fd >= 0)
		close(f->fd);
	free(f->unnamed);
	free(f->path);
	*f = (struct new_file){ .fd = -1 };
}
