"""The two sockets between two machines: bytes in order, until the link breaks, and each side learns it in its time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydrbd.core.effects import Socket
from pydrbd.core.events import LinkDown
from pydrbd.core.states import ConnState

if TYPE_CHECKING:
    from tests.harness.world import Machine, World

__all__ = ["Link"]


class Link:
    """One life of the link: from LinkUp on both sides to LinkDown on both."""

    def __init__(self, world: World, a: Machine, b: Machine) -> None:
        self._world = world
        self._ends = (a, b)
        self.up = {a: True, b: True}
        self.numbers = {a: a.wants_link, b: b.wants_link}
        """What each side calls it."""
        self.broken = False
        self.clogged_until = 0.0
        self._last = {(machine, socket): 0.0 for machine in self._ends for socket in Socket}
        self._limit = dict.fromkeys(self._last, math.inf)

    @property
    def gone(self) -> bool:
        """Nobody holds an end of it any more."""
        return not any(self.up.values())

    def send(
        self, machine: Machine, socket: Socket, data: bytes, at_arrival: Callable[[], bytes] | None = None
    ) -> None:
        """Bytes leave; where and when they arrive is drawn. `at_arrival`: what they are by then."""
        if not self.up[machine] or self.broken:
            return
        world, peer = self._world, self._world.other(machine)
        key = (peer, socket)
        arrival = max(world.now + world.rng.uniform(0.00005, world.link_latency_s), self._last[key], self.clogged_until)
        self._last[key] = arrival
        pieces = [range(len(data))]
        if len(data) > 1 and world.rng.random() < world.split_probability:
            cut = 1 + int(world.rng.random() * (len(data) - 1))
            pieces = [range(cut), range(cut, len(data))]

        def deliver(piece: range) -> None:
            if self.up[peer] and arrival <= self._limit[key]:
                now = data if at_arrival is None else at_arrival()
                world.receive(peer, socket, now[piece.start : piece.stop], self)

        for piece in pieces:
            world.at(arrival, peer, lambda piece=piece: deliver(piece))

    def drop(self, machine: Machine, reason: int, text: str = "") -> None:
        """One side sees it go, now."""
        if self.up[machine]:
            self.up[machine] = False
            if machine.wants_link:  # the next one, which had to wait for this end
                self._world.later(machine, self._world.try_link)
            machine.feed(LinkDown(self.numbers[machine], reason, text))

    def close(self, machine: Machine, reason: int, *, linger: bool) -> None:
        """One side closes: it hears nothing more; the other one gets what was sent before, or a part of it."""
        world, peer = self._world, self._world.other(machine)
        self.broken = True
        seen = world.now
        for socket in Socket:
            self._limit[machine, socket] = min(self._limit[machine, socket], world.now)
            if not linger:
                share = world.rng.random() if world.rng.random() < 0.5 else math.inf
                grace = world.now + share * world.link_latency_s
                self._limit[peer, socket] = min(self._limit[peer, socket], grace)
            seen = max(seen, min(self._last[peer, socket], self._limit[peer, socket]))
        world.at(world.now + (0.005 if linger else 0.0), machine, lambda: self.drop(machine, reason))
        world.at(seen + 0.0005, peer, lambda: self.drop(peer, ConnState.BrokenPipe))

    def sever(self, late_s: float = 0.0) -> None:
        """The network fails: a part of what is on its way arrives; one side may learn it much later."""
        world = self._world
        if self.broken:
            return
        self.broken = True
        first = int(world.rng.random() * 2)
        for index, machine in enumerate(self._ends):
            seen = world.now
            for socket in Socket:
                if world.rng.random() < 0.5:
                    self._limit[machine, socket] = world.now + world.rng.random() * 3 * world.link_latency_s
                else:
                    self._limit[machine, socket] = world.now - 1.0
                seen = max(seen, min(self._last[machine, socket], self._limit[machine, socket]))
            when = seen + 0.0005 + (late_s if index != first else 0.0)
            world.at(when, machine, lambda machine=machine: self.drop(machine, ConnState.NetworkFailure))

    def lose(self, machine: Machine, late_s: float) -> None:
        """A machine has died: the other one sees it at once (its kernel closed the sockets) or late (no power)."""
        world, peer = self._world, self._world.other(machine)
        self.broken = True
        self.up[machine] = False
        seen = world.now
        for socket in Socket:
            if world.rng.random() < 0.5:
                self._limit[peer, socket] = min(self._limit[peer, socket], world.now + world.rng.random() * 0.002)
            seen = max(seen, min(self._last[peer, socket], self._limit[peer, socket]))
        if late_s:
            world.at(seen + late_s, peer, lambda: self.drop(peer, ConnState.NetworkFailure))
        else:
            self.drop(peer, ConnState.NetworkFailure)
