"""Promises that one disk and its node can be asked for, or both disks at the end of a resync (see checkers.py).

    A3   a client's read from a disk that is not UpToDate touches nothing that is marked out of sync
    A9   a flush that failed is final: the disk is given up
    B6   when a resync ends, both copies are the same but for writes that are under way
    B8   a resync that is broken off has lost no bit
    B10  after a Primary's crash the activity log marks its hot extents, and nothing else
"""

from __future__ import annotations

from typing import Any

from pydrbd import native
from pydrbd.core import effects as fx
from pydrbd.core.events import Done
from pydrbd.core.states import ConnState, DiskState, Role, State
from pydrbd.metadata.bitmap import Bitmap
from pydrbd.units import BIT_SIZE_BYTES, EXTENT_SIZE_BYTES, ceil_div
from tests.harness.checkers import Oracle, Violation
from tests.harness.world import Machine

__all__ = ["DiskChecks"]

_NBD_READ = 0
_BITS_PER_EXTENT = EXTENT_SIZE_BYTES // BIT_SIZE_BYTES
_RUNNING = (ConnState.SyncSource, ConnState.SyncTarget, ConnState.PausedSyncS, ConnState.PausedSyncT)


class DiskChecks:
    """An observer beside the oracle, which it asks for what it knows."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._world = oracle.world
        self._states: dict[Machine, State] = {}
        self._alone_at_its_end: dict[Machine, bool] = {}
        """Of a machine that is down: whether it had seen the link break before."""

    def on_effect(self, machine: Machine, effect: Any) -> None:
        if isinstance(effect, fx.DiskRead) and machine.volume.state.disk != DiskState.UpToDate:
            self._check_read(machine, effect)

    def on_event(self, machine: Machine, event: Any) -> None:
        state = machine.volume.state
        if isinstance(event, Done) and isinstance(event.effect, fx.DiskFlush) and event.failed:
            self._check_flush(machine)
        if state is not self._states.get(machine):
            self._on_state(machine, self._states.get(machine, State()), state)
            self._states[machine] = state

    def _check_read(self, machine: Machine, effect: fx.DiskRead) -> None:
        disk, batch = machine.volume.disk, effect.batch
        for index in native.indices(effect.mask):
            record = batch.records[index]
            if record.command != _NBD_READ or machine.volume.state.role != Role.Primary or disk is None:
                continue
            self._oracle._count("A3")
            first = record.offset // BIT_SIZE_BYTES
            count = ceil_div(record.offset + record.length, BIT_SIZE_BYTES) - first
            if disk.bitmap.count_bits(first, count):
                raise Violation("A3", f"{machine.name} reads block {first} for a client, and it is out of sync")

    def _check_flush(self, machine: Machine) -> None:
        if machine.disks[0].failed_last != "flush":
            return  # it was on its way when the disk was let go
        self._oracle._count("A9")
        if machine.volume.state.disk > DiskState.Failed:
            raise Violation("A9", f"{machine.name} goes on with a disk whose flush has failed")

    def _on_state(self, machine: Machine, old: State, new: State) -> None:
        if old.conn in _RUNNING and new.conn < ConnState.Connected:
            self._oracle._count("B8")
            self._oracle.check_coverage()
        target = old.conn == ConnState.SyncTarget and new.conn == ConnState.Connected
        if target and new.disk == DiskState.UpToDate and not self._oracle.tainted:
            self._oracle._count("B6")
            hot = self._oracle._hot_on_disk(self._world.a) | self._oracle._hot_on_disk(self._world.b)
            wrong = [block for block in self._world.differing_blocks() if block // _BITS_PER_EXTENT not in hot]
            marked = self._marked_alone(self._world.other(machine))
            wrong = [block for block in wrong if marked is None or not marked.test(block)]
            if wrong:
                raise Violation("B6", f"blocks {wrong[:8]} differ at the end of a resync, and nobody writes there")

    def _marked_alone(self, source: Machine) -> Bitmap | None:
        """What a source knows its target to lack that has seen the link end before it did; it may be down since."""
        if source.node is None:
            return source.disks[0].peek().bitmap if self._alone_at_its_end.get(source) else None
        if source.volume.disk is None or source.volume.state.conn >= ConnState.Connected:
            return None
        return source.volume.disk.bitmap

    def forget(self, machine: Machine) -> None:
        """It is down."""
        last = self._states.pop(machine, None)
        self._alone_at_its_end[machine] = last is not None and last.conn < ConnState.Connected

    def on_crash(self, machine: Machine) -> None:
        """B10: a Primary has just died."""
        disk = machine.disks[0]
        layout, hot = disk.layout, self._oracle._hot_on_disk(machine)
        start = layout.bitmap_offset_bytes
        marked = disk.peek().bitmap.to_bytes()
        before = int.from_bytes(disk.image[start : start + len(marked)], "little")
        added = int.from_bytes(marked, "little") & ~before
        self._oracle._count("B10")
        for extent in hot:
            added &= ~(((1 << _BITS_PER_EXTENT) - 1) << extent * _BITS_PER_EXTENT)
        if added:
            raise Violation("B10", f"{machine.name}'s log marks blocks outside of its hot extents {sorted(hot)}")
