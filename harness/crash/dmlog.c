#include "harness/crash/dmlog.h"

#include "harness/crash/record.h"
#include "harness/nbd.h"

#include <endian.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC   UINT64_C(0x6a736677736872)
#define VERSION UINT64_C(1)
/* The first mark of a log of ours. */
#define SIZE_NOTE "nbdspec: "

enum { SECTOR = 512, FLAG_FLUSH = 1, FLAG_FUA = 2, FLAG_DISCARD = 4, FLAG_MARK = 8, FLAG_METADATA = 16 };
enum { FLAGS_KNOWN = 31, SECTOR_MOST = 65536, PIECE = 1 << 30 };

struct super {
	uint64_t magic, version, nr_entries;
	uint32_t sectorsize;
};

struct entry {
	uint64_t sector, nr_sectors, flags, data_len;
};

static bool
refuse(char error[512], const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error, 512, fmt, ap);
	va_end(ap);
	return false;
}

/* ---- writing ---- */

struct writer {
	const struct recording *r;
	FILE *f;
	uint64_t n_entries;
	uint32_t *live, n_live; /* commands that have arrived and will be answered later, or never */
	uint32_t *owed, n_owed; /* answered, and guaranteed by nothing */
	char *error;
};

static void
put_entry(struct writer *w, uint64_t flags, uint64_t offset, uint64_t length, struct bytes text)
{
	uint8_t sector[SECTOR] = { 0 };
	struct entry e = { htole64(offset / SECTOR), htole64(length / SECTOR), htole64(flags), htole64(text.len) };

	memcpy(sector, &e, sizeof(e));
	if (text.len > 0)
		memcpy(sector + sizeof(e), text.at, text.len);
	fwrite(sector, 1, sizeof(sector), w->f);
	w->n_entries++;
}

static bool
put_mark(struct writer *w, struct bytes text)
{
	/* The target itself cuts longer ones. */
	if (text.len > SECTOR - sizeof(struct entry) - 1)
		return refuse(w->error, "a mark of %zu bytes: the format has room for %zu", text.len,
		              SECTOR - sizeof(struct entry) - 1);
	put_entry(w, FLAG_MARK, 0, 0, text);
	return true;
}

static bool
is_write(const struct recorded_command *c)
{
	return c->kind != HISTORY_FLUSH;
}

/* Its place is that of its answer; all others have that of their arrival, since they may be on the disk from then on. */
static bool
waits_for_answer(const struct recorded_command *c)
{
	return c->fua && c->answered != NEVER;
}

static void
put_command(struct writer *w, const struct recorded_command *c)
{
	static const uint8_t zeroes[64 << 10];
	uint64_t flags = waits_for_answer(c) ? FLAG_FUA : 0;

	if (!is_write(c)) {
		put_entry(w, FLAG_FLUSH, 0, 0, (struct bytes){ 0 });
		return;
	}
	put_entry(w, flags | (c->kind == HISTORY_TRIM ? FLAG_DISCARD : 0), c->offset, c->length, (struct bytes){ 0 });
	if (c->kind == HISTORY_WRITE)
		fwrite(c->data, 1, c->length, w->f);
	for (uint64_t n = c->kind == HISTORY_ZEROES ? c->length : 0, step; n > 0; n -= step) {
		step = n < sizeof(zeroes) ? n : sizeof(zeroes);
		fwrite(zeroes, 1, step, w->f);
	}
}

static bool
together(struct writer *w, const struct recorded_command *a, const struct recorded_command *b, const char *why)
{
	return refuse(w->error,
	              "the %s of %" PRIu64 " bytes at %" PRIu64 " and the %s of %" PRIu64 " at %" PRIu64
	              " were on their way at once%s: the format has but one order",
	              recorded_kind_name(a->kind), a->length, a->offset, recorded_kind_name(b->kind), b->length,
	              b->offset, why);
}

static bool
overlap(const struct recorded_command *a, const struct recorded_command *b)
{
	return a->offset < b->offset + b->length && b->offset < a->offset + a->length;
}

/* What the log, in which each command comes and is answered at one moment, would say otherwise than the recording. */
static bool
check_pair(struct writer *w, const struct recorded_command *old, const struct recorded_command *new)
{
	if (is_write(old) && is_write(new))
		return !overlap(old, new) || together(w, old, new, ", and overlap");
	if (is_write(old) != is_write(new) && !waits_for_answer(is_write(old) ? old : new))
		return together(w, old, new, "");
	return true;
}

static bool
check_connections(struct writer *w, const struct recorded_command *flush)
{
	for (uint32_t i = 0; i < w->n_owed && !w->r->multi_conn; i++)
		if (w->r->commands[w->owed[i]].connection != flush->connection)
			return refuse(
				w->error,
				"a FLUSH leaves out what was written on another connection (no CAN_MULTI_CONN): in "
				"the format each covers all");
	return true;
}

static bool
on_arrival(struct writer *w, uint32_t number)
{
	const struct recorded_command *c = &w->r->commands[number];

	if (is_write(c) && c->answered != NEVER && !c->success)
		return refuse(w->error,
		              "the %s of %" PRIu64 " bytes at %" PRIu64 " failed: the format has no such thing",
		              recorded_kind_name(c->kind), c->length, c->offset);
	/* A FLUSH that guarantees nothing is nothing. */
	if (!is_write(c) && !(c->answered != NEVER && c->success))
		return true;
	if (is_write(c) && (c->offset % SECTOR != 0 || c->length % SECTOR != 0))
		return refuse(w->error,
		              "the %s of %" PRIu64 " bytes at %" PRIu64 " is not in whole sectors of %d bytes",
		              recorded_kind_name(c->kind), c->length, c->offset, SECTOR);
	if (!is_write(c) && !check_connections(w, c))
		return false;
	for (uint32_t i = 0; i < w->n_live; i++)
		if (!check_pair(w, &w->r->commands[w->live[i]], c))
			return false;
	w->live[w->n_live++] = number;
	if (is_write(c) && !waits_for_answer(c))
		put_command(w, c);
	return true;
}

/* While a FUA command is on its way it may be there or not; in the log it is not, up to its answer. */
static const struct recorded_command *
waiting_fua(const struct writer *w)
{
	for (uint32_t i = 0; i < w->n_live; i++)
		if (waits_for_answer(&w->r->commands[w->live[i]]))
			return &w->r->commands[w->live[i]];
	return NULL;
}

static bool
on_answer(struct writer *w, uint32_t number)
{
	const struct recorded_command *c = &w->r->commands[number], *fua;
	uint32_t i = 0, kept = 0;

	while (i < w->n_live && w->live[i] != number)
		i++;
	if (i == w->n_live)
		return true;
	memmove(&w->live[i], &w->live[i + 1], (w->n_live - i - 1) * sizeof(*w->live));
	w->n_live--;
	if (is_write(c) && !c->fua) {
		w->owed[w->n_owed++] = number;
		return true;
	}
	fua = waiting_fua(w);
	if (fua != NULL)
		return together(w, fua, c, ", with FUA");
	for (i = 0; i < w->n_owed && !is_write(c); i++)
		if (w->r->commands[w->owed[i]].answered > c->received)
			w->owed[kept++] = w->owed[i];
	if (!is_write(c))
		w->n_owed = kept;
	put_command(w, c);
	return true;
}

static bool
on_mark(struct writer *w, struct bytes text)
{
	const struct recorded_command *fua = waiting_fua(w);

	if (fua != NULL)
		return refuse(w->error,
		              "a mark was set while the %s of %" PRIu64 " bytes at %" PRIu64
		              " with FUA was on its way: the format has but one order",
		              recorded_kind_name(fua->kind), fua->length, fua->offset);
	return put_mark(w, text);
}

static bool
put_events(struct writer *w)
{
	const struct recording *r = w->r;
	bool ok = true;

	for (uint32_t i = 0; ok && i <= r->n_events; i++) {
		if (i == r->begin)
			ok = on_mark(w, BYTES_OF(MARK_BEGIN));
		if (!ok || i == r->n_events)
			break;
		if (r->events[i].what == EVENT_RECEIVED)
			ok = on_arrival(w, r->events[i].which);
		else if (r->events[i].what == EVENT_ANSWERED)
			ok = on_answer(w, r->events[i].which);
		else
			ok = on_mark(w, r->marks[r->events[i].which].text);
	}
	return ok;
}

static void
put_super(struct writer *w)
{
	uint8_t sector[SECTOR] = { 0 };
	struct super s = { htole64(MAGIC), htole64(VERSION), htole64(w->n_entries), htole32(SECTOR) };

	memcpy(sector, &s, sizeof(s));
	rewind(w->f);
	fwrite(sector, 1, sizeof(sector), w->f);
}

bool
dmlog_write(const struct recording *r, FILE *f, char error[512])
{
	struct writer w = { .r = r, .f = f, .error = error };
	char *note = recording_note(r->size, r->minimum, r->multi_conn), *text;
	bool ok;

	w.live = calloc(r->n_commands + 1u, sizeof(*w.live));
	w.owed = calloc(r->n_commands + 1u, sizeof(*w.owed));
	if (w.live == NULL || w.owed == NULL || asprintf(&text, SIZE_NOTE "%s", note) < 0)
		abort();
	put_super(&w);
	ok = put_mark(&w, bytes_of(text)) && put_events(&w);
	if (ok)
		put_super(&w);
	free(w.live);
	free(w.owed);
	free(note);
	free(text);
	return ok;
}

/* ---- reading ---- */

struct reader {
	struct bytes log;
	size_t at;
	uint64_t sectorsize, n_entries, cookie;
	struct trace *t;
	char *error;
};

static bool
read_super(struct reader *d)
{
	struct super s;

	if (d->log.len < sizeof(s))
		return refuse(d->error, "is no log of log-writes: it ends in its first sector");
	memcpy(&s, d->log.at, sizeof(s));
	d->sectorsize = le32toh(s.sectorsize);
	d->n_entries = le64toh(s.nr_entries);
	if (le64toh(s.magic) != MAGIC)
		return refuse(d->error, "is no log of log-writes: it does not begin with its magic");
	if (le64toh(s.version) != VERSION)
		return refuse(d->error, "is a log of version %" PRIu64 "; known is 1", le64toh(s.version));
	if (d->sectorsize < SECTOR || d->sectorsize > SECTOR_MOST || (d->sectorsize & (d->sectorsize - 1)) != 0)
		return refuse(d->error, "has sectors of %" PRIu64 " bytes", d->sectorsize);
	d->at = d->sectorsize;
	return true;
}

/* Its text, or its data, is what it points to. */
static bool
next_entry(struct reader *d, uint64_t n, struct entry *e, struct bytes *data)
{
	uint64_t left = d->at <= d->log.len ? d->log.len - d->at : 0, len;

	if (left < d->sectorsize)
		return refuse(d->error, "ends before entry %" PRIu64 " of %" PRIu64, n + 1, d->n_entries);
	memcpy(e, d->log.at + d->at, sizeof(*e));
	*e = (struct entry){ le64toh(e->sector), le64toh(e->nr_sectors), le64toh(e->flags), le64toh(e->data_len) };
	if ((e->flags & ~(uint64_t)FLAGS_KNOWN) != 0)
		return refuse(d->error, "entry %" PRIu64 " has flags 0x%" PRIx64 ", which are not known", n + 1,
		              e->flags);
	if (e->sector > INT64_MAX / d->sectorsize || e->nr_sectors > INT64_MAX / d->sectorsize - e->sector ||
	    ((e->flags & FLAG_MARK) != 0 && e->data_len > d->sectorsize - sizeof(*e)))
		return refuse(d->error, "entry %" PRIu64 " is larger than a disk, or a sector, can be", n + 1);
	len = (e->flags & (FLAG_DISCARD | FLAG_MARK)) != 0 ? 0 : e->nr_sectors * d->sectorsize;
	if (left - d->sectorsize < len)
		return refuse(d->error, "ends in the data of entry %" PRIu64 " of %" PRIu64, n + 1, d->n_entries);
	*data = (struct bytes){ d->log.at + d->at + d->sectorsize, len };
	if ((e->flags & FLAG_MARK) != 0)
		*data = (struct bytes){ d->log.at + d->at + sizeof(*e), e->data_len };
	d->at += d->sectorsize + len;
	return true;
}

static void
put_exchange(struct reader *d, uint16_t type, bool fua, uint64_t offset, uint64_t length, struct bytes data)
{
	struct request q = { .magic = NBD_REQUEST_MAGIC,
		             .flags = fua ? NBD_CMD_FLAG_FUA : 0,
		             .type = type,
		             .cookie = ++d->cookie,
		             .offset = offset,
		             .length = (uint32_t)length,
		             .data = data };
	struct trace_record t = { .kind = TRACE_MESSAGE, .connection = 1, .cookie = d->cookie };
	struct buf b = { 0 };

	wire_put_request(&b, &q);
	t.message = MSG_REQUEST;
	t.direction = TO_SERVER;
	t.data = (struct bytes){ b.at, b.len };
	t.length = (uint32_t)b.len;
	trace_add(d->t, &t);
	buf_clear(&b);
	wire_put_simple_reply(&b, &(struct simple_reply){ .magic = NBD_SIMPLE_REPLY_MAGIC, .cookie = d->cookie });
	t.message = MSG_SIMPLE_REPLY;
	t.direction = TO_CLIENT;
	t.data = (struct bytes){ b.at, b.len };
	t.length = (uint32_t)b.len;
	trace_add(d->t, &t);
	buf_free(&b);
}

/* A bio with both flags flushes first. A disk that is larger than a request is discarded in pieces. */
static void
take_entry(struct reader *d, const struct entry *e, struct bytes data)
{
	uint64_t offset = e->sector * d->sectorsize, left = e->nr_sectors * d->sectorsize, n;
	bool fua = (e->flags & FLAG_FUA) != 0, discard = (e->flags & FLAG_DISCARD) != 0;
	struct wire w = wire_over(data);

	if ((e->flags & FLAG_FLUSH) != 0)
		put_exchange(d, NBD_CMD_FLUSH, false, 0, 0, (struct bytes){ 0 });
	for (; left > 0; left -= n, offset += n) {
		n = left < PIECE ? left : PIECE;
		put_exchange(d, discard ? NBD_CMD_TRIM : NBD_CMD_WRITE, fua, offset, n, wire_take(&w, discard ? 0 : n));
	}
}

/* What our own log tells of the disk, or else how far the writes go. */
static bool
find_size(struct reader *d, uint64_t *size, uint64_t *minimum, bool *multi_conn)
{
	struct reader look = *d;
	struct entry e;
	struct bytes data;
	uint64_t end = 0;
	char text[128];
	int several;

	for (uint64_t i = 0; i < look.n_entries; i++) {
		if (!next_entry(&look, i, &e, &data))
			return false;
		if ((e.flags & FLAG_MARK) == 0 && (e.sector + e.nr_sectors) * d->sectorsize > end)
			end = (e.sector + e.nr_sectors) * d->sectorsize;
		snprintf(text, sizeof(text), "%.*s", data.len < 127 ? (int)data.len : 127,
		         (e.flags & FLAG_MARK) != 0 ? (const char *)data.at : "");
		if (i == 0 && sscanf(text, SIZE_NOTE "export size %" SCNu64 " minimum %" SCNu64 " multi-conn %d",
		                     *size == 0 ? size : &(uint64_t){ 0 }, minimum, &several) == 3)
			*multi_conn = several != 0;
	}
	if (*size == 0)
		*size = end;
	if (end > *size)
		return refuse(d->error, "writes up to byte %" PRIu64 "; the disk's size is %" PRIu64, end, *size);
	return *size > 0 || refuse(d->error, "has no write in it");
}

bool
dmlog_read(struct bytes log, uint64_t size, struct trace *t, char error[512])
{
	struct reader d = { .log = log, .t = t, .error = error };
	uint64_t minimum = 0;
	bool multi_conn = false, ours;
	struct entry e;
	struct bytes data;
	char text[SECTOR_MOST + 1], *note;

	if (!read_super(&d) || !find_size(&d, &size, &minimum, &multi_conn))
		return false;
	ours = minimum != 0;
	note = recording_note(size, ours ? minimum : d.sectorsize, multi_conn);
	trace_text(t, TRACE_NOTE, 0, note);
	free(note);
	for (uint64_t i = 0; i < d.n_entries; i++) {
		if (!next_entry(&d, i, &e, &data))
			return false;
		if ((e.flags & FLAG_MARK) == 0) {
			take_entry(&d, &e, data);
			continue;
		}
		snprintf(text, sizeof(text), "%.*s", (int)data.len, (const char *)data.at);
		if (!ours || i > 0)
			trace_text(t, TRACE_MARK, 0, text);
	}
	return true;
}
