"""The drivers of ci/drivers, each by driver-check, and by what is its own; and what they leave behind."""

import os
import re
import shutil
import signal
import socket
import subprocess
import zlib

import pytest

from conftest import PATIENCE, ROOT, processes, read_until, until
from test_driver import lines

needs_qemu_io = pytest.mark.skipif(not shutil.which("qemu-io"), reason="qemu-io is missing: ci/install targets")
needs_nbdkit = pytest.mark.skipif(not shutil.which("nbdkit"), reason="nbdkit is missing: ci/install targets")


class Driver:
    """A driver, asked by hand."""

    def __init__(self, name, env, *args):
        self.process = subprocess.Popen([os.path.join(ROOT, "ci/drivers", name), *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=env)
        self.tag, self.greeting = 0, read_until(self.process.stdout, "\n")

    def __call__(self, request, handle=1):
        self.tag += 1
        self.process.stdin.write(f"{self.tag} {handle} {request}\n".encode())
        self.process.stdin.flush()
        tag, _, answer = read_until(self.process.stdout, "\n").rstrip("\n").partition(" ")
        assert tag == str(self.tag)
        return answer


@pytest.fixture
def driver(nbdspec):
    started = []

    def start(name, *args):
        started.append(Driver(name, nbdspec.env, *args))
        return started[-1]

    yield start
    for d in started:
        d.process.kill()
        d.process.wait()
        d.process.stdin.close()
        d.process.stdout.close()
    # However it ends, its clients end with it.
    until(lambda: not any(re.match("(qemu-io|nbdkit) ", line) for line in processes(nbdspec.mark).values()))


def control(path, request):
    """An answer of `nbdspec serve --control`."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(path))
        s.sendall(request.encode() + b"\n")
        return s.makefile().readline()


def check(nbdspec, name):
    """A driver that is as the page has it; returns what is skipped."""
    found = lines(nbdspec("driver-check", os.path.join(ROOT, "ci/drivers", name), status=0))
    assert len(found) == 32 and all(ok for ok, _ in found)
    return [text.split(" # SKIP ")[0] for _, text in found if "SKIP" in text]


@needs_qemu_io
def test_qemu_io(nbdspec):
    assert check(nbdspec, "qemu-io") == ["read df", "trim fua", "cache", "block_status", "many requests in flight", "set strict",
                                         "flags=N", "set structured", "haggle"]


@needs_qemu_io
def test_qemu_io_tells_of_refusals(nbdspec, fake, driver):
    """What qemu has words for has its name; what its parser refuses is an error, and sends nothing."""
    uri = fake("--unix", nbdspec.cwd / "s", "--export", "name=a,size=1M")
    d = driver("qemu-io")
    assert d(f"connect {uri.replace('///a', '///b')}").startswith("error REP_ERR_UNKNOWN ")
    assert d("connect nbd+unix:///a?socket=nothing").startswith("error ENOENT ")
    assert d(f"connect {uri}").startswith("ok size=1048576 read-only=no ")
    assert d("read 18446744073709551615 1").startswith("error OTHER Parsing error")
    assert d("zero 1048576 4096").startswith("error EIO ")


@needs_qemu_io
@pytest.mark.parametrize("delay", [0, 20])
def test_qemu_io_reconnects(nbdspec, fake, driver, delay):
    """With reconnect-delay the command that meets the end of the connection waits for another, and succeeds."""
    uri = fake("--unix", nbdspec.cwd / "s", "--control", nbdspec.cwd / "c", "--export", "name=a,size=1M")
    d = driver("qemu-io")
    assert d(f"set reconnect-delay={delay}") == "ok"
    assert d(f"connect {uri}").startswith("ok ")
    assert d("write 0 4096 7") == "ok"
    assert control(nbdspec.cwd / "c", "disconnect all").startswith("ok")
    assert d("read 0 4096").startswith("ok " if delay else "error EIO ")


@needs_qemu_io
def test_qemu_io_dumps_all(nbdspec, fake, driver):
    """A long read takes its time, so it is made where this is asked for."""
    uri = fake("--unix", nbdspec.cwd / "s", "--export", "name=a,size=8M")
    for args, long in (((), "unsupported its dump would take too long"), (("--dump-all",), f"ok {zlib.crc32(bytes(5 << 20)):08x}")):
        d = driver("qemu-io", *args)
        assert d(f"connect {uri}").startswith("ok ")
        assert d("read 0 4194304") == f"ok {zlib.crc32(bytes(4 << 20)):08x}"
        assert d("read 0 5242880") == long
    done = subprocess.run([os.path.join(ROOT, "ci/drivers/qemu-io"), "--all"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "ci/drivers/qemu-io: usage: qemu-io [--dump-all]\n")


@needs_qemu_io
def test_qemu_io_dies_as_its_client(nbdspec, fake, driver):
    uri = fake("--unix", nbdspec.cwd / "s", "--export", "name=a,size=1M")
    d = driver("qemu-io")
    assert d(f"connect {uri}").startswith("ok ")
    client, = (pid for pid, line in processes(nbdspec.mark).items() if line.startswith("qemu-io "))
    os.kill(client, signal.SIGABRT)
    d.process.stdin.write(b"9 1 read 0 512\n")
    d.process.stdin.flush()
    assert d.process.wait(timeout=PATIENCE) == -signal.SIGABRT


@needs_nbdkit
def test_nbdkit_nbd(nbdspec):
    assert check(nbdspec, "nbdkit-nbd") == ["read df", "set strict", "flags=N", "set structured", "haggle"]


@needs_nbdkit
@pytest.mark.parametrize("retry", [0, 3])
def test_nbdkit_nbd_retries(nbdspec, fake, driver, retry):
    """The retry filter connects again; without it the connection is lost, and the handle says so."""
    uri = fake("--unix", nbdspec.cwd / "s", "--control", nbdspec.cwd / "c", "--export", "name=a,size=1M")
    d = driver("nbdkit-nbd")
    assert d(f"set retry={retry}") == "ok"
    assert d(f"connect {uri}").startswith("ok size=1048576 ")
    assert d("write 0 4096 7") == "ok"
    assert control(nbdspec.cwd / "c", "disconnect all").startswith("ok")
    assert d("read 0 4096").startswith("ok " if retry else "error EINVAL")
    assert d(f"connect {uri}").startswith("error EISCONN" if retry else "ok ")


@needs_nbdkit
def test_nbdkit_nbd_closes_with_requests_unanswered(nbdspec, fake, driver):
    uri = fake("--unix", nbdspec.cwd / "s", "--lie", "flush_unanswered", "--export", "name=a,size=1M")
    d = driver("nbdkit-nbd")
    assert d(f"connect {uri}").startswith("ok ")
    d.process.stdin.write(b"8 1 read 0 512\n7 1 flush\n9 1 close\n")
    d.process.stdin.flush()
    said = read_until(d.process.stdout, "9 ok\n")
    assert "7 error ECANCELED\n" in said
    assert d("read 0 512").startswith("error ENOTCONN")


@needs_nbdkit
def test_nbdkit_nbd_dies_as_its_client(nbdspec, fake, driver):
    uri = fake("--unix", nbdspec.cwd / "s", "--export", "name=a,size=1M")
    d = driver("nbdkit-nbd")
    assert d(f"connect {uri}").startswith("ok ")
    client, = (pid for pid, line in processes(nbdspec.mark).items() if line.startswith("nbdkit "))
    os.kill(client, signal.SIGABRT)
    assert d.process.wait(timeout=PATIENCE) == -signal.SIGABRT
