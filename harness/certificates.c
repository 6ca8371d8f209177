/* Certificates for tests, made when they are needed: an authority, and what it signs, right and wrong. */
#include "harness/file.h"
#include "harness/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { DAY = 24 * 60 * 60, SERIAL_BYTES = 16 };

struct authority {
	gnutls_x509_crt_t crt;
	gnutls_x509_privkey_t key;
	char *pem;
};

const char *
tls_flaw_name(enum tls_flaw f)
{
	static const char *const names[N_TLS_FLAWS] = {
		[TLS_NO_FLAW] = "good",
		[TLS_EXPIRED] = "expired",
		[TLS_NOT_YET_VALID] = "not-yet-valid",
		[TLS_SELF_SIGNED] = "self-signed",
		[TLS_OTHER_HOST] = "other-host",
		[TLS_OTHER_CA] = "other-ca",
	};

	return names[f];
}

void
tls_identity_free(struct tls_identity *i)
{
	free(i->ca);
	free(i->server);
	free(i->server_key);
	free(i->client);
	free(i->client_key);
	*i = (struct tls_identity){ 0 };
}

/* ---- making them ---- */

static char *
text_of(gnutls_datum_t *d)
{
	char *text = strndup((const char *)d->data, d->size);

	if (text == NULL)
		abort();
	gnutls_free(d->data);
	return text;
}

static gnutls_x509_privkey_t
new_key(void)
{
	gnutls_x509_privkey_t key;

	tls_must(gnutls_x509_privkey_init(&key));
	tls_must(gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1),
	                                      0));
	return key;
}

static gnutls_x509_crt_t
new_certificate(const char *name, gnutls_x509_privkey_t key, time_t from, time_t to)
{
	unsigned char serial[SERIAL_BYTES], id[64];
	size_t id_size = sizeof(id);
	gnutls_x509_crt_t crt;

	tls_must(gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof(serial)));
	serial[0] &= 0x7f; /* a negative one is none */
	tls_must(gnutls_x509_crt_init(&crt));
	tls_must(gnutls_x509_crt_set_version(crt, 3));
	tls_must(gnutls_x509_crt_set_serial(crt, serial, sizeof(serial)));
	tls_must(gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, name, (unsigned)strlen(name)));
	tls_must(gnutls_x509_crt_set_key(crt, key));
	tls_must(gnutls_x509_crt_get_key_id(crt, 0, id, &id_size));
	tls_must(gnutls_x509_crt_set_subject_key_id(crt, id, id_size));
	tls_must(gnutls_x509_crt_set_activation_time(crt, from));
	tls_must(gnutls_x509_crt_set_expiration_time(crt, to));
	return crt;
}

static char *
pem_of(gnutls_x509_crt_t crt)
{
	gnutls_datum_t pem;

	tls_must(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &pem));
	return text_of(&pem);
}

static struct authority
new_authority(const char *name)
{
	time_t now = time(NULL);
	struct authority a;

	a.key = new_key();
	a.crt = new_certificate(name, a.key, now - DAY, now + DAY);
	tls_must(gnutls_x509_crt_set_basic_constraints(a.crt, 1, -1));
	tls_must(gnutls_x509_crt_set_key_usage(a.crt, GNUTLS_KEY_KEY_CERT_SIGN));
	tls_must(gnutls_x509_crt_sign2(a.crt, a.crt, a.key, GNUTLS_DIG_SHA256, 0));
	a.pem = pem_of(a.crt);
	return a;
}

static void
free_authority(struct authority *a)
{
	gnutls_x509_crt_deinit(a->crt);
	gnutls_x509_privkey_deinit(a->key);
	free(a->pem);
}

static void
name_hosts(gnutls_x509_crt_t crt, bool other)
{
	struct in_addr v4 = { .s_addr = htonl(INADDR_LOOPBACK) };

	if (other) {
		tls_must(gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, "other.example", 13,
		                                              GNUTLS_FSAN_SET));
		return;
	}
	tls_must(gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, "localhost", 9, GNUTLS_FSAN_SET));
	tls_must(gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_IPADDRESS, &v4, sizeof(v4), GNUTLS_FSAN_APPEND));
	tls_must(gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_IPADDRESS, &in6addr_loopback,
	                                              sizeof(in6addr_loopback), GNUTLS_FSAN_APPEND));
}

/* A certificate of one party and its key, as PEM. */
static void
make_one(const struct authority *a, enum tls_role role, enum tls_flaw flaw, char **pem, char **key_pem)
{
	time_t now = time(NULL), from = now - DAY, to = now + DAY;
	gnutls_x509_privkey_t key = new_key();
	gnutls_x509_crt_t crt;
	gnutls_datum_t text;

	if (flaw == TLS_EXPIRED)
		to = now - DAY / 2;
	if (flaw == TLS_NOT_YET_VALID)
		from = now + DAY / 2;
	crt = new_certificate(role == TLS_SERVER ? "nbdspec server" : "nbdspec client", key, from, to);
	tls_must(gnutls_x509_crt_set_basic_constraints(crt, 0, -1));
	tls_must(gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_DIGITAL_SIGNATURE | GNUTLS_KEY_KEY_ENCIPHERMENT));
	tls_must(gnutls_x509_crt_set_key_purpose_oid(
		crt, role == TLS_SERVER ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT, 0));
	if (role == TLS_SERVER)
		name_hosts(crt, flaw == TLS_OTHER_HOST);
	if (flaw == TLS_SELF_SIGNED)
		tls_must(gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0));
	else
		tls_must(gnutls_x509_crt_sign2(crt, a->crt, a->key, GNUTLS_DIG_SHA256, 0));
	*pem = pem_of(crt);
	tls_must(gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN, &text));
	*key_pem = text_of(&text);
	gnutls_x509_crt_deinit(crt);
	gnutls_x509_privkey_deinit(key);
}

bool
tls_make_identities(struct tls_identity made[N_TLS_FLAWS], char error[TLS_ERROR])
{
	struct authority trusted, other;
	int failed = gnutls_global_init();

	if (failed < 0) {
		snprintf(error, TLS_ERROR, "GnuTLS: %s", gnutls_strerror(failed));
		return false;
	}
	trusted = new_authority("nbdspec authority");
	other = new_authority("another authority");
	for (enum tls_flaw f = TLS_NO_FLAW; f < N_TLS_FLAWS; f++) {
		const struct authority *signs = f == TLS_OTHER_CA ? &other : &trusted;

		made[f].ca = strdup(trusted.pem);
		if (made[f].ca == NULL)
			abort();
		make_one(signs, TLS_SERVER, f, &made[f].server, &made[f].server_key);
		make_one(signs, TLS_CLIENT, f, &made[f].client, &made[f].client_key);
	}
	free_authority(&trusted);
	free_authority(&other);
	return true;
}

/* ---- in a directory ---- */

struct part {
	const char *name;
	char **text;
	mode_t mode;
};
enum { PARTS = 5 };

static void
parts_of(struct tls_identity *i, struct part parts[PARTS])
{
	parts[0] = (struct part){ "ca-cert.pem", &i->ca, 0644 };
	parts[1] = (struct part){ "server-cert.pem", &i->server, 0644 };
	parts[2] = (struct part){ "server-key.pem", &i->server_key, 0600 };
	parts[3] = (struct part){ "client-cert.pem", &i->client, 0644 };
	parts[4] = (struct part){ "client-key.pem", &i->client_key, 0600 };
}

static bool
write_part(const char *path, const char *text, mode_t mode)
{
	FILE *f = fopen(path, "w");
	bool ok;

	if (f == NULL)
		return false;
	ok = fchmod(fileno(f), mode) == 0 && fputs(text, f) >= 0;
	return fclose(f) == 0 && ok;
}

/* A group that everybody knows (RFC 7919): where qemu finds none it makes one at each start, which takes a second. */
static bool
write_group(const char *dir)
{
	char *path = join_path(dir, "dh-params.pem"), *text;
	gnutls_dh_params_t group;
	gnutls_datum_t pem;
	bool ok;

	tls_must(gnutls_dh_params_init(&group));
	tls_must(gnutls_dh_params_import_raw2(group, &gnutls_ffdhe_2048_group_prime, &gnutls_ffdhe_2048_group_generator,
	                                      gnutls_ffdhe_2048_key_bits));
	tls_must(gnutls_dh_params_export2_pkcs3(group, GNUTLS_X509_FMT_PEM, &pem));
	gnutls_dh_params_deinit(group);
	text = text_of(&pem);
	ok = write_part(path, text, 0644);
	free(text);
	free(path);
	return ok;
}

bool
tls_write_identity(const struct tls_identity *i, const char *dir)
{
	struct tls_identity copy = *i;
	struct part parts[PARTS];
	bool ok = true;

	parts_of(&copy, parts);
	for (unsigned k = 0; k < PARTS && ok; k++) {
		char *path = join_path(dir, parts[k].name);

		if (*parts[k].text != NULL)
			ok = write_part(path, *parts[k].text, parts[k].mode);
		free(path);
	}
	return ok && write_group(dir);
}

/* True without a text where there is no such file. */
static bool
read_part(const char *path, char **text)
{
	gnutls_datum_t d;
	struct stat st;

	*text = NULL;
	if (stat(path, &st) != 0)
		return errno == ENOENT;
	if (gnutls_load_file(path, &d) < 0)
		return false;
	*text = text_of(&d);
	return true;
}

bool
tls_read_identity(const char *dir, struct tls_identity *i, char error[TLS_ERROR])
{
	struct part parts[PARTS];
	bool ok = true;

	*i = (struct tls_identity){ 0 };
	parts_of(i, parts);
	for (unsigned k = 0; k < PARTS && ok; k++) {
		char *path = join_path(dir, parts[k].name);

		ok = read_part(path, parts[k].text);
		if (!ok)
			snprintf(error, TLS_ERROR, "%.200s: cannot be read", path);
		free(path);
	}
	if (ok && i->ca == NULL) {
		snprintf(error, TLS_ERROR, "%.150s: there is no ca-cert.pem ('nbdspec certificates DIR' makes one)",
		         dir);
		ok = false;
	}
	if (!ok)
		tls_identity_free(i);
	return ok;
}
