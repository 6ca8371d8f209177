/* TLS: the server's mode, the way into it, what is forgotten on it, and how it ends (proto.md:486-757). */
#include "harness/test.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define REPLY_MAGIC "\x00\x03\xe8\x89\x04\x55\x65\xa9"
enum { UNKNOWN_OPTION = 0x6e627374, TLS_ALERT = 21, TLS_FIRST = 20, TLS_LAST = 23, RAW_MOST = 4096, MOST_EXPORTS = 8 };

/* ---- the mode ---- */

enum mode { NOTLS, FORCEDTLS, SELECTIVETLS };

static uint32_t
ask_plainly(struct test *t, uint32_t option)
{
	unsigned n;

	if (option == NBD_OPT_INFO || option == NBD_OPT_GO) {
		send_go(t, option, export_name(t), NULL, 0);
		return recv_infos(t, R(option_gets_reply)).final;
	}
	if (option == NBD_OPT_LIST_META_CONTEXT || option == NBD_OPT_SET_META_CONTEXT)
		return meta_contexts(t, option, export_name(t), (const char *const[]){ "base:allocation" }, 1,
		                     R(option_gets_reply))
		        .final;
	send_option(t, option, NULL, 0);
	return recv_final_reply(t, R(option_gets_reply), NBD_REP_SERVER, &n).type;
}

/* By what most of the options say that tell: the one that a server gets wrong is found by its case. */
static enum mode
find_mode(struct test *t)
{
	static const uint32_t telling[] = { NBD_OPT_LIST, UNKNOWN_OPTION, NBD_OPT_LIST_META_CONTEXT };
	unsigned required = 0;
	struct option_reply r;

	open_in_clear(t);
	for (unsigned i = 0; i < 3; i++)
		required += ask_plainly(t, telling[i]) == NBD_REP_ERR_TLS_REQD;
	send_option(t, NBD_OPT_STARTTLS, NULL, 0);
	r = recv_option_reply(t, R(starttls_ack_or_error));
	disconnect(t);
	return required >= 2 ? FORCEDTLS : r.type == NBD_REP_ACK ? SELECTIVETLS : NOTLS;
}

static enum mode
need_some_tls(struct test *t)
{
	enum mode mode;

	need_connections(t);
	mode = find_mode(t);
	if (mode == NOTLS)
		skip(t, "TLS of the server", "it refuses NBD_OPT_STARTTLS");
	return mode;
}

static void
need_forced(struct test *t)
{
	if (need_some_tls(t) != FORCEDTLS)
		skip(t, "FORCEDTLS", "the server answers options without TLS");
}

static void
need_selective(struct test *t)
{
	if (need_some_tls(t) != SELECTIVETLS)
		skip(t, "SELECTIVETLS", "the server wants TLS before all else");
}

static enum requirement_id
acked_in(enum mode mode)
{
	return mode == FORCEDTLS ? R(forcedtls_starttls_acked) : R(selectivetls_starttls_acked);
}

/* In haggling over TLS. */
static enum mode
open_over_tls(struct test *t)
{
	enum mode mode = need_some_tls(t);

	need_tls(t);
	open_in_clear(t);
	start_tls(t, acked_in(mode));
	return mode;
}

static void
need_entry(struct test *t, uint32_t final, enum requirement_id r)
{
	if (final != NBD_REP_ACK)
		broken(t, r, "over TLS the export is refused with 0x%08" PRIx32, final);
}

/* In transmission over TLS, from haggling over TLS. */
static void
enter_here(struct test *t)
{
	static const uint16_t block_size[] = { NBD_INFO_BLOCK_SIZE };

	if (!enter_by_go_here(t, block_size, 1))
		skip(t, "GO", "the server does not know NBD_OPT_GO");
}

/* ---- the way into it ---- */

/* proto.md:569-576, 604-606 */
CASE(tls, serves, "STARTTLS is acknowledged, TLS comes up, and the export is served over it",
     R(forcedtls_starttls_acked), R(selectivetls_starttls_acked), R(tls_handshake_after_ack), R(starttls_ack_or_error),
     R(tls_server_sends_only_tls), R(server_tls_mode))
{
	uint8_t data[512];

	open_over_tls(t);
	expect_in_step(t, R(tls_handshake_after_ack));
	enter_here(t);
	if (t->s->size >= sizeof(data) && t->s->block.minimum <= sizeof(data))
		must_read(t, 0, sizeof(data), data, R(tls_handshake_after_ack));
	else
		expect_in_step(t, R(tls_handshake_after_ack));
}

/* proto.md:570-572, 606-608 */
CASE(tls, second_is_invalid, "Over TLS another STARTTLS gets ERR_INVALID, and TLS goes on",
     R(forcedtls_second_starttls_invalid), R(selectivetls_second_starttls_invalid))
{
	enum requirement_id r = open_over_tls(t) == FORCEDTLS ? R(forcedtls_second_starttls_invalid)
	                                                      : R(selectivetls_second_starttls_invalid);

	send_option(t, NBD_OPT_STARTTLS, NULL, 0);
	EXPECT_REPLY(t, r, recv_option_reply(t, r).type, NBD_REP_ERR_INVALID);
	expect_in_step(t, r);
}

static const uint32_t all_options[] = {
	NBD_OPT_LIST,
	NBD_OPT_INFO,
	NBD_OPT_GO,
	NBD_OPT_LIST_META_CONTEXT,
	NBD_OPT_SET_META_CONTEXT,
	NBD_OPT_STRUCTURED_REPLY,
	UNKNOWN_OPTION,
};
enum { N_OPTIONS = sizeof(all_options) / sizeof(all_options[0]) };

/* proto.md:585-594, 1305-1308 */
CASE(tls, forced_for_options,
     "In FORCEDTLS mode each option gets ERR_TLS_REQD in clear, with nothing before it, and STARTTLS is served behind "
     "it",
     R(forcedtls_options_tls_reqd), R(forcedtls_go_tls_reqd), R(forcedtls_no_infos), R(forcedtls_starttls_acked))
{
	char text[NAME_MAX_TEXT];

	need_forced(t);
	for (unsigned i = 0; i < N_OPTIONS; i++)
		POINT(t, "%s", name_text(NAME_OPTION, all_options[i], text)) {
			bool is_info = all_options[i] == NBD_OPT_INFO || all_options[i] == NBD_OPT_GO;
			enum requirement_id r =
				all_options[i] == NBD_OPT_GO ? R(forcedtls_go_tls_reqd) : R(forcedtls_options_tls_reqd);
			struct option_reply reply;

			open_in_clear(t);
			if (is_info)
				send_go(t, all_options[i], export_name(t), NULL, 0);
			else
				send_option(t, all_options[i], NULL, 0);
			reply = recv_option_reply(t, r);
			EXPECT(t, R(forcedtls_no_infos), reply.type != NBD_REP_INFO, "an information comes in clear");
			EXPECT_REPLY(t, r, reply.type, NBD_REP_ERR_TLS_REQD);
			send_option(t, NBD_OPT_STARTTLS, NULL, 0);
			EXPECT_REPLY(t, R(forcedtls_starttls_acked),
			             recv_option_reply(t, R(forcedtls_starttls_acked)).type, NBD_REP_ACK);
		}
}

/* proto.md:526-528 */
CASE(tls, abort_needs_none, "In FORCEDTLS mode ABORT is not refused for want of TLS", R(forcedtls_abort_without_tls))
{
	need_forced(t);
	open_in_clear(t);
	send_option(t, NBD_OPT_ABORT, NULL, 0);
	if (!peer_goes_on(t, R(forcedtls_abort_without_tls)))
		return;
	EXPECT(t, R(forcedtls_abort_without_tls),
	       recv_option_reply(t, R(forcedtls_abort_without_tls)).type != NBD_REP_ERR_TLS_REQD,
	       "ABORT gets NBD_REP_ERR_TLS_REQD");
}

/* proto.md:587-592 */
CASE(tls, forced_for_export_name, "In FORCEDTLS mode EXPORT_NAME in clear ends the session",
     R(forcedtls_export_name_closes))
{
	struct bytes name = export_name(t);

	need_forced(t);
	open_in_clear(t);
	send_option(t, NBD_OPT_EXPORT_NAME, name.at, name.len);
	expect_disconnect(t, R(forcedtls_export_name_closes));
	expect_next_client_served(t, R(handshake_no_hard_disconnect));
}

/* proto.md:596-597, 626-627 */
CASE(tls, not_required_again, "Over TLS no option is refused for want of it", R(forcedtls_no_tls_reqd_after_tls),
     R(selectivetls_no_tls_reqd_after_tls))
{
	char text[NAME_MAX_TEXT];

	for (unsigned i = 0; i < N_OPTIONS; i++)
		POINT(t, "%s", name_text(NAME_OPTION, all_options[i], text)) {
			enum requirement_id r = open_over_tls(t) == FORCEDTLS ? R(forcedtls_no_tls_reqd_after_tls)
			                                                      : R(selectivetls_no_tls_reqd_after_tls);

			EXPECT(t, r, ask_plainly(t, all_options[i]) != NBD_REP_ERR_TLS_REQD,
			       "it gets NBD_REP_ERR_TLS_REQD over TLS");
		}
}

/* proto.md:541-547 */
CASE(tls, mode_is_kept, "On one connection the mode stays what it is, whatever is asked", R(tls_mode_consistent))
{
	static const uint32_t asked[] = { NBD_OPT_LIST, UNKNOWN_OPTION, NBD_OPT_LIST, NBD_OPT_STRUCTURED_REPLY,
		                          NBD_OPT_LIST, UNKNOWN_OPTION, NBD_OPT_LIST };
	uint32_t first;

	need_some_tls(t);
	open_in_clear(t);
	first = ask_plainly(t, asked[0]);
	for (unsigned i = 1; i < sizeof(asked) / sizeof(asked[0]); i++) {
		uint32_t type = ask_plainly(t, asked[i]);

		if (asked[i] == NBD_OPT_LIST)
			EXPECT(t, R(tls_mode_consistent),
			       (type == NBD_REP_ERR_TLS_REQD) == (first == NBD_REP_ERR_TLS_REQD),
			       "LIST gets 0x%08" PRIx32 " first, and 0x%08" PRIx32 " later", first, type);
	}
}

/* ---- SELECTIVETLS ---- */

/* proto.md:627-630 */
CASE(tls, selective_for_options,
     "In SELECTIVETLS mode only options that name an export to enter it or to tell of it may want TLS",
     R(selectivetls_tls_reqd_options))
{
	static const uint32_t others[] = { NBD_OPT_LIST, NBD_OPT_STRUCTURED_REPLY, NBD_OPT_LIST_META_CONTEXT,
		                           NBD_OPT_SET_META_CONTEXT, UNKNOWN_OPTION };
	char text[NAME_MAX_TEXT];

	need_selective(t);
	for (unsigned i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		POINT(t, "%s", name_text(NAME_OPTION, others[i], text)) {
			open_in_clear(t);
			EXPECT(t, R(selectivetls_tls_reqd_options), ask_plainly(t, others[i]) != NBD_REP_ERR_TLS_REQD,
			       "it gets NBD_REP_ERR_TLS_REQD");
		}
}

/* What each of the listed exports is answered in clear, by GO and by EXPORT_NAME. */
struct in_clear {
	bool go_wants_tls, go_enters, name_enters;
};

static bool
enters_by_name(struct test *t, struct bytes name)
{
	bool goes_on;

	open_in_clear(t);
	send_option(t, NBD_OPT_EXPORT_NAME, name.at, name.len);
	goes_on = peer_goes_on(t, R(export_name_reply_layout));
	disconnect(t);
	return goes_on;
}

static struct in_clear
try_in_clear(struct test *t, struct bytes name)
{
	static const uint16_t block_size[] = { NBD_INFO_BLOCK_SIZE };
	struct in_clear seen = { 0 };
	uint32_t final;

	open_in_clear(t);
	send_go(t, NBD_OPT_GO, name, block_size, 1);
	final = recv_infos(t, R(option_gets_reply)).final;
	disconnect(t);
	seen.go_wants_tls = final == NBD_REP_ERR_TLS_REQD;
	seen.go_enters = final == NBD_REP_ACK;
	seen.name_enters = enters_by_name(t, name);
	return seen;
}

/* proto.md:611-620, 628-630: an export is either for TLS alone, or it is not. */
CASE(tls, selective_for_exports,
     "In SELECTIVETLS mode an export that is refused for want of TLS is refused in every way, and served over TLS",
     R(selectivetls_tls_only_reqd), R(selectivetls_export_name_closes), R(selectivetls_tls_reqd_exports))
{
	struct listed l;
	unsigned only = 0;

	need_tls(t);
	need_selective(t);
	open_in_clear(t);
	start_tls(t, R(selectivetls_starttls_acked));
	l = list_exports(t);
	disconnect(t);
	for (unsigned i = 0; i < l.count && i < MOST_EXPORTS; i++) {
		struct bytes name = { (const uint8_t *)l.exports[i].name, l.exports[i].name_length };
		struct in_clear seen = try_in_clear(t, name);

		only += seen.go_wants_tls;
		EXPECT(t, R(selectivetls_export_name_closes), !seen.go_wants_tls || !seen.name_enters,
		       "the export '%s' needs TLS by NBD_OPT_GO, and none by NBD_OPT_EXPORT_NAME", l.exports[i].name);
		open_in_clear(t);
		send_go(t, NBD_OPT_INFO, name, NULL, 0);
		EXPECT(t, R(selectivetls_tls_reqd_exports),
		       recv_infos(t, R(option_gets_reply)).final != NBD_REP_ERR_TLS_REQD || !seen.go_enters,
		       "the export '%s' needs TLS by NBD_OPT_INFO, and none by NBD_OPT_GO", l.exports[i].name);
		start_tls(t, R(selectivetls_starttls_acked));
		send_go(t, NBD_OPT_GO, name, (const uint16_t[]){ NBD_INFO_BLOCK_SIZE }, 1);
		if (seen.go_wants_tls)
			need_entry(t, recv_infos(t, R(selectivetls_tls_only_reqd)).final,
			           R(selectivetls_tls_only_reqd));
		disconnect(t);
	}
	if (only == 0)
		skip(t, "TLS-only exports", "no export that is listed over TLS is refused for want of it in clear");
}

/* ---- what is forgotten ---- */

static void
negotiate_in_clear(struct test *t)
{
	static const char *const query[] = { "base:allocation" };

	need_tls(t);
	need_selective(t);
	open_in_clear(t);
	negotiate_structured(t);
	meta_contexts(t, NBD_OPT_SET_META_CONTEXT, export_name(t), query, 1, R(option_gets_reply));
	start_tls(t, R(selectivetls_starttls_acked));
	t->s->structured = false;
}

/* proto.md:1236-1239 */
CASE(tls, structured_replies_are_forgotten,
     "STARTTLS is served behind other options, and structured replies that were agreed in clear are not in force over "
     "TLS",
     R(starttls_forgets_state), R(selectivetls_starttls_acked))
{
	struct sent q;
	struct reply r;
	uint32_t magic = 0;
	struct wire w;
	uint8_t bytes[4];

	negotiate_in_clear(t);
	enter_here(t);
	need_size(t, blocks(t, 512));
	q = send_command(t, 0, NBD_CMD_READ, 0, blocks(t, 512), NULL);
	if (peer_goes_on(t, R(each_request_one_reply)) && peek_bytes(t, bytes, sizeof(bytes)) == sizeof(bytes)) {
		w = wire(bytes, sizeof(bytes));
		magic = wire_be32(&w);
	}
	EXPECT(t, R(starttls_forgets_state), magic != NBD_STRUCTURED_REPLY_MAGIC,
	       "a READ over TLS gets a structured reply, which was agreed before STARTTLS only");
	r = recv_reply(t, &q, R(each_request_one_reply));
	EXPECT_ERROR(t, R(read_reply_simple), r.error, 0);
}

CASE(tls, contexts_need_structured_replies_again,
     "SET_META_CONTEXT over TLS is refused where structured replies were agreed in clear only",
     R(starttls_forgets_state))
{
	static const char *const query[] = { "base:allocation" };
	struct contexts c;

	negotiate_in_clear(t);
	c = meta_contexts(t, NBD_OPT_SET_META_CONTEXT, export_name(t), query, 1, R(option_gets_reply));
	EXPECT(t, R(starttls_forgets_state), c.final != NBD_REP_ACK,
	       "it succeeds, although structured replies were not agreed since STARTTLS");
}

CASE(tls, contexts_are_forgotten, "Metadata contexts that were selected in clear are not in force over TLS",
     R(starttls_forgets_state))
{
	struct sent q;
	struct reply r;

	negotiate_in_clear(t);
	negotiate_structured(t);
	enter_here(t);
	need_size(t, blocks(t, 512));
	q = send_command(t, 0, NBD_CMD_BLOCK_STATUS, 0, blocks(t, 512), NULL);
	r = recv_reply(t, &q, R(each_request_one_reply));
	EXPECT(t, R(starttls_forgets_state), r.error != 0,
	       "BLOCK_STATUS succeeds, although no context was selected since STARTTLS");
}

/* ---- clear text behind STARTTLS ---- */

static void
put_option(struct buf *b, uint32_t option, struct bytes data)
{
	wire_put_option(b, &(struct option){ NBD_OPTION_MAGIC, option, (uint32_t)data.len, { NULL, 0 } });
	put_bytes(b, data);
}

/* Nothing that the server says behind the ACK is other than TLS. */
static void
expect_no_clear_text(struct test *t)
{
	uint8_t byte;

	EXPECT(t, R(tls_server_sends_only_tls), peek_bytes(t, &byte, 1) == 0 || (byte >= TLS_FIRST && byte <= TLS_LAST),
	       "behind NBD_REP_ACK comes 0x%02x, which begins no TLS record", byte);
}

/* Raw bytes up to the end of the connection: nothing but TLS, and it does end. */
static void
expect_end_of_tls(struct test *t)
{
	static const enum requirement_id goes_on[] = { R(tls_server_handshake_failure), R(tls_server_sends_only_tls),
		                                       REQUIREMENT_NONE };
	struct bytes came;
	bool silent;

	came = recv_what_comes(t, RAW_MOST, &silent);
	for (size_t i = 0; i + 8 <= came.len; i++)
		if (memcmp(came.at + i, REPLY_MAGIC, 8) == 0)
			broken_all(t, goes_on, "the server answers an option in clear");
	EXPECT(t, R(tls_server_sends_only_tls), came.len == 0 || (came.at[0] >= TLS_FIRST && came.at[0] <= TLS_LAST),
	       "behind NBD_REP_ACK comes 0x%02x, which begins no TLS record", came.len > 0 ? came.at[0] : 0u);
	EXPECT(t, R(tls_server_handshake_failure), !silent, "the server does not end the session");
}

/*
 * STARTTLS and something more in one piece, as somebody in between may put it there; then TLS. False where the server
 * has taken it for the start of TLS, which is as good, and ends the session for it.
 */
static bool
inject(struct test *t, uint32_t option, struct bytes data)
{
	struct tls_setup setup = target_tls_setup(need_tls(t));
	struct buf b = { 0 };
	bool up;

	open_in_clear(t);
	put_option(&b, NBD_OPT_STARTTLS, (struct bytes){ 0 });
	put_option(&b, option, data);
	send_raw(t, b.at, b.len);
	buf_free(&b);
	t->s->option = NBD_OPT_STARTTLS;
	EXPECT_REPLY(t, R(starttls_ack_or_error), recv_option_reply(t, R(starttls_ack_or_error)).type, NBD_REP_ACK);
	expect_no_clear_text(t);
	up = tls_handshake_as(t, &setup);
	EXPECT(t, R(tls_server_sends_only_tls), up || !tls_saw_clear_text(t->s->tls),
	       "behind NBD_REP_ACK comes what begins no TLS record");
	if (!up)
		expect_disconnect(t, R(tls_server_handshake_failure));
	return up;
}

static struct bytes
data_of(struct test *t, uint32_t option, struct buf *b)
{
	if (option == NBD_OPT_INFO || option == NBD_OPT_GO)
		put_go(b, export_name(t), NULL, 0);
	return (struct bytes){ b->at, b->len };
}

/* What comes over TLS is no reply to what was sent in clear. */
static void
expect_not_answered(struct test *t, uint32_t option)
{
	uint8_t head[12] = { 0 };
	struct wire w;

	EXPECT(t, R(tls_server_takes_only_tls), peer_goes_on(t, R(tls_server_takes_only_tls)),
	       "over TLS the server ends the session, as if it had acted on what came in clear");
	w = wire(head, peek_bytes(t, head, sizeof(head)));
	wire_be64(&w);
	EXPECT(t, R(tls_server_takes_only_tls), wire_be32(&w) != option,
	       "over TLS comes the reply to what was sent in clear");
}

/* proto.md:574-576. CVE-2021-3716 was this. */
CASE(tls, nothing_injected,
     "An option in clear that comes in one piece with STARTTLS is not acted on, neither in clear nor once TLS is up",
     R(tls_server_takes_only_tls), R(tls_server_sends_only_tls), R(tls_server_handshake_failure))
{
	static const uint32_t injected[] = { NBD_OPT_LIST, NBD_OPT_INFO, NBD_OPT_GO, NBD_OPT_ABORT,
		                             UNKNOWN_OPTION - 1 };
	char text[NAME_MAX_TEXT];

	need_some_tls(t);
	for (unsigned i = 0; i < sizeof(injected) / sizeof(injected[0]); i++)
		POINT(t, "%s", name_text(NAME_OPTION, injected[i], text)) {
			struct buf data = { 0 };
			bool up = inject(t, injected[i], data_of(t, injected[i], &data));

			buf_free(&data);
			if (!up)
				continue;
			send_option(t, UNKNOWN_OPTION, NULL, 0);
			expect_not_answered(t, injected[i]);
			recv_option_reply(t, R(tls_server_takes_only_tls));
		}
}

CASE(tls, no_state_injected,
     "STRUCTURED_REPLY in clear that comes in one piece with STARTTLS is not in force once TLS is up",
     R(tls_server_takes_only_tls))
{
	uint8_t bytes[4] = { 0 };
	struct wire w = wire(bytes, sizeof(bytes));

	need_some_tls(t);
	if (!inject(t, NBD_OPT_STRUCTURED_REPLY, (struct bytes){ 0 }))
		return;
	send_option(t, UNKNOWN_OPTION, NULL, 0);
	expect_not_answered(t, NBD_OPT_STRUCTURED_REPLY);
	recv_option_reply(t, R(tls_server_takes_only_tls));
	enter_here(t);
	send_request(t, 0, NBD_CMD_READ, new_cookie(t), 0, blocks(t, 512), NULL);
	if (!peer_goes_on(t, R(each_request_one_reply)))
		return;
	peek_bytes(t, bytes, sizeof(bytes));
	EXPECT(t, R(tls_server_takes_only_tls), wire_be32(&w) != NBD_STRUCTURED_REPLY_MAGIC,
	       "over TLS replies are structured, as was asked for in clear");
}

/* ---- a handshake that fails ---- */

/* proto.md:580-583 */
CASE(tls, failed_handshake_ends, "Where what follows the ACK is no TLS the session ends, without a word in clear",
     R(tls_server_handshake_failure), R(tls_server_sends_only_tls))
{
	static const struct {
		const char *name;
		const char *bytes;
		size_t len;
	} sent[] = {
		{ "an-option", "IHAVEOPT\0\0\0\3\0\0\0\0", 16 },
		{ "zeroes", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24 },
		{ "an-alert", "\25\3\3\0\2\2\50", 7 },
		{ "application-data", "\27\3\3\0\20IHAVEOPT\0\0\0\3\0\0\0\0", 21 },
		{ "an-empty-handshake", "\26\3\1\0\4\1\0\0\0", 9 },
	};

	need_some_tls(t);
	for (unsigned i = 0; i < sizeof(sent) / sizeof(sent[0]); i++)
		POINT(t, "%s", sent[i].name) {
			open_in_clear(t);
			send_option(t, NBD_OPT_STARTTLS, NULL, 0);
			EXPECT_REPLY(t, R(starttls_ack_or_error), recv_option_reply(t, R(starttls_ack_or_error)).type,
			             NBD_REP_ACK);
			send_raw(t, sent[i].bytes, sent[i].len);
			/* What goes on in clear has something to answer, and what waits for more hears that it does not come. */
			send_option(t, UNKNOWN_OPTION, NULL, 0);
			shut_write(t);
			expect_end_of_tls(t);
			expect_next_client_served(t, R(tls_server_handshake_failure));
		}
}

/* An export's information, over TLS whose handshake was as `setup` says: does the server let it come to that? */
static bool
is_let_in(struct test *t, const struct tls_setup *setup)
{
	uint8_t byte;

	open_in_clear(t);
	send_option(t, NBD_OPT_STARTTLS, NULL, 0);
	EXPECT_REPLY(t, R(starttls_ack_or_error), recv_option_reply(t, R(starttls_ack_or_error)).type, NBD_REP_ACK);
	if (!tls_handshake_as(t, setup))
		return false;
	send_go(t, NBD_OPT_INFO, export_name(t), NULL, 0);
	/* In TLS 1.3 the client is through before its certificate was looked at. */
	return peer_goes_on(t, R(tls_server_handshake_failure)) && peek_bytes(t, &byte, 1) == 1;
}

/* proto.md:580-583 */
CASE(tls, client_certificates,
     "A server that wants the certificate of a client turns away who has none, or a wrong one, and the next is served",
     R(tls_server_handshake_failure))
{
	struct target_tls *tls = need_tls(t);
	struct tls_setup setup = target_tls_setup(tls);

	need_some_tls(t);
	setup.credentials = tls->bare;
	if (tls->bare == NULL)
		skip(t, "client certificates", "the server has keys that are shared before");
	if (is_let_in(t, &setup))
		skip(t, "client certificates", "the server asks clients for none");
	expect_next_client_served(t, R(tls_server_handshake_failure));
	/* The name of its host is no flaw of a client's. */
	for (enum tls_flaw f = TLS_NO_FLAW + 1; f < N_TLS_FLAWS; f += f + 1 == TLS_OTHER_HOST ? 2 : 1)
		POINT(t, "%s", tls_flaw_name(f)) {
			setup.credentials = tls->flawed[f];
			if (setup.credentials == NULL)
				skip(t, "flawed certificates", "nbdspec has not made the certificates of this server");
			EXPECT(t, R(tls_server_handshake_failure), !is_let_in(t, &setup),
			       "the server serves a client whose certificate is not good");
			expect_next_client_served(t, R(tls_server_handshake_failure));
		}
}

/* ---- versions ---- */

static bool
serves_version(struct test *t, unsigned minor, const char *priority)
{
	struct tls_setup setup = target_tls_setup(need_tls(t));

	setup.priority = priority;
	return is_let_in(t, &setup) && tls_version(t->s->tls) == minor;
}

/* proto.md:711-713 */
CASE(tls, versions, "TLS 1.2 is served, 1.3 should be, and 1.0 and 1.1 should not, unless somebody turned them on",
     R(tls_version_1_2), R(tls_version_later), R(tls_version_older_off))
{
	need_some_tls(t);
	POINT(t, "1.2")
		EXPECT(t, R(tls_version_1_2), serves_version(t, 2, "NORMAL:-VERS-ALL:+VERS-TLS1.2"),
		       "the server does not serve a client that has TLS 1.2 only");
	POINT(t, "1.3")
		EXPECT(t, R(tls_version_later), serves_version(t, 3, "NORMAL:-VERS-ALL:+VERS-TLS1.3"),
		       "the server does not serve a client that has TLS 1.3 only");
	POINT(t, "1.1")
		EXPECT(t, R(tls_version_older_off), !serves_version(t, 1, "LEGACY:-VERS-ALL:+VERS-TLS1.1"),
		       "the server serves a client that has TLS 1.1 only");
	POINT(t, "1.0")
		EXPECT(t, R(tls_version_older_off), !serves_version(t, 0, "LEGACY:-VERS-ALL:+VERS-TLS1.0"),
		       "the server serves a client that has TLS 1.0 only");
}

/* ---- the end ---- */

/* The server ends the connection; what it breaks where it does so without close_notify: a list up to REQUIREMENT_NONE. */
static void
expect_shut(struct test *t, const enum requirement_id *r)
{
	if (peer_goes_on(t, r[0]))
		skip(t, "hard disconnect", "the server goes on");
	if (!tls_was_shut(t->s->tls))
		broken_all(t, r, "the connection ends without close_notify");
}

/* proto.md:435-437, 2074-2076 */
CASE(tls, disc_shuts_it_down, "After DISC the server shuts TLS down before it closes", R(disc_shuts_tls),
     R(disc_shuts_tls_down))
{
	open_over_tls(t);
	enter_here(t);
	send_request(t, 0, NBD_CMD_DISC, new_cookie(t), 0, 0, NULL);
	expect_shut(t, (const enum requirement_id[]){ R(disc_shuts_tls), R(disc_shuts_tls_down), REQUIREMENT_NONE });
}

/* proto.md:233-236, 441-443 */
CASE(tls, hard_disconnect_shuts_it_down, "A server that disconnects over TLS because of us should shut it down first",
     R(haggling_disconnect_shuts_tls), R(transmission_disconnect_shuts_tls))
{
	static const uint8_t nonsense[REQUEST_SIZE] = { 0x11, 0x22, 0x33 };

	POINT(t, "haggling") {
		open_over_tls(t);
		send_raw(t, nonsense, OPTION_HEADER_SIZE);
		expect_shut(t, (const enum requirement_id[]){ R(haggling_disconnect_shuts_tls), REQUIREMENT_NONE });
	}
	POINT(t, "transmission") {
		open_over_tls(t);
		enter_here(t);
		send_raw(t, nonsense, sizeof(nonsense));
		expect_shut(t, (const enum requirement_id[]){ R(transmission_disconnect_shuts_tls), REQUIREMENT_NONE });
	}
}
