/* Requests of the honest client: only what was advertised, within what was told. */
#include "fakeserver/client/lying.h"
#include "harness/clock.h"
#include "harness/driver.h"

#include <stdlib.h>
#include <string.h>

enum { OUT_ENOUGH = 1 << 20, DEFAULT_MINIMUM = 512 }; /* bytes; proto.md:793 */

static const struct command {
	uint16_t needs, flags; /* transmission flags, command flags */
	bool writes, ranged;
} commands[] = {
	[NBD_CMD_READ] = { 0, NBD_CMD_FLAG_DF, false, true },
	[NBD_CMD_WRITE] = { 0, NBD_CMD_FLAG_FUA, true, true },
	[NBD_CMD_FLUSH] = { NBD_FLAG_SEND_FLUSH, 0, false, false },
	[NBD_CMD_TRIM] = { NBD_FLAG_SEND_TRIM, NBD_CMD_FLAG_FUA, true, true },
	[NBD_CMD_CACHE] = { NBD_FLAG_SEND_CACHE, 0, false, true },
	[NBD_CMD_WRITE_ZEROES] = { NBD_FLAG_SEND_WRITE_ZEROES,
	                           NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, true, true },
	[NBD_CMD_BLOCK_STATUS] = { 0, NBD_CMD_FLAG_REQ_ONE, false, true },
};

/* ---- what may not be sent ---- */

static const char *
check_flags(const struct fc_session *s, const struct fc_op *op)
{
	const struct request *r = &op->request;
	uint16_t offered = fc_flags(&s->facts), needs = commands[r->type].needs;

	if ((r->flags & NBD_CMD_FLAG_FUA) != 0)
		needs |= NBD_FLAG_SEND_FUA;
	if ((r->flags & NBD_CMD_FLAG_DF) != 0)
		needs |= NBD_FLAG_SEND_DF;
	if ((r->flags & NBD_CMD_FLAG_FAST_ZERO) != 0)
		needs |= NBD_FLAG_SEND_FAST_ZERO;
	if ((r->flags & ~commands[r->type].flags) != 0 || (needs & ~offered) != 0)
		return "EINVAL";
	if (r->type == NBD_CMD_BLOCK_STATUS && (s->facts.n_contexts == 0 || !s->facts.structured))
		return "EINVAL";
	if (op->filtered && (offered & NBD_FLAG_BLOCK_STATUS_PAYLOAD) == 0)
		return "EINVAL";
	return commands[r->type].writes && (offered & NBD_FLAG_READ_ONLY) != 0 ? "EPERM" : NULL;
}

static const char *
check_range(const struct fc_session *s, const struct request *r)
{
	const struct fc_export *e = &s->facts.export;
	bool told = e->has_block && s->settings.block_size;
	uint32_t minimum = told ? e->block.minimum : DEFAULT_MINIMUM;
	uint32_t maximum = told ? e->block.maximum : NBD_DEFAULT_MAX_PAYLOAD;
	bool payload = r->type == NBD_CMD_WRITE || (r->type == NBD_CMD_READ && (!told || !s->facts.structured));

	if (!commands[r->type].ranged)
		return NULL;
	if (r->length == 0 || ((r->offset | r->length) & (minimum - 1)) != 0)
		return "EINVAL";
	if (r->offset > e->size || r->length > e->size - r->offset)
		return r->type == NBD_CMD_WRITE ? "ENOSPC" : "EINVAL";
	return payload && r->length > maximum ? "ERANGE" : NULL;
}

bool
fc_asks_for(const struct fc_op *op, const struct fc_context *c)
{
	struct bytes name = { c->name.at, c->name.len };
	struct wire w = wire(op->only.at, op->only.len);
	bool asked = !op->filtered;

	while (!asked && w.left > 0)
		asked = bytes_equal(wire_take(&w, wire_be32(&w)), name);
	return asked;
}

static size_t
count_asked(const struct fc_session *s, const struct fc_op *op)
{
	size_t n = 0;

	for (size_t i = 0; i < s->facts.n_contexts; i++)
		n += fc_asks_for(op, &s->facts.contexts[i]);
	return n;
}

static bool
asks_for_unknown(const struct fc_session *s, const struct fc_op *op)
{
	struct wire w = wire(op->only.at, op->only.len);
	size_t n = 0;

	for (; w.left > 0; n++)
		wire_take(&w, wire_be32(&w));
	return n != count_asked(s, op);
}

/* What no memory has room for is not even tried, nor what no header can tell. */
static const char *
check_limits(const struct fc_session *s, const struct fc_op *op)
{
	const struct request *r = &op->request;

	if (!s->facts.extended && (r->length > UINT32_MAX || op->filtered))
		return "EINVAL";
	if (op->filtered && asks_for_unknown(s, op))
		return "EINVAL";
	return (r->type == NBD_CMD_READ && r->length > FC_READ_MOST && !(op->unchecked && r->length > UINT32_MAX)) ||
	                       (r->type == NBD_CMD_WRITE && r->length > FC_WRITE_MOST)
	               ? "ERANGE"
	               : NULL;
}

static const char *
check(const struct fc_session *s, const struct fc_op *op)
{
	const struct request *r = &op->request;
	const char *error = check_limits(s, op);

	if (error == NULL && fc_first(s->handle)->settings.strict && !op->unchecked) {
		error = check_flags(s, op);
		if (error == NULL)
			error = check_range(s, r);
	}
	return error;
}

/* ---- sending ---- */

static void
queue(struct fc_session *s, struct fc_op *op)
{
	op->request.magic = s->facts.extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC;
	op->request.cookie = ++s->last_cookie;
	TAILQ_INSERT_TAIL(&s->ops, op, entry);
	fc_send_requests(s);
	fc_flush(s);
}

void
fc_command(struct fc_op *op)
{
	struct fc_session *s;
	const char *error;

	fc_lie_command(op->handle->session, op);
	/* A lie may have taken another one. */
	s = op->handle->session;
	error = op->pretend ? NULL : check(s, op);
	if (error != NULL)
		fc_fail(op, error);
	if (op->error[0] != '\0' || op->pretend) {
		fc_finish(op);
		return;
	}
	queue(s, op);
}

/* As if nothing of the reply had come. */
static void
begin_anew(struct fc_op *op)
{
	free(op->data);
	free(op->covered);
	op->data = op->covered = NULL;
	op->n_covered = op->n_extents = 0;
	op->sent = op->replied = op->has_content = false;
	memset(op->told, 0, sizeof(op->told));
	buf_clear(&op->said);
	op->error[0] = '\0';
}

/* Neither what the user has given up, nor what a server has answered wrongly: the next would do the same. */
bool
fc_send_again(struct fc_op *op)
{
	struct fc_session *s = op->handle->session;
	struct fc_handle *other = fc_pick(op->handle);

	if (op->ask != FC_COMMAND || op->pretend || op->early || strcmp(s->end, "ECANCELED") == 0 ||
	    strcmp(s->end, "EPROTO") == 0 || !fc_is_connected(other))
		return false;
	TAILQ_REMOVE(&s->ops, op, entry);
	begin_anew(op);
	op->handle = other;
	queue(other->session, op);
	fc_reap(other);
	return true;
}

static void
fill(struct fc_op *op)
{
	struct request *r = &op->request;

	if (r->type != NBD_CMD_WRITE)
		return;
	if (op->data == NULL) {
		op->data = malloc((size_t)r->length + 1);
		if (op->data == NULL)
			abort();
		driver_pattern(op->pattern, r->offset, r->length, op->data);
	}
	r->data = (struct bytes){ op->data, r->length };
}

/* Extended headers say whether a payload follows, and then how long it is. */
static void
put_payload(const struct fc_session *s, struct fc_op *op, struct request *r)
{
	struct block_status_payload p = { .length = r->length };
	struct buf ids = { 0 };

	if (s->facts.extended && r->type == NBD_CMD_WRITE)
		r->flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
	if (!op->filtered)
		return;
	for (size_t i = 0; i < s->facts.n_contexts; i++)
		if (fc_asks_for(op, &s->facts.contexts[i]))
			put_be32(&ids, s->facts.contexts[i].id);
	p.ids = (struct bytes){ ids.at, ids.len };
	buf_clear(&op->payload);
	wire_put_block_status_payload(&op->payload, &p);
	buf_free(&ids);
	r->flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
	r->length = op->payload.len;
	r->data = (struct bytes){ op->payload.at, op->payload.len };
}

static void
send_request(struct fc_session *s, struct fc_op *op)
{
	struct fc_sending m = { .kind = MSG_REQUEST, .op = op };

	fill(op);
	m.request = op->request;
	m.extended = s->facts.extended;
	put_payload(s, op, &m.request);
	fc_send(s, &m);
	op->sent = true;
	op->sent_at = now_ms();
	if (op->early)
		op->done(op);
	if (op->request.type == NBD_CMD_WRITE) {
		free(op->data);
		op->data = NULL;
		op->request.data = (struct bytes){ 0 };
	}
}

static bool
is_waiting(const struct fc_session *s)
{
	const struct fc_op *op;

	TAILQ_FOREACH(op, &s->ops, entry)
	if (op->ask == FC_COMMAND)
		return true;
	return false;
}

/* As long as there is room: a large WRITE makes others wait. Behind the last reply, what ends the session. */
void
fc_send_requests(struct fc_session *s)
{
	struct fc_op *op;

	if (s->stage != FC_TRANSMISSION && s->stage != FC_DISCONNECTING)
		return;
	TAILQ_FOREACH(op, &s->ops, entry)
	{
		if (s->out.len - s->out_at > OUT_ENOUGH)
			return;
		if (op->ask == FC_COMMAND && !op->sent)
			send_request(s, op);
	}
	if (s->stage != FC_DISCONNECTING)
		return;
	if (!is_waiting(s))
		fc_disconnect(s);
	else if (s->until == 0)
		fc_set_limit(s);
}

void
fc_disconnect(struct fc_session *s)
{
	struct fc_sending m = { .kind = MSG_REQUEST };

	m.extended = s->facts.extended;
	m.request.magic = m.extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC;
	m.request.type = NBD_CMD_DISC;
	m.request.cookie = ++s->last_cookie;
	s->stage = FC_LEAVING;
	fc_set_limit(s);
	fc_send(s, &m);
	fc_flush(s);
}

void
fc_drop_unsent(struct fc_session *s, const char *error)
{
	for (struct fc_op *next, *op = TAILQ_FIRST(&s->ops); op != NULL; op = next) {
		next = TAILQ_NEXT(op, entry);
		if (op->ask != FC_COMMAND || op->sent)
			continue;
		fc_fail(op, error);
		fc_finish(op);
	}
}

struct fc_op *
fc_op_in_flight(struct fc_session *s, uint64_t cookie)
{
	struct fc_op *op;

	TAILQ_FOREACH(op, &s->ops, entry)
	if (op->ask == FC_COMMAND && op->sent && op->request.cookie == cookie)
		return op;
	return NULL;
}
