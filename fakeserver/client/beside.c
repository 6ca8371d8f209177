/*
 * Several connections of one handle (the setting "connections"), where the server says that they are one disk: the first is the
 * handle itself, and each other a handle beside it, which nobody finds by its number. What one that dies has not answered
 * goes over another.
 */
#include "fakeserver/client/core.h"
#include "harness/nbd.h"

#include <stdlib.h>

struct fc_handle *
fc_first(struct fc_handle *h)
{
	return h->beside_of != NULL ? h->beside_of : h;
}

/* In turn those that are connected; the first where none is. */
struct fc_handle *
fc_pick(struct fc_handle *h)
{
	struct fc_handle *first = fc_first(h), *next;

	for (size_t tried = 0; tried <= first->n_beside; tried++) {
		size_t turn = first->turn++ % (first->n_beside + 1);

		next = turn == 0 ? first : first->beside[turn - 1];
		if (fc_is_connected(next))
			return next;
	}
	return first;
}

bool
fc_is_beside(const struct fc_handle *h)
{
	for (size_t i = 0; i < h->n_beside; i++)
		if (fc_is_connected(h->beside[i]))
			return true;
	return false;
}

/* ---- connecting ---- */

static struct fc_handle *
beside(struct fc_handle *h, size_t i)
{
	if (i == h->n_beside) {
		h->beside[i] = fc_handle_new(h->number);
		h->beside[i]->beside_of = h;
		h->n_beside++;
	}
	return h->beside[i];
}

/* One that cannot connect is done without. */
static void
joined(struct fc_op *op)
{
	struct fc_handle *first = op->handle->beside_of;

	if (--first->n_joining == 0 && fc_is_connected(first))
		fc_finish(TAILQ_FIRST(&first->session->ops));
}

bool
fc_join(struct fc_op *op)
{
	struct fc_handle *h = op->handle;
	struct fc_session *s = h->session;

	if (h->beside_of != NULL || !fc_is_connected(h) || (fc_flags(&s->facts) & NBD_FLAG_CAN_MULTI_CONN) == 0)
		return false;
	/* Counts itself, so that nobody is the last before all have begun. */
	h->n_joining = 1;
	for (size_t i = 0; i + 1 < s->settings.connections; i++) {
		struct fc_op *connect = fc_op_new(beside(h, i), FC_CONNECT, "", joined);

		connect->has_export = op->has_export;
		put_bytes(&connect->export, (struct bytes){ op->export.at, op->export.len });
		h->n_joining++;
		fc_start(connect, s->uri);
	}
	return --h->n_joining > 0;
}

void
fc_stop_joining(struct fc_handle *h)
{
	size_t n = h->n_joining > 0 ? h->n_beside : 0;

	for (size_t i = 0; i < n; i++) {
		struct fc_handle *other = h->beside[i];

		if (fc_is_connected(other))
			fc_disconnect(other->session);
		else if (other->session != NULL)
			fc_over(other->session, "ECANCELED");
		fc_reap(other);
	}
}

/* ---- disconnecting ---- */

static void
parted(struct fc_handle *h)
{
	struct fc_op *op = h->parting;

	if (--h->n_parting > 0)
		return;
	h->parting = NULL;
	fc_finish(op);
}

static void
has_parted(struct fc_op *op)
{
	struct fc_handle *first = fc_first(op->handle);

	if (op->error[0] != '\0')
		fc_fail(first->parting, op->error);
	parted(first);
}

static void
part(struct fc_handle *h)
{
	if (h->session == NULL)
		return;
	fc_first(h)->n_parting++;
	fc_ask(fc_op_new(h, FC_DISCONNECT, "", has_parted));
}

void
fc_part(struct fc_op *op)
{
	struct fc_handle *h = op->handle;

	free(h->again);
	h->again = NULL;
	h->parting = op;
	h->n_parting = 1;
	part(h);
	for (size_t i = 0; i < h->n_beside; i++)
		part(h->beside[i]);
	parted(h);
}
