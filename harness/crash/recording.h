/*
 * A recording for crash exploration: what a workload did to a disk, from its first byte on, read from a trace that
 * `nbdspec serve --trace` wrote with all data kept (docs/crash.md). The file stays mapped as long as the recording
 * lives; data and texts point into it. All offsets and lengths are bytes.
 */
#ifndef NBDSPEC_CRASH_RECORDING_H
#define NBDSPEC_CRASH_RECORDING_H

#include "harness/history.h"
#include "harness/trace.h"
#include "harness/wire.h"

#define RECORDING_BEGIN "nbdspec: begin"	/* the mark that ends the preparation */

#define NEVER UINT32_MAX

/* A request of the write class, or a FLUSH, that lies on the disk. They are numbered from 1; 0 is the disk before. */
struct recorded_command {
	enum history_kind kind;
	bool fua, success;
	uint32_t connection;
	uint32_t received, answered;	/* events; .answered may be NEVER */
	uint64_t offset, length;	/* of FLUSH: 0 */
	const uint8_t *data;		/* of WRITE */
};

struct recorded_event {
	enum { EVENT_RECEIVED, EVENT_ANSWERED, EVENT_MARK } what;
	uint32_t which;			/* the command, or the mark from 0 */
};

struct recorded_mark {
	struct bytes text;
	uint32_t event;
};

struct recording {
	uint64_t size, minimum;		/* the disk's; the smallest block that its export took */
	bool multi_conn;		/* a FLUSH covers all connections */
	struct recorded_command *commands;	/* from 1 */
	struct recorded_event *events;
	struct recorded_mark *marks;	/* those of the workload alone */
	uint32_t n_commands, n_events, n_marks;	/* the last command's number */
	const uint8_t *base;		/* what the disk held before, all .size bytes of it; NULL: it was blank */
	uint32_t begin;			/* no cut comes before this event */
	uint64_t left_over;		/* bytes behind the last whole record */
	void *map;
	size_t map_size;
};

/* False, and one line in error, which names the file. */
bool recording_load(struct recording *r, const char *path, char error[512]);
void recording_free(struct recording *r);

/* The note, first in a recording, that tells of the disk; malloc'd. */
char *recording_note(uint64_t size, uint64_t minimum, bool multi_conn);

/* All marks into a new file, each on a line. False, and one line. */
bool recording_write_marks(const struct recording *r, const char *path, char error[512]);

/* A number of all commands, with their data, and marks, but not of .base: what is said of another is not said of this. */
uint64_t recording_identity(const struct recording *r);

const char *recorded_kind_name(enum history_kind kind);	/* "WRITE" */

#endif
