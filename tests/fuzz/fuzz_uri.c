/* NBD URIs: what is accepted survives uri_format; what is refused leaves one printable line and nothing to free. */
/* Seed text: nbd://user@host:10810/a%20b */
/* Seed text: nbds://[::1]:10809/?tls-type=x509&tls-hostname=h */
/* Seed text: nbd+unix:////export?socket=/run/nbd.sock;x=y */
/* Seed text: nbds+vsock://2:10809/ */
#include "harness/uri.h"
#include "tests/fuzz/fuzz.h"

static void
require_same(const struct nbd_uri *a, const struct nbd_uri *b)
{
	const char *const pairs[][2] = {
		{ a->user, b->user },
		{ a->host, b->host },
		{ a->port, b->port },
		{ a->socket, b->socket },
		{ a->export, b->export },
		{ a->tls_certificates, b->tls_certificates },
		{ a->tls_psk_file, b->tls_psk_file },
		{ a->tls_type, b->tls_type },
		{ a->tls_hostname, b->tls_hostname },
		{ a->tls_verify_peer, b->tls_verify_peer },
	};

	REQUIRE(a->transport == b->transport && a->tls == b->tls);
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
		REQUIRE(pairs[i][0] == pairs[i][1] ||
		        (pairs[i][0] != NULL && pairs[i][1] != NULL && strcmp(pairs[i][0], pairs[i][1]) == 0));
}

static void
require_refused(const struct nbd_uri *u, const char error[URI_MAX_ERROR])
{
	const struct nbd_uri empty = { 0 };

	require_same(u, &empty);
	REQUIRE(error[0] != '\0');
	for (const char *p = error; *p != '\0'; p++)
		REQUIRE(p < error + URI_MAX_ERROR && *p >= ' ' && *p <= '~');
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size), error[URI_MAX_ERROR];
	struct nbd_uri u, again;

	if (uri_parse(text, &u, error)) {
		char *formatted = uri_format(&u);

		REQUIRE(uri_parse(formatted, &again, error));
		require_same(&u, &again);
		free(formatted);
		uri_free(&again);
		uri_free(&u);
	} else {
		require_refused(&u, error);
	}
	free(text);
	return 0;
}
