"""nbdspec serve and other people's clients, operation by operation: what they print and copy is what is on the disk."""

import hashlib
import json
import re
import subprocess
import sys

import pytest

from test_serve import MIB, PATIENCE, Control, image, libnbd, need, run, serve  # noqa: F401

FRAGMENTS = ["--knob=read_fragments", "--knob=read_holes", "--knob=chunks_interleaved", "--knob=read_ends_with_none"]
SETUPS = [[], ["--oldstyle"], ["--knob=no_structured_replies"], FRAGMENTS, ["--knob=requests_out_of_order"],
          ["--knob=infos_reversed", "--knob=unasked_infos", "--knob=error_messages", "--knob=status_ends_with_none"]]
NAMES = ["plain", "oldstyle", "simple", "fragments", "order", "chatty"]


def setups(*but):
    chosen = [(s, n) for s, n in zip(SETUPS, NAMES) if n not in but]
    return pytest.mark.parametrize("setup", [s for s, _ in chosen], ids=[n for _, n in chosen])


def fails(*argv):
    """What a program that must fail says."""
    p = subprocess.run([str(a) for a in argv], text=True, timeout=PATIENCE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert p.returncode == 1
    return p.stdout


def contents(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


# ---- libnbd: nbdinfo, nbdcopy, nbdsh ----

def test_nbdinfo_questions(serve):
    info = need("nbdinfo")
    s = serve("--export", "name=a,size=3M,read-only", "--export", "name=b,size=1M,min=512,pref=8192,max=1M,flags=SEND_FLUSH")
    b = s.uri.replace("/a?", "/b?")
    assert run(info, "--size", s.uri).split() == [str(3 * MIB)] and run(info, "--size", b).split() == [str(MIB)]
    subprocess.run([info, "--is", "read-only", s.uri], check=True, timeout=PATIENCE)
    subprocess.run([info, "--can", "flush", b], check=True, timeout=PATIENCE)
    for uri, question in ((b, ("--is", "read-only")), (b, ("--can", "trim")), (b, ("--can", "fua")), (s.uri, ("--can", "zero")),
                          (s.uri, ("--can", "write"))):
        assert subprocess.run([info, *question, uri], timeout=PATIENCE).returncode == 2
    export = json.loads(run(info, "--no-content", "--json", b))["exports"][0]
    assert [export["block_size_" + n] for n in ("minimum", "preferred", "maximum")] == [512, 8192, MIB]
    assert "export-name" in export and sorted(export["contexts"]) == ["base:allocation", "x-nbdspec:blocks", "x-nbdspec:dirty"]
    assert "no_such" in fails(info, s.uri.replace("/a?", "/no_such?"))


def test_nbdinfo_list_denied(serve):
    assert "server replied with error to list request" in fails(need("nbdinfo"), "--list", serve("--knob", "list_denied").uri)


@setups()
def test_nbdcopy_four_connections(serve, image, tmp_path, setup):  # noqa: F811
    copy = need("nbdcopy")
    s = serve("--size", "16M", "--control", tmp_path / "c", *setup)
    control = Control(tmp_path / "c")

    def accepted():
        return int(re.search(r"accepted=(\d+)", control("counters")).group(1))

    # Not more connections than threads, of which there are as many as processors.
    run(copy, "--connections", "4", "--threads", "4", "--requests", "16", image, s.uri)
    assert accepted() == 4
    run(copy, "--connections", "4", "--threads", "4", "--requests", "64", "--request-size", "65536", s.uri, tmp_path / "back")
    assert accepted() == 8
    assert contents(image) == contents(tmp_path / "back")


def test_nbdcopy_between_servers_keeps_holes(serve, libnbd):  # noqa: F811
    copy = need("nbdcopy")
    one, two = serve("--size", "1G"), serve("--size", "1G")
    h = libnbd.NBD()
    h.connect_uri(one.uri)
    h.pwrite(b"x" * MIB, 512 * MIB)
    h.shutdown()
    run(copy, "--connections", "4", "--destination-is-zero", one.uri, two.uri)
    m = json.loads(run("nbdinfo", "--map", "--json", two.uri))
    assert [(e["offset"], e["length"], e["type"]) for e in m] == [(0, 512 * MIB, 3), (512 * MIB, MIB, 0), (513 * MIB, 511 * MIB, 3)]


def nbdsh():
    """The shell, in the Python that has libnbd's module: ours."""
    pytest.importorskip("nbd", reason="python3-libnbd is not installed")
    return sys.executable, "-m", "nbd"


NBDSH = r"""
import json, os
out = {"size": h.get_size(), "read_only": h.is_read_only(), "protocol": h.get_protocol(),
       "can": sorted(f for f in ("cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero") if getattr(h, "can_" + f)())}
h.pwrite(b"a" * 4096, 0)
h.pwrite(b"b" * 4096, 4096, nbd.CMD_FLAG_FUA)
h.pwrite(b"c" * 4096, 8192)
h.flush()
h.zero(4096, 4096)
h.zero(4096, 12288, nbd.CMD_FLAG_NO_HOLE)
h.zero(4096, 16384, nbd.CMD_FLAG_FAST_ZERO)
h.trim(4096, 8192)
h.cache(4096, 0)
out["pread"] = [h.pread(4096, 4096 * i)[:1].decode() for i in range(5)]
buf = nbd.Buffer(4096)
cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"d" * 4096)), 65536), h.aio_flush()]
while not all(h.aio_command_completed(c) for c in list(cookies)[:1]):
    h.poll(-1)
c = h.aio_pread(buf, 65536)
while not h.aio_command_completed(c):
    h.poll(-1)
out["aio"] = buf.to_bytearray()[:1].decode()
for name in ("zero", "trim", "cache"):
    c = getattr(h, "aio_" + name)(4096, 65536)
    while not h.aio_command_completed(c):
        h.poll(-1)
out["zeroed"] = h.pread(1, 65536) == b"\0"
if h.get_structured_replies_negotiated():
    chunks = []
    got = h.pread_structured(8192, 0, lambda data, offset, status, e: chunks.append([offset, len(data), status]), 0)
    out["structured"] = [got[:1].decode(), sum(c[1] for c in chunks)]
    out["df"] = h.pread_structured(4096, 0, lambda *a: 0, nbd.CMD_FLAG_DF)[:1].decode()
    extents = {}
    h.block_status(131072, 0, lambda name, offset, e, err: extents.update({name: e}) or 0)
    out["extents"] = extents["base:allocation"]
errors = []
h.set_strict_mode(0)
for what in (lambda: h.pread(1, 1 << 40), lambda: h.pwrite(b"x", 1 << 40), lambda: h.zero(1, 1 << 40), lambda: h.trim(1, 1 << 40)):
    try:
        what()
    except nbd.Error as e:
        errors.append(e.errno)
out["errors"] = errors
h.shutdown()
print(json.dumps(out))
"""


@setups()
def test_nbdsh_every_operation(serve, setup):
    s = serve("--export", "name=,size=1M", *setup)
    out = json.loads(run(*nbdsh(), "--base-allocation", "-u", s.uri, "-c", NBDSH))
    structured = "--oldstyle" not in setup and "--knob=no_structured_replies" not in setup
    assert out["size"] == MIB and out["read_only"] is False
    assert out["protocol"] == ("oldstyle" if "--oldstyle" in setup else "newstyle-fixed")
    assert out["can"] == ["cache"] + ["df"] * structured + ["fast_zero", "flush", "fua", "multi_conn", "trim", "zero"]
    assert out["pread"] == ["a", "\0", "\0", "\0", "\0"] and out["aio"] == "d" and out["zeroed"]
    assert out["errors"] == ["EINVAL", "ENOSPC", "ENOSPC", "EINVAL"]
    assert ("structured" in out) == structured
    if structured:
        assert out["structured"] == ["a", 8192] and out["df"] == "a"
        assert out["extents"] == [4096, 0, 8192, 3, 4096, 2, 114688, 3]


NBDSH_OPTIONS = r"""
import json
out = {}
h.set_opt_mode(True)
h.set_full_info(True)
h.connect_uri(uri)
exports = []
out["listed"] = h.opt_list(lambda name, description: exports.append([name, description]))
out["exports"] = exports
contexts = []
out["contexts"] = [h.opt_list_meta_context(lambda name: contexts.append(name)), sorted(contexts)]
h.add_meta_context("base:allocation")
h.set_export_name("nope")
try:
    h.opt_info()
except nbd.Error as e:
    out["unknown"] = e.errno
h.set_export_name("b")
h.opt_info()
out["b"] = [h.get_size(), h.is_read_only(), h.get_canonical_export_name()]
h.set_export_name("a")
h.opt_info()
out["a"] = [h.get_size(), h.is_read_only(), h.get_export_description()]
h.opt_go()
out["allocation"] = h.can_meta_context("base:allocation")
out["block"] = [h.get_block_size(i) for i in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)]
h.shutdown()
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(uri)
h.opt_abort()
out["aborted"] = h.aio_is_closed()
print(json.dumps(out))
"""


def test_nbdsh_options(serve):
    s = serve("--export", "name=a,size=1M,description=first", "--export", "name=b,size=2M,read-only", "--knob=list_descriptions")
    out = json.loads(run(*nbdsh(), "-c", f"uri = {s.uri!r}", "-c", NBDSH_OPTIONS))
    assert out == {"listed": 2, "exports": [["a", "first"], ["b", ""]], "unknown": "ENOENT", "aborted": True,
                   "contexts": [3, ["base:allocation", "x-nbdspec:blocks", "x-nbdspec:dirty"]], "allocation": True,
                   "b": [2 * MIB, True, "b"], "a": [MIB, False, "first"], "block": [1, 4096, 32 * MIB]}


# ---- qemu ----

@setups()
def test_qemu_img_convert_both_ways(serve, image, tmp_path, setup):  # noqa: F811
    img = need("qemu-img")
    s = serve("--size", "16M", *setup)
    run(img, "convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", image, s.uri)
    run(img, "convert", "-W", "-m", "8", "-f", "raw", "-O", "raw", s.uri, tmp_path / "back")
    assert contents(image) == contents(tmp_path / "back")
    assert run(img, "compare", "-f", "raw", "-F", "raw", image, s.uri) == "Images are identical.\n"


def test_qemu_img_compare_finds_the_difference(serve, image):  # noqa: F811
    img, io = need("qemu-img"), need("qemu-io")
    s = serve("--size", "16M")
    run(img, "convert", "-n", "-f", "raw", "-O", "raw", image, s.uri)
    run(io, "-f", "raw", "-c", "write -P 0xee 5M 512", s.uri)
    assert fails(img, "compare", "-f", "raw", "-F", "raw", image, s.uri) == f"Content mismatch at offset {5 * MIB}!\n"


def test_qemu_img_map(serve, image):  # noqa: F811
    img, io = need("qemu-img"), need("qemu-io")
    s = serve("--size", "6G")
    run(io, "-f", "raw", "-c", "write -P 1 5G 64k", "-c", "write -z 1G 64k", "-c", "write -z -u 2G 64k", s.uri)
    m = json.loads(run(img, "map", "-f", "raw", "--output=json", s.uri))
    gib = 1 << 30
    assert [(e["start"], e["length"], e["data"], e["zero"]) for e in m] == [
        (0, gib, False, True), (gib, 65536, True, True), (gib + 65536, 4 * gib - 65536, False, True),
        (5 * gib, 65536, True, False), (5 * gib + 65536, gib - 65536, False, True)]


@setups()
def test_qemu_img_bench(serve, libnbd, setup):  # noqa: F811
    img = need("qemu-img")
    s = serve("--size", "4M", *setup)
    out = run(img, "bench", "-f", "raw", "-c", "500", "-d", "32", "-s", "4096", "-S", "8192", "-w", "--pattern", "65",
              "--flush-interval", "100", "--no-drain", s.uri)
    assert "500 write requests, 4096 bytes each, 32 in parallel" in out and "Run completed in" in out
    h = libnbd.NBD()
    h.connect_uri(s.uri)
    assert h.pread(4 * MIB, 0) == (b"A" * 4096 + bytes(4096)) * 500 + bytes(4 * MIB - 500 * 8192)
    h.shutdown()
    assert "Run completed in" in run(img, "bench", "-f", "raw", "-c", "500", "-d", "32", "-s", "5120", s.uri)


@setups()
def test_qemu_io_is_what_libnbd_reads(serve, libnbd, setup):  # noqa: F811
    io = need("qemu-io")
    s = serve("--size", "4M", *setup)
    out = run(io, "-f", "raw", "-c", "write -P 0x5a 0 1M", "-c", "write -f -P 0x5b 64k 64k", "-c", "aio_write -P 7 2M 64k",
              "-c", "aio_write -z 128k 64k", "-c", "aio_flush", "-c", "discard 512k 64k", "-c", "write -z -u 768k 64k",
              "-c", "length", "-c", "read -P 7 2M 64k", "-c", "writev -P 9 3M 4k 4k", "-c", "readv -P 9 3M 4k 4k", "-c", "flush", s.uri)
    assert out.count("wrote") == 6 and "Pattern" not in out and "discard 65536/65536" in out and "\n4 MiB\n" in out
    k = 1024
    h = libnbd.NBD()
    h.connect_uri(s.uri)
    disk = bytearray(4 * MIB)
    disk[:MIB] = b"\x5a" * MIB
    for at, length, byte in ((64, 64, 0x5b), (128, 64, 0), (512, 64, 0), (768, 64, 0), (2048, 64, 7), (3072, 8, 9)):
        disk[at * k:(at + length) * k] = bytes([byte]) * (length * k)
    assert h.pread(4 * MIB, 0) == disk
    h.shutdown()
    assert "Pattern verification failed" in fails(io, "-f", "raw", "-c", "read -P 1 0 4k", s.uri)


def test_qemu_io_read_only(serve):
    s = serve("--export", "name=,size=1M,read-only")
    assert "Permission denied" in fails(need("qemu-io"), "-f", "raw", "-c", "write 0 4k", s.uri)
    assert "read 4096/4096" in run(need("qemu-io"), "-r", "-f", "raw", "-c", "read -P 0 0 4k", s.uri)


# ---- nbd-client ----

@pytest.mark.parametrize("knobs", [[], ["--knob=list_descriptions"]])
def test_nbd_client_lists(serve, knobs):
    client = need("nbd-client")
    s = serve("--export", "name=one,description=the first", "--export", "name=two", *knobs, where=["--tcp", "127.0.0.1:0"])
    port = re.search(r":(\d+)/", s.uri).group(1)
    out = run(client, "-l", "127.0.0.1", port).splitlines()
    assert [line for line in out if line in ("one", "two") or "first" in line][0].startswith("one")
    assert out.count("two") == 1


def test_nbd_client_cannot_list(serve):
    client = need("nbd-client")
    for knob in ("list_denied", "no_fixed_newstyle"):
        s = serve("--knob", knob, where=["--tcp", "127.0.0.1:0"])
        p = subprocess.run([client, "-l", "127.0.0.1", re.search(r":(\d+)/", s.uri).group(1)], timeout=PATIENCE,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert p.returncode != 0 and p.stdout
