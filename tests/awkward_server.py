"""An NBD server for tests of nbdspec: honest, but for what it is told to do.

usage: awkward_server.py SOCKET|PORT|stdio|activation [WORD]...

size=N, ro          what the export is
deaf                SIGTERM is ignored
noisy               prints a lot, and escape sequences, on standard error
ACT@EVENT[:N]       at the Nth (first) start, accept, read, write or end of a connection:
                    crash, exit0, exit3, hang (says and reads no more), close (that connection), garbage (instead of
                    what is due), unlisten (no more connections), name=VALUE (print it on standard error)
"""

import os
import signal
import socket
import struct
import sys
import time

MAGIC, OPTION_MAGIC, REPLY_MAGIC = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9


class Closed(Exception):
    pass


class Server:
    def __init__(self, where, words):
        self.where, self.size, self.flags = where, 1 << 20, 0b101  # HAS_FLAGS, SEND_FLUSH
        self.plan, self.seen = [], {}
        for word in words:
            if word == "deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            elif word == "noisy":
                sys.stderr.write("".join(f"line {n} \x1b[31mred\n" for n in range(2000)))
            elif word == "ro":
                self.flags |= 2
            elif word.startswith("size="):
                self.size = int(word[5:])
            else:
                act, event = word.split("@")
                event, _, n = event.partition(":")
                self.plan.append((act, event, int(n or 1)))
        sys.stderr.flush()
        self.listener = self.conn = None

    def happens(self, event):
        self.seen[event] = n = self.seen.get(event, 0) + 1
        for act, when, nth in self.plan:
            if when != event or nth != n:
                continue
            if act == "crash":
                if self.listener:
                    self.listener.close()  # the kernel does so too, but maybe last, and nobody shall come in between
                signal.signal(signal.SIGSEGV, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGSEGV)
            elif act.startswith("exit"):
                os._exit(int(act[4:]))
            elif act == "hang":
                while True:
                    time.sleep(1000)
            elif act == "unlisten":
                self.listener.close()
                self.listener = None
            elif act == "close":
                raise Closed
            elif act == "garbage":
                self.conn.sendall(bytes(range(256)) * 4)
                raise Closed
            else:
                print(act, file=sys.stderr, flush=True)

    def take(self, n):
        data = b""
        while len(data) < n:
            more = self.conn.recv(n - len(data))
            if not more:
                raise Closed
            data += more
        return data

    def reply(self, option, kind, data=b""):
        self.conn.sendall(struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)) + data)

    def haggle(self):
        self.conn.sendall(struct.pack(">QQH", MAGIC, OPTION_MAGIC, 3))
        no_zeroes = struct.unpack(">I", self.take(4))[0] & 2
        while True:
            magic, option, length = struct.unpack(">QII", self.take(16))
            if magic != OPTION_MAGIC:
                raise Closed
            self.take(length)
            if option == 1:
                self.conn.sendall(struct.pack(">QH", self.size, self.flags) + (b"" if no_zeroes else bytes(124)))
                return
            if option in (6, 7):
                self.reply(option, 3, struct.pack(">HQH", 0, self.size, self.flags))
            if option in (2, 3, 6, 7):
                self.reply(option, 1)
            else:
                self.reply(option, 0x80000001)
            if option == 2:
                raise Closed
            if option == 7:
                return

    def transmit(self):
        disk = {}
        while True:
            magic, _, kind, cookie, offset, length = struct.unpack(">IHHQQI", self.take(28))
            error, data = 0, b""
            if magic != 0x25609513 or kind == 2:
                raise Closed
            if kind == 1:
                data = self.take(length)
            if kind in (0, 1):
                self.happens("read" if kind == 0 else "write")
                if offset + length > self.size:
                    error = 22 if kind == 0 else 28
                elif kind == 1 and self.flags & 2:
                    error = 1
                elif kind == 1:
                    disk[offset, length] = data
            elif kind != 3:
                error = 22
            data = b"" if kind != 0 or error else disk.get((offset, length), bytes(length))
            self.conn.sendall(struct.pack(">IIQ", 0x67446698, error, cookie) + data)

    def serve(self):
        self.happens("start")
        if self.where == "stdio":
            self.listener, self.conn = None, socket.socket(fileno=0)
        elif self.where == "activation":
            self.listener = socket.socket(fileno=3)
        elif self.where.isdigit():
            self.listener = socket.create_server(("127.0.0.1", int(self.where)))
        else:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(self.where + ".new")
            self.listener.listen(16)
            os.rename(self.where + ".new", self.where)  # whoever sees it can connect
        while self.conn or self.listener:
            if not self.conn:
                self.conn, _ = self.listener.accept()
            try:
                self.happens("accept")
                self.haggle()
                self.transmit()
            except (Closed, ConnectionError):
                self.conn.close()
            self.conn = None
            try:
                self.happens("end")
            except Closed:
                pass


Server(sys.argv[1], sys.argv[2:]).serve()
while "unlisten@" in " ".join(sys.argv):
    time.sleep(1000)
