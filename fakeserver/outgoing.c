/* Messages on their way out: the lies' edits, the bytes, and what happens to them on the wire. */
#include "fakeserver/core.h"

#include "harness/nbd.h"

#include <stdlib.h>
#include <string.h>

void
marks_add(struct marks *l, struct mark m)
{
	if (l->n == l->cap) {
		l->cap = l->cap > 0 ? 2 * l->cap : 16;
		l->at = realloc(l->at, l->cap * sizeof(*l->at));
		if (l->at == NULL)
			abort();
	}
	l->at[l->n++] = m;
}

uint8_t *
outgoing_room(struct conn *c, size_t header, size_t n)
{
	buf_reserve(&c->output, header + n);
	return c->output.at + c->output.len + header;
}

/* Data that outgoing_room() has placed is where it belongs already. */
static void
put_data(struct buf *b, struct bytes data)
{
	bool within = b->at != NULL && data.at >= b->at && data.at < b->at + b->cap;
	size_t offset = within ? (size_t)(data.at - b->at) : 0;
	uint8_t *to;

	if (data.len == 0)
		return;
	if (within && offset == b->len && data.len <= b->cap - b->len) {
		b->len += data.len;
		return;
	}
	to = buf_grow(b, data.len);
	memmove(to, within ? b->at + offset : data.at, data.len);
}

static void
put_info(struct buf *b, const struct outgoing *m)
{
	struct rep_info info = m->info;

	if (m->payload != PAYLOAD_INFO)
		info.payload.len = 0;
	wire_put_rep_info(b, &info);
	if (m->payload == PAYLOAD_INFO_EXPORT)
		wire_put_info_export(b, &m->info_export);
	if (m->payload == PAYLOAD_INFO_BLOCK_SIZE)
		wire_put_info_block_size(b, &m->block_size);
}

static void
put_error(struct buf *b, const struct outgoing *m)
{
	struct chunk_error_offset e = m->error_offset;

	if (m->payload == PAYLOAD_ERROR) {
		e.error = m->error.error;
		e.message = m->error.message;
	}
	put_be32(b, e.error);
	put_be16(b, (uint16_t)((int64_t)e.message.len + m->inner_length_off));
	put_bytes(b, e.message);
	if (m->payload == PAYLOAD_ERROR_OFFSET)
		put_be64(b, e.offset);
}

static void
put_payload(struct buf *b, const struct outgoing *m, struct bytes raw)
{
	struct rep_server server = m->server;

	switch (m->payload) {
	case PAYLOAD_RAW:
		put_data(b, raw);
		break;
	case PAYLOAD_SERVER:
		server.name_length = (uint32_t)((int64_t)server.name.len + m->inner_length_off);
		wire_put_rep_server(b, &server);
		break;
	case PAYLOAD_INFO:
	case PAYLOAD_INFO_EXPORT:
	case PAYLOAD_INFO_BLOCK_SIZE:
		put_info(b, m);
		break;
	case PAYLOAD_CONTEXT:
		wire_put_rep_meta_context(b, &m->context);
		break;
	case PAYLOAD_MESSAGE:
		put_bytes(b, m->message);
		break;
	case PAYLOAD_OFFSET_DATA:
		put_be64(b, m->offset_data.offset);
		put_data(b, m->offset_data.data);
		break;
	case PAYLOAD_OFFSET_HOLE:
		wire_put_chunk_offset_hole(b, &m->offset_hole);
		break;
	case PAYLOAD_BLOCK_STATUS:
		put_be32(b, m->block_status.context_id);
		for (size_t i = 0; i < m->n_extents; i++)
			wire_put_extent(b, m->extents[i]);
		break;
	case PAYLOAD_BLOCK_STATUS_EXT:
		put_be32(b, m->block_status.context_id);
		put_be32(b, (uint32_t)((int64_t)m->n_extents + m->inner_length_off));
		for (size_t i = 0; i < m->n_extents; i++)
			wire_put_extent_ext(b, m->extents[i]);
		break;
	case PAYLOAD_ERROR:
	case PAYLOAD_ERROR_OFFSET:
		put_error(b, m);
		break;
	}
}

/* The header's length, which is its last field, is known last. */
static void
put_with_length(struct buf *b, const struct outgoing *m)
{
	size_t end, header;
	struct option_reply reply = m->reply;
	struct chunk chunk = m->chunk;
	bool is_reply = m->kind == MSG_OPTION_REPLY, wide = !is_reply && m->extended;
	uint64_t length;

	reply.data.len = 0;
	chunk.data.len = 0;
	if (is_reply)
		wire_put_option_reply(b, &reply);
	else if (wide)
		wire_put_extended_chunk(b, &chunk);
	else
		wire_put_chunk(b, &chunk);
	header = b->len;
	put_payload(b, m, is_reply ? m->reply.data : m->chunk.data);
	end = b->len;
	length = (uint64_t)((int64_t)(end - header) + m->length_off);
	b->len = header - (wide ? sizeof(uint64_t) : sizeof(uint32_t));
	if (wide)
		put_be64(b, length);
	else
		put_be32(b, (uint32_t)length);
	b->len = end;
}

static void
encode(struct buf *b, const struct outgoing *m)
{
	struct simple_reply header;

	switch (m->kind) {
	case MSG_OLDSTYLE_GREETING:
		wire_put_oldstyle_greeting(b, &m->oldstyle);
		break;
	case MSG_GREETING:
		wire_put_greeting(b, &m->greeting);
		break;
	case MSG_EXPORT_NAME_REPLY:
		wire_put_export_name_reply(b, &m->export_name);
		buf_zero(b, m->padding);
		break;
	case MSG_OPTION_REPLY:
	case MSG_CHUNK:
		put_with_length(b, m);
		break;
	case MSG_SIMPLE_REPLY:
		header = m->simple;
		header.data.len = 0;
		wire_put_simple_reply(b, &header);
		put_data(b, m->simple.data);
		break;
	default:
		break;
	}
	put_bytes(b, m->extra);
}

/* How wide the number fields at the front of a message are. */
static const char *
field_widths(const struct outgoing *m)
{
	static const char *const headers[MSG_KINDS] = {
		[MSG_OLDSTYLE_GREETING] = "8884", [MSG_GREETING] = "882",     [MSG_OPTION_REPLY] = "8444",
		[MSG_EXPORT_NAME_REPLY] = "82",   [MSG_SIMPLE_REPLY] = "448", [MSG_CHUNK] = "42284",
	};

	if (m->kind == MSG_CHUNK && m->extended)
		return "422888";
	return headers[m->kind] != NULL ? headers[m->kind] : "";
}

static const char *
payload_widths(const struct outgoing *m)
{
	static const char *const payloads[] = {
		[PAYLOAD_RAW] = "",
		[PAYLOAD_SERVER] = "4",
		[PAYLOAD_INFO] = "2",
		[PAYLOAD_INFO_EXPORT] = "282",
		[PAYLOAD_INFO_BLOCK_SIZE] = "2444",
		[PAYLOAD_CONTEXT] = "4",
		[PAYLOAD_MESSAGE] = "",
		[PAYLOAD_OFFSET_DATA] = "8",
		[PAYLOAD_OFFSET_HOLE] = "84",
		[PAYLOAD_BLOCK_STATUS] = "4",
		[PAYLOAD_BLOCK_STATUS_EXT] = "44",
		[PAYLOAD_ERROR] = "42",
		[PAYLOAD_ERROR_OFFSET] = "42",
	};

	return m->kind == MSG_OPTION_REPLY || m->kind == MSG_CHUNK ? payloads[m->payload] : "";
}

static size_t
swap_fields(uint8_t *at, size_t left, const char *widths)
{
	size_t done = 0;

	for (; *widths != '\0' && left - done >= (size_t)(*widths - '0'); widths++) {
		size_t n = (size_t)(*widths - '0');

		for (size_t i = 0; i < n / 2; i++) {
			uint8_t swapped = at[done + i];

			at[done + i] = at[done + n - 1 - i];
			at[done + n - 1 - i] = swapped;
		}
		done += n;
	}
	return done;
}

static uint64_t
cookie_of(const struct outgoing *m)
{
	return m->kind == MSG_SIMPLE_REPLY ? m->simple.cookie : m->kind == MSG_CHUNK ? m->chunk.cookie : 0;
}

/* Marks the end of a message for the trace, which shall show it once it is really gone. */
static void
mark_message(struct conn *c, struct marks *marks, const struct outgoing *m, size_t start, size_t end)
{
	if (c->server->traced && end > start)
		marks_add(marks,
		          (struct mark){ .at = end,
		                         .kind = MARK_MESSAGE,
		                         .message = m->kind == MSG_CHUNK && m->extended ? MSG_EXTENDED_CHUNK : m->kind,
		                         .start = start,
		                         .cookie = cookie_of(m) });
}

static void
put_message(struct conn *c, struct buf *b, struct marks *marks, const struct outgoing *m)
{
	size_t start = b->len, done;

	if (m->delay_ms > 0)
		marks_add(marks, (struct mark){ .at = start, .kind = MARK_DELAY, .ms = m->delay_ms });
	encode(b, m);
	if (m->swap) {
		done = swap_fields(b->at + start, b->len - start, field_widths(m));
		swap_fields(b->at + start + done, b->len - start - done, payload_widths(m));
	}
	if (b->len - start > m->cut)
		b->len = start + m->cut;
	if (m->split > 0 && m->split < b->len - start)
		marks_add(marks, (struct mark){ .at = start + m->split, .kind = MARK_SPLIT });
	mark_message(c, marks, m, start, b->len);
	for (unsigned i = 0; i < m->repeat; i++) {
		size_t n = b->len - start;
		uint8_t *again = buf_grow(b, n);

		memcpy(again, b->at + start, n);
		start += n;
		mark_message(c, marks, m, start, b->len);
	}
}

static void
mark_after(struct marks *marks, size_t at, enum outgoing_after after)
{
	static const enum mark_kind kinds[] = {
		[AFTER_CLOSE] = MARK_CLOSE, [AFTER_RESET] = MARK_RESET, [AFTER_SILENCE] = MARK_SILENCE
	};

	if (after != AFTER_GO_ON)
		marks_add(marks, (struct mark){ .at = at, .kind = kinds[after] });
}

/* ---- knobs that change the order ---- */

void
outgoing_collect(struct conn *c)
{
	c->private->collecting = true;
}

static void
note_unit(struct conn *c, size_t start, size_t mark)
{
	struct conn_private *p = c->private;

	if (!p->collecting)
		return;
	if (p->n_units == p->units_cap) {
		p->units_cap = p->units_cap > 0 ? 2 * p->units_cap : 64;
		p->units = reallocarray(p->units, p->units_cap, sizeof(*p->units));
		if (p->units == NULL)
			abort();
	}
	p->units[p->n_units++] = (struct unit){ start, c->output.len, mark, p->n_answers, 0 };
}

static int
by_key(const void *a, const void *b)
{
	const struct unit *u = a, *v = b;

	return u->key != v->key ? (u->key > v->key) - (u->key < v->key) : (u->start > v->start) - (u->start < v->start);
}

/* The chunks of one answer stay in their order; interleaved they may have others' between them (proto.md:300, 409). */
static void
choose_order(struct conn *c)
{
	struct conn_private *p = c->private;
	struct unit *u = p->units;

	for (size_t i = 0, j; i < p->n_units; i = j) {
		uint64_t key = random_bits(c->server);

		if (knob(c, KNOB_replies_out_of_order))
			key = UINT64_MAX - u[i].answer;
		else if (!knob(c, KNOB_replies_shuffled) && !knob(c, KNOB_chunks_interleaved))
			key = u[i].answer;
		for (j = i; j < p->n_units && u[j].answer == u[i].answer; j++) {
			u[j].key = key;
			/* The rest of the keys above is shared out among the chunks to come. */
			if (knob(c, KNOB_chunks_interleaved) && !knob(c, KNOB_replies_out_of_order))
				key += random_bits(c->server) % ((UINT64_MAX - key) / 2 + 1);
		}
	}
	qsort(u, p->n_units, sizeof(*u), by_key);
}

/* Moves the messages, and the trace's marks with them: each has one or none. */
static void
move_units(struct conn *c, size_t first, size_t first_mark)
{
	struct conn_private *p = c->private;
	size_t n_marks = p->marks.n;
	struct marks old = { 0 };
	struct buf bytes = { 0 };

	buf_put(&bytes, c->output.at + first, c->output.len - first);
	for (size_t i = first_mark; i < n_marks; i++)
		marks_add(&old, p->marks.at[i]);
	c->output.len = first;
	p->marks.n = first_mark;
	for (size_t i = 0; i < p->n_units; i++) {
		const struct unit *u = &p->units[i];
		size_t to = c->output.len;

		buf_put(&c->output, bytes.at + u->start - first, u->end - u->start);
		if (u->mark - first_mark < old.n && old.at[u->mark - first_mark].start == u->start) {
			struct mark m = old.at[u->mark - first_mark];

			m.start = to;
			m.at = c->output.len;
			marks_add(&p->marks, m);
		}
	}
	buf_free(&bytes);
	free(old.at);
}

void
outgoing_reorder(struct conn *c)
{
	struct conn_private *p = c->private;
	size_t first, first_mark;

	p->collecting = false;
	if (p->n_units > 1) {
		first = p->units[0].start;
		first_mark = p->units[0].mark;
		choose_order(c);
		move_units(c, first, first_mark);
	}
	p->n_units = 0;
}

/* ---- sending ---- */

void
outgoing_send(struct conn *c, struct outgoing *m)
{
	struct conn_private *p = c->private;
	struct marks *marks = &p->marks;
	struct buf *b = &c->output;
	size_t start = b->len, mark = marks->n;

	if (lies(c, ON_OUTGOING))
		lie_outgoing(c, m);
	if (p->silent)
		return;
	c->server->counters.messages_sent++;
	if (m->hold) {
		marks = &p->held_marks;
		b = &p->held;
	}
	if (!m->drop)
		put_message(c, b, marks, m);
	note_unit(c, start, mark);
	mark_after(marks, b->len, m->after);
	if (!m->hold && p->held.len + p->held_marks.n > 0)
		outgoing_release(c);
}

void
outgoing_release(struct conn *c)
{
	struct conn_private *p = c->private;
	size_t base = c->output.len;

	buf_put(&c->output, p->held.at, p->held.len);
	for (size_t i = 0; i < p->held_marks.n; i++) {
		struct mark m = p->held_marks.at[i];

		m.at += base;
		m.start += base;
		marks_add(&p->marks, m);
	}
	buf_clear(&p->held);
	p->held_marks.n = 0;
}
