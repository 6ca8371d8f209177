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

SIZE = 1 << 20
PIECES = [b"\x1b[35m\x1b]0;owned\x07", b"\x1b[2J\x1b[999C", b"\x9b31m", b"\0", b"\r\nnot ok 1 - forged\n", b"\nBail out! forged\n", b"1..0 # SKIP\n", b"]]><failure/>", b"<script>document.title='owned'</script>",
          b"</script><img src=x onerror=alert(1)>", b"&amp;&#0;&lt;", b"\xff\xfe\x80", b"\xc0\xaf\xe0\x80\xaf", b"\xed\xa0\x80", "\u202e\u2066\u2028\ufeff\uffff".encode(), b"%s%n%1000000d",
          b"| a | b |\n|---|---|\n", b"```\n# heading\n<details open>", b"[x](javascript:alert(1)) ![x](http://example.invalid/x.png) @team #1", b"::error file=a::forged\n", b"\\\"\\u0000'${IFS}`id`$(id)", b"\x7f\x01\x1b\\", b"\t\v\f\b\b\b", b"x" * 4096,
          "\U0001f4a5\u0301".encode(), b"-->", b"]]>", b"# TODO\n", b"---\n...\n", b"\x1bP$q\x1b\\", b"\x1b[6n", b"\x0e\x0f", b"name,with,commas", b"../../../etc/passwd"]
ERRORS = [(1 << 31) + n for n in (*range(1, 11), 77, 65535)]
count = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
seeds = itertools.count()


def text(r, most=4096):
    os.write(count, b".")
    return b"".join(r.choice(PIECES) for _ in range(r.randrange(1, 9)))[:r.choice((most, most, 64))]


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
