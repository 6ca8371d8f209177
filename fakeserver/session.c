/* A session: takes whole messages off the input, and keeps in step with the client whatever becomes of them. */
#include "fakeserver/core.h"

#include "harness/nbd.h"

#include <stdlib.h>
#include <string.h>

void
session_moment(struct conn *c, enum state_moment moment)
{
	struct state_change change = { .moment = moment, .option = c->option, .request = c->request };

	if (lies(c, ON_STATE))
		lie_state(c, &change);
}

/* Handshake flags and the client flags that answer them have the same bits (proto.md:1052, 1073). */
static uint16_t
handshake_flags(const struct conn *c)
{
	return (knob(c, KNOB_no_fixed_newstyle) ? 0 : NBD_FLAG_FIXED_NEWSTYLE) |
	       (knob(c, KNOB_no_no_zeroes) ? 0 : NBD_FLAG_NO_ZEROES);
}

/* NBD_FLAG_SEND_DF must be clear where neither structured replies nor extended headers were (proto.md:1123, ext:1216). */
uint16_t
session_flags(const struct conn *c, const struct fake_export *e)
{
	uint16_t flags = in_chunks(c) ? e->flags : e->flags & (uint16_t)~NBD_FLAG_SEND_DF;

	/* Of no use to who has no contexts (ext:1252-1256). */
	if (c->extended && c->n_contexts > 0 && c->context_export == e && !knob(c, KNOB_extended_without_payload))
		flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;

	return c->private->go_differs ? flags & (uint16_t)~NBD_FLAG_SEND_CACHE : flags;
}

uint32_t
max_payload(const struct fake_export *e)
{
	return export_block(e).maximum;
}

void
conn_enter_transmission(struct conn *c, struct fake_export *e)
{
	c->phase = PHASE_TRANSMISSION;
	c->export = e;
	c->flags = session_flags(c, e);
	session_moment(c, STATE_ENTER_TRANSMISSION);
}

static void
start_oldstyle(struct conn *c)
{
	static const uint8_t zeroes[NBD_EXPORT_NAME_PADDING];
	struct fake_export *e = &c->server->config->exports[0];
	struct outgoing m = OUTGOING(MSG_OLDSTYLE_GREETING);

	m.oldstyle = (struct oldstyle_greeting){
		.magic = NBD_MAGIC,
		.cliserv_magic = NBD_CLISERV_MAGIC,
		.size = e->size,
		.flags = session_flags(c, e),
		.reserved = { zeroes, sizeof(zeroes) },
	};
	outgoing_send(c, &m);
	conn_enter_transmission(c, e);
}

void
session_start(struct conn *c)
{
	struct outgoing m = OUTGOING(MSG_GREETING);

	session_moment(c, STATE_CONNECTED);
	if (c->server->config->oldstyle) {
		start_oldstyle(c);
		return;
	}
	c->phase = PHASE_CLIENT_FLAGS;
	m.greeting = (struct greeting){ NBD_MAGIC, NBD_OPTION_MAGIC, handshake_flags(c) };
	outgoing_send(c, &m);
}

/* A flag that is unknown, or was not offered, ends the session (proto.md:137, 1087). */
static void
handle_client_flags(struct conn *c, uint32_t flags)
{
	if ((flags & ~(uint32_t)handshake_flags(c)) != 0) {
		conn_end(c);
		return;
	}
	c->fixed_newstyle = (flags & NBD_FLAG_C_FIXED_NEWSTYLE) != 0 ||
	                    (knob(c, KNOB_fixed_newstyle_unasked) && !knob(c, KNOB_no_fixed_newstyle));
	c->no_zeroes = (flags & NBD_FLAG_C_NO_ZEROES) != 0;
	c->phase = PHASE_HAGGLING;
}

/* ---- a message is here ---- */

static void
carry_out_request(struct conn *c, const struct request *r)
{
	c->request = r;
	c->private->n_answers++;
	session_moment(c, STATE_BEFORE_REQUEST);
	handle_request(c, r);
	session_moment(c, STATE_AFTER_REQUEST);
	c->request = NULL;
}

/*
 * The knob requests_out_of_order: what has come together is carried out in any order (proto.md:316), and so answered. A
 * FLUSH owes only what was answered before it, and in memory that is done.
 */
static void
run_queue(struct conn *c)
{
	struct conn_private *p = c->private;

	for (size_t left = p->n_queued; left > 0 && !p->gone && c->phase != PHASE_CLOSING; left--) {
		size_t i = random_below(c->server, (uint32_t)left);
		struct incoming m = p->queue[i];

		p->queue[i] = p->queue[left - 1];
		carry_out_request(c, &m.request);
	}
	p->n_queued = p->queued_bytes = 0;
}

static void
enqueue(struct conn *c, const struct incoming *m)
{
	struct conn_private *p = c->private;

	if (p->n_queued == p->queue_cap) {
		p->queue_cap = p->queue_cap > 0 ? 2 * p->queue_cap : 16;
		p->queue = reallocarray(p->queue, p->queue_cap, sizeof(*p->queue));
		if (p->queue == NULL)
			abort();
	}
	p->queue[p->n_queued++] = *m;
	p->queued_bytes += m->request.length < OUTPUT_BUSY ? m->request.length : OUTPUT_BUSY;
	if (p->n_queued >= QUEUE_MOST || p->queued_bytes >= OUTPUT_BUSY)
		run_queue(c);
}

static void
take_request_up(struct conn *c, const struct incoming *m)
{
	const struct request *r = &m->request;
	bool ends = r->magic != request_magic(c) || r->type == NBD_CMD_DISC;

	if (knob(c, KNOB_requests_out_of_order) && !ends) {
		enqueue(c, m);
		return;
	}
	run_queue(c);
	carry_out_request(c, r);
}

static void
carry_out(struct conn *c, struct incoming *m)
{
	switch (m->kind) {
	case MSG_CLIENT_FLAGS:
		handle_client_flags(c, m->client_flags);
		break;
	case MSG_OPTION:
		session_moment(c, STATE_BEFORE_OPTION);
		handle_option(c, &m->option);
		session_moment(c, STATE_AFTER_OPTION);
		break;
	default:
		take_request_up(c, m);
	}
}

static void
take_off(struct conn *c, uint64_t n)
{
	struct conn_private *p = c->private;
	size_t left = c->input.len - p->taken;

	p->taken += n < left ? (size_t)n : left;
	p->discard = n < left ? 0 : n - left;
	p->need = 0;
}

/* Lies may change anything in *m: what is taken off the stream, and what is done. */
static void
ask_lies(struct conn *c, struct incoming *m)
{
	struct process_event e = {
		.moment = PROCESS_INCOMING, .kind = m->kind, .option = c->option, .request = c->request
	};
	uint64_t whole = m->consumed;

	conn_process_event(c, &e);
	if (lies(c, ON_INCOMING))
		lie_incoming(c, m);
	/* A message that is never taken off would come again for ever. */
	if (m->consumed == 0 && whole > 0)
		m->consumed = 1;
}

static size_t
request_size(const struct conn *c)
{
	return c->extended ? EXTENDED_REQUEST_SIZE : REQUEST_SIZE;
}

static void
arrived(struct conn *c, struct incoming *m, struct bytes kept, uint64_t length)
{
	bool extended = m->kind == MSG_REQUEST && c->extended && m->request.magic != NBD_REQUEST_MAGIC;

	if (c->server->traced)
		conn_record(c, (struct trace_record){ .kind = TRACE_MESSAGE,
		                                      .message = extended ? MSG_EXTENDED_REQUEST : m->kind,
		                                      .direction = TO_SERVER,
		                                      .cookie = m->request.cookie,
		                                      .data = kept,
		                                      .lent = true,
		                                      .length = length < UINT32_MAX ? (uint32_t)length : UINT32_MAX });
	if (m->kind != MSG_CLIENT_FLAGS)
		++*(m->kind == MSG_OPTION ? &c->server->counters.options : &c->server->counters.requests);
	c->option = m->kind == MSG_OPTION ? m->option.option : 0;
	c->request = m->kind == MSG_REQUEST ? &m->request : NULL;
	if (lies(c, ON_PROCESS) || lies(c, ON_INCOMING))
		ask_lies(c, m);
	c->private->in_flight = c->private->taken < c->private->shutdown_at;
	take_off(c, m->consumed);
	if (m->close)
		conn_end(c);
	else if (!m->ignore && !c->private->gone)
		carry_out(c, m);
	c->option = 0;
	c->request = NULL;
	c->named = NULL;
}

/* ---- taking messages off the stream ---- */

static bool
wait_for(struct conn *c, uint64_t n)
{
	c->private->need = (size_t)n;
	return false;
}

/* A message that is too long to keep is acted on when the last of its bytes has come, and only its header is kept. */
static bool
put_off(struct conn *c, const struct incoming *m, const uint8_t *header, size_t header_size, uint64_t data)
{
	struct conn_private *p = c->private;

	p->pending = *m;
	p->pending.consumed = 0;
	p->has_pending = true;
	memcpy(p->pending_header, header, header_size);
	p->taken += header_size;
	p->discard = data;
	return true;
}

static bool
take_discarded(struct conn *c, size_t left)
{
	struct conn_private *p = c->private;
	size_t n = p->discard < left ? (size_t)p->discard : left;
	struct incoming m;

	p->taken += n;
	p->discard -= n;
	if (p->discard > 0)
		return wait_for(c, 1);
	if (p->has_pending) {
		bool is_option = p->pending.kind == MSG_OPTION;
		size_t header = is_option ? OPTION_HEADER_SIZE : request_size(c);

		m = p->pending;
		p->has_pending = false;
		arrived(c, &m, (struct bytes){ p->pending_header, header },
		        header + (is_option ? m.option.length : m.request.length));
	}
	return true;
}

static bool
take_client_flags(struct conn *c, struct wire in)
{
	struct incoming m = { .kind = MSG_CLIENT_FLAGS, .consumed = CLIENT_FLAGS_SIZE };

	if (in.left < CLIENT_FLAGS_SIZE)
		return wait_for(c, CLIENT_FLAGS_SIZE);
	m.client_flags = wire_be32(&in);
	arrived(c, &m, (struct bytes){ in.at - CLIENT_FLAGS_SIZE, CLIENT_FLAGS_SIZE }, CLIENT_FLAGS_SIZE);
	return true;
}

static bool
take_option(struct conn *c, struct wire in)
{
	struct incoming m = { .kind = MSG_OPTION, .consumed = OPTION_HEADER_SIZE };
	uint64_t whole;

	if (in.left < OPTION_HEADER_SIZE)
		return wait_for(c, OPTION_HEADER_SIZE);
	if (wire_get_option(in, &m.option) != WIRE_SHORT) {
		m.consumed += m.option.length;
	} else if (m.option.magic == NBD_OPTION_MAGIC || knob(c, KNOB_bad_option_magic_replies)) {
		whole = OPTION_HEADER_SIZE + (uint64_t)m.option.length;
		if (m.option.length <= OPTION_DATA_MAX)
			return wait_for(c, whole);
		return put_off(c, &m, in.at, OPTION_HEADER_SIZE, m.option.length);
	}
	/* Else it is no option that we go on after, and its length means nothing. */
	arrived(c, &m, (struct bytes){ in.at, m.consumed }, m.consumed);
	return true;
}

/* Not what was agreed; and who sends it does not send the rest of an extended one. */
static bool
take_compact_request(struct conn *c, struct wire in)
{
	struct incoming m = { .kind = MSG_REQUEST, .consumed = REQUEST_SIZE };

	wire_get_request(wire(in.at, REQUEST_SIZE), &m.request);
	arrived(c, &m, (struct bytes){ in.at, REQUEST_SIZE }, REQUEST_SIZE);
	return true;
}

static bool
take_extended_request(struct conn *c, struct wire in)
{
	struct incoming m = { .kind = MSG_REQUEST, .consumed = EXTENDED_REQUEST_SIZE };
	struct wire magic = in;
	uint64_t payload;

	if (in.left < REQUEST_SIZE)
		return wait_for(c, REQUEST_SIZE);
	if (wire_be32(&magic) == NBD_REQUEST_MAGIC)
		return take_compact_request(c, in);
	if (in.left < EXTENDED_REQUEST_SIZE)
		return wait_for(c, EXTENDED_REQUEST_SIZE);
	wire_get_extended_request(in, &m.request);
	payload = request_has_payload(&m.request) ? m.request.length : 0;
	/* Else it is consumed, whatever becomes of the request (ext:407-413). */
	if (payload > max_payload(c->export))
		m.close = true;
	else if (m.request.magic == NBD_EXTENDED_REQUEST_MAGIC && in.left - EXTENDED_REQUEST_SIZE < payload)
		return wait_for(c, EXTENDED_REQUEST_SIZE + payload);
	else
		m.consumed += m.request.data.len;
	arrived(c, &m, (struct bytes){ in.at, m.consumed }, m.consumed);
	return true;
}

static bool
take_request(struct conn *c, struct wire in)
{
	struct incoming m = { .kind = MSG_REQUEST, .consumed = REQUEST_SIZE };
	uint32_t most = max_payload(c->export);
	uint64_t whole;

	if (c->extended)
		return take_extended_request(c, in);
	if (in.left < REQUEST_SIZE)
		return wait_for(c, REQUEST_SIZE);
	if (most < NBD_DEFAULT_MAX_PAYLOAD)
		most = NBD_DEFAULT_MAX_PAYLOAD;
	if (wire_get_request(in, &m.request) != WIRE_SHORT) {
		m.consumed += m.request.data.len;
	} else if (m.request.length / 4 > most && !knob(c, KNOB_long_payload_awaited)) {
		/* A payload of this size may be called a denial of service (proto.md:845-849). */
		m.close = true;
	} else if (m.request.magic == NBD_REQUEST_MAGIC || knob(c, KNOB_bad_request_magic_replies)) {
		whole = REQUEST_SIZE + (uint64_t)m.request.length;
		if (m.request.length <= most)
			return wait_for(c, whole);
		return put_off(c, &m, in.at, REQUEST_SIZE, m.request.length);
	}
	arrived(c, &m, (struct bytes){ in.at, m.consumed }, m.consumed);
	return true;
}

static bool
take_one(struct conn *c)
{
	struct conn_private *p = c->private;
	size_t left = c->input.len - p->taken;
	struct wire in;

	if (p->discard > 0 || p->has_pending)
		return take_discarded(c, left);
	if (left == 0 || left < p->need)
		return false;
	in = wire(c->input.at + p->taken, left);
	switch (c->phase) {
	case PHASE_CLIENT_FLAGS:
		return take_client_flags(c, in);
	case PHASE_HAGGLING:
		return take_option(c, in);
	case PHASE_TRANSMISSION:
		return take_request(c, in);
	case PHASE_TLS:
	case PHASE_CLOSING:
		break;
	}
	return false;
}

/* ---- a batch of messages ---- */

/* Sending what there is before more is made keeps it in the processor's cache, and the buffer small. */
static void
relieve_output(struct conn *c, bool reverse)
{
	if (unsent(c) <= (reverse ? OUTPUT_MAX : OUTPUT_BUSY))
		return;
	if (!reverse)
		conn_flush(c);
	c->private->full = unsent(c) > 0;
}

/* Lies may have left marks in the output that would not survive it. */
static bool
may_reorder(const struct conn *c)
{
	return !lies(c, ON_OUTGOING) && (knob(c, KNOB_replies_out_of_order) || knob(c, KNOB_replies_shuffled) ||
	                                 knob(c, KNOB_chunks_interleaved) || knob(c, KNOB_requests_out_of_order));
}

bool
session_take(struct conn *c)
{
	struct conn_private *p = c->private;
	bool reorder = may_reorder(c), more = true;

	while (more && !p->full && !p->gone && !p->silent && c->phase != PHASE_CLOSING) {
		if (reorder && c->phase == PHASE_TRANSMISSION)
			outgoing_collect(c);
		more = take_one(c);
		relieve_output(c, reorder);
	}
	run_queue(c);
	outgoing_reorder(c);
	if (p->taken > 0 && c->server->config->trace != NULL)
		trace_give(c->server->config->trace, &c->input, p->taken);
	else if (p->taken > 0)
		buf_consume(&c->input, p->taken);
	p->shutdown_at -= p->taken < p->shutdown_at ? p->taken : p->shutdown_at;
	p->taken = 0;
	return more && p->full;
}
