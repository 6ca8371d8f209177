#include "harness/client.h"

#include "harness/clock.h"
#include "harness/file.h"
#include "harness/process.h"
#include "harness/test_private.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RUN_MS = 10000 };

struct client {
	struct test *t;
	struct server at; /* what the runner has made ready; the process is ours */
	char *log;        /* what it prints */
};

struct client *
client_new(struct test *t)
{
	struct client *c = calloc(1, sizeof(*c));
	struct nbd_uri u = { .transport = URI_UNIX };

	if (c == NULL)
		abort();
	c->t = t;
	c->at = *t->private->server;
	c->at.pid = 0;
	c->log = join_path(c->at.dir, "output");
	u.socket = c->at.socket;
	u.export = (char *)c->at.target->export_name;
	u.tls = client_is_over_tls(c);
	c->at.uri = NULL;
	if (client_is_over_tls(c))
		client_put_credentials(c, &u);
	client_go_to(c, &u);
	return c;
}

const char *
client_dir(const struct client *c)
{
	return c->at.dir;
}

const char *
client_socket(const struct client *c)
{
	return c->at.socket;
}

void
client_start(struct client *c)
{
	char error[512];

	unlink(c->at.out);
	unlink(c->log);
	if (!client_spawn(&c->at, error))
		harness_error(c->t, "the client could not be started: %s", error);
	note(c->t, "the client is started");
}

int
client_pidfd(const struct client *c)
{
	return c->at.pidfd;
}

struct work
client_work(const struct client *c)
{
	return work_of(c->at.pid);
}

static char *
in_words(const struct client_end *e, int signal_number, char *tail)
{
	char how[128], *text;

	if (e->killed)
		snprintf(how, sizeof(how), "the client did not end");
	else if (signal_number != 0)
		snprintf(how, sizeof(how), "the client was killed by signal %d (%s)", signal_number,
		         strsignal(signal_number));
	else
		snprintf(how, sizeof(how), "the client ended with exit status %d", e->status);
	if (asprintf(&text, "%s%s%s", how, *tail != '\0' ? "; it printed: " : "", tail) < 0)
		abort();
	return text;
}

struct client_end
client_finish(struct client *c)
{
	struct pollfd ended = { .fd = c->at.pidfd, .events = POLLIN };
	struct client_end e = { .ns = now_ns(), .status = -1 };
	char *tail;
	int status = 0;

	e.killed = poll(&ended, 1, 0) == 0;
	if (e.killed)
		kill(c->at.pid, SIGKILL);
	waitpid(c->at.pid, &status, 0);
	end_marked_children(c->at.dir);
	close(c->at.pidfd);
	c->at.pid = 0;
	c->at.pidfd = -1;
	e.signal = !e.killed && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	e.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	tail = server_stderr(&c->at, 2);
	e.text = in_words(&e, e.signal, tail);
	free(tail);
	note(c->t, "%s", e.text);
	return e;
}

const char *
client_in(const struct client *c)
{
	return target_names(c->at.target, "{in}") ? c->at.file : NULL;
}

const char *
client_out(const struct client *c)
{
	return target_names(c->at.target, "{out}") ? c->at.out : NULL;
}

bool
client_names(const struct client *c, const char *placeholder)
{
	return target_names(c->at.target, placeholder);
}

uint64_t
client_size(const struct client *c)
{
	return c->at.target->size;
}

const char *
client_export(const struct client *c)
{
	return c->at.target->export_name;
}

char *const *
client_driver(const struct client *c)
{
	return c->at.target->driver ? c->at.target->program : NULL;
}

int (*client_run_driver(const struct client *c))(char *const *argv)
{
	return c->at.target->run_driver;
}

bool
client_pairwise(const struct client *c)
{
	return c->at.target->pairwise;
}

double
client_factor(const struct client *c)
{
	return c->at.target->factor;
}

int
client_limit_ms(const struct client *c)
{
	return (int)(RUN_MS * c->at.target->factor);
}

/* ---- TLS ---- */

struct target_tls *
client_tls(const struct client *c)
{
	return c->at.target->tls;
}

bool
client_is_over_tls(const struct client *c)
{
	return c->at.target->tls != NULL && c->at.target->tls->always;
}

static bool
has_keys(const struct client *c)
{
	return c->at.target->tls->bare == NULL;
}

struct tls_credentials *
client_server_credentials(const struct client *c, enum tls_flaw flaw)
{
	static struct tls_credentials *made[N_TLS_FLAWS];
	char error[TLS_ERROR];

	if (has_keys(c) && flaw != TLS_NO_FLAW)
		return NULL;
	if (made[flaw] == NULL)
		made[flaw] = has_keys(c) ? tls_credentials_psk_file(c->at.psk, error)
		                         : tls_credentials_x509(TLS_SERVER, &c->at.target->tls->made[flaw], error);
	if (made[flaw] == NULL)
		harness_error(c->t, "TLS: %s", error);
	return made[flaw];
}

void
client_put_credentials(const struct client *c, struct nbd_uri *u)
{
	if (!has_keys(c)) {
		u->tls_certificates = c->at.certs;
		return;
	}
	u->tls_psk_file = c->at.psk;
	u->user = (char *)TARGET_TLS_USER;
}

void
client_go_to(struct client *c, const struct nbd_uri *u)
{
	free(c->at.uri);
	c->at.uri = uri_format(u);
}

struct trace *
client_trace(struct client *c)
{
	return &c->t->private->trace;
}
