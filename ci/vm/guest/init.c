/*
 * Process 1 of the virtual machine: loads the modules in the order in which /modules/order lists them, brings the network up,
 * and starts a driver on the virtio-serial port, and another one, with fresh devices, whenever one has ended.
 */
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ADDRESS "10.0.2.15"
enum { TRIES = 2000, TRY_US = 1000 };

/* To the console, which is the host's log; then the machine is over. */
_Noreturn static void
give_up(const char *what)
{
	dprintf(2, "guest: %s: %s\n", what, strerror(errno));
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

int
load_module(const char *path, const char *options)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), failed = 0;

	if (fd < 0)
		return errno;
	if (syscall(SYS_finit_module, fd, options, 0) != 0 && errno != EEXIST)
		failed = errno;
	close(fd);
	return failed;
}

bool
write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

static void
mount_all(void)
{
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	if (mount("proc", "/proc", "proc", 0, NULL) != 0 || mount("sys", "/sys", "sysfs", 0, NULL) != 0)
		give_up("mount");
}

const char *
load_modules(const char *list)
{
	static char path[256];
	FILE *f = fopen(list, "re");
	int failed = 0;

	while (f != NULL && failed == 0 && fscanf(f, "%255s", path) == 1)
		failed = load_module(path, "");
	if (f != NULL)
		fclose(f);
	errno = failed;
	return failed != 0 ? path : NULL;
}

static void
bring_up(const char *name, const char *address)
{
	struct ifreq r = { .ifr_flags = IFF_UP };
	struct sockaddr_in *in = (struct sockaddr_in *)&r.ifr_addr;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	if (ioctl(fd, SIOCSIFFLAGS, &r) != 0)
		give_up(name);
	in->sin_family = AF_INET;
	inet_pton(AF_INET, address, &in->sin_addr);
	if (ioctl(fd, SIOCSIFADDR, &r) != 0)
		give_up(name);
	inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
	if (ioctl(fd, SIOCSIFNETMASK, &r) != 0)
		give_up(name);
	close(fd);
}

/* The device appears some time after its module. */
static int
open_port(void)
{
	int fd = -1;

	for (int i = 0; i < TRIES && fd < 0; i++) {
		fd = open("/dev/vport0p1", O_RDWR | O_CLOEXEC);
		if (fd < 0)
			usleep(TRY_US);
	}
	if (fd < 0)
		give_up("/dev/vport0p1");
	return fd;
}

static void
wait_for_network(void)
{
	struct ifreq r = { .ifr_flags = 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	strcpy(r.ifr_name, "eth0");
	for (int i = 0; i < TRIES && ioctl(fd, SIOCGIFFLAGS, &r) != 0; i++)
		usleep(TRY_US);
	close(fd);
}

/* To take all devices away takes most of a second, so the module is loaded anew when they are used up. */
static void
fresh_devices(unsigned *n_used)
{
	if (*n_used + DEVICES_EACH <= DEVICES)
		return;
	for (int i = 0; i < TRIES && (errno = unload_nbd()) != 0; i++)
		usleep(TRY_US);
	if (errno != 0)
		give_up("nbd cannot be unloaded");
	errno = load_nbd();
	if (errno != 0)
		give_up("nbd");
	*n_used = 0;
}

/* It is a process of its own, so that nothing of it is left; what it cannot end is the host's to see. */
static void
one_driver(int port, unsigned *n_used)
{
	pid_t pid;
	int status = 0;

	fresh_devices(n_used);
	pid = fork();
	if (pid == 0)
		driver_run(port, n_used);
	while (waitpid(pid, &status, 0) != pid)
		continue;
	if (status != 0)
		dprintf(2, "guest: the driver ended with status 0x%x\n", status);
}

int
main(void)
{
	unsigned *n_used = mmap(NULL, sizeof(*n_used), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	const char *failed;
	int port;

	mount_all();
	dup2(open("/dev/console", O_RDWR), 2);
	failed = load_modules("/modules/order");
	if (failed != NULL)
		give_up(failed);
	wait_for_network();
	bring_up("lo", "127.0.0.1");
	bring_up("eth0", ADDRESS);
	port = open_port();
	errno = load_nbd();
	if (errno != 0)
		give_up("nbd");
	for (;;)
		one_driver(port, n_used);
}
