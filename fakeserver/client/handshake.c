/* Option haggling as the honest client does it. */
#include "fakeserver/client/lying.h"
#include "harness/names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the greeting ---- */

static void
enter_transmission(struct fc_session *s)
{
	s->stage = FC_TRANSMISSION;
	if (s->facts.oldstyle || s->selected_for.len != s->facts.asked.len ||
	    (s->facts.asked.len > 0 && memcmp(s->selected_for.at, s->facts.asked.at, s->facts.asked.len) != 0))
		fc_contexts_reset(&s->facts);
	fc_lie_state(s, FC_STATE_TRANSMISSION);
	fc_facts_copy(&fc_client.elsewhere, &s->facts);
	if (!fc_join(TAILQ_FIRST(&s->ops)))
		fc_finish(TAILQ_FIRST(&s->ops));
}

static bool
take_oldstyle(struct fc_session *s)
{
	struct oldstyle_greeting m;

	if (!fc_has(s, OLDSTYLE_GREETING_SIZE))
		return false;
	wire_get_oldstyle_greeting(fc_input(s), &m);
	s->in_at += OLDSTYLE_GREETING_SIZE;
	if (s->settings.tls == FC_TLS_REQUIRED) {
		fc_over(s, "ENOTSUP");
		return false;
	}
	s->facts.oldstyle = true;
	s->facts.export.known = true;
	s->facts.export.size = m.size;
	s->facts.export.flags = (uint16_t)m.flags;
	enter_transmission(s);
	return true;
}

static void
send_client_flags(struct fc_session *s)
{
	struct fc_sending m = { .kind = MSG_CLIENT_FLAGS };

	s->facts.fixed = s->facts.server_fixed && s->settings.fixed_newstyle;
	s->facts.no_zeroes = s->facts.server_no_zeroes && s->settings.no_zeroes;
	fc_lie_state(s, FC_STATE_FLAGS);
	m.flags.flags =
		(s->facts.fixed ? NBD_FLAG_C_FIXED_NEWSTYLE : 0) | (s->facts.no_zeroes ? NBD_FLAG_C_NO_ZEROES : 0);
	fc_send(s, &m);
}

bool
fc_take_greeting(struct fc_session *s)
{
	struct greeting g;
	struct fc_receiving m = { .kind = MSG_GREETING, .greeting = &g };

	if (!fc_has(s, 16))
		return false;
	wire_get_greeting(fc_input(s), &g);
	if (!fc_sound(s, g.magic == NBD_MAGIC, "the greeting's magic"))
		return false;
	if (g.option_magic == NBD_CLISERV_MAGIC)
		return take_oldstyle(s);
	if (!fc_sound(s, g.option_magic == NBD_OPTION_MAGIC, "the greeting's option magic") ||
	    !fc_has(s, GREETING_SIZE))
		return false;
	s->in_at += GREETING_SIZE;
	fc_lie_receiving(s, &m);
	if (m.leave) {
		fc_over(s, "EPROTO");
		return false;
	}
	s->facts.server_fixed = (g.flags & NBD_FLAG_FIXED_NEWSTYLE) != 0;
	s->facts.server_no_zeroes = (g.flags & NBD_FLAG_NO_ZEROES) != 0;
	s->stage = FC_OPTIONS;
	send_client_flags(s);
	fc_next_option(s);
	return s->stage != FC_OVER;
}

/* ---- which option is next ---- */

/* Once, and where it is allowed, unless the server says that it has none. */
static bool
wants_tls(const struct fc_session *s, const struct fc_op *op)
{
	if (op->ask == FC_STARTTLS)
		return true;
	return op->ask != FC_DISCONNECT && s->settings.tls != FC_TLS_OFF && !s->facts.tls && !s->tls_refused &&
	       (s->settings.tls == FC_TLS_REQUIRED || s->tls_demanded || !s->settings.waits_for_tls_reqd);
}

/* Extended headers, and structured replies where they are not to be had; or those first (ext:1664). */
static uint32_t
option_of_headers(const struct fc_session *s, unsigned step)
{
	const struct fc_settings *is = &s->settings;
	bool swapped = is->structured_first && is->structured && is->extended;

	if ((step == FC_EXTENDED) != swapped)
		return is->extended ? NBD_OPT_EXTENDED_HEADERS : 0;
	return is->structured && !s->facts.extended ? NBD_OPT_STRUCTURED_REPLY : 0;
}

/* What each step of an operation sends; 0 where it has no such step. */
static uint32_t
option_of_step(const struct fc_session *s, const struct fc_op *op)
{
	bool enters = op->ask == FC_CONNECT || op->ask == FC_GO;

	switch ((enum fc_step)op->step) {
	case FC_TLS:
		return wants_tls(s, op) ? NBD_OPT_STARTTLS : 0;
	case FC_EXTENDED:
	case FC_STRUCTURED:
		return op->ask == FC_CONNECT || op->ask == FC_HAGGLE || op->ask == FC_STARTTLS
		               ? option_of_headers(s, op->step)
		               : 0;
	case FC_SELECT_CONTEXTS:
		return enters && s->facts.structured && s->settings.n_queries > 0 ? NBD_OPT_SET_META_CONTEXT : 0;
	case FC_INFORM:
		return enters && s->settings.informs_itself ? NBD_OPT_INFO : 0;
	case FC_MAIN:
		return enters                        ? NBD_OPT_GO
		       : op->ask == FC_INFO          ? NBD_OPT_INFO
		       : op->ask == FC_LIST          ? NBD_OPT_LIST
		       : op->ask == FC_LIST_CONTEXTS ? NBD_OPT_LIST_META_CONTEXT
		       : op->ask == FC_DISCONNECT    ? NBD_OPT_ABORT
		                                     : 0;
	default:
		/* With extended headers there is no other way (ext:1295). */
		return enters && s->option_unsupported && s->option == NBD_OPT_GO && !s->facts.extended
		               ? NBD_OPT_EXPORT_NAME
		               : 0;
	}
}

static struct bytes
export_of(const struct fc_session *s, const struct fc_op *op)
{
	return op != NULL && op->has_export ? (struct bytes){ op->export.at, op->export.len } : bytes_of(s->export);
}

/* NBD_INFO_BLOCK_SIZE commits to it; the others only describe. */
static struct bytes
infos_of(const struct fc_session *s)
{
	static const uint8_t infos[] = { 0, NBD_INFO_NAME, 0, NBD_INFO_DESCRIPTION, 0, NBD_INFO_BLOCK_SIZE };
	size_t from = s->settings.full_info ? 0 : 4, to = s->settings.block_size ? 6 : 4;

	return (struct bytes){ infos + from, to - from };
}

static void
fill_option(const struct fc_session *s, const struct fc_op *op, struct fc_sending *m)
{
	struct bytes name = export_of(s, op), infos = infos_of(s);
	bool lists = m->option.option == NBD_OPT_LIST_META_CONTEXT;
	const struct buf *queries = lists ? &op->queries : &s->settings.queries;
	uint32_t n = lists ? op->n_queries : s->settings.n_queries;

	switch (m->option.option) {
	case NBD_OPT_GO:
	case NBD_OPT_INFO:
		m->data = FC_DATA_GO;
		m->go = (struct opt_go){ (uint32_t)name.len, name, (uint16_t)(infos.len / 2), infos };
		break;
	case NBD_OPT_SET_META_CONTEXT:
	case NBD_OPT_LIST_META_CONTEXT:
		m->data = FC_DATA_META;
		m->meta = (struct opt_meta_context){ (uint32_t)name.len, name, n, { queries->at, queries->len } };
		break;
	case NBD_OPT_EXPORT_NAME:
		m->option.data = name;
		break;
	}
}

/* What is believed from here on is what the reply will say. */
static void
forget(struct fc_session *s, uint32_t option, struct bytes name)
{
	if (option == NBD_OPT_GO || option == NBD_OPT_INFO || option == NBD_OPT_EXPORT_NAME) {
		fc_export_reset(&s->facts.export);
		buf_clear(&s->facts.asked);
		put_bytes(&s->facts.asked, name);
	}
	if (option == NBD_OPT_SET_META_CONTEXT) {
		fc_contexts_reset(&s->facts);
		buf_clear(&s->selected_for);
		put_bytes(&s->selected_for, name);
	}
}

static void
send_option(struct fc_session *s, struct fc_op *op, uint32_t option)
{
	struct fc_sending m = { .kind = MSG_OPTION, .op = op };

	m.option.magic = NBD_OPTION_MAGIC;
	m.option.option = option;
	fill_option(s, op, &m);
	s->option = option;
	s->option_unsupported = false;
	fc_lie_state(s, FC_STATE_BEFORE_OPTION);
	forget(s, option, export_of(s, op));
	s->in_option = true;
	s->want = 0;
	if (option == NBD_OPT_EXPORT_NAME)
		s->stage = FC_EXPORT_NAME;
	fc_send(s, &m);
	if (m.drop)
		s->in_option = false;
	if (option != NBD_OPT_ABORT)
		return;
	s->stage = FC_LEAVING;
	s->aborting = true;
	fc_set_limit(s);
}

void
fc_abort_haggling(struct fc_session *s)
{
	send_option(s, NULL, NBD_OPT_ABORT);
}

/* Without fixed newstyle there is no way but into transmission, or out. */
static void
next_unfixed(struct fc_session *s, struct fc_op *op)
{
	if (s->settings.tls == FC_TLS_REQUIRED && op->ask != FC_DISCONNECT)
		fc_over(s, "ENOTSUP");
	else if (op->ask == FC_CONNECT || op->ask == FC_GO)
		send_option(s, op, NBD_OPT_EXPORT_NAME);
	else if (op->ask == FC_DISCONNECT)
		fc_over(s, "ECANCELED");
	else if (op->ask == FC_HAGGLE)
		fc_finish(op);
	else {
		fc_fail(op, "ENOTSUP");
		fc_finish(op);
	}
}

/* At most 4096 bytes, without a NUL (proto.md:154). */
static bool
is_string(struct bytes text)
{
	return text.len <= NBD_MAX_STRING && (text.len == 0 || memchr(text.at, 0, text.len) == NULL);
}

static bool
are_strings(const struct buf *queries)
{
	struct wire w = wire(queries->at, queries->len);
	bool sound = true;

	while (sound && w.left > 0)
		sound = is_string(wire_take(&w, wire_be32(&w)));
	return sound;
}

/* In strict mode contexts are not asked after where structured replies were not agreed (proto.md:1396). */
static bool
is_in_vain(const struct fc_session *s, struct fc_op *op, uint32_t option)
{
	bool strings = is_string(export_of(s, op)) &&
	               are_strings(option == NBD_OPT_SET_META_CONTEXT ? &s->settings.queries : &op->queries);

	if (!strings && !op->unchecked) {
		fc_fail(op, "EINVAL");
		return true;
	}
	if (op->ask != FC_LIST_CONTEXTS || s->facts.structured || !fc_first(s->handle)->settings.strict ||
	    op->unchecked)
		return false;
	fc_fail(op, "EINVAL");
	return true;
}

void
fc_next_option(struct fc_session *s)
{
	struct fc_op *op;
	uint32_t option = 0;

	while (s->stage == FC_OPTIONS && !s->in_option && (op = TAILQ_FIRST(&s->ops)) != NULL) {
		if (op->step == FC_TLS)
			fc_lie_command(s, op);
		if (!s->facts.fixed) {
			next_unfixed(s, op);
			continue;
		}
		for (option = 0; op->error[0] == '\0' && option == 0 && op->step < FC_STEPS; op->step++)
			option = option_of_step(s, op);
		if (option != 0 && !is_in_vain(s, op, option)) {
			send_option(s, op, option);
			return;
		}
		/* A connect that fails leaves, as it has no use for the rest. */
		if (op->error[0] != '\0' && (op->ask == FC_CONNECT || op->ask == FC_HAGGLE)) {
			fc_abort_haggling(s);
			return;
		}
		fc_finish(op);
	}
}

/* ---- replies to options ---- */

static bool
is_power_of_two(uint32_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

/* proto.md:817-836; what cannot be is as if it had not come. */
static bool
is_sound(const struct info_block_size *b)
{
	return is_power_of_two(b->minimum) && b->minimum <= 65536 && is_power_of_two(b->preferred) &&
	       b->preferred >= 512 && b->preferred >= b->minimum && b->maximum >= b->preferred;
}

static bool
take_info(struct fc_session *s, struct bytes data)
{
	struct fc_export *e = &s->facts.export;
	struct info_block_size block;
	struct info_export export;
	struct rep_info m;

	if (!fc_sound(s, wire_get_rep_info(wire_over(data), &m) != WIRE_SHORT, "the length of an information"))
		return false;
	if (m.type == NBD_INFO_EXPORT) {
		bool exact = wire_get_info_export(wire_over(m.payload), &export) == WIRE_EXACT;

		if (!fc_sound(s, exact, "the length of NBD_INFO_EXPORT"))
			return false;
		e->known = true;
		e->size = export.size;
		e->flags = export.flags;
	} else if (m.type == NBD_INFO_BLOCK_SIZE) {
		bool exact = wire_get_info_block_size(wire_over(m.payload), &block) == WIRE_EXACT;

		if (!fc_sound(s, exact, "the length of NBD_INFO_BLOCK_SIZE"))
			return false;
		e->has_block = is_sound(&block);
		e->block = block;
	} else if (m.type == NBD_INFO_NAME || m.type == NBD_INFO_DESCRIPTION) {
		struct buf *to = m.type == NBD_INFO_NAME ? &e->name : &e->description;

		buf_clear(to);
		buf_grow(to, 1);
		to->len = 0;
		put_bytes(to, m.payload);
	}
	return true;
}

static bool
take_context(struct fc_session *s, struct fc_op *op, struct bytes data)
{
	struct fc_context *c = &s->facts.contexts[s->facts.n_contexts];
	struct rep_meta_context m;
	enum wire_end end = wire_get_rep_meta_context(wire_over(data), &m);

	if (!fc_sound(s, end != WIRE_SHORT && m.name.len > 0, "the length of a context"))
		return false;
	if (s->option == NBD_OPT_LIST_META_CONTEXT) {
		buf_put(&op->said, " context=", 9);
		fc_put_word(&op->said, m.name);
		return true;
	}
	if (!fc_sound(s, s->facts.n_contexts < FC_CONTEXTS_MOST, "too many contexts"))
		return false;
	*c = (struct fc_context){ .id = m.id };
	put_bytes(&c->name, m.name);
	s->facts.n_contexts++;
	return true;
}

static bool
take_export(struct fc_session *s, struct fc_op *op, struct bytes data)
{
	struct rep_server m;

	if (!fc_sound(s, wire_get_rep_server(wire_over(data), &m) != WIRE_SHORT, "the length of a listed name"))
		return false;
	buf_put(&op->said, " export=", 8);
	fc_put_word(&op->said, m.name);
	if (m.details.len > 0) {
		buf_put(&op->said, " description=", 13);
		fc_put_word(&op->said, m.details);
	}
	return true;
}

static bool
take_ack(struct fc_session *s, struct fc_op *op)
{
	bool tells = s->option == NBD_OPT_GO || s->option == NBD_OPT_INFO;

	if (!fc_sound(s, !tells || s->facts.export.known, "an ACK without NBD_INFO_EXPORT"))
		return false;
	s->facts.extended |= s->option == NBD_OPT_EXTENDED_HEADERS;
	s->facts.structured |= s->option == NBD_OPT_STRUCTURED_REPLY || s->facts.extended;
	s->in_option = false;
	if (s->option == NBD_OPT_INFO)
		fc_export_copy(&s->informed, &s->facts.export);
	fc_lie_state(s, FC_STATE_AFTER_OPTION);
	if (s->stage == FC_OVER)
		return false;
	if (s->option == NBD_OPT_STARTTLS)
		fc_secure(s);
	else if (s->option == NBD_OPT_GO)
		enter_transmission(s);
	else if (s->stage == FC_OPTIONS && op->step > FC_MAIN)
		fc_finish(op);
	return true;
}

/* "REP_ERR_UNKNOWN" */
static void
name_of_reply(uint32_t type, char text[40])
{
	const char *name = name_of(NAME_REPLY, type);

	snprintf(text, 40, "%s", name != NULL && strncmp(name, "NBD_", 4) == 0 ? name + 4 : "OTHER");
}

static void
take_option_error(struct fc_session *s, struct fc_op *op, uint32_t type)
{
	char name[40];

	name_of_reply(type, name);
	s->in_option = false;
	s->option_unsupported = type == NBD_REP_ERR_UNSUP;
	if (s->option == NBD_OPT_SET_META_CONTEXT)
		fc_contexts_reset(&s->facts);
	fc_export_reset(&s->facts.export);
	if (s->option == NBD_OPT_LIST_META_CONTEXT)
		buf_clear(&op->said);
	if (type == NBD_REP_ERR_SHUTDOWN) {
		fc_fail(op, name);
		fc_abort_haggling(s);
		return;
	}
	s->tls_demanded |= type == NBD_REP_ERR_TLS_REQD;
	if (s->option == NBD_OPT_STARTTLS) {
		s->tls_refused = true;
		if (op->ask == FC_STARTTLS || s->settings.tls == FC_TLS_REQUIRED)
			fc_fail(op, name);
	} else if (s->tls_demanded && wants_tls(s, op)) {
		op->step = FC_TLS;
	} else if (op->step > FC_MAIN && !(s->option == NBD_OPT_GO && s->option_unsupported && !s->facts.extended)) {
		/* A session without structured replies or contexts will do; without NBD_OPT_GO there is the old way. */
		fc_fail(op, name);
	}
	fc_lie_state(s, FC_STATE_AFTER_OPTION);
}

static bool
act_on_reply(struct fc_session *s, struct fc_op *op, const struct option_reply *r)
{
	bool informs = s->option == NBD_OPT_GO || s->option == NBD_OPT_INFO;
	bool selects = s->option == NBD_OPT_SET_META_CONTEXT || s->option == NBD_OPT_LIST_META_CONTEXT;

	if ((r->type & NBD_REP_ERROR_BIT) != 0) {
		take_option_error(s, op, r->type);
		return true;
	}
	if (r->type == NBD_REP_ACK)
		return fc_sound(s, r->length == 0, "data with an ACK") && take_ack(s, op);
	if (!fc_sound(s, op->n_replies++ < FC_REPLIES_MOST, "too many replies to one option"))
		return false;
	if (r->type == NBD_REP_INFO && informs)
		return take_info(s, r->data);
	if (r->type == NBD_REP_META_CONTEXT && selects)
		return take_context(s, op, r->data);
	if (r->type == NBD_REP_SERVER && s->option == NBD_OPT_LIST)
		return take_export(s, op, r->data);
	return fc_sound(s, false, "a reply type that does not belong to the option");
}

/* Whatever answers NBD_OPT_ABORT: it is over. */
static bool
take_abort_reply(struct fc_session *s)
{
	fc_over(s, "ECANCELED");
	return false;
}

bool
fc_take_option_reply(struct fc_session *s)
{
	struct option_reply r;
	struct fc_receiving m = { .kind = MSG_OPTION_REPLY, .option_reply = &r, .op = TAILQ_FIRST(&s->ops) };

	if (!fc_has(s, OPTION_REPLY_HEADER_SIZE))
		return false;
	wire_get_option_reply(fc_input(s), &r);
	if (s->aborting)
		return take_abort_reply(s);
	if (!fc_sound(s, r.magic == NBD_OPTION_REPLY_MAGIC, "the magic of an option reply") ||
	    !fc_sound(s, s->in_option && m.op != NULL, "a reply to nothing") ||
	    !fc_sound(s, r.option == s->option, "a reply to another option") ||
	    !fc_sound(s, r.length <= FC_OPTION_REPLY_MOST, "the length of an option reply"))
		return false;
	s->want = OPTION_REPLY_HEADER_SIZE + (size_t)r.length;
	if (!fc_has(s, s->want))
		return false;
	s->in_at += s->want;
	fc_lie_receiving(s, &m);
	if (m.leave)
		fc_over(s, "EPROTO");
	if (m.leave || m.op == NULL || (!m.ignore && !act_on_reply(s, m.op, &r)))
		return s->stage != FC_OVER;
	fc_next_option(s);
	return true;
}

bool
fc_take_export_name_reply(struct fc_session *s)
{
	size_t padding = s->facts.no_zeroes ? 0 : NBD_EXPORT_NAME_PADDING;
	struct export_name_reply r;
	struct fc_receiving m = { .kind = MSG_EXPORT_NAME_REPLY, .export_name_reply = &r, .op = TAILQ_FIRST(&s->ops) };

	if (!fc_has(s, EXPORT_NAME_REPLY_SIZE + padding))
		return false;
	wire_get_export_name_reply(wire(fc_input(s).at, EXPORT_NAME_REPLY_SIZE + padding), &r);
	s->in_at += EXPORT_NAME_REPLY_SIZE + padding;
	fc_lie_receiving(s, &m);
	s->facts.export.known = true;
	s->facts.export.size = r.size;
	s->facts.export.flags = r.flags;
	enter_transmission(s);
	return true;
}
