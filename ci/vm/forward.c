/*
 * usage: forward SOCKET     a connection of the virtual machine's, on our standard input, is that of this Unix socket
 *
 * qemu's user network has it as TCP of the host, with Nagle's algorithm: each message that it sends in two parts would wait
 * for an acknowledgement that is 40 ms late. So each is acknowledged at once. The end of either is the end of both.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { PIECE = 1 << 18 };

static void
hurry(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* Up to the end of either. */
static void
copy(int from, int to)
{
	static char data[PIECE];
	ssize_t n, done, m = 0;

	while (m >= 0 && (n = read(from, data, sizeof(data))) > 0) {
		if (from == 0)
			hurry(0);
		for (done = 0; done < n && m >= 0; done += m)
			m = write(to, data + done, (size_t)(n - done));
	}
	shutdown(from, SHUT_RDWR);
	shutdown(to, SHUT_RDWR);
}

static int
dial(const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", path);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
		return fd;
	fprintf(stderr, "forward: %s: %s\n", path, strerror(errno));
	return -1;
}

/* A process for each way: one that is held up does not hold up the other. */
int
main(int argc, char **argv)
{
	pid_t us = getpid(), pid;
	int fd;

	if (argc != 2) {
		fprintf(stderr, "usage: forward SOCKET\n");
		return 2;
	}
	fd = dial(argv[1]);
	if (fd < 0)
		return 1;
	signal(SIGPIPE, SIG_IGN);
	hurry(0);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == us)
			copy(0, fd);
		_exit(0);
	}
	copy(fd, 0);
	return 0;
}
