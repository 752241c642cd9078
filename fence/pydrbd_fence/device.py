"""A device: sectors that several nodes see. Every call does one I/O on one sector, durable when it returns, or raises.

A path is opened with O_DIRECT and O_SYNC, so that nothing comes from, or stays in, this node's cache. Calls block for
as long as the kernel does: whoever must not wait gives them to a thread of their own (`panel`, `watcher`).
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import stat
from pathlib import Path
from typing import Protocol

from .errors import DeviceError
from .layout import SECTOR_BYTES, SECTORS_USED
from .nbd import NbdDevice, is_nbd

__all__ = ["Device", "PathDevice", "open_device"]

BLKSSZGET = 0x1268


class Device(Protocol):
    """What the rest of the program knows of a device."""

    @property
    def name(self) -> str: ...

    @property
    def sector_bytes(self) -> int: ...

    def read_sector(self, index: int) -> bytes:
        """One sector; DeviceError if it can't be read."""

    def write_sector(self, index: int, sector: bytes) -> None:
        """One sector, durable; DeviceError if it can't be written."""

    def close(self) -> None:
        """Give it back; it may be closed more than once."""


def logical_sector_bytes(fd: int) -> int:
    """The sector size that a block device addresses by."""
    answer = ctypes.c_int(0)
    fcntl.ioctl(fd, BLKSSZGET, answer)
    return answer.value


class PathDevice:
    """A block device of this machine."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._fd = -1
        try:
            mode = Path(path).stat().st_mode
            if not stat.S_ISBLK(mode):
                raise DeviceError(f"{path} is no block device: other nodes would not see what is written there")
            self._fd = os.open(path, os.O_RDWR | os.O_SYNC | os.O_DIRECT | os.O_CLOEXEC)
            self.sector_bytes = logical_sector_bytes(self._fd)
            size = os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            self.close()
            raise DeviceError(f"{path} can't be opened: {error.strerror}") from error
        if self.sector_bytes not in SECTOR_BYTES or size < SECTORS_USED * self.sector_bytes:
            self.close()
            raise DeviceError(f"{path} has {size} bytes in sectors of {self.sector_bytes}: too small, or too unusual")
        # O_DIRECT wants aligned memory, and anonymous maps are: one page for all I/O of this device.
        self._page = mmap.mmap(-1, max(SECTOR_BYTES))
        self._sector = memoryview(self._page)[: self.sector_bytes]

    def read_sector(self, index: int) -> bytes:
        try:
            count = os.preadv(self._fd, [self._sector], index * self.sector_bytes)
        except OSError as error:
            raise DeviceError(f"{self.name}: sector {index} can't be read: {error.strerror}") from error
        if count != self.sector_bytes:
            raise DeviceError(f"{self.name}: sector {index} can't be read: only {count} bytes came")
        return bytes(self._sector)

    def write_sector(self, index: int, sector: bytes) -> None:
        self._sector[:] = sector
        try:
            count = os.pwritev(self._fd, [self._sector], index * self.sector_bytes)
        except OSError as error:
            raise DeviceError(f"{self.name}: sector {index} can't be written: {error.strerror}") from error
        if count != self.sector_bytes:
            raise DeviceError(f"{self.name}: sector {index} can't be written: only {count} bytes were taken")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_device(address: str, io_s: float) -> Device:
    """Open a path or an `nbd://` / `nbd+unix://` address; DeviceError if that fails."""
    return NbdDevice(address, io_s) if is_nbd(address) else PathDevice(address)
