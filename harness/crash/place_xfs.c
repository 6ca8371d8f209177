/* Which file or structure of an xfs a place belongs to: xfs_db, after the log was replayed by a mount. */
#include "harness/crash/places.h"
#include "harness/file.h"
#include "harness/filesystem.h"
#include "harness/printable.h"
#include "harness/process.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
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
replay_log(struct place *p)
{
	char *at = join_path(p->dir, "place");
	struct replay r = { .image = p->image->path, .at = at };
	struct pollfd watch = { .fd = p->image->watch, .events = POLLIN };
	int failed = mkdir(at, 0700) != 0 ? errno : run_apart(mount_once, &r, 0, 2 * MOUNT_MS);

	/* The loop device lets go of the file when nobody waits for it any more. */
	if (failed == 0)
		poll(&watch, 1, DETACH_MS);
	else
		snprintf(p->why, sizeof(p->why), "the log of the xfs cannot be replayed by a mount: %s",
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

void
place_in_xfs(struct place *p)
{
	const uint8_t *s = p->image->at;
	uint64_t block_size = (uint64_t)s[4] << 24 | (uint64_t)s[5] << 16 | (uint64_t)s[6] << 8 | s[7];
	char command[256 + 64 * BLOCKS_MOST], *text, *line, *save = NULL;
	size_t n = (size_t)snprintf(command, sizeof(command), "xfs_db -r -c 'blockget -n'");
	unsigned blocks = 0;

	if (block_size < 512 || !replay_log(p))
		return;
	for (uint64_t at = p->offset - p->offset % block_size; at < p->offset + p->length && blocks++ < BLOCKS_MOST;
	     at += block_size)
		n += (size_t)snprintf(command + n, sizeof(command) - n, " -c 'daddr %" PRIu64 "' -c 'blockuse -n'",
		                      at / 512);
	snprintf(command + n, sizeof(command) - n, " %s 2>/dev/null", p->image->path);
	text = place_ask(p, "xfs_db", "xfsprogs", command);
	for (line = text != NULL ? strtok_r(text, "\n", &save) : NULL; line != NULL; line = strtok_r(NULL, "\n", &save))
		take_block(p, line);
	free(text);
}
