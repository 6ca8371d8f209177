/* nbdspec diff: what changed between two runs, or between the runs of two directories. */
#include "harness/cli.h"
#include "harness/printable.h"
#include "harness/saved.h"
#include "reports/changes.h"
#include "reports/json.h"
#include "reports/markup.h"
#include "reports/whole.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPT_EXIT = 1, OPT_QUIET, OPT_MARKDOWN, OPT_JSON, ONLY_SHOWN = 10, INDENT = 7 };

static const struct cli_option options[] = {
	{ "exit-code", 0, NULL, "status 1 for every change, and not only for what got worse", OPT_EXIT, false },
	{ "quiet", 'q', NULL, "nothing on standard output", OPT_QUIET, false },
	{ "markdown", 0, "FILE", "write it for a pull request (FILE - is standard output)", OPT_MARKDOWN, false },
	{ "json", 0, "FILE", "write it as JSON: 'diff' in docs/json-schema.json", OPT_JSON, false },
	{ 0 },
};

/* One run, before and after; NULL where a directory does not have it. */
struct pair {
	char *name; /* of the file */
	char *paths[2];
	json_t *runs[2];
	struct changes c; /* where both are there */
};

struct diff {
	struct cli *cli;
	bool exit_code, quiet;
	const char *markdown, *json;
	struct pair *pairs;
	size_t n;
};

/* ---- reading ---- */

static struct pair *
pair_named(struct diff *d, const char *name)
{
	for (size_t i = 0; i < d->n; i++)
		if (strcmp(d->pairs[i].name, name) == 0)
			return &d->pairs[i];
	d->pairs = reallocarray(d->pairs, d->n + 1, sizeof(*d->pairs));
	if (d->pairs == NULL)
		abort();
	d->pairs[d->n] = (struct pair){ .name = strdup(name) };
	return &d->pairs[d->n++];
}

static bool
is_directory(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int
is_json(const struct dirent *entry)
{
	size_t n = strlen(entry->d_name);

	return n > 5 && strcmp(entry->d_name + n - 5, ".json") == 0 && entry->d_name[0] != '.';
}

static int
compare(struct diff *d, struct pair *p)
{
	const char *suites[] = { saved_text(p->runs[0], "suite"), saved_text(p->runs[1], "suite") };

	if (strcmp(suites[0], suites[1]) != 0)
		return cli_usage_error(d->cli,
		                       "%s is a run of 'nbdspec %s', %s of 'nbdspec %s': they have no case in common",
		                       p->paths[0], suites[0], p->paths[1], suites[1]);
	p->c = changes_between(p->runs[0], p->runs[1]);
	/* Of a hundred runs the rest would be much. */
	for (int side = 0; side < 2; side++)
		json_array_clear(json_object_get(p->runs[side], "results"));
	return 0;
}

/* Where `other` is not NULL, JSON of another kind is passed over. */
static int
take_file(struct diff *d, int side, const char *name, const char *path, bool *other)
{
	char error[512];
	json_t *run = saved_read(path, other, error);
	struct pair *p;

	if (run == NULL)
		return other != NULL && *other ? 0 : cli_broken(d->cli, "%s", error);
	p = pair_named(d, name);
	p->paths[side] = strdup(path);
	p->runs[side] = run;
	return p->runs[0] != NULL && p->runs[1] != NULL ? compare(d, p) : 0;
}

/* Its reports; other JSON may lie beside them. */
static int
take_directory(struct diff *d, int side, const char *dir)
{
	struct dirent **entries;
	int n = scandir(dir, &entries, is_json, alphasort), status = 0, found = 0;

	if (n < 0)
		return cli_broken(d->cli, "%s: %s", dir, strerror(errno));
	for (int i = 0; i < n; i++) {
		autofree char *path = NULL;
		bool other = true;

		if (asprintf(&path, "%s/%s", dir, entries[i]->d_name) < 0)
			abort();
		if (status == 0) {
			status = take_file(d, side, entries[i]->d_name, path, &other);
			found += !other;
		}
		free(entries[i]);
	}
	free(entries);
	return status == 0 && found == 0 ? cli_broken(d->cli, "%s: there is no report of 'nbdspec … --json' in it", dir)
	                                 : status;
}

static int
read_all(struct diff *d)
{
	char **args = d->cli->args;
	bool directories = is_directory(args[0]);
	int status = 0;

	for (int side = 0; side < 2; side++)
		if (access(args[side], F_OK) != 0)
			return cli_broken(d->cli, "%s: %s", args[side], strerror(errno));
	if (directories != is_directory(args[1]))
		return cli_usage_error(d->cli, "want two reports or two directories of them, not one of each");
	for (int side = 0; side < 2 && status == 0; side++)
		status = directories ? take_directory(d, side, args[side]) : take_file(d, side, "", args[side], NULL);
	return status;
}

/* ---- text ---- */

/* "qemu-nbd, 7.2 (nbdspec 0.1, 870 cases; a.json)" */
static void
put_run(FILE *f, const char *label, const json_t *run, const char *path)
{
	const json_t *shard = json_object_get(run, "shard");

	fprintf(f, "%-7s%s (nbdspec %s, ", label, saved_text(run, "target"), saved_text(run, "nbdspec"));
	if (json_is_object(shard))
		fprintf(f, "shard %lld/%lld, ", (long long)saved_number(shard, "number"),
		        (long long)saved_number(shard, "of"));
	fprintf(f, "%lld cases; %s)\n", (long long)saved_number(run, "cases"), path);
}

static void
put_change(FILE *f, const struct change *change, size_t n)
{
	const json_t *r = change_result(change);
	autofree char *id = saved_id(r), *words = change_words(change), *why = whole_why(r), *place = whole_place(r);
	const char *excuse = change->after != NULL ? whole_excuse(r) : NULL;

	fprintf(f, "  %-*s%s", INDENT, change->after != NULL ? saved_text(r, "verdict") : "gone", id);
	if (n > 1)
		fprintf(f, " and %zu more point%s", n - 1, n > 2 ? "s" : "");
	fprintf(f, "  %s%s%s\n", words, excuse ? ", " : "", excuse ? excuse : "");
	if (change->after == NULL || change->kind > CHANGE_OTHER)
		return;
	if (*why)
		fprintf(f, "  %*s%s\n", INDENT, "", why);
	if (saved_verdict(r) >= VERDICT_WARN && *place)
		fprintf(f, "  %*s%s, %s: %s\n", INDENT, "", place, saved_text(r, "requirement"), saved_text(r, "text"));
}

static void
put_kind(FILE *f, const struct changes *c, size_t i)
{
	enum change_kind kind = c->list[i].kind;
	size_t end = i + c->count[kind], n;

	fprintf(f, "\n%s: %zu\n", change_heading(kind), c->count[kind]);
	for (size_t lines = 0; i < end; i += n, lines++) {
		n = changes_alike(c, i);
		if (kind >= CHANGE_ONLY_BEFORE && lines == ONLY_SHOWN) {
			fprintf(f, "  … and %zu more; --json has all of them\n", end - i);
			break;
		}
		put_change(f, &c->list[i], n);
	}
}

static void
put_sums(FILE *f, const struct changes *c)
{
	static const char *const words[N_CHANGES] = { "worse",       "worse but excused", "mended", "changed otherwise",
		                                      "only before", "only after" };

	putc('\n', f);
	for (int kind = 0; kind < N_CHANGES; kind++)
		if (c->count[kind] > 0)
			fprintf(f, "%zu %s, ", c->count[kind], words[kind]);
	fprintf(f, "%zu as before\n", c->same);
}

static void
put_text(FILE *f, const struct pair *p)
{
	if (p->name[0] != '\0')
		fprintf(f, "==== %s\n", p->name);
	if (p->runs[0] == NULL || p->runs[1] == NULL) {
		const char *side = p->runs[0] != NULL ? "before" : "after";

		fprintf(f, "only %s: %s\n", side, p->paths[p->runs[0] == NULL]);
		return;
	}
	put_run(f, "before", p->runs[0], p->paths[0]);
	put_run(f, "after", p->runs[1], p->paths[1]);
	for (int side = 0; side < 2; side++)
		if (p->c.broken[side] != NULL)
			fprintf(f, "\nThe run %s ended early: %s\n", side == 0 ? "before" : "after", p->c.broken[side]);
	for (size_t i = 0; i < p->c.n; i += p->c.count[p->c.list[i].kind])
		put_kind(f, &p->c, i);
	put_sums(f, &p->c);
}

static void
put_all_text(FILE *f, const struct diff *d)
{
	for (size_t i = 0; i < d->n; i++) {
		fputs(i > 0 ? "\n" : "", f);
		put_text(f, &d->pairs[i]);
	}
}

/* ---- Markdown ---- */

static void
put_side(FILE *f, const char *label, const struct pair *p, int side)
{
	fprintf(f, "- %s: ", label);
	if (p->runs[side] == NULL) {
		fputs("not there\n", f);
		return;
	}
	markup_code(f, saved_text(p->runs[side], "target"));
	fprintf(f, ", nbdspec %s, ", saved_text(p->runs[side], "nbdspec"));
	markup_code(f, p->paths[side]);
	autofree char *counts = whole_counts(p->runs[side]);
	fprintf(f, ": %s\n", counts);
}

static void
put_markdown(FILE *out, const struct diff *d)
{
	struct markup m = { 0 };
	size_t left_out = 0;

	fputs("## nbdspec: what changed\n", part_begin(&m));
	(void)part_end(&m, 0);
	for (size_t i = 0; i < d->n; i++) {
		const struct pair *p = &d->pairs[i];
		FILE *f = part_begin(&m);

		fputs("\n", f);
		if (p->name[0] != '\0') {
			fputs("### ", f);
			markup_code(f, p->name);
			fputs("\n\n", f);
		}
		put_side(f, "before", p, 0);
		put_side(f, "after", p, 1);
		if (!part_end(&m, 400) || (p->runs[0] != NULL && p->runs[1] != NULL && !markup_changes(&m, &p->c, 400)))
			left_out++;
	}
	if (left_out > 0) {
		fputs("\n**Not all had room here** (a comment on GitHub has at most 65536 characters): `nbdspec diff "
		      "--json` has all of it.\n",
		      part_begin(&m));
		(void)part_end(&m, 0);
	}
	markup_finish(&m, out);
}

/* ---- JSON ---- */

static json_t *
side_object(const struct pair *p, int side)
{
	static const char *const kept[] = { "nbdspec", "target", "suite", "started", "cases", "shard", "summary" };
	json_t *object = json_object(), *value;
	autofree char *path = printable_string(p->paths[side]);

	if (p->runs[side] == NULL) {
		json_decref(object);
		return json_null();
	}
	json_object_set_new(object, "file", json_string(path));
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
		value = json_object_get(p->runs[side], kept[i]);
		json_object_set(object, kept[i], value != NULL ? value : json_null());
	}
	return object;
}

static json_t *
result_or_null(const json_t *result)
{
	return result != NULL ? json_incref((json_t *)(uintptr_t)result) : json_null();
}

static json_t *
changes_object(const struct changes *c)
{
	json_t *list = json_array();

	for (size_t i = 0; i < c->n; i++)
		json_array_append_new(list, json_pack("{ss so so}", "kind", change_name(c->list[i].kind), "before",
		                                      result_or_null(c->list[i].before), "after",
		                                      result_or_null(c->list[i].after)));
	return list;
}

static json_t *
counts_object(const struct changes *c)
{
	json_t *counts = json_object();

	for (int kind = 0; kind < N_CHANGES; kind++)
		json_object_set_new(counts, change_name((enum change_kind)kind),
		                    json_integer((json_int_t)c->count[kind]));
	json_object_set_new(counts, "same", json_integer((json_int_t)c->same));
	return counts;
}

static void
put_json(FILE *f, const struct diff *d)
{
	json_t *runs = json_array();

	for (size_t i = 0; i < d->n; i++) {
		const struct pair *p = &d->pairs[i];
		autofree char *name = printable_string(p->name);

		json_array_append_new(runs,
		                      json_pack("{so so so so so sb}", "name", *name ? json_string(name) : json_null(),
		                                "before", side_object(p, 0), "after", side_object(p, 1), "counts",
		                                counts_object(&p->c), "changes", changes_object(&p->c), "ended_early",
		                                (int)p->c.ended_early));
	}
	json_put(f, json_pack("{si ss so}", "format", JSON_FORMAT, "nbdspec", NBDSPEC_VERSION, "diff", runs),
	         JSON_INDENT(1));
	putc('\n', f);
}

/* ---- the command ---- */

static int
write_to(const struct diff *d, const char *path, void (*put)(FILE *f, const struct diff *d))
{
	FILE *f = strcmp(path, "-") == 0 ? stdout : cli_create(d->cli, path);

	if (f == NULL)
		return STATUS_BROKEN;
	put(f, d);
	return cli_close(d->cli, f, path, "report") ? STATUS_OK : STATUS_BROKEN;
}

static int
status_of(const struct diff *d)
{
	bool worse = false, changed = false;

	for (size_t i = 0; i < d->n; i++) {
		const struct pair *p = &d->pairs[i];

		worse |= changes_worse(&p->c);
		changed |= p->c.n > 0 || p->runs[0] == NULL || p->runs[1] == NULL;
	}
	return worse || (d->exit_code && changed) ? STATUS_FAILED : STATUS_OK;
}

static int
write_all(const struct diff *d)
{
	bool taken = (d->markdown != NULL && strcmp(d->markdown, "-") == 0) ||
	             (d->json != NULL && strcmp(d->json, "-") == 0);
	int status = status_of(d);

	if (!d->quiet && !taken)
		put_all_text(stdout, d);
	if (d->markdown != NULL && write_to(d, d->markdown, put_markdown) != STATUS_OK)
		status = STATUS_BROKEN;
	if (d->json != NULL && write_to(d, d->json, put_json) != STATUS_OK)
		status = STATUS_BROKEN;
	return status;
}

static int
take_options(struct diff *d)
{
	struct cli *cli = d->cli;

	for (size_t i = 0; i < cli->n_given; i++) {
		const struct cli_given *g = &cli->given[i];

		d->exit_code |= g->id == OPT_EXIT;
		d->quiet |= g->id == OPT_QUIET;
		if (g->id == OPT_MARKDOWN || g->id == OPT_JSON)
			*(g->id == OPT_MARKDOWN ? &d->markdown : &d->json) = g->value;
	}
	if ((d->markdown != NULL && *d->markdown == '\0') || (d->json != NULL && *d->json == '\0'))
		return cli_usage_error(cli, "--%s '': want FILE, not an empty text",
		                       d->json != NULL && *d->json == '\0' ? "json" : "markdown");
	if (cli->n_args != 2)
		return cli_usage_error(
			cli, "want two reports of --json, that before and that after, or two directories of them");
	if (d->markdown != NULL && d->json != NULL && cli_same_file(d->markdown, d->json))
		return cli_usage_error(cli, "%s is named twice: each file has one use", d->json);
	return 0;
}

/* Also one of a directory. */
static int
check_inputs(const struct diff *d)
{
	const char *outputs[] = { d->markdown, d->json };

	for (size_t i = 0; i < 2 * d->n; i++) {
		const char *input = d->pairs[i / 2].paths[i % 2];

		for (int k = 0; k < 2 && input != NULL; k++)
			if (outputs[k] != NULL && cli_same_file(outputs[k], input))
				return cli_usage_error(d->cli, "%s is a report to be compared: it would be lost",
				                       input);
	}
	return 0;
}

static int
run_diff(struct cli *cli)
{
	struct diff d = { .cli = cli };
	int status = take_options(&d);

	if (status == 0)
		status = read_all(&d);
	if (status == 0)
		status = check_inputs(&d);
	if (status == 0)
		status = write_all(&d);
	for (size_t i = 0; i < d.n; i++) {
		changes_free(&d.pairs[i].c);
		for (int side = 0; side < 2; side++) {
			json_decref(d.pairs[i].runs[side]);
			free(d.pairs[i].paths[side]);
		}
		free(d.pairs[i].name);
	}
	free(d.pairs);
	return status;
}

COMMAND(diff) = {
	.name = "diff",
	.usage = "[OPTION]... BEFORE AFTER",
	.summary = "tell what changed between two runs",
	.help = "BEFORE and AFTER are reports of --json of server, client or durability, or directories of them, whose "
		"files "
		"go\n"
		"together by their names. First comes what got worse: a case or a point that fails, and did not, or "
		"breaks "
		"another\n"
		"requirement. What the run after knows by its expectation file, what is flaky, and what is of an "
		"experimental\n"
		"extension, is told, and does not count.\n\n"
		"  nbdspec diff before.json after.json\n"
		"  nbdspec diff --markdown comment.md build/reports/debian-12 build/reports/debian-13\n\n"
		"Exit status: 0 nothing got worse (with --exit-code: nothing changed); 1 something did; 2 usage; 3 a "
		"report "
		"cannot be\n"
		"read or written.\n",
	.options = options,
	.run = run_diff,
};
