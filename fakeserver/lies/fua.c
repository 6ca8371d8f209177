/* Lies about NBD_CMD_FLAG_FUA on commands without payload, and about what outlives its client; see also flush.c. */
#include "fakeserver/lies/effects.h"

#include <string.h>

#define HAS_FUA ((m->flags & NBD_CMD_FLAG_FUA) != 0)

/* ---- effects ---- */

EFFECT_LIE(fua_zeroes_lost, NBD_CMD_WRITE_ZEROES, BREAKS(R(fua_supported)), "WRITE_ZEROES with FUA does nothing",
           HAS_FUA, m->skip = true)
EFFECT_LIE(fua_zeroes_one_byte_short, NBD_CMD_WRITE_ZEROES, BREAKS(R(fua_supported)),
           "WRITE_ZEROES with FUA leaves its last byte", HAS_FUA && m->length > 0, m->length--)
EFFECT_LIE(fua_zeroes_one_byte_more, NBD_CMD_WRITE_ZEROES, BREAKS(R(zeroes_stored)),
           "WRITE_ZEROES with FUA zeroes the byte behind its range too", HAS_FUA, m->length++)
EFFECT_LIE(fua_trims_too_much, NBD_CMD_TRIM, BREAKS(R(trim_keeps_outside)),
           "TRIM with FUA takes away a sector behind its range too", HAS_FUA, m->length += 512)
EFFECT_LIE(fua_no_hole_refused, NBD_CMD_WRITE_ZEROES, BREAKS(R(fua_accepted)), "FUA and NO_HOLE together are refused",
           HAS_FUA && (m->flags & NBD_CMD_FLAG_NO_HOLE) != 0, m->error = NBD_EINVAL;
           m->skip = true)
EFFECT_LIE(fua_fast_zero_done_and_refused, NBD_CMD_WRITE_ZEROES, BREAKS(R(fast_zero_enotsup_unaltered)),
           "a fast zero request with FUA is done, and gets NBD_ENOTSUP",
           HAS_FUA && (m->flags & NBD_CMD_FLAG_FAST_ZERO) != 0, m->error = NBD_ENOTSUP)

/* What has nothing to do need not look at the flag, but must not mind it. */
LIE(fua_trim_without_effect_refused, ON_DISK, BREAKS(R(fua_accepted)),
    "a TRIM with FUA of what is trimmed already gets NBD_EINVAL")
{
	uint64_t run;

	if (m->type == NBD_CMD_TRIM && m->error == NBD_SUCCESS && HAS_FUA && m->length > 0 &&
	    disk_state(c->export->disk, m->offset, &run) == DISK_TRIMMED && LIE_NOW)
		m->error = NBD_EINVAL;
}

TOLD_FLAGS_LIE(fua_unadvertised_zeroes_eio, BREAKS(R(inapplicable_flag_einval)),
               "FUA is not advertised, and WRITE_ZEROES with it gets NBD_EIO", 0, NBD_FLAG_SEND_FUA,
               replies_to(m, NBD_CMD_WRITE_ZEROES) && (m->request->flags & NBD_CMD_FLAG_FUA) != 0,
               m->simple.error = NBD_EIO)
TOLD_FLAGS_LIE(fua_unadvertised_trim_unanswered, BREAKS(R(each_request_one_reply)),
               "FUA is not advertised, and TRIM with it gets no reply", 0, NBD_FLAG_SEND_FUA,
               replies_to(m, NBD_CMD_TRIM) && (m->request->flags & NBD_CMD_FLAG_FUA) != 0, m->drop = true)
TOLD_FLAGS_LIE(fua_unadvertised_cache_closes, BREAKS(R(inapplicable_flag_einval)),
               "FUA is not advertised, and CACHE with it ends the connection", 0, NBD_FLAG_SEND_FUA,
               replies_to(m, NBD_CMD_CACHE) && (m->request->flags & NBD_CMD_FLAG_FUA) != 0, m->drop = true;
               m->after = AFTER_CLOSE)

/* ---- what is lost with its client ---- */

/*
 * The last write of a connection is undone when it ends without NBD_CMD_DISC: the server has kept it for the connection.
 * That much is seen without a power cut; what stands in a server's memory for all of its clients is not.
 */
static struct {
	unsigned connection; /* 0: nothing is to be undone */
	uint64_t offset;
	uint32_t length;
	uint8_t old[65536];
} kept;

static bool
writes(const struct request *r)
{
	return (r->type == NBD_CMD_WRITE || r->type == NBD_CMD_WRITE_ZEROES) && r->length <= sizeof(kept.old);
}

static void
keep_old(struct conn *c, const struct request *r)
{
	kept.connection = c->number;
	kept.offset = r->offset;
	kept.length = r->length;
	disk_read(c->export->disk, r->offset, r->length, kept.old);
}

static void
forget_write(struct conn *c)
{
	enum disk_state failed;

	disk_write(c->export->disk, kept.offset, kept.length, kept.old, &failed);
	kept.connection = 0;
}

#define FORGETFUL_LIE(ident, breaks, text, is_kept, is_saved)                                                          \
	LIE(ident, ON_PROCESS, breaks, text)                                                                           \
	{                                                                                                              \
		const struct request *r = m->moment == PROCESS_INCOMING ? m->request : NULL;                           \
                                                                                                                       \
		if (r != NULL && writes(r) && (is_kept) && LIE_NOW)                                                    \
			keep_old(c, r);                                                                                \
		else if (r != NULL && (r->type == NBD_CMD_DISC || (is_saved)))                                         \
			kept.connection = 0;                                                                           \
		if (m->moment == PROCESS_DISCONNECT && kept.connection == c->number && LIE_NOW)                        \
			forget_write(c);                                                                               \
	}

/* nbdkit 2fc1e53e: FUA was reported as done, and nothing flushed. */
FORGETFUL_LIE(fua_write_lost_with_its_client, BREAKS(R(fua_persists)),
              "what was written with FUA is lost when its client vanishes",
              r->type == NBD_CMD_WRITE && (r->flags & NBD_CMD_FLAG_FUA) != 0, r->type == NBD_CMD_FLUSH)
FORGETFUL_LIE(fua_zeroes_lost_with_their_client, BREAKS(R(fua_before_reply)),
              "what was zeroed with FUA is not, when its client vanishes",
              r->type == NBD_CMD_WRITE_ZEROES && (r->flags & NBD_CMD_FLAG_FUA) != 0, r->type == NBD_CMD_FLUSH)
/* gonbdserver: FLUSH is advertised and does nothing. */
FORGETFUL_LIE(flushed_write_lost_with_its_client, BREAKS(R(flush_persists), R(flush_before_reply)),
              "what was written and flushed is lost when its client vanishes", (r->flags & NBD_CMD_FLAG_FUA) == 0,
              false)
/* nbdkit a68c1014 */
FORGETFUL_LIE(flush_covers_one_connection, BREAKS(R(flush_before_reply)),
              "a FLUSH does nothing for what other connections wrote: it is lost when they vanish",
              (r->flags & NBD_CMD_FLAG_FUA) == 0, r->type == NBD_CMD_FLUSH && kept.connection == c->number)
