/* The event log: every record of the trace as one line of JSON; docs/man/nbdspec-serve.pod tells its fields. */
#ifndef NBDSPEC_EVENT_LOG_H
#define NBDSPEC_EVENT_LOG_H

#include "harness/trace.h"

#include <stdio.h>

void event_log(FILE *f, const struct trace_record *r, uint64_t ns_start);

#endif
