#include "harness/crash/places.h"

#include "harness/file.h"
#include "harness/process.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NAMES_MOST = 3, LACKS_MOST = 8, ASK_MS = 10000, OUTPUT_MOST = 1 << 20 };

void
place_add(struct place *p, const char *fmt, ...)
{
	char name[512], among[516], *all;
	va_list ap;
	bool known;

	va_start(ap, fmt);
	vsnprintf(name, sizeof(name), fmt, ap);
	va_end(ap);
	snprintf(among, sizeof(among), ", %s,", name);
	if (asprintf(&all, ", %.*s,", (int)p->names.len, p->names.len > 0 ? (const char *)p->names.at : "") < 0)
		abort();
	known = strstr(all, among) != NULL;
	free(all);
	if (known || p->n_names > NAMES_MOST)
		return;
	if (p->n_names > 0)
		put_bytes(&p->names, bytes_of(", "));
	put_bytes(&p->names, bytes_of(p->n_names++ < NAMES_MOST ? name : "and more"));
}

bool
place_overlaps(const struct place *p, uint64_t offset, uint64_t length)
{
	return p->offset < offset + length && offset < p->offset + p->length;
}

/* ---- tools ---- */

static char *
read_text(const char *path)
{
	char *text = calloc(1, OUTPUT_MOST + 1);
	FILE *f = fopen(path, "re");

	if (text == NULL)
		abort();
	if (f != NULL) {
		size_t n = fread(text, 1, OUTPUT_MOST, f);
		bool cut = n == OUTPUT_MOST;

		/* Half a line may say something else. */
		while (cut && n > 0 && text[n - 1] != '\n')
			text[--n] = '\0';
		fclose(f);
	}
	return text;
}

char *
place_ask(struct place_disk *d, const char *tool, const char *package, const char *command)
{
	char *output = join_path(d->dir, "places"), *line, *text = NULL;
	int status;

	/* For who is not root, too. */
	if (asprintf(
		    &line,
		    "LC_ALL=C PATH=$PATH:/usr/sbin:/sbin; export LC_ALL PATH; command -v %s >/dev/null || exit 127; %s",
		    tool, command) < 0)
		abort();
	status = run_shell(line, output, d->dir, ASK_MS);
	if (status == -1)
		snprintf(d->why, sizeof(d->why), "%s: %s", tool, strerror(errno));
	else if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		snprintf(d->why, sizeof(d->why), "%s is not installed (Debian: %s)", tool, package);
	else
		text = read_text(output);
	unlink(output);
	free(line);
	free(output);
	return text;
}

/* ---- which image ---- */

static void
ask(struct place_disk *d)
{
	const uint8_t *at = d->image->at;

	if (d->image->size < 4096)
		return;
	if (memcmp(at, "QFI\xfb", 4) == 0)
		place_in_qcow2(d);
	else if (memcmp(at, "XFSB", 4) == 0)
		place_in_xfs(d);
	else if (at[1080] == 0x53 && at[1081] == 0xef)
		place_in_ext4(d);
	else if (d->image->size >= 2 * 65536 && memcmp(at + 65536 + 64, "_BHRfS_M", 8) == 0)
		place_in_btrfs(d);
}

/* ---- findings ---- */

/* What one lack wants to know, and of which moment of the recording. */
struct wanted {
	struct place place;
	char **which;
	uint32_t at;
	bool asked, late;
};

struct namer {
	struct exploration *e;
	struct image *image;
	struct view *view;
	struct wanted *wanted;
	size_t n;
	bool interrupted;
};

static bool
find_range(struct namer *x, const struct lack *l, struct place *p)
{
	const struct recorded_command *c = &x->image->space->recording->commands[l->low];

	p->offset = l->low != 0 ? c->offset : l->offset;
	p->length = l->low != 0 ? c->length : l->length;
	return p->offset < x->image->size && p->length > 0 && p->length <= x->image->size - p->offset;
}

static void
want_all(struct namer *x)
{
	x->wanted = calloc(x->e->n_findings * LACKS_MOST + 1, sizeof(*x->wanted));
	if (x->wanted == NULL)
		abort();
	for (size_t i = 0; i < x->e->n_findings; i++) {
		struct finding *f = &x->e->findings[i];

		f->which = calloc(f->difference.n + 1, sizeof(char *));
		if (f->which == NULL)
			abort();
		for (size_t k = 0; k < f->difference.n && k < LACKS_MOST; k++) {
			struct wanted *w = &x->wanted[x->n];

			*w = (struct wanted){ .which = &f->which[k], .at = f->difference.at };
			x->n += find_range(x, &f->difference.lacks[k], &w->place);
		}
	}
}

static void
ask_some(struct namer *x, struct wanted **some, size_t n)
{
	struct place *places[PLACES_MOST];
	struct place_disk d = { .image = x->image, .dir = x->e->options->setup.dir, .places = places, .n = n };

	for (size_t i = 0; i < n; i++)
		places[i] = &some[i]->place;
	if (!x->interrupted)
		ask(&d);
	x->interrupted = x->interrupted || process_wait(-1, 0) == PROCESS_INTERRUPTED;
	for (size_t i = 0; i < n; i++) {
		some[i]->asked = true;
		if (d.why[0] != '\0' && x->e->options->verbose && !x->interrupted)
			fprintf(stderr, "what lies at %" PRIu64 " is not told: %s\n", places[i]->offset, d.why);
		/* There is no use in asking again. */
		if (d.why[0] != '\0')
			some[i]->at = NEVER;
	}
}

/* All that want to know it of this moment, of the disk with all that was written by then. */
static void
ask_at(struct namer *x, uint32_t at)
{
	struct difference all = { .at = at };
	struct wanted *some[PLACES_MOST];
	size_t n = 0;

	if (x->interrupted || !difference_show(&all, x->view, NULL))
		return;
	image_show(x->image, x->view);
	for (size_t i = 0; i < x->n; i++) {
		if (x->wanted[i].at == at && !x->wanted[i].asked)
			some[n++] = &x->wanted[i];
		if (n == PLACES_MOST || (n > 0 && i + 1 == x->n)) {
			ask_some(x, some, n);
			n = 0;
		}
	}
	image_restore(x->image);
}

/* What a later point of the recording knows of a place, that of the cut may not know yet. */
static void
ask_all(struct namer *x)
{
	uint32_t end = x->e->space->points[x->e->space->n_points - 1].at;

	for (size_t i = 0; i < x->n; i++)
		if (!x->wanted[i].asked && x->wanted[i].at != end)
			ask_at(x, x->wanted[i].at);
	for (size_t i = 0; i < x->n; i++) {
		struct wanted *w = &x->wanted[i];

		if (!w->asked || w->at == NEVER || w->place.names.len > 0)
			continue;
		w->asked = false;
		w->late = true;
		w->at = end;
	}
	ask_at(x, end);
}

static void
tell_all(struct namer *x)
{
	for (size_t i = 0; i < x->n; i++) {
		struct wanted *w = &x->wanted[i];

		if (w->place.names.len > 0 &&
		    asprintf(w->which, "%s%.*s", w->late ? "at the end of the recording: " : "",
		             (int)w->place.names.len, (const char *)w->place.names.at) < 0)
			abort();
		buf_free(&w->place.names);
	}
	free(x->wanted);
}

void
name_places(struct exploration *e, struct view *v)
{
	struct namer x = { .e = e, .view = v };
	char error[512];

	if (e->n_findings == 0 || e->interrupted)
		return;
	x.image = image_new(e->space, error);
	if (x.image == NULL) {
		if (e->options->verbose)
			fprintf(stderr, "what lies where findings are is not told: %s\n", error);
		return;
	}
	want_all(&x);
	ask_all(&x);
	tell_all(&x);
	e->interrupted = x.interrupted;
	image_free(x.image);
}
