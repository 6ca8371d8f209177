/* nbdspec crash bench: how fast states are found, and images made, with a checker in the process that says yes. */
#include "harness/cli.h"
#include "harness/clock.h"
#include "harness/crash/explore.h"
#include "harness/crash/seen.h"

#include <inttypes.h>

enum { OPT_BUDGET = 1, OPT_TEAR };

static const struct cli_option bench_options[] = {
	{ "budget", 'n', "N", "at most N states (default: 2000000)", OPT_BUDGET, false },
	{ "tear", 0, "HOW", "writes tear at 'sector' (512 bytes; the default), '4096', or not: 'write'", OPT_TEAR,
	  false },
	{ 0 },
};

struct bench {
	struct seen seen;
	struct image *image; /* NULL: none is made */
	uint64_t offered, found;
};

static enum offered
say_yes(void *arg, const struct view *v)
{
	struct bench *b = arg;

	b->offered++;
	if (b->image != NULL)
		image_show(b->image, v);
	if (!seen_put(&b->seen, v->hash))
		return STATE_SEEN;
	b->found++;
	return STATE_NEW;
}

static void
climb_all(struct bench *b, const struct space *s, uint64_t budget)
{
	struct view *v = view_new(s);

	for (uint32_t point = s->n_points; point-- > 0 && b->found < budget;) {
		view_go(v, point);
		ladder_climb(v, (budget - b->found + point) / (point + 1), 1, say_yes, b);
	}
	view_free(v);
}

static int
measure(const struct cli *cli, const struct space *s, uint64_t budget, bool images)
{
	struct bench b = { 0 };
	uint64_t began;
	double seconds;
	char error[512];

	if (!seen_start(&b.seen, budget))
		return cli_broken(cli, "no memory for %" PRIu64 " states", budget);
	if (images && (b.image = image_new(s, error)) == NULL) {
		seen_free(&b.seen);
		return cli_broken(cli, "%s", error);
	}
	began = now_ns();
	climb_all(&b, s, budget);
	seconds = (double)(now_ns() - began) / 1e9;
	printf("%s %" PRIu64 " offered, %" PRIu64 " distinct, %.3f s, %.0f distinct/s, %.1f bytes each\n",
	       images ? "images:" : "states:", b.offered, b.found, seconds, (double)b.found / seconds,
	       (double)(b.seen.room * sizeof(*b.seen.at)) / (double)budget);
	image_free(b.image);
	seen_free(&b.seen);
	return STATUS_OK;
}

static int
run_bench(struct cli *cli)
{
	unsigned long budget = 2000000;
	const char *tear_text = "sector";
	struct recording r;
	struct tear tear;
	struct space *s;
	char error[512];
	int status;

	for (size_t i = 0; i < cli->n_given; i++)
		if (cli->given[i].id == OPT_TEAR)
			tear_text = cli->given[i].value;
		else if (!cli_number(cli, "--budget", cli->given[i].value, 1, 1ul << 32, &budget))
			return STATUS_USAGE;
	if (cli->n_args != 1)
		return cli_usage_error(cli, "want one TRACE");
	if (!recording_load(&r, cli->args[0], error))
		return cli_usage_error(cli, "%s", error);
	if (!tear_parse(tear_text, r.minimum, &tear))
		return cli_usage_error(cli, "--tear '%s': want sector, 4096 or write", tear_text);
	s = space_new(&r, tear, false, NEVER);
	status = measure(cli, s, budget, false);
	if (status == STATUS_OK)
		status = measure(cli, s, budget, true);
	space_free(s);
	recording_free(&r);
	return status;
}

COMMAND(crash_bench) = {
	.name = "crash bench",
	.usage = "[OPTION]... TRACE",
	.summary = "measure the enumeration of states and the making of images",
	.options = bench_options,
	.run = run_bench,
	.hidden = true,
};
