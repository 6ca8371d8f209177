/*
 * What the durability cases share. All that a case does to the export goes through here, so that the model of a power
 * cut (harness/history.h) knows what may be there afterwards: a command's arrival is when we begin to send it, its
 * answer when we have read all of it. So the server is accused only of what no order of events explains.
 *
 *	struct work *w = work_start(t);
 *	uint64_t n = do_command_of(w, NBD_CMD_WRITE, 0, 0, 65536);
 *	flush(w);
 *	cut(w, "drop");
 *	look(w);
 */
#ifndef NBDSPEC_CASES_DURABILITY_H
#define NBDSPEC_CASES_DURABILITY_H

#include "harness/nbd.h"
#include "harness/test.h"

struct work;

/* Enters transmission; skips where the export is not writable. Given back when the process ends. */
struct work *work_start(struct test *t);
/* Another session beside the current one, which becomes t->s; false where the server serves one at a time. */
bool work_beside(struct work *w);

enum { WRITE_OF_ZEROES = 0x100 };	/* a `type`: WRITE with zeroes as its data, of which a server may make a hole */

/*
 * What the case will write to: a case that keeps commands in flight says it before, as it may be looked at then. What
 * lies beside it is looked at, too.
 */
void will_use(struct work *w, uint64_t offset, uint64_t length);

/*
 * Sends a write-class command or a FLUSH on the current session; the contents of a WRITE name its number, which is
 * returned. `length` 0 for a FLUSH.
 */
uint64_t begin_command(struct work *w, uint16_t type, uint16_t flags, uint64_t offset, uint32_t length);
/* The next reply on the current session, to whichever command it is; its number, and its error in *error. */
uint64_t take_reply(struct work *w, uint32_t *error);
/* Both, with nothing else in flight; returns the error. */
uint32_t one_command(struct work *w, uint16_t type, uint16_t flags, uint64_t offset, uint32_t length);
/* The same; an error skips the case: without the command there is nothing to lose. */
void must_do(struct work *w, uint16_t type, uint16_t flags, uint64_t offset, uint32_t length);
void must_flush(struct work *w);

/* Cuts the power ("drop", "keep", "random N") and enters transmission again. */
void cut(struct work *w, const char *policy);
/* After a cut: reads back what was touched, and what lies beside it, and judges it; then that is what is there. */
void look(struct work *w);
/* Both. */
void cut_and_look(struct work *w, const char *policy);

unsigned some(struct work *w, unsigned n);	/* below n, by the seed of the run */

/* Runs the body as a point for each policy that a cut may have: all is lost that may be, or a seeded choice. */
#define EACH_CUT(t, policy, ...)                                                                                       \
	for (const char *policy = "drop"; policy != NULL; policy = next_policy(t, policy))                             \
		POINT(t, __VA_ARGS__)
const char *next_policy(const struct test *t, const char *policy);

#endif
