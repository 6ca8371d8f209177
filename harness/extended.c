/* The steps of a case with extended headers (proto-extension-ext-header.md); recv_reply judges their replies, too. */
#include "harness/test_private.h"

void
negotiate_extended(struct test *t)
{
	struct option_reply r;

	send_option(t, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	r = recv_option_reply(t, R(ext_option_answered));
	if (is_error_reply(r.type))
		skip(t, "extended headers", "the server refuses NBD_OPT_EXTENDED_HEADERS with %s",
		     name_of(NAME_REPLY, r.type) ?: "an error");
	EXPECT_REPLY(t, R(ext_option_answered), r.type, NBD_REP_ACK);
	t->s->extended = t->s->structured = true;
}

void
enter_extended(struct test *t)
{
	open_fixed_newstyle(t);
	negotiate_extended(t);
	enter_by_sized_go(t);
}

struct contexts
enter_extended_with_contexts(struct test *t, const char *const *queries, size_t n)
{
	open_fixed_newstyle(t);
	negotiate_extended(t);
	return select_and_enter(t, queries, n, R(ext_contexts_served));
}

void
need_extended(struct test *t)
{
	open_fixed_newstyle(t);
	negotiate_extended(t);
	need_connections(t);
	disconnect(t);
}

struct sent
send_with_payload(struct test *t, uint16_t flags, uint16_t type, uint64_t offset, struct bytes payload, uint64_t effect)
{
	struct sent q = { type, flags | NBD_CMD_FLAG_PAYLOAD_LEN, new_cookie(t), offset, effect };

	send_request(t, q.flags, type, q.cookie, offset, payload.len, payload.at);
	return q;
}
