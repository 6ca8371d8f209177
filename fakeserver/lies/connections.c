/* Lies of a server that mixes its connections up. Each case has a server of its own, so what is static starts afresh. */
#include "fakeserver/lie.h"
#include "harness/nbd.h"

#include <stddef.h>

/* By cookie, who was the first to READ with it. */
LIE(cookies_shared, ON_DISK, BREAKS(R(read_returns_data)),
    "a READ with a cookie that another connection has used before gets what that one asked for")
{
	static struct {
		unsigned connection;
		uint64_t offset;
	} first[64];
	size_t i = m->request->cookie % 64;

	if (m->type != NBD_CMD_READ || m->error != NBD_SUCCESS)
		return;
	if (first[i].connection == 0) {
		first[i].connection = c->number;
		first[i].offset = m->offset;
	} else if (first[i].connection != c->number && first[i].offset != m->offset && LIE_NOW)
		m->offset = first[i].offset;
}

LIE(reply_lost_among_clients, ON_OUTGOING, BREAKS(R(each_request_one_reply)),
    "every 20th reply on the third connection and those after it is lost")
{
	static unsigned n;

	if (m->kind == MSG_SIMPLE_REPLY && c->number > 2 && ++n % 20 == 0 && LIE_NOW)
		m->drop = true;
}

/* nbdkit 09a13daf and others in kind: what was agreed is kept for the server as a whole. */
LIE(structured_for_all, ON_STATE, BREAKS(R(simple_reply_required)),
    "once one client has agreed on structured replies all get them")
{
	static bool agreed;

	agreed |= m->moment == STATE_AFTER_OPTION && m->option == NBD_OPT_STRUCTURED_REPLY && c->structured;
	if (m->moment == STATE_BEFORE_REQUEST && agreed && !c->structured && LIE_NOW)
		c->structured = true;
}

LIE(structured_of_the_last, ON_STATE, BREAKS(R(structured_reply_for_payload)),
    "a new client that agrees on simple replies ends the structured ones of another")
{
	static unsigned simple;

	if (m->moment == STATE_ENTER_TRANSMISSION && !c->structured)
		simple = c->number;
	if (m->moment == STATE_BEFORE_REQUEST && c->structured && simple > c->number && LIE_NOW)
		c->structured = false;
}

LIE(unread_replies_close_others, ON_INCOMING, BREAKS(R(each_request_one_reply)),
    "while a client does not take its replies others are disconnected at their first request")
{
	static unsigned busy;

	if (m->kind != MSG_REQUEST)
		return;
	if (m->request.type == NBD_CMD_READ && m->request.length >= 128 << 10)
		busy = c->number;
	if (busy != 0 && c->number > busy && LIE_NOW)
		m->close = true;
}

/* nbdkit a68c1014 */
LIE(flush_only_of_own_writes, ON_DISK, BREAKS(R(multi_conn_flush_visible), R(multi_conn_shared_cache)),
    "what a client has written reads as zeroes elsewhere until that client flushes")
{
	static unsigned dirty;

	if (m->type == NBD_CMD_WRITE && m->error == NBD_SUCCESS)
		dirty = c->number;
	if (m->type == NBD_CMD_FLUSH && dirty == c->number)
		dirty = 0;
	if (m->type == NBD_CMD_READ && dirty != 0 && dirty != c->number && m->error == NBD_SUCCESS && LIE_NOW)
		m->skip = true;
}

LIE(write_over_another_lost, ON_DISK, BREAKS(R(write_stored), R(multi_conn_shared_cache)),
    "a WRITE over what another connection has written last is lost")
{
	static struct {
		unsigned connection;
		uint64_t offset;
		uint32_t length;
	} last;
	bool over = last.connection != 0 && last.connection != c->number && m->offset < last.offset + last.length &&
	            last.offset < m->offset + m->length;

	if (m->type != NBD_CMD_WRITE || m->error != NBD_SUCCESS)
		return;
	if (over && LIE_NOW) {
		m->skip = true;
		return;
	}
	last.connection = c->number;
	last.offset = m->offset;
	last.length = m->length;
}

LIE(leaving_in_a_request_dies, ON_PROCESS, BREAKS(R(greeting_magic), R(handshake_no_hard_disconnect)),
    "the server aborts when a client leaves with 27 of a request's 28 bytes sent")
{
	if (m->moment == PROCESS_DISCONNECT && c->phase == PHASE_TRANSMISSION && c->input.len == REQUEST_SIZE - 1 &&
	    LIE_NOW)
		m->die = true;
}

LIE(leaving_in_the_flags_dies, ON_PROCESS, BREAKS(R(greeting_magic), R(handshake_no_hard_disconnect)),
    "the server aborts when a client leaves with 3 of its flags' 4 bytes sent")
{
	if (m->moment == PROCESS_DISCONNECT && c->phase == PHASE_CLIENT_FLAGS && c->input.len == 3 && LIE_NOW)
		m->die = true;
}

LIE(waiting_for_one_refuses_others, ON_PROCESS, BREAKS(R(greeting_magic)),
    "while a client is within its flags or an option no other is let in")
{
	static struct conn *handshaking[64];
	static size_t n;

	if (m->moment == PROCESS_ACCEPT) {
		bool busy = false;

		for (size_t i = 0; i < n; i++)
			busy |= handshaking[i]->phase <= PHASE_HAGGLING && handshaking[i]->input.len > 0;
		if (n < 64)
			handshaking[n++] = c;
		if (busy && LIE_NOW)
			m->refuse = true;
	}
	for (size_t i = 0; m->moment == PROCESS_DISCONNECT && i < n; i++)
		if (handshaking[i] == c)
			handshaking[i] = handshaking[--n];
}
