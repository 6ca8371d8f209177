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

struct disk *disk_new(uint64_t size);		/* aborts the process when memory runs out */
void disk_free(struct disk *d);
uint64_t disk_size(const struct disk *d);
void disk_read(const struct disk *d, uint64_t offset, size_t length, uint8_t *data);
bool disk_write(struct disk *d, uint64_t offset, size_t length, const uint8_t *data);	/* false: no memory left */

/* The range reads as zeroes from now on. DISK_PROVISIONED: it is no hole (NBD_CMD_FLAG_NO_HOLE), though it costs nothing. */
enum disk_zero { DISK_HOLE, DISK_PROVISIONED };
void disk_zero(struct disk *d, uint64_t offset, uint64_t length, enum disk_zero how);

#endif
