/* Lies of the transmission phase. */
#include "fakeserver/lie.h"

/* The cookie is opaque to the server, and what the client knows its request by (proto.md:307). */
LIE(cookie_changed, ON_OUTGOING, BREAKS(R(cookie_echoed)), "replies carry the request's cookie plus one")
{
	if (m->kind == MSG_SIMPLE_REPLY && LIE_NOW)
		m->simple.cookie++;
	else if (m->kind == MSG_CHUNK && LIE_NOW)
		m->chunk.cookie++;
}
