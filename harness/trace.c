#include "harness/trace.h"

#include "harness/clock.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* docs/trace-format.md; all big-endian. */
#define TRACE_MAGIC   UINT64_C(0x4e42445452414345) /* "NBDTRACE" */
#define TRACE_VERSION 1u
enum { RECORD_FIXED = 4 + 1 + 1 + 1 + 1 + 2 + 2 + 8 + 8 + 4 };
#define HELD_NS UINT64_C(1000000000)
/* Small enough to stay in the processor's cache between the copying in and the writing out. */
enum { HELD_MOST = 512 << 10, HELD_LONG = 256 << 10 };

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

/* One write of what waits and of a record, so that a kill leaves whole records, but for a disk that is full. */
static void
write_out(struct trace *t, struct bytes head, struct bytes data)
{
	struct iovec iov[3] = { { t->waiting, t->n_waiting },
		                { (void *)head.at, head.len },
		                { (void *)data.at, data.len } };
	size_t all = t->n_waiting + head.len + data.len;
	ssize_t n = writev(t->fd, iov, 3);

	t->n_waiting = 0;
	if (n == (ssize_t)all)
		return;
	t->failed = n < 0 ? errno : ENOSPC;
	if (n > 0 && t->waiting != NULL && ftruncate(t->fd, lseek(t->fd, 0, SEEK_END) - n) != 0)
		t->failed = errno;
	t->fd = -1;
}

void
trace_hold(struct trace *t)
{
	void *at = mmap(NULL, HELD_MOST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	/* Without it each record is written at once. */
	if (at == MAP_FAILED)
		return;
	madvise(at, HELD_MOST, MADV_HUGEPAGE);
	t->waiting = at;
}

void
trace_flush(struct trace *t)
{
	if (t->fd >= 0 && t->n_waiting > 0)
		write_out(t, (struct bytes){ 0 }, (struct bytes){ 0 });
	t->n_waiting = 0;
}

void
trace_close(struct trace *t)
{
	trace_flush(t);
	if (t->waiting != NULL)
		munmap(t->waiting, HELD_MOST);
	t->waiting = NULL;
	t->fd = -1;
}

static void
hold(struct trace *t, struct bytes data)
{
	if (data.len > 0)
		memcpy(t->waiting + t->n_waiting, data.at, data.len);
	t->n_waiting += data.len;
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
	*at++ = 0;
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
	if (t->waiting == NULL || data.len >= HELD_LONG || t->n_waiting + head.len + data.len > HELD_MOST ||
	    (t->n_waiting > 0 && now - t->waits_since > HELD_NS)) {
		write_out(t, head, data);
		return;
	}
	t->waits_since = t->n_waiting == 0 ? now : t->waits_since;
	hold(t, head);
	hold(t, data);
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
