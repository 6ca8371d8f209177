#!/usr/bin/python3
"""usage: rename_files.py write|check DIR [no-fsync|nothing]

A file is replaced by one that was written beside it, as every editor does it: create, write, fsync, rename, fsync of the
directory. With no-fsync the new one is renamed as it is, and some other file is synced later, as on any busy disk; with
nothing not even that.
"""
import os
import sys

from marks import bad, mark, must

FILES = [f"file{i}" for i in range(3)]
ROUNDS = 2
SIZE = 10000


def content(name, number):
    return (f"{name} {number} " * SIZE)[:SIZE].encode()


def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def replace(directory, name, number, how):
    path = f"{directory}/{name}"
    with open(path + ".new", "wb") as f:
        f.write(content(name, number))
        f.flush()
        if how == "careful":
            os.fsync(f.fileno())
    os.rename(path + ".new", path)
    if how == "careful":
        sync(directory)
    elif how == "no-fsync":
        with open(f"{directory}/other", "ab") as f:
            f.write(b"x")
            f.flush()
            os.fsync(f.fileno())


def write(directory, how):
    for number in range(1, ROUNDS + 1):
        for name in FILES:
            replace(directory, name, number, how)
            mark(f"{name} {number}")


def check(directory):
    promised = {}
    for text in must():
        name, number = text.split()
        promised[name] = int(number)
    for name in FILES:
        try:
            with open(f"{directory}/{name}", "rb") as f:
                data = f.read()
        except FileNotFoundError:
            if name in promised:
                bad(f"{name} is not there; its content {promised[name]} was acknowledged")
            continue
        found = [n for n in range(1, ROUNDS + 1) if data == content(name, n)]
        if not found:
            bad(f"{name} has {len(data)} bytes, and none of the contents that it was given")
        if found[0] < promised.get(name, 0):
            bad(f"{name} has its content {found[0]}; {promised[name]} was acknowledged")


if sys.argv[1] == "write":
    write(sys.argv[2], (sys.argv[3:] or ["careful"])[0])
else:
    check(sys.argv[2])
