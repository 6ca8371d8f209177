"""ci/releases: its command line, why it is skipped, its folders, the expectations of a release, and its tables."""

import argparse
import fcntl
import importlib.machinery
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT, processes, until

sys.path.insert(0, os.path.join(ROOT, "ci/release"))
import expect
import folders

GOOD = [NBDSPEC, "serve", "--unix", "{socket}", "--export", "size=4M"]
BAD = [*GOOD, "--lie", "read_eio"]
RELEASES = ["debian-11", "debian-12", "debian-13", "debian-testing"]
as_root = pytest.mark.skipif(folders.missing() is not None, reason=str(folders.missing()))


@pytest.fixture
def tree(nbdspec):
    """A tree whose reports, folders and expectations are its own."""
    tree = nbdspec.cwd / "tree"
    (tree / "ci").mkdir(parents=True)
    for name in os.listdir(os.path.join(ROOT, "ci")):
        if name != "expectations":
            (tree / "ci" / name).symlink_to(os.path.join(ROOT, "ci", name))
    (tree / "ci/expectations").mkdir()
    (tree / "build").mkdir()
    (tree / "build/nbdspec").symlink_to(NBDSPEC)
    nbdspec.env["NBDSPEC_RELEASES"] = str(tree / "folders")
    return tree


@pytest.fixture
def releases(nbdspec, tree):
    def run(*words, status=0, **env):
        done = subprocess.run([tree / "ci/releases", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
                              env={**nbdspec.env, **env})
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        if status > 1:
            assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("ci/releases: "), done.stderr
        return done.stdout if status <= 1 else done.stderr

    return run


# ---- the command line ----

def test_help(releases):
    text = releases("--help")
    for word in ("-r RELEASE", "-j N", "-v", "--tables", "--list", "--make", "--clean", "--in COMMAND", "NBDSPEC_RELEASES", "NBDSPEC_MIRROR", *RELEASES):
        assert word in text


@pytest.mark.parametrize("words, names", [
    (("-r", "debian-10"), ["debian-10", *RELEASES]),
    (("-r", "debian-12", "nbdkit-nope"), ["nbdkit-nope", "nbdkit-file"]),
    (("linux-nbd",), ["linux-nbd"]),
    (("--make", "qemu-nbd"), ["qemu-nbd"]),
    (("--in", "true"), ["one release"]),
    (("-r", "debian-12", "--in"), ["a command"]),
    (("--list", "-r", "debian-12", "--in", "true"), ["--in"]),
    (("-j", "0"), ["-j"]),
])
def test_usage(releases, words, names):
    text = releases(*words, status=2)
    assert all(name in text for name in names)


def test_usage_of_an_option(tree, nbdspec):
    for words in (("--nope",), ("--make", "--clean"), ("-r",)):
        done = subprocess.run([tree / "ci/releases", *words], env=nbdspec.env, capture_output=True, text=True)
        assert done.returncode == 2 and "error: " in done.stderr and "Traceback" not in done.stderr


def test_list(releases, tree):
    text = releases("--list")
    assert [line.split(" ")[0] for line in text.splitlines()] == RELEASES
    assert text.count(f"not made yet, {tree}/folders/") == 4
    assert not (tree / "folders").exists()


# ---- why it is skipped ----

def test_without_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert folders.missing().startswith("not root, ")


def test_without_debootstrap(releases, tmp_path):
    (tmp_path / "empty").mkdir()
    for words in ((), ("--make",), ("--clean",), ("-r", "debian-12", "--in", "true")):
        text = releases(*words, status=3, PATH=str(tmp_path / "empty"))
        assert re.search(r"skipped: (debootstrap is not installed \(.*ci/install releases\)|not root, )", text)


# ---- folders ----

def program(folder, name, script):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n" + script)
    (folder / name).chmod(0o755)


@as_root
def test_a_folder_that_cannot_be_made(releases, tree, tmp_path):
    """Nothing of it stays but what was said."""
    program(tmp_path / "bin", "debootstrap", 'mkdir -p "$3/usr/sbin"; echo "E: no such suite" >&2; exit 1\n')
    text = releases("--make", "-r", "testing", status=3, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert "debian-testing cannot be made: E: no such suite" in text and "debian-testing.log" in text
    assert sorted(os.listdir(tree / "folders")) == ["debian-testing.log", "lock"]


@as_root
def test_killed_while_one_is_made(nbdspec, tree, tmp_path):
    """It does not count, what it has started ends, and --clean removes it."""
    program(tmp_path / "bin", "debootstrap", 'mkdir -p "$3/usr/sbin"; mount -t tmpfs tmpfs "$3/usr/sbin"; touch "$3/begun"; sleep 1000\n')
    new = tree / "folders/debian-13.new"
    nbdspec.env["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
    with subprocess.Popen([tree / "ci/releases", "--make", "-r", "debian-13"], env=nbdspec.env, stdout=subprocess.DEVNULL) as p:
        until(lambda: (new / "begun").exists())
        p.send_signal(signal.SIGKILL)
    until(lambda: not processes(nbdspec.mark))
    with open("/proc/self/mounts") as f:
        assert str(new) not in f.read()
    assert "debian-13 (trixie): not made yet" in subprocess.run([tree / "ci/releases", "--list"], env=nbdspec.env, capture_output=True, text=True).stdout
    out = subprocess.run([tree / "ci/releases", "--clean"], env=nbdspec.env, capture_output=True, text=True, check=True).stdout
    assert f"removed: {new}\n" in out and not (tree / "folders").exists()


@as_root
def test_in_use(releases, tree):
    (tree / "folders/debian-11").mkdir(parents=True)
    with open(tree / "folders/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert "in use" in releases("--clean", status=3)
        assert "in use" in releases("--make", status=3)
    assert releases("--clean", "-r", "bullseye") == f"removed: {tree}/folders/debian-11\n"
    assert releases("--clean") == "removed: nothing\n"


@as_root
@pytest.mark.parametrize("change, says", [
    (lambda made: made["packages"].update(nbdkit="0.1"), "nbdkit is .*, and was 0.1 when"),
    (lambda made: made["packages"].update(nope="1"), "nope is absent, and was 1"),
])
def test_a_folder_that_has_changed(releases, tree, change, says):
    real = os.path.join(ROOT, "build/releases/debian-12")
    if not os.path.exists(os.path.join(real, folders.MADE)):
        pytest.skip(f"there is no {real}")
    # Of the folder only that file is another's.
    (tree / "folders/debian-12").mkdir(parents=True)
    for name in os.listdir(real):
        if name not in (folders.MADE, "etc", "lib", "lib64", "usr", "var", "bin"):
            continue
        if name == folders.MADE:
            with open(os.path.join(real, name)) as f:
                made = json.load(f)
            change(made)
            (tree / "folders/debian-12" / name).write_text(json.dumps(made))
        else:
            subprocess.run(["cp", "-al", os.path.join(real, name), tree / "folders/debian-12/"], check=True)
    text = releases("-r", "debian-12", "qemu-nbd", status=3)
    assert re.search(says, text) and "ci/releases --clean -r debian-12" in text


@as_root
def test_nothing_of_it_stays(nbdspec, tree):
    """Not when it is killed either: no process, no mount, no file."""
    real = os.path.join(ROOT, "build/releases")
    if not os.path.exists(os.path.join(real, "debian-12", folders.MADE)):
        pytest.skip(f"there is no {real}/debian-12")
    nbdspec.env["NBDSPEC_RELEASES"] = real
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen([tree / "ci/releases", "-r", "bookworm", "--in", "chroot", "/mnt/root", "sh", "-c",
                               "touch /mnt/here; nbdkit -f -U /mnt/s memory 1M & echo begun; sleep 1000"],
                              env=nbdspec.env, stdout=subprocess.PIPE, text=True) as p:
            assert p.stdout.readline() == "begun\n"
            p.send_signal(how)
            p.send_signal(how)
        assert p.returncode == (130 if how != signal.SIGKILL else -how)
        until(lambda: not processes(nbdspec.mark))
        until(lambda: not os.listdir(nbdspec.tmp))
        assert not os.path.exists("/mnt/here")


# ---- expectations ----

BASE = """# Debian 12
a/one  fail  abort_acked  a reason
	of two lines
a/two[x]  fail  abort_acked  why
a/two[y=*]  warn  abort_acked  why
b/three  fail  abort_acked  why
"""


@pytest.fixture
def composed(tree, monkeypatch):
    monkeypatch.chdir(tree)

    def compose(own, base=BASE):
        (tree / "ci/expectations/t").write_text(base)
        (tree / "ci/expectations/t-debian-13").write_text(own)
        return expect.composed("t", "debian-13")

    return compose


def test_what_differs_in_a_release(composed):
    assert composed("# none\n") == BASE.split("\n", 1)[1]
    text = composed("- a/two[*]  done\n\tright since 2.0\n- b/*  gone\nc/four  fail  abort_acked  new here\n\tin all\n")
    assert text == "c/four  fail  abort_acked  new here\n\tin all\na/one  fail  abort_acked  a reason\n\tof two lines\n"
    assert expect.composed("t", "debian-12") == BASE.split("\n", 1)[1]
    assert expect.composed("none", "debian-12") == ""
    # Testing is as Debian 13, but for what it has itself; and what all of an implementation have comes last.
    assert expect.composed("t", "debian-testing") == text
    with open("ci/expectations/t-debian-testing", "w") as f:
        f.write("- a/one  gone\n")
    assert expect.composed("t", "debian-testing").startswith("a/two[x]")
    with open("ci/expectations/t", "a") as f:
        f.write("last  fail  abort_acked  why\n")
    with open("ci/expectations/t-x", "w") as f:
        f.write("b/three  fail  abort_acked  why\n")
    assert expect.composed("t-x", "debian-13") == "c/four  fail  abort_acked  new here\n\tin all\n"


@pytest.mark.parametrize("own, says", [
    ("# x\n- a/nope  why\n", "ci/expectations/t-debian-13:2: a/nope: no line of ci/expectations/t has such a pattern"),
    ("- a/one\n", "ci/expectations/t-debian-13:1: the reason is missing"),
])
def test_a_difference_that_is_none(composed, own, says):
    with pytest.raises(expect.Wrong, match=re.escape(says)):
        composed(own)


def test_those_of_the_releases_are_right(monkeypatch):
    """Each is of a target and of a release, and goes with Debian 12's."""
    monkeypatch.chdir(ROOT)
    found = [(name.removesuffix("-" + r), r) for name in os.listdir("ci/expectations") for r in RELEASES if name.endswith("-" + r)]
    assert found
    for target, release in found:
        targets = os.listdir("ci/targets")
        of_it = [target] if target in targets else [t for t in targets if t.startswith(target + "-")]
        assert of_it and all(expect.composed(t, release) != expect.composed(t, "debian-12") for t in of_it)


# ---- the targets ----

@pytest.fixture
def program_itself():
    loader = importlib.machinery.SourceFileLoader("releases", os.path.join(ROOT, "ci/releases"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("releases", loader))
    loader.exec_module(module)
    return module


def test_what_has_to_be_named(program_itself, monkeypatch):
    """Without a name it is left out, and nothing else is."""
    monkeypatch.chdir(ROOT)
    named, chosen = program_itself.NAMED, program_itself.chosen
    assert set(named) and set(chosen(["*"])) - set(chosen([])) == set(named)
    assert chosen([named[0]]) == [named[0]]


@pytest.mark.parametrize("ends, status", [
    ({}, 0),
    ({"debian-11/nbdkit-file": 4}, 0),
    ({"debian-12/qemu-nbd": 1}, 1),
    ({"debian-12/qemu-nbd": 1, "debian-11/qemu-nbd": 3}, 3),
    ({"debian-12/qemu-nbd": 139}, 3),
    ({"debian-11/nbdkit-file": 4, "debian-11/qemu-nbd": 4}, 3),
])
def test_each_target_of_each_release(nbdspec, tree, program_itself, monkeypatch, capfd, ends, status):
    """Side by side; the newest first. Each has its row, each release its page, and the worst counts."""
    began = []

    def enter(run, release, command, **options):
        began.append((release, *command))
        end = ends.get(f"{release}/{command[1]}", 0)
        if end < 2:
            report(nbdspec, tree, release, command[1], GOOD, cases=("-c", "read/first_block"))
        return subprocess.Popen(["sh", "-c", f"echo the row of {command[1]}; exit {end}"], **options), str(tree / f"build/{release}-{command[1]}")

    monkeypatch.chdir(tree)
    monkeypatch.setattr(program_itself, "enter", enter)
    monkeypatch.setattr(program_itself, "versions", lambda release: f"{release}: versions")
    monkeypatch.setattr(program_itself, "stop_on_signals", lambda run: None)
    monkeypatch.setattr(program_itself.folders, "need", lambda releases, say: None)
    monkeypatch.setattr(program_itself.folders, "CACHE", str(tree / "folders"))
    options = argparse.Namespace(release=["debian-11", "debian-12"], jobs=1, globs=["*"])
    targets = ["nbdkit-file", "qemu-nbd"]
    assert program_itself.run_all(options, targets) == status
    assert began == [(r, "ci/conformance", t) for r in reversed(options.release) for t in targets]
    out = capfd.readouterr().out
    for release in options.release:
        ran = any(ends.get(f"{release}/{t}", 0) < 2 for t in targets)
        assert (tree / f"build/reports/{release}/matrix.html").exists() == ran == (f"{release}       all of it as a page: " in out)
        assert ran or f"{release}       no target could be run" in out
        assert all(f"{release}       the row of {t}\n" in out for t in targets)


# ---- tables ----

def report(nbdspec, tree, release, target, command, lines="", status=0, cases=("-c", "read/*")):
    folder = tree / "build/reports" / release
    folder.mkdir(parents=True, exist_ok=True)
    (nbdspec.cwd / "known").write_text(lines)
    nbdspec("server", "-q", "--destructive", *cases, "--expect", "known", "--json", folder / f"{target}.json", "--", *command, status=status)


def test_tables(nbdspec, tree, releases):
    only = ("-c", "read/first_block", "-c", "read/last_byte")
    report(nbdspec, tree, "debian-11", "nbdkit-file", BAD, status=1, cases=only)
    results = json.loads((tree / "build/reports/debian-11/nbdkit-file.json").read_text())["results"]
    known = "".join(f"{r['case']}  fail  {r['requirement']}  it fails\n" for r in results)
    report(nbdspec, tree, "debian-12", "nbdkit-file", BAD, known, cases=only)
    report(nbdspec, tree, "debian-13", "nbdkit-file", GOOD, cases=only)
    report(nbdspec, tree, "debian-13", "qemu-nbd", GOOD, cases=only)
    (tree / "ci/expectations/nbdkit-file").write_text(known)
    (tree / "ci/expectations/nbdkit-file-debian-13").write_text("- read/*  mended in 2.0\n")
    out = releases("--tables").strip("\n").split("\n")
    table = [line.split() for line in out]
    assert table[0] == ["passed/failed/expected/new", *RELEASES]
    assert table[1] == ["nbdkit-file", "0/2/0/2", "0/2/2/0", "2/0/0/0", "-"]
    assert table[2] == ["qemu-nbd", "-", "-", "2/0/0/0", "-"]
    assert table[4] == ["what", "changed", *RELEASES, "requirement"]
    assert [" ".join(row) for row in table[5:]] == [
        line for r in results for line in (f"{r['case']} FAIL fail pass - {r['requirement']}", "nbdkit-file", "it fails", "mended in 2.0")]
    written = json.loads((tree / "build/reports/releases.json").read_text())
    assert written["changed"][0]["verdicts"] == {"debian-11": "FAIL", "debian-12": "fail", "debian-13": "pass"}
    assert written["targets"]["qemu-nbd"]["debian-13"]["pass"] == 2
    assert (tree / "build/reports/releases.txt").read_text().strip("\n").split("\n") == out
    assert "nbdkit-file" not in releases("--tables", "qemu-*")
    assert "nothing changed" in releases("--tables", "-r", "trixie")


def test_points_that_changed_alike_are_one_line(nbdspec, tree, releases):
    report(nbdspec, tree, "debian-12", "qemu-nbd", GOOD, cases=("-c", "read/contents"))
    report(nbdspec, tree, "debian-13", "qemu-nbd", BAD, status=1, cases=("-c", "read/contents"))
    points = [r["point"] for r in json.loads((tree / "build/reports/debian-13/qemu-nbd.json").read_text())["results"] if r["verdict"] == "fail"]
    assert len(points) > 1 and None not in points
    assert f"({len(points)} points)" in releases("--tables") and points[0] not in releases("--tables")
    assert all(f"[{p}]" in releases("--tables", "-v") for p in points[:3])


def test_a_report_that_is_cut_off(nbdspec, tree, releases):
    report(nbdspec, tree, "debian-12", "qemu-nbd", GOOD)
    whole = (tree / "build/reports/debian-12/qemu-nbd.json").read_text()
    (tree / "build/reports/debian-12/nbdkit-file.json").write_text(whole[:-100])
    assert "qemu-nbd" in releases("--tables") and "nbdkit-file" not in releases("--tables")


def test_no_reports(releases):
    assert "no reports" in releases("--tables", status=3)
