"""`make new-case`: the skeleton of a case compiles, is listed, and is never taken for a case that passes."""

import glob
import os
import shutil
import subprocess

import pytest

from conftest import NBDSPEC, ROOT, linked


@pytest.fixture
def tree(tmp_path):
    """What new-case looks at, in a folder of its own; and how it is called, as a user does."""
    root = tmp_path / "tree"
    shutil.copytree(os.path.join(ROOT, "cases"), root / "cases")
    (root / "ci").mkdir()
    shutil.copy(os.path.join(ROOT, "ci/new-case"), root / "ci")
    for name in ("Makefile", ".clang-format"):
        shutil.copy(os.path.join(ROOT, name), root)

    def new_case(*words, status=0):
        env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
        done = subprocess.run(["make", "-s", "new-case", *words], cwd=root, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == status
        return done.stdout if status == 0 else done.stderr

    new_case.root = root
    return new_case


def files(root):
    return {path: os.path.getmtime(path) for path in glob.glob(f"{root}/cases/**", recursive=True) if os.path.isfile(path)}


SUITES = {"server": ("requests", "in_pairs", "numbers_big_endian"), "durability": ("power", "twice", "flush_persists"),
          "client": ("copying", "again", "client_transmission_no_disconnect"), "driver": ("driving", "along", "client_transmission_no_disconnect")}


def test_skeletons(nbdspec, tree):
    """Of each suite, in files of their own: linked, listed, and an error until they are written."""
    for suite, (group, name, requirement) in SUITES.items():
        told = tree(f"{group}/{name}", requirement, *(["SUITE=" + suite] if suite != "server" else []))
        assert f"/{group}.c:5: {group}/{name} is to be written" in told
    made = [path for path in glob.glob(f"{tree.root}/cases/*/*.c") if not os.path.exists(os.path.join(ROOT, os.path.relpath(path, tree.root)))]
    assert len(made) == len(SUITES)
    program = linked(nbdspec.cwd / "with-skeletons", made)
    if shutil.which("clang-format-14"):
        subprocess.run(["clang-format-14", "--dry-run", "--Werror", *made], check=True)

    def run(*args, status):
        done = subprocess.run([program, *args], env=nbdspec.env, cwd=nbdspec.cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == status
        return done.stdout + done.stderr

    listed = run("list", status=0)
    assert all(f"\n{group}/{name} " in listed for group, name, _ in SUITES.values())
    serve = ["--", NBDSPEC, "serve", "--unix", "{socket}"]
    assert "requests/in_pairs is not written yet: cases/server/requests.c" in run("server", "-c", "requests/*", "-c", "abort/acked", *serve, status=3)
    assert "copying/again is not written yet" in run("client", "-c", "copying/*", "--", NBDSPEC, "driver", "--copy", "{uri}", "{out}", status=3)
    assert "driving/along is not written yet" in run("client", "-c", "driving/*", "--driver", f"{NBDSPEC} driver", status=3)


def test_behind_others(tree):
    """Of a group that there is, it comes at the end of its file."""
    before = (tree.root / "cases/server/abort.c").read_text()
    assert "cases/server/abort.c:" in tree("abort/thrice", "abort_acked", "rep_ack_empty")
    after = (tree.root / "cases/server/abort.c").read_text()
    assert after.startswith(before) and "R(abort_acked), R(rep_ack_empty))" in after[len(before):] and "proto.md:1194" in after[len(before):]
    # And of one whose file has another name.
    assert "cases/client/" in tree("sizes/odd", "client_within_export", "SUITE=driver")
    assert "there is a case abort/thrice already" in tree("abort/thrice", "abort_acked", status=2)


@pytest.mark.parametrize("words, says", [
    ([], "no name"),
    (["abort"], "'abort' is no name of a case"),
    (["Abort/acked", "abort_acked"], "is no name of a case"),
    (["abort/a-b", "abort_acked"], "is no name of a case"),
    (["../etc/passwd", "abort_acked"], "is no name of a case"),
    (["abort/", "abort_acked"], "is no name of a case"),
    (["abort/acked", "abort_acked"], "there is a case abort/acked already: cases/server/abort.c:"),
    (["abort/thrice"], "names what it holds a peer to"),
    (["abort/thrice", "no_such_requirement"], "there is no requirement 'no_such_requirement'"),
    (["abort/thrice", "abort_ack.*"], "'abort_ack.*' is no name of a requirement"),
    (["abort/thrice", "newstyle_debug_port"], "no test can observe newstyle_debug_port"),
    (["abort/thrice", "client_aborts_on_shutdown"], "does not bind the server"),
    (["abort/thrice", "abort_acked", "SUITE=driver"], "does not bind the client"),
    (["abort/thrice", "abort_acked", "SUITE=mutants"], "there is no suite 'mutants'"),
])
def test_usage(tree, words, says):
    """One line, and nothing is written."""
    before = files(tree.root)
    told = tree(*words, status=2)
    assert says in told and told.count("ci/new-case: ") == 1 and "\n" not in told.partition(says)[0].partition("ci/new-case: ")[2]
    assert files(tree.root) == before


def test_it_cannot_be_written(tree):
    (tree.root / "cases/server/abort.c.new").mkdir()
    assert "abort.c.new" in tree("abort/thrice", "abort_acked", status=2)
