/*
 * Many connections at once, beside those that a case looks at. Each goes as far as it is told and no further. None of them
 * is judged for not being let in, since the text obliges no server to serve so many; what goes over them is in no trace.
 */
#ifndef NBDSPEC_CROWD_H
#define NBDSPEC_CROWD_H

#include "harness/test.h"
#include "harness/usage.h"

struct member {
	int fd;				/* -1: could not connect, or has left */
	unsigned slot;			/* in struct quiet */
	uint64_t sent;			/* bytes */
	bool greeted;
	bool transmission;		/* entered */
	bool ended;			/* by the server */
	bool done;			/* of crowd_await */
	struct buf in;			/* has come, and was not taken yet */
};

struct crowd {
	struct test *t;
	struct session like;		/* as this session, each member is greeted and answers the greeting */
	struct member *members;
	unsigned n;			/* members */
	unsigned connected, greeted, entered;	/* so many got so far */
};

/*
 * How many clients make a crowd: --crowd, else a hundred. Skips where we may not have so many descriptors, and where the
 * server is not ours to crowd: it runs already, and --crowd was not given.
 */
unsigned crowd_size(struct test *t);
/*
 * Connects n members, and waits for their greetings for as long as some come. `like`: a session that got through the
 * handshake. Of a server that is known to serve one client at a time no greeting is waited for.
 */
struct crowd *crowd_gather(const struct session *like, unsigned n);
bool crowd_is_let_in(const struct crowd *c);	/* all of them were greeted */
void crowd_enter(struct crowd *c);		/* those that were greeted, by GO or NBD_OPT_EXPORT_NAME, as far as they come */
/* The same step by step: what a client sends behind the greeting; all of those who sent it were answered, or are gone. */
void crowd_put_entry(struct buf *b, const struct crowd *c);
bool crowd_await_entry(struct crowd *c);
/* To a member; what the socket does not take is not sent. */
void member_send(struct member *m, const void *data, size_t len);
void crowd_send(struct crowd *c, const void *data, size_t len);	/* to all that were greeted and are still there */
/*
 * Waits until `take`, which is called with what has come, is true of all that were greeted, or their connections have
 * ended, or nobody was sent anything for a time: that of an answer that is owed (`owed`), or a moment. True: they are all
 * done.
 */
bool crowd_await(struct crowd *c, bool owed, bool (*take)(struct crowd *c, struct member *m));
bool crowd_let_go(struct crowd *c);		/* those in transmission leave, and make room for others; there were some */
void crowd_leave(struct crowd *c);		/* closes, and frees all */
void crowd_reset(struct crowd *c);		/* the same, by a reset where the transport has one */

/* ---- of the server's process ---- */

bool server_usage(const struct test *t, struct usage *u);	/* false: not ours, or we may not look */
/*
 * Waits for no more descriptors and processes than those, for as long as it may take a server to notice that so many clients
 * have left. What there are in the end.
 */
struct usage await_usage(const struct test *t, const struct usage *back, unsigned clients);
/* Skips where nothing says how the server reloads. */
void need_reload(struct test *t);
void reload_server(struct test *t);
/* After terminate_server: it has ended, with all its processes, within the time of an answer. */
bool server_has_ended(const struct test *t);
/* Starts it anew over its image, and closes all connections; false: it has none that we know of, or cannot be started so. */
bool start_over_image(struct test *t);
/* The server may have so many descriptors more than it has, and no others. Skips where that cannot be set. */
void limit_descriptors(struct test *t, unsigned more);

#endif
