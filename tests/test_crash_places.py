"""Which file, or which part of a filesystem or image format, a finding has lost: against what its own tools say."""

import json
import os
import random
import re
import shutil
import signal
import subprocess

import pytest

from conftest import PATIENCE, until
from test_crash_explore import FLUSH, FUA, WRITE, Recording, explore  # noqa: F401 (a fixture)

MINE = b"nobody else writes this " * 200


def tool(*args, **kwargs):
    return subprocess.run(args, capture_output=True, text=True, check=True, **kwargs).stdout


def over(image):
    """A recording that begins with a disk that holds the image."""
    r = Recording(size=len(image))
    for at in range(0, len(image), 65536):
        if (part := image[at:at + 65536]) != bytes(len(part)):
            r.do(WRITE, at, part)
    r.do(FLUSH)
    r.mark("nbdspec: begin")
    return r


def lost(nbdspec, explore, image, offset, data, *args):  # noqa: F811
    """What is told of a write that is lost, over a disk that held the image."""
    r = over(image)
    r.do(WRITE, offset, data)
    with open(nbdspec.cwd / "wanted", "wb") as f:
        f.write(data)
    _, report = explore(r, f"cmp -n {len(data)} -i {offset}:0 {{file}} {nbdspec.cwd}/wanted", "--tear", "write", *args, status=1)
    assert len(report["findings"]) == 1 and len(report["findings"][0]["lost"]) == 1
    told = [line.strip() for line in report["findings"][0]["told"] if "which is: " in line]
    assert told == [f"which is: {w}" for w in report["findings"][0]["which"] if w is not None]
    return report["findings"][0]["which"][0]


@pytest.fixture
def tree(nbdspec):
    """Files that a filesystem is to have."""
    (nbdspec.cwd / "tree/dir").mkdir(parents=True)
    (nbdspec.cwd / "tree/dir/file\x1b").write_bytes(MINE)
    return nbdspec.cwd / "tree"


@pytest.fixture
def ext4(nbdspec, tree):
    path = nbdspec.cwd / "ext4"
    tool("mkfs.ext4", "-q", "-b", "1024", "-O", "^metadata_csum", "-d", tree, path, "16M")
    return path


def test_file_on_ext4(nbdspec, explore, ext4):  # noqa: F811
    image = ext4.read_bytes()
    at = image.index(MINE[:1024])
    which = lost(nbdspec, explore, image, at, b"new" * 100)
    inode = re.search(r"(?m)^\d+\t(\d+)$", tool("debugfs", "-R", f"icheck {at // 1024}", ext4)).group(1)
    assert which == f"/dir/file\\x1b (inode {inode})"


@pytest.mark.parametrize("what, pattern, offset, wanted", [
    ("journal", None, 0, "the journal"),
    ("block bitmap", r"Block bitmap at (\d+)", 0, "block bitmap of group 0"),
    ("inode bitmap", r"Inode bitmap at (\d+)", 0, "inode bitmap of group 0"),
    ("inodes", r"Inode table at (\d+)", 256 * 2, "inode table of group 0: inodes 3 to 4"),
    ("superblock", r"Primary superblock at (\d+)", 512, "superblock of group 0"),
    ("free", r"Free blocks: \d+-(\d+)", 0, None),
])
def test_structures_of_ext4(nbdspec, explore, ext4, what, pattern, offset, wanted):  # noqa: F811
    image = ext4.read_bytes()
    if what == "journal":
        block = int(tool("debugfs", "-R", "blocks <8>", ext4).split()[-1])
    else:
        block = int(re.search(pattern, tool("dumpe2fs", ext4)).group(1))
    # What it says stays what it was, but for bytes that mean nothing: those of free inodes, of bitmaps past the end.
    at, data = block * 1024 + offset, bytearray(image[block * 1024 + offset:block * 1024 + offset + 512])
    data[-1] ^= 1 if what not in ("superblock", "inodes") else 0
    if what == "superblock":
        at, data = at - 512 + 120, bytearray(b"label")
    if what == "inodes":
        data[100] ^= 1
    assert lost(nbdspec, explore, image, at, bytes(data)) == wanted


def test_known_at_the_end(nbdspec, explore, ext4):  # noqa: F811
    """The block is nobody's when it is lost; by the end the file has it."""
    image = ext4.read_bytes()
    before = bytearray(image)
    inode = int(re.search(r"(?m)^(\d+)\t/+dir/file", tool("debugfs", "-R", "ncheck " + " ".join(map(str, range(12, 20))), ext4)).group(1))
    table = int(re.search(r"Inode table at (\d+)", tool("dumpe2fs", ext4)).group(1))
    at, place = image.index(MINE[:1024]), table * 1024 + (inode - 1) * 256
    before[place:place + 256] = bytes(256)
    r = over(bytes(before))
    r.do(WRITE, at, b"new" * 100)
    r.do(WRITE, 16777216 - 512, b"x" * 512, flags=FUA)
    r.do(FLUSH)
    r.do(WRITE, place, image[place:place + 256], flags=FUA)
    check = f"sh -c 'head -c {at + 3} {{file}} | tail -c 3 | grep -q new || tail -c 1 {{file}} | grep -qv x'"
    _, report = explore(r, check, "--tear", "write", status=1)
    assert [f["which"] for f in report["findings"]] == [[f"at the end of the recording: /dir/file\\x1b (inode {inode})"]]


@pytest.fixture
def wrapped(nbdspec):
    """Puts a script before a tool; `real` is the tool."""

    def make(name, text):
        path = nbdspec.cwd / "bin" / name
        path.parent.mkdir(exist_ok=True)
        real = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        path.write_text(f"#!/bin/sh\nreal={real}\n{text}\n")
        path.chmod(0o755)
        nbdspec.env["PATH"] = f"{path.parent}:{os.environ['PATH']}"

    return make


def two_lost(nbdspec, image, at):
    """Two writes that were both lost, over a disk that held the image: the arguments that find it."""
    r = over(image)
    for place in at:
        r.do(WRITE, place, b"new")
    r.save(nbdspec.cwd / "trace")
    check = " || ".join(f"head -c {place + 3} {{file}} | tail -c 3 | grep -q new" for place in at)
    return "crash", "explore", "trace", "--tear", "write", "--json", "report", "--check", f"sh -c '{check}'"


def test_asked_once(nbdspec, ext4, wrapped):
    """All that is lost at one moment, at once; each is told of its own."""
    wrapped("debugfs", f'echo "$2" >>{nbdspec.cwd}/asked; exec $real "$@"')
    image = ext4.read_bytes()
    bitmap = int(re.search(r"Block bitmap at (\d+)", tool("dumpe2fs", ext4)).group(1)) * 1024 + 1000
    nbdspec(*two_lost(nbdspec, image, [image.index(MINE[:1024]), bitmap]), status=1)
    finding, = json.loads((nbdspec.cwd / "report").read_text())["findings"]
    assert len(finding["lost"]) == 2 and re.match(r"/dir/file.* \(inode \d+\)$", finding["which"][0]) and finding["which"][1] == "block bitmap of group 0"
    assert [line.split()[0] for line in (nbdspec.cwd / "asked").read_text().splitlines()] == ["icheck", "ncheck"]


def test_interrupted_while_it_asks(nbdspec, ext4, wrapped):
    """The tool is ended, and no other is asked; what was found is told."""
    wrapped("debugfs", f"echo >>{nbdspec.cwd}/asked; sleep 1000")
    image = ext4.read_bytes()
    at = image.index(MINE[:1024])
    p = nbdspec.start(*two_lost(nbdspec, image, [at, at + 2048]), "-v")
    until((nbdspec.cwd / "asked").exists)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 130 and "finding 1, " in out and "interrupted" in out and err == ""
    assert (nbdspec.cwd / "asked").read_text() == "\n"
    until(lambda: not nbdspec.leftovers())


def test_cut_line(nbdspec, explore, ext4, wrapped):  # noqa: F811
    """Of an answer without end the last line, half of which would name another file, is left out."""
    image = ext4.read_bytes()
    at = image.index(MINE[:1024])
    inode = re.search(r"(?m)^\d+\t(\d+)$", tool("debugfs", "-R", f"icheck {at // 1024}", ext4)).group(1)
    seen = f"{at // 1024}\t{inode}"
    wrapped("debugfs", f"""case $2 in icheck*) ;; *) exec $real "$@" ;; esac
        head -c {(1 << 20) - len(seen)} /dev/zero | tr '\\0' '\\n'; printf '%s7\\n' '{seen}'""")
    assert lost(nbdspec, explore, image, at, b"new" * 100) is None


def test_on_xfs(nbdspec, explore, tree):  # noqa: F811
    if shutil.which("mkfs.xfs") is None or os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("it takes mkfs.xfs (Debian: xfsprogs), root, and loop devices")
    path, proto = nbdspec.cwd / "xfs", nbdspec.cwd / "proto"
    (nbdspec.cwd / "mine").write_bytes(MINE)
    proto.write_text(f"/\n0 0\nd--755 0 0\ndir d--755 0 0\nname ---644 0 0 {nbdspec.cwd}/mine\n$\n$\n")
    with open(path, "wb") as f:
        f.truncate(300 << 20)
    tool("mkfs.xfs", "-q", "-p", proto, path)
    image = path.read_bytes()
    assert re.fullmatch(r"/dir/name \(inode \d+\)", lost(nbdspec, explore, image, image.index(MINE[:1024]), b"new" * 100))
    start = int(re.search(r"logstart = (\d+)", tool("xfs_db", "-r", "-c", "sb 0", "-c", "p logstart agblklog agblocks", path)).group(1))
    shift, blocks = map(int, re.search(r"agblklog = (\d+)\nagblocks = (\d+)", tool("xfs_db", "-r", "-c", "sb 0", "-c", "p agblklog agblocks", path)).groups())
    place = ((start >> shift) * blocks + start % (1 << shift)) * 4096 + (8 << 20)
    assert lost(nbdspec, explore, image, place, b"new" * 100) == "the log"


@pytest.fixture
def btrfs(nbdspec, tree):
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("mkfs.btrfs is not installed (Debian: btrfs-progs)")
    path = nbdspec.cwd / "btrfs"
    with open(path, "wb") as f:
        f.truncate(110 << 20)
    (tree / "dir/two\nlines").write_bytes(b"a name " * 1000)
    tool("mkfs.btrfs", "-q", "--rootdir", tree, path)
    return path


def copies_of(dump, tree_name):
    """Where on the disk both copies of a tree's first block lie, by the chunk that it is in."""
    logical = int(re.search(rf"(?m)^leaf (\d+) .* owner {tree_name}$", dump).group(1))
    for start, item in re.findall(r"CHUNK_ITEM (\d+)\)(.*?)(?=\titem|\n\w)", dump, re.DOTALL):
        length = int(re.search(r"length (\d+)", item).group(1))
        if int(start) <= logical < int(start) + length:
            return [int(n) + logical - int(start) for n in re.findall(r"stripe \d devid 1 offset (\d+)", item)]
    return []


def test_on_btrfs(nbdspec, explore, btrfs):  # noqa: F811
    """A file, also one that has no name in one line, and each copy of a tree; the superblock; nobody's."""
    image, dump = btrfs.read_bytes(), tool("btrfs", "inspect-internal", "dump-tree", "--noscan", btrfs)
    wanted = {image.index(MINE[:1024]): r"/dir/file\\x1b \(inode \d+\)", image.index(b"a name a name"): r"inode \d+", (100 << 20) + 512: None,
              65536 + 3000: "superblock", (64 << 20) + 3000: r"superblock \(a copy\)"}
    for tree_name in ("FS_TREE", "CHUNK_TREE"):
        copies = copies_of(dump, tree_name)
        assert len(copies) == 2
        # Behind the keys, and before the items, a leaf is empty.
        wanted |= {at + 4096: rf"metadata \({tree_name}\)" for at in copies}
    for at, what in wanted.items():
        which = lost(nbdspec, explore, image, at, b"\1" * 8)
        assert which is None if what is None else re.fullmatch(what, which), (at, which)


def test_data_of_no_file_on_btrfs(nbdspec, explore, btrfs):  # noqa: F811
    """As of the free space cache, in the root tree: it is not told of as a file."""
    at = btrfs.read_bytes().index(MINE[:1024])
    assert "inode " in lost(nbdspec, explore, btrfs.read_bytes(), at, b"\1" * 8)
    (nbdspec.cwd / "bin").mkdir()
    (nbdspec.cwd / "bin/btrfs").write_text(f"#!/bin/sh\n{shutil.which('btrfs')} \"$@\" | sed 's/^fs tree key .*/root tree/'\n")
    (nbdspec.cwd / "bin/btrfs").chmod(0o755)
    nbdspec.env["PATH"] = f"{nbdspec.cwd}/bin:{nbdspec.env['PATH']}"
    assert lost(nbdspec, explore, btrfs.read_bytes(), at, b"\1" * 8) is None


LOGGED = """import os, subprocess, sys
os.chdir(sys.argv[1])
subprocess.run(["btrfs", "-q", "subvolume", "create", "sub"], check=True)
os.mkdir("sub/dir")
os.sync()
for name, byte in (("plain", b"P"), ("sub/dir/deep", b"D")):
    fd = os.open(name, os.O_CREAT | os.O_RDWR)
    os.write(fd, byte * 20000)
    os.fsync(fd)
"""


def test_log_of_btrfs(nbdspec, explore):  # noqa: F811
    """Files that are but in the log, one of them in a subvolume; and the log."""
    if shutil.which("mkfs.btrfs") is None or os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("it takes mkfs.btrfs (Debian: btrfs-progs), root, and loop devices")
    (nbdspec.cwd / "workload").write_text(LOGGED)
    nbdspec("crash", "record", "-q", "-o", "recorded", "--fs", "btrfs", "--", "python3", f"{nbdspec.cwd}/workload", "{mount}", status=0)
    nbdspec("crash", "explore", "recorded", "--check", "true {uri}", "--budget", "1", "--json", "report", status=0)
    end = json.loads((nbdspec.cwd / "report").read_text())["timeline"]["events"]
    nbdspec("crash", "replay", "recorded", end, "-o", "image", status=0)
    image = (nbdspec.cwd / "image").read_bytes()
    dump = tool("btrfs", "inspect-internal", "dump-tree", "--noscan", nbdspec.cwd / "image")
    wanted = {image.index(b"P" * 4096): r"/plain \(inode \d+\)", image.index(b"D" * 4096): r"/sub/dir/deep \(inode \d+\)",
              copies_of(dump, "TREE_LOG")[0] + 4096: "the log"}
    for at, what in wanted.items():
        which = lost(nbdspec, explore, image, at, b"\1" * 8)
        assert which is not None and re.fullmatch(what, which), (at, which)


@pytest.fixture
def qcow2(nbdspec):
    if shutil.which("qemu-io") is None:
        pytest.skip("qemu-io is not installed (Debian: qemu-utils)")
    path = nbdspec.cwd / "qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", path, "1G")
    tool("qemu-io", "-f", "qcow2", "-c", "write -P 77 640M 128k", path)
    return path


def be(image, at, size=8):
    return int.from_bytes(image[at:at + size], "big")


QCOW2_PLACES = {
    "qcow2 header": lambda image: (20, image[20:24]),
    "L1 table": lambda image: (be(image, 40) + 8, image[be(image, 40) + 8:][:8]),
    "refcount table": lambda image: (be(image, 48), image[be(image, 48):][:8]),
    "refcount block 0": lambda image: (be(image, be(image, 48)) + 6, image[be(image, be(image, 48)) + 6:][:2]),
    "L2 table, entries of guest offsets 671088640 to 671154176":
        lambda image: ((at := (be(image, be(image, 40) + 8) & 0xfffffffffffe00) + 8 * 2048), image[at:at + 16]),
    "data at guest offset 671089152": lambda image: (image.index(b"M" * 512) + 512, b"N" * 512),
}


@pytest.mark.parametrize("wanted", QCOW2_PLACES)
def test_in_qcow2(nbdspec, explore, qcow2, wanted):  # noqa: F811
    """What is lost is what makes the image what it is: before, its bytes were others."""
    image = bytearray(qcow2.read_bytes())
    image += bytes(-len(image) % 65536)
    at, data = QCOW2_PLACES[wanted](bytes(image))
    image[at:at + len(data)] = b"\xff" * len(data)
    assert lost(nbdspec, explore, bytes(image), at, bytes(data)) == wanted


def test_place_between_structures(nbdspec, explore, qcow2):  # noqa: F811
    """Nobody's cluster says nothing."""
    image = qcow2.read_bytes()
    image += bytes(-len(image) % 65536) + bytes(65536 * 4)
    assert lost(nbdspec, explore, image, len(image) - 65536, b"x" * 512) is None


@pytest.mark.parametrize("magic, at", [(b"QFI\xfb\0\0\0\3", 0), (b"XFSB", 0), (b"\x53\xef", 1080), (b"", 0),
                                       (b"_BHRfS_M" + bytes(64) + b"\1" + bytes(7), 65600)])
def test_garbage(nbdspec, explore, magic, at):  # noqa: F811
    """It merely begins like a format: nothing is told, and nothing breaks."""
    for seed in range(8):
        image = bytearray(random.Random(seed).randbytes(256 << 10))
        if seed % 2:
            image[24:72] = bytes(48)
            image[20:24] = (16).to_bytes(4, "big")
            image[36:40], image[40:48], image[72:80] = b"\0\0\xff\xff", (1 << 40).to_bytes(8, "big"), bytes(8)
        image[at:at + len(magic)] = magic
        assert lost(nbdspec, explore, bytes(image), 200 << 10, b"x" * 512) in (None, "L1 table")


def test_reason(nbdspec):
    """With -v alone: why it is not known."""
    image = bytearray(random.Random(1).randbytes(64 << 10))
    image[:8] = b"XFSB\0\0\x10\0"
    r = Recording(size=len(image))
    r.do(WRITE, 0, bytes(image))
    r.do(FLUSH)
    r.do(WRITE, 8192, b"x" * 512)
    r.save(nbdspec.cwd / "trace")
    args = ("crash", "explore", "trace", "--tear", "write", "--check", "sh -c 'head -c 8193 {file} | tail -c 1 | grep -q x'")
    assert nbdspec(*args, status=1).stderr == ""
    told = nbdspec(*args, "-v", status=1)
    assert re.search(r"(?m)^what lies at \d+ is not told: \S.*$", told.stderr) and "which is" not in told.stdout
