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

static void
enter(struct test *t)
{
	static const uint16_t block_size = NBD_INFO_BLOCK_SIZE;

	if (!enter_by_go_here(t, &block_size, 1))
		broken(t, R(ext_go_not_unsupported), "NBD_OPT_GO gets NBD_REP_ERR_UNSUP behind extended headers");
}

void
enter_extended(struct test *t)
{
	open_fixed_newstyle(t);
	negotiate_extended(t);
	enter(t);
}

struct contexts
enter_extended_with_contexts(struct test *t, const char *const *queries, size_t n)
{
	struct contexts contexts;

	open_fixed_newstyle(t);
	negotiate_extended(t);
	contexts = meta_contexts(t, NBD_OPT_SET_META_CONTEXT, export_name(t), queries, n, R(ext_contexts_served));
	if (is_error_reply(contexts.final))
		skip(t, "metadata contexts", "the server refuses NBD_OPT_SET_META_CONTEXT with %s",
		     name_of(NAME_REPLY, contexts.final) ?: "an error");
	if (contexts.count == 0)
		skip(t, "metadata contexts", "the server selects no context for %s", n > 0 ? queries[0] : "no query");
	enter(t);
	return contexts;
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
