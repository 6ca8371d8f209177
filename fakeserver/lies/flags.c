/* Lies about transmission flags, and about what they promise. */
#include "fakeserver/lie.h"

#include "harness/nbd.h"

#include <stdlib.h>

/* Where a message tells transmission flags; NULL where it does not. */
static uint16_t *
flags_in(struct outgoing *m)
{
	if (m->kind == MSG_EXPORT_NAME_REPLY)
		return &m->export_name.flags;
	if (m->kind == MSG_OPTION_REPLY && m->payload == PAYLOAD_INFO_EXPORT)
		return &m->info_export.flags;
	return NULL;
}

#define FLAGS_LIE(ident, breaks_, text_, ...)                                                                          \
	LIE(ident, ON_OUTGOING, BREAKS(R(breaks_)), text_)                                                             \
	{                                                                                                              \
		uint16_t *flags = flags_in(m);                                                                         \
                                                                                                                       \
		if (flags != NULL && LIE_NOW)                                                                          \
			__VA_ARGS__;                                                                                   \
	}

/* go-nbd did not set it. */
FLAGS_LIE(flags_has_flags_clear, has_flags_set, "leaves NBD_FLAG_HAS_FLAGS clear",
          *flags &= (uint16_t)~NBD_FLAG_HAS_FLAGS)
FLAGS_LIE(flags_0, has_flags_set, "sets no transmission flag", *flags = 0)
FLAGS_LIE(flags_minus_1, has_flags_set, "tells transmission flags that are less by one", (*flags)--)
FLAGS_LIE(flags_all_ones, unadvertised_flags_unset, "sets every transmission flag", *flags = UINT16_MAX)
FLAGS_LIE(flags_swapped, unadvertised_flags_unset, "tells the transmission flags in little-endian",
          *flags = __builtin_bswap16(*flags))
FLAGS_LIE(flags_bit_13, unadvertised_flags_unset, "sets transmission flag 13", *flags |= 1 << 13)
FLAGS_LIE(flags_bit_15, unadvertised_flags_unset, "sets transmission flag 15", *flags |= 1 << 15)
FLAGS_LIE(flags_resize, unadvertised_flags_unset, "sets NBD_FLAG_SEND_RESIZE", *flags |= NBD_FLAG_SEND_RESIZE)
FLAGS_LIE(flags_block_status_payload, unadvertised_flags_unset,
          "sets NBD_FLAG_BLOCK_STATUS_PAYLOAD, although extended headers were not negotiated",
          *flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD)
FLAGS_LIE(flags_df_unstructured, df_flag_without_structured,
          "sets NBD_FLAG_SEND_DF, although structured replies were not negotiated", *flags |= NBD_FLAG_SEND_DF)
FLAGS_LIE(flags_fast_zero_alone, fast_zero_needs_write_zeroes,
          "sets NBD_FLAG_SEND_FAST_ZERO without NBD_FLAG_SEND_WRITE_ZEROES",
          *flags = (uint16_t)((*flags | NBD_FLAG_SEND_FAST_ZERO) & ~NBD_FLAG_SEND_WRITE_ZEROES))
FLAGS_LIE(flags_fast_zero_untold, fast_zero_flag_set, "understands FAST_ZERO, and leaves NBD_FLAG_SEND_FAST_ZERO clear",
          *flags &= (uint16_t)~NBD_FLAG_SEND_FAST_ZERO)
FLAGS_LIE(flags_df_untold, df_flag_set, "understands DF, and leaves NBD_FLAG_SEND_DF clear",
          *flags &= (uint16_t)~NBD_FLAG_SEND_DF)
FLAGS_LIE(flags_read_only_writes, read_only_errors_writes, "sets NBD_FLAG_READ_ONLY, and carries out WRITEs",
          *flags |= NBD_FLAG_READ_ONLY)

LIE(flags_of_export_name_differ, ON_OUTGOING, BREAKS(R(info_export_same_as_export_name)),
    "advertises NBD_FLAG_ROTATIONAL by NBD_OPT_EXPORT_NAME only")
{
	if (m->kind == MSG_EXPORT_NAME_REPLY && LIE_NOW)
		m->export_name.flags |= NBD_FLAG_ROTATIONAL;
}

LIE(flags_of_info_differ, ON_OUTGOING, BREAKS(R(info_export_same_as_export_name), R(info_then_go_same)),
    "advertises NBD_FLAG_ROTATIONAL by NBD_OPT_INFO only")
{
	if (m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_INFO && m->payload == PAYLOAD_INFO_EXPORT && LIE_NOW)
		m->info_export.flags |= NBD_FLAG_ROTATIONAL;
}

/* ---- what the flags promise ---- */

#define COMMAND_LIE(ident, breaks_, text_, when, error_)                                                               \
	LIE(ident, ON_DISK, BREAKS(R(breaks_)), text_)                                                                 \
	{                                                                                                              \
		if ((when) && LIE_NOW) {                                                                               \
			m->error = error_;                                                                             \
			m->skip = true;                                                                                \
		}                                                                                                      \
	}

/* SPDK c3f628f1: FLUSH was advertised where nothing below could do it. */
COMMAND_LIE(flags_flush_unsupported, flush_supported, "advertises FLUSH, and answers it with NBD_EINVAL",
            m->type == NBD_CMD_FLUSH, NBD_EINVAL)
COMMAND_LIE(flags_flush_enotsup, flush_supported, "advertises FLUSH, and answers it with NBD_ENOTSUP",
            m->type == NBD_CMD_FLUSH, NBD_ENOTSUP)
/* nbdkit, oldstyle: the flags were told, but not kept. */
COMMAND_LIE(flags_fua_unsupported, fua_supported, "advertises FUA, and answers commands that have it with NBD_EINVAL",
            (m->flags & NBD_CMD_FLAG_FUA) != 0, NBD_EINVAL)
COMMAND_LIE(flags_read_fua_unsupported, fua_supported, "advertises FUA, and answers a READ that has it with NBD_EINVAL",
            m->type == NBD_CMD_READ && (m->flags & NBD_CMD_FLAG_FUA) != 0, NBD_EINVAL)
COMMAND_LIE(flags_trim_unsupported, trim_supported, "advertises TRIM, and answers it with NBD_EINVAL",
            m->type == NBD_CMD_TRIM, NBD_EINVAL)
COMMAND_LIE(flags_write_zeroes_unsupported, write_zeroes_supported,
            "advertises WRITE_ZEROES, and answers it with NBD_EINVAL", m->type == NBD_CMD_WRITE_ZEROES, NBD_EINVAL)
COMMAND_LIE(flags_no_hole_unsupported, write_zeroes_supported,
            "advertises WRITE_ZEROES, and answers NO_HOLE with NBD_EINVAL",
            m->type == NBD_CMD_WRITE_ZEROES && (m->flags & NBD_CMD_FLAG_NO_HOLE) != 0, NBD_EINVAL)

/* nbdkit 1.32.5: an assertion, where a client sets FAST_ZERO that was not advertised. */
LIE(flags_fast_zero_untold_dies, ON_OUTGOING, BREAKS(R(transmission_no_disconnect)),
    "leaves NBD_FLAG_SEND_FAST_ZERO clear, and dies of a WRITE_ZEROES with FAST_ZERO")
{
	uint16_t *flags = flags_in(m);

	if (flags != NULL && LIE_NOW)
		*flags &= (uint16_t)~NBD_FLAG_SEND_FAST_ZERO;
	if (m->request != NULL && m->request->type == NBD_CMD_WRITE_ZEROES &&
	    (m->request->flags & NBD_CMD_FLAG_FAST_ZERO) != 0 && LIE_NOW)
		abort();
}

/* nbdkit 0d03698c and others: each connection has a cache of its own, although CAN_MULTI_CONN is advertised. */
LIE(flags_multi_conn_stale, ON_DISK,
    BREAKS(R(multi_conn_shared_cache), R(multi_conn_flush_visible), R(multi_conn_fua_visible)),
    "reads zeroes on every connection but the first")
{
	if (m->type == NBD_CMD_READ && c->number > 1 && LIE_NOW)
		m->skip = true;
}
