"""The wrappers that tests of everything above rest on: they must record, fail and forget as they say."""

from __future__ import annotations

from errno import EIO, ENOSPC
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pydrbd.runtime.block_device import DiskIOError
from pydrbd.runtime.disk_faults import Fault, FaultyDevice
from pydrbd.runtime.disk_wrappers import Access, AccessKind, MemoryDevice, RecordingDevice, SlowDevice
from tests.runtime.disk_tools import read_batch, write_batch

SIZE_BYTES = 16 * 1024
SECTORS = SIZE_BYTES // 512


def test_the_recorder_tells_durable_from_pending() -> None:
    """Durable: completed before a completed flush was submitted. Pending: everything else that was submitted."""
    device = RecordingDevice(MemoryDevice(SIZE_BYTES))
    device.write_at(0, b"a" * 512)
    before_flush = device.now
    device.flush()
    device.write_records(write_batch([(512, b"b" * 512), (1024, b"c" * 512)]), 0b11, 0)
    device.write_zeroes(0, 512, may_unmap=False)
    assert device.discard(512, 512)
    assert [(write.submitted, write.completed) for write in device.writes] == [
        (1, 2),
        (5, 6),
        (7, 8),
        (9, 10),
        (11, 12),
    ]
    assert device.durable_at(before_flush) == [] and device.pending_at(before_flush) == device.writes[:1]
    assert device.durable_at(4) == device.writes[:1] and device.pending_at(4) == []
    assert device.pending_at(7) == device.writes[1:3], "a write that runs is pending"
    assert device.writes[3].data == device.writes[4].data == bytes(512)


def test_a_write_during_a_flush_stays_pending() -> None:
    """It completed, but after the flush was submitted: the flush need not cover it."""

    def write_meanwhile(access: Access) -> None:
        if access.kind is AccessKind.FLUSH:
            device.write_at(512, b"late" * 128)

    device = RecordingDevice(SlowDevice(MemoryDevice(SIZE_BYTES), write_meanwhile))
    device.write_at(0, b"soon" * 128)
    device.flush()
    assert [write.offset_bytes for write in device.durable_at(device.now)] == [0]
    assert [write.offset_bytes for write in device.pending_at(device.now)] == [512]


def test_failed_writes_and_flushes_never_complete() -> None:
    """A failed write may have changed the disk: pending for ever. A failed flush covers nothing."""
    device = RecordingDevice(FaultyDevice.failing(MemoryDevice(SIZE_BYTES), AccessKind.FLUSH))
    device.write_at(0, b"x" * 512)
    with pytest.raises(DiskIOError):
        device.flush()
    assert device.durable_at(device.now) == [] and len(device.pending_at(device.now)) == 1
    device = RecordingDevice(FaultyDevice.failing(MemoryDevice(SIZE_BYTES), AccessKind.WRITE))
    with pytest.raises(DiskIOError):
        device.write_at(0, b"x" * 512)
    device.flush()
    assert device.durable_at(device.now) == [] and len(device.pending_at(device.now)) == 1


def test_faults_are_chosen_by_kind_place_and_count() -> None:
    """The first fault that matches counts; it is used up after `times`."""
    device = FaultyDevice(MemoryDevice(SIZE_BYTES))
    device.faults.append(Fault(lambda access: access.kind is AccessKind.READ and access.touches(512, 1024), times=1))
    device.faults.append(Fault(lambda access: access.kind is AccessKind.WRITE, ENOSPC))
    batch, _ = read_batch([(0, 512), (512, 512), (1024, 512)])
    assert device.read_records(batch, 0b111, 0, batch.buffer) == (0b010, EIO)
    assert device.read_records(batch, 0b111, 0, batch.buffer) == (0, 0)
    assert device.write_records(write_batch([(0, b"x" * 512)]), 1, 0) == (1, ENOSPC)
    assert device.fault_count == 2
    assert device.read_at(0, 512) == bytes(512)


def test_a_torn_write_has_done_a_part() -> None:
    """The error comes, and the first sectors are there all the same."""
    device = FaultyDevice(MemoryDevice(SIZE_BYTES))
    device.faults.append(Fault(lambda access: access.kind is AccessKind.WRITE, times=1, torn_bytes=1024))
    with pytest.raises(DiskIOError):
        device.write_at(512, b"x" * 2048)
    assert device.read_at(0, 4096) == bytes(512) + b"x" * 1024 + bytes(2560)


def test_after_a_failed_flush_the_writes_are_lost_though_the_next_one_succeeds() -> None:
    """As Linux does it: the cache shows them, the second flush succeeds, the power failure shows the truth."""
    memory = MemoryDevice(SIZE_BYTES)
    device = FaultyDevice(memory)
    device.faults.append(Fault(lambda access: access.kind is AccessKind.FLUSH, times=1))
    device.write_at(0, b"x" * 1024)
    with pytest.raises(DiskIOError):
        device.flush()
    device.write_at(512, b"y" * 512)
    device.flush()
    assert device.read_at(0, 1024) == b"x" * 512 + b"y" * 512
    assert device.unflushed_bytes == 512
    device.crash(Random(0))
    with pytest.raises(DiskIOError, match="no power"):
        device.read_at(0, 512)
    device.power_on()
    assert device.read_at(0, 1024) == bytes(512) + b"y" * 512


writes = st.tuples(st.integers(0, SIZE_BYTES - 1), st.integers(1, 3000))
steps = st.lists(st.one_of(writes, st.just("flush")), max_size=20)


@given(steps=steps, seed=st.integers(0, 2**32), tear_sectors=st.sampled_from([1, 8]))
@settings(max_examples=150)
def test_a_crash_leaves_in_each_sector_a_value_it_had_since_the_last_flush(
    steps: list[tuple[int, int] | str], seed: int, tear_sectors: int
) -> None:
    """Nothing flushed is lost, nothing is invented, and nothing is torn below the unit."""
    tear_bytes = 512 * tear_sectors
    memory = MemoryDevice(SIZE_BYTES)
    device = FaultyDevice(memory, tear_bytes=tear_bytes)
    units = range(0, SIZE_BYTES, tear_bytes)
    possible = {at: {bytes(tear_bytes)} for at in units}
    for number, step in enumerate(steps, start=1):
        if isinstance(step, str):
            device.flush()
            possible = {at: {device.read_at(at, tear_bytes)} for at in units}
            continue
        offset, length = step
        device.write_at(offset, bytes([number]) * min(length, SIZE_BYTES - offset))
        for at in units:
            possible[at].add(device.read_at(at, tear_bytes))
    device.crash(Random(seed))
    device.power_on()
    assert all(device.read_at(at, tear_bytes) in possible[at] for at in units)
    assert memory.read_at(0, SIZE_BYTES) == device.read_at(0, SIZE_BYTES)


def test_a_crash_can_lose_tear_and_keep() -> None:
    """Over some seeds every outcome for two overlapping writes turns up: none, first, second, and mixtures."""
    seen = set()
    for seed in range(200):
        device = FaultyDevice(MemoryDevice(SIZE_BYTES))
        device.write_at(0, b"1" * 1024)
        device.write_at(0, b"2" * 1024)
        device.crash(Random(seed))
        device.power_on()
        seen.add((device.read_at(0, 1), device.read_at(512, 1)))
    assert seen == {(one, other) for one in (b"\0", b"1", b"2") for other in (b"\0", b"1", b"2")}
