#include "cases/explore/facts.h"

#include "harness/exploration.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { EXPORTS_TRIED = 8 };

static const uint16_t sizes = NBD_INFO_BLOCK_SIZE;

static struct bytes
kept(struct bytes b)
{
	uint8_t *copy = malloc(b.len + 1);

	if (copy == NULL)
		abort();
	if (b.len > 0)
		memcpy(copy, b.at, b.len);
	copy[b.len] = 0;
	return (struct bytes){ copy, b.len };
}

/* Of the protocol's own port there is a rule (proto.md:119). */
static void
need_newstyle(struct test *t)
{
	struct sockaddr_in in = { 0 };
	socklen_t len = sizeof(in);

	open_connection(t);
	recv_greeting(t);
	if (t->s->oldstyle && getpeername(t->s->fd, (struct sockaddr *)&in, &len) == 0 && in.sin_family == AF_INET &&
	    in.sin_port == htons(10809))
		broken(t, R(newstyle_port_refuses_oldstyle), "the server greets in the oldstyle at port 10809");
	disconnect(t);
	open_fixed_newstyle(t);
	disconnect(t);
}

/* ---- an export ---- */

static void
learn_entry(struct test *t, struct export_fact *e)
{
	open_fixed_newstyle(t);
	send_go(t, NBD_OPT_INFO, e->name, NULL, 0);
	e->bare_go = recv_infos(t, R(option_gets_reply)).final == NBD_REP_ACK;
	disconnect(t);
	open_fixed_newstyle(t);
	send_option(t, NBD_OPT_EXPORT_NAME, e->name.at, e->name.len);
	e->by_export_name = peer_goes_on(t, R(server_terminates_hard));
	disconnect(t);
}

static void
learn_base(struct test *t, struct export_fact *e, bool *served)
{
	static const char *const base = "base:allocation";
	struct option_reply r;
	struct contexts c;

	open_fixed_newstyle(t);
	send_option(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	r = recv_option_reply(t, R(option_gets_reply));
	if (r.type == NBD_REP_ACK) {
		c = meta_contexts(t, NBD_OPT_SET_META_CONTEXT, e->name, &base, 1, R(option_gets_reply));
		e->base = c.final == NBD_REP_ACK ? c.count : 0;
		*served |= c.final == NBD_REP_ACK;
	}
	disconnect(t);
}

/* Returns the type of the final reply. */
static uint32_t
learn_export(struct test *t, struct facts *f, enum of_export of, struct bytes name)
{
	struct export_fact *e = &f->export[of];
	bool served = false;
	struct infos infos;

	*e = (struct export_fact){ .name = kept(name), .minimum = 1 };
	open_fixed_newstyle(t);
	f->handshake_flags = t->s->handshake_flags;
	send_go(t, NBD_OPT_INFO, name, &sizes, 1);
	infos = recv_infos(t, R(option_gets_reply));
	disconnect(t);
	if (infos.final != NBD_REP_ACK || infos.n_export == 0)
		return infos.final;
	e->there = true;
	e->size = infos.export.size;
	e->flags = infos.export.flags;
	if (infos.n_block_size > 0 && infos.block.minimum - 1 < 65536)
		e->minimum = infos.block.minimum;
	learn_entry(t, e);
	learn_base(t, e, of == OF_OWN ? &f->served[NBD_OPT_SET_META_CONTEXT] : &served);
	return infos.final;
}

static void
learn_own(struct test *t, struct facts *f)
{
	uint32_t final = learn_export(t, f, OF_OWN, export_name(t));

	if (final == NBD_REP_ERR_UNSUP)
		skip(t, "GO", "the server does not know NBD_OPT_INFO and NBD_OPT_GO");
	if (is_over_tls(t))
		EXPECT(t, f->tls_required ? R(forcedtls_no_tls_reqd_after_tls) : R(selectivetls_no_tls_reqd_after_tls),
		       final != NBD_REP_ERR_TLS_REQD, "NBD_REP_ERR_TLS_REQD to NBD_OPT_INFO over TLS");
	if (final == NBD_REP_ERR_TLS_REQD)
		skip(t, "no TLS", "the server answers options over TLS only");
	if (final == NBD_REP_ERR_UNKNOWN)
		harness_error(t, "the server has no export \"%s\"; name one with --export", export_name(t).at);
	EXPECT_REPLY(t, R(baseline_info_go), final, NBD_REP_ACK);
	EXPECT(t, R(info_export_sent), f->export[OF_OWN].there, "INFO was acknowledged without NBD_INFO_EXPORT");
}

/* ---- options ---- */

static void
learn_list(struct test *t, struct facts *f, struct bytes names[EXPORTS_TRIED])
{
	struct rep_server server;
	struct option_reply r;

	open_fixed_newstyle(t);
	send_option(t, NBD_OPT_LIST, NULL, 0);
	while ((r = recv_option_reply(t, R(list_replies))).type == NBD_REP_SERVER) {
		wire_get_rep_server(wire_over(r.data), &server);
		f->exports += sum_of(server.name);
		if (f->n_exports++ < EXPORTS_TRIED)
			names[f->n_exports - 1] = kept(server.name);
	}
	f->served[NBD_OPT_LIST] = r.type == NBD_REP_ACK;
	disconnect(t);
}

/* Where the export under test is the default one, without a name, only what differs from it is surely another. */
static void
learn_other(struct test *t, struct facts *f, const struct bytes *names, unsigned n)
{
	struct export_fact *own = &f->export[OF_OWN], *other = &f->export[OF_OTHER];

	for (unsigned i = 0; i < n && i < EXPORTS_TRIED && !other->there; i++) {
		if (names[i].len == 0 || bytes_equal(names[i], own->name))
			continue;
		learn_export(t, f, OF_OTHER, names[i]);
		other->there &= other->size > 0 &&
		                (own->name.len > 0 || other->size != own->size || other->flags != own->flags);
	}
}

static void
learn_contexts(struct test *t, struct facts *f)
{
	const char *names[MOST_CONTEXTS];
	struct contexts c;

	open_fixed_newstyle(t);
	send_option(t, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	f->served[NBD_OPT_STRUCTURED_REPLY] = recv_option_reply(t, R(option_gets_reply)).type == NBD_REP_ACK;
	c = meta_contexts(t, NBD_OPT_LIST_META_CONTEXT, export_name(t), NULL, 0, R(option_gets_reply));
	f->served[NBD_OPT_LIST_META_CONTEXT] = c.final == NBD_REP_ACK;
	for (unsigned i = 0; c.final == NBD_REP_ACK && i < c.count && i < MOST_CONTEXTS; i++) {
		f->all[i] = kept((struct bytes){ (const uint8_t *)c.context[i].name, c.context[i].name_length });
		names[f->n_all++] = (const char *)f->all[i].at;
	}
	if (f->served[NBD_OPT_SET_META_CONTEXT] && f->n_all > 1) {
		c = meta_contexts(t, NBD_OPT_SET_META_CONTEXT, export_name(t), names, f->n_all, R(option_gets_reply));
		f->n_selected = c.final == NBD_REP_ACK ? c.count : 0;
	}
	disconnect(t);
}

/* In whatever kind of reply: which it must be is a matter of the exploration. */
static bool
is_refused(struct test *t)
{
	struct wire w;
	uint32_t magic, rest;

	if (!peer_goes_on(t, R(each_request_one_reply)))
		return true;
	buf_clear(&t->s->in);
	w = wire_over(recv_payload(t, 8, R(each_request_one_reply)));
	magic = wire_be32(&w);
	rest = wire_be32(&w);
	return magic == NBD_STRUCTURED_REPLY_MAGIC ? (rest & 1u << 15) != 0 : rest != NBD_SUCCESS;
}

static void
learn_end(struct test *t, struct facts *f)
{
	uint32_t unit = f->export[OF_OWN].minimum > 512 ? f->export[OF_OWN].minimum : 512;

	enter_by_go(t, &sizes, 1);
	send_request(t, 0, NBD_CMD_READ, new_cookie(t), t->s->size, unit, NULL);
	f->past_end_fails = is_refused(t);
	disconnect(t);
}

static void
learn_visitors(struct test *t, struct facts *f)
{
	open_fixed_newstyle(t);
	f->visitors = open_beside(t);
}

static uint32_t
answer_in_clear(struct test *t, uint32_t option)
{
	uint32_t type;
	unsigned n;

	open_in_clear(t);
	send_option(t, option, NULL, 0);
	type = recv_final_reply(t, R(option_gets_reply), NBD_REP_SERVER, &n).type;
	disconnect(t);
	return type;
}

static void
learn(struct test *t, struct facts *f, const struct facts *clear)
{
	struct bytes names[EXPORTS_TRIED];
	const uint8_t *own = export_name(t).at;

	*f = (struct facts){ .served = { [NBD_OPT_INFO] = true, [NBD_OPT_GO] = true } };
	f->tls_required = is_over_tls(t) && answer_in_clear(t, NBD_OPT_LIST) == NBD_REP_ERR_TLS_REQD;
	f->may_write = may_write(t);
	need_connections(t);
	need_newstyle(t);
	learn_own(t, f);
	learn_list(t, f, names);
	if (clear == NULL)
		learn_other(t, f, names, f->n_exports);
	else if (clear->export[OF_OTHER].there)
		/* What a sequence speaks of is the same, whichever way it goes. */
		learn_other(t, f, &clear->export[OF_OTHER].name, 1);
	if (own[0] != '\0')
		learn_export(t, f, OF_DEFAULT, BYTES_OF(""));
	learn_export(t, f, OF_UNKNOWN, unknown_export_name());
	learn_contexts(t, f);
	learn_end(t, f);
	learn_visitors(t, f);
}

void
learn_facts(struct test *t, struct facts *f, struct facts *tls)
{
	learn(t, f, NULL);
	if (is_over_tls(t)) {
		f->tls = f;
	} else if (speaks_tls(t) && answer_in_clear(t, NBD_OPT_STARTTLS) == NBD_REP_ACK) {
		go_over_tls_from_now(t, true);
		learn(t, tls, f);
		go_over_tls_from_now(t, false);
		f->tls = tls;
	}
	exploration_begins(t);
}
