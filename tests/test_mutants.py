"""nbdspec mutants: what it proves is not cut short where nobody looks."""

import re

import pytest


def counts(nbdspec, case, mutant):
    """Of what can be run: pairs, red ones; decided without a run, left out."""
    done = nbdspec("mutants", "-c", case, "-m", mutant, status=0)
    return [int(n) for n in re.search(r"(\d+) pairs, (\d+) red.*\n\((\d+) pairs decided.*?; (\d+) left out", done.stdout).groups()]


@pytest.mark.parametrize("case", ["write/above_maximum_payload", "structured/above_maximum_payload"])
def test_bulk_under_every_knob(nbdspec, case):
    pairs, red, decided, left_out = counts(nbdspec, case, "knob *")
    assert pairs > 80 and red == 0 and decided < pairs and left_out == 0


@pytest.mark.parametrize("lie", ["chunks_put_as_they_come", "chunks_put_at_the_beginning"])
def test_lying_client_meets_every_knob(nbdspec, lie):
    """These two are seen under a few of them alone."""
    assert counts(nbdspec, "plain/freedoms", f"client {lie}") == [1, 1, 0, 0]
