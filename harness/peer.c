/* The server's end of a TCP connection, borrowed from its process. */
#include "harness/process.h"
#include "harness/test_private.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Our end seen from there: its peer is our own name. */
static bool
leads_to(int fd, const struct sockaddr_storage *ours, socklen_t len)
{
	struct sockaddr_storage peer;
	socklen_t peer_len = sizeof(peer);

	memset(&peer, 0, sizeof(peer));
	return getpeername(fd, (struct sockaddr *)&peer, &peer_len) == 0 && peer_len == len &&
	       memcmp(&peer, ours, len) == 0;
}

/* -1: not among the descriptors of this process; *denied where we may not look. */
static int
find_in(pid_t pid, const struct sockaddr_storage *ours, socklen_t len, bool *denied)
{
	int pidfd = process_open(pid), found = -1;
	struct dirent *entry;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
	dir = opendir(path);
	*denied |= pidfd < 0 || dir == NULL;
	while (dir != NULL && pidfd >= 0 && found < 0 && (entry = readdir(dir)) != NULL) {
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		found = (int)syscall(SYS_pidfd_getfd, pidfd, atoi(entry->d_name), 0);
		*denied |= found < 0 && (errno == EPERM || errno == ENOSYS);
		if (found >= 0 && !leads_to(found, ours, len)) {
			close(found);
			found = -1;
		}
	}
	if (dir != NULL)
		closedir(dir);
	if (pidfd >= 0)
		close(pidfd);
	return found;
}

/* The process, and those that it has started. */
static int
find_below(pid_t pid, const struct sockaddr_storage *ours, socklen_t len, bool *denied)
{
	int found = find_in(pid, ours, len, denied);
	char path[64];
	long child;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%ld/task/%ld/children", (long)pid, (long)pid);
	f = fopen(path, "re");
	while (found < 0 && f != NULL && fscanf(f, "%ld", &child) == 1)
		found = find_below((pid_t)child, ours, len, denied);
	if (f != NULL)
		fclose(f);
	return found;
}

int
servers_socket(struct test *t)
{
	const struct server *server = t->private->server;
	struct sockaddr_storage ours;
	socklen_t len = sizeof(ours);
	bool denied = false;
	int fd = -1;

	memset(&ours, 0, sizeof(ours));
	if (getsockname(t->s->fd, (struct sockaddr *)&ours, &len) == 0 && server->pid > 0)
		fd = find_below(server->pid, &ours, len, &denied);
	if (fd < 0)
		skip(t, "server process", "%s",
		     server->pid <= 0 ? "the server is no process of ours"
		     : denied         ? "the system does not let us look into the server's process"
		                      : "the server's end of the connection is in none of its processes");
	return fd;
}
