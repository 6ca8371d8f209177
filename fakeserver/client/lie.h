/*
 * Lies of the fake client: each is one bug of a client, at the edge of the honest one. One entry each:
 *
 *	// libnbd bf38b21
 *	CLIENT_LIE(trims_unadvertised, ON_COMMAND, BREAKS(R(trim_only_where_advertised)), "sends TRIM without being asked whether")
 *	{
 *		if (op->request.type == NBD_CMD_TRIM && CLIENT_LIE_NOW)
 *			op->unchecked = true;
 *	}
 *
 * A body changes what it is given and nothing else. CLIENT_LIE_NOW counts the turn (nth), so it stands last in every
 * condition. A habit (habits.c) stands at the same places, and is honest: it uses freedoms. What the lies need of the client is in fakeserver/client/lying.h; who only counts them includes this.
 */
#ifndef NBDSPEC_FAKESERVER_CLIENT_LIE_H
#define NBDSPEC_FAKESERVER_CLIENT_LIE_H

#include "harness/requirement.h"

#include <stddef.h>

struct fc_session;
struct fc_op;
struct fc_sending;
struct fc_receiving;
struct fc_violation;
struct client_lie_use;

enum client_lie_place {
	CLIENT_ON_COMMAND,	/* what the user asks for, before it is checked */
	CLIENT_ON_SENDING,	/* client flags, an option or a request, before it is encoded */
	CLIENT_ON_RECEIVING,	/* a message of the server, before it is acted on */
	CLIENT_ON_VIOLATION,	/* what the honest client does not put up with */
	CLIENT_ON_STATE,	/* what is believed of the server */
	CLIENT_ON_ANSWER,	/* what the user is told */
	CLIENT_LIE_PLACES
};

struct client_lie {
	const char *name;
	enum client_lie_place place;
	const enum requirement_id *breaks;	/* ends with REQUIREMENT_NONE */
	const enum requirement_id *uses;	/* of a habit: the freedoms, by the other choice than the plain client's; else NULL */
	const char *text;
	const char *file;
	union {
		void (*command)(struct client_lie_use *l, struct fc_session *s, struct fc_op *op);
		void (*sending)(struct client_lie_use *l, struct fc_session *s, struct fc_sending *m);
		void (*receiving)(struct client_lie_use *l, struct fc_session *s, struct fc_receiving *m);
		void (*violation)(struct client_lie_use *l, struct fc_session *s, struct fc_violation *v);
		void (*state)(struct client_lie_use *l, struct fc_session *s, int moment);
		void (*answer)(struct client_lie_use *l, struct fc_session *s, struct fc_op *op);
	};
};

const struct client_lie *client_lie_at(size_t i);	/* sorted by name; NULL past the last */

#endif
