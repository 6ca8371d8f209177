/* NBD_OPT_LIST_META_CONTEXT, and what NBD_OPT_SET_META_CONTEXT answers (proto.md:886-1000, 1391-1517). */
#include "cases/server/meta_context.h"

#include "harness/printable.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- shared ---- */

void
haggle_structured(struct test *t)
{
	haggle_again(t);
	negotiate_structured(t);
}

bool
is_free_refusal(uint32_t type)
{
	return type == NBD_REP_ERR_UNSUP || type == NBD_REP_ERR_POLICY || type == NBD_REP_ERR_PLATFORM ||
	       type == NBD_REP_ERR_TLS_REQD || type == NBD_REP_ERR_SHUTDOWN;
}

static const char *
short_name(uint32_t option)
{
	return option == NBD_OPT_LIST_META_CONTEXT ? "LIST_META_CONTEXT" : "SET_META_CONTEXT";
}

void
need_contexts(struct test *t, uint32_t option)
{
	bool lists = option == NBD_OPT_LIST_META_CONTEXT;
	enum requirement_id r = lists ? R(list_meta_no_query_lists_all) : R(set_meta_none_selected_taken);
	struct contexts c = ask_contexts(t, option, export_name(t), NO_QUERIES);

	if (is_free_refusal(c.final))
		skip(t, short_name(option), "the server refuses NBD_OPT_%s with %s", short_name(option),
		     name_of(NAME_REPLY, c.final));
	if (c.final == NBD_REP_ERR_UNKNOWN) {
		/* Without the export the set-up is wrong. */
		disconnect(t);
		enter_transmission(t);
		broken(t, r, "NBD_OPT_%s says that there is no such export; another client was served it",
		       short_name(option));
	}
	if (lists && c.final == NBD_REP_ERR_TOO_BIG) {
		deviates(t, R(list_meta_no_query_not_too_big), "a list", "NBD_REP_ERR_TOO_BIG");
		skip(t, short_name(option), "the list without queries is too big");
	}
	EXPECT_REPLY(t, r, c.final, NBD_REP_ACK);
}

/* ---- names ---- */

/* Without its colon; SIZE_MAX where there is none. */
static size_t
namespace_length(const char *name, size_t length)
{
	const char *colon = memchr(name, ':', length);

	return colon != NULL ? (size_t)(colon - name) : SIZE_MAX;
}

static bool
is_printable(const char *text, size_t length)
{
	char *shown = printable(text, length);
	size_t escaped = 0;
	bool same;

	for (size_t i = 0; i < length; i++)
		escaped += text[i] == '\\';
	same = strlen(shown) == length + escaped && memchr(text, ' ', length) == NULL;
	free(shown);
	return same;
}

/* proto.md:954-966 */
static bool
is_known_namespace(const char *namespace, size_t length)
{
	static const char *const known[] = { "base", "nbd-server", "qemu" };

	for (size_t i = 0; i < COUNT(known); i++)
		if (strlen(known[i]) == length && memcmp(known[i], namespace, length) == 0)
			return true;
	return length >= 2 && memcmp(namespace, "x-", 2) == 0;
}

static void
check_name(struct test *t, bool listed, const char *name, size_t length)
{
	enum requirement_id string = listed ? R(list_meta_names_are_strings) : R(context_name_string);
	size_t n = namespace_length(name, length);
	char *shown = printable(name, length < 200 ? length : 200);

	EXPECT(t, string, length <= NBD_MAX_STRING, "the name of a context has %zu bytes", length);
	EXPECT(t, string, memchr(name, 0, length) == NULL, "the name of a context, \"%s\", has a NUL", shown);
	EXPECT(t, R(rep_meta_context_utf8), is_utf8(name, length), "the name of a context, \"%s\", is no UTF-8", shown);
	EXPECT(t, listed ? R(list_meta_names_namespaced) : R(context_name_form), n != SIZE_MAX,
	       "the name of a context, \"%s\", has no colon", shown);
	EXPECT(t, R(context_namespace_characters), n > 0 && is_printable(name, n),
	       "the namespace of \"%s\" is empty, or has white space or what cannot be printed", shown);
	EXPECT(t, R(context_namespace_known), is_known_namespace(name, n),
	       "the namespace of \"%s\" is neither registered nor for experiments", shown);
	EXPECT(t, R(server_strings_short), length <= 256, "the name of a context has %zu bytes", length);
	free(shown);
}

bool
is_context(const struct contexts *c, unsigned i, const char *name)
{
	return c->context[i].name_length == strlen(name) && memcmp(c->context[i].name, name, strlen(name)) == 0;
}

bool
has_context(const struct contexts *c, const char *name)
{
	for (unsigned i = 0; i < c->count; i++)
		if (is_context(c, i, name))
			return true;
	return false;
}

static bool
has_namespace(const struct contexts *c, const char *with_colon)
{
	for (unsigned i = 0; i < c->count; i++)
		if (strncmp(c->context[i].name, with_colon, strlen(with_colon)) == 0)
			return true;
	return false;
}

/* base: has one context; a list may also hold the wildcard that finds it (proto.md:1439, 1454). */
static void
check_context(struct test *t, bool listed, const struct contexts *c, unsigned i)
{
	const char *name = c->context[i].name;

	check_name(t, listed, name, c->context[i].name_length);
	EXPECT(t, R(base_only_allocation),
	       strncmp(name, "base:", 5) != 0 || is_context(c, i, BASE_ALLOCATION) ||
	               (listed && is_context(c, i, "base:")),
	       "the context \"%s\" is not defined", name);
	if (listed && c->context[i].id != 0) {
		char got[40];

		snprintf(got, sizeof(got), "0x%" PRIx32, c->context[i].id);
		deviates(t, R(list_meta_id_zero), "context ID 0 in a list", got);
	}
	for (unsigned k = 0; k < i; k++) {
		EXPECT(t, listed ? R(list_meta_one_reply_per_context) : R(set_meta_replies), !is_context(c, k, name),
		       "the context \"%s\" comes twice", name);
		EXPECT(t, R(set_meta_ids_unique), listed || c->context[k].id != c->context[i].id,
		       "both \"%s\" and \"%s\" have ID %" PRIu32, c->context[k].name, name, c->context[i].id);
	}
}

struct contexts
ask_contexts(struct test *t, uint32_t option, struct bytes name, struct queries q)
{
	bool lists = option == NBD_OPT_LIST_META_CONTEXT;
	struct contexts c =
		meta_contexts(t, option, name, q.at, q.n, lists ? R(list_meta_replies) : R(set_meta_replies));

	for (unsigned i = 0; i < c.count; i++)
		check_context(t, lists, &c, i);
	/* The list is whole, and some of it is for who has extended headers (ext:1519). */
	if (lists && c.count > 0 && c.final == NBD_REP_ERR_EXT_HEADER_REQD)
		c.final = NBD_REP_ACK;
	return c;
}

struct contexts
list_contexts(struct test *t, struct queries q, enum requirement_id r)
{
	struct contexts c = ask_contexts(t, NBD_OPT_LIST_META_CONTEXT, export_name(t), q);

	EXPECT_REPLY(t, r, c.final, NBD_REP_ACK);
	return c;
}

struct contexts
select_contexts(struct test *t, struct queries q, enum requirement_id r)
{
	struct contexts c = ask_contexts(t, NBD_OPT_SET_META_CONTEXT, export_name(t), q);

	EXPECT_REPLY(t, r, c.final, NBD_REP_ACK);
	return c;
}

struct contexts
select_base(struct test *t)
{
	struct contexts c;

	haggle_structured(t);
	need_contexts(t, NBD_OPT_SET_META_CONTEXT);
	c = select_contexts(t, QUERIES(BASE_ALLOCATION), R(set_meta_replies));
	if (!has_context(&c, BASE_ALLOCATION))
		skip(t, BASE_ALLOCATION, "the server does not offer it");
	return c;
}

/* In haggling: whether the server offers base:allocation. What was selected before is given up. */
static bool
offers_base(struct test *t)
{
	struct contexts c = ask_contexts(t, NBD_OPT_SET_META_CONTEXT, export_name(t), QUERIES(BASE_ALLOCATION));

	return c.final == NBD_REP_ACK && has_context(&c, BASE_ALLOCATION);
}

static void
haggle_list(struct test *t)
{
	haggle_structured(t);
	need_contexts(t, NBD_OPT_LIST_META_CONTEXT);
}

/* ---- lists ---- */

/* Namespaces that some server has; with the colon each is a query that finds all that is in it, or nothing. */
static const char *const namespaces[] = { "base:", "qemu:", "nbd-server:", "x-nbdspec:" };

CASE(meta_context, list_without_queries,
     "LIST_META_CONTEXT without queries tells every namespace that has contexts, base:allocation among them, each once",
     R(list_meta_no_query_lists_all), R(list_meta_no_query_not_too_big), R(list_meta_one_reply_per_context),
     R(list_meta_names_namespaced), R(list_meta_names_are_strings), R(list_meta_id_zero), R(list_meta_replies),
     R(list_meta_may_abbreviate), R(base_only_allocation), R(context_namespace_characters), R(context_namespace_known),
     R(rep_meta_context_layout), R(rep_meta_context_utf8), R(server_strings_short))
{
	struct contexts all, some;

	haggle_list(t);
	all = list_contexts(t, NO_QUERIES, R(list_meta_no_query_lists_all));
	EXPECT(t, R(list_meta_no_query_lists_all),
	       !offers_base(t) || has_context(&all, BASE_ALLOCATION) || has_context(&all, "base:"),
	       "base:allocation can be selected, but is not in the list");
	for (size_t i = 0; i < COUNT(namespaces); i++) {
		some = ask_contexts(t, NBD_OPT_LIST_META_CONTEXT, export_name(t), QUERIES(namespaces[i]));
		if (some.final != NBD_REP_ACK)
			continue;
		for (unsigned k = 0; k < some.count; k++)
			EXPECT(t, R(list_meta_no_query_lists_all),
			       strncmp(some.context[k].name, namespaces[i], strlen(namespaces[i])) != 0 ||
			               has_namespace(&all, namespaces[i]),
			       "the query %s finds \"%s\"; without a query there is nothing of it", namespaces[i],
			       some.context[k].name);
		if (some.count > 0 && !has_context(&all, some.context[0].name))
			observe(t, R(list_meta_may_abbreviate), "the whole list stands for %s by less than all of it",
			        namespaces[i]);
	}
	expect_in_step(t, R(option_data_consumed));
}

CASE(meta_context, list_wildcard, "LIST_META_CONTEXT of base: lists base:allocation where that can be selected",
     R(base_wildcard_lists), R(base_only_allocation), R(list_meta_one_reply_per_context), R(list_meta_replies),
     R(list_meta_id_zero))
{
	struct contexts c;
	bool offered;

	haggle_list(t);
	offered = offers_base(t);
	c = list_contexts(t, QUERIES("base:"), R(base_wildcard_lists));
	EXPECT(t, R(base_wildcard_lists), !offered || has_context(&c, BASE_ALLOCATION),
	       "base:allocation can be selected, but is not in the list of base:");
	expect_in_step(t, R(option_data_consumed));
}

/* Whatever else a query lists is of the namespace that it names. */
static void
expect_only_matches(struct test *t, const struct contexts *c, struct queries q)
{
	for (unsigned i = 0; i < c->count; i++) {
		size_t n = namespace_length(c->context[i].name, c->context[i].name_length);
		bool asked = false;

		for (size_t k = 0; k < q.n; k++)
			asked |= strncmp(q.at[k], c->context[i].name, n + 1) == 0;
		EXPECT(t, R(list_meta_lists_matches), asked, "\"%s\" is listed, which no query names",
		       c->context[i].name);
	}
}

CASE(meta_context, list_matches,
     "LIST_META_CONTEXT lists just the contexts that its queries match, each once, whatever else is asked for",
     R(list_meta_lists_matches), R(list_meta_one_reply_per_context), R(list_meta_ignores_unknown_namespace),
     R(list_meta_may_reorder), R(list_meta_replies))
{
	const struct {
		const char *label;
		struct queries q;
	} points[] = {
		{ "by name", QUERIES(BASE_ALLOCATION) },
		{ "twice", QUERIES(BASE_ALLOCATION, BASE_ALLOCATION) },
		{ "by name and wildcard", QUERIES(BASE_ALLOCATION, "base:") },
		{ "behind unknown ones",
		  QUERIES("x-nbdspec-none:a", "x-nbdspec-none:", "x-nbdspec-nothing:b:c", BASE_ALLOCATION) },
		{ "before unknown ones", QUERIES(BASE_ALLOCATION, "x-nbdspec-none:a", "x-nbdspec-none:") },
	};

	for (volatile size_t i = 0; i < COUNT(points); i++)
		POINT(t, "%s", points[i].label) {
			bool offered;
			struct contexts c;

			haggle_list(t);
			offered = offers_base(t);
			c = list_contexts(t, points[i].q,
			                  points[i].q.n > 2 ? R(list_meta_ignores_unknown_namespace)
			                                    : R(list_meta_lists_matches));
			EXPECT(t, R(list_meta_lists_matches),
			       !offered || has_context(&c, BASE_ALLOCATION) || has_context(&c, "base:"),
			       "base:allocation can be selected, but its name does not find it");
			EXPECT(t, R(list_meta_lists_matches), offered || !has_context(&c, BASE_ALLOCATION),
			       "base:allocation is listed, but cannot be selected");
			expect_only_matches(t, &c, points[i].q);
			expect_in_step(t, R(option_data_consumed));
		}
}

CASE(meta_context, list_unknown_namespaces,
     "LIST_META_CONTEXT of namespaces that the server does not know gets NBD_REP_ACK and nothing else",
     R(list_meta_ignores_unknown_namespace), R(list_meta_none_found_acked), R(list_meta_replies))
{
	static const char *const unknown[] = { "x-nbdspec-none:leaf", "x-nbdspec-none:", "x-nbdspec-none:a:b:c",
		                               "x-nbdspec-none:*",    "x-%s%n:%1000d",   "x-\xc3\xa9:\xe2\x82\xac" };

	for (volatile size_t i = 0; i < COUNT(unknown); i++)
		POINT(t, "%s", unknown[i]) {
			struct contexts c;

			haggle_list(t);
			c = list_contexts(t, QUERIES(unknown[i]), R(list_meta_ignores_unknown_namespace));
			EXPECT(t, R(list_meta_none_found_acked), c.count == 0,
			       "\"%s\" is listed for a query that finds nothing", c.context[0].name);
			expect_in_step(t, R(option_data_consumed));
		}
}

/* What a list may refuse as meaningless (proto.md:1421), though base: is to be ignored (proto.md:997). */
CASE(meta_context, list_meaningless,
     "LIST_META_CONTEXT of a leaf that base: does not have is ignored or refused as invalid, and finds nothing",
     R(list_meta_lists_matches), R(list_meta_may_reject_meaning), R(list_meta_none_found_acked))
{
	static const char *const leaves[] = { "base:nbdspec-none", "base:allocatio", "base:allocation2",
		                              "base::allocation" };

	for (volatile size_t i = 0; i < COUNT(leaves); i++)
		POINT(t, "%s", leaves[i]) {
			struct contexts c;

			haggle_list(t);
			c = ask_contexts(t, NBD_OPT_LIST_META_CONTEXT, export_name(t), QUERIES(leaves[i]));
			EXPECT_REPLY(t, R(list_meta_none_found_acked), c.final, NBD_REP_ACK, NBD_REP_ERR_INVALID);
			if (c.final == NBD_REP_ERR_INVALID)
				observe(t, R(list_meta_may_reject_meaning), "%s is refused as invalid", leaves[i]);
			EXPECT(t, R(list_meta_lists_matches), c.final != NBD_REP_ACK || c.count == 0,
			       "\"%s\" is listed for %s", c.context[0].name, leaves[i]);
			expect_in_step(t, R(option_data_consumed));
		}
}

/* It breaks a MUST of ours (proto.md:1407), so all that counts is that the session stays in step, or ends. */
CASE(meta_context, no_colon,
     "A query without a colon is ignored or refused, and the next option is understood; or the session ends",
     R(list_meta_may_reject_meaning), R(option_gets_reply), R(option_data_consumed), R(bad_option_may_close))
{
	static const char *const queries[] = { "", "base", "allocation", "nbdspec" };
	static const uint32_t options[] = { NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT };

	for (volatile size_t i = 0; i < 2 * COUNT(queries); i++)
		POINT(t, "%s \"%s\"", short_name(options[i % 2]), queries[i / 2]) {
			struct contexts c;
			struct buf b = { 0 };

			haggle_structured(t);
			need_contexts(t, options[i % 2]);
			put_meta_context(&b, export_name(t), &queries[i / 2], 1);
			send_option(t, options[i % 2], b.at, b.len);
			buf_free(&b);
			if (!peer_goes_on(t, R(option_gets_reply))) {
				observe(t, R(bad_option_may_close), "a query without a colon ends the session");
				expect_next_client_served(t, R(handshake_no_hard_disconnect));
			} else {
				c.final =
					recv_final_reply(t, R(option_gets_reply), NBD_REP_META_CONTEXT, &c.count).type;
				if (c.final != NBD_REP_ACK || c.count > 0)
					observe(t, R(list_meta_may_reject_meaning), "\"%s\" gets %u contexts and %s",
					        queries[i / 2], c.count, name_of(NAME_REPLY, c.final) ?: "an error");
				expect_in_step(t, R(option_data_consumed));
			}
		}
}

/* ---- selections ---- */

CASE(meta_context, select_base,
     "SET_META_CONTEXT of base:allocation selects that and nothing else, if LIST_META_CONTEXT lists it",
     R(set_meta_replies), R(context_name_form), R(context_name_string), R(context_namespace_characters),
     R(context_namespace_known), R(rep_meta_context_layout), R(rep_meta_context_utf8), R(base_only_allocation),
     R(list_meta_lists_matches), R(server_strings_short))
{
	struct contexts listed, c;

	haggle_structured(t);
	need_contexts(t, NBD_OPT_SET_META_CONTEXT);
	c = select_contexts(t, QUERIES(BASE_ALLOCATION), R(set_meta_replies));
	for (unsigned i = 0; i < c.count; i++)
		EXPECT(t, R(set_meta_replies), is_context(&c, i, BASE_ALLOCATION),
		       "\"%s\" is selected for base:allocation", c.context[i].name);
	listed = ask_contexts(t, NBD_OPT_LIST_META_CONTEXT, export_name(t), QUERIES(BASE_ALLOCATION));
	EXPECT(t, R(list_meta_lists_matches),
	       listed.final != NBD_REP_ACK || c.count > 0 || !has_context(&listed, BASE_ALLOCATION),
	       "base:allocation is listed, but cannot be selected");
	expect_in_step(t, R(option_data_consumed));
}

/* All the contexts by their names: each that comes is one that was named. */
static struct contexts
select_all(struct test *t, bool twice)
{
	static const char *names[2 * CONTEXTS_TRIED];
	struct contexts all, c;
	size_t n = 0;

	haggle_list(t);
	need_contexts(t, NBD_OPT_SET_META_CONTEXT);
	all = list_contexts(t, NO_QUERIES, R(list_meta_no_query_lists_all));
	for (unsigned i = 0; i < all.count && n < CONTEXTS_TRIED; i++)
		names[n++] = all.context[i].name;
	if (n == 0)
		skip(t, "metadata contexts", "the server lists none");
	for (size_t i = 0; twice && i < n; i++)
		names[n + i] = names[i];
	c = ask_contexts(t, NBD_OPT_SET_META_CONTEXT, export_name(t), (struct queries){ names, twice ? 2 * n : n });
	if (c.final == NBD_REP_ERR_TOO_BIG)
		skip(t, "many queries", "the server takes not so many queries");
	EXPECT_REPLY(t, R(set_meta_replies), c.final, NBD_REP_ACK);
	return c;
}

CASE(meta_context, select_all,
     "SET_META_CONTEXT of all the contexts that are listed selects each once, with an ID of its own",
     R(set_meta_replies), R(set_meta_ids_unique), R(set_meta_may_reorder), R(context_name_form),
     R(rep_meta_context_utf8))
{
	for (volatile int twice = 0; twice < 2; twice++)
		POINT(t, twice ? "each named twice" : "each named once") {
			struct contexts c = select_all(t, twice);

			if (c.count == 0)
				skip(t, "metadata contexts", "the server lists contexts, but selects none by its name");
			expect_in_step(t, R(option_data_consumed));
		}
}

/* Queries that select nothing, and what is broken if they do. */
struct nothing {
	const char *label;
	struct queries q;
	enum requirement_id r;
};

static void
select_nothing(struct test *t, const struct nothing *n)
{
	struct contexts c;

	haggle_structured(t);
	need_contexts(t, NBD_OPT_SET_META_CONTEXT);
	c = ask_contexts(t, NBD_OPT_SET_META_CONTEXT, export_name(t), n->q);
	/* The empty leaf-name is a SHOULD NOT, so nothing hinders a server from counting it among what it finds wrong. */
	EXPECT_REPLY(t, n->r == R(empty_leaf_selects_nothing) ? R(set_meta_none_selected_taken) : n->r, c.final,
	             NBD_REP_ACK);
	if (c.count > 0)
		deviates(t, n->r, "no context", c.context[0].name);
	expect_in_step(t, R(option_data_consumed));
}

CASE(meta_context, select_nothing,
     "SET_META_CONTEXT without queries, of base: or of what nobody knows selects nothing, which is no error",
     R(set_meta_no_query_selects_none), R(base_empty_leaf_ignored), R(base_unknown_leaf_ignored),
     R(empty_leaf_selects_nothing), R(set_meta_none_selected_taken), R(set_meta_replies))
{
	const struct nothing points[] = {
		{ "no query", NO_QUERIES, R(set_meta_no_query_selects_none) },
		{ "base:", QUERIES("base:"), R(base_empty_leaf_ignored) },
		{ "base: twice", QUERIES("base:", "base:"), R(base_empty_leaf_ignored) },
		{ "base:nbdspec-none", QUERIES("base:nbdspec-none"), R(base_unknown_leaf_ignored) },
		{ "base:allocatio", QUERIES("base:allocatio"), R(base_unknown_leaf_ignored) },
		{ "base:allocation2", QUERIES("base:allocation2"), R(base_unknown_leaf_ignored) },
		{ "base:ALLOCATION", QUERIES("base:ALLOCATION"), R(base_unknown_leaf_ignored) },
		{ "base::allocation", QUERIES("base::allocation"), R(base_unknown_leaf_ignored) },
		{ "base:*", QUERIES("base:*"), R(base_unknown_leaf_ignored) },
		{ "unknown namespace", QUERIES("x-nbdspec-none:leaf"), R(set_meta_none_selected_taken) },
		{ "longer namespace", QUERIES("base2:allocation"), R(set_meta_none_selected_taken) },
		{ "unknown namespaces", QUERIES("x-nbdspec-none:a", "x-nbdspec-none:", "x-nbdspec-nothing:b"),
		  R(set_meta_none_selected_taken) },
		{ "qemu:", QUERIES("qemu:"), R(empty_leaf_selects_nothing) },
		{ "nbd-server:", QUERIES("nbd-server:"), R(empty_leaf_selects_nothing) },
		{ "x-nbdspec:", QUERIES("x-nbdspec:"), R(empty_leaf_selects_nothing) },
	};

	for (volatile size_t i = 0; i < COUNT(points); i++)
		POINT(t, "%s", points[i].label)
			select_nothing(t, &points[i]);
}

CASE(meta_context, select_among_unknown,
     "SET_META_CONTEXT selects base:allocation among queries that it ignores, wherever it stands", R(set_meta_replies),
     R(base_empty_leaf_ignored), R(base_unknown_leaf_ignored), R(set_meta_none_selected_taken))
{
	const struct nothing points[] = {
		{ "behind base:", QUERIES("base:", BASE_ALLOCATION), R(base_empty_leaf_ignored) },
		{ "before base:", QUERIES(BASE_ALLOCATION, "base:"), R(base_empty_leaf_ignored) },
		{ "behind base:nbdspec-none", QUERIES("base:nbdspec-none", BASE_ALLOCATION),
		  R(base_unknown_leaf_ignored) },
		{ "before base:nbdspec-none", QUERIES(BASE_ALLOCATION, "base:nbdspec-none"),
		  R(base_unknown_leaf_ignored) },
		{ "behind unknown", QUERIES("x-nbdspec-none:a", BASE_ALLOCATION), R(set_meta_none_selected_taken) },
		{ "before unknown", QUERIES(BASE_ALLOCATION, "x-nbdspec-none:"), R(set_meta_none_selected_taken) },
		{ "named twice", QUERIES(BASE_ALLOCATION, BASE_ALLOCATION), R(set_meta_replies) },
	};

	for (volatile size_t i = 0; i < COUNT(points); i++)
		POINT(t, "%s", points[i].label) {
			struct contexts c;

			select_base(t);
			c = select_contexts(t, points[i].q, points[i].r);
			EXPECT(t, points[i].r, has_context(&c, BASE_ALLOCATION),
			       "base:allocation is not selected because of a query that is to be ignored");
			EXPECT(t, points[i].r, c.count == 1, "%u contexts are selected", c.count);
			expect_in_step(t, R(option_data_consumed));
		}
}

/* ---- many queries ---- */

static void
ask_many(struct test *t, uint32_t option, unsigned n)
{
	static char text[16384][24];
	static const char *many[16384];
	struct contexts c;
	struct buf b = { 0 };
	bool offered;

	haggle_structured(t);
	need_contexts(t, option);
	offered = offers_base(t);
	for (unsigned i = 0; i < n; i++) {
		snprintf(text[i], sizeof(text[i]), "x-nbdspec-none:%u", i);
		many[i] = text[i];
	}
	many[n - 1] = BASE_ALLOCATION;
	put_meta_context(&b, export_name(t), many, n);
	send_option(t, option, b.at, b.len);
	buf_free(&b);
	if (!peer_goes_on(t, R(option_gets_reply))) {
		EXPECT(t, R(option_gets_reply), n > 1000, "%u queries end the session", n);
		observe(t, R(haggling_denial_of_service_close), "%u queries end the session", n);
		expect_next_client_served(t, R(handshake_no_hard_disconnect));
		return;
	}
	c.final = recv_final_reply(t, R(option_gets_reply), NBD_REP_META_CONTEXT, &c.count).type;
	EXPECT_REPLY(t, option == NBD_OPT_SET_META_CONTEXT ? R(set_meta_replies) : R(list_meta_replies), c.final,
	             NBD_REP_ACK, NBD_REP_ERR_TOO_BIG);
	EXPECT(t, option == NBD_OPT_SET_META_CONTEXT ? R(set_meta_replies) : R(list_meta_lists_matches),
	       c.final != NBD_REP_ACK || c.count == (offered ? 1 : 0),
	       "%u contexts are found by %u queries, of which one names base:allocation", c.count, n);
	expect_in_step(t, R(option_data_consumed));
}

CASE(meta_context, many_queries,
     "The last of many queries counts as much as the first, or they are too many; the next option is understood",
     R(set_meta_replies), R(list_meta_replies), R(list_meta_lists_matches), R(list_meta_may_be_too_big),
     R(set_meta_may_be_too_big), R(option_data_consumed), R(option_gets_reply))
{
	static const unsigned numbers[] = { 17, 300, 5000 };
	static const uint32_t options[] = { NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT };

	for (volatile size_t i = 0; i < 2 * COUNT(numbers); i++)
		POINT(t, "%s queries=%u", short_name(options[i % 2]), numbers[i / 2])
			ask_many(t, options[i % 2], numbers[i / 2]);
}

/* ---- data that is no valid request ---- */

enum { WHOLE = 1 << 30, AS_IT_IS = 0x5a5a5a5a };

/* Each field as it is written; the name is the export's own where its length is AS_IT_IS. */
struct malformed {
	const char *label;
	uint32_t name_length, name_sent, count;
	bool has_query;
	uint32_t query_length, query_sent;
	uint32_t cut; /* only so many bytes of all this, besides the export's own name, or WHOLE */
	/* All that is wrong is what follows the last query, where implementations differ; a bait is itself an option. */
	enum { NOTHING_BEHIND, JUNK_BEHIND, BAIT_BEHIND } behind;
};

static const struct malformed shapes[] = {
	{ "empty", .cut = 0 },
	{ "1 byte", .cut = 1 },
	{ "3 bytes", .cut = 3 },
	{ "name alone", AS_IT_IS, .cut = 4 },
	{ "7 bytes besides the name", AS_IT_IS, .cut = 7 },
	{ "name 1 longer", 1, 0, 0, false, 0, 0, WHOLE, NOTHING_BEHIND },
	{ "name 4 longer", 4, 0, 0, false, 0, 0, WHOLE, NOTHING_BEHIND },
	{ "name 10 of 9", 10, 9, 0, false, 0, 0, 13, NOTHING_BEHIND },
	{ "name little-endian", 0x07000000, 7, 0, false, 0, 0, WHOLE, NOTHING_BEHIND },
	{ "name 0x80000000", 0x80000000, 0, 0, false, 0, 0, WHOLE, NOTHING_BEHIND },
	{ "name 0xfffffffc", 0xfffffffc, 0, 0, false, 0, 0, WHOLE, NOTHING_BEHIND },
	{ "name 0xffffffff", 0xffffffff, 0, 1, true, 4, 4, WHOLE, NOTHING_BEHIND },
	{ "name 0xffffffff of 2000", 0xffffffff, 2000, 0, false, 0, 0, WHOLE, NOTHING_BEHIND },
	{ "1 query, none there", AS_IT_IS, 0, 1, false, 0, 0, WHOLE, NOTHING_BEHIND },
	{ "2 queries, 1 there", AS_IT_IS, 0, 2, true, 15, 15, WHOLE, NOTHING_BEHIND },
	{ "0xffffffff queries, 1 there", AS_IT_IS, 0, 0xffffffff, true, 15, 15, WHOLE, NOTHING_BEHIND },
	{ "0x40000000 queries, none there", AS_IT_IS, 0, 0x40000000, false, 0, 0, WHOLE, NOTHING_BEHIND },
	{ "queries little-endian", AS_IT_IS, 0, 0x01000000, true, 15, 15, WHOLE, NOTHING_BEHIND },
	{ "query 16 of 15", AS_IT_IS, 0, 1, true, 16, 15, WHOLE, NOTHING_BEHIND },
	{ "query 5000 of 15", AS_IT_IS, 0, 1, true, 5000, 15, WHOLE, NOTHING_BEHIND },
	{ "query 1 of 0", AS_IT_IS, 0, 1, true, 1, 0, WHOLE, NOTHING_BEHIND },
	{ "query 0x80000000 of 15", AS_IT_IS, 0, 1, true, 0x80000000, 15, WHOLE, NOTHING_BEHIND },
	{ "query 0xfffffffc of 15", AS_IT_IS, 0, 1, true, 0xfffffffc, 15, WHOLE, NOTHING_BEHIND },
	{ "query 0xffffffff of 15", AS_IT_IS, 0, 1, true, 0xffffffff, 15, WHOLE, NOTHING_BEHIND },
	{ "1 query behind", AS_IT_IS, 0, 0, true, 15, 15, WHOLE, JUNK_BEHIND },
	{ "query 14 of 15", AS_IT_IS, 0, 1, true, 14, 15, WHOLE, JUNK_BEHIND },
};

/* What stands behind the last query is itself a whole option. */
static const struct malformed option_behind = { "an option behind", AS_IT_IS, 0, 0, false, 0, 0, WHOLE, BAIT_BEHIND };

enum { BAIT_OPTION = 0x6e627371 }; /* no server knows it */

static void
send_malformed(struct test *t, uint32_t option, const struct malformed *m)
{
	bool own = m->name_length == AS_IT_IS;
	uint32_t cut = own && m->cut != WHOLE ? m->cut + (uint32_t)export_name(t).len : m->cut;
	struct buf b = { 0 };

	put_be32(&b, own ? (uint32_t)export_name(t).len : m->name_length);
	if (own)
		put_bytes(&b, export_name(t));
	if (m->name_sent > 0)
		memset(buf_grow(&b, m->name_sent), 'n', m->name_sent);
	put_be32(&b, m->count);
	if (m->has_query)
		put_be32(&b, m->query_length);
	buf_put(&b, BASE_ALLOCATION, m->query_sent);
	if (m->behind == BAIT_BEHIND)
		wire_put_option(&b, &(struct option){ NBD_OPTION_MAGIC, BAIT_OPTION, 0, { NULL, 0 } });
	send_option(t, option, b.at, b.len < cut ? b.len : cut);
	buf_free(&b);
}

/* What came for a request that breaks a MUST: a final reply, or 0 where the session ended and another was served. */
static uint32_t
recv_refusal(struct test *t, const char *label, unsigned *count)
{
	if (peer_goes_on(t, R(option_gets_reply)))
		return recv_final_reply(t, R(option_gets_reply), NBD_REP_META_CONTEXT, count).type;
	observe(t, R(bad_option_may_close), "%s ends the session", label);
	expect_next_client_served(t, R(handshake_no_hard_disconnect));
	return 0;
}

/*
 * The end of the session may be what the bytes behind the last query deserve (proto.md:243). But who goes on has taken
 * them off the stream: none is answered as an option of its own.
 */
static void
in_step_or_left(struct test *t, const char *label)
{
	uint8_t head[12] = { 0 };
	struct wire w = wire(head, sizeof(head));

	send_option(t, BAIT_OPTION + 1, NULL, 0);
	if (!peer_goes_on(t, R(option_data_consumed))) {
		observe(t, R(bad_option_may_close), "%s ends the session once more is sent", label);
		expect_next_client_served(t, R(handshake_no_hard_disconnect));
		return;
	}
	peek_bytes(t, head, sizeof(head));
	wire_be64(&w);
	EXPECT(t, R(option_data_consumed), wire_be32(&w) != BAIT_OPTION,
	       "the option was served, and what stands behind its last query is then answered as an option");
	recv_option_reply(t, R(option_data_consumed));
}

static void
expect_refused(struct test *t, uint32_t option, const struct malformed *m)
{
	enum requirement_id r =
		option == NBD_OPT_LIST_META_CONTEXT ? R(list_meta_malformed_invalid) : R(option_malformed_invalid);
	uint32_t final;
	unsigned count;

	final = recv_refusal(t, m->label, &count);
	if (final == 0)
		return;
	if (m->behind != NOTHING_BEHIND) {
		observe(t, r, "%s gets %s", m->label, name_of(NAME_REPLY, final) ?: "an error");
		in_step_or_left(t, m->label);
		return;
	}
	EXPECT_REPLY(t, r, final, REFUSALS_OF_MALFORMED);
	expect_in_step(t, R(option_data_consumed));
}

/*
 * A server that waits for more than it was promised makes a point last as long as our patience does; after two of them
 * the others would tell nothing new.
 */
enum { MOST_UNANSWERED = 2 };

CASE(meta_context, malformed,
     "A request whose lengths disagree is refused as invalid, and the next option is understood; or the session ends",
     R(list_meta_malformed_invalid), R(option_malformed_invalid), R(option_data_consumed), R(option_gets_reply),
     R(bad_option_may_close), R(handshake_no_hard_disconnect))
{
	static const uint32_t options[] = { NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT };
	volatile unsigned unanswered = 0;
	volatile bool answered = false;

	for (volatile size_t i = 0; i < 2 * COUNT(shapes) && unanswered < MOST_UNANSWERED; i++) {
		answered = true;
		POINT(t, "%s %s", short_name(options[i % 2]), shapes[i / 2].label) {
			haggle_structured(t);
			need_contexts(t, options[i % 2]);
			answered = false;
			send_malformed(t, options[i % 2], &shapes[i / 2]);
			expect_refused(t, options[i % 2], &shapes[i / 2]);
			answered = true;
		}
		unanswered += !answered;
	}
}

/* qemu 7.2 takes it for an option, and then aborts: server.c:1195, assertion !client->optlen. */
CASE(meta_context, option_behind,
     "What stands behind the last query is never taken for an option; whether it is refused is free",
     R(option_data_consumed), R(option_gets_reply), R(bad_option_may_close), R(handshake_no_hard_disconnect))
{
	static const uint32_t options[] = { NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT };

	for (volatile size_t i = 0; i < COUNT(options); i++)
		POINT(t, "%s", short_name(options[i])) {
			haggle_structured(t);
			need_contexts(t, options[i]);
			send_malformed(t, options[i], &option_behind);
			expect_refused(t, options[i], &option_behind);
		}
}

/* Strings that proto.md:35-38 rules out; the layout is right. */
struct bad_string {
	const char *label, *text;
	size_t text_length, length; /* filled up with q */
};

static const struct bad_string bad_queries[] = {
	{ "base:allocation and a NUL", "base:allocation\0", 16, 0 },
	{ "base:allocation, a NUL and more", "base:allocation\0junk", 20, 0 },
	{ "NUL first", "\0base:allocation", 16, 0 },
	{ "not UTF-8", "base:\xff\xfe", 7, 0 },
	{ "4097", "base:allocation", 15, 4097 },
	{ "5000", "base:allocation", 15, 5000 },
	{ "65000", "base:allocation", 15, 65000 },
};

static void
send_query(struct test *t, uint32_t option, const struct bad_string *s)
{
	size_t length = s->length > s->text_length ? s->length : s->text_length;
	struct buf b = { 0 };

	put_be32(&b, (uint32_t)export_name(t).len);
	put_bytes(&b, export_name(t));
	put_be32(&b, 1);
	put_be32(&b, (uint32_t)length);
	buf_put(&b, s->text, s->text_length);
	if (length > s->text_length)
		memset(buf_grow(&b, length - s->text_length), 'q', length - s->text_length);
	send_option(t, option, b.at, b.len);
	buf_free(&b);
}

CASE(meta_context, bad_queries,
     "A query with a NUL, or longer than 4096 bytes, names no context, and the next option is understood",
     R(base_unknown_leaf_ignored), R(option_data_consumed), R(option_gets_reply), R(bad_option_may_close),
     R(handshake_no_hard_disconnect))
{
	static const uint32_t options[] = { NBD_OPT_SET_META_CONTEXT, NBD_OPT_LIST_META_CONTEXT };

	for (volatile size_t i = 0; i < 2 * COUNT(bad_queries); i++)
		POINT(t, "%s %s", short_name(options[i % 2]), bad_queries[i / 2].label) {
			const struct bad_string *s = &bad_queries[i / 2];
			uint32_t final;
			unsigned count;

			haggle_structured(t);
			need_contexts(t, options[i % 2]);
			send_query(t, options[i % 2], s);
			final = recv_refusal(t, s->label, &count);
			EXPECT(t, R(base_unknown_leaf_ignored),
			       final != NBD_REP_ACK || count == 0 || options[i % 2] == NBD_OPT_LIST_META_CONTEXT,
			       "a context is selected by what is no name of one");
			if (final != 0)
				expect_in_step(t, R(option_data_consumed));
		}
}

/* ---- other exports ---- */

static const struct bad_string other_names[] = {
	{ "unknown", "nbdspec-no-such-export", 22, 0 },
	{ "256", "nbdspec-", 8, 256 },
	{ "4096", "nbdspec-", 8, 4096 },
	{ "4097", "nbdspec-", 8, 4097 },
	{ "NUL", "nbdspec-no-such-export\0junk", 27, 0 },
	{ "not UTF-8", "nbdspec-\xff\xfe", 10, 0 },
};

static struct bytes
other_name(const struct bad_string *s)
{
	static uint8_t name[5000];
	size_t length = s->length > s->text_length ? s->length : s->text_length;

	memset(name, 'n', sizeof(name));
	memcpy(name, s->text, s->text_length);
	return (struct bytes){ name, length };
}

/* No text says which error, nor that there is one; nothing of it may go on to be in force (meta_context_state.c). */
CASE(meta_context, unknown_export,
     "A request about an export that does not exist is answered in one way or another, and the next one is understood",
     R(option_gets_reply), R(option_data_consumed), R(list_meta_replies), R(set_meta_replies), R(bad_option_may_close))
{
	static const uint32_t options[] = { NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT };

	for (volatile size_t i = 0; i < 2 * COUNT(other_names); i++)
		POINT(t, "%s %s", short_name(options[i % 2]), other_names[i / 2].label) {
			const struct bad_string *s = &other_names[i / 2];
			struct bytes name = other_name(s);
			struct buf b = { 0 };
			unsigned count;

			haggle_structured(t);
			need_contexts(t, options[i % 2]);
			put_meta_context(&b, name, QUERIES(BASE_ALLOCATION).at, 1);
			send_option(t, options[i % 2], b.at, b.len);
			buf_free(&b);
			/* Valid names leave no reason to end the session (proto.md:268). */
			if (i / 2 < 3) {
				struct option_reply r =
					recv_final_reply(t, R(option_gets_reply), NBD_REP_META_CONTEXT, &count);

				if (r.type != NBD_REP_ERR_UNKNOWN)
					observe(t, R(list_meta_replies), "an unknown export gets %u contexts and %s",
					        count, name_of(NAME_REPLY, r.type) ?: "an error");
			} else if (recv_refusal(t, s->label, &count) == 0) {
				continue;
			}
			expect_in_step(t, R(option_data_consumed));
			need_contexts(t, options[i % 2]);
		}
}

CASE(meta_context, other_exports,
     "LIST_META_CONTEXT and SET_META_CONTEXT know every export that NBD_OPT_LIST names, or refuse as they may",
     R(list_meta_no_query_lists_all), R(set_meta_replies), R(list_meta_replies))
{
	struct listed list;
	struct contexts c;

	haggle_list(t);
	list = list_exports(t);
	for (unsigned i = 0; i < list.count && i < CONTEXTS_TRIED; i++) {
		struct bytes name = { (const uint8_t *)list.exports[i].name, list.exports[i].name_length };

		c = ask_contexts(t, NBD_OPT_LIST_META_CONTEXT, name, NO_QUERIES);
		/* An export may be listed and be gone (proto.md:1226), or want TLS. */
		EXPECT_REPLY(t, R(list_meta_replies), c.final, NBD_REP_ACK, NBD_REP_ERR_UNKNOWN, NBD_REP_ERR_POLICY,
		             NBD_REP_ERR_PLATFORM, NBD_REP_ERR_SHUTDOWN, NBD_REP_ERR_TLS_REQD, NBD_REP_ERR_TOO_BIG);
		c = ask_contexts(t, NBD_OPT_SET_META_CONTEXT, name, QUERIES(BASE_ALLOCATION));
		EXPECT_REPLY(t, R(set_meta_replies), c.final, NBD_REP_ACK, NBD_REP_ERR_UNKNOWN, NBD_REP_ERR_POLICY,
		             NBD_REP_ERR_PLATFORM, NBD_REP_ERR_SHUTDOWN, NBD_REP_ERR_TLS_REQD, NBD_REP_ERR_UNSUP);
		expect_in_step(t, R(option_data_consumed));
	}
	need_contexts(t, NBD_OPT_LIST_META_CONTEXT);
}

/* ---- before structured replies ---- */

CASE(meta_context, list_unstructured,
     "LIST_META_CONTEXT before structured replies are agreed is served, or refused as invalid; later it is served",
     R(list_meta_may_want_structured), R(list_meta_replies), R(list_meta_no_query_lists_all))
{
	struct contexts c;

	haggle_list(t);
	haggle_again(t);
	c = ask_contexts(t, NBD_OPT_LIST_META_CONTEXT, export_name(t), NO_QUERIES);
	if (c.final != NBD_REP_ACK)
		observe(t, R(list_meta_may_want_structured), "without structured replies it gets %s",
		        name_of(NAME_REPLY, c.final) ?: "an error");
	if (!is_free_refusal(c.final))
		EXPECT_REPLY(t, R(list_meta_replies), c.final, NBD_REP_ACK, NBD_REP_ERR_INVALID);
	expect_in_step(t, R(option_data_consumed));
	negotiate_structured(t);
	list_contexts(t, NO_QUERIES, R(list_meta_no_query_lists_all));
}

CASE(meta_context, set_unstructured,
     "SET_META_CONTEXT before structured replies are agreed is refused as invalid; afterwards it is served",
     R(set_meta_unstructured_invalid), R(set_meta_replies), R(option_data_consumed))
{
	struct contexts c;
	unsigned count;
	struct buf b = { 0 };

	select_base(t);
	haggle_again(t);
	put_meta_context(&b, export_name(t), QUERIES(BASE_ALLOCATION).at, 1);
	send_option(t, NBD_OPT_SET_META_CONTEXT, b.at, b.len);
	buf_free(&b);
	c.final = recv_refusal(t, "SET_META_CONTEXT without structured replies", &count);
	if (c.final == 0) {
		deviates(t, R(set_meta_unstructured_invalid), "NBD_REP_ERR_INVALID", "the connection was closed");
		return;
	}
	EXPECT_REPLY(t, R(set_meta_unstructured_invalid), c.final, NBD_REP_ERR_INVALID);
	expect_in_step(t, R(option_data_consumed));
	negotiate_structured(t);
	select_contexts(t, QUERIES(BASE_ALLOCATION), R(set_meta_replies));
}

/* A server without structured replies is asked for what needs them. */
CASE(meta_context, never_structured,
     "A server that knows no structured replies refuses to select contexts, and is in step",
     R(set_meta_unstructured_invalid), R(option_gets_reply), R(option_data_consumed))
{
	struct option_reply r;
	struct buf b = { 0 };
	unsigned count;

	open_fixed_newstyle(t);
	send_option(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	r = recv_option_reply(t, R(option_gets_reply));
	if (!is_error_reply(r.type))
		skip(t, "a lack of structured replies", "the server has structured replies");
	put_meta_context(&b, export_name(t), QUERIES(BASE_ALLOCATION).at, 1);
	send_option(t, NBD_OPT_SET_META_CONTEXT, b.at, b.len);
	buf_free(&b);
	r.type = recv_refusal(t, "SET_META_CONTEXT without structured replies", &count);
	if (r.type == 0)
		return;
	EXPECT(t, R(set_meta_unstructured_invalid), is_error_reply(r.type),
	       "contexts are selected although structured replies are refused");
	expect_in_step(t, R(option_data_consumed));
}
