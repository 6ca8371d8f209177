#include "harness/behind.h"

#include "harness/clock.h"
#include "harness/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	PIECES = 64,
	PIECE_LEAST = 128 << 10, /* bytes of ready memory to each piece */
	BLOCKS = 16,
	BLOCKS_SHARE = 8, /* of ready memory: what is not lent is in blocks */
	SPARE_MOST = 8,
	SPARE_BYTES = 4 << 20,
	SPARE_READY = (1 << 20) + (64 << 10), /* bytes: a request with a payload of 1 MiB */
	UNWRITTEN_MOST = 8 << 20,             /* bytes; more is taken only when it is less */
	WAKE_AT = 256 << 10,                  /* bytes; to wake the thread for less costs more than it saves */
	AT_ONCE = 16,                         /* pieces in one write */
	STILL_MS = 2000,                      /* that a reader may stand still once we stop */
	LOOK_MS = 20,                         /* between two looks at whether we do */
};

struct piece {
	const uint8_t *at;
	size_t len;
	bool whole;       /* the file may end behind it */
	uint64_t offset;  /* in the file */
	uint8_t *block;   /* what it is in, or … */
	struct buf given; /* … a buffer that was given with it, or … */
	uint8_t copied[BEHIND_SHORT];
};

/* After a write that failed the pieces stay, as they may be read still; nothing is written any more. */
struct behind {
	int fd, failed;
	int read_fd; /* -1: nothing can be read back */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t more, less; /* pieces */
	bool sleeps, waits, stops; /* the thread sleeps; somebody waits for it; it shall end */
	bool writes;               /* one of us is writing, without the lock */
	_Atomic bool hurries;      /* behind_hurry */
	uint64_t end, written;     /* of what was put, and of what is in the file */
	uint64_t whole;            /* up to here the file is whole */
	uint64_t first, last;      /* pieces first … last-1 are unwritten; piece i is at [i % n_pieces] */
	uint64_t lent;             /* the piece behind the last that was lent */
	struct piece *piece;
	uint8_t *blocks, **free_block;
	struct buf *spare;
	unsigned n_pieces, n_blocks, n_free, spare_most, n_spare;
	uint64_t most, wake_at; /* unwritten bytes: what is more waits; the thread is woken */
	bool holds;             /* there is ready memory */
};

/* ---- the thread ---- */

static void
keep_buffer(struct behind *b, struct buf *given)
{
	if (given->at != NULL && given->cap <= SPARE_BYTES && b->n_spare < b->spare_most)
		b->spare[b->n_spare++] = *given;
	else
		buf_free(given);
	*given = (struct buf){ 0 };
}

/* So many bytes more are in the file. Returns how many of them are a part of the next piece. */
static size_t
release(struct behind *b, size_t n)
{
	while (b->first < b->last && n >= b->piece[b->first % b->n_pieces].len) {
		struct piece *p = &b->piece[b->first++ % b->n_pieces];

		if (p->block != NULL)
			b->free_block[b->n_free++] = p->block;
		keep_buffer(b, &p->given);
		n -= p->len;
		b->written += p->len;
		if (p->whole)
			b->whole = b->written;
	}
	return n;
}

/* Who has blocked the signals that stop it cannot read them while we wait for somebody else. */
static bool
is_stopping(const struct behind *b)
{
	sigset_t pending, stop = stop_signals(), both;

	sigpending(&pending);
	sigandset(&both, &pending, &stop);
	return b->hurries || !sigisemptyset(&both);
}

/* Waits for a pipe's reader; 0, or why no longer. */
static int
wait_for_room(const struct behind *b)
{
	struct pollfd p = { .fd = b->fd, .events = POLLOUT };
	int64_t since = 0;

	while (poll(&p, 1, LOOK_MS) <= 0) {
		if (!is_stopping(b))
			since = 0;
		else if (since == 0)
			since = now_ms();
		else if (now_ms() - since > STILL_MS)
			return ETIMEDOUT;
	}
	return 0;
}

/* A pipe takes a part, and only the next write tells why a disk took no more. */
static int
write_fully(const struct behind *b, struct iovec *iov, int n, size_t *done)
{
	ssize_t wrote;
	int failed;

	while (n > 0) {
		wrote = writev(b->fd, iov, n);
		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote < 0 && errno == EAGAIN) {
			failed = wait_for_room(b);
			if (failed != 0)
				return failed;
			continue;
		}
		if (wrote <= 0)
			return wrote < 0 ? errno : ENOSPC;
		for (*done += (size_t)wrote; n > 0 && wrote >= (ssize_t)iov->iov_len; iov++, n--)
			wrote -= (ssize_t)iov->iov_len;
		if (n > 0) {
			iov->iov_base = (uint8_t *)iov->iov_base + wrote;
			iov->iov_len -= (size_t)wrote;
		}
	}
	return 0;
}

/* Under the lock, but for the writing. What a disk has taken of a record that is not whole is taken back. */
static void
write_some(struct behind *b)
{
	struct iovec iov[AT_ONCE];
	uint64_t up_to = b->first;
	size_t done = 0;
	int failed;

	for (; up_to < b->last && up_to - b->first < AT_ONCE; up_to++) {
		struct piece *p = &b->piece[up_to % b->n_pieces];

		iov[up_to - b->first] = (struct iovec){ (void *)p->at, p->len };
	}
	b->writes = true;
	pthread_mutex_unlock(&b->lock);
	failed = write_fully(b, iov, (int)(up_to - b->first), &done);
	pthread_mutex_lock(&b->lock);
	done = release(b, done);
	if (failed != 0 && b->whole < b->written + done)
		(void)!ftruncate(b->fd, (off_t)b->whole);
	b->writes = false;
	b->failed = failed;
	if (b->waits)
		pthread_cond_broadcast(&b->less);
}

static void *
write_all(void *arg)
{
	struct behind *b = arg;

	pthread_mutex_lock(&b->lock);
	while (!b->stops) {
		b->sleeps = true;
		pthread_cond_wait(&b->more, &b->lock);
		b->sleeps = false;
		while (b->failed == 0 && b->first < b->last && !b->writes)
			write_some(b);
	}
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

/* What was opened for appending is opened once more; a pipe cannot be read back, and must not hold us up. */
static int
open_to_read(int fd)
{
	char path[32];
	struct stat st;

	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
		return -1;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static bool
start_thread(struct behind *b)
{
	sigset_t all, old;
	int failed;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	failed = pthread_create(&b->thread, NULL, write_all, b);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return failed == 0;
}

static void
free_memory(struct behind *b)
{
	for (uint64_t i = b->first; i < b->last; i++)
		buf_free(&b->piece[i % b->n_pieces].given);
	for (unsigned i = 0; i < b->n_spare; i++)
		buf_free(&b->spare[i]);
	if (b->blocks != MAP_FAILED)
		munmap(b->blocks, (size_t)b->n_blocks * BEHIND_BLOCK);
	free(b->free_block);
	free(b->spare);
	free(b->piece);
	if (b->read_fd >= 0)
		close(b->read_fd);
	free(b);
}

/* Memory that nobody has used yet would have to be found when there is no time for it. */
static void
make_ready(struct behind *b, size_t ready)
{
	size_t in_blocks = ready / BLOCKS_SHARE;

	memset(b->blocks, 0, in_blocks);
	for (size_t n = (ready - in_blocks) / SPARE_READY; n > 0; n--) {
		struct buf *spare = &b->spare[b->n_spare];

		spare->at = malloc(SPARE_READY);
		if (spare->at == NULL)
			break;
		spare->cap = SPARE_READY;
		memset(spare->at, 0, SPARE_READY);
		b->n_spare++;
	}
	b->most = ready - in_blocks;
	b->wake_at = b->most / 4 * 3;
	b->holds = true;
}

struct behind *
behind_new(int fd, uint64_t end, size_t ready)
{
	struct behind *b = calloc(1, sizeof(*b));

	if (b == NULL)
		return NULL;
	*b = (struct behind){ .fd = fd,
		              .read_fd = open_to_read(fd),
		              .end = end,
		              .written = end,
		              .whole = end,
		              .n_pieces = (unsigned)(PIECES + ready / PIECE_LEAST),
		              .n_blocks = (unsigned)(BLOCKS + ready / BLOCKS_SHARE / BEHIND_BLOCK),
		              .spare_most = (unsigned)(SPARE_MOST + ready / SPARE_READY),
		              .most = UNWRITTEN_MOST,
		              .wake_at = WAKE_AT };
	b->blocks = mmap(NULL, (size_t)b->n_blocks * BEHIND_BLOCK, PROT_READ | PROT_WRITE,
	                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	b->piece = calloc(b->n_pieces, sizeof(*b->piece));
	b->free_block = calloc(b->n_blocks, sizeof(*b->free_block));
	b->spare = calloc(b->spare_most, sizeof(*b->spare));
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->more, NULL);
	pthread_cond_init(&b->less, NULL);
	if (b->blocks == MAP_FAILED || b->piece == NULL || b->free_block == NULL || b->spare == NULL ||
	    !start_thread(b)) {
		free_memory(b);
		return NULL;
	}
	madvise(b->blocks, (size_t)b->n_blocks * BEHIND_BLOCK, MADV_HUGEPAGE);
	if (ready > 0)
		make_ready(b, ready);
	/* The last that is free is taken first: it is in the processor's cache. */
	while (b->n_free < b->n_blocks) {
		b->free_block[b->n_free] = b->blocks + (size_t)(b->n_blocks - 1 - b->n_free) * BEHIND_BLOCK;
		b->n_free++;
	}
	return b;
}

void
behind_free(struct behind *b)
{
	if (b == NULL)
		return;
	behind_wait(b);
	pthread_mutex_lock(&b->lock);
	b->stops = true;
	pthread_cond_signal(&b->more);
	pthread_mutex_unlock(&b->lock);
	pthread_join(b->thread, NULL);
	pthread_cond_destroy(&b->more);
	pthread_cond_destroy(&b->less);
	pthread_mutex_destroy(&b->lock);
	free_memory(b);
}

/* ---- what its owner does ---- */

/* Under the lock. Who has to wait for the thread does its work, unless it is at it. */
static void
make_less(struct behind *b)
{
	if (!b->writes) {
		write_some(b);
		return;
	}
	b->waits = true;
	pthread_cond_wait(&b->less, &b->lock);
	b->waits = false;
}

uint8_t *
behind_block(struct behind *b)
{
	uint8_t *block = NULL;

	pthread_mutex_lock(&b->lock);
	while (b->n_free == 0 && b->failed == 0)
		make_less(b);
	if (b->failed == 0)
		block = b->free_block[--b->n_free];
	if (b->sleeps && b->n_free < b->n_blocks / 4)
		pthread_cond_signal(&b->more);
	pthread_mutex_unlock(&b->lock);
	return block;
}

/* Under the lock. NULL: nothing can be written any more. */
static struct piece *
put(struct behind *b, const uint8_t *at, size_t len, bool whole)
{
	struct piece *p;

	while (b->failed == 0 && b->last > b->first &&
	       (b->last - b->first == b->n_pieces || b->end - b->written + len > b->most))
		make_less(b);
	if (b->failed != 0)
		return NULL;
	p = &b->piece[b->last++ % b->n_pieces];
	p->at = at;
	p->len = len;
	p->whole = whole;
	p->offset = b->end;
	p->block = NULL;
	b->end += len;
	if (b->sleeps && (b->end - b->written >= b->wake_at || b->last - b->first >= b->n_pieces / 4 * 3))
		pthread_cond_signal(&b->more);
	return p;
}

void
behind_put(struct behind *b, uint8_t *block, size_t len, bool whole)
{
	struct piece *p;

	pthread_mutex_lock(&b->lock);
	p = put(b, block, len, whole);
	if (p != NULL)
		p->block = block;
	else
		b->free_block[b->n_free++] = block;
	pthread_mutex_unlock(&b->lock);
}

int
behind_put_short(struct behind *b, struct bytes data, bool whole)
{
	struct piece *p;
	int failed;

	pthread_mutex_lock(&b->lock);
	p = put(b, NULL, data.len, whole);
	if (p != NULL)
		p->at = memcpy(p->copied, data.at, data.len);
	failed = b->failed;
	pthread_mutex_unlock(&b->lock);
	return failed;
}

uint64_t
behind_lend(struct behind *b, struct bytes data)
{
	uint64_t where = BEHIND_NOWHERE;

	pthread_mutex_lock(&b->lock);
	if (b->read_fd >= 0)
		where = b->end;
	if (put(b, data.at, data.len, true) != NULL)
		b->lent = b->last;
	else
		where = BEHIND_NOWHERE;
	pthread_mutex_unlock(&b->lock);
	return where;
}

size_t
behind_unwritten(struct behind *b)
{
	size_t n;

	pthread_mutex_lock(&b->lock);
	n = b->writes || b->failed != 0 ? 0 : (size_t)(b->end - b->written);
	pthread_mutex_unlock(&b->lock);
	return n;
}

void
behind_give(struct behind *b, struct buf *input, size_t gone)
{
	struct buf fresh = { 0 };

	pthread_mutex_lock(&b->lock);
	if (b->lent > b->first) {
		if (b->n_spare > 0)
			fresh = b->spare[--b->n_spare];
		b->piece[(b->lent - 1) % b->n_pieces].given = *input;
		buf_clear(&fresh);
		buf_put(&fresh, input->at + gone, input->len - gone);
		*input = fresh;
	} else {
		buf_consume(input, gone);
	}
	b->lent = 0;
	pthread_mutex_unlock(&b->lock);
}

void
behind_hurry(struct behind *b)
{
	b->hurries = true;
}

int
behind_wait(struct behind *b)
{
	int failed;

	pthread_mutex_lock(&b->lock);
	while (b->failed == 0 && b->first < b->last)
		make_less(b);
	failed = b->failed;
	pthread_mutex_unlock(&b->lock);
	return failed;
}

int
behind_rest(struct behind *b)
{
	int failed;

	if (!b->holds)
		return behind_wait(b);
	pthread_mutex_lock(&b->lock);
	if (b->sleeps && b->first < b->last)
		pthread_cond_signal(&b->more);
	failed = b->failed;
	pthread_mutex_unlock(&b->lock);
	return failed;
}

/* Under the lock. The unwritten piece that this byte is in. */
static uint64_t
piece_of(const struct behind *b, uint64_t offset)
{
	uint64_t low = b->first, high = b->last - 1;

	while (low < high) {
		uint64_t middle = low + (high - low + 1) / 2;

		if (b->piece[middle % b->n_pieces].offset <= offset)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

/* Under the lock, of what is unwritten. A part of the first piece may be in the file after a write that failed. */
static void
read_pieces(const struct behind *b, uint64_t offset, size_t len, uint8_t *data)
{
	for (uint64_t i = b->first < b->last ? piece_of(b, offset) : b->last; i < b->last && len > 0; i++) {
		const struct piece *p = &b->piece[i % b->n_pieces];
		size_t n = p->len - (size_t)(offset - p->offset);

		n = n < len ? n : len;
		memcpy(data, p->at + (offset - p->offset), n);
		data += n;
		offset += n;
		len -= n;
	}
}

bool
behind_read(struct behind *b, uint64_t offset, size_t len, uint8_t *data)
{
	ssize_t n = 0;
	size_t in_file;

	pthread_mutex_lock(&b->lock);
	in_file = offset >= b->written ? 0 : b->written - offset < len ? (size_t)(b->written - offset) : len;
	if (in_file < len)
		read_pieces(b, offset + in_file, len - in_file, data + in_file);
	pthread_mutex_unlock(&b->lock);
	for (size_t done = 0; done < in_file; done += (size_t)n) {
		n = pread(b->read_fd, data + done, in_file - done, (off_t)(offset + done));
		if (n <= 0)
			return false;
	}
	return true;
}
