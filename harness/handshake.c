/* The steps of a case in the handshake. */
#include "harness/test_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Nothing in option haggling that a server has to say is longer; more is taken as a length that is no length. */
enum { MOST_REPLY_DATA = 1 << 24 };

/* ---- greeting and client flags ---- */

static void
recv_oldstyle(struct test *t)
{
	struct oldstyle_greeting g;
	struct session *s = t->s;

	recv_or_broken(t, OLDSTYLE_GREETING_SIZE - 16, R(oldstyle_greeting_layout), "the rest of an oldstyle greeting");
	trace_received(t, MSG_OLDSTYLE_GREETING, 0, (struct bytes){ s->in.at, s->in.len });
	wire_get_oldstyle_greeting(wire(s->in.at, s->in.len), &g);
	s->oldstyle = s->transmission = true;
	s->size = g.size;
	s->flags = (uint16_t)g.flags;
}

void
recv_greeting(struct test *t)
{
	struct session *s = t->s;
	struct greeting g;

	buf_clear(&s->in);
	recv_or_broken(t, 16, R(greeting_magic), "a greeting");
	report_served(t);
	wire_get_greeting(wire(s->in.at, 16), &g);
	if (g.magic == NBD_MAGIC && g.option_magic == NBD_CLISERV_MAGIC) {
		recv_oldstyle(t);
		return;
	}
	recv_or_broken(t, 2, R(handshake_flags_sent), "the handshake flags");
	trace_received(t, MSG_GREETING, 0, (struct bytes){ s->in.at, s->in.len });
	wire_get_greeting(wire(s->in.at, s->in.len), &g);
	EXPECT_EQ(t, R(greeting_magic), g.magic, NBD_MAGIC);
	EXPECT_EQ(t, R(newstyle_magic), g.option_magic, NBD_OPTION_MAGIC);
	s->handshake_flags = g.flags;
}

void
send_client_flags_alone(struct test *t, uint32_t flags)
{
	struct buf b = { 0 };

	wire_put_client_flags(&b, &(struct client_flags){ flags });
	session_send(t, MSG_CLIENT_FLAGS, 0, (struct bytes){ b.at, b.len }, (struct bytes){ 0 });
	buf_free(&b);
	t->s->client_flags = flags;
}

static void
go_over_tls(struct test *t)
{
	if (!is_over_tls(t))
		return;
	if ((t->s->handshake_flags & NBD_FLAG_FIXED_NEWSTYLE) == 0 ||
	    (t->s->client_flags & NBD_FLAG_C_FIXED_NEWSTYLE) == 0)
		skip(t, "clear text", "this is about a session without fixed newstyle, which has no TLS");
	start_tls(t, R(starttls_ack_or_error));
}

void
send_client_flags(struct test *t, uint32_t flags)
{
	send_client_flags_alone(t, flags);
	go_over_tls(t);
}

void
open_newstyle(struct test *t)
{
	open_connection(t);
	recv_greeting(t);
	if (t->s->oldstyle)
		skip(t, "newstyle", "the server speaks the oldstyle handshake");
}

void
open_haggling(struct test *t, uint32_t client_flags)
{
	open_newstyle(t);
	send_client_flags(t, client_flags);
}

/* Every client flag stands at the bit of the handshake flag that offers it (proto.md:1057-1085). */
static uint32_t
offered_flags(const struct test *t)
{
	return t->s->handshake_flags & (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
}

void
open_fixed_newstyle(struct test *t)
{
	open_newstyle(t);
	if ((t->s->handshake_flags & NBD_FLAG_FIXED_NEWSTYLE) == 0)
		skip(t, "fixed newstyle", "the server speaks newstyle, but does not set NBD_FLAG_FIXED_NEWSTYLE");
	send_client_flags(t, offered_flags(t));
}

void
open_in_clear(struct test *t)
{
	open_newstyle(t);
	if ((t->s->handshake_flags & NBD_FLAG_FIXED_NEWSTYLE) == 0)
		skip(t, "fixed newstyle", "the server speaks newstyle, but does not set NBD_FLAG_FIXED_NEWSTYLE");
	send_client_flags_alone(t, offered_flags(t));
}

/* ---- options ---- */

void
send_option(struct test *t, uint32_t option, const void *data, size_t len)
{
	struct buf b = { 0 };

	wire_put_option(&b, &(struct option){ NBD_OPTION_MAGIC, option, (uint32_t)len, { NULL, 0 } });
	t->s->option = option;
	session_send(t, MSG_OPTION, 0, (struct bytes){ b.at, b.len }, (struct bytes){ data, len });
	buf_free(&b);
}

void
send_option_header(struct test *t, uint32_t option, uint32_t length)
{
	struct buf b = { 0 };

	wire_put_option(&b, &(struct option){ NBD_OPTION_MAGIC, option, length, { NULL, 0 } });
	t->s->option = option;
	session_send(t, MSG_OPTION, 0, (struct bytes){ b.at, b.len }, (struct bytes){ 0 });
	buf_free(&b);
}

void
send_raw(struct test *t, const void *data, size_t len)
{
	session_send(t, MSG_RAW, 0, (struct bytes){ data, len }, (struct bytes){ 0 });
}

void
put_go(struct buf *b, struct bytes name, const uint16_t *infos, size_t n)
{
	struct buf list = { 0 };

	for (size_t i = 0; i < n; i++)
		put_be16(&list, infos[i]);
	wire_put_opt_go(b, &(struct opt_go){ (uint32_t)name.len, name, (uint16_t)n, { list.at, list.len } });
	buf_free(&list);
}

void
send_go(struct test *t, uint32_t option, struct bytes name, const uint16_t *infos, size_t n)
{
	struct buf b = { 0 };

	put_go(&b, name, infos, n);
	send_option(t, option, b.at, b.len);
	buf_free(&b);
}

bool
is_error_reply(uint32_t type)
{
	return (type & NBD_REP_ERROR_BIT) != 0;
}

/* proto.md:35-39 for the text of an error, proto.md:1531 for an ACK. */
static void
check_reply_data(struct test *t, const struct option_reply *r)
{
	if (is_error_reply(r->type)) {
		EXPECT(t, R(option_reply_string_limits), r->length <= NBD_MAX_STRING,
		       "the error's text has %" PRIu32 " bytes; a string has at most %u", r->length, NBD_MAX_STRING);
		EXPECT(t, R(option_reply_string_limits), r->data.len == 0 || memchr(r->data.at, 0, r->data.len) == NULL,
		       "the error's text contains a NUL");
	}
	if (r->type == NBD_REP_ACK)
		EXPECT_EQ(t, R(rep_ack_empty), r->length, 0);
}

struct option_reply
recv_option_reply(struct test *t, enum requirement_id owed)
{
	struct session *s = t->s;
	char what[NAME_MAX_TEXT + 40], name[NAME_MAX_TEXT];
	struct option_reply r;

	buf_clear(&s->in);
	snprintf(what, sizeof(what), "a reply to option %s", name_text(NAME_OPTION, s->option, name));
	recv_or_broken(t, OPTION_REPLY_HEADER_SIZE, owed, what);
	wire_get_option_reply(wire(s->in.at, s->in.len), &r);
	if (r.magic != NBD_OPTION_REPLY_MAGIC) {
		trace_received(t, MSG_RAW, 0, (struct bytes){ s->in.at, s->in.len });
		EXPECT_EQ(t, R(option_reply_magic), r.magic, NBD_OPTION_REPLY_MAGIC);
	}
	if (r.length > MOST_REPLY_DATA) {
		trace_received(t, MSG_OPTION_REPLY, 0, (struct bytes){ s->in.at, s->in.len });
		broken(t, R(option_reply_length), "the reply claims %" PRIu32 " bytes of data", r.length);
	}
	recv_or_broken(t, r.length, R(option_reply_length), "the data that the reply's length announces");
	trace_received(t, MSG_OPTION_REPLY, 0, (struct bytes){ s->in.at, s->in.len });
	wire_get_option_reply(wire(s->in.at, s->in.len), &r);
	EXPECT_ONE_OF(t, R(option_reply_echoes_option), NAME_OPTION, r.option, s->option);
	check_reply_data(t, &r);
	return r;
}

struct option_reply
recv_final_reply(struct test *t, enum requirement_id owed, uint32_t each, unsigned *count)
{
	struct option_reply r;

	for (*count = 0;; (*count)++) {
		r = recv_option_reply(t, owed);
		if (r.type == NBD_REP_ACK || is_error_reply(r.type))
			return r;
		EXPECT_REPLY(t, owed, r.type, each, NBD_REP_ACK);
		EXPECT(t, owed, *count < 10000, "more than 10000 replies and no final one");
	}
}

/* ---- INFO and GO ---- */

static char *
copy_bytes(struct bytes b)
{
	char *s = calloc(1, b.len + 1);

	if (s == NULL)
		abort();
	if (b.len > 0)
		memcpy(s, b.at, b.len);
	return s;
}

static void
take_block_size(struct test *t, struct infos *infos, const struct rep_info *info)
{
	infos->n_block_size++;
	EXPECT(t, R(info_block_size_length),
	       wire_get_info_block_size(wire_over(info->payload), &infos->block) == WIRE_EXACT,
	       "NBD_INFO_BLOCK_SIZE has length %zu; it must be 14", info->payload.len + 2);
}

static void
take_info(struct test *t, struct infos *infos, const struct option_reply *r)
{
	struct rep_info info;

	EXPECT(t, R(info_reply_layout), wire_get_rep_info(wire_over(r->data), &info) == WIRE_EXACT,
	       "NBD_REP_INFO has length %" PRIu32 "; its type alone takes 2 bytes", r->length);
	switch (info.type) {
	case NBD_INFO_EXPORT:
		infos->n_export++;
		EXPECT(t, R(info_export_length),
		       wire_get_info_export(wire_over(info.payload), &infos->export) == WIRE_EXACT,
		       "NBD_INFO_EXPORT has length %zu; it must be 12", info.payload.len + 2);
		break;
	case NBD_INFO_NAME:
		infos->n_name++;
		infos->name = copy_bytes(info.payload);
		infos->name_length = info.payload.len;
		break;
	case NBD_INFO_DESCRIPTION:
		infos->n_description++;
		infos->description = copy_bytes(info.payload);
		infos->description_length = info.payload.len;
		break;
	case NBD_INFO_BLOCK_SIZE:
		take_block_size(t, infos, &info);
		break;
	default:
		infos->n_unknown++;
	}
}

struct infos
recv_infos(struct test *t, enum requirement_id owed)
{
	struct infos infos = { 0 };
	struct option_reply r;

	for (;; infos.count++) {
		r = recv_option_reply(t, owed);
		infos.final = r.type;
		if (r.type == NBD_REP_ACK || is_error_reply(r.type))
			return infos;
		EXPECT_REPLY(t, R(info_go_same_format), r.type, NBD_REP_INFO, NBD_REP_ACK);
		EXPECT(t, owed, infos.count < 1000, "more than 1000 information replies and no final one");
		take_info(t, &infos, &r);
	}
}

/* ---- LIST ---- */

struct listed
list_exports(struct test *t)
{
	struct listed list = { 0 };
	struct rep_server server;
	struct option_reply r;

	send_option(t, NBD_OPT_LIST, NULL, 0);
	for (;;) {
		r = recv_option_reply(t, R(list_replies));
		if (is_error_reply(r.type))
			skip(t, "LIST", "the server refuses NBD_OPT_LIST with %s",
			     name_of(NAME_REPLY, r.type) ?: "an error");
		if (r.type == NBD_REP_ACK)
			return list;
		EXPECT_REPLY(t, R(list_replies), r.type, NBD_REP_SERVER, NBD_REP_ACK);
		EXPECT(t, R(rep_server_layout), wire_get_rep_server(wire_over(r.data), &server) == WIRE_EXACT,
		       "NBD_REP_SERVER has length %" PRIu32 " and a name of %" PRIu32, r.length, server.name_length);
		list.exports = reallocarray(list.exports, list.count + 1, sizeof(*list.exports));
		if (list.exports == NULL)
			abort();
		list.exports[list.count].name = copy_bytes(server.name);
		list.exports[list.count].name_length = server.name.len;
		list.exports[list.count].details = copy_bytes(server.details);
		list.exports[list.count++].details_length = server.details.len;
		EXPECT(t, R(list_replies), list.count < 100000, "more than 100000 exports and no final reply");
	}
}

/* ---- names ---- */

struct bytes
export_name(const struct test *t)
{
	return bytes_of(t->private->server->target->export_name);
}

struct bytes
unknown_export_name(void)
{
	return BYTES_OF("nbdspec-no-such-export");
}

/* ---- into transmission ---- */

static void
take_export(struct test *t, const struct infos *infos)
{
	struct session *s = t->s;

	s->transmission = true;
	s->size = infos->export.size;
	s->flags = infos->export.flags;
	s->block_advertised = infos->n_block_size > 0;
	/* A minimum that no server may have (proto.md:817) would lead astray every case but the one that judges it. */
	if (s->block_advertised && infos->block.minimum - 1 < 65536 &&
	    (infos->block.minimum & (infos->block.minimum - 1)) == 0)
		s->block = infos->block;
}

/* False: the server does not know GO. */
bool
enter_by_go_here(struct test *t, const uint16_t *list, size_t n)
{
	struct infos infos;

	send_go(t, NBD_OPT_GO, export_name(t), list, n);
	infos = recv_infos(t, R(option_gets_reply));
	if (infos.final == NBD_REP_ERR_UNSUP)
		return false;
	if (infos.final == NBD_REP_ERR_UNKNOWN)
		harness_error(t, "the server has no export \"%s\"; name one with --export", export_name(t).at);
	if (infos.final == NBD_REP_ERR_TLS_REQD)
		skip(t, "no TLS", "the server serves this export over TLS only (nbdspec server --tls, or nbds://)");
	EXPECT_REPLY(t, R(go_enters_transmission), infos.final, NBD_REP_ACK);
	EXPECT(t, R(info_export_sent), infos.n_export > 0, "NBD_OPT_GO was acknowledged without NBD_INFO_EXPORT");
	take_export(t, &infos);
	return true;
}

void
enter_by_go(struct test *t, const uint16_t *list, size_t n)
{
	open_fixed_newstyle(t);
	if (!enter_by_go_here(t, list, n))
		skip(t, "GO", "the server does not know NBD_OPT_GO");
}

void
recv_export_name_reply(struct test *t, enum requirement_id owed)
{
	bool padded = (t->s->client_flags & NBD_FLAG_C_NO_ZEROES) == 0;
	struct export_name_reply r;
	struct session *s = t->s;

	buf_clear(&s->in);
	recv_or_broken(t, EXPORT_NAME_REPLY_SIZE, owed, "the size and flags of the export");
	if (padded)
		recv_or_broken(t, NBD_EXPORT_NAME_PADDING, R(export_name_zeroes_padding),
		               "124 zeroes behind the transmission flags");
	trace_received(t, MSG_EXPORT_NAME_REPLY, 0, (struct bytes){ s->in.at, s->in.len });
	wire_get_export_name_reply(wire(s->in.at, s->in.len), &r);
	for (size_t i = 0; i < r.padding.len; i++)
		EXPECT(t, R(export_name_zeroes_padding), r.padding.at[i] == 0, "byte %zu of the 124 zeroes is 0x%02x",
		       i, r.padding.at[i]);
	s->transmission = true;
	s->size = r.size;
	s->flags = r.flags;
}

void
enter_by_export_name(struct test *t)
{
	open_newstyle(t);
	send_client_flags(t, offered_flags(t));
	send_option(t, NBD_OPT_EXPORT_NAME, export_name(t).at, export_name(t).len);
	recv_export_name_reply(t, R(export_name_reply_layout));
}

void
enter_transmission(struct test *t)
{
	static const uint16_t block_size = NBD_INFO_BLOCK_SIZE;

	open_connection(t);
	recv_greeting(t);
	if (t->s->oldstyle)
		return;
	send_client_flags(t, offered_flags(t));
	if ((t->s->handshake_flags & NBD_FLAG_FIXED_NEWSTYLE) != 0 && enter_by_go_here(t, &block_size, 1))
		return;
	send_option(t, NBD_OPT_EXPORT_NAME, export_name(t).at, export_name(t).len);
	recv_export_name_reply(t, R(export_name_reply_layout));
}
