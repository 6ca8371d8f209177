/* The nbd driver's generic netlink interface (linux/nbd-netlink.h): a request, and the kernel's acknowledgement. */
#include "guest.h"

#include <errno.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct message {
	struct nlmsghdr head;
	struct genlmsghdr genl;
	uint8_t data[512];
};

static void
begin(struct message *m, uint16_t family, uint8_t command)
{
	memset(m, 0, sizeof(*m));
	m->head.nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN);
	m->head.nlmsg_type = family;
	m->head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	m->genl.cmd = command;
	m->genl.version = 1;
}

static struct nlattr *
put(struct message *m, uint16_t type, const void *data, size_t length)
{
	struct nlattr *a = (struct nlattr *)((uint8_t *)m + NLMSG_ALIGN(m->head.nlmsg_len));

	a->nla_type = type;
	a->nla_len = (uint16_t)(NLA_HDRLEN + length);
	if (length > 0)
		memcpy((uint8_t *)a + NLA_HDRLEN, data, length);
	m->head.nlmsg_len = NLMSG_ALIGN(m->head.nlmsg_len) + (uint32_t)NLA_ALIGN(a->nla_len);
	return a;
}

static void
put_u32(struct message *m, uint16_t type, uint32_t n)
{
	put(m, type, &n, sizeof(n));
}

static void
put_u64(struct message *m, uint16_t type, uint64_t n)
{
	put(m, type, &n, sizeof(n));
}

static void
end_nest(const struct message *m, struct nlattr *a)
{
	a->nla_len = (uint16_t)((const uint8_t *)m + m->head.nlmsg_len - (uint8_t *)a);
}

static int
error_of(const struct message *reply)
{
	return -((const struct nlmsgerr *)&reply->genl)->error;
}

/* Up to the acknowledgement; another reply that comes before it is kept. */
static int
ask(const struct message *m, struct message *reply)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC), failed = 0;
	struct message r;

	if (fd < 0)
		return errno;
	if (send(fd, m, m->head.nlmsg_len, 0) < 0)
		failed = errno;
	while (failed == 0) {
		if (recv(fd, &r, sizeof(r), 0) < 0) {
			failed = errno;
			break;
		}
		if (r.head.nlmsg_type == NLMSG_ERROR) {
			failed = error_of(&r);
			break;
		}
		if (reply != NULL)
			*reply = r;
	}
	close(fd);
	return failed;
}

/* The number that the kernel has given to the family; 0: errno. It is another one after the module was loaded anew. */
static uint16_t
find_family(void)
{
	struct message m, reply = { .head = { .nlmsg_len = 0 } };
	const uint8_t *at = reply.data, *end;

	begin(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
	put(&m, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof(NBD_GENL_FAMILY_NAME));
	errno = ask(&m, &reply);
	if (errno != 0)
		return 0;
	end = (uint8_t *)&reply + (reply.head.nlmsg_len < sizeof(reply) ? reply.head.nlmsg_len : sizeof(reply));
	while (at + NLA_HDRLEN <= end) {
		const struct nlattr *a = (const struct nlattr *)at;

		if (a->nla_type == CTRL_ATTR_FAMILY_ID)
			return *(const uint16_t *)(at + NLA_HDRLEN);
		at += NLA_ALIGN(a->nla_len);
	}
	errno = ENOENT;
	return 0;
}

int
netlink_connect(const struct device *d, const struct terms *terms, uint32_t block_size)
{
	struct nlattr *sockets, *item;
	uint16_t family = find_family();
	struct message m;

	if (family == 0)
		return errno;
	begin(&m, family, NBD_CMD_CONNECT);
	put_u32(&m, NBD_ATTR_INDEX, d->index);
	put_u64(&m, NBD_ATTR_SIZE_BYTES, terms->size);
	put_u64(&m, NBD_ATTR_BLOCK_SIZE_BYTES, block_size);
	put_u64(&m, NBD_ATTR_SERVER_FLAGS, terms->flags);
	if (d->timeout != 0)
		put_u64(&m, NBD_ATTR_TIMEOUT, d->timeout);
	sockets = put(&m, NBD_ATTR_SOCKETS | NLA_F_NESTED, NULL, 0);
	for (unsigned i = 0; i < d->n_sockets; i++) {
		item = put(&m, NBD_SOCK_ITEM | NLA_F_NESTED, NULL, 0);
		put_u32(&m, NBD_SOCK_FD, (uint32_t)d->sockets[i]);
		end_nest(&m, item);
	}
	end_nest(&m, sockets);
	return ask(&m, NULL);
}

int
netlink_disconnect(unsigned index)
{
	uint16_t family = find_family();
	struct message m;

	if (family == 0)
		return errno;
	begin(&m, family, NBD_CMD_DISCONNECT);
	put_u32(&m, NBD_ATTR_INDEX, index);
	return ask(&m, NULL);
}
