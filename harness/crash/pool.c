#include "harness/crash/pool.h"

#include "harness/process.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS_MOST = 64, AHEAD = 2, SHORT_ORDER = 8192, CHILDREN_MOST = 1024, ORPHAN_ROUNDS = 3000 };

struct worker {
	pid_t pid;
	int fd;
	unsigned n; /* jobs that it has */
	struct pool_job jobs[AHEAD];
};

struct pool {
	const struct space *space;
	struct checker_setup setup;
	unsigned n;
	struct worker workers[WORKERS_MOST];
	int signals;
	pool_result *result;
	void *arg;
	int act_ms; /* -1: there is nothing to do while waiting */
	void (*act)(void *arg);
	void *act_arg;
};

static bool
send_all(int fd, const void *data, size_t n)
{
	const char *at = data;

	while (n > 0) {
		ssize_t done = send(fd, at, n, MSG_NOSIGNAL);

		if (done <= 0)
			return false;
		at += done;
		n -= (size_t)done;
	}
	return true;
}

static bool
receive_all(int fd, void *data, size_t n)
{
	char *at = data;

	while (n > 0) {
		ssize_t done = recv(fd, at, n, 0);

		if (done <= 0)
			return false;
		at += done;
		n -= (size_t)done;
	}
	return true;
}

/* ---- a worker ---- */

struct order {
	uint32_t must, n; /* words behind it */
};

static const struct bytes *
next_mark(const struct recording *r, uint32_t must)
{
	return must < r->n_marks ? &r->marks[must].text : NULL;
}

static bool
send_result(int fd, const struct checked *result, const struct served *s)
{
	uint32_t n = s != NULL ? s->n_touched : 0;

	return send_all(fd, result, sizeof(*result)) && send_all(fd, &n, sizeof(n)) &&
	       (n == 0 || send_all(fd, s->touched, n * sizeof(*s->touched)));
}

static void
work(const struct pool *p, int fd, struct image *i, struct checker *c)
{
	struct view *v = view_new(p->space);
	struct checked result;
	struct buf words = { 0 };
	struct order o;

	while (receive_all(fd, &o, sizeof(o))) {
		buf_clear(&words);
		if (!receive_all(fd, buf_grow(&words, o.n * sizeof(uint32_t)), o.n * sizeof(uint32_t)))
			break;
		view_load(v, (const uint32_t *)(const void *)words.at);
		image_show(i, v);
		checker_run(c, o.must, next_mark(p->space->recording, o.must), &result);
		if (!send_result(fd, &result, checker_served(c)))
			break;
	}
	buf_free(&words);
	view_free(v);
}

/* Its first word is whether it could begin. */
_Noreturn static void
be_worker(const struct pool *p, int fd)
{
	struct checked begin = { .verdict = VERDICT_GOOD };
	char error[512] = "";
	struct image *i = image_new(p->space, error);
	struct checker *c = i != NULL ? checker_new(&p->setup, i, error) : NULL;

	if (c == NULL) {
		begin.verdict = VERDICT_BROKEN;
		snprintf(begin.output, sizeof(begin.output), "%.250s", error);
	}
	send_all(fd, &begin, sizeof(begin));
	if (c != NULL)
		work(p, fd, i, c);
	_exit(0);
}

/* ---- all of them ---- */

static bool
start_worker(struct pool *p, struct worker *w, char error[512])
{
	struct checked begin = { 0 };
	int pair[2];
	pid_t us = getpid();

	*w = (struct worker){ .fd = -1 };
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0 || (w->pid = fork()) < 0) {
		snprintf(error, 512, "cannot start a process: %s", strerror(errno));
		return false;
	}
	if (w->pid == 0) {
		close(pair[0]);
		become_child(us);
		signal(SIGXFSZ, SIG_IGN);
		be_worker(p, pair[1]);
	}
	close(pair[1]);
	w->fd = pair[0];
	if (!receive_all(w->fd, &begin, sizeof(begin)))
		snprintf(error, 512, "a process that checks died as it began");
	else if (begin.verdict == VERDICT_BROKEN)
		snprintf(error, 512, "%s", begin.output);
	else
		return true;
	return false;
}

struct pool *
pool_new(const struct space *s, const struct checker_setup *setup, unsigned workers, pool_result *result, void *arg,
         char error[512])
{
	struct pool *p = calloc(1, sizeof(*p));
	sigset_t stop = stop_signals();

	if (p == NULL)
		abort();
	*p = (struct pool){ .space = s, .setup = *setup, .result = result, .arg = arg, .act_ms = -1 };
	p->signals = signalfd(-1, &stop, SFD_CLOEXEC | SFD_NONBLOCK);
	for (unsigned i = 0; i < workers && i < WORKERS_MOST; i++) {
		p->n = i + 1;
		if (!start_worker(p, &p->workers[i], error)) {
			pool_free(p);
			return NULL;
		}
	}
	return p;
}

static bool
is_one_of(pid_t pid, const pid_t *pids, size_t n)
{
	while (n-- > 0)
		if (pids[n] == pid)
			return true;
	return false;
}

/*
 * What the checkers have started becomes ours when they die, and is found so; by its mark it is not, while it is just being
 * executed. Each may have a child in turn.
 */
static void
end_orphans(const pid_t *ours, size_t n_ours)
{
	pid_t pids[CHILDREN_MOST];

	for (int round = 0; round < ORPHAN_ROUNDS; round++) {
		size_t n = list_children(pids, CHILDREN_MOST), orphans = 0;

		for (size_t i = 0; i < n; i++) {
			if (is_one_of(pids[i], ours, n_ours))
				continue;
			orphans++;
			kill(pids[i], SIGKILL);
			waitpid(pids[i], NULL, WNOHANG);
		}
		if (orphans == 0)
			break;
		poll(NULL, 0, 1);
	}
}

void
pool_free(struct pool *p)
{
	pid_t ours[CHILDREN_MOST];
	size_t n_ours;

	if (p == NULL)
		return;
	n_ours = list_children(ours, CHILDREN_MOST);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	for (unsigned i = 0; i < p->n; i++) {
		struct worker *w = &p->workers[i];

		if (w->pid > 0) {
			kill(w->pid, SIGKILL);
			waitpid(w->pid, NULL, 0);
		}
		if (w->fd >= 0)
			close(w->fd);
		while (w->n > 0)
			free(w->jobs[--w->n].words);
	}
	if (p->signals >= 0)
		close(p->signals);
	signal_marked(p->setup.dir, NULL, SIGKILL);
	end_orphans(ours, n_ours);
	prctl(PR_SET_CHILD_SUBREAPER, 0);
	free(p);
}

void
pool_tell(struct pool *p, pool_result *result, void *arg)
{
	p->result = result;
	p->arg = arg;
}

void
pool_while_waiting(struct pool *p, int ms, void (*act)(void *arg), void *arg)
{
	p->act_ms = ms;
	p->act = act;
	p->act_arg = arg;
}

static bool
take_result(struct pool *p, struct worker *w)
{
	struct checked result;
	struct pool_job job = w->jobs[0];
	bool ok;

	if (w->n == 0 || !receive_all(w->fd, &result, sizeof(result)) ||
	    !receive_all(w->fd, &job.n_touched, sizeof(job.n_touched)))
		return false;
	job.touched = calloc(job.n_touched + 1u, sizeof(*job.touched));
	if (job.touched == NULL)
		abort();
	memmove(w->jobs, w->jobs + 1, (--w->n) * sizeof(*w->jobs));
	ok = receive_all(w->fd, job.touched, job.n_touched * sizeof(*job.touched));
	if (ok)
		p->result(p->arg, &job, &result);
	free(job.touched);
	free(job.words);
	return ok;
}

/* Takes all results that are there; where it `waits`, for one, it may return without any. */
static enum pool_wait
take_results(struct pool *p, bool waits)
{
	struct pollfd polled[WORKERS_MOST + 1];
	int n;

	for (unsigned i = 0; i < p->n; i++)
		polled[i] = (struct pollfd){ .fd = p->workers[i].fd, .events = POLLIN };
	polled[p->n] = (struct pollfd){ .fd = p->signals, .events = POLLIN };
	n = poll(polled, p->n + 1, waits ? p->act_ms : 0);
	if (n < 0)
		return errno == EINTR ? POOL_DONE : POOL_LOST;
	if (n == 0 && waits)
		p->act(p->act_arg);
	if (polled[p->n].revents != 0)
		return POOL_INTERRUPTED;
	for (unsigned i = 0; i < p->n; i++)
		if (polled[i].revents != 0 && !take_result(p, &p->workers[i]))
			return POOL_LOST;
	return POOL_DONE;
}

static struct worker *
least_busy(struct pool *p)
{
	struct worker *least = &p->workers[0];

	for (unsigned i = 1; i < p->n; i++)
		if (p->workers[i].n < least->n)
			least = &p->workers[i];
	return least;
}

enum pool_wait
pool_give(struct pool *p, const struct view *v, uint64_t number, struct hash key, uint32_t must)
{
	struct order o = { .must = must };
	enum pool_wait wait = take_results(p, false);
	uint32_t *words = view_save(v, &o.n);
	struct worker *w;

	/* One that is busy may wait for us to take a long result, while we wait for it to take a long order. */
	while (wait == POOL_DONE && least_busy(p)->n >= (o.n < SHORT_ORDER ? AHEAD : 1))
		wait = take_results(p, true);
	if (wait != POOL_DONE) {
		free(words);
		return wait;
	}
	w = least_busy(p);
	w->jobs[w->n] = (struct pool_job){ .number = number, .key = key, .must = must, .words = words };
	if (!send_all(w->fd, &o, sizeof(o)) || !send_all(w->fd, words, o.n * sizeof(*words)))
		wait = POOL_LOST;
	w->n++;
	return wait;
}

enum pool_wait
pool_poll(struct pool *p)
{
	return take_results(p, false);
}

enum pool_wait
pool_drain(struct pool *p)
{
	enum pool_wait wait = POOL_DONE;

	for (;;) {
		bool busy = false;

		for (unsigned i = 0; i < p->n; i++)
			busy |= p->workers[i].n > 0;
		if (!busy || wait != POOL_DONE)
			return wait;
		wait = take_results(p, true);
	}
}
