/* What the parts of the guest's only program share. It is process 1 of the virtual machine, and its driver. */
#ifndef GUEST_H
#define GUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where the host's forwarder listens (ci/vm/machine.py). */
#define SERVER "10.0.2.100"
enum { SERVER_PORT = 10809 };

/* ---- handshake.c: NBD's handshake, which the kernel leaves to its user ---- */

struct terms {
	uint64_t size;	/* bytes */
	uint16_t flags;	/* of transmission */
	uint32_t minimum, preferred, maximum;	/* block sizes, bytes; 0: untold */
};

struct failure {
	char name[32];	/* as of the driver protocol: an errno, or REP_ERR_… */
	char text[96];
};

/* NULL-terminated name. A socket in the transmission phase, or -1. */
int handshake(const char *export, struct terms *terms, struct failure *why);

/* NBD_CMD_DISC. */
void say_goodbye(int socket);

/* ---- device.c: /dev/nbdN ---- */

/* Those of the module, and how many a driver may have at once. */
enum { DEVICES = 64, DEVICES_EACH = 16, CONNECTIONS_MOST = 8 };
struct device {
	unsigned index;
	char name[16];	/* below /dev and /sys/block */
	bool is_virtio;	/* a disk of the machine's, of which nothing begins or ends */
	bool by_ioctl, by_client, cached;
	unsigned timeout;	/* of requests, seconds; 0: the kernel is told of none */
	int fd;		/* of the block device, or -1: no session */
	int sockets[CONNECTIONS_MOST];	/* our own duplicates, to see that the connections are lost */
	unsigned n_sockets;
	unsigned ports[CONNECTIONS_MOST], n_ports;	/* by_client: the connections' local ports */
	int control;	/* by_ioctl: the descriptor of NBD_DO_IT */
	unsigned long doing;	/* by_ioctl: its thread */
	atomic_bool done;	/* by_ioctl: the kernel has given it up */
};
extern unsigned time_factor;	/* on every time limit */

/* Each returns 0 or an errno. The sockets are taken over. */
int device_start(struct device *d, const int *sockets, unsigned n, const struct terms *terms);
int device_open_virtio(struct device *d, const char *serial);
/* By nbd-client, which does the handshake, too; false: why. */
bool device_start_client(struct device *d, const char *export, unsigned connections, struct failure *why);
/*
 * The session ends; at_once: whatever the server does; by netlink it always is. What is in flight fails, and may use the
 * descriptor until device_close.
 */
int device_end(struct device *d, bool at_once);
void device_close(struct device *d);
bool device_is_lost(const struct device *d);	/* with all its connections */
/* Of /sys/block/nbdN/queue; false: there is none. */
bool device_attribute(const struct device *d, const char *name, char *value, size_t size);
int load_nbd(void);
int unload_nbd(void);

/* ---- netlink.c ---- */

int netlink_connect(const struct device *d, const struct terms *terms, uint32_t block_size);
int netlink_disconnect(unsigned index);

/* ---- nbd_client.c ---- */

#define CLIENT_DIED "DIED"	/* the name of a failure that is its crash */

/* No two at once. */
bool nbd_client_connect(struct device *d, const char *export, unsigned connections, struct failure *why);
int nbd_client_disconnect(const struct device *d);
bool nbd_client_is_lost(const struct device *d);	/* the server has closed all connections */

/* ---- workload.c ---- */

struct workload {
	const char *filesystem, *options;
	char *const *words;	/* of the program, NULL-terminated */
};

/* Up to its end; the filesystem stays mounted. 0 and a wait status, or an errno. mark() is told of each of its marks. */
int workload_run(const char *device, const struct workload *w, void (*mark)(const char *text), int *status);
/* The host has set the mark. */
void workload_answer(void);

/* ---- driver.c ---- */

/*
 * One driver's life on the port, from its greeting to the line "end". Nobody has had the devices from *n_used on; it counts
 * those that it uses.
 */
_Noreturn void driver_run(int port, unsigned *n_used);

/* ---- init.c ---- */

int load_module(const char *path, const char *options);
/* Those that a file lists, in this order. NULL, or the first that fails, in static memory, and errno. */
const char *load_modules(const char *list);
bool write_text(const char *path, const char *text);

#endif
