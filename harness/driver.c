#include "harness/driver.h"

#include "harness/clock.h"
#include "harness/file.h"
#include "harness/printable.h"
#include "harness/process.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	VERSION = 1,
	WHAT_MOST = 48, /* bytes of a request that are told of it */
	END_MS = 3000,  /* that a driver has to end by itself before it is killed */
	QUEUE_MOST = 2 * DRIVER_LINE_MOST,
};

struct asked {
	unsigned tag;
	char what[WHAT_MOST];
};

struct driver {
	struct driver_options options;
	char *dir;        /* its output, and the mark of its processes */
	pid_t pid, guard; /* without a guard the directory is not ours to remove */
	int in, out, pidfd, epoll;
	bool wants_room;   /* epoll tells when `in` can be written to */
	bool output_ended; /* of the driver's */
	char error[1024];  /* sticky */

	char greeting[DRIVER_LINE_MOST];
	char name[64], version[64];
	const char *operations; /* in the greeting: the words from the first one on */
	unsigned depth, handles;

	unsigned last_tag, n_asked, n_sent; /* of those asked, the first n_sent are released to be written */
	struct asked asked[DRIVER_DEPTH_MOST * 2];
	char queue[QUEUE_MOST]; /* lines for it: written, then released, then held back for its depth */
	size_t written, released, queued;
	char lines[DRIVER_LINE_MOST]; /* from it */
	size_t len, taken;            /* of them, what the last answer was */
};

/* ---- what is wrong ---- */

static bool broken(struct driver *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static bool
broken(struct driver *d, const char *fmt, ...)
{
	char text[sizeof(d->error) / 2];
	va_list ap;

	if (d->error[0] != '\0')
		return false;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	printable_into(d->error, sizeof(d->error), text, strlen(text), PRINTABLE_AGAIN);
	return false;
}

/* The begin of what came, fit to be told. */
static const char *
excerpt(char out[160], const char *line)
{
	size_t len = strlen(line);

	printable_into(out, 160, line, len < 60 ? len : 60, 0);
	if (len > 60)
		strcat(out, "…");
	return out;
}

static bool
died(struct driver *d)
{
	char *log = driver_log(d, 1), said[160], how[80] = "has closed its standard output";
	siginfo_t end = { .si_pid = 0 };

	log[strcspn(log, "\n")] = '\0';
	/* It stays to be waited for; a case is not its parent, and cannot know. */
	process_wait(d->pidfd, END_MS);
	if (waitid(P_PID, (id_t)d->pid, &end, WEXITED | WNOHANG | WNOWAIT) == 0 && end.si_pid == d->pid) {
		if (end.si_code == CLD_EXITED)
			snprintf(how, sizeof(how), "ended with exit status %d", end.si_status);
		else
			snprintf(how, sizeof(how), "was killed by signal %d (%s)", end.si_status,
			         strsignal(end.si_status));
	}
	broken(d, "the driver %s%s%s%s%s%s", how, d->n_asked > 0 ? " instead of answering '" : "",
	       d->n_asked > 0 ? d->asked[0].what : "", d->n_asked > 0 ? "'" : "", *log != '\0' ? "; it printed: " : "",
	       excerpt(said, log));
	free(log);
	return false;
}

const char *
driver_error(const struct driver *d)
{
	return d->error;
}

char *
driver_log(const struct driver *d, unsigned lines)
{
	char *path = join_path(d->dir, "output"), *text = file_tail(path, lines);

	free(path);
	return text;
}

/* ---- starting and ending ---- */

_Noreturn static void
in_child(const struct driver *d, char *const *argv, int in, int out, int report, pid_t us)
{
	char *log = join_path(d->dir, "output");
	int err = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600), failed;

	become_child(us);
	dup2(in, 0);
	dup2(out, 1);
	dup2(err, 2);
	if (d->options.run != NULL) {
		close_range(3, ~0u, 0);
		_exit(d->options.run(argv));
	}
	carry_mark(d->dir);
	execvp(argv[0], argv);
	failed = errno;
	(void)!write(report, &failed, sizeof(failed));
	_exit(127);
}

/* The pipe `report` closes by itself at exec; it carries errno where exec fails. */
static bool
spawn(struct driver *d, char *const *argv)
{
	int in[2] = { -1, -1 }, out[2] = { -1, -1 }, report[2] = { -1, -1 }, failed = 0;
	pid_t us = getpid(), pid = -1;

	if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(report, O_CLOEXEC) != 0 ||
	    (pid = fork()) < 0)
		failed = errno;
	else if (pid == 0)
		in_child(d, argv, in[0], out[1], report[1], us);
	/* Not by the child: this is memory of both. */
	d->pid = pid > 0 ? pid : 0;
	d->in = in[1];
	d->out = out[0];
	close(in[0]);
	close(out[1]);
	close(report[1]);
	if (failed == 0 && read(report[0], &failed, sizeof(failed)) != sizeof(failed))
		failed = 0;
	close(report[0]);
	errno = failed;
	return failed == 0;
}

static bool
watch(struct driver *d)
{
	struct epoll_event out = { .events = EPOLLIN }, end = { .events = EPOLLIN };

	d->pidfd = process_open(d->pid);
	d->epoll = epoll_create1(EPOLL_CLOEXEC);
	return fcntl(d->in, F_SETFL, O_NONBLOCK) == 0 && fcntl(d->out, F_SETFL, O_NONBLOCK) == 0 &&
	       epoll_ctl(d->epoll, EPOLL_CTL_ADD, d->out, &out) == 0 &&
	       epoll_ctl(d->epoll, EPOLL_CTL_ADD, d->pidfd, &end) == 0;
}

struct driver *
driver_start(char *const *argv, const struct driver_options *options, char error[512])
{
	struct driver *d = mmap(NULL, sizeof(*d), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (d == MAP_FAILED) {
		snprintf(error, 512, "no memory for a driver: %s", strerror(errno));
		return NULL;
	}
	d->options = *options;
	d->in = d->out = d->pidfd = d->epoll = -1;
	d->depth = d->handles = 1;
	d->operations = d->greeting;
	d->dir = options->dir != NULL ? strdup(options->dir) : make_guarded_dir(&d->guard, error);
	if (d->dir != NULL) {
		if (spawn(d, argv) && watch(d))
			return d;
		snprintf(error, 512, "%.300s: %s", argv[0], strerror(errno));
	}
	driver_stop(d);
	return NULL;
}

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void
driver_stop(struct driver *d)
{
	if (d == NULL)
		return;
	close_fd(&d->in);
	if (d->pid > 0) {
		/* One that is broken, or owes answers, is not given the time. */
		if (d->pidfd < 0 || d->n_asked > 0 || d->error[0] != '\0' ||
		    process_wait(d->pidfd, END_MS) != PROCESS_ENDED)
			kill(d->pid, SIGKILL);
		kill(-d->pid, SIGKILL);
		waitpid(d->pid, NULL, 0);
	}
	close_fd(&d->out);
	close_fd(&d->pidfd);
	close_fd(&d->epoll);
	/* What is forked and not executed starts nothing. */
	if (d->dir != NULL && d->options.run == NULL)
		for (int round = 0; round < 200 && signal_marked(d->dir, NULL, SIGKILL) > 0; round++)
			poll(NULL, 0, 5);
	if (d->guard > 0) {
		remove_dir(d->dir);
		dismiss_guard(d->guard, d->dir);
	}
	free(d->dir);
	munmap(d, sizeof(*d));
}

static bool
wait_for(const struct driver *d, int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (d->options.wait != NULL)
		return d->options.wait(d->options.arg, fd, ms);
	return poll(&p, 1, ms) >= 0 || errno == EINTR;
}

static int
limit_ms(const struct driver *d)
{
	return (int)(DRIVER_LIMIT_MS * d->options.factor);
}

bool
driver_end(struct driver *d)
{
	int64_t until = now_ms() + limit_ms(d), left;
	struct pollfd p = { .fd = d->pidfd, .events = POLLIN };
	siginfo_t end = { .si_pid = 0 };

	close_fd(&d->in);
	while ((left = until - now_ms()) > 0 && poll(&p, 1, 0) == 0)
		if (!wait_for(d, d->pidfd, (int)left))
			return broken(d, "interrupted");
	if (poll(&p, 1, 0) == 0)
		return broken(d, "the driver does not end within %g s of the end of its input", limit_ms(d) / 1000.0);
	waitid(P_PID, (id_t)d->pid, &end, WEXITED | WNOWAIT);
	return (end.si_code == CLD_EXITED && end.si_status == 0) || died(d);
}

/* ---- to it ---- */

/* As many lines as its depth lets through. */
static void
release(struct driver *d)
{
	const char *end;

	while (d->n_sent < d->n_asked && d->n_sent < d->depth) {
		end = memchr(d->queue + d->released, '\n', d->queued - d->released);
		d->released = (size_t)(end + 1 - d->queue);
		d->n_sent++;
	}
}

static void
watch_room(struct driver *d, bool wanted)
{
	struct epoll_event e = { .events = EPOLLOUT };

	if (wanted != d->wants_room)
		epoll_ctl(d->epoll, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, d->in, &e);
	d->wants_room = wanted;
}

/* EPIPE is no matter here: the end of its output follows, and what it said before is taken first. */
static void
write_queue(struct driver *d)
{
	void (*old)(int) = signal(SIGPIPE, SIG_IGN);
	ssize_t n = 1;

	release(d);
	while (d->written < d->released && n > 0) {
		n = write(d->in, d->queue + d->written, d->released - d->written);
		d->written += n > 0 ? (size_t)n : 0;
	}
	if (n < 0 && errno == EPIPE)
		d->written = d->released;
	watch_room(d, d->written < d->released);
	signal(SIGPIPE, old);
}

static bool
queue_line(struct driver *d, const char *line, size_t len)
{
	if (d->queued + len > QUEUE_MOST) {
		memmove(d->queue, d->queue + d->written, d->queued - d->written);
		d->queued -= d->written;
		d->released -= d->written;
		d->written = 0;
	}
	if (len > DRIVER_LINE_MOST || d->queued + len > QUEUE_MOST || d->n_asked == DRIVER_DEPTH_MOST * 2)
		return false;
	memcpy(d->queue + d->queued, line, len);
	d->queued += len;
	return true;
}

static unsigned
send_line(struct driver *d, unsigned handle, const char *fmt, va_list ap)
{
	struct asked *a = &d->asked[d->n_asked];
	char *words, *line;
	int len;

	if (d->error[0] != '\0')
		return 0;
	if (vasprintf(&words, fmt, ap) < 0)
		abort();
	len = asprintf(&line, "%u %u %s\n", ++d->last_tag, handle, words);
	if (len < 0)
		abort();
	if (queue_line(d, line, (size_t)len)) {
		a->tag = d->last_tag;
		snprintf(a->what, sizeof(a->what), "%s", line);
		a->what[strcspn(a->what, "\n")] = '\0';
		d->n_asked++;
		write_queue(d);
	} else {
		broken(d, "too much was asked of the driver at once");
	}
	free(words);
	free(line);
	return d->error[0] == '\0' ? d->last_tag : 0;
}

unsigned
driver_send(struct driver *d, unsigned handle, const char *fmt, ...)
{
	unsigned tag;
	va_list ap;

	va_start(ap, fmt);
	tag = send_line(d, handle, fmt, ap);
	va_end(ap);
	return tag;
}

/* ---- from it ---- */

static void
read_some(struct driver *d)
{
	ssize_t n;

	if (d->len == sizeof(d->lines) || d->output_ended)
		return;
	n = read(d->out, d->lines + d->len, sizeof(d->lines) - d->len);
	if (n > 0)
		d->len += (size_t)n;
	else if (n == 0 || errno != EAGAIN)
		d->output_ended = true;
}

/* The next whole line, without its end, or NULL; the one before is forgotten. */
static char *
next_line(struct driver *d)
{
	char *end;

	memmove(d->lines, d->lines + d->taken, d->len - d->taken);
	d->len -= d->taken;
	d->taken = 0;
	end = memchr(d->lines, '\n', d->len);
	if (end == NULL) {
		read_some(d);
		end = memchr(d->lines, '\n', d->len);
	}
	if (end == NULL)
		return NULL;
	*end = '\0';
	d->taken = (size_t)(end + 1 - d->lines);
	if (strlen(d->lines) + 1 == d->taken)
		return d->lines;
	broken(d, "the driver sends a line with a zero byte in it");
	return NULL;
}

/* Waits for a line. *line is NULL when the time is over, and there is no error. */
static bool
await_line(struct driver *d, char **line, int ms)
{
	int64_t until = now_ms() + ms, left;
	bool ended;

	while ((*line = next_line(d)) == NULL && d->error[0] == '\0') {
		/* What it said before it ended has been taken by now. */
		ended = d->output_ended || process_wait(d->pidfd, 0) == PROCESS_ENDED;
		if (d->len == sizeof(d->lines))
			return broken(d, "the driver sends a line of more than %d bytes", DRIVER_LINE_MOST);
		if (ended && (*line = next_line(d)) == NULL)
			return died(d);
		if (*line != NULL)
			return true;
		write_queue(d);
		left = until - now_ms();
		if (left <= 0)
			return true;
		if (!wait_for(d, d->epoll, (int)left))
			return broken(d, "interrupted");
	}
	return d->error[0] == '\0';
}

/* Takes the tag off the list of what is asked. False: it is not there. */
static bool
take_tag(struct driver *d, unsigned tag)
{
	unsigned i = 0;

	while (i < d->n_sent && d->asked[i].tag != tag)
		i++;
	if (i == d->n_sent)
		return false;
	memmove(&d->asked[i], &d->asked[i + 1], (d->n_asked - i - 1) * sizeof(d->asked[0]));
	d->n_asked--;
	d->n_sent--;
	return true;
}

static const char *
behind(const char *text, const char *word)
{
	size_t len = strlen(word);

	if (strncmp(text, word, len) != 0 || (text[len] != ' ' && text[len] != '\0'))
		return NULL;
	return text[len] == ' ' ? text + len + 1 : text + len;
}

static bool
is_name(const char *text)
{
	size_t len = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");

	return len > 0 && (text[len] == ' ' || text[len] == '\0');
}

static bool
read_answer(struct driver *d, char *line, struct driver_answer *a)
{
	char *end, said[160];
	unsigned long tag = strtoul(line, &end, 10);
	const char *rest = end + 1;

	if (!isdigit((unsigned char)line[0]) || *end != ' ')
		return broken(d, "the driver says '%s': want 'TAG ok …', 'TAG error NAME' or 'TAG unsupported'",
		              excerpt(said, line));
	*a = (struct driver_answer){ .tag = (unsigned)tag };
	if ((a->text = behind(rest, "ok")) != NULL)
		a->result = DRIVER_OK;
	else if ((a->text = behind(rest, "error")) != NULL && is_name(a->text))
		a->result = DRIVER_ERROR;
	else if ((a->text = behind(rest, "unsupported")) != NULL)
		a->result = DRIVER_UNSUPPORTED;
	else
		return broken(d, "the driver answers '%s': want ok, error and a name such as EIO, or unsupported",
		              excerpt(said, line));
	if (tag != (unsigned)tag || !take_tag(d, a->tag))
		return broken(d, "the driver answers '%s': nothing with this tag waits for an answer",
		              excerpt(said, line));
	write_queue(d);
	return true;
}

enum driver_took
driver_take(struct driver *d, struct driver_answer *a, int ms)
{
	char *line;

	if (d->error[0] != '\0' || !await_line(d, &line, ms < 0 ? limit_ms(d) : ms))
		return DRIVER_BROKEN;
	if (line != NULL)
		return read_answer(d, line, a) ? DRIVER_TOOK : DRIVER_BROKEN;
	if (ms >= 0)
		return DRIVER_NOTHING;
	broken(d, "the driver does not answer '%s' within %g s", d->n_asked > 0 ? d->asked[0].what : "",
	       limit_ms(d) / 1000.0);
	return DRIVER_BROKEN;
}

bool
driver_ask(struct driver *d, struct driver_answer *a, unsigned handle, const char *fmt, ...)
{
	unsigned tag;
	va_list ap;

	va_start(ap, fmt);
	tag = send_line(d, handle, fmt, ap);
	va_end(ap);
	return tag != 0 && driver_take(d, a, -1) == DRIVER_TOOK;
}

unsigned
driver_in_flight(const struct driver *d)
{
	return d->n_asked;
}

int
driver_fd(const struct driver *d)
{
	return d->epoll;
}

/* ---- the greeting ---- */

/* "depth=16": 16. Which words are numbers of the greeting is said by the page. */
static bool
read_limit(const char **at, const char *key, unsigned most, unsigned *n)
{
	size_t len = strlen(key);
	unsigned long value;
	char *end;

	if (strncmp(*at, key, len) != 0 || !isdigit((unsigned char)(*at)[len]))
		return false;
	value = strtoul(*at + len, &end, 10);
	*n = value < most ? (unsigned)value : most;
	*at = *end == ' ' ? end + 1 : end;
	return value > 0 && (*end == ' ' || *end == '\0');
}

static size_t
take_word(const char **at, char *out, size_t size)
{
	size_t len = strcspn(*at, " ");

	printable_into(out, size, *at, len, 0);
	*at += len;
	*at += **at == ' ';
	return len;
}

bool
driver_greet(struct driver *d)
{
	static const char *const needed[] = { "connect", "disconnect", "read" };
	static const char want[] = "want 'nbdspec-driver 1 CLIENT VERSION depth=N handles=N OPERATION…'";
	char *line, said[160];
	const char *at;

	/* To be started takes its time, however quick it is afterwards. */
	int ms = 4 * limit_ms(d) > DRIVER_LIMIT_MS ? 4 * limit_ms(d) : DRIVER_LIMIT_MS;

	if (!await_line(d, &line, ms))
		return false;
	if (line == NULL)
		return broken(d, "the driver does not greet within %g s: %s", ms / 1000.0, want);
	strcpy(d->greeting, line);
	at = behind(d->greeting, "nbdspec-driver");
	if (at == NULL || !isdigit((unsigned char)*at))
		return broken(d, "the driver greets with '%s': %s", excerpt(said, line), want);
	if (strtoul(at, NULL, 10) != VERSION)
		return broken(d, "the driver speaks version %lu of the protocol, want %d", strtoul(at, NULL, 10),
		              VERSION);
	at = behind(at, "1");
	if (at == NULL || take_word(&at, d->name, sizeof(d->name)) == 0 ||
	    take_word(&at, d->version, sizeof(d->version)) == 0 ||
	    !read_limit(&at, "depth=", DRIVER_DEPTH_MOST, &d->depth) ||
	    !read_limit(&at, "handles=", DRIVER_HANDLES_MOST, &d->handles) || *at == '\0')
		return broken(d, "the driver greets with '%s': %s", excerpt(said, line), want);
	d->operations = at;
	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		if (!driver_has(d, needed[i], NULL))
			return broken(d, "the driver greets without '%s', which every driver has", needed[i]);
	return true;
}

const char *
driver_name(const struct driver *d)
{
	return d->name;
}

const char *
driver_version(const struct driver *d)
{
	return d->version;
}

unsigned
driver_depth(const struct driver *d)
{
	return d->depth;
}

unsigned
driver_handles(const struct driver *d)
{
	return d->handles;
}

bool
driver_has(const struct driver *d, const char *operation, const char *flag)
{
	size_t len = strlen(operation), flag_len = flag != NULL ? strlen(flag) : 0, n;

	for (const char *at = d->operations; *at != '\0'; at += at[n] == ' ' ? n + 1 : n) {
		n = strcspn(at, " ");
		if (strcspn(at, " +") != len || strncmp(at, operation, len) != 0)
			continue;
		if (flag == NULL)
			return true;
		for (const char *f = at + len; *f == '+'; f += 1 + strcspn(f + 1, " +"))
			if (strcspn(f + 1, " +") == flag_len && strncmp(f + 1, flag, flag_len) == 0)
				return true;
	}
	return false;
}
