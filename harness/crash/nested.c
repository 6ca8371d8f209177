#include "harness/crash/nested.h"

#include "harness/crash/ladder.h"
#include "harness/crash/reduce.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHECKS_MOST = 60 };

struct nested {
	struct second_disk disk;
	struct checker *checker;
	struct view *view;
	uint32_t must;
	const struct bytes *may;
	struct checked *result;
	unsigned checks; /* to make what it lacks less */
};

/* ---- what the checker wrote ---- */

bool
second_open(struct second_disk *d, const struct image *first, const struct recording *writes, struct tear tear,
            uint32_t extra, char error[512])
{
	*d = (struct second_disk){ .recording = *writes };
	d->recording.base = first->at;
	d->space = space_new(&d->recording, tear, false, extra);
	d->image = image_new(d->space, error);
	return d->image != NULL;
}

void
second_close(struct second_disk *d)
{
	image_free(d->image);
	space_free(d->space);
}

/* ---- a state's name ---- */

static void
name_second(const struct nested *n, const struct difference *d)
{
	char *state = difference_text(d);
	int length = snprintf(n->result->second, sizeof(n->result->second), "%s@%016" PRIx64, state,
	                      recording_identity(&n->disk.recording));

	/* Half of a name is none. */
	if (length >= (int)sizeof(n->result->second))
		n->result->second[0] = '\0';
	free(state);
}

bool
second_parse(const char *text, struct second *s)
{
	const char *at = strchr(text, '@');
	char *state;
	bool ok;

	*s = (struct second){ 0 };
	if (at == NULL || strlen(at + 1) != 16 || strspn(at + 1, "0123456789abcdef") != 16)
		return false;
	s->writes = strtoull(at + 1, NULL, 16);
	state = strndup(text, (size_t)(at - text));
	ok = state != NULL && difference_parse(state, &s->difference);
	free(state);
	return ok;
}

/* ---- states ---- */

static bool
fails(void *arg, const struct difference *d)
{
	struct nested *n = arg;
	struct checked again;

	if (n->checks++ >= CHECKS_MOST || !difference_show(d, n->view, NULL))
		return false;
	image_show(n->disk.image, n->view);
	checker_run(n->checker, n->must, n->may, &again);
	if (again.verdict == VERDICT_GOOD || again.verdict == VERDICT_BROKEN)
		return false;
	*n->result = again;
	return true;
}

static enum offered
check_second(void *arg, const struct view *v)
{
	struct nested *n = arg;
	struct checked again;
	struct difference d;

	image_show(n->disk.image, v);
	checker_run(n->checker, n->must, n->may, &again);
	if (again.verdict == VERDICT_GOOD)
		return STATE_NEW;
	d = difference_of(v);
	*n->result = again;
	name_second(n, &d);
	if (n->result->second[0] == '\0') {
		difference_reduce(&d, fails, n);
		name_second(n, &d);
	}
	difference_free(&d);
	return STATE_STOP;
}

static void
check_states(struct nested *n, uint64_t most)
{
	const struct space *s = n->disk.space;
	struct view *v = view_new(s);
	bool stopped = false;
	char output[sizeof(n->result->output)];

	n->view = view_new(s);
	for (uint32_t point = s->n_points; point-- > 0 && !stopped;) {
		view_go(v, point);
		stopped = ladder_climb(v, most / s->n_points + 1, 1, check_second, n).stopped;
	}
	if (stopped && n->result->verdict != VERDICT_BROKEN) {
		snprintf(output, sizeof(output), "after a second cut: %.230s", n->result->output);
		snprintf(n->result->output, sizeof(n->result->output), "%s", output);
	}
	view_free(n->view);
	view_free(v);
}

void
nested_check(const struct checker_setup *setup, const struct image *first, const struct recording *writes,
             uint32_t must, const struct bytes *may, struct checked *result)
{
	struct nested n = { .must = must, .may = may, .result = result };
	struct checker_setup again = *setup;
	bool wrote = result->wrote;
	char error[512];

	again.nested = 0;
	if (second_open(&n.disk, first, writes, setup->tear, NEVER, error))
		n.checker = checker_new(&again, n.disk.image, error);
	if (n.checker != NULL) {
		check_states(&n, setup->nested);
		result->wrote = wrote;
	} else {
		result->verdict = VERDICT_BROKEN;
		snprintf(result->output, sizeof(result->output), "%.250s", error);
	}
	checker_free(n.checker);
	second_close(&n.disk);
}
