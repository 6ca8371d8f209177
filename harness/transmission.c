/* The steps of a case in the transmission phase, and the probes that end a case. */
#include "harness/test_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what the case needs ---- */

void
need_flag(struct test *t, uint16_t flag)
{
	char text[NAME_MAX_TEXT];

	if ((t->s->flags & flag) == 0)
		skip(t, name_flags(NAME_TRANSMISSION_FLAG, flag, text), "the export does not advertise NBD_FLAG_%s",
		     name_flags(NAME_TRANSMISSION_FLAG, flag, (char[NAME_MAX_TEXT]){ 0 }));
}

void
need_size(struct test *t, uint64_t bytes)
{
	if (t->s->size < bytes)
		skip(t, "size", "the export has %" PRIu64 " bytes; this takes %" PRIu64, t->s->size, bytes);
}

void
need_writable(struct test *t)
{
	if ((t->s->flags & NBD_FLAG_READ_ONLY) != 0)
		skip(t, "writable", "the export is read-only");
	if (!target_may_write(t->private->server->target))
		skip(t, "destructive", "writes to an export that nbdspec did not make; allow it with --destructive");
}

/* ---- requests and replies ---- */

uint64_t
new_cookie(struct test *t)
{
	return t->s->next_cookie++;
}

void
send_request(struct test *t, uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset, uint64_t length,
             const void *data)
{
	bool extended = t->s->extended;
	struct request r = { extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC,
		             flags,
		             type,
		             cookie,
		             offset,
		             length,
		             { NULL, 0 } };
	struct buf b = { 0 };

	if (extended && data != NULL)
		r.flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
	if (extended)
		wire_put_extended_request(&b, &r);
	else
		wire_put_request(&b, &r);
	session_send(t, extended ? MSG_EXTENDED_REQUEST : MSG_REQUEST, cookie, (struct bytes){ b.at, b.len },
	             (struct bytes){ data, data != NULL ? length : 0 });
	buf_free(&b);
}

struct simple_reply
recv_simple_header(struct test *t, enum requirement_id owed)
{
	struct session *s = t->s;
	struct simple_reply r;

	buf_clear(&s->in);
	recv_or_broken(t, SIMPLE_REPLY_SIZE, owed, "a reply to the request");
	wire_get_simple_reply(wire(s->in.at, s->in.len), &r);
	if (r.magic != NBD_SIMPLE_REPLY_MAGIC)
		trace_received(t, MSG_RAW, 0, (struct bytes){ s->in.at, s->in.len });
	if (r.magic == NBD_STRUCTURED_REPLY_MAGIC)
		broken_values(t, R(simple_reply_required), "a simple reply: structured replies were not negotiated",
		              "a structured reply chunk");
	EXPECT_EQ(t, R(simple_reply_magic), r.magic, NBD_SIMPLE_REPLY_MAGIC);
	return r;
}

struct bytes
recv_payload(struct test *t, uint32_t length, enum requirement_id owed)
{
	char what[80];

	snprintf(what, sizeof(what), "%" PRIu32 " bytes of data behind the reply", length);
	return (struct bytes){ recv_or_broken(t, length, owed, what), length };
}

struct bytes
recv_what_comes(struct test *t, uint32_t length, bool *silent)
{
	struct buf *in = &t->s->in;
	enum outcome_of_wait w;
	size_t got;

	buf_clear(in);
	w = session_recv(t, buf_grow(in, length), length, &got);
	in->len = got;
	trace_received(t, MSG_RAW, 0, (struct bytes){ in->at, got });
	trace_wait(t, w);
	*silent = w == WAIT_TIMED_OUT;
	return (struct bytes){ in->at, got };
}

/* proto.md:2312: the error is one of a list, whatever the server's own errno values are. */
void
check_error_value(struct test *t, uint32_t error)
{
	if (name_of(NAME_ERROR, error) == NULL) {
		char got[40];

		snprintf(got, sizeof(got), "error %" PRIu32, error);
		deviates(t, R(error_values_listed), "one of the error values that the protocol defines", got);
	}
}

struct simple_reply
recv_simple_reply(struct test *t, uint64_t cookie, uint32_t payload, enum requirement_id owed)
{
	struct session *s = t->s;
	struct simple_reply r = recv_simple_header(t, owed);

	if (r.error == 0 && payload > 0 && r.cookie == cookie)
		recv_payload(t, payload, owed);
	trace_received(t, MSG_SIMPLE_REPLY, r.cookie, (struct bytes){ s->in.at, s->in.len });
	EXPECT_EQ(t, R(cookie_echoed), r.cookie, cookie);
	check_error_value(t, r.error);
	wire_get_simple_reply(wire(s->in.at, s->in.len), &r);
	return r;
}

/* The answer in the style that was negotiated; a READ's data goes to `data`, which may be NULL. */
static uint32_t
answer(struct test *t, const struct sent *q, void *data, enum requirement_id owed)
{
	uint32_t payload = q->type == NBD_CMD_READ ? (uint32_t)q->length : 0;
	struct simple_reply r;

	if (t->s->structured) {
		struct reply reply = recv_reply(t, q, owed);

		if (reply.error == 0 && payload > 0 && data != NULL)
			memcpy(data, reply.data, payload);
		free(reply.data);
		free(reply.covered);
		return reply.error;
	}
	r = recv_simple_reply(t, q->cookie, payload, owed);
	if (r.error == 0 && payload > 0 && data != NULL)
		memcpy(data, r.data.at, payload);
	return r.error;
}

uint32_t
do_command(struct test *t, uint16_t flags, uint16_t type, uint64_t offset, uint64_t length, enum requirement_id owed)
{
	struct sent q = send_command(t, flags, type, offset, length, NULL);

	return answer(t, &q, NULL, owed);
}

uint32_t
do_read(struct test *t, uint64_t offset, uint32_t length, void *data, enum requirement_id owed)
{
	struct sent q = send_command(t, 0, NBD_CMD_READ, offset, length, NULL);

	return answer(t, &q, data, owed);
}

uint32_t
do_write(struct test *t, uint16_t flags, uint64_t offset, uint32_t length, const void *data, enum requirement_id owed)
{
	struct sent q = send_command(t, flags, NBD_CMD_WRITE, offset, length, data);

	return answer(t, &q, NULL, owed);
}

void
must_read(struct test *t, uint64_t offset, uint32_t length, void *data, enum requirement_id r)
{
	uint32_t error = do_read(t, offset, length, data, r);

	EXPECT_ERROR(t, r, error, NBD_SUCCESS);
}

void
must_write(struct test *t, uint64_t offset, uint32_t length, const void *data, enum requirement_id r)
{
	uint32_t error = do_write(t, 0, offset, length, data, r);

	EXPECT_ERROR(t, r, error, NBD_SUCCESS);
}

uint32_t
blocks(const struct test *t, uint32_t bytes)
{
	uint32_t unit = t->s->block.minimum > 0 ? t->s->block.minimum : 1;

	return (bytes + unit - 1) / unit * unit;
}

/* ---- data ---- */

/* Eight bytes at a time: whole words of a hash of their offset, in the host's byte order, which nobody compares. */
static uint64_t
pattern_word(uint64_t index, unsigned seed)
{
	uint64_t word = (index + 1) * UINT64_C(0x9e3779b97f4a7c15) + seed * UINT64_C(0xd1b54a32d192ed03);

	return word ^ word >> 29;
}

void
fill_pattern(void *data, size_t len, uint64_t offset, unsigned seed)
{
	uint8_t *at = data;

	for (; len >= 8 && offset % 8 == 0; at += 8, offset += 8, len -= 8) {
		uint64_t word = pattern_word(offset / 8, seed);

		memcpy(at, &word, 8);
	}
	while (len > 0) {
		uint64_t word = pattern_word(offset / 8, seed);
		size_t skip_bytes = offset % 8, n = 8 - skip_bytes < len ? 8 - skip_bytes : len;

		memcpy(at, (const uint8_t *)&word + skip_bytes, n);
		at += n;
		offset += n;
		len -= n;
	}
}

void
expect_data(struct test *t, enum requirement_id r, const void *got, const void *want, size_t len, uint64_t offset)
{
	const uint8_t *g = got, *w = want;
	char expected[100], seen[40];
	size_t i = 0;

	if (len == 0 || memcmp(g, w, len) == 0)
		return;
	while (g[i] == w[i])
		i++;
	snprintf(expected, sizeof(expected), "byte 0x%02x at offset %" PRIu64 " of the export", w[i], offset + i);
	snprintf(seen, sizeof(seen), "0x%02x", g[i]);
	deviates(t, r, expected, seen);
}

/* ---- in step ---- */

enum { PROBE_OPTION = 0x6e627370 }; /* "nbsp": no server knows it */

static void
haggling_in_step(struct test *t, enum requirement_id r)
{
	struct option_reply reply;

	send_option(t, PROBE_OPTION, NULL, 0);
	reply = recv_option_reply(t, r);
	EXPECT_REPLY(t, r, reply.type, NBD_REP_ERR_UNSUP, NBD_REP_ERR_POLICY, NBD_REP_ERR_PLATFORM, NBD_REP_ERR_INVALID,
	             NBD_REP_ERR_TLS_REQD, NBD_REP_ERR_SHUTDOWN);
}

static void
transmission_in_step(struct test *t, enum requirement_id r)
{
	uint32_t length = blocks(t, 512);
	struct simple_reply reply;
	uint64_t cookie;

	if (t->s->size < length)
		length = 0;
	if (t->s->structured) {
		/* What stands in the way of extended headers may be anything. */
		t->private->blame = t->s->extended ? r : t->private->blame;
		do_command(t, 0, NBD_CMD_READ, 0, length, r);
		t->private->blame = t->s->extended ? REQUIREMENT_NONE : t->private->blame;
		return;
	}
	cookie = new_cookie(t);
	send_request(t, 0, NBD_CMD_READ, cookie, 0, length, NULL);
	reply = recv_simple_header(t, r);
	EXPECT(t, r, reply.cookie == cookie,
	       "the next READ's reply has cookie 0x%" PRIx64 ", not 0x%" PRIx64 ": the stream is out of step",
	       reply.cookie, cookie);
	/* An error is an answer too: without negotiated sizes a server may refuse so short a READ. */
	if (reply.error == 0)
		recv_payload(t, length, r);
	trace_received(t, MSG_SIMPLE_REPLY, cookie, (struct bytes){ t->s->in.at, t->s->in.len });
}

void
expect_in_step(struct test *t, enum requirement_id r)
{
	if (t->s->transmission)
		transmission_in_step(t, r);
	else
		haggling_in_step(t, r);
}

void
expect_next_client_served(struct test *t, enum requirement_id r)
{
	if (t->s != NULL)
		disconnect(t);
	need_connections(t);
	t->private->blame = r;
	enter_transmission(t);
	transmission_in_step(t, r);
	send_request(t, 0, NBD_CMD_DISC, new_cookie(t), 0, 0, NULL);
	t->private->blame = REQUIREMENT_NONE;
}
