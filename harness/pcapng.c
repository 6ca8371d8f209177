#include "harness/pcapng.h"

#include "harness/trace.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

/* All in our own byte order, as the format wants it, but for what is in the packets. */
enum { SECTION_HEADER = 0x0a0d0d0a, INTERFACE = 1, ENHANCED_PACKET = 6, DECRYPTION_SECRETS = 10 };
enum { TLS_KEY_LOG = 0x544c534b };
enum { BYTE_ORDER_MAGIC = 0x1a2b3c4d, LINKTYPE_RAW = 101 };
enum { OPTION_END = 0, OPTION_COMMENT = 1, OPTION_TSRESOL = 9 };

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };
enum {
	IP_HEADER = 20,
	TCP_HEADER = 20,
	UDP_HEADER = 8,
	COMMENT_MOST = 60000,
	SEGMENT_MOST = 65535 - IP_HEADER - TCP_HEADER
};
enum { NBD_PORT = 10809, SYSLOG_PORT = 514, FIRST_PORT = 20000, N_PORTS = 40000, LOCALHOST = 0x7f000001 };

struct flow {
	uint32_t next[2]; /* sequence numbers, by direction */
	uint32_t address;
	uint16_t port;
	bool open, ended[2];
};

struct pcapng {
	FILE *f;
	uint64_t epoch_ns;
	struct flow flows[65536]; /* by the trace's number of the connection */
	uint32_t n_flows;
};

/* ---- blocks ---- */

static void
put(struct buf *b, const void *data, size_t n)
{
	buf_put(b, data, n);
}

static void
put_u16(struct buf *b, uint16_t v)
{
	put(b, &v, sizeof(v));
}

static void
put_u32(struct buf *b, uint32_t v)
{
	put(b, &v, sizeof(v));
}

static void
put_padded(struct buf *b, struct bytes data)
{
	put_bytes(b, data);
	buf_zero(b, -data.len & 3);
}

static void
put_option(struct buf *b, uint16_t code, struct bytes value)
{
	put_u16(b, code);
	put_u16(b, (uint16_t)value.len);
	put_padded(b, value);
}

static void
put_block(FILE *f, uint32_t type, const struct buf *body)
{
	uint32_t length = (uint32_t)body->len + 12;

	fwrite(&type, 4, 1, f);
	fwrite(&length, 4, 1, f);
	fwrite(body->at, 1, body->len, f);
	fwrite(&length, 4, 1, f);
}

static void
put_headers(FILE *f)
{
	static const uint8_t nanoseconds = 9;
	struct buf b = { 0 };

	put_u32(&b, BYTE_ORDER_MAGIC);
	put_u16(&b, 1);
	put_u16(&b, 0);
	put_u32(&b, UINT32_MAX); /* the section's length is not told */
	put_u32(&b, UINT32_MAX);
	put_block(f, SECTION_HEADER, &b);
	buf_clear(&b);
	put_u16(&b, LINKTYPE_RAW);
	put_u16(&b, 0);
	put_u32(&b, 0); /* packets are kept whole */
	put_option(&b, OPTION_TSRESOL, (struct bytes){ &nanoseconds, 1 });
	put_option(&b, OPTION_END, (struct bytes){ 0 });
	put_block(f, INTERFACE, &b);
	buf_free(&b);
}

/* ---- packets ---- */

static uint16_t
checksum(struct bytes data, uint32_t sum)
{
	for (size_t i = 0; i < data.len; i++)
		sum += i % 2 == 0 ? (uint32_t)data.at[i] << 8 : data.at[i];
	while (sum >> 16 != 0)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static void
set_be16(uint8_t *at, uint16_t v)
{
	at[0] = (uint8_t)(v >> 8);
	at[1] = (uint8_t)v;
}

static void
put_ip(struct buf *b, uint8_t protocol, const struct flow *c, enum trace_direction to, uint16_t length)
{
	size_t start = b->len;

	put_be16(b, 0x4500);
	put_be16(b, length);
	put_be32(b, 0x00004000); /* no fragments */
	put_be32(b, (uint32_t)64 << 24 | (uint32_t)protocol << 16);
	put_be32(b, to == TO_SERVER ? c->address : LOCALHOST);
	put_be32(b, to == TO_SERVER ? LOCALHOST : c->address);
	set_be16(b->at + start + 10, checksum((struct bytes){ b->at + start, IP_HEADER }, 0));
}

static void
put_tcp(struct buf *b, const struct flow *c, enum trace_direction to, unsigned flags, struct bytes data)
{
	size_t start = b->len, length = TCP_HEADER + data.len;
	uint32_t pseudo = (LOCALHOST >> 16) + (LOCALHOST & 0xffff) + (c->address >> 16) + (c->address & 0xffff) + 6 +
	                  (uint32_t)length;

	put_be16(b, to == TO_SERVER ? c->port : NBD_PORT);
	put_be16(b, to == TO_SERVER ? NBD_PORT : c->port);
	put_be32(b, c->next[to]);
	put_be32(b, (flags & ACK) != 0 ? c->next[!to] : 0);
	put_be16(b, (uint16_t)(0x5000 | flags));
	put_be16(b, UINT16_MAX);
	put_be32(b, 0);
	put_bytes(b, data);
	set_be16(b->at + start + 16, checksum((struct bytes){ b->at + start, length }, pseudo));
}

static void
put_packet_header(struct buf *b, uint64_t ns, uint32_t length)
{
	put_u32(b, 0);
	put_u32(b, (uint32_t)(ns >> 32));
	put_u32(b, (uint32_t)ns);
	put_u32(b, length);
	put_u32(b, length);
}

static void
put_packet(struct pcapng *p, struct flow *c, enum trace_direction to, unsigned flags, struct bytes data, uint64_t ns)
{
	uint32_t length = (uint32_t)(IP_HEADER + TCP_HEADER + data.len);
	struct buf b = { 0 };

	put_packet_header(&b, p->epoch_ns + ns, length);
	put_ip(&b, IPPROTO_TCP, c, to, (uint16_t)length);
	put_tcp(&b, c, to, flags, data);
	buf_zero(&b, -length & 3);
	put_block(p->f, ENHANCED_PACKET, &b);
	buf_free(&b);
	c->next[to] += (uint32_t)data.len + ((flags & (SYN | FIN)) != 0);
}

/* ---- connections ---- */

static void
control(struct pcapng *p, struct flow *c, enum trace_direction to, unsigned flags, uint64_t ns)
{
	put_packet(p, c, to, flags, (struct bytes){ 0 }, ns);
}

static struct flow *
open_flow(struct pcapng *p, const struct trace_record *r)
{
	struct flow *c = &p->flows[r->connection];

	*c = (struct flow){ .address = LOCALHOST + p->n_flows / N_PORTS,
		            .port = (uint16_t)(FIRST_PORT + p->n_flows % N_PORTS),
		            .open = true };
	p->n_flows++;
	control(p, c, TO_SERVER, SYN, r->ns);
	control(p, c, TO_CLIENT, SYN | ACK, r->ns);
	control(p, c, TO_SERVER, ACK, r->ns);
	return c;
}

static void
end_flow(struct pcapng *p, const struct trace_record *r)
{
	struct flow *c = &p->flows[r->connection];
	enum trace_direction from = r->kind == TRACE_CLOSED ? TO_SERVER : TO_CLIENT;

	if (!c->open || c->ended[from])
		return;
	if (r->kind == TRACE_RESET)
		control(p, c, r->direction == TO_SERVER ? TO_SERVER : TO_CLIENT, RST | ACK, r->ns);
	else
		control(p, c, from, FIN | ACK, r->ns);
	c->ended[from] = true;
	if (r->kind == TRACE_RESET || (c->ended[TO_SERVER] && c->ended[TO_CLIENT]))
		c->open = false;
}

static void
put_message(struct pcapng *p, const struct trace_record *r)
{
	struct flow *c = &p->flows[r->connection];
	uint8_t *whole = calloc(1, r->length > r->data.len ? r->length : r->data.len + 1);
	struct bytes left = { whole, r->length > r->data.len ? r->length : r->data.len };

	if (whole == NULL)
		abort();
	memcpy(whole, r->data.at, r->data.len);
	if (!c->open)
		c = open_flow(p, r);
	while (left.len > 0) {
		size_t n = left.len < SEGMENT_MOST ? left.len : SEGMENT_MOST;

		put_packet(p, c, r->direction, ACK | (n == left.len ? PSH : 0), (struct bytes){ left.at, n }, r->ns);
		left.at += n;
		left.len -= n;
	}
	free(whole);
}

/* What is shown as a line of syslog; NULL: nothing is. */
static const char *
line_of(const struct trace_record *r)
{
	switch (r->kind) {
	case TRACE_CASE:
		return "<13>case: ";
	case TRACE_POINT:
		return "<13>point: ";
	case TRACE_MARK:
		return "<13>mark: ";
	case TRACE_NOTE:
		return "<13>note: ";
	case TRACE_TIMEOUT:
		return "<13>time-out: ";
	default:
		return NULL;
	}
}

/* A line of syslog, which is shown among the packets, and their comment. */
static void
put_comment(struct pcapng *p, const struct trace_record *r)
{
	static const struct flow here = { .address = LOCALHOST };
	struct bytes text = { r->data.at, r->data.len < COMMENT_MOST ? r->data.len : COMMENT_MOST };
	struct bytes kind = bytes_of(line_of(r));
	uint32_t length = (uint32_t)(IP_HEADER + UDP_HEADER + kind.len + text.len);
	struct buf b = { 0 };

	put_packet_header(&b, p->epoch_ns + r->ns, length);
	put_ip(&b, IPPROTO_UDP, &here, TO_SERVER, (uint16_t)length);
	put_be16(&b, SYSLOG_PORT);
	put_be16(&b, SYSLOG_PORT);
	put_be16(&b, (uint16_t)(length - IP_HEADER));
	put_be16(&b, 0); /* no checksum */
	put_bytes(&b, kind);
	put_bytes(&b, text);
	buf_zero(&b, -length & 3);
	put_option(&b, OPTION_COMMENT, text);
	put_option(&b, OPTION_END, (struct bytes){ 0 });
	put_block(p->f, ENHANCED_PACKET, &b);
	buf_free(&b);
}

/* All keys stand before the packets that they are for: whoever reads them looks at each packet once. */
static void
put_secrets(struct pcapng *p, struct wire records)
{
	struct trace_record r;
	struct buf b = { 0 }, lines = { 0 };

	while (trace_next(&records, &r))
		if (r.kind == TRACE_SECRET) {
			put_bytes(&lines, r.data);
			put(&lines, "\n", 1);
		}
	if (lines.len > 0) {
		put_u32(&b, TLS_KEY_LOG);
		put_u32(&b, (uint32_t)lines.len);
		put_padded(&b, (struct bytes){ lines.at, lines.len });
		put_block(p->f, DECRYPTION_SECRETS, &b);
	}
	buf_free(&lines);
	buf_free(&b);
}

struct pcapng *
pcapng_new(FILE *f, uint64_t epoch_ns)
{
	struct pcapng *p = calloc(1, sizeof(*p));

	if (p == NULL)
		abort();
	p->f = f;
	p->epoch_ns = epoch_ns;
	put_headers(f);
	return p;
}

void
pcapng_free(struct pcapng *p)
{
	free(p);
}

void
pcapng_add(struct pcapng *p, struct wire records)
{
	struct trace_record r;

	put_secrets(p, records);
	while (trace_next(&records, &r)) {
		if (r.kind == TRACE_CASE)
			memset(p->flows, 0, sizeof(p->flows));
		if (r.kind == TRACE_CONNECT)
			open_flow(p, &r);
		else if (r.direction != NO_DIRECTION &&
		         (r.kind == TRACE_TLS || (r.kind == TRACE_MESSAGE && !r.over_tls)))
			put_message(p, &r);
		else if (r.kind == TRACE_CLOSED || r.kind == TRACE_RESET || r.kind == TRACE_DISCONNECT)
			end_flow(p, &r);
		else if (line_of(&r) != NULL)
			put_comment(p, &r);
	}
}
