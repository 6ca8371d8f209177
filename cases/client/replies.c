/*
 * What the client makes of the replies in transmission that an honest server may send: chunks of any kind in any order,
 * replies in any order, errors among them.
 */
#include "cases/client/answers.h"

#include "fakeserver/disk.h"
#include "harness/client.h"
#include "harness/clock.h"
#include "harness/nbd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DONE = NBD_REPLY_FLAG_DONE, SEVERAL = 5 };

/* Some of the combinations where pairs are enough. */
static unsigned
step(struct drive *d)
{
	return client_pairwise(d->client) ? SEVERAL : 1;
}

/* ---- the chunks of a READ ---- */

enum { PARTS = 4, ORDERS = 24, READ_AT = 8192, READ_LENGTH = 8192 };
static const uint32_t part_ends[PARTS] = { 512, 1537, 4096, READ_LENGTH };

struct cut_read {
	unsigned order[PARTS];
	bool ends_with_none, holes;
	uint64_t at;
};

static uint32_t
part_begin(unsigned part)
{
	return part == 0 ? 0 : part_ends[part - 1];
}

static bool
answer_in_parts(void *arg, struct conn *c, const struct incoming *m)
{
	const struct cut_read *cut = arg;

	if (m->kind != MSG_REQUEST || m->request.type != NBD_CMD_READ || m->request.offset != cut->at ||
	    m->request.length != READ_LENGTH || !c->structured)
		return false;
	for (unsigned i = 0; i < PARTS; i++) {
		unsigned part = cut->order[i];
		uint32_t at = part_begin(part), length = part_ends[part] - at;
		uint16_t flags = i + 1 == PARTS && !cut->ends_with_none ? DONE : NOT_DONE;

		if (cut->holes && part % 2 != 0)
			say_hole(c, flags, at, length);
		else
			say_data(c, flags, at, length);
	}
	return cut->ends_with_none ? say_none(c) : true;
}

/* Every second part of the range reads as zeroes. */
static void
make_holes(const struct fake_export *e, uint64_t at)
{
	for (unsigned part = 1; part < PARTS; part += 2)
		disk_zero(e->disk, at + part_begin(part), part_ends[part] - part_begin(part), DISK_TRIMMED);
}

static void
fill_there(const struct fake_export *e, uint64_t at, uint32_t length)
{
	uint8_t *data = malloc(length);
	enum disk_state failed;

	if (data == NULL)
		abort();
	driver_pattern(DRIVE_PATTERN, at, length, data);
	disk_write(e->disk, at, length, data, &failed);
	free(data);
}

static void
read_in_parts(struct drive *d, struct cut_read *cut, const char *settings)
{
	drive_serve(d, settings, NULL);
	d->owed = R(read_chunks_reassembled);
	fill_there(&d->exports[0], cut->at, READ_LENGTH);
	if (cut->holes)
		make_holes(&d->exports[0], cut->at);
	drive_follow(d, &(struct script){ .take = answer_in_parts, .arg = cut });
	enter_for_chunks(d, NULL);
	must_read_disk(d, R(read_chunks_reassembled), 1, &d->exports[0], cut->at, READ_LENGTH);
	must_go_on(d, R(client_reads_chunk_length));
}

CASE_DRIVER(replies, parts,
            "In whatever order the chunks of a READ come, data or holes, the read delivers them in their right order",
            R(read_chunks_reassembled), R(client_reads_chunk_length), R(none_chunk_taken_as_final))
{
	static struct cut_read cut;
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 4 * ORDERS; i += step(d))
		POINT(t, "order %u, %s%s", i / 4, i % 2 != 0 ? "data and holes" : "data",
		      i % 4 < 2 ? "" : ", then NONE") {
			cut = (struct cut_read){ .holes = i % 2 != 0, .ends_with_none = i % 4 >= 2, .at = READ_AT };
			permutation(cut.order, PARTS, i / 4);
			read_in_parts(d, &cut, "");
		}
}

CASE_DRIVER(replies, parts_far_out, "The chunks of a READ far into a large export are put in their right order, too",
            R(read_chunks_reassembled))
{
	static const uint64_t places[] = { UINT64_C(1) << 31, (UINT64_C(1) << 32) - 4096, UINT64_C(5) << 32,
		                           (UINT64_C(1) << 62) - READ_LENGTH };
	static struct cut_read cut;
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 4; i++)
		POINT(t, "offset %llu", (unsigned long long)places[i]) {
			cut = (struct cut_read){ .holes = i % 2 != 0, .ends_with_none = i % 2 == 0, .at = places[i] };
			permutation(cut.order, PARTS, 7 * (i + 1) % ORDERS);
			read_in_parts(d, &cut, "size=4611686018427387904");
		}
}

static const enum knob cutting[] = { KNOB_read_fragments,       KNOB_read_halves,          KNOB_read_holes,
	                             KNOB_read_chunks_reversed, KNOB_read_chunks_shuffled, KNOB_read_overhead_counts,
	                             KNOB_read_ends_with_none };
enum { N_CUTTING = sizeof(cutting) / sizeof(cutting[0]) };

static void
read_everything(struct drive *d, enum knob k)
{
	static const uint32_t lengths[] = { 512, 513, 4096, 65536, 262143, 1 << 20 };
	const struct fake_export *e = &d->exports[0];

	drive_serve(d, "size=2M", NULL);
	d->config.knob[k] = true;
	d->owed = R(read_chunks_reassembled);
	for (uint64_t at = 8192; at < 1 << 20; at += 40960)
		disk_zero(e->disk, at, 4096, DISK_TRIMMED);
	enter_for_chunks(d, NULL);
	for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
		must_read_disk(d, R(read_chunks_reassembled), 1, e, 4096, lengths[i]);
	must_go_on(d, R(client_reads_chunk_length));
}

CASE_DRIVER(replies, cut_reads,
            "However an honest server cuts a READ into chunks, and ends it, the read delivers the data of the disk",
            R(read_chunks_reassembled), R(client_reads_chunk_length), R(none_chunk_taken_as_final))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_CUTTING; i++)
		POINT(t, "%s", knob_name(cutting[i]))
			read_everything(d, cutting[i]);
}

/* ---- NBD_REPLY_TYPE_NONE, and flags ---- */

static const struct operation {
	const char *words, *name, *flag;
} operations[] = {
	{ "read 4096 4096", "read", NULL },     { "read 4096 4096 df", "read", "df" },
	{ "write 8192 4096 7", "write", NULL }, { "flush", "flush", NULL },
	{ "trim 16384 4096", "trim", NULL },    { "zero 24576 4096", "zero", NULL },
	{ "cache 32768 4096", "cache", NULL },  { "block_status 0 65536", "block_status", NULL },
};
enum { N_OPERATIONS = sizeof(operations) / sizeof(operations[0]), N_READS = 2 };

static void
do_operation(struct drive *d, enum requirement_id r, const struct operation *o)
{
	if (!driver_has(d->driver, o->name, o->flag))
		return;
	if (o < operations + N_READS && o->flag == NULL)
		must_read_disk(d, r, 1, &d->exports[0], 4096, 4096);
	else
		must(d, r, 1, "%s", o->words);
}

/* That the client can do it at all, with simple replies: so that nothing else is blamed on chunks. */
static void
serve_none(struct drive *d, bool none)
{
	static const enum knob ends[] = { KNOB_structured_successes, KNOB_read_ends_with_none, KNOB_df_ends_with_none,
		                          KNOB_status_ends_with_none };

	drive_serve(d, "", NULL);
	for (unsigned i = 0; none && i < sizeof(ends) / sizeof(ends[0]); i++)
		d->config.knob[ends[i]] = true;
	enter_for_chunks(d, "base%3aallocation");
}

CASE_DRIVER(replies, none, "A reply that ends in NBD_REPLY_TYPE_NONE, without an error before it, is a success",
            R(none_chunk_taken_as_success), R(none_chunk_taken_as_final))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_OPERATIONS; i++)
		POINT(t, "%s", operations[i].words) {
			const struct operation *o = &operations[i];
			enum requirement_id r =
				i < N_READS ? R(none_chunk_taken_as_final) : R(none_chunk_taken_as_success);

			drive_needs(d, o->name, o->flag);
			serve_none(d, false);
			if (ask(d, 1, "%s", o->words).result != DRIVER_OK)
				skip(t, o->name, "the client does not do this here");
			must(d, R(baseline_client_disc), 1, "disconnect");
			serve_none(d, true);
			d->owed = r;
			do_operation(d, r, o);
			must_go_on(d, r);
		}
}

static void
add_flags(void *arg, struct conn *c, struct outgoing *m)
{
	(void)c;
	if (m->kind == MSG_CHUNK)
		m->chunk.flags |= *(const uint16_t *)arg;
}

static void
with_flags(struct drive *d, uint16_t *flags)
{
	enum requirement_id r = R(reply_flags_unknown_ignored);

	drive_serve(d, "", NULL);
	d->config.knob[KNOB_structured_successes] = d->config.knob[KNOB_read_halves] = true;
	d->owed = r;
	drive_follow(d, &(struct script){ .edit = add_flags, .arg = flags });
	enter_for_chunks(d, "base%3aallocation");
	for (unsigned i = 0; i < N_OPERATIONS; i++)
		do_operation(d, r, &operations[i]);
	fake_fail(d->fake, NBD_CMD_READ, 1, NBD_EIO, false);
	must_fail(d, r, 1, "read 4096 4096");
	must_go_on(d, r);
}

CASE_DRIVER(replies, flags, "Flags of a chunk that nobody knows change nothing", R(reply_flags_unknown_ignored))
{
	static uint16_t flags;
	struct drive *d = drive_new(t);

	for (volatile unsigned bit = 1; bit <= 16; bit += client_pairwise(d->client) ? 7 : 1) {
		flags = bit < 16 ? (uint16_t)(1u << bit) : 0xfffe;
		POINT(t, "flags 0x%04x", flags)
			with_flags(d, &flags);
	}
}

/* ---- many replies ---- */

static void
say_disk(struct conn *c)
{
	static uint8_t data[SLOT];

	disk_read(c->export->disk, c->request->offset, c->request->length, data);
	say_simple(c, NBD_SUCCESS, data, c->request->length);
}

static void
speak_in_order(const struct gather *g, struct conn *c)
{
	for (unsigned i = 0; i < g->n; i++) {
		turn_to(g, c, g->order[i]);
		if (c->structured)
			say_success(c, 0);
		else
			say_disk(c);
	}
}

static void
serve_gather(struct drive *d, struct gather *g, bool structured)
{
	static const uint32_t lengths[GATHERED_MOST] = { 4096, 512, 16384, 8192 };

	*g = (struct gather){ .n = GATHERED_MOST };
	memcpy(g->length, lengths, sizeof(lengths));
	drive_serve(d, "", NULL);
	d->config.knob[KNOB_no_structured_replies] = !structured;
}

static void
expect_all(struct drive *d, struct gather *g, enum requirement_id r)
{
	struct driver_answer answer[GATHERED_MOST];

	d->owed = r;
	gather_reads(d, g, answer);
	for (unsigned i = 0; i < g->n; i++)
		expect_gathered(d, r, g, i, &answer[i]);
	must_go_on(d, r);
}

CASE_DRIVER(replies, unordered,
            "When several reads are answered in another order than they were sent, each gets its own data",
            R(client_takes_replies_unordered))
{
	static struct gather g;
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 2 * ORDERS; i += step(d))
		POINT(t, "order %u, %s replies", i / 2, i % 2 != 0 ? "structured" : "simple") {
			serve_gather(d, &g, i % 2 != 0);
			permutation(g.order, GATHERED_MOST, i / 2);
			g.speak = speak_in_order;
			expect_all(d, &g, R(client_takes_replies_unordered));
		}
}

/* .order: whose chunk comes next; each read has three, the middle one last. */
enum { CHUNKS = 3, TURNS = CHUNKS * 4, N_WEAVES = 6 };

static void
speak_interleaved(const struct gather *g, struct conn *c)
{
	static const unsigned piece[CHUNKS] = { 0, 2, 1 };
	unsigned said[GATHERED_MOST] = { 0 };

	for (unsigned i = 0; i < TURNS; i++) {
		unsigned n = g->order[i], k = said[n]++;
		uint32_t part = g->length[n] / 4, at[CHUNKS] = { 0, part, 3 * part },
			 size[CHUNKS] = { part, 2 * part, part };

		turn_to(g, c, n);
		say_data(c, k + 1 == CHUNKS ? DONE : NOT_DONE, at[piece[k]], size[piece[k]]);
	}
}

CASE_DRIVER(replies, interleaved, "When the chunks of several replies come in turn, each read gets its own data",
            R(client_takes_interleaved_chunks))
{
	static const unsigned weaves[N_WEAVES][TURNS] = {
		{ 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3 }, { 0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2, 3 },
		{ 0, 1, 1, 1, 0, 2, 2, 2, 0, 3, 3, 3 }, { 3, 2, 1, 0, 0, 0, 1, 1, 2, 2, 3, 3 },
		{ 2, 0, 2, 1, 2, 3, 0, 1, 3, 0, 1, 3 }, { 0, 0, 1, 1, 2, 2, 3, 3, 3, 2, 1, 0 },
	};
	static struct gather g;
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_WEAVES; i++)
		POINT(t, "weave %u", i) {
			serve_gather(d, &g, true);
			memcpy(g.order, weaves[i], sizeof(weaves[i]));
			g.speak = speak_interleaved;
			expect_all(d, &g, R(client_takes_interleaved_chunks));
		}
}

/* ---- errors among replies ---- */

struct failing {
	bool structured;
	uint16_t type; /* of the error chunk */
	unsigned text; /* bytes */
};
static struct failing failing;
enum { THE_FAILING = 1 };

static void
speak_failing(const struct gather *g, struct conn *c)
{
	static char text[NBD_MAX_STRING + 1];

	memset(text, 'x', failing.text);
	text[failing.text] = '\0';
	turn_to(g, c, THE_FAILING);
	if (failing.structured)
		say_failure(c, DONE, failing.type, NBD_EIO, text, 256);
	else
		say_simple(c, NBD_EIO, NULL, 0);
	for (unsigned n = 0; n < g->n; n++)
		if (n != THE_FAILING) {
			turn_to(g, c, n);
			if (failing.structured)
				say_success(c, 0);
			else
				say_disk(c);
		}
}

/* The reads behind the error are lost with the connection where the client is out of step, and alone where it mixes them up. */
static void
judge_failing(struct drive *d, const struct gather *g, const struct driver_answer *answer, enum requirement_id in_step,
              enum requirement_id fails)
{
	bool lives = ask(d, 1, "read 65536 4096").result == DRIVER_OK;

	for (unsigned n = 0; n < g->n; n++)
		if (n != THE_FAILING)
			expect_gathered(
				d, lives && answer[n].result != DRIVER_OK ? R(client_takes_replies_unordered) : in_step,
				g, n, &answer[n]);
	EXPECT(d->t, fails, answer[THE_FAILING].result != DRIVER_OK,
	       "a read that the server has failed is answered 'ok'");
	must_go_on(d, in_step);
}

CASE_DRIVER(
	replies, one_fails,
	"When one of several reads fails, with a text of any length, it alone fails, and the others have their data",
	R(client_no_data_after_error), R(client_error_chunk_fails_reply), R(client_reads_chunk_length),
	R(client_takes_replies_unordered), R(baseline_client_simple_replies))
{
	static const unsigned texts[] = { 0, 1, 13, 255, NBD_MAX_STRING };
	static struct gather g;
	struct driver_answer answer[GATHERED_MOST];
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 11; i++) {
		failing = (struct failing){ i > 0, i % 2 != 0 ? NBD_REPLY_TYPE_ERROR : NBD_REPLY_TYPE_ERROR_OFFSET,
			                    i > 0 ? texts[(i - 1) / 2] : 0 };
		POINT(t, "%s, %u bytes of text",
		      i == 0       ? "simple reply"
		      : i % 2 != 0 ? "NBD_REPLY_TYPE_ERROR"
		                   : "NBD_REPLY_TYPE_ERROR_OFFSET",
		      failing.text) {
			enum requirement_id in_step =
				i > 0 ? R(client_reads_chunk_length) : R(client_no_data_after_error);

			serve_gather(d, &g, failing.structured);
			g.speak = speak_failing;
			d->owed = in_step;
			gather_reads(d, &g, answer);
			judge_failing(d, &g, answer, in_step,
			              i > 0 ? R(client_error_chunk_fails_reply) : R(baseline_client_simple_replies));
		}
	}
}

/* ---- error chunks ---- */

enum { UNKNOWN_ERROR = 0x8003, HIGHEST_ERROR = 0xffff, FIRST_FAILS = 4096 };

/*
 * What the reply consists of: D data, d and e its halves; S extents; N NBD_REPLY_TYPE_NONE; E NBD_REPLY_TYPE_ERROR, O
 * NBD_REPLY_TYPE_ERROR_OFFSET, U and V error chunks of unknown types. The last one is marked so.
 */
static const struct failure {
	const char *words, *name, *chunks;
	enum requirement_id broken;
} failures[] = {
	{ "read 65536 8192", "read", "E", R(client_error_chunk_fails_reply) },
	{ "read 65536 8192", "read", "EN", R(client_error_chunk_fails_reply) },
	{ "read 65536 8192", "read", "EE", R(client_error_chunk_fails_reply) },
	{ "read 65536 8192", "read", "DE", R(read_error_voids_data) },
	{ "read 65536 8192", "read", "dE", R(read_error_voids_data) },
	{ "read 65536 8192", "read", "deE", R(read_error_voids_data) },
	{ "read 65536 8192", "read", "deEN", R(read_error_voids_data) },
	{ "read 65536 8192", "read", "ED", R(read_error_voids_data) },
	{ "read 65536 8192", "read", "Ede", R(read_error_voids_data) },
	{ "read 65536 8192", "read", "dEe", R(read_error_voids_data) },
	{ "read 65536 8192", "read", "edE", R(read_error_voids_data) },
	{ "read 65536 8192", "read", "O", R(client_error_chunk_fails_reply) },
	{ "read 65536 8192", "read", "DO", R(client_error_chunk_fails_reply) },
	{ "read 65536 8192", "read", "deO", R(client_error_chunk_fails_reply) },
	{ "read 65536 8192", "read", "eON", R(client_error_chunk_fails_reply) },
	{ "read 65536 8192", "read", "Oe", R(client_error_chunk_fails_reply) },
	{ "read 65536 8192", "read", "U", R(unknown_error_chunk_fails) },
	{ "read 65536 8192", "read", "UN", R(unknown_error_chunk_fails) },
	{ "read 65536 8192", "read", "DU", R(unknown_error_chunk_fails) },
	{ "read 65536 8192", "read", "UD", R(unknown_error_chunk_fails) },
	{ "read 65536 8192", "read", "dVe", R(unknown_error_chunk_fails) },
	{ "write 65536 8192 7", "write", "E", R(client_error_chunk_fails_reply) },
	{ "write 65536 8192 7", "write", "EN", R(client_error_chunk_fails_reply) },
	{ "write 65536 8192 7", "write", "O", R(client_error_chunk_fails_reply) },
	{ "write 65536 8192 7", "write", "U", R(unknown_error_chunk_fails) },
	{ "write 65536 8192 7", "write", "VN", R(unknown_error_chunk_fails) },
	{ "zero 65536 8192", "zero", "ON", R(client_error_chunk_fails_reply) },
	{ "zero 65536 8192", "zero", "U", R(unknown_error_chunk_fails) },
	{ "block_status 65536 8192", "block_status", "E", R(client_error_chunk_fails_reply) },
	{ "block_status 65536 8192", "block_status", "SE", R(error_chunk_no_partial_success) },
	{ "block_status 65536 8192", "block_status", "SEN", R(error_chunk_no_partial_success) },
	{ "block_status 65536 8192", "block_status", "ES", R(error_chunk_no_partial_success) },
	{ "block_status 65536 8192", "block_status", "SO", R(client_error_chunk_fails_reply) },
	{ "block_status 65536 8192", "block_status", "U", R(unknown_error_chunk_fails) },
	{ "block_status 65536 8192", "block_status", "SV", R(unknown_error_chunk_fails) },
};
enum { N_FAILURES = sizeof(failures) / sizeof(failures[0]), FAILS_AT = 65536, FAILS_FOR = 8192 };

static void
say_letter(struct conn *c, char letter, uint16_t flags)
{
	static const char letters[] = "EOUV";
	static const uint16_t types[] = { NBD_REPLY_TYPE_ERROR, NBD_REPLY_TYPE_ERROR_OFFSET, UNKNOWN_ERROR,
		                          HIGHEST_ERROR };
	uint32_t half = c->request->length / 2;

	if (letter == 'D')
		say_data(c, flags, 0, 2 * half);
	else if (letter == 'd' || letter == 'e')
		say_data(c, flags, letter == 'd' ? 0 : half, half);
	else if (letter == 'S')
		say_extents(c, flags, c->contexts[0].id, &(struct extent){ 2 * half, 0 }, 1);
	else if (letter == 'N')
		say_none(c);
	else
		say_failure(c, flags, types[strchr(letters, letter) - letters], NBD_EIO, "it fails", 1024);
}

static bool
answer_by_letters(void *arg, struct conn *c, const struct incoming *m)
{
	const struct failure *f = arg;

	if (m->kind != MSG_REQUEST || !c->structured || m->request.offset != FAILS_AT || m->request.length != FAILS_FOR)
		return false;
	for (const char *letter = f->chunks; *letter != '\0'; letter++)
		say_letter(c, *letter, letter[1] == '\0' ? DONE : NOT_DONE);
	return true;
}

static void
must_fail_by(struct drive *d, const struct failure *f)
{
	drive_needs(d, f->name, NULL);
	drive_serve(d, "contexts=base:allocation", NULL);
	d->owed = f->broken;
	drive_follow(d, &(struct script){ .take = answer_by_letters, .arg = (void *)f });
	enter_for_chunks(d, "base%3aallocation");
	must_fail(d, f->broken, 1, "%s", f->words);
	if (f->broken == R(unknown_error_chunk_fails))
		may_go_on(d, R(client_reads_chunk_length), R(unknown_error_chunk_may_continue));
	else
		must_go_on(d, R(client_reads_chunk_length));
}

CASE_DRIVER(replies, errors,
            "A reply with an error chunk in it is an error, whatever other chunks stand before or behind it",
            R(client_error_chunk_fails_reply), R(read_error_voids_data), R(error_chunk_no_partial_success),
            R(unknown_error_chunk_fails), R(client_reads_chunk_length))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_FAILURES; i++)
		POINT(t, "%s, %s", failures[i].name, failures[i].chunks)
			must_fail_by(d, &failures[i]);
}

/* ---- what the user wants, and may rely on ---- */

static void
trim_and_read(struct drive *d, enum knob k)
{
	enum requirement_id r = R(trim_contents_not_assumed);
	const struct fake_export *e = &d->exports[0];

	drive_needs(d, "trim", NULL);
	drive_serve(d, "", NULL);
	if (k != N_KNOBS)
		d->config.knob[k] = true;
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	must_read_disk(d, R(baseline_client_read), 1, e, 0, 131072);
	if (ask(d, 1, "trim 16384 65536").result != DRIVER_OK)
		skip(d->t, "trim", "the client does not trim here");
	must_read_disk(d, r, 1, e, 16384, 65536);
	must_read_disk(d, r, 1, e, 20480, 4096);
	must_read_disk(d, r, 1, e, 0, 131072);
	if (driver_has(d->driver, "zero", NULL) && ask(d, 1, "zero 131072 8192").result == DRIVER_OK) {
		const uint8_t *zeroes = calloc(1, 8192);

		EXPECT(d->t, r, disk_digest(e, 131072, 8192) == driver_digest(zeroes, 8192),
		       "'zero 131072 8192' is answered 'ok', and the server was not asked to make zeroes there");
		free((void *)zeroes);
	}
	must_go_on(d, r);
}

CASE_DRIVER(replies, trimmed, "What was trimmed is read from the server, whatever the server has made of it",
            R(trim_contents_not_assumed))
{
	static const enum knob knobs[] = { N_KNOBS, KNOB_trim_does_nothing, KNOB_trim_scrambles, KNOB_trim_rounds };
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < sizeof(knobs) / sizeof(knobs[0]); i++)
		POINT(t, "%s", knobs[i] == N_KNOBS ? "trimmed" : knob_name(knobs[i]))
			trim_and_read(d, knobs[i]);
}

static void
want_flag(struct drive *d, enum requirement_id r, const char *request, uint16_t type, uint16_t flag)
{
	unsigned sent;

	drive_mark(d);
	if (ask(d, 1, "%s", request).result != DRIVER_OK)
		skip(d->t, request, "the client does not do this here");
	sent = drive_sent(d, type, 0);
	if (sent > drive_sent(d, type, flag))
		deviates(d->t, r, "requests with the flag that the user asked for", "some without it");
	must_go_on(d, r);
}

CASE_DRIVER(replies, flags_asked_for,
            "Where the user asks for a READ in one chunk, or for zeroes without a hole, the request says so",
            R(df_set_when_needed), R(no_hole_set_when_wanted))
{
	struct drive *d = drive_new(t);

	POINT(t, "df") {
		drive_needs(d, "read", "df");
		drive_serve(d, "", NULL);
		enter_for_chunks(d, NULL);
		want_flag(d, R(df_set_when_needed), "read 4096 8192 df", NBD_CMD_READ, NBD_CMD_FLAG_DF);
	}
	POINT(t, "no-hole") {
		drive_needs(d, "zero", "no-hole");
		drive_serve(d, "", NULL);
		must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
		want_flag(d, R(no_hole_set_when_wanted), "zero 4096 8192 no-hole", NBD_CMD_WRITE_ZEROES,
		          NBD_CMD_FLAG_NO_HOLE);
	}
}

/* ---- FLUSH ---- */

/* A command whose reply is kept back; a FLUSH meanwhile does not cover it. */
struct kept {
	uint16_t type;
	struct conn *c;
	struct request request;
	bool waits, over, flushed, fua;
};

static bool
keep_back(void *arg, struct conn *c, const struct incoming *m)
{
	struct kept *k = arg;

	if (m->kind != MSG_REQUEST)
		return false;
	k->flushed |= m->request.type == NBD_CMD_FLUSH && k->waits;
	if (m->request.type != k->type || k->c != NULL || k->over)
		return false;
	k->fua = (m->request.flags & NBD_CMD_FLAG_FUA) != 0;
	k->request = m->request;
	k->request.data = (struct bytes){ NULL, 0 };
	k->c = c;
	return k->waits = true;
}

enum { SOON_MS = 20, COMES_MS = 5000 };

/* Whether the client answers while its request is kept back, which may take its time to come, or never does. */
static bool
is_early(struct drive *d, const struct kept *k, struct driver_answer *a)
{
	bool early = false;

	for (int ms = 0; !early && !k->waits && ms < COMES_MS; ms += SOON_MS)
		early = drive_take_soon(d, a, SOON_MS);
	return early || drive_take_soon(d, a, SOON_MS);
}

static void
flush_behind(struct drive *d, struct kept *k, const char *request)
{
	struct driver_answer a, b;
	bool early;

	drive_follow(d, &(struct script){ .take = keep_back, .arg = k });
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	drive_send(d, 1, "%s", request);
	early = is_early(d, k, &a);
	if (early && a.result != DRIVER_OK)
		skip(d->t, request, "the client does not do this here: %s", a.text);
	if (early) {
		drive_send(d, 1, "flush");
		drive_take_soon(d, &b, SOON_MS);
		EXPECT(d->t, R(client_flush_awaits_replies), !k->flushed || k->fua,
		       "'%s' is answered 'ok', and a FLUSH is sent, before the server has replied to it: no FLUSH "
		       "covers it",
		       request);
	}
	if (k->waits)
		answer_late(d, k->c, &k->request);
	/* What comes only now is answered at once. */
	k->waits = false;
	k->over = true;
	while (driver_in_flight(d->driver) > 0)
		drive_take(d);
	drive_mark(d);
	must(d, R(client_flush_awaits_replies), 1, "flush");
	EXPECT(d->t, R(client_flush_awaits_replies), k->fua || early || drive_sent(d, NBD_CMD_FLUSH, 0) > 0,
	       "'flush' is answered 'ok' behind '%s', and no FLUSH was sent", request);
	must_go_on(d, R(client_flush_awaits_replies));
}

CASE_DRIVER(replies, flush,
            "A FLUSH is sent when the replies to what it is to cover have come, where the user was told that they have",
            R(client_flush_awaits_replies))
{
	static const struct {
		const char *request, *name;
		uint16_t type;
	} rows[] = { { "write 8192 4096 7", "write", NBD_CMD_WRITE },
		     { "zero 8192 4096", "zero", NBD_CMD_WRITE_ZEROES },
		     { "trim 8192 4096", "trim", NBD_CMD_TRIM } };
	static struct kept kept;
	struct drive *d = drive_new(t);

	drive_needs(d, "flush", NULL);
	for (volatile unsigned i = 0; i < 3; i++)
		POINT(t, "%s", rows[i].name) {
			drive_needs(d, rows[i].name, NULL);
			kept = (struct kept){ .type = rows[i].type };
			drive_serve(d, "", NULL);
			d->owed = R(client_flush_awaits_replies);
			flush_behind(d, &kept, rows[i].request);
		}
}

/* ---- large replies ---- */

enum { LARGE = 32 << 20, ABOVE = 2 << 20 };

static bool
answer_in_one(void *arg, struct conn *c, const struct incoming *m)
{
	(void)arg;
	return m->kind == MSG_REQUEST && m->request.type == NBD_CMD_READ && c->structured &&
	       m->request.length == ABOVE && say_success(c, 0);
}

/* A client need not send so large a request; but what it asked for it is to take. */
static void
take_large(struct drive *d, uint32_t length)
{
	enum requirement_id r = R(client_takes_32_mebibytes);
	struct driver_answer a;

	drive_mark(d);
	a = ask(d, 1, "read 0 %u", length);
	if (a.result != DRIVER_OK)
		drive_skip_df(d);
	if (a.result == DRIVER_OK)
		EXPECT(d->t, R(baseline_client_read),
		       strtoul(a.text, NULL, 16) == disk_digest(&d->exports[0], 0, length),
		       "'read 0 %u' gives other data than the disk's: digest %s", length, a.text);
	else if (drive_sent(d, NBD_CMD_READ, 0) > 0)
		deviates(d->t, r, "a payload of up to 32 MiB is taken", a.text);
	else
		skip(d->t, "large reads", "the client does not send so large a request: %s", a.text);
	ask(d, 1, "disconnect");
	drive_finish(d);
}

CASE_DRIVER(replies, large, "A payload of 32 MiB is taken, in a simple reply or in one chunk",
            R(client_takes_32_mebibytes), R(baseline_client_read))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < (client_pairwise(d->client) ? 1 : 2); i++)
		POINT(t, "%s", i == 0 ? "in one chunk" : "in a simple reply") {
			drive_serve(d, "size=64M", NULL);
			d->config.knob[KNOB_no_structured_replies] = i != 0;
			d->owed = R(client_takes_32_mebibytes);
			must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
			take_large(d, LARGE);
		}
	POINT(t, "above the maximum payload size") {
		drive_serve(d, "size=64M,max=1M", NULL);
		drive_follow(d, &(struct script){ .take = answer_in_one });
		d->owed = R(client_takes_32_mebibytes);
		enter_for_chunks(d, NULL);
		take_large(d, ABOVE);
	}
}

CASE_DRIVER(replies, no_limit, "A maximum payload size of 0xffffffff is none, and the client reads and writes as ever",
            R(client_accepts_no_payload_limit))
{
	enum requirement_id r = R(client_accepts_no_payload_limit);
	struct drive *d = drive_new(t);

	drive_serve(d, "size=64M,min=1,pref=4096,max=4294967295", NULL);
	d->owed = r;
	drive_ask_sizes(d, 1);
	must(d, r, 1, "connect %s", d->uri);
	must_read_disk(d, r, 1, &d->exports[0], 0, 1 << 20);
	if (driver_has(d->driver, "write", NULL)) {
		must(d, r, 1, "write 65536 1048576 7");
		must_read_disk(d, r, 1, &d->exports[0], 0, 2 << 20);
	}
	must_go_on(d, r);
}

/* ---- the end ---- */

/* A FLUSH that is answered late. */
struct late {
	struct conn *conn;
	struct request request;
};

static bool
keep_flush(void *arg, struct conn *c, const struct incoming *m)
{
	struct late *late = arg;

	if (m->kind != MSG_REQUEST || m->request.type != NBD_CMD_FLUSH)
		return false;
	*late = (struct late){ c, m->request };
	return true;
}

CASE_DRIVER(replies, disc_awaits,
            "While a request is unanswered NBD_CMD_DISC is not sent, though the user disconnects; then it is",
            R(client_disc_after_inflight), R(baseline_client_disc))
{
	enum { MOMENT_MS = 50 };
	static struct late late;
	struct drive *d = drive_new(t);
	struct driver_answer a;
	unsigned flush;

	drive_needs(d, "flush", NULL);
	drive_needs(d, "write", NULL);
	if (driver_depth(d->driver) < 2)
		skip(t, "depth", "the driver has one request in flight at most");
	drive_serve(d, "", NULL);
	drive_follow(d, &(struct script){ .take = keep_flush, .arg = &late });
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	/* Something to flush. */
	must(d, R(baseline_client_write), 1, "write 0 4096 7");
	flush = drive_send(d, 1, "flush");
	while (late.conn == NULL && drive_sent(d, NBD_CMD_FLUSH, 0) == 0 && driver_in_flight(d->driver) > 0)
		drive_pause(d, 1);
	if (late.conn == NULL)
		skip(t, "FLUSH", "the client does not send it");
	drive_send(d, 1, "disconnect");
	drive_pause(d, MOMENT_MS);
	if (drive_sent(d, NBD_CMD_DISC, 0) > 0)
		deviates(t, R(client_disc_after_inflight), "NBD_CMD_DISC comes behind the last reply",
		         "it comes while NBD_CMD_FLUSH is unanswered");
	answer_late(d, late.conn, &late.request);
	for (unsigned i = 0; i < 2; i++) {
		a = drive_take(d);
		if (a.tag != flush)
			EXPECT(t, R(baseline_client_disc), a.result == DRIVER_OK, "'disconnect' is answered 'error %s'",
			       a.text);
	}
	EXPECT_EQ(t, R(baseline_client_disc), drive_sent_disc(d), 1);
	drive_finish(d);
}
