/*
 * A file that is written behind the back of who has something to write: by a thread where there is much, else by its owner
 * when it has time. What was put there can be read back at once. Offsets and lengths are bytes.
 */
#ifndef NBDSPEC_BEHIND_H
#define NBDSPEC_BEHIND_H

#include "harness/wire.h"

#include <stdbool.h>
#include <stdint.h>

enum { BEHIND_BLOCK = 256 << 10 };

struct behind;

/*
 * The descriptor stays the caller's; nobody else writes to it from now on, and a pipe no longer blocks. `end`: where the
 * file does. `ready`: bytes of memory that are there from now on, and in which much waits: the thread leaves it alone until
 * three quarters are in use, or behind_rest. 0: a few MiB, and the thread writes at once. NULL without a thread.
 */
struct behind *behind_new(int fd, uint64_t end, size_t ready);
void behind_free(struct behind *b);	/* once all is written, or cannot be; may be NULL */

/*
 * A block to be filled. It waits for one where so much is unwritten that all are in use; NULL when nothing can be written any
 * more. `whole`: the file may end behind it; after a write that failed it does so behind the last such.
 */
uint8_t *behind_block(struct behind *b);
void behind_put(struct behind *b, uint8_t *block, size_t len, bool whole);	/* takes it over */
size_t behind_unwritten(struct behind *b);	/* bytes that nobody is at, so that behind_wait would write them */

/*
 * The bytes are the caller's and stay as they are until behind_give; they are whole. Returns where they will
 * stand, or BEHIND_NOWHERE where they cannot be read back.
 */
#define BEHIND_NOWHERE UINT64_MAX
uint64_t behind_lend(struct behind *b, struct bytes data);
enum { BEHIND_SHORT = 256 };
int behind_put_short(struct behind *b, struct bytes data, bool whole);	/* copies at most so many bytes; as behind_wait */
/* What was lent lies in this buffer, of which the first bytes go: where they are needed still, another takes its place. */
void behind_give(struct behind *b, struct buf *input, size_t gone);

/*
 * It shall end: a pipe whose reader stands still for two seconds more takes nothing any longer (ETIMEDOUT). So it is by itself
 * while a stop signal is pending (process.h).
 */
void behind_hurry(struct behind *b);
int behind_wait(struct behind *b);	/* until all is written: 0, or what ended it, an errno */
int behind_rest(struct behind *b);	/* there is time to write: likewise, or the thread does where much waits */

/* What was lent. False: somebody has changed the file. */
bool behind_read(struct behind *b, uint64_t offset, size_t len, uint8_t *data);

#endif
