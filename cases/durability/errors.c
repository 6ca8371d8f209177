/* The disk below fails: nothing may be acknowledged that is not there. */
#include "cases/durability/durability.h"

#include "cases/server/transmission.h"

#include <stdio.h>

/* A FLUSH that failed promised nothing; one that succeeds later owes everything, also what the first one tried. */
static void
flush_until_success(struct work *w)
{
	for (unsigned i = 0; i < 3; i++)
		if (one_command(w, NBD_CMD_FLUSH, 0, 0, 0) == NBD_SUCCESS)
			break;
}

CASE_DURABILITY(
	errors, flush_fails_once,
	"Where the disk below fails one flush, a later FLUSH that succeeds owes all the data, or it fails for good",
	R(flush_persists))
{
	static const struct {
		const char *name, *request;
	} ways[] = { { "the data is kept", "fail FLUSH 1 EIO" },
		     { "the data is forgotten", "fail FLUSH 1 EIO forget" } };

	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", ways[i].name) {
			struct work *w = work_start(t);
			uint32_t unit = blocks(t, 4096);

			/* A file may do that; an NBD server must not (proto.md:2086). */
			if (i == 1 && !below_is_a_file(t))
				skip(t, "file",
				     "the disk below is an NBD server, which owes what it was asked to flush");
			if (i == 1 && bypasses_page_cache(t))
				skip(t, "page cache",
				     "--direct-io: the server's data is in no page cache, which alone forgets");
			need_flag(t, NBD_FLAG_SEND_FLUSH);
			need_range(t, 0, 32 * unit);
			for (unsigned k = 0; k < 16; k++)
				must_do(w, NBD_CMD_WRITE, 0, (uint64_t)k * 2 * unit, unit);
			ask_below(t, "%s", ways[i].request);
			flush_until_success(w);
			cut_and_look(w, "drop");
		}
}

CASE_DURABILITY(errors, fua_fails_once, "Where the disk below fails one flush, no WRITE with FUA is acknowledged by it",
                R(fua_persists))
{
	struct work *w = work_start(t);
	uint32_t unit = blocks(t, 4096);

	need_flag(t, NBD_FLAG_SEND_FUA);
	need_range(t, 0, 8 * unit);
	must_do(w, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 0, unit);
	ask_below(t, "fail FLUSH 1 EIO forget");
	ask_below(t, "fail WRITE 1 EIO");
	for (unsigned k = 1; k < 4; k++)
		one_command(w, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, (uint64_t)k * unit, unit);
	cut_and_look(w, "drop");
}

CASE_DURABILITY(errors, write_fails,
                "A WRITE that the disk below refuses is not acknowledged, or is there after the next FLUSH",
                R(flush_persists), R(write_stored))
{
	static const char *const errors[] = { "EIO", "ENOSPC" };

	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", errors[i]) {
			struct work *w = work_start(t);
			uint32_t unit = blocks(t, 4096);

			need_range(t, 0, 16 * unit);
			for (unsigned k = 0; k < 8; k++)
				must_do(w, NBD_CMD_WRITE, 0, (uint64_t)k * 2 * unit, unit);
			must_flush(w);
			ask_below(t, "fail WRITE 2 %s", errors[i]);
			for (unsigned k = 0; k < 8; k++)
				one_command(w, NBD_CMD_WRITE, 0, (uint64_t)(k * 2 + 1) * unit, unit);
			ask_below(t, "fail WRITE 0");
			flush_until_success(w);
			cut_and_look(w, "drop");
		}
}
