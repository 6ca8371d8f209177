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
/* Bytes: longer data is not copied, and what waits is written. */
enum { HELD_DATA = 16 << 10, HELD_MOST = 128 << 10 };

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
	return n == 16 ? 0 : -1;
}

/* One write, so that a kill leaves whole records, but for a disk that is full. */
static void
write_out(struct trace *t, const struct buf *b, struct bytes data)
{
	struct iovec iov[2] = { { b->at, b->len }, { (void *)data.at, data.len } };
	ssize_t n = writev(t->fd, iov, data.len > 0 ? 2 : 1);

	if (n == (ssize_t)(b->len + data.len))
		return;
	t->failed = n < 0 ? errno : ENOSPC;
	if (n > 0 && t->held && ftruncate(t->fd, lseek(t->fd, 0, SEEK_END) - n) != 0)
		t->failed = errno;
	t->fd = -1;
}

void
trace_flush(struct trace *t)
{
	if (t->fd >= 0 && t->waiting.len > 0)
		write_out(t, &t->waiting, (struct bytes){ 0 });
	buf_clear(&t->waiting);
}

static void
put_record(struct buf *b, const struct trace_record *r, uint32_t kept)
{
	uint8_t *at;

	put_be32(b, RECORD_FIXED + kept);
	at = buf_grow(b, 4);
	at[0] = (uint8_t)r->kind;
	at[1] = (uint8_t)r->message;
	at[2] = (uint8_t)r->direction;
	at[3] = 0;
	put_be16(b, r->connection);
	put_be16(b, 0);
	put_be64(b, now_ns());
	put_be64(b, r->cookie);
	put_be32(b, r->length);
}

void
trace_add(struct trace *t, const struct trace_record *r)
{
	struct bytes data = r->data;
	struct buf b = { 0 };

	if (t == NULL || t->fd < 0)
		return;
	if (data.len > t->snap)
		data.len = t->snap;
	put_record(t->held ? &t->waiting : &b, r, (uint32_t)data.len);
	if (!t->held) {
		write_out(t, &b, data);
		buf_free(&b);
	} else if (data.len <= HELD_DATA) {
		put_bytes(&t->waiting, data);
		if (t->waiting.len >= HELD_MOST)
			trace_flush(t);
	} else {
		write_out(t, &t->waiting, data);
		buf_clear(&t->waiting);
	}
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
	r->connection = wire_be16(&rec);
	wire_be16(&rec);
	r->ns = wire_be64(&rec);
	r->cookie = wire_be64(&rec);
	r->length = wire_be32(&rec);
	r->data = wire_rest(&rec);
	wire_take(w, size);
	return true;
}
