"""The local disk as the service sees it: operations are submitted in the Trio thread and never block it.

A few threads do the work. Two shortcuts keep the common cases cheap:

* with a page cache below us, a small batch is done at once inside `submit`: copying some pages takes microseconds,
  handing over to a thread takes tens. When the kernel throttles writers such a copy can take long, and pings must
  not wait for it: after one slow copy the threads are used for a while;
* with direct I/O, one call hands the disk all of a batch (direct_io.py), and nobody else has to be woken if it is done
  within a moment; if not, a thread waits for the rest of it. A long batch, and any batch where the kernel has no such
  call, is cut into parts for several threads.

Operations run in parallel and in any order. A Flush covers every write that was done before the flush was submitted,
no other. Operations that overlap are the submitter's to order.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from errno import EIO
from typing import Final, cast

import trio

from pydrbd import native
from pydrbd.limits import (
    BATCH_RECORDS_MAX,
    DISK_INLINE_BYTES_MAX,
    DISK_INLINE_PAUSE_MAX_S,
    DISK_INLINE_PAUSE_S,
    DISK_INLINE_SLOW_S,
    DISK_QUEUE_OPS_MAX,
    DISK_THREADS,
    LANE_DIRECT_SLOW_S,
)
from pydrbd.native import LaneFlushed
from pydrbd.runtime.block_device import BlockDevice, DiskIOError, FileDevice
from pydrbd.runtime.disk_ops import BatchOp, DiskOp, WriteBatch
from pydrbd.runtime.workers import Workers
from pydrbd.units import BIT_SIZE_BYTES

__all__ = ["DIRECT_INLINE_BYTES_MAX", "Disk", "DiskStatistics", "OnDone", "split_mask"]

DIRECT_INLINE_BYTES_MAX: Final = BATCH_RECORDS_MAX * BIT_SIZE_BYTES
"""The largest batch that is waited for here with direct I/O: longer ones go side by side."""

_DIRECT_SLOW_US: Final = round(LANE_DIRECT_SLOW_S * 1e6)

OnDone = Callable[[DiskOp], None]
"""Called in the Trio thread when an operation is done."""


@dataclass(frozen=True, slots=True)
class DiskStatistics:
    """Counts since the start; `inline_ops` and `failed_ops` are among `ops`.

    `inline_pauses`: how often a slow operation has switched the inline shortcut off for a while.
    `queue_depth` is now, `queue_depth_max` the most there ever was; `wakeups` of the Trio task by the threads.
    """

    ops: int
    inline_ops: int
    failed_ops: int
    bytes_read: int
    bytes_written: int
    flushes: int
    inline_pauses: int
    queue_depth: int
    queue_depth_max: int
    wakeups: int


class Disk:
    """The queue of one disk. Everything but the threads' own work happens in the Trio thread.

    Start `run()` in a nursery, `submit` operations, `await stop()` at the end. The disk owns its device from then on:
    `stop` closes it.
    """

    def __init__(
        self,
        device: BlockDevice,
        *,
        base_bytes: int = 0,
        thread_count: int = DISK_THREADS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`base_bytes`: where the data area starts on the device; batches, discards and zeroes count from there."""
        self.device = device
        self._is_direct = device.is_direct
        self._base_bytes = base_bytes
        self._thread_count = thread_count
        self._clock = clock
        self._workers: Workers[tuple[DiskOp, int], DiskOp] = Workers(self._work, thread_count, "disk")
        self._parts_lock = threading.Lock()
        self._waiting: dict[DiskOp, OnDone] = {}
        self._batches_waiting = 0
        self._failed_errno = 0
        self._is_closed = False
        self._run_ended: trio.Event | None = None
        self._inline_from = 0.0
        self._inline_pause_s = DISK_INLINE_PAUSE_S
        self._lane_flush_from = 0.0
        self._lane_flush_pause_s = DISK_INLINE_PAUSE_S
        self._ops = self._inline_ops = self._failed_ops = 0
        self._bytes_read = self._bytes_written = self._flushes = 0
        self._inline_pauses = self._queue_depth_max = 0

    @property
    def has_failed(self) -> bool:
        """Whether every operation fails from now on: after a failed flush, `fail`, or `stop`."""
        return self._failed_errno != 0

    def lane_place(self) -> tuple[int, int, int] | None:
        """The descriptor that a lane may use, where the data area starts, and the block of direct I/O or 0; or None."""
        descriptor = None if self._failed_errno else getattr(self.device, "lane_fd", None)
        if descriptor is None or self._clock() < self._inline_from:
            return None
        block_bytes = self.device.logical_block_bytes if self._is_direct else 0
        if block_bytes and self._base_bytes % block_bytes:
            return None
        return descriptor, self._base_bytes, block_bytes

    def lane_flush(self) -> tuple[bool, int]:
        """Whether a lane may flush this disk by itself, and how many bytes its file must have (0: it is no file)."""
        return self._clock() >= self._lane_flush_from, int(getattr(self.device, "lane_size_bytes", 0))

    def lane_flushed(self, flushed: LaneFlushed) -> None:
        """Count what a lane has flushed. A flush that failed is final, as one of ours is; a slow one is the last for
        a while."""
        self._flushes += flushed.count
        if flushed.was_slow:
            self._lane_flush_from = self._clock() + self._lane_flush_pause_s
            self._lane_flush_pause_s = min(2 * self._lane_flush_pause_s, DISK_INLINE_PAUSE_MAX_S)
        elif flushed.count:
            self._lane_flush_pause_s = DISK_INLINE_PAUSE_S
        if flushed.errno:
            self._lane_flush_from = math.inf
            self.device.flush_has_failed(flushed.errno)

    def lane_ended(self, bytes_written: int, bytes_read: int, *, slow: bool) -> None:
        """Count what a lane has done; one that has met a slow disk is not let on it again for a while."""
        self._bytes_written += bytes_written
        self._bytes_read += bytes_read
        if slow:
            self._pause_inline(self._clock())

    def has_room(self) -> bool:
        """Whether another operation may be submitted; if not, wait for one to be done first."""
        return len(self._waiting) < DISK_QUEUE_OPS_MAX

    def submit(self, op: DiskOp, on_done: OnDone) -> bool:
        """Begin an operation; never blocks, never raises for the disk's faults.

        True: it is done already (in memory, or because the disk has failed), look at it now, and `on_done` is *not*
        called. False: `on_done(op)` is called later, by `run` or `stop`, never from inside `submit`.
        """
        self._ops += 1
        if self._failed_errno:
            op.fail(self._failed_errno)
            self._account(op)
            return True
        if isinstance(op, BatchOp):
            byte_count = native.records_length_sum(op.batch, op.mask)
            if isinstance(op, WriteBatch):
                self._bytes_written += byte_count
            else:
                self._bytes_read += byte_count
            most = DIRECT_INLINE_BYTES_MAX if self._is_direct else DISK_INLINE_BYTES_MAX
            if byte_count <= most and not op.waits_for_disk:
                now = self._clock()
                may = now >= self._inline_from and (not self._is_direct or self._began(op))
                if may and self._do_inline(op, now):
                    return True
        assert len(self._waiting) < DISK_QUEUE_OPS_MAX, "submit only while has_room()"
        self._waiting[op] = on_done
        self._batches_waiting += isinstance(op, BatchOp)
        self._queue_depth_max = max(self._queue_depth_max, len(self._waiting))
        parts = self._parts(op)
        op.parts_left = len(parts)
        for mask in parts:
            self._workers.submit((op, mask))
        return False

    async def run(self) -> None:
        """Call back for operations as they are done, until `stop` is through. What a callback raises ends it.

        Raises InternalError when a thread met anything but the disk's own errors. `stop` may run it too: whoever comes
        second takes over if the first is cancelled. It never returns while the other one still waits for the threads.
        """
        while self._run_ended is not None or not self._workers.have_ended:
            if self._run_ended is not None:
                await self._run_ended.wait()
                continue
            self._run_ended = trio.Event()
            try:
                while not self._workers.have_ended:
                    for op in await self._workers.wait():
                        self._call_back(op)
            finally:
                self._run_ended.set()
                self._run_ended = None

    def fail(self, errno: int = EIO) -> None:
        """Give the disk up: what is queued and what comes fails with `errno`; what is running comes to its end."""
        self._failed_errno = self._failed_errno or errno

    async def stop(self, timeout_s: float) -> list[DiskOp]:
        """Fail what is queued, wait for what is running, then end the threads and close the device.

        Everything is called back for before this returns, except the operations in the answer: the kernel has not
        let go of those in time. They never will be called back for, their buffers must not be used again, and the
        device stays open; another `stop` tries to end it again.
        """
        self.fail()
        for op, mask in self._workers.take_queued():
            if isinstance(op, BatchOp) and op.job is not None and op.job.wait(0):
                op.job.end()  # if the disk is not done, its memory is never used again; the buffers are not involved
            if self._end_part(op, mask, mask, self._failed_errno):
                self._call_back(op)
        if not self._is_closed:
            self._workers.end()
            # Shielded: it is bounded, and closing under a running thread would let it write to somebody else's file.
            with trio.CancelScope(deadline=trio.current_time() + timeout_s, shield=True):
                await self.run()
        if self._workers.have_ended and not self._is_closed:
            self._is_closed = True
            self._workers.close()
            self.device.close()
        abandoned = list(self._waiting)
        self._waiting.clear()
        return abandoned

    def statistics(self) -> DiskStatistics:
        """Counts, for a look inside."""
        return DiskStatistics(
            ops=self._ops,
            inline_ops=self._inline_ops,
            failed_ops=self._failed_ops,
            bytes_read=self._bytes_read,
            bytes_written=self._bytes_written,
            flushes=self._flushes,
            inline_pauses=self._inline_pauses,
            queue_depth=len(self._waiting),
            queue_depth_max=self._queue_depth_max,
            wakeups=self._workers.wakeups,
        )

    def _began(self, op: BatchOp) -> bool:
        """Give a disk with direct I/O all of this; not while it is late with others: if it hangs, so would we."""
        may = self._batches_waiting == 0 and bool(getattr(self.device, "batch_bytes", 0))
        return may and op.begin(cast(FileDevice, self.device), self._base_bytes)

    def _do_inline(self, op: BatchOp, begun: float) -> bool:
        """Do it here and now; False: the disk is at work on it still, and a thread is to wait for that."""
        is_done = op.job is None or op.job.wait(_DIRECT_SLOW_US)
        if is_done:
            op.failed_mask, op.errno = self._execute(op, op.mask)
        ended = self._clock()
        if ended - begun > (LANE_DIRECT_SLOW_S if self._is_direct else DISK_INLINE_SLOW_S):
            self._pause_inline(ended)
        else:
            self._inline_pause_s = DISK_INLINE_PAUSE_S
        if is_done:
            self._inline_ops += 1
            self._failed_ops += op.failed_mask != 0
        return is_done

    def _pause_inline(self, now: float) -> None:
        """One slow copy may only mean that another program had the processor; a disk that throttles stays slow."""
        self._inline_from = now + self._inline_pause_s
        self._inline_pause_s = min(2 * self._inline_pause_s, DISK_INLINE_PAUSE_MAX_S)
        self._inline_pauses += 1

    def _parts(self, op: DiskOp) -> list[int]:
        if self._is_direct and isinstance(op, BatchOp) and op.job is None:
            at_once: int = getattr(self.device, "batch_bytes", 0)
            calls = -(-native.records_length_sum(op.batch, op.mask) // at_once) if at_once else self._thread_count
            return split_mask(op.mask, max(1, min(calls, self._thread_count)))
        return [op.whole_mask]

    def _work(self, job: tuple[DiskOp, int]) -> DiskOp | None:
        """In a thread: do one part; the operation if it was the last."""
        op, mask = job
        if isinstance(op, BatchOp) and op.job is not None:
            failed_mask, errno = self._execute(op, mask)  # also if nobody wants it any more: its memory is used again
            if self._failed_errno:
                failed_mask, errno = mask, self._failed_errno
        elif self._failed_errno:
            failed_mask, errno = mask, self._failed_errno
        else:
            failed_mask, errno = self._execute(op, mask)
        return op if self._end_part(op, mask, failed_mask, errno) else None

    def _execute(self, op: DiskOp, mask: int) -> tuple[int, int]:
        try:
            return op.execute(self.device, self._base_bytes, mask)
        except DiskIOError as error:
            return mask, error.errno

    def _end_part(self, op: DiskOp, mask: int, failed_mask: int, errno: int) -> bool:
        """Note how a part ended; whether the operation is done with it."""
        assert failed_mask & ~mask == 0
        with self._parts_lock:
            if failed_mask:
                op.errno = op.errno or errno or EIO
                op.failed_mask |= failed_mask
            op.parts_left -= 1
            if op.parts_left:
                return False
        try:
            op.finish(self.device)
        except DiskIOError as error:
            op.fail(error.errno)
        if op.flush_failed:
            # The kernel may have dropped what it could not write: from here on nothing on this disk can be trusted.
            self.fail(op.errno)
        return True

    def _call_back(self, op: DiskOp) -> None:
        on_done = self._waiting.pop(op, None)
        if on_done is not None:  # else it came back after `stop` had given it up
            self._batches_waiting -= isinstance(op, BatchOp)
            self._account(op)
            on_done(op)

    def _account(self, op: DiskOp) -> None:
        self._flushes += op.flushes
        self._failed_ops += op.failed_mask != 0


def split_mask(mask: int, part_count: int) -> list[int]:
    """The bits of a mask in at most `part_count` parts of neighbours, as even as can be; none of them is 0."""
    bits_left = mask.bit_count()
    parts = []
    for parts_left in range(min(part_count, bits_left), 0, -1):
        part = 0
        for _ in range(-(-bits_left // parts_left)):
            part |= mask & -mask
            mask &= mask - 1
        bits_left -= part.bit_count()
        parts.append(part)
    return parts
