/* Many commands of every kind, many of them in flight, and a power cut in the middle. */
#include "cases/durability/durability.h"

#include "cases/server/transmission.h"

#include <inttypes.h>
#include <stdio.h>

enum { IN_FLIGHT = 16, UNITS = 96 };

/* What this server offers, with the weight of each. */
static void
begin_any(struct work *w, struct test *t, uint32_t unit)
{
	uint16_t offered = t->s->flags, type = NBD_CMD_WRITE, flags = 0;
	unsigned what = some(w, 20), at = some(w, UNITS - 8), length = 1 + some(w, some(w, 4) == 0 ? 8 : 2);

	if (what < 2 && (offered & NBD_FLAG_SEND_FLUSH) != 0) {
		begin_command(w, NBD_CMD_FLUSH, 0, 0, 0);
		return;
	}
	if (what == 2 && (offered & NBD_FLAG_SEND_TRIM) != 0)
		type = NBD_CMD_TRIM;
	if (what > 2 && what < 6 && (offered & NBD_FLAG_SEND_WRITE_ZEROES) != 0) {
		type = NBD_CMD_WRITE_ZEROES;
		flags = some(w, 2) == 0 ? NBD_CMD_FLAG_NO_HOLE : 0;
	}
	if (some(w, 6) == 0 && (offered & NBD_FLAG_SEND_FUA) != 0)
		flags |= NBD_CMD_FLAG_FUA;
	begin_command(w, type, flags, (uint64_t)at * unit, length * unit);
}

static void
take_one(struct work *w, struct test *t)
{
	char text[NAME_MAX_TEXT];
	uint32_t error;

	take_reply(w, &error);
	if (error != NBD_SUCCESS)
		skip(t, "success", "a command gets %s", name_text(NAME_ERROR, error, text));
}

/* Some are answered, some are not when the power goes: `left` of them. */
static void
run_workload(struct work *w, struct test *t, unsigned commands, unsigned left)
{
	uint32_t unit = unit_of(t) > 512 ? unit_of(t) : 512;
	unsigned in_flight = 0;

	need_range(t, 0, UNITS * unit);
	will_use(w, 0, UNITS * unit);
	for (unsigned i = 0; i < commands; i++) {
		if (in_flight == IN_FLIGHT || (in_flight > 0 && some(w, 3) == 0)) {
			take_one(w, t);
			in_flight--;
		}
		begin_any(w, t, unit);
		in_flight++;
	}
	for (; in_flight > left; in_flight--)
		take_one(w, t);
}

CASE_DURABILITY(workload, one_connection,
                "After power cuts amid all commands, up to 16 of them in flight, there is what was promised and "
                "nothing strange",
                R(flush_persists), R(fua_persists))
{
	struct work *w = work_start(t);
	char policy[40];

	for (unsigned round = 0; round < 6; round++) {
		run_workload(w, t, 60 + some(w, 60), some(w, IN_FLIGHT));
		snprintf(policy, sizeof(policy), "random %u", some(w, 1u << 30));
		cut_and_look(w, round % 3 == 0 ? "drop" : policy);
	}
}

CASE_DURABILITY(workload, two_writers,
                "Two clients write over one another's data, each with FLUSH and FUA of its own; a power cut leaves "
                "what was promised to either",
                R(flush_persists), R(fua_persists))
{
	EACH_CUT(t, policy, "%s", policy)
	{
		struct work *w = work_start(t);
		uint32_t unit = unit_of(t) > 512 ? unit_of(t) : 512;
		struct session *two[2] = { t->s, NULL };

		need_range(t, 0, UNITS * unit);
		if (!work_beside(w))
			return;
		two[1] = t->s;
		for (unsigned i = 0; i < 120; i++) {
			use(t, two[some(w, 2)]);
			begin_any(w, t, unit);
			take_one(w, t);
		}
		cut_and_look(w, policy);
	}
}

/* The FLUSH is sent while the WRITEs before it may still be on their way through the server. */
CASE_DURABILITY(workload, flush_behind_writes,
                "A FLUSH among WRITEs in flight makes durable those that were answered before it was sent",
                R(flush_persists))
{
	EACH_CUT(t, policy, "%s", policy)
	{
		struct work *w = work_start(t);
		uint32_t unit = blocks(t, 65536);

		need_flag(t, NBD_FLAG_SEND_FLUSH);
		need_range(t, 0, 24 * unit);
		will_use(w, 0, 24 * unit);
		for (unsigned i = 0; i < 12; i++)
			begin_command(w, NBD_CMD_WRITE, 0, (uint64_t)i * unit, unit);
		for (unsigned i = 0; i < 6; i++)
			take_one(w, t);
		begin_command(w, NBD_CMD_FLUSH, 0, 0, 0);
		for (unsigned i = 12; i < 20; i++)
			begin_command(w, NBD_CMD_WRITE, 0, (uint64_t)i * unit, unit);
		for (unsigned i = 0; i < 15; i++)
			take_one(w, t);
		cut_and_look(w, policy);
	}
}
