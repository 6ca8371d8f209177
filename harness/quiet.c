#include "harness/quiet.h"

#include "harness/clock.h"
#include "harness/work.h"

#include <poll.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LOOK_MS = 50, STARVED_MS = 2000 };

struct quiet *
quiet_new(void)
{
	struct quiet *q = mmap(NULL, sizeof(*q), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (q == MAP_FAILED)
		return NULL;
	q->event = eventfd(0, EFD_NONBLOCK);
	if (q->event < 0) {
		munmap(q, sizeof(*q));
		return NULL;
	}
	return q;
}

void
quiet_free(struct quiet *q)
{
	if (q == NULL)
		return;
	close(q->event);
	munmap(q, sizeof(*q));
}

void
quiet_reset(struct quiet *q)
{
	uint64_t n;

	atomic_store(&q->connects, 0);
	atomic_store(&q->accepts, 0);
	atomic_store(&q->idle, false);
	atomic_store(&q->full, false);
	atomic_store(&q->ending, false);
	atomic_store(&q->reloads, 0);
	for (int i = 0; i < QUIET_CONNECTIONS; i++) {
		atomic_store(&q->consumed[i], 0);
		atomic_store(&q->silent[i], false);
		atomic_store(&q->ended[i], false);
	}
	(void)!read(q->event, &n, sizeof(n));
}

void
quiet_fall_idle(struct quiet *q)
{
	atomic_store(&q->idle, true);
	(void)!write(q->event, &(uint64_t){ 1 }, sizeof(uint64_t));
}

void
quiet_wake(struct quiet *q)
{
	atomic_store(&q->idle, false);
}

void
quiet_end(struct quiet *q, unsigned n)
{
	if (n >= QUIET_CONNECTIONS)
		return;
	atomic_store(&q->ended[n], true);
	(void)!write(q->event, &(uint64_t){ 1 }, sizeof(uint64_t));
}

void
quiet_await_end(const struct quiet *q, unsigned n, pid_t pid, int pidfd)
{
	struct pollfd p[2] = { { .fd = q->event, .events = POLLIN }, { .fd = pidfd, .events = POLLIN } };
	int64_t until = now_ms() + LOOK_MS, last = until + STARVED_MS, left;
	uint64_t count;

	while (n < QUIET_CONNECTIONS && !atomic_load(&q->ended[n]) && !atomic_load(&q->silent[n])) {
		left = until - now_ms();
		if (left <= 0 && (now_ms() >= last || !work_of(pid).runs))
			return;
		if (left <= 0)
			until += LOOK_MS;
		else if (poll(p, 2, (int)left) < 0 || p[1].revents != 0)
			return;
		if (p[0].revents != 0)
			(void)!read(q->event, &count, sizeof(count));
	}
}

void
quiet_be_full(struct quiet *q, bool full)
{
	atomic_store(&q->full, full);
}

bool
quiet_waits_for_room(const struct quiet *q, unsigned n)
{
	return atomic_load(&q->accepts) <= n && atomic_load(&q->full);
}

void
quiet_begin_end(struct quiet *q)
{
	atomic_store(&q->ending, true);
	(void)!write(q->event, &(uint64_t){ 1 }, sizeof(uint64_t));
}

static bool
is_ending(const struct quiet *q, uint32_t before)
{
	(void)before;
	return atomic_load(&q->ending);
}

static bool
has_reloaded(const struct quiet *q, uint32_t before)
{
	return atomic_load(&q->reloads) != before;
}

static void
await(const struct quiet *q, bool (*done)(const struct quiet *q, uint32_t before), uint32_t before, int pidfd)
{
	struct pollfd p[2] = { { .fd = q->event, .events = POLLIN }, { .fd = pidfd, .events = POLLIN } };
	int64_t until = now_ms() + 5000, left;
	uint64_t count;

	while (!done(q, before)) {
		left = until - now_ms();
		if (left <= 0 || poll(p, 2, (int)left) < 0 || p[1].revents != 0)
			return;
		if (p[0].revents != 0)
			(void)!read(q->event, &count, sizeof(count));
	}
}

void
quiet_await_ending(const struct quiet *q, int pidfd)
{
	await(q, is_ending, 0, pidfd);
}

void
quiet_reloaded(struct quiet *q)
{
	atomic_fetch_add(&q->reloads, 1);
	(void)!write(q->event, &(uint64_t){ 1 }, sizeof(uint64_t));
}

void
quiet_await_reload(const struct quiet *q, uint32_t before, int pidfd)
{
	await(q, has_reloaded, before, pidfd);
}

bool
quiet_is_over(const struct quiet *q, unsigned n, uint64_t sent)
{
	if (n >= QUIET_CONNECTIONS)
		return false;
	/* idle is read last: a server that woke in between has set it to false before it accepted or counted. */
	return atomic_load(&q->accepts) > n && (atomic_load(&q->silent[n]) || atomic_load(&q->consumed[n]) == sent) &&
	       atomic_load(&q->idle);
}
