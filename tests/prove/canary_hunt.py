"""How soon the checkers find our own code with one line broken: the seeds that each canary lives through."""

from __future__ import annotations

from collections import Counter
from statistics import median

from tests.harness.canaries import CANARIES, caught
from tests.prove.run import Outcome, Rung

__all__ = ["RUNGS", "describe"]

SEEDS_PER_HUNT = 10
"""One hunt is a part of a search that goes on with the next seeds, so that none takes long."""
LIVED, CAUGHT = "canary lived through ", "canary caught "
FIRST = 1_000_000
"""Fresh seeds, not those where each canary was found once."""


def hunt(seed: int, figures: Counter[str]) -> None:
    """Some stories with the canary whose turn it is; that it lives through them is no failure yet."""
    turn, index = divmod(seed, len(CANARIES))
    canary, first = CANARIES[index], FIRST + turn * SEEDS_PER_HUNT
    found = caught(canary, range(first, first + SEEDS_PER_HUNT))
    figures[LIVED + canary.name] += SEEDS_PER_HUNT if found is None else found[0] - first
    figures[CAUGHT + canary.name] += found is not None


def describe(outcome: Outcome) -> list[str]:
    """How many were caught, the median of the seeds that it took, and who is still at large."""
    names = [canary.name for canary in CANARIES]
    hunted = [name for name in names if CAUGHT + name in outcome.figures]
    took = {
        name: 1 + outcome.figures[LIVED + name] / outcome.figures[CAUGHT + name]
        for name in hunted
        if outcome.figures[CAUGHT + name]
    }
    lines = [f"canaries: {len(took)} of {len(hunted)} hunted were caught, of {len(names)}"]
    if took:
        lines[0] += f"; seeds until then: median {median(took.values()):.0f}, most {max(took.values()):.0f}"
    lines += [
        f"  {name} has lived through {outcome.figures[LIVED + name]} seeds" for name in hunted if name not in took
    ]
    return lines


RUNGS = (Rung("canaries", 2, hunt),)
