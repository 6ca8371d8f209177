/*
 * A connection of an exploration, which opens thousands: read through a buffer, and put into the trace only where a
 * finding is shown. How it ends is told apart as everywhere: closed, reset, silent.
 */
#ifndef NBDSPEC_LINK_H
#define NBDSPEC_LINK_H

#include "harness/test.h"

enum link_end { LINK_OPEN, LINK_CLOSED, LINK_RESET, LINK_SILENT };
const char *link_end_text(enum link_end e);

struct link {
	struct test *t;
	int fd;				/* where .end is LINK_OPEN, or is not yet closed by us; else -1 */
	enum link_end end;
	bool traced;			/* from link_open on */
	uint16_t number;		/* in the trace */
	int64_t until;			/* ms: by then the whole answer to what was sent last has come */
	bool late;			/* and a part of it came later */
	struct tls *tls;		/* from link_start_tls on */
	struct buf in;			/* its memory outlives the connection */
	size_t at;			/* so much of it was taken */
	struct buf *log;		/* for link_replay, or NULL; of several links, as their steps followed each other */
	uint8_t slot;			/* that tells them apart there */
	uint32_t unlogged;		/* bytes that have come since the last step in it */
};

/* False and one line in error where the server accepts none. */
bool link_open(struct link *l, struct test *t, char error[512]);
void link_close(struct link *l);
void link_free(struct link *l);

/*
 * The TLS handshake, behind the ACK to NBD_OPT_STARTTLS, with what the target has for it; all that follows is over TLS. False and one
 * line in error where it fails; where it does not end .end is LINK_SILENT.
 */
bool link_start_tls(struct link *l, char error[512]);

/* The server has all of its time from here on. Sending does so; who has much in flight does where a part is answered. */
void link_begin_wait(struct link *l);
/* What stops it is found by who waits for the answer. */
void link_send(struct link *l, enum message_kind kind, uint64_t cookie, struct bytes message);
/*
 * n bytes that nobody has taken, or NULL where they do not come: .end says why. Valid until the next call. Each message
 * that is sent begins a new wait, within which all of its answer must come, so that one that has no end is no end of ours.
 */
const uint8_t *link_need(struct link *l, size_t n);
/* For who reads and writes .fd by himself, in clear: into the trace, where that is wanted. */
void link_record(struct link *l, enum message_kind kind, bool to_server, uint64_t cookie, struct bytes b);
void link_set_end(struct link *l, enum link_end end);
int link_patience_ms(const struct test *t);	/* for one answer */
struct bytes link_take(struct link *l, enum message_kind kind, uint64_t cookie, size_t n);	/* of those; valid likewise */
/* Waits for the server to end the connection. False where another byte comes first, or nothing: .end says which. */
bool link_ends(struct link *l);

/* Opens, sends, receives as many bytes, and closes, as a log says, without a look at what comes. */
bool link_replay(struct test *t, struct bytes log);

/* A moment for a server that has left us to be seen to have ended. */
void await_server_end(const struct test *t);

/* How it has ended by a fault, once it is ours (restart_server), malloc'd; or NULL. */
char *server_fault_text(const struct test *t);
/* What it has printed behind so many bytes of its output, malloc'd, and how many there are; of a server that we started. */
char *server_output(const struct test *t, size_t from);
size_t server_output_size(const struct test *t);

void server_is_up(struct test *t);	/* one that was started anew has greeted: who cannot connect from now on need not wait */

/* The server anew, over the image that it has; for one that was started by a command. False and one line in error. */
bool can_restart_server(const struct test *t);
bool restart_server(struct test *t, char error[512]);

#endif
