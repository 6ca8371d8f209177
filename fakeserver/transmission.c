/* The transmission phase: each request is checked, carried out on the disk, and answered. */
#include "fakeserver/core.h"

#include "fakeserver/disk.h"
#include "harness/nbd.h"

#include <string.h>

static const struct command_rule {
	bool known, writes, ranged;
	bool empty_unspecified; /* what a length of 0 does is left to the server (proto.md:1954, 2061, 2104, 2154) */
	uint16_t exposed_by;    /* the transmission flag that allows it; 0: always allowed (proto.md:1100) */
	uint16_t flags;         /* command flags that apply, besides FUA */
	uint32_t past_end;      /* the error for a range past the end (proto.md:2328-2333, 2221) */
} rules[] = {
	[NBD_CMD_READ] = { true, false, true, true, 0, NBD_CMD_FLAG_DF, NBD_EINVAL },
	[NBD_CMD_WRITE] = { true, true, true, true, 0, 0, NBD_ENOSPC },
	[NBD_CMD_FLUSH] = { true, false, false, false, NBD_FLAG_SEND_FLUSH, 0, 0 },
	[NBD_CMD_TRIM] = { true, true, true, true, NBD_FLAG_SEND_TRIM, 0, NBD_EINVAL },
	[NBD_CMD_CACHE] = { true, false, true, false, NBD_FLAG_SEND_CACHE, 0, NBD_EINVAL },
	[NBD_CMD_WRITE_ZEROES] = { true, true, true, true, NBD_FLAG_SEND_WRITE_ZEROES,
	                           NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, NBD_ENOSPC },
};

static const struct command_rule *
rule_of(uint16_t type)
{
	static const struct command_rule unknown;

	return type < sizeof(rules) / sizeof(rules[0]) ? &rules[type] : &unknown;
}

/* A flag is accepted where it applies and where it was offered (proto.md:1720-1724, 1738-1760, 2348-2351). */
static uint16_t
flags_allowed(const struct conn *c, const struct command_rule *rule)
{
	uint16_t flags = rule->flags;

	if ((c->flags & NBD_FLAG_SEND_DF) == 0)
		flags &= (uint16_t)~NBD_CMD_FLAG_DF;
	if ((c->flags & NBD_FLAG_SEND_FAST_ZERO) == 0)
		flags &= (uint16_t)~NBD_CMD_FLAG_FAST_ZERO;
	if ((c->flags & NBD_FLAG_SEND_FUA) != 0)
		flags |= NBD_CMD_FLAG_FUA;
	return flags;
}

/* A READ that is too long may get EOVERFLOW only where DF is supported (proto.md:2337). */
static uint32_t
check_length(const struct conn *c, const struct request *r)
{
	bool fragments = c->structured && (c->flags & NBD_FLAG_SEND_DF) != 0;
	uint32_t most = max_payload(c->export);

	if (r->type == NBD_CMD_WRITE)
		return r->length > most ? NBD_EINVAL : NBD_SUCCESS;
	if (r->type != NBD_CMD_READ)
		return NBD_SUCCESS;
	/* At least 65536 bytes must be readable in one piece (proto.md:2052). */
	if ((r->flags & NBD_CMD_FLAG_DF) != 0 && r->length > 65536 && knob(c, KNOB_long_df_overflows))
		return NBD_EOVERFLOW;
	if (r->length > most)
		return fragments ? NBD_EOVERFLOW : NBD_EINVAL;
	return NBD_SUCCESS;
}

static uint32_t
check_range(const struct conn *c, const struct request *r, const struct command_rule *rule)
{
	uint64_t size = c->export->size;

	if (r->length == 0 && rule->empty_unspecified && knob(c, KNOB_read_zero_is_einval))
		return NBD_EINVAL;
	if (r->offset > size || r->length > size - r->offset)
		return r->type == NBD_CMD_WRITE && knob(c, KNOB_write_past_end_einval) ? NBD_EINVAL : rule->past_end;
	if (((r->offset | r->length) & (export_block(c->export).minimum - 1)) != 0)
		return NBD_EINVAL;
	if (r->type == NBD_CMD_CACHE && knob(c, KNOB_cache_fails))
		return NBD_EINVAL;
	if ((r->flags & NBD_CMD_FLAG_FAST_ZERO) != 0 && knob(c, KNOB_fast_zero_unsupported))
		return NBD_ENOTSUP;
	return check_length(c, r);
}

static uint32_t
check_request(const struct conn *c, const struct request *r)
{
	const struct command_rule *rule = rule_of(r->type);

	if (r->magic != NBD_REQUEST_MAGIC || !rule->known)
		return NBD_EINVAL;
	if (rule->writes && (c->flags & NBD_FLAG_READ_ONLY) != 0)
		return NBD_EPERM;
	if (rule->exposed_by != 0 && (c->flags & rule->exposed_by) == 0)
		return NBD_EINVAL;
	if ((r->flags & ~flags_allowed(c, rule)) != 0)
		return NBD_EINVAL;
	if (rule->ranged)
		return check_range(c, r, rule);
	/* Both are reserved for FLUSH (proto.md:2094). */
	return knob(c, KNOB_flush_range_einval) && (r->offset | r->length) != 0 ? NBD_EINVAL : NBD_SUCCESS;
}

/* ---- replies ---- */

static void
send_simple(struct conn *c, const struct request *r, uint32_t error, struct bytes data)
{
	struct outgoing m = OUTGOING(MSG_SIMPLE_REPLY);

	m.simple = (struct simple_reply){ NBD_SIMPLE_REPLY_MAGIC, error, r->cookie, data };
	m.request = r;
	m.final = true;
	outgoing_send(c, &m);
}

static struct outgoing
chunk_start(const struct request *r, uint16_t type, enum outgoing_payload payload, bool final)
{
	struct outgoing m = OUTGOING(MSG_CHUNK);

	m.chunk = (struct chunk){ .magic = NBD_STRUCTURED_REPLY_MAGIC,
		                  .flags = final ? NBD_REPLY_FLAG_DONE : 0,
		                  .type = type,
		                  .cookie = r->cookie };
	m.payload = payload;
	m.request = r;
	m.final = final;
	return m;
}

static void
send_none(struct conn *c, const struct request *r)
{
	struct outgoing m = chunk_start(r, NBD_REPLY_TYPE_NONE, PAYLOAD_RAW, true);

	outgoing_send(c, &m);
}

static const char *
error_text(uint32_t error)
{
	switch (error) {
	case NBD_EPERM:
		return "the export is read-only";
	case NBD_ENOSPC:
		return "past the end of the export, or no memory left";
	case NBD_EOVERFLOW:
		return "longer than one reply may be";
	case NBD_ENOTSUP:
		return "no faster than a write";
	default:
		return "the request is not valid here";
	}
}

static void
send_error_chunk(struct conn *c, const struct request *r, uint32_t error)
{
	struct outgoing m = chunk_start(r, NBD_REPLY_TYPE_ERROR, PAYLOAD_ERROR, true);

	m.error.error = error;
	if (knob(c, KNOB_error_messages))
		m.error.message = bytes_of(error_text(error));
	outgoing_send(c, &m);
}

/* Errors are better told in a chunk (proto.md:398), which a READ demands anyway (proto.md:395). */
static void
send_status(struct conn *c, const struct request *r, uint32_t error)
{
	bool may_be_simple = !c->structured || r->type != NBD_CMD_READ;

	if (!c->structured || (may_be_simple && error == NBD_SUCCESS && !knob(c, KNOB_structured_successes)) ||
	    (may_be_simple && error != NBD_SUCCESS && knob(c, KNOB_simple_errors)))
		send_simple(c, r, error, (struct bytes){ NULL, 0 });
	else if (error != NBD_SUCCESS)
		send_error_chunk(c, r, error);
	else
		send_none(c, r);
}

/* The data is read to where it will be sent from. */
static void
answer_read(struct conn *c, const struct disk_op *op)
{
	const struct request *r = op->request;
	size_t header = c->structured ? CHUNK_HEADER_SIZE + sizeof(uint64_t) : SIMPLE_REPLY_SIZE;
	bool ends_with_none = knob(c, KNOB_read_ends_with_none);
	uint8_t *data = outgoing_room(c, header, op->length);
	struct outgoing m;

	if (op->skip)
		memset(data, 0, op->length);
	else
		disk_read(c->export->disk, op->offset, op->length, data);
	if (!c->structured) {
		send_simple(c, r, NBD_SUCCESS, (struct bytes){ data, op->length });
		return;
	}
	/* A chunk of data has at least one byte (proto.md:1806, 1979). */
	if (op->length == 0) {
		send_none(c, r);
		return;
	}
	m = chunk_start(r, NBD_REPLY_TYPE_OFFSET_DATA, PAYLOAD_OFFSET_DATA, !ends_with_none);
	m.offset_data = (struct chunk_offset_data){ r->offset, { data, op->length } };
	outgoing_send(c, &m);
	if (ends_with_none)
		send_none(c, r);
}

/* ---- commands ---- */

/* The contents are undefined from now on (proto.md:2108); ours become zeroes unless a knob is set. */
static bool
trim(const struct conn *c, const struct disk_op *op)
{
	static const uint8_t junk[4096] = { [0 ... 4095] = 0xdb };
	struct disk *d = c->export->disk;

	if (knob(c, KNOB_trim_does_nothing))
		return true;
	if (!knob(c, KNOB_trim_scrambles)) {
		disk_zero(d, op->offset, op->length, DISK_HOLE);
		return true;
	}
	/* The edges are enough to catch who relies on zeroes, and cost no memory on a long trim. */
	return disk_write(d, op->offset, op->length < sizeof(junk) ? op->length : sizeof(junk), junk);
}

/* A lie may have made the length longer than the data that came. */
static bool
write_data(struct disk *d, const struct disk_op *op)
{
	struct bytes sent = op->request->data;
	size_t n = op->data == sent.at && sent.len < op->length ? sent.len : op->length;

	return op->data == NULL || disk_write(d, op->offset, n, op->data);
}

/* Flushing does nothing: what is in memory is as durable as this disk gets. So is what FUA asks for. */
static bool
carry_out(const struct conn *c, const struct disk_op *op)
{
	struct disk *d = c->export->disk;

	switch (op->type) {
	case NBD_CMD_WRITE:
		return write_data(d, op);
	case NBD_CMD_TRIM:
		return trim(c, op);
	case NBD_CMD_WRITE_ZEROES:
		disk_zero(d, op->offset, op->length,
		          (op->flags & NBD_CMD_FLAG_NO_HOLE) != 0 ? DISK_PROVISIONED : DISK_HOLE);
		return true;
	default:
		return true;
	}
}

static void
answer(struct conn *c, struct disk_op *op)
{
	const struct request *r = op->request;

	if (!op->skip && !carry_out(c, op) && op->error == NBD_SUCCESS)
		op->error = NBD_ENOSPC;
	if (!op->skip && op->twice)
		carry_out(c, op);
	if (op->type == NBD_CMD_READ && op->error == NBD_SUCCESS)
		answer_read(c, op);
	else
		send_status(c, r, op->error);
	/* A freedom of simple replies only (proto.md:1966-1968). */
	if (op->type == NBD_CMD_READ && op->error != NBD_SUCCESS && !c->structured && knob(c, KNOB_error_closes_read))
		conn_end(c);
}

void
handle_request(struct conn *c, const struct request *r)
{
	struct disk_op op = { .request = r,
		              .type = r->type,
		              .flags = r->flags,
		              .offset = r->offset,
		              .length = r->length,
		              .data = r->data.len == r->length ? r->data.at : NULL };

	/* Where the next request begins is anybody's guess now (proto.md:447). */
	if (r->magic != NBD_REQUEST_MAGIC && !knob(c, KNOB_bad_request_magic_replies)) {
		conn_end(c);
		return;
	}
	/* All earlier requests are answered: there is nothing to wait for but the output (proto.md:2074). */
	if (r->type == NBD_CMD_DISC && r->magic == NBD_REQUEST_MAGIC) {
		conn_end(c);
		return;
	}
	op.error = check_request(c, r);
	op.skip = op.error != NBD_SUCCESS;
	if (lies(c, ON_DISK))
		lie_disk(c, &op);
	answer(c, &op);
}
