"""The recipes for clusters: that they can be read, and what they make of their arguments."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT, until
from test_crash_explore import failing, log, log_checker  # noqa: F401 (a fixture)

SLURM, KUBERNETES = (os.path.join(ROOT, "ci/recipes", name) for name in ("slurm", "kubernetes.yaml"))
SCRIPTS = [SLURM, os.path.join(ROOT, "ci/slurm")]

# It runs what it is given at once, each part of an array in its turn, and remembers its options.
SBATCH = """#!/bin/bash
array= output=
while [ $# -gt 0 ]; do
	case $1 in
	--array=*) array=${1#*=-} array=${1##*-} ;;
	--output=*) output=${1#*=} ;;
	--wrap) wrap=$2; printf '%s\\0' "$wrap" >>sbatch.wrapped; shift ;;
	*) echo "$1" >>sbatch.options ;;
	esac
	shift
done
[ -n "$array" ] || [ ! -e refuse-the-merge ] || exit 1
if [ -e wait-in-sbatch ]; then
	touch in-sbatch
	until [ -e go-on ]; do sleep 0.01; done
fi
for ((i = 1; i <= ${array:-1}; i++)); do
	export SLURM_ARRAY_TASK_ID=$i
	sh -c "$wrap" >"${output//%a/$i}" 2>&1 || echo "status $?" >>sbatch.failed
done
echo "4${array:-2};cluster"
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_script(script):
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (Debian: shellcheck)")
    subprocess.run(["shellcheck", script], check=True)


@pytest.fixture
def slurm(nbdspec):
    """Submits to a scheduler that is none."""
    (nbdspec.cwd / "bin").mkdir()
    (nbdspec.cwd / "bin/sbatch").write_text(SBATCH)
    (nbdspec.cwd / "bin/sbatch").chmod(0o755)
    env = {**nbdspec.env, "NBDSPEC": NBDSPEC, "PATH": f"{nbdspec.cwd}/bin:{os.environ['PATH']}"}

    (nbdspec.cwd / "bin/scancel").write_text("#!/bin/sh\necho \"$@\" >>scancel.options\n")
    (nbdspec.cwd / "bin/scancel").chmod(0o755)

    def submit(*args, start=subprocess.run, **others):
        options = {"check": False} if start is subprocess.run else {"start_new_session": True}
        return start([SLURM, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=nbdspec.cwd,
                     env={**env, **others}, **options)

    return submit


@pytest.mark.parametrize("flush, sound", [(False, False), (True, True)])
def test_slurm(nbdspec, slurm, log_checker, flush, sound):  # noqa: F811
    """The parts, whose failing states are no failure of a job, and the merge behind them; any character goes through."""
    trace, folder = "the träce \t&", "an 'öut'\n$i"
    log(flush_records=flush).save(nbdspec.cwd / trace)
    check = f"sh -c '# \\ ü\nexec {log_checker.replace('{file}', '$1')}' \"it's\n\t\" {{file}}"
    nbdspec("crash", "explore", trace, "--check", check, "--budget", "200", "--json", "whole", status=0 if sound else 1)
    done = slurm(3, folder, trace, "--check", check, "--budget", "200", LC_ALL="C")
    assert (done.returncode, done.stdout, done.stderr) == (0, "43 42\n", "")
    assert "--dependency=afterany:43" in (nbdspec.cwd / "sbatch.options").read_text()
    assert (nbdspec.cwd / "sbatch.failed").exists() == (not sound)  # the merge says it
    one, two = (json.loads((nbdspec.cwd / name).read_text()) for name in ("whole", f"{folder}/merged.json"))
    assert failing(one) == failing(two) and one["points"] == two["points"] and (len(failing(one)) == 0) == sound
    assert re.match("shards: 3, ", (nbdspec.cwd / folder / "merged.txt").read_text()) and (nbdspec.cwd / folder / "merged.html").stat().st_size > 10000


def test_slurm_with_a_part_missing(nbdspec, slurm):
    """A checker that cannot be run in any: the merge says what is missing."""
    log(1).save(nbdspec.cwd / "trace")
    slurm(2, "out", "trace", "--check", "/no/such/checker {file}")
    assert (nbdspec.cwd / "sbatch.failed").read_text().count("status") == 3
    assert "shard-1.json" in (nbdspec.cwd / "out/merged.txt").read_text()
    assert "cannot be run" in (nbdspec.cwd / "out/shard-1.log").read_text()


def test_slurm_again(nbdspec, slurm):
    """What an earlier start has left in the folder is no result of a later one."""
    log(1).save(nbdspec.cwd / "trace")
    check = nbdspec.cwd / "check"
    check.write_text("#!/bin/sh\n")
    check.chmod(0o755)
    args = ("out", "trace", "--check", f"{check} {{file}}", "--budget", "9")
    (nbdspec.cwd / "out").mkdir()
    (nbdspec.cwd / "out/merged.notes").write_text("mine")
    slurm(3, *args)
    assert (nbdspec.cwd / "out/merged.json").exists() and (nbdspec.cwd / "out/shard-3.json").exists()
    check.unlink()
    slurm(2, *args)
    assert "shard-1.json" in (nbdspec.cwd / "out/merged.txt").read_text()
    assert (nbdspec.cwd / "out/merged.notes").exists()
    assert not [*(nbdspec.cwd / "out").glob("*.json"), *(nbdspec.cwd / "out").glob("*.html")]
    # A part alone, as Slurm starts it anew.
    (nbdspec.cwd / "out/shard-1.json").write_text("{}")
    part = (nbdspec.cwd / "sbatch.wrapped").read_text().split("\0")[-3]
    subprocess.run(["sh", "-c", part], env={**nbdspec.env, "SLURM_ARRAY_TASK_ID": "1"}, capture_output=True, check=False)
    assert not (nbdspec.cwd / "out/shard-1.json").exists()


def test_slurm_refuses_the_merge(nbdspec, slurm):
    """The parts alone are of no use to anybody."""
    log(1).save(nbdspec.cwd / "trace")
    (nbdspec.cwd / "refuse-the-merge").touch()
    done = slurm(2, "out", "trace", "--check", "true {file}")
    assert done.returncode == 1 and done.stdout == ""
    assert (nbdspec.cwd / "scancel.options").read_text() == "--clusters=cluster 42\n"


def test_slurm_interrupted(nbdspec, slurm):
    """While sbatch takes the parts: they are taken back, and the next start does it all."""
    log(1).save(nbdspec.cwd / "trace")
    args = (2, "out", "trace", "--check", "true {file}", "--budget", "9")
    (nbdspec.cwd / "wait-in-sbatch").touch()
    p = slurm(*args, start=subprocess.Popen)
    until((nbdspec.cwd / "in-sbatch").exists)
    os.killpg(p.pid, signal.SIGINT)
    (nbdspec.cwd / "go-on").touch()
    assert p.communicate(timeout=PATIENCE) == ("", "") and p.returncode == 130
    assert (nbdspec.cwd / "scancel.options").read_text() == "--clusters=cluster 42\n"
    assert len((nbdspec.cwd / "sbatch.wrapped").read_text().split("\0")) == 2
    assert slurm(*args).returncode == 0 and (nbdspec.cwd / "out/merged.json").exists()
    assert json.loads((nbdspec.cwd / "out/merged.json").read_text())["states"]["resumed"] == 9


def test_slurm_usage(nbdspec, slurm):
    assert slurm(3).returncode == 2
    (nbdspec.cwd / "out").mkdir()
    kept = [nbdspec.cwd / "out" / name for name in ("merged.json", "shard-1.json")]
    for path in kept:
        path.write_text("mine")
    for shards in ("0", "-2", "2x", "", "1-2", "out"):
        done = slurm(shards, "out", "trace", "--check", "true {file}")
        assert done.returncode == 2 and "SHARDS FOLDER TRACE" in done.stderr and all(path.exists() for path in kept)
    log(1).save(nbdspec.cwd / "trace")
    done = slurm(2, "out", "trace", "--check", "true {file}", NBDSPEC="/no/such/program")
    assert done.returncode == 3 and "/no/such/program" in done.stderr
    (nbdspec.cwd / "bin/sbatch").unlink()
    if shutil.which("sbatch") is None:
        assert "slurm-client" in slurm(2, "out", "trace", "--check", "true {file}").stderr


def test_kubernetes():
    """Two jobs; as many parts as the index counts; commands that a shell understands, with options that exist."""
    yaml = pytest.importorskip("yaml", reason="python3-yaml is not installed (Debian: python3-yaml)")
    with open(KUBERNETES) as f:
        explore, merge = yaml.safe_load_all(f)
    assert explore["kind"] == merge["kind"] == "Job" and explore["spec"]["completionMode"] == "Indexed" and merge["spec"]["suspend"] is True
    containers = [job["spec"]["template"]["spec"]["containers"][0] for job in (explore, merge)]
    assert all({e["name"]: e["value"] for e in c["env"]}["SHARDS"] == str(explore["spec"]["completions"]) for c in containers)
    for job, container in zip((explore, merge), containers):
        subprocess.run(["sh", "-n", "-c", container["command"][2]], check=True)
        words = container["command"][2].partition("nbdspec")[2].split()
        told = subprocess.run([NBDSPEC, *words[:2], "--help"], capture_output=True, text=True, check=True).stdout
        assert all(word in told for word in words if word.startswith("--"))
        assert [v["name"] for v in job["spec"]["template"]["spec"]["volumes"]] == [m["name"] for m in container["volumeMounts"]]


def test_kubernetes_parts(nbdspec, log_checker):  # noqa: F811
    """Each index explores its part: together they are all."""
    yaml = pytest.importorskip("yaml", reason="python3-yaml is not installed (Debian: python3-yaml)")
    with open(KUBERNETES) as f:
        commands = [job["spec"]["template"]["spec"]["containers"][0]["command"] for job in yaml.safe_load_all(f)]
    log(flush_records=False).save(nbdspec.cwd / "trace")
    nbdspec("crash", "explore", "trace", "--check", log_checker, "--budget", "200", "--json", "whole", status=1)
    commands = [[*c[:2], c[2].replace("/crash/", f"{nbdspec.cwd}/").replace("1000000", "200")] for c in commands]
    env = {**nbdspec.env, "PATH": f"{os.path.dirname(NBDSPEC)}:{os.environ['PATH']}", "CHECK": log_checker, "SHARDS": "8"}
    (nbdspec.cwd / "shard-8.json").write_text("{}")  # of a ninth part that is no more
    for i in range(8):
        subprocess.run(commands[0], env={**env, "JOB_COMPLETION_INDEX": str(i)}, check=True, capture_output=True)
    assert subprocess.run(commands[1], env=env, capture_output=True, check=False).returncode == 1
    one, two = (json.loads((nbdspec.cwd / name).read_text()) for name in ("whole", "merged.json"))
    assert failing(one) == failing(two)
    # A part that fails does not leave what it said before.
    broken = subprocess.run(commands[0], env={**env, "JOB_COMPLETION_INDEX": "3", "CHECK": "/no/such/checker {file}"}, check=False, capture_output=True)
    assert broken.returncode != 0 and not (nbdspec.cwd / "shard-3.json").exists()
    merged = subprocess.run(commands[1], env=env, capture_output=True, text=True, check=False)
    assert merged.returncode == 2 and "shard-3.json" in merged.stderr and not (nbdspec.cwd / "merged.json").exists()
