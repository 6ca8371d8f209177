/* A directory of byte streams, each in a file of its own, as fuzzers keep them. */
#ifndef NBDSPEC_CORPUS_H
#define NBDSPEC_CORPUS_H

#include "harness/wire.h"

enum { CORPUS_STREAM_MOST = 1 << 16 };	/* bytes of one stream */

struct corpus {
	struct corpus_stream {
		char *name;		/* of the file */
		struct buf data;
	} *stream;			/* by name */
	size_t n;
};

/* False and one line in error. A file that is too long is one; an empty directory is none. */
bool corpus_load(struct corpus *c, const char *dir, char error[512]);
void corpus_free(struct corpus *c);
/* Puts a stream there, under a name that its bytes give it; one that is there stays. False and one line in error. */
bool corpus_add(const char *dir, struct bytes stream, char error[512]);

#endif
