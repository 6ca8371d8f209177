/*
 * Records of a trace as a capture that Wireshark reads: each connection as one of TCP to port 10809, whatever it was. What
 * went over TLS is TLS, with its keys; marks, notes, and the names of cases and points are packets of syslog, and their
 * comments. The format: draft-ietf-opsawg-pcapng.
 */
#ifndef NBDSPEC_PCAPNG_H
#define NBDSPEC_PCAPNG_H

#include "harness/wire.h"

#include <stdint.h>
#include <stdio.h>

struct pcapng;

/* Writes the capture's header. `epoch_ns` is the real time at which the records' clock was 0; 0: it is not known. Never NULL. */
struct pcapng *pcapng_new(FILE *f, uint64_t epoch_ns);
/*
 * `records` stands behind the trace's header (trace_check), or where another call has ended, and goes on to the last whole
 * record. A session of TLS lies within one call. What the trace did not keep of a message is zeroes.
 */
void pcapng_add(struct pcapng *p, struct wire records);
void pcapng_free(struct pcapng *p);	/* the file stays the caller's, who looks at ferror() */

#endif
