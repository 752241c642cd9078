"""A cluster manager behind the fence-peer handlers of a simulated pair: honest, slow, and not always able to help.

It can forbid a node to become Primary (as the constraint of crm-fence-peer does), and it can shoot a node. What it says
is true when it says it, and stays so until it is told that both are in sync again:

    4  the peer is up, Secondary, and forbidden to be promoted        5, 7     the peer is down, or has just been shot
    6  the peer is Primary                                            1, None  no verdict
"""

from __future__ import annotations

import random
from collections.abc import Callable

from pydrbd.core.states import Role
from tests.harness.world import Machine, World

__all__ = ["Cluster"]

FENCED, UNREACHABLE, ACTIVE, STONITHED, BROKEN = 4, 5, 6, 7, 1


class Cluster:
    """Its draws are its own, so that a story without fencing is told as ever."""

    def __init__(self, world: World, seed: int, shoot: Callable[[Machine], None]) -> None:
        self.world = world
        self.banned: Machine | None = None
        self.said: list[int | None] = []
        self._shoot = shoot
        self._rng = random.Random(f"cluster/{seed}")
        self._delay_s = self._rng.choice((0.01, 0.3, 3.0))
        self._helpless = self._rng.choice((0.0, 0.1, 0.6))
        self._violent = self._rng.choice((0.0, 0.3, 1.0))
        for machine in (world.a, world.b):
            machine.handler = lambda name, machine=machine: self._begin(name, machine)

    def _begin(self, name: str, machine: Machine) -> tuple[Callable[[], int | None], float]:
        if name == "fence-peer":
            return lambda: self._fence_peer(machine), self._rng.expovariate(1.0) * self._delay_s
        return lambda: self._unfence(machine), 0.01

    def _unfence(self, machine: Machine) -> int:
        """unfence-peer, of the source of a resync; after-resync-target is not used."""
        if self.banned is self.world.other(machine):
            self.banned = None
        return 0

    def _fence_peer(self, machine: Machine) -> int | None:
        """What can be done, and what is true after it."""
        code = self._verdict(machine, self.world.other(machine))
        self.said.append(code)
        return code

    def _verdict(self, machine: Machine, peer: Machine) -> int | None:
        rng = self._rng
        if rng.random() < self._helpless:
            return rng.choice((BROKEN, None))
        if self.world.is_linked() or self.banned is machine:
            return BROKEN  # there is nothing to be fenced any more; or we are who must not go on
        if peer.node is not None and rng.random() < self._violent:
            self._shoot(peer)
        if peer.node is None:
            self.banned = peer
            return rng.choice((UNREACHABLE, STONITHED))
        if peer.volume.state.role is Role.Primary:
            return ACTIVE
        self.banned = peer
        return FENCED
