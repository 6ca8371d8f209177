#include "harness/work.h"

#include <glob.h>
#include <stdio.h>
#include <string.h>

/* Behind the name of /proc/PID/stat, which may hold anything: NULL where there is none. */
static const char *
read_stat(const char *path, char text[512])
{
	FILE *f = fopen(path, "re");
	const char *end = NULL;

	if (f == NULL)
		return NULL;
	if (fgets(text, 512, f) != NULL)
		end = strrchr(text, ')');
	fclose(f);
	return end;
}

/* Fields 14 to 17. */
static uint64_t
cpu_of(pid_t pid)
{
	static const char fields[] = ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %lu %lu";
	char path[64], text[512];
	unsigned long n[4];
	const char *stat;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	stat = read_stat(path, text);
	return stat != NULL && sscanf(stat, fields, &n[0], &n[1], &n[2], &n[3]) == 4 ? n[0] + n[1] + n[2] + n[3] : 0;
}

/* Field 3, of each thread. */
static bool
runs(pid_t pid)
{
	char path[64], text[512];
	glob_t threads = { 0 };
	bool any = false;

	snprintf(path, sizeof(path), "/proc/%d/task/*/stat", pid);
	(void)glob(path, GLOB_NOSORT, NULL, &threads);
	for (size_t i = 0; i < threads.gl_pathc && !any; i++) {
		const char *stat = read_stat(threads.gl_pathv[i], text);

		any = stat != NULL && (stat[2] == 'R' || stat[2] == 'D');
	}
	globfree(&threads);
	return any;
}

struct work
work_of(pid_t pid)
{
	struct work all = { cpu_of(pid), runs(pid) }, one;
	glob_t lists = { 0 };
	char path[64];
	int child;

	snprintf(path, sizeof(path), "/proc/%d/task/*/children", pid);
	(void)glob(path, GLOB_NOSORT, NULL, &lists);
	for (size_t i = 0; i < lists.gl_pathc; i++) {
		FILE *f = fopen(lists.gl_pathv[i], "re");

		while (f != NULL && fscanf(f, "%d", &child) == 1) {
			one = work_of(child);
			all = (struct work){ all.cpu + one.cpu, all.runs || one.runs };
		}
		if (f != NULL)
			fclose(f);
	}
	globfree(&lists);
	return all;
}
