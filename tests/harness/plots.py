"""Stories with a plot: what chance would seldom bring about is made likely, and what comes of it is left to chance."""

from __future__ import annotations

import random
from typing import Any

from pydrbd.core.states import ConnState
from tests.harness.simulation import Simulation

__all__ = ["PlottedSimulation"]

_STEPS_MAX = 4
_RETURN_S = 10.0


class PlottedSimulation(Simulation):
    """Both nodes part at once, often; and at the end a Primary dies, returns, and is lost while it says who it is."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        self._plot = random.Random(f"plot/{seed}")
        self.both_part = True
        self.operations["disconnect"] = 0.05

    def _end_with_loss(self, *, power_of_both: bool) -> None:
        self._heal()
        if not power_of_both and self.world.is_in_sync():
            self._return_and_die()
        super()._end_with_loss(power_of_both=power_of_both)

    def _return_and_die(self) -> None:
        """The moment of its death is drawn among the first steps of its new connection."""
        primary = self._primary()
        if primary is None:
            return
        self._request()
        self._kill(primary)
        world = self.world
        if primary.node is not None:
            return
        primary.start()
        end = world.now + _RETURN_S
        while primary.node is not None and world.now < end and world.step():
            if primary.volume.state.conn >= ConnState.WFReportParams:
                break  # what it has to say is on its way
        for _ in range(self._plot.randrange(_STEPS_MAX)):
            world.step()
