#include "harness/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
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
	char *dir = join_path(tmp != NULL && *tmp != '\0' ? tmp : "/tmp", "nbdspec-XXXXXX");

	if (mkdtemp(dir) != NULL)
		return dir;
	snprintf(error, 512, "cannot make a directory %s: %s; set TMPDIR to a place with room", dir, strerror(errno));
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
	while (n > 0 && text[n - 1] == '\n')
		n--;
	text[n] = '\0';
	for (at = text + n; at > text; at--)
		if (at[-1] == '\n' && --lines == 0)
			break;
	memmove(text, at, strlen(at) + 1);
	return text;
}

int
run_shell(const char *command, const char *output)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		int null = open("/dev/null", O_RDONLY);
		int out = open(output, O_WRONLY | O_CREAT | O_APPEND, 0600);

		dup2(null, 0);
		dup2(out, 1);
		dup2(out, 2);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return status;
}

size_t
list_children(pid_t *pids, size_t most)
{
	char path[64];
	long pid;
	size_t n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%ld/children", (long)getpid());
	f = fopen(path, "re");
	while (f != NULL && n < most && fscanf(f, "%ld", &pid) == 1)
		pids[n++] = (pid_t)pid;
	if (f != NULL)
		fclose(f);
	return n;
}
