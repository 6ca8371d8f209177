#include "harness/target_tls.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEY_BYTES = 32 };

static struct target_tls *
new_tls(void)
{
	struct target_tls *t = calloc(1, sizeof(*t));

	if (t == NULL)
		abort();
	return t;
}

void
target_tls_free(struct target_tls *t)
{
	if (t == NULL)
		return;
	tls_credentials_free(t->own);
	tls_credentials_free(t->bare);
	for (enum tls_flaw f = TLS_NO_FLAW; f < N_TLS_FLAWS; f++) {
		tls_credentials_free(t->flawed[f]);
		tls_identity_free(&t->made[f]);
	}
	free(t->hostname);
	free(t->keys);
	free(t);
}

static char *
new_key(void)
{
	unsigned char key[KEY_BYTES];
	char hex[2 * KEY_BYTES + 1], *line;

	if (gnutls_rnd(GNUTLS_RND_KEY, key, sizeof(key)) < 0)
		abort();
	for (size_t i = 0; i < KEY_BYTES; i++)
		snprintf(hex + 2 * i, 3, "%02x", key[i]);
	if (asprintf(&line, TARGET_TLS_USER ":%s\n", hex) < 0)
		abort();
	return line;
}

static bool
make_credentials(struct target_tls *t, bool psk, char error[TLS_ERROR])
{
	struct tls_identity bare = { .ca = t->made[TLS_NO_FLAW].ca };

	if (psk) {
		t->own = tls_credentials_psk_line(t->keys, error);
		return t->own != NULL;
	}
	t->own = tls_credentials_x509(TLS_CLIENT, &t->made[TLS_NO_FLAW], error);
	t->bare = tls_credentials_x509(TLS_CLIENT, &bare, error);
	for (enum tls_flaw f = TLS_NO_FLAW + 1; f < N_TLS_FLAWS && t->own != NULL; f++)
		t->flawed[f] = tls_credentials_x509(TLS_CLIENT, &t->made[f], error);
	return t->own != NULL && t->bare != NULL;
}

struct target_tls *
target_tls_make(bool psk, char error[TLS_ERROR])
{
	struct target_tls *t = new_tls();

	if (!tls_make_identities(t->made, error)) {
		target_tls_free(t);
		return NULL;
	}
	t->keys = new_key();
	if (make_credentials(t, psk, error))
		return t;
	target_tls_free(t);
	return NULL;
}

struct target_tls *
target_tls_read(const char *certificates, const char *psk, const char *user, char error[TLS_ERROR])
{
	struct tls_identity i = { 0 }, bare = { 0 };
	struct target_tls *t = new_tls();

	if (psk != NULL) {
		t->own = tls_credentials_psk_user(psk, user, error);
	} else if (certificates == NULL || tls_read_identity(certificates, &i, error)) {
		bare.ca = i.ca;
		t->own = tls_credentials_x509(TLS_CLIENT, &i, error);
		t->bare = tls_credentials_x509(TLS_CLIENT, &bare, error);
		tls_identity_free(&i);
	}
	if (t->own != NULL)
		return t;
	target_tls_free(t);
	return NULL;
}

bool
target_tls_write(const struct target_tls *t, const char *certs, const char *psk)
{
	FILE *f;
	bool ok;

	if (mkdir(certs, 0700) != 0 && errno != EEXIST)
		return false;
	if (!tls_write_identity(&t->made[TLS_NO_FLAW], certs))
		return false;
	f = fopen(psk, "we");
	if (f == NULL)
		return false;
	ok = fchmod(fileno(f), 0600) == 0 && fputs(t->keys, f) >= 0;
	return fclose(f) == 0 && ok;
}

struct tls_setup
target_tls_setup(const struct target_tls *t)
{
	return (struct tls_setup){ .credentials = t->own, .verify = t->verify, .hostname = t->hostname };
}
