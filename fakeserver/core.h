/*
 * What the files of the fake server share with one another and with nobody else.
 *
 * A session's life: server.c accepts and reads; session.c takes whole messages off the input and hands each one to
 * option.c or transmission.c, which answer through outgoing_send(); server.c writes what outgoing.c has put into
 * conn.output. Lies and the trace are asked at the seams between these, and only when there are any.
 */
#ifndef NBDSPEC_FAKESERVER_CORE_H
#define NBDSPEC_FAKESERVER_CORE_H

#include "fakeserver/lie.h"
#include "fakeserver/server.h"
#include "harness/nbd.h"

/* Limits in bytes: what a client can make us keep. */
enum {
	OPTION_DATA_MAX = 256 << 10,	/* the longest valid GO has 4 + 4096 + 2 + 2 × 65535; longer data is not kept */
	OUTPUT_BUSY = 256 << 10,	/* with more than this unsent we send before we take more requests … */
	OUTPUT_MAX = 64 << 20,		/* … unless their replies must be reordered, where this is the limit */
	INPUT_MAX = 64 << 20,		/* what we read meanwhile, lest both sides wait for each other to read */
	INPUT_FIRST = 8 << 10,		/* what we read at once; grows with use up to … */
	INPUT_MOST = 256 << 10,
	OPTIONS_MOST = 1000,		/* of the knob haggling_limited */
	CLIENTS_MOST = 16,		/* of the knobs crowd_turned_away and crowd_waits */
	QUEUE_MOST = 64,		/* requests that are carried out in another order */
	BUFFER_KEPT = 16 << 20,		/* an empty buffer larger than this is given back */
};
#define BUFFERS_DEFAULT (UINT64_C(2) << 30)	/* of all connections together; beyond it who has most is cut off */

/* Something that happens when so many bytes of the output are sent. */
enum mark_kind { MARK_MESSAGE, MARK_SPLIT, MARK_DELAY, MARK_CLOSE, MARK_RESET, MARK_SILENCE };
struct mark {
	size_t at;
	enum mark_kind kind;
	unsigned ms;			/* of MARK_DELAY */
	enum message_kind message;	/* MARK_MESSAGE, only for the trace: it began at `start` */
	size_t start;
	uint64_t cookie;
};
struct marks {
	struct mark *at;
	size_t n, cap;
};

enum source_kind { SOURCE_LISTENER, SOURCE_IN, SOURCE_OUT, SOURCE_WAKE, SOURCE_STOP, SOURCE_WATCHED };
struct source {				/* what an epoll event points to */
	enum source_kind kind;
	int fd;
	bool watched;
	uint32_t events;		/* as epoll knows them */
	void *owner;			/* struct listener, struct conn or struct watched */
};

/* A message in the output that may change its place. */
struct unit {
	size_t start, end, mark;	/* .mark: how many marks stood before it */
	uint64_t answer;		/* those of one answer stay in order */
	uint64_t key;			/* the order to come */
};

struct conn_private {
	struct conn *next, *previous;
	struct source in_source, out_source;	/* a socket has only the first */
	bool is_socket;
	bool inherited;			/* others may hold the descriptors, so closing them is not enough for epoll */
	/* Input. */
	size_t taken;			/* bytes at the front of .input that are done with */
	size_t need;			/* so many bytes more than .taken before it is worth looking again */
	size_t room;			/* how much is read at once */
	uint64_t discard;		/* bytes to drop before anything else is looked at */
	bool has_pending;		/* .pending is acted on once .discard bytes are dropped */
	struct incoming pending;
	uint8_t pending_header[EXTENDED_REQUEST_SIZE];
	bool input_ended;
	/* TLS. */
	struct tls *tls;		/* from the end of clear text on */
	uint64_t tls_counted;		/* of tls_bytes_read() */
	struct state_change at_starttls;	/* what a lie has made of it */
	size_t shutdown_at;		/* so many bytes of .input, come or coming, were on their way at the shutdown */
	bool in_flight;			/* of these is the message that is being handled */
	unsigned n_options;
	/* For the knobs other_go_differs and other_go_fails. */
	struct buf info;		/* the data of the last NBD_OPT_INFO that succeeded */
	bool has_info, info_was_last;	/* there was one, and no other option after it */
	bool go_differs;
	/* Output. */
	size_t sent;			/* bytes at the front of .output that are gone */
	struct marks marks;		/* in .output; the first marks_passed lie behind .sent */
	size_t marks_passed;
	struct buf held;		/* of outgoing.hold */
	struct marks held_marks;
	bool blocked;			/* the descriptor takes no more at the moment */
	bool full;			/* no more requests are taken before all of the output is sent */
	uint64_t wake_ns;		/* a delay ends; 0: none runs */
	bool silent;			/* AFTER_SILENCE: neither reads nor writes any more */
	/* For the knobs that change the order of what is sent: the messages of this batch in .output. */
	bool collecting;
	uint64_t n_answers;		/* requests that were carried out */
	struct unit *units;
	size_t n_units, units_cap;
	/* For the knob requests_out_of_order: what waits to be carried out; their data is in .input. */
	struct incoming *queue;
	size_t n_queued, queue_cap, queued_bytes;
	uint64_t counted;		/* what its buffers take in fake_server.buffers */
	bool gone;			/* closed; freed when the batch of events is done */
};

struct listener {
	struct source source;
	bool tcp;
	struct listener *next;
};

/* Of fake_watch(). */
struct watched {
	struct source source;
	void (*ready)(void *arg);
	void *arg;
	struct watched *next;
};

/* Of fake_fail(). */
struct failing {
	unsigned times;
	uint32_t error;
	bool forget;
};

struct fake_server {
	struct fake_config *config;
	bool lies[LIE_PLACES];		/* some lie hooks this place */
	bool traced;			/* somebody wants to know each message */
	int epoll, wake;
	struct source wake_source, stop_source;
	struct listener *listeners, *dead_listeners;	/* events may still lead to the dead */
	struct watched *watched;
	void (*before_requests)(void *arg);
	void *before_requests_arg;
	bool shutting_down;
	bool serves_on;			/* a lie: and nobody is told */
	uint64_t shutdown_ns;		/* when it has taken long enough */
	struct failing failing[NBD_CMD_BLOCK_STATUS + 1];	/* by command */
	struct fake_counters counters;	/* .open and .accepted are kept elsewhere */
	uint64_t buffers;		/* bytes that the buffers of all connections take */
	uint64_t accept_again_ns;	/* no descriptors were left: when to try again; 0: all is well */
	struct straggler *stragglers;
	struct conn *conns, *dead;
	unsigned n_accepted, n_delayed;
	uint64_t random;
	struct extent *extents;		/* room for a status chunk */
	size_t extents_cap;
	uint64_t started_ns;
	bool stop;
};

static inline bool
server_knob(const struct fake_server *s, enum knob k)
{
	if (s->config->knob_asked != NULL)
		s->config->knob_asked[k] = true;
	return s->config->knob[k];
}

static inline bool
knob(const struct conn *c, enum knob k)
{
	return server_knob(c->server, k);
}

/* Replies come in chunks, structured or extended. */
static inline bool
in_chunks(const struct conn *c)
{
	return c->structured || c->extended;
}

static inline uint32_t
request_magic(const struct conn *c)
{
	return c->extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC;
}

static inline bool
lies(const struct conn *c, enum lie_place place)
{
	return c->server->lies[place];
}

uint64_t random_bits(struct fake_server *s);		/* by the seed */

static inline uint32_t
random_below(struct fake_server *s, uint32_t n)
{
	return (uint32_t)((random_bits(s) >> 32) * n >> 32);
}

static inline size_t
unsent(const struct conn *c)
{
	return c->output.len - c->private->sent;
}

/* ---- server.c ---- */
void conn_end(struct conn *c);				/* no more is taken; closes once the output is sent */
void conn_flush(struct conn *c);			/* sends what can be sent now */
void conn_process_event(struct conn *c, struct process_event *e);	/* asks the lies and does what they say */
void conn_record(struct conn *c, struct trace_record r);	/* to the trace and the log */
void conn_note(struct conn *c, const char *text);	/* likewise */

/* ---- session.c ---- */
void session_start(struct conn *c);			/* sends the greeting */
bool session_take(struct conn *c);			/* takes all whole messages; true: only a full output stopped it */
void session_moment(struct conn *c, enum state_moment moment);
void conn_enter_transmission(struct conn *c, struct fake_export *e);
uint16_t session_flags(const struct conn *c, const struct fake_export *e);
uint32_t max_payload(const struct fake_export *e);	/* the longest READ or WRITE that is carried out */

/* ---- option.c ---- */
void handle_option(struct conn *c, const struct option *o);
struct outgoing option_reply_start(const struct conn *c, uint32_t type, enum outgoing_payload payload);
bool offers_extended(const struct conn *c);		/* NBD_OPT_EXTENDED_HEADERS */
void option_error(struct conn *c, uint32_t type, const char *why);
void option_ack(struct conn *c);
void option_refuse_invalid(struct conn *c, const char *why);	/* the option breaks a MUST */
struct fake_export *export_named(const struct conn *c, struct bytes name);
bool is_string(struct bytes s);				/* as proto.md:30-38 wants them, but for its UTF-8 */

/* ---- starttls.c ---- */
bool tls_is_required(const struct conn *c, const struct fake_export *e);	/* for this export; NULL: for any */
void handle_starttls(struct conn *c, const struct option *o);
void conn_begin_tls(struct conn *c);
bool conn_advance_tls(struct conn *c);
/* The client has ended the connection, or what came is no TLS. */
void conn_see_tls_end(const struct conn *c, bool by_client, bool garbled);

/* ---- meta.c ---- */
void handle_meta_context(struct conn *c, const struct option *o);	/* LIST or SET */
/* The contexts that the payload of a BLOCK_STATUS names are selected ones, none of them twice (ext:2503). */
bool knows_contexts(const struct conn *c, const struct block_status_payload *p);
void answer_block_status(struct conn *c, const struct disk_op *op);

/* ---- transmission.c and reply.c ---- */
void handle_request(struct conn *c, const struct request *r);
struct outgoing chunk_start(const struct conn *c, const struct request *r, uint16_t type, enum outgoing_payload payload, bool final);
void send_simple(struct conn *c, const struct request *r, uint32_t error, struct bytes data);
void send_none(struct conn *c, const struct request *r);
void send_status(struct conn *c, const struct request *r, uint32_t error);
void answer_read(struct conn *c, const struct disk_op *op);
void answer_partial_read(struct conn *c, const struct disk_op *op);	/* of which only the first bytes exist */

uint32_t request_error(const struct conn *c, const struct request *r);	/* what is wrong with it; .length: of its effect */

/* ---- straggler.c ---- */
void stragglers_left(struct conn *c);			/* the WRITEs in its input will be carried out some time … */
void stragglers_turn(struct fake_server *s);		/* … when others have had so many requests: here is one */
void stragglers_free(struct fake_server *s);

/* ---- outgoing.c ---- */
/* The bytes at at[-header] … at[n] can be written to: data put there is sent without being copied. */
uint8_t *outgoing_room(struct conn *c, size_t header, size_t n);
void outgoing_send(struct conn *c, struct outgoing *m);
void outgoing_collect(struct conn *c);			/* from now on messages may be put into another order … */
void outgoing_reorder(struct conn *c);			/* … which happens now */
void outgoing_release(struct conn *c);			/* what outgoing.hold has held back */
void marks_add(struct marks *l, struct mark m);

/* The message is one that the shutdown refuses; `serves` is the knob that lets those in flight pass. */
static inline bool
is_shut_down(const struct conn *c, enum knob serves)
{
	const struct fake_server *s = c->server;

	return s->shutting_down && !s->serves_on && !(c->private->in_flight && knob(c, serves));
}

/* The start of every outgoing message. */
#define OUTGOING(kind_) { .kind = kind_, .cut = SIZE_MAX }

/* Makes room for n more bytes without counting them. */
static inline void
buf_reserve(struct buf *b, size_t n)
{
	if (b->cap - b->len < n) {
		buf_grow(b, n);
		b->len -= n;
	}
}

#endif
