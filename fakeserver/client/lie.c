/* The registry of the fake client's lies, their selectors, and the places where they speak. */
#include "fakeserver/client/lying.h"
#include "harness/section.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

SECTION_LIST(client_lie, struct client_lie, nbdspec_client_lies)

const struct client_lie *
client_lie_at(size_t i)
{
	return section_sorted(client_lie_section(), i);
}

static const struct client_lie *
lie_named(const char *name, size_t len)
{
	const struct client_lie *lie;

	for (size_t i = 0; (lie = client_lie_at(i)) != NULL; i++)
		if (strlen(lie->name) == len && memcmp(lie->name, name, len) == 0)
			return lie;
	return NULL;
}

bool
client_lie_now(struct client_lie_use *l)
{
	if (l->occasion != NULL) {
		*l->occasion = true;
		return false;
	}
	l->turns++;
	return l->turns >= l->nth && (l->times == 0 || l->turns - l->nth < l->times);
}

static bool
take_selector(const char **text, const char *name, unsigned min, unsigned *n)
{
	size_t len = strlen(name);
	unsigned long long value;
	char *end;

	if (strncmp(*text, name, len) != 0 || (*text)[len] < '0' || (*text)[len] > '9')
		return false;
	value = strtoull(*text + len, &end, 10);
	if (value < min || value > 1000000000 || (*end != '\0' && *end != ','))
		return false;
	*n = (unsigned)value;
	*text = *end == ',' ? end + 1 : end;
	return true;
}

bool
client_lie_parse(const char *text, struct client_lie_use *use, char error[256])
{
	size_t len = strcspn(text, ":");
	const char *at = text[len] == ':' ? text + len + 1 : "";

	*use = (struct client_lie_use){ .lie = lie_named(text, len), .nth = 1 };
	if (use->lie == NULL) {
		snprintf(error, 256, "no lie is called '%.*s'; 'nbdspec driver --list-lies' tells them all",
		         len < 100 ? (int)len : 100, text);
		return false;
	}
	while (*at != '\0')
		if (!take_selector(&at, "nth=", 1, &use->nth) && !take_selector(&at, "times=", 0, &use->times)) {
			snprintf(error, 256, "'%.60s': want nth=, from 1, or times=, where 0 is for ever", at);
			return false;
		}
	return true;
}

#define ASK(where, member, ...)                                                                                        \
	for (size_t i = 0; fc_client.lies != NULL && i < fc_client.lies->n; i++) {                                     \
		struct client_lie_use *use = &fc_client.lies->uses[i];                                                 \
		if (use->lie->place == (where))                                                                        \
			use->lie->member(use, __VA_ARGS__);                                                            \
	}

void
fc_lie_command(struct fc_session *s, struct fc_op *op)
{
	ASK(CLIENT_ON_COMMAND, command, s, op);
}

void
fc_lie_sending(struct fc_session *s, struct fc_sending *m)
{
	ASK(CLIENT_ON_SENDING, sending, s, m);
}

void
fc_lie_receiving(struct fc_session *s, struct fc_receiving *m)
{
	ASK(CLIENT_ON_RECEIVING, receiving, s, m);
}

void
fc_lie_violation(struct fc_session *s, struct fc_violation *v)
{
	ASK(CLIENT_ON_VIOLATION, violation, s, v);
}

void
fc_lie_state(struct fc_session *s, enum fc_moment moment)
{
	ASK(CLIENT_ON_STATE, state, s, (int)moment);
}

void
fc_lie_answer(struct fc_session *s, struct fc_op *op)
{
	ASK(CLIENT_ON_ANSWER, answer, s, op);
}
