"""A disk that fails on demand and forgets on power failure, for tests.

It has a volatile cache of its own over `inner`: writes stay there until a flush. `crash` is a power failure: each
sector that was written since the last flush keeps one of the values it had since then, whatever its neighbours do.
A failed flush does what Linux does: the cache goes on showing the writes, but they will never be durable, and the next
flush succeeds without them.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from pydrbd.native import Buffer
from pydrbd.runtime.block_device import BlockDevice, DiskIOError
from pydrbd.runtime.disk_wrappers import Access, AccessKind, DeviceWrapper
from pydrbd.units import SECTOR_SIZE_BYTES

__all__ = ["Fault", "FaultyDevice"]


@dataclass(slots=True)
class Fault:
    """Fail the accesses for which `matches` holds with `number`; the first `times` of them, or all (None).

    A write that fails with `torn_bytes` has still written that many bytes from its start.
    """

    matches: Callable[[Access], bool]
    number: int = errno.EIO
    times: int | None = None
    torn_bytes: int = 0


class FaultyDevice(DeviceWrapper):
    """Faults are in the list `faults`, the first that matches counts. `tear_bytes` is what the disk writes atomically.

    `fault_count` counts those that were injected.
    """

    def __init__(self, inner: BlockDevice, *, tear_bytes: int = SECTOR_SIZE_BYTES) -> None:
        super().__init__(inner)
        assert inner.size_bytes % tear_bytes == 0
        self.faults: list[Fault] = []
        self.fault_count = 0
        self.is_crashed = False
        self._tear_bytes = tear_bytes
        self._unflushed: dict[int, list[bytes]] = {}
        self._lost: dict[int, bytes] = {}
        self._lock = threading.Lock()

    @classmethod
    def failing(cls, inner: BlockDevice, *kinds: AccessKind, number: int = errno.EIO) -> FaultyDevice:
        """A disk on which every access of these kinds fails."""
        device = cls(inner)
        device.faults.append(Fault(lambda access: access.kind in kinds, number))
        return device

    def read_at(self, offset_bytes: int, length: int) -> bytes:
        with self._lock:
            self._check(Access(AccessKind.READ, offset_bytes, length))
            return self._read(offset_bytes, length)

    def write_at(self, offset_bytes: int, data: Buffer) -> None:
        with self._lock:
            try:
                self._check(Access(AccessKind.WRITE, offset_bytes, len(data)))
            except _Injected as fault:
                self._write(offset_bytes, bytes(data[: fault.torn_bytes]))
                raise
            self._write(offset_bytes, bytes(data))

    def discard(self, offset_bytes: int, length: int) -> bool:
        with self._lock:
            self._check(Access(AccessKind.DISCARD, offset_bytes, length))
            self._write(offset_bytes, bytes(length))
        return True

    def write_zeroes(self, offset_bytes: int, length: int, *, may_unmap: bool) -> None:
        with self._lock:
            self._check(Access(AccessKind.WRITE_ZEROES, offset_bytes, length))
            self._write(offset_bytes, bytes(length))

    def flush(self) -> None:
        with self._lock:
            newest = {unit: values[-1] for unit, values in self._unflushed.items()}
            try:
                self._check(Access(AccessKind.FLUSH))
            except DiskIOError:
                if not self.is_crashed:
                    self._lost.update(newest)
                    self._unflushed.clear()
                raise
            for unit, value in newest.items():
                self.inner.write_at(unit * self._tear_bytes, value)
            self.inner.flush()
            self._unflushed.clear()

    def crash(self, random: Random) -> None:
        """Lose power now: every access fails until `power_on`."""
        with self._lock:
            self.is_crashed = True
            for unit, values in self._unflushed.items():
                # Only Random.random() is the same sequence in every version of Python.
                survivor = int(random.random() * (len(values) + 1))
                if survivor > 0:
                    self.inner.write_at(unit * self._tear_bytes, values[survivor - 1])
            self._unflushed.clear()
            self._lost.clear()

    def power_on(self) -> None:
        """The disk is there again, with what the crash has left."""
        self.is_crashed = False

    @property
    def unflushed_bytes(self) -> int:
        """How much a crash might lose now."""
        return len(self._unflushed.keys() | self._lost.keys()) * self._tear_bytes

    def _check(self, access: Access) -> None:
        if self.is_crashed:
            raise DiskIOError(errno.EIO, f"the disk has no power ({access.kind.value})")
        for fault in self.faults:
            if fault.times != 0 and fault.matches(access):
                if fault.times is not None:
                    fault.times -= 1
                self.fault_count += 1
                place = f"{access.kind.value} of {access.length} bytes at {access.offset_bytes}"
                raise _Injected(fault.number, f"injected: {os.strerror(fault.number)} ({place})", fault.torn_bytes)

    def _read(self, offset_bytes: int, length: int) -> bytes:
        data = bytearray(self.inner.read_at(offset_bytes, length))
        if not self._unflushed and not self._lost:
            return bytes(data)
        for unit in self._units(offset_bytes, length):
            cached = self._unflushed.get(unit)
            value = cached[-1] if cached else self._lost.get(unit)
            if value is not None:
                start = unit * self._tear_bytes
                first, last = max(start, offset_bytes), min(start + len(value), offset_bytes + length)
                data[first - offset_bytes : last - offset_bytes] = value[first - start : last - start]
        return bytes(data)

    def _write(self, offset_bytes: int, data: bytes) -> None:
        for unit in self._units(offset_bytes, len(data)):
            start = unit * self._tear_bytes
            value = bytearray(self._read(start, self._tear_bytes))
            first, last = max(start, offset_bytes), min(start + len(value), offset_bytes + len(data))
            value[first - start : last - start] = data[first - offset_bytes : last - offset_bytes]
            self._unflushed.setdefault(unit, []).append(bytes(value))
            self._lost.pop(unit, None)

    def _units(self, offset_bytes: int, length: int) -> range:
        return range(offset_bytes // self._tear_bytes, -(-(offset_bytes + length) // self._tear_bytes) if length else 0)


class _Injected(DiskIOError):
    """An injected error, and how much of a write was done before it."""

    def __init__(self, number: int, message: str, torn_bytes: int) -> None:
        super().__init__(number, message)
        self.torn_bytes = torn_bytes
