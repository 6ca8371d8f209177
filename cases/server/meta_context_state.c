/* What an NBD_OPT_SET_META_CONTEXT leaves in force, for which export, and until when (proto.md:936-941, 1474-1489). */
#include "cases/server/meta_context.h"

#include <inttypes.h>
#include <string.h>

/* base:allocation is in force where nothing comes between; otherwise the case would tell nothing. */
static void
need_base(struct test *t)
{
	struct contexts c = select_base(t);

	go_on(t, export_name(t));
	expect_in_force(t, &c, R(set_meta_replies));
}

/* ---- replaced ---- */

CASE(meta_context, replaced_by_nothing,
     "A SET_META_CONTEXT that selects nothing leaves nothing of the one before: BLOCK_STATUS is refused",
     R(set_meta_replaces), R(status_without_context_einval))
{
	const struct {
		const char *label;
		struct queries q;
	} points[] = {
		{ "no query", NO_QUERIES },
		{ "base:", QUERIES("base:") },
		{ "base:nbdspec-none", QUERIES("base:nbdspec-none") },
		{ "unknown namespace", QUERIES("x-nbdspec-none:leaf") },
	};

	for (volatile size_t i = 0; i < COUNT(points); i++)
		POINT(t, "%s", points[i].label) {
			struct contexts c;

			need_base(t);
			select_base(t);
			c = select_contexts(t, points[i].q, R(set_meta_none_selected_taken));
			if (c.count > 0)
				skip(t, "queries that select nothing", "%u contexts are selected", c.count);
			go_on(t, export_name(t));
			expect_none_in_force(t, R(set_meta_replaces));
		}
}

CASE(meta_context, replaced_by_itself, "After several SET_META_CONTEXT the IDs of the last one are those in the status",
     R(set_meta_replaces), R(status_chunk_names_context), R(set_meta_replies))
{
	struct contexts c;

	need_base(t);
	select_base(t);
	for (unsigned i = 0; i < 3; i++) {
		select_contexts(t, NO_QUERIES, R(set_meta_none_selected_taken));
		c = select_contexts(t, QUERIES(BASE_ALLOCATION), R(set_meta_replies));
	}
	go_on(t, export_name(t));
	expect_in_force(t, &c, R(set_meta_replies));
}

/* All the others that the server lists are selected first. */
static void
select_others(struct test *t)
{
	static const char *names[CONTEXTS_TRIED];
	struct contexts all;
	size_t n = 0;

	need_contexts(t, NBD_OPT_LIST_META_CONTEXT);
	all = list_contexts(t, NO_QUERIES, R(list_meta_no_query_lists_all));
	for (unsigned i = 0; i < all.count && n < CONTEXTS_TRIED; i++)
		if (!is_context(&all, i, BASE_ALLOCATION))
			names[n++] = all.context[i].name;
	all = ask_contexts(t, NBD_OPT_SET_META_CONTEXT, export_name(t), (struct queries){ names, n });
	if (all.final != NBD_REP_ACK || all.count == 0)
		skip(t, "several metadata contexts", "the server has none but base:allocation");
}

CASE(meta_context, replaced_by_another,
     "A SET_META_CONTEXT of another context replaces those before: the status tells of none of them",
     R(set_meta_replaces), R(status_chunk_per_context))
{
	struct contexts c;
	struct reply r;

	need_base(t);
	haggle_structured(t);
	select_others(t);
	c = select_contexts(t, QUERIES(BASE_ALLOCATION), R(set_meta_replies));
	go_on(t, export_name(t));
	need_range(t, 0, unit_of(t));
	r = exchange(t, 0, NBD_CMD_BLOCK_STATUS, 0, unit_of(t), NULL, R(status_chunk_per_context));
	EXPECT(t, R(set_meta_replaces), r.error == NBD_SUCCESS,
	       "BLOCK_STATUS fails although base:allocation is selected");
	EXPECT(t, R(set_meta_replaces), r.n_status <= c.count,
	       "%u contexts are told of, of which only the last one is still selected", r.n_status);
	expect_in_force(t, &c, R(set_meta_replaces));
}

/* ---- failed ---- */

enum failure { QUERY_CUT, NAME_CUT, NO_SUCH_EXPORT, FAILURES };

static void
send_failing(struct test *t, enum failure f)
{
	static const char *const base = BASE_ALLOCATION;
	struct buf b = { 0 };

	if (f == NO_SUCH_EXPORT) {
		put_meta_context(&b, unknown_export_name(), &base, 1);
	} else {
		put_meta_context(&b, export_name(t), &base, 1);
		if (f == QUERY_CUT)
			b.len--;
		else
			memset(b.at, 0xff, 4);
	}
	send_option(t, NBD_OPT_SET_META_CONTEXT, b.at, b.len);
	buf_free(&b);
}

/* False where the server has left us for it, as it may (proto.md:243), or has found nothing wrong. */
static bool
fails(struct test *t, enum failure f)
{
	struct option_reply r;
	unsigned count;

	send_failing(t, f);
	if (!peer_goes_on(t, R(option_gets_reply))) {
		observe(t, R(bad_option_may_close), "a malformed SET_META_CONTEXT ends the session");
		expect_next_client_served(t, R(handshake_no_hard_disconnect));
		return false;
	}
	r = recv_final_reply(t, R(option_gets_reply), NBD_REP_META_CONTEXT, &count);
	if (!is_error_reply(r.type))
		skip(t, "a failing SET_META_CONTEXT", "the server takes what should fail");
	return true;
}

CASE(meta_context, failure_clears, "A SET_META_CONTEXT that fails leaves nothing of the one before in force",
     R(set_meta_failure_clears), R(status_without_context_einval))
{
	static const char *const labels[FAILURES] = { "query cut", "name length", "unknown export" };

	for (volatile unsigned f = 0; f < FAILURES; f++)
		POINT(t, "%s", labels[f]) {
			need_base(t);
			select_base(t);
			if (fails(t, (enum failure)f)) {
				go_on(t, export_name(t));
				expect_none_in_force(t, R(set_meta_failure_clears));
			}
		}
}

/* Its valid queries come first: a server that acts on each as it reads it has selected one when it finds the fault. */
CASE(meta_context, failure_selects_nothing,
     "A SET_META_CONTEXT that fails does not select the context of its first query", R(status_without_context_einval))
{
	static const char *const both[] = { BASE_ALLOCATION, "x-nbdspec-none:a" };
	struct option_reply r;
	struct buf b = { 0 };
	unsigned count;

	need_base(t);
	haggle_structured(t);
	put_meta_context(&b, export_name(t), both, 2);
	send_option(t, NBD_OPT_SET_META_CONTEXT, b.at, b.len - 1);
	buf_free(&b);
	if (!peer_goes_on(t, R(option_gets_reply))) {
		expect_next_client_served(t, R(handshake_no_hard_disconnect));
		return;
	}
	r = recv_final_reply(t, R(option_gets_reply), NBD_REP_META_CONTEXT, &count);
	if (!is_error_reply(r.type))
		skip(t, "a failing SET_META_CONTEXT", "the server takes what should fail");
	go_on(t, export_name(t));
	expect_none_in_force(t, R(status_without_context_einval));
}

/* ---- of another export ---- */

/*
 * One that can be entered, has data, and offers base:allocation. Where the export under test is the default one, without
 * a name, only what differs from it in size or flags is surely another.
 */
static struct bytes
other_export(struct test *t)
{
	struct infos own;
	struct listed list;
	struct contexts c;

	haggle_structured(t);
	own = ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	list = list_exports(t);
	for (unsigned i = 0; i < list.count && i < CONTEXTS_TRIED; i++) {
		struct bytes name = { (const uint8_t *)list.exports[i].name, list.exports[i].name_length };
		struct infos infos;

		/* The empty name is another name of one that is listed too, perhaps of this one. */
		if (bytes_equal(name, export_name(t)) || name.len == 0)
			continue;
		c = ask_contexts(t, NBD_OPT_SET_META_CONTEXT, name, QUERIES(BASE_ALLOCATION));
		infos = ask_info(t, NBD_OPT_INFO, name, REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
		if (c.final != NBD_REP_ACK || c.count == 0 || infos.final != NBD_REP_ACK || infos.n_export == 0)
			continue;
		if (infos.export.size > 0 && (export_name(t).len > 0 || infos.export.size != own.export.size ||
		                              infos.export.flags != own.export.flags))
			return name;
	}
	skip(t, "several exports", "no other export with base:allocation is listed");
}

/* nbdkit 20b8509a */
CASE(meta_context, of_another_export,
     "Contexts that were selected for one export are not in force in another; those for it are",
     R(status_without_context_einval), R(set_meta_replaces), R(set_meta_replies))
{
	POINT(t, "selected for the other, entered this") {
		struct bytes other;

		need_base(t);
		other = other_export(t);
		haggle_structured(t);
		ask_contexts(t, NBD_OPT_SET_META_CONTEXT, other, QUERIES(BASE_ALLOCATION));
		go_on(t, export_name(t));
		expect_none_in_force(t, R(status_without_context_einval));
	}
	POINT(t, "selected for this, entered the other") {
		struct bytes other;

		need_base(t);
		other = other_export(t);
		select_base(t);
		go_on(t, other);
		expect_none_in_force(t, R(status_without_context_einval));
	}
	POINT(t, "selected for the other, then for this") {
		struct bytes other;
		struct contexts c;

		need_base(t);
		other = other_export(t);
		haggle_structured(t);
		ask_contexts(t, NBD_OPT_SET_META_CONTEXT, other, QUERIES(BASE_ALLOCATION));
		c = select_contexts(t, QUERIES(BASE_ALLOCATION), R(set_meta_replies));
		go_on(t, export_name(t));
		expect_in_force(t, &c, R(set_meta_replies));
	}
	POINT(t, "entered the other, selected for it") {
		struct bytes other;
		struct contexts c;

		need_base(t);
		other = other_export(t);
		haggle_structured(t);
		select_contexts(t, QUERIES(BASE_ALLOCATION), R(set_meta_replies));
		c = ask_contexts(t, NBD_OPT_SET_META_CONTEXT, other, QUERIES(BASE_ALLOCATION));
		go_on(t, other);
		expect_in_force(t, &c, R(set_meta_replies));
	}
}

CASE(meta_context, of_another_connection, "What one connection has selected is not in force on the next",
     R(status_without_context_einval))
{
	need_base(t);
	need_connections(t);
	haggle_structured(t);
	go_on(t, export_name(t));
	expect_none_in_force(t, R(status_without_context_einval));
}

/* ---- in between ---- */

enum between { INFO, INFO_UNKNOWN, LISTED, LIST_CONTEXTS, LIST_NOTHING, UNKNOWN_OPTION, BETWEENS };

static void
do_between(struct test *t, enum between what)
{
	switch (what) {
	case INFO:
		ask_info(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
		break;
	case INFO_UNKNOWN:
		ask_info(t, NBD_OPT_INFO, unknown_export_name(), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
		break;
	case LISTED:
		list_exports(t);
		break;
	case LIST_CONTEXTS:
		ask_contexts(t, NBD_OPT_LIST_META_CONTEXT, export_name(t), NO_QUERIES);
		break;
	case LIST_NOTHING:
		ask_contexts(t, NBD_OPT_LIST_META_CONTEXT, unknown_export_name(), QUERIES("x-nbdspec-none:a"));
		break;
	default:
		break;
	}
	expect_in_step(t, R(option_data_consumed));
}

/*
 * Only another SET_META_CONTEXT, or NBD_OPT_STARTTLS, takes back what was told to be selected (proto.md:1484-1489). No
 * MUST says so in as many words; but NBD_EINVAL is no fitting error for a request that is right.
 */
CASE(meta_context, kept_in_between, "What is selected stays so whatever other options come before NBD_OPT_GO",
     R(status_error_code), R(option_data_consumed))
{
	static const char *const labels[BETWEENS] = {
		"INFO",
		"INFO of an unknown export",
		"LIST",
		"LIST_META_CONTEXT",
		"LIST_META_CONTEXT of nothing",
		"an unknown option",
	};

	for (volatile unsigned i = 0; i < BETWEENS; i++)
		POINT(t, "%s", labels[i]) {
			struct contexts c;

			need_base(t);
			c = select_base(t);
			do_between(t, (enum between)i);
			go_on(t, export_name(t));
			expect_in_force(t, &c, R(status_error_code));
		}
}

CASE(meta_context, kept_by_export_name,
     "What is selected is in force when the export is entered by NBD_OPT_EXPORT_NAME", R(status_error_code))
{
	struct contexts c;

	need_base(t);
	by_export_name(t, export_name(t));
	c = select_base(t);
	send_option(t, NBD_OPT_EXPORT_NAME, export_name(t).at, export_name(t).len);
	recv_export_name_reply(t, R(export_name_reply_layout));
	expect_in_force(t, &c, R(status_error_code));
}
