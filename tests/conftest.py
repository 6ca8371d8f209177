"""What the tests of the program share: running it, and seeing that it leaves nothing behind.

$NBDSPEC names another program than build/nbdspec.
"""

import glob
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NBDSPEC = os.path.abspath(os.environ.get("NBDSPEC", os.path.join(ROOT, "build/nbdspec")))
PATIENCE = 90  # seconds; only a broken program takes them
NEVER = re.compile("Traceback|[Aa]ssert|Sanitizer|runtime error|core dumped")
MARK = "NBDSPEC_TEST"
# A shell that runs us in the background has them ignored, and all that we start would.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
# Nobody looks at the core of what is killed here, and on a busy machine it takes seconds to write.
resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Side by side (-n), all is below one directory, which is short, for a socket's path has 107 bytes at most, and goes at the end."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        # With -v, execnet 1.9 may run the tests in a thread that no Ctrl-C reaches.
        config.option.verbose = min(config.option.verbose, 0)
        if config.option.basetemp is None:
            config.option.basetemp = tempfile.mkdtemp(prefix="nbdspec-")
            config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


def pytest_collection_modifyitems(items):
    """What one process must do alone (xdist_group) takes longest; it begins with it."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


def until(what, seconds=PATIENCE):
    """Waits for what() to be true; returns it."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.003)
    return value


def processes(mark):
    """All that was started with this mark in its environment, and still runs: {pid: command line}."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if f"{MARK}={mark}\0".encode() not in f.read():
                    continue
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                found[int(pid)] = f.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            pass
    return found


def loops(program):
    """Loop devices over a file of ours: its path is short once its mount is gone, and may then be that of another test for a moment."""
    found = []
    for path in glob.glob("/sys/block/loop*/loop/backing_file"):
        try:
            with open(path, encoding="utf-8", errors="replace") as f:
                file = f.read().strip()
        except OSError:
            continue
        if file == "/disk" or str(program.tmp) in file:
            found.append(f"{path} {file}")
    return found


def mounts(program):
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as f:
        return [line for line in f if str(program.tmp) in line] + loops(program)


def nothing_is_mounted(program):
    """At the end of a test; what is mounted all the same does not stay."""
    try:
        until(lambda: not mounts(program), 10)
    except AssertionError:
        left = mounts(program)
        for line in reversed(left):
            subprocess.run(["umount", "-l", line.split()[1]], check=False)
        assert not left


class Program:
    """Runs nbdspec with a TMPDIR of its own, in a directory of its own."""

    def __init__(self, directory):
        self.cwd, self.tmp, self.mark = directory, directory / "tmp", uuid.uuid4().hex
        self.tmp.mkdir()
        self.env = {**os.environ, "TMPDIR": str(self.tmp), MARK: self.mark}
        for name in ("LISTEN_FDS", "LISTEN_PID", "NBDSPEC_SERVER"):
            self.env.pop(name, None)

    def start(self, *args, **kwargs):
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": self.env,
                   "cwd": self.cwd, "text": True, "errors": "replace"}
        return subprocess.Popen([NBDSPEC, *map(str, args)], **{**options, **kwargs})

    def __call__(self, *args, status=None, **kwargs):
        with self.start(*args, **kwargs) as p:
            try:
                out, err = p.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                p.kill()
                raise
        done = subprocess.CompletedProcess(p.args, p.returncode, out or "", err or "")
        print("$", *p.args, done.stdout, done.stderr, f"=> {done.returncode}", sep="\n")
        assert not NEVER.search(done.stdout + done.stderr)
        assert status is None or done.returncode == status
        return done

    def usage(self, *args, **kwargs):
        """The one line that a wrong command line gets."""
        done = self(*args, status=2, **kwargs)
        assert done.stdout == "" and done.stderr.count("\n") == 1 and done.stderr.startswith("nbdspec ")
        return done.stderr

    def broken(self, *args, **kwargs):
        """What is said of a set-up that broke."""
        done = self(*args, status=3, **kwargs)
        assert done.stderr.startswith("nbdspec ")
        return done.stderr

    def leftovers(self):
        return {**processes(self.mark), **{str(p): "" for p in self.tmp.glob("nbdspec-*")}}


@pytest.fixture
def nbdspec(tmp_path):
    """The program. Afterwards there is no process of it, no directory, no socket."""
    program = Program(tmp_path)
    yield program
    left = program.leftovers()
    for pid in processes(program.mark) if left else ():
        os.kill(pid, signal.SIGKILL)
    assert not left


SERVER = [sys.executable, "-I", "-S", os.path.join(ROOT, "tests/awkward_server.py")]


def server(where, *words):
    """The command of a server that does as it is told (tests/awkward_server.py)."""
    return [*SERVER, where, *words]


@pytest.fixture
def running(nbdspec):
    """Starts a server (tests/awkward_server.py) on a Unix socket; returns its URI."""
    started = []

    def start(*words):
        path = nbdspec.cwd / f"s{len(started)}"
        p = subprocess.Popen(server(str(path), *words), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started.append(p)
        until(lambda: path.exists() or p.poll() is not None)
        return f"nbd+unix:///?socket={path}"

    yield start
    for p in started:
        p.kill()
        p.wait()


@pytest.fixture
def fake(nbdspec):
    """Starts nbdspec serve; returns the URI that it prints."""
    started = []

    def start(*args):
        p = nbdspec.start("serve", *args)
        started.append(p)
        return read_until(p.stdout, "\n").strip()

    yield start
    for p in started:
        p.terminate()
        p.communicate(timeout=PATIENCE)


def read_until(stream, text, seconds=PATIENCE):
    """What a program that goes on prints, up to this text."""
    got = ""
    while text not in got:
        assert select.select([stream], [], [], seconds)[0], f"it prints no '{text}'"
        more = os.read(stream.fileno(), 65536).decode()
        assert more, f"it ended without '{text}'"
        got += more
    return got


def linked(program, files):
    """A program with these files in C as well, which give no warning."""
    objects = glob.glob(os.path.dirname(NBDSPEC) + "/obj/**/*.o", recursive=True)
    libraries = subprocess.run(["pkg-config", "--libs", "jansson", "libxml-2.0", "zlib", "gnutls"], capture_output=True, text=True, check=True).stdout.split()
    done = subprocess.run(["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-I", ROOT, "-Wall", "-Wextra", "-Werror", "-Wno-clobbered", "-o", program,
                           *files, *objects, *libraries, "-lm"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def pasted(nbdspec, cases):
    """A program with these cases as well, as reports give them to be pasted: {name: C}; they are explored/NAME."""
    files = []
    for name, case in cases.items():
        files.append(nbdspec.cwd / f"{name}.c")
        files[-1].write_text('#include "cases/server/transmission.h"\n\n#include <inttypes.h>\n\n' +
                             re.sub(r"^CASE\(explored, \w+,", f"CASE(explored, {name},", case, flags=re.M))
    return linked(nbdspec.cwd / "pasted", files)


def drain(terminal, seconds=PATIENCE):
    """What is printed to a terminal until nobody has its other end any more."""
    while select.select([terminal], [], [], seconds)[0]:
        try:
            terminal.read(65536)
        except OSError:
            break
