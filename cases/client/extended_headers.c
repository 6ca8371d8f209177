/*
 * Extended headers, which are experimental: a client that asks for them, and is served, refused, or answered in the wrong
 * form. ext is proto-extension-ext-header.md.
 */
#include "cases/client/answers.h"
#include "cases/client/haggle.h"
#include "cases/client/host.h"
#include "cases/client/judge.h"
#include "cases/client/refuse.h"

#include "fakeserver/core.h"
#include "fakeserver/disk.h"
#include "harness/client.h"
#include "harness/nbd.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define GIB (UINT64_C(1) << 30)

static void
serve_extended(struct drive *d, const char *settings)
{
	drive_serve(d, settings, NULL);
	d->config.knob[KNOB_extended_headers] = true;
	d->owed = R(ext_requests_extended);
	/* Judged by the first point of `served` alone, as it would hide all else of who lacks it. */
	d->excused = R(ext_write_payload_flag);
}

/* ---- a server that agrees ---- */

static const struct offer {
	const char *name;
	enum knob knobs[3]; /* up to N_KNOBS */
	bool demands;       /* nothing but NBD_OPT_EXTENDED_HEADERS leads into transmission */
} offers[] = {
	{ "agreed", { N_KNOBS }, false },
	{ "demanded", { N_KNOBS }, true },
	{ "without NBD_FLAG_BLOCK_STATUS_PAYLOAD", { KNOB_extended_without_payload, N_KNOBS }, false },
	{ "with NBD_INFO_BLOCK_SIZE required", { KNOB_extended_wants_block_size, N_KNOBS }, false },
	{ "NBD_OPT_STRUCTURED_REPLY acknowledged as well", { KNOB_extended_keeps_structured, N_KNOBS }, false },
	{ "contexts of 64 bits", { KNOB_wide_contexts, N_KNOBS }, false },
	{ "writes held to their flag", { KNOB_bare_writes_refused, N_KNOBS }, false },
	{ "reads in pieces", { KNOB_read_fragments, N_KNOBS }, false },
	{ "reads in pieces, out of order", { KNOB_read_fragments, KNOB_read_chunks_shuffled, N_KNOBS }, false },
	{ "reads with holes, and NONE behind", { KNOB_read_holes, KNOB_read_ends_with_none, N_KNOBS }, false },
	{ "extents past the request", { KNOB_extents_run_past, N_KNOBS }, false },
};
enum { N_OFFERS = sizeof(offers) / sizeof(offers[0]) };

static void
offer(struct fake_config *config, const struct offer *o)
{
	for (const enum knob *k = o->knobs; *k != N_KNOBS; k++)
		config->knob[*k] = true;
	config->knob[KNOB_extended_headers] = o->knobs[0] != KNOB_extended_without_payload;
}

/* ext:1427 */
static bool
demand_extended(void *arg, struct conn *c, const struct incoming *m)
{
	(void)arg;
	if (m->kind != MSG_OPTION || c->extended)
		return false;
	if (m->option.option == NBD_OPT_EXPORT_NAME)
		return say_close(c);
	if (m->option.option == NBD_OPT_GO || m->option.option == NBD_OPT_INFO ||
	    m->option.option == NBD_OPT_SET_META_CONTEXT)
		return say_error(c, NBD_REP_ERR_EXT_HEADER_REQD, "");
	return false;
}

static void
do_if_had(struct drive *d, const char *operation, const char *words)
{
	if (driver_has(d->driver, operation, NULL))
		must(d, R(ext_requests_extended), 1, "%s%s", operation, words);
}

/* Each command once, as far as the driver has it. */
static void
use_all(struct drive *d)
{
	struct fake_export *e = &d->exports[0];

	must_read_disk(d, R(read_chunks_reassembled), 1, e, 4096, 65536);
	if (driver_has(d->driver, "write", NULL)) {
		must(d, R(ext_write_payload_flag), 1, "write 8192 12288 7");
		must_read_disk(d, R(ext_write_payload_flag), 1, e, 4096, 65536);
		fake_fail(d->fake, NBD_CMD_WRITE, 1, NBD_EIO, false);
		must_fail(d, R(client_error_chunk_fails_reply), 1, "write 131072 4096 7");
	}
	do_if_had(d, "flush", "");
	do_if_had(d, "zero", " 65536 8192");
	do_if_had(d, "trim", " 131072 8192");
	do_if_had(d, "cache", " 0 65536");
	must_read_disk(d, R(read_chunks_reassembled), 1, e, 0, 131072);
}

CASE_DRIVER(extended_client, served,
            "Where the server agrees to extended headers the client uses them for every command, and each does what it "
            "says",
            R(ext_requests_extended), R(ext_write_payload_flag), R(ext_option_no_data), R(client_state_option_once),
            R(read_chunks_reassembled), R(client_error_chunk_fails_reply), R(command_flags_documented_only))
{
	struct drive *d = drive_new(t);

	need_extended_client(d);
	for (volatile unsigned i = 0; i < N_OFFERS; i++)
		POINT(t, "%s", offers[i].name) {
			bool status =
				driver_has(d->driver, "block_status", NULL) && driver_has(d->driver, "set", "context");

			serve_extended(d, "size=1M");
			offer(&d->config, &offers[i]);
			if (i == 0)
				d->excused = REQUIREMENT_NONE;
			if (offers[i].demands)
				drive_follow(d, &(struct script){ .take = demand_extended });
			enter_with_extended(d, status ? "base%3aallocation" : NULL);
			use_all(d);
			if (status)
				must(d, R(ext_requests_extended), 1, "block_status 0 1048576");
			must(d, R(baseline_client_disc), 1, "disconnect");
			drive_finish(d);
		}
}

CASE_CLIENT(extended_client, command,
            "A command that asks for extended headers, and gets them, succeeds, and its copy is exact",
            R(ext_requests_extended), R(ext_write_payload_flag), R(read_chunks_reassembled), R(ext_option_no_data))
{
	for (volatile unsigned i = 0; i < N_OFFERS; i++)
		POINT(t, "%s", offers[i].name) {
			struct host *h = host_new(t, NULL);
			struct script demand = { .take = demand_extended };

			offer(&h->config, &offers[i]);
			if (offers[i].demands)
				script_follow(&h->config, &demand);
			host_run(h);
			judge_end(h, R(ext_requests_extended));
			if (options_sent(t, h->config.trace, h->seen_from, NBD_OPT_EXTENDED_HEADERS) == 0)
				skip(t, "extended headers", "the client does not ask for extended headers");
			judge_copy(h, R(read_chunks_reassembled));
			judge_rules(h);
			if (!succeeded(h) && offers[i].knobs[0] == KNOB_extended_wants_block_size)
				skip(t, "block sizes", "the client may not ask for the sizes that this server demands");
			if (!succeeded(h))
				broken_values(t, R(ext_requests_extended), "exit status 0", h->end.text);
		}
}

/* ---- a server that refuses ---- */

static void
judge_refused(struct drive *d, bool must_work)
{
	struct driver_answer a;

	d->owed = R(ext_client_falls_back);
	want_extended(d);
	a = ask(d, 1, "connect %s", d->uri);
	skip_unless_extended(d);
	if (a.result == DRIVER_OK)
		connected_must_work(d, R(extended_request_magic_negotiated));
	else if (must_work)
		broken_values(d->t, R(ext_client_falls_back), "the client goes on without extended headers", a.text);
	else
		tell(d->t, "the client leaves: %s", a.text);
	let_leave(d);
	drive_finish(d);
}

CASE_DRIVER(extended_client, refused,
            "A server that refuses extended headers, or knows neither them nor NBD_OPT_GO, is spoken to with compact "
            "ones",
            R(ext_client_falls_back), R(extended_request_magic_negotiated), R(ext_client_prefers_go))
{
	static const uint32_t them[] = { NBD_OPT_EXTENDED_HEADERS, 0 };
	static const uint32_t both[] = { NBD_OPT_EXTENDED_HEADERS, NBD_OPT_GO, NBD_OPT_INFO, 0 };
	struct drive *d = drive_new(t);

	need_extended_client(d);
	for (volatile unsigned i = 0; i <= N_REFUSALS; i++)
		POINT(t, "%s", i < N_REFUSALS ? refusals[i].name : "UNSUP, as to NBD_OPT_GO") {
			uint32_t type = i < N_REFUSALS ? refusals[i].type : NBD_REP_ERR_UNSUP;

			drive_serve(d, "", NULL);
			refuse_options(d, type, i < N_REFUSALS ? them : both);
			judge_refused(d, type == NBD_REP_ERR_UNSUP);
		}
}

static bool
refuse_go(void *arg, struct conn *c, const struct incoming *m)
{
	return m->kind == MSG_OPTION && m->option.option == NBD_OPT_GO && say_error(c, *(const uint32_t *)arg, "");
}

CASE_DRIVER(extended_client, go_refused,
            "Where NBD_OPT_GO is refused behind NBD_OPT_EXTENDED_HEADERS the client does not use NBD_OPT_EXPORT_NAME",
            R(ext_no_export_name))
{
	struct drive *d = drive_new(t);

	need_extended_client(d);
	for (volatile unsigned i = 0; i < N_REFUSALS; i++)
		POINT(t, "%s", refusals[i].name) {
			struct driver_answer a;

			serve_extended(d, "");
			drive_follow(d, &(struct script){ .take = refuse_go, .arg = (void *)&refusals[i].type });
			d->owed = R(ext_no_export_name);
			want_extended(d);
			drive_ask_sizes(d, 1);
			a = ask(d, 1, "connect %s", d->uri);
			skip_unless_extended(d);
			EXPECT(t, R(ext_no_export_name), a.result != DRIVER_OK,
			       "'connect' is answered 'ok', and NBD_OPT_GO was refused");
			let_leave(d);
			drive_finish(d);
		}
}

CASE_DRIVER(extended_client, contexts_need_them,
            "Where neither extended headers nor structured replies are to be had no context is asked for",
            R(ext_contexts_need_negotiation), R(ext_contexts_after_negotiation), R(ext_list_contexts_after_negotiation))
{
	struct drive *d = drive_new(t);

	need_extended_client(d);
	drive_needs(d, "set", "context");
	POINT(t, "NBD_OPT_SET_META_CONTEXT") {
		drive_serve(d, "", NULL);
		d->config.knob[KNOB_no_structured_replies] = true;
		want_extended(d);
		ask(d, 1, "set context=");
		ask(d, 1, "set context=base%%3aallocation");
		if (ask(d, 1, "connect %s", d->uri).result == DRIVER_OK) {
			skip_unless_extended(d);
			ask(d, 1, "block_status 0 4096");
			connected_must_work(d, R(ext_contexts_need_negotiation));
		}
		let_leave(d);
		drive_finish(d);
	}
	POINT(t, "NBD_OPT_LIST_META_CONTEXT") {
		drive_needs(d, "contexts", NULL);
		drive_serve(d, "", NULL);
		d->config.knob[KNOB_no_structured_replies] = true;
		want_extended(d);
		ask(d, 1, "set context=");
		must(d, R(baseline_client_fixed_newstyle), 1, "haggle %s", d->uri);
		skip_unless_extended(d);
		ask(d, 1, "contexts base%%3a");
		ask(d, 1, "disconnect");
		let_leave(d);
		drive_finish(d);
	}
}

/* ---- more than 32 bits ---- */

enum { LOOKED_AT = 4096 };
#define LONG_SIZE (12 * GIB)
#define LONG_AT   GIB
#define LONG      (9 * GIB)
#define FAR       (8 * GIB) /* within, and beyond what 32 bits of the length reach */
#define BEHIND    (11 * GIB)

static bool
holds(struct drive *d, uint64_t offset, unsigned pattern)
{
	uint8_t is[LOOKED_AT], want[LOOKED_AT];

	disk_read(d->exports[0].disk, offset, LOOKED_AT, is);
	driver_pattern(pattern, offset, LOOKED_AT, want);
	return memcmp(is, want, LOOKED_AT) == 0;
}

static void
mark_disk(struct drive *d, uint64_t offset)
{
	uint8_t data[LOOKED_AT];
	enum disk_state failed;

	driver_pattern(7, offset, LOOKED_AT, data);
	if (!disk_write(d->exports[0].disk, offset, LOOKED_AT, data, &failed))
		abort();
}

static void
judge_long(struct drive *d, const char *operation)
{
	struct driver_answer a;

	drive_needs(d, operation, NULL);
	serve_extended(d, "size=12G");
	mark_disk(d, FAR);
	mark_disk(d, BEHIND);
	enter_with_extended(d, NULL);
	a = ask(d, 1, "%s %" PRIu64 " %" PRIu64, operation, LONG_AT, LONG);
	if (a.result == DRIVER_UNSUPPORTED)
		skip(d->t, operation, "the driver takes no length of more than 32 bits");
	if (a.result != DRIVER_OK)
		observe(d->t, R(ext_client_long_effect), "%s of 9 GiB fails: %s", operation, a.text);
	if (strcmp(operation, "zero") == 0 && a.result == DRIVER_OK)
		EXPECT(d->t, R(baseline_client_write), holds(d, FAR, 0),
		       "'zero' of 9 GiB at 1 GiB is answered 'ok', and at 8 GiB there is not zero");
	EXPECT(d->t, R(baseline_client_write), holds(d, BEHIND, 7),
	       "'%s' of 9 GiB at 1 GiB has changed what is at 11 GiB", operation);
	must_read_disk(d, R(read_chunks_reassembled), 1, &d->exports[0], FAR, LOOKED_AT);
	must(d, R(baseline_client_disc), 1, "disconnect");
	drive_finish(d);
}

CASE_DRIVER(extended_client, long_effects,
            "A WRITE_ZEROES, TRIM or CACHE of more than 4 GiB does what it says to all of it, or fails",
            R(ext_client_long_effect), R(baseline_client_write), R(read_chunks_reassembled), R(client_within_export))
{
	static const char *const operations[] = { "zero", "trim", "cache" };
	struct drive *d = drive_new(t);

	need_extended_client(d);
	for (volatile unsigned i = 0; i < 3; i++)
		POINT(t, "%s", operations[i])
			judge_long(d, operations[i]);
}

CASE_DRIVER(extended_client, far_away, "What is read and written beyond 4 GiB is what is there",
            R(read_chunks_reassembled), R(baseline_client_write), R(ext_requests_extended))
{
	struct drive *d = drive_new(t);

	need_extended_client(d);
	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", i == 0 ? "whole" : "in pieces") {
			serve_extended(d, "size=12G");
			d->config.knob[KNOB_read_fragments] = i != 0;
			mark_disk(d, FAR);
			enter_with_extended(d, NULL);
			must_read_disk(d, R(read_chunks_reassembled), 1, &d->exports[0], FAR - 65536, 131072);
			if (driver_has(d->driver, "write", NULL)) {
				must(d, R(baseline_client_write), 1, "write %" PRIu64 " %d 9", BEHIND, LOOKED_AT);
				EXPECT(t, R(baseline_client_write), holds(d, BEHIND, 9),
				       "'write' at 11 GiB is answered 'ok', and its data are not there");
			}
			must(d, R(baseline_client_disc), 1, "disconnect");
			drive_finish(d);
		}
}

/* ---- the payload of NBD_CMD_BLOCK_STATUS ---- */

#define ALLOCATION "base%3aallocation"
#define DIRTY      "x-nbdspec%3adirty"

static void
select_both(struct drive *d)
{
	drive_needs(d, "block_status", "only");
	drive_needs(d, "set", "context");
	ask(d, 1, "set context=");
	ask(d, 1,
	    "set context="
	    "%s",
	    ALLOCATION);
	ask(d, 1,
	    "set context="
	    "%s",
	    DIRTY);
	want_extended(d);
	drive_ask_sizes(d, 1);
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	skip_unless_extended(d);
}

static void
judge_filtered(struct drive *d, const char *only, const char *other)
{
	const char *text = must(d, R(ext_status_payload_layout), 1, "block_status 0 65536 only=%s", only);
	char *has = driver_value(text, only), *lacks = driver_value(text, other);

	EXPECT(d->t, R(ext_status_payload_layout), has != NULL, "'block_status … only=%s' tells '%s'", only, text);
	EXPECT(d->t, R(ext_status_payload_layout), lacks == NULL,
	       "'block_status … only=%s' tells '%s', of which the server said nothing", only, text);
	free(has);
	free(lacks);
}

CASE_DRIVER(extended_client, filtered,
            "Where the server takes a payload with NBD_CMD_BLOCK_STATUS, it names the contexts that are asked for",
            R(ext_status_payload_layout), R(client_within_export))
{
	struct drive *d = drive_new(t);

	need_extended_client(d);
	serve_extended(d, "size=1M");
	select_both(d);
	judge_filtered(d, ALLOCATION, DIRTY);
	judge_filtered(d, DIRTY, ALLOCATION);
	EXPECT(t, R(ext_status_payload_layout), drive_sent(d, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_PAYLOAD_LEN) == 2,
	       "the client has sent %u payloads for 2 such requests",
	       drive_sent(d, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_PAYLOAD_LEN));
	must(d, R(ext_status_payload_layout), 1, "block_status 0 65536 only=%s only=%s", DIRTY, ALLOCATION);
	must(d, R(ext_status_payload_layout), 1, "block_status 0 65536");
	must_read_disk(d, R(ext_status_payload_layout), 1, &d->exports[0], 0, 4096);
	must(d, R(baseline_client_disc), 1, "disconnect");
	drive_finish(d);
}

/* ---- what is not offered ---- */

static const struct unoffered {
	const char *name, *operation, *flag, *words;
	uint16_t type;
	bool without_payload;
} unoffered[] = {
	{ "DF", "read", "df", "0 4096 df", NBD_CMD_READ, false },
	{ "no bytes to read", "read", NULL, "0 0", NBD_CMD_READ, false },
	{ "more than 32 bits to read", "read", NULL, "0 5368709120", NBD_CMD_READ, false },
	{ "no bytes of status", "block_status", NULL, "0 0", NBD_CMD_BLOCK_STATUS, false },
	{ "a payload of BLOCK_STATUS", "block_status", "only", "0 65536 only=" ALLOCATION, NBD_CMD_BLOCK_STATUS, true },
};
enum { N_UNOFFERED = sizeof(unoffered) / sizeof(unoffered[0]) };

CASE_DRIVER(
	extended_client, unoffered,
	"With extended headers, too, the client asks for nothing that is not offered, nor for more, or less, than it "
	"should",
	R(ext_df_needs_flag), R(ext_read_nonzero), R(ext_read_32bit), R(ext_status_nonzero),
	R(ext_status_payload_needs_flag))
{
	struct drive *d = drive_new(t);

	need_extended_client(d);
	for (volatile unsigned i = 0; i < N_UNOFFERED; i++)
		POINT(t, "%s", unoffered[i].name) {
			const struct unoffered *u = &unoffered[i];

			drive_needs(d, u->operation, u->flag);
			serve_extended(d, "size=8G,flags=SEND_FLUSH+SEND_FUA+SEND_TRIM+SEND_WRITE_ZEROES");
			d->config.knob[KNOB_extended_headers] = !u->without_payload;
			d->config.knob[KNOB_extended_without_payload] = u->without_payload;
			d->owed = R(ext_requests_extended);
			if (u->type == NBD_CMD_BLOCK_STATUS)
				drive_needs(d, "set", "context");
			enter_with_extended(d, u->type == NBD_CMD_BLOCK_STATUS ? ALLOCATION : NULL);
			ask(d, 1, "%s %s", u->operation, u->words);
			if (drive_sent(d, u->type, 0) == 0)
				tell(t, "nothing is sent");
			must_read_disk(d, R(ext_requests_extended), 1, &d->exports[0], 4096, 4096);
			must(d, R(baseline_client_disc), 1, "disconnect");
			drive_finish(d);
		}
}

/* ---- replies with other headers than were agreed ---- */

enum { AT = 65536, LENGTH = 4096 };

enum header { OTHER_OFFSET, OFFSET_0, COMPACT, SIMPLE, OTHER_COOKIE_HALF };

static const struct odd {
	const char *name, *words;
	enum header header;
} odds[] = {
	{ "another offset", "read 65536 4096", OTHER_OFFSET },
	{ "offset 0", "read 65536 4096", OFFSET_0 },
	{ "another offset, to a WRITE", "write 65536 4096 7", OTHER_OFFSET },
	{ "a structured chunk", "read 65536 4096", COMPACT },
	{ "a structured chunk to a WRITE", "write 65536 4096 7", COMPACT },
	{ "a simple reply", "read 65536 4096", SIMPLE },
	{ "a simple reply to a WRITE", "write 65536 4096 7", SIMPLE },
};
enum { N_ODDS = sizeof(odds) / sizeof(odds[0]) };

static bool
is_asked(const struct conn *c, const struct incoming *m)
{
	return m->kind == MSG_REQUEST && m->request.offset == AT && c->extended;
}

static void
edit_header(struct outgoing *m, enum header header)
{
	switch (header) {
	case OTHER_OFFSET:
		m->chunk.offset += 4096;
		break;
	case OFFSET_0:
		m->chunk.offset = 0;
		break;
	default:
		m->extended = false;
		m->chunk.magic = NBD_STRUCTURED_REPLY_MAGIC;
		break;
	}
}

static bool
answer_oddly(void *arg, struct conn *c, const struct incoming *m)
{
	const struct odd *odd = arg;
	uint8_t data[8 + LENGTH];
	struct buf payload = { 0 };
	bool reads = m->kind == MSG_REQUEST && m->request.type == NBD_CMD_READ;
	struct outgoing out;

	if (!is_asked(c, m) || m->request.type == NBD_CMD_DISC)
		return false;
	put_be64(&payload, AT);
	memcpy(data, payload.at, sizeof(uint64_t));
	buf_free(&payload);
	disk_read(c->export->disk, AT, LENGTH, data + 8);
	if (odd->header == SIMPLE)
		return say_simple(c, NBD_SUCCESS, data + 8, reads ? LENGTH : 0);
	out = chunk_start(c, c->request, reads ? NBD_REPLY_TYPE_OFFSET_DATA : NBD_REPLY_TYPE_NONE, PAYLOAD_RAW, true);
	out.chunk.data = (struct bytes){ data, reads ? sizeof(data) : 0 };
	edit_header(&out, odd->header);
	return say_message(c, &out);
}

/* The server breaks a MUST by it, and what follows is the client's choice: but no data are good that are wrong. */
static const struct referee_setup liar = { .server_lies = true, .excused = R(ext_write_payload_flag) };

CASE_DRIVER(extended_client, odd_headers,
            "A reply with the header of another request, or of another form, is no success with other data than the "
            "server's",
            R(read_chunks_reassembled), R(client_transmission_no_disconnect))
{
	struct drive *d = drive_new(t);

	need_extended_client(d);
	for (volatile unsigned i = 0; i < N_ODDS; i++)
		POINT(t, "%s", odds[i].name) {
			struct driver_answer a;

			drive_needs(d, odds[i].words[0] == 'r' ? "read" : "write", NULL);
			serve_extended(d, "size=1M");
			d->owed = R(client_transmission_no_disconnect);
			drive_follow(d, &(struct script){ .take = answer_oddly, .arg = (void *)&odds[i] });
			enter_with_extended(d, NULL);
			a = ask(d, 1, "%s", odds[i].words);
			if (odds[i].words[0] == 'r' && a.result == DRIVER_OK)
				EXPECT(t, R(read_chunks_reassembled),
				       strtoul(a.text, NULL, 16) == disk_digest(&d->exports[0], AT, LENGTH),
				       "the read is answered 'ok', with other data than the server's");
			tell(t, a.result == DRIVER_OK ? "the client takes it" : "the client does not take it: %s",
			     a.text);
			a = ask(d, 1, "read 131072 4096");
			EXPECT(t, R(read_chunks_reassembled),
			       a.result != DRIVER_OK ||
			               strtoul(a.text, NULL, 16) == disk_digest(&d->exports[0], 131072, 4096),
			       "the next read gives other data than the server's: digest %s", a.text);
			ask(d, 1, "disconnect");
			let_leave(d);
			drive_finish_as(d, &liar);
		}
}

enum { SOON_MS = 300 };

/* The header of a chunk that would be long, and no more of it. */
static bool
say_long_header(void *arg, struct conn *c, const struct incoming *m)
{
	struct buf b = { 0 };

	if (!is_asked(c, m) || m->request.type == NBD_CMD_DISC)
		return false;
	wire_put_extended_chunk(&b, &(struct chunk){ .magic = NBD_EXTENDED_REPLY_MAGIC,
	                                             .flags = NBD_REPLY_FLAG_DONE,
	                                             .type = NBD_REPLY_TYPE_OFFSET_DATA,
	                                             .cookie = m->request.cookie,
	                                             .offset = m->request.offset,
	                                             .length = *(const uint64_t *)arg });
	put_be64(&b, AT);
	memset(buf_grow(&b, LENGTH), 0x55, LENGTH);
	say_bytes(c, b.at, b.len);
	buf_free(&b);
	return true;
}

CASE_DRIVER(extended_client, long_replies,
            "A chunk whose header tells of more than 32 bits of payload is no success before all of it has come",
            R(ext_client_leaves_long_reply), R(client_reads_chunk_length))
{
	static const uint64_t lengths[] = { (UINT64_C(1) << 32) + 8 + LENGTH, UINT64_C(1) << 40, UINT64_C(1) << 63,
		                            UINT64_MAX };
	struct drive *d = drive_new(t);

	need_extended_client(d);
	for (volatile unsigned i = 0; i < 4; i++)
		POINT(t, "%" PRIu64, lengths[i]) {
			struct driver_answer a;

			serve_extended(d, "size=1M");
			d->owed = R(client_reads_chunk_length);
			drive_follow(d, &(struct script){ .take = say_long_header, .arg = (void *)&lengths[i] });
			enter_with_extended(d, NULL);
			drive_send(d, 1, "read %d %d", AT, LENGTH);
			if (drive_take_soon(d, &a, SOON_MS)) {
				EXPECT(t, R(client_reads_chunk_length), a.result == DRIVER_ERROR,
				       "the read is answered 'ok %s'", a.text);
				observe(t, R(ext_client_leaves_long_reply), "the client disconnects: %s", a.text);
			} else {
				drive_stop_server(d);
				a = drive_take(d);
				EXPECT(t, R(client_reads_chunk_length), a.result == DRIVER_ERROR,
				       "the connection has ended before all of it came, and the read is answered 'ok "
				       "%s'",
				       a.text);
				observe(t, R(ext_client_leaves_long_reply), "the client waits for it");
			}
			ask(d, 1, "disconnect");
			let_leave(d);
			drive_finish_as(d, &liar);
		}
}
