"""Scripts read either: what drbdsetup tells of a kernel's node, and what pydrbd tells of its own, side by side."""

from __future__ import annotations

import json

import pytest

from tests.admin.test_status_schema import SCHEMA, mistakes

pytestmark = pytest.mark.interop

DIRECTIONS_WITH_OURS = [
    pytest.param(("kernel", "pydrbd"), id="kernel-to-pydrbd"),
    pytest.param(("pydrbd", "kernel"), id="pydrbd-to-kernel"),
]
WORDS_S = 30.0


def words(text: str) -> dict[str, list[str]]:
    """Kind of object to the keys of its line, in order; the line that ends what there is has none."""
    lines = [line.split() for line in text.splitlines() if line.startswith("exists ") and line != "exists -"]
    return {line[1]: [word.partition(":")[0] for word in line[2:]] for line in lines}


def of_ours(pair, *line: str) -> str:
    (node,) = [node for node in pair if node is not pair.kernel]
    done = node.call(*line, timeout_s=WORDS_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("pair", DIRECTIONS_WITH_OURS, indirect=True)
def test_events2_are_the_same_words(pair):
    """The same objects, each with the same words in the same order; of figures there are none less.

    What drbdsetup has here is DRBD 8.4's: it knows no --json and no --full.
    """
    pair.start()
    pair.sync()
    for options in ([], ["--statistics"]):
        theirs = words(pair.kernel.guest.run("drbdsetup", "events2", "--now", *options).output)
        ours = words(of_ours(pair, "events2", "--now", *options))
        assert set(theirs) == set(ours) == {"resource", "connection", "device", "peer-device"}
        for kind, keys in theirs.items():
            assert [key for key in ours[kind] if key in keys] == keys, (kind, options)
            assert options or ours[kind] == keys, kind
    assert mistakes(json.loads(of_ours(pair, "status", "--json")), SCHEMA) == []
