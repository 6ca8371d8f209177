/* NBD_OPT_EXPORT_NAME: what answers it, how it refuses, and what it opens. */
#include "harness/test.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum { MOST_LISTED = 8, MOST_READ = 65536 };

/* ---- what comes next on the connection ---- */

/* This option has no replies, not even errors (proto.md:194, 1184). */
static void
expect_no_option_reply(struct test *t)
{
	uint8_t magic[8];
	struct wire w = wire(magic, peek_bytes(t, magic, sizeof(magic)));

	if (wire_be64(&w) != NBD_OPTION_REPLY_MAGIC)
		return;
	recv_option_reply(t, R(export_name_no_option_reply));
	broken(t, R(export_name_no_option_reply), "NBD_OPT_EXPORT_NAME is answered with an option reply");
}

/* ---- asking in another way ---- */

static void
open_offered(struct test *t)
{
	open_newstyle(t);
	send_client_flags(t, t->s->handshake_flags & (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES));
}

static struct infos
infos_by(struct test *t, uint32_t option, struct bytes name)
{
	static const uint16_t wanted[] = { NBD_INFO_NAME, NBD_INFO_BLOCK_SIZE };

	send_go(t, option, name, wanted, 2);
	return recv_infos(t, R(option_gets_reply));
}

static struct infos
ask_info(struct test *t, struct bytes name)
{
	return infos_by(t, NBD_OPT_INFO, name);
}

/* Sizes that allow the server to turn EXPORT_NAME down (proto.md:788-798). */
static bool
enforces_sizes(const struct infos *i)
{
	return i->n_block_size > 0 && (i->block.minimum > 1 || i->block.maximum < NBD_DEFAULT_MAX_PAYLOAD);
}

/* The server says itself that it has no export of this name, or tells none of them without TLS. */
static bool
is_unknown(struct test *t, struct bytes name)
{
	uint32_t final = ask_info(t, name).final;

	return final == NBD_REP_ERR_UNKNOWN || final == NBD_REP_ERR_TLS_REQD;
}

/* The session was ended on the name of an export that should be there: rightly so? */
static _Noreturn void
refused(struct test *t, struct bytes name)
{
	struct infos infos;

	disconnect(t);
	open_fixed_newstyle(t);
	infos = ask_info(t, name);
	if (infos.final == NBD_REP_ACK && !enforces_sizes(&infos))
		broken(t, R(interop_export_name_served),
		       "NBD_OPT_INFO tells of the export, and NBD_OPT_EXPORT_NAME for it ends the session");
	skip(t, "EXPORT_NAME", "the server does not open the export by NBD_OPT_EXPORT_NAME%s",
	     infos.final == NBD_REP_ACK ? ": it enforces block sizes" : "");
}

/* Chooses an export that should be there, on a connection in option haggling. */
static void
choose(struct test *t, struct bytes name)
{
	send_option(t, NBD_OPT_EXPORT_NAME, name.at, name.len);
	if (!peer_goes_on(t, R(export_name_reply_layout)))
		refused(t, name);
	expect_no_option_reply(t);
	recv_export_name_reply(t, R(export_name_reply_layout));
}

/*
 * A READ that every size constraint allows, as none was agreed on; before its reply stands what the answer to
 * EXPORT_NAME had too much.
 */
static void
expect_transmission(struct test *t)
{
	bool padded = (t->s->client_flags & NBD_FLAG_C_NO_ZEROES) == 0;
	uint32_t length = t->s->size < MOST_READ ? (uint32_t)t->s->size : MOST_READ;
	uint64_t cookie = new_cookie(t);
	uint8_t first = 1;
	uint32_t error;

	send_request(t, 0, NBD_CMD_READ, cookie, 0, length, NULL);
	if (!peer_goes_on(t, R(transmission_after_export_name)))
		broken(t, R(transmission_after_export_name), "the server ends the connection on the first request");
	peek_bytes(t, &first, 1);
	if (first == 0 && padded)
		broken(t, R(export_name_zeroes_padding), "more than 124 zeroes follow the transmission flags");
	if (first == 0)
		broken(t, R(export_name_no_zeroes), "zeroes follow the transmission flags");
	error = recv_simple_reply(t, cookie, length, R(transmission_after_export_name)).error;
	if (length > 0)
		EXPECT_ERROR(t, R(transmission_after_export_name), error, NBD_SUCCESS);
}

/* ---- the answer ---- */

CASE(export_name, opens,
     "EXPORT_NAME is answered with size, flags and 124 zeroes (none where the client said NO_ZEROES), and a READ is "
     "served",
     R(export_name_reply_layout), R(export_name_zeroes_padding), R(export_name_no_zeroes),
     R(transmission_after_export_name), R(export_name_no_option_reply), R(interop_export_name_served))
{
	char text[NAME_MAX_TEXT];

	for (uint32_t flags = 0; flags <= (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES); flags++)
		POINT(t, "flags=%s", name_flags(NAME_CLIENT_FLAG, flags, text)) {
			open_newstyle(t);
			if ((flags & ~(uint32_t)t->s->handshake_flags) != 0)
				skip(t, name_flags(NAME_CLIENT_FLAG, flags & ~(uint32_t)t->s->handshake_flags, text),
				     "the server does not offer this handshake flag");
			send_client_flags(t, flags);
			choose(t, export_name(t));
			expect_transmission(t);
		}
}

/* proto.md:1064: what was offered is in force only once the client has asked for it. */
CASE(export_name, padding_unless_declined,
     "A server that offers NO_ZEROES sends the 124 zeroes to a client that did not set C_NO_ZEROES",
     R(handshake_flags_no_unasked_change), R(export_name_zeroes_padding))
{
	struct bytes b;

	open_newstyle(t);
	if ((t->s->handshake_flags & NBD_FLAG_NO_ZEROES) == 0)
		skip(t, "NO_ZEROES", "the server does not offer NBD_FLAG_NO_ZEROES");
	send_client_flags(t, t->s->handshake_flags & NBD_FLAG_C_FIXED_NEWSTYLE);
	send_option(t, NBD_OPT_EXPORT_NAME, export_name(t).at, export_name(t).len);
	if (!peer_goes_on(t, R(handshake_flags_no_unasked_change)))
		refused(t, export_name(t));
	b = recv_payload(t, EXPORT_NAME_REPLY_SIZE + NBD_EXPORT_NAME_PADDING, R(handshake_flags_no_unasked_change));
	for (size_t i = EXPORT_NAME_REPLY_SIZE; i < b.len; i++)
		EXPECT(t, R(export_name_zeroes_padding), b.at[i] == 0, "byte %zu of the 124 zeroes is 0x%02x",
		       i - EXPORT_NAME_REPLY_SIZE, b.at[i]);
}

/* proto.md:1087-1089 */
CASE(export_name, no_zeroes_unoffered,
     "A client that sets C_NO_ZEROES although NO_ZEROES was not offered is disconnected",
     R(unoffered_client_flag_close))
{
	open_newstyle(t);
	if ((t->s->handshake_flags & NBD_FLAG_NO_ZEROES) != 0)
		skip(t, "not offering NO_ZEROES", "the server offers NBD_FLAG_NO_ZEROES");
	send_client_flags(t, (t->s->handshake_flags & NBD_FLAG_C_FIXED_NEWSTYLE) | NBD_FLAG_C_NO_ZEROES);
	send_option(t, NBD_OPT_EXPORT_NAME, export_name(t).at, export_name(t).len);
	expect_disconnect(t, R(unoffered_client_flag_close));
}

CASE(export_name, has_flags,
     "The transmission flags in the answer to EXPORT_NAME include HAS_FLAGS, and not SEND_DF without structured "
     "replies",
     R(has_flags_set), R(df_flag_without_structured))
{
	open_offered(t);
	choose(t, export_name(t));
	EXPECT(t, R(has_flags_set), (t->s->flags & NBD_FLAG_HAS_FLAGS) != 0, "the transmission flags are 0x%04x",
	       t->s->flags);
	EXPECT(t, R(df_flag_without_structured), (t->s->flags & NBD_FLAG_SEND_DF) == 0,
	       "the transmission flags are 0x%04x", t->s->flags);
}

static void
expect_same(struct test *t, const struct infos *infos)
{
	char want[NAME_MAX_TEXT], got[NAME_MAX_TEXT];

	EXPECT(t, R(info_export_same_as_export_name), t->s->size == infos->export.size,
	       "NBD_INFO_EXPORT has size %ju, the answer to NBD_OPT_EXPORT_NAME %ju", (uintmax_t)infos->export.size,
	       (uintmax_t)t->s->size);
	if (t->s->flags != infos->export.flags)
		deviates(t, R(info_export_same_as_export_name),
		         name_flags(NAME_TRANSMISSION_FLAG, infos->export.flags, want),
		         name_flags(NAME_TRANSMISSION_FLAG, t->s->flags, got));
}

static struct bytes
listed_name(const struct listed *list, unsigned i)
{
	return (struct bytes){ (const uint8_t *)list->exports[i].name, list->exports[i].name_length };
}

/* INFO on the same connection, GO on one before: the two ways in which nothing else can come between. */
static void
compare_with(struct test *t, uint32_t option, struct bytes name)
{
	struct infos infos;

	open_fixed_newstyle(t);
	infos = infos_by(t, option, name);
	if (infos.final != NBD_REP_ACK || infos.n_export == 0)
		skip(t, option == NBD_OPT_GO ? "GO" : "INFO", "the server does not tell of the export by %s",
		     name_of(NAME_OPTION, option));
	if (option == NBD_OPT_GO) {
		disconnect(t);
		open_offered(t);
	}
	choose(t, name);
	expect_same(t, &infos);
}

static void
compare_all_with(struct test *t, uint32_t option)
{
	static struct listed list;

	POINT(t, "export=under-test")
		compare_with(t, option, export_name(t));
	open_fixed_newstyle(t);
	list = list_exports(t);
	for (unsigned i = 0; i < list.count && i < MOST_LISTED; i++)
		POINT(t, "export=%u", i + 1)
			compare_with(t, option, listed_name(&list, i));
}

CASE(export_name, same_as_info,
     "Size and flags in the answer to EXPORT_NAME are those that INFO has told, for every export",
     R(info_export_same_as_export_name))
{
	compare_all_with(t, NBD_OPT_INFO);
}

CASE(export_name, same_as_go,
     "Size and flags in the answer to EXPORT_NAME are those that GO tells on another connection, for every export",
     R(info_export_same_as_export_name))
{
	compare_all_with(t, NBD_OPT_GO);
}

CASE(export_name, stores_data, "In a transmission phase that EXPORT_NAME began, what is written is read back",
     R(transmission_after_export_name))
{
	static uint8_t want[MOST_READ], got[MOST_READ];

	open_offered(t);
	choose(t, export_name(t));
	need_writable(t);
	need_size(t, sizeof(want));
	fill_pattern(want, sizeof(want), 0, 1);
	must_write(t, 0, sizeof(want), want, R(transmission_after_export_name));
	must_read(t, 0, sizeof(got), got, R(transmission_after_export_name));
	expect_data(t, R(transmission_after_export_name), got, want, sizeof(want), 0);
}

/* ---- the default export ---- */

CASE(export_name, empty_is_default,
     "EXPORT_NAME with an empty name opens the export that INFO tells of under the empty name", R(export_name_default),
     R(info_export_same_as_export_name))
{
	struct infos infos;

	open_fixed_newstyle(t);
	infos = ask_info(t, BYTES_OF(""));
	if (infos.final != NBD_REP_ACK || infos.n_export == 0)
		skip(t, "default export", "NBD_OPT_INFO tells of no default export");
	send_option(t, NBD_OPT_EXPORT_NAME, NULL, 0);
	if (!peer_goes_on(t, R(export_name_default))) {
		if (enforces_sizes(&infos))
			skip(t, "EXPORT_NAME",
			     "the server enforces block sizes, and does not open the export by NBD_OPT_EXPORT_NAME");
		broken(t, R(export_name_default),
		       "NBD_OPT_INFO tells of a default export, and NBD_OPT_EXPORT_NAME for it ends the session");
	}
	recv_export_name_reply(t, R(export_name_default));
	expect_same(t, &infos);
	expect_transmission(t);
}

/* ---- names that are not there ---- */

/* `unknown`: the server has said that it does not have the name. Else it may be one that takes any. */
static void
expect_refusal(struct test *t, bool unknown, enum requirement_id r)
{
	if (!peer_goes_on(t, R(server_terminates_hard)))
		return;
	expect_no_option_reply(t);
	recv_export_name_reply(t, unknown ? r : R(export_name_reply_layout));
	if (unknown)
		broken(t, r, "the server opens an export, and should end the session");
	observe(t, r, "the server takes this name, too");
}

CASE(export_name, unknown_closes,
     "EXPORT_NAME with the name of no export is answered with the end of the session and nothing else",
     R(export_name_unknown_closes), R(server_terminates_hard), R(export_name_no_option_reply),
     R(handshake_no_hard_disconnect))
{
	struct bytes name = unknown_export_name();
	char text[NAME_MAX_TEXT];

	for (uint32_t flags = 0; flags <= (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES); flags++)
		POINT(t, "flags=%s", name_flags(NAME_CLIENT_FLAG, flags, text)) {
			bool unknown = false;

			open_offered(t);
			if ((flags & ~t->s->client_flags) != 0)
				skip(t, name_flags(NAME_CLIENT_FLAG, flags & ~t->s->client_flags, text),
				     "the server does not offer this handshake flag");
			if ((t->s->client_flags & NBD_FLAG_C_FIXED_NEWSTYLE) != 0)
				unknown = is_unknown(t, name);
			disconnect(t);
			open_haggling(t, flags);
			send_option(t, NBD_OPT_EXPORT_NAME, name.at, name.len);
			expect_refusal(t, unknown, R(export_name_unknown_closes));
			expect_next_client_served(t, R(handshake_no_hard_disconnect));
		}
}

/* A name of an export that is there, and not empty; from NBD_INFO_NAME where we were told of none. */
static struct bytes
known_name(struct test *t)
{
	struct bytes name = export_name(t);
	struct infos infos;

	if (name.len == 0) {
		infos = ask_info(t, name);
		name = (struct bytes){ (uint8_t *)infos.name, infos.name_length };
	}
	if (name.len == 0 || name.len >= NBD_MAX_STRING)
		skip(t, "a named export", "the export under test has no name that could be varied");
	return name;
}

enum likeness { LONGER, SHORTER, OTHER_CASE, LENGTH_255, LENGTH_256, LENGTH_257, LENGTH_4096, N_LIKENESSES };

static const char *const likeness_text[] = {
	"one-byte-longer", "one-byte-shorter", "other-case", "length=255", "length=256", "length=257", "length=4096",
};

/* A name that a careless comparison takes for another. */
static struct bytes
similar_name(struct test *t, enum likeness like)
{
	static const size_t lengths[] = {
		[LENGTH_255] = 255, [LENGTH_256] = 256, [LENGTH_257] = 257, [LENGTH_4096] = 4096
	};
	static uint8_t name[NBD_MAX_STRING];
	struct bytes known;

	if (like >= LENGTH_255) {
		memset(name, 'x', sizeof(name));
		return (struct bytes){ name, lengths[like] };
	}
	known = known_name(t);
	memcpy(name, known.at, known.len);
	if (like == LONGER)
		name[known.len] = '_';
	for (size_t i = 0; like == OTHER_CASE && i < known.len; i++)
		if ((name[i] | 0x20) >= 'a' && (name[i] | 0x20) <= 'z')
			name[i] ^= 0x20;
	return (struct bytes){ name, known.len + (like == LONGER) - (like == SHORTER) };
}

CASE(export_name, similar_names_close,
     "EXPORT_NAME ends the session for a name that INFO does not know, however like it is to one that exists, or "
     "however long",
     R(export_name_unknown_closes), R(server_terminates_hard), R(export_name_no_option_reply),
     R(handshake_no_hard_disconnect))
{
	for (int like = 0; like < N_LIKENESSES; like++)
		POINT(t, "%s", likeness_text[like]) {
			struct bytes name;
			bool unknown;

			open_fixed_newstyle(t);
			name = similar_name(t, (enum likeness)like);
			unknown = is_unknown(t, name);
			send_option(t, NBD_OPT_EXPORT_NAME, name.at, name.len);
			expect_refusal(t, unknown, R(export_name_unknown_closes));
			expect_next_client_served(t, R(handshake_no_hard_disconnect));
		}
}

/* nbdkit 1913af3f: no export has a NUL in its name (proto.md:37), so what such a name begins with does not matter. */
CASE(export_name, nul_is_no_end,
     "EXPORT_NAME with a name that contains a NUL does not open the export that the bytes before it name",
     R(export_name_unknown_closes), R(handshake_no_hard_disconnect))
{
	static const struct bytes tails[] = { { (const uint8_t *)"\0", 1 }, { (const uint8_t *)"\0x", 2 } };
	struct bytes known = export_name(t);

	open_offered(t);
	send_option(t, NBD_OPT_EXPORT_NAME, unknown_export_name().at, unknown_export_name().len);
	if (peer_goes_on(t, R(server_terminates_hard))) {
		expect_no_option_reply(t);
		skip(t, "unknown names", "the server opens an export whatever the name");
	}
	for (int i = 0; i < 2; i++)
		POINT(t, "bytes-behind=%d", i) {
			struct buf name = { 0 };

			put_bytes(&name, known);
			put_bytes(&name, tails[i]);
			open_offered(t);
			send_option(t, NBD_OPT_EXPORT_NAME, name.at, name.len);
			expect_refusal(t, true, R(export_name_unknown_closes));
			expect_next_client_served(t, R(handshake_no_hard_disconnect));
		}
}

static const struct {
	const char *text;
	size_t length; /* 0: all of .bytes; else filled up */
	struct bytes bytes;
} hostile[] = {
	{ "length=4097", NBD_MAX_STRING + 1, { 0 } },
	{ "length=5000", 5000, { 0 } },
	{ "length=65536", 65536, { 0 } },
	{ "length=1048576", 1 << 20, { 0 } },
	{ "not-utf8", 0, { (const uint8_t *)"\xff\xfe\xc0\xaf", 4 } },
	{ "cut-off-utf8", 0, { (const uint8_t *)"name\xe2\x82", 6 } },
	{ "format", 0, { (const uint8_t *)"%n%n%s%s%s%s%1000000d", 21 } },
	{ "control-characters", 0, { (const uint8_t *)"\r\n\x1b[2J\x7f", 7 } },
};

/* CVE-2017-15118, CVE-2020-10761, CVE-2013-7441. */
CASE(export_name, hostile_names,
     "EXPORT_NAME with a name that is too long, no UTF-8, or else odd does no harm: the next client is served",
     R(handshake_no_hard_disconnect), R(server_terminates_hard), R(export_name_no_option_reply))
{
	static uint8_t fill[1 << 20];

	memset(fill, 'y', sizeof(fill));
	for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++)
		POINT(t, "%s", hostile[i].text) {
			open_offered(t);
			if (hostile[i].length > 0)
				send_option(t, NBD_OPT_EXPORT_NAME, fill, hostile[i].length);
			else
				send_option(t, NBD_OPT_EXPORT_NAME, hostile[i].bytes.at, hostile[i].bytes.len);
			expect_refusal(t, false, R(export_name_unknown_closes));
			expect_next_client_served(t, R(handshake_no_hard_disconnect));
		}
}

static const struct {
	const char *text;
	uint32_t claimed;
	size_t sent;
} abandoned[] = {
	{ "nothing-of-the-name", 20, 0 },
	{ "half-of-the-name", 20, 10 },
	{ "claims=4096", 4096, 1000 },
	{ "claims=4097", 4097, 1000 },
	{ "claims=0x7fffffff", 0x7fffffff, 1000 },
	{ "claims=0xffffffff", 0xffffffff, 1000 },
};

/* CVE-2022-26495, CVE-2013-7441. */
CASE(export_name, abandoned,
     "A client that leaves before its EXPORT_NAME is complete, whatever length it claims, does no harm to the next",
     R(handshake_no_hard_disconnect), R(greeting_magic))
{
	static uint8_t part[1000];

	memset(part, 'z', sizeof(part));
	for (size_t i = 0; i < sizeof(abandoned) / sizeof(abandoned[0]); i++)
		POINT(t, "%s", abandoned[i].text) {
			open_offered(t);
			send_option_header(t, NBD_OPT_EXPORT_NAME, abandoned[i].claimed);
			if (abandoned[i].sent > 0)
				send_raw(t, part, abandoned[i].sent);
			expect_next_client_served(t, R(handshake_no_hard_disconnect));
		}
}

/* ---- requirements that are not met ---- */

CASE(export_name, tls_only_closes, "EXPORT_NAME for an export that INFO refuses without TLS ends the session",
     R(export_name_unmet_closes), R(server_terminates_hard), R(export_name_no_option_reply))
{
	open_fixed_newstyle(t);
	if (ask_info(t, export_name(t)).final != NBD_REP_ERR_TLS_REQD)
		skip(t, "a TLS-only export", "the export under test is served without TLS");
	send_option(t, NBD_OPT_EXPORT_NAME, export_name(t).at, export_name(t).len);
	expect_refusal(t, true, R(export_name_unmet_closes));
}

/* ---- among other options ---- */

enum before { AFTER_UNKNOWN_OPTION, AFTER_LIST, AFTER_INFO, AFTER_UNKNOWN_INFO, AFTER_OTHER_INFO, N_BEFORE };

static const char *const before_text[] = {
	"unknown-option", "LIST", "INFO", "INFO-of-no-export", "INFO-of-another-export",
};

/* INFO of an export that is another one, going by its size or flags. */
static void
ask_another(struct test *t, const struct session *first)
{
	struct listed list = list_exports(t);
	struct infos infos;

	for (unsigned i = 0; i < list.count && i < MOST_LISTED; i++) {
		infos = ask_info(t, listed_name(&list, i));
		if (infos.final == NBD_REP_ACK &&
		    (infos.export.size != first->size || infos.export.flags != first->flags))
			return;
	}
	skip(t, "several exports", "the server lists no export that differs from the one under test");
}

static void
send_before(struct test *t, enum before b, const struct session *first)
{
	unsigned n;

	switch (b) {
	case AFTER_UNKNOWN_OPTION:
		expect_in_step(t, R(next_message_parsed));
		break;
	case AFTER_LIST:
		send_option(t, NBD_OPT_LIST, NULL, 0);
		recv_final_reply(t, R(list_replies), NBD_REP_SERVER, &n);
		break;
	case AFTER_INFO:
		ask_info(t, export_name(t));
		break;
	case AFTER_UNKNOWN_INFO:
		ask_info(t, unknown_export_name());
		break;
	default:
		ask_another(t, first);
	}
}

/* nbdkit f1ffde56, f71080b1: what came before must not decide which export it is. */
CASE(export_name, after_other_options,
     "EXPORT_NAME opens the same export after other options, refused or answered, as it does at once",
     R(export_name_reply_layout), R(handshake_no_hard_disconnect), R(transmission_after_export_name))
{
	struct session first;

	open_offered(t);
	choose(t, export_name(t));
	first = *t->s;
	for (int b = 0; b < N_BEFORE; b++)
		POINT(t, "after=%s", before_text[b]) {
			open_fixed_newstyle(t);
			send_before(t, (enum before)b, &first);
			send_option(t, NBD_OPT_EXPORT_NAME, export_name(t).at, export_name(t).len);
			EXPECT(t, R(handshake_no_hard_disconnect), peer_goes_on(t, R(export_name_reply_layout)),
			       "NBD_OPT_EXPORT_NAME opens the export as the first option, and now ends the session");
			recv_export_name_reply(t, R(export_name_reply_layout));
			EXPECT_EQ(t, R(export_name_reply_layout), t->s->size, first.size);
			EXPECT_EQ(t, R(export_name_reply_layout), t->s->flags, first.flags);
			expect_transmission(t);
		}
}

/*
 * Whoever takes other options has to say so (proto.md:1057, 1180). Refusing one with an error is not taking it, even
 * though a client of this newstyle knows no replies.
 */
CASE(export_name, only_option_unless_fixed, "A server that does not set FIXED_NEWSTYLE does not carry out LIST or INFO",
     R(other_options_need_fixed))
{
	static const uint32_t options[] = { NBD_OPT_LIST, NBD_OPT_INFO };
	struct option_reply r;

	for (int i = 0; i < 2; i++)
		POINT(t, "option=%s", name_of(NAME_OPTION, options[i])) {
			open_offered(t);
			if ((t->s->handshake_flags & NBD_FLAG_FIXED_NEWSTYLE) != 0)
				skip(t, "not fixed newstyle", "the server sets NBD_FLAG_FIXED_NEWSTYLE");
			if (options[i] == NBD_OPT_INFO)
				send_go(t, NBD_OPT_INFO, export_name(t), NULL, 0);
			else
				send_option(t, options[i], NULL, 0);
			shut_write(t);
			if (!peer_goes_on(t, R(other_options_need_fixed)))
				continue;
			r = recv_option_reply(t, R(other_options_need_fixed));
			EXPECT(t, R(other_options_need_fixed), is_error_reply(r.type), "the option is carried out");
		}
}
