/* From a connection to the transmission phase, in an exploration that makes thousands of them. */
#include "cases/explore/product.h"

#include "harness/test.h"

enum { MOST_OPTION_REPLY = 1 << 20 };

static void
take_info(struct entered *e, struct bytes data)
{
	struct info_block_size sizes;
	struct info_export export;
	struct rep_info info;

	wire_get_rep_info(wire_over(data), &info);
	if (info.type == NBD_INFO_EXPORT && wire_get_info_export(wire_over(info.payload), &export) == WIRE_EXACT) {
		e->size = export.size;
		e->flags = export.flags;
	}
	if (info.type == NBD_INFO_BLOCK_SIZE &&
	    wire_get_info_block_size(wire_over(info.payload), &sizes) == WIRE_EXACT && sizes.minimum > 0 &&
	    sizes.minimum <= 65536 && (sizes.minimum & (sizes.minimum - 1)) == 0) {
		e->sized = true;
		e->minimum = sizes.minimum;
		e->maximum = sizes.maximum;
	}
}

static void
take_context(struct entered *e, struct bytes data)
{
	struct rep_meta_context m;

	if (wire_get_rep_meta_context(wire_over(data), &m) == WIRE_EXACT && e->n_contexts < MOST_SELECTED)
		e->contexts[e->n_contexts++] = m.id;
}

/* The type of the final reply, or 0 where none comes. */
static uint32_t
ask(struct link *l, struct entered *e, uint32_t option, const struct buf *data)
{
	struct option_reply r = { .type = 0 };
	struct buf b = { 0 };
	const uint8_t *at;

	wire_put_option(&b, &(struct option){ NBD_OPTION_MAGIC, option, (uint32_t)data->len, { data->at, data->len } });
	link_send(l, MSG_OPTION, 0, (struct bytes){ b.at, b.len });
	buf_free(&b);
	for (;;) {
		if ((at = link_need(l, OPTION_REPLY_HEADER_SIZE)) == NULL)
			return 0;
		wire_get_option_reply(wire(at, OPTION_REPLY_HEADER_SIZE), &r);
		if (r.magic != NBD_OPTION_REPLY_MAGIC || r.length > MOST_OPTION_REPLY ||
		    link_need(l, OPTION_REPLY_HEADER_SIZE + r.length) == NULL)
			return 0;
		wire_get_option_reply(wire_over(link_take(l, MSG_OPTION_REPLY, 0, OPTION_REPLY_HEADER_SIZE + r.length)),
		                      &r);
		if (r.type == NBD_REP_ACK || (r.type & NBD_REP_ERROR_BIT) != 0)
			return r.type;
		if (r.type == NBD_REP_INFO)
			take_info(e, r.data);
		if (r.type == NBD_REP_META_CONTEXT)
			take_context(e, r.data);
	}
}

static bool
select_base(struct link *l, struct entered *e)
{
	static const char *const base = "base:allocation";
	struct buf b = { 0 };
	uint32_t final;

	put_meta_context(&b, export_name(l->t), &base, 1);
	final = ask(l, e, NBD_OPT_SET_META_CONTEXT, &b);
	buf_free(&b);
	return final == NBD_REP_ACK && e->n_contexts > 0;
}

static bool
go(struct link *l, struct entered *e)
{
	static const uint16_t sizes = NBD_INFO_BLOCK_SIZE;
	struct buf b = { 0 };
	uint32_t final;

	put_go(&b, export_name(l->t), &sizes, 1);
	final = ask(l, e, NBD_OPT_GO, &b);
	buf_free(&b);
	return final == NBD_REP_ACK;
}

static bool
greet(struct link *l, struct test *t)
{
	struct greeting g = { .magic = 0 };
	struct buf b = { 0 };
	char error[512];

	if (!link_open(l, t, error) || link_need(l, GREETING_SIZE) == NULL)
		return false;
	wire_get_greeting(wire_over(link_take(l, MSG_GREETING, 0, GREETING_SIZE)), &g);
	wire_put_client_flags(&b,
	                      &(struct client_flags){ g.flags & (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES) });
	link_send(l, MSG_CLIENT_FLAGS, 0, (struct bytes){ b.at, b.len });
	buf_free(&b);
	return g.magic == NBD_MAGIC && g.option_magic == NBD_OPTION_MAGIC;
}

static bool
starttls(struct link *l, struct entered *e)
{
	char error[512];

	return ask(l, e, NBD_OPT_STARTTLS, &(struct buf){ 0 }) == NBD_REP_ACK && link_start_tls(l, error);
}

bool
enter_link(struct link *l, struct test *t, enum mode mode, struct entered *e)
{
	*e = (struct entered){ .mode = mode, .minimum = 1, .maximum = NBD_DEFAULT_MAX_PAYLOAD };
	if (!greet(l, t))
		return false;
	e->there = !is_over_tls(t) || starttls(l, e);
	if (!e->there)
		return l->end == LINK_OPEN;
	e->there = mode == MODE_SIMPLE || ask(l, e, NBD_OPT_STRUCTURED_REPLY, &(struct buf){ 0 }) == NBD_REP_ACK;
	e->there = e->there && (mode != MODE_CONTEXTS || select_base(l, e));
	e->there = e->there && go(l, e);
	return l->end == LINK_OPEN;
}

void
hang_up_link(struct link *l)
{
	struct buf b = { 0 };

	if (l->fd < 0)
		return;
	wire_put_request(&b, &(struct request){ .magic = NBD_REQUEST_MAGIC, .type = NBD_CMD_DISC });
	link_send(l, MSG_REQUEST, 0, (struct bytes){ b.at, b.len });
	buf_free(&b);
	link_close(l);
}
