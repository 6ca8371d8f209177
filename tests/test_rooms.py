"""Which room of the tree uses which: by the symbols that objects want of each other."""

import os
import subprocess

from conftest import NBDSPEC

OBJECTS = os.path.join(os.path.dirname(NBDSPEC), "obj")
MAY_USE = {"harness": set(), "fakeserver": {"harness"}, "reports": {"harness"}, "cases": {"harness", "fakeserver"}}


def symbols():
    """Of each: the room, the object, what nm calls it, and the name."""
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(OBJECTS) for name in names if name.endswith(".o")]
    for line in subprocess.run(["nm", "-A", *paths], capture_output=True, text=True, check=True).stdout.splitlines():
        path, words = os.path.relpath(line.split(":")[0], OBJECTS), line.split()
        yield path.split(os.sep)[0], path, words[-2], words[-1]


def test_arrows_point_one_way():
    """cases to harness and fakeserver, fakeserver to harness, reports to harness: what they link is in linker sections."""
    found = list(symbols())
    rooms = {name: room for room, _, kind, name in found if kind in "TDBRC"}
    uses = [(room, rooms[name], path, name) for room, path, kind, name in found if kind == "U" and rooms.get(name, room) != room]
    assert {room for room, *_ in uses} >= {"cases", "fakeserver", "reports"}
    assert [u for u in uses if u[1] not in MAY_USE[u[0]]] == []
