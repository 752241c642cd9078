"""Every write of meta-data, broken: each subset of its sectors is on disk, and nothing after it.

A story is told; whenever a node asks for meta-data to be written, all that a crash in the middle could leave is opened
by the code that attaches a disk. It finds the old or the new superblock and activity log (D10), and with what the other
node has on disk in that moment, every block that differs is known of (B2).

Data joins in: each such state is looked at with states of both caches, as power failure of this node, of the other or
of both leaves them. What a flush has covered is there (A4), and each block that differs then is known of, too.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from pydrbd.core.effects import Persist
from pydrbd.errors import MetaDataError
from pydrbd.metadata.apply_al import split_blocks
from pydrbd.metadata.layout import MetaKind
from pydrbd.metadata.opening import OpenedMetaData, open_meta_data
from pydrbd.units import SECTOR_SIZE_BYTES
from tests.harness.checkers import Violation
from tests.harness.disk import MemoryDisk, replay
from tests.harness.simulation import Simulation, SimulationFailed
from tests.harness.world import Machine
from tests.prove.run import Broken, Rung

__all__ = ["RUNGS", "TornStory"]

STEPS = 40
EXHAUSTIVE_SECTORS_MAX = 6
SUBSETS_MAX = 64
WRITES_PROBABILITY = 0.2
"""How many of the writes of a story are broken: each takes as long as many steps."""

DATA_STATES_MAX = 8
"""Of both caches, beside each state of the meta-data; all of them if there are no more."""

Sectors = dict[int, bytes]


class TornStory(Simulation):
    """A story in which writes of meta-data are looked at before they are carried out."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, steps=STEPS, **options)
        self.states = 0
        self.data_states = 0
        self._draw = random.Random(f"torn/{seed}")
        self._told = self.oracle.on_effect
        self.oracle.on_effect = self.on_effect  # type: ignore[method-assign]

    def on_effect(self, machine: Machine, effect: Any) -> None:
        """The observer's: break it, then go on as ever."""
        if isinstance(effect, Persist) and self._draw.random() < WRITES_PROBABILITY:
            self._break(machine, effect)
        self._told(machine, effect)

    def _break(self, machine: Machine, effect: Persist) -> None:
        """Stage by stage: those before are whole, of this one any sectors have arrived."""
        disk = machine.disks[effect.volume]
        before: Sectors = {}
        allowed = [_essence(disk, before)]
        for stage in effect.stages:
            changed = _changed(disk, before, stage.writes)
            if stage.flush_data:
                self.oracle.flushed = machine
            allowed.append(_essence(disk, before | changed))
            if changed and not (stage.flush_data and disk.unflushed):
                # A stage that flushes first changes what a crash before it leaves of the data: that is for its time.
                for arrived in _subsets(sorted(changed), self._draw):
                    self._look(machine, before | {sector: changed[sector] for sector in arrived}, allowed[-2:])
            before |= changed
        self.oracle.flushed = None

    def _look(self, machine: Machine, sectors: Sectors, allowed: list[tuple[Any, Any]]) -> None:
        self.states += 1
        disk = machine.disks[0]
        try:
            found = _essence(disk, sectors)
            opened = _opened(disk, sectors)
        except MetaDataError as error:
            raise Violation("D10", f"{machine.name} could not attach after a torn write: {error}") from error
        self.oracle._count("D10")
        if found[0] not in {one[0] for one in allowed} or found[1] not in {one[1] for one in allowed}:
            raise Violation("D10", f"{machine.name} found neither the old nor the new meta-data after a torn write")
        self.oracle._peeked[disk] = disk.meta_generation, opened
        try:
            self.oracle.check_coverage()
            self._look_at_data()
        finally:
            del self.oracle._peeked[disk]

    def _look_at_data(self) -> None:
        """Power fails here, there or on both: what then differs is known of, and nothing that counts is gone."""
        oracle = self.oracle
        if oracle.tainted or oracle.in_doubt or oracle.given_up:
            return
        volatile = [self._unflushed(machine) for machine in self.machines]
        if not any(volatile):
            return
        differing = set(self.world.differing_blocks())
        for here, there in _data_states(volatile, self._draw):
            self.data_states += 1
            blocks = {sector // 8 for sector in (*here, *there)}
            now = {block for block in blocks if self._differs(block, here, there)}
            oracle.check_known(sorted(differing - blocks | now), set())

    def _unflushed(self, machine: Machine) -> dict[int, list[bytes]]:
        if machine is self.oracle.flushed:
            return {}
        found = machine.disks[0].unflushed_data()
        if machine in self.oracle.fresh & self.oracle.whole:
            for sector, contents in found.items():
                for content in contents:
                    self.oracle.check_survives(machine, sector, content)
        return found

    def _differs(self, block: int, here: Sectors, there: Sectors) -> bool:
        a, b = (machine.disks[0] for machine in self.machines)
        sectors = range(block * 8, block * 8 + 8)
        return any((here.get(one) or _sector(a, one)) != (there.get(one) or _sector(b, one)) for one in sectors)


def _data_states(volatile: list[dict[int, list[bytes]]], draw: random.Random) -> Iterator[tuple[Sectors, Sectors]]:
    """What both caches may leave: all of it if that is little; else nothing, everything, and mixtures."""
    places = [(side, sector, contents) for side in (0, 1) for sector, contents in volatile[side].items()]
    count = math.prod(len(contents) for _, _, contents in places)

    def state(choice: Iterable[bytes]) -> tuple[Sectors, Sectors]:
        found: tuple[Sectors, Sectors] = ({}, {})
        for (side, sector, _), content in zip(places, choice, strict=True):
            found[side][sector] = content
        return found

    if count <= DATA_STATES_MAX:
        yield from map(state, itertools.product(*(contents for _, _, contents in places)))
        return
    yield state(contents[0] for _, _, contents in places)
    for lost in (0, 1):
        yield state(contents[0 if side == lost else -1] for side, _, contents in places)
    for _ in range(DATA_STATES_MAX - 3):
        yield state(draw.choice(contents) for _, _, contents in places)


def _changed(disk: MemoryDisk, before: Sectors, writes: tuple[tuple[int, bytes], ...]) -> Sectors:
    changed: Sectors = {}
    for offset, data in writes:
        for position in range(0, len(data), SECTOR_SIZE_BYTES):
            sector = (offset + position) // SECTOR_SIZE_BYTES
            piece = bytes(data[position : position + SECTOR_SIZE_BYTES])
            if before.get(sector, _sector(disk, sector)) != piece:
                changed[sector] = piece
    return changed


def _sector(disk: MemoryDisk, sector: int) -> bytes:
    return disk.image[sector * SECTOR_SIZE_BYTES : (sector + 1) * SECTOR_SIZE_BYTES]


def _subsets(sectors: list[int], draw: random.Random) -> Iterator[list[int]]:
    """All of them if there are few; else none, all, each alone, all but each, and some at random."""
    count = len(sectors)
    if count <= EXHAUSTIVE_SECTORS_MAX:
        for mask in range(1 << count):
            yield [sector for index, sector in enumerate(sectors) if mask >> index & 1]
        return
    yield []
    yield sectors
    for sector in draw.sample(sectors, min(count, SUBSETS_MAX // 4)):
        yield [sector]
        yield [other for other in sectors if other != sector]
    for _ in range(SUBSETS_MAX // 2):
        yield [sector for sector in sectors if draw.random() < 0.5]


def _reader(disk: MemoryDisk, sectors: Sectors) -> Any:
    def read(offset: int, length: int) -> bytes:
        data = bytearray(disk.image[offset : offset + length])
        for sector, piece in sectors.items():
            position = sector * SECTOR_SIZE_BYTES - offset
            if 0 <= position < length:
                data[position : position + SECTOR_SIZE_BYTES] = piece
        return bytes(data)

    return read


def _opened(disk: MemoryDisk, sectors: Sectors) -> OpenedMetaData:
    return open_meta_data(_reader(disk, sectors), MetaKind.INTERNAL, 0, disk.sectors, disk.sectors, disk.known)


def _essence(disk: MemoryDisk, sectors: Sectors) -> tuple[Any, Any]:
    """The superblock's bytes that are in use, and the extents that are hot."""
    read, layout = _reader(disk, sectors), disk.layout
    area = read(layout.al_offset_bytes, layout.al_size_bytes)
    log = replay(split_blocks(area), True, layout.al_stripes)
    return read(layout.superblock_offset_bytes, SECTOR_SIZE_BYTES), frozenset(log.extents)


def tear(seed: int, figures: Counter[str]) -> None:
    """One story with all its writes of meta-data broken. Raises Broken."""
    story = TornStory(seed, lanes=bool(seed & 1), hasty=bool(seed & 2))
    try:
        story.run()
    except SimulationFailed as failure:
        promise = failure.error.promise if isinstance(failure.error, Violation) else "D10"
        replay_line = f"python -m tests.prove --only 'torn meta-data' --seed {seed} --once"
        raise Broken(promise, str(failure.error), replay_line) from failure
    finally:
        figures.update(story.stats)
        figures["crash states"] += story.states + story.data_states
        figures["crash states with data"] += story.data_states


RUNGS = (Rung("torn meta-data", 6, tear),)
