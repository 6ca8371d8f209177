"""nbdspec durability: it catches servers that lose what they promised, accuses no other, and leaves nothing behind."""

import json
import os
import shutil
import signal

import pytest

from conftest import until

FUSE = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK) or not shutil.which("nbdfuse"),
                          reason="no /dev/fuse or no nbdfuse")
QEMU = ("qemu-nbd", "-t", "-e", "4", "-f", "raw", "-k", "{socket}", "{file}")
QUICK = ("-c", "promise/flush", "-c", "promise/fua")


def mounts(nbdspec):
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as f:
        return [line for line in f if str(nbdspec.tmp) in line]


def red(nbdspec):
    report = json.loads((nbdspec.cwd / "json").read_text())
    return {(r["case"], r["requirement"]) for r in report["results"] if r["red"]}


@FUSE
def test_a_server_that_keeps_its_promises(nbdspec):
    out = nbdspec("durability", *QUICK, "--", *QEMU, status=0).stdout
    assert "ok 1 - promise/flush[WRITE, drop]\n" in out and "not ok" not in out
    assert mounts(nbdspec) == []


@FUSE
@pytest.mark.parametrize("wrapped", [("eatmydata", *QEMU), (*QEMU[:4], "--cache=unsafe", *QEMU[4:])], ids=["fsync does nothing", "unsafe"])
def test_a_server_that_waives_them(nbdspec, wrapped):
    nbdspec("durability", *QUICK, "--json", "json", "-q", "--", *wrapped, status=1)
    assert red(nbdspec) == {("promise/flush", "flush_persists"), ("promise/fua", "fua_persists")}
    out = nbdspec("durability", *QUICK, "--durability-waived", "--", *wrapped, status=0).stdout
    assert "# SKIP durability: --durability-waived: and " in out and "not ok" not in out


@FUSE
def test_what_a_failure_says(nbdspec):
    out = nbdspec("durability", "-c", "promise/fua_among_others", "--seed", "7", "--text", "text", "-q", "--",
                  "eatmydata", *QEMU, status=1)
    text = (nbdspec.cwd / "text").read_text()
    assert out.stdout == "" and "--seed 7)" in text and "NBD_CMD_WRITE with FUA (command " in text
    assert "which its FUA promised" in text and "non-volatile storage" in text


@FUSE
def test_the_same_seed_does_the_same(nbdspec):
    def results(seed):
        nbdspec("durability", "-c", "workload/two_writers", "-c", "promise/overwritten", "--seed", seed, "--json", "json", "-q", "--", "eatmydata", *QEMU, status=1)
        return [(r["case"], r["point"], r["expected"], r["got"]) for r in json.loads((nbdspec.cwd / "json").read_text())["results"]]
    first = results("3")
    assert results("3") == first != results("4")


def test_sandwich(nbdspec):
    """No file, no fuse: our client, nbdkit, our server."""
    if not shutil.which("nbdkit"):
        pytest.skip("no nbdkit")
    out = nbdspec("durability", *QUICK, "-c", "workload/*", "--", "nbdkit", "-f", "-U", "{socket}", "nbd", "uri={uri}", status=0).stdout
    assert "not ok" not in out and "ok 1 - promise/flush[WRITE, drop]\n" in out


@FUSE
def test_check(nbdspec):
    nbdspec("durability", "-c", "promise/later_cuts", "--json", "json", "-q", "--check", "exit 5", "--", *QEMU, status=1)
    result, = json.loads((nbdspec.cwd / "json").read_text())["results"]
    assert "--check failed, it ended with exit status 5" in result["got"]


def test_without_fuse(nbdspec):
    """One line and status 3; a program in the PATH of which there is no nbdfuse."""
    (nbdspec.cwd / "bin").mkdir()
    p = nbdspec("durability", "--", *QEMU, status=3, env={**nbdspec.env, "PATH": str(nbdspec.cwd / "bin")})
    assert p.stdout == "" and p.stderr.startswith("nbdspec durability: skipped: ") and p.stderr.count("\n") == 1


@pytest.mark.parametrize("args, words", [
    (["nbd://localhost"], "want -- and the command that starts the server"),
    (["--", "qemu-nbd", "-k", "{socket}"], "names neither {file} nor {uri}"),
    (["--via", "stdio", "--", "nbdkit", "-s", "file", "{file}"], "--via stdio does not go with durability"),
    (["--seed", "x", "--", *QEMU], "--seed 'x'"),
    (["-c", "read/*", "--", *QEMU], "no case matches"),
], ids=lambda a: a if isinstance(a, str) else " ".join(a))
def test_usage(nbdspec, args, words):
    p = nbdspec("durability", *args, status=2)
    assert words in p.stderr and p.stdout == ""


@FUSE
@pytest.mark.parametrize("moment", range(6))
def test_killed(nbdspec, moment):
    p = nbdspec.start("durability", "-c", "workload/*", "-j", "2", "--", *QEMU)
    until(lambda: mounts(nbdspec))
    try:
        p.wait(0.08 * moment + 0.01)
    except Exception:
        pass
    p.send_signal(signal.SIGKILL)
    p.communicate()
    until(lambda: not mounts(nbdspec) and not os.listdir(nbdspec.tmp))


@FUSE
def test_interrupted(nbdspec):
    p = nbdspec.start("durability", "-c", "workload/*", "--", *QEMU)
    until(lambda: mounts(nbdspec))
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=10)
    assert p.returncode == 130 and "interrupted" in out and err == ""
    assert mounts(nbdspec) == [] and os.listdir(nbdspec.tmp) == []
