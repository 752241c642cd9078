"""The small model as a rung: most seeds stay short, some go through hundreds of thousands of states."""

from __future__ import annotations

from collections import Counter

from pydrbd.core.transitions import Fencing
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


RUNGS = (Rung("small model", 0.1, walk),)
