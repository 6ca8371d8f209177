/*
 * What is tested, how one instance of it is started, reached, watched and ended (design, section 2).
 *
 * A launched server gets a private directory; it is ready when it accepts, which the first case finds out by connecting
 * (that connection is the case's own, so that servers for one client at a time are served). It dies with us.
 */
#ifndef NBDSPEC_TARGET_H
#define NBDSPEC_TARGET_H

#include "harness/lower.h"
#include "harness/quiet.h"
#include "harness/requirement.h"
#include "harness/target_tls.h"
#include "harness/uri.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

enum via {
	VIA_URI,		/* it runs already */
	VIA_UNIX,		/* the command has {socket} */
	VIA_TCP,		/* the command has {port} */
	VIA_STDIO,		/* its standard input and output are the connection: one per server process */
	VIA_ACTIVATION,		/* systemd socket activation: LISTEN_FDS */
	VIA_FORK,		/* the fake server, in a process of our own */
	VIA_CLIENT,		/* no server: the command is a client, which each case runs against a server of its own */
};

/* What the command line says; it outlives every server that is started from it. */
struct target {
	enum via via;
	char **program;			/* with placeholders; not for VIA_URI and VIA_FORK */
	const char *prepare;		/* shell command, with placeholders, before every start; or NULL */
	struct nbd_uri uri;		/* for VIA_URI */
	const char *export_name;	/* "" is the default export */
	unsigned long long size;	/* of {file}, bytes */
	bool destructive;		/* --destructive */
	double factor;			/* on every time limit */
	void (*serve)(void *arg, int listen_fd, struct quiet *q);	/* for VIA_FORK: what the process does */
	void *arg;
	bool tcp;			/* for VIA_FORK: at port 10809 of a loopback address of its own, where that can be had */
	bool fresh;			/* a new server for every case */
	bool daemon;			/* the command ends once the server is in the background */
	bool cuts;			/* {file}, {dir} or {uri} stands for a fake disk whose power can be cut (lower.h) */
	const char *check;		/* shell command, with placeholders, after every power cut; or NULL */
	uint64_t seed;			/* of what durability cases do at random */
	const char *again;		/* the options and the command, quoted for a shell, that start the same server */
	const struct filesystem *fs;	/* that {dir} is on, where that is on the disk below; or NULL */
	const char *lower_flags;	/* transmission flags of the disk below, such as "SEND_FLUSH+SEND_FUA"; NULL: all */
	/*
	 * It lies, and this is what its lie breaks, up to REQUIREMENT_NONE; or NULL. A case has no more points once one of
	 * these is seen, or much else: who hangs in one point does in all.
	 */
	const enum requirement_id *breaks;
	bool driver;			/* for VIA_CLIENT: the command is a driver (driver.h) */
	int (*run_driver)(char *const *argv);	/* in place of the command: as driver_options.run; or NULL */
	bool pairwise;			/* for VIA_CLIENT: of what can be combined, pair by pair is enough (--pairwise) */
	bool direct;			/* it bypasses the page cache (--direct-io) */
	const struct exploration *explore;	/* what is asked of explorations (exploration.h); or NULL */
	unsigned shard;			/* and which part of it is this target's */
	const char *reload;		/* a signal's name, or a shell command with placeholders, that makes it reload; or NULL */
	bool crowd_given;
	unsigned crowd;			/* clients of the cases that bring a crowd, 0 for none, where it is given (--crowd) */
	struct target_tls *tls;		/* NULL: we speak none with it */
	bool waived;			/* the server is told not to keep what it promises (--durability-waived) */
};

struct server {
	const struct target *target;
	char *dir;			/* private; removed by server_stop */
	char *socket, *file;		/* paths in it, or NULL; for VIA_CLIENT .file is {in} */
	char *out, *uri;		/* for VIA_CLIENT, else NULL */
	char *certs, *psk;		/* {certs} and {psk}, in .dir; or NULL */
	unsigned port;
	struct sockaddr_storage address;	/* to connect to */
	socklen_t address_len;		/* 0 for VIA_STDIO */
	int stdio;			/* our end of the one connection, or -1 */
	pid_t pid;			/* 0: not running */
	struct lower *lower;		/* what its data is kept in, where the power can be cut; or NULL */
	pid_t guard;			/* cleans up should we be killed; 0 */
	int pidfd;			/* readable once it has ended; -1 */
	bool spawned;			/* its command was started, or could not be */
	bool starting;			/* nobody has connected yet */
	struct quiet *quiet;		/* for VIA_FORK */
	_Atomic bool *one_at_a_time;	/* for the others; shared with the cases, one of which found a second client unserved */
	bool terminated;		/* a case asked it to end: that it does is no fault */
	int64_t end_by;			/* CLOCK_MONOTONIC, ms: it was asked to end until then; 0: it was not */
};

/* May a case write to the export? (What we made ourselves, or --destructive.) */
bool target_may_write(const struct target *t);
bool target_names(const struct target *t, const char *placeholder);	/* the command does, or --prepare */
bool target_has_size(const struct target *t);	/* the size that it holds says something to the server */

/*
 * Starts an instance in *s (zeroed before its first use). On failure one line in error; what it printed can still be
 * asked for, until server_stop.
 */
bool server_start(struct server *s, const struct target *t, char error[512]);
bool server_running(const struct server *s);
/*
 * Its end in words, "killed by signal 11 (Segmentation fault)", once it has ended by itself; reaps it. NULL: it runs. A
 * command that ended well and left a process in the background has not ended: that process is the server from then on.
 */
char *server_ended(struct server *s, bool *by_fault);
/* How it has ended by a fault, malloc'd, or NULL; a child of ours, which stays to be waited for. */
char *server_fault(const struct server *s);
char *server_stderr(const struct server *s, unsigned lines);	/* malloc'd tail of what it printed; never NULL */
/*
 * For the case: SIGTERM, as an administrator sends it, and a moment for the server to begin with it: until it has ended
 * or closed `fd`, or a tenth of a second is over. False where it is no process of ours.
 */
bool server_terminate(const struct server *s, int fd);
/*
 * For the case, where target.reload: makes the server read its configuration anew, as an administrator does, and gives it a
 * moment for that: until it has closed `fd`, or a tenth of a second is over. False and one line in error.
 */
bool server_reload(const struct server *s, int fd, char error[512]);
/* For the case, of a server that was asked to end: false where its processes live on for so many milliseconds. */
bool server_ends(const struct server *s, int ms);
/*
 * For the case, where target.cuts: cuts the power of the disk below by a policy ("drop", "keep", "random 7"), ends the
 * server, and starts it anew over what is left. From then on the processes are the caller's. False and one line in
 * error; *failed_check: the server's image is not what target.check wants, which is no fault of the set-up.
 */
bool server_cut_power(struct server *s, const char *policy, bool *failed_check, char error[512]);
/*
 * For the case, of a server that a command has started: ends it at once, and starts the command again over the image as it
 * is. From then on the processes are the caller's. False and one line in error.
 */
bool server_restart(struct server *s, char error[512]);
/* For the case, VIA_CLIENT: starts the command in *s, with .uri and .socket for it. False and one line in error. */
bool client_spawn(struct server *s, char error[512]);
bool server_listens(const struct server *s);		/* a new client can connect; it leaves at once */
void server_ask(struct server *s);			/* to end: SIGTERM; the time that server_stop leaves it begins */
void server_stop(struct server *s);			/* with all its children; removes its directory */

/*
 * For the case: a connected descriptor, waiting as long as the server is only starting. -1 and one line in error;
 * *gone tells that the server has ended or refuses, be it launched or at a URI.
 */
int server_connect(const struct server *s, bool *gone, char error[512]);
/* The same at once, or within so many milliseconds. -1 and errno. */
int server_try_connect(const struct server *s, int ms);
/* Does it say anything to a new client? One line in error where not. */
bool server_greets(const struct server *s, char error[512]);

/* The placeholders that a command may have, for messages. */
#define TARGET_PLACEHOLDERS "{socket} {file} {size} {port} {export} {dir} {certs} {psk}"
#define TARGET_LOWER_PLACEHOLDERS "{uri}"
#define TARGET_CLIENT_PLACEHOLDERS "{uri} {socket} {export} {in} {out} {size} {dir} {certs} {psk}"
/* The line that says what is wrong with a command, or NULL. Chooses the via. */
const char *target_check_program(struct target *t, const char *via, bool bracket);
char *target_describe(const struct target *t);		/* malloc'd */
#endif
