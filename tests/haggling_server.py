"""An NBD server of one empty disk for tests of explorations: honest in option haggling, but for what it is told to do.

usage: haggling_server.py SOCKET [WORD]...

dies=N, dies=N+         option N, or option N with data, ends it by SIGABRT
worn=N                  the second option N that it ever gets ends it likewise
endless=N               what LIST is answered has no end, the Nth time on a connection
drips=N                 the Nth reply to LIST on a connection comes byte by byte, and has no end either
chunks                  structured replies are agreed to, and the chunks of each have no end
malformed=TYPE, told    what INFO and GO get whose lengths disagree; an NBD_REP_INFO comes before it
extra=TYPE              LIST_META_CONTEXT is served and finds nothing; what it gets where bytes stand behind its queries
padded_ack              the acknowledgement of the second option of a connection has data
df                      EXPORT_NAME tells of NBD_FLAG_SEND_DF
mute, once=FILE         PEEK_EXPORT is left without an answer; or only the one time that there is no FILE yet, which is made then
size=N                  of the disk
greedy                  a READ of no bytes is taken for the end
lingers                 NBD_CMD_DISC is waited behind
"""

import os
import socket
import struct
import sys
import threading
import time

WORDS = dict(word.partition("=")[::2] for word in sys.argv[2:])
EVER = []
SIZE = int(WORDS.get("size", 1 << 20))


class Connection:
    def __init__(self, conn):
        self.conn, self.options, self.lists = conn, [], 0

    def take(self, n):
        data = b""
        while len(data) < n:
            data += self.conn.recv(n - len(data)) or sys.exit()
        return data

    def reply(self, kind, data=b""):
        if kind == 1 and len(self.options) == 2 and "padded_ack" in WORDS:
            data = b"x"
        self.conn.sendall(struct.pack(">QIII", 0x3E889045565A9, self.options[-1], kind, len(data)) + data)

    def list(self):
        self.lists += 1
        while str(self.lists) == WORDS.get("endless"):
            self.reply(2, struct.pack(">I", 1) + b"x")
        if str(self.lists) == WORDS.get("drips"):
            self.conn.sendall(struct.pack(">QIII", 0x3E889045565A9, 3, 2, 1 << 19))
            while True:
                self.conn.sendall(b"\0")
                time.sleep(0.02)
        self.reply(2, struct.pack(">I", 0))
        self.reply(1)

    def go(self, data):
        """True where transmission begins."""
        length = struct.unpack(">I", data[:4].ljust(4, b"\xff"))[0]
        told = struct.pack(">HQH", 0, SIZE, 1)
        if length + 6 > len(data) or len(data) - length - 6 != 2 * struct.unpack(">H", data[4 + length:6 + length])[0]:
            if "told" in WORDS:
                self.reply(3, told)
            self.reply(int(WORDS.get("malformed", "0x80000003"), 0))
        elif length:
            self.reply(0x80000006)
        else:
            self.reply(3, told)
            self.reply(1)
            return self.options[-1] == 7
        return False

    def list_contexts(self, data):
        at, queries = 4 + struct.unpack(">I", data[:4].ljust(4, b"\xff"))[0], 0
        if at + 4 <= len(data):
            queries = struct.unpack(">I", data[at:at + 4])[0]
            at += 4
            while queries and at + 4 <= len(data):
                at, queries = at + 4 + struct.unpack(">I", data[at:at + 4])[0], queries - 1
        else:
            queries = 1
        if queries or at > len(data):
            self.reply(0x80000003)
        elif at < len(data):
            self.reply(int(WORDS["extra"], 0))
        else:
            self.reply(0x80000006 if data[:4] != bytes(4) else 1)

    def haggle(self):
        """True where structured replies are agreed to."""
        structured = False
        self.conn.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        zeroes = b"" if self.take(4)[3] & 2 else bytes(124)
        while True:
            _, option, length = struct.unpack(">QII", self.take(16))
            data = self.take(length) if length < 1 << 20 else sys.exit()
            self.options.append(option)
            if f"dies={option}" in sys.argv or (data and f"dies={option}+" in sys.argv):
                os.abort()
            EVER.append(option)
            if f"worn={option}" in sys.argv and EVER.count(option) == 2:
                os.abort()
            if option == 4 and "once" in WORDS and not os.path.exists(WORDS["once"]):
                open(WORDS["once"], "x", encoding="ascii").close()
                self.take(1)
            if option == 4 and "mute" in WORDS:
                self.take(1)
            if option == 1:
                if data:
                    sys.exit()
                self.conn.sendall(struct.pack(">QH", SIZE, 0x81 if "df" in WORDS else 1) + zeroes)
                return structured
            if option == 2:
                self.reply(1)
                sys.exit()
            if option in (3, 8) and data:
                self.reply(0x80000003)
            elif option == 3:
                self.list()
            elif option == 8 and "chunks" in WORDS:
                structured = True
                self.reply(1)
            elif option == 9 and "extra" in WORDS:
                self.list_contexts(data)
            elif option not in (6, 7):
                self.reply(0x80000001)
            elif self.go(data):
                return structured

    def serve(self):
        structured = self.haggle()
        while True:
            _, _, kind, cookie, offset, length = struct.unpack(">IHHQQI", self.take(28))
            bad = kind != 0 or offset + length > SIZE
            while kind == 2 and "lingers" in WORDS:
                self.take(1)
            if kind == 2 or (length == 0 and "greedy" in WORDS):
                sys.exit()
            while structured:
                self.conn.sendall(struct.pack(">IHHQI", 0x668E33EF, 0, 0, cookie, 0))
            self.conn.sendall(struct.pack(">IIQ", 0x67446698, 22 if bad else 0, cookie) + (b"" if bad else bytes(length)))


def serve(conn):
    with conn:
        try:
            Connection(conn).serve()
        except ConnectionError:
            pass


listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + ".new")
listener.listen(50)
os.rename(sys.argv[1] + ".new", sys.argv[1])  # whoever sees it can connect
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
