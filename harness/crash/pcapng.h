/*
 * A trace as a capture that Wireshark reads: each connection as one of TCP to port 10809, whatever it was, with marks as
 * comments. The format: draft-ietf-opsawg-pcapng.
 */
#ifndef NBDSPEC_CRASH_PCAPNG_H
#define NBDSPEC_CRASH_PCAPNG_H

#include "harness/wire.h"

#include <stdio.h>

/* `trace` stands behind the header (trace_check). What the trace did not keep of a message is zeroes. */
void pcapng_write(struct wire trace, FILE *f);

#endif
