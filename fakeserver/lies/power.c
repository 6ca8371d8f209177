/*
 * Lies that only a power cut brings to light: their names begin with power_, and they are told by a server with a
 * volatile cache (cases/mutants.c, profile power-cuts).
 */
#include "fakeserver/lies/effects.h"

#define ON_FLUSH_LIE(ident, breaks, text, condition, ...)                                                              \
	LIE(ident, ON_DISK, breaks, text)                                                                              \
	{                                                                                                              \
		if (m->type == NBD_CMD_FLUSH && (condition) && LIE_NOW) {                                              \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}
#define ON_FUA_LIE(ident, text, condition)                                                                             \
	LIE(ident, ON_DISK, BREAKS(R(fua_persists)), text)                                                             \
	{                                                                                                              \
		if ((m->flags & NBD_CMD_FLAG_FUA) != 0 && m->error == NBD_SUCCESS && (condition) && LIE_NOW)           \
			m->flags &= (uint16_t)~NBD_CMD_FLAG_FUA;                                                       \
	}

/* qemu cache=unsafe, nbdkit fuamode=discard */
ON_FLUSH_LIE(power_flush_ignored, BREAKS(R(flush_persists)), "FLUSH is answered, and nothing is done", true,
             m->skip = true)
ON_FLUSH_LIE(power_flush_of_first_connection_only, BREAKS(R(flush_before_reply)),
             "only what the first client flushes is flushed", c->number > 1, m->skip = true)
/* What Linux files do to whoever calls fsync again after it has failed. */
ON_FLUSH_LIE(power_flush_forgets_failure, BREAKS(R(flush_persists)),
             "after a FLUSH that failed the next one succeeds, without the data", m->error != NBD_SUCCESS,
             cache_forget(c->export->cache))
ON_FLUSH_LIE(power_flush_hides_failure, BREAKS(R(flush_persists)), "a FLUSH that failed is answered with success",
             m->error != NBD_SUCCESS, m->error = NBD_SUCCESS)

ON_FUA_LIE(power_fua_ignored, "FUA is taken, and nothing is done", true)
ON_FUA_LIE(power_fua_of_write_ignored, "FUA on a WRITE is ignored", m->type == NBD_CMD_WRITE)
ON_FUA_LIE(power_fua_of_zeroes_ignored, "FUA on a WRITE_ZEROES is ignored", m->type == NBD_CMD_WRITE_ZEROES)
ON_FUA_LIE(power_fua_of_long_writes_ignored, "FUA is ignored for more than 64 KiB", m->length > 65536)
ON_FUA_LIE(power_fua_of_far_writes_ignored, "FUA is ignored behind the first megabyte", m->offset >= 1 << 20)

/* Once it is durable, it is taken away again. */
LIE(power_flush_undoes_zeroes, ON_DISK, BREAKS(R(flush_persists)), "WRITE_ZEROES never gets beyond the cache")
{
	if (m->type == NBD_CMD_WRITE_ZEROES && m->error == NBD_SUCCESS && LIE_NOW)
		m->volatile_only = true;
}
LIE(power_long_writes_stay_volatile, ON_DISK, BREAKS(R(flush_persists)),
    "a WRITE of a megabyte or more never gets beyond the cache")
{
	if (m->type == NBD_CMD_WRITE && m->length >= 1 << 20 && LIE_NOW)
		m->volatile_only = true;
}
LIE(power_far_writes_stay_volatile, ON_DISK, BREAKS(R(flush_persists)),
    "what is written past 4 GiB never gets beyond the cache")
{
	if (m->type == NBD_CMD_WRITE && m->offset >= UINT64_C(1) << 32 && LIE_NOW)
		m->volatile_only = true;
}
/* Acknowledged before it is written, and the FLUSH does not wait for it. */
LIE(power_flush_leaves_out_some, ON_DISK, BREAKS(R(flush_persists)), "a FLUSH leaves out every third WRITE")
{
	if (m->type == NBD_CMD_WRITE && l->arg++ % 3 == 0 && LIE_NOW)
		m->volatile_only = true;
}

/* What was trimmed is trimmed once more, when data has been written there since. */
LIE(power_late_trim, ON_DISK, BREAKS(R(write_stored)),
    "a TRIM is carried out at the next FLUSH, over what was written since")
{
	static struct disk_op late;

	if (m->type == NBD_CMD_TRIM && m->error == NBD_SUCCESS && LIE_NOW) {
		late = *m;
		m->skip = true;
	} else if (m->type == NBD_CMD_FLUSH && late.type == NBD_CMD_TRIM) {
		disk_zero(c->export->disk, late.offset, late.length, DISK_TRIMMED);
		late.type = 0;
	}
}
