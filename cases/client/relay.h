/*
 * A relay between the client and the fake server: the same bytes, in other pieces, kept back for a while, or broken off. It
 * is served with the fake server, and d->uri leads to it.
 *
 *	drive_serve(d, "", NULL);
 *	relay = relay_new(d);
 *	relay_plan(relay, &(struct relay_plan){ .piece = 1 });
 *	must(d, R(client_reads_option_reply), 1, "connect %s", d->uri);
 *
 * A piece ends where the client has read all of it, so that its receiving calls see each by itself. This takes no clock.
 */
#ifndef NBDSPEC_CASES_RELAY_H
#define NBDSPEC_CASES_RELAY_H

#include "cases/client/drive.h"

struct relay;

struct relay_plan {
	size_t piece;		/* the client gets at most so many bytes at once; 0: as they come */
	bool cuts;		/* of the bytes to the client, a piece ends behind the first .cut */
	uint64_t cut;
	bool serial;		/* takes nothing from the client before it has read all that was sent to it: a server that does one thing at a time */
	bool ends;		/* there the connection is closed, both ways; what was on its way to the server comes there */
};

/* After each drive_serve or drive_restart_server. The one before ends, and drops its connections. */
struct relay *relay_new(struct drive *d);
void relay_plan(struct relay *r, const struct relay_plan *plan);	/* for the connections to come; a copy is kept */
void relay_forget(struct relay *r);	/* ends all connections, and counts from 1 again */

/* Connections count from 1, in order of accept. */
unsigned relay_connections(const struct relay *r);
uint64_t relay_carried(const struct relay *r, unsigned connection);	/* bytes to the client */
void relay_end(struct relay *r, unsigned connection);
/* What comes in this direction is kept until relay_release, then goes as one piece. */
void relay_hold(struct relay *r, unsigned connection, enum trace_direction to);
size_t relay_held(const struct relay *r, unsigned connection, enum trace_direction to);
void relay_release(struct relay *r, unsigned connection, enum trace_direction to);
/* Serves until so much is held. False: it did not come within a second, times the factor, as with a client that waits for an answer first. */
bool relay_gather(struct relay *r, unsigned connection, enum trace_direction to, size_t bytes);
/* Serves until the client's end has come, likewise: from another machine it may come behind the word that it has left. */
void relay_await_end(struct relay *r, unsigned connection);

#endif
