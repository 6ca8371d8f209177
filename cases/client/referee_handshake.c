/* What the client may send in the handshake. */
#include "cases/client/referee_private.h"

#include "harness/names.h"
#include "harness/nbd.h"
#include "harness/printable.h"

#include <stdlib.h>
#include <string.h>

enum { STRING_SHORT = 256 }; /* bytes; proto.md:37 */
#define TLS_HANDSHAKE 0x16   /* the first byte of a TLS record that opens one */

/* ---- client flags ---- */

void
judge_client_flags(struct session *s, uint32_t flags)
{
	const uint32_t known = NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES;
	char text[NAME_MAX_TEXT];

	/* A server that takes them a second time takes something else for them. */
	s->server_broke |= s->stage != STAGE_CLIENT_FLAGS;
	if (s->stage != STAGE_CLIENT_FLAGS)
		return;
	s->stage = STAGE_HAGGLING;
	s->client_fixed = (flags & NBD_FLAG_C_FIXED_NEWSTYLE) != 0;
	if (flags == NBD_OPTION_MAGIC >> 32) {
		accuse(s, RULES(R(client_flags_sent)), "an option in place of the client flags");
		s->stage = STAGE_LOST;
		return;
	}
	if (flags != 0 && (__builtin_bswap32(flags) & ~known) == 0) {
		accuse(s, RULES(R(numbers_big_endian)), "client flags 0x%08x, which is little-endian", flags);
		return;
	}
	if ((flags & ~known) != 0)
		accuse(s, RULES(R(no_other_client_flags)), "client flags %s",
		       name_flags(NAME_CLIENT_FLAG, flags, text));
	if ((flags & NBD_FLAG_C_NO_ZEROES) != 0 && !s->no_zeroes && !s->blurred)
		accuse(s, RULES(R(client_no_zeroes_unoffered)),
		       "NBD_FLAG_C_NO_ZEROES, and the greeting had no NBD_FLAG_NO_ZEROES");
	s->no_zeroes &= (flags & NBD_FLAG_C_NO_ZEROES) != 0;
}

/* ---- strings ---- */

static void
judge_string(struct session *s, const char *what, struct bytes text)
{
	char *shown = printable(text.at, text.len < 64 ? text.len : 64);

	if (text.len > 0 && memchr(text.at, '\0', text.len) != NULL)
		accuse(s, RULES(R(client_strings_no_nul)), "%s \"%s\" has a NUL character in it", what, shown);
	if (!is_utf8(text.at, text.len))
		accuse(s, RULES(R(client_strings_utf8)), "%s \"%s\" is no UTF-8", what, shown);
	if (text.len > NBD_MAX_STRING)
		accuse(s, RULES(R(client_strings_max_length)), "%s of %zu bytes: at most %u are allowed", what,
		       text.len, NBD_MAX_STRING);
	else if (text.len > STRING_SHORT)
		accuse(s, RULES(R(client_strings_short)), "%s of %zu bytes: more than %d", what, text.len,
		       STRING_SHORT);
	free(shown);
}

static void
take_name(struct session *s, struct bytes name)
{
	buf_clear(&s->name);
	put_bytes(&s->name, name);
	judge_string(s, "an export name", name);
}

/* ---- options ---- */

static const char *
option_name(uint32_t option, char text[NAME_MAX_TEXT])
{
	const char *name = name_of(NAME_OPTION, option);

	return name != NULL ? name : name_text(NAME_OPTION, option, text);
}

static void
judge_no_data(struct session *s, const struct option *o, enum requirement_id r)
{
	char text[NAME_MAX_TEXT];

	if (o->length > 0)
		accuse(s, RULES(r), "%s with %u bytes of data", option_name(o->option, text), o->length);
}

static void
judge_export_name(struct session *s, const struct option *o)
{
	enum requirement_id prefers = s->extended_asked ? R(ext_client_prefers_go) : REQUIREMENT_NONE;

	take_name(s, o->data);
	s->export_name_sent = true;
	if (!s->server_fixed || !s->client_fixed || s->blurred)
		return;
	if (s->extended)
		accuse(s, RULES(R(ext_no_export_name)), "NBD_OPT_EXPORT_NAME, and extended headers were agreed");
	if (!s->go_sent && !s->info_refused)
		accuse(s,
		       RULES(R(go_preferred), s->starttls_sent ? R(tls_client_uses_go) : prefers,
		             s->starttls_sent ? prefers : REQUIREMENT_NONE),
		       "NBD_OPT_EXPORT_NAME, and NBD_OPT_GO was not tried");
	if (s->honours_block_size && !s->go_refused && !s->info_refused)
		accuse(s, RULES(R(client_block_size_uses_go)),
		       "NBD_OPT_EXPORT_NAME after an NBD_OPT_GO that asked for NBD_INFO_BLOCK_SIZE, which the server "
		       "supports");
}

static void
judge_infos(struct session *s, const struct opt_go *go, const char *option)
{
	char text[NAME_MAX_TEXT];

	s->asked_block_size = false;
	for (size_t i = 0; i < go->n_infos; i++) {
		uint16_t info = opt_go_info(go, i);
		bool again = false;

		for (size_t j = 0; j < i && !again; j++)
			again = opt_go_info(go, j) == info;
		if (again) {
			accuse(s, RULES(R(info_requests_once_each)), "%s asks for %s twice", option,
			       name_text(NAME_INFO, info, text));
			return;
		}
		s->asked_block_size |= info == NBD_INFO_BLOCK_SIZE;
	}
}

static void
judge_block_size_asked(struct session *s, uint32_t option)
{
	if (option == NBD_OPT_INFO) {
		s->info_without_block_size |= !s->asked_block_size;
		return;
	}
	s->honours_block_size |= s->asked_block_size;
	if (s->asked_block_size && s->info_without_block_size)
		accuse(s, RULES(R(client_asks_block_size)),
		       "NBD_OPT_GO asks for NBD_INFO_BLOCK_SIZE, and an NBD_OPT_INFO before it did not");
	if (!s->asked_block_size && s->ref->setup.most_interoperable)
		accuse(s, RULES(R(interop_block_sizes_queried)), "NBD_OPT_GO does not ask for NBD_INFO_BLOCK_SIZE");
	s->info_without_block_size = false;
}

static void
judge_go(struct session *s, const struct option *o)
{
	const char *option = o->option == NBD_OPT_GO ? "NBD_OPT_GO" : "NBD_OPT_INFO";
	struct opt_go go;
	enum wire_end end = wire_get_opt_go(wire_over(o->data), &go);

	s->go_sent |= o->option == NBD_OPT_GO;
	s->has_info = s->has_block = false;
	buf_clear(&s->name);
	if (o->length < 6 || go.name_length > o->length - 6) {
		accuse(s, RULES(R(info_request_name_fits), R(info_request_layout)),
		       "%s with %u bytes of data, in which a name of %u bytes does not fit", option, o->length,
		       go.name_length);
		return;
	}
	if (end != WIRE_EXACT) {
		accuse(s, RULES(R(info_request_layout)),
		       "%s: %u information requests and a name of %u bytes make %s"
		       " data than the %u bytes that came",
		       option, go.n_infos, go.name_length, end == WIRE_SHORT ? "more" : "less", o->length);
		return;
	}
	take_name(s, go.name);
	judge_infos(s, &go, option);
	judge_block_size_asked(s, o->option);
}

static void
judge_structured(struct session *s, const struct option *o)
{
	judge_no_data(s, o, R(structured_reply_no_data));
	if (s->structured)
		accuse(s, RULES(R(client_state_option_once)),
		       "NBD_OPT_STRUCTURED_REPLY, which was acknowledged before in this session");
}

static void
judge_extended(struct session *s, const struct option *o)
{
	judge_no_data(s, o, R(ext_option_no_data));
	s->extended_asked = true;
	if (s->extended)
		accuse(s, RULES(R(client_state_option_once)),
		       "NBD_OPT_EXTENDED_HEADERS, which was acknowledged before in this session");
}

static void
judge_starttls(struct session *s, const struct option *o)
{
	judge_no_data(s, o, R(starttls_no_data));
	s->starttls_sent = true;
	if (s->blurred)
		return;
	/* As the first option, or where it was not offered, judge_fixed() tells of it. */
	if (s->server_fixed && !s->client_fixed && s->option != 0)
		accuse(s, RULES(R(client_starttls_needs_fixed_newstyle)),
		       "NBD_OPT_STARTTLS, and fixed newstyle was not agreed: the client flags did not answer it");
	if (s->tls)
		accuse(s, RULES(R(client_starttls_once)), "NBD_OPT_STARTTLS, and TLS is up already");
	/* Who is told so by NBD_REP_ERR_TLS_REQD has no other way (proto.md:676-692). */
	if (!s->tls_demanded && (s->structured || s->n_selected > 0))
		accuse(s, RULES(R(starttls_before_stateful)), "NBD_OPT_STARTTLS after %s, which it makes void",
		       s->n_selected > 0 ? "NBD_OPT_SET_META_CONTEXT" : "NBD_OPT_STRUCTURED_REPLY");
	if (s->extended)
		accuse(s, RULES(R(ext_client_defers_until_tls)),
		       "NBD_OPT_STARTTLS after NBD_OPT_EXTENDED_HEADERS, which it makes void");
}

/* "namespace:…"; the namespace is not empty (proto.md:948). */
static bool
has_namespace(struct bytes query)
{
	const uint8_t *colon = query.len > 0 ? memchr(query.at, ':', query.len) : NULL;

	return colon != NULL && colon > query.at;
}

static void
judge_queries(struct session *s, const struct opt_meta_context *m, enum requirement_id namespaced)
{
	struct wire w = wire_over(m->queries);

	for (uint32_t i = 0; i < m->n_queries; i++) {
		struct bytes query = opt_meta_context_query(&w);
		char *shown = printable(query.at, query.len < 64 ? query.len : 64);

		judge_string(s, "a metadata query", query);
		if (!has_namespace(query))
			accuse(s, RULES(namespaced), "the query \"%s\" does not start with a namespace and a colon",
			       shown);
		free(shown);
	}
}

/* What is said of extended headers binds who knows them. */
static void
judge_chunks_agreed(struct session *s, const char *option, bool sets)
{
	bool knows = s->extended_asked;

	if (in_chunks(s) || s->blurred)
		return;
	accuse(s,
	       sets ? RULES(R(set_meta_after_structured), R(client_metadata_needs_structured),
	                    knows ? R(ext_contexts_after_negotiation) : REQUIREMENT_NONE,
	                    R(ext_contexts_need_negotiation))
	            : RULES(R(list_meta_after_structured),
	                    knows ? R(ext_list_contexts_after_negotiation) : REQUIREMENT_NONE),
	       "%s, and structured replies were not agreed%s", option, knows ? ", nor extended headers" : "");
}

static void
judge_meta_context(struct session *s, const struct option *o)
{
	bool sets = o->option == NBD_OPT_SET_META_CONTEXT;
	const char *option = sets ? "NBD_OPT_SET_META_CONTEXT" : "NBD_OPT_LIST_META_CONTEXT";
	struct opt_meta_context m;

	judge_chunks_agreed(s, option, sets);
	if (wire_get_opt_meta_context(wire_over(o->data), &m) != WIRE_EXACT) {
		accuse(s, RULES(sets ? R(set_meta_request_layout) : R(list_meta_request_layout)),
		       "%s: %u bytes of data, which a name of %u bytes and %u queries are not", option, o->length,
		       m.name_length, m.n_queries);
		m.name.len = m.n_queries = 0;
	}
	judge_string(s, "an export name", m.name);
	judge_queries(s, &m, sets ? R(set_meta_query_namespaced) : R(list_meta_query_namespaced));
	s->n_contexts = 0;
	if (!sets)
		return;
	s->set_contexts = true;
	s->n_selected = 0;
	buf_clear(&s->context_name);
	put_bytes(&s->context_name, m.name);
}

static void
judge_fallback(struct session *s, const char *how)
{
	if (s->go_unsupported && !s->export_name_sent && !s->listed)
		accuse(s, RULES(R(go_falls_back)),
		       "NBD_OPT_GO was not supported, and the client %s without NBD_OPT_EXPORT_NAME", how);
}

static void
judge_one(struct session *s, const struct option *o)
{
	switch (o->option) {
	case NBD_OPT_EXPORT_NAME:
		judge_export_name(s, o);
		break;
	case NBD_OPT_ABORT:
		judge_no_data(s, o, R(abort_no_data));
		judge_fallback(s, "left");
		s->stage = STAGE_ABORTED;
		break;
	case NBD_OPT_LIST:
		judge_no_data(s, o, R(list_no_data));
		s->listed = true;
		break;
	case NBD_OPT_STARTTLS:
		judge_starttls(s, o);
		break;
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		judge_go(s, o);
		break;
	case NBD_OPT_STRUCTURED_REPLY:
		judge_structured(s, o);
		break;
	case NBD_OPT_EXTENDED_HEADERS:
		judge_extended(s, o);
		break;
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		judge_meta_context(s, o);
		break;
	}
}

/* ---- the order of options ---- */

static void
judge_haste(struct session *s, uint32_t option)
{
	char next[NAME_MAX_TEXT], last[NAME_MAX_TEXT];

	if (!s->awaits_reply || s->server_broke)
		return;
	accuse(s, RULES(R(client_one_option_at_a_time)), "%s before the final reply to %s", option_name(option, next),
	       option_name(s->option, last));
	if (s->option == NBD_OPT_GO)
		accuse(s, RULES(R(go_then_no_options)), "%s after NBD_OPT_GO, which has not failed",
		       option_name(option, next));
}

static void
judge_fixed(struct session *s, uint32_t option)
{
	enum requirement_id too =
		option == NBD_OPT_STARTTLS ? R(client_starttls_needs_fixed_newstyle) : REQUIREMENT_NONE;
	char text[NAME_MAX_TEXT];

	if (s->blurred || option == NBD_OPT_EXPORT_NAME)
		return;
	if (!s->server_fixed)
		accuse(s, RULES(R(nonfixed_only_export_name), too), "%s to a server that did not offer fixed newstyle",
		       option_name(option, text));
	else if (!s->client_fixed && s->option == 0)
		accuse(s, RULES(R(client_fixed_newstyle_flag), too),
		       "%s, and the client flags did not answer NBD_FLAG_FIXED_NEWSTYLE", option_name(option, text));
}

void
judge_option(struct session *s, const struct trace_record *r)
{
	char text[NAME_MAX_TEXT];
	struct option o;

	wire_get_option(wire_over(r->data), &o);
	if (s->stage == STAGE_ABORTED) {
		accuse(s, RULES(R(client_abort_drops_connection)), "%s after NBD_OPT_ABORT",
		       option_name(o.option, text));
		return;
	}
	s->awaits_tls = false;
	judge_haste(s, o.option);
	if (s->shutdown && o.option != NBD_OPT_ABORT)
		accuse(s, RULES(R(client_aborts_on_shutdown)), "%s after NBD_REP_ERR_SHUTDOWN",
		       option_name(o.option, text));
	s->shutdown = false;
	judge_fixed(s, o.option);
	/* The server has not kept the data of one that is too long. */
	if (r->data.len >= r->length)
		judge_one(s, &o);
	s->option = o.option;
	s->awaits_reply = true;
}

void
judge_bad_option_magic(struct session *s, uint64_t magic)
{
	bool opens_tls = magic >> 56 == TLS_HANDSHAKE;

	if (s->stage == STAGE_ABORTED)
		accuse(s, RULES(R(client_abort_drops_connection)), "more bytes after NBD_OPT_ABORT");
	else if (s->ref->setup.server_lies)
		; /* it may have taken too much or too little off the stream */
	else if (s->starttls_refused && opens_tls)
		accuse(s, RULES(R(client_starttls_refused)), "a TLS handshake, and NBD_OPT_STARTTLS had failed");
	else if (magic == __builtin_bswap64(NBD_OPTION_MAGIC))
		accuse(s, RULES(R(numbers_big_endian)), "an option's magic is little-endian");
	else if (s->option != 0 && !s->awaits_tls)
		accuse(s, RULES(R(option_layout_client)),
		       "0x%016llx where the next option begins: the data before it have not the length they say",
		       (unsigned long long)magic);
	else if (!s->awaits_tls)
		accuse(s, RULES(R(option_magic_client)), "an option begins with 0x%016llx", (unsigned long long)magic);
	s->stage = STAGE_LOST;
}

/* ---- leaving ---- */

const char *
how_left(const struct session *s)
{
	return s->was_reset ? "reset the connection" : "closed the connection";
}

void
judge_handshake_left(struct session *s)
{
	const char *how = how_left(s);

	/* Without fixed newstyle there is no NBD_OPT_ABORT; while the server owes a reply, it may not be sent. */
	if (!s->server_fixed || !s->client_fixed || s->awaits_reply || s->awaits_tls)
		return;
	judge_fallback(s, how);
	if (s->shutdown)
		accuse(s, RULES(R(client_aborts_on_shutdown)),
		       "the client %s after NBD_REP_ERR_SHUTDOWN, without NBD_OPT_ABORT", how);
	accuse(s, RULES(R(client_handshake_no_hard_disconnect), R(client_abandons_softly)),
	       "the client %s in the handshake without NBD_OPT_ABORT", how);
}
