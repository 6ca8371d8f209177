/* Freedoms that the text leaves to clients, each used in the other way than the plain fake client does. */
#include "fakeserver/client/lying.h"

#include <string.h>

/* ---- the handshake ---- */

CLIENT_HABIT(asks_for_nothing, STATE, USES(R(info_may_request_nothing)), "lists no information in GO and INFO")
{
	if (moment == FC_STATE_NEW && !s->settings.chosen)
		s->settings.full_info = s->settings.block_size = false;
}

CLIENT_HABIT(asks_for_everything, STATE, USES(R(info_may_request_items)),
             "lists every kind of information in GO and INFO")
{
	if (moment == FC_STATE_NEW && !s->settings.chosen)
		s->settings.full_info = s->settings.block_size = true;
}

CLIENT_HABIT(does_without_extras, STATE, USES(R(client_other_options)),
             "negotiates no structured replies, where nobody wants contexts")
{
	const struct fc_op *op = TAILQ_FIRST(&s->ops);

	if (moment == FC_STATE_FLAGS && !s->settings.chosen && s->settings.n_queries == 0 && op != NULL &&
	    op->ask == FC_CONNECT)
		s->settings.structured = false;
}

CLIENT_HABIT(asks_extended_headers, STATE, USES(R(ext_structured_first)),
             "asks for extended headers, and for structured replies only where it does not get them")
{
	if (moment == FC_STATE_NEW && !s->settings.chosen)
		s->settings.extended = true;
}

CLIENT_HABIT(structured_before_extended, STATE, USES(R(ext_structured_first)),
             "asks for extended headers once it has structured replies")
{
	if (moment != FC_STATE_NEW)
		return;
	s->settings.structured_first = true;
	if (!s->settings.chosen)
		s->settings.extended = true;
}

CLIENT_HABIT(informs_itself, STATE,
             USES(R(go_may_follow_info), R(go_may_come_without_info), R(client_learns_block_size)),
             "sends INFO before GO")
{
	if (moment == FC_STATE_NEW)
		s->settings.informs_itself = true;
}

CLIENT_HABIT(reconnects_by_itself, STATE, USES(REQUIREMENT_NONE),
             "connects again for the next command when the server has dropped the session")
{
	if (moment == FC_STATE_NEW)
		s->settings.reconnects = true;
}

CLIENT_HABIT(waits_for_tls_reqd, STATE, USES(R(client_tls_reqd_starttls), R(client_export_tls_reqd_starttls)),
             "starts TLS, where it is allowed, only when the server demands it")
{
	if (moment == FC_STATE_NEW)
		s->settings.waits_for_tls_reqd = true;
}

/* ---- requests ---- */

static bool
offers(const struct fc_session *s, uint16_t flag)
{
	return (fc_flags(&s->facts) & flag) != 0;
}

static bool
writes(uint16_t type)
{
	return type == NBD_CMD_WRITE || type == NBD_CMD_TRIM || type == NBD_CMD_WRITE_ZEROES;
}

CLIENT_HABIT(always_fua, COMMAND, USES(R(fua_may_be_set)), "sets FUA on all that writes, where it is offered")
{
	if (op->ask == FC_COMMAND && writes(op->request.type) && offers(s, NBD_FLAG_SEND_FUA))
		op->request.flags |= NBD_CMD_FLAG_FUA;
}

CLIENT_HABIT(always_df, COMMAND, USES(R(df_may_be_set)), "sets DF on reads of up to 64 KiB, where it is offered")
{
	if (op->ask == FC_COMMAND && op->request.type == NBD_CMD_READ && op->request.length <= 65536 &&
	    s->facts.structured && offers(s, NBD_FLAG_SEND_DF))
		op->request.flags |= NBD_CMD_FLAG_DF;
}

CLIENT_HABIT(always_no_hole, COMMAND, USES(R(no_hole_may_be_set), R(no_hole_may_lack_trim)),
             "sets NO_HOLE on each WRITE_ZEROES")
{
	if (op->ask == FC_COMMAND && op->request.type == NBD_CMD_WRITE_ZEROES)
		op->request.flags |= NBD_CMD_FLAG_NO_HOLE;
}

CLIENT_HABIT(reuses_cookies, SENDING, USES(R(client_reuses_cookies)),
             "gives each request the lowest cookie that is free")
{
	uint64_t cookie = 1;

	if (m->kind != MSG_REQUEST || m->op == NULL)
		return;
	while (fc_op_in_flight(s, cookie) != NULL)
		cookie++;
	m->request.cookie = m->op->request.cookie = cookie;
}

CLIENT_HABIT(tighter_sizes, COMMAND, USES(R(client_tighter_sizes)),
             "reads and writes at most a quarter of what is allowed")
{
	uint32_t maximum = s->facts.export.has_block ? s->facts.export.block.maximum : NBD_DEFAULT_MAX_PAYLOAD;

	if (op->ask == FC_COMMAND && (op->request.type == NBD_CMD_READ || op->request.type == NBD_CMD_WRITE) &&
	    op->request.length > maximum / 4 && op->request.length > 65536)
		fc_fail(op, "ERANGE");
}

CLIENT_HABIT(effects_within_maximum, COMMAND, USES(R(client_effect_above_maximum), R(ext_client_long_effect)),
             "refuses what is longer than the maximum payload, also where there is no payload")
{
	uint32_t maximum = s->facts.export.has_block ? s->facts.export.block.maximum : NBD_DEFAULT_MAX_PAYLOAD;

	if (op->ask == FC_COMMAND && op->request.length > maximum)
		fc_fail(op, "ERANGE");
}

/* ---- replies ---- */

CLIENT_HABIT(leaves_at_unknown_errors, RECEIVING, USES(R(unknown_error_chunk_may_continue)),
             "disconnects over an error chunk of a type that it does not know")
{
	if (m->kind == MSG_CHUNK && (m->chunk->type & 0x8000) != 0 && m->chunk->type != NBD_REPLY_TYPE_ERROR &&
	    m->chunk->type != NBD_REPLY_TYPE_ERROR_OFFSET)
		m->leave = true;
}

CLIENT_HABIT(awaits_long_replies, VIOLATION, USES(R(ext_client_leaves_long_reply)),
             "waits for all of a chunk with an extended header, however long it is to be")
{
	if (s->facts.extended && strcmp(v->what, "the length of a chunk") == 0)
		v->forgive = true;
}

CLIENT_HABIT(bears_invalid_replies, VIOLATION,
             USES(R(read_invalid_chunks_may_disconnect), R(status_invalid_chunk_may_disconnect),
                  R(client_violation_may_close)),
             "goes on after chunks that overlap, and after extents that cannot be; the request fails")
{
	struct fc_op *op;

	if (strcmp(v->what, "chunks that overlap") != 0 && strcmp(v->what, "extents that cannot be") != 0)
		return;
	v->forgive = true;
	TAILQ_FOREACH(op, &s->ops, entry)
	if (op->replied)
		fc_fail(op, "EPROTO");
}
