#include "fakeserver/event_log.h"

#include "harness/names.h"
#include "harness/nbd.h"
#include "harness/printable.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

/* ---- values ---- */

static void
put_text(json_t *o, const char *key, struct bytes s)
{
	char *text = printable(s.at, s.len);

	json_object_set_new(o, key, json_string(text));
	free(text);
}

/* Sizes and offsets of a protocol of 64 bits: what JSON's signed numbers cannot hold is text. */
static json_t *
number(uint64_t n)
{
	char text[32];

	snprintf(text, sizeof(text), "0x%" PRIx64, n);
	return n <= INT64_MAX ? json_integer((json_int_t)n) : json_string(text);
}

static void
put_number(json_t *o, const char *key, uint64_t n)
{
	json_object_set_new(o, key, number(n));
}

static void
put_hex(json_t *o, const char *key, uint64_t n)
{
	char text[32];

	snprintf(text, sizeof(text), "0x%" PRIx64, n);
	json_object_set_new(o, key, json_string(text));
}

static void
put_name(json_t *o, const char *key, enum name_kind kind, uint64_t value)
{
	if (name_of(kind, value) != NULL)
		json_object_set_new(o, key, json_string(name_of(kind, value)));
	else
		put_number(o, key, value);
}

static void
put_flags(json_t *o, const char *key, enum name_kind kind, uint64_t flags)
{
	char text[NAME_MAX_TEXT];

	json_object_set_new(o, key, json_string(name_flags(kind, flags, text)));
}

/* ---- the handshake ---- */

static void
put_queries(json_t *o, struct wire w)
{
	json_t *queries = json_array();
	struct opt_meta_context m;

	if (wire_get_opt_meta_context(w, &m) == WIRE_SHORT) {
		json_decref(queries);
		return;
	}
	put_text(o, "name", m.name);
	w = wire_over(m.queries);
	for (uint32_t i = 0; i < m.n_queries; i++) {
		struct bytes query = opt_meta_context_query(&w);
		char *text = printable(query.at, query.len);

		json_array_append_new(queries, json_string(text));
		free(text);
	}
	json_object_set_new(o, "queries", queries);
}

static void
put_option(json_t *o, struct wire w)
{
	struct option m;
	struct opt_go go;

	wire_get_option(w, &m);
	put_name(o, "option", NAME_OPTION, m.option);
	put_number(o, "length", m.length);
	if (m.option == NBD_OPT_EXPORT_NAME)
		put_text(o, "name", m.data);
	else if ((m.option == NBD_OPT_GO || m.option == NBD_OPT_INFO) &&
	         wire_get_opt_go(wire_over(m.data), &go) == WIRE_EXACT)
		put_text(o, "name", go.name);
	else if (m.option == NBD_OPT_LIST_META_CONTEXT || m.option == NBD_OPT_SET_META_CONTEXT)
		put_queries(o, wire_over(m.data));
}

static void
put_info(json_t *o, struct wire w)
{
	struct info_block_size block;
	struct info_export export;
	struct rep_info info;

	wire_get_rep_info(w, &info);
	put_name(o, "info", NAME_INFO, info.type);
	if (info.type == NBD_INFO_EXPORT && wire_get_info_export(wire_over(info.payload), &export) == WIRE_EXACT) {
		put_number(o, "size", export.size);
		put_flags(o, "flags", NAME_TRANSMISSION_FLAG, export.flags);
	} else if (info.type == NBD_INFO_BLOCK_SIZE &&
	           wire_get_info_block_size(wire_over(info.payload), &block) == WIRE_EXACT) {
		put_number(o, "minimum", block.minimum);
		put_number(o, "preferred", block.preferred);
		put_number(o, "maximum", block.maximum);
	} else {
		put_text(o, "text", info.payload);
	}
}

static void
put_option_reply(json_t *o, struct wire w)
{
	struct rep_meta_context context;
	struct rep_server server;
	struct option_reply m;

	wire_get_option_reply(w, &m);
	put_name(o, "option", NAME_OPTION, m.option);
	put_name(o, "type", NAME_REPLY, m.type);
	put_number(o, "length", m.length);
	w = wire_over(m.data);
	if (m.type == NBD_REP_SERVER && wire_get_rep_server(w, &server) != WIRE_SHORT) {
		put_text(o, "name", server.name);
	} else if (m.type == NBD_REP_INFO) {
		put_info(o, w);
	} else if (m.type == NBD_REP_META_CONTEXT && wire_get_rep_meta_context(w, &context) != WIRE_SHORT) {
		put_number(o, "id", context.id);
		put_text(o, "context", context.name);
	} else if ((m.type & NBD_REP_ERROR_BIT) != 0) {
		put_text(o, "text", m.data);
	}
}

static void
put_greeting(json_t *o, enum message_kind kind, struct wire w)
{
	struct oldstyle_greeting old;
	struct export_name_reply reply;
	struct client_flags client;
	struct greeting g;

	switch (kind) {
	case MSG_GREETING:
		wire_get_greeting(w, &g);
		put_flags(o, "flags", NAME_HANDSHAKE_FLAG, g.flags);
		break;
	case MSG_OLDSTYLE_GREETING:
		wire_get_oldstyle_greeting(w, &old);
		put_number(o, "size", old.size);
		put_flags(o, "flags", NAME_TRANSMISSION_FLAG, old.flags);
		break;
	case MSG_EXPORT_NAME_REPLY:
		wire_get_export_name_reply(w, &reply);
		put_number(o, "size", reply.size);
		put_flags(o, "flags", NAME_TRANSMISSION_FLAG, reply.flags);
		break;
	default:
		wire_get_client_flags(w, &client);
		put_flags(o, "flags", NAME_CLIENT_FLAG, client.flags);
	}
}

/* ---- transmission ---- */

static void
put_request(json_t *o, struct wire w, bool extended)
{
	struct request m;

	if (extended)
		wire_get_extended_request(w, &m);
	else
		wire_get_request(w, &m);
	put_name(o, "command", NAME_COMMAND, m.type);
	put_flags(o, "flags", NAME_COMMAND_FLAG, m.flags);
	put_number(o, "offset", m.offset);
	put_number(o, "length", m.length);
}

static void
put_extent(json_t *extents, struct extent e)
{
	json_array_append_new(extents, json_pack("[o,o]", number(e.length), number(e.flags)));
}

static void
put_extents(json_t *o, struct wire w, bool wide)
{
	json_t *extents = json_array();
	struct chunk_block_status_ext ext = { .count = 0 };
	struct chunk_block_status m = { .context_id = 0 };

	if (wide)
		wire_get_chunk_block_status_ext(w, &ext);
	else
		wire_get_chunk_block_status(w, &m);
	put_number(o, "context", wide ? ext.context_id : m.context_id);
	if (wide)
		put_number(o, "count", ext.count);
	for (size_t i = 0; i < ext.extents.len / EXTENT_EXT_SIZE; i++)
		put_extent(extents, chunk_extent_ext(&ext, i));
	for (size_t i = 0; i < m.extents.len / EXTENT_SIZE; i++)
		put_extent(extents, chunk_extent(&m, i));
	json_object_set_new(o, "extents", extents);
}

static void
put_error(json_t *o, const struct chunk *c)
{
	struct wire w = wire_over(c->data);
	struct chunk_error_offset at;
	struct chunk_error e;

	wire_get_chunk_error(w, &e);
	put_name(o, "error", NAME_ERROR, e.error);
	if (e.message.len > 0)
		put_text(o, "text", e.message);
	if (c->type == NBD_REPLY_TYPE_ERROR_OFFSET && wire_get_chunk_error_offset(w, &at) == WIRE_EXACT)
		put_number(o, "offset", at.offset);
}

static void
put_chunk(json_t *o, struct wire w, bool extended)
{
	struct chunk_offset_hole hole;
	struct chunk m;

	if (extended)
		wire_get_extended_chunk(w, &m);
	else
		wire_get_chunk(w, &m);
	put_name(o, "type", NAME_CHUNK, m.type);
	put_flags(o, "flags", NAME_CHUNK_FLAG, m.flags);
	put_number(o, "length", m.length);
	if (extended)
		put_number(o, "request_offset", m.offset);
	w = wire_over(m.data);
	if ((m.type & 0x8000) != 0) {
		put_error(o, &m);
	} else if (m.type == NBD_REPLY_TYPE_BLOCK_STATUS || m.type == NBD_REPLY_TYPE_BLOCK_STATUS_EXT) {
		put_extents(o, w, m.type == NBD_REPLY_TYPE_BLOCK_STATUS_EXT);
	} else if (m.type == NBD_REPLY_TYPE_OFFSET_DATA) {
		put_number(o, "offset", wire_be64(&w));
	} else if (m.type == NBD_REPLY_TYPE_OFFSET_HOLE && wire_get_chunk_offset_hole(w, &hole) == WIRE_EXACT) {
		put_number(o, "offset", hole.offset);
		put_number(o, "size", hole.size);
	}
}

static void
put_message(json_t *o, const struct trace_record *r)
{
	static const char *const kinds[MSG_KINDS] = {
		"raw",
		"oldstyle-greeting",
		"greeting",
		"client-flags",
		"option",
		"option-reply",
		"export-name-reply",
		"request",
		"simple-reply",
		"chunk",
		"extended-request",
		"extended-chunk",
	};
	struct wire w = wire_over(r->data);
	struct simple_reply simple;

	json_object_set_new(o, "from", json_string(r->direction == TO_SERVER ? "client" : "server"));
	json_object_set_new(o, "message", json_string(kinds[r->message]));
	if (r->message >= MSG_REQUEST)
		put_hex(o, "cookie", r->cookie);
	if (r->message == MSG_OPTION)
		put_option(o, w);
	else if (r->message == MSG_OPTION_REPLY)
		put_option_reply(o, w);
	else if (r->message == MSG_REQUEST || r->message == MSG_EXTENDED_REQUEST)
		put_request(o, w, r->message == MSG_EXTENDED_REQUEST);
	else if (r->message == MSG_CHUNK || r->message == MSG_EXTENDED_CHUNK)
		put_chunk(o, w, r->message == MSG_EXTENDED_CHUNK);
	else if (r->message == MSG_SIMPLE_REPLY) {
		wire_get_simple_reply(w, &simple);
		put_name(o, "error", NAME_ERROR, simple.error);
	} else if (r->message != MSG_RAW)
		put_greeting(o, r->message, w);
	put_number(o, "bytes", r->length);
}

void
event_log(FILE *f, const struct trace_record *r, uint64_t ns_start)
{
	static const char *const events[TRACE_KINDS] = {
		"message", "connect", "closed", "reset", "timeout", "disconnect", "case", "point", "note", "mark",
	};
	json_t *o = json_object();

	json_object_set_new(o, "ms", json_real((double)(r->ns > ns_start ? r->ns - ns_start : 0) / 1e6));
	if (r->connection != 0)
		json_object_set_new(o, "connection", json_integer(r->connection));
	json_object_set_new(o, "event", json_string(events[r->kind]));
	if (r->kind == TRACE_MESSAGE)
		put_message(o, r);
	else if (r->data.len > 0)
		put_text(o, "text", r->data);
	json_dumpf(o, f, JSON_COMPACT | JSON_REAL_PRECISION(9));
	putc('\n', f);
	fflush(f);
	json_decref(o);
}
