/*
 * Lies: named misbehaviours at the edge of an honest server (design, section 6). One file or one entry each:
 *
 *	// xapi-nbd #63: the padding is sent although NBD_FLAG_C_NO_ZEROES was agreed.
 *	LIE(export_name_keeps_padding, ON_OUTGOING, BREAKS(R(export_name_no_zeroes)),
 *	    "sends 124 zeroes that were negotiated away")
 *	{
 *		if (m->kind == MSG_EXPORT_NAME_REPLY && c->no_zeroes && LIE_NOW)
 *			m->padding = 124;
 *	}
 *
 * A body changes what it is given and nothing else; LIE_NOW counts the turn and weighs the selectors (nth, times,
 * option, command, connection, export), so it stands last in every condition and is asked only where the lie applies.
 */
#ifndef NBDSPEC_LIE_H
#define NBDSPEC_LIE_H

#include "fakeserver/server.h"
#include "harness/requirement.h"

enum lie_place { ON_INCOMING, ON_STATE, ON_OUTGOING, ON_DISK, ON_PROCESS, LIE_PLACES };

/* ON_INCOMING: what was parsed and how much of the stream it took; before the honest server acts on it. */
struct incoming {
	enum message_kind kind;		/* MSG_CLIENT_FLAGS, MSG_OPTION, MSG_REQUEST */
	uint32_t client_flags;
	struct option option;		/* .data borrowed from the connection's input; empty if it was too long to keep */
	struct request request;		/* .data likewise */
	uint64_t consumed;		/* bytes taken off the stream; a lie may take fewer (but one) or more */
	bool ignore;			/* act as if it had never come */
	bool close;			/* disconnect instead */
};

/* ON_STATE: the session's state after a message was carried out (or, at STATE_BEFORE_*, before). */
enum state_moment {
	STATE_CONNECTED,		/* accepted, nothing sent yet */
	STATE_BEFORE_OPTION,
	STATE_AFTER_OPTION,
	STATE_ENTER_TRANSMISSION,
	STATE_BEFORE_REQUEST,
	STATE_AFTER_REQUEST,
	STATE_STARTTLS,			/* acknowledged: what was agreed is about to be forgotten */
	STATE_TLS_FAILED,		/* its handshake: the connection is about to end */
};
struct state_change {
	enum state_moment moment;
	uint32_t option;		/* in option haggling */
	const struct request *request;	/* in transmission */
	bool sets_structured;		/* at STATE_STARTTLS: it is agreed from now on, and what came behind is dropped */
	bool keep_structured, keep_extended, keep_contexts;	/* at STATE_STARTTLS: it is not forgotten */
	bool keep_input;		/* at STATE_STARTTLS: what came behind the option is acted on once TLS is up */
	const char *priority;		/* at STATE_STARTTLS: as fake_tls.priority */
	bool careless;			/* at STATE_STARTTLS: as tls_setup.careless */
	bool go_on;			/* at STATE_TLS_FAILED: in clear */
};

/*
 * ON_OUTGOING: a message before it is encoded, and how it goes onto the wire. What stands in the second union is told
 * by .payload, so that a lie may change .reply.type or .chunk.type and keep the data, or the other way round.
 */
enum outgoing_payload {
	PAYLOAD_RAW,			/* .reply.data or .chunk.data as it stands */
	PAYLOAD_SERVER,
	PAYLOAD_INFO,			/* .info with its own payload */
	PAYLOAD_INFO_EXPORT,		/* .info with .info_export as its payload */
	PAYLOAD_INFO_BLOCK_SIZE,	/* .info with .block_size as its payload */
	PAYLOAD_CONTEXT,
	PAYLOAD_MESSAGE,
	PAYLOAD_OFFSET_DATA,
	PAYLOAD_OFFSET_HOLE,
	PAYLOAD_BLOCK_STATUS,
	PAYLOAD_BLOCK_STATUS_EXT,	/* .block_status, with its extents in 64 bits */
	PAYLOAD_ERROR,
	PAYLOAD_ERROR_OFFSET,
};
enum { EXTENTS_ROOM = 8 };
enum outgoing_after { AFTER_GO_ON, AFTER_CLOSE, AFTER_RESET, AFTER_SILENCE };
struct outgoing {
	enum message_kind kind;		/* MSG_OLDSTYLE_GREETING … MSG_CHUNK; says which member counts */
	union {
		struct oldstyle_greeting oldstyle;
		struct greeting greeting;
		struct export_name_reply export_name;
		struct option_reply reply;
		struct simple_reply simple;
		struct chunk chunk;
	};
	enum outgoing_payload payload;	/* of MSG_OPTION_REPLY and MSG_CHUNK; encoded before the header's length is set */
	union {
		struct rep_server server;
		struct rep_info info;
		struct rep_meta_context context;
		struct bytes message;	/* of an error reply */
		struct chunk_offset_data offset_data;
		struct chunk_offset_hole offset_hole;
		struct chunk_block_status block_status;
		struct chunk_error error;
		struct chunk_error_offset error_offset;
	};
	struct info_export info_export;
	/* Behind .block_status.context_id; may be edited in place, and there is room for EXTENTS_ROOM more. */
	struct extent *extents;
	size_t n_extents;
	struct info_block_size block_size;
	bool extended;			/* of MSG_CHUNK: its header is the extended one */

	uint32_t option;		/* the option that is answered, or 0 */
	const struct request *request;	/* the request that is answered, or NULL */
	bool final;			/* the last message of this answer */

	/* Lengths go right by themselves; these are added to what is right, or to the bytes behind the message. */
	int64_t length_off;		/* added to the length field of the reply's or chunk's header */
	int64_t inner_length_off;	/* added to name_length, message_length or the count of extents */
	size_t padding;			/* zeroes behind an EXPORT_NAME reply; set by the honest server to 0 or 124 */
	struct bytes extra;		/* bytes behind the message, for lies */
	bool swap;			/* every field that is a number is byte-swapped */

	/* Transport. */
	bool drop;			/* never sent; .after holds nevertheless */
	unsigned repeat;		/* sent so many times more */
	size_t cut;			/* only the first n bytes are sent; SIZE_MAX for all */
	size_t split;			/* after n bytes a separate write; 0 for one */
	unsigned delay_ms;		/* it, and all that follows on the connection, waits so long */
	bool hold;			/* held back until the next message has gone out (reorders), or the input ends */
	enum outgoing_after after;	/* once it is sent; AFTER_RESET is a plain close where the transport has no reset */
};

/*
 * ON_DISK: a command before it is carried out, and after it was checked: one that the honest server refuses comes here
 * with its error and with .skip, and a lie may clear either. Offsets past the end read as zeroes and are not written.
 */
struct disk_op {
	const struct request *request;
	uint16_t type, flags;
	uint64_t offset, length;	/* effect length, bytes */
	const uint8_t *data;		/* of a WRITE, so many bytes as the request's length says; NULL if it was too long to keep */
	bool skip;			/* not carried out, success all the same (a READ then gives zeroes) */
	bool twice;
	struct bytes ids;		/* of a BLOCK_STATUS with a payload: the contexts that it names, as they came */
	bool by_payload;		/* it has one */
	bool volatile_only;		/* no FLUSH and no FUA will make it durable */
	uint32_t error;			/* NBD_E…: reported; with skip false the command is carried out nevertheless */
};

/* ON_PROCESS: the server itself. */
enum process_moment { PROCESS_ACCEPT, PROCESS_INCOMING, PROCESS_DISCONNECT, PROCESS_SHUTDOWN, PROCESS_RELOAD };	/* the last two: for each connection */
struct process_event {
	enum process_moment moment;
	enum message_kind kind;		/* at PROCESS_INCOMING */
	uint32_t option;		/* at PROCESS_INCOMING, of an option */
	const struct request *request;	/* at PROCESS_INCOMING, of a request */
	bool die;			/* abort() */
	bool stop_listening;
	bool close_all;			/* every connection is closed */
	bool refuse;			/* at PROCESS_ACCEPT: closed at once */
	bool serve_on;			/* at PROCESS_SHUTDOWN: old clients are served as before */
	struct bytes say;		/* at PROCESS_SHUTDOWN and PROCESS_RELOAD: sent, as it stands */
	bool leak;			/* at PROCESS_DISCONNECT: the descriptor is never closed */
	bool no_close_notify;		/* at PROCESS_DISCONNECT: TLS is not shut down */
};

/* One use of a lie, as --lie NAME:nth=2,times=1,option=LIST,command=READ,connection=1,export=foo,arg=7 says. */
struct lie_use {
	const struct lie *lie;
	unsigned nth;			/* first turn that it lies at, from 1 */
	unsigned times;			/* how many turns it lies at; 0 for all */
	bool has_option, has_command, has_connection;
	uint32_t option;
	uint16_t command;
	unsigned connection;		/* in order of accept, from 1 */
	char *export_name;		/* or NULL */
	uint64_t arg;			/* for lies that take a number; 0 when not given */
	unsigned turns;			/* counted by LIE_NOW */
	bool *occasion;			/* NULL, or: it never lies, and notes here that it had a turn */
};

struct lie {
	const char *name;
	enum lie_place place;
	const enum requirement_id *breaks;	/* ends with REQUIREMENT_NONE */
	const char *text;
	const char *file;
	bool by_chance;				/* its occasion hangs on which of the requests in flight come first */
	union {
		void (*incoming)(struct lie_use *l, struct conn *c, struct incoming *m);
		void (*state)(struct lie_use *l, struct conn *c, struct state_change *m);
		void (*outgoing)(struct lie_use *l, struct conn *c, struct outgoing *m);
		void (*disk)(struct lie_use *l, struct conn *c, struct disk_op *m);
		void (*process)(struct lie_use *l, struct conn *c, struct process_event *m);
	};
};

#define LIE_ARG_ON_INCOMING struct incoming *m
#define LIE_ARG_ON_STATE struct state_change *m
#define LIE_ARG_ON_OUTGOING struct outgoing *m
#define LIE_ARG_ON_DISK struct disk_op *m
#define LIE_ARG_ON_PROCESS struct process_event *m
#define LIE_CALL_ON_INCOMING incoming
#define LIE_CALL_ON_STATE state
#define LIE_CALL_ON_OUTGOING outgoing
#define LIE_CALL_ON_DISK disk
#define LIE_CALL_ON_PROCESS process

#define BREAKS(...) ((const enum requirement_id[]){ __VA_ARGS__, REQUIREMENT_NONE })

#define LIE(ident, where, breaks_, text_) LIE_(ident, where, breaks_, text_, false)
#define LIE_BY_CHANCE(ident, where, breaks_, text_) LIE_(ident, where, breaks_, text_, true)
#define LIE_(ident, where, breaks_, text_, by_chance_)                                                                 \
	static void lie_##ident(struct lie_use *l, struct conn *c, LIE_ARG_##where);                                   \
	static const struct lie lie_def_##ident = {                                                                    \
		.name = #ident, .place = where, .breaks = breaks_, .text = text_, .file = __FILE__,                    \
		.by_chance = by_chance_,                                                                               \
		.LIE_CALL_##where = lie_##ident,                                                                       \
	};                                                                                                             \
	static const struct lie *const lie_entry_##ident __attribute__((used, section("nbdspec_lies"))) =              \
		&lie_def_##ident;                                                                                      \
	static void lie_##ident(struct lie_use *l __attribute__((unused)), struct conn *c __attribute__((unused)),     \
				LIE_ARG_##where)

/* The commonest form: what is done to a message where a condition holds. */
#define OUTGOING_LIE(ident, breaks_, text_, when, ...)                                                                 \
	LIE(ident, ON_OUTGOING, breaks_, text_)                                                                        \
	{                                                                                                              \
		if ((when) && LIE_NOW) {                                                                               \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}
#define INCOMING_LIE(ident, breaks_, text_, when, ...)                                                                 \
	LIE(ident, ON_INCOMING, breaks_, text_)                                                                        \
	{                                                                                                              \
		if ((when) && LIE_NOW) {                                                                               \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}

#define LIE_NOW lie_now(l, c)
bool lie_now(struct lie_use *l, const struct conn *c);

const struct lie *lie_at(size_t i);		/* sorted by name; NULL past the last */
/* Parses NAME[:selector=value,…]; on error one line that says what is wrong and what is allowed. */
bool lie_parse(const char *text, struct lie_use *use, char error[256]);
void lie_use_free(struct lie_use *use);

/* Runs every lie of a place, in the order of the command line. */
void lie_incoming(struct conn *c, struct incoming *m);
void lie_state(struct conn *c, struct state_change *m);
void lie_outgoing(struct conn *c, struct outgoing *m);
void lie_disk(struct conn *c, struct disk_op *m);
void lie_process(struct fake_server *s, struct conn *c, struct process_event *m);

#endif
