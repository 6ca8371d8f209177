"""ci/crash: what it leaves beside its pages."""

import importlib.machinery
import importlib.util
import json
import os
import signal
import subprocess

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT, until


@pytest.fixture
def crash(nbdspec):
    """Explores workloads of cases/crash; returns what came of it."""
    subprocess.run(["make", "-s", "build/crash/append_log"], cwd=ROOT, check=True, capture_output=True)

    def run(*args, start=subprocess.run):
        options = {"cwd": nbdspec.cwd, "env": {**nbdspec.env, "NBDSPEC": NBDSPEC}, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        done = start([os.path.join(ROOT, "ci/crash"), "--reports", nbdspec.cwd / "reports", *args], **options)
        if start is subprocess.run:
            assert done.returncode == 0 and done.stderr == ""
        return done

    return run


def test_pages_replay(nbdspec, crash):
    """The commands of a page find the recording; that of a sound workload is not kept, nor what an earlier run has left."""
    reports = nbdspec.cwd / "reports"
    reports.mkdir()
    (reports / "append-log.trace").write_text("old")
    (reports / "append-log-without-2.html").write_text("old")
    told = crash("--small", "append-log", "append-log-without-2").stdout
    assert [line.split()[:2] for line in told.splitlines()[1:]] == [["append-log", "sound"], ["append-log-without-2", "found"]]
    assert sorted(p.name for p in reports.iterdir()) == ["append-log-without-2.html", "append-log-without-2.json", "append-log-without-2.trace",
                                                         "append-log.html", "append-log.json"]
    findings = json.loads((reports / "append-log-without-2.json").read_text())["findings"]
    for finding in findings[:3]:
        done = subprocess.run(["sh", "-c", finding["replay"]], env={**nbdspec.env, "PATH": f"{os.path.dirname(NBDSPEC)}:{os.environ['PATH']}"},
                              capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stdout.startswith("bad: ")
    assert findings


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(nbdspec, crash, which):
    p = crash("--budget", "1000000", "--jobs", "1", "append-log", start=subprocess.Popen)
    until((nbdspec.cwd / "reports/append-log.trace").exists)
    p.send_signal(which)
    p.communicate(timeout=PATIENCE)
    assert p.returncode != 0 and not list((nbdspec.cwd / "reports").iterdir())
    until(lambda: not nbdspec.leftovers())


def test_kept_recordings(nbdspec, crash):
    crash("--small", "--keep", "kept", "append-log")
    assert (nbdspec.cwd / "kept/append-log.trace").stat().st_size > 1000 and not list((nbdspec.cwd / "reports").glob("*.trace"))


FINDING = """finding 1, {states} states: the checker exited 1
  torn:    78 WRITE 0+8192
           which is: {place}

"""


@pytest.mark.parametrize("text, is_known", [
    (FINDING.format(states=3, place="superblock of group 0"), True),
    (FINDING.format(states=2, place="superblock of group 0"), False),
    (FINDING.format(states=3, place="superblock of group 0, inode 12"), False),
    (FINDING.format(states=3, place="superblock of group 0").replace("which is", "after the mark"), False),
    (FINDING.format(states=1, place="superblock of group 0") + FINDING.format(states=2, place="inode 12").replace("1,", "2,", 1), False),
    (FINDING.format(states=1, place="superblock of group 0") + FINDING.format(states=2, place="superblock of group 0").replace("1,", "2,", 1), True),
])
def test_known_findings(text, is_known):
    """What is known excuses what it names, and nothing beside it or unnamed."""
    loader = importlib.machinery.SourceFileLoader("crash", os.path.join(ROOT, "ci/crash"))
    crash = importlib.util.module_from_spec(importlib.util.spec_from_loader("crash", loader))
    loader.exec_module(crash)
    assert crash.all_known({"known": "superblock of group 0"}, text, "3") is is_known
    assert not crash.all_known({}, text, "3")
