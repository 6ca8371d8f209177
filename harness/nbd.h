/*
 * The constants of the NBD protocol, by the names that the protocol text gives them (proto.md, "Values"; ext is
 * proto-extension-ext-header.md, the text of the experimental extended headers).
 */
#ifndef NBDSPEC_NBD_H
#define NBDSPEC_NBD_H

#include <stdint.h>

#define NBD_MAGIC			UINT64_C(0x4e42444d41474943)	/* "NBDMAGIC", proto.md:97 */
#define NBD_CLISERV_MAGIC		UINT64_C(0x00420281861253)	/* proto.md:99 */
#define NBD_OPTION_MAGIC		UINT64_C(0x49484156454f5054)	/* "IHAVEOPT", proto.md:129 */
#define NBD_OPTION_REPLY_MAGIC		UINT64_C(0x0003e889045565a9)	/* proto.md:197 */
#define NBD_REQUEST_MAGIC		UINT32_C(0x25609513)		/* proto.md:351 */
#define NBD_SIMPLE_REPLY_MAGIC		UINT32_C(0x67446698)		/* proto.md:368 */
#define NBD_STRUCTURED_REPLY_MAGIC	UINT32_C(0x668e33ef)		/* proto.md:420 */
#define NBD_EXTENDED_REQUEST_MAGIC	UINT32_C(0x21e41c71)		/* of extended headers: ext:388 */
#define NBD_EXTENDED_REPLY_MAGIC	UINT32_C(0x6e8a278c)		/* of extended headers: ext:525 */

#define NBD_MAX_STRING			4096u		/* bytes; proto.md:38 */
#define NBD_EXPORT_NAME_PADDING		124u		/* bytes; proto.md:162 */
#define NBD_DEFAULT_MAX_PAYLOAD		(1u << 25)	/* bytes; proto.md:791 */

/* Handshake flags, 16 bits (proto.md:1052). */
enum { NBD_FLAG_FIXED_NEWSTYLE = 1 << 0, NBD_FLAG_NO_ZEROES = 1 << 1 };

/* Client flags, 32 bits (proto.md:1073). */
enum { NBD_FLAG_C_FIXED_NEWSTYLE = 1 << 0, NBD_FLAG_C_NO_ZEROES = 1 << 1 };

/* Transmission flags, 16 bits (proto.md:1091). */
enum {
	NBD_FLAG_HAS_FLAGS = 1 << 0,
	NBD_FLAG_READ_ONLY = 1 << 1,
	NBD_FLAG_SEND_FLUSH = 1 << 2,
	NBD_FLAG_SEND_FUA = 1 << 3,
	NBD_FLAG_ROTATIONAL = 1 << 4,
	NBD_FLAG_SEND_TRIM = 1 << 5,
	NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
	NBD_FLAG_SEND_DF = 1 << 7,
	NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
	NBD_FLAG_SEND_RESIZE = 1 << 9,
	NBD_FLAG_SEND_CACHE = 1 << 10,
	NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
	NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12,
};

/* Options (proto.md:1159). */
enum {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_PEEK_EXPORT = 4,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
	NBD_OPT_EXTENDED_HEADERS = 11,
};

/* Option reply types (proto.md:1524). */
#define NBD_REP_ERROR_BIT		UINT32_C(0x80000000)
#define NBD_REP_ACK			UINT32_C(1)
#define NBD_REP_SERVER			UINT32_C(2)
#define NBD_REP_INFO			UINT32_C(3)
#define NBD_REP_META_CONTEXT		UINT32_C(4)
#define NBD_REP_ERR_UNSUP		UINT32_C(0x80000001)
#define NBD_REP_ERR_POLICY		UINT32_C(0x80000002)
#define NBD_REP_ERR_INVALID		UINT32_C(0x80000003)
#define NBD_REP_ERR_PLATFORM		UINT32_C(0x80000004)
#define NBD_REP_ERR_TLS_REQD		UINT32_C(0x80000005)
#define NBD_REP_ERR_UNKNOWN		UINT32_C(0x80000006)
#define NBD_REP_ERR_SHUTDOWN		UINT32_C(0x80000007)
#define NBD_REP_ERR_BLOCK_SIZE_REQD	UINT32_C(0x80000008)
#define NBD_REP_ERR_TOO_BIG		UINT32_C(0x80000009)
#define NBD_REP_ERR_EXT_HEADER_REQD	UINT32_C(0x8000000a)

/* For an option that is known but malformed: the server may refuse it before it has looked at what is wrong. */
#define REFUSALS_OF_MALFORMED                                                                                          \
	NBD_REP_ERR_INVALID, NBD_REP_ERR_TOO_BIG, NBD_REP_ERR_POLICY, NBD_REP_ERR_SHUTDOWN

/* Information types (proto.md:1575). */
enum { NBD_INFO_EXPORT = 0, NBD_INFO_NAME = 1, NBD_INFO_DESCRIPTION = 2, NBD_INFO_BLOCK_SIZE = 3 };

/* Command flags, 16 bits (proto.md:1713). */
enum {
	NBD_CMD_FLAG_FUA = 1 << 0,
	NBD_CMD_FLAG_NO_HOLE = 1 << 1,
	NBD_CMD_FLAG_DF = 1 << 2,
	NBD_CMD_FLAG_REQ_ONE = 1 << 3,
	NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
	NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5,
};

/* Request types (proto.md:1944). */
enum {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_CACHE = 5,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
	NBD_CMD_RESIZE = 8,
};

/* Structured reply flags and types (proto.md:1766, 1784). */
enum { NBD_REPLY_FLAG_DONE = 1 << 0 };
enum {
	NBD_REPLY_TYPE_NONE = 0,
	NBD_REPLY_TYPE_OFFSET_DATA = 1,
	NBD_REPLY_TYPE_OFFSET_HOLE = 2,
	NBD_REPLY_TYPE_BLOCK_STATUS = 5,
	NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6,
	NBD_REPLY_TYPE_ERROR = 0x8001,
	NBD_REPLY_TYPE_ERROR_OFFSET = 0x8002,
};

/* base:allocation status flags (proto.md:1014). */
enum { NBD_STATE_HOLE = 1 << 0, NBD_STATE_ZERO = 1 << 1 };

/* Error values (proto.md:2304). */
enum {
	NBD_SUCCESS = 0,
	NBD_EPERM = 1,
	NBD_EIO = 5,
	NBD_ENOMEM = 12,
	NBD_EINVAL = 22,
	NBD_ENOSPC = 28,
	NBD_EOVERFLOW = 75,
	NBD_ENOTSUP = 95,
	NBD_ESHUTDOWN = 108,
};

#endif
