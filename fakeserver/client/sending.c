/* How a message of the fake client gets onto the wire. */
#include "fakeserver/client/lying.h"

static void
encode_data(struct buf *data, struct fc_sending *m)
{
	if (m->data == FC_DATA_GO) {
		m->go.name_length += (uint32_t)m->inner_length_off;
		wire_put_opt_go(data, &m->go);
	} else if (m->data == FC_DATA_META) {
		m->meta.name_length += (uint32_t)m->inner_length_off;
		wire_put_opt_meta_context(data, &m->meta);
	} else {
		put_bytes(data, m->option.data);
	}
}

static void
encode_option(struct buf *b, struct fc_sending *m)
{
	struct buf data = { 0 };

	encode_data(&data, m);
	m->option.data = (struct bytes){ data.at, data.len };
	m->option.length = (uint32_t)((int64_t)data.len + m->length_off);
	if (m->swap) {
		m->option.magic = __builtin_bswap64(m->option.magic);
		m->option.option = __builtin_bswap32(m->option.option);
		m->option.length = __builtin_bswap32(m->option.length);
	}
	wire_put_option(b, &m->option);
	buf_free(&data);
}

static void
encode_request(struct buf *b, struct fc_sending *m)
{
	struct request *r = &m->request;

	if (m->swap) {
		r->magic = __builtin_bswap32(r->magic);
		r->flags = __builtin_bswap16(r->flags);
		r->type = __builtin_bswap16(r->type);
		r->offset = __builtin_bswap64(r->offset);
		r->length = m->extended ? __builtin_bswap64(r->length) : __builtin_bswap32((uint32_t)r->length);
	}
	if (m->extended)
		wire_put_extended_request(b, r);
	else
		wire_put_request(b, r);
}

void
fc_send(struct fc_session *s, struct fc_sending *m)
{
	fc_lie_sending(s, m);
	put_bytes(&s->out, m->before);
	if (!m->drop && m->kind == MSG_CLIENT_FLAGS) {
		if (m->swap)
			m->flags.flags = __builtin_bswap32(m->flags.flags);
		wire_put_client_flags(&s->out, &m->flags);
	} else if (!m->drop && m->kind == MSG_OPTION) {
		encode_option(&s->out, m);
	} else if (!m->drop) {
		encode_request(&s->out, m);
	}
	put_bytes(&s->out, m->behind);
	s->close_behind |= m->close;
}
