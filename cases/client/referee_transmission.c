/* What the client may send in the transmission phase. */
#include "cases/client/referee_private.h"

#include "harness/names.h"
#include "harness/nbd.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { TEXT_SIZE = 400, DEFAULT_MIN_BLOCK = 512 }; /* bytes; proto.md:793 */

static const struct command {
	bool known, ranged;
	uint16_t exposed_by, flags;
	enum requirement_id unadvertised, empty;
} commands[] = {
	[NBD_CMD_READ] = { true, true, 0, NBD_CMD_FLAG_DF, 0, R(read_length_nonzero) },
	[NBD_CMD_WRITE] = { true, true, 0, 0, 0, R(write_length_nonzero) },
	[NBD_CMD_DISC] = { true, false, 0, 0, 0, 0 },
	[NBD_CMD_FLUSH] = { true, false, NBD_FLAG_SEND_FLUSH, 0, R(flush_only_where_advertised), 0 },
	[NBD_CMD_TRIM] = { true, true, NBD_FLAG_SEND_TRIM, 0, R(trim_only_where_advertised), R(trim_length_nonzero) },
	/* Clients that send it unasked are known to exist, and no rule is against it (proto.md:1136, 2142). */
	[NBD_CMD_CACHE] = { true, true, 0, 0, 0, 0 },
	[NBD_CMD_WRITE_ZEROES] = { true, true, NBD_FLAG_SEND_WRITE_ZEROES,
	                           NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, R(zeroes_only_where_advertised),
	                           R(zeroes_length_nonzero) },
	[NBD_CMD_BLOCK_STATUS] = { true, true, 0, NBD_CMD_FLAG_REQ_ONE, 0, R(status_length_nonzero) },
};

static const struct command *
command_of(uint16_t type)
{
	static const struct command unknown = { .flags = UINT16_MAX };

	return type < sizeof(commands) / sizeof(commands[0]) ? &commands[type] : &unknown;
}

/* "NBD_CMD_READ of 512 bytes at 0, flags DF" */
static const char *
show(const struct request *m, char text[TEXT_SIZE])
{
	char name[NAME_MAX_TEXT], flags[NAME_MAX_TEXT];

	if (name_of(NAME_COMMAND, m->type) != NULL)
		snprintf(name, sizeof(name), "%s", name_of(NAME_COMMAND, m->type));
	else
		snprintf(name, sizeof(name), "command %u", m->type);
	snprintf(text, TEXT_SIZE, "%s of %" PRIu64 " bytes at %" PRIu64 "%s%.60s", name, m->length, m->offset,
	         m->flags != 0 ? ", flags " : "", m->flags != 0 ? name_flags(NAME_COMMAND_FLAG, m->flags, flags) : "");
	return text;
}

/* ---- what this session does not offer ---- */

static void
recall_flag(struct session *s, const char *what, uint16_t flag)
{
	char name[NAME_MAX_TEXT];

	for (const struct session *o = s->next; o != NULL; o = o->next)
		if (o->terms.known && (o->terms.flags & flag) != 0) {
			accuse(s, RULES(R(client_forgets_prior_session)),
			       "%s: %s was set in the session of connection %u, and is not in this one", what,
			       name_flags(NAME_TRANSMISSION_FLAG, flag, name), o->connection);
			return;
		}
}

static void
judge_unoffered(struct session *s, const char *what, uint16_t flag, const enum requirement_id *broken)
{
	char needed[NAME_MAX_TEXT], set[NAME_MAX_TEXT];

	if (!s->terms.known || (s->terms.flags & flag) != 0)
		return;
	accuse(s, broken, "%s: needs NBD_FLAG_%s, and the transmission flags are %s", what,
	       name_flags(NAME_TRANSMISSION_FLAG, flag, needed),
	       name_flags(NAME_TRANSMISSION_FLAG, s->terms.flags, set));
	recall_flag(s, what, flag);
}

static void
judge_command(struct session *s, const struct request *m, const char *what)
{
	const struct command *c = command_of(m->type);

	if (!c->known)
		accuse(s, RULES(R(client_negotiates_extras)), "%s: the protocol has no such command", what);
	else if (c->exposed_by != 0)
		judge_unoffered(s, what, c->exposed_by,
		                RULES(c->unadvertised, R(client_uses_exposed_features), R(client_negotiates_extras)));
}

static void
judge_flags(struct session *s, const struct request *m, const char *what)
{
	const struct command *c = command_of(m->type);
	uint16_t payload = s->extended && (m->type == NBD_CMD_WRITE || m->type == NBD_CMD_BLOCK_STATUS)
	                           ? NBD_CMD_FLAG_PAYLOAD_LEN
	                           : 0;
	uint16_t strange = m->flags & (uint16_t) ~(c->flags | NBD_CMD_FLAG_FUA | payload);
	char text[NAME_MAX_TEXT];

	if (strange != 0)
		accuse(s,
		       RULES(R(command_flags_documented_only), (strange & NBD_CMD_FLAG_PAYLOAD_LEN) != 0 && !s->extended
		                                                       ? R(ext_compact_no_payload_flag)
		                                                       : REQUIREMENT_NONE),
		       "%s: the command has no flag %s", what, name_flags(NAME_COMMAND_FLAG, strange, text));
	if ((m->flags & NBD_CMD_FLAG_FUA) != 0 && c->known) {
		judge_unoffered(s, what, NBD_FLAG_SEND_FUA,
		                RULES(R(client_uses_exposed_features), R(command_flags_documented_only)));
		if (m->type != NBD_CMD_WRITE && m->type != NBD_CMD_WRITE_ZEROES && m->type != NBD_CMD_TRIM)
			accuse(s, RULES(R(fua_only_on_writes)), "%s: it writes nothing", what);
	}
	if ((m->flags & c->flags & NBD_CMD_FLAG_DF) != 0 && c->known)
		judge_unoffered(s, what, NBD_FLAG_SEND_DF,
		                s->extended ? RULES(R(df_only_where_advertised), R(client_df_unadvertised),
		                                    R(command_flags_documented_only), R(ext_df_needs_flag))
		                            : RULES(R(df_only_where_advertised), R(client_df_unadvertised),
		                                    R(command_flags_documented_only)));
	if ((m->flags & c->flags & NBD_CMD_FLAG_FAST_ZERO) != 0 && c->known)
		judge_unoffered(s, what, NBD_FLAG_SEND_FAST_ZERO,
		                RULES(R(fast_zero_only_where_advertised), R(client_fast_zero_unadvertised),
		                      R(command_flags_documented_only)));
}

static void
recall_contexts(struct session *s, const char *what)
{
	for (const struct session *o = s->next; o != NULL; o = o->next)
		if (o->terms.has_contexts) {
			accuse(s, RULES(R(client_forgets_prior_session)),
			       "%s: contexts were selected in the session of connection %u, and not in this one", what,
			       o->connection);
			return;
		}
}

static void
judge_status(struct session *s, const char *what)
{
	const char *why = !s->set_contexts                           ? "NBD_OPT_SET_META_CONTEXT was not sent"
	                  : s->n_selected == 0                       ? "no context was selected"
	                  : !same_export(&s->context_name, &s->name) ? "the contexts are those of another export"
	                                                             : "they were void after NBD_OPT_STARTTLS";

	enum requirement_id too = REQUIREMENT_NONE;

	if (!s->terms.known || s->terms.has_contexts)
		return;
	if ((!s->structured && s->structured_before_tls) || (!s->set_contexts && s->contexts_before_tls)) {
		why = "what was agreed before NBD_OPT_STARTTLS is void";
		too = R(starttls_client_renegotiates);
	}
	accuse(s,
	       in_chunks(s) ? RULES(R(block_status_after_set_meta), R(client_status_needs_context),
	                            R(client_selects_contexts), R(client_negotiates_extras), too)
	                    : RULES(R(block_status_after_set_meta), R(client_status_needs_context),
	                            R(client_selects_contexts), R(client_negotiates_extras),
	                            R(client_metadata_needs_structured), R(payload_extensions_need_structured),
	                            s->extended_asked ? R(ext_contexts_need_negotiation) : too,
	                            s->extended_asked ? too : REQUIREMENT_NONE),
	       "%s: %s%s", what, why, in_chunks(s) ? "" : ", nor structured replies agreed");
	recall_contexts(s, what);
}

/* ---- where, and how much ---- */

static void
judge_default_sizes(struct session *s, const struct request *m, const char *what)
{
	bool has_payload = m->type == NBD_CMD_READ || m->type == NBD_CMD_WRITE;
	/* What binds clients that ask for nothing (proto.md:2451). */
	enum requirement_id too =
		s->go_sent && !s->honours_block_size ? R(interop_block_sizes_abided_by) : REQUIREMENT_NONE;

	if ((m->offset | m->length) % DEFAULT_MIN_BLOCK != 0)
		accuse(s, RULES(R(client_default_min_block), too),
		       "%s: no multiple of %d, and the server told no size constraints", what, DEFAULT_MIN_BLOCK);
	if (has_payload && m->length > NBD_DEFAULT_MAX_PAYLOAD)
		accuse(s, RULES(R(client_default_max_payload), too),
		       "%s: more than %u, and the server told no size constraints", what, NBD_DEFAULT_MAX_PAYLOAD);
}

/* Only who asked for size constraints in NBD_OPT_GO has committed himself to them (proto.md:782-786). */
static void
judge_sizes(struct session *s, const struct request *m, const char *what)
{
	const struct info_block_size *b = &s->terms.block;
	bool has_payload = m->type == NBD_CMD_WRITE || (m->type == NBD_CMD_READ && !in_chunks(s));

	if (((m->offset | m->length) & (b->minimum - 1)) != 0)
		accuse(s, RULES(R(client_minimum_aligned), R(client_abides_by_block_size)),
		       "%s: no multiple of the minimum block size %u", what, b->minimum);
	else if (s->ref->setup.most_interoperable && ((m->offset | m->length) & (b->preferred - 1)) != 0 &&
	         m->offset + m->length != s->terms.size)
		accuse(s, RULES(R(client_preferred_aligned)), "%s: no multiple of the preferred block size %u", what,
		       b->preferred);
	if (has_payload && m->length > b->maximum)
		accuse(s, RULES(R(client_payload_within_maximum), R(client_abides_by_block_size)),
		       "%s: the maximum payload size is %u", what, b->maximum);
}

static enum requirement_id
empty_extended(const struct request *m)
{
	return m->type == NBD_CMD_READ           ? R(ext_read_nonzero)
	       : m->type == NBD_CMD_BLOCK_STATUS ? R(ext_status_nonzero)
	                                         : REQUIREMENT_NONE;
}

static void
judge_range(struct session *s, const struct request *m, const char *what)
{
	const struct command *c = command_of(m->type);

	if (m->length == 0 && c->empty != REQUIREMENT_NONE)
		accuse(s, RULES(c->empty, s->extended ? empty_extended(m) : REQUIREMENT_NONE), "%s", what);
	if (m->type == NBD_CMD_READ && m->length > UINT32_MAX)
		accuse(s, RULES(R(ext_read_32bit)), "%s", what);
	if (!s->terms.known)
		return;
	if (m->offset > s->terms.size || m->length > s->terms.size - m->offset)
		accuse(s, RULES(R(client_within_export)), "%s: the export has %" PRIu64 " bytes", what, s->terms.size);
	if (s->terms.constrained)
		judge_sizes(s, m, what);
	else if (s->ref->setup.most_interoperable)
		judge_default_sizes(s, m, what);
}

/* ---- requests in flight, and on other connections ---- */

static void
judge_cookie(struct session *s, const struct request *m, const char *what)
{
	char other[TEXT_SIZE];
	const struct pending *p = pending_of(s, m->cookie);

	if (p == NULL || s->server_broke)
		return;
	show(&(struct request){ .type = p->type, .flags = p->flags, .offset = p->offset, .length = p->length }, other);
	accuse(s, RULES(R(client_distinct_cookies)), "%s: its cookie 0x%016" PRIx64 " is that of %s, still in flight",
	       what, m->cookie, other);
}

static void
add_pending(struct session *s, const struct request *m, unsigned owed_statuses)
{
	if (s->n_pending == s->cap_pending) {
		s->cap_pending = s->cap_pending > 0 ? 2 * s->cap_pending : 16;
		s->pending = reallocarray(s->pending, s->cap_pending, sizeof(*s->pending));
		if (s->pending == NULL)
			abort();
	}
	s->pending[s->n_pending++] = (struct pending){ .cookie = m->cookie,
		                                       .offset = m->offset,
		                                       .type = m->type,
		                                       .flags = m->flags,
		                                       .length = m->length,
		                                       .owed_statuses = owed_statuses };
}

/* Proof that both are in use: the other was used after this one had been, or waits for an answer. */
static void
judge_connections(struct session *s, const char *what)
{
	uint64_t last = s->last_command;

	s->last_command = ++s->ref->commands;
	if (s->ref->setup.several_clients || !s->terms.known)
		return;
	for (const struct session *o = s->ref->sessions; o != NULL; o = o->next) {
		if (o == s || o->closed || o->stage != STAGE_TRANSMISSION || !o->terms.known ||
		    (o->terms.flags & s->terms.flags & NBD_FLAG_CAN_MULTI_CONN) != 0 ||
		    !same_export(&o->name, &s->name))
			continue;
		if (o->n_pending == 0 && (last == 0 || o->last_command < last))
			continue;
		accuse(s, RULES(R(client_multi_conn_unadvertised)),
		       "%s: connection %u to this export is in use too, without NBD_FLAG_CAN_MULTI_CONN", what,
		       o->connection);
		return;
	}
}

/* ---- requests ---- */

/* Where a good request stood before, it has brought too many bytes, or too few. */
static void
judge_bad_magic(struct session *s, uint32_t magic)
{
	bool is_option = magic == NBD_OPTION_MAGIC >> 32;

	/* A server that lies may have taken too much or too little off the stream. */
	if (s->ref->setup.server_lies)
		;
	else if (magic == NBD_EXTENDED_REQUEST_MAGIC)
		accuse(s,
		       s->extended_before_tls
		               ? RULES(R(extended_request_magic_negotiated), R(ext_renegotiated_after_starttls))
		               : RULES(R(extended_request_magic_negotiated)),
		       "an extended request, and extended headers were not agreed%s",
		       s->extended_before_tls ? " behind NBD_OPT_STARTTLS" : "");
	else if (s->extended && magic == NBD_REQUEST_MAGIC)
		accuse(s, RULES(R(ext_requests_extended)), "a compact request, and extended headers were agreed");
	else if (s->oldstyle && !s->had_request && (is_option || magic <= 3))
		accuse(s, RULES(R(oldstyle_client_silent)), "%s after an oldstyle greeting",
		       is_option ? "an option" : "client flags");
	else if (is_option && !s->had_request && s->awaits_reply)
		accuse(s,
		       s->option == NBD_OPT_GO ? RULES(R(client_one_option_at_a_time), R(go_then_no_options))
		                               : RULES(R(client_one_option_at_a_time)),
		       "an option before the final reply to %s", name_of(NAME_OPTION, s->option));
	else if (is_option && s->option == NBD_OPT_GO)
		accuse(s, RULES(R(go_then_no_options)), "an option after NBD_OPT_GO, which had succeeded");
	else if (magic == __builtin_bswap32(s->extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC))
		accuse(s, RULES(R(numbers_big_endian)), "a request's magic is little-endian");
	else if (s->had_request)
		accuse(s,
		       s->last_type == NBD_CMD_WRITE_ZEROES
		               ? RULES(R(zeroes_sent_without_payload), R(request_payload_client))
		       : s->last_type == NBD_CMD_WRITE ? RULES(R(request_payload_client), R(write_payload_follows))
		                                       : RULES(R(request_payload_client)),
		       "0x%08x where the next request begins: %s of %" PRIu64
		       " bytes before it brought more or less data",
		       magic,
		       name_of(NAME_COMMAND, s->last_type) != NULL ? name_of(NAME_COMMAND, s->last_type)
		                                                   : "the command",
		       s->last_length);
	else
		accuse(s, RULES(R(request_magic)), "a request begins with 0x%08x", magic);
	s->stage = STAGE_LOST;
}

static void
judge_disc(struct session *s, const struct request *m, const char *what)
{
	if ((m->offset | m->length) != 0)
		accuse(s, RULES(R(disc_fields_zero)), "%s: offset and length are to be 0", what);
	if (s->n_pending > 0 && !s->server_broke)
		accuse(s, RULES(R(client_disc_after_inflight)), "NBD_CMD_DISC with %zu requests in flight",
		       s->n_pending);
	s->stage = STAGE_DISCONNECTED;
}

/* What the flag says is so; of a BLOCK_STATUS .length becomes that of its effect. The contexts that it asks for. */
static unsigned
judge_payload(struct session *s, struct request *m, const char *what)
{
	bool flagged = (m->flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0;
	struct block_status_payload p;

	if (!flagged && s->extended && m->type == NBD_CMD_WRITE)
		accuse(s, RULES(R(ext_write_payload_flag)), "%s: its flags lack NBD_CMD_FLAG_PAYLOAD_LEN", what);
	if (!flagged || !s->extended || m->type != NBD_CMD_BLOCK_STATUS)
		return s->n_selected;
	judge_unoffered(s, what, NBD_FLAG_BLOCK_STATUS_PAYLOAD, RULES(R(ext_status_payload_needs_flag)));
	if (wire_get_block_status_payload(wire_over(m->data), &p) != WIRE_EXACT) {
		accuse(s, RULES(R(ext_status_payload_layout)),
		       "%s: a payload of %" PRIu64 " bytes, not 8 and a multiple of 4", what, m->length);
		return 0;
	}
	m->length = p.length;
	return (unsigned)(p.ids.len / sizeof(uint32_t));
}

static void
judge_good_request(struct session *s, struct request *m)
{
	char what[TEXT_SIZE];
	unsigned owed;

	show(m, what);
	owed = judge_payload(s, m, what);
	judge_command(s, m, what);
	judge_flags(s, m, what);
	if (command_of(m->type)->ranged)
		judge_range(s, m, what);
	if (m->type == NBD_CMD_BLOCK_STATUS)
		judge_status(s, what);
	if (m->type == NBD_CMD_FLUSH && (m->offset | m->length) != 0)
		accuse(s, RULES(R(flush_fields_zero)), "%s: offset and length are to be 0", what);
	if (m->type == NBD_CMD_DISC) {
		judge_disc(s, m, what);
		return;
	}
	judge_cookie(s, m, what);
	judge_connections(s, what);
	add_pending(s, m, owed);
}

void
judge_request(struct session *s, const struct trace_record *r)
{
	struct request m;

	request_in(r, &m);
	if (s->stage == STAGE_DISCONNECTED)
		accuse(s, RULES(R(disc_nothing_after)), "more bytes after NBD_CMD_DISC");
	if (s->stage == STAGE_DISCONNECTED || s->stage == STAGE_LOST)
		return;
	/* Sent before the reply to the option that leads there was. */
	s->stage = STAGE_TRANSMISSION;
	/* The server reads another form than it has agreed to. */
	if (s->extended && m.magic == NBD_EXTENDED_REQUEST_MAGIC && r->message != MSG_EXTENDED_REQUEST) {
		s->stage = STAGE_LOST;
		return;
	}
	if (m.magic != (s->extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC)) {
		judge_bad_magic(s, m.magic);
		return;
	}
	s->last_length = m.length;
	judge_good_request(s, &m);
	s->had_request = true;
	s->last_type = m.type;
}

void
judge_transmission_left(struct session *s)
{
	const char *how = how_left(s);

	if (s->eshutdown)
		accuse(s, RULES(R(client_disconnects_on_eshutdown)),
		       "the client %s after NBD_ESHUTDOWN, without NBD_CMD_DISC", how);
	if (s->unexpected_error)
		accuse(s, RULES(R(unexpected_error_as_einval)),
		       "the client %s after an error that the protocol does not define", how);
	else
		accuse(s, RULES(R(client_transmission_no_disconnect)), "the client %s%s without NBD_CMD_DISC", how,
		       s->rest_length > 0 ? ", amid a request, and" : "");
}
