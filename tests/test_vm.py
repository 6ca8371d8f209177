"""ci/vm: the driver of the kernel's nbd in its virtual machine, what becomes of a guest that dies, and that nothing is left behind."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT, processes, until

pytestmark = pytest.mark.xdist_group("vm")  # they have one machine together

VM = os.path.join(ROOT, "ci/vm/vm")
DRIVER = os.path.join(ROOT, "ci/drivers/linux-nbd")
MATRIX = "ci/matrix/linux-virtio-blk"
MOUNTED = os.path.join(ROOT, "ci/vm/mounted")
LOG = os.path.join(ROOT, "build/crash/append_log")


@pytest.fixture(scope="module", autouse=True)
def machine():
    """The environment of the tests that have one machine together: it outlives them all, and boots once."""
    subprocess.run(["make", "-s", "-C", ROOT, "machine"], check=True)
    p = subprocess.Popen([VM, "sh", "-c", 'echo "$NBDSPEC_VM"; exec cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    path = p.stdout.readline().strip()
    if path:
        yield {"NBDSPEC_VM": path}
    _, said = p.communicate(timeout=PATIENCE)
    if p.returncode == 3 and "skipped: " in said:
        pytest.skip(said)
    assert p.returncode == 0 and ": 1 boots, " in said, said


def run(nbdspec, *command, **env):
    p = subprocess.run([VM, *command], capture_output=True, text=True, timeout=PATIENCE * 3, env={**nbdspec.env, **env})
    print(p.stdout, p.stderr)
    assert "Traceback" not in p.stderr
    return p


def left(nbdspec):
    return processes(nbdspec.mark) or os.listdir(nbdspec.tmp)


def client(report, *arguments, factor=6):
    """A script that runs cases, for several in one machine."""
    return f"{NBDSPEC} client -q --pairwise --time-factor {factor} --json {report} {' '.join(arguments[:-1])} --driver {DRIVER} {arguments[-1]}"


def verdicts(report):
    return {r["case"] + (f"[{r['point']}]" if r["point"] else ""): (r["verdict"], r["requirement"])
            for r in json.loads(report.read_text())["results"]}


def test_driver(nbdspec, machine):
    p = run(nbdspec, NBDSPEC, "driver-check", "--time-factor", "6", DRIVER, "ioctl", **machine)
    assert p.returncode == 0 and "not ok" not in p.stdout
    until(lambda: not left(nbdspec))


def test_nbd_client(nbdspec, machine):
    """It does the handshake; what it says of a refusal, and that it leaves without a word, is seen."""
    if not shutil.which("nbd-client", path=os.environ["PATH"] + ":/usr/sbin"):
        pytest.skip("nbd-client is not installed")
    report = nbdspec.cwd / "report.json"
    p = run(nbdspec, "sh", "-c", client(report, "-c", "session/*", "-c", "haggling/go_refused", "-c", "flags/go_block_sizes", "nbd-client"),
            **machine)
    assert p.returncode == 1
    found = verdicts(report)
    assert found["session/baseline"][0] == "pass"
    assert found["haggling/go_refused[UNKNOWN, no text]"] == ("fail", "client_handshake_no_hard_disconnect")
    assert found["haggling/go_refused[UNSUP, no text]"][0] == "pass"
    assert found["flags/go_block_sizes"][0] == "skip"
    told = report.read_text()
    assert "error EIO" in told and "Unknown error returned by server" in told
    until(lambda: not left(nbdspec))


def test_stale_flags(nbdspec, machine):
    """The pair of sessions that Linux failed: green, and red where the driver keeps what it was told first."""
    honest, stale = nbdspec.cwd / "honest.json", nbdspec.cwd / "stale.json"
    run(nbdspec, "sh", "-c", client(honest, "-c", "write_cache/flush_then_none", "ioctl") + "; " +
        client(stale, "-c", "write_cache/flush_then_none", "-c", "stale/flags", "ioctl keeps-flags"), **machine)
    assert verdicts(honest)["write_cache/flush_then_none"][0] == "pass"
    found = verdicts(stale)
    assert found["write_cache/flush_then_none"] == ("fail", "client_forgets_prior_session")
    assert ("fail", "client_forgets_prior_session") in [v for name, v in found.items() if name.startswith("stale/flags[")]


def test_devices_are_given_back(nbdspec, machine):
    """One that cannot be opened takes none of those that a driver has."""
    script = f"""coproc D {{ {DRIVER}; }}
                 read -r greeting <&${{D[0]}}
                 for tag in {{1..19}}; do
                     echo "$tag 1 connect virtio:nobody" >&${{D[1]}}
                     read -r answer <&${{D[0]}}
                     echo "$answer"
                 done"""
    p = run(nbdspec, "bash", "-c", script, **machine)
    assert p.returncode == 0 and p.stdout.splitlines() == [f"{tag} error ENODEV" for tag in range(1, 20)]


@pytest.mark.parametrize("bug, factor, says", [("panics", 6, "the guest is gone: "), ("hangs", 2, "does not answer")])
def test_lost_guest(nbdspec, bug, factor, says):
    """It is that case's verdict, and the next driver has a new machine."""
    lost, after = nbdspec.cwd / "lost.json", nbdspec.cwd / "after.json"
    p = run(nbdspec, "sh", "-c", client(lost, "-c", "write_cache/flush_then_none", bug, factor=factor) + "; " +
            client(after, "-c", "write_cache/flush_then_none", "netlink"))
    assert "2 boots" in p.stderr
    assert "fail" in verdicts(lost)["write_cache/flush_then_none"] and says in lost.read_text()
    assert verdicts(after)["write_cache/flush_then_none"][0] == "pass"
    until(lambda: not left(nbdspec))


def record(nbdspec, *options):
    """A log on an ext4 of the guest's, recorded: {what: how many}."""
    p = nbdspec("crash", "record", "-o", "trace", "--size", "16M", "--prepare", f"{MOUNTED} make ext4 {{uri}}", "--",
                MOUNTED, "run", *options, "ext4", "{uri}", LOG, "create", "/mount/log", status=0)
    until(lambda: not left(nbdspec))
    return {what: int(n) for n, what in re.findall(r"(\d+) (writes|flushes|with FUA|marks)", p.stdout)}


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="{mount} takes root")


@needs_root
@pytest.mark.parametrize("options, fua, status", [((), True, 0), (("-o", "barrier=0"), False, 1), (("--no-cache",), False, 1)])
def test_recording(nbdspec, options, fua, status):
    """ext4's journal is written with FUA, and no cut harms it; without barriers, or with a disk that has a cache in secret, one does."""
    subprocess.run(["make", "-s", "-C", ROOT, "workloads"], check=True)
    told = record(nbdspec, *options)
    assert told["marks"] == 12 and told["writes"] > 20 and (told["with FUA"] > 0) == fua
    nbdspec("crash", "explore", "--fs", "ext4", "--budget", "40", "--check", f"{LOG} check {{mount}}/log", "trace", status=status)
    until(lambda: not left(nbdspec))


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGKILL])
def test_recording_leaves_nothing(nbdspec, which):
    p = nbdspec.start("crash", "record", "-o", "trace", "--size", "16M", "--prepare", f"{MOUNTED} make ext4 {{uri}}", "--",
                      MOUNTED, "run", "ext4", "{uri}", LOG, "create", "/mount/log")
    until(lambda: any(line.startswith("qemu-system") for line in processes(nbdspec.mark).values()))
    p.send_signal(which)
    p.communicate(timeout=PATIENCE)
    until(lambda: not left(nbdspec))


@pytest.mark.parametrize("arguments, text", [
    ((), "usage:"), (("run", "ext2", "x", "y"), "'run'"), (("run", "-x", "ext4", "x", "y"), "'-x'"),
    (("make", "ext4"), "'make'"), (("run", "ext4", "x", LOG, "a b"), "'a word with a blank'")])
def test_mounted_usage(nbdspec, arguments, text):
    p = subprocess.run([MOUNTED, *arguments], capture_output=True, text=True, env=nbdspec.env, timeout=PATIENCE)
    assert p.returncode == 2 and text in p.stderr


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_leaves_nothing(nbdspec, which):
    p = subprocess.Popen([VM, "sh", "-c", "echo ready; exec sleep 60"], stdout=subprocess.PIPE, text=True, env=nbdspec.env)
    assert p.stdout.readline() == "ready\n"
    assert left(nbdspec)
    p.send_signal(which)
    p.wait(PATIENCE)
    until(lambda: not left(nbdspec))


def test_skips(nbdspec):
    path = nbdspec.cwd / "bin"
    path.mkdir()
    for program in ("sh", "setpriv", "env", "python3", "cat", "rm", "sleep"):
        (path / program).symlink_to(shutil.which(program))
    p = run(nbdspec, "true", PATH=str(path))
    assert p.returncode == 3 and "skipped: qemu-system-x86_64 is not installed" in p.stderr
    p = run(nbdspec, "--version", PATH=str(path))
    assert p.returncode == 3 and p.stdout == "" and "qemu-system-x86_64 is not installed" in p.stderr
    p = run(nbdspec, "true", KERNEL_DEB="/nowhere.deb")
    assert p.returncode == 3 and "skipped: KERNEL_DEB=/nowhere.deb is not there" in p.stderr
    until(lambda: not left(nbdspec))


def own_tree(nbdspec):
    """With a build directory of its own."""
    tree = nbdspec.cwd / "tree"
    (tree / "build").mkdir(parents=True)
    (tree / "ci").symlink_to(os.path.join(ROOT, "ci"))
    return tree


def test_one_makes_the_kernel(nbdspec):
    """The next waits for it, and clears away what it has left when it was killed."""
    tree, tools, deb = own_tree(nbdspec), nbdspec.cwd / "tools", nbdspec.cwd / "kernel.deb"
    deb.touch()
    tools.mkdir()
    (tools / "dpkg-deb").write_text("#!/bin/sh\nexec sleep 60\n")
    (tools / "dpkg-deb").chmod(0o755)
    env = {**nbdspec.env, "PATH": f"{tools}:{os.environ['PATH']}", "KERNEL_DEB": str(deb)}

    def start():
        return subprocess.Popen([tree / "ci/vm/vm", "--version"], env=env)

    def folders():
        return list((tree / "build/vm").glob("new-*"))

    def unpacks():
        return [pid for pid, line in processes(nbdspec.mark).items() if line.startswith("sleep 60")]

    first = start()
    unpacks_first = until(unpacks)
    kept, second = folders(), start()
    until(lambda: has_open(second.pid, "/vm/lock"))
    assert len(kept) == 1 and folders() == kept
    first.kill()
    first.wait(PATIENCE)
    until(lambda: len(unpacks()) == 1 and unpacks() != unpacks_first)
    assert len(folders()) == 1 and folders() != kept
    second.kill()
    second.wait(PATIENCE)
    until(lambda: not left(nbdspec))


def test_whom_nobody_waits_for(tmp_path):
    """A program does not begin when who wants it to end with itself has died before that was settled."""
    begun, words = tmp_path / "begun", tmp_path / "words"
    tells = ("import os, sys; sys.path.insert(0, 'ci/matrix'); from matrix import with_us; "
             "open(sys.argv[1], 'w').write('\\0'.join(with_us('KILL', 'touch', sys.argv[2])))")
    subprocess.run(["/usr/bin/python3", "-B", "-c", tells, words, begun], check=True, cwd=ROOT)
    p = subprocess.run(words.read_text().split("\0"), timeout=PATIENCE)
    assert p.returncode != 0 and not begun.exists()


def has_open(pid, end):
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}").endswith(end):
                return True
        except FileNotFoundError:  # it is closed by now
            pass
    return False


def matrix(nbdspec, lie, glob):
    """Of a tree whose fake server lies, and whose reports are its own."""
    tree = own_tree(nbdspec)
    (tree / "build/vm").symlink_to(os.path.join(ROOT, "build/vm"))
    (tree / "build/nbdspec").write_text(f'#!/bin/sh\nexec {NBDSPEC} "$@" {lie}\n')
    (tree / "build/nbdspec").chmod(0o755)
    p = subprocess.run([tree / MATRIX, glob], capture_output=True, text=True, timeout=PATIENCE, env=nbdspec.env)
    print(p.stdout, p.stderr)
    report = json.loads((tree / "build/reports/matrix-linux-virtio-blk.json").read_text())
    until(lambda: not left(nbdspec))
    return p.returncode, {r["row"]: r["differs"] for r in report["rows"]}


def test_matrix(nbdspec):
    status, rows = matrix(nbdspec, "", "server=FLUSH cache=none*")
    assert status == 0 and len(rows) == 2


def test_matrix_differs(nbdspec):
    """A flush that does nothing is a flush that did not arrive."""
    status, rows = matrix(nbdspec, "--lie power_flush_ignored", "server=FLUSH cache=writeback*")
    assert status == 1
    assert "write, fsync" in rows["server=FLUSH cache=writeback write-cache=on"]
    assert "write" in rows["server=FLUSH cache=writeback write-cache=off"]


def test_matrix_one_flush_lost(nbdspec):
    """The next step's flush does not make up for it."""
    status, rows = matrix(nbdspec, "--lie power_flush_ignored:times=1", "server=FLUSH cache=writeback write-cache=on")
    assert status == 1
    assert [list(differs) for differs in rows.values()] == [["write, fsync"]]
