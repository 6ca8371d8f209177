/* Lies about size constraints: what NBD_INFO_BLOCK_SIZE says, and what is enforced of it. */
#include "fakeserver/lie.h"

#include "harness/nbd.h"

#include <stdlib.h>

static bool
is_block_size(const struct outgoing *m)
{
	return m->kind == MSG_OPTION_REPLY && m->payload == PAYLOAD_INFO_BLOCK_SIZE;
}

static bool
is_ack(const struct outgoing *m)
{
	return m->kind == MSG_OPTION_REPLY && (m->option == NBD_OPT_INFO || m->option == NBD_OPT_GO) &&
	       m->reply.type == NBD_REP_ACK;
}

#define SIZE_LIE(ident, breaks_, text_, ...)                                                                           \
	OUTGOING_LIE(ident, BREAKS(R(breaks_)), text_, is_block_size(m), __VA_ARGS__)

/* ---- the three values ---- */

SIZE_LIE(block_size_minimum_0, block_size_minimum_power_of_two, "tells a minimum block size of 0",
         m->block_size.minimum = 0)
SIZE_LIE(block_size_minimum_3, block_size_minimum_power_of_two, "tells a minimum block size of 3",
         m->block_size.minimum = 3)
SIZE_LIE(block_size_minimum_513, block_size_minimum_power_of_two, "tells a minimum block size of 513",
         m->block_size.minimum = 513)
SIZE_LIE(block_size_minimum_all_ones, block_size_minimum_power_of_two, "tells a minimum block size of 0xffffffff",
         m->block_size.minimum = UINT32_MAX)
SIZE_LIE(block_size_minimum_131072, block_size_minimum_limit, "tells a minimum block size of 131072",
         m->block_size.minimum = 131072)
SIZE_LIE(block_size_minimum_swapped, block_size_minimum_limit, "tells the minimum block size in little-endian",
         m->block_size.minimum = __builtin_bswap32(m->block_size.minimum))
SIZE_LIE(block_size_preferred_0, block_size_preferred_power_of_two, "tells a preferred block size of 0",
         m->block_size.preferred = 0)
SIZE_LIE(block_size_preferred_4097, block_size_preferred_power_of_two, "tells a preferred block size of 4097",
         m->block_size.preferred++)
SIZE_LIE(block_size_preferred_4095, block_size_preferred_power_of_two, "tells a preferred block size of 4095",
         m->block_size.preferred--)
SIZE_LIE(block_size_preferred_256, block_size_preferred_floor, "tells a preferred block size of 256",
         m->block_size.preferred = 256)
SIZE_LIE(block_size_preferred_below_minimum, block_size_preferred_floor,
         "tells a minimum block size of 8192, and a preferred one of 4096", m->block_size.minimum = 8192)
SIZE_LIE(block_size_preferred_all_ones, block_size_preferred_power_of_two, "tells a preferred block size of 0xffffffff",
         m->block_size.preferred = UINT32_MAX)
SIZE_LIE(block_size_maximum_0, block_size_maximum_floor, "tells a maximum payload size of 0", m->block_size.maximum = 0)
SIZE_LIE(block_size_maximum_4095, block_size_maximum_floor,
         "tells a maximum payload size of 1 byte less than the preferred block size",
         m->block_size.maximum = m->block_size.preferred - 1)
SIZE_LIE(block_size_maximum_swapped, block_size_maximum_floor, "tells the maximum payload size in little-endian",
         m->block_size.maximum = __builtin_bswap32(m->block_size.maximum))
SIZE_LIE(block_size_maximum_65536, block_size_maximum_one_mebibyte, "tells a maximum payload size of 65536",
         m->block_size.maximum = 65536)
SIZE_LIE(block_size_maximum_1048575, block_size_maximum_one_mebibyte,
         "tells a maximum payload size of 1 byte less than 1 MiB", m->block_size.maximum = (1 << 20) - 1)

LIE(block_size_export_not_multiple, ON_OUTGOING, BREAKS(R(export_size_minimum_multiple)),
    "tells a minimum block size of 512 and an export size that is no multiple of it")
{
	if (is_block_size(m) && LIE_NOW)
		m->block_size.minimum = 512;
	if (m->kind == MSG_OPTION_REPLY && m->payload == PAYLOAD_INFO_EXPORT && LIE_NOW)
		m->info_export.size -= 100;
}

/* ---- the message ---- */

static const uint8_t three_values[16] = { 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0 };

SIZE_LIE(block_size_short, info_block_size_length, "sends 13 bytes of NBD_INFO_BLOCK_SIZE", m->payload = PAYLOAD_INFO;
         m->info.payload = (struct bytes){ three_values, 11 })
SIZE_LIE(block_size_without_maximum, info_block_size_length, "ends NBD_INFO_BLOCK_SIZE behind the preferred block size",
         m->payload = PAYLOAD_INFO;
         m->info.payload = (struct bytes){ three_values, 8 })
SIZE_LIE(block_size_of_4_values, info_block_size_length, "sends a fourth value in NBD_INFO_BLOCK_SIZE",
         m->payload = PAYLOAD_INFO;
         m->info.payload = (struct bytes){ three_values, 16 })
SIZE_LIE(block_size_length_plus_1, info_block_size_length, "says that NBD_INFO_BLOCK_SIZE has 15 bytes",
         m->length_off = 1)
SIZE_LIE(block_size_length_minus_1, info_block_size_length, "says that NBD_INFO_BLOCK_SIZE has 13 bytes",
         m->length_off = -1)
SIZE_LIE(block_size_length_0, info_reply_layout, "says that NBD_INFO_BLOCK_SIZE has no bytes", m->length_off = -14)
SIZE_LIE(block_size_typed_export, info_export_length, "gives NBD_INFO_BLOCK_SIZE the type of NBD_INFO_EXPORT",
         m->info.type = NBD_INFO_EXPORT)
SIZE_LIE(block_size_swapped, option_reply_magic, "sends NBD_INFO_BLOCK_SIZE and its header in little-endian",
         m->swap = true)
SIZE_LIE(block_size_twice, info_once_each, "sends NBD_INFO_BLOCK_SIZE twice", m->repeat = 1)
SIZE_LIE(block_size_cut, option_reply_length, "breaks off in NBD_INFO_BLOCK_SIZE",
         m->cut = OPTION_REPLY_HEADER_SIZE + 7;
         m->after = AFTER_CLOSE)
SIZE_LIE(block_size_closes, info_final_reply, "ends the session instead of NBD_INFO_BLOCK_SIZE", m->drop = true;
         m->after = AFTER_CLOSE)
SIZE_LIE(block_size_resets, info_final_reply, "resets the connection instead of NBD_INFO_BLOCK_SIZE", m->drop = true;
         m->after = AFTER_RESET)
SIZE_LIE(block_size_falls_silent, info_final_reply, "says nothing more from NBD_INFO_BLOCK_SIZE on", m->drop = true;
         m->after = AFTER_SILENCE)

/* ---- sizes that are enforced, but not told ---- */

static bool
is_unaligned(const struct request *r, uint32_t unit)
{
	return r != NULL && (r->type == NBD_CMD_READ || r->type == NBD_CMD_WRITE) &&
	       ((r->offset | r->length) & (unit - 1)) != 0;
}

static void
refuse_outgoing(struct outgoing *m)
{
	m->simple.error = NBD_EINVAL;
	m->simple.data = (struct bytes){ NULL, 0 };
}

LIE(block_size_minimum_untold, ON_OUTGOING, BREAKS(R(block_size_sent_when_enforced)),
    "refuses requests within blocks of 512 bytes, and does not send NBD_INFO_BLOCK_SIZE")
{
	if (is_block_size(m) && LIE_NOW)
		m->drop = true;
	if (m->kind == MSG_SIMPLE_REPLY && is_unaligned(m->request, 512) && LIE_NOW)
		refuse_outgoing(m);
}

LIE(block_size_maximum_untold, ON_OUTGOING, BREAKS(R(block_size_sent_when_enforced)),
    "refuses READs of more than 1 MiB, and does not send NBD_INFO_BLOCK_SIZE")
{
	if (is_block_size(m) && LIE_NOW)
		m->drop = true;
	if (m->kind == MSG_SIMPLE_REPLY && m->request->type == NBD_CMD_READ && m->request->length > 1 << 20 && LIE_NOW)
		refuse_outgoing(m);
}

static void
refuse(struct disk_op *m)
{
	m->error = NBD_EINVAL;
	m->skip = true;
}

LIE(block_size_minimum_stricter, ON_DISK, BREAKS(R(block_size_advertised), R(default_min_block)),
    "refuses requests within blocks of 512 bytes, whatever it told")
{
	if (is_unaligned(m->request, 512) && LIE_NOW)
		refuse(m);
}

LIE(block_size_minimum_2, ON_DISK, BREAKS(R(block_size_advertised), R(default_min_block)),
    "refuses requests within blocks of 2 bytes, whatever it told")
{
	if (is_unaligned(m->request, 2) && LIE_NOW)
		refuse(m);
}

LIE(block_size_last_byte_refused, ON_DISK, BREAKS(R(default_min_block)), "refuses to READ the last byte alone")
{
	if (m->type == NBD_CMD_READ && m->length == 1 && m->offset + 1 == c->export->size && LIE_NOW)
		refuse(m);
}

LIE(block_size_maximum_stricter, ON_DISK, BREAKS(R(block_size_advertised), R(default_max_payload)),
    "refuses payloads of more than 1 MiB, whatever it told")
{
	if ((m->type == NBD_CMD_READ || m->type == NBD_CMD_WRITE) && m->length > 1 << 20 && LIE_NOW)
		refuse(m);
}

/* vitastor 9c30df83 and others had limits of their own for long payloads. */
LIE(block_size_write_limit_minus_1, ON_DISK, BREAKS(R(default_max_payload)), "refuses a WRITE of just 32 MiB")
{
	if (m->type == NBD_CMD_WRITE && m->length == NBD_DEFAULT_MAX_PAYLOAD && LIE_NOW)
		refuse(m);
}

LIE(block_size_preferred_refused, ON_DISK, BREAKS(R(default_preferred_block)), "refuses requests of 4096 bytes")
{
	if ((m->type == NBD_CMD_READ || m->type == NBD_CMD_WRITE) && m->length == 4096 && LIE_NOW)
		refuse(m);
}

/* ---- clients that did not ask ---- */

LIE(block_size_unaligned_closes, ON_OUTGOING, BREAKS(R(unnegotiated_size_errors), R(default_min_block)),
    "ends the session over a request within a block of 512 bytes")
{
	if (m->kind == MSG_SIMPLE_REPLY && is_unaligned(m->request, 512) && LIE_NOW) {
		m->drop = true;
		m->after = AFTER_CLOSE;
	}
}

LIE(block_size_unaligned_unanswered, ON_OUTGOING, BREAKS(R(unnegotiated_size_errors), R(default_min_block)),
    "says nothing to a request within a block of 512 bytes")
{
	if (m->kind == MSG_SIMPLE_REPLY && is_unaligned(m->request, 512) && LIE_NOW)
		m->drop = true;
}

LIE(block_size_read_rounded_down, ON_DISK, BREAKS(R(unnegotiated_size_errors), R(default_min_block)),
    "reads from the beginning of the block of 512 bytes, wherever within it the READ begins")
{
	if (m->type == NBD_CMD_READ && is_unaligned(m->request, 512) && LIE_NOW)
		m->offset &= ~UINT64_C(511);
}

LIE(block_size_write_rounded_down, ON_DISK, BREAKS(R(unnegotiated_size_keeps_data)),
    "writes from the beginning of the block of 512 bytes, wherever within it the WRITE begins")
{
	if (m->type == NBD_CMD_WRITE && is_unaligned(m->request, 512) && LIE_NOW)
		m->offset &= ~UINT64_C(511);
}

LIE(block_size_refused_write_lands, ON_DISK, BREAKS(R(unnegotiated_size_keeps_data)),
    "refuses a WRITE within a block of 512 bytes, and carries it out")
{
	if (m->type == NBD_CMD_WRITE && is_unaligned(m->request, 512) && LIE_NOW)
		m->error = NBD_EINVAL;
}

/* NBD_INFO_BLOCK_SIZE with 512, 4096 and 32 MiB, as a whole message. */
static const uint8_t unasked_block_size[] = {
	0x00, 0x03,
	0xe8, 0x89,
	0x04, 0x55,
	0x65, 0xa9,
	0,    0,
	0,    NBD_OPT_GO,
	0,    0,
	0,    NBD_REP_INFO,
	0,    0,
	0,    14,
	0,    NBD_INFO_BLOCK_SIZE,
	0,    0,
	2,    0,
	0,    0,
	16,   0,
	2,    0,
	0,    0,
};

LIE(block_size_unasked_is_assumed, ON_OUTGOING, BREAKS(R(info_unrequested_not_assumed)),
    "tells by NBD_OPT_GO block sizes that nobody asked for, and ends the session of who does not obey them")
{
	if (m->kind == MSG_OPTION_REPLY && m->option == NBD_OPT_GO && m->payload == PAYLOAD_INFO_EXPORT && LIE_NOW)
		m->extra = (struct bytes){ unasked_block_size, sizeof(unasked_block_size) };
	if (m->kind == MSG_SIMPLE_REPLY && is_unaligned(m->request, 512) && LIE_NOW) {
		m->drop = true;
		m->after = AFTER_CLOSE;
	}
}

/* ---- NBD_REP_ERR_BLOCK_SIZE_REQD ---- */

OUTGOING_LIE(block_size_reqd_always, BREAKS(R(block_size_reqd_not_when_asked)),
             "answers NBD_REP_ERR_BLOCK_SIZE_REQD to who asks for the block sizes too", is_ack(m),
             m->reply.type = NBD_REP_ERR_BLOCK_SIZE_REQD)

/* .arg is the connection on which the answer under way has told the sizes. */
static bool
was_told(struct lie_use *l, const struct conn *c, const struct outgoing *m)
{
	bool told = l->arg == c->number;

	if (is_block_size(m))
		l->arg = c->number;
	else if (is_ack(m))
		l->arg = 0;
	return told;
}

LIE(block_size_reqd_for_defaults, ON_OUTGOING,
    BREAKS(R(block_size_reqd_not_for_defaults), R(default_sizes_not_refused), R(block_size_sent_before_reqd)),
    "wants to be asked for its block sizes, which are the defaults")
{
	bool told = was_told(l, c, m);

	if (is_ack(m) && !told && LIE_NOW)
		m->reply.type = NBD_REP_ERR_BLOCK_SIZE_REQD;
}

LIE(block_size_reqd_but_never_told, ON_OUTGOING, BREAKS(R(block_size_sent_when_enforced)),
    "wants to be asked for its block sizes, and does not tell them to who asks")
{
	bool told = was_told(l, c, m);

	if (is_block_size(m) && LIE_NOW)
		m->drop = true;
	if (is_ack(m) && !told && LIE_NOW)
		m->reply.type = NBD_REP_ERR_BLOCK_SIZE_REQD;
}

/* ---- requests outside the constraints ---- */

SIZE_LIE(block_size_not_enforced, unaligned_or_past_end_einval,
         "tells a minimum block size of 512, and serves single bytes", m->block_size.minimum = 512)

LIE(block_size_past_end_eio, ON_DISK, BREAKS(R(unaligned_or_past_end_einval)), "answers NBD_EIO to a READ past the end")
{
	if (m->type == NBD_CMD_READ && m->error == NBD_EINVAL && LIE_NOW)
		m->error = NBD_EIO;
}

LIE(block_size_past_end_zeroes, ON_DISK, BREAKS(R(unaligned_or_past_end_einval)), "reads zeroes past the end")
{
	if (m->type == NBD_CMD_READ && m->error == NBD_EINVAL && LIE_NOW) {
		m->error = NBD_SUCCESS;
		m->skip = false;
	}
}

LIE(block_size_past_end_dies, ON_DISK, BREAKS(R(transmission_no_disconnect)), "dies of a READ past the end")
{
	if (m->type == NBD_CMD_READ && m->error == NBD_EINVAL && LIE_NOW)
		abort();
}

LIE(block_size_32_mebibytes_close, ON_INCOMING, BREAKS(R(server_takes_32_mebibytes)),
    "ends the session over a WRITE of 32 MiB")
{
	if (m->kind == MSG_REQUEST && m->request.type == NBD_CMD_WRITE &&
	    m->request.length == NBD_DEFAULT_MAX_PAYLOAD && LIE_NOW)
		m->close = true;
}

LIE(block_size_long_effect_closes, ON_INCOMING, BREAKS(R(long_effect_no_disconnect)),
    "ends the session over a TRIM, WRITE_ZEROES or CACHE of more than 32 MiB")
{
	if (m->kind == MSG_REQUEST && m->request.type >= NBD_CMD_TRIM && m->request.length > NBD_DEFAULT_MAX_PAYLOAD &&
	    LIE_NOW)
		m->close = true;
}
