"""ci/conformance: which targets it runs, and with what."""

import json
import os
import re
import shutil
import subprocess

import pytest

from conftest import NBDSPEC, ROOT

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


@pytest.mark.parametrize("args, words", [(["--deep"], "no option '--deep'"), (["--full", "--full"], "no option '--full'"), (["two"], "no target 'two'"),
                                         (["--full", "two"], "no target 'two'")])
def test_usage(conformance, args, words):
    done, told = conformance(*args)
    assert done.returncode == 2 and words in done.stderr and not told
