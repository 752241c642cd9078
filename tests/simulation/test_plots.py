"""Stories with a plot, and busy ones: what they are for comes true, and every promise is kept."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.harness.plots import PlottedSimulation
from tests.harness.simulation import Simulation
from tests.harness.situations import SOMETIMES


def test_a_plot_has_both_part_at_once() -> None:
    """D5: they are asked for it at once, and all is well soon after."""
    totals: Counter[str] = Counter()
    for seed in range(200, 205):
        totals += PlottedSimulation(seed, ending=0.3).run()
    assert totals[SOMETIMES + "both part at once"]


@pytest.mark.parametrize("lanes", [False, True])
def test_a_busy_story_has_hundreds_of_requests(lanes: bool) -> None:
    """A1, B1: many at once, and some in the same places."""
    totals = Simulation(7, busy=True, lanes=lanes).run()
    assert totals["replies"] > 300 and totals[SOMETIMES + "requests overlap"]
