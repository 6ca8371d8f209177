"""nbdspec driver-check: green for the drivers, red for each way of being wrong (tests/broken_driver.py)."""

import os
import signal
import subprocess

import pytest

from conftest import PATIENCE, ROOT, processes, read_until, until

MINIMAL = os.path.join(ROOT, "ci/drivers/minimal.py")
BROKEN = os.path.join(ROOT, "tests/broken_driver.py")
LIBNBD = os.path.join(ROOT, "build/drivers/libnbd")

# What is wrong: the check that says so, and what it says.
LIES = {
    "wrong-digest": ("read: the digest", "'ok 00000000', want the digest"),
    "wrong-pattern": ("write: the disk", "does not hold pattern 7 at 4096"),
    "wrong-size": ("tells what the server told", "size=4194303, want 4194304"),
    "wrong-flag": ("tells what the server told", "flush=yes, want no"),
    "wrong-tag": ("", "nothing with this tag waits"),
    "answers-early": ("nothing is answered before", "'flush' is answered 'ok' before the server"),
    "ignores-fua": ("write fua", "with flags 0x0, want 0x1"),
    "zeroes-without-fua": ("zero fua", "'zero 0 65536 fua' is answered ok, but the command has reached the server with flags 0x0"),
    "hides-errors": ("an error of the server", "'flush' is answered 'ok', want 'error'"),
    "stale": ("a handle connects again", "size=4194304, want 1024000"),
    "mixed-up": ("several handles", "want the digest"),
    "no-disc": ("disconnect sends DISC", "no NBD_CMD_DISC has reached the server"),
    "unknown-is-ok": ("what is not known", "'frobnicate 1 2' is answered 'ok', want 'unsupported'"),
    "answers-twice": ("connects", "'1 ok': nothing with this tag waits"),
    "garbage": ("connects", "'1 fine, thank you': want ok, error"),
    "zero-byte": ("connects", "a line with a zero byte"),
    "overlong": ("connects", "a line of more than 1048576 bytes"),
    "no-end-of-line": ("read", "does not answer"),
    "dies": ("read", "ended with exit status 7 instead of answering '12 6 read 0 4096'; it printed: out of luck"),
    "killed": ("read", "was killed by signal 9"),
    "hangs": ("read", "does not answer '12 6 read 0 4096' within 1.5 s"),
    "never-greets": ("greets", "does not greet within 6 s"),
    "greets-wrongly": ("greets", "greets with 'hello': want 'nbdspec-driver 1 "),
    "other-version": ("greets", "speaks version 2 of the protocol, want 1"),
    "depth-0": ("greets", "depth=0"),
    "lacks-read": ("greets", "greets without 'read'"),
    "one-at-a-time": ("many requests in flight", "no two commands were in flight at once"),
    "does-not-end": ("the end of input", "does not end within 1.5 s"),
    "ends-badly": ("the end of input", "ended with exit status 5"),
}


@pytest.fixture(scope="module")
def libnbd():
    subprocess.run(["make", "-s", "-C", ROOT, "drivers"], check=True)
    return LIBNBD


def lines(done):
    """[(ok, check, what is wrong with it or why it is skipped)]"""
    *lines, plan = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert plan == f"1..{len(lines)}" and done.stderr == ""
    found = []
    for i, line in enumerate(lines, 1):
        verdict, rest = line.split(f"ok {i} - ")
        found.append((verdict == "", rest))
    return found


def test_libnbd(nbdspec, libnbd):
    """It has everything: nothing is skipped."""
    found = lines(nbdspec("driver-check", libnbd, status=0))
    assert len(found) > 30 and all(ok for ok, _ in found) and not any("SKIP" in text for _, text in found)


def test_minimal(nbdspec):
    found = lines(nbdspec("driver-check", MINIMAL, status=0))
    skipped = [text.split(" # SKIP ")[0] for _, text in found if "SKIP" in text]
    assert all(ok for ok, _ in found)
    assert skipped == ["read df", "cache", "block_status", "many requests in flight", "set strict", "flags=N", "set structured",
                       "haggle"]


# Those for which a limit passes.
SLOW = [lie for lie, (_, what) in LIES.items() if "does not" in what and "hold" not in what]


@pytest.mark.parametrize("lie", LIES)
def test_broken(nbdspec, lie):
    where, what = LIES[lie]
    found = lines(nbdspec("driver-check", "--time-factor", "0.3" if lie in SLOW else "1", BROKEN, lie, status=1))
    assert any(text.startswith(where) and what in text for ok, text in found if not ok)


def test_zeroes_by_write(nbdspec):
    """A block device may write them; then the rest holds for the WRITE."""
    done = nbdspec("driver-check", BROKEN, "zeroes-by-write", status=0)
    assert "# 'zero 0 65536 fua' is carried out by NBD_CMD_WRITE" in done.stdout


def test_child_of_the_driver(nbdspec):
    """What it leaves running is ended with it."""
    nbdspec("driver-check", BROKEN, "leaves-a-child", status=0)
    assert processes(nbdspec.mark) == {}


def test_cannot_be_started(nbdspec):
    assert nbdspec.broken("driver-check", "./nothing") == "nbdspec driver-check: ./nothing: No such file or directory\n"
    assert "Permission denied" in nbdspec.broken("driver-check", "/etc/passwd")


def test_usage(nbdspec):
    assert "want a driver" in nbdspec.usage("driver-check")
    assert "--time-factor" in nbdspec.usage("driver-check", "--time-factor", "x", MINIMAL)


def test_not_a_driver(nbdspec):
    assert lines(nbdspec("driver-check", "true", status=1)) == [(False, "greets: the driver ended with exit status 0")]


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("lie", ["hangs", "never-greets", "does-not-end"])
def test_interrupted(nbdspec, which, lie):
    p = nbdspec.start("driver-check", BROKEN, lie)
    if lie == "never-greets":
        until(lambda: any(line.startswith("/usr/bin/python3") for line in processes(nbdspec.mark).values()))
    else:
        read_until(p.stdout, "ok 3" if lie == "hangs" else "ok 31")
    p.send_signal(which)
    out, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == (-9 if which == signal.SIGKILL else 130)
    assert err == "" and "not ok" not in out and (which == signal.SIGKILL or out.endswith("# interrupted\n"))
    until(lambda: not nbdspec.leftovers())


def test_output_cut_off(nbdspec):
    """`nbdspec driver-check … | head -1`"""
    p = nbdspec.start("driver-check", MINIMAL)
    read_until(p.stdout, "ok 1")
    p.stdout.close()
    p.wait(timeout=PATIENCE)
    assert p.returncode == -signal.SIGPIPE
    until(lambda: not nbdspec.leftovers())


def test_page():
    """What the page says of contents and digests is so."""
    with open(os.path.join(ROOT, "docs/driver-protocol.md")) as f:
        page = f.read()
    names = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    assert names["contents"](7, 4096, 32) == b"00070000000001000007000000000101"
    assert names["contents"](7, 4103, 3) == b"000" and names["contents"](0, 5, 3) == bytes(3)
    assert "`00070000000001000007000000000101`" in page
