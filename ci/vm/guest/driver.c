/*
 * The driver of the kernel's nbd (docs/driver-protocol.md), inside the virtual machine. The handshake is our own; all that
 * follows is the kernel's. A handle is a block device, and each request a thread that waits in a system call.
 *
 * The host's first line is "options", with "ioctl" (else netlink) or "nbd-client" (which then does all of that, by netlink) and
 * "time-factor=N" (on every time limit), or with bugs of the driver's: "keeps-flags" tells the kernel the first session's flags in every later one, "no-cache" tells it of no server that
 * it has FLUSH or FUA, "panics" and "hangs" do so instead of connecting.
 */
#include "guest.h"

#include "harness/driver.h"
#include "harness/nbd.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	LINE_MOST = 1 << 20,
	MARK_MOST = 4096 + 8,
	WORDS_MOST = 16,
	ALIGNMENT = 4096,
	LENGTH_MOST = 64 << 20,
	TRY_US = 500,
	NAME_MOST = 256
};

struct handle {
	struct handle *next;
	unsigned long number;
	bool connected, cancelled;
	unsigned in_flight;   /* commands, under the lock */
	struct device device; /* the same one in each session, if nobody has it meanwhile */
	unsigned connections; /* that the user has asked for; 0: one */
	struct terms first;   /* keeps-flags */
	bool has_first;
};

struct request {
	char *line, *tag, *operation;
	char *words[WORDS_MOST];
	struct handle *handle;
};

/* What an operation comes to; the answer's text behind "ok". */
struct answer {
	bool unsupported;
	struct failure failure; /* .name "" : none */
	char text[600];
};

static struct handle *handles, *owners[DEVICES];
static unsigned first_device, *n_used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t one_connects = PTHREAD_MUTEX_INITIALIZER;
static bool by_ioctl, by_client, keeps_flags, no_cache, panics, hangs;
static int port;

/* ---- answers ---- */

static void
put_line(const char *text, size_t length)
{
	for (ssize_t n; length > 0; text += n, length -= (size_t)n) {
		n = write(port, text, length);
		if (n < 0)
			_exit(1);
	}
}

static void
put_answer(const struct request *r, const struct answer *a)
{
	char line[1024];
	int n;

	if (a->unsupported)
		n = snprintf(line, sizeof(line), "%s unsupported\n", r->tag);
	else if (a->failure.name[0] != '\0')
		n = snprintf(line, sizeof(line), "%s error %s%s%s\n", r->tag, a->failure.name,
		             a->failure.text[0] != '\0' ? " " : "", a->failure.text);
	else
		n = snprintf(line, sizeof(line), "%s ok%s\n", r->tag, a->text);
	pthread_mutex_lock(&lock);
	put_line(line, (size_t)n);
	pthread_mutex_unlock(&lock);
}

static void
failed(struct answer *a, int error, const char *text)
{
	const char *name = strerrorname_np(error);

	snprintf(a->failure.name, sizeof(a->failure.name), "%s", name != NULL ? name : "OTHER");
	snprintf(a->failure.text, sizeof(a->failure.text), "%s", text);
}

/* ---- commands ---- */

struct command {
	const char *name, *flags; /* " fua " */
	unsigned n_numbers;
	void (*call)(const struct handle *h, const uint64_t *n, bool fua, struct answer *a);
};

static void *
buffer(size_t length)
{
	void *data = length <= LENGTH_MOST ? aligned_alloc(ALIGNMENT, (length + ALIGNMENT) & ~(size_t)(ALIGNMENT - 1))
	                                   : NULL;

	errno = data == NULL ? ENOMEM : 0;
	return data;
}

static void
transferred(ssize_t n, size_t length, struct answer *a)
{
	if (n < 0)
		failed(a, errno, "");
	else if ((size_t)n < length)
		failed(a, ENOSPC, "short");
}

static void
call_read(const struct handle *h, const uint64_t *n, bool fua, struct answer *a)
{
	uint8_t *data = buffer(n[1]);
	ssize_t got = data != NULL ? pread(h->device.fd, data, n[1], (off_t)n[0]) : -1;

	(void)fua;
	transferred(got, n[1], a);
	if (got == (ssize_t)n[1])
		snprintf(a->text, sizeof(a->text), " %08" PRIx32, driver_digest(data, n[1]));
	free(data);
}

static void
call_write(const struct handle *h, const uint64_t *n, bool fua, struct answer *a)
{
	struct iovec v = { .iov_base = buffer(n[1]), .iov_len = n[1] };
	ssize_t got = -1;

	if (v.iov_base != NULL) {
		driver_pattern((unsigned)n[2], n[0], n[1], v.iov_base);
		got = pwritev2(h->device.fd, &v, 1, (off_t)n[0], fua ? RWF_DSYNC : 0);
	}
	transferred(got, n[1], a);
	free(v.iov_base);
}

static void
call_flush(const struct handle *h, const uint64_t *n, bool fua, struct answer *a)
{
	(void)n;
	(void)fua;
	if (fsync(h->device.fd) != 0)
		failed(a, errno, "");
}

static void
call_trim(const struct handle *h, const uint64_t *n, bool fua, struct answer *a)
{
	(void)fua;
	if (ioctl(h->device.fd, BLKDISCARD, n) != 0)
		failed(a, errno, "");
}

/* The kernel's own default is to leave no hole. Where nbd has no WRITE_ZEROES it writes, which takes too long for gigabytes. */
static void
call_zero(const struct handle *h, const uint64_t *n, bool fua, struct answer *a)
{
	char most[32] = "";

	(void)fua;
	device_attribute(&h->device, "write_zeroes_max_bytes", most, sizeof(most));
	if (n[1] > LENGTH_MOST && strcmp(most, "0") == 0)
		a->unsupported = true;
	else if (ioctl(h->device.fd, BLKZEROOUT, n) != 0)
		failed(a, errno, "");
}

static const struct command commands[] = {
	{ "read", "", 2, call_read }, { "write", "fua", 3, call_write },   { "flush", "", 0, call_flush },
	{ "trim", "", 2, call_trim }, { "zero", "no-hole", 2, call_zero },
};
enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static bool
read_numbers(const struct request *r, const struct command *c, uint64_t *n)
{
	char *end;

	for (unsigned i = 0; i < c->n_numbers; i++) {
		errno = 0;
		if (r->words[i] == NULL || !isdigit((unsigned char)r->words[i][0]))
			return false;
		n[i] = strtoull(r->words[i], &end, 10);
		if (errno != 0 || *end != '\0')
			return false;
	}
	return true;
}

/* A block device has nothing that is not whole blocks. */
static bool
is_whole(const struct handle *h, const uint64_t *n)
{
	int block = 0;

	return ioctl(h->device.fd, BLKSSZGET, &block) == 0 && n[1] > 0 && n[0] % (unsigned)block == 0 &&
	       n[1] % (unsigned)block == 0;
}

static void
do_command(const struct request *r, const struct command *c, struct answer *a)
{
	uint64_t n[3] = { 0 };
	bool fua = false;
	int unused;

	if (!read_numbers(r, c, n)) {
		failed(a, EINVAL, "a number is missing or wrong");
		return;
	}
	for (char *const *flag = r->words + c->n_numbers; *flag != NULL; flag++) {
		a->unsupported |= strcmp(*flag, c->flags) != 0;
		fua |= strcmp(*flag, "fua") == 0;
	}
	if (a->unsupported)
		return;
	if (!r->handle->connected || ioctl(r->handle->device.fd, BLKSSZGET, &unused) != 0)
		failed(a, ENOTCONN, "");
	else if (c->n_numbers > 1 && !is_whole(r->handle, n))
		a->unsupported = true;
	else
		c->call(r->handle, n, fua, a);
	if (a->failure.name[0] != '\0' && r->handle->cancelled)
		failed(a, ECANCELED, "");
}

/* ---- sessions ---- */

/* Linux 5.10 says how much of a device can be discarded at once where nothing can; no granularity then tells (sysfs-block). */
static bool
can_trim(const struct device *d)
{
	char most[64] = "0", granularity[64] = "0";

	device_attribute(d, "discard_max_bytes", most, sizeof(most));
	device_attribute(d, "discard_granularity", granularity, sizeof(granularity));
	return strcmp(most, "0") != 0 && strcmp(granularity, "0") != 0;
}

/* What the kernel says of the device. Where it would say the same of any server, that is told of the queue alone. */
static void
tell_device(const struct handle *h, struct answer *a)
{
	static const char *const told[] = { "write_cache",
		                            "fua",
		                            "rotational",
		                            "discard_max_bytes",
		                            "write_zeroes_max_bytes",
		                            "logical_block_size",
		                            "physical_block_size",
		                            "max_sectors_kb" };
	enum { MOST_TRIMMED = 3 };
	char value[64], *word;
	uint64_t size = 0;
	int read_only = 0;
	bool trims;
	FILE *f = fmemopen(a->text, sizeof(a->text), "w");

	ioctl(h->device.fd, BLKGETSIZE64, &size);
	ioctl(h->device.fd, BLKROGET, &read_only);
	fprintf(f, " size=%" PRIu64 " read-only=%s", size, read_only ? "yes" : "no");
	if (device_attribute(&h->device, "write_cache", value, sizeof(value)))
		fprintf(f, " flush=%s", strcmp(value, "write back") == 0 ? "yes" : "no");
	trims = can_trim(&h->device);
	fprintf(f, " trim=%s", trims ? "yes" : "no");
	for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++) {
		if (!device_attribute(&h->device, told[i], value, sizeof(value)) || (i == MOST_TRIMMED && !trims))
			continue;
		word = driver_escape(value);
		fprintf(f, " queue.%s=%s", told[i], word);
		free(word);
	}
	fclose(f);
}

/* "nbd+unix:///EXPORT?socket=…", its escapes undone. False: it is longer than a name may be (proto.md:381). */
static bool
export_of(const char *uri, char *export, size_t size)
{
	const char *at = strstr(uri, "://");
	unsigned byte;

	at = at != NULL ? strchr(at + 3, '/') : NULL;
	at = at != NULL ? at + 1 : "";
	for (; *at != '\0' && *at != '?' && size > 1; size--) {
		if (*at == '%' && sscanf(at + 1, "%2x", &byte) == 1) {
			*export ++ = (char)byte;
			at += 3;
		} else {
			*export ++ = *at++;
		}
	}
	*export = '\0';
	return *at == '\0' || *at == '?';
}

static void
end_session(struct handle *h, bool at_once, struct answer *a)
{
	int error = device_end(&h->device, at_once);

	if (error != 0)
		failed(a, error, "");
	/* What was in flight has failed by now; its thread may still be on the way to say so. */
	for (;;) {
		pthread_mutex_lock(&lock);
		if (h->in_flight == 0)
			break;
		pthread_mutex_unlock(&lock);
		usleep(TRY_US);
	}
	device_close(&h->device);
	h->connected = h->cancelled = false;
	owners[h->device.index] = NULL;
	pthread_mutex_unlock(&lock);
}

/* False: all are taken. */
static bool
take_device(struct handle *h)
{
	unsigned i = h->device.index, end = first_device + DEVICES_EACH;

	pthread_mutex_lock(&lock);
	if (i < first_device || owners[i] != NULL)
		for (i = first_device; i < end && owners[i] != NULL;)
			i++;
	if (i < end) {
		owners[i] = h;
		h->device.index = i;
		*n_used = *n_used > i ? *n_used : i + 1;
	}
	pthread_mutex_unlock(&lock);
	return i < end;
}

static void
give_back_device(const struct handle *h)
{
	pthread_mutex_lock(&lock);
	owners[h->device.index] = NULL;
	pthread_mutex_unlock(&lock);
}

/* "virtio:SERIAL", for those who look at what is below the machine's own disks. */
static void
open_virtio(struct handle *h, const char *serial, struct answer *a)
{
	int error;

	if (!take_device(h)) {
		failed(a, EMFILE, "");
		return;
	}
	error = device_open_virtio(&h->device, serial);
	h->connected = error == 0;
	if (h->connected) {
		tell_device(h, a);
	} else {
		failed(a, error, "");
		give_back_device(h);
	}
}

static void
close_all(const int *sockets, unsigned n)
{
	while (n > 0)
		close(sockets[--n]);
}

/* Several connections only where the server says that they are one disk. How many; 0: a failure. */
static unsigned
shake_hands(const struct handle *h, const char *export, struct terms *terms, int *sockets, struct answer *a)
{
	unsigned n = 0, want = 1;

	for (; n < want; n++) {
		sockets[n] = handshake(export, terms, &a->failure);
		if (sockets[n] < 0) {
			close_all(sockets, n);
			return 0;
		}
		if ((terms->flags & NBD_FLAG_CAN_MULTI_CONN) != 0 && h->connections > 0)
			want = h->connections;
	}
	return n;
}

/* It is no answer: the driver that the host has is to die of it. */
static void
tell_death(const char *why)
{
	char line[128];
	int n = snprintf(line, sizeof(line), "!%s\n", why);

	pthread_mutex_lock(&lock);
	put_line(line, (size_t)n);
	pthread_mutex_unlock(&lock);
}

static void
start_client(struct handle *h, const char *export, struct answer *a)
{
	if (!take_device(h)) {
		failed(a, EMFILE, "more handles are connected than were greeted with");
		return;
	}
	pthread_mutex_lock(&one_connects);
	h->connected = device_start_client(&h->device, export, h->connections > 0 ? h->connections : 1, &a->failure);
	pthread_mutex_unlock(&one_connects);
	if (strcmp(a->failure.name, CLIENT_DIED) == 0)
		tell_death(a->failure.text);
	if (h->connected)
		tell_device(h, a);
	else
		give_back_device(h);
}

static void
start_session(struct handle *h, const char *uri, struct answer *a)
{
	struct terms terms;
	char export[NAME_MOST + 1];
	int sockets[CONNECTIONS_MOST], error;
	unsigned n;

	if (strncmp(uri, "virtio:", 7) == 0) {
		open_virtio(h, uri + 7, a);
		return;
	}
	if (!export_of(uri, export, sizeof(export))) {
		failed(a, EINVAL, "the export's name is too long");
		return;
	}
	if (by_client) {
		start_client(h, export, a);
		return;
	}
	n = shake_hands(h, export, &terms, sockets, a);
	if (n == 0)
		return;
	if (keeps_flags && h->has_first)
		terms.flags = h->first.flags;
	if (no_cache)
		terms.flags &= (uint16_t) ~(NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA);
	h->first = terms;
	h->has_first = true;
	h->device.by_ioctl = by_ioctl;
	if (!take_device(h)) {
		close_all(sockets, n);
		failed(a, EMFILE, "more handles are connected than were greeted with");
		return;
	}
	error = device_start(&h->device, sockets, n, &terms);
	h->connected = error == 0;
	if (h->connected) {
		tell_device(h, a);
	} else {
		failed(a, error, "the kernel does not take it");
		give_back_device(h);
	}
}

static void
do_connect(const struct request *r, struct answer *a)
{
	struct answer unused = { .unsupported = false };

	if (panics)
		write_text("/proc/sysrq-trigger", "c");
	while (hangs)
		pause();
	if (r->handle->connected && !device_is_lost(&r->handle->device)) {
		failed(a, EISCONN, "");
		return;
	}
	if (r->handle->connected)
		end_session(r->handle, true, &unused);
	start_session(r->handle, r->words[0] != NULL ? r->words[0] : "", a);
}

static void
do_disconnect(const struct request *r, struct answer *a)
{
	if (r->handle->connected)
		end_session(r->handle, false, a);
	else
		failed(a, ENOTCONN, "");
}

static void
do_close(const struct request *r, struct answer *a)
{
	struct answer unused = { .unsupported = false };
	struct handle *h = r->handle;

	(void)a;
	h->cancelled = true;
	if (h->connected)
		end_session(h, true, &unused);
	/* in_flight stays: commands that found no session may not have been counted down yet. */
	h->device = (struct device){ .fd = -1 };
	h->cancelled = h->has_first = false;
	h->connections = 0;
}

/*
 * "cached": a descriptor without O_DIRECT, so that the page cache lies between. "connections": so many, of which the kernel
 * has a queue for each. "timeout": seconds that a request may take.
 */
static void
do_set(const struct request *r, struct answer *a)
{
	const char *word = r->words[0] != NULL ? r->words[0] : "";

	unsigned n;

	if (strcmp(word, "cached=on") == 0 || strcmp(word, "cached=off") == 0)
		r->handle->device.cached = strcmp(word, "cached=on") == 0;
	else if (sscanf(word, "connections=%u", &n) == 1 && n > 0 && n <= CONNECTIONS_MOST)
		r->handle->connections = n;
	else if (sscanf(word, "timeout=%u", &n) == 1)
		r->handle->device.timeout = n;
	else
		a->unsupported = true;
}

static void
tell_mark(const char *text)
{
	char line[MARK_MOST];
	int n = snprintf(line, sizeof(line), "mark %s\n", text);

	pthread_mutex_lock(&lock);
	put_line(line, (size_t)n);
	pthread_mutex_unlock(&lock);
}

/* "workload FILESYSTEM OPTIONS WORD...", which no greeting tells of: ci/vm/mounted has it. */
static void
do_workload(const struct request *r, struct answer *a)
{
	struct workload w = { r->words[0], r->words[1], r->words + 2 };
	char path[32];
	int status = 0, error;

	if (r->words[0] == NULL || r->words[1] == NULL || r->words[2] == NULL || !r->handle->connected) {
		failed(a, EINVAL, "");
		return;
	}
	snprintf(path, sizeof(path), "/dev/%s", r->handle->device.name);
	error = workload_run(path, &w, tell_mark, &status);
	if (error != 0)
		failed(a, error, "");
	else
		snprintf(a->text, sizeof(a->text), " %d",
		         WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

/* ---- lines ---- */

static const struct operation {
	const char *name;
	void (*call)(const struct request *r, struct answer *a);
} operations[] = {
	{ "connect", do_connect }, { "disconnect", do_disconnect }, { "close", do_close },
	{ "set", do_set },         { "workload", do_workload },
};

static void
carry_out(const struct request *r, struct answer *a)
{
	for (size_t i = 0; i < N_COMMANDS; i++)
		if (strcmp(r->operation, commands[i].name) == 0) {
			do_command(r, &commands[i], a);
			return;
		}
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
		if (strcmp(r->operation, operations[i].name) == 0) {
			operations[i].call(r, a);
			return;
		}
	a->unsupported = true;
}

static bool
is_command(const char *operation)
{
	for (size_t i = 0; i < N_COMMANDS; i++)
		if (strcmp(operation, commands[i].name) == 0)
			return true;
	return false;
}

static void *
answer_it(void *arg)
{
	struct request *r = arg;
	struct answer a = { .unsupported = false };

	carry_out(r, &a);
	put_answer(r, &a);
	if (is_command(r->operation)) {
		pthread_mutex_lock(&lock);
		r->handle->in_flight--;
		pthread_mutex_unlock(&lock);
	}
	free(r->line);
	free(r);
	return NULL;
}

static struct handle *
handle_of(unsigned long number)
{
	struct handle *h;

	pthread_mutex_lock(&lock);
	for (h = handles; h != NULL && h->number != number; h = h->next)
		continue;
	if (h == NULL) {
		h = calloc(1, sizeof(*h));
		*h = (struct handle){ .next = handles, .number = number, .device = { .fd = -1 } };
		handles = h;
	}
	pthread_mutex_unlock(&lock);
	return h;
}

/* In the order of the lines what is needed of the handle is noted; all else is done by the thread. */
static void
take_request(char *line)
{
	struct request *r = calloc(1, sizeof(*r));
	char *number, *save;
	pthread_attr_t attr;
	pthread_t thread;

	r->line = strdup(line);
	r->tag = strtok_r(r->line, " ", &save);
	number = strtok_r(NULL, " ", &save);
	r->operation = strtok_r(NULL, " ", &save);
	if (r->operation == NULL)
		_exit(2);
	for (size_t i = 0; i < WORDS_MOST - 1 && (r->words[i] = strtok_r(NULL, " ", &save)) != NULL; i++)
		continue;
	r->handle = handle_of(strtoul(number, NULL, 10));
	if (is_command(r->operation)) {
		pthread_mutex_lock(&lock);
		r->handle->in_flight++;
		pthread_mutex_unlock(&lock);
	}
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 256 << 10);
	if (pthread_create(&thread, &attr, answer_it, r) != 0)
		_exit(3);
}

/* What is in flight fails as its device goes. */
static void
end_all(void)
{
	for (struct handle *h = handles; h != NULL; h = h->next)
		if (h->connected)
			device_end(&h->device, true);
}

static void
greet(void)
{
	char line[512];
	struct utsname u;

	uname(&u);
	snprintf(line, sizeof(line),
	         "nbdspec-driver 1 linux-nbd %s depth=16 handles=%d connect disconnect close "
	         "set+cached+connections+timeout read write+fua "
	         "flush "
	         "trim zero+no-hole\n",
	         u.release, DEVICES_EACH);
	put_line(line, strlen(line));
}

void
driver_run(int on, unsigned *used)
{
	char *line = NULL, *at;
	size_t size = 0;
	FILE *in = fdopen(dup(on), "r");

	port = on;
	n_used = used;
	first_device = *used;
	greet();
	while (getline(&line, &size, in) > 0) {
		line[strcspn(line, "\n")] = '\0';
		if (strcmp(line, "end") == 0)
			break;
		if (strncmp(line, "options", 7) == 0) {
			by_ioctl = strstr(line, " ioctl") != NULL;
			by_client = strstr(line, " nbd-client") != NULL;
			at = strstr(line, " time-factor=");
			time_factor = at != NULL ? (unsigned)atoi(at + 13) : 1;
			keeps_flags = strstr(line, " keeps-flags") != NULL;
			no_cache = strstr(line, " no-cache") != NULL;
			panics = strstr(line, " panics") != NULL;
			hangs = strstr(line, " hangs") != NULL;
		} else if (strcmp(line, "ok") == 0) {
			workload_answer();
		} else {
			take_request(line);
		}
	}
	while (hangs)
		pause();
	end_all();
	_exit(0);
}
