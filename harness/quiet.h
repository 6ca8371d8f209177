/*
 * How the fake server, when the harness itself started it, tells that nothing more will come.
 *
 * A lie of silence would cost every case its deadline. Instead the server publishes, in shared memory, how many bytes
 * of each connection it has read, and that it is now blocked with nothing left to send. A client that has sent just so
 * many bytes and finds its socket empty knows that its wait is a time-out, at once. The order makes it sound: the
 * server sends first and publishes afterwards; the client looks at the counters first and at its socket afterwards.
 */
#ifndef NBDSPEC_QUIET_H
#define NBDSPEC_QUIET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { QUIET_CONNECTIONS = 1024 };

struct quiet {
	int event;			/* eventfd, inherited by both: written whenever the server falls idle */
	_Atomic uint32_t connects;	/* connections that clients made so far; the server accepts in this order */
	_Atomic uint32_t accepts;	/* connections that the server took, in the same order */
	_Atomic bool full;		/* it takes no more until one of its connections has ended */
	_Atomic bool ending;		/* it was asked to end, and has begun with it */
	_Atomic uint32_t reloads;	/* so many times it was asked to reload, and has done so */
	_Atomic bool idle;		/* blocked in its event loop, no timer running, nothing to send */
	_Atomic uint64_t consumed[QUIET_CONNECTIONS];	/* bytes read from each connection, in order of accept */
	_Atomic bool silent[QUIET_CONNECTIONS];	/* a lie: it reads no more although bytes may be waiting */
	_Atomic bool ended[QUIET_CONNECTIONS];	/* the server has carried out all that this connection's end brings */
};

/* Maps shared memory and makes the eventfd; NULL and errno when the system refuses. */
struct quiet *quiet_new(void);
void quiet_free(struct quiet *q);
void quiet_reset(struct quiet *q);		/* for a new server process; nobody may be using it */

/* Server: about to block (publishes and wakes the clients), and awake again. */
void quiet_fall_idle(struct quiet *q);
void quiet_wake(struct quiet *q);

/* Server: connection n has ended. */
void quiet_end(struct quiet *q, unsigned n);
/*
 * Client: connection n is closed on our side. Waits until the server has seen it, so that what its end does to the
 * server comes before the next connection and not beside it; at most 50 ms, as some lies never look, or 2 s where the
 * server has work and no processor. pid, pidfd: the server.
 */
void quiet_await_end(const struct quiet *q, unsigned n, pid_t pid, int pidfd);

/* Server: it has no room for another connection, or has again. Client: connection n waits for room. */
void quiet_be_full(struct quiet *q, bool full);
bool quiet_waits_for_room(const struct quiet *q, unsigned n);

/* Server: it was asked to end; from now on that shows. Client: waits for it, and no longer than the server lives. */
void quiet_begin_end(struct quiet *q);
void quiet_await_ending(const struct quiet *q, int pidfd);
/* Server: it has reloaded. Client: waits until it has done so more often than `before`, and no longer than the server lives. */
void quiet_reloaded(struct quiet *q);
void quiet_await_reload(const struct quiet *q, uint32_t before, int pidfd);

/* Client: the server has read all `sent` bytes of connection n and will say nothing more. Check the socket after it. */
bool quiet_is_over(const struct quiet *q, unsigned n, uint64_t sent);

#endif
