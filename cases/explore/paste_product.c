/* A finding of the product as a case that can be pasted into cases/server/, with the command that does it again. */
#include "cases/explore/product.h"

#include "harness/exploration.h"
#include "harness/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_PASTED = 32 };

struct paste {
	FILE *f;
	const struct entered *e;
	const struct combination *c;
	unsigned n;
	const struct product_breach *b;
	const char *r; /* its requirement */
	bool paints;
};

static const char judge[] =
	"static bool\n"
	"covers(const struct sent *q, const struct reply *a, uint64_t at)\n"
	"{\n"
	"\tbool writes = q->type == NBD_CMD_WRITE || q->type == NBD_CMD_WRITE_ZEROES || q->type == NBD_CMD_TRIM;\n\n"
	"\treturn writes && a->error != NBD_ENOTSUP && at >= q->offset && at - q->offset < q->length;\n"
	"}\n\n"
	"/* Is each byte what it was, or what one of the requests makes of it? Behind them it is not what one has "
	"changed. */\n"
	"static void\n"
	"expect_possible(struct test *t, enum requirement_id r, struct range where, const uint8_t *got, const uint8_t "
	"*before,\n"
	"                const struct sent *q, const struct reply *a, uint8_t *const *data, unsigned n, bool behind)\n"
	"{\n"
	"\tfor (uint32_t i = 0; i < where.length; i++) {\n"
	"\t\tuint64_t at = where.offset + i;\n"
	"\t\tbool changed = false, made = false;\n\n"
	"\t\tfor (unsigned k = 0; k < n; k++) {\n"
	"\t\t\tif (!covers(&q[k], &a[k], at))\n"
	"\t\t\t\tcontinue;\n"
	"\t\t\tchanged |= a[k].error == NBD_SUCCESS;\n"
	"\t\t\tmade |= q[k].type == NBD_CMD_TRIM ||\n"
	"\t\t\t        got[i] == (q[k].type == NBD_CMD_WRITE ? data[k][at - q[k].offset] : 0);\n"
	"\t\t}\n"
	"\t\tEXPECT(t, r, made || (got[i] == before[i] && !(behind && changed)),\n"
	"\t\t       \"byte %\" PRIu64 \" of the export is 0x%02x\", at, got[i]);\n"
	"\t}\n"
	"}\n\n";

/* ---- what is sent ---- */

static struct request
request_at(const struct paste *p, unsigned i)
{
	return request_of(&p->c[i], p->e);
}

static void
put_asked(const struct paste *p)
{
	fputs("\tstatic const struct {\n\t\tuint16_t flags, type;\n\t\tuint64_t offset;\n\t\tuint32_t length;\n"
	      "\t\tbool bait; /* its data are requests */\n\t} asked[] = {\n",
	      p->f);
	for (unsigned i = 0; i < p->n; i++) {
		struct request q = request_at(p, i);
		const char *name = name_of(NAME_COMMAND, q.type);
		struct law l = law_of(&q, p->e);

		fprintf(p->f, "\t\t{ 0x%x, ", q.flags);
		if (name != NULL)
			fputs(name, p->f);
		else
			fprintf(p->f, "0x%x", q.type);
		fprintf(p->f, ", %" PRIu64 "u, %" PRIu64 ", %s },\n", q.offset, q.length,
		        q.type == NBD_CMD_WRITE && !l.may_succeed ? "true" : "false");
	}
	fprintf(p->f, "\t};\n\tstruct sent q[%u];\n\tstruct reply a[%u];\n\tuint8_t *data[%u] = { NULL };\n", p->n,
	        p->n, p->n);
}

/* All that they touch of one part, and two blocks around it; empty where they touch none of it. */
static struct span
area_of(const struct paste *p, struct span part)
{
	uint64_t from = UINT64_MAX, to = 0, end = part.offset + part.length, more = 2 * block_of(p->e);

	for (unsigned i = 0; i < p->n; i++) {
		struct request q = request_at(p, i);
		uint64_t behind = q.offset + q.length;

		if (q.length == 0 || q.offset >= end || behind <= part.offset || behind < q.offset)
			continue;
		from = q.offset < from ? q.offset : from;
		to = behind > to ? behind : to;
	}
	if (from >= to)
		return (struct span){ part.offset, 0 };
	from = from < part.offset + more ? part.offset : (from - more) / p->e->minimum * p->e->minimum;
	to = to > end - more ? end : (to + more) / p->e->minimum * p->e->minimum;
	return (struct span){ from, to - from };
}

/* Nothing of it is known where we may not write; where only the answers matter, a thing that stands there does. */
static unsigned
areas_of(const struct paste *p, struct span areas[3])
{
	struct span parts[3];
	unsigned n = spans_of(p->e, parts), used = 0;

	for (unsigned i = 0; i < n && p->paints; i++) {
		areas[used] = area_of(p, parts[i]);
		used += areas[used].length > 0;
	}
	return used;
}

static void
put_areas(const struct paste *p, const struct span *areas, unsigned n)
{
	if (n == 0)
		return;
	fputs("\tstatic const struct range areas[] = { ", p->f);
	for (unsigned i = 0; i < n; i++)
		fprintf(p->f, "%s{ %" PRIu64 "u, %" PRIu64 " }", i > 0 ? ", " : "", areas[i].offset, areas[i].length);
	fprintf(p->f, " };\n\tuint8_t *before[%u];\n", n);
}

static void
put_enter(const struct paste *p)
{
	static const char *const enter[MODES] = {
		[MODE_SIMPLE] = "enter_transmission(t);",
		[MODE_STRUCTURED] = "enter_structured(t);",
		[MODE_CONTEXTS] = "enter_with_contexts(t, (const char *const[]){ \"base:allocation\" }, 1);",
	};

	fprintf(p->f, "\n\t%s\n", enter[p->e->mode]);
	if ((p->e->flags & NBD_FLAG_READ_ONLY) != 0)
		fputs("\tif ((t->s->flags & NBD_FLAG_READ_ONLY) == 0)\n"
		      "\t\tskip(t, \"read-only\", \"the export can be written to\");\n",
		      p->f);
}

static void
put_paint(const struct paste *p, unsigned n)
{
	if (n == 0)
		return;
	fprintf(p->f,
	        "\tfor (unsigned i = 0; i < %u; i++) {\n"
	        "\t\tbefore[i] = room(areas[i].length);\n"
	        "\t\tfill_pattern(before[i], areas[i].length, areas[i].offset, 1);\n"
	        "\t\tstore(t, areas[i].offset, before[i], areas[i].length, R(%s));\n"
	        "\t}\n",
	        n, p->r);
}

/* ---- what is held against it ---- */

static bool
is_about_leaving(const struct paste *p)
{
	return p->b->kind == BREACH_STREAM && !p->b->behind;
}

static void
put_group(const struct paste *p, unsigned from, unsigned to)
{
	bool leaves = false;

	for (unsigned i = from; i < to; i++) {
		struct request q = request_at(p, i);

		leaves |= law_of(&q, p->e).may_leave;
	}
	fprintf(p->f,
	        "\tfor (unsigned i = %u; i < %u; i++) {\n"
	        "\t\tif (asked[i].type == NBD_CMD_WRITE) {\n"
	        "\t\t\tdata[i] = room(asked[i].length + 1);\n"
	        "\t\t\tif (asked[i].bait)\n"
	        "\t\t\t\tfill_bait(t, data[i], asked[i].length);\n"
	        "\t\t\telse\n"
	        "\t\t\t\tfill_pattern(data[i], asked[i].length, asked[i].offset, i + 2);\n"
	        "\t\t}\n"
	        "\t\tq[i] = send_command(t, asked[i].flags, asked[i].type, asked[i].offset, asked[i].length, "
	        "data[i]);\n"
	        "\t}\n",
	        from, to);
	if (leaves && !is_about_leaving(p))
		fprintf(p->f, "\t/* It may leave us (proto.md:447). */\n\tif (!peer_goes_on(t, R(%s)))\n\t\treturn;\n",
		        p->r);
	fprintf(p->f, "\trecv_replies(t, q + %u, a + %u, %u, R(%s));\n", from, from, to - from, p->r);
}

static void
put_contents(const struct paste *p, unsigned from, unsigned to, unsigned n_areas)
{
	if (p->b->kind != BREACH_CONTENTS || n_areas == 0)
		return;
	fprintf(p->f,
	        "\tfor (unsigned k = 0; k < %u; k++) {\n"
	        "\t\tuint8_t *got = room(areas[k].length);\n\n"
	        "\t\tfor (unsigned i = %u; i < %u; i++)\n"
	        "\t\t\tif (q[i].type == NBD_CMD_READ && a[i].error == NBD_SUCCESS && q[i].offset >= areas[k].offset "
	        "&&\n"
	        "\t\t\t    q[i].offset + q[i].length <= areas[k].offset + areas[k].length)\n"
	        "\t\t\t\texpect_possible(t, R(%s), (struct range){ q[i].offset, q[i].length }, a[i].data,\n"
	        "\t\t\t\t                before[k] + (q[i].offset - areas[k].offset), q + %u, a + %u, data + %u, "
	        "%u, false);\n"
	        "\t\tfor (uint32_t at = 0, len; at < areas[k].length; at += len) {\n"
	        "\t\t\tlen = areas[k].length - at < longest_payload(t) ? areas[k].length - at : "
	        "longest_payload(t);\n"
	        "\t\t\tread_served(t, areas[k].offset + at, len, got + at, R(%s));\n"
	        "\t\t}\n"
	        "\t\texpect_possible(t, R(%s), areas[k], got, before[k], q + %u, a + %u, data + %u, %u, true);\n"
	        "\t\tbefore[k] = got;\n"
	        "\t}\n",
	        n_areas, from, to, p->r, from, from, from, to - from, p->r, p->r, from, from, from, to - from);
}

/* Whatever the result may be. */
static void
put_result(const struct paste *p)
{
	unsigned i = p->b->item >= 0 && (unsigned)p->b->item < p->n ? (unsigned)p->b->item : 0;
	struct request q = request_at(p, i);
	struct law l = law_of(&q, p->e);

	if (p->b->kind != BREACH_RESULT || p->b->behind || (l.may_fail && l.n_errors == 0 && l.may_succeed))
		return;
	fprintf(p->f, "\tEXPECT(t, R(%s), ", p->r);
	if (l.may_succeed)
		fprintf(p->f, "a[%u].error == NBD_SUCCESS", i);
	for (unsigned k = 0; k < l.n_errors; k++)
		fprintf(p->f, "%sa[%u].error == %s", l.may_succeed || k > 0 ? " || " : "", i,
		        name_of(NAME_ERROR, l.errors[k]));
	if (l.n_errors == 0 && l.may_fail)
		fprintf(p->f, "a[%u].error != NBD_SUCCESS", i);
	fprintf(p->f, ", \"error %%u\", a[%u].error);\n", i);
}

/* An extent must not say of bytes that we wrote that they are zeroes. */
static void
put_status(const struct paste *p)
{
	unsigned i = p->b->item >= 0 && (unsigned)p->b->item < p->n ? (unsigned)p->b->item : 0;
	struct request q = request_at(p, i);

	if (p->b->broken[0] != R(state_zero_reads_zeroes) || q.length == 0)
		return;
	fprintf(p->f,
	        "\tfor (uint64_t k = 0, at = q[%u].offset; k < a[%u].status[0].count; at += "
	        "a[%u].status[0].extents[k++].length)\n"
	        "\t\tif ((a[%u].status[0].extents[k].flags & NBD_STATE_ZERO) != 0)\n"
	        "\t\t\tfor (uint32_t n = 0; n < a[%u].status[0].extents[k].length && at + n < q[%u].offset + "
	        "q[%u].length; n++)\n"
	        "\t\t\t\tEXPECT(t, R(%s), before[0][at + n - areas[0].offset] == 0, \"byte %%\" PRIu64 \" is no "
	        "zero\", at + n);\n",
	        i, i, i, i, i, i, i, p->r);
}

static void
put_case(const struct paste *p, const char *names)
{
	struct span areas[3];
	unsigned n_areas = areas_of(p, areas), from = 0;

	if (p->b->kind == BREACH_CONTENTS && n_areas > 0)
		fputs(judge, p->f);
	fprintf(p->f, "CASE(explored, transmission, \"%s\", R(%s))\n{\n", names, p->r);
	put_asked(p);
	put_areas(p, areas, n_areas);
	put_enter(p);
	put_paint(p, n_areas);
	while (from < p->n) {
		unsigned to = from + 1;

		while (to < p->n && !p->c[to].waits)
			to++;
		put_group(p, from, to);
		put_contents(p, from, to, n_areas);
		from = to;
	}
	fprintf(p->f, "\t/* Expected: %s; got: %s. */\n", p->b->expected, p->b->got);
	if (p->b->broken[0] == R(state_zero_reads_zeroes))
		put_status(p);
	else
		put_result(p);
	if (p->b->kind == BREACH_STREAM)
		fprintf(p->f, "\texpect_in_step(t, R(%s));\n\texpect_next_client_served(t, R(%s));\n", p->r, p->r);
	fputs("}\n", p->f);
}

char *
product_finding_text(const struct test *t, const struct entered *e, const struct combination *c, unsigned n,
                     const struct product_breach *b, bool paints)
{
	char *text, *names = combinations_text(c, n), *options, *command;
	size_t size;
	struct paste p = { open_memstream(&text, &size), e, c, n, b, requirement(b->broken[0])->id, paints };

	if (p.f == NULL || asprintf(&options, "--case explore/transmission --explore-sequence '%s'", names) < 0)
		abort();
	command = exploration_again(t, options);
	fprintf(p.f, "%s\n", command);
	if (n <= MOST_PASTED) {
		putc('\n', p.f);
		put_case(&p, names);
	}
	fclose(p.f);
	free(command);
	free(options);
	free(names);
	return text;
}
