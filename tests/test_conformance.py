"""ci/conformance: which targets it runs, and with what."""

import json
import os
import re
import shutil
import subprocess

import pytest

from conftest import NBDSPEC, ROOT
from test_crash_page import Tags

TARGET = f"""about='the honest server'
needs={NBDSPEC}
version='{NBDSPEC} --version'
options=(--explore 0 -c explore/haggling)
full=(--explore 1 --explore-walks 20 -c explore/haggling)
command=({NBDSPEC} serve --unix '{{socket}}' --export name=disk)
"""


@pytest.fixture
def conformance(nbdspec):
    """It, in a tree of its own with one target."""
    tree = nbdspec.cwd / "tree"
    for folder in ("ci/targets", "ci/expectations", "ci/matrix", "build"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(os.path.join(ROOT, "ci/conformance"), tree / "ci")
    (tree / "build/nbdspec").symlink_to(NBDSPEC)
    (tree / "ci/targets/one").write_text(TARGET)

    def run(*args):
        done = subprocess.run([tree / "ci/conformance", *args], env=nbdspec.env, capture_output=True, text=True, check=False)
        reports = {p.stem: json.loads(p.read_text()) for p in (tree / "build/reports").glob("*.json")}
        return done, {name: [r["message"] for r in report["results"]] for name, report in reports.items()}

    return run


def test_matrix_of_all(conformance, nbdspec):
    """Also where one was skipped; of what ran now alone."""
    (nbdspec.cwd / "tree/ci/targets/two").write_text(TARGET.replace(f"needs={NBDSPEC}", "needs=no-such-program"))
    done, _ = conformance()
    page = nbdspec.cwd / "tree/build/reports/matrix.html"
    assert done.returncode == 0 and f"all of it as a page: {page}" in done.stdout
    assert page.read_text().count('"target":"one, ') == 1
    assert "left out, for the reasons above: two\n" in done.stdout


WORKLOAD = """[DEFAULT]
record = --size 64k
explore =
small = 40
needs =
because =

[log]
workload = {bin}/append_log write {file} 2
check = {bin}/append_log check {file}
expect = found
because = the head may count a record that is not there

[lacking]
workload = true
check = true {file}
expect = sound
needs = no-such-program
"""


@pytest.fixture
def crash(nbdspec):
    """ci/crash in that tree, with one workload that can run; and what an earlier run has left."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/fuse")
    subprocess.run(["make", "-s", "build/crash/append_log"], cwd=ROOT, check=True, capture_output=True)
    tree = nbdspec.cwd / "tree"
    for folder in ("cases/crash", "build/reports/crash"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(os.path.join(ROOT, "ci/crash"), tree / "ci")
    (tree / "build/crash").symlink_to(os.path.join(ROOT, "build/crash"))
    (tree / "cases/crash/workloads").write_text(WORKLOAD)
    for name in ("gone", "lacking"):
        (tree / f"build/reports/crash/{name}.json").write_text("{}")
    return tree


def in_the_page(tree):
    return json.loads(Tags((tree / "build/reports/matrix.html").read_text()).scripts[0])


def test_power_cuts_of_now(conformance, crash):
    """What an earlier run has left is not in the page, nor is anything without --crash."""
    done, _ = conformance("--crash")
    assert done.returncode == 0 and done.stderr == "" and re.search(r"(?m)^log +found ", done.stdout) and "lacking" in done.stdout
    page = in_the_page(crash)
    assert [r["target"].split(",")[0] for r in page["runs"]] == ["one"]
    assert [(r["judged"], r["failing_states"] > 0) for r in page["crashes"]] == [
        ({"verdict": "found", "because": "the head may count a record that is not there", "red": False}, True)]
    done, _ = conformance()
    assert done.returncode == 0 and in_the_page(crash)["crashes"] == []


def test_power_cuts_that_are_red(conformance, crash):
    """They are in the page as such, and in the exit status; and where nothing of them can be done, that is told."""
    table = crash / "cases/crash/workloads"
    table.write_text(WORKLOAD.replace("expect = found", "expect = sound"))
    done, _ = conformance("--crash", "--full")
    assert done.returncode == 1 and "all as expected" not in done.stdout
    judged = in_the_page(crash)["crashes"][0]["judged"]
    assert judged == {"verdict": "not as expected", "because": "failing states where there may be none", "red": True}
    table.write_text("[DEFAULT]\n" + WORKLOAD[WORKLOAD.index("[lacking]"):])
    done, _ = conformance("--crash")
    assert done.returncode == 3 and in_the_page(crash)["crashes"] == []


def sequences(message):
    return int(message.split()[0])


def test_full_is_more(conformance):
    done, told = conformance()
    assert done.returncode == 0 and list(told) == ["one"]
    few = sequences(told["one"][0])
    assert re.search("left out, and part of 'make conformance-full' .*: more .* of one\n", done.stdout)
    done, told = conformance("--full", "o*")
    assert done.returncode == 0 and len(told["one"]) == 1 and sequences(told["one"][0]) > few + 20
    assert "left out" not in done.stdout


@pytest.mark.parametrize("args, words", [(["--deep"], "no option '--deep'"), (["--full", "--full"], "no option '--full'"), (["--crash", "--crash"], "no option '--crash'"), (["two"], "no target 'two'"),
                                         (["--full", "two"], "no target 'two'")])
def test_usage(conformance, args, words):
    done, told = conformance(*args)
    assert done.returncode == 2 and words in done.stderr and not told
