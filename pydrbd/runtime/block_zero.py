"""Discarding and zeroing: punching holes where the disk can, writing zeroes where it can't.

fallocate(2) does both for files and, since Linux 4.9, for block devices, where it goes on as the device's own
command and drops the page cache of the range. A discard here always leaves zeroes: both copies must read the same
afterwards. A plain device discard (BLKDISCARD) does not promise that, so it is used only where the operator trusts it
(DRBD's discard-zeroes-if-aligned), for whole units of the device's discard granularity.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydrbd.units import MIB

__all__ = ["Zeroer", "discard_granularity_bytes"]

FALLOC_FL_KEEP_SIZE: Final = 0x01
FALLOC_FL_PUNCH_HOLE: Final = 0x02
FALLOC_FL_ZERO_RANGE: Final = 0x10
BLKDISCARD: Final = 0x1277

ZEROES_CHUNK_BYTES: Final = MIB
UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.ENOTTY})
"""What kernels answer when a file system, device or file cannot do it at all."""

_libc = ctypes.CDLL(None, use_errno=True)
# glibc's name for the one with 64-bit offsets everywhere; where it is missing (musl), they always have 64 bits.
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


class Zeroer:
    """Zeroes ranges of one descriptor.

    `unit_bytes`: ranges given to fallocate are whole multiples of it, the edges are written (1 for files).
    `granularity_bytes`: units that BLKDISCARD is trusted to zero; 0 for never. `write` writes bytes at an offset.
    """

    def __init__(self, fd: int, unit_bytes: int, granularity_bytes: int, write: Callable[[int, bytes], None]) -> None:
        self._fd = fd
        self._unit_bytes = unit_bytes
        self._granularity_bytes = granularity_bytes
        self._write = write
        # Modes that this disk has refused: it won't learn them, and each try costs a system call.
        self._refused: set[int] = set()

    def discard(self, offset_bytes: int, length: int) -> bool:
        """Whether the range was given up and now reads as zeroes; raises OSError."""
        if self._zero(offset_bytes, length, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE):
            return True
        return self._granularity_bytes > 0 and self._discard_device(offset_bytes, length)

    def is_fast(self) -> bool:
        """Whether `discard` does without writing: asked behind the end of the file, where nothing can be lost."""
        if stat.S_ISBLK(os.fstat(self._fd).st_mode):
            return self._granularity_bytes > 0 or _queue_number(self._fd, "write_zeroes_max_bytes") > 0
        try:
            self._fallocate(
                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, os.fstat(self._fd).st_size, ZEROES_CHUNK_BYTES
            )
        except OSError:
            return False
        return True

    def write_zeroes(self, offset_bytes: int, length: int, *, may_unmap: bool) -> None:
        """Zero the range, by the cheapest means; raises OSError."""
        if may_unmap and self.discard(offset_bytes, length):
            return
        if not self._zero(offset_bytes, length, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE):
            self._write_zeroes(offset_bytes, offset_bytes + length)

    def _zero(self, offset_bytes: int, length: int, mode: int) -> bool:
        return self._in_units(offset_bytes, length, self._unit_bytes, mode, lambda at, n: self._fallocate(mode, at, n))

    def _discard_device(self, offset_bytes: int, length: int) -> bool:
        def discard(at: int, count: int) -> None:
            fcntl.ioctl(self._fd, BLKDISCARD, struct.pack("=QQ", at, count))

        return self._in_units(offset_bytes, length, self._granularity_bytes, BLKDISCARD, discard)

    def _in_units(
        self, offset_bytes: int, length: int, unit_bytes: int, key: int, act: Callable[[int, int], None]
    ) -> bool:
        """Act on the whole units in the range, then write the edges; False if the disk can't `key`."""
        if key in self._refused:
            return False
        end = offset_bytes + length
        first = -(-offset_bytes // unit_bytes) * unit_bytes
        last = end // unit_bytes * unit_bytes
        if first >= last:
            self._write_zeroes(offset_bytes, end)
            return True
        try:
            act(first, last - first)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self._refused.add(key)
            return False
        self._write_zeroes(offset_bytes, first)
        self._write_zeroes(last, end)
        return True

    def _fallocate(self, mode: int, offset_bytes: int, length: int) -> None:
        while _fallocate(self._fd, mode, offset_bytes, length) != 0:
            number = ctypes.get_errno()
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))

    def _write_zeroes(self, offset_bytes: int, end: int) -> None:
        for at in range(offset_bytes, end, ZEROES_CHUNK_BYTES):
            self._write(at, bytes(min(ZEROES_CHUNK_BYTES, end - at)))


def discard_granularity_bytes(fd: int) -> int:
    """In which units a block device can forget data; 0 if it can't, or does not say."""
    return _queue_number(fd, "discard_granularity")


def _queue_number(fd: int, name: str) -> int:
    """What the kernel says of a block device's queue; 0 if it does not say."""
    device = os.fstat(fd).st_rdev
    home = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    # A partition has no queue of its own: its disk's is one folder up.
    for queue in (home / "queue", home.resolve().parent / "queue"):
        try:
            return int((queue / name).read_text())
        except (OSError, ValueError):
            continue
    return 0
