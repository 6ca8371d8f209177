/* NBD_OPT_ABORT: acknowledged, whatever came before it; then the client goes. */
#include "harness/test.h"

#include <stdio.h>
#include <string.h>

static void
recv_ack(struct test *t)
{
	struct option_reply r = recv_option_reply(t, R(abort_acked));

	if (r.type == NBD_REP_ERR_UNSUP)
		broken(t, R(baseline_abort), "the server answers NBD_OPT_ABORT with NBD_REP_ERR_UNSUP");
	EXPECT_REPLY(t, R(abort_acked), r.type, NBD_REP_ACK);
}

/* proto.md:1194 */
CASE(abort, acked, "ABORT as the first option is answered with ACK, and the next client is served", R(abort_acked),
     R(baseline_abort), R(rep_ack_empty), R(option_reply_length))
{
	open_fixed_newstyle(t);
	send_option(t, NBD_OPT_ABORT, NULL, 0);
	recv_ack(t);
	expect_next_client_served(t, R(handshake_no_hard_disconnect));
}

CASE(abort, acked_once, "Behind the ACK to ABORT nothing more comes, and when the client goes, so does the server",
     R(abort_acked), R(abort_closing_client_graceful))
{
	open_fixed_newstyle(t);
	send_option(t, NBD_OPT_ABORT, NULL, 0);
	recv_ack(t);
	shut_write(t);
	if (!peer_goes_on(t, R(abort_closing_client_graceful)))
		return;
	recv_option_reply(t, R(abort_acked));
	broken(t, R(abort_acked), "there is a second reply to NBD_OPT_ABORT");
}

/* ---- after other options ---- */

enum before { AFTER_UNKNOWN_OPTION, AFTER_LIST, AFTER_INFO, AFTER_UNKNOWN_INFO, AFTER_STRUCTURED_REPLY, N_BEFORE };

static const char *const before_text[] = {
	"unknown-option", "LIST", "INFO", "INFO-of-no-export", "STRUCTURED_REPLY",
};

/* What the answer to each of these is, other cases judge. */
static void
send_before(struct test *t, enum before b)
{
	unsigned n;

	switch (b) {
	case AFTER_UNKNOWN_OPTION:
		expect_in_step(t, R(next_message_parsed));
		break;
	case AFTER_LIST:
		send_option(t, NBD_OPT_LIST, NULL, 0);
		recv_final_reply(t, R(list_replies), NBD_REP_SERVER, &n);
		break;
	case AFTER_INFO:
	case AFTER_UNKNOWN_INFO:
		send_go(t, NBD_OPT_INFO, b == AFTER_INFO ? export_name(t) : unknown_export_name(), NULL, 0);
		recv_infos(t, R(option_gets_reply));
		break;
	default:
		send_option(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		recv_option_reply(t, R(option_gets_reply));
	}
}

CASE(abort, acked_after_other_options,
     "ABORT is answered with ACK after other options, whether they were refused or answered", R(abort_acked))
{
	for (int b = 0; b < N_BEFORE; b++)
		POINT(t, "after=%s", before_text[b]) {
			open_fixed_newstyle(t);
			send_before(t, (enum before)b);
			send_option(t, NBD_OPT_ABORT, NULL, 0);
			recv_ack(t);
		}
}

/*
 * We break a MUST: the client goes after its first ABORT (proto.md:226). So the server may have gone, or may wait for
 * our end, which it gets; if it still answers, it answers an ABORT.
 */
CASE(abort, twice, "A second ABORT after the ACK is answered with ACK or not at all, and the next client is served",
     R(abort_acked), R(abort_closing_client_graceful), R(handshake_no_hard_disconnect))
{
	open_fixed_newstyle(t);
	send_option(t, NBD_OPT_ABORT, NULL, 0);
	recv_ack(t);
	send_option(t, NBD_OPT_ABORT, NULL, 0);
	shut_write(t);
	if (peer_goes_on(t, R(abort_closing_client_graceful)))
		recv_ack(t);
	expect_next_client_served(t, R(handshake_no_hard_disconnect));
}

/* ---- data ---- */

/* proto.md:1197: sending data only breaks a SHOULD NOT of ours, which is no reason to disconnect. */
CASE(abort, data_is_ignored, "ABORT with data is answered with ACK all the same", R(abort_ignores_data), R(abort_acked))
{
	static const unsigned sizes[] = { 1, 16, 512, 4096 };
	static uint8_t data[4096];
	struct option_reply r;

	memset(data, 'a', sizeof(data));
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		POINT(t, "bytes=%u", sizes[i]) {
			open_fixed_newstyle(t);
			send_option(t, NBD_OPT_ABORT, data, sizes[i]);
			r = recv_option_reply(t, R(abort_acked));
			EXPECT_REPLY(t, R(abort_ignores_data), r.type, NBD_REP_ACK);
		}
}

/* ---- clients that do not wait ---- */

static void
open_after_abort(struct test *t, uint32_t client_flags)
{
	open_connection(t);
	if (!peer_goes_on(t, R(abort_closing_client_graceful)))
		broken(t, R(abort_closing_client_graceful), "the next client is turned away");
	recv_greeting(t);
	send_client_flags(t, client_flags);
	expect_in_step(t, R(abort_closing_client_graceful));
}

/* Which of them the ACK still meets is a matter of chance, so there are several. */
CASE(abort, client_does_not_wait, "Clients that send ABORT and close at once do no harm: the next client is served",
     R(abort_closing_client_graceful), R(handshake_no_hard_disconnect))
{
	static const char data[64];
	uint32_t flags;

	need_connections(t);
	open_fixed_newstyle(t);
	flags = t->s->client_flags;
	for (int i = 0; i < 8; i++) {
		send_option(t, NBD_OPT_ABORT, data, i % 2 == 0 ? 0 : sizeof(data));
		disconnect(t);
		open_after_abort(t, flags);
	}
	expect_next_client_served(t, R(abort_closing_client_graceful));
}
