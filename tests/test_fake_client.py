"""nbdspec driver: the honest client against servers of every kind, and that its lies are told."""

import errno
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import zlib

import pytest

from conftest import NBDSPEC, PATIENCE, read_until, until

GO, EXPORT_NAME, ABORT, STRUCTURED, SET_META = 7, 1, 2, 8, 10
ACK, INFO, META = 1, 3, 4
UNSUP, POLICY, UNKNOWN, SHUTDOWN = (1 << 31 | n for n in (1, 2, 6, 7))
READ, WRITE, DISC, FLUSH, BLOCK_STATUS = 0, 1, 2, 3, 7
SIZE, FLAGS = 1 << 20, 0b11111101101  # all that a writable export may have
BASE = "base%3aallocation"


class Driver:
    def __init__(self, nbdspec, *args):
        self.process = nbdspec.start("driver", *args, stdin=subprocess.PIPE)
        self.lines, self.greeting, self.tag = "", read_until(self.process.stdout, "\n"), 0

    def send(self, *requests):
        """Sends them in one write; their tags."""
        tags = [str(self.tag + i + 1) for i in range(len(requests))]
        self.tag += len(requests)
        self.process.stdin.write("".join(f"{t} {r}\n" for t, r in zip(tags, requests)))
        self.process.stdin.flush()
        return tags

    def take(self, tag, seconds=PATIENCE):
        while f"\n{tag} " not in "\n" + self.lines:
            self.lines += read_until(self.process.stdout, "\n", seconds)
        return ("\n" + self.lines).split(f"\n{tag} ", 1)[1].split("\n")[0]

    def answers_within(self, tag, seconds):
        if f"\n{tag} " in "\n" + self.lines:
            return True
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return False
        self.take(tag)
        return True

    def ask(self, request):
        return self.take(self.send(request)[0])

    def end(self):
        """Its exit status, once its input has ended."""
        self.process.stdin.close()
        self.process.stdin = None
        out, err = self.process.communicate(timeout=PATIENCE)
        assert err == ""
        return self.process.returncode


@pytest.fixture
def driver(nbdspec):
    drivers = []

    def start(*args):
        drivers.append(Driver(nbdspec, *args))
        return drivers[-1]

    yield start
    for d in drivers:
        if d.process.poll() is None:
            d.process.kill()
        d.process.communicate()


class Peer:
    """One connection of a server that says what it is told to."""

    def __init__(self, sock):
        self.sock = sock

    def take(self, form):
        return struct.unpack(form, self.take_bytes(struct.calcsize(form)))

    def take_bytes(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def send(self, form, *values):
        self.sock.sendall(struct.pack(form, *values))

    def greet(self, flags=3):
        self.send(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", flags)
        return self.take(">L")[0]

    def option(self):
        magic, option, length = self.take(">8sLL")
        assert magic == b"IHAVEOPT"
        return option, self.take_bytes(length)

    def reply(self, option, kind, data=b""):
        self.send(f">QLLL{len(data)}s", 0x3E889045565A9, option, kind, len(data), data)

    def serve_options(self, answers=None, size=SIZE, flags=FLAGS):
        """Up to the transmission phase; answers: option -> what is sent in place of an ACK."""
        self.greet()
        while True:
            option, data = self.option()
            if option in (answers or {}):
                answers[option](self, option, data)
                if option == ABORT or answers[option] is None:
                    return
                continue
            if option == SET_META:
                self.reply(option, META, struct.pack(">L", 77) + b"base:allocation")
            if option == GO:
                self.reply(option, INFO, struct.pack(">HQH", 0, size, flags))
            self.reply(option, ACK)
            if option in (GO, ABORT):
                return

    def request(self):
        magic, flags, kind, cookie, offset, length = self.take(">LHHQQL")
        assert magic == 0x25609513
        return flags, kind, cookie, offset, length, self.take_bytes(length) if kind == WRITE else b""

    def simple(self, cookie, error=0, data=b""):
        self.send(f">LLQ{len(data)}s", 0x67446698, error, cookie, data)

    def chunk(self, cookie, kind, data=b"", flags=0):
        self.send(f">LHHQL{len(data)}s", 0x668E33EF, flags, kind, cookie, len(data), data)

    def rest(self):
        """What the client still sends, until it closes."""
        self.sock.settimeout(PATIENCE)
        data = b""
        while more := self.sock.recv(4096):
            data += more
        return data


@pytest.fixture
def peer(nbdspec):
    """Serves one connection after the other, each with the next of these functions; returns the URI and what they return."""
    sockets, threads = [], []

    def start(*scripts):
        path, said = nbdspec.cwd / "peer", []
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        sockets.append(listener)

        def run():
            for script in scripts:
                sock, _ = listener.accept()
                with sock:
                    try:
                        said.append(script(Peer(sock)))
                    except (EOFError, OSError) as e:
                        said.append(e)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[0].start()
        return f"nbd+unix:///export?socket={path}", said

    yield start
    for s in sockets:
        s.close()
    for t in threads:
        t.join(PATIENCE)
        assert not t.is_alive()


# ---- the honest client ----


def test_driver_check(nbdspec):
    """All is well, and nothing skipped; a lie of memory is caught."""
    command = ["driver-check", "--", NBDSPEC, "driver"]
    done = nbdspec(*command, status=0)
    assert done.stdout.count("\nok ") > 25 and "not ok" not in done.stdout and "SKIP" not in done.stdout
    assert "the driver says flush=yes, want no" in nbdspec(*command, "--lie", "keeps_flush", status=1).stdout


def test_end_of_input(driver):
    d = driver()
    assert d.greeting.startswith("nbdspec-driver 1 nbdspec ") and d.end() == 0


@pytest.mark.parametrize("line", ["1 1\n", "\n", "1 x connect\n"])
def test_broken_line(nbdspec, line):
    p = nbdspec.start("driver", stdin=subprocess.PIPE)
    _, err = p.communicate(line, timeout=PATIENCE)
    assert p.returncode == 2 and "want TAG HANDLE OPERATION" in err


def test_falls_back_to_export_name(driver, peer):
    def old(p):
        def name(p, option, data):
            assert data == b"export"
            p.send(">QH", SIZE, FLAGS)
            raise StopIteration

        try:
            p.serve_options({GO: lambda p, o, _: p.reply(o, UNSUP), STRUCTURED: lambda p, o, _: p.reply(o, UNSUP), EXPORT_NAME: name})
        except StopIteration:
            return p.request()[1]

    uri, said = peer(old, old)
    d = driver()
    assert "size=1048576" in d.ask(f"1 connect {uri}") and d.ask("1 disconnect") == "ok"
    assert said == [DISC]
    assert driver("--lie", "no_way_back_to_export_name").ask(f"1 connect {uri}") == "error REP_ERR_UNSUP"


def test_eof_after_export_name(driver, peer):
    """Also nothing is known that has not been told."""
    def script(p):
        p.greet(flags=0)
        p.option()

    uri, _ = peer(script, script)
    assert driver().ask(f"1 connect {uri}") == "error ENOTCONN"
    assert driver("--lie", "eof_after_export_name_is_size").ask(f"1 connect {uri}").startswith("ok size=")


def test_shutdown_in_haggling(driver, peer):
    def script(p):
        p.greet()
        p.reply(p.option()[0], SHUTDOWN)
        option = p.option()[0]
        p.reply(option, ACK)
        return option, p.rest()

    uri, said = peer(script)
    assert driver().ask(f"1 connect {uri}") == "error REP_ERR_SHUTDOWN"
    until(lambda: said)
    assert said == [(ABORT, b"")]


def test_abort_unanswered(driver, peer):
    uri, said = peer(lambda p: (p.greet(), p.option(), p.reply(STRUCTURED, ACK), p.option())[3][0])
    d = driver()
    assert d.ask(f"1 haggle {uri}").startswith("ok") and d.ask("1 disconnect") == "ok"
    assert said == [ABORT]


def test_errors_have_names(driver, peer):
    values = [errno.EPERM, errno.EIO, errno.ENOMEM, errno.EINVAL, errno.ENOSPC, 75, 95, 5555, 1 << 31]
    names = "EPERM EIO ENOMEM EINVAL ENOSPC EOVERFLOW ENOTSUP EINVAL EINVAL".split()

    def script(p):
        p.serve_options()
        for value in values:
            p.simple(p.request()[2], value)
        for value in values:
            p.chunk(p.request()[2], 0x8001, struct.pack(">LH2s", value, 2, b"no"), 1)
        return p.request()[1]

    uri, said = peer(script)
    d = driver()
    d.ask(f"1 connect {uri}")
    assert [d.ask("1 flush") for _ in values] == [f"error {n}" for n in names]
    assert [d.ask("1 read 0 512") for _ in values] == [f"error {n}" for n in names]
    assert d.ask("1 disconnect") == "ok" and said == [DISC]


def test_eshutdown(driver, peer):
    """What is in flight is waited for, then comes DISC; nothing new is sent."""
    def script(p):
        p.serve_options()
        cookies = [p.request()[2] for _ in range(3)]
        p.simple(cookies[1], 108)
        p.simple(cookies[2])
        p.simple(cookies[0])
        return p.request()[1], p.rest()

    uri, said = peer(script)
    d = driver()
    d.ask(f"1 connect {uri}")
    tags = d.send(*["1 flush"] * 3)
    assert [d.take(t) for t in tags] == ["ok", "error ESHUTDOWN", "ok"]
    assert d.ask("1 flush").startswith("error")
    until(lambda: said)
    assert said == [(DISC, b"")]


def test_chunks_in_any_order(driver, peer):
    """A hole, data on both sides of it, and another reply in between; two requests' chunks interleaved."""
    def script(p):
        p.serve_options()
        a, b = p.request()[2], p.request()[2]
        p.chunk(a, 1, struct.pack(">Q", 1024) + b"c" * 512)
        p.chunk(b, 2, struct.pack(">QL", 4096, 512), 0)
        p.chunk(a, 2, struct.pack(">QL", 512, 512))
        p.chunk(b, 0, b"", 1)
        p.chunk(a, 1, struct.pack(">Q", 0) + b"a" * 512, 1)
        return p.request()[1]

    uri, said = peer(script)
    d = driver()
    d.ask(f"1 connect {uri}")
    a, b = d.send("1 read 0 1536", "1 read 4096 512")
    assert d.take(b) == f"ok {zlib.crc32(bytes(512)):08x}"
    assert d.take(a) == f"ok {zlib.crc32(b'a' * 512 + bytes(512) + b'c' * 512):08x}"
    assert d.ask("1 disconnect") == "ok" and said == [DISC]


# What a server may not send in reply to a READ of 512 bytes at 512, or to another request: the client leaves, without DISC.
def error(value, length, text=b""):
    return struct.pack(">LH", value, length) + text


INVALID = {
    "unknown type": ("read", 0x10, b"", 1),
    "outside": ("read", 1, struct.pack(">Q", 0) + bytes(512), 1),
    "beyond": ("read", 1, struct.pack(">Q", 513) + bytes(512), 1),
    "no data": ("read", 1, struct.pack(">Q", 512), 1),
    "no offset": ("read", 1, b"1234", 1),
    "incomplete": ("read", 1, struct.pack(">Q", 512) + bytes(511), 1),
    "hole too long": ("read", 2, struct.pack(">QL", 512, 513), 1),
    "hole of nothing": ("read", 2, struct.pack(">QL", 512, 0), 1),
    "hole wraps": ("read", 2, struct.pack(">QL", (1 << 64) - 1, 2), 1),
    "hole header": ("read", 2, struct.pack(">QLL", 512, 512, 0), 1),
    "none with data": ("read", 0, b"x", 1),
    "none first": ("flush", 0, b"", 0),
    "error 0": ("flush", 0x8001, error(0, 0), 1),
    "no error": ("flush", 0x8001, b"\0\0", 1),
    "long message": ("flush", 0x8001, error(5, 100, b"short"), 1),
    "long message of unknown type": ("flush", 0x8fff, error(5, 100, b"short"), 1),
    "error outside": ("read", 0x8002, error(5, 0) + struct.pack(">Q", 5000), 1),
    "error without offset": ("read", 0x8002, error(5, 0), 1),
    "extents for READ": ("read", 5, struct.pack(">LLL", 77, 512, 0), 1),
    "data for FLUSH": ("flush", 1, struct.pack(">Q", 0) + bytes(512), 1),
    "unknown context": ("block_status", 5, struct.pack(">LLL", 78, 512, 0), 1),
    "extent of nothing": ("block_status", 5, struct.pack(">LLL", 77, 0, 0), 1),
    "no extents": ("block_status", 5, struct.pack(">L", 77), 1),
    "half an extent": ("block_status", 5, struct.pack(">LLLL", 77, 512, 0, 1), 1),
    "extents behind the end": ("block_status", 5, struct.pack(">LLLLL", 77, 512, 0, 512, 3), 1),
    "no status": ("block_status", 0, b"", 1),
}
REQUESTS = {"read": "1 read 512 512", "flush": "1 flush", "block_status": "1 block_status 512 512"}


@pytest.mark.parametrize("what", INVALID)
def test_invalid_chunk(driver, peer, what):
    operation, kind, data, flags = INVALID[what]

    def script(p):
        p.serve_options()
        p.chunk(p.request()[2], kind, data, flags)
        return p.rest()

    uri, said = peer(script)
    d = driver()
    d.ask(f"1 set context={BASE}")
    assert BASE in d.ask(f"1 connect {uri}")
    assert d.ask(REQUESTS[operation]) == "error EPROTO"
    until(lambda: said)
    assert said == [b""] and d.end() == 0


@pytest.mark.parametrize("reply", [struct.pack(">LLQ", 0x67446698, 0, 99), struct.pack(">LHHQL", 0x668E33EF, 1, 0, 99, 0), b"\0" * 64,
                                   struct.pack(">LHHQL", 0x668E33EF, 0, 1, 1, 0xffffffff)],
                         ids=["cookie", "chunk's cookie", "magic", "length"])
def test_invalid_reply(driver, peer, reply):
    uri, said = peer(lambda p: (p.serve_options(), p.request(), p.sock.sendall(reply), p.rest())[3])
    d = driver()
    d.ask(f"1 connect {uri}")
    assert d.ask("1 read 0 512") == "error EPROTO"
    until(lambda: said)
    assert said == [b""]


def endless(p):
    p.greet()
    option = p.option()[0]
    p.reply(option, ACK)
    option = p.option()[0]
    while True:
        p.reply(option, INFO, b"\1\0")


@pytest.mark.parametrize("script", [
    lambda p: p.send(">16s", b"x" * 16),
    lambda p: (p.greet(), p.option(), p.send(">QLLL", 0x3E889045565A9, STRUCTURED, ACK, 0xffffffff), p.rest()),
    lambda p: (p.greet(), p.option(), p.send(">QLLL", 0x3E889045565A9, GO, ACK, 0), p.rest()),
    lambda p: p.serve_options({GO: lambda p, o, _: (p.reply(o, ACK), p.rest())}),
    lambda p: p.serve_options({GO: lambda p, o, _: (p.reply(o, INFO, b"\0\0\0"), p.rest())}),
    lambda p: p.serve_options({GO: lambda p, o, _: (p.reply(o, META, b"\0\0\0\0x"), p.rest())}),
    endless,
], ids=["greeting", "length", "other option", "nothing told", "short info", "context", "endless"])
def test_invalid_handshake(driver, peer, script):
    uri, _ = peer(script)
    assert driver().ask(f"1 connect {uri}") == "error EPROTO"


def test_large_read_and_write_at_once(driver, fake, nbdspec):
    """libnbd dd101bd: neither waits for the other; with the lie both do."""
    uri = fake("--unix", nbdspec.cwd / "s", "--export", "name=,size=64M")
    d = driver()
    assert d.ask(f"1 connect {uri}").startswith("ok")
    tags = d.send(*["1 read 0 33554432", "1 write 0 33554432 3"] * 2)
    assert [d.take(t).split()[0] for t in tags] == ["ok"] * 4


# ---- lies ----


def lies(nbdspec):
    return [line.split()[0] for line in nbdspec("driver", "--list-lies", status=0).stdout.splitlines()]


def test_every_lie_starts(nbdspec):
    names = lies(nbdspec)
    assert len(names) > 350 and names == sorted(names) and len(set(names)) == len(names)
    p = nbdspec.start("driver", *[word for name in names for word in ("--lie", name)], stdin=subprocess.PIPE)
    out, err = p.communicate("1 1 disconnect\n", timeout=PATIENCE)
    assert p.returncode == 0 and "1 error ENOTCONN" in out and err == ""


@pytest.mark.parametrize("spec", ["nothing_like_it", "keeps_flush:nth=0", "keeps_flush:x=1", "keeps_flush:nth=1x", ""])
def test_wrong_lie(nbdspec, spec):
    assert "--lie" in nbdspec.usage("driver", "--lie", spec)


def test_wrong_arguments(nbdspec):
    assert "without --copy" in nbdspec.usage("driver", "x")
    assert "FROM and TO" in nbdspec.usage("driver", "--copy", "x")
    assert "one a URI" in nbdspec.usage("driver", "--copy", "x", "y")


# Lies that the referee names from the messages alone: one session each, and the rule that it says is broken.
PLAIN, ALL = "flags=none", "description=d"
TOLD = {
    "flush_unadvertised": (PLAIN, "flush", "flush_only_where_advertised"),
    "trim_unadvertised": (PLAIN, "trim 0 4096", "trim_only_where_advertised"),
    "zeroes_unadvertised": (PLAIN, "zero 0 4096", "zeroes_only_where_advertised"),
    "fua_unadvertised": (PLAIN, "write 0 4096 1 fua", "client_uses_exposed_features"),
    "df_unadvertised": (PLAIN, "read 0 4096 df", "df_only_where_advertised"),
    "fast_zero_unadvertised": ("flags=SEND_WRITE_ZEROES", "zero 0 4096 fast", "fast_zero_only_where_advertised"),
    "status_without_contexts": (ALL, "block_status 0 4096", "block_status_after_set_meta"),
    "minimum_ignored": ("min=4096", "read 512 512", "client_minimum_aligned"),
    "maximum_ignored": ("max=4096", "write 0 8192 1", "client_payload_within_maximum"),
    "beyond_export": (ALL, "read 4194304 4096", "client_within_export"),
    "empty_read": (ALL, "read 0 0", "read_length_nonzero"),
    "flush_with_length": (ALL, "flush", "flush_fields_zero"),
    "fua_on_read": (ALL, "read 0 4096", "fua_only_on_writes"),
    "write_has_a_byte_more": (ALL, "write 0 4096 1", "request_payload_client"),
    "zeroes_with_data": (ALL, "zero 0 4096", "zeroes_sent_without_payload"),
    "request_magic_reserved": (ALL, "read 0 4096", "request_magic"),
    "request_little_endian": (ALL, "read 0 4096", "numbers_big_endian"),
    "option_magic_of_replies": (ALL, None, "option_magic_client"),
    "options_pipelined": (ALL, None, "client_one_option_at_a_time"),
    "go_asks_twice": (ALL, None, "info_requests_once_each"),
    "go_not_tried": (ALL, "read 0 4096", "go_preferred"),
    "name_ends_in_nul": (ALL, None, "client_strings_no_nul"),
    "name_no_utf8": (ALL, None, "client_strings_utf8"),
    "flags_undefined": (ALL, None, "no_other_client_flags"),
    "flags_not_sent": (ALL, None, "client_flags_sent"),
    "disc_not_sent": (ALL, "flush", "client_transmission_no_disconnect"),
    "disc_with_offset": (ALL, "flush", "disc_fields_zero"),
    "disc_then_read": (ALL, "flush", "disc_nothing_after"),
}


# With these a session does not go on: the server waits for what does not come, or has left.
SILENT = {"flags_not_sent", "write_has_a_byte_more", "zeroes_with_data", "request_magic_reserved", "request_little_endian",
          "option_magic_of_replies"}


@pytest.mark.parametrize("lie", TOLD)
def test_referee_sees(nbdspec, driver, fake, lie):
    settings, request, rule = TOLD[lie]
    uri = fake("--unix", nbdspec.cwd / "s", "--export", f"name=all,size=4M,{settings}", "--trace", nbdspec.cwd / "t")
    requests = [f"1 connect {uri}", *([f"1 {request}"] if request else []), "1 disconnect"]
    for args in ([], ["--lie", lie]):
        d = driver(*args)
        for r in requests:
            tag = d.send(r)[0]
            if args and lie in SILENT and not d.answers_within(tag, 0.3):
                break
            d.take(tag)
        assert d.end() == 0
        done = nbdspec("referee", "--strict", nbdspec.cwd / "t")
        assert (f"  {rule}, " in done.stdout) == bool(args)


# The second session's server offers nothing that the first one's did.
STALE = {"flush": "flush", "fua": "write 0 4096 1 fua", "trim": "trim 0 4096", "write_zeroes": "zero 0 4096",
         "size": "read 2097152 4096"}


@pytest.mark.parametrize("what", STALE)
@pytest.mark.parametrize("others", ["", "_of_others"])
def test_stale(nbdspec, driver, fake, what, others):
    first = fake("--unix", nbdspec.cwd / "s", "--export", "name=a,size=4M", "--export", "name=b,size=1M,flags=none",
                 "--trace", nbdspec.cwd / "t")
    for lie in ([], ["--lie", f"keeps_{what}{others}"]):
        d = driver(*lie)
        assert d.ask(f"1 connect {first}").startswith("ok") and d.ask("1 disconnect") == "ok"
        handle = 2 if others else 1
        known = d.ask(f"{handle} connect {first.replace('/a?', '/b?')}")
        assert ("size=4194304" in known) == (what == "size" and bool(lie))
        d.ask(f"{handle} {STALE[what]}")
        assert d.ask(f"{handle} disconnect") == "ok" and d.end() == 0
        assert nbdspec("referee", "--strict", "--several-clients", nbdspec.cwd / "t").returncode == bool(lie)


@pytest.mark.parametrize("lie, request_, wrong", [
    ("failed_write_succeeds", "write 0 4096 1", "ok"), ("failed_flush_succeeds", "flush", "ok"),
    ("failed_trim_succeeds", "trim 0 4096", "ok"), ("failed_read_succeeds", "read 0 4096", "ok c71c0011"),
])
def test_hidden_errors(driver, peer, lie, request_, wrong):
    def script(p):
        p.serve_options({STRUCTURED: lambda p, o, _: p.reply(o, POLICY)})
        p.simple(p.request()[2], 5)
        p.rest()

    uri, _ = peer(script, script)
    for args, want in (([], "error EIO"), (["--lie", lie], wrong)):
        d = driver(*args)
        d.ask(f"1 connect {uri}")
        assert d.ask(f"1 {request_}") == want
        d.end()


def test_dies_and_hangs(driver, peer):
    def script(p):
        p.serve_options({STRUCTURED: lambda p, o, _: p.reply(o, POLICY)})
        p.simple(p.request()[2], 5)
        p.rest()

    uri, _ = peer(script, script)
    d = driver("--lie", "error_dies")
    d.ask(f"1 connect {uri}")
    d.send("1 flush")
    assert d.process.wait(PATIENCE) == -signal.SIGABRT
    d = driver("--lie", "error_waits")
    d.ask(f"1 connect {uri}")
    tag = d.send("1 flush")[0]
    assert d.ask("2 disconnect") == "error ENOTCONN" and f"\n{tag} " not in d.lines
    d.process.kill()


# ---- copies ----


def contents(size):
    """Neither end is zero; a hole in the middle."""
    return os.urandom(size // 4) + bytes(size // 2) + os.urandom(size - size // 4 - size // 2)


@pytest.mark.parametrize("settings", ["", "flags=none", "min=4096,pref=65536,max=65536"])
@pytest.mark.parametrize("knob", ["read_chunks_shuffled", "no_structured_replies", "no_fixed_newstyle", "extents_fall_short"])
def test_copy(nbdspec, fake, settings, knob):
    if knob == "no_fixed_newstyle" and "min" in settings:
        settings = ""
    uri = fake("--unix", nbdspec.cwd / "s", "--export", f"name=,size=3M,{settings}".rstrip(","), "--knob", knob)
    data = contents(3 << 20)
    (nbdspec.cwd / "in").write_bytes(data)
    nbdspec("driver", "--copy", "in", uri, status=0)
    nbdspec("driver", "--copy", uri, "out", status=0)
    assert (nbdspec.cwd / "out").read_bytes() == data


def test_copy_fails(nbdspec, fake):
    uri = fake("--unix", nbdspec.cwd / "s", "--export", "name=,size=1M,read-only")
    (nbdspec.cwd / "in").write_bytes(b"x" * (2 << 20))
    assert "the file is larger" in nbdspec("driver", "--copy", "in", uri, status=1).stderr
    (nbdspec.cwd / "in").write_bytes(b"x" * (1 << 20))
    assert "WRITE at 0: EPERM" in nbdspec("driver", "--copy", "in", uri, status=1).stderr
    assert "ENOENT" in nbdspec("driver", "--copy", "nbd+unix:///?socket=nowhere", "out", status=1).stderr
    assert "no/out" in nbdspec("driver", "--copy", uri, "no/out", status=1).stderr


def test_copy_lies(nbdspec, fake):
    """It calls a copy good that is not."""
    uri = fake("--unix", nbdspec.cwd / "s", "--export", "name=,size=1M", "--knob", "read_chunks_reversed")
    data = contents(1 << 20)
    (nbdspec.cwd / "in").write_bytes(data)
    nbdspec("driver", "--copy", "in", uri, status=0)
    nbdspec("driver", "--lie", "chunks_put_as_they_come", "--copy", uri, "out", status=0)
    assert (nbdspec.cwd / "out").read_bytes() != data
