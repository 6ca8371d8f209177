/* TLS of the fake client: what its URI says of it, and the way from clear text to it. */
#include "fakeserver/client/lying.h"
#include "harness/uri.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static bool
load(struct fc_session *s, const struct nbd_uri *u)
{
	char why[TLS_ERROR];
	const char *host = u->tls_hostname != NULL ? u->tls_hostname : u->transport == URI_TCP ? u->host : NULL;

	s->credentials = target_tls_read(u->tls_certificates, u->tls_psk_file, u->user, why);
	if (s->credentials == NULL) {
		fprintf(stderr, "nbdspec driver: %s\n", why);
		return false;
	}
	s->credentials->verify = u->tls_verify_peer == NULL || strcmp(u->tls_verify_peer, "false") != 0;
	s->credentials->hostname = host != NULL ? strdup(host) : NULL;
	return true;
}

bool
fc_load_credentials(struct fc_session *s, const struct nbd_uri *u, char error[40])
{
	if (u->tls)
		s->settings.tls = FC_TLS_REQUIRED;
	snprintf(error, 40, "EINVAL");
	/* Who never starts TLS need not read any. */
	return (s->settings.tls == FC_TLS_OFF && u->tls_certificates == NULL && u->tls_psk_file == NULL) || load(s, u);
}

void
fc_secure(struct fc_session *s)
{
	struct wire behind = fc_input(s);

	if (s->credentials == NULL && !load(s, &(struct nbd_uri){ .transport = URI_UNIX })) {
		fc_over(s, "EINVAL");
		return;
	}
	s->tls_setup = target_tls_setup(s->credentials);
	fc_lie_state(s, FC_STATE_SECURING);
	if (s->stage != FC_OPTIONS || s->skips_tls)
		return;
	/* What has come behind the ACK belongs to TLS (proto.md:574-576). */
	s->tls = tls_new(s->fd, &s->tls_setup, (struct bytes){ behind.at, s->keeps_input ? 0 : behind.left });
	if (!s->keeps_input)
		s->in_at = s->in.len;
	s->stage = FC_SECURING;
	fc_go_on_securing(s);
}

/* Nothing that was agreed in clear holds from here on (proto.md:1236-1239). */
static void
secured(struct fc_session *s)
{
	s->secured = s->facts.tls = true;
	s->facts.structured = s->facts.extended = false;
	fc_contexts_reset(&s->facts);
	buf_clear(&s->selected_for);
	fc_lie_state(s, FC_STATE_SECURED);
}

void
fc_go_on_securing(struct fc_session *s)
{
	enum tls_progress p = tls_handshake(s->tls);

	s->tls_writes = p == TLS_WANTS_WRITE;
	if (p == TLS_WANTS_READ || p == TLS_WANTS_WRITE)
		return;
	s->stage = FC_OPTIONS;
	if (p == TLS_UP) {
		secured(s);
	} else {
		fprintf(stderr, "nbdspec driver: the TLS handshake has failed: %s\n", tls_why(s->tls));
		fc_lie_state(s, FC_STATE_NOT_SECURED);
		if (!s->survives_tls) {
			fc_over(s, "EPROTO");
			return;
		}
	}
	fc_next_option(s);
}

void
fc_shut_tls(struct fc_session *s)
{
	if (!s->secured || s->was_shut)
		return;
	s->was_shut = true;
	fc_lie_state(s, FC_STATE_CLOSING);
	if (!s->drops_tls)
		tls_shut(s->tls);
}

static bool
clear_text_waits(const struct fc_session *s)
{
	uint8_t first;

	/* The types of TLS records are 20 to 23. */
	return recv(s->fd, &first, 1, MSG_PEEK) == 1 && (first < 20 || first > 23);
}

ssize_t
fc_recv(struct fc_session *s, void *data, size_t len)
{
	if (!s->secured || (s->takes_clear && clear_text_waits(s)))
		return recv(s->fd, data, len, 0);
	return tls_recv(s->tls, data, len);
}

ssize_t
fc_send_bytes(struct fc_session *s, const void *data, size_t len)
{
	return s->secured && !s->sends_clear ? tls_send(s->tls, data, len) : send(s->fd, data, len, MSG_NOSIGNAL);
}
