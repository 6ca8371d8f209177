/* Metadata contexts, as they are listed and selected in the haggling. */
#include "cases/client/haggle.h"

#include "harness/nbd.h"

#include <stdlib.h>
#include <string.h>

enum { N_CONTEXTS = 2, BLOCK = 3, BLOCK_AT = BLOCK << 16 };
/* Their states there differ: allocated data is 0, and the 64 KiB block has the number 3. */
static const char *const contexts[N_CONTEXTS] = { "base:allocation", "x-nbdspec:blocks" };
static const int64_t states[N_CONTEXTS] = { 0, BLOCK };

static void
need_contexts(struct drive *d)
{
	drive_needs(d, "set", "context");
	drive_needs(d, "block_status", NULL);
}

/* Those that the client can ask for; one is enough. */
static void
select_contexts(struct drive *d, unsigned handle)
{
	unsigned selected = 0;

	must(d, R(client_selects_contexts), handle, "set context=");
	for (unsigned i = 0; i < N_CONTEXTS; i++) {
		char *name = driver_escape(contexts[i]);
		struct driver_answer a = ask(d, handle, "set context=%s", name);

		EXPECT(d->t, R(client_selects_contexts), a.result != DRIVER_ERROR, "'set context=%s' fails: %s", name,
		       a.text);
		selected += a.result == DRIVER_OK;
		free(name);
	}
	if (selected == 0)
		skip(d->t, "context", "the client can ask for none of the contexts of these servers");
}

/* Of the contexts that the client tells: it need not have all that the user asks for. */
static void
statuses_must_be_right(struct drive *d, unsigned handle, enum requirement_id r)
{
	const char *text = must(d, r, handle, "block_status %d 65536", BLOCK_AT);

	for (unsigned i = 0; i < N_CONTEXTS; i++)
		if (first_status(text, contexts[i]) >= 0 && first_status(text, contexts[i]) != states[i])
			broken(d->t, r, "block_status tells '%s': of %s the status at %d is %lld", text, contexts[i],
			       BLOCK_AT, (long long)states[i]);
}

/* ---- the IDs ---- */

/* What the server calls them: by name and session, so that no ID means the same twice. */
struct ids {
	const char *name;
	uint32_t base, step; /* modulo 2^32 */
	bool all_same;       /* in what LIST sends */
};

static uint32_t
id_of(const struct ids *ids, const struct conn *c, uint32_t i)
{
	return ids->base + ids->step * ((i + c->number) % N_META_CONTEXTS);
}

static void
rename_context(const struct ids *ids, const struct conn *c, struct outgoing *m)
{
	bool lists = c->option == NBD_OPT_LIST_META_CONTEXT;

	for (uint32_t i = 0; i < N_META_CONTEXTS; i++)
		if (bytes_equal(m->context.name, bytes_of(meta_context_name((enum meta_context)i)))) {
			m->context.id = id_of(ids, c, i + lists);
			break;
		}
	if (lists && ids->all_same)
		m->context.id = ids->base;
}

static void
rename_ids(void *arg, struct conn *c, struct outgoing *m)
{
	const struct ids *ids = arg;

	if (m->kind == MSG_OPTION_REPLY && m->payload == PAYLOAD_CONTEXT)
		rename_context(ids, c, m);
	if (m->kind != MSG_CHUNK || m->payload != PAYLOAD_BLOCK_STATUS)
		return;
	for (unsigned i = 0; i < c->n_contexts; i++)
		if (c->contexts[i].id == m->block_status.context_id) {
			m->block_status.context_id = id_of(ids, c, c->contexts[i].context);
			return;
		}
}

static const struct ids all_ids[] = {
	{ "from 0", 0, 1, false },
	{ "the highest", UINT32_MAX, UINT32_MAX, false },
	{ "negative as signed numbers", 0x7fffffff, 1, true },
	{ "wide apart", 7, 0x10000000, true },
};
enum { N_IDS = sizeof(all_ids) / sizeof(all_ids[0]) };

CASE_DRIVER(
	contexts, ids_opaque,
	"Whatever IDs the contexts have, and though each session has others, every status is told of its own context",
	R(set_meta_id_opaque), R(client_selects_contexts), R(set_meta_query_namespaced), R(set_meta_request_layout))
{
	struct drive *d = drive_new(t);

	need_contexts(d);
	for (volatile unsigned i = 0; i < N_IDS; i++)
		POINT(t, "%s", all_ids[i].name) {
			drive_serve(d, "", NULL);
			drive_follow(d, &(struct script){ .edit = rename_ids, .arg = (void *)&all_ids[i] });
			select_contexts(d, 1);
			for (int session = 0; session < 3; session++) {
				must(d, R(set_meta_id_opaque), 1, "connect %s", d->uri);
				statuses_must_be_right(d, 1, R(set_meta_id_opaque));
				must(d, R(baseline_client_disc), 1, "disconnect");
			}
			drive_finish(d);
		}
}

static void
list_with_ids(struct drive *d, const struct ids *ids)
{
	const char *text;

	drive_serve(d, "", NULL);
	drive_follow(d, &(struct script){ .edit = rename_ids, .arg = (void *)ids });
	select_contexts(d, 1);
	must(d, R(baseline_client_fixed_newstyle), 1, "haggle %s", d->uri);
	for (unsigned i = 0; i < 3; i++) {
		text = must(d, R(list_meta_id_disregarded), 1, "contexts%s",
		            i == 0   ? ""
		            : i == 1 ? " base%3a"
		                     : " x-nbdspec%3a");
		for (unsigned k = 0; k < N_CONTEXTS; k++)
			if ((i == 0 || i == k + 1) && !says(text, "context", contexts[k]))
				broken(d->t, R(list_meta_id_disregarded),
				       "the server has listed %s, and the client tells '%s'", contexts[k], text);
	}
	must(d, R(list_meta_id_disregarded), 1, "go");
	statuses_must_be_right(d, 1, R(list_meta_id_disregarded));
	must(d, R(baseline_client_disc), 1, "disconnect");
	drive_finish(d);
}

CASE_DRIVER(
	contexts, listed_ids,
	"The IDs in a list of contexts mean nothing: all names are told, and what is selected later has its own IDs",
	R(list_meta_id_disregarded), R(list_meta_request_layout), R(list_meta_query_namespaced),
	R(list_meta_after_structured))
{
	struct drive *d = drive_new(t);

	need_contexts(d);
	drive_needs(d, "haggle", NULL);
	drive_needs(d, "contexts", NULL);
	drive_needs(d, "go", NULL);
	for (volatile unsigned i = 0; i < N_IDS; i++)
		POINT(t, "%s", all_ids[i].name)
			list_with_ids(d, &all_ids[i]);
}

/* ---- errors ---- */

struct fail_after {
	uint32_t option, type;
	bool contexts; /* come before it */
};

static bool
fail_after(void *arg, struct conn *c, const struct incoming *m)
{
	const struct fail_after *f = arg;

	if (m->kind != MSG_OPTION || m->option.option != f->option)
		return false;
	for (uint32_t i = 0; f->contexts && i < N_CONTEXTS; i++)
		say_context(c, i + 1, bytes_of(contexts[i]));
	return say_error(c, f->type, "");
}

static void
list_fails(struct drive *d, uint32_t type)
{
	struct fail_after f = { NBD_OPT_LIST_META_CONTEXT, type, true };
	struct driver_answer a;

	drive_serve(d, "", NULL);
	drive_follow(d, &(struct script){ .take = fail_after, .arg = &f });
	d->owed = R(list_meta_error_voids_replies);
	must(d, R(baseline_client_fixed_newstyle), 1, "haggle %s", d->uri);
	a = ask(d, 1, "contexts");
	if (a.result == DRIVER_OK && known(&a, "context") != NULL)
		broken_values(d->t, R(list_meta_error_voids_replies),
		              "an error, or no context: the list ended in an error", a.text);
	ask(d, 1, "disconnect");
	let_leave(d);
	drive_finish(d);
}

CASE_DRIVER(contexts, list_error, "When a list of contexts ends in an error, none that came before it is told",
            R(list_meta_error_voids_replies))
{
	struct drive *d = drive_new(t);

	drive_needs(d, "haggle", NULL);
	drive_needs(d, "contexts", NULL);
	for (volatile unsigned i = 0; i < N_REFUSALS; i++)
		POINT(t, "%s", refusals[i].name)
			list_fails(d, refusals[i].type);
}

/* A client may have an answer of its own, that all is data, but none on what only the server knows. */
static void
must_not_tell(struct drive *d)
{
	struct driver_answer a = ask(d, 1, "block_status %d 65536", BLOCK_AT);

	if (a.result != DRIVER_OK)
		return;
	if (first_status(a.text, contexts[0]) > 0 || first_status(a.text, contexts[1]) >= 0)
		broken_values(d->t, R(block_status_after_set_meta),
		              "an error, or the answer that all is data: no context is selected", a.text);
	if (drive_sent(d, NBD_CMD_BLOCK_STATUS, 0) == 0)
		observe(d->t, R(block_status_after_set_meta), "the client has an answer of its own: %s", a.text);
}

static void
selection_fails(struct drive *d, uint32_t type, bool after_contexts)
{
	struct fail_after f = { NBD_OPT_SET_META_CONTEXT, type, after_contexts };

	drive_serve(d, "", NULL);
	drive_follow(d, &(struct script){ .take = fail_after, .arg = &f });
	d->owed = R(block_status_after_set_meta);
	select_contexts(d, 1);
	if (ask(d, 1, "connect %s", d->uri).result == DRIVER_OK) {
		must_not_tell(d);
		connected_must_work(d, R(baseline_client_read));
	} else if (type == NBD_REP_ERR_SHUTDOWN) {
		EXPECT(d->t, R(client_aborts_on_shutdown), all_ended(d),
		       "the client keeps the connection after NBD_REP_ERR_SHUTDOWN: it is to send NBD_OPT_ABORT and "
		       "leave");
	}
	let_leave(d);
	drive_finish(d);
}

CASE_DRIVER(contexts, selection_refused,
            "When NBD_OPT_SET_META_CONTEXT fails no context is selected, and the client asks for no block status",
            R(block_status_after_set_meta), R(client_status_needs_context), R(client_selects_contexts),
            R(client_aborts_on_shutdown), R(client_abandons_softly), R(client_handshake_no_hard_disconnect))
{
	struct drive *d = drive_new(t);

	need_contexts(d);
	for (volatile unsigned i = 0; i < N_REFUSALS; i++)
		POINT(t, "%s", refusals[i].name)
			selection_fails(d, refusals[i].type, false);
}

CASE_DRIVER(contexts, failed_selection_void,
            "When NBD_OPT_SET_META_CONTEXT fails behind contexts, none of them is selected, and the client asks for no "
            "block status",
            R(block_status_after_set_meta), R(client_status_needs_context), R(client_selects_contexts))
{
	struct drive *d = drive_new(t);

	need_contexts(d);
	selection_fails(d, NBD_REP_ERR_TOO_BIG, true);
}

/* ---- what is selected ---- */

static bool
select_none(void *arg, struct conn *c, const struct incoming *m)
{
	(void)arg;
	return m->kind == MSG_OPTION && m->option.option == NBD_OPT_SET_META_CONTEXT && say_ack(c);
}

CASE_DRIVER(contexts, none_selected,
            "When the server selects none of the contexts, or has no structured replies, the client asks for no block "
            "status",
            R(block_status_after_set_meta), R(client_status_needs_context), R(client_selects_contexts),
            R(set_meta_after_structured), R(client_metadata_needs_structured), R(payload_extensions_need_structured))
{
	struct drive *d = drive_new(t);

	need_contexts(d);
	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", i == 0 ? "none selected" : "no structured replies") {
			drive_serve(d, "", NULL);
			d->config.knob[KNOB_no_structured_replies] = i != 0;
			if (i == 0)
				drive_follow(d, &(struct script){ .take = select_none });
			d->owed = R(block_status_after_set_meta);
			select_contexts(d, 1);
			if (ask(d, 1, "connect %s", d->uri).result == DRIVER_OK) {
				must_not_tell(d);
				connected_must_work(d, R(baseline_client_read));
			}
			let_leave(d);
			drive_finish(d);
		}
}

CASE_DRIVER(contexts, other_export,
            "Contexts that were selected for one export count for no other: another one that is entered has its own, "
            "or none",
            R(block_status_after_set_meta), R(client_status_needs_context), R(client_selects_contexts))
{
	struct drive *d = drive_new(t);

	need_contexts(d);
	drive_needs(d, "haggle", NULL);
	drive_needs(d, "info", NULL);
	drive_needs(d, "go", NULL);
	drive_serve(d, "name=one", "name=other", NULL);
	select_contexts(d, 1);
	must(d, R(baseline_client_fixed_newstyle), 1, "haggle %s", d->uri);
	must(d, R(baseline_client_info_go), 1, "info export=other");
	must(d, R(baseline_client_info_go), 1, "go export=one");
	ask(d, 1, "block_status %d 65536", BLOCK_AT);
	connected_must_work(d, R(baseline_client_read));
	drive_finish(d);
}

/* The first NBD_OPT_GO fails; what is selected for the next one is nothing. */
struct reselection {
	unsigned selections;
	bool refused;
};

static bool
reselect(void *arg, struct conn *c, const struct incoming *m)
{
	struct reselection *r = arg;

	if (m->kind != MSG_OPTION)
		return false;
	if (m->option.option == NBD_OPT_GO && !r->refused) {
		r->refused = true;
		return say_error(c, NBD_REP_ERR_POLICY, "");
	}
	if (m->option.option != NBD_OPT_SET_META_CONTEXT)
		return false;
	for (uint32_t i = 0; r->selections == 0 && i < N_CONTEXTS; i++)
		say_context(c, i + 1, bytes_of(contexts[i]));
	r->selections++;
	return say_ack(c);
}

CASE_DRIVER(contexts, reselected,
            "When the last NBD_OPT_SET_META_CONTEXT selects nothing, what one before it selected counts no more",
            R(set_meta_last_names_all), R(block_status_after_set_meta), R(client_status_needs_context))
{
	struct drive *d = drive_new(t);
	struct reselection r = { 0 };

	need_contexts(d);
	drive_needs(d, "haggle", NULL);
	drive_needs(d, "go", NULL);
	drive_serve(d, "", NULL);
	drive_follow(d, &(struct script){ .take = reselect, .arg = &r });
	select_contexts(d, 1);
	must(d, R(baseline_client_fixed_newstyle), 1, "haggle %s", d->uri);
	must_fail(d, R(baseline_client_info_go), 1, "go");
	must(d, R(baseline_client_info_go), 1, "go");
	if (r.selections < 2)
		skip(t, "context", "the client does not select contexts for each NBD_OPT_GO");
	must_not_tell(d);
	connected_must_work(d, R(baseline_client_read));
	drive_finish(d);
}
