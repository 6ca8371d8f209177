/* Which file or structure of an ext4 a place belongs to: debugfs and dumpe2fs, after the journal was replayed. */
#include "harness/crash/places.h"
#include "harness/printable.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS_MOST = 64, INODES_MOST = 16, RESIZE_INODE = 7, JOURNAL_INODE = 8 };

struct ext4 {
	struct place *place;
	uint64_t block_size, first, last; /* blocks */
	uint64_t inode_size, inodes_per_group;
	unsigned long long inodes[INODES_MOST];
	unsigned n_inodes;
};

/* ---- structures, of dumpe2fs ---- */

static bool
overlaps(const struct ext4 *x, unsigned long long first, unsigned long long last)
{
	return first <= x->last && last >= x->first;
}

static void
take_inode_table(struct ext4 *x, unsigned group, unsigned long long first, unsigned long long last)
{
	uint64_t start = first * x->block_size, end = (last + 1) * x->block_size, low = x->place->offset, high;

	if (!overlaps(x, first, last) || x->inode_size == 0)
		return;
	high = low + x->place->length < end ? low + x->place->length : end;
	low = low > start ? low - start : 0;
	place_add(x->place, "inode table of group %u: inodes %" PRIu64 " to %" PRIu64, group,
	          group * x->inodes_per_group + low / x->inode_size + 1,
	          group * x->inodes_per_group + (high - start - 1) / x->inode_size + 1);
}

static void
take_structure(struct ext4 *x, const char *line, unsigned *group)
{
	unsigned long long first, last;
	const char *part;

	if (sscanf(line, "Inode size: %" SCNu64, &x->inode_size) == 1 ||
	    sscanf(line, "Inodes per group: %" SCNu64, &x->inodes_per_group) == 1 ||
	    sscanf(line, "Group %u:", group) == 1)
		return;
	part = strstr(line, "superblock at ");
	if (part != NULL && sscanf(part, "superblock at %llu", &first) == 1 && overlaps(x, first, first))
		place_add(x->place, "superblock of group %u", *group);
	part = strstr(line, "Group descriptors at ");
	if (part != NULL && sscanf(part, "Group descriptors at %llu-%llu", &first, &last) == 2 &&
	    overlaps(x, first, last))
		place_add(x->place, "group descriptors of group %u", *group);
	if (sscanf(line, " Block bitmap at %llu", &first) == 1 && overlaps(x, first, first))
		place_add(x->place, "block bitmap of group %u", *group);
	if (sscanf(line, " Inode bitmap at %llu", &first) == 1 && overlaps(x, first, first))
		place_add(x->place, "inode bitmap of group %u", *group);
	if (sscanf(line, " Inode table at %llu-%llu", &first, &last) == 2)
		take_inode_table(x, *group, first, last);
}

/* ---- inodes, of debugfs ---- */

static void
take_inode(struct ext4 *x, const char *line)
{
	unsigned long long block, inode;

	if (sscanf(line, "%llu\t%llu", &block, &inode) != 2 || inode == 0)
		return;
	for (unsigned i = 0; i < x->n_inodes; i++)
		if (x->inodes[i] == inode)
			return;
	if (inode == JOURNAL_INODE)
		place_add(x->place, "the journal");
	else if (inode == RESIZE_INODE)
		place_add(x->place, "blocks reserved for group descriptors");
	else if (x->n_inodes < INODES_MOST)
		x->inodes[x->n_inodes++] = inode;
}

static void
take_path(struct ext4 *x, const char *line)
{
	unsigned long long inode;
	int path = 0;
	char *clean;

	if (sscanf(line, "%llu\t/%n", &inode, &path) != 1 || path == 0)
		return;
	for (unsigned i = 0; i < x->n_inodes; i++)
		if (x->inodes[i] == inode) {
			clean = printable_string(line + path);
			place_add(x->place, "%s%s (inode %llu)", clean[0] == '/' ? "" : "/", clean, inode);
			free(clean);
			x->inodes[i] = 0; /* by its first name */
		}
}

static void
ask_paths(struct ext4 *x)
{
	char command[128 + 24 * INODES_MOST], *text, *line, *save = NULL;
	size_t n = (size_t)snprintf(command, sizeof(command), "debugfs -R 'ncheck");

	for (unsigned i = 0; i < x->n_inodes; i++)
		n += (size_t)snprintf(command + n, sizeof(command) - n, " %llu", x->inodes[i]);
	snprintf(command + n, sizeof(command) - n, "' %s 2>/dev/null", x->place->image->path);
	text = place_ask(x->place, "debugfs", "e2fsprogs", command);
	for (line = text != NULL ? strtok_r(text, "\n", &save) : NULL; line != NULL; line = strtok_r(NULL, "\n", &save))
		take_path(x, line);
	free(text);
	for (unsigned i = 0; i < x->n_inodes; i++)
		if (x->inodes[i] == 2)
			place_add(x->place, "/ (inode 2)");
		else if (x->inodes[i] != 0)
			place_add(x->place, "inode %llu", x->inodes[i]);
}

/* ---- all of it ---- */

static char *
ask_blocks(struct ext4 *x)
{
	const char *image = x->place->image->path;
	char command[512 + 24 * BLOCKS_MOST];
	size_t n = (size_t)snprintf(command, sizeof(command),
	                            "e2fsck -y -E journal_only %s >/dev/null 2>&1; debugfs -R 'icheck", image);

	for (uint64_t block = x->first; block <= x->last && block - x->first < BLOCKS_MOST; block++)
		n += (size_t)snprintf(command + n, sizeof(command) - n, " %" PRIu64, block);
	snprintf(command + n, sizeof(command) - n, "' %s 2>/dev/null; echo; echo groups; dumpe2fs %s 2>/dev/null",
	         image, image);
	return place_ask(x->place, "debugfs", "e2fsprogs", command);
}

void
place_in_ext4(struct place *p)
{
	const uint8_t *s = p->image->at + 1024;
	struct ext4 x = { .place = p, .block_size = UINT64_C(1024) << (s[24] & 7) };
	char *text, *line, *save = NULL;
	bool groups = false;
	unsigned group = 0;

	x.first = p->offset / x.block_size;
	x.last = (p->offset + p->length - 1) / x.block_size;
	text = ask_blocks(&x);
	for (line = text != NULL ? strtok_r(text, "\n", &save) : NULL; line != NULL;
	     line = strtok_r(NULL, "\n", &save)) {
		groups = groups || strcmp(line, "groups") == 0;
		if (groups)
			take_structure(&x, line, &group);
		else
			take_inode(&x, line);
	}
	free(text);
	if (x.n_inodes > 0)
		ask_paths(&x);
}
