/* Messages in words, for transcripts and logs. */
#include "harness/trace.h"

#include "harness/names.h"
#include "harness/nbd.h"
#include "harness/printable.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static void
put_string(FILE *f, const char *what, struct bytes s)
{
	char *text = printable(s.at, s.len < 256 ? s.len : 256);

	fprintf(f, " %s \"%s\"%s", what, text, s.len > 256 ? "…" : "");
	free(text);
}

static void
put_flags(FILE *f, const char *what, enum name_kind kind, uint64_t flags)
{
	char text[NAME_MAX_TEXT];

	fprintf(f, " %s 0x%" PRIx64 " (%s)", what, flags, name_flags(kind, flags, text));
}

static void
put_name(FILE *f, const char *what, enum name_kind kind, uint64_t value)
{
	char text[NAME_MAX_TEXT];

	fprintf(f, "%s%s", what, name_text(kind, value, text));
}

static void
describe_greeting(FILE *f, struct wire w)
{
	struct greeting g;

	wire_get_greeting(w, &g);
	fprintf(f, "greeting, magics 0x%016" PRIx64 " 0x%016" PRIx64 ",", g.magic, g.option_magic);
	put_flags(f, "handshake flags", NAME_HANDSHAKE_FLAG, g.flags);
}

static void
describe_oldstyle(FILE *f, struct wire w)
{
	struct oldstyle_greeting g;

	wire_get_oldstyle_greeting(w, &g);
	fprintf(f, "oldstyle greeting, magics 0x%016" PRIx64 " 0x%016" PRIx64 ", size %" PRIu64 ",", g.magic,
	        g.cliserv_magic, g.size);
	put_flags(f, "flags", NAME_TRANSMISSION_FLAG, g.flags);
}

static void
describe_option(FILE *f, struct wire w)
{
	struct opt_go go;
	struct option o;

	wire_get_option(w, &o);
	put_name(f, "option ", NAME_OPTION, o.option);
	fprintf(f, ", length %" PRIu32, o.length);
	if (o.magic != NBD_OPTION_MAGIC)
		fprintf(f, ", magic 0x%016" PRIx64, o.magic);
	if (o.option == NBD_OPT_EXPORT_NAME && o.data.len > 0)
		put_string(f, "name", o.data);
	if ((o.option == NBD_OPT_INFO || o.option == NBD_OPT_GO) &&
	    wire_get_opt_go(wire_over(o.data), &go) == WIRE_EXACT) {
		put_string(f, "name", go.name);
		fprintf(f, ", %u information requests", go.n_infos);
		for (size_t i = 0; i < go.n_infos && i < 8; i++)
			put_name(f, i == 0 ? ": " : ", ", NAME_INFO, opt_go_info(&go, i));
	}
}

static void
describe_info(FILE *f, struct wire w)
{
	struct info_block_size block;
	struct info_export export;
	struct rep_info info;

	wire_get_rep_info(w, &info);
	put_name(f, " ", NAME_INFO, info.type);
	if (info.type == NBD_INFO_EXPORT && wire_get_info_export(wire_over(info.payload), &export) == WIRE_EXACT) {
		fprintf(f, ", size %" PRIu64 ",", export.size);
		put_flags(f, "flags", NAME_TRANSMISSION_FLAG, export.flags);
	} else if (info.type == NBD_INFO_NAME || info.type == NBD_INFO_DESCRIPTION) {
		put_string(f, "", info.payload);
	} else if (info.type == NBD_INFO_BLOCK_SIZE &&
	           wire_get_info_block_size(wire_over(info.payload), &block) == WIRE_EXACT) {
		fprintf(f, ", minimum %" PRIu32 ", preferred %" PRIu32 ", maximum %" PRIu32, block.minimum,
		        block.preferred, block.maximum);
	}
}

static void
describe_option_reply(FILE *f, struct wire w)
{
	struct option_reply r;
	struct rep_server server;

	wire_get_option_reply(w, &r);
	put_name(f, "reply ", NAME_REPLY, r.type);
	put_name(f, " to ", NAME_OPTION, r.option);
	fprintf(f, ", length %" PRIu32, r.length);
	if (r.magic != NBD_OPTION_REPLY_MAGIC)
		fprintf(f, ", magic 0x%016" PRIx64, r.magic);
	if (r.type == NBD_REP_SERVER && wire_get_rep_server(wire_over(r.data), &server) != WIRE_SHORT)
		put_string(f, "name", server.name);
	else if (r.type == NBD_REP_INFO)
		describe_info(f, wire_over(r.data));
	else if ((r.type & NBD_REP_ERROR_BIT) != 0 && r.data.len > 0)
		put_string(f, "text", r.data);
}

static void
describe_export_name_reply(FILE *f, struct wire w)
{
	struct export_name_reply r;

	wire_get_export_name_reply(w, &r);
	fprintf(f, "reply to NBD_OPT_EXPORT_NAME, size %" PRIu64 ",", r.size);
	put_flags(f, "flags", NAME_TRANSMISSION_FLAG, r.flags);
	fprintf(f, ", %zu bytes of padding", r.padding.len);
}

/* What stands behind the header of a BLOCK_STATUS. */
static void
describe_status_payload(FILE *f, struct bytes data)
{
	struct block_status_payload p;

	if (wire_get_block_status_payload(wire_over(data), &p) != WIRE_EXACT)
		return;
	fprintf(f, ", effect length %" PRIu64 ", contexts", p.length);
	for (size_t i = 0; i < p.ids.len / sizeof(uint32_t) && i < 8; i++)
		fprintf(f, " %" PRIu32, block_status_payload_id(&p, i));
}

static void
describe_request(FILE *f, struct wire w, bool extended)
{
	struct request r;

	if (extended)
		wire_get_extended_request(w, &r);
	else
		wire_get_request(w, &r);
	put_name(f, extended ? "extended request " : "request ", NAME_COMMAND, r.type);
	if (r.magic != (extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC))
		fprintf(f, ", magic 0x%08" PRIx32, r.magic);
	if (r.flags != 0)
		put_flags(f, ", flags", NAME_COMMAND_FLAG, r.flags);
	fprintf(f, ", cookie 0x%" PRIx64 ", offset %" PRIu64 ", length %" PRIu64, r.cookie, r.offset, r.length);
	if (extended && r.type == NBD_CMD_BLOCK_STATUS && r.data.len > 0)
		describe_status_payload(f, r.data);
}

static void
describe_simple_reply(FILE *f, struct wire w, uint32_t length)
{
	struct simple_reply r;

	wire_get_simple_reply(w, &r);
	put_name(f, "simple reply, error ", NAME_ERROR, r.error);
	if (r.magic != NBD_SIMPLE_REPLY_MAGIC)
		fprintf(f, ", magic 0x%08" PRIx32, r.magic);
	fprintf(f, ", cookie 0x%" PRIx64, r.cookie);
	if (length > SIMPLE_REPLY_SIZE)
		fprintf(f, ", %" PRIu32 " bytes of data", length - SIMPLE_REPLY_SIZE);
}

static void
describe_chunk(FILE *f, struct wire w, bool extended)
{
	struct chunk c;
	struct chunk_error e;

	if (extended)
		wire_get_extended_chunk(w, &c);
	else
		wire_get_chunk(w, &c);
	put_name(f, extended ? "extended chunk " : "chunk ", NAME_CHUNK, c.type);
	if (c.magic != (extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC))
		fprintf(f, ", magic 0x%08" PRIx32, c.magic);
	put_flags(f, ", flags", NAME_CHUNK_FLAG, c.flags);
	fprintf(f, ", cookie 0x%" PRIx64, c.cookie);
	if (extended)
		fprintf(f, ", offset %" PRIu64, c.offset);
	fprintf(f, ", length %" PRIu64, c.length);
	if ((c.type & 0x8000) != 0) {
		wire_get_chunk_error(wire_over(c.data), &e);
		put_name(f, ", error ", NAME_ERROR, e.error);
		if (e.message.len > 0)
			put_string(f, "text", e.message);
	}
}

static void
describe_message(FILE *f, const struct trace_record *r)
{
	struct wire w = wire_over(r->data);
	struct client_flags flags;

	switch (r->message) {
	case MSG_GREETING:
		describe_greeting(f, w);
		break;
	case MSG_OLDSTYLE_GREETING:
		describe_oldstyle(f, w);
		break;
	case MSG_CLIENT_FLAGS:
		wire_get_client_flags(w, &flags);
		put_flags(f, "client flags", NAME_CLIENT_FLAG, flags.flags);
		break;
	case MSG_OPTION:
		describe_option(f, w);
		break;
	case MSG_OPTION_REPLY:
		describe_option_reply(f, w);
		break;
	case MSG_EXPORT_NAME_REPLY:
		describe_export_name_reply(f, w);
		break;
	case MSG_REQUEST:
	case MSG_EXTENDED_REQUEST:
		describe_request(f, w, r->message == MSG_EXTENDED_REQUEST);
		break;
	case MSG_SIMPLE_REPLY:
		describe_simple_reply(f, w, r->length);
		break;
	case MSG_CHUNK:
	case MSG_EXTENDED_CHUNK:
		describe_chunk(f, w, r->message == MSG_EXTENDED_CHUNK);
		break;
	default:
		fprintf(f, "%" PRIu32 " bytes", r->length);
	}
}

static void
hex_dump(FILE *f, struct bytes data, uint32_t length, size_t limit)
{
	size_t n = data.len < limit ? data.len : limit;

	for (size_t at = 0; at < n; at += 16) {
		fprintf(f, "      %04zx ", at);
		for (size_t i = at; i < at + 16; i++)
			if (i < n)
				fprintf(f, "%s%02x", i % 8 == 0 ? "  " : " ", data.at[i]);
			else
				fputs(i % 8 == 0 ? "    " : "   ", f);
		fputs("  ", f);
		for (size_t i = at; i < at + 16 && i < n; i++)
			fputc(data.at[i] >= 0x20 && data.at[i] < 0x7f ? data.at[i] : '.', f);
		fputc('\n', f);
	}
	if (length > n)
		fprintf(f, "      … %zu more bytes\n", (size_t)length - n);
}

void
describe_record(FILE *f, const struct trace_record *r, uint64_t ns_start, size_t hex)
{
	static const char *const events[TRACE_KINDS] = {
		[TRACE_CONNECT] = "connected to",
		[TRACE_CLOSED] = "the peer closed the connection",
		[TRACE_RESET] = "the connection was reset",
		[TRACE_TIMEOUT] = "time-out:",
		[TRACE_DISCONNECT] = "we close the connection",
		[TRACE_CASE] = "case",
		[TRACE_POINT] = "point",
		[TRACE_NOTE] = "#",
		[TRACE_MARK] = "mark",
	};
	double ms = r->ns > ns_start ? (double)(r->ns - ns_start) / 1e6 : 0;
	char *text;

	if (r->kind == TRACE_MESSAGE) {
		fprintf(f, "%9.3f ms  %u %s ", ms, r->connection, r->direction == TO_SERVER ? "C:" : "S:");
		describe_message(f, r);
		fputc('\n', f);
		hex_dump(f, r->data, r->length, hex);
		return;
	}
	text = printable(r->data.at, r->data.len);
	fprintf(f, "%9.3f ms  %u -- %s%s%s\n", ms, r->connection, r->kind < TRACE_KINDS ? events[r->kind] : "?",
	        *text ? " " : "", text);
	free(text);
}

/* What is in the bytes of TLS is described. */
static bool
is_described(const struct trace_record *r)
{
	return r->kind != TRACE_TLS && r->kind != TRACE_SECRET;
}

static unsigned
count_records(struct wire w, uint64_t *first_ns)
{
	struct trace_record r;
	unsigned n = 0;

	while (trace_next(&w, &r))
		if (is_described(&r) && n++ == 0)
			*first_ns = r.ns;
	return n;
}

static void
describe_all(FILE *f, struct wire w, unsigned depth)
{
	uint64_t start = 0;
	unsigned n = count_records(w, &start);
	struct trace_record r;

	if (n > depth)
		fprintf(f, "          … %u earlier records\n", n - depth);
	for (unsigned i = 0; trace_next(&w, &r);)
		if (is_described(&r) && i++ + depth >= n)
			describe_record(f, &r, start, i + 3 >= n ? 96 : 48);
}

char *
describe_transcript(int trace_fd, off_t from, off_t to, unsigned depth)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	struct stat st;
	void *map;

	if (f == NULL)
		abort();
	if (trace_fd >= 0 && fstat(trace_fd, &st) == 0 && st.st_size >= to && to > from) {
		map = mmap(NULL, (size_t)to, PROT_READ, MAP_SHARED, trace_fd, 0);
		if (map != MAP_FAILED) {
			describe_all(f, wire((uint8_t *)map + from, (size_t)(to - from)), depth);
			munmap(map, (size_t)to);
		}
	}
	fclose(f);
	return text;
}
