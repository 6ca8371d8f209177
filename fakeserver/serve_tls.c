#include "fakeserver/serve_tls.h"

#include <string.h>

/* The mode, where it makes sense with the rest. */
static int
read_mode(const struct cli *cli, const struct serve_tls *given, bool *on, bool *forced)
{
	bool has = given->certificates != NULL || given->psk != NULL;
	const char *mode = given->mode != NULL ? given->mode : has ? "require" : "off";

	*forced = strcmp(mode, "require") == 0;
	*on = *forced || strcmp(mode, "on") == 0;
	if (!*on && strcmp(mode, "off") != 0)
		return cli_usage_error(cli, "--tls '%s': want off, on or require", mode);
	if (*on && !has)
		return cli_usage_error(cli, "--tls %s: want --tls-certificates, or --tls-psk", mode);
	if (given->certificates != NULL && given->psk != NULL)
		return cli_usage_error(cli, "want one of --tls-certificates and --tls-psk");
	if (given->verify && given->certificates == NULL)
		return cli_usage_error(cli, "--tls-verify-peer goes with --tls-certificates");
	return 0;
}

static struct tls_credentials *
load(const struct serve_tls *given, char error[TLS_ERROR])
{
	struct tls_credentials *c;
	struct tls_identity i;

	if (given->psk != NULL)
		return tls_credentials_psk_file(given->psk, error);
	if (!tls_read_identity(given->certificates, &i, error))
		return NULL;
	c = tls_credentials_x509(TLS_SERVER, &i, error);
	tls_identity_free(&i);
	return c;
}

int
serve_tls_load(const struct cli *cli, const struct serve_tls *given, struct fake_config *config)
{
	char error[TLS_ERROR];
	bool on, forced;
	int status = read_mode(cli, given, &on, &forced);

	if (status != 0 || !on) {
		for (size_t i = 0; i < config->n_exports && status == 0; i++)
			if (config->exports[i].tls_only)
				return cli_usage_error(cli, "--export …,tls-only: want --tls on");
		return status;
	}
	if (config->oldstyle)
		return cli_usage_error(cli, "--oldstyle does not go with TLS");
	if (given->priority != NULL && !tls_priority_is_valid(given->priority))
		return cli_usage_error(cli, "--tls-priority '%s': GnuTLS does not understand it", given->priority);
	config->tls.credentials = load(given, error);
	if (config->tls.credentials == NULL)
		return cli_broken(cli, "--%s: %s", given->psk != NULL ? "tls-psk" : "tls-certificates", error);
	config->tls.forced = forced;
	config->tls.verify = given->verify;
	config->tls.priority = given->priority;
	return 0;
}

void
serve_tls_uri(const struct serve_tls *given, const struct fake_config *config, struct nbd_uri *u)
{
	u->tls = config->tls.credentials != NULL;
	if (!u->tls)
		return;
	u->tls_certificates = (char *)given->certificates;
	u->tls_psk_file = (char *)given->psk;
}
