"""Batches with direct I/O: aligned memory, and a context of the kernel's to hand it all of a batch at once."""

from __future__ import annotations

import mmap
import weakref
from typing import Any

from pydrbd._native import lib
from pydrbd.native.batch import Batch, new, readable, writable

__all__ = ["DirectMemory"]


class DirectMemory:
    """`size_bytes` of page-aligned memory (`view`), and who transfers batches by way of it; for one user at a time.

    Without the kernel's context for it (`at_once` is False) the members go one after the other.
    """

    __slots__ = ("__weakref__", "_disk", "_pointer", "at_once", "view")

    def __init__(self, size_bytes: int) -> None:
        self.view = memoryview(mmap.mmap(-1, size_bytes))
        self._pointer = writable(self.view)
        self._disk: Any = new("struct pydrbd_lane_disk *")
        self._disk.bounce, self._disk.bounce_size = self._pointer, size_bytes
        context = lib.pydrbd_lane_aio_open()
        self.at_once = bool(context)
        self._disk.context = context
        if context:
            weakref.finalize(self, _close, context, self._disk)

    def begin(
        self, descriptor: int, base_bytes: int, batch: Batch, mask: int, payload: memoryview, *, is_write: bool
    ) -> None:
        """Hand the disk these members: whole blocks, of no more than our size together; then `end`, once."""
        outside = lib.pydrbd_records_outside_buffer(batch.records, batch.count, mask, len(payload))
        assert not outside, f"payload outside of {len(payload)} bytes: members {outside:#x} of {batch!r}"
        total = lib.pydrbd_records_length_sum(batch.records, batch.count, mask)
        assert total <= len(self.view), f"{total} bytes don't fit {len(self.view)}"
        disk = self._disk
        assert not disk.pending, "the batch before it has not ended"
        disk.fd, disk.base = descriptor, base_bytes
        lib.pydrbd_direct_begin(disk, is_write, readable(payload), batch.records, batch.count, mask)

    def wait(self, batch: Batch, mask: int, wait_us: int) -> bool:
        """Whether the disk has done with what was begun, within this time at the latest."""
        left: int = lib.pydrbd_direct_wait(self._disk, batch.records, batch.count, mask, wait_us)
        return not left

    def end(self, batch: Batch, mask: int, payload: memoryview, *, is_write: bool) -> tuple[int, int]:
        """Wait for it, however long it takes: the mask of those that failed, and the first errno or 0."""
        error = new("int *")
        pointer = readable(payload) if is_write else writable(payload)
        failed = lib.pydrbd_direct_end(self._disk, is_write, pointer, batch.records, batch.count, mask, error)
        return failed, error[0]


def _close(context: int, disk: Any) -> None:
    # The kernel would wait for what the disk has not done, perhaps for ever. It holds the pages until then by itself.
    if not disk.pending:
        lib.pydrbd_lane_aio_close(context)
