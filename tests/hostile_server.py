"""An NBD server whose every text is hostile: control bytes, escapes, markup, what is no UTF-8, up to 4096 bytes.

usage: hostile_server.py SOCKET COUNT

Options are refused, in turn, by errors of all kinds with such a text, LIST and contexts tell such names, GO goes on now and then with such a
name and description, and READ fails by chunks with such a text; a line of it goes to standard error with each connection. How many texts were
told, of all connections, is the length of the file COUNT.
"""

import itertools
import os
import random
import socket
import struct
import sys
import threading

sys.path.insert(0, os.path.dirname(__file__))
from hostile_texts import counter  # noqa: E402

SIZE = 1 << 20
ERRORS = [(1 << 31) + n for n in (*range(1, 11), 77, 65535)]
text = counter(sys.argv[2])
seeds = itertools.count()


class Connection:
    def __init__(self, conn):
        self.conn, self.r, self.structured = conn, random.Random(next(seeds)), False

    def take(self, n):
        data = b""
        while len(data) < n:
            data += self.conn.recv(n - len(data)) or sys.exit()
        return data

    def reply(self, option, kind, data=b""):
        self.conn.sendall(struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data)

    def option(self, option):
        """True where transmission begins."""
        name = text(self.r)
        if option == 3:
            for _ in range(self.r.randrange(3)):
                self.reply(3, 2, struct.pack(">I", len(name)) + name + text(self.r, 256))
            self.reply(3, 1)
        elif option in (6, 7) and self.r.random() < 0.7:
            self.reply(option, 3, struct.pack(">HQH", 0, SIZE, 0x1 | 0x4 | 0x80))
            self.reply(option, 3, struct.pack(">H", 1) + name)
            self.reply(option, 3, struct.pack(">H", 2) + text(self.r))
            self.reply(option, 1)
            return option == 7
        elif option == 8 and self.r.random() < 0.8:
            self.structured = True
            self.reply(option, 1)
        elif option in (9, 10) and self.r.random() < 0.5:
            self.reply(option, 4, struct.pack(">I", 1) + name)
            self.reply(option, 1)
        else:
            # NBD_REP_ERR_UNKNOWN would end the run: there is nothing to test.
            self.reply(option, self.r.choice([e for e in ERRORS if option not in (6, 7) or e & 0xFF != 6]), name)
        return False

    def serve(self):
        os.write(2, text(self.r, 200) + b"\n")
        self.conn.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        self.take(4)
        while True:
            _, option, length = struct.unpack(">QII", self.take(16))
            self.take(min(length, 1 << 20))
            if option == 1:
                self.conn.sendall(struct.pack(">QH", SIZE, 0x1 | 0x4))
                break
            if option == 2 or self.option(option):
                break
        while True:
            _, _, kind, cookie, _, length = struct.unpack(">IHHQQI", self.take(28))
            if kind == 1:
                self.take(length)
            if kind == 2:
                return
            if self.structured:
                told = text(self.r)
                told = struct.pack(">IH", self.r.choice((1, 5, 22, 28, 4096)), len(told)) + told
                self.conn.sendall(struct.pack(">IHHQI", 0x668E33EF, 1, (1 << 15) + self.r.choice((1, 2)), cookie, len(told)) + told)
            else:
                self.conn.sendall(struct.pack(">IIQ", 0x67446698, self.r.choice((0, 5, 22)), cookie) + (bytes(length) if kind == 0 else b""))


def main():
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen(64)
    while True:
        conn, _ = listener.accept()

        def serve(conn=conn):
            try:
                Connection(conn).serve()
            except (OSError, SystemExit, struct.error):
                pass
            finally:
                conn.close()
        threading.Thread(target=serve, daemon=True).start()


main()
