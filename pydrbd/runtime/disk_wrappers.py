"""Disks for tests: one in memory, and wrappers that record or are slow; disk_faults.py has the one that fails.

They stack. All of them keep the contract of BlockDevice, threads included, and take batches apart into single ranges.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pydrbd.native import Batch, Buffer, indices
from pydrbd.runtime.block_device import BlockDevice, DiskIOError
from pydrbd.units import SECTOR_SIZE_BYTES

__all__ = [
    "Access",
    "AccessKind",
    "DeviceWrapper",
    "LoggedFlush",
    "LoggedWrite",
    "MemoryDevice",
    "RecordingDevice",
    "SlowDevice",
]


class AccessKind(Enum):
    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    DISCARD = "discard"
    WRITE_ZEROES = "write_zeroes"


@dataclass(frozen=True, slots=True)
class Access:
    """One request as the disk sees it; a flush is for the whole disk and has offset and length 0."""

    kind: AccessKind
    offset_bytes: int = 0
    length: int = 0

    def touches(self, start_bytes: int, end_bytes: int) -> bool:
        """Whether the access has a byte in the area (an empty one has not)."""
        return self.offset_bytes < end_bytes and start_bytes < self.offset_bytes + self.length


class _ByRange(ABC):
    """Batches as single reads and writes."""

    @abstractmethod
    def read_at(self, offset_bytes: int, length: int) -> bytes:
        """See BlockDevice."""

    @abstractmethod
    def write_at(self, offset_bytes: int, data: Buffer) -> None:
        """See BlockDevice."""

    def write_records(self, batch: Batch, mask: int, base_bytes: int) -> tuple[int, int]:
        """See BlockDevice."""
        failed, number = 0, 0
        for index in indices(mask):
            record = batch.records[index]
            try:
                with memoryview(batch.buffer) as view:
                    self.write_at(base_bytes + record.offset, bytes(view[record.data : record.data + record.length]))
            except DiskIOError as error:
                failed |= 1 << index
                number = number or error.errno
        return failed, number

    def read_records(self, batch: Batch, mask: int, base_bytes: int, buffer: bytearray | memoryview) -> tuple[int, int]:
        """See BlockDevice."""
        failed, number = 0, 0
        for index in indices(mask):
            record = batch.records[index]
            try:
                data = self.read_at(base_bytes + record.offset, record.length)
            except DiskIOError as error:
                failed |= 1 << index
                number = number or error.errno
            else:
                with memoryview(buffer) as view:
                    view[record.data : record.data + record.length] = data
        return failed, number

    @abstractmethod
    def flush(self) -> None:
        """See BlockDevice."""

    def write_durably(self, offset_bytes: int, data: Buffer) -> None:
        """See BlockDevice."""
        self.write_at(offset_bytes, data)
        self.flush()

    def flush_has_failed(self, number: int) -> None:  # noqa: B027 - only who flushes behind our back says so
        """See BlockDevice."""

    def extents(self, offset_bytes: int, length: int, extents_max: int) -> list[tuple[int, bool]]:
        """See BlockDevice: no holes."""
        return [(length, False)]

    def read_ahead(self, offset_bytes: int, length: int) -> None:  # noqa: B027 - it is a hint
        """See BlockDevice."""


class MemoryDevice(_ByRange):
    """A disk in a bytearray, `image`: no cache, no errors, no threads; flushes are counted."""

    def __init__(
        self, size_bytes: int, *, logical_block_bytes: int = SECTOR_SIZE_BYTES, is_direct: bool = False
    ) -> None:
        assert size_bytes % logical_block_bytes == 0
        self.image = bytearray(size_bytes)
        self.size_bytes = size_bytes
        self.logical_block_bytes = logical_block_bytes
        self.is_direct = is_direct
        self.flush_count = 0
        self.is_closed = False

    def read_at(self, offset_bytes: int, length: int) -> bytes:
        """See BlockDevice."""
        self._check(offset_bytes, length)
        return bytes(self.image[offset_bytes : offset_bytes + length])

    def write_at(self, offset_bytes: int, data: Buffer) -> None:
        """See BlockDevice."""
        self._check(offset_bytes, len(data))
        self.image[offset_bytes : offset_bytes + len(data)] = data

    def flush(self) -> None:
        """See BlockDevice."""
        assert not self.is_closed
        self.flush_count += 1

    def discard(self, offset_bytes: int, length: int) -> bool:
        """See BlockDevice."""
        self.write_at(offset_bytes, bytes(length))
        return True

    def write_zeroes(self, offset_bytes: int, length: int, *, may_unmap: bool) -> None:
        """See BlockDevice."""
        self.write_at(offset_bytes, bytes(length))

    def close(self) -> None:
        """See BlockDevice."""
        self.is_closed = True

    def _check(self, offset_bytes: int, length: int) -> None:
        assert not self.is_closed
        assert offset_bytes >= 0 and length >= 0 and offset_bytes + length <= self.size_bytes


class DeviceWrapper(_ByRange):
    """Passes everything on to `inner`."""

    def __init__(self, inner: BlockDevice) -> None:
        self.inner = inner

    @property
    def size_bytes(self) -> int:
        return self.inner.size_bytes

    @property
    def logical_block_bytes(self) -> int:
        return self.inner.logical_block_bytes

    @property
    def is_direct(self) -> bool:
        return self.inner.is_direct

    def read_at(self, offset_bytes: int, length: int) -> bytes:
        """See BlockDevice."""
        return self.inner.read_at(offset_bytes, length)

    def write_at(self, offset_bytes: int, data: Buffer) -> None:
        """See BlockDevice."""
        self.inner.write_at(offset_bytes, data)

    def flush(self) -> None:
        """See BlockDevice."""
        self.inner.flush()

    def discard(self, offset_bytes: int, length: int) -> bool:
        """See BlockDevice."""
        return self.inner.discard(offset_bytes, length)

    def write_zeroes(self, offset_bytes: int, length: int, *, may_unmap: bool) -> None:
        """See BlockDevice."""
        self.inner.write_zeroes(offset_bytes, length, may_unmap=may_unmap)

    def close(self) -> None:
        """See BlockDevice."""
        self.inner.close()


class SlowDevice(DeviceWrapper):
    """Calls `delay(access)` before each request; the hook sleeps, waits for an event, or moves a fake clock."""

    def __init__(self, inner: BlockDevice, delay: Callable[[Access], None]) -> None:
        super().__init__(inner)
        self._delay = delay

    def read_at(self, offset_bytes: int, length: int) -> bytes:
        self._delay(Access(AccessKind.READ, offset_bytes, length))
        return super().read_at(offset_bytes, length)

    def write_at(self, offset_bytes: int, data: Buffer) -> None:
        self._delay(Access(AccessKind.WRITE, offset_bytes, len(data)))
        super().write_at(offset_bytes, data)

    def flush(self) -> None:
        self._delay(Access(AccessKind.FLUSH))
        super().flush()

    def discard(self, offset_bytes: int, length: int) -> bool:
        self._delay(Access(AccessKind.DISCARD, offset_bytes, length))
        return super().discard(offset_bytes, length)

    def write_zeroes(self, offset_bytes: int, length: int, *, may_unmap: bool) -> None:
        self._delay(Access(AccessKind.WRITE_ZEROES, offset_bytes, length))
        super().write_zeroes(offset_bytes, length, may_unmap=may_unmap)


@dataclass(slots=True, eq=False)
class LoggedWrite:
    """A write (or discard, or zeroing: of zeroes) between two ticks of the recorder's clock.

    `completed` is 0 while it runs, and for ever if it failed.
    """

    offset_bytes: int
    data: bytes
    submitted: int
    completed: int = 0


@dataclass(slots=True, eq=False)
class LoggedFlush:
    """A flush between two ticks; `completed` as in LoggedWrite."""

    submitted: int
    completed: int = 0


class RecordingDevice(DeviceWrapper):
    """Logs every write and flush, with when it was submitted and when it completed: ticks of one clock, from 1 on.

    From that follow the states that a power failure may leave: what is durable for certain, and what may have reached
    the disk or not, sector by sector.
    """

    def __init__(self, inner: BlockDevice) -> None:
        super().__init__(inner)
        self.now = 0
        self.writes: list[LoggedWrite] = []
        self.flushes: list[LoggedFlush] = []
        self._lock = threading.Lock()

    def write_at(self, offset_bytes: int, data: Buffer) -> None:
        write = self._begin(offset_bytes, bytes(data))
        super().write_at(offset_bytes, data)
        self._end(write)

    def flush(self) -> None:
        with self._lock:
            self.now += 1
            flush = LoggedFlush(self.now)
            self.flushes.append(flush)
        super().flush()
        self._end(flush)

    def discard(self, offset_bytes: int, length: int) -> bool:
        write = self._begin(offset_bytes, bytes(length))
        if super().discard(offset_bytes, length):
            self._end(write)
            return True
        with self._lock:
            self.writes.remove(write)
        return False

    def write_zeroes(self, offset_bytes: int, length: int, *, may_unmap: bool) -> None:
        write = self._begin(offset_bytes, bytes(length))
        super().write_zeroes(offset_bytes, length, may_unmap=may_unmap)
        self._end(write)

    def durable_at(self, tick: int) -> list[LoggedWrite]:
        """The writes that had completed before some flush was submitted that had completed by then, in order."""
        flushed = max((flush.submitted for flush in self.flushes if 0 < flush.completed <= tick), default=0)
        return [write for write in self.writes if 0 < write.completed < flushed]

    def pending_at(self, tick: int) -> list[LoggedWrite]:
        """The writes submitted by then of which any part may be on the disk or not, in order of submission."""
        flushed = max((flush.submitted for flush in self.flushes if 0 < flush.completed <= tick), default=0)
        return [write for write in self.writes if write.submitted <= tick and not 0 < write.completed < flushed]

    def _begin(self, offset_bytes: int, data: bytes) -> LoggedWrite:
        with self._lock:
            self.now += 1
            write = LoggedWrite(offset_bytes, data, self.now)
            self.writes.append(write)
        return write

    def _end(self, entry: LoggedWrite | LoggedFlush) -> None:
        with self._lock:
            self.now += 1
            entry.completed = self.now
