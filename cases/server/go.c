/* NBD_OPT_GO, and NBD_OPT_INFO before it: the way into transmission, and the export that is served there. */
#include "cases/server/go.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- shared with info.c, block_size.c and flags.c ---- */

const char *
option_name(uint32_t option)
{
	return option == NBD_OPT_GO ? "GO" : "INFO";
}

void
haggle_again(struct test *t)
{
	if (t->s != NULL)
		disconnect(t);
	open_fixed_newstyle(t);
}

struct infos
ask_info(struct test *t, uint32_t option, struct bytes name, struct requests list, enum requirement_id owed)
{
	struct infos infos;

	send_go(t, option, name, list.at, list.n);
	infos = recv_infos(t, owed);
	if (infos.final == NBD_REP_ERR_UNSUP)
		skip(t, option_name(option), "the server does not know NBD_OPT_%s", option_name(option));
	return infos;
}

static bool
asks_for(struct requests list, uint16_t type)
{
	for (size_t i = 0; i < list.n; i++)
		if (list.at[i] == type)
			return true;
	return false;
}

/* Whether the export is there at all is told by entering it: without it, the set-up is wrong. */
static _Noreturn void
refused_as_unknown(struct test *t, uint32_t option, struct bytes name, enum requirement_id owed)
{
	if (!bytes_equal(name, export_name(t)))
		skip(t, "exports", "the server does not serve the export \"%.*s\" that it lists", (int)name.len,
		     name.at);
	disconnect(t);
	enter_transmission(t);
	broken(t, owed, "NBD_OPT_%s says that there is no such export; another client was served it",
	       option_name(option));
}

static void
judge_refusal(struct test *t, uint32_t option, struct bytes name, struct requests list, uint32_t final,
              enum requirement_id owed)
{
	switch (final) {
	case NBD_REP_ACK:
		return;
	case NBD_REP_ERR_TLS_REQD:
		skip(t, "no TLS", "the server tells of this export over TLS only");
	case NBD_REP_ERR_POLICY:
	case NBD_REP_ERR_PLATFORM:
	case NBD_REP_ERR_SHUTDOWN:
		skip(t, option_name(option), "the server refuses NBD_OPT_%s with %s", option_name(option),
		     name_of(NAME_REPLY, final));
	case NBD_REP_ERR_BLOCK_SIZE_REQD:
		EXPECT(t, R(block_size_reqd_not_when_asked), !asks_for(list, NBD_INFO_BLOCK_SIZE),
		       "NBD_REP_ERR_BLOCK_SIZE_REQD, although NBD_INFO_BLOCK_SIZE was asked for");
		skip(t, "default block sizes", "the server wants to be asked for its block sizes");
	case NBD_REP_ERR_UNKNOWN:
		refused_as_unknown(t, option, name, owed);
	default:
		EXPECT_REPLY(t, owed, final, NBD_REP_ACK);
	}
}

struct infos
ask_known(struct test *t, uint32_t option, struct bytes name, struct requests list, enum requirement_id owed)
{
	struct infos infos = ask_info(t, option, name, list, owed);

	judge_refusal(t, option, name, list, infos.final, owed);
	EXPECT(t, R(info_export_sent), infos.n_export > 0, "NBD_OPT_%s was acknowledged without NBD_INFO_EXPORT",
	       option_name(option));
	return infos;
}

bool
is_minimum(uint32_t n)
{
	return n != 0 && n <= 65536 && (n & (n - 1)) == 0;
}

void
take_go(struct test *t, const struct infos *infos)
{
	struct session *s = t->s;

	s->transmission = true;
	s->size = infos->export.size;
	s->flags = infos->export.flags;
	s->block_advertised = infos->n_block_size > 0;
	/* A minimum that no server may have (proto.md:817) would lead us astray; block_size/minimum judges it. */
	if (s->block_advertised && is_minimum(infos->block.minimum))
		s->block = infos->block;
}

void
need_unknown_names(struct test *t)
{
	struct infos infos;

	haggle_again(t);
	infos = ask_info(t, NBD_OPT_INFO, unknown_export_name(), REQUESTS(NBD_INFO_BLOCK_SIZE), R(info_unknown_export));
	haggle_again(t);
	if (infos.final != NBD_REP_ACK)
		return;
	EXPECT(t, R(info_export_sent), infos.n_export > 0, "NBD_OPT_INFO was acknowledged without NBD_INFO_EXPORT");
	skip(t, "unknown exports", "the server serves whatever name it is given");
}

/* NBD_REP_ERR_TLS_REQD may hide what exists (proto.md:1323), but not where there is no TLS (proto.md:564). */
static void
expect_tls_offered(struct test *t)
{
	struct option_reply r;

	haggle_again(t);
	send_option(t, NBD_OPT_STARTTLS, NULL, 0);
	r = recv_option_reply(t, R(option_gets_reply));
	EXPECT(t, R(notls_no_tls_reqd), r.type == NBD_REP_ACK || r.type == NBD_REP_ERR_SHUTDOWN,
	       "NBD_REP_ERR_TLS_REQD from a server that refuses NBD_OPT_STARTTLS with %s",
	       name_of(NAME_REPLY, r.type) ?: "another reply");
	observe(t, R(unknown_may_be_tls_reqd), "an unknown export is refused with NBD_REP_ERR_TLS_REQD");
	haggle_again(t);
}

void
expect_unknown(struct test *t, const struct infos *infos, struct bytes name)
{
	switch (infos->final) {
	case NBD_REP_ERR_UNKNOWN:
		EXPECT(t, R(info_unknown_no_infos), infos->count == 0, "%u NBD_REP_INFO before NBD_REP_ERR_UNKNOWN",
		       infos->count);
		break;
	case NBD_REP_ERR_POLICY:
	case NBD_REP_ERR_SHUTDOWN:
		break;
	case NBD_REP_ERR_TLS_REQD:
		expect_tls_offered(t);
		break;
	case NBD_REP_ERR_TOO_BIG:
		/* Within the MUST of proto.md:38, but not within its SHOULD. */
		if (name.len > 256)
			break;
		/* fall through */
	default:
		EXPECT_REPLY(t, R(info_unknown_export), infos->final, NBD_REP_ERR_UNKNOWN);
	}
}

struct export_name_reply
by_export_name(struct test *t, struct bytes name)
{
	haggle_again(t);
	send_option(t, NBD_OPT_EXPORT_NAME, name.at, name.len);
	if (!peer_goes_on(t, R(export_name_reply_layout)))
		skip(t, "EXPORT_NAME", "the server ends the session on NBD_OPT_EXPORT_NAME");
	recv_export_name_reply(t, R(export_name_reply_layout));
	return (struct export_name_reply){ .size = t->s->size, .flags = t->s->flags };
}

/* ---- into transmission ---- */

CASE(go, is_known, "NBD_OPT_GO is implemented: the export under test is served by it", R(baseline_info_go),
     R(info_export_sent), R(info_final_reply))
{
	struct infos infos;

	open_fixed_newstyle(t);
	send_go(t, NBD_OPT_GO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE).at, 1);
	infos = recv_infos(t, R(info_final_reply));
	EXPECT(t, R(baseline_info_go), infos.final != NBD_REP_ERR_UNSUP,
	       "the server speaks fixed newstyle, but does not know NBD_OPT_GO");
	judge_refusal(t, NBD_OPT_GO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), infos.final, R(baseline_info_go));
	EXPECT(t, R(info_export_sent), infos.n_export > 0, "NBD_OPT_GO was acknowledged without NBD_INFO_EXPORT");
}

/* The bytes behind the ACK are looked at raw: what stands there where it must not is told by its first word. */
static void
expect_reply_at_once(struct test *t)
{
	uint32_t length = t->s->size >= blocks(t, 512) ? blocks(t, 512) : 0;
	uint64_t cookie = new_cookie(t);
	struct simple_reply r;

	send_request(t, 0, NBD_CMD_READ, cookie, 0, length, NULL);
	buf_clear(&t->s->in);
	recv_payload(t, SIMPLE_REPLY_SIZE, R(go_enters_transmission));
	wire_get_simple_reply(wire(t->s->in.at, SIMPLE_REPLY_SIZE), &r);
	if (r.magic != NBD_SIMPLE_REPLY_MAGIC)
		note(t, "behind the NBD_REP_ACK comes 0x%08" PRIx32 " 0x%08" PRIx32, r.magic, r.error);
	EXPECT(t, R(go_no_padding), r.magic != 0, "zeroes follow the NBD_REP_ACK to NBD_OPT_GO");
	EXPECT(t, R(info_final_reply), r.magic != NBD_OPTION_REPLY_MAGIC >> 32,
	       "another option reply follows the NBD_REP_ACK to NBD_OPT_GO");
	EXPECT_EQ(t, R(simple_reply_magic), r.magic, NBD_SIMPLE_REPLY_MAGIC);
	EXPECT(t, R(go_enters_transmission), r.cookie == cookie,
	       "the first reply does not belong to the first request");
	EXPECT(t, R(go_enters_transmission), r.error == 0 || length == 0, "the first READ gets error %" PRIu32,
	       r.error);
	if (r.error == 0)
		recv_payload(t, length, R(go_enters_transmission));
}

CASE(go, enters_transmission,
     "After the ACK to NBD_OPT_GO the server serves requests at once, without padding, whether or not NO_ZEROES was "
     "agreed",
     R(go_enters_transmission), R(go_no_padding), R(info_final_reply))
{
	for (volatile uint32_t no_zeroes = 0; no_zeroes <= NBD_FLAG_C_NO_ZEROES; no_zeroes += NBD_FLAG_C_NO_ZEROES)
		POINT(t, "no_zeroes=%d", no_zeroes != 0) {
			struct infos infos;

			open_newstyle(t);
			if ((t->s->handshake_flags & NBD_FLAG_FIXED_NEWSTYLE) == 0)
				skip(t, "fixed newstyle", "the server does not set NBD_FLAG_FIXED_NEWSTYLE");
			if (no_zeroes != 0 && (t->s->handshake_flags & NBD_FLAG_NO_ZEROES) == 0)
				skip(t, "NO_ZEROES", "the server does not set NBD_FLAG_NO_ZEROES");
			send_client_flags(t, NBD_FLAG_C_FIXED_NEWSTYLE | no_zeroes);
			infos = ask_known(t, NBD_OPT_GO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE),
			                  R(go_enters_transmission));
			take_go(t, &infos);
			expect_reply_at_once(t);
			expect_in_step(t, R(go_enters_transmission));
		}
}

CASE(go, needs_no_info, "NBD_OPT_GO as the first option of a session, without NBD_OPT_INFO before it, is served",
     R(go_without_info_taken))
{
	struct infos infos;

	haggle_again(t);
	ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	haggle_again(t);
	infos = ask_known(t, NBD_OPT_GO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(go_without_info_taken));
	take_go(t, &infos);
	expect_in_step(t, R(go_enters_transmission));
}

CASE(go, empty_list, "NBD_OPT_GO that asks for no information is served, or refused for want of the block sizes only",
     R(info_empty_list_taken), R(go_enters_transmission))
{
	struct infos infos;

	open_fixed_newstyle(t);
	infos = ask_known(t, NBD_OPT_GO, export_name(t), NO_REQUESTS, R(info_empty_list_taken));
	take_go(t, &infos);
	expect_in_step(t, R(go_enters_transmission));
}

/* CVE-2019-14851: an assertion of nbdkit at GO behind INFO. */
CASE(go, next_client,
     "After a session with NBD_OPT_INFO, NBD_OPT_GO and a disconnect request the next client is served",
     R(go_enters_transmission), R(disc_closes), R(handshake_no_hard_disconnect))
{
	struct infos infos;

	open_fixed_newstyle(t);
	ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	infos = ask_known(t, NBD_OPT_GO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(go_enters_transmission));
	take_go(t, &infos);
	expect_in_step(t, R(go_enters_transmission));
	send_request(t, 0, NBD_CMD_DISC, new_cookie(t), 0, 0, NULL);
	expect_disconnect(t, R(disc_closes));
	expect_next_client_served(t, R(go_enters_transmission));
}

/* ---- GO against INFO and against EXPORT_NAME ---- */

static void
expect_text(struct test *t, enum requirement_id r, const char *what, const char *got, size_t got_length,
            const char *want, size_t want_length)
{
	EXPECT(t, r, got_length == want_length && (got_length == 0 || memcmp(got, want, got_length) == 0),
	       "%s is \"%s\" by INFO and \"%s\" by GO", what, want ?: "", got ?: "");
}

static void
expect_same(struct test *t, enum requirement_id r, const struct infos *info, const struct infos *go)
{
	expect_number(t, r, "the size by GO", go->export.size, info->export.size);
	expect_number(t, r, "the transmission flags by GO", go->export.flags, info->export.flags);
	expect_number(t, r, "NBD_INFO_NAME by GO", go->n_name > 0, info->n_name > 0);
	expect_number(t, r, "NBD_INFO_DESCRIPTION by GO", go->n_description > 0, info->n_description > 0);
	expect_number(t, r, "NBD_INFO_BLOCK_SIZE by GO", go->n_block_size > 0, info->n_block_size > 0);
	expect_number(t, r, "information of unknown types by GO", go->n_unknown, info->n_unknown);
	expect_text(t, r, "the name", go->name, go->name_length, info->name, info->name_length);
	expect_text(t, r, "the description", go->description, go->description_length, info->description,
	            info->description_length);
	expect_number(t, r, "the minimum block size by GO", go->block.minimum, info->block.minimum);
	expect_number(t, r, "the preferred block size by GO", go->block.preferred, info->block.preferred);
	expect_number(t, r, "the maximum payload size by GO", go->block.maximum, info->block.maximum);
}

CASE(go, same_as_info, "NBD_OPT_GO that directly repeats a successful NBD_OPT_INFO gives the same set of information",
     R(info_then_go_same), R(info_then_go_may_reorder))
{
	const struct {
		const char *name;
		struct requests list;
	} points[] = {
		{ "none", NO_REQUESTS },
		{ "all", ALL_REQUESTS },
		{ "block-size", REQUESTS(NBD_INFO_BLOCK_SIZE) },
		{ "name", REQUESTS(NBD_INFO_NAME) },
		{ "unknown", REQUESTS(NBD_INFO_DESCRIPTION, 0x1234, NBD_INFO_BLOCK_SIZE, 0xffff) },
	};

	for (volatile size_t i = 0; i < COUNT(points); i++)
		POINT(t, "asked=%s", points[i].name) {
			struct infos info, go;

			open_fixed_newstyle(t);
			info = ask_known(t, NBD_OPT_INFO, export_name(t), points[i].list, R(baseline_info_go));
			go = ask_known(t, NBD_OPT_GO, export_name(t), points[i].list, R(info_then_go_same));
			expect_same(t, R(info_then_go_same), &info, &go);
			take_go(t, &go);
			expect_in_step(t, R(go_enters_transmission));
		}
}

/* proto.md:1345-1347: here the second answer may be anything, but it is an answer. */
CASE(go, other_parameters_than_info,
     "NBD_OPT_GO that asks for other information than the NBD_OPT_INFO before it is answered, by success or by an "
     "error",
     R(info_final_reply), R(info_then_other_go_may_differ), R(info_then_other_go_may_fail), R(go_enters_transmission))
{
	struct infos info, go;

	open_fixed_newstyle(t);
	info = ask_known(t, NBD_OPT_INFO, export_name(t), ALL_REQUESTS, R(baseline_info_go));
	go = ask_info(t, NBD_OPT_GO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(info_final_reply));
	if (is_error_reply(go.final)) {
		observe(t, R(info_then_other_go_may_fail), "GO with other parameters than INFO is refused with %s",
		        name_of(NAME_REPLY, go.final) ?: "an error");
	} else {
		EXPECT(t, R(info_export_sent), go.n_export > 0, "NBD_OPT_GO was acknowledged without NBD_INFO_EXPORT");
		if (go.export.size != info.export.size || go.export.flags != info.export.flags)
			observe(t, R(info_then_other_go_may_differ), "GO gives size %" PRIu64 ", INFO gave %" PRIu64,
			        go.export.size, info.export.size);
		take_go(t, &go);
	}
	expect_in_step(t, R(go_enters_transmission));
}

CASE(go, same_as_export_name, "NBD_OPT_GO tells the size and transmission flags that NBD_OPT_EXPORT_NAME tells",
     R(info_export_same_as_export_name))
{
	struct export_name_reply r = by_export_name(t, export_name(t));
	struct infos infos;

	haggle_again(t);
	infos = ask_known(t, NBD_OPT_GO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	expect_number(t, R(info_export_same_as_export_name), "the size by GO", infos.export.size, r.size);
	expect_number(t, R(info_export_same_as_export_name), "the transmission flags by GO", infos.export.flags,
	              r.flags);
	take_go(t, &infos);
	expect_in_step(t, R(go_enters_transmission));
}

/* ---- a refusal, and what comes after it ---- */

/* nbdkit e60d67ee: GO for what cannot be opened ended the connection; 2f80ce12: the next GO found it still open. */
CASE(go, after_refused_go,
     "A refused NBD_OPT_GO leaves the session in option haggling, and the next NBD_OPT_GO is served",
     R(server_errors_unwelcome_client), R(info_unknown_export), R(baseline_info_go))
{
	struct infos infos;

	need_unknown_names(t);
	infos = ask_info(t, NBD_OPT_GO, unknown_export_name(), REQUESTS(NBD_INFO_BLOCK_SIZE), R(info_unknown_export));
	expect_unknown(t, &infos, unknown_export_name());
	expect_in_step(t, R(server_errors_unwelcome_client));
	infos = ask_known(t, NBD_OPT_GO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	take_go(t, &infos);
	expect_in_step(t, R(go_enters_transmission));
}

CASE(go, after_info_of_unknown,
     "NBD_OPT_INFO of an export that does not exist does not keep NBD_OPT_GO from being served", R(baseline_info_go),
     R(info_unknown_export), R(server_errors_unwelcome_client))
{
	struct infos infos;

	need_unknown_names(t);
	infos = ask_info(t, NBD_OPT_INFO, unknown_export_name(), REQUESTS(NBD_INFO_BLOCK_SIZE), R(info_unknown_export));
	expect_unknown(t, &infos, unknown_export_name());
	infos = ask_known(t, NBD_OPT_GO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	take_go(t, &infos);
	expect_in_step(t, R(go_enters_transmission));
}

/* go-nbd: INFO of a known export, then GO of an unknown one served the known one. */
CASE(go, unknown_after_info_of_known,
     "NBD_OPT_GO of an export that does not exist is refused after NBD_OPT_INFO of one that does",
     R(info_unknown_export))
{
	struct infos infos;

	need_unknown_names(t);
	ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	infos = ask_info(t, NBD_OPT_GO, unknown_export_name(), REQUESTS(NBD_INFO_BLOCK_SIZE), R(info_unknown_export));
	expect_unknown(t, &infos, unknown_export_name());
	expect_in_step(t, R(server_errors_unwelcome_client));
}

/* ---- two exports ---- */

struct other {
	struct bytes name;
	uint64_t size;
	uint16_t flags;
};

static struct infos
go_afresh(struct test *t, struct bytes name)
{
	haggle_again(t);
	return ask_known(t, NBD_OPT_GO, name, REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
}

/* An export that LIST names and that can be told from the one under test; skips where there is none. */
static struct other
need_other_export(struct test *t)
{
	struct infos mine = go_afresh(t, export_name(t)), infos;
	struct listed list;

	haggle_again(t);
	list = list_exports(t);
	for (unsigned i = 0; i < list.count && i < 16; i++) {
		struct bytes name = { (const uint8_t *)list.exports[i].name, list.exports[i].name_length };

		if (bytes_equal(name, export_name(t)))
			continue;
		haggle_again(t);
		infos = ask_info(t, NBD_OPT_GO, name, REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
		if (infos.final == NBD_REP_ACK && infos.n_export > 0 &&
		    (infos.export.size != mine.export.size || infos.export.flags != mine.export.flags))
			return (struct other){ name, infos.export.size, infos.export.flags };
	}
	skip(t, "two exports", "LIST names no second export that differs in size or flags");
}

/* One READ where the two exports differ: behind the smaller one's end. */
static void
expect_serves(struct test *t, const struct other *other, uint64_t mine)
{
	uint32_t length = blocks(t, 512), error;
	uint64_t end = other->size < mine ? other->size : mine;
	uint64_t cookie = new_cookie(t);

	expect_in_step(t, R(go_enters_transmission));
	if (end % length != 0 || other->size == mine || (other->size > mine && other->size - mine < length))
		return;
	send_request(t, 0, NBD_CMD_READ, cookie, end, length, NULL);
	if (!peer_goes_on(t, R(go_enters_transmission)))
		error = NBD_EINVAL; /* we broke a MUST where the end is the other's (proto.md:881) */
	else
		error = recv_simple_reply(t, cookie, length, R(go_enters_transmission)).error;
	EXPECT(t, R(go_enters_transmission), (error == 0) == (other->size > mine),
	       "a READ at offset %" PRIu64 " %s: not the export that was chosen is served, which has %" PRIu64 " bytes",
	       end, error == 0 ? "is carried out" : "is refused", other->size);
}

static void
go_to_other(struct test *t, const struct other *other, uint64_t mine)
{
	struct infos infos = ask_known(t, NBD_OPT_GO, other->name, REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));

	expect_number(t, R(info_export_same_as_export_name), "the size of the chosen export", infos.export.size,
	              other->size);
	if (infos.export.flags != other->flags)
		observe(t, R(info_then_other_go_may_differ),
		        "behind an INFO of another export GO tells the transmission flags 0x%04x, else 0x%04x",
		        infos.export.flags, other->flags);
	take_go(t, &infos);
	expect_serves(t, other, mine);
}

CASE(go, other_export_after_info,
     "NBD_OPT_INFO of one export and NBD_OPT_GO of another: the other one is told of and served",
     R(info_export_same_as_export_name), R(go_enters_transmission))
{
	struct other other = need_other_export(t);
	struct infos mine;

	haggle_again(t);
	mine = ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	go_to_other(t, &other, mine.export.size);
}

/* nbdkit f1ffde56: of several INFOs the first one's name was remembered. */
CASE(go, other_export_after_several_infos,
     "After NBD_OPT_INFO of several exports each answer, and the session that NBD_OPT_GO enters, is of the export that "
     "was named",
     R(info_export_same_as_export_name), R(go_enters_transmission))
{
	struct other other = need_other_export(t);
	struct infos mine, infos;

	haggle_again(t);
	mine = ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	infos = ask_known(t, NBD_OPT_INFO, other.name, REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	expect_number(t, R(info_export_same_as_export_name), "the size by the second INFO", infos.export.size,
	              other.size);
	expect_number(t, R(info_export_same_as_export_name), "the transmission flags by the second INFO",
	              infos.export.flags, other.flags);
	infos = ask_known(t, NBD_OPT_INFO, export_name(t), REQUESTS(NBD_INFO_BLOCK_SIZE), R(baseline_info_go));
	expect_number(t, R(info_export_same_as_export_name), "the size by the third INFO", infos.export.size,
	              mine.export.size);
	go_to_other(t, &other, mine.export.size);
}
