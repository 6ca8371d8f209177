/* Transmission flags: which may be set, and that what they promise is there. */
#include "cases/server/go.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- the field itself ---- */

static uint16_t
flags_by_info(struct test *t)
{
	open_fixed_newstyle(t);
	return ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go))
	        .export.flags;
}

static uint16_t
flags_by_go(struct test *t)
{
	open_fixed_newstyle(t);
	return ask_known(t, NBD_OPT_GO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go))
	        .export.flags;
}

static uint16_t
flags_by_export_name(struct test *t)
{
	open_newstyle(t);
	send_client_flags(t, t->s->handshake_flags & (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES));
	send_option(t, NBD_OPT_EXPORT_NAME, export_name(t).at, export_name(t).len);
	if (!peer_goes_on(t, R(export_name_reply_layout)))
		skip(t, "EXPORT_NAME", "the server ends the session on NBD_OPT_EXPORT_NAME");
	recv_export_name_reply(t, R(export_name_reply_layout));
	return t->s->flags;
}

static uint16_t
flags_by_oldstyle(struct test *t)
{
	open_connection(t);
	recv_greeting(t);
	if (!t->s->oldstyle)
		skip(t, "oldstyle", "the server speaks the newstyle handshake");
	return t->s->flags;
}

/* Everything that tells transmission flags; structured replies are agreed by none of them. */
static const struct way {
	const char *name;
	uint16_t (*flags)(struct test *t);
} ways[] = {
	{ "INFO", flags_by_info },
	{ "GO", flags_by_go },
	{ "EXPORT_NAME", flags_by_export_name },
	{ "oldstyle", flags_by_oldstyle },
};

CASE(flags, has_flags, "NBD_FLAG_HAS_FLAGS is set wherever transmission flags are told", R(has_flags_set))
{
	for (volatile size_t i = 0; i < COUNT(ways); i++)
		POINT(t, "%s", ways[i].name) {
			uint16_t flags = ways[i].flags(t);

			EXPECT(t, R(has_flags_set), (flags & NBD_FLAG_HAS_FLAGS) != 0,
			       "the transmission flags are 0x%04x", flags);
		}
}

/* RESIZE and BLOCK_STATUS_PAYLOAD belong to experimental extensions, which we do not negotiate (proto.md:1134, 1153). */
CASE(flags, no_unknown_bits,
     "No transmission flag is set that the protocol does not define, or that belongs to an extension that was not "
     "negotiated",
     R(unadvertised_flags_unset))
{
	static const uint16_t unknown =
		1 << 13 | 1 << 14 | 1 << 15 | NBD_FLAG_SEND_RESIZE | NBD_FLAG_BLOCK_STATUS_PAYLOAD;

	for (volatile size_t i = 0; i < COUNT(ways); i++)
		POINT(t, "%s", ways[i].name) {
			uint16_t flags = ways[i].flags(t);

			EXPECT(t, R(unadvertised_flags_unset), (flags & unknown) == 0,
			       "the transmission flags are 0x%04x; of these 0x%04x mean nothing here", flags,
			       flags & unknown);
		}
}

CASE(flags, df_needs_structured, "NBD_FLAG_SEND_DF is clear where structured replies were not negotiated",
     R(df_flag_without_structured))
{
	for (volatile size_t i = 0; i < COUNT(ways); i++)
		POINT(t, "%s", ways[i].name) {
			uint16_t flags = ways[i].flags(t);

			EXPECT(t, R(df_flag_without_structured), (flags & NBD_FLAG_SEND_DF) == 0,
			       "the transmission flags are 0x%04x", flags);
		}
}

CASE(flags, fast_zero_needs_write_zeroes, "NBD_FLAG_SEND_FAST_ZERO is set only where NBD_FLAG_SEND_WRITE_ZEROES is",
     R(fast_zero_needs_write_zeroes))
{
	for (volatile size_t i = 0; i < COUNT(ways); i++)
		POINT(t, "%s", ways[i].name) {
			uint16_t flags = ways[i].flags(t);

			EXPECT(t, R(fast_zero_needs_write_zeroes),
			       (flags & NBD_FLAG_SEND_FAST_ZERO) == 0 || (flags & NBD_FLAG_SEND_WRITE_ZEROES) != 0,
			       "the transmission flags are 0x%04x", flags);
		}
}

/* Flags that are useless on a read-only export are no fault (proto.md:1098); which ones are set is worth knowing. */
CASE(flags, choice, "The server sets the flags that it likes, NBD_FLAG_HAS_FLAGS among them: it is recorded which",
     R(supported_flags_set), R(read_only_flag_set), R(rotational_flag_set), R(has_flags_set))
{
	static const uint16_t of_writers =
		NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
	char text[NAME_MAX_TEXT], idle[NAME_MAX_TEXT];
	uint16_t flags;

	enter_transmission(t);
	flags = t->s->flags;
	EXPECT(t, R(has_flags_set), (flags & NBD_FLAG_HAS_FLAGS) != 0, "the transmission flags are 0x%04x", flags);
	if ((flags & NBD_FLAG_READ_ONLY) != 0 && (flags & of_writers) != 0)
		observe(t, R(read_only_flag_set), "%s, of which %s means nothing where nothing can be written",
		        name_flags(NAME_TRANSMISSION_FLAG, flags, text),
		        name_flags(NAME_TRANSMISSION_FLAG, flags & of_writers, idle));
	else
		observe(t, R(supported_flags_set), "%s", name_flags(NAME_TRANSMISSION_FLAG, flags, text));
}

/* ---- what the flags promise ---- */

/* A request that is right in every way fails like this only where the server does not know what it asks for. */
static bool
is_unsupported(uint32_t error)
{
	return error == NBD_EINVAL || error == NBD_ENOTSUP;
}

CASE(flags, commands,
     "What a transmission flag promises is there: FLUSH, FUA, TRIM, WRITE_ZEROES and NO_HOLE are understood where they "
     "are advertised",
     R(flush_supported), R(fua_supported), R(trim_supported), R(write_zeroes_supported))
{
	static const struct {
		const char *name;
		uint16_t flag, type, flags;
		bool writes;
		enum requirement_id broken;
	} points[] = {
		{ "FLUSH", NBD_FLAG_SEND_FLUSH, NBD_CMD_FLUSH, 0, false, R(flush_supported) },
		{ "READ FUA", NBD_FLAG_SEND_FUA, NBD_CMD_READ, NBD_CMD_FLAG_FUA, false, R(fua_supported) },
		{ "WRITE FUA", NBD_FLAG_SEND_FUA, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, true, R(fua_supported) },
		{ "TRIM", NBD_FLAG_SEND_TRIM, NBD_CMD_TRIM, 0, true, R(trim_supported) },
		{ "WRITE_ZEROES", NBD_FLAG_SEND_WRITE_ZEROES, NBD_CMD_WRITE_ZEROES, 0, true,
		  R(write_zeroes_supported) },
		{ "NO_HOLE", NBD_FLAG_SEND_WRITE_ZEROES, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, true,
		  R(write_zeroes_supported) },
	};

	for (volatile size_t i = 0; i < COUNT(points); i++)
		POINT(t, "%s", points[i].name) {
			static uint8_t data[65536];
			uint32_t length, error;

			enter_transmission(t);
			need_flag(t, points[i].flag);
			length = points[i].type == NBD_CMD_FLUSH ? 0 : blocks(t, 65536);
			need_size(t, length);
			if (points[i].writes)
				need_writable(t);
			if (points[i].type == NBD_CMD_WRITE)
				error = do_write(t, points[i].flags, 0, length, data, points[i].broken);
			else
				error = do_command(t, points[i].flags, points[i].type, 0, length, points[i].broken);
			EXPECT(t, points[i].broken, !is_unsupported(error),
			       "%s, as it is advertised, gets error %" PRIu32, points[i].name, error);
			expect_in_step(t, points[i].broken);
		}
}

/* What is there already is written, so that a server that carries it out against its word does no harm. */
CASE(flags, read_only, "Where NBD_FLAG_READ_ONLY is set, a WRITE gets an error", R(read_only_errors_writes))
{
	static uint8_t data[65536];
	uint32_t length, error;

	enter_transmission(t);
	if ((t->s->flags & NBD_FLAG_READ_ONLY) == 0)
		skip(t, "READ_ONLY", "the export is writable");
	length = blocks(t, 512);
	need_size(t, length);
	must_read(t, 0, length, data, R(read_only_errors_writes));
	error = do_write(t, 0, 0, length, data, R(read_only_errors_writes));
	EXPECT(t, R(read_only_errors_writes), error != 0, "a WRITE to an export with NBD_FLAG_READ_ONLY succeeds");
	expect_in_step(t, R(read_only_errors_writes));
}

enum { UNKNOWN_COMMAND_FLAG = 1 << 14 };

/* We set a flag that was not offered: the server may leave us (proto.md:447), but not the next client. */
static void
need_answer(struct test *t, enum requirement_id owed)
{
	if (peer_goes_on(t, owed))
		return;
	expect_next_client_served(t, R(transmission_no_disconnect));
	skip(t, "unadvertised flags", "the server ends the session on a flag that it did not offer");
}

static uint32_t
zero_with_flag(struct test *t, uint16_t flag)
{
	uint64_t cookie = new_cookie(t);

	send_request(t, flag, NBD_CMD_WRITE_ZEROES, cookie, 0, blocks(t, 512), NULL);
	need_answer(t, R(write_zeroes_supported));
	return recv_simple_reply(t, cookie, 0, R(write_zeroes_supported)).error;
}

/* Who refuses a flag that nobody knows, but takes FAST_ZERO, knows FAST_ZERO, and should say so (proto.md:1142). */
CASE(flags, fast_zero_is_told, "A server that understands NBD_CMD_FLAG_FAST_ZERO sets NBD_FLAG_SEND_FAST_ZERO",
     R(fast_zero_flag_set), R(transmission_no_disconnect))
{
	uint32_t error;

	enter_transmission(t);
	need_flag(t, NBD_FLAG_SEND_WRITE_ZEROES);
	if ((t->s->flags & NBD_FLAG_SEND_FAST_ZERO) != 0)
		return;
	need_size(t, blocks(t, 512));
	need_writable(t);
	if (zero_with_flag(t, 0) != 0 || zero_with_flag(t, UNKNOWN_COMMAND_FLAG) != NBD_EINVAL)
		skip(t, "unknown flags", "a command flag that nobody knows is not refused");
	error = zero_with_flag(t, NBD_CMD_FLAG_FAST_ZERO);
	EXPECT(t, R(fast_zero_flag_set), error != 0 && error != NBD_ENOTSUP,
	       "WRITE_ZEROES with FAST_ZERO gets error %" PRIu32
	       ", with an unknown flag NBD_EINVAL: FAST_ZERO is understood, "
	       "but NBD_FLAG_SEND_FAST_ZERO is clear",
	       error);
}

static uint32_t
read_with_flag(struct test *t, uint16_t flag)
{
	struct sent q = send_command(t, flag, NBD_CMD_READ, 0, blocks(t, 512), NULL);

	need_answer(t, R(read_reply_structured));
	return recv_reply(t, &q, R(read_reply_structured)).error;
}

/* The same for DF, which exists once structured replies are negotiated (proto.md:1120). */
CASE(flags, df_is_told,
     "A server that understands NBD_CMD_FLAG_DF sets NBD_FLAG_SEND_DF once structured replies are negotiated",
     R(df_flag_set), R(transmission_no_disconnect))
{
	uint32_t error;

	enter_structured(t);
	if ((t->s->flags & NBD_FLAG_SEND_DF) != 0)
		return;
	need_size(t, blocks(t, 512));
	if (read_with_flag(t, 0) != 0 || read_with_flag(t, UNKNOWN_COMMAND_FLAG) != NBD_EINVAL)
		skip(t, "unknown flags", "a command flag that nobody knows is not refused");
	error = read_with_flag(t, NBD_CMD_FLAG_DF);
	EXPECT(t, R(df_flag_set), error != 0 && error != NBD_EOVERFLOW,
	       "READ with DF gets error %" PRIu32
	       ", with an unknown flag NBD_EINVAL: DF is understood, but NBD_FLAG_SEND_DF "
	       "is clear",
	       error);
}

/* ---- several connections ---- */

/* A second session beside the first; a server need not serve two at a time, whatever it advertises. */
static struct session *
need_beside(struct test *t)
{
	if (!open_beside(t))
		skip(t, "connections", "the server does not serve two connections at a time");
	disconnect(t);
	enter_transmission(t);
	return t->s;
}

CASE(flags, multi_conn,
     "Where NBD_FLAG_CAN_MULTI_CONN is set, what one connection wrote, flushed, or wrote with FUA is read on another",
     R(multi_conn_shared_cache), R(multi_conn_flush_visible), R(multi_conn_fua_visible))
{
	static const struct {
		const char *name;
		uint16_t flag, command_flags;
		enum requirement_id broken;
	} points[] = {
		{ "WRITE", NBD_FLAG_CAN_MULTI_CONN, 0, R(multi_conn_shared_cache) },
		{ "FLUSH", NBD_FLAG_SEND_FLUSH, 0, R(multi_conn_flush_visible) },
		{ "FUA", NBD_FLAG_SEND_FUA, NBD_CMD_FLAG_FUA, R(multi_conn_fua_visible) },
	};
	static uint8_t want[65536], got[65536];

	for (volatile size_t i = 0; i < COUNT(points); i++)
		POINT(t, "%s", points[i].name) {
			struct session *writer, *reader;
			enum requirement_id r = points[i].broken;
			uint32_t length, error;

			enter_transmission(t);
			writer = t->s;
			need_flag(t, NBD_FLAG_CAN_MULTI_CONN);
			need_flag(t, points[i].flag);
			need_writable(t);
			length = blocks(t, 4096);
			need_size(t, length);
			reader = need_beside(t);
			must_read(t, 0, length, got, r);
			use(t, writer);
			for (uint32_t k = 0; k < length; k++)
				want[k] = (uint8_t)~got[k];
			error = do_write(t, points[i].command_flags, 0, length, want, r);
			if (error == 0 && points[i].flag == NBD_FLAG_SEND_FLUSH)
				error = do_command(t, 0, NBD_CMD_FLUSH, 0, 0, r);
			if (error != 0)
				skip(t, "writing", "the server gives error %" PRIu32, error);
			use(t, reader);
			must_read(t, 0, length, got, r);
			expect_data(t, r, got, want, length, 0);
		}
}
