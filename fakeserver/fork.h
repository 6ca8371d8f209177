/* The fake server as a process of the harness. */
#ifndef NBDSPEC_FAKESERVER_FORK_H
#define NBDSPEC_FAKESERVER_FORK_H

#include "fakeserver/server.h"

/*
 * What a forked child runs: serves the listening socket until the parent ends or nothing is left to serve; SIGTERM is
 * a shutdown, which waits for the clients. The exports of the config are the child's own memory from the fork on. Ends the process; the status is 0, or
 * 1 with a line on stderr.
 */
_Noreturn void fake_child(struct fake_config *config, int listen_fd);

#endif
