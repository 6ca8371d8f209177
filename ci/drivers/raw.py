"""NBD spoken by hand, for drivers whose client is a proxy: fixed newstyle, structured replies, metadata contexts, many
requests at once. It sends what it is told to, and repairs nothing; Client.offers tells what the server takes.
"""

import errno
import select
import socket
import struct

from driver import Failed

OPTION, REQUEST, SIMPLE_REPLY, CHUNK = b"IHAVEOPT", 0x25609513, 0x67446698, 0x668e33ef
ABORT, GO, STRUCTURED_REPLY, SET_META_CONTEXT = 2, 7, 8, 10
ACK, REP_INFO, REP_META_CONTEXT, REP_ERROR = 1, 3, 4, 1 << 31
REP_ERRORS = {1: "UNSUP", 2: "POLICY", 3: "INVALID", 4: "PLATFORM", 5: "TLS_REQD", 6: "UNKNOWN", 7: "SHUTDOWN",
              8: "BLOCK_SIZE_REQD", 9: "TOO_BIG"}
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
FUA, NO_HOLE, REQ_ONE, FAST_ZERO = 1, 2, 8, 16
OFFSET_DATA, OFFSET_HOLE, BLOCK_STATUS_CHUNK, CHUNK_ERROR, DONE = 1, 2, 5, 1 << 15, 1
FLAGS = {"read-only": 1 << 1, "flush": 1 << 2, "fua": 1 << 3, "rotational": 1 << 4, "trim": 1 << 5, "zero": 1 << 6,
         "multi-conn": 1 << 8, "cache": 1 << 10, "fast-zero": 1 << 11}
NEEDS = {FLUSH: FLAGS["flush"], TRIM: FLAGS["trim"], CACHE: FLAGS["cache"], WRITE_ZEROES: FLAGS["zero"]}


class Lost(Failed):
    """The connection is gone, or of no more use."""


class Request:
    """One that is unanswered, or has its answer: the error's name, the data read, the extents of each context."""

    def __init__(self, kind, offset, length):
        self.kind, self.offset, self.error, self.extents = kind, offset, None, {}
        self.data = bytearray(length if kind == READ else 0)


class Client:
    """On a connected socket, which it owns."""

    def __init__(self, connected):
        self.socket, self.cookie, self.flags = connected, 0, 0
        self.requests, self.finished, self.contexts = {}, [], {}

    def close(self):
        self.socket.close()

    def end_requests(self):
        """Nothing is sent any more; what is answered can still be read."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as e:
            raise Lost("ENOTCONN " + e.strerror) from e

    # ---- haggling ----

    def take(self, form):
        return struct.unpack(form, self.take_bytes(struct.calcsize(form)))

    def take_bytes(self, length):
        data = bytearray()
        while len(data) < length:
            try:
                more = self.socket.recv(min(length - len(data), 1 << 20))
            except OSError as e:
                raise Lost("ENOTCONN " + e.strerror) from e
            if not more:
                raise Lost("ENOTCONN the server has closed the connection")
            data += more
        return bytes(data)

    def put(self, data):
        try:
            self.socket.sendall(data)
        except OSError as e:
            raise Lost("ENOTCONN " + e.strerror) from e

    def option(self, number, data=b""):
        """Yields (type, data) of each reply but the last, which is an acknowledgement or a Failed."""
        self.put(struct.pack(">8sLL", OPTION, number, len(data)) + data)
        while True:
            _, _, kind, length = self.take(">QLLL")
            data = self.take_bytes(length)
            if kind == ACK:
                return
            if kind & REP_ERROR:
                raise Failed("REP_ERR_" + REP_ERRORS.get(kind & 0xffff, "OTHER"))
            yield kind, data

    def connect(self, name, contexts=()):
        """Up to the transmission phase; returns what is known, in pairs."""
        magic, option_magic, flags = self.take(">8s8sH")
        if (magic, option_magic) != (b"NBDMAGIC", OPTION) or not flags & 1:
            raise Lost("EPROTO this is no fixed newstyle server")
        self.put(struct.pack(">L", flags & 3))
        try:
            self.ask_for_structure(name, contexts)
            return self.go(name)
        except Failed as e:
            if not isinstance(e, Lost):
                self.put(struct.pack(">8sLL", OPTION, ABORT, 0))
            raise

    def ask_for_structure(self, name, contexts):
        try:
            list(self.option(STRUCTURED_REPLY))
        except Lost:
            raise
        except Failed:
            return
        if not contexts:
            return
        data = struct.pack(">L%dsL" % len(name), len(name), name, len(contexts))
        data += b"".join(struct.pack(">L", len(context)) + context for context in contexts)
        for kind, data in self.option(SET_META_CONTEXT, data):
            if kind == REP_META_CONTEXT:
                self.contexts[struct.unpack(">L", data[:4])[0]] = data[4:]

    def go(self, name):
        known = []
        for kind, data in self.option(GO, struct.pack(">L%dsHH" % len(name), len(name), name, 1, INFO_BLOCK_SIZE)):
            info = struct.unpack(">H", data[:2])[0] if kind == REP_INFO else None
            if info == INFO_EXPORT:
                size, self.flags = struct.unpack(">QH", data[2:])
                known += [("size", size), *((key, "yes" if self.flags & bit else "no") for key, bit in FLAGS.items())]
            elif info == INFO_BLOCK_SIZE:
                known += zip(("min", "preferred", "max"), struct.unpack(">LLL", data[2:]))
        return known

    # ---- transmission ----

    def offers(self, kind, flags):
        """May this command be sent with these flags?"""
        needs = NEEDS.get(kind, 0) | (FLAGS["fua"] if flags & FUA else 0) | (FLAGS["fast-zero"] if flags & FAST_ZERO else 0)
        return needs & ~self.flags == 0 and (kind != BLOCK_STATUS or self.contexts)

    def send(self, kind, flags=0, offset=0, length=0, data=b""):
        """Sends a request; what is answered meanwhile is taken, so that no two wait for each other."""
        self.cookie += 1
        if kind != DISC:
            self.requests[self.cookie] = Request(kind, offset, length)
        data = memoryview(struct.pack(">LHHQQL", REQUEST, flags, kind, self.cookie, offset, length) + data)
        while data:
            readable, writable, _ = select.select([self.socket], [self.socket], [])
            if readable and kind != DISC:
                self.receive()
            elif writable:
                try:
                    data = data[self.socket.send(data[:65536]):]
                except OSError as e:
                    raise Lost("ENOTCONN " + e.strerror) from e
        return self.cookie

    def receive(self):
        """Takes one message; a request that is answered goes from `requests` to `finished`, as (cookie, Request)."""
        magic, = self.take(">L")
        if magic == SIMPLE_REPLY:
            error, cookie = self.take(">LQ")
            request, done = self.request_of(cookie), True
            request.error = errno.errorcode.get(error, "OTHER") if error else None
            if request.kind == READ and not error:
                request.data[:] = self.take_bytes(len(request.data))
        elif magic == CHUNK:
            flags, kind, cookie, length = self.take(">HHQL")
            request, done = self.request_of(cookie), flags & DONE
            self.take_chunk(request, kind, self.take_bytes(length))
        else:
            raise Lost(f"EPROTO 0x{magic:08x} begins no reply")
        if done:
            self.finished.append((cookie, self.requests.pop(cookie)))

    def request_of(self, cookie):
        if cookie not in self.requests:
            raise Lost("EPROTO a reply with a cookie that no request has")
        return self.requests[cookie]

    def take_chunk(self, request, kind, data):
        if kind & CHUNK_ERROR:
            number, = struct.unpack(">L", data[:4])
            request.error = errno.errorcode.get(number, "OTHER")
        elif kind in (OFFSET_DATA, OFFSET_HOLE):
            at = struct.unpack(">Q", data[:8])[0] - request.offset
            part = data[8:] if kind == OFFSET_DATA else bytes(struct.unpack(">L", data[8:])[0])
            if at < 0 or at + len(part) > len(request.data):
                raise Lost("EPROTO a chunk beyond what was asked for")
            request.data[at:at + len(part)] = part
        elif kind == BLOCK_STATUS_CHUNK:
            context = self.contexts.get(struct.unpack(">L", data[:4])[0], b"?")
            request.extents[context] = list(struct.iter_unpack(">LL", data[4:]))
