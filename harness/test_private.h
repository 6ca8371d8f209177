/* What the steps share and no case sees. */
#ifndef NBDSPEC_TEST_PRIVATE_H
#define NBDSPEC_TEST_PRIVATE_H

#include "harness/target.h"
#include "harness/test.h"
#include "harness/trace.h"

#include <sys/types.h>

/* From the case's process to the runner, over a pipe: this header and then the strings, without NULs. */
enum report_type {
	REPORT_RESULT,
	REPORT_DONE,		/* the case has ended by itself */
	REPORT_BROKEN,		/* VERDICT_ERROR for the case, and the run ends: message */
	REPORT_SERVED,		/* the server has greeted: it is no longer starting */
	REPORT_TERMINATED,	/* the case is about to ask the server to end */
	REPORT_CUT,		/* it is about to end it by a power cut, and to start one of its own */
	REPORT_ENDED,		/* that one has ended by a fault: message */
	REPORT_CHANGED,		/* it is about to change the server, and the next case gets another one */
	REPORT_UNTIMED,		/* from here on the case may take as long as it does */
};
enum report_string {
	REPORT_POINT,
	REPORT_MESSAGE,
	REPORT_EXPECTED,
	REPORT_GOT,
	REPORT_FEATURE,
	REPORT_AGAIN,
	REPORT_STRINGS
};
struct report_header {
	uint32_t type;
	uint32_t verdict;
	uint32_t requirement, also[ALSO_MOST];
	uint32_t gone;			/* the verdict is for a connection that was refused or a server that has ended */
	uint64_t duration_us;
	int64_t trace_from, trace_to;	/* offsets of the records that belong to it */
	uint32_t length[REPORT_STRINGS];
};

/* A closed connection is seen a moment before the process that held it can be waited for. */
enum { CLOSED_MS = 60, FAILS_ENOUGH = 3 };

/* The verdict so far of the case or of the point that is open. */
struct outcome {
	enum verdict verdict;
	enum requirement_id requirement;
	char *message, *expected, *got, *feature, *again;
	bool gone;
	enum requirement_id also[ALSO_MOST];
};

struct test_private {
	const struct server *server;
	struct trace trace;
	int report_fd;
	double factor;
	struct server cut;		/* after a power cut: .server points to it, and its processes are ours */
	pid_t ended;			/* the one of them whose end the runner knows */
	unsigned n_connections;
	struct session *sessions;
	struct outcome outcome;
	char *point;			/* NULL outside points */
	enum requirement_id blame;	/* what a probe stands for: whatever goes wrong in it breaks this */
	bool in_point;
	bool over_tls; /* sessions are from here on, though not by the user's wish */
	unsigned fails;			/* of a peer that lies, so far: FAILS_ENOUGH end the points */
	unsigned points;
	uint64_t started_us;
	off_t trace_from;
	sigjmp_buf top, jump;
};

/* Runs one case in this process and exits. */
_Noreturn void run_case(const struct case_def *def, const struct server *server, int trace_fd, int report_fd);

/* Of a connection; those after it count up. */
#define FIRST_COOKIE UINT64_C(0x4e42440000000001)

/* A server that says nothing for so long has hung; --time-factor scales it. */
enum { WAIT_MS = 10000 };

/* How a wait on a connection ended. */
enum outcome_of_wait { WAIT_OK, WAIT_CLOSED, WAIT_RESET, WAIT_TIMED_OUT };
const char *wait_text(enum outcome_of_wait w);

/* Raw input and output of the current connection. */
enum outcome_of_wait session_recv(struct test *t, void *data, size_t len, size_t *got);
void session_send(struct test *t, enum message_kind kind, uint64_t cookie, struct bytes head, struct bytes data);
/* From here on the connection is TLS. TLS_WANTS_…: the peer was waited for in vain. */
enum tls_progress session_handshake(struct test *t, const struct tls_setup *setup);
/* Takes `len` bytes or ends the case: `owed` is broken. What came is recorded as `kind` together with what is in .in. */
uint8_t *recv_or_broken(struct test *t, size_t len, enum requirement_id owed, const char *what);
/* The same: `closed` is broken where the connection ends, `silent` where nothing comes. */
uint8_t *recv_or_broken_by(struct test *t, size_t len, enum requirement_id closed, enum requirement_id silent,
			   const char *what);
void trace_received(struct test *t, enum message_kind kind, uint64_t cookie, struct bytes data);
void trace_wait(struct test *t, enum outcome_of_wait w);
enum verdict verdict_of(enum requirement_id r);	/* on what breaks it */
/* From haggling into transmission, by a GO that asks for the block sizes; after contexts were selected, which `owed` answers. */
void enter_by_sized_go(struct test *t);
struct contexts select_and_enter(struct test *t, const char *const *queries, size_t n, enum requirement_id owed);
void check_error_value(struct test *t, uint32_t error);
void report_served(struct test *t);
void report_terminated(struct test *t);
void report_cut(struct test *t);
void report_ended(struct test *t);
void report_changed(struct test *t);
void report_untimed(struct test *t);
void close_sessions(struct test *t);
_Noreturn void end_case(struct test *t);

#endif
