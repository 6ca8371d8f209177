/*
 * What driver cases share: a fake server in the case's own process, changed as often as the case wants, and the driver of
 * the client under test, which outlives it.
 *
 *	struct drive *d = drive_new(t);
 *
 *	POINT(t, "…") {
 *		drive_serve(d, "size=1M,flags=SEND_FLUSH", NULL);
 *		must(d, R(baseline_client_info_go), 1, "connect %s", d->uri);
 *		a = ask(d, 1, "trim 0 4096");
 *		EXPECT_EQ(t, R(trim_only_where_advertised), drive_sent(d, NBD_CMD_TRIM, 0), 0);
 *		drive_finish(d);
 *	}
 *
 * A driver that dies, breaks its protocol, or does not answer in time ends the point: d->owed is broken.
 */
#ifndef NBDSPEC_CASES_DRIVE_H
#define NBDSPEC_CASES_DRIVE_H

#include "fakeserver/lie.h"
#include "fakeserver/server.h"
#include "harness/driver.h"
#include "harness/test.h"
#include "harness/trace.h"

enum { DRIVE_EXPORTS = 8, DRIVE_PATTERN = 1, DRIVE_FILLED = 1 << 20 };

struct client;
struct nbd_uri;

struct drive {
	struct test *t;
	struct client *client;
	struct driver *driver;
	enum requirement_id owed;	/* what a driver that dies or hangs breaks; client_transmission_no_disconnect until changed */
	/*
	 * Set back by every drive_serve; knobs, oldstyle and the like may be changed after it until somebody connects, the
	 * exports' flags and sizes at any time, for the sessions to come. Lies want a drive_restart_server.
	 */
	struct fake_config config;
	struct fake_export exports[DRIVE_EXPORTS];
	struct fake_server *fake;	/* NULL where it is a process of its own */
	char *uri;			/* of the first export; drive_uri for others */
	/* Likewise set back: what the case itself asks the client to do, and the referee is not to judge. */
	enum requirement_id excused;
	bool interoperable;		/* the client is held to what the text asks of those that desire the most interoperability */
	bool chunked;			/* a script cuts what is read whatever was asked: nothing of it is for who sets DF; until drive_serve */
	bool hold;			/* the server is not served while an answer is waited for */
	off_t from;			/* in the trace: what drive_finish and drive_sent look at */
	/* ---- */
	bool lied;			/* by drive_serve_liar */
	bool sought;			/* somebody has looked for the server that drive_desert has ended */
	unsigned n_hung;		/* so often an answer did not come within the driver's limit */
	int listener;			/* stays while servers come and go */
	char *socket;
	pid_t apart;
	bool open;			/* a point has begun and not finished */
};

/* Starts the driver and takes its greeting. Once for each case. */
struct drive *drive_new(struct test *t);
/* Skips the case, or its point, where the driver lacks an operation or one of its flags ("read", "df"); flag may be NULL. */
void drive_needs(struct drive *d, const char *operation, const char *flag);

/*
 * Serves these exports, each as of serve's --export ("name=b,size=2M,flags=…"; 256k where no size is given), up to a NULL;
 * "" for one with all defaults. Their first 4 MiB hold DRIVE_PATTERN (driver_pattern). A server that runs ends first, and drops its
 * connections; the address stays. After a point that was broken off the driver is started anew.
 */
void drive_serve(struct drive *d, const char *settings, ...) __attribute__((sentinel));
/* The same with a lie; the server is then a process of its own, since a lie may abort() or hang it. */
void drive_serve_liar(struct drive *d, const struct lie_use *use, const char *settings);
/* The server again, with the exports that it has: connections are dropped, the address stays. */
void drive_restart_server(struct drive *d);
/* Nobody listens any more, and connections are dropped: until the next drive_serve or drive_restart_server. */
void drive_stop_server(struct drive *d);
/*
 * Likewise, and for good: what is in flight must be answered, or d->owed is broken. A client that looks for its server is
 * hung up on, and may go on to look; it is not waited for.
 */
void drive_desert(struct drive *d);
char *drive_uri(struct drive *d, const char *export);		/* malloc'd, escaped */
char *drive_write_uri(struct drive *d, struct nbd_uri *u);	/* the same of another address; .tls and what goes with it are set */

/* A request and its answer. A copy of the text is kept as long as the case runs. */
struct driver_answer ask(struct drive *d, unsigned handle, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same, and it must be ok: else r is broken. `unsupported` is a skip. Returns the words behind "ok". */
const char *must(struct drive *d, enum requirement_id r, unsigned handle, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* Likewise for an error. */
const char *must_fail(struct drive *d, enum requirement_id r, unsigned handle, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* A request whose answer is taken later; its tag. */
unsigned drive_send(struct drive *d, unsigned handle, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The next answer, whatever its tag is. */
struct driver_answer drive_take(struct drive *d);
/* The same, if it comes within `ms` milliseconds, times the factor. */
bool drive_take_soon(struct drive *d, struct driver_answer *a, int ms);
/*
 * The same, until it is excused, which is asked for again and again with the milliseconds that have passed: then it is
 * false. A client that is not, and has not answered within the driver's limit, breaks d->owed.
 */
bool drive_take_unless(struct drive *d, struct driver_answer *a, bool (*excused)(struct drive *d, int64_t waited));
bool drive_is_sought(const struct drive *d);	/* somebody has connected, and waits to be taken */
/* Serves for so long, whatever comes. */
void drive_pause(struct drive *d, int ms);
/* The value of KEY=… in the words behind "ok", its escapes undone, malloc'd; NULL: the client does not say. */
char *known(const struct driver_answer *a, const char *key);
/* A read must deliver what the disk of this export holds now, or r is broken. */
void must_read_disk(struct drive *d, enum requirement_id r, unsigned handle, const struct fake_export *e, uint64_t offset,
		    uint32_t length);
uint32_t disk_digest(const struct fake_export *e, uint64_t offset, uint32_t length);

/* What the driver's process says of its own end: 0 within the limit, or r is broken. Then it is started anew. */
void drive_end_driver(struct drive *d, enum requirement_id r);

/* Requests of this type that came since drive_serve or drive_mark, with all of these command flags. */
unsigned drive_sent(struct drive *d, uint16_t type, uint16_t flags);
/* Likewise NBD_CMD_DISC, behind an answered disconnect: it may come later from another machine, a second, times the factor, at most. */
unsigned drive_sent_disc(struct drive *d);
unsigned drive_options(struct drive *d, uint32_t option);	/* likewise */
unsigned drive_connections(struct drive *d);			/* likewise: accepted */
void drive_mark(struct drive *d);		/* forgets them */
void drive_skip_df(struct drive *d);		/* where .chunked, and the client has sent NBD_CMD_FLAG_DF */
/*
 * Where the server's last word to NBD_OPT_GO was NBD_REP_ERR_BLOCK_SIZE_REQD: it may demand that its block sizes be asked for
 * (proto.md:797-800, 1310), and a client that does not ask need not connect.
 */
void drive_skip_refused_sizes(struct drive *d);
/* It is the user's wish that the client asks for block sizes, where the driver has a setting for it. */
void drive_ask_sizes(struct drive *d, unsigned handle);
/* All records since then, for trace_next. Valid until the trace grows. */
struct wire drive_records(struct drive *d);

/*
 * The end of a point: what was sent last is taken, and the referee says what he thinks of all that came since
 * drive_serve (of a liar's clients only what a lie cannot have caused). The first broken MUST ends the point, a SHOULD is a warning.
 */
void drive_finish(struct drive *d);
/* The same, with other eyes: .several_clients where the user asked for several connections, for one. */
struct referee_setup;
void drive_finish_as(struct drive *d, const struct referee_setup *setup);

#endif
