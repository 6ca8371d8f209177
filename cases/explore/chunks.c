/*
 * All ways to cut the reply to a READ of four blocks into chunks, in all orders, and those of two READs in flight in all
 * turns (nbdspec client --explore). A command has every READ that it sends answered by the play.
 */
#include "cases/explore/chunks.h"

#include "cases/client/answers.h"
#include "fakeserver/core.h"
#include "fakeserver/disk.h"
#include "harness/client.h"
#include "harness/clock.h"
#include "harness/nbd.h"

#include <stdlib.h>
#include <string.h>

enum {
	BLOCK = 512,
	LENGTH = CHUNK_BLOCKS * BLOCK,
	PROBE_AT = 131072,
	WEAVE_MS = 1000,
	SECTOR = 512,
	PATTERNS = 60000,
	SEVERAL = 5
};
static const char *const ways[] = { "chunks", "simple", NULL };

static const struct play *now;
static struct request waiting[CHUNK_READERS];
static unsigned come, n_readers; /* bits of those that wait */
static bool lawful, df_seen;
static unsigned pattern = 1; /* another for each play: what was read before is not taken for what is read now */
static int session = -1;     /* the way by which the driver is connected */
static bool structured;      /* the driver\'s client asks for structured replies */
static bool connected;       /* it has done so */

/* ---- saying ---- */

/* The blocks of a READ: its last one has what is left over. */
static uint32_t
block_at(const struct request *r, unsigned block)
{
	uint32_t size = r->length / CHUNK_BLOCKS;

	return block == CHUNK_BLOCKS ? r->length : block * size;
}

static void
say_content(struct conn *c, struct chunk_step s)
{
	uint32_t at = block_at(c->request, s.from), length = block_at(c->request, s.to + 1u) - at;
	struct buf b = { 0 };

	if (s.kind == CHUNK_HOLE) {
		say_hole(c, s.done ? NBD_REPLY_FLAG_DONE : 0, at, length);
		return;
	}
	put_be64(&b, c->request->offset + at);
	if (player.d != NULL)
		driver_pattern(pattern, c->request->offset + at, length, buf_grow(&b, length));
	else
		disk_read(c->export->disk, c->request->offset + at, length, buf_grow(&b, length));
	say_chunk(c, s.done ? NBD_REPLY_FLAG_DONE : 0, NBD_REPLY_TYPE_OFFSET_DATA, b.at, b.len);
	buf_free(&b);
}

static void
say_all_data(struct conn *c)
{
	const struct request *r = c->request;
	uint8_t *data = malloc(r->length);

	if (data == NULL)
		abort();
	if (player.d != NULL)
		driver_pattern(pattern, r->offset, r->length, data);
	else
		disk_read(c->export->disk, r->offset, r->length, data);
	say_simple(c, NBD_SUCCESS, data, r->length);
	free(data);
}

static void
say_step(struct conn *c, struct chunk_step s)
{
	uint16_t flags = s.done ? NBD_REPLY_FLAG_DONE : 0;

	switch (s.kind) {
	case CHUNK_DATA:
	case CHUNK_HOLE:
		say_content(c, s);
		break;
	case CHUNK_NONE:
		say_none(c);
		break;
	case CHUNK_ERROR:
		say_failure(c, flags, NBD_REPLY_TYPE_ERROR, NBD_EIO, "it broke", 0);
		break;
	case CHUNK_ERROR_AT:
		say_failure(c, flags, NBD_REPLY_TYPE_ERROR_OFFSET, NBD_EIO, "here", block_at(c->request, s.from));
		break;
	case REPLY_OK:
		say_all_data(c);
		break;
	case CLOSE:
		say_close(c);
		break;
	default:
		say_simple(c, NBD_EIO, NULL, 0);
	}
}

static void
say_play(struct conn *c)
{
	const struct request *request = c->request;

	for (unsigned i = 0; i < now->n; i++) {
		struct chunk_step s = chunk_step_of(now->step[i]);

		c->request = &waiting[s.reader];
		say_step(c, s);
	}
	c->request = request;
}

/* ---- a driver's requests ---- */

static bool
take_of_driver(struct conn *c, const struct request *r)
{
	unsigned reader = (unsigned)(r->offset / SLOT);

	if (r->length != LENGTH || r->offset % SLOT != 0 || reader >= n_readers || (come & 1u << reader) != 0)
		return false;
	df_seen |= (r->flags & NBD_CMD_FLAG_DF) != 0;
	waiting[reader] = *r;
	come |= 1u << reader;
	if (come == (1u << n_readers) - 1)
		say_play(c);
	return true;
}

/* ---- a command's ---- */

static uint8_t *told; /* for each sector of the disk: a READ has told what it holds */

/* The disk becomes what the play says of it, but where it was told before. */
static bool
make_holes(struct disk *disk, const struct request *r)
{
	uint64_t from = r->offset / SECTOR, to = (r->offset + r->length + SECTOR - 1) / SECTOR;
	bool again = false;

	for (uint64_t i = from; i < to; i++)
		again |= told[i]++ > 0;
	for (unsigned i = 0; i < now->n && !again && lawful; i++) {
		struct chunk_step s = chunk_step_of(now->step[i]);

		if (s.kind == CHUNK_HOLE)
			disk_zero(disk, r->offset + block_at(r, s.from), block_at(r, s.to + 1u) - block_at(r, s.from),
			          DISK_TRIMMED);
	}
	return !again;
}

static bool
take_of_command(struct conn *c, const struct request *r)
{
	if (r->length < LENGTH || r->length % LENGTH != 0 || r->offset % SECTOR != 0)
		return false;
	df_seen |= (r->flags & NBD_CMD_FLAG_DF) != 0;
	if (!make_holes(c->export->disk, r))
		return false;
	come++;
	player.unlawful = player.h->unlawful = !lawful;
	waiting[0] = *r;
	say_play(c);
	return true;
}

static bool
take_read(void *arg, struct conn *c, const struct incoming *m)
{
	(void)arg;
	if (m->kind != MSG_REQUEST || m->request.type != NBD_CMD_READ || n_readers == 0 ||
	    c->structured != (now->way == BY_CHUNKS))
		return false;
	return player.d != NULL ? take_of_driver(c, &m->request) : take_of_command(c, &m->request);
}

/* ---- judging ---- */

static bool
fails(unsigned reader)
{
	for (unsigned i = 0; i < now->n; i++)
		if (chunk_step_of(now->step[i]).reader == reader && is_failure(chunk_step_of(now->step[i])))
			return true;
	return false;
}

/* The digest of what was said to it. False where that is not whole, or not clear. */
static bool
said_digest(unsigned reader, uint32_t *digest)
{
	uint8_t data[LENGTH], times[CHUNK_BLOCKS] = { 0 };
	bool clear = true, done = false;

	driver_pattern(pattern, (uint64_t)reader * SLOT, LENGTH, data);
	for (unsigned i = 0; i < now->n && !done; i++) {
		struct chunk_step s = chunk_step_of(now->step[i]);

		if (s.reader != reader)
			continue;
		done = s.done;
		for (unsigned block = s.from; is_content(s) && block <= s.to; block++) {
			clear &= block < CHUNK_BLOCKS && times[block]++ == 0;
			if (block < CHUNK_BLOCKS && s.kind == CHUNK_HOLE)
				memset(data + block * BLOCK, 0, BLOCK);
		}
	}
	for (unsigned block = 0; block < CHUNK_BLOCKS && now->way == BY_CHUNKS; block++)
		clear &= times[block] == 1;
	*digest = driver_digest(data, LENGTH);
	return clear;
}

static bool
ends_with_none(void)
{
	return now->n == 2 && chunk_step_of(now->step[1]).kind == CHUNK_NONE;
}

/* What a read that does not give its data breaks, unless a shorter play has broken it before. */
static enum requirement_id
owed_data(void)
{
	if (!lawful)
		return R(inconsistent_chunk_disconnects);
	if (now->way == BY_SIMPLE)
		return chunk_readers(now) > 1 ? R(client_takes_replies_unordered) : R(baseline_client_simple_replies);
	if (chunk_readers(now) > 1)
		return chunks_interleaved(now) ? R(client_takes_interleaved_chunks) : R(client_takes_replies_unordered);
	return ends_with_none() ? R(none_chunk_taken_as_final) : R(read_chunks_reassembled);
}

static enum requirement_id
owed(void)
{
	for (unsigned i = 0; i < n_readers; i++)
		if (lawful && fails(i))
			return now->way == BY_SIMPLE ? R(client_no_data_after_error)
			                             : R(client_error_chunk_fails_reply);
	return lawful ? owed_data() : R(client_transmission_no_disconnect);
}

static const char data_expected[] = "a read gives the data that was said to it";

static void
judge_read(unsigned reader, const struct driver_answer *a)
{
	uint32_t want;
	bool clear = said_digest(reader, &want), right = a->result == DRIVER_OK && strtoul(a->text, NULL, 16) == want;

	if (lawful && fails(reader)) {
		if (a->result == DRIVER_OK)
			player_breach(BROKEN(owed()), "a read fails to which an error was said",
			              "read %c is answered 'ok'", 'A' + (int)reader);
	} else if (lawful ? !right : clear && a->result == DRIVER_OK && !right) {
		player_breach(BROKEN(player_known(now, owed_data())), data_expected, "read %c is answered '%s %s'",
		              'A' + (int)reader, a->result == DRIVER_OK ? "ok" : "error", a->text);
	}
}

/* ---- by a driver ---- */

static void
fill_probe(void)
{
	enum disk_state failed;
	uint8_t data[BLOCK];

	driver_pattern(pattern, PROBE_AT, BLOCK, data);
	if (!disk_write(player_export()->disk, PROBE_AT, BLOCK, data, &failed))
		abort();
}

/* The next reply is found, and is taken for what it is. */
static void
probe(void)
{
	struct driver_answer a;
	uint32_t want;

	fill_probe();
	want = disk_digest(player_export(), PROBE_AT, BLOCK);
	if (!player_ask(&a, 1, "read %d %d", PROBE_AT, BLOCK))
		return;
	if (a.result == DRIVER_OK ? strtoul(a.text, NULL, 16) != want : lawful)
		player_breach(BROKEN(lawful ? R(client_reads_chunk_length) : R(inconsistent_chunk_disconnects)),
		              "the next read gives the data of the disk", "'%s %s'",
		              a.result == DRIVER_OK ? "ok" : "error", a.text);
}

static bool
is_structured(void)
{
	for (const struct conn *c = player_server()->conns; c != NULL; c = c->private->next)
		if (c->phase == PHASE_TRANSMISSION && c->structured)
			return true;
	return false;
}

static bool
connect_for(unsigned way)
{
	struct driver_answer a;

	if (session == (int)way)
		return true;
	if (session >= 0 && !player_ask(&a, 1, "disconnect"))
		return false;
	player.d->config.knob[KNOB_no_structured_replies] = way == BY_SIMPLE;
	session = -1;
	n_readers = 0;
	if (!player_ask(&a, 1, "connect %s", player.d->uri))
		return false;
	if (a.result != DRIVER_OK && !connected)
		skip(player.t, "a client that works", "it does not connect to an honest server: %s", a.text);
	if (a.result != DRIVER_OK)
		player_breach(BROKEN(R(baseline_client_info_go)), "'connect' is answered 'ok', as it was before",
		              "'error %s'", a.text);
	if (a.result != DRIVER_OK)
		return false;
	connected = true;
	session = (int)way;
	structured |= is_structured();
	return true;
}

static void
judge_answers(const unsigned *tag)
{
	struct driver_answer a;

	for (unsigned taken = 0; taken < n_readers; taken++) {
		unsigned reader = 0;

		if (!player_answer(&a))
			return;
		while (reader + 1 < n_readers && tag[reader] != a.tag)
			reader++;
		judge_read(reader, &a);
	}
	/* What comes behind the end of a reply may be taken for one to the next request, which may have the same cookie. */
	if (player.n_breaches == 0 && !chunks_overrun(now))
		probe();
}

/* After what is not lawful, or was not understood, another session. */
static void
leave(void)
{
	struct driver_answer a;

	if (player.stuck || (lawful && player.n_breaches == 0))
		return;
	session = -1;
	player_ask(&a, 1, "disconnect");
}

static void
play_to_driver(const struct play *p)
{
	unsigned tag[CHUNK_READERS];

	if (!connect_for(p->way))
		return;
	if (p->way == BY_CHUNKS && !structured)
		skip(player.t, "structured replies", "the client does not ask for structured replies");
	come = 0;
	n_readers = chunk_readers(p);
	player.unlawful = !lawful;
	pattern = pattern % PATTERNS + 1;
	for (unsigned i = 0; i < n_readers; i++) {
		tag[i] = player_send(1, "read %d %d", (int)i * SLOT, LENGTH);
		if (tag[i] == 0)
			return;
	}
	judge_answers(tag);
	leave();
}

/* ---- by a command ---- */

static void
fill_disk(void)
{
	struct fake_export *e = player_export();
	enum disk_state failed;
	uint8_t data[65536];

	for (uint64_t at = 0; at < e->size; at += sizeof(data)) {
		size_t n = e->size - at < sizeof(data) ? (size_t)(e->size - at) : sizeof(data);

		driver_pattern(pattern, at, n, data);
		if (!disk_write(e->disk, at, n, data, &failed))
			abort();
	}
	free(told);
	told = calloc(e->size / SECTOR + 2, 1);
	if (told == NULL)
		abort();
}

static void
judge_run(void)
{
	if (come == 0)
		skip(player.t, "reads", "the client reads nothing that could be cut: %s", player.h->end.text);
	/* What is read for something else than a copy may be of no importance. */
	if (lawful && fails(0) && succeeded(player.h) && copies(player.h))
		player_breach(BROKEN(owed()), "the client fails, for errors were said to all of its reads",
		              "exit status 0");
	else if (lawful && !fails(0) && !succeeded(player.h))
		player_breach(BROKEN(player_known(now, owed_data())), data_expected, "%s", player.h->end.text);
	else if (lawful)
		player_judge_copy(player_known(now, owed_data()), player_export()->size);
	player_judge();
}

static void
play_to_command(const struct play *p)
{
	come = 0;
	n_readers = 1;
	pattern = pattern % PATTERNS + 1;
	player.h->config.knob[KNOB_no_meta_contexts] = true;
	player.h->config.knob[KNOB_no_structured_replies] = p->way == BY_SIMPLE;
	fill_disk();
	if (player_run())
		judge_run();
}

/* ---- plays ---- */

static void
perform(const struct play *p)
{
	now = p;
	lawful = chunks_lawful(p);
	if (chunk_readers(p) > (player.d != NULL ? driver_depth(player.d->driver) : 1))
		skip(player.t, "requests in flight", "the client has not %u reads in flight", chunk_readers(p));
	if (player.d != NULL)
		play_to_driver(p);
	else
		play_to_command(p);
}

static void
renewed(void)
{
	session = -1;
	n_readers = 0;
}

static const struct stage stage = {
	.case_id = "explore/chunks",
	.ways = ways,
	.example = "chunks,A:data2-3,A:hole0-1,A:none",
	.renewed = renewed,
	.perform = perform,
	.owed = owed,
	.put_step = chunk_step_put,
	.parse_step = chunk_step_parse,
	.contains = chunks_contain,
	.without = chunks_without,
	.plainer = chunks_plainer,
};

static uint64_t n_plays;

/* A command is run for each: where it is slow, some are enough. */
static bool
is_chosen(void)
{
	uint64_t nth = n_plays++;

	if (player.h != NULL && player.d == NULL && client_pairwise(player.h->client)) {
		if (nth % SEVERAL != 0)
			return false;
		nth /= SEVERAL;
	}
	return player_is_ours(nth);
}

/* Nothing is cut for a client that wants no structured replies. */
static bool
is_for_it(const struct play *p)
{
	return player.d == NULL || structured || p->way == BY_SIMPLE;
}

static void
count_play(const struct play *p)
{
	if (is_for_it(p) && is_chosen())
		player_plans(1);
}

static void
take_play(const struct play *p)
{
	if (!is_for_it(p) || !is_chosen())
		return;
	player_take(p);
	if (df_seen)
		skip(player.t, "chunks", "the client asks for one chunk alone, by NBD_CMD_FLAG_DF");
}

/* Does it send a read before the one before it is answered? */
static bool
reads_together(void)
{
	static struct play two;
	int64_t until = now_ms() + (int64_t)(WEAVE_MS * client_factor(player.d->client));

	if (!connect_for(BY_CHUNKS) || driver_depth(player.d->driver) < CHUNK_READERS)
		return false;
	two.way = structured ? BY_CHUNKS : BY_SIMPLE;
	now = &two;
	come = 0;
	n_readers = CHUNK_READERS;
	for (unsigned i = 0; i < n_readers; i++)
		player_send(1, "read %d %d", (int)i * SLOT, LENGTH);
	while (come != (1u << n_readers) - 1 && now_ms() < until)
		drive_pause(player.d, 1);
	return come == (1u << n_readers) - 1;
}

CASE_EXPLORE_CLIENT(explore, chunks,
                    "However the replies to reads are cut into chunks, in whatever order these come, and errors among "
                    "them, each read gives its data, or fails where it must",
                    R(read_chunks_reassembled), R(none_chunk_taken_as_final), R(client_error_chunk_fails_reply),
                    R(client_takes_interleaved_chunks), R(client_takes_replies_unordered), R(client_reads_chunk_length),
                    R(client_no_data_after_error), R(baseline_client_simple_replies), R(inconsistent_chunk_disconnects),
                    R(client_transmission_no_disconnect))
{
	static const struct script script = { .take = take_read };
	unsigned shard;
	const struct exploration *plan = exploration_of(t, &shard);
	bool together = true;

	if (plan->sequence != NULL && !names_chunks(plan->sequence))
		return;
	player_begin(t, &stage, &plan->counts->chunks, &script);
	if (!player_takes_sequence()) {
		together = player.d != NULL && reads_together();
		player_renew();
		chunks_all(together, count_play);
		n_plays = 0;
		chunks_all(together, take_play);
	}
	player_ends(player.d != NULL && !structured ? "simple replies"
	            : together                      ? "ways to answer reads"
	                                            : "ways to answer reads that come one by one");
}
