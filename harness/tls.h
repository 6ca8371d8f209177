/*
 * TLS over a socket, by GnuTLS, for both roles, and what it takes: certificates and keys, which are made when they are
 * needed. What the protocol text says about NBD_OPT_STARTTLS is not here.
 *
 * Nothing here waits: where a socket has nothing, or takes no more, that is told as recv() and send() tell it.
 */
#ifndef NBDSPEC_TLS_H
#define NBDSPEC_TLS_H

#include "harness/trace.h"
#include "harness/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TLS_ERROR 256

/* ---- certificates ---- */

/* As PEM; each is malloc'd, or NULL. */
struct tls_identity {
	char *ca;			/* whom its owner trusts */
	char *server, *server_key;	/* for "localhost", 127.0.0.0/8's first and ::1 */
	char *client, *client_key;
};

enum tls_flaw {
	TLS_NO_FLAW,
	TLS_EXPIRED,
	TLS_NOT_YET_VALID,
	TLS_SELF_SIGNED,	/* each certificate by itself; .ca is the one that others have */
	TLS_OTHER_HOST,		/* the server's is for "other.example" */
	TLS_OTHER_CA,		/* signed by an authority that nobody trusts; .ca is the one that others have */
	N_TLS_FLAWS
};
const char *tls_flaw_name(enum tls_flaw f);	/* "expired"; "good" for none */

/* One authority, and its certificates, with every flaw; they are valid for a day. False and one line in error. */
bool tls_make_identities(struct tls_identity made[N_TLS_FLAWS], char error[TLS_ERROR]);
void tls_identity_free(struct tls_identity *i);
/* In a directory, by the names that qemu, nbdkit and libnbd give them: ca-cert.pem, server-cert.pem, …, with dh-params.pem. False and errno. */
bool tls_write_identity(const struct tls_identity *i, const char *dir);
/* From there; what is not there is NULL. False and one line in error where there is no authority, or one is unreadable. */
bool tls_read_identity(const char *dir, struct tls_identity *i, char error[TLS_ERROR]);

/* ---- credentials ---- */

enum tls_role { TLS_SERVER, TLS_CLIENT };

/* What a party has; it outlives the sessions that are made with it. */
struct tls_credentials;

/* With the role's own certificate, where there is one, and the authority, or else those of the system. NULL and one line in error. */
struct tls_credentials *tls_credentials_x509(enum tls_role role, const struct tls_identity *i, char error[TLS_ERROR]);
/* A server's: a file of lines USER:HEXADECIMAL. */
struct tls_credentials *tls_credentials_psk_file(const char *path, char error[TLS_ERROR]);
/* A client's: user NULL takes the first of the file. */
struct tls_credentials *tls_credentials_psk_user(const char *path, const char *user, char error[TLS_ERROR]);
struct tls_credentials *tls_credentials_psk_line(const char *line, char error[TLS_ERROR]);	/* likewise, of USER:HEXADECIMAL */
void tls_credentials_free(struct tls_credentials *c);

/* ---- a session ---- */

struct tls;

struct tls_setup {
	const struct tls_credentials *credentials;
	const char *priority;		/* as GnuTLS reads it; NULL: its defaults, from TLS 1.2 on */
	const char *hostname;		/* a client: the server that is asked for, and whose certificate it must be; or NULL */
	bool careless;			/* a server: it demands one, and does not look at it */
	struct trace *trace;		/* of what goes over the wire, and of its keys; or NULL */
	uint16_t connection;		/* its number there */
	bool verify;			/* a client: the server's certificate; a server: it demands one, and verifies it */
};

bool tls_priority_is_valid(const char *priority);
/* `early` is what has come behind the option, and belongs to TLS. The descriptor stays the caller's. Never NULL. */
struct tls *tls_new(int fd, const struct tls_setup *setup, struct bytes early);
void tls_free(struct tls *s);			/* without a word to the peer; NULL is fine */

enum tls_progress { TLS_UP, TLS_WANTS_READ, TLS_WANTS_WRITE, TLS_FAILED };
enum tls_progress tls_handshake(struct tls *s);
/* As recv() with MSG_DONTWAIT. 0: the peer has ended it; -1 and EPROTO: what came is no TLS, or an alert that ends it. */
ssize_t tls_recv(struct tls *s, void *data, size_t len);
ssize_t tls_peek(struct tls *s, void *data, size_t len);	/* the same, and leaves it there */
/* As send(). Where it fails by EAGAIN the same bytes have to be sent next, with more behind them or not. */
ssize_t tls_send(struct tls *s, const void *data, size_t len);
size_t tls_waiting(const struct tls *s);	/* bytes that tls_recv gives without a look at the socket */
enum tls_progress tls_shut(struct tls *s);	/* close_notify: we send no more */

bool tls_was_shut(const struct tls *s);		/* the peer has sent close_notify */
unsigned tls_version(const struct tls *s);	/* of TLS 1.N, once it is up: N */
const char *tls_why(const struct tls *s);	/* it failed, in words; "" */
bool tls_saw_clear_text(const struct tls *s);	/* what came first begins no TLS record */
/* Bytes on the wire, of both directions, from tls_new on; those of `early` count as read. */
uint64_t tls_bytes_read(const struct tls *s);
uint64_t tls_bytes_written(const struct tls *s);

/* Of a call of GnuTLS that hangs on nothing that anybody gives us: it fails where there is no memory, or no random bits. Aborts. */
void tls_must(int failed);

#endif
