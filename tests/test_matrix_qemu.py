"""ci/matrix/qemu-zeroes: its comparison can fail, and it leaves nothing behind."""

import os
import shutil
import signal
import subprocess

import pytest

from conftest import NBDSPEC, NEVER, ROOT, processes, until

pytestmark = pytest.mark.skipif(not shutil.which("qemu-nbd"), reason="qemu-nbd is not installed")

# What stands between the matrix and qemu-nbd, and what the report must then say of some rows.
LIES = {
    "less than told": ('args=("${@/--discard=unmap/--discard=ignore}" --cache=unsafe)'
                       '; args=("${args[@]/--detect-zeroes=on/--detect-zeroes=off}")', {
        "discard=unmap,detect-zeroes=off/TRIM/aligned": "file must be hole, is data",
        "detect-zeroes=on/WRITE/aligned": "file must be zeroed, is data",
        "raw,discard=unmap,detect-zeroes=off/promise/flush,WRITE,zeroes": "WRITE,zeroes, drop: fail"}),
    "more than told": ('[[ "$*" == *qcow2*=unmap*=off* ]] && exit 1; args=("${@/--discard=ignore/--discard=unmap}")'
                       '; args=("${args[@]/--detect-zeroes=off/--detect-zeroes=on}")', {
        "qcow2,discard=unmap,detect-zeroes=off": "no word",
        "raw,discard=ignore,detect-zeroes=unmap": "must be refused",
        "discard=ignore,detect-zeroes=off/WRITE/aligned": "file must be data, is zeroed",
        "discard=ignore,detect-zeroes=off/TRIM/aligned": "contents must be kept, is zero"}),
}


def wrapped(nbdspec, script):
    """A qemu-nbd of which the script makes other $args."""
    folder, real = nbdspec.cwd / "bin", shutil.which("qemu-nbd")
    folder.mkdir()
    wrapper = folder / "qemu-nbd"
    wrapper.write_text(f'#!/bin/bash\n[ "$1" = --version ] && exec {real} "$@"\n{script}\nexec {real} "${{args[@]}}"\n')
    wrapper.chmod(0o755)
    nbdspec.env["PATH"] = f"{folder}:{nbdspec.env['PATH']}"


def matrix(nbdspec):
    """It, in a tree whose reports are not those of ci/conformance."""
    tree = nbdspec.cwd / "tree"
    (tree / "build").mkdir(parents=True)
    (tree / "ci").symlink_to(os.path.join(ROOT, "ci"))
    (tree / "build/nbdspec").symlink_to(NBDSPEC)
    return tree / "ci/matrix/qemu-zeroes"


def start(nbdspec):
    return subprocess.Popen([matrix(nbdspec)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=nbdspec.env)


def run(nbdspec):
    with start(nbdspec) as p:
        out, err = p.communicate(timeout=120)
    print(out, err)
    assert not NEVER.search(out + err) and err == ""
    if p.returncode == 3:
        pytest.skip(out)
    return p.returncode, out


@pytest.mark.parametrize("what", LIES)
def test_differs(nbdspec, what):
    script, says = LIES[what]
    wrapped(nbdspec, script)
    status, out = run(nbdspec)
    assert status == 1 and int(out.split()[-3]) > 0
    report = (nbdspec.cwd / "tree/build/reports/matrix-qemu-zeroes.txt").read_text()
    why = report.split("Why this run fails:\n")[1].splitlines()
    for row, text in says.items():
        told = [line for name, line in zip(why, why[1:]) if name.startswith("* ") and name.split()[1].endswith(row) and text in line]
        assert told or "promise" in row and not os.path.exists("/dev/fuse")


def test_usage(nbdspec):
    done = subprocess.run([matrix(nbdspec), "junk"], capture_output=True, text=True, env=nbdspec.env)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("usage: ")


def test_untestable(nbdspec):
    """Programs that are not there are a reason, and no result."""
    nbdspec.env["PATH"] = str(nbdspec.cwd)
    done = subprocess.run([matrix(nbdspec)], capture_output=True, text=True, env=nbdspec.env)
    assert done.returncode == 3 and "skipped: not there: qemu-nbd" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("which, status", [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_ended(nbdspec, which, status):
    """Two servers run then, which nobody asks anything any more."""
    wrapped(nbdspec, "exec sleep 1000")
    p = start(nbdspec)
    until(lambda: sum("sleep 1000" in line for line in processes(nbdspec.mark).values()) == 2)
    p.send_signal(which)
    p.communicate(timeout=10)
    assert p.returncode == status
    if which != signal.SIGKILL:
        assert not list(nbdspec.tmp.iterdir())
    until(lambda: not nbdspec.leftovers())
