"""A disk in memory with a volatile cache: what a flush has not covered may be lost, in any mixture, by power failure.

The rule is that of dm-log-writes: a write that had ended when a flush was begun is durable when that flush ends; of
any other sector power failure leaves any of the contents that it had since it was durable last.
"""

from __future__ import annotations

import functools
import mmap
import random
from collections.abc import Callable, Sequence
from typing import Any

from pydrbd.core.effects import Stage
from pydrbd.limits import DRBD_PAYLOAD_BYTES_MAX
from pydrbd.metadata import al_replay, apply_al
from pydrbd.metadata.al_replay import ReplayResult
from pydrbd.metadata.create import plan_create
from pydrbd.metadata.layout import Layout, MetaKind
from pydrbd.metadata.opening import KnownSize, OpenedMetaData, open_meta_data
from pydrbd.metadata.superblock import Superblock
from pydrbd.native import Batch, indices
from pydrbd.units import SECTOR_SIZE_BYTES

__all__ = ["MemoryDisk", "replay"]

_BLOCK_BYTES = 4096
_SEEN_BLOCKS_MAX = 256
_SEEN_LOGS_MAX = 16
_ZEROES = memoryview(bytes(DRBD_PAYLOAD_BYTES_MAX))

# A log is read again and again, each time with one new block: the others need not be summed and unpacked again.
al_replay.decode_block = functools.lru_cache(_SEEN_BLOCKS_MAX)(al_replay.decode_block)  # type: ignore[assignment]
al_replay.is_initialised = functools.lru_cache(_SEEN_BLOCKS_MAX)(al_replay.is_initialised)  # type: ignore[assignment]


@functools.lru_cache(_SEEN_LOGS_MAX)
def _replay_once(blocks: tuple[bytes, ...], primary_indicator: bool, al_stripes: int) -> ReplayResult:
    return al_replay.replay(blocks, primary_indicator, al_stripes)


def replay(blocks: Sequence[bytes | memoryview], primary_indicator: bool, al_stripes: int = 1) -> ReplayResult:
    """The same of whole logs: several who look on ask for each."""
    return _replay_once(tuple(map(bytes, blocks)), primary_indicator, al_stripes)


apply_al.replay = replay  # type: ignore[attr-defined]


class MemoryDisk:
    """Data area and internal meta-data of one volume. `image` is what a read sees (cache included)."""

    def __init__(self, size_bytes: int, superblock: Superblock | None = None) -> None:
        self.sectors = size_bytes // SECTOR_SIZE_BYTES
        self.image = mmap.mmap(-1, size_bytes)
        self.layout = Layout.internal(self.sectors)
        self.data_bytes = self.layout.usable_sectors * SECTOR_SIZE_BYTES
        self._versions: dict[int, list[tuple[int, bytes]]] = {}
        self.known: list[KnownSize] = []
        self.sequence = 0
        self.touched: set[int] = set()
        """Blocks of the data area that were ever written; all others are zeroes, and reads of them cost nothing."""
        self.changed: set[int] = set()
        """Those that have changed since somebody took this set and left an empty one (World.differing_blocks)."""
        self.stirred: set[int] = set()
        """The same for Oracle.settle."""
        self.meta_generation = 0
        self._superblock: tuple[int, Any] = (-1, None)
        """Of which generation of the meta-data, and what it says."""
        self.flush_count = 0
        self.fail_writes = False
        self.fail_reads = False
        self.fail_flushes = False
        self.fail_once: set[str] = set()
        self.had_error = False
        self.failed_last = ""
        """The kind of the last operation, if it went wrong: write, read, flush, meta."""
        self.may_fail: Callable[[], bool] = lambda: True
        self.on_error: Callable[[], None] = lambda: None
        self.ignores_flush = False
        self.has_holes = False
        """Whether it knows where it has zeroes."""
        for offset, data in plan_create(self.layout, superblock=superblock):
            self.image[offset : offset + len(data)] = data

    @property
    def data(self) -> memoryview:
        """The data area."""
        return memoryview(self.image)[: self.data_bytes]

    @property
    def unflushed(self) -> int:
        """How many sectors power failure could change."""
        return len(self._versions)

    def unflushed_blocks(self) -> set[int]:
        """The 4 KiB blocks of the data area that power failure could change."""
        return {sector // 8 for sector in self._versions if sector * SECTOR_SIZE_BYTES < self.data_bytes}

    def unflushed_data(self) -> dict[int, list[bytes]]:
        """Sector of the data area to what power failure could leave there: what is durable, and all that came after."""
        return {
            sector: list(dict.fromkeys(content for _, content in known))
            for sector, known in self._versions.items()
            if sector * SECTOR_SIZE_BYTES < self.data_bytes
        }

    def fails(self, kind: str) -> bool:
        """Whether the next operation of a kind (write, read, flush, meta) goes wrong; a single error is used up."""
        lasting = {"write": self.fail_writes, "read": self.fail_reads, "flush": self.fail_flushes}.get(kind, False)
        self.failed_last = kind if lasting else ""
        if kind in self.fail_once and self.may_fail():
            self.fail_once.discard(kind)
            self.had_error = True
            self.failed_last = kind
            self.on_error()
            return True
        return lasting

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Change whole sectors, in the cache. What stays as it is can't be lost either."""
        self.sequence += 1
        if offset >= self.data_bytes:
            self.meta_generation += 1
        image = self.image
        content = bytes(data)
        if self._is_untouched(offset, len(content)) and content == bytes(len(content)):
            return
        if image[offset : offset + len(content)] == content:
            return
        position = 0
        while position < len(content):
            size = min(_BLOCK_BYTES - (offset + position) % _BLOCK_BYTES, len(content) - position)
            start = offset + position
            if image[start : start + size] != content[position : position + size]:
                if start < self.data_bytes:
                    self._note(start // _BLOCK_BYTES)
                self._write_sectors(start, content[position : position + size])
            position += size

    def _note(self, block: int) -> None:
        self.touched.add(block)
        self.changed.add(block)
        self.stirred.add(block)

    def _is_untouched(self, offset: int, length: int) -> bool:
        """Whether nobody has ever written there: it is all zeroes."""
        end = offset + length
        return end <= self.data_bytes and self.touched.isdisjoint(
            range(offset // _BLOCK_BYTES, -(-end // _BLOCK_BYTES))
        )

    def _write_sectors(self, offset: int, content: bytes) -> None:
        sequence, image, versions = self.sequence, self.image, self._versions
        sector = offset // SECTOR_SIZE_BYTES
        for position in range(0, len(content), SECTOR_SIZE_BYTES):
            known = versions.get(sector)
            if known is None:
                start = sector * SECTOR_SIZE_BYTES
                known = versions[sector] = [(0, image[start : start + SECTOR_SIZE_BYTES])]
            known.append((sequence, content[position : position + SECTOR_SIZE_BYTES]))
            sector += 1
        image[offset : offset + len(content)] = content

    def flush(self, begun_at: int | None = None) -> None:
        """Make durable what had been written when the flush was begun (`sequence` then; default: now)."""
        self.flush_count += 1
        if self.ignores_flush:
            return
        if begun_at is None or begun_at >= self.sequence:
            self._versions.clear()
            return
        for sector, known in list(self._versions.items()):
            kept = [version for version in known if version[0] > begun_at]
            if not kept:
                del self._versions[sector]
            elif len(kept) < len(known):
                self._versions[sector] = [known[len(known) - len(kept) - 1], *kept]

    def settle(self, offset: int, length: int) -> None:
        """Make durable what is written there, and nothing else."""
        if not self.ignores_flush:
            for sector in range(offset // SECTOR_SIZE_BYTES, -(-(offset + length) // SECTOR_SIZE_BYTES)):
                self._versions.pop(sector, None)

    def grow(self, size_bytes: int) -> None:
        """The disk is larger from now on: what was its end, with the meta-data, is in the middle."""
        image = mmap.mmap(-1, size_bytes)
        image[: len(self.image)] = self.image[:]
        self.known.append(KnownSize(self.sectors))
        for block in {*self.touched, *range(self.data_bytes // _BLOCK_BYTES, len(self.image) // _BLOCK_BYTES)}:
            self._note(block)
        self.image, self.sectors = image, size_bytes // SECTOR_SIZE_BYTES
        self.layout = Layout.internal(self.sectors)
        self.data_bytes = self.layout.usable_sectors * SECTOR_SIZE_BYTES
        self.meta_generation += 1

    def extents(self, offset: int, length: int, extents_max: int) -> list[tuple[int, bool]]:
        """(length, is a hole) one behind the other, at most so many."""
        found: list[tuple[int, bool]] = []
        for start in range(offset, offset + length, SECTOR_SIZE_BYTES):
            is_hole = not any(self.image[start : start + SECTOR_SIZE_BYTES])
            if found and found[-1][1] == is_hole:
                found[-1] = found[-1][0] + SECTOR_SIZE_BYTES, is_hole
            elif len(found) == extents_max:
                break
            else:
                found.append((SECTOR_SIZE_BYTES, is_hole))
        return found

    def lose_power(self, rng: random.Random) -> None:
        """Of what was not flushed keep nothing, everything, or a mixture, sector by sector and age by age."""
        menu = rng.randrange(4)
        for sector in sorted(self._versions):
            known = self._versions[sector]
            if menu == 0:
                chosen = known[0]
            elif menu == 1:
                chosen = known[-1]
            else:
                chosen = known[rng.randrange(len(known))] if rng.random() < 0.5 else known[0 if menu == 2 else -1]
            start = sector * SECTOR_SIZE_BYTES
            self.image[start : start + SECTOR_SIZE_BYTES] = chosen[1]
            if start < self.data_bytes:
                self._note(start // _BLOCK_BYTES)
        self._versions.clear()
        self.meta_generation += 1

    def wipe(self) -> None:
        """The disk is another one now: as fresh as from the factory, with new meta-data."""
        self.had_error = False
        self._versions.clear()
        self.image = mmap.mmap(-1, len(self.image))
        for block in list(self.touched):
            self._note(block)
        self.touched.clear()
        for offset, data in plan_create(self.layout):
            self.image[offset : offset + len(data)] = data
        self.meta_generation += 1

    def set_back(self, image: bytes) -> None:
        """Everything is as it was when `image` was taken of this disk."""
        self._versions.clear()
        self.image[:] = image
        for block in list(self.touched):
            self._note(block)
        self.meta_generation += 1

    # --- effects ---

    def write_batch(self, batch: Batch, mask: int) -> None:
        for index in indices(mask):
            self.write(batch.records[index].offset, batch.data(index))

    def read_batch(self, batch: Batch, mask: int, buffer: bytearray) -> None:
        for index in indices(mask):
            record = batch.records[index]
            if self._is_untouched(record.offset, record.length):
                buffer[record.data : record.data + record.length] = _ZEROES[: record.length]
                continue
            buffer[record.data : record.data + record.length] = self.image[
                record.offset : record.offset + record.length
            ]

    def run_stage(self, stage: Stage) -> None:
        """One step of a `Persist`, whole."""
        if stage.flush_data:
            self.flush()
        for offset, data in stage.writes:
            self.write(offset, data)
            self.settle(offset, len(data))

    def tear(self, offset: int, data: bytes | memoryview, rng: random.Random) -> None:
        """A write that was cut off: any of its sectors have arrived."""
        view = memoryview(data)
        for position in range(0, len(view), SECTOR_SIZE_BYTES):
            if rng.random() < 0.5:
                self.write(offset + position, view[position : position + SECTOR_SIZE_BYTES])

    # --- meta-data ---

    def peek(self) -> OpenedMetaData:
        """What attaching would find now, with the log applied; nothing is written."""
        return open_meta_data(
            lambda offset, length: self.image[offset : offset + length],
            MetaKind.INTERNAL,
            0,
            self.sectors,
            self.sectors,
            self.known,
        )

    def superblock(self) -> Superblock:
        """As it stands on disk."""
        if self._superblock[0] != self.meta_generation:
            offset = self.layout.superblock_offset_bytes
            block = self.image[offset : offset + _BLOCK_BYTES]
            self._superblock = self.meta_generation, Superblock.decode(block)
        return self._superblock[1]

    def open(self) -> OpenedMetaData:
        """What attaching finds, with the log applied and written."""
        opened = self.peek()
        for writes in opened.applied.stages:
            self.run_stage(Stage(False, tuple(writes)))
        return opened
