#include "harness/crash/places.h"

#include "harness/file.h"
#include "harness/process.h"

#include <errno.h>
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

/* ---- tools ---- */

static char *
read_text(const char *path)
{
	char *text = calloc(1, OUTPUT_MOST + 1);
	FILE *f = fopen(path, "re");

	if (text == NULL)
		abort();
	if (f != NULL) {
		text[fread(text, 1, OUTPUT_MOST, f)] = '\0';
		fclose(f);
	}
	return text;
}

char *
place_ask(struct place *p, const char *tool, const char *package, const char *command)
{
	char *output = join_path(p->dir, "places"), *line, *text = NULL;
	int status;

	/* For who is not root, too. */
	if (asprintf(
		    &line,
		    "LC_ALL=C PATH=$PATH:/usr/sbin:/sbin; export LC_ALL PATH; command -v %s >/dev/null || exit 127; %s",
		    tool, command) < 0)
		abort();
	status = run_shell(line, output, p->dir, ASK_MS);
	if (status == -1)
		snprintf(p->why, sizeof(p->why), "%s: %s", tool, strerror(errno));
	else if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		snprintf(p->why, sizeof(p->why), "%s is not installed (Debian: %s)", tool, package);
	else
		text = read_text(output);
	unlink(output);
	free(line);
	free(output);
	return text;
}

/* ---- which image ---- */

static void
ask(struct place *p)
{
	const uint8_t *at = p->image->at;

	if (p->image->size < 4096)
		return;
	if (memcmp(at, "QFI\xfb", 4) == 0)
		place_in_qcow2(p);
	else if (memcmp(at, "XFSB", 4) == 0)
		place_in_xfs(p);
	else if (at[1080] == 0x53 && at[1081] == 0xef)
		place_in_ext4(p);
}

/* With all that was written by then. */
static void
ask_at(struct place *p, struct view *v, uint32_t at)
{
	struct difference all = { .at = at };

	if (!difference_show(&all, v, NULL))
		return;
	image_show(p->image, v);
	ask(p);
	image_restore(p->image);
}

static bool
find_range(struct place *p, const struct lack *l)
{
	const struct recorded_command *c = &p->image->space->recording->commands[l->low];

	p->offset = l->low != 0 ? c->offset : l->offset;
	p->length = l->low != 0 ? c->length : l->length;
	return p->offset < p->image->size && p->length > 0 && p->length <= p->image->size - p->offset;
}

/* What a later point of the recording knows of a place, that of the cut may not know yet. */
static char *
name_lack(const struct exploration *e, struct place *p, struct view *v, uint32_t at, const struct lack *l)
{
	uint32_t end = e->space->points[e->space->n_points - 1].at;
	char *name = NULL;
	bool late;

	if (!find_range(p, l))
		return NULL;
	ask_at(p, v, at);
	late = p->names.len == 0 && p->why[0] == '\0' && at != end;
	if (late)
		ask_at(p, v, end);
	if (p->names.len > 0 && asprintf(&name, "%s%.*s", late ? "at the end of the recording: " : "",
	                                 (int)p->names.len, (const char *)p->names.at) < 0)
		abort();
	return name;
}

static void
name_finding(const struct exploration *e, struct finding *f, struct image *i, struct view *v)
{
	f->which = calloc(f->difference.n + 1, sizeof(char *));
	if (f->which == NULL)
		abort();
	for (size_t k = 0; k < f->difference.n && k < LACKS_MOST; k++) {
		struct place p = { .image = i, .dir = e->options->setup.dir };

		f->which[k] = name_lack(e, &p, v, f->difference.at, &f->difference.lacks[k]);
		if (p.why[0] != '\0' && e->options->verbose)
			fprintf(stderr, "what lies at %llu is not told: %s\n", (unsigned long long)p.offset, p.why);
		buf_free(&p.names);
	}
}

void
name_places(struct exploration *e, struct view *v)
{
	char error[512];
	struct image *i = e->n_findings > 0 ? image_new(e->space, error) : NULL;

	if (i == NULL && e->n_findings > 0 && e->options->verbose)
		fprintf(stderr, "what lies where findings are is not told: %s\n", error);
	for (size_t k = 0; k < e->n_findings && i != NULL; k++)
		name_finding(e, &e->findings[k], i, v);
	image_free(i);
}
