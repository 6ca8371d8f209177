/*
 * Fuzzing the honest server: its whole event loop in this process, over socketpairs. The input is a program of steps:
 * what the clients send, as it stands or framed as an option or a request, cut into pieces of a chosen size; when they
 * read, half-close, close. FUZZ_SERVE says how many clients there are and whether they begin in transmission.
 *
 * Demanded, besides what the sanitizers demand: the loop comes to rest whenever the clients do, each connection ends
 * once its client has sent its end and read all, and no memory of a disk stays behind.
 */
#ifndef NBDSPEC_FUZZ_SERVE_H
#define NBDSPEC_FUZZ_SERVE_H

#include "fakeserver/disk.h"
#include "fakeserver/server.h"
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS_MOST = 2, TURNS_MOST = 100000, PAYLOAD_MOST = 64 << 10, MEMORY_MOST = 4 << 20 };

static const char *const exports[] = {
	"name=a,size=128k,description=an export", "name=bb,size=9223372036854775807,max=64k",
	"name=r,size=70000,read-only,contexts=base:allocation", "name=c,size=128k,min=512,pref=4096,max=8k",
};
enum { N_EXPORTS = sizeof(exports) / sizeof(exports[0]) };

struct program {
	const uint8_t *at;
	size_t left;
};

struct world {
	struct fake_config config;
	struct fake_export exports[N_EXPORTS];
	struct fake_server *server;
	int fd[CLIENTS_MOST]; /* -1: closed */
	unsigned n_clients, piece;
};

/* Zeroes past the end. */
static uint8_t
next_u8(struct program *p)
{
	if (p->left == 0)
		return 0;
	p->left--;
	return *p->at++;
}

static uint16_t
next_u16(struct program *p)
{
	unsigned high = next_u8(p);

	return (uint16_t)(high << 8 | next_u8(p));
}

/* Small numbers, numbers around the powers of two, and the wildest. */
static uint64_t
next_number(struct program *p)
{
	uint8_t how = next_u8(p);
	uint64_t n = (uint64_t)1 << (how & 63);

	return (how & 0xc0) == 0 ? n : (how & 0xc0) == 0x40 ? n - 1 : (how & 0xc0) == 0x80 ? next_u16(p) : 0 - n;
}

static struct bytes
next_bytes(struct program *p, size_t n)
{
	struct bytes b = { p->at, n < p->left ? n : p->left };

	p->at += b.len;
	p->left -= b.len;
	return b;
}

/* ---- the two sides ---- */

/* Until nothing is ready; that it comes to this is demanded. */
static void
serve(struct world *w)
{
	int n, turns = 0;

	while ((n = fake_turn(w->server)) != 0)
		REQUIRE(n > 0 && ++turns < TURNS_MOST);
}

/* How many bytes came, up to `most`; nothing at the end of the stream, which closes our side. */
static size_t
receive(struct world *w, unsigned i, size_t most)
{
	static uint8_t junk[256 << 10];
	size_t sum = 0;
	ssize_t n;

	while (w->fd[i] >= 0 && sum < most) {
		n = recv(w->fd[i], junk, most - sum < sizeof(junk) ? most - sum : sizeof(junk), MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0) {
			close(w->fd[i]);
			w->fd[i] = -1;
			break;
		}
		sum += (size_t)n;
		serve(w);
	}
	return sum;
}

/* A server that takes no more while we do not read must go on once we do. */
static void
transmit(struct world *w, unsigned i, struct bytes b)
{
	while (b.len > 0 && w->fd[i] >= 0) {
		size_t piece = w->piece > 0 && w->piece < b.len ? w->piece : b.len;
		ssize_t n = send(w->fd[i], b.at, piece, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			return;
		if (n > 0) {
			b.at += n;
			b.len -= (size_t)n;
		}
		serve(w);
		if (n < 0)
			REQUIRE(receive(w, i, SIZE_MAX) > 0 || w->fd[i] < 0);
	}
}

/* ---- steps ---- */

static void
put_option(struct buf *b, uint32_t option, uint32_t length, struct bytes data)
{
	put_be64(b, NBD_OPTION_MAGIC);
	put_be32(b, option);
	put_be32(b, length);
	put_bytes(b, data);
}

static const char *
next_name(struct program *p)
{
	static const char *const names[] = { "", "a", "bb", "r", "c", "no" };

	return names[next_u8(p) % (sizeof(names) / sizeof(names[0]))];
}

static void
step_option(struct program *p, struct buf *b)
{
	uint8_t option = next_u8(p), n = next_u8(p), declared = next_u8(p);
	struct bytes data = next_bytes(p, n);
	uint32_t length = (uint32_t)data.len;

	if (declared >= 0xf0) /* most are what they claim to be */
		length = (uint32_t)next_number(p);
	put_option(b, option, length, data);
}

/* NBD_OPT_GO, INFO, LIST_META_CONTEXT or SET_META_CONTEXT, well-formed but for the last byte of the step. */
static void
step_whole_option(struct program *p, struct buf *b)
{
	static const uint32_t options[] = { NBD_OPT_GO, NBD_OPT_INFO, NBD_OPT_LIST_META_CONTEXT,
		                            NBD_OPT_SET_META_CONTEXT };
	static const char *const queries[] = { "base:allocation", "x-nbdspec:*", "x-nbdspec:dirty", "x-nbdspec:blocks",
		                               "x-nbdspec:", "base:", "x", "" };
	uint32_t option = options[next_u8(p) % 4];
	struct bytes name = bytes_of(next_name(p));
	unsigned n = next_u8(p) % 20;
	struct buf data = { 0 };

	put_be32(&data, (uint32_t)name.len);
	put_bytes(&data, name);
	if (option == NBD_OPT_GO || option == NBD_OPT_INFO)
		put_be16(&data, (uint16_t)n);
	else
		put_be32(&data, n);
	for (unsigned i = 0; i < n; i++) {
		struct bytes query = bytes_of(queries[next_u8(p) % 8]);

		if (option == NBD_OPT_GO || option == NBD_OPT_INFO) {
			put_be16(&data, next_u8(p));
		} else {
			put_be32(&data, (uint32_t)query.len);
			put_bytes(&data, query);
		}
	}
	put_option(b, option, (uint32_t)(data.len + (next_u8(p) == 0xff)), (struct bytes){ data.at, data.len });
	buf_free(&data);
}

static void
step_request(struct program *p, struct buf *b)
{
	struct request r = { .magic = NBD_REQUEST_MAGIC };
	uint8_t type = next_u8(p);

	r.type = type & 0x3f;
	r.flags = next_u8(p);
	r.cookie = next_u8(p);
	r.offset = next_number(p);
	r.length = (uint32_t)next_number(p);
	if ((type & 0x40) != 0) {
		r.magic = NBD_EXTENDED_REQUEST_MAGIC;
		r.length = (type & 0x80) != 0 ? next_number(p) : r.length;
		wire_put_extended_request(b, &r);
	} else {
		wire_put_request(b, &r);
	}
	if ((r.type == NBD_CMD_WRITE || ((type & 0x40) != 0 && request_has_payload(&r))) && r.length <= PAYLOAD_MOST && r.length > 0)
		memset(buf_grow(b, r.length), r.flags, r.length);
}

static void
begin_transmission(struct program *p, struct buf *b)
{
	static const uint8_t query[] = "\0\0\0\0\0\0\0\2\0\0\0\17base:allocation\0\0\0\13x-nbdspec:*";
	uint8_t how = next_u8(p);
	struct bytes name = bytes_of(next_name(p));
	struct buf data = { 0 };

	put_be32(b, how & 3);
	if ((how & 4) != 0)
		put_option(b, NBD_OPT_STRUCTURED_REPLY, 0, (struct bytes){ NULL, 0 });
	if ((how & 16) != 0)
		put_option(b, NBD_OPT_EXTENDED_HEADERS, 0, (struct bytes){ NULL, 0 });
	if ((how & 8) != 0) {
		put_be32(&data, (uint32_t)name.len);
		put_bytes(&data, name);
		put_bytes(&data, (struct bytes){ query + 4, sizeof(query) - 1 - 4 });
		put_option(b, NBD_OPT_SET_META_CONTEXT, (uint32_t)data.len, (struct bytes){ data.at, data.len });
		buf_clear(&data);
	}
	put_be32(&data, (uint32_t)name.len);
	put_bytes(&data, name);
	put_be16(&data, 1);
	put_be16(&data, NBD_INFO_BLOCK_SIZE);
	if ((how & 1) != 0)
		put_option(b, NBD_OPT_GO, (uint32_t)data.len, (struct bytes){ data.at, data.len });
	else
		put_option(b, NBD_OPT_EXPORT_NAME, (uint32_t)name.len, name);
	buf_free(&data);
}

enum step {
	STEP_RAW,
	STEP_OPTION,
	STEP_WHOLE_OPTION,
	STEP_REQUEST,
	STEP_REQUESTS,
	STEP_CLIENT_FLAGS,
	STEP_PIECE,
	STEP_RECEIVE,
	STEP_HALF_CLOSE,
	STEP_CLOSE,
	STEP_SHUTDOWN,
	STEP_DISCONNECT,
	N_STEPS
};

/* What makes bytes to be sent. */
static void
step_bytes(struct program *p, struct buf *b, enum step step)
{
	switch (step) {
	case STEP_RAW:
		{
			struct bytes raw = next_bytes(p, next_u8(p));

			put_bytes(b, raw);
		}
		break;
	case STEP_OPTION:
		step_option(p, b);
		break;
	case STEP_WHOLE_OPTION:
		step_whole_option(p, b);
		break;
	case STEP_REQUEST:
		step_request(p, b);
		break;
	case STEP_REQUESTS:
		for (unsigned n = next_u8(p) % 32; n > 0; n--)
			step_request(p, b);
		break;
	default:
		put_be32(b, next_u8(p));
	}
}

static void
take_step(struct world *w, struct program *p)
{
	uint8_t byte = next_u8(p);
	enum step step = (enum step)((byte & 0x7f) % N_STEPS);
	unsigned i = (byte >> 7) % w->n_clients;
	struct buf b = { 0 };

	switch (step) {
	case STEP_PIECE:
		w->piece = next_u8(p);
		break;
	case STEP_RECEIVE:
		receive(w, i, next_u16(p) * 16u);
		break;
	case STEP_HALF_CLOSE:
		if (w->fd[i] >= 0)
			shutdown(w->fd[i], SHUT_WR);
		break;
	case STEP_CLOSE:
		if (w->fd[i] >= 0)
			close(w->fd[i]);
		w->fd[i] = -1;
		break;
	case STEP_SHUTDOWN:
		fake_shutdown(w->server, INT32_MAX);
		break;
	case STEP_DISCONNECT:
		fake_disconnect(w->server, i + 1);
		break;
	default:
		step_bytes(p, &b, step);
		transmit(w, i, (struct bytes){ b.at, b.len });
	}
	buf_free(&b);
	serve(w);
}

/* ---- a run ---- */

static void
connect_client(struct world *w)
{
	int pair[2], small = 16 << 10;

	REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	/* So that it is often full. */
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	REQUIRE(fake_add_connection(w->server, pair[0], pair[0]) == 0);
	w->fd[w->n_clients++] = pair[1];
}

static void
start(struct world *w, struct program *p, unsigned clients)
{
	static FILE *null;
	uint8_t setup = next_u8(p), n_knobs = next_u8(p) % 8;
	char error[256];

	if (null == NULL)
		null = fopen("/dev/null", "we");
	disk_limit_memory(MEMORY_MOST);
	for (size_t i = 0; i < N_EXPORTS; i++)
		REQUIRE(export_parse(exports[(i + (setup >> 6)) % N_EXPORTS], &w->exports[i], error));
	w->config = (struct fake_config){
		.exports = w->exports, .n_exports = N_EXPORTS, .oldstyle = (setup & 3) == 3, .seed = setup
	};
	if ((setup & 4) != 0)
		w->config.events = null;
	if ((setup & 8) != 0)
		w->config.log = null;
	if ((setup & 16) != 0)
		w->config.buffers_most = 300 << 10;
	w->config.knob[KNOB_wide_contexts] = true;
	for (; n_knobs > 0; n_knobs--)
		w->config.knob[next_u8(p) % N_KNOBS] = true;
	w->server = fake_new(&w->config);
	REQUIRE(w->server != NULL);
	while (w->n_clients < clients)
		connect_client(w);
}

/* Every client sends its end and reads everything: then nothing is left to serve. */
static void
finish(struct world *w)
{
	for (unsigned i = 0; i < w->n_clients; i++)
		if (w->fd[i] >= 0)
			shutdown(w->fd[i], SHUT_WR);
	serve(w);
	for (unsigned i = 0; i < w->n_clients; i++) {
		receive(w, i, SIZE_MAX);
		REQUIRE(w->fd[i] < 0);
	}
	serve(w);
	REQUIRE(fake_count(w->server).open == 0);
	fake_free(w->server);
	for (size_t i = 0; i < N_EXPORTS; i++)
		export_free(&w->exports[i]);
	REQUIRE(disk_memory() == 0);
}

static int
fuzz_serve(const uint8_t *data, size_t size, unsigned clients, bool in_transmission)
{
	struct program p = { data, size };
	struct world w = { .piece = 0 };
	struct buf b = { 0 };

	start(&w, &p, clients);
	for (unsigned i = 0; i < clients && in_transmission && !w.config.oldstyle; i++) {
		begin_transmission(&p, &b);
		transmit(&w, i, (struct bytes){ b.at, b.len });
		buf_clear(&b);
	}
	buf_free(&b);
	while (p.left > 0)
		take_step(&w, &p);
	finish(&w);
	return 0;
}

#define FUZZ_SERVE(clients, in_transmission)                                                                           \
	int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)                                                   \
	{                                                                                                              \
		return fuzz_serve(data, size, clients, in_transmission);                                               \
	}

#endif
