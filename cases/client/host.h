/*
 * What client cases share: an honest fake server in the case's own process, set up as the case wants it, and the client's
 * command run against it.
 *
 *	struct host *h = host_new(t, "flags=SEND_FLUSH+SEND_TRIM");
 *	host_run(h);
 *	judge_copy(h, R(read_chunks_reassembled));
 */
#ifndef NBDSPEC_CASES_HOST_H
#define NBDSPEC_CASES_HOST_H

#include "fakeserver/lie.h"
#include "fakeserver/server.h"
#include "harness/client.h"
#include "harness/test.h"

struct host {
	struct test *t;
	struct client *client;
	struct fake_config config;	/* may be changed until host_run */
	struct fake_export export;	/* likewise; the only one, with data that is nowhere zero but in a hole in its middle */
	struct fake_server *fake;	/* while it runs */
	/*
	 * The server lies: it is a process of its own, since it may abort, and .seen is not known. A client that waits for
	 * what is kept back from it is ended early, and is not blamed.
	 */
	bool lying;
	bool unlawful;			/* likewise, of a server in this process, by its script: set while it runs */
	const char *tcp;		/* {uri} leads to this name of our machine by TCP; or NULL; set while it runs */
	uint16_t failing;		/* so many of this command fail with NBD_EIO */
	unsigned failures;
	/* Afterwards: */
	struct fake_counters seen;
	struct client_end end;
	off_t seen_from;		/* where the records of this run begin in the trace */
	bool waited;			/* it was ended while it waited for the server */
};

/* `settings` as of serve's --export, without name and size; NULL for none. Given back when the process ends. */
struct host *host_new(struct test *t, const char *settings);
void host_run(struct host *h);

bool succeeded(const struct host *h);
/* It did not end; nor did it wait for a lying server, or go on there as far as a little before it was ended. */
bool hung(const struct host *h);
/*
 * A client that hung, or died of a signal, breaks `r`; that one waits for a lying server is recorded. SIGPIPE is no crash:
 * the client has given up, and whether its last write meets a closed connection is chance.
 */
void judge_end(struct host *h, enum requirement_id r);
/* One that exits with success must have made the copy that it was asked for, where the command names {in} or {out}. */
void judge_copy(struct host *h, enum requirement_id r);
/*
 * What the referee says of all that it sent: the first broken MUST ends the case, a SHOULD is a warning. Against a server
 * that lies it is not asked.
 */
void judge_rules(struct host *h);
/* All records of the last run, for trace_next. Valid until the trace grows. */
struct wire host_records(struct host *h);
bool copies(const struct host *h);		/* the command names {in} or {out} */

#endif
