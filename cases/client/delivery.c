/* How replies reach the client: in whatever pieces, at whatever time and in whatever order, it makes the same of them. */
#include "cases/client/relay.h"

#include "fakeserver/disk.h"
#include "harness/client.h"
#include "harness/driver.h"
#include "harness/nbd.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GREETING = 18 }; /* bytes */

/* ---- a conversation, again and again ---- */

/* Each leaves the disk as the one before it found it. What the driver lacks is unsupported, each time. */
static const char *const conversation[] = {
	"read 512 512",    "read 4096 1024",   "write 8192 1024 7",         "read 7680 512",
	"zero 12288 4096", "trim 65536 65536", "block_status 65536 131072", "cache 0 4096",
	"flush",
};
enum { SENTENCES = sizeof(conversation) / sizeof(conversation[0]) };

struct talk {
	struct driver_answer connected, answer[SENTENCES], left;
	uint64_t carried; /* bytes to the client */
};

/* What of the protocol a client has not understood that stumbles, by stage. */
struct stages {
	enum requirement_id handshake, transmission;
};

/* The text behind an error's name is for people. */
static bool
same(const struct driver_answer *a, const struct driver_answer *b)
{
	size_t n = a->result == DRIVER_OK ? strlen(a->text) + 1 : strcspn(a->text, " ");

	return a->result == b->result && strncmp(a->text, b->text, n) == 0;
}

static void
expect_same(struct drive *d, const char *request, const struct driver_answer *got, const struct driver_answer *want)
{
	static const char *const results[] = { "ok", "error", "unsupported" };
	char expected[600], instead[600];

	if (want == NULL || same(want, got))
		return;
	snprintf(expected, sizeof(expected), "'%.80s' is answered '%s %.400s', as where nothing is disturbed", request,
	         results[want->result], want->text);
	snprintf(instead, sizeof(instead), "'%s %.400s'", results[got->result], got->text);
	broken_values(d->t, d->owed, expected, instead);
}

/* `plain` is how it goes undisturbed, or NULL where this is that one. */
static void
talk(struct drive *d, struct relay *relay, const struct stages *owed, const struct talk *plain, struct talk *now)
{
	d->owed = owed->handshake;
	relay_forget(relay);
	fake_seed(d->fake, 1);
	fake_fail(d->fake, NBD_CMD_READ, 1, NBD_EIO, false);
	now->connected = ask(d, 1, "connect %s", d->uri);
	expect_same(d, "connect", &now->connected, plain != NULL ? &plain->connected : NULL);
	if (now->connected.result != DRIVER_OK)
		broken(d->t, d->owed, "'connect' is answered '%s'", now->connected.text);
	d->owed = owed->transmission;
	for (unsigned i = 0; i < SENTENCES; i++) {
		now->answer[i] = ask(d, 1, "%s", conversation[i]);
		expect_same(d, conversation[i], &now->answer[i], plain != NULL ? &plain->answer[i] : NULL);
	}
	now->left = ask(d, 1, "disconnect");
	expect_same(d, "disconnect", &now->left, plain != NULL ? &plain->left : NULL);
	now->carried = relay_carried(relay, 1);
	relay_await_end(relay, 1);
}

static void
leave(struct drive *d, struct relay *relay)
{
	must(d, R(baseline_client_disc), 1, "disconnect");
	relay_await_end(relay, relay_connections(relay));
}

/* The first that is undisturbed, so that what the client says then is known to be right. */
static void
talk_plainly(struct drive *d, struct relay *relay, struct talk *plain)
{
	const struct fake_export *e = &d->exports[0];
	enum requirement_id r = R(baseline_client_read);
	const struct stages owed = { R(baseline_client_fixed_newstyle), R(baseline_client_read) };

	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	must_read_disk(d, r, 1, e, 512, 512);
	must_read_disk(d, r, 1, e, 4096, 1024);
	leave(d, relay);
	talk(d, relay, &owed, NULL, plain);
}

static const struct flavour {
	const char *name;
	bool structured;
	enum knob knob;
} flavours[] = {
	{ "structured replies", true, N_KNOBS },
	{ "simple replies", false, KNOB_no_structured_replies },
	{ "a handshake that is not fixed", false, KNOB_no_fixed_newstyle },
	{ "structured replies in many chunks", true, KNOB_read_fragments },
};
enum { N_FLAVOURS = sizeof(flavours) / sizeof(flavours[0]) };

static struct relay *
serve_flavour(struct drive *d, const struct flavour *f, struct talk *plain, struct stages *owed)
{
	struct relay *relay;
	struct driver_answer a;

	drive_serve(d, "", NULL);
	d->config.knob[KNOB_error_messages] = true;
	if (f->knob != N_KNOBS)
		d->config.knob[f->knob] = true;
	relay = relay_new(d);
	d->owed = R(baseline_client_fixed_newstyle);
	ask(d, 1, "set context=base%%3aallocation");
	a = ask(d, 1, "connect %s", d->uri);
	if (a.result != DRIVER_OK && f->knob == KNOB_no_fixed_newstyle)
		skip(d->t, "newstyle", "the client does without newstyle negotiation that is not fixed: %s", a.text);
	if (a.result == DRIVER_OK)
		leave(d, relay);
	talk_plainly(d, relay, plain);
	owed->handshake = R(client_reads_option_reply);
	owed->transmission = f->structured && drive_options(d, NBD_OPT_STRUCTURED_REPLY) > 0
	                             ? R(client_reads_chunk_length)
	                             : R(baseline_client_simple_replies);
	return relay;
}

/* ---- pieces ---- */

CASE_DRIVER(
	delivery, two_pieces,
	"Wherever the server's bytes are cut in two, in the handshake and behind it, the client makes the same of them",
	R(baseline_client_fixed_newstyle), R(client_reads_option_reply), R(client_reads_chunk_length),
	R(baseline_client_simple_replies), R(baseline_client_read))
{
	enum { IN_PAIRS = 12 };
	struct drive *d = drive_new(t);
	static struct talk plain, now;
	static struct stages owed;

	for (volatile unsigned f = 0; f < N_FLAVOURS; f++)
		POINT(t, "%s", flavours[f].name) {
			struct relay *relay = serve_flavour(d, &flavours[f], &plain, &owed);
			uint64_t step = client_pairwise(d->client) ? plain.carried / IN_PAIRS + 1 : 1;

			for (uint64_t cut = 1; cut < plain.carried; cut += step) {
				note(t, "cut behind byte %" PRIu64 " of %" PRIu64, cut, plain.carried);
				relay_plan(relay, &(struct relay_plan){ .cuts = true, .cut = cut });
				owed.handshake = cut < GREETING ? R(baseline_client_fixed_newstyle)
				                                : R(client_reads_option_reply);
				talk(d, relay, &owed, &plain, &now);
			}
			drive_finish(d);
		}
}

CASE_DRIVER(delivery, small_pieces,
            "When the server's bytes come one by one, or a few at a time, the client makes the same of them",
            R(baseline_client_fixed_newstyle), R(client_reads_option_reply), R(client_reads_chunk_length),
            R(baseline_client_simple_replies))
{
	static const size_t pieces[] = { 1, 2, 3, 7, 16, 100 };
	struct drive *d = drive_new(t);
	static struct talk plain, now;
	static struct stages owed;

	for (volatile unsigned f = 0; f < N_FLAVOURS; f++)
		POINT(t, "%s", flavours[f].name) {
			struct relay *relay = serve_flavour(d, &flavours[f], &plain, &owed);

			for (unsigned i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
				if (client_pairwise(d->client) && i != f)
					continue;
				note(t, "%zu bytes at a time", pieces[i]);
				relay_plan(relay, &(struct relay_plan){ .piece = pieces[i] });
				talk(d, relay, &owed, &plain, &now);
			}
			drive_finish(d);
		}
}

/* ---- many at once ---- */

enum { AT_ONCE = 8, REQUEST_BYTES = 28, REPLY_BYTES = 16, READ_STEP = 8192 };

static const struct order {
	const char *name;
	bool structured;
	enum knob knobs[3];
	enum requirement_id broken;
} orders[] = {
	{ "simple replies", false, { KNOB_no_structured_replies, N_KNOBS }, R(baseline_client_simple_replies) },
	{ "simple replies in reverse order",
	  false,
	  { KNOB_no_structured_replies, KNOB_replies_out_of_order, N_KNOBS },
	  R(client_takes_replies_unordered) },
	{ "simple replies in any order",
	  false,
	  { KNOB_no_structured_replies, KNOB_replies_shuffled, N_KNOBS },
	  R(client_takes_replies_unordered) },
	{ "structured replies", true, { N_KNOBS }, R(client_reads_chunk_length) },
	{ "structured replies in reverse order",
	  true,
	  { KNOB_replies_out_of_order, N_KNOBS },
	  R(client_takes_replies_unordered) },
	{ "structured replies to requests taken in any order",
	  true,
	  { KNOB_requests_out_of_order, N_KNOBS },
	  R(client_takes_replies_unordered) },
	{ "chunks of several replies in turn",
	  true,
	  { KNOB_chunks_interleaved, KNOB_read_fragments, N_KNOBS },
	  R(client_takes_interleaved_chunks) },
	{ "chunks of several replies in turn, each reply's in any order",
	  true,
	  { KNOB_chunks_interleaved, KNOB_read_chunks_shuffled, N_KNOBS },
	  R(client_takes_interleaved_chunks) },
};
enum { N_ORDERS = sizeof(orders) / sizeof(orders[0]) };

static const struct pace {
	const char *name;
	size_t piece;
	bool together;
} paces[] = {
	{ "as they come", 0, false },
	{ "all in one piece", 0, true },
	{ "by 7", 7, true },
	{ "by 29", 29, true },
};
enum { N_PACES = sizeof(paces) / sizeof(paces[0]) };

static uint32_t
length_of(unsigned i)
{
	return 512 * (i % 4 + 1);
}

static void
need_depth(struct drive *d, unsigned depth)
{
	if (driver_depth(d->driver) < depth)
		skip(d->t, "depth", "the driver has no more than %u requests in flight", driver_depth(d->driver));
}

/* All requests reach the server together, and with .together the client finds all replies at once. */
static void
ask_together(struct drive *d, struct relay *relay, const struct pace *pace, unsigned tag[AT_ONCE])
{
	size_t replies = 0;

	relay_hold(relay, 1, TO_SERVER);
	if (pace->together)
		relay_hold(relay, 1, TO_CLIENT);
	for (unsigned i = 0; i < AT_ONCE; i++) {
		tag[i] = drive_send(d, 1, "read %u %u", i * READ_STEP, length_of(i));
		replies += REPLY_BYTES + length_of(i);
	}
	if (!relay_gather(relay, 1, TO_SERVER, (size_t)AT_ONCE * REQUEST_BYTES))
		skip(d->t, "requests in flight", "the client waits for an answer before it sends all of %d reads",
		     AT_ONCE);
	relay_release(relay, 1, TO_SERVER);
	if (pace->together)
		relay_gather(relay, 1, TO_CLIENT, replies);
	relay_release(relay, 1, TO_CLIENT);
}

static void
expect_reads(struct drive *d, enum requirement_id r, const unsigned tag[AT_ONCE])
{
	for (unsigned n = 0; n < AT_ONCE; n++) {
		struct driver_answer a = drive_take(d);
		unsigned i = 0;
		uint32_t want;

		while (i < AT_ONCE && tag[i] != a.tag)
			i++;
		if (i == AT_ONCE)
			harness_error(d->t, "an answer to a request that was not sent: %u", a.tag);
		want = disk_digest(&d->exports[0], i * READ_STEP, length_of(i));
		EXPECT(d->t, r, a.result == DRIVER_OK, "'read %u %u' fails: %s", i * READ_STEP, length_of(i), a.text);
		EXPECT(d->t, r, strtoul(a.text, NULL, 16) == want,
		       "'read %u %u' gives other data than the disk's: digest %s in place of %08x", i * READ_STEP,
		       length_of(i), a.text, want);
	}
}

static void
read_together(struct drive *d, const struct order *o, const struct pace *pace)
{
	unsigned tag[AT_ONCE];
	struct relay *relay;

	drive_serve(d, "", NULL);
	for (const enum knob *k = o->knobs; *k != N_KNOBS; k++)
		d->config.knob[*k] = true;
	d->owed = o->broken;
	relay = relay_new(d);
	relay_plan(relay, &(struct relay_plan){ .piece = pace->piece });
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	ask_together(d, relay, pace, tag);
	expect_reads(d, o->broken, tag);
	must(d, R(baseline_client_disc), 1, "disconnect");
	drive_finish(d);
}

CASE_DRIVER(delivery, in_flight,
            "When many replies come together, in any order, their chunks in turn, each request gets what is its own",
            R(client_takes_replies_unordered), R(client_takes_interleaved_chunks), R(client_reads_chunk_length),
            R(baseline_client_simple_replies))
{
	struct drive *d = drive_new(t);

	need_depth(d, AT_ONCE);
	for (volatile unsigned i = 0; i < N_ORDERS * N_PACES; i += client_pairwise(d->client) ? 3 : 1)
		POINT(t, "%s, %s", orders[i / N_PACES].name, paces[i % N_PACES].name)
			read_together(d, &orders[i / N_PACES], &paces[i % N_PACES]);
}

/* ---- late ---- */

static const struct waiting {
	const char *request;
	enum requirement_id broken;
} waiting[] = {
	{ "read 4096 4096", R(baseline_client_read) },
	{ "write 8192 4096 7", R(baseline_client_write) },
};

CASE_DRIVER(delivery, late,
            "When a reply is long in coming the client says nothing of success before it, and takes it when it comes",
            R(baseline_client_read), R(baseline_client_write))
{
	enum { QUIET_MS = 20 };
	struct drive *d = drive_new(t);
	struct driver_answer a;

	for (volatile unsigned i = 0; i < sizeof(waiting) / sizeof(waiting[0]); i++)
		POINT(t, "%s", waiting[i].request) {
			struct relay *relay;

			drive_serve(d, "", NULL);
			d->owed = waiting[i].broken;
			relay = relay_new(d);
			must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
			relay_hold(relay, 1, TO_CLIENT);
			drive_send(d, 1, "%s", waiting[i].request);
			if (drive_take_soon(d, &a, QUIET_MS))
				broken(t, waiting[i].broken, "'%s' is answered '%s' before the server's reply",
				       waiting[i].request, a.result == DRIVER_OK ? "ok" : a.text);
			relay_release(relay, 1, TO_CLIENT);
			a = drive_take(d);
			if (a.result == DRIVER_UNSUPPORTED)
				skip(t, waiting[i].request, "the driver has it not");
			EXPECT(t, waiting[i].broken, a.result == DRIVER_OK, "'%s' fails: %s", waiting[i].request,
			       a.text);
			must(d, R(baseline_client_disc), 1, "disconnect");
			drive_finish(d);
		}
}

/* ---- both ways at once ---- */

enum { LARGE = 1 << 20, LARGE_PAIRS = 8 };

static void
check_large(struct drive *d, unsigned pairs, const unsigned *tag, uint32_t want)
{
	for (unsigned n = 0; n < 2 * pairs; n++) {
		struct driver_answer a = drive_take(d);
		bool is_read = false;

		for (unsigned i = 0; i < pairs; i++)
			is_read |= tag[i] == a.tag;
		EXPECT(d->t, is_read ? R(baseline_client_read) : R(baseline_client_write), a.result == DRIVER_OK,
		       "a %s of %d bytes fails: %s", is_read ? "read" : "write", LARGE, a.text);
		EXPECT(d->t, R(baseline_client_read), !is_read || strtoul(a.text, NULL, 16) == want,
		       "a read of %d bytes gives digest %s in place of %08x", LARGE, a.text, want);
	}
}

/* More than the sockets hold, both ways: who does not read while he writes waits for ever, as this server does too. */
static void
fill_both_ways(struct drive *d, bool structured, bool reads_first)
{
	unsigned pairs = client_pairwise(d->client) ? 1 : LARGE_PAIRS, tag[LARGE_PAIRS];

	drive_serve(d, "size=64M", NULL);
	d->config.knob[KNOB_no_structured_replies] = !structured;
	relay_plan(relay_new(d), &(struct relay_plan){ .serial = true });
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	for (unsigned i = 0; i < pairs; i++) {
		if (reads_first)
			tag[i] = drive_send(d, 1, "read 0 %d", LARGE);
		drive_send(d, 1, "write %u %d 7", LARGE * (1 + i), LARGE);
		if (!reads_first)
			tag[i] = drive_send(d, 1, "read 0 %d", LARGE);
	}
	check_large(d, pairs, tag, disk_digest(&d->exports[0], 0, LARGE));
	for (unsigned i = 0; i < pairs; i++)
		must_read_disk(d, R(baseline_client_write), 1, &d->exports[0], (uint64_t)LARGE * (1 + i), LARGE);
	must(d, R(baseline_client_disc), 1, "disconnect");
	drive_finish(d);
}

CASE_DRIVER(
	delivery, both_ways,
	"When large reads and writes are on their way at once, more than the sockets hold, all of them come to an end",
	R(baseline_client_read), R(baseline_client_write), R(client_takes_replies_unordered))
{
	struct drive *d = drive_new(t);

	need_depth(d, 2);
	drive_needs(d, "write", NULL);
	d->owed = R(client_takes_replies_unordered);
	for (volatile unsigned i = 0; i < 4; i++)
		POINT(t, "%s replies, the %s first", i % 2 == 0 ? "structured" : "simple", i < 2 ? "read" : "write")
			fill_both_ways(d, i % 2 == 0, i < 2);
}
