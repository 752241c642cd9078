"""Room in the activity log: which extents may leave it, and what makes more of them free to go, ahead of need.

An extent leaves when the peer has confirmed its last use (that epoch is released), and our own disk has what was
written there (META 4.5). Each of the two takes a flush, here and there. A write that has to wait for both, one after
the other, waits long; so when half of the log is not free to go, both begin at the same time: the peer is pressed for a
barrier, and our disk flushes. One such round serves many transactions, each of which is then a single durable block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydrbd.core.effects import DiskFlush, Persist, Stage
from pydrbd.core.volume import LocalDisk, Volume
from pydrbd.errors import errno_text
from pydrbd.limits import AL_ROOM_EXTENTS_MAX
from pydrbd.metadata.activity_log import Plan

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["LogRoom"]


class LogRoom:
    """What the activity logs of a node may forget."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._flushing: set[int] = set()
        self._awaited: dict[int, int] = {}

    @property
    def flushing(self) -> bool:
        """Whether a flush is under way that makes extents free to go."""
        return bool(self._flushing)

    def awaits_flush(self, volume: Volume) -> bool:
        """Whether more extents of this volume will be free to go when a flush of ours has ended."""
        return volume.vnr in self._flushing

    def ready_epoch(self, volume: Volume, disk: LocalDisk) -> int:
        """Extents whose last use lies in an epoch up to this one may leave without anybody's waiting for a flush."""
        released = self._node.log.released
        return min(released, disk.durable_epoch) if self._counts(volume, disk) else released

    @staticmethod
    def _counts(volume: Volume, disk: LocalDisk) -> bool:
        """Whether it matters which epochs our disk has: it is flushed at all, and they are what it writes by.

        What was written for a Primary without a disk belongs to no epoch of ours.
        """
        return volume.flushes_disk and not disk.logs_for_peer

    def durable_up_to(self) -> int:
        """All that was written to our disks in epochs up to this one is there when a flush that begins now has ended.

        It need not be there for the peer yet.
        """
        busy = (write.epoch.number for write in self._node.writes.in_flight() if write.local_busy)
        return min(busy, default=self._node.log.current.number) - 1

    def make(self, volume: Volume, disk: LocalDisk) -> None:
        """Begin a round if not enough extents are free to go, and the one before it is over."""
        if volume.vnr in self._flushing or self._node.log.released < self._awaited.get(volume.vnr, -1):
            return
        wanted = min(disk.log.slot_count // 2, AL_ROOM_EXTENTS_MAX)
        if disk.log.room(self.ready_epoch(volume, disk), wanted) == wanted:
            return
        self._node.press_for_barrier()
        self._awaited[volume.vnr] = self._node.log.current.number - 1
        if not self._counts(volume, disk):
            return
        self._flushing.add(volume.vnr)
        durable_up_to = self.durable_up_to()

        def flushed(failed: int, errno: int) -> None:
            self._flushing.discard(volume.vnr)
            if failed:
                self._node.on_disk_error(volume, disk, f"flush failed ({errno_text(errno)})")
            else:
                disk.is_durable(durable_up_to)
            self._node.gate.retry()

        self._node.out.put(DiskFlush(volume.vnr, flushed))

    def write(self, volume: Volume, disk: LocalDisk, plan: Plan, then: Callable[[int, int], None]) -> None:
        """An activity-log transaction: what it forgets is durable first, data and bits (META 4.5)."""
        node = self._node
        stages: tuple[Stage, ...] = ()
        if plan.evicted:
            stages = node.changes.bitmap_stage(volume, flush_data=True)
            last_use = max(plan.evicted_uses)
            if not stages and (disk.logs_for_peer or last_use > disk.durable_epoch):
                stages = node.changes.flush_stage(volume)
        flushes = any(stage.flush_data for stage in stages)
        durable_up_to = self.durable_up_to()

        def written(failed: int, errno: int) -> None:
            if flushes and not failed:
                disk.is_durable(durable_up_to)
            then(failed, errno)

        block = (disk.layout.al_offset_bytes + plan.ring_offset_bytes, plan.block)
        node.out.put(Persist(volume.vnr, (*stages, Stage(False, (block,))), written))
