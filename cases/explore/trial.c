/* Transmission, as far as it shows what was agreed before: kind of replies, contexts in force, size, read-only. */
#include "cases/explore/model.h"

#include "harness/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TRIAL_COOKIE UINT64_C(0x4e42440000000001)

enum { LEAST = 512 }; /* bytes of a request, where the export's block is smaller */

uint32_t
trial_unit(const struct model *m)
{
	uint32_t minimum = m->facts->export[m->entered].minimum;

	return minimum > LEAST ? minimum : LEAST;
}

/* Under the name that was entered by (proto.md:936). */
static bool
in_force(const struct model *m)
{
	return m->structured && m->selection == SELECTED && m->selected_of == m->entered;
}

/* ---- requests ---- */

static void
add(struct trial *t, enum asks what, uint16_t type, uint64_t offset, uint32_t length)
{
	static const uint8_t zeroes[1 << 16];
	struct ask *a = &t->ask[t->n++];

	*a = (struct ask){ .what = what,
		           .request = { .magic = NBD_REQUEST_MAGIC,
		                        .type = type,
		                        .cookie = TRIAL_COOKIE + what,
		                        .offset = offset,
		                        .length = length } };
	if (type == NBD_CMD_WRITE)
		a->request.data = (struct bytes){ zeroes, length };
}

void
trial_plan(struct trial *t, const struct model *m, bool lawful)
{
	uint32_t unit = trial_unit(m);

	t->n = t->n_answered = 0;
	/* Not even a READ of no bytes: what that is answered is unspecified (proto.md:1953-1955). */
	if (m->size < unit)
		return;
	if (lawful) {
		add(t, ASK_FIRST, NBD_CMD_READ, 0, unit);
		add(t, ASK_LAST, NBD_CMD_READ, m->size / unit * unit - unit, unit);
		if (in_force(m) && !m->unjudged)
			add(t, ASK_STATUS, NBD_CMD_BLOCK_STATUS, 0, unit);
		return;
	}
	if (!in_force(m) && !m->unjudged)
		add(t, ASK_NO_STATUS, NBD_CMD_BLOCK_STATUS, 0, unit);
	if (m->size % unit == 0)
		add(t, ASK_PAST_END, NBD_CMD_READ, m->size, unit);
	if (m->facts->may_write && (m->flags & NBD_FLAG_READ_ONLY) != 0 && unit <= 1 << 16)
		add(t, ASK_READ_ONLY, NBD_CMD_WRITE, 0, unit);
}

struct ask *
trial_find(struct trial *t, struct model *m, uint64_t cookie)
{
	for (unsigned i = 0; i < t->n; i++)
		if (t->ask[i].request.cookie == cookie && !t->ask[i].answered)
			return &t->ask[i];
	for (unsigned i = 0; i < t->n; i++)
		if (t->ask[i].request.cookie == cookie) {
			model_breach(m, R(each_request_one_reply), "one reply to each request", "another one");
			return NULL;
		}
	model_breach(m, R(cookie_echoed), "the cookie of a request", "0x%016" PRIx64, cookie);
	return NULL;
}

/* ---- replies ---- */

static void
breaks(struct model *m, unsigned i, enum requirement_id r)
{
	m->breach.broken[i] = r;
}

/* The requirement by which BLOCK_STATUS has no context, which is what came before. */
static enum requirement_id
why_none(const struct model *m)
{
	if (m->selected_in_clear && m->selection == SELECTED_NEVER)
		return R(starttls_forgets_state);
	if (m->selection == SELECTED_NOTHING && m->selected_before)
		return R(set_meta_replaces);
	if (m->selection == SELECTION_FAILED && m->selected_before && m->structured)
		return R(set_meta_failure_clears);
	return R(status_without_context_einval);
}

static enum model_step
judge_no_status(struct model *m, const struct ask *a)
{
	enum requirement_id r = why_none(m);
	char text[NAME_MAX_TEXT];

	if (a->error == NBD_EINVAL)
		return MODEL_NEXT;
	if (a->error == NBD_SUCCESS) {
		model_breach(m, r, "BLOCK_STATUS is refused: no context is in force", "success");
		if (r != R(status_without_context_einval))
			breaks(m, 1, R(status_without_context_einval));
		return MODEL_BREACH;
	}
	return model_breach(m, R(status_without_context_einval), "NBD_EINVAL", "%s",
	                    name_text(NAME_ERROR, a->error, text));
}

static enum model_step
judge_status(struct model *m, const struct ask *a)
{
	bool direct = m->by_go && !m->between;
	char text[NAME_MAX_TEXT];

	if (a->error == NBD_EIO || a->error == NBD_ENOMEM || a->error == NBD_ESHUTDOWN)
		return MODEL_NEXT;
	if (a->error != NBD_SUCCESS)
		return model_breach(m, direct ? R(set_meta_replies) : R(status_error_code),
		                    "the status: contexts are selected for this export", "%s",
		                    name_text(NAME_ERROR, a->error, text));
	if (a->n_status == m->n_contexts)
		return MODEL_NEXT;
	model_breach(m, m->selected_before ? R(set_meta_replaces) : R(status_chunk_per_context),
	             "a status chunk for each context that is selected", "%u for %u", a->n_status, m->n_contexts);
	breaks(m, 1, R(status_chunk_per_context));
	return MODEL_BREACH;
}

static enum model_step
judge_read(struct model *m, const struct ask *a)
{
	char text[NAME_MAX_TEXT];

	if (m->structured && !a->structured) {
		model_breach(m, R(read_reply_structured), "a structured reply, as was agreed", "a simple one");
		breaks(m, 1, R(no_simple_reply_to_read));
		breaks(m, 2, R(structured_reply_for_payload));
		return MODEL_BREACH;
	}
	if (a->what == ASK_PAST_END && a->error == NBD_SUCCESS && m->facts->past_end_fails)
		return model_breach(m, m->by_go ? R(go_enters_transmission) : R(transmission_after_export_name),
		                    "the end of the export that was named, where a READ fails", "data");
	if (a->what == ASK_PAST_END || a->error == NBD_SUCCESS)
		return MODEL_NEXT;
	return model_breach(m, m->by_go ? R(go_enters_transmission) : R(transmission_after_export_name),
	                    "the data of a block of the export that was named", "%s",
	                    name_text(NAME_ERROR, a->error, text));
}

static enum model_step
judge_what(struct model *m, const struct ask *a)
{
	switch (a->what) {
	case ASK_STATUS:
		return judge_status(m, a);
	case ASK_NO_STATUS:
		return judge_no_status(m, a);
	case ASK_READ_ONLY:
		return a->error != NBD_SUCCESS ? MODEL_NEXT
		                               : model_breach(m, R(read_only_errors_writes),
		                                              "an error: the export is read-only", "success");
	default:
		return judge_read(m, a);
	}
}

/* The session outlives a SHOULD. */
static enum model_step
judge_answer(struct trial *t, struct model *m, struct ask *a)
{
	enum model_step step = judge_what(m, a);
	enum level level = requirement(m->breach.broken[0])->level;

	a->answered = true;
	t->n_answered++;
	if (step != MODEL_BREACH || (level != LEVEL_SHOULD && level != LEVEL_SHOULD_NOT))
		return step;
	if (m->n_warnings < MOST_WARNINGS)
		m->warning[m->n_warnings++] = m->breach;
	return MODEL_NEXT;
}

enum model_step
trial_simple(struct trial *t, struct model *m, struct ask *a, const struct simple_reply *r)
{
	a->error = r->error;
	if (a->what == ASK_STATUS && r->error == NBD_SUCCESS)
		return model_breach(m, R(status_success_structured), "a structured reply", "a simple one");
	return judge_answer(t, m, a);
}

/* A status chunk is of a context that was selected, and the only one of it. */
static enum model_step
take_status(struct model *m, struct ask *a, const struct chunk *c)
{
	struct chunk_block_status status;
	unsigned i = 0;

	if (wire_get_chunk_block_status(wire_over(c->data), &status) != WIRE_EXACT)
		return model_breach(m, R(status_chunk_length), "4 bytes and extents", "length %" PRIu64, c->length);
	a->n_status++;
	if (a->what == ASK_NO_STATUS)
		return MODEL_NEXT;
	while (i < m->n_contexts && m->contexts[i] != status.context_id)
		i++;
	if (i == m->n_contexts) {
		model_breach(m, m->selected_before ? R(set_meta_replaces) : R(status_chunk_names_context),
		             "the ID of a context of the last SET_META_CONTEXT", "%" PRIu32, status.context_id);
		breaks(m, 1, R(status_chunk_names_context));
		return MODEL_BREACH;
	}
	if ((a->seen & 1u << i) != 0)
		return model_breach(m, R(status_chunk_per_context_id), "one status chunk for each context",
		                    "two for %" PRIu32, status.context_id);
	a->seen |= 1u << i;
	return MODEL_NEXT;
}

static enum model_step
unasked_structure(struct model *m)
{
	model_breach(m,
	             m->structured_in_clear  ? R(starttls_forgets_state)
	             : m->structured_refused ? R(structured_reply_refused_unused)
	                                     : R(simple_reply_required),
	             "a simple reply: structured ones were not agreed", "a structured one");
	breaks(m, 1, R(structured_reply_needs_negotiation));
	breaks(m, 2, R(simple_reply_required));
	return MODEL_BREACH;
}

enum model_step
trial_chunk(struct trial *t, struct model *m, struct ask *a, const struct chunk *c)
{
	struct wire w = wire_over(c->data);
	enum model_step step = MODEL_NEXT;

	if (!m->structured)
		return unasked_structure(m);
	a->structured = true;
	if ((c->type & 1u << 15) != 0) {
		a->error = wire_be32(&w);
		if (w.ran_out)
			return model_breach(m, R(error_chunk_length), "an error and its text", "length %" PRIu64,
			                    c->length);
	} else if (c->type == NBD_REPLY_TYPE_BLOCK_STATUS) {
		if (a->request.type != NBD_CMD_BLOCK_STATUS)
			return model_breach(m, R(status_chunk_only_for_block_status), "a reply to READ or WRITE",
			                    "a status chunk");
		step = take_status(m, a, c);
	}
	if (step == MODEL_BREACH || (c->flags & NBD_REPLY_FLAG_DONE) == 0)
		return step;
	return judge_answer(t, m, a);
}

/* ---- no reply ---- */

static enum model_step
nothing(const struct trial *t, struct model *m, enum requirement_id r, const char *how)
{
	if (t->n_answered > 0)
		return model_breach(m, r, "a reply to each request", "%s", how);
	model_breach(m, m->by_go ? R(go_enters_transmission) : R(transmission_after_export_name),
	             "the replies of an export that was entered", "%s", how);
	breaks(m, 1, r);
	return MODEL_BREACH;
}

enum model_step
trial_ended(struct trial *t, struct model *m, bool lawful, const char *how)
{
	if (!lawful || m->violated)
		return MODEL_OVER;
	return nothing(t, m, R(transmission_no_disconnect), how);
}

enum model_step
trial_silent(struct trial *t, struct model *m, const char *how)
{
	return nothing(t, m, R(each_request_one_reply), how);
}

enum model_step
trial_endless(struct model *m)
{
	return model_breach(m, R(done_set_on_last), "a last chunk of each structured reply", "chunks without end");
}
