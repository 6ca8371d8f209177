/* What the cases on the handshake share. */
#ifndef NBDSPEC_CASES_HAGGLE_H
#define NBDSPEC_CASES_HAGGLE_H

#include "cases/client/script.h"

/* The replies that refuse an option; the last ones are not defined. */
enum { N_REFUSALS = 11 };
struct refusal {
	const char *name;
	uint32_t type;
};
extern const struct refusal refusals[N_REFUSALS];

/*
 * `connect` on handle 1. False: the client reports an error. Else a read must deliver what the disk holds, or r is
 * broken, and the client disconnects.
 */
bool session_works(struct drive *d, enum requirement_id r);
void session_must_work(struct drive *d, enum requirement_id r);
/* For what must follow connect: likewise, on a handle that is connected. */
void connected_must_work(struct drive *d, enum requirement_id r);

/* All connections have ended, or do within the time that an answer may take. */
bool all_ended(struct drive *d);
/* Before drive_finish, where the client may be about to leave: that it does can be seen, if it does it at once. */
void let_leave(struct drive *d);
/* Calls `see` for every option since drive_serve, until it returns true; then it does. */
bool some_option(struct drive *d, bool (*see)(void *arg, const struct option *o), void *arg);

/* The nth (from 0) value of KEY=… in the words behind "ok", escapes undone, malloc'd; NULL where there are fewer. */
char *nth_value(const char *text, const char *key, unsigned n);
bool says(const char *text, const char *key, const char *value);
/* The status of the first extent that an answer to block_status tells of a context; -1: it tells none. */
int64_t first_status(const char *text, const char *context);

#endif
