"""ci/matrix/*: the comparisons can fail, and nothing is left behind."""

import os
import shutil
import signal
import subprocess

import pytest

from conftest import NBDSPEC, NEVER, PATIENCE, ROOT, processes, until

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


def wrapped(nbdspec, script, program="qemu-nbd"):
    """A program of which the script makes other $args."""
    folder, real = nbdspec.cwd / "bin", shutil.which(program)
    if not real:
        pytest.skip(f"{program} is not installed")
    folder.mkdir()
    wrapper = folder / program
    wrapper.write_text(f'#!/bin/bash\n[ "$1" = --version ] && exec {real} "$@"\n{script}\nexec {real} "${{args[@]}}"\n')
    wrapper.chmod(0o755)
    nbdspec.env["PATH"] = f"{folder}:{nbdspec.env['PATH']}"


def matrix(nbdspec, name="qemu-zeroes"):
    """It, in a tree whose reports are not those of ci/conformance."""
    tree = nbdspec.cwd / "tree"
    if not tree.exists():
        (tree / "build").mkdir(parents=True)
        (tree / "ci").symlink_to(os.path.join(ROOT, "ci"))
        (tree / "build/nbdspec").symlink_to(NBDSPEC)
        for version in (1, 2):
            plugin = f"build/passthrough-v{version}.so"
            (tree / plugin).symlink_to(os.path.join(ROOT, plugin))
    return tree / "ci/matrix" / name


def start(nbdspec, *command):
    return subprocess.Popen(command or [matrix(nbdspec)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=nbdspec.env)


def run(nbdspec, *command):
    with start(nbdspec, *command) as p:
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


def test_nbdkit(nbdspec):
    """What the wrapper makes of a mode is not what is documented of it, and what is known to deviate is gone."""
    command = [matrix(nbdspec, "nbdkit-fua"), "v2 can_flush=true can_fua=native flush=present filter=*"]
    wrapped(nbdspec, 'args=("${@/fuamode=force/fuamode=pass}"); args=("${args[@]/fuamode=none/fuamode=pass}")', "nbdkit")
    status, out = run(nbdspec, *command)
    assert status == 1 and int(out.split()[-3]) == 1
    report = (nbdspec.cwd / "tree/build/reports/matrix-nbdkit-fua.txt").read_text()
    told = report.split("Why this run fails:\n")[1]
    assert "filter=fuamode=force" in told and "WRITE: documented: writes+FUA there; seen: writes lost" in told
    (nbdspec.cwd / "bin/nbdkit").unlink()
    status, out = run(nbdspec, *command)
    assert status == 0 and out.split()[1:5] == ["12", "0", "0", "0"]


@pytest.mark.parametrize("name, arguments", [("qemu-zeroes", ["junk"]), ("nbdkit-fua", ["-x"]), ("nbdkit-fua", ["a", "b"]),
                                             ("nbdkit-fua", ["-v", "a", "b"])])
def test_usage(nbdspec, name, arguments):
    done = subprocess.run([matrix(nbdspec, name), *arguments], capture_output=True, text=True, env=nbdspec.env)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("usage: ")


@pytest.mark.parametrize("name, program", [("qemu-zeroes", "qemu-nbd"), ("nbdkit-fua", "nbdkit")])
def test_untestable(nbdspec, name, program):
    """Programs that are not there are a reason, and no result."""
    nbdspec.env["PATH"] = str(nbdspec.cwd)
    done = subprocess.run([matrix(nbdspec, name)], capture_output=True, text=True, env=nbdspec.env)
    assert done.returncode == 3 and f"skipped: not there: {program}" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("which, status", [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_ended(nbdspec, which, status):
    """Two servers run then, which nobody asks anything any more."""
    wrapped(nbdspec, "exec sleep 1000")
    p = start(nbdspec)
    until(lambda: sum("sleep 1000" in line for line in processes(nbdspec.mark).values()) == 2)
    p.send_signal(which)
    p.communicate(timeout=PATIENCE)
    assert p.returncode == status
    if which != signal.SIGKILL:
        assert not list(nbdspec.tmp.iterdir())
    until(lambda: not nbdspec.leftovers())
