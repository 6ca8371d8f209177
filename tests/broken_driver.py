#!/usr/bin/python3
"""A driver that is wrong, or unusual, in one way, which its first argument names; it is ci/drivers/minimal.py otherwise."""

import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time

PATH = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "ci/drivers/minimal.py")
spec = importlib.util.spec_from_file_location("minimal", PATH)
minimal = importlib.util.module_from_spec(spec)
spec.loader.exec_module(minimal)
right = minimal.carry_out


def say(*words):
    print(*words, flush=True)


def wrong_answers(change):
    """change(operation, words, answer) makes the answers; a client's failure is an answer, too."""
    def carry_out(clients, handle, operation, words):
        try:
            answer = right(clients, handle, operation, words)
        except minimal.Failed as e:
            answer = f"error {e}"
        answer = change(operation, words, answer)
        if answer.startswith("error"):
            raise minimal.Failed(answer[6:])
        return answer
    minimal.carry_out = carry_out


def before(act, wanted="read"):
    """act() comes before the wanted operation is carried out, or instead of it."""
    def carry_out(clients, handle, operation, words):
        if operation == wanted:
            act()
        return right(clients, handle, operation, words)
    minimal.carry_out = carry_out


def early(clients, handle, operation, words):
    if operation == "flush":
        threading.Timer(0.3, right, (clients, handle, operation, words)).start()
        return "ok"
    return right(clients, handle, operation, words)


def stale(clients, handle, operation, words):
    """A handle that has been connected keeps what the first server said."""
    answer = right(clients, handle, operation, words)
    return first.setdefault(handle, answer) if operation == "connect" else answer


def mixed_up(clients, handle, operation, words):
    """The commands of all handles go to the one that was connected last."""
    if operation == "connect":
        first["last"] = handle
    return right(clients, handle if operation in ("connect", "disconnect", "close") else first.get("last", handle),
                 operation, words)


def swap_tags():
    lines = []

    def say_swapped(*words, flush=True):
        lines.append(" ".join(map(str, words)))
        if len(lines) == 4:
            tag, rest = lines[3].split(" ", 1)
            lines[3] = f"{int(tag) + 1} {rest}"
        sys.stdout.write(lines[-1] + "\n")
        sys.stdout.flush()
    minimal.print = say_swapped


def block_device(lost, forgets_timeout, writes=True):
    """A session has three connections, of which it uses the first; lost() is the answer to what that does not answer."""
    others, limit = {}, [0]

    def open_all(clients, handle, words):
        answer = right(clients, handle, "connect", words)
        others[handle] = [minimal.Client(), minimal.Client()]
        for client in others[handle]:
            client.connect(*words)
        clients[handle].socket.settimeout(limit[0] or None)
        return answer

    def carry_out(clients, handle, operation, words):
        if operation == "set":
            if words[0].startswith("timeout=") and (words[0] != "timeout=0" or forgets_timeout):
                limit[0] = int(words[0][8:])
            return "ok"
        if operation == "connect":
            return open_all(clients, handle, words)
        if operation == "disconnect":
            for client in others.pop(handle):
                client.close(disconnect=True)
        if operation == "write" and not writes:
            return "ok"
        try:
            return right(clients, handle, operation, words)
        except minimal.Failed:
            return lost()
    minimal.carry_out = carry_out
    minimal.print = lambda *words, **options: print(
        *(str(w).replace(" close", " close set+connections+timeout") for w in words), **options)


def error():
    raise minimal.Failed("EIO")


def forget_fua():
    minimal.COMMANDS["write"] = (minimal.WRITE, 3, {"fua": 0}, 0)


def zero_by_write(command, flags):
    """As a block device does that knows no zeroing: command() sends it."""
    def send(self, kind, given, offset, length, data=b""):
        if kind == minimal.WRITE_ZEROES:
            return command(self, minimal.WRITE, given & flags, offset, length, bytes(length))
        return command(self, kind, given, offset, length, data)
    minimal.Client.command = send


def look_again(client):
    """For its server, and for ever."""
    address = client.socket.getpeername()
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(address)
                s.recv(1)
        except OSError:
            pass
        time.sleep(0.01)


def at_its_end(act):
    """act(client) comes where the server has closed the connection."""
    def receive(self, length):
        try:
            return RECEIVE(self, length)
        except (OSError, minimal.Failed):
            act(self)
    minimal.Client.receive_bytes = receive


def leave_late(self, disconnect=False):
    """As from another machine: that it has left is said before its last bytes have come. This is not wrong."""
    left = minimal.Client()
    left.socket, self.socket = self.socket, None
    threading.Timer(0.05, DISCONNECT, (left, disconnect)).start()


def connect_by_itself():
    """It puts another connection in a lost one's place, and flushes that before it gives it up. This is not wrong."""
    places, spare = {}, {}

    def give_up(client):
        if client and client.flags & minimal.COMMANDS["flush"][3]:
            client.command(minimal.FLUSH, 0, 0, 0)
        if client:
            client.close(disconnect=True)

    def carry_out(clients, handle, operation, words):
        if operation in ("connect", "disconnect", "close"):
            give_up(spare.pop(handle, None))
        if operation == "connect":
            places[handle] = words[0]
        try:
            return right(clients, handle, operation, words)
        except (minimal.Failed, OSError):
            if operation == "read":
                time.sleep(0.05)
                spare[handle] = minimal.Client()
                spare[handle].connect(places[handle])
            raise
    minimal.carry_out = carry_out


def greet(*words):
    say(*words)
    sys.stdin.read()


first = {}
DISCONNECT = minimal.Client.close
RECEIVE = minimal.Client.receive_bytes
LIES = {
    "wrong-digest": lambda: wrong_answers(lambda op, words, a: "ok 00000000" if op == "read" and a[:2] == "ok" else a),
    "wrong-pattern": lambda: setattr(minimal, "contents", lambda pattern, offset, length: bytes([pattern & 255]) * length),
    "wrong-size": lambda: wrong_answers(lambda op, words, a: a.replace("size=4194304", "size=4194303")),
    "rounds-to-a-terabyte": lambda: wrong_answers(
        lambda op, words, a: f"ok size=0 queue.logical_block_size={1 << 40}" if op == "connect" and a[:2] == "ok" else a),
    "wrong-flag": lambda: wrong_answers(lambda op, words, a: a.replace("flush=no", "flush=yes")),
    "always-write-back": lambda: wrong_answers(
        lambda op, words, a: a + " queue.write_cache=write%20back" if op == "connect" else a),
    "lost-is-ok": lambda: block_device(lambda: "ok", True),
    "keeps-timeout": lambda: block_device(error, False),
    "writes-forgotten": lambda: block_device(error, True, writes=False),
    "wrong-tag": swap_tags,
    "answers-early": lambda: setattr(minimal, "carry_out", early),
    "ignores-fua": forget_fua,
    "zeroes-by-write": lambda: zero_by_write(minimal.Client.command, minimal.FUA),
    "zeroes-without-fua": lambda: zero_by_write(minimal.Client.command, 0),
    "hides-errors": lambda: wrong_answers(lambda op, words, a: "ok" if op == "flush" else a),
    "stale": lambda: setattr(minimal, "carry_out", stale),
    "mixed-up": lambda: setattr(minimal, "carry_out", mixed_up),
    "no-disc": lambda: setattr(minimal.Client, "close", lambda self, disconnect=False: DISCONNECT(self)),
    "leaves-late": lambda: setattr(minimal.Client, "close", leave_late),
    "connects-by-itself": connect_by_itself,
    "waits-for-the-dead": lambda: at_its_end(lambda client: time.sleep(1000)),
    "looks-for-the-dead": lambda: at_its_end(look_again),
    "unknown-is-ok": lambda: wrong_answers(lambda op, words, a: "ok" if a == "unsupported" else a),
    "answers-twice": lambda: wrong_answers(lambda op, words, a: a + "\n1 ok"),
    "garbage": lambda: wrong_answers(lambda op, words, a: "fine, thank you"),
    "zero-byte": lambda: wrong_answers(lambda op, words, a: "ok \0"),
    "overlong": lambda: wrong_answers(lambda op, words, a: "ok " + "x" * (1 << 20)),
    "no-end-of-line": lambda: before(lambda: (sys.stdout.write("7 ok"), sys.stdout.flush(), time.sleep(1000))),
    "dies": lambda: before(lambda: (sys.stderr.write("out of luck\n"), sys.exit(7))),
    "killed": lambda: before(lambda: os.kill(os.getpid(), 9)),
    "hangs": lambda: before(lambda: time.sleep(1000)),
    "never-greets": lambda: time.sleep(1000),
    "greets-wrongly": lambda: greet("hello"),
    "other-version": lambda: greet("nbdspec-driver 2 x 1 depth=1 handles=1 read"),
    "lacks-read": lambda: greet("nbdspec-driver 1 x 1 depth=1 handles=1 connect disconnect reading"),
    "depth-0": lambda: greet("nbdspec-driver 1 x 1 depth=0 handles=1 read"),
    "one-at-a-time": lambda: setattr(minimal, "print", lambda *words, **options: print(
        *(str(w).replace("depth=1 ", "depth=8 ") for w in words), **options)),
    "does-not-end": lambda: setattr(minimal, "sys", type("", (), {"stdin": forever()})),
    "ends-badly": lambda: setattr(minimal, "sys", type("", (), {"stdin": then_exit()})),
    "leaves-a-child": lambda: subprocess.Popen(["sleep", "1000"], start_new_session=True),
}


def forever():
    yield from sys.stdin
    time.sleep(1000)


def then_exit():
    yield from sys.stdin
    sys.exit(5)


if __name__ == "__main__":
    LIES[sys.argv[1]]()
    if not sys.argv[1].startswith(("never", "greets", "other", "depth", "lacks")):
        minimal.main()
