/* What FLUSH and FUA promise, command by command. */
#include "cases/durability/durability.h"

#include "cases/server/transmission.h"

#include <inttypes.h>

static const struct {
	const char *name;
	uint16_t type, flags, flag;
} writes[] = {
	{ "WRITE", NBD_CMD_WRITE, 0, 0 },
	{ "WRITE,zeroes", WRITE_OF_ZEROES, 0, 0 },
	{ "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES, 0, NBD_FLAG_SEND_WRITE_ZEROES },
	{ "WRITE_ZEROES,NO_HOLE", NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, NBD_FLAG_SEND_WRITE_ZEROES },
	{ "WRITE_ZEROES,FAST_ZERO", NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, NBD_FLAG_SEND_FAST_ZERO },
	{ "TRIM", NBD_CMD_TRIM, 0, NBD_FLAG_SEND_TRIM },
};
enum { N_WRITES = sizeof(writes) / sizeof(writes[0]) };

/* Ranges of many shapes, near and far, none over another. */
static unsigned
ranges(struct test *t, struct range r[8])
{
	uint64_t size = usable_size(t), at[8] = { 0, 131072, 262144 + 4096, 1 << 20, 0, 0, 0, 0 };
	uint32_t length[8] = { 4096, 65536, 512, 262144, 4096, 8192, 512, 4096 };
	unsigned n = 0;

	at[4] = size / 2;
	at[5] = size / 4 * 3 + 65536;
	at[6] = size - blocks(t, 4096) - blocks(t, 512);
	at[7] = size - blocks(t, 4096);
	for (unsigned i = 0; i < 8; i++) {
		uint64_t start = at[i] - at[i] % unit_of(t);
		uint32_t bytes = blocks(t, length[i]);

		if (start + bytes <= size && (i == 0 || start >= r[n - 1].offset + r[n - 1].length))
			r[n++] = (struct range){ start, bytes };
	}
	return n;
}

/* Older data first, durable by the same means, so that what comes back is told from what was never there. */
static void
lose_nothing(struct test *t, unsigned i, bool fua, const char *policy)
{
	struct work *w = work_start(t);
	struct range r[8] = { 0 };
	unsigned n = ranges(t, r);
	uint16_t flag = fua ? NBD_CMD_FLAG_FUA : 0;

	need_flag(t, fua ? NBD_FLAG_SEND_FUA : NBD_FLAG_SEND_FLUSH);
	if (writes[i].flag != 0)
		need_flag(t, writes[i].flag);
	for (unsigned k = 0; k < n; k++)
		must_do(w, NBD_CMD_WRITE, flag, r[k].offset, r[k].length);
	if (!fua)
		must_flush(w);
	for (unsigned k = 0; k < n; k++)
		must_do(w, writes[i].type, writes[i].flags | flag, r[k].offset, r[k].length);
	if (!fua)
		must_flush(w);
	cut_and_look(w, policy);
}

CASE_DURABILITY(promise, flush, "What was answered before a FLUSH is there after a power cut, whatever command it was",
                R(flush_persists))
{
	for (volatile unsigned i = 0; i < N_WRITES; i++)
		EACH_CUT(t, policy, "%s, %s", writes[i].name, policy)
	lose_nothing(t, i, false, policy);
}

CASE_DURABILITY(promise, fua, "What was answered with FUA is there after a power cut, without any FLUSH",
                R(fua_persists))
{
	for (volatile unsigned i = 0; i < N_WRITES; i++)
		EACH_CUT(t, policy, "%s, %s", writes[i].name, policy)
	lose_nothing(t, i, true, policy);
}

/* FUA is no barrier: it persists its own data; what else is pending may go, and must not take that with it. */
CASE_DURABILITY(promise, fua_among_others,
                "A WRITE with FUA is there after a power cut whatever was written before and after it", R(fua_persists))
{
	EACH_CUT(t, policy, "%s", policy)
	{
		struct work *w = work_start(t);
		uint32_t unit = blocks(t, 4096);

		need_flag(t, NBD_FLAG_SEND_FUA);
		need_range(t, 0, 24 * unit);
		for (unsigned i = 0; i < 24; i++)
			must_do(w, NBD_CMD_WRITE, i % 3 == 1 ? NBD_CMD_FLAG_FUA : 0, (uint64_t)i * unit, unit);
		for (unsigned i = 0; i + 2 < 24; i += 3)
			must_do(w, NBD_CMD_WRITE, 0, (uint64_t)i * unit, 2 * unit);
		cut_and_look(w, policy);
	}
}

CASE_DURABILITY(promise, overwritten,
                "Of ranges that were written over and over the last one before the FLUSH is there, or a later one",
                R(flush_persists))
{
	EACH_CUT(t, policy, "%s", policy)
	{
		struct work *w = work_start(t);
		uint32_t unit = unit_of(t) > 512 ? unit_of(t) : 512;

		need_flag(t, NBD_FLAG_SEND_FLUSH);
		need_range(t, 0, 16 * unit);
		for (unsigned i = 0; i < 60; i++) {
			unsigned at = some(w, 14);

			must_do(w, NBD_CMD_WRITE, 0, (uint64_t)at * unit, (1 + some(w, 16 - at)) * unit);
			if (i == 40)
				must_flush(w);
		}
		cut_and_look(w, policy);
	}
}

/* Discards are slow, and are put off; but not past a WRITE that came after them. */
CASE_DURABILITY(promise, written_since,
                "What is written where data was trimmed or zeroed before is there after the FLUSH, whatever came first",
                R(flush_persists))
{
	for (volatile unsigned i = 0; i < N_WRITES; i++)
		POINT(t, "%s", writes[i].name) {
			struct work *w = work_start(t);
			struct range r[8] = { 0 };
			unsigned n = ranges(t, r);

			need_flag(t, NBD_FLAG_SEND_FLUSH);
			if (writes[i].flag != 0)
				need_flag(t, writes[i].flag);
			for (unsigned k = 0; k < n; k++)
				must_do(w, NBD_CMD_WRITE, 0, r[k].offset, r[k].length);
			must_flush(w);
			for (unsigned k = 0; k < n; k++) {
				must_do(w, writes[i].type, writes[i].flags, r[k].offset, r[k].length);
				must_do(w, NBD_CMD_WRITE, 0, r[k].offset, r[k].length);
				must_flush(w);
			}
			cut_and_look(w, "drop");
		}
}

CASE_DURABILITY(promise, later_cuts, "What one power cut has left the next ones leave as well", R(flush_persists))
{
	struct work *w = work_start(t);
	uint32_t unit = blocks(t, 4096);

	need_flag(t, NBD_FLAG_SEND_FLUSH);
	need_range(t, 0, 64 * unit);
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < 12; i++)
			must_do(w, NBD_CMD_WRITE, 0, (uint64_t)some(w, 62) * unit, (1 + some(w, 2)) * unit);
		must_flush(w);
		for (unsigned i = 0; i < 6; i++)
			must_do(w, NBD_CMD_WRITE, 0, (uint64_t)some(w, 62) * unit, unit);
		cut_and_look(w, round % 2 == 0 ? "drop" : "random 3");
	}
}

CASE_DURABILITY(promise, large,
                "A WRITE of the longest payload, and WRITE_ZEROES of many megabytes, are there whole after FLUSH",
                R(flush_persists))
{
	for (volatile unsigned i = 0; i < 3; i++)
		POINT(t, "%s", writes[i].name) {
			struct work *w = work_start(t);
			uint32_t length = longest_payload(t);

			need_flag(t, NBD_FLAG_SEND_FLUSH);
			if (writes[i].flag != 0)
				need_flag(t, writes[i].flag);
			need_range(t, 0, length);
			/* Where all is zero, zeroing proves nothing. */
			for (uint32_t at = 0; i > 0 && at + blocks(t, 65536) <= length; at += blocks(t, 1 << 22))
				must_do(w, NBD_CMD_WRITE, 0, at, blocks(t, 65536));
			must_flush(w);
			must_do(w, writes[i].type, writes[i].flags, 0, length);
			must_flush(w);
			cut_and_look(w, "drop");
		}
}

CASE_DURABILITY(promise, past_4_gib,
                "What is written past 4 GiB and flushed is there, and its shadow below 4 GiB is untouched",
                R(flush_persists))
{
	struct work *w = work_start(t);
	uint64_t far = UINT64_C(4) << 30;
	uint32_t unit = blocks(t, 65536);

	need_flag(t, NBD_FLAG_SEND_FLUSH);
	need_size(t, far + 4 * unit);
	must_do(w, NBD_CMD_WRITE, 0, 0, unit);
	must_flush(w);
	must_do(w, NBD_CMD_WRITE, 0, far, unit);
	must_do(w, NBD_CMD_WRITE, 0, far - unit, unit);
	must_flush(w);
	must_do(w, NBD_CMD_WRITE, 0, far + unit, unit);
	cut_and_look(w, "drop");
}

CASE_DURABILITY(promise, flush_of_another,
                "Where CAN_MULTI_CONN is set, a FLUSH on one connection makes durable what was answered on all",
                R(flush_before_reply))
{
	EACH_CUT(t, policy, "%s", policy)
	{
		struct work *w = work_start(t);
		struct session *writer = t->s, *flusher;
		uint32_t unit = blocks(t, 4096);

		need_flag(t, NBD_FLAG_CAN_MULTI_CONN);
		need_flag(t, NBD_FLAG_SEND_FLUSH);
		need_range(t, 0, 32 * unit);
		if (!work_beside(w))
			return;
		flusher = t->s;
		for (unsigned i = 0; i < 16; i++) {
			use(t, i % 2 == 0 ? writer : flusher);
			must_do(w, NBD_CMD_WRITE, 0, (uint64_t)(i * 2 + i % 2) * unit, unit);
		}
		use(t, flusher);
		must_flush(w);
		use(t, writer);
		must_do(w, NBD_CMD_WRITE, 0, 0, unit);
		cut_and_look(w, policy);
	}
}
