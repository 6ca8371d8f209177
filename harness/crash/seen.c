#include "harness/crash/seen.h"

#include <stdlib.h>

bool
seen_start(struct seen *s, uint64_t most)
{
	*s = (struct seen){ .room = (size_t)(most + most / 2 + 16) };
	s->at = calloc(s->room, sizeof(*s->at));
	return s->at != NULL;
}

void
seen_free(struct seen *s)
{
	free(s->at);
	s->at = NULL;
}

bool
seen_put(struct seen *s, struct hash h)
{
	size_t at = (size_t)((unsigned __int128)h.low * s->room >> 64);

	h.high |= h.low == 0 && h.high == 0;
	for (; s->at[at].low != 0 || s->at[at].high != 0; at = at + 1 < s->room ? at + 1 : 0)
		if (s->at[at].low == h.low && s->at[at].high == h.high)
			return false;
	s->at[at] = h;
	s->n++;
	return true;
}
