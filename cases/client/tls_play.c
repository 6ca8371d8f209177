#include "cases/client/tls_play.h"

#include "fakeserver/core.h"
#include "harness/nbd.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define REPLY      "\0\3\xe8\x89\4\x55\x65\xa9"
#define TO(option) "\0\0\0" option
#define ACK        "\0\0\0\1\0\0\0\0"

const struct tls_named_play tls_failings[N_TLS_FAILINGS] = {
	{ "a reply in clear", { .no_tls = true, .behind = BYTES(REPLY TO("\5") ACK) } },
	{ "zeroes", { .no_tls = true, .behind = BYTES("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0") } },
	{ "an alert", { .no_tls = true, .behind = BYTES("\25\3\3\0\2\2\50") } },
	{ "application data", { .no_tls = true, .behind = BYTES("\27\3\3\0\20IHAVEOPT\0\0\0\3\0\0\0\0") } },
	{ "the end", { .no_tls = true, .closes = true } },
	{ "the end amid ServerHello", { .no_tls = true, .answer = BYTES("\26\3\3\0\172\2\0\0\166\3\3") } },
};

const struct tls_named_play tls_injected[N_TLS_INJECTED] = {
	{ "STRUCTURED_REPLY, ACK", { .withholds = true, .behind = BYTES(REPLY TO("\10") ACK) } },
	{ "STRUCTURED_REPLY, ERR_UNSUP", { .withholds = true, .behind = BYTES(REPLY TO("\10") "\x80\0\0\1\0\0\0\0") } },
	{ "EXTENDED_HEADERS, ERR_UNSUP", { .withholds = true, .behind = BYTES(REPLY TO("\13") "\x80\0\0\1\0\0\0\0") } },
	{ "GO, ACK",
	  { .withholds = true,
	    .behind = BYTES(REPLY TO("\7") "\0\0\0\3\0\0\0\14\0\0\0\0\0\0\0\0\x10\0\0\1" REPLY TO("\7") ACK) } },
};

/* ---- the server ---- */

static bool
take_starttls(struct tls_play *p, struct conn *c)
{
	if (p->refusal != 0)
		return say_error(c, p->refusal, "");
	p->n_acks++;
	/* Else the honest server does it, and .behind goes with its ACK. */
	if (!p->no_tls && !p->closes)
		return false;
	say_ack(c);
	if (p->behind.len > 0)
		say_bytes(c, p->behind.at, p->behind.len);
	return p->closes ? say_close(c) : true;
}

/* In clear, past the TLS that is up. */
static bool
reply_in_clear(const struct tls_play *p, struct conn *c)
{
	static const uint8_t zeroes[4096];
	struct buf b = { 0 };

	if (c->structured) {
		wire_put_chunk(&b, &(struct chunk){ .magic = NBD_STRUCTURED_REPLY_MAGIC,
		                                    .flags = NBD_REPLY_FLAG_DONE,
		                                    .type = NBD_REPLY_TYPE_OFFSET_DATA,
		                                    .cookie = c->request->cookie,
		                                    .length = 8u + p->first_data });
		put_be64(&b, c->request->offset);
	} else {
		wire_put_simple_reply(
			&b, &(struct simple_reply){ .magic = NBD_SIMPLE_REPLY_MAGIC, .cookie = c->request->cookie });
	}
	buf_put(&b, zeroes, p->first_data);
	(void)!send(c->out, b.at, b.len, MSG_DONTWAIT | MSG_NOSIGNAL);
	buf_free(&b);
	return say_nothing(c);
}

static bool
is_to_be_garbled(const struct incoming *m)
{
	return m->kind == MSG_OPTION ? m->option.option == NBD_OPT_LIST
	                             : m->kind == MSG_REQUEST && m->request.type == NBD_CMD_READ;
}

static bool
take(void *arg, struct conn *c, const struct incoming *m)
{
	struct tls_play *p = arg;

	if (p->garbage.len > 0 && is_to_be_garbled(m))
		return say_bytes(c, p->garbage.at, p->garbage.len);
	if (m->kind == MSG_REQUEST)
		return p->in_clear && m->request.type == NBD_CMD_READ && reply_in_clear(p, c);
	if (m->kind != MSG_OPTION)
		return false;
	if (m->option.magic == NBD_OPTION_MAGIC && m->option.option == NBD_OPT_STARTTLS && !c->over_tls)
		return take_starttls(p, c);
	if (p->no_tls && p->n_acks > 0) {
		p->talks |= memmem(c->input.at + c->private->taken, c->input.len - c->private->taken, "IHAVEOPT", 8) !=
		            NULL;
		if (p->answer.len == 0)
			return say_nothing(c);
		say_bytes(c, p->answer.at, p->answer.len);
		return say_close(c);
	}
	if (p->keeps && m->option.option == NBD_OPT_ABORT)
		return say_ack(c);
	return p->withholds && c->over_tls && m->option.option != NBD_OPT_ABORT && p->n_over_tls++ == 0 &&
	       say_nothing(c);
}

static void
edit(void *arg, struct conn *c, struct outgoing *m)
{
	const struct tls_play *p = arg;

	if (m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_STARTTLS && !c->over_tls)
		m->extra = p->behind;
}

const struct script *
tls_play_script(struct tls_play *p)
{
	static struct script s;

	s = (struct script){ .take = take, .edit = edit, .clear = true, .arg = p };
	return &s;
}

/* ---- the client ---- */

struct walk {
	struct tls_sent sent;
	bool replied; /* to NBD_OPT_STARTTLS */
};

static void
see_option(struct walk *w, const struct option *o)
{
	w->sent.first = w->sent.n_options++ == 0 ? o->option : w->sent.first;
	if (o->option == NBD_OPT_STARTTLS) {
		w->sent.n_starttls++;
		return;
	}
	w->sent.before += w->sent.n_starttls == 0;
	w->sent.extended_before |= w->sent.n_starttls == 0 && o->option == NBD_OPT_EXTENDED_HEADERS;
	w->sent.behind += w->replied && o->option != NBD_OPT_ABORT;
}

const char *const tls_hosts[N_TLS_HOSTS] = { "localhost", "127.0.0.1" };

const struct tls_only_version tls_versions[N_TLS_VERSIONS] = {
	{ 2, "NORMAL:-VERS-ALL:+VERS-TLS1.2" },
	{ 3, "NORMAL:-VERS-ALL:+VERS-TLS1.3" },
	{ 1, "LEGACY:-VERS-ALL:+VERS-TLS1.1" },
	{ 0, "LEGACY:-VERS-ALL:+VERS-TLS1.0" },
};

void
judge_version(struct test *t, unsigned minor, bool taken)
{
	char text[80];

	snprintf(text, sizeof(text), "the client %s to a server that has TLS 1.%u only",
	         taken ? "connects" : "does not connect", minor);
	if (minor >= 2) {
		EXPECT(t, minor == 2 ? R(tls_version_1_2) : R(tls_version_later), taken, "%s", text);
	} else if (taken) {
		warns(t, R(tls_version_older_off), "%s", text);
		breaks_too(t, R(tls_version_older_configured), text);
	}
}

void
judge_going_on(struct test *t, bool leaves, bool no_session)
{
	static const char text[] =
		"the client goes on in clear where STARTTLS is refused, and its user wants nothing but TLS";

	if (!no_session) {
		warns(t, R(client_tls_endpoint_enforced), "%s", text);
		breaks_too(t, R(client_tls_only_terminates), text);
	} else if (!leaves) {
		warns(t, R(client_tls_only_terminates), "%s", text);
	}
}

struct tls_sent
tls_sent(struct wire records)
{
	struct walk w = { .replied = false };
	struct option_reply reply;
	struct trace_record r;
	struct option option;

	while (trace_next(&records, &r)) {
		if (r.kind != TRACE_MESSAGE)
			continue;
		if (r.message == MSG_OPTION) {
			wire_get_option(wire_over(r.data), &option);
			if (option.magic == NBD_OPTION_MAGIC)
				see_option(&w, &option);
		} else if (r.message == MSG_OPTION_REPLY) {
			wire_get_option_reply(wire_over(r.data), &reply);
			w.replied |= reply.option == NBD_OPT_STARTTLS;
		} else if (r.message == MSG_REQUEST) {
			w.sent.n_requests++;
		}
	}
	return w.sent;
}
