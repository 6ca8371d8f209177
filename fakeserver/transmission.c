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
	[NBD_CMD_BLOCK_STATUS] = { true, false, true, false, 0, NBD_CMD_FLAG_REQ_ONE, NBD_EINVAL },
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
	if (rule == &rules[NBD_CMD_READ] && knob(c, KNOB_stray_flags_ignored))
		flags |= NBD_CMD_FLAG_NO_HOLE;
	if ((c->flags & NBD_FLAG_SEND_FUA) != 0)
		flags |= NBD_CMD_FLAG_FUA;
	/* A payload belongs to a WRITE, and to nothing else that has no use for it (ext:1947-1954). */
	if (c->extended && (rule == &rules[NBD_CMD_WRITE] ||
	                    (rule == &rules[NBD_CMD_BLOCK_STATUS] && (c->flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD) != 0)))
		flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
	return flags;
}

/* A READ that is too long may get EOVERFLOW only where DF is supported (proto.md:2337). */
static uint32_t
check_length(const struct conn *c, const struct request *r)
{
	bool fragments = in_chunks(c) && (c->flags & NBD_FLAG_SEND_DF) != 0;
	uint32_t most = max_payload(c->export);

	/* Split into chunks it is no payload that is too long (proto.md:1994). */
	if (r->type == NBD_CMD_READ && in_chunks(c) && (r->flags & NBD_CMD_FLAG_DF) == 0 &&
	    knob(c, KNOB_read_exceeds_max) && most < OUTPUT_MAX)
		most = OUTPUT_MAX;
	if (r->type == NBD_CMD_WRITE)
		return r->length > most ? NBD_EINVAL : NBD_SUCCESS;
	if (r->type != NBD_CMD_READ)
		return r->length > most && r->type != NBD_CMD_BLOCK_STATUS && knob(c, KNOB_long_effects_refused)
		               ? NBD_EINVAL
		               : NBD_SUCCESS;
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
	/* No extent has no bytes, and none is an answer to no bytes. */
	if (r->type == NBD_CMD_BLOCK_STATUS && r->length == 0 &&
	    (!knob(c, KNOB_empty_status_served) || r->offset == size || (r->flags & NBD_CMD_FLAG_REQ_ONE) != 0))
		return NBD_EINVAL;
	if (r->type == NBD_CMD_CACHE && knob(c, KNOB_cache_fails))
		return NBD_EINVAL;
	if ((r->flags & NBD_CMD_FLAG_FAST_ZERO) != 0 && knob(c, KNOB_fast_zero_unsupported))
		return NBD_ENOTSUP;
	if ((r->flags & NBD_CMD_FLAG_FAST_ZERO) != 0 && knob(c, KNOB_fast_zero_aligned) &&
	    (r->offset | r->length) % 4096 != 0)
		return NBD_ENOTSUP;
	return check_length(c, r);
}

/* Contexts hold for the export that they were selected for (proto.md:936-939, 2232-2235). */
static bool
has_contexts(const struct conn *c)
{
	return in_chunks(c) && c->n_contexts > 0 && c->context_export == c->export;
}

uint32_t
request_error(const struct conn *c, const struct request *r)
{
	const struct command_rule *rule = rule_of(r->type);

	if (is_shut_down(c, KNOB_shutdown_serves_requests))
		return NBD_ESHUTDOWN;
	if (r->magic != request_magic(c) || !rule->known)
		return NBD_EINVAL;
	if (rule->writes && (c->flags & NBD_FLAG_READ_ONLY) != 0)
		return NBD_EPERM;
	if (r->type == NBD_CMD_BLOCK_STATUS && !has_contexts(c))
		return NBD_EINVAL;
	if (rule->exposed_by != 0 && (c->flags & rule->exposed_by) == 0)
		return NBD_EINVAL;
	if ((r->flags & ~flags_allowed(c, rule)) != 0)
		return NBD_EINVAL;
	/* It must have the flag (ext:402), and clients of qemu have not; nothing says what follows from that. */
	if (c->extended && r->type == NBD_CMD_WRITE && (r->flags & NBD_CMD_FLAG_PAYLOAD_LEN) == 0 &&
	    knob(c, KNOB_bare_writes_refused))
		return NBD_EINVAL;
	if ((r->flags & NBD_CMD_FLAG_FAST_ZERO) != 0 && knob(c, KNOB_fast_zero_never))
		return NBD_ENOTSUP;
	if (rule->ranged)
		return check_range(c, r, rule);
	/* Both are reserved for FLUSH (proto.md:2094). */
	return knob(c, KNOB_flush_range_einval) && (r->offset | r->length) != 0 ? NBD_EINVAL : NBD_SUCCESS;
}

/* ---- commands ---- */

/* The contents are undefined from now on (proto.md:2108); ours become zeroes unless a knob is set. */
static uint32_t
trim(const struct conn *c, const struct disk_op *op)
{
	static const uint8_t junk[65536] = { [0 ... 65535] = 0xdb };
	bool keeps = knob(c, KNOB_trim_keeps_allocated);
	struct disk *d = c->export->disk;
	uint64_t first = op->offset, end = op->offset + op->length;
	enum disk_state failed;

	if (knob(c, KNOB_trim_does_nothing) || ((op->flags & NBD_CMD_FLAG_FUA) != 0 && knob(c, KNOB_fua_trim_ignored)))
		return NBD_SUCCESS;
	if (knob(c, KNOB_trim_rounds)) {
		first = (first + sizeof(junk) - 1) & ~(uint64_t)(sizeof(junk) - 1);
		end &= ~(uint64_t)(sizeof(junk) - 1);
	}
	if (!knob(c, KNOB_trim_scrambles)) {
		disk_zero(d, first, end > first ? end - first : 0, keeps ? DISK_PROVISIONED : DISK_TRIMMED);
		return NBD_SUCCESS;
	}
	/* The edges are enough to catch who relies on zeroes, and cost no memory on a long trim, nor need it. */
	disk_write(d, op->offset, op->length < sizeof(junk) ? op->length : sizeof(junk), junk, &failed);
	return NBD_SUCCESS;
}

/* The knob holes_run_out: what base:allocation calls a hole has no space to be written to (proto.md:1005). */
static bool
has_run_out(const struct conn *c, const struct disk_op *op)
{
	uint64_t run;

	return knob(c, KNOB_holes_run_out) && op->offset >= 40 << 20 && op->offset < 41 << 20 &&
	       disk_state(c->export->disk, op->offset, &run) == DISK_TRIMMED;
}

/* What the trace keeps need not be kept twice. */
static uint64_t
kept_at(const struct conn *c, const uint8_t *data, size_t n)
{
	const struct trace *t = c->server->config->trace;

	return t != NULL && c->export->cache == NULL ? trace_where(t, (struct bytes){ data, n }) : DISK_NOT_KEPT;
}

/* A lie may have made the length longer than the data that came. */
static uint32_t
write_data(const struct conn *c, const struct disk_op *op)
{
	struct disk *d = c->export->disk;
	struct bytes sent = op->request->data;
	size_t n = op->data == sent.at && sent.len < op->length ? sent.len : op->length;
	enum disk_state failed;

	if (has_run_out(c, op))
		return NBD_ENOSPC;
	if (op->data == NULL || disk_write_kept(d, op->offset, n, op->data, kept_at(c, op->data, n), &failed))
		return NBD_SUCCESS;
	/* What was not told to be a hole has its space (proto.md:1009-1012), so it is memory that lacks. */
	return failed == DISK_PROVISIONED ? NBD_ENOMEM : NBD_ENOSPC;
}

static void
write_zeroes(const struct conn *c, const struct disk_op *op)
{
	bool hole = (op->flags & NBD_CMD_FLAG_NO_HOLE) == 0 && !knob(c, KNOB_zeroes_never_trim);

	disk_zero(c->export->disk, op->offset, op->length, hole ? DISK_TRIMMED : DISK_PROVISIONED);
}

/* As a READ would, but only the beginning: there is nothing slower than memory here. */
static void
read_ahead(const struct conn *c, const struct disk_op *op)
{
	static uint8_t read[65536];

	if (knob(c, KNOB_cache_reads) || knob(c, KNOB_cache_late))
		disk_read(c->export->disk, op->offset, op->length < sizeof(read) ? op->length : sizeof(read), read);
}

/* The disk has its visible effect at once; what becomes of FLUSH and FUA is told to the cache. */
static uint32_t
carry_out(const struct conn *c, const struct disk_op *op)
{
	switch (op->type) {
	case NBD_CMD_WRITE:
		return write_data(c, op);
	case NBD_CMD_TRIM:
		return trim(c, op);
	case NBD_CMD_WRITE_ZEROES:
		write_zeroes(c, op);
		return NBD_SUCCESS;
	case NBD_CMD_CACHE:
		read_ahead(c, op);
		return NBD_SUCCESS;
	default:
		return NBD_SUCCESS;
	}
}

/* It begins on the disk and ends past it, and nothing else is wrong with it. */
static bool
is_partial_read(const struct conn *c, const struct disk_op *op)
{
	const struct request *r = op->request;
	uint64_t size = c->export->size;

	return op->type == NBD_CMD_READ && op->error == NBD_EINVAL && op->skip && in_chunks(c) &&
	       r->magic == request_magic(c) && (r->flags & ~flags_allowed(c, rule_of(r->type))) == 0 &&
	       r->offset < size && r->length > size - r->offset && r->length <= max_payload(c->export);
}

/* It may be answered before it is carried out (proto.md:2066, 2139, 2158). */
static bool
is_answered_early(const struct conn *c, const struct disk_op *op)
{
	if (op->skip || op->error != NBD_SUCCESS || (op->flags & NBD_CMD_FLAG_FUA) != 0)
		return false;
	return (op->type == NBD_CMD_WRITE && knob(c, KNOB_write_late)) ||
	       (op->type == NBD_CMD_WRITE_ZEROES && knob(c, KNOB_zeroes_late)) ||
	       (op->type == NBD_CMD_CACHE && knob(c, KNOB_cache_late));
}

/* The answer is on its way, unless it has to wait for others. Nobody else's request comes in between. */
static void
answer_early(struct conn *c, struct disk_op *op)
{
	send_status(c, op->request, NBD_SUCCESS);
	if (!c->private->collecting && !lies(c, ON_OUTGOING))
		conn_flush(c);
	carry_out(c, op);
}

/* What cache_answer wants; 0: nothing was told to a cache. */
static uint64_t
tell_cache(const struct conn *c, const struct disk_op *op)
{
	struct cache_command m = { .fua = (op->flags & NBD_CMD_FLAG_FUA) != 0,
		                   .no_hole = (op->flags & NBD_CMD_FLAG_NO_HOLE) != 0,
		                   .connection = c->number,
		                   .offset = op->offset,
		                   .length = op->length,
		                   .data = op->data };

	if (op->type == NBD_CMD_FLUSH)
		m = (struct cache_command){ .kind = CACHED_FLUSH, .connection = c->number };
	else if (op->type == NBD_CMD_WRITE && op->data != NULL)
		m.length = op->length < op->request->length ? op->length : op->request->length;
	else if (op->type == NBD_CMD_WRITE_ZEROES)
		m.kind = CACHED_ZEROES;
	else if (op->type == NBD_CMD_TRIM)
		m.kind = CACHED_TRIM;
	else
		return 0;
	c->server->counters.writes += op->type == NBD_CMD_WRITE;
	c->server->counters.zeroes += op->type == NBD_CMD_WRITE_ZEROES;
	c->server->counters.trims += op->type == NBD_CMD_TRIM;
	c->server->counters.flushes += op->type == NBD_CMD_FLUSH;
	c->server->counters.fua += m.fua;
	return c->export->cache != NULL ? cache_receive(c->export->cache, &m) : 0;
}

static void
fail_as_told(const struct conn *c, struct disk_op *op)
{
	struct failing *f = &c->server->failing[op->type];

	if (f->times == 0)
		return;
	f->times--;
	c->server->counters.failed++;
	op->skip = true;
	op->error = f->error;
	if (f->forget && op->type == NBD_CMD_FLUSH && c->export->cache != NULL)
		cache_forget(c->export->cache);
}

static void
answer(struct conn *c, struct disk_op *op)
{
	const struct request *r = op->request;
	uint32_t error;

	if (is_answered_early(c, op)) {
		answer_early(c, op);
		return;
	}
	error = op->skip ? NBD_SUCCESS : carry_out(c, op);
	if (op->error == NBD_SUCCESS)
		op->error = error;
	if (!op->skip && op->twice)
		carry_out(c, op);
	if (op->type == NBD_CMD_READ && op->error == NBD_SUCCESS)
		answer_read(c, op);
	else if (op->type == NBD_CMD_BLOCK_STATUS && op->error == NBD_SUCCESS)
		answer_block_status(c, op);
	else if ((knob(c, KNOB_read_errors_last) || knob(c, KNOB_read_errors_first) || knob(c, KNOB_read_errors_many) ||
	          knob(c, KNOB_read_errors_around) || knob(c, KNOB_read_errors_early)) &&
	         is_partial_read(c, op))
		answer_partial_read(c, op);
	else
		send_status(c, r, op->error);
	/* A freedom of simple replies only (proto.md:1966-1968). */
	if (op->type == NBD_CMD_READ && op->error != NBD_SUCCESS && !in_chunks(c) && knob(c, KNOB_error_closes_read))
		conn_end(c);
}

/* The payload of a BLOCK_STATUS says how long the range is (ext:2496-2511). What is wrong with the request. */
static uint32_t
take_payload(const struct conn *c, struct disk_op *op)
{
	struct request effective = *op->request;
	struct block_status_payload p;
	uint32_t error;

	if (!c->extended || op->type != NBD_CMD_BLOCK_STATUS || (op->flags & NBD_CMD_FLAG_PAYLOAD_LEN) == 0)
		return request_error(c, op->request);
	if (wire_get_block_status_payload(wire_over(effective.data), &p) != WIRE_EXACT)
		return NBD_EINVAL;
	effective.length = op->length = p.length;
	op->ids = p.ids;
	op->by_payload = true;
	error = request_error(c, &effective);
	return error != NBD_SUCCESS || knows_contexts(c, &p) ? error : NBD_EINVAL;
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
	struct cache *cache = c->export->cache;
	uint64_t number;

	if (c->server->config->cut_at != 0 && c->server->counters.requests == c->server->config->cut_at) {
		fake_cut_power(c->server, c->server->config->cut);
		return;
	}
	/* Where the next request begins is anybody's guess now (proto.md:447). */
	if (r->magic != request_magic(c) && !knob(c, KNOB_bad_request_magic_replies)) {
		conn_end(c);
		return;
	}
	/* All earlier requests are answered: there is nothing to wait for but the output (proto.md:2074). */
	if (r->type == NBD_CMD_DISC && r->magic == request_magic(c)) {
		conn_end(c);
		return;
	}
	if (r->type == NBD_CMD_FLUSH && (r->offset | r->length) != 0 &&
	    (knob(c, KNOB_flush_range_closes) || knob(c, KNOB_flush_range_strays))) {
		if (knob(c, KNOB_flush_range_strays))
			stragglers_left(c);
		conn_end(c);
		return;
	}
	if (c->server->stragglers != NULL)
		stragglers_turn(c->server);
	op.error = take_payload(c, &op);
	op.skip = op.error != NBD_SUCCESS;
	if (!op.skip && op.type < sizeof(c->server->failing) / sizeof(c->server->failing[0]))
		fail_as_told(c, &op);
	if (lies(c, ON_DISK))
		lie_disk(c, &op);
	number = op.skip ? 0 : tell_cache(c, &op);
	answer(c, &op);
	if (number != 0)
		cache_answer(cache, number, op.error == NBD_SUCCESS, op.volatile_only);
}
