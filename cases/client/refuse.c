#include "cases/client/refuse.h"

#include "harness/nbd.h"

static const uint32_t *refused;
static uint32_t with;

static bool
is_refused(uint32_t option)
{
	for (const uint32_t *o = refused; *o != 0; o++)
		if (*o == option)
			return true;
	return false;
}

static void
refuse(struct lie_use *l, struct conn *c, struct outgoing *m)
{
	(void)l;
	(void)c;
	if (m->kind != MSG_OPTION_REPLY || !is_refused(m->option))
		return;
	m->drop = !m->final;
	m->reply.type = with;
	m->reply.data = (struct bytes){ 0 };
	m->payload = PAYLOAD_RAW;
}

/* The server has done what it says that it has not. */
static void
take_back(struct lie_use *l, struct conn *c, struct state_change *m)
{
	(void)l;
	if (m->moment != STATE_AFTER_OPTION || !is_refused(m->option))
		return;
	if (m->option == NBD_OPT_GO && c->phase == PHASE_TRANSMISSION)
		c->phase = PHASE_HAGGLING;
	if (m->option == NBD_OPT_STRUCTURED_REPLY)
		c->structured = false;
	if (m->option == NBD_OPT_SET_META_CONTEXT)
		c->n_contexts = 0;
}

void
refuse_options(struct drive *d, uint32_t type, const uint32_t *options)
{
	static const struct lie words = { .name = "refuse", .place = ON_OUTGOING, .outgoing = refuse };
	static const struct lie state = { .name = "take_back", .place = ON_STATE, .state = take_back };
	static struct lie_use uses[] = { { .lie = &words, .nth = 1 }, { .lie = &state, .nth = 1 } };

	refused = options;
	with = type;
	d->config.lies = uses;
	d->config.n_lies = 2;
	drive_restart_server(d);
}
