/* Size constraints: whatever the server advertises, the requests that the client sends keep to it. */
#include "cases/client/drive.h"

#include "fakeserver/disk.h"
#include "harness/client.h"
#include "harness/nbd.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KIB = 1 << 10, MIB = 1 << 20, PATTERN = 7, MARGIN = 1024, PAYLOAD_MOST = 128 << 10, BLOCK_MOST = 4096 };
#define NO_LIMIT    UINT32_MAX
#define LARGEST     ((UINT64_C(1) << 63) - 1)
#define LARGEST_SET "size=9223372036854775807"

/* ---- one request: what its success says must be so ---- */

enum kind { READS, WRITES, ZEROES, HINTS };
static const struct operation {
	const char *name;
	enum kind kind;
} operations[] = {
	{ "read", READS }, { "write", WRITES },       { "zero", ZEROES },
	{ "trim", HINTS }, { "block_status", HINTS }, { "cache", HINTS },
};
enum { N_OPERATIONS = sizeof(operations) / sizeof(operations[0]), OP_READ = 0, OP_WRITE = 1 };

struct asked {
	const struct operation *op;
	uint64_t offset, length;
};

static bool
is_inside(const struct fake_export *e, const struct asked *q)
{
	return q->offset <= e->size && q->length <= e->size - q->offset;
}

/* Of the disk around a request, and no more of a long one than its beginning. */
struct window {
	uint64_t offset, end;
	uint8_t data[PAYLOAD_MOST + 2 * MARGIN];
};

static void
look(const struct fake_export *e, const struct asked *q, struct window *w)
{
	uint64_t length = q->length < PAYLOAD_MOST ? q->length : PAYLOAD_MOST;

	w->offset = q->offset > MARGIN ? q->offset - MARGIN : 0;
	w->end = q->offset + length + MARGIN;
	disk_read(e->disk, w->offset, (size_t)(w->end - w->offset), w->data);
}

/* What the disk has to hold after a success. */
static void
apply(const struct asked *q, struct window *w, const struct window *now)
{
	uint64_t end = q->offset + q->length < w->end ? q->offset + q->length : w->end;
	size_t from = (size_t)(q->offset - w->offset), length = (size_t)(end - q->offset);

	if (q->op->kind == WRITES)
		driver_pattern(PATTERN, q->offset, length, w->data + from);
	else if (q->op->kind == ZEROES)
		memset(w->data + from, 0, length);
	else if (strcmp(q->op->name, "trim") == 0)
		memcpy(w->data + from, now->data + from, length);
}

/* What has broken a rule on the wire has its name from there. */
static void
wire_first(struct drive *d)
{
	drive_finish(d);
	d->open = true;
}

static void
judge_disk(struct drive *d, const struct asked *q, struct window *before)
{
	static struct window now;
	enum requirement_id r = q->op->kind == WRITES ? R(baseline_client_write) : R(client_abides_by_block_size);
	size_t i = 0, n = (size_t)(before->end - before->offset);

	look(&d->exports[0], q, &now);
	apply(q, before, &now);
	while (i < n && before->data[i] == now.data[i])
		i++;
	if (i == n)
		return;
	wire_first(d);
	broken(d->t, r,
	       "'%s %" PRIu64 " %" PRIu64 "' succeeds, and the byte at %" PRIu64 " is 0x%02x in place of 0x%02x",
	       q->op->name, q->offset, q->length, before->offset + i, now.data[i], before->data[i]);
}

static void
judge_read(struct drive *d, const struct asked *q, const char *digest)
{
	uint32_t want = disk_digest(&d->exports[0], q->offset, (uint32_t)q->length);

	if (strtoul(digest, NULL, 16) == want)
		return;
	wire_first(d);
	broken(d->t, R(baseline_client_read), "'read %" PRIu64 " %" PRIu64 "' gives digest %s in place of %08x",
	       q->offset, q->length, digest, want);
}

/* False: the client says that it failed, which is its right. */
static bool
try(struct drive *d, const struct asked *q)
{
	static struct window before;
	struct driver_answer a;

	if (is_inside(&d->exports[0], q))
		look(&d->exports[0], q, &before);
	a = ask(d, 1, "%s %" PRIu64 " %" PRIu64 "%s", q->op->name, q->offset, q->length,
	        q->op->kind == WRITES ? " 7" : "");
	if (a.result != DRIVER_OK || q->length == 0)
		return a.result == DRIVER_OK;
	/* A client may take the last block for whole, and read zeroes behind the end; what is written there is lost. */
	if (q->op->kind == WRITES)
		EXPECT(d->t, R(baseline_client_write), is_inside(&d->exports[0], q),
		       "'write %" PRIu64 " %" PRIu64 "' succeeds, and the export ends at %" PRIu64, q->offset,
		       q->length, d->exports[0].size);
	if (!is_inside(&d->exports[0], q))
		return true;
	if (q->op->kind == READS)
		judge_read(d, q, a.text);
	else
		judge_disk(d, q, &before);
	return true;
}

/* 32 MiB are a long way through a driver that prints what it reads. */
static struct driver_answer
ask_large(struct drive *d, uint32_t length)
{
	enum { LARGE_MS = 60000 };
	struct driver_answer a;

	drive_send(d, 1, "read 0 %u", length);
	if (!drive_take_soon(d, &a, LARGE_MS))
		broken(d->t, d->owed, "'read 0 %u' is not answered within %d s", length, LARGE_MS / 1000);
	return a;
}

/* ---- shapes ---- */

struct shape {
	struct info_block_size block;
	uint64_t size;
	bool structured;
};

static uint32_t
larger(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

enum {
	N_MINIMA = 6,
	N_PREFERRED = 4,
	N_MAXIMA = 7,
	N_SIZES = 7,
	N_SHAPES = N_MINIMA * N_PREFERRED * N_MAXIMA * N_SIZES
};

static const uint32_t minima[N_MINIMA] = { 1, 2, 64, 512, 4096, 65536 };

/*
 * At least as large as the preferred block size, and no power of 2 where it need be none (proto.md:836-841). All are
 * multiples of the minimum, which earlier texts asked for.
 */
static uint32_t
maximum_of(unsigned i, const struct info_block_size *b)
{
	const uint32_t maxima[N_MAXIMA] = { b->preferred,
		                            b->preferred + b->minimum,
		                            3 * b->preferred,
		                            larger(MIB, b->preferred),
		                            32 * MIB - 64 * KIB,
		                            33 * MIB,
		                            NO_LIMIT };

	return maxima[i];
}

/* Those that are no multiple of the minimum are allowed, though a SHOULD is against them (proto.md:820-823). */
static uint64_t
size_of(unsigned i, const struct info_block_size *b)
{
	uint64_t maximum = b->maximum < 64u * MIB ? b->maximum : 64u * MIB;
	const uint64_t sizes[N_SIZES] = {
		0,
		b->minimum,
		3 * (uint64_t)b->minimum + b->minimum / 2,
		2 * (uint64_t)b->preferred + b->minimum,
		(maximum + 3 * (uint64_t)b->minimum) / b->minimum * b->minimum,
		(UINT64_C(1) << 32) + b->minimum,
		LARGEST / b->minimum * b->minimum,
	};

	return sizes[i];
}

static struct shape
shape_of(unsigned minimum, unsigned preferred, unsigned maximum, unsigned size)
{
	static const uint32_t least[N_PREFERRED] = { 512, 4096, 65536, MIB };
	struct shape s = { .structured = (minimum + preferred + maximum + size) % 2 == 0 };

	s.block.minimum = minima[minimum];
	s.block.preferred = larger(least[preferred], minima[minimum]);
	s.block.maximum = maximum_of(maximum, &s.block);
	s.size = size_of(size, &s.block);
	return s;
}

/*
 * Row by row an orthogonal array: with 7 prime, each two of a, b, a + b, a + 2b meet in all their values, and by modulo in
 * fewer.
 */
enum { PRIME = 7, PAIRED = PRIME * PRIME };

static struct shape
shape_at(unsigned i, bool pairwise)
{
	unsigned a = i % PRIME, b = i / PRIME;

	if (pairwise)
		return shape_of((a + b) % PRIME % N_MINIMA, (a + 2 * b) % PRIME % N_PREFERRED, a, b);
	return shape_of(i % N_MINIMA, i / N_MINIMA % N_PREFERRED, i / (N_MINIMA * N_PREFERRED) % N_MAXIMA,
	                i / (N_MINIMA * N_PREFERRED * N_MAXIMA));
}

/* What the user is told lets him ask for no more than the server allows. */
static void
judge_told(struct drive *d, const struct driver_answer *a)
{
	char *min = known(a, "min"), *max = known(a, "max"), *size = known(a, "size");
	/* A block device has whole blocks; what is behind the last it need not use. */
	char *block = known(a, "queue.logical_block_size");
	const struct fake_export *e = &d->exports[0];
	uint64_t unit = block != NULL ? strtoull(block, NULL, 10) : 1;
	uint64_t most = e->block.minimum > BLOCK_MOST ? e->block.minimum : BLOCK_MOST;

	EXPECT(d->t, R(baseline_client_info_go),
	       size == NULL || (unit > 0 && unit <= most && strtoull(size, NULL, 10) == e->size / unit * unit),
	       "the client tells a size of %s%s%s, and the server one of %" PRIu64, size,
	       block != NULL ? " in blocks of " : "", block != NULL ? block : "", e->size);
	EXPECT(d->t, R(client_abides_by_block_size), min == NULL || strtoull(min, NULL, 10) >= e->block.minimum,
	       "the client tells a minimum block size of %s, and the server one of %u", min, e->block.minimum);
	EXPECT(d->t, R(client_abides_by_block_size), max == NULL || strtoull(max, NULL, 10) <= e->block.maximum,
	       "the client tells a maximum payload size of %s, and the server one of %u", max, e->block.maximum);
	free(min);
	free(max);
	free(size);
	free(block);
}

/* False: the client does without such a server. */
static bool
enter(struct drive *d, const struct shape *s)
{
	struct driver_answer a;

	d->exports[0].block = s->block;
	d->exports[0].size = s->size;
	d->config.knob[KNOB_no_structured_replies] = !s->structured;
	/* In another order by turns: what comes first says nothing of what holds. */
	d->config.knob[KNOB_infos_reversed] = s->block.preferred % 3 == 1;
	note(d->t, "minimum %u, preferred %u, maximum %u, size %" PRIu64, s->block.minimum, s->block.preferred,
	     s->block.maximum, s->size);
	a = ask(d, 1, "connect %s", d->uri);
	if (a.result == DRIVER_OK)
		judge_told(d, &a);
	return a.result == DRIVER_OK;
}

static void
leave(struct drive *d)
{
	must(d, R(baseline_client_disc), 1, "disconnect");
}

/* ---- legal ones ---- */

/* For each shape: on its boundaries, off them by one, around the end, and where a sum or 32 bits run over. */
enum { N_RANGES = 24 };

static void
ranges_of(const struct shape *s, struct asked q[N_RANGES])
{
	uint64_t min = s->block.minimum, pref = s->block.preferred, max = s->block.maximum / min * min, end = s->size;
	const uint64_t table[N_RANGES][2] = {
		{ 0, min },
		{ min, min },
		{ 0, pref },
		{ pref, pref },
		{ min, pref },
		{ 0, 3 * pref },
		{ 0, max },
		{ 0, max + min },
		{ pref, 2 * max },
		{ 0, 1 },
		{ 1, min },
		{ min / 2, min },
		{ min - 1, 2 },
		{ min, min + 1 },
		{ end - min, min },
		{ end - min, 2 * min },
		{ end, min },
		{ end + min, min },
		{ end - 1, 1 },
		{ end - 1, 2 },
		{ 0, 0 },
		{ -min, 2 * min },
		{ UINT64_C(1) << 63, min },
		{ 0, (UINT64_C(1) << 32) + min },
	};

	for (unsigned i = 0; i < N_RANGES; i++)
		q[i] = (struct asked){ .offset = table[i][0], .length = table[i][1] };
}

/* All that nobody can refuse with a reason. */
enum { MODEST = 65536 };

static bool
is_due(const struct shape *s, const struct asked *q, const struct fake_export *e)
{
	uint64_t preferred = s->block.preferred;

	/* It may keep to tighter sizes (client_tighter_sizes), but not to none. */
	return (q->op->kind == READS || q->op->kind == WRITES) && q->length > 0 && q->length <= s->block.maximum &&
	       (q->length <= MODEST || q->length == preferred) && q->length % preferred == 0 &&
	       q->offset % preferred == 0 && is_inside(e, q);
}

static bool
has_payload(const struct shape *s, const struct operation *op)
{
	return op->kind == WRITES || (op->kind == READS && !s->structured);
}

static void
ask_range(struct drive *d, const struct shape *s, const struct operation *op, struct asked q)
{
	q.op = op;
	if ((op->kind == READS || op->kind == WRITES) && q.length > PAYLOAD_MOST)
		return;
	/* These are another case's. */
	if (has_payload(s, op) && q.length > s->block.maximum)
		return;
	if (!driver_has(d->driver, op->name, NULL) || try(d, &q) || !is_due(s, &q, &d->exports[0]))
		return;
	wire_first(d);
	broken(d->t, op->kind == READS ? R(baseline_client_read) : R(baseline_client_write),
	       "'%s %" PRIu64 " %" PRIu64 "' fails: with minimum %u, preferred %u, maximum %u, size %" PRIu64
	       " nothing is wrong with it",
	       op->name, q.offset, q.length, s->block.minimum, s->block.preferred, s->block.maximum, s->size);
}

static bool
one_shape(struct drive *d, const struct shape *s, unsigned number)
{
	struct asked q[N_RANGES];

	if (!enter(d, s))
		return false;
	ranges_of(s, q);
	for (unsigned i = 0; i < N_RANGES; i++) {
		ask_range(d, s, &operations[(i + number / N_MINIMA) % 2 == 0 ? OP_READ : OP_WRITE], q[i]);
		ask_range(d, s, &operations[2 + (i + number) % (N_OPERATIONS - 2)], q[i]);
	}
	leave(d);
	return true;
}

static void
all_shapes(struct drive *d, uint32_t minimum)
{
	bool pairwise = client_pairwise(d->client);
	unsigned refused = 0, shapes = 0;

	drive_serve(d, LARGEST_SET, NULL);
	d->owed = R(client_abides_by_block_size);
	ask(d, 1, "set context=base%%3aallocation");
	for (unsigned i = 0; i < (pairwise ? PAIRED : N_SHAPES); i++) {
		struct shape s = shape_at(i, pairwise);

		if (s.block.minimum != minimum)
			continue;
		shapes++;
		refused += !one_shape(d, &s, i);
	}
	if (refused > 0)
		observe(d->t, R(client_tighter_sizes), "the client connects to all but %u of %u servers", refused,
		        shapes);
	drive_finish(d);
}

#define KEPT                                                                                                           \
	R(client_minimum_aligned), R(client_abides_by_block_size), R(client_within_export), R(baseline_client_read),   \
		R(baseline_client_write)

CASE_DRIVER(
	sizes, legal,
	"Whatever sizes the server advertises, requests keep to them, and what the client says to have done is done",
	KEPT, R(baseline_client_info_go), R(read_length_nonzero), R(write_length_nonzero), R(trim_length_nonzero),
	R(zeroes_length_nonzero), R(status_length_nonzero))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned m = 0; m < N_MINIMA; m++)
		POINT(t, "a minimum block size of %u", minima[m])
			all_shapes(d, minima[m]);
}

CASE_DRIVER(sizes, preferred,
            "What the user asks for in multiples of the preferred block size goes over the wire in multiples of it",
            KEPT, R(client_preferred_aligned))
{
	static const struct shape shapes[] = {
		{ { 1, 4096, 4097 }, 256 * KIB, true },
		{ { 512, 4096, 12 * KIB }, 256 * KIB, false },
		{ { 1, 65536, 65536 + 512 }, 256 * KIB, true },
		{ { 4096, 65536, MIB }, 256 * KIB + 4096, false },
		{ { 1, 512, 1000 }, 10000, false },
	};
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		POINT(t, "preferred %u, maximum %u", shapes[i].block.preferred, shapes[i].block.maximum) {
			uint64_t preferred = shapes[i].block.preferred;

			drive_serve(d, "size=1M", NULL);
			d->interoperable = true;
			if (!enter(d, &shapes[i]))
				skip(t, "sizes", "the client does not connect to such a server");
			for (unsigned op = 0; op < N_OPERATIONS; op++)
				for (unsigned k = 0; k < 9; k++)
					ask_range(d, &shapes[i], &operations[op],
					          (struct asked){ .offset = k % 3 * preferred,
					                          .length = (k / 3 * 2 + 1) * preferred });
			leave(d);
			drive_finish(d);
		}
}

/* ---- nothing advertised ---- */

static void
serve_untold(struct drive *d, bool asked)
{
	if (!asked)
		drive_needs(d, "set", "block-size");
	drive_serve(d, "size=64M", NULL);
	/* Of its sizes, which are the defaults, the server says nothing. */
	d->config.knob[KNOB_few_infos] = true;
	d->interoperable = true;
	if (!asked) {
		d->excused = R(interop_block_sizes_queried);
		must(d, R(interop_block_sizes_abided_by), 1, "set block-size=off");
	} else {
		drive_ask_sizes(d, 1);
	}
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
}

static void
ask_small(struct drive *d, bool aligned)
{
	static const uint64_t right[][2] = { { 0, 512 }, { 512, 1536 }, { 4096, 65536 }, { 1536, 4096 } };
	static const uint64_t wrong[][2] = { { 0, 1 }, { 1, 512 }, { 511, 2 }, { 512, 513 } };

	for (unsigned i = 0; i < 4 * N_OPERATIONS; i++) {
		const uint64_t *range = aligned ? right[i % 4] : wrong[i % 4];
		struct asked q = { &operations[i / 4], range[0], range[1] };

		if (driver_has(d->driver, q.op->name, NULL))
			try(d, &q);
	}
	/* The server does not take it either. */
	if (aligned)
		ask_large(d, 32 * MIB + 512);
	leave(d);
	drive_finish(d);
}

CASE_DRIVER(
	sizes, untold,
	"Where no sizes are advertised, or the client does not ask for them, requests come in multiples of 512 bytes",
	R(client_default_min_block), R(client_default_max_payload), R(interop_block_sizes_abided_by),
	R(client_within_export), R(baseline_client_read), R(baseline_client_write))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 4; i++)
		POINT(t, "%s, asked in %s", i < 2 ? "nothing advertised" : "not asked for",
		      i % 2 == 0 ? "blocks" : "bytes") {
			serve_untold(d, i < 2);
			ask_small(d, i % 2 == 0);
		}
}

/* ---- above the maximum ---- */

static void
ask_all(struct drive *d, const uint64_t (*ranges)[2], unsigned n, unsigned first, unsigned end)
{
	for (unsigned op = first; op < end; op++)
		for (unsigned i = 0; i < n; i++) {
			struct asked q = { &operations[op], ranges[i][0], ranges[i][1] };

			if (driver_has(d->driver, q.op->name, NULL))
				try(d, &q);
		}
}

static void
enter_or_skip(struct drive *d, const struct shape *s, bool refuses_long)
{
	drive_serve(d, LARGEST_SET, NULL);
	d->config.knob[KNOB_long_effects_refused] = refuses_long;
	ask(d, 1, "set context=base%%3aallocation");
	if (!enter(d, s))
		skip(d->t, "sizes", "the client does not connect to such a server");
}

CASE_DRIVER(sizes, above_maximum,
            "Where the user asks for more than the maximum payload, none of it goes over the wire in one request",
            R(client_payload_within_maximum), R(client_abides_by_block_size), R(client_within_export),
            R(baseline_client_read), R(baseline_client_write))
{
	static const uint32_t maxima[] = { 512, 4096, 12 * KIB, 60 * KIB };
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 4; i++)
		POINT(t, "%s, %s replies", operations[i % 2].name, i < 2 ? "structured" : "simple") {
			struct shape s = { { 1, 512, 512 }, MIB, i < 2 };

			enter_or_skip(d, &s, false);
			for (unsigned m = 0; m < sizeof(maxima) / sizeof(maxima[0]); m++) {
				uint64_t max = s.block.maximum = maxima[m];
				const uint64_t ranges[][2] = {
					{ 0, max }, { 0, max + 512 }, { 512, max + 1 }, { max, 2 * max }
				};

				leave(d);
				if (enter(d, &s))
					ask_all(d, ranges, 4, i % 2, i % 2 + 1);
			}
			leave(d);
			drive_finish(d);
		}
}

/* Without payload there is no such limit (proto.md:866-874); a server may refuse them all the same. */
CASE_DRIVER(sizes, effects_above_maximum,
            "Commands without payload may be longer than the maximum payload; what the client says of them is so", KEPT,
            R(client_effect_above_maximum))
{
	enum { MAXIMUM = 64 << 10 };
	static const uint64_t ranges[][2] = {
		{ 0, 2 * MAXIMUM }, { MAXIMUM, MAXIMUM + 4096 }, { 0, 16 * MIB }, { 4096, UINT32_MAX - 4095u }
	};
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "the server %s them", i == 0 ? "takes" : "refuses") {
			enter_or_skip(d, &(struct shape){ { 4096, 4096, MAXIMUM }, UINT64_C(8) << 30, true }, i != 0);
			ask_all(d, ranges, 4, OP_WRITE + 1, N_OPERATIONS);
			observe(t, R(client_effect_above_maximum),
			        "%u NBD_CMD_WRITE_ZEROES and %u NBD_CMD_TRIM for 4 of each",
			        drive_sent(d, NBD_CMD_WRITE_ZEROES, 0), drive_sent(d, NBD_CMD_TRIM, 0));
			leave(d);
			drive_finish(d);
		}
}

/* ---- large replies ---- */

/* 2^25 bytes are nobody's attack (proto.md:849-852). */
static void
read_32_mebibytes(struct drive *d, uint32_t advertised, bool structured)
{
	uint32_t length = 32 * MIB;
	struct driver_answer a;

	enter_or_skip(d, &(struct shape){ { 1, 4096, advertised }, 64 * MIB, structured }, false);
	if (advertised < length && drive_options(d, NBD_OPT_STRUCTURED_REPLY) == 0)
		skip(d->t, "structured replies", "with simple replies a client may not ask for more than the maximum");
	d->owed = R(client_takes_32_mebibytes);
	/* It serves more than it says. */
	d->exports[0].block.maximum = NO_LIMIT;
	a = ask_large(d, length);
	if (drive_sent(d, NBD_CMD_READ, 0) == 0)
		skip(d->t, "32 MiB", "the client does not ask for so much at once: %s", a.text);
	if (a.result == DRIVER_OK)
		judge_read(d, &(struct asked){ .length = length }, a.text);
	a = ask(d, 1, "read 0 512");
	if (a.result != DRIVER_OK) {
		d->excused = R(client_transmission_no_disconnect);
		deviates(d->t, R(client_takes_32_mebibytes), "the client goes on after a reply of 32 MiB", a.text);
	} else {
		leave(d);
	}
	drive_finish(d);
}

CASE_DRIVER_BULK(sizes, large_reply,
                 "A reply of 32 MiB is none that the client leaves over, whatever maximum was advertised",
                 R(client_takes_32_mebibytes), R(baseline_client_read))
{
	static const struct {
		uint32_t advertised;
		bool structured;
	} points[] = {
		{ 32 * MIB, true }, { 32 * MIB, false }, { MIB, true }, { NO_LIMIT, true }, { NO_LIMIT, false }
	};
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < sizeof(points) / sizeof(points[0]); i += client_pairwise(d->client) ? 2 : 1)
		POINT(t, "a maximum of %u, %s replies", points[i].advertised,
		      points[i].structured ? "structured" : "simple")
			read_32_mebibytes(d, points[i].advertised, points[i].structured);
}

/* What stands in the way is the maximum alone: a client that takes 32 MiB takes this too. */
CASE_DRIVER(sizes, no_limit, "A server that has no limit on payloads is as good to the client as one that has 32 MiB",
            R(client_accepts_no_payload_limit), R(baseline_client_read), R(baseline_client_write))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned m = 0; m < 2 * N_MINIMA; m++)
		POINT(t, "a minimum block size of %u, %s replies", minima[m / 2],
		      m % 2 == 0 ? "structured" : "simple") {
			struct shape s = { { minima[m / 2], 65536, 32 * MIB }, MIB, m % 2 == 0 };
			struct asked read = { &operations[OP_READ], 65536, 65536 };
			struct asked write = { &operations[OP_WRITE], 65536, 65536 };
			bool writes;

			enter_or_skip(d, &s, false);
			must(d, R(baseline_client_read), 1, "read 65536 65536");
			writes = driver_has(d->driver, "write", NULL) && try(d, &write);
			leave(d);
			s.block.maximum = NO_LIMIT;
			d->owed = R(client_accepts_no_payload_limit);
			EXPECT(t, R(client_accepts_no_payload_limit), enter(d, &s),
			       "with a maximum of 32 MiB the client connects, with one of 0xffffffff it does not");
			EXPECT(t, R(client_accepts_no_payload_limit), try(d, &read) && (!writes || try(d, &write)),
			       "with a maximum of 0xffffffff a read or write of 65536 bytes fails, and with one of 32 "
			       "MiB "
			       "it does not");
			leave(d);
			drive_finish(d);
		}
}

/* ---- what no server may advertise ---- */

static const struct nonsense {
	const char *name;
	struct info_block_size block;
	uint64_t size;
} nonsense[] = {
	{ "a minimum of 0", { 0, 4096, MIB }, MIB },
	{ "a minimum of 3", { 3, 4096, MIB }, MIB },
	{ "a minimum of 768", { 768, 4096, MIB }, MIB },
	{ "a minimum above the preferred", { 8192, 4096, MIB }, MIB },
	{ "a minimum of 128 KiB", { 128 * KIB, 128 * KIB, MIB }, MIB },
	{ "a minimum of 2^31", { 1u << 31, 1u << 31, 1u << 31 }, MIB },
	{ "a minimum of 2^32-1", { UINT32_MAX, UINT32_MAX, UINT32_MAX }, MIB },
	{ "a preferred of 0", { 1, 0, MIB }, MIB },
	{ "a preferred of 256", { 1, 256, MIB }, MIB },
	{ "a preferred of 5000", { 1, 5000, MIB }, MIB },
	{ "a preferred of 2^31", { 1, 1u << 31, MIB }, MIB },
	{ "a maximum of 0", { 512, 4096, 0 }, MIB },
	{ "a maximum of 1", { 512, 4096, 1 }, MIB },
	{ "a maximum below the preferred", { 512, 4096, 1024 }, MIB },
	{ "a maximum below the minimum", { 4096, 4096, 512 }, MIB },
	{ "nothing but zeroes above a minimum", { 512, 0, 0 }, MIB },
	{ "a size of 2^63", { 1, 4096, MIB }, UINT64_C(1) << 63 },
	{ "a size of 2^64-1", { 1, 4096, MIB }, UINT64_MAX },
};

CASE_DRIVER(sizes, illegal,
            "Over sizes that no server may advertise the client neither crashes nor hangs, and what it does is right",
            R(client_transmission_no_disconnect), R(client_within_export), R(baseline_client_read),
            R(baseline_client_write))
{
	static const uint64_t ranges[][2] = { { 0, 512 },   { 0, 4096 },         { 4096, 8192 }, { 0, 1 },
		                              { 768, 768 }, { MIB - 512, 1024 }, { MIB, 512 },   { 0, 0 } };
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++)
		POINT(t, "%s", nonsense[i].name) {
			struct driver_answer a;

			drive_serve(d, LARGEST_SET, NULL);
			d->exports[0].block = nonsense[i].block;
			d->exports[0].size = nonsense[i].size;
			ask(d, 1, "set context=base%%3aallocation");
			a = ask(d, 1, "connect %s", d->uri);
			if (a.result == DRIVER_OK) {
				ask_all(d, ranges, sizeof(ranges) / sizeof(ranges[0]), 0, N_OPERATIONS);
				leave(d);
			}
			observe(t, R(client_violation_may_close), "the client %s",
			        a.result == DRIVER_OK ? "puts up with it" : "does not connect");
			drive_finish(d);
		}
}
