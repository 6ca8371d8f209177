/* The control socket of nbdspec serve: one request per line, one reply per line ("ok …" or "error …"). */
#ifndef NBDSPEC_CONTROL_H
#define NBDSPEC_CONTROL_H

#include "fakeserver/server.h"

struct control;

/* Serves a listening socket, which it takes over, in the loop of the server. NULL and errno. Free it before the server. */
struct control *control_new(struct fake_server *s, int listen_fd, unsigned grace_ms);
void control_free(struct control *control);

#endif
