#include "fakeserver/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024 };

/* ---- Unix ---- */

static bool
nobody_listens(const struct sockaddr_un *a)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool refused = fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 && errno == ECONNREFUSED;

	if (fd >= 0)
		close(fd);
	return refused;
}

/* A file of another kind refuses connections, too, and is nobody's to remove. */
static bool
is_socket(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

static int
bind_unix(int fd, const struct sockaddr_un *a)
{
	if (bind(fd, (const struct sockaddr *)a, sizeof(*a)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return -1;
	if (!is_socket(a->sun_path)) {
		errno = EEXIST;
		return -1;
	}
	if (!nobody_listens(a)) {
		errno = EADDRINUSE;
		return -1;
	}
	unlink(a->sun_path);
	return bind(fd, (const struct sockaddr *)a, sizeof(*a));
}

int
listen_on_unix(const char *path, char error[LISTEN_MAX_ERROR])
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd;

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && bind_unix(fd, &a) == 0 && listen(fd, BACKLOG) == 0)
		return fd;
	snprintf(error, LISTEN_MAX_ERROR, "cannot listen on %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return -1;
}

/* ---- TCP ---- */

/* Splits "[ADDR]:PORT", "ADDR:PORT", ":PORT" or "PORT"; *host is NULL for everywhere. */
static bool
split_address(const char *address, char host_room[256], const char **host, const char **port, unsigned *number)
{
	const char *colon = strrchr(address, ':');
	size_t len = colon != NULL ? (size_t)(colon - address) : 0;
	unsigned long n;
	char *end;

	*port = colon != NULL ? colon + 1 : address;
	n = strtoul(*port, &end, 10);
	if (end == *port || *end != '\0' || **port == '-' || **port == '+' || n > 65535 || len >= 256)
		return false;
	*number = (unsigned)n;
	if (colon == NULL) {
		*host = "localhost";
		return true;
	}
	if (len >= 2 && address[0] == '[' && address[len - 1] == ']') {
		address++;
		len -= 2;
	}
	memcpy(host_room, address, len);
	host_room[len] = '\0';
	*host = len == 0 || strcmp(host_room, "*") == 0 ? NULL : host_room;
	return true;
}

static void
set_port(struct sockaddr *a, unsigned port)
{
	if (a->sa_family == AF_INET)
		((struct sockaddr_in *)a)->sin_port = htons((uint16_t)port);
	else if (a->sa_family == AF_INET6)
		((struct sockaddr_in6 *)a)->sin6_port = htons((uint16_t)port);
}

static unsigned
port_of(int fd)
{
	struct sockaddr_storage a = { 0 };
	socklen_t len = sizeof(a);

	getsockname(fd, (struct sockaddr *)&a, &len);
	return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port
	                                     : ((struct sockaddr_in *)&a)->sin_port);
}

static int
listen_on(const struct addrinfo *a)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int saved;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	/* Else it would take the IPv4 port as well, which has its own socket. */
	if (a->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){ 1 }, sizeof(int));
	if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
		return fd;
	saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

/* One of localhost's families may be missing from the machine. */
static bool
is_missing_family(int error)
{
	return error == EADDRNOTAVAIL || error == EAFNOSUPPORT;
}

static enum listen_result
listen_on_all(struct addrinfo *list, struct tcp_listeners *l)
{
	int failed = EADDRNOTAVAIL;

	for (struct addrinfo *a = list; a != NULL && l->n < LISTEN_MOST; a = a->ai_next) {
		int fd;

		set_port(a->ai_addr, l->port);
		fd = listen_on(a);
		if (fd >= 0) {
			l->fds[l->n++] = fd;
			l->port = port_of(fd);
		} else if (!is_missing_family(errno)) {
			failed = errno;
			goto fail;
		}
	}
	if (l->n > 0)
		return LISTEN_OK;
fail:
	while (l->n > 0)
		close(l->fds[--l->n]);
	errno = failed;
	return LISTEN_FAILED;
}

enum listen_result
listen_on_tcp(const char *address, struct tcp_listeners *l, char error[LISTEN_MAX_ERROR])
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *list;
	const char *host, *port;
	enum listen_result result;
	char room[256];
	int failed;

	*l = (struct tcp_listeners){ .n = 0 };
	if (!split_address(address, room, &host, &port, &l->port)) {
		snprintf(error, LISTEN_MAX_ERROR, "want PORT, ADDR:PORT, [ADDR]:PORT or *:PORT, ports from 0 to 65535");
		return LISTEN_BAD_ADDRESS;
	}
	failed = getaddrinfo(host, port, &hints, &list);
	if (failed != 0) {
		snprintf(error, LISTEN_MAX_ERROR, "%.255s: %s", host != NULL ? host : "*",
		         failed == EAI_SYSTEM ? strerror(errno) : gai_strerror(failed));
		return LISTEN_FAILED;
	}
	result = listen_on_all(list, l);
	if (result != LISTEN_OK)
		snprintf(error, LISTEN_MAX_ERROR, "cannot listen on %.255s port %s: %s", host != NULL ? host : "*",
		         port, strerror(errno));
	snprintf(l->host, sizeof(l->host), "%s", host != NULL ? host : "localhost");
	freeaddrinfo(list);
	return result;
}

/* ---- socket activation ---- */

int
activated_descriptors(void)
{
	const char *pid = getenv("LISTEN_PID"), *n = getenv("LISTEN_FDS");
	bool ours = pid != NULL && n != NULL && strtol(pid, NULL, 10) == (long)getpid();
	char *end;
	long count = ours ? strtol(n, &end, 10) : 0;
	bool good = !ours || (end != n && *end == '\0' && count >= 0 && count <= INT_MAX - LISTEN_FIRST_ACTIVATED);

	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	for (int i = 0; good && i < count; i++)
		good = fcntl(LISTEN_FIRST_ACTIVATED + i, F_SETFD, FD_CLOEXEC) == 0;
	return good ? (int)count : -1;
}

bool
is_listening(int fd)
{
	int yes = 0;

	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &yes, &(socklen_t){ sizeof(yes) }) == 0 && yes != 0;
}

bool
is_connected(int fd)
{
	struct sockaddr_storage a;
	int type = 0;

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){ sizeof(type) }) == 0 && type == SOCK_STREAM &&
	       getpeername(fd, (struct sockaddr *)&a, &(socklen_t){ sizeof(a) }) == 0;
}

char *
absolute_path(const char *path)
{
	char *cwd = path[0] == '/' ? NULL : getcwd(NULL, 0), *full;

	if (asprintf(&full, "%s%s%s", cwd != NULL ? cwd : "", cwd != NULL ? "/" : "", path) < 0)
		abort();
	free(cwd);
	return full;
}
