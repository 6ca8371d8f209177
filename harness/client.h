/*
 * For client cases: the client's command, as `nbdspec client` was given it, run as often as a case wants against what the
 * case serves at the address that {uri} leads to.
 */
#ifndef NBDSPEC_CLIENT_H
#define NBDSPEC_CLIENT_H

#include "harness/test.h"
#include "harness/uri.h"
#include "harness/trace.h"
#include "harness/work.h"

struct client;

struct client *client_new(struct test *t);	/* given back when the process ends */
const char *client_dir(const struct client *c);		/* private and guarded; the mark of what is started in it */
const char *client_socket(const struct client *c);	/* where a server is to listen for it */
void client_start(struct client *c);
int client_pidfd(const struct client *c);	/* readable once it has ended */
struct work client_work(const struct client *c);	/* of its processes */

struct client_end {
	bool killed;	/* by us */
	uint64_t ns;	/* CLOCK_MONOTONIC: when it was found to have ended, or was killed */
	int signal;	/* that it died of, or 0 */
	int status;	/* exit status; -1 where it has none */
	char *text;	/* in words, with the last that it printed; malloc'd */
};
/* Waits for its end; where it has not ended yet it is killed, with all that it has started. */
struct client_end client_finish(struct client *c);

/* The files that the command names as {in} and {out}, or NULL. {out} is not there before the client makes it. */
const char *client_in(const struct client *c);
const char *client_out(const struct client *c);
bool client_names(const struct client *c, const char *placeholder);	/* the command does */
uint64_t client_size(const struct client *c);	/* of the export to serve, bytes (--size) */
const char *client_export(const struct client *c);
char *const *client_driver(const struct client *c);	/* the driver's command, or NULL: it is a plain command */
int (*client_run_driver(const struct client *c))(char *const *argv);	/* or NULL: driver_options.run */
bool client_pairwise(const struct client *c);	/* combinations pair by pair are enough */
double client_factor(const struct client *c);	/* on every time limit */
int client_limit_ms(const struct client *c);	/* for one run of the command */
/* ---- TLS ---- */
struct target_tls *client_tls(const struct client *c);	/* NULL: nothing is known of it */
bool client_is_over_tls(const struct client *c);	/* every session is, by the user's wish */
/* A server's that the client is to trust, or one with this flaw, which shared keys have not: then NULL. Kept for the process. */
struct tls_credentials *client_server_credentials(const struct client *c, enum tls_flaw flaw);
/* Where its certificates or keys are is put into *u, borrowed. */
void client_put_credentials(const struct client *c, struct nbd_uri *u);
void client_go_to(struct client *c, const struct nbd_uri *u);	/* {uri} from now on, for a plain command */

/* For the server of the case, so that one transcript shows both: the trace of this case. */
struct trace *client_trace(struct client *c);

#endif
