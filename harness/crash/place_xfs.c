/* Which file or structure of an xfs a place belongs to: xfs_db, after the log was replayed by a mount. */
#include "harness/crash/places.h"
#include "harness/file.h"
#include "harness/filesystem.h"
#include "harness/printable.h"
#include "harness/process.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCKS_MOST = 32, MOUNT_MS = 10000, DETACH_MS = 5000 };

struct replay {
	const char *image, *at;
};

/* Where nobody else sees it. 0, or an errno. */
static int
mount_once(const void *arg)
{
	const struct replay *r = arg;
	char error[512];
	int failed;

	if (unshare(CLONE_NEWNS) != 0)
		return EPERM;
	mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
	failed = filesystem_mount(filesystem_named("xfs"), r->image, r->at, 0, MOUNT_MS, error);
	if (failed == 0)
		filesystem_unmount(r->at);
	return failed;
}

static bool
replay_log(struct place_disk *d)
{
	char *at = join_path(d->dir, "place");
	struct replay r = { .image = d->image->path, .at = at };
	int failed = mkdir(at, 0700) != 0 ? errno : run_apart(mount_once, &r, NO_CARRIER, 2 * MOUNT_MS);

	/* The loop device lets go of the file when nobody waits for it any more. */
	if (failed == 0)
		process_wait(d->image->watch, DETACH_MS);
	else
		snprintf(d->why, sizeof(d->why), "the log of the xfs cannot be replayed by a mount: %s",
		         strerror(failed));
	rmdir(at);
	free(at);
	return failed == 0;
}

/* "block 12 (0/12) type data inode 135 dir/name" */
static void
take_block(struct place *p, const char *line)
{
	unsigned long long inode;
	char type[32], *clean;
	int path = 0;

	if (sscanf(line, "block %*u (%*u/%*u) type %31s inode %llu %n", type, &inode, &path) == 2 && path > 0) {
		clean = printable_string(line + path);
		place_add(p, "%s%s (inode %llu)", clean[0] != '\0' ? "/" : "a file", clean, inode);
		free(clean);
	} else if (sscanf(line, "block %*u (%*u/%*u) type %31s", type) != 1) {
		return;
	} else if (strcmp(type, "log") == 0) {
		place_add(p, "the log");
	} else if (strcmp(type, "sb") == 0) {
		place_add(p, "superblock and headers of an allocation group");
	} else if (strcmp(type, "inode") == 0) {
		place_add(p, "inodes");
	} else if (strncmp(type, "bt", 2) == 0) {
		place_add(p, "metadata (%s)", type);
	}
}

static uint64_t
be32(const uint8_t *at)
{
	return (uint64_t)at[0] << 24 | (uint64_t)at[1] << 16 | (uint64_t)at[2] << 8 | at[3];
}

static char *
ask_blocks(struct place_disk *d, uint64_t block_size)
{
	char command[256 + 64 * BLOCKS_MOST * PLACES_MOST];
	size_t n = (size_t)snprintf(command, sizeof(command), "xfs_db -r -c 'blockget -n'");

	for (size_t i = 0; i < d->n; i++) {
		const struct place *p = d->places[i];
		uint64_t at = p->offset - p->offset % block_size;

		for (unsigned blocks = 0; at < p->offset + p->length && blocks < BLOCKS_MOST;
		     blocks++, at += block_size)
			n += (size_t)snprintf(command + n, sizeof(command) - n,
			                      " -c 'daddr %" PRIu64 "' -c 'blockuse -n'", at / 512);
	}
	snprintf(command + n, sizeof(command) - n, " %s 2>/dev/null", d->image->path);
	return place_ask(d, "xfs_db", "xfsprogs", command);
}

void
place_in_xfs(struct place_disk *d)
{
	uint64_t block_size = be32(d->image->at + 4), group_blocks = be32(d->image->at + 84);
	char *text, *line, *save = NULL;

	if (block_size < 512 || !replay_log(d))
		return;
	text = ask_blocks(d, block_size);
	for (line = text != NULL ? strtok_r(text, "\n", &save) : NULL; line != NULL;
	     line = strtok_r(NULL, "\n", &save)) {
		unsigned group, block;

		if (sscanf(line, "block %*u (%u/%u)", &group, &block) != 2)
			continue;
		for (size_t i = 0; i < d->n; i++)
			if (place_overlaps(d->places[i], (group * group_blocks + block) * block_size, block_size))
				take_block(d->places[i], line);
	}
	free(text);
}
