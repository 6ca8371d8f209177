/* The state of the referee, shared by its three files: the handshake, the transmission, what the server said. */
#ifndef NBDSPEC_REFEREE_PRIVATE_H
#define NBDSPEC_REFEREE_PRIVATE_H

#include "cases/client/referee.h"

/* Where the client is, by what it has sent and was told. */
enum stage {
	STAGE_GREETING,
	STAGE_CLIENT_FLAGS,
	STAGE_HAGGLING,
	STAGE_TRANSMISSION,
	STAGE_ABORTED,		/* NBD_OPT_ABORT was sent */
	STAGE_DISCONNECTED,	/* NBD_CMD_DISC was sent */
	STAGE_LOST,		/* the client's bytes are no messages any more */
};

struct pending {
	uint64_t cookie, offset;
	uint16_t type, flags;
	uint64_t length;	/* of the effect */
	uint64_t content;	/* bytes that content chunks have described */
	unsigned contents, statuses;
	unsigned owed_statuses;	/* of a BLOCK_STATUS */
	bool failed;
};

/* What the client could know of an export when it entered transmission. */
struct export_terms {
	bool known;		/* the rest is there, and cannot be read in two ways */
	uint64_t size;
	uint16_t flags;
	bool constrained;	/* the client asked for size constraints in NBD_OPT_GO, and got these */
	struct info_block_size block;
	bool has_contexts;
};

struct session {
	struct session *next;
	struct referee *ref;
	uint16_t connection;
	enum stage stage;
	bool oldstyle, server_fixed, client_fixed, no_zeroes;
	bool server_broke;	/* the client may leave as it likes */
	bool blurred;		/* the client may have read something else than we did */
	bool closed;		/* by either side */
	bool left;		/* by the client, before the server */
	bool was_reset;
	bool judged;		/* how it left */
	struct buf rest;	/* bytes of the client that were no whole message, the first of them */
	uint32_t rest_length;

	/* the last option */
	bool awaits_reply;
	uint32_t option;
	bool asked_block_size;
	bool has_info, has_block;
	struct info_export info;
	struct info_block_size block;
	struct buf name;	/* the export that it names */
	unsigned n_contexts;	/* that were returned for it */

	/* the handshake */
	bool structured, structured_before_tls, tls;
	bool awaits_tls;	/* NBD_OPT_STARTTLS was acknowledged, and nothing has come since: its handshake may fail */
	bool starttls_sent, starttls_refused, tls_demanded, shutdown;
	bool extended_asked, extended, extended_before_tls;	/* headers */
	bool info_without_block_size, honours_block_size;
	bool go_sent, listed, export_name_sent;
	bool go_unsupported;		/* NBD_REP_ERR_UNSUP */
	bool go_refused, info_refused;	/* as an option, not for what it asked */
	bool set_contexts, contexts_before_tls;
	struct buf context_name;	/* the export of the last NBD_OPT_SET_META_CONTEXT */
	unsigned n_selected;		/* contexts, by it */

	/* transmission */
	struct export_terms terms;
	struct pending *pending;
	size_t n_pending, cap_pending;
	bool eshutdown, unexpected_error;
	bool had_request;
	uint16_t last_type;	/* of the last request, and its length */
	uint64_t last_length;
	uint64_t last_command;	/* when it came: the referee's count of commands; 0: none yet */
};

struct referee {
	struct referee_setup setup;
	referee_broken *broken;
	void *arg;
	struct session *sessions;	/* the newest first */
	uint64_t commands;
};

#define RULES(...) ((const enum requirement_id[]){ __VA_ARGS__, REQUIREMENT_NONE })
void accuse(struct session *s, const enum requirement_id *rules, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Replies come in chunks, structured or extended. */
static inline bool
in_chunks(const struct session *s)
{
	return s->structured || s->extended;
}

/* Of a request, as the session has agreed it. */
static inline size_t
request_header(const struct session *s)
{
	return s->extended ? EXTENDED_REQUEST_SIZE : REQUEST_SIZE;
}

static inline void
get_request(const struct session *s, struct wire w, struct request *m)
{
	if (s->extended)
		wire_get_extended_request(w, m);
	else
		wire_get_request(w, m);
}

/* referee_handshake.c */
void judge_client_flags(struct session *s, uint32_t flags);
void judge_option(struct session *s, const struct trace_record *r);
void judge_bad_option_magic(struct session *s, uint64_t magic);
void judge_handshake_left(struct session *s);

/* referee_transmission.c */
void judge_request(struct session *s, const struct trace_record *r);
void judge_transmission_left(struct session *s);
const char *how_left(const struct session *s);

/* referee_server.c: what the server said, and whether it may say so */
void hear_server(struct session *s, const struct trace_record *r);
struct pending *pending_of(struct session *s, uint64_t cookie);
bool same_export(const struct buf *a, const struct buf *b);

#endif
