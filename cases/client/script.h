/*
 * A server that follows a script: the fake server, honest but where the case takes a message over and answers itself, or
 * changes what would be sent. It is served while an answer is waited for, and traced, as any other; the referee takes it as it finds it.
 *
 *	static bool
 *	refuse_go(void *arg, struct conn *c, const struct incoming *m)
 *	{
 *		if (m->kind == MSG_OPTION && m->option.option == NBD_OPT_GO)
 *			return say_error(c, NBD_REP_ERR_UNSUP, "");
 *		return false;
 *	}
 *
 *	drive_serve(d, "", NULL);
 *	drive_follow(d, &(struct script){ .take = refuse_go });
 */
#ifndef NBDSPEC_CASES_SCRIPT_H
#define NBDSPEC_CASES_SCRIPT_H

#include "cases/client/drive.h"

struct script {
	/* What the client has sent. True: it is dealt with, and the honest server does nothing about it. */
	bool (*take)(void *arg, struct conn *c, const struct incoming *m);
	/* What the honest server is about to send, to be changed. */
	void (*edit)(void *arg, struct conn *c, struct outgoing *m);
	bool clear;	/* asked in clear text as well, where all sessions are over TLS */
	void *arg;
};

/* From now until the next drive_serve, which stands before it. The script is copied; connections are dropped. */
void drive_follow(struct drive *d, const struct script *script);
/* The same for a server that is about to be started: there is one script at a time. */
void script_follow(struct fake_config *config, const struct script *script);

/*
 * What a script says; in .take only. Lengths go right by themselves; the option, or the request, is that which has come.
 * Each returns true.
 */
bool say_message(struct conn *c, struct outgoing *m);
bool say_reply(struct conn *c, uint32_t type, const void *data, size_t len);
bool say_ack(struct conn *c);
bool say_error(struct conn *c, uint32_t type, const char *text);	/* "" for no text */
bool say_server(struct conn *c, struct bytes name, struct bytes details);
bool say_info(struct conn *c, uint16_t type, const void *data, size_t len);
bool say_export(struct conn *c, const struct fake_export *e);		/* NBD_INFO_EXPORT */
bool say_block_size(struct conn *c, uint32_t minimum, uint32_t preferred, uint32_t maximum);
bool say_context(struct conn *c, uint32_t id, struct bytes name);
bool say_entered(struct conn *c, struct fake_export *e);		/* nothing: the session is in transmission */
bool say_simple(struct conn *c, uint32_t error, const void *data, size_t len);
bool say_chunk(struct conn *c, uint16_t flags, uint16_t type, const void *data, size_t len);
bool say_bytes(struct conn *c, const void *data, size_t len);		/* that are no message */
bool say_close(struct conn *c);		/* once all that was said is sent */
bool say_nothing(struct conn *c);

#endif
