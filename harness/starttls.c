/* The steps of a case that lead to TLS. */
#include "harness/test_private.h"

#include <stdio.h>
#include <stdlib.h>

struct target_tls *
need_tls(struct test *t)
{
	struct target_tls *tls = t->private->server->target->tls;

	if (tls == NULL)
		skip(t, "TLS",
		     "nbdspec has nothing to speak TLS with: a URI of nbds://, or a command with {certs} or {psk}");
	return tls;
}

bool
tls_handshake_as(struct test *t, const struct tls_setup *setup)
{
	enum tls_progress p = session_handshake(t, setup);

	if (p == TLS_UP)
		note(t, "TLS 1.%u is up", tls_version(t->s->tls));
	else if (p == TLS_FAILED)
		note(t, "the TLS handshake has failed: %s", tls_why(t->s->tls));
	else
		note(t, "the TLS handshake does not end");
	return p == TLS_UP;
}

void
start_tls(struct test *t, enum requirement_id r)
{
	struct tls_setup setup = target_tls_setup(need_tls(t));
	struct option_reply reply;

	send_option(t, NBD_OPT_STARTTLS, NULL, 0);
	reply = recv_option_reply(t, r);
	EXPECT_REPLY(t, r, reply.type, NBD_REP_ACK);
	if (!tls_handshake_as(t, &setup))
		broken_values(t, R(tls_handshake_after_ack), "a TLS handshake behind NBD_REP_ACK",
		              *tls_why(t->s->tls) != '\0' ? tls_why(t->s->tls) : wait_text(WAIT_TIMED_OUT));
}

bool
is_over_tls(const struct test *t)
{
	const struct target_tls *tls = t->private->server->target->tls;

	return tls != NULL && (tls->always || t->private->over_tls);
}

void
go_over_tls_from_now(struct test *t, bool on)
{
	t->private->over_tls = on;
}

bool
speaks_tls(const struct test *t)
{
	return t->private->server->target->tls != NULL;
}
