/*
 * nbdspec driver-check: a driver (docs/driver-protocol.md) against the honest fake server in this process. What it says
 * is held against the disk and the wire.
 */
#include "fakeserver/disk.h"
#include "fakeserver/listen.h"
#include "fakeserver/server.h"
#include "harness/cli.h"
#include "harness/clock.h"
#include "harness/driver.h"
#include "harness/file.h"
#include "harness/nbd.h"
#include "harness/printable.h"
#include "harness/process.h"
#include "harness/trace.h"
#include "harness/uri.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum {
	HOLD_MS = 50,    /* that an answer is waited for which must not come */
	STARTS_MOST = 3, /* of a driver that breaks again and again */
	IN_FLIGHT = 64,
	BLOCK = 4096,
};

/* The exports: all is offered; next to nothing; reading only; large blocks. */
enum { ALL, PLAIN, READ_ONLY, BLOCKS, N_EXPORTS };
static const char *const exports[N_EXPORTS] = {
	[ALL] = "name=all,size=4M",
	[PLAIN] = "name=plain,size=1000k,flags=none",
	[READ_ONLY] = "name=read only,size=3M,read-only,flags=SEND_FLUSH",
	[BLOCKS] = "name=blocks,size=2M,min=512,pref=8192,max=1M,flags=SEND_FLUSH+SEND_TRIM",
};

struct check {
	struct cli *cli;
	double factor;
	struct driver *driver;
	struct driver_answer a; /* the last one */
	unsigned handle;        /* used last: each check takes new ones */
	struct fake_server *server;
	struct fake_config config;
	struct trace trace;
	off_t from;         /* in the trace: where the check looks from */
	bool hold;          /* the server is not served */
	uint16_t zeroes_by; /* what 'zero' sends; a block device may write */
	int signals;
	bool interrupted;
	char *dir, *uri[N_EXPORTS];
	pid_t guard;
	char why[1200];
	unsigned n, n_failed, n_starts;
};

/* ---- the server, while the driver is waited for ---- */

static bool
serve(void *arg, int fd, int ms)
{
	struct check *k = arg;
	int64_t until = now_ms() + ms, left;

	while ((left = until - now_ms()) > 0) {
		int timer = k->hold ? -1 : fake_timeout(k->server);
		struct pollfd p[3] = { { .fd = fd, .events = POLLIN },
			               { .fd = k->signals, .events = POLLIN },
			               { .fd = k->hold ? -1 : fake_fd(k->server), .events = POLLIN } };

		poll(p, 3, timer >= 0 && timer < left ? timer : (int)left);
		k->interrupted |= p[1].revents != 0;
		if (k->interrupted)
			return false;
		/* The driver's word is taken first: what it says may not depend on what is still to be served. */
		if (p[0].revents != 0)
			return true;
		if (!k->hold)
			fake_turn(k->server);
	}
	return true;
}

/* ---- what a check says ---- */

static bool deviates(struct check *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static bool
deviates(struct check *k, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(k->why, sizeof(k->why), fmt, ap);
	va_end(ap);
	return false;
}

static const char *const result_words[] = { "ok", "error", "unsupported" };

static bool
wants(struct check *k, const char *request, enum driver_result wanted)
{
	if (k->a.result == wanted)
		return true;
	return deviates(k, "'%s' is answered '%s%s%.100s', want '%s'", request, result_words[k->a.result],
	                *k->a.text != '\0' ? " " : "", k->a.text, result_words[wanted]);
}

static bool ask(struct check *k, enum driver_result wanted, unsigned handle, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static bool
ask(struct check *k, enum driver_result wanted, unsigned handle, const char *fmt, ...)
{
	char *request;
	va_list ap;
	bool ok;

	va_start(ap, fmt);
	if (vasprintf(&request, fmt, ap) < 0)
		abort();
	va_end(ap);
	ok = driver_ask(k->driver, &k->a, handle, "%s", request) ? wants(k, request, wanted)
	                                                         : deviates(k, "%s", driver_error(k->driver));
	free(request);
	return ok;
}

static bool
has(const struct check *k, const char *operation, const char *flag)
{
	return driver_has(k->driver, operation, flag);
}

/* ---- what is on the disk and was on the wire ---- */

static struct disk *
disk_of(struct check *k, int export)
{
	return k->config.exports[export].disk;
}

static void
fill(struct check *k, int export, unsigned pattern)
{
	size_t size = disk_size(disk_of(k, export));
	uint8_t *data = malloc(size);
	enum disk_state failed;

	if (data == NULL)
		abort();
	driver_pattern(pattern, 0, size, data);
	if (!disk_write(disk_of(k, export), 0, size, data, &failed))
		abort();
	free(data);
}

static uint32_t
digest_of_disk(struct check *k, int export, uint64_t offset, size_t length)
{
	uint8_t *data = malloc(length + 1);
	uint32_t digest;

	if (data == NULL)
		abort();
	disk_read(disk_of(k, export), offset, length, data);
	digest = driver_digest(data, length);
	free(data);
	return digest;
}

static uint32_t
digest_of_pattern(unsigned pattern, uint64_t offset, size_t length)
{
	uint8_t *data = malloc(length + 1);
	uint32_t digest;

	if (data == NULL)
		abort();
	driver_pattern(pattern, offset, length, data);
	digest = driver_digest(data, length);
	free(data);
	return digest;
}

static bool
disk_holds(struct check *k, int export, uint64_t offset, size_t length, unsigned pattern)
{
	uint32_t want = digest_of_pattern(pattern, offset, length), is = digest_of_disk(k, export, offset, length);

	if (is == want)
		return true;
	return deviates(k, "the disk does not hold pattern %u at %llu, length %zu: its digest is %08x, want %08x",
	                pattern, (unsigned long long)offset, length, is, want);
}

static bool
is_digest(struct check *k, const char *request, uint32_t want)
{
	char text[16];

	snprintf(text, sizeof(text), "%08x", want);
	return strcmp(k->a.text, text) == 0 ||
	       deviates(k, "'%s' is answered 'ok %.40s', want the digest %s of what is on the disk", request, k->a.text,
	                text);
}

static bool
reads(struct check *k, int export, unsigned handle, uint64_t offset, size_t length)
{
	char request[80];

	snprintf(request, sizeof(request), "read %llu %zu", (unsigned long long)offset, length);
	return ask(k, DRIVER_OK, handle, "%s", request) &&
	       is_digest(k, request, digest_of_disk(k, export, offset, length));
}

/* What the client has sent since the check's last look. */
struct seen {
	unsigned requests; /* of the type asked for */
	uint16_t flags_all, flags_any;
	unsigned flushes, writes, most_in_flight;
};

static void
count_record(struct seen *s, const struct trace_record *r, uint16_t type, unsigned *in_flight)
{
	struct request q;
	struct chunk c;

	if (r->kind != TRACE_MESSAGE)
		return;
	if (r->message == MSG_REQUEST) {
		wire_get_request(wire_over(r->data), &q);
		s->flushes += q.type == NBD_CMD_FLUSH;
		s->writes += q.type == NBD_CMD_WRITE;
		if (q.type != NBD_CMD_DISC && ++*in_flight > s->most_in_flight)
			s->most_in_flight = *in_flight;
		if (q.type != type)
			return;
		s->flags_all = s->requests++ == 0 ? q.flags : s->flags_all & q.flags;
		s->flags_any |= q.flags;
	} else if (r->message == MSG_CHUNK) {
		wire_get_chunk(wire_over(r->data), &c);
		*in_flight -= (c.flags & NBD_REPLY_FLAG_DONE) != 0;
	} else if (r->message == MSG_SIMPLE_REPLY) {
		--*in_flight;
	}
}

static struct seen
look(struct check *k, uint16_t type)
{
	off_t end = trace_end(&k->trace);
	size_t size = (size_t)(end - k->from);
	uint8_t *data = malloc(size + 1);
	struct wire w = wire(data, size);
	struct seen s = { 0 };
	struct trace_record r;
	unsigned in_flight = 0;

	if (data == NULL || pread(k->trace.fd, data, size, k->from) != (ssize_t)size)
		abort();
	while (trace_next(&w, &r))
		count_record(&s, &r, type, &in_flight);
	free(data);
	k->from = end;
	return s;
}

/* What is still on its way to the server, such as a DISC that nobody waits for, arrives. */
static bool
settle(struct check *k, bool (*arrived)(struct check *k))
{
	int64_t until = now_ms() + (int64_t)(DRIVER_LIMIT_MS * k->factor);

	while (!arrived(k) && now_ms() < until && serve(k, -1, 5))
		continue;
	return arrived(k);
}

/* ---- handles ---- */

static unsigned
connected(struct check *k, int export)
{
	return ask(k, DRIVER_OK, ++k->handle, "connect %s", k->uri[export]) ? k->handle : 0;
}

static bool
let_go(struct check *k, unsigned handle)
{
	return ask(k, DRIVER_OK, handle, "disconnect");
}

/* ---- the checks: each is true, or has said why not ---- */

static bool
check_connect(struct check *k)
{
	return connected(k, ALL) && let_go(k, k->handle);
}

/* The last answer says this of the key, or nothing. */
static bool
is_known(struct check *k, const char *key, const char *want)
{
	char *value = driver_value(k->a.text, key);
	bool ok = value == NULL || strcmp(value, want) == 0;

	if (!ok)
		deviates(k, "the driver says %s=%.60s, want %s", key, value, want);
	free(value);
	return ok;
}

static bool
is_known_number(struct check *k, const char *key, uint64_t want)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)want);
	return is_known(k, key, text);
}

static bool
knows_export(struct check *k, const struct fake_export *e)
{
	static const struct {
		const char *key;
		uint16_t flag;
	} flags[] = { { "read-only", NBD_FLAG_READ_ONLY },
		      { "flush", NBD_FLAG_SEND_FLUSH },
		      { "fua", NBD_FLAG_SEND_FUA },
		      { "rotational", NBD_FLAG_ROTATIONAL },
		      { "trim", NBD_FLAG_SEND_TRIM },
		      { "zero", NBD_FLAG_SEND_WRITE_ZEROES },
		      { "fast-zero", NBD_FLAG_SEND_FAST_ZERO },
		      { "cache", NBD_FLAG_SEND_CACHE },
		      { "multi-conn", NBD_FLAG_CAN_MULTI_CONN },
		      { "tls", 0 } };
	bool ok = is_known_number(k, "size", e->size);

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]) && ok; i++)
		ok = is_known(k, flags[i].key, e->flags & flags[i].flag ? "yes" : "no");
	return ok;
}

/* A client that does not ask for the block sizes is not let in where they are large. */
static bool
check_known(struct check *k)
{
	for (int i = 0; i < N_EXPORTS; i++) {
		struct info_block_size block = export_block(&k->config.exports[i]);
		unsigned handle = ++k->handle;

		if (!driver_ask(k->driver, &k->a, handle, "connect %s", k->uri[i]))
			return deviates(k, "%s", driver_error(k->driver));
		if (i == BLOCKS && k->a.result == DRIVER_ERROR)
			continue;
		if (!wants(k, "connect", DRIVER_OK) || !knows_export(k, &k->config.exports[i]))
			return false;
		if (i == BLOCKS &&
		    (!is_known_number(k, "min", block.minimum) || !is_known_number(k, "preferred", block.preferred) ||
		     !is_known_number(k, "max", block.maximum)))
			return false;
		if (!let_go(k, handle))
			return false;
	}
	return true;
}

static bool
check_read(struct check *k)
{
	static const struct {
		uint64_t offset;
		size_t length;
	} parts[] = { { 0, 512 }, { 0, 4 << 20 }, { 512, 512 }, { 65536 - 512, 1024 }, { (4 << 20) - 512, 512 } };
	bool ok;

	fill(k, ALL, 0);
	ok = connected(k, ALL) && reads(k, ALL, k->handle, 0, BLOCK);
	fill(k, ALL, 0x1234);
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && ok; i++)
		ok = reads(k, ALL, k->handle, parts[i].offset, parts[i].length);
	return ok && let_go(k, k->handle);
}

static bool
check_write(struct check *k)
{
	fill(k, ALL, 1);
	return connected(k, ALL) && ask(k, DRIVER_OK, k->handle, "write 4096 4096 7") &&
	       disk_holds(k, ALL, 4096, 4096, 7) && ask(k, DRIVER_OK, k->handle, "write 1049088 1536 65535") &&
	       disk_holds(k, ALL, 1049088, 1536, 65535) && ask(k, DRIVER_OK, k->handle, "write 4608 512 0") &&
	       disk_holds(k, ALL, 4608, 512, 0) && disk_holds(k, ALL, 5120, 3072, 7) &&
	       disk_holds(k, ALL, 8192, 4096, 1) && reads(k, ALL, k->handle, 0, 16384) && let_go(k, k->handle);
}

/* The request is ok, and has sent the command with these flags. FUA may also be a FLUSH behind it. */
static bool
sends(struct check *k, uint16_t type, uint16_t flags, const char *request)
{
	off_t from = trace_end(&k->trace);
	struct seen s;

	k->from = from;
	if (!ask(k, DRIVER_OK, k->handle, "%s", request))
		return false;
	s = look(k, type);
	if (s.requests == 0 && type == NBD_CMD_WRITE_ZEROES && s.writes > 0) {
		k->zeroes_by = NBD_CMD_WRITE;
		printf("# '%s' is carried out by NBD_CMD_WRITE\n", request);
		/* Holes and haste are not for a WRITE to keep; that the zeroes are durable is. */
		flags &= NBD_CMD_FLAG_FUA;
		k->from = from;
		s = look(k, NBD_CMD_WRITE);
	}
	if (s.requests == 0)
		return deviates(k, "'%s' is answered ok, but no such command has reached the server", request);
	if ((flags & NBD_CMD_FLAG_FUA) != 0 && type != NBD_CMD_FLUSH && s.flushes > 0)
		flags &= (uint16_t)~NBD_CMD_FLAG_FUA;
	if ((s.flags_all & flags) != flags)
		return deviates(
			k, "'%s' is answered ok, but the command has reached the server with flags 0x%x, want 0x%x",
			request, s.flags_all, flags);
	return true;
}

static bool
check_write_fua(struct check *k)
{
	return connected(k, ALL) && sends(k, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, "write 8192 4096 9 fua") &&
	       disk_holds(k, ALL, 8192, 4096, 9) && let_go(k, k->handle);
}

static bool
check_flush(struct check *k)
{
	return connected(k, ALL) && sends(k, NBD_CMD_FLUSH, 0, "flush") && let_go(k, k->handle);
}

static bool
check_trim(struct check *k)
{
	fill(k, ALL, 2);
	return connected(k, ALL) && sends(k, NBD_CMD_TRIM, 0, "trim 65536 65536") &&
	       disk_holds(k, ALL, 65536, 65536, 0) && disk_holds(k, ALL, 0, 65536, 2) &&
	       disk_holds(k, ALL, 131072, 65536, 2) && let_go(k, k->handle);
}

static bool
check_trim_fua(struct check *k)
{
	return connected(k, ALL) && sends(k, NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, "trim 65536 65536 fua") &&
	       let_go(k, k->handle);
}

static bool
check_zero(struct check *k)
{
	fill(k, ALL, 3);
	return connected(k, ALL) && sends(k, NBD_CMD_WRITE_ZEROES, 0, "zero 65536 65536") &&
	       disk_holds(k, ALL, 65536, 65536, 0) && disk_holds(k, ALL, 0, 65536, 3) &&
	       disk_holds(k, ALL, 131072, 65536, 3) && let_go(k, k->handle);
}

static bool
check_zero_no_hole(struct check *k)
{
	return connected(k, ALL) && sends(k, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, "zero 0 65536 no-hole") &&
	       let_go(k, k->handle);
}

static bool
check_zero_fast(struct check *k)
{
	return connected(k, ALL) && sends(k, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, "zero 0 65536 fast") &&
	       let_go(k, k->handle);
}

static bool
check_zero_fua(struct check *k)
{
	return connected(k, ALL) && sends(k, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FUA, "zero 0 65536 fua") &&
	       let_go(k, k->handle);
}

static bool
check_cache(struct check *k)
{
	return connected(k, ALL) && sends(k, NBD_CMD_CACHE, 0, "cache 0 65536") && let_go(k, k->handle);
}

static bool
check_read_df(struct check *k)
{
	return connected(k, ALL) && sends(k, NBD_CMD_READ, NBD_CMD_FLAG_DF, "read 0 65536 df") && let_go(k, k->handle);
}

/* 64 KiB of data, then as much that nobody has touched: told as runs, however they are cut. */
static bool
check_block_status(struct check *k)
{
	char *value;
	bool ok;

	disk_zero(disk_of(k, ALL), 0, 4 << 20, DISK_TRIMMED);
	if (!ask(k, DRIVER_OK, ++k->handle, "set context=base%%3aallocation") ||
	    !ask(k, DRIVER_OK, k->handle, "connect %s", k->uri[ALL]))
		return false;
	value = driver_value(k->a.text, "context");
	ok = value != NULL && strcmp(value, "base:allocation") == 0;
	free(value);
	if (!ok)
		return deviates(k, "after 'set context=base%%3aallocation' 'connect' does not tell the context");
	if (!ask(k, DRIVER_OK, k->handle, "write 0 65536 5") || !ask(k, DRIVER_OK, k->handle, "block_status 0 131072"))
		return false;
	if (strcmp(k->a.text, "base%3aallocation=65536:0,65536:3") != 0)
		return deviates(
			k, "'block_status 0 131072' is answered 'ok %.100s', want base%%3aallocation=65536:0,65536:3",
			k->a.text);
	return let_go(k, k->handle);
}

/* ---- errors ---- */

/* The commands, in a form that succeeds. */
static const struct {
	const char *operation, *request;
	uint16_t type;
} commands[] = {
	{ "read", "read 0 4096", NBD_CMD_READ },
	{ "write", "write 0 4096 3", NBD_CMD_WRITE },
	{ "flush", "flush", NBD_CMD_FLUSH },
	{ "trim", "trim 0 4096", NBD_CMD_TRIM },
	{ "zero", "zero 0 4096", NBD_CMD_WRITE_ZEROES },
	{ "cache", "cache 0 4096", NBD_CMD_CACHE },
	{ "block_status", "block_status 0 4096", NBD_CMD_BLOCK_STATUS },
};
enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static bool
connected_for_all(struct check *k)
{
	if (has(k, "block_status", NULL) && !ask(k, DRIVER_OK, k->handle + 1, "set context=base%%3aallocation"))
		return false;
	return connected(k, ALL) != 0;
}

static bool
check_errors(struct check *k)
{
	static const struct {
		uint32_t error;
		const char *name;
	} errors[] = { { NBD_EIO, "EIO" }, { NBD_ENOMEM, "ENOMEM" } };
	bool ok = connected_for_all(k);

	for (size_t i = 0; i < 2 * N_COMMANDS && ok; i++) {
		const char *request = commands[i / 2].request;
		uint16_t type = commands[i / 2].type;

		if (!has(k, commands[i / 2].operation, NULL))
			continue;
		if (type == NBD_CMD_WRITE_ZEROES && k->zeroes_by != 0)
			type = k->zeroes_by;
		fake_fail(k->server, type, 1, errors[i % 2].error, false);
		if (!ask(k, DRIVER_ERROR, k->handle, "%s", request))
			ok = deviates(k, "the server fails a command with %s: %s", errors[i % 2].name, strdupa(k->why));
		else if (strcspn(k->a.text, " ") != strlen(errors[i % 2].name) ||
		         strncmp(k->a.text, errors[i % 2].name, strlen(errors[i % 2].name)) != 0)
			printf("# the server fails '%s' with %s, the client calls it %.*s\n", request,
			       errors[i % 2].name, (int)strcspn(k->a.text, " "), k->a.text);
		ok = ok && ask(k, DRIVER_OK, k->handle, "%s", request);
		fake_fail(k->server, type, 0, 0, false);
	}
	return ok && let_go(k, k->handle);
}

/* While the server says nothing there is nothing to be answered. */
static bool
check_waits(struct check *k)
{
	bool ok = connected_for_all(k);

	for (size_t i = 0; i < N_COMMANDS && ok; i++) {
		if (!has(k, commands[i].operation, NULL))
			continue;
		k->hold = true;
		driver_send(k->driver, k->handle, "%s", commands[i].request);
		if (driver_take(k->driver, &k->a, HOLD_MS) == DRIVER_TOOK)
			ok = deviates(k, "'%s' is answered '%s' before the server has answered it", commands[i].request,
			              result_words[k->a.result]);
		k->hold = false;
		if (ok && driver_take(k->driver, &k->a, -1) != DRIVER_TOOK)
			ok = deviates(k, "%s", driver_error(k->driver));
		ok = ok && wants(k, commands[i].request, DRIVER_OK);
	}
	return ok && let_go(k, k->handle);
}

static bool
check_refused(struct check *k)
{
	struct disk *disk = disk_of(k, READ_ONLY);
	unsigned handle = ++k->handle;

	return ask(k, DRIVER_ERROR, handle, "connect nbd+unix:///all?socket=%s/nobody", k->dir) &&
	       ask(k, DRIVER_ERROR, handle, "connect nbd+unix:///nothing?socket=%s/nbd.sock", k->dir) &&
	       ask(k, DRIVER_ERROR, handle, "read 0 512") &&
	       ask(k, DRIVER_OK, handle, "connect %s", k->uri[READ_ONLY]) &&
	       reads(k, READ_ONLY, handle, disk_size(disk) - 512, 512) &&
	       ask(k, DRIVER_ERROR, handle, "read %llu 1024", (unsigned long long)disk_size(disk) - 512) &&
	       (!has(k, "write", NULL) || ask(k, DRIVER_ERROR, handle, "write 0 512 1")) && let_go(k, handle);
}

static bool
check_twice(struct check *k)
{
	return connected(k, ALL) && ask(k, DRIVER_ERROR, k->handle, "connect %s", k->uri[ALL]) &&
	       reads(k, ALL, k->handle, 0, 512) && let_go(k, k->handle);
}

/* ---- sessions ---- */

static bool
nobody_is_there(struct check *k)
{
	return fake_count(k->server).open == 0;
}

static bool
check_disconnect(struct check *k)
{
	if (!connected(k, ALL) || !reads(k, ALL, k->handle, 0, 512))
		return false;
	k->from = trace_end(&k->trace);
	if (!let_go(k, k->handle))
		return false;
	if (!settle(k, nobody_is_there))
		return deviates(k, "'disconnect' is answered ok, but the connection goes on");
	if (look(k, NBD_CMD_DISC).requests != 1)
		return deviates(k, "'disconnect' is answered ok, but no NBD_CMD_DISC has reached the server");
	return ask(k, DRIVER_ERROR, k->handle, "read 0 512");
}

/* The same handle, another export: nothing of the first is said of the second. */
static bool
check_reconnect(struct check *k)
{
	fill(k, ALL, 4);
	fill(k, PLAIN, 5);
	return connected(k, ALL) && reads(k, ALL, k->handle, 0, BLOCK) && let_go(k, k->handle) &&
	       ask(k, DRIVER_OK, k->handle, "connect %s", k->uri[PLAIN]) &&
	       knows_export(k, &k->config.exports[PLAIN]) && reads(k, PLAIN, k->handle, 0, BLOCK) &&
	       let_go(k, k->handle) && ask(k, DRIVER_OK, k->handle, "connect %s", k->uri[ALL]) &&
	       knows_export(k, &k->config.exports[ALL]) && reads(k, ALL, k->handle, 4096, BLOCK) &&
	       let_go(k, k->handle);
}

static bool
check_dropped(struct check *k)
{
	if (!connected(k, ALL) || !reads(k, ALL, k->handle, 0, 512))
		return false;
	fake_disconnect(k->server, 0);
	return ask(k, DRIVER_ERROR, k->handle, "read 0 512") && ask(k, DRIVER_ERROR, k->handle, "read 0 512") &&
	       ask(k, DRIVER_OK, k->handle, "connect %s", k->uri[ALL]) && reads(k, ALL, k->handle, 512, 512) &&
	       let_go(k, k->handle);
}

static bool
check_close(struct check *k)
{
	return connected(k, ALL) && ask(k, DRIVER_OK, k->handle, "close") &&
	       (settle(k, nobody_is_there) || deviates(k, "'close' is answered ok, but the connection goes on")) &&
	       ask(k, DRIVER_ERROR, k->handle, "read 0 512") &&
	       ask(k, DRIVER_OK, k->handle, "connect %s", k->uri[ALL]) && let_go(k, k->handle);
}

static bool
check_handles(struct check *k)
{
	unsigned n = driver_handles(k->driver) < 16 ? driver_handles(k->driver) : 16, first = k->handle + 1;
	bool ok = true;

	fill(k, ALL, 6);
	fill(k, PLAIN, 7);
	for (unsigned i = 0; i < n && ok; i++)
		ok = connected(k, i % 2 == 0 ? ALL : PLAIN) != 0;
	for (unsigned i = 0; i < n && ok; i++)
		ok = reads(k, i % 2 == 0 ? ALL : PLAIN, first + i, i * 4096, 512);
	for (unsigned i = 0; i < n && ok; i += 2)
		ok = let_go(k, first + i);
	for (unsigned i = 1; i < n && ok; i += 2)
		ok = reads(k, PLAIN, first + i, 512, 512) && let_go(k, first + i);
	return ok;
}

/* ---- many at once ---- */

struct in_flight {
	unsigned tag;
	uint64_t offset;
};

static bool
take_all(struct check *k, const struct in_flight *sent, unsigned n, bool reading)
{
	for (unsigned taken = 0; taken < n; taken++) {
		unsigned i = 0;

		if (driver_take(k->driver, &k->a, -1) != DRIVER_TOOK)
			return deviates(k, "with %u requests in flight: %s", n, driver_error(k->driver));
		while (i < n && sent[i].tag != k->a.tag)
			i++;
		if (!wants(k, reading ? "read" : "write", DRIVER_OK))
			return false;
		if (reading && i < n && !is_digest(k, "read", digest_of_pattern(i + 1, sent[i].offset, BLOCK)))
			return false;
	}
	return true;
}

/* Sent while the server is not served, so that they are there together; the knob answers them in any order. */
static bool
send_all(struct check *k, unsigned n, int ms, bool reading)
{
	struct in_flight sent[IN_FLIGHT];

	k->hold = true;
	for (unsigned i = 0; i < n; i++) {
		sent[i].offset = (uint64_t)i * BLOCK;
		sent[i].tag = reading ? driver_send(k->driver, k->handle, "read %llu %d",
		                                    (unsigned long long)sent[i].offset, BLOCK)
		                      : driver_send(k->driver, k->handle, "write %llu %d %u",
		                                    (unsigned long long)sent[i].offset, BLOCK, i + 1);
	}
	serve(k, driver_fd(k->driver), ms);
	k->hold = false;
	return take_all(k, sent, n, reading);
}

static bool
check_in_flight(struct check *k)
{
	unsigned n = driver_depth(k->driver) < IN_FLIGHT ? driver_depth(k->driver) : IN_FLIGHT;
	unsigned most = 0;
	bool ok = connected(k, ALL) != 0;

	k->config.knob[KNOB_requests_out_of_order] = k->config.knob[KNOB_replies_shuffled] = true;
	/* How long the driver needs to send them is not known: it gets more time when it has not. */
	for (int ms = 10; ok && most < 2 && ms < DRIVER_LIMIT_MS * k->factor / 4; ms *= 2) {
		fill(k, ALL, 0);
		k->from = trace_end(&k->trace);
		ok = (has(k, "write", NULL) ? send_all(k, n, ms, false) : (fill(k, ALL, 1), true));
		most = look(k, NBD_CMD_WRITE).most_in_flight;
	}
	k->config.knob[KNOB_requests_out_of_order] = k->config.knob[KNOB_replies_shuffled] = false;
	for (unsigned i = 0; i < n && ok; i++)
		ok = disk_holds(k, ALL, (uint64_t)i * BLOCK, BLOCK, i + 1);
	ok = ok && send_all(k, n, 10, true);
	if (ok && most < 2)
		return deviates(k, "the greeting says depth=%u, but no two commands were in flight at once",
		                driver_depth(k->driver));
	return ok && let_go(k, k->handle);
}

/* ---- settings and haggling ---- */

static bool
check_strict(struct check *k)
{
	unsigned handle = ++k->handle;

	if (!ask(k, DRIVER_OK, handle, "set strict=off") || !ask(k, DRIVER_OK, handle, "connect %s", k->uri[PLAIN]))
		return false;
	k->from = trace_end(&k->trace);
	if (!ask(k, DRIVER_ERROR, handle, "flush"))
		return false;
	if (look(k, NBD_CMD_FLUSH).requests != 1)
		return deviates(k, "after 'set strict=off' a FLUSH that is not advertised does not reach the server");
	if (!ask(k, DRIVER_OK, handle, "set strict=on") || !ask(k, DRIVER_ERROR, handle, "flush"))
		return false;
	if (look(k, NBD_CMD_FLUSH).requests != 0)
		return deviates(k, "after 'set strict=on' a FLUSH that is not advertised reaches the server");
	return let_go(k, handle);
}

static bool
check_flags(struct check *k)
{
	unsigned handle = ++k->handle;

	if (!ask(k, DRIVER_OK, handle, "set strict=off") || !ask(k, DRIVER_OK, handle, "connect %s", k->uri[ALL]))
		return false;
	k->from = trace_end(&k->trace);
	if (!ask(k, DRIVER_ERROR, handle, "read 0 512 flags=32768"))
		return false;
	if ((look(k, NBD_CMD_READ).flags_all & 0x8000) == 0)
		return deviates(k, "'read 0 512 flags=32768' does not reach the server with that flag");
	return let_go(k, handle);
}

static bool
check_structured(struct check *k)
{
	unsigned handle = ++k->handle;

	return ask(k, DRIVER_OK, handle, "connect %s", k->uri[ALL]) && is_known(k, "structured", "yes") &&
	       let_go(k, handle) && ask(k, DRIVER_OK, handle, "set structured=off") &&
	       ask(k, DRIVER_OK, handle, "connect %s", k->uri[ALL]) && is_known(k, "structured", "no") &&
	       is_known(k, "df", "no") && let_go(k, handle);
}

static bool
check_haggle(struct check *k)
{
	unsigned handle = ++k->handle;

	if (!ask(k, DRIVER_OK, handle, "haggle %s", k->uri[ALL]))
		return false;
	if (has(k, "list", NULL) && (!ask(k, DRIVER_OK, handle, "list") || !is_known(k, "export", "all")))
		return false;
	if (has(k, "info", NULL) &&
	    (!ask(k, DRIVER_OK, handle, "info export=read%%20only") ||
	     !knows_export(k, &k->config.exports[READ_ONLY]) || !ask(k, DRIVER_ERROR, handle, "info export=nothing") ||
	     !ask(k, DRIVER_OK, handle, "info export=all") || !knows_export(k, &k->config.exports[ALL])))
		return false;
	if (has(k, "contexts", NULL) &&
	    (!ask(k, DRIVER_OK, handle, "contexts base%%3aallocation") || !is_known(k, "context", "base:allocation")))
		return false;
	if (has(k, "go", NULL) && (!ask(k, DRIVER_OK, handle, "go export=plain") ||
	                           !knows_export(k, &k->config.exports[PLAIN]) || !reads(k, PLAIN, handle, 0, 512)))
		return false;
	return let_go(k, handle);
}

/* ---- what is not there ---- */

static bool
check_unsupported(struct check *k)
{
	static const char *const known[] = { "write",  "flush", "trim", "zero",     "cache", "block_status", "set",
		                             "haggle", "list",  "info", "contexts", "go",    "starttls",     "close" };
	unsigned handle = connected(k, ALL);
	bool ok = handle != 0 && ask(k, DRIVER_UNSUPPORTED, handle, "frobnicate 1 2") &&
	          ask(k, DRIVER_UNSUPPORTED, handle, "read 0 512 frobnicate") &&
	          (!has(k, "set", NULL) || ask(k, DRIVER_UNSUPPORTED, handle, "set frobnicate=on"));

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]) && ok; i++)
		if (!has(k, known[i], NULL))
			ok = ask(k, DRIVER_UNSUPPORTED, handle, "%s 0 512", known[i]);
	return ok && ask(k, DRIVER_ERROR, handle, "read 0 x") && reads(k, ALL, handle, 0, 512) && let_go(k, handle);
}

/* With a session that is open. */
static bool
check_end(struct check *k)
{
	return connected(k, ALL) && (driver_end(k->driver) || deviates(k, "%s", driver_error(k->driver)));
}

static const struct {
	const char *name, *operation, *flag; /* what it needs */
	bool (*run)(struct check *k);
} checks[] = {
	{ "connects, and disconnects", NULL, NULL, check_connect },
	{ "tells what the server told the client", NULL, NULL, check_known },
	{ "read: the digest is that of the disk", NULL, NULL, check_read },
	{ "read df", "read", "df", check_read_df },
	{ "write: the disk holds the pattern", "write", NULL, check_write },
	{ "write fua", "write", "fua", check_write_fua },
	{ "flush", "flush", NULL, check_flush },
	{ "trim", "trim", NULL, check_trim },
	{ "trim fua", "trim", "fua", check_trim_fua },
	{ "zero", "zero", NULL, check_zero },
	{ "zero no-hole", "zero", "no-hole", check_zero_no_hole },
	{ "zero fast", "zero", "fast", check_zero_fast },
	{ "zero fua", "zero", "fua", check_zero_fua },
	{ "cache", "cache", NULL, check_cache },
	{ "block_status", "block_status", NULL, check_block_status },
	{ "an error of the server is an error of the client", NULL, NULL, check_errors },
	{ "nothing is answered before the server has answered", NULL, NULL, check_waits },
	{ "what cannot be is an error", NULL, NULL, check_refused },
	{ "a second connect is an error", NULL, NULL, check_twice },
	{ "disconnect sends DISC", NULL, NULL, check_disconnect },
	{ "a handle connects again, to another export", NULL, NULL, check_reconnect },
	{ "a connection that the server closes is an error, and is replaced", NULL, NULL, check_dropped },
	{ "close", "close", NULL, check_close },
	{ "several handles", NULL, NULL, check_handles },
	{ "many requests in flight", NULL, NULL, check_in_flight },
	{ "set strict", "set", "strict", check_strict },
	{ "flags=N", "read", "flags", check_flags },
	{ "set structured", "set", "structured", check_structured },
	{ "haggle", "haggle", NULL, check_haggle },
	{ "what is not known is unsupported", NULL, NULL, check_unsupported },
	{ "the end of input ends it", NULL, NULL, check_end },
};
enum { N_CHECKS = sizeof(checks) / sizeof(checks[0]) };

/* ---- running them ---- */

static void
report(struct check *k, const char *name, bool ok)
{
	char *why;

	if (k->interrupted)
		return;
	why = printable_text(k->why, PRINTABLE_AGAIN);
	printf("%s %u - %s%s%s\n", ok ? "ok" : "not ok", ++k->n, name, ok ? "" : ": ", ok ? "" : why);
	k->n_failed += !ok;
	free(why);
}

/* Why a check is not for this driver, or NULL. */
static const char *
not_for(const struct check *k, size_t i, char text[80])
{
	if (checks[i].run == check_handles && driver_handles(k->driver) < 2)
		return "the driver has handles=1";
	if (checks[i].run == check_in_flight && (driver_depth(k->driver) < 2 || !has(k, "write", NULL)))
		return driver_depth(k->driver) < 2 ? "the driver has depth=1" : "the driver has no write";
	if (checks[i].run == check_flags && !has(k, "set", "strict"))
		return "the driver has no set+strict";
	if (checks[i].run == check_block_status && !has(k, "set", "context"))
		return "the driver has no set+context";
	if (checks[i].operation == NULL || has(k, checks[i].operation, checks[i].flag))
		return NULL;
	snprintf(text, 80, "the driver has no %s%s%s", checks[i].operation, checks[i].flag != NULL ? "+" : "",
	         checks[i].flag != NULL ? checks[i].flag : "");
	return text;
}

/* 0, or an exit status: it cannot be started. *greets: as the page has it. */
static int
start_driver(struct check *k, bool *greets)
{
	struct driver_options options = { .factor = k->factor, .wait = serve, .arg = k };
	char error[512];

	*greets = false;
	driver_stop(k->driver);
	k->n_starts++;
	k->driver = driver_start(k->cli->args, &options, error);
	if (k->driver == NULL)
		return cli_broken(k->cli, "%s", error);
	*greets = driver_greet(k->driver);
	if (!*greets)
		deviates(k, "%s", driver_error(k->driver));
	return 0;
}

/* A driver that broke is started anew for the next check, but not for ever. */
static int
run_checks(struct check *k)
{
	bool greets, first = true;
	char text[80];
	const char *skip;
	int status = start_driver(k, &greets);

	for (size_t i = 0; i < N_CHECKS && status == 0 && !k->interrupted; i++) {
		if (first)
			report(k, "greets", greets);
		if (!greets || (first = false))
			break;
		k->why[0] = '\0';
		if ((skip = not_for(k, i, text)) != NULL)
			printf("ok %u - %s # SKIP %s\n", ++k->n, checks[i].name, skip);
		else
			report(k, checks[i].name, checks[i].run(k));
		k->hold = false;
		fake_disconnect(k->server, 0);
		if (*driver_error(k->driver) == '\0' || i + 1 == N_CHECKS)
			continue;
		if (k->n_starts == STARTS_MOST) {
			printf("# the driver broke %d times: what is left is not checked\n", STARTS_MOST);
			break;
		}
		status = start_driver(k, &greets);
		if (status == 0 && !greets)
			report(k, "greets again", false);
	}
	return status;
}

/* ---- the set-up ---- */

static int
set_up_server(struct check *k)
{
	char error[512], *path;
	int fd;

	k->dir = make_guarded_dir(&k->guard, error);
	if (k->dir == NULL)
		return cli_broken(k->cli, "%s", error);
	path = join_path(k->dir, "nbd.sock");
	for (int i = 0; i < N_EXPORTS; i++)
		k->uri[i] = uri_format(&(struct nbd_uri){
			.transport = URI_UNIX, .socket = path, .export = k->config.exports[i].name });
	k->server = fake_new(&k->config);
	fd = listen_on_unix(path, error);
	free(path);
	if (fd < 0)
		return cli_broken(k->cli, "%s", error);
	if (k->server == NULL || fake_add_listener(k->server, fd) < 0)
		return cli_broken(k->cli, "the server cannot be set up: %s", strerror(errno));
	return 0;
}

static int
set_up(struct check *k)
{
	sigset_t stop = stop_signals();
	char error[256];

	/* Lines come as they are known, also in a pipe. */
	setlinebuf(stdout);
	sigprocmask(SIG_BLOCK, &stop, NULL);
	k->signals = signalfd(-1, &stop, SFD_CLOEXEC);
	k->trace.fd = memfd_create("trace", MFD_CLOEXEC);
	if (k->signals < 0 || k->trace.fd < 0 || trace_start(&k->trace, k->trace.fd, 64) < 0)
		return cli_broken(k->cli, "the trace cannot be set up: %s", strerror(errno));
	k->config = (struct fake_config){ .n_exports = N_EXPORTS, .seed = 1, .trace = &k->trace };
	k->config.exports = calloc(N_EXPORTS, sizeof(*k->config.exports));
	for (int i = 0; i < N_EXPORTS; i++)
		if (k->config.exports == NULL || !export_parse(exports[i], &k->config.exports[i], error))
			abort();
	return set_up_server(k);
}

static void
clean_up(struct check *k)
{
	driver_stop(k->driver);
	fake_free(k->server);
	for (size_t i = 0; i < k->config.n_exports; i++) {
		export_free(&k->config.exports[i]);
		free(k->uri[i]);
	}
	free(k->config.exports);
	if (k->dir != NULL) {
		remove_dir(k->dir);
		dismiss_guard(k->guard, k->dir);
	}
	free(k->dir);
	close(k->trace.fd);
	close(k->signals);
}

enum { OPT_FACTOR = 1 };

static const struct cli_option options[] = {
	{ "time-factor", 0, "F", "multiply every time limit (an answer: 5 s)", OPT_FACTOR, false },
	{ 0 },
};

static int
run_driver_check(struct cli *cli)
{
	struct check k = { .cli = cli, .factor = 1, .signals = -1, .trace.fd = -1 };
	int status;

	if (cli->n_given > 0 && !cli_factor(cli, "--time-factor", cli->given[0].value, &k.factor))
		return STATUS_USAGE;
	if (cli->n_args == 0)
		return cli_usage_error(cli, "want a driver, such as build/drivers/libnbd");
	status = set_up(&k);
	if (status == 0)
		status = run_checks(&k);
	if (k.interrupted)
		printf("# interrupted\n");
	else if (status == 0)
		printf("1..%u\n", k.n);
	if (k.interrupted)
		status = STATUS_INTERRUPTED;
	else if (status == 0 && k.n_failed > 0)
		status = STATUS_FAILED;
	clean_up(&k);
	return status;
}

COMMAND(driver_check) = {
	.name = "driver-check",
	.usage = "[--time-factor F] [--] PROGRAM [ARG]...",
	.summary = "test a driver of a client library itself (docs/driver-protocol.md)",
	.help = "Each line of the output is one thing that is as the page has it, or is not, and why.\n"
		"Options of the driver stand behind '--'.\n",
	.options = options,
	.run = run_driver_check,
};
