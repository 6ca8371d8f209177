/*
 * A filesystem on a file, through a loop device, for servers that keep several files (design, section 9). Only its mount
 * holds the loop device, which detaches by itself at the unmount, whoever unmounts and whoever dies.
 */
#ifndef NBDSPEC_FILESYSTEM_H
#define NBDSPEC_FILESYSTEM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define FILESYSTEM_NAMES "ext4, xfs or btrfs"

struct filesystem {
	const char *name;
	const char *mkfs, *options;	/* its words; the mount options */
	const char *program, *package;
	uint64_t least;			/* bytes that mkfs wants */
};

const struct filesystem *filesystem_named(const char *name);	/* NULL: we know none of that name */
/* NULL, or what is missing here, one line: the right to mount, the kernel's part, loop devices, mkfs. */
const char *filesystem_lacks(const struct filesystem *f);

/* mkfs, under a mark (harness/process.h), its output appended to a file. False and one line in error. */
bool filesystem_make(const struct filesystem *f, const char *disk, const char *output, const char *mark, int ms,
                     char error[512]);
/*
 * `carrier` is the process behind the file `disk`: it is killed when the mount does not end within `ms` or a stop signal
 * is pending, since nothing else ends a mount. 0, or an errno (ETIMEDOUT: of `ms`) and one line in error.
 */
int filesystem_mount(const struct filesystem *f, const char *disk, const char *at, pid_t carrier, int ms,
                     char error[512]);
/* The processes in it have been ended. What its disk no longer takes is lost. */
void filesystem_unmount(const char *at);

#endif
