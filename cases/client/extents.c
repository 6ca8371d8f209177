/* What the client makes of the extents that an honest server may answer NBD_CMD_BLOCK_STATUS with. */
#include "cases/client/answers.h"

#include "fakeserver/disk.h"
#include "harness/nbd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AT = 65536, LENGTH = 65536, EXTENTS_MOST = 8, KNOWN_BITS = NBD_STATE_HOLE | NBD_STATE_ZERO };

struct answer {
	const char *name;
	enum requirement_id r;
	struct extent allocation[EXTENTS_MOST]; /* up to one of length 0 */
	struct extent dirty[EXTENTS_MOST];      /* likewise; none: the context is not asked for */
};

#define HOLE    NBD_STATE_HOLE
#define NOTHING (NBD_STATE_HOLE | NBD_STATE_ZERO)
#define UNKNOWN 0x7ffffff8

static const struct answer answers[] = {
	{ "one of 512 bytes", R(client_takes_any_extent_length), { { 512, 0 } }, { { 0 } } },
	{ "some of what was asked for",
	  R(client_takes_any_extent_length),
	  { { 4096, 0 }, { 512, NOTHING }, { 8192, 0 } },
	  { { 0 } } },
	{ "one twice as long", R(client_takes_any_extent_length), { { 2 * LENGTH, 0 } }, { { 0 } } },
	{ "the last one longer", R(client_takes_any_extent_length), { { 4096, NOTHING }, { LENGTH, 0 } }, { { 0 } } },
	{ "several of one status",
	  R(extents_same_status_handled),
	  { { 4096, 0 }, { 4096, 0 }, { 8192, NOTHING }, { 16384, NOTHING }, { 32768, 0 } },
	  { { 0 } } },
	{ "unknown bits", R(client_ignores_status_flags), { { LENGTH, UNKNOWN } }, { { 0 } } },
	{ "unknown bits beside known ones",
	  R(client_ignores_status_flags),
	  { { 32768, UNKNOWN | NOTHING }, { 32768, UNKNOWN } },
	  { { 0 } } },
	{ "the highest bit", R(client_ignores_status_flags), { { LENGTH, 0x80000000 } }, { { 0 } } },
	{ "a hole that is not zero", R(client_takes_hole_without_zero), { { LENGTH, HOLE } }, { { 0 } } },
	{ "holes that are not zero, and one that is",
	  R(client_takes_hole_without_zero),
	  { { 16384, HOLE }, { 16384, NOTHING }, { 32768, HOLE } },
	  { { 0 } } },
	{ "fewer extents of one context",
	  R(client_takes_unequal_contexts),
	  { { LENGTH, 0 } },
	  { { 4096, 0 }, { 8192, 1 }, { 53248, 0 } } },
	{ "shorter extents of one context", R(client_takes_unequal_contexts), { { LENGTH, 0 } }, { { 512, 1 } } },
	{ "longer extents of one context",
	  R(client_takes_unequal_contexts),
	  { { 4096, 0 }, { 4096, NOTHING } },
	  { { 2 * LENGTH, 1 } } },
};
enum { N_ANSWERS = sizeof(answers) / sizeof(answers[0]) };

/* Of extended headers: what does not fit into 32 bits, or would be 0 there. */
#define GIB UINT64_C(0x40000000)
static const struct answer wide_answers[] = {
	{ "one of 4 GiB", R(client_takes_any_extent_length), { { 4 * GIB, 0 } }, { { 0 } } },
	{ "the last one of more than 4 GiB",
	  R(client_takes_any_extent_length),
	  { { 4096, NOTHING }, { 4 * GIB + 512, 0 } },
	  { { 0 } } },
	{ "one to the end", R(client_takes_any_extent_length), { { 8 * GIB - AT, NOTHING } }, { { 0 } } },
	{ "longer extents of one context than 4 GiB",
	  R(client_takes_unequal_contexts),
	  { { 512, 0 }, { 5 * GIB, NOTHING } },
	  { { LENGTH, 1 } } },
};
enum { N_WIDE_ANSWERS = sizeof(wide_answers) / sizeof(wide_answers[0]) };

static size_t
count(const struct extent *extents)
{
	size_t n = 0;

	while (n < EXTENTS_MOST && extents[n].length != 0)
		n++;
	return n;
}

static bool
answer_status(void *arg, struct conn *c, const struct incoming *m)
{
	const struct answer *a = arg;

	if (m->kind != MSG_REQUEST || m->request.type != NBD_CMD_BLOCK_STATUS || c->n_contexts == 0)
		return false;
	for (unsigned i = 0; i < c->n_contexts; i++) {
		const struct extent *extents = c->contexts[i].context == META_ALLOCATION ? a->allocation : a->dirty;

		say_extents(c, i + 1 == c->n_contexts ? NBD_REPLY_FLAG_DONE : NOT_DONE, c->contexts[i].id, extents,
		            count(extents));
	}
	return true;
}

/* The status that the server told of this offset in the request; it has told as far as `length`. */
static uint32_t
status_at(const struct extent *extents, uint64_t offset, uint64_t *length)
{
	uint32_t status = 0;
	uint64_t at = 0;

	for (size_t i = 0; i < count(extents); at += extents[i++].length)
		if (offset >= at && offset < at + extents[i].length)
			status = extents[i].flags;
	*length = at;
	return status;
}

/* A client may join extents, cut them off at the request's end, and drop bits that it does not know. */
static void
judge_told(struct drive *d, const struct answer *a, const char *key, const struct extent *sent, const char *text)
{
	char *told = driver_value(text, key), *at = told;
	uint64_t offset = 0, length;

	EXPECT(d->t, a->r, told != NULL, "'block_status' is answered 'ok%s%s', without %s", *text ? " " : "", text,
	       key);
	while (at != NULL && *at != '\0') {
		uint64_t n = strtoull(at, &at, 10);
		uint32_t status = *at == ':' ? (uint32_t)strtoul(at + 1, &at, 10) : ~0u;

		for (uint64_t end = offset + n; offset < end; offset += 512) {
			uint32_t want = status_at(sent, offset, &length) & KNOWN_BITS;

			EXPECT(d->t, a->r, offset < length,
			       "the user is told of %s at %llu, of which the server told nothing", key,
			       (unsigned long long)(AT + offset));
			EXPECT(d->t, want == HOLE && (status & NBD_STATE_ZERO) != 0 ? R(client_hole_not_zero) : a->r,
			       (status & KNOWN_BITS) == want,
			       "at %llu the server's status of %s is %u, and the user is told %u",
			       (unsigned long long)(AT + offset), key, want, status);
		}
		at += *at == ',';
	}
	EXPECT(d->t, a->r, offset > 0, "the user is told of no extent of %s", key);
	free(told);
}

static void
select_contexts(struct drive *d, bool dirty, bool extended)
{
	if (extended)
		want_extended(d);
	ask(d, 1, "set context=");
	ask(d, 1, "set context=base%%3aallocation");
	if (dirty && ask(d, 1, "set context=x-nbdspec%%3adirty").result == DRIVER_UNSUPPORTED)
		skip(d->t, "contexts", "the client asks for no other context than base:allocation");
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	if (extended)
		skip_unless_extended(d);
	if (drive_options(d, NBD_OPT_SET_META_CONTEXT) == 0)
		skip(d->t, "contexts", "the client asks for no context");
}

static void
play(struct drive *d, const struct answer *a, bool extended)
{
	bool dirty = a->dirty[0].length != 0;
	const char *text;

	drive_serve(d, extended ? "size=8G" : "size=1M", NULL);
	d->config.knob[KNOB_extended_headers] = extended;
	d->owed = a->r;
	drive_follow(d, &(struct script){ .take = answer_status, .arg = (void *)a });
	select_contexts(d, dirty, extended);
	text = must(d, a->r, 1, "block_status %d %d", AT, LENGTH);
	judge_told(d, a, "base%3aallocation", a->allocation, text);
	if (dirty)
		judge_told(d, a, "x-nbdspec%3adirty", a->dirty, text);
	/* Whatever the status says, what is read is what the server has. */
	must_read_disk(
		d, a->r == R(client_takes_hole_without_zero) ? R(client_hole_not_zero) : R(client_reads_chunk_length),
		1, &d->exports[0], AT, LENGTH);
	must_go_on(d, R(client_reads_chunk_length));
}

CASE_DRIVER(extents, told,
            "Extents of any length, number and status that an honest server may tell are told to the user as they are",
            R(client_takes_any_extent_length), R(extents_same_status_handled), R(client_ignores_status_flags),
            R(client_takes_hole_without_zero), R(client_hole_not_zero), R(client_takes_unequal_contexts),
            R(client_reads_chunk_length))
{
	struct drive *d = drive_new(t);

	drive_needs(d, "block_status", NULL);
	drive_needs(d, "set", "context");
	for (volatile unsigned i = 0; i < N_ANSWERS; i++)
		POINT(t, "%s", answers[i].name) {
			play(d, &answers[i], false);
		}
}

CASE_DRIVER(
	extended_client, extents,
	"With extended headers extents of any length, number and status are told to the user as they are, or cut off",
	R(client_takes_any_extent_length), R(extents_same_status_handled), R(client_ignores_status_flags),
	R(client_takes_hole_without_zero), R(client_hole_not_zero), R(client_takes_unequal_contexts),
	R(client_reads_chunk_length))
{
	struct drive *d = drive_new(t);

	need_extended_client(d);
	drive_needs(d, "block_status", NULL);
	drive_needs(d, "set", "context");
	for (volatile unsigned i = 0; i < N_ANSWERS + N_WIDE_ANSWERS; i++) {
		const struct answer *a = i < N_ANSWERS ? &answers[i] : &wide_answers[i - N_ANSWERS];

		POINT(t, "%s", a->name)
			play(d, a, true);
	}
}
