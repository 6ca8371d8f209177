"""nbdspec crash record, mark, export, import: what is in a recording, and that nothing else is left."""

import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import time

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT, mounts, nothing_is_mounted, processes, read_until, until

PYTHON = "/usr/bin/python3"
READ, WRITE, DISC, FLUSH, TRIM, ZEROES = 0, 1, 2, 3, 4, 6
FUA = 1
BEGIN, END = "nbdspec: begin", "nbdspec: end status 0"

needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK) or not shutil.which("nbdfuse"),
                                reason="needs /dev/fuse and nbdfuse")
needs_loop = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/loop-control") or
                                not os.path.exists("/dev/fuse") or not shutil.which("nbdfuse"),
                                reason="needs root, loop devices and nbdfuse")


def records(path):
    """(kind, message, direction, connection, cookie, data) of each record."""
    data = path.read_bytes()
    magic, version, _ = struct.unpack_from(">8sII", data)
    assert magic == b"NBDTRACE" and version == 1
    at = 16
    while at < len(data):
        size, kind, message, direction, _, connection, _, _, cookie, length = struct.unpack_from(">IBBBBHHQQI", data, at)
        assert size >= 32 and at + size <= len(data), "the last record is not whole"
        kept = data[at + 32:at + size]
        assert len(kept) == length
        yield kind, message, direction, connection, cookie, kept
        at += size


def story(path):
    """What happened, in order: requests (C, type, flags, offset, length, data), replies (S, type, error), marks (M, text)."""
    asked = {}
    for kind, message, _, connection, cookie, data in records(path):
        if kind == 9:
            yield ("M", data.decode())
        elif kind == 8:
            yield ("N", data.decode())
        elif message == 7:
            _, flags, command, _, offset, length = struct.unpack_from(">IHHQQI", data)
            asked[connection, cookie] = command
            yield ("C", command, flags, offset, length, data[28:])
        elif message == 8:
            yield ("S", asked[connection, cookie], struct.unpack_from(">II", data)[1])
        elif message == 9 and data[5] & 1:
            yield ("S", asked[connection, cookie], data[6] >> 7)


def of_workload(path):
    """What is between the two marks, but for reads."""
    all_of_it = list(story(path))
    return [e for e in all_of_it[all_of_it.index(("M", BEGIN)) + 1:] if e[0] == "M" or e[1] not in (READ, DISC)]


def short(events):
    """"write", "flush", "mark row 1": commands at their answers."""
    names = {WRITE: "write", FLUSH: "flush", TRIM: "trim", ZEROES: "zeroes"}
    return [f"mark {e[1]}" if e[0] == "M" else names[e[1]] for e in events if e[0] in "MS"]


@pytest.fixture
def record(nbdspec):
    """Records into the file "t"; afterwards nothing is mounted, and no unfinished file lies there."""

    def run(*args, **kwargs):
        return nbdspec("crash", "record", "-o", "t", *args, **kwargs)

    yield run
    nothing_is_mounted(nbdspec)
    assert not list(nbdspec.cwd.glob("*unfinished*"))


def shell(script):
    return ["--", "sh", "-ec", script]


QEMU_IO = "qemu-io -f raw -c 'write -P 7 0 4k' -c flush {uri} >/dev/null"
SYNCED = "dd if=/dev/zero of={file} bs=4k count=1 conv=notrunc,fsync status=none"


# ---- what is in it ----

def test_uri(nbdspec, record):
    done = record("--size", "1M", *shell(f"{QEMU_IO}; {NBDSPEC} mark 'row 1'"), status=0)
    trace = nbdspec.cwd / "t"
    assert ("N", "export size 1048576 minimum 1 multi-conn 1") in list(story(trace))
    assert short(of_workload(trace))[:2] == ["write", "flush"] and short(of_workload(trace))[-2:] == ["mark row 1", f"mark {END}"]
    assert [e for e in story(trace) if e[0] == "C" and e[1] == WRITE] == [("C", WRITE, FUA, 0, 4096, b"\7" * 4096)]
    assert done.stdout.startswith("t: ") and " 1 writes, " in done.stdout and " 1 marks, in " in done.stdout
    assert done.stderr == ""


@needs_fuse
def test_file(nbdspec, record):
    """A mark after fsync stands behind the reply of its FLUSH, and before what comes next."""
    record(*shell(f"{SYNCED}; {NBDSPEC} mark one; {SYNCED}; {NBDSPEC} mark two"), status=0)
    assert short(of_workload(nbdspec.cwd / "t")) == ["write", "flush", "mark one", "write", "flush", "mark two", f"mark {END}"]
    assert ("N", "export size 67108864 minimum 1 multi-conn 0") in list(story(nbdspec.cwd / "t"))


@pytest.mark.skipif(not shutil.which("nbdcopy"), reason="needs nbdcopy")
@pytest.mark.parametrize("memory", ["2M", "256M"])
def test_memory(nbdspec, record, memory):
    """What waits there can be read, has its place among marks, and is stored in the end, whether there is room for all of it or not."""
    data = nbdspec.cwd / "data"
    data.write_bytes(os.urandom(24 << 20))
    script = f"nbdcopy {data} {{uri}}; {NBDSPEC} mark copied; nbdcopy --no-extents {{uri}} back; cmp {data} back; {QEMU_IO}"
    done = record("--size", "24M", "--memory", memory, *shell(script), status=0)
    assert done.stderr == ""
    events = of_workload(nbdspec.cwd / "t")
    said = short(events)
    assert set(said[:said.index("mark copied")]) == {"write"} and said[said.index("mark copied") + 1:][:2] == ["write", "flush"]
    assert said[-1] == f"mark {END}" and sum(e[4] for e in events[:events.index(("M", "copied"))] if e[0] == "C") == 24 << 20
    replayed(nbdspec.cwd / "t", nbdspec.cwd / "image")
    assert (nbdspec.cwd / "image").read_bytes() == b"\7" * 4096 + data.read_bytes()[4096:]


@pytest.mark.parametrize("memory, why", [("0", "want bytes from 1M on"), ("1023k", "want bytes from 1M on"), ("much", "want bytes from 1M on"),
                                         ("1000T", "MiB of memory are available")])
def test_memory_refused(nbdspec, memory, why):
    for command in (["crash", "record", "--memory", memory, *shell(SYNCED)], ["serve", "--stdio", "--trace-memory", memory]):
        assert why in nbdspec(*command, status=2).stderr


def test_memory_and_a_full_disk(nbdspec, record):
    """It is told at the end, and what came before is there."""
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    writes = "for i in 0 1 2 3 4 5; do qemu-io -f raw -c \"write -P 7 ${i}M 1M\" {uri} >/dev/null; done"
    done = record("--size", "16M", "--memory", "64M", *shell(writes), status=3, preexec_fn=limited)
    assert "t: the recording ended too early, and holds what came before: error File too large" in done.stderr
    assert 0 < (nbdspec.cwd / "t").stat().st_size <= 4 << 20 and len(list(records(nbdspec.cwd / "t"))) > 3


def replayed(path, image):
    """The disk, with all that was written to it."""
    with open(image, "wb") as f:
        for e in story(path):
            if e[0] == "N" and e[1].startswith("export size"):
                f.truncate(int(e[1].split()[2]))
            elif e[0] == "C" and e[1] in (WRITE, ZEROES):
                f.seek(e[3])
                f.write(e[5] if e[1] == WRITE else bytes(e[4]))
            assert e[0] != "S" or e[2] == 0


@needs_loop
@pytest.mark.parametrize("fs, check", [
    ("ext4", "e2fsck -fn {}"), ("xfs", "xfs_repair -nf {}"), ("btrfs", "btrfs check {}")])
def test_mount(nbdspec, record, fs, check):
    """The trace has all that is needed: mkfs, what was prepared, and what the workload made durable."""
    if not shutil.which(check.split()[0]) or not shutil.which(f"mkfs.{fs}"):
        pytest.skip(f"needs {fs}")
    record("--fs", fs, "--prepare", "echo prepared >{mount}/a", *shell("cat {mount}/a; echo new >{mount}/b; sync -f {mount}/b"),
           status=0)
    image = nbdspec.cwd / "image"
    replayed(nbdspec.cwd / "t", image)
    # It was not unmounted: the log is replayed first.
    at = nbdspec.cwd / "at"
    at.mkdir()
    subprocess.run(["mount", "-o", "loop", image, at], check=True)
    try:
        assert (at / "a").read_text() == "prepared\n" and (at / "b").read_text() == "new\n"
    finally:
        subprocess.run(["umount", at], check=True)
    subprocess.run(check.format(image).split(), check=True, capture_output=True, timeout=PATIENCE)


@needs_loop
@pytest.mark.parametrize("why, tries", [("Transport endpoint is not connected", 3), ("No space left on device", 1)])
def test_mkfs_beside_a_dead_disk(nbdspec, record, why, tries):
    """mkfs.btrfs looks at what others have mounted, and fails where the disk below has just died: that passes, and nothing else does."""
    (nbdspec.cwd / "mkfs.ext4").write_text(f"""#!/bin/sh
        echo >>{nbdspec.cwd}/tries
        [ $(wc -l <{nbdspec.cwd}/tries) -gt 2 ] || {{ echo "ERROR: cannot check: {why}" >&2; exit 1; }}
        exec {shutil.which("mkfs.ext4")} "$@"\n""")
    (nbdspec.cwd / "mkfs.ext4").chmod(0o755)
    done = record("--fs", "ext4", *shell(": {mount}"), status=0 if tries == 3 else 3,
                  env={**nbdspec.env, "PATH": f"{nbdspec.cwd}:{os.environ['PATH']}"})
    assert (nbdspec.cwd / "tries").stat().st_size == tries
    assert tries == 3 or f"mkfs.ext4 failed: ERROR: cannot check: {why}" in done.stderr


@needs_loop
def test_options_of_the_filesystem(nbdspec, record):
    done = record("--mkfs-options", "-L label", "--mount-options", "data=journal", "--size", "32M",
                  *shell("grep {mount} /proc/mounts; blkid -p -s LABEL -o value {mount}/../mnt/disk"), status=0)
    assert "data=journal" in done.stdout and "label" in done.stdout


@needs_loop
def test_sync(nbdspec, record):
    """What stays in the page cache is not in the recording, and this is told; with --sync it is."""
    done = record(*shell("echo x >{mount}/a"), status=0)
    assert "written nothing that reached the disk; --sync" in done.stderr
    assert of_workload(nbdspec.cwd / "t") == [("M", END)]
    assert record("--sync", *shell("echo x >{mount}/a"), status=0).stderr == ""
    assert short(of_workload(nbdspec.cwd / "t"))[-2:] == ["flush", f"mark {END}"]


@needs_loop
def test_nothing_comes_behind_the_end(nbdspec, record):
    """Neither what lies in the page cache, nor the unmount."""
    record(*shell("echo x >{mount}/a; sync {mount}/a; echo y >{mount}/b"), status=0)
    assert list(story(nbdspec.cwd / "t"))[-1] == ("M", END)


# ---- marks ----

MANY = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int fd = atoi(getenv("NBDSPEC_MARK_FD")), wait = argc > 1;
	struct timespec from, to;
	char ok[3];

	clock_gettime(CLOCK_MONOTONIC, &from);
	for (int i = 0; i < 20000; i++) {
		dprintf(fd, "row %d acknowledged\n", i);
		if (wait && (read(fd, ok, 3) != 3 || memcmp(ok, "ok\n", 3) != 0))
			return 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("%.0f\n", 20000 / ((double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9));
	return 0;
}
"""


@pytest.mark.parametrize("wait", [[], ["wait"]], ids=["without waiting", "each answer awaited"])
def test_many_marks(nbdspec, record, wait):
    (nbdspec.cwd / "many.c").write_text(MANY)
    subprocess.run(["gcc", "-O2", "-o", nbdspec.cwd / "many", nbdspec.cwd / "many.c"], check=True)
    done = record("-q", *shell(f"./many {' '.join(wait)}; : {{uri}}"), status=0)
    marks = [e[1] for e in story(nbdspec.cwd / "t") if e[0] == "M"]
    assert marks == [BEGIN, *(f"row {i} acknowledged" for i in range(20000)), END]
    assert float(done.stdout) > 10000


# Marks that nobody waits for, each right before the request that it must precede, and right after a reply.
INTERLEAVED = r"""
import os, socket, struct, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1].split("socket=")[1])
def get(n):
    data = b""
    while len(data) < n:
        data += s.recv(n - len(data))
    return data
get(18)
s.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">IIIH", 7, 6, 0, 0))
while True:
    _, _, kind, length = struct.unpack(">QIII", get(20))
    get(length)
    if kind == 1:
        break
fd = int(os.environ["NBDSPEC_MARK_FD"])
for i in range(2000):
    os.write(fd, f"before {i}\n".encode())
    s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, i, 512 * (i % 8), 512) + bytes(512))
    get(16)
    os.write(fd, f"after {i}\n".encode())
"""


def test_marks_without_waiting_are_in_order(nbdspec, record):
    (nbdspec.cwd / "w.py").write_text(INTERLEAVED)
    record("--size", "64k", "--", PYTHON, "w.py", "{uri}", status=0)
    events = [e for e in of_workload(nbdspec.cwd / "t")]
    want = []
    for i in range(2000):
        want += [("M", f"before {i}"), ("C", WRITE), ("S", WRITE), ("M", f"after {i}")]
    assert [e[:2] for e in events] == [*want, ("M", END)]


def test_a_burst_of_marks_before_a_request(nbdspec, record):
    """More than is read at once, and none of them awaited."""
    (nbdspec.cwd / "w.py").write_text(INTERLEAVED.replace("for i in range(2000):", "for i in range(5):").replace(
        'os.write(fd, f"before {i}\\n".encode())', 'os.write(fd, "".join(f"before {i} {k}\\n" for k in range(3000)).encode())'))
    record("--size", "64k", "--", PYTHON, "w.py", "{uri}", status=0)
    want = []
    for i in range(5):
        want += [*(("M", f"before {i} {k}") for k in range(3000)), ("C", WRITE), ("S", WRITE), ("M", f"after {i}")]
    assert [e[:2] for e in of_workload(nbdspec.cwd / "t")] == [*want, ("M", END)]


def test_many_mark_commands_at_once(nbdspec, record):
    """More than the server takes at a time."""
    record(*shell(f"for i in $(seq 100); do {NBDSPEC} mark \"m $i\" & pids=\"$pids $!\"; done; "
                  "for p in $pids; do wait $p; done; : {uri}"), status=0)
    marks = [e[1] for e in story(nbdspec.cwd / "t") if e[0] == "M" and e[1].startswith("m ")]
    assert sorted(marks) == sorted(f"m {i}" for i in range(1, 101))


def test_a_mark_that_is_turned_away_tries_again(nbdspec):
    """Whether the other side closes before or behind what is written to it: both come here."""
    marks, away = [], 300
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(nbdspec.cwd / "s"))
        s.listen(64)
        s.settimeout(PATIENCE)
        started = [nbdspec.start("mark", f"m {i}", env={**nbdspec.env, "NBDSPEC_MARK_SOCKET": str(nbdspec.cwd / "s")}) for i in range(20)]
        while len(marks) < 20:
            c, _ = s.accept()
            with c:
                if away > 0:
                    away -= 1
                    continue
                marks.append(c.recv(100))
                c.sendall(b"ok\n")
    assert [p.wait(PATIENCE) for p in started] == [0] * 20
    assert sorted(marks) == sorted(b"mark m %d\n" % i for i in range(20))


def test_mark_without_a_recording(nbdspec):
    assert nbdspec.broken("mark", "x") == \
        "nbdspec mark: NBDSPEC_MARK_SOCKET is not set: no 'nbdspec crash record' has started this\n"
    err = nbdspec.broken("mark", "x", env={**nbdspec.env, "NBDSPEC_MARK_SOCKET": "/nonexistent/s"})
    assert err == "nbdspec mark: /nonexistent/s: No such file or directory: the recording that has started this is over\n"


@pytest.mark.parametrize("args", [[], [""], ["a", "b"], ["a\nb"], ["x" * 4097], ["nbdspec: begin"]])
def test_mark_usage(nbdspec, args):
    nbdspec.usage("mark", *args)


# ---- what goes wrong ----

@pytest.mark.parametrize("args, word", [
    (["--", "true"], "{uri}, {file} or {mount}"),
    (["--", "true", "{uri}", "{file}"], "want one of"),
    (["--prepare", "x {file}", "--", "true", "{uri}"], "want one of"),
    (["--fs", "ext4", "--", "true", "{uri}"], "go with {mount}"),
    (["--fs", "fat", "--", "true", "{mount}"], "'fat'"),
    (["--size", "1", "--", "true", "{uri}"], "--size 1"),
    (["--size", "1M", "--", "true", "{mount}"], "at least"),
    (["true", "{uri}"], "behind '--'"),
    ([], "behind '--'"),
])
def test_usage(nbdspec, args, word):
    assert word in nbdspec.usage("crash", "record", *args)


@pytest.mark.parametrize("script, word", [("exit 7", "status 7"), ("kill -TERM $$", "signal 15 (Terminated)")])
def test_workload_that_fails(nbdspec, record, script, word):
    done = record(*shell(f"{QEMU_IO}; {script}"), status=3)
    assert done.stderr == f"nbdspec crash record: the workload ended with {word}; what it did until then is in t\n"
    assert short(of_workload(nbdspec.cwd / "t"))[:2] == ["write", "flush"]
    assert list(story(nbdspec.cwd / "t"))[-1] == ("M", f"nbdspec: end {word}")


def test_workload_that_is_not_there(nbdspec, record):
    done = record("--", "/nonexistent/w", "{uri}", status=3)
    assert "/nonexistent/w: No such file or directory\n" in done.stderr and "status 127" in done.stderr


@pytest.mark.parametrize("again", range(5))
def test_what_the_workload_leaves_is_ended(nbdspec, record, again):
    record(*shell("setsid sleep 1000 & sleep 1000 & : {uri}"), status=0)
    assert not [line for line in processes(nbdspec.mark).values() if "sleep" in line]


@needs_fuse
def test_preparation_that_fails(nbdspec, record):
    (nbdspec.cwd / "t").write_text("an older one")
    done = record("--prepare", "echo no luck >&2; exit 1; : {file}", *shell(": {file}"), status=3)
    assert done.stderr == "nbdspec crash record: --prepare failed: no luck\n"
    assert (nbdspec.cwd / "t").read_text() == "an older one"


@needs_loop
def test_mkfs_that_fails(nbdspec, record):
    done = record("--mkfs-options", "-b 77", *shell(": {mount}"), status=3)
    assert done.stderr.startswith("nbdspec crash record: mkfs.ext4 failed: ") and done.stderr.count("\n") == 1
    assert not (nbdspec.cwd / "t").exists()


@needs_loop
@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv")
@pytest.mark.parametrize("place", ["{file}", "{mount}"])
def test_without_the_right_to_mount(nbdspec, place):
    done = subprocess.run(["setpriv", "--bounding-set", "-sys_admin", NBDSPEC, "crash", "record", "--", "true", place],
                          capture_output=True, text=True, env=nbdspec.env, cwd=nbdspec.cwd, timeout=PATIENCE, check=False)
    assert done.returncode == 3 and done.stderr.startswith(f"nbdspec crash record: {place}: nothing may be mounted here")
    assert done.stderr.count("\n") == 1 and not list(nbdspec.cwd.glob("*trace*"))


@pytest.mark.parametrize("where", ["/nonexistent/t", "/", "/proc/t"])
def test_no_place_for_the_trace(nbdspec, where):
    err = nbdspec.broken("crash", "record", "-o", where, *shell(": {uri}"))
    assert err.startswith(f"nbdspec crash record: {where}: ") and err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_full_disk(nbdspec, record):
    """What fits is kept, up to a whole record; the rest is told of."""
    full = nbdspec.cwd / "full"
    full.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", full], check=False).returncode != 0:
        pytest.skip("cannot mount a small disk")
    try:
        err = nbdspec.broken("crash", "record", "-o", "full/t",
                             *shell("for i in 1 2 3 4; do qemu-io -f raw -c 'write 0 100k' -c flush {uri} >/dev/null; done"))
        assert err == ("nbdspec crash record: full/t: the recording ended too early, and holds what came before: "
                       "error No space left on device\n")
        assert short(of_workload(full / "t"))[:1] == ["write"]
        assert [p.name for p in full.iterdir()] == ["t"]
    finally:
        subprocess.run(["umount", full], check=True)


@pytest.mark.parametrize("blocks", [40, 60, 100])
def test_beyond_the_limit_of_a_file(nbdspec, record, blocks):
    """ulimit -f is told of like a full disk, and no signal ends what writes."""
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (blocks << 10, blocks << 10))}
    err = nbdspec.broken("crash", "record", "-o", "t", *shell(
        "for i in 1 2 3 4; do qemu-io -f raw -c 'write 0 35k' -c flush {uri} >/dev/null; sleep 0.05; done"), **limit)
    assert err == "nbdspec crash record: t: the recording ended too early, and holds what came before: error File too large\n"
    assert short(of_workload(nbdspec.cwd / "t"))[:1] == ["write"]
    record("-q", *shell("qemu-io -f raw -c 'write 0 200k' {uri} >/dev/null"), status=0)
    for form in "pcapng", "dm-log-writes":
        assert nbdspec.broken("crash", "export", "--format", form, "t", "e", **limit) == "nbdspec crash export: e: File too large\n"
    nbdspec("crash", "export", "t", "e", status=0)
    assert nbdspec.broken("crash", "import", "e", "i", **limit) == "nbdspec crash import: i: File too large\n"
    assert not (nbdspec.cwd / "i").exists()


def test_devices_are_not_replaced(nbdspec, record):
    """/dev/full is written to, and stays what it is."""
    err = nbdspec.broken("crash", "record", "-o", "/dev/full", *shell(QEMU_IO))
    assert err.count("\n") == 1
    assert not os.path.isfile("/dev/full")
    nbdspec("crash", "record", "-q", "-o", "/dev/null", *shell(QEMU_IO), status=0)
    assert not os.path.isfile("/dev/null")


def test_a_pipe(nbdspec, record):
    fifo = nbdspec.cwd / "fifo"
    os.mkfifo(fifo)
    p = nbdspec.start("crash", "record", "-q", "-o", fifo, *shell(QEMU_IO))
    (nbdspec.cwd / "t").write_bytes(fifo.read_bytes())
    assert p.communicate(timeout=PATIENCE) == ("", "") and p.returncode == 0
    assert short(of_workload(nbdspec.cwd / "t"))[:2] == ["write", "flush"]


def test_a_pipe_whose_reader_goes(nbdspec, record):
    fifo = nbdspec.cwd / "fifo"
    os.mkfifo(fifo)
    p = nbdspec.start("crash", "record", "-q", "-o", fifo, *shell(
        "for i in 1 2 3; do qemu-io -f raw -c 'write -P 7 0 1M' {uri} >/dev/null; done"))
    with open(fifo, "rb") as f:
        assert f.read(8) == b"NBDTRACE"
    assert p.communicate(timeout=PATIENCE)[1] == (
        f"nbdspec crash record: {fifo}: the recording ended too early, and holds what came before: error Broken pipe\n")
    assert p.returncode == 3


def test_a_pipe_that_nobody_reads(nbdspec, record):
    os.mkfifo(nbdspec.cwd / "fifo")
    p = nbdspec.start("crash", "record", "-o", "fifo", *shell(QEMU_IO))
    with pytest.raises(subprocess.TimeoutExpired):
        p.wait(0.3)
    p.send_signal(signal.SIGINT)
    assert p.communicate(timeout=PATIENCE) == (
        "", "nbdspec crash record: interrupted before the workload began; nothing was recorded\n")
    assert p.returncode == 130


# ---- Ctrl-C, SIGKILL ----

HOLDS = {
    "in the workload": shell("touch here; exec sleep 1000; : {uri}"),
    "in a deaf workload": shell("trap '' INT TERM HUP; touch here; while :; do sleep 1; done; : {uri}"),
    "over a file": shell("touch here; exec sleep 1000; : {file}"),
    "over a filesystem": shell("echo x >{mount}/a; touch here; cd {mount}; exec sleep 1000"),
}
EARLY = {
    "while it is prepared": ["--prepare", "touch here; sleep 1000; : {file}", *shell(": {file}")],
    "while it is prepared in a filesystem": ["--prepare", "touch here; cd {mount}; sleep 1000", *shell(": {mount}")],
}


def held(nbdspec, args):
    if "{mount}" in str(args) and os.geteuid() != 0 or "{uri}" not in str(args) and not os.path.exists("/dev/fuse"):
        pytest.skip("needs to mount")
    p = nbdspec.start("crash", "record", "-o", "t", *args)
    until(lambda: (nbdspec.cwd / "here").exists() or p.poll() is not None)
    return p


@pytest.mark.parametrize("where", HOLDS)
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(nbdspec, record, where, which):
    p = held(nbdspec, HOLDS[where])
    p.send_signal(which)
    out, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 130 and out == ""
    assert err == "nbdspec crash record: interrupted; t holds what was recorded until then\n"
    assert list(story(nbdspec.cwd / "t"))[-1] == ("M", BEGIN)


@pytest.mark.parametrize("where", EARLY)
def test_interrupted_before_the_workload(nbdspec, record, where):
    p = held(nbdspec, EARLY[where])
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 130 and out == ""
    assert err == "nbdspec crash record: interrupted before the workload began; nothing was recorded\n"
    assert not (nbdspec.cwd / "t").exists()


@pytest.mark.parametrize("where", [*HOLDS, *EARLY])
def test_killed(nbdspec, record, where):
    """The guard ends what is left; the trace is there only where the workload had begun."""
    p = held(nbdspec, {**HOLDS, **EARLY}[where])
    p.kill()
    p.communicate(timeout=PATIENCE)
    until(lambda: not nbdspec.leftovers() and not mounts(nbdspec))
    if where in EARLY:
        assert not (nbdspec.cwd / "t").exists()
    else:
        assert ("M", BEGIN) in list(story(nbdspec.cwd / "t"))


# ---- other formats ----

def commands(path):
    """Write-class commands, flushes and marks in the order of a log; zeroes are a write of them."""
    found = []
    for e in story(path):
        if e[0] == "M" and e[1] != BEGIN:
            found.append(e)
        elif e[0] == "C" and e[1] in (WRITE, ZEROES):
            found.append((WRITE, e[2] & FUA, e[3], e[4], e[5] if e[1] == WRITE else bytes(e[4])))
        elif e[0] == "C" and e[1] in (FLUSH, TRIM):
            found.append((e[1], e[2] & FUA, e[3], e[4]))
    return found


def round_trip(nbdspec):
    nbdspec("crash", "export", "t", "log", status=0)
    nbdspec("crash", "import", "log", "again", status=0)
    nbdspec("crash", "export", "again", "log2", status=0)
    assert (nbdspec.cwd / "log").read_bytes() == (nbdspec.cwd / "log2").read_bytes()
    assert commands(nbdspec.cwd / "again") == commands(nbdspec.cwd / "t")
    notes = [[e for e in story(nbdspec.cwd / t) if e[0] == "N" and e[1].startswith("export")] for t in ("t", "again")]
    assert notes[0] == notes[1] and len(notes[0]) == 1


def test_round_trip_of_each_command(nbdspec, record):
    record("--size", "1M", *shell("qemu-io -f raw -d unmap -t none -c 'write -P 1 0 64k' -c 'write -f -P 2 4k 512' -c 'write -z 8k 8k' "
                                  f"-c 'discard 32k 4k' -c flush {{uri}} >/dev/null; {NBDSPEC} mark 'row 1'"), status=0)
    assert {e[0] for e in commands(nbdspec.cwd / "t")} == {"M", WRITE, FLUSH, TRIM}
    assert [e[1] for e in commands(nbdspec.cwd / "t") if e[0] == WRITE].count(FUA) >= 1
    round_trip(nbdspec)


@needs_loop
def test_round_trip_of_a_filesystem(nbdspec, record):
    record("--size", "16M", *shell("for i in 1 2 3; do echo $i >{mount}/$i; sync {mount}/$i; " f"{NBDSPEC} mark $i; done"), status=0)
    round_trip(nbdspec)


def log_entries(data):
    magic, version, count, size = struct.unpack_from("<QQQI", data)
    assert (magic, version, size) == (0x6a736677736872, 1, 512)
    at = 512
    for _ in range(count):
        sector, sectors, flags, length = struct.unpack_from("<QQQQ", data, at)
        body = 0 if flags & 12 else sectors * 512
        yield sector, sectors, flags, data[at + 32:at + 32 + length] if flags & 8 else data[at + 512:at + 512 + body]
        at += 512 + body
    assert at == len(data)


def test_log_as_its_replayer_reads_it(nbdspec, record):
    """By the format of the kernel: drivers/md/dm-log-writes.c, and the reader of xfstests."""
    record("--size", "1M", *shell(f"{QEMU_IO}; {NBDSPEC} mark 'row 1'"), status=0)
    nbdspec("crash", "export", "--format", "dm-log-writes", "t", "log", status=0)
    entries = list(log_entries((nbdspec.cwd / "log").read_bytes()))
    marks = [e[3].decode() for e in entries if e[2] == 8]
    assert marks == ["nbdspec: export size 1048576 minimum 1 multi-conn 1", BEGIN, "row 1", END]
    assert [e for e in entries if e[2] in (0, 2)] == [(0, 8, 2, b"\7" * 4096)]
    assert (0, 0, 1, b"") in entries


def trace_of(path, *events, size=1 << 20, multi=0):
    """A trace by hand: ("C", cookie, type, flags, offset, length), ("S", cookie, error), ("M", text)."""
    out = b"NBDTRACE" + struct.pack(">II", 1, 0xffffffff)

    def add(kind, message, direction, cookie, data, connection=0):
        return struct.pack(">IBBBBHHQQI", 32 + len(data), kind, message, direction, 0, connection, 0, 1, cookie, len(data)) + data

    out += add(8, 0, 2, 0, f"export size {size} minimum 1 multi-conn {multi}".encode())
    for e in events:
        if e[0] == "M":
            out += add(9, 0, 2, 0, e[1].encode())
        elif e[0] == "S":
            out += add(0, 8, 1, e[1], struct.pack(">IIQ", 0x67446698, e[2], e[1]), (e[3:] or (1,))[0])
        else:
            _, cookie, command, flags, offset, length, *connection = e
            data = bytes([cookie]) * length if command == WRITE else b""
            out += add(0, 7, 0, cookie, struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + data,
                       (connection or [1])[0])
    path.write_bytes(out)


def w(cookie, offset=0, length=512, flags=0, command=WRITE, connection=1):
    return ("C", cookie, command, flags, offset, length, connection)


def flush(cookie, connection=1):
    return ("C", cookie, FLUSH, 0, 0, 0, connection)


def ok(cookie, connection=1):
    return ("S", cookie, 0, connection)


@pytest.mark.parametrize("events, word", [
    ([w(1, 100), ok(1)], "is not in whole sectors"),
    ([w(1, 0, 100), ok(1)], "is not in whole sectors"),
    ([w(1), ("S", 1, 5)], "failed"),
    ([w(1), w(2), ok(1), ok(2)], "overlap"),
    ([w(1), flush(2), ok(1), ok(2)], "were on their way at once"),
    ([flush(2), w(1), ok(2), ok(1)], "were on their way at once"),
    ([w(1), flush(2), ok(2)], "were on their way at once"),
    ([w(1, flags=FUA), w(2, 512, flags=FUA), ok(1), ok(2)], "were on their way at once, with FUA"),
    ([w(1, flags=FUA), ("M", "m"), ok(1)], "a mark was set while"),
    ([w(1), ok(1), flush(2, 2), ok(2, 2)], "on another connection"),
    ([w(1), ok(1), ("M", "x" * 480)], "a mark of 480 bytes"),
])
def test_what_a_log_cannot_express(nbdspec, events, word):
    trace_of(nbdspec.cwd / "t", *events)
    err = nbdspec.usage("crash", "export", "t", "log")
    assert word in err and "t: cannot be a log of log-writes" in err
    assert not (nbdspec.cwd / "log").exists()


@pytest.mark.parametrize("events, want", [
    # In flight, but apart, and no guarantee changes meanwhile: the order of arrival.
    ([w(1), w(2, 512), ok(2), ok(1), flush(3), ok(3)], [(0, 1, 0), (1, 1, 0), (0, 0, 1)]),
    # A mark while a write is on its way.
    ([w(1), ("M", "m"), ok(1)], [(0, 1, 0), (0, 0, 8)]),
    # FUA counts from its answer on.
    ([w(1, flags=FUA), w(2, 512), ok(2), ok(1)], [(1, 1, 0), (0, 1, 2)]),
    # Without an answer it promises nothing.
    ([w(1, flags=FUA)], [(0, 1, 0)]),
    # A FLUSH that fails is none.
    ([w(1), ok(1), flush(2), ("S", 2, 5)], [(0, 1, 0)]),
    ([w(1, command=TRIM), ok(1)], [(0, 1, 4)]),
    ([w(1, command=ZEROES, flags=FUA), ok(1)], [(0, 1, 2)]),
    ([w(1), ok(1), flush(2), ok(2), w(3, connection=2), ok(3, 2), flush(4, 2), ok(4, 2)],
     [(0, 1, 0), (0, 0, 1), (0, 1, 0), (0, 0, 1)]),
])
def test_what_a_log_says(nbdspec, events, want):
    trace_of(nbdspec.cwd / "t", *events)
    nbdspec("crash", "export", "t", "log", status=0)
    assert [e[:3] for e in list(log_entries((nbdspec.cwd / "log").read_bytes()))[2:]] == want


def log_of(*entries, sectorsize=512, magic=0x6a736677736872, version=1, count=None):
    out = struct.pack("<QQQI", magic, version, len(entries) if count is None else count, sectorsize).ljust(sectorsize, b"\0")
    for sector, sectors, flags, data in entries:
        head = struct.pack("<QQQQ", sector, sectors, flags, len(data) if flags & 8 else 0)
        out += (head + data if flags & 8 else head).ljust(sectorsize, b"\0") + (b"" if flags & 8 else data)
    return out


def test_import_of_a_foreign_log(nbdspec):
    """With what our own never has: a flush and data in one entry, larger sectors, the flag of metadata."""
    (nbdspec.cwd / "log").write_bytes(log_of((1, 1, 3, b"a" * 4096), (0, 1, 16, b"b" * 4096), (0, 0, 8, b"mkfs done"), (2, 5, 4, b""),
                                             sectorsize=4096))
    nbdspec("crash", "import", "log", "t", status=0)
    assert commands(nbdspec.cwd / "t") == [(FLUSH, 0, 0, 0), (WRITE, FUA, 4096, 4096, b"a" * 4096), (WRITE, 0, 0, 4096, b"b" * 4096),
                                           ("M", "mkfs done"), (TRIM, 0, 8192, 20480)]
    assert next(story(nbdspec.cwd / "t")) == ("N", "export size 28672 minimum 4096 multi-conn 0")
    nbdspec("crash", "import", "--size", "1M", "log", "t", status=0)
    assert next(story(nbdspec.cwd / "t")) == ("N", "export size 1048576 minimum 4096 multi-conn 0")
    assert "writes up to byte 28672" in nbdspec.usage("crash", "import", "--size", "16k", "log", "t")


GOOD = (0, 1, 0, b"x" * 512)


@pytest.mark.parametrize("data, word", [
    (b"", "no log"), (b"x" * 100, "magic"), (log_of(GOOD)[:20], "no log"), (log_of(GOOD, magic=1), "magic"),
    (log_of(GOOD, version=2), "version 2"), (log_of(GOOD, sectorsize=512)[:600], "entry 1 of 1"),
    (log_of(GOOD)[:-1], "in the data of entry 1 of 1"), (log_of(GOOD, count=2), "before entry 2 of 2"),
    (log_of(GOOD, count=2**64 - 1), "before entry 2"), (log_of((0, 1, 64, b"")), "flags 0x40"),
    (log_of((2**63, 1, 4, b"")), "larger than a disk"), (log_of((0, 2**63, 4, b"")), "larger than a disk"),
    (log_of(), "no write"), (log_of(GOOD).replace(struct.pack("<I", 512), struct.pack("<I", 513), 1), "sectors of 513"),
])
def test_bad_logs(nbdspec, data, word):
    (nbdspec.cwd / "log").write_bytes(data)
    assert word in nbdspec.usage("crash", "import", "log", "t")
    assert not (nbdspec.cwd / "t").exists()


@pytest.mark.parametrize("args", [["export", "t"], ["export", "-f", "x", "t", "u"], ["export", "/nonexistent/t", "u"],
                                  ["export", "-f", "pcapng", "/nonexistent/t", "u"], ["import", "a"], ["import", "/nonexistent/a", "b"],
                                  ["import", "--size", "x", "a", "b"]])
def test_usage_of_export_and_import(nbdspec, args):
    nbdspec.usage("crash", *args)
    assert not (nbdspec.cwd / "u").exists()


@pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")
def test_pcapng(nbdspec, record):
    """Wireshark finds every write and mark, and nothing malformed."""
    record("--size", "4M", *shell("qemu-io -f raw -t none -c 'write -P 7 0 200k' -c 'write 1M 4k' {uri} >/dev/null; "
                                  f"{NBDSPEC} mark 'row 17'"), status=0)
    nbdspec("crash", "export", "--format", "pcapng", "t", "c.pcapng", status=0)

    def tshark(*args):
        return subprocess.run(["tshark", "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-r",
                               nbdspec.cwd / "c.pcapng", *args], capture_output=True, text=True, timeout=PATIENCE,
                              check=True).stdout

    assert tshark("-Y", "nbd.type == 1 && nbd.len", "-T", "fields", "-e", "nbd.from", "-e", "nbd.len").split() == \
        ["0x0000000000000000", "204800", "0x0000000000100000", "4096"]
    assert "row 17" in tshark("-Y", "syslog")
    assert tshark("-Y", "frame.comment contains \"row 17\"").count("\n") == 1
    assert tshark("-Y", "_ws.malformed || tcp.analysis.lost_segment || tcp.checksum.status == 0 || ip.checksum.status == 0") == ""


# ---- the disk dies ----

@needs_loop
@pytest.mark.parametrize("which, place", [("serve", "{uri}"), ("serve", "{file}"), ("nbdfuse", "{file}"), ("serve", "{mount}"),
                                          ("nbdfuse", "{mount}")])
def test_disk_that_dies(nbdspec, record, which, place):
    """One line, and nothing stays behind; what was recorded is whole."""
    p = nbdspec.start("crash", "record", "-o", "t", *shell(f"touch here; while [ ! -e gone ]; do sleep 0.01; done; : {place}"))
    until(lambda: (nbdspec.cwd / "here").exists())
    found = [pid for pid, line in processes(nbdspec.mark).items() if line.startswith({"serve": "nbdspec serve"}.get(which, which))]
    assert len(found) == 1
    os.kill(found[0], signal.SIGKILL)
    time.sleep(0.1)
    (nbdspec.cwd / "gone").touch()
    _, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 3
    assert err == "nbdspec crash record: the disk below the workload has died; t holds what came before\n"
    assert ("M", BEGIN) in list(story(nbdspec.cwd / "t"))


# ---- the workloads of cases/crash ----

CI_CRASH = os.path.join(ROOT, "ci/crash")


def ci_crash(nbdspec, *args, env=None):
    return subprocess.run([PYTHON, CI_CRASH, *args], capture_output=True, text=True, cwd=nbdspec.cwd, check=False,
                          env={**nbdspec.env, "NBDSPEC": NBDSPEC, **(env or {})}, timeout=PATIENCE)


@pytest.fixture(scope="module")
def workloads():
    subprocess.run(["make", "-s", "workloads"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@needs_fuse
def test_right_and_broken_workloads(nbdspec, workloads):
    """Each fsync that is left out is found, but for the one that is redundant; so is each checksum."""
    done = ci_crash(nbdspec, "--small", "append-log*", "two-sync*")
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, end = done.stdout.splitlines()
    assert end == "left out, and part of 'make crash-full' (ci/crash): states beyond a small budget, of 5 of these 11"
    rows = [line.split() for line in lines[1:]]
    assert [r[0] for r in rows if r[1] == "found"] == [
        "append-log-without-1", "append-log-without-2", "append-log-without-3", "append-log-without-4",
        "two-sync-no-data-checksum", "two-sync-no-log-checksum", "two-sync-no-sync-1", "two-sync-no-sync-2"]
    assert [r[0] for r in rows if r[1] == "sound"] == ["append-log", "append-log-without-5", "two-sync"]
    for r in rows:
        assert int(r[5]) >= 50 and (int(r[6]) > 0) == (r[1] == "found")


@needs_fuse
def test_report_names_the_write_whose_sync_is_missing(nbdspec, workloads):
    """Without the second fsync the head is durable, and the record that it counts is lost."""
    log = os.path.join(ROOT, "build/crash/append_log")
    nbdspec("crash", "record", "-o", "t", "--size", "64k", "--", log, "write", "{file}", 2, status=0)
    out = nbdspec("crash", "explore", "--check", f"{log} check {{file}}", "t", status=1).stdout
    finding = next(f for f in out.split("\n\n") if "record 0 is not what was written" in f and 'mark "1 0"' in f)
    lost = [line.split()[2:] for line in finding.splitlines() if line.startswith("  lost:")]
    durable = [line.split()[2:] for line in finding.splitlines() if line.startswith("  durable:")]
    assert [where.split("+")[0] for _, where, *_ in [(x[0], x[1].rstrip(",")) for x in lost]] == ["4096"]
    assert "0+512," in [x[1] for x in durable]


@needs_fuse
def test_wrong_expectations_are_red(nbdspec, workloads, tmp_path):
    """A broken workload that is said to be right, and one that is right and said to be broken."""
    copy = tmp_path / "copy"
    for part in ("ci", "cases/crash", "build/crash"):
        shutil.copytree(os.path.join(ROOT, part), copy / part)
    table = copy / "cases/crash/workloads"
    text = table.read_text()
    table.write_text(text.replace("expect = sound", "expect = FOUND").replace("expect = found", "expect = sound")
                     .replace("expect = FOUND", "expect = found"))
    done = subprocess.run([PYTHON, copy / "ci/crash", "--small", "append-log", "append-log-without-1"], capture_output=True,
                          text=True, env={**nbdspec.env, "NBDSPEC": NBDSPEC}, timeout=PATIENCE, check=False)
    assert done.returncode == 1 and done.stdout.count("RED") == 2
    assert "nothing was found" in done.stdout and "failing states where there may be none" in done.stdout


def test_what_cannot_be_run_is_told(nbdspec, workloads):
    done = ci_crash(nbdspec, "nothing-like-it")
    assert done.returncode == 1 and "no workload is called nothing-like-it" in done.stderr
    done = ci_crash(nbdspec, "--small", "append-log", env={"NBDSPEC": "/bin/false"})
    assert done.returncode == 1 and "RED" in done.stdout and "status 1" in done.stdout
    done = ci_crash(nbdspec, "--small", "qcow2-uri", env={"PATH": "/nonexistent"})
    assert done.returncode == 3 and "skip   qemu-io is not installed" in done.stdout


@needs_loop
@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv")
def test_workloads_without_the_right_to_mount(nbdspec, workloads):
    done = subprocess.run(["setpriv", "--bounding-set", "-sys_admin", PYTHON, CI_CRASH, "--small", "ext4-ordered-rename"],
                          capture_output=True, text=True, env={**nbdspec.env, "NBDSPEC": NBDSPEC}, timeout=PATIENCE, check=False)
    assert done.returncode == 3 and "skip   {mount}: nothing may be mounted here" in done.stdout
