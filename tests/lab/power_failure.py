"""What power failure may leave of a disk whose writes were logged, and whether the nodes would know what differs then.

The rule is that of dm-log-writes: what stands before a flush in the log is durable; of any sector that was written
after it, any of the contents may be there that it had since. A sector is never torn.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

from pydrbd.core.split_brain import Abort, NoSync, decide
from pydrbd.errors import MetaDataError
from pydrbd.metadata.layout import MetaKind
from pydrbd.metadata.opening import OpenedMetaData, open_meta_data
from pydrbd.metadata.superblock import MdFlag
from pydrbd.units import BIT_SIZE_BYTES
from tests.harness.checkers import situation_of, verdict_of
from tests.lab.logged import Entry, LogFlag
from tests.lab.mapped import SECTOR_BYTES

__all__ = ["DiskFile", "Judge", "LoggedContents", "Sectors", "write_sparse"]

Sectors = dict[int, bytes]
Read = Callable[[int, int], bytes]

_ZEROES = bytes(SECTOR_BYTES)
_BLOCK_SECTORS = BIT_SIZE_BYTES // SECTOR_BYTES


class DiskFile:
    """A disk as a sparse file of this machine."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size_bytes = path.stat().st_size

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        return os.pread(self._file.fileno(), length_bytes, offset_bytes)

    def written_blocks(self) -> set[int]:
        """The blocks of 4 KiB that are not holes."""
        found: set[int] = set()
        end = 0
        with contextlib.suppress(OSError):  # ENXIO: no more data
            while True:
                start = os.lseek(self._file.fileno(), end, os.SEEK_DATA)
                end = os.lseek(self._file.fileno(), start, os.SEEK_HOLE)
                found.update(range(start // BIT_SIZE_BYTES, -(-end // BIT_SIZE_BYTES)))
        return found

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def write_sparse(path: Path, size_bytes: int, sectors: Sectors) -> None:
    """Make a disk hold these, and zeroes."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for sector, content in sectors.items():
            file.seek(sector * SECTOR_BYTES)
            file.write(content)


class LoggedContents:
    """What a disk that was empty holds after its log: `durable`, and what each other sector may hold instead."""

    def __init__(self) -> None:
        self.durable: Sectors = {}
        self.volatile: dict[int, list[bytes]] = {}
        self.honest = True
        """If not, the disk says that it has flushed, and has not."""

    def take(self, entries: Iterable[Entry]) -> None:
        """Go on by these."""
        for entry in entries:
            for sector, content in entry.pieces():
                if LogFlag.FUA in entry.flags:
                    self.volatile.pop(sector, None)
                    self.durable[sector] = content
                else:
                    self.volatile.setdefault(sector, []).append(content)
            if LogFlag.FLUSH in entry.flags and self.honest:
                self.durable.update((sector, contents[-1]) for sector, contents in self.volatile.items())
                self.volatile.clear()

    def everything(self) -> Sectors:
        """What a reader finds as long as there is power."""
        return self.durable | {sector: contents[-1] for sector, contents in self.volatile.items()}

    def states(self, draw: random.Random, count: int) -> Iterator[Sectors]:
        """What power failure may leave in the volatile sectors: nothing, all of it, and mixtures of all densities."""
        yield {}
        yield {sector: contents[-1] for sector, contents in self.volatile.items()}
        for _ in range(count - 2):
            density = draw.random()
            yield {
                sector: draw.choice(contents) for sector, contents in self.volatile.items() if draw.random() < density
            }

    def reader(self, state: Sectors) -> Read:
        """A reader of the disk in such a state."""

        def read(offset_bytes: int, length_bytes: int) -> bytes:
            assert offset_bytes % SECTOR_BYTES == length_bytes % SECTOR_BYTES == 0
            first = offset_bytes // SECTOR_BYTES
            return b"".join(self.sector(state, first + at) for at in range(length_bytes // SECTOR_BYTES))

        return read

    def sector(self, state: Sectors, sector: int) -> bytes:
        return state.get(sector) or self.durable.get(sector, _ZEROES)


class Judge:
    """One moment: this disk's contents, and the peer's disk as it was then."""

    def __init__(self, contents: LoggedContents, peer: DiskFile) -> None:
        """Both disks have the same size."""
        self.contents = contents
        self.peer = peer
        self.sectors = peer.size_bytes // SECTOR_BYTES
        self._theirs = self.open(peer.read)
        self._data_sectors = self._theirs.layout.usable_sectors
        written = {sector // _BLOCK_SECTORS for sector in contents.everything()} | peer.written_blocks()
        self._blocks = {block for block in written if block < self._data_sectors // _BLOCK_SECTORS}
        self._steady = {block for block in self._blocks if self._differs({}, block)}
        self._opened: dict[frozenset[tuple[int, bytes]], tuple[OpenedMetaData, set[int]]] = {}
        """By what the sectors of meta-data hold; with the blocks that nobody would know of."""

    def open(self, read: Read) -> OpenedMetaData:
        """By the code that attaches a disk. Raises MetaDataError."""
        return open_meta_data(read, MetaKind.INTERNAL, 0, self.sectors, self.sectors)

    def _differs(self, state: Sectors, block: int) -> bool:
        offset = block * BIT_SIZE_BYTES
        return self.contents.reader(state)(offset, BIT_SIZE_BYTES) != self.peer.read(offset, BIT_SIZE_BYTES)

    def opened(self, state: Sectors) -> OpenedMetaData:
        """This disk in such a state. Raises MetaDataError."""
        return self._known(state)[0]

    def _known(self, state: Sectors) -> tuple[OpenedMetaData, set[int]]:
        key = frozenset(item for item in state.items() if item[0] >= self._data_sectors)
        if key not in self._opened:
            opened = self.open(self.contents.reader(state))
            here, there = opened.bitmap, self._theirs.bitmap
            self._opened[key] = opened, {block for block in self._blocks if not (here.test(block) or there.test(block))}
        return self._opened[key]

    def differing(self, state: Sectors) -> set[int]:
        """The blocks that differ from the peer's."""
        changed = {sector // _BLOCK_SECTORS for sector in state} & self._blocks
        return (self._steady - changed) | {block for block in changed if self._differs(state, block)}

    def complaint(self, state: Sectors) -> str:
        """D10, B2: what is wrong with a state; empty: it can be opened, and all that differs is known of."""
        try:
            ours, unknown = self._known(state)
        except MetaDataError as error:
            return f"D10: it can't be opened: {error}"
        theirs, differing = self._theirs, self.differing(state)
        verdict = verdict_of(ours.superblock, theirs.superblock)
        outcome = decide(verdict, situation_of(ours.superblock, theirs.superblock)).outcome
        if isinstance(outcome, Abort):
            return f"B2: the nodes could not connect: {outcome.reason}"
        if not differing or MdFlag.FULL_SYNC in ours.superblock.flags | theirs.superblock.flags:
            return ""
        if getattr(outcome, "full", False):
            return ""
        if isinstance(outcome, NoSync):
            return f"B2: {len(differing)} blocks differ, and there would be no resync"
        lost = sorted(differing & unknown)
        return f"B2: blocks {lost[:8]} of {len(differing)} that differ are not known of" if lost else ""
