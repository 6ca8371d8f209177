/*
 * The referee: sees every message of every session between a client and a server, and names each rule of the protocol
 * text that the client has broken. It is a pure observer: no input or output, no clock. What the client may do it takes
 * from what the server said in that session, true or not.
 *
 * It accuses of nothing that it cannot prove from the messages alone: where the server broke a rule first, the client
 * may leave as it likes; what a message meant that came cut off or with a wrong length, nobody knows.
 *
 * The records are those of a server's trace (`nbdspec serve --trace`): TRACE_CLOSED is the client's doing,
 * TRACE_DISCONNECT the server's; a TRACE_RESET has the direction of who did it.
 */
#ifndef NBDSPEC_REFEREE_H
#define NBDSPEC_REFEREE_H

#include "harness/requirement.h"
#include "harness/trace.h"
#include "harness/wire.h"

struct referee_setup {
	bool server_lies;		/* nobody is accused of how he left, or of bytes that the server took for a message */
	bool several_clients;		/* two connections may be two clients' */
	bool most_interoperable;	/* also judges what the text asks only of clients that desire it, or "where possible" */
	bool left_unjudged;		/* nobody is accused of how he left, or left a message unfinished */
	enum requirement_id excused;	/* nobody is accused of this, which he was asked to do; or REQUIREMENT_NONE */
};

/* How a rule that binds clients is judged. */
enum judge {
	JUDGED_ELSEWHERE,		/* by a case of its own, or nobody: referee_why tells */
	JUDGED_BY_REFEREE,
	JUDGED_FREEDOM,			/* a MAY */
};
enum judge referee_judges(enum requirement_id r);
const char *referee_why(enum requirement_id r);		/* why a case of its own is needed; NULL for others */

struct referee;

/*
 * .broken is called at once, in the order of the messages; once for each rule that one act breaks, with the same text:
 * a line that says what the client did, and what the server had said. The text is borrowed. How a client left is judged
 * when the server has closed, too, or at the end, since some of what it had sent may come to light only then.
 */
typedef void referee_broken(void *arg, uint16_t connection, enum requirement_id r, const char *text);
struct referee *referee_new(const struct referee_setup *setup, referee_broken *broken, void *arg);
void referee_see(struct referee *ref, const struct trace_record *r);
void referee_end(struct referee *ref);			/* judges what is known only at the end, and frees it */

/* A request of either header; of one that is cut off what is there of it. False: it is something else. */
bool request_in(const struct trace_record *r, struct request *m);

#endif
