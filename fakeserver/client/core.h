/*
 * The fake client: an honest NBD client with lies at its edge, the counterpart of the fake server. It has one thread and one
 * epoll; nothing in it waits. A handle is what a client library calls so: settings, and one session at a time.
 */
#ifndef NBDSPEC_FAKESERVER_CLIENT_CORE_H
#define NBDSPEC_FAKESERVER_CLIENT_CORE_H

#include "harness/target_tls.h"
#include "harness/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/socket.h>

enum {
	FC_CONTEXTS_MOST = 64,          /* metadata contexts of a session */
	FC_CONNECTIONS_MOST = 16,       /* of a handle */
	FC_REPLIES_MOST = 10000,        /* to one option */
	FC_OPTION_REPLY_MOST = 1 << 25, /* bytes */
	FC_READ_MOST = 1 << 28,         /* bytes in one request */
	FC_WRITE_MOST = 1 << 27,
	FC_EXTENTS_MOST = 10000,        /* that are told of one BLOCK_STATUS */
	FC_PATIENCE_MS = 2000,          /* with a server that is to end a session */
};

/* ---- what a session has learnt of its server ---- */

struct fc_export {
	bool known;			/* size and flags */
	uint64_t size;
	uint16_t flags;
	bool has_block;
	struct info_block_size block;
	struct buf name, description;	/* as told; .at is NULL where nothing was */
};

struct fc_context {
	uint32_t id;
	struct buf name;
};

struct fc_facts {
	bool oldstyle, server_fixed, server_no_zeroes;
	bool fixed, no_zeroes;		/* agreed */
	bool structured;
	bool tls;			/* it is up */
	bool extended;			/* headers; .structured is set as well, since replies come in chunks */
	struct fc_export export;
	struct fc_context contexts[FC_CONTEXTS_MOST];
	size_t n_contexts;
	struct buf asked;		/* the export that the last GO, INFO or EXPORT_NAME named */
	char error[40];			/* the last one that a command met */
};
void fc_export_reset(struct fc_export *e);
void fc_export_copy(struct fc_export *to, const struct fc_export *from);
void fc_contexts_reset(struct fc_facts *f);
void fc_contexts_copy(struct fc_facts *to, const struct fc_facts *from);
void fc_facts_reset(struct fc_facts *f);
void fc_facts_copy(struct fc_facts *to, const struct fc_facts *from);

/* ---- what the user asks for ---- */

enum fc_ask {
	FC_CONNECT,			/* up to the transmission phase */
	FC_HAGGLE,
	FC_GO,
	FC_INFO,
	FC_LIST,
	FC_LIST_CONTEXTS,
	FC_STARTTLS,
	FC_DISCONNECT,
	FC_COMMAND,
};

enum fc_step { FC_TLS, FC_EXTENDED, FC_STRUCTURED, FC_SELECT_CONTEXTS, FC_INFORM, FC_MAIN, FC_OLD_WAY, FC_STEPS };

struct fc_session;
struct fc_handle;

struct fc_op {
	TAILQ_ENTRY(fc_op) entry;
	enum fc_ask ask;
	char *tag;			/* the user's */
	void (*done)(struct fc_op *op);	/* tells him; the op is freed behind it */
	void *arg;
	struct fc_handle *handle;
	char error[40];			/* "" for success */

	/* options */
	unsigned step;			/* enum fc_step: of the option that comes next */
	struct buf export;
	bool has_export;		/* another one than the URI's */
	struct buf queries;		/* be32 length, text, … */
	uint32_t n_queries;
	unsigned n_replies;
	struct buf said;		/* words of the answer */

	/* commands */
	struct request request;		/* .data of a WRITE points to .data; .length is that of the effect */
	unsigned pattern;		/* of a WRITE without .data */
	bool filtered;			/* a BLOCK_STATUS of these contexts only, by its payload: */
	struct buf only;		/* be32 length, name, … */
	struct buf payload;		/* as it is sent */
	bool sent;
	int64_t sent_at;		/* ms */
	/* By lies: sent whatever was advertised; success without a request; told when it is sent. */
	bool unchecked, pretend, early;
	bool replied;			/* a chunk has come */
	uint8_t *data;			/* of a READ or WRITE */
	uint8_t *covered;		/* a bit for each byte of a READ of which a chunk has told */
	uint32_t n_covered;
	bool has_content;
	bool told[FC_CONTEXTS_MOST];	/* a BLOCK_STATUS chunk of this context has come */
	unsigned n_extents;
};
TAILQ_HEAD(fc_ops, fc_op);

/* FC_TLS_ALLOWED: where the server has it. A URI of nbds:// is FC_TLS_REQUIRED. */
enum fc_tls_wish { FC_TLS_OFF, FC_TLS_ALLOWED, FC_TLS_REQUIRED };

struct fc_settings {
	bool strict, structured, extended, block_size, full_info, fixed_newstyle, no_zeroes;
	bool structured_first;		/* where it asks for extended headers: by a habit */
	bool informs_itself;		/* NBD_OPT_INFO before NBD_OPT_GO: by a habit */
	bool reconnects;		/* for a command, once the server has dropped a session: by a habit or a lie */
	bool waits_for_tls_reqd;	/* where TLS is allowed it starts with the first NBD_REP_ERR_TLS_REQD: by a habit */
	bool chosen;			/* one of them was set: no habit changes them */
	enum fc_tls_wish tls;
	unsigned connections;		/* of the handle, where the server lets it have several */
	unsigned timeout_s;		/* in which a request has its reply, or the session ends; 0: no limit */
	struct buf queries;		/* contexts: be32 length, text, … */
	uint32_t n_queries;
};

/* ---- sessions ---- */

enum fc_stage {
	FC_CONNECTING,
	FC_GREETING,			/* waits for it */
	FC_OPTIONS,			/* option haggling */
	FC_SECURING,			/* the TLS handshake */
	FC_EXPORT_NAME,			/* waits for the reply to NBD_OPT_EXPORT_NAME */
	FC_TRANSMISSION,
	FC_DISCONNECTING,		/* as soon as all replies are there */
	FC_LEAVING,			/* the last message is sent; waits for the end of the connection */
	FC_OVER,
};

struct addrinfo;
struct nbd_uri;

struct fc_session {
	struct fc_handle *handle;
	unsigned number;		/* in order of connect, from 1 */
	enum fc_stage stage;
	int fd;
	bool wants_room;		/* epoll tells when there is room to send */
	/* By lies: reads nothing before all is sent; never sees the end; takes what has come for all; bytes to pass over. */
	bool blind, deaf, hasty;
	uint64_t skip;
	bool retry;			/* connect() again soon */
	int64_t until;			/* a moment at which it ends in any case, ms; 0: none */
	struct addrinfo *addresses, *address;	/* all, and the next one to try */
	struct sockaddr_storage target;
	socklen_t target_len;
	char *port;			/* for FC_STATE_PORT: at most 15 bytes */
	struct buf in, out;
	size_t in_at, out_at;		/* taken, and sent */
	size_t want;			/* bytes of input that the next message takes, where they are known */
	bool close_behind;		/* once all is sent */
	char end[40];			/* what is answered to what was unanswered */
	struct fc_ops ops;		/* not answered yet, in the order they came */
	uint64_t last_cookie;

	struct fc_settings settings;	/* as of the connect; strict as it is now */
	char *uri, *export;		/* the export of the URI */
	struct fc_facts facts;
	struct fc_export informed;	/* of the last NBD_OPT_INFO: for lies */
	struct buf selected_for;	/* the export that the last SET_META_CONTEXT named */
	bool in_option;			/* waits for a reply */
	uint32_t option;
	bool option_unsupported;	/* the last one */
	bool aborting;			/* NBD_OPT_ABORT is sent */

	struct target_tls *credentials;	/* NULL: neither asked for, nor in the URI */
	struct tls *tls;		/* from the ACK to NBD_OPT_STARTTLS on */
	struct tls_setup tls_setup;	/* at FC_STATE_SECURING, for lies */
	bool secured, tls_writes;	/* TLS is up; its handshake has something to send */
	bool tls_refused, tls_demanded;	/* an error to NBD_OPT_STARTTLS; NBD_REP_ERR_TLS_REQD to another */
	bool was_shut;			/* close_notify is sent */
	/*
	 * By lies: the ACK is for nothing; what came in clear behind it is acted on; where the handshake fails it goes on in
	 * clear; no close_notify; clear text is taken, and sent, once TLS is up.
	 */
	bool skips_tls, keeps_input, survives_tls, drops_tls, takes_clear, sends_clear;
};

struct fc_handle {
	LIST_ENTRY(fc_handle) entry;
	unsigned long number;
	struct fc_settings settings;
	struct fc_session *session;	/* or NULL */
	struct fc_facts before;		/* of the session before this one: for lies */
	bool had_session;
	char *again;			/* the URI of a session that the server dropped, where it reconnects */
	struct fc_ops waiting;		/* commands, for the new session */

	/* Several connections: */
	struct fc_handle *beside_of;	/* the first, which has the settings; NULL: it is that itself */
	struct fc_handle *beside[FC_CONNECTIONS_MOST - 1];	/* of the first: the others, once they are needed */
	size_t n_beside;
	unsigned turn;			/* of the next command */
	unsigned n_joining, n_parting;	/* that are about to connect, and to disconnect */
	struct fc_op *parting;		/* the user's disconnect */
};

struct fc_client {
	int epoll;
	bool input_always;		/* it is a file */
	LIST_HEAD(fc_handles, fc_handle) handles;
	unsigned n_sessions;
	struct fc_facts elsewhere;	/* of the last session that began or ended, whosever: for lies */
	struct fc_lies *lies;
};
extern struct fc_client fc_client;

/* ---- handle.c ---- */
struct fc_handle *fc_handle_new(unsigned long number);
struct fc_handle *fc_handle_find(unsigned long number);	/* or NULL; never one beside another */
void fc_handle_free(struct fc_handle *h);		/* unanswered ops get ECANCELED */
struct fc_op *fc_op_new(struct fc_handle *h, enum fc_ask ask, const char *tag, void (*done)(struct fc_op *));
/*
 * Begins it; it is done at once or later. fc_start is for FC_CONNECT and FC_HAGGLE, fc_ask for all others. The op belongs to
 * the client from then on.
 */
void fc_start(struct fc_op *op, const char *uri);
void fc_ask(struct fc_op *op);
void fc_fail(struct fc_op *op, const char *error);	/* notes it, if it is the first */
void fc_finish(struct fc_op *op);			/* takes it off its session, tells the user, frees it */
/* The session is over, with this for what is unanswered; fc_reap then answers it, and frees the session. */
void fc_over(struct fc_session *s, const char *error);
void fc_reap(struct fc_handle *h);
/* Bad: the server broke a rule, and the session is over, unless a lie puts up with it. True: the session goes on. */
bool fc_sound(struct fc_session *s, bool sound, const char *rule);
bool fc_is_connected(const struct fc_handle *h);
uint16_t fc_flags(const struct fc_facts *f);		/* transmission flags, as far as they hold */

/* ---- beside.c ---- */
struct fc_handle *fc_first(struct fc_handle *h);
struct fc_handle *fc_pick(struct fc_handle *h);		/* for the next command, or the first where none is connected */
bool fc_is_beside(const struct fc_handle *h);		/* one beside it is connected */
/* The connect, or GO, has succeeded. True: the user is told of it once the others are connected, too. */
bool fc_join(struct fc_op *op);
void fc_stop_joining(struct fc_handle *h);		/* the first is over */
void fc_part(struct fc_op *op);				/* the disconnect of all */

/* ---- stream.c ---- */
void fc_connect(struct fc_session *s, const char *uri);
void fc_flush(struct fc_session *s);			/* sends what it can */
void fc_set_limit(struct fc_session *s);		/* it ends within FC_PATIENCE_MS */
/* First: what is to be watched beside the sessions, or -1. */
void fc_watch_input(int fd);
/* Waits for something to happen, and lets it. True: the input is readable. */
bool fc_turn(void);

/* ---- tls.c ---- */
/* What the URI says; false: why it cannot be, as an errno's name. */
bool fc_load_credentials(struct fc_session *s, const struct nbd_uri *u, char error[40]);
void fc_secure(struct fc_session *s);			/* NBD_OPT_STARTTLS was acknowledged */
void fc_go_on_securing(struct fc_session *s);
void fc_shut_tls(struct fc_session *s);			/* if it is up: we send no more */
ssize_t fc_recv(struct fc_session *s, void *data, size_t len);	/* as recv() */
ssize_t fc_send_bytes(struct fc_session *s, const void *data, size_t len);	/* as send() */

/* ---- handshake.c ---- */
/* Each takes one message off the input: false when there is none yet. */
bool fc_take_greeting(struct fc_session *s);
/* A word of the answer, escaped. */
void fc_put_word(struct buf *b, struct bytes text);
bool fc_take_option_reply(struct fc_session *s);
bool fc_take_export_name_reply(struct fc_session *s);
void fc_next_option(struct fc_session *s);		/* of the first op, if none waits for its reply */
void fc_abort_haggling(struct fc_session *s);

/* ---- transmission.c ---- */
void fc_command(struct fc_op *op);			/* checks it, and queues it */
/* Its session is over. True: it is queued on another connection of its handle. */
bool fc_send_again(struct fc_op *op);
void fc_send_requests(struct fc_session *s);
void fc_disconnect(struct fc_session *s);		/* NBD_CMD_DISC, now */
void fc_drop_unsent(struct fc_session *s, const char *error);	/* it is answered to what is not sent yet */
struct fc_op *fc_op_in_flight(struct fc_session *s, uint64_t cookie);
bool fc_asks_for(const struct fc_op *op, const struct fc_context *c);	/* a BLOCK_STATUS */

/* ---- reply.c ---- */
void fc_name_of_error(uint32_t error, char text[40]);	/* "EIO" */
bool fc_take_reply(struct fc_session *s);

/* What has come and is not taken yet. */
static inline struct wire
fc_input(const struct fc_session *s)
{
	return wire(s->in.at + s->in_at, s->in.len - s->in_at);
}

static inline bool
fc_has(const struct fc_session *s, size_t n)
{
	return s->in.len - s->in_at >= n;
}

#endif
