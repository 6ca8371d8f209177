#include "harness/trace.h"

#include "harness/clock.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* docs/trace-format.md; all big-endian. */
#define TRACE_MAGIC   UINT64_C(0x4e42445452414345) /* "NBDTRACE" */
#define TRACE_VERSION 1u
enum { RECORD_FIXED = 4 + 1 + 1 + 1 + 1 + 2 + 2 + 8 + 8 + 4 };
#define HELD_NS UINT64_C(1000000000)
enum { LENT_LEAST = 32 << 10 }; /* bytes; shorter ones are sooner copied */

int
trace_start(struct trace *t, int fd, uint32_t snap)
{
	struct buf b = { 0 };
	ssize_t n;

	t->fd = fd;
	t->snap = snap;
	put_be64(&b, TRACE_MAGIC);
	put_be32(&b, TRACE_VERSION);
	put_be32(&b, snap);
	n = write(fd, b.at, b.len);
	buf_free(&b);
	return n == TRACE_HEADER ? 0 : -1;
}

/* One write, so that a kill leaves whole records, but for a disk that is full. */
static void
write_out(struct trace *t, struct bytes head, struct bytes data)
{
	struct iovec iov[2] = { { (void *)head.at, head.len }, { (void *)data.at, data.len } };
	ssize_t n = writev(t->fd, iov, data.len > 0 ? 2 : 1);

	if (n == (ssize_t)(head.len + data.len))
		return;
	t->failed = n < 0 ? errno : ENOSPC;
	t->fd = -1;
}

/* ---- records that a thread writes ---- */

void
trace_hold(struct trace *t, size_t ready)
{
	off_t end = lseek(t->fd, 0, SEEK_END);

	/* Without it each record is written at once. */
	t->behind = behind_new(t->fd, end > 0 ? (uint64_t)end : 0, ready);
	t->is_ready = ready > 0;
	if (t->behind != NULL)
		t->waiting = behind_block(t->behind);
}

static void
note_failure(struct trace *t, int failed)
{
	if (failed == 0)
		return;
	t->failed = failed;
	t->fd = -1;
}

static void
hand_over(struct trace *t, bool whole)
{
	if (t->n_waiting == 0)
		return;
	if (t->n_waiting <= BEHIND_SHORT) {
		note_failure(t, behind_put_short(t->behind, (struct bytes){ t->waiting, t->n_waiting }, whole));
		t->n_waiting = 0;
		return;
	}
	behind_put(t->behind, t->waiting, t->n_waiting, whole);
	t->n_waiting = 0;
	t->waiting = behind_block(t->behind);
	if (t->waiting == NULL)
		note_failure(t, behind_wait(t->behind));
}

size_t
trace_waiting(const struct trace *t)
{
	return t->fd < 0 || t->behind == NULL ? 0 : t->n_waiting + behind_unwritten(t->behind);
}

bool
trace_is_due(const struct trace *t)
{
	return !t->is_ready && t->waits_since != 0 && now_ns() - t->waits_since > HELD_NS;
}

/* Once the thread is at it, it goes on until nothing is left. */
void
trace_rest(struct trace *t)
{
	if (t->fd < 0 || t->behind == NULL)
		return;
	hand_over(t, true);
	t->waits_since = 0;
	if (t->fd >= 0 && behind_unwritten(t->behind) > 0)
		note_failure(t, behind_rest(t->behind));
}

void
trace_hurry(struct trace *t)
{
	if (t->behind != NULL)
		behind_hurry(t->behind);
}

void
trace_flush(struct trace *t)
{
	if (t->fd < 0 || t->behind == NULL)
		return;
	hand_over(t, true);
	t->waits_since = 0;
	note_failure(t, behind_wait(t->behind));
}

void
trace_close(struct trace *t)
{
	trace_flush(t);
	behind_free(t->behind);
	t->behind = NULL;
	t->waiting = NULL;
	t->fd = -1;
}

void
trace_give(struct trace *t, struct buf *input, size_t gone)
{
	if (t->behind != NULL && t->lent.at != NULL)
		behind_give(t->behind, input, gone);
	else
		buf_consume(input, gone);
	t->lent = (struct bytes){ NULL, 0 };
}

uint64_t
trace_where(const struct trace *t, struct bytes data)
{
	if (t->lent.at == NULL || t->lent_at == BEHIND_NOWHERE || data.at < t->lent.at ||
	    (size_t)(data.at - t->lent.at) > t->lent.len || data.len > t->lent.len - (size_t)(data.at - t->lent.at))
		return BEHIND_NOWHERE;
	return t->lent_at + (uint64_t)(data.at - t->lent.at);
}

bool
trace_read(void *trace, uint64_t where, size_t len, uint8_t *data)
{
	const struct trace *t = trace;

	return behind_read(t->behind, where, len, data);
}

/* What is longer than a block goes on in the next. */
static void
hold(struct trace *t, struct bytes data)
{
	for (size_t n; data.len > 0 && t->fd >= 0; data.at += n, data.len -= n) {
		if (t->n_waiting == BEHIND_BLOCK)
			hand_over(t, false);
		if (t->fd < 0)
			return;
		n = BEHIND_BLOCK - t->n_waiting < data.len ? BEHIND_BLOCK - t->n_waiting : data.len;
		memcpy(t->waiting + t->n_waiting, data.at, n);
		t->n_waiting += n;
	}
}

static void
hold_record(struct trace *t, struct bytes head, struct bytes data, bool lent, uint64_t now)
{
	lent &= data.len >= LENT_LEAST;
	if (t->n_waiting > 0 && t->n_waiting + head.len + (lent ? 0 : data.len) > BEHIND_BLOCK)
		hand_over(t, true);
	t->waits_since = t->waits_since == 0 ? now : t->waits_since;
	hold(t, head);
	if (!lent) {
		hold(t, data);
		return;
	}
	hand_over(t, false);
	if (t->fd < 0)
		return;
	t->lent = data;
	t->lent_at = behind_lend(t->behind, data);
}

static uint8_t *
put_number(uint8_t *at, unsigned size, uint64_t v)
{
	for (unsigned i = 0; i < size; i++)
		at[i] = (uint8_t)(v >> 8 * (size - 1 - i));
	return at + size;
}

static void
fill_head(uint8_t at[RECORD_FIXED], const struct trace_record *r, uint32_t kept, uint64_t now)
{
	at = put_number(at, 4, RECORD_FIXED + kept);
	*at++ = (uint8_t)r->kind;
	*at++ = (uint8_t)r->message;
	*at++ = (uint8_t)r->direction;
	*at++ = r->over_tls;
	at = put_number(at, 2, r->connection);
	at = put_number(at, 2, 0);
	at = put_number(at, 8, now);
	at = put_number(at, 8, r->cookie);
	put_number(at, 4, r->length);
}

void
trace_add(struct trace *t, const struct trace_record *r)
{
	uint8_t fixed[RECORD_FIXED];
	struct bytes data = r->data, head = { fixed, sizeof(fixed) };
	uint64_t now;

	if (t == NULL || t->fd < 0)
		return;
	now = r->ns != 0 ? r->ns : now_ns();
	if (data.len > t->snap)
		data.len = t->snap;
	fill_head(fixed, r, (uint32_t)data.len, now);
	if (t->behind != NULL)
		hold_record(t, head, data, r->lent, now);
	else
		write_out(t, head, data);
}

void
trace_text(struct trace *t, enum trace_kind kind, uint16_t connection, const char *text)
{
	struct bytes data = bytes_of(text);

	trace_add(t, &(struct trace_record){ .kind = kind,
	                                     .direction = NO_DIRECTION,
	                                     .connection = connection,
	                                     .length = (uint32_t)data.len,
	                                     .data = data });
}

void
trace_tls(struct trace *t, uint16_t connection, enum trace_direction direction, struct bytes data)
{
	trace_add(t, &(struct trace_record){ .kind = direction == NO_DIRECTION ? TRACE_SECRET : TRACE_TLS,
	                                     .direction = direction,
	                                     .connection = connection,
	                                     .length = (uint32_t)data.len,
	                                     .data = data });
}

off_t
trace_end(const struct trace *t)
{
	return t->fd < 0 ? 0 : lseek(t->fd, 0, SEEK_END);
}

bool
trace_check(struct wire *w)
{
	bool ok = wire_be64(w) == TRACE_MAGIC;

	ok &= wire_be32(w) == TRACE_VERSION;
	wire_be32(w);
	return ok && !w->ran_out;
}

bool
trace_next(struct wire *w, struct trace_record *r)
{
	struct wire rec = *w;
	uint32_t size = wire_be32(&rec);
	struct bytes fixed;

	if (size < RECORD_FIXED || rec.ran_out || rec.left < size - 4)
		return false;
	rec.left = size - 4;
	fixed = wire_take(&rec, 4);
	r->kind = fixed.at[0];
	r->message = fixed.at[1];
	r->direction = fixed.at[2];
	r->over_tls = fixed.at[3] != 0;
	r->connection = wire_be16(&rec);
	wire_be16(&rec);
	r->ns = wire_be64(&rec);
	r->cookie = wire_be64(&rec);
	r->length = wire_be32(&rec);
	r->data = wire_rest(&rec);
	wire_take(w, size);
	return true;
}
