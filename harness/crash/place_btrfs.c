/*
 * Which file or tree of a btrfs a place belongs to: the trees as btrfs prints them of the image, the log among them. Nothing
 * is mounted, or replayed.
 */
#include "harness/crash/places.h"
#include "harness/printable.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { FS_TREE = 5, ROOT_DIR = 256, STRIPES_MOST = 2, DEPTH_MOST = 64, SUPERBLOCK = 65536, SUPERBLOCK_SIZE = 4096 };

/* A piece of the disk's own address space, and where on the disk it lies: twice with DUP. */
struct piece {
	uint64_t logical, length, physical[STRIPES_MOST];
	unsigned n;
};

/* An inode's name, in what; a subvolume's, of its root directory. */
struct name {
	uint64_t tree, inode, in_tree, in;
	const char *text; /* within what btrfs printed */
};

struct btrfs {
	struct place_disk *disk;
	struct piece *pieces;
	struct name *names;
	size_t n_pieces, n_names;
	bool telling; /* when all chunks and names are known */
	/* Where in the trees it is. */
	uint64_t tree, object, offset;
	uint64_t extent, extent_length, part, part_length;
};

/* What is not in here is most of it. */
static const char *const command =
	"btrfs inspect-internal dump-tree --noscan %s 2>/dev/null | grep -aE '"
	"^[a-z ]+ tree( |$)|^(leaf|node) [0-9]+ .* owner |^\titem .* (INODE_REF|ROOT_REF|EXTENT_DATA|CHUNK_ITEM) |"
	"^\t\t(index [0-9]+ namelen|root ref key|length [0-9]+ owner|(extent|prealloc) data|extent compression)|"
	"^\t\t\tstripe [0-9]'";

static uint64_t
le(const uint8_t *at, unsigned bytes)
{
	uint64_t value = 0;

	while (bytes > 0)
		value = value << 8 | at[--bytes];
	return value;
}

static void *
one_more(void *array, size_t n, size_t size)
{
	if ((n & (n - 1)) != 0)
		return array;
	array = reallocarray(array, n == 0 ? 1 : 2 * n, size);
	if (array == NULL)
		abort();
	return array;
}

/* ---- telling ---- */

static const struct name *
name_of(const struct btrfs *x, uint64_t tree, uint64_t inode)
{
	for (size_t i = 0; i < x->n_names; i++)
		if (x->names[i].tree == tree && x->names[i].inode == inode)
			return &x->names[i];
	return NULL;
}

/* NULL where it does not lead to the root; malloc'd. */
static char *
path_of(const struct btrfs *x, uint64_t tree, uint64_t inode)
{
	char *path = strdup(""), *longer;

	for (unsigned depth = 0; tree != FS_TREE || inode != ROOT_DIR; depth++) {
		const struct name *n = name_of(x, tree, inode);

		if (n == NULL || depth == DEPTH_MOST || asprintf(&longer, "/%s%s", n->text, path) < 0) {
			free(path);
			return NULL;
		}
		free(path);
		path = longer;
		tree = n->in_tree;
		inode = n->in;
	}
	return path;
}

static void
add_file(const struct btrfs *x, struct place *p)
{
	char *path = path_of(x, x->tree, x->object), *clean = path != NULL ? printable_string(path) : NULL;

	if (clean != NULL)
		place_add(p, "%s (inode %" PRIu64 ")", clean, x->object);
	else if (x->tree == FS_TREE)
		place_add(p, "inode %" PRIu64, x->object);
	else
		place_add(p, "inode %" PRIu64 " of tree %" PRIu64, x->object, x->tree);
	free(clean);
	free(path);
}

static void
add_tree(struct place *p, const char *owner)
{
	if (strcmp(owner, "TREE_LOG") == 0)
		place_add(p, "the log");
	else
		place_add(p, "metadata (%s%s)", strspn(owner, "0123456789") > 0 ? "subvolume " : "", owner);
}

/* What lies there by the disk's own addresses: a tree's block, or a file's data. */
static void
tell(const struct btrfs *x, uint64_t logical, uint64_t length, const char *owner)
{
	for (size_t i = 0; i < x->n_pieces; i++) {
		const struct piece *c = &x->pieces[i];
		uint64_t low = logical > c->logical ? logical : c->logical, end = logical + length;

		end = end < c->logical + c->length ? end : c->logical + c->length;
		for (size_t k = 0; low < end && k < c->n * x->disk->n; k++) {
			struct place *p = x->disk->places[k / c->n];

			if (!place_overlaps(p, c->physical[k % c->n] + low - c->logical, end - low))
				continue;
			if (owner != NULL)
				add_tree(p, owner);
			else
				add_file(x, p);
		}
	}
}

static void
tell_superblocks(const struct btrfs *x)
{
	static const uint64_t at[] = { SUPERBLOCK, UINT64_C(64) << 20, UINT64_C(256) << 30 };

	for (size_t i = 0; i < x->disk->n * 3; i++)
		if (place_overlaps(x->disk->places[i / 3], at[i % 3], SUPERBLOCK_SIZE))
			place_add(x->disk->places[i / 3], "superblock%s", i % 3 > 0 ? " (a copy)" : "");
}

/* ---- what is printed ---- */

static void
add_name(struct btrfs *x, struct name n)
{
	/* Its root's own, "..". */
	if (x->telling || (n.tree == n.in_tree && n.inode == n.in))
		return;
	x->names = one_more(x->names, x->n_names, sizeof(*x->names));
	x->names[x->n_names++] = n;
}

static void
add_piece(struct btrfs *x, uint64_t length)
{
	if (x->telling)
		return;
	x->pieces = one_more(x->pieces, x->n_pieces, sizeof(*x->pieces));
	x->pieces[x->n_pieces++] = (struct piece){ .logical = x->offset, .length = length };
}

static void
add_stripe(struct btrfs *x, uint64_t physical)
{
	struct piece *c = x->n_pieces > 0 ? &x->pieces[x->n_pieces - 1] : NULL;

	if (!x->telling && c != NULL && c->n < STRIPES_MOST)
		c->physical[c->n++] = physical;
}

/* "fs tree key (FS_TREE ROOT_ITEM 0)", "file tree key (256 …", "log tree key (TREE_LOG ROOT_ITEM 5)"; the others have no files. */
static void
take_tree(struct btrfs *x, const char *line)
{
	const char *key = strstr(line, " tree key (");
	char which[32] = "";
	uint64_t of = 0;

	if (key != NULL)
		sscanf(key, " tree key (%31s ROOT_ITEM %" SCNu64, which, &of);
	x->tree = strcmp(which, "FS_TREE") == 0    ? FS_TREE
	          : strcmp(which, "TREE_LOG") == 0 ? of
	                                           : strtoull(which, NULL, 10);
}

static void
take_block(struct btrfs *x, const char *line)
{
	const char *owner = strstr(line, " owner ");
	char name[32];
	uint64_t at;

	if (x->telling && owner != NULL && sscanf(line, "%*s %" SCNu64, &at) == 1 &&
	    sscanf(owner, " owner %31s", name) == 1)
		tell(x, at, le(x->disk->image->at + SUPERBLOCK + 0x94, 4), name);
}

/* A name with a line end in it is none. */
static void
take_name(struct btrfs *x, const char *line)
{
	size_t length;
	int at = 0;

	if (sscanf(line, "\t\tindex %*u namelen %zu name: %n", &length, &at) == 1 && strlen(line + at) == length)
		add_name(x, (struct name){ x->tree, x->object, x->tree, x->offset, line + at });
}

/* Of a compressed extent no part stands by itself. Data of the trees that have no files are btrfs's own. */
static void
tell_extent(const struct btrfs *x, bool compressed)
{
	if (!x->telling || x->extent == 0 || x->tree == 0)
		return;
	if (compressed)
		tell(x, x->extent, x->extent_length, NULL);
	else
		tell(x, x->extent + x->part, x->part_length, NULL);
}

static void
take_extent(struct btrfs *x, const char *line)
{
	uint64_t a, b;
	char kind[16];

	if (sscanf(line, "\t\t%15s data disk byte %" SCNu64 " nr %" SCNu64, kind, &a, &b) == 3) {
		x->extent = a;
		x->extent_length = b;
	} else if (sscanf(line, "\t\t%15s data offset %" SCNu64 " nr %" SCNu64, kind, &a, &b) == 3) {
		x->part = a;
		x->part_length = b;
		/* It ends here; of another the next line tells whether it is compressed. */
		if (strcmp(kind, "prealloc") == 0)
			tell_extent(x, false);
	} else if (sscanf(line, "\t\textent compression %" SCNu64, &a) == 1) {
		tell_extent(x, a != 0);
	}
}

static void
take_detail(struct btrfs *x, const char *line)
{
	uint64_t value;
	int at = 0;

	if (sscanf(line, "\t\tlength %" SCNu64, &value) == 1)
		add_piece(x, value);
	else if (sscanf(line, "\t\t\tstripe %*u devid %*u offset %" SCNu64, &value) == 1)
		add_stripe(x, value);
	else if (sscanf(line, "\t\troot ref key dirid %" SCNu64 " sequence %*u name %n", &value, &at) == 1 && at > 0)
		add_name(x, (struct name){ x->offset, ROOT_DIR, x->object, value, line + at });
	else if (strncmp(line, "\t\tindex ", 8) == 0)
		take_name(x, line);
	else
		take_extent(x, line);
}

/* "	item 4 key (256 INODE_REF 256) …" */
static void
take_key(struct btrfs *x, const char *line)
{
	const char *key = strchr(line, '(');
	char object[32], offset[32];

	if (key == NULL || sscanf(key, "(%31s %*s %31[^)])", object, offset) != 2)
		return;
	x->object = strcmp(object, "FS_TREE") == 0 ? FS_TREE : strtoull(object, NULL, 10);
	x->offset = strtoull(offset, NULL, 10);
}

static void
take_line(struct btrfs *x, const char *line)
{
	if (strncmp(line, "\titem ", 6) == 0)
		take_key(x, line);
	else if (line[0] == '\t')
		take_detail(x, line);
	else if (strncmp(line, "leaf ", 5) == 0 || strncmp(line, "node ", 5) == 0)
		take_block(x, line);
	else
		take_tree(x, line);
}

/* ---- all of it ---- */

/* A tree may come before what it takes to tell of it: the lines are gone through twice. */
static void
take_all(struct btrfs *x, char *text)
{
	size_t n = strlen(text);

	for (char *at = text; *at != '\0'; at++)
		*at = *at == '\n' ? '\0' : *at;
	for (int pass = 0; pass < 2; pass++) {
		x->telling = pass == 1;
		for (const char *line = text; line < text + n; line += strlen(line) + 1)
			take_line(x, line);
	}
}

void
place_in_btrfs(struct place_disk *d)
{
	struct btrfs x = { .disk = d };
	char *line, *text;

	if (le(d->image->at + SUPERBLOCK + 0x88, 8) != 1)
		return; /* a disk of several */
	if (asprintf(&line, command, d->image->path) < 0)
		abort();
	text = place_ask(d, "btrfs", "btrfs-progs", line);
	free(line);
	if (text != NULL) {
		tell_superblocks(&x);
		take_all(&x, text);
	}
	free(text);
	free(x.pieces);
	free(x.names);
}
