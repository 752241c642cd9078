"""Direct I/O at any offset, of any length, from any buffer: through aligned bounce buffers.

A descriptor with O_DIRECT takes whole blocks in aligned memory only. What our callers have is neither: payloads lie
where the network put them. So everything is copied once, into or out of pages of our own; a write that covers a block
in part reads that block first. Members of a batch that follow each other on the disk become one request.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pydrbd import native
from pydrbd.native import Batch, Buffer, indices
from pydrbd.units import MIB

__all__ = ["BOUNCE_BYTES", "DirectIo"]

BOUNCE_BYTES: Final = MIB
"""The longest single request: what one bounce buffer holds."""


class _Bounce:
    """BOUNCE_BYTES of page-aligned memory, and a batch on it for the native calls."""

    __slots__ = ("batch", "view")

    def __init__(self) -> None:
        self.view = memoryview(mmap.mmap(-1, BOUNCE_BYTES))
        records = native.new_records()
        self.batch = Batch(self.view, records, len(records))


class DirectIo:
    """Reads and writes on one O_DIRECT descriptor; for use by several threads at once.

    Two writes that overlap are the caller's to order; two that merely share a block are ordered here.
    """

    def __init__(self, fd: int, block_bytes: int) -> None:
        assert block_bytes > 0 and BOUNCE_BYTES % block_bytes == 0
        self._fd = fd
        self._block_bytes = block_bytes
        self._idle: list[_Bounce] = []
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

    def _do_records(
        self, batch: Batch, mask: int, base_bytes: int, payload: memoryview, *, is_write: bool
    ) -> tuple[int, int]:
        lone = mask if base_bytes % self._block_bytes else native.records_unaligned(batch, mask, self._block_bytes)
        if native.records_length_sum(batch, mask) > BOUNCE_BYTES:
            lone |= sum(1 << index for index in indices(mask & ~lone) if batch.records[index].length > BOUNCE_BYTES)
        failed, number = 0, 0
        if lone != mask:
            with self._bounce() as bounce:
                for lot in _lots(batch, mask & ~lone):
                    lot_failed, lot_number, again = self._do_lot(
                        batch, lot, base_bytes, payload, bounce, is_write=is_write
                    )
                    failed |= lot_failed
                    number = number or (lot_number if lot_failed else 0)
                    lone |= again
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

    def _do_lot(
        self, batch: Batch, lot: list[int], base_bytes: int, payload: memoryview, bounce: _Bounce, *, is_write: bool
    ) -> tuple[int, int, int]:
        """Transfer members that fit the bounce buffer together, in as few requests as can be.

        Returns who failed, with which errno, and who must go alone: of a run that failed, nobody knows who is to blame.
        """
        runs: list[int] = []
        used = 0
        end = -1
        for index in lot:
            record = batch.records[index]
            offset_bytes, length, data = base_bytes + record.offset, record.length, record.data
            if is_write:
                bounce.view[used : used + length] = payload[data : data + length]
            if offset_bytes == end:
                bounce.batch.records[len(runs) - 1].length += length
                runs[-1] |= 1 << index
            else:
                run = bounce.batch.records[len(runs)]
                run.offset, run.data, run.length = offset_bytes, used, length
                runs.append(1 << index)
            end = offset_bytes + length
            used += length
        all_runs = (1 << len(runs)) - 1
        if is_write:
            failed_runs, number = native.pwrite_records(self._fd, base_bytes=0, batch=bounce.batch, mask=all_runs)
        else:
            failed_runs, number = native.pread_records(
                self._fd, base_bytes=0, batch=bounce.batch, mask=all_runs, buffer=bounce.view
            )
        failed = sum(runs[run] for run in indices(failed_runs))
        again = sum(runs[run] for run in indices(failed_runs) if runs[run].bit_count() > 1)
        if not is_write:
            used = 0
            for index in lot:
                record = batch.records[index]
                if not failed >> index & 1:
                    payload[record.data : record.data + record.length] = bounce.view[used : used + record.length]
                used += record.length
        return failed & ~again, number, again

    @contextmanager
    def _bounce(self) -> Iterator[_Bounce]:
        """A bounce buffer for one user at a time; there come to be as many as there are threads."""
        try:
            bounce = self._idle.pop()
        except IndexError:
            bounce = _Bounce()
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


def _lots(batch: Batch, mask: int) -> Iterator[list[int]]:
    """The members, none of them longer than a bounce buffer, in lots that fit one."""
    lot: list[int] = []
    used = 0
    for index in indices(mask):
        length = batch.records[index].length
        if lot and used + length > BOUNCE_BYTES:
            yield lot
            lot, used = [], 0
        lot.append(index)
        used += length
    if lot:
        yield lot
