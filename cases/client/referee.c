/* The referee's sessions: their beginnings, their ends, and who judges which message. */
#include "cases/client/referee_private.h"

#include "harness/nbd.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { REST_KEPT = EXTENDED_REQUEST_SIZE }; /* bytes; enough to say what they were to become */

/* ---- the rules ---- */

static const struct rule {
	enum judge judge;
	const char *why;
} rules[N_REQUIREMENTS] = {
#define REFEREE(id)        [R(id)] = { JUDGED_BY_REFEREE, NULL },
#define ELSEWHERE(id, why) [R(id)] = { JUDGED_ELSEWHERE, why },
#include "cases/client/referee.def"
#undef REFEREE
#undef ELSEWHERE
};

enum judge
referee_judges(enum requirement_id r)
{
	return requirement(r)->level == LEVEL_MAY ? JUDGED_FREEDOM : rules[r].judge;
}

const char *
referee_why(enum requirement_id r)
{
	return rules[r].why;
}

/* Of options that STARTTLS makes void the extension has a statement of its own. */
static bool
is_excused(const struct session *s, enum requirement_id r)
{
	enum requirement_id excused = s->ref->setup.excused;

	return r == excused || (r == R(ext_client_defers_until_tls) && excused == R(starttls_before_stateful));
}

void
accuse(struct session *s, const enum requirement_id *broken, const char *fmt, ...)
{
	va_list ap;
	char *text;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	va_end(ap);
	for (; *broken != REQUIREMENT_NONE; broken++)
		if (!is_excused(s, *broken))
			s->ref->broken(s->ref->arg, s->connection, *broken, text);
	free(text);
}

/* ---- sessions ---- */

static struct session *
session_new(struct referee *ref, uint16_t connection)
{
	struct session *s = calloc(1, sizeof(*s));

	if (s == NULL)
		abort();
	s->ref = ref;
	s->connection = connection;
	s->server_broke = ref->setup.server_lies;
	s->next = ref->sessions;
	ref->sessions = s;
	return s;
}

static struct session *
session_of(struct referee *ref, uint16_t connection)
{
	for (struct session *s = ref->sessions; s != NULL; s = s->next)
		if (s->connection == connection)
			return s;
	return session_new(ref, connection);
}

/* What was promised is remembered, since a later session must not rest on it. */
static void
session_free_buffers(struct session *s)
{
	buf_free(&s->rest);
	buf_free(&s->name);
	buf_free(&s->context_name);
	free(s->pending);
	s->pending = NULL;
	s->n_pending = s->cap_pending = 0;
}

/* ---- the end of a session ---- */

static bool
leaving_is_judged(const struct session *s)
{
	return !s->ref->setup.left_unjudged &&
	       (s->stage == STAGE_HAGGLING || (s->stage == STAGE_TRANSMISSION && (!s->oldstyle || s->had_request)));
}

static void
judge_rest_of_transmission(struct session *s)
{
	size_t header = request_header(s);
	struct request m;

	if (s->rest_length < header) {
		accuse(s, RULES(R(request_layout)), "a request ends after %u of %zu bytes", s->rest_length, header);
		return;
	}
	get_request(s, wire(s->rest.at, s->rest.len), &m);
	/* Who leaves with requests under way leaves amid the data of one or between two: that is chance. */
	if (m.magic == (s->extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC) && m.type == NBD_CMD_WRITE &&
	    !leaving_is_judged(s))
		accuse(s, RULES(R(write_payload_follows), R(request_payload_client)),
		       "NBD_CMD_WRITE of %" PRIu64 " bytes at %" PRIu64 ": %zu bytes of data followed, then the end",
		       m.length, m.offset, s->rest_length - header);
}

/* The connection has ended in the midst of a message. */
static void
judge_rest(struct session *s)
{
	if (s->stage == STAGE_CLIENT_FLAGS)
		accuse(s, RULES(R(client_flags_sent)), "%u bytes of client flags, not 4", s->rest_length);
	else if (s->stage == STAGE_HAGGLING)
		accuse(s, RULES(R(option_layout_client)), "an option ends after %u bytes%s", s->rest_length,
		       s->rest_length < OPTION_HEADER_SIZE ? ", in its header" : ", before all its data");
	else if (s->stage == STAGE_TRANSMISSION)
		judge_rest_of_transmission(s);
}

/* The server has not taken up a whole message: what it was, and what came behind it, is not known. */
static bool
rest_is_whole(const struct session *s)
{
	struct wire w = wire(s->rest.at, s->rest.len);
	struct request request;
	struct option option;
	bool has_payload;

	wire_get_option(w, &option);
	if (option.magic == NBD_OPTION_MAGIC)
		return s->rest_length >= OPTION_HEADER_SIZE + (uint64_t)option.length;
	get_request(s, w, &request);
	has_payload = s->extended ? request_has_payload(&request) : request.type == NBD_CMD_WRITE;
	return s->rest_length >= request_header(s) &&
	       (!has_payload || s->rest_length - request_header(s) >= request.length);
}

/* The first bytes in answer to an oldstyle greeting are no request. */
static bool
is_haggling_oldstyle(struct session *s)
{
	struct wire w = wire(s->rest.at, s->rest.len);

	/* A server that lies may have taken the beginning of a request for something else. */
	return s->oldstyle && !s->had_request && !s->ref->setup.server_lies && s->stage == STAGE_TRANSMISSION &&
	       s->rest.len >= 4 && wire_be32(&w) != NBD_REQUEST_MAGIC;
}

static void
see_rest(struct session *s, const struct trace_record *r)
{
	size_t room = REST_KEPT - s->rest.len;

	buf_put(&s->rest, r->data.at, r->data.len < room ? r->data.len : room);
	s->rest_length += r->length;
	if (s->stage == STAGE_DISCONNECTED)
		accuse(s, RULES(R(disc_nothing_after)), "%u more bytes after NBD_CMD_DISC", r->length);
	else if (s->stage == STAGE_ABORTED)
		accuse(s, RULES(R(client_abort_drops_connection)), "%u more bytes after NBD_OPT_ABORT", r->length);
	else if (is_haggling_oldstyle(s)) {
		accuse(s, RULES(R(oldstyle_client_silent)), "%u bytes that are no request after an oldstyle greeting",
		       s->rest_length);
		s->stage = STAGE_LOST;
	}
}

/* All that the client has sent is known now; some of it may have come to light only after it had left. */
static void
judge_end(struct session *s)
{
	if (!s->left || s->judged)
		return;
	s->judged = true;
	/* Whoever may leave as he likes may do it in the midst of a message. */
	if (s->server_broke || rest_is_whole(s))
		return;
	if (s->rest_length > 0)
		judge_rest(s);
	if (!leaving_is_judged(s))
		return;
	if (s->stage == STAGE_HAGGLING)
		judge_handshake_left(s);
	else
		judge_transmission_left(s);
}

static void
see_end(struct session *s, const struct trace_record *r)
{
	bool by_client = r->kind == TRACE_CLOSED || (r->kind == TRACE_RESET && r->direction == TO_SERVER);

	s->left |= !s->closed && by_client;
	s->was_reset |= !s->closed && r->kind == TRACE_RESET;
	s->closed = true;
	if (r->kind == TRACE_CLOSED)
		return;
	judge_end(s);
	session_free_buffers(s);
}

/* ---- messages ---- */

static void
see_client(struct session *s, const struct trace_record *r)
{
	struct client_flags flags;
	struct option option;

	switch (r->message) {
	case MSG_RAW:
		see_rest(s, r);
		break;
	case MSG_CLIENT_FLAGS:
		wire_get_client_flags(wire_over(r->data), &flags);
		judge_client_flags(s, flags.flags);
		break;
	case MSG_OPTION:
		wire_get_option(wire_over(r->data), &option);
		if (s->stage == STAGE_LOST)
			break;
		if (option.magic != NBD_OPTION_MAGIC)
			judge_bad_option_magic(s, option.magic);
		else
			judge_option(s, r);
		break;
	case MSG_REQUEST:
	case MSG_EXTENDED_REQUEST:
		judge_request(s, r);
		break;
	default:
		break;
	}
}

bool
request_in(const struct trace_record *r, struct request *m)
{
	bool extended = r->message == MSG_EXTENDED_REQUEST;

	if (r->kind != TRACE_MESSAGE || (r->message != MSG_REQUEST && !extended))
		return false;
	if (extended)
		wire_get_extended_request(wire_over(r->data), m);
	else
		wire_get_request(wire_over(r->data), m);
	return true;
}

static void
end_all(struct referee *ref)
{
	struct session *s;

	while ((s = ref->sessions) != NULL) {
		judge_end(s);
		ref->sessions = s->next;
		session_free_buffers(s);
		buf_free(&s->rest);
		free(s);
	}
}

void
referee_see(struct referee *ref, const struct trace_record *r)
{
	struct session *s;

	switch (r->kind) {
	case TRACE_MESSAGE:
		s = session_of(ref, r->connection);
		if (r->direction == TO_SERVER)
			see_client(s, r);
		else
			hear_server(s, r);
		break;
	case TRACE_CONNECT:
		session_new(ref, r->connection);
		break;
	case TRACE_CLOSED:
	case TRACE_RESET:
	case TRACE_DISCONNECT:
		see_end(session_of(ref, r->connection), r);
		break;
	case TRACE_TIMEOUT:
		session_of(ref, r->connection)->server_broke = true;
		break;
	case TRACE_CASE:
		end_all(ref);
		break;
	default:
		break;
	}
}

struct referee *
referee_new(const struct referee_setup *setup, referee_broken *broken, void *arg)
{
	struct referee *ref = calloc(1, sizeof(*ref));

	if (ref == NULL)
		abort();
	ref->setup = *setup;
	ref->broken = broken;
	ref->arg = arg;
	return ref;
}

void
referee_end(struct referee *ref)
{
	end_all(ref);
	free(ref);
}
