/*
 * Chunks that no honest server sends: of a type that is unknown or has no business there, or whose contents cannot be.
 * What the client owes is to disconnect, proto.md:1789-1791 and :1935-1942. Where other sentences leave it the choice,
 * :2039-2041 of READ and :2286-2287 of BLOCK_STATUS, a client that goes on gets a warning; wrong data are never good.
 */
#include "cases/client/answers.h"

#include "cases/client/haggle.h"
#include "cases/client/judge.h"
#include "harness/nbd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DONE = NBD_REPLY_FLAG_DONE, AT = 65536, LENGTH = 4096, UNKNOWN_ERROR = 0x8003 };
enum owes { LEAVES, MAY_LEAVE, FREE_TO_LEAVE, ANY };

/* How the client leaves is its own affair then. */
static const struct referee_setup liar = { .server_lies = true };

/* The payload as it stands, in hexadecimal digits, and so many zeroes behind it; the request is for 4096 bytes at 65536. */
static const struct wrong {
	const char *name, *words, *operation;
	uint16_t type;
	const char *payload;
	unsigned zeroes;
	enum owes owes;
	enum requirement_id broken;
	bool good_alone; /* wrong only where a good reply follows */
} wrongs[] = {
#define READ           "read 65536 4096", "read"
#define WRITE          "write 65536 4096 7", "write"
#define ZERO           "zero 65536 4096", "zero"
#define STATUS         "block_status 65536 4096", "block_status"
#define OFFSET         "0000000000010000"
#define UNEXPECTED     LEAVES, R(unknown_chunk_disconnects), false
#define INCONSISTENT   LEAVES, R(inconsistent_chunk_disconnects), false
#define INVALID        MAY_LEAVE, R(inconsistent_chunk_disconnects), false
#define INVALID_BEFORE MAY_LEAVE, R(inconsistent_chunk_disconnects), true
#define LEFT_TO_IT     FREE_TO_LEAVE, R(inconsistent_chunk_disconnects), false
	{ "type 3, empty", READ, 3, "", 0, UNEXPECTED },
	{ "type 3, with a payload", READ, 3, OFFSET, 4096, UNEXPECTED },
	{ "type 4", READ, 4, OFFSET, 0, UNEXPECTED },
	{ "type 7", READ, 7, OFFSET, 4, UNEXPECTED },
	{ "type 0x7fff", READ, 0x7fff, "", 1, UNEXPECTED },
	{ "type 3 to a WRITE", WRITE, 3, "", 0, UNEXPECTED },
	{ "type 0x7fff to a WRITE_ZEROES", ZERO, 0x7fff, "", 8, UNEXPECTED },
	{ "type 3 to a BLOCK_STATUS", STATUS, 3, "", 12, UNEXPECTED },
	/* libnbd bac8e8c: an assertion failed. */
	{ "extents to a READ", READ, NBD_REPLY_TYPE_BLOCK_STATUS,
	  "00000001"
	  "00001000"
	  "00000000",
	  0, UNEXPECTED },
	{ "many extents to a READ", READ, NBD_REPLY_TYPE_BLOCK_STATUS,
	  "00000001"
	  "00001000"
	  "00000000",
	  4096, UNEXPECTED },
	{ "data to a WRITE", WRITE, NBD_REPLY_TYPE_OFFSET_DATA, OFFSET, 4096, UNEXPECTED },
	{ "a hole to a WRITE", WRITE, NBD_REPLY_TYPE_OFFSET_HOLE, OFFSET "00001000", 0, UNEXPECTED },
	{ "extents to a WRITE", WRITE, NBD_REPLY_TYPE_BLOCK_STATUS,
	  "00000001"
	  "00001000"
	  "00000000",
	  0, UNEXPECTED },
	{ "a hole to a WRITE_ZEROES", ZERO, NBD_REPLY_TYPE_OFFSET_HOLE, OFFSET "00001000", 0, UNEXPECTED },
	{ "data to a BLOCK_STATUS", STATUS, NBD_REPLY_TYPE_OFFSET_DATA, OFFSET, 4096, UNEXPECTED },
	{ "a hole to a BLOCK_STATUS", STATUS, NBD_REPLY_TYPE_OFFSET_HOLE, OFFSET "00001000", 0, UNEXPECTED },
	/* Chunks that have the same shape for all commands. */
	{ "NONE with a payload", READ, NBD_REPLY_TYPE_NONE, "", 4, INCONSISTENT },
	{ "NONE with a payload to a WRITE", WRITE, NBD_REPLY_TYPE_NONE, "", 4, INCONSISTENT },
	{ "ERROR without a payload", READ, NBD_REPLY_TYPE_ERROR, "", 0, INCONSISTENT },
	{ "ERROR of 4 bytes", READ, NBD_REPLY_TYPE_ERROR, "00000005", 0, INCONSISTENT },
	/* libnbd 6f238ad: it read beyond the chunk. */
	{ "ERROR with a text longer than it", READ, NBD_REPLY_TYPE_ERROR,
	  "00000005"
	  "0005"
	  "74657874",
	  0, INCONSISTENT },
	{ "ERROR with a text of 65535 bytes", WRITE, NBD_REPLY_TYPE_ERROR,
	  "00000005"
	  "ffff",
	  0, INCONSISTENT },
	/* libnbd 15d0f03, 1aa33e0: the offset was read from elsewhere. */
	{ "ERROR_OFFSET of 6 bytes", READ, NBD_REPLY_TYPE_ERROR_OFFSET,
	  "00000005"
	  "0000",
	  0, INCONSISTENT },
	{ "ERROR_OFFSET of 13 bytes", READ, NBD_REPLY_TYPE_ERROR_OFFSET,
	  "00000005"
	  "0000"
	  "00000000000100",
	  0, INCONSISTENT },
	{ "ERROR_OFFSET with a text in place of its offset", READ, NBD_REPLY_TYPE_ERROR_OFFSET,
	  "00000005"
	  "0008"
	  "7465787474657874",
	  0, INCONSISTENT },
	{ "unknown error with a text longer than it", READ, UNKNOWN_ERROR,
	  "00000005"
	  "0100"
	  "7465",
	  0, LEAVES, R(unknown_error_chunk_overlong), false },
	{ "unknown error with a text of 65535 bytes", WRITE, UNKNOWN_ERROR,
	  "00000005"
	  "ffff",
	  8, LEAVES, R(unknown_error_chunk_overlong), false },
	{ "unknown error to a BLOCK_STATUS with a text longer than it", STATUS, 0xffff,
	  "00000005"
	  "0001",
	  0, LEAVES, R(unknown_error_chunk_overlong), false },
	{ "unknown error without a payload", READ, UNKNOWN_ERROR, "", 0, ANY, R(unknown_error_chunk_fails), false },
	{ "unknown error of 4 bytes", WRITE, 0xfffe, "00000005", 0, ANY, R(unknown_error_chunk_fails), false },
	/* libnbd 97fab5e: success. */
	{ "ERROR with error 0", READ, NBD_REPLY_TYPE_ERROR,
	  "00000000"
	  "0000",
	  0, INVALID },
	{ "ERROR with error 0 to a WRITE", WRITE, NBD_REPLY_TYPE_ERROR,
	  "00000000"
	  "0000",
	  0, INVALID },
	{ "ERROR_OFFSET with error 0", READ, NBD_REPLY_TYPE_ERROR_OFFSET,
	  "00000000"
	  "0000" OFFSET,
	  0, INVALID },
	{ "ERROR_OFFSET before the request", READ, NBD_REPLY_TYPE_ERROR_OFFSET,
	  "00000005"
	  "0000"
	  "000000000000ffff",
	  0, INVALID },
	{ "ERROR_OFFSET behind the request", READ, NBD_REPLY_TYPE_ERROR_OFFSET,
	  "00000005"
	  "0000"
	  "0000000000011000",
	  0, INVALID },
	{ "ERROR_OFFSET of all ones", WRITE, NBD_REPLY_TYPE_ERROR_OFFSET,
	  "00000005"
	  "0000"
	  "ffffffffffffffff",
	  0, INVALID },
	/* READ */
	{ "data of 0 bytes in all", READ, NBD_REPLY_TYPE_OFFSET_DATA, "", 0, INVALID },
	{ "data of 7 bytes in all", READ, NBD_REPLY_TYPE_OFFSET_DATA, "00000000000100", 0, INVALID },
	{ "data without data", READ, NBD_REPLY_TYPE_OFFSET_DATA, OFFSET, 0, INVALID },
	{ "a hole of 8 bytes in all", READ, NBD_REPLY_TYPE_OFFSET_HOLE, OFFSET, 0, INVALID },
	{ "a hole of 16 bytes in all", READ, NBD_REPLY_TYPE_OFFSET_HOLE, OFFSET "00001000", 4, INVALID },
	{ "a hole of size 0", READ, NBD_REPLY_TYPE_OFFSET_HOLE, OFFSET "00000000", 0, INVALID },
	/* libnbd f75f602: written outside of the buffer. */
	{ "data before the request", READ, NBD_REPLY_TYPE_OFFSET_DATA, "000000000000f000", 4096, INVALID },
	{ "data of a byte before the request", READ, NBD_REPLY_TYPE_OFFSET_DATA, "000000000000ffff", 4096, INVALID },
	{ "data of a byte behind the request", READ, NBD_REPLY_TYPE_OFFSET_DATA, "0000000000010001", 4096, INVALID },
	{ "data behind the request", READ, NBD_REPLY_TYPE_OFFSET_DATA, "0000000000011000", 4096, INVALID },
	{ "data at offset 0", READ, NBD_REPLY_TYPE_OFFSET_DATA, "0000000000000000", 4096, INVALID },
	{ "data at an offset of all ones", READ, NBD_REPLY_TYPE_OFFSET_DATA, "ffffffffffffffff", 4096, INVALID },
	{ "data whose end is beyond 2^64", READ, NBD_REPLY_TYPE_OFFSET_DATA, "fffffffffffff001", 4096, INVALID },
	{ "data longer than the request", READ, NBD_REPLY_TYPE_OFFSET_DATA, OFFSET, 4097, INVALID },
	{ "data much longer than the request", READ, NBD_REPLY_TYPE_OFFSET_DATA, OFFSET, 1 << 20, INVALID },
	{ "a hole before the request", READ, NBD_REPLY_TYPE_OFFSET_HOLE,
	  "000000000000f000"
	  "00001000",
	  0, INVALID },
	{ "a hole behind the request", READ, NBD_REPLY_TYPE_OFFSET_HOLE,
	  "0000000000011000"
	  "00001000",
	  0, INVALID },
	{ "a hole longer than the request", READ, NBD_REPLY_TYPE_OFFSET_HOLE, OFFSET "00001001", 0, INVALID },
	{ "a hole of 4 GiB", READ, NBD_REPLY_TYPE_OFFSET_HOLE, OFFSET "ffffffff", 0, INVALID },
	{ "a hole whose end is beyond 2^64", READ, NBD_REPLY_TYPE_OFFSET_HOLE,
	  "fffffffffffffff0"
	  "00001000",
	  0, INVALID },
	/* BLOCK_STATUS; CVE-2023-5871 (libnbd). The context's ID is put in place of its digits. */
	{ "extents of 0 bytes in all", STATUS, NBD_REPLY_TYPE_BLOCK_STATUS, "", 0, INVALID },
	{ "extents of 4 bytes in all", STATUS, NBD_REPLY_TYPE_BLOCK_STATUS, "cccccccc", 0, INVALID },
	{ "extents of 8 bytes in all", STATUS, NBD_REPLY_TYPE_BLOCK_STATUS,
	  "cccccccc"
	  "00001000",
	  0, INVALID },
	{ "an extent and a half", STATUS, NBD_REPLY_TYPE_BLOCK_STATUS,
	  "cccccccc"
	  "00001000"
	  "00000000"
	  "00001000",
	  0, INVALID },
	{ "an extent of length 0", STATUS, NBD_REPLY_TYPE_BLOCK_STATUS,
	  "cccccccc"
	  "00000000"
	  "00000000",
	  0, LEFT_TO_IT },
	{ "the last extent of length 0", STATUS, NBD_REPLY_TYPE_BLOCK_STATUS,
	  "cccccccc"
	  "00000800"
	  "00000000"
	  "00000000"
	  "00000003",
	  0, LEFT_TO_IT },
	{ "extents of another context", STATUS, NBD_REPLY_TYPE_BLOCK_STATUS,
	  "0badcafe"
	  "00001000"
	  "00000000",
	  0, INVALID },
	{ "extents without end", STATUS, NBD_REPLY_TYPE_BLOCK_STATUS, "cccccccc", 8 << 15, LEFT_TO_IT },
	{ "NONE", READ, NBD_REPLY_TYPE_NONE, "", 0, INVALID_BEFORE },
	{ "extents twice", STATUS, NBD_REPLY_TYPE_BLOCK_STATUS,
	  "cccccccc"
	  "00001000"
	  "00000000",
	  0, INVALID_BEFORE },
	{ "extents far beyond the request", STATUS, NBD_REPLY_TYPE_BLOCK_STATUS,
	  "cccccccc"
	  "ffffffff"
	  "00000000"
	  "ffffffff"
	  "00000000",
	  0, ANY, R(inconsistent_chunk_disconnects), false },
};
enum { N_WRONGS = sizeof(wrongs) / sizeof(wrongs[0]) };

/* Of extended headers: extents of 64 bits, behind their count (ext:2100-2131). */
#define EXT          NBD_REPLY_TYPE_BLOCK_STATUS_EXT
#define EXTENT_OF(n) "00000000" n "0000000000000000"
#define ONE_EXTENT   EXTENT_OF("00001000")
static const struct wrong wide_wrongs[] = {
	{ "extents of 64 bits to a READ", READ, EXT, "0000000100000001" ONE_EXTENT, 0, UNEXPECTED },
	{ "extents of 64 bits to a WRITE", WRITE, EXT, "0000000100000001" ONE_EXTENT, 0, UNEXPECTED },
	{ "extents of 32 bits", STATUS, NBD_REPLY_TYPE_BLOCK_STATUS,
	  "cccccccc"
	  "00001000"
	  "00000000",
	  0, INVALID },
	{ "no extents, without a count", STATUS, EXT, "cccccccc", 0, INVALID },
	{ "a count of 0", STATUS, EXT, "cccccccc00000000", 0, INVALID },
	{ "a count of 1 for no extent", STATUS, EXT, "cccccccc00000001", 0, INVALID },
	{ "a count of 0 for one extent", STATUS, EXT, "cccccccc00000000" ONE_EXTENT, 0, INVALID },
	{ "a count of 2 for one extent", STATUS, EXT, "cccccccc00000002" ONE_EXTENT, 0, INVALID },
	{ "a count of 1 for two extents", STATUS, EXT, "cccccccc00000001" EXTENT_OF("00000800") EXTENT_OF("00000800"),
	  0, INVALID },
	{ "a count of all ones", STATUS, EXT, "ccccccccffffffff" ONE_EXTENT, 0, INVALID },
	{ "half an extent of 64 bits", STATUS, EXT,
	  "cccccccc00000001"
	  "0000000000001000",
	  0, INVALID },
	{ "an extent of 64 bits and a half", STATUS, EXT, "cccccccc00000001" ONE_EXTENT "0000000000001000", 0,
	  INVALID },
	{ "an extent of 64 bits and length 0", STATUS, EXT, "cccccccc00000001" EXTENT_OF("00000000"), 0, LEFT_TO_IT },
	{ "extents of 64 bits and another context", STATUS, EXT, "0badcafe00000001" ONE_EXTENT, 0, INVALID },
	{ "a status of base:allocation with high bits", STATUS, EXT,
	  "cccccccc00000001"
	  "0000000000001000"
	  "8000000000000000",
	  0, ANY, R(inconsistent_chunk_disconnects), false },
	{ "extents of 64 bits that wrap round", STATUS, EXT,
	  "cccccccc00000002"
	  "ffffffffffffffff"
	  "0000000000000000"
	  "0000000000001000"
	  "0000000000000000",
	  0, ANY, R(inconsistent_chunk_disconnects), false },
};
enum { N_WIDE_WRONGS = sizeof(wide_wrongs) / sizeof(wide_wrongs[0]) };

static const struct wrong unagreed_extents = {
	"extents of 64 bits behind compact headers", STATUS, EXT, "cccccccc00000001" ONE_EXTENT, 0, UNEXPECTED
};

struct play {
	const struct wrong *wrong;
	bool last; /* it ends the reply; else a good one follows */
	bool extended;
	uint16_t connection;
	bool said;
};

static void
put_hex(struct buf *b, const char *digits, uint32_t context_id)
{
	unsigned byte;

	if (strncmp(digits, "cccccccc", 8) == 0) {
		put_be32(b, context_id);
		digits += 8;
	}
	for (; sscanf(digits, "%2x", &byte) == 1; digits += 2)
		*buf_grow(b, 1) = (uint8_t)byte;
}

static bool
answer_wrongly(void *arg, struct conn *c, const struct incoming *m)
{
	struct play *p = arg;
	struct buf b = { 0 };

	if (m->kind != MSG_REQUEST || m->request.offset != AT || m->request.length != LENGTH ||
	    !(c->structured || c->extended) || p->said)
		return false;
	put_hex(&b, p->wrong->payload, c->n_contexts > 0 ? c->contexts[0].id : 0);
	if (p->wrong->zeroes > 0)
		memset(buf_grow(&b, p->wrong->zeroes), 0, p->wrong->zeroes);
	say_chunk(c, p->last ? DONE : NOT_DONE, p->wrong->type, b.at, b.len);
	buf_free(&b);
	p->said = true;
	p->connection = (uint16_t)c->number;
	return p->last || say_success(c, 0);
}

/* The probe came over the connection on which the wrong chunk was sent. */
static bool
same_connection(struct drive *d, uint16_t connection)
{
	struct wire w = drive_records(d);
	struct trace_record r;
	struct request request;
	bool same = false;

	while (trace_next(&w, &r))
		if (request_in(&r, &request))
			same = r.connection == connection;
	return same;
}

static bool
is_error_chunk(const struct wrong *w)
{
	return (w->type & 0x8000) != 0;
}

/* Success with other data than the disk's, or in spite of an error. */
static void
judge_answer(struct drive *d, const struct play *p, const struct driver_answer *a)
{
	const struct wrong *w = p->wrong;

	if (a->result != DRIVER_OK)
		return;
	EXPECT(d->t, w->broken, !is_error_chunk(w), "'%s' is answered 'ok' after an error chunk", w->words);
	if (strcmp(w->operation, "read") != 0 || strtoul(a->text, NULL, 16) == disk_digest(&d->exports[0], AT, LENGTH))
		return;
	/* A client that leaves it to the server whether its data are enough gets none here. */
	if (p->last)
		warns(d->t, w->broken, "'%s' is answered 'ok', and its data never came", w->words);
	else
		broken(d->t, w->broken, "'%s' is answered 'ok', with other data than the server's", w->words);
}

static void
judge_leaving(struct drive *d, const struct play *p)
{
	const struct wrong *w = p->wrong;
	struct driver_answer probe;
	bool stays;

	drive_mark(d);
	probe = ask(d, 1, "read 131072 4096");
	stays = probe.result == DRIVER_OK && same_connection(d, p->connection);
	if (probe.result == DRIVER_OK)
		EXPECT(d->t, w->broken, strtoul(probe.text, NULL, 16) == disk_digest(&d->exports[0], 131072, 4096),
		       "the next read gives other data than the server's: digest %s", probe.text);
	if (stays && w->owes == LEAVES)
		broken_values(d->t, w->broken, "the client disconnects",
		              "the next read is sent over the same connection, and its reply is taken");
	/* Extents that cannot be (proto.md:2286). */
	if (stays && w->owes == FREE_TO_LEAVE)
		observe(d->t, R(status_invalid_chunk_may_disconnect), "the client goes on over the same connection");
	else if (stays && w->owes == MAY_LEAVE)
		warns(d->t, w->broken,
		      "the client goes on over the same connection, as if the chunk were none that cannot be");
	ask(d, 1, "disconnect");
	let_leave(d);
}

static void
play(struct drive *d, struct play *p)
{
	struct driver_answer a;

	drive_needs(d, p->wrong->operation, NULL);
	drive_serve(d, "contexts=base:allocation", NULL);
	d->owed = p->wrong->broken;
	drive_follow(d, &(struct script){ .take = answer_wrongly, .arg = p });
	d->config.knob[KNOB_extended_headers] = p->extended;
	if (p->extended)
		enter_with_extended(d, "base%3aallocation");
	else
		enter_for_chunks(d, "base%3aallocation");
	a = ask(d, 1, "%s", p->wrong->words);
	if (!p->said)
		skip(d->t, p->wrong->operation, "the client does not send this request here: %s", a.text);
	judge_answer(d, p, &a);
	judge_leaving(d, p);
	drive_finish_as(d, &liar);
}

/* What a memory checker has found comes to light at the end. */
static void
end_well(struct drive *d)
{
	POINT(d->t, "the driver's end")
		drive_end_driver(d, R(client_transmission_no_disconnect));
}

static const struct wrong *
wrong_at(unsigned i)
{
	return i < N_WRONGS ? &wrongs[i] : &wide_wrongs[i - N_WRONGS];
}

/* The first n of them, each as the end of a reply, and before a good one. */
static void
play_all(struct drive *d, unsigned n, bool extended)
{
	static struct play now;

	for (volatile unsigned i = 0; i < 2 * n; i++) {
		if (i % 2 == 0 && wrong_at(i / 2)->good_alone)
			continue;
		POINT(d->t, "%s%s", wrong_at(i / 2)->name, i % 2 == 0 ? "" : ", then a good reply") {
			now = (struct play){ .wrong = wrong_at(i / 2), .last = i % 2 == 0, .extended = extended };
			play(d, &now);
		}
	}
}

CASE_DRIVER(wrong_replies, chunks,
            "After a chunk of an unknown or unexpected type, or whose contents cannot be, the client disconnects, "
            "and calls nothing good that is not",
            R(unknown_chunk_disconnects), R(inconsistent_chunk_disconnects), R(unknown_error_chunk_overlong),
            R(unknown_error_chunk_fails), R(client_transmission_no_disconnect))
{
	struct drive *d = drive_new(t);

	play_all(d, N_WRONGS, false);
	end_well(d);
}

CASE_DRIVER(
	extended_client, wrong_chunks,
	"With extended headers, too, the client disconnects after a chunk of an unknown or unexpected type, or whose "
	"contents cannot be, and calls nothing good that is not",
	R(unknown_chunk_disconnects), R(inconsistent_chunk_disconnects), R(unknown_error_chunk_overlong),
	R(unknown_error_chunk_fails), R(client_transmission_no_disconnect))
{
	static struct play now;
	struct drive *d = drive_new(t);

	need_extended_client(d);
	play_all(d, N_WRONGS + N_WIDE_WRONGS, true);
	POINT(t, "%s", unagreed_extents.name) {
		now = (struct play){ .wrong = &unagreed_extents, .last = true };
		play(d, &now);
	}
	end_well(d);
}

/* ---- good chunks, but not all of them, or some twice ---- */

static const struct {
	const char *name, *chunks;
} sums[] = {
	{ "nothing but NONE", "N" },   { "the first half alone", "a" },        { "the second half alone", "b" },
	{ "a half, then NONE", "aN" }, { "the same half twice", "aa" },        { "the whole twice", "WW" },
	{ "all and a half", "abb" },   { "a half, and a hole over it", "ah" }, { "a hole over all, then a half", "Ha" },
};
enum { N_SUMS = sizeof(sums) / sizeof(sums[0]) };

static bool
answer_sum(void *arg, struct conn *c, const struct incoming *m)
{
	const char *chunks = arg;

	if (m->kind != MSG_REQUEST || m->request.offset != AT || m->request.length != LENGTH || !c->structured)
		return false;
	for (; *chunks != '\0'; chunks++) {
		uint16_t flags = chunks[1] == '\0' ? DONE : NOT_DONE;
		uint32_t at = *chunks == 'b' ? LENGTH / 2 : 0,
			 n = *chunks == 'W' || *chunks == 'H' ? LENGTH : LENGTH / 2;

		if (*chunks == 'N')
			say_none(c);
		else if (*chunks == 'h' || *chunks == 'H')
			say_hole(c, flags, at, n);
		else
			say_data(c, flags, at, n);
	}
	return true;
}

CASE_DRIVER(wrong_replies, sums,
            "Where the chunks of a READ overlap, or are not enough, the read is no success that lacks data",
            R(inconsistent_chunk_disconnects), R(read_invalid_chunks_may_disconnect))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_SUMS; i++)
		POINT(t, "%s", sums[i].name) {
			struct driver_answer a;

			drive_serve(d, "", NULL);
			d->owed = R(inconsistent_chunk_disconnects);
			drive_follow(d, &(struct script){ .take = answer_sum, .arg = (void *)sums[i].chunks });
			enter_for_chunks(d, NULL);
			a = ask(d, 1, "read 65536 4096");
			if (a.result == DRIVER_OK)
				warns(t, R(inconsistent_chunk_disconnects),
				      "the read is answered 'ok' although its chunks overlap, or are not enough");
			if (ask(d, 1, "read 131072 4096").result == DRIVER_OK)
				observe(t, R(read_invalid_chunks_may_disconnect), "the client goes on");
			ask(d, 1, "disconnect");
			let_leave(d);
			drive_finish_as(d, &liar);
		}
}

/* digitalocean/go-nbd 4388797 */
static bool
answer_unagreed(void *arg, struct conn *c, const struct incoming *m)
{
	(void)arg;
	return m->kind == MSG_REQUEST && m->request.offset == AT && m->request.length == LENGTH && say_success(c, 0);
}

CASE_DRIVER(wrong_replies, unagreed, "Where structured replies were not agreed, one is no reply",
            R(inconsistent_chunk_disconnects))
{
	struct drive *d = drive_new(t);
	struct driver_answer a;

	drive_serve(d, "", NULL);
	d->config.knob[KNOB_no_structured_replies] = true;
	d->owed = R(inconsistent_chunk_disconnects);
	drive_follow(d, &(struct script){ .take = answer_unagreed });
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	a = ask(d, 1, "read 65536 4096");
	if (a.result == DRIVER_OK)
		warns(t, R(inconsistent_chunk_disconnects),
		      "the read is answered 'ok', by a reply that was not agreed");
	ask(d, 1, "disconnect");
	let_leave(d);
	drive_finish_as(d, &liar);
}
