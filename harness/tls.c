#include "harness/tls.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum tls_kind { TLS_X509, TLS_PSK };

struct tls_credentials {
	enum tls_kind kind;
	enum tls_role role;
	gnutls_certificate_credentials_t x509;
	gnutls_psk_server_credentials_t psk_server;
	gnutls_psk_client_credentials_t psk_client;
};

struct tls {
	gnutls_session_t session;
	int fd;
	struct buf early; /* not yet taken off: .early_at bytes are */
	size_t early_at;
	struct buf ahead; /* was peeked at */
	size_t ahead_at;
	uint64_t bytes_read, bytes_written;
	struct trace *trace;
	uint16_t connection;
	enum trace_direction sends;
	bool was_shut, broken, sending, clear_text;
	char why[TLS_ERROR];
};

/* ---- credentials ---- */

static struct tls_credentials *
credentials_new(enum tls_role role, enum tls_kind kind)
{
	struct tls_credentials *c = calloc(1, sizeof(*c));

	if (c == NULL)
		abort();
	c->role = role;
	c->kind = kind;
	return c;
}

void
tls_credentials_free(struct tls_credentials *c)
{
	if (c == NULL)
		return;
	if (c->x509 != NULL)
		gnutls_certificate_free_credentials(c->x509);
	if (c->psk_server != NULL)
		gnutls_psk_free_server_credentials(c->psk_server);
	if (c->psk_client != NULL)
		gnutls_psk_free_client_credentials(c->psk_client);
	free(c);
}

static struct tls_credentials *
no_credentials(struct tls_credentials *c, const char *what, int failed, char error[TLS_ERROR])
{
	snprintf(error, TLS_ERROR, "%s: %s", what, gnutls_strerror(failed));
	tls_credentials_free(c);
	return NULL;
}

static gnutls_datum_t
datum_of(const char *text)
{
	return (gnutls_datum_t){ (unsigned char *)text, (unsigned)strlen(text) };
}

struct tls_credentials *
tls_credentials_x509(enum tls_role role, const struct tls_identity *i, char error[TLS_ERROR])
{
	struct tls_credentials *c = credentials_new(role, TLS_X509);
	const char *own = role == TLS_SERVER ? i->server : i->client;
	const char *key = role == TLS_SERVER ? i->server_key : i->client_key;
	gnutls_datum_t pem, key_pem;
	int failed = gnutls_certificate_allocate_credentials(&c->x509);

	if (failed == 0 && i->ca != NULL) {
		pem = datum_of(i->ca);
		failed = gnutls_certificate_set_x509_trust_mem(c->x509, &pem, GNUTLS_X509_FMT_PEM);
	} else if (failed == 0) {
		gnutls_certificate_set_x509_system_trust(c->x509); /* there may be none */
	}
	if (failed < 0)
		return no_credentials(c, "the authority's certificate", failed, error);
	if (own == NULL || key == NULL) {
		if (role == TLS_CLIENT)
			return c;
		snprintf(error, TLS_ERROR, "a server needs a certificate and its key");
		tls_credentials_free(c);
		return NULL;
	}
	pem = datum_of(own);
	key_pem = datum_of(key);
	failed = gnutls_certificate_set_x509_key_mem(c->x509, &pem, &key_pem, GNUTLS_X509_FMT_PEM);
	return failed < 0 ? no_credentials(c, "the certificate and its key", failed, error) : c;
}

struct tls_credentials *
tls_credentials_psk_file(const char *path, char error[TLS_ERROR])
{
	struct tls_credentials *c = credentials_new(TLS_SERVER, TLS_PSK);
	int failed = gnutls_psk_allocate_server_credentials(&c->psk_server);

	if (failed == 0)
		failed = gnutls_psk_set_server_credentials_file(c->psk_server, path);
	return failed < 0 ? no_credentials(c, path, failed, error) : c;
}

/* A client's, of one line, which is taken apart. */
static struct tls_credentials *
of_line(char *line, const char *what, char error[TLS_ERROR])
{
	struct tls_credentials *c = credentials_new(TLS_CLIENT, TLS_PSK);
	char *colon = strchr(line, ':');
	gnutls_datum_t hex;
	int failed;

	line[strcspn(line, "\r\n")] = '\0';
	*colon = '\0';
	hex = datum_of(colon + 1);
	failed = gnutls_psk_allocate_client_credentials(&c->psk_client);
	if (failed == 0)
		failed = gnutls_psk_set_client_credentials(c->psk_client, line, &hex, GNUTLS_PSK_KEY_HEX);
	return failed < 0 ? no_credentials(c, what, failed, error) : c;
}

struct tls_credentials *
tls_credentials_psk_line(const char *line, char error[TLS_ERROR])
{
	char *copy = strdup(line);
	struct tls_credentials *c;

	if (copy == NULL)
		abort();
	c = of_line(copy, "the key", error);
	free(copy);
	return c;
}

static bool
is_of_user(const char *line, const char *user)
{
	const char *colon = strchr(line, ':');

	return line[0] != '#' && colon != NULL &&
	       (user == NULL || (strlen(user) == (size_t)(colon - line) && strncmp(user, line, strlen(user)) == 0));
}

struct tls_credentials *
tls_credentials_psk_user(const char *path, const char *user, char error[TLS_ERROR])
{
	struct tls_credentials *c = NULL;
	FILE *f = fopen(path, "re");
	char *line = NULL;
	size_t cap = 0;
	bool found = false;

	if (f == NULL) {
		snprintf(error, TLS_ERROR, "%.150s: %s", path, strerror(errno));
		return NULL;
	}
	while (!found && getline(&line, &cap, f) > 0)
		found = is_of_user(line, user);
	fclose(f);
	if (found)
		c = of_line(line, path, error);
	else
		snprintf(error, TLS_ERROR, "%.150s: there is no key of %s", path, user != NULL ? user : "anybody");
	free(line);
	return c;
}

/* ---- the socket below ---- */

static void
tell(struct tls *s, bool sent, const void *data, size_t n)
{
	enum trace_direction received = s->sends == TO_SERVER ? TO_CLIENT : TO_SERVER;

	if (s->trace != NULL)
		trace_tls(s->trace, s->connection, sent ? s->sends : received, (struct bytes){ data, n });
}

static ssize_t
pull(gnutls_transport_ptr_t arg, void *data, size_t len)
{
	struct tls *s = arg;
	size_t left = s->early.len - s->early_at;
	ssize_t n;

	if (left > 0) {
		n = (ssize_t)(left < len ? left : len);
		memcpy(data, s->early.at + s->early_at, (size_t)n);
		s->early_at += (size_t)n;
	} else {
		n = recv(s->fd, data, len, MSG_DONTWAIT);
	}
	/* The types of records are 20 to 23. */
	if (n > 0 && s->bytes_read == 0)
		s->clear_text = *(uint8_t *)data < 20 || *(uint8_t *)data > 23;
	if (n > 0) {
		s->bytes_read += (uint64_t)n;
		tell(s, false, data, (size_t)n);
	} else if (n < 0) {
		gnutls_transport_set_errno(s->session, errno);
	}
	return n;
}

static ssize_t
push(gnutls_transport_ptr_t arg, const void *data, size_t len)
{
	struct tls *s = arg;
	ssize_t n = send(s->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n > 0) {
		s->bytes_written += (uint64_t)n;
		tell(s, true, data, (size_t)n);
	} else if (n < 0) {
		gnutls_transport_set_errno(s->session, errno);
	}
	return n;
}

static int
pull_timeout(gnutls_transport_ptr_t arg, unsigned ms)
{
	struct tls *s = arg;
	struct pollfd p = { .fd = s->fd, .events = POLLIN };

	return s->early.len > s->early_at ? 1 : poll(&p, 1, (int)ms);
}

/* ---- a session ---- */

void
tls_must(int failed)
{
	if (failed >= 0)
		return;
	fprintf(stderr, "nbdspec: TLS: %s\n", gnutls_strerror(failed));
	abort();
}

static void
set_credentials(gnutls_session_t session, const struct tls_credentials *c)
{
	if (c->kind == TLS_X509)
		tls_must(gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, c->x509));
	else if (c->role == TLS_SERVER)
		tls_must(gnutls_credentials_set(session, GNUTLS_CRD_PSK, c->psk_server));
	else
		tls_must(gnutls_credentials_set(session, GNUTLS_CRD_PSK, c->psk_client));
}

/* proto.md:712: no version before 1.2, unless somebody says so. */
#define DEFAULT_PRIORITY "NORMAL:-VERS-TLS1.1:-VERS-TLS1.0"

static void
set_priority(gnutls_session_t session, const struct tls_setup *setup)
{
	const char *priority = setup->priority != NULL ? setup->priority : DEFAULT_PRIORITY;
	bool psk = setup->credentials->kind == TLS_PSK;
	char *text;

	if (asprintf(&text, "%s%s", priority, psk ? ":+ECDHE-PSK:+DHE-PSK:+PSK" : "") < 0)
		abort();
	tls_must(gnutls_priority_set_direct(session, text, NULL));
	free(text);
}

static void
set_peer(gnutls_session_t session, const struct tls_setup *setup)
{
	const char *host = setup->hostname;

	if (setup->credentials->kind != TLS_X509)
		return;
	if (setup->credentials->role == TLS_SERVER) {
		gnutls_certificate_server_set_request(session,
		                                      setup->verify ? GNUTLS_CERT_REQUIRE : GNUTLS_CERT_IGNORE);
		if (setup->verify && !setup->careless)
			gnutls_session_set_verify_cert(session, NULL, 0);
		return;
	}
	if (host != NULL)
		tls_must(gnutls_server_name_set(session, GNUTLS_NAME_DNS, host, strlen(host)));
	if (setup->verify)
		gnutls_session_set_verify_cert(session, host, 0);
}

bool
tls_priority_is_valid(const char *priority)
{
	gnutls_priority_t p;
	bool ok = gnutls_priority_init(&p, priority, NULL) == GNUTLS_E_SUCCESS;

	if (ok)
		gnutls_priority_deinit(p);
	return ok;
}

static void
put_hex(FILE *f, const gnutls_datum_t *d)
{
	fputc(' ', f);
	for (unsigned i = 0; i < d->size; i++)
		fprintf(f, "%02x", d->data[i]);
}

static int
tell_secret(gnutls_session_t session, const char *label, const gnutls_datum_t *secret)
{
	struct tls *s = gnutls_session_get_ptr(session);
	gnutls_datum_t client, server;
	size_t len;
	char *line;
	FILE *f = open_memstream(&line, &len);

	if (f == NULL)
		abort();
	gnutls_session_get_random(session, &client, &server);
	fputs(label, f);
	put_hex(f, &client);
	put_hex(f, secret);
	fclose(f);
	trace_tls(s->trace, s->connection, NO_DIRECTION, bytes_of(line));
	free(line);
	return 0;
}

struct tls *
tls_new(int fd, const struct tls_setup *setup, struct bytes early)
{
	struct tls *s = calloc(1, sizeof(*s));
	unsigned role = setup->credentials->role == TLS_SERVER ? GNUTLS_SERVER : GNUTLS_CLIENT;

	if (s == NULL)
		abort();
	s->fd = fd;
	s->trace = setup->trace;
	s->connection = setup->connection;
	s->sends = role == GNUTLS_SERVER ? TO_CLIENT : TO_SERVER;
	put_bytes(&s->early, early);
	tls_must(gnutls_init(&s->session, role | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL));
	set_priority(s->session, setup);
	set_credentials(s->session, setup->credentials);
	set_peer(s->session, setup);
	gnutls_transport_set_ptr(s->session, s);
	if (s->trace != NULL) {
		gnutls_session_set_ptr(s->session, s);
		gnutls_session_set_keylog_function(s->session, tell_secret);
	}
	gnutls_transport_set_pull_function(s->session, pull);
	gnutls_transport_set_push_function(s->session, push);
	gnutls_transport_set_pull_timeout_function(s->session, pull_timeout);
	return s;
}

void
tls_free(struct tls *s)
{
	if (s == NULL)
		return;
	gnutls_deinit(s->session);
	buf_free(&s->early);
	buf_free(&s->ahead);
	free(s);
}

static void
note_failure(struct tls *s, int failed)
{
	gnutls_datum_t text;
	unsigned status;

	s->broken = true;
	if (failed == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR) {
		status = gnutls_session_get_verify_cert_status(s->session);
		if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) == 0) {
			snprintf(s->why, sizeof(s->why), "%s", (const char *)text.data);
			gnutls_free(text.data);
			return;
		}
	}
	if (failed == GNUTLS_E_FATAL_ALERT_RECEIVED)
		snprintf(s->why, sizeof(s->why), "the alert: %s", gnutls_alert_get_name(gnutls_alert_get(s->session)));
	else
		snprintf(s->why, sizeof(s->why), "%s", gnutls_strerror(failed));
}

static enum tls_progress
progress(const struct tls *s)
{
	return gnutls_record_get_direction(s->session) == 0 ? TLS_WANTS_READ : TLS_WANTS_WRITE;
}

enum tls_progress
tls_handshake(struct tls *s)
{
	int failed;

	if (s->broken)
		return TLS_FAILED;
	do
		failed = gnutls_handshake(s->session);
	while (failed == GNUTLS_E_INTERRUPTED || failed == GNUTLS_E_WARNING_ALERT_RECEIVED);
	if (failed == GNUTLS_E_SUCCESS)
		return TLS_UP;
	if (failed == GNUTLS_E_AGAIN)
		return progress(s);
	note_failure(s, failed);
	/* The peer is told why where that is known; whether it takes that is its affair. */
	if (failed != GNUTLS_E_FATAL_ALERT_RECEIVED && failed != GNUTLS_E_PREMATURE_TERMINATION)
		gnutls_alert_send_appropriate(s->session, failed);
	return TLS_FAILED;
}

static ssize_t
fail_as(int error)
{
	errno = error;
	return -1;
}

static ssize_t
receive(struct tls *s, void *data, size_t len)
{
	ssize_t n;

	if (s->was_shut || s->broken)
		return s->was_shut ? 0 : fail_as(EPROTO);
	do
		n = gnutls_record_recv(s->session, data, len);
	while (n == GNUTLS_E_INTERRUPTED || n == GNUTLS_E_WARNING_ALERT_RECEIVED);
	if (n > 0)
		return n;
	if (n == GNUTLS_E_AGAIN)
		return fail_as(EAGAIN);
	if (n == 0)
		s->was_shut = true;
	if (n == 0 || n == GNUTLS_E_PREMATURE_TERMINATION)
		return 0;
	if (n == GNUTLS_E_PULL_ERROR)
		return fail_as(ECONNRESET);
	note_failure(s, (int)n);
	return fail_as(EPROTO);
}

size_t
tls_waiting(const struct tls *s)
{
	return s->ahead.len - s->ahead_at + gnutls_record_check_pending(s->session);
}

ssize_t
tls_recv(struct tls *s, void *data, size_t len)
{
	size_t left = s->ahead.len - s->ahead_at;
	size_t n = left < len ? left : len;

	if (n == 0)
		return receive(s, data, len);
	memcpy(data, s->ahead.at + s->ahead_at, n);
	s->ahead_at += n;
	if (s->ahead_at == s->ahead.len) {
		buf_clear(&s->ahead);
		s->ahead_at = 0;
	}
	return (ssize_t)n;
}

ssize_t
tls_peek(struct tls *s, void *data, size_t len)
{
	size_t left = s->ahead.len - s->ahead_at;
	ssize_t n;

	if (left < len) {
		n = receive(s, buf_grow(&s->ahead, len - left), len - left);
		s->ahead.len -= len - left - (n > 0 ? (size_t)n : 0);
		if (n <= 0 && left == 0)
			return n;
		left = s->ahead.len - s->ahead_at;
	}
	len = left < len ? left : len;
	memcpy(data, s->ahead.at + s->ahead_at, len);
	return (ssize_t)len;
}

ssize_t
tls_send(struct tls *s, const void *data, size_t len)
{
	ssize_t n;

	if (s->broken)
		return fail_as(EPIPE);
	/* A record that was begun is gone on with, whatever we are given. */
	do
		n = s->sending ? gnutls_record_send(s->session, NULL, 0) : gnutls_record_send(s->session, data, len);
	while (n == GNUTLS_E_INTERRUPTED);
	s->sending = n == GNUTLS_E_AGAIN;
	if (n >= 0)
		return n;
	if (n == GNUTLS_E_AGAIN)
		return fail_as(EAGAIN);
	if (n == GNUTLS_E_PUSH_ERROR)
		return fail_as(EPIPE);
	note_failure(s, (int)n);
	return fail_as(EPROTO);
}

enum tls_progress
tls_shut(struct tls *s)
{
	int failed;

	do
		failed = gnutls_bye(s->session, GNUTLS_SHUT_WR);
	while (failed == GNUTLS_E_INTERRUPTED);
	return failed == GNUTLS_E_SUCCESS ? TLS_UP : failed == GNUTLS_E_AGAIN ? progress(s) : TLS_FAILED;
}

bool
tls_was_shut(const struct tls *s)
{
	return s->was_shut;
}

unsigned
tls_version(const struct tls *s)
{
	return (unsigned)gnutls_protocol_get_version(s->session) - GNUTLS_TLS1_0;
}

const char *
tls_why(const struct tls *s)
{
	return s->why;
}

bool
tls_saw_clear_text(const struct tls *s)
{
	return s->clear_text;
}

uint64_t
tls_bytes_read(const struct tls *s)
{
	return s->bytes_read;
}

uint64_t
tls_bytes_written(const struct tls *s)
{
	return s->bytes_written;
}
