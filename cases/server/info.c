/* NBD_OPT_INFO: each information that it sends, names, unknown exports; malformed data of NBD_OPT_INFO and NBD_OPT_GO. */
#include "cases/server/go.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const uint32_t both_options[] = { NBD_OPT_INFO, NBD_OPT_GO };

/* We broke a MUST: the server may leave us (proto.md:243), but not the next client. */
static void
expect_served_elsewhere(struct test *t, const char *what)
{
	observe(t, R(bad_option_may_close), "%s ends the session", what);
	expect_next_client_served(t, R(handshake_no_hard_disconnect));
}

/* ---- the answer ---- */

CASE(info, is_known, "NBD_OPT_INFO is implemented: it tells size and transmission flags of the export under test",
     R(baseline_info_go), R(info_export_sent), R(info_final_reply))
{
	struct infos infos;

	open_fixed_newstyle(t);
	send_go(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE).at, 1);
	infos = recv_infos(t, R(info_final_reply));
	EXPECT(t, R(baseline_info_go), infos.final != NBD_REP_ERR_UNSUP,
	       "the server speaks fixed newstyle, but does not know NBD_OPT_INFO");
	haggle_again(t);
	ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	expect_in_step(t, R(info_stays_in_haggling));
}

CASE(info, export_only, "NBD_OPT_INFO that asks for nothing gets NBD_INFO_EXPORT, 12 bytes long, and then the ACK",
     R(info_empty_list_taken), R(info_export_sent), R(info_export_length), R(info_final_reply),
     R(info_may_send_unrequested))
{
	struct infos infos;

	open_fixed_newstyle(t);
	infos = ask_known(t, NBD_OPT_INFO, export_name(t), NO_REQUESTS, R(info_empty_list_taken));
	if (infos.count > infos.n_export)
		observe(t, R(info_may_send_unrequested), "unasked: %u NAME, %u DESCRIPTION, %u BLOCK_SIZE, %u others",
		        infos.n_name, infos.n_description, infos.n_block_size, infos.n_unknown);
	expect_in_step(t, R(info_stays_in_haggling));
}

CASE(info, export_asked_for, "NBD_OPT_INFO that asks for NBD_INFO_EXPORT by its number is answered as if it had not",
     R(info_export_sent), R(info_once_each))
{
	struct infos infos;

	open_fixed_newstyle(t);
	ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	infos = ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_EXPORT, NBD_INFO_BLOCK_SIZE),
	                  R(info_export_sent));
	EXPECT(t, R(info_once_each), infos.n_export == 1, "NBD_INFO_EXPORT came %u times", infos.n_export);
	expect_in_step(t, R(info_stays_in_haggling));
}

/* recv_infos() looks at the layout of each. */
CASE(info, layouts, "Every information that NBD_OPT_INFO and NBD_OPT_GO send has the layout and length of its type",
     R(info_reply_layout), R(info_export_length), R(info_block_size_length), R(info_go_same_format), R(info_any_order),
     R(info_may_ignore_requests))
{
	for (const uint32_t *volatile o = both_options; o < both_options + 2; o++)
		POINT(t, "%s", option_name(*o)) {
			struct infos infos;

			open_fixed_newstyle(t);
			infos = ask_known(t, *o, export_name(t), ALL_REQUESTS, R(info_go_same_format));
			if (infos.n_name == 0 || infos.n_description == 0 || infos.n_block_size == 0)
				observe(t, R(info_may_ignore_requests), "asked for, but not sent:%s%s%s",
				        infos.n_name ? "" : " NAME", infos.n_description ? "" : " DESCRIPTION",
				        infos.n_block_size ? "" : " BLOCK_SIZE");
			if (*o == NBD_OPT_GO)
				take_go(t, &infos);
			expect_in_step(t, R(info_final_reply));
		}
}

CASE(info, once_each, "No information type comes twice in an answer to NBD_OPT_INFO or NBD_OPT_GO", R(info_once_each))
{
	for (const uint32_t *volatile o = both_options; o < both_options + 2; o++)
		POINT(t, "%s", option_name(*o)) {
			struct infos infos;

			open_fixed_newstyle(t);
			infos = ask_known(t, *o, export_name(t), ALL_REQUESTS, R(info_go_same_format));
			EXPECT(t, R(info_once_each), infos.n_export <= 1, "NBD_INFO_EXPORT came %u times",
			       infos.n_export);
			EXPECT(t, R(info_once_each), infos.n_name <= 1, "NBD_INFO_NAME came %u times", infos.n_name);
			EXPECT(t, R(info_once_each), infos.n_description <= 1, "NBD_INFO_DESCRIPTION came %u times",
			       infos.n_description);
			EXPECT(t, R(info_once_each), infos.n_block_size <= 1, "NBD_INFO_BLOCK_SIZE came %u times",
			       infos.n_block_size);
		}
}

/* We break proto.md:1276 here: the server may refuse, or leave, or take us by the word (nbdkit does). */
CASE(info, asked_twice,
     "NBD_OPT_INFO that asks twice for the same information is answered, and the next option is understood",
     R(option_gets_reply), R(option_malformed_invalid), R(option_data_consumed), R(bad_option_may_close))
{
	struct infos infos;

	open_fixed_newstyle(t);
	ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	send_go(t, NBD_OPT_INFO, export_name(t),
	        REQUESTS(NBD_INFO_BLOCK_SIZE, NBD_INFO_NAME, NBD_INFO_BLOCK_SIZE, NBD_INFO_NAME).at, 4);
	if (!peer_goes_on(t, R(option_gets_reply))) {
		expect_served_elsewhere(t, "an information that is asked for twice");
		return;
	}
	infos = recv_infos(t, R(option_gets_reply));
	EXPECT_REPLY(t, R(option_malformed_invalid), infos.final, NBD_REP_ACK, NBD_REP_ERR_INVALID, NBD_REP_ERR_POLICY,
	             NBD_REP_ERR_SHUTDOWN);
	if (infos.n_block_size > 1 || infos.n_name > 1)
		observe(t, R(info_once_each), "what is asked for twice is sent twice");
	expect_in_step(t, R(option_data_consumed));
}

CASE(info, stays_in_haggling,
     "After a successful NBD_OPT_INFO the next option is answered, another NBD_OPT_INFO among them",
     R(info_stays_in_haggling), R(info_final_reply))
{
	open_fixed_newstyle(t);
	for (int i = 0; i < 5; i++) {
		ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE),
		          i == 0 ? R(baseline_info_go) : R(info_stays_in_haggling));
		expect_in_step(t, R(info_stays_in_haggling));
	}
}

CASE(info, same_as_export_name, "NBD_OPT_INFO tells the size and transmission flags that NBD_OPT_EXPORT_NAME tells",
     R(info_export_same_as_export_name))
{
	struct export_name_reply r = by_export_name(t, export_name(t));
	struct infos infos;

	haggle_again(t);
	infos = ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	expect_number(t, R(info_export_same_as_export_name), "the size by INFO", infos.export.size, r.size);
	expect_number(t, R(info_export_same_as_export_name), "the transmission flags by INFO", infos.export.flags,
	              r.flags);
	expect_in_step(t, R(info_stays_in_haggling));
}

/* ---- requests that nobody knows ---- */

static void
expect_as_if_absent(struct test *t, const struct infos *got, const struct infos *want)
{
	enum requirement_id r = R(info_ignores_unknown_requests);

	expect_number(t, r, "the size", got->export.size, want->export.size);
	expect_number(t, r, "NBD_INFO_NAME", got->n_name > 0, want->n_name > 0);
	expect_number(t, r, "NBD_INFO_DESCRIPTION", got->n_description > 0, want->n_description > 0);
	expect_number(t, r, "NBD_INFO_BLOCK_SIZE", got->n_block_size > 0, want->n_block_size > 0);
	EXPECT(t, r, got->n_unknown <= want->n_unknown, "an information of an unknown type came for the request");
}

CASE(info, unknown_requests,
     "Information requests that the server does not know are ignored, those among them that it knows are not",
     R(info_ignores_unknown_requests))
{
	const struct requests known = REQUESTS(NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE);
	const struct {
		const char *name;
		struct requests list, known;
	} points[] = {
		{ "4", REQUESTS(NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE, 4), known },
		{ "0xffff", REQUESTS(NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE, 0xffff), known },
		{ "0x8000 first", REQUESTS(0x8000, NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE), known },
		{ "among known",
		  REQUESTS(0xffff, NBD_INFO_NAME, 0x20, NBD_INFO_DESCRIPTION, 0x21, NBD_INFO_BLOCK_SIZE, 0x40), known },
		{ "0x101 and 0x103", REQUESTS(0x101, 0x103), NO_REQUESTS },
		{ "0x102 and 0x300", REQUESTS(0x102, NBD_INFO_BLOCK_SIZE, 0x300), REQUESTS(NBD_INFO_BLOCK_SIZE) },
	};

	for (const uint32_t *volatile o = both_options; o < both_options + 2; o++)
		for (volatile size_t i = 0; i < COUNT(points); i++)
			POINT(t, "%s %s", option_name(*o), points[i].name) {
				struct infos want, got;

				open_fixed_newstyle(t);
				want = ask_known(t, *o, export_name(t), points[i].known, R(baseline_info_go));
				haggle_again(t);
				got = ask_known(t, *o, export_name(t), points[i].list,
				                R(info_ignores_unknown_requests));
				expect_as_if_absent(t, &got, &want);
				if (*o == NBD_OPT_GO)
					take_go(t, &got);
				expect_in_step(t, R(info_ignores_unknown_requests));
			}
}

/* A server may find it too big (proto.md:1702), or take it for a denial of service (proto.md:272). */
static void
ask_long_list(struct test *t, uint32_t option, unsigned n)
{
	static uint16_t list[65536];
	struct infos infos;

	for (unsigned i = 0; i < n; i++)
		list[i] = (uint16_t)(NBD_INFO_BLOCK_SIZE + i);
	send_go(t, option, export_name(t), list, n);
	if (n > 1000 && !peer_goes_on(t, R(option_gets_reply))) {
		observe(t, R(haggling_denial_of_service_close), "%u information requests end the session", n);
		expect_next_client_served(t, R(handshake_no_hard_disconnect));
		return;
	}
	infos = recv_infos(t, R(option_gets_reply));
	EXPECT_REPLY(t, R(info_ignores_unknown_requests), infos.final, NBD_REP_ACK, NBD_REP_ERR_TOO_BIG);
	if (option == NBD_OPT_GO && infos.final == NBD_REP_ACK)
		take_go(t, &infos);
	expect_in_step(t, R(option_data_consumed));
}

CASE(info, long_lists,
     "A list of 1000 and more information requests, all but one unknown, is served or found too big, and the next "
     "option understood",
     R(info_ignores_unknown_requests), R(option_data_consumed), R(option_gets_reply),
     R(haggling_denial_of_service_close))
{
	static const unsigned lengths[] = { 1000, 8190, 32765, 65532 };

	for (const uint32_t *volatile o = both_options; o < both_options + 2; o++)
		for (volatile size_t i = 0; i < COUNT(lengths); i++)
			POINT(t, "%s requests=%u", option_name(*o), lengths[i]) {
				open_fixed_newstyle(t);
				ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE),
				          R(baseline_info_go));
				/* Behind an INFO with other parameters GO may fail (proto.md:1345-1347). */
				haggle_again(t);
				ask_long_list(t, *o, lengths[i]);
			}
}

/* ---- names and descriptions ---- */

static bool
listed(const struct listed *list, const char *name, size_t length)
{
	for (unsigned i = 0; i < list->count; i++)
		if (list->exports[i].name_length == length && memcmp(list->exports[i].name, name, length) == 0)
			return true;
	return false;
}

/* LIST may be refused, or a server may serve names that it cannot enumerate; a name that it calls canonical opens. */
static void
expect_canonical(struct test *t, const struct infos *asked)
{
	struct bytes name = { (const uint8_t *)asked->name, asked->name_length };
	struct infos by_name =
		ask_info(t, NBD_OPT_INFO, name, REQUESTS(NBD_INFO_BLOCK_SIZE, NBD_INFO_NAME), R(info_name_canonical));

	EXPECT_REPLY(t, R(info_name_canonical), by_name.final, NBD_REP_ACK);
	expect_number(t, R(info_name_canonical), "the size under the name in NBD_INFO_NAME", by_name.export.size,
	              asked->export.size);
	expect_number(t, R(info_name_canonical), "the transmission flags under the name in NBD_INFO_NAME",
	              by_name.export.flags, asked->export.flags);
}

CASE(info, canonical_name, "The name in NBD_INFO_NAME opens the same export, and is the one that NBD_OPT_LIST names",
     R(info_name_canonical), R(info_name_may_differ), R(info_name_may_be_omitted))
{
	struct bytes asked = export_name(t);
	struct infos infos;
	struct listed list;

	open_fixed_newstyle(t);
	infos = ask_known(t, NBD_OPT_INFO, asked, REQUESTS(NBD_INFO_NAME, NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	if (infos.n_name == 0) {
		observe(t, R(info_name_may_be_omitted), "NBD_INFO_NAME is not sent");
		return;
	}
	expect_canonical(t, &infos);
	list = list_exports(t);
	if (infos.name_length != asked.len || memcmp(infos.name, asked.at, asked.len) != 0)
		observe(t, R(info_name_may_differ), "the canonical name differs from the one that was asked for");
	EXPECT(t, R(info_name_canonical),
	       listed(&list, infos.name, infos.name_length) || !listed(&list, (const char *)asked.at, asked.len),
	       "LIST names the export \"%.*s\", and not \"%s\" as NBD_INFO_NAME calls it", (int)asked.len, asked.at,
	       infos.name);
}

CASE(info, description_as_listed, "The text in NBD_INFO_DESCRIPTION is the one that NBD_OPT_LIST gives behind the name",
     R(info_description_same_as_list))
{
	struct infos infos;
	struct listed list;
	unsigned compared = 0;

	open_fixed_newstyle(t);
	list = list_exports(t);
	for (unsigned i = 0; i < list.count && i < 8; i++) {
		struct bytes name = { (const uint8_t *)list.exports[i].name, list.exports[i].name_length };

		infos = ask_info(t, NBD_OPT_INFO, name, REQUESTS(NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE),
		                 R(baseline_info_go));
		if (infos.final != NBD_REP_ACK || infos.n_description == 0 || list.exports[i].details_length == 0)
			continue;
		compared++;
		EXPECT(t, R(info_description_same_as_list),
		       infos.description_length == list.exports[i].details_length &&
		               memcmp(infos.description, list.exports[i].details, infos.description_length) == 0,
		       "export \"%s\" is described by LIST as \"%s\", by INFO as \"%s\"", list.exports[i].name,
		       list.exports[i].details, infos.description);
	}
	if (compared == 0)
		skip(t, "descriptions", "no export is described both by LIST and by INFO");
}

/* Continuation bytes that a first byte asks for; -1 where it can be no first byte of UTF-8. */
static int
continuations(const uint8_t *at, size_t left)
{
	int n = at[0] < 0x80 ? 0 : at[0] < 0xc2 ? -1 : at[0] < 0xe0 ? 1 : at[0] < 0xf0 ? 2 : at[0] < 0xf5 ? 3 : -1;

	if (n < 0 || (size_t)n >= left)
		return -1;
	for (int i = 1; i <= n; i++)
		if ((at[i] & 0xc0) != 0x80)
			return -1;
	/* Overlong forms, surrogates, and what lies beyond U+10FFFF. */
	if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) || (at[0] == 0xf0 && at[1] < 0x90) ||
	    (at[0] == 0xf4 && at[1] > 0x8f))
		return -1;
	return n;
}

static void
expect_string(struct test *t, const char *what, const char *s, size_t length)
{
	const uint8_t *at = (const uint8_t *)s;
	int n;

	if (s == NULL)
		return;
	EXPECT(t, R(server_strings_max_length), length <= NBD_MAX_STRING, "%s has %zu bytes", what, length);
	EXPECT(t, R(server_strings_no_nul), memchr(s, '\0', length) == NULL, "%s contains a NUL", what);
	for (size_t i = 0; i < length; i += (size_t)n + 1) {
		n = continuations(at + i, length - i);
		EXPECT(t, R(server_strings_utf8), n >= 0, "%s is no UTF-8 at byte %zu (0x%02x)", what, i, at[i]);
	}
	EXPECT(t, R(server_strings_short), length <= 256, "%s has %zu bytes", what, length);
}

CASE(info, strings, "Name and description, as NBD_OPT_INFO tells them, are UTF-8 of at most 4096 bytes without a NUL",
     R(server_strings_no_nul), R(server_strings_max_length), R(server_strings_utf8), R(server_strings_short))
{
	struct infos infos;

	open_fixed_newstyle(t);
	infos = ask_known(t, NBD_OPT_INFO, export_name(t), ALL_REQUESTS, R(baseline_info_go));
	expect_string(t, "the name in NBD_INFO_NAME", infos.name, infos.name_length);
	expect_string(t, "the text in NBD_INFO_DESCRIPTION", infos.description, infos.description_length);
}

/* Which information a reply too short for its type was meant to be, is told by what was asked for besides EXPORT. */
static void
expect_length_of(struct test *t, uint16_t type, enum requirement_id r)
{
	struct option_reply reply;
	struct rep_info info;

	open_fixed_newstyle(t);
	ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	send_go(t, NBD_OPT_INFO, export_name(t), REQUESTS(type).at, 1);
	for (unsigned n = 0; n < 1000; n++) {
		reply = recv_option_reply(t, R(info_final_reply));
		if (reply.type != NBD_REP_INFO)
			return;
		EXPECT(t, r, wire_get_rep_info(wire_over(reply.data), &info) == WIRE_EXACT,
		       "an NBD_REP_INFO has length %" PRIu32 ", where %s was asked for", reply.length,
		       name_of(NAME_INFO, type));
	}
}

CASE(info, name_length, "No answer to a request for NBD_INFO_NAME is shorter than the 2 bytes of its type",
     R(info_name_length))
{
	expect_length_of(t, NBD_INFO_NAME, R(info_name_length));
}

CASE(info, description_length,
     "No answer to a request for NBD_INFO_DESCRIPTION is shorter than the 2 bytes of its type",
     R(info_description_length))
{
	expect_length_of(t, NBD_INFO_DESCRIPTION, R(info_description_length));
}

CASE(info, empty_name,
     "The empty name in NBD_OPT_INFO and NBD_OPT_GO chooses the default export, as in NBD_OPT_EXPORT_NAME",
     R(info_empty_name_default))
{
	struct bytes empty = { (const uint8_t *)"", 0 };

	for (const uint32_t *volatile o = both_options; o < both_options + 2; o++)
		POINT(t, "%s", option_name(*o)) {
			struct export_name_reply r = by_export_name(t, empty);
			struct infos infos;

			haggle_again(t);
			infos = ask_info(t, *o, empty, REQUESTS(NBD_INFO_BLOCK_SIZE), R(info_empty_name_default));
			if (infos.final == NBD_REP_ERR_TLS_REQD || infos.final == NBD_REP_ERR_POLICY ||
			    infos.final == NBD_REP_ERR_SHUTDOWN)
				skip(t, option_name(*o), "the server refuses NBD_OPT_%s", option_name(*o));
			EXPECT_REPLY(t, R(info_empty_name_default), infos.final, NBD_REP_ACK);
			expect_number(t, R(info_empty_name_default), "the size", infos.export.size, r.size);
			expect_number(t, R(info_empty_name_default), "the transmission flags", infos.export.flags,
			              r.flags);
		}
}

/* ---- exports that do not exist ---- */

struct unknown {
	const char *label, *text;
	size_t length; /* 0: the text as it stands; else filled up with x */
};

static struct bytes
unknown_name(const struct unknown *u)
{
	static uint8_t name[NBD_MAX_STRING];
	size_t length = strlen(u->text);

	memcpy(name, u->text, length);
	if (u->length > length)
		memset(name + length, 'x', u->length - length);
	return (struct bytes){ name, u->length > length ? u->length : length };
}

/* CVE-2017-15118: 3000 bytes; CVE-2020-10761: a long name in the error's text; nbdkit faf614e3: 4096 bytes refused. */
static const struct unknown unknowns[] = {
	{ "short", "nbdspec-no-such-export", 0 },
	{ "format", "nbdspec %s%n%p%1000000d %%", 0 },
	{ "path", "/nbdspec/../../no such export/", 0 },
	{ "lines", "nbdspec\r\n\"no\" \\such\\ <export>\t\x1b[2J\x7f", 0 },
	{ "utf-8", "nbdspec \xc3\xa9\xe2\x82\xac\xf0\x9f\x92\xbe", 0 },
	{ "255", "nbdspec-", 255 },
	{ "256", "nbdspec-", 256 },
	{ "257", "nbdspec-", 257 },
	{ "1024", "nbdspec-", 1024 },
	{ "3000", "nbdspec-", 3000 },
	{ "4095", "nbdspec-", 4095 },
	{ "4096", "nbdspec-", 4096 },
	{ "4096 percent", "nbdspec-%n%s", 4096 },
};

CASE(info, unknown_export,
     "NBD_OPT_INFO and NBD_OPT_GO of an export that does not exist get NBD_REP_ERR_UNKNOWN without information, "
     "whatever its name is",
     R(info_unknown_export), R(info_unknown_no_infos), R(unknown_may_be_tls_reqd), R(notls_no_tls_reqd),
     R(server_errors_unwelcome_client))
{
	for (const uint32_t *volatile o = both_options; o < both_options + 2; o++)
		for (volatile size_t i = 0; i < COUNT(unknowns); i++)
			POINT(t, "%s %s", option_name(*o), unknowns[i].label) {
				struct bytes name = unknown_name(&unknowns[i]);
				struct infos infos;

				need_unknown_names(t);
				infos = ask_info(t, *o, name, REQUESTS(NBD_INFO_BLOCK_SIZE), R(info_unknown_export));
				expect_unknown(t, &infos, name);
				expect_in_step(t, R(server_errors_unwelcome_client));
			}
}

CASE(info, unknown_then_known,
     "NBD_OPT_INFO of an export that does not exist, and then of one that does: only the first is refused",
     R(info_unknown_export), R(baseline_info_go), R(info_stays_in_haggling))
{
	struct infos infos;

	need_unknown_names(t);
	for (int i = 0; i < 3; i++) {
		ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
		infos = ask_info(t, NBD_OPT_INFO, unknown_export_name(), REQUESTS(NBD_INFO_BLOCK_SIZE),
		                 R(info_unknown_export));
		expect_unknown(t, &infos, unknown_export_name());
	}
	expect_in_step(t, R(info_stays_in_haggling));
}

/* ---- data that is no valid request ---- */

enum { WHOLE = 1 << 30 };

/* Data of NBD_OPT_INFO or NBD_OPT_GO, each field as it is written. */
struct malformed {
	const char *label;
	uint32_t name_length;
	uint32_t name_sent; /* bytes */
	uint16_t count;
	uint32_t infos_sent; /* bytes */
	uint32_t cut;        /* only so many bytes of all this, or WHOLE */
};

/* CVE-2022-26495: a name length of 0xffffffff; CVE-2022-26496: more than 1024 bytes with lengths that disagree. */
static const struct malformed shapes[] = {
	{ "empty", 0, 0, 0, 0, 0 },
	{ "1 byte", 0, 0, 0, 0, 1 },
	{ "2 bytes", 0, 0, 0, 0, 2 },
	{ "3 bytes", 0, 0, 0, 0, 3 },
	{ "4 bytes", 0, 0, 0, 0, 4 },
	{ "5 bytes", 0, 0, 0, 0, 5 },
	{ "name 1 longer", 1, 0, 0, 0, WHOLE },
	{ "name 2 longer", 2, 0, 0, 0, WHOLE },
	{ "name 3 longer", 3, 0, 0, 0, WHOLE },
	{ "name 10 of 9", 10, 9, 0, 0, WHOLE },
	{ "name little-endian", 0x07000000, 7, 0, 0, WHOLE },
	{ "name 0x7fffffff", 0x7fffffff, 0, 0, 0, WHOLE },
	{ "name 0x80000000", 0x80000000, 0, 0, 0, WHOLE },
	{ "name 0xfffffffa", 0xfffffffa, 0, 0, 0, WHOLE },
	{ "name 0xfffffffe", 0xfffffffe, 2, 0, 0, WHOLE },
	{ "name 0xffffffff", 0xffffffff, 0, 0, 0, WHOLE },
	{ "name 0xffffffff of 2000", 0xffffffff, 2000, 0, 0, WHOLE },
	{ "name 1200 of 1018", 1200, 1018, 0, 0, WHOLE },
	{ "name 4000 of 1100", 4000, 1100, 0, 0, WHOLE },
	{ "name 10 of 2000", 10, 2000, 0, 0, WHOLE },
	{ "name 0 of 5000", 0, 5000, 0, 0, WHOLE },
	{ "1 request, none there", 0, 0, 1, 0, WHOLE },
	{ "1 request, half there", 0, 0, 1, 1, WHOLE },
	{ "2 requests, 1 there", 0, 0, 2, 2, WHOLE },
	{ "65535 requests, none there", 0, 0, 0xffff, 0, WHOLE },
	{ "65535 requests, 600 there", 0, 0, 0xffff, 1200, WHOLE },
	{ "1 byte behind", 0, 0, 0, 1, WHOLE },
	{ "1 request behind", 0, 0, 0, 2, WHOLE },
	{ "2 requests for 1", 0, 0, 1, 4, WHOLE },
	{ "64 KiB of zeroes", 0, 0, 0, 65530, WHOLE },
};

static void
put_filled(struct buf *b, uint8_t byte, uint32_t n)
{
	if (n > 0)
		memset(buf_grow(b, n), byte, n);
}

static void
send_malformed(struct test *t, uint32_t option, const struct malformed *m)
{
	struct buf b = { 0 };

	put_be32(&b, m->name_length);
	put_filled(&b, 'n', m->name_sent);
	put_be16(&b, m->count);
	put_filled(&b, 0, m->infos_sent);
	send_option(t, option, b.at, b.len < m->cut ? b.len : m->cut);
	buf_free(&b);
}

/*
 * A wrong request was sent; it is refused in one of the ways that are allowed, or the session ends. *answered is told in
 * time: a server that waits for more data than it was promised makes a point last as long as our patience does.
 */
static void
expect_refused(struct test *t, const char *label, enum requirement_id r, const uint64_t *allowed, size_t n,
               volatile bool *answered)
{
	struct infos infos;

	if (!peer_goes_on(t, R(option_gets_reply))) {
		*answered = true;
		expect_served_elsewhere(t, label);
		return;
	}
	infos = recv_infos(t, R(option_gets_reply));
	*answered = true;
	expect_one_of(t, r, NAME_REPLY, infos.final, allowed, n);
	*answered = false;
	expect_in_step(t, R(option_data_consumed));
	*answered = true;
}

enum { MOST_UNANSWERED = 2 }; /* after so many points the others would tell nothing new, and take long */

static void
ask_malformed(struct test *t, uint32_t option, const struct malformed *m, volatile bool *answered)
{
	static const uint64_t allowed[] = { REFUSALS_OF_MALFORMED };

	open_fixed_newstyle(t);
	*answered = true;
	ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	*answered = false;
	send_malformed(t, option, m);
	expect_refused(t, m->label, R(option_malformed_invalid), allowed, COUNT(allowed), answered);
}

CASE(info, malformed,
     "NBD_OPT_INFO and NBD_OPT_GO whose lengths disagree are refused as invalid, and the next option is understood; or "
     "the session ends",
     R(option_malformed_invalid), R(option_data_consumed), R(option_gets_reply), R(bad_option_may_close),
     R(handshake_no_hard_disconnect))
{
	volatile unsigned unanswered = 0;
	volatile bool answered = false;

	for (const uint32_t *volatile o = both_options; o < both_options + 2; o++)
		for (volatile size_t i = 0; i < COUNT(shapes); i++) {
			POINT(t, "%s %s", option_name(*o), shapes[i].label)
				ask_malformed(t, *o, &shapes[i], &answered);
			unanswered += !answered;
			if (unanswered >= MOST_UNANSWERED)
				return;
		}
}

/* Names that proto.md:35-38 rules out; the layout is right. nbdkit 1913af3f: what follows a NUL was ignored. */
static const struct bad_name {
	const char *label, *text;
	size_t text_length, length; /* filled up with n */
	bool known_first;           /* the name of the export under test comes before the text */
} bad_names[] = {
	{ "known and a NUL", "\0", 1, 0, true },
	{ "known, a NUL and more", "\0junk", 5, 0, true },
	{ "NUL first", "\0nbdspec", 8, 0, false },
	{ "4096 NULs", "", 0, 0, false },
	{ "not UTF-8", "nbdspec\xff\xfe", 9, 0, false },
	{ "overlong UTF-8", "nbdspec\xc0\xaf", 9, 0, false },
	{ "half of a character", "nbdspec\xe2\x82", 9, 0, false },
	{ "4097", "nbdspec", 7, 4097, false },
	{ "5000", "nbdspec", 7, 5000, false },
	{ "65530", "nbdspec", 7, 65530, false },
};

static void
put_bad_name(struct test *t, struct buf *b, const struct bad_name *n)
{
	if (n->known_first)
		put_bytes(b, export_name(t));
	buf_put(b, n->text, n->text_length);
	if (n->text_length == 0)
		buf_zero(b, NBD_MAX_STRING);
	if (n->length > b->len)
		put_filled(b, 'n', (uint32_t)(n->length - b->len));
}

static void
ask_bad_name(struct test *t, uint32_t option, const struct bad_name *n, volatile bool *answered)
{
	static const uint64_t allowed[] = { NBD_REP_ERR_INVALID, NBD_REP_ERR_UNKNOWN,  NBD_REP_ERR_TOO_BIG,
		                            NBD_REP_ERR_POLICY,  NBD_REP_ERR_SHUTDOWN, NBD_REP_ERR_TLS_REQD };
	struct buf b = { 0 };

	*answered = true;
	need_unknown_names(t);
	*answered = false;
	put_bad_name(t, &b, n);
	send_go(t, option, (struct bytes){ b.at, b.len }, REQUESTS(NBD_INFO_BLOCK_SIZE).at, 1);
	buf_free(&b);
	expect_refused(t, n->label, R(info_unknown_export), allowed, COUNT(allowed), answered);
}

CASE(info, bad_names,
     "A name with a NUL, longer than 4096 bytes, or not in UTF-8 names no export: it is refused, and the next option "
     "is understood",
     R(info_unknown_export), R(option_data_consumed), R(option_gets_reply), R(bad_option_may_close),
     R(handshake_no_hard_disconnect))
{
	volatile unsigned unanswered = 0;
	volatile bool answered = false;

	for (const uint32_t *volatile o = both_options; o < both_options + 2; o++)
		for (volatile size_t i = 0; i < COUNT(bad_names); i++) {
			POINT(t, "%s %s", option_name(*o), bad_names[i].label)
				ask_bad_name(t, *o, &bad_names[i], &answered);
			unanswered += !answered;
			if (unanswered >= MOST_UNANSWERED)
				return;
		}
}
