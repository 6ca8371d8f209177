/* nbdspec referee: which rules the clients in the traces of `nbdspec serve` have broken. */
#include "cases/client/referee.h"
#include "harness/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum option_id { OPT_STRICT = 1, OPT_ALL, OPT_SEVERAL, OPT_LIES, OPT_INTEROPERABLE };
enum { HEX_SHOWN = 64 }; /* bytes of a message */

static const struct cli_option options[] = {
	{ "strict", 0, NULL, "a broken SHOULD counts too", OPT_STRICT, false },
	{ "all", 'a', NULL, "show every time a rule is broken, not only the first of each session", OPT_ALL, false },
	{ "several-clients", 0, NULL, "two connections at once may be two clients'", OPT_SEVERAL, false },
	{ "server-lies", 0, NULL, "the server may have been wrong: do not judge how clients left", OPT_LIES, false },
	{ "interoperable", 0, NULL, "judge also what is asked only of clients that desire it, or where possible",
	  OPT_INTEROPERABLE, false },
	{ 0 },
};

struct found {
	uint16_t connection;
	enum requirement_id rule;
	unsigned times;
};

struct query {
	struct cli *cli;
	struct referee_setup setup;
	bool strict, all;
	/* of the trace at hand */
	const char *path;
	struct trace_record record;
	uint64_t start_ns;
	struct found *found;
	size_t n_found;
	char *last_text; /* what was printed last, and for which record */
	const uint8_t *last_data;
	unsigned long messages;
	bool red;
};

static void
take_options(struct query *q)
{
	for (size_t i = 0; i < q->cli->n_given; i++)
		switch (q->cli->given[i].id) {
		case OPT_STRICT:
			q->strict = true;
			break;
		case OPT_ALL:
			q->all = true;
			break;
		case OPT_SEVERAL:
			q->setup.several_clients = true;
			break;
		case OPT_LIES:
			q->setup.server_lies = true;
			break;
		case OPT_INTEROPERABLE:
			q->setup.most_interoperable = true;
			break;
		}
}

/* ---- what is printed ---- */

static bool
counts(const struct query *q, enum requirement_id r)
{
	enum level level = requirement(r)->level;

	return q->strict || (level != LEVEL_SHOULD && level != LEVEL_SHOULD_NOT);
}

/* How often this session has broken the rule, this time included. */
static unsigned
count_found(struct query *q, uint16_t connection, enum requirement_id r)
{
	for (size_t i = 0; i < q->n_found; i++)
		if (q->found[i].connection == connection && q->found[i].rule == r)
			return ++q->found[i].times;
	q->found = reallocarray(q->found, q->n_found + 1, sizeof(*q->found));
	if (q->found == NULL)
		abort();
	q->found[q->n_found++] = (struct found){ connection, r, 1 };
	return 1;
}

static void
print_broken(void *arg, uint16_t connection, enum requirement_id r, const char *text)
{
	struct query *q = arg;
	const struct requirement *rule = requirement(r);
	bool again;

	q->red |= counts(q, r);
	if (count_found(q, connection, r) > 1 && !q->all)
		return;
	again = q->last_text != NULL && q->last_data == q->record.data.at && strcmp(q->last_text, text) == 0;
	if (!again) {
		printf("%s: connection %u: %s\n", q->path, connection, text);
		if (q->record.kind == TRACE_MESSAGE && q->record.connection == connection)
			describe_record(stdout, &q->record, q->start_ns, HEX_SHOWN);
		free(q->last_text);
		q->last_text = strdup(text);
		q->last_data = q->record.data.at;
	}
	printf("  %s, %s, %s: %s\n", rule->id, level_name(rule->level), rule->where, rule->text);
}

static void
print_sum(const struct query *q)
{
	unsigned long times = 0;

	for (size_t i = 0; i < q->n_found; i++)
		times += q->found[i].times;
	if (times == 0)
		printf("%s: %lu messages of clients, and no rule is broken\n", q->path, q->messages);
	else
		printf("%s: %lu messages of clients, %lu breaches of rules%s\n", q->path, q->messages, times,
		       q->red ? "" : ", none of a MUST");
}

/* ---- traces ---- */

/* The server says so when it starts. */
static bool
has_lies(struct wire w)
{
	struct trace_record r;

	while (trace_next(&w, &r))
		if (r.kind == TRACE_NOTE && r.data.len >= 4 && memcmp(r.data.at, "lie ", 4) == 0)
			return true;
	return false;
}

static void
judge_records(struct query *q, struct wire w)
{
	struct referee_setup setup = q->setup;
	struct referee *ref;
	const struct trace_record *r = &q->record;

	if (!setup.server_lies && has_lies(w)) {
		printf("%s: the server told lies; how clients left is not judged\n", q->path);
		setup.server_lies = true;
	}
	ref = referee_new(&setup, print_broken, q);

	q->start_ns = 0;
	while (trace_next(&w, &q->record)) {
		if (q->start_ns == 0)
			q->start_ns = r->ns;
		q->messages += r->kind == TRACE_MESSAGE && r->direction == TO_SERVER;
		referee_see(ref, r);
	}
	referee_end(ref);
}

static int
judge_mapped(struct query *q, struct wire w)
{
	if (!trace_check(&w))
		return cli_broken(q->cli, "%s: no trace; want a file that 'nbdspec serve --trace FILE' has written",
		                  q->path);
	q->messages = 0;
	q->n_found = 0;
	judge_records(q, w);
	if (q->messages == 0)
		return cli_broken(q->cli, "%s: no client has sent anything, so nothing is judged", q->path);
	print_sum(q);
	return STATUS_OK;
}

static int
judge_trace(struct query *q, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), status;
	struct stat st;
	void *map;

	q->path = path;
	if (fd < 0 || fstat(fd, &st) < 0) {
		status = cli_broken(q->cli, "%s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return status;
	}
	if (!S_ISREG(st.st_mode) || st.st_size == 0) {
		close(fd);
		return cli_broken(q->cli, "%s: no trace; want a file that 'nbdspec serve --trace FILE' has written",
		                  path);
	}
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return cli_broken(q->cli, "%s: %s", path, strerror(errno));
	status = judge_mapped(q, wire(map, (size_t)st.st_size));
	munmap(map, (size_t)st.st_size);
	return status;
}

static int
run_referee(struct cli *cli)
{
	struct query q = { .cli = cli };
	int status = STATUS_OK, one;

	if (cli->n_args == 0)
		return cli_usage_error(cli, "want a trace: nbdspec referee TRACE...");
	take_options(&q);
	for (size_t i = 0; i < cli->n_args; i++) {
		one = judge_trace(&q, cli->args[i]);
		status = one > status ? one : status;
	}
	free(q.found);
	free(q.last_text);
	return status != STATUS_OK ? status : q.red ? STATUS_FAILED : STATUS_OK;
}

COMMAND(referee) = {
	.name = "referee",
	.usage = "[OPTION]... TRACE...",
	.summary = "say which rules of the protocol a client has broken, by the traces of 'nbdspec serve'",
	.help = "Each rule that was broken is printed with what the client did, the message, and the place\n"
		"in the protocol text. A client is held to what the server told it in the same session.\n"
		"Exit status: 0 no rule is broken; 1 one is, a SHOULD only with --strict; 2 usage; 3 one of\n"
		"the files is no trace, or no client has sent anything in it.\n",
	.options = options,
	.run = run_referee,
};
