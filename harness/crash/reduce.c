#include "harness/crash/reduce.h"

struct reducer {
	bool (*fails)(void *arg, const struct difference *d);
	void *arg;
};

/* Of n parts, only the i-th, or all but that. */
static struct difference
part_of(const struct difference *d, size_t i, size_t n, bool only)
{
	struct difference part = difference_copy(d);
	size_t low = d->n * i / n, high = d->n * (i + 1) / n;

	part.n = 0;
	for (size_t k = 0; k < d->n; k++)
		if ((k >= low && k < high) == only)
			part.lacks[part.n++] = d->lacks[k];
	return part;
}

/* The first of the parts that fails, if any, takes the place of the whole. */
static bool
take_part(const struct reducer *r, struct difference *d, size_t n, bool only)
{
	for (size_t i = 0; i < n; i++) {
		struct difference part = part_of(d, i, n, only);

		if (part.n < d->n && r->fails(r->arg, &part)) {
			difference_free(d);
			*d = part;
			return true;
		}
		difference_free(&part);
	}
	return false;
}

void
difference_reduce(struct difference *d, bool (*fails)(void *arg, const struct difference *d), void *arg)
{
	struct reducer r = { .fails = fails, .arg = arg };
	struct difference none = { .at = d->at };
	size_t parts = 2;

	if (d->n > 0 && fails(arg, &none)) {
		d->n = 0;
		return;
	}
	while (d->n > 1) {
		parts = parts < d->n ? parts : d->n;
		if (take_part(&r, d, parts, true))
			parts = 2;
		else if (parts > 2 && take_part(&r, d, parts, false))
			parts--;
		else if (parts == d->n)
			break;
		else
			parts *= 2;
	}
}
