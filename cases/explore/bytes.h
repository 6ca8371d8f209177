/*
 * Mutated bytes (nbdspec server --mutate): well-formed sessions of our own, and those of a corpus, damaged at random by a
 * seed. bytes_stream.c takes streams apart and names them, bytes_corpus.c makes those that are whole, bytes_mutate.c damages
 * them, bytes_judge.c holds what comes against what was sent, bytes_run.c brings both to the server and looks whether
 * it still serves others, bytes_shrink.c makes a finding small, and bytes.c puts them together.
 */
#ifndef NBDSPEC_EXPLORE_BYTES_H
#define NBDSPEC_EXPLORE_BYTES_H

#include "cases/explore/product.h"
#include "harness/exploration.h"
#include "harness/link.h"

/* ---- streams ---- */

enum { MOST_STREAM = CORPUS_STREAM_MOST, MOST_WRITES = 32, MOST_TOKENS = 4096 };

/* How the connection ends: no more is sent, but all is read; it stays while another client comes; it is closed at once. */
enum manner { MANNER_SHUT, MANNER_STAY, MANNER_LEAVE, MANNERS };

/* What a client sends on one connection. */
struct input {
	struct buf bytes;
	enum manner manner;
	uint32_t cut[MOST_WRITES];	/* a write ends there; ascending */
	unsigned n_cuts;
	uint64_t run;			/* that it was, or 0 */
};
void input_free(struct input *i);
void input_copy(struct input *to, const struct input *from);

/* Connections one after the other. */
struct inputs {
	struct input *at;
	size_t n;
};
void inputs_free(struct inputs *s);
void inputs_add(struct inputs *s, const struct input *i);
void inputs_drop(struct inputs *s, size_t at, size_t n);

enum token_kind { TOKEN_FLAGS, TOKEN_OPTION, TOKEN_REQUEST, TOKEN_RAW };
/* A message as its magic and its length tell; what is none, up to the next magic, is raw. */
struct token {
	enum token_kind kind;
	size_t at, len;
	bool whole;			/* its header and its data are all there */
	bool headed;			/* its header is */
	struct option option;		/* as far as it goes */
	struct request request;
};
/* At most MOST_TOKENS; the last takes the rest. */
unsigned tokenize(struct bytes stream, struct token *tokens);
/* A request that changes contents may begin at any byte, for who is out of step: the next one from *at on. */
bool next_write_header(struct bytes stream, size_t *at, struct request *q);

/* "GO,READ+FUA; leave:GO,half(9)": what to call them; malloc'd. */
char *inputs_name(const struct inputs *s);
/* Do the messages of a, which is one connection, follow each other in the last of b, whatever stands between them? */
bool inputs_contain(const struct inputs *b, const struct inputs *a);
/* "leave:00000003 4948,4156; 00000001": the bytes in hex, ',' where a write ends; malloc'd. */
char *inputs_text(const struct inputs *s);
/* False and one line in error. */
bool inputs_parse(const char *text, struct inputs *s, char error[256]);

/* ---- what is known of the server ---- */

enum { WINDOWS = 3, KNOWN_FLAGS = NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES };
struct bytes_facts {
	uint16_t handshake_flags, flags;
	uint64_t size;
	uint32_t block;			/* what offsets and lengths of ours are multiples of */
	uint32_t maximum;		/* of a payload */
	struct bytes name;		/* of the export */
	bool by_go;			/* an honest client enters by NBD_OPT_GO, else by NBD_OPT_EXPORT_NAME */
	bool writes;			/* may we */
	uint64_t target;		/* the offset of the block that our sessions write to */
	struct span window[WINDOWS];	/* what is looked at, and written to only by mutations */
	unsigned n_windows;
};

/* ---- what is sent ---- */

/* The sessions that are built in; the i-th of them, appended to b. */
unsigned session_count(void);
void put_session(struct buf *b, const struct bytes_facts *f, unsigned i);

struct mutator {
	const struct bytes_facts *facts;
	struct buf *corpus;		/* built in, and those of the directory */
	unsigned n_corpus;
	uint64_t seed;
};
void mutator_start(struct mutator *m, const struct bytes_facts *f, const struct corpus *more, uint64_t seed);
/* Run k, from 1 on, is the same for ever: *to begins empty. The first n_corpus are the sessions as they are. */
void mutate(const struct mutator *m, uint64_t k, struct input *to);
/* Where we may not write, or the stream enters another export than that under test, WRITE, TRIM and so on become READ. */
void disarm(const struct bytes_facts *f, struct input *i);

/* ---- what comes ---- */

struct judgement {
	struct breaches breaches;	/* one at most */
	bool transmission;		/* it was entered */
	unsigned owed;			/* replies that still should come before the connection may end */
	uint64_t shape;			/* a sum over what kinds of replies came to what */
};
/*
 * As far as both streams can be followed. Contents are compared with the shadow, where that is known; NULL: they are not. With a link each
 * message that came is recorded.
 */
void judge(struct judgement *j, const struct bytes_facts *f, struct bytes sent, struct bytes came, const struct shadow *s,
	   struct link *l);

/* ---- runs ---- */

enum harm { HARM_NONE, HARM_REPLY, HARM_CONTENTS, HARM_ENDED, HARM_HANGS };
/* What was broken, and how: two are the same where all of it is. */
struct damage {
	enum harm harm;
	struct product_breach breach;
	char how[200];			/* it died */
};
bool same_damage(const struct damage *a, const struct damage *b);

struct runner_state {
	struct test *t;
	struct bytes_facts facts;
	struct link link, beside;
	struct shadow shadow;
	bool traced, alone;		/* alone: it serves one client at a time */
	bool dirty;			/* it has been harmed */
	bool gone;			/* it is, and is not ours to start anew, or lets nobody in any more */
	unsigned paint;			/* of what is written next */
	int patience_ms;		/* with an honest client; 0: as usual */
	unsigned lingering;		/* connections that it did not close when we had */
	size_t output_from;		/* of what it printed, this is new */
	uint64_t since_start;		/* runs */
	struct exploration_counts *counts;
	struct judgement last;
};
/* False where the server cannot be had. All windows are known afterwards, where they can be. */
bool start_anew(struct runner_state *r);
/* One connection. False: the server does not accept it (*accepted tells), or something is wrong with a reply. */
bool run_input(struct runner_state *r, const struct input *i, bool *accepted, struct damage *d);
/* An honest client beside or behind it is served, and finds what it should. */
bool check_honest(struct runner_state *r, struct link *l, struct damage *d);
/* What has become of the windows is no longer known well enough to find anything there. */
bool is_blind(const struct runner_state *r);

/* ---- findings ---- */

/* The fewest connections, messages and bytes that still do the same. False: it did not happen a second time. */
bool shrink(struct runner_state *r, struct inputs *s, const struct damage *d);
/* All of them, each on a connection of its own, and an honest client behind; where that can be had, on a server that nothing has harmed, or a new one. True where it is like that, or NULL. */
bool inputs_harm(struct runner_state *r, const struct inputs *s, const struct damage *like, bool anew, struct damage *d);

#endif
