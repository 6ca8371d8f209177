/* Replies to a READ of four blocks, or to some in flight together, chunk by chunk: what may be said, and all of it. */
#ifndef NBDSPEC_EXPLORE_CHUNKS_H
#define NBDSPEC_EXPLORE_CHUNKS_H

#include "cases/explore/player.h"

enum { CHUNK_BLOCKS = 4, CHUNK_READERS = 3 };
enum { BY_CHUNKS, BY_SIMPLE };			/* ways */
enum chunk_kind { CHUNK_DATA, CHUNK_HOLE, CHUNK_NONE, CHUNK_ERROR, CHUNK_ERROR_AT, REPLY_OK, REPLY_FAILS, CLOSE, CHUNK_KINDS };

/* A step of a play: a chunk, or a simple reply. */
struct chunk_step {
	uint8_t reader;			/* to which of the READs */
	uint8_t kind;
	uint8_t from, to;		/* blocks, both of them included; of an error that has an offset: .from */
	bool done;			/* NBD_REPLY_FLAG_DONE */
};
uint16_t chunk_step_pack(struct chunk_step s);
struct chunk_step chunk_step_of(uint16_t step);
void chunk_step_put(FILE *f, uint16_t step);
bool chunk_step_parse(const char *word, size_t len, uint16_t *step);

bool is_content(struct chunk_step s);
bool is_failure(struct chunk_step s);
unsigned chunk_readers(const struct play *p);
bool chunks_lawful(const struct play *p);
bool chunks_overrun(const struct play *p);	/* some come behind the end of their reply */
bool chunks_interleaved(const struct play *p);	/* of several readers */

bool names_chunks(const char *sequence);	/* of --explore-sequence: it is none of replies to options */

/* For struct stage. */
bool chunks_contain(const struct play *whole, const struct play *part, bool roughly);
bool chunks_without(const struct play *p, unsigned step, struct play *less);
bool chunks_plainer(const struct play *p, unsigned nth, struct play *plainer);

/* Calls `take` for every play, the shortest of each kind first. */
void chunks_all(bool several_readers, void (*take)(const struct play *p));

#endif
