"""ci/crash: what it leaves beside its pages."""

import importlib.machinery
import importlib.util
import json
import os
import signal
import subprocess

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT, processes, until


@pytest.fixture
def crash(nbdspec):
    """Explores workloads of cases/crash; returns what came of it."""
    subprocess.run(["make", "-s", "build/crash/append_log"], cwd=ROOT, check=True, capture_output=True)

    def run(*args, start=subprocess.run, status=0, env=None):
        options = {"cwd": nbdspec.cwd, "env": {**nbdspec.env, "NBDSPEC": NBDSPEC, **(env or {})}, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        done = start([os.path.join(ROOT, "ci/crash"), "--reports", nbdspec.cwd / "reports", *args], **options)
        if start is subprocess.run:
            assert done.returncode == status and done.stderr == ""
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


def test_no_such_disk(tmp_path, crash):
    """A disk whose path is mistyped does not become a file; a new file is one."""
    run = [os.path.join(ROOT, "build/crash/append_log")]
    for status, how in ((3, "write"), (0, "create"), (3, "create"), (0, "write")):
        assert subprocess.run([*run, how, tmp_path / "log"], capture_output=True, check=False).returncode == status
    subprocess.run([*run, "check", tmp_path / "log"], check=True)


def test_skipped(nbdspec, crash):
    """Nothing of an earlier run is taken for what came of this one."""
    reports = nbdspec.cwd / "reports"
    reports.mkdir()
    for ending in ("html", "json", "trace"):
        (reports / f"xfs-rename.{ending}").write_text("old")
    told = crash("--small", "xfs-rename", env={"PATH": "/nowhere"}, status=3).stdout
    assert "skip   mkfs.xfs is not installed" in told and not list(reports.iterdir())


def test_recording_that_cannot_be_explored(nbdspec, crash):
    """It is kept, to look at."""
    program = nbdspec.cwd / "program"
    program.write_text(f"#!/bin/sh\n[ $2 != explore ] || {{ echo 'nbdspec crash explore: no room' >&2; exit 3; }}\nexec {NBDSPEC} \"$@\"\n")
    program.chmod(0o755)
    told = crash("--small", "append-log", env={"NBDSPEC": str(program)}, status=1).stdout
    trace = nbdspec.cwd / "reports/append-log.trace"
    assert f"nbdspec crash explore: no room; its recording is {trace}\n" in told and trace.stat().st_size > 1000


# What takes its time, and stands in place of a part of the real work.
LONG = {"record": "exec {0} crash record -q -o \"$5\" -- sh -c 'sleep 1000; : {{uri}}'",
        "explore": "shift 4; exec {0} crash explore --check \"sh -c 'sleep 1000; : {{file}}'\" \"$@\"",
        "explored": "{0} \"$@\"; exec sleep 1000"}


@pytest.mark.parametrize("what", LONG)
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(nbdspec, crash, which, what):
    program = nbdspec.cwd / "program"
    program.write_text(f"#!/bin/sh\ncase $2 in {what[:7]}) {LONG[what].format(NBDSPEC)};; esac\nexec {NBDSPEC} \"$@\"\n")
    program.chmod(0o755)
    p = crash("--small", "append-log", start=subprocess.Popen, env={"NBDSPEC": str(program)})
    until(lambda: any(line.startswith("sleep 1000") for line in processes(nbdspec.mark).values()))
    assert (nbdspec.cwd / "reports/append-log.trace").exists()
    p.send_signal(which)
    _, err = p.communicate(timeout=PATIENCE)
    assert (p.returncode, err) == ((130, "interrupted\n") if which == signal.SIGINT else (143, "")) and not list((nbdspec.cwd / "reports").iterdir())
    until(lambda: not nbdspec.leftovers())


def test_kept_recordings(nbdspec, crash):
    crash("--small", "--keep", "kept", "append-log")
    assert (nbdspec.cwd / "kept/append-log.trace").stat().st_size > 1000 and not list((nbdspec.cwd / "reports").glob("*.trace"))


PLACE = """           which is: {place}
"""
TORN = """  torn:    78 WRITE 0+8192, after the mark "file2 2"
           1536+512 holds 34 WRITE 0+8192
"""
LOST = """  lost:    78 WRITE 0+8192
"""
FINDING = """
finding 1, {states} state{s}: the checker exited {status}: it cannot be mounted
  cut:     when 6 of 7 requests, replies and marks had come
{lacks}  durable: 77 WRITE 0+512
  durable: and 9 more
  replay:  nbdspec crash replay trace 6:1536+512=34/78 --check 'check {{mount}}' --fs ext4
"""
KNOWN = PLACE.format(place="superblock of group 0")
UNKNOWN = PLACE.format(place="inode 12")
SEVERAL = PLACE.format(place="superblock of group 0, inode 12")


def findings(*each):
    """Their text: of each how many states, what is lost and torn, and the checker's status where that is not 32."""
    return "".join(FINDING.format(states=n, s="s" * (n != 1), lacks=lacks, status=(status or [32])[0]) for n, lacks, *status in each)


@pytest.mark.parametrize("text, is_known", [
    (findings((3, TORN + KNOWN)), True),
    (findings((2, TORN + KNOWN)), False),
    (findings((3, TORN + SEVERAL)), False),
    (findings((3, TORN)), False),
    (findings((3, TORN + KNOWN, 8)), False),
    (findings((3, TORN + KNOWN), (0, "  lost:    nothing: all that was written by then is there\n")), False),
    (findings((1, TORN + KNOWN), (2, TORN + UNKNOWN)), False),
    (findings((1, TORN + KNOWN), (2, TORN + KNOWN)), True),
    # Something beside it that is not named, in whatever order; and lost alone.
    (findings((3, LOST + TORN + KNOWN)), False),
    (findings((3, TORN + KNOWN + LOST)), False),
    (findings((3, TORN + TORN + KNOWN)), False),
    (findings((3, LOST + UNKNOWN + TORN + KNOWN)), False),
    (findings((3, LOST + KNOWN)), False),
    (findings((3, LOST + KNOWN + TORN + KNOWN)), True),
    (findings((3, TORN + KNOWN)).replace("  durable: 77", "  then:    a second cut while the checker wrote: 3\n  durable: 77"), False),
])
def test_known_findings(text, is_known):
    """What is known excuses what it names where that is torn, and nothing beside it or unnamed, nor another verdict."""
    loader = importlib.machinery.SourceFileLoader("crash", os.path.join(ROOT, "ci/crash"))
    crash = importlib.util.module_from_spec(importlib.util.spec_from_loader("crash", loader))
    loader.exec_module(crash)
    assert crash.all_known({"known": "superblock of group 0", "known-verdict": "the checker exited 32: it cannot be mounted"}, text, "3") is is_known
    assert not crash.all_known({}, text, "3")
