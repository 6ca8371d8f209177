/* A finding as a case that can be pasted into cases/server/, with the command that walks it again. */
#include "cases/explore/search.h"

#include "harness/exploration.h"
#include "harness/names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
put_c_string(FILE *f, struct bytes b)
{
	putc('"', f);
	for (size_t i = 0; i < b.len; i++)
		if (b.at[i] >= 0x20 && b.at[i] < 0x7f && b.at[i] != '"' && b.at[i] != '\\' && b.at[i] != '?')
			putc(b.at[i], f);
		else
			fprintf(f, "\\%03o", b.at[i]);
	putc('"', f);
}

static void
put_send(FILE *f, const struct walker *w, const struct symbol *s)
{
	const struct buf *b = &w->options[s - symbols];
	struct bytes data = { b->at + OPTION_HEADER_SIZE, b->len - OPTION_HEADER_SIZE };
	const char *name = name_of(NAME_OPTION, s->option);

	if (name != NULL)
		fprintf(f, "\tsend_option(t, %s, ", name);
	else
		fprintf(f, "\tsend_option(t, 0x%x, ", s->option);
	put_c_string(f, data);
	fprintf(f, ", %zu); /* %s */\n", data.len, s->name);
}

static void
put_visit(FILE *f, const struct symbol *s, const char *r)
{
	fputs("\tsession = t->s;\n", f);
	if (s->contexts)
		fputs("\tenter_with_contexts(t, (const char *const[]){ \"base:allocation\" }, 1);\n", f);
	else
		fputs("\tenter_transmission(t);\n", f);
	fprintf(f, "\texpect_in_step(t, R(%s));\n\tdisconnect(t);\n\tuse(t, session);\n", r);
}

static void
put_enter(FILE *f, const struct walker *w, const struct symbol *s, const char *r)
{
	put_send(f, w, s);
	if (s->option == NBD_OPT_EXPORT_NAME) {
		fprintf(f, "\trecv_export_name_reply(t, R(%s));\n", r);
		return;
	}
	fprintf(f,
	        "\tinfos = recv_infos(t, R(%s));\n"
	        "\tEXPECT_REPLY(t, R(%s), infos.final, NBD_REP_ACK);\n"
	        "\tt->s->transmission = true;\n"
	        "\tt->s->size = infos.export.size;\n"
	        "\tt->s->flags = infos.export.flags;\n",
	        r, r);
}

static void
put_option(FILE *f, const struct walker *w, const struct symbol *s, const char *r, bool *over_tls)
{
	if (s->kind == SYMBOL_VISITOR) {
		put_visit(f, s, r);
	} else if (s->kind != SYMBOL_OPTION) {
		fputs("\tdisconnect(t);\n", f);
	} else if (s->option == NBD_OPT_STRUCTURED_REPLY && s->flaw == FLAW_NONE &&
	           w->facts->served[NBD_OPT_STRUCTURED_REPLY]) {
		fputs("\tnegotiate_structured(t);\n", f);
	} else if (s->option == NBD_OPT_STARTTLS && s->flaw == FLAW_NONE && w->facts->tls != NULL && !*over_tls) {
		*over_tls = true;
		fputs("\tstart_tls(t, R(starttls_ack_or_error));\n", f);
	} else {
		put_send(f, w, s);
		fprintf(f, "\tr = final_reply(t, R(%s), &n);\n", r);
	}
}

/* What the last session is asked in transmission, and what must hold of it. */
static void
put_trial(FILE *f, const struct walker *w, const struct breach *b)
{
	static const struct {
		const char *what, *holds;
	} asks[ASKS] = {
		[ASK_FIRST] = { "NBD_CMD_READ, 0, UNIT, NULL", "reply.error == NBD_SUCCESS" },
		[ASK_LAST] = { "NBD_CMD_READ, t->s->size / UNIT * UNIT - UNIT, UNIT, NULL",
		               "reply.error == NBD_SUCCESS" },
		[ASK_STATUS] = { "NBD_CMD_BLOCK_STATUS, 0, UNIT, NULL", "reply.error == NBD_SUCCESS" },
		[ASK_NO_STATUS] = { "NBD_CMD_BLOCK_STATUS, 0, UNIT, NULL", "reply.error == NBD_EINVAL" },
		[ASK_PAST_END] = { "NBD_CMD_READ, t->s->size, UNIT, NULL", "reply.error != NBD_SUCCESS" },
		[ASK_READ_ONLY] = { "NBD_CMD_WRITE, 0, UNIT, zeroes", "reply.error != NBD_SUCCESS" },
	};
	const char *r = requirement(b->broken[0])->id;
	bool counts = b->asked == ASK_STATUS && w->model.n_contexts > 0;

	if (b->asked == ASKS) {
		fprintf(f,
		        "\tsend_request(t, 0, NBD_CMD_DISC, new_cookie(t), 0, 0, NULL);\n"
		        "\texpect_disconnect(t, R(%s));\n",
		        r);
		return;
	}
	fprintf(f, "\treply = exchange(t, 0, %s, R(%s));\n", asks[b->asked].what, r);
	if (b->asked == ASK_FIRST)
		fprintf(f, "\tEXPECT(t, R(%s), reply.structured == %s, \"a %s reply\");\n", r,
		        w->model.structured ? "true" : "false", w->model.structured ? "simple" : "structured");
	fprintf(f, "\tEXPECT(t, R(%s), %s, \"error %%u\", reply.error);\n", r, asks[b->asked].holds);
	if (counts)
		fprintf(f, "\tEXPECT(t, R(%s), reply.n_status == %u, \"%%u status chunks\", reply.n_status);\n", r,
		        w->model.n_contexts);
}

static void
put_last(FILE *f, const struct walker *w, const struct path *p, const struct breach *b)
{
	const char *r = requirement(b->broken[0])->id;
	bool over_tls = is_over_tls(w->t);

	for (unsigned i = 0; i + 1 < p->n && i <= b->at; i++)
		put_option(f, w, p->at[i], r, &over_tls);
	if (b->at >= p->n) {
		put_enter(f, w, p->at[p->n - 1], r);
		put_trial(f, w, b);
	} else if (b->at == p->n - 1 && b->holds_inside) {
		put_enter(f, w, p->at[b->at], r);
	} else if (b->at == p->n - 1) {
		put_option(f, w, p->at[b->at], r, &over_tls);
	}
	fprintf(f, "\t/* Expected: %s; got: %s. */\n", b->expected, b->got);
	if (b->holds_inside && b->at < p->n - 1) {
		put_send(f, w, p->at[b->at]);
		fprintf(f,
		        "\tt->s->flags = recv_infos(t, R(%s)).export.flags;\n"
		        "\tEXPECT(t, R(%s), %s, \"flags 0x%%04x\", t->s->flags);\n",
		        r, r, b->holds);
	} else if (b->holds_inside)
		fprintf(f, "\tEXPECT(t, R(%s), %s, \"flags 0x%%04x\", t->s->flags);\n", r, b->holds);
	else if (b->holds[0] != '\0')
		fprintf(f, "\tEXPECT(t, R(%s), %s, \"reply 0x%%08x behind %%u others\", r.type, n);\n", r, b->holds);
	else if (b->at < p->n)
		fprintf(f, "\texpect_in_step(t, R(%s));\n", r);
}

static void
put_before(FILE *f, const struct walker *w, const struct path *p, const char *r)
{
	const struct symbol *last = p->at[p->n - 1];
	bool over_tls = is_over_tls(w->t);

	for (unsigned i = 0; i + 1 < p->n; i++)
		put_option(f, w, p->at[i], r, &over_tls);
	if (last->option == NBD_OPT_GO || last->option == NBD_OPT_EXPORT_NAME) {
		put_enter(f, w, last, r);
		fprintf(f, "\texpect_in_step(t, R(%s));\n\tdisconnect(t);\n", r);
	} else if (last->kind == SYMBOL_OPTION) {
		put_option(f, w, last, r, &over_tls);
		fputs("\tdisconnect(t);\n", f);
	}
}

static void
put_open(FILE *f, const struct path *p)
{
	if (p->at[p->n - 1]->padded)
		fputs("\topen_haggling(t, NBD_FLAG_C_FIXED_NEWSTYLE);\n", f);
	else
		fputs("\topen_fixed_newstyle(t);\n", f);
}

static void
put_case(FILE *f, const struct walker *w, const struct finding *d, const struct breach *b, const char *names)
{
	const struct scenario *s = &d->shortest;
	const char *r = requirement(b->broken[0])->id;

	fputs("static struct option_reply __attribute__((unused))\nfinal_reply(struct test *t, enum requirement_id "
	      "owed, unsigned *n)\n{\n"
	      "\tstruct option_reply r;\n\n"
	      "\tfor (*n = 0;; (*n)++) {\n\t\tr = recv_option_reply(t, owed);\n"
	      "\t\tif (r.type == NBD_REP_ACK || is_error_reply(r.type))\n\t\t\treturn r;\n\t}\n}\n\n",
	      f);
	fprintf(f, "CASE(explored, sequence, \"%s\", R(%s))\n{\n", names, r);
	fprintf(f, "\tenum { UNIT = %u };\n", trial_unit(&w->model));
	fputs("\tstatic const uint8_t zeroes[UNIT] __attribute__((unused));\n"
	      "\tstruct session *session __attribute__((unused));\n"
	      "\tstruct option_reply r __attribute__((unused)) = { 0 };\n"
	      "\tstruct infos infos __attribute__((unused));\n"
	      "\tstruct reply reply __attribute__((unused));\n"
	      "\tunsigned n __attribute__((unused)) = 0;\n\n",
	      f);
	for (size_t i = 0; i < s->n; i++) {
		put_open(f, &s->path[i]);
		if (i + 1 < s->n)
			put_before(f, w, &s->path[i], r);
	}
	put_last(f, w, &s->path[s->n - 1], b);
	fputs("}\n", f);
}

char *
finding_text(struct search *s, const struct finding *d, const struct breach *b)
{
	char *text, *names = scenario_text(&d->shortest), *options, *command;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (f == NULL || asprintf(&options, "--explore-sequence '%s'", names) < 0)
		abort();
	command = exploration_again(s->t, options);
	fprintf(f, "%s\n\n", command);
	put_case(f, &s->w, d, b, names);
	fclose(f);
	free(command);
	free(options);
	free(names);
	return text;
}
