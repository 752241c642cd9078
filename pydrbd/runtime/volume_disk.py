"""The disks of one volume while it is attached: data and meta-data, and the effects that go to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from errno import EIO
from typing import Any

import trio

from pydrbd.core import effects as fx
from pydrbd.limits import DISK_STOP_TIMEOUT_S
from pydrbd.metadata.layout import MetaKind
from pydrbd.metadata.opening import KnownSize, OpenedMetaData, open_meta_data
from pydrbd.native import LaneFlushed
from pydrbd.runtime.block_device import FileDevice
from pydrbd.runtime.block_open import IoMode
from pydrbd.runtime.build import DiskPlace
from pydrbd.runtime.disk import Disk, OnDone
from pydrbd.runtime.disk_ops import (
    Discard,
    DiskOp,
    Flush,
    MapExtents,
    MetaWrite,
    ReadAhead,
    ReadBatch,
    WriteBatch,
    WriteZeroes,
)
from pydrbd.units import SECTOR_SIZE_BYTES

__all__ = ["OnEnd", "VolumeDisk", "open_volume_disk", "unheeded"]

OnEnd = Callable[[Any, int, int], None]
"""Called with (effect, failed_mask, errno) when an effect has ended."""

_ALL = (1 << 64) - 1


def open_volume_disk(
    place: DiskPlace, io: IoMode, known: Iterable[KnownSize] = (), *, disk_flushes: bool = True
) -> tuple[FileDevice, FileDevice, OpenedMetaData]:
    """Open data and meta-data devices, apply the activity log, follow a disk that has grown: blocking, for a thread.

    What a process before us has written, and answered for, may be in the system's cache only. Nobody will flush that on
    purpose any more: it is durable before we say that we have it, unless `disk_flushes` are not wanted.

    Raises DiskError, BusyError, MetaDataError; nothing stays open then.
    """
    data = FileDevice(place.path, io, discard_zeroes_if_aligned=place.discard_zeroes_if_aligned)
    meta = data
    try:
        if place.kind is not MetaKind.INTERNAL:
            meta = FileDevice(place.md_path, io, ours=place.md_bytes)
        opened = open_meta_data(
            meta.read_at,
            place.kind,
            place.index,
            meta.size_bytes // SECTOR_SIZE_BYTES,
            data.size_bytes // SECTOR_SIZE_BYTES,
            known,
        )
        for stage in opened.applied.stages:
            for offset, block in stage:
                meta.write_at(offset, block)
            meta.flush()
        if disk_flushes:
            data.flush()
    except BaseException:
        if meta is not data:
            meta.close()
        data.close()
        raise
    return data, meta, opened


def unheeded(place: DiskPlace, data: FileDevice, meta: FileDevice, *, disk_flushes: bool) -> str:
    """What to tell whoever said `no` to flushes of a disk that needs them, whatever keeps its memory; "": nothing."""
    said_no = (
        ("disk-flushes", not disk_flushes, place.path, data),
        ("md-flushes", not place.md_flushes, place.md_path, meta),
    )
    return "; ".join(
        f"{option} no is not followed: {path} {device.held_back_reason}"
        for option, no, path, device in said_no
        if no and device.held_back_reason
    )


class VolumeDisk:
    """Starts effects on the disks; persists run one after the other, each stage durable before the next.

    Without `md_flushes` a stage is only written: the disk's word is taken for it, if the disk is what has it then.
    """

    def __init__(self, data: FileDevice, meta: FileDevice, on_end: OnEnd, *, md_flushes: bool = True) -> None:
        self.device = data
        self._meta_device = meta
        self._data = Disk(data)
        self._meta = self._data if meta is data else Disk(meta)
        self._on_end = on_end
        self._md_flushes = md_flushes or bool(meta.held_back_reason)
        self._persists: deque[fx.Persist] = deque()
        self._stages: deque[fx.Stage] = deque()
        self._persisting = False
        self._held: deque[tuple[Disk, DiskOp, OnDone]] = deque()

    async def run(self) -> None:
        """Serve completions until the disks are stopped."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._data.run)
            if self._meta is not self._data:
                nursery.start_soon(self._meta.run)

    def measure(self) -> tuple[int, int]:
        """Take up what the devices have grown to: sectors of data and of meta-data device. Raises DiskError."""
        sectors = self.device.refresh_size() // SECTOR_SIZE_BYTES
        if self._meta_device is self.device:
            return sectors, sectors
        return sectors, self._meta_device.refresh_size() // SECTOR_SIZE_BYTES

    def lane_place(self) -> tuple[int, int, int] | None:
        """As Disk.lane_place, for the data; None also while something is held back or becomes durable."""
        return None if self._held or self._persisting else self._data.lane_place()

    def lane_ended(self, bytes_written: int, bytes_read: int, *, slow: bool) -> None:
        """As Disk.lane_ended."""
        self._data.lane_ended(bytes_written, bytes_read, slow=slow)

    def lane_flush(self) -> tuple[bool, int]:
        """As Disk.lane_flush."""
        return self._data.lane_flush()

    def lane_flushed(self, flushed: LaneFlushed) -> None:
        """As Disk.lane_flushed."""
        self._data.lane_flushed(flushed)

    def fail(self) -> None:
        """The disk has been given up: everything on it ends with an error."""
        self._data.fail(EIO)
        self._meta.fail(EIO)

    async def stop(self) -> None:
        """End the disks; what was not begun fails."""
        self.fail()
        await self._data.stop(DISK_STOP_TIMEOUT_S)
        if self._meta is not self._data:
            await self._meta.stop(DISK_STOP_TIMEOUT_S)
        self._begin_held()

    def start(self, effect: Any) -> None:
        """Begin one effect; `on_end` follows, perhaps before this returns."""
        match effect:
            case fx.DiskWrite():
                self._submit(effect, WriteBatch(effect.batch, effect.mask, effect.fua))
            case fx.DiskRead():
                self._submit(effect, ReadBatch(effect.batch, effect.mask, effect.buffer))
            case fx.DiskFlush():
                self._submit(effect, Flush())
            case fx.DiskDiscard():
                self._submit(effect, Discard(effect.offset_bytes, effect.length_bytes))
            case fx.DiskZero():
                self._zero(effect)
            case fx.MapDisk():
                self._map(effect)
            case fx.ReadAhead():
                self._submit(effect, ReadAhead(effect.offset_bytes, effect.length_bytes))
            case fx.Persist():
                self._persists.append(effect)
                if not self._persisting:
                    self._next_persist()
            case _:
                raise AssertionError(f"not a disk effect: {effect}")

    def _submit(self, effect: Any, op: DiskOp) -> None:
        self._begin(self._data, op, lambda op: self._on_end(effect, op.failed_mask, op.errno))

    def _begin(self, disk: Disk, op: DiskOp, on_done: OnDone) -> None:
        """Give a disk an operation, or hold it until there is room: a resync may ask for more than the queue takes."""
        if self._held or not disk.has_room():
            self._held.append((disk, op, on_done))
        elif disk.submit(op, lambda op: self._done(op, on_done)):
            on_done(op)

    def _done(self, op: DiskOp, on_done: OnDone) -> None:
        on_done(op)
        self._begin_held()

    def _begin_held(self) -> None:
        while self._held and self._held[0][0].has_room():
            disk, op, on_done = self._held.popleft()
            if disk.submit(op, lambda op, on_done=on_done: self._done(op, on_done)):  # type: ignore[misc]
                on_done(op)

    def _map(self, effect: fx.MapDisk) -> None:
        op = MapExtents(effect.offset_bytes, effect.length_bytes, effect.extents_max)

        def mapped(_op: DiskOp) -> None:
            effect.extents = op.extents
            self._on_end(effect, op.failed_mask, op.errno)

        self._begin(self._data, op, mapped)

    def _zero(self, effect: fx.DiskZero) -> None:
        op = WriteZeroes(effect.offset_bytes, effect.length_bytes, effect.may_unmap)

        def zeroed(op: DiskOp) -> None:
            if op.errno or not effect.fua:
                self._on_end(effect, op.failed_mask, op.errno)
            else:
                self._submit(effect, Flush())

        self._begin(self._data, op, zeroed)

    # --- persists ---

    def _next_persist(self) -> None:
        self._persisting = True
        self._stages = deque(self._persists[0].stages)
        self._next_stage()

    def _next_stage(self) -> None:
        if not self._stages:
            self._end_persist(0, 0)
            return
        stage = self._stages.popleft()
        if stage.flush_data and self._meta is not self._data:

            def flushed(op: DiskOp) -> None:
                if op.errno:
                    self._end_persist(_ALL, op.errno)
                else:
                    self._write_stage(stage, preflush=False)

            self._begin(self._data, Flush(), flushed)
            return
        self._write_stage(stage, preflush=stage.flush_data)

    def _write_stage(self, stage: fx.Stage, *, preflush: bool) -> None:
        op = MetaWrite(stage.writes, preflush=preflush, flush_after=self._md_flushes and bool(stage.writes))

        def written(op: DiskOp) -> None:
            if op.errno:
                self._end_persist(_ALL, op.errno)
            else:
                self._next_stage()

        self._begin(self._meta, op, written)

    def _end_persist(self, failed: int, errno: int) -> None:
        effect = self._persists.popleft()
        self._persisting = False
        self._on_end(effect, failed, errno)
        if self._persists and not self._persisting:
            self._next_persist()
