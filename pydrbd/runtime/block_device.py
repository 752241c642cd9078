"""The local disk, synchronously: what a block device is to us, and the one on a file or device node.

Stackable wrappers and a disk in memory, for tests: disk_wrappers.py. The asynchronous queue that the service uses:
disk.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from typing import Protocol

from pydrbd import native
from pydrbd.errors import DiskError
from pydrbd.native import Batch, Buffer
from pydrbd.runtime import block_zero
from pydrbd.runtime.block_open import IoMode, current_size_bytes, open_disk, open_durable
from pydrbd.runtime.direct_io import BOUNCE_BYTES, DirectIo, DirectJob

__all__ = ["BlockDevice", "DiskIOError", "FileDevice"]


class DiskIOError(DiskError):
    """A read, write, flush or discard failed; `errno` says how."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number or errno.EIO


class BlockDevice(Protocol):
    """A disk of fixed size. Every method may be called from several threads at once.

    Ranges lie inside the disk (a caller's bug otherwise, asserted). Overlapping writes are the caller's to order.
    A completed write may rest in a volatile cache; `flush` makes every write that completed before it durable.
    """

    @property
    def size_bytes(self) -> int: ...

    @property
    def logical_block_bytes(self) -> int:
        """What the disk itself reads and writes in; smaller requests cost it a read too."""
        ...

    @property
    def is_direct(self) -> bool:
        """Whether requests wait for the disk (and not just for a copy into the page cache)."""
        ...

    def read_at(self, offset_bytes: int, length: int) -> bytes:
        """Exactly `length` bytes; raises DiskIOError."""
        ...

    def write_at(self, offset_bytes: int, data: Buffer) -> None:
        """Write all of `data`; raises DiskIOError."""
        ...

    def write_records(self, batch: Batch, mask: int, base_bytes: int) -> tuple[int, int]:
        """Write the payloads of the members of `mask` at base + their offsets: (mask of the failed, first errno)."""
        ...

    def read_records(self, batch: Batch, mask: int, base_bytes: int, buffer: bytearray | memoryview) -> tuple[int, int]:
        """Read the members of `mask` into `buffer` where their `data` says: (mask of the failed, first errno)."""
        ...

    def flush(self) -> None:
        """Make completed writes durable; raises DiskIOError, and after a failure always."""
        ...

    def write_durably(self, offset_bytes: int, data: Buffer) -> None:
        """Write all of `data`, which alone is durable then for certain; raises DiskIOError as `flush` does."""
        ...

    def discard(self, offset_bytes: int, length: int) -> bool:
        """Forget a range, which then reads as zeroes; False: not supported and nothing done; raises DiskIOError."""
        ...

    def write_zeroes(self, offset_bytes: int, length: int, *, may_unmap: bool) -> None:
        """Zero a range, giving up its space only with `may_unmap`; raises DiskIOError."""
        ...

    def flush_has_failed(self, number: int) -> None:
        """Somebody else's flush of this disk has failed, with this errno: from now on all do."""
        ...

    def extents(self, offset_bytes: int, length: int, extents_max: int) -> list[tuple[int, bool]]:
        """(length, is a hole that reads as zeroes) from the offset on, at most so many; raises DiskIOError."""
        ...

    def read_ahead(self, offset_bytes: int, length: int) -> None:
        """Have the range in memory soon, if reading it then comes from there."""
        ...

    def close(self) -> None:
        """Give the disk back; no call of another method may be running or follow."""
        ...


class FileDevice:
    """A regular file or block device, open for nobody but us; or some bytes of it."""

    def __init__(
        self,
        path: str,
        io: IoMode = "auto",
        *,
        read_only: bool = False,
        discard_zeroes_if_aligned: bool = True,
        ours: range | None = None,
    ) -> None:
        """Open it. `discard_zeroes_if_aligned` is DRBD's option of that name; `ours`: bytes, when the rest is others'.

        Raises DiskError, BusyError.
        """
        opened = open_disk(path, io, read_only=read_only, ours=ours)
        self.path = path
        self.size_bytes = opened.size_bytes
        self.logical_block_bytes = opened.logical_block_bytes
        self.is_direct = opened.is_direct
        self.buffered_reason = opened.buffered_reason
        self.is_block_device = opened.is_block_device
        self.held_back_reason = ""
        """Why a write that is done may be in this machine's memory only, until a flush; "": the disk itself has it."""
        if not self.is_direct:
            self.held_back_reason = "is used through the page cache"
        elif not self.is_block_device:
            self.held_back_reason = "is a file, and its file system may hold back where its blocks are"
        self._fd = opened.fd
        self._direct = DirectIo(self._fd, self.logical_block_bytes) if self.is_direct else None
        # A descriptor tells of lost writes once. Had the durable writes not one of their own, they might hear of those
        # of a flush that runs at the same time, which would then succeed.
        self._durable_fd = -1 if read_only else open_durable(self._fd, direct=self.is_direct)
        self._durable_direct = DirectIo(self._durable_fd, self.logical_block_bytes) if self.is_direct else None
        granularity_bytes = 0
        if self.is_block_device and discard_zeroes_if_aligned:
            granularity_bytes = block_zero.discard_granularity_bytes(self._fd)
        # A hole's edges inside of a block must take the same lock as other writes to that block: write_at does.
        unit_bytes = self.logical_block_bytes if self.is_block_device or self.is_direct else 1
        self._zeroer = block_zero.Zeroer(self._fd, unit_bytes, granularity_bytes, self.write_at)
        self.zeroes_fast = self._zeroer.is_fast()
        self._flush_lock = threading.Lock()
        self._flushes_started = 0
        self._flushes_finished = 0
        self._flush_errno = 0

    @property
    def lane_fd(self) -> int | None:
        """For who reads and writes without asking (a lane), by the rules of direct I/O if that is what it is."""
        return None if self._fd < 0 else self._fd

    @property
    def batch_bytes(self) -> int:
        """How much of a batch the disk is given at the same time, in one call; 0: its members one after the other."""
        return BOUNCE_BYTES if self._direct is not None and self._direct.at_once else 0

    def read_at(self, offset_bytes: int, length: int) -> bytes:
        """Exactly `length` bytes; raises DiskIOError."""
        self._check_range(offset_bytes, length)
        target = bytearray(length)
        try:
            with memoryview(target) as view:
                if self._direct is not None:
                    self._direct.read_into(offset_bytes, view)
                else:
                    _read_fully(self._fd, offset_bytes, view)
        except OSError as error:
            raise self._failed("reading", offset_bytes, length, error) from error
        return bytes(target)

    def write_at(self, offset_bytes: int, data: Buffer) -> None:
        """Write all of `data`; raises DiskIOError."""
        self._check_range(offset_bytes, len(data))
        try:
            if self._direct is not None:
                self._direct.write(offset_bytes, data)
            else:
                _write_fully(self._fd, offset_bytes, data)
        except OSError as error:
            raise self._failed("writing", offset_bytes, len(data), error) from error

    def write_records(self, batch: Batch, mask: int, base_bytes: int) -> tuple[int, int]:
        """See BlockDevice."""
        self._check_records(batch, mask, base_bytes)
        if self._direct is not None:
            return self._direct.write_records(batch, mask, base_bytes)
        return native.pwrite_records(self._fd, base_bytes=base_bytes, batch=batch, mask=mask)

    def read_records(self, batch: Batch, mask: int, base_bytes: int, buffer: bytearray | memoryview) -> tuple[int, int]:
        """See BlockDevice."""
        self._check_records(batch, mask, base_bytes)
        if self._direct is not None:
            return self._direct.read_records(batch, mask, base_bytes, buffer)
        return native.pread_records(self._fd, base_bytes=base_bytes, batch=batch, mask=mask, buffer=buffer)

    def begin_records(
        self, batch: Batch, mask: int, base_bytes: int, buffer: bytearray | memoryview, *, is_write: bool
    ) -> DirectJob | None:
        """Hand the disk all members at the same time, and don't wait; None if that can't be done."""
        self._check_records(batch, mask, base_bytes)
        if self._direct is None:
            return None
        return self._direct.begin_records(batch, mask, base_bytes, buffer, is_write=is_write)

    def flush(self) -> None:
        """Make every completed write durable; one flush may serve several callers that wait for one.

        Raises DiskIOError, and from the first failure on always: the kernel tells of lost writes only once, so a
        later success would be a lie.
        """
        asked = self._flushes_started
        with self._flush_lock:
            if self._flush_errno:
                raise DiskIOError(self._flush_errno, f"{self.path}: an earlier flush failed: writes may be lost")
            if self._flushes_finished > asked:
                return
            self._flushes_started += 1
            try:
                os.fdatasync(self._fd)
                self._check_size()
            except OSError as error:
                self._flush_errno = error.errno or errno.EIO
                raise DiskIOError(self._flush_errno, f"{self.path}: the flush failed: {error.strerror}") from error
            self._flushes_finished = self._flushes_started

    def write_durably(self, offset_bytes: int, data: Buffer) -> None:
        """See BlockDevice. What else is in the page cache stays there: that may be the work of seconds.

        An error may mean other writes than this one, so it is as final as that of a flush.
        """
        if self._durable_fd < 0 or (self._direct is not None and (offset_bytes | len(data)) % self.logical_block_bytes):
            self.write_at(offset_bytes, data)
            self.flush()
            return
        self._check_range(offset_bytes, len(data))
        if self._flush_errno:
            raise DiskIOError(self._flush_errno, f"{self.path}: an earlier flush failed: writes may be lost")
        try:
            if self._durable_direct is not None:
                self._durable_direct.write(offset_bytes, data)
            else:
                _write_fully(self._durable_fd, offset_bytes, data)
            self._check_size()
        except OSError as error:
            self._flush_errno = error.errno or errno.EIO
            raise self._failed("writing durably", offset_bytes, len(data), error) from error

    @property
    def lane_size_bytes(self) -> int:
        """What a file must have, at least, or it was cut off while in use; 0 for block devices."""
        return 0 if self.is_block_device else self.size_bytes

    def flush_has_failed(self, number: int) -> None:
        """See BlockDevice."""
        self._flush_errno = self._flush_errno or number

    def discard(self, offset_bytes: int, length: int) -> bool:
        """Forget a range, which then reads as zeroes; False: not supported and nothing done; raises DiskIOError."""
        self._check_range(offset_bytes, length)
        try:
            return self._zeroer.discard(offset_bytes, length)
        except OSError as error:
            raise self._failed("discarding", offset_bytes, length, error) from error

    def write_zeroes(self, offset_bytes: int, length: int, *, may_unmap: bool) -> None:
        """Zero a range, giving up its space only with `may_unmap`; raises DiskIOError."""
        self._check_range(offset_bytes, length)
        try:
            self._zeroer.write_zeroes(offset_bytes, length, may_unmap=may_unmap)
        except OSError as error:
            raise self._failed("zeroing", offset_bytes, length, error) from error

    def extents(self, offset_bytes: int, length: int, extents_max: int) -> list[tuple[int, bool]]:
        """See BlockDevice. What the file system does not tell is no hole."""
        self._check_range(offset_bytes, length)
        found: list[tuple[int, bool]] = []
        end = offset_bytes + length
        position, is_hole = offset_bytes, False
        try:
            while position < end and len(found) < extents_max:
                border = min(_next_border(self._fd, position, is_hole=is_hole), end)
                if border > position:
                    found.append((border - position, is_hole))
                position, is_hole = border, not is_hole
        except OSError as error:
            raise self._failed("mapping", offset_bytes, length, error) from error
        return found

    def read_ahead(self, offset_bytes: int, length: int) -> None:
        """See BlockDevice."""
        self._check_range(offset_bytes, length)
        if self._direct is None:
            with contextlib.suppress(OSError):  # it is a hint
                os.posix_fadvise(self._fd, offset_bytes, length, os.POSIX_FADV_WILLNEED)

    def refresh_size(self) -> int:
        """Take up the size that the disk has grown to, in bytes; raises DiskIOError if it has shrunk."""
        try:
            self.size_bytes = self._check_size() // self.logical_block_bytes * self.logical_block_bytes
        except OSError as error:
            raise DiskIOError(error.errno or errno.EIO, f"{self.path}: {error.strerror}") from error
        return self.size_bytes

    def close(self) -> None:
        """Give the disk back. A second call does nothing."""
        for fd in (self._durable_fd, self._fd):
            if fd >= 0:
                os.close(fd)
        self._durable_fd = self._fd = -1

    def _check_size(self) -> int:
        size_bytes = current_size_bytes(self._fd, is_block_device=self.is_block_device)
        if size_bytes < self.size_bytes:
            raise OSError(errno.EIO, f"the disk has shrunk from {self.size_bytes} to {size_bytes} bytes while in use")
        return size_bytes

    def _check_range(self, offset_bytes: int, length: int) -> None:
        assert offset_bytes >= 0 and length >= 0 and offset_bytes + length <= self.size_bytes, (
            f"{self.path}: {length} bytes at {offset_bytes} are outside of the disk's {self.size_bytes}"
        )

    def _check_records(self, batch: Batch, mask: int, base_bytes: int) -> None:
        # Past the end a write would make a file longer, silently.
        outside = native.records_out_of_bounds(batch, mask, self.size_bytes - base_bytes)
        assert not outside, f"{self.path}: members {outside:#x} of a batch are outside of the disk"

    def _failed(self, doing: str, offset_bytes: int, length: int, error: OSError) -> DiskIOError:
        message = f"{self.path}: {doing} {length} bytes at {offset_bytes} failed: {error.strerror}"
        return DiskIOError(error.errno or errno.EIO, message)


def _next_border(fd: int, position: int, *, is_hole: bool) -> int:
    """Where the data, or the hole, that begins at a position ends; the position itself if it is none. Raises OSError.

    Reads and writes here name their places, so that it does no harm to move the descriptor's own.
    """
    try:
        return os.lseek(fd, position, os.SEEK_DATA if is_hole else os.SEEK_HOLE)
    except OSError as error:
        if is_hole and error.errno == errno.ENXIO:
            return sys.maxsize  # there is no data behind
        raise


def _read_fully(fd: int, offset_bytes: int, target: memoryview) -> None:
    done = 0
    while done < len(target):
        count = os.preadv(fd, [target[done:]], offset_bytes + done)
        if count == 0:
            raise OSError(errno.EIO, "the disk ends early: has it been truncated?")
        done += count


def _write_fully(fd: int, offset_bytes: int, data: Buffer) -> None:
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            count = os.pwrite(fd, view[done:], offset_bytes + done)
            if count == 0:
                raise OSError(errno.EIO, "the disk takes no more bytes")
            done += count
