"""The recipes: that they can be read, what they make of their arguments, and that they are green and red when the server is."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

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


# ---- for a server of one's own ----

RECIPES = os.path.join(ROOT, "ci/recipes")
HONEST = (f"{NBDSPEC} serve", True)
LYING = (f"{NBDSPEC} serve --lie abort_ack_has_data", False)


@pytest.fixture
def project(nbdspec):
    """A folder with a server, ./myserver, and nbdspec in PATH; what is run there, and what it says."""
    (nbdspec.cwd / "bin").mkdir()
    (nbdspec.cwd / "bin/nbdspec").symlink_to(NBDSPEC)
    env = {**nbdspec.env, "PATH": f"{nbdspec.cwd}/bin:{os.environ['PATH']}", "PYTHONPATH": RECIPES, "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}
    for name in ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        env.pop(name, None)

    def run(*args, status=0, server=None, **others):
        if server is not None:
            (nbdspec.cwd / "myserver").write_text(f'#!/bin/sh\n[ "$1$3" = --socket--file ] || exit 2\nexec {server} --unix "$2"\n')
            (nbdspec.cwd / "myserver").chmod(0o755)
        done = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False,
                              **{"cwd": nbdspec.cwd, "env": env, **others})
        print("$", *args, done.stdout, f"=> {done.returncode}", sep="\n")
        assert done.returncode == status
        return done.stdout

    run.cwd, run.env = nbdspec.cwd, env
    return run


def only_some_cases(text):
    """A recipe runs all of them; a test of the recipe has enough of a few."""
    assert text.count("'server', '--tap'") + text.count("server --t") == 1
    return text.replace("'server', '--tap'", "'server', '-c', 'abort/*', '--tap'").replace("server --t", "server -c 'abort/*' --t")


def pytest_here(project, *options, **how):
    return project(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "nbdspec_pytest", *options, **how)


MYSERVER = "--nbdspec-server=./myserver --socket {socket} --file {file}"


def test_pytest(project):
    told = pytest_here(project, MYSERVER, "-k", "abort/", "--junit-xml=junit.xml", server=HONEST[0])
    assert re.search(r"\b6 passed, \d+ deselected", told)
    cases = ElementTree.parse(project.cwd / "junit.xml").findall(".//testcase")
    assert [(c.get("classname"), c.get("name")) for c in cases][0] == ("nbdspec", "abort/acked") and len(cases) == 6


def test_pytest_is_red(project):
    """With the requirement, and the messages."""
    told = pytest_here(project, MYSERVER, "-k", "abort/acked", "--junit-xml=junit.xml", server=LYING[0], status=1)
    assert re.search(r"\b3 failed, \d+ deselected", told)
    assert "proto.md:1531-1533, rep_ack_empty" in told and "1 S: reply NBD_REP_ACK (1) to NBD_OPT_ABORT (2), length 3" in told
    assert "Traceback" not in told
    failures = ElementTree.parse(project.cwd / "junit.xml").findall(".//testcase/failure")
    assert len(failures) == 3 and "rep_ack_empty" in failures[0].get("message")


def test_pytest_with_other_tests(project):
    """By a conftest.py and pytest.ini, beside a test in Python; -x ends it, and -n shares it out."""
    (project.cwd / "conftest.py").write_text('pytest_plugins = ["nbdspec_pytest"]\n')
    (project.cwd / "pytest.ini").write_text("[pytest]\nnbdspec_server = ./myserver --socket {socket} --file {file}\nnbdspec_cases = abort/*\n")
    (project.cwd / "test_mine.py").write_text("def test_mine():\n    pass\n")
    run = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    assert " 7 passed" in project(*run, server=HONEST[0])
    assert " 1 failed, 1 passed" in project(*run, "-x", server=LYING[0], status=1)
    pytest.importorskip("xdist", reason="python3-pytest-xdist is not installed (Debian: python3-pytest-xdist)")
    assert " 7 passed" in project(*run, "-n2", server=HONEST[0])


def test_pytest_verdicts(project):
    """Known is an xfail, what is not offered a skip, a SHOULD a warning."""
    (project.cwd / "known").write_text("abort/*  fail  rep_ack_empty  we say goodbye\n")
    told = pytest_here(project, MYSERVER, "--nbdspec-options=--expect known", "--nbdspec-cases=abort/acked* tls/abort_needs_none", "-rxs", server=LYING[0])
    assert re.search(r"\b1 skipped, 3 xfailed", told) and "we say goodbye" in told and "TLS" in told
    lie = f"{NBDSPEC} serve --lie abort_data_is_invalid"
    told = pytest_here(project, MYSERVER, "--nbdspec-cases=abort/data_is_ignored", server=lie)
    assert re.search(r"\b1 passed, 4 warnings", told) and "abort_ignores_data (proto.md:1198" in told
    pytest_here(project, MYSERVER, "--nbdspec-options=--strict", "--nbdspec-cases=abort/data_is_ignored", server=lie, status=1)


@pytest.mark.parametrize("options, says", [
    (["--nbdspec-program=no-such-program", MYSERVER], "there is no program 'no-such-program'"),
    (["--nbdspec-options=--frobnicate", MYSERVER], "unknown option --frobnicate"),
    (["--nbdspec-options=-c 'abort/*'", MYSERVER], "they belong into nbdspec_cases"),
    (["--nbdspec-cases=nonsense/*", MYSERVER], "nonsense/*"),
    (["--nbdspec-server=/no/such/server {socket}", "-k", "abort/acked"], "/no/such/server: No such file"),
    (["--nbdspec-server=nbd+unix:///?socket=/no/such/socket", "-k", "abort/acked"], "/no/such/socket"),
])
def test_pytest_broken(project, options, says):
    """One clear line; and without a server there is nothing to do."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "nbdspec_pytest", *options], cwd=project.cwd, env=project.env,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode in (1, 2) and says in done.stdout and "Traceback" not in done.stdout + done.stderr
    assert "no tests ran" in pytest_here(project, status=5)


def test_pytest_interrupted(project, nbdspec):
    """The server that nbdspec has started goes, too."""
    pytest_here(project, "--co", "-q", MYSERVER, server=f"touch started; exec {HONEST[0]} --lie abort_ignored")
    p = subprocess.Popen([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "nbdspec_pytest", MYSERVER, "-k", "abort/acked"],
                         cwd=project.cwd, env=project.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until((project.cwd / "started").exists)
    p.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in p.communicate(timeout=PATIENCE)[0] and p.returncode == 2
    until(lambda: not nbdspec.leftovers())


def test_meson(project):
    if shutil.which("meson") is None:
        pytest.skip("meson is not installed (Debian: meson)")
    with open(os.path.join(RECIPES, "meson.build")) as f:
        recipe = only_some_cases(f.read())
    (project.cwd / "meson.build").write_text("project('myserver', 'c')\nmyserver = executable('myserver', 'myserver.c')\n" + recipe)
    (project.cwd / "myserver.c").write_text(f'#include <unistd.h>\nint main(int n, char **args) {{ return n ? execv("{project.cwd}/myserver", args) : 1; }}\n')
    project("meson", "setup", "build")
    for server, good in (HONEST, LYING):
        told = project("meson", "test", "-C", "build", "nbd", "-v", status=0 if good else 1, server=server)
        assert re.search("^Ok: +1 *$" if good else "^Fail: +1 *$", told, re.M)
        log = (project.cwd / "build/meson-logs/testlog.txt").read_text()
        assert "ok 1 - abort/acked" in log and ("rep_ack_empty" in log) == (not good)


def test_automake(project):
    if shutil.which("autoreconf") is None or shutil.which("automake") is None:
        pytest.skip("automake is not installed (Debian: automake)")
    for name in os.listdir(os.path.join(RECIPES, "automake")):
        shutil.copy(os.path.join(RECIPES, "automake", name), project.cwd)
    (project.cwd / "nbdspec.test").write_text(only_some_cases((project.cwd / "nbdspec.test").read_text()))
    project("autoreconf", "-i")
    project("./configure", "-q")
    for server, good in (HONEST, LYING):
        told = project("make", "check", status=0 if good else 2, server=server)
        assert ("PASS: nbdspec.test 1 - abort/acked" if good else "FAIL: nbdspec.test 1 - abort/acked") in told
        assert ("rep_ack_empty" in (project.cwd / "nbdspec.log").read_text()) == (not good)
    project("make", "check", "NBDSPEC=")
    assert "SKIP nbdspec is not installed" in (project.cwd / "nbdspec.log").read_text()


# They do what they say, but for the network and the compiler.
STUBS = {
    "apt-get": 'echo "$@" >>apt-get.called\n',
    "git": f'[ "$1 $4" = "clone $NBDSPEC_URL" ] && [ $# = 5 ] && mkdir "$5" "$5/build" && ln -s {ROOT}/ci "$5/ci" && echo all: >"$5/Makefile" && ln -s {NBDSPEC} "$5/build/nbdspec"\n',
}


def steps_of(recipe):
    """Variables, commands, and the files that are kept."""
    yaml = pytest.importorskip("yaml", reason="python3-yaml is not installed (Debian: python3-yaml)")
    with open(os.path.join(RECIPES, recipe)) as f:
        told = yaml.safe_load(f)
    if recipe == "gitlab.yaml":
        job = told["nbdspec"]
        return job["variables"], job["before_script"] + job["script"], [*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]]
    job = told["jobs"]["nbdspec"]
    assert told[True] and all(("run" in s) != ("uses" in s) for s in job["steps"])  # to YAML 1.1 'on' is true
    kept = [s for s in job["steps"] if s.get("uses", "").startswith("actions/upload-artifact@")]
    assert kept[0]["if"] == "always()"
    return told["env"], [s["run"] for s in job["steps"] if "run" in s], kept[0]["with"]["path"].split()


@pytest.mark.parametrize("server, good", [HONEST, LYING])
@pytest.mark.parametrize("recipe", ["github.yaml", "gitlab.yaml"])
def test_forge(project, recipe, server, good):
    """Every command, in a shell as the forge has it; the reports are where it looks for them."""
    variables, commands, kept = steps_of(recipe)
    for name, text in STUBS.items():
        (project.cwd / "bin" / name).write_text("#!/bin/sh\n" + text)
        (project.cwd / "bin" / name).chmod(0o755)
    (project.cwd / "Makefile").write_text("all:\n\ttest -x myserver\n")
    assert sum("nbdspec server" in c for c in commands) == 1 and "nbdspec server" in commands[-1]
    for command in commands[:-1]:
        project("sh", "-e", "-c", command, server=server, env={**project.env, **variables})
    told = project("sh", "-e", "-c", only_some_cases(commands[-1]), status=0 if good else 1)
    assert ("FAIL   abort/acked" in told) == (not good)
    assert all(list(project.cwd.glob(pattern)) for pattern in kept)
    assert (len(ElementTree.parse(project.cwd / "nbdspec.xml").findall(".//failure")) == 0) == good
    installed = (project.cwd / "apt-get.called").read_text().split()
    assert {"git", "ca-certificates", "make"} <= set(installed)


def packages(group):
    with open(os.path.join(ROOT, "ci/packages")) as f:
        return {line.split()[1] for line in f if line.split()[:1] == [group]}


def test_containerfile():
    """It builds with what ci/packages says, of files that are there, and has the libraries that the program wants."""
    with open(os.path.join(RECIPES, "Containerfile")) as f:
        lines = re.sub(r"\\\n", "", re.sub("^#.*\n", "", f.read(), flags=re.M)).splitlines()
    words = [line.split(None, 1) for line in lines if line]
    assert {w[0] for w in words} == {"FROM", "RUN", "COPY", "WORKDIR", "ENTRYPOINT", "CMD"}
    assert [w[1].split()[0] for w in words if w[0] == "FROM"] == ["debian:12", "debian:12"]
    run = [w[1] for w in words if w[0] == "RUN"]
    for command in run:
        subprocess.run(["sh", "-n", "-c", command], check=True)
    assert run[1] == "ci/install build" and os.access(os.path.join(ROOT, "ci/install"), os.X_OK)
    assert packages("build") and [w[1] for w in words if w[0] == "COPY"] == [". /nbdspec", "--from=build /nbdspec/build/nbdspec /usr/local/bin/"]
    if shutil.which("dpkg-query") is None:
        pytest.skip("dpkg-query is not installed: this is no Debian")
    listed = subprocess.run(["dpkg-query", "-S", *(f"*/{name}" for name in libraries())], capture_output=True, text=True, check=True).stdout
    wanted = {line.split(":")[0] for line in listed.splitlines()}
    installed = set(re.search("install (.*?) &&", run[-1])[1].split())
    assert installed == {p for p in wanted if not p.endswith("-dev") and not p.startswith("libc6")}


def libraries():
    """What it is linked with, but for the C library."""
    told = subprocess.run(["objdump", "-p", NBDSPEC], capture_output=True, text=True, check=True).stdout
    return [name for name in re.findall(r"NEEDED +(\S+)", told) if not re.match(r"libc\.|libm\.|ld-", name)]


def test_recipes_are_told_of():
    """The table has every recipe, and nothing else."""
    with open(os.path.join(RECIPES, "README.md")) as f:
        told = set(re.findall(r"\]\(([^/)]+)\)", f.read()))
    assert told == {name for name in os.listdir(RECIPES) if name not in ("README.md", "__pycache__")}
