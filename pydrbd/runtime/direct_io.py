"""Direct I/O at any offset, of any length, from any buffer: through aligned bounce buffers.

A descriptor with O_DIRECT takes whole blocks in aligned memory only. What our callers have is neither: payloads lie
where the network put them. So everything is copied once, into or out of pages of our own; a write that covers a block
in part reads that block first. A batch is one native call: members that follow each other on the disk become one
request, and the disk has all of them at the same time.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pydrbd import native
from pydrbd.native import Batch, Buffer, DirectMemory, indices
from pydrbd.units import MIB

__all__ = ["BOUNCE_BYTES", "DirectIo", "DirectJob"]

BOUNCE_BYTES: Final = MIB
"""The longest single request: what one bounce buffer holds."""


@dataclass(frozen=True, slots=True)
class DirectJob:
    """A batch that the disk is at work on. Its records stay as they are, and its buffer where it is, until `end`."""

    memory: DirectMemory
    batch: Batch
    mask: int
    payload: memoryview
    is_write: bool
    give_back: Callable[[DirectMemory], None]

    def wait(self, wait_us: int) -> bool:
        """Whether the disk has done with it, within this time at the latest."""
        return self.memory.wait(self.batch, self.mask, wait_us)

    def end(self) -> tuple[int, int]:
        """Once: wait for the disk, however long it takes: (mask of who failed, first errno)."""
        found = self.memory.end(self.batch, self.mask, self.payload, is_write=self.is_write)
        self.payload.release()
        self.give_back(self.memory)
        return found


class DirectIo:
    """Reads and writes on one O_DIRECT descriptor; for use by several threads at once.

    Two writes that overlap are the caller's to order; two that merely share a block are ordered here.
    """

    def __init__(self, fd: int, block_bytes: int) -> None:
        assert block_bytes > 0 and BOUNCE_BYTES % block_bytes == 0
        self._fd = fd
        self._block_bytes = block_bytes
        self._idle: list[DirectMemory] = []
        self.at_once = False
        """Whether all of a batch is with the disk at the same time; else several threads may each take a part of it."""
        with self._bounce() as bounce:
            self.at_once = bounce.at_once
        # One lock for all blocks: writes that need it are rare (clients write whole blocks), and each is brief.
        self._edge_lock = threading.Lock()

    def read_into(self, offset_bytes: int, target: memoryview) -> None:
        """Fill `target` from the disk. Raises OSError; EIO where the disk ends early."""
        end = offset_bytes + len(target)
        with self._bounce() as bounce:
            at = offset_bytes
            while at < end:
                first = at - at % self._block_bytes
                length = min(self._round_up(end) - first, BOUNCE_BYTES)
                self._read_blocks(bounce.view[:length], first)
                stop = min(end, first + length)
                target[at - offset_bytes : stop - offset_bytes] = bounce.view[at - first : stop - first]
                at = stop

    def write(self, offset_bytes: int, data: Buffer) -> None:
        """Write all of `data`; bytes around it in the same blocks keep their values. Raises OSError."""
        with memoryview(data) as view:
            if (offset_bytes | len(view)) % self._block_bytes == 0:
                self._write(offset_bytes, view)
            else:
                with self._edge_lock:
                    self._write(offset_bytes, view)

    def read_records(self, batch: Batch, mask: int, base_bytes: int, buffer: bytearray | memoryview) -> tuple[int, int]:
        """As native.pread_records."""
        with memoryview(buffer) as payload:
            return self._do_records(batch, mask, base_bytes, payload, is_write=False)

    def write_records(self, batch: Batch, mask: int, base_bytes: int) -> tuple[int, int]:
        """As native.pwrite_records."""
        with memoryview(batch.buffer) as payload:
            return self._do_records(batch, mask, base_bytes, payload, is_write=True)

    def begin_records(
        self, batch: Batch, mask: int, base_bytes: int, buffer: bytearray | memoryview, *, is_write: bool
    ) -> DirectJob | None:
        """Hand the disk all of a batch, and don't wait for it; None if it can't have all of it at the same time."""
        if (
            not self.at_once
            or native.records_length_sum(batch, mask) > BOUNCE_BYTES
            or self._lone(batch, mask, base_bytes)
        ):
            return None
        memory = self._idle.pop() if self._idle else DirectMemory(BOUNCE_BYTES)
        job = DirectJob(memory, batch, mask, memoryview(buffer), is_write, self._idle.append)
        memory.begin(self._fd, base_bytes, batch, mask, job.payload, is_write=is_write)
        return job

    def _lone(self, batch: Batch, mask: int, base_bytes: int) -> int:
        """The members that have to go alone."""
        if base_bytes % self._block_bytes:
            return mask
        unaligned = native.records_unaligned(batch, mask, self._block_bytes)
        return unaligned | native.records_longer(batch, mask, BOUNCE_BYTES)

    def _do_records(
        self, batch: Batch, mask: int, base_bytes: int, payload: memoryview, *, is_write: bool
    ) -> tuple[int, int]:
        lone = self._lone(batch, mask, base_bytes)
        failed, number = 0, 0
        if lone != mask:
            with self._bounce() as bounce:
                for lot in _lots(batch, mask & ~lone):
                    bounce.begin(self._fd, base_bytes, batch, lot, payload, is_write=is_write)
                    lot_failed, lot_number = bounce.end(batch, lot, payload, is_write=is_write)
                    failed |= lot_failed
                    number = number or lot_number
        for index in indices(lone):
            record = batch.records[index]
            place = payload[record.data : record.data + record.length]
            try:
                if is_write:
                    self.write(base_bytes + record.offset, place)
                else:
                    self.read_into(base_bytes + record.offset, place)
            except OSError as error:
                failed |= 1 << index
                number = number or error.errno or errno.EIO
        return failed, number

    @contextmanager
    def _bounce(self) -> Iterator[DirectMemory]:
        """A bounce buffer for one user at a time; there come to be as many as there are threads."""
        try:
            bounce = self._idle.pop()
        except IndexError:
            bounce = DirectMemory(BOUNCE_BYTES)
        try:
            yield bounce
        finally:
            self._idle.append(bounce)

    def _write(self, offset_bytes: int, view: memoryview) -> None:
        end = offset_bytes + len(view)
        block_bytes = self._block_bytes
        with self._bounce() as bounce:
            blocks = bounce.view
            at = offset_bytes
            while at < end:
                first = at - at % block_bytes
                last = min(self._round_up(end), first + BOUNCE_BYTES)
                stop = min(end, last)
                if at != first:
                    self._read_blocks(blocks[:block_bytes], first)
                if stop != last and (at == first or last - first > block_bytes):
                    self._read_blocks(blocks[last - first - block_bytes : last - first], last - block_bytes)
                blocks[at - first : stop - first] = view[at - offset_bytes : stop - offset_bytes]
                self._write_blocks(blocks[: last - first], first)
                at = stop

    def _read_blocks(self, blocks: memoryview, offset_bytes: int) -> None:
        done = 0
        while done < len(blocks):
            count = os.preadv(self._fd, [blocks[done:]], offset_bytes + done)
            if count == 0:
                raise OSError(errno.EIO, "the disk ends early: has it been truncated?")
            done += count

    def _write_blocks(self, blocks: memoryview, offset_bytes: int) -> None:
        done = 0
        while done < len(blocks):
            count = os.pwrite(self._fd, blocks[done:], offset_bytes + done)
            if count == 0:
                raise OSError(errno.EIO, "the disk takes no more bytes")
            done += count

    def _round_up(self, offset_bytes: int) -> int:
        return -(-offset_bytes // self._block_bytes) * self._block_bytes


def _lots(batch: Batch, mask: int) -> Iterator[int]:
    """The members, none of them longer than a bounce buffer, in lots that fit one."""
    if native.records_length_sum(batch, mask) <= BOUNCE_BYTES:
        yield mask
        return
    lot = used = 0
    for index in indices(mask):
        length = batch.records[index].length
        if lot and used + length > BOUNCE_BYTES:
            yield lot
            lot = used = 0
        lot |= 1 << index
        used += length
    if lot:
        yield lot
