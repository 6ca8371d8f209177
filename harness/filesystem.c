#include "harness/filesystem.h"

#include "harness/cli.h"
#include "harness/clock.h"
#include "harness/file.h"
#include "harness/process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { UNMOUNT_MS = 10000, BUSY_ROUNDS = 200, LOOP_TRIES = 100, AGAIN_MS = 50 };

struct place {
	const struct filesystem *f;
	const char *disk, *at;
};

/* No discard: nothing on such a disk is trimmed (lower.c). nouuid: the one before a power cut may still be on its way out. */
static const struct filesystem filesystems[] = {
	{ "ext4", "mkfs.ext4 -q -F -b 4096 -E nodiscard", "noinit_itable,errors=remount-ro", "mkfs.ext4", "e2fsprogs",
	  16 << 20 },
	{ "xfs", "mkfs.xfs -q -f -K", "nouuid", "mkfs.xfs", "xfsprogs", 300 << 20 },
	{ "btrfs", "mkfs.btrfs -q -f -K", "nodiscard", "mkfs.btrfs", "btrfs-progs", 110 << 20 },
};

const struct filesystem *
filesystem_named(const char *name)
{
	for (size_t i = 0; i < sizeof(filesystems) / sizeof(filesystems[0]); i++)
		if (strcmp(filesystems[i].name, name) == 0)
			return &filesystems[i];
	return NULL;
}

/* ---- loop devices ---- */

/* One that was free a moment ago; -1 and errno. */
static int
open_free_loop(char path[32])
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), number, fd, failed;

	snprintf(path, 32, "/dev/loop-control");
	if (control < 0)
		return -1;
	number = ioctl(control, LOOP_CTL_GET_FREE);
	failed = errno;
	close(control);
	errno = failed;
	if (number < 0)
		return -1;
	snprintf(path, 32, "/dev/loop%d", number);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd;
}

/* Detached with the last descriptor or mount of it; -1 and errno. */
static int
attach(const char *disk, char path[32])
{
	int file = open(disk, O_RDWR | O_CLOEXEC), fd = -1, failed = file < 0 ? errno : EBUSY;
	struct loop_config config = { .fd = (uint32_t)file, .info = { .lo_flags = LO_FLAGS_AUTOCLEAR } };

	/* Others look for a free one, too. */
	for (int i = 0; failed == EBUSY && i < LOOP_TRIES; i++) {
		fd = open_free_loop(path);
		failed = fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config) == 0 ? 0 : errno;
		if (failed != 0 && fd >= 0)
			close(fd);
	}
	if (file >= 0)
		close(file);
	errno = failed;
	return failed == 0 ? fd : -1;
}

static const char *
loop_lacks(void)
{
	static char text[160];
	char path[32];
	int fd = open_free_loop(path);

	if (fd >= 0) {
		close(fd);
		return NULL;
	}
	if (errno == ENOENT)
		snprintf(text, sizeof(text), "there is no %s here (modprobe loop; in a container, --privileged)", path);
	else
		snprintf(text, sizeof(text), "%s cannot be opened: %s (in a container, --privileged)", path,
		         strerror(errno));
	return text;
}

const char *
filesystem_lacks(const struct filesystem *f)
{
	static char text[160];
	/* This loads the module, where there is one. */
	int fd = fsopen(f->name, FSOPEN_CLOEXEC);

	if (fd >= 0)
		close(fd);
	else if (errno == EPERM)
		return "only root may mount a filesystem";
	else {
		snprintf(text, sizeof(text), "this kernel has no %s: name another filesystem", f->name);
		return text;
	}
	if (!in_path(f->program)) {
		snprintf(text, sizeof(text), "%s is not in PATH (Debian: %s)", f->program, f->package);
		return text;
	}
	return loop_lacks();
}

/* ---- making, mounting ---- */

/* mkfs.btrfs looks at every loop device there is, and fails for one whose disk below a power cut has just ended. */
static bool
sees_a_dead_disk(const char *said, const char *disk)
{
	return strstr(said, strerror(ENOTCONN)) != NULL && access(disk, F_OK) == 0;
}

bool
filesystem_make(const struct filesystem *f, const char *disk, const char *output, const char *mark, int ms,
                char error[512])
{
	char *words[] = { (char *)disk, NULL }, *quoted = shell_quote(words), *command;
	int64_t until = now_ms() + ms;
	char *tail = NULL;
	int status, failed;

	if (asprintf(&command, "exec %s %s", f->mkfs, quoted) < 0)
		abort();
	do {
		free(tail);
		status = run_shell(command, output, mark, ms);
		failed = errno;
		tail = file_tail(output, 1);
	} while (status > 0 && sees_a_dead_disk(tail, disk) && now_ms() < until && poll(NULL, 0, AGAIN_MS) == 0);
	if (status != 0)
		snprintf(error, 512, "%s failed: %.400s", f->program, status > 0 ? tail : strerror(failed));
	free(tail);
	free(command);
	free(quoted);
	return status == 0;
}

/* Configuring the loop device waits for the disk, too. */
static int
act_mount(const void *arg)
{
	const struct place *p = arg;
	char loop[32], *lost = join_path(p->at, "lost+found");
	int failed, fd = attach(p->disk, loop);

	if (fd < 0)
		return errno;
	failed = mount(loop, p->at, p->f->name, MS_NOSUID | MS_NODEV, p->f->options) == 0 ? 0 : errno;
	if (failed == 0)
		rmdir(lost); /* {dir} is empty */
	free(lost);
	close(fd);
	return failed;
}

int
filesystem_mount(const struct filesystem *f, const char *disk, const char *at, pid_t carrier, int ms, char error[512])
{
	int64_t until = now_ms() + ms;
	int failed;

	if (mkdir(at, 0700) != 0 && errno != EEXIST) {
		failed = errno;
		snprintf(error, 512, "%.300s: %s", at, strerror(failed));
		return failed;
	}
	/* A machine that is short of processes for a moment has some again in the next. */
	do
		failed = run_apart(act_mount, &(struct place){ f, disk, at }, carrier, ms);
	while (failed == EAGAIN && now_ms() < until && poll(NULL, 0, AGAIN_MS) == 0);
	if (failed == ETIMEDOUT)
		snprintf(error, 512, "the %s on the disk below is not mounted within %g s (--time-factor)", f->name,
		         ms / 1000.0);
	else if (failed != 0)
		snprintf(error, 512, "the %s on the disk below cannot be mounted, through a loop device: %s", f->name,
		         strerror(failed));
	return failed;
}

/* Detached at once it might still be mounted when the next one is, and btrfs takes one for the other. */
static int
act_unmount(const void *at)
{
	for (int i = 0; i < BUSY_ROUNDS && umount2(at, UMOUNT_NOFOLLOW) != 0; i++) {
		if (errno != EBUSY)
			return errno;
		poll(NULL, 0, 5);
	}
	umount2(at, MNT_DETACH | UMOUNT_NOFOLLOW);
	return 0;
}

void
filesystem_unmount(const char *at)
{
	if (access(at, F_OK) != 0 && errno == ENOENT)
		return;
	run_apart(act_unmount, at, 0, UNMOUNT_MS);
	rmdir(at);
}
