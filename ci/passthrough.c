/*
 * An nbdkit plugin that passes every command to an NBD server below, one for one, each session with a connection of its
 * own. It is what ci/matrix/nbdkit-fua looks through at nbdkit (shared background: which callbacks a plugin has, and what
 * they return), and, with a lie, the server that tests/passthrough expects `nbdspec durability` to find out.
 *
 *	nbdkit -U - build/passthrough-v2.so uri='nbd+unix:///?socket=…' [lie=NAME]
 *
 * nbdkit copies the table of callbacks before any parameter comes; so what is in it is told by the environment:
 *
 *	CAN_FLUSH	true, false; else there is no such callback
 *	CAN_FUA		none, emulate, native, error; else there is no such callback
 *	FLUSH=absent	there is no .flush
 *
 * Built twice, with NBDKIT_API_VERSION 1 and 2.
 */
#include <errno.h>
#include <libnbd.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_SERIALIZE_ALL_REQUESTS

/* What the server does wrong; each is a bug that a server has had. */
static const char *const lies[] = {
	"flush-ignored", /* qemu cache=unsafe */
	"fua-ignored",
	"fua-only-of-small-writes",
	"flush-of-one-connection",     /* although CAN_MULTI_CONN is set */
	"failed-flush-then-success",   /* what Linux files do */
	"acknowledged-before-written", /* and the FLUSH does not wait for it */
	"late-trim",                   /* carried out over what was written since */
};
enum { N_LIES = sizeof(lies) / sizeof(lies[0]) };

static const char *uri, *lie;
static bool flush_failed;

static bool
tells(const char *name)
{
	return lie != NULL && strcmp(lie, name) == 0;
}

static bool
is_set(const char *variable, const char *value)
{
	const char *is = getenv(variable);

	return is != NULL && strcmp(is, value) == 0;
}

static int
config(const char *key, const char *value)
{
	if (strcmp(key, "uri") == 0) {
		uri = value;
		return 0;
	}
	if (strcmp(key, "lie") != 0) {
		nbdkit_error("unknown parameter '%s': there are uri and lie", key);
		return -1;
	}
	lie = value;
	for (unsigned i = 0; i < N_LIES; i++)
		if (tells(lies[i]))
			return 0;
	nbdkit_error("unknown lie '%s'", value);
	return -1;
}

static int
config_complete(void)
{
	if (uri == NULL)
		nbdkit_error("uri=… is missing: the server below");
	return uri == NULL ? -1 : 0;
}

/* ---- a session ---- */

struct late {
	uint16_t type; /* 'w' or 't'; 0: there is none */
	void *data;
	uint32_t count;
	uint64_t offset;
};

static struct late late;

static void *
open_below(int readonly)
{
	struct nbd_handle *below = nbd_create();

	(void)readonly;
	if (below != NULL && nbd_connect_uri(below, uri) == 0)
		return below;
	nbdkit_error("the server below: %s", nbd_get_error());
	nbd_close(below);
	return NULL;
}

static void
close_below(void *below)
{
	nbd_shutdown(below, 0);
	nbd_close(below);
}

static int64_t
get_size(void *below)
{
	return nbd_get_size(below);
}

/* -1 becomes nbdkit's error. */
static int
passed(int result)
{
	if (result == 0)
		return 0;
	nbdkit_error("the server below: %s", nbd_get_error());
	nbdkit_set_error(nbd_get_errno() != 0 ? nbd_get_errno() : EIO);
	return -1;
}

static uint32_t
fua(uint32_t flags, uint32_t count)
{
	bool wanted = (flags & NBDKIT_FLAG_FUA) != 0;

	if (tells("fua-ignored") || (tells("fua-only-of-small-writes") && count > 4096))
		wanted = false;
	return wanted ? LIBNBD_CMD_FLAG_FUA : 0;
}

/* ---- commands ---- */

static int
do_late(struct nbd_handle *below)
{
	int result = 0;

	if (late.type == 'w')
		result = nbd_pwrite(below, late.data, late.count, late.offset, 0);
	else if (late.type == 't')
		result = nbd_trim(below, late.count, late.offset, LIBNBD_CMD_FLAG_FUA);
	free(late.data);
	late = (struct late){ 0 };
	return result;
}

static int
do_pread(void *below, void *data, uint32_t count, uint64_t offset)
{
	if (late.type == 'w' && passed(do_late(below)) != 0)
		return -1;
	return passed(nbd_pread(below, data, count, offset, 0));
}

static int
do_pwrite(void *below, const void *data, uint32_t count, uint64_t offset, uint32_t flags)
{
	if (late.type == 'w' && passed(do_late(below)) != 0)
		return -1;
	if (!tells("acknowledged-before-written") || (flags & NBDKIT_FLAG_FUA) != 0)
		return passed(nbd_pwrite(below, data, count, offset, fua(flags, count)));
	late = (struct late){ 'w', malloc(count), count, offset };
	if (late.data == NULL)
		abort();
	memcpy(late.data, data, count);
	return 0;
}

static int
do_flush(void *below)
{
	int result;

	if (tells("flush-ignored") || (tells("failed-flush-then-success") && flush_failed))
		return 0;
	result = passed(nbd_flush(below, 0));
	flush_failed |= result != 0;
	return late.type == 't' && result == 0 ? passed(do_late(below)) : result;
}

static int
do_trim(void *below, uint32_t count, uint64_t offset, uint32_t flags)
{
	if (!tells("late-trim") || (flags & NBDKIT_FLAG_FUA) != 0)
		return passed(nbd_trim(below, count, offset, fua(flags, count)));
	late = (struct late){ 't', NULL, count, offset };
	return 0;
}

static int
do_zero(void *below, uint32_t count, uint64_t offset, uint32_t flags)
{
	uint32_t hole = (flags & NBDKIT_FLAG_MAY_TRIM) != 0 ? 0 : LIBNBD_CMD_FLAG_NO_HOLE;

	if (late.type == 'w' && passed(do_late(below)) != 0)
		return -1;
	return passed(nbd_zero(below, count, offset, fua(flags, count) | hole));
}

#if NBDKIT_API_VERSION == 1
#define pread_of_version do_pread
#define flush_of_version do_flush

static int
pwrite_of_version(void *below, const void *data, uint32_t count, uint64_t offset)
{
	return do_pwrite(below, data, count, offset, 0);
}

static int
trim_of_version(void *below, uint32_t count, uint64_t offset)
{
	return do_trim(below, count, offset, 0);
}

static int
zero_of_version(void *below, uint32_t count, uint64_t offset, int may_trim)
{
	return do_zero(below, count, offset, may_trim ? NBDKIT_FLAG_MAY_TRIM : 0);
}
#else
#define pwrite_of_version do_pwrite
#define trim_of_version   do_trim
#define zero_of_version   do_zero

static int
pread_of_version(void *below, void *data, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)flags;
	return do_pread(below, data, count, offset);
}

static int
flush_of_version(void *below, uint32_t flags)
{
	(void)flags;
	return do_flush(below);
}
#endif

/* ---- what it can ---- */

static int
can_flush(void *below)
{
	(void)below;
	return is_set("CAN_FLUSH", "true");
}

static int
can_fua(void *below)
{
	(void)below;
	if (is_set("CAN_FUA", "error")) {
		nbdkit_error("can_fua fails, as it was told to");
		return -1;
	}
	return is_set("CAN_FUA", "native")    ? NBDKIT_FUA_NATIVE
	       : is_set("CAN_FUA", "emulate") ? NBDKIT_FUA_EMULATE
	                                      : NBDKIT_FUA_NONE;
}

static int
can_multi_conn(void *below)
{
	return nbd_can_multi_conn(below) == 1 || tells("flush-of-one-connection");
}

static struct nbdkit_plugin plugin = {
	.name = "passthrough",
	.longname = "nbdspec's plugin that passes on what it gets",
	.config = config,
	.config_complete = config_complete,
	.config_help = "uri=URI     the server below (required)\n"
		       "lie=NAME    what to do wrong",
	.open = open_below,
	.close = close_below,
	.get_size = get_size,
	.can_multi_conn = can_multi_conn,
	.pread = pread_of_version,
	.pwrite = pwrite_of_version,
	.flush = flush_of_version,
	.trim = trim_of_version,
	.zero = zero_of_version,
};

__attribute__((constructor)) static void
choose_callbacks(void)
{
	if (is_set("CAN_FLUSH", "true") || is_set("CAN_FLUSH", "false"))
		plugin.can_flush = can_flush;
	if (is_set("CAN_FUA", "none") || is_set("CAN_FUA", "emulate") || is_set("CAN_FUA", "native") ||
	    is_set("CAN_FUA", "error"))
		plugin.can_fua = can_fua;
	if (is_set("FLUSH", "absent"))
		plugin.flush = NULL;
}

NBDKIT_REGISTER_PLUGIN(plugin)
