"""nbdspec durability: what it finds, what it says of it, and that no mount, process or file is left behind."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from conftest import NBDSPEC, PATIENCE, processes, until

QEMU = ["qemu-nbd", "-t", "-f", "raw", "-k", "{socket}"]
NBDKIT = ["nbdkit", "-f", "-U", "{socket}"]
SANDWICH = [*NBDKIT, "nbd", "uri={uri}"]
FLUSH = ("-c", "promise/flush")

needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK) or not shutil.which("nbdfuse"),
                                reason="needs /dev/fuse and nbdfuse")


def mounts(nbdspec):
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as f:
        return [line for line in f if str(nbdspec.tmp) in line]


@pytest.fixture
def durability(nbdspec):
    """Runs the command; afterwards nothing is mounted, either (conftest.py looks for processes and directories)."""

    def run(*args, **kwargs):
        return nbdspec("durability", *args, **kwargs)

    yield run
    left = mounts(nbdspec)
    for line in left:
        subprocess.run(["umount", "-l", line.split()[1]], check=False)
    assert not left


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
               "--filter=blocksize", "nbd", "uri={uri}", "maxdata=1000", status=0)


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
