/* Option haggling: each option is answered, and the next one is still understood (proto.md:2418-2420). */
#include "fakeserver/core.h"

#include "harness/nbd.h"

#include <string.h>

/* Why an option is refused; sent only under the knob error_messages (proto.md:1646). */
void
option_error(struct conn *c, uint32_t type, const char *why)
{
	struct outgoing m = OUTGOING(MSG_OPTION_REPLY);

	m.reply = (struct option_reply){ .magic = NBD_OPTION_REPLY_MAGIC, .option = c->option, .type = type };
	m.option = c->option;
	m.final = true;
	m.payload = PAYLOAD_MESSAGE;
	if (knob(c, KNOB_error_messages))
		m.message = bytes_of(why);
	outgoing_send(c, &m);
}

struct outgoing
option_reply_start(const struct conn *c, uint32_t type, enum outgoing_payload payload)
{
	struct outgoing m = OUTGOING(MSG_OPTION_REPLY);

	m.reply = (struct option_reply){ .magic = NBD_OPTION_REPLY_MAGIC, .option = c->option, .type = type };
	m.option = c->option;
	m.payload = payload;
	return m;
}

void
option_ack(struct conn *c)
{
	struct outgoing m = option_reply_start(c, NBD_REP_ACK, PAYLOAD_RAW);

	m.final = true;
	outgoing_send(c, &m);
}

/* The option breaks a MUST: an error owed by name, or, as freely, a hard disconnect (proto.md:243). */
void
option_refuse_invalid(struct conn *c, const char *why)
{
	if (knob(c, KNOB_bad_option_closes))
		conn_end(c);
	else
		option_error(c, NBD_REP_ERR_INVALID, why);
}

/* Without a name the default export is meant, which is the first one where none is called so (proto.md:1176). */
struct fake_export *
export_named(const struct conn *c, struct bytes name)
{
	struct fake_config *config = c->server->config;

	for (size_t i = 0; i < config->n_exports; i++)
		if (bytes_equal(bytes_of(config->exports[i].name), name))
			return &config->exports[i];
	return name.len == 0 && config->n_exports > 0 ? &config->exports[0] : NULL;
}

/* Sizes that a client must know of, or its requests are refused (proto.md:774-806). */
static bool
is_constrained(const struct fake_export *e)
{
	struct info_block_size block = export_block(e);

	return block.minimum > 1 || block.maximum < NBD_DEFAULT_MAX_PAYLOAD;
}

static void
handle_export_name(struct conn *c, const struct option *o)
{
	struct outgoing m = OUTGOING(MSG_EXPORT_NAME_REPLY);
	struct fake_export *e = o->length <= NBD_MAX_STRING ? export_named(c, o->data) : NULL;

	c->named = e;
	/* Who has extended headers must not ask in this way (ext:1295). */
	if (e == NULL || c->extended || tls_is_required(c, e) ||
	    (is_constrained(e) && !knob(c, KNOB_block_sizes_optional))) {
		conn_end(c);
		return;
	}
	m.export_name = (struct export_name_reply){ .size = e->size, .flags = session_flags(c, e) };
	m.padding = c->no_zeroes ? 0 : NBD_EXPORT_NAME_PADDING;
	m.option = c->option;
	m.final = true;
	outgoing_send(c, &m);
	conn_enter_transmission(c, e);
}

static void
handle_list(struct conn *c, const struct option *o)
{
	const struct fake_config *config = c->server->config;

	if (o->length > 0) {
		option_refuse_invalid(c, "NBD_OPT_LIST takes no data");
		return;
	}
	if (knob(c, KNOB_list_denied)) {
		option_error(c, NBD_REP_ERR_POLICY, "this server does not tell its exports");
		return;
	}
	for (size_t i = 0; i < config->n_exports; i++) {
		const struct fake_export *e = &config->exports[i];
		struct outgoing m = option_reply_start(c, NBD_REP_SERVER, PAYLOAD_SERVER);

		m.server.name = bytes_of(e->name);
		if (knob(c, KNOB_list_descriptions) && e->description != NULL)
			m.server.details = bytes_of(e->description);
		outgoing_send(c, &m);
	}
	option_ack(c);
}

static void
handle_structured_reply(struct conn *c, const struct option *o)
{
	if (o->length > 0)
		option_refuse_invalid(c, "NBD_OPT_STRUCTURED_REPLY takes no data");
	else if (knob(c, KNOB_no_structured_replies))
		option_error(c, NBD_REP_ERR_UNSUP, "this server has simple replies only");
	else if (c->extended && !knob(c, KNOB_extended_keeps_structured))
		option_error(c, NBD_REP_ERR_EXT_HEADER_REQD, "extended headers were agreed before");
	else if (c->structured && knob(c, KNOB_second_structured_invalid))
		option_error(c, NBD_REP_ERR_INVALID, "structured replies were agreed before");
	else {
		c->structured = true;
		option_ack(c);
	}
}

bool
offers_extended(const struct conn *c)
{
	return knob(c, KNOB_extended_headers) || knob(c, KNOB_extended_without_payload) ||
	       knob(c, KNOB_extended_wants_block_size) || knob(c, KNOB_extended_keeps_structured) ||
	       knob(c, KNOB_extended_twice_invalid) || knob(c, KNOB_bare_writes_refused) ||
	       knob(c, KNOB_wide_contexts) || knob(c, KNOB_wide_contexts_refused);
}

/* ext:1656-1696. */
static void
handle_extended_headers(struct conn *c, const struct option *o)
{
	if (!offers_extended(c))
		option_error(c, NBD_REP_ERR_UNSUP, "this server has compact headers only");
	else if (o->length > 0)
		option_refuse_invalid(c, "NBD_OPT_EXTENDED_HEADERS takes no data");
	else if (c->extended && knob(c, KNOB_extended_twice_invalid))
		option_error(c, NBD_REP_ERR_INVALID, "extended headers were agreed before");
	else {
		c->extended = true;
		option_ack(c);
	}
}

/* ---- NBD_OPT_INFO and NBD_OPT_GO ---- */

enum { ALL_INFOS = 1 << NBD_INFO_EXPORT | 1 << NBD_INFO_NAME | 1 << NBD_INFO_DESCRIPTION | 1 << NBD_INFO_BLOCK_SIZE };

static void
send_info(struct conn *c, const struct fake_export *e, struct bytes asked, uint16_t type)
{
	struct outgoing m = option_reply_start(c, NBD_REP_INFO, PAYLOAD_INFO);

	m.info.type = type;
	switch (type) {
	case NBD_INFO_EXPORT:
		m.payload = PAYLOAD_INFO_EXPORT;
		m.info_export = (struct info_export){ e->size, session_flags(c, e) };
		break;
	case NBD_INFO_NAME:
		if (knob(c, KNOB_info_name_omitted) && bytes_equal(asked, bytes_of(e->name)))
			return;
		m.info.payload = bytes_of(e->name);
		break;
	case NBD_INFO_DESCRIPTION:
		if (e->description == NULL)
			return;
		m.info.payload = bytes_of(e->description);
		break;
	default:
		m.payload = PAYLOAD_INFO_BLOCK_SIZE;
		m.block_size = export_block(e);
	}
	outgoing_send(c, &m);
}

/* Unknown requests are ignored (proto.md:1277); none is answered twice (proto.md:1560). */
static unsigned
infos_asked(const struct opt_go *go)
{
	unsigned set = 0;

	for (size_t i = 0; i < go->n_infos; i++)
		if (opt_go_info(go, i) <= NBD_INFO_BLOCK_SIZE)
			set |= 1u << opt_go_info(go, i);
	return set;
}

static void
send_infos(struct conn *c, const struct fake_export *e, struct bytes name, unsigned asked)
{
	unsigned set = asked | 1u << NBD_INFO_EXPORT;

	if (knob(c, KNOB_unasked_infos))
		set = ALL_INFOS;
	/* Sizes that we enforce must be told to who asks for them (proto.md:1619). */
	if (knob(c, KNOB_few_infos))
		set = 1u << NBD_INFO_EXPORT | (is_constrained(e) ? asked & 1u << NBD_INFO_BLOCK_SIZE : 0);
	for (unsigned i = NBD_INFO_EXPORT; i <= NBD_INFO_BLOCK_SIZE; i++) {
		bool reversed =
			knob(c, KNOB_infos_reversed) || (knob(c, KNOB_go_infos_reversed) && c->option == NBD_OPT_GO);
		unsigned type = reversed ? NBD_INFO_BLOCK_SIZE - i : i;

		if ((set & 1u << type) != 0)
			send_info(c, e, name, (uint16_t)type);
	}
}

bool
is_string(struct bytes s)
{
	return s.len <= NBD_MAX_STRING && (s.len == 0 || memchr(s.at, '\0', s.len) == NULL);
}

static bool
answer_go(struct conn *c, struct fake_export *e, struct bytes name, unsigned asked)
{
	bool wanted = (is_constrained(e) && !knob(c, KNOB_block_sizes_optional)) ||
	              (c->extended && knob(c, KNOB_extended_wants_block_size));

	/* The error without the sizes would cost the client a round trip (proto.md:1318). */
	if (wanted && (asked & 1u << NBD_INFO_BLOCK_SIZE) == 0) {
		send_info(c, e, name, NBD_INFO_BLOCK_SIZE);
		option_error(c, NBD_REP_ERR_BLOCK_SIZE_REQD, "ask for NBD_INFO_BLOCK_SIZE and obey it");
		return false;
	}
	send_infos(c, e, name, asked);
	option_ack(c);
	if (c->option == NBD_OPT_GO)
		conn_enter_transmission(c, e);
	return true;
}

/* A successful INFO binds the very next GO, if that has the same parameters, and no other (proto.md:1339-1347). */
static bool
is_other_go(const struct conn *c, const struct option *o)
{
	const struct conn_private *p = c->private;

	return o->option == NBD_OPT_GO && p->has_info &&
	       !(p->info_was_last && bytes_equal(o->data, (struct bytes){ p->info.at, p->info.len }));
}

static void
remember_info(struct conn *c, const struct option *o)
{
	struct conn_private *p = c->private;

	buf_clear(&p->info);
	put_bytes(&p->info, o->data);
	p->has_info = p->info_was_last = true;
}

static void
handle_go(struct conn *c, const struct option *o)
{
	bool other = is_other_go(c, o);
	struct opt_go go;

	if (o->length > OPTION_DATA_MAX) {
		option_error(c, NBD_REP_ERR_TOO_BIG, "more data than any valid request has");
		return;
	}
	if (wire_get_opt_go(wire_over(o->data), &go) != WIRE_EXACT) {
		option_refuse_invalid(c, "the lengths do not agree");
		return;
	}
	if (!is_string(go.name)) {
		option_refuse_invalid(c, "a name has at most 4096 bytes, and no NUL");
		return;
	}
	c->named = export_named(c, go.name);
	if (c->named == NULL)
		option_error(c, NBD_REP_ERR_UNKNOWN, "there is no export of this name");
	else if (tls_is_required(c, c->named))
		option_error(c, NBD_REP_ERR_TLS_REQD, "this export is for TLS only");
	else if (other && knob(c, KNOB_other_go_fails)) {
		c->private->has_info = false;
		option_error(c, NBD_REP_ERR_POLICY, "this is not what was asked for before");
	} else {
		c->private->go_differs = other && knob(c, KNOB_other_go_differs);
		if (answer_go(c, c->named, go.name, infos_asked(&go)) && o->option == NBD_OPT_INFO)
			remember_info(c, o);
	}
}

/* ---- any option ---- */

static void
handle_fixed(struct conn *c, const struct option *o)
{
	switch (o->option) {
	case NBD_OPT_EXPORT_NAME:
		handle_export_name(c, o);
		break;
	case NBD_OPT_ABORT:
		/* Data with it is ignored (proto.md:1198). */
		option_ack(c);
		conn_end(c);
		break;
	case NBD_OPT_LIST:
		handle_list(c, o);
		break;
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		handle_go(c, o);
		break;
	case NBD_OPT_STRUCTURED_REPLY:
		handle_structured_reply(c, o);
		break;
	case NBD_OPT_EXTENDED_HEADERS:
		handle_extended_headers(c, o);
		break;
	case NBD_OPT_STARTTLS:
		handle_starttls(c, o);
		break;
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		handle_meta_context(c, o);
		break;
	default:
		option_error(c, NBD_REP_ERR_UNSUP, "this server does not know the option");
	}
}

/* FORCEDTLS; EXPORT_NAME cannot be answered by an error (proto.md:585-594). */
static void
refuse_in_clear(struct conn *c, const struct option *o)
{
	if (o->option == NBD_OPT_EXPORT_NAME)
		conn_end(c);
	else
		option_error(c, NBD_REP_ERR_TLS_REQD, "this server wants NBD_OPT_STARTTLS first");
}

void
handle_option(struct conn *c, const struct option *o)
{
	if (o->magic != NBD_OPTION_MAGIC) {
		if (knob(c, KNOB_bad_option_magic_replies) && c->fixed_newstyle && o->option != NBD_OPT_EXPORT_NAME)
			option_error(c, NBD_REP_ERR_INVALID, "the option's magic is wrong");
		else
			conn_end(c);
		return;
	}
	if (++c->private->n_options > OPTIONS_MOST && knob(c, KNOB_haggling_limited)) {
		conn_end(c);
		return;
	}
	/* The only option of newstyle that is not fixed (proto.md:1180), which knows no replies to others. */
	if (!c->fixed_newstyle && o->option != NBD_OPT_EXPORT_NAME) {
		conn_end(c);
		return;
	}
	if (o->option != NBD_OPT_GO)
		c->private->info_was_last = false;
	if (tls_is_required(c, NULL) && o->option != NBD_OPT_STARTTLS && o->option != NBD_OPT_ABORT)
		refuse_in_clear(c, o);
	else if (o->option == NBD_OPT_ABORT || !is_shut_down(c, KNOB_shutdown_serves_option))
		handle_fixed(c, o);
	else if (o->option == NBD_OPT_EXPORT_NAME)
		conn_end(c);
	else
		option_error(c, NBD_REP_ERR_SHUTDOWN, "the server is being shut down");
}
