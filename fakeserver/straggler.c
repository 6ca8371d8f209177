/* The knob flush_range_strays: what a session has left behind is carried out among the requests of others. */
#include "fakeserver/core.h"

#include "fakeserver/disk.h"

#include <stdlib.h>
#include <string.h>

enum { STRAGGLERS_MOST = 32, WAITS_MOST = 48 };

struct straggler {
	struct straggler *next;
	struct fake_export *export;
	unsigned waits; /* for so many requests of others */
	uint64_t offset;
	size_t length;
	uint8_t data[];
};

static void
leave(struct conn *c, const struct request *r)
{
	struct straggler *s = malloc(sizeof(*s) + r->data.len);

	if (s == NULL)
		abort();
	*s = (struct straggler){ .next = c->server->stragglers,
		                 .export = c->export,
		                 .waits = 1 + random_below(c->server, WAITS_MOST),
		                 .offset = r->offset,
		                 .length = r->data.len };
	memcpy(s->data, r->data.at, r->data.len);
	c->server->stragglers = s;
}

static enum wire_end
get_request(const struct conn *c, struct wire in, struct request *r)
{
	return c->extended ? wire_get_extended_request(in, r) : wire_get_request(in, r);
}

void
stragglers_left(struct conn *c)
{
	size_t header = c->extended ? EXTENDED_REQUEST_SIZE : REQUEST_SIZE;
	struct wire in = wire(c->input.at + c->private->taken, c->input.len - c->private->taken);
	struct request r;

	for (unsigned i = 0; i < STRAGGLERS_MOST && get_request(c, in, &r) != WIRE_SHORT; i++) {
		in = wire(in.at + header + r.data.len, in.left - header - r.data.len);
		/* Nobody learns what became of its flags. */
		r.flags &= NBD_CMD_FLAG_PAYLOAD_LEN;
		if (r.type == NBD_CMD_WRITE && request_error(c, &r) == NBD_SUCCESS)
			leave(c, &r);
	}
}

void
stragglers_turn(struct fake_server *s)
{
	enum disk_state failed;

	for (struct straggler **at = &s->stragglers, *one; (one = *at) != NULL;) {
		if (--one->waits > 0) {
			at = &one->next;
			continue;
		}
		disk_write(one->export->disk, one->offset, one->length, one->data, &failed);
		*at = one->next;
		free(one);
	}
}

void
stragglers_free(struct fake_server *s)
{
	while (s->stragglers != NULL) {
		struct straggler *one = s->stragglers;

		s->stragglers = one->next;
		free(one);
	}
}
