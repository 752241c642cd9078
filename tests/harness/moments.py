"""Faults that strike in the very moment in which a node's state changes, where a clock would seldom hit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from pydrbd.core.states import State
from tests.harness.world import Machine, World

__all__ = ["Moments"]


class Moments:
    """An observer: with a probability, what a node was about to say of its new state is lost with the link, or the
    node, or its peer, dies just then (`strike`)."""

    def __init__(self, world: World, rng: random.Random, strike: Callable[[Machine], None]) -> None:
        self.probability = 0.0
        self.cuts = 0
        self._world = world
        self._rng = rng
        self._strike = strike
        self._states: dict[Machine, State] = {}

    def on_effect(self, machine: Machine, effect: Any) -> None: ...

    def on_event(self, machine: Machine, event: Any) -> None:
        state = machine.volume.state
        if not self.probability or state is self._states.get(machine):
            return
        self._states[machine] = state
        if self._rng.random() >= self.probability:
            return
        if self._rng.random() < 0.6:
            self.cuts += self._world.linked
            self._world.sever(self._rng.choice((0.0, 0.0, 0.5)))
        else:
            self._world.at(self._world.now, machine, lambda: self._strike(machine))
