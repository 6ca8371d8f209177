/* nbdspec crash merge: the reports of all shards of one exploration, as if it had been in one piece. */
#include "harness/cli.h"
#include "harness/crash/report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct cli_option no_options[] = { { 0 } };

struct merged_finding {
	struct difference difference;
	const json_t *object;
	uint64_t states;
};

struct merge {
	const struct cli *cli;
	json_t **reports; /* by shard; NULL: it is not there */
	size_t n;         /* shards */
	const json_t *exploration;
	struct merged_finding *findings;
	size_t n_findings;
};

static json_int_t
number(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

static const char *
string(const json_t *object, const char *name)
{
	const char *s = json_string_value(json_object_get(object, name));

	return s != NULL ? s : "";
}

/* ---- reading ---- */

/* The trace may lie elsewhere for each. */
static bool
same_exploration(const json_t *a, const json_t *b)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)a, name, value)
	{
		if (strcmp(name, "trace") != 0 && !json_equal(value, json_object_get(b, name)))
			return false;
	}
	return true;
}

static int
take_shard(struct merge *m, json_t *report, const char *path)
{
	const json_t *shard = json_object_get(report, "shard"), *what = json_object_get(report, "exploration");
	json_int_t i = json_integer_value(json_array_get(shard, 0)), n = json_integer_value(json_array_get(shard, 1));

	if (strcmp(string(report, "format"), REPORT_FORMAT) != 0 || i < 1 || i > n || n > 1000000)
		return cli_usage_error(m->cli, "%s: is no report of 'nbdspec crash explore --json'", path);
	if (json_is_true(json_object_get(report, "interrupted")))
		return cli_usage_error(m->cli, "%s: was interrupted; finish it first, with --resume", path);
	if (m->reports == NULL) {
		m->n = (size_t)n;
		m->reports = calloc(m->n, sizeof(json_t *));
		m->exploration = what;
		if (m->reports == NULL)
			abort();
	}
	if ((size_t)n != m->n || !same_exploration(m->exploration, what))
		return cli_usage_error(m->cli, "%s: is of another exploration than %s", path, m->cli->args[0]);
	if (m->reports[i - 1] != NULL)
		return cli_usage_error(m->cli, "%s: shard %d of %d is given twice", path, (int)i, (int)n);
	m->reports[i - 1] = json_incref(report);
	return 0;
}

static int
read_reports(struct merge *m)
{
	int status = 0;

	for (size_t i = 0; i < m->cli->n_args && status == 0; i++) {
		json_error_t error;
		json_t *report = json_load_file(m->cli->args[i], 0, &error);

		if (report == NULL)
			status = cli_usage_error(m->cli, "%s: %s", m->cli->args[i], error.text);
		else
			status = take_shard(m, report, m->cli->args[i]);
		json_decref(report);
	}
	for (size_t i = 0; i < m->n && status == 0; i++)
		if (m->reports[i] == NULL)
			status = cli_usage_error(m->cli, "shard %zu of %zu is missing", i + 1, m->n);
	return status;
}

/* ---- findings ---- */

static int
compare_findings(const void *a, const void *b)
{
	const struct merged_finding *x = a, *y = b;

	return difference_compare(&x->difference, &y->difference);
}

static struct merged_finding *
finding_for(struct merge *m, const struct difference *d)
{
	for (size_t i = 0; i < m->n_findings; i++)
		if (difference_has(d, &m->findings[i].difference))
			return &m->findings[i];
	return NULL;
}

static void
gather_findings(struct merge *m)
{
	size_t n = 0, kept = 0, i, k;
	const json_t *object;

	for (i = 0; i < m->n; i++)
		n += json_array_size(json_object_get(m->reports[i], "findings"));
	m->findings = calloc(n + 1, sizeof(*m->findings));
	if (m->findings == NULL)
		abort();
	for (n = i = 0; i < m->n; i++)
		json_array_foreach(json_object_get(m->reports[i], "findings"), k, object)
		{
			m->findings[n].object = object;
			n += difference_parse(string(object, "state"), &m->findings[n].difference);
		}
	qsort(m->findings, n, sizeof(*m->findings), compare_findings);
	/* Another shard may have found less that fails; and that nothing is lost is told once. */
	for (i = 0; i < n; i++) {
		m->n_findings = kept;
		if ((i > 0 && m->findings[i].difference.n == 0) || finding_for(m, &m->findings[i].difference) != NULL)
			difference_free(&m->findings[i].difference);
		else
			m->findings[kept++] = m->findings[i];
	}
	m->n_findings = kept;
}

static uint64_t
count_failing(struct merge *m, uint64_t *unexplained)
{
	uint64_t failing = 0;
	const json_t *object;
	size_t k;

	for (size_t i = 0; i < m->n; i++)
		json_array_foreach(json_object_get(m->reports[i], "failing"), k, object)
		{
			struct difference d;
			struct merged_finding *f;

			failing++;
			if (!difference_parse(string(object, "state"), &d))
				continue;
			f = finding_for(m, &d);
			if (f == NULL && m->n_findings > 0 && m->findings[0].difference.n == 0)
				f = m->findings;
			*(f != NULL ? &f->states : unexplained) += 1;
			difference_free(&d);
		}
	return failing;
}

/* ---- telling ---- */

static json_int_t
sum(const struct merge *m, const char *name)
{
	json_int_t all = 0;

	for (size_t i = 0; i < m->n; i++)
		all += number(json_object_get(m->reports[i], "states"), name);
	return all;
}

static void
print_finding_again(const struct merged_finding *f, size_t i)
{
	const json_t *told = json_object_get(f->object, "told"), *line;
	size_t k;

	json_array_foreach(told, k, line)
	{
		const char *s = json_string_value(line), *colon = strchr(s, ':');

		/* The number and the count are the merger's own. */
		if (k == 0)
			printf("\nfinding %zu, %" PRIu64 " state%s%s\n", i + 1, f->states, f->states == 1 ? "" : "s",
			       colon != NULL ? colon : "");
		else
			printf("%s\n", s);
	}
}

static int
print_merged(struct merge *m)
{
	uint64_t unexplained = 0, failing;

	gather_findings(m);
	failing = count_failing(m, &unexplained);
	printf("shards: %zu, of %lld crash points\n", m->n, (long long)number(m->exploration, "crash_points"));
	printf("states: %lld checked, %" PRIu64 " failing",
	       (long long)(sum(m, "good") + sum(m, "bad") + sum(m, "crash") + sum(m, "hang")), failing);
	if (sum(m, "hang") + sum(m, "crash") > 0)
		printf(" (%lld hung, %lld crashed)", (long long)sum(m, "hang"), (long long)sum(m, "crash"));
	printf("\n");
	for (size_t i = 0; i < m->n_findings; i++)
		print_finding_again(&m->findings[i], i);
	if (unexplained > 0)
		printf("\n%" PRIu64 " more failing states were not minimised\n", unexplained);
	return failing > 0 ? STATUS_FAILED : STATUS_OK;
}

static int
run_merge(struct cli *cli)
{
	struct merge m = { .cli = cli };
	int status;

	if (cli->n_args == 0)
		return cli_usage_error(cli,
		                       "want the reports of all shards, as 'nbdspec crash explore --json' writes them");
	status = read_reports(&m);
	if (status == 0)
		status = print_merged(&m);
	for (size_t i = 0; i < m.n_findings; i++)
		difference_free(&m.findings[i].difference);
	for (size_t i = 0; i < m.n; i++)
		json_decref(m.reports[i]);
	free(m.findings);
	free(m.reports);
	return status;
}

COMMAND(crash_merge) = {
	.name = "crash merge",
	.usage = "REPORT...",
	.summary = "join the reports of an exploration's shards",
	.help = "Exit status: 0 no state fails; 1 some do; 2 usage, and when a shard is missing.\n",
	.options = no_options,
	.run = run_merge,
};
