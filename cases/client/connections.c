/* Several handles and connections: each is its own, and what happens to one is nothing to the others. */
#include "cases/client/referee.h"
#include "cases/client/relay.h"

#include "fakeserver/disk.h"
#include "harness/client.h"
#include "harness/driver.h"
#include "harness/nbd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HANDLES = 64, EXPORTS = DRIVE_EXPORTS, EXPORT_BYTES = 256 << 10, FIRST_PATTERN = 100, WRITE_PATTERN = 1000 };

/* Where the user asks for several connections it is he that decides on them, and not the client. */
static void
finish_several(struct drive *d)
{
	drive_finish_as(d, &(struct referee_setup){ .several_clients = true });
}

/* A case that ends connections itself asks nothing of how the client left. The handles are free for the next point. */
static void
finish_broken_off(struct drive *d)
{
	ask(d, 1, "disconnect");
	ask(d, 2, "disconnect");
	drive_finish_as(d, &(struct referee_setup){ .server_lies = true, .several_clients = true });
}

static void
expect_read(struct drive *d, enum requirement_id r, const struct fake_export *e, uint64_t offset, uint32_t length,
            const struct driver_answer *a)
{
	uint32_t want = disk_digest(e, offset, length);

	EXPECT(d->t, r, a->result == DRIVER_OK, "a read of %u bytes at %" PRIu64 " fails: %s", length, offset, a->text);
	EXPECT(d->t, r, strtoul(a->text, NULL, 16) == want,
	       "a read of %u bytes at %" PRIu64 " gives digest %s in place of %08x, which export '%s' has there",
	       length, offset, a->text, want, e->name);
}

/* ---- one handle ---- */

CASE_DRIVER(
	connections, one_handle,
	"With one handle and many requests the client keeps to one connection where NBD_FLAG_CAN_MULTI_CONN is not set",
	R(client_multi_conn_unadvertised), R(baseline_client_read))
{
	enum { READS = 32 };
	struct drive *d = drive_new(t);
	unsigned depth = driver_depth(d->driver) < READS ? driver_depth(d->driver) : READS;

	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s NBD_FLAG_CAN_MULTI_CONN", i == 0 ? "without" : "with") {
			unsigned tag[READS];

			drive_serve(d, "", NULL);
			d->exports[0].flags =
				NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | (i != 0 ? NBD_FLAG_CAN_MULTI_CONN : 0);
			must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
			for (unsigned k = 0; k < depth; k++)
				tag[k] = drive_send(d, 1, "read %u 4096", k * 4096);
			for (unsigned k = 0, n = 0; n < depth; n++) {
				struct driver_answer a = drive_take(d);

				for (k = 0; tag[k] != a.tag; k++)
					;
				expect_read(d, R(baseline_client_read), &d->exports[0], k * 4096, 4096, &a);
			}
			for (unsigned k = 0; k < 4; k++)
				must_read_disk(d, R(baseline_client_read), 1, &d->exports[0], k * 8192, 8192);
			must(d, R(baseline_client_disc), 1, "disconnect");
			if (drive_connections(d) > 1)
				observe(t, R(client_multi_conn_unadvertised),
				        "the client opens %u connections for one handle", drive_connections(d));
			drive_finish(d);
		}
}

/* ---- many handles ---- */

/* Handles count from 1; those of one export are HANDLES / EXPORTS. */
struct crowd {
	struct drive *d;
	unsigned n;
	bool same_export;
};

static struct fake_export *
export_of(const struct crowd *c, unsigned handle)
{
	return &c->d->exports[c->same_export ? 0 : handle % EXPORTS];
}

static uint64_t
place_of(unsigned handle)
{
	return EXPORT_BYTES / 2 + (uint64_t)handle * 512;
}

/* So that no two exports hold the same anywhere. */
static void
fill_exports(struct drive *d)
{
	static uint8_t data[EXPORT_BYTES];
	enum disk_state failed;

	for (unsigned i = 0; i < EXPORTS; i++) {
		driver_pattern(FIRST_PATTERN + i, 0, sizeof(data), data);
		if (!disk_write(d->exports[i].disk, 0, sizeof(data), data, &failed))
			abort();
		d->exports[i].size = EXPORT_BYTES - 4096 * (uint64_t)i;
	}
}

static void
connect_all(struct crowd *c)
{
	for (unsigned h = 1; h <= c->n; h++) {
		char *uri = drive_uri(c->d, export_of(c, h)->name);
		struct driver_answer a = ask(c->d, h, "connect %s", uri);
		char *size = known(&a, "size");

		EXPECT(c->d->t, R(baseline_client_info_go), a.result == DRIVER_OK, "handle %u of %u cannot connect: %s",
		       h, c->n, a.text);
		EXPECT(c->d->t, R(baseline_client_info_go),
		       size == NULL || strtoull(size, NULL, 10) == export_of(c, h)->size,
		       "handle %u has a size of %s, and its export one of %" PRIu64, h, size, export_of(c, h)->size);
		free(uri);
		free(size);
	}
}

/* One read on each of every so many handles, all at once. */
static void
read_all(struct crowd *c, unsigned first, unsigned step)
{
	unsigned tag[HANDLES + 1] = { 0 }, sent = 0;

	for (unsigned h = first; h <= c->n; h += step, sent++)
		tag[h] = drive_send(c->d, h, "read %u 2048", h * 512);
	for (; sent > 0; sent--) {
		struct driver_answer a = drive_take(c->d);
		unsigned h = first;

		while (h < c->n && tag[h] != a.tag)
			h++;
		note(c->d->t, "this is handle %u's", h);
		expect_read(c->d, R(client_takes_replies_unordered), export_of(c, h), h * 512, 2048, &a);
	}
}

static void
write_all(struct crowd *c)
{
	for (unsigned h = 1; h <= c->n; h++)
		drive_send(c->d, h, "write %" PRIu64 " 512 %u", place_of(h), WRITE_PATTERN + h);
	for (unsigned h = 1; h <= c->n; h++) {
		struct driver_answer a = drive_take(c->d);

		EXPECT(c->d->t, R(baseline_client_write), a.result == DRIVER_OK,
		       "a write on one of %u handles fails: %s", c->n, a.text);
	}
	for (unsigned h = 1; h <= c->n; h++) {
		uint8_t want[512];

		driver_pattern(WRITE_PATTERN + h, place_of(h), sizeof(want), want);
		EXPECT(c->d->t, R(baseline_client_write),
		       disk_digest(export_of(c, h), place_of(h), sizeof(want)) == driver_digest(want, sizeof(want)),
		       "what handle %u has written at %" PRIu64 " is not on the disk of export '%s'", h, place_of(h),
		       export_of(c, h)->name);
	}
}

static void
disconnect_every(struct crowd *c, unsigned first, unsigned step)
{
	for (unsigned h = first; h <= c->n; h += step)
		must(c->d, R(baseline_client_disc), h, "disconnect");
}

CASE_DRIVER(
	connections, many_handles,
	"With 64 handles at once, on one export or on several, each reads and writes what is its own, also when others "
	"have gone",
	R(client_takes_replies_unordered), R(baseline_client_info_go), R(baseline_client_write),
	R(baseline_client_disc))
{
	struct drive *d = drive_new(t);
	struct crowd c = { .d = d, .n = client_pairwise(d->client) ? HANDLES / 4 : HANDLES };

	if (driver_handles(d->driver) < c.n)
		c.n = driver_handles(d->driver);
	for (volatile unsigned i = 0; i < 3; i++)
		POINT(t, "%s",
		      i == 0   ? "eight exports"
		      : i == 1 ? "one export"
		               : "one export with NBD_FLAG_CAN_MULTI_CONN") {
			drive_serve(d, "", "name=b", "name=c", "name=d", "name=e", "name=f", "name=g", "name=h", NULL);
			fill_exports(d);
			d->exports[0].flags |= i == 2 ? NBD_FLAG_CAN_MULTI_CONN : 0;
			c.same_export = i > 0;
			connect_all(&c);
			read_all(&c, 1, 1);
			if (driver_has(d->driver, "write", NULL))
				write_all(&c);
			disconnect_every(&c, 1, 2);
			read_all(&c, 2, 2);
			disconnect_every(&c, 2, 2);
			finish_several(d);
		}
}

/* ---- one of two goes ---- */

/* Handles 1 and 2, by the connections 1 and 2 of the relay. */
static struct relay *
connect_two(struct drive *d)
{
	struct relay *relay;

	if (driver_handles(d->driver) < 2)
		skip(d->t, "handles", "the driver has no more than one");
	drive_serve(d, "flags=SEND_FLUSH+SEND_FUA+SEND_TRIM+SEND_WRITE_ZEROES+CAN_MULTI_CONN", NULL);
	relay = relay_new(d);
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	must(d, R(baseline_client_info_go), 2, "connect %s", d->uri);
	if (relay_connections(relay) != 2)
		skip(d->t, "connections", "the client opens %u connections for two handles", relay_connections(relay));
	return relay;
}

static void
second_works(struct drive *d)
{
	for (unsigned i = 0; i < 4; i++)
		must_read_disk(d, R(baseline_client_read), 2, &d->exports[0], i * 8192, 4096);
}

enum { IN_FLIGHT = 8 };

static unsigned
leave_unanswered(struct drive *d, struct relay *relay, unsigned *first)
{
	unsigned n = driver_depth(d->driver) - 1 < IN_FLIGHT ? driver_depth(d->driver) - 1 : IN_FLIGHT;

	if (n == 0)
		skip(d->t, "depth", "the driver has no more than one request in flight");
	relay_hold(relay, 1, TO_CLIENT);
	*first = drive_send(d, 1, "read 0 4096");
	for (unsigned i = 1; i < n; i++)
		drive_send(d, 1, "read %u 4096", i * 4096);
	return n;
}

/* What nobody has answered has not succeeded. */
static void
expect_failures(struct drive *d, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct driver_answer a = drive_take(d);

		EXPECT(d->t, R(baseline_client_read), a.result == DRIVER_ERROR,
		       "a read succeeds that the server's answer to never came: %s", a.text);
	}
}

/* The client may have asked once more by itself, on a connection of its own. */
static void
expect_failures_or_repetition(struct drive *d, const struct relay *relay, unsigned n, unsigned first)
{
	for (unsigned i = 0; i < n; i++) {
		struct driver_answer a = drive_take(d);

		EXPECT(d->t, R(baseline_client_read), a.result == DRIVER_ERROR || relay_connections(relay) > 2,
		       "a read succeeds that the server's answer to never came: %s", a.text);
		if (a.result == DRIVER_OK)
			expect_read(d, R(baseline_client_read), &d->exports[0], (a.tag - first) * 4096, 4096, &a);
	}
}

CASE_DRIVER(connections, close_one,
            "A handle that is closed with requests in flight ends them with errors, and leaves the other handle alone",
            R(baseline_client_read))
{
	struct drive *d = drive_new(t);

	drive_needs(d, "close", NULL);
	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", i == 0 ? "nothing in flight" : "requests in flight") {
			struct relay *relay = connect_two(d);
			unsigned first, n = i == 0 ? 0 : leave_unanswered(d, relay, &first), tag, failed = 0;
			struct driver_answer a;

			tag = drive_send(d, 1, "close");
			while ((a = drive_take(d)).tag != tag) {
				EXPECT(t, R(baseline_client_read), a.result == DRIVER_ERROR,
				       "a read succeeds that the server's answer to never came: %s", a.text);
				failed++;
			}
			EXPECT(t, R(baseline_client_read), a.result == DRIVER_OK, "'close' fails: %s", a.text);
			expect_failures(d, n - failed);
			second_works(d);
			must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
			must_read_disk(d, R(baseline_client_read), 1, &d->exports[0], 0, 4096);
			second_works(d);
			finish_broken_off(d);
		}
}

CASE_DRIVER(
	connections, one_dies,
	"A handle whose server has gone says so of each request in flight; the other goes on, and it can connect again",
	R(baseline_client_read), R(baseline_client_info_go), R(client_transmission_no_disconnect))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", i == 0 ? "nothing in flight" : "requests in flight") {
			struct relay *relay = connect_two(d);
			unsigned first = 0, n = i == 0 ? 0 : leave_unanswered(d, relay, &first);
			struct driver_answer a;

			relay_end(relay, 1);
			expect_failures_or_repetition(d, relay, n, first);
			second_works(d);
			a = ask(d, 1, "read 0 4096");
			if (a.result == DRIVER_OK)
				expect_read(d, R(baseline_client_read), &d->exports[0], 0, 4096, &a);
			else
				a = ask(d, 1, "connect %s", d->uri);
			EXPECT(t, R(baseline_client_info_go), a.result == DRIVER_OK,
			       "after its server has gone the handle cannot connect again: %s", a.text);
			must_read_disk(d, R(baseline_client_read), 1, &d->exports[0], 0, 4096);
			second_works(d);
			finish_broken_off(d);
		}
}

/* ---- flush ---- */

/* Serves until so many requests of this type have come; not longer than a client may need that waits for nothing. */
static bool
has_come(struct drive *d, uint16_t type, unsigned n, int ms)
{
	for (; drive_sent(d, type, 0) < n && ms > 0; ms--)
		drive_pause(d, 1);
	return drive_sent(d, type, 0) >= n;
}

static const struct changing {
	const char *operation, *request;
	uint16_t type;
} changing[] = { { "write", "write 4096 4096 7", NBD_CMD_WRITE },
	         { "zero", "zero 4096 4096", NBD_CMD_WRITE_ZEROES },
	         { "trim", "trim 4096 4096", NBD_CMD_TRIM } };
enum { N_CHANGING = sizeof(changing) / sizeof(changing[0]), COMES_MS = 1000, QUIET_MS = 20 };

static void
flush_beside(struct drive *d, const struct changing *c, unsigned flushes)
{
	struct relay *relay = connect_two(d);
	struct driver_answer a;
	bool told;

	relay_hold(relay, 1, TO_CLIENT);
	drive_send(d, 1, "%s", c->request);
	if (!has_come(d, c->type, 1, COMES_MS))
		skip(d->t, c->operation, "the client does not send it when it is asked to");
	told = drive_take_soon(d, &a, QUIET_MS);
	EXPECT(d->t, R(baseline_client_write), !told || a.result == DRIVER_OK, "'%s' fails: %s", c->request, a.text);
	drive_send(d, flushes, "flush");
	if (told && has_come(d, NBD_CMD_FLUSH, 1, COMES_MS))
		broken(d->t, R(client_flush_awaits_replies),
		       "NBD_CMD_FLUSH comes before the reply to '%s', which the user was told of", c->request);
	EXPECT(d->t, R(baseline_client_write), !told, "'%s' succeeds before the server has answered it", c->request);
	relay_release(relay, 1, TO_CLIENT);
	for (unsigned n = 0; n < 2; n++) {
		a = drive_take(d);
		EXPECT(d->t, R(baseline_client_write), a.result == DRIVER_OK, "'%s' or 'flush' fails: %s", c->request,
		       a.text);
	}
	must(d, R(client_flush_awaits_replies), 2, "flush");
	must(d, R(baseline_client_disc), 1, "disconnect");
	must(d, R(baseline_client_disc), 2, "disconnect");
	finish_several(d);
}

CASE_DRIVER(connections, flush_awaits_writes,
            "While a write on one connection is unanswered the client tells nobody of its success, nor flushes over "
            "another "
            "what it has told of",
            R(client_flush_awaits_replies), R(baseline_client_write))
{
	struct drive *d = drive_new(t);

	drive_needs(d, "flush", NULL);
	if (driver_depth(d->driver) < 2)
		skip(t, "depth", "the driver has no more than one request in flight");
	for (volatile unsigned i = 0; i < 2 * N_CHANGING; i++)
		POINT(t, "%s, and %s handle flushes", changing[i / 2].operation, i % 2 == 0 ? "another" : "the same") {
			drive_needs(d, changing[i / 2].operation, NULL);
			flush_beside(d, &changing[i / 2], i % 2 == 0 ? 2 : 1);
		}
}

/* A client whose writes all have FUA need not flush. */
static void
expect_flushed(struct drive *d, unsigned handle)
{
	unsigned before = drive_sent(d, NBD_CMD_FLUSH, 0);
	struct driver_answer a = ask(d, handle, "flush");

	EXPECT(d->t, R(client_flush_awaits_replies),
	       a.result != DRIVER_OK || drive_sent(d, NBD_CMD_FLUSH, 0) > before ||
	               drive_sent(d, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA) == drive_sent(d, NBD_CMD_WRITE, 0),
	       "'flush' succeeds after a write without FUA, and no NBD_CMD_FLUSH came");
	EXPECT(d->t, R(client_flush_awaits_replies), a.result == DRIVER_OK, "'flush' fails: %s", a.text);
}

CASE_DRIVER(connections, flush_is_done, "A flush that succeeds went to the server, and the server has answered it",
            R(client_flush_awaits_replies), R(baseline_client_write))
{
	struct drive *d = drive_new(t);
	struct relay *relay;
	struct driver_answer a;

	drive_needs(d, "write", NULL);
	drive_needs(d, "flush", NULL);
	drive_serve(d, "flags=SEND_FLUSH", NULL);
	relay = relay_new(d);
	must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
	must(d, R(baseline_client_write), 1, "write 4096 4096 7");
	expect_flushed(d, 1);
	must(d, R(baseline_client_write), 1, "write 8192 4096 7");
	relay_hold(relay, 1, TO_CLIENT);
	drive_send(d, 1, "flush");
	if (drive_take_soon(d, &a, QUIET_MS))
		broken(t, R(client_flush_awaits_replies), "'flush' is answered '%s' before the server's reply",
		       a.result == DRIVER_OK ? "ok" : a.text);
	relay_release(relay, 1, TO_CLIENT);
	a = drive_take(d);
	EXPECT(t, R(client_flush_awaits_replies), a.result == DRIVER_OK, "'flush' fails: %s", a.text);
	must(d, R(baseline_client_disc), 1, "disconnect");
	finish_several(d);
}

/* ---- nobody there ---- */

CASE_DRIVER(connections, nobody,
            "Where nobody listens the client says so, and connects to the same address once somebody does",
            R(baseline_client_info_go))
{
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < 2; i++)
		POINT(t, "%s", i == 0 ? "never connected" : "connected before") {
			drive_serve(d, "", NULL);
			d->owed = R(baseline_client_info_go);
			if (i != 0) {
				must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
				must(d, R(baseline_client_disc), 1, "disconnect");
			}
			drive_stop_server(d);
			must_fail(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
			must_fail(d, R(baseline_client_read), 1, "read 0 512");
			drive_restart_server(d);
			must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
			must_read_disk(d, R(baseline_client_read), 1, &d->exports[0], 0, 4096);
			must(d, R(baseline_client_disc), 1, "disconnect");
			drive_finish(d);
		}
}

/* ---- where it connects to ---- */

enum { NBD_PORT = 10809 };

/* On an address of this process's own; port 0: any. Served from now on; 0 where it is taken, else the port. */
static unsigned
listen_at(struct drive *d, unsigned port, char address[INET_ADDRSTRLEN])
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	in.sin_addr.s_addr = htonl(0x7f000002 + (uint32_t)getpid() * 64 % 0xfffff0);
	inet_ntop(AF_INET, &in.sin_addr, address, INET_ADDRSTRLEN);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	if (fd < 0 || bind(fd, (struct sockaddr *)&in, sizeof(in)) != 0 || listen(fd, 16) != 0 ||
	    getsockname(fd, (struct sockaddr *)&in, &(socklen_t){ sizeof(in) }) != 0) {
		close(fd);
		return 0;
	}
	if (fake_add_listener(d->fake, fd) != 0)
		harness_error(d->t, "the fake server: %s", strerror(errno));
	return ntohs(in.sin_port);
}

CASE_DRIVER(connections, default_port, "Where nobody says which port, the client connects to 10809",
            R(newstyle_default_port_client))
{
	struct drive *d = drive_new(t);
	char address[INET_ADDRSTRLEN];
	struct driver_answer a;
	unsigned other;

	drive_serve(d, "", NULL);
	/* The port is another matter than TLS. */
	d->config.tls = (struct fake_tls){ 0 };
	other = listen_at(d, 0, address);
	if (other == 0 || listen_at(d, NBD_PORT, address) == 0)
		skip(t, "port 10809", "%s port %d is taken, or there is no TCP", address, NBD_PORT);
	a = ask(d, 1, "connect nbd://%s:%u/", address, other);
	if (a.result != DRIVER_OK)
		skip(t, "tcp", "the client does not connect by TCP: %s", a.text);
	must(d, R(baseline_client_disc), 1, "disconnect");
	a = ask(d, 1, "connect nbd://%s/", address);
	if (a.result == DRIVER_OK) {
		must_read_disk(d, R(baseline_client_read), 1, &d->exports[0], 0, 4096);
		must(d, R(baseline_client_disc), 1, "disconnect");
	} else {
		deviates(t, R(newstyle_default_port_client), "'connect' is answered 'ok' for a URI without a port",
		         "'error', and 'ok' for one with another port");
	}
	drive_finish(d);
}

/* ---- a server that dies ---- */

static const struct {
	const char *name;
	enum knob knob;
} servers[] = { { "structured replies", N_KNOBS },
	        { "simple replies", KNOB_no_structured_replies },
	        { "a handshake that is not fixed", KNOB_no_fixed_newstyle } };
enum { N_SERVERS = sizeof(servers) / sizeof(servers[0]) };

/* Bytes to the client: up to the end of connect, and of a read of 512 bytes. */
struct extent_of_session {
	uint64_t handshake, read;
};

static struct extent_of_session
measure(struct drive *d, struct relay *relay)
{
	struct extent_of_session n;

	n.handshake = relay_carried(relay, 1);
	must_read_disk(d, R(baseline_client_read), 1, &d->exports[0], 0, 512);
	n.read = relay_carried(relay, 1);
	must(d, R(baseline_client_disc), 1, "disconnect");
	relay_await_end(relay, 1);
	return n;
}

/* A client that connects anew by itself comes to the same end again. */
static void
die_at(struct drive *d, struct relay *relay, uint64_t at, const struct extent_of_session *n)
{
	struct driver_answer a;

	note(d->t, "the server ends after %" PRIu64 " bytes, of which %" PRIu64 " are the handshake", at, n->handshake);
	relay_forget(relay);
	relay_plan(relay, &(struct relay_plan){ .cuts = true, .cut = at, .ends = true });
	a = ask(d, 1, "connect %s", d->uri);
	if (at < n->handshake)
		EXPECT(d->t, R(baseline_client_fixed_newstyle), a.result == DRIVER_ERROR,
		       "'connect' succeeds, and the server has gone after %" PRIu64 " of %" PRIu64
		       " bytes of the handshake",
		       at, n->handshake);
	a = ask(d, 1, "read 0 512");
	EXPECT(d->t, R(baseline_client_read), a.result == DRIVER_ERROR,
	       "'read 0 512' succeeds, and the server has gone %" PRIu64 " bytes before the end of its reply",
	       n->read - at);
}

CASE_DRIVER(connections, server_dies,
            "Wherever in the handshake or in a reply the server ends the connection, the client says so, and can "
            "connect again",
            R(baseline_client_fixed_newstyle), R(baseline_client_read), R(baseline_client_info_go))
{
	enum { IN_PAIRS = 20 };
	struct drive *d = drive_new(t);

	for (volatile unsigned i = 0; i < N_SERVERS; i++)
		POINT(t, "%s", servers[i].name) {
			struct extent_of_session n;
			struct relay *relay;
			struct driver_answer a;
			uint64_t step = 1;

			drive_serve(d, "", NULL);
			if (servers[i].knob != N_KNOBS)
				d->config.knob[servers[i].knob] = true;
			d->owed = R(baseline_client_fixed_newstyle);
			relay = relay_new(d);
			a = ask(d, 1, "connect %s", d->uri);
			if (a.result != DRIVER_OK)
				skip(t, servers[i].name, "the client does not connect to such a server: %s", a.text);
			n = measure(d, relay);
			if (client_pairwise(d->client))
				step = n.read / IN_PAIRS + 1;
			for (uint64_t at = 0; at < n.read; at += step)
				die_at(d, relay, at, &n);
			relay_plan(relay, &(struct relay_plan){ 0 });
			must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
			must_read_disk(d, R(baseline_client_read), 1, &d->exports[0], 0, 4096);
			finish_broken_off(d);
		}
}
