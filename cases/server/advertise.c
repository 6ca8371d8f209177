/* What shows of a server beside its messages: the socket, the port. */
#include "cases/server/go.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

/* The port of a TCP server; skips where it is reached in another way. */
static unsigned
tcp_port(struct test *t)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);

	if (getpeername(t->s->fd, (struct sockaddr *)&a, &len) == 0 && a.ss_family == AF_INET)
		return ntohs(((struct sockaddr_in *)&a)->sin_port);
	if (a.ss_family == AF_INET6)
		return ntohs(((struct sockaddr_in6 *)&a)->sin6_port);
	skip(t, "TCP", "the server is not reached over TCP");
}

CASE(advertise, port, "A server at port 10809, which is for newstyle, does not greet in the oldstyle",
     R(newstyle_port_refuses_oldstyle))
{
	unsigned port;

	open_connection(t);
	recv_greeting(t);
	port = tcp_port(t);
	if (port != 10809)
		skip(t, "port 10809", "the server listens at port %u", port);
	EXPECT(t, R(newstyle_port_refuses_oldstyle), !t->s->oldstyle, "the greeting at port 10809 is oldstyle");
}

CASE(advertise, nodelay, "A TCP server switches Nagle's algorithm off", R(tcp_nodelay))
{
	int on = 1, fd;

	enter_transmission(t);
	tcp_port(t);
	expect_in_step(t, R(each_request_one_reply));
	fd = servers_socket(t);
	getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &(socklen_t){ sizeof(on) });
	close(fd);
	EXPECT(t, R(tcp_nodelay), on != 0, "TCP_NODELAY is not set on the server's end of the connection");
}

CASE(advertise, block_sizes,
     "The block sizes go with the export, in any of the ways that are free: it is told in which",
     R(block_size_minimum_one), R(interop_may_default_to_512), R(block_size_preferred_above_export),
     R(export_size_not_preferred_multiple), R(block_size_maximum_any_number), R(block_size_maximum_floor))
{
	struct info_block_size b;

	enter_transmission(t);
	if (!t->s->block_advertised)
		skip(t, "BLOCK_SIZE", "the server tells no block sizes");
	b = t->s->block;
	EXPECT(t, R(block_size_maximum_floor), b.maximum >= b.preferred, "the maximum is below the preferred size");
	if (b.minimum == 1)
		observe(t, R(block_size_minimum_one), "the minimum is 1");
	else if (b.minimum == 512)
		observe(t, R(interop_may_default_to_512), "the minimum is 512");
	else if (b.preferred > t->s->size)
		observe(t, R(block_size_preferred_above_export), "the preferred size exceeds the export");
	else if ((b.maximum & (b.maximum - 1)) != 0)
		observe(t, R(block_size_maximum_any_number), "the maximum is no power of 2");
}
