/*
 * The trace: every message with its moment, direction, connection, cookie and data; binary, append-only, valid up to
 * the last whole record after a kill. Transcripts, event logs and captures are views of it. docs/trace-format.md
 * describes the bytes.
 */
#ifndef NBDSPEC_TRACE_H
#define NBDSPEC_TRACE_H

#include "harness/behind.h"
#include "harness/wire.h"

#include <stdio.h>
#include <sys/types.h>

enum trace_kind {
	TRACE_MESSAGE,
	TRACE_CONNECT,		/* data: the address, text */
	TRACE_CLOSED,		/* orderly end of stream from the peer */
	TRACE_RESET,		/* the connection was reset */
	TRACE_TIMEOUT,		/* a deadline passed (or the fake server said that it has gone quiet) */
	TRACE_DISCONNECT,	/* our side closed */
	TRACE_CASE,		/* data: the case's id, text; connection numbers start again */
	TRACE_POINT,		/* data: the point's name, text */
	TRACE_NOTE,		/* data: text */
	TRACE_MARK,		/* data: text that a workload set */
	TRACE_TLS,		/* data: bytes of TLS as they were on the wire; the messages in them are .over_tls */
	TRACE_SECRET,		/* data: a line of a TLS key log (NSS), text */
	TRACE_KINDS
};

enum trace_direction { TO_SERVER, TO_CLIENT, NO_DIRECTION };

struct trace_record {
	enum trace_kind kind;
	enum message_kind message;	/* for TRACE_MESSAGE */
	enum trace_direction direction;
	bool over_tls;			/* of a message: it was on the wire in the bytes of a TRACE_TLS */
	uint16_t connection;
	uint64_t ns;			/* CLOCK_MONOTONIC */
	uint64_t cookie;		/* of requests and replies, else 0 */
	uint32_t length;		/* of the data as it was on the wire, bytes */
	struct bytes data;		/* what was kept of it: at most the trace's snap length */
	bool lent;			/* to trace_add: .data stays as it is until trace_give() */
};

struct trace {
	int fd;				/* opened for appending; -1: records go nowhere */
	uint32_t snap;			/* bytes of data kept per record */
	struct behind *behind;		/* of trace_hold; nobody else writes to the descriptor */
	uint8_t *waiting;		/* its block: records wait here */
	size_t n_waiting;		/* bytes of it */
	struct bytes lent;		/* the last data that was lent … */
	uint64_t lent_at;		/* … and where in the file it stands, or BEHIND_NOWHERE */
	uint64_t waits_since;		/* the moment of the first record that may not be written; 0: there is none */
	bool is_ready;			/* there is memory to wait in */
	int failed;			/* the errno of the write that ended it, else 0 */
};

enum { TRACE_HEADER = 16 };	/* bytes of a file before its records */

/* Writes the file header. Returns -1 and errno. The descriptor stays the caller's. */
int trace_start(struct trace *t, int fd, uint32_t snap);

/*
 * From now on records wait for the owner to have time, or for a thread. `ready`: as of behind_new (behind.h), bytes; where it is
 * not 0, records wait there for as long as it takes.
 */
void trace_hold(struct trace *t, size_t ready);
size_t trace_waiting(const struct trace *t);	/* bytes that nobody is writing yet */
bool trace_is_due(const struct trace *t);	/* some have waited for a second: its owner must take the time */
void trace_rest(struct trace *t);		/* there is time to write them */
void trace_hurry(struct trace *t);	/* it shall end: whoever reads it is waited for no longer, if he stands still (behind.h) */
void trace_flush(struct trace *t);		/* all is in the file, or cannot be */
void trace_close(struct trace *t);		/* likewise, and no more records come into it; the descriptor stays open */

/* What was lent lies in this buffer, of which the first bytes go: where they are needed still, another takes its place. */
void trace_give(struct trace *t, struct buf *input, size_t gone);
/* Where in the file the data stand, for trace_read; BEHIND_NOWHERE unless they are of the last that was lent. */
uint64_t trace_where(const struct trace *t, struct bytes data);
bool trace_read(void *trace, uint64_t where, size_t len, uint8_t *data);	/* false: somebody has changed the file */

/* Appends one record by a single write; where .ns is 0 it is now. With a failed write the trace ends, before a whole record if they are held. */
void trace_add(struct trace *t, const struct trace_record *r);
void trace_text(struct trace *t, enum trace_kind kind, uint16_t connection, const char *text);
/* Of one's own end of TLS; NO_DIRECTION: a line of the key log. */
void trace_tls(struct trace *t, uint16_t connection, enum trace_direction direction, struct bytes data);
off_t trace_end(const struct trace *t);		/* the offset behind the last record */

/* Reads. trace_check takes the file header off; trace_next takes a record, false at the last whole one. */
bool trace_check(struct wire *w);
bool trace_next(struct wire *w, struct trace_record *r);

/*
 * Decodes messages for people: the line of each message ("C: option NBD_OPT_GO (7), 10 bytes: …"), its fields where
 * they matter, and a hex dump of at most `hex` bytes. Peer bytes go through printable(). `depth` is the messages
 * before the end of [from, to) that are shown; earlier ones become "… 12 earlier messages".
 */
void describe_record(FILE *f, const struct trace_record *r, uint64_t ns_start, size_t hex);
char *describe_transcript(int trace_fd, off_t from, off_t to, unsigned depth);	/* malloc'd; never NULL */

#endif
