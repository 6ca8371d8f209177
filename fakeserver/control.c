#include "fakeserver/control.h"

#include "fakeserver/disk.h"
#include "harness/names.h"
#include "harness/nbd.h"
#include "harness/wire.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LINE_MOST = 8192, CLIENTS_MOST = 64, TAKES_MOST = 4096 };

struct control_client {
	struct control *control;
	int fd;
	bool marks; /* each line of it is a mark from now on */
	char line[LINE_MOST];
	size_t len;
	struct control_client *next;
};

struct control {
	struct fake_server *server;
	int fd;
	unsigned grace_ms, n_clients;
	struct control_client *clients, *asking;
};

static void take_marks(void *arg);

/* ---- commands: each writes one line without its end ---- */

static void
do_status(struct control *k, char *rest, FILE *out)
{
	const struct fake_config *config = fake_config_of(k->server);
	struct fake_counters n = fake_count(k->server);
	uint64_t bytes = 0, pending = 0;

	(void)rest;
	for (size_t i = 0; i < config->n_exports; i++)
		if (config->exports[i].cache != NULL) {
			bytes += cache_bytes(config->exports[i].cache);
			pending += cache_pending(config->exports[i].cache);
		}
	fprintf(out,
	        "ok state=%s connections=%u exports=%zu memory=%" PRIu64 " generation=%u cached=%" PRIu64
	        " pending=%" PRIu64,
	        n.shutting_down ? "shutting-down" : "serving", n.open, config->n_exports, disk_memory(), n.generation,
	        bytes, pending);
}

static void
do_counters(struct control *k, char *rest, FILE *out)
{
	struct fake_counters n = fake_count(k->server);

	(void)rest;
	fprintf(out,
	        "ok accepted=%u options=%" PRIu64 " requests=%" PRIu64 " sent=%" PRIu64 " bytes-received=%" PRIu64
	        " bytes-sent=%" PRIu64 " writes=%" PRIu64 " zeroes=%" PRIu64 " trims=%" PRIu64 " flushes=%" PRIu64
	        " fua=%" PRIu64 " marks=%" PRIu64,
	        n.accepted, n.options, n.requests, n.messages_sent, n.bytes_received, n.bytes_sent, n.writes, n.zeroes,
	        n.trims, n.flushes, n.fua, n.marks);
}

static struct fake_export *
find_export(struct control *k, const char *name)
{
	struct fake_config *config = fake_config_of(k->server);

	for (size_t i = 0; i < config->n_exports; i++)
		if (strcmp(config->exports[i].name, name) == 0)
			return &config->exports[i];
	return NULL;
}

/* Takes the last word off a line if it is a change; a name may contain blanks. The caller frees it. */
static char *
take_change(char *line)
{
	char *blank = strrchr(line, ' '), *word = blank != NULL ? blank + 1 : line;

	if (*word != '+' && *word != '-')
		return NULL;
	word = strdup(word);
	if (word == NULL)
		abort();
	*(blank != NULL ? blank : line) = '\0';
	return word;
}

static void
do_flags(struct control *k, char *rest, FILE *out)
{
	char *changes[16], error[256] = "there is no export of this name", text[NAME_MAX_TEXT];
	struct fake_export *e, changed;
	size_t n = 0;
	bool ok;

	while (n < 16 && (changes[n] = take_change(rest)) != NULL)
		n++;
	e = find_export(k, rest);
	ok = e != NULL;
	if (ok)
		changed = *e;
	for (; n > 0; free(changes[n]))
		ok = (--n, ok) && export_change_flag(&changed, changes[n], error);
	if (ok)
		e->flags = changed.flags;
	if (ok)
		fprintf(out, "ok %s", name_flags(NAME_TRANSMISSION_FLAG, e->flags, text));
	else
		fprintf(out, "error %s", error);
}

static void
do_disconnect(struct control *k, char *rest, FILE *out)
{
	char *end;
	unsigned long n = strtoul(rest, &end, 10);
	unsigned closed;

	if (strcmp(rest, "all") != 0 && (end == rest || *end != '\0' || !isdigit((unsigned char)*rest) || n == 0)) {
		fprintf(out, "error want a connection's number or all");
		return;
	}
	closed = n <= UINT32_MAX ? fake_disconnect(k->server, (unsigned)n) : 0;
	if (closed == 0 && n != 0)
		fprintf(out, "error there is no such connection");
	else
		fprintf(out, "ok %u", closed);
}

static void
do_shutdown(struct control *k, char *rest, FILE *out)
{
	(void)rest;
	fake_shutdown(k->server, k->grace_ms);
	fputs("ok", out);
}

static void
do_mark(struct control *k, char *rest, FILE *out)
{
	fake_mark(k->server, rest);
	fake_flush_trace(k->server);
	fputs("ok", out);
}

/* So that a program needs no request for each mark, and need not wait for its answer. */
static void
do_marks(struct control *k, char *rest, FILE *out)
{
	(void)rest;
	k->asking->marks = true;
	fake_before_requests(k->server, take_marks, k);
	fputs("ok", out);
}

static void
do_trace(struct control *k, char *rest, FILE *out)
{
	int failed;

	if (strcmp(rest, "end") != 0) {
		fputs("error want trace end", out);
		return;
	}
	failed = fake_end_trace(k->server);
	if (failed != 0)
		fprintf(out, "error %s", failed == ENOENT ? "there is no trace" : strerror(failed));
	else
		fputs("ok", out);
}

/* The next word of the line, or NULL; the line goes on behind it. */
static char *
take_word(char **rest)
{
	char *word = strsep(rest, " ");

	while (word != NULL && *word == '\0')
		word = strsep(rest, " ");
	return word;
}

static bool
read_number(const char *text, unsigned long most, unsigned long *n)
{
	char *end;

	if (text == NULL || !isdigit((unsigned char)*text))
		return false;
	errno = 0;
	*n = strtoul(text, &end, 10);
	return *end == '\0' && errno == 0 && *n <= most;
}

static void
do_power(struct control *k, char *rest, FILE *out)
{
	char *verb = take_word(&rest), *policy = take_word(&rest), *seed = take_word(&rest);
	enum cut how = fake_config_of(k->server)->cut;
	unsigned long n;

	if (verb == NULL || strcmp(verb, "cut") != 0 || (policy != NULL && !cut_parse(policy, &how)) ||
	    (seed != NULL && (how != CUT_RANDOM || !read_number(seed, ULONG_MAX, &n))) || take_word(&rest) != NULL) {
		fputs("error want power cut [drop|keep|random [SEED]]", out);
		return;
	}
	if (seed != NULL)
		fake_seed(k->server, n);
	fprintf(out, "ok generation=%u", fake_cut_power(k->server, how));
}

static void
do_fail(struct control *k, char *rest, FILE *out)
{
	char *command = take_word(&rest), *times = take_word(&rest), *word = take_word(&rest);
	uint64_t type = 0, error = NBD_EIO;
	bool forget = false, ok;
	unsigned long n = 0;

	ok = command != NULL && name_value(NAME_COMMAND, command, &type) && type <= NBD_CMD_BLOCK_STATUS &&
	     type != NBD_CMD_DISC && read_number(times, UINT_MAX, &n);
	if (ok && word != NULL && strcmp(word, "forget") != 0) {
		ok = name_value(NAME_ERROR, word, &error) && error != NBD_SUCCESS;
		word = take_word(&rest);
	}
	if (ok && word != NULL) {
		forget = strcmp(word, "forget") == 0 && type == NBD_CMD_FLUSH;
		ok = forget && take_word(&rest) == NULL;
	}
	if (!ok) {
		fputs("error want fail COMMAND N [ERROR] [forget], such as fail FLUSH 1 EIO forget", out);
		return;
	}
	fake_fail(k->server, (uint16_t)type, (unsigned)n, (uint32_t)error, forget);
	fputs("ok", out);
}

static void do_help(struct control *k, char *rest, FILE *out);

static const struct control_command {
	const char *name, *help;
	void (*run)(struct control *k, char *rest, FILE *out);
} commands[] = {
	{ "status", "status", do_status },
	{ "counters", "counters", do_counters },
	{ "flags", "flags EXPORT [+FLAG|-FLAG]...", do_flags },
	{ "disconnect", "disconnect N|all", do_disconnect },
	{ "shutdown", "shutdown", do_shutdown },
	{ "mark", "mark TEXT", do_mark },
	{ "marks", "marks", do_marks },
	{ "trace", "trace end", do_trace },
	{ "power", "power cut [drop|keep|random [SEED]]", do_power },
	{ "fail", "fail COMMAND N [ERROR] [forget]", do_fail },
	{ "help", "help", do_help },
};
enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static void
do_help(struct control *k, char *rest, FILE *out)
{
	(void)k;
	(void)rest;
	fputs("ok", out);
	for (size_t i = 0; i < N_COMMANDS; i++)
		fprintf(out, "%s%s", i == 0 ? " " : "; ", commands[i].help);
}

static void
carry_out(struct control *k, char *line, FILE *out)
{
	size_t len = strcspn(line, " ");
	char *rest = line[len] == '\0' ? line + len : line + len + 1;

	/* Marks that were sent before come first. */
	take_marks(k);
	for (size_t i = 0; i < N_COMMANDS; i++)
		if (strlen(commands[i].name) == len && memcmp(commands[i].name, line, len) == 0) {
			commands[i].run(k, rest, out);
			return;
		}
	fputs("error unknown request; help tells what there is", out);
}

/* ---- lines ---- */

static void
client_free(struct control_client *client)
{
	struct control *k = client->control;
	struct control_client **at = &k->clients;

	while (*at != client)
		at = &(*at)->next;
	*at = client->next;
	fake_unwatch(k->server, client->fd);
	close(client->fd);
	free(client);
	k->n_clients--;
}

/* Who does not wait for the answers may leave them unread, and may be gone: what it has sent counts. */
static void
answer_mark(struct control_client *client, const char *line)
{
	fake_mark(client->control->server, line);
	(void)!send(client->fd, "ok\n", 3, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* False: the client does not take its reply. */
static bool
answer(struct control_client *client, char *line)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out;
	bool sent;

	if (client->marks) {
		answer_mark(client, line);
		return true;
	}
	out = open_memstream(&text, &len);
	if (out == NULL)
		abort();
	client->control->asking = client;
	carry_out(client->control, line, out);
	fputc('\n', out);
	fclose(out);
	sent = send(client->fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len;
	free(text);
	return sent;
}

/* False: it is gone, or there is nothing more of it for the moment. */
static bool
client_take(struct control_client *client)
{
	ssize_t n = recv(client->fd, client->line + client->len, sizeof(client->line) - 1 - client->len, MSG_DONTWAIT);
	char *end;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	client->len += n > 0 ? (size_t)n : 0;
	while (n > 0 && (end = memchr(client->line, '\n', client->len)) != NULL) {
		*end = '\0';
		if (!answer(client, client->line))
			n = 0;
		client->len -= (size_t)(end + 1 - client->line);
		memmove(client->line, end + 1, client->len);
	}
	if (n > 0 && client->len < sizeof(client->line) - 1)
		return true;
	client_free(client);
	return false;
}

static void
client_ready(void *arg)
{
	client_take(arg);
}

/* All that is there by now: no more than a socket holds. */
static void
take_marks(void *arg)
{
	struct control *k = arg;

	for (struct control_client *next, *client = k->clients; client != NULL; client = next) {
		next = client->next;
		for (int i = 0; client->marks && i < TAKES_MOST && client_take(client); i++)
			;
	}
}

static void
control_ready(void *arg)
{
	struct control *k = arg;
	int fd = accept4(k->fd, NULL, NULL, SOCK_CLOEXEC);
	struct control_client *client;

	if (fd < 0)
		return;
	client = calloc(1, sizeof(*client));
	if (client == NULL)
		abort();
	client->control = k;
	client->fd = fd;
	client->next = k->clients;
	if (k->n_clients == CLIENTS_MOST || fake_watch(k->server, fd, client_ready, client) < 0) {
		close(fd);
		free(client);
		return;
	}
	k->clients = client;
	k->n_clients++;
}

struct control *
control_new(struct fake_server *s, int listen_fd, unsigned grace_ms)
{
	struct control *k = calloc(1, sizeof(*k));

	if (k == NULL)
		abort();
	*k = (struct control){ .server = s, .fd = listen_fd, .grace_ms = grace_ms };
	if (fake_watch(s, listen_fd, control_ready, k) == 0)
		return k;
	free(k);
	return NULL;
}

void
control_free(struct control *k)
{
	if (k == NULL)
		return;
	while (k->clients != NULL)
		client_free(k->clients);
	fake_before_requests(k->server, NULL, NULL);
	fake_unwatch(k->server, k->fd);
	close(k->fd);
	free(k);
}
