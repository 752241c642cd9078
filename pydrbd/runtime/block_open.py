"""Opening a local disk: exclusively, with its size, and with direct I/O where that works.

A refusal is a DiskError or BusyError that says what is wrong with which path, and what to do about it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydrbd.errors import BusyError, DiskError, DiskForbidden
from pydrbd.runtime.block_lock import lock_bytes, lock_file
from pydrbd.units import MD_BLOCK_SIZE_BYTES, SECTOR_SIZE_BYTES

__all__ = ["IoMode", "OpenedDisk", "current_size_bytes", "open_disk", "open_durable"]

IoMode = Literal["auto", "direct", "buffered"]
"""How to do I/O: past the page cache, through it, or past it if the disk lets us."""

BLKGETSIZE64: Final = 0x80081272
BLKSSZGET: Final = 0x1268
"""ioctl numbers of <linux/fs.h>: the size in bytes, the logical block size."""

SIZE_MIN_BYTES: Final = MD_BLOCK_SIZE_BYTES
"""No disk of ours is shorter: it is what the smallest probe reads."""


@dataclass(frozen=True, slots=True)
class OpenedDisk:
    """An open disk and what was found out about it.

    `buffered_reason` says why I/O goes through the page cache; empty with direct I/O.
    """

    fd: int
    path: str
    is_block_device: bool
    size_bytes: int
    logical_block_bytes: int
    buffered_reason: str

    @property
    def is_direct(self) -> bool:
        return not self.buffered_reason


def open_disk(path: str, io: IoMode, *, read_only: bool, ours: range | None = None) -> OpenedDisk:
    """Open a regular file or block device for nobody but us (with `read_only`: for no writer).

    `ours`: only these bytes of it are ours alone, for a meta-data device with one index for each of several volumes.
    Raises DiskError (missing, not permitted, not a disk, too small, no direct I/O where it was asked for) and
    BusyError (somebody else has it).
    """
    is_block_device = _check_kind(path)
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = os.open(path, flags | (os.O_EXCL if is_block_device and ours is None else 0))
    except OSError as error:
        raise _open_error(path, error, read_only) from error
    try:
        if stat.S_ISBLK(os.fstat(fd).st_mode) != is_block_device:
            raise DiskError(f"{path}: was replaced while we opened it: try again")
        if ours is not None:
            lock_bytes(fd, path, ours, read_only=read_only)
        elif not is_block_device:
            lock_file(fd, path, shared=read_only)
        size_bytes = _checked_size(fd, path)
        block_bytes, reason = _choose_io(fd, path, io, size_bytes, is_block_device)
        return OpenedDisk(fd, path, is_block_device, size_bytes, block_bytes, reason)
    except BaseException:
        os.close(fd)
        raise


def open_durable(fd: int, *, direct: bool) -> int:
    """A second descriptor of an open disk, on which each write is durable when it ends; -1 if it can't be had.

    Of such a write the kernel flushes its own pages, and the disk's cache; not all that was ever written to the file.
    """
    flags = os.O_RDWR | os.O_DSYNC | os.O_CLOEXEC | os.O_NOCTTY | (os.O_DIRECT if direct else 0)
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:  # no /proc, or rights that have been given up
        return -1


def current_size_bytes(fd: int, *, is_block_device: bool) -> int:
    """The size as the kernel has it now."""
    if not is_block_device:
        return os.fstat(fd).st_size
    size: int = struct.unpack("=Q", fcntl.ioctl(fd, BLKGETSIZE64, bytes(8)))[0]
    return size


def _check_kind(path: str) -> bool:
    """Whether the path is a block device; raises for what is neither that nor a regular file."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError as error:
        raise DiskError(
            f"{path}: no such disk: check 'disk' in the configuration (a new file: truncate -s SIZE {path})"
        ) from error
    except PermissionError as error:
        raise DiskForbidden(f"{path}: no permission to look at it: run as a user who may") from error
    except OSError as error:
        raise DiskError(f"{path}: can't look at it: {error.strerror}") from error
    if stat.S_ISBLK(mode):
        return True
    if stat.S_ISREG(mode):
        return False
    if stat.S_ISDIR(mode):
        raise DiskError(f"{path}: is a directory: 'disk' must name a block device or a regular file")
    raise DiskError(f"{path}: is neither a block device nor a regular file: choose another 'disk'")


def _open_error(path: str, error: OSError, read_only: bool) -> DiskError | BusyError:
    if error.errno in (errno.EBUSY, errno.ETXTBSY):
        return BusyError(f"{path}: is already in use by {_device_user(path)}: stop that first")
    if error.errno in (errno.EACCES, errno.EPERM):
        access = "read" if read_only else "read and write"
        return DiskForbidden(f"{path}: no permission to {access}: run as a user who may, or change its owner or mode")
    if error.errno == errno.EROFS:
        return DiskError(f"{path}: lies on a read-only file system, or is read-only itself")
    return DiskError(f"{path}: can't open it: {error.strerror}")


def _device_user(path: str) -> str:
    """Who has this block device, in words; for the message only, so nothing here may fail."""
    try:
        device = Path(path).stat().st_rdev
        number = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split()
            if len(fields) > 4 and fields[2] == number:
                return f"the file system mounted on {fields[4]}"
        holders = sorted(holder.name for holder in Path(f"/sys/dev/block/{number}/holders").iterdir())
        if holders:
            return ", ".join(holders)
    except OSError:
        pass
    return "another process, a file system or the kernel"


def _checked_size(fd: int, path: str) -> int:
    size_bytes = current_size_bytes(fd, is_block_device=stat.S_ISBLK(os.fstat(fd).st_mode))
    if size_bytes < SIZE_MIN_BYTES:
        raise DiskError(f"{path}: is too small: {size_bytes} bytes, at least {SIZE_MIN_BYTES} are needed")
    if size_bytes % SECTOR_SIZE_BYTES:
        raise DiskError(
            f"{path}: its size of {size_bytes} bytes is not a multiple of {SECTOR_SIZE_BYTES}: "
            f"truncate -s %{SECTOR_SIZE_BYTES} {path} makes it one"
        )
    return size_bytes


def _choose_io(fd: int, path: str, io: IoMode, size_bytes: int, is_block_device: bool) -> tuple[int, str]:
    """(logical block in bytes, why not direct); leaves O_DIRECT set on the descriptor where it is used."""
    block_bytes = SECTOR_SIZE_BYTES
    if is_block_device:
        block_bytes = struct.unpack("=i", fcntl.ioctl(fd, BLKSSZGET, bytes(4)))[0]
    if io == "buffered":
        return block_bytes, "buffered I/O was asked for"
    sizes = (block_bytes,) if is_block_device else (SECTOR_SIZE_BYTES, MD_BLOCK_SIZE_BYTES)
    direct_block_bytes, reason = _try_direct(fd, sizes, size_bytes)
    if reason and io == "direct":
        raise DiskError(f"{path}: direct I/O was asked for, but {reason}: choose buffered I/O or another disk")
    return direct_block_bytes or block_bytes, reason


def _try_direct(fd: int, block_sizes: tuple[int, ...], size_bytes: int) -> tuple[int, str]:
    """The first block size that a direct read accepts, or 0 and, in words, why none does."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError as error:
        return 0, f"its file system refuses it ({error.strerror})"
    reason = "its first block can't be read that way"
    with mmap.mmap(-1, mmap.PAGESIZE) as page, memoryview(page) as view:
        for block_bytes in block_sizes:
            if size_bytes % block_bytes:
                reason = f"its size is not a multiple of its block size of {block_bytes} bytes"
                break
            try:
                with view[:block_bytes] as block:
                    os.preadv(fd, [block], 0)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                    continue
                # The disk understood the request and failed at it: that is no reason to hide it in a cache.
            return block_bytes, ""
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    return 0, reason
