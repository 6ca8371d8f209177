#include "harness/crash/image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void *
need(void *memory)
{
	if (memory == NULL)
		abort();
	return memory;
}

static bool
open_image(struct image *i)
{
	char path[64];

	i->fd = memfd_create("nbdspec-image", MFD_CLOEXEC);
	if (i->fd < 0 || ftruncate(i->fd, (off_t)i->size) != 0)
		return false;
	i->at = mmap(NULL, i->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, i->fd, 0);
	if (i->at == MAP_FAILED) {
		i->at = NULL;
		return false;
	}
	snprintf(i->path, sizeof(i->path), "/proc/%ld/fd/%d", (long)getpid(), i->fd);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", i->fd);
	i->watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	return i->watch >= 0 && inotify_add_watch(i->watch, path, IN_MODIFY | IN_CLOSE_WRITE) >= 0;
}

/* Holes stay holes. */
static void
copy_base(const struct image *i)
{
	const uint8_t *base = i->space->recording->base;
	static const uint8_t zeroes[4096];

	for (uint64_t at = 0; base != NULL && at < i->size; at += sizeof(zeroes)) {
		size_t n = i->size - at < sizeof(zeroes) ? (size_t)(i->size - at) : sizeof(zeroes);

		if (memcmp(base + at, zeroes, n) != 0)
			memcpy(i->at + at, base + at, n);
	}
}

struct image *
image_new(const struct space *s, char error[512])
{
	struct image *i = need(calloc(1, sizeof(*i)));

	*i = (struct image){ .space = s, .fd = -1, .watch = -1, .size = s->recording->size, .point = NEVER };
	i->shown = need(malloc((s->n_cells + 1u) * sizeof(*i->shown)));
	memcpy(i->shown, s->versions_of, s->n_cells * sizeof(*i->shown));
	if (open_image(i)) {
		copy_base(i);
		return i;
	}
	snprintf(error, 512, "no room for an image of %llu bytes: %s", (unsigned long long)i->size, strerror(errno));
	image_free(i);
	return NULL;
}

void
image_free(struct image *i)
{
	if (i == NULL)
		return;
	if (i->at != NULL)
		munmap(i->at, i->size);
	if (i->fd >= 0)
		close(i->fd);
	if (i->watch >= 0)
		close(i->watch);
	free(i->shown);
	free(i->chosen);
	free(i);
}

static void
write_cell(const struct image *i, uint32_t cell)
{
	const uint8_t *bytes = version_bytes(i->space, cell, i->shown[cell]);

	if (bytes != NULL)
		memcpy(i->at + i->space->offset[cell], bytes, i->space->length[cell]);
	else
		memset(i->at + i->space->offset[cell], 0, i->space->length[cell]);
}

static void
show_cell(struct image *i, uint32_t cell, uint32_t version)
{
	const struct version *versions = i->space->versions;
	bool same = versions[i->shown[cell]].content == versions[version].content;

	i->shown[cell] = version;
	if (!same)
		write_cell(i, cell);
}

static void
go_to_point(struct image *i, const struct view *v)
{
	for (uint32_t cell = 0; cell < i->space->n_cells; cell++)
		if (v->at_rest[cell] != NEVER)
			show_cell(i, cell, v->at_rest[cell]);
	if (v->n_groups >= i->room) {
		i->room = 2 * v->n_groups + 16;
		i->chosen = need(reallocarray(i->chosen, i->room, sizeof(*i->chosen)));
	}
	memset(i->chosen, 0xff, v->n_groups * sizeof(*i->chosen));
	i->point = v->point;
}

void
image_show(struct image *i, const struct view *v)
{
	if (i->point != v->point)
		go_to_point(i, v);
	for (uint32_t k = 0; k < v->n_groups; k++) {
		const struct open_group *g = &v->groups[k];

		if (i->chosen[k] == g->chosen)
			continue;
		i->chosen[k] = g->chosen;
		for (uint32_t place = g->first; place < g->end; place++)
			show_cell(i, v->open[place], v->versions[place][g->chosen]);
	}
	for (uint32_t k = 0; k < v->n_changes; k++) {
		const struct change *c = &v->changes[k];

		i->chosen[v->group_of[c->place]] = NEVER;
		show_cell(i, v->open[c->place], v->versions[c->place][c->candidate]);
	}
}

/* ---- what a checker did to it ---- */

/* It had it open for writing, be it by a mapping. */
static bool
was_open_for_writing(const struct image *i)
{
	char events[4096] __attribute__((aligned(8)));
	bool was = false;

	while (read(i->watch, events, sizeof(events)) > 0)
		was = true;
	return was;
}

static bool
clear_if_not_zero(uint8_t *at, uint64_t length)
{
	if (length == 0 || (at[0] == 0 && memcmp(at, at + 1, length - 1) == 0))
		return false;
	memset(at, 0, length);
	return true;
}

static bool
restore_cell(const struct image *i, uint32_t cell)
{
	const uint8_t *bytes = version_bytes(i->space, cell, i->shown[cell]);
	uint8_t *at = i->at + i->space->offset[cell];

	if (bytes == NULL)
		return clear_if_not_zero(at, i->space->length[cell]);
	if (memcmp(at, bytes, i->space->length[cell]) == 0)
		return false;
	write_cell(i, cell);
	return true;
}

static bool
restore_base(const struct image *i, uint64_t start, uint64_t end)
{
	const uint8_t *base = i->space->recording->base;
	bool differs = false;

	for (uint64_t n; start < end; start += n) {
		n = end - start < 65536 ? end - start : 65536;
		if (memcmp(i->at + start, base + start, n) == 0)
			continue;
		memcpy(i->at + start, base + start, n);
		differs = true;
	}
	return differs;
}

/* Where no cell is, all is as it was before, or zero; then holes are not looked at. */
static bool
restore_gap(const struct image *i, uint64_t start, uint64_t end)
{
	bool differs = false;
	off_t data, hole;

	if (i->space->recording->base != NULL)
		return restore_base(i, start, end);
	for (; start < end; start = (uint64_t)hole) {
		data = lseek(i->fd, (off_t)start, SEEK_DATA);
		if (data < 0 || (uint64_t)data >= end)
			break;
		hole = lseek(i->fd, data, SEEK_HOLE);
		if (hole < 0 || (uint64_t)hole > end)
			hole = (off_t)end;
		differs |= clear_if_not_zero(i->at + data, (uint64_t)(hole - data));
	}
	return differs;
}

bool
image_restore(struct image *i)
{
	const struct space *s = i->space;
	bool differs = false;
	uint64_t end = 0;
	struct stat st;

	if (!was_open_for_writing(i) && !i->dirty)
		return false;
	i->dirty = false;
	if (fstat(i->fd, &st) == 0 && (uint64_t)st.st_size != i->size) {
		(void)!ftruncate(i->fd, (off_t)i->size);
		differs = true;
	}
	for (uint32_t cell = 0; cell < s->n_cells; cell++) {
		differs |= restore_gap(i, end, s->offset[cell]);
		differs |= restore_cell(i, cell);
		end = s->offset[cell] + s->length[cell];
	}
	return differs | restore_gap(i, end, i->size);
}
