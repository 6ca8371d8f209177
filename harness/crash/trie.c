#include "harness/crash/trie.h"

#include <stdlib.h>
#include <string.h>

struct node {
	uint32_t cell;           /* that is read next; NEVER: the check ends */
	struct checked *verdict; /* at an end */
};

/* From node to node, in a table with open addressing. */
struct branch {
	uint32_t from, content, to; /* .to 0: free; the root is no branch's end */
};

struct trie {
	const struct space *space;
	struct node *nodes;
	struct branch *branches;
	size_t n_nodes, n_branches, room;
	uint32_t *held; /* of each cell that has a change in the view: its content; else NEVER */
};

static void *
need(void *memory)
{
	if (memory == NULL)
		abort();
	return memory;
}

struct trie *
trie_new(const struct space *s)
{
	struct trie *t = need(calloc(1, sizeof(*t)));

	t->space = s;
	t->room = 1024;
	t->branches = need(calloc(t->room, sizeof(*t->branches)));
	t->nodes = need(calloc(1, sizeof(*t->nodes)));
	t->n_nodes = 1; /* the root, whose branches are the numbers of marks */
	t->held = need(malloc((s->n_cells + 1u) * sizeof(*t->held)));
	memset(t->held, 0xff, (s->n_cells + 1u) * sizeof(*t->held));
	return t;
}

void
trie_free(struct trie *t)
{
	if (t == NULL)
		return;
	for (size_t i = 0; i < t->n_nodes; i++)
		free(t->nodes[i].verdict);
	free(t->nodes);
	free(t->branches);
	free(t->held);
	free(t);
}

static struct branch *
branch_of(const struct trie *t, uint32_t from, uint32_t content)
{
	uint64_t key = ((uint64_t)from << 32 | content) * UINT64_C(0x9e3779b97f4a7c15);
	size_t at = (size_t)((key ^ key >> 31) % t->room);

	while (t->branches[at].to != 0 && (t->branches[at].from != from || t->branches[at].content != content))
		at = at + 1 < t->room ? at + 1 : 0;
	return &t->branches[at];
}

static void
make_room(struct trie *t)
{
	struct branch *old = t->branches;
	size_t room = t->room;

	if (2 * t->n_branches < t->room)
		return;
	t->room = 2 * room;
	t->branches = need(calloc(t->room, sizeof(*t->branches)));
	for (size_t i = 0; i < room; i++)
		if (old[i].to != 0)
			*branch_of(t, old[i].from, old[i].content) = old[i];
	free(old);
}

/* Where the branch leads, to a new node if need be. */
static uint32_t
follow(struct trie *t, uint32_t from, uint32_t content, bool *is_new)
{
	struct branch *b;

	make_room(t);
	b = branch_of(t, from, content);
	*is_new = b->to == 0;
	if (!*is_new)
		return b->to;
	if ((t->n_nodes & (t->n_nodes - 1)) == 0)
		t->nodes = need(reallocarray(t->nodes, 2 * t->n_nodes, sizeof(*t->nodes)));
	t->nodes[t->n_nodes] = (struct node){ .cell = NEVER };
	*b = (struct branch){ from, content, (uint32_t)t->n_nodes++ };
	t->n_branches++;
	return b->to;
}

static void
end_at(struct trie *t, uint32_t node, const struct checked *result)
{
	t->nodes[node].verdict = need(malloc(sizeof(*result)));
	*t->nodes[node].verdict = *result;
}

bool
trie_add(struct trie *t, uint32_t must, const struct touched *touched, uint32_t n, const struct checked *result,
         struct trie_path *added)
{
	bool is_new;
	uint32_t from = 0, content = must, node = follow(t, from, content, &is_new);

	*added = (struct trie_path){ .from = NEVER };
	for (uint32_t i = 0;; i++) {
		if (is_new && added->from == NEVER)
			*added = (struct trie_path){ from, content, touched + i, n - i };
		if (i == n)
			break;
		if (is_new)
			t->nodes[node].cell = touched[i].cell;
		else if (t->nodes[node].cell != touched[i].cell)
			return false;
		from = node;
		content = touched[i].content;
		node = follow(t, from, content, &is_new);
	}
	if (is_new) {
		end_at(t, node, result);
		return true;
	}
	return t->nodes[node].cell == NEVER && t->nodes[node].verdict->verdict == result->verdict &&
	       t->nodes[node].verdict->number == result->number;
}

/* An end has no branches; the root has them for numbers of marks. */
static bool
fits(const struct trie *t, const struct trie_path *path)
{
	const struct space *s = t->space;

	if (path->from >= t->n_nodes || (path->from > 0 && t->nodes[path->from].cell == NEVER) ||
	    branch_of(t, path->from, path->content)->to != 0)
		return false;
	for (uint32_t i = 0; i < path->n; i++)
		if (path->touched[i].cell >= s->n_cells || path->touched[i].content >= s->versions_of[s->n_cells])
			return false;
	return true;
}

bool
trie_restore(struct trie *t, const struct trie_path *path, const struct checked *result)
{
	bool is_new;
	uint32_t node;

	if (!fits(t, path))
		return false;
	node = follow(t, path->from, path->content, &is_new);
	for (uint32_t i = 0; i < path->n; i++) {
		t->nodes[node].cell = path->touched[i].cell;
		node = follow(t, node, path->touched[i].content, &is_new);
	}
	end_at(t, node, result);
	return true;
}

static uint32_t
place_of(const struct view *v, uint32_t cell)
{
	uint32_t low = 0, high = v->n_open;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (v->open[middle] < cell)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static uint32_t
content_of(const struct trie *t, const struct view *v, uint32_t cell)
{
	uint32_t version = v->at_rest[cell], place;

	if (t->held[cell] != NEVER)
		return t->held[cell];
	if (version == NEVER) {
		place = place_of(v, cell);
		version = v->versions[place][v->groups[v->group_of[place]].chosen];
	}
	return t->space->versions[version].content;
}

const struct checked *
trie_find(struct trie *t, uint32_t must, const struct view *v)
{
	const struct branch *b = branch_of(t, 0, must);

	for (uint32_t i = 0; i < v->n_changes; i++) {
		const struct change *c = &v->changes[i];

		t->held[v->open[c->place]] = t->space->versions[v->versions[c->place][c->candidate]].content;
	}
	while (b->to != 0 && t->nodes[b->to].cell != NEVER)
		b = branch_of(t, b->to, content_of(t, v, t->nodes[b->to].cell));
	for (uint32_t i = 0; i < v->n_changes; i++)
		t->held[v->open[v->changes[i].place]] = NEVER;
	return b->to != 0 ? t->nodes[b->to].verdict : NULL;
}
