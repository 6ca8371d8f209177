/* NBD_CMD_FLUSH and NBD_CMD_FLAG_FUA as requests (proto.md:1722-1737, 2084-2095); durability is tested elsewhere. */
#include "cases/server/transmission.h"

#include <inttypes.h>

static uint32_t
flush(struct test *t, uint16_t flags, enum requirement_id owed)
{
	return do_command(t, flags, NBD_CMD_FLUSH, 0, 0, owed);
}

CASE(flush, advertised_is_served,
     "Where NBD_FLAG_SEND_FLUSH is advertised, NBD_CMD_FLUSH succeeds, and its reply carries no data",
     R(flush_supported), R(simple_reply_payload_only_read))
{
	enter_transmission(t);
	need_flag(t, NBD_FLAG_SEND_FLUSH);
	EXPECT_ERROR(t, R(flush_supported), flush(t, 0, R(flush_supported)), NBD_SUCCESS);
	in_step(t, R(simple_reply_payload_only_read));
	EXPECT_ERROR(t, R(flush_supported), flush(t, 0, R(flush_supported)), NBD_SUCCESS);
}

CASE(flush, after_writes, "NBD_CMD_FLUSH after a WRITE succeeds, and what was written is still there",
     R(flush_supported), R(write_stored))
{
	uint32_t length;
	uint8_t *data;

	enter_transmission(t);
	need_flag(t, NBD_FLAG_SEND_FLUSH);
	need_writable(t);
	length = blocks(t, 4096);
	need_range(t, 0, length);
	data = room(length);
	for (unsigned i = 0; i < 3; i++) {
		fill_pattern(data, length, 0, 30 + i);
		write_served(t, 0, length, data, R(write_stored));
		EXPECT_ERROR(t, R(flush_supported), flush(t, 0, R(flush_supported)), NBD_SUCCESS);
		expect_stored(t, 0, data, length, R(write_stored));
	}
}

static void
flush_range(struct test *t, uint64_t offset, uint32_t length)
{
	uint32_t error;
	uint64_t cookie;

	enter_transmission(t);
	need_flag(t, NBD_FLAG_SEND_FLUSH);
	in_step(t, R(read_returns_data));
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_FLUSH, cookie, offset, length, NULL);
	error = expect_refusal(t, cookie, 0, REQUIREMENT_NONE, 0, 0);
	if (error == GONE || !in_step_or_gone(t, R(request_payload_consumed)))
		return;
	if (error != NBD_SUCCESS)
		observe(t, R(violation_may_close), "it is refused with error %" PRIu32, error);
}

/* proto.md:2094: both are reserved. We break a MUST; accepting, refusing and leaving are all free. */
CASE(flush, reserved_fields,
     "NBD_CMD_FLUSH with an offset or a length, which are reserved, is answered, and no data is taken for it",
     R(request_payload_consumed), R(each_request_one_reply))
{
	static const struct {
		const char *name;
		uint64_t offset;
		uint32_t length;
	} fields[] = {
		{ "offset", 512, 0 },
		{ "length", 0, 512 },
		{ "both", 4096, 4096 },
		{ "huge", UINT64_MAX, UINT32_MAX },
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		POINT(t, "%s", fields[i].name)
			flush_range(t, fields[i].offset, fields[i].length);
}

/* ---- FUA ---- */

struct with_fua {
	const char *name;
	uint16_t type;
	uint16_t flag; /* that advertises the command; 0: every server has it */
	bool ranged, writes;
};

static const struct with_fua commands[] = {
	{ "READ", NBD_CMD_READ, 0, true, false },
	{ "WRITE", NBD_CMD_WRITE, 0, true, true },
	{ "FLUSH", NBD_CMD_FLUSH, NBD_FLAG_SEND_FLUSH, false, false },
	{ "TRIM", NBD_CMD_TRIM, NBD_FLAG_SEND_TRIM, true, true },
	{ "CACHE", NBD_CMD_CACHE, NBD_FLAG_SEND_CACHE, true, false },
	{ "WRITE_ZEROES", NBD_CMD_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES, true, true },
};

enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static uint32_t
run_command(struct test *t, const struct with_fua *command, uint16_t flags, uint32_t length, enum requirement_id owed)
{
	uint64_t cookie = new_cookie(t);
	bool is_write = command->type == NBD_CMD_WRITE;

	send_request(t, flags, command->type, cookie, 0, command->ranged ? length : 0, is_write ? room(length) : NULL);
	return recv_simple_reply(t, cookie, command->type == NBD_CMD_READ ? length : 0, owed).error;
}

/* What a command without the flag does not do, the flag need not make it do (CACHE may always fail, proto.md:2146). */
static void
accept_fua(struct test *t, const struct with_fua *command)
{
	uint32_t length;

	enter_transmission(t);
	need_flag(t, NBD_FLAG_SEND_FUA);
	if (command->flag != 0)
		need_flag(t, command->flag);
	if (command->writes)
		need_writable(t);
	length = blocks(t, 4096);
	if (command->ranged)
		need_range(t, 0, length);
	if (run_command(t, command, 0, length, R(each_request_one_reply)) != NBD_SUCCESS)
		skip(t, command->name, "%s fails even without NBD_CMD_FLAG_FUA", command->name);
	EXPECT_ERROR(t, R(fua_accepted), run_command(t, command, NBD_CMD_FLAG_FUA, length, R(fua_accepted)),
	             NBD_SUCCESS);
	in_step(t, R(request_payload_consumed));
}

/* proto.md:1722-1724; a server that refused FLUSH with FUA was fixed in nbd b23190d. */
CASE(flush, fua_is_accepted, "Where NBD_FLAG_SEND_FUA is advertised, every command is accepted with NBD_CMD_FLAG_FUA",
     R(fua_accepted), R(request_payload_consumed))
{
	for (size_t i = 0; i < N_COMMANDS; i++)
		POINT(t, "%s", commands[i].name)
			accept_fua(t, &commands[i]);
}

CASE(flush, fua_write_is_stored, "A WRITE with NBD_CMD_FLAG_FUA, where that is advertised, is stored like any other",
     R(fua_supported))
{
	uint32_t length;
	uint8_t *data;

	enter_transmission(t);
	need_flag(t, NBD_FLAG_SEND_FUA);
	need_writable(t);
	length = blocks(t, 4096);
	need_range(t, 0, 2 * length);
	data = room(2 * length);
	fill_pattern(data, 2 * length, 0, 33);
	EXPECT_ERROR(t, R(fua_supported), do_write(t, NBD_CMD_FLAG_FUA, 0, length, data, R(fua_supported)),
	             NBD_SUCCESS);
	EXPECT_ERROR(t, R(fua_supported), do_write(t, 0, length, length, data + length, R(fua_supported)), NBD_SUCCESS);
	expect_stored(t, 0, data, 2 * length, R(fua_supported));
}

/* proto.md:2349 with 1719: where it was not negotiated it is not applicable. We break a MUST (proto.md:1100). */
static void
refuse_fua(struct test *t, const struct with_fua *command)
{
	uint32_t length;
	uint8_t *bait;
	uint64_t cookie;

	enter_transmission(t);
	if ((t->s->flags & NBD_FLAG_SEND_FUA) != 0)
		skip(t, "no FUA", "the export advertises NBD_FLAG_SEND_FUA");
	if (command->flag != 0)
		need_flag(t, command->flag);
	if (command->writes)
		need_writable(t);
	length = blocks(t, 4096);
	if (command->ranged)
		need_range(t, 0, length);
	in_step(t, R(read_returns_data));
	bait = room(length);
	fill_bait(t, bait, length);
	cookie = new_cookie(t);
	send_request(t, NBD_CMD_FLAG_FUA, command->type, cookie, 0, command->ranged ? length : 0,
	             command->type == NBD_CMD_WRITE ? bait : NULL);
	if (expect_refusal(t, cookie, command->type == NBD_CMD_READ ? length : 0, R(inapplicable_flag_einval),
	                   NBD_EINVAL, 0) != GONE)
		in_step_or_gone(t, R(request_payload_consumed));
}

CASE(flush, unadvertised_fua,
     "Where NBD_FLAG_SEND_FUA is not advertised, a command with NBD_CMD_FLAG_FUA gets NBD_EINVAL",
     R(inapplicable_flag_einval), R(request_payload_consumed), R(each_request_one_reply))
{
	for (size_t i = 0; i < 3; i++)
		POINT(t, "%s", commands[i].name)
			refuse_fua(t, &commands[i]);
}
