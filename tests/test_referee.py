"""nbdspec referee: what a client has done on the wire is named in the trace of nbdspec serve, and nothing else is."""

import shutil
import signal
import socket
import struct
import subprocess

import pytest

from conftest import NBDSPEC, PATIENCE

OPTION_MAGIC, REQUEST_MAGIC = 0x49484156454F5054, 0x25609513
GO, ABORT, REP_ACK = 7, 2, 1
READ, WRITE, DISC, FLUSH = range(4)


class Client:
    """Says what it is told to, and reads the replies."""

    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(PATIENCE)
        self.s.connect(path)
        self.take(18)
        self.s.sendall(struct.pack(">I", 3))

    def take(self, n):
        data = b""
        while len(data) < n:
            more = self.s.recv(n - len(data))
            assert more, "the server has closed the connection"
            data += more
        return data

    def option(self, option, data=b""):
        self.s.sendall(struct.pack(">QII", OPTION_MAGIC, option, len(data)) + data)
        while True:
            _, _, kind, length = struct.unpack(">QIII", self.take(20))
            self.take(length)
            if kind == REP_ACK or kind >> 31:
                return kind

    def go(self):
        assert self.option(GO, struct.pack(">IHH", 0, 1, 3)) == REP_ACK

    def request(self, kind, offset=0, length=0, data=b"", flags=0):
        self.s.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, flags, kind, 1, offset, length) + data)

    def reply(self, length=0):
        _, error, _ = struct.unpack(">IIQ", self.take(16))
        return error, self.take(0 if error else length)

    def ends(self):
        assert self.s.recv(1) == b""
        self.s.close()


@pytest.fixture
def trace(nbdspec):
    """Runs a client against the server and returns the path of the trace."""

    def record(client, *args):
        path, socket_path = nbdspec.cwd / "trace", str(nbdspec.cwd / "s")
        with nbdspec.start("serve", "--unix", socket_path, "--size", "1M", "--trace", path, *args) as p:
            assert p.stdout.readline()
            client(socket_path)
            # A later client is served when all that the first has done is seen.
            other = Client(socket_path)
            assert other.option(ABORT) == REP_ACK
            other.ends()
            p.send_signal(signal.SIGTERM)
            assert p.wait(PATIENCE) == 0
        return path

    return record


def honest(path):
    c = Client(path)
    c.go()
    c.request(WRITE, 0, 512, bytes(512))
    assert c.reply()[0] == 0
    c.request(FLUSH)
    assert c.reply()[0] == 0
    c.request(DISC)
    c.ends()


def leaves_hard(path):
    c = Client(path)
    c.go()
    c.s.close()


def resets(path):
    c = Client(path)
    c.go()
    c.request(READ, 0, 1 << 20)
    c.take(16)
    c.s.close()


def leaves_in_payload(path):
    c = Client(path)
    c.go()
    c.request(WRITE, 0, 512, bytes(100))
    c.s.close()


def goes_on_after_disc(path):
    c = Client(path)
    c.go()
    c.s.sendall(2 * struct.pack(">IHHQQI", REQUEST_MAGIC, 0, DISC, 1, 0, 0))
    c.ends()


def flushes_unasked(path):
    c = Client(path)
    c.go()
    c.request(FLUSH)
    assert c.reply()[0] == 22
    c.request(DISC)
    c.ends()


def leaves_haggling(path):
    c = Client(path)
    c.option(3)
    c.s.close()


NO_FLUSH = ("--export", "flags=SEND_FUA")
WRONG = [
    (leaves_hard, (), {"client_transmission_no_disconnect"}),
    (resets, (), {"client_transmission_no_disconnect"}),
    (leaves_in_payload, (), {"client_transmission_no_disconnect"}),
    (goes_on_after_disc, (), {"disc_nothing_after"}),
    (flushes_unasked, NO_FLUSH, {"flush_only_where_advertised", "client_uses_exposed_features",
                                 "client_negotiates_extras"}),
    (leaves_haggling, (), {"client_handshake_no_hard_disconnect", "client_abandons_softly"}),
]


def rules(text):
    return {line.split(",")[0].strip() for line in text.splitlines() if line.startswith("  ") and ", proto.md:" in line}


def test_honest_client(nbdspec, trace):
    done = nbdspec("referee", trace(honest), status=0)
    assert done.stdout.endswith("no rule is broken\n") and done.stdout.count("\n") == 1 and done.stderr == ""


@pytest.mark.parametrize("client, args, broken", WRONG, ids=lambda v: getattr(v, "__name__", None))
def test_what_is_broken_is_named(nbdspec, trace, client, args, broken):
    """With its place in the text, the connection, and the message; and only that."""
    path = trace(client, *args)
    done = nbdspec("referee", path, status=1)
    assert rules(done.stdout) == broken
    assert f"{path}: connection 1: " in done.stdout and "connection 2: " not in done.stdout


def test_server_that_lies_first(nbdspec, trace):
    """The trace says so: who sees that may leave as he likes."""
    def client(path):
        c = Client(path)
        c.go()
        c.request(READ, 0, 512)
        c.take(16)
        c.s.close()

    path = trace(client, "--lie", "cookie_changed:command=READ")
    assert "lies" in nbdspec("referee", path, status=0).stdout


def test_server_that_may_have_lied(nbdspec, trace):
    path = trace(leaves_hard)
    nbdspec("referee", "--server-lies", path, status=0)


def test_should_counts_when_strict(nbdspec, trace):
    def client(path):
        c = Client(path)
        c.go()
        c.request(READ, 0, 0)
        c.reply()
        c.request(DISC)
        c.ends()

    path = trace(client)
    loose = nbdspec("referee", path, status=0)
    assert rules(loose.stdout) == rules(nbdspec("referee", "--strict", path, status=1).stdout) == {"read_length_nonzero"}


def test_each_rule_once_for_a_session(nbdspec, trace):
    def client(path):
        c = Client(path)
        c.go()
        for _ in range(3):
            c.request(READ, 1 << 20, 512)
            assert c.reply()[0] == 22
        c.request(DISC)
        c.ends()

    path = trace(client)
    once, always = (nbdspec("referee", *args, path, status=1).stdout for args in ((), ("--all",)))
    assert once.count("client_within_export") == 1 and always.count("client_within_export") == 3
    assert once.endswith("3 breaches of rules\n")


def test_several_traces(nbdspec, trace):
    bad = trace(leaves_hard).rename(nbdspec.cwd / "bad")
    good = trace(honest).rename(nbdspec.cwd / "good")
    done = nbdspec("referee", good, bad, status=1)
    assert f"{good}: " in done.stdout and f"{bad}: connection 1: " in done.stdout


def test_a_trace_that_was_cut_off(nbdspec, trace):
    """As a kill leaves it: all whole records count."""
    path = trace(honest)
    data = path.read_bytes()
    for n in range(16, len(data), 7):
        path.write_bytes(data[:n])
        assert nbdspec("referee", path).returncode in (0, 3)


@pytest.mark.parametrize("content, word", [(None, "No such file"), (b"", "no trace"), (b"NBDTRACE", "no trace"),
                                           (b"x" * 100, "no trace"),
                                           (b"NBDTRACE\0\0\0\1\xff\xff\xff\xff", "no client has sent")])
def test_what_is_no_trace(nbdspec, content, word):
    path = nbdspec.cwd / "file"
    if content is not None:
        path.write_bytes(content)
    line = nbdspec.broken("referee", path)
    assert str(path) in line and word in line and line.count("\n") == 1


def test_directory(nbdspec):
    assert "no trace" in nbdspec.broken("referee", nbdspec.cwd)


def test_usage(nbdspec):
    assert "TRACE" in nbdspec.usage("referee")


REAL = [
    ("nbdinfo", "nbdinfo $uri && nbdinfo --map $uri && nbdinfo --list $uri"),
    ("nbdcopy", "nbdcopy $uri null:"),
    ("qemu-io", "qemu-io -f raw -c 'write 0 64k' -c 'aio_read 0 64k' -c flush -c 'discard 0 4k' -c 'write -z 0 4k' $uri"),
    ("qemu-img", "qemu-img info $uri && qemu-img map $uri && qemu-img bench -f raw -c 50 -w --flush-interval=5 $uri"),
]


@pytest.mark.parametrize("flags", ["none", "SEND_FLUSH+SEND_FUA", "SEND_TRIM+SEND_WRITE_ZEROES+SEND_FAST_ZERO",
                                   "READ_ONLY+CAN_MULTI_CONN", "SEND_DF+SEND_CACHE"])
@pytest.mark.parametrize("program, command", REAL, ids=[r[0] for r in REAL])
def test_real_clients_are_accused_of_nothing(nbdspec, program, command, flags):
    """Each was looked at: these clients keep to the rules here."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    path = nbdspec.cwd / "trace"
    subprocess.run([NBDSPEC, "serve", "--trace", str(path), "--export", f"size=1M,flags={flags}", "--run", command],
                   env=nbdspec.env, cwd=nbdspec.cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=PATIENCE)
    assert rules(nbdspec("referee", path, status=0).stdout) == set()
