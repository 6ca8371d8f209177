#include "harness/wire.h"

#include "harness/nbd.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct bytes
bytes_of(const char *s)
{
	return (struct bytes){ (const uint8_t *)s, strlen(s) };
}

bool
bytes_equal(struct bytes a, struct bytes b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.at, b.at, a.len) == 0);
}

/* ---- decoding ---- */

struct wire
wire(const void *data, size_t len)
{
	return (struct wire){ .at = data, .left = len };
}

struct wire
wire_over(struct bytes b)
{
	return wire(b.at, b.len);
}

static uint64_t
wire_be(struct wire *w, size_t n)
{
	uint64_t v = 0;

	if (w->left < n) {
		w->ran_out = true;
		w->left = 0;
		return 0;
	}
	for (size_t i = 0; i < n; i++)
		v = v << 8 | w->at[i];
	w->at += n;
	w->left -= n;
	return v;
}

uint16_t
wire_be16(struct wire *w)
{
	return (uint16_t)wire_be(w, 2);
}

uint32_t
wire_be32(struct wire *w)
{
	return (uint32_t)wire_be(w, 4);
}

uint64_t
wire_be64(struct wire *w)
{
	return wire_be(w, 8);
}

struct bytes
wire_take(struct wire *w, size_t n)
{
	struct bytes b = { w->at, n };

	if (w->left < n) {
		w->ran_out = true;
		w->left = 0;
		return (struct bytes){ w->at, 0 };
	}
	if (n > 0)
		w->at += n;
	w->left -= n;
	return b;
}

struct bytes
wire_rest(struct wire *w)
{
	return wire_take(w, w->left);
}

enum wire_end
wire_end(const struct wire *w)
{
	if (w->ran_out)
		return WIRE_SHORT;
	return w->left > 0 ? WIRE_EXTRA : WIRE_EXACT;
}

/* ---- encoding ---- */

void
buf_free(struct buf *b)
{
	free(b->at);
	*b = (struct buf){ 0 };
}

void
buf_clear(struct buf *b)
{
	b->len = 0;
}

/* Long payloads cost more in page faults than in copying; huge pages spare nearly all of them. */
static void
advise_huge(const struct buf *b)
{
	enum { HUGE = 2 << 20 };
	uintptr_t from = ((uintptr_t)b->at + HUGE - 1) / HUGE * HUGE;

	if (b->cap >= 2 * HUGE)
		madvise((void *)from, ((uintptr_t)b->at + b->cap - from) / HUGE * HUGE, MADV_HUGEPAGE);
}

uint8_t *
buf_grow(struct buf *b, size_t n)
{
	if (b->len + n > b->cap) {
		b->cap = (b->len + n) * 2;
		b->at = realloc(b->at, b->cap);
		if (b->at == NULL)
			abort();
		advise_huge(b);
	}
	b->len += n;
	return b->at + b->len - n;
}

void
buf_put(struct buf *b, const void *data, size_t n)
{
	if (n > 0)
		memcpy(buf_grow(b, n), data, n);
}

void
buf_zero(struct buf *b, size_t n)
{
	if (n > 0)
		memset(buf_grow(b, n), 0, n);
}

void
buf_consume(struct buf *b, size_t n)
{
	b->len -= n;
	if (b->len > 0)
		memmove(b->at, b->at + n, b->len);
}

static void
put_be(struct buf *b, uint64_t v, size_t n)
{
	uint8_t *at = buf_grow(b, n);

	for (size_t i = n; i-- > 0; v >>= 8)
		at[i] = (uint8_t)v;
}

void
put_be16(struct buf *b, uint16_t v)
{
	put_be(b, v, 2);
}

void
put_be32(struct buf *b, uint32_t v)
{
	put_be(b, v, 4);
}

void
put_be64(struct buf *b, uint64_t v)
{
	put_be(b, v, 8);
}

void
put_bytes(struct buf *b, struct bytes v)
{
	buf_put(b, v.at, v.len);
}

/* ---- handshake messages ---- */

enum wire_end
wire_get_oldstyle_greeting(struct wire w, struct oldstyle_greeting *m)
{
	m->magic = wire_be64(&w);
	m->cliserv_magic = wire_be64(&w);
	m->size = wire_be64(&w);
	m->flags = wire_be32(&w);
	m->reserved = wire_take(&w, NBD_EXPORT_NAME_PADDING);
	return wire_end(&w);
}

void
wire_put_oldstyle_greeting(struct buf *b, const struct oldstyle_greeting *m)
{
	put_be64(b, m->magic);
	put_be64(b, m->cliserv_magic);
	put_be64(b, m->size);
	put_be32(b, m->flags);
	put_bytes(b, m->reserved);
}

enum wire_end
wire_get_greeting(struct wire w, struct greeting *m)
{
	m->magic = wire_be64(&w);
	m->option_magic = wire_be64(&w);
	m->flags = wire_be16(&w);
	return wire_end(&w);
}

void
wire_put_greeting(struct buf *b, const struct greeting *m)
{
	put_be64(b, m->magic);
	put_be64(b, m->option_magic);
	put_be16(b, m->flags);
}

enum wire_end
wire_get_client_flags(struct wire w, struct client_flags *m)
{
	m->flags = wire_be32(&w);
	return wire_end(&w);
}

void
wire_put_client_flags(struct buf *b, const struct client_flags *m)
{
	put_be32(b, m->flags);
}

enum wire_end
wire_get_option(struct wire w, struct option *m)
{
	m->magic = wire_be64(&w);
	m->option = wire_be32(&w);
	m->length = wire_be32(&w);
	m->data = wire_take(&w, m->length);
	return wire_end(&w);
}

void
wire_put_option(struct buf *b, const struct option *m)
{
	put_be64(b, m->magic);
	put_be32(b, m->option);
	put_be32(b, m->length);
	put_bytes(b, m->data);
}

enum wire_end
wire_get_option_reply(struct wire w, struct option_reply *m)
{
	m->magic = wire_be64(&w);
	m->option = wire_be32(&w);
	m->type = wire_be32(&w);
	m->length = wire_be32(&w);
	m->data = wire_take(&w, m->length);
	return wire_end(&w);
}

void
wire_put_option_reply(struct buf *b, const struct option_reply *m)
{
	put_be64(b, m->magic);
	put_be32(b, m->option);
	put_be32(b, m->type);
	put_be32(b, m->length);
	put_bytes(b, m->data);
}

enum wire_end
wire_get_export_name_reply(struct wire w, struct export_name_reply *m)
{
	m->size = wire_be64(&w);
	m->flags = wire_be16(&w);
	m->padding = wire_rest(&w);
	return wire_end(&w);
}

void
wire_put_export_name_reply(struct buf *b, const struct export_name_reply *m)
{
	put_be64(b, m->size);
	put_be16(b, m->flags);
	put_bytes(b, m->padding);
}

/* ---- option data ---- */

enum wire_end
wire_get_opt_go(struct wire w, struct opt_go *m)
{
	m->name_length = wire_be32(&w);
	m->name = wire_take(&w, m->name_length);
	m->n_infos = wire_be16(&w);
	m->infos = wire_take(&w, 2u * m->n_infos);
	return wire_end(&w);
}

uint16_t
opt_go_info(const struct opt_go *go, size_t i)
{
	struct wire w = wire_over(go->infos);

	wire_take(&w, 2 * i);
	return wire_be16(&w);
}

void
wire_put_opt_go(struct buf *b, const struct opt_go *m)
{
	put_be32(b, m->name_length);
	put_bytes(b, m->name);
	put_be16(b, m->n_infos);
	put_bytes(b, m->infos);
}

struct bytes
opt_meta_context_query(struct wire *queries)
{
	return wire_take(queries, wire_be32(queries));
}

enum wire_end
wire_get_opt_meta_context(struct wire w, struct opt_meta_context *m)
{
	const uint8_t *first;

	m->name_length = wire_be32(&w);
	m->name = wire_take(&w, m->name_length);
	m->n_queries = wire_be32(&w);
	first = w.at;
	for (uint32_t i = 0; i < m->n_queries && !w.ran_out; i++)
		opt_meta_context_query(&w);
	m->queries = (struct bytes){ first, (size_t)(w.at - first) };
	return wire_end(&w);
}

void
wire_put_opt_meta_context(struct buf *b, const struct opt_meta_context *m)
{
	put_be32(b, m->name_length);
	put_bytes(b, m->name);
	put_be32(b, m->n_queries);
	put_bytes(b, m->queries);
}

/* ---- option reply data ---- */

enum wire_end
wire_get_rep_server(struct wire w, struct rep_server *m)
{
	m->name_length = wire_be32(&w);
	m->name = wire_take(&w, m->name_length);
	m->details = wire_rest(&w);
	return wire_end(&w);
}

void
wire_put_rep_server(struct buf *b, const struct rep_server *m)
{
	put_be32(b, m->name_length);
	put_bytes(b, m->name);
	put_bytes(b, m->details);
}

enum wire_end
wire_get_rep_info(struct wire w, struct rep_info *m)
{
	m->type = wire_be16(&w);
	m->payload = wire_rest(&w);
	return wire_end(&w);
}

void
wire_put_rep_info(struct buf *b, const struct rep_info *m)
{
	put_be16(b, m->type);
	put_bytes(b, m->payload);
}

enum wire_end
wire_get_info_export(struct wire w, struct info_export *m)
{
	m->size = wire_be64(&w);
	m->flags = wire_be16(&w);
	return wire_end(&w);
}

void
wire_put_info_export(struct buf *b, const struct info_export *m)
{
	put_be64(b, m->size);
	put_be16(b, m->flags);
}

enum wire_end
wire_get_info_block_size(struct wire w, struct info_block_size *m)
{
	m->minimum = wire_be32(&w);
	m->preferred = wire_be32(&w);
	m->maximum = wire_be32(&w);
	return wire_end(&w);
}

void
wire_put_info_block_size(struct buf *b, const struct info_block_size *m)
{
	put_be32(b, m->minimum);
	put_be32(b, m->preferred);
	put_be32(b, m->maximum);
}

enum wire_end
wire_get_rep_meta_context(struct wire w, struct rep_meta_context *m)
{
	m->id = wire_be32(&w);
	m->name = wire_rest(&w);
	return wire_end(&w);
}

void
wire_put_rep_meta_context(struct buf *b, const struct rep_meta_context *m)
{
	put_be32(b, m->id);
	put_bytes(b, m->name);
}

/* ---- transmission ---- */

static void
get_request_fields(struct wire *w, struct request *m)
{
	m->magic = wire_be32(w);
	m->flags = wire_be16(w);
	m->type = wire_be16(w);
	m->cookie = wire_be64(w);
	m->offset = wire_be64(w);
}

static void
put_request_fields(struct buf *b, const struct request *m)
{
	put_be32(b, m->magic);
	put_be16(b, m->flags);
	put_be16(b, m->type);
	put_be64(b, m->cookie);
	put_be64(b, m->offset);
}

enum wire_end
wire_get_request(struct wire w, struct request *m)
{
	get_request_fields(&w, m);
	m->length = wire_be32(&w);
	m->data = wire_take(&w, m->type == NBD_CMD_WRITE ? m->length : 0);
	return wire_end(&w);
}

void
wire_put_request(struct buf *b, const struct request *m)
{
	put_request_fields(b, m);
	put_be32(b, (uint32_t)m->length);
	put_bytes(b, m->data);
}

bool
request_has_payload(const struct request *m)
{
	return m->type == NBD_CMD_WRITE || (m->flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0;
}

enum wire_end
wire_get_extended_request(struct wire w, struct request *m)
{
	get_request_fields(&w, m);
	m->length = wire_be64(&w);
	m->data = wire_take(&w, request_has_payload(m) ? m->length : 0);
	return wire_end(&w);
}

void
wire_put_extended_request(struct buf *b, const struct request *m)
{
	put_request_fields(b, m);
	put_be64(b, m->length);
	put_bytes(b, m->data);
}

/* What is left, in whole units of so many bytes; WIRE_EXTRA for a part of one. */
static struct bytes
take_whole(struct wire *w, size_t unit)
{
	return wire_take(w, w->left / unit * unit);
}

/* Likewise, and at least one. */
static struct bytes
take_some(struct wire *w, size_t unit)
{
	return w->left < unit ? wire_take(w, unit) : take_whole(w, unit);
}

enum wire_end
wire_get_block_status_payload(struct wire w, struct block_status_payload *m)
{
	m->length = wire_be64(&w);
	m->ids = take_whole(&w, sizeof(uint32_t));
	return wire_end(&w);
}

void
wire_put_block_status_payload(struct buf *b, const struct block_status_payload *m)
{
	put_be64(b, m->length);
	put_bytes(b, m->ids);
}

uint32_t
block_status_payload_id(const struct block_status_payload *p, size_t i)
{
	struct wire w = wire_over(p->ids);

	wire_take(&w, i * sizeof(uint32_t));
	return wire_be32(&w);
}

enum wire_end
wire_get_simple_reply(struct wire w, struct simple_reply *m)
{
	m->magic = wire_be32(&w);
	m->error = wire_be32(&w);
	m->cookie = wire_be64(&w);
	m->data = wire_rest(&w);
	return wire_end(&w);
}

void
wire_put_simple_reply(struct buf *b, const struct simple_reply *m)
{
	put_be32(b, m->magic);
	put_be32(b, m->error);
	put_be64(b, m->cookie);
	put_bytes(b, m->data);
}

static void
get_chunk_fields(struct wire *w, struct chunk *m)
{
	m->magic = wire_be32(w);
	m->flags = wire_be16(w);
	m->type = wire_be16(w);
	m->cookie = wire_be64(w);
	m->offset = 0;
}

static void
put_chunk_fields(struct buf *b, const struct chunk *m)
{
	put_be32(b, m->magic);
	put_be16(b, m->flags);
	put_be16(b, m->type);
	put_be64(b, m->cookie);
}

enum wire_end
wire_get_chunk(struct wire w, struct chunk *m)
{
	get_chunk_fields(&w, m);
	m->length = wire_be32(&w);
	m->data = wire_take(&w, m->length);
	return wire_end(&w);
}

void
wire_put_chunk(struct buf *b, const struct chunk *m)
{
	put_chunk_fields(b, m);
	put_be32(b, (uint32_t)m->length);
	put_bytes(b, m->data);
}

enum wire_end
wire_get_extended_chunk(struct wire w, struct chunk *m)
{
	get_chunk_fields(&w, m);
	m->offset = wire_be64(&w);
	m->length = wire_be64(&w);
	m->data = wire_take(&w, m->length);
	return wire_end(&w);
}

void
wire_put_extended_chunk(struct buf *b, const struct chunk *m)
{
	put_chunk_fields(b, m);
	put_be64(b, m->offset);
	put_be64(b, m->length);
	put_bytes(b, m->data);
}

enum wire_end
wire_get_chunk_offset_data(struct wire w, struct chunk_offset_data *m)
{
	m->offset = wire_be64(&w);
	m->data = wire_rest(&w);
	return wire_end(&w);
}

void
wire_put_chunk_offset_data(struct buf *b, const struct chunk_offset_data *m)
{
	put_be64(b, m->offset);
	put_bytes(b, m->data);
}

enum wire_end
wire_get_chunk_offset_hole(struct wire w, struct chunk_offset_hole *m)
{
	m->offset = wire_be64(&w);
	m->size = wire_be32(&w);
	return wire_end(&w);
}

void
wire_put_chunk_offset_hole(struct buf *b, const struct chunk_offset_hole *m)
{
	put_be64(b, m->offset);
	put_be32(b, m->size);
}

enum wire_end
wire_get_chunk_block_status(struct wire w, struct chunk_block_status *m)
{
	m->context_id = wire_be32(&w);
	m->extents = take_some(&w, EXTENT_SIZE);
	return wire_end(&w);
}

void
wire_put_chunk_block_status(struct buf *b, const struct chunk_block_status *m)
{
	put_be32(b, m->context_id);
	put_bytes(b, m->extents);
}

struct extent
chunk_extent(const struct chunk_block_status *s, size_t i)
{
	struct wire w = wire_over(s->extents);
	struct extent e;

	wire_take(&w, i * EXTENT_SIZE);
	e.length = wire_be32(&w);
	e.flags = wire_be32(&w);
	return e;
}

void
wire_put_extent(struct buf *b, struct extent e)
{
	put_be32(b, (uint32_t)e.length);
	put_be32(b, (uint32_t)e.flags);
}

enum wire_end
wire_get_chunk_block_status_ext(struct wire w, struct chunk_block_status_ext *m)
{
	m->context_id = wire_be32(&w);
	m->count = wire_be32(&w);
	m->extents = take_some(&w, EXTENT_EXT_SIZE);
	return wire_end(&w);
}

void
wire_put_chunk_block_status_ext(struct buf *b, const struct chunk_block_status_ext *m)
{
	put_be32(b, m->context_id);
	put_be32(b, m->count);
	put_bytes(b, m->extents);
}

struct extent
chunk_extent_ext(const struct chunk_block_status_ext *s, size_t i)
{
	struct wire w = wire_over(s->extents);
	struct extent e;

	wire_take(&w, i * EXTENT_EXT_SIZE);
	e.length = wire_be64(&w);
	e.flags = wire_be64(&w);
	return e;
}

void
wire_put_extent_ext(struct buf *b, struct extent e)
{
	put_be64(b, e.length);
	put_be64(b, e.flags);
}

enum wire_end
wire_get_chunk_error(struct wire w, struct chunk_error *m)
{
	m->error = wire_be32(&w);
	m->message_length = wire_be16(&w);
	m->message = wire_take(&w, m->message_length);
	return wire_end(&w);
}

void
wire_put_chunk_error(struct buf *b, const struct chunk_error *m)
{
	put_be32(b, m->error);
	put_be16(b, m->message_length);
	put_bytes(b, m->message);
}

enum wire_end
wire_get_chunk_error_offset(struct wire w, struct chunk_error_offset *m)
{
	m->error = wire_be32(&w);
	m->message_length = wire_be16(&w);
	m->message = wire_take(&w, m->message_length);
	m->offset = wire_be64(&w);
	return wire_end(&w);
}

void
wire_put_chunk_error_offset(struct buf *b, const struct chunk_error_offset *m)
{
	put_be32(b, m->error);
	put_be16(b, m->message_length);
	put_bytes(b, m->message);
	put_be64(b, m->offset);
}
