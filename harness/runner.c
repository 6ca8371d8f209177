#include "harness/runner.h"

#include "harness/file.h"
#include "harness/test_private.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CASE_MS = 300000, TRANSCRIPT_DEPTH = 14 };

struct slot {
	struct server server;
	const struct job *job;		/* running; NULL: the slot is free */
	const struct job *last;		/* the one before; a server that dies late is its fault */
	pid_t pid;			/* of the case */
	int reports;			/* from the case */
	int trace_fd;			/* a memory file */
	struct buf in;			/* reports not yet whole */
	int64_t deadline;		/* ms */
	uint64_t started_us;
	unsigned results;
	bool done;			/* the case ended by itself */
	bool timed_out;
};

struct state {
	const struct runner *r;
	struct slot *slots;
	const struct job *jobs;
	size_t n, next, done;
	int signals;
	struct run_end end;
	bool stopping;
	bool served;			/* a server has greeted at least once */
};

static int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

const struct case_def **
select_cases(enum suite suite, char *const *globs, size_t n_globs, size_t *n)
{
	const struct case_def **list = NULL, *c;

	*n = 0;
	for (size_t i = 0; (c = case_at(i)) != NULL; i++) {
		bool wanted = n_globs == 0;

		for (size_t g = 0; g < n_globs && !wanted; g++)
			wanted = fnmatch(globs[g], c->id, 0) == 0;
		list = reallocarray(list, *n + 2, sizeof(*list));
		if (list == NULL)
			abort();
		if (wanted && c->suite == suite)
			list[(*n)++] = c;
		list[*n] = NULL;
	}
	return list;
}

static void
break_off(struct state *st, const char *why)
{
	st->stopping = true;
	if (st->end.broken == NULL)
		st->end.broken = strdup(why);
}

/* ---- starting a case ---- */

static void server_died(struct state *st, struct slot *s);

static bool
ready_server(struct state *st, struct slot *s, const struct target *t)
{
	char error[512], *why;

	if (!t->fresh && s->server.target == t && server_running(&s->server))
		return true;
	if (s->last != NULL) {
		s->job = s->last;
		server_died(st, s);
		s->job = NULL;
	}
	server_stop(&s->server);
	if (t->via == VIA_FORK && s->server.quiet == NULL)
		s->server.quiet = quiet_new();
	if (server_start(&s->server, t, error))
		return true;
	if (asprintf(&why, "the server could not be started: %s", error) < 0)
		abort();
	break_off(st, why);
	free(why);
	return false;
}

static int
new_trace(void)
{
	int fd = memfd_create("nbdspec-trace", MFD_CLOEXEC);
	struct trace t;

	if (fd < 0 || fcntl(fd, F_SETFL, O_APPEND) != 0 || trace_start(&t, fd, 1u << 16) != 0)
		abort();
	return fd;
}

static void
start_case(struct state *st, struct slot *s, const struct job *job)
{
	sigset_t none;
	int pipe_fds[2];

	if (!ready_server(st, s, job->target))
		return;
	if (s->trace_fd < 0)
		s->trace_fd = new_trace();
	else if (ftruncate(s->trace_fd, 16) != 0)
		abort();
	if (pipe2(pipe_fds, O_CLOEXEC) != 0) {
		break_off(st, strerror(errno));
		return;
	}
	if (st->r->progress != NULL)
		st->r->progress(st->r->arg, (unsigned)st->done, job->def);
	s->pid = fork();
	if (s->pid == 0) {
		close(pipe_fds[0]);
		close(st->signals);
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		/* Ctrl-C at a terminal goes to the whole group; the runner ends its cases itself. */
		setpgid(0, 0);
		run_case(job->def, &s->server, s->trace_fd, pipe_fds[1]);
	}
	close(pipe_fds[1]);
	if (s->pid < 0) {
		close(pipe_fds[0]);
		s->pid = 0;
		break_off(st, "cannot start a process for the case");
		return;
	}
	s->reports = pipe_fds[0];
	s->job = job;
	s->results = 0;
	s->done = s->timed_out = false;
	buf_clear(&s->in);
	s->started_us = (uint64_t)now_ms() * 1000;
	s->deadline = now_ms() + (int64_t)(CASE_MS * job->target->factor);
}

/* ---- results ---- */

static void
emit(struct state *st, struct slot *s, const struct report_header *h, char *const strings[REPORT_STRINGS], const char *server)
{
	struct result r = {
		.case_id = s->job->def->id, .point = h->length[REPORT_POINT] > 0 ? strings[REPORT_POINT] : NULL,
		.title = s->job->def->title, .verdict = h->verdict, .requirement = h->requirement,
		.message = strings[REPORT_MESSAGE], .expected = strings[REPORT_EXPECTED], .got = strings[REPORT_GOT],
		.feature = strings[REPORT_FEATURE], .transcript = "", .server = server, .reason = "",
		.duration_us = h->duration_us,
	};
	char *transcript = NULL;

	if (st->r->transcripts && (r.verdict == VERDICT_FAIL || r.verdict == VERDICT_WARN || r.verdict == VERDICT_ERROR ||
				   r.verdict == VERDICT_INFO))
		r.transcript = transcript = describe_transcript(s->trace_fd, h->trace_from, h->trace_to, TRANSCRIPT_DEPTH);
	s->results++;
	st->r->result(st->r->arg, s->job, &r);
	free(transcript);
}

/*
 * A closed connection is seen a moment before the process that held it can be waited for: where the case was told that
 * the connection ended, the server is given that moment, so that a crash is reported as one.
 */
static char *
end_of_server(struct slot *s, const struct report_header *h, bool *by_fault)
{
	struct pollfd p = { .fd = s->server.pidfd, .events = POLLIN };
	char *words, *tail, *text = NULL;

	*by_fault = false;
	if (s->server.pid <= 0)
		return NULL;
	if (poll(&p, 1, h->verdict >= VERDICT_WARN && s->server.target->via != VIA_FORK ? 60 : 0) <= 0)
		return NULL;
	words = server_ended(&s->server, by_fault);
	if (words == NULL)
		return NULL;
	tail = server_stderr(&s->server, 6);
	if (asprintf(&text, "%s%s%s", words, *tail ? "; it said:\n" : "", tail) < 0)
		abort();
	free(words);
	free(tail);
	return text;
}

/* Says which command it was, and how it ended. */
static void
add_program(struct state *st, struct slot *s, const char *end)
{
	char *program = target_describe(s->job->target), *why;

	if (asprintf(&why, "%s: %s%s%s", st->end.broken, program, *end ? ": " : "", end) < 0)
		abort();
	free(st->end.broken);
	free(program);
	st->end.broken = why;
}

static void
take_result(struct state *st, struct slot *s, struct report_header *h, char *strings[REPORT_STRINGS])
{
	bool by_fault;
	char *server = end_of_server(s, h, &by_fault);
	char *empty = (char *)"";

	/* It never came as far as a greeting: that is a wrong command line, no deviation. */
	if (server != NULL && by_fault && !st->served && s->job->target->via != VIA_FORK) {
		break_off(st, "the server did not start");
		add_program(st, s, server);
		free(server);
		s->results++;
		return;
	}

	/* A server for one client ends after it, with status 0: nothing is broken, there just is no second client. */
	if (h->gone && server != NULL && !by_fault) {
		h->verdict = VERDICT_SKIP;
		h->requirement = REQUIREMENT_NONE;
		strings[REPORT_MESSAGE] = server;
		strings[REPORT_EXPECTED] = strings[REPORT_GOT] = empty;
		strings[REPORT_FEATURE] = (char *)"connections";
	}
	emit(st, s, h, strings, server != NULL ? server : "");
	free(server);
}

/* The case could not reach the server: its end and its last words belong to the reason. */
static void
could_not_reach(struct state *st, struct slot *s)
{
	bool by_fault;
	char *words = server_ended(&s->server, &by_fault), *tail = server_stderr(&s->server, 10), *end;

	if (s->job->target->via != VIA_URI) {
		if (asprintf(&end, "%s%s%s", words ? words : "", *tail ? "; it said:\n" : "", tail) < 0)
			abort();
		add_program(st, s, end);
		free(end);
	}
	free(words);
	free(tail);
}

/* Takes one whole report off the buffer; false when there is none. */
static bool
take_report(struct state *st, struct slot *s)
{
	char *strings[REPORT_STRINGS], *copy;
	struct report_header h;
	size_t size = sizeof(h), from = sizeof(h), at = 0;

	if (s->in.len < sizeof(h))
		return false;
	memcpy(&h, s->in.at, sizeof(h));
	for (int i = 0; i < REPORT_STRINGS; i++)
		size += h.length[i];
	if (s->in.len < size)
		return false;
	copy = calloc(1, size - sizeof(h) + REPORT_STRINGS);
	if (copy == NULL)
		abort();
	for (int i = 0; i < REPORT_STRINGS; i++) {
		strings[i] = copy + at;
		memcpy(copy + at, s->in.at + from, h.length[i]);
		from += h.length[i];
		at += h.length[i] + 1;	/* each gets its NUL */
	}
	buf_consume(&s->in, size);
	switch (h.type) {
	case REPORT_RESULT:
		take_result(st, s, &h, strings);
		break;
	case REPORT_SERVED:
		s->server.starting = false;
		st->served = true;
		break;
	case REPORT_BROKEN:
		if (st->end.broken == NULL) {
			break_off(st, strings[REPORT_MESSAGE]);
			could_not_reach(st, s);
		}
		s->done = true;
		s->results++;
		break;
	default:
		s->done = true;
	}
	free(copy);
	return true;
}

/* ---- the end of a case ---- */

static void
case_broke(struct state *st, struct slot *s, int status)
{
	char message[160], *strings[REPORT_STRINGS] = { (char *)"", message, (char *)"", (char *)"", (char *)"" };
	struct report_header h = { .type = REPORT_RESULT, .verdict = VERDICT_ERROR, .trace_from = 16 };

	h.trace_to = lseek(s->trace_fd, 0, SEEK_END);
	h.length[REPORT_MESSAGE] = 1;
	if (s->timed_out)
		snprintf(message, sizeof(message), "the case did not end within %d s: a fault of nbdspec",
			 (int)(CASE_MS * s->job->target->factor / 1000));
	else if (WIFSIGNALED(status))
		snprintf(message, sizeof(message), "the case was killed by signal %d (%s): a fault of nbdspec",
			 WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		snprintf(message, sizeof(message), "the case ended with status %d: a fault of nbdspec", WEXITSTATUS(status));
	emit(st, s, &h, strings, "");
}

/* The server died of a fault although the case has nothing to say against it: that is a verdict all the same. */
static void
server_died(struct state *st, struct slot *s)
{
	char *strings[REPORT_STRINGS] = { (char *)"", (char *)"the server ended during the case", (char *)"", (char *)"",
					  (char *)"" };
	struct report_header h = { .type = REPORT_RESULT, .verdict = VERDICT_FAIL, .trace_from = 16,
				   .requirement = R(handshake_no_hard_disconnect) };
	bool by_fault;
	char *words;

	h.trace_to = lseek(s->trace_fd, 0, SEEK_END);
	words = end_of_server(s, &(struct report_header){ .verdict = VERDICT_PASS }, &by_fault);
	if (words != NULL && by_fault)
		emit(st, s, &h, strings, words);
	free(words);
}

static void
keep_trace(struct state *st, struct slot *s)
{
	off_t at = 16, size = lseek(s->trace_fd, 0, SEEK_END);

	while (st->r->trace_fd >= 0 && at < size)
		if (sendfile(st->r->trace_fd, s->trace_fd, &at, (size_t)(size - at)) <= 0)
			break;
}

static void
finish_case(struct state *st, struct slot *s)
{
	int status = 0;

	while (take_report(st, s))
		;
	waitpid(s->pid, &status, 0);
	close(s->reports);
	s->pid = 0;
	if (!s->done && !st->end.interrupted)
		case_broke(st, s, status);
	if (s->results > 0 && !st->stopping)
		server_died(st, s);
	keep_trace(st, s);
	s->last = s->job;
	s->job = NULL;
	st->done++;
}

/* ---- the loop ---- */

static void
read_reports(struct state *st, struct slot *s)
{
	uint8_t *at = buf_grow(&s->in, 65536);
	ssize_t n = read(s->reports, at, 65536);

	s->in.len -= 65536 - (size_t)(n > 0 ? n : 0);
	if (n > 0)
		while (take_report(st, s))
			;
	else if (n == 0)
		finish_case(st, s);
}

static void
interrupt(struct state *st)
{
	struct signalfd_siginfo info;

	(void)!read(st->signals, &info, sizeof(info));
	st->end.interrupted = st->stopping = true;
	for (unsigned i = 0; i < st->r->slots; i++)
		if (st->slots[i].pid > 0)
			kill(st->slots[i].pid, SIGKILL);
}

static int
wait_ms(const struct state *st)
{
	int64_t soonest = -1, now = now_ms();

	for (unsigned i = 0; i < st->r->slots; i++)
		if (st->slots[i].job != NULL && (soonest < 0 || st->slots[i].deadline < soonest))
			soonest = st->slots[i].deadline;
	return soonest < 0 ? -1 : soonest <= now ? 0 : (int)(soonest - now);
}

static void
turn(struct state *st)
{
	struct pollfd p[65] = { { .fd = st->signals, .events = POLLIN } };
	int64_t now;

	for (unsigned i = 0; i < st->r->slots; i++)
		p[i + 1] = (struct pollfd){ .fd = st->slots[i].job ? st->slots[i].reports : -1, .events = POLLIN };
	if (poll(p, st->r->slots + 1, wait_ms(st)) < 0)
		return;
	if (p[0].revents != 0)
		interrupt(st);
	now = now_ms();
	for (unsigned i = 0; i < st->r->slots; i++) {
		struct slot *s = &st->slots[i];

		if (s->job != NULL && p[i + 1].revents != 0)
			read_reports(st, s);
		if (s->job != NULL && now >= s->deadline && !s->timed_out) {
			s->timed_out = true;
			kill(s->pid, SIGKILL);
		}
	}
}

static bool
fill_slots(struct state *st)
{
	bool busy = false;

	for (unsigned i = 0; i < st->r->slots; i++) {
		struct slot *s = &st->slots[i];

		while (s->job == NULL && !st->stopping && st->next < st->n)
			start_case(st, s, &st->jobs[st->next++]);
		busy |= s->job != NULL;
	}
	return busy;
}

/* Servers that put themselves into the background become our children, and end with us. */
static void
end_strays(void)
{
	pid_t pids[256];
	size_t n;

	while ((n = list_children(pids, 256)) > 0)
		for (size_t i = 0; i < n; i++) {
			kill(pids[i], SIGKILL);
			waitpid(pids[i], NULL, 0);
		}
}

struct run_end
run_jobs(const struct runner *r, const struct job *jobs, size_t n)
{
	struct state st = { .r = r, .jobs = jobs, .n = n };
	sigset_t mask, old;

	sigemptyset(&mask);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGHUP);
	sigprocmask(SIG_BLOCK, &mask, &old);
	st.signals = signalfd(-1, &mask, SFD_CLOEXEC);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGPIPE, SIG_IGN);
	st.slots = calloc(r->slots, sizeof(*st.slots));
	if (st.slots == NULL)
		abort();
	for (unsigned i = 0; i < r->slots; i++)
		st.slots[i].trace_fd = st.slots[i].server.pidfd = st.slots[i].server.stdio = -1;
	while (fill_slots(&st))
		turn(&st);
	for (unsigned i = 0; i < r->slots; i++) {
		server_stop(&st.slots[i].server);
		quiet_free(st.slots[i].server.quiet);
		buf_free(&st.slots[i].in);
		if (st.slots[i].trace_fd >= 0)
			close(st.slots[i].trace_fd);
	}
	end_strays();
	free(st.slots);
	close(st.signals);
	sigprocmask(SIG_SETMASK, &old, NULL);
	return st.end;
}
