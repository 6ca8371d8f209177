#!/usr/bin/python3
"""A driver of no client at all: it speaks NBD by itself, fixed newstyle and simple replies, written from
docs/driver-protocol.md and the protocol text alone. It shows how little a driver needs.
"""

import errno
import re
import socket
import struct
import sys
import urllib.parse
import zlib

READ, WRITE, DISC, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
FUA, NO_HOLE, FAST_ZERO = 1, 2, 16
ABORT, GO, ACK, INFO, REP_ERRORS = 2, 7, 1, 3, {1: "UNSUP", 2: "POLICY", 3: "INVALID", 5: "TLS_REQD", 6: "UNKNOWN", 7: "SHUTDOWN"}
# Operation: its command, how many numbers stand behind it, its flags, and the transmission flag that allows it.
COMMANDS = {
    "read": (READ, 2, {}, 0),
    "write": (WRITE, 3, {"fua": FUA}, 0),
    "flush": (FLUSH, 0, {}, 1 << 2),
    "trim": (TRIM, 2, {"fua": FUA}, 1 << 5),
    "zero": (WRITE_ZEROES, 2, {"no-hole": NO_HOLE, "fast": FAST_ZERO, "fua": FUA}, 1 << 6),
}
FLAGS = {"read-only": 1 << 1, "flush": 1 << 2, "fua": 1 << 3, "trim": 1 << 5, "zero": 1 << 6, "multi-conn": 1 << 8,
         "fast-zero": 1 << 11}


class Failed(Exception):
    """What the answer says behind "error"."""


def contents(pattern, offset, length):
    first, end = offset // 16, (offset + length + 15) // 16
    text = b"".join(b"%04x%012x" % (pattern, n % 2**48) for n in range(first, end))
    return text[offset % 16:][:length] if pattern else bytes(length)


class Client:
    def __init__(self):
        self.socket = None

    def receive(self, form):
        return struct.unpack(form, self.receive_bytes(struct.calcsize(form)))

    def receive_bytes(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise Failed("ENOTCONN the server has closed the connection")
            data += more
        return data

    def connect(self, uri):
        u = urllib.parse.urlsplit(uri)
        name = urllib.parse.unquote(u.path[1:])
        if u.scheme == "nbd+unix":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(urllib.parse.parse_qs(u.query)["socket"][0])
        else:
            self.socket = socket.create_connection((u.hostname or "localhost", u.port or 10809))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        magic, option_magic, flags = self.receive(">8s8sH")
        if (magic, option_magic) != (b"NBDMAGIC", b"IHAVEOPT") or not flags & 1:
            raise Failed("EPROTONOSUPPORT this is no fixed newstyle server")
        self.socket.sendall(struct.pack(">L", flags & 3))
        return self.go(name.encode())

    def go(self, name):
        # Block sizes are asked for, and kept to by whoever asks for a command.
        data = struct.pack(">L%dsHH" % len(name), len(name), name, 1, 3)
        self.socket.sendall(struct.pack(">8sLL", b"IHAVEOPT", GO, len(data)) + data)
        known = {}
        while True:
            _, _, kind, length = self.receive(">QLLL")
            data = self.receive_bytes(length)
            if kind == ACK:
                return known
            if kind & 1 << 31:
                self.socket.sendall(struct.pack(">8sLL", b"IHAVEOPT", ABORT, 0))
                raise Failed("REP_ERR_" + REP_ERRORS.get(kind & 0xffff, "OTHER"))
            if kind == INFO and data[:2] == b"\0\0":
                known["size"], self.flags = struct.unpack(">QH", data[2:])
                known.update({key: "yes" if self.flags & bit else "no" for key, bit in FLAGS.items()})
            elif kind == INFO and data[:2] == b"\0\3":
                known.update(zip(("min", "preferred", "max"), struct.unpack(">LLL", data[2:])))

    def command(self, kind, flags, offset, length, data=b""):
        self.socket.sendall(struct.pack(">LHHQQL", 0x25609513, flags, kind, 1, offset, length) + data)
        magic, error, _ = self.receive(">LLQ")
        if magic != 0x67446698:
            raise Failed("EPROTO this is no simple reply")
        if error:
            raise Failed(errno.errorcode.get(error, "OTHER"))
        return self.receive_bytes(length) if kind == READ else b""

    def close(self, disconnect=False):
        if disconnect:
            self.socket.sendall(struct.pack(">LHHQQL", 0x25609513, 0, DISC, 0, 0, 0))
            self.socket.recv(1)
        if self.socket:
            self.socket.close()
        self.socket = None


def carry_out(clients, handle, operation, words):
    """What is answered behind the tag."""
    if operation not in ("connect", "disconnect", "close", *COMMANDS):
        return "unsupported"
    client = clients.setdefault(handle, Client())
    if operation == "close":
        clients.pop(handle).close()
        return "ok"
    if operation == "connect":
        if client.socket:
            raise Failed("EISCONN")
        return " ".join(["ok", *(f"{key}={value}" for key, value in client.connect(words[0]).items())])
    if operation == "disconnect":
        if not client.socket:
            raise Failed("ENOTCONN")
        client.close(disconnect=True)
        return "ok"
    kind, wanted, names, needs = COMMANDS[operation]
    numbers = [int(w) for w in words[:wanted] if re.fullmatch("[0-9]+", w)]
    if len(numbers) != wanted:
        raise Failed("EINVAL a number is missing or wrong")
    if not set(words[wanted:]) <= set(names):
        return "unsupported"
    if not client.socket:
        raise Failed("ENOTCONN")
    flags = sum(names[w] for w in words[wanted:])
    if client.flags & needs != needs or flags & FUA and not client.flags & 1 << 3 or flags & FAST_ZERO and not client.flags & 1 << 11:
        raise Failed("ENOTSUP the server does not offer it")
    offset, length, pattern = (numbers + [0, 0, 0])[:3]
    data = client.command(kind, flags, offset, length, contents(pattern, offset, length) if kind == WRITE else b"")
    return f"ok {zlib.crc32(data):08x}" if kind == READ else "ok"


def main():
    clients = {}
    operations = [name + "".join("+" + f for f in flags) for name, (_, _, flags, _) in COMMANDS.items()]
    print("nbdspec-driver 1 minimal.py 1 depth=1 handles=64 connect disconnect close", *operations, flush=True)
    for line in sys.stdin:
        tag, handle, operation, *words = line.rstrip("\n").split(" ")
        try:
            answer = carry_out(clients, handle, operation, words)
        except (Failed, OSError) as e:
            answer = f"error {e if isinstance(e, Failed) else errno.errorcode.get(e.errno, 'OTHER')}"
            # A connection that failed, or never came about, is none.
            if isinstance(e, OSError) or operation == "connect" and "EISCONN" not in answer or "ENOTCONN" in answer:
                clients[handle].close()
        print(tag, answer, flush=True)


if __name__ == "__main__":
    main()
