"""The releases' folders: each is a Debian, made by debootstrap with the implementations that the targets want, and kept.

A folder is made under another name and gets its own when it is whole; its list of packages, taken then, is compared at each
use. It is made in a namespace that ends with us: whatever happens, nothing stays mounted, and nothing runs on.
"""
import contextlib, fcntl, json, os, shutil, subprocess, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RELEASES = {"debian-11": "bullseye", "debian-12": "bookworm", "debian-13": "trixie", "debian-testing": "testing"}
MIRROR = os.environ.get("NBDSPEC_MIRROR", "http://deb.debian.org/debian")
CACHE = os.path.abspath(os.environ.get("NBDSPEC_RELEASES") or os.path.join(ROOT, "build/releases"))
PACKAGES = ["fio", "libnbd-bin", "nbd-client", "nbd-server", "nbdkit", "python3-libnbd", "qemu-system-common", "qemu-utils"]
# The driver of libnbd is built inside: a program of a newer Debian does not run in an older one.
BUILDING = ["gcc", "libc6-dev", "libnbd-dev", "pkg-config"]
MADE = "nbdspec-release.json"  # in the folder: its suite, when it was made, and its packages
# A namespace of mounts and processes, which ends with its first process, and that with who has started it.
APART = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]

FILL = """
set -eu
debootstrap --variant=minbase "$SUITE" "$FOLDER" "$MIRROR" sid
printf '#!/bin/sh\\nexit 101\\n' >"$FOLDER/usr/sbin/policy-rc.d"
chmod 755 "$FOLDER/usr/sbin/policy-rc.d"
mount -t proc proc "$FOLDER/proc"
export DEBIAN_FRONTEND=noninteractive
chroot "$FOLDER" apt-get -qq -y --no-install-recommends install $PACKAGES
chroot "$FOLDER" apt-get clean
rm -rf "$FOLDER"/var/lib/apt/lists/*
"""


class Untestable(Exception):
    """What is not there, and what to do."""


def missing():
    if os.geteuid() != 0:
        return "not root, and it takes root to make a Debian in a folder and to run what is in it"
    for program, package in (("debootstrap", "debootstrap"), ("unshare", "util-linux"), ("setpriv", "util-linux"), ("jq", "jq")):
        if not shutil.which(program):
            return f"{program} is not installed (apt-get install {package}, or ci/install releases)"
    tried = subprocess.run([*APART, "true"], text=True, capture_output=True)
    if tried.returncode:
        return f"it takes mounts of its own: {(tried.stderr.strip() or 'no word').splitlines()[-1]} (no chroot; in a container, --privileged)"
    return None


def folder(release):
    return os.path.join(CACHE, release)


@contextlib.contextmanager
def lock(how):
    """fcntl.LOCK_SH for who uses folders, LOCK_EX for who makes or removes them."""
    os.makedirs(CACHE, exist_ok=True)
    with open(os.path.join(CACHE, "lock"), "w") as f:
        try:
            fcntl.flock(f, how | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Untestable(f"the folders in {CACHE} are in use by another run")
        yield


def installed(path):
    """{package: version}."""
    listed = subprocess.run(["chroot", path, "dpkg-query", "-W", "-f", "${Package} ${Version}\n"], text=True, capture_output=True)
    if listed.returncode:
        raise Untestable(f"{path}: its packages cannot be listed: {(listed.stderr.strip() or 'no word').splitlines()[-1]}")
    return dict(line.split(" ") for line in listed.stdout.splitlines())


def recorded(release):
    """What was noted when it was made, or None: there is no such folder."""
    try:
        with open(os.path.join(folder(release), MADE)) as f:
            return json.load(f)
    except FileNotFoundError:
        return None


def wrong(release):
    """What is not as it was made, in one line, or None."""
    made, path = recorded(release), folder(release)
    now = installed(path)
    for name in sorted(made["packages"].keys() | now.keys()):
        was, has = made["packages"].get(name, "absent"), now.get(name, "absent")
        if was != has:
            return f"{path}: {name} is {has}, and was {was} when the folder was made"
    changed = subprocess.run(["chroot", path, "dpkg", "--verify", *PACKAGES], text=True, capture_output=True)
    if changed.stdout or changed.returncode:
        return f"{path}: not as packaged: {(changed.stdout or changed.stderr).splitlines()[0].split()[-1]}"
    return None


def remove(path):
    """Not through what somebody has mounted there."""
    with open("/proc/self/mounts") as mounts:
        if at := [line.split()[1] for line in mounts if line.split()[1].startswith(path + "/")]:
            raise Untestable(f"{at[0]} is a mount: umount it first")
    shutil.rmtree(path)


def make(release, say):
    """Whole or not at all; what it says meanwhile is in CACHE/RELEASE.log."""
    new, log, begun = folder(release) + ".new", folder(release) + ".log", time.monotonic()
    if os.path.exists(new):
        remove(new)
    say(f"{release}: making {folder(release)} from {MIRROR} …")
    with open(log, "w") as f:
        made = subprocess.run([*APART, "sh", "-c", FILL], stdin=subprocess.DEVNULL, stdout=f, stderr=f, env={
            **os.environ, "SUITE": RELEASES[release], "FOLDER": new, "MIRROR": MIRROR, "PACKAGES": " ".join(PACKAGES + BUILDING)})
    if made.returncode:
        last = [line for line in open(log, errors="replace").read().splitlines() if line[:2] in ("E:", "W:")] or [f"see {log}"]
        if os.path.exists(new):
            remove(new)
        raise Untestable(f"{release} cannot be made: {last[-1]}; all that was said: {log}")
    with open(os.path.join(new, MADE), "w") as f:
        json.dump({"suite": RELEASES[release], "mirror": MIRROR, "made": int(time.time()), "packages": installed(new)}, f, indent=1)
    os.rename(new, folder(release))
    say(f"{release}: made in {time.monotonic() - begun:.0f} s")


def need(releases, say):
    """That all of them are there; those that are, are as they were made."""
    with lock(fcntl.LOCK_SH):
        for release in releases:
            if recorded(release) and (why := wrong(release)):
                raise Untestable(f"{why}; ci/releases --clean -r {release}")
        if all(map(recorded, releases)):
            return
    with lock(fcntl.LOCK_EX):
        for release in releases:
            if recorded(release) is None:
                make(release, say)


def clean(releases):
    """Returns the paths that are gone."""
    if not os.path.isdir(CACHE):
        return []
    with lock(fcntl.LOCK_EX):
        paths = [folder(r) + end for r in releases for end in ("", ".new", ".log") if os.path.exists(folder(r) + end)]
        for path in paths:
            remove(path) if os.path.isdir(path) else os.unlink(path)
    if set(os.listdir(CACHE)) == {"lock"}:
        shutil.rmtree(CACHE)
    return paths
