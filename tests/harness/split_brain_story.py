"""A split brain, made on purpose: both nodes are promoted while the link is down, and both are written to (C3)."""

from __future__ import annotations

import random

from pydrbd.core.states import ConnState
from tests.harness.checkers import Violation, fill
from tests.harness.simulation import SimulationFailed, fresh_pair_superblock
from tests.harness.situations import Sightings
from tests.harness.world import Client, Machine, World

__all__ = ["SplitBrainStory"]

_SIZE_BYTES = 12 << 20
_BLOCK_BYTES = 4096


class SplitBrainStory:
    """One seed: who was Primary before, what is written where, who is Primary when they meet, who gives in."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(f"split brain/{seed}")
        self.world = World(seed, size_bytes=_SIZE_BYTES, al_extents=67, superblock=fresh_pair_superblock(_SIZE_BYTES))
        self.sightings = Sightings(self.world)
        self.world.observer = self.sightings
        self._op = 0

    def run(self) -> None:
        """Tell it. Raises SimulationFailed."""
        try:
            self._part()
            self._meet()
            self._discard()
        except Exception as error:  # whatever breaks, the seed and the trace must be seen
            raise SimulationFailed(self.seed, error, self.world.report()) from error

    def _part(self) -> None:
        world, rng = self.world, self.rng
        world.start()
        world.run_until(world.is_in_sync)
        if rng.random() < 0.5:
            self._write_as_primary(rng.choice((world.a, world.b)), stays=rng.random() < 0.5)
        world.link_allowed = False
        world.sever(rng.choice((0.0, 0.5)))
        world.run(2.0)
        for machine in rng.sample((world.a, world.b), 2):
            self._write_as_primary(machine, stays=rng.random() < 0.5)
            if rng.random() < 0.3:
                machine.stop()
                machine.start()
                world.run(2.0)

    def _write_as_primary(self, machine: Machine, *, stays: bool) -> None:
        if machine.volume.state.role.name != "Primary":
            self._ask(machine, "primary")
        client = Client(self.world, machine)
        for _ in range(self.rng.randint(1, 8)):
            self._op += 1
            sector = self.rng.randrange(20) * 8
            client.write(sector * 512, fill(self._op, sector, 8))
        self.world.run(3.0)
        if any(error for error, _ in client.replies.values()):
            raise Violation("A8", f"{machine.name} refuses writes")
        machine.volume.sessions.discard(client)
        if not stays:
            self._ask(machine, "secondary")

    def _ask(self, machine: Machine, verb: str, **arguments: object) -> None:
        request = machine.command(verb, **arguments)
        self.world.run(3.0)
        code, text = machine.answers.get(request, (0, "no answer"))
        if code < 1:
            raise Violation("C3", f"{machine.name} refuses {verb}: {text}")

    def _images(self) -> tuple[bytes, bytes]:
        return bytes(self.world.a.disks[0].data), bytes(self.world.b.disks[0].data)

    def _meet(self) -> None:
        """They must see it, and leave everything as it is."""
        world = self.world
        before = self._images()
        marked = [machine.volume.out_of_sync_bits for machine in (world.a, world.b)]
        world.link_allowed = True
        world.try_link()
        world.run(10.0)
        for machine, bits in zip((world.a, world.b), marked, strict=True):
            if not any("Split-Brain" in line for line in machine.log):
                raise Violation("C3", f"{machine.name} does not see the split brain")
            if machine.volume.out_of_sync_bits < bits:
                raise Violation("C3", f"{machine.name} has forgotten what is out of sync")
        if self._images() != before:
            raise Violation("C3", "a copy has changed before anybody decided")
        if all(machine.volume.state.conn != ConnState.StandAlone for machine in (world.a, world.b)):
            raise Violation("C3", "both go on trying to connect")

    def _discard(self) -> None:
        """One gives in: the other one's copy is on both, whole."""
        world = self.world
        loser = self.rng.choice((world.a, world.b))
        winner = world.other(loser)
        if loser.volume.state.role.name == "Primary":
            self._ask(loser, "secondary")
        expected = bytes(winner.disks[0].data)
        for machine in (winner, loser):
            if machine.volume.state.conn != ConnState.StandAlone:
                self._ask(machine, "disconnect")
        self._ask(loser, "connect", discard_my_data=True)
        self._ask(winner, "connect")
        world.run_until(world.is_in_sync, 30.0)
        world.run(1.0)
        if self._images() != (expected, expected):
            raise Violation("C3", f"after {loser.name} discarded its data, not both copies are {winner.name}'s")
