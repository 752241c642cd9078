"""With direct I/O the disk is given all of a batch at once, and a thread comes in only where it is not done soon."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio

from pydrbd.errors import DiskError
from pydrbd.native import Batch
from pydrbd.runtime.block_device import FileDevice
from pydrbd.runtime.disk import DIRECT_INLINE_BYTES_MAX, Disk
from pydrbd.runtime.disk_ops import DiskOp, ReadBatch, WriteBatch
from pydrbd.runtime.disk_wrappers import MemoryDevice
from tests.runtime.disk_tools import assert_same, read_batch, write_batch

SIZE_BYTES = 4 * 1024 * 1024
TIMEOUT_S = 20


class LateJob:
    """What a disk is at work on until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.ends = 0

    def wait(self, _wait_us: int) -> bool:
        return self.let_go.is_set()

    def end(self) -> tuple[int, int]:
        assert self.let_go.wait(TIMEOUT_S)
        self.ends += 1
        return 0, 0


class LateDevice(MemoryDevice):
    """A disk that takes whole batches, and takes its time; its writes and reads go nowhere."""

    batch_bytes = SIZE_BYTES

    def __init__(self) -> None:
        super().__init__(SIZE_BYTES, is_direct=True)
        self.jobs: list[LateJob] = []

    def begin_records(self, *_words: object, is_write: bool) -> LateJob:
        self.jobs.append(LateJob())
        return self.jobs[-1]


def a_write(count: int = 4, length: int = 4096) -> WriteBatch:
    """Of so many blocks, each with another value, one left out between them."""
    batch = write_batch([(2 * index * length, bytes([index + 1]) * length) for index in range(count)])
    return WriteBatch(batch, batch.all)


@pytest.fixture
def file_device(tmp_path: Path) -> FileDevice:
    path = tmp_path / "disk"
    path.write_bytes(bytes(SIZE_BYTES))
    try:
        return FileDevice(str(path), "direct")
    except DiskError as error:
        pytest.skip(f"no direct I/O here: {error}")


async def test_a_batch_is_written_and_read_without_a_thread(
    file_device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are done when `submit` returns, however slow this machine is today, and byte for byte right."""
    if not file_device.batch_bytes:
        pytest.skip("the kernel takes no batches here")
    monkeypatch.setattr("pydrbd.runtime.disk._DIRECT_SLOW_US", TIMEOUT_S * 1_000_000)
    disk = Disk(file_device, clock=lambda: 0.0)
    assert disk.submit(a_write(64), _never) and disk.submit(a_write(2, 65536), _never)
    batch, views = read_batch([(0, 65536), (65536, 65536), (131072, 65536)])
    read = ReadBatch(batch, batch.all, batch.buffer)
    assert disk.submit(read, _never) and read.ok
    assert [bytes(view) for view in views] == [b"\1" * 65536, expected(65536, 131072), b"\2" * 65536]
    assert disk.statistics().inline_ops == 3
    assert not disk.submit(a_write(2, DIRECT_INLINE_BYTES_MAX), lambda _op: None), "a long one is for the threads"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk.run)
        await disk.stop(TIMEOUT_S)


def expected(first: int, end: int) -> bytes:
    """What 64 blocks of a_write leave there."""
    return b"".join(
        bytes([at // 8192 + 1]) * 4096 if at % 8192 == 0 and at // 8192 < 64 else bytes(4096)
        for at in range(first, end, 4096)
    )


def _never(_op: DiskOp) -> None:
    raise AssertionError("it is done already")


async def test_a_late_batch_is_waited_for_by_a_thread() -> None:
    """It ends once, when the disk has done with it; until then no other one may make us wait, too."""
    device, done = LateDevice(), []
    changed = trio.Event()
    disk = Disk(device, clock=iter(range(0, 1000, 10)).__next__)  # no pause is on when the next one comes

    def on_done(op: DiskOp) -> None:
        done.append(op)
        changed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk.run)
        late = a_write()
        assert not disk.submit(late, on_done) and len(device.jobs) == 1
        other = a_write()
        assert not disk.submit(other, on_done) and len(device.jobs) == 1, "the threads have that one"
        with trio.fail_after(TIMEOUT_S):
            while not done:
                changed = trio.Event()
                await changed.wait()
            assert done == [other] and device.jobs[0].ends == 0
            device.jobs[0].let_go.set()
            while len(done) < 2:
                changed = trio.Event()
                await changed.wait()
        assert late.ok and device.jobs[0].ends == 1
        assert not disk.submit(a_write(), on_done) and len(device.jobs) == 2, "it may try again"
        device.jobs[1].let_go.set()
        await disk.stop(TIMEOUT_S)
    assert len(done) == 3 and device.jobs[1].ends == 1


async def test_a_disk_that_was_given_up_is_still_waited_for() -> None:
    """What is under way then fails, but not before the disk has let go of it."""
    device, done = LateDevice(), []
    async with trio.open_nursery() as nursery:
        disk = Disk(device)
        nursery.start_soon(disk.run)
        op = a_write()
        assert not disk.submit(op, done.append)
        disk.fail()
        assert not done
        device.jobs[0].let_go.set()
        assert await disk.stop(TIMEOUT_S) == []
    assert done == [op] and device.jobs[0].ends == 1


def test_batches_of_a_job_are_like_those_of_the_disk(file_device: FileDevice) -> None:
    """A job that is begun and ended leaves what write_records leaves; what is not whole blocks is no job."""
    if not file_device.batch_bytes:
        pytest.skip("the kernel takes no batches here")
    op = a_write(8, 8192)
    job = file_device.begin_records(op.batch, op.mask, 0, op.batch.buffer, is_write=True)
    assert job is not None and job.end() == (0, 0)
    found = file_device.read_at(0, 16 * 8192)
    file_device.write_at(0, bytes(16 * 8192))
    assert file_device.write_records(op.batch, op.mask, 0) == (0, 0)
    assert_same(found, file_device.read_at(0, 16 * 8192))
    odd: Batch = write_batch([(100, b"x" * 50), (4096, bytes(4096))])
    assert file_device.begin_records(odd, odd.all, 0, odd.buffer, is_write=True) is None
    file_device.close()
