/*
 * A session of /dev/nbdN, by netlink or by ioctl. What of the queue's limits the kernel has from its user, and keeps from one
 * session to the next, is set here in each.
 */
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/nbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BLOCK_LEAST = 512, BLOCK_MOST = 4096, MAX_SECTORS_KB = 1280, TRIES = 2000, TRY_US = 500 };

unsigned time_factor = 1;

/* No partitions: they would be read before anything else. */
int
load_nbd(void)
{
	return load_module("/modules/nbd", "nbds_max=64 max_part=0");
}

int
unload_nbd(void)
{
	return syscall(SYS_delete_module, "nbd", O_NONBLOCK) == 0 ? 0 : errno;
}

bool
device_attribute(const struct device *d, const char *name, char *value, size_t size)
{
	char path[128];
	FILE *f;
	bool ok;

	snprintf(path, sizeof(path), "/sys/block/%s/queue/%s", d->name, name);
	f = fopen(path, "re");
	ok = f != NULL && fgets(value, (int)size, f) != NULL;
	if (f != NULL)
		fclose(f);
	if (ok)
		value[strcspn(value, "\n")] = '\0';
	return ok;
}

/* Nobody tells the kernel how long a request may be. */
static bool
limit_requests(const struct device *d, const struct terms *terms)
{
	unsigned kb = MAX_SECTORS_KB;
	char path[128], text[16];

	if (terms->maximum != 0 && terms->maximum / 1024 < kb)
		kb = terms->maximum / 1024;
	snprintf(path, sizeof(path), "/sys/block/nbd%u/queue/max_sectors_kb", d->index);
	snprintf(text, sizeof(text), "%u", kb);
	return write_text(path, text);
}

/*
 * What of the size is behind the last block cannot be reached. A page is the most that a block may have, and the least that a
 * request may be limited to.
 */
static uint32_t
block_size(const struct terms *terms)
{
	return terms->minimum > BLOCK_LEAST ? terms->minimum : BLOCK_LEAST;
}

/* ---- by ioctl ---- */

/* As nbd-client does: what is in flight when the connection is lost fails only when the socket is taken back. */
static void *
do_it(void *arg)
{
	struct device *d = arg;

	ioctl(d->control, NBD_DO_IT);
	atomic_store(&d->done, true);
	ioctl(d->control, NBD_CLEAR_SOCK);
	return NULL;
}

/* Its size is there behind its pid. */
static bool
is_running(const struct device *d, uint64_t size)
{
	uint64_t is = 0;
	struct stat st;
	char path[64];

	snprintf(path, sizeof(path), "/sys/block/nbd%u/pid", d->index);
	return stat(path, &st) == 0 && ioctl(d->control, BLKGETSIZE64, &is) == 0 && is == size / 512 * 512;
}

static int
ioctl_connect(struct device *d, const char *path, const struct terms *terms)
{
	uint32_t block = block_size(terms);

	d->control = open(path, O_RDWR | O_CLOEXEC);
	if (d->control < 0)
		return errno;
	for (unsigned i = 0; i < d->n_sockets; i++)
		if (ioctl(d->control, NBD_SET_SOCK, d->sockets[i]) != 0)
			return errno;
	if (ioctl(d->control, NBD_SET_BLKSIZE, (unsigned long)block) != 0 ||
	    ioctl(d->control, NBD_SET_SIZE_BLOCKS, (unsigned long)(terms->size / block)) != 0 ||
	    ioctl(d->control, NBD_SET_FLAGS, (unsigned long)terms->flags) != 0 ||
	    (d->timeout != 0 && ioctl(d->control, NBD_SET_TIMEOUT, (unsigned long)d->timeout) != 0))
		return errno;
	atomic_store(&d->done, false);
	if (pthread_create(&d->doing, NULL, do_it, d) != 0)
		return EAGAIN;
	/* How long that takes is for the host to judge. */
	while (!is_running(d, terms->size / block * block)) {
		if (atomic_load(&d->done))
			return ENODEV;
		usleep(TRY_US);
	}
	return 0;
}

/* NBD_DO_IT returns when the server has closed the connection; NBD_CLEAR_SOCK does not wait for that. */
static int
ioctl_disconnect(struct device *d, bool at_once)
{
	int failed = 0;

	if (d->doing != 0) {
		failed = ioctl(d->control, NBD_DISCONNECT) == 0 ? 0 : errno;
		if (at_once)
			ioctl(d->control, NBD_CLEAR_SOCK);
		pthread_join(d->doing, NULL);
	} else {
		ioctl(d->control, NBD_CLEAR_SOCK);
	}
	d->doing = 0;
	close(d->control);
	return failed;
}

/* ---- both ---- */

static int
open_device(struct device *d, const char *path)
{
	int direct = d->cached ? 0 : O_DIRECT;

	d->fd = open(path, O_RDWR | O_CLOEXEC | direct);
	if (d->fd < 0)
		d->fd = open(path, O_RDONLY | O_CLOEXEC | direct);
	return d->fd >= 0 ? 0 : errno;
}

int
device_start(struct device *d, const int *sockets, unsigned n, const struct terms *terms)
{
	char path[32];
	int failed;

	snprintf(d->name, sizeof(d->name), "nbd%u", d->index);
	snprintf(path, sizeof(path), "/dev/%s", d->name);
	d->is_virtio = false;
	memcpy(d->sockets, sockets, n * sizeof(*sockets));
	d->n_sockets = n;
	d->control = -1;
	if (terms->minimum > BLOCK_MOST || (terms->maximum != 0 && terms->maximum < BLOCK_MOST))
		failed = EINVAL;
	else if (d->by_ioctl)
		failed = ioctl_connect(d, path, terms);
	else
		failed = netlink_connect(d, terms, block_size(terms));
	if (failed == 0 && !limit_requests(d, terms))
		failed = errno;
	if (failed == 0)
		failed = open_device(d, path);
	if (failed != 0) {
		/* Where the kernel has not taken it over, the session is to end properly all the same. */
		for (unsigned i = 0; i < n; i++)
			say_goodbye(sockets[i]);
		device_end(d, true);
		device_close(d);
	}
	return failed;
}

bool
device_start_client(struct device *d, const char *export, unsigned connections, struct failure *why)
{
	char path[32];
	int failed;

	snprintf(d->name, sizeof(d->name), "nbd%u", d->index);
	snprintf(path, sizeof(path), "/dev/%s", d->name);
	d->is_virtio = false;
	d->by_client = true;
	d->n_sockets = d->n_ports = 0;
	if (!nbd_client_connect(d, export, connections, why))
		return false;
	failed = open_device(d, path);
	if (failed != 0) {
		snprintf(why->name, sizeof(why->name), "%s", strerrorname_np(failed));
		device_end(d, true);
		device_close(d);
	}
	return failed == 0;
}

static bool
has_serial(const char *name, const char *serial)
{
	char path[128], is[64] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/sys/block/%.32s/serial", name);
	f = fopen(path, "re");
	if (f != NULL)
		(void)!fgets(is, sizeof(is), f);
	if (f != NULL)
		fclose(f);
	is[strcspn(is, "\n")] = '\0';
	return strcmp(is, serial) == 0;
}

int
device_open_virtio(struct device *d, const char *serial)
{
	DIR *all = opendir("/sys/block");
	struct dirent *one;
	char path[32];

	d->is_virtio = true;
	d->name[0] = '\0';
	while (all != NULL && (one = readdir(all)) != NULL)
		if (strncmp(one->d_name, "vd", 2) == 0 && has_serial(one->d_name, serial))
			snprintf(d->name, sizeof(d->name), "%.15s", one->d_name);
	if (all != NULL)
		closedir(all);
	snprintf(path, sizeof(path), "/dev/%s", d->name);
	return d->name[0] != '\0' ? open_device(d, path) : ENODEV;
}

/* The kernel is through with it when the last bytes are on their way. A server that takes none is not waited for for ever. */
static void
await_end(int socket)
{
	struct tcp_info info = { .tcpi_state = TCP_CLOSE };
	socklen_t size = sizeof(info);

	for (unsigned i = 0; i < TRIES * time_factor; i++) {
		if (getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) != 0 || info.tcpi_state == TCP_CLOSE ||
		    info.tcpi_state == TCP_TIME_WAIT)
			return;
		usleep(TRY_US);
	}
}

int
device_end(struct device *d, bool at_once)
{
	int failed = 0;

	if (d->by_client)
		return nbd_client_disconnect(d);
	if (!d->is_virtio) {
		failed = d->by_ioctl ? ioctl_disconnect(d, at_once) : netlink_disconnect(d->index);
		for (unsigned i = 0; i < d->n_sockets; i++) {
			await_end(d->sockets[i]);
			close(d->sockets[i]);
		}
	}
	return failed;
}

void
device_close(struct device *d)
{
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
}

bool
device_is_lost(const struct device *d)
{
	char byte;

	if (d->by_client)
		return nbd_client_is_lost(d);
	for (unsigned i = 0; i < d->n_sockets && !d->is_virtio; i++)
		if (recv(d->sockets[i], &byte, 1, MSG_PEEK | MSG_DONTWAIT) != 0)
			return false;
	return !d->is_virtio;
}
