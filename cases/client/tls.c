/* TLS of a client, through its driver: the way into it, what it is to keep out, and how it ends (proto.md:636-757). */
#include "cases/client/tls_play.h"

#include "cases/client/answers.h"
#include "cases/client/haggle.h"
#include "cases/client/referee.h"
#include "fakeserver/core.h"
#include "fakeserver/listen.h"
#include "harness/client.h"
#include "harness/clock.h"
#include "harness/nbd.h"
#include "harness/uri.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOMENT_MS = 50, STALL_MS = 200, ALLOWED = 2, OFF = 3 /* handles */ };
#define ALL(...) ((const enum requirement_id[]){ __VA_ARGS__, REQUIREMENT_NONE })

/* ---- the server ---- */

enum mode { NOTLS, FORCEDTLS, SELECTIVETLS };

static struct tls_seen seen;

/* nbds://, or nbd:// with what TLS takes beside it. */
static void
lead_to(struct drive *d, struct nbd_uri u, bool tls)
{
	u.export = d->exports[0].name;
	u.tls = tls;
	client_put_credentials(d->client, &u);
	free(d->uri);
	d->uri = uri_format(&u);
}

/* d->uri is nbds://. */
static void
serve(struct drive *d, enum mode mode, const char *settings)
{
	drive_serve(d, settings, NULL);
	seen = (struct tls_seen){ 0 };
	d->config.tls = (struct fake_tls){ .forced = mode == FORCEDTLS, .seen = &seen };
	if (mode != NOTLS)
		d->config.tls.credentials = client_server_credentials(d->client, TLS_NO_FLAW);
	lead_to(d, (struct nbd_uri){ .transport = URI_UNIX, .socket = d->socket }, true);
}

static void
serve_play(struct drive *d, struct tls_play *play)
{
	serve(d, FORCEDTLS, "");
	drive_follow(d, tls_play_script(play));
}

/* In clear, unless the client's user allows TLS. */
static void
lead_in_clear(struct drive *d)
{
	lead_to(d, (struct nbd_uri){ .transport = URI_UNIX, .socket = d->socket }, false);
}

static void
set_tls(struct drive *d, unsigned handle, const char *wish)
{
	drive_needs(d, "set", "tls");
	must(d, R(client_handles_all_tls_modes), handle, "set tls=%s", wish);
}

/* ---- the client ---- */

/* Whatever it says, what it sent behind the ACK was TLS, or these are broken. */
static void
judge_tls(struct drive *d)
{
	drive_records(d);
	for (size_t i = 0; i < seen.n && i < TLS_SEEN_MOST; i++) {
		const struct tls_seen_connection *c = &seen.of[i];

		if (c->clear_text && !c->up)
			broken_all(d->t, ALL(R(client_upgrades_on_ack), R(tls_client_sends_only_tls)),
			           "behind NBD_REP_ACK to NBD_OPT_STARTTLS the client sends what begins no TLS record");
		if (c->clear_text)
			broken(d->t, R(tls_client_sends_only_tls), "once TLS is up the client sends what is no TLS");
	}
}

static bool
connects(struct drive *d, unsigned handle)
{
	bool ok = ask(d, handle, "connect %s", d->uri).result == DRIVER_OK;

	judge_tls(d);
	return ok;
}

static void
read_and_leave(struct drive *d, unsigned handle)
{
	must_read_disk(d, R(baseline_client_read), handle, &d->exports[0], 4096, 8192);
	must(d, R(baseline_client_disc), handle, "disconnect");
	judge_tls(d);
}

static bool
works(struct drive *d, unsigned handle)
{
	bool ok = connects(d, handle);

	if (ok)
		read_and_leave(d, handle);
	else
		ask(d, handle, "close");
	return ok;
}

static void
must_work(struct drive *d, enum requirement_id r, unsigned handle)
{
	EXPECT(d->t, r, connects(d, handle), "the client does not connect");
	read_and_leave(d, handle);
}

/* In TLS 1.3 the client is through before the server has heard of it. */
static bool
was_over_tls(struct drive *d)
{
	drive_records(d);
	return seen.n > 0 && seen.of[seen.n - 1].up;
}

/* The positive control: a client that has no TLS breaks nothing here. */
static struct drive *
drive_with_tls(struct test *t)
{
	struct drive *d = drive_new(t);
	struct driver_answer a;

	if (client_tls(d->client) == NULL)
		skip(t, "TLS", "it is tested with --tls");
	serve(d, FORCEDTLS, "");
	a = ask(d, 1, "connect %s", d->uri);
	judge_tls(d);
	if (a.result == DRIVER_OK)
		read_and_leave(d, 1);
	else
		ask(d, 1, "close");
	drive_finish(d);
	if (a.result != DRIVER_OK)
		skip(t, "TLS", "the client does not connect by nbds://: %s", a.text);
	return d;
}

/* ---- the modes of servers ---- */

CASE_DRIVER(tls_client, in_clear, "A client whose user wants no TLS can use a server that has none",
            R(baseline_client_notls))
{
	struct drive *d = drive_new(t);

	drive_serve(d, "", NULL);
	d->config.tls = (struct fake_tls){ 0 };
	free(d->uri);
	d->uri = uri_format(&(struct nbd_uri){ .transport = URI_UNIX, .socket = d->socket, .export = (char *)"" });
	must(d, R(baseline_client_notls), 1, "connect %s", d->uri);
	connected_must_work(d, R(baseline_client_notls));
	drive_finish(d);
}

/* proto.md:638-639. Where TLS is allowed the session may be over TLS or not, as long as it works. */
CASE_DRIVER(tls_client, modes, "A client that has TLS works with servers in every mode",
            R(client_handles_all_tls_modes), R(client_upgrades_on_ack), R(tls_client_sends_only_tls),
            R(client_tls_endpoint_enforced), R(tls_client_uses_go))
{
	static const struct {
		const char *name, *settings;
		enum mode mode;
		bool allowed, denied;
	} points[] = {
		{ "FORCEDTLS", "", FORCEDTLS, false, false },
		{ "SELECTIVETLS", "", SELECTIVETLS, false, false },
		{ "SELECTIVETLS, a TLS-only export", "tls-only", SELECTIVETLS, false, false },
		{ "NOTLS, where TLS is allowed", "", NOTLS, true, false },
		{ "NOTLS by policy, where TLS is allowed", "", NOTLS, true, true },
		{ "FORCEDTLS, where TLS is allowed", "", FORCEDTLS, true, false },
		{ "SELECTIVETLS, where TLS is allowed", "", SELECTIVETLS, true, false },
		{ "SELECTIVETLS, a TLS-only export, where TLS is allowed", "tls-only", SELECTIVETLS, true, false },
	};
	struct drive *d = drive_with_tls(t);

	for (volatile unsigned i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		POINT(t, "%s", points[i].name) {
			serve(d, points[i].mode, points[i].settings);
			d->config.knob[KNOB_starttls_denied] = points[i].denied;
			if (points[i].allowed) {
				lead_in_clear(d);
				set_tls(d, ALLOWED, "allow");
			}
			must_work(d, R(client_handles_all_tls_modes), points[i].allowed ? ALLOWED : 1);
			EXPECT(t, R(client_tls_endpoint_enforced), points[i].allowed || was_over_tls(d),
			       "the session is in clear, and its user wants nothing but TLS");
			drive_finish(d);
		}
}

/* proto.md:676-692 */
CASE_DRIVER(tls_client, demanded,
            "A client without TLS reports an error to a server that demands it, and may go on with another export",
            R(client_handles_all_tls_modes), R(client_export_tls_reqd_continues))
{
	static const struct {
		const char *name, *settings;
		enum mode mode;
	} points[] = { { "of all", "", FORCEDTLS }, { "of an export", "tls-only", SELECTIVETLS } };
	struct drive *d = drive_with_tls(t);

	d->owed = R(client_handles_all_tls_modes);
	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", points[i].name) {
			serve(d, points[i].mode, points[i].settings);
			lead_in_clear(d);
			set_tls(d, OFF, "off");
			EXPECT(t, R(client_handles_all_tls_modes), !connects(d, OFF),
			       "the client reports a session, and the server has refused it");
			ask(d, OFF, "close");
			let_leave(d);
			drive_finish(d);
		}
	POINT(t, "of one of two exports") {
		drive_needs(d, "haggle", NULL);
		drive_needs(d, "info", NULL);
		serve(d, SELECTIVETLS, "tls-only");
		d->config.n_exports = 1;
		lead_in_clear(d);
		set_tls(d, OFF, "off");
		must(d, R(client_handles_all_tls_modes), OFF, "haggle %s", d->uri);
		must_fail(d, R(client_handles_all_tls_modes), OFF, "info");
		d->exports[0].tls_only = false;
		if (ask(d, OFF, "info").result == DRIVER_OK)
			observe(t, R(client_export_tls_reqd_continues), "the client goes on without TLS");
		ask(d, OFF, "disconnect");
		let_leave(d);
		drive_finish(d);
	}
}

/* proto.md:547-549 */
CASE_DRIVER(tls_client, prior_session, "Whether a server had TLS in the session before says nothing of this one",
            R(client_forgets_prior_session), R(client_handles_all_tls_modes))
{
	static const enum mode order[] = { NOTLS, FORCEDTLS, NOTLS, FORCEDTLS, SELECTIVETLS };
	struct drive *d = drive_with_tls(t);

	drive_needs(d, "set", "tls");
	for (unsigned i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		serve(d, order[i], "");
		lead_in_clear(d);
		set_tls(d, ALLOWED, "allow");
		must_work(d, i == 0 ? R(client_handles_all_tls_modes) : R(client_forgets_prior_session), ALLOWED);
		drive_finish(d);
	}
}

/* ---- NBD_OPT_STARTTLS ---- */

/* proto.md:661-663, 1230, 1239-1241 */
CASE_DRIVER(tls_client, starttls_first,
            "A client whose user wants nothing but TLS sends STARTTLS without data before every other option",
            R(client_starttls_first), R(starttls_no_data), R(starttls_before_stateful), R(tls_client_uses_go))
{
	struct drive *d = drive_with_tls(t);
	static const enum mode modes[] = { FORCEDTLS, SELECTIVETLS };
	struct tls_sent sent;

	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", i == 0 ? "FORCEDTLS" : "SELECTIVETLS") {
			serve(d, modes[i], "");
			if (connects(d, 1))
				read_and_leave(d, 1);
			sent = tls_sent(drive_records(d));
			drive_finish(d);
			EXPECT(t, R(client_starttls_first), sent.n_options == 0 || sent.first == NBD_OPT_STARTTLS,
			       "NBD_OPT_STARTTLS comes behind %u other options", sent.before);
		}
}

/* proto.md:649-650 */
CASE_DRIVER(tls_client, starttls_once, "Once TLS is up STARTTLS is not sent again, whatever the client's user asks for",
            R(client_starttls_once))
{
	struct drive *d = drive_with_tls(t);
	bool haggles = driver_has(d->driver, "haggle", NULL) && driver_has(d->driver, "go", NULL);

	serve(d, FORCEDTLS, "");
	if (haggles) {
		must(d, R(client_handles_all_tls_modes), 1, "haggle %s", d->uri);
		if (driver_has(d->driver, "starttls", NULL))
			ask(d, 1, "starttls");
		ask(d, 1, "list");
		must(d, R(client_handles_all_tls_modes), 1, "go");
	} else {
		must(d, R(client_handles_all_tls_modes), 1, "connect %s", d->uri);
	}
	read_and_leave(d, 1);
	drive_finish(d);
}

/* proto.md:652-653, 1387-1389 */
CASE_DRIVER(tls_client, starttls_late, "What was negotiated before STARTTLS is negotiated again before it is used",
            R(starttls_client_renegotiates), R(client_starttls_any_time))
{
	struct drive *d = drive_with_tls(t);

	drive_needs(d, "starttls", NULL);
	drive_needs(d, "block_status", NULL);
	serve(d, SELECTIVETLS, "");
	lead_in_clear(d);
	set_tls(d, OFF, "off");
	/* So its user wants it. */
	d->excused = R(starttls_before_stateful);
	ask(d, OFF, "set context=base:allocation");
	must(d, R(client_handles_all_tls_modes), OFF, "haggle %s", d->uri);
	must(d, R(client_handles_all_tls_modes), OFF, "starttls");
	EXPECT(t, R(client_handles_all_tls_modes), was_over_tls(d), "'starttls' is answered 'ok', and TLS is not up");
	observe(t, R(client_starttls_any_time), "STARTTLS behind %u other options", tls_sent(drive_records(d)).before);
	must(d, R(client_handles_all_tls_modes), OFF, "go");
	ask(d, OFF, "block_status 0 65536");
	read_and_leave(d, OFF);
	drive_finish(d);
}

/* ---- extended headers ---- */

static void
serve_extended(struct drive *d, enum mode mode)
{
	serve(d, mode, "");
	d->config.knob[KNOB_extended_headers] = true;
}

/* ext:1345 */
CASE_DRIVER(extended_client, starttls_first,
            "A client whose user wants nothing but TLS asks for extended headers behind STARTTLS only",
            R(ext_client_defers_until_tls))
{
	struct drive *d = drive_with_tls(t);
	static const enum mode modes[] = { FORCEDTLS, SELECTIVETLS };

	need_extended_client(d);
	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", i == 0 ? "FORCEDTLS" : "SELECTIVETLS") {
			serve_extended(d, modes[i]);
			want_extended(d);
			must(d, R(client_handles_all_tls_modes), 1, "connect %s", d->uri);
			read_and_leave(d, 1);
			EXPECT(t, R(ext_client_defers_until_tls), !tls_sent(drive_records(d)).extended_before,
			       "NBD_OPT_EXTENDED_HEADERS comes before NBD_OPT_STARTTLS, which makes it void");
			drive_finish(d);
		}
}

static bool
know_them_in_clear_only(void *arg, struct conn *c, const struct incoming *m)
{
	(void)arg;
	return m->kind == MSG_OPTION && m->option.option == NBD_OPT_EXTENDED_HEADERS && c->private->tls != NULL &&
	       say_error(c, NBD_REP_ERR_UNSUP, "");
}

/* ext:1341-1344, 1696. In the second point an extended request behind STARTTLS has no answer. */
CASE_DRIVER(extended_client, starttls_late,
            "Extended headers that were agreed in clear are agreed anew behind STARTTLS",
            R(ext_renegotiated_after_starttls), R(ext_client_falls_back))
{
	struct drive *d = drive_with_tls(t);

	drive_needs(d, "starttls", NULL);
	need_extended_client(d);
	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", i == 0 ? "known over TLS, too" : "unknown over TLS") {
			serve_extended(d, SELECTIVETLS);
			if (i == 1)
				drive_follow(d, &(struct script){ .take = know_them_in_clear_only });
			lead_in_clear(d);
			set_tls(d, OFF, "off");
			if (driver_has(d->driver, "set", "extended"))
				ask(d, OFF, "set extended=on");
			/* So its user wants it. */
			d->excused = R(starttls_before_stateful);
			must(d, R(client_handles_all_tls_modes), OFF, "haggle %s", d->uri);
			must(d, R(client_handles_all_tls_modes), OFF, "starttls");
			EXPECT(t, R(client_handles_all_tls_modes), was_over_tls(d),
			       "'starttls' is answered 'ok', and TLS is not up");
			if (!tls_sent(drive_records(d)).extended_before)
				skip(t, "extended headers", "the client does not ask for extended headers in clear");
			must(d, i == 0 ? R(ext_renegotiated_after_starttls) : R(ext_client_falls_back), OFF, "go");
			must_read_disk(d, R(ext_renegotiated_after_starttls), OFF, &d->exports[0], 4096, 8192);
			read_and_leave(d, OFF);
			drive_finish(d);
		}
}

/* ---- where there is no TLS ---- */

static void
refuse(struct drive *d, const struct refusal *r, bool allowed)
{
	struct tls_play play = { .refusal = r->type };
	struct tls_sent sent;
	bool ok;

	serve(d, SELECTIVETLS, "");
	drive_follow(d, tls_play_script(&play));
	if (allowed) {
		lead_in_clear(d);
		set_tls(d, ALLOWED, "allow");
	}
	ok = works(d, allowed ? ALLOWED : 1);
	sent = tls_sent(drive_records(d));
	let_leave(d);
	judge_going_on(d->t, allowed || sent.behind == 0, allowed || !ok);
	drive_finish(d);
}

/* proto.md:655-659, 667-669, 742-746 */
CASE_DRIVER(tls_client, starttls_refused,
            "Where STARTTLS is refused no TLS handshake follows, and a client whose user wants nothing but TLS leaves",
            R(client_starttls_refused), R(client_tls_only_terminates), R(client_tls_endpoint_enforced),
            R(client_refuses_without_tls), R(client_terminates_without_ack))
{
	struct drive *d = drive_with_tls(t);

	d->owed = R(client_starttls_refused);
	for (volatile unsigned i = 0; i < N_REFUSALS; i++)
		POINT(t, "%s", refusals[i].name)
			refuse(d, &refusals[i], false);
	for (volatile unsigned i = 0; i < 3; i++)
		POINT(t, "%s, where TLS is allowed", refusals[i].name)
			refuse(d, &refusals[i], true);
}

/* proto.md:644-647, 721-728 */
CASE_DRIVER(tls_client, no_fixed_newstyle,
            "Without fixed newstyle no STARTTLS is sent, and a client whose user wants nothing but TLS leaves",
            R(client_starttls_needs_fixed_newstyle), R(client_tls_endpoint_enforced))
{
	struct drive *d = drive_with_tls(t);

	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", i == 0 ? "newstyle" : "oldstyle") {
			serve(d, NOTLS, "");
			d->config.oldstyle = i == 1;
			d->config.knob[KNOB_no_fixed_newstyle] = i == 0;
			EXPECT(t, R(client_tls_endpoint_enforced), !works(d, 1),
			       "the client reports a session in clear, and its user wants nothing but TLS");
			drive_finish(d);
		}
}

/* ---- a handshake that fails ---- */

/* Of the server whose handshake fails. */
static struct tls_play failing;

static bool
talks_in_clear(struct drive *d, int64_t waited)
{
	(void)d;
	(void)waited;
	return failing.talks;
}

/* As connects(), of a server that has nothing to say to who goes on in clear. */
static bool
connects_or_talks(struct drive *d)
{
	struct driver_answer a;

	drive_send(d, 1, "connect %s", d->uri);
	return drive_take_unless(d, &a, talks_in_clear) && a.result == DRIVER_OK;
}

static void
judge_failed(struct drive *d, bool ok)
{
	if (failing.talks)
		broken_all(d->t, ALL(R(tls_client_sends_only_tls), R(tls_client_handshake_failure)),
		           "the client goes on in clear behind NBD_REP_ACK to NBD_OPT_STARTTLS");
	EXPECT(d->t, R(tls_client_handshake_failure), !ok, "the client reports a session");
	ask(d, 1, "close");
	EXPECT(d->t, R(client_terminates_hard), all_ended(d), "the client keeps the connection");
	drive_finish(d);
}

/* proto.md:251-256, 574-576, 671-673 */
CASE_DRIVER(
	tls_client, handshake_fails,
	"Where the TLS handshake fails the client reports an error, drops the connection, and says nothing in clear",
	R(tls_client_handshake_failure), R(client_terminates_hard), R(tls_client_sends_only_tls))
{
	struct drive *d = drive_with_tls(t);

	d->owed = R(tls_client_handshake_failure);
	for (volatile unsigned i = 0; i < N_TLS_FAILINGS; i++)
		POINT(t, "%s", tls_failings[i].name) {
			failing = tls_failings[i].play;
			serve_play(d, &failing);
			judge_failed(d, connects_or_talks(d));
		}
	POINT(t, "nothing, and the end after a while") {
		failing = (struct tls_play){ .no_tls = true };
		serve_play(d, &failing);
		drive_send(d, 1, "connect %s", d->uri);
		drive_pause(d, STALL_MS);
		fake_disconnect(d->fake, 0);
		judge_failed(d, drive_take(d).result == DRIVER_OK);
	}
}

/* By TCP: d->uri leads there. */
static void
serve_tcp(struct drive *d, const char *host)
{
	char error[LISTEN_MAX_ERROR], port[16];
	struct tcp_listeners l;

	serve(d, FORCEDTLS, "");
	if (listen_on_tcp("0", &l, error) != LISTEN_OK)
		skip(d->t, "tcp", "%s", error);
	for (size_t i = 0; i < l.n; i++)
		if (fake_add_listener(d->fake, l.fds[i]) != 0)
			harness_error(d->t, "the fake server does not take a TCP socket");
	snprintf(port, sizeof(port), "%u", l.port);
	lead_to(d, (struct nbd_uri){ .transport = URI_TCP, .host = (char *)host, .port = port }, true);
}

static bool
works_by_tcp(struct drive *d, const char *host)
{
	bool ok;

	serve_tcp(d, host);
	ok = works(d, 1);
	drive_finish(d);
	return ok;
}

/* proto.md:671-673. The authority that the client trusts, and the host's name, are in the URI. */
CASE_DRIVER(tls_client, certificates, "A server whose certificate is not good is left", R(tls_client_handshake_failure))
{
	struct drive *d = drive_with_tls(t);
	volatile unsigned host = 0;

	if (client_server_credentials(d->client, TLS_EXPIRED) == NULL)
		skip(t, "certificates", "the keys are shared before");
	while (host < N_TLS_HOSTS && !works_by_tcp(d, tls_hosts[host]))
		host++;
	if (host == N_TLS_HOSTS)
		skip(t, "tcp", "the client does not connect to localhost by TCP");
	d->owed = R(tls_client_handshake_failure);
	for (volatile unsigned f = TLS_NO_FLAW + 1; f < N_TLS_FLAWS; f++)
		POINT(t, "%s", tls_flaw_name(f)) {
			serve_tcp(d, tls_hosts[host]);
			d->config.tls.credentials = client_server_credentials(d->client, f);
			judge_failed(d, connects(d, 1));
		}
}

/* ---- versions ---- */

static bool
takes_version(struct drive *d, const char *priority)
{
	bool ok;

	serve(d, FORCEDTLS, "");
	d->config.tls.priority = priority;
	ok = works(d, 1);
	drive_finish(d);
	return ok;
}

/* proto.md:711-714 */
CASE_DRIVER(tls_client, versions,
            "The client has TLS 1.2, should have 1.3, and should not have 1.0 and 1.1, unless somebody turned them on",
            R(tls_version_1_2), R(tls_version_later), R(tls_version_older_off), R(tls_version_older_configured))
{
	struct drive *d = drive_with_tls(t);

	for (volatile unsigned i = 0; i < N_TLS_VERSIONS; i++)
		POINT(t, "1.%u", tls_versions[i].minor)
			judge_version(t, tls_versions[i].minor, takes_version(d, tls_versions[i].priority));
}

/* ---- clear text from others ---- */

/* An answer, before an option does: that is waited for, as long as an answer is. */
static bool
comes_over_tls(struct drive *d, const struct tls_play *play, struct driver_answer *a)
{
	int64_t until = now_ms() + (int64_t)(DRIVER_LIMIT_MS * client_factor(d->client));

	while (play->n_over_tls == 0 && now_ms() < until) {
		drive_pause(d, 1);
		if (drive_take_soon(d, a, 0))
			return true;
	}
	return false;
}

/* proto.md:574-576. The reply in clear is for an option that has none over TLS: who goes on has taken it. */
CASE_DRIVER(tls_client, nothing_injected,
            "A reply in clear that comes in one piece with the ACK to STARTTLS answers nothing once TLS is up",
            R(tls_client_takes_only_tls))
{
	struct drive *d = drive_with_tls(t);
	struct driver_answer a = { .result = DRIVER_ERROR };
	struct tls_play play;
	bool answered;

	d->owed = R(tls_client_takes_only_tls);
	for (volatile unsigned i = 0; i < N_TLS_INJECTED; i++)
		POINT(t, "%s", tls_injected[i].name) {
			play = tls_injected[i].play;
			serve_play(d, &play);
			drive_send(d, 1, "connect %s", d->uri);
			answered = comes_over_tls(d, &play, &a) || drive_take_soon(d, &a, MOMENT_MS);
			EXPECT(t, R(tls_client_takes_only_tls), play.n_over_tls < 2,
			       "the first option over TLS has no reply, and the client goes on");
			fake_disconnect(d->fake, 0);
			if (!answered)
				a = drive_take(d);
			EXPECT(t, R(tls_client_takes_only_tls), a.result != DRIVER_OK,
			       "the client reports a session, and the server has said nothing over TLS");
			ask(d, 1, "close");
			drive_finish_as(d, &(struct referee_setup){ .left_unjudged = true });
		}
}

CASE_DRIVER(tls_client, nothing_in_clear, "A reply in clear to a command is no reply once TLS is up",
            R(tls_client_takes_only_tls))
{
	struct drive *d = drive_with_tls(t);
	struct tls_play play = { .in_clear = true, .first_data = 4096 };

	d->owed = R(tls_client_takes_only_tls);
	serve_play(d, &play);
	must(d, R(client_handles_all_tls_modes), 1, "connect %s", d->uri);
	must_fail(d, R(tls_client_takes_only_tls), 1, "read 0 4096");
	ask(d, 1, "close");
	drive_finish_as(d, &(struct referee_setup){ .left_unjudged = true });
}

/* ---- the end ---- */

/* The client begins a session and does something; then the last connection has ended by its doing, and `r` says how. */
static void
expect_shut(struct drive *d, struct tls_play *play, const char *begin, const char *what, enum requirement_id r)
{
	const struct tls_seen_connection *c;

	serve_play(d, play);
	must(d, R(client_handles_all_tls_modes), 1, "%s %s", begin, d->uri);
	ask(d, 1, "%s", what);
	ask(d, 1, "close");
	c = &seen.of[seen.n - 1];
	if (!all_ended(d) || !c->left)
		skip(d->t, "the end", "the client leaves it to the server to close the connection");
	EXPECT(d->t, r, c->shut, "the client closes the connection without close_notify");
	drive_finish_as(d, &(struct referee_setup){ .left_unjudged = true });
}

/* proto.md:226-229. The server waits for it. */
CASE_DRIVER(tls_client, abort_shuts_it_down, "After ABORT the client shuts TLS down before it closes the connection",
            R(client_abort_shuts_tls))
{
	struct drive *d = drive_with_tls(t);
	struct tls_play play = { .keeps = true };

	drive_needs(d, "haggle", NULL);
	expect_shut(d, &play, "haggle", "disconnect", R(client_abort_shuts_tls));
}

/* proto.md:233-236, 441-443. The server has given it reason. */
CASE_DRIVER(tls_client, hard_disconnect_shuts_it_down,
            "A client that disconnects over TLS because of its server should shut it down first",
            R(haggling_disconnect_shuts_tls), R(transmission_disconnect_shuts_tls))
{
	struct drive *d = drive_with_tls(t);
	struct tls_play play = { .garbage = BYTES("\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\0\0\0\0\0\0\0\0") };

	POINT(t, "haggling") {
		drive_needs(d, "haggle", NULL);
		drive_needs(d, "list", NULL);
		expect_shut(d, &play, "haggle", "list", R(haggling_disconnect_shuts_tls));
	}
	POINT(t, "transmission")
		expect_shut(d, &play, "connect", "read 0 4096", R(transmission_disconnect_shuts_tls));
}
