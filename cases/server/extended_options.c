/* NBD_OPT_EXTENDED_HEADERS in option haggling, and what other options make of it (ext:1488-1696). */
#include "harness/test.h"

#include <inttypes.h>
#include <string.h>

static const uint16_t block_size = NBD_INFO_BLOCK_SIZE;
static const char *const base[] = { "base:allocation" }, *const base_all[] = { "base:" };

static struct option_reply
ask(struct test *t, uint32_t option, const void *data, size_t len)
{
	send_option(t, option, data, len);
	return recv_option_reply(t, R(ext_option_answered));
}

static struct infos
go(struct test *t, const uint16_t *list, size_t n)
{
	send_go(t, NBD_OPT_GO, export_name(t), list, n);
	return recv_infos(t, R(ext_go_supported));
}

/* From haggling behind the ACK into transmission, where a READ shows which headers are in force. */
static void
expect_extended(struct test *t, enum requirement_id r)
{
	uint32_t length;
	struct sent q;

	t->s->extended = t->s->structured = true;
	EXPECT(t, R(ext_go_not_unsupported), enter_by_go_here(t, &block_size, 1),
	       "NBD_OPT_GO gets NBD_REP_ERR_UNSUP behind extended headers");
	length = t->s->size < blocks(t, 512) ? 0 : blocks(t, 512);
	q = send_command(t, 0, NBD_CMD_READ, 0, length, NULL);
	if (!peer_goes_on(t, r))
		broken(t, r, "the connection ends at the first request with an extended header");
	recv_reply(t, &q, R(ext_replies_extended));
	expect_in_step(t, R(ext_chunk_layout));
}

CASE(extended, alone,
     "EXTENDED_HEADERS is acknowledged without structured replies, and requests and replies have 32 bytes of header",
     R(ext_option_answered), R(ext_without_structured), R(ext_go_supported), R(ext_go_not_unsupported),
     R(ext_requests_understood), R(ext_replies_extended), R(ext_no_simple_reply))
{
	struct option_reply r;

	open_fixed_newstyle(t);
	r = ask(t, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	if (is_error_reply(r.type)) {
		uint32_t alone = r.type;

		negotiate_structured(t);
		negotiate_extended(t);
		deviates(t, R(ext_without_structured), "NBD_REP_ACK, as behind STRUCTURED_REPLY",
		         name_of(NAME_REPLY, alone) ?: "an error");
		return;
	}
	EXPECT_REPLY(t, R(ext_option_answered), r.type, NBD_REP_ACK);
	expect_extended(t, R(ext_requests_understood));
}

CASE(extended, with_data, "EXTENDED_HEADERS with data is refused, and without them it is served behind that",
     R(ext_option_data_refused), R(ext_option_answered))
{
	struct option_reply r;
	char got[NAME_MAX_TEXT];

	need_extended(t);
	open_fixed_newstyle(t);
	r = ask(t, NBD_OPT_EXTENDED_HEADERS, "data", 4);
	if (r.type != NBD_REP_ERR_INVALID)
		deviates(t, R(ext_option_data_refused), "NBD_REP_ERR_INVALID", name_text(NAME_REPLY, r.type, got));
	expect_in_step(t, R(next_message_parsed));
	if (r.type == NBD_REP_ACK)
		return;
	r = ask(t, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	EXPECT_REPLY(t, R(ext_option_answered), r.type, NBD_REP_ACK);
	expect_extended(t, R(ext_requests_understood));
}

CASE(extended, behind_structured, "EXTENDED_HEADERS behind STRUCTURED_REPLY takes precedence over it",
     R(ext_option_answered), R(ext_structured_superseded), R(ext_replies_extended))
{
	open_fixed_newstyle(t);
	negotiate_structured(t);
	negotiate_extended(t);
	expect_extended(t, R(ext_structured_superseded));
}

CASE(extended, structured_behind, "STRUCTURED_REPLY behind EXTENDED_HEADERS changes nothing, whatever it is answered",
     R(ext_structured_superseded))
{
	struct option_reply r;
	struct sent q;

	open_fixed_newstyle(t);
	negotiate_extended(t);
	r = ask(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	EXPECT_REPLY(t, R(ext_structured_superseded), r.type, NBD_REP_ACK, NBD_REP_ERR_EXT_HEADER_REQD,
	             NBD_REP_ERR_INVALID, NBD_REP_ERR_UNSUP, NBD_REP_ERR_POLICY);
	EXPECT(t, R(ext_structured_superseded), enter_by_go_here(t, &block_size, 1),
	       "NBD_OPT_GO is not known any more");
	q = send_command(t, 0, NBD_CMD_READ, 0, t->s->size < blocks(t, 512) ? 0 : blocks(t, 512), NULL);
	if (!peer_goes_on(t, R(ext_structured_superseded)))
		broken(t, R(ext_structured_superseded), "the connection ends at a request with an extended header");
	/* Whatever comes in its place is the downgrade. */
	if (recv_chunk(t, R(ext_structured_superseded)).cookie != q.cookie)
		broken(t, R(ext_cookie_echoed), "the chunk has another cookie than its request");
}

CASE(extended, twice, "A second EXTENDED_HEADERS is answered, and they stay agreed", R(ext_option_answered),
     R(ext_replies_extended))
{
	struct option_reply r;

	open_fixed_newstyle(t);
	negotiate_extended(t);
	r = ask(t, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	EXPECT_REPLY(t, R(ext_option_answered), r.type, NBD_REP_ACK, NBD_REP_ERR_INVALID, NBD_REP_ERR_POLICY);
	expect_extended(t, R(ext_replies_extended));
}

CASE(extended, not_asked_for, "Who does not ask for them has compact headers, and gets in without them",
     R(ext_compact_read_simple), R(ext_interop_go_not_reqd), R(ext_df_flag_clear))
{
	struct infos infos;

	need_extended(t);
	open_fixed_newstyle(t);
	infos = go(t, &block_size, 1);
	if (infos.final == NBD_REP_ERR_EXT_HEADER_REQD) {
		deviates(t, R(ext_interop_go_not_reqd), "NBD_OPT_GO is served without extended headers",
		         "NBD_REP_ERR_EXT_HEADER_REQD");
		return;
	}
	disconnect(t);
	enter_transmission(t);
	EXPECT(t, R(ext_df_flag_clear), (t->s->flags & NBD_FLAG_SEND_DF) == 0,
	       "NBD_FLAG_SEND_DF is set, though neither structured replies nor extended headers were negotiated");
	need_size(t, blocks(t, 512));
	send_request(t, 0, NBD_CMD_READ, new_cookie(t), 0, blocks(t, 512), NULL);
	if (!peer_goes_on(t, R(ext_compact_read_simple)))
		broken(t, R(ext_compact_read_simple), "a READ ends the connection");
	EXPECT_EQ(t, R(ext_compact_read_simple), peek_magic(t), NBD_SIMPLE_REPLY_MAGIC);
}

CASE(extended, block_sizes, "Behind EXTENDED_HEADERS a GO without NBD_INFO_BLOCK_SIZE is served, or refused for that",
     R(ext_block_size_reqd_later), R(ext_go_supported), R(ext_go_not_unsupported))
{
	struct infos infos;

	open_fixed_newstyle(t);
	negotiate_extended(t);
	infos = go(t, NULL, 0);
	EXPECT(t, R(ext_go_not_unsupported), infos.final != NBD_REP_ERR_UNSUP, "NBD_OPT_GO gets NBD_REP_ERR_UNSUP");
	EXPECT_REPLY(t, R(ext_go_supported), infos.final, NBD_REP_ACK, NBD_REP_ERR_BLOCK_SIZE_REQD);
	if (infos.final == NBD_REP_ERR_BLOCK_SIZE_REQD) {
		observe(t, R(ext_block_size_reqd_later),
		        "a GO without NBD_INFO_BLOCK_SIZE gets NBD_REP_ERR_BLOCK_SIZE_REQD");
		expect_extended(t, R(ext_go_supported));
	}
}

/* ---- STARTTLS ---- */

/* proto.md:1236-1239 says it of what it knows. */
CASE(extended, forgotten_by_starttls, "Extended headers that were agreed in clear are not in force over TLS",
     R(ext_forgotten_by_starttls))
{
	uint32_t length;
	struct sent q;

	need_tls(t);
	open_in_clear(t);
	negotiate_extended(t);
	send_option(t, NBD_OPT_STARTTLS, NULL, 0);
	if (recv_option_reply(t, R(starttls_ack_or_error)).type != NBD_REP_ACK)
		skip(t, "TLS of the server", "it refuses NBD_OPT_STARTTLS");
	disconnect(t);
	open_in_clear(t);
	negotiate_extended(t);
	start_tls(t, R(selectivetls_starttls_acked));
	t->s->extended = t->s->structured = false;
	if (!enter_by_go_here(t, &block_size, 1))
		skip(t, "GO", "the server does not know NBD_OPT_GO over TLS");
	length = t->s->size < blocks(t, 512) ? 0 : blocks(t, 512);
	q = send_command(t, 0, NBD_CMD_READ, 0, length, NULL);
	EXPECT(t, R(ext_forgotten_by_starttls), peer_goes_on(t, R(ext_forgotten_by_starttls)),
	       "a compact READ over TLS ends the connection");
	EXPECT_EQ(t, R(ext_forgotten_by_starttls), peek_magic(t), NBD_SIMPLE_REPLY_MAGIC);
	recv_reply(t, &q, R(ext_forgotten_by_starttls));
}

/* ---- metadata contexts ---- */

static bool
names_base_alone(const struct contexts *c)
{
	for (unsigned i = 0; i < c->count; i++)
		if (strncmp(c->context[i].name, "base:", 5) != 0)
			return false;
	return true;
}

static struct contexts
list(struct test *t, const char *const *queries, size_t n)
{
	return meta_contexts(t, NBD_OPT_LIST_META_CONTEXT, export_name(t), queries, n, R(ext_contexts_served));
}

static struct contexts
set(struct test *t, const char *const *queries, size_t n)
{
	return meta_contexts(t, NBD_OPT_SET_META_CONTEXT, export_name(t), queries, n, R(ext_contexts_served));
}

static void
expect_base(struct test *t)
{
	struct contexts listed = list(t, base_all, 1), chosen = set(t, base, 1);

	EXPECT(t, R(ext_base_list_succeeds), listed.final != NBD_REP_ERR_EXT_HEADER_REQD || !names_base_alone(&listed),
	       "a list of the base: contexts ends in NBD_REP_ERR_EXT_HEADER_REQD");
	EXPECT(t, R(ext_base_select_succeeds), chosen.final != NBD_REP_ERR_EXT_HEADER_REQD,
	       "base:allocation is refused with NBD_REP_ERR_EXT_HEADER_REQD");
}

CASE(extended, contexts, "Extended headers are enough for metadata contexts, and none wants more than they are",
     R(ext_contexts_served), R(ext_base_list_succeeds), R(ext_base_select_succeeds))
{
	struct contexts structured, alone;

	open_fixed_newstyle(t);
	negotiate_extended(t);
	expect_base(t);
	EXPECT(t, R(ext_base_list_succeeds), list(t, NULL, 0).final != NBD_REP_ERR_EXT_HEADER_REQD,
	       "a list ends in NBD_REP_ERR_EXT_HEADER_REQD although extended headers are negotiated");
	alone = set(t, base, 1);
	need_connections(t);
	disconnect(t);
	open_fixed_newstyle(t);
	negotiate_structured(t);
	expect_base(t);
	structured = set(t, base, 1);
	if (is_error_reply(structured.final) || structured.count == 0)
		skip(t, "metadata contexts", "the server does not select base:allocation");
	EXPECT_REPLY(t, R(ext_contexts_served), alone.final, NBD_REP_ACK);
	EXPECT_EQ(t, R(ext_contexts_served), alone.count, structured.count);
}

CASE(extended, contexts_unnegotiated,
     "Before structured replies and extended headers metadata contexts are refused with NBD_REP_ERR_INVALID or "
     "NBD_REP_ERR_EXT_HEADER_REQD",
     R(ext_set_meta_unnegotiated), R(ext_list_meta_may_refuse), R(ext_base_list_succeeds))
{
	struct contexts c;
	char got[NAME_MAX_TEXT];

	need_extended(t);
	open_fixed_newstyle(t);
	c = list(t, base, 1);
	if (is_error_reply(c.final))
		observe(t, R(ext_list_meta_may_refuse), "LIST_META_CONTEXT gets %s",
		        name_text(NAME_REPLY, c.final, got));
	c = set(t, base, 1);
	if (c.final == NBD_REP_ERR_UNSUP)
		skip(t, "metadata contexts", "the server does not know NBD_OPT_SET_META_CONTEXT");
	if (c.final != NBD_REP_ERR_INVALID && c.final != NBD_REP_ERR_EXT_HEADER_REQD)
		deviates(t, R(ext_set_meta_unnegotiated), "NBD_REP_ERR_INVALID or NBD_REP_ERR_EXT_HEADER_REQD",
		         name_text(NAME_REPLY, c.final, got));
	expect_in_step(t, R(next_message_parsed));
}

/* The context of this name has a status beyond 32 bits at the start of the export. */
static bool
is_wide(struct test *t, const char *name)
{
	struct contexts c;
	uint32_t length;
	bool wide = false;
	struct reply r;

	open_fixed_newstyle(t);
	negotiate_extended(t);
	c = set(t, &name, 1);
	/* What is listed may stand for many. */
	if (c.final != NBD_REP_ACK || c.count != 1 || !enter_by_go_here(t, &block_size, 1))
		return false;
	length = blocks(t, 65536);
	if (t->s->size < length)
		return false;
	r = exchange(t, 0, NBD_CMD_BLOCK_STATUS, 0, length, NULL, R(ext_status_ext_used));
	for (unsigned i = 0; r.n_status > 0 && i < r.status[0].count; i++)
		wide |= r.status[0].extents[i].flags > UINT32_MAX;
	return wide;
}

static const char *
find_wide(struct test *t)
{
	struct contexts all;

	open_fixed_newstyle(t);
	negotiate_extended(t);
	all = list(t, NULL, 0);
	disconnect(t);
	for (unsigned i = 0; i < all.count && i < 64; i++) {
		bool wide = is_wide(t, all.context[i].name);

		disconnect(t);
		if (wide)
			return all.context[i].name;
	}
	return NULL;
}

CASE(extended, wide_contexts, "A context with more than 32 bits of status is for those alone who have extended headers",
     R(ext_wide_contexts), R(ext_wide_contexts_early), R(ext_wide_list_ends_in_error), R(ext_wide_context_not_selected))
{
	struct contexts c;
	const char *name;

	need_extended(t);
	name = find_wide(t);
	if (name == NULL) {
		observe(t, R(ext_wide_contexts), "no context has more than 32 bits of status");
		return;
	}
	open_fixed_newstyle(t);
	negotiate_structured(t);
	c = list(t, NULL, 0);
	for (unsigned i = 0; i < c.count; i++) {
		if (strcmp(c.context[i].name, name) != 0)
			continue;
		observe(t, R(ext_wide_contexts_early), "\"%s\" is listed without extended headers", name);
		if (c.final != NBD_REP_ERR_EXT_HEADER_REQD)
			deviates(t, R(ext_wide_list_ends_in_error), "NBD_REP_ERR_EXT_HEADER_REQD",
			         name_of(NAME_REPLY, c.final) ?: "another reply");
	}
	c = set(t, &name, 1);
	EXPECT(t, R(ext_wide_context_not_selected), c.final != NBD_REP_ACK || c.count == 0,
	       "\"%s\" is selected without extended headers; its status has more than 32 bits", name);
	EXPECT_REPLY(t, R(ext_wide_context_not_selected), c.final, NBD_REP_ACK, NBD_REP_ERR_EXT_HEADER_REQD);
}

/* ---- transmission flags ---- */

/* Of a session with these; 0 where there is none. */
static uint16_t
flags_with(struct test *t, bool extended, bool structured, bool contexts)
{
	uint16_t flags;

	open_fixed_newstyle(t);
	if (structured)
		negotiate_structured(t);
	if (extended)
		negotiate_extended(t);
	if (contexts && (is_error_reply(set(t, base, 1).final) || !enter_by_go_here(t, &block_size, 1)))
		return 0;
	if (!contexts && !enter_by_go_here(t, &block_size, 1))
		return 0;
	flags = t->s->flags;
	disconnect(t);
	return flags;
}

CASE(extended, flags,
     "NBD_FLAG_SEND_DF comes with extended headers as with structured replies, NBD_FLAG_BLOCK_STATUS_PAYLOAD only with "
     "them",
     R(ext_df_flag_set), R(ext_status_payload_needs_negotiation), R(ext_status_payload_needs_contexts),
     R(ext_status_payload_optional))
{
	uint16_t structured, alone, plain;

	need_extended(t);
	plain = flags_with(t, false, false, false);
	alone = flags_with(t, true, false, false);
	if ((alone & NBD_FLAG_BLOCK_STATUS_PAYLOAD) != 0)
		deviates(t, R(ext_status_payload_needs_contexts),
		         "NBD_FLAG_BLOCK_STATUS_PAYLOAD is clear without contexts", "set");
	EXPECT(t, R(ext_status_payload_needs_negotiation), (plain & NBD_FLAG_BLOCK_STATUS_PAYLOAD) == 0,
	       "NBD_FLAG_BLOCK_STATUS_PAYLOAD is set without extended headers");
	structured = flags_with(t, false, true, true);
	EXPECT(t, R(ext_status_payload_needs_negotiation), (structured & NBD_FLAG_BLOCK_STATUS_PAYLOAD) == 0,
	       "NBD_FLAG_BLOCK_STATUS_PAYLOAD is set with structured replies alone");
	EXPECT(t, R(ext_df_flag_set), structured == 0 || (structured & NBD_FLAG_SEND_DF) == (alone & NBD_FLAG_SEND_DF),
	       "NBD_FLAG_SEND_DF is %s with extended headers, and %s with structured replies",
	       (alone & NBD_FLAG_SEND_DF) != 0 ? "set" : "clear", (alone & NBD_FLAG_SEND_DF) != 0 ? "clear" : "set");
	if ((flags_with(t, true, false, true) & NBD_FLAG_BLOCK_STATUS_PAYLOAD) == 0)
		observe(t, R(ext_status_payload_optional), "NBD_FLAG_BLOCK_STATUS_PAYLOAD is not advertised");
}
