/* The referee's word on the records of a trace, as verdicts of a case. */
#ifndef NBDSPEC_CASES_JUDGE_H
#define NBDSPEC_CASES_JUDGE_H

#include "cases/client/referee.h"
#include "harness/test.h"
#include "harness/trace.h"

/* The first broken MUST from this offset on ends the case or its point, after all others; a SHOULD is a warning. */
void judge_trace(struct test *t, const struct trace *trace, off_t from, const struct referee_setup *setup);

/* All records from this offset on. Valid until the next call. */
struct wire trace_records(struct test *t, const struct trace *trace, off_t from);
unsigned options_in(struct wire records, uint32_t option);	/* how often the client has sent it */
/* Likewise in a trace, from this offset on. */
unsigned options_sent(struct test *t, const struct trace *trace, off_t from, uint32_t option);

/* In the last `ms` before `until`, as trace_record's ns, a request went further than any before it, from this offset on. */
bool goes_forward(struct test *t, const struct trace *trace, off_t from, uint64_t until, uint64_t ms);

#endif
