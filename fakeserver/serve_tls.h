/* What `serve` reads about TLS. */
#ifndef NBDSPEC_SERVE_TLS_H
#define NBDSPEC_SERVE_TLS_H

#include "fakeserver/server.h"
#include "harness/cli.h"
#include "harness/uri.h"

/* As given; NULL or false where it is not. */
struct serve_tls {
	const char *mode, *certificates, *psk, *priority;
	bool verify;
};

/* Sets config->tls, whose credentials are the caller's to free. 0, or an exit status. */
int serve_tls_load(const struct cli *cli, const struct serve_tls *given, struct fake_config *config);
/* What a client of ours needs: sets .tls, and where its certificates or keys are. */
void serve_tls_uri(const struct serve_tls *given, const struct fake_config *config, struct nbd_uri *u);

#endif
