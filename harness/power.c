/* Power cuts, as the durability cases make them (design, section 9). */
#include "harness/nbd.h"
#include "harness/test_private.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

static struct lower *
below(struct test *t)
{
	struct lower *l = t->private->server->lower;

	if (l == NULL)
		harness_error(t, "there is no disk below this server whose power could be cut");
	return l;
}

const char *
ask_below(struct test *t, const char *fmt, ...)
{
	static char reply[512];
	char request[512], error[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(request, sizeof(request), fmt, ap);
	va_end(ap);
	note(t, "the disk below is asked: %s", request);
	if (!lower_ask(below(t), request, reply, error))
		harness_error(t, "%s", error);
	return reply;
}

/* A fake server under test is its own disk. */
static bool
is_its_own_disk(const struct test *t)
{
	return t->private->server->target->via == VIA_FORK;
}

void
enter_below(struct test *t, const char *export)
{
	const struct server *above = t->private->server;
	struct target target = { .via = VIA_UNIX, .factor = above->target->factor, .export_name = export };
	struct server s = { .target = &target, .stdio = -1, .pidfd = -1, .address_len = sizeof(struct sockaddr_un) };
	struct sockaddr_un *un = (struct sockaddr_un *)&s.address;

	if (is_its_own_disk(t)) {
		s = *above;
		s.target = &target;
	} else {
		un->sun_family = AF_UNIX;
		snprintf(un->sun_path, sizeof(un->sun_path), "%s", lower_socket(below(t)));
	}
	t->private->server = &s;
	enter_transmission(t);
	t->private->server = above;
}

/* Without a promise, and on a disk of its own, so that the cut must take it. */
static void
write_witness(struct test *t)
{
	static uint8_t data[512];

	memset(data, 'w', sizeof(data));
	/* What a case has made to fail, and the server has not come across, is not for us. */
	ask_below(t, "fail WRITE 0");
	ask_below(t, "fail FLUSH 0");
	enter_below(t, "witness");
	must_write(t, 0, sizeof(data), data, R(write_stored));
	disconnect(t);
}

static void
expect_witness_lost(struct test *t)
{
	uint8_t data[512];

	enter_below(t, "witness");
	must_read(t, 0, sizeof(data), data, R(read_returns_data));
	disconnect(t);
	if (data[0] == 'w')
		harness_error(t, "the power cut took nothing: what was written beside the server is still there");
}

void
cut_power(struct test *t, const char *policy)
{
	struct test_private *p = t->private;
	char error[512];
	bool failed_check;

	if (strcmp(policy, "drop") == 0)
		write_witness(t);
	if (!is_its_own_disk(t))
		report_cut(t);
	note(t, "the power is cut, %s; the server is started anew", policy);
	if (p->server != &p->cut)
		p->cut = *p->server;
	p->server = &p->cut;
	close_sessions(t);
	if (!server_cut_power(&p->cut, policy, &failed_check, error)) {
		if (failed_check)
			broken_values(t, R(flush_persists), "the image is sound after the power cut", error);
		harness_error(t, "after the power cut: %s", error);
	}
	if (strcmp(policy, "drop") == 0)
		expect_witness_lost(t);
}

bool
below_is_a_file(const struct test *t)
{
	const struct lower *l = t->private->server->lower;

	return l != NULL && lower_file(l) != NULL;
}

uint64_t
case_seed(const struct test *t)
{
	return t->private->server->target->seed;
}

bool
durability_waived(const struct test *t)
{
	return t->private->server->target->waived;
}

char *
command_again(const struct test *t)
{
	const struct target *target = t->private->server->target;
	char *text;

	if (asprintf(&text, "nbdspec durability -c %s --seed %" PRIu64 " %s", t->def->id, target->seed, target->again) <
	    0)
		abort();
	return text;
}

bool
is_prepared(const struct test *t)
{
	return t->private->server->target->prepare != NULL;
}

bool
bypasses_page_cache(const struct test *t)
{
	return t->private->server->target->direct;
}
