#include "harness/usage.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SHADOW_BYTES (UINT64_C(8) << 40)

/* -1 and errno. */
static int
count_descriptors(pid_t pid)
{
	struct dirent *entry;
	char path[64];
	int n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
	dir = opendir(path);
	if (dir == NULL)
		return -1;
	while ((entry = readdir(dir)) != NULL)
		n += isdigit((unsigned char)entry->d_name[0]) != 0;
	closedir(dir);
	return n;
}

/* Bytes; 0 where the process has ended. */
static uint64_t
memory_of(pid_t pid)
{
	uint64_t kib = 0;
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%ld/smaps_rollup", (long)pid);
	f = fopen(path, "re");
	while (f != NULL && fgets(line, sizeof(line), f) != NULL && sscanf(line, "Pss: %" SCNu64, &kib) != 1)
		;
	if (f != NULL)
		fclose(f);
	return kib << 10;
}

/* Sanitizers map their shadow memory: many TiB of addresses, where others have at most a few. */
static bool
is_sanitized(pid_t pid)
{
	uint64_t pages = 0;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%ld/statm", (long)pid);
	f = fopen(path, "re");
	if (f == NULL)
		return false;
	if (fscanf(f, "%" SCNu64, &pages) != 1)
		pages = 0;
	fclose(f);
	return pages > SHADOW_BYTES / (uint64_t)sysconf(_SC_PAGESIZE);
}

static bool
add_children(pid_t pid, struct usage *u)
{
	glob_t lists = { 0 };
	char path[64];
	bool ok = true;
	long child;

	snprintf(path, sizeof(path), "/proc/%ld/task/*/children", (long)pid);
	(void)glob(path, GLOB_NOSORT, NULL, &lists);
	for (size_t i = 0; i < lists.gl_pathc && ok; i++) {
		FILE *f = fopen(lists.gl_pathv[i], "re");
		struct usage one;

		while (f != NULL && ok && fscanf(f, "%ld", &child) == 1) {
			ok = usage_of((pid_t)child, &one);
			u->processes += one.processes;
			u->descriptors += one.descriptors;
			u->memory += one.memory;
			u->sanitized |= one.sanitized;
		}
		if (f != NULL)
			fclose(f);
	}
	globfree(&lists);
	return ok;
}

bool
usage_of(pid_t pid, struct usage *u)
{
	int descriptors = count_descriptors(pid);

	*u = (struct usage){ 0 };
	if (descriptors < 0)
		return errno == ENOENT || errno == ESRCH;
	*u = (struct usage){ 1, (unsigned)descriptors, memory_of(pid), is_sanitized(pid) };
	return add_children(pid, u);
}

struct usage
usage_most(struct usage a, struct usage b)
{
	return (struct usage){ a.processes > b.processes ? a.processes : b.processes,
		               a.descriptors > b.descriptors ? a.descriptors : b.descriptors,
		               a.memory > b.memory ? a.memory : b.memory, a.sanitized || b.sanitized };
}

static double
mib(uint64_t bytes)
{
	return (double)bytes / (1 << 20);
}

void
usage_text(char text[256], struct usage before, struct usage most, struct usage after)
{
	int n = snprintf(
		text, 256,
		"descriptors %u, at most %u, %u in the end; memory %.1f MiB, at most %.1f MiB, %.1f MiB in the end",
		before.descriptors, most.descriptors, after.descriptors, mib(before.memory), mib(most.memory),
		mib(after.memory));

	if (most.processes > 1 && n > 0 && n < 256)
		snprintf(text + n, 256 - (size_t)n, "; processes %u, at most %u, %u in the end", before.processes,
		         most.processes, after.processes);
}
