#include "harness/corpus.h"

#include "harness/sum.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool
fails(char error[512], const char *path, const char *why)
{
	snprintf(error, 512, "%.300s: %s", path, why);
	return false;
}

static bool
read_stream(struct corpus *c, const char *name, const char *path, char error[512])
{
	struct buf data = { 0 };
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = -1;

	if (fd >= 0) {
		n = read(fd, buf_grow(&data, CORPUS_STREAM_MOST + 1), CORPUS_STREAM_MOST + 1);
		data.len = n > 0 ? (size_t)n : 0;
	}
	if (n < 0)
		fails(error, path, strerror(errno));
	else if (n > CORPUS_STREAM_MOST)
		fails(error, path, "a stream has at most 65536 bytes");
	if (fd >= 0)
		close(fd);
	if (n < 0 || n > CORPUS_STREAM_MOST) {
		buf_free(&data);
		return false;
	}
	c->stream = reallocarray(c->stream, c->n + 1, sizeof(*c->stream));
	if (c->stream == NULL)
		abort();
	c->stream[c->n++] = (struct corpus_stream){ strdup(name), data };
	return true;
}

/* Regular files whose names do not begin with a dot. */
static bool
read_entry(struct corpus *c, const char *dir, const char *name, char error[512])
{
	struct stat st;
	char *path;
	bool ok = true;

	if (name[0] == '.')
		return true;
	if (asprintf(&path, "%s/%s", dir, name) < 0)
		abort();
	if (stat(path, &st) != 0)
		ok = fails(error, path, strerror(errno));
	else if (S_ISREG(st.st_mode))
		ok = read_stream(c, name, path, error);
	free(path);
	return ok;
}

bool
corpus_load(struct corpus *c, const char *dir, char error[512])
{
	struct dirent **entries;
	int n = scandir(dir, &entries, NULL, alphasort);
	bool ok = true;

	*c = (struct corpus){ 0 };
	if (n < 0)
		return fails(error, dir, strerror(errno));
	for (int i = 0; i < n; i++) {
		ok = ok && read_entry(c, dir, entries[i]->d_name, error);
		free(entries[i]);
	}
	free(entries);
	if (!ok)
		corpus_free(c);
	return ok;
}

void
corpus_free(struct corpus *c)
{
	for (size_t i = 0; i < c->n; i++) {
		free(c->stream[i].name);
		buf_free(&c->stream[i].data);
	}
	free(c->stream);
	*c = (struct corpus){ 0 };
}

bool
corpus_add(const char *dir, struct bytes stream, char error[512])
{
	char *path;
	bool ok;
	int fd;

	if (asprintf(&path, "%s/%016" PRIx64, dir, sum_bytes(stream.len, stream.at, stream.len)) < 0)
		abort();
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	ok = fd >= 0 ? write(fd, stream.at, stream.len) == (ssize_t)stream.len : errno == EEXIST;
	if (!ok)
		fails(error, path, strerror(errno));
	/* No half of one is left behind. */
	if (fd >= 0 && !ok)
		unlink(path);
	if (fd >= 0)
		close(fd);
	free(path);
	return ok;
}
