#include "harness/runner.h"

#include "harness/clock.h"
#include "harness/process.h"
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

enum { CASE_MS = 300000, TRANSCRIPT_DEPTH = 14, ENDING_MS = 1000 };

#define GONE_AFTER "after the case the server is gone"

struct slot {
	struct server server;
	const struct job *job;  /* running; NULL: the slot is free */
	const struct job *last; /* the one before; a server that dies late is its fault */
	pid_t pid;              /* of the case */
	int reports;            /* from the case */
	int trace_fd;           /* a memory file */
	struct buf in;          /* reports not yet whole */
	int64_t deadline;       /* ms */
	uint64_t started_us;
	unsigned results;
	bool done;   /* the case ended by itself */
	size_t next; /* where jobs are run in turn */
	bool timed_out;
	bool silenced;       /* it was ended, and what it says no longer counts */
	bool fault;          /* the server died during the case */
	bool lost_in_case;   /* and that was said of one of its points */
	bool closed_in_case; /* a point failed in which the server closed the connection */
	bool used;           /* its server has greeted in an earlier case */
	char *end;           /* of its server, in words; NULL: none was noticed */
	bool end_by_fault;
	bool cut;      /* the case has ended its server by a power cut, and has one of its own */
	bool changed;  /* the case has changed its server: what is lost then is its own doing */
	bool told_end; /* and says how that one ended; not yet made known */
	bool suspect;  /* its server hung in a case: the next case gets a new one */
	bool lingers;  /* its servers do not end with their standard input */
	bool one_shot; /* a server has ended well by itself: it serves one client, so every case needs its own */
	enum { FIRST_TRY, TRY_AGAIN, SECOND_TRY } attempt;
	char *lost; /* on the second try: how the server was lost before it, or NULL */
};

struct state {
	const struct runner *r;
	struct slot *slots;
	const struct job *jobs;
	size_t n, next, done;
	int signals;
	int64_t progress_at; /* ms */
	struct run_end end;
	bool stopping;
	bool served; /* a server has greeted at least once */
};

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

/* From here on nothing counts that the case says. */
static void
silence_case(struct slot *s)
{
	if (s->pid > 0)
		kill(s->pid, SIGKILL);
	s->silenced = true;
}

/* The run cannot go on: what happened and, where it was the server, which command that is and what it printed last. */
static void
give_up(struct state *st, struct slot *s, const struct target *t, const char *what, bool by_server)
{
	char *program = target_describe(t), *tail = server_stderr(&s->server, 10), *why;

	by_server &= t->via != VIA_URI;
	if (asprintf(&why, "%s%s%s%s%s", what, by_server ? ": " : "", by_server ? program : "",
	             *tail ? "; it printed:\n" : "", tail) < 0)
		abort();
	silence_case(s);
	break_off(st, why);
	free(why);
	free(tail);
	free(program);
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

/* ---- starting a case ---- */

static void server_died(struct state *st, struct slot *s, const struct job *job);

/* NULL when the system refuses: then every case finds out for itself. */
static _Atomic bool *
shared_flag(void)
{
	void *at = mmap(NULL, sizeof(_Atomic bool), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

/* What a case has started is ours once the case has ended; where that is dead by then, nobody else ever waits for it. */
static void
reap_orphans(const struct state *st)
{
	pid_t pids[256];
	size_t n = list_children(pids, 256);

	for (size_t i = 0; i < n; i++) {
		bool known = false;

		for (unsigned k = 0; k < st->r->slots; k++) {
			const struct slot *s = &st->slots[k];

			known |= pids[i] == s->pid || pids[i] == s->server.pid || pids[i] == s->server.guard ||
			         lower_has(s->server.lower, pids[i]);
		}
		if (!known)
			waitpid(pids[i], NULL, WNOHANG);
	}
}

static bool
ready_server(struct state *st, struct slot *s, const struct target *t)
{
	struct pollfd asked = { .fd = st->signals, .events = POLLIN };
	char error[512], *why;

	if (s->last != NULL)
		server_died(st, s, s->last);
	if (!t->fresh && !s->one_shot && !s->suspect && s->server.target == t && server_running(&s->server))
		return true;
	server_stop(&s->server);
	if (t->via != VIA_FORK || t->cuts)
		reap_orphans(st);
	free(s->end);
	s->end = NULL;
	s->suspect = s->cut = s->told_end = false;
	if (t->via == VIA_FORK && s->server.quiet == NULL)
		s->server.quiet = quiet_new();
	if (t->via != VIA_FORK && s->server.one_at_a_time == NULL)
		s->server.one_at_a_time = shared_flag();
	if (server_start(&s->server, t, error))
		return true;
	if (asprintf(&why, "the server could not be started: %s", error) < 0)
		abort();
	if (poll(&asked, 1, 0) > 0)
		interrupt(st);
	else
		give_up(st, s, t, why, s->server.spawned);
	free(why);
	return false;
}

/* -1 and errno when the system refuses. */
static int
new_trace(void)
{
	int fd = memfd_create("nbdspec-trace", MFD_CLOEXEC);
	struct trace t;

	if (fd >= 0 && (fcntl(fd, F_SETFL, O_APPEND) != 0 || trace_start(&t, fd, 1u << 16) != 0))
		abort();
	return fd;
}

_Noreturn static void
be_case(const struct state *st, const struct slot *s, const struct job *job, const int pipe_fds[2], pid_t us)
{
	/* Ctrl-C at a terminal goes to the whole group; the runner ends its cases itself. */
	become_child(us);
	close(pipe_fds[0]);
	close(st->signals);
	run_case(job->def, &s->server, s->trace_fd, pipe_fds[1]);
}

static void
cannot_start(struct state *st)
{
	char why[160];

	snprintf(why, sizeof(why), "cannot start a process for the case: %s", strerror(errno));
	break_off(st, why);
}

static void
start_case(struct state *st, struct slot *s, const struct job *job)
{
	pid_t us = getpid();
	int pipe_fds[2];

	if (!ready_server(st, s, job->target))
		return;
	if (s->trace_fd < 0)
		s->trace_fd = new_trace();
	else if (ftruncate(s->trace_fd, TRACE_HEADER) != 0)
		abort();
	if (s->trace_fd < 0 || pipe2(pipe_fds, O_CLOEXEC) != 0) {
		cannot_start(st);
		return;
	}
	if (st->r->progress != NULL)
		st->r->progress(st->r->arg, (unsigned)st->done, job->def);
	s->pid = fork();
	if (s->pid == 0)
		be_case(st, s, job, pipe_fds, us);
	close(pipe_fds[1]);
	if (s->pid < 0) {
		close(pipe_fds[0]);
		s->pid = 0;
		cannot_start(st);
		return;
	}
	s->reports = pipe_fds[0];
	s->job = job;
	s->results = 0;
	s->changed = s->done = s->timed_out = s->silenced = s->fault = s->lost_in_case = s->closed_in_case = false;
	s->used = !s->server.starting;
	s->attempt = s->attempt == TRY_AGAIN ? SECOND_TRY : FIRST_TRY;
	buf_clear(&s->in);
	s->started_us = (uint64_t)now_ms() * 1000;
	s->deadline = now_ms() + (int64_t)(CASE_MS * job->target->factor);
}

/* ---- results ---- */

static void
emit(struct state *st, struct slot *s, const struct report_header *h, char *const strings[REPORT_STRINGS],
     const char *server)
{
	struct result r = {
		.case_id = s->job->def->id,
		.point = h->length[REPORT_POINT] > 0 ? strings[REPORT_POINT] : NULL,
		.title = s->job->def->title,
		.cites = s->job->def->cites,
		.verdict = h->verdict,
		.requirement = h->requirement,
		.message = strings[REPORT_MESSAGE],
		.expected = strings[REPORT_EXPECTED],
		.got = strings[REPORT_GOT],
		.feature = strings[REPORT_FEATURE],
		.again = strings[REPORT_AGAIN],
		.transcript = "",
		.server = server,
		.server_died = *server != '\0' && s->end_by_fault,
		.reason = "",
		.duration_us = h->duration_us,
	};
	char *transcript = NULL;

	for (int i = 0; i < ALSO_MOST; i++)
		r.also[i] = h->also[i];
	if (st->r->transcripts && (r.verdict == VERDICT_FAIL || r.verdict == VERDICT_WARN ||
	                           r.verdict == VERDICT_ERROR || r.verdict == VERDICT_INFO))
		r.transcript = transcript =
			describe_transcript(s->trace_fd, h->trace_from, h->trace_to, TRANSCRIPT_DEPTH);
	s->results++;
	st->r->result(st->r->arg, s->job, &r);
	free(transcript);
}

/* Has the server ended, within `ms`, without our asking? Said once for each server. */
static bool
notice_end(struct slot *s, int ms)
{
	struct pollfd p = { .fd = s->server.pidfd, .events = POLLIN };
	char *words = NULL;
	bool by_cut;

	if (s->told_end) {
		s->told_end = false;
		return true;
	}
	if (s->server.pid > 0 && poll(&p, 1, ms) > 0)
		words = server_ended(&s->server, s->cut ? &by_cut : &s->end_by_fault);
	if (words == NULL || s->cut) {
		free(words);
		return false;
	}
	free(s->end);
	s->end = words;
	s->one_shot |= !s->end_by_fault && !s->server.terminated;
	return true;
}

/* The end of the server and its last words, for the report. malloc'd. */
static char *
end_and_output(const struct slot *s)
{
	char *tail = server_stderr(&s->server, 6), *text;

	if (asprintf(&text, "%s%s%s", s->end, *tail ? "; it printed:\n" : "", tail) < 0)
		abort();
	free(tail);
	return text;
}

/* A verdict of the runner itself, on a case whose process has ended or never came so far. */
static void
blame(struct state *st, struct slot *s, const struct job *job, const char *message, const char *server)
{
	char *strings[REPORT_STRINGS] = {
		[REPORT_POINT] = (char *)"", [REPORT_MESSAGE] = (char *)message, [REPORT_EXPECTED] = (char *)"",
		[REPORT_GOT] = (char *)"",   [REPORT_FEATURE] = (char *)"",      [REPORT_AGAIN] = (char *)""
	};
	struct report_header h = { .type = REPORT_RESULT,
		                   .verdict = VERDICT_FAIL,
		                   .trace_from = TRACE_HEADER,
		                   .trace_to = TRACE_HEADER,
		                   .requirement = R(handshake_no_hard_disconnect) };
	const struct job *now = s->job;

	/* The trace is that of the case which ran last. */
	if (job == now || now == NULL)
		h.trace_to = lseek(s->trace_fd, 0, SEEK_END);
	s->job = job;
	emit(st, s, &h, strings, server);
	s->job = now;
}

/* The server died of a fault although the case has nothing to say against it: that is a verdict all the same. */
static void
server_died(struct state *st, struct slot *s, const struct job *job)
{
	bool wait = s->server.pid > 0 && (s->server.terminated || (s->server.stdio >= 0 && !s->lingers)), ended;
	char *text;

	/* A fake server's end is told by its lies; when exactly its process is gone is chance, and would make the matrix so. */
	if (job->target->via == VIA_FORK)
		return;

	/* On standard input and output it ends when its client leaves, so it is waited for, unless it shows that it does not. */
	if (wait && s->server.stdio >= 0)
		shutdown(s->server.stdio, SHUT_RDWR);
	ended = notice_end(s, wait ? ENDING_MS : 0);
	s->lingers |= wait && !ended && !s->server.terminated;
	if (!ended || !s->end_by_fault)
		return;
	text = end_and_output(s);
	blame(st, s, job, GONE_AFTER, text);
	free(text);
}

/* What a verdict's part of the trace tells of its connections. */
struct ending {
	bool closed; /* one was closed or reset by the server */
	bool timed_out;
	bool silent; /* on the one that was opened last the server said nothing */
};

/* A case that reads what no step would take for a message says so in a note. */
static bool
is_note_of_bytes(const struct trace_record *r)
{
	return r->kind == TRACE_NOTE && r->data.len > 8 && memcmp(r->data.at, "received", 8) == 0;
}

static struct ending
look_at_trace(const struct slot *s, const struct report_header *h)
{
	struct ending e = { .silent = false };
	struct trace_record r;
	struct wire w;
	void *map = MAP_FAILED;

	if (h->verdict >= VERDICT_WARN && h->trace_to > h->trace_from)
		map = mmap(NULL, (size_t)h->trace_to, PROT_READ, MAP_SHARED, s->trace_fd, 0);
	if (map == MAP_FAILED)
		return e;
	w = wire((uint8_t *)map + h->trace_from, (size_t)(h->trace_to - h->trace_from));
	while (trace_next(&w, &r)) {
		e.closed |= r.kind == TRACE_CLOSED || r.kind == TRACE_RESET;
		e.timed_out |= r.kind == TRACE_TIMEOUT;
		e.silent |= r.kind == TRACE_CONNECT;
		e.silent &= (r.kind != TRACE_MESSAGE || r.direction != TO_CLIENT) && !is_note_of_bytes(&r);
	}
	munmap(map, (size_t)h->trace_to);
	return e;
}

/* Why a server that lives is of no use to the next client; NULL where it is again, or has ended well. malloc'd. */
static char *
why_lost(const struct slot *s, bool ended, bool timed_out)
{
	char error[512] = "the server does not greet a new client";

	if (ended)
		return s->end_by_fault ? end_and_output(s) : NULL;
	return timed_out || !server_greets(&s->server, error) ? strdup(error) : NULL;
}

/*
 * A server that goes away between two cases is missed by the next one, which has no part in it. That one runs again,
 * against a new server; when it then goes well, the loss of the old server is the doing of the case before.
 */
static bool
try_again(struct slot *s, bool ended, bool timed_out)
{
	if (!s->used || s->changed || s->results > 0 || s->attempt != FIRST_TRY || s->job->target->via == VIA_URI)
		return false;
	s->attempt = TRY_AGAIN;
	s->lost = why_lost(s, ended, timed_out);
	silence_case(s);
	server_stop(&s->server);
	return true;
}

/* Nobody was ever greeted: that is a wrong command line, or no NBD server, and no case can say more of it. */
static void
never_greeted(struct state *st, struct slot *s, const struct report_header *h, char *const strings[REPORT_STRINGS],
              bool ended)
{
	char *what = NULL;

	if (ended && asprintf(&what, "%s before it greeted", s->end) < 0)
		abort();
	if (!ended)
		emit(st, s, h, strings, "");
	s->results++;
	give_up(st, s, s->job->target,
	        ended ? what : "the server sends no greeting, and without one nothing can be tested", true);
	free(what);
}

/* A point that found no server is not done; what is to be said of that was said of the point before. */
static void
make_skip(struct report_header *h, char *strings[REPORT_STRINGS], char *why)
{
	h->verdict = VERDICT_SKIP;
	h->requirement = REQUIREMENT_NONE;
	strings[REPORT_MESSAGE] = why;
	strings[REPORT_EXPECTED] = strings[REPORT_GOT] = (char *)"";
	strings[REPORT_FEATURE] = (char *)"connections";
}

static int
end_ms(const struct slot *s, const struct report_header *h, const struct ending *e, bool ungreeted)
{
	if (h->verdict < VERDICT_WARN || s->job->target->via == VIA_FORK)
		return 0;
	return h->gone || (ungreeted && s->closed_in_case) ? ENDING_MS : e->closed ? CLOSED_MS : 0;
}

/*
 * Is it no fault of this point that nobody served it? A server for one client ends well after it: nothing is broken,
 * there just is no second client. What made another server go away was said of the point that did it.
 */
static bool
is_innocent(const struct slot *s)
{
	if (s->end != NULL && !s->end_by_fault)
		return true;
	return s->job->target->via != VIA_FORK && (s->lost_in_case || (s->end != NULL && s->closed_in_case));
}

static void
take_result(struct state *st, struct slot *s, struct report_header *h, char *strings[REPORT_STRINGS])
{
	struct ending e = look_at_trace(s, h);
	bool ungreeted = h->verdict == VERDICT_FAIL && e.silent && (e.closed || e.timed_out);
	bool unserved = h->gone || (ungreeted && e.closed);
	bool ended = h->verdict >= VERDICT_WARN && notice_end(s, end_ms(s, h, &e, ungreeted));
	bool fault = ended && s->end_by_fault;
	/* What an exploration has brought down was seen on servers of its own, which nobody before it has touched. */
	bool brought_down = *strings[REPORT_AGAIN] != '\0';
	char *text;

	s->fault |= fault;
	s->suspect |= e.timed_out && h->verdict == VERDICT_FAIL && s->job->target->via != VIA_URI;
	if (!brought_down && (ungreeted || h->gone) && try_again(s, ended, e.timed_out))
		return;
	if (s->job->target->via != VIA_FORK && !st->served && (ungreeted || fault)) {
		never_greeted(st, s, h, strings, ended);
		return;
	}
	text = ended || (h->gone && s->end != NULL) ? end_and_output(s) : strdup("");
	if (unserved && !brought_down && is_innocent(s))
		make_skip(h, strings, s->end != NULL ? s->end : strings[REPORT_GOT]);
	s->lost_in_case |= h->verdict == VERDICT_FAIL && (ended || h->gone || ungreeted);
	s->closed_in_case |= h->verdict == VERDICT_FAIL && e.closed;
	emit(st, s, h, strings, text);
	free(text);
}

/* The case could not be done for want of a server, and neither can the others. */
static void
take_broken(struct state *st, struct slot *s, const struct report_header *h, const char *message)
{
	/* One that no longer listens may be about to end. */
	bool ended = h->gone && notice_end(s, s->used ? ENDING_MS : 0);
	char *what = NULL;

	if (h->gone && try_again(s, ended, false))
		return;
	s->results++;
	if (h->gone && st->served && s->last != NULL && s->job->target->via == VIA_URI)
		blame(st, s, s->last, GONE_AFTER, message);
	if (ended && asprintf(&what, "%s before it accepted a connection", s->end) < 0)
		abort();
	if (h->gone)
		give_up(st, s, s->job->target, what != NULL ? what : message, true);
	else
		break_off(st, message);
	free(what);
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
		at += h.length[i] + 1; /* each gets its NUL */
	}
	buf_consume(&s->in, size);
	switch (s->silenced ? REPORT_DONE : h.type) {
	case REPORT_RESULT:
		/* Each point has as much time as a case without points. */
		if (s->deadline != INT64_MAX)
			s->deadline = now_ms() + (int64_t)(CASE_MS * s->job->target->factor);
		/* A client case has a server of its own, and tells the end of its clients itself. */
		if (s->job->target->via == VIA_CLIENT)
			emit(st, s, &h, strings, "");
		else
			take_result(st, s, &h, strings);
		break;
	case REPORT_SERVED:
		s->server.starting = false;
		st->served = true;
		break;
	case REPORT_TERMINATED:
		s->server.terminated = s->suspect = true;
		break;
	case REPORT_CHANGED:
		s->suspect = s->changed = true;
		break;
	case REPORT_CUT:
		s->server.terminated = s->suspect = s->cut = true;
		break;
	case REPORT_ENDED:
		free(s->end);
		s->end = strdup(strings[REPORT_MESSAGE]);
		s->end_by_fault = s->told_end = true;
		break;
	case REPORT_UNTIMED:
		s->deadline = s->job->def->untimed ? INT64_MAX : s->deadline;
		break;
	case REPORT_BROKEN:
		take_broken(st, s, &h, strings[REPORT_MESSAGE]);
		s->done = true;
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
	char message[160],
		*strings[REPORT_STRINGS] = { (char *)"", message, (char *)"", (char *)"", (char *)"", (char *)"" };
	struct report_header h = { .type = REPORT_RESULT, .verdict = VERDICT_ERROR, .trace_from = TRACE_HEADER };

	h.trace_to = lseek(s->trace_fd, 0, SEEK_END);
	h.length[REPORT_MESSAGE] = 1;
	if (s->timed_out)
		snprintf(message, sizeof(message), "the case did not go on within %d s: a fault of nbdspec",
		         (int)(CASE_MS * s->job->target->factor / 1000));
	else if (WIFSIGNALED(status))
		snprintf(message, sizeof(message), "the case was killed by signal %d (%s): a fault of nbdspec",
		         WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		snprintf(message, sizeof(message), "the case ended with status %d: a fault of nbdspec",
		         WEXITSTATUS(status));
	emit(st, s, &h, strings, "");
}

static void
show_trace(struct state *st, struct slot *s, size_t size)
{
	uint8_t *map = mmap(NULL, size, PROT_READ, MAP_SHARED, s->trace_fd, 0);

	if (map == MAP_FAILED)
		abort();
	st->r->traced(st->r->arg, wire(map + TRACE_HEADER, size - TRACE_HEADER));
	munmap(map, size);
}

static void
keep_trace(struct state *st, struct slot *s)
{
	off_t at = TRACE_HEADER, size = lseek(s->trace_fd, 0, SEEK_END);

	while (st->r->trace_fd >= 0 && at < size && st->end.trace_failed == 0)
		if (sendfile(st->r->trace_fd, s->trace_fd, &at, (size_t)(size - at)) <= 0)
			st->end.trace_failed = errno;
	if (st->r->traced != NULL && size > TRACE_HEADER)
		show_trace(st, s, (size_t)size);
}

/* The second try tells whose fault it was that the server was lost before the first. */
static void
settle_lost(struct state *st, struct slot *s)
{
	if (s->lost != NULL && !s->fault && s->last != NULL && s->results > 0)
		blame(st, s, s->last, GONE_AFTER, s->lost);
	free(s->lost);
	s->lost = NULL;
}

static void
finish_case(struct state *st, struct slot *s)
{
	const struct job *job = s->job;
	int status = 0;

	while (take_report(st, s))
		;
	waitpid(s->pid, &status, 0);
	close(s->reports);
	s->pid = 0;
	keep_trace(st, s);
	if (s->attempt == TRY_AGAIN && !st->stopping) {
		s->job = NULL;
		start_case(st, s, job);
		return;
	}
	if (!s->done && !s->silenced && !st->end.interrupted)
		case_broke(st, s, status);
	if (s->results > 0 && !st->stopping)
		server_died(st, s, job);
	settle_lost(st, s);
	s->last = job;
	s->job = NULL;
	s->attempt = FIRST_TRY;
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

static int
wait_ms(const struct state *st)
{
	int64_t soonest = st->r->progress_ms > 0 ? st->progress_at : -1, now = now_ms();

	for (unsigned i = 0; i < st->r->slots; i++)
		if (st->slots[i].job != NULL && st->slots[i].deadline != INT64_MAX &&
		    (soonest < 0 || st->slots[i].deadline < soonest))
			soonest = st->slots[i].deadline;
	return soonest < 0 ? -1 : soonest <= now ? 0 : (int)(soonest - now);
}

static void
show_progress(struct state *st, int64_t now)
{
	if (st->r->progress_ms == 0 || now < st->progress_at)
		return;
	st->progress_at = now + st->r->progress_ms;
	for (unsigned i = 0; i < st->r->slots; i++)
		if (st->slots[i].job != NULL) {
			st->r->progress(st->r->arg, (unsigned)st->done, st->slots[i].job->def);
			return;
		}
}

static void
turn(struct state *st)
{
	/* A second signal stays pending: it tells server_stop that patience is at an end. */
	struct pollfd p[65] = { { .fd = st->end.interrupted ? -1 : st->signals, .events = POLLIN } };
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
	show_progress(st, now);
}

/* NULL: there is none left for this slot. */
static const struct job *
next_job(struct state *st, struct slot *s)
{
	size_t *next = st->r->in_turn ? &s->next : &st->next, step = st->r->in_turn ? st->r->slots : 1, i = *next;

	if (i >= st->n)
		return NULL;
	*next += step;
	return &st->jobs[i];
}

static bool
fill_slots(struct state *st)
{
	bool busy = false;

	for (unsigned i = 0; i < st->r->slots; i++) {
		struct slot *s = &st->slots[i];
		const struct job *job;

		while (s->job == NULL && !st->stopping && (job = next_job(st, s)) != NULL)
			start_case(st, s, job);
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

/* Behind the last case there is no next one that would find the server gone. */
static void
look_after_last(struct state *st, struct slot *s)
{
	const struct target *t = s->last != NULL ? s->last->target : NULL;
	char error[512], *text = NULL;

	if (t == NULL || st->stopping || t->fresh || s->one_shot || s->suspect ||
	    (t->via != VIA_URI && s->server.pid == 0) ||
	    (server_running(&s->server) && server_greets(&s->server, error)))
		return;
	if (t->via == VIA_URI || !notice_end(s, ENDING_MS))
		blame(st, s, s->last, GONE_AFTER, error);
	else if (s->end_by_fault)
		blame(st, s, s->last, GONE_AFTER, text = end_and_output(s));
	free(text);
}

static void
end_slots(struct state *st)
{
	for (unsigned i = 0; i < st->r->slots; i++) {
		look_after_last(st, &st->slots[i]);
		server_ask(&st->slots[i].server);
	}
	for (unsigned i = 0; i < st->r->slots; i++) {
		server_stop(&st->slots[i].server);
		quiet_free(st->slots[i].server.quiet);
		if (st->slots[i].server.one_at_a_time != NULL)
			munmap(st->slots[i].server.one_at_a_time, sizeof(_Atomic bool));
		buf_free(&st->slots[i].in);
		free(st->slots[i].lost);
		free(st->slots[i].end);
		if (st->slots[i].trace_fd >= 0)
			close(st->slots[i].trace_fd);
	}
	end_strays();
	free(st->slots);
}

struct run_end
run_jobs(const struct runner *r, const struct job *jobs, size_t n)
{
	struct state st = { .r = r, .jobs = jobs, .n = n };
	sigset_t mask = stop_signals(), old;

	sigprocmask(SIG_BLOCK, &mask, &old);
	st.signals = signalfd(-1, &mask, SFD_CLOEXEC);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGPIPE, SIG_IGN);
	st.slots = calloc(r->slots, sizeof(*st.slots));
	if (st.slots == NULL)
		abort();
	for (unsigned i = 0; i < r->slots; i++) {
		st.slots[i].next = i;
		st.slots[i].trace_fd = st.slots[i].server.pidfd = st.slots[i].server.stdio = -1;
	}
	while (fill_slots(&st))
		turn(&st);
	end_slots(&st);
	close(st.signals);
	sigprocmask(SIG_SETMASK, &old, NULL);
	return st.end;
}
