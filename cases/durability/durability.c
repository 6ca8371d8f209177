#include "cases/durability/durability.h"

#include "cases/server/transmission.h"
#include "harness/history.h"
#include "harness/random.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { CHUNK = 1 << 20, TEAR_UNIT = 512, OPS_MOST = 1 << 16 };

struct op {
	uint16_t type, flags;
	uint64_t offset, cookie;
	uint32_t length, error;
	unsigned connection;
	bool answered;
	uint64_t promise; /* the FLUSH, or the command itself, by which it is guaranteed; 0: it is not */
};

struct work {
	struct test *t;
	struct history *history;
	struct op *ops; /* by number */
	uint64_t n, n_lost;
	uint64_t size, random;
	unsigned in_flight;
	bool open;         /* something was sent since the last look */
	unsigned salt;     /* so that no two points write the same */
	uint8_t *settled;  /* what is there for good; of the export's size, and only what is touched costs anything */
	uint32_t *settler; /* for each tear unit the command that settled it */
	uint8_t *before;   /* of the export's size: what was there at the last look */
	uint8_t *touched;  /* for each chunk */
};

static void *
sparse(uint64_t size)
{
	void *at = mmap(NULL, size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		abort();
	return at;
}

/* What a command puts there. */
static void
contents(const struct work *w, uint64_t number, enum history_kind kind, uint64_t offset, size_t length, uint8_t *data)
{
	if (kind == HISTORY_INITIAL)
		memcpy(data, w->settled + offset, length);
	else if (kind == HISTORY_WRITE)
		fill_pattern(data, length, offset, w->salt + (unsigned)number);
	else
		memset(data, 0, length);
}

static void
on_settled(void *arg, uint64_t offset, uint64_t length, const struct history_candidate *c)
{
	struct work *w = arg;

	contents(w, c->number, c->kind, offset, length, w->settled + offset);
	for (uint64_t at = offset; at < offset + length; at += TEAR_UNIT - at % TEAR_UNIT)
		w->settler[at / TEAR_UNIT] = (uint32_t)c->number;
	w->ops[c->number].promise = c->promise;
}

static void
read_all(struct work *w, uint64_t offset, uint64_t length, uint8_t *data)
{
	uint32_t most = longest_payload(w->t), n;

	most = most < CHUNK ? most : CHUNK;
	for (; length > 0; length -= n, offset += n, data += n) {
		n = length < most ? (uint32_t)length : most;
		read_served(w->t, offset, n, data, R(read_returns_data));
	}
}

/* What earlier points have left there; one that ended in its middle has a cut behind it, so that it is durable. */
static void
reread(struct work *w)
{
	for (uint64_t chunk = 0; chunk * CHUNK < w->size; chunk++) {
		uint64_t at = chunk * CHUNK, n = w->size - at < CHUNK ? w->size - at : CHUNK;

		if (!w->touched[chunk])
			continue;
		read_all(w, at, n, w->settled + at);
		memcpy(w->before + at, w->settled + at, n);
	}
}

struct work *
work_start(struct test *t)
{
	static struct work *earlier;
	struct work *w = calloc(1, sizeof(*w));

	enter_transmission(t);
	if (earlier != NULL && earlier->open) {
		cut_power(t, "keep");
		enter_transmission(t);
	}
	need_writable(t);
	need_range(t, 0, blocks(t, 65536));
	if (w == NULL)
		abort();
	w->t = t;
	w->size = usable_size(t);
	w->random = case_seed(t);
	w->history = history_new((t->s->flags & NBD_FLAG_CAN_MULTI_CONN) != 0, true,
	                         &(struct history_owner){ .arg = w, .settled = on_settled });
	w->ops = sparse(OPS_MOST * sizeof(*w->ops));
	w->salt = earlier != NULL ? earlier->salt + OPS_MOST : OPS_MOST;
	w->settled = earlier != NULL ? earlier->settled : sparse(w->size);
	w->before = earlier != NULL ? earlier->before : sparse(w->size);
	w->touched = earlier != NULL ? earlier->touched : sparse(w->size / CHUNK + 1);
	w->settler = sparse(w->size / TEAR_UNIT * sizeof(*w->settler) + sizeof(*w->settler));
	reread(w);
	earlier = w;
	return w;
}

bool
work_beside(struct work *w)
{
	return enter_beside(w->t);
}

unsigned
some(struct work *w, unsigned n)
{
	return (unsigned)(random_next(&w->random) % n);
}

/* ---- commands ---- */

/* What is there before anything is done: zeroes, unless somebody has made the image. */
static void
get_to_know(struct work *w, uint64_t chunk)
{
	uint64_t at = chunk * CHUNK, n = w->size - at < CHUNK ? w->size - at : CHUNK;

	if (is_prepared(w->t) && w->in_flight > 0)
		harness_error(w->t, "a case uses more than it has said (will_use) while commands are in flight");
	if (is_prepared(w->t)) {
		read_all(w, at, n, w->settled + at);
		memcpy(w->before + at, w->settled + at, n);
	}
	w->touched[chunk] = true;
}

void
will_use(struct work *w, uint64_t offset, uint64_t length)
{
	uint64_t first = offset / CHUNK, last = (offset + length - 1) / CHUNK;

	first -= first > 0;
	last += (last + 1) * CHUNK < w->size;
	for (uint64_t chunk = first; chunk <= last; chunk++)
		if (!w->touched[chunk])
			get_to_know(w, chunk);
}

uint64_t
begin_command(struct work *w, uint16_t type, uint16_t flags, uint64_t offset, uint32_t length)
{
	static const enum history_kind kinds[] = {
		[NBD_CMD_WRITE] = HISTORY_WRITE, [NBD_CMD_TRIM] = HISTORY_TRIM, [NBD_CMD_FLUSH] = HISTORY_FLUSH
	};
	bool zeroes = type == WRITE_OF_ZEROES || type == NBD_CMD_WRITE_ZEROES;
	struct history_command c = { .kind = zeroes ? HISTORY_ZEROES : kinds[type],
		                     .fua = (flags & NBD_CMD_FLAG_FUA) != 0,
		                     .connection = w->t->s->number,
		                     .offset = offset,
		                     .length = length };
	uint8_t *data = NULL;
	struct op *op;

	type = type == WRITE_OF_ZEROES ? NBD_CMD_WRITE : type;
	if (w->n + 1 == OPS_MOST)
		harness_error(w->t, "a case has more than %d commands", OPS_MOST);
	if (length > 0)
		will_use(w, offset, length);
	w->open = true;
	w->in_flight++;
	w->n = history_receive(w->history, &c);
	op = &w->ops[w->n];
	*op = (struct op){ .type = type,
		           .flags = flags,
		           .offset = offset,
		           .length = length,
		           .cookie = new_cookie(w->t),
		           .connection = w->t->s->number };
	if (type == NBD_CMD_WRITE) {
		data = malloc(length);
		if (data == NULL)
			abort();
		contents(w, w->n, c.kind, offset, length, data);
	}
	send_request(w->t, flags, type, op->cookie, offset, length, data);
	free(data);
	return w->n;
}

uint64_t
take_reply(struct work *w, uint32_t *error)
{
	struct simple_reply r = recv_simple_header(w->t, R(each_request_one_reply));

	for (uint64_t i = w->n; i > 0; i--) {
		struct op *op = &w->ops[i];

		if (op->connection != w->t->s->number || op->cookie != r.cookie || op->answered)
			continue;
		op->answered = true;
		w->in_flight--;
		op->error = *error = r.error;
		history_answer(w->history, i, r.error == NBD_SUCCESS);
		return i;
	}
	broken(w->t, R(cookie_echoed), "a reply has a cookie of no request in flight");
}

uint32_t
one_command(struct work *w, uint16_t type, uint16_t flags, uint64_t offset, uint32_t length)
{
	uint32_t error;

	begin_command(w, type, flags, offset, length);
	take_reply(w, &error);
	return error;
}

void
must_do(struct work *w, uint16_t type, uint16_t flags, uint64_t offset, uint32_t length)
{
	char text[NAME_MAX_TEXT], name[NAME_MAX_TEXT];
	uint32_t error = one_command(w, type, flags, offset, length);

	if (error != NBD_SUCCESS)
		skip(w->t, "success", "%s of %" PRIu32 " bytes gets %s", name_text(NAME_COMMAND, type, name), length,
		     name_text(NAME_ERROR, error, text));
}

void
must_flush(struct work *w)
{
	need_flag(w->t, NBD_FLAG_SEND_FLUSH);
	must_do(w, NBD_CMD_FLUSH, 0, 0, 0);
}

/* ---- the judgement ---- */

static const char *
op_text(const struct work *w, uint64_t number, char text[200])
{
	const struct op *op = &w->ops[number];
	const char *name = name_of(NAME_COMMAND, op->type);

	if (op->type == NBD_CMD_FLUSH)
		snprintf(text, 200, "%s (command %" PRIu64 ", connection %u)", name, number, op->connection);
	else
		snprintf(text, 200, "%s%s (command %" PRIu64 ") of %" PRIu32 " bytes at %" PRIu64, name,
		         op->flags & NBD_CMD_FLAG_FUA ? " with FUA" : "", number, op->length, op->offset);
	return text;
}

/* What the bytes are, as far as anything is known of them. */
static void
describe(const struct work *w, uint64_t offset, const uint8_t *is, size_t length, char text[200])
{
	uint8_t want[TEAR_UNIT], other = 0;
	char op[200];

	for (size_t i = 0; i < length; i++)
		other |= is[i];
	snprintf(text, 200, "%s",
	         other == 0                                    ? "zeroes"
	         : memcmp(is, w->before + offset, length) == 0 ? "what was there before"
	                                                       : "bytes that nobody wrote there");
	for (uint64_t i = w->n; i > 0 && other != 0; i--) {
		if (w->ops[i].type != NBD_CMD_WRITE || w->ops[i].offset > offset ||
		    offset + length > w->ops[i].offset + w->ops[i].length)
			continue;
		contents(w, i, HISTORY_WRITE, offset, length, want);
		if (memcmp(want, is, length) == 0) {
			snprintf(text, 200, "what %s put there", op_text(w, i, op));
			return;
		}
	}
}

static enum requirement_id
promise_of(const struct work *w, uint64_t lost, uint64_t promise)
{
	if (w->ops[promise].type != NBD_CMD_FLUSH)
		return R(fua_persists);
	return w->ops[promise].connection == w->ops[lost].connection ? R(flush_persists) : R(flush_before_reply);
}

/* The first piece that is not as it must be ends the case. */
static void
lost(struct work *w, uint64_t number, uint64_t promise, uint64_t offset, const uint8_t *is, size_t length)
{
	char what[200], by[200], there[200], want[512], *got, *again = command_again(w->t);

	if (durability_waived(w->t))
		skip(w->t, "durability", "--durability-waived: and %s is lost", op_text(w, number, what));
	describe(w, offset, is, length, there);
	if (promise == number)
		snprintf(by, sizeof(by), "its FUA");
	else
		op_text(w, promise, by);
	snprintf(want, sizeof(want), "at %" PRIu64 " what %s put there, which %s promised", offset,
	         op_text(w, number, what), by);
	if (asprintf(&got, "%s; once more: %s", there, again) < 0)
		abort();
	broken_values(w->t, promise_of(w, number, promise), want, got);
}

static void
unexplained(struct work *w, uint64_t offset, const uint8_t *is, size_t length, bool pending)
{
	char there[200], *again = command_again(w->t);

	describe(w, offset, is, length, there);
	if (pending)
		warns(w->t, R(write_stored),
		      "at %" PRIu64 " there is %s, which no order of events explains; once more: %s", offset, there,
		      again);
	else
		broken(w->t, R(write_stored),
		       "at %" PRIu64 ", where nothing was under way, there is %s after the power cut; once more: %s",
		       offset, there, again);
}

/* The one that must at least be there: the newest guaranteed one; 0: none. */
static const struct history_candidate *
owed(const struct history_cell *cell)
{
	for (unsigned i = cell->n; i-- > 0;)
		if (cell->candidates[i]->guaranteed)
			return cell->candidates[i];
	return NULL;
}

/*
 * Byte by byte: no text says in what pieces a server writes below what came in one, so each may be of another candidate.
 */
static bool
is_explained(const struct work *w, const struct history_cell *cell, uint64_t offset, const uint8_t *is, size_t length,
             uint8_t left[TEAR_UNIT])
{
	uint8_t want[TEAR_UNIT];
	bool some = true;

	memset(left, 1, length);
	for (unsigned i = 0; i < cell->n && some; i++) {
		const struct history_candidate *c = cell->candidates[i];

		if (c->kind == HISTORY_TRIM)
			return true;
		contents(w, c->number, c->kind, offset, length, want);
		some = false;
		for (size_t k = 0; k < length; k++) {
			left[k] &= want[k] != is[k];
			some |= left[k];
		}
	}
	return !some;
}

/* Are all the bytes that nothing explains those of an earlier command, or what was there before? */
static bool
is_old(const struct work *w, uint64_t offset, const uint8_t *is, size_t length, uint8_t left[TEAR_UNIT])
{
	uint8_t want[TEAR_UNIT];
	bool some = false;

	for (size_t k = 0; k < length; k++)
		left[k] &= is[k] != w->before[offset + k];
	for (uint64_t i = w->n; i > 0; i--) {
		const struct op *op = &w->ops[i];

		if (op->type != NBD_CMD_WRITE || op->offset >= offset + length || offset >= op->offset + op->length)
			continue;
		contents(w, i, HISTORY_WRITE, offset, length, want);
		for (size_t k = 0; k < length; k++)
			if (op->offset <= offset + k && offset + k < op->offset + op->length)
				left[k] &= want[k] != is[k];
	}
	for (size_t k = 0; k < length; k++)
		some |= left[k];
	return !some;
}

static void
judge_piece(struct work *w, const struct history_cell *cell, uint64_t offset, const uint8_t *is, size_t length)
{
	const struct history_candidate *g;
	uint8_t left[TEAR_UNIT];
	bool pending = false;
	uint64_t number;

	if (is_explained(w, cell, offset, is, length, left))
		return;
	for (unsigned i = 0; i < cell->n; i++)
		pending |= cell->candidates[i]->number != 0 && !cell->candidates[i]->guaranteed;
	g = owed(cell);
	/* What was settled before later commands came is told as what was there first. */
	number = g != NULL ? g->number : w->settler[offset / TEAR_UNIT];
	if (number != 0 && (!pending || is_old(w, offset, is, length, left)))
		lost(w, number, g != NULL ? g->promise : w->ops[number].promise, offset, is, length);
	else
		unexplained(w, offset, is, length, pending);
}

static void
judge_settled(struct work *w, uint64_t offset, const uint8_t *is, uint64_t length)
{
	uint64_t n, number;

	if (memcmp(is, w->settled + offset, length) == 0)
		return;
	for (; length > 0; length -= n, offset += n, is += n) {
		n = TEAR_UNIT - offset % TEAR_UNIT;
		n = n < length ? n : length;
		if (memcmp(is, w->settled + offset, n) == 0)
			continue;
		number = w->settler[offset / TEAR_UNIT];
		if (number != 0)
			lost(w, number, w->ops[number].promise, offset, is, n);
		unexplained(w, offset, is, n, false);
	}
}

static void
judge_chunk(struct work *w, uint64_t start, const uint8_t *is, uint64_t length)
{
	uint64_t end = start + length, at = start, next;
	struct history_cell cell;

	while (at < end) {
		bool more = history_next(w->history, at, &cell);

		if (!more || cell.offset > at) {
			next = more && cell.offset < end ? cell.offset : end;
			judge_settled(w, at, is + (at - start), next - at);
		} else {
			next = (at / TEAR_UNIT + 1) * TEAR_UNIT;
			next = next < cell.offset + cell.length ? next : cell.offset + cell.length;
			next = next < end ? next : end;
			judge_piece(w, &cell, at, is + (at - start), (size_t)(next - at));
		}
		at = next;
	}
}

void
cut(struct work *w, const char *policy)
{
	cut_power(w->t, policy);
	w->in_flight = 0;
	enter_transmission(w->t);
}

/* From now on that is what was there first. Where it is not what a command had put there for good, nobody did. */
static void
accept_chunk(struct work *w, uint64_t start, const uint8_t *is, uint64_t length)
{
	for (uint64_t at = 0; at < length; at += TEAR_UNIT) {
		uint64_t n = length - at < TEAR_UNIT ? length - at : TEAR_UNIT;

		if (memcmp(w->settled + start + at, is + at, n) != 0)
			w->settler[(start + at) / TEAR_UNIT] = 0;
	}
	memcpy(w->settled + start, is, length);
	memcpy(w->before + start, is, length);
}

void
look(struct work *w)
{
	uint8_t *is = malloc(CHUNK);

	if (is == NULL)
		abort();
	for (uint64_t chunk = 0; chunk * CHUNK < w->size; chunk++) {
		uint64_t at = chunk * CHUNK, n = w->size - at < CHUNK ? w->size - at : CHUNK;

		if (!w->touched[chunk])
			continue;
		read_all(w, at, n, is);
		judge_chunk(w, at, is, n);
		accept_chunk(w, at, is, n);
	}
	free(is);
	history_cut(w->history);
	w->open = false;
}

void
cut_and_look(struct work *w, const char *policy)
{
	cut(w, policy);
	look(w);
}

const char *
next_policy(const struct test *t, const char *policy)
{
	static char text[40];

	if (strcmp(policy, "drop") != 0)
		return NULL;
	snprintf(text, sizeof(text), "random %" PRIu64, case_seed(t));
	return text;
}
