/* Lies that show beside the messages. */
#include "fakeserver/lie.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

LIE(nagle, ON_PROCESS, BREAKS(R(tcp_nodelay)), "Nagle's algorithm is left on")
{
	if (m->moment == PROCESS_ACCEPT && LIE_NOW)
		setsockopt(c->in, IPPROTO_TCP, TCP_NODELAY, &(int){ 0 }, sizeof(int));
}

LIE(port_10809_oldstyle, ON_STATE, BREAKS(R(newstyle_port_refuses_oldstyle)),
    "greets in the oldstyle, whatever the port")
{
	if (m->moment == STATE_CONNECTED && LIE_NOW)
		fake_config_of(c->server)->oldstyle = true;
}
