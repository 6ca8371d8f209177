/* Lies of a server that many clients crowd, and of one that forgets nothing of those who have left. */
#include "fakeserver/lie.h"
#include "harness/nbd.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* Fewer are no crowd: other cases have a few connections at once. */
enum { CROWD = 24, LEAKED_BYTES = 64 << 10 };

static bool
crowded(const struct conn *c)
{
	return fake_count(c->server).open > CROWD;
}

/* ---- what many in one state bring about ---- */

enum state { SILENT, IN_FLAGS, IN_OPTION, IN_REQUEST, NOT_READING };

static bool
is_in(const struct conn *c, enum state s)
{
	switch (s) {
	case SILENT:
		return c->phase == PHASE_CLIENT_FLAGS && c->input.len == 0;
	case IN_FLAGS:
		return c->phase == PHASE_CLIENT_FLAGS && c->input.len > 0;
	case IN_OPTION:
		return c->phase == PHASE_HAGGLING && c->input.len > 0;
	case IN_REQUEST:
		return c->phase == PHASE_TRANSMISSION && c->input.len > 0 && c->input.len < REQUEST_SIZE;
	default:
		return c->phase == PHASE_TRANSMISSION && c->output.len > 0;
	}
}

/* At a request of somebody: of those who are connected, are more than a few in that state? */
static bool
many_are(const struct conn *c, const struct process_event *m, enum state s)
{
	static const struct conn *conns[1024];
	static size_t n;
	size_t found = 0;

	if (m->moment == PROCESS_ACCEPT && n < 1024)
		conns[n++] = c;
	for (size_t i = 0; i < n; i++)
		if (m->moment == PROCESS_DISCONNECT && conns[i] == c)
			conns[i] = conns[--n];
		else
			found += conns[i] != c && is_in(conns[i], s);
	return m->moment == PROCESS_INCOMING && m->kind == MSG_REQUEST && found > CROWD / 2;
}

#define CROWD_LIE(ident, state, text)                                                                                  \
	LIE(ident, ON_PROCESS, BREAKS(R(transmission_no_disconnect)), text)                                            \
	{                                                                                                              \
		if (many_are(c, m, state) && LIE_NOW)                                                                  \
			m->close_all = true;                                                                           \
	}

CROWD_LIE(silent_clients_end_sessions, SILENT, "with many silent clients the next request ends all sessions")
CROWD_LIE(clients_in_flags_end_sessions, IN_FLAGS,
          "with many clients in their flags the next request ends all sessions")
CROWD_LIE(clients_in_options_end_sessions, IN_OPTION,
          "with many clients within an option the next request ends all sessions")
CROWD_LIE(clients_in_requests_end_sessions, IN_REQUEST,
          "with many clients within a request the next request ends all sessions")
CROWD_LIE(unread_replies_end_sessions, NOT_READING,
          "with many clients that do not read the next request ends all sessions")

LIE(crowd_starves_requests, ON_INCOMING, BREAKS(R(each_request_one_reply)),
    "with many clients the requests of the first one are not answered")
{
	if (m->kind == MSG_REQUEST && c->number == 1 && crowded(c) && LIE_NOW)
		m->ignore = true;
}

LIE(crowd_starves_options, ON_INCOMING, BREAKS(R(option_gets_reply)),
    "with many clients every other GO is not answered")
{
	if (m->kind == MSG_OPTION && m->option.option == NBD_OPT_GO && c->number % 2 == 0 && crowded(c) && LIE_NOW)
		m->ignore = true;
}

LIE(crowd_ends_service, ON_PROCESS, BREAKS(R(greeting_magic)),
    "once many clients were there at once no new one is let in")
{
	static bool full;

	full |= crowded(c);
	if (m->moment == PROCESS_ACCEPT && full && !crowded(c) && LIE_NOW)
		m->refuse = true;
}

/* ---- descriptors and memory ---- */

/* Behind this connection's own: it got the lowest that was free. */
static long
descriptors_left(const struct conn *c)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? (long)limit.rlim_cur - c->in - 1 : LONG_MAX;
}

static bool
is_last_descriptor(const struct conn *c)
{
	return descriptors_left(c) <= 0;
}

LIE(last_descriptor_aborts, ON_PROCESS, BREAKS(R(transmission_no_disconnect)),
    "the server aborts when it has no descriptor left")
{
	if (m->moment == PROCESS_ACCEPT && is_last_descriptor(c) && LIE_NOW)
		m->die = true;
}

/* nbd-server 3.24: spawn_child() does not look whether socketpair() fails, and select() then fails for ever. */
LIE(last_descriptor_ends_service, ON_PROCESS, BREAKS(R(greeting_magic)),
    "once it has had no descriptor left the server lets no new client in")
{
	static bool full;

	full |= is_last_descriptor(c);
	if (m->moment == PROCESS_ACCEPT && full && LIE_NOW)
		m->refuse = true;
}

/* nbdkit 1.32.5: handle_single_connection() does not close the socket where new_connection() finds no descriptors. */
LIE(last_descriptors_leak, ON_PROCESS, BREAKS(R(greeting_magic)),
    "the last descriptors that the server may have are never closed")
{
	if (m->moment == PROCESS_DISCONNECT && descriptors_left(c) < 16 && LIE_NOW)
		m->leak = true;
}

#define LEAK_LIE(ident, condition, text)                                                                               \
	LIE(ident, ON_PROCESS, BREAKS(R(greeting_magic)), text)                                                        \
	{                                                                                                              \
		if (m->moment == PROCESS_DISCONNECT && (condition) && LIE_NOW)                                         \
			m->leak = true;                                                                                \
	}

LEAK_LIE(leaks_silent, is_in(c, SILENT), "the descriptor of a client that left without a word is never closed")
LEAK_LIE(leaks_in_option, is_in(c, IN_OPTION), "the descriptor of a client that left within an option is never closed")
LEAK_LIE(leaks_without_disc, c->phase == PHASE_TRANSMISSION,
         "the descriptor of a client that left without NBD_CMD_DISC is never closed")

LIE(leaks_memory, ON_PROCESS, BREAKS(R(greeting_magic)),
    "64 KiB are lost for each client that left without NBD_CMD_DISC")
{
	static void *lost;
	char *at;

	if (m->moment != PROCESS_DISCONNECT || c->phase != PHASE_TRANSMISSION || !LIE_NOW)
		return;
	at = malloc(LEAKED_BYTES);
	if (at == NULL)
		return;
	memset(at, 1, LEAKED_BYTES);
	memcpy(at, &lost, sizeof(lost));
	lost = at;
}
