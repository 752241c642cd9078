"""A guest's disk behind dm-log-writes: each write and flush that reaches it stands in a log, another disk of the guest.

The format is that of the kernel's Documentation/admin-guide/device-mapper/log-writes.rst, little-endian: a super block,
then entries of one sector each, which their data follows. A write stands in the log when the flush that covers it has
ended; what no flush has covered comes last, when the log ends in good order (`cut`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

from tests.lab.guest import Guest
from tests.lab.mapped import PATH, SECTOR_BYTES

__all__ = ["PATH", "Entry", "LogFlag", "LoggedDisk", "read_log"]

LOG_BYTES = 256 << 20
"""Of each log; the files are sparse."""

_NAME = "mapped"
_END = b"dm-log-writes-end"
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_MAGIC = 0x6A736677736872
_VERSION = 1


class LogFlag(IntFlag):
    """What an entry is; a plain write has none."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8
    METADATA = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """`data` of a mark is its text; a discard has none."""

    flags: LogFlag
    sector: int
    sector_count: int
    data: bytes

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Every sector that it changes, with what is there afterwards. (A discarded one reads as zeroes in the lab.)"""
        data = bytes(self.sector_count * SECTOR_BYTES) if LogFlag.DISCARD in self.flags else self.data
        for at in range(0, len(data) if LogFlag.MARK not in self.flags else 0, SECTOR_BYTES):
            yield self.sector + at // SECTOR_BYTES, data[at : at + SECTOR_BYTES]


def read_log(path: Path) -> Iterator[Entry]:
    """The entries of a log, as long as they are sound: the number in the super block is of an earlier moment."""
    with path.open("rb") as file:
        magic, version, _, sector_bytes = _SUPER.unpack(file.read(_SUPER.size))
        assert (magic, version, sector_bytes) == (_MAGIC, _VERSION, SECTOR_BYTES), f"{path} is no log of writes"
        file.seek(SECTOR_BYTES)
        while len(head := file.read(SECTOR_BYTES)) == SECTOR_BYTES:
            sector, count, bits, length = _ENTRY.unpack_from(head)
            if not (count or bits) or bits >= 2 * LogFlag.METADATA:
                return
            flags = LogFlag(bits)
            if LogFlag.MARK in flags:
                data = head[_ENTRY.size : _ENTRY.size + length]
            else:
                data = b"" if LogFlag.DISCARD in flags else file.read(count * SECTOR_BYTES)
                if LogFlag.DISCARD not in flags and len(data) < count * SECTOR_BYTES:
                    return
            yield Entry(flags, sector, count, data)


class LoggedDisk:
    """The first `size_bytes` of a guest's first disk, as PATH. Each of its other disks (of LOG_BYTES) takes one log."""

    def __init__(self, guest: Guest, size_bytes: int) -> None:
        self.guest = guest
        self.size_bytes = size_bytes
        self._disks = len(guest.disks)
        self._next = 1
        self._log = Path()

    def _table(self, target: str) -> str:
        return f"0 {self.size_bytes // SECTOR_BYTES} {target}"

    def _next_log(self) -> str:
        """The table for a log that is empty."""
        assert self._next < self._disks, "the guest has no more disks for logs"
        self._log = self.guest.disks[self._next]
        os.truncate(self._log, 0)
        os.truncate(self._log, LOG_BYTES)
        letter = chr(ord("a") + self._next)
        self._next += 1
        return self._table(f"log-writes /dev/ubda /dev/ubd{letter}")

    def _do(self, verb: str, *words: str) -> None:
        self.guest.run("dmsetup", verb, "--noudevsync", *words)

    def create(self) -> None:
        """From here on there is a log."""
        self.guest.load("dm-mod", "dm-log-writes")
        self._do("create", _NAME, "--table", self._next_log())

    def create_plain(self) -> None:
        """The same place without a log, after another boot."""
        self.guest.load("dm-mod")
        self._do("create", _NAME, "--table", self._table("linear /dev/ubda 0"))

    def stop(self) -> None:
        """As if power failed: what has reached the disk has, the rest waits; `cut` tells what it was."""
        self._do("suspend", "--noflush", "--nolockfs", _NAME)

    def cut(self) -> list[Entry]:
        """End the log of a disk that has been stopped, and go on with a new one. All that had reached the disk."""
        log = self._log
        self._do("reload", _NAME, "--table", self._next_log())
        self._do("resume", _NAME)
        entries = list(read_log(log))
        assert entries and entries[-1].data == _END, f"{log} does not end in good order: is it full?"
        return entries

    def remove(self) -> None:
        """When nobody has it open any more."""
        self.guest.run("dmsetup", "remove", "--noudevsync", _NAME, check=False)
