"""The Debian package. What builds it takes minutes: $NBDSPEC_PACKAGE, which `make check-package` sets, says to."""

import os
import re
import shutil
import subprocess

import pytest

from conftest import ROOT

slow = pytest.mark.skipif("NBDSPEC_PACKAGE" not in os.environ, reason="takes minutes: make check-package")


def text(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def run(*words, cwd):
    p = subprocess.run(words, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert p.returncode == 0, p.stdout[-6000:]
    return p.stdout


def test_version_is_the_same():
    version = re.search(r"^VERSION := (\S+)$", text("Makefile"), re.M)[1]
    assert text("debian/changelog").startswith(f"nbdspec ({version}) ")


def test_licence_is_the_same():
    """debian/copyright has its words, from the conditions on."""
    there = text("debian/copyright").rpartition("License: BSD-2-Clause\n")[2].replace("\n .\n", "\n\n")
    assert there.split() == text("LICENSE").partition("\n\n")[2].partition("\n\n")[2].split()


def test_packages_are_those_of_the_builds():
    """What ci/packages has for a build is what the package is built with."""
    groups = [line.split() for line in text("ci/packages").split("\n") if line and line[0] != "#"]
    wanted = {name for group, name in groups if group in ("build", "install")} - {"gcc", "make", "libc6-dev"}  # build-essential
    wants = set(re.findall(r"^ ([a-z0-9-]+)", text("debian/control").partition("Build-Depends:")[2].partition("\nStandards")[0], re.M))
    assert wants == wanted | {"debhelper-compat", "libcmocka-dev"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Of a copy of what git has, both packages."""
    top = tmp_path_factory.mktemp("package")
    for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0")[:-1]:
        there = top / "nbdspec" / name
        there.parent.mkdir(parents=True, exist_ok=True)
        if os.path.exists(os.path.join(ROOT, name)):
            shutil.copy2(os.path.join(ROOT, name), there)
    run("dpkg-buildpackage", "-us", "-uc", "-S", cwd=top / "nbdspec")
    run("dpkg-buildpackage", "-us", "-uc", "-b", cwd=top / "nbdspec")
    return top


def lintian(top, name):
    return run("lintian", "--allow-root", "--fail-on", "error,warning", *map(str, top.glob(name)), cwd=top)


@slow
def test_lintian_says_nothing(built):
    assert len(list(built.glob("*.changes"))) == 2
    assert lintian(built, "*.changes") == ""


@slow
def test_package_works_where_it_is_unpacked(built, tmp_path):
    package, = built.glob("nbdspec_*.deb")
    run("dpkg-deb", "-x", str(package), str(tmp_path), cwd=built)
    said = run(str(tmp_path / "usr/bin/nbdspec"), "server", "-c", "abort/acked", "--", str(tmp_path / "usr/bin/nbdspec"), "serve", "--unix", "{socket}", cwd=tmp_path)
    assert "\nok 1 - abort/acked\n1..1\n" in said
    assert {"nbdspec.1.gz", "nbdspec-server.1.gz"} <= set(os.listdir(tmp_path / "usr/share/man/man1"))
    assert os.path.exists(tmp_path / "usr/share/zsh/vendor-completions/_nbdspec")
    assert os.access(tmp_path / "usr/libexec/nbdspec/drivers/libnbd", os.X_OK)
    assert not (tmp_path / "usr/local").exists()


@slow
def test_source_package_has_no_product_of_the_build(built):
    names = run("tar", "-tf", str(next(built.glob("*.tar.*"))), cwd=built).split()
    assert any(n.endswith("/harness/main.c") for n in names)
    assert not [n for n in names if "/build/" in n or "/.git/" in n]
