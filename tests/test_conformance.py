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


def test_what_is_known_of_full_runs_alone(conformance, nbdspec):
    """What the sample has not would be stale there; without its line it is red in the full run."""
    tree = nbdspec.cwd / "tree"
    (tree / "ci/targets/one").write_text(
        f"needs={NBDSPEC}\nversion='{NBDSPEC} --version'\noptions=(--destructive -c read/first_block)\n"
        "full=(--destructive -c read/first_block -c read/last_byte)\n"
        f"command=({NBDSPEC} serve --unix '{{socket}}' --export size=1M --lie read_eio)\n")
    assert conformance("--full")[0].returncode == 1
    report = json.loads((tree / "build/reports/one.json").read_text())
    first, last = (f"{r['case']}  fail  {r['requirement']}  reads fail" for r in report["results"])
    known, beyond = tree / "ci/expectations/one", tree / "ci/expectations/one-full"

    def statuses():
        return [conformance(*args)[0].returncode for args in ([], ["--full"])]

    known.write_text(first)
    assert statuses() == [0, 1]
    beyond.write_text(last)
    assert statuses() == [0, 0]
    # The names of the files stand in what was made of them, which is of the last run.
    made = tree / "build/reports/one.expect"
    assert made.read_text() == f"# ci/expectations/one-full\n{last}\n# ci/expectations/one\n{first}\n"
    known.unlink()
    beyond.write_text(f"{first}\n{last}\n")
    assert statuses() == [1, 0]
    beyond.write_text(f"{first}\n{last}\nread/middle  fail  {report['results'][0]['requirement']}\n")
    done, _ = conformance("--full")
    assert done.returncode == 2 and "build/reports/one.expect:4: the reason is missing" in done.stdout
    beyond.unlink()
    conformance()
    assert not made.exists()


def test_full_runs_may_know_what_another_target_knows(conformance, nbdspec):
    """And then nothing else: the target's own lines, and those of full runs, are not read."""
    tree = nbdspec.cwd / "tree"
    target = (f"needs={NBDSPEC}\nversion='{NBDSPEC} --version'\noptions=(--destructive -c read/first_block)\n"
              "full=(--destructive -c read/last_byte)\nfull_expectations=another\n"
              f"command=({NBDSPEC} serve --unix '{{socket}}' --export size=1M --lie read_eio)\n")
    (tree / "ci/targets/one").write_text(target)
    known = []
    for args in ([], ["--full"]):
        assert conformance(*args)[0].returncode == 1
        result, = json.loads((tree / "build/reports/one.json").read_text())["results"]
        known.append(f"{result['case']}  fail  {result['requirement']}  reads fail\n")
    for name, lines in (("one", known[0]), ("one-full", "nonsense\n"), ("another", known[1])):
        (tree / "ci/expectations" / name).write_text(lines)
    assert [conformance(*args)[0].returncode for args in ([], ["--full"])] == [0, 0]
    # Of several, each with what its full runs know.
    (tree / "ci/targets/one").write_text(target.replace("full_expectations=another", "full_expectations='another one'")
                                               .replace("full=(--destructive", "full=(--destructive -c read/first_block"))
    (tree / "ci/expectations/one-full").write_text("# nothing\n")
    assert [conformance(*args)[0].returncode for args in ([], ["--full"])] == [0, 0]
    made = (tree / "build/reports/one.expect").read_text()
    assert made == (f"# ci/expectations/another\n{known[1]}\n# ci/expectations/one-full\n# nothing\n\n"
                    f"# ci/expectations/one\n{known[0]}\n")


def test_what_full_runs_omit_is_told(conformance, nbdspec):
    """Once for all targets of which it is said."""
    for name, omits in (("two", "a: why"), ("three", "b, for reasons"), ("four", "a: why")):
        (nbdspec.cwd / "tree/ci/targets" / name).write_text(f"{TARGET}omits='{omits}'\n")
    for args in ([], ["--full"]):
        done, _ = conformance(*args)
        assert done.returncode == 0 and "\nleft out in full runs, too:\n  a: why: four two\n  b, for reasons: three\nall as" in done.stdout


@pytest.mark.parametrize("name", sorted(set(os.listdir(os.path.join(ROOT, "ci/targets"))) - {"README.md"}))
def test_full_runs_omit_what_they_tell(name):
    """Whose options choose cases, or a sample, says so, and nobody else."""
    script = 'options=() full=(); . "$0"; [ ${#full[@]} -gt 0 ] || full=("${options[@]}"); printf "%s\\n" "${omits-}" "${full[@]@Q}"'
    omits, *full = subprocess.run(["bash", "-c", script, f"ci/targets/{name}"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    chooses = re.search("'(-c|--case|--pairwise|--shard)'|'--crowd' '0'", " ".join(full)) is not None
    assert chooses == bool(omits)


def test_those_of_full_runs_are_of_targets():
    """Each has a longer run, or nobody would read it."""
    found = [re.sub("(-[0-9.]+)?-full$", "", name) for name in os.listdir(os.path.join(ROOT, "ci/expectations")) if name.endswith("-full")]
    assert found
    for name in found:
        with open(os.path.join(ROOT, "ci/targets", name), encoding="utf-8") as target:
            assert re.search("^full=", target.read(), re.M), name


@pytest.mark.parametrize("args, words", [(["--deep"], "no option '--deep'"), (["--full", "--full"], "no option '--full'"), (["--crash", "--crash"], "no option '--crash'"), (["two"], "no target 'two'"),
                                         (["--full", "two"], "no target 'two'")])
def test_usage(conformance, args, words):
    done, told = conformance(*args)
    assert done.returncode == 2 and words in done.stderr and not told
