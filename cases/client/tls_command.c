/* TLS of a client's command: as tls.c, as far as a command shows it. */
#include "cases/client/tls_play.h"

#include "cases/client/haggle.h"
#include "cases/client/host.h"
#include "harness/nbd.h"
#include "harness/uri.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct tls_seen seen;

/* A host whose command is led to by TLS. */
static struct host *
host_over_tls(struct test *t, bool forced, const char *settings)
{
	struct host *h = host_new(t, settings);
	struct nbd_uri u = {
		.transport = URI_UNIX, .tls = true, .socket = (char *)client_socket(h->client), .export = h->export.name
	};

	seen = (struct tls_seen){ 0 };
	h->config.tls = (struct fake_tls){ .credentials = client_server_credentials(h->client, TLS_NO_FLAW),
		                           .forced = forced,
		                           .seen = &seen };
	client_put_credentials(h->client, &u);
	client_go_to(h->client, &u);
	return h;
}

static struct host *
host_playing(struct test *t, struct tls_play *play)
{
	struct host *h = host_over_tls(t, true, NULL);

	script_follow(&h->config, tls_play_script(play));
	return h;
}

/* Without TLS itself. */
static struct host *
host_without(struct test *t)
{
	struct host *h = host_over_tls(t, false, NULL);

	h->config.tls.credentials = NULL;
	return h;
}

static void
judge_tls(struct host *h)
{
	for (size_t i = 0; i < seen.n && i < TLS_SEEN_MOST; i++)
		if (seen.of[i].clear_text)
			broken_all(h->t,
			           (const enum requirement_id[]){ R(tls_client_sends_only_tls),
			                                          R(client_upgrades_on_ack), REQUIREMENT_NONE },
			           "behind NBD_REP_ACK to NBD_OPT_STARTTLS the client sends what is no TLS");
}

static bool
works(struct host *h, enum requirement_id end)
{
	host_run(h);
	judge_tls(h);
	judge_end(h, end);
	judge_copy(h, R(read_chunks_reassembled));
	return succeeded(h);
}

static void
need_tls_of_command(struct test *t)
{
	struct host *h = host_new(t, NULL);

	if (client_tls(h->client) == NULL)
		skip(t, "TLS", "it is tested with --tls, or {certs} or {psk} in the command");
	h = host_over_tls(t, true, NULL);
	if (!works(h, R(client_handles_all_tls_modes))) {
		judge_rules(h);
		skip(t, "TLS", "the client does not connect over TLS: %s", h->end.text);
	}
}

CASE_CLIENT(tls_command, modes, "A client's command that has TLS works with servers that demand it, and that offer it",
            R(client_handles_all_tls_modes), R(client_upgrades_on_ack), R(tls_client_sends_only_tls),
            R(client_starttls_first), R(starttls_no_data), R(starttls_before_stateful), R(tls_client_uses_go),
            R(client_starttls_once), R(client_tls_endpoint_enforced))
{
	static const char *const names[] = { "FORCEDTLS", "SELECTIVETLS", "SELECTIVETLS, a TLS-only export" };

	need_tls_of_command(t);
	for (volatile unsigned i = 0; i < 3; i++)
		POINT(t, "%s", names[i]) {
			struct host *h = host_over_tls(t, i == 0, i == 2 ? "tls-only" : NULL);
			struct tls_sent sent;

			EXPECT(t, R(client_handles_all_tls_modes), works(h, R(client_handles_all_tls_modes)), "%s",
			       h->end.text);
			sent = tls_sent(host_records(h));
			EXPECT(t, R(client_starttls_first), sent.first == NBD_OPT_STARTTLS,
			       "NBD_OPT_STARTTLS comes behind %u other options", sent.before);
			EXPECT(t, R(client_tls_endpoint_enforced), seen.n > 0 || sent.n_requests == 0,
			       "the session is in clear, and its user wants nothing but TLS");
			judge_rules(h);
		}
}

/* proto.md:655-659, 667-669, 742-746 */
CASE_CLIENT(tls_command, starttls_refused,
            "Where STARTTLS is refused a command that is to use nothing but TLS fails, and asks for nothing in clear",
            R(client_starttls_refused), R(client_tls_only_terminates), R(client_tls_endpoint_enforced))
{
	need_tls_of_command(t);
	for (volatile unsigned i = 0; i < N_REFUSALS; i++)
		POINT(t, "%s", refusals[i].name) {
			struct tls_play play = { .refusal = refusals[i].type };
			struct host *h = host_playing(t, &play);
			struct tls_sent sent;

			works(h, R(client_starttls_refused));
			sent = tls_sent(host_records(h));
			judge_going_on(t, sent.behind == 0, sent.n_requests == 0 && !succeeded(h));
			judge_rules(h);
		}
}

/* proto.md:644-647, 721-728 */
CASE_CLIENT(tls_command, no_fixed_newstyle,
            "Without fixed newstyle no STARTTLS is sent, and a command that is to use nothing but TLS fails",
            R(client_starttls_needs_fixed_newstyle), R(client_tls_endpoint_enforced))
{
	need_tls_of_command(t);
	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", i == 0 ? "newstyle" : "oldstyle") {
			struct host *h = host_without(t);

			h->config.oldstyle = i == 1;
			h->config.knob[KNOB_no_fixed_newstyle] = i == 0;
			EXPECT(t, R(client_tls_endpoint_enforced),
			       !works(h, R(client_tls_endpoint_enforced)) && tls_sent(host_records(h)).n_requests == 0,
			       "the session is in clear, and its user wants nothing but TLS");
			judge_rules(h);
		}
}

static void
judge_failed(struct host *h, const struct tls_play *play)
{
	bool ok = works(h, R(tls_client_handshake_failure));

	if (play != NULL && play->talks)
		broken_all(h->t,
		           (const enum requirement_id[]){ R(tls_client_sends_only_tls), R(tls_client_handshake_failure),
		                                          REQUIREMENT_NONE },
		           "the client goes on in clear behind NBD_REP_ACK to NBD_OPT_STARTTLS");
	EXPECT(h->t, R(tls_client_handshake_failure), !ok, "the client succeeds");
}

/* proto.md:574-576, 671-673 */
CASE_CLIENT(tls_command, handshake_fails,
            "Where the TLS handshake fails the command does, and the client says nothing in clear",
            R(tls_client_handshake_failure), R(tls_client_sends_only_tls))
{
	need_tls_of_command(t);
	for (volatile unsigned i = 0; i < N_TLS_FAILINGS; i++)
		POINT(t, "%s", tls_failings[i].name) {
			struct tls_play play = tls_failings[i].play;
			struct host *h = host_playing(t, &play);

			judge_failed(h, &play);
		}
}

/* The certificate with this flaw; by TCP, unless the name is NULL. */
static struct host *
host_shown(struct test *t, enum tls_flaw flaw, const char *name)
{
	struct host *h = host_over_tls(t, true, NULL);

	h->tcp = name;
	h->config.tls.credentials = client_server_credentials(h->client, flaw);
	return h;
}

/* proto.md:671-673. By {uri} it is by TCP, so that the client knows the host's name. */
CASE_CLIENT(tls_command, certificates, "A server whose certificate is not good is left by the command, which fails",
            R(tls_client_handshake_failure))
{
	volatile unsigned host = 0;
	bool by_tcp, knows_host;

	need_tls_of_command(t);
	by_tcp = client_names(host_new(t, NULL)->client, "{uri}");
	knows_host = by_tcp || client_names(host_new(t, NULL)->client, "localhost");
	if (client_server_credentials(host_new(t, NULL)->client, TLS_EXPIRED) == NULL)
		skip(t, "certificates", "the keys are shared before");
	while (by_tcp && host < N_TLS_HOSTS &&
	       !works(host_shown(t, TLS_NO_FLAW, tls_hosts[host]), R(client_handles_all_tls_modes)))
		host++;
	if (host == N_TLS_HOSTS)
		skip(t, "tcp", "the client does not connect to localhost by TCP");
	for (volatile unsigned f = TLS_NO_FLAW + 1; f < N_TLS_FLAWS; f++)
		POINT(t, "%s", tls_flaw_name(f)) {
			if (f == TLS_OTHER_HOST && !knows_host)
				skip(t, "the host's name",
				     "the command has neither {uri} nor localhost, and need not know it");
			judge_failed(host_shown(t, f, by_tcp ? tls_hosts[host] : NULL), NULL);
		}
}

static bool
takes_version(struct test *t, const char *priority)
{
	struct host *h = host_over_tls(t, true, NULL);
	bool ok;

	h->config.tls.priority = priority;
	ok = works(h, R(tls_version_1_2));
	judge_rules(h);
	return ok;
}

/* proto.md:711-714 */
CASE_CLIENT(tls_command, versions,
            "The client has TLS 1.2, should have 1.3, and should not have 1.0 and 1.1, unless somebody turned them on",
            R(tls_version_1_2), R(tls_version_later), R(tls_version_older_off), R(tls_version_older_configured))
{
	need_tls_of_command(t);
	for (volatile unsigned i = 0; i < N_TLS_VERSIONS; i++)
		POINT(t, "1.%u", tls_versions[i].minor)
			judge_version(t, tls_versions[i].minor, takes_version(t, tls_versions[i].priority));
}

/* proto.md:574-576. Whoever waits for the reply that does not come is ended. */
CASE_CLIENT(tls_command, nothing_injected,
            "A reply in clear that comes in one piece with the ACK to STARTTLS answers nothing once TLS is up",
            R(tls_client_takes_only_tls))
{
	need_tls_of_command(t);
	for (volatile unsigned i = 0; i < N_TLS_INJECTED; i++)
		POINT(t, "%s", tls_injected[i].name) {
			struct tls_play play = tls_injected[i].play;
			struct host *h = host_playing(t, &play);

			h->unlawful = true;
			EXPECT(t, R(tls_client_takes_only_tls),
			       !works(h, R(tls_client_takes_only_tls)) && play.n_over_tls < 2,
			       "the first option over TLS has no reply, and the client goes on");
		}
}
