/*
 * usage: forward SOCKET     a connection of the virtual machine's, on our standard input, is that of this Unix socket
 *
 * qemu's user network has it as TCP of the host, with Nagle's algorithm: each message that it sends in two parts would wait
 * for an acknowledgement that is 40 ms late. So each is acknowledged at once. The end of either is the end of both.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
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

/* False at the end. */
static bool
pass(int from, int to)
{
	static char data[PIECE];
	ssize_t n = read(from, data, sizeof(data)), done = 0, m;

	while (n > 0 && done < n) {
		m = write(to, data + done, (size_t)(n - done));
		if (m < 0)
			return false;
		done += m;
	}
	return n > 0;
}

int
main(int argc, char **argv)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	struct pollfd p[2] = { { .fd = 0, .events = POLLIN }, { .events = POLLIN } };

	if (argc != 2 || strlen(argv[1]) >= sizeof(to.sun_path)) {
		fprintf(stderr, "usage: forward SOCKET\n");
		return 2;
	}
	strcpy(to.sun_path, argv[1]);
	p[1].fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(p[1].fd, (struct sockaddr *)&to, sizeof(to)) != 0) {
		fprintf(stderr, "forward: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	hurry(0);
	while (poll(p, 2, -1) > 0) {
		if (p[0].revents != 0 && !pass(0, p[1].fd))
			return 0;
		if (p[0].revents != 0)
			hurry(0);
		if (p[1].revents != 0 && !pass(p[1].fd, 0))
			return 0;
	}
	return 1;
}
