"""The documentation: each command in it runs, each link leads somewhere, and each finding is one that an expectation knows.

A command stands in a code block without a language, or of `sh`; other blocks name theirs (`text` is what is printed). What
takes long is run in a shorter form, by the rules of shorter().
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from conftest import NBDSPEC, NEVER, PATIENCE, ROOT, linked, read_until
from test_crash_explore import log

sys.path.insert(0, os.path.join(ROOT, "ci/release"))
import expect as release_expectations  # noqa: E402

PAGES = ["README.md", "CONTRIBUTING.md", "ci/recipes/README.md", "ci/targets/README.md",
         *sorted(os.path.relpath(path, ROOT) for path in glob.glob(f"{ROOT}/docs/*.md"))]
HONEST = "build/nbdspec serve --unix {socket}"

# What no test of this file can run, by how it begins, and why.
NOT_HERE = {
    "ci/vm/vm ": "boots a virtual machine, which takes a minute; tests/test_vm.py does",
    "ci/matrix/linux-virtio-blk": "boots a virtual machine",
    "ci/releases ": "downloads a release of Debian; tests/test_releases.py runs it with one that is there",
    "ci/recipes/slurm ": "takes a cluster; tests/test_recipes.py runs it with one that is none",
    "dpkg-buildpackage ": "builds all of it once more",
    "gh ": "takes GitHub",
    "kubectl ": "takes a cluster; tests/test_recipes.py runs the jobs' commands",
}


def read(page):
    with open(os.path.join(ROOT, page), encoding="utf-8") as f:
        return f.read()


def blocks(page):
    """(language, text) of each code block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", read(page), re.M | re.S)


def commands(page):
    """All of them; a line that ends in a backslash goes on."""
    found = [re.sub(r"(^|\s+)#\s.*", "", line).strip() for language, text in blocks(page) if language in ("", "sh")
             for line in re.sub(r"\\\n\s*", "", text).splitlines()]
    return [command for command in dict.fromkeys(found) if command]


def shorter(command):
    """The same, of the same options, but less of it."""
    for long, short in ((r"--explore \d+", "--explore 1 -c explore/haggling --time-factor 0.1"), (r"--explore-walks \d+", "--explore-walks 5"), (r"--mutate \w+", "--mutate 5"),
                        (r"--crowd \d+ -c \S+", "--crowd 20 -c crowd/idle"), (r"--runs \d+ -c \S+", "--runs 2 -c workload/flush_behind_writes"),
                        (r"--budget \d+", "--budget 20"), (r"tls_client/\*", "tls_client/versions")):
        command = re.sub(long, short, command)
    # Three dots are a server, or the command of one.
    if command.endswith("-- …"):
        command = command[:-1] + ("nbdkit -f -U {socket} nbd uri={uri}" if "nbdspec durability" in command else HONEST)
    elif " … " in command:
        command = command.replace(" …", "") + f" -- {HONEST}"
    suite = re.search(r"nbdspec (server|client|durability)\b", command)
    if suite and not re.search(r" -c | --case|--explore|--mutate|--list", command):
        some = {"server": "-c abort/acked", "durability": "-c setup/can_lose",
                "client": "-c flags/go_simple" if "--driver" in command else "-c plain/honest"}[suite[1]]
        if "--shard" in command:
            some += " -c abort/acked_once -c abort/twice -c abort/client_does_not_wait"
        command = command.replace(suite[0], f"{suite[0]} {some}", 1)
    if "crash explore" in command and "--budget" not in command:
        command += " --budget 20"
    return re.sub(r"^pytest-3 -q tests/", f"pytest-3 -q {ROOT}/tests/", re.sub(r"^make\b", f"make -n -C {ROOT}", command))


class Page:
    """A folder that the commands of a page find as they expect it: the tree, servers that run, and a workload with its check."""

    def __init__(self, nbdspec):
        self.cwd, self.nbdspec, self.servers = nbdspec.cwd, nbdspec, {}
        (self.cwd / "bin").mkdir()
        (self.cwd / "build").mkdir()
        (self.cwd / "bin/nbdspec").symlink_to(NBDSPEC)
        for name in ("drivers", "crash"):
            (self.cwd / "build" / name).symlink_to(os.path.join(ROOT, "build", name))
        (self.cwd / "build/nbdspec").symlink_to(NBDSPEC)
        (self.cwd / "ci").symlink_to(os.path.join(ROOT, "ci"))
        for name, text in (("store", 'printf "row %s\\n" 1 2 3 >"$1" && sync "$1" && printf "stored\\n" >&"$NBDSPEC_MARK_FD"'), ("check", 'grep -q . "$1"')):
            self.program(self.cwd / name, text)
        self.program(self.cwd / "bin/my-check", '[ -d "$1" ]')
        self.program(self.cwd / "my-server", f'exec {NBDSPEC} serve --unix "$1"')
        self.program(self.cwd / "myserver", f'[ "$1$3" = --socket--file ] && exec {NBDSPEC} serve --unix "$2"')
        self.env = {**nbdspec.env, "PATH": f"{self.cwd}/bin:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": "-p no:cacheprovider"}

    @staticmethod
    def program(path, text):
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def files(self, page):
        """What earlier runs have left: reports of `make conformance` and others, known deviations, a recording (that of docs/crash.md)."""
        self.nbdspec("server", "-q", "-c", "abort/acked", "--json", "before.json", "--", NBDSPEC, "serve", "--unix", "{socket}", status=0)
        for path in ("after.json", "main.json", "build/reports/qemu-nbd.json", "build/reports/nbdkit-memory.json",
                     "build/reports/debian-12/qemu-nbd.json", "build/reports/debian-13/qemu-nbd.json"):
            (self.cwd / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.cwd / "before.json", self.cwd / path)
        (self.cwd / "build/reports/crash").mkdir()
        log(2).save(self.cwd / "build/reports/crash/log.trace")
        self.nbdspec("crash", "explore", "build/reports/crash/log.trace", "--check", "true {file}", "--json", "build/reports/crash/log.json", status=0)
        if "--write-expect known" not in page:
            (self.cwd / "known").write_text("")
        if "crash record" not in page:
            log(5, flush_records=False).save(self.cwd / "trace")

    def server(self, *options):
        """One that runs already; its socket."""
        if options not in self.servers:
            path = self.cwd / f"s{len(self.servers)}"
            p = self.nbdspec.start("serve", "--unix", path, *options)
            self.servers[options] = p, path
            read_until(p.stdout, "\n")
        return self.servers[options][1]

    def here(self, command):
        """With places of ours for those that it names."""
        command = command.replace("/tmp/", f"{self.cwd}/")
        if "/etc/pki/mine" in command:
            if not (self.cwd / "pki").exists():
                self.nbdspec("certificates", "pki", status=0)
            command = command.replace("/etc/pki/mine", f"{self.cwd}/pki/good")
            command = command.replace("/run/nbd.sock", str(self.server("--tls-certificates", "pki/good")))
        elif "nbd+unix" in command:
            command = command.replace("/run/nbd.sock", str(self.server()))
        return command

    def run(self, command):
        if re.match(r"(build/)?nbdspec serve (?!.*(--run|--list))", command):
            return self.run_forever(command)
        done = subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=PATIENCE, cwd=self.cwd, env=self.env, check=False)
        # What is found of an implementation is no matter of the page: that is 1, and it may have died of an assertion.
        bad = done.returncode not in ((0, 1) if re.search(r"nbdspec (server|client|durability|referee|crash explore|driver-check)", command) else (0,))
        return done.stdout if bad or done.returncode == 0 and NEVER.search(done.stdout) else None

    def run_forever(self, command):
        """It prints its URI when it is ready."""
        with subprocess.Popen(["bash", "-c", f"exec {command}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              cwd=self.cwd, env=self.env) as p:
            line = p.stdout.readline()
            p.terminate()
            p.communicate(timeout=PATIENCE)
        return None if line.startswith("nbd") and not line.startswith("nbdspec") else line

    def stop(self):
        for p, _ in self.servers.values():
            p.terminate()
            p.communicate(timeout=PATIENCE)


@pytest.fixture
def tree(nbdspec):
    page = Page(nbdspec)
    yield page
    page.stop()


def lacks(command):
    """Why this machine cannot run it, or None."""
    for program in ("qemu-nbd", "nbdkit", "nbdcopy", "nbdinfo", "qemu-img", "qemu-io", "mkfs.xfs", "e2fsck"):
        if re.search(rf"(?<!/){program}\b", command.replace("--fs xfs", "mkfs.xfs")) and shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            return f"{program} is not installed"
    if "{file}" in command and re.search("nbdspec (durability|crash record)", command) and not os.access("/dev/fuse", os.W_OK):
        return "/dev/fuse cannot be opened"
    if (" --fs " in command or "{dir}" in command or "{mount}" in command) and os.geteuid() != 0:
        return "not root"
    return None


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)])
def test_commands(tree, page):
    """In the order of the page, as each may need what the one before it has left."""
    wrong, ran = {}, 0
    tree.files(read(page))
    for command in commands(page):
        if any(command.startswith(word) for word in NOT_HERE) or "ci/vm/" in command or lacks(command):
            continue
        short = shorter(tree.here(command))
        started = time.monotonic()
        told = tree.run(short)
        print(f"$ {short}\n{told or ''}{time.monotonic() - started:.2f} s")
        ran += 1
        for part in "234" if " --shard 1/4 " in short else "":
            tree.run(short.replace("1/4", f"{part}/4").replace("1.json", f"{part}.json"))
        if told is not None:
            wrong[command] = told
        if "crash record" in command:
            log(5, flush_records=False).save(tree.cwd / "trace")
    assert wrong == {} and (ran > 0 or page == "docs/releases.md")


def test_blocks_of_code_are_whole():
    for page in PAGES:
        text = read(page)
        assert text.count("\n```") == 2 * len(blocks(page)), page


# ---- examples in C and Python ----

def test_examples_of_adding(nbdspec):
    """The case, the lie and the report of docs/adding.md, as files of their own: the lie turns the case red."""
    sources = [text for language, text in blocks("docs/adding.md") if language == "c"]
    assert len(sources) == 3
    for i, text in enumerate(sources):
        (nbdspec.cwd / f"{i}.c").write_text(text)
    program = linked(nbdspec.cwd / "with-examples", [nbdspec.cwd / f"{i}.c" for i in range(3)])
    for lie, status in ((), 0), (("--lie", "example_unknown_acked"), 1):
        done = subprocess.run([program, "server", "--text", "-", "-q", "-c", "example/*", "--", program, "serve", "--unix", "{socket}", *lie],
                              env=nbdspec.env, capture_output=True, text=True, check=False)
        assert done.returncode == status and ("FAIL   example/unknown_twice" in done.stdout) == (status == 1)
    if shutil.which("clang-format-14"):
        subprocess.run(["clang-format-14", f"--style=file:{ROOT}/.clang-format", "--dry-run", "--Werror", *(nbdspec.cwd / f"{i}.c" for i in range(3))], check=True)


def test_examples_of_driver_protocol(tmp_path):
    """The contents of a pattern, and the sum that its session shows for 4096 zeroes."""
    code = dict(b for b in blocks("docs/driver-protocol.md") if b[0] in ("c", "python"))
    names = {}
    exec(code["python"], names)  # pylint: disable=exec-used
    assert names["contents"](7, 20, 20) == names["contents"](7, 0, 64)[20:40]
    assert names["contents"](7, 16, 16) == b"0007000000000001" and names["contents"](0, 5, 3) == bytes(3)
    (tmp_path / "sum.c").write_text("#include <stdint.h>\n#include <stdio.h>\n#include <stddef.h>\nstatic uint32_t sum(const uint8_t *data, size_t length)\n{\n" +
                                    code["c"] + '}\nint main(void)\n{\n\tstatic const uint8_t zeroes[4096];\n\tprintf("%08x\\n", sum(zeroes, 4096));\n}\n')
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", tmp_path / "sum", tmp_path / "sum.c"], check=True)
    told = subprocess.run([tmp_path / "sum"], capture_output=True, text=True, check=True).stdout.strip()
    assert f"< 5 ok {told}" in read("docs/driver-protocol.md")


# ---- links ----

def anchors(text):
    """The names that GitHub gives headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    """What is linked is in the tree, with that heading."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        full = os.path.normpath(os.path.join(ROOT, os.path.dirname(page), path)) if path else os.path.join(ROOT, page)
        assert os.path.exists(full), f"{page}: {target}"
        if anchor:
            with open(full, encoding="utf-8") as f:
                assert anchor in anchors(f.read()), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_paths(page):
    """What looks like a file of the tree is one."""
    named = re.findall(r"`((?:cases|ci|docs|fakeserver|harness|reports|tests)/[\w./*-]+)`", read(page))
    assert [path for path in named if not glob.glob(os.path.join(ROOT, path)) and "NAME" not in path and "TARGET" not in path] == []


# ---- docs/findings.md ----

FINDING = re.compile(r"- \*\*(?P<who>[\w-]+) (?P<version>[\d.]+)\.\*\* `(?P<requirement>\w+)` \((?P<level>[A-Za-z ]+), (?P<where>[^)]+)\), "
                     r"\[(?P<file>[\w.-]+)\]\(\.\./ci/expectations/(?P<linked>[\w.-]+)\) `(?P<pattern>[^`]+)`\. "
                     r"(?P<sure>Certain|Fairly sure)\.( Mended in (?P<mended>.+?)\.)? Debian 13: (?P<later>still there|gone|not looked at|by chance|not known)\.")


DEBIAN_12 = ("3.24", "1.32.5", "7.2", "1.14.2")  # of nbd, nbdkit, qemu and libnbd, where a file does not repeat them


def findings():
    lines = [line for line in read("docs/findings.md").splitlines() if line.startswith("- **")]
    return [(line, FINDING.fullmatch(line)) for line in lines]


def expectations(text):
    """(pattern, verdict, requirement, reason) of each line of an expectation file; a reason goes on in the next."""
    found = []
    for line in text.splitlines():
        if line[:1] in (" ", "\t") and found:
            found[-1][3] += " " + line.strip()
        elif line.strip() and line[0] not in "#-":
            found.append(line.split(None, 3))
    return found


@pytest.fixture(scope="module")
def places():
    """Requirement by requirement, its level, and where the text has it."""
    told = subprocess.run([NBDSPEC, "requirements"], capture_output=True, text=True, check=True).stdout
    return {name: (level, where) for name, level, where in re.findall(r"^\S+ +(\w+)  ([^,]*), ([^ ]+), ", told, re.M)}


def test_findings_are_all_read():
    """Every heading has a line, and every line is as it should be."""
    assert [line for line, match in findings() if not match] == [] and len(findings()) > 60
    entries = read("docs/findings.md").split("\n### ")[1:]
    assert [e.splitlines()[0] for e in entries if "\n- **" not in e.split("\n## ")[0]] == []


@pytest.mark.parametrize("line, f", [pytest.param(line, match, id=f"{match['file']}:{match['requirement']}") for line, match in findings() if match])
def test_finding(places, line, f):
    """Requirement, level, place, file, pattern, version and certainty are those of the expectation."""
    assert f["linked"] == f["file"] and places[f["requirement"]] == (f["level"], f["where"])
    text = read(f"ci/expectations/{f['file']}")
    known = [e for e in expectations(text) if e[0] == f["pattern"] and e[2] == f["requirement"]]
    assert known, "no expectation says so"
    told = text.splitlines()[0]
    assert any(f"{f['version']}.".startswith(f"{v}.") or f"{v}.".startswith(f"{f['version']}.") for v in re.findall(r"\d[\d.]*\d", told)) or \
        f["version"] in DEBIAN_12 and "the versions of Debian 12" in told, "of another version"
    # "likewise" is as certain as what stands above it.
    certain = [e[3] for e in known if re.search(rf"\b{f['sure']}", e[3], re.I) or "likewise" in e[3] or re.search(r"^the same|\bthe same\.$|^it ", e[3])]
    assert certain, known
    if f["mended"]:
        assert any(re.sub(r"\s+", " ", f["mended"]) in e[3] for e in known)
    later(f, known)


def later(f, known):
    """What the expectations of Debian 13 say of it."""
    said, name = f["later"], f["file"]
    if said == "not known":
        return
    if said == "by chance":
        assert all(e[1].startswith("flaky") for e in known)
    elif name.startswith("durability-") or name.endswith("-debian-testing"):
        assert said == "not looked at"
    else:
        if name.startswith("linux-nbd-"):
            now = [e for e in expectations(read(re.sub(r"-[\d.]+$", "-6.12", f"ci/expectations/{name}"))) if e[2] == f["requirement"]]
            there = bool(now) and (said != "gone" or any(e[0] == f["pattern"] for e in now))
        else:
            target = re.sub(r"-debian-1[13]$", "", name)
            there = any(e[0] == f["pattern"] and e[2] == f["requirement"] for e in expectations(release_expectations.composed(target, "debian-13")))
        assert said == ("still there" if there else "gone")


@pytest.fixture(autouse=True)
def in_the_tree(monkeypatch):
    monkeypatch.chdir(ROOT)
