#include "cases/client/script.h"

#include "fakeserver/core.h"

#include <string.h>

static struct script current;
static bool saying;

/* What leads to TLS is the honest server's, the greeting apart. */
static bool
is_asked(const struct conn *c, enum message_kind kind)
{
	const struct fake_tls *tls = &c->server->config->tls;

	return kind == MSG_GREETING || kind == MSG_CLIENT_FLAGS || current.clear || c->over_tls ||
	       tls->credentials == NULL || !tls->forced;
}

static void
on_incoming(struct lie_use *l, struct conn *c, struct incoming *m)
{
	(void)l;
	if (current.take != NULL && !m->close && is_asked(c, m->kind))
		m->ignore = current.take(current.arg, c, m);
}

static void
on_outgoing(struct lie_use *l, struct conn *c, struct outgoing *m)
{
	(void)l;
	if (current.edit != NULL && !saying && is_asked(c, m->kind))
		current.edit(current.arg, c, m);
}

/* The fake server asks its lies at the seams that a script needs; these have no name, and nobody lists them. */
static const struct lie takes = { .name = "script", .place = ON_INCOMING, .incoming = on_incoming };
static const struct lie edits = { .name = "script", .place = ON_OUTGOING, .outgoing = on_outgoing };
static struct lie_use uses[] = { { .lie = &takes }, { .lie = &edits } };

void
script_follow(struct fake_config *config, const struct script *script)
{
	current = *script;
	config->lies = uses;
	config->n_lies = sizeof(uses) / sizeof(uses[0]);
}

void
drive_follow(struct drive *d, const struct script *script)
{
	script_follow(&d->config, script);
	drive_restart_server(d);
}

/* ---- saying ---- */

bool
say_message(struct conn *c, struct outgoing *m)
{
	saying = true;
	outgoing_send(c, m);
	saying = false;
	return true;
}

bool
say_reply(struct conn *c, uint32_t type, const void *data, size_t len)
{
	struct outgoing m = option_reply_start(c, type, PAYLOAD_RAW);

	m.reply.data = (struct bytes){ data, len };
	return say_message(c, &m);
}

bool
say_ack(struct conn *c)
{
	return say_reply(c, NBD_REP_ACK, NULL, 0);
}

bool
say_error(struct conn *c, uint32_t type, const char *text)
{
	return say_reply(c, type, text, strlen(text));
}

bool
say_server(struct conn *c, struct bytes name, struct bytes details)
{
	struct outgoing m = option_reply_start(c, NBD_REP_SERVER, PAYLOAD_SERVER);

	m.server.name = name;
	m.server.details = details;
	return say_message(c, &m);
}

bool
say_info(struct conn *c, uint16_t type, const void *data, size_t len)
{
	struct outgoing m = option_reply_start(c, NBD_REP_INFO, PAYLOAD_INFO);

	m.info = (struct rep_info){ type, { data, len } };
	return say_message(c, &m);
}

bool
say_export(struct conn *c, const struct fake_export *e)
{
	struct outgoing m = option_reply_start(c, NBD_REP_INFO, PAYLOAD_INFO_EXPORT);

	m.info.type = NBD_INFO_EXPORT;
	m.info_export = (struct info_export){ e->size, session_flags(c, e) };
	return say_message(c, &m);
}

bool
say_block_size(struct conn *c, uint32_t minimum, uint32_t preferred, uint32_t maximum)
{
	struct outgoing m = option_reply_start(c, NBD_REP_INFO, PAYLOAD_INFO_BLOCK_SIZE);

	m.info.type = NBD_INFO_BLOCK_SIZE;
	m.block_size = (struct info_block_size){ minimum, preferred, maximum };
	return say_message(c, &m);
}

bool
say_context(struct conn *c, uint32_t id, struct bytes name)
{
	struct outgoing m = option_reply_start(c, NBD_REP_META_CONTEXT, PAYLOAD_CONTEXT);

	m.context = (struct rep_meta_context){ id, name };
	return say_message(c, &m);
}

bool
say_entered(struct conn *c, struct fake_export *e)
{
	conn_enter_transmission(c, e);
	return true;
}

bool
say_simple(struct conn *c, uint32_t error, const void *data, size_t len)
{
	struct outgoing m = OUTGOING(MSG_SIMPLE_REPLY);

	m.simple = (struct simple_reply){ NBD_SIMPLE_REPLY_MAGIC, error, c->request->cookie, { data, len } };
	m.request = c->request;
	return say_message(c, &m);
}

bool
say_chunk(struct conn *c, uint16_t flags, uint16_t type, const void *data, size_t len)
{
	struct outgoing m = chunk_start(c, c->request, type, PAYLOAD_RAW, false);

	m.chunk.flags = flags;
	m.chunk.data = (struct bytes){ data, len };
	return say_message(c, &m);
}

bool
say_bytes(struct conn *c, const void *data, size_t len)
{
	struct outgoing m = OUTGOING(MSG_RAW);

	m.extra = (struct bytes){ data, len };
	return say_message(c, &m);
}

bool
say_close(struct conn *c)
{
	conn_end(c);
	return true;
}

bool
say_nothing(struct conn *c)
{
	(void)c;
	return true;
}
