"""nbdspec durability: what it finds, what it says of it, and that no mount, process or file is left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT, mounts, nothing_is_mounted, processes, until

QEMU = ["qemu-nbd", "-t", "-f", "raw", "-k", "{socket}"]
NBDKIT = ["nbdkit", "-f", "-U", "{socket}"]
SANDWICH = [*NBDKIT, "nbd", "uri={uri}"]
FLUSH = ("-c", "promise/flush")

needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK) or not shutil.which("nbdfuse"),
                                reason="needs /dev/fuse and nbdfuse")


needs_loop = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/loop-control") or
                                not os.path.exists("/dev/fuse") or not shutil.which("nbdfuse"),
                                reason="needs root, loop devices and nbdfuse")


@pytest.fixture
def durability(nbdspec):
    """Runs the command; afterwards nothing is mounted, either (conftest.py looks for processes and directories)."""

    def run(*args, **kwargs):
        return nbdspec("durability", *args, **kwargs)

    yield run
    nothing_is_mounted(nbdspec)


def results(nbdspec, path="json"):
    return json.loads((nbdspec.cwd / path).read_text())["results"]


FAULTS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fault(const char *name) { const char *f = getenv("FAULT"); return f && strcmp(f, name) == 0; }

static int really(int fd) { return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
static void *later(void *arg) { usleep(20000); really((int)(long)arg); return NULL; }

int fdatasync(int fd)
{
	static unsigned n;
	pthread_t thread;

	if (fault("abort"))
		abort();
	if (fault("none") || (fault("every second one") && n++ % 2 == 1))
		return 0;
	if (fault("later"))
		return pthread_create(&thread, NULL, later, (void *)(long)fd) | pthread_detach(thread);
	return really(fd) && !fault("errors hidden");
}
int fsync(int fd) { return fdatasync(fd); }
int syncfs(int fd) { return fdatasync(fd); }

#define PWRITE(name) \
ssize_t name(int fd, const void *data, size_t n, off_t at) \
{ \
	ssize_t r = ((ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, #name))(fd, data, n, at); \
 \
	return r < 0 && fault("write errors hidden") ? (ssize_t)n : r; \
}
PWRITE(pwrite)
PWRITE(pwrite64)
"""


@pytest.fixture(scope="session")
def faults(tmp_path_factory):
    """A library that breaks how a server makes things durable; "none" is what eatmydata does."""
    directory = tmp_path_factory.mktemp("faults")
    source, library = directory / "faults.c", directory / "faults.so"
    source.write_text(FAULTS)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl", "-lpthread"], check=True,
                   timeout=PATIENCE)
    return library


# ---- what it finds ----

FILE_SERVERS = {"qemu-nbd": [*QEMU, "{file}"], "nbdkit": [*NBDKIT, "file", "{file}"]}


@needs_fuse
@pytest.mark.parametrize("server", FILE_SERVERS)
def test_without_fsync(nbdspec, durability, faults, server):
    """A packaged server keeps what it promises; the same one whose fsync does nothing is caught by every promise."""
    cases = (*FLUSH, "-c", "promise/fua", "-c", "promise/later_cuts", "-c", "promise/fua_among_others")
    durability(*cases, "--", *FILE_SERVERS[server], status=0)
    durability("-q", *cases, "--json", "json", "--", "env", "FAULT=none", f"LD_PRELOAD={faults}", *FILE_SERVERS[server],
               status=1)
    failed = [r for r in results(nbdspec) if r["verdict"] == "fail"]
    assert {r["case"] for r in failed} == set(cases[1::2])
    assert {r["requirement"] for r in failed} == {"flush_persists", "fua_persists"}


@needs_fuse
@pytest.mark.parametrize("fault, points", [
    ("every second one", {"promise/flush[WRITE, drop]", "promise/fua[WRITE, drop]"}),
    ("later", {"promise/flush[WRITE, drop]", "promise/flush[WRITE_ZEROES, drop]", "promise/fua[WRITE, drop]",
               "promise/overwritten[drop]", "workload/one_connection"}),
    ("errors hidden", {"errors/flush_fails_once[the data is kept]"}),
    ("write errors hidden", {"errors/write_fails[EIO]", "errors/write_fails[ENOSPC]"}),
])
def test_fault(nbdspec, durability, faults, fault, points):
    """Servers that are wrong in one way only: each is seen, by what is lost."""
    globs = [word for case in {point.split("[")[0] for point in points} for word in ("-c", case)]

    def failed(*environment):
        durability("-q", *globs, "--json", "json", "--", "env", *environment, *NBDKIT, "file", "{file}")
        return {r["case"] + (f"[{r['point']}]" if r["point"] else "") for r in results(nbdspec) if r["verdict"] == "fail"}

    assert not points & failed("FAULT=")
    assert points <= failed(f"FAULT={fault}", f"LD_PRELOAD={faults}")


@needs_fuse
def test_dies_after_a_cut(nbdspec, durability, faults):
    """Of the server that was started after a power cut it is told how it ended, not of the one that the cut has ended."""
    durability("-q", "-c", "below/reaches", "--json", "json", "--", "env", "FAULT=abort", f"LD_PRELOAD={faults}",
               *FILE_SERVERS["nbdkit"], status=1)
    first, second, *others = results(nbdspec)
    assert first["verdict"] == "info" and second["point"] == "WRITE and FLUSH" and second["verdict"] == "fail"
    assert second["server"].startswith("the server was killed by signal 6 (Aborted)")
    assert {r["message"] for r in others} == {"the server was killed by signal 6 (Aborted)"}


@needs_fuse
def test_prepared(durability):
    """What --prepare has put into the image is what was there first, and neither lost nor strange."""
    durability("-c", "promise/fua_among_others", "-c", "workload/*", "-c", "promise/overwritten", "--prepare",
               "head -c 4194304 /dev/urandom | dd of={file} bs=65536 iflag=fullblock conv=notrunc,fsync", "--",
               *FILE_SERVERS["nbdkit"], status=0)


@needs_fuse
def test_does_not_come_back(nbdspec, durability):
    """A server that cannot serve any more what a power cut has left of its image has lost it all."""
    once = 'test ! -e "$0/once" || exit 9; touch "$0/once"; exec "$@"'
    durability("-q", *FLUSH, "--json", "json", "--", "sh", "-c", once, "{dir}", *FILE_SERVERS["nbdkit"], status=1)
    first, *others = results(nbdspec)
    assert first["verdict"] == "fail" and first["expected"] == "the server serves again after the power cut"
    assert first["server"].startswith("the server ended with exit status 9")
    assert {r["verdict"] for r in others} == {"skip"}


def test_sandwich_that_waives(nbdspec, durability):
    """nbdkit's fua filter drops what it promised; nothing of that needs a file."""
    cases = ("-c", "promise/fua_among_others")
    durability(*cases, "--", *SANDWICH, status=0)
    durability("-q", *cases, "--json", "json", "--", *NBDKIT, "--filter=fua", "nbd", "uri={uri}", "fuamode=discard",
               status=1)
    assert {r["requirement"] for r in results(nbdspec) if r["verdict"] == "fail"} == {"fua_persists"}


def test_writes_in_pieces(durability):
    """No text says in what pieces a server passes on what came in one: none of them need end where a sector does."""
    durability("-c", "promise/*", "-c", "workload/one_connection", "-c", "workload/flush_behind_writes", "--", *NBDKIT,
               "--filter=blocksize", "nbd", "uri={uri}", "maxdata=10001", status=0)


@needs_fuse
@pytest.mark.skipif(not shutil.which("nbd-server"), reason="needs nbd-server")
def test_nothing_promised(nbdspec, durability):
    """A server that loses data and offers neither FLUSH nor FUA is warned of."""
    prepare = r'printf "[generic]\nunixsock = %s\n[disk]\nexportname = %s\n" {socket} {file} > {dir}/nbd.conf'
    durability("-q", "-c", "setup/can_lose", "--json", "json", "--daemon", "--via", "unix", "--export", "disk",
               "--prepare", prepare, "--", "nbd-server", "-C", "{dir}/nbd.conf", status=0)
    assert [r["verdict"] for r in results(nbdspec)] == ["warn"]


def test_waived(nbdspec, durability):
    durability("-q", "-c", "promise/fua_among_others", "--durability-waived", "--json", "json", "--", *NBDKIT,
               "--filter=fua", "nbd", "uri={uri}", "fuamode=discard")
    found = results(nbdspec)
    assert {r["verdict"] for r in found} == {"skip"} and "waived" in found[0]["message"]


def test_failure_names_all(nbdspec, durability):
    """The write that was lost, the reply that promised it, the offsets, the seed, and how to have it once more."""
    command = [*NBDKIT, "--filter=fua", "nbd", "uri={uri}", "fuamode=discard"]
    durability("-q", "-c", "promise/fua_among_others", "--seed", "77", "--json", "json", "--", *command, status=1)
    first = next(r for r in results(nbdspec) if r["verdict"] == "fail")
    assert "at 4096 " in first["expected"] and "NBD_CMD_WRITE with FUA (command 2)" in first["expected"]
    assert "which its FUA promised" in first["expected"]
    again = first["got"].split("once more: ")[1]
    assert again.startswith("nbdspec durability -c promise/fua_among_others --seed 77 --")
    p = subprocess.run(["sh", "-c", again.replace("nbdspec", f"'{NBDSPEC}'", 1) + " >/dev/null"], env=nbdspec.env, timeout=PATIENCE,
                       check=False)
    assert p.returncode == 1


def test_runs(nbdspec, durability):
    durability("-q", "-c", "promise/overwritten", "--seed", "5", "--runs", "3", "--json", "json", "--", *SANDWICH, status=0)
    assert [r["point"] for r in results(nbdspec)] == ["drop, seed 5", "random 5, seed 5", "drop, seed 6", "random 6, seed 6",
                                                    "drop, seed 7", "random 7, seed 7"]


@needs_fuse
def test_runs_with_expectations(nbdspec, durability):
    """What is known of a case is known for every seed."""
    known = os.path.join(ROOT, "ci/expectations/durability-nbdkit-file")
    durability("-q", "-c", "errors/flush_fails_once", "--runs", "2", "--expect", known, "--json", "json", "--",
               *FILE_SERVERS["nbdkit"], status=0)
    assert [r["expectation"] for r in results(nbdspec) if r["verdict"] == "fail"] == ["known", "known"]


@needs_fuse
def test_image(nbdspec, durability):
    """A qcow2 image, made on the fake disk and checked after each cut."""
    prepare = 'qemu-img create -q -f qcow2 {dir}/image 48M && dd if={dir}/image of={file} conv=notrunc,fsync status=none'
    durability(*FLUSH, "--prepare", prepare, "--check", "qemu-img check -q -f qcow2 {file}", "--", "qemu-nbd", "-t", "-f",
               "qcow2", "-k", "{socket}", "{file}", status=0)


@needs_fuse
def test_image_that_is_not_sound(durability):
    durability("-c", "promise/later_cuts", "--check", "false", "--", *QEMU, "{file}", status=1)


def test_lower_flags(nbdspec, durability):
    """Over a disk without FUA qemu-nbd flushes in its place; nbdkit offers neither FUA nor FLUSH where that has none."""
    cases = ("-q", "-c", "promise/fua", "-c", "promise/flush", "--json", "json")

    def passed(flags, *command):
        durability(*cases, "--lower-flags", flags, "--", *command, status=0)
        return {r["case"] for r in results(nbdspec) if r["verdict"] == "pass"}

    assert passed("SEND_FLUSH+SEND_WRITE_ZEROES", *QEMU, "{uri}") == {"promise/fua", "promise/flush"}
    assert passed("SEND_FLUSH+SEND_WRITE_ZEROES", *SANDWICH) == {"promise/flush"}
    assert passed("SEND_FUA", *SANDWICH) == {"promise/fua"}
    assert "SEND_NONSENSE" in nbdspec.broken("durability", "--lower-flags", "SEND_NONSENSE", "--", *SANDWICH)


# ---- what it refuses ----

@pytest.mark.parametrize("args", [["--via", "stdio", "--", "nbdkit", "-s", "nbd", "uri={uri}"],
                                  ["--", "nbdkit", "-f", "-U", "{socket}", "memory", "64M"], []])
def test_usage(nbdspec, args):
    nbdspec.usage("durability", *args)


def test_without_nbdfuse(nbdspec, tmp_path):
    """It says what is missing, and that alone is status 3."""
    done = nbdspec("durability", "--", *QEMU, "{file}", env={**nbdspec.env, "PATH": str(tmp_path)}, status=3)
    assert "nbdfuse" in done.stdout + done.stderr and "skip" in done.stdout + done.stderr


# ---- what it leaves behind ----

@needs_fuse
@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("ms", [5, 15, 25, 40, 70, 120, 250, 600])
def test_ended_at_any_moment(nbdspec, durability, which, ms):
    p = nbdspec.start("durability", "-j", "2", "--", *QEMU, "{file}")
    time.sleep(ms / 1000)
    p.send_signal(which)
    p.communicate(timeout=PATIENCE)
    assert p.returncode in ((-signal.SIGKILL,) if which == signal.SIGKILL else (130, -signal.SIGINT))
    until(lambda: not nbdspec.leftovers() and not mounts(nbdspec))


@needs_fuse
def test_killed_while_the_server_hangs(nbdspec, durability):
    """A server that never listens, over a file that it has open."""
    p = nbdspec.start("durability", *FLUSH, "--", "sh", "-c", "exec sleep 1000 < \"$1\"", "{socket}", "{file}")
    until(lambda: any(line.startswith("sleep 1000") for line in processes(nbdspec.mark).values()))
    p.kill()
    p.communicate(timeout=PATIENCE)
    until(lambda: not nbdspec.leftovers() and not mounts(nbdspec))


@needs_fuse
def test_server_that_does_not_come_back(nbdspec, durability):
    """After the first cut it ends at once: that is said of the server, and the run goes on."""
    script = 'test -e "$0/once" && exit 9; touch "$0/once"; exec "$@"'
    done = durability("-q", "-c", "promise/later_cuts", "--", "sh", "-c", script, "{dir}", *QEMU, "{file}")
    assert done.returncode in (1, 3)


# ---- several files, on a filesystem of the disk below ----

DIR_SERVERS = {
    "one of several files": ["--export", "b", "--prepare", "truncate -s 48M {dir}/a {dir}/b", "--", *NBDKIT, "file", "dir={dir}"],
    "backing file": ["--prepare", "qemu-img create -q -f raw {dir}/base 48M && "
                     "qemu-img create -q -f qcow2 -F raw -b base {dir}/overlay",
                     "--check", "qemu-img check -q {dir}/overlay || [ $? -eq 3 ]", "--", "qemu-nbd", "-t", "-f", "qcow2", "-k",
                     "{socket}", "{dir}/overlay"],
    "external data file": ["--prepare", "qemu-img create -q -f qcow2 -o data_file={dir}/data {dir}/image 48M", "--",
                           "qemu-nbd", "-t", "-f", "qcow2", "-k", "{socket}", "{dir}/image"],
}
SPLIT = ["--prepare", "truncate -s 24M {dir}/a {dir}/b", "--", *NBDKIT, "split", "{dir}/a", "{dir}/b"]
IN_DIR = DIR_SERVERS["one of several files"]


@needs_loop
@pytest.mark.parametrize("server", DIR_SERVERS)
def test_dir(nbdspec, durability, faults, server):
    """They keep what they promise; the same ones whose fsync does nothing are caught."""
    cases = ("-q", *FLUSH, "-c", "promise/fua", "-c", "promise/later_cuts", "-c", "workload/one_connection", "--json", "json")
    args = DIR_SERVERS[server]
    durability(*cases, *args, status=0)
    assert {r["case"] for r in results(nbdspec) if r["verdict"] == "pass"} == set(cases[2:-2:2])
    at = args.index("--") + 1
    durability(*cases, *args[:at], "env", "FAULT=none", f"LD_PRELOAD={faults}", *args[at:], status=1)
    failed = [r for r in results(nbdspec) if r["verdict"] == "fail"]
    assert {"promise/flush", "promise/fua", "promise/later_cuts"} <= {r["case"] for r in failed}
    assert {r["requirement"] for r in failed} <= {"flush_persists", "fua_persists"}


@needs_loop
def test_dir_split(nbdspec, durability):
    """nbdkit's split plugin offers nothing to make its files durable; what it serves after a cut is nothing strange."""
    durability("-q", "-c", "setup/can_lose", "-c", "workload/*", "--json", "json", *SPLIT, status=0)
    verdicts = {r["case"]: r["verdict"] for r in results(nbdspec)}
    assert verdicts["setup/can_lose"] == "warn" and verdicts["workload/one_connection"] == "pass"


@needs_loop
@pytest.mark.parametrize("filesystem", ["ext4", "xfs", "btrfs"])
def test_filesystem(nbdspec, durability, faults, filesystem):
    if not shutil.which(f"mkfs.{filesystem}"):
        pytest.skip(f"needs mkfs.{filesystem}")
    at = IN_DIR.index("--") + 1
    cases = ("-q", *FLUSH, "-c", "workload/one_connection", "--filesystem", filesystem, "--json", "json")
    script = 'grep -q " $0 $1 " /proc/mounts && shift && exec "$@"'
    durability(*cases, "--size", "400M", *IN_DIR[:at], "sh", "-c", script, "{dir}", filesystem, *IN_DIR[at:], status=0)
    durability(*cases, *IN_DIR[:at], "env", "FAULT=none", f"LD_PRELOAD={faults}", *IN_DIR[at:], status=1)


FSYNC = """
import os, socket, sys

def ask(request):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(sys.argv[1] + "/../control")
        s.sendall(request.encode() + b"\\n")
        return dict(word.split("=") for word in s.makefile().readline().split() if "=" in word)

fd = os.open(sys.argv[1] + "/file", os.O_RDWR | os.O_CREAT)
os.pwrite(fd, bytes(1 << 20), 0)
os.fsync(fd)
before = int(ask("counters")["flushes"])
os.pwrite(fd, b"x" * (1 << 20), 0)
os.fsync(fd)
print(int(ask("counters")["flushes"]) - before, ask("status")["cached"])
ask("fail FLUSH 1 EIO")
os.pwrite(fd, b"y" * (1 << 20), 0)
try:
    os.fsync(fd)
except OSError as e:
    print(e.strerror)
"""


@needs_loop
def test_fsync_reaches_the_disk(nbdspec, durability):
    """An fsync of a file in {dir} is a flush of the disk below, and fails with it."""
    (nbdspec.cwd / "fsync.py").write_text(FSYNC)
    durability("-q", "-c", "setup/can_lose", "--prepare", f"{sys.executable} -I fsync.py {{dir}} > said; false", "--", *QEMU,
               "{dir}/file", status=3)
    flushes, cached, failed = (nbdspec.cwd / "said").read_text().split(maxsplit=2)
    assert int(flushes) > 0 and cached == "0" and failed == "Input/output error\n"


@needs_loop
def test_again_in_dir(nbdspec, durability, faults):
    """The command that a failure names has the filesystem, and fails as it did."""
    at = IN_DIR.index("--") + 1
    durability("-q", "-c", "promise/later_cuts", "--filesystem", "ext4", "--size", "300M", "--json", "json", *IN_DIR[:at], "env",
               "FAULT=none", f"LD_PRELOAD={faults}", *IN_DIR[at:], status=1)
    again = results(nbdspec)[0]["got"].split("once more: ")[1]
    assert "--filesystem ext4" in again and "--size 300M" in again
    p = subprocess.run(["sh", "-c", again.replace("nbdspec", f"'{NBDSPEC}'", 1) + " >/dev/null"], env=nbdspec.env,
                       timeout=PATIENCE, check=False)
    assert p.returncode == 1


@pytest.mark.parametrize("args, says", [
    (["--filesystem", "ext3", "--", *QEMU, "{dir}/a"], "ext4, xfs or btrfs"),
    (["--filesystem", "ext4", "--", *QEMU, "{file}"], "{dir}"),
    (["--filesystem", "xfs", "--size", "200M", "--", *QEMU, "{dir}/a"], "300M"),
    (["--size", "8M", "--", *QEMU, "{dir}/a"], "16M"),
])
def test_dir_usage(nbdspec, args, says):
    assert says in nbdspec.usage("durability", *args)


@needs_loop
def test_without_mkfs(nbdspec, tmp_path):
    os.symlink(shutil.which("nbdfuse"), tmp_path / "nbdfuse")
    err = nbdspec.broken("durability", "--", *QEMU, "{dir}/a", env={**nbdspec.env, "PATH": str(tmp_path)})
    assert err.count("\n") == 1 and "skipped: mkfs.ext4 is not in PATH (Debian: e2fsprogs)" in err


@needs_loop
@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv")
def test_without_the_right_to_mount(nbdspec):
    with subprocess.Popen(["setpriv", "--bounding-set", "-sys_admin", NBDSPEC, "durability", "--", *QEMU, "{dir}/a"],
                          env=nbdspec.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        out, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 3 and out == ""
    assert err.startswith("nbdspec durability: skipped: nothing may be mounted here, for want of CAP_SYS_ADMIN")


@needs_loop
def test_unprivileged(nbdspec):
    """Whoever may neither open /dev/fuse nor mount is told so."""
    with subprocess.Popen(["setpriv", "--bounding-set", "-all", "--reuid", "nobody", "--clear-groups", NBDSPEC, "durability", "--",
                           *QEMU, "{dir}/a"], env=nbdspec.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        out, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 3 and out == "" and err.count("\n") == 1 and ("root" in err or "CAP_SYS_ADMIN" in err)


@needs_loop
def test_mkfs_that_fails(nbdspec, durability, tmp_path):
    """Its own words are passed on."""
    (tmp_path / "mkfs.ext4").write_text("#!/bin/sh\necho no room >&2\nexit 1\n")
    (tmp_path / "mkfs.ext4").chmod(0o755)
    done = durability("-q", "-c", "setup/can_lose", *IN_DIR, env={**nbdspec.env, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
                      status=3)
    assert "mkfs.ext4 failed: no room" in done.stderr


@needs_loop
def test_no_filesystem_after_mkfs(nbdspec, durability, tmp_path):
    """What the kernel does not mount is said of the set-up."""
    (tmp_path / "mkfs.ext4").symlink_to(shutil.which("true"))
    done = durability("-q", "-c", "setup/can_lose", *IN_DIR, env={**nbdspec.env, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
                      status=3)
    assert "the ext4 on the disk below cannot be mounted" in done.stderr


STUCK_MKFS = """#!/bin/sh
%s "$@" || exit
for file; do :; done
dir=${file%%/mnt/disk}
pkill -STOP -f "^nbdspec serve --unix $dir/below "
touch %s
exit 0
"""


@needs_loop
@pytest.mark.parametrize("which", [None, signal.SIGKILL, signal.SIGINT])
def test_disk_that_sticks_at_the_mount(nbdspec, durability, tmp_path, which):
    """The mount waits for its disk and cannot be killed; it has a limit all the same, and yields to Ctrl-C."""
    begun = tmp_path / "begun"
    (tmp_path / "mkfs.ext4").write_text(STUCK_MKFS % (shutil.which("mkfs.ext4"), begun))
    (tmp_path / "mkfs.ext4").chmod(0o755)
    p = nbdspec.start("durability", "-q", "-c", "setup/can_lose", "--time-factor", "0.2" if which is None else "1", *IN_DIR,
                      env={**nbdspec.env, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    until(begun.exists)
    if which is not None:
        time.sleep(0.1)
        p.send_signal(which)
    begin = time.monotonic()
    err = p.communicate(timeout=PATIENCE)[1]
    assert time.monotonic() < begin + 12
    assert p.returncode == {None: 3, signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[which]
    assert which is not None or "is not mounted within 4 s (--time-factor)" in err
    until(lambda: not nbdspec.leftovers() and not mounts(nbdspec))


@needs_loop
@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("ms", [10, 20, 30, 40, 55, 70, 90, 120, 170, 300, 700])
def test_dir_ended_at_any_moment(nbdspec, durability, which, ms):
    p = nbdspec.start("durability", "-j", "2", *IN_DIR)
    time.sleep(ms / 1000)
    p.send_signal(which)
    p.communicate(timeout=PATIENCE)
    assert p.returncode in ((-signal.SIGKILL,) if which == signal.SIGKILL else (130, -signal.SIGINT))
    until(lambda: not nbdspec.leftovers() and not mounts(nbdspec))


def pids(nbdspec, name):
    return [pid for pid, line in processes(nbdspec.mark).items() if line.startswith(name)]


HUNG = ["sh", "-c", "cd \"$1\" && exec sleep 1000 <> data", "{socket}", "{dir}"]


@needs_loop
@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("stopped", [[], ["nbdfuse"], ["nbdspec serve"]])
def test_dir_whose_disk_is_stuck(nbdspec, durability, which, stopped):
    """A server that never listens has files open there, and what carries them does nothing any more."""
    p = nbdspec.start("durability", *FLUSH, "--", *HUNG)
    until(lambda: pids(nbdspec, "sleep 1000"))
    for name in stopped:
        for pid in until(lambda: pids(nbdspec, name)):
            os.kill(pid, signal.SIGSTOP)
    p.send_signal(which)
    p.communicate(timeout=PATIENCE)
    until(lambda: not nbdspec.leftovers() and not mounts(nbdspec))


@needs_loop
@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGINT])
def test_dir_whose_disk_sticks_while_it_is_written_to(nbdspec, durability, which):
    p = nbdspec.start("durability", *FLUSH, "--", "sh", "-c", "cd \"$1\" && while dd if=/dev/zero of=data bs=1M count=20 "
                      "conv=fsync status=none; do :; done", "{socket}", "{dir}")
    until(lambda: pids(nbdspec, "dd "))
    for pid in pids(nbdspec, "nbdspec serve"):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.3)
    p.send_signal(which)
    p.communicate(timeout=PATIENCE)
    until(lambda: not nbdspec.leftovers() and not mounts(nbdspec))


@needs_loop
@pytest.mark.parametrize("synced, status", [(":", 0), ("sync", 1)])
def test_dir_loses_what_is_not_synced(durability, synced, status):
    """A server that starts only once: nothing tells it that it ran before unless it made that durable."""
    script = f'test "$(cat "$0/count")" = 1 || exit 9; echo 2 > "$0/new"; mv "$0/new" "$0/count"; {synced} "$0/count"; exec "$@"'
    durability("-q", "-c", "setup/can_lose", "--prepare", "truncate -s 48M {dir}/a; echo 1 > {dir}/count", "--", "sh", "-c",
               script, "{dir}", *QEMU, "{dir}/a", status=status)


@needs_loop
@pytest.mark.parametrize("name", ["nbdfuse", "nbdspec serve", "qemu-nbd"])
def test_dir_when_a_process_of_it_dies(nbdspec, durability, name):
    p = nbdspec.start("durability", "-c", "workload/*", "--runs", "50", "--prepare", "truncate -s 48M {dir}/a", "--", *QEMU,
                      "{dir}/a")
    for pid in until(lambda: pids(nbdspec, "qemu-nbd") and pids(nbdspec, name)):
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=PATIENCE)
    assert p.returncode in (1, 3, 130)
    until(lambda: not nbdspec.leftovers() and not mounts(nbdspec))


@needs_fuse
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can do without a capability")
def test_nothing_may_be_mounted(nbdspec):
    """As in a container: a reason, and no failure."""
    done = subprocess.run(["setpriv", "--bounding-set", "-sys_admin", NBDSPEC, "durability", *FLUSH, "--",
                           *FILE_SERVERS["nbdkit"]], capture_output=True, text=True, env=nbdspec.env, timeout=PATIENCE,
                          check=False)
    assert done.returncode == 3 and "skipped: nothing may be mounted here, for want of CAP_SYS_ADMIN" in done.stderr
