/* Option haggling, as the protocol text has it: proto.md:142-279, 510-676, 1159-1711. */
#include "cases/explore/model.h"

#include "harness/names.h"
#include "harness/sum.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- what is broken ---- */

static void
fill_breach(struct breach *b, enum requirement_id r, const char *expected, const char *fmt, va_list ap)
{
	*b = (struct breach){ .broken = { r } };
	snprintf(b->expected, sizeof(b->expected), "%s", expected);
	vsnprintf(b->got, sizeof(b->got), fmt, ap);
}

static void
breaks_also(struct model *m, enum requirement_id r)
{
	unsigned i = 0;

	while (i + 1 < COUNT(m->breach.broken) && m->breach.broken[i] != REQUIREMENT_NONE)
		i++;
	m->breach.broken[i] = r;
}

enum model_step
model_breach(struct model *m, enum requirement_id r, const char *expected, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill_breach(&m->breach, r, expected, fmt, ap);
	va_end(ap);
	return MODEL_BREACH;
}

/* The session goes on: a SHOULD, or what this server always says, which would hide all else. Said once. */
static void __attribute__((format(printf, 4, 5)))
warning(struct model *m, enum requirement_id r, const char *expected, const char *fmt, ...)
{
	va_list ap;

	for (unsigned i = 0; i < m->n_warnings; i++)
		if (m->warning[i].broken[0] == r && strcmp(m->warning[i].expected, expected) == 0)
			return;
	if (m->n_warnings == MOST_WARNINGS)
		return;
	va_start(ap, fmt);
	fill_breach(&m->warning[m->n_warnings++], r, expected, fmt, ap);
	va_end(ap);
}

static enum model_step
wrong_type(struct model *m, enum requirement_id r, const char *expected, uint32_t type)
{
	char text[NAME_MAX_TEXT];

	model_breach(m, r, expected, "%s", name_text(NAME_REPLY, type, text));
	snprintf(m->breach.holds, sizeof(m->breach.holds), "r.type != 0x%" PRIx32, type);
	return MODEL_BREACH;
}

static enum model_step
wrong_count(struct model *m, enum requirement_id r, const char *expected, unsigned owed)
{
	model_breach(m, r, expected, "%u; before there were %u", m->replies - 1, owed);
	snprintf(m->breach.holds, sizeof(m->breach.holds), "n == %u", owed);
	return MODEL_BREACH;
}

static void
doubtful_type(struct model *m, enum requirement_id r, const char *expected, uint32_t type)
{
	char text[NAME_MAX_TEXT];
	unsigned i = m->n_warnings;

	warning(m, r, expected, "%s", name_text(NAME_REPLY, type, text));
	if (i < m->n_warnings)
		snprintf(m->warning[i].holds, sizeof(m->warning[i].holds), "r.type != 0x%" PRIx32, type);
}

static bool
is_error(uint32_t type)
{
	return (type & NBD_REP_ERROR_BIT) != 0;
}

uint64_t
sum_of(struct bytes b)
{
	return sum_bytes(~(uint64_t)b.len, b.at, b.len);
}

static bool
is_refusal_of_malformed(uint32_t type)
{
	static const uint32_t refusals[] = { REFUSALS_OF_MALFORMED };
	size_t i = 0;

	while (i < COUNT(refusals) && refusals[i] != type)
		i++;
	return i < COUNT(refusals);
}

/* ---- a session ---- */

void
model_start(struct model *m, const struct facts *f, uint32_t client_flags)
{
	*m = (struct model){ .facts = f, .client_flags = client_flags };
}

static bool
is_served(const struct model *m, const struct symbol *s)
{
	return s->option < COUNT(m->facts->served) && m->facts->served[s->option];
}

/* Of a MUST: any data may stand in an option that the server does not know, and in ABORT (proto.md:1197). */
static bool
is_violation(const struct symbol *s)
{
	return s->flaw != FLAW_NONE && s->option <= NBD_OPT_EXTENDED_HEADERS && s->option != NBD_OPT_ABORT;
}

void
model_sent(struct model *m, const struct symbol *s)
{
	bool is_set = s->option == NBD_OPT_SET_META_CONTEXT;

	if (m->now != NULL && m->now->option != NBD_OPT_INFO)
		m->info = NULL;
	m->now = s;
	m->replies = m->n_export = 0;
	m->told = 0;
	m->violated_before = m->violated;
	m->violated |= is_violation(s) || (is_set && !m->structured) || (s->option == NBD_OPT_STARTTLS && m->over_tls);
	m->between |= !is_set && s->option != NBD_OPT_GO && s->option != NBD_OPT_EXPORT_NAME;
	if (!is_set)
		return;
	/* Also where it fails (proto.md:1474). */
	m->selected_before |= m->n_contexts > 0;
	m->n_contexts = 0;
	m->between = m->unjudged = false;
}

/* What goes wrong behind a successful INFO may be that the server has left option haggling for it. */
static enum model_step
astray(struct model *m, enum requirement_id r, const char *expected, const char *how)
{
	bool after_info = m->info != NULL && m->replies == 0;

	model_breach(m, after_info ? R(info_stays_in_haggling) : r, expected, "%s", how);
	if (after_info)
		breaks_also(m, r);
	return MODEL_BREACH;
}

enum model_step
model_silent(struct model *m, const char *how)
{
	return astray(m, R(option_gets_reply), "an answer to the option", how);
}

enum model_step
model_endless(struct model *m)
{
	enum requirement_id r = m->now->option == NBD_OPT_LIST                ? R(list_replies)
	                        : m->now->option == NBD_OPT_LIST_META_CONTEXT ? R(list_meta_replies)
	                        : m->now->option == NBD_OPT_SET_META_CONTEXT  ? R(set_meta_replies)
	                                                                      : R(info_go_same_format);

	return model_breach(m, r, "NBD_REP_ACK or an error behind the others", "%u others, and more to come",
	                    m->replies);
}

enum model_step
model_ended(struct model *m, const char *how)
{
	const struct symbol *s = m->now;
	const struct export_fact *e = &m->facts->export[s->of];

	if (s->option == NBD_OPT_EXPORT_NAME && !(e->there && e->by_export_name))
		return MODEL_OVER;
	if (s->option == NBD_OPT_SET_META_CONTEXT && !m->structured && !m->violated_before && is_served(m, s))
		warning(m, R(set_meta_unstructured_invalid), "NBD_REP_ERR_INVALID", "%s", how);
	if (m->violated)
		return MODEL_OVER;
	if (s->option == NBD_OPT_ABORT)
		return model_breach(m, R(abort_acked), "NBD_REP_ACK", "%s", how);
	return astray(m, R(handshake_no_hard_disconnect), "an answer to the option", how);
}

static enum model_step
unasked_df(struct model *m)
{
	model_breach(m, m->structured_in_clear ? R(starttls_forgets_state) : R(df_flag_without_structured),
	             "no NBD_FLAG_SEND_DF without structured replies", "flags 0x%04x", m->export.flags);
	snprintf(m->breach.holds, sizeof(m->breach.holds), "(t->s->flags & NBD_FLAG_SEND_DF) == 0");
	m->breach.holds_inside = true;
	if (m->structured_in_clear)
		breaks_also(m, R(df_flag_without_structured));
	return MODEL_BREACH;
}

/* ---- INFO and GO ---- */

static bool
differ(const struct info_export *a, const struct info_export *b)
{
	return a->size != b->size || ((a->flags ^ b->flags) & NBD_FLAG_READ_ONLY) != 0;
}

/* `alone` is what this option tells by itself: where that is no other the server is known to contradict itself so. */
static enum model_step
judge_export(struct model *m, const struct info_export *alone, const char *expected)
{
	static const char *const how = "size %" PRIu64 ", flags 0x%04x; before it was %" PRIu64 ", 0x%04x";
	const struct export_fact *e = &m->facts->export[m->now->of];

	if (!differ(&m->export, &(struct info_export){ e->size, e->flags }))
		return MODEL_MORE;
	if (differ(&m->export, alone))
		return model_breach(m, R(info_export_same_as_export_name), expected, how, m->export.size,
		                    m->export.flags, e->size, e->flags);
	warning(m, R(info_export_same_as_export_name), expected, how, m->export.size, m->export.flags, e->size,
	        e->flags);
	return MODEL_MORE;
}

static enum model_step
take_export(struct model *m, const struct rep_info *info)
{
	const struct export_fact *e = &m->facts->export[m->now->of];

	if (wire_get_info_export(wire_over(info->payload), &m->export) != WIRE_EXACT)
		return model_breach(m, R(info_export_length), "NBD_INFO_EXPORT of length 12", "length %zu",
		                    info->payload.len + 2);
	if (m->n_export++ > 0)
		warning(m, R(info_once_each), "NBD_INFO_EXPORT once", "it comes again");
	if ((m->export.flags & NBD_FLAG_HAS_FLAGS) == 0)
		return model_breach(m, R(has_flags_set), "NBD_FLAG_HAS_FLAGS", "flags 0x%04x", m->export.flags);
	if ((m->export.flags & NBD_FLAG_SEND_DF) != 0 && !m->structured)
		return unasked_df(m);
	return e->there ? judge_export(m, &e->by_go, "what this export is at other times") : MODEL_MORE;
}

static enum model_step
take_info(struct model *m, const struct option_reply *r)
{
	struct info_block_size sizes;
	struct rep_info info;

	/* Only the last reply tells whether it was refused. */
	if (m->now->flaw != FLAW_NONE)
		return MODEL_MORE;
	if (wire_get_rep_info(wire_over(r->data), &info) != WIRE_EXACT)
		return model_breach(m, R(info_reply_layout), "an information type", "length %" PRIu32, r->length);
	m->told += sum_of(r->data);
	if (info.type == NBD_INFO_BLOCK_SIZE && wire_get_info_block_size(wire_over(info.payload), &sizes) != WIRE_EXACT)
		return model_breach(m, R(info_block_size_length), "NBD_INFO_BLOCK_SIZE of length 14", "length %zu",
		                    info.payload.len + 2);
	return info.type == NBD_INFO_EXPORT ? take_export(m, &info) : MODEL_MORE;
}

/* The export is there: what stands against it in this state? (proto.md:1311-1321, 1345-1347) */
static enum model_step
judge_go_refused(struct model *m, uint32_t type)
{
	bool bare = m->now->bare && !m->facts->export[m->now->of].bare_go;
	bool same = m->info != NULL && m->info->of == m->now->of && m->info->bare == m->now->bare;

	if (type == NBD_REP_ERR_BLOCK_SIZE_REQD && !m->now->bare)
		return wrong_type(m, R(block_size_reqd_not_when_asked), "NBD_REP_ACK", type);
	if (type == NBD_REP_ERR_BLOCK_SIZE_REQD && bare)
		return MODEL_NEXT;
	if (m->now->option == NBD_OPT_GO && m->had_info && !same) {
		m->had_info = false;
		return MODEL_NEXT;
	}
	return wrong_type(m, R(baseline_info_go), "NBD_REP_ACK: the export is served at other times", type);
}

static enum model_step
judge_unknown(struct model *m, uint32_t type)
{
	if (type == NBD_REP_ERR_UNKNOWN && m->replies > 1)
		warning(m, R(info_unknown_no_infos), "no NBD_REP_INFO before it", "%u", m->replies - 1);
	if (type == NBD_REP_ERR_UNKNOWN || type == NBD_REP_ERR_TLS_REQD || type == NBD_REP_ERR_POLICY ||
	    type == NBD_REP_ERR_SHUTDOWN)
		return MODEL_NEXT;
	return wrong_type(m, R(info_unknown_export), "NBD_REP_ERR_UNKNOWN", type);
}

static enum model_step
judge_info_acked(struct model *m)
{
	const struct symbol *s = m->now, *before = m->info;

	if (m->n_export == 0)
		return model_breach(m, R(info_export_sent), "NBD_INFO_EXPORT before NBD_REP_ACK", "NBD_REP_ACK");
	if (s->option == NBD_OPT_INFO) {
		m->info = s;
		m->info_told = m->told;
		m->had_info = true;
		return MODEL_NEXT;
	}
	if (before != NULL && before->of == s->of && before->bare == s->bare && m->told != m->info_told)
		warning(m, R(info_then_go_same), "what INFO has told just before", "something else");
	m->entered = s->of;
	m->by_go = true;
	m->size = m->export.size;
	m->flags = m->export.flags;
	return MODEL_TRANSMISSION;
}

static enum model_step
judge_go(struct model *m, const struct option_reply *r)
{
	enum model_step step;

	if (r->type == NBD_REP_INFO)
		return take_info(m, r);
	if (!is_error(r->type) && r->type != NBD_REP_ACK)
		return wrong_type(m, R(info_go_same_format), "NBD_REP_INFO, NBD_REP_ACK or an error", r->type);
	if (m->now->flaw != FLAW_NONE)
		step = is_refusal_of_malformed(r->type)
		               ? MODEL_NEXT
		               : wrong_type(m, R(option_malformed_invalid), "NBD_REP_ERR_INVALID", r->type);
	else if (!m->facts->export[m->now->of].there)
		step = judge_unknown(m, r->type);
	else if (r->type == NBD_REP_ACK)
		return judge_info_acked(m);
	else
		step = judge_go_refused(m, r->type);
	m->info = NULL;
	return step;
}

/* ---- LIST ---- */

static enum model_step
judge_list_end(struct model *m, const struct option_reply *r)
{
	const struct symbol *s = m->now;
	bool again = m->listed;

	if (!is_served(m, s) || (again && is_error(r->type)))
		return MODEL_NEXT;
	m->listed |= s->flaw == FLAW_NONE;
	if (s->flaw != FLAW_NONE && r->type != NBD_REP_ERR_INVALID)
		doubtful_type(m, R(list_rejects_data), "NBD_REP_ERR_INVALID", r->type);
	else if (s->flaw == FLAW_NONE && is_error(r->type))
		return wrong_type(m, R(baseline_list), "a list, as at other times", r->type);
	else if (s->flaw == FLAW_NONE && (m->replies - 1 != m->facts->n_exports || m->told != m->facts->exports))
		return wrong_count(m, R(list_replies), "the exports that are listed at other times",
		                   m->facts->n_exports);
	return MODEL_NEXT;
}

static enum model_step
judge_list(struct model *m, const struct option_reply *r)
{
	struct rep_server server;

	if (r->type == NBD_REP_SERVER) {
		if (wire_get_rep_server(wire_over(r->data), &server) != WIRE_EXACT)
			return model_breach(m, R(rep_server_layout), "a name within the reply",
			                    "length %" PRIu32 ", name of %" PRIu32, r->length, server.name_length);
		m->told += sum_of(server.name);
		return MODEL_MORE;
	}
	if (!is_error(r->type) && r->type != NBD_REP_ACK)
		return wrong_type(m, R(list_replies), "NBD_REP_SERVER, NBD_REP_ACK or an error", r->type);
	return judge_list_end(m, r);
}

/* ---- metadata contexts ---- */

/* How many contexts the queries find; UINT_MAX where that is the server's own business. */
static unsigned
owed_contexts(const struct model *m)
{
	const struct export_fact *e = &m->facts->export[m->now->of];
	bool lists = m->now->option == NBD_OPT_LIST_META_CONTEXT;

	if (!e->there || (lists && m->now->of != OF_OWN))
		return UINT32_MAX;
	switch (m->now->asked) {
	case ASKED_NOTHING:
		return lists ? m->facts->n_all : 0;
	case ASKED_BASE:
		return e->base;
	case ASKED_ALL:
		return m->facts->n_selected;
	default:
		return 0;
	}
}

static enum model_step
take_context(struct model *m, const struct option_reply *r)
{
	struct rep_meta_context c;

	if (wire_get_rep_meta_context(wire_over(r->data), &c) != WIRE_EXACT)
		return model_breach(m, R(rep_meta_context_layout), "an ID and a name", "length %" PRIu32, r->length);
	if (m->now->option != NBD_OPT_SET_META_CONTEXT || m->replies > MOST_CONTEXTS)
		return MODEL_MORE;
	for (unsigned i = 0; i + 1 < m->replies; i++)
		if (m->contexts[i] == c.id)
			return model_breach(m, R(set_meta_ids_unique), "an ID of its own for each context",
			                    "%" PRIu32 " twice", c.id);
	m->contexts[m->replies - 1] = c.id;
	return MODEL_MORE;
}

/* The server may have overlooked what stands behind the queries. */
static bool
is_flawed(const struct model *m, const struct option_reply *r)
{
	return m->now->flaw != FLAW_NONE && !(m->now->flaw == FLAW_EXTRA && r->type == NBD_REP_ACK);
}

static enum model_step
judge_flawed_meta(struct model *m, const struct option_reply *r)
{
	bool lists = m->now->option == NBD_OPT_LIST_META_CONTEXT;

	/* What stands behind the last query is seen by some implementations and not by others, and by either in its way. */
	if (is_refusal_of_malformed(r->type) || (m->now->flaw == FLAW_EXTRA && is_error(r->type)))
		return MODEL_NEXT;
	return wrong_type(m, lists ? R(list_meta_malformed_invalid) : R(option_malformed_invalid),
	                  "NBD_REP_ERR_INVALID", r->type);
}

static enum model_step
judge_listed(struct model *m, const struct option_reply *r)
{
	unsigned owed = owed_contexts(m), n = m->replies - 1;

	if (r->type == NBD_REP_ERR_INVALID && !m->structured)
		return MODEL_NEXT;
	if (!is_served(m, m->now) || (is_error(r->type) && !m->facts->export[m->now->of].there))
		return MODEL_NEXT;
	if (is_flawed(m, r))
		return judge_flawed_meta(m, r);
	/* Some of what was listed is for who has extended headers (ext:1519). */
	if (is_error(r->type) && (r->type != NBD_REP_ERR_EXT_HEADER_REQD || n == 0))
		return wrong_type(m, R(list_meta_replies), "contexts and NBD_REP_ACK, as at other times", r->type);
	if (m->structured && owed != UINT32_MAX && n != owed)
		return wrong_count(
			m, m->now->asked == ASKED_BASE ? R(list_meta_lists_matches) : R(list_meta_no_query_lists_all),
			"the contexts that are listed at other times", owed);
	return MODEL_NEXT;
}

/* Before structured replies it SHOULD be invalid (proto.md:1481), and what it selects then nobody says. */
static enum model_step
judge_unstructured(struct model *m, const struct option_reply *r)
{
	bool lacks = !is_served(m, m->now);

	m->selection = SELECTION_FAILED;
	m->unjudged = r->type == NBD_REP_ACK && m->replies > 1;
	if (r->type == NBD_REP_ACK || (r->type != NBD_REP_ERR_INVALID && !lacks))
		doubtful_type(m, R(set_meta_unstructured_invalid), "NBD_REP_ERR_INVALID", r->type);
	return MODEL_NEXT;
}

static enum model_step
judge_selected(struct model *m, const struct option_reply *r)
{
	unsigned owed = owed_contexts(m), n = m->replies - 1;

	if (!m->structured)
		return judge_unstructured(m, r);
	m->selection = SELECTION_FAILED;
	if (!is_served(m, m->now) || (is_error(r->type) && !m->facts->export[m->now->of].there))
		return MODEL_NEXT;
	if (is_flawed(m, r))
		return judge_flawed_meta(m, r);
	if (is_error(r->type))
		return wrong_type(m, owed == 0 ? R(set_meta_none_selected_taken) : R(set_meta_replies), "NBD_REP_ACK",
		                  r->type);
	if (owed != UINT32_MAX && n != owed)
		return wrong_count(
			m, m->now->asked == ASKED_NOTHING ? R(set_meta_no_query_selects_none) : R(set_meta_replies),
			"the contexts that it selects at other times", owed);
	m->selection = n > 0 ? SELECTED : SELECTED_NOTHING;
	m->selected_of = m->now->of;
	m->n_contexts = n < MOST_CONTEXTS ? n : MOST_CONTEXTS;
	m->unjudged = n > MOST_CONTEXTS;
	return MODEL_NEXT;
}

static enum model_step
judge_meta(struct model *m, const struct option_reply *r)
{
	bool lists = m->now->option == NBD_OPT_LIST_META_CONTEXT;

	if (r->type == NBD_REP_META_CONTEXT)
		return take_context(m, r);
	if (!is_error(r->type) && r->type != NBD_REP_ACK)
		return wrong_type(m, lists ? R(list_meta_replies) : R(set_meta_replies),
		                  "NBD_REP_META_CONTEXT, NBD_REP_ACK or an error", r->type);
	return lists ? judge_listed(m, r) : judge_selected(m, r);
}

/* ---- options that are answered once ---- */

static enum model_step
judge_structured(struct model *m, const struct option_reply *r)
{
	bool acked = r->type == NBD_REP_ACK, again = m->structured;

	m->structured |= acked;
	if (!acked && !is_error(r->type))
		return wrong_type(m, R(structured_reply_acked), "NBD_REP_ACK or an error", r->type);
	m->structured_refused |= !acked && !again;
	if (!is_served(m, m->now) || (again && r->type == NBD_REP_ERR_INVALID))
		return MODEL_NEXT;
	if (m->now->flaw != FLAW_NONE && r->type != NBD_REP_ERR_INVALID)
		doubtful_type(m, R(structured_reply_rejects_data), "NBD_REP_ERR_INVALID", r->type);
	else if (m->now->flaw == FLAW_NONE && !acked)
		return wrong_type(m, R(structured_reply_acked), "NBD_REP_ACK, as at other times", r->type);
	return MODEL_NEXT;
}

static enum model_step
judge_second_starttls(struct model *m, const struct option_reply *r)
{
	return r->type == NBD_REP_ERR_INVALID || r->type == NBD_REP_ERR_SHUTDOWN
	               ? MODEL_NEXT
	               : wrong_type(m,
	                            m->facts->tls_required ? R(forcedtls_second_starttls_invalid)
	                                                   : R(selectivetls_second_starttls_invalid),
	                            "NBD_REP_ERR_INVALID: this is TLS", r->type);
}

/* Where we cannot speak it, and the server agrees to it, the session is over. */
static enum model_step
judge_starttls(struct model *m, const struct option_reply *r)
{
	bool plain = m->now->flaw == FLAW_NONE;

	if (m->over_tls)
		return judge_second_starttls(m, r);
	if (r->type == NBD_REP_ACK && !m->tls_refused)
		return m->facts->tls != NULL && plain ? MODEL_TLS : MODEL_OVER;
	if (r->type == NBD_REP_ACK)
		return wrong_type(m, R(tls_mode_consistent), "an error, as before", r->type);
	if (!is_error(r->type))
		return wrong_type(m, R(starttls_ack_or_error), "NBD_REP_ACK or an error", r->type);
	if (r->type != NBD_REP_ERR_UNSUP && r->type != NBD_REP_ERR_POLICY && r->type != NBD_REP_ERR_INVALID &&
	    r->type != NBD_REP_ERR_PLATFORM && r->type != NBD_REP_ERR_SHUTDOWN)
		return wrong_type(m, R(notls_starttls_errors), "NBD_REP_ERR_UNSUP or NBD_REP_ERR_POLICY", r->type);
	if (m->facts->tls != NULL && plain && r->type != NBD_REP_ERR_SHUTDOWN)
		return wrong_type(m,
		                  m->facts->tls_required ? R(forcedtls_starttls_acked) : R(selectivetls_starttls_acked),
		                  "NBD_REP_ACK: STARTTLS is served at other times", r->type);
	m->tls_refused |= plain;
	return MODEL_NEXT;
}

static enum model_step
judge_abort(struct model *m, const struct option_reply *r)
{
	if (m->now->flaw != FLAW_NONE && r->type == NBD_REP_ERR_INVALID) {
		doubtful_type(m, R(abort_ignores_data), "NBD_REP_ACK", r->type);
		return MODEL_OVER;
	}
	return r->type == NBD_REP_ACK ? MODEL_OVER : wrong_type(m, R(abort_acked), "NBD_REP_ACK", r->type);
}

/* It is of an extension that is not known here, so that a server which has it is left alone then. */
static enum model_step
judge_extended(struct model *m, const struct option_reply *r)
{
	if (r->type == NBD_REP_ACK)
		return MODEL_OVER;
	if (r->type == NBD_REP_ERR_UNSUP || r->type == NBD_REP_ERR_POLICY || r->type == NBD_REP_ERR_PLATFORM ||
	    r->type == NBD_REP_ERR_INVALID || r->type == NBD_REP_ERR_SHUTDOWN)
		return MODEL_NEXT;
	return wrong_type(m, R(unknown_option_unsup), "NBD_REP_ERR_UNSUP", r->type);
}

/* ---- any reply ---- */

static enum model_step
judge_form(struct model *m, const struct option_reply *r)
{
	char text[NAME_MAX_TEXT];

	if (r->option == BAIT_OPTION)
		return model_breach(m, R(option_data_consumed), "the data of an option is skipped", "it is answered");
	if (r->option != m->now->option)
		return model_breach(m, R(option_reply_echoes_option), "the option that was sent", "%s for %s",
		                    name_text(NAME_OPTION, r->option, text), m->now->name);
	if (r->type == NBD_REP_ACK && r->length > 0)
		return model_breach(m, R(rep_ack_empty), "NBD_REP_ACK without data", "%" PRIu32 " bytes", r->length);
	if (is_error(r->type) && r->length > NBD_MAX_STRING)
		return model_breach(m, R(option_reply_string_limits), "a text of 4096 bytes at most",
		                    "%" PRIu32 " bytes", r->length);
	if (r->type == NBD_REP_ERR_TLS_REQD && m->over_tls)
		return wrong_type(m,
		                  m->facts->tls_required ? R(forcedtls_no_tls_reqd_after_tls)
		                                         : R(selectivetls_no_tls_reqd_after_tls),
		                  "anything else: this is TLS", r->type);
	if (r->type == NBD_REP_ERR_TLS_REQD && m->tls_refused)
		return wrong_type(m, R(notls_no_tls_reqd), "anything else, for STARTTLS was refused", r->type);
	return MODEL_NEXT;
}

/* Nothing that was agreed before holds from here on (proto.md:1236-1239). */
void
model_over_tls(struct model *m)
{
	m->facts = m->facts->tls;
	m->over_tls = true;
	m->structured_in_clear = m->structured;
	m->selected_in_clear = m->n_contexts > 0;
	m->structured = m->structured_refused = m->selected_before = m->between = m->unjudged = m->had_info = false;
	m->selection = SELECTED_NEVER;
	m->n_contexts = 0;
	m->info = NULL;
}

enum model_step
model_reply(struct model *m, const struct option_reply *r)
{
	if (r->magic != NBD_OPTION_REPLY_MAGIC)
		return astray(m, R(option_reply_magic), "the magic of an option reply", "something else");
	if (judge_form(m, r) == MODEL_BREACH)
		return MODEL_BREACH;
	m->replies++;
	switch (m->now->option) {
	case NBD_OPT_ABORT:
		return judge_abort(m, r);
	case NBD_OPT_LIST:
		return judge_list(m, r);
	case NBD_OPT_STARTTLS:
		return judge_starttls(m, r);
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		return judge_go(m, r);
	case NBD_OPT_STRUCTURED_REPLY:
		return judge_structured(m, r);
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		return judge_meta(m, r);
	case NBD_OPT_EXTENDED_HEADERS:
		return judge_extended(m, r);
	default:
		return r->type == NBD_REP_ERR_UNSUP
		               ? MODEL_NEXT
		               : wrong_type(m, R(unknown_option_unsup), "NBD_REP_ERR_UNSUP", r->type);
	}
}

enum model_step
model_export_name(struct model *m, const struct export_name_reply *r)
{
	const struct export_fact *e = &m->facts->export[m->now->of];

	if (r->size >> 32 == NBD_OPTION_REPLY_MAGIC >> 32 && (!e->there || r->size != e->size))
		return model_breach(m, R(export_name_no_option_reply), "no option reply to EXPORT_NAME", "one");
	if (!e->there)
		return model_breach(m, R(export_name_unknown_closes), "the end: there is no such export",
		                    "size %" PRIu64 ", flags 0x%04x", r->size, r->flags);
	for (size_t i = 0; i < r->padding.len; i++)
		if (r->padding.at[i] != 0)
			return model_breach(m, R(export_name_zeroes_padding), "124 zeroes", "byte %zu is 0x%02x", i,
			                    r->padding.at[i]);
	m->export = (struct info_export){ r->size, r->flags };
	if (judge_export(m, &e->by_name, "what INFO has told") == MODEL_BREACH)
		return MODEL_BREACH;
	if ((r->flags & NBD_FLAG_SEND_DF) != 0 && !m->structured)
		return unasked_df(m);
	m->entered = m->now->of;
	m->size = r->size;
	m->flags = r->flags;
	return MODEL_TRANSMISSION;
}
