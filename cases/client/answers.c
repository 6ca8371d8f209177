#include "cases/client/answers.h"

#include "cases/client/haggle.h"
#include "cases/client/judge.h"
#include "fakeserver/core.h"
#include "fakeserver/disk.h"

#include <stdlib.h>
#include <string.h>

enum { GATHER_MS = 1000, PROBE = 200704, PROBE_LENGTH = 4096 };

/* ---- chunks ---- */

bool
say_data(struct conn *c, uint16_t flags, uint32_t at, uint32_t length)
{
	uint64_t offset = c->request->offset + at;
	struct buf b = { 0 };

	put_be64(&b, offset);
	disk_read(c->export->disk, offset, length, buf_grow(&b, length));
	say_chunk(c, flags, NBD_REPLY_TYPE_OFFSET_DATA, b.at, b.len);
	buf_free(&b);
	return true;
}

bool
say_hole(struct conn *c, uint16_t flags, uint32_t at, uint32_t size)
{
	struct buf b = { 0 };

	wire_put_chunk_offset_hole(&b, &(struct chunk_offset_hole){ c->request->offset + at, size });
	say_chunk(c, flags, NBD_REPLY_TYPE_OFFSET_HOLE, b.at, b.len);
	buf_free(&b);
	return true;
}

bool
say_none(struct conn *c)
{
	return say_chunk(c, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, NULL, 0);
}

bool
say_failure(struct conn *c, uint16_t flags, uint16_t type, uint32_t error, const char *text, uint32_t at)
{
	struct buf b = { 0 };

	put_be32(&b, error);
	put_be16(&b, (uint16_t)strlen(text));
	buf_put(&b, text, strlen(text));
	if (type == NBD_REPLY_TYPE_ERROR_OFFSET)
		put_be64(&b, c->request->offset + at);
	say_chunk(c, flags, type, b.at, b.len);
	buf_free(&b);
	return true;
}

bool
say_extents(struct conn *c, uint16_t flags, uint32_t context_id, const struct extent *extents, size_t n)
{
	struct buf b = { 0 };

	put_be32(&b, context_id);
	if (c->extended)
		put_be32(&b, (uint32_t)n);
	for (size_t i = 0; i < n; i++)
		if (c->extended)
			wire_put_extent_ext(&b, extents[i]);
		else
			wire_put_extent(&b, extents[i]);
	say_chunk(c, flags, c->extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS, b.at, b.len);
	buf_free(&b);
	return true;
}

bool
say_success(struct conn *c, uint32_t status)
{
	const struct request *r = c->request;

	if (r->type == NBD_CMD_READ)
		return say_data(c, NBD_REPLY_FLAG_DONE, 0, r->length);
	if (r->type != NBD_CMD_BLOCK_STATUS)
		return say_none(c);
	for (unsigned i = 0; i < c->n_contexts; i++)
		say_extents(c, i + 1 == c->n_contexts ? NBD_REPLY_FLAG_DONE : NOT_DONE, c->contexts[i].id,
		            &(struct extent){ r->length, status }, 1);
	return true;
}

/* ---- many at once ---- */

void
turn_to(const struct gather *g, struct conn *c, unsigned n)
{
	c->request = &g->request[n];
}

static bool
gather(void *arg, struct conn *c, const struct incoming *m)
{
	const struct request *now = c->request;
	struct gather *g = arg;
	unsigned n;

	if (m->kind != MSG_REQUEST || m->request.type != NBD_CMD_READ || m->request.offset % SLOT != 0)
		return false;
	n = (unsigned)(m->request.offset / SLOT);
	if (n >= g->n || m->request.length != g->length[n] || (g->come & 1u << n) != 0)
		return false;
	g->request[n] = m->request;
	g->come |= 1u << n;
	if (g->come == (1u << g->n) - 1)
		g->speak(g, c);
	c->request = now;
	return true;
}

void
gather_reads(struct drive *d, struct gather *g, struct driver_answer *answers)
{
	static const char feature[] = "requests in flight";
	static bool one_by_one;
	unsigned tag[GATHERED_MOST] = { 0 };
	struct driver_answer a;
	bool first;

	if (driver_depth(d->driver) < g->n || one_by_one)
		skip(d->t, feature, "the client waits for an answer before it sends the next read");
	drive_follow(d, &(struct script){ .take = gather, .arg = g });
	if (d->config.knob[KNOB_no_structured_replies])
		must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	else
		enter_for_chunks(d, NULL);
	for (unsigned i = 0; i < g->n; i++)
		tag[i] = drive_send(d, 1, "read %u %u", i * SLOT, g->length[i]);
	first = drive_take_soon(d, &a, GATHER_MS);
	one_by_one = g->come != (1u << g->n) - 1;
	if (one_by_one)
		skip(d->t, feature, "the client does not send %u reads before it has an answer", g->n);
	for (unsigned taken = 0; taken < g->n; taken++) {
		unsigned i = 0;

		if (!first || taken > 0)
			a = drive_take(d);
		while (i + 1 < g->n && tag[i] != a.tag)
			i++;
		answers[i] = a;
	}
}

void
expect_gathered(struct drive *d, enum requirement_id r, const struct gather *g, unsigned n,
                const struct driver_answer *answer)
{
	uint32_t want = disk_digest(&d->exports[0], (uint64_t)n * SLOT, g->length[n]);

	if (answer->result != DRIVER_OK)
		drive_skip_df(d);
	EXPECT(d->t, r, answer->result == DRIVER_OK, "'read %u %u' fails: %s", n * SLOT, g->length[n], answer->text);
	EXPECT(d->t, r, strtoul(answer->text, NULL, 16) == want,
	       "'read %u %u' gives digest %s; that of the server's data is %08x", n * SLOT, g->length[n], answer->text,
	       want);
}

void
permutation(unsigned *order, unsigned count, unsigned n)
{
	unsigned left[16];

	for (unsigned i = 0; i < count; i++)
		left[i] = i;
	for (unsigned i = 0, size = count; size > 0; i++, size--) {
		unsigned pick = n % size;

		n /= size;
		order[i] = left[pick];
		memmove(&left[pick], &left[pick + 1], (size - pick - 1) * sizeof(left[0]));
	}
}

/* ---- sessions ---- */

static void
prepare_for_chunks(struct drive *d, const char *context)
{
	if (driver_has(d->driver, "set", "context")) {
		ask(d, 1, "set context=");
		if (context != NULL)
			ask(d, 1, "set context=%s", context);
	}
	d->chunked = true;
	drive_ask_sizes(d, 1);
}

void
enter_for_chunks(struct drive *d, const char *context)
{
	prepare_for_chunks(d, context);
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	if (drive_options(d, NBD_OPT_STRUCTURED_REPLY) == 0 && drive_options(d, NBD_OPT_EXTENDED_HEADERS) == 0)
		skip(d->t, "structured replies", "the client does not ask for structured replies");
}

void
want_extended(struct drive *d)
{
	if (driver_has(d->driver, "set", "extended"))
		ask(d, 1, "set extended=on");
}

void
skip_unless_extended(struct drive *d)
{
	if (drive_options(d, NBD_OPT_EXTENDED_HEADERS) == 0)
		skip(d->t, "extended headers", "the client does not ask for extended headers");
}

void
need_extended_client(struct drive *d)
{
	drive_serve(d, "", NULL);
	d->config.knob[KNOB_extended_headers] = true;
	want_extended(d);
	ask(d, 1, "connect %s", d->uri);
	skip_unless_extended(d);
	ask(d, 1, "disconnect");
	let_leave(d);
	drive_finish_as(d, &(struct referee_setup){ .server_lies = true, .left_unjudged = true });
}

void
enter_with_extended(struct drive *d, const char *context)
{
	struct driver_answer a;

	want_extended(d);
	prepare_for_chunks(d, context);
	a = ask(d, 1, "connect %s", d->uri);
	/* A server may demand them (ext:1427). */
	skip_unless_extended(d);
	if (a.result == DRIVER_ERROR)
		drive_skip_refused_sizes(d);
	if (a.result != DRIVER_OK)
		broken_values(d->t, R(baseline_client_info_go), "the client connects", a.text);
}

void
answer_late(struct drive *d, struct conn *c, const struct request *r)
{
	for (struct conn *open = d->fake->conns; open != NULL; open = open->private->next)
		if (open == c) {
			c->request = r;
			say_simple(c, NBD_SUCCESS, NULL, 0);
			c->request = NULL;
			conn_flush(c);
			return;
		}
}

void
must_go_on(struct drive *d, enum requirement_id r)
{
	must_read_disk(d, r, 1, &d->exports[0], PROBE, PROBE_LENGTH);
	must(d, R(baseline_client_disc), 1, "disconnect");
	drive_finish(d);
}

void
may_go_on(struct drive *d, enum requirement_id r, enum requirement_id freedom)
{
	struct driver_answer a = ask(d, 1, "read %d %d", PROBE, PROBE_LENGTH);
	uint32_t want = disk_digest(&d->exports[0], PROBE, PROBE_LENGTH);

	EXPECT(d->t, r, a.result != DRIVER_OK || strtoul(a.text, NULL, 16) == want,
	       "the next read gives digest %s; that of the server's data is %08x", a.text, want);
	if (a.result != DRIVER_OK)
		observe(d->t, freedom, "the client leaves: %s", a.text);
	ask(d, 1, "disconnect");
	let_leave(d);
	drive_finish(d);
}
