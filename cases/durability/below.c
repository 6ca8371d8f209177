/* What a server makes of each command, seen by the disk below it. */
#include "cases/durability/durability.h"

#include "cases/server/effects.h"
#include "cases/server/transmission.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct way {
	const char *name;
	uint16_t type, flags, flag; /* the last is what the server must offer for the command itself */
	bool flush;                 /* FLUSH follows */
} ways[] = {
	{ "WRITE", NBD_CMD_WRITE, 0, 0, false },
	{ "WRITE and FLUSH", NBD_CMD_WRITE, 0, 0, true },
	{ "WRITE with FUA", NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 0, false },
	{ "WRITE_ZEROES with FUA", NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FUA, NBD_FLAG_SEND_WRITE_ZEROES, false },
	{ "TRIM with FUA", NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, NBD_FLAG_SEND_TRIM, false },
};
enum { N_WAYS = sizeof(ways) / sizeof(ways[0]) };

static const char *const counted[] = { "writes", "zeroes", "trims", "flushes", "fua" };
enum { N_COUNTED = sizeof(counted) / sizeof(counted[0]) };

static void
count(struct test *t, int64_t by, int64_t n[N_COUNTED])
{
	const char *reply = ask_below(t, "counters"), *at;
	char key[16];

	for (size_t i = 0; i < N_COUNTED; i++) {
		snprintf(key, sizeof(key), " %s=", counted[i]);
		at = strstr(reply, key);
		if (at != NULL)
			n[i] += by * strtoll(at + strlen(key), NULL, 10);
		else
			harness_error(t, "the disk below does not count %s", counted[i]);
	}
}

static void
say_counts(FILE *out, const int64_t n[N_COUNTED])
{
	const char *comma = "";

	fputs("the disk gets ", out);
	for (size_t i = 0; i + 1 < N_COUNTED; i++)
		if (n[i] != 0) {
			fprintf(out, "%s%s: %" PRId64, comma, counted[i], n[i]);
			comma = ", ";
		}
	if (*comma == '\0')
		fputs("nothing", out);
	if (n[N_COUNTED - 1] != 0)
		fprintf(out, ", with FUA: %" PRId64, n[N_COUNTED - 1]);
}

static uint32_t
error_of(struct test *t, uint16_t type, uint16_t flags, uint64_t offset, uint32_t length, const void *data)
{
	send_request(t, flags, type, new_cookie(t), offset, length, data);
	return recv_simple_header(t, R(each_request_one_reply)).error;
}

/* The command itself, and what it says of that; the error of the last reply. */
static uint32_t
carry_out(struct test *t, const struct way *w, uint64_t offset, uint32_t length, const uint8_t *data, FILE *out)
{
	char text[NAME_MAX_TEXT];
	int64_t n[N_COUNTED] = { 0 };
	uint32_t error;

	count(t, -1, n);
	error = error_of(t, w->type, w->flags, offset, length, w->type == NBD_CMD_WRITE ? data : NULL);
	if (error == NBD_SUCCESS && w->flush)
		error = error_of(t, NBD_CMD_FLUSH, 0, 0, 0, NULL);
	count(t, 1, n);
	fprintf(out, "offered: %s%s%s; ", t->s->flags & NBD_FLAG_SEND_FLUSH ? "FLUSH" : "",
	        (t->s->flags & NBD_FLAG_SEND_FLUSH) && (t->s->flags & NBD_FLAG_SEND_FUA) ? " and " : "",
	        t->s->flags & NBD_FLAG_SEND_FUA     ? "FUA"
	        : t->s->flags & NBD_FLAG_SEND_FLUSH ? ""
	                                            : "neither");
	say_counts(out, n);
	fprintf(out, "; the reply is %s", error == NBD_SUCCESS ? "success" : name_text(NAME_ERROR, error, text));
	return error;
}

static void
cut_and_read(struct test *t, uint64_t offset, uint32_t length, uint8_t *is)
{
	cut_power(t, "drop");
	enter_transmission(t);
	read_served(t, offset, length, is, R(read_returns_data));
}

/* What is zeroed or trimmed must have been there for good, or its absence tells nothing. */
static void
store_for_good(struct test *t, uint64_t offset, uint32_t length, const uint8_t *data, uint8_t *is)
{
	if (error_of(t, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, offset, length, data) != NBD_SUCCESS)
		skip(t, "success", "a WRITE with FUA fails");
	cut_and_read(t, offset, length, is);
	if (memcmp(data, is, length) != 0)
		skip(t, "durability", "a WRITE with FUA is lost at a power cut, so that there is nothing to be zeroed");
}

static void
judge(struct test *t, const struct way *w, bool kept, const char *text)
{
	if (kept)
		observe(t, R(write_may_reply_before_stable), "%s", text);
	else if (durability_waived(t))
		skip(t, "durability", "--durability-waived: %s", text);
	else
		broken(t, w->flush ? R(flush_persists) : R(fua_persists), "%s", text);
}

static void
reach(struct test *t, const struct way *w, unsigned number)
{
	uint32_t unit = blocks(t, 4096), error;
	uint64_t offset = (uint64_t)number * unit;
	uint8_t *data = room(unit), *is = room(unit);
	bool promised = w->flags != 0 || w->flush, there;
	size_t len;
	char *text;
	FILE *out = open_memstream(&text, &len);

	need_range(t, offset, unit);
	fill_pattern(data, unit, offset, (unsigned)case_seed(t) + number);
	if (w->type != NBD_CMD_WRITE)
		store_for_good(t, offset, unit, data, is);
	error = carry_out(t, w, offset, unit, data, out);
	cut_and_read(t, offset, unit, is);
	if (w->type == NBD_CMD_WRITE_ZEROES)
		memset(data, 0, unit);
	there = memcmp(data, is, unit) == 0;
	if (w->type != NBD_CMD_TRIM)
		fprintf(out, "; after a power cut it is %s", there ? "there" : "lost");
	fclose(out);
	judge(t, w, !promised || error != NBD_SUCCESS || there || w->type == NBD_CMD_TRIM, text);
}

static void
need_offered(struct test *t, const struct way *w)
{
	need_writable(t);
	if (w->flush)
		need_flag(t, NBD_FLAG_SEND_FLUSH);
	if (w->flags != 0)
		need_flag(t, NBD_FLAG_SEND_FUA);
	if (w->flag != 0)
		need_flag(t, w->flag);
}

CASE_DURABILITY(below, reaches, "What reaches the disk for each command, and whether it is there after a power cut",
                R(flush_persists), R(fua_persists))
{
	for (volatile unsigned i = 0; i < N_WAYS; i++)
		POINT(t, "%s", ways[i].name) {
			enter_transmission(t);
			need_offered(t, &ways[i]);
			reach(t, &ways[i], i);
		}
}
