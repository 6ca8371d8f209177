#include "harness/process.h"

#include "harness/clock.h"
#include "harness/file.h"
#include "harness/lower.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MARK "NBDSPEC_SERVER"

enum { MOST_CHILDREN = 1024, KILLED_MS = 3000, GUARD_MS = 10000 };

/* ---- being one ---- */

sigset_t
stop_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	return set;
}

void
become_child(pid_t parent)
{
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127); /* it died before it could be said */
	setpgid(0, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	signal(SIGXFSZ, SIG_DFL);
}

void
carry_mark(const char *mark)
{
	setenv(MARK, mark, 1);
}

/* ---- waiting ---- */

int
process_open(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

enum process_wait
process_wait(int pidfd, int ms)
{
	sigset_t stop = stop_signals();
	struct pollfd p[2] = { { .fd = pidfd, .events = POLLIN },
		               { .fd = signalfd(-1, &stop, SFD_CLOEXEC), .events = POLLIN } };

	(void)poll(p, 2, ms);
	if (p[1].fd >= 0)
		close(p[1].fd);
	return p[0].revents != 0 ? PROCESS_ENDED : p[1].revents != 0 ? PROCESS_INTERRUPTED : PROCESS_RUNS;
}

static enum process_wait
wait_deaf(int pidfd, int ms)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	return poll(&p, 1, ms) > 0 ? PROCESS_ENDED : PROCESS_RUNS;
}

int
run_shell(const char *command, const char *output, const char *mark, int ms)
{
	enum process_wait how;
	int status = -1, pidfd;
	pid_t us = getpid(), pid = fork();

	if (pid < 0)
		return -1;
	if (pid == 0) {
		int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
		int out = open(output, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

		become_child(us);
		carry_mark(mark);
		dup2(null, 0);
		dup2(out, 1);
		dup2(out, 2);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	setpgid(pid, pid);
	pidfd = process_open(pid);
	how = process_wait(pidfd, ms);
	if (how != PROCESS_ENDED) {
		kill(-pid, SIGKILL);
		/* It may wait for a disk that is gone. */
		wait_deaf(pidfd, KILLED_MS);
	}
	waitpid(pid, &status, WNOHANG);
	close(pidfd);
	errno = how == PROCESS_RUNS ? ETIMEDOUT : EINTR;
	return how == PROCESS_ENDED ? status : -1;
}

int
run_apart(int (*act)(const void *arg), const void *arg, pid_t carrier, int ms)
{
	enum process_wait how;
	pid_t us = getpid(), pid = fork();
	int status = 0, pidfd;

	if (pid < 0)
		return errno;
	if (pid == 0) {
		become_child(us);
		_exit(act(arg));
	}
	pidfd = process_open(pid);
	how = carrier != 0 ? process_wait(pidfd, ms) : wait_deaf(pidfd, ms);
	if (how != PROCESS_ENDED) {
		if (carrier > 0)
			kill(carrier, SIGKILL);
		kill(pid, SIGKILL);
		wait_deaf(pidfd, KILLED_MS);
	}
	waitpid(pid, &status, WNOHANG);
	close(pidfd);
	if (how == PROCESS_ENDED)
		return WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
	return how == PROCESS_RUNS ? ETIMEDOUT : EINTR;
}

/* ---- finding ---- */

size_t
list_children(pid_t *pids, size_t most)
{
	char path[64];
	long pid;
	size_t n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%ld/children", (long)getpid());
	f = fopen(path, "re");
	while (f != NULL && n < most && fscanf(f, "%ld", &pid) == 1)
		pids[n++] = (pid_t)pid;
	if (f != NULL)
		fclose(f);
	return n;
}

/* Either of two; `other` may be NULL. */
static bool
has_mark(pid_t pid, const char *mark, const char *other)
{
	char path[64], *text = NULL;
	size_t size = 0;
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%ld/environ", (long)pid);
	f = fopen(path, "re");
	while (f != NULL && !found && getdelim(&text, &size, '\0', f) > 0)
		found = strncmp(text, MARK "=", sizeof(MARK)) == 0 &&
		        (strcmp(text + sizeof(MARK), mark) == 0 ||
		         (other != NULL && strcmp(text + sizeof(MARK), other) == 0));
	free(text);
	if (f != NULL)
		fclose(f);
	return found;
}

pid_t
marked_child(const char *mark)
{
	pid_t pids[MOST_CHILDREN];
	size_t n = list_children(pids, MOST_CHILDREN);

	for (size_t i = 0; i < n; i++)
		if (has_mark(pids[i], mark, NULL))
			return pids[i];
	return 0;
}

unsigned
signal_marked(const char *mark, const char *other, int signal)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	unsigned n = 0;

	while (proc != NULL && (entry = readdir(proc)) != NULL) {
		pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? (pid_t)atol(entry->d_name) : 0;

		if (pid > 0 && pid != getpid() && has_mark(pid, mark, other) && kill(pid, signal) == 0)
			n++;
	}
	if (proc != NULL)
		closedir(proc);
	return n;
}

/* ---- ending ---- */

void
end_marked_children(const char *mark)
{
	pid_t pid;

	while ((pid = marked_child(mark)) > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

/*
 * A process that is being killed is listed until it has let go of its memory, and one that is just being executed is not
 * yet; that may mount what it was started for. So there is more than one round: in a directory that is gone nobody mounts.
 */
_Noreturn static void
stand_guard(const char *dir, pid_t ward)
{
	char *lower = lower_mark(dir);
	int64_t until;
	sigset_t death;
	int null = open("/dev/null", O_RDWR), came;

	setsid();
	sigemptyset(&death);
	sigaddset(&death, SIGUSR1);
	prctl(PR_SET_PDEATHSIG, SIGUSR1);
	prctl(PR_SET_NAME, "nbdspec-guard");
	/* Whoever reads what we print, or serves a connection of ours, must see the end of it when the ward dies. */
	for (int fd = 0; fd < 3; fd++)
		if (dup2(null, fd) < 0)
			close(fd);
	close_range(3, ~0u, 0);
	if (getppid() == ward)
		sigwait(&death, &came);
	until = now_ms() + GUARD_MS;
	while (now_ms() < until) {
		bool some = signal_marked(dir, lower, SIGKILL) > 0;

		lower_unmount(dir);
		if (!some)
			remove_dir(dir);
		if (!some && access(dir, F_OK) != 0)
			break;
		poll(NULL, 0, 5);
	}
	_exit(0);
}

/* Tells the name of the directory, or else what went wrong; no moment is without one that knows of the directory. */
_Noreturn static void
make_and_guard(int told, pid_t ward)
{
	char error[512], *dir = make_private_dir(error);
	const char *text = dir != NULL ? dir : error;

	(void)!write(told, text, strlen(text));
	if (dir == NULL)
		_exit(1);
	stand_guard(dir, ward);
}

char *
make_guarded_dir(pid_t *guard, char error[512])
{
	pid_t ward = getpid(), pid;
	char text[PATH_MAX] = "";
	sigset_t all, old;
	int told[2];

	*guard = 0;
	/* It may be dismissed before it has got anywhere. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	pid = pipe2(told, O_CLOEXEC) == 0 ? fork() : -1;
	if (pid == 0)
		make_and_guard(told[1], ward);
	if (pid < 0)
		snprintf(error, 512, "cannot start a process: %s", strerror(errno));
	else {
		close(told[1]);
		(void)!read(told[0], text, sizeof(text) - 1);
		close(told[0]);
	}
	sigprocmask(SIG_SETMASK, &old, NULL);
	if (pid < 0)
		return NULL;
	if (text[0] == '/') {
		*guard = pid;
		return strdup(text);
	}
	snprintf(error, 512, "%.500s", text);
	waitpid(pid, NULL, 0);
	return NULL;
}

void
dismiss_guard(pid_t guard, const char *dir)
{
	if (guard <= 0)
		return;
	kill(guard, access(dir, F_OK) == 0 ? SIGUSR1 : SIGKILL);
	waitpid(guard, NULL, 0);
}
