/*
 * What a case sees: the registry, verdicts, and the steps of a client that may misbehave (design, section 5).
 *
 *	CASE(option, unknown_is_refused, "An option nobody knows is refused by name, and the next is still understood",
 *	     R(unknown_option_unsup), R(next_message_parsed))
 *	{
 *		struct option_reply r;
 *
 *		open_fixed_newstyle(t);
 *		send_option(t, 0x7fffffff, "payload", 7);
 *		r = recv_option_reply(t, R(unknown_option_unsup));
 *		EXPECT_REPLY(t, R(unknown_option_unsup), r.type, NBD_REP_ERR_UNSUP);
 *		expect_in_step(t, R(next_message_parsed));
 *	}
 *
 * A case runs in its own process and needs no cleanup. A step that cannot go on ends the case (or its point) with a
 * verdict for the requirement that it was given; nothing returns an error to the case. Every step takes the current
 * connection, t->s; use() changes it.
 */
#ifndef NBDSPEC_TEST_H
#define NBDSPEC_TEST_H

#include "harness/names.h"
#include "harness/nbd.h"
#include "harness/requirement.h"
#include "harness/result.h"
#include "harness/target_tls.h"
#include "harness/tls.h"
#include "harness/wire.h"

#include <setjmp.h>

enum suite { SUITE_SERVER, SUITE_CLIENT, SUITE_DRIVER, SUITE_DURABILITY, SUITE_CRASH, SUITE_EXPLORE, SUITE_MUTATE, SUITE_EXPLORE_CLIENT };

struct test;

struct case_def {
	const char *id;				/* "group/name", stable for ever */
	const char *title;			/* what is done and what must follow, one sentence */
	enum suite suite;
	const enum requirement_id *cites;	/* ends with REQUIREMENT_NONE */
	void (*run)(struct test *t);
	const char *file;
	int line;
	bool bulk;				/* moves tens of megabytes, which costs as much as a hundred others */
	bool untimed;				/* it may take hours once it says so; each of its waits has a limit all the same */
};

#define CASE(group, ident, title_, ...) CASE_(group, ident, title_, SUITE_SERVER, false, __VA_ARGS__)
/* `nbdspec mutants` runs it only against lies that declare to break something that it cites. */
#define CASE_BULK(group, ident, title_, ...) CASE_(group, ident, title_, SUITE_SERVER, true, __VA_ARGS__)
/* `nbdspec durability` runs it: it may cut the power. */
#define CASE_DURABILITY(group, ident, title_, ...) CASE_(group, ident, title_, SUITE_DURABILITY, false, __VA_ARGS__)

/* `nbdspec server --explore` runs it: it walks all sequences of something (harness/exploration.h). */
#define CASE_EXPLORE(group, ident, title_, ...) CASE__(group, ident, title_, SUITE_EXPLORE, false, true, __VA_ARGS__)

/* `nbdspec server --mutate` runs it: it damages what it sends at random, by a seed. */
#define CASE_MUTATE(group, ident, title_, ...) CASE__(group, ident, title_, SUITE_MUTATE, false, true, __VA_ARGS__)
/* `nbdspec client --explore` runs it, with a driver or a command. */
#define CASE_EXPLORE_CLIENT(group, ident, title_, ...)                                                                 \
	CASE__(group, ident, title_, SUITE_EXPLORE_CLIENT, false, true, __VA_ARGS__)

/* `nbdspec client` runs it: the case serves (cases/client/host.h), and what is judged is a client. */
#define CASE_CLIENT(group, ident, title_, ...) CASE_(group, ident, title_, SUITE_CLIENT, false, __VA_ARGS__)

/* `nbdspec client --driver` runs it: likewise, and the client does through its driver what the case asks (cases/client/drive.h). */
#define CASE_DRIVER(group, ident, title_, ...) CASE_(group, ident, title_, SUITE_DRIVER, false, __VA_ARGS__)
#define CASE_DRIVER_BULK(group, ident, title_, ...) CASE_(group, ident, title_, SUITE_DRIVER, true, __VA_ARGS__)

#define CASE_(group, ident, title_, suite_, bulk_, ...)                                                                \
	CASE__(group, ident, title_, suite_, bulk_, false, __VA_ARGS__)
#define CASE__(group, ident, title_, suite_, bulk_, untimed_, ...)                                                     \
	static void case_##group##_##ident(struct test *t);                                                            \
	static const struct case_def case_def_##group##_##ident = {                                                    \
		.id = #group "/" #ident, .title = title_, .suite = suite_,                                       \
		.cites = (const enum requirement_id[]){ __VA_ARGS__, REQUIREMENT_NONE },                               \
		.run = case_##group##_##ident, .file = __FILE__, .line = __LINE__, .bulk = bulk_, .untimed = untimed_,                                     \
	};                                                                                                             \
	static const struct case_def *const case_entry_##group##_##ident                                               \
		__attribute__((used, section("nbdspec_cases"))) = &case_def_##group##_##ident;                         \
	static void case_##group##_##ident(struct test *t)

const struct case_def *case_at(size_t i);	/* sorted by id; NULL past the last */
const struct case_def *case_named(const char *id);	/* NULL when unknown */

/* The reply that was taken last, so that what still comes to its request is known for that. */
struct ended {
	uint64_t cookie;
	bool structured, error;
	bool in_content;		/* its last chunk was one of content */
};

/* A connection, and what was agreed on it. */
struct session {
	struct session *next;
	struct test *test;
	int fd;
	uint16_t number;		/* in the trace, from 1 */
	struct tls *tls;		/* once NBD_OPT_STARTTLS was acknowledged; NULL in clear */
	uint64_t sent;			/* bytes on the wire */
	unsigned slot;			/* in struct quiet */
	bool write_failed;		/* the peer no longer reads; what it sent before can still be received */
	bool oldstyle;
	uint16_t handshake_flags;	/* as the server sent them */
	uint32_t client_flags;		/* as we sent them */
	bool transmission;		/* agreed, and entered */
	bool structured;		/* NBD_OPT_STRUCTURED_REPLY was acknowledged, or NBD_OPT_EXTENDED_HEADERS: replies come in chunks */
	bool extended;			/* NBD_OPT_EXTENDED_HEADERS was: requests and chunks have 32 bytes of header */
	uint32_t option;		/* the last one that we sent, for messages */
	/* In transmission: */
	uint64_t size;			/* bytes */
	uint16_t flags;			/* transmission flags */
	struct info_block_size block;	/* as advertised, or the defaults 1, 4096, 32 MiB */
	bool block_advertised;
	uint64_t next_cookie;
	struct ended ended;
	struct buf in;			/* what recv_* handed out last points in here */
};

struct test {
	const struct case_def *def;
	struct session *s;		/* the current connection; NULL before open_* */
	struct test_private *private;
};

/* ---- verdicts ---- */

/* Ends the case or its point: the requirement is broken. */
_Noreturn void broken(struct test *t, enum requirement_id r, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same, for an act that breaks several at once: a list up to REQUIREMENT_NONE. The verdict is for the first. */
_Noreturn void broken_all(struct test *t, const enum requirement_id *r, const char *text);
_Noreturn void broken_values(struct test *t, enum requirement_id r, const char *expected, const char *got);
/* Records a broken requirement; returns where it is a SHOULD (warn), ends the case where it is a MUST. */
void deviates(struct test *t, enum requirement_id r, const char *expected, const char *got);
/* Records a warning, whatever the level of the requirement: what cannot be certain. */
void warns(struct test *t, enum requirement_id r, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* What the verdict that has this message is for breaks this one, too: one act may break several. */
void breaks_too(struct test *t, enum requirement_id r, const char *text);
/* Records what was seen of a MAY. */
void observe(struct test *t, enum requirement_id r, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The case passes so far, and has this to tell. */
void tell(struct test *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Ends the case: the server does not offer the feature ("FLUSH", "fixed newstyle"). */
_Noreturn void skip(struct test *t, const char *feature, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Ends the case and the run: the harness or the set-up is broken. */
_Noreturn void harness_error(struct test *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A line for the transcript. */
void note(struct test *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define EXPECT(t, r, cond, ...)                                                                                        \
	do {                                                                                                           \
		if (!(cond))                                                                                           \
			expect_failed(t, r, __VA_ARGS__);                                                              \
	} while (0)
#define EXPECT_EQ(t, r, got, want) expect_number(t, r, #got, (uint64_t)(got), (uint64_t)(want))
#define EXPECT_ONE_OF(t, r, kind, got, ...)                                                                            \
	expect_one_of(t, r, kind, got, (const uint64_t[]){ __VA_ARGS__ },                                              \
		      sizeof((const uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t))
#define EXPECT_REPLY(t, r, got, ...) EXPECT_ONE_OF(t, r, NAME_REPLY, got, __VA_ARGS__)
#define EXPECT_ERROR(t, r, got, ...) EXPECT_ONE_OF(t, r, NAME_ERROR, got, __VA_ARGS__)

void expect_failed(struct test *t, enum requirement_id r, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void expect_number(struct test *t, enum requirement_id r, const char *what, uint64_t got, uint64_t want);
void expect_one_of(struct test *t, enum requirement_id r, enum name_kind kind, uint64_t got, const uint64_t *want, size_t n);

/*
 * A point of a parameterised case has its own verdict and its own connections; a broken one does not end the others:
 *
 *	for (unsigned f = 0; f < 16; f++)
 *		POINT(t, "flags=0x%x", f) { … }
 */
#define POINT(t, ...)                                                                                                  \
	for (point_begin(t, __VA_ARGS__); point_open(t); point_end(t))                                                 \
		if (sigsetjmp(*point_jump(t), 0) == 0)
void point_begin(struct test *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool point_open(struct test *t);
void point_end(struct test *t);
sigjmp_buf *point_jump(struct test *t);

/* ---- what the case needs; each ends it as a skip where that is missing ---- */
void need_flag(struct test *t, uint16_t transmission_flag);
void need_size(struct test *t, uint64_t bytes);
void need_writable(struct test *t);		/* not read-only, and we may write to this export at all */
void need_connections(struct test *t);		/* the server can be reached more than once */

/* ---- connections ---- */
void open_connection(struct test *t);		/* connects only; becomes t->s */
void use(struct test *t, struct session *s);
void disconnect(struct test *t);		/* our side closes, at once */
void shut_write(struct test *t);		/* our side will send no more, but reads on */

/* ---- power cuts: in durability cases ---- */

/*
 * Cuts the power below the server: "drop", "keep" or "random N" (fakeserver/cache.h). All connections are closed, and
 * the next one is to the server as it was started anew over what is left. Each cut proves that it takes something.
 */
void cut_power(struct test *t, const char *policy);
/* A request to the control socket of the disk below ("fail FLUSH 1 EIO"); its reply, which stays until the next. */
const char *ask_below(struct test *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A session beside the server, with the disk below itself; in transmission, becomes t->s. */
void enter_below(struct test *t, const char *export);
bool below_is_a_file(const struct test *t);	/* to the server; else it knows it for an NBD server */
uint64_t case_seed(const struct test *t);	/* of the run, for all that a case does at random */
/* A command line, malloc'd, that repeats this case with its seed. */
char *command_again(const struct test *t);
bool durability_waived(const struct test *t);
bool is_prepared(const struct test *t);		/* --prepare may have made the image, so that it need not read as zeroes */
bool bypasses_page_cache(const struct test *t);		/* as its user says */

/* ---- the handshake ---- */
void recv_greeting(struct test *t);		/* either style; fills t->s */
/* Where every session is over TLS that comes next, and a session that cannot have it is skipped. */
void send_client_flags(struct test *t, uint32_t flags);
void send_client_flags_alone(struct test *t, uint32_t flags);	/* without TLS behind them */
void open_newstyle(struct test *t);		/* to behind the greeting; skips where the server is oldstyle */
void open_haggling(struct test *t, uint32_t client_flags);	/* open_newstyle, and these client flags are sent */
/* To option haggling, with every client flag that the server offers; skips where it is not fixed newstyle. */
void open_fixed_newstyle(struct test *t);
void open_in_clear(struct test *t);		/* the same, also where every session is over TLS */

void send_option(struct test *t, uint32_t option, const void *data, size_t len);
void send_option_header(struct test *t, uint32_t option, uint32_t length);	/* .length bytes are owed */
void send_raw(struct test *t, const void *data, size_t len);
/* Data of NBD_OPT_INFO and NBD_OPT_GO; infos is a list of n be16 values. Appends to b. */
void put_go(struct buf *b, struct bytes name, const uint16_t *infos, size_t n);
void send_go(struct test *t, uint32_t option, struct bytes name, const uint16_t *infos, size_t n);

/*
 * One reply to the option that was sent last. Magic, echoed option, and the limits of error texts are checked against
 * their own requirements; where nothing comes, or the connection ends, the requirement `owed` is broken. The data
 * stays valid until the next recv_ on this connection.
 */
struct option_reply recv_option_reply(struct test *t, enum requirement_id owed);
/* All the replies up to the final one, which is returned. Those before it must have the type `each`. */
struct option_reply recv_final_reply(struct test *t, enum requirement_id owed, uint32_t each, unsigned *count);
bool is_error_reply(uint32_t type);

/* ---- TLS ---- */
struct target_tls *need_tls(struct test *t);	/* what we have to speak it with; skips where that is nothing */
bool speaks_tls(const struct test *t);		/* there is something, and nothing is skipped */
bool is_over_tls(const struct test *t);		/* every session is, by the user's wish, or by the next */
void go_over_tls_from_now(struct test *t, bool on);	/* sessions that are opened; for who has asked speaks_tls() */
/* NBD_OPT_STARTTLS, which must be acknowledged (`r`), and the handshake. Later steps take their bytes from TLS. */
void start_tls(struct test *t, enum requirement_id r);
/* The handshake alone, behind the ACK. False where it fails, or does not end; the transcript says why. */
bool tls_handshake_as(struct test *t, const struct tls_setup *setup);

/* Replies to INFO or GO, collected. Names and descriptions are owned by the struct and freed with the process. */
struct infos {
	uint32_t final;			/* type of the final reply */
	unsigned count;			/* NBD_REP_INFO replies */
	unsigned n_export, n_name, n_description, n_block_size, n_unknown;
	struct info_export export;
	struct info_block_size block;
	char *name, *description;	/* NUL-terminated copies */
	size_t name_length, description_length;
};
struct infos recv_infos(struct test *t, enum requirement_id owed);	/* checks each information's layout */

/* A list of exports, as NBD_OPT_LIST tells it. Fails where LIST breaks its requirements, skips where it is refused. */
struct listed {
	unsigned count;
	struct { char *name, *details; size_t name_length, details_length; } *exports;
};
struct listed list_exports(struct test *t);

struct bytes export_name(const struct test *t);		/* of the export under test: --export, or the URI's */
struct bytes unknown_export_name(void);			/* a name that no server has */

/* Whole handshakes, in whatever style the server offers; they end in transmission and fill t->s. */
void enter_transmission(struct test *t);
void enter_by_export_name(struct test *t);
void enter_by_go(struct test *t, const uint16_t *infos, size_t n);
/* From where this connection is, in haggling; false where GO is not known. Skips where the export is refused. */
bool enter_by_go_here(struct test *t, const uint16_t *list, size_t n);
/* The reply to EXPORT_NAME: .padding is what must follow under the flags that were agreed. */
void recv_export_name_reply(struct test *t, enum requirement_id owed);

/* ---- transmission ---- */
uint64_t new_cookie(struct test *t);
/*
 * data: length bytes for a WRITE, or NULL: the header alone is sent. With extended headers data have NBD_CMD_FLAG_PAYLOAD_LEN;
 * without them the length has 32 bits.
 */
void send_request(struct test *t, uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset, uint64_t length,
		  const void *data);
/* A simple reply to `cookie`, with `payload` bytes where its error is 0. Ownership as for option replies. */
struct simple_reply recv_simple_reply(struct test *t, uint64_t cookie, uint32_t payload, enum requirement_id owed);
/* The header alone, whatever its cookie is: for cases that have many requests in flight. */
struct simple_reply recv_simple_header(struct test *t, enum requirement_id owed);
struct bytes recv_payload(struct test *t, uint32_t length, enum requirement_id owed);
/* At most so many bytes: fewer where the connection ends, or where (then *silent is set) no more come. */
struct bytes recv_what_comes(struct test *t, uint32_t length, bool *silent);
/* One request and its reply; returns the error. */
uint32_t do_read(struct test *t, uint64_t offset, uint32_t length, void *data, enum requirement_id owed);
uint32_t do_write(struct test *t, uint16_t flags, uint64_t offset, uint32_t length, const void *data,
		  enum requirement_id owed);
uint32_t do_command(struct test *t, uint16_t flags, uint16_t type, uint64_t offset, uint64_t length,
		    enum requirement_id owed);
void must_read(struct test *t, uint64_t offset, uint32_t length, void *data, enum requirement_id r);	/* or broken */
void must_write(struct test *t, uint64_t offset, uint32_t length, const void *data, enum requirement_id r);
/* Bytes that differ at every offset and for every seed, so that misplaced data is seen. */
void fill_pattern(void *data, size_t len, uint64_t offset, unsigned seed);
/* Compares and reports the first difference with its offset in the export. */
void expect_data(struct test *t, enum requirement_id r, const void *got, const void *want, size_t len, uint64_t offset);
/* A length and alignment that the export allows: `bytes` rounded up to the minimum block size. */
uint32_t blocks(const struct test *t, uint32_t bytes);

/* ---- structured replies and metadata contexts ---- */

/* In haggling: NBD_OPT_STRUCTURED_REPLY; skips where the server does not know it. */
void negotiate_structured(struct test *t);
/*
 * NBD_OPT_LIST_META_CONTEXT or NBD_OPT_SET_META_CONTEXT for an export with n queries (NUL-terminated); the contexts that
 * came before the final reply. Checks each reply's layout; .final is the type of the last one.
 */
struct contexts {
	uint32_t final;
	unsigned count;
	struct { uint32_t id; char *name; size_t name_length; } *context;	/* a NUL stands behind each name */
};
struct contexts meta_contexts(struct test *t, uint32_t option, struct bytes name, const char *const *queries, size_t n,
			      enum requirement_id owed);
/* Appends the data of such an option. */
void put_meta_context(struct buf *b, struct bytes name, const char *const *queries, size_t n);
/* Fixed newstyle, structured replies, and the transmission phase by GO; with contexts selected where n > 0. */
void enter_structured(struct test *t);
struct contexts enter_with_contexts(struct test *t, const char *const *queries, size_t n);	/* skips where none is selected */

/* ---- extended headers ---- */

/* NBD_OPT_EXTENDED_HEADERS; skips where the server does not know it. */
void negotiate_extended(struct test *t);
/* Fixed newstyle, extended headers, and the transmission phase by GO; with contexts selected where n > 0. */
void enter_extended(struct test *t);
struct contexts enter_extended_with_contexts(struct test *t, const char *const *queries, size_t n);
/* Skips where a server does not offer them: asks on a connection of its own. */
void need_extended(struct test *t);
/*
 * A request with NBD_CMD_FLAG_PAYLOAD_LEN and this payload. The effect that the reply is judged by is that of `effect`, bytes.
 */
struct sent send_with_payload(struct test *t, uint16_t flags, uint16_t type, uint64_t offset, struct bytes payload,
			      uint64_t effect);

/* A request as it is on the way, for the judgement of its reply. */
struct sent {
	uint16_t type, flags;
	uint64_t cookie, offset, length;	/* .length: of its effect */
};
struct sent send_command(struct test *t, uint16_t flags, uint16_t type, uint64_t offset, uint64_t length,
			 const void *data);

struct status_chunk {
	uint32_t context_id;
	unsigned count;
	struct extent *extents;		/* calloc'd */
};

/*
 * A whole reply: a simple one or all the chunks of a structured one. recv_reply checks every rule of the text that a
 * single reply can break (magic, cookie, DONE, shape, bounds and overlap of chunks, what a command may be answered
 * with, error values), each against its own requirement, so that a case judges only what it asked for.
 */
enum covered { COVERED_NOT, COVERED_BY_DATA, COVERED_BY_HOLE };
struct reply {
	bool structured;
	uint32_t error;			/* of the first error chunk, or the simple reply; 0 is success */
	unsigned n_chunks, n_data, n_hole, n_status, n_error, n_error_offset, n_none, n_unknown;
	uint64_t error_offset;		/* of the first NBD_REPLY_TYPE_ERROR_OFFSET */
	uint8_t *data;			/* of a READ: length bytes, assembled; holes are zero */
	uint8_t *covered;		/* of a READ: an enum covered for each byte */
	bool ascending;			/* content chunks came in order of their offsets */
	struct status_chunk status[16];
};
struct reply recv_reply(struct test *t, const struct sent *q, enum requirement_id owed);
/* The replies to n requests in flight, in whatever order their messages come; r[i] is the one to q[i]. */
void recv_replies(struct test *t, const struct sent *q, struct reply *r, size_t n, enum requirement_id owed);
/* send_command and recv_reply. */
struct reply exchange(struct test *t, uint16_t flags, uint16_t type, uint64_t offset, uint64_t length, const void *data,
		 enum requirement_id owed);
/* One chunk, whatever its cookie, magic checked; its data as other recv_ data: for replies that come interleaved. */
struct chunk recv_chunk(struct test *t, enum requirement_id owed);

/*
 * A descriptor of the server's own end of this TCP connection, to be closed; skips where that cannot be had.
 */
int servers_socket(struct test *t);

/* ---- how it ends ---- */

/* The next valid message on this connection is understood and answered: an option in haggling, a READ in transmission. */
void expect_in_step(struct test *t, enum requirement_id r);
/* The peer ends the connection (orderly or by a reset), without a message before it. */
void expect_disconnect(struct test *t, enum requirement_id r);
/* Waits for what comes first: true and nothing taken where bytes come, false where the connection ended. */
bool peer_goes_on(struct test *t, enum requirement_id owed);
/* So many of the next bytes as are there, left where they are. */
size_t peek_bytes(struct test *t, void *data, size_t len);
uint32_t peek_magic(struct test *t);		/* its first 32 bits; 0 where there are none */
/*
 * Opens a connection beside the others. False where it is not served: closed at once, or left without a byte for two
 * seconds, as servers for one client at a time do. No text forbids that; of a target it is found out once.
 */
bool open_beside(struct test *t);
/*
 * Asks the server to end by SIGTERM, and returns when it has begun with it, or had the time to. The case opens no further
 * connection; the next one gets a new server. Skips where the server is not ours to end.
 */
void terminate_server(struct test *t);
bool server_refuses_clients(struct test *t);	/* after terminate_server: nobody listens any more */
/* A new client is served, as far as a READ or an INFO goes. Closes the current connection first. */
void expect_next_client_served(struct test *t, enum requirement_id r);

#endif
