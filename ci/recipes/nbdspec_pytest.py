"""A pytest plugin: each case of nbdspec is a test, against a server of yours.

    PYTHONPATH=ci/recipes pytest-3 -p nbdspec_pytest --nbdspec-server 'qemu-nbd -t -f raw -k {socket} {file}' -k option

or with `pytest_plugins = ["nbdspec_pytest"]` in conftest.py, and in pytest.ini:

    [pytest]
    nbdspec_server = ./myserver --socket {socket} --file {file}
    nbdspec_options = --strict --expect known-deviations
    nbdspec_cases = option/* flush/*

The server's command is split as a shell does, and run by nbdspec; a word with :// in it, alone, is the URI of a server that
runs already. A known deviation (--expect) is an xfail, what the server does not offer a skip, a broken SHOULD a warning. A case
is a run of nbdspec of its own, so that -k, -x, --lf and -n are what they are to any test. On the command line options are
written with a =, as they begin with a -: --nbdspec-options='--strict --destructive'.
"""

import json
import os
import shlex
import shutil
import subprocess
import tempfile
import warnings

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("nbdspec", "NBD servers")
    for name, default, text in (
        ("server", "", "the command of the server, with nbdspec's placeholders ({socket}, {file} …), or its URI"),
        ("cases", "", "the cases, such as 'option/* flush/*' (default: all)"),
        ("options", "", "options of 'nbdspec server', such as '--strict --expect FILE'"),
        ("program", "nbdspec", "nbdspec itself (default: nbdspec, as PATH has it)"),
    ):
        group.addoption(f"--nbdspec-{name}", metavar=name.upper(), help=text)
        parser.addini(f"nbdspec_{name}", text, default=default)


class Broken(Exception):
    """nbdspec could not do what it was asked for: a wrong option, a server that does not start."""


class Failed(Exception):
    """The server deviates; the text says how."""


class Suite(pytest.Collector):
    """All cases that the options select."""

    def setting(self, name):
        return self.config.getoption(f"nbdspec_{name}") or self.config.getini(f"nbdspec_{name}")

    def run(self, *options):
        """Exit status and standard error. Interrupted, nbdspec stops the server that it has started."""
        server = shlex.split(self.setting("server"))
        target = server if len(server) == 1 and "://" in server[0] else ["--", *server]
        command = [self.setting("program"), "server", *options, *shlex.split(self.setting("options")), *target]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace") as p:
            try:
                out, err = p.communicate()
            except BaseException:
                p.terminate()
                raise
        return p.returncode, out, err

    def collect(self):
        if shutil.which(self.setting("program")) is None:
            raise self.CollectError(f"there is no program '{self.setting('program')}': name nbdspec by --nbdspec-program")
        options = shlex.split(self.setting("options"))
        if any(o == "--case" or o.startswith(("-c", "--case=")) for o in options):
            raise self.CollectError("nbdspec_options names cases: they belong into nbdspec_cases")
        status, out, err = self.run("--list", *(f"--case={glob}" for glob in shlex.split(self.setting("cases"))))
        if status != 0:
            raise self.CollectError(err.strip() or f"nbdspec server --list ended with status {status}")
        return [Case.from_parent(self, name=line.split()[0]) for line in out.splitlines() if line]


class Case(pytest.Item):
    def runtest(self):
        with tempfile.TemporaryDirectory(prefix="nbdspec-pytest-") as folder:
            paths = [os.path.join(folder, name) for name in ("json", "text")]
            status, _, err = self.parent.run("-q", "--case", self.name, "--json", paths[0], "--text", paths[1])
            if status not in (0, 1, 3) or not os.path.exists(paths[0]):
                raise Broken(err.strip() or f"nbdspec ended with status {status}")
            with open(paths[0], encoding="utf-8") as f:
                results = json.load(f)["results"]
            with open(paths[1], encoding="utf-8") as f:
                text = f.read()
        if status == 1:
            raise Failed(text)
        # That no case ran is no failure of one that was skipped.
        if status == 3 and not (results and all(r["verdict"] == "skip" for r in results)):
            raise Broken(err.strip())
        self.judge(results)

    def judge(self, results):
        """It is as expected: what is there to be told of it."""
        known = {r["reason"] for r in results if r["expectation"] in ("known", "flaky") and r["verdict"] in ("warn", "fail")}
        if known:
            pytest.xfail("; ".join(sorted(known)))
        for r in results:
            if r["verdict"] == "warn":
                point = f"[{r['point']}]" if r["point"] else ""
                warnings.warn(pytest.PytestWarning(f"{self.name}{point}: {r['requirement']} ({r['where']}): {r['text']}"), stacklevel=1)
        if all(r["verdict"] == "skip" for r in results):
            pytest.skip("; ".join(sorted({r["message"] or f"{r['feature']} is not offered" for r in results})))

    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, (Broken, Failed)):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self):
        return self.config.rootpath, None, self.name


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    """The cases come behind the other tests."""
    report = (yield).get_result()
    if isinstance(collector, pytest.Session) and report.passed:
        suite = Suite.from_parent(collector, name="nbdspec", nodeid="nbdspec")
        if suite.setting("server"):
            report.result.append(suite)
