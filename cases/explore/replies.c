/*
 * All sequences of replies to the options that a client sends (nbdspec client --explore). The client decides the path: a
 * sequence is prolonged by what the client asked when it was played.
 */
#include "cases/explore/replies.h"

#include "cases/client/haggle.h"
#include "cases/explore/chunks.h"
#include "cases/explore/player.h"
#include "harness/nbd.h"

#include <stdlib.h>
#include <string.h>

enum {
	CONNECT,
	HAGGLE,
	RUN,
	ANSWERED_MOST = 24,
	PROLONGED_MOST = 12,
	NTH_MOST = 7,
	READ_AT = 4096,
	READ_LENGTH = 8192
};
static const char *const ways[] = { "connect", "haggle", "run", NULL };

static const struct play *now;
static struct answered answered[ANSWERED_MOST];
static unsigned n_answered;
static bool served; /* somebody is, or was, in transmission */
static uint64_t told_size;
static uint16_t told_flags;

/* ---- steps: the option, which of them it is, and the symbol ---- */

static uint16_t
step_of(unsigned option, unsigned nth, unsigned symbol)
{
	return (uint16_t)(option << 11 | nth << 8 | symbol);
}

static unsigned
symbol_of(uint16_t step)
{
	return step & 0xff;
}

static unsigned
nth_of(uint16_t step)
{
	return step >> 8 & 7;
}

static unsigned
option_of(uint16_t step)
{
	return step >> 11;
}

static void
put_step(FILE *f, uint16_t step)
{
	fputs(replied[option_of(step)].name, f);
	if (nth_of(step) > 1)
		fprintf(f, "#%u", nth_of(step));
	fprintf(f, "=%s", reply_symbols[symbol_of(step)].name);
}

static bool
parse_step(const char *word, size_t len, uint16_t *step)
{
	const char *equals = memchr(word, '=', len);
	size_t name = equals != NULL ? (size_t)(equals - word) : 0, option;
	int symbol = equals != NULL ? reply_symbol_named(equals + 1, len - name - 1) : -1;
	unsigned nth = 1;

	if (name > 2 && word[name - 2] == '#') {
		nth = (unsigned)(word[name - 1] - '0');
		name -= 2;
	}
	for (option = 0; option < N_REPLIED; option++)
		if (strlen(replied[option].name) == name && strncmp(replied[option].name, word, name) == 0)
			break;
	*step = step_of((unsigned)option, nth & 7, (unsigned)symbol & 0xff);
	return option < N_REPLIED && symbol >= 0 && nth >= 1 && nth <= NTH_MOST;
}

/* ---- the server ---- */

static int
replied_index(uint32_t option)
{
	for (int i = 0; i < N_REPLIED; i++)
		if (replied[i].option == option)
			return i;
	return -1;
}

static struct answered *
next_answered(const struct option *o)
{
	unsigned nth = 1;

	for (unsigned i = 0; i < n_answered; i++)
		nth += answered[i].option == o->option;
	if (n_answered == ANSWERED_MOST || nth > NTH_MOST)
		return NULL;
	answered_begin(&answered[n_answered], o, nth);
	return &answered[n_answered++];
}

static void
now_unlawful(bool unlawful)
{
	player.unlawful |= unlawful;
	if (player.h != NULL)
		player.h->unlawful |= unlawful;
}

/* What the session that it enters is told of the export. */
static void
take_entry(const struct answered *a, const struct fake_export *e, struct conn *c)
{
	bool goes = a->option == NBD_OPT_GO || a->option == NBD_OPT_EXPORT_NAME;

	if (!goes || (a->chosen && a->final != NBD_REP_ACK && a->final != 0) || a->closed)
		return;
	served = true;
	told_size = a->has_export ? a->export.size : e->size;
	told_flags = a->has_export ? a->export.flags : session_flags(c, e);
}

static bool
answer_option(void *arg, struct conn *c, const struct incoming *m)
{
	struct fake_export *e = player_export();
	int option = m->kind == MSG_OPTION ? replied_index(m->option.option) : -1;
	struct answered *a = option >= 0 ? next_answered(&m->option) : NULL;
	const struct reply_symbol *last = NULL;

	(void)arg;
	if (a == NULL)
		return false;
	for (unsigned i = 0; i < now->n; i++)
		if (option_of(now->step[i]) == (unsigned)option && nth_of(now->step[i]) == a->nth) {
			last = &reply_symbols[symbol_of(now->step[i])];
			say_reply_symbol(c, last, a, &m->option, e);
		}
	if (last != NULL && !last->ends)
		answered_honestly(a);
	now_unlawful(a->unlawful);
	take_entry(a, e, c);
	return last != NULL && last->ends;
}

/* ---- what the client owes ---- */

static bool
is_error(uint32_t type)
{
	return (type & NBD_REP_ERROR_BIT) != 0;
}

/* An answer after which the client may leave, or not get to where it wanted to. */
static bool
excuses(const struct answered *a)
{
	bool told_all = !a->chosen || a->final == 0 || (a->asked & ~a->infos) == 0;

	switch (a->option) {
	case NBD_OPT_STRUCTURED_REPLY:
		return a->closed || (is_error(a->final) && a->final != NBD_REP_ERR_UNSUP);
	case NBD_OPT_SET_META_CONTEXT:
		return a->closed || is_error(a->final) || (a->final == NBD_REP_ACK && a->n_contexts == 0);
	case NBD_OPT_GO:
	case NBD_OPT_INFO:
		return a->closed || is_error(a->final) || !told_all;
	default:
		return a->closed || a->final == NBD_REP_ERR_SHUTDOWN;
	}
}

/* The whole session is over by it, in so far as the client likes. */
static bool
ends_all(const struct answered *a)
{
	bool of_all = a->option == NBD_OPT_STRUCTURED_REPLY && excuses(a);

	return of_all || a->closed || a->final == NBD_REP_ERR_SHUTDOWN;
}

static bool
any(bool (*is)(const struct answered *a), unsigned from)
{
	for (unsigned i = from; i < n_answered; i++)
		if (is(&answered[i]))
			return true;
	return false;
}

static bool
refuses_structured(const struct answered *a)
{
	return a->option == NBD_OPT_STRUCTURED_REPLY && a->final == NBD_REP_ERR_UNSUP;
}

static bool
has_unknown_info(const struct answered *a)
{
	return a->has_unknown_info;
}

/* Whoever does not get in, or waits, or dies, because of a lawful answer. */
static enum requirement_id
owed(enum requirement_id otherwise)
{
	if (player.unlawful)
		return R(client_transmission_no_disconnect);
	if (any(refuses_structured, 0))
		otherwise = R(structured_reply_unsup_handled);
	else if (any(has_unknown_info, 0))
		otherwise = R(info_unknown_replies_ignored);
	return player_known(now, otherwise);
}

static enum requirement_id
owed_to_replies(void)
{
	return owed(R(client_reads_option_reply));
}

/* ---- in transmission ---- */

static void
judge_size(const struct driver_answer *a)
{
	char *size = known(a, "size"), *read_only = known(a, "read-only");
	const char *want = (told_flags & NBD_FLAG_READ_ONLY) != 0 ? "yes" : "no";

	if (size != NULL && strtoull(size, NULL, 10) != told_size)
		player_breach(BROKEN(R(baseline_client_info_go)), "the size that the server has told",
		              "size=%s, and it has told %llu", size, (unsigned long long)told_size);
	if (read_only != NULL && strcmp(read_only, want) != 0)
		player_breach(BROKEN(R(baseline_client_info_go)), "the transmission flags that the server has told",
		              "read-only=%s, and it has told %s", read_only, want);
	free(size);
	free(read_only);
}

static struct conn *
conn_in_transmission(void)
{
	for (struct conn *c = player_server()->conns; c != NULL; c = c->private->next)
		if (c->phase == PHASE_TRANSMISSION)
			return c;
	return NULL;
}

static void
judge_read(const struct driver_answer *a)
{
	uint32_t want = disk_digest(player_export(), READ_AT, READ_LENGTH);

	if (player.unlawful)
		return;
	if (a->result != DRIVER_OK)
		player_breach(BROKEN(owed(R(baseline_client_read))), "a read succeeds", "'error %s'", a->text);
	else if (strtoul(a->text, NULL, 16) != want)
		player_breach(BROKEN(owed(R(baseline_client_read))), "a read gives the data of the disk",
		              "digest %s, and theirs is %08x", a->text, want);
}

/* The contexts that are in force; the disk has data at its beginning, which is status 0. */
static void
judge_status(const struct driver_answer *a, bool in_force)
{
	if (player.unlawful || !in_force || a->result == DRIVER_UNSUPPORTED)
		return;
	if (a->result != DRIVER_OK)
		player_breach(BROKEN(R(set_meta_id_opaque)), "block_status succeeds, for a context was selected",
		              "'error %s'", a->text);
	else if (first_status(a->text, "base:allocation") != 0)
		player_breach(BROKEN(R(set_meta_id_opaque)), "block_status tells of the context that was selected",
		              "'%s'", a->text);
}

static void
try_transmission(void)
{
	struct conn *c = conn_in_transmission();
	bool in_force = c != NULL && c->structured && c->n_contexts > 0;
	struct driver_answer a;

	if (!player_ask(&a, 1, "read %d %d", READ_AT, READ_LENGTH))
		return;
	judge_read(&a);
	if (driver_has(player.d->driver, "block_status", NULL) && driver_has(player.d->driver, "set", "context")) {
		if (!player_ask(&a, 1, "block_status 0 65536"))
			return;
		judge_status(&a, in_force);
	}
	player_ask(&a, 1, "disconnect");
}

/* ---- connect ---- */

static void
judge_entry(const struct driver_answer *a, const char *what)
{
	char want[64];

	if (a->result == DRIVER_OK && !served && !player.unlawful) {
		snprintf(want, sizeof(want), "'%s' fails, for nobody was let in", what);
		player_breach(BROKEN(R(baseline_client_info_go)), want, "'ok'");
	} else if (a->result == DRIVER_ERROR && !player.unlawful && !any(excuses, 0)) {
		snprintf(want, sizeof(want), "'%s' is answered 'ok'", what);
		player_breach(BROKEN(owed(R(baseline_client_info_go))), want, "'error %s'", a->text);
	}
	if (a->result != DRIVER_OK)
		return;
	if (!player.unlawful)
		judge_size(a);
	try_transmission();
}

static void
connect_as_ever(void)
{
	struct driver_answer a;

	if (player_ask(&a, 1, "connect %s", player.d->uri))
		judge_entry(&a, "connect");
}

/* ---- haggle ---- */

static const struct haggled {
	const char *request;
	uint32_t option;
	enum requirement_id understood;
} haggled[] = {
	{ "list", NBD_OPT_LIST, R(baseline_client_list) },
	{ "contexts base%3a", NBD_OPT_LIST_META_CONTEXT, R(client_reads_option_reply) },
	{ "info", NBD_OPT_INFO, R(baseline_client_info_go) },
};
enum { N_HAGGLED = sizeof(haggled) / sizeof(haggled[0]) };

static const struct answered *
last_answered(uint32_t option, unsigned from)
{
	for (unsigned i = n_answered; i-- > from;)
		if (answered[i].option == option)
			return &answered[i];
	return NULL;
}

/* What the client tells of what came. */
static void
judge_told(const struct haggled *h, const struct answered *a, const struct driver_answer *answer)
{
	char *size = known(answer, "size");

	if (a->n_listed > 0 && !says(answer->text, "export", "listed"))
		player_breach(BROKEN(h->understood), "the export 'listed' is told", "'%s'", answer->text);
	if (a->n_contexts > 0 && !says(answer->text, "context", "base:allocation"))
		player_breach(BROKEN(h->understood), "the context base:allocation is told", "'%s'", answer->text);
	if (a->has_export && size != NULL && strtoull(size, NULL, 10) != a->export.size)
		player_breach(BROKEN(h->understood), "the size that NBD_OPT_INFO is answered",
		              "size=%s, and it is %llu", size, (unsigned long long)a->export.size);
	free(size);
}

static void
judge_haggled(const struct haggled *h, const struct driver_answer *answer, unsigned from)
{
	const struct answered *a = last_answered(h->option, from);
	bool voided = a != NULL && a->option == NBD_OPT_LIST_META_CONTEXT && a->n_contexts > 0;
	char want[64];

	if (player.unlawful || a == NULL || answer->result == DRIVER_UNSUPPORTED)
		return;
	if (is_error(a->final) && answer->result == DRIVER_OK) {
		snprintf(want, sizeof(want), "'%s' fails, as NBD_OPT_%s did", h->request,
		         replied[replied_index(h->option)].name);
		player_breach(BROKEN(voided ? R(list_meta_error_voids_replies) : h->understood), want, "'ok %s'",
		              answer->text);
	} else if (!is_error(a->final) && !any(excuses, from) && answer->result == DRIVER_ERROR) {
		snprintf(want, sizeof(want), "'%s' is answered 'ok'", h->request);
		player_breach(BROKEN(owed(h->understood)), want, "'error %s'", answer->text);
	} else if (answer->result == DRIVER_OK) {
		judge_told(h, a, answer);
	}
}

/* By NBD_OPT_ABORT, which may be left unanswered (proto.md:1203). */
static void
leave_haggling(void)
{
	const struct answered *abort;
	unsigned from = n_answered;
	struct driver_answer a;

	if (!player_ask(&a, 1, "disconnect") || player.unlawful || a.result != DRIVER_ERROR)
		return;
	abort = last_answered(NBD_OPT_ABORT, from);
	if (abort != NULL && abort->closed)
		player_breach(BROKEN(R(abort_unanswered_graceful)), "'disconnect' is answered 'ok'", "'error %s'",
		              a.text);
}

/* The next option after one that was refused is answered as ever. */
static void
go_again(void)
{
	unsigned from = n_answered;
	struct driver_answer a;

	if (any(ends_all, 0)) {
		leave_haggling();
		return;
	}
	if (!player_ask(&a, 1, "go"))
		return;
	if (a.result == DRIVER_OK)
		judge_entry(&a, "go");
	else if (!player.unlawful && served && last_answered(NBD_OPT_GO, from) != NULL && !any(excuses, from))
		player_breach(BROKEN(owed(R(client_reads_option_reply))), "the next 'go' is answered 'ok'",
		              "'error %s'", a.text);
	if (a.result != DRIVER_OK && !player.stuck)
		leave_haggling();
}

static void
haggle_at_length(void)
{
	struct driver_answer a;

	if (!player_ask(&a, 1, "haggle %s", player.d->uri))
		return;
	if (a.result != DRIVER_OK) {
		if (!player.unlawful && !any(ends_all, 0))
			player_breach(BROKEN(owed(R(baseline_client_fixed_newstyle))), "'haggle' is answered 'ok'",
			              "'error %s'", a.text);
		return;
	}
	for (unsigned i = 0; i < N_HAGGLED; i++) {
		unsigned from = n_answered;

		if (!driver_has(player.d->driver, i == 1 ? "contexts" : haggled[i].request, NULL))
			continue;
		if (!player_ask(&a, 1, "%s", haggled[i].request))
			return;
		if (!any(ends_all, 0) || a.result == DRIVER_OK)
			judge_haggled(&haggled[i], &a, from);
		/* It is to end, by the user or the client. */
		if (a.result != DRIVER_OK && any(ends_all, from)) {
			leave_haggling();
			return;
		}
	}
	if (!player_ask(&a, 1, "go"))
		return;
	judge_entry(&a, "go");
	if (a.result != DRIVER_OK && !player.stuck)
		go_again();
}

/* ---- a command ---- */

static bool
is_no_success(const struct answered *a)
{
	return a->closed || is_error(a->final) || a->n_listed > 0 || a->n_contexts > 0 ||
	       (a->chosen && a->option == NBD_OPT_SET_META_CONTEXT) || (a->has_export && a->export.size != told_size) ||
	       excuses(a);
}

static void
run_command(void)
{
	uint64_t size = player_export()->size;

	told_size = size;
	if (!player_run() || player.unlawful)
		return;
	if (now->n == 0 && !succeeded(player.h))
		skip(player.t, "a client that works", "it fails where the server is honest: %s", player.h->end.text);
	if (!succeeded(player.h) && !any(is_no_success, 0) && told_size == size)
		player_breach(BROKEN(owed(R(baseline_client_info_go))), "the client ends with exit status 0", "%s",
		              player.h->end.text);
	player_judge_copy(R(baseline_client_info_go), told_size);
}

/* ---- a play ---- */

static void
perform(const struct play *p)
{
	now = p;
	n_answered = 0;
	served = false;
	if ((p->way == RUN) != (player.d == NULL))
		harness_error(player.t, "--explore-sequence: '%s' is for a %s", ways[p->way],
		              p->way == RUN ? "command" : "driver");
	if (p->way == HAGGLE)
		drive_needs(player.d, "haggle", NULL);
	if (p->way == RUN)
		run_command();
	else if (p->way == HAGGLE)
		haggle_at_length();
	else
		connect_as_ever();
	if (!player.stuck)
		player_judge();
}

/* One time is as good as another; and roughly, so is one error. */
static bool
is_like(uint16_t a, uint16_t b, bool roughly)
{
	const struct reply_symbol *one = &reply_symbols[symbol_of(a)], *other = &reply_symbols[symbol_of(b)];

	return option_of(a) == option_of(b) &&
	       (one == other || (roughly && is_error(one->type) && is_error(other->type)));
}

/* All of the part's steps, in their order, in the whole, whatever their ways. */
static bool
contains(const struct play *whole, const struct play *part, bool roughly)
{
	unsigned k = 0;

	for (unsigned i = 0; i < whole->n && k < part->n; i++)
		k += is_like(whole->step[i], part->step[k], roughly);
	return k == part->n;
}

static bool
has_error(uint16_t step)
{
	return is_error(reply_symbols[symbol_of(step)].type);
}

/* All replies to that option become those to the first of its kind. */
static void
make_first(struct play *p, uint16_t step)
{
	for (unsigned i = 0; i < p->n; i++)
		if (p->step[i] >> 8 == step >> 8)
			p->step[i] = step_of(option_of(step), 1, symbol_of(p->step[i]));
}

/* By connect, the first of its options, an error that stands before it. */
static bool
plainer(const struct play *p, unsigned nth, struct play *plainer)
{
	*plainer = *p;
	if (p->way == HAGGLE && nth-- == 0) {
		plainer->way = CONNECT;
		for (unsigned i = 0; i < p->n; i++)
			make_first(plainer, p->step[i]);
		return true;
	}
	for (unsigned i = 0; i < p->n; i++) {
		if (nth_of(p->step[i]) > 1 && nth-- == 0) {
			make_first(plainer, p->step[i]);
			return true;
		}
		for (unsigned k = 0; has_error(p->step[i]) && k < symbol_of(p->step[i]); k++) {
			plainer->step[i] = step_of(option_of(p->step[i]), nth_of(p->step[i]), k);
			if (has_error(plainer->step[i]) && nth-- == 0)
				return true;
		}
		plainer->step[i] = p->step[i];
	}
	return false;
}

static void
set_context(void)
{
	if (player.d != NULL && driver_has(player.d->driver, "set", "context"))
		ask(player.d, 1, "set context=base%%3aallocation");
}

static const struct stage stage = {
	.case_id = "explore/replies",
	.ways = ways,
	.example = "connect,GO=INFO_NAME,GO=ACK",
	.renewed = set_context,
	.perform = perform,
	.owed = owed_to_replies,
	.put_step = put_step,
	.parse_step = parse_step,
	.contains = contains,
	.plainer = plainer,
};

/* ---- all of them ---- */

static struct play *queue;
static size_t n_queue, queue_room, done;
static uint64_t first_steps; /* those of all shards */

static void
enqueue(const struct play *p)
{
	if (n_queue == queue_room) {
		queue_room = queue_room > 0 ? 2 * queue_room : 1024;
		queue = reallocarray(queue, queue_room, sizeof(*queue));
		if (queue == NULL)
			abort();
	}
	queue[n_queue++] = *p;
	player_plans(1);
}

static bool
may_follow(const struct play *p, unsigned option, const struct reply_symbol *s)
{
	if (replied[option].closes_only && strcmp(s->name, "close") != 0)
		return false;
	return p->n == 0 || !s->alone;
}

static void
prolong_by(const struct play *p, uint32_t option, unsigned nth)
{
	struct play longer = *p;
	unsigned index = (unsigned)replied_index(option);

	longer.n++;
	for (unsigned i = 0; i < n_reply_symbols; i++) {
		longer.step[p->n] = step_of(index, nth, i);
		if (may_follow(p, index, &reply_symbols[i]) && (p->n > 0 || player_is_ours(first_steps++)))
			enqueue(&longer);
	}
}

/* Behind the last step: of the same option where that awaits more, and of those that the client has sent since. */
static void
prolong(const struct play *p)
{
	uint16_t last = p->n > 0 ? p->step[p->n - 1] : 0;
	bool behind = p->n == 0;

	if (p->n > 0 && reply_symbols[symbol_of(last)].alone)
		return;
	for (unsigned i = 0; i < n_answered && i < PROLONGED_MOST; i++) {
		const struct answered *a = &answered[i];

		if (behind)
			prolong_by(p, a->option, a->nth);
		else if (a->option == replied[option_of(last)].option && a->nth == nth_of(last)) {
			behind = true;
			if (!reply_symbols[symbol_of(last)].ends)
				prolong_by(p, a->option, a->nth);
		}
	}
}

/* Every shard plays what is honest, to see what the client asks; who fails there is not explored. */
static void
begin_way(unsigned way, int depth)
{
	struct play p = { .way = (uint8_t)way };

	player_plans(player_is_ours(0));
	if (player_takes_first(&p) && depth > 0)
		prolong(&p);
}

static void
play_all(int depth)
{
	if (player.d == NULL) {
		begin_way(RUN, depth);
	} else {
		begin_way(CONNECT, depth);
		if (driver_has(player.d->driver, "haggle", NULL) && driver_has(player.d->driver, "go", NULL))
			begin_way(HAGGLE, depth);
	}
	for (; done < n_queue; done++) {
		struct play p = queue[done];

		player_take(&p);
		if (p.n < depth && !player.stuck)
			prolong(&p);
	}
	free(queue);
}

CASE_EXPLORE_CLIENT(
	explore, replies,
	"Whatever the options are answered, up to a number of replies, a client gets where the text says that "
	"it gets, and neither hangs nor dies nor breaks a rule",
	R(baseline_client_info_go), R(baseline_client_list), R(baseline_client_read), R(client_reads_option_reply),
	R(structured_reply_unsup_handled), R(info_unknown_replies_ignored), R(set_meta_id_opaque),
	R(list_meta_error_voids_replies), R(client_aborts_on_shutdown), R(client_transmission_no_disconnect),
	R(baseline_client_fixed_newstyle), R(go_falls_back))
{
	static const struct script script = { .take = answer_option };
	unsigned shard;
	const struct exploration *plan = exploration_of(t, &shard);

	if (plan->sequence != NULL && names_chunks(plan->sequence))
		return;
	player_begin(t, &stage, &plan->counts->replies, &script);
	if (!player_takes_sequence())
		play_all(plan->depth);
	player_ends("sequences of replies");
}
