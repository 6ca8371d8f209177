/* What the workloads and checkers share: marks (docs/recording.md), places on the disk, patterns that are told apart. */
#ifndef CASES_CRASH_H
#define CASES_CRASH_H

#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the workload ---- */

static inline void
fail(const char *what)
{
	perror(what);
	exit(3);
}

static inline int
open_disk(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0)
		fail(path);
	return fd;
}

static inline void
put(int fd, const void *data, size_t n, off_t at)
{
	if (pwrite(fd, data, n, at) != (ssize_t)n)
		fail("pwrite");
}

static inline void
get(int fd, void *data, size_t n, off_t at)
{
	if (pread(fd, data, n, at) != (ssize_t)n)
		fail("pread");
}

/* Those that are left out have numbers, from 1. */
static inline void
sync_unless(int fd, int number, int without)
{
	if (number != without && fsync(fd) != 0)
		fail("fsync");
}

static inline void
mark(const char *fmt, ...)
{
	const char *fd = getenv("NBDSPEC_MARK_FD");
	char answer[3];
	va_list ap;

	if (fd == NULL)
		return;
	va_start(ap, fmt);
	vdprintf(atoi(fd), fmt, ap);
	va_end(ap);
	if (write(atoi(fd), "\n", 1) != 1 || read(atoi(fd), answer, 3) != 3)
		fail("mark");
}

/* ---- the checker ---- */

/* The last mark that must be visible, but for those of nbdspec itself, or "". */
static inline const char *
last_mark(void)
{
	static char last[4096];
	const char *path = getenv("NBDSPEC_MARKS"), *number = getenv("NBDSPEC_MARKS_MUST");
	int n = number != NULL ? atoi(number) : 0;
	FILE *f = path != NULL && n > 0 ? fopen(path, "re") : NULL;
	char line[sizeof(last)];

	for (int i = 0; f != NULL && i < n; i++) {
		if (fgets(line, sizeof(line), f) == NULL)
			fail("the file of marks");
		line[strcspn(line, "\n")] = '\0';
		if (strncmp(line, "nbdspec: ", 9) != 0)
			strcpy(last, line);
	}
	if (f != NULL)
		fclose(f);
	return last;
}

/* The state is bad: one line that says why. */
static inline int
bad(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	return 1;
}

/* FNV-1a: strong enough against what a cut leaves, which nobody forges. */
static inline uint64_t
checksum(const void *data, size_t n, uint64_t h)
{
	const uint8_t *at = data;

	for (size_t i = 0; i < n; i++)
		h = (h ^ at[i]) * UINT64_C(0x100000001b3);
	return h;
}
#define CHECKSUM_START UINT64_C(0xcbf29ce484222325)

static inline void
fill(void *data, size_t n, uint64_t seed)
{
	uint8_t *at = data;

	for (size_t i = 0; i < n; i++) {
		seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		at[i] = (uint8_t)(seed >> 56);
	}
}

#endif
