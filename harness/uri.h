/*
 * NBD URIs, read as libnbd's nbd_connect_uri(3) reads them, which is how they are written in the wild; the standard is
 * doc/uri.md of NetworkBlockDevice/nbd. What libnbd 1.14 passes over in silence is an error here, because the suite
 * would test another server than the one that was meant: a port without a host (libnbd goes to port 10809), a port
 * beyond 65535 (taken modulo 65536), %00 (the text ends there), an empty [] or socket=, a vsock CID that is only partly
 * a number.
 */
#ifndef NBDSPEC_URI_H
#define NBDSPEC_URI_H

#include <stdbool.h>

#define URI_MAX_ERROR    256
#define URI_DEFAULT_PORT "10809"

enum uri_transport { URI_TCP, URI_UNIX, URI_VSOCK };

/* Every string is decoded, NUL-terminated and owned by the struct; NULL when the URI does not say it. */
struct nbd_uri {
	enum uri_transport transport;
	bool tls;     /* the scheme asks for it: nbds, nbds+unix, nbds+vsock */
	char *user;   /* for TLS */
	char *host;   /* TCP: a name, or an address without its brackets; vsock: the CID in decimal; Unix: NULL */
	char *port;   /* decimal; Unix: NULL */
	char *socket; /* Unix: the path, of any length, never empty; else NULL */
	char *export; /* at most NBD_MAX_STRING bytes, any but NUL, perhaps not UTF-8; never NULL, "" is the default export */
	/* The query parameters tls-*, as they came. */
	char *tls_certificates, *tls_psk_file, *tls_type, *tls_hostname, *tls_verify_peer;
};

/* False: *u is empty, and error is one line that says what is wrong and what is allowed. */
bool uri_parse(const char *text, struct nbd_uri *u, char error[URI_MAX_ERROR]);
void uri_free(struct nbd_uri *u);

/* Writes the URI that uri_parse reads as *u; a missing host, port or export takes its default. The caller frees it. */
char *uri_format(const struct nbd_uri *u);

#endif
