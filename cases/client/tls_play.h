/*
 * What servers play in the cases tls_client/ and tls_command/, beside the honest ones, and what of it the client is seen to do.
 *
 *	play = (struct tls_play){ .refusal = NBD_REP_ERR_POLICY };
 *	script_follow(&config, tls_play_script(&play));
 */
#ifndef NBDSPEC_CASES_TLS_PLAY_H
#define NBDSPEC_CASES_TLS_PLAY_H

#include "cases/client/script.h"

struct tls_play {
	uint32_t refusal;	/* of NBD_OPT_STARTTLS; 0: it is acknowledged */
	struct bytes behind;	/* in clear, in one piece with the ACK */
	bool no_tls;		/* what comes behind the ACK is swallowed */
	bool closes;		/* the connection is closed behind the ACK */
	struct bytes answer;	/* with .no_tls: to the first bytes that come, which is then the last of it */
	bool withholds;		/* over TLS the first option has no reply */
	bool keeps;		/* the server closes no connection behind NBD_OPT_ABORT */
	struct bytes garbage;	/* over TLS NBD_OPT_LIST and READ are answered by it */
	bool in_clear;		/* over TLS the first READ is answered by a reply in clear */
	uint16_t first_data;	/* with .in_clear: the length of the data, bytes */
	/* Afterwards: */
	unsigned n_acks;
	bool talks;		/* with .no_tls: an option in clear came behind the ACK */
	unsigned n_over_tls;	/* options that came over TLS, with .withholds */
};

#define BYTES(text) ((struct bytes){ (const uint8_t *)(text), sizeof(text) - 1 })

struct tls_named_play {
	const char *name;
	struct tls_play play;
};
/* Ways in which the handshake fails; and replies in clear behind the ACK, whose option has none over TLS. */
enum { N_TLS_FAILINGS = 6, N_TLS_INJECTED = 4 };
extern const struct tls_named_play tls_failings[N_TLS_FAILINGS], tls_injected[N_TLS_INJECTED];

const struct script *tls_play_script(struct tls_play *p);	/* one at a time */

/* What a client has sent, by the records of a trace. */
struct tls_sent {
	unsigned n_starttls, n_options, n_requests;
	uint32_t first;			/* option; 0: none */
	bool extended_before;		/* NBD_OPT_EXTENDED_HEADERS, before the first NBD_OPT_STARTTLS */
	unsigned before, behind;	/* options other than NBD_OPT_ABORT, before the first NBD_OPT_STARTTLS and behind its reply */
};
struct tls_sent tls_sent(struct wire records);
/* By which this machine is reached, and which good certificates are for: a client may have no names. */
enum { N_TLS_HOSTS = 2 };
extern const char *const tls_hosts[N_TLS_HOSTS];
/* Of a client that was led to a server with one version only, whether it takes it. */
enum { N_TLS_VERSIONS = 4 };
extern const struct tls_only_version {
	unsigned minor;		/* TLS 1.N */
	const char *priority;	/* as fake_tls.priority */
} tls_versions[N_TLS_VERSIONS];
void judge_version(struct test *t, unsigned minor, bool taken);
/* Of a client whose user wants nothing but TLS, where STARTTLS is refused: it leaves, and has no session in clear. */
void judge_going_on(struct test *t, bool leaves, bool no_session);

#endif
