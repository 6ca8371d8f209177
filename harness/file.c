#include "harness/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *
join_path(const char *dir, const char *name)
{
	char *path;

	if (asprintf(&path, "%s/%s", dir, name) < 0)
		abort();
	return path;
}

char *
make_private_dir(char error[512])
{
	const char *tmp = getenv("TMPDIR");
	/* A server may change its directory. */
	char *place = realpath(tmp != NULL && *tmp != '\0' ? tmp : "/tmp", NULL);
	char *dir = place != NULL ? join_path(place, "nbdspec-XXXXXX") : NULL;

	free(place);
	if (dir != NULL && mkdtemp(dir) != NULL)
		return dir;
	snprintf(error, 512, "cannot make a directory in %s: %s; set TMPDIR to one with room",
	         tmp != NULL && *tmp != '\0' ? tmp : "/tmp", strerror(errno));
	free(dir);
	return NULL;
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	remove(path);
	return 0;
}

void
remove_dir(const char *dir)
{
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

bool
in_path(const char *program)
{
	const char *path = getenv("PATH");
	char *copy = strdup(path != NULL ? path : "/usr/bin:/bin"), *rest = copy, *dir;
	bool found = false;

	while (!found && (dir = strsep(&rest, ":")) != NULL) {
		char *at = join_path(dir, program);

		found = access(at, X_OK) == 0;
		free(at);
	}
	free(copy);
	return found;
}

char *
file_tail(const char *path, unsigned lines)
{
	enum { MOST = 8192 };
	char *text = calloc(1, MOST + 1), *at;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t size;
	ssize_t n = 0;

	if (text == NULL)
		abort();
	if (fd >= 0) {
		size = lseek(fd, 0, SEEK_END);
		n = pread(fd, text, MOST, size > MOST ? size - MOST : 0);
		close(fd);
	}
	n = n < 0 ? 0 : n;
	for (ssize_t i = 0; i < n; i++)
		if (text[i] == '\0')
			text[i] = ' ';
	while (n > 0 && text[n - 1] == '\n')
		n--;
	text[n] = '\0';
	for (at = text + n; at > text; at--)
		if (at[-1] == '\n' && --lines == 0)
			break;
	memmove(text, at, strlen(at) + 1);
	return text;
}
