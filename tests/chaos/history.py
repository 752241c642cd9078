"""What a client may read back: every value of every sector that was written and not surely overwritten since.

A write has a number, and every 512-byte sector of it carries a tag: which sector, which write, a sum over the rest. A
write that was acknowledged rules out all that ended before it was submitted. One that was never acknowledged may have
happened or not, so it rules out nothing, until one that is submitted after its connection broke is acknowledged.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from struct import Struct

SECTOR = 512
NEVER = -1

_TAG = Struct("<IIQQ")  # magic, crc32 of all that follows it, sector, number
_MAGIC = 0x7461676B
_BODY = SECTOR - _TAG.size


@dataclass(slots=True, eq=False)
class Write:
    """One write: `number` is what its tags say (0: it wrote zeroes); times count submissions and replies."""

    number: int
    first_sector: int
    sector_count: int
    began: int
    ended: int | None = None
    acknowledged: bool = False

    @property
    def sectors(self) -> range:
        return range(self.first_sector, self.first_sector + self.sector_count)


_INITIAL = Write(0, 0, 0, NEVER, NEVER, acknowledged=True)
"""A new disk is full of zeroes."""


class History:
    """All that was written to one device, and what may be read from it now."""

    def __init__(self):
        self.clock = 0
        self.acknowledged_count = 0
        self._number = 0
        self._possible: dict[int, list[Write]] = {}
        self._open: set[Write] = set()

    def submit(self, first_sector: int, sector_count: int, *, zeroes: bool = False) -> Write:
        """A write is about to be sent."""
        self.clock += 1
        if not zeroes:
            self._number += 1
        write = Write(0 if zeroes else self._number, first_sector, sector_count, self.clock)
        for sector in write.sectors:
            self._possible.setdefault(sector, [_INITIAL]).append(write)
        self._open.add(write)
        return write

    def acknowledge(self, write: Write) -> None:
        """Its reply has come, and says that it was done."""
        self.clock += 1
        assert write in self._open, "a write is answered once"
        self._open.discard(write)
        write.ended, write.acknowledged = self.clock, True
        self.acknowledged_count += 1
        for sector in write.sectors:
            self._possible[sector] = [
                other for other in self._possible[sector] if other.ended is None or other.ended > write.began
            ]

    def lose_connection(self) -> None:
        """What has no reply yet will never have one; it has happened by now, or it never will."""
        self.clock += 1
        for write in self._open:
            write.ended = self.clock
        self._open.clear()

    @property
    def sectors(self) -> list[int]:
        """All that was ever written to, in order."""
        return sorted(self._possible)

    def wrong(self, sector: int, content: bytes) -> str:
        """Why `content` can't be what is on a sector now, or ''."""
        number = decode(sector, content)
        allowed = [write.number for write in self._possible.get(sector, [_INITIAL])]
        if number in allowed:
            return ""
        found = "garbage" if number is None else f"write {number}"
        return f"sector {sector}: {found} was read; allowed {allowed}"

    def settle(self, sector: int, content: bytes) -> None:
        """Both copies hold `content`, and nobody writes: from here on it is what the sector holds."""
        possible = self._possible.get(sector)
        if possible is not None and len(possible) > 1:
            number = decode(sector, content)
            self._possible[sector] = [write for write in possible if write.number == number][-1:]


def encode(write: Write) -> bytes:
    """A write's payload."""
    if not write.number:
        return bytes(SECTOR * write.sector_count)
    filler = (write.number * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(8, "little") * (_BODY // 8)
    filler += bytes(_BODY - len(filler))
    filler_sum = zlib.crc32(filler)
    pieces = []
    for sector in write.sectors:
        crc = zlib.crc32(sector.to_bytes(8, "little") + write.number.to_bytes(8, "little"), filler_sum)
        pieces += [_TAG.pack(_MAGIC, crc, sector, write.number), filler]
    return b"".join(pieces)


def decode(sector: int, content: bytes) -> int | None:
    """The number of the write that a sector's bytes are whole from; 0 for zeroes; None for anything else."""
    assert len(content) == SECTOR
    if not any(content):
        return 0
    magic, crc, named, number = _TAG.unpack_from(content)
    body_sum = zlib.crc32(content[_TAG.size :])
    expected = zlib.crc32(named.to_bytes(8, "little") + number.to_bytes(8, "little"), body_sum)
    return number if (magic, crc, named) == (_MAGIC, expected, sector) else None
