#include "harness/lower.h"

#include "harness/clock.h"
#include "harness/file.h"
#include "harness/filesystem.h"
#include "harness/process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROOT "root"

enum { ASK_MS = 10000 };

struct lower {
	char *dir, *mark, *socket, *control, *uri, *export;
	char *mount, *file;          /* NULL without a file */
	const struct filesystem *fs; /* on the file, at `root`; or NULL */
	char *root;
	uint64_t size;
	pid_t disk, fuse;
	int disk_fd, fuse_fd; /* pidfds */
};

const char *
lower_lacks(const struct filesystem *fs)
{
	if (access("/dev/fuse", F_OK) != 0)
		return "there is no /dev/fuse here (modprobe fuse; in a container, --device /dev/fuse)";
	if (access("/dev/fuse", R_OK | W_OK) != 0)
		return "/dev/fuse may not be opened: run as root";
	/* In a container the bounding set is all that even a setuid program can have. */
	if (prctl(PR_CAPBSET_READ, CAP_SYS_ADMIN) == 0)
		return "nothing may be mounted here, for want of CAP_SYS_ADMIN (in a container, --cap-add SYS_ADMIN)";
	if (!in_path("nbdfuse"))
		return "nbdfuse is not installed (Debian: libnbd-bin)";
	if (geteuid() != 0 && !in_path("fusermount3"))
		return "fusermount3 is not installed (Debian: fuse3), and only root may mount without it";
	return fs != NULL ? filesystem_lacks(fs) : NULL;
}

char *
lower_mark(const char *dir)
{
	return join_path(dir, "lower");
}

/* ---- processes ---- */

static pid_t
spawn(const struct lower *l, const char *path, char *const argv[], int *pidfd, char error[512])
{
	char *log = join_path(l->dir, "output");
	int report[2], failed = 0;
	pid_t us = getpid(), pid;

	if (pipe2(report, O_CLOEXEC) != 0)
		abort();
	pid = fork();
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);
		int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

		become_child(us);
		carry_mark(l->mark);
		dup2(null, 0);
		dup2(null, 1);
		dup2(out, 2);
		execvp(path, argv);
		failed = errno;
		(void)!write(report[1], &failed, sizeof(failed));
		_exit(127);
	}
	failed = pid < 0 ? errno : 0;
	close(report[1]);
	if (pid > 0 && read(report[0], &failed, sizeof(failed)) != sizeof(failed))
		failed = 0;
	close(report[0]);
	free(log);
	if (failed != 0) {
		snprintf(error, 512, "%s: %s", argv[0], strerror(failed));
		if (pid > 0)
			waitpid(pid, NULL, 0);
		return 0;
	}
	*pidfd = process_open(pid);
	return pid;
}

static void
end(pid_t *pid, int *pidfd)
{
	struct timespec moment = { 0, 1000000 };

	if (*pid > 0) {
		kill(*pid, SIGKILL);
		/* In a case it is not our child: then its parent takes it, and the end is enough for us. */
		if (waitpid(*pid, NULL, 0) < 0)
			for (int i = 0; i < 1000 && kill(*pid, 0) == 0 && process_wait(*pidfd, 0) != PROCESS_ENDED; i++)
				nanosleep(&moment, NULL);
	}
	if (*pidfd >= 0)
		close(*pidfd);
	*pid = 0;
	*pidfd = -1;
}

/* ---- the control socket ---- */

/* '@' begins an abstract address. */
static struct sockaddr_un
address_of(const char *path)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	if (*path == '@')
		un.sun_path[0] = '\0';
	return un;
}

static char *
abstract_control(pid_t pid)
{
	char *text;

	if (asprintf(&text, "@nbdspec-control-%ld", (long)pid) < 0)
		abort();
	return text;
}

int
lower_listen(void)
{
	char *path = abstract_control(getpid());
	struct sockaddr_un un = address_of(path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	free(path);
	if (fd >= 0 && bind(fd, (struct sockaddr *)&un, sizeof(un)) == 0 && listen(fd, 8) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

int
lower_connect(const struct lower *l)
{
	struct sockaddr_un un = address_of(l->control);
	struct timeval limit = { ASK_MS / 1000, 0 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

bool
lower_ask_within(const struct lower *l, const char *request, char reply[512], int ms, char error[512])
{
	struct timeval limit = { ms / 1000, 0 };
	int fd = lower_connect(l);
	size_t len = 0;
	ssize_t n = 1;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (fd < 0 || dprintf(fd, "%s\n", request) < 0)
		n = -1;
	while (n > 0 && len < 511 && (len == 0 || reply[len - 1] != '\n')) {
		n = recv(fd, reply + len, 511 - len, 0);
		len += n > 0 ? (size_t)n : 0;
	}
	if (fd >= 0)
		close(fd);
	reply[len] = '\0';
	reply[strcspn(reply, "\n")] = '\0';
	if (n > 0 && strncmp(reply, "ok", 2) == 0)
		return true;
	snprintf(error, 512, "the fake disk below, asked to %.100s: %.300s", request, n > 0 ? reply : "no answer");
	return false;
}

bool
lower_ask(const struct lower *l, const char *request, char reply[512], char error[512])
{
	return lower_ask_within(l, request, reply, ASK_MS, error);
}

/* ---- starting ---- */

/* nbdfuse takes its own zeroing for granted where there is TRIM, and it is broken. */
static char *
export_of(bool file, const char *flags)
{
	char *text;

	if (flags == NULL && file)
		flags = "SEND_FLUSH+SEND_FUA+SEND_WRITE_ZEROES";
	if (asprintf(&text, "name=%s%s", flags != NULL ? ",flags=" : "", flags != NULL ? flags : "") < 0)
		abort();
	return text;
}

static bool
start_disk(struct lower *l, const char *trace, const char *memory, int ms, char error[512])
{
	char size[32];
	char *argv[] = { (char *)"nbdspec",
		         (char *)"serve",
		         (char *)"--unix",
		         l->socket,
		         (char *)"--control",
		         l->control,
		         (char *)"--size",
		         size,
		         (char *)"--export",
		         l->export,
		         (char *)"--cache",
		         (char *)"--export",
		         (char *)"name=witness,size=4096",
		         NULL,
		         NULL };
	int64_t until = now_ms() + ms;
	char reply[512];

	snprintf(size, sizeof(size), "%llu", (unsigned long long)l->size);
	if (trace != NULL) {
		argv[10] = (char *)"--trace";
		argv[11] = (char *)trace;
		argv[12] = memory != NULL ? (char *)"--trace-memory" : NULL;
		argv[13] = (char *)memory;
	}
	l->disk = spawn(l, "/proc/self/exe", argv, &l->disk_fd, error);
	if (l->disk == 0)
		return false;
	while (access(l->control, F_OK) != 0 || !lower_ask(l, "status", reply, error))
		if (process_wait(l->disk_fd, 1) != PROCESS_RUNS || now_ms() >= until) {
			snprintf(error, 512, "the fake disk below does not start");
			return false;
		}
	return true;
}

static bool
start_fuse(struct lower *l, int ms, char error[512])
{
	char *argv[] = { (char *)"nbdfuse", l->file, l->uri, NULL };
	int64_t until = now_ms() + ms;
	struct stat st;

	if (mkdir(l->mount, 0700) != 0 && errno != EEXIST) {
		snprintf(error, 512, "%.300s: %s", l->mount, strerror(errno));
		return false;
	}
	l->fuse = spawn(l, "nbdfuse", argv, &l->fuse_fd, error);
	if (l->fuse == 0)
		return false;
	while (stat(l->file, &st) != 0 || (uint64_t)st.st_size != l->size)
		if (process_wait(l->fuse_fd, 1) != PROCESS_RUNS || now_ms() >= until) {
			char *log = join_path(l->dir, "output"), *tail = file_tail(log, 1);

			snprintf(error, 512, "nbdfuse does not mount a file over the fake disk: %.300s", tail);
			free(log);
			free(tail);
			return false;
		}
	return true;
}

static bool
mount_filesystem(struct lower *l, int ms, char error[512])
{
	return l->fs == NULL || filesystem_mount(l->fs, l->file, l->root, l->fuse, ms, error) == 0;
}

static bool
make_filesystem(struct lower *l, int ms, char error[512])
{
	char *log = join_path(l->dir, "output");
	bool ok = l->fs == NULL ||
	          (filesystem_make(l->fs, l->file, log, l->mark, ms, error) && mount_filesystem(l, ms, error));

	free(log);
	return ok;
}

static int
act_sync(const void *arg)
{
	const struct lower *l = arg;
	int root = l->fs != NULL ? open(l->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1, file;

	if (l->fs != NULL && (root < 0 || syncfs(root) != 0))
		return errno;
	file = open(l->file, O_RDWR | O_CLOEXEC);
	return file >= 0 && fsync(file) == 0 ? 0 : errno;
}

bool
lower_sync(const struct lower *l, int ms, char error[512])
{
	int failed = l->file != NULL ? run_apart(act_sync, l, l->fuse, ms) : 0;

	if (failed != 0)
		snprintf(error, 512, "what was prepared cannot be made durable: %s", strerror(failed));
	return failed == 0;
}

/* Only root may do it by itself. */
static void
unmount_as_user(char *mount)
{
	pid_t pid = fork();

	if (pid == 0) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		for (int fd = 0; fd < 3; fd++)
			dup2(null, fd);
		execlp("fusermount3", "fusermount3", "-uz", mount, (char *)NULL);
		_exit(127);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

void
lower_unmount(const char *dir)
{
	char *mount = join_path(dir, "mnt"), *root = join_path(dir, ROOT);

	filesystem_unmount(root);
	free(root);
	if (access(mount, F_OK) == 0 || errno == ENOTCONN) {
		if (umount2(mount, MNT_DETACH) != 0 && errno == EPERM)
			unmount_as_user(mount);
		rmdir(mount);
	}
	free(mount);
}

struct lower *
lower_start(const char *dir, bool file, const struct filesystem *fs, uint64_t size, const char *flags,
            const char *trace, const char *memory, int ms, char error[512])
{
	struct lower *l = calloc(1, sizeof(*l));

	if (l == NULL)
		abort();
	*l = (struct lower){ .dir = strdup(dir),
		             .mark = lower_mark(dir),
		             .socket = join_path(dir, "below"),
		             .control = join_path(dir, "control"),
		             .size = size,
		             .fs = fs,
		             .export = export_of(file, flags),
		             .disk_fd = -1,
		             .fuse_fd = -1 };
	if (asprintf(&l->uri, "nbd+unix:///?socket=%s", l->socket) < 0)
		abort();
	if (file) {
		l->mount = join_path(dir, "mnt");
		l->file = join_path(l->mount, "disk");
	}
	if (fs != NULL)
		l->root = join_path(dir, ROOT);
	if (start_disk(l, trace, memory, ms, error) && (!file || start_fuse(l, ms, error)) &&
	    make_filesystem(l, ms, error))
		return l;
	lower_stop(l);
	return NULL;
}

struct lower *
lower_attach(pid_t pid)
{
	struct lower *l = calloc(1, sizeof(*l));

	if (l == NULL)
		abort();
	*l = (struct lower){ .control = abstract_control(pid), .disk_fd = -1, .fuse_fd = -1 };
	return l;
}

bool
lower_remount(struct lower *l, int ms, char error[512])
{
	if (l->file == NULL)
		return true;
	if (l->fs == NULL)
		umount2(l->mount, MNT_DETACH);
	end(&l->fuse, &l->fuse_fd);
	lower_unmount(l->dir);
	return start_fuse(l, ms, error) && mount_filesystem(l, ms, error);
}

void
lower_unplug(struct lower *l)
{
	if (l->fs != NULL)
		end(&l->fuse, &l->fuse_fd);
}

void
lower_kill(const struct lower *l)
{
	/* By its mark: after a cut they are processes of the case. */
	if (l != NULL && l->fs != NULL)
		signal_marked(l->mark, NULL, SIGKILL);
}

void
lower_stop(struct lower *l)
{
	if (l == NULL)
		return;
	lower_kill(l);
	if (l->dir != NULL)
		lower_unmount(l->dir);
	end(&l->fuse, &l->fuse_fd);
	end(&l->disk, &l->disk_fd);
	/* What a case started, too. */
	if (l->mark != NULL)
		end_marked_children(l->mark);
	free(l->dir);
	free(l->mark);
	free(l->socket);
	free(l->control);
	free(l->uri);
	free(l->export);
	free(l->mount);
	free(l->file);
	free(l->root);
	free(l);
}

bool
lower_has(const struct lower *l, pid_t pid)
{
	return l != NULL && (pid == l->disk || pid == l->fuse);
}

bool
lower_runs(const struct lower *l)
{
	return process_wait(l->disk_fd, 0) != PROCESS_ENDED &&
	       (l->file == NULL || process_wait(l->fuse_fd, 0) != PROCESS_ENDED);
}

const char *
lower_file(const struct lower *l)
{
	return l->file;
}

const char *
lower_root(const struct lower *l)
{
	return l->root;
}

const char *
lower_uri(const struct lower *l)
{
	return l->uri;
}

const char *
lower_socket(const struct lower *l)
{
	return l->socket;
}

const char *
lower_control(const struct lower *l)
{
	return l->control;
}
