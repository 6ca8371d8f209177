/*
 * What goes over the wire: every message of a client is judged by the referee. These cases bring about the occasions, by
 * theme, each with a server that is honest.
 */
#include "cases/client/haggle.h"

#include "harness/nbd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the haggling ---- */

/* "contexts", with as many queries as the text has examples of (proto.md:948-985). */
static const char *const contexts_lines[] = {
	"contexts",
	"contexts base%3a",
	"contexts base%3aallocation x-nbdspec%3adirty x-nbdspec%3ablocks x-nobody%3aknows/it?so",
};
enum { N_CONTEXTS_LINES = sizeof(contexts_lines) / sizeof(contexts_lines[0]) };

static void
want_contexts(struct drive *d)
{
	ask(d, 1, "set context=");
	ask(d, 1, "set context=base%%3aallocation");
	ask(d, 1, "set context=x-nbdspec%%3ablocks");
}

/* Every option that the driver has, in one session. */
static void
haggle_all(struct drive *d)
{
	must(d, R(baseline_client_fixed_newstyle), 1, "haggle %s", d->uri);
	ask(d, 1, "list");
	for (unsigned i = 0; i < N_CONTEXTS_LINES; i++)
		ask(d, 1, "%s", contexts_lines[i]);
	ask(d, 1, "info");
	ask(d, 1, "info export=two");
	if (ask(d, 1, "go").result == DRIVER_OK)
		connected_must_work(d, R(baseline_client_read));
	ask(d, 1, "disconnect");
}

CASE_DRIVER(wire, haggling,
            "Every option that the client sends has its layout, comes once and after the reply to the one before, and "
            "the haggling ends by the rules",
            R(numbers_big_endian), R(client_flags_sent), R(client_fixed_newstyle_flag), R(option_magic_client),
            R(option_layout_client), R(client_one_option_at_a_time), R(client_state_option_once), R(go_preferred),
            R(go_then_no_options), R(info_request_name_fits), R(info_request_layout), R(info_requests_once_each),
            R(structured_reply_no_data), R(list_no_data), R(abort_no_data), R(list_meta_after_structured),
            R(list_meta_request_layout), R(list_meta_query_namespaced), R(set_meta_after_structured),
            R(set_meta_request_layout), R(set_meta_query_namespaced), R(client_metadata_needs_structured),
            R(client_asks_block_size), R(client_block_size_uses_go), R(client_abandons_softly),
            R(client_abort_drops_connection), R(client_handshake_no_hard_disconnect), R(client_strings_no_nul),
            R(client_strings_utf8), R(client_strings_short), R(client_strings_max_length), R(no_other_client_flags))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s structured replies", i == 0 ? "with" : "without") {
			drive_serve(d, "name=one", "name=two,min=512", NULL);
			d->config.knob[KNOB_no_structured_replies] = i != 0;
			want_contexts(d);
			session_must_work(d, R(baseline_client_fixed_newstyle));
			if (driver_has(d->driver, "haggle", NULL)) {
				haggle_all(d);
				must(d, R(baseline_client_fixed_newstyle), 1, "haggle %s", d->uri);
				must(d, R(baseline_client_abort), 1, "disconnect");
				let_leave(d);
			}
			drive_finish(d);
		}
}

/* ---- strings ---- */

enum { SHORT = 256 }; /* bytes; proto.md:37 */

static char *
repeat(const char *s, size_t bytes)
{
	size_t len = strlen(s);
	char *text = calloc(1, bytes + 1);

	if (text == NULL)
		abort();
	for (size_t i = 0; i + len <= bytes; i += len)
		memcpy(text + i, s, len);
	return text;
}

/* The export is the second one, so that a name that got lost leads to another, which is smaller. */
static void
serve_name(struct drive *d, const char *name)
{
	drive_serve(d, "name=,size=64k", "name=x,size=256k", NULL);
	free(d->exports[1].name);
	d->exports[1].name = strdup(name);
	free(d->uri);
	d->uri = drive_uri(d, name);
}

static void
named_must_work(struct drive *d, const char *name)
{
	struct driver_answer a;

	serve_name(d, name);
	d->excused = strlen(name) > SHORT ? R(client_strings_short) : REQUIREMENT_NONE;
	d->owed = R(option_layout_client);
	a = ask(d, 1, "connect %s", d->uri);
	if (a.result != DRIVER_OK && strlen(name) <= SHORT)
		broken_values(d->t, R(baseline_client_info_go), "'connect' is answered 'ok'", a.text);
	if (a.result == DRIVER_OK) {
		must_read_disk(d, R(info_request_layout), 1, &d->exports[1], 131072, 4096);
		must(d, R(baseline_client_disc), 1, "disconnect");
	} else {
		observe(d->t, R(client_strings_max_length), "the client does not ask for a name of %zu bytes",
		        strlen(name));
	}
	let_leave(d);
	drive_finish(d);
}

static const struct {
	const char *title, *text;
	size_t bytes; /* 0: the text as it stands */
} names[] = {
	{ "one letter", "a", 0 },
	{ "blanks", "with blanks in it", 0 },
	{ "slashes", "/leading//and/trailing/", 0 },
	{ "per cent", "%41%zz%", 0 },
	{ "delimiters", "a?b#c&d=e;f,g:h@i[j]", 0 },
	{ "quotes", "\"quoted\" 'and' \\escaped\\", 0 },
	{ "control characters", "\x01\t\n\x7f", 0 },
	{ "two bytes each", "\xc3\xbc\xc3\x9f", 0 },
	{ "four bytes each", "\xf0\x9f\x92\xbe\xf0\x9f\x92\xbf", 0 },
	{ "255 bytes", "n", 255 },
	{ "256 bytes of UTF-8", "\xc3\xbc", 256 },
	{ "257 bytes", "n", 257 },
	{ "4095 bytes", "n", 4095 },
	{ "4096 bytes of UTF-8", "\xc3\xbc", 4096 },
};
enum { N_NAMES = sizeof(names) / sizeof(names[0]) };

CASE_DRIVER(wire, names, "An export's name is sent as it is, whatever characters and up to whatever length it has",
            R(info_request_layout), R(info_request_name_fits), R(option_layout_client), R(client_strings_no_nul),
            R(client_strings_utf8), R(client_strings_short), R(client_strings_max_length), R(baseline_client_info_go))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_NAMES; i++)
		POINT(t, "%s", names[i].title) {
			char *name = repeat(names[i].text, names[i].bytes > 0 ? names[i].bytes : strlen(names[i].text));

			named_must_work(d, name);
			free(name);
		}
}

/* A client that cuts such a name asks for another one, which the server does not have. */
static void
refuse_name(struct drive *d, const char *escaped)
{
	char *uri;

	drive_serve(d, "name=n", NULL);
	d->owed = R(client_strings_max_length);
	if (asprintf(&uri, "nbd+unix:///%s?socket=%s", escaped, d->socket) < 0)
		abort();
	if (ask(d, 1, "connect %s", uri).result == DRIVER_OK)
		ask(d, 1, "disconnect");
	free(uri);
	let_leave(d);
	drive_finish(d);
}

static void
refuse_context(struct drive *d, const char *query)
{
	drive_needs(d, "set", "context");
	drive_serve(d, "name=n", NULL);
	d->owed = R(client_strings_max_length);
	ask(d, 1, "set context=");
	ask(d, 1, "set context=%s", query);
	if (ask(d, 1, "connect %s", d->uri).result == DRIVER_OK)
		ask(d, 1, "disconnect");
	if (driver_has(d->driver, "haggle", NULL) && ask(d, 1, "haggle %s", d->uri).result == DRIVER_OK) {
		ask(d, 1, "contexts %s", query);
		ask(d, 1, "disconnect");
	}
	ask(d, 1, "set context=");
	let_leave(d);
	drive_finish(d);
}

CASE_DRIVER(wire, strings_refused,
            "A name or a query that no string may be, too long or with a NUL in it, is not sent, whatever the user "
            "asks for",
            R(client_strings_max_length), R(client_strings_no_nul))
{
	struct drive *d = drive_new(t);
	char *too_long = repeat("n", NBD_MAX_STRING + 1), *far_too_long = repeat("n", 60000);

	POINT(t, "a name of 4097 bytes")
		refuse_name(d, too_long);
	POINT(t, "a name of 60000 bytes")
		refuse_name(d, far_too_long);
	POINT(t, "a name with a NUL")
		refuse_name(d, "n%00n");
	POINT(t, "a query of more than 4096 bytes") {
		/* Escaped it has 8 bytes for 6. */
		char *query = repeat("base%3an", (NBD_MAX_STRING / 6 + 1) * strlen("base%3an"));

		refuse_context(d, query);
		free(query);
	}
	POINT(t, "a query with a NUL")
		refuse_context(d, "base%3aallocation%00n");
	free(too_long);
	free(far_too_long);
}

/* ---- requests ---- */

/* Every operation, with each of its flags; multiples of 4096, within 256 KiB. */
static const char *const operations[] = {
	"read 0 4096",
	"read 8192 65536",
	"read 4096 8192 df",
	"write 4096 8192 7",
	"write 16384 4096 8 fua",
	"flush",
	"trim 65536 8192",
	"trim 65536 4096 fua",
	"zero 131072 4096",
	"zero 131072 8192 no-hole",
	"zero 135168 4096 fast",
	"zero 139264 4096 fua",
	"zero 131072 4096 no-hole fast fua",
	"cache 0 8192",
	"block_status 0 262144",
	"block_status 65536 4096 req-one",
};
enum { N_OPERATIONS = sizeof(operations) / sizeof(operations[0]), ROUNDS = 4 };

/* Whatever is answered: what the client does not send it refuses, and that is its right. */
static void
ask_all(struct drive *d)
{
	/* First together: bytes that are too few are seen where the next request begins. */
	for (unsigned i = 0; i < ROUNDS * N_OPERATIONS; i++)
		drive_send(d, 1, "%s", operations[i % N_OPERATIONS]);
	for (unsigned i = 0; i < ROUNDS * N_OPERATIONS; i++)
		drive_take(d);
	for (unsigned i = 0; i < N_OPERATIONS; i++)
		ask(d, 1, "%s", operations[i]);
}

static const struct served {
	const char *name, *settings;
	bool simple;
} served[] = {
	{ "all is offered", "", false },
	{ "all is offered, simple replies", "", true },
	{ "nothing is offered", "flags=HAS_FLAGS", false },
	{ "nothing is offered, simple replies", "flags=HAS_FLAGS", true },
	{ "FLUSH and FUA alone", "flags=SEND_FLUSH+SEND_FUA", false },
	{ "TRIM alone", "flags=SEND_TRIM", false },
	{ "WRITE_ZEROES alone", "flags=SEND_WRITE_ZEROES", false },
	{ "read-only", "flags=READ_ONLY+SEND_FLUSH+SEND_FUA", false },
};
enum { N_SERVED = sizeof(served) / sizeof(served[0]) };

CASE_DRIVER(wire, requests,
            "Every request that the client sends has its layout, its own cookie, and only what the server offers",
            R(numbers_big_endian), R(request_magic), R(request_layout), R(request_payload_client),
            R(write_payload_follows), R(zeroes_sent_without_payload), R(client_distinct_cookies),
            R(extended_request_magic_negotiated), R(ext_compact_no_payload_flag), R(command_flags_documented_only),
            R(fua_only_on_writes), R(flush_fields_zero), R(client_uses_exposed_features), R(client_negotiates_extras),
            R(client_df_unadvertised), R(df_only_where_advertised), R(client_fast_zero_unadvertised),
            R(fast_zero_only_where_advertised), R(flush_only_where_advertised), R(trim_only_where_advertised),
            R(zeroes_only_where_advertised), R(block_status_after_set_meta), R(client_status_needs_context),
            R(client_selects_contexts), R(client_metadata_needs_structured), R(payload_extensions_need_structured),
            R(client_multi_conn_unadvertised), R(client_within_export), R(client_transmission_no_disconnect),
            R(disc_fields_zero), R(disc_nothing_after), R(read_length_nonzero), R(write_length_nonzero),
            R(trim_length_nonzero), R(zeroes_length_nonzero), R(status_length_nonzero))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_SERVED; i++)
		POINT(t, "%s", served[i].name) {
			drive_serve(d, served[i].settings, NULL);
			d->config.knob[KNOB_no_structured_replies] = served[i].simple;
			want_contexts(d);
			must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
			ask_all(d);
			connected_must_work(d, R(baseline_client_read));
			let_leave(d);
			drive_finish(d);
		}
}

CASE_DRIVER(
	wire, sessions,
	"What the server offered in one session the client does not rest on in the next, in which it is not offered",
	R(client_forgets_prior_session), R(client_uses_exposed_features), R(client_negotiates_extras),
	R(set_meta_after_structured), R(client_metadata_needs_structured), R(block_status_after_set_meta))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", i == 0 ? "then nothing" : "then no structured replies either") {
			drive_serve(d, "", NULL);
			want_contexts(d);
			must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
			ask_all(d);
			must(d, R(baseline_client_disc), 1, "disconnect");
			d->exports[0].flags = NBD_FLAG_HAS_FLAGS;
			d->exports[0].contexts = 0;
			d->config.knob[KNOB_no_structured_replies] = i != 0;
			must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
			ask_all(d);
			connected_must_work(d, R(baseline_client_read));
			let_leave(d);
			drive_finish(d);
		}
}

/* ---- where, and how much ---- */

static const struct range {
	const char *name, *settings;
	uint64_t offset, length;
	bool simple;
} ranges[] = {
	{ "nothing", "", 4096, 0, false },
	{ "nothing, simple replies", "", 4096, 0, true },
	{ "nothing, at the end", "", 262144, 0, false },
	{ "at the end", "", 262144, 4096, false },
	{ "across the end", "", 258048, 8192, false },
	{ "far beyond the end", "", UINT64_C(1) << 40, 4096, false },
	{ "beyond 2^63", "", UINT64_C(1) << 63, 4096, false },
	{ "over 2^64", "", UINT64_MAX - 4095, 8192, false },
	{ "an export of nothing", "size=0", 0, 4096, false },
	{ "an odd offset, minimum 512", "min=512", 1, 4096, false },
	{ "an odd length, minimum 512", "min=512", 4096, 513, false },
	{ "512 bytes, minimum 4096", "min=4096", 4096, 512, false },
	{ "at 512, minimum 4096", "min=4096", 512, 4096, false },
	{ "multiples, minimum 4096", "min=4096", 4096, 8192, false },
	{ "multiples, minimum 65536", "min=65536,pref=65536", 65536, 65536, true },
	{ "more than the maximum", "max=65536", 0, 131072, false },
	{ "more than the maximum, simple replies", "max=65536", 0, 131072, true },
	{ "the maximum", "max=65536", 65536, 65536, true },
	{ "more than a maximum of 1 MiB", "size=2M,max=1M", 0, 1052672, true },
};
enum { N_RANGES = sizeof(ranges) / sizeof(ranges[0]) };

static const char *const ranged[] = { "read %llu %llu",         "write %llu %llu 7",      "trim %llu %llu",
	                              "zero %llu %llu",         "zero %llu %llu no-hole", "cache %llu %llu",
	                              "block_status %llu %llu", "read %llu %llu df" };
enum { N_RANGED = sizeof(ranged) / sizeof(ranged[0]) };

static void
ask_range(struct drive *d, const struct range *r)
{
	char line[100];

	drive_serve(d, r->settings, NULL);
	d->config.knob[KNOB_no_structured_replies] = r->simple;
	want_contexts(d);
	/* That the server's sizes bind is too much for a client that does not ask for them. */
	if (ask(d, 1, "connect %s", d->uri).result == DRIVER_OK) {
		for (unsigned i = 0; i < N_RANGED; i++) {
			snprintf(line, sizeof(line), ranged[i], (unsigned long long)r->offset,
			         (unsigned long long)r->length);
			ask(d, 1, "%s", line);
		}
		ask(d, 1, "disconnect");
	}
	let_leave(d);
	drive_finish(d);
}

CASE_DRIVER(wire, ranges,
            "Whatever range the user asks for, the client sends no request that is empty, beyond the export, or "
            "against the sizes that the server told",
            R(client_within_export), R(client_minimum_aligned), R(client_abides_by_block_size),
            R(client_payload_within_maximum), R(read_length_nonzero), R(write_length_nonzero), R(trim_length_nonzero),
            R(zeroes_length_nonzero), R(status_length_nonzero), R(client_transmission_no_disconnect))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_RANGES; i++)
		POINT(t, "%s", ranges[i].name)
			ask_range(d, &ranges[i]);
}

static const struct {
	const char *name, *settings;
	bool few_infos;
} interoperable[] = {
	{ "no sizes told", "size=64M", true },
	{ "preferred 4096", "size=64M", false },
	{ "preferred 65536", "size=64M,min=512,pref=65536", false },
};
enum { N_INTEROPERABLE = sizeof(interoperable) / sizeof(interoperable[0]) };

/* Multiples of what is preferred, as the user asks for them; only what is too large for one request is to be split, or refused. */
static const char *const wholesome[] = {
	"read 0 65536",      "read 65536 1048576", "write 65536 131072 7",   "trim 0 65536",
	"zero 131072 65536", "cache 0 65536",      "block_status 0 1048576",
};

/* So large that to tell its digest may take a client long: what is judged is what it sends. */
static void
read_much(struct drive *d)
{
	struct driver_answer a;

	drive_send(d, 1, "read 0 33619968");
	if (drive_take_soon(d, &a, DRIVER_LIMIT_MS / 2))
		ask(d, 1, "disconnect");
}

CASE_DRIVER(wire, interoperable,
            "A client that desires the most interoperability asks for the block sizes, and keeps to the preferred or "
            "the default ones",
            R(client_default_min_block), R(client_default_max_payload), R(client_preferred_aligned),
            R(interop_block_sizes_queried), R(interop_block_sizes_abided_by))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_INTEROPERABLE; i++)
		POINT(t, "%s", interoperable[i].name) {
			drive_serve(d, interoperable[i].settings, NULL);
			d->config.knob[KNOB_few_infos] = interoperable[i].few_infos;
			if (driver_has(d->driver, "set", "block-size"))
				must(d, R(interop_block_sizes_queried), 1, "set block-size=on");
			d->interoperable = true;
			must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
			for (unsigned k = 0; k < sizeof(wholesome) / sizeof(wholesome[0]); k++)
				ask(d, 1, "%s", wholesome[k]);
			read_much(d);
			let_leave(d);
			drive_finish(d);
		}
}

CASE_DRIVER(wire, undocumented_flags, "A command flag that is not documented is not sent, though the user gives it",
            R(command_flags_documented_only))
{
	enum { FIRST_UNDOCUMENTED = 5, FLAGS = 16 };
	struct drive *d = drive_new(t);

	drive_needs(d, "read", "flags");
	drive_serve(d, "", NULL);
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	for (unsigned bit = FIRST_UNDOCUMENTED; bit < FLAGS; bit++)
		ask(d, 1, "read 0 4096 flags=%u", 1u << bit);
	connected_must_work(d, R(baseline_client_read));
	drive_finish(d);
}

/* ---- errors, and the end ---- */

struct failure {
	uint32_t error;
	bool structured;
};

static bool
fail_request(void *arg, struct conn *c, const struct incoming *m)
{
	const struct failure *f = arg;
	uint8_t payload[6] = { (uint8_t)(f->error >> 24), (uint8_t)(f->error >> 16), (uint8_t)(f->error >> 8),
		               (uint8_t)f->error };

	/* What lies beyond the first MiB fails. */
	if (m->kind != MSG_REQUEST || m->request.type == NBD_CMD_DISC || m->request.offset < 1 << 20)
		return false;
	if (!f->structured)
		return say_simple(c, f->error, NULL, 0);
	return say_chunk(c, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, payload, sizeof(payload));
}

static const char *const failing[] = { "read 1048576 4096", "write 1048576 4096 7", "trim 1048576 4096",
	                               "zero 1048576 4096" };
enum { N_FAILING = sizeof(failing) / sizeof(failing[0]) };

static void
serve_failing(struct drive *d, struct failure *f, enum requirement_id owed)
{
	drive_serve(d, "size=2M", NULL);
	d->config.knob[KNOB_no_structured_replies] = !f->structured;
	drive_follow(d, &(struct script){ .take = fail_request, .arg = f });
	d->owed = owed;
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	/* The server knows best what was agreed. */
	f->structured &= drive_options(d, NBD_OPT_STRUCTURED_REPLY) > 0;
}

/* What a failed read is to the user; "OTHER" where it has no name. */
static char *
name_told(struct drive *d)
{
	struct driver_answer a = ask(d, 1, "%s", failing[0]);

	return a.result == DRIVER_ERROR ? strndup(a.text, strcspn(a.text, " ")) : strdup("OTHER");
}

static void
judge_name(struct drive *d, struct failure *f)
{
	uint32_t error = f->error;
	char *usual, *other;

	other = name_told(d);
	f->error = NBD_EINVAL;
	usual = name_told(d);
	f->error = error;
	if (strcmp(usual, "OTHER") != 0 && strcmp(other, "OTHER") != 0 && strcmp(usual, other) != 0)
		deviates(d->t, R(unexpected_error_as_einval), usual, other);
	free(usual);
	free(other);
}

static void
unexpected_error(struct drive *d, struct failure *f)
{
	serve_failing(d, f, R(unexpected_error_as_einval));
	judge_name(d, f);
	for (unsigned i = 0; i < N_FAILING; i++)
		if (ask(d, 1, "%s", failing[i]).result == DRIVER_OK)
			broken(d->t, R(unexpected_error_as_einval),
			       "'%s' is answered 'ok', and the server had said error %u", failing[i], f->error);
	if (ask(d, 1, "read 0 4096").result != DRIVER_OK)
		deviates(d->t, R(unexpected_error_as_einval), "the session goes on, and the next read succeeds",
		         "an error");
	ask(d, 1, "disconnect");
	let_leave(d);
	drive_finish(d);
}

CASE_DRIVER(wire, unexpected_errors,
            "An error that the protocol does not define fails the command, and the session goes on",
            R(unexpected_error_as_einval), R(client_transmission_no_disconnect))
{
	static const uint32_t errors[] = { 2,    11,         107,        109,        255,
		                           4096, 0x7fffffff, 0x80000000, UINT32_MAX, UINT32_MAX - 21 };
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 2 * sizeof(errors) / sizeof(errors[0]); i++)
		POINT(t, "error %u, %s", errors[i / 2], i % 2 != 0 ? "structured" : "simple") {
			struct failure f = { errors[i / 2], i % 2 != 0 };

			unexpected_error(d, &f);
		}
}

CASE_DRIVER(wire, eshutdown, "After NBD_ESHUTDOWN the client leaves by NBD_CMD_DISC, and the command has failed",
            R(client_disconnects_on_eshutdown), R(client_transmission_no_disconnect))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 2 * N_FAILING; i++)
		POINT(t, "%.5s, %s", failing[i / 2], i % 2 != 0 ? "structured" : "simple") {
			struct failure f = { NBD_ESHUTDOWN, i % 2 != 0 };
			struct driver_answer a;

			serve_failing(d, &f, R(client_disconnects_on_eshutdown));
			a = ask(d, 1, "%s", failing[i / 2]);
			if (a.result == DRIVER_OK)
				broken(t, R(client_disconnects_on_eshutdown),
				       "'%s' is answered 'ok' after NBD_ESHUTDOWN", failing[i / 2]);
			/* A client whose user has to say so leaves now. */
			ask(d, 1, "disconnect");
			let_leave(d);
			drive_finish(d);
		}
}

CASE_DRIVER(wire, disconnect,
            "The session ends by one NBD_CMD_DISC without fields, nothing follows it, and what was in flight was "
            "answered before",
            R(baseline_client_disc), R(disc_fields_zero), R(disc_nothing_after), R(client_disc_after_inflight),
            R(client_transmission_no_disconnect))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", i == 0 ? "with nothing in flight" : "as soon as the last answer is there") {
			drive_serve(d, "", NULL);
			must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
			for (unsigned k = 0; i == 1 && k < 8; k++)
				drive_send(d, 1, "read 0 65536");
			for (unsigned k = 0; i == 1 && k < 8; k++)
				drive_take(d);
			must(d, R(baseline_client_disc), 1, "disconnect");
			EXPECT(t, R(client_transmission_no_disconnect), all_ended(d),
			       "the client keeps the connection after NBD_CMD_DISC");
			EXPECT_EQ(t, R(baseline_client_disc), drive_sent_disc(d), 1);
			drive_finish(d);
		}
}
