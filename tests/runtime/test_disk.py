"""The asynchronous disk: what is done inline, what by threads, what a flush covers, how it fails and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from errno import EIO, ENOSPC
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from pydrbd.errors import InternalError
from pydrbd.limits import DISK_INLINE_PAUSE_S
from pydrbd.native import LaneFlushed
from pydrbd.runtime import disk as disk_module
from pydrbd.runtime.block_device import BlockDevice, DiskIOError, FileDevice
from pydrbd.runtime.disk import Disk, split_mask
from pydrbd.runtime.disk_faults import Fault, FaultyDevice
from pydrbd.runtime.disk_ops import (
    Discard,
    DiskOp,
    Flush,
    MetaRead,
    MetaWrite,
    ReadBatch,
    WriteBatch,
    WriteZeroes,
)
from pydrbd.runtime.disk_wrappers import Access, AccessKind, MemoryDevice, RecordingDevice, SlowDevice
from tests.runtime.disk_tools import read_batch, write_batch

SIZE_BYTES = 4 * 1024 * 1024
TIMEOUT_S = 20


class Gate:
    """A SlowDevice's hook that stops every access until it is opened; `arrived` counts them."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.arrived = threading.Semaphore(0)

    def __call__(self, access: Access) -> None:
        self.arrived.release()
        assert self.opened.wait(TIMEOUT_S)


class Rig:
    """A disk that runs in a nursery, and what it has called back for, in order."""

    def __init__(self, device: BlockDevice, nursery: trio.Nursery, **options: object) -> None:
        self.device = device
        self.disk = Disk(device, **options)  # type: ignore[arg-type]
        self.done: list[DiskOp] = []
        self.changed = trio.Event()
        nursery.start_soon(self.disk.run)

    def submit(self, op: DiskOp) -> bool:
        return self.disk.submit(op, self.on_done)

    def on_done(self, op: DiskOp) -> None:
        self.done.append(op)
        self.changed.set()

    async def wait_done(self, count: int) -> None:
        with trio.fail_after(TIMEOUT_S):
            while len(self.done) < count:
                self.changed = trio.Event()
                await self.changed.wait()

    async def do(self, op: DiskOp) -> DiskOp:
        if not self.submit(op):
            await self.wait_done(len(self.done) + 1)
        return op

    async def stop(self) -> None:
        assert await self.disk.stop(TIMEOUT_S) == []


def a_write(count: int = 4, length: int = 4096) -> WriteBatch:
    batch = write_batch([(index * length, bytes([index + 1]) * length) for index in range(count)])
    return WriteBatch(batch, batch.all)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Each test ends its disks' threads."""
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("disk-")]
    assert left == []


async def test_small_batches_are_done_at_once() -> None:
    """With a page cache below, submit itself writes and reads, says so, and never calls back."""
    async with trio.open_nursery() as nursery:
        rig = Rig(MemoryDevice(SIZE_BYTES), nursery, base_bytes=8192)
        assert rig.submit(a_write(3))
        batch, views = read_batch([(4096, 4096), (12288, 512)])
        op = ReadBatch(batch, batch.all, batch.buffer)
        assert rig.submit(op)
        assert op.ok and bytes(views[0]) == b"\2" * 4096 and bytes(views[1]) == bytes(512)
        assert rig.device.read_at(8192, 1) == b"\1", "batches count from base_bytes"
        await rig.stop()
    assert rig.done == []
    statistics = rig.disk.statistics()
    assert (statistics.ops, statistics.inline_ops, statistics.queue_depth_max) == (2, 2, 0)
    assert (statistics.bytes_written, statistics.bytes_read) == (3 * 4096, 4096 + 512)


async def test_what_waits_for_the_disk_goes_to_the_threads() -> None:
    """Large batches, FUA, flushes and meta-data are called back for later, never from inside submit."""
    async with trio.open_nursery() as nursery:
        rig = Rig(RecordingDevice(MemoryDevice(SIZE_BYTES)), nursery)
        meta = MetaRead(0, 4096)
        ops = [a_write(1, 513 * 1024), a_write(), Flush(), MetaWrite([(0, b"m" * 512)]), Discard(0, 512)]
        ops += [WriteZeroes(0, 512, True), meta]
        ops[1].fua = True  # type: ignore[attr-defined]
        for count, op in enumerate(ops, start=1):
            assert not rig.submit(op)
            assert len(rig.done) == count - 1
            await rig.wait_done(count)
            assert rig.done[-1] is op and op.ok
        assert meta.data == bytes(512) + b"\1" * 3584
        assert ops[4].supported  # type: ignore[attr-defined]
        await rig.stop()
    statistics = rig.disk.statistics()
    assert (statistics.inline_ops, statistics.flushes, statistics.queue_depth) == (0, 2, 0)


async def test_a_slow_copy_sends_the_next_ones_to_the_threads() -> None:
    """After an inline batch of more than 5 ms the threads work for 20 ms; after another one, for twice as long."""
    now = 100.0
    took = 0.006

    def delay(access: Access) -> None:
        nonlocal now
        now += took

    async with trio.open_nursery() as nursery:
        rig = Rig(SlowDevice(MemoryDevice(SIZE_BYTES), delay), nursery, clock=lambda: now)
        done = 0
        for pause_s in (0.02, 0.04, 0.08):
            took = 0.006
            assert rig.submit(a_write(1))
            took = 0.0
            for wait_s in (0.0, pause_s - 0.001):
                now += wait_s
                assert not rig.submit(a_write(1))
                done += 1
                await rig.wait_done(done)
            now += 0.002
        assert rig.submit(a_write(1))
        assert rig.disk.statistics().inline_pauses == 3
        await rig.stop()


async def test_a_direct_batch_is_spread_over_the_threads() -> None:
    """With direct I/O the parts of one batch run at the same time: none could end if one thread did them in turn."""
    together = threading.Barrier(4)
    async with trio.open_nursery() as nursery:
        memory = MemoryDevice(SIZE_BYTES, is_direct=True)
        rig = Rig(SlowDevice(memory, lambda _access: together.wait(TIMEOUT_S) and None), nursery)
        assert not rig.submit(a_write(8))
        await rig.wait_done(1)
        await rig.stop()
    assert memory.image[: 8 * 4096 : 4096] == bytes(range(1, 9))
    assert rig.disk.statistics().queue_depth_max == 1, "one operation, whatever its parts"


@pytest.mark.parametrize("is_direct", [False, True])
async def test_failed_members_are_named(is_direct: bool) -> None:
    """A batch's errors come back as one mask with an errno, from whatever part they are."""
    async with trio.open_nursery() as nursery:
        device = FaultyDevice(MemoryDevice(SIZE_BYTES, is_direct=is_direct))
        device.faults.append(Fault(lambda access: access.touches(4096, 4097) or access.touches(28672, 28673), ENOSPC))
        rig = Rig(device, nursery)
        op = await rig.do(a_write(8))
        assert (op.failed_mask, op.errno, op.ok) == (0b10000010, ENOSPC, False)
        batch, _ = read_batch([(0, 512), (4096, 512)])
        assert (await rig.do(ReadBatch(batch, batch.all, batch.buffer))).failed_mask == 0b10
        for op in [MetaWrite([(0, bytes(512)), (4096, bytes(512))]), MetaRead(4096, 1), WriteZeroes(0, 8192, True)]:
            await rig.do(op)
            assert (op.failed_mask, op.errno) == (1, ENOSPC), op
        assert not rig.disk.has_failed, "what to make of an error is not the disk's to decide"
        await rig.stop()
    assert rig.disk.statistics().failed_ops == 5


async def test_all_completions_come_back_in_few_wake_ups() -> None:
    """None is lost, none comes twice, and those that are there together are taken together."""
    async with trio.open_nursery() as nursery:
        gate = Gate()
        rig = Rig(SlowDevice(MemoryDevice(SIZE_BYTES), gate), nursery, thread_count=1)
        ops = [MetaRead(index * 512, 512) for index in range(500)]
        for op in ops:
            rig.submit(op)
        gate.opened.set()
        # The Trio thread waits here, so the one worker gets far ahead.
        for _ in ops:
            assert gate.arrived.acquire(timeout=TIMEOUT_S)
        await rig.wait_done(500)
        assert rig.done == ops, "one thread keeps the order"
        assert rig.disk.statistics().wakeups <= 3
        assert rig.disk.statistics().queue_depth_max == 500
        await rig.stop()


async def test_a_flush_makes_durable_what_was_done_before() -> None:
    """The recorder's rule: writes completed before the flush was submitted; later ones are still pending."""
    async with trio.open_nursery() as nursery:
        recorder = RecordingDevice(MemoryDevice(SIZE_BYTES))
        rig = Rig(recorder, nursery)
        rig.submit(a_write(2))
        await rig.do(Flush())
        rig.submit(a_write(1))
        assert [write.offset_bytes for write in recorder.durable_at(recorder.now)] == [0, 4096]
        assert [write.offset_bytes for write in recorder.pending_at(recorder.now)] == [0]
        fua = a_write(1)
        fua.fua = True
        await rig.do(fua)
        assert recorder.pending_at(recorder.now) == []
        await rig.stop()


async def test_meta_data_is_written_between_its_flushes() -> None:
    """Preflush, then the writes in order, then the flush: one after the other."""
    async with trio.open_nursery() as nursery:
        recorder = RecordingDevice(MemoryDevice(SIZE_BYTES))
        rig = Rig(recorder, nursery)
        await rig.do(MetaWrite([(8192, b"a" * 512), (0, b"b" * 512)], preflush=True, flush_after=True))
        before, after = recorder.flushes
        first, second = recorder.writes
        ticks = [before.completed, first.submitted, first.completed, second.submitted, second.completed]
        assert ticks == sorted(ticks) and after.submitted > second.completed
        assert (first.offset_bytes, second.offset_bytes) == (8192, 0)
        assert rig.disk.statistics().flushes == 2
        await rig.stop()


@pytest.mark.parametrize("can_discard", [True, False])
async def test_a_discard_leaves_zeroes_whatever_the_disk_can(
    can_discard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One node's disk may discard and the other's not: what is read afterwards is the same."""
    monkeypatch.setattr(RecordingDevice, "discard", lambda self, *where: can_discard and self.inner.discard(*where))
    async with trio.open_nursery() as nursery:
        recorder = RecordingDevice(MemoryDevice(SIZE_BYTES))
        rig = Rig(recorder, nursery, base_bytes=4096)
        rig.submit(a_write(2))
        op = Discard(100, 5000)
        assert (await rig.do(op)).ok and op.supported == can_discard
        assert recorder.read_at(4096, 8192) == b"\1" * 100 + bytes(5000) + b"\2" * 3092
        assert len(recorder.writes) == (2 if can_discard else 3)
        await rig.stop()


@pytest.mark.parametrize("kind", ["flush", "fua", "preflush", "flush_after"])
async def test_a_failed_flush_ends_the_disk(kind: str) -> None:
    """Whichever operation flushed: it fails, and from then on every operation fails at once, flushes too."""
    async with trio.open_nursery() as nursery:
        recorder = RecordingDevice(MemoryDevice(SIZE_BYTES))
        device = FaultyDevice(recorder)
        device.faults.append(Fault(lambda access: access.kind is AccessKind.FLUSH, times=1))
        rig = Rig(device, nursery)
        meta = MetaWrite([(0, b"x" * 512)], preflush=kind == "preflush", flush_after=kind == "flush_after")
        write = a_write()
        write.fua = True
        op = await rig.do({"flush": Flush(), "fua": write}.get(kind, meta))
        assert (op.failed_mask, op.errno) == (0b1111 if kind == "fua" else 1, EIO)
        assert rig.disk.has_failed
        for op in [Flush(), a_write(), MetaRead(0, 512), MetaWrite([(0, b"y" * 512)])]:
            assert rig.submit(op) and op.errno == EIO and op.failed_mask == op.whole_mask
        assert device.read_at(0, 1) == (b"\1" if kind == "fua" else b"x" if kind == "flush_after" else b"\0")
        await rig.stop()
        assert recorder.writes == [] and recorder.flushes == []


async def test_what_is_queued_fails_with_the_disk() -> None:
    """After fail(), running operations come to their own end, queued ones don't reach the device."""
    async with trio.open_nursery() as nursery:
        gate = Gate()
        recorder = RecordingDevice(MemoryDevice(SIZE_BYTES))
        rig = Rig(SlowDevice(recorder, gate), nursery, thread_count=1)
        running, queued = MetaWrite([(0, b"1")]), MetaWrite([(0, b"2")])
        rig.submit(running)
        rig.submit(queued)
        assert gate.arrived.acquire(timeout=TIMEOUT_S)
        rig.disk.fail(ENOSPC)
        gate.opened.set()
        await rig.wait_done(2)
        assert running.ok and (queued.failed_mask, queued.errno) == (1, ENOSPC)
        assert len(recorder.writes) == 1
        await rig.stop()


async def test_room_ends_at_the_limit_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """has_room is the back-pressure: false at DISK_QUEUE_OPS_MAX, true when one is done; beyond it is a bug."""
    monkeypatch.setattr(disk_module, "DISK_QUEUE_OPS_MAX", 2)
    async with trio.open_nursery() as nursery:
        gate = Gate()
        rig = Rig(SlowDevice(MemoryDevice(SIZE_BYTES), gate), nursery)
        rig.submit(Flush())
        assert rig.disk.has_room()
        rig.submit(Flush())
        assert not rig.disk.has_room()
        with pytest.raises(AssertionError, match="has_room"):
            rig.submit(Flush())
        gate.opened.set()
        await rig.wait_done(2)
        assert rig.disk.has_room()
        await rig.stop()


@pytest.mark.parametrize("runs", [True, False])
async def test_stop_fails_what_is_queued_and_waits_for_what_runs(runs: bool) -> None:
    """Every operation is called back for before stop returns, with or without run(); then the device is closed."""
    memory = MemoryDevice(SIZE_BYTES)
    gate = Gate()
    disk = Disk(SlowDevice(memory, gate), thread_count=2)
    ops = [MetaWrite([(index * 512, b"x" * 512)]) for index in range(6)]
    done: list[DiskOp] = []
    async with trio.open_nursery() as nursery:
        if runs:
            nursery.start_soon(disk.run)
        for op in ops:
            disk.submit(op, done.append)
        for _ in range(2):
            assert gate.arrived.acquire(timeout=TIMEOUT_S)
        nursery.start_soon(disk.stop, TIMEOUT_S)
        await trio.testing.wait_all_tasks_blocked()
        assert not memory.is_closed
        assert done == ops[2:] and all(op.errno == EIO for op in done)
        gate.opened.set()
    assert sorted(done, key=ops.index) == ops
    assert ops[0].ok and ops[1].ok and memory.image.count(b"x") == 1024
    assert memory.is_closed
    assert await disk.stop(TIMEOUT_S) == []
    late = Flush()
    assert disk.submit(late, done.append) and not late.ok


async def test_stop_closes_nothing_under_a_task_that_waits() -> None:
    """Threads that have ended before `stop` looks: the task in run() has not been woken by their last word yet."""
    memory = MemoryDevice(SIZE_BYTES)
    async with trio.open_nursery() as nursery:
        rig = Rig(memory, nursery)
        await trio.testing.wait_all_tasks_blocked()
        rig.disk._workers.end()
        for thread in threading.enumerate():
            if thread.name.startswith("disk-"):
                thread.join(TIMEOUT_S)
        await rig.stop()
    assert memory.is_closed


async def test_stop_gives_up_what_the_kernel_does_not_let_go(autojump_clock: trio.testing.MockClock) -> None:
    """A stuck operation is handed back after the time-out, never called back for, and its device stays open."""
    memory = MemoryDevice(SIZE_BYTES)
    gate = Gate()
    async with trio.open_nursery() as nursery:
        rig = Rig(SlowDevice(memory, gate), nursery)
        stuck = MetaWrite([(0, b"x" * 512)])
        rig.submit(stuck)
        assert gate.arrived.acquire(timeout=TIMEOUT_S)
        assert await rig.disk.stop(5.0) == [stuck]
        assert not memory.is_closed
        gate.opened.set()
        for thread in threading.enumerate():
            if thread.name.startswith("disk-"):
                thread.join(TIMEOUT_S)
        assert await rig.disk.stop(5.0) == []
        assert memory.is_closed and rig.done == []


async def test_a_bug_in_a_thread_stops_the_service() -> None:
    """Anything but the disk's own errors is a broken invariant: run() raises, it is not an I/O error."""

    def crash(access: Access) -> None:
        raise ZeroDivisionError

    disk = Disk(SlowDevice(MemoryDevice(SIZE_BYTES), crash))
    disk.submit(Flush(), lambda _op: None)
    with pytest.raises(InternalError, match="ZeroDivisionError"), trio.fail_after(TIMEOUT_S):
        await disk.run()
    assert len(await disk.stop(TIMEOUT_S)) == 1


async def test_a_callback_may_submit_again() -> None:
    """Read, then write, then flush, each from the other's callback: the usual way of a resync."""
    async with trio.open_nursery() as nursery:
        disk = Disk(MemoryDevice(SIZE_BYTES, is_direct=True))
        finished = trio.Event()

        def on_read(_op: DiskOp) -> None:
            assert not disk.submit(a_write(), on_written)

        def on_written(op: DiskOp) -> None:
            assert op.ok and not disk.submit(Flush(), lambda _op: finished.set())

        nursery.start_soon(disk.run)
        disk.submit(MetaRead(0, 512), on_read)
        with trio.fail_after(TIMEOUT_S):
            await finished.wait()
        assert await disk.stop(TIMEOUT_S) == []


@given(mask=st.integers(1, 2**64 - 1), part_count=st.integers(1, 8))
def test_a_mask_is_split_evenly(mask: int, part_count: int) -> None:
    """The parts are disjoint, make up the mask, ascend, and differ by at most one member."""
    parts = split_mask(mask, part_count)
    assert sum(parts) == mask and all(parts)
    assert len(parts) == min(part_count, mask.bit_count())
    counts = [part.bit_count() for part in parts]
    assert max(counts) - min(counts) <= 1
    assert all(one < (other & -other) for one, other in pairwise(parts))


async def test_a_lane_flushes_only_a_disk_that_is_quick_and_has_never_failed(tmp_path: Path) -> None:
    """After a slow one not for a while, after a failed one never again, nor does anybody else's flush succeed."""
    now = 0.0
    path = tmp_path / "disk"
    path.write_bytes(bytes(SIZE_BYTES))
    device = FileDevice(str(path), "buffered")
    disk = Disk(device, clock=lambda: now)
    try:
        assert disk.lane_flush() == (True, SIZE_BYTES)
        disk.lane_flushed(LaneFlushed(1, True, 0))
        assert not disk.lane_flush()[0]
        now = DISK_INLINE_PAUSE_S
        assert disk.lane_flush()[0]
        disk.lane_flushed(LaneFlushed(1, False, 5))
        now = 1e9
        assert not disk.lane_flush()[0] and disk.statistics().flushes == 2
        with pytest.raises(DiskIOError):
            device.flush()
    finally:
        await disk.stop(TIMEOUT_S)
