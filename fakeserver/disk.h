/*
 * A sparse disk in memory. What was never written takes no memory, so that an export of 2^63-1 bytes costs nothing.
 * Offsets and lengths are bytes; what lies past the end reads as zeroes and is not written, so that a lie which lets a
 * wild request through can break its answer but not the process.
 */
#ifndef NBDSPEC_DISK_H
#define NBDSPEC_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct disk;

enum { DISK_PAGE = 4096 };		/* bytes: what is touched as a whole */

struct disk *disk_new(uint64_t size);		/* aborts the process when memory runs out */
void disk_free(struct disk *d);
uint64_t disk_size(const struct disk *d);
void disk_read(const struct disk *d, uint64_t offset, size_t length, uint8_t *data);

/* What there is of a page. All but DISK_DATA read as zeroes. */
enum disk_state { DISK_UNTOUCHED, DISK_TRIMMED, DISK_PROVISIONED, DISK_DATA };

/* Without memory nothing behind the first page that has none is written; *failed is that page's state. */
bool disk_write(struct disk *d, uint64_t offset, size_t length, const uint8_t *data, enum disk_state *failed);

/*
 * Likewise, of data that stand in a file from `where` on, and stay there: whole pages of them are not copied, but read from
 * there when they are wanted.
 */
#define DISK_NOT_KEPT UINT64_MAX
bool disk_write_kept(struct disk *d, uint64_t offset, size_t length, const uint8_t *data, uint64_t where,
                     enum disk_state *failed);
typedef bool disk_reader(void *arg, uint64_t where, size_t length, uint8_t *data);
void disk_reads_from(struct disk *d, disk_reader *read, void *arg);	/* that file; without it all is copied */

/* The range reads as zeroes: DISK_TRIMMED is a hole, DISK_PROVISIONED is none (NBD_CMD_FLAG_NO_HOLE), though it costs nothing. */
void disk_zero(struct disk *d, uint64_t offset, uint64_t length, enum disk_state how);

/* The state at an offset on the disk; *run is how many bytes from there have it at the least, to the end of a page or the disk. */
enum disk_state disk_state(const struct disk *d, uint64_t offset, uint64_t *run);

/*
 * What a range holds, with the states of its pages, taken off the disk: whole pages go with it, so that it costs no
 * copying, and the range is undefined until it is written, zeroed or put back. The limit of memory does not count for
 * it; the process aborts when there is none.
 */
struct disk_saved;
struct disk_saved *disk_take(struct disk *d, uint64_t offset, uint64_t length);	/* length > 0, all of it on the disk */
void disk_put(struct disk *d, const struct disk_saved *s, uint64_t offset, uint64_t length);	/* a part, copied back */
void disk_saved_free(struct disk_saved *s);
uint64_t disk_saved_offset(const struct disk_saved *s);
uint64_t disk_saved_length(const struct disk_saved *s);
uint64_t disk_saved_bytes(const struct disk_saved *s);	/* of memory */

/* How much memory all disks together may take, bytes; and how much they take. */
void disk_limit_memory(uint64_t bytes);
uint64_t disk_memory(void);

#endif
