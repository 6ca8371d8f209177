/* What the other cases stand on. */
#include "cases/durability/durability.h"

#include "cases/server/transmission.h"

#include <inttypes.h>
#include <string.h>

/* Nothing that a client does makes data durable then, and nobody tells it. */
static void
look_for_a_promise(struct test *t)
{
	struct work *w = work_start(t);
	uint32_t unit = blocks(t, 4096);
	uint8_t *is = room(unit), *zeroes = room(unit);

	if ((t->s->flags & (NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA)) != 0)
		return;
	must_do(w, NBD_CMD_WRITE, 0, 0, unit);
	cut(w, "drop");
	read_served(t, 0, unit, is, R(read_returns_data));
	if (memcmp(is, zeroes, unit) == 0)
		warns(t, R(write_may_reply_before_stable),
		      "what was written is lost at a power cut, and neither FLUSH nor FUA is offered: nothing can make "
		      "it durable");
}

/* Negative space: where a server can never lose anything, it is the disk below it that proves it could have. */
CASE_DURABILITY(setup, can_lose,
                "What was written beside the server and not flushed is gone after a power cut; what was flushed is not",
                R(flush_persists))
{
	enum { KEPT = 1024, LOST = 2048 };
	uint8_t data[512], is[512];

	enter_transmission(t);
	disconnect(t);
	memset(data, 'k', sizeof(data));
	enter_below(t, "witness");
	must_write(t, KEPT, sizeof(data), data, R(write_stored));
	do_command(t, 0, NBD_CMD_FLUSH, 0, 0, R(flush_persists));
	memset(data, 'l', sizeof(data));
	must_write(t, LOST, sizeof(data), data, R(write_stored));
	disconnect(t);
	cut_power(t, "drop");
	enter_below(t, "witness");
	must_read(t, KEPT, sizeof(is), is, R(read_returns_data));
	if (is[0] != 'k')
		broken(t, R(flush_persists), "the disk below lost what was flushed");
	must_read(t, LOST, sizeof(is), is, R(read_returns_data));
	if (is[0] == 'l')
		harness_error(t, "the disk below lost nothing, so no case could fail");
	disconnect(t);
	look_for_a_promise(t);
}

CASE_DURABILITY(setup, allocation_after_cut, "base:allocation agrees with the data after a power cut",
                R(state_zero_reads_zeroes), R(flush_persists))
{
	static const char *const query[] = { "base:allocation" };
	EACH_CUT(t, policy, "%s", policy)
	{
		struct work *w = work_start(t);
		uint32_t unit = blocks(t, 65536), length = 16 * unit;
		uint8_t *is = room(length);
		struct contexts c;
		struct reply r;
		uint64_t at = 0;

		need_flag(t, NBD_FLAG_SEND_FLUSH);
		need_range(t, 0, length);
		for (unsigned i = 0; i < 16; i++)
			must_do(w,
			        i % 4 == 3 && (t->s->flags & NBD_FLAG_SEND_WRITE_ZEROES) ? NBD_CMD_WRITE_ZEROES
			                                                                 : NBD_CMD_WRITE,
			        0, (uint64_t)some(w, 15) * unit, unit);
		must_flush(w);
		for (unsigned i = 0; i < 8; i++)
			must_do(w, NBD_CMD_WRITE, 0, (uint64_t)some(w, 15) * unit, unit);
		cut_and_look(w, policy);
		disconnect(t);
		c = enter_with_contexts(t, query, 1);
		(void)c;
		r = exchange(t, 0, NBD_CMD_READ, 0, length, NULL, R(read_returns_data));
		memcpy(is, r.data, length);
		r = exchange(t, 0, NBD_CMD_BLOCK_STATUS, 0, length, NULL, R(status_success_structured));
		for (unsigned i = 0; r.n_status > 0 && i < r.status[0].count && at < length; i++) {
			struct extent e = r.status[0].extents[i];

			for (uint64_t k = at; (e.flags & NBD_STATE_ZERO) != 0 && k < at + e.length && k < length; k++)
				EXPECT(t, R(state_zero_reads_zeroes), is[k] == 0,
				       "the byte at %" PRIu64 " is said to read as zero, and reads 0x%02x", k, is[k]);
			at += e.length;
		}
	}
}
