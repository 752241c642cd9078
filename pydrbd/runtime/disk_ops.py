"""What can be asked of a disk: one small mutable object an operation, from submission to completion.

`failed_mask` and `errno` are valid once the operation is done: of a batch, one bit a failed member; of anything else,
1 for failed. The submitter leaves everything that an operation refers to alone until then.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from errno import EIO

from pydrbd.native import Batch
from pydrbd.runtime.block_device import BlockDevice, DiskIOError, FileDevice
from pydrbd.runtime.direct_io import DirectJob

__all__ = [
    "BatchOp",
    "Discard",
    "DiskOp",
    "Flush",
    "MapExtents",
    "MetaRead",
    "MetaWrite",
    "ReadAhead",
    "ReadBatch",
    "WriteBatch",
    "WriteZeroes",
]


class DiskOp(ABC):
    """The base of all operations. `flushes` counts the flushes that it has caused; `flush_failed`: one did fail."""

    __slots__ = ("errno", "failed_mask", "flush_failed", "flushes", "parts_left")

    whole_mask: int = 1
    """The failed_mask of an operation that has failed altogether."""

    def __init__(self) -> None:
        self.failed_mask = 0
        self.errno = 0
        self.flushes = 0
        self.flush_failed = False
        self.parts_left = 1

    @property
    def ok(self) -> bool:
        return self.failed_mask == 0

    def fail(self, errno: int = EIO) -> None:
        """End as failed altogether."""
        self.failed_mask = self.whole_mask
        self.errno = errno

    @abstractmethod
    def execute(self, device: BlockDevice, base_bytes: int, mask: int) -> tuple[int, int]:
        """Do the part of the work that `mask` says: (mask of what failed, errno). May raise DiskIOError instead."""

    def finish(self, device: BlockDevice) -> None:  # noqa: B027 - most operations have nothing left to do
        """What is left once all parts are done. May raise DiskIOError."""

    def _flush(self, device: BlockDevice) -> None:
        self._make_durable(device.flush)

    def _make_durable(self, call: Callable[..., None], *arguments: object) -> None:
        """A flush, or a write that is durable when it ends: neither may fail without ending the disk."""
        self.flushes += 1
        try:
            call(*arguments)
        except DiskIOError:
            self.flush_failed = True
            raise


class BatchOp(DiskOp):
    """A read or write of a batch's members."""

    __slots__ = ("batch", "job", "mask")

    waits_for_disk = False
    """Whether it is done only when the disk itself has it."""

    def __init__(self, batch: Batch, mask: int) -> None:
        super().__init__()
        assert mask != 0 and mask & ~batch.all == 0
        self.batch = batch
        self.mask = mask
        self.job: DirectJob | None = None
        """The disk is at work on it already: whoever executes it waits for that."""

    @abstractmethod
    def begin(self, device: FileDevice, base_bytes: int) -> bool:
        """Whether the disk could be given all of it at the same time, and was."""

    def execute(self, device: BlockDevice, base_bytes: int, mask: int) -> tuple[int, int]:
        if self.job is not None:
            return self.job.end()
        return self._transfer(device, base_bytes, mask)

    @abstractmethod
    def _transfer(self, device: BlockDevice, base_bytes: int, mask: int) -> tuple[int, int]:
        """Read or write these members: (mask of what failed, errno)."""

    @property
    def whole_mask(self) -> int:  # type: ignore[override]
        return self.mask


class WriteBatch(BatchOp):
    """Write the members of `mask`; with `fua`, done only when they are durable."""

    __slots__ = ("fua",)

    def __init__(self, batch: Batch, mask: int, fua: bool = False) -> None:
        super().__init__(batch, mask)
        self.fua = fua

    @property
    def waits_for_disk(self) -> bool:  # type: ignore[override]
        return self.fua

    def begin(self, device: FileDevice, base_bytes: int) -> bool:
        self.job = device.begin_records(self.batch, self.mask, base_bytes, self.batch.buffer, is_write=True)
        return self.job is not None

    def _transfer(self, device: BlockDevice, base_bytes: int, mask: int) -> tuple[int, int]:
        return device.write_records(self.batch, mask, base_bytes)

    def finish(self, device: BlockDevice) -> None:
        if self.fua and self.failed_mask != self.mask:
            self._flush(device)


class ReadBatch(BatchOp):
    """Read the members of `mask` into `buffer`, where their records' `data` says."""

    __slots__ = ("buffer",)

    def __init__(self, batch: Batch, mask: int, buffer: bytearray | memoryview) -> None:
        super().__init__(batch, mask)
        self.buffer = buffer

    def begin(self, device: FileDevice, base_bytes: int) -> bool:
        self.job = device.begin_records(self.batch, self.mask, base_bytes, self.buffer, is_write=False)
        return self.job is not None

    def _transfer(self, device: BlockDevice, base_bytes: int, mask: int) -> tuple[int, int]:
        return device.read_records(self.batch, mask, base_bytes, self.buffer)


class Flush(DiskOp):
    """Make every write durable that was done before this was submitted."""

    __slots__ = ()

    def execute(self, device: BlockDevice, base_bytes: int, mask: int) -> tuple[int, int]:
        self._flush(device)
        return 0, 0


class Discard(DiskOp):
    """Forget a range of the data area, which then reads as zeroes.

    Where the disk can't, zeroes are written and `supported` is False: the two copies must not differ.
    """

    __slots__ = ("length", "offset_bytes", "supported")

    def __init__(self, offset_bytes: int, length: int) -> None:
        super().__init__()
        self.offset_bytes = offset_bytes
        self.length = length
        self.supported = False

    def execute(self, device: BlockDevice, base_bytes: int, mask: int) -> tuple[int, int]:
        self.supported = device.discard(base_bytes + self.offset_bytes, self.length)
        if not self.supported:
            device.write_zeroes(base_bytes + self.offset_bytes, self.length, may_unmap=True)
        return 0, 0


class WriteZeroes(DiskOp):
    """Zero a range of the data area."""

    __slots__ = ("length", "may_unmap", "offset_bytes")

    def __init__(self, offset_bytes: int, length: int, may_unmap: bool) -> None:
        super().__init__()
        self.offset_bytes = offset_bytes
        self.length = length
        self.may_unmap = may_unmap

    def execute(self, device: BlockDevice, base_bytes: int, mask: int) -> tuple[int, int]:
        device.write_zeroes(base_bytes + self.offset_bytes, self.length, may_unmap=self.may_unmap)
        return 0, 0


class MapExtents(DiskOp):
    """Where the disk has holes: `extents` are (length, is a hole), at most so many, from an offset on."""

    __slots__ = ("extents", "extents_max", "length", "offset_bytes")

    def __init__(self, offset_bytes: int, length: int, extents_max: int) -> None:
        super().__init__()
        self.offset_bytes = offset_bytes
        self.length = length
        self.extents_max = extents_max
        self.extents: list[tuple[int, bool]] = []

    def execute(self, device: BlockDevice, base_bytes: int, mask: int) -> tuple[int, int]:
        self.extents = device.extents(base_bytes + self.offset_bytes, self.length, self.extents_max)
        return 0, 0


class ReadAhead(DiskOp):
    """Have a range of the data area in memory soon."""

    __slots__ = ("length", "offset_bytes")

    def __init__(self, offset_bytes: int, length: int) -> None:
        super().__init__()
        self.offset_bytes = offset_bytes
        self.length = length

    def execute(self, device: BlockDevice, base_bytes: int, mask: int) -> tuple[int, int]:
        device.read_ahead(base_bytes + self.offset_bytes, self.length)
        return 0, 0


class MetaWrite(DiskOp):
    """Write meta-data at offsets of the whole disk, in order; with a flush before, after, both or none.

    The first failure ends it: after a failed preflush nothing is written.
    """

    __slots__ = ("flush_after", "preflush", "writes")

    def __init__(self, writes: Sequence[tuple[int, bytes]], preflush: bool = False, flush_after: bool = False) -> None:
        super().__init__()
        self.writes = writes
        self.preflush = preflush
        self.flush_after = flush_after

    def execute(self, device: BlockDevice, base_bytes: int, mask: int) -> tuple[int, int]:
        if self.preflush:
            self._flush(device)
        if self.flush_after and len(self.writes) == 1:
            self._make_durable(device.write_durably, *self.writes[0])
            return 0, 0
        for offset_bytes, data in self.writes:
            device.write_at(offset_bytes, data)
        if self.flush_after:
            self._flush(device)
        return 0, 0


class MetaRead(DiskOp):
    """Read `length` bytes at an offset of the whole disk, into `data`."""

    __slots__ = ("data", "length", "offset_bytes")

    def __init__(self, offset_bytes: int, length: int) -> None:
        super().__init__()
        self.offset_bytes = offset_bytes
        self.length = length
        self.data = b""

    def execute(self, device: BlockDevice, base_bytes: int, mask: int) -> tuple[int, int]:
        self.data = device.read_at(self.offset_bytes, self.length)
        return 0, 0
