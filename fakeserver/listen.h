/* Sockets that a server listens on, for the command line. Every error is one line that says what and where. */
#ifndef NBDSPEC_FAKESERVER_LISTEN_H
#define NBDSPEC_FAKESERVER_LISTEN_H

#include <stdbool.h>
#include <stddef.h>

enum { LISTEN_MAX_ERROR = 512, LISTEN_MAX_PATH = 107, LISTEN_MOST = 8, LISTEN_FIRST_ACTIVATED = 3 };

/* The path has at most LISTEN_MAX_PATH bytes; a socket that nobody listens on is replaced, no other file is. A descriptor, or -1. */
int listen_on_unix(const char *path, char error[LISTEN_MAX_ERROR]);

struct tcp_listeners {
	int fds[LISTEN_MOST];
	size_t n;
	unsigned port;			/* the real one where 0 was asked for */
	char host[256];			/* what a client on this machine connects to */
};
enum listen_result { LISTEN_OK, LISTEN_BAD_ADDRESS, LISTEN_FAILED };

/* "PORT" (of localhost), "ADDR:PORT", "[ADDR]:PORT", "*:PORT" (everywhere). On failure nothing stays open. */
enum listen_result listen_on_tcp(const char *address, struct tcp_listeners *l, char error[LISTEN_MAX_ERROR]);

/*
 * How many descriptors, from LISTEN_FIRST_ACTIVATED, sd_listen_fds(3) would take; the environment is cleared of them.
 * -1 if LISTEN_FDS is no number, or of more descriptors than are open.
 */
int activated_descriptors(void);
bool is_listening(int fd);
bool is_connected(int fd);		/* a stream socket with a peer */

char *absolute_path(const char *path);	/* malloc'd; need not exist */

#endif
