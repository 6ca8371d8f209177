/*
 * Processes that we start, and those that they start in turn: found by a mark in their environment, waited for without
 * deafness to Ctrl-C, ended with us.
 */
#ifndef NBDSPEC_PROCESS_H
#define NBDSPEC_PROCESS_H

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

/* SIGINT, SIGTERM and SIGHUP: whoever runs jobs blocks them and reads them from a signalfd. */
sigset_t stop_signals(void);

/* In a fresh child: a process group of its own, signals as a program expects them, and SIGKILL when the parent dies. */
void become_child(pid_t parent);
/* What the child executes, and all that this starts, carries the mark. */
void carry_mark(const char *mark);

enum process_wait { PROCESS_ENDED, PROCESS_RUNS, PROCESS_INTERRUPTED };
/* At most `ms` milliseconds, and no longer than until a stop signal is pending; that one stays pending. */
enum process_wait process_wait(int pidfd, int ms);
int process_open(pid_t pid); /* a pidfd, readable once it has ended */

size_t list_children(pid_t *pids, size_t most);       /* of this process; how many */
pid_t marked_child(const char *mark);                 /* a child of ours that carries the mark, or 0 */
/* All that carry the mark, or the other where it is not NULL, wherever they are; signal 0 only counts. */
unsigned signal_marked(const char *mark, const char *other, int signal);
void end_marked_children(const char *mark);           /* and their children, which become ours */

/*
 * Runs a shell command under the mark, with its output appended to a file. The wait status; or -1 and errno: ETIMEDOUT,
 * or EINTR when a stop signal is pending. What it leaves in the background goes on.
 */
int run_shell(const char *command, const char *output, const char *mark, int ms);

/*
 * Runs `act` in a process of its own and returns what that returns, an errno: a process that waits for a disk cannot be
 * killed, and that must not be we. ETIMEDOUT, or EINTR when a stop signal is pending: then `carrier`, which the disk
 * depends on, was killed for it. With carrier 0 no signal stops it; with NO_CARRIER, of a disk that depends on nobody, one
 * does.
 */
enum { NO_CARRIER = -1 };
int run_apart(int (*act)(const void *arg), const void *arg, pid_t carrier, int ms);

/*
 * Makes a private directory (file.h), and a process that waits for nothing but our death, be it by SIGKILL: then it ends
 * all that carry the directory's name as their mark, and removes it. The name, malloc'd, and the guard's pid, which
 * dismiss_guard ends; or NULL and one line.
 */
char *make_guarded_dir(pid_t *guard, char error[512]);
/* When the directory is still there, for want of descriptors to remove it with, the guard does its duty first. */
void dismiss_guard(pid_t guard, const char *dir);

#endif
