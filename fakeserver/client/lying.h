/* What a lie of the fake client is given, and may change. */
#ifndef NBDSPEC_FAKESERVER_CLIENT_LYING_H
#define NBDSPEC_FAKESERVER_CLIENT_LYING_H

#include "fakeserver/client/core.h"
#include "fakeserver/client/lie.h"
#include "harness/nbd.h"

/* CLIENT_ON_SENDING. Option data are encoded from .go or .meta behind the hook, lengths are set right, then changed. */
enum fc_option_data { FC_DATA_RAW, FC_DATA_GO, FC_DATA_META };
struct fc_sending {
	enum message_kind kind;		/* MSG_CLIENT_FLAGS, MSG_OPTION, MSG_REQUEST */
	union {
		struct client_flags flags;
		struct option option;
		struct request request;
	};
	bool extended;			/* of a request: its header is the extended one */
	enum fc_option_data data;
	struct opt_go go;
	struct opt_meta_context meta;
	struct fc_op *op;		/* for which it is; NULL for what the client does of itself */

	bool drop;
	struct bytes before, behind;	/* more bytes */
	int64_t length_off;		/* added to the option's length */
	int64_t inner_length_off;	/* added to name_length */
	bool swap;			/* numbers in little-endian */
	bool close;			/* the connection, once it is sent */
};

/* CLIENT_ON_RECEIVING */
struct fc_receiving {
	enum message_kind kind;		/* MSG_GREETING, MSG_OPTION_REPLY, MSG_EXPORT_NAME_REPLY, MSG_SIMPLE_REPLY, MSG_CHUNK */
	union {
		struct greeting *greeting;
		struct option_reply *option_reply;
		struct export_name_reply *export_name_reply;
		struct simple_reply *simple;
		struct chunk *chunk;
	};
	bool extended;			/* of a chunk: its header is the extended one */
	struct fc_op *op;		/* to which it belongs, or NULL */
	bool ignore;			/* as if it had not come */
	bool leave;			/* closes the connection over it */
};

/* CLIENT_ON_VIOLATION */
struct fc_violation {
	const char *what;		/* the words of the check */
	bool forgive;			/* go on as if nothing were wrong with it */
};

/* CLIENT_ON_STATE */
enum fc_moment {
	FC_STATE_NEW,			/* a session begins; its facts are empty, those of the one before are in handle->before */
	FC_STATE_PORT,			/* of TCP, before it is looked up */
	FC_STATE_CONNECTED,		/* the socket is */
	FC_STATE_FLAGS,			/* the greeting was read, the flags are chosen */
	FC_STATE_BEFORE_OPTION,
	FC_STATE_AFTER_OPTION,		/* its final reply was acted on */
	FC_STATE_SECURING,		/* the TLS handshake is about to begin, as .tls_setup says */
	FC_STATE_SECURED,		/* it is up */
	FC_STATE_NOT_SECURED,		/* it has failed */
	FC_STATE_CLOSING,		/* TLS is about to be shut down */
	FC_STATE_TRANSMISSION,		/* it begins */
	FC_STATE_EOF,			/* the server has closed the connection */
	FC_STATE_END,			/* of the session */
};

/* One use of a lie, as --lie NAME:nth=2,times=1 says. */
struct client_lie_use {
	const struct client_lie *lie;
	unsigned nth, times;		/* from which turn on, from 1; how often, 0 for ever */
	unsigned turns;
	uint64_t memory;		/* of the lie's own */
	bool *occasion;			/* not NULL: it only looks on, and notes here that it would have had its turn */
};

struct fc_lies {
	struct client_lie_use *uses;
	size_t n;
};

/* Parses NAME[:nth=K,times=N]; on error one line that says what is wrong and what is allowed. */
bool client_lie_parse(const char *text, struct client_lie_use *use, char error[256]);
bool client_lie_now(struct client_lie_use *l);
#define CLIENT_LIE_NOW client_lie_now(l)

void fc_lie_command(struct fc_session *s, struct fc_op *op);
void fc_lie_sending(struct fc_session *s, struct fc_sending *m);
void fc_lie_receiving(struct fc_session *s, struct fc_receiving *m);
void fc_lie_violation(struct fc_session *s, struct fc_violation *v);
void fc_lie_state(struct fc_session *s, enum fc_moment moment);
void fc_lie_answer(struct fc_session *s, struct fc_op *op);

/* sending.c: encodes a message behind the lies, and queues it. */
void fc_send(struct fc_session *s, struct fc_sending *m);

#define CLIENT_LIE_ARG_COMMAND struct fc_op *op
#define CLIENT_LIE_ARG_SENDING struct fc_sending *m
#define CLIENT_LIE_ARG_RECEIVING struct fc_receiving *m
#define CLIENT_LIE_ARG_VIOLATION struct fc_violation *v
#define CLIENT_LIE_ARG_STATE int moment
#define CLIENT_LIE_ARG_ANSWER struct fc_op *op
#define CLIENT_LIE_CALL_COMMAND command
#define CLIENT_LIE_CALL_SENDING sending
#define CLIENT_LIE_CALL_RECEIVING receiving
#define CLIENT_LIE_CALL_VIOLATION violation
#define CLIENT_LIE_CALL_STATE state
#define CLIENT_LIE_CALL_ANSWER answer

#define BREAKS(...) ((const enum requirement_id[]){ __VA_ARGS__, REQUIREMENT_NONE })

#define CLIENT_LIE(ident, where, breaks_, text_)                                                                       \
	static void client_lie_##ident(struct client_lie_use *l, struct fc_session *s, CLIENT_LIE_ARG_##where);        \
	static const struct client_lie client_lie_def_##ident = {                                                      \
		.name = #ident, .place = CLIENT_ON_##where, .breaks = breaks_, .text = text_, .file = __FILE__,        \
		.CLIENT_LIE_CALL_##where = client_lie_##ident,                                                         \
	};                                                                                                             \
	static const struct client_lie *const client_lie_entry_##ident                                                 \
		__attribute__((used, section("nbdspec_client_lies"))) = &client_lie_def_##ident;                       \
	static void client_lie_##ident(struct client_lie_use *l __attribute__((unused)),                               \
				       struct fc_session *s __attribute__((unused)), CLIENT_LIE_ARG_##where)

/* What the text leaves to the client, done in the other way than the plain one does it. */
#define CLIENT_HABIT(ident, where, uses_, text_)                                                                       \
	static void client_lie_##ident(struct client_lie_use *l, struct fc_session *s, CLIENT_LIE_ARG_##where);        \
	static const struct client_lie client_lie_def_##ident = {                                                      \
		.name = #ident, .place = CLIENT_ON_##where, .breaks = BREAKS(REQUIREMENT_NONE), .uses = uses_,         \
		.text = text_, .file = __FILE__, .CLIENT_LIE_CALL_##where = client_lie_##ident,                        \
	};                                                                                                             \
	static const struct client_lie *const client_lie_entry_##ident                                                 \
		__attribute__((used, section("nbdspec_client_lies"))) = &client_lie_def_##ident;                       \
	static void client_lie_##ident(struct client_lie_use *l __attribute__((unused)),                               \
				       struct fc_session *s __attribute__((unused)), CLIENT_LIE_ARG_##where)
#define USES(...) BREAKS(__VA_ARGS__)

/* The commonest form: what is done where a condition holds. */
#define CLIENT_LIE_WHERE(ident, where, breaks_, text_, when, ...)                                                      \
	CLIENT_LIE(ident, where, breaks_, text_)                                                                       \
	{                                                                                                              \
		if ((when) && CLIENT_LIE_NOW) {                                                                        \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}

#endif
