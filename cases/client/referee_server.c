/*
 * What the server said, for what the client may do; and whether the server may say so, since after a breach of its own
 * the client may leave without a word (proto.md:243, 447). This errs to the client's side: no accusation rests on it.
 */
#include "cases/client/referee_private.h"

#include "harness/nbd.h"
#include "harness/printable.h"

#include <string.h>

/* ---- breaches ---- */

static void
blame(struct session *s, bool broken)
{
	s->server_broke |= broken;
}

/* The client may have read it in another way, or not at all. */
static void
blur(struct session *s, bool broken)
{
	s->server_broke |= broken;
	s->blurred |= broken;
	if (broken)
		s->terms.known = false;
}

static bool
is_power_of_two(uint32_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

static bool
is_sound_block_size(const struct info_block_size *b)
{
	return is_power_of_two(b->minimum) && b->minimum <= 65536 && is_power_of_two(b->preferred) &&
	       b->preferred >= 512 && b->preferred >= b->minimum && b->maximum >= b->preferred;
}

static bool
is_sound_flags(const struct session *s, uint16_t flags)
{
	return (flags & NBD_FLAG_HAS_FLAGS) != 0 && (in_chunks(s) || (flags & NBD_FLAG_SEND_DF) == 0) &&
	       (s->extended || (flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD) == 0) &&
	       ((flags & NBD_FLAG_SEND_FAST_ZERO) == 0 || (flags & NBD_FLAG_SEND_WRITE_ZEROES) != 0);
}

static bool
is_sound_string(struct bytes text)
{
	return text.len <= NBD_MAX_STRING && is_utf8(text.at, text.len) &&
	       (text.len == 0 || memchr(text.at, '\0', text.len) == NULL);
}

bool
same_export(const struct buf *a, const struct buf *b)
{
	return a->len == b->len && (a->len == 0 || memcmp(a->at, b->at, a->len) == 0);
}

/* The payload behind a header of this size: of a long message the trace keeps the beginning, and nobody blames the server. */
static struct bytes
kept_payload(const struct trace_record *r, size_t header)
{
	return (struct bytes){ r->data.at + header, r->data.len > header ? r->data.len - header : 0 };
}

static bool
is_cut(const struct trace_record *r)
{
	return r->data.len < r->length;
}

/* ---- entering transmission ---- */

static void
enter_transmission(struct session *s, uint64_t size, uint16_t flags)
{
	if (s->stage != STAGE_LOST && s->stage != STAGE_DISCONNECTED)
		s->stage = STAGE_TRANSMISSION;
	s->awaits_reply = false;
	s->terms.known = !s->blurred;
	s->terms.size = size;
	s->terms.flags = flags;
	s->terms.has_contexts =
		in_chunks(s) && s->set_contexts && s->n_selected > 0 && same_export(&s->context_name, &s->name);
	blame(s, !is_sound_flags(s, flags));
}

static void
hear_oldstyle(struct session *s, struct wire w)
{
	struct oldstyle_greeting m;
	enum wire_end end = wire_get_oldstyle_greeting(w, &m);

	s->oldstyle = true;
	s->stage = STAGE_TRANSMISSION;
	blur(s, end != WIRE_EXACT || m.magic != NBD_MAGIC || m.cliserv_magic != NBD_CLISERV_MAGIC);
	enter_transmission(s, m.size, (uint16_t)m.flags);
	/* No handshake flag may be among them (proto.md:1065). */
	blame(s, m.flags >> 16 != 0);
}

static void
hear_greeting(struct session *s, struct wire w)
{
	const uint16_t known = NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES;
	struct greeting m;
	enum wire_end end = wire_get_greeting(w, &m);

	s->stage = STAGE_CLIENT_FLAGS;
	blur(s, end != WIRE_EXACT || m.magic != NBD_MAGIC || m.option_magic != NBD_OPTION_MAGIC);
	s->server_fixed = (m.flags & NBD_FLAG_FIXED_NEWSTYLE) != 0;
	s->no_zeroes = (m.flags & NBD_FLAG_NO_ZEROES) != 0;
	blame(s, (m.flags & ~known) != 0);
}

static void
hear_export_name_reply(struct session *s, struct wire w)
{
	struct export_name_reply m;
	enum wire_end end = wire_get_export_name_reply(w, &m);

	blur(s, end != WIRE_EXACT || m.padding.len != (s->no_zeroes ? 0 : NBD_EXPORT_NAME_PADDING));
	enter_transmission(s, m.size, m.flags);
}

/* ---- option replies ---- */

static void
hear_info(struct session *s, struct bytes data)
{
	struct info_block_size block;
	struct info_export export;
	struct rep_info m;

	blur(s, wire_get_rep_info(wire_over(data), &m) != WIRE_EXACT);
	if (m.type == NBD_INFO_EXPORT) {
		blur(s, wire_get_info_export(wire_over(m.payload), &export) != WIRE_EXACT || s->has_info);
		s->info = export;
		s->has_info = true;
	} else if (m.type == NBD_INFO_BLOCK_SIZE) {
		blur(s, wire_get_info_block_size(wire_over(m.payload), &block) != WIRE_EXACT || s->has_block);
		blame(s, !is_sound_block_size(&block));
		s->block = block;
		s->has_block = is_sound_block_size(&block);
	} else {
		blame(s, m.type <= NBD_INFO_DESCRIPTION && !is_sound_string(m.payload));
	}
}

static void
hear_context(struct session *s, struct bytes data)
{
	struct rep_meta_context m;

	blur(s, wire_get_rep_meta_context(wire_over(data), &m) == WIRE_SHORT);
	blame(s, !is_sound_string(m.name));
	s->n_contexts++;
}

static void
hear_ack(struct session *s)
{
	switch (s->option) {
	case NBD_OPT_GO:
		blur(s, !s->has_info);
		s->terms.constrained = s->asked_block_size && s->has_block;
		s->terms.block = s->block;
		enter_transmission(s, s->info.size, s->info.flags);
		break;
	case NBD_OPT_INFO:
		blame(s, !s->has_info);
		break;
	case NBD_OPT_STRUCTURED_REPLY:
		s->structured = true;
		break;
	case NBD_OPT_EXTENDED_HEADERS:
		s->extended = true;
		break;
	case NBD_OPT_SET_META_CONTEXT:
		s->n_selected = s->n_contexts;
		break;
	case NBD_OPT_STARTTLS:
		/* All that was agreed before is void (proto.md:1236). */
		s->tls = s->awaits_tls = true;
		s->structured_before_tls |= s->structured;
		s->contexts_before_tls |= s->n_selected > 0;
		s->extended_before_tls |= s->extended;
		s->structured = s->extended = s->set_contexts = false;
		s->n_selected = 0;
		break;
	}
}

/* The option as such is refused, and not only for this export, or as it was asked for. */
static bool
refuses_option(uint32_t type)
{
	return type != NBD_REP_ERR_UNKNOWN && type != NBD_REP_ERR_TLS_REQD && type != NBD_REP_ERR_BLOCK_SIZE_REQD &&
	       type != NBD_REP_ERR_SHUTDOWN;
}

static void
hear_option_error(struct session *s, const struct option_reply *m)
{
	s->shutdown |= m->type == NBD_REP_ERR_SHUTDOWN && s->stage == STAGE_HAGGLING;
	if (s->option == NBD_OPT_GO) {
		/* With extended headers there is no way but NBD_OPT_GO (ext:1443). */
		s->go_unsupported = m->type == NBD_REP_ERR_UNSUP && !s->extended;
		blame(s, m->type == NBD_REP_ERR_UNSUP && s->extended);
		s->go_refused |= refuses_option(m->type);
	}
	s->info_refused |= s->option == NBD_OPT_INFO && refuses_option(m->type);
	s->starttls_refused |= s->option == NBD_OPT_STARTTLS;
	s->tls_demanded |= m->type == NBD_REP_ERR_TLS_REQD;
	blame(s, m->data.len > NBD_MAX_STRING || s->option == NBD_OPT_ABORT ||
	                 (m->type == NBD_REP_ERR_BLOCK_SIZE_REQD && s->asked_block_size));
}

static void
hear_listed(struct session *s, struct bytes data)
{
	struct rep_server m;

	blur(s, wire_get_rep_server(wire_over(data), &m) == WIRE_SHORT);
	blame(s, !is_sound_string(m.name) || !is_sound_string(m.details));
}

static void
hear_option_reply(struct session *s, const struct trace_record *r)
{
	struct option_reply m;
	enum wire_end end = wire_get_option_reply(wire_over(r->data), &m);
	bool sets = s->option == NBD_OPT_SET_META_CONTEXT;

	if (is_cut(r))
		m.data = kept_payload(r, OPTION_REPLY_HEADER_SIZE);
	blur(s, (end != WIRE_EXACT && !is_cut(r)) || m.magic != NBD_OPTION_REPLY_MAGIC);
	blame(s, !s->awaits_reply || m.option != s->option);
	if (m.type == NBD_REP_INFO) {
		blame(s, s->option != NBD_OPT_INFO && s->option != NBD_OPT_GO);
		hear_info(s, m.data);
	} else if (m.type == NBD_REP_META_CONTEXT) {
		blame(s, !sets && s->option != NBD_OPT_LIST_META_CONTEXT);
		hear_context(s, m.data);
	} else if (m.type == NBD_REP_SERVER) {
		blame(s, s->option != NBD_OPT_LIST);
		hear_listed(s, m.data);
	} else if (m.type == NBD_REP_ACK) {
		blame(s, m.data.len > 0);
		s->awaits_reply = false;
		hear_ack(s);
	} else if ((m.type & NBD_REP_ERROR_BIT) != 0) {
		s->awaits_reply = false;
		hear_option_error(s, &m);
	} else {
		blame(s, true);
	}
}

/* ---- replies to requests ---- */

struct pending *
pending_of(struct session *s, uint64_t cookie)
{
	for (size_t i = 0; i < s->n_pending; i++)
		if (s->pending[i].cookie == cookie)
			return &s->pending[i];
	return NULL;
}

static void
remove_pending(struct session *s, struct pending *p)
{
	*p = s->pending[--s->n_pending];
}

static void
hear_error(struct session *s, uint32_t error)
{
	static const uint32_t defined[] = { NBD_SUCCESS, NBD_EPERM,     NBD_EIO,     NBD_ENOMEM,   NBD_EINVAL,
		                            NBD_ENOSPC,  NBD_EOVERFLOW, NBD_ENOTSUP, NBD_ESHUTDOWN };
	bool found = false;

	for (size_t i = 0; i < sizeof(defined) / sizeof(defined[0]); i++)
		found |= error == defined[i];
	s->unexpected_error |= !found;
	s->eshutdown |= error == NBD_ESHUTDOWN;
}

static void
hear_simple_reply(struct session *s, struct wire w, uint32_t length)
{
	struct simple_reply m;
	enum wire_end end = wire_get_simple_reply(w, &m);
	struct pending *p = pending_of(s, m.cookie);
	uint32_t payload = length - SIMPLE_REPLY_SIZE;

	blur(s, end != WIRE_EXACT || m.magic != NBD_SIMPLE_REPLY_MAGIC);
	if (p == NULL) {
		blur(s, true);
		return;
	}
	hear_error(s, m.error);
	blur(s, payload != (p->type == NBD_CMD_READ && m.error == NBD_SUCCESS ? p->length : 0));
	blame(s, s->extended || (s->structured && p->type == NBD_CMD_READ));
	blame(s, p->type == NBD_CMD_BLOCK_STATUS && m.error == NBD_SUCCESS);
	/* What is so long may be called a denial of service (proto.md:846). */
	blame(s, payload > NBD_DEFAULT_MAX_PAYLOAD);
	remove_pending(s, p);
}

static bool
lies_within(const struct pending *p, uint64_t offset, uint64_t length)
{
	return length > 0 && offset >= p->offset && offset - p->offset <= p->length &&
	       length <= p->length - (offset - p->offset);
}

static void
hear_content(struct session *s, struct pending *p, const struct chunk *m)
{
	struct chunk_offset_data data;
	struct chunk_offset_hole hole;
	uint64_t offset, length;

	if (m->type == NBD_REPLY_TYPE_OFFSET_DATA) {
		blur(s, wire_get_chunk_offset_data(wire_over(m->data), &data) != WIRE_EXACT);
		offset = data.offset;
		length = m->length < 8 ? 0 : m->length - 8;
	} else {
		blur(s, wire_get_chunk_offset_hole(wire_over(m->data), &hole) != WIRE_EXACT);
		offset = hole.offset;
		length = hole.size;
	}
	p->content += length;
	p->contents++;
	blame(s, p->type != NBD_CMD_READ || !lies_within(p, offset, length) || p->content > p->length ||
	                 (p->contents > 1 && (p->flags & NBD_CMD_FLAG_DF) != 0));
}

static void
hear_status(struct session *s, struct pending *p, const struct chunk *m)
{
	bool wide = m->type == NBD_REPLY_TYPE_BLOCK_STATUS_EXT;
	struct chunk_block_status status;
	struct chunk_block_status_ext ext;
	uint64_t before_last = 0;
	enum wire_end end;
	size_t n;

	end = wide ? wire_get_chunk_block_status_ext(wire_over(m->data), &ext)
	           : wire_get_chunk_block_status(wire_over(m->data), &status);
	n = wide ? ext.extents.len / EXTENT_EXT_SIZE : status.extents.len / EXTENT_SIZE;
	blur(s, (end != WIRE_EXACT || (wide && ext.count != n)) && m->data.len == m->length);
	blame(s, wide != s->extended);
	for (size_t i = 0; i < n; i++) {
		struct extent e = wide ? chunk_extent_ext(&ext, i) : chunk_extent(&status, i);

		blame(s, e.length == 0);
		before_last += i + 1 < n ? e.length : 0;
		blame(s, (p->flags & NBD_CMD_FLAG_REQ_ONE) != 0 && e.length > p->length);
	}
	p->statuses++;
	blame(s, p->type != NBD_CMD_BLOCK_STATUS || (n > 1 && before_last >= p->length) ||
	                 p->statuses > p->owed_statuses || (n > 1 && (p->flags & NBD_CMD_FLAG_REQ_ONE) != 0));
}

static void
hear_error_chunk(struct session *s, struct pending *p, const struct chunk *m)
{
	struct chunk_error_offset at;
	struct chunk_error error;

	p->failed = true;
	blame(s, wire_get_chunk_error(wire_over(m->data), &error) == WIRE_SHORT || error.error == NBD_SUCCESS ||
	                 error.message.len > NBD_MAX_STRING);
	hear_error(s, error.error);
	if (m->type == NBD_REPLY_TYPE_ERROR_OFFSET)
		blame(s, wire_get_chunk_error_offset(wire_over(m->data), &at) != WIRE_EXACT || at.offset < p->offset ||
		                 at.offset - p->offset > p->length);
	else
		blame(s, m->type != NBD_REPLY_TYPE_ERROR);
}

static bool
is_complete(const struct pending *p)
{
	return p->failed || ((p->type != NBD_CMD_READ || p->content == p->length) &&
	                     (p->type != NBD_CMD_BLOCK_STATUS || p->statuses == p->owed_statuses));
}

static void
hear_chunk(struct session *s, const struct trace_record *r)
{
	bool extended = r->message == MSG_EXTENDED_CHUNK;
	struct chunk m;
	enum wire_end end =
		extended ? wire_get_extended_chunk(wire_over(r->data), &m) : wire_get_chunk(wire_over(r->data), &m);
	struct pending *p = pending_of(s, m.cookie);
	bool final = (m.flags & NBD_REPLY_FLAG_DONE) != 0;

	if (is_cut(r))
		m.data = kept_payload(r, extended ? EXTENDED_CHUNK_HEADER_SIZE : CHUNK_HEADER_SIZE);
	blur(s, (end != WIRE_EXACT && !is_cut(r)) || extended != s->extended ||
	                m.magic != (extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC));
	if (p == NULL) {
		blur(s, true);
		return;
	}
	blame(s, !in_chunks(s) || (extended && m.offset != p->offset) || (m.flags & ~NBD_REPLY_FLAG_DONE) != 0 ||
	                 m.length > NBD_DEFAULT_MAX_PAYLOAD + 8);
	if ((m.type & 0x8000) != 0)
		hear_error_chunk(s, p, &m);
	else if (m.type == NBD_REPLY_TYPE_OFFSET_DATA || m.type == NBD_REPLY_TYPE_OFFSET_HOLE)
		hear_content(s, p, &m);
	else if (m.type == NBD_REPLY_TYPE_BLOCK_STATUS || m.type == NBD_REPLY_TYPE_BLOCK_STATUS_EXT)
		hear_status(s, p, &m);
	else
		blame(s, m.type != NBD_REPLY_TYPE_NONE || m.length != 0 || !final);
	if (!final)
		return;
	blame(s, !is_complete(p));
	remove_pending(s, p);
}

void
hear_server(struct session *s, const struct trace_record *r)
{
	struct wire w = wire_over(r->data);

	switch (r->message) {
	case MSG_OLDSTYLE_GREETING:
		hear_oldstyle(s, w);
		break;
	case MSG_GREETING:
		hear_greeting(s, w);
		break;
	case MSG_OPTION_REPLY:
		hear_option_reply(s, r);
		break;
	case MSG_EXPORT_NAME_REPLY:
		hear_export_name_reply(s, w);
		break;
	case MSG_SIMPLE_REPLY:
		hear_simple_reply(s, w, r->length);
		break;
	case MSG_CHUNK:
	case MSG_EXTENDED_CHUNK:
		hear_chunk(s, r);
		break;
	default:
		blur(s, r->length > 0);
	}
}
