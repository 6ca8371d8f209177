/*
 * What stands below a server under test, for power cuts (design, section 9): the fake server with a volatile cache, and
 * over it a file (nbdfuse) that the server keeps its data in, or its URI for a server that is itself a client.
 */
#ifndef NBDSPEC_LOWER_H
#define NBDSPEC_LOWER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct filesystem;
struct lower;

/* NULL, or what is missing here for a file, or a filesystem (or NULL), over a fake disk, one line. */
const char *lower_lacks(const struct filesystem *fs);

/*
 * Starts it in `dir`, the server's private directory; everything that it starts carries a mark of its own
 * (lower_mark). `file`: with a file, dir/mnt/disk, and with a filesystem on it where `fs` is not NULL. `flags` are what
 * it offers, or NULL. With `trace` all is recorded there from the first byte on; such a disk has no cache and loses
 * nothing; `memory`: serve's --trace-memory, or NULL. NULL, and one line in error.
 */
struct lower *lower_start(const char *dir, bool file, const struct filesystem *fs, uint64_t size, const char *flags,
                          const char *trace, const char *memory, int ms, char error[512]);
/* What was written so far is durable. */
bool lower_sync(const struct lower *l, int ms, char error[512]);
/* A fake server that is itself under test, in a process of ours: it listens for requests at an abstract address. */
struct lower *lower_attach(pid_t pid);
/* That listener, for the process itself to make; -1 and errno. */
int lower_listen(void);
bool lower_has(const struct lower *l, pid_t pid);	/* it is a process of it; l may be NULL */
bool lower_runs(const struct lower *l);		/* all that it started is there still */
void lower_stop(struct lower *l);		/* unmounts and ends all; may be NULL */

const char *lower_file(const struct lower *l);	/* NULL without one */
const char *lower_root(const struct lower *l);	/* where the filesystem is mounted; NULL without one */
const char *lower_uri(const struct lower *l);	/* "nbd+unix:///?socket=…" */
const char *lower_socket(const struct lower *l);

/* One request to the fake server's control socket; its reply without the line end in reply, or one line in error. */
/* The same, which takes its time. */
bool lower_ask_within(const struct lower *l, const char *request, char reply[512], int ms, char error[512]);
bool lower_ask(const struct lower *l, const char *request, char reply[512], char error[512]);

/* A connection to that socket, for requests of one's own; -1 and errno. lower_control is its path. */
int lower_connect(const struct lower *l);
const char *lower_control(const struct lower *l);

/* After a power cut: the file is mounted anew, so that nothing of it is cached anywhere. */
bool lower_remount(struct lower *l, int ms, char error[512]);

/*
 * A process that uses a filesystem may wait for its disk and cannot be killed meanwhile; without the disk it gets errors.
 * Both do nothing where there is no filesystem.
 */
void lower_unplug(struct lower *l);		/* for the case, before a remount: the disk itself goes on */
void lower_kill(const struct lower *l);		/* for good; may be NULL */

/*
 * For a process that survives us (harness/process.h): the mark of what `dir` has below it (malloc'd), and the end of the
 * mounts that may be in it.
 */
char *lower_mark(const char *dir);
void lower_unmount(const char *dir);

#endif
