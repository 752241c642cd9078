"""Every BlockDevice behaves as a bytearray: one conformance suite for files, the disk in memory and the wrappers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pydrbd import native
from pydrbd.errors import DiskError
from pydrbd.runtime.block_device import BlockDevice, FileDevice
from pydrbd.runtime.direct_io import DirectIo
from pydrbd.runtime.disk_faults import FaultyDevice
from pydrbd.runtime.disk_wrappers import MemoryDevice, RecordingDevice, SlowDevice
from tests.runtime.disk_tools import assert_same, read_batch, write_batch

SIZE_BYTES = 32 * 1024

offsets = st.one_of(st.integers(0, SIZE_BYTES), st.integers(0, SIZE_BYTES // 512).map(lambda sector: sector * 512))
lengths = st.one_of(st.integers(0, 9000), st.integers(0, 16).map(lambda sectors: sectors * 512))
ranges = st.tuples(offsets, lengths).map(lambda pair: (pair[0], min(pair[1], SIZE_BYTES - pair[0])))
range_lists = st.lists(ranges, max_size=8)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("write_at"), ranges),
        st.tuples(st.just("read_at"), ranges),
        st.tuples(st.just("discard"), ranges),
        st.tuples(st.sampled_from(["zero", "unmap"]), ranges),
        st.tuples(st.just("flush"), st.none()),
        st.tuples(st.just("write_records"), range_lists),
        st.tuples(st.just("read_records"), range_lists),
    ),
    max_size=12,
)


class FileAs4k(FileDevice):
    """A file on a disk with blocks of 4 KiB, which most disks here have not."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "direct")
        self.logical_block_bytes = 4096
        self._direct = DirectIo(self._fd, 4096)
        self._zeroer._unit_bytes = 4096


def new_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.getbasetemp() / "model-disk"
    path.write_bytes(bytes(SIZE_BYTES))
    return str(path)


KINDS: dict[str, Callable[[str], BlockDevice]] = {
    "buffered file": lambda path: FileDevice(path, "buffered"),
    "direct file": lambda path: FileDevice(path, "direct"),
    "direct file, 4 KiB blocks": FileAs4k,
    "memory": lambda _path: MemoryDevice(SIZE_BYTES),
    "recording": lambda _path: RecordingDevice(MemoryDevice(SIZE_BYTES)),
    "slow": lambda _path: SlowDevice(MemoryDevice(SIZE_BYTES), lambda _access: None),
    "faulty": lambda _path: FaultyDevice(MemoryDevice(SIZE_BYTES)),
    "faulty, torn at 4 KiB": lambda _path: FaultyDevice(MemoryDevice(SIZE_BYTES), tear_bytes=4096),
}


@pytest.mark.parametrize("kind", KINDS)
@given(steps=operations, seed=st.binary(min_size=8, max_size=8))
@settings(max_examples=40)
def test_a_disk_is_a_bytearray(
    kind: str, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]], seed: bytes
) -> None:
    """Any sequence of operations, aligned or not, leaves what the same sequence leaves in memory, and reads it."""
    try:
        device = KINDS[kind](new_file(tmp_path_factory))
    except DiskError as error:
        pytest.skip(f"no direct I/O here: {error}")
    model = bytearray(SIZE_BYTES)
    try:
        for number, (name, what) in enumerate(steps):
            play(device, model, name, what, seed + bytes([number]))
        assert_same(device.read_at(0, SIZE_BYTES), model)
        device.flush()
        if isinstance(device, FileDevice):
            assert_same(Path(device.path).read_bytes(), model)
    finally:
        device.close()


def play(device: BlockDevice, model: bytearray, name: str, what: Any, seed: bytes) -> None:
    """One operation on the device and on the model."""
    if name == "flush":
        device.flush()
    elif name == "write_records":
        batch = write_batch([(offset, (seed * (length // 9 + 1))[:length]) for offset, length in what])
        # Overlapping members have no order; the device's users never send them together.
        mask = batch.all & ~native.records_overlap_self(batch, batch.all)
        assert device.write_records(batch, mask, 0) == (0, 0)
        for index, (offset, length) in enumerate(what):
            if mask >> index & 1:
                model[offset : offset + length] = (seed * (length // 9 + 1))[:length]
    elif name == "read_records":
        batch, views = read_batch(what)
        assert device.read_records(batch, batch.all, 0, batch.buffer) == (0, 0)
        for view, (offset, length) in zip(views, what, strict=True):
            assert_same(bytes(view), model[offset : offset + length])
    elif name == "read_at":
        offset, length = what
        assert_same(device.read_at(offset, length), model[offset : offset + length])
    else:
        offset, length = what
        data = (seed * (length // 9 + 1))[:length] if name == "write_at" else bytes(length)
        if name == "write_at":
            device.write_at(offset, data)
        elif name != "discard":
            device.write_zeroes(offset, length, may_unmap=name == "unmap")
        elif not device.discard(offset, length):
            return
        model[offset : offset + length] = data


def test_the_page_cache_and_direct_io_see_the_same_file(tmp_path: Path) -> None:
    """What was written through one is read through the other."""
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(SIZE_BYTES))
    for io in ("direct", "buffered", "direct"):
        try:
            device = FileDevice(str(path), io)  # type: ignore[arg-type]
        except DiskError as error:
            pytest.skip(f"no direct I/O here: {error}")
        assert_same(device.read_at(0, SIZE_BYTES), path.read_bytes())
        device.write_at(777, os.urandom(5000))
        device.close()
