#include "harness/section.h"

#include <stdlib.h>
#include <string.h>

static int
by_name(const void *a, const void *b)
{
	return strcmp(**(const char *const *const *)a, **(const char *const *const *)b);
}

const void *
section_sorted(struct section *s, size_t i)
{
	if (s->sorted == NULL) {
		s->n = (size_t)(s->stop - s->start);
		s->sorted = malloc((s->n + 1) * sizeof(*s->sorted));
		if (s->sorted == NULL)
			abort();
		memcpy(s->sorted, s->start, s->n * sizeof(*s->sorted));
		qsort(s->sorted, s->n, sizeof(*s->sorted), by_name);
	}
	return i < s->n ? s->sorted[i] : NULL;
}
