"""The small model as a rung: most seeds stay short, some go through hundreds of thousands of states."""

from __future__ import annotations

from collections import Counter

from pydrbd.core.transitions import Fencing
from tests.harness.quorum_model import QuorumBounds, explore_quorum
from tests.harness.quorum_model import walk as walk_at_random
from tests.harness.small_model import Bounds, explore
from tests.prove.run import Broken, Rung

__all__ = ["RUNGS"]

_SHORT, _LONG = Bounds(generations=2, writes=1, cuts=1, crashes=1), Bounds()
_POLICIES = (Fencing.DONT_CARE, Fencing.RESOURCE_AND_STONITH)
LONG_ONES = (6, 7)
"""Of eight seeds, those that go all the way."""


def walk(seed: int, figures: Counter[str]) -> None:
    """Every state within bounds. Raises Broken."""
    found = explore(_POLICIES[seed % 2], _LONG if seed % 8 in LONG_ONES else _SHORT)
    figures["model states"] += found.states
    for promise, count in found.checks.items():
        figures[f"checked {promise}"] += count
    if found.broken:
        replay = f"python -m tests.prove --only 'small model' --seed {seed} --once"
        raise Broken(found.broken.partition(":")[0], found.broken, replay)


QUORUM = QuorumBounds(writes=1, cuts=1, crashes=1, disks=1, losses=1, states=2000)
STEPS_MAX = 24
"""How far away a walk begins to look around."""
SAME_PROMISE = {"Q1": "C2", "Q2": "C1"}
"""What is said of the lease is there for the sake of these."""


def walk_with_quorum(seed: int, figures: Counter[str]) -> None:
    """All that may happen around the end of a random way, of two nodes and their witness. Raises Broken."""
    io_error, first = seed % 2 == 1, walk_at_random(seed, seed % (STEPS_MAX + 1), io_error=seed % 2 == 1)
    found = explore_quorum(io_error=io_error, bounds=QUORUM, first=first)
    figures["quorum model states"] += found.states
    for promise, count in found.checks.items():
        figures[f"checked {SAME_PROMISE.get(promise, promise)}"] += count
    if found.broken:
        replay = f"python -m tests.prove --only 'quorum model' --seed {seed} --once"
        promise = found.broken.partition(":")[0]
        raise Broken(SAME_PROMISE.get(promise, promise), found.broken, replay)


RUNGS = (Rung("small model", 0.1, walk), Rung("quorum model", 0.1, walk_with_quorum))
