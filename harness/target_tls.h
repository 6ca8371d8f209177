/* What we need to speak TLS with the server under test: made for a command that has {certs} or {psk}, else as it was given. */
#ifndef NBDSPEC_TARGET_TLS_H
#define NBDSPEC_TARGET_TLS_H

#include "harness/tls.h"

#define TARGET_TLS_USER "nbdspec"	/* whose key is made */

struct target_tls {
	struct tls_credentials *own;	/* with which the server lets us in */
	struct tls_credentials *bare;	/* without a certificate; NULL for shared keys */
	struct tls_credentials *flawed[N_TLS_FLAWS];	/* NULL where we have not made the certificates */
	bool verify;			/* the server's certificate; never of one that we have made */
	char *hostname;			/* it is for; or NULL */
	bool always;			/* every session is over TLS */
	struct tls_identity made[N_TLS_FLAWS];
	char *keys;			/* the file of {psk}, as it is made */
};

/* Certificates, and a shared key for "nbdspec". With `psk` that is what we use. NULL and one line in error. */
struct target_tls *target_tls_make(bool psk, char error[TLS_ERROR]);
/*
 * From a directory of certificates or a file of keys, as nbds:// names them; both NULL: without any of our own. The user is
 * whose key it is, or NULL. NULL and one line in error.
 */
struct target_tls *target_tls_read(const char *certificates, const char *psk, const char *user, char error[TLS_ERROR]);
void target_tls_free(struct target_tls *t);
/* The server's certificates, good ones, into this directory, and the keys into this file. False and errno. */
bool target_tls_write(const struct target_tls *t, const char *certs, const char *psk);

/* How a session begins; priority NULL: the defaults. */
struct tls_setup target_tls_setup(const struct target_tls *t);

#endif
