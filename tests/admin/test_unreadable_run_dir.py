"""A run directory that may not be read is an error: nobody may take it for a node on which nothing runs."""

from __future__ import annotations

import errno
import os

import pytest

VERBS = [
    ("status",),
    ("status", "--json"),
    ("events2", "--now"),
    ("events", "--now"),
    ("proc",),
    ("metrics", "--once"),
    ("metrics", "--listen", "tcp:127.0.0.1:0"),
    ("top", "--once"),
]


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_it_is_said(place, process, monkeypatch, words):
    """As `status r0` does, with its exit code; root may read everything, so it is played."""
    real = os.listdir

    def refuse(path="."):
        if str(path) == str(place.run_dir):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("os.listdir", refuse)
    place(*words).complains(77, str(place.run_dir), "Permission denied")


@pytest.mark.parametrize("words", VERBS[:6] + VERBS[7:], ids=" ".join)
def test_one_that_is_not_there_means_that_nothing_runs(place, words):
    """Nobody has said `up` since the machine started; a file in its place has no sockets either."""
    place.run_dir.rmdir()
    assert place(*words).code == 0
    place.run_dir.touch()
    assert place(*words).code == 0
