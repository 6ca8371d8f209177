/*
 * A driver: a program that performs operations of an NBD client library for us, and reports what the client's own API
 * said. docs/driver-protocol.md is what passes between us.
 *
 * A struct driver lies in memory that is shared with children forked later, so that a case in a process of its own may
 * use what the harness started; one process at a time. After a child that was killed, or left requests unanswered,
 * nobody can tell what is on its way: driver_stop, and start another.
 */
#ifndef NBDSPEC_DRIVER_H
#define NBDSPEC_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	DRIVER_LINE_MOST = 1 << 20, /* bytes of a line, its end included */
	DRIVER_DEPTH_MOST = 4096,   /* what a greeting says beyond it counts as this */
	DRIVER_HANDLES_MOST = 4096,
	DRIVER_LIMIT_MS = 5000, /* for an answer, times the factor */
};

struct driver;

struct driver_options {
	double factor; /* on every time limit */
	/*
	 * How to wait until `fd` is readable, and no longer than `ms` milliseconds; an in-process server is served
	 * meanwhile. False: do not go on. NULL: poll.
	 */
	bool (*wait)(void *arg, int fd, int ms);
	void *arg;
	/* Private and guarded (process.h), for its output and as the mark of its processes. NULL: the driver has its own. */
	const char *dir;
	/* In place of a program: a process of ours that runs this function, and ends with the status that it returns. */
	int (*run)(char *const *argv);
};

/* Starts it, looked up in PATH. NULL and one line where it cannot be executed. It ends when we do, whatever ends us. */
struct driver *driver_start(char *const *argv, const struct driver_options *options, char error[512]);
/* Takes the greeting, before anything else. False: driver_error. */
bool driver_greet(struct driver *d);
/* Ends it with all that it started, and whatever became of it. */
void driver_stop(struct driver *d);
/* End of input: true when it ends by itself, with status 0, within the limit. False: driver_error. */
bool driver_end(struct driver *d);

/* What the greeting says. Strings live as long as the driver. */
const char *driver_name(const struct driver *d);    /* of the client, printable */
const char *driver_version(const struct driver *d); /* of the client, printable */
unsigned driver_depth(const struct driver *d);      /* requests in flight at once */
unsigned driver_handles(const struct driver *d);    /* connected at once */
/* Has it the operation and, where `flag` is not NULL, this flag of it? ("write", "fua"), ("set", "strict"). */
bool driver_has(const struct driver *d, const char *operation, const char *flag);

enum driver_result { DRIVER_OK, DRIVER_ERROR, DRIVER_UNSUPPORTED };
struct driver_answer {
	unsigned tag;
	enum driver_result result;
	/* OK: the words behind it. ERROR: the name, and what the driver has to say on it. Not printable; until the next call. */
	const char *text;
};

/*
 * Queues a request, which is a line without tag, handle and end, and sends what the driver's depth lets through. Its tag;
 * 0: driver_error.
 */
unsigned driver_send(struct driver *d, unsigned handle, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
enum driver_took { DRIVER_TOOK, DRIVER_NOTHING, DRIVER_BROKEN };
/*
 * The next answer, in whatever order they come; waits at most `ms` milliseconds, 0 not at all. With -1 it is the limit that
 * it waits, and a driver that does not answer within it is broken. DRIVER_BROKEN: driver_error, for ever.
 */
enum driver_took driver_take(struct driver *d, struct driver_answer *a, int ms);
/* A request and its answer, when nothing else is in flight. False: driver_error. */
bool driver_ask(struct driver *d, struct driver_answer *a, unsigned handle, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

unsigned driver_in_flight(const struct driver *d);
/* Readable when driver_take has something to do: for somebody's loop. */
int driver_fd(const struct driver *d);
/* One line: what it did, and what would have been right. "" as long as nothing is wrong with it. */
const char *driver_error(const struct driver *d);
char *driver_log(const struct driver *d, unsigned lines); /* malloc'd tail of what it printed on stderr */

/* ---- driver_words.c: what both sides compute ---- */

/* The bytes of a PATTERN, as a disk holds them from this offset on. */
void driver_pattern(unsigned pattern, uint64_t offset, size_t length, uint8_t *data);
uint32_t driver_digest(const uint8_t *data, size_t length); /* CRC-32 */
char *driver_escape(const char *text);			     /* a word of a line; malloc'd */
/* The value of the word KEY=… in an answer, its escapes undone; malloc'd, or NULL. */
char *driver_value(const char *text, const char *key);

#endif
