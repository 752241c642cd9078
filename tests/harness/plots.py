"""Stories with a plot: what chance would seldom bring about is made likely, and what comes of it is left to chance."""

from __future__ import annotations

import random
from typing import Any

from pydrbd.core.states import ConnState
from tests.harness.simulation import Simulation

__all__ = ["PlottedSimulation"]

_STALL_S = 1.0
_STEPS_MAX = 4
_RETURN_S = 10.0
_PATIENCE_STEPS = 30


class PlottedSimulation(Simulation):
    """Both nodes part at once, often; and at the end a Primary dies, returns, and is lost while it says who it is,
    or one of them is lost while nothing gets through to the other."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        self._plot = random.Random(f"plot/{seed}")
        self._stalls = False
        self.both_part = True
        self.operations["disconnect"] = 0.05

    def _end_with_loss(self, *, power_of_both: bool) -> None:
        self._heal()
        if not power_of_both and self._plot.random() < 0.5:
            for _ in range(_PATIENCE_STEPS):
                if self.world.is_in_sync() and self.client is not None:
                    self._stalls = True
                    break
                self._manage(eager=True)
                self.world.run(0.3)
        elif not power_of_both and self.world.is_in_sync():
            self._return_and_die()
        super()._end_with_loss(power_of_both=power_of_both)

    def _last_requests(self, *, flush: bool) -> None:
        """Nothing gets through any more when they begin: whoever answers one alone has promised too much."""
        link = self.world.link
        if self._stalls and link is not None:
            self.sightings.saw("the network stalls")
            link.clogged_until = self.world.now + _STALL_S
        super()._last_requests(flush=flush)

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
