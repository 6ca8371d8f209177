#!/usr/bin/python3
"""usage: qcow2.py create|write FILE|URI [unsafe] | check FILE

Clusters of a qcow2 image are written and flushed by qemu-io, each acknowledged by a mark. Afterwards qemu-img check may find
leaks, and nothing worse, and what was acknowledged can be read. With unsafe qemu-io does not flush; but where its file is an
NBD export it does (QEMU 7.2: NBD's bdrv_co_flush comes before no-flush is looked at).
"""
import subprocess
import sys
import tempfile

from marks import bad, mark, must

CLUSTERS = 4


def run(*args):
    return subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def io(image, *commands, cache="writeback"):
    return run("qemu-io", "-f", "qcow2", "-t", cache, *(a for c in commands for a in ("-c", c)), image)


def write(uri, cache):
    for n in range(1, CLUSTERS + 1):
        # Each in an L2 table of its own.
        done = io(uri, f"write -P {n} {(n - 1) * 512}M 64k", "flush", cache=cache)
        assert done.returncode == 0 and "wrote" in done.stdout, done.stdout
        mark(f"cluster {n}")


def check(path):
    done = run("qemu-img", "check", "-f", "qcow2", path)
    # 3: clusters that nobody uses.
    if done.returncode not in (0, 3):
        bad("qemu-img check: " + " ".join(done.stdout.split()))
    for n in range(1, len(must()) + 1):
        done = run("qemu-io", "-r", "-f", "qcow2", "-c", f"read -P {n} {(n - 1) * 512}M 64k", path)
        if done.returncode != 0 or "Pattern" in done.stdout or "error" in done.stdout.lower():
            bad(f"cluster {n}, which was acknowledged: " + " ".join(done.stdout.split()))


def create(place):
    """A file on the disk cannot be truncated; the image is made elsewhere."""
    with tempfile.TemporaryDirectory() as directory:
        image = place if place.startswith("nbd") else f"{directory}/image"
        done = run("qemu-img", "create", "-f", "qcow2", image, "4G")
        assert done.returncode == 0, done.stdout
        if image != place:
            with open(image, "rb") as f, open(place, "r+b") as to:
                to.write(f.read())


what, where, *options = sys.argv[1:]
if what == "create":
    create(where)
elif what == "write":
    write(where, options[0] if options else "writeback")
else:
    check(where)
