"""nbdspec serve: other people's clients work against it, and a raw client sees that it is exact and cannot be hurt."""

import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NBDSPEC = os.environ.get("NBDSPEC", os.path.join(ROOT, "build/nbdspec"))
MIB = 1 << 20
PATIENCE = 60  # seconds; a server or a client that needs longer hangs

# Names of the protocol text.
OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS, OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY = 1, 2, 3, 5, 6, 7, 8
REP_ACK, REP_SERVER, REP_INFO = 1, 2, 3
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_UNKNOWN, ERR_BLOCK_SIZE_REQD, ERR_TOO_BIG = (
    (1 << 31) + n for n in (1, 2, 3, 6, 8, 9))
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16
EPERM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP = 1, 22, 28, 75, 95
DEFAULT_FLAGS = 0xd6d  # HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES MULTI_CONN CACHE FAST_ZERO; SEND_DF once agreed
SEND_DF = 0x80


def need(program):
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def run(*argv, **kwargs):
    return subprocess.run([str(a) for a in argv], check=True, text=True, timeout=PATIENCE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, **kwargs).stdout


class Server:
    def __init__(self, path, *args, where=None, **kwargs):
        where = ["--unix", str(path)] if where is None else where
        self.path = str(path)
        self.process = subprocess.Popen([NBDSPEC, "serve", *where, *args], text=True, stdout=subprocess.PIPE, **kwargs)
        self.uri = self.process.stdout.readline().strip()
        assert self.uri, self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE)
        self.process.stdout.close()
        return status

    def rss(self):
        with open(f"/proc/{self.process.pid}/statm") as f:
            return int(f.read().split()[1]) * resource.getpagesize()


@pytest.fixture
def serve(tmp_path):
    servers = []

    def start(*args, **kwargs):
        servers.append(Server(tmp_path / f"{len(servers)}.sock", *args, **kwargs))
        return servers[-1]

    yield start
    for s in servers:
        assert s.process.poll() is not None or s.stop() == 0
        assert not os.path.exists(s.path)


@pytest.fixture
def image(tmp_path):
    """A file of 16 MiB with data and holes."""
    path = tmp_path / "image"
    rng = random.Random(1)
    with open(path, "wb") as f:
        for i in range(16):
            f.write(bytes(MIB) if i % 3 == 1 else rng.randbytes(MIB - 512) + bytes(512))
    return path


# ---- other people's clients ----

def test_nbdinfo(serve):
    need("nbdinfo")
    s = serve("--size", "1G")
    info = json.loads(run("nbdinfo", "--no-content", "--json", s.uri))
    export = info["exports"][0]
    assert info["protocol"] == "newstyle-fixed" and info["structured"]
    assert export["export-size"] == 1 << 30 and export["is_read_only"] is False
    assert all(export["can_" + f] for f in ("cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"))
    assert [export["block_size_" + b] for b in ("minimum", "preferred", "maximum")] == [1, 4096, 32 * MIB]


@pytest.mark.parametrize("knobs", [[], ["--knob", "list_descriptions"], ["--knob", "unasked_infos", "--knob",
                                                                        "infos_reversed"]])
def test_nbdinfo_list(serve, knobs):
    need("nbdinfo")
    s = serve("--export", r"name=é and so on,description=one\, two,size=1M", "--export", "name=b,read-only", *knobs)
    exports = json.loads(run("nbdinfo", "--list", "--json", s.uri))["exports"]
    assert [e["export-name"] for e in exports] == ["é and so on", "b"]
    assert exports[0]["export-size"] == MIB and exports[1]["is_read_only"] is True
    if "list_descriptions" in knobs:
        assert exports[0]["description"] == "one, two"


@pytest.mark.parametrize("args", [["--connections", "1"], ["--connections", "4", "--threads", "4"], ["--synchronous"]])
@pytest.mark.parametrize("setup", [[], ["--knob", "no_structured_replies"], ["--knob", "replies_out_of_order"],
                                   ["--export", "min=4096,pref=4096,max=1M,size=16M"]])
def test_nbdcopy(serve, image, tmp_path, args, setup):
    need("nbdcopy")
    s = serve("--size", "16M", *setup)
    run("nbdcopy", *args, image, s.uri)
    run("nbdcopy", *args, s.uri, tmp_path / "back")
    assert open(image, "rb").read() == open(tmp_path / "back", "rb").read()


def test_qemu_img(serve, image, tmp_path):
    need("qemu-img")
    s = serve("--size", "16M")
    assert json.loads(run("qemu-img", "info", "--output=json", s.uri))["virtual-size"] == 16 * MIB
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, s.uri)
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, s.uri)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", s.uri, tmp_path / "q")
    run("qemu-img", "compare", "-F", "qcow2", "-f", "raw", image, tmp_path / "q")
    run("qemu-img", "bench", "-f", "raw", "-c", "200", "-d", "16", "-w", s.uri)


def test_qemu_io(serve):
    need("qemu-io")
    s = serve("--size", "16M")
    out = run("qemu-io", "-f", "raw", "-c", "write -P 0x5a 1000 100000", "-c", "read -P 0x5a 1000 100000",
              "-c", "write -f -P 1 2M 1M", "-c", "flush", "-c", "discard 2M 64k", "-c", "write -z 3M 64k", "-c",
              "write -z -u 4M 64k", "-c", "read -P 0 3M 64k", "-c", "aio_write -P 7 8M 1M", "-c", "aio_flush",
              "-c", "read -P 7 8M 1M", s.uri)
    assert "failed" not in out


@pytest.fixture
def libnbd():
    return pytest.importorskip("nbd", reason="python3-libnbd is not installed")


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("knobs", [[], ["structured_successes", "read_ends_with_none"], ["simple_errors", "error_messages"],
                                   ["replies_out_of_order"], ["few_infos"]])
def test_libnbd(libnbd, serve, structured, knobs):
    s = serve("--size", "5G", *(a for k in knobs for a in ("--knob", k)))
    h = libnbd.NBD()
    h.set_request_structured_replies(structured)
    h.connect_uri(s.uri)
    assert h.get_structured_replies_negotiated() == structured and h.can_df() == structured
    data = random.Random(2).randbytes(3 * MIB + 17)
    h.pwrite(data, 4 * 1024 * MIB - MIB, libnbd.CMD_FLAG_FUA)
    h.flush()
    assert h.pread(len(data), 4 * 1024 * MIB - MIB) == data
    h.zero(MIB, 4 * 1024 * MIB, libnbd.CMD_FLAG_NO_HOLE | libnbd.CMD_FLAG_FAST_ZERO)
    h.trim(MIB, 4 * 1024 * MIB - MIB, libnbd.CMD_FLAG_FUA)
    h.cache(MIB, 0)
    assert h.pread(2 * MIB, 4 * 1024 * MIB - MIB) == bytes(2 * MIB)
    assert h.pread(MIB + 17, 4 * 1024 * MIB + MIB) == data[2 * MIB:]
    if structured:
        assert h.pread_structured(65536, 0, lambda *_: 0, libnbd.CMD_FLAG_DF) == bytes(65536)
    h.set_strict_mode(0)
    with pytest.raises(libnbd.Error) as e:
        h.pwrite(b"x" * 512, 5 * 1024 * MIB)
    assert e.value.errnum == ENOSPC
    with pytest.raises(libnbd.Error) as e:
        h.pread(512, 1 << 62)
    assert e.value.errnum == EINVAL
    assert h.pread(512, 0) == bytes(512)
    h.shutdown()


def test_libnbd_oldstyle(libnbd, serve):
    s = serve("--oldstyle", "--size", "1M")
    h = libnbd.NBD()
    h.connect_uri(s.uri)
    assert h.get_protocol() == "oldstyle" and h.get_size() == MIB
    h.pwrite(b"x" * 512, 512)
    assert h.pread(1024, 0) == bytes(512) + b"x" * 512
    h.shutdown()


def test_libnbd_not_fixed(libnbd, serve):
    s = serve("--knob", "no_fixed_newstyle", "--export", "name=foo,size=1M")
    h = libnbd.NBD()
    h.connect_uri(s.uri)
    assert h.get_protocol() == "newstyle" and h.get_size() == MIB
    h.shutdown()


def test_stdio(libnbd):
    h = libnbd.NBD()
    h.connect_command([NBDSPEC, "serve", "--stdio", "--size", "1M"])
    assert h.get_size() == MIB and h.pread(512, 0) == bytes(512)
    h.shutdown()


def test_stdio_over_pipes():
    p = subprocess.Popen([NBDSPEC, "serve", "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, _ = p.communicate(struct.pack(">IQII", 3, OPT_MAGIC, OPT_LIST, 0), timeout=PATIENCE)
    assert p.returncode == 0 and len(out) == 18 + 24 + 20


def test_socket_activation(libnbd):
    h = libnbd.NBD()
    h.connect_systemd_socket_activation([NBDSPEC, "serve", "--export", "name=foo,size=1M"])
    assert h.get_size() == MIB
    h.shutdown()


def test_nbd_client_lists_over_tcp(serve, libnbd):
    client = need("nbd-client")
    s = serve("--export", "name=foo", "--export", "name=bar", where=["--tcp", "0"])
    host, port = re.fullmatch(r"nbd://(localhost):(\d+)/foo", s.uri).groups()
    assert {"foo", "bar"} <= set(run(client, "-l", host, port).split())
    h = libnbd.NBD()
    h.connect_uri(s.uri)
    assert h.get_size() == 64 * MIB
    h.shutdown()


def extents(h, length, offset, flags=0):
    got = {}
    h.block_status(length, offset, lambda name, at, e, _: got.update({name: list(zip(e[::2], e[1::2]))}) or 0, flags)
    return got


@pytest.mark.parametrize("knobs", [[], ["set_meta_reversed", "status_chunks_reversed", "status_ends_with_none"]])
def test_libnbd_block_status(libnbd, serve, knobs):
    s = serve("--size", "1G", *(a for k in knobs for a in ("--knob", k)))
    h = libnbd.NBD()
    for name in ("base:allocation", "x-nbdspec:dirty", "x-nbdspec:blocks", "x-other:foo"):
        h.add_meta_context(name)
    h.connect_uri(s.uri)
    assert h.can_meta_context("x-nbdspec:dirty") and not h.can_meta_context("x-other:foo")
    h.pwrite(b"x" * 5000, 8192)
    h.zero(4096, 65536, libnbd.CMD_FLAG_NO_HOLE)
    h.pwrite(b"y" * 65536, 131072)
    h.trim(32768, 131072)
    got = extents(h, 262144, 0)
    assert got["base:allocation"] == [(8192, 3), (8192, 0), (49152, 3), (4096, 2), (94208, 3), (32768, 0), (65536, 3)]
    assert got["x-nbdspec:dirty"] == [(8192, 0), (8192, 1), (49152, 0), (4096, 1), (61440, 0), (65536, 1), (65536, 0)]
    assert got["x-nbdspec:blocks"] == [(65536, 0), (65536, 1), (65536, 2), (65536, 3)]
    one = extents(h, 100000, 70000, libnbd.CMD_FLAG_REQ_ONE)
    assert one == {"base:allocation": [(93840, 3)], "x-nbdspec:dirty": [(61072, 0)], "x-nbdspec:blocks": [(61072, 1)]}
    with pytest.raises(libnbd.Error) as e:
        h.set_strict_mode(0)
        extents(h, 1, 1 << 30)
    assert e.value.errnum == EINVAL
    h.shutdown()


def test_maps(serve, image):
    need("nbdinfo"), need("qemu-img"), need("qemu-io")
    s = serve("--size", "16M")
    run("qemu-io", "-f", "raw", "-c", "write -P 1 1M 1M", "-c", "write -z -u 4M 1M", "-c", "write -z 6M 1M", s.uri)
    m = json.loads(run("nbdinfo", "--map", "--json", s.uri))
    assert [(e["offset"], e["length"], e["type"]) for e in m] == [
        (0, MIB, 3), (MIB, MIB, 0), (2 * MIB, 4 * MIB, 3), (6 * MIB, MIB, 2), (7 * MIB, 9 * MIB, 3)]
    m = json.loads(run("nbdinfo", "--map=x-nbdspec:dirty", "--json", s.uri))
    assert [(e["offset"] // MIB, e["type"]) for e in m] == [(0, 0), (1, 1), (2, 0), (4, 1), (5, 0), (6, 1), (7, 0)]
    m = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", s.uri))
    assert [(e["start"] // MIB, e["data"], e["zero"]) for e in m] == [
        (0, False, True), (1, True, False), (2, False, True), (6, True, True), (7, False, True)]
    listed = json.loads(run("nbdinfo", "--list", "--json", s.uri))["exports"][0]["contexts"]
    assert {"base:allocation", "x-nbdspec:dirty", "x-nbdspec:blocks"} == set(listed)


def meta(name, *queries):
    return struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries)) + b"".join(
        struct.pack(">I", len(q)) + q for q in queries)


REP_META_CONTEXT, LIST_META, SET_META = 4, 9, 10


def contexts(replies):
    assert replies[-1] == REP_ACK
    return {r[1][4:].decode(): struct.unpack(">I", r[1][:4])[0] for r in replies[:-1]}


def test_meta_contexts(serve):
    c = Client(serve("--export", "name=foo,size=1M", "--export", "name=bar,size=1M,contexts=base:allocation"))
    every = {"base:allocation": 0, "x-nbdspec:dirty": 0, "x-nbdspec:blocks": 0}
    assert c.option(SET_META, meta(b"foo", b"base:allocation")) == [ERR_INVALID]
    assert contexts(c.option(LIST_META, meta(b"foo"))) == every
    c.structured_reply()
    assert contexts(c.option(LIST_META, meta(b"bar"))) == {"base:allocation": 0}
    assert list(contexts(c.option(LIST_META, meta(b"foo", b"x-nbdspec:", b"base:")))) == list(every)[1:] + ["base:allocation"]
    for queries in ([], [b"base:"], [b"x-nbdspec:"], [b"base:foo"], [b"none"], [b"qemu:allocation-depth"], [b""]):
        assert contexts(c.option(SET_META, meta(b"foo", *queries))) == {}
    assert len(set(contexts(c.option(SET_META, meta(b"foo", b"x-nbdspec:*", b"x-nbdspec:dirty"))).values())) == 2
    assert c.option(LIST_META, meta(b"nope")) == [ERR_UNKNOWN] == c.option(SET_META, meta(b"nope"))
    good = meta(b"foo", b"base:allocation")
    for option in (LIST_META, SET_META):
        for n in range(len(good)):
            assert c.option(option, good[:n]) == [ERR_INVALID]
        for bad in (good + b"x", meta(b"f\0o"), meta(b"foo", b"x" * 4097), meta(b"foo")[:-4] + b"\xff" * 4):
            assert c.option(option, bad) == [ERR_INVALID]
        assert c.option(option, meta(b"foo", b"x" * 4097 * 80)) == [ERR_TOO_BIG]


@pytest.mark.parametrize("options, served", [
    ([], False),
    ([meta(b"foo", b"base:allocation")], True),
    ([meta(b"", b"base:allocation")], True),
    ([meta(b"bar", b"base:allocation")], False),
    ([meta(b"foo", b"base:allocation"), b"junk"], False),
    ([meta(b"foo", b"base:allocation"), meta(b"nope", b"base:allocation")], False),
    ([meta(b"foo", b"base:allocation"), meta(b"foo")], False),
    ([meta(b"bar", b"base:allocation"), meta(b"foo", b"x-nbdspec:*")], True)])
def test_which_contexts_hold(serve, options, served):
    c = Client(serve("--export", "name=foo,size=1M", "--export", "name=bar,size=1M")).structured_reply()
    for o in options:
        c.option(SET_META, o)
    c.go(b"foo")
    c.send_request(CMD_BLOCK_STATUS, 0, 4096)
    chunk = c.recv_chunk()
    assert chunk[1] == (5 if served else 0x8001)
    while not chunk[0] & 1:
        chunk = c.recv_chunk()
    assert c.alive()


def test_block_status_far_away(serve):
    c = Client(serve("--size", str((1 << 63) - 1))).structured_reply()
    (allocation, ) = contexts(c.option(SET_META, meta(b"", b"base:allocation"))).values()
    c.go()
    assert c.command(CMD_WRITE, 1 << 62, 1, b"x") == 0
    for offset, length, got in ((0, 0xffffffff, [(0xffffffff, 3)]), ((1 << 62) - 512, 8192, [(512, 3), (4096, 0), (3584, 3)]),
                                ((1 << 63) - 2, 1, [(1, 3)])):
        c.send_request(CMD_BLOCK_STATUS, offset, length)
        assert c.recv_chunk() == (1, 5, 7, struct.pack(">I", allocation) + b"".join(struct.pack(">II", *e) for e in got))


# ---- the command ----

def nbdspec(*args, **kwargs):
    return subprocess.run([NBDSPEC, "serve", *args], text=True, timeout=PATIENCE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, **kwargs)


def test_run(tmp_path):
    p = nbdspec("--export", "name=a b,size=1M", "--run", 'printf "%s\\n" "$uri" "$unixsocket" "$port" "$exportname"; exit 7',
                env=dict(os.environ, TMPDIR=str(tmp_path)))
    uri, path, port, name, end = p.stdout.split("\n")
    assert p.returncode == 7 and p.stderr == "" and port == "" and name == "a b" and end == ""
    assert uri == f"nbd+unix:///a%20b?socket={path}" and path.startswith(str(tmp_path))
    assert os.listdir(tmp_path) == []
    p = nbdspec("--tcp", "0", "--run", 'echo "$uri $port"; kill -9 $$')
    assert p.returncode == 128 + 9 and re.fullmatch(r"nbd://localhost:(\d+)/? \1\n", p.stdout)


def test_run_is_interrupted(tmp_path):
    p = subprocess.Popen([NBDSPEC, "serve", "--run", "echo ready; exec sleep 1000"], stdout=subprocess.PIPE,
                         env=dict(os.environ, TMPDIR=str(tmp_path)))
    p.stdout.readline()
    p.terminate()
    assert p.wait(PATIENCE) == 128 + signal.SIGTERM and os.listdir(tmp_path) == []
    p.stdout.close()


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_it_cleanly(serve, sig):
    s = serve()
    c = Client(s)
    s.process.send_signal(sig)
    assert s.process.wait(PATIENCE) == 0 and not os.path.exists(s.path)
    assert c.ended()


def test_once(serve):
    s = serve("--once")
    Client(s).s.close()
    assert s.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("args, status, says", [
    (["--unix", "a", "--tcp", "1"], 2, "--unix, --tcp"),
    (["--tcp", "65536"], 2, "65535"),
    (["--tcp", "1.2.3.4:0"], 3, "1.2.3.4"),
    (["--unix", "/nonexistent/s"], 3, "/nonexistent/s"),
    (["--unix", "x" * 200], 2, "107"),
    (["--export", "size=8E"], 2, "2^63-1"),
    (["--export", "sice=1"], 2, "size="),
    (["--export", "min=3"], 2, "power of 2"),
    (["--export", "size=100,min=512"], 2, "multiple"),
    (["--export", "flags=SEND_RESIZE"], 2, "SEND_FLUSH"),
    (["--export", "flags=SEND_FAST_ZERO"], 2, "SEND_WRITE_ZEROES"),
    (["--size", "1X"], 2, "k, M"),
    (["--knob", "frob"], 2, "--list-knobs"),
    (["--lie", "frob"], 2, "--list-lies"),
    (["--lie", "cookie_changed:nth=0"], 2, "from 1"),
    (["--lie", "cookie_changed:frob=0"], 2, "times="),
    (["--lie", "cookie_changed:command=FROB"], 2, "READ"),
    (["--trace", "/nonexistent/t", "--run", "true"], 3, "/nonexistent/t"),
    (["--stdio", "--run", "true"], 2, "--run"),
    (["--control", "/nonexistent/c", "--run", "true"], 3, "/nonexistent/c"),
    (["--log", "/nonexistent/l", "--run", "true"], 3, "/nonexistent/l"),
    (["--grace", "x"], 2, "--grace"),
    (["--memory-limit", "x"], 2, "k, M"),
    (["--export", "contexts=foo:bar"], 2, "base:allocation"),
    (["--buffer-limit", "0"], 2, "k, M"),
    (["--unix", "", "--run", "true"], 2, "path"),
    (["--control", "", "--run", "true"], 2, "path"),
    (["--unix", "/dev/null", "--run", "true"], 3, "exists"),
    (["--export", "name=a", "--export", "size=1M,name=a"], 2, "same name"),
    (["frob"], 2, "frob"),
])
def test_bad_arguments(args, status, says):
    p = nbdspec(*args)
    assert p.returncode == status and p.stderr.count("\n") == 1 and says in p.stderr and p.stdout == ""


@pytest.mark.parametrize("option", ["--unix", "--control"])
def test_a_file_that_is_no_socket_stays(tmp_path, option):
    (tmp_path / "f").write_text("precious")
    p = nbdspec(option, str(tmp_path / "f"), "--run", "true")
    assert p.returncode == 3 and str(tmp_path / "f") in p.stderr and (tmp_path / "f").read_text() == "precious"


def test_stdio_that_cannot_be(tmp_path):
    with open(tmp_path / "f", "w+") as f:
        p = subprocess.run([NBDSPEC, "serve", "--stdio"], stdin=f, stdout=f, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert p.returncode == 3 and "a socket or two pipes" in p.stderr


def activated(number, fd=None):
    """What becomes of a server that is told of so many descriptors, of which 3 is this one, or closed."""
    program = ("import os, sys\nos.environ.update(LISTEN_FDS=sys.argv[1], LISTEN_PID=str(os.getpid()))\n"
               "fd = int(sys.argv[2])\nos.dup2(fd, 3) if fd > 3 else fd == 3 or os.closerange(3, 9)\nos.set_inheritable(3, True) if fd > 0 else 0\n"
               "os.execv(sys.argv[3], ['nbdspec', 'serve'])")
    return subprocess.run([sys.executable, "-S", "-c", program, number, str(fd or -1), os.path.abspath(NBDSPEC)], text=True,
                          pass_fds=[fd] if fd else [], timeout=PATIENCE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_descriptors_that_cannot_be_served(tmp_path):
    for number in ("x", "-1", "1", "2000000000", "99999999999999999999"):
        p = activated(number)
        assert p.returncode == 3 and p.stderr.count("\n") == 1 and "LISTEN_FDS" in p.stderr and p.stdout == ""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, open(tmp_path / "f", "w+") as f:
        for it in (tcp, udp, f):
            p = activated("1", it.fileno())
            assert p.returncode == 3 and "descriptor 3 of LISTEN_FDS: want a stream socket" in p.stderr


def test_address_in_use(serve):
    s = serve()
    p = nbdspec("--unix", s.path)
    assert p.returncode == 3 and s.path in p.stderr and p.stderr.count("\n") == 1
    assert Client(s).go()
    s.process.kill()
    s.process.wait()
    assert os.path.exists(s.path)  # a socket that nobody listens on any more is replaced
    p = nbdspec("--unix", s.path, "--run", "true")
    assert p.returncode == 0


def test_lists():
    assert "cookie_changed" in nbdspec("--list-lies").stdout
    assert "list_denied" in nbdspec("--list-knobs").stdout


def test_verbose_and_trace(serve, tmp_path):
    log = open(tmp_path / "log", "w+")
    s = serve("-v", "--trace", str(tmp_path / "trace"), stderr=log)
    c = Client(s)
    c.go()
    c.send_request(CMD_WRITE, 512, 3, b"abc")
    c.recv_simple()
    assert s.stop() == 0
    log.seek(0)
    text = log.read()
    for words in ("NBD_OPT_GO", "NBD_INFO_EXPORT", "NBD_REP_ACK", "NBD_CMD_WRITE", "simple reply", "greeting"):
        assert words in text
    assert b"abc" in open(tmp_path / "trace", "rb").read()


# ---- a raw client ----

OPT_MAGIC, REPLY_MAGIC = 0x49484156454F5054, 0x3e889045565a9


class Client:
    def __init__(self, server, flags=3, timeout=PATIENCE):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(timeout)
        self.s.connect(server.path)
        self.structured = False
        self.greeting = self.recv(18)
        if flags is not None:
            self.send(struct.pack(">I", flags))

    def send(self, data):
        self.s.sendall(data)

    def recv(self, n):
        data = b""
        while len(data) < n:
            more = self.s.recv(n - len(data))
            assert more, f"closed after {len(data)} of {n} bytes"
            data += more
        return data

    def ended(self):
        """An orderly end, not a reset, and nothing before it."""
        return self.s.recv(1) == b""

    def send_option(self, option, data=b"", length=None, magic=OPT_MAGIC):
        self.send(struct.pack(">QII", magic, option, len(data) if length is None else length) + data)

    def recv_reply(self):
        magic, option, kind, length = struct.unpack(">QIII", self.recv(20))
        assert magic == REPLY_MAGIC
        return option, kind, self.recv(length)

    def option(self, option, data=b"", **kwargs):
        """The types of all replies; those that carry something as (type, data)."""
        self.send_option(option, data, **kwargs)
        replies = []
        while True:
            echo, kind, data = self.recv_reply()
            assert echo == option
            replies.append((kind, data) if data else kind)
            if kind == REP_ACK or kind >> 31:
                return replies

    def in_step(self):
        assert self.option(0x7fffffff) == [ERR_UNSUP]
        return True

    def go(self, name=b"", infos=(), option=OPT_GO):
        data = struct.pack(">I", len(name)) + name + struct.pack(f">{1 + len(infos)}H", len(infos), *infos)
        return self.option(option, data)

    def structured_reply(self):
        assert self.option(OPT_STRUCTURED_REPLY) == [REP_ACK]
        self.structured = True
        return self

    def send_request(self, command, offset=0, length=0, data=b"", flags=0, cookie=7, magic=0x25609513):
        self.send(struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length) + data)

    def recv_simple(self, length=0):
        magic, error, cookie = struct.unpack(">IIQ", self.recv(16))
        assert magic == 0x67446698
        return (error, cookie, self.recv(length)) if not error else (error, cookie, b"")

    def recv_chunk(self):
        magic, flags, kind, cookie, length = struct.unpack(">IHHQI", self.recv(20))
        assert magic == 0x668e33ef
        return flags, kind, cookie, self.recv(length)

    def command(self, *args, **kwargs):
        """The error of a command whose success has no payload."""
        self.send_request(*args, **kwargs)
        if not self.structured:
            return self.recv_simple()[0]
        magic = self.s.recv(4, socket.MSG_PEEK)
        if magic == b"\x67\x44\x66\x98":
            return self.recv_simple()[0]
        flags, kind, cookie, data = self.recv_chunk()
        assert flags == 1 and cookie == 7
        return 0 if kind == 0 else struct.unpack(">IH", data)[0]

    def alive(self):
        self.send_request(CMD_READ, 0, 1)
        if self.structured:
            assert self.recv_chunk() == (1, 1, 7, bytes(8) + b"\0")
        else:
            assert self.recv_simple(1) == (0, 7, b"\0")
        return True


def info_export(size, flags):
    return REP_INFO, struct.pack(">HQH", 0, size, flags)


def test_greeting(serve):
    assert Client(serve()).greeting == b"NBDMAGICIHAVEOPT\0\3"


@pytest.mark.parametrize("flags", [4, 1 << 31, 0xffffffff, 7])
def test_unknown_client_flags_close(serve, flags):
    assert Client(serve(), flags).ended()


def test_unoffered_client_flags_close(serve):
    s = serve("--knob", "no_no_zeroes")
    assert Client(s, 2).ended() and Client(s, 1).in_step()


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_export_name(serve, flags):
    c = Client(serve("--export", "name=foo,size=1M"), flags)
    c.send_option(OPT_EXPORT_NAME, b"foo")
    assert c.recv(10) == struct.pack(">QH", MIB, DEFAULT_FLAGS)
    if not flags & 2:
        assert c.recv(124) == bytes(124)
    assert c.alive()


@pytest.mark.parametrize("name", [b"bar", b"fo", b"foo\0", b"x" * 4097, b"x" * 300000],
                         ids=["bar", "fo", "NUL", "4097", "300000"])
def test_export_name_unknown_closes(serve, name):
    c = Client(serve("--export", "name=foo,size=1M"))
    c.send_option(OPT_EXPORT_NAME, name)
    assert c.ended()


def test_without_fixed_newstyle(serve):
    s = serve()
    c = Client(s, 2)
    c.send_option(OPT_LIST)
    assert c.ended()
    assert Client(serve("--knob", "fixed_newstyle_unasked"), 0).in_step()


def test_options(serve):
    c = Client(serve("--export", "name=foo,size=1M", "--export", "name=bar"))
    assert c.option(OPT_LIST) == [(REP_SERVER, b"\0\0\0\3foo"), (REP_SERVER, b"\0\0\0\3bar"), REP_ACK]
    for option in (0, 4, OPT_STARTTLS, 11, 12, 0xffffffff):
        assert c.option(option) == [ERR_UNSUP] and c.option(option, b"some data") == [ERR_UNSUP]
    assert c.option(OPT_LIST, b"x") == [ERR_INVALID]
    assert c.option(OPT_STRUCTURED_REPLY, b"x") == [ERR_INVALID]
    assert c.go(b"bar", option=OPT_INFO) == [info_export(64 * MIB, DEFAULT_FLAGS), REP_ACK]
    assert c.option(OPT_STRUCTURED_REPLY) == [REP_ACK] and c.option(OPT_STRUCTURED_REPLY) == [REP_ACK]
    assert c.go(b"", option=OPT_INFO) == [info_export(MIB, DEFAULT_FLAGS | SEND_DF), REP_ACK]
    assert c.option(OPT_ABORT, b"ignored") == [REP_ACK] and c.ended()


@pytest.mark.parametrize("option", [OPT_INFO, OPT_GO])
def test_go_malformed(serve, option):
    c = Client(serve())
    good = struct.pack(">I", 3) + b"foo" + struct.pack(">HH", 1, 3)
    assert c.option(option, good) == [ERR_UNKNOWN]
    for n in range(len(good)):
        assert c.option(option, good[:n]) == [ERR_INVALID]
    assert c.option(option, good + b"x") == [ERR_INVALID]
    for length in (4, 0xffffffff, 0xfffffff6, 1 << 31):
        assert c.option(option, struct.pack(">I", length) + good[4:]) == [ERR_INVALID]
    for name, error in ((b"a\0b", ERR_INVALID), (b"\0", ERR_INVALID), (b"x" * 4096, ERR_UNKNOWN),
                        (b"x" * 4097, ERR_INVALID), (b"\xff", ERR_UNKNOWN)):
        assert c.go(name, option=option) == [error]
    assert c.go(b"foo", range(65535), option=option) == [ERR_UNKNOWN]
    assert c.go(b"", range(4, 65535), option=OPT_INFO)[-1] == REP_ACK
    assert c.go(b"", [3], option=option)[-1] == REP_ACK


def test_infos(serve):
    c = Client(serve("--export", "name=foo,size=1M,description=some disk"))
    export, name = info_export(MIB, DEFAULT_FLAGS), (REP_INFO, b"\0\1foo")
    description, block = (REP_INFO, b"\0\2some disk"), (REP_INFO, struct.pack(">HIII", 3, 1, 4096, 32 * MIB))
    assert c.go(b"", [0], OPT_INFO) == [export, REP_ACK]
    assert c.go(b"", [1], OPT_INFO) == [export, name, REP_ACK]
    assert c.go(b"foo", [3, 2, 1, 3, 77], OPT_INFO) == [export, name, description, block, REP_ACK]
    assert c.go(b"foo", [3]) == [export, block, REP_ACK] and c.alive()


def test_block_sizes_required(serve):
    s = serve("--export", "min=4096,max=1M,size=1M")
    block = REP_INFO, struct.pack(">HIII", 3, 4096, 4096, MIB)
    c = Client(s)
    assert c.go() == [block, ERR_BLOCK_SIZE_REQD] and c.go(infos=[1], option=OPT_INFO) == [block, ERR_BLOCK_SIZE_REQD]
    assert c.go(infos=[3])[-1] == REP_ACK
    assert c.command(CMD_WRITE, 512, 4096, bytes(4096)) == EINVAL and c.command(CMD_WRITE, 0, 512, bytes(512)) == EINVAL
    assert c.command(CMD_TRIM, 0, 4097) == EINVAL and c.command(CMD_WRITE, 4096, 4096, bytes(4096)) == 0
    c = Client(s)
    c.send_option(OPT_EXPORT_NAME)
    assert c.ended()
    c = Client(serve("--export", "min=4096,size=1M", "--knob", "block_sizes_optional"))
    c.send_option(OPT_EXPORT_NAME)
    c.recv(10)
    assert c.command(CMD_READ, 1, 4096) == EINVAL


def test_wrong_magics(serve):
    s = serve()
    c = Client(s)
    c.send_option(OPT_LIST, b"some data", magic=OPT_MAGIC + 1)
    assert c.ended()
    c = Client(s)
    c.go()
    c.send_request(CMD_WRITE, 0, 512, bytes(512), magic=0x25609514)
    assert c.ended()
    s = serve("--knob", "bad_option_magic_replies", "--knob", "bad_request_magic_replies")
    c = Client(s)
    assert c.option(OPT_LIST, b"some data", magic=0) == [ERR_INVALID] and c.in_step() and c.go()[-1] == REP_ACK
    assert c.command(CMD_WRITE, 0, 512, bytes(512), magic=0) == EINVAL and c.alive()


@pytest.mark.parametrize("structured", [False, True])
def test_requests(serve, structured):
    size = 1 << 20
    c = Client(serve("--size", str(size)))
    if structured:
        c.structured_reply()
    c.go()
    big = (1 << 64) - 512
    for flags in (0, FUA):
        assert c.command(CMD_WRITE, 0, 512, bytes(512), flags=flags) == 0
        assert c.command(CMD_FLUSH, flags=flags) == 0 and c.command(CMD_TRIM, 512, 512, flags=flags) == 0
        assert c.command(CMD_CACHE, 0, size, flags=flags) == 0
        assert c.command(CMD_WRITE_ZEROES, 0, size, flags=flags | NO_HOLE | FAST_ZERO) == 0
    for command in (CMD_WRITE_ZEROES, CMD_TRIM, CMD_CACHE):
        past = ENOSPC if command == CMD_WRITE_ZEROES else EINVAL
        assert c.command(command, 0, 0) == 0 and c.command(command, size, 0) == 0
        for offset, length in ((0, size + 1), (size, 1), (size + 1, 0), (big, 512), (big, 1024), (big, 0xffffffff)):
            assert c.command(command, offset, length) == past
        assert c.command(command, 0, 512, flags=DF) == EINVAL and c.command(command, 0, 512, flags=0x8000) == EINVAL
    for offset in (size - 511, size, big, big + 511):
        assert c.command(CMD_READ, offset, 512) == EINVAL and c.command(CMD_WRITE, offset, 512, bytes(512)) == ENOSPC
    assert c.command(CMD_WRITE, 5, 0) == 0 and c.command(CMD_WRITE, 0, 9, b"123456789", flags=NO_HOLE) == EINVAL
    assert c.command(CMD_READ, 0, 9, flags=NO_HOLE) == EINVAL and c.command(CMD_FLUSH, flags=DF) == EINVAL
    for command in (CMD_BLOCK_STATUS, 8, 9, 77, 0xffff):
        assert c.command(command, 0, 512) == EINVAL
    assert c.command(CMD_WRITE_ZEROES, 0, 512, flags=REQ_ONE) == EINVAL
    assert c.command(CMD_WRITE, 0, 9, b"123456789", flags=32) == EINVAL
    assert c.alive()
    c.send_request(CMD_READ, 0, 512, cookie=1)
    c.send_request(CMD_DISC, cookie=2)
    assert (c.recv_chunk()[2] if structured else c.recv_simple(512)[1]) == 1 and c.ended()


def test_structured_read(serve):
    c = Client(serve("--size", "1M")).structured_reply()
    c.go()
    assert c.command(CMD_WRITE, 5, 3, b"abc") == 0
    c.send_request(CMD_READ, 4, 5, flags=DF, cookie=1 << 63)
    assert c.recv_chunk() == (1, 1, 1 << 63, struct.pack(">Q", 4) + b"\0abc\0")
    c.send_request(CMD_READ, 4, 0)
    assert c.recv_chunk() == (1, 0, 7, b"")
    c.send_request(CMD_READ, MIB, 1)
    assert c.recv_chunk() == (1, 0x8001, 7, struct.pack(">IH", EINVAL, 0))


def test_nothing_unadvertised(serve):
    c = Client(serve("--export", "flags=none")).structured_reply()
    assert c.go()[0] == info_export(64 * MIB, 1)
    for command in (CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES):
        assert c.command(command, 0, 512) == EINVAL
    assert c.command(CMD_WRITE, 0, 1, b"x", flags=FUA) == EINVAL and c.command(CMD_READ, 0, 1, flags=DF) == EINVAL
    assert c.alive()


def test_read_only(serve):
    c = Client(serve("--export", "read-only"))
    c.go()
    for command in (CMD_TRIM, CMD_WRITE_ZEROES):
        assert c.command(command, 0, 512) == EPERM
    assert c.command(CMD_WRITE, 0, 512, b"x" * 512) == EPERM and c.command(CMD_FLUSH) == 0 and c.alive()


def test_too_long_for_one_request(serve):
    c = Client(serve("--size", "1G"))
    c.go()
    c.send_request(CMD_READ, 0, 32 * MIB)
    assert c.recv_simple(32 * MIB)[0] == 0
    assert c.command(CMD_READ, 0, 32 * MIB + 1) == EINVAL
    assert c.command(CMD_WRITE, 0, 32 * MIB, bytes(32 * MIB)) == 0
    assert c.command(CMD_WRITE, 0, 40 * MIB, bytes(40 * MIB)) == EINVAL and c.alive()
    assert c.command(CMD_WRITE_ZEROES, 0, 1 << 30, flags=NO_HOLE) == 0
    c = Client(serve("--size", "1G")).structured_reply()
    c.go()
    assert c.command(CMD_READ, 0, 32 * MIB + 1) == EOVERFLOW


@pytest.mark.parametrize("knob, expected", [
    ("read_zero_is_einval", EINVAL), ("no-read_zero_is_einval", 0)])
def test_a_knob(serve, knob, expected):
    c = Client(serve("--knob", knob))
    c.go()
    assert c.command(CMD_READ, 0, 0) == expected and c.command(CMD_TRIM, 0, 0) == expected


def test_out_of_order(serve):
    c = Client(serve("--knob", "replies_out_of_order"))
    c.go()
    c.send(b"".join(struct.pack(">IHHQQI", 0x25609513, 0, CMD_READ, i, i, i) for i in range(1, 9)))
    got = []
    for _ in range(8):
        magic, error, cookie = struct.unpack(">IIQ", c.recv(16))
        got.append(cookie)
        c.recv(cookie)
    assert got == list(range(8, 0, -1))


def read_structured(c, n):
    """The chunks of n replies as they come, each (cookie, type, flags, payload)."""
    chunks = []
    while n:
        flags, kind, cookie, data = c.recv_chunk()
        chunks.append((cookie, kind, flags, data))
        n -= flags & 1
    return chunks


@pytest.mark.parametrize("knobs", [["read_fragments"], ["read_holes"], ["read_chunks_reversed"], ["read_chunks_shuffled", "read_holes"],
                                   ["chunks_interleaved", "read_holes", "read_ends_with_none"], ["requests_out_of_order"],
                                   ["read_exceeds_max"], ["replies_shuffled", "read_fragments"]])
def test_chunks(serve, tmp_path, knobs):
    s = serve("--size", "40M", "--trace", str(tmp_path / "t"), *(a for k in knobs for a in ("--knob", k)))
    c = Client(s).structured_reply()
    c.go()
    disk = bytearray(MIB)
    for at in (5, 70000, 200001):
        disk[at:at + 3000] = random.Random(at).randbytes(3000)
        assert c.command(CMD_WRITE, at, 3000, disk[at:at + 3000]) == 0
    ranges = [(0, 262144), (1, 5000), (69999, 200000), (511, 3)] * 3
    c.send(b"".join(struct.pack(">IHHQQI", 0x25609513, DF * (i % 4 == 2), CMD_READ, i, *r) for i, r in enumerate(ranges)))
    chunks = read_structured(c, len(ranges))
    for i, (offset, length) in enumerate(ranges):
        mine = [ch for ch in chunks if ch[0] == i]
        got, seen = bytearray(b"?" * length), 0
        assert [f & 1 for _, _, f, _ in mine] == [0] * (len(mine) - 1) + [1]
        for _, kind, _, data in mine:
            at = struct.unpack(">Q", data[:8])[0] - offset if data else 0
            piece = data[8:] if kind == 1 else bytes(struct.unpack(">I", data[8:])[0]) if kind == 2 else b""
            got[at:at + len(piece)] = piece
            seen += len(piece)
        assert got == disk[offset:offset + length] and seen == length
        assert i % 4 != 2 or len(mine) == 1 + ("read_ends_with_none" in knobs)
    cookies = [ch[0] for ch in chunks]
    assert (cookies != sorted(cookies)) == any(k in knobs for k in ("chunks_interleaved", "requests_out_of_order", "replies_shuffled"))
    assert (2 in [ch[1] for ch in chunks]) == ("read_holes" in knobs)
    c.send_request(CMD_READ, 0, 33 * MIB)
    chunks = read_structured(c, 1)
    assert ("read_exceeds_max" in knobs) == (chunks[0][1] == 1) and all(len(ch[3]) <= 32 * MIB + 8 for ch in chunks)


@pytest.mark.parametrize("knobs, kinds", [
    ([], [(0x8001, None)]), (["error_offsets"], [(0x8002, MIB)]), (["read_errors_last"], [(1, MIB - 512), (0x8002, MIB)]),
    (["read_errors_first"], [(0x8002, MIB), (1, MIB - 512)]),
    (["read_errors_many"], [(1, MIB - 512), (0x8002, MIB), (0x8002, MIB + 512)])])
def test_errors_of_reads(serve, knobs, kinds):
    c = Client(serve("--size", "1M", *(a for k in knobs for a in ("--knob", k)))).structured_reply()
    c.go()
    c.send_request(CMD_READ, MIB - 512, 2048)
    where = {1: slice(0, 8), 0x8002: slice(6, 14)}
    assert [(k, struct.unpack(">Q", d[where[k]])[0] if k in where else None) for _, k, _, d in read_structured(c, 1)] == kinds
    assert c.alive()


def served(serve, *knobs, size="1G"):
    c = Client(serve("--size", size, *(a for k in knobs for a in ("--knob", k)))).structured_reply()
    c.option(SET_META, meta(b"", b"base:allocation"))
    c.go()
    return c


def test_more_knobs(serve):
    c = served(serve, "long_effects_refused")
    assert c.command(CMD_TRIM, 0, 33 * MIB) == EINVAL and c.command(CMD_WRITE_ZEROES, 0, 32 * MIB) == 0
    c = served(serve, "fast_zero_aligned")
    assert c.command(CMD_WRITE_ZEROES, 0, 512, flags=FAST_ZERO) == ENOTSUP
    assert c.command(CMD_WRITE_ZEROES, 0, 4096, flags=FAST_ZERO) == 0
    c = served(serve, "flush_range_closes")
    assert c.command(CMD_FLUSH) == 0
    c.send_request(CMD_FLUSH, 1)
    assert c.ended()
    c = served(serve, "trim_rounds")
    assert c.command(CMD_WRITE, 0, 262144, b"x" * 262144) == 0 and c.command(CMD_TRIM, 5, 200000) == 0
    c.send_request(CMD_READ, 0, 262144, flags=DF)
    assert c.recv_chunk()[3][8:] == b"x" * 65536 + bytes(131072) + b"x" * 65536
    c = served(serve, "empty_status_served")
    c.send_request(CMD_BLOCK_STATUS, 4096, 0)
    assert c.recv_chunk()[3][4:] == struct.pack(">II", 65536, 3)
    c.send_request(CMD_BLOCK_STATUS, 4096, 0, flags=REQ_ONE)
    assert c.recv_chunk()[1] == 0x8001 and c.alive()
    c = served(serve, "long_payload_awaited")
    c.send_request(CMD_WRITE, 0, 256 * MIB)
    for _ in range(256):
        c.send(bytes(MIB))
    c.recv_chunk()
    assert c.alive()


@pytest.mark.parametrize("knob, expected", [
    ("extents_run_past", [(8192, 3), (4096, 0), (MIB - 12288, 3)]), ("extents_fall_short", [(8192, 3), (4096, 0), (53248, 3)]),
    ("single_extents", [(8192, 3)]), ("status_always_zero", [(131072, 0)]), ("untouched_is_allocated", [(8192, 2), (4096, 0), (118784, 2)]),
    ("untouched_is_unknown", [(8192, 1), (4096, 0), (118784, 1)])])
def test_knobs_of_extents(serve, knob, expected):
    c = served(serve, knob, size="1M")
    assert c.command(CMD_WRITE, 8192, 1, b"x") == 0
    c.send_request(CMD_BLOCK_STATUS, 0, 131072)
    data = c.recv_chunk()[3][4:]
    assert list(struct.iter_unpack(">II", data)) == expected


def test_haggling_limited(serve):
    c = Client(serve("--knob", "haggling_limited"))
    for _ in range(1000):
        c.in_step()
    c.send_option(OPT_LIST)
    assert c.ended()


def test_dribbled_bytes_and_other_clients(serve):
    s = serve("--size", "1M")
    a, b = Client(s, None), Client(s)
    b.go()
    stream = struct.pack(">I", 3) + struct.pack(">QII", OPT_MAGIC, OPT_EXPORT_NAME, 0) + struct.pack(
        ">IHHQQI", 0x25609513, 0, CMD_WRITE, 9, 0, 3) + b"abc"
    for i, byte in enumerate(stream):
        a.send(bytes([byte]))
        if i < len(stream) - 1:
            assert b.alive()
    assert a.recv(10) and a.recv_simple() == (0, 9, b"")
    b.send_request(CMD_READ, 0, 3)
    assert b.recv_simple(3)[2] == b"abc"


def test_vanishing_clients(serve):
    s = serve()
    for n in range(0, 60, 7):
        c = Client(s, None)
        c.send((struct.pack(">I", 3) + struct.pack(">QII", OPT_MAGIC, OPT_EXPORT_NAME, 0) +
                struct.pack(">IHHQQI", 0x25609513, 0, CMD_READ, 9, 0, MIB))[:n])
        c.s.close()
    c = Client(s)
    c.go()
    assert c.alive()


def test_half_closed_client_gets_its_replies(serve):
    c = Client(serve())
    c.go()
    for cookie in range(16):
        c.send_request(CMD_READ, 0, MIB, cookie=cookie)
    c.s.shutdown(socket.SHUT_WR)
    assert [c.recv_simple(MIB)[1] for _ in range(16)] == list(range(16)) and c.ended()


# ---- control, shutdown, log ----

ERR_SHUTDOWN, ESHUTDOWN = (1 << 31) + 7, 108


class Control:
    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(PATIENCE)
        self.s.connect(str(path))
        self.f = self.s.makefile("rw")

    def __call__(self, line):
        self.f.write(line + "\n")
        self.f.flush()
        answer = self.f.readline()
        assert answer.endswith("\n")
        return answer[:-1]


def test_control(serve, tmp_path):
    s = serve("--control", str(tmp_path / "c"), "--export", "name=a b,size=1M", "--export", "name=", "--log", str(tmp_path / "l"))
    control = Control(tmp_path / "c")
    assert control("status") == "ok state=serving connections=0 exports=2 memory=0 generation=0 cached=0 pending=0"
    a, b = Client(s), Client(s)
    a.go(b"a b")
    assert a.command(CMD_WRITE, 0, 1, b"x") == 0
    assert control("status").startswith("ok state=serving connections=2 exports=2 memory=")
    assert control("counters").startswith("ok accepted=2 options=1 requests=1 sent=")
    assert "SEND_TRIM" in control("flags a b") and "SEND_TRIM" not in control("flags a b -SEND_TRIM +READ_ONLY")
    assert b.go(b"a b", option=OPT_INFO)[0] == info_export(MIB, (DEFAULT_FLAGS | 2) & ~0x20)
    assert "READ_ONLY" in control("flags  +READ_ONLY") and "READ_ONLY" in control("flags +READ_ONLY")
    for bad in ("", "frob", "flags c", "flags a b +FROB", "flags a b -HAS_FLAGS", "flags a b -SEND_WRITE_ZEROES", "disconnect",
                "disconnect 0", "disconnect 9", "disconnect x"):
        assert control(bad).startswith("error ")
    assert "SEND_WRITE_ZEROES" in control("flags a b") and control("help").startswith("ok status; ")
    assert control("mark transaction \N{SNOWMAN} 42") == "ok"
    assert control("disconnect 1") == "ok 1" and a.ended() and b.in_step()
    assert control("disconnect all") == "ok 1" and b.ended() and Client(s).in_step()
    two = Control(tmp_path / "c")
    two.s.sendall(b"x" * 10000)
    assert control("status").startswith("ok")
    events = [json.loads(line) for line in open(tmp_path / "l")]
    assert {"event": "mark", "text": "transaction \N{SNOWMAN} 42"} == {k: v for e in events for k, v in e.items()
                                                                     if e["event"] == "mark" and k != "ms"}
    assert s.stop() == 0 and not os.path.exists(tmp_path / "c")


def test_log(serve, tmp_path):
    s = serve("--size", "1M", "--log", str(tmp_path / "l"), "--knob", "read_holes")
    c = Client(s).structured_reply()
    c.option(SET_META, meta(b"", b"base:allocation"))
    c.go(infos=[3])
    c.send_request(CMD_BLOCK_STATUS, 0, 4096, cookie=5)
    c.send_request(CMD_READ, 0, 512, cookie=6)
    c.send_request(CMD_READ, 1 << 63, 512, cookie=1 << 63)
    for _ in range(3):
        c.recv_chunk()
    c.send_request(CMD_DISC, cookie=7)
    assert c.ended() and s.stop() == 0
    events = [json.loads(line) for line in open(tmp_path / "l")]
    assert [e["event"] for e in events][0] == "connect" and all(e["connection"] == 1 and e["ms"] >= 0 for e in events)
    got = [{k: v for k, v in e.items() if k not in ("ms", "connection", "event", "bytes")} for e in events]
    for want in (
            {"from": "server", "message": "greeting", "flags": "FIXED_NEWSTYLE|NO_ZEROES"},
            {"from": "client", "message": "option", "option": "NBD_OPT_SET_META_CONTEXT", "length": 27, "name": "",
             "queries": ["base:allocation"]},
            {"from": "server", "message": "option-reply", "option": "NBD_OPT_SET_META_CONTEXT", "type": "NBD_REP_META_CONTEXT",
             "length": 19, "id": 1, "context": "base:allocation"},
            {"from": "client", "message": "request", "cookie": "0x5", "command": "NBD_CMD_BLOCK_STATUS", "flags": "none",
             "offset": 0, "length": 4096},
            {"from": "server", "message": "chunk", "cookie": "0x5", "type": "NBD_REPLY_TYPE_BLOCK_STATUS", "flags": "DONE",
             "length": 12, "context": 1, "extents": [[4096, 3]]},
            {"from": "server", "message": "chunk", "cookie": "0x6", "type": "NBD_REPLY_TYPE_OFFSET_HOLE", "flags": "DONE",
             "length": 12, "offset": 0, "size": 512},
            {"from": "client", "message": "request", "cookie": "0x8000000000000000", "command": "NBD_CMD_READ", "flags": "none",
             "offset": "0x8000000000000000", "length": 512},
            {"from": "server", "message": "chunk", "cookie": "0x8000000000000000", "type": "NBD_REPLY_TYPE_ERROR",
             "flags": "DONE", "length": 6, "error": "NBD_EINVAL"}):
        assert want in got


@pytest.mark.parametrize("how", ["shutdown", "SIGTERM"])
def test_graceful_shutdown(serve, tmp_path, how):
    s = serve("--size", "64M", "--control", str(tmp_path / "c"), "--grace", "60000")
    control = Control(tmp_path / "c")
    a, b, late, idle = Client(s), Client(s), Client(s), Client(s)
    a.go()
    for cookie in range(4):
        a.send_request(CMD_READ, 0, 32 * MIB, cookie=cookie)
    late.go()
    if how == "SIGTERM":
        s.process.terminate()
        while "shutting-down" not in control("status"):
            pass
    else:
        assert control("shutdown") == "ok"
    with pytest.raises(OSError):
        Client(s)
    errors = []
    for _ in range(4):
        error, cookie, _ = a.recv_simple()
        errors.append(error)
        assert error == ESHUTDOWN or a.recv(32 * MIB)
    assert set(errors) <= {0, ESHUTDOWN}
    assert a.command(CMD_FLUSH) == ESHUTDOWN and late.command(CMD_WRITE, 0, 3, b"abc") == ESHUTDOWN
    assert b.option(OPT_LIST) == [ERR_SHUTDOWN] and b.option(77) == [ERR_SHUTDOWN] and b.option(OPT_ABORT) == [REP_ACK]
    assert b.ended()
    idle.send_option(OPT_EXPORT_NAME)
    assert idle.ended()
    a.send_request(CMD_DISC)
    late.s.close()
    assert s.process.wait(PATIENCE) == 0


def test_shutdown_does_not_wait_for_ever(serve):
    s = serve("--grace", "50")
    c = Client(s)
    s.process.terminate()
    assert s.process.wait(PATIENCE) == 0 and c.ended()


# ---- a hostile client ----

def test_memory_limit(serve):
    s = serve("--size", "1T", "--memory-limit", "16M")
    c = Client(s)
    c.go()
    assert c.command(CMD_WRITE_ZEROES, 1 << 38, 1 << 20, flags=NO_HOLE) == 0
    errors = [c.command(CMD_WRITE, i * MIB, MIB, bytes(MIB)) for i in range(32)]
    assert errors[:14] == [0] * 14 and errors[16:] == [ENOSPC] * 16
    assert c.command(CMD_WRITE, 1 << 38, 512, bytes(512)) == 12  # it is no hole
    assert c.command(CMD_TRIM, 0, 8 * MIB) == 0 and c.command(CMD_WRITE, 30 * MIB, MIB, bytes(MIB)) == 0


def test_endless_option_data_is_not_kept(serve):
    s = serve()
    c = Client(s)
    before = s.rss()
    for option, error in ((0x7fffffff, ERR_UNSUP), (OPT_LIST, ERR_INVALID), (OPT_GO, ERR_TOO_BIG), (OPT_INFO, ERR_TOO_BIG)):
        c.send_option(option, length=64 * MIB)
        for _ in range(64):
            c.send(bytes(MIB))
        assert c.recv_reply()[:2] == (option, error)
    assert s.rss() < before + 8 * MIB and c.in_step()


def test_endless_payload(serve):
    s = serve()
    c = Client(s)
    c.go()
    before = s.rss()
    c.send_request(CMD_WRITE, 0, 128 * MIB)
    for _ in range(128):
        c.send(bytes(MIB))
    assert c.recv_simple()[0] in (EINVAL, ENOSPC) and c.alive() and s.rss() < before + 8 * MIB
    c.send_request(CMD_WRITE, 0, 0xffffffff)
    assert c.ended()


def test_reader_that_does_not_read(serve):
    s = serve()
    before = s.rss()
    c = Client(s, timeout=1)
    c.go()
    requests = struct.pack(">IHHQQI", 0x25609513, 0, CMD_READ, 7, 0, 32 * MIB) * 10000
    with pytest.raises(socket.timeout):  # it takes no more once too much is unsent
        for _ in range(1000):
            c.send(requests)
    assert s.rss() < before + 256 * MIB
    other = Client(s)
    other.go()
    assert other.alive()
    assert c.recv_simple(32 * MIB)[0] == 0


def test_huge_export_costs_nothing(serve):
    size = (1 << 63) - 1
    s = serve("--size", str(size))
    c = Client(s)
    assert c.go()[0] == info_export(size, DEFAULT_FLAGS)
    before = s.rss()
    for offset in (0, 1 << 32, (1 << 32) - 2, (1 << 62) + 5, size - 4):
        assert c.command(CMD_WRITE, offset, 4, b"abcd") == 0
        assert c.command(CMD_WRITE_ZEROES, offset, 2, flags=NO_HOLE) == 0
        c.send_request(CMD_READ, offset - 2 if offset else 0, 6 if offset else 4)
        assert c.recv_simple(6 if offset else 4)[2] == (b"\0\0" if offset else b"") + b"\0\0cd"
    for step in range(64):
        assert c.command(CMD_WRITE_ZEROES, step << 32, 0xffffffff, flags=NO_HOLE) == 0
        assert c.command(CMD_TRIM, step << 32, 0xffffffff) == 0
    assert c.command(CMD_WRITE, size - 3, 4, b"abcd") == ENOSPC and s.rss() < before + 8 * MIB


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_without_descriptors_it_neither_spins_nor_stops(serve):
    s = serve(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16)))
    waiting = []
    for _ in range(40):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(s.path)
        sock.settimeout(0.5)
        waiting.append(sock)
    before = cpu_seconds(s.process.pid)
    with pytest.raises(socket.timeout):
        waiting[-1].recv(18)
    assert cpu_seconds(s.process.pid) - before < 0.2
    for sock in waiting[:-1]:
        sock.close()
    waiting[-1].settimeout(PATIENCE)
    assert waiting[-1].recv(18) == b"NBDMAGICIHAVEOPT\0\3"


def test_junk(serve):
    s = serve()
    rng = random.Random(3)
    for i in range(300):
        c = Client(s)
        if i % 2:
            c.go()
        data = bytearray(rng.randbytes(rng.randrange(1, 400)))
        if i % 4 > 1:  # past the magic
            data[:8] = struct.pack(">Q", OPT_MAGIC) if i % 2 == 0 else struct.pack(">IHH", 0x25609513, 0, rng.randrange(9))
        c.send(data)
        c.s.close()
    c = Client(s)
    c.go()
    assert c.command(CMD_FLUSH) == 0


# ---- lies ----

def test_a_lie(serve):
    s = serve("--lie", "cookie_changed:nth=2,times=1,command=FLUSH,connection=2")
    for connection, cookies in ((1, [7, 7, 7]), (2, [7, 8, 7])):
        c = Client(s)
        c.go()
        got = []
        for _ in range(3):
            c.alive()
            c.send_request(CMD_FLUSH)
            got.append(c.recv_simple()[1])
        assert got == cookies


def test_padding_lie(serve):
    c = Client(serve("--lie", "export_name_keeps_padding"))
    c.send_option(OPT_EXPORT_NAME)
    assert c.recv(134)[10:] == bytes(124) and c.alive()


def test_power_cut(serve, tmp_path):
    """What is flushed or FUA stays, what is not may go; commands fail as they are told."""
    s = serve("--cache", "--control", tmp_path / "control", "--size", "1M")

    def control(request):
        with socket.socket(socket.AF_UNIX) as c:
            c.connect(str(tmp_path / "control"))
            c.sendall(request.encode() + b"\n")
            return c.makefile().readline().rstrip("\n")

    def connected():
        nbd = pytest.importorskip("nbd")
        h = nbd.NBD()
        h.connect_uri(s.uri)
        return nbd, h

    nbd, h = connected()
    h.pwrite(b"a" * 4096, 0)
    h.flush()
    h.pwrite(b"b" * 4096, 2048)
    h.pwrite(b"c" * 512, 8192, nbd.CMD_FLAG_FUA)
    assert "generation=0" in control("status") and " pending=1" in control("status")
    assert control("power cut") == "ok generation=1"
    with pytest.raises(nbd.Error):
        h.pread(512, 0)
    nbd, h = connected()
    assert h.pread(8704, 0) == b"a" * 4096 + b"\0" * 4096 + b"c" * 512
    h.pwrite(b"d" * 4096, 0)
    assert control("power cut keep") == "ok generation=2"
    nbd, h = connected()
    assert h.pread(4096, 0) == b"d" * 4096
    assert control("fail FLUSH 1 ENOSPC forget") == control("fail WRITE 1") == "ok"
    for wrong in ("power", "power cut x", "power cut drop 1", "power cut random x", "fail", "fail FLUSH", "fail FLUSH x", "fail NO 1",
                  "fail FLUSH 1 ENO", "fail WRITE 1 EIO forget", "fail DISC 1"):
        assert control(wrong).startswith("error want "), wrong
    with pytest.raises(nbd.Error, match="EIO"):
        h.pwrite(b"e" * 512, 0)
    h.pwrite(b"e" * 512, 0)
    with pytest.raises(nbd.Error, match="ENOSPC"):
        h.flush()
    h.flush()
    assert control("power cut drop") == "ok generation=3"
    nbd, h = connected()
    assert h.pread(512, 0) == b"d" * 512


@pytest.mark.parametrize("args, words", [(["--cut", "x"], "want drop, keep or random"), (["--tear-unit", "3"], "want a power of two"),
                                         (["--cut-at", "0"], "--cut-at '0'"), (["--cache-limit", "x"], "--cache-limit x")])
def test_power_cut_usage(args, words):
    p = subprocess.run([NBDSPEC, "serve", *args], capture_output=True, text=True, timeout=PATIENCE)
    assert p.returncode == 2 and words in p.stderr and p.stderr.count("\n") == 1


def test_power_cut_at(serve):
    nbd = pytest.importorskip("nbd")
    s = serve("--cut-at", "3", "--size", "1M")
    h = nbd.NBD()
    h.connect_uri(s.uri)
    h.pwrite(b"a" * 512, 0)
    h.flush()
    with pytest.raises(nbd.Error):
        h.pwrite(b"b" * 512, 0)
    h = nbd.NBD()
    h.connect_uri(s.uri)
    assert h.pread(512, 0) == b"a" * 512
