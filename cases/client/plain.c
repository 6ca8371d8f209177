/* A client's command against servers that are honest, each in another of the ways that the text allows. */
#include "cases/client/host.h"
#include "harness/names.h"
#include "harness/nbd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

CASE_CLIENT(plain, honest,
            "Against an honest server that offers everything the command succeeds, and its copy is exact",
            R(baseline_client_fixed_newstyle), R(baseline_client_simple_replies), R(read_chunks_reassembled))
{
	static const struct {
		const char *name;
		bool simple;
		enum requirement_id copy, end;
	} replies[] = {
		{ "structured replies", false, R(read_chunks_reassembled), R(baseline_client_fixed_newstyle) },
		{ "simple replies", true, R(baseline_client_simple_replies), R(baseline_client_simple_replies) },
	};

	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", replies[i].name) {
			struct host *h = host_new(t, NULL);

			h->config.knob[KNOB_no_structured_replies] = replies[i].simple;
			host_run(h);
			judge_end(h, replies[i].end);
			if (!succeeded(h) && !replies[i].simple)
				broken_values(t, replies[i].end, "exit status 0", h->end.text);
			/* It may need contexts, and without structured replies there are none. */
			if (!succeeded(h))
				observe(t, R(client_disc_any_time), "the client gives up: %s", h->end.text);
			judge_copy(h, replies[i].copy);
			judge_rules(h);
		}
}

static void
judge_freedom(struct host *h, enum requirement_id copy)
{
	judge_end(h, R(client_transmission_no_disconnect));
	judge_copy(h, copy);
	judge_rules(h);
	if (!succeeded(h) && !h->end.killed)
		observe(h->t, R(client_disc_any_time), "the client gives up: %s", h->end.text);
}

CASE_CLIENT(
	plain, freedoms,
	"Whatever freedom an honest server uses, the command ends by itself, and no copy is wrong that it calls good",
	R(read_chunks_reassembled), R(client_transmission_no_disconnect))
{
	for (volatile unsigned k = 0; k < N_KNOBS; k++)
		POINT(t, "%s", knob_name((enum knob)k)) {
			struct host *h = host_new(t, NULL);

			h->config.knob[k] = true;
			host_run(h);
			judge_freedom(h, R(read_chunks_reassembled));
		}
}

/*
 * A pairwise covering array: in any two columns all four combinations stand, since the masks differ. What the text does not
 * allow together is left out.
 */
enum { FLAG_SETS = 16 };

static uint16_t
flag_set(unsigned row)
{
	static const struct {
		uint16_t flag;
		unsigned mask;
	} columns[] = {
		{ NBD_FLAG_READ_ONLY, 1 },       { NBD_FLAG_SEND_FLUSH, 2 },  { NBD_FLAG_SEND_FUA, 4 },
		{ NBD_FLAG_ROTATIONAL, 8 },      { NBD_FLAG_SEND_TRIM, 7 },   { NBD_FLAG_SEND_WRITE_ZEROES, 11 },
		{ NBD_FLAG_CAN_MULTI_CONN, 13 }, { NBD_FLAG_SEND_CACHE, 14 }, { NBD_FLAG_SEND_FAST_ZERO, 3 },
	};
	uint16_t flags = NBD_FLAG_HAS_FLAGS;

	for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++)
		if (__builtin_parity(row & columns[i].mask))
			flags |= columns[i].flag;
	if ((flags & NBD_FLAG_READ_ONLY) != 0)
		flags &= (uint16_t) ~(NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES);
	if ((flags & NBD_FLAG_SEND_WRITE_ZEROES) == 0)
		flags &= (uint16_t)~NBD_FLAG_SEND_FAST_ZERO;
	return flags;
}

CASE_CLIENT(plain, transmission_flags,
            "Whatever transmission flags are set, pair by pair, the command ends by itself, and no copy is wrong that "
            "it calls good",
            R(client_uses_exposed_features), R(client_transmission_no_disconnect))
{
	char text[NAME_MAX_TEXT];

	for (volatile unsigned i = 0; i < FLAG_SETS; i++)
		POINT(t, "%s", name_flags(NAME_TRANSMISSION_FLAG, flag_set(i), text)) {
			struct host *h = host_new(t, NULL);

			h->export.flags = flag_set(i);
			host_run(h);
			judge_freedom(h, R(client_uses_exposed_features));
		}
	observe(t, R(client_uses_exposed_features), "%d sets of flags, pair by pair", FLAG_SETS);
}

/* ---- errors ---- */

static const struct failing {
	const char *name;
	uint16_t type;
} failing[] = {
	{ "READ", NBD_CMD_READ },   { "WRITE", NBD_CMD_WRITE }, { "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES },
	{ "TRIM", NBD_CMD_TRIM },   { "FLUSH", NBD_CMD_FLUSH }, { "BLOCK_STATUS", NBD_CMD_BLOCK_STATUS },
	{ "CACHE", NBD_CMD_CACHE },
};
enum { N_FAILING = sizeof(failing) / sizeof(failing[0]), ALL = 1 << 30 };

/* A client may try again, or do without; but what it calls good must be so, and nobody does without a FLUSH. */
static void
judge_errors(struct host *h, enum requirement_id r)
{
	judge_end(h, r);
	if (h->seen.failed == 0)
		skip(h->t, "command", "the client does not send it");
	if (succeeded(h) && h->failing == NBD_CMD_FLUSH && h->seen.flushes == 0)
		broken_values(h->t, r, "the client says that it failed: every FLUSH did", h->end.text);
	if (succeeded(h) && h->failing == NBD_CMD_READ && h->failures == ALL && !copies(h))
		observe(h->t, R(client_partial_success), "every READ fails, and %s", h->end.text);
	judge_copy(h, r);
	judge_rules(h);
}

CASE_CLIENT(plain, errors,
            "Where commands fail the client ends by itself, and says so, or makes its copy good all the same",
            R(client_error_chunk_fails_reply), R(client_no_data_after_error))
{
	static const char *const styles[] = { "structured", "simple" };

	for (volatile unsigned i = 0; i < 4 * N_FAILING; i++)
		POINT(t, "%s of %s, %s replies", i % 4 < 2 ? "the first" : "each", failing[i / 4].name, styles[i % 2]) {
			struct host *h = host_new(t, NULL);

			h->failing = failing[i / 4].type;
			h->failures = i % 4 < 2 ? 1 : ALL;
			h->config.knob[KNOB_no_structured_replies] = i % 2 != 0;
			host_run(h);
			judge_errors(h, i % 2 == 0 ? R(client_error_chunk_fails_reply) : R(client_no_data_after_error));
		}
}

/* ---- lies ---- */

/* A client that waits for what is kept back from it does what the text asks for; one that falls over it does not. */
enum { FEW = 20, HUNG_ENOUGH = 3 };

static size_t
n_lies(void)
{
	size_t n = 0;

	while (lie_at(n) != NULL)
		n++;
	return n;
}

/*
 * Which lies can be told to this client: all look on while an honest server serves it. One that never gets its turn would
 * be an honest server too.
 */
static const bool *
find_occasions(struct test *t, size_t n)
{
	struct host *h = host_new(t, NULL);
	struct lie_use *uses = calloc(n, sizeof(*uses));
	bool *occasions = calloc(n, sizeof(*occasions));
	unsigned found = 0;

	if (uses == NULL || occasions == NULL)
		abort();
	for (size_t i = 0; i < n; i++)
		uses[i] = (struct lie_use){ .lie = lie_at(i), .nth = 1, .occasion = &occasions[i] };
	h->config.lies = uses;
	h->config.n_lies = n;
	host_run(h);
	/* Who falls over an honest server has not been asked for anything yet. */
	judge_end(h, R(client_transmission_no_disconnect));
	for (size_t i = 0; i < n; i++) {
		occasions[i] &= !lie_at(i)->by_chance;
		found += occasions[i];
	}
	if (found == 0)
		skip(t, "connection", "the client does not connect: %s", h->end.text);
	note(t, "%u of %zu lies can be told to this client", found, n);
	free(uses);
	return occasions;
}

/* Only some of them can be told to a server that does not offer it, so they are no part of a sample. */
static bool
is_of_extension(const struct lie *l)
{
	return strcmp(l->file, "fakeserver/lies/extended.c") == 0;
}

static void
survive(struct test *t)
{
	size_t n = n_lies();
	const bool *occasions = find_occasions(t, n);
	const struct lie *volatile lie;
	volatile unsigned told = 0, n_hung = 0, untold = 0;
	/* Where pairs are enough, so is a sample. */
	bool few = client_pairwise(client_new(t));

	for (volatile size_t i = 0; i < n; i++) {
		if (!occasions[i] || (few && (is_of_extension(lie_at(i)) || told++ % FEW != 0)))
			continue;
		untold += n_hung >= HUNG_ENOUGH;
		if (untold > 0)
			continue;
		lie = lie_at(i);
		POINT(t, "%s", lie->name) {
			struct host *h = host_new(t, NULL);
			struct lie_use use = { .lie = lie, .nth = 1 };

			h->config.lies = &use;
			h->config.n_lies = 1;
			h->lying = true;
			host_run(h);
			n_hung += hung(h);
			judge_end(h, R(client_transmission_no_disconnect));
		}
	}
	if (untold > 0)
		POINT(t, "the other lies")
			skip(t, "an end", "the client hangs over %d lies; %u others are not told", HUNG_ENOUGH, untold);
}

CASE_CLIENT(lies, survived, "Whatever lie a server tells, the client does not crash over it, nor run on without end",
            R(client_transmission_no_disconnect))
{
	survive(t);
}
