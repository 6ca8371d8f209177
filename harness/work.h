/* What a process does, as the kernel has it (proc(5)). */
#ifndef NBDSPEC_WORK_H
#define NBDSPEC_WORK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct work {
	uint64_t cpu;	/* time used, in clock ticks, its ended children's with it */
	bool runs;	/* a thread of it works now, or would if it had a processor, or waits for a disk */
};

/* Of the process with all that it has started, which are still its children or theirs. All zero: it is not there. */
struct work work_of(pid_t pid);

#endif
