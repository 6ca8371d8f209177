/* Option haggling: whatever legal reply an option gets, the client understands it, and leaves softly where it leaves. */
#include "cases/client/haggle.h"

#include "harness/client.h"
#include "harness/nbd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- options that are refused ---- */

struct refuse {
	uint32_t option, type;
	const char *text;
	bool consistent; /* NBD_OPT_INFO, NBD_OPT_GO and NBD_OPT_EXPORT_NAME all fail, as they do for one export */
};

static bool
names_export(uint32_t option)
{
	return option == NBD_OPT_INFO || option == NBD_OPT_GO || option == NBD_OPT_EXPORT_NAME;
}

static bool
refuse(void *arg, struct conn *c, const struct incoming *m)
{
	const struct refuse *r = arg;

	if (m->kind != MSG_OPTION ||
	    (m->option.option != r->option && !(r->consistent && names_export(m->option.option))))
		return false;
	return m->option.option == NBD_OPT_EXPORT_NAME ? say_close(c) : say_error(c, r->type, r->text);
}

static void
serve_refusing(struct drive *d, const struct refuse *r)
{
	drive_serve(d, "", NULL);
	drive_follow(d, &(struct script){ .take = refuse, .arg = (void *)r });
}

/* None, a sentence, and the longest string that there may be (proto.md:38). */
enum { N_TEXTS = 3 };
static const char *const text_names[N_TEXTS] = { "no text", "a text", "a text of 4096 bytes" };

static const char *
error_text(unsigned i)
{
	static char longest[NBD_MAX_STRING + 1];

	memset(longest, 'x', NBD_MAX_STRING);
	return i == 0 ? "" : i == 1 ? "this cannot be, says the server" : longest;
}

static enum requirement_id
owed_to_text(unsigned i, enum requirement_id without)
{
	return i == 0 ? without : R(client_reads_option_reply);
}

static void
judge_shutdown(struct drive *d, uint32_t type)
{
	if (type != NBD_REP_ERR_SHUTDOWN)
		return;
	EXPECT(d->t, R(client_aborts_on_shutdown), all_ended(d),
	       "the client keeps the connection after NBD_REP_ERR_SHUTDOWN: it is to send NBD_OPT_ABORT and leave");
}

CASE_DRIVER(haggling, go_refused,
            "When the server refuses to go, whatever the error and its text, the client says so and leaves softly",
            R(baseline_client_info_go), R(client_reads_option_reply), R(client_aborts_on_shutdown),
            R(client_abandons_softly), R(client_handshake_no_hard_disconnect), R(client_block_size_uses_go))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_TEXTS * N_REFUSALS; i++)
		POINT(t, "%s, %s", refusals[i / N_TEXTS].name, text_names[i % N_TEXTS]) {
			struct refuse r = { NBD_OPT_GO, refusals[i / N_TEXTS].type, error_text(i % N_TEXTS), true };

			serve_refusing(d, &r);
			d->owed = owed_to_text(i % N_TEXTS, R(baseline_client_info_go));
			must_fail(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
			judge_shutdown(d, r.type);
			let_leave(d);
			drive_finish(d);
		}
}

/* Any error but NBD_REP_ERR_UNSUP leaves the client the choice; the text of one changes nothing. */
static void
without_structured(struct drive *d, uint32_t type, unsigned text)
{
	struct refuse r = { NBD_OPT_STRUCTURED_REPLY, type, error_text(text), false };
	bool works;

	serve_refusing(d, &r);
	d->owed = owed_to_text(text, R(structured_reply_unsup_handled));
	works = session_works(d, R(baseline_client_simple_replies));
	if (!works && type == NBD_REP_ERR_UNSUP)
		deviates(d->t, owed_to_text(text, R(structured_reply_unsup_handled)),
		         "'connect' is answered 'ok', and simple replies are used", "'error'");
	if (!works)
		judge_shutdown(d, type);
	let_leave(d);
	drive_finish(d);
}

CASE_DRIVER(haggling, structured_refused,
            "When NBD_OPT_STRUCTURED_REPLY is refused as unknown the client goes on with simple replies; else it does, "
            "or leaves softly",
            R(structured_reply_unsup_handled), R(client_reads_option_reply), R(baseline_client_simple_replies),
            R(client_aborts_on_shutdown), R(set_meta_after_structured), R(list_meta_after_structured),
            R(client_metadata_needs_structured), R(payload_extensions_need_structured), R(client_df_unadvertised))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_TEXTS * N_REFUSALS; i++)
		POINT(t, "%s, %s", refusals[i / N_TEXTS].name, text_names[i % N_TEXTS]) {
			ask(d, 1, "set context=base:allocation");
			without_structured(d, refusals[i / N_TEXTS].type, i % N_TEXTS);
		}
}

/* ---- in haggling, where the user goes on ---- */

static const struct haggled {
	const char *operation;
	uint32_t option;
	enum requirement_id understood;
} haggled[] = {
	{ "info", NBD_OPT_INFO, R(baseline_client_info_go) },
	{ "list", NBD_OPT_LIST, R(baseline_client_list) },
	{ "contexts base:", NBD_OPT_LIST_META_CONTEXT, R(client_reads_option_reply) },
};
enum { N_HAGGLED = sizeof(haggled) / sizeof(haggled[0]) };

static void
refuse_one(struct drive *d, const struct haggled *h, const struct refusal *refusal, unsigned text)
{
	struct refuse r = { h->option, refusal->type, error_text(text), false };
	char name[32];

	drive_needs(d, "haggle", NULL);
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(h->operation, " "), h->operation);
	drive_needs(d, name, NULL);
	drive_needs(d, "go", NULL);
	serve_refusing(d, &r);
	d->owed = owed_to_text(text, h->understood);
	must(d, R(baseline_client_fixed_newstyle), 1, "haggle %s", d->uri);
	must_fail(d, h->understood, 1, "%s", h->operation);
	/* After NBD_REP_ERR_SHUTDOWN the session is to end; the user, or the client, does it. */
	if (r.type == NBD_REP_ERR_SHUTDOWN) {
		ask(d, 1, "disconnect");
		let_leave(d);
	} else {
		must(d, R(client_reads_option_reply), 1, "go");
		connected_must_work(d, R(client_reads_option_reply));
	}
	drive_finish(d);
}

CASE_DRIVER(haggling, options_refused,
            "An option that is refused, whatever the error and its text, fails, and the next one is answered as ever",
            R(baseline_client_info_go), R(baseline_client_list), R(client_reads_option_reply),
            R(client_aborts_on_shutdown))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_HAGGLED * N_REFUSALS; i++)
		POINT(t, "%s, %s, %s", haggled[i / N_REFUSALS].operation, refusals[i % N_REFUSALS].name,
		      text_names[i % N_TEXTS])
			refuse_one(d, &haggled[i / N_REFUSALS], &refusals[i % N_REFUSALS], i % N_TEXTS);
}

CASE_DRIVER(
	haggling, unknown_export,
	"An export that the server does not have is refused, in haggling too, and one that it has can still be entered",
	R(baseline_client_info_go), R(client_abandons_softly))
{
	struct drive *d = drive_new(t);

	drive_needs(d, "haggle", NULL);
	drive_needs(d, "info", NULL);
	drive_needs(d, "go", NULL);
	drive_serve(d, "name=there", "name=too,size=64k", NULL);
	d->owed = R(baseline_client_info_go);
	must(d, R(baseline_client_fixed_newstyle), 1, "haggle %s", d->uri);
	must_fail(d, R(baseline_client_info_go), 1, "info export=nowhere");
	must_fail(d, R(baseline_client_info_go), 1, "go export=nowhere");
	must(d, R(baseline_client_info_go), 1, "info export=too");
	must(d, R(baseline_client_info_go), 1, "go export=there");
	connected_must_work(d, R(baseline_client_info_go));
	drive_finish(d);
}

/* ---- the information of NBD_OPT_INFO and NBD_OPT_GO ---- */

enum { N_INFOS = 5, UNKNOWN_INFO = 0x7ff0 };

struct told {
	struct fake_export *export;
	unsigned order[N_INFOS]; /* NBD_INFO_… , and 4 for one that nobody knows */
	unsigned n;
	uint16_t unknown_type;
	size_t unknown_length;
};

static void
tell_info(struct conn *c, const struct told *told, unsigned what)
{
	static const uint8_t bytes[65536];

	switch (what) {
	case NBD_INFO_EXPORT:
		say_export(c, told->export);
		break;
	case NBD_INFO_NAME:
		say_info(c, NBD_INFO_NAME, "the-name", 8);
		break;
	case NBD_INFO_DESCRIPTION:
		say_info(c, NBD_INFO_DESCRIPTION, "a description", 13);
		break;
	case NBD_INFO_BLOCK_SIZE:
		say_block_size(c, 1, 65536, 1 << 20);
		break;
	default:
		say_info(c, told->unknown_type, bytes, told->unknown_length);
	}
}

static bool
tell_infos(void *arg, struct conn *c, const struct incoming *m)
{
	const struct told *told = arg;
	uint32_t option = m->kind == MSG_OPTION ? m->option.option : 0;

	if (option != NBD_OPT_GO && option != NBD_OPT_INFO)
		return false;
	for (unsigned i = 0; i < told->n; i++)
		tell_info(c, told, told->order[i]);
	say_ack(c);
	return option == NBD_OPT_INFO || say_entered(c, told->export);
}

static int
by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A driver may tell what it knows in any order. */
static char *
sort_words(const char *text)
{
	char *words[64], *copy = strdup(text), *rest = copy, *sorted = NULL;
	size_t n = 0, len;
	FILE *f = open_memstream(&sorted, &len);

	while (n < 64 && (words[n] = strsep(&rest, " ")) != NULL)
		n++;
	qsort(words, n, sizeof(words[0]), by_text);
	for (size_t i = 0; i < n; i++)
		fprintf(f, "%s%s", i > 0 ? " " : "", words[i]);
	fclose(f);
	free(copy);
	return sorted;
}

/* What the client says of the export, in haggling where it can, and when it has connected. */
static char *
what_is_told(struct drive *d, struct told *told, enum requirement_id r)
{
	const char *info = "", *connected;
	char *text, *sorted;

	drive_serve(d, "", NULL);
	told->export = &d->exports[0];
	drive_follow(d, &(struct script){ .take = tell_infos, .arg = told });
	d->owed = r;
	if (driver_has(d->driver, "haggle", NULL) && driver_has(d->driver, "info", NULL)) {
		must(d, r, 2, "haggle %s", d->uri);
		info = must(d, r, 2, "info");
		ask(d, 2, "disconnect");
	}
	ask(d, 1, "set full-info=on");
	connected = must(d, r, 1, "connect %s", d->uri);
	if (asprintf(&text, "%s %s", info, connected) < 0)
		abort();
	sorted = sort_words(text);
	free(text);
	connected_must_work(d, r);
	drive_finish(d);
	return sorted;
}

/* The nth permutation, by factorial digits. */
static void
permute(unsigned order[N_INFOS], unsigned n)
{
	unsigned left[N_INFOS] = { 0, 1, 2, 3, 4 };

	for (unsigned i = 0, size = N_INFOS; size > 0; i++, size--) {
		unsigned pick = n % size;

		n /= size;
		order[i] = left[pick];
		memmove(&left[pick], &left[pick + 1], (size - pick - 1) * sizeof(left[0]));
	}
}

enum { PERMUTATIONS = 120 };

CASE_DRIVER(haggling, infos_in_any_order,
            "In whatever order the information on an export comes, the client says the same of it",
            R(info_order_not_relied_on), R(info_unknown_replies_ignored), R(baseline_client_info_go))
{
	struct drive *d = drive_new(t);
	char *volatile first = NULL;

	for (volatile unsigned i = 0; i < PERMUTATIONS; i += client_pairwise(d->client) ? 7 : 1)
		POINT(t, "order %u", i) {
			struct told told = { .n = N_INFOS, .unknown_type = UNKNOWN_INFO, .unknown_length = 5 };
			char *text;

			permute(told.order, i);
			text = what_is_told(d, &told, R(info_order_not_relied_on));
			if (first == NULL)
				first = text;
			if (strcmp(text, first) != 0)
				broken_values(t, R(info_order_not_relied_on), first, text);
		}
}

static const struct {
	uint16_t type;
	size_t length;
} unknown_infos[] = { { 4, 0 },       { 4, 12 },      { UNKNOWN_INFO, 1 }, { 0xffff, 0 },    { 0xffff, 13 },
	              { 0x0300, 12 }, { 0x0100, 10 }, { 0x8001, 4096 },    { 0x1234, 65534 } };
enum { N_UNKNOWN_INFOS = sizeof(unknown_infos) / sizeof(unknown_infos[0]) };

CASE_DRIVER(haggling, unknown_infos,
            "Information of a type that nobody knows is ignored, whatever its length, and the next reply is found",
            R(info_unknown_replies_ignored), R(client_reads_option_reply))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_UNKNOWN_INFOS; i++)
		POINT(t, "type %u, %zu bytes", unknown_infos[i].type, unknown_infos[i].length) {
			struct told told = { .order = { 4, NBD_INFO_EXPORT, 4 },
				             .n = 3,
				             .unknown_type = unknown_infos[i].type,
				             .unknown_length = unknown_infos[i].length };

			free(what_is_told(d, &told, R(info_unknown_replies_ignored)));
		}
}

CASE_DRIVER(haggling, unasked_infos, "Information that the client has not asked for keeps it from no export",
            R(baseline_client_info_go))
{
	struct drive *d = drive_new(t);
	struct told told = { .order = { NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_EXPORT, NBD_INFO_BLOCK_SIZE },
		             .n = 4 };

	drive_serve(d, "", NULL);
	told.export = &d->exports[0];
	drive_follow(d, &(struct script){ .take = tell_infos, .arg = &told });
	d->owed = R(baseline_client_info_go);
	session_must_work(d, R(baseline_client_info_go));
	drive_finish(d);
}

/* ---- block sizes ---- */

static void
asks_for_sizes(struct drive *d, const char *block_size)
{
	drive_serve(d, "min=4096,pref=65536,max=1M", NULL);
	if (block_size != NULL)
		must(d, R(client_asks_block_size), 1, "set block-size=%s", block_size);
	d->owed = R(client_block_size_uses_go);
	if (driver_has(d->driver, "haggle", NULL) && driver_has(d->driver, "info", NULL) &&
	    driver_has(d->driver, "go", NULL)) {
		must(d, R(baseline_client_fixed_newstyle), 1, "haggle %s", d->uri);
		ask(d, 1, "info");
		if (ask(d, 1, "go").result == DRIVER_OK)
			connected_must_work(d, R(client_abides_by_block_size));
		else
			ask(d, 1, "disconnect");
	}
	if (!session_works(d, R(client_abides_by_block_size)))
		observe(d->t, R(client_asks_block_size), "the client does not enter an export whose block sizes bind");
	let_leave(d);
	drive_finish(d);
}

CASE_DRIVER(haggling, block_sizes_required,
            "Where the server requires that its block sizes be asked for, the client asks and obeys, or reports an "
            "error and leaves softly",
            R(client_asks_block_size), R(client_block_size_uses_go), R(client_abides_by_block_size),
            R(client_abandons_softly))
{
	static const char *const settings[] = { "as it is", "block-size=on", "block-size=off" };
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 3; i++)
		POINT(t, "%s", settings[i]) {
			if (i > 0)
				drive_needs(d, "set", "block-size");
			asks_for_sizes(d, i == 0 ? NULL : settings[i] + strlen("block-size="));
		}
}

/* ---- NBD_OPT_LIST ---- */

enum { LISTED_MOST = 1000 };
struct listing {
	unsigned n;
	struct bytes names[LISTED_MOST], details[LISTED_MOST];
};

static bool
tell_list(void *arg, struct conn *c, const struct incoming *m)
{
	const struct listing *l = arg;

	if (m->kind != MSG_OPTION || m->option.option != NBD_OPT_LIST)
		return false;
	for (unsigned i = 0; i < l->n; i++)
		say_server(c, l->names[i], l->details[i]);
	return say_ack(c);
}

static void
judge_list(struct drive *d, const struct listing *l, const char *text)
{
	char *name;
	unsigned n;

	for (n = 0; (name = nth_value(text, "export", n)) != NULL; n++) {
		if (n < l->n && !bytes_equal(bytes_of(name), l->names[n]))
			broken(d->t, R(baseline_client_list), "name %u of the list is not the one that the server sent",
			       n);
		free(name);
	}
	EXPECT_EQ(d->t, R(baseline_client_list), n, l->n);
}

static void
list_exports_of(struct drive *d, const struct listing *l)
{
	drive_serve(d, "", NULL);
	drive_follow(d, &(struct script){ .take = tell_list, .arg = (void *)l });
	d->owed = R(baseline_client_list);
	must(d, R(baseline_client_fixed_newstyle), 1, "haggle %s", d->uri);
	judge_list(d, l, must(d, R(baseline_client_list), 1, "list"));
	/* A second time, and then in step. */
	judge_list(d, l, must(d, R(baseline_client_list), 1, "list"));
	if (driver_has(d->driver, "go", NULL)) {
		must(d, R(client_reads_option_reply), 1, "go");
		connected_must_work(d, R(client_reads_option_reply));
	} else {
		must(d, R(baseline_client_abort), 1, "disconnect");
	}
	drive_finish(d);
}

/* Names that a server may have: any UTF-8 without a NUL (proto.md:35). */
static const char *const odd_names[] = {
	"a",
	"with blanks in it",
	"/leading/and/trailing/",
	"%41%zz%",
	"a?b#c&d=e;f,g:h",
	"\"quoted\" 'and' \\escaped\\",
	"\x01\t\n\x7f",
	"\xc3\xbc"
	"ber \xe2\x82\xac",
	"\xf0\x9f\x92\xbe\xef\xbb\xbf",
};
enum { N_ODD_NAMES = sizeof(odd_names) / sizeof(odd_names[0]) };

static void
fill_listing(struct listing *l, unsigned n, unsigned style)
{
	static char room[LISTED_MOST][24], longest[NBD_MAX_STRING];

	memset(longest, 'n', sizeof(longest));
	*l = (struct listing){ .n = n };
	for (unsigned i = 0; i < n; i++) {
		snprintf(room[i], sizeof(room[i]), "export-%u", i);
		l->names[i] = bytes_of(style == 1 ? odd_names[i % N_ODD_NAMES] : room[i]);
		if (style == 2 && i % 2 == 0)
			l->details[i] = bytes_of("a description");
		if (style == 3)
			l->names[i] = (struct bytes){ (uint8_t *)longest, sizeof(longest) };
		if (style == 4)
			l->details[i] = (struct bytes){ (uint8_t *)longest, sizeof(longest) };
	}
}

CASE_DRIVER(
	haggling, lists,
	"However many exports the server lists, with whatever names and descriptions, the client tells exactly these",
	R(baseline_client_list), R(client_reads_option_reply), R(list_no_data))
{
	static const struct {
		const char *name;
		unsigned n, style;
	} lists[] = { { "none", 0, 0 },
		      { "one", 1, 0 },
		      { "1000", LISTED_MOST, 0 },
		      { "odd names", N_ODD_NAMES, 1 },
		      { "descriptions", 10, 2 },
		      { "names of 4096 bytes", 3, 3 },
		      { "descriptions of 4096 bytes", 3, 4 } };
	struct drive *d = drive_new(t);
	struct listing l;

	drive_needs(d, "haggle", NULL);
	drive_needs(d, "list", NULL);
	for (volatile unsigned i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		POINT(t, "%s", lists[i].name) {
			fill_listing(&l, lists[i].n, lists[i].style);
			list_exports_of(d, &l);
		}
}

/* ---- NBD_OPT_ABORT ---- */

enum abort_answer { ACK_AND_CLOSE, CLOSE_ALONE, ACK_ALONE };

static bool
answer_abort(void *arg, struct conn *c, const struct incoming *m)
{
	enum abort_answer how = *(enum abort_answer *)arg;

	if (m->kind != MSG_OPTION || m->option.option != NBD_OPT_ABORT || how == ACK_AND_CLOSE)
		return false;
	return how == CLOSE_ALONE ? say_close(c) : say_ack(c);
}

static void
abort_session(struct drive *d, enum abort_answer how, enum requirement_id r)
{
	struct driver_answer a;

	drive_serve(d, "", NULL);
	drive_follow(d, &(struct script){ .take = answer_abort, .arg = &how });
	must(d, R(baseline_client_fixed_newstyle), 1, "haggle %s", d->uri);
	d->owed = r;
	a = ask(d, 1, "disconnect");
	if (a.result != DRIVER_OK)
		deviates(d->t, r, "'disconnect' is answered 'ok'", a.text);
	EXPECT(d->t, R(client_abort_drops_connection), all_ended(d),
	       "the client keeps the connection after NBD_OPT_ABORT: it is to drop it");
	EXPECT_EQ(d->t, r == R(baseline_client_abort) ? r : R(client_abandons_softly), drive_options(d, NBD_OPT_ABORT),
	          1);
	/* And the same object can go on. */
	session_must_work(d, r);
	drive_finish(d);
}

CASE_DRIVER(haggling, aborts,
            "The haggling ends by NBD_OPT_ABORT, and in good order even if the server does not answer it, or waits for "
            "the client to close",
            R(baseline_client_abort), R(abort_unanswered_graceful), R(client_abort_drops_connection),
            R(client_abandons_softly), R(client_handshake_no_hard_disconnect), R(abort_no_data))
{
	static const struct {
		const char *name;
		enum abort_answer how;
		enum requirement_id r;
	} aborts[] = { { "acknowledged", ACK_AND_CLOSE, R(baseline_client_abort) },
		       { "closed without an answer", CLOSE_ALONE, R(abort_unanswered_graceful) },
		       { "acknowledged, not closed", ACK_ALONE, R(client_abort_drops_connection) } };
	struct drive *d = drive_new(t);

	drive_needs(d, "haggle", NULL);
	for (volatile unsigned i = 0; i < sizeof(aborts) / sizeof(aborts[0]); i++)
		POINT(t, "%s", aborts[i].name)
			abort_session(d, aborts[i].how, aborts[i].r);
}
