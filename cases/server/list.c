/* NBD_OPT_LIST: its replies, the names in them, and what those names open. */
#include "harness/test.h"

#include <string.h>
#include <sys/socket.h>

enum { MOST_OPENED = 16, PROBE_OPTION = 0x6e627374 };

static struct listed
list_first(struct test *t)
{
	open_fixed_newstyle(t);
	return list_exports(t);
}

static struct bytes
listed_name(const struct listed *list, unsigned i)
{
	return (struct bytes){ (const uint8_t *)list->exports[i].name, list->exports[i].name_length };
}

static struct bytes
listed_details(const struct listed *list, unsigned i)
{
	return (struct bytes){ (const uint8_t *)list->exports[i].details, list->exports[i].details_length };
}

/* ---- replies ---- */

/* The next option is answered; what still tells of LIST comes behind its final reply. */
static void
expect_over(struct test *t, enum requirement_id in_step)
{
	uint8_t header[OPTION_REPLY_HEADER_SIZE];
	struct option_reply r;
	size_t n;

	send_option(t, PROBE_OPTION, NULL, 0);
	if (!peer_goes_on(t, in_step))
		broken(t, in_step, "the server ends the connection on the option that follows");
	n = peek_bytes(t, header, sizeof(header));
	wire_get_option_reply(wire(header, n), &r);
	if (r.option == NBD_OPT_LIST) {
		t->s->option = NBD_OPT_LIST;
		recv_option_reply(t, R(list_replies));
		broken(t, R(list_replies), "there are more replies to NBD_OPT_LIST behind the final one");
	}
	recv_option_reply(t, in_step);
}

/* Refusals that the text knows a reason for; the others would say that LIST is unknown, or not well-formed. */
static void
check_refusal(struct test *t, uint32_t type)
{
	if (type == NBD_REP_ERR_UNSUP)
		broken(t, R(baseline_list), "the server answers NBD_OPT_LIST with NBD_REP_ERR_UNSUP");
	if (type == NBD_REP_ERR_INVALID || type == NBD_REP_ERR_UNKNOWN || type == NBD_REP_ERR_BLOCK_SIZE_REQD)
		EXPECT_REPLY(t, R(list_replies), type, NBD_REP_ACK, NBD_REP_ERR_POLICY);
}

CASE(list, implemented,
     "LIST is answered by exports and ACK, or refused for a reason, but not as an unknown or a wrong option",
     R(baseline_list), R(list_replies))
{
	struct option_reply r;
	unsigned n;

	open_fixed_newstyle(t);
	send_option(t, NBD_OPT_LIST, NULL, 0);
	r = recv_final_reply(t, R(list_replies), NBD_REP_SERVER, &n);
	check_refusal(t, r.type);
	if (r.type != NBD_REP_ACK)
		observe(t, R(list_replies), "the server refuses NBD_OPT_LIST");
	expect_over(t, R(list_replies));
}

CASE(list, one_reply_for_each,
     "LIST is answered by one well-formed REP_SERVER for each export and then ACK, and no name comes twice",
     R(list_replies), R(rep_server_layout), R(rep_ack_empty), R(option_reply_length))
{
	struct listed list = list_first(t);

	for (unsigned i = 0; i < list.count; i++)
		for (unsigned j = 0; j < i; j++)
			EXPECT(t, R(list_replies), !bytes_equal(listed_name(&list, i), listed_name(&list, j)),
			       "export %u is listed again as export %u: \"%s\"", j + 1, i + 1, list.exports[i].name);
	expect_over(t, R(option_reply_length));
}

/* What INFO tells of without TLS cannot be a TLS-only export, which alone may be left out (proto.md:1213). */
CASE(list, is_complete, "The list names the export under test as INFO names it", R(list_replies),
     R(info_name_canonical))
{
	static const uint16_t wanted = NBD_INFO_NAME;
	struct listed list;
	struct infos infos;

	open_fixed_newstyle(t);
	send_go(t, NBD_OPT_INFO, export_name(t), &wanted, 1);
	infos = recv_infos(t, R(option_gets_reply));
	list = list_exports(t);
	if (infos.final != NBD_REP_ACK)
		skip(t, "INFO", "the server does not tell of the export under test by NBD_OPT_INFO");
	EXPECT(t, R(list_replies), list.count > 0, "NBD_OPT_INFO tells of an export, and NBD_OPT_LIST of none");
	if (infos.n_name == 0)
		return;
	for (unsigned i = 0; i < list.count; i++)
		if (bytes_equal(listed_name(&list, i), (struct bytes){ (uint8_t *)infos.name, infos.name_length }))
			return;
	broken(t, R(info_name_canonical), "NBD_INFO_NAME is \"%s\", which NBD_OPT_LIST does not name", infos.name);
}

/* ---- strings ---- */

/* proto.md:35-38 and RFC 3629: no overlong forms, no surrogates, nothing past U+10FFFF. */
static size_t
utf8_length(const uint8_t *at, size_t left)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t n = at[0] < 0x80 ? 1 : at[0] >> 5 == 6 ? 2 : at[0] >> 4 == 14 ? 3 : at[0] >> 3 == 30 ? 4 : 0;
	uint32_t c = at[0] & (0x7f >> (n > 1 ? n : 0));

	if (n == 0 || n > left)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if (at[i] >> 6 != 2)
			return 0;
		c = c << 6 | (at[i] & 0x3f);
	}
	return c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0 : n;
}

static bool
is_utf8(struct bytes s)
{
	for (size_t at = 0, n; at < s.len; at += n) {
		n = utf8_length(s.at + at, s.len - at);
		if (n == 0)
			return false;
	}
	return true;
}

static bool
has_nul(struct bytes s)
{
	return memchr(s.at, '\0', s.len) != NULL;
}

CASE(list, names_without_nul, "No name in the list contains a NUL", R(server_strings_no_nul))
{
	struct listed list = list_first(t);

	for (unsigned i = 0; i < list.count; i++)
		EXPECT(t, R(server_strings_no_nul), !has_nul(listed_name(&list, i)),
		       "the name of export %u, of %zu bytes, contains a NUL behind \"%s\"", i + 1,
		       list.exports[i].name_length, list.exports[i].name);
}

CASE(list, names_are_utf8, "Every name in the list is UTF-8", R(server_strings_utf8))
{
	struct listed list = list_first(t);

	for (unsigned i = 0; i < list.count; i++)
		EXPECT(t, R(server_strings_utf8), is_utf8(listed_name(&list, i)),
		       "the name of export %u is no UTF-8: \"%s\"", i + 1, list.exports[i].name);
}

CASE(list, strings_are_short, "No string in the list is longer than 4096 bytes, and better none than 256",
     R(server_strings_max_length), R(server_strings_short))
{
	struct listed list = list_first(t);

	for (unsigned i = 0; i < list.count; i++) {
		size_t name = list.exports[i].name_length, details = list.exports[i].details_length;

		EXPECT(t, R(server_strings_max_length), name <= NBD_MAX_STRING && details <= NBD_MAX_STRING,
		       "export %u has a name of %zu bytes and details of %zu", i + 1, name, details);
		EXPECT(t, R(server_strings_short), name <= 256 && details <= 256,
		       "export %u has a name of %zu bytes and details of %zu", i + 1, name, details);
	}
}

/* proto.md:1543-1549 */
CASE(list, details_are_text, "What follows a name in the list is text for people: UTF-8 without NUL",
     R(rep_server_details_text))
{
	struct listed list = list_first(t);

	for (unsigned i = 0; i < list.count; i++)
		EXPECT(t, R(rep_server_details_text),
		       is_utf8(listed_details(&list, i)) && !has_nul(listed_details(&list, i)),
		       "%zu bytes follow the name of export %u, and are no text", list.exports[i].details_length,
		       i + 1);
}

/* ---- what the names open ---- */

static struct infos
infos_by(struct test *t, uint32_t option, struct bytes name)
{
	static const uint16_t wanted = NBD_INFO_BLOCK_SIZE;
	struct infos infos;

	send_go(t, option, name, &wanted, 1);
	infos = recv_infos(t, R(option_gets_reply));
	if (infos.final == NBD_REP_ERR_UNSUP)
		skip(t, option == NBD_OPT_GO ? "GO" : "INFO", "the server does not know %s",
		     name_of(NAME_OPTION, option));
	return infos;
}

/* Refusals for other reasons than the name (TLS, policy) may be. */
static void
expect_known(struct test *t, uint32_t option, struct bytes name)
{
	uint32_t final;

	open_fixed_newstyle(t);
	final = infos_by(t, option, name).final;
	if (final == NBD_REP_ERR_UNKNOWN || final == NBD_REP_ERR_INVALID)
		EXPECT_REPLY(t, R(rep_server_name_opens), final, NBD_REP_ACK);
}

CASE(list, names_are_known_to_info, "INFO knows every name in the list", R(rep_server_name_opens))
{
	struct listed list = list_first(t);

	for (unsigned i = 0; i < list.count && i < MOST_OPENED; i++)
		POINT(t, "export=%u", i + 1)
			expect_known(t, NBD_OPT_INFO, listed_name(&list, i));
}

CASE(list, names_open_by_go, "GO knows every name in the list", R(rep_server_name_opens))
{
	struct listed list = list_first(t);

	for (unsigned i = 0; i < list.count && i < MOST_OPENED; i++)
		POINT(t, "export=%u", i + 1)
			expect_known(t, NBD_OPT_GO, listed_name(&list, i));
}

/* An export that INFO would open, and whose block sizes give no reason to refuse EXPORT_NAME (proto.md:788-798). */
static void
expect_opens(struct test *t, struct bytes name)
{
	struct infos infos;

	open_fixed_newstyle(t);
	infos = infos_by(t, NBD_OPT_INFO, name);
	if (infos.final != NBD_REP_ACK)
		skip(t, "INFO", "the server does not tell of this export by NBD_OPT_INFO");
	if (infos.n_block_size > 0 && (infos.block.minimum > 1 || infos.block.maximum < NBD_DEFAULT_MAX_PAYLOAD))
		skip(t, "EXPORT_NAME", "the server may enforce block sizes, and refuse NBD_OPT_EXPORT_NAME");
	send_option(t, NBD_OPT_EXPORT_NAME, name.at, name.len);
	EXPECT(t, R(rep_server_name_opens), peer_goes_on(t, R(rep_server_name_opens)),
	       "NBD_OPT_LIST and NBD_OPT_INFO tell of the export, and NBD_OPT_EXPORT_NAME for it ends the session");
	recv_export_name_reply(t, R(export_name_reply_layout));
}

CASE(list, names_open_by_export_name, "EXPORT_NAME opens every name in the list", R(rep_server_name_opens))
{
	struct listed list = list_first(t);

	disconnect(t);
	open_fixed_newstyle(t);
	send_option(t, NBD_OPT_EXPORT_NAME, export_name(t).at, export_name(t).len);
	if (!peer_goes_on(t, R(export_name_reply_layout)))
		skip(t, "EXPORT_NAME", "the server does not open the export under test by NBD_OPT_EXPORT_NAME");
	for (unsigned i = 0; i < list.count && i < MOST_OPENED; i++)
		POINT(t, "export=%u", i + 1)
			expect_opens(t, listed_name(&list, i));
}

/* ---- data ---- */

/* We break a MUST NOT, so the server may disconnect (proto.md:243). */
static void
list_with_data(struct test *t, const void *data, size_t len)
{
	struct option_reply r;
	unsigned n;

	list_first(t);
	send_option(t, NBD_OPT_LIST, data, len);
	if (!peer_goes_on(t, R(option_gets_reply)))
		return;
	r = recv_final_reply(t, R(list_replies), NBD_REP_SERVER, &n);
	EXPECT_REPLY(t, R(list_rejects_data), r.type, NBD_REP_ERR_INVALID);
	expect_over(t, R(option_data_consumed));
}

CASE(list, data_is_refused, "LIST with data is refused with ERR_INVALID, and the next option is understood",
     R(list_rejects_data), R(option_data_consumed), R(option_gets_reply))
{
	static const unsigned sizes[] = { 1, 4, 16, 256, 4096 };
	static uint8_t data[4096];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)('a' + i % 26);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		POINT(t, "bytes=%u", sizes[i])
			list_with_data(t, data, sizes[i]);
}

/* ---- several times, and after other options ---- */

static bool
is_listed(const struct listed *list, struct bytes name)
{
	for (unsigned i = 0; i < list->count; i++)
		if (bytes_equal(listed_name(list, i), name))
			return true;
	return false;
}

/* As many as before, or a refusal, which the text does not forbid for a second time (proto.md:213). */
static void
expect_as_many(struct test *t, unsigned count)
{
	struct option_reply r;
	unsigned n;

	send_option(t, NBD_OPT_LIST, NULL, 0);
	r = recv_final_reply(t, R(list_replies), NBD_REP_SERVER, &n);
	if (r.type == NBD_REP_ERR_INVALID)
		observe(t, R(repeated_option_invalid), "the server refuses another NBD_OPT_LIST as invalid");
	else
		check_refusal(t, r.type);
	EXPECT(t, R(list_replies), r.type != NBD_REP_ACK || n == count, "the list has %u exports, and had %u before", n,
	       count);
}

CASE(list, repeated, "LIST can be sent again, and tells of as many exports each time", R(list_replies),
     R(baseline_list))
{
	struct listed first = list_first(t);

	expect_as_many(t, first.count);
	expect_as_many(t, first.count);
}

CASE(list, alike, "Two connections are told of the same exports", R(list_replies))
{
	struct listed first = list_first(t), again;

	disconnect(t);
	again = list_first(t);
	EXPECT(t, R(list_replies), again.count == first.count, "the list has %u exports, and had %u before",
	       again.count, first.count);
	for (unsigned i = 0; i < first.count; i++)
		EXPECT(t, R(list_replies), is_listed(&again, listed_name(&first, i)), "\"%s\" is no longer listed",
		       first.exports[i].name);
}

enum before { AFTER_UNKNOWN_OPTION, AFTER_INFO, AFTER_UNKNOWN_INFO, AFTER_STRUCTURED_REPLY, N_BEFORE };

static const char *const before_text[] = { "unknown-option", "INFO", "INFO-of-no-export", "STRUCTURED_REPLY" };

/* What the answer to each of these is, other cases judge. */
static void
send_before(struct test *t, enum before b)
{
	switch (b) {
	case AFTER_UNKNOWN_OPTION:
		expect_in_step(t, R(next_message_parsed));
		break;
	case AFTER_INFO:
	case AFTER_UNKNOWN_INFO:
		send_go(t, NBD_OPT_INFO, b == AFTER_INFO ? export_name(t) : unknown_export_name(), NULL, 0);
		recv_infos(t, R(option_gets_reply));
		break;
	default:
		send_option(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		recv_option_reply(t, R(option_gets_reply));
	}
}

CASE(list, after_other_options,
     "LIST tells of as many exports after other options, refused or answered, as it does at once", R(list_replies),
     R(baseline_list))
{
	struct listed first = list_first(t);

	for (int b = 0; b < N_BEFORE; b++)
		POINT(t, "after=%s", before_text[b]) {
			open_fixed_newstyle(t);
			send_before(t, (enum before)b);
			expect_as_many(t, first.count);
		}
}

/* ---- clients that leave ---- */

CASE(list, client_does_not_wait, "A client that sends LIST and closes at once does no harm: the next client is served",
     R(handshake_no_hard_disconnect), R(greeting_magic))
{
	for (int i = 0; i < 4; i++) {
		open_fixed_newstyle(t);
		send_option(t, NBD_OPT_LIST, NULL, 0);
		disconnect(t);
	}
	open_fixed_newstyle(t);
	expect_in_step(t, R(handshake_no_hard_disconnect));
	expect_next_client_served(t, R(handshake_no_hard_disconnect));
}
