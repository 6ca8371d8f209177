/* nbdspec driver --copy: an export into a file, or a file into an export. */
#include "fakeserver/client/driver.h"

#include "fakeserver/client/lying.h"
#include "harness/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 1 << 20, STRETCH = 1 << 26, SKIP_LEAST = 1 << 16, MOST_IN_FLIGHT = 8 };

struct copy {
	struct fc_handle *handle;
	int fd;
	uint64_t size; /* of what is copied, bytes */
	unsigned in_flight;
	/* What the server has told: */
	bool has_block, has_contexts;
	uint64_t export_size;
	uint16_t flags;
	uint32_t piece;  /* bytes */
	struct buf said; /* by the last op that says something */
	char error[160]; /* "" as long as all is well */
};

static void
fails(struct copy *c, const char *what, uint64_t offset, const char *why)
{
	if (c->error[0] == '\0')
		snprintf(c->error, sizeof(c->error), "%s at %" PRIu64 ": %s", what, offset, why);
}

/* ---- operations ---- */

static void
store(struct copy *c, const struct fc_op *op)
{
	const struct request *r = &op->request;

	for (size_t at = 0; at < r->length;) {
		ssize_t n = pwrite(c->fd, op->data + at, r->length - at, (off_t)(r->offset + at));

		if (n < 0) {
			fails(c, "writing the file", r->offset, strerror(errno));
			return;
		}
		at += (size_t)n;
	}
}

static void
is_done(struct fc_op *op)
{
	struct copy *c = op->arg;
	static const char *const names[] = { "READ", "WRITE", "DISC",         "FLUSH",
		                             "TRIM", "CACHE", "WRITE_ZEROES", "BLOCK_STATUS" };
	const char *what = op->ask == FC_COMMAND   ? names[op->request.type]
	                   : op->ask == FC_CONNECT ? "connect"
	                                           : "disconnect";

	c->in_flight--;
	if (op->error[0] != '\0')
		fails(c, what, op->request.offset, op->error);
	else if (op->ask == FC_COMMAND && op->request.type == NBD_CMD_READ && op->data != NULL)
		store(c, op);
	buf_clear(&c->said);
	put_bytes(&c->said, (struct bytes){ op->said.at, op->said.len });
}

static struct fc_op *
new_op(struct copy *c, enum fc_ask ask)
{
	struct fc_op *op = fc_op_new(c->handle, ask, "", is_done);

	op->arg = c;
	c->in_flight++;
	return op;
}

static void
wait_for(const struct copy *c, unsigned most)
{
	while (c->in_flight > most)
		fc_turn();
}

/* data: taken over, of a WRITE. */
static void
command(struct copy *c, uint16_t type, uint64_t offset, uint32_t length, uint8_t *data)
{
	struct fc_op *op = new_op(c, FC_COMMAND);

	op->request.type = type;
	op->request.offset = offset;
	op->request.length = length;
	op->data = data;
	fc_ask(op);
	wait_for(c, MOST_IN_FLIGHT - 1);
}

/* ---- pieces ---- */

static void
learn(struct copy *c)
{
	const struct fc_facts *f = &c->handle->session->facts;
	const struct fc_export *e = &f->export;

	c->flags = fc_flags(f);
	c->has_block = e->has_block;
	c->has_contexts = f->n_contexts > 0;
	c->export_size = e->size;
	c->piece = !e->has_block || e->block.maximum >= PIECE ? PIECE : e->block.maximum & ~(e->block.minimum - 1);
}

static bool
goes_on(const struct copy *c)
{
	return c->error[0] == '\0' && fc_is_connected(c->handle);
}

/* ---- an export into a file ---- */

static void
read_range(struct copy *c, uint64_t from, uint64_t to)
{
	for (; from < to && goes_on(c); from += c->piece)
		command(c, NBD_CMD_READ, from, to - from < c->piece ? (uint32_t)(to - from) : c->piece, NULL);
}

/* " base%3aallocation=LENGTH:FLAGS,…": how far they tell; what reads as zeroes is there already.
 * Zeroes that are few are read with the data around them: a server may tell of every second byte. */
static uint64_t
read_extents(struct copy *c, uint64_t from, uint64_t to)
{
	struct buf text = c->said;
	uint64_t known = from;
	char *at;

	c->said = (struct buf){ 0 };
	buf_put(&text, "", 1);
	at = strchr((char *)text.at, '=');
	while (at != NULL && *at != '\0' && *at != ' ' && known < to && goes_on(c)) {
		uint64_t length = strtoull(at + 1, &at, 10), end = length < to - known ? known + length : to;
		unsigned long flags = *at == ':' ? strtoul(at + 1, &at, 10) : 0;

		if ((flags & NBD_STATE_ZERO) != 0 && length >= SKIP_LEAST) {
			read_range(c, from, known);
			from = end;
		}
		known = end;
	}
	read_range(c, from, known);
	buf_free(&text);
	return known;
}

static void
download(struct copy *c)
{
	if (ftruncate(c->fd, 0) < 0 || ftruncate(c->fd, (off_t)c->size) < 0)
		fails(c, "the file's size", c->size, strerror(errno));
	for (uint64_t at = 0, next; at < c->size && goes_on(c); at = next) {
		uint64_t end = c->size - at < STRETCH ? c->size : at + STRETCH;

		next = at;
		if (c->has_contexts) {
			wait_for(c, 0);
			command(c, NBD_CMD_BLOCK_STATUS, at, (uint32_t)(end - at), NULL);
			wait_for(c, 0);
			if (goes_on(c))
				next = read_extents(c, at, end);
		}
		if (next == at) {
			read_range(c, at, end);
			next = end;
		}
	}
	wait_for(c, 0);
}

/* ---- a file into an export ---- */

static bool
is_zero(const uint8_t *data, size_t length)
{
	return length == 0 || (data[0] == 0 && memcmp(data, data + 1, length - 1) == 0);
}

static void
upload(struct copy *c)
{
	if (c->size > c->export_size)
		fails(c, "the export ends", c->export_size, "the file is larger");
	for (uint64_t at = 0; at < c->size && goes_on(c); at += c->piece) {
		uint32_t length = c->size - at < c->piece ? (uint32_t)(c->size - at) : c->piece;
		uint8_t *data = malloc(length);

		if (data == NULL)
			abort();
		if (pread(c->fd, data, length, (off_t)at) != (ssize_t)length)
			fails(c, "reading the file", at, errno != 0 ? strerror(errno) : "it has shrunk");
		if ((c->flags & NBD_FLAG_SEND_WRITE_ZEROES) != 0 && is_zero(data, length)) {
			free(data);
			command(c, NBD_CMD_WRITE_ZEROES, at, length, NULL);
		} else {
			command(c, NBD_CMD_WRITE, at, length, data);
		}
	}
	wait_for(c, 0);
	if ((c->flags & NBD_FLAG_SEND_FLUSH) != 0 && goes_on(c))
		command(c, NBD_CMD_FLUSH, 0, 0, NULL);
	wait_for(c, 0);
}

/* ---- both ---- */

static void
connect_to(struct copy *c, const char *uri, bool uploads)
{
	static const char context[] = "base:allocation";

	c->handle = fc_handle_new(1);
	c->handle->settings.extended = true;
	if (!uploads) {
		put_be32(&c->handle->settings.queries, sizeof(context) - 1);
		buf_put(&c->handle->settings.queries, context, sizeof(context) - 1);
		c->handle->settings.n_queries = 1;
	}
	fc_start(new_op(c, FC_CONNECT), uri);
	wait_for(c, 0);
}

static bool
is_uri(const char *text)
{
	return strstr(text, "://") != NULL;
}

static void
run(struct copy *c, bool uploads)
{
	struct stat st;

	learn(c);
	if (!uploads)
		c->size = c->export_size;
	else if (fstat(c->fd, &st) == 0)
		c->size = (uint64_t)st.st_size;
	/* Where no sizes were told it may end in any byte. */
	c->handle->settings.strict = c->has_block || c->size % 512 == 0;
	if (uploads)
		upload(c);
	else
		download(c);
	if (!fc_is_connected(c->handle))
		fails(c, "the session ended", 0, "the copy is not whole");
	fc_ask(new_op(c, FC_DISCONNECT));
	wait_for(c, 0);
}

int
fc_copy_run(const char *from, const char *to)
{
	bool uploads = is_uri(to);
	struct copy c = { .fd = -1 };

	if (uploads == is_uri(from)) {
		fprintf(stderr, "nbdspec driver: --copy: want FROM and TO, one a URI and one a file\n");
		return STATUS_USAGE;
	}
	c.fd = uploads ? open(from, O_RDONLY | O_CLOEXEC) : open(to, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (c.fd < 0) {
		fprintf(stderr, "nbdspec driver: %s: %s\n", uploads ? from : to, strerror(errno));
		return STATUS_FAILED;
	}
	fc_watch_input(-1);
	connect_to(&c, uploads ? to : from, uploads);
	if (goes_on(&c))
		run(&c, uploads);
	if (close(c.fd) < 0)
		fails(&c, "closing the file", 0, strerror(errno));
	fc_handle_free(c.handle);
	buf_free(&c.said);
	if (c.error[0] != '\0')
		fprintf(stderr, "nbdspec driver: %s\n", c.error);
	return c.error[0] == '\0' ? STATUS_OK : STATUS_FAILED;
}
