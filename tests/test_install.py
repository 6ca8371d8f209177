"""What `make install` puts in place: the program without the tree, the man pages with their examples, the completion of both shells."""

import fnmatch
import os
import re
import shutil
import subprocess

import pytest

from conftest import NBDSPEC, PATIENCE, ROOT, processes, until

pytestmark = pytest.mark.xdist_group("install")  # all of them write build/man
PAGES = sorted(name[:-4] for name in os.listdir(os.path.join(ROOT, "docs/man")) if name.startswith("nbdspec"))
PEERS = ("nbdkit", "qemu-nbd", "nbdinfo", "nbdcopy")
SECONDS = 4 * PATIENCE  # for one page's examples


def make(*words):
    p = subprocess.run(["make", "-C", ROOT, "--no-print-directory", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert p.returncode == 0, p.stdout + p.stderr


def files(top):
    return {os.path.relpath(os.path.join(folder, name), top) for folder, _, names in os.walk(top) for name in names}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    top = tmp_path_factory.mktemp("install")
    make("install", f"PREFIX={top}")
    return top


@pytest.fixture
def shell(prefix, nbdspec):
    """Runs a program with the installed nbdspec in its PATH, in a directory of its own; all of it ends with the test."""

    def run(*words, **kwargs):
        env = {**nbdspec.env, "PATH": f"{prefix}/bin:{os.environ['PATH']}"}
        p = subprocess.run(words, cwd=nbdspec.cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, **kwargs)
        print(p.stdout, p.stderr)
        return p

    return run


def commands():
    """Of every command: its name, and the long options of its --help."""
    run = lambda *words: subprocess.run([NBDSPEC, *words, "--help"], capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^  (\S+(?: \S+)?) +", run().partition("commands:\n")[2], re.M)
    return {name: long_options(run(*name.split()).partition("\noptions:\n")[2]) for name in names}


def long_options(text):
    """Those with which a line begins, perhaps behind a letter."""
    return set(re.findall(r"^ {2}(?:-\w,|   ) (--[a-z-]+)", text, re.M))


COMMANDS = commands()


def section(page, title):
    with open(os.path.join(os.path.dirname(NBDSPEC), f"man/{page}.pod"), encoding="utf-8") as f:
        found = re.search(rf"^=head1 {title}\n(.*?)(?=^=head1 |\Z)", f.read(), re.M | re.S)
    return found[1] if found else ""


# ---- the tree ----


def test_every_command_has_a_page():
    assert {"nbdspec", "nbdspec-crash", *("nbdspec-" + name.replace(" ", "-") for name in COMMANDS)} == set(PAGES)


def test_destdir_and_uninstall(tmp_path, prefix):
    """With DESTDIR the same lies there, elsewhere; uninstall leaves what is not ours, and nothing else."""
    make("install", f"DESTDIR={tmp_path}", "PREFIX=/opt/x")
    assert files(tmp_path / "opt/x") == files(prefix)
    assert {"bin/nbdspec", "share/man/man1/nbdspec.1", "libexec/nbdspec/drivers/qemu-io", "share/doc/nbdspec/docs/json-schema.json",
            "share/bash-completion/completions/nbdspec", "share/zsh/site-functions/_nbdspec"} <= files(prefix)
    (tmp_path / "opt/x/share/doc/nbdspec/mine").write_text("")
    make("uninstall", f"DESTDIR={tmp_path}", "PREFIX=/opt/x")
    assert files(tmp_path) == {"opt/x/share/doc/nbdspec/mine"} and not (tmp_path / "opt/x/libexec/nbdspec").exists()
    make("man", f"PREFIX={prefix}")


def test_nothing_says_where_the_tree_was(prefix, tmp_path):
    """Debugging information apart. That no relative path is needed, the examples show: they run elsewhere."""
    for name in files(prefix):
        path = prefix / name
        if path.read_bytes()[:4] == b"\x7fELF":
            subprocess.run(["strip", "-o", tmp_path / "stripped", path], check=True)
            path = tmp_path / "stripped"
        assert f"{ROOT}/".encode() not in path.read_bytes(), name


def test_links_between_the_documents_hold(prefix):
    """Those that lead out of what is installed apart: into the tree's own rooms."""
    top = prefix / "share/doc/nbdspec"
    for name in (n for n in files(top) if n.endswith(".md")):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", (top / name).read_text()):
            there = os.path.normpath(os.path.join(os.path.dirname(name), link))
            assert (top / there).exists() or not there.startswith("docs/"), (name, link)


# ---- options: in --help, the page, and both completions ----


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_the_same_everywhere(name, prefix, shell):
    page = "nbdspec-" + name.replace(" ", "-")
    in_page = {w for line in re.findall(r"^=item (.*)$", section(page, "OPTIONS"), re.M) for w in re.findall(r"B<(--[a-z-]+)>", line)}
    in_bash = set(completed(shell, prefix, "nbdspec", *name.split(), "--"))
    script = (prefix / "share/zsh/site-functions/_nbdspec").read_text().rpartition("\n_nbdspec ")[0]
    specs = shell("zsh", "-fc", script + f"\n_nbdspec_specs '{name}'; print -rl -- $specs").stdout
    in_zsh = set(re.findall(r"^(?:\*|\([^)]*\))?(--[a-z-]+)=?\[", specs, re.M))
    if name == "serve":  # its page has no summary of itself
        in_page |= {"--help"}
    assert COMMANDS[name] == in_page == in_bash == in_zsh


def test_completion_is_for_two_shells(nbdspec):
    assert "bash or zsh" in nbdspec.usage("completion") and "'fish'" in nbdspec.usage("completion", "fish")
    assert "one shell" in nbdspec.usage("completion", "bash", "zsh")
    with open("/dev/full", "w") as full:
        assert "No space left" in nbdspec("completion", "zsh", stdout=full, status=3).stderr


# ---- bash ----


def completed(shell, prefix, *words):
    """What TAB offers at the end of these words."""
    script = f"""source {prefix}/share/bash-completion/completions/nbdspec
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _nbdspec_complete; printf '%s\\n' "${{COMPREPLY[@]}}" """
    p = shell("bash", "-c", script, "bash", *words)
    assert p.stderr == ""
    return p.stdout.split("\n")[:-1] if p.stdout != "\n" else []


COMPLETED = [
    (("c",), {"certificates", "client", "completion", "crash"}),
    (("crash", "e"), {"explore", "export"}),
    (("crash", "replay", "--o"), {"--output"}),
    (("server", "-c", "abo"), {"abort/"}),
    (("server", "-c", "abort/acked_"), {"abort/acked_after_other_options", "abort/acked_once"}),
    (("server", "-c", "abort/*"), {"abort/*"}),
    (("client", "--case", "lies/"), {"lies/*", "lies/survived"}),
    (("serve", "--lie", "abort_c"), {"abort_cut", "abort_cut_at_once"}),
    (("serve", "--tls", "=", "o"), {"off", "on"}),
    (("serve", "--tls", "="), {"off", "on", "require"}),
    (("serve", "--knob", "infos_"), {"infos_reversed"}),
    (("driver", "--habit", "always_d"), {"always_df"}),
    (("durability", "--filesystem", "b"), {"btrfs"}),
    (("matrix", "a f"), {"a file"}),
    (("server", "--json", "a"), {"a file"}),
    (("server", "--corpus", "a"), {"a directory"}),
    (("server", "--seed", ""), set()),
    (("server", "--", "nbdspe"), {"nbdspec"}),
    (("server", "[", "nbdspec", "a f"), {"a file"}),
    (("bogus", "--"), set()),
]


@pytest.mark.parametrize("words, offered", COMPLETED, ids=lambda x: " ".join(x) if isinstance(x, tuple) else "")
def test_bash(words, offered, prefix, shell, nbdspec):
    (nbdspec.cwd / "a file").write_text("")
    (nbdspec.cwd / "a directory").mkdir()
    assert set(completed(shell, prefix, "nbdspec", *words)) - {"a directory"} == offered - {"a directory"}


# ---- zsh ----

ZSH = r"""
zmodload zsh/zpty
zpty -b z zsh -f -i
zpty -w z "PS1='ready''> '; fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D; unsetopt beep list_ambiguous"
zpty -w z "stty cols 400 rows 500 -echo; LISTMAX=10000; bindkey '^T' list-choices; zstyle ':completion:*' menu no"
zpty -r z out "*ready> *ready> "
zpty -n -w z "$2"$'\x14'
zpty -r z out "*$3*"
print -r -- $out
zpty -d z
"""


@pytest.mark.parametrize("line, offered", [
    ("crash e", "explore*export"), ("server --expl", "--explore *--explore-sequence *--explore-walks"), ("server -c opt", "option"),
    ("serve --tls ", "off*on*require"), ("serve --lie abort_c", "abort_cut"), ("server --json a", "a*file"), ("server -- nbdspe", "nbdspec "),
])
def test_zsh(line, offered, prefix, shell, nbdspec):
    """What it lists, in a terminal. Should it list something else, it is waited for in vain."""
    if shutil.which("zsh") is None:
        pytest.skip("no zsh")
    (nbdspec.cwd / "a file").write_text("")
    script = nbdspec.cwd / "script"
    script.write_text(ZSH)
    p = shell("timeout", str(PATIENCE), "zsh", "-f", str(script), f"{prefix}/share/zsh/site-functions", "nbdspec " + line, offered.strip())
    until(lambda: not processes(nbdspec.mark))  # the shell in the terminal has been told to end
    assert p.returncode == 0 and "command not found" not in p.stdout
    assert fnmatch.fnmatch(p.stdout, f"*{offered.strip()}*")


# ---- the pages ----


@pytest.mark.parametrize("page", PAGES)
def test_page_is_well_formed(page, prefix):
    pod = os.path.join(os.path.dirname(NBDSPEC), f"man/{page}.pod")
    p = subprocess.run(["podchecker", "-warnings", "-warnings", pod], capture_output=True, text=True)
    assert p.returncode == 0 and p.stderr.strip() in ("", f"{pod} pod syntax OK.")
    titles = re.findall(r"^=head1 (.*)$", open(pod, encoding="utf-8").read(), re.M)
    assert titles[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"] and titles[-1] == "SEE ALSO" and "EXAMPLES" in titles
    pages = re.findall(r"L<(nbdspec[a-z-]*)\(1\)>", open(pod, encoding="utf-8").read())
    assert set(pages) <= set(PAGES)


def examples(page):
    """Each command with its continuation lines, and the lines that must be among what it prints, in this order."""
    found = []
    for line in section(page, "EXAMPLES").split("\n"):
        if line.startswith(" $ "):
            found.append((line[3:], []))
        elif line.startswith(" > "):
            found[-1] = (found[-1][0] + "\n" + line[3:], found[-1][1])
        elif line.startswith(" "):
            found[-1][1].append(line[1:])
    return found


def test_examples_are_read():
    assert all(examples(page) for page in PAGES)


def script_of(shown):
    """A shell script: behind what each command has printed stands its exit status, on a line of its own."""
    return "\n".join(f"{command}\nstatus=$?; printf '\\n\\036%d\\n' $status; (exit $status)" for command, _ in shown)


def missing(shown):
    text = " ".join(command for command, _ in shown)
    words = re.findall(r"[\w/.-]+", text)
    if re.search(r"(durability|crash record)[^\n]*\{file\}", text):
        if not (os.access("/dev/fuse", os.W_OK) and shutil.which("nbdfuse")):
            return "no nbdfuse, or no /dev/fuse"
    return next((f"no {w}" for w in words if w in PEERS and not shutil.which(w)), None)


@pytest.mark.parametrize("page", PAGES)
def test_examples(page, shell):
    """They do what the page says: a status that is not 0 is one that the next command prints; the lines come, where … is anything."""
    shown = examples(page)
    if reason := missing(shown):
        pytest.skip(reason)
    printed = shell("bash", "-c", script_of(shown)).stdout
    parts = re.findall(r"(.*?)\n\x1e(\d+)\n", printed, re.S)
    assert len(parts) == len(shown)
    for i, ((command, lines), (text, status)) in enumerate(zip(shown, parts)):
        tells = i + 1 < len(shown) and shown[i + 1][0] == "echo $?"
        assert tells or status == "0", command
        came = iter(text.split("\n"))
        for line in lines:
            pattern = "*".join(re.sub(r"([*?[])", r"[\1]", part) for part in line.split("…"))
            assert any(fnmatch.fnmatchcase(re.sub(" +", " ", c), re.sub(" +", " ", pattern)) for c in came), (command, line)
