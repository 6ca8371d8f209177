/*
 * A workload in the guest: a filesystem on the device of a handle, and a program of the initramfs that works in it at /mount.
 * Each line on its descriptor $NBDSPEC_MARK_FD (docs/recording.md) goes to the host as "mark TEXT", and the host's "ok" to it.
 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOUNT   "/mount"
#define PROGRAM "/workload"
enum { MARK_FD = 9, LINE_MOST = 4096 };

static int answers = -1;

void
workload_answer(void)
{
	if (answers >= 0)
		(void)!write(answers, "ok\n", 3);
}

_Noreturn static void
be_program(char *const *words, int marks)
{
	char number[16];

	dup2(2, 1);
	dup2(marks, MARK_FD);
	snprintf(number, sizeof(number), "%d", MARK_FD);
	setenv("NBDSPEC_MARK_FD", number, 1);
	execv(PROGRAM, words);
	dprintf(2, "guest: %s: %s\n", PROGRAM, strerror(errno));
	_exit(127);
}

static void
relay_marks(int from, void (*mark)(const char *text))
{
	char line[LINE_MOST];
	FILE *f = fdopen(from, "r");

	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		mark(line);
	}
	if (f != NULL)
		fclose(f);
}

int
workload_run(const char *device, const struct workload *w, void (*mark)(const char *text), int *status)
{
	int marks[2];
	pid_t pid;

	mkdir(MOUNT, 0755);
	load_modules("/modules/filesystem");
	if (mount(device, MOUNT, w->filesystem, 0, w->options) != 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, marks) != 0)
		return errno;
	answers = fcntl(marks[0], F_DUPFD_CLOEXEC, 0);
	pid = fork();
	if (pid == 0)
		be_program(w->words, marks[1]);
	if (pid < 0)
		return errno;
	close(marks[1]);
	relay_marks(marks[0], mark);
	return waitpid(pid, status, 0) == pid ? 0 : errno;
}
