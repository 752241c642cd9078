"""Stories of two nodes and a witness, drawn from seeds: who may answer writes, whichever links are cut.

Any of the three links is cut and mended, machines and the witness die and return, disks fail, are detached and attached
again, and somebody who knows nothing promotes whom he likes, also with --force. Watched at every answer:

    C2   no node answers a write while the other one can: it is Primary, and its I/O goes on
    C1   whoever answers a write has all that was ever answered: the copies never part ways (no split brain at the end)
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

from pydrbd.core.effects import Reply
from pydrbd.core.quorum_options import QuorumOptions
from pydrbd.core.states import DiskState, Role
from tests.harness.checkers import Violation
from tests.harness.scene import BLOCK, in_sync_superblock
from tests.harness.world import Client, Machine, World

__all__ = ["QuorumStory"]

_SIZE_BYTES = 4 << 20
_BLOCKS = 32
_WRITE = 1


class _Writer(Client):
    """Remembers what each block holds, as far as it was answered for."""

    def __init__(self, story: QuorumStory, machine: Machine) -> None:
        self.story = story
        self.writes: dict[int, tuple[int, int]] = {}
        self.life = machine.life
        super().__init__(story.world, machine)

    def write_block(self, block: int, value: int) -> None:
        cookie = self._cookie + 1
        self.writes[cookie] = (block, value)
        self.story.written[block][value] = [self.story.tick(), math.inf]
        data = value.to_bytes(8, "big") * (BLOCK // 8)
        assert self.write(block * BLOCK, data, fua=True) == cookie  # what is answered survives a loss of power

    def answered(self, cookie: int, error: int, data: bytes) -> None:
        super().answered(cookie, error, data)
        if cookie in self.writes and not error:
            block, value = self.writes[cookie]
            self.story.stats["writes"] += 1
            self.story.written[block][value][1] = self.story.tick()


class QuorumStory:
    """The story of one seed."""

    def __init__(self, seed: int, *, steps: int = 60) -> None:
        self.seed = seed
        self.rng = random.Random(f"quorum/{seed}")
        self.steps = steps
        self.stats: Counter[str] = Counter()
        quorum = QuorumOptions(enabled=True, by_witness=True, io_error=self.rng.random() < 0.5)
        self.world = World(
            seed, size_bytes=_SIZE_BYTES, superblock=in_sync_superblock(_SIZE_BYTES), quorum=quorum,
            lanes=self.rng.random() < 0.3,
        )  # fmt: skip
        assert self.world.witness is not None
        self.witness = self.world.witness
        self.witness.latency_s = self.rng.choice((0.001, 0.3, 4.0))
        self.witness.loss_probability = self.rng.choice((0.0, 0.0, 0.2))
        self.world.observer = self
        self.written: list[dict[int, list[float]]] = [{0: [0, 0]} for _ in range(_BLOCKS)]
        """Of each block: value -> when its write began, and when it was answered (never: it may still come)."""
        self._clock = 0
        self.clients: dict[Machine, _Writer] = {}
        self._value = 0

    def tick(self) -> int:
        self._clock += 1
        return self._clock

    # --- watching ---

    def on_event(self, _machine: Machine, _event: Any) -> None: ...

    def on_effect(self, machine: Machine, effect: Any) -> None:
        if not isinstance(effect, Reply) or not effect.speaks:
            return
        if any(record.command == _WRITE for record in effect.batch.records[0 : effect.batch.count]):
            self.stats["checked C2"] += 1
            if self._can_answer(self.world.other(machine)):
                raise Violation("C2", f"{machine.name} answers a write, and the other node can, too")

    def _can_answer(self, machine: Machine) -> bool:
        if machine.node is None:
            return False
        state = machine.volume.state
        if state.connected and not self.world.linked:
            return False  # it has not seen yet that the link is gone: its writes wait for an answer that can't come
        return state.role is Role.Primary and not state.susp_fen and DiskState.UpToDate in (state.disk, state.pdsk)

    # --- the story ---

    def run(self) -> Counter[str]:
        """Tell it. Raises Violation with the trace."""
        try:
            self.world.start()
            self.world.run_until(self.world.is_in_sync)
            for _ in range(self.steps):
                self._step()
                self.world.run(self.rng.choice((0.001, 0.05, 1.0, 8.0)))
            self._end()
        except AssertionError as error:
            error.add_note(f"story {self.seed}:\n{self.world.report()}\nlease: {self.witness.lease}")
            raise
        self.stats["stories"] += 1
        self.stats["grants"] += self.witness.lease.term
        return self.stats

    def _step(self) -> None:
        world, rng = self.world, self.rng
        machine = rng.choice((world.a, world.b))
        match rng.choice(
            ("write", "write", "write", "write", "promote", "promote", "demote", "link", "witness", "die", "disk")
        ):
            case "write":
                self._write(rng.choice((world.a, world.b)))
            case "promote" if machine.node is not None:
                # --force would call bad data good, and be answered for by nobody here.
                force = machine.volume.state.disk is DiskState.UpToDate and rng.random() < 0.3
                machine.command("primary", force=force)
            case "demote" if machine.node is not None:
                machine.command("secondary", force=True)
            case "link":
                world.link_allowed = not world.link_allowed
                if world.link_allowed:
                    self._connect()
                else:
                    world.sever(rng.choice((0.0, 0.0, 3.0)))
            case "witness":
                self._witness(machine)
            case "die":
                if machine.node is None:
                    machine.start()
                    self._connect()
                else:
                    machine.lose_power(rng)

            case "disk" if machine.node is not None:
                self._disk(machine)

    def _disk(self, machine: Machine) -> None:
        if machine.volume.state.disk is DiskState.Diskless:
            machine.command("attach")
        elif self.rng.random() < 0.5:
            self.stats["disks detached"] += 1
            machine.command("detach", force=self.rng.random() < 0.3)
        else:
            self.stats["disks failing"] += 1
            machine.disks[0].fail_once.add(self.rng.choice(("write", "flush", "meta")))

    def _witness(self, machine: Machine) -> None:
        if self.rng.random() < 0.3:
            self.witness.up = not self.witness.up
        else:
            self.witness.cut_off ^= {machine.name}

    def _connect(self) -> None:
        """Who stands alone since two Primaries have met looks again."""
        for machine in (self.world.a, self.world.b):
            if machine.node is not None:
                machine.command("connect")
        self.world.try_link()

    def _write(self, machine: Machine) -> None:
        if machine.node is None or machine.volume.state.role is not Role.Primary:
            return
        client = self.clients.get(machine)
        if client is None or client.life != machine.life:
            client = self.clients[machine] = _Writer(self, machine)
        for _ in range(self.rng.randrange(1, 4)):
            self._value += 1
            client.write_block(self.rng.randrange(_BLOCKS), self._value)

    def _end(self) -> None:
        """All is mended: the copies are equal without anybody's choice, and hold what was answered for."""
        world = self.world
        world.link_allowed, self.witness.up, self.witness.loss_probability = True, True, 0.0
        self.witness.cut_off.clear()
        for machine in (world.a, world.b):
            machine.disks[0].fail_once.clear()
            if machine.node is None:
                machine.start()
        world.run(30)
        for machine in (world.a, world.b):
            if machine is not self._holder():
                machine.command("secondary", force=True)
        world.run(5)
        for machine in (world.a, world.b):
            machine.command("attach")  # before they meet: a Primary without its disk would refuse an older one
        world.run(5)
        self._connect()
        world.run(120)
        if not world.is_in_sync():
            self._demote_the_last()
        if not world.is_in_sync() and self._both_are_bad():
            self.stats["both disks were bad"] += 1
            return  # two disks with errors, one after the other: nobody serves from them, and nothing is promised
        if not world.is_in_sync():
            raise Violation("C1", "the copies have parted ways")
        if not world.copies_equal():
            raise Violation("B1", "the copies differ")
        image = world.a.disks[0].image
        for block in range(_BLOCKS):
            value = int.from_bytes(image[block * BLOCK : block * BLOCK + 8], "big")
            writes = self.written[block]
            later = [other for other, (begun, end) in writes.items() if begun > writes[value][1] and end < math.inf]
            if later:
                raise Violation("C1", f"block {block} holds {value}, and {later} were answered for since")

    def _both_are_bad(self) -> bool:
        nodes = (self.world.a.node, self.world.b.node)
        return all(node is not None and node.volumes[0].state.disk is DiskState.Inconsistent for node in nodes)

    def _demote_the_last(self) -> None:
        """A holder without its disk may be what the other one waits for: it was granted what it never heard of."""
        for machine in (self.world.a, self.world.b):
            machine.command("secondary", force=True)
            machine.command("attach")
        self.world.run(5)
        self._connect()
        self.world.run(120)

    def _holder(self) -> Machine | None:
        return next((one for one in (self.world.a, self.world.b) if one.name == self.witness.lease.holder), None)
