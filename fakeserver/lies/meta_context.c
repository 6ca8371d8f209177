/* Lies about NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
#include "fakeserver/lie.h"
#include "harness/nbd.h"

#include <stdlib.h>
#include <string.h>

enum { LISTS = NBD_OPT_LIST_META_CONTEXT, SETS = NBD_OPT_SET_META_CONTEXT };

/* ---- the replies ---- */

static bool
tells(const struct outgoing *m, uint32_t option)
{
	return m->kind == MSG_OPTION_REPLY && m->option == option && m->payload == PAYLOAD_CONTEXT;
}

static bool
tells_base(const struct outgoing *m, uint32_t option)
{
	return tells(m, option) && bytes_equal(m->context.name, BYTES_OF("base:allocation"));
}

static bool
ends(const struct outgoing *m, uint32_t option, uint32_t type)
{
	return m->kind == MSG_OPTION_REPLY && m->option == option && m->final && m->reply.type == type;
}

static bool
answers(const struct outgoing *m, uint32_t option)
{
	return m->kind == MSG_OPTION_REPLY && m->option == option;
}

static struct bytes
long_name(size_t length)
{
	static uint8_t name[5000];

	memset(name, 'n', sizeof(name));
	memcpy(name, "x-nbdspec:", 10);
	return (struct bytes){ name, length };
}

/* Each of a list, and of a selection. */
#define NAME_LIE(ident, list_breaks, set_breaks, text_, name_)                                                         \
	OUTGOING_LIE(listed_##ident, list_breaks, "lists " text_, tells_base(m, LISTS), m->context.name = name_)       \
	OUTGOING_LIE(selected_##ident, set_breaks, "selects " text_, tells_base(m, SETS), m->context.name = name_)

NAME_LIE(name_empty, BREAKS(R(list_meta_names_namespaced)), BREAKS(R(context_name_form)), "a context without a name",
         BYTES_OF(""))
NAME_LIE(name_without_colon, BREAKS(R(list_meta_names_namespaced)), BREAKS(R(context_name_form)),
         "base:allocation as allocation", BYTES_OF("allocation"))
NAME_LIE(namespace_empty, BREAKS(R(context_namespace_characters)), BREAKS(R(context_namespace_characters)),
         "base:allocation as :allocation", BYTES_OF(":allocation"))
NAME_LIE(namespace_with_space, BREAKS(R(context_namespace_characters)), BREAKS(R(context_namespace_characters)),
         "a context whose namespace has a space", BYTES_OF("x-nbd spec:allocation"))
NAME_LIE(namespace_with_tab, BREAKS(R(context_namespace_characters)), BREAKS(R(context_namespace_characters)),
         "a context whose namespace has a tab", BYTES_OF("x-nbd\tspec:allocation"))
NAME_LIE(namespace_unregistered, BREAKS(R(context_namespace_known)), BREAKS(R(context_namespace_known)),
         "a context in a namespace of its own", BYTES_OF("acme:allocation"))
NAME_LIE(name_with_nul, BREAKS(R(list_meta_names_are_strings)), BREAKS(R(context_name_string)),
         "base:allocation with a NUL behind it", BYTES_OF("base:allocation\0"))
NAME_LIE(name_of_4097, BREAKS(R(list_meta_names_are_strings)), BREAKS(R(context_name_string)), "a name of 4097 bytes",
         long_name(4097))
NAME_LIE(name_of_300, BREAKS(R(server_strings_short)), BREAKS(R(server_strings_short)), "a name of 300 bytes",
         long_name(300))
NAME_LIE(name_not_utf8, BREAKS(R(rep_meta_context_utf8)), BREAKS(R(rep_meta_context_utf8)), "a name that is no UTF-8",
         BYTES_OF("x-nbdspec:\xff\xc0\x80"))
NAME_LIE(base_has_more, BREAKS(R(base_only_allocation)), BREAKS(R(base_only_allocation)),
         "a context of base: that nobody has defined", BYTES_OF("base:dirty"))
NAME_LIE(name_one_byte_short, BREAKS(R(base_only_allocation)), BREAKS(R(base_only_allocation)),
         "base:allocation without its last letter", BYTES_OF("base:allocatio"))

/* The same of the messages themselves. */
#define REPLY_LIE(ident, list_breaks, set_breaks, text_, which, ...)                                                   \
	OUTGOING_LIE(list_##ident, list_breaks, "LIST_META_CONTEXT: " text_, which(m, LISTS), __VA_ARGS__)             \
	OUTGOING_LIE(set_##ident, set_breaks, "SET_META_CONTEXT: " text_, which(m, SETS), __VA_ARGS__)
#define ACKS(m, option) ends(m, option, NBD_REP_ACK)

static void
send_raw(struct outgoing *m, const void *data, size_t len)
{
	m->payload = PAYLOAD_RAW;
	m->reply.data = (struct bytes){ data, len };
}

REPLY_LIE(context_of_3_bytes, BREAKS(R(rep_meta_context_layout)), BREAKS(R(rep_meta_context_layout)),
          "a context comes as 3 bytes", tells, send_raw(m, "\0\0\0", 3))
REPLY_LIE(context_empty, BREAKS(R(rep_meta_context_layout)), BREAKS(R(rep_meta_context_layout)),
          "a context comes without data", tells, send_raw(m, NULL, 0))
REPLY_LIE(context_without_id, BREAKS(R(context_namespace_characters)), BREAKS(R(context_namespace_characters)),
          "a context's name comes without an ID", tells, send_raw(m, m->context.name.at, m->context.name.len))
REPLY_LIE(context_length_1_less, BREAKS(R(option_reply_magic)), BREAKS(R(option_reply_magic)),
          "a context's length is one byte too short", tells, m->length_off = -1)
REPLY_LIE(context_length_1_more, BREAKS(R(list_meta_names_are_strings), R(option_reply_magic)),
          BREAKS(R(context_name_string), R(option_reply_magic)), "a context's length is one byte too long", tells,
          m->length_off = 1)
/* nbd-server 6201b7d */
REPLY_LIE(context_length_ones, BREAKS(R(option_reply_length)), BREAKS(R(option_reply_length)),
          "a context's length is 0xffffffff", tells, m->length_off = -(int64_t)(4 + m->context.name.len) - 1)
REPLY_LIE(context_swapped, BREAKS(R(option_reply_magic)), BREAKS(R(option_reply_magic)),
          "a context comes in the other byte order", tells, m->swap = true)
REPLY_LIE(context_cut, BREAKS(R(option_reply_length)), BREAKS(R(option_reply_length)),
          "the connection ends within a context", tells, m->cut = 30;
          m->after = AFTER_CLOSE)
REPLY_LIE(context_twice, BREAKS(R(list_meta_one_reply_per_context)), BREAKS(R(set_meta_replies)),
          "each context comes twice", tells, m->repeat = 1)
REPLY_LIE(context_late, BREAKS(R(option_reply_echoes_option)), BREAKS(R(option_reply_echoes_option)),
          "a context comes behind the ACK", tells, m->hold = true)
REPLY_LIE(context_as_server, BREAKS(R(list_meta_replies)), BREAKS(R(set_meta_replies)),
          "a context comes as NBD_REP_SERVER", tells, m->reply.type = NBD_REP_SERVER)
REPLY_LIE(context_type_off_by_one, BREAKS(R(list_meta_replies)), BREAKS(R(set_meta_replies)),
          "a context comes as reply type 5", tells, m->reply.type++)
REPLY_LIE(echo_swapped, BREAKS(R(option_reply_echoes_option)), BREAKS(R(option_reply_echoes_option)),
          "replies echo the option in the other byte order", answers,
          m->reply.option = __builtin_bswap32(m->reply.option))
REPLY_LIE(echo_of_the_other, BREAKS(R(option_reply_echoes_option)), BREAKS(R(option_reply_echoes_option)),
          "replies echo the other of the two options", answers, m->reply.option ^= LISTS ^ SETS)
REPLY_LIE(meta_ack_missing, BREAKS(R(list_meta_replies)), BREAKS(R(set_meta_replies)), "no ACK comes", ACKS,
          m->drop = true)
REPLY_LIE(meta_ack_twice, BREAKS(R(option_reply_echoes_option)), BREAKS(R(option_reply_echoes_option)),
          "the ACK comes twice", ACKS, m->repeat = 1)
REPLY_LIE(meta_ack_with_data, BREAKS(R(rep_ack_empty)), BREAKS(R(rep_ack_empty)), "the ACK has data", ACKS,
          send_raw(m, "ok", 2))
REPLY_LIE(meta_ack_is_info, BREAKS(R(list_meta_replies)), BREAKS(R(set_meta_replies)), "NBD_REP_INFO ends the answer",
          ACKS, m->reply.type = NBD_REP_INFO)
REPLY_LIE(meta_ack_closes, BREAKS(R(option_data_consumed)), BREAKS(R(option_data_consumed)),
          "the session ends behind the ACK", ACKS, m->after = AFTER_CLOSE)
REPLY_LIE(meta_unanswered, BREAKS(R(list_meta_replies)), BREAKS(R(set_meta_replies)), "no answer comes", answers,
          m->drop = true)
REPLY_LIE(meta_closes, BREAKS(R(list_meta_replies)), BREAKS(R(set_meta_replies)), "the session ends instead", answers,
          m->drop = true;
          m->after = AFTER_CLOSE)

OUTGOING_LIE(list_id_one, BREAKS(R(list_meta_id_zero)), "lists contexts with ID 1", tells(m, LISTS), m->context.id = 1)
OUTGOING_LIE(list_id_ones, BREAKS(R(list_meta_id_zero)), "lists contexts with ID 0xffffffff", tells(m, LISTS),
             m->context.id = UINT32_MAX)

OUTGOING_LIE(set_ids_equal, BREAKS(R(set_meta_ids_unique)), "gives all contexts the ID 1", tells(m, SETS),
             m->context.id = 1)
OUTGOING_LIE(set_id_off_by_one, BREAKS(R(status_chunk_names_context)), "tells IDs that are one too large",
             tells(m, SETS), m->context.id++)
OUTGOING_LIE(set_id_zero, BREAKS(R(status_chunk_names_context), R(set_meta_ids_unique)),
             "tells the ID 0 of all contexts", tells(m, SETS), m->context.id = 0)
OUTGOING_LIE(set_id_swapped, BREAKS(R(status_chunk_names_context)), "tells IDs in the other byte order", tells(m, SETS),
             m->context.id = __builtin_bswap32(m->context.id))
OUTGOING_LIE(set_context_untold, BREAKS(R(list_meta_lists_matches)), "selects base:allocation without saying so",
             tells_base(m, SETS), m->drop = true)

static unsigned
replies_before(struct lie_use *l, const struct outgoing *m, uint32_t option)
{
	unsigned n = (unsigned)l->arg;

	if (tells(m, option))
		l->arg++;
	else if (answers(m, option))
		l->arg = 0;
	return n;
}

LIE(list_all_too_big, ON_OUTGOING, BREAKS(R(list_meta_no_query_not_too_big)), "a list of all contexts is too big")
{
	/* All but the one that takes a knob. */
	if (replies_before(l, m, LISTS) == META_WIDE && ends(m, LISTS, NBD_REP_ACK) && LIE_NOW)
		m->reply.type = NBD_REP_ERR_TOO_BIG;
}

LIE(list_none_found_fails, ON_OUTGOING,
    BREAKS(R(list_meta_none_found_acked), R(list_meta_ignores_unknown_namespace), R(base_wildcard_lists)),
    "a list that is empty gets NBD_REP_ERR_UNKNOWN")
{
	if (replies_before(l, m, LISTS) == 0 && ends(m, LISTS, NBD_REP_ACK) && LIE_NOW)
		m->reply.type = NBD_REP_ERR_UNKNOWN;
}

LIE(set_none_selected_fails, ON_OUTGOING,
    BREAKS(R(set_meta_none_selected_taken), R(base_empty_leaf_ignored), R(base_unknown_leaf_ignored)),
    "a selection of nothing gets NBD_REP_ERR_INVALID")
{
	if (replies_before(l, m, SETS) == 0 && ends(m, SETS, NBD_REP_ACK) && LIE_NOW)
		m->reply.type = NBD_REP_ERR_INVALID;
}

/* Without contexts, which only the errors are left of. */
OUTGOING_LIE(set_error_after_contexts, BREAKS(R(set_meta_replies)), "an error stands behind the selected contexts",
             ends(m, SETS, NBD_REP_ACK) && c->n_contexts > 0, m->reply.type = NBD_REP_ERR_PLATFORM)
OUTGOING_LIE(set_too_big, BREAKS(R(set_meta_replies)), "one context is too many",
             ends(m, SETS, NBD_REP_ACK) && c->n_contexts > 0, m->reply.type = NBD_REP_ERR_TOO_BIG)
OUTGOING_LIE(list_malformed_unknown, BREAKS(R(list_meta_malformed_invalid)),
             "a malformed LIST_META_CONTEXT gets NBD_REP_ERR_UNKNOWN", ends(m, LISTS, NBD_REP_ERR_INVALID),
             m->reply.type = NBD_REP_ERR_UNKNOWN)
OUTGOING_LIE(set_malformed_unsup, BREAKS(R(option_malformed_invalid)),
             "a malformed SET_META_CONTEXT gets NBD_REP_ERR_UNSUP", ends(m, SETS, NBD_REP_ERR_INVALID) && c->structured,
             m->reply.type = NBD_REP_ERR_UNSUP)
OUTGOING_LIE(meta_unknown_export_closes, BREAKS(R(option_gets_reply)),
             "contexts of an export that does not exist end the session",
             ends(m, LISTS, NBD_REP_ERR_UNKNOWN) || ends(m, SETS, NBD_REP_ERR_UNKNOWN), m->drop = true;
             m->after = AFTER_CLOSE)
OUTGOING_LIE(meta_unknown_export_swallows, BREAKS(R(option_gets_reply)),
             "contexts of an export that does not exist get no answer",
             ends(m, LISTS, NBD_REP_ERR_UNKNOWN) || ends(m, SETS, NBD_REP_ERR_UNKNOWN), m->drop = true)
OUTGOING_LIE(meta_known_is_unknown, BREAKS(R(list_meta_no_query_lists_all), R(set_meta_none_selected_taken)),
             "the contexts of an export that exists get NBD_REP_ERR_UNKNOWN",
             (ends(m, LISTS, NBD_REP_ACK) || ends(m, SETS, NBD_REP_ACK)), m->reply.type = NBD_REP_ERR_UNKNOWN)
OUTGOING_LIE(meta_other_export_invalid, BREAKS(R(list_meta_replies), R(set_meta_replies)),
             "the contexts of all exports but the first get NBD_REP_ERR_INVALID",
             (ends(m, LISTS, NBD_REP_ACK) || ends(m, SETS, NBD_REP_ACK)) &&
                     c->named != &fake_config_of(c->server)->exports[0],
             m->reply.type = NBD_REP_ERR_INVALID)

/* ---- before structured replies ---- */

OUTGOING_LIE(set_unstructured_policy, BREAKS(R(set_meta_unstructured_invalid)),
             "SET_META_CONTEXT before structured replies gets NBD_REP_ERR_POLICY",
             ends(m, SETS, NBD_REP_ERR_INVALID) && !c->structured, m->reply.type = NBD_REP_ERR_POLICY)
OUTGOING_LIE(set_unstructured_closes, BREAKS(R(set_meta_unstructured_invalid)),
             "SET_META_CONTEXT before structured replies ends the session",
             ends(m, SETS, NBD_REP_ERR_INVALID) && !c->structured, m->drop = true;
             m->after = AFTER_CLOSE)
OUTGOING_LIE(list_unstructured_unknown, BREAKS(R(list_meta_replies)),
             "LIST_META_CONTEXT before structured replies gets NBD_REP_ERR_UNKNOWN",
             ends(m, LISTS, NBD_REP_ACK) && !c->structured, m->reply.type = NBD_REP_ERR_UNKNOWN)

LIE(set_unstructured_served, ON_STATE, BREAKS(R(set_meta_unstructured_invalid)),
    "SET_META_CONTEXT is served before structured replies")
{
	if (m->moment == STATE_BEFORE_OPTION && m->option == SETS && !c->structured && LIE_NOW)
		c->structured = true;
}

LIE(set_served_without_structured, ON_STATE, BREAKS(R(set_meta_unstructured_invalid)),
    "SET_META_CONTEXT is served by a server that refuses structured replies")
{
	if (m->moment == STATE_CONNECTED && LIE_NOW) {
		l->arg = c->number;
		fake_config_of(c->server)->knob[KNOB_no_structured_replies] = true;
	}
	if (m->moment == STATE_BEFORE_OPTION && m->option == SETS && l->arg == c->number) {
		fake_config_of(c->server)->knob[KNOB_no_structured_replies] = false;
		c->structured = true;
	}
}

/* ---- how the queries are taken ---- */

static bool
parse(const struct incoming *m, uint32_t option, struct opt_meta_context *o)
{
	return m->kind == MSG_OPTION && m->option.option == option &&
	       wire_get_opt_meta_context(wire_over(m->option.data), o) == WIRE_EXACT;
}

static bool
has_queries(const struct incoming *m, uint32_t option, uint32_t least, uint32_t most)
{
	struct opt_meta_context o;

	return parse(m, option, &o) && o.n_queries >= least && o.n_queries <= most;
}

/* Some query begins with the text; or is it. */
static bool
asks(const struct incoming *m, uint32_t option, const char *text, bool whole)
{
	struct opt_meta_context o;
	struct wire w;

	if (!parse(m, option, &o))
		return false;
	w = wire_over(o.queries);
	for (uint32_t i = 0; i < o.n_queries; i++) {
		struct bytes q = opt_meta_context_query(&w);

		if (q.len >= strlen(text) && memcmp(q.at, text, strlen(text)) == 0 && (!whole || q.len == strlen(text)))
			return true;
	}
	return false;
}

static void
make_invalid(struct incoming *m)
{
	m->option.data.len -= m->option.data.len > 0;
}

/* The same export, with these queries instead; the data stays in place until the next message comes. */
static void
put_queries(struct incoming *m, struct bytes name, uint32_t n, struct bytes queries)
{
	static struct buf data;

	buf_clear(&data);
	wire_put_opt_meta_context(&data, &(struct opt_meta_context){ (uint32_t)name.len, name, n, queries });
	m->option.data = (struct bytes){ data.at, data.len };
	m->option.length = (uint32_t)data.len;
}

static void
ask_instead(struct incoming *m, const char *query)
{
	static struct buf one;
	struct opt_meta_context o;

	wire_get_opt_meta_context(wire_over(m->option.data), &o);
	buf_clear(&one);
	put_be32(&one, (uint32_t)strlen(query));
	put_bytes(&one, bytes_of(query));
	put_queries(m, o.name, 1, (struct bytes){ one.at, one.len });
}

static void
ask_nothing(struct incoming *m)
{
	struct opt_meta_context o;

	wire_get_opt_meta_context(wire_over(m->option.data), &o);
	put_queries(m, o.name, 0, (struct bytes){ NULL, 0 });
}

/* Only the queries before the first one that begins so. */
static void
stop_at(struct incoming *m, const char *text)
{
	struct opt_meta_context o;
	struct wire w;
	uint32_t n = 0;
	size_t len = 0;

	wire_get_opt_meta_context(wire_over(m->option.data), &o);
	w = wire_over(o.queries);
	for (; n < o.n_queries; n++) {
		struct bytes q = opt_meta_context_query(&w);

		if (q.len >= strlen(text) && memcmp(q.at, text, strlen(text)) == 0)
			break;
		len = o.queries.len - w.left;
	}
	put_queries(m, o.name, n, (struct bytes){ o.queries.at, len });
}

static void
take_first(struct incoming *m, uint32_t most)
{
	struct opt_meta_context o;
	struct wire w;

	wire_get_opt_meta_context(wire_over(m->option.data), &o);
	w = wire_over(o.queries);
	for (uint32_t i = 0; i < most; i++)
		opt_meta_context_query(&w);
	put_queries(m, o.name, most, (struct bytes){ o.queries.at, o.queries.len - w.left });
}

#define UNKNOWN "x-nbdspec-no"

INCOMING_LIE(list_all_invalid, BREAKS(R(list_meta_no_query_lists_all)), "a list without queries is refused as invalid",
             has_queries(m, LISTS, 0, 0), make_invalid(m))
INCOMING_LIE(list_all_is_base, BREAKS(R(list_meta_no_query_lists_all)), "a list without queries is one of base: alone",
             has_queries(m, LISTS, 0, 0), ask_instead(m, "base:"))
INCOMING_LIE(list_all_without_base, BREAKS(R(list_meta_no_query_lists_all)),
             "a list without queries has all but base:allocation", has_queries(m, LISTS, 0, 0),
             ask_instead(m, "x-nbdspec:"))
INCOMING_LIE(list_all_is_empty, BREAKS(R(list_meta_no_query_lists_all)), "a list without queries is empty",
             has_queries(m, LISTS, 0, 0), ask_instead(m, "x-nbdspec-none:"))
INCOMING_LIE(list_wildcard_empty, BREAKS(R(base_wildcard_lists)), "base: finds nothing",
             has_queries(m, LISTS, 1, 1) && asks(m, LISTS, "base:", true), ask_instead(m, "base:none"))
INCOMING_LIE(list_wildcard_invalid, BREAKS(R(base_wildcard_lists)), "a list of base: is refused as invalid",
             asks(m, LISTS, "base:", true), make_invalid(m))
INCOMING_LIE(list_finds_too_much, BREAKS(R(list_meta_lists_matches)), "a list has all contexts, whatever is asked for",
             has_queries(m, LISTS, 1, UINT32_MAX), ask_nothing(m))
INCOMING_LIE(list_finds_no_names, BREAKS(R(list_meta_lists_matches)), "a list knows wildcards only",
             asks(m, LISTS, "base:allocation", true), ask_instead(m, "x-nbdspec-none:"))
INCOMING_LIE(list_unknown_invalid, BREAKS(R(list_meta_ignores_unknown_namespace)),
             "a list of an unknown namespace is refused as invalid", asks(m, LISTS, UNKNOWN, false), make_invalid(m))
INCOMING_LIE(list_unknown_stops, BREAKS(R(list_meta_lists_matches)), "a list ends at an unknown namespace",
             has_queries(m, LISTS, 2, 100) && asks(m, LISTS, UNKNOWN, false), stop_at(m, UNKNOWN))
INCOMING_LIE(list_unknown_is_all, BREAKS(R(list_meta_none_found_acked)),
             "a list of an unknown namespace has all contexts", asks(m, LISTS, UNKNOWN, false), ask_nothing(m))
INCOMING_LIE(list_leaf_by_prefix, BREAKS(R(list_meta_lists_matches)), "a list finds base:allocation by its beginning",
             asks(m, LISTS, "base:allocatio", true), ask_instead(m, "base:allocation"))
INCOMING_LIE(list_leaf_unanswered, BREAKS(R(list_meta_replies)), "a list of a leaf that is unknown gets no answer",
             asks(m, LISTS, "base:nbdspec", false), m->ignore = true)

INCOMING_LIE(set_nothing_is_base, BREAKS(R(set_meta_no_query_selects_none)),
             "a selection without queries selects base:allocation", has_queries(m, SETS, 0, 0),
             ask_instead(m, "base:allocation"))
INCOMING_LIE(set_nothing_invalid, BREAKS(R(set_meta_none_selected_taken)),
             "a selection without queries is refused as invalid", has_queries(m, SETS, 0, 0), make_invalid(m))
INCOMING_LIE(set_wildcard_selects, BREAKS(R(base_empty_leaf_ignored)), "base: selects base:allocation",
             asks(m, SETS, "base:", true), ask_instead(m, "base:allocation"))
INCOMING_LIE(set_wildcard_invalid, BREAKS(R(base_empty_leaf_ignored)), "base: is refused as invalid",
             asks(m, SETS, "base:", true), make_invalid(m))
INCOMING_LIE(set_wildcard_stops, BREAKS(R(base_empty_leaf_ignored)), "what stands behind base: selects nothing",
             asks(m, SETS, "base:", true), stop_at(m, "base:"))
INCOMING_LIE(set_empty_leaf_selects, BREAKS(R(empty_leaf_selects_nothing)), "x-nbdspec: selects all its contexts",
             asks(m, SETS, "x-nbdspec:", true), ask_instead(m, "x-nbdspec:*"))
INCOMING_LIE(set_unknown_leaf_invalid, BREAKS(R(base_unknown_leaf_ignored)), "base:nbdspec-none is refused as invalid",
             asks(m, SETS, "base:nbdspec", false), make_invalid(m))
INCOMING_LIE(set_leaf_by_prefix, BREAKS(R(base_unknown_leaf_ignored)), "base:allocatio selects base:allocation",
             asks(m, SETS, "base:allocatio", true), ask_instead(m, "base:allocation"))
INCOMING_LIE(set_leaf_by_beginning, BREAKS(R(base_unknown_leaf_ignored)), "base:allocation2 selects base:allocation",
             asks(m, SETS, "base:allocation2", true), ask_instead(m, "base:allocation"))
INCOMING_LIE(set_leaf_without_case, BREAKS(R(base_unknown_leaf_ignored)), "base:ALLOCATION selects base:allocation",
             asks(m, SETS, "base:ALLOCATION", true), ask_instead(m, "base:allocation"))
INCOMING_LIE(set_namespace_by_beginning, BREAKS(R(set_meta_none_selected_taken)),
             "base2:allocation selects base:allocation", asks(m, SETS, "base2:", false),
             ask_instead(m, "base:allocation"))
INCOMING_LIE(set_unknown_fails, BREAKS(R(set_meta_none_selected_taken)),
             "a selection with an unknown namespace is refused as invalid", asks(m, SETS, UNKNOWN, false),
             make_invalid(m))
INCOMING_LIE(set_unknown_stops, BREAKS(R(set_meta_none_selected_taken)), "a selection ends at an unknown namespace",
             has_queries(m, SETS, 2, 100) && asks(m, SETS, UNKNOWN, false), stop_at(m, UNKNOWN))
INCOMING_LIE(set_takes_first_alone, BREAKS(R(set_meta_none_selected_taken), R(base_empty_leaf_ignored)),
             "a selection takes its first query and no more", has_queries(m, SETS, 2, UINT32_MAX), take_first(m, 1))
INCOMING_LIE(set_selects_too_much, BREAKS(R(set_meta_replies)), "base:allocation selects x-nbdspec:dirty",
             has_queries(m, SETS, 1, 1) && asks(m, SETS, "base:allocation", true), ask_instead(m, "x-nbdspec:dirty"))

INCOMING_LIE(meta_takes_16_queries, BREAKS(R(list_meta_lists_matches), R(set_meta_replies)),
             "of more than 16 queries only the first 16 count",
             has_queries(m, LISTS, 17, UINT32_MAX) || has_queries(m, SETS, 17, UINT32_MAX), take_first(m, 16))
INCOMING_LIE(meta_17_queries_close, BREAKS(R(option_gets_reply)), "17 queries end the session",
             has_queries(m, LISTS, 17, 100) || has_queries(m, SETS, 17, 100), m->close = true)
INCOMING_LIE(meta_many_unread, BREAKS(R(option_data_consumed)),
             "takes no more than 4096 bytes of queries off the stream",
             m->kind == MSG_OPTION && (m->option.option == LISTS || m->option.option == SETS) &&
                     m->option.length > 8192,
             m->consumed = OPTION_HEADER_SIZE + 4096)
INCOMING_LIE(meta_no_colon_unanswered, BREAKS(R(option_gets_reply)), "a query without a colon gets no answer",
             asks(m, LISTS, "allocation", true) || asks(m, SETS, "allocation", true), m->ignore = true)
INCOMING_LIE(meta_no_colon_dies, BREAKS(R(handshake_no_hard_disconnect), R(greeting_magic)), "dies of an empty query",
             has_queries(m, LISTS, 1, 1) && asks(m, LISTS, "", true), abort())

/* ---- strings ---- */

static bool
has_nul(const struct incoming *m)
{
	struct opt_meta_context o;
	struct wire w;
	struct bytes q;

	if (!parse(m, SETS, &o) || o.n_queries != 1)
		return false;
	w = wire_over(o.queries);
	q = opt_meta_context_query(&w);
	return q.len > 0 && q.at[0] != 0 && memchr(q.at, 0, q.len) != NULL;
}

static bool
has_long_query(const struct incoming *m)
{
	struct opt_meta_context o;

	return (parse(m, SETS, &o) || parse(m, LISTS, &o)) && o.n_queries == 1 && o.queries.len > 4100;
}

static bool
has_name_of(const struct incoming *m, size_t from, size_t to)
{
	struct opt_meta_context o;

	return (parse(m, SETS, &o) || parse(m, LISTS, &o)) && o.name.len >= from && o.name.len <= to;
}

INCOMING_LIE(set_query_ends_at_nul, BREAKS(R(base_unknown_leaf_ignored)),
             "takes what stands before a NUL for the query", has_nul(m), ask_instead(m, "base:allocation"))
INCOMING_LIE(meta_long_query_dies, BREAKS(R(handshake_no_hard_disconnect), R(greeting_magic)),
             "dies of a query of more than 4096 bytes", has_long_query(m), abort())
INCOMING_LIE(meta_long_query_unanswered, BREAKS(R(option_gets_reply)), "a query of more than 4096 bytes gets no answer",
             has_long_query(m), m->ignore = true)
/* CVE-2017-15118's shape; nbdkit faf614e3 */
INCOMING_LIE(meta_longest_name_dies, BREAKS(R(option_gets_reply)), "dies of a name of 4096 bytes",
             has_name_of(m, NBD_MAX_STRING, NBD_MAX_STRING), abort())
INCOMING_LIE(meta_longest_name_closes, BREAKS(R(option_gets_reply)), "a name of 4096 bytes ends the session",
             has_name_of(m, NBD_MAX_STRING, NBD_MAX_STRING), m->close = true)

/* ---- lengths that disagree ---- */

static enum wire_end
shape(const struct incoming *m)
{
	struct opt_meta_context o;

	return m->kind == MSG_OPTION && (m->option.option == LISTS || m->option.option == SETS)
	               ? wire_get_opt_meta_context(wire_over(m->option.data), &o)
	               : WIRE_EXACT;
}

static void
serve_default(struct incoming *m)
{
	put_queries(m, (struct bytes){ NULL, 0 }, 0, (struct bytes){ NULL, 0 });
}

static bool
announces(const struct incoming *m, uint32_t name_length)
{
	struct opt_meta_context o;

	return shape(m) == WIRE_SHORT && (wire_get_opt_meta_context(wire_over(m->option.data), &o), true) &&
	       o.name_length >= name_length;
}

INCOMING_LIE(meta_malformed_served, BREAKS(R(list_meta_malformed_invalid), R(option_malformed_invalid)),
             "serves what breaks off as if there were no queries", shape(m) == WIRE_SHORT, serve_default(m))
INCOMING_LIE(meta_malformed_unanswered, BREAKS(R(option_gets_reply)), "says nothing to what breaks off",
             shape(m) == WIRE_SHORT, m->ignore = true)
INCOMING_LIE(meta_malformed_dies, BREAKS(R(handshake_no_hard_disconnect), R(greeting_magic)), "dies of what breaks off",
             shape(m) == WIRE_SHORT, abort())
INCOMING_LIE(meta_malformed_read_on, BREAKS(R(option_data_consumed)),
             "takes 4 bytes too many off the stream of what breaks off", shape(m) == WIRE_SHORT, m->consumed += 4)
/* CVE-2022-26495's shape */
INCOMING_LIE(meta_name_read_as_announced, BREAKS(R(option_gets_reply)), "waits for a name as long as its length says",
             announces(m, 0x70000000), m->ignore = true;
             m->consumed = UINT32_MAX)

static void
leave_behind(struct incoming *m)
{
	struct opt_meta_context o;
	size_t taken;

	wire_get_opt_meta_context(wire_over(m->option.data), &o);
	taken = 4 + o.name.len + 4 + o.queries.len;
	m->consumed -= m->option.data.len - taken;
	m->option.data.len = taken;
	m->option.length = (uint32_t)taken;
}

/* qemu 7.2: it then aborts too. */
INCOMING_LIE(meta_rest_is_an_option, BREAKS(R(option_data_consumed)),
             "what stands behind the last query is the next option", shape(m) == WIRE_EXTRA, leave_behind(m))
INCOMING_LIE(meta_rest_dies, BREAKS(R(handshake_no_hard_disconnect), R(greeting_magic)),
             "dies of what stands behind the last query", shape(m) == WIRE_EXTRA, abort())

/* ---- what is in force ---- */

/* What was selected before the option that is being handled. */
static struct selection {
	struct fake_export *export;
	struct selected_context contexts[META_SELECTED_MAX];
	unsigned n;
} before;

static void
restore(struct conn *c)
{
	c->context_export = before.export;
	memcpy(c->contexts, before.contexts, sizeof(before.contexts));
	c->n_contexts = before.n;
}

static bool
has_handled(const struct conn *c, const struct state_change *m, uint32_t option)
{
	if (m->moment == STATE_BEFORE_OPTION) {
		before = (struct selection){ .export = c->context_export, .n = c->n_contexts };
		memcpy(before.contexts, c->contexts, sizeof(before.contexts));
	}
	return m->moment == STATE_AFTER_OPTION && m->option == option;
}

#define STATE_LIE(ident, breaks_, text_, when, ...)                                                                    \
	LIE(ident, ON_STATE, breaks_, text_)                                                                           \
	{                                                                                                              \
		if ((when) && LIE_NOW) {                                                                               \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
	}

/* nbdkit 7ed83d14 */
STATE_LIE(set_nothing_keeps, BREAKS(R(set_meta_replaces)),
          "a selection of nothing leaves what was selected before in force",
          has_handled(c, m, SETS) && c->n_contexts == 0 && c->context_export != NULL && before.n > 0, restore(c))
/* nbdkit 1.32 where the name is malformed */
STATE_LIE(set_failure_keeps, BREAKS(R(set_meta_failure_clears)),
          "a selection that fails leaves what was selected before in force",
          has_handled(c, m, SETS) && c->context_export == NULL && before.n > 0, restore(c))
STATE_LIE(set_adds, BREAKS(R(set_meta_replaces)), "a selection adds to what was selected before",
          has_handled(c, m, SETS) && c->n_contexts == 1 && before.n > 0, {
		  memcpy(c->contexts + 1, before.contexts, before.n * sizeof(before.contexts[0]));
		  c->n_contexts += before.n;
	  })
STATE_LIE(set_first_wins, BREAKS(R(set_meta_replaces), R(status_chunk_names_context)),
          "the first selection stays in force, whatever is selected later",
          has_handled(c, m, SETS) && before.n > 0 && c->n_contexts > 0, restore(c))
/* nbdkit 1.32 */
STATE_LIE(set_failure_selects, BREAKS(R(status_without_context_einval)),
          "a selection that fails selects base:allocation",
          has_handled(c, m, SETS) && c->context_export == NULL && c->structured, {
		  c->context_export = &fake_config_of(c->server)->exports[0];
		  c->contexts[0] = (struct selected_context){ 1, META_ALLOCATION };
		  c->n_contexts = 1;
	  })
STATE_LIE(set_without_effect, BREAKS(R(set_meta_replies)), "what is selected is not in force",
          m->moment == STATE_ENTER_TRANSMISSION && c->n_contexts > 0, c->n_contexts = 0)
STATE_LIE(info_clears_contexts, BREAKS(R(status_error_code)), "NBD_OPT_INFO takes the selection back",
          has_handled(c, m, NBD_OPT_INFO) && c->n_contexts > 0, c->n_contexts = 0)
/* nbdkit 1.32 */
STATE_LIE(info_of_unknown_clears_contexts, BREAKS(R(status_error_code)),
          "NBD_OPT_INFO of an export that does not exist takes the selection back",
          has_handled(c, m, NBD_OPT_INFO) && c->n_contexts > 0 && c->named == NULL, c->n_contexts = 0)
STATE_LIE(list_clears_contexts, BREAKS(R(status_error_code)), "LIST_META_CONTEXT takes the selection back",
          has_handled(c, m, LISTS) && c->n_contexts > 0, c->n_contexts = 0)
STATE_LIE(export_list_clears_contexts, BREAKS(R(status_error_code)), "NBD_OPT_LIST takes the selection back",
          has_handled(c, m, NBD_OPT_LIST) && c->n_contexts > 0, c->n_contexts = 0)
STATE_LIE(export_name_clears_contexts, BREAKS(R(status_error_code)), "NBD_OPT_EXPORT_NAME takes the selection back",
          m->moment == STATE_ENTER_TRANSMISSION && c->option == NBD_OPT_EXPORT_NAME && c->n_contexts > 0,
          c->n_contexts = 0)

/* nbdkit 20b8509a */
STATE_LIE(set_for_another_export, BREAKS(R(status_without_context_einval)),
          "contexts that were selected for another export are in force",
          m->moment == STATE_ENTER_TRANSMISSION && c->n_contexts > 0 && c->context_export != c->export,
          c->context_export = c->export)
STATE_LIE(set_for_first_export_only, BREAKS(R(set_meta_replies)), "contexts are in force in the first export only",
          m->moment == STATE_ENTER_TRANSMISSION && c->n_contexts > 0 &&
                  c->export != &fake_config_of(c->server)->exports[0],
          c->n_contexts = 0)

LIE(set_outlives_connection, ON_STATE, BREAKS(R(status_without_context_einval)),
    "what one connection has selected is in force on the next")
{
	static struct selection last;

	if (m->moment != STATE_ENTER_TRANSMISSION || !c->structured)
		return;
	if (c->n_contexts > 0) {
		last = (struct selection){ .export = c->context_export, .n = c->n_contexts };
		memcpy(last.contexts, c->contexts, sizeof(last.contexts));
	} else if (last.n > 0 && last.export == c->export && LIE_NOW) {
		before = last;
		restore(c);
	}
}
