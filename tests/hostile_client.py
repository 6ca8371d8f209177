"""An NBD client, and a driver of one, whose every text is hostile.

usage: hostile_client.py COUNT SOCKET
       hostile_client.py COUNT

With SOCKET it is a command: names of exports and contexts, data of options and of WRITE are such texts, it prints one to both of its
outputs, and ends with this or that status. Without, it is a driver (docs/driver-protocol.md): names, and what it says of errors, are
such texts, now as the protocol wants them, now as they are. How many were told is the length of the file COUNT.
"""

import os
import random
import re
import socket
import struct
import sys
import urllib.parse

sys.path.insert(0, os.path.dirname(__file__))
from hostile_texts import counter  # noqa: E402

text = counter(sys.argv[1])
r = random.Random(os.stat(sys.argv[1]).st_size)


class Client:
    def __init__(self, path):
        self.conn = socket.socket(socket.AF_UNIX)
        self.conn.settimeout(2)
        self.conn.connect(path)
        self.take(18)
        self.conn.sendall(struct.pack(">I", 3))
        self.size = 0

    def take(self, n):
        data = b""
        while len(data) < n:
            more = self.conn.recv(n - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def option(self, option, data):
        """What it is answered with last."""
        self.conn.sendall(b"IHAVEOPT" + struct.pack(">II", option, len(data)) + data)
        while True:
            _, _, kind, length = struct.unpack(">QIII", self.take(20))
            data = self.take(length)
            if kind == 3 and data[:2] == b"\0\0":
                self.size, = struct.unpack(">Q", data[2:10])
            if kind == 1 or kind & 1 << 31:
                return kind

    def haggle(self):
        if r.random() < 0.7:
            self.option(8, b"")
        for _ in range(r.randrange(4)):
            name = text(r)
            queries = [text(r) for _ in range(r.randrange(3))]
            contexts = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries)) + b"".join(struct.pack(">I", len(q)) + q for q in queries)
            self.option(*r.choice([(3, b""), (3, name), (6, struct.pack(">I", len(name)) + name + b"\0\0"), (9, contexts), (10, contexts), (77, name), (8, name), (6, name)]))

    def go(self, name=b""):
        return self.option(7, struct.pack(">I", len(name)) + name + b"\0\0") == 1

    def command(self, kind, offset=0, length=512, data=b""):
        self.conn.sendall(struct.pack(">IHHQQI", 0x25609513, 0, kind, r.getrandbits(64), offset, length) + data)


def command(path):
    status = r.choice((0, 0, 1, 3))
    try:
        client = Client(path)
        client.haggle()
        if client.go(r.choice((b"", b"", text(r)))):
            client.command(1, data=text(r, 512).ljust(512, b"\x1b"))
            client.command(0)
            client.take(16)
            client.command(2, length=0)
    except (OSError, EOFError, struct.error) as e:
        os.write(2, repr(e).encode())
    os.write(1, text(r, 200) + b"\n")
    os.write(2, text(r, 200) + b"\n")
    return status


def word(data):
    return re.sub(rb"[^!-~]|[%=:,]", lambda m: b"%%%02x" % ord(m[0]), data)


def error():
    """A line whatever is in it, and not always of printable characters."""
    told = text(r)
    return b"error EIO " + (word(told) if r.random() < 0.5 else told.replace(b"\n", b""))


def carry_out(clients, handle, operation, words):
    if operation == b"connect":
        where = urllib.parse.urlsplit(words[0].decode())
        clients[handle] = Client(urllib.parse.parse_qs(where.query)["socket"][0])
        clients[handle].haggle()
        if not clients[handle].go(urllib.parse.unquote_to_bytes(where.path[1:])):
            return error()
        return b"ok size=%d" % clients[handle].size + b"".join(b" %s=%s" % (key, word(text(r))) for key in (b"export", b"description", b"context", b"protocol"))
    if operation in (b"disconnect", b"close"):
        clients.pop(handle).conn.close()
        return b"ok"
    if operation == b"read":
        clients[handle].command(0, *map(int, words[:2]))
        return b"ok %08x" % r.getrandbits(32) if r.random() < 0.5 else error()
    if operation == b"write":
        clients[handle].command(1, *map(int, words[:2]), bytes(int(words[1])))
        return error()
    return b"unsupported"


def driver():
    clients = {}
    os.write(1, b"nbdspec-driver 1 %s %s depth=1 handles=4 connect disconnect close read write\n" % (word(text(r, 100)), word(text(r, 100))))
    for line in sys.stdin.buffer:
        tag, handle, operation, *words = line.rstrip(b"\n").split(b" ")
        try:
            answer = carry_out(clients, handle, operation, words)
        except (OSError, EOFError, KeyError, struct.error):
            answer = error()
        os.write(2, text(r, 200) + b"\n")
        os.write(1, tag + b" " + answer + b"\n")


sys.exit(command(sys.argv[2]) if len(sys.argv) > 2 else driver())
