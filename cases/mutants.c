#include "cases/mutants.h"

#include "fakeserver/client/lie.h"
#include "fakeserver/fork.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Kinds of server that are no single knob: exports of another shape, other handshakes. */
struct profile {
	const char *name;
	const char *exports[3];
	const enum requirement_id *uses; /* the freedoms that it uses and the plain profile does not; or NULL */
	int knobs[8];                    /* set too, up to a 0 */
	bool oldstyle, tcp;
	bool tls_forced, tls_selective;
	bool extended; /* offers extended headers: what its lies are about */
	bool cuts;     /* volatile caches, and durability cases, which cut their power; the only profile for these */
};

#define DESCRIBED "description=a disk of the fake server"
#define USES(...) .uses = ((const enum requirement_id[]){ __VA_ARGS__, REQUIREMENT_NONE })
#define ON(knob_) KNOB_##knob_ + 1
#define WITH(...) .knobs = { __VA_ARGS__ }
#define SMALL_MAX "max=33554432"

static const struct profile profiles[] = {
	{ "plain", { "name=nbdspec,size=64M," DESCRIBED, "name=other,size=32M,read-only", NULL }, .uses = NULL },
	{ "read-only", { "name=nbdspec,size=64M,read-only", NULL }, USES(R(read_only_flag_set)) },
	{ "oldstyle", { "name=,size=64M", NULL }, .oldstyle = true },
	{ "default-export-named-empty",
	  { "name=,size=64M," DESCRIBED, "name=other,size=1M", NULL },
	  USES(R(info_name_may_differ)) },
	/* Whoever does not ask for the sizes is turned away, by either option. */
	{ "blocks-512",
	  { "name=nbdspec,size=64M,min=512,pref=4096," SMALL_MAX, NULL },
	  USES(R(block_size_minimum_one), R(interop_may_default_to_512), R(block_size_refuses_export_name),
	       R(block_size_refuses_go), R(server_abandons_negotiation)) },
	{ "blocks-4096", { "name=nbdspec,size=64M,min=4096,pref=65536," SMALL_MAX, NULL }, .uses = NULL },
	{ "blocks-4096-for-all",
	  { "name=nbdspec,size=64M,min=4096,pref=65536," SMALL_MAX, NULL },
	  WITH(ON(block_sizes_optional)) },
	{ "blocks-65536", { "name=nbdspec,size=64M,min=65536,pref=65536,max=1048576", NULL }, .uses = NULL },
	{ "odd-sizes",
	  { "name=nbdspec,size=67109376,min=512,pref=65536,max=3000320", NULL },
	  USES(R(export_size_not_preferred_multiple), R(block_size_maximum_any_number)) },
	{ "preferred-above-export",
	  { "name=nbdspec,size=1M,min=1,pref=4M," SMALL_MAX, NULL },
	  USES(R(block_size_preferred_above_export)) },
	{ "tiny", { "name=nbdspec,size=512", NULL }, .uses = NULL },
	{ "empty", { "name=nbdspec,size=0", NULL }, .uses = NULL },
	{ "huge", { "name=nbdspec,size=8388607T", NULL }, .uses = NULL },
	{ "bare-flags", { "name=nbdspec,size=64M,flags=HAS_FLAGS", NULL }, USES(R(supported_flags_set)) },
	{ "rotational",
	  { "name=nbdspec,size=64M,flags=SEND_FLUSH+SEND_FUA+ROTATIONAL", NULL },
	  USES(R(rotational_flag_set)) },
	{ "tcp", { "name=nbdspec,size=64M," DESCRIBED, "name=other,size=32M,read-only", NULL }, .tcp = true },
	{ "tls-forced",
	  { "name=nbdspec,size=64M," DESCRIBED, "name=other,size=32M,read-only", NULL },
	  .tls_forced = true },
	{ "tls-selective",
	  { "name=nbdspec,size=64M," DESCRIBED, "name=secret,size=32M,tls-only", NULL },
	  .tls_selective = true },
	/* With a context that takes extended headers, and longer than 32 bits can tell. */
	{ "extended",
	  { "name=nbdspec,size=9G," DESCRIBED, "name=other,size=32M,read-only", NULL },
	  USES(R(ext_wide_contexts)),
	  WITH(ON(wide_contexts)),
	  .extended = true },
	{ "extended-tls",
	  { "name=nbdspec,size=64M," DESCRIBED, "name=secret,size=32M,tls-only", NULL },
	  WITH(ON(extended_headers)),
	  .tls_selective = true,
	  .extended = true },
	{ "extended-long",
	  { "name=nbdspec,size=9G", NULL },
	  USES(R(ext_read_may_split), R(ext_overhead_above_maximum), R(ext_status_chunks_any_order),
	       R(ext_last_extent_may_exceed), R(ext_long_effect_refused), R(ext_list_meta_may_refuse)),
	  WITH(ON(extended_headers), ON(read_fragments), ON(read_overhead_counts), ON(status_chunks_reversed),
	       ON(extents_run_past), ON(long_effects_refused), ON(list_meta_wants_structured), ON(error_offsets)),
	  .extended = true },
	{ "extended-short",
	  { "name=nbdspec,size=64M,min=512,pref=4096," SMALL_MAX, NULL },
	  USES(R(ext_extents_may_be_several), R(ext_extents_may_fall_short)),
	  WITH(ON(extended_without_payload), ON(single_extents), ON(extents_fall_short), ON(chunks_interleaved),
	       ON(requests_out_of_order), ON(status_ends_with_none), ON(error_messages), ON(read_ends_with_none)),
	  .extended = true },
	{ "extended-huge", { "name=nbdspec,size=8388607T", NULL }, WITH(ON(extended_headers)), .extended = true },
	{ "power-cuts",
	  { "name=,size=8G", "name=witness,size=4096", NULL },
	  USES(R(info_name_may_differ)),
	  .cuts = true },
};

/* Knobs that use another freedom beside the one that knobs.def names. */
static const struct {
	enum knob knob;
	enum requirement_id requirement;
} also_used[] = {
	{ KNOB_error_messages, R(option_reply_length_zero) },
};

/* What the plain fake client does in some cases, and not in others, by its user's wish or its server's. */
static const enum requirement_id done_by_client[] = {
	R(client_haggling_soft_disconnect),   /* `disconnect` in option haggling */
	R(client_abandons_negotiation),       /* likewise */
	R(client_disc_any_time),              /* `disconnect`, before the first request and behind any */
	R(client_export_name_first),          /* where the server is not fixed newstyle */
	R(client_refuses_without_tls),        /* `set tls=require`, and not `set tls=allow` */
	R(client_terminates_without_ack),     /* likewise */
	R(client_starttls_any_time),          /* `starttls` behind other options, and `connect` */
	R(client_tls_reqd_terminates),        /* `set tls=off`, in contrast to the habit waits_for_tls_reqd */
	R(client_export_tls_reqd_terminates), /* likewise */
	R(client_export_tls_reqd_continues),  /* `info` of another export */
	REQUIREMENT_NONE,
};

/* No more than it takes: each case that brings one is run against hundreds of mutants. */
enum { CROWD = 40 };

#define N_PROFILES (sizeof(profiles) / sizeof(profiles[0]))

/* No less than a case may write, so that nothing is destaged that a lie must lose. */
#define CACHE_MOST (UINT64_C(1) << 30)

static bool
has_tls(const struct profile *p)
{
	return p != NULL && (p->tls_forced || p->tls_selective);
}

/* Made once, before the first server is. */
static struct target_tls *tls_of_clients;
static struct tls_credentials *tls_of_servers;

static struct target_tls *
mutants_tls(const struct profile *p)
{
	static struct target_tls selective, forced;
	char error[TLS_ERROR];

	if (!has_tls(p))
		return NULL;
	if (tls_of_clients == NULL) {
		tls_of_clients = target_tls_make(false, error);
		if (tls_of_clients != NULL)
			tls_of_servers = tls_credentials_x509(TLS_SERVER, &tls_of_clients->made[TLS_NO_FLAW], error);
		if (tls_of_servers == NULL) {
			fprintf(stderr, "nbdspec: TLS: %s\n", error);
			exit(1);
		}
		selective = forced = *tls_of_clients;
		forced.always = true;
	}
	return p->tls_forced ? &forced : &selective;
}

/* In the server's process; config holds what is not the mutant's own. */
static void
serve_with(const struct mutant *m, struct fake_config config, int listen_fd)
{
	const struct profile *p = m->profile;
	struct fake_export exports[3];
	char error[256];

	config.exports = exports;
	config.oldstyle = p->oldstyle;
	if (has_tls(p))
		config.tls = (struct fake_tls){ .credentials = tls_of_servers,
			                        .forced = p->tls_forced,
			                        .verify = p->tls_forced };
	config.seed = 1;

	memset(exports, 0, sizeof(exports));
	for (; p->exports[config.n_exports] != NULL; config.n_exports++)
		if (!export_parse(p->exports[config.n_exports], &exports[config.n_exports], error)) {
			fprintf(stderr, "nbdspec: profile %s: %s\n", p->name, error);
			_exit(1);
		}
	for (size_t i = 0; i < config.n_exports && p->cuts; i++)
		exports[i].cache = cache_new(exports[i].disk, &(struct cache_config){ .most = CACHE_MOST,
		                                                                      .tear_unit = TEAR_UNIT_DEFAULT,
		                                                                      .flush_covers_all = true });
	if (p->cuts)
		config.control_fd = lower_listen();
	if (m->knob >= 0)
		config.knob[m->knob] = true;
	for (size_t i = 0; i < sizeof(p->knobs) / sizeof(p->knobs[0]) && p->knobs[i] > 0; i++)
		config.knob[p->knobs[i] - 1] = true;
	fake_child(&config, listen_fd);
}

static void
serve_mutant(void *arg, int listen_fd, struct quiet *q)
{
	const struct mutant *m = arg;
	struct lie_use use = { .lie = m->lie, .nth = 1 };

	serve_with(m, (struct fake_config){ .quiet = q, .lies = &use, .n_lies = m->lie != NULL }, listen_fd);
}

static struct target
plain_target(void (*serve)(void *arg, int listen_fd, struct quiet *q))
{
	return (struct target){
		.via = VIA_FORK,
		.export_name = "",
		.size = 64u << 20,
		.factor = 1,
		.serve = serve,
		.fresh = true,
		.crowd_given = true,
		.crowd = CROWD,
		.reload = "HUP",
	};
}

struct mutant *
matrix_add(struct matrix *m, const char *glob, struct mutant mutant)
{
	if (glob != NULL && fnmatch(glob, mutant.name, 0) != 0) {
		free((char *)mutant.name);
		return NULL;
	}
	m->mutants = reallocarray(m->mutants, m->n_mutants + 1, sizeof(*m->mutants));
	if (m->mutants == NULL)
		abort();
	m->mutants[m->n_mutants] = mutant;
	return &m->mutants[m->n_mutants++];
}

static void
add_server(struct matrix *m, const char *glob, struct mutant mutant)
{
	if (mutant.profile == NULL)
		mutant.profile = &profiles[0];
	if (mutant.lie != NULL) {
		mutant.breaks = mutant.lie->breaks;
		mutant.file = mutant.lie->file;
	}
	mutant.target = plain_target(serve_mutant);
	mutant.target.tcp = mutant.profile->tcp;
	mutant.target.tls = mutants_tls(mutant.profile);
	mutant.target.cuts = mutant.profile->cuts;
	mutant.target.seed = 1;
	matrix_add(m, glob, mutant);
}

static const struct profile *
cutting_profile(void)
{
	const struct profile *p = profiles;

	while (!p->cuts)
		p++;
	return p;
}

/*
 * What only a TCP connection can show, or TLS (fakeserver/lies/tls.c), or a power cut (fakeserver/lies/power.c), or who offers
 * extended headers (fakeserver/lies/extended.c).
 */
static const struct profile *
profile_for(const struct lie *l)
{
	bool tcp = lists(l->breaks, R(tcp_nodelay)) || lists(l->breaks, R(newstyle_port_refuses_oldstyle));

	bool tls = strcmp(l->file, "fakeserver/lies/tls.c") == 0;
	bool extended = strcmp(l->file, "fakeserver/lies/extended.c") == 0;
	bool extended_tls = extended && strncmp(l->name, "extended_tls_", 13) == 0;
	bool selective = extended_tls || (tls && strncmp(l->name, "selective_", 10) == 0), forced = tls && !selective;

	if (strncmp(l->name, "power_", 6) == 0)
		return cutting_profile();
	for (size_t i = 0; i < N_PROFILES; i++)
		if (profiles[i].extended == extended && profiles[i].tcp == tcp && profiles[i].tls_forced == forced &&
		    profiles[i].tls_selective == selective)
			return &profiles[i];
	return NULL;
}

static char *
joined(const char *a, const char *b)
{
	char *text;

	if (asprintf(&text, "%s %s", a, b) < 0)
		abort();
	return text;
}

static void
list_mutants(struct matrix *m, const char *glob)
{
	const struct lie *l;

	add_server(m, glob, (struct mutant){ .name = strdup("honest"), .knob = -1 });
	for (size_t i = 1; i < N_PROFILES; i++)
		add_server(m, glob,
		           (struct mutant){
				   .name = joined("profile", profiles[i].name), .knob = -1, .profile = &profiles[i] });
	for (int k = 0; k < N_KNOBS; k++)
		add_server(m, glob, (struct mutant){ .name = joined("knob", knob_name((enum knob)k)), .knob = k });
	for (size_t i = 0; (l = lie_at(i)) != NULL; i++)
		add_server(m, glob,
		           (struct mutant){ .name = strdup(l->name), .lie = l, .knob = -1, .profile = profile_for(l) });
}

static void
add_red(struct cell *c, enum requirement_id r)
{
	if (r == REQUIREMENT_NONE || cell_has(c, r))
		return;
	c->red = reallocarray(c->red, c->n_red + 1, sizeof(*c->red));
	if (c->red == NULL)
		abort();
	c->red[c->n_red++] = r;
}

void
matrix_result(void *arg, const struct job *job, const struct result *r)
{
	struct cell *c = job->tag;

	(void)arg;
	if (r->verdict > c->verdict)
		c->verdict = r->verdict;
	if (r->verdict < VERDICT_WARN)
		return;
	if (c->message == NULL && (!c->of_lie || r->verdict == VERDICT_ERROR) &&
	    asprintf(&c->message, "%s%s%s%s%s%s%s%s%s", r->point ? "[" : "", r->point ? r->point : "",
	             r->point ? "] " : "", r->message, *r->expected ? "expected " : "", r->expected,
	             *r->got ? "; got " : "", r->got, r->server) < 0)
		abort();
	add_red(c, r->requirement);
	for (int i = 0; i < ALSO_MOST; i++)
		add_red(c, r->also[i]);
}

/* ---- occasions ---- */

/*
 * A lie that never gets its turn in a case is the honest server there, and the two need not be run against each other.
 * So each case is run once with every lie looking on: LIE_NOW, which stands last in a lie's condition, notes that it was
 * asked and refuses. A knob that nobody asks for in a case changes nothing there either.
 */
struct onlooker {
	const struct matrix *m;
	const struct profile *profile;
	bool *occasions; /* shared memory: for each mutant, and behind them for each knob */
	struct target target;
};

static size_t
row_size(const struct matrix *m)
{
	return m->n_mutants + N_KNOBS;
}

static bool
is_special(const struct profile *p)
{
	return has_tls(p) || p->extended;
}

/* A lie is told in its own kind of server, and all that have neither TLS nor extended headers are one here. */
static bool
looks_on(const struct profile *where, const struct profile *of_lie)
{
	return where == of_lie || (!is_special(where) && !is_special(of_lie));
}

static void
serve_onlookers(void *arg, int listen_fd, struct quiet *q)
{
	const struct onlooker *o = arg;
	struct mutant plain = { .name = "honest", .knob = -1, .profile = o->profile };
	struct lie_use *uses = calloc(o->m->n_mutants + 1, sizeof(*uses));
	size_t n = 0;

	if (uses == NULL)
		_exit(1);
	for (size_t i = 0; i < o->m->n_mutants; i++)
		if (o->m->mutants[i].lie != NULL && looks_on(o->profile, o->m->mutants[i].profile))
			uses[n++] =
				(struct lie_use){ .lie = o->m->mutants[i].lie, .nth = 1, .occasion = &o->occasions[i] };
	serve_with(&plain,
	           (struct fake_config){ .quiet = q,
	                                 .lies = uses,
	                                 .n_lies = n,
	                                 .knob_asked = is_special(o->profile) ? NULL : o->occasions + o->m->n_mutants },
	           listen_fd);
}

static bool
has_occasion(const struct matrix *m, const struct case_def *c, const bool *row, size_t mutant)
{
	const struct mutant *x = &m->mutants[mutant];

	if (c->suite == SUITE_DURABILITY && !x->profile->cuts)
		return false;
	return x->lie != NULL ? row[mutant] : x->knob < 0 || row[m->n_mutants + (size_t)x->knob];
}

bool
any_listed(const enum requirement_id *some, const enum requirement_id *list)
{
	for (; *some != REQUIREMENT_NONE; some++)
		if (lists(list, *some))
			return true;
	return false;
}

/* Does the case look at what the lie breaks? Every honest server concerns every case. */
static bool
concerns(const struct mutant *x, const enum requirement_id *cites)
{
	return x->lie == NULL || any_listed(x->lie->breaks, cites);
}

/* Only a case that looks at what some lie breaks that is told in this kind of server. */
static bool
is_worth_a_look(const struct matrix *m, const struct profile *p, const struct case_def *c)
{
	for (size_t i = 0; i < m->n_mutants; i++)
		if (m->mutants[i].profile == p && m->mutants[i].lie != NULL && concerns(&m->mutants[i], c->cites))
			return true;
	return false;
}

static struct onlooker
onlooker_of(const struct matrix *m, const struct profile *p, bool *occasions)
{
	struct onlooker o = { m, p, occasions, plain_target(serve_onlookers) };

	o.target.cuts = p->cuts;
	o.target.seed = 1;
	o.target.tls = mutants_tls(p);
	return o;
}

static struct run_end
find_occasions(struct matrix *m, const struct runner *r, bool *occasions)
{
	struct onlooker *lookers = calloc(N_PROFILES * m->n_cases + 1, sizeof(*lookers));
	struct job *jobs = calloc(N_PROFILES * m->n_cases + 1, sizeof(*jobs));
	struct run_end end;
	size_t n = 0, more = m->n_cases;

	m->watched = calloc(N_PROFILES * m->n_cases + 1, sizeof(*m->watched));
	if (lookers == NULL || jobs == NULL || m->watched == NULL)
		abort();
	for (size_t c = 0; c < m->n_cases; c++) {
		const struct case_def *def = m->cases[c];
		const struct profile *usual = def->suite == SUITE_DURABILITY ? cutting_profile() : &profiles[0];

		for (size_t p = 0; p < N_PROFILES; p++) {
			if (&profiles[p] != usual &&
			    !(is_special(&profiles[p]) && is_worth_a_look(m, &profiles[p], def)))
				continue;
			lookers[n] = onlooker_of(m, &profiles[p], occasions + c * row_size(m));
			lookers[n].target.arg = &lookers[n];
			jobs[n] = (struct job){ def, &lookers[n].target,
				                &m->watched[&profiles[p] == usual ? c : more++] };
			n++;
		}
	}
	end = run_jobs(r, jobs, n);
	free(jobs);
	free(lookers);
	return end;
}

void *
shared_memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		abort();
	return p;
}

static size_t
list_jobs(struct matrix *m, const bool *occasions, struct job *jobs)
{
	size_t n = 0;

	for (size_t i = 0; i < m->n_mutants; i++) {
		m->mutants[i].target.arg = &m->mutants[i];
		for (size_t c = 0; c < m->n_cases; c++) {
			struct cell *cell = matrix_cell(m, i, c);
			const struct lie *lie = m->mutants[i].lie;

			cell->of_lie = lie != NULL;
			cell->decided = !has_occasion(m, m->cases[c], occasions + c * row_size(m), i);
			cell->left_out = !cell->decided && (m->cases[c]->bulk || is_special(m->mutants[i].profile)) &&
			                 !concerns(&m->mutants[i], m->cases[c]->cites);
			if (!cell->decided && !cell->left_out)
				jobs[n++] = (struct job){ m->cases[c], &m->mutants[i].target, cell };
		}
	}
	return n;
}

const char *
matrix_honest_name(const struct case_def *c)
{
	if (c->suite == SUITE_CLIENT || c->suite == SUITE_DRIVER)
		return "client honest";
	return c->suite == SUITE_DURABILITY ? "profile power-cuts" : "honest";
}

void
matrix_select(struct matrix *m, enum suite a, enum suite b, const char *glob)
{
	char *globs[] = { (char *)glob };
	size_t more;
	const struct case_def **others = select_cases(b, globs, glob != NULL, &more);

	m->cases = select_cases(a, globs, glob != NULL, &m->n_cases);
	m->cases = reallocarray(m->cases, m->n_cases + more + 1, sizeof(*m->cases));
	if (m->cases == NULL)
		abort();
	memcpy(m->cases + m->n_cases, others, (more + 1) * sizeof(*m->cases));
	m->n_cases += more;
	free(others);
}

bool
matrix_run(struct matrix *m, const char *case_glob, const char *mutant_glob, unsigned slots, char **why)
{
	struct runner runner = { .slots = slots, .trace_fd = -1, .result = matrix_result };
	size_t size, occasions_size;
	struct job *jobs;
	struct run_end end;
	bool *occasions;

	matrix_select(m, SUITE_SERVER, SUITE_DURABILITY, case_glob);
	list_mutants(m, mutant_glob);
	size = m->n_mutants * m->n_cases + 1;
	occasions_size = row_size(m) * m->n_cases + 1;
	m->cells = shared_memory(size * sizeof(*m->cells));
	jobs = shared_memory(size * sizeof(*jobs));
	occasions = shared_memory(occasions_size);
	end = find_occasions(m, &runner, occasions);
	if (!end.interrupted && end.broken == NULL)
		end = run_jobs(&runner, jobs, list_jobs(m, occasions, jobs));
	munmap(occasions, occasions_size);
	munmap(jobs, size * sizeof(*jobs));
	*why = end.broken;
	return !end.interrupted && end.broken == NULL;
}

void
matrix_free(struct matrix *m)
{
	for (size_t i = 0; i < m->n_mutants * m->n_cases; i++) {
		free(m->cells[i].red);
		free(m->cells[i].message);
	}
	for (size_t i = 0; i < m->n_mutants; i++)
		free((char *)m->mutants[i].name);
	for (size_t c = 0; c < m->n_cases && m->watched != NULL; c++) {
		free(m->watched[c].red);
		free(m->watched[c].message);
	}
	free(m->watched);
	munmap(m->cells, (m->n_mutants * m->n_cases + 1) * sizeof(*m->cells));
	free(m->mutants);
	free(m->cases);
}

bool
cell_has(const struct cell *c, enum requirement_id r)
{
	for (size_t i = 0; i < c->n_red; i++)
		if (c->red[i] == r)
			return true;
	return false;
}

bool
lists(const enum requirement_id *list, enum requirement_id r)
{
	for (; *list != REQUIREMENT_NONE; list++)
		if (*list == r)
			return true;
	return false;
}

const struct mutant *
matrix_proof(const struct matrix *m, enum requirement_id r)
{
	for (size_t i = 0; i < m->n_mutants; i++) {
		if (m->mutants[i].breaks == NULL || !lists(m->mutants[i].breaks, r))
			continue;
		for (size_t c = 0; c < m->n_cases; c++)
			if (lists(m->cases[c]->cites, r) && cell_has(matrix_cell(m, i, c), r))
				return &m->mutants[i];
	}
	return NULL;
}

char *
freedom_proof(enum requirement_id r)
{
	const struct client_lie *l;

	for (int k = 0; k < N_KNOBS; k++)
		if (knob_requirement((enum knob)k) == r)
			return joined("knob", knob_name((enum knob)k));
	for (size_t i = 0; i < sizeof(also_used) / sizeof(also_used[0]); i++)
		if (also_used[i].requirement == r)
			return joined("knob", knob_name(also_used[i].knob));
	for (size_t i = 0; i < N_PROFILES; i++)
		if (profiles[i].uses != NULL && lists(profiles[i].uses, r))
			return joined("profile", profiles[i].name);
	if (lists(done_by_client, r))
		return strdup("client honest");
	for (size_t i = 0; (l = client_lie_at(i)) != NULL; i++)
		if (l->uses != NULL && lists(l->uses, r))
			return joined("habit", l->name);
	return NULL;
}
