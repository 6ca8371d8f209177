/*
 * The log of the Linux device mapper's log-writes target (drivers/md/dm-log-writes.c), which its replay-log reads: one
 * entry after the other, little-endian, in whole sectors. It has one order where a recording has arrivals and answers.
 */
#ifndef NBDSPEC_CRASH_DMLOG_H
#define NBDSPEC_CRASH_DMLOG_H

#include "harness/crash/recording.h"
#include "harness/trace.h"

#include <stdio.h>

/* With 512-byte sectors. False and one line for a recording that the format cannot express; errors of the file are its. */
bool dmlog_write(const struct recording *r, FILE *f, char error[512]);

/*
 * As a trace of one connection, whose commands are answered one by one. `size` is the disk's in bytes; 0: as the log tells
 * it, if it is ours, else up to the end of the last write.
 */
bool dmlog_read(struct bytes log, uint64_t size, struct trace *t, char error[512]);

#endif
