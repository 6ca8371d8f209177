/* Which file or structure of an ext4 a place belongs to: debugfs and dumpe2fs, after the journal was replayed. */
#include "harness/crash/places.h"
#include "harness/printable.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS_MOST = 64, INODES_MOST = 16, RESIZE_INODE = 7, JOURNAL_INODE = 8 };

struct ext4_place {
	struct place *place;
	uint64_t first, last; /* blocks */
	unsigned long long inodes[INODES_MOST];
	unsigned n_inodes;
};

struct ext4 {
	struct place_disk *disk;
	struct ext4_place places[PLACES_MOST];
	uint64_t block_size, inode_size, inodes_per_group;
};

/* ---- structures, of dumpe2fs ---- */

static void
add_structure(struct ext4 *x, unsigned long long first, unsigned long long last, const char *what, unsigned group)
{
	for (size_t i = 0; i < x->disk->n; i++)
		if (first <= x->places[i].last && last >= x->places[i].first)
			place_add(x->places[i].place, "%s of group %u", what, group);
}

static void
take_inode_table(struct ext4 *x, unsigned group, unsigned long long first, unsigned long long last)
{
	uint64_t start = first * x->block_size, end = (last + 1) * x->block_size;

	for (size_t i = 0; i < x->disk->n && x->inode_size != 0; i++) {
		uint64_t low = x->places[i].place->offset, high = low + x->places[i].place->length;

		if (first > x->places[i].last || last < x->places[i].first)
			continue;
		high = high < end ? high : end;
		low = low > start ? low - start : 0;
		place_add(x->places[i].place, "inode table of group %u: inodes %" PRIu64 " to %" PRIu64, group,
		          group * x->inodes_per_group + low / x->inode_size + 1,
		          group * x->inodes_per_group + (high - start - 1) / x->inode_size + 1);
	}
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
	if (part != NULL && sscanf(part, "superblock at %llu", &first) == 1)
		add_structure(x, first, first, "superblock", *group);
	part = strstr(line, "Group descriptors at ");
	if (part != NULL && sscanf(part, "Group descriptors at %llu-%llu", &first, &last) == 2)
		add_structure(x, first, last, "group descriptors", *group);
	if (sscanf(line, " Block bitmap at %llu", &first) == 1)
		add_structure(x, first, first, "block bitmap", *group);
	if (sscanf(line, " Inode bitmap at %llu", &first) == 1)
		add_structure(x, first, first, "inode bitmap", *group);
	if (sscanf(line, " Inode table at %llu-%llu", &first, &last) == 2)
		take_inode_table(x, *group, first, last);
}

/* ---- inodes, of debugfs ---- */

static void
add_inode(struct ext4_place *p, unsigned long long inode)
{
	for (unsigned i = 0; i < p->n_inodes; i++)
		if (p->inodes[i] == inode)
			return;
	if (inode == JOURNAL_INODE)
		place_add(p->place, "the journal");
	else if (inode == RESIZE_INODE)
		place_add(p->place, "blocks reserved for group descriptors");
	else if (p->n_inodes < INODES_MOST)
		p->inodes[p->n_inodes++] = inode;
}

static void
take_inode(struct ext4 *x, const char *line)
{
	unsigned long long block, inode;

	if (sscanf(line, "%llu\t%llu", &block, &inode) != 2 || inode == 0)
		return;
	for (size_t i = 0; i < x->disk->n; i++)
		if (block >= x->places[i].first && block <= x->places[i].last)
			add_inode(&x->places[i], inode);
}

static void
take_path(struct ext4 *x, const char *line)
{
	unsigned long long inode;
	int path = 0;
	char *clean;

	if (sscanf(line, "%llu\t/%n", &inode, &path) != 1 || path == 0)
		return;
	clean = printable_string(line + path);
	for (size_t i = 0; i < x->disk->n; i++)
		for (unsigned k = 0; k < x->places[i].n_inodes; k++)
			if (x->places[i].inodes[k] == inode) {
				place_add(x->places[i].place, "%s%s (inode %llu)", clean[0] == '/' ? "" : "/", clean,
				          inode);
				x->places[i].inodes[k] = 0; /* by its first name */
			}
	free(clean);
}

/* What has no name, but for the root. */
static void
tell_inodes(const struct ext4_place *p)
{
	for (unsigned i = 0; i < p->n_inodes; i++)
		if (p->inodes[i] == 2)
			place_add(p->place, "/ (inode 2)");
		else if (p->inodes[i] != 0)
			place_add(p->place, "inode %llu", p->inodes[i]);
}

static void
ask_paths(struct ext4 *x)
{
	char command[128 + 24 * INODES_MOST * PLACES_MOST], *text, *line, *save = NULL;
	size_t n = (size_t)snprintf(command, sizeof(command), "debugfs -R 'ncheck"), none = n;

	for (size_t i = 0; i < x->disk->n; i++)
		for (unsigned k = 0; k < x->places[i].n_inodes; k++)
			n += (size_t)snprintf(command + n, sizeof(command) - n, " %llu", x->places[i].inodes[k]);
	if (n == none)
		return;
	snprintf(command + n, sizeof(command) - n, "' %s 2>/dev/null", x->disk->image->path);
	text = place_ask(x->disk, "debugfs", "e2fsprogs", command);
	for (line = text != NULL ? strtok_r(text, "\n", &save) : NULL; line != NULL; line = strtok_r(NULL, "\n", &save))
		take_path(x, line);
	free(text);
	for (size_t i = 0; i < x->disk->n; i++)
		tell_inodes(&x->places[i]);
}

/* ---- all of it ---- */

static char *
ask_blocks(struct ext4 *x)
{
	const char *image = x->disk->image->path;
	char command[512 + 24 * BLOCKS_MOST * PLACES_MOST];
	size_t n = (size_t)snprintf(command, sizeof(command),
	                            "e2fsck -y -E journal_only %s >/dev/null 2>&1; debugfs -R 'icheck", image);

	for (size_t i = 0; i < x->disk->n; i++) {
		const struct ext4_place *p = &x->places[i];

		for (uint64_t block = p->first; block <= p->last && block - p->first < BLOCKS_MOST; block++)
			n += (size_t)snprintf(command + n, sizeof(command) - n, " %" PRIu64, block);
	}
	snprintf(command + n, sizeof(command) - n, "' %s 2>/dev/null; echo; echo groups; dumpe2fs %s 2>/dev/null",
	         image, image);
	return place_ask(x->disk, "debugfs", "e2fsprogs", command);
}

void
place_in_ext4(struct place_disk *d)
{
	const uint8_t *s = d->image->at + 1024;
	struct ext4 x = { .disk = d, .block_size = UINT64_C(1024) << (s[24] & 7) };
	char *text, *line, *save = NULL;
	bool groups = false;
	unsigned group = 0;

	for (size_t i = 0; i < d->n; i++) {
		x.places[i].place = d->places[i];
		x.places[i].first = d->places[i]->offset / x.block_size;
		x.places[i].last = (d->places[i]->offset + d->places[i]->length - 1) / x.block_size;
	}
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
	ask_paths(&x);
}
