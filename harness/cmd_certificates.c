/* nbdspec certificates: what tests of TLS need, right and wrong. */
#include "harness/cli.h"
#include "harness/file.h"
#include "harness/tls.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool
write_all(const struct cli *cli, const struct tls_identity made[N_TLS_FLAWS])
{
	bool ok = mkdir(cli->args[0], 0777) == 0 || errno == EEXIST;

	for (enum tls_flaw f = TLS_NO_FLAW; f < N_TLS_FLAWS && ok; f++) {
		char *dir = join_path(cli->args[0], tls_flaw_name(f));

		ok = (mkdir(dir, 0777) == 0 || errno == EEXIST) && tls_write_identity(&made[f], dir);
		if (ok)
			printf("%s\n", dir);
		free(dir);
	}
	return ok;
}

static int
run_certificates(struct cli *cli)
{
	struct tls_identity made[N_TLS_FLAWS] = { 0 };
	char error[TLS_ERROR];
	int status = STATUS_OK;

	if (cli->n_args != 1)
		return cli_usage_error(cli, "want a directory to make them in");
	if (!tls_make_identities(made, error))
		return cli_broken(cli, "%s", error);
	if (!write_all(cli, made))
		status = cli_broken(cli, "%s: %s", cli->args[0], strerror(errno));
	for (enum tls_flaw f = TLS_NO_FLAW; f < N_TLS_FLAWS; f++)
		tls_identity_free(&made[f]);
	return status;
}

static const struct cli_option no_options[] = { { 0 } };

COMMAND(certificates) = {
	.name = "certificates",
	.usage = "DIR",
	.summary = "make certificates for tests of TLS, right and wrong",
	.help = "Makes DIR/good and others beside it, with ca-cert.pem, server-cert.pem, server-key.pem, "
		"client-cert.pem and\n"
		"client-key.pem, as qemu, nbdkit, libnbd and 'nbdspec serve' read them. The others have one flaw each: "
		"expired,\n"
		"not-yet-valid, self-signed, other-host (the server's is for other.example), other-ca (of an authority "
		"that nobody\n"
		"has). They are valid for a day, for localhost, and for tests alone: the keys are not "
		"encrypted.\n"
		"\n"
		"  nbdspec certificates /tmp/certs\n"
		"  nbdkit --tls=require --tls-certificates=/tmp/certs/good memory 64M\n"
		"  nbdspec serve --tls require --tls-certificates /tmp/certs/expired\n",
	.options = no_options,
	.run = run_certificates,
};
