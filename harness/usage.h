/* What a server takes of the machine, with all the processes that it has started. */
#ifndef NBDSPEC_USAGE_H
#define NBDSPEC_USAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct usage {
	unsigned processes, descriptors;
	uint64_t memory;		/* bytes; what processes share counts once (Pss) */
	bool sanitized;			/* one of them has AddressSanitizer or its like in it, and keeps what it frees */
};

/* False where the system does not let us look. Processes that end meanwhile are left out. */
bool usage_of(pid_t pid, struct usage *u);
struct usage usage_most(struct usage a, struct usage b);
/* "descriptors 9, at most 209, 9 in the end; memory 3.1 MiB, at most 3.4 MiB, 3.2 MiB in the end" */
void usage_text(char text[256], struct usage before, struct usage most, struct usage after);

#endif
