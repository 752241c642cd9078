"""Our own code with one line broken: a checker finds it, each time, or it is worth nothing."""

from __future__ import annotations

import pytest

from tests.harness.canaries import CANARIES, Canary, caught

SEEDS_MAX = 150
CANARIES_MIN = 25


@pytest.mark.parametrize("canary", CANARIES, ids=[canary.name for canary in CANARIES])
def test_the_canary_is_caught(canary: Canary) -> None:
    """Within SEEDS_MAX stories some checker says that a promise was broken (which one, where only one can)."""
    found = caught(canary, range(canary.first, canary.first + SEEDS_MAX))
    assert found, f"it lived through {SEEDS_MAX} stories"
    print(f"caught by {found[1]} at seed {found[0]}")


def test_there_are_enough_canaries() -> None:
    """Each is another line of ours, none is there twice."""
    assert len({canary.mutant for canary in CANARIES}) == len(CANARIES) >= CANARIES_MIN
