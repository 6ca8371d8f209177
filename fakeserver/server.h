/*
 * The fake server: an honest NBD server in one thread over epoll, with knobs (legal freedoms, knobs.def) and hooks for
 * lies (lie.h). It never decides to misbehave by itself.
 */
#ifndef NBDSPEC_FAKESERVER_H
#define NBDSPEC_FAKESERVER_H

#include "fakeserver/cache.h"
#include "harness/quiet.h"
#include "harness/requirement.h"
#include "harness/tls.h"
#include "harness/trace.h"
#include "harness/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum knob {
#define KNOB(name, requirement, text) KNOB_##name,
#include "fakeserver/knobs.def"
#undef KNOB
	N_KNOBS
};

/* Metadata contexts (meta.c). An export offers a set of them, as bits. */
enum meta_context { META_ALLOCATION, META_DIRTY, META_BLOCKS, META_WIDE, N_META_CONTEXTS };
enum { META_ALL = (1 << N_META_CONTEXTS) - 1, META_SELECTED_MAX = 16 };
struct selected_context {
	uint32_t id;
	enum meta_context context;
};
const char *meta_context_name(enum meta_context context);

struct disk;
struct lie_use;
struct fake_server;

struct fake_export {
	char *name;			/* owned; "" is the default export */
	char *description;		/* owned, or NULL */
	uint64_t size;			/* bytes */
	uint16_t flags;			/* transmission flags; SEND_DF is left out where structured replies were not agreed */
	struct info_block_size block;	/* bytes; all 0: the defaults (export_block) */
	unsigned contexts;		/* 1 << META_… */
	bool tls_only;			/* nobody gets it in clear; for a server that has TLS */
	struct disk *disk;		/* owned */
	struct cache *cache;		/* owned; NULL: what is written is durable at once */
};

/* What became of TLS, connection by connection; for who asks. */
enum { TLS_SEEN_MOST = 64 };
struct tls_seen {
	size_t n;			/* connections; at most TLS_SEEN_MOST of them are kept */
	struct tls_seen_connection {
		unsigned connection;	/* conn.number */
		bool up, failed;	/* the handshake */
		bool clear_text;	/* what came in place of it, or later, is no TLS */
		bool left, shut;	/* the client has ended the connection; and sent close_notify before */
		unsigned version;	/* TLS 1.N: N */
		char why[64];		/* it failed */
	} of[TLS_SEEN_MOST];
};

/* Without credentials the server is in NOTLS mode, else in SELECTIVETLS. */
struct fake_tls {
	struct tls_credentials *credentials;	/* borrowed */
	bool forced;			/* FORCEDTLS */
	bool verify;			/* who has no certificate of our authority is turned away */
	const char *priority;		/* as tls_setup.priority */
	struct tls_seen *seen;		/* is told; or NULL */
};

struct fake_config {
	struct fake_export *exports;	/* an empty name in an option means the first one, unless one is named "" */
	size_t n_exports;
	bool oldstyle;
	struct fake_tls tls;
	bool knob[N_KNOBS];
	struct lie_use *lies;		/* in the order given */
	size_t n_lies;
	uint64_t seed;
	uint64_t buffers_most;		/* bytes for all connections, then the largest is cut off; 0: 2 GiB */
	struct quiet *quiet;		/* NULL unless the harness started us */
	struct trace *trace;		/* NULL for none */
	FILE *log;			/* every message in words, NULL for none */
	FILE *events;			/* every message as a line of JSON (event_log.h), NULL for none */
	bool once;			/* stop after the first connection has ended */
	enum cut cut;			/* how the power is cut where it is not said */
	uint64_t cut_at;		/* the power is cut when the nth request has arrived, unanswered; 0: never */
	int control_fd;			/* where fake_child takes requests (control.h); 0: nowhere */
	bool *knob_asked;		/* [N_KNOBS] or NULL: notes which knobs the sessions have asked for */
};

enum phase { PHASE_CLIENT_FLAGS, PHASE_HAGGLING, PHASE_TLS, PHASE_TRANSMISSION, PHASE_CLOSING };

/* A session. Lies on state may change the fields down to the line. */
struct conn {
	enum phase phase;
	bool fixed_newstyle;		/* both sides agreed */
	bool no_zeroes;			/* both sides agreed */
	bool over_tls;			/* TLS is up */
	bool structured;		/* NBD_OPT_STRUCTURED_REPLY was acknowledged */
	bool extended;			/* NBD_OPT_EXTENDED_HEADERS was, which takes precedence */
	struct fake_export *export;	/* in transmission; NULL before */
	uint16_t flags;			/* transmission flags that this session was told */
	struct fake_export *context_export;	/* whose contexts were selected, or NULL */
	struct selected_context contexts[META_SELECTED_MAX];	/* as the last NBD_OPT_SET_META_CONTEXT left them */
	unsigned n_contexts;
	uint32_t next_context_id;
	/* ---- */
	struct fake_server *server;
	unsigned number;		/* in order of accept, from 1 */
	uint32_t option;		/* being handled, or 0 */
	const struct request *request;	/* being handled, or NULL */
	struct fake_export *named;	/* the export that the option being handled names, or NULL */
	int in, out;			/* descriptors; the same for a socket */
	struct buf input, output;
	struct conn_private *private;
};

/* Takes the config over by pointer (it must outlive the server). NULL and errno. */
struct fake_server *fake_new(struct fake_config *config);
void fake_free(struct fake_server *s);
int fake_add_listener(struct fake_server *s, int fd);		/* takes the descriptor over */
int fake_add_connection(struct fake_server *s, int in, int out);	/* likewise; a session on a pipe pair or socket */
/* Serves until fake_stop, until `stop_fd` is readable (-1 for none), or until nothing is left to serve. 0, or -1 and errno. */
int fake_run(struct fake_server *s, int stop_fd);
/* Instead of fake_run, in somebody else's loop: serves what is ready, without waiting. How much that was, or -1 and errno. */
int fake_turn(struct fake_server *s);
int fake_fd(const struct fake_server *s);	/* readable when fake_turn has something to do */
int fake_timeout(const struct fake_server *s);	/* milliseconds until it has, whatever comes; -1: never */
void fake_stop(struct fake_server *s);				/* at once; async-signal-safe */
/*
 * No new clients; what the old ones still ask gets NBD_REP_ERR_SHUTDOWN or NBD_ESHUTDOWN. The server stops when they
 * are gone, or after so many milliseconds.
 */
void fake_shutdown(struct fake_server *s, unsigned grace_ms);
void fake_reload(struct fake_server *s);	/* there is nothing to be read anew, so all goes on as before */
unsigned fake_disconnect(struct fake_server *s, unsigned number);	/* 0: all; returns how many there were */
/*
 * Cuts the power: every connection is closed at once, with what is unsent, and each disk with a cache holds what the cut
 * leaves. Returns the new generation, from 1.
 */
unsigned fake_cut_power(struct fake_server *s, enum cut how);
/* The next so many commands of this type fail: they are not carried out. `forget`: a FLUSH that fails forgets (cache.h). */
void fake_fail(struct fake_server *s, uint16_t command, unsigned times, uint32_t error, bool forget);
void fake_seed(struct fake_server *s, uint64_t seed);		/* for all that is chosen at random from now on */
void fake_mark(struct fake_server *s, const char *text);		/* into the trace and the logs */
/* Calls `ready` in the loop whenever the descriptor, which stays the caller's, can be read. 0, or -1 and errno. */
int fake_watch(struct fake_server *s, int fd, void (*ready)(void *arg), void *arg);
void fake_unwatch(struct fake_server *s, int fd);
/* Called (unless NULL) whenever bytes of a client have been read, before the first of their requests is recorded. */
void fake_before_requests(struct fake_server *s, void (*call)(void *arg), void *arg);
void fake_flush_trace(struct fake_server *s);	/* what was recorded is in the file, if there is one */
int fake_end_trace(struct fake_server *s);	/* nothing more comes into it; 0, or what has ended it before, an errno */

struct fake_counters {
	bool shutting_down;
	unsigned accepted, open;		/* connections */
	unsigned generation;			/* power cuts */
	uint64_t options, requests, messages_sent;
	uint64_t writes, zeroes, trims, flushes;	/* carried out: NBD_CMD_WRITE, WRITE_ZEROES, TRIM, FLUSH */
	uint64_t fua;				/* those of them with NBD_CMD_FLAG_FUA */
	uint64_t failed;			/* by fake_fail */
	uint64_t bytes_received, bytes_sent;
	uint64_t marks;
};
struct fake_counters fake_count(const struct fake_server *s);
struct fake_config *fake_config_of(struct fake_server *s);

/* "NAME" or "no-NAME"; false and one line of error. */
bool knob_parse(const char *text, struct fake_config *config, char error[256]);
const char *knob_name(enum knob k);
const char *knob_text(enum knob k);
enum requirement_id knob_requirement(enum knob k);		/* whose freedom it uses */

/*
 * "name=…,size=64M,flags=SEND_FLUSH+SEND_FUA,description=…,min=…,pref=…,max=…,read-only": fills an export with a new
 * memory disk. Without a size it has 64 MiB; the last of two values counts; a backslash takes the next character as it
 * stands. What an honest server must not advertise is refused. False: *e is empty, and one line of error.
 */
bool export_parse(const char *text, struct fake_export *e, char error[256]);
/* "+SEND_FLUSH" or "-SEND_FLUSH", for the sessions to come. False, and one line of error, for what must not be advertised. */
bool export_change_flag(struct fake_export *e, const char *change, char error[256]);
void export_free(struct fake_export *e);
struct info_block_size export_block(const struct fake_export *e);	/* 1, 4096, 32 MiB where nothing else is set */

#endif
